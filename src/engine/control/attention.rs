//! All that needs attention, asked of the dashboard of this host.

use futures::FutureExt as _;

use super::server::{Answer, Server, json, now};
use lattice_protocol::{attention::MarkAttention, control::types::Ack, history::Origin};

/// The refusal of a host without a dashboard.
const NO_DASHBOARD: &str =
    "this host has no dashboard, which knows what needs attention; ask another host";

impl Server {
    pub(super) fn probe_attention(&self) -> Answer {
        match self.parts.context.attention.get() {
            Some(dashboard) => {
                let report = dashboard.report();
                async move { json(&report.await) }.boxed()
            }
            None => now(&Ack::rejected(NO_DASHBOARD)),
        }
    }

    pub(super) fn mark_attention(&self, mark: MarkAttention, origin: Option<&str>) -> Answer {
        let by = origin.map(Origin::read).unwrap_or_default().words();
        match self.parts.context.attention.get() {
            Some(dashboard) => {
                let noted = dashboard.mark(mark, by);
                async move {
                    json(&match noted.await {
                        Ok(()) => Ack::accepted(),
                        Err(error) => Ack::rejected(error),
                    })
                }
                .boxed()
            }
            None => now(&Ack::rejected(NO_DASHBOARD)),
        }
    }
}

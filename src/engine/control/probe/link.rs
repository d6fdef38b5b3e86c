//! Whether a provider of this host has taken a link on, or let it go: `probe.{host}.link`.
//!
//! The acknowledgement of a link says that its definition is stored. The client that put it wants
//! to know the outcome, which only the provider's host knows: for a built-in provider it is
//! certain, for a process only that the link is sent to it.

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::time::{Instant, sleep};

use crate::{
    control::server::{Answer, Server, json},
    providers::builtin,
    router::LinkStatus,
};
use lattice_protocol::control::probe::link::{Answered, Request, State};

/// How long an answer waits for the provider. The client asks again.
const PATIENCE: Duration = Duration::from_millis(1200);
/// How often the state of the link is checked.
const LOOK: Duration = Duration::from_millis(20);

impl Server {
    pub(in crate::control) fn probe_link(self: &Arc<Self>, request: Request) -> Answer {
        let server = Arc::clone(self);
        async move { json(&server.settled(&request).await) }.boxed()
    }

    /// Returns the state of a link as soon as it is not pending, or when the time is over.
    async fn settled(&self, request: &Request) -> Answered {
        let until = Instant::now() + PATIENCE;
        loop {
            let answered = self.link_state(request);
            if answered.state != State::Pending || Instant::now() >= until {
                return answered;
            }
            sleep(LOOK).await;
        }
    }

    fn link_state(&self, Request { link, is_deleted }: &Request) -> Answered {
        let runs = self.parts.providers.running().iter().any(|provider| {
            provider.id.as_str() == link.provider_id
                && provider.link_name.as_str() == link.link_name
        });
        let spec = builtin::by_key(&link.provider_id);
        match spec {
            _ if !runs => Answered { state: State::Absent, error: String::new() },
            None => Answered { state: State::Untold, error: String::new() },
            Some(spec) if spec.known.contract_id != link.contract_id => {
                let why =
                    format!("it fulfils {}, not {}", spec.known.contract_id, link.contract_id);
                answered((!is_deleted).then_some(LinkStatus::Refused(why)), *is_deleted)
            }
            Some(_) => answered(self.parts.router.link_status(link), *is_deleted),
        }
    }
}

fn answered(status: Option<LinkStatus>, is_deleted: bool) -> Answered {
    let (state, error) = match status {
        None if is_deleted => (State::Done, String::new()),
        _ if is_deleted => (State::Pending, String::new()),
        Some(LinkStatus::Up) => (State::Done, String::new()),
        Some(LinkStatus::Refused(error)) => (State::Refused, error),
        Some(LinkStatus::Pending) | None => (State::Pending, String::new()),
    };
    Answered { state, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_done_when_its_provider_has_it_and_a_deleted_one_when_it_has_let_it_go() {
        let refused = || Some(LinkStatus::Refused("why".into()));
        for (status, is_deleted, state) in [
            (Some(LinkStatus::Up), false, State::Done),
            (Some(LinkStatus::Pending), false, State::Pending),
            (None, false, State::Pending),
            (refused(), false, State::Refused),
            (None, true, State::Done),
            (Some(LinkStatus::Up), true, State::Pending),
            (refused(), true, State::Pending),
        ] {
            let error = if state == State::Refused { "why" } else { "" };
            assert_eq!(answered(status, is_deleted), Answered { state, error: error.into() });
        }
    }
}

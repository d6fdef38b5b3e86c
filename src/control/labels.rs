//! Labels of this host, changed while it runs (lattice protocol, section 3.16).

use bytes::Bytes;
use tracing::info;

use super::{
    server::{Answer, Server, now, parse},
    types::{Ack, Label},
};

impl Server {
    pub(super) fn put_label(&self, payload: &Bytes) -> Answer {
        self.change_label(payload, true)
    }

    pub(super) fn delete_label(&self, payload: &Bytes) -> Answer {
        self.change_label(payload, false)
    }

    fn change_label(&self, payload: &Bytes, set: bool) -> Answer {
        let label: Label = match parse("label", payload) {
            Ok(label) => label,
            Err(answer) => return answer,
        };
        if label.key.is_empty() {
            return now(&Ack::rejected("label request without a key"));
        }
        self.parts.state.set_label(&label.key, set.then_some(label.value.as_str()));
        info!(key = %label.key, set, "label changed");
        // There is no event of it; those who show labels see them in heartbeats.
        self.heartbeat();
        now(&Ack::accepted())
    }
}

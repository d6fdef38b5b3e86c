//! Labels of this host, changed while it runs (lattice protocol, section 3.16).

use tracing::info;

use super::server::{Answer, Server, now};
use lattice_base::config::labels::{LabelError, check, check_key};
use lattice_protocol::control::{
    request::{DeleteLabel, PutLabel},
    types::Ack,
};

/// The part of a message that all labels together may take, one of so many: pings, inventories and
/// heartbeats have them.
const LABELS_PART: usize = 8;

/// Returns how many bytes all labels may have together, with messages of this size.
pub(crate) fn bytes_max(payload_max: usize) -> usize {
    payload_max / LABELS_PART
}

impl Server {
    pub(super) fn put_label(&self, PutLabel { key, value }: PutLabel) -> Answer {
        let bytes_max = bytes_max(self.payload_max());
        let changed = check(&key, &value)
            .and_then(|()| self.parts.context.state.put_label(&key, &value, bytes_max));
        self.label_changed(&key, changed)
    }

    pub(super) fn delete_label(&self, DeleteLabel { key, .. }: DeleteLabel) -> Answer {
        let changed = check_key(&key).map(|()| self.parts.context.state.remove_label(&key));
        self.label_changed(&key, changed)
    }

    fn label_changed(&self, key: &str, changed: Result<(), LabelError>) -> Answer {
        if changed.is_ok() {
            info!(%key, "label changed");
            // There is no event of it; those who show labels see them in heartbeats.
            self.heartbeat_soon();
        }
        now(&Ack::from(changed))
    }
}

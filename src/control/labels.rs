//! Labels of this host, changed while it runs (lattice protocol, section 3.16).

use bytes::Bytes;
use tracing::info;

use super::{
    server::{Answer, Server, now, parse},
    types::{Ack, Label},
};
use crate::config::labels::{LabelError, check, check_key};

/// The part of a message that all labels together may take, one of so many: pings, inventories and heartbeats have them.
const LABELS_PART: usize = 8;

impl Server {
    pub(super) fn put_label(&self, payload: &Bytes) -> Answer {
        self.change_label(payload, |label| {
            check(&label.key, &label.value)?;
            self.parts.state.put_label(&label.key, &label.value, self.payload_max() / LABELS_PART)
        })
    }

    pub(super) fn delete_label(&self, payload: &Bytes) -> Answer {
        self.change_label(payload, |label| {
            check_key(&label.key)?;
            self.parts.state.remove_label(&label.key);
            Ok(())
        })
    }

    fn change_label(&self, payload: &Bytes, change: impl FnOnce(&Label) -> Result<(), LabelError>) -> Answer {
        let label: Label = match parse("label", payload) {
            Ok(label) => label,
            Err(answer) => return answer,
        };
        let changed = change(&label);
        if changed.is_ok() {
            info!(key = %label.key, "label changed");
            // There is no event of it; those who show labels see them in heartbeats.
            self.heartbeat_soon();
        }
        now(&Ack::from(changed))
    }
}

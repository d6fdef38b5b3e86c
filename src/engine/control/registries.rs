//! Takes over credentials of image registries, which go to all hosts of the lattice (lattice
//! protocol, section 3.15). [`lattice_base::registry::credentials`] keeps them.

use std::collections::BTreeMap;

use bytes::Bytes;
use tracing::info;

use super::server::{Answer, Server, now};
use lattice_base::registry::credentials::Credential;
use lattice_protocol::control::types::Ack;

impl Server {
    pub(super) fn put_registries(&self, payload: &Bytes) -> Answer {
        // Not what the reader says: it would quote what it cannot read, which may be a password.
        let Ok(entries) = serde_json::from_slice::<BTreeMap<String, Credential>>(payload) else {
            return now(&Ack::rejected(
                "malformed registry credentials request: it takes an object of registries, each with username and password, \
                 or with token",
            ));
        };
        let added = self.parts.registries.add(entries);
        if let Ok(registries) = &added {
            info!(?registries, "registry credentials taken over");
        }
        now(&Ack::from(added))
    }
}

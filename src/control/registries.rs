//! Takes over credentials of image registries, which go to all hosts of the lattice (lattice protocol, section 3.15).
//! [`crate::registry::credentials`] keeps them.

use std::collections::BTreeMap;

use bytes::Bytes;
use tracing::info;

use super::{
    server::{Answer, Server, now, parse},
    types::Ack,
};
use crate::registry::credentials::Credential;

impl Server {
    pub(super) fn put_registries(&self, payload: &Bytes) -> Answer {
        let entries: BTreeMap<String, Credential> = match parse("registry credentials", payload) {
            Ok(entries) => entries,
            Err(answer) => return answer,
        };
        let registries = self.parts.registries.add(entries);
        info!(?registries, "registry credentials taken over");
        now(&Ack::accepted())
    }
}

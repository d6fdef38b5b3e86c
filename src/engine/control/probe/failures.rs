//! The last calls of this host that failed: `probe.{host}.failures`.

use crate::control::server::{Answer, Server, now};
use lattice_protocol::control::probe::failures::{Ask, Failures};

/// One answer may take the server's limit divided by this.
const PART_OF_PAYLOAD: usize = 2;

impl Server {
    pub(in crate::control) fn probe_failures(&self, ask: &Ask) -> Answer {
        let bytes_max = self.payload_max() / PART_OF_PAYLOAD;
        now(&Failures {
            host_id: self.parts.context.host_id.to_string(),
            failures: self.parts.router.failures().find(ask, bytes_max),
        })
    }
}

//! The hosts that this one has lost: `probe.{host}.lost`, and `cmd.{host}.forget`, which takes one
//! off the list.

use crate::control::{
    server::{Answer, Server, now},
    state::json_bytes,
};
use lattice_protocol::control::{
    probe::lost::{Forget, Lost, LostHost},
    types::Ack,
};

/// One answer may take the server's limit divided by this.
const PART_OF_PAYLOAD: usize = 2;

impl Server {
    pub(in crate::control) fn probe_lost(&self) -> Answer {
        let hosts = self.parts.context.peers.lost();
        now(&Lost { hosts: fitting(hosts, self.payload_max() / PART_OF_PAYLOAD) })
    }

    /// Forgets a lost host. One that is not on the list is as good as forgotten.
    pub(in crate::control) fn forget_host(&self, ask: &Forget) -> Answer {
        self.parts.context.peers.forget_lost(&ask.lost_host_id);
        now(&Ack::accepted())
    }
}

/// Returns the hosts that one message has room for, those lost last first. A host whose inventory
/// is too large is told without it.
fn fitting(hosts: Vec<LostHost>, bytes_max: usize) -> Vec<LostHost> {
    let mut left = bytes_max;
    let mut told = Vec::new();
    for mut host in hosts {
        if json_bytes(&host) > left {
            host.inventory.actors.clear();
            host.inventory.providers.clear();
            // The memory of others counts.
            host.told_ms = 0;
        }
        let Some(rest) = left.checked_sub(json_bytes(&host)) else { break };
        left = rest;
        told.push(host);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::control::types::{Inventory, InventoryActor};

    #[test]
    fn a_host_that_does_not_fit_is_told_without_what_it_ran() {
        let host = |id: &str, actors: usize| LostHost {
            id: id.into(),
            lost_ms: 1,
            inventory: Inventory {
                actors: vec![InventoryActor::default(); actors],
                ..Inventory::default()
            },
            told_ms: 1,
        };
        let (small, large) = (host("NA", 1), host("NB", 1000));
        let bytes_max = json_bytes(&small) * 2 + 100;
        let told = fitting(vec![small, large, host("NC", 0), host("ND", 0)], bytes_max);
        let told: Vec<_> = told
            .iter()
            .map(|host| (&*host.id, host.inventory.actors.len(), host.told_ms))
            .collect();
        assert_eq!(told[..2], [("NA", 1, 1), ("NB", 0, 0)]);
        assert!(told.len() < 4);
    }
}

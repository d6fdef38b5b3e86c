//! The hosts that this one has lost: `probe.{host}.lost`, and `cmd.{host}.forget`, which takes one
//! off the list.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    control::server::{Answer, Server, now},
    peers::LostHost,
};
use lattice_protocol::control::{probe::lost::Forget, types::Ack};

/// [`Lost`](lattice_protocol::control::probe::lost::Lost), with inventories that are JSON already.
#[derive(Serialize)]
struct Lost {
    hosts: Vec<LostHost>,
}

/// One answer may take the server's limit divided by this.
const PART_OF_PAYLOAD: usize = 2;
/// Bytes of a lost host beside its id and its inventory.
const ROW_BYTES: usize = 100;

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

/// Returns the hosts that one message has room for, the first ones before others. All are told
/// without what they ran before any is told with it.
fn fitting(hosts: Vec<LostHost>, bytes_max: usize) -> Vec<LostHost> {
    let mut left = bytes_max;
    let mut told = Vec::new();
    for mut host in hosts {
        let whole = std::mem::replace(&mut host.inventory, Arc::clone(&host.head));
        if let Some(rest) = left.checked_sub(bytes(&host)) {
            left = rest;
            told.push((host, whole));
        }
    }
    let complete = |(mut host, whole): (LostHost, Arc<RawValue>)| {
        let more = whole.get().len().saturating_sub(host.head.get().len());
        match left.checked_sub(more) {
            Some(rest) => (left, host.inventory) = (rest, whole),
            // The memory of others counts.
            None => host.told_ms = 0,
        }
        host
    };
    told.into_iter().map(complete).collect()
}

/// Bytes that a host takes in the answer, at most.
fn bytes(host: &LostHost) -> usize {
    ROW_BYTES + host.id.len() + host.inventory.get().len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::control::{
        probe::lost,
        types::{Inventory, InventoryActor},
    };
    use serde_json::value::to_raw_value;

    #[test]
    fn a_host_that_does_not_fit_is_told_without_what_it_ran() {
        let text = |actors: usize| {
            let actors = vec![InventoryActor::default(); actors];
            Arc::<RawValue>::from(
                to_raw_value(&Inventory { actors, ..Inventory::default() }).unwrap(),
            )
        };
        let host = |id: &str, actors: usize| LostHost {
            id: id.into(),
            lost_ms: 1,
            told_ms: 1,
            inventory: text(actors),
            head: text(0),
        };
        let (small, large) = (host("NA", 1), host("NB", 1000));
        let bytes_max = bytes(&small) * 2;
        let told = fitting(vec![small, large, host("NC", 0), host("ND", 0)], bytes_max);
        let told = serde_json::to_vec(&Lost { hosts: told }).unwrap();
        assert!(told.len() <= bytes_max);
        let told: lost::Lost = serde_json::from_slice(&told).unwrap();
        let told: Vec<_> = told
            .hosts
            .iter()
            .map(|host| (&*host.id, host.inventory.actors.len(), host.told_ms))
            .collect();
        assert_eq!(told[..2], [("NA", 1, 1), ("NB", 0, 0)]);
        assert!(told.len() < 4);
        // Three heads fill it.
        let hosts = vec![host("NA", 5), host("NB", 5), host("NC", 5)];
        let told = fitting(hosts, 3 * bytes(&host("NA", 0)));
        assert_eq!(told.len(), 3, "no inventory takes the room of a host");
    }
}

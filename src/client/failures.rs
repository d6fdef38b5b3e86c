//! The last calls that failed, from all hosts.

use super::lattice::{Lattice, ours};
use lattice_protocol::control::{
    probe::failures::{Ask, FailedCall, Failures},
    types::HostReply,
};

/// A failed call, and the host on which it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub host_id: String,
    pub call: FailedCall,
}

/// Asks hosts for their last failed calls; the newest come first. Hosts that do not know the
/// question, or do not answer, have none.
pub async fn last(lattice: &Lattice, hosts: &[HostReply], ask: &Ask) -> Vec<Failure> {
    of_hosts(lattice, ours(hosts), ask).await
}

/// The same of hosts by their ids.
pub async fn of_hosts(lattice: &Lattice, ids: Vec<String>, ask: &Ask) -> Vec<Failure> {
    let answers = lattice.ask_each(ids, ask).await;
    let told = answers.into_iter().filter_map(|(id, told)| Some((id, told.ok()?)));
    let all = told.flat_map(|(host_id, Failures { failures, .. })| {
        failures.into_iter().map(move |call| Failure { host_id: host_id.clone(), call })
    });
    let mut all: Vec<Failure> = all.collect();
    all.sort_by(|a, b| (b.call.at_ms, &a.host_id).cmp(&(a.call.at_ms, &b.host_id)));
    if let Some(limit) = ask.limit {
        all.truncate(limit);
    }
    all
}

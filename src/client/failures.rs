//! The last calls that failed, from all hosts.

use futures::{StreamExt as _, stream};

use super::lattice::Lattice;
use lattice_protocol::control::{
    probe::failures::{Ask, FailedCall, Failures},
    types::HostReply,
};

/// Hosts that are asked at a time.
const ASKED_MAX: usize = 256;

/// A failed call, and the host on which it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub host_id: String,
    pub call: FailedCall,
}

/// Asks hosts for their last failed calls; the newest come first. Hosts that do not know the
/// question, or do not answer, have none.
pub async fn last(lattice: &Lattice, hosts: &[HostReply], ask: &Ask) -> Vec<Failure> {
    let ids: Vec<String> =
        hosts.iter().filter(|host| host.is_ours()).map(|host| host.id.clone()).collect();
    of_hosts(lattice, ids, ask).await
}

/// The same of hosts by their ids.
pub async fn of_hosts(lattice: &Lattice, ids: Vec<String>, ask: &Ask) -> Vec<Failure> {
    let asked = stream::iter(ids).map(|id| async move {
        let told = lattice.request_of(&id, ask).await;
        (id, told)
    });
    let answers: Vec<_> = asked.buffer_unordered(ASKED_MAX).collect().await;
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

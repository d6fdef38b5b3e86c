//! The counts that hosts keep of their calls.

use futures::{StreamExt as _, stream};

use super::lattice::{ASKED_MAX, Lattice, RequestError, ours};
use lattice_protocol::control::{
    probe::calls::{Ask, Look},
    types::HostReply,
};

/// More answers than a host can have to give: there are bounds on what it counts apart.
const PAGES_MAX: usize = 1000;

/// Asks hosts for their numbers, not of each operation; hosts that do not tell them are left out.
pub async fn looks(lattice: &Lattice, hosts: &[HostReply]) -> Vec<Look> {
    let asked =
        stream::iter(ours(hosts)).map(|id| async move { look(lattice, &id, false).await.ok() });
    asked.buffer_unordered(ASKED_MAX).filter_map(async |look| look).collect().await
}

/// Asks a host for all its numbers, of each operation or of all together. Hosts of earlier years
/// have nobody who responds.
pub async fn look(lattice: &Lattice, host: &str, operations: bool) -> Result<Look, RequestError> {
    let mut ask = Ask { operations, edges: true, after: None };
    let mut all = lattice.request_of(host, &ask).await?;
    for _ in 0..PAGES_MAX {
        ask.after = all.next.take();
        if ask.after.is_none() {
            break;
        }
        let more = lattice.request_of(host, &ask).await?;
        all.served.extend(more.served);
        all.called.extend(more.called);
        all.edges.extend(more.edges);
        all.next = more.next;
    }
    Ok(all)
}

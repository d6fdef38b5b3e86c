//! The counts that hosts keep of their calls.

use super::lattice::{Lattice, RequestError};
use lattice_protocol::control::probe::calls::{Ask, Look};

/// More answers than a host can have to give: there are bounds on what it counts apart.
const PAGES_MAX: usize = 1000;

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

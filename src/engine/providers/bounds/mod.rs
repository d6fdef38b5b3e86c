//! Everything a host keeps from every actor and every link of its built-in providers, whatever a
//! link says.
//!
//! A built-in provider acts with the host's own rights: its NATS permissions, its place in the
//! network, its files. An actor, or a client that sets a link, may have none of these, so they end
//! here:
//!
//! * subjects that command somebody ([`Reserved`]), for messages on the host's connection;
//! * the sockets of the host itself and of its NATS servers ([`OwnSockets`]): there the host would
//!   be operated in its own name;
//! * paths ([`LinkPaths`]): which files link values may name, and where objects may be written.

mod paths;
mod sockets;

/// The header by which an actor's request to this machine is known, whatever way it took.
/// Dashboards refuse such requests, also those of other hosts on this machine, whose sockets are
/// not known here.
pub const FROM_ACTOR: &str = "lattice-from-actor";

pub use paths::LinkPaths;
pub use sockets::{OwnSockets, embedded_v4};

use lattice_base::lattice::reserved::Reserved;

/// The bounds of one host. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Bounds {
    pub subjects: Reserved,
    pub sockets: OwnSockets,
    pub paths: LinkPaths,
}

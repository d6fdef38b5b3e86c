//! The metadata of the lattice: which actor is linked to which provider, who is who, and which
//! image reference led to which actor or provider.
//!
//! * [`table`](lattice_protocol::links::table) is the pure form: a snapshot with its lookups, and
//!   the JSON forms of its entries.
//! * [`live`] keeps the snapshot equal to the metadata bucket and tells what changed.
//! * [`contest`](lattice_protocol::links::contest) describes how the claims of two actors to one
//!   call alias meet.
//! * [`unwritten`] has the entries that this host announced and the bucket could not take yet.

pub mod live;
pub mod unwritten;

pub use live::Live;

//! What the lattice knows: which actor is linked to which provider, who is who, and which image led to whom.
//!
//! * [`table`] is the pure form: a snapshot with its lookups, and the JSON forms of its entries.
//! * [`live`] keeps the snapshot equal to the metadata bucket and tells what changed.
//! * [`contest`] words how the claims of two actors to one call alias meet.
//! * [`unwritten`] has what this host announced and the bucket could not take yet.

pub mod contest;
pub mod live;
pub mod table;
pub mod unwritten;

pub use contest::{Claimant, Contest};
pub use live::Live;
pub use table::{Claims, LinkDefinition, Table, link_option};

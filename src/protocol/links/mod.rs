//! The knowledge of the lattice, in its pure form.
//!
//! * [`table`] is a snapshot with its lookups, and the JSON forms of its entries.
//! * [`contest`] words how the claims of two actors to one call alias meet.

pub mod contest;
pub mod table;

pub use contest::{Claimant, Contest};
pub use table::{Claims, LinkDefinition, Table, link_option};

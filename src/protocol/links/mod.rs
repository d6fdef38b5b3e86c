//! The knowledge of the lattice, in its pure form.
//!
//! * [`table`] is a snapshot with its lookups, and the JSON forms of its entries.
//! * [`contest`] words how the claims of two actors to one call alias meet.
//! * [`standing`] says how a link stands.
//! * [`change`] is the last change of a link, which can be undone.

pub mod change;
pub mod contest;
pub mod standing;
pub mod table;

pub use change::LinkChange;
pub use contest::{Claimant, Contest};
pub use standing::{Ends, Standing};
pub use table::{Claims, LinkDefinition, Table, link_option};

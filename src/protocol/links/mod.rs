//! The knowledge of the lattice, in its pure form.
//!
//! * [`table`] is a snapshot with its lookups, and the JSON forms of its entries.
//! * [`definition`] is a link.
//! * [`shards`] is the map it is made of, of which copies cost next to nothing.
//! * [`claims`] is an entry about an actor or a provider.
//! * [`contest`] words how the claims of two actors to one call alias meet.
//! * [`standing`] says how a link stands.
//! * [`change`] is the last change of a link, which can be undone.

pub mod change;
pub mod claims;
pub mod contest;
pub mod definition;
pub mod shards;
pub mod standing;
pub mod table;

pub use change::LinkChange;
pub use claims::Claims;
pub use contest::{Claimant, Contest};
pub use definition::{LinkDefinition, link_option, other_values, put_command};
pub use shards::Shards;
pub use standing::{Ends, Standing};
pub use table::Table;

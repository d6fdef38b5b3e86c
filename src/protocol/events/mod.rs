//! The events of hosts, as data (lattice protocol, section 7).
//!
//! * [`event`] has one variant per event and knows its name and data; [`read`] makes the same out
//!   of what hosts of all years send.
//! * [`progress`] is a step of a start; that is no event.

pub mod event;
pub mod progress;
pub mod read;

pub use event::Event;
pub use progress::Step;
pub use read::Received;

//! The events that hosts publish about themselves: CloudEvents, in the superset of fields that
//! clients of all eras need (lattice protocol, section 7).
//!
//! * [`event`](lattice_protocol::events::event) has one variant per event and knows its name and
//!   data.
//! * [`read`](lattice_protocol::events::read) makes the same out of what hosts of all years send.
//! * [`publisher`] wraps it in the envelope and publishes it on both subjects.
//! * [`troubles`] keeps the failures among them for those who come later.
//! * [`progress`] tells how starts get on; that is no event, and nobody has to listen.
//!
//! State first, event second: whoever publishes has already changed what the event announces.

pub mod progress;
pub mod publisher;
pub mod troubles;

pub use progress::{Stage, Steps};
pub use publisher::Publisher;

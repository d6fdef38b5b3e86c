//! The control interface, as it is on the wire (lattice protocol, section 3).
//!
//! * [`request`] has the requests, read leniently, each with its subject and its reply; [`types`]
//!   the replies, written for the strictest client.
//! * [`bounds`] says how much a request may ask for, [`answer`] how much memory an answer may take.
//! * [`probe`] are the questions that only hosts like this one answer.

pub mod answer;
pub mod bounds;
pub mod probe;
pub mod request;
pub mod types;

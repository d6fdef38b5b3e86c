//! Questions that only hosts like this one answer: what they count, log, decide, and know of
//! themselves.
//!
//! * [`calls`], [`logs`], [`explain`], [`health`], [`link`]: one file for each
//!   [`Probe`](lattice_protocol::lattice::subject::Probe); [`pages`] answers two of them.

pub mod calls;
pub mod explain;
pub mod health;
pub mod link;
pub mod logs;
pub mod pages;

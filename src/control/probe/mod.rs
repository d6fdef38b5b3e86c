//! Questions that only hosts like this one answer: what they count, log, decide, and know of themselves.
//!
//! * [`calls`], [`logs`], [`explain`], [`health`]: one file for each [`Probe`](crate::lattice::subject::Probe).

pub mod calls;
pub mod explain;
pub mod health;
pub mod logs;

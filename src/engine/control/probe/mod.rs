//! Questions that only hosts like this one answer: what they count, log, decide, and know of
//! themselves.
//!
//! * [`calls`], [`failures`], [`logs`], [`explain`], [`health`], [`link`], [`lost`]: one file for
//!   each of them; [`pages`] answers two.

pub mod calls;
pub mod explain;
pub mod failures;
pub mod health;
pub mod link;
pub mod logs;
pub mod lost;
pub mod pages;

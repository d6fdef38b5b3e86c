//! Questions that only hosts like this one answer, and their answers: what they count, decide, and
//! know of themselves.

pub mod calls;
pub mod explain;
pub mod failures;
pub mod health;
pub mod link;
pub mod lost;
pub mod pages;

//! The steps of a start, for those who wait for it at a prompt.

use serde::{Deserialize, Serialize};

/// A step on the way to a start, told on
/// [`Subjects::progress`](crate::lattice::subject::Subjects::progress).
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Step {
    pub host_id: String,
    /// The reference that is started, as it was asked for.
    pub reference: String,
    /// `pull`, `verify`, `compile`, `unpack`, `start`.
    pub stage: String,
    /// How much of the stage is done, and of how much; 0 of 0 if that is not counted.
    pub bytes: u64,
    pub of: u64,
}

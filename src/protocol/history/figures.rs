//! The figures of a host for a minute.

use serde::{Deserialize, Serialize};

use crate::{meter::Tally, serde_null::null_as_default};

/// The time that one entry stands for, in milliseconds.
pub const MINUTE_MS: u64 = 60_000;

/// The calls of a minute that a host counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Minute {
    /// When the minute ended, in milliseconds since 1970; a multiple of [`MINUTE_MS`].
    pub end_ms: u64,
    /// How much of it the host counted, in milliseconds: less where it was started meanwhile.
    pub counted_ms: u64,
    /// Calls of what runs on the host. What was not called is not in it.
    #[serde(deserialize_with = "null_as_default")]
    pub served: Vec<Row>,
    /// Calls that left the host.
    #[serde(deserialize_with = "null_as_default")]
    pub called: Vec<Row>,
}

/// The calls of an actor, or of a provider under a link name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    #[serde(deserialize_with = "null_as_default")]
    pub id: String,
    /// Empty for actors.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub link_name: String,
    #[serde(flatten)]
    pub tally: Tally,
}

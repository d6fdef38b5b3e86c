//! Reading JSON of many years: clients and hosts wrote null where others left a member out.
//!
//! The crates `serde_with` and `serde_aux` have the same; a body of one line is no reason for
//! either.

use serde::{Deserialize, Deserializer};

/// Reads null like a missing member; for `#[serde(default, deserialize_with = "null_as_default")]`.
pub fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Whether a count is left out in what is written; for
/// `#[serde(skip_serializing_if = "is_zero")]`.
pub fn is_zero(count: &u64) -> bool {
    *count == 0
}

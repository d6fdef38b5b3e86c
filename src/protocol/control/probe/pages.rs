//! Link definitions and claims in pages: `probe.{host}.links` and `probe.{host}.claims`.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    control::request::HostRequest, lattice::control::Control, links::LinkDefinition,
    serde_null::null_as_default,
};

/// Asks for a page of link definitions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AskLinks(pub Ask);

impl HostRequest for AskLinks {
    type Reply = Page<LinkDefinition>;

    fn subject(host: String) -> Control {
        Control::ProbeLinks { host }
    }
}

/// Asks for a page of claims.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AskClaims(pub Ask);

impl HostRequest for AskClaims {
    type Reply = Page<Box<RawValue>>;

    fn subject(host: String) -> Control {
        Control::ProbeClaims { host }
    }
}

/// Says which page; nothing at all asks for the first one of all rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ask {
    /// Only the rows after this key.
    #[serde(deserialize_with = "null_as_default")]
    pub after: String,
    /// Links of this actor only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor_id: Option<String>,
}

/// Rows in the order of their keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Page<T> {
    pub rows: Vec<T>,
    /// The host knows what the lattice knows, and not only what it found before the bucket was out
    /// of reach.
    #[serde(default)]
    pub is_complete: bool,
    /// The host has not taken in all changes yet; a moment later it tells more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_behind: bool,
    /// There is more after this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Rows of this part that are too large for a message.
    #[serde(default)]
    pub left_out: usize,
}

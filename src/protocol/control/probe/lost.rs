//! The hosts that vanished without a goodbye, as a host that heard them remembers them:
//! `probe.{host}.lost`. They are remembered for [`KEPT_MS`] at most, or until somebody takes them
//! off the list with [`Forget`] (`cmd.{host}.forget`).

use serde::{Deserialize, Serialize};

use crate::{
    control::{
        request::HostRequest,
        types::{Ack, Inventory},
    },
    lattice::control::Control,
    serde_null::{is_zero, null_as_default},
};

/// How long a lost host is remembered, in milliseconds: a day.
pub const KEPT_MS: u64 = 24 * 3600 * 1000;

/// Asks a host which hosts it has lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {}

impl HostRequest for Ask {
    type Reply = Lost;

    fn subject(host: String) -> Control {
        Control::ProbeLost { host }
    }
}

/// The lost hosts that a host remembers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Lost {
    #[serde(deserialize_with = "null_as_default")]
    pub hosts: Vec<LostHost>,
}

/// A host that vanished without a goodbye.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LostHost {
    #[serde(deserialize_with = "null_as_default")]
    pub id: String,
    /// When it was missed, in milliseconds since 1970.
    pub lost_ms: u64,
    /// When it told what it ran, by the same clock; 0 where that is not known, or not all of it is
    /// told here.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_zero")]
    pub told_ms: u64,
    /// The last that was known of what it ran; empty if nobody had asked it.
    pub inventory: Inventory,
}

impl LostHost {
    /// Returns its name, or its id if that is all that is known.
    pub fn called(&self) -> &str {
        match self.inventory.friendly_name.as_str() {
            "" => &self.id,
            name => name,
        }
    }
}

/// Takes a lost host off a host's list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forget {
    /// The id of the lost host.
    #[serde(default, deserialize_with = "null_as_default")]
    pub lost_host_id: String,
}

impl HostRequest for Forget {
    type Reply = Ack;

    fn subject(host: String) -> Control {
        Control::ForgetHost { host }
    }
}

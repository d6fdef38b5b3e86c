//! The history of a lattice: what hosts keep of what happened, for hosts and clients that come
//! later.
//!
//! It lies in one stream of the lattice's JetStream domain, which is bounded in age and size and
//! drops what is oldest. A host writes under subjects of its own, one for each [`Kind`], at most
//! once a second: a [`Batch`] of entries, signed with the cluster key as entries of the desired
//! state are ([`Signed`](crate::desired::Signed)), with [`key`] as the key. A reader drops what no
//! host of its clusters signed, so somebody who may write to the stream, and has no such key, adds
//! nothing to the history.
//!
//! Neither link values nor secrets are in it: an event without its link values ([`compact`]), of a
//! command the members that can be no secrets ([`audit`]).
//!
//! Hosts and clients of earlier versions know nothing of the stream. Members are only added to what
//! is here; a reader passes over those that it does not know.

pub mod audit;
pub mod compact;
pub mod figures;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    journal::Line,
    serde_null::{is_zero, null_as_default},
};

pub use audit::{Audit, ORIGIN_HEADER, Origin};
pub use figures::Minute;

/// The beginning of the name of the stream; the lattice follows.
pub const STREAM: &str = "LATTICEHISTORY_";
/// The name of the event that tells of a lost host. Hosts do not publish it as an event: each that
/// noticed says it here, and readers count it once.
pub const HOST_LOST: &str = "host_lost";
/// The name of the event that tells that a lost host is heard again.
pub const HOST_BACK: &str = "host_back";

/// The member of the data of both that has the name of the host.
pub const FRIENDLY_NAME: &str = "friendly_name";

/// The names of events that every host tells of the same change: of a link.
pub const TOLD_BY_ALL: [&str; 2] = ["linkdef_set", "linkdef_deleted"];
/// Hosts hear of a change within this time of each other, in milliseconds.
pub const SAME_CHANGE_MS: u64 = 3_000;

/// Returns the name of the stream of a lattice.
pub fn stream(lattice: &str) -> String {
    format!("{STREAM}{lattice}")
}

/// Returns the beginning of the subjects of the stream. They are below `$KV`, which users of hosts
/// may write to anyway, though it is no bucket.
pub fn root(lattice: &str) -> String {
    format!("$KV.{STREAM}{lattice}")
}

/// Returns what is signed as the key of a batch, which is also the end of its subject.
pub fn key(kind: Kind, host_id: &str) -> String {
    format!("{}.{host_id}", kind.token())
}

/// A kind of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// [`Happened`].
    Events,
    /// [`Audit`].
    Audit,
    /// [`Minute`].
    Figures,
    /// [`Said`].
    Logs,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Events, Self::Audit, Self::Figures, Self::Logs];

    /// Returns its token in subjects.
    pub fn token(self) -> &'static str {
        match self {
            Self::Events => "EVENTS",
            Self::Audit => "AUDIT",
            Self::Figures => "FIGURES",
            Self::Logs => "LOGS",
        }
    }
}

/// Entries of one kind that a host wrote together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch<T> {
    pub host_id: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub host_name: String,
    /// When it was written, in milliseconds since 1970.
    pub at_ms: u64,
    /// Entries of any kind that the host left out since the batch before: more came than it keeps.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
    pub items: Vec<T>,
}

/// An event that a host published, or that it concluded ([`HOST_LOST`], [`HOST_BACK`]).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Happened {
    /// The id of the event on the wire.
    #[serde(default, deserialize_with = "null_as_default")]
    pub id: String,
    /// In milliseconds since 1970.
    pub at_ms: u64,
    /// The last token of its type: `actor_scaled` and so on.
    pub name: String,
    /// The host it is about.
    pub source: String,
    /// Its data, [compacted](compact).
    #[serde(default)]
    pub data: Value,
}

/// Lines that an actor or a provider said on a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// Public key of the actor or the provider.
    pub entity: String,
    /// Tells the numbers of one start of a host from those of the next.
    #[serde(default, deserialize_with = "null_as_default")]
    pub life: String,
    /// Lines before these that are not kept: more was said than is kept of a second.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
    pub lines: Vec<Line>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_they_are_written_on_the_wire() {
        assert_eq!(stream("default"), "LATTICEHISTORY_default");
        assert_eq!(root("default"), "$KV.LATTICEHISTORY_default");
        let keys = Kind::ALL.map(|kind| key(kind, "NABC"));
        assert_eq!(keys, ["EVENTS.NABC", "AUDIT.NABC", "FIGURES.NABC", "LOGS.NABC"]);
    }

    #[test]
    fn a_batch_is_read_back_and_a_newer_one_as_far_as_it_is_known() {
        let happened = Happened { at_ms: 5, name: "host_started".into(), ..Happened::default() };
        let batch = Batch {
            host_id: "N".into(),
            host_name: "calm".into(),
            at_ms: 7,
            left_out: 0,
            items: vec![happened],
        };
        let text = serde_json::to_string(&batch).unwrap();
        assert!(!text.contains("left_out"), "{text}");
        assert_eq!(serde_json::from_str::<Batch<Happened>>(&text).unwrap(), batch);
        let newer = r#"{"host_id":"N","host_name":null,"at_ms":7,"new":{},"items":
            [{"at_ms":1,"name":"a","source":"N","new":1}]}"#;
        let read: Batch<Happened> = serde_json::from_str(newer).unwrap();
        assert_eq!((read.items.len(), &*read.items[0].name, &*read.host_name), (1, "a", ""));
    }
}

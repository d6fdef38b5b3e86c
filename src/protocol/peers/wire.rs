//! The messages of hosts about themselves, as JSON, so that `nats sub` shows them.
//!
//! On `wasmbus.rpc.{lattice}.hosts` a host sends its [`Announcement`] to all: once in a while
//! without its offers (every second, or every [`Announcement::interval_ms`]), and at once when they
//! changed, with all of them or only with the [`Change`]. With a reply subject it asks for
//! confirmation: the peers that call it answer with their own [`Announcement`] once they have
//! applied this one. A first one (`hello`) is answered in a small lattice by all, with what they
//! offer; in a large one by a few, with the hosts that they know ([`Known`]). A host that is named
//! in [`Announcement::call`] says at once that it is there.
//!
//! A host that speaks to all less than once a second says every second on
//! `wasmbus.rpc.{lattice}.{host}-beat` that it is there: only those that watch it listen.
//!
//! On `wasmbus.rpc.{lattice}.{host}` a host answers the question [`ROSTER`] with everything it
//! offers, [`INVENTORY`] with what it runs as clients are told it, and any other with an
//! [`Announcement`] without offers.
//!
//! On the subject of a target below which a host adds its own key (`….{target}.{host}`) it takes
//! calls like those of the queue group; there, a message with the header [`ASK`] asks whether an
//! invocation is in work. An invocation there that has the header [`PIECES`] may be answered in
//! pieces, which a message with the headers [`NEXT`] and [`NUMBER`] asks for.
//!
//! Hosts of this make sign what they say ([`sealed`](super::sealed)), and prove calls, answers and
//! questions by the header [`SESSION`] ([`session`](super::session)). Other hosts take no notice of
//! either.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    control::bounds::NAME_BYTES_MAX,
    serde_null::{is_zero, null_as_default},
};

/// The question for everything a host offers.
pub const ROSTER: &[u8] = b"roster";
/// The question for what a host runs. Hosts of before answer it like any other.
pub const INVENTORY: &[u8] = b"inventory";
/// The header that asks for an invocation, by its id; the answer is [`IN_WORK`] or [`UNKNOWN`].
pub const ASK: &str = "Lattice-Ask";
/// The header of an invocation whose caller takes an answer in pieces; any value.
pub const PIECES: &str = "Lattice-Pieces";
/// The header that asks for a piece of the answer to an invocation, by its id.
pub const NEXT: &str = "Lattice-Next";
/// The number of that piece, from 0.
pub const NUMBER: &str = "Lattice-Number";
/// The header with which hosts that know each other prove whose a call, a question or an answer is.
pub const SESSION: &str = "Lattice-Session";
/// The header of a question whose answer has to have its value, a text that was never used before.
pub const NONCE: &str = "Lattice-Nonce";
/// The headers of messages that ask for a call, or for a piece of its answer, and are none
/// themselves.
pub const QUESTIONS: [&str; 2] = [ASK, NEXT];

/// The invocation is being worked on.
pub const IN_WORK: &[u8] = b"in work";
/// The invocation never came, or was answered before.
pub const UNKNOWN: &[u8] = b"unknown";
/// Targets a host names. More would not fit into a message; those beyond are reached through their
/// queue groups.
pub const TARGETS_MAX: usize = 8192;
/// Bytes of the name of a target: a key, a dot and a link name.
pub const TARGET_BYTES_MAX: usize = 56 + 1 + NAME_BYTES_MAX;

/// The name of all hosts in [`Announcement::call`].
pub const ALL: &str = "*";
/// Names in a call. A host that misses more calls them later.
pub const CALLED_MAX: usize = 64;

/// A message of a host about itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Announcement {
    #[serde(default, deserialize_with = "null_as_default")]
    pub host: String,
    /// Which of its starts it is in; any number that is another after the next start.
    #[serde(rename = "life", default, deserialize_with = "null_as_default")]
    pub incarnation: u64,
    /// Grows with each change of what it offers.
    #[serde(default, deserialize_with = "null_as_default")]
    pub roster: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offers: Option<Offers>,
    /// It has just come and knows nobody.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub hello: bool,
    /// It stops and takes no calls any more.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub goodbye: bool,
    /// Grows with each message of this start. Hosts that sign nothing do not count.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "is_zero")]
    pub count: u64,
    /// The key of its sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionKey>,
    /// The proof that it belongs to the lattice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<Certificate>,
    /// The value of [`NONCE`] in the question that this answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Where it is connected: the beginning of the id of its NATS server. Hosts of before do not
    /// tell it.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub at: String,
    /// Within how many milliseconds it speaks to all again; 0 is a second, as for hosts of before.
    #[serde(
        rename = "every",
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_zero"
    )]
    pub interval_ms: u64,
    /// A number that is another when it runs something else; told by those that speak seldom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<u32>,
    /// Hosts that are to say at once that they are there: by their ids, by the server they are
    /// connected to (as in `at`), or [`ALL`]. One that stays silent is lost.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub call: Vec<String>,
    /// Within how many milliseconds those answer that are called with [`ALL`]; 0 where nobody says.
    #[serde(
        rename = "within",
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_zero"
    )]
    pub within_ms: u64,
    /// A part of the hosts that are there, for one that has just come.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<Known>,
    /// The difference between two rosters, in place of the offers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
}

/// The key with which a host agrees on sessions.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct SessionKey {
    pub id: u64,
    /// The public key of X25519, in base64 for URLs. Missing in messages that only tell which key
    /// counts; the host tells the key to those who ask for its offers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// The statement of a cluster that a host belongs to a lattice; see [`sealed`](super::sealed).
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Certificate {
    /// The public key of the cluster.
    pub issuer: String,
    /// When it ends, in seconds since 1970.
    pub until: u64,
    /// The signature of Ed25519, in base64 for URLs.
    pub sig: String,
}

/// Another host, as one that knows it tells of it: its id, its start and its roster.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Known(pub String, pub u64, pub u64);

/// The difference between the roster of this number and that of the announcement.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Change {
    #[serde(default, deserialize_with = "null_as_default")]
    pub from: u64,
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "Offers::is_empty"
    )]
    pub added: Offers,
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "Offers::is_empty"
    )]
    pub removed: Offers,
}

/// The actors and providers that run on a host: actors by key, providers by key and link name with
/// a dot between.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Offers {
    /// Takes calls on a subject of its own.
    #[serde(default, deserialize_with = "null_as_default")]
    pub direct: Vec<String>,
    /// Takes calls through the queue group only.
    #[serde(default, deserialize_with = "null_as_default")]
    pub group: Vec<String>,
}

impl Offers {
    /// Returns whether it names no target.
    pub fn is_empty(&self) -> bool {
        self.direct.is_empty() && self.group.is_empty()
    }

    /// Returns the number of targets.
    pub fn len(&self) -> usize {
        self.direct.len() + self.group.len()
    }
}

impl Announcement {
    /// Encodes the message. Offers that a server with this `max_payload` does not take are left
    /// out: calls reach those targets through their queue groups.
    pub fn encode(&self, max_payload: usize) -> Bytes {
        // A structure of texts and numbers.
        let encoded = serde_json::to_vec(self).expect("a word is always encodable");
        match &self.offers {
            Some(offers) if encoded.len() > max_payload && !offers.is_empty() => {
                let half = |names: &[String]| names[..names.len() / 2].to_vec();
                let offers = Offers { direct: half(&offers.direct), group: half(&offers.group) };
                Self { offers: Some(offers), ..self.clone() }.encode(max_payload)
            }
            _ => encoded.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_fits_into_a_message_of_any_server() {
        let names: Vec<String> = (0..1000).map(|number| format!("M{number:055}")).collect();
        let offers = Some(Offers { direct: names.clone(), group: names[..3].to_vec() });
        let announcement = Announcement { host: "NABC".into(), offers, ..Announcement::default() };
        assert_eq!(
            serde_json::from_slice::<Announcement>(&announcement.encode(1 << 20)).unwrap(),
            announcement
        );
        let encoded = announcement.encode(8 << 10);
        let read: Announcement = serde_json::from_slice(&encoded).unwrap();
        assert!(encoded.len() <= 8 << 10 && read.offers.unwrap().direct.len() > 50);
        assert!(announcement.encode(1).len() < 100);
    }

    #[test]
    fn a_beat_is_short_and_unknown_members_do_no_harm() {
        let beat = Announcement {
            host: "NABC".into(),
            incarnation: 7,
            roster: 3,
            ..Announcement::default()
        };
        assert_eq!(serde_json::to_string(&beat).unwrap(), r#"{"host":"NABC","life":7,"roster":3}"#);
        let read: Announcement = serde_json::from_str(
            r#"{"host":"NABC","life":7,"roster":3,"mood":"good","hello":null,"offers":null,"call":null}"#,
        )
        .unwrap();
        assert_eq!(read, beat);
    }

    #[test]
    fn a_word_in_a_large_lattice_reads_as_written() {
        let one = |name: &str| Offers { direct: vec![name.to_owned()], group: Vec::new() };
        let word = Announcement {
            host: "NABC".into(),
            at: "NSERVER".into(),
            interval_ms: 62_000,
            runs: Some(7),
            call: vec![ALL.to_owned()],
            within_ms: 2000,
            known: vec![Known("NB".into(), 1, 2)],
            change: Some(Change { from: 3, added: one("M"), removed: Offers::default() }),
            ..Announcement::default()
        };
        let encoded = serde_json::to_string(&word).unwrap();
        assert_eq!(
            encoded,
            r#"{"host":"NABC","life":0,"roster":0,"at":"NSERVER","every":62000,"runs":7,"call":["*"],"within":2000,"known":[["NB",1,2]],"change":{"from":3,"added":{"direct":["M"],"group":[]}}}"#
        );
        assert_eq!(serde_json::from_str::<Announcement>(&encoded).unwrap(), word);
    }
}

//! The messages of hosts about themselves, as JSON, so that `nats sub` shows them.
//!
//! On `wasmbus.rpc.{lattice}.hosts` a host sends its [`Announcement`] to all: every second without
//! its offers, with them when they changed. With a reply subject it asks for confirmation: each
//! peer answers with its own [`Announcement`] once it has applied this one; a first one (`hello`)
//! is answered with what the peer offers. On `wasmbus.rpc.{lattice}.{host}` a host answers the
//! question [`ROSTER`] with everything it offers, [`INVENTORY`] with what it runs as clients are
//! told it, and any other with an [`Announcement`] without offers.
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

use crate::serde_null::null_as_default;

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

impl Announcement {
    /// Encodes the message. Offers that a server with this `max_payload` does not take are left
    /// out: calls reach those targets through their queue groups.
    pub fn encode(&self, max_payload: usize) -> Bytes {
        // A structure of texts and numbers.
        let encoded = serde_json::to_vec(self).expect("a word is always encodable");
        match &self.offers {
            Some(offers)
                if encoded.len() > max_payload
                    && !(offers.direct.is_empty() && offers.group.is_empty()) =>
            {
                let half = |names: &[String]| names[..names.len() / 2].to_vec();
                let offers = Offers { direct: half(&offers.direct), group: half(&offers.group) };
                Self { offers: Some(offers), ..self.clone() }.encode(max_payload)
            }
            _ => encoded.into(),
        }
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
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
            r#"{"host":"NABC","life":7,"roster":3,"mood":"good","hello":null,"offers":null}"#,
        )
        .unwrap();
        assert_eq!(read, beat);
    }
}

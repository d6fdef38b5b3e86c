//! The audit of a lattice: an entry for each command that a host took or refused.
//!
//! A host sees the command and not its sender: the NATS server does not tell a subscriber which
//! user published. So the sender is as clients of this make say it, in the header
//! [`ORIGIN_HEADER`] of the command. Somebody who may send commands may say anything there; it is
//! a help for people who work together and no proof.

use std::{collections::BTreeMap, time::Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::compact::text;
use crate::{clock, serde_null::null_as_default};

/// The header of a command that says who sends it: an [`Origin`] as JSON.
pub const ORIGIN_HEADER: &str = "Lattice-Origin";
/// A longer header is not read.
const ORIGIN_BYTES_MAX: usize = 1024;
/// Bytes of a text of an origin that are kept.
const WORD_BYTES_MAX: usize = 128;
/// Members of commands that name what they are about, or tell two of them apart. None of them has
/// secrets in it.
const NAMED: [&str; 21] = [
    "actor_ref",
    "actor_id",
    "new_actor_ref",
    "provider_ref",
    "provider_id",
    "link_name",
    "contract_id",
    "host_id",
    "count",
    "scale",
    "max_instances",
    "share",
    "key",
    "name",
    "version",
    "lost_host_id",
    "action",
    "any_revision",
    "timeout",
    "delete_all",
    "non_destructive",
];
/// The member that tells what a label is set to.
pub const VALUE: &str = "value";

/// The sender of a command, as far as it says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    /// `cli`, `dashboard` or `application`; empty if nothing is said.
    #[serde(deserialize_with = "null_as_default")]
    pub kind: String,
    /// The user of the machine and its name; the beginning of the id of a session; the name of an
    /// application.
    #[serde(deserialize_with = "null_as_default")]
    pub who: String,
    /// The user at the NATS server: the name, or the public key of an nkey.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub nats_user: String,
    /// The address of a browser, or the host that sends.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub from: String,
}

impl Origin {
    /// Returns the value of the header; none if it cannot be one.
    pub fn header(&self) -> Option<String> {
        let text = serde_json::to_string(self).ok()?;
        (text.len() <= ORIGIN_BYTES_MAX && text.is_ascii()).then_some(text)
    }

    /// Reads the value of the header; whatever is no origin is nobody.
    pub fn read(header: &str) -> Self {
        if header.len() > ORIGIN_BYTES_MAX {
            return Self::default();
        }
        let mut read: Self = serde_json::from_str(header).unwrap_or_default();
        for word in [&mut read.kind, &mut read.who, &mut read.nats_user, &mut read.from] {
            word.truncate(word.floor_char_boundary(WORD_BYTES_MAX));
        }
        read
    }

    /// Says who it is, in a few words.
    pub fn words(&self) -> String {
        let who = match (self.kind.as_str(), self.who.as_str()) {
            ("", "") => "unknown client".to_owned(),
            ("application", name) => format!("application {name}"),
            ("dashboard", "") => "dashboard".to_owned(),
            ("dashboard", session) => format!("dashboard session {session}"),
            (_, who) => who.to_owned(),
        };
        match self.nats_user.as_str() {
            "" => who,
            user => format!("{who} (NATS user {user})"),
        }
    }
}

/// The end of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The host took it; events tell what came of it.
    Accepted,
    Refused,
    /// The host did not finish in time, or says something new.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Outcome {
    /// Returns the outcome of a refusal: some say that nobody knows what came of the command.
    pub fn of_refusal(reason: &str) -> Self {
        let is_unknown =
            reason.contains("outcome is unknown") || reason.contains("unknown whether");
        if is_unknown { Self::Unknown } else { Self::Refused }
    }

    /// Returns the word of the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

/// A command, and who sent it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Audit {
    /// Tells it from all others.
    #[serde(deserialize_with = "null_as_default")]
    pub id: String,
    /// When the command came, in milliseconds since 1970.
    pub at_ms: u64,
    /// `start actor`, `link put` and so on.
    #[serde(deserialize_with = "null_as_default")]
    pub verb: String,
    /// The members of the command that name what it is about.
    #[serde(deserialize_with = "null_as_default")]
    pub object: BTreeMap<String, String>,
    pub outcome: Outcome,
    /// Why it was refused.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// How long the answer took, in milliseconds.
    pub took_ms: u64,
    pub origin: Origin,
}

impl Audit {
    /// Says what the command is about, in a few words.
    pub fn subject(&self) -> String {
        let of = |name: &str| self.object.get(name).map(String::as_str).unwrap_or_default();
        let first = |names: &[&str]| {
            names.iter().map(|name| of(name)).find(|text| !text.is_empty()).unwrap_or_default()
        };
        let actor = first(&["actor_id", "actor_ref"]);
        let provider = first(&["provider_ref", "provider_id"]);
        let mut words = match (actor, provider) {
            ("", "") => {
                let names = ["name", "key", "new_actor_ref", "lost_host_id", "host_id"];
                first(&names).to_owned()
            }
            (actor, "") => actor.to_owned(),
            ("", provider) => provider.to_owned(),
            (actor, provider) => format!("{actor} to {provider}"),
        };
        if self.verb.starts_with("link ") && !of("contract_id").is_empty() {
            words = format!("{words} for {}", of("contract_id"));
        }
        match of("new_actor_ref") {
            "" => {}
            new if new == words => {}
            new => words = format!("{words} to {new}"),
        }
        match self.object.get(VALUE) {
            None => words,
            Some(value) => format!("{words}={value}"),
        }
    }
}

/// A request that came, of which may become an entry.
#[derive(Debug)]
pub struct Asked {
    at_ms: u64,
    began: Instant,
    origin: Origin,
}

impl Asked {
    /// Notes that a request came now, with this value of the header [`ORIGIN_HEADER`].
    pub fn now(header: Option<&str>) -> Self {
        let origin = header.map(Origin::read).unwrap_or_default();
        Self { at_ms: clock::now_ms(), began: Instant::now(), origin }
    }

    /// Returns the entry of a command that was answered just now.
    pub fn entry(
        self,
        verb: &str,
        object: BTreeMap<String, String>,
        (outcome, reason): (Outcome, String),
    ) -> Audit {
        Audit {
            id: Uuid::new_v4().to_string(),
            at_ms: self.at_ms,
            verb: verb.to_owned(),
            object,
            outcome,
            reason,
            took_ms: clock::millis(self.began.elapsed()),
            origin: self.origin,
        }
    }
}

/// Returns the members of a command that name what it is about; of a body that is no JSON object
/// there are none.
pub fn object(body: &[u8]) -> BTreeMap<String, String> {
    let read: Value = serde_json::from_slice(body).unwrap_or_default();
    let named = NAMED.iter().filter_map(|name| {
        let told = match &read[*name] {
            Value::String(told) => text(told),
            Value::Number(told) => told.to_string(),
            Value::Bool(told) => told.to_string(),
            _ => return None,
        };
        (!told.is_empty()).then(|| ((*name).to_owned(), told))
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_origin_is_read_back_and_nonsense_is_nobody() {
        let origin = Origin {
            kind: "cli".into(),
            who: "ann@laptop".into(),
            nats_user: "UABC".into(),
            from: String::new(),
        };
        assert_eq!(Origin::read(&origin.header().unwrap()), origin);
        assert_eq!(origin.words(), "ann@laptop (NATS user UABC)");
        let long = json!({ "kind": "cli", "who": "x".repeat(5000) }).to_string();
        for nonsense in ["", "[1]", "{\"who\": 7}", &long] {
            assert_eq!(Origin::read(nonsense), Origin::default(), "{nonsense}");
        }
        assert_eq!(Origin::default().words(), "unknown client");
        let wide = Origin { who: "ä".into(), ..Origin::default() };
        assert_eq!(wide.header(), None, "headers are ASCII");
    }

    #[test]
    fn a_command_is_named_without_its_values() {
        let body = json!({"actor_id": "MA", "provider_id": "VB", "contract_id": "wasmcloud:httpserver",
            "link_name": "default", "values": {"password": "hunter2"}, "configuration": "hunter2"});
        let put = Audit {
            verb: "link put".into(),
            object: object(body.to_string().as_bytes()),
            ..Audit::default()
        };
        assert_eq!(put.subject(), "MA to VB for wasmcloud:httpserver");
        assert!(!serde_json::to_string(&put).unwrap().contains("hunter2"));
        for (body, name, told) in [
            (json!({"actor_id": "MA", "share": 0}), "share", "0"),
            (json!({"actor_id": "MA", "any_revision": true}), "any_revision", "true"),
            (json!({"host_id": "N1", "timeout": 5}), "timeout", "5"),
            (json!({"version": "", "delete_all": true}), "delete_all", "true"),
            (json!({"non_destructive": false}), "non_destructive", "false"),
        ] {
            assert_eq!(object(body.to_string().as_bytes())[name], told, "{body}");
        }
        for (verb, body, subject) in [
            ("start actor", json!({"actor_ref": "file:///a.wasm", "count": 3}), "file:///a.wasm"),
            ("update actor", json!({"actor_id": "MA", "new_actor_ref": "a:2"}), "MA to a:2"),
            ("stop host", json!({"host_id": "N1", "timeout": 5}), "N1"),
            ("label put", json!({"key": "zone", "value": "a"}), "zone"),
            ("forget host", json!({"host_id": "N1", "lost_host_id": "N2"}), "N2"),
            ("config put", json!("hunter2"), ""),
        ] {
            let object = object(body.to_string().as_bytes());
            let entry = Audit { verb: verb.into(), object, ..Audit::default() };
            assert_eq!(entry.subject(), subject, "{verb}");
        }
    }

    #[test]
    fn an_outcome_of_a_later_version_is_unknown() {
        let read: Audit = serde_json::from_str(r#"{"outcome":"postponed","verb":null}"#).unwrap();
        assert_eq!(read.outcome, Outcome::Unknown);
        assert_eq!(serde_json::to_value(Outcome::Refused).unwrap(), json!("refused"));
    }
}

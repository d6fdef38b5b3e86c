//! The last events of the lattice, each with a sentence for people.

use std::collections::VecDeque;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::now_ms;
use crate::{
    client::lattice::Event,
    http::mask::{HIDDEN, Mask},
    providers::external::masks,
};

/// Events that are kept.
pub const EVENTS_MAX: usize = 2000;
/// Larger data is left out.
const DATA_BYTES_MAX: usize = 4096;
/// An error may be long; a line of a list is not.
const TEXT_CHARS_MAX: usize = 600;

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Good,
    Info,
    Warning,
    Error,
}

/// Something that happened.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Entry {
    /// Counts the events this host has heard since its start.
    pub seq: u64,
    pub at_ms: u64,
    /// As on the wire, `actor_scaled` and so on; `host_lost` and `host_back` are this dashboard's own.
    pub name: String,
    pub severity: Severity,
    pub host_id: String,
    pub host_name: String,
    pub text: String,
    /// As it came, link values masked; null if it is large, and without a login.
    pub data: Value,
    /// The text without what others said.
    #[serde(skip)]
    masked: String,
}

impl Mask for Entry {
    fn mask(&mut self) {
        self.text.clone_from(&self.masked);
        self.data = Value::Null;
    }
}

/// The last events, oldest first.
#[derive(Default)]
pub struct Log {
    entries: VecDeque<Entry>,
    last: u64,
}

impl Log {
    /// Takes an entry in, and numbers it.
    pub fn push(&mut self, mut entry: Entry) -> Entry {
        self.last += 1;
        entry.seq = self.last;
        if self.entries.len() >= EVENTS_MAX {
            self.entries.pop_front();
        }
        self.entries.push_back(entry.clone());
        entry
    }

    /// The number of the last one.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Newest first.
    pub fn newest(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().rev()
    }
}

/// How a key is written where there is little room.
pub fn short(key: &str) -> String {
    match (key.get(..4), key.get(key.len().saturating_sub(4)..)) {
        (Some(head), Some(tail)) if key.len() > 12 => format!("{head}…{tail}"),
        _ => key.to_owned(),
    }
}

impl Entry {
    /// Reads an event; heartbeats and checks that found what was known are none. `name_of` gives names to public keys.
    /// A host of this make tells each start with the events of all years, of which one is enough.
    pub fn of(event: &Event, host_name: &str, is_ours: bool, name_of: impl Fn(&str) -> Option<String>) -> Option<Self> {
        if is_ours
            && matches!(event.name(), "actor_started" | "actors_started" | "actor_stopped" | "actor_start_failed")
        {
            return None;
        }
        let (severity, text) = sentence(event, Words::All, host_name, &name_of)?;
        let (_, masked) = sentence(event, Words::Ours, host_name, &name_of)?;
        let [text, masked] = [text, masked].map(|text| match text.char_indices().nth(TEXT_CHARS_MAX) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        });
        Some(Self {
            seq: 0,
            at_ms: now_ms(),
            name: event.name().to_owned(),
            severity,
            host_id: event.source.clone(),
            host_name: host_name.to_owned(),
            text,
            data: shown(&event.data),
            masked,
        })
    }

    /// An event that this dashboard concludes.
    pub fn concluded(name: &str, severity: Severity, host_id: &str, host_name: &str, text: String) -> Self {
        let (host_id, host_name) = (host_id.to_owned(), host_name.to_owned());
        let (name, masked, data) = (name.to_owned(), text.clone(), Value::Null);
        Self { seq: 0, at_ms: now_ms(), name, severity, host_id, host_name, text, data, masked }
    }
}

/// The data of an event without secrets, and not without bound.
fn shown(data: &Value) -> Value {
    let mut data = data.clone();
    if let Some(Value::Object(values)) = data.get_mut("values") {
        let texts = values.iter().filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
        let masked = masks::shown(&texts.collect());
        for (name, value) in values.iter_mut() {
            *value = masked.get(name).cloned().map_or(Value::Null, Value::String);
        }
    }
    match serde_json::to_vec(&data) {
        Ok(text) if text.len() <= DATA_BYTES_MAX => data,
        _ => Value::Null,
    }
}

/// The texts that a sentence may contain, by their author.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Words {
    /// Also what a host or a provider said: it may quote link values and lines of logs.
    All,
    Ours,
}

fn sentence(
    event: &Event,
    words: Words,
    host: &str,
    name_of: &dyn Fn(&str) -> Option<String>,
) -> Option<(Severity, String)> {
    use Severity::{Error, Good, Info, Warning};
    let named = |key: &str| name_of(key).filter(|name| !name.is_empty()).unwrap_or_else(|| short(key));
    // Events of actors and providers carry the name in the claims.
    let claimed = event.data["claims"]["name"].as_str().filter(|name| !name.is_empty() && *name != "N/A");
    let key = event.text("public_key");
    let who = || claimed.map_or_else(|| named(key), str::to_owned);
    let number = |member: &str| event.data[member].as_u64().unwrap_or_default();
    let link = || match event.text("link_name") {
        "" | "default" => String::new(),
        name => format!(" (link name {name})"),
    };
    let said = |member: &str| match words {
        Words::All => event.text(member),
        Words::Ours => HIDDEN,
    };
    let error = said("error");
    Some(match event.name() {
        "host_started" => (Good, format!("Host {host} started")),
        "host_stopped" => (Info, format!("Host {host} stopped")),
        "actors_started" => (Good, format!("{} started on {host}, {} at a time", who(), number("count"))),
        "actor_scaled" => match number("max_instances") {
            0 => (Info, format!("{} scaled to nothing on {host}", who())),
            max if max == u64::from(u32::MAX) => (Good, format!("{} scaled without a bound on {host}", who())),
            max => (Good, format!("{} scaled to {max} on {host}", who())),
        },
        "actors_stopped" => match number("remaining") {
            0 => (Info, format!("{} stopped on {host}", who())),
            left => (Info, format!("{} on {host} takes {left} at a time now", who())),
        },
        "actor_updated" => (Good, format!("{} updated to revision {} on {host}", who(), number("revision"))),
        "actor_update_failed" => (Error, format!("{} was not updated on {host}: {}", who(), said("reason"))),
        "actors_start_failed" => {
            (Error, format!("Actor {} does not start on {host}: {error}", event.text("image_ref")))
        }
        "actor_scale_failed" => (Error, format!("Actor {} is not scaled on {host}: {error}", event.text("image_ref"))),
        "claims_not_in_force" => (Error, format!("Calls of and to {} on {host} are refused: {error}", who())),
        "provider_started" => (Good, format!("Provider {}{} started on {host}", who(), link())),
        "provider_start_failed" => {
            (Error, format!("Provider {} does not start on {host}: {error}", event.text("provider_ref")))
        }
        "provider_stopped" => match event.text("reason") {
            "" | "stopped" => (Info, format!("Provider {}{} stopped on {host}", who(), link())),
            _ => (Warning, format!("Provider {}{} ended on {host}: {}", who(), link(), said("reason"))),
        },
        "health_check_passed" => (Good, format!("Provider {}{} on {host} is healthy", who(), link())),
        "health_check_failed" => (Error, format!("Provider {}{} on {host} fails its health check", who(), link())),
        "linkdef_set" => (
            Good,
            format!(
                "{} linked to {} for {}{}",
                named(event.text("actor_id")),
                named(event.text("provider_id")),
                event.text("contract_id"),
                link()
            ),
        ),
        "linkdef_deleted" => (
            Info,
            format!("Link of {} for {}{} deleted", named(event.text("actor_id")), event.text("contract_id"), link()),
        ),
        "linkdef_set_failed" => (
            Error,
            format!(
                "Provider {} on {host} does not take the link of {} on: {error}",
                named(event.text("provider_id")),
                named(event.text("actor_id"))
            ),
        ),
        "command_refused" => (Warning, format!("{host} refused {}: {error}", event.text("command"))),
        "config_set" => {
            (Info, format!("Configuration {} of {} set", event.text("key"), named(event.text("entity_id"))))
        }
        "config_deleted" => (Info, format!("Configuration of {} deleted", named(event.text("entity_id")))),
        "actor_started" => (Good, format!("{} started on {host}", who())),
        "actor_stopped" => (Info, format!("{} stopped on {host}", who())),
        "actor_start_failed" => (Error, format!("Actor {} does not start on {host}: {error}", event.text("actor_ref"))),
        // References are told with what started.
        "refmap_set" | "host_heartbeat" | "health_check_status" | "" => return None,
        other => (Info, format!("{other} on {host}")),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(name: &str, data: Value) -> Option<Entry> {
        let event = json!({ "type": format!("com.wasmcloud.lattice.{name}"), "source": "N1", "data": data });
        let event: Event = serde_json::from_value(event).unwrap();
        Entry::of(&event, "calm-otter", true, |key| (key == "MA").then(|| "Echo".to_owned()))
    }

    #[test]
    fn events_are_sentences() {
        let text = |name: &str, data: Value| entry(name, data).map(|entry| entry.text);
        assert_eq!(
            text("actor_scaled", json!({ "public_key": "MA", "max_instances": 3 })).as_deref(),
            Some("Echo scaled to 3 on calm-otter")
        );
        assert_eq!(
            text("provider_stopped", json!({ "public_key": "VBCDEFGHIJKLMNOP", "link_name": "b", "reason": "exit 1" }))
                .as_deref(),
            Some("Provider VBCD…MNOP (link name b) ended on calm-otter: exit 1")
        );
        assert_eq!(
            text("command_refused", json!({ "command": "link put", "error": "no provider" })).as_deref(),
            Some("calm-otter refused link put: no provider")
        );
        assert_eq!(text("host_heartbeat", json!({})), None);
        assert_eq!(text("something_new", json!({})).as_deref(), Some("something_new on calm-otter"));
    }

    #[test]
    fn without_a_login_events_have_no_foreign_words() {
        for (name, data) in [
            ("linkdef_set", json!({ "actor_id": "MA", "provider_id": "VA", "values": { "port": "foreign" } })),
            ("linkdef_set_failed", json!({ "actor_id": "MA", "provider_id": "VA", "error": "foreign" })),
            ("provider_stopped", json!({ "public_key": "VA", "reason": "foreign" })),
            ("actors_start_failed", json!({ "image_ref": "x:1", "error": "foreign" })),
            ("actor_scale_failed", json!({ "image_ref": "x:1", "error": "foreign" })),
            ("actor_update_failed", json!({ "public_key": "MA", "reason": "foreign" })),
            ("provider_start_failed", json!({ "provider_ref": "x:1", "error": "foreign" })),
            ("something_new", json!({ "anything": "foreign" })),
        ] {
            let mut masked = entry(name, data).unwrap();
            let whole = serde_json::to_string(&masked).unwrap();
            masked.mask();
            let masked = serde_json::to_string(&masked).unwrap();
            assert!(whole.contains("foreign") && !masked.contains("foreign"), "{masked}");
            assert!(masked.contains("calm-otter") || masked.contains("Echo"), "{masked}");
        }
    }

    #[test]
    fn secrets_and_floods_are_not_kept() {
        let data = json!({ "actor_id": "MA", "values": { "password": "hunter2", "port": "80" } });
        let kept = entry("linkdef_set", data).unwrap().data;
        assert_eq!((&kept["values"]["port"], kept["values"]["password"] == "hunter2"), (&json!("80"), false));
        let flood = entry("linkdef_set_failed", json!({ "error": "x".repeat(10_000) })).unwrap();
        assert!(flood.data.is_null() && flood.text.chars().count() < 700);
    }

    #[test]
    fn the_log_keeps_the_last_ones_and_counts_all() {
        let mut log = Log::default();
        for _ in 0..EVENTS_MAX + 5 {
            log.push(entry("host_started", json!({})).unwrap());
        }
        assert_eq!((log.last(), log.newest().count()), (EVENTS_MAX as u64 + 5, EVENTS_MAX));
        assert_eq!(log.newest().next().unwrap().seq, log.last());
    }
}

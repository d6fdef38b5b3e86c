//! The last events of the lattice, each with a sentence for people.

mod narrator;

use std::{collections::VecDeque, sync::Arc};

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::mask::Mask;
use lattice_engine::providers::external::masks;
use lattice_protocol::{
    clock,
    events::{Event, Received},
    history::{Happened, SAME_CHANGE_MS, TOLD_BY_ALL},
};
use narrator::{Narrator, Words};

pub use narrator::replicas;

/// Events that are kept.
const EVENTS_MAX: usize = 2000;
/// Larger data is left out.
const DATA_BYTES_MAX: usize = 4096;
/// Data that is larger as it came is not looked at: masked link values may be shorter, but anybody
/// may publish events, and each is looked at by every dashboard.
const LOOKED_AT_BYTES_MAX: usize = 64 << 10;
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

impl Severity {
    /// Returns the word of the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Entry {
    /// Tells it from all others; empty where its host gives none.
    pub id: String,
    /// Counts the events this host has heard since its start; 0 of an event that it did not hear
    /// itself and has from the history of the lattice.
    pub seq: u64,
    pub at_ms: u64,
    /// As on the wire, `actor_scaled` and so on; `host_lost` and `host_back` are this dashboard's
    /// own.
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

impl Entry {
    /// Returns it with another time.
    pub fn at(self, at_ms: u64) -> Self {
        Self { at_ms, ..self }
    }

    /// Returns it with the text that everybody may read, and all of its data: for whoever shows
    /// the text alone.
    pub fn masked_text(self) -> Self {
        Self { text: self.masked.clone(), ..self }
    }
}

impl Mask for Entry {
    fn mask(&mut self) {
        self.text.clone_from(&self.masked);
        self.data = Value::Null;
    }
}

/// The last events, oldest first. A clone shares them.
#[derive(Clone, Default)]
pub struct Log {
    entries: VecDeque<Arc<Entry>>,
    last: u64,
}

impl Log {
    /// Takes an entry in, and numbers it.
    pub fn push(&mut self, mut entry: Entry) -> Arc<Entry> {
        self.last += 1;
        entry.seq = self.last;
        let entry = Arc::new(entry);
        if self.entries.len() >= EVENTS_MAX {
            self.entries.pop_front();
        }
        self.entries.push_back(Arc::clone(&entry));
        entry
    }

    /// The number of the last one.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Newest first.
    pub fn newest(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().rev().map(AsRef::as_ref)
    }
}

impl Entry {
    /// Reads an event; heartbeats and checks that found what was known are none. `name_of` gives
    /// names to public keys. A host of this make tells each start with the events of all years, of
    /// which one is enough.
    pub fn of(
        Received { id, source, event, data }: &Received,
        host_name: &str,
        is_ours: bool,
        name_of: impl Fn(&str) -> Option<String>,
    ) -> Option<Self> {
        if is_ours
            && matches!(
                event,
                Event::ActorStarted { .. }
                    | Event::ActorsStarted { .. }
                    | Event::ActorStopped { .. }
                    | Event::ActorsStopped { .. }
                    | Event::ActorStartFailed { .. }
                    | Event::ActorsStartFailed { .. }
            )
        {
            return None;
        }
        let narrator = Narrator { words: Words::All, host: host_name, name_of: &name_of };
        let (severity, text) = narrator.sentence(event)?;
        let (_, masked) = Narrator { words: Words::Ours, ..narrator }.sentence(event)?;
        let [text, masked] =
            [text, masked].map(|text| match text.char_indices().nth(TEXT_CHARS_MAX) {
                Some((end, _)) => format!("{}…", &text[..end]),
                None => text,
            });
        Some(Self {
            id: id.clone(),
            seq: 0,
            at_ms: clock::now_ms(),
            name: event.name().to_owned(),
            severity,
            host_id: source.clone(),
            host_name: host_name.to_owned(),
            text,
            data: shown(data),
            masked,
        })
    }

    /// Whether two hosts tell the same change of a link.
    pub fn is_same_change(&self, other: &Self) -> bool {
        TOLD_BY_ALL.contains(&&*self.name)
            && self.name == other.name
            && self.data["id"].is_string()
            && self.data["id"] == other.data["id"]
            && self.host_id != other.host_id
            && self.at_ms.abs_diff(other.at_ms) <= SAME_CHANGE_MS
    }

    /// Reads an event of the history; `host_name` is the name of the host it is about.
    pub fn kept(
        happened: &Happened,
        host_name: &str,
        name_of: impl Fn(&str) -> Option<String>,
    ) -> Option<Self> {
        let Happened { id, at_ms, name, source, data } = happened;
        let received = Received::of(name, source.clone(), data.clone());
        let entry = Self::of(&received, host_name, false, name_of)?;
        Some(Self { id: id.clone(), at_ms: *at_ms, ..entry })
    }

    /// An event that this dashboard concludes.
    pub fn concluded(
        name: &str,
        severity: Severity,
        host_id: &str,
        host_name: &str,
        text: String,
    ) -> Self {
        let (host_id, host_name) = (host_id.to_owned(), host_name.to_owned());
        let (name, masked, data) = (name.to_owned(), text.clone(), Value::Null);
        Self {
            id: String::new(),
            seq: 0,
            at_ms: clock::now_ms(),
            name,
            severity,
            host_id,
            host_name,
            text,
            data,
            masked,
        }
    }
}

/// Returns how much an event of the history matters, and a sentence about it, for people at a
/// prompt; none for events without news.
pub fn sentence(
    happened: &Happened,
    host_name: &str,
    name_of: impl Fn(&str) -> Option<String>,
) -> Option<(Severity, String)> {
    let entry = Entry::kept(happened, host_name, name_of)?;
    Some((entry.severity, entry.text))
}

/// The data of an event without secrets, and not without bound.
fn shown(data: &Value) -> Value {
    if !serde_json::to_vec(data).is_ok_and(|text| text.len() <= LOOKED_AT_BYTES_MAX) {
        return Value::Null;
    }
    let mut data = data.clone();
    if let Some(Value::Object(values)) = data.get_mut("values") {
        let texts = values
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    pub(super) fn entry(name: &str, data: Value) -> Option<Entry> {
        let event = json!({ "type": format!("com.wasmcloud.lattice.{name}"), "source": "N1", "data": data });
        let event = Received::parse(event.to_string().as_bytes()).unwrap();
        Entry::of(&event, "calm-otter", true, |key| (key == "MA").then(|| "Echo".to_owned()))
    }

    #[test]
    fn without_a_login_events_have_no_foreign_words() {
        for (name, data) in [
            (
                "linkdef_set",
                json!({ "actor_id": "MA", "provider_id": "VA", "values": { "port": "foreign" } }),
            ),
            (
                "linkdef_set_failed",
                json!({ "actor_id": "MA", "provider_id": "VA", "error": "foreign" }),
            ),
            ("provider_stopped", json!({ "public_key": "VA", "reason": "foreign" })),
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
        assert_eq!(
            (&kept["values"]["port"], kept["values"]["password"] == "hunter2"),
            (&json!("80"), false)
        );
        // Masked it would be small.
        let flood = json!({ "values": { "password": "p".repeat(LOOKED_AT_BYTES_MAX) } });
        assert!(entry("linkdef_set", flood).unwrap().data.is_null());
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

//! The last events of the lattice, each with a sentence for people.

use std::{collections::VecDeque, sync::Arc};

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::mask::{HIDDEN, Mask};
use lattice_engine::providers::external::masks;
use lattice_protocol::{
    applications::rollout::{Rollout, State},
    clock,
    events::{
        Event, Received,
        event::{ActorContext, NOT_AVAILABLE, ProviderContext},
    },
    history::{HOST_BACK, HOST_LOST, Happened, SAME_CHANGE_MS, TOLD_BY_ALL},
    identity::keys::LinkName,
    links::{LinkDefinition, Table},
};

/// Events that are kept.
const EVENTS_MAX: usize = 2000;
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

/// How a key is written where there is little room.
pub fn short(key: &str) -> String {
    match (key.get(..4), key.get(key.len().saturating_sub(4)..)) {
        (Some(head), Some(tail)) if key.len() > 12 => format!("{head}…{tail}"),
        _ => key.to_owned(),
    }
}

/// The name in the claims of an actor or a provider, or what is left of its key.
pub fn name_or_short(table: &Table, id: &str) -> String {
    table.claims(id).map_or_else(|| short(id), |claims| claims.name.clone())
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

/// The texts that a sentence may contain, by their author.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Words {
    /// Also what a host or a provider said: it may quote link values and lines of logs.
    All,
    Ours,
}

/// Makes sentences of events of one host.
struct Narrator<'a> {
    words: Words,
    host: &'a str,
    name_of: &'a dyn Fn(&str) -> Option<String>,
}

impl Narrator<'_> {
    /// Returns how much an event matters, and a sentence about it; none for events without news.
    fn sentence(&self, event: &Event) -> Option<(Severity, String)> {
        match event {
            // References are told with what started.
            Event::RefmapSet { .. } | Event::HostHeartbeat(_) | Event::HealthCheckStatus(_) => {
                return None;
            }
            Event::Other(name) if name.is_empty() => return None,
            _ => {}
        }
        let told = self.about_actor(event).or_else(|| self.about_provider(event));
        let told = told.or_else(|| self.about_host(event));
        let told = told.or_else(|| self.about_lattice(event));
        let told = told.or_else(|| self.about_rollout(event));
        told.or_else(|| Some((Severity::Info, format!("{} on {}", event.name(), self.host))))
    }

    fn about_actor(&self, event: &Event) -> Option<(Severity, String)> {
        use Severity::{Error, Good, Info};
        let host = self.host;
        Some(match event {
            Event::ActorStarted { actor, .. } => {
                (Good, format!("{} started on {host}", self.actor(actor)))
            }
            Event::ActorsStarted { actor, count } => (
                Good,
                format!("{} started on {host}, with {}", self.actor(actor), replicas(*count)),
            ),
            Event::ActorStopped { actor, .. }
            | Event::ActorsStopped { actor, remaining: 0, others: 0, .. }
            | Event::ActorScaled { actor, max: 0, others: 0 } => {
                (Info, format!("{} stopped on {host}", self.actor(actor)))
            }
            // Of several groups of one actor, the rest goes on.
            Event::ActorsStopped { actor, remaining: some, others, .. } => {
                let left = some.saturating_add(*others);
                (Info, format!("{} on {host} has {} now", self.actor(actor), replicas(left)))
            }
            Event::ActorScaled { actor, max, others } => {
                let replicas = match max.saturating_add(*others) {
                    u32::MAX => "unbounded replicas".to_owned(),
                    all => replicas(all),
                };
                (Good, format!("{} runs on {host} with {replicas}", self.actor(actor)))
            }
            Event::ActorUpdated { public_key, revision, share, .. } => {
                (Good, updated(&self.named(public_key), *revision, *share, host))
            }
            Event::ActorUpdateFailed { public_key, reason, .. } => (
                Error,
                format!(
                    "{} was not updated on {host}: {}",
                    self.named(public_key),
                    self.said(reason)
                ),
            ),
            Event::ActorStartFailed { actor_ref: reference, error }
            | Event::ActorsStartFailed { image_ref: reference, error, .. }
            | Event::ActorScaleFailed { image_ref: reference, error, .. } => {
                (Error, format!("Actor {reference} does not start on {host}: {}", self.said(error)))
            }
            Event::ClaimsNotInForce { public_key, error, .. } => {
                let who = self.named(public_key);
                (
                    Error,
                    format!("Calls of and to {who} on {host} are refused: {}", self.said(error)),
                )
            }
            _ => return None,
        })
    }

    fn about_provider(&self, event: &Event) -> Option<(Severity, String)> {
        use Severity::{Error, Good, Info, Warning};
        let host = self.host;
        Some(match event {
            Event::ProviderStarted { provider, claims } => {
                let who = self.claimed(&claims.name, &provider.public_key);
                (Good, format!("Provider {who}{} started on {host}", under(&provider.link_name)))
            }
            Event::ProviderStartFailed { provider_ref, error, .. } => (
                Error,
                format!("Provider {provider_ref} does not start on {host}: {}", self.said(error)),
            ),
            Event::ProviderStopped { provider, reason } => match reason.as_str() {
                "" | "stopped" => {
                    (Info, format!("Provider {} stopped on {host}", self.provider(provider)))
                }
                _ => {
                    let who = self.provider(provider);
                    (Warning, format!("Provider {who} ended on {host}: {}", self.said(reason)))
                }
            },
            Event::HealthCheckPassed(provider) => {
                (Good, format!("Provider {} on {host} is healthy", self.provider(provider)))
            }
            Event::HealthCheckFailed(provider) => (
                Error,
                format!("Provider {} on {host} fails its health check", self.provider(provider)),
            ),
            _ => return None,
        })
    }

    fn about_host(&self, event: &Event) -> Option<(Severity, String)> {
        use Severity::{Error, Good, Info, Warning};
        let host = self.host;
        Some(match event {
            Event::HostStarted { .. } => (Good, format!("Host {host} started")),
            Event::HostStopped { .. } => (Info, format!("Host {host} stopped")),
            Event::HostCutOff => (
                Warning,
                format!(
                    "Host {host} ended without a goodbye before this start: it was killed, or its machine went down"
                ),
            ),
            Event::NatsReturned { away_ms: 0..1000 } => {
                (Warning, format!("Host {host} had lost its NATS server for a moment"))
            }
            Event::NatsReturned { away_ms } => (
                Warning,
                format!("Host {host} was without its NATS server for {} s", away_ms / 1000),
            ),
            // These two are only told in the history.
            Event::Other(name) if name == HOST_LOST => (Error, format!("Host {host} is lost")),
            Event::Other(name) if name == HOST_BACK => (Good, format!("Host {host} is back")),
            _ => return None,
        })
    }

    fn about_lattice(&self, event: &Event) -> Option<(Severity, String)> {
        use Severity::{Error, Good, Info, Warning};
        let host = self.host;
        Some(match event {
            Event::LinkdefSet(LinkDefinition {
                actor_id,
                provider_id,
                contract_id,
                link_name,
                ..
            }) => {
                let (actor, provider) = (self.named(actor_id), self.named(provider_id));
                (
                    Good,
                    format!("{actor} linked to {provider} for {contract_id}{}", under(link_name)),
                )
            }
            Event::LinkdefDeleted(LinkDefinition { actor_id, contract_id, link_name, .. }) => {
                let actor = self.named(actor_id);
                (Info, format!("Link of {actor} for {contract_id}{} deleted", under(link_name)))
            }
            Event::LinkdefSetFailed { link, error, .. } => {
                let (provider, actor) = (self.named(&link.provider_id), self.named(&link.actor_id));
                let error = self.said(error);
                (
                    Error,
                    format!(
                        "Provider {provider} on {host} does not take the link of {actor} on: {error}"
                    ),
                )
            }
            Event::CommandRefused { command, error, .. } => {
                (Warning, format!("{host} refused {command}: {}", self.said(error)))
            }
            Event::ConfigSet { entity_id, key } => {
                (Info, format!("Configuration {key} of {} set", self.named(entity_id)))
            }
            Event::ConfigDeleted { entity_id, .. } => {
                (Info, format!("Configuration of {} deleted", self.named(entity_id)))
            }
            _ => return None,
        })
    }

    fn about_rollout(&self, event: &Event) -> Option<(Severity, String)> {
        let Event::RolloutChanged { application, rollout, percent } = event else { return None };
        let Rollout { from, to, state, step, .. } = rollout;
        let begin = format!("{application} {to}");
        Some(match state {
            State::Running if *step == 0 => (
                Severity::Info,
                format!("{begin} begins to take over from {from}, with {percent} % of the calls"),
            ),
            State::Running => (
                Severity::Info,
                format!("{begin} goes on to take over from {from}, with {percent} % of the calls"),
            ),
            State::Paused => (Severity::Info, format!("{begin} stays at {percent} % of the calls")),
            State::Done => (Severity::Good, format!("{begin} has taken over from {from}")),
            State::TakenBack { why } => (
                Severity::Error,
                format!("{begin} was taken back, {from} runs: {}", self.said(why)),
            ),
        })
    }

    fn named(&self, key: &str) -> String {
        (self.name_of)(key).filter(|name| !name.is_empty()).unwrap_or_else(|| short(key))
    }

    /// Returns the name that an event carries in its claims, or else what is known of the key.
    fn claimed(&self, name: &str, key: &str) -> String {
        if matches!(name, "" | NOT_AVAILABLE) { self.named(key) } else { name.to_owned() }
    }

    fn actor(&self, actor: &ActorContext) -> String {
        self.claimed(&actor.claims.name, &actor.public_key)
    }

    fn provider(&self, provider: &ProviderContext) -> String {
        self.named(&provider.public_key) + &under(&provider.link_name)
    }

    fn said<'t>(&self, text: &'t str) -> &'t str {
        match self.words {
            Words::All => text,
            Words::Ours => HIDDEN,
        }
    }
}

/// Names a link name that is not the default one.
fn under(link_name: &str) -> String {
    match link_name {
        "" | LinkName::DEFAULT => String::new(),
        name => format!(" (link name {name})"),
    }
}

/// Says which revision of an actor runs now, or takes a share of the calls.
fn updated(name: &str, revision: u64, share: Option<u8>, host: &str) -> String {
    match share {
        None => format!("{name} updated to revision {revision} on {host}"),
        Some(0) => format!("{name} runs on {host} with revision {revision} alone again"),
        Some(share) => {
            format!("{name}: revision {revision} takes {share} % of the calls on {host}")
        }
    }
}

/// Returns a number of replicas in words: of calls that an actor works on at a time.
pub fn replicas(count: impl Into<u64>) -> String {
    match count.into() {
        1 => "1 replica".to_owned(),
        count => format!("{count} replicas"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(name: &str, data: Value) -> Option<Entry> {
        let event = json!({ "type": format!("com.wasmcloud.lattice.{name}"), "source": "N1", "data": data });
        let event = Received::parse(event.to_string().as_bytes()).unwrap();
        Entry::of(&event, "calm-otter", true, |key| (key == "MA").then(|| "Echo".to_owned()))
    }

    #[test]
    fn events_are_sentences() {
        let text = |name: &str, data: Value| entry(name, data).map(|entry| entry.text);
        assert_eq!(
            text("actor_scaled", json!({ "public_key": "MA", "max_instances": 3 })).as_deref(),
            Some("Echo runs on calm-otter with 3 replicas")
        );
        for (event, data, told) in [
            ("actor_scaled", json!({ "max_instances": 0 }), "Echo stopped on calm-otter"),
            (
                "actor_scaled",
                json!({ "max_instances": 0, "other_instances": 4 }),
                "Echo runs on calm-otter with 4 replicas",
            ),
            ("actor_updated", json!({ "revision": 2 }), "Echo updated to revision 2 on calm-otter"),
            (
                "actor_updated",
                json!({ "revision": 2, "share": 20 }),
                "Echo: revision 2 takes 20 % of the calls on calm-otter",
            ),
            (
                "actor_updated",
                json!({ "revision": 1, "share": 0 }),
                "Echo runs on calm-otter with revision 1 alone again",
            ),
        ] {
            let mut data = data;
            data["public_key"] = json!("MA");
            assert_eq!(text(event, data).as_deref(), Some(told));
        }
        let rollout = json!({ "at": 1, "from": "v1", "to": "v2", "step": 1, "state": { "takenback": { "why": "slow" } } });
        assert_eq!(
            text("rollout_changed", json!({ "application": "shop", "rollout": rollout }))
                .as_deref(),
            Some("shop v2 was taken back, v1 runs: slow")
        );
        assert_eq!(
            text(
                "provider_stopped",
                json!({ "public_key": "VBCDEFGHIJKLMNOP", "link_name": "b", "reason": "exit 1" })
            )
            .as_deref(),
            Some("Provider VBCD…MNOP (link name b) ended on calm-otter: exit 1")
        );
        assert_eq!(
            text("command_refused", json!({ "command": "link put", "error": "no provider" }))
                .as_deref(),
            Some("calm-otter refused link put: no provider")
        );
        assert_eq!(text("host_heartbeat", json!({})), None);
        assert_eq!(
            text("something_new", json!({})).as_deref(),
            Some("something_new on calm-otter")
        );
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

//! Sentences about events, for people.

use super::Severity;
use crate::{mask::HIDDEN, model::names::short};
use lattice_protocol::{
    applications::rollout::{Rollout, State},
    events::{
        Event,
        event::{ActorContext, NOT_AVAILABLE, ProviderContext},
    },
    history::{HOST_BACK, HOST_LOST},
    identity::keys::LinkName,
    links::LinkDefinition,
};

/// The texts that a sentence may contain, by their author.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// Also what a host or a provider said: it may quote link values and lines of logs.
    All,
    Ours,
}

/// Makes sentences of events of one host.
pub(super) struct Narrator<'a> {
    pub(super) words: Words,
    pub(super) host: &'a str,
    pub(super) name_of: &'a dyn Fn(&str) -> Option<String>,
}

impl Narrator<'_> {
    /// Returns how much an event matters, and a sentence about it; none for events without news.
    pub(super) fn sentence(&self, event: &Event) -> Option<(Severity, String)> {
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
    use serde_json::{Value, json};

    use crate::model::events::tests::entry;

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
}

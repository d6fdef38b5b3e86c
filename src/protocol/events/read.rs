//! Reads events of hosts of all years, member by member: one that is missing, null or of another
//! type is read as nothing, and unknown ones are passed over.

use serde::Deserialize;
use serde_json::Value;

use super::event::{
    ActorContext, Annotations, Event, EventClaims, OTHERS, ProviderContext, ProviderEventClaims,
    SHARE,
};
use crate::{
    links::{Claimant, Contest, LinkDefinition},
    serde_null::null_as_default,
};

/// An event as it came, out of its envelope.
#[derive(Clone, Debug)]
pub struct Received {
    /// Tells it from all others; empty where the host gives none.
    pub id: String,
    /// The host it is about.
    pub source: String,
    pub event: Event,
    /// The event that the host sent, known or not.
    pub data: Value,
}

impl Received {
    /// Reads an event in its envelope; `None` for what is none.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Envelope {
            /// `com.wasmcloud.lattice.` and the name.
            #[serde(rename = "type")]
            kind: String,
            #[serde(default, deserialize_with = "null_as_default")]
            id: String,
            #[serde(default)]
            source: String,
            #[serde(default)]
            data: Value,
        }
        let Envelope { kind, id, source, data } = serde_json::from_slice(payload).ok()?;
        let name = kind.rsplit('.').next().unwrap_or_default();
        Some(Self { id, ..Self::of(name, source, data) })
    }

    /// Makes an event of its name, its host and its data.
    pub fn of(name: &str, source: String, data: Value) -> Self {
        Self { id: String::new(), source, event: Event::read(name, &data), data }
    }
}

impl Event {
    /// Reads the data of an event; the inverse of [`Event::data`].
    fn read(name: &str, data: &Value) -> Self {
        let members = Members(data);
        match name {
            "host_started" => Self::HostStarted {
                labels: members.pairs("labels"),
                friendly_name: members.text("friendly_name"),
                version: members.text("version"),
            },
            "host_stopped" => Self::HostStopped { labels: members.pairs("labels") },
            "host_heartbeat" => Self::HostHeartbeat(data.clone()),
            "actor_started" => Self::ActorStarted {
                actor: members.actor(),
                instance_id: members.text("instance_id"),
            },
            "actors_started" => {
                Self::ActorsStarted { actor: members.actor(), count: members.count("count") }
            }
            "actor_stopped" => Self::ActorStopped {
                actor: members.actor(),
                instance_id: members.text("instance_id"),
            },
            "actors_stopped" => Self::ActorsStopped {
                actor: members.actor(),
                count: members.count("count"),
                remaining: members.count("remaining"),
                others: members.count(OTHERS),
            },
            "actor_scaled" => Self::ActorScaled {
                actor: members.actor(),
                max: members.count("max_instances"),
                others: members.count(OTHERS),
            },
            "actor_updated" => Self::ActorUpdated {
                public_key: members.text("public_key"),
                revision: members.number("revision"),
                instance_id: members.text("instance_id"),
                share: data[SHARE].as_u64().and_then(|share| u8::try_from(share).ok()),
            },
            "nats_returned" => Self::NatsReturned { away_ms: members.number("away_ms") },
            "host_cut_off" => Self::HostCutOff,
            "rollout_changed" => match serde_json::from_value(data["rollout"].clone()) {
                Ok(rollout) => Self::RolloutChanged {
                    application: members.text("application"),
                    rollout,
                    percent: data["percent"].as_u64().map_or(0, |percent| percent.min(100) as u8),
                },
                Err(_) => Self::Other(name.to_owned()),
            },
            _ => Self::read_failure(name, members),
        }
    }

    /// Reads the events of actors that do not do what was asked.
    fn read_failure(name: &str, members: Members<'_>) -> Self {
        match name {
            "actor_update_failed" => Self::ActorUpdateFailed {
                public_key: members.text("public_key"),
                revision: members.number("revision"),
                instance_id: members.text("instance_id"),
                reason: members.text("reason"),
            },
            "actor_start_failed" => Self::ActorStartFailed {
                actor_ref: members.text("actor_ref"),
                error: members.text("error"),
            },
            "actors_start_failed" => Self::ActorsStartFailed {
                host_id: members.text("host_id"),
                public_key: members.text("public_key"),
                image_ref: members.text("image_ref"),
                annotations: members.pairs("annotations"),
                error: members.text("error"),
            },
            "actor_scale_failed" => Self::ActorScaleFailed {
                host_id: members.text("host_id"),
                public_key: members.text("public_key"),
                image_ref: members.text("image_ref"),
                annotations: members.pairs("annotations"),
                max: members.count("max_instances"),
                error: members.text("error"),
            },
            "claims_not_in_force" => Self::ClaimsNotInForce {
                public_key: members.text("public_key"),
                image_ref: members.text("image_ref"),
                host_id: members.text("host_id"),
                not_before_human: members.text("not_before_human"),
                expires_human: members.text("expires_human"),
                error: members.text("error"),
            },
            _ => Self::read_other_than_actors(name, members),
        }
    }

    /// Reads the events of providers, and those about the lattice.
    fn read_other_than_actors(name: &str, members: Members<'_>) -> Self {
        match name {
            "provider_started" => Self::ProviderStarted {
                provider: members.provider(),
                claims: members.of("claims").provider_claims(),
            },
            "provider_start_failed" => Self::ProviderStartFailed {
                provider_ref: members.text("provider_ref"),
                link_name: members.text("link_name"),
                error: members.text("error"),
            },
            "provider_stopped" => Self::ProviderStopped {
                provider: members.provider(),
                reason: members.text("reason"),
            },
            "health_check_passed" => Self::HealthCheckPassed(members.provider()),
            "health_check_failed" => Self::HealthCheckFailed(members.provider()),
            "health_check_status" => Self::HealthCheckStatus(members.provider()),
            "linkdef_set_failed" => Self::LinkdefSetFailed {
                link: members.link(),
                host_id: members.text("host_id"),
                error: members.text("error"),
            },
            "command_refused" => Self::CommandRefused {
                host_id: members.text("host_id"),
                command: members.text("command"),
                subject: members.text("subject"),
                error: members.text("error"),
            },
            "linkdef_set" => Self::LinkdefSet(members.link()),
            "linkdef_deleted" => Self::LinkdefDeleted(members.link()),
            "refmap_set" => Self::RefmapSet {
                oci_url: members.text("oci_url"),
                public_key: members.text("public_key"),
            },
            "call_alias_contested" => {
                let contest = Contest {
                    alias: members.text("call_alias"),
                    other: members.claimant("other_public_key", "other_issuer"),
                    other_runs: members.0["other_runs"].as_bool().unwrap_or_default(),
                    claimant: members.claimant("public_key", "issuer"),
                };
                Self::CallAliasContested { contest, message: members.text("message") }
            }
            "call_alias_moved" => Self::CallAliasMoved {
                alias: members.text("call_alias"),
                from: members.claimant("old_public_key", "old_issuer"),
                to: members.claimant("public_key", "issuer"),
            },
            "config_set" => {
                Self::ConfigSet { entity_id: members.text("entity_id"), key: members.text("key") }
            }
            "config_deleted" => Self::ConfigDeleted {
                entity_id: members.text("entity_id"),
                key: members.text("key"),
            },
            _ => Self::Other(name.to_owned()),
        }
    }
}

/// The members of an object, each read by itself.
#[derive(Clone, Copy)]
struct Members<'a>(&'a Value);

impl<'a> Members<'a> {
    fn of(self, member: &str) -> Self {
        Self(&self.0[member])
    }

    fn text(self, member: &str) -> String {
        self.some_text(member).unwrap_or_default()
    }

    fn some_text(self, member: &str) -> Option<String> {
        self.0[member].as_str().map(str::to_owned)
    }

    fn number(self, member: &str) -> u64 {
        self.0[member].as_u64().unwrap_or_default()
    }

    fn count(self, member: &str) -> u32 {
        u32::try_from(self.number(member)).unwrap_or(u32::MAX)
    }

    fn pairs(self, member: &str) -> Annotations {
        let members = self.0[member].as_object().into_iter().flatten();
        members.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
    }

    fn texts(self, member: &str) -> Vec<String> {
        let texts = self.0[member].as_array().into_iter().flatten();
        texts.filter_map(|text| text.as_str().map(str::to_owned)).collect()
    }

    fn actor(self) -> ActorContext {
        ActorContext {
            host_id: self.text("host_id"),
            public_key: self.text("public_key"),
            image_ref: self.text("image_ref"),
            annotations: self.pairs("annotations"),
            claims: self.of("claims").claims(),
        }
    }

    fn claims(self) -> EventClaims {
        EventClaims {
            call_alias: self.some_text("call_alias"),
            caps: self.texts("caps"),
            issuer: self.text("issuer"),
            tags: self.texts("tags"),
            name: self.text("name"),
            version: self.some_text("version"),
            revision: self.0["revision"].as_i64().and_then(|revision| i32::try_from(revision).ok()),
            not_before_human: self.text("not_before_human"),
            expires_human: self.text("expires_human"),
        }
    }

    fn provider(self) -> ProviderContext {
        ProviderContext {
            host_id: self.text("host_id"),
            public_key: self.text("public_key"),
            link_name: self.text("link_name"),
            contract_id: self.text("contract_id"),
            image_ref: self.text("image_ref"),
            annotations: self.pairs("annotations"),
            instance_id: self.text("instance_id"),
        }
    }

    fn provider_claims(self) -> ProviderEventClaims {
        ProviderEventClaims {
            issuer: self.text("issuer"),
            name: self.text("name"),
            version: self.text("version"),
            not_before_human: self.text("not_before_human"),
            expires_human: self.text("expires_human"),
        }
    }

    fn link(self) -> LinkDefinition {
        LinkDefinition {
            actor_id: self.text("actor_id"),
            provider_id: self.text("provider_id"),
            link_name: self.text("link_name"),
            contract_id: self.text("contract_id"),
            values: self.pairs("values"),
        }
    }

    fn claimant(self, actor_id: &str, issuer: &str) -> Claimant {
        Claimant { actor_id: self.text(actor_id).into(), issuer: self.text(issuer) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn received(name: &str, data: &Value) -> Received {
        let kind = format!("com.wasmcloud.lattice.{name}");
        let envelope = json!({"type": kind, "source": "N", "data": data, "specversion": "1.0"});
        Received::parse(envelope.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_is_sent_is_read_back() {
        let claims = json!({"call_alias": "a", "caps": ["c"], "issuer": "A", "tags": ["t"], "name": "n",
            "version": null, "revision": 3, "not_before_human": "immediately", "expires_human": "never"});
        let actor =
            json!({"host_id": "N", "public_key": "M", "image_ref": "r", "annotations": {"k": "v"}});
        let provider = json!({"public_key": "V", "link_name": "l", "contract_id": "c"});
        let run = json!({"host_id": "N", "instance_id": "i", "annotations": {"k": "v"}});
        let link = json!({"actor_id": "M", "provider_id": "V", "link_name": "l", "contract_id": "c",
            "values": {"a": "b"}});
        let with = |base: &Value, more: Value| {
            let mut members = base.as_object().unwrap().clone();
            members.extend(more.as_object().unwrap().clone());
            Value::Object(members)
        };
        for (name, data) in [
            ("host_stopped", json!({"labels": {"k": "v"}})),
            ("host_heartbeat", json!({"actors": {"M": 1}, "anything": [null]})),
            ("actors_started", with(&actor, json!({"claims": claims, "count": 2}))),
            ("actors_stopped", with(&actor, json!({"count": 2, "remaining": 1}))),
            ("actor_scaled", with(&actor, json!({"claims": claims, "max_instances": u32::MAX}))),
            ("actor_updated", json!({"public_key": "M", "revision": 2, "instance_id": "i"})),
            (
                "actor_updated",
                json!({"public_key": "M", "revision": 2, "instance_id": "i", "share": 20}),
            ),
            (
                "actor_scaled",
                with(&actor, json!({"claims": claims, "max_instances": 0, "other_instances": 3})),
            ),
            (
                "rollout_changed",
                json!({"application": "shop", "percent": 20, "rollout":
                    {"at": 1, "from": "v1", "to": "v2", "step": 0, "state": {"takenback": {"why": "slow"}}}}),
            ),
            (
                "actor_update_failed",
                json!({"public_key": "M", "revision": 2, "instance_id": "i", "reason": "w"}),
            ),
            ("actor_start_failed", json!({"actor_ref": "r", "error": "w"})),
            ("actors_start_failed", with(&actor, json!({"error": "w"}))),
            (
                "actor_scale_failed",
                with(&actor, json!({"actor_ref": "r", "max_instances": 1, "error": "w"})),
            ),
            ("provider_start_failed", json!({"provider_ref": "r", "link_name": "l", "error": "w"})),
            (
                "provider_stopped",
                with(&with(&provider, run), json!({"annotaions": {"k": "v"}, "reason": "stopped"})),
            ),
            ("health_check_passed", provider.clone()),
            ("health_check_failed", provider.clone()),
            ("health_check_status", provider),
            (
                "command_refused",
                json!({"host_id": "N", "command": "link put", "subject": "s", "error": "w"}),
            ),
            ("nats_returned", json!({"away_ms": 12_000})),
            ("host_cut_off", json!({})),
            ("refmap_set", json!({"oci_url": "r", "public_key": "M"})),
            (
                "call_alias_contested",
                json!({"call_alias": "a", "public_key": "M1", "issuer": "A1", "other_public_key": "M2",
                    "other_issuer": "A2", "other_runs": true, "message": "in words"}),
            ),
            (
                "call_alias_moved",
                json!({"call_alias": "a", "public_key": "M1", "issuer": "A1", "old_public_key": "M2",
                    "old_issuer": "A2"}),
            ),
            ("config_set", json!({"entity_id": "M", "key": "k"})),
            ("config_deleted", json!({"entity_id": "M", "key": "k"})),
        ] {
            let Received { source, event, data: kept, .. } = received(name, &data);
            assert_eq!((&*source, event.name(), &kept), ("N", name, &data));
            assert_eq!(event.data(), data, "{name}");
        }
        let Event::LinkdefSet(set) = received("linkdef_set", &link).event else { panic!("a link") };
        assert_eq!((&*set.provider_id, &*set.values["a"]), ("V", "b"));
    }

    #[test]
    fn an_event_is_read_as_far_as_it_makes_sense() {
        let data = json!({"public_key": "M", "max_instances": "many", "annotations": null, "new": {},
            "claims": {"name": "Echo", "tags": null, "revision": "3"}});
        let Event::ActorScaled { actor, max, .. } = received("actor_scaled", &data).event else {
            panic!("an actor")
        };
        assert_eq!((&*actor.public_key, &*actor.claims.name, max), ("M", "Echo", 0));
        assert!(
            actor.annotations.is_empty()
                && actor.claims.tags.is_empty()
                && actor.image_ref.is_empty()
        );
        assert!(
            matches!(received("something_new", &Value::Null).event, Event::Other(name) if name == "something_new")
        );
        for none in [&b"{}"[..], b"[", br#"{"type": 1}"#, br#"{"type": "a", "source": null}"#] {
            assert!(Received::parse(none).is_none());
        }
    }
}

//! The events of hosts, as types. Names and members are those of the lattice protocol, section 7;
//! where eras differ the union is sent, because one client aborts on what another one needs.
//! [`read`](super::read) makes them out of what other hosts send.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    applications::rollout::Rollout,
    identity::{claims::ActorClaims, provider::ProviderClaims},
    links::{Claimant, Contest, LinkDefinition},
};

/// Key/value pairs a client attaches to what it starts.
pub type Annotations = BTreeMap<String, String>;

/// Says whether `annotations` contain every pair of `wanted`.
pub fn has_all(annotations: &Annotations, wanted: &Annotations) -> bool {
    wanted.iter().all(|(name, value)| annotations.get(name) == Some(value))
}

/// Which instances of which actor an event is about.
#[derive(Clone, Debug)]
pub struct ActorContext {
    pub host_id: String,
    pub public_key: String,
    /// The reference of the request, byte for byte: clients compare it.
    pub image_ref: String,
    pub annotations: Annotations,
    pub claims: EventClaims,
}

/// Which run of which provider an event is about.
#[derive(Clone, Debug)]
pub struct ProviderContext {
    pub host_id: String,
    pub public_key: String,
    pub link_name: String,
    pub contract_id: String,
    /// The reference of the request, byte for byte: clients compare it.
    pub image_ref: String,
    pub annotations: Annotations,
    /// This run; a restart has another.
    pub instance_id: String,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    HostStarted {
        labels: BTreeMap<String, String>,
        friendly_name: String,
        version: String,
    },
    HostStopped {
        labels: BTreeMap<String, String>,
    },
    HostHeartbeat(Value),
    /// One instance (2022's form); `instance_id` is its own.
    ActorStarted {
        actor: ActorContext,
        instance_id: String,
    },
    ActorsStarted {
        actor: ActorContext,
        count: u32,
    },
    ActorStopped {
        actor: ActorContext,
        instance_id: String,
    },
    ActorsStopped {
        actor: ActorContext,
        count: u32,
        remaining: u32,
        /// Instances of the actor on this host with other annotations.
        others: u32,
    },
    ActorScaled {
        actor: ActorContext,
        max: u32,
        /// Instances of the actor on this host with other annotations.
        others: u32,
    },
    /// An actor runs another revision, or a revision takes a share of the calls beside it.
    ActorUpdated {
        public_key: String,
        revision: u64,
        instance_id: String,
        /// The share in percent; 0 when the revision runs alone again.
        share: Option<u8>,
    },
    ActorUpdateFailed {
        public_key: String,
        revision: u64,
        instance_id: String,
        reason: String,
    },
    ActorStartFailed {
        actor_ref: String,
        error: String,
    },
    ActorsStartFailed {
        host_id: String,
        public_key: String,
        image_ref: String,
        annotations: Annotations,
        error: String,
    },
    ActorScaleFailed {
        host_id: String,
        public_key: String,
        image_ref: String,
        annotations: Annotations,
        max: u32,
        error: String,
    },
    /// The claims of something that runs have expired, or do not count yet; its calls are refused.
    ClaimsNotInForce {
        public_key: String,
        image_ref: String,
        host_id: String,
        not_before_human: String,
        expires_human: String,
        error: String,
    },
    ProviderStarted {
        provider: ProviderContext,
        claims: ProviderEventClaims,
    },
    ProviderStartFailed {
        provider_ref: String,
        link_name: String,
        error: String,
    },
    ProviderStopped {
        provider: ProviderContext,
        /// `stopped` when it was asked for, else how the process ended.
        reason: String,
    },
    /// A provider answers as healthy for the first time, or again.
    HealthCheckPassed(ProviderContext),
    HealthCheckFailed(ProviderContext),
    /// A check that found what the one before found.
    HealthCheckStatus(ProviderContext),
    /// A provider of this host cannot take a link on.
    LinkdefSetFailed {
        link: LinkDefinition,
        host_id: String,
        error: String,
    },
    /// A command of the control interface was refused. Clients of earlier years do not know this
    /// event.
    CommandRefused {
        host_id: String,
        command: String,
        subject: String,
        error: String,
    },
    /// A host has its NATS server again after so many milliseconds; 0 if that was too short to
    /// tell. Clients of earlier years know neither this event nor the next two.
    NatsReturned {
        away_ms: u64,
    },
    /// A host starts whose process ended without a goodbye before.
    HostCutOff,
    /// A version of an application begins to take over step by step, goes on, or ends that.
    RolloutChanged {
        application: String,
        rollout: Rollout,
        /// The share of the calls that the new version takes, in percent.
        percent: u8,
    },
    LinkdefSet(LinkDefinition),
    LinkdefDeleted(LinkDefinition),
    RefmapSet {
        oci_url: String,
        public_key: String,
    },
    /// An actor starts whose call alias another one claims.
    CallAliasContested {
        contest: Contest,
        /// The contest in the words of its host.
        message: String,
    },
    /// An actor with a call alias runs nowhere any more, and another claimant has it.
    CallAliasMoved {
        alias: String,
        from: Claimant,
        to: Claimant,
    },
    ConfigSet {
        entity_id: String,
        key: String,
    },
    ConfigDeleted {
        entity_id: String,
        key: String,
    },
    /// An event of another host that this one does not know, by its name. It is never sent.
    Other(String),
}

/// A member of events about some of an actor's instances: how many others there are, if any.
pub(super) const OTHERS: &str = "other_instances";
/// A member of updates that leave the revision before at work.
pub(super) const SHARE: &str = "share";

/// Returns data with a member that is left out where it says nothing.
fn with(mut data: Value, member: &str, number: Option<u32>) -> Value {
    if let Some(number) = number {
        data[member] = json!(number);
    }
    data
}

/// Stands in events where something has no name, version or key.
pub const NOT_AVAILABLE: &str = "N/A";

/// The claims member of actor events: `caps` is never null, `name` never missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventClaims {
    pub call_alias: Option<String>,
    pub caps: Vec<String>,
    pub issuer: String,
    pub tags: Vec<String>,
    pub name: String,
    pub version: Option<String>,
    pub revision: Option<i32>,
    pub not_before_human: String,
    pub expires_human: String,
}

impl From<&ActorClaims> for EventClaims {
    fn from(claims: &ActorClaims) -> Self {
        Self {
            call_alias: claims.call_alias.clone(),
            caps: claims.caps.clone(),
            issuer: claims.issuer.clone(),
            tags: claims.tags.clone(),
            name: claims.name.clone().unwrap_or_else(|| NOT_AVAILABLE.to_owned()),
            version: claims.version.clone(),
            revision: claims.revision,
            not_before_human: claims.not_before_human(),
            expires_human: claims.expires_human(),
        }
    }
}

/// The claims member of provider events, of texts only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderEventClaims {
    pub issuer: String,
    pub name: String,
    pub version: String,
    pub not_before_human: String,
    pub expires_human: String,
}

impl From<&ProviderClaims> for ProviderEventClaims {
    fn from(claims: &ProviderClaims) -> Self {
        Self {
            issuer: claims.issuer.clone(),
            name: claims.name.clone().unwrap_or_else(|| NOT_AVAILABLE.to_owned()),
            version: claims.version.clone().unwrap_or_else(|| NOT_AVAILABLE.to_owned()),
            not_before_human: claims.not_before_human(),
            expires_human: claims.expires_human(),
        }
    }
}

impl Event {
    /// The last token of the event's type and of its own subject.
    pub fn name(&self) -> &str {
        match self {
            Self::HostStarted { .. } => "host_started",
            Self::HostStopped { .. } => "host_stopped",
            Self::HostHeartbeat(_) => "host_heartbeat",
            Self::ActorStarted { .. } => "actor_started",
            Self::ActorsStarted { .. } => "actors_started",
            Self::ActorStopped { .. } => "actor_stopped",
            Self::ActorsStopped { .. } => "actors_stopped",
            Self::ActorScaled { .. } => "actor_scaled",
            Self::ActorUpdated { .. } => "actor_updated",
            Self::NatsReturned { .. } => "nats_returned",
            Self::HostCutOff => "host_cut_off",
            Self::RolloutChanged { .. } => "rollout_changed",
            Self::ActorUpdateFailed { .. } => "actor_update_failed",
            Self::ActorStartFailed { .. } => "actor_start_failed",
            Self::ActorsStartFailed { .. } => "actors_start_failed",
            Self::ActorScaleFailed { .. } => "actor_scale_failed",
            Self::ClaimsNotInForce { .. } => "claims_not_in_force",
            Self::ProviderStarted { .. } => "provider_started",
            Self::ProviderStartFailed { .. } => "provider_start_failed",
            Self::ProviderStopped { .. } => "provider_stopped",
            Self::HealthCheckPassed(_) => "health_check_passed",
            Self::HealthCheckFailed(_) => "health_check_failed",
            Self::HealthCheckStatus(_) => "health_check_status",
            Self::LinkdefSetFailed { .. } => "linkdef_set_failed",
            Self::CommandRefused { .. } => "command_refused",
            Self::LinkdefSet(_) => "linkdef_set",
            Self::LinkdefDeleted(_) => "linkdef_deleted",
            Self::RefmapSet { .. } => "refmap_set",
            Self::CallAliasContested { .. } => "call_alias_contested",
            Self::CallAliasMoved { .. } => "call_alias_moved",
            Self::ConfigSet { .. } => "config_set",
            Self::ConfigDeleted { .. } => "config_deleted",
            Self::Other(name) => name,
        }
    }

    /// The data member: always an object, no null where a client wants a text.
    pub fn data(&self) -> Value {
        match self {
            Self::HostStarted { labels, friendly_name, version } => {
                json!({"labels": labels, "friendly_name": friendly_name, "uptime_seconds": 0, "version": version})
            }
            Self::HostStopped { labels } => json!({"labels": labels}),
            Self::HostHeartbeat(data) => data.clone(),
            Self::ActorStarted { actor, instance_id } => json!({
                "public_key": actor.public_key, "image_ref": actor.image_ref, "api_version": "n/a", "instance_id": instance_id,
                "annotations": actor.annotations, "host_id": actor.host_id, "claims": actor.claims,
            }),
            Self::ActorsStarted { actor, count } => json!({
                "public_key": actor.public_key, "image_ref": actor.image_ref, "annotations": actor.annotations,
                "host_id": actor.host_id, "claims": actor.claims, "count": count,
            }),
            Self::ActorStopped { actor, instance_id } => json!({
                "public_key": actor.public_key, "instance_id": instance_id, "annotations": actor.annotations,
                "host_id": actor.host_id, "image_ref": actor.image_ref,
            }),
            Self::ActorsStopped { actor, count, remaining, others } => {
                let data = json!({
                    "host_id": actor.host_id, "public_key": actor.public_key, "count": count, "remaining": remaining,
                    "annotations": actor.annotations, "image_ref": actor.image_ref,
                });
                with(data, OTHERS, (*others > 0).then_some(*others))
            }
            Self::ActorScaled { actor, max, others } => {
                let data = json!({
                    "public_key": actor.public_key, "claims": actor.claims, "annotations": actor.annotations,
                    "host_id": actor.host_id, "image_ref": actor.image_ref, "max_instances": max,
                });
                with(data, OTHERS, (*others > 0).then_some(*others))
            }
            Self::ActorUpdated { public_key, revision, instance_id, share } => {
                let data = json!({"public_key": public_key, "revision": revision, "instance_id": instance_id});
                with(data, SHARE, share.map(u32::from))
            }
            Self::ActorUpdateFailed { public_key, revision, instance_id, reason } => {
                json!({"public_key": public_key, "revision": revision, "instance_id": instance_id, "reason": reason})
            }
            Self::ActorStartFailed { actor_ref, error } => {
                json!({"actor_ref": actor_ref, "error": error})
            }
            Self::ActorsStartFailed { host_id, public_key, image_ref, annotations, error } => {
                json!({
                    "host_id": host_id, "public_key": public_key, "image_ref": image_ref, "annotations": annotations, "error": error,
                })
            }
            // A client of 2024 gives up on this event when `actor_ref` is missing, others read
            // `image_ref`.
            Self::ActorScaleFailed { host_id, public_key, image_ref, annotations, max, error } => {
                json!({
                    "host_id": host_id, "public_key": public_key, "image_ref": image_ref, "actor_ref": image_ref,
                    "annotations": annotations, "max_instances": max, "error": error,
                })
            }
            Self::ClaimsNotInForce {
                public_key,
                image_ref,
                host_id,
                not_before_human,
                expires_human,
                error,
            } => {
                json!({
                    "public_key": public_key, "image_ref": image_ref, "host_id": host_id,
                    "not_before_human": not_before_human, "expires_human": expires_human, "error": error,
                })
            }
            // A deployment manager takes tags as null or a text, and needs name and version to be
            // texts.
            Self::ProviderStarted { provider, claims } => json!({
                "host_id": provider.host_id, "public_key": provider.public_key, "image_ref": provider.image_ref,
                "link_name": provider.link_name, "contract_id": provider.contract_id, "instance_id": provider.instance_id,
                "annotations": provider.annotations,
                "claims": {
                    "issuer": claims.issuer, "tags": null, "name": claims.name, "version": claims.version,
                    "not_before_human": claims.not_before_human, "expires_human": claims.expires_human,
                },
            }),
            // `annotaions` is how a manager of 2024 reads the annotations of a stop.
            Self::ProviderStopped { provider, reason } => json!({
                "host_id": provider.host_id, "public_key": provider.public_key, "link_name": provider.link_name,
                "contract_id": provider.contract_id, "instance_id": provider.instance_id,
                "annotations": provider.annotations, "annotaions": provider.annotations, "reason": reason,
            }),
            Self::HealthCheckPassed(provider)
            | Self::HealthCheckFailed(provider)
            | Self::HealthCheckStatus(provider) => {
                json!({
                    "public_key": provider.public_key, "link_name": provider.link_name,
                    "contract_id": provider.contract_id,
                })
            }
            Self::LinkdefSetFailed { link, host_id, error } => {
                // Without the values: an error goes where everybody reads, and values may hold
                // passwords.
                json!({
                    "id": link.id(), "actor_id": link.actor_id, "provider_id": link.provider_id,
                    "link_name": link.link_name, "contract_id": link.contract_id, "host_id": host_id, "error": error,
                })
            }
            Self::CommandRefused { host_id, command, subject, error } => {
                json!({"host_id": host_id, "command": command, "subject": subject, "error": error})
            }
            Self::NatsReturned { away_ms } => json!({"away_ms": away_ms}),
            Self::RolloutChanged { application, rollout, percent } => {
                json!({"application": application, "rollout": rollout, "percent": percent})
            }
            Self::ProviderStartFailed { provider_ref, link_name, error } => {
                json!({"provider_ref": provider_ref, "link_name": link_name, "error": error})
            }
            Self::LinkdefSet(link) | Self::LinkdefDeleted(link) => {
                serde_json::to_value(link.identified()).unwrap_or_else(|_| json!({}))
            }
            Self::RefmapSet { oci_url, public_key } => {
                json!({"oci_url": oci_url, "public_key": public_key})
            }
            Self::CallAliasContested { contest, message } => json!({
                "call_alias": contest.alias, "public_key": contest.claimant.actor_id, "issuer": contest.claimant.issuer,
                "other_public_key": contest.other.actor_id, "other_issuer": contest.other.issuer,
                "other_runs": contest.other_runs, "message": message,
            }),
            Self::CallAliasMoved { alias, from, to } => json!({
                "call_alias": alias, "public_key": to.actor_id, "issuer": to.issuer, "old_public_key": from.actor_id,
                "old_issuer": from.issuer,
            }),
            Self::ConfigSet { entity_id, key } | Self::ConfigDeleted { entity_id, key } => {
                json!({"entity_id": entity_id, "key": key})
            }
            Self::HostCutOff | Self::Other(_) => json!({}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::keys::ActorId;

    const ACTOR: &str = "MDWUSKGGFDI4FRXK5EBTRECZSVQSSWJHHJOGH6JWG3AUMFFMQ435C2JZ";

    fn actor() -> ActorContext {
        ActorContext {
            host_id: "NHOST".into(),
            public_key: ACTOR.into(),
            image_ref: "file:///a.wasm".into(),
            annotations: Annotations::from([("a".into(), "b".into())]),
            claims: EventClaims::from(&ActorClaims {
                subject: ActorId::parse(ACTOR).unwrap(),
                issuer: "AISSUER".into(),
                name: None,
                caps: vec![],
                tags: vec![],
                revision: None,
                version: None,
                call_alias: None,
                issued_at: 1,
                expires: None,
                not_before: None,
                hash: String::new(),
            }),
        }
    }

    /// Checks members that clients were seen to need; a change here breaks one of them.
    #[test]
    fn actor_events_have_the_members_of_all_eras() {
        let claims = json!({"call_alias": null, "caps": [], "issuer": "AISSUER", "tags": [], "name": "N/A", "version": null,
            "revision": null, "not_before_human": "immediately", "expires_human": "never"});
        let started = Event::ActorsStarted { actor: actor(), count: 2 };
        assert_eq!(
            started.data(),
            json!({"public_key": ACTOR, "image_ref": "file:///a.wasm", "annotations": {"a": "b"}, "host_id": "NHOST",
                "claims": claims, "count": 2})
        );
        let one = Event::ActorStarted { actor: actor(), instance_id: "i".into() };
        assert_eq!(
            one.data(),
            json!({"public_key": ACTOR, "image_ref": "file:///a.wasm", "api_version": "n/a", "instance_id": "i",
                "annotations": {"a": "b"}, "host_id": "NHOST", "claims": claims})
        );
        let stopped = Event::ActorsStopped { actor: actor(), count: 1, remaining: 1, others: 0 };
        assert_eq!(
            stopped.data(),
            json!({"host_id": "NHOST", "public_key": ACTOR, "count": 1, "remaining": 1, "annotations": {"a": "b"},
                "image_ref": "file:///a.wasm"})
        );
        let scaled = Event::ActorScaled { actor: actor(), max: 0, others: 0 };
        assert_eq!(scaled.data()["max_instances"], 0);
        assert_eq!(scaled.name(), "actor_scaled");
    }

    #[test]
    fn a_failed_scale_names_the_reference_twice() {
        let failed = Event::ActorScaleFailed {
            host_id: "NHOST".into(),
            public_key: "N/A".into(),
            image_ref: "r".into(),
            annotations: Annotations::new(),
            max: 1,
            error: "because of \"it\"".into(),
        };
        assert_eq!(
            failed.data(),
            json!({"host_id": "NHOST", "public_key": "N/A", "image_ref": "r", "actor_ref": "r", "annotations": {},
                "max_instances": 1, "error": "because of \"it\""})
        );
    }

    #[test]
    fn link_events_carry_the_id() {
        let link = LinkDefinition {
            actor_id: "Mbob".into(),
            provider_id: "V".into(),
            link_name: "default".into(),
            contract_id: "wasmcloud:testy".into(),
            values: BTreeMap::new(),
        };
        assert_eq!(
            Event::LinkdefSet(link).data(),
            json!({"id": "B40411AD09B70A2C83D59923584F66BA2C5A3C274DC4F19416DA49CCD6531F9C", "actor_id": "Mbob",
                "provider_id": "V", "link_name": "default", "contract_id": "wasmcloud:testy", "values": {}})
        );
    }
}

//! The host's own state, as data: everything that only the host can know and that helps to find a
//! fault. Never a secret.
//!
//! Answering costs two round trips to the NATS server, to measure the way. With `ask` the host also
//! asks those it depends on, the policy service and the registries, whether they answer it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures::{FutureExt, future::join_all};
use tokio::time::{Instant, timeout};

use crate::{
    control::{
        server::{Answer, Server, json, json_within},
        state::VERSION,
    },
    events::troubles::{GivenUp, Kind, Trouble},
    peers::{Peer, refusals::Refusal, sessions::Sessions},
    policy::AskError,
    providers::{
        external::health,
        supervisor::{Condition, Phase},
    },
};
use lattice_base::{
    config::{self, Config},
    lattice::connection::{Nats, confirm},
    registry::reference::Reference,
};
use lattice_protocol::{
    clock,
    control::{
        probe::health::{
            ActorHealth, Failure, GivenUp as ProviderGivenUp, Health, Line, PeerHealth,
            ProviderHealth, Refused, RefusedLink, RegistryStatus, Request, Service, Settings,
            StoreHealth,
        },
        types::Ack,
    },
    errors::chain,
};

/// How long a round trip to the NATS server may take.
const ROUND_TRIP: Duration = Duration::from_millis(800);
/// How long the policy service and registries may take, so that the whole answer comes in time.
const QUESTION: Duration = Duration::from_millis(1500);
/// Rows of each list in an answer.
const ROWS_MAX: usize = 1024;
/// Registries that are asked.
const REGISTRIES_MAX: usize = 8;
/// A repository nobody has: a registry that says so has let us in.
const NO_REPOSITORY: &str = "lattice-host/is-anybody-there:0";

/// The parts that only this probe needs.
pub struct ProbeContext {
    pub settings: Settings,
    /// The registry that a login is configured for.
    pub oci_registry: Option<String>,
    pub config_service: ConfigServiceStatus,
}

/// Whether the configuration service has answered; why not, if it has not. Cheap to clone.
#[derive(Clone, Default)]
pub struct ConfigServiceStatus(Arc<ArcSwapOption<anyhow::Result<()>>>);

impl ConfigServiceStatus {
    pub fn note(&self, outcome: anyhow::Result<()>) {
        self.0.store(Some(Arc::new(outcome)));
    }
}

/// The settings that matter to others.
pub fn settings_of(config: &Config) -> Settings {
    Settings {
        allow_file_load: config.allow_file_load,
        allow_latest: config.allow_latest,
        allowed_insecure: config.allowed_insecure.clone(),
        local_calls: config.local_calls,
        rpc_timeout_ms: clock::millis(config.rpc_timeout),
        policy_topic: config.policy.as_ref().map(|config::Policy { topic, .. }| topic.clone()),
        config_service: config.config_service,
        warnings: config.warnings.clone(),
    }
}

impl Server {
    pub(in crate::control) fn probe_health(self: &Arc<Self>, payload: &Bytes) -> Answer {
        // A malformed request is answered like an empty one: it cannot ask for anything wrong.
        let request: Request = serde_json::from_slice(payload).unwrap_or_default();
        let server = Arc::clone(self);
        async move { fitting(server.health(&request).await, server.payload_max()) }.boxed()
    }

    async fn health(&self, Request { ask }: &Request) -> Health {
        let (context, probe) = (&self.parts.context, &self.parts.probe_context);
        let sessions = &context.sessions;
        let asked = async { if *ask { self.ask_registries().await } else { Vec::new() } };
        let (ctl, rpc, policy, asked) =
            tokio::join!(line(&context.ctl), line(&context.rpc), self.policy_health(*ask), asked);
        let mut registries = self.last_pulls();
        registries.extend(asked);
        let facts = context.state.facts();
        Health {
            host_id: facts.id.to_string(),
            friendly_name: facts.friendly_name.clone(),
            version: VERSION.to_owned(),
            uptime_seconds: context.state.uptime().as_secs(),
            lattice: facts.lattice.clone(),
            js_domain: facts.js_domain.clone(),
            cluster_key: facts.issuer.clone(),
            cluster_issuers: facts.cluster_issuers.clone(),
            store: self.store_health(),
            ctl,
            rpc,
            settings: probe.settings.clone(),
            policy,
            config_service: probe.settings.config_service.then(|| {
                let outcome = probe.config_service.0.load();
                Service::new(&context.subjects.config_service(), outcome.as_deref())
            }),
            registries,
            links: self.refused_links(),
            failures: context.events.troubles().lately().into_iter().map(failure).collect(),
            providers: self.parts.providers.conditions().iter().map(provider).collect(),
            actors: self.actors_health(),
            peers: context.peers.known().iter().map(|known| peer(known, sessions)).collect(),
            refused: Refused {
                words: sessions.refused(Refusal::Word),
                calls: sessions.refused(Refusal::Call),
                answers: sessions.refused(Refusal::Answer),
            },
            tokens: Some(context.tokens.health()),
            twin_ms: context.peers.twins().map(clock::millis),
            is_cut: false,
            // Last, so that it is as little late as can be.
            now_ms: clock::now_ms(),
        }
    }

    /// Returns how the policy service answers, to a question now or to the last one.
    async fn policy_health(&self, ask: bool) -> Option<Service> {
        let policy = &self.parts.context.policy;
        let topic = policy.topic()?;
        let outcome = match ask {
            true => match timeout(QUESTION, policy.check()).await {
                Ok(outcome) => outcome,
                Err(_) => Some(Err(AskError::TimedOut { limit_ms: QUESTION.as_millis() })),
            },
            false => policy.last_outcome(),
        };
        Some(Service::new(topic, outcome.as_ref()))
    }

    fn store_health(&self) -> StoreHealth {
        let (backend, story) =
            (self.parts.context.store.backend(), self.parts.context.store.story());
        StoreHealth {
            place: backend.place(),
            is_shared: backend.is_shared(),
            is_away: backend.is_away(),
            is_reachable: backend.is_reachable(),
            is_known: *self.parts.context.links.synced().borrow(),
            since_ms: clock::unix_ms(story.since),
            error: story.trouble.clone(),
        }
    }

    fn refused_links(&self) -> Vec<RefusedLink> {
        let refused =
            self.parts.router.refused_links().into_iter().map(|(link, error)| RefusedLink {
                actor_id: link.actor_id.clone(),
                provider_id: link.provider_id.clone(),
                link_name: link.link_name.clone(),
                contract_id: link.contract_id.clone(),
                error,
            });
        refused.collect()
    }

    fn actors_health(&self) -> Vec<ActorHealth> {
        let running = self.parts.actors.running();
        let actors = self.parts.router.statuses().into_iter().map(|(id, status)| {
            let view = running.iter().find(|actor| actor.id.as_str() == &*id);
            let room = status.room;
            ActorHealth {
                name: view.and_then(|view| view.name.clone()).unwrap_or_default(),
                reference: view.map(|view| view.reference.clone()).unwrap_or_default(),
                id: id.to_string(),
                expires: status.expires,
                limit: room.map_or(0, |room| room.limit),
                free: room.map_or(0, |room| room.free),
                waiting: room.map_or(0, |room| room.waiting),
                queue_max: room.map_or(0, |room| room.queue_max),
            }
        });
        actors.collect()
    }

    fn last_pulls(&self) -> Vec<RegistryStatus> {
        let outcomes = self.parts.registry.outcomes().into_iter();
        outcomes
            .map(|(registry, error)| RegistryStatus {
                registry,
                error,
                ..RegistryStatus::default()
            })
            .collect()
    }

    /// Asks each registry that something which runs here came from, and the one there is a login
    /// for.
    async fn ask_registries(&self) -> Vec<RegistryStatus> {
        let (actors, providers) = (self.parts.actors.running(), self.parts.providers.running());
        let references = actors.iter().map(|actor| &actor.reference);
        let references = references.chain(providers.iter().map(|provider| &provider.reference));
        let mut seen = BTreeSet::new();
        let mut questions: Vec<(String, String, bool)> = Vec::new();
        for reference in references {
            let Ok(Reference::Image(image)) = Reference::parse(reference) else { continue };
            let registry = image.split('/').next().unwrap_or_default().to_lowercase();
            if seen.insert(registry.clone()) {
                questions.push((registry, reference.clone(), false));
            }
        }
        if let Some(registry) = &self.parts.probe_context.oci_registry {
            let registry = lattice_base::registry::credentials::authority(registry);
            if seen.insert(registry.clone()) {
                let image = format!("{registry}/{NO_REPOSITORY}");
                questions.push((registry, image, true));
            }
        }
        questions.truncate(REGISTRIES_MAX);
        join_all(questions.into_iter().map(|(registry, image, is_greeting)| async move {
            let error = match self.parts.registry.ask(&image, QUESTION).await {
                Ok(()) => None,
                Err(error) if is_greeting && error.is_missing() => None,
                Err(error) => Some(chain(&error)),
            };
            RegistryStatus { registry, asked_for: Some(image), is_greeting, error }
        }))
        .await
    }
}

/// Encodes it, with so much of its lists as one message has room for.
fn fitting(mut health: Health, bytes_max: usize) -> Option<Bytes> {
    let mut rows_max = ROWS_MAX;
    loop {
        health.cut(rows_max);
        if let Some(health) = json_within(&health, bytes_max) {
            return Some(health);
        }
        if rows_max == 0 {
            return json(&Ack::rejected(
                "what the host knows of itself does not fit into one message",
            ));
        }
        rows_max /= 2;
    }
}

async fn line(nats: &Nats) -> Line {
    let began = Instant::now();
    let is_back = matches!(timeout(ROUND_TRIP, confirm(&nats.client)).await, Ok(Ok(())));
    let round_trip_us =
        is_back.then(|| u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
    let info = nats.client.server_info();
    Line {
        is_connected: nats.client.connection_state() == async_nats::connection::State::Connected,
        server: format!("{}:{}", info.host, info.port),
        server_name: info.server_name,
        server_version: info.version,
        server_domain: info.domain,
        cluster: info.cluster,
        jetstream: info.jetstream,
        headers: info.headers,
        max_payload: info.max_payload,
        round_trip_us,
        reconnects: *nats.reconnects.borrow(),
        denied: nats.denied.borrow().clone(),
    }
}

fn failure(trouble: Trouble) -> Failure {
    Failure {
        kind: match trouble.kind {
            Kind::Actor => "actor",
            Kind::Provider => "provider",
        }
        .to_owned(),
        reference: trouble.reference,
        link_name: trouble.link_name,
        error: trouble.error,
        at_ms: clock::unix_ms(trouble.at),
        given_up: trouble.given_up.map(|GivenUp { id, name }| ProviderGivenUp { id, name }),
    }
}

fn peer(peer: &Arc<Peer>, sessions: &Sessions) -> PeerHealth {
    PeerHealth {
        host_id: peer.id.to_string(),
        is_silent: peer.is_lost(),
        silence_ms: clock::millis(peer.silence()),
        has_session: sessions.is_member(&peer.id),
    }
}

fn provider(condition: &Condition) -> ProviderHealth {
    let phase = match condition.phase {
        Phase::Launching => "launching",
        Phase::Running => "running",
        Phase::Pausing => "pausing",
        Phase::Stopping => "stopping",
    };
    let (is_healthy, complaint) = match &*condition.health.borrow() {
        health::Health::Unknown => (None, None),
        health::Health::Healthy => (Some(true), None),
        health::Health::Unhealthy(why) => (Some(false), Some(why.clone())),
    };
    ProviderHealth {
        id: condition.id.to_string(),
        link_name: condition.link_name.to_string(),
        reference: condition.reference.clone(),
        name: condition.name.clone(),
        phase: phase.to_owned(),
        crashes: condition.crashes_in_a_row(),
        last_end: condition.last_end.clone(),
        is_healthy,
        complaint,
        expires: condition.expires,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_knows_of_itself_fits_into_a_message_of_any_size() {
        let link = RefusedLink { error: "e".repeat(200), ..RefusedLink::default() };
        let health = Health { host_id: "N".into(), links: vec![link; 5000], ..Health::default() };
        for (bytes_max, is_enough) in
            [(1 << 20, true), (64 << 10, true), (8 << 10, true), (100, false)]
        {
            let answer = fitting(health.clone(), bytes_max).unwrap();
            let read: Health = serde_json::from_slice(&answer).unwrap();
            assert_eq!((read.is_cut, read.host_id == "N"), (is_enough, is_enough), "{bytes_max}");
            assert!(
                !is_enough || (answer.len() <= bytes_max && !read.links.is_empty()),
                "{bytes_max}"
            );
        }
        let small: Health =
            serde_json::from_slice(&fitting(Health::default(), 1 << 20).unwrap()).unwrap();
        assert!(!small.is_cut);
    }
}

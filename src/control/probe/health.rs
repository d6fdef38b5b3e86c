//! The host's own state, as data: everything that only the host can know and that helps to find a
//! fault. Never a secret.
//!
//! Answering costs two round trips to the NATS server, to measure the way. With `ask` the host also asks those it depends
//! on, the policy service and the registries, whether they answer it.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures::{FutureExt, future::join_all};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use crate::{
    clock,
    config::{self, Config},
    control::{
        request::HostRequest,
        server::{Answer, Server, json, json_within},
        state::VERSION,
        types::Ack,
    },
    errors::chain,
    events::troubles::{Kind, Trouble},
    lattice::{
        connection::{Nats, confirm},
        subject::{Control, Probe},
    },
    policy::AskError,
    providers::{
        external::health,
        supervisor::{Condition, Phase},
    },
    registry::reference::Reference,
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

/// `probe.{host}.health`; an empty request is one too.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// Also ask the policy service and the registries.
    pub ask: bool,
}

impl HostRequest for Request {
    type Reply = Health;

    fn subject(host: String) -> Control {
        Control::Probe { host, probe: Probe::Health }
    }
}

/// The answer. A host of another version may leave out what it does not know.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    pub host_id: String,
    pub friendly_name: String,
    pub version: String,
    /// The host's clock, in milliseconds since 1970.
    pub now_ms: u64,
    pub uptime_seconds: u64,
    pub lattice: String,
    pub js_domain: Option<String>,
    /// The public key it signs calls with.
    pub cluster_key: String,
    /// The keys whose calls it accepts.
    pub cluster_issuers: Vec<String>,
    pub store: StoreHealth,
    pub ctl: Line,
    pub rpc: Line,
    pub settings: Settings,
    pub policy: Option<Service>,
    pub config_service: Option<Service>,
    pub registries: Vec<RegistryStatus>,
    /// Links that built-in providers do not take on.
    pub links: Vec<RefusedLink>,
    /// Starts that failed within the last hour and did not work since.
    pub failures: Vec<Failure>,
    pub providers: Vec<ProviderHealth>,
    pub actors: Vec<ActorHealth>,
    pub peers: Vec<PeerHealth>,
    /// How long ago another process was heard that has the key of this host, in milliseconds; nothing if none ever was.
    pub twin_ms: Option<u64>,
    /// There is more of these than an answer has room for.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_cut: bool,
}

impl Health {
    /// Encodes it, with so much of its lists as one message has room for.
    fn fitting(mut self, bytes_max: usize) -> Option<Bytes> {
        let mut rows_max = ROWS_MAX;
        loop {
            self.cut(rows_max);
            if let Some(health) = json_within(&self, bytes_max) {
                return Some(health);
            }
            if rows_max == 0 {
                return json(&Ack::rejected("what the host knows of itself does not fit into one message"));
            }
            rows_max /= 2;
        }
    }

    fn cut(&mut self, rows_max: usize) {
        let Self { registries, links, failures, providers, actors, peers, .. } = self;
        let lengths = [registries.len(), links.len(), failures.len(), providers.len(), actors.len(), peers.len()];
        self.is_cut |= lengths.iter().any(|length| *length > rows_max);
        registries.truncate(rows_max);
        links.truncate(rows_max);
        failures.truncate(rows_max);
        providers.truncate(rows_max);
        actors.truncate(rows_max);
        peers.truncate(rows_max);
    }

    /// Returns the state of a provider under a link name, if the host reports it.
    pub fn provider(&self, id: &str, link_name: &str) -> Option<&ProviderHealth> {
        self.providers.iter().find(|provider| provider.id == id && provider.link_name == link_name)
    }
}

/// Where the lattice's metadata is, seen from a host.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreHealth {
    pub place: String,
    /// It is the bucket that all hosts share.
    pub is_shared: bool,
    /// Others may know more: the bucket cannot be reached from here.
    pub is_away: bool,
    /// The bucket has been heard lately.
    pub is_reachable: bool,
    /// This host knows everything that the lattice knows.
    pub is_known: bool,
    pub since_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A connection to NATS.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Line {
    pub is_connected: bool,
    pub server_name: String,
    pub server_version: String,
    /// `host:port`, as the server says.
    pub server: String,
    pub server_domain: Option<String>,
    pub cluster: Option<String>,
    pub jetstream: bool,
    pub headers: bool,
    pub max_payload: usize,
    /// The time a message takes to the server and back; missing if it did not come back.
    pub round_trip_us: Option<u64>,
    pub reconnects: u64,
    /// The permission errors of the server, in its words.
    pub denied: Vec<String>,
}

/// Settings that matter to others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    pub allow_file_load: bool,
    pub allow_latest: bool,
    pub allowed_insecure: Vec<String>,
    pub local_calls: bool,
    pub rpc_timeout_ms: u64,
    pub policy_topic: Option<String>,
    pub config_service: bool,
    /// Warnings about the settings when the host started.
    pub warnings: Vec<String>,
}

impl Settings {
    pub fn of(config: &Config) -> Self {
        Self {
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
}

/// A service this host asks.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    pub subject: String,
    /// Whether the last question was answered; missing if there was none yet.
    pub answers: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Service {
    /// The outcome is that of the last question, if there was one.
    fn new<E: fmt::Display>(subject: &str, outcome: Option<&Result<(), E>>) -> Self {
        let error = outcome.and_then(|outcome| outcome.as_ref().err()).map(ToString::to_string);
        Self { subject: subject.to_owned(), answers: outcome.map(Result::is_ok), error }
    }
}

/// A registry, and how it answered this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegistryStatus {
    pub registry: String,
    /// The image that was asked for just now; missing if this is how the last pull ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked_for: Option<String>,
    /// It was asked for an image that nobody has, only to see whether it lets this host in.
    pub is_greeting: bool,
    /// The error, if it did not give the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A link that its provider does not take on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RefusedLink {
    pub actor_id: String,
    pub provider_id: String,
    pub link_name: String,
    pub contract_id: String,
    pub error: String,
}

/// A start that failed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Failure {
    /// `actor` or `provider`.
    pub kind: String,
    pub reference: String,
    pub link_name: String,
    pub error: String,
    pub at_ms: u64,
}

/// A provider that was asked for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProviderHealth {
    pub id: String,
    pub link_name: String,
    pub reference: String,
    pub name: String,
    /// `launching`, `running`, `pausing` before it is started again, or `stopping`.
    pub phase: String,
    /// How often in a row it ended by itself.
    pub crashes: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_end: Option<String>,
    /// Missing before its first answer.
    pub is_healthy: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub complaint: Option<String>,
    /// When its claims cease to count, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

/// A running actor.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ActorHealth {
    pub id: String,
    pub name: String,
    pub reference: String,
    /// When its claims cease to count, in seconds since 1970.
    pub expires: Option<u64>,
    /// Calls it may run at a time, how many more may begin now, and how many wait of how many that may.
    pub limit: u32,
    pub free: u32,
    pub waiting: usize,
    pub queue_max: usize,
}

/// Another host, as this one hears it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerHealth {
    pub host_id: String,
    pub is_silent: bool,
    pub silence_ms: u64,
}

impl Server {
    pub(in crate::control) fn probe_health(self: &Arc<Self>, payload: &Bytes) -> Answer {
        // A malformed request is answered like an empty one: it cannot ask for anything wrong.
        let request: Request = serde_json::from_slice(payload).unwrap_or_default();
        let server = Arc::clone(self);
        async move { server.health(&request).await.fitting(server.payload_max()) }.boxed()
    }

    async fn health(&self, Request { ask }: &Request) -> Health {
        let (context, probe) = (&self.parts.context, &self.parts.probe_context);
        let policy = async {
            let topic = context.policy.topic()?;
            let outcome = match ask {
                true => match timeout(QUESTION, context.policy.check()).await {
                    Ok(outcome) => outcome,
                    Err(_) => Some(Err(AskError::TimedOut { limit_ms: QUESTION.as_millis() })),
                },
                false => context.policy.last_outcome(),
            };
            Some(Service::new(topic, outcome.as_ref()))
        };
        let asked = async { if *ask { self.ask_registries().await } else { Vec::new() } };
        let (ctl, rpc, policy, asked) = tokio::join!(line(&context.ctl), line(&context.rpc), policy, asked);
        let mut registries = self.last_pulls();
        registries.extend(asked);
        let facts = self.parts.context.state.facts();
        Health {
            host_id: facts.id.to_string(),
            friendly_name: facts.friendly_name.clone(),
            version: VERSION.to_owned(),
            uptime_seconds: self.parts.context.state.uptime().as_secs(),
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
                Service::new(&self.parts.context.subjects.config_service(), outcome.as_deref())
            }),
            registries,
            links: self.refused_links(),
            failures: self.parts.context.events.troubles().lately().into_iter().map(failure).collect(),
            providers: self.parts.providers.conditions().iter().map(provider).collect(),
            actors: self.actors_health(),
            peers: self
                .parts
                .context
                .peers
                .known()
                .iter()
                .map(|peer| PeerHealth {
                    host_id: peer.id.to_string(),
                    is_silent: peer.is_lost(),
                    silence_ms: clock::millis(peer.silence()),
                })
                .collect(),
            twin_ms: self.parts.context.peers.twins().map(clock::millis),
            is_cut: false,
            // Last, so that it is as little late as can be.
            now_ms: clock::now_ms(),
        }
    }

    fn store_health(&self) -> StoreHealth {
        let (backend, story) = (self.parts.context.store.backend(), self.parts.context.store.story());
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
        let refused = self.parts.router.refused_links().into_iter().map(|(link, error)| RefusedLink {
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
        outcomes.map(|(registry, error)| RegistryStatus { registry, error, ..RegistryStatus::default() }).collect()
    }

    /// Asks each registry that something which runs here came from, and the one there is a login for.
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
            let registry = crate::registry::credentials::authority(registry);
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

async fn line(nats: &Nats) -> Line {
    let began = Instant::now();
    let is_back = matches!(timeout(ROUND_TRIP, confirm(&nats.client)).await, Ok(Ok(())));
    let round_trip_us = is_back.then(|| u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
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
        for (bytes_max, is_enough) in [(1 << 20, true), (64 << 10, true), (8 << 10, true), (100, false)] {
            let answer = health.clone().fitting(bytes_max).unwrap();
            let read: Health = serde_json::from_slice(&answer).unwrap();
            assert_eq!((read.is_cut, read.host_id == "N"), (is_enough, is_enough), "{bytes_max}");
            assert!(!is_enough || (answer.len() <= bytes_max && !read.links.is_empty()), "{bytes_max}");
        }
        let small: Health = serde_json::from_slice(&Health::default().fitting(1 << 20).unwrap()).unwrap();
        assert!(!small.is_cut);
    }
}

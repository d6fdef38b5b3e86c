//! A host's own state, as data: everything that only the host can know and that helps to find a
//! fault. Never a secret.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{control::request::HostRequest, lattice::control::Control};

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
        Control::ProbeHealth { host }
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
    /// The tokens it refused; hosts of before do not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenHealth>,
    /// The messages that were refused since the start because nothing proved whose they are.
    pub refused: Refused,
    /// How long ago another process was heard that has the key of this host, in milliseconds;
    /// nothing if none ever was.
    pub twin_ms: Option<u64>,
    /// There is more of these than an answer has room for.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_cut: bool,
}

impl Health {
    pub fn cut(&mut self, rows_max: usize) {
        let Self { registries, links, failures, providers, actors, peers, .. } = self;
        let lengths = [
            registries.len(),
            links.len(),
            failures.len(),
            providers.len(),
            actors.len(),
            peers.len(),
        ];
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

/// The tokens of calls that a host refused since it started, though they are genuine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenHealth {
    /// The longest age of a token, in seconds; 0 if tokens are taken whatever their time.
    pub window_secs: u64,
    /// Refused for their time.
    pub untimely: u64,
    /// By how many seconds the last of these was signed in the future; below zero in the past.
    pub last_skew_secs: i64,
    /// Refused because they were used before.
    pub repeated: u64,
    /// More calls came than are remembered, so that tokens count for less than the window.
    pub is_shortened: bool,
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
    pub fn new<E: fmt::Display>(subject: &str, outcome: Option<&Result<(), E>>) -> Self {
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
    /// It is a provider that ran, and is not started again since it ended too often.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub given_up: Option<GivenUp>,
}

/// A provider that was given up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GivenUp {
    pub id: String,
    /// The name in its claims.
    pub name: String,
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
    /// Calls it may run at a time, how many more may begin now, and how many wait of how many that
    /// may.
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
    /// It proved to belong to the lattice: calls between it and this host are proven by codes, and
    /// nothing unproven is taken in its name.
    pub has_session: bool,
}

/// Messages in the name of hosts that nothing proved to be theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Refused {
    /// Statements of hosts about themselves.
    pub words: u64,
    pub calls: u64,
    pub answers: u64,
}

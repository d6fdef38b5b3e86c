//! The configuration of the host, checked and final.
//!
//! [`Config::load`] is called before anything is started, and when a host is to reload. It reads
//! all sources (see [`sources`]), finds the value of every row of the table in [`settings`] (see
//! [`resolve`] for who wins), and returns either a configuration no later code needs to doubt, or
//! *all* mistakes:
//!
//! ```text
//! flags ─┐
//! env ───┤
//! dotenv ┼─▶ Layers ─▶ Resolved (value + origin per key) ─▶ Config
//! file ──┘                  └─▶ `config show`                 └─▶ file::write
//! ```
//!
//! Always true: an `Option` in [`Config`] means "off", never "fill me in later"; secrets are
//! [`Secret`]s; every address is a full URL; our own cluster key is among the issuers. Nothing here
//! logs or talks to the network. An invalid seed is a mistake: hosts that replaced it by a fresh
//! one joined the lattice as a stranger.

mod connection;
mod dotenv;
mod environment;
mod file;
mod keys;
pub mod labels;
mod log_files;
mod origin;
mod overruled;
mod resolve;
mod secret;
pub mod settings;
mod sources;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use connection::{Auth, Connection, Tls};
pub use environment::is_ours;
pub use file::{FILE_NAME, Member, WASH_DIR, WriteError, read_object, write};
pub use keys::{Cluster, HostKey, KeyOrigin};
pub use origin::{Mistake, Mistakes, Origin, Problem};
pub use overruled::Overruled;
pub use resolve::{Resolved, Row, superseded};
pub use secret::Secret;
pub use sources::{Context, Environment, ProcessEnvironment, Sources};

use labels::collect;
use sources::Layers;

/// Characters a dashboard's token should have.
const TOKEN_CHARS: usize = 16;

/// The whole configuration of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub lattice: String,
    pub host_key: HostKey,
    pub cluster: Cluster,
    /// Control interface, events, metadata.
    pub ctl: Connection,
    /// Calls on the lattice.
    pub rpc: Connection,
    /// The connection of provider processes.
    pub prov_rpc: Connection,
    pub ctl_topic_prefix: String,
    pub rpc_timeout: Duration,
    /// The longest age of a call's token; zero takes tokens of any time.
    pub token_window: Duration,
    /// Operations that may be made again elsewhere when a host vanishes with them.
    pub repeatable_operations: Vec<String>,
    /// Take nothing from other hosts that they did not sign.
    pub require_signed_answers: bool,
    /// Subjects below which clients get answers, besides the usual inboxes.
    pub inbox_prefixes: Vec<String>,
    /// Between asking a provider to stop and killing it.
    pub provider_delay: Duration,
    /// Names of environment variables that provider processes get.
    pub provider_env: Vec<String>,
    /// Directories below which links may name files and directories; none sets no such bound.
    pub link_paths: Vec<PathBuf>,
    pub js_domain: Option<String>,
    /// Replicas of the metadata bucket, should this host create it.
    pub kv_replicas: usize,
    /// Size in bytes of the buckets of metadata and named configuration, should this host create
    /// them.
    pub kv_max_bytes: Option<u64>,
    pub applications: Applications,
    pub history: History,
    pub attention_webhook: Option<Webhook>,
    /// Size in bytes of the bucket of uploads.
    pub artifacts_max_bytes: Option<u64>,
    /// Size in bytes of the bucket of large payloads.
    pub payload_store_max_bytes: Option<u64>,
    /// Share compiled code with the hosts of the lattice.
    pub shared_code: bool,
    pub allow_latest: bool,
    /// Registries that may be reached over plain HTTP.
    pub allowed_insecure: Vec<String>,
    pub oci: Option<OciCredentials>,
    /// Authorities that registries may be signed by, besides those of the system.
    pub oci_ca: Option<PathBuf>,
    /// Hosts that registry logins may be shown to, besides the registry's own.
    pub oci_token_hosts: Vec<String>,
    /// Longest time a pull may take, with everything.
    pub pull_timeout: Duration,
    /// Size of the cache of images; 0 is none.
    pub oci_cache_bytes_max: u64,
    pub allow_file_load: bool,
    /// Accounts that may sign actors; if there are none, the first one of each actor.
    pub allowed_actor_issuers: Vec<String>,
    /// The same for providers.
    pub allowed_provider_issuers: Vec<String>,
    /// Start providers that are programs of their own.
    pub allow_external_providers: bool,
    /// Ask the config service at start.
    pub config_service: bool,
    pub policy: Option<Policy>,
    /// Core labels included.
    pub labels: BTreeMap<String, String>,
    pub log: Log,
    /// Where commands are noted; `None` if nowhere.
    pub audit_log: Option<AuditLog>,
    /// Whether a crash may leave a core file, with all seeds in it.
    pub core_dumps: bool,
    /// `None` if there is to be none.
    pub dashboard: Option<Dashboard>,
    /// Answer calls in this process where the callee lives here.
    pub local_calls: bool,
    pub actors: Actors,
    pub legacy_cache_delete: bool,
    /// Forget what was started on this host before.
    pub forget: bool,
    pub shutdown_timeout: Duration,
    /// A further place for `host_config.json`.
    pub host_config: Option<PathBuf>,
    /// Secrets of logins that `host_config.json` has in files of their own, with the names of these
    /// files, by the key of the setting.
    login_files: BTreeMap<&'static str, (String, Secret)>,
    /// Worth a line in the log, not worth refusing to start.
    pub warnings: Vec<String>,
}

/// Whether a host keeps applications.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Applications {
    /// Unless a deployment manager of its own does.
    #[default]
    Auto,
    Always,
    Never,
}

impl Applications {
    /// Returns the word of the setting.
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

/// How much of what happened is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// How long; zero keeps nothing.
    pub age: Duration,
    /// Size in bytes of the stream, should this host create it.
    pub bytes_max: Option<u64>,
}

/// Where news about what needs attention are sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// An `http://` or `https://` URL. It may have a token in it, so it is not shown.
    pub url: Secret,
    /// Signs what is sent.
    pub secret: Option<Secret>,
}

/// Login of one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciCredentials {
    pub registry: String,
    pub user: String,
    pub password: Secret,
}

/// The policy service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub topic: String,
    pub changes_topic: Option<String>,
    pub timeout: Duration,
}

/// Where the dashboard is, and who may enter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dashboard {
    /// The port is the first to be tried.
    pub address: SocketAddr,
    pub token: Option<Secret>,
    /// Its host names, in lower case, besides addresses and `localhost`.
    pub names: Vec<String>,
}

/// The level, the format and the place of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub level: tracing::Level,
    pub json: bool,
    /// `None` if it goes to standard error.
    pub file: Option<LogFile>,
}

/// A file of lines, how large it may grow, and how many of it are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    pub path: PathBuf,
    pub bytes_max: u64,
    /// With the one that is written; at least 2, as both settings demand.
    pub files_max: u32,
}

/// Where commands are noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditLog {
    /// Among the lines of the log.
    Stderr,
    File(LogFile),
}

/// Limits of actors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actors {
    /// Calls one instance may serve.
    pub instance_reuse: u32,
    pub memory_max_bytes: usize,
    /// Instances alive at once; `None` sizes the pool from the machine's memory.
    pub instances_max: Option<u32>,
    /// Calls that may wait for one actor.
    pub queue_max: usize,
    /// Memory for all payloads in transit together; `None` takes a share of the machine's memory.
    pub payload_memory_max_bytes: Option<u64>,
}

/// The result of [`Config::load`].
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// Where each value came from.
    pub table: Resolved,
}

impl Config {
    /// Reads and checks everything. Blocks on small files; writes nothing.
    pub fn load(sources: &Sources) -> Result<Loaded, Mistakes> {
        let mut mistakes = Mistakes::default();
        let mut warnings = Vec::new();
        let layers = Layers::read(sources, &mut mistakes, &mut warnings);
        warnings.extend(file::unknown_keys(&layers.file, &layers.file_path));
        let labels = collect(&layers, &sources.labels, &mut warnings);
        let table = Resolved::new(&layers, &sources.dir, labels, &mut mistakes, &mut warnings);
        if !mistakes.0.is_empty() {
            return Err(mistakes);
        }
        let config = Config::build(&table, warnings);
        Ok(Loaded { config, table })
    }

    fn build(table: &Resolved, mut warnings: Vec<String>) -> Self {
        Config {
            lattice: table.text("lattice_prefix").unwrap_or_default(),
            host_key: HostKey::new(table.secret("host_seed").as_ref()),
            cluster: Cluster::new(
                table.secret("cluster_seed").as_ref(),
                table.list("cluster_issuers"),
            ),
            ctl: connection::build(table, "ctl"),
            rpc: connection::build(table, "rpc"),
            prov_rpc: connection::build(table, "prov_rpc"),
            ctl_topic_prefix: table.text("ctl_topic_prefix").unwrap_or_default(),
            rpc_timeout: milliseconds(table, "rpc_timeout_ms"),
            token_window: Duration::from_secs(table.integer("token_window_secs")),
            repeatable_operations: table.list("repeatable_operations"),
            inbox_prefixes: table.list("inbox_prefixes"),
            provider_delay: milliseconds(table, "provider_delay"),
            provider_env: table.list("provider_env"),
            link_paths: table.list("link_paths").into_iter().map(PathBuf::from).collect(),
            js_domain: table.text("js_domain"),
            kv_replicas: size(table, "kv_replicas"),
            kv_max_bytes: bytes(table, "kv_max_bytes"),
            applications: applications(table),
            history: History {
                age: Duration::from_secs(table.integer("history_hours") * 3600),
                bytes_max: bytes(table, "history_max_bytes"),
            },
            attention_webhook: webhook(table, &mut warnings),
            artifacts_max_bytes: bytes(table, "artifacts_max_bytes"),
            payload_store_max_bytes: bytes(table, "payload_store_max_bytes"),
            shared_code: table.boolean("shared_code"),
            allow_latest: table.boolean("allow_latest"),
            allowed_insecure: table.list("allowed_insecure"),
            oci: oci(table, &mut warnings),
            oci_ca: table.path("oci_ca"),
            oci_token_hosts: table.list("oci_token_hosts"),
            pull_timeout: milliseconds(table, "pull_timeout_ms"),
            oci_cache_bytes_max: table.integer("oci_cache_bytes_max"),
            allow_file_load: table.boolean("enable_start_from_fs"),
            allowed_actor_issuers: table.list("allowed_actor_issuers"),
            allowed_provider_issuers: table.list("allowed_provider_issuers"),
            allow_external_providers: table.boolean("allow_external_providers"),
            config_service: table.boolean("config_service_enabled"),
            policy: policy(table, &mut warnings),
            labels: table.labels(),
            dashboard: dashboard(table, &mut warnings),
            core_dumps: table.boolean("core_dumps"),
            log: Log {
                level: level(table),
                json: table.boolean("structured_logging_enabled"),
                file: log_file(table, ["log_file", "log_bytes_max", "log_files_max"]),
            },
            audit_log: audit_log(table),
            local_calls: table.boolean("local_calls"),
            require_signed_answers: table.boolean("require_signed_answers"),
            actors: Actors {
                instance_reuse: number(table, "instance_reuse"),
                memory_max_bytes: size(table, "actor_memory_max_bytes"),
                instances_max: Some(number(table, "actor_instances_max")).filter(|max| *max > 0),
                queue_max: size(table, "call_queue_max"),
                payload_memory_max_bytes: bytes(table, "payload_memory_max_bytes"),
            },
            legacy_cache_delete: table.boolean("legacy_cache_delete"),
            forget: table.boolean("forget"),
            shutdown_timeout: milliseconds(table, "shutdown_timeout_ms"),
            host_config: table.path("host_config"),
            login_files: table.login_files(),
            warnings,
        }
    }
}

fn milliseconds(table: &Resolved, key: &str) -> Duration {
    Duration::from_millis(table.integer(key))
}

fn applications(table: &Resolved) -> Applications {
    match table.text("applications").unwrap_or_default().as_str() {
        "always" => Applications::Always,
        "never" => Applications::Never,
        _ => Applications::Auto,
    }
}

/// The ranges in the table keep every number far below the limit of its type; 4 GiB on a 32-bit
/// machine is the exception, and all it has is then the right answer.
fn size(table: &Resolved, key: &str) -> usize {
    usize::try_from(table.integer(key)).unwrap_or(usize::MAX)
}

/// A number of bytes for which 0 means that nothing is set.
fn bytes(table: &Resolved, key: &str) -> Option<u64> {
    Some(table.integer(key)).filter(|bytes| *bytes > 0)
}

fn number(table: &Resolved, key: &str) -> u32 {
    u32::try_from(table.integer(key)).unwrap_or(u32::MAX)
}

fn level(table: &Resolved) -> tracing::Level {
    match table.text("log_level").unwrap_or_default().as_str() {
        "trace" => tracing::Level::TRACE,
        "debug" => tracing::Level::DEBUG,
        "warn" | "warning" => tracing::Level::WARN,
        "error" => tracing::Level::ERROR,
        _ => tracing::Level::INFO,
    }
}

fn audit_log(table: &Resolved) -> Option<AuditLog> {
    if table.text("audit_log").is_some() {
        return Some(AuditLog::Stderr);
    }
    log_file(table, ["audit_log", "audit_bytes_max", "audit_files_max"]).map(AuditLog::File)
}

/// The file that three settings make: its path, its size, and how many of it are kept.
fn log_file(table: &Resolved, [path, bytes_max, files_max]: [&str; 3]) -> Option<LogFile> {
    Some(LogFile {
        path: table.path(path)?,
        bytes_max: table.integer(bytes_max),
        files_max: number(table, files_max),
    })
}

/// A URL of another kind is no reason to keep a host from starting.
fn webhook(table: &Resolved, warnings: &mut Vec<String>) -> Option<Webhook> {
    let secret = table.secret("attention_webhook_secret").filter(|it| !it.expose().is_empty());
    let url = table.secret("attention_webhook_url").filter(|it| !it.expose().trim().is_empty());
    let Some(url) = url else {
        if secret.is_some() {
            warnings.push(
                "attention_webhook_secret is without effect: attention_webhook_url is not set"
                    .into(),
            );
        }
        return None;
    };
    let text = url.expose().trim();
    if !["http://", "https://"].iter().any(|scheme| text.starts_with(scheme)) {
        warnings.push(
            "attention_webhook_url is without effect: it does not begin with https:// or http://; set it to the whole URL of the \
             receiver"
                .into(),
        );
        return None;
    }
    if secret.is_none() {
        warnings.push(
            "attention_webhook_secret is not set, so the receiver of attention_webhook_url cannot tell who sends"
                .into(),
        );
    }
    Some(Webhook { url, secret })
}

/// Some of the three alone are no mistake: the unprefixed `OCI_REGISTRY` is often set for other
/// programs.
fn oci(table: &Resolved, warnings: &mut Vec<String>) -> Option<OciCredentials> {
    let (registry, user) = (table.text("oci_registry"), table.text("oci_user"));
    match (registry, user, table.secret("oci_password")) {
        (Some(registry), Some(user), Some(password)) => {
            Some(OciCredentials { registry, user, password })
        }
        (None, None, None) => None,
        _ => {
            warnings.push(
                "oci_registry, oci_user and oci_password are used only when all three are set"
                    .into(),
            );
            None
        }
    }
}

/// A short token is no mistake: whoever runs hosts on a closed network may want one.
fn dashboard(table: &Resolved, warnings: &mut Vec<String>) -> Option<Dashboard> {
    let port = u16::try_from(table.integer("dashboard_port")).ok().filter(|port| *port > 0)?;
    let address = table.text("dashboard_address").and_then(|text| text.parse().ok());
    let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let token = table.secret("dashboard_token").filter(|token| !token.expose().trim().is_empty());
    if token.as_ref().is_some_and(|token| token.expose().chars().count() < TOKEN_CHARS) {
        warnings.push(format!(
            "dashboard_token has fewer than {TOKEN_CHARS} characters; a short token can be guessed"
        ));
    }
    let names =
        table.list("dashboard_names").iter().map(|name| name.to_ascii_lowercase()).collect();
    Some(Dashboard { address: SocketAddr::new(address, port), token, names })
}

fn policy(table: &Resolved, warnings: &mut Vec<String>) -> Option<Policy> {
    let changes_topic = table.text("policy_changes_topic");
    let Some(topic) = table.text("policy_topic") else {
        if changes_topic.is_some() {
            warnings.push("policy_changes_topic is without effect: policy_topic is not set".into());
        }
        return None;
    };
    Some(Policy { topic, changes_topic, timeout: milliseconds(table, "policy_timeout_ms") })
}

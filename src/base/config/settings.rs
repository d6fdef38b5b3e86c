//! The one table of everything that can be set: JSON key, environment variables of all eras, flag,
//! kind, default and help. The command line, the lookup ([`super::resolve`]), the file
//! ([`super::file`]) and `config show` are all generated from it, so a new setting is one new line
//! here plus the field of [`super::Config`] it fills.

use std::{collections::BTreeMap, sync::LazyLock};

use nkeys::KeyPairType;

use crate::budget;
use lattice_protocol::contracts;

/// How the text of a setting is read and checked. See [`super::value`].
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A lattice name: one subject token that is also legal in a bucket name.
    LatticeName,
    /// One subject token (a JetStream domain).
    Token,
    /// A subject without wildcards.
    Subject,
    /// Hosts or `nats://`/`tls://` URLs, comma separated.
    Servers,
    /// A text that must not be shown.
    Secret,
    /// A JWT; not shown either.
    Jwt,
    /// An nkey seed of the given type; not shown either.
    Seed(KeyPairType),
    /// A whole number.
    Integer { min: u64, max: u64 },
    /// A number of bytes, with an optional K, M or G.
    Bytes { min: u64, max: u64 },
    /// Like `Bytes`; 0 leaves the size to the host.
    BytesOrZero { min: u64, max: u64 },
    /// Every way of saying yes and no that earlier hosts knew.
    Bool,
    /// Texts, comma separated or a JSON array.
    List,
    /// Like `List`, each a public cluster key.
    ClusterKeys,
    /// Like `List`, each the absolute path of a directory.
    Directories,
    /// Like `List`, each a subject below which answers may go.
    InboxPrefixes,
    /// Like `List`, each a public account key.
    AccountKeys,
    /// The IP address of a network interface of this machine.
    Address,
    /// A path that need not exist.
    Path,
    /// A path that need not exist, or the word `stderr`.
    PathOrStderr,
    /// A path of a file that must be readable now.
    File,
    /// One of these words, in any case.
    Choice(&'static [&'static str]),
}

impl Kind {
    /// Returns whether values of this kind must be masked.
    pub fn is_secret(&self) -> bool {
        matches!(self, Kind::Secret | Kind::Jwt | Kind::Seed(_))
    }

    /// Returns whether this text of such a setting is a path, which begins in some directory.
    pub fn names_path(&self, text: &str) -> bool {
        match self {
            Kind::File | Kind::Path => true,
            Kind::PathOrStderr => !text.trim().eq_ignore_ascii_case(STDERR),
            _ => false,
        }
    }
}

/// When a setting is part of the written `host_config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Member of the key set of mid-2022, which clients of that time rely on.
    Always,
    /// Ours, or younger than 2022: only if it differs from the default.
    WhenChanged,
    /// Identity of one host or its logging (does not travel with the file), or carried over by
    /// another key.
    Never,
}

/// One row of the table.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Key in `host_config.json`, and the name in messages.
    pub key: &'static str,
    /// Older keys with the same meaning.
    pub other_keys: &'static [&'static str],
    /// Environment variables, the preferred first.
    pub env: &'static [&'static str],
    /// Long flag without the dashes.
    pub flag: &'static str,
    pub short: Option<char>,
    pub aliases: &'static [&'static str],
    pub kind: Kind,
    /// Default as text; empty means "not set".
    pub default: &'static str,
    pub help: &'static str,
    pub written: Written,
}

impl Setting {
    const fn new(
        key: &'static str,
        env: &'static [&'static str],
        flag: &'static str,
        kind: Kind,
        default: &'static str,
        help: &'static str,
    ) -> Self {
        let written = Written::WhenChanged;
        Setting {
            key,
            other_keys: &[],
            env,
            flag,
            short: None,
            aliases: &[],
            kind,
            default,
            help,
            written,
        }
    }

    /// Returns whether a variable of this name is read, one that names a file with the value
    /// included.
    pub fn is_env(&self, name: &str) -> bool {
        let of_file = name.strip_suffix(ENV_FILE).filter(|_| self.kind.is_secret());
        self.env.iter().any(|env| *env == name || Some(*env) == of_file)
    }

    const fn other_keys(mut self, keys: &'static [&'static str]) -> Self {
        self.other_keys = keys;
        self
    }

    const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }

    const fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    const fn written(mut self, written: Written) -> Self {
        self.written = written;
        self
    }
}

/// Every secret may be in a file: `cluster_seed_file` in `host_config.json`, `--cluster-seed-file`
/// and `WASMCLOUD_CLUSTER_SEED_FILE` name one for `cluster_seed`.
const KEY_FILE: &str = "_file";
pub const FLAG_FILE: &str = "-file";
pub const ENV_FILE: &str = "_FILE";

/// Returns the key that names a file with the value of this setting; `None` if it is no secret.
pub fn file_key(setting: &Setting) -> Option<&'static str> {
    static KEYS: LazyLock<BTreeMap<&'static str, String>> = LazyLock::new(|| {
        let secrets = all().filter(|setting| setting.kind.is_secret());
        secrets.map(|setting| (setting.key, format!("{}{KEY_FILE}", setting.key))).collect()
    });
    KEYS.get(setting.key).map(String::as_str)
}

/// Settings that appear under one heading of `--help`.
#[derive(Debug)]
pub struct Group {
    pub heading: &'static str,
    pub settings: &'static [Setting],
}

/// Returns every setting, in the order of the table.
pub fn all() -> impl Iterator<Item = &'static Setting> {
    GROUPS.iter().flat_map(|group| group.settings)
}

/// Returns the setting that a file is named for with this key.
pub fn of_file_key(key: &str) -> Option<&'static Setting> {
    all().find(|setting| file_key(setting) == Some(key))
}

/// Returns the setting with this key; older keys count too.
pub fn find(key: &str) -> Option<&'static Setting> {
    all().find(|setting| setting.key == key || setting.other_keys.contains(&key))
}

/// Returns the key that an unknown one is likely to stand for: that of a flag or a variable of this
/// name, or one that is written like it.
pub fn meant(key: &str) -> Option<&'static str> {
    let flag = key.to_lowercase().replace('_', "-");
    let is_named = |setting: &&Setting| {
        setting.flag == flag
            || setting.aliases.contains(&&*flag)
            || setting.env.iter().any(|name| name.eq_ignore_ascii_case(key))
    };
    let named = all().find(is_named).map(|setting| setting.key);
    named.or_else(|| contracts::nearest(key, all().map(|setting| setting.key)))
}

/// Known in files of earlier hosts (written, never read), so not worth a warning.
pub const IGNORED_KEYS: &[&str] = &["cluster_key", "host_key"];

/// Prefix of the lattice-specific form of `WASMCLOUD_POLICY_CHANGES_TOPIC`.
pub const ENV_POLICY_CHANGES_TOPIC_OF: &str = "WASMCLOUD_POLICY_CHANGES_TOPIC_";
/// `HOST_machine=second` is the label `machine`; the key is lower-cased.
pub const ENV_HOST_LABEL: &str = "HOST_";
/// A setting that looks like a label; see [`super::labels`].
pub const ENV_HOST_CONFIG: &str = "HOST_CONFIG";
/// `WASMCLOUD_LABEL_Zone=a` is the label `Zone`; the case is kept.
pub const ENV_LABEL: &str = "WASMCLOUD_LABEL_";

/// The word for standard error in place of a path.
pub const STDERR: &str = "stderr";

const LOG_LEVELS: &[&str] = &["trace", "debug", "info", "warn", "warning", "error"];
/// An hour is longer than any sensible timeout and keeps sums of two of them far from overflow.
const HOUR_MS: u64 = 3_600_000;
const DAY_SECS: u64 = 86_400;
const KIB: u64 = 1024;
/// Some lines of the longest kind fit into a file.
const LOG_BYTES_MIN: u64 = 64 * KIB;
/// So many names are tried one by one when a file is renamed.
const LOG_FILES_MAX: u64 = 1000;
const TIB: u64 = KIB * KIB * KIB * KIB;

/// The settings of one NATS connection. `$base` in the help tells what an unset one falls back to;
/// `$basic` and `$younger` say when the settings of 2022 and the later ones are written.
macro_rules! connection {
    (
        $heading:literal, $key:literal, $flag:literal, $env:literal, $base:literal,
        host: [$($host_env:literal)?] $host:literal, port: [$($port_env:literal)?] $port:literal,
        seed: [$($seed_env:literal)?], creds: [$($creds_env:literal)?], tls: $tls:literal, written: $basic:ident, $younger:ident
    ) => {
        Group {
            heading: $heading,
            settings: &[
                Setting::new(concat!($key, "_host"), &[concat!($env, "_HOST"), $($host_env)?],
                    concat!($flag, "-host"), Kind::Servers, $host,
                    concat!("NATS host, or hosts and URLs separated by commas", $base))
                    .written(Written::$basic),
                Setting::new(concat!($key, "_port"), &[concat!($env, "_PORT"), $($port_env)?],
                    concat!($flag, "-port"), Kind::Integer { min: 1, max: 65_535 }, $port,
                    concat!("NATS port, where the host does not name one", $base))
                    .written(Written::$basic),
                Setting::new(concat!($key, "_jwt"), &[concat!($env, "_JWT")],
                    concat!($flag, "-jwt"), Kind::Jwt, "",
                    concat!("User JWT; needs the seed too", $base))
                    .written(Written::$basic),
                Setting::new(concat!($key, "_seed"), &[concat!($env, "_SEED"), $($seed_env)?],
                    concat!($flag, "-seed"), Kind::Seed(KeyPairType::User), "",
                    concat!("User nkey seed (SU...)", $base))
                    .written(Written::$basic),
                Setting::new(concat!($key, "_creds"), &[concat!($env, "_CREDSFILE"), $($creds_env)?],
                    concat!($flag, "-creds"), Kind::File, "",
                    concat!("File with user JWT and seed, as made by nsc", $base))
                    .aliases(&[concat!($flag, "-credsfile")]).written(Written::$younger),
                Setting::new(concat!($key, "_user"), &[concat!($env, "_USER")],
                    concat!($flag, "-user"), Kind::Text, "",
                    concat!("User name; needs the password too", $base))
                    .written(Written::$younger),
                Setting::new(concat!($key, "_password"), &[concat!($env, "_PASSWORD")],
                    concat!($flag, "-password"), Kind::Secret, "",
                    concat!("Password of the user", $base))
                    .written(Written::$younger),
                Setting::new(concat!($key, "_token"), &[concat!($env, "_TOKEN")],
                    concat!($flag, "-token"), Kind::Secret, "",
                    concat!("Authentication token", $base))
                    .written(Written::$younger),
                Setting::new(concat!($key, "_tls"), &[concat!($env, "_TLS")],
                    concat!($flag, "-tls"), Kind::Bool, $tls,
                    concat!("Require TLS", $base))
                    .written(Written::$basic),
                Setting::new(concat!($key, "_tls_ca"), &[concat!($env, "_TLS_CA")],
                    concat!($flag, "-tls-ca"), Kind::File, "",
                    concat!("PEM file of the CA to trust; implies TLS", $base))
                    .written(Written::$younger),
                Setting::new(concat!($key, "_tls_cert"), &[concat!($env, "_TLS_CERT")],
                    concat!($flag, "-tls-cert"), Kind::File, "",
                    concat!("PEM file of the client certificate; implies TLS", $base))
                    .written(Written::$younger),
                Setting::new(concat!($key, "_tls_key"), &[concat!($env, "_TLS_KEY")],
                    concat!($flag, "-tls-key"), Kind::File, "",
                    concat!("PEM file of the client certificate's key", $base))
                    .written(Written::$younger),
            ],
        }
    };
}

/// The table.
#[rustfmt::skip]
pub static GROUPS: &[Group] = &[
    Group {
        heading: "Lattice",
        settings: &[
            // Both names come from released hosts; the longer one wins so that `wash up` of 2022,
            // which sets it, is not overruled by a variable left over from a later host.
            Setting::new("lattice_prefix", &["WASMCLOUD_LATTICE_PREFIX", "WASMCLOUD_LATTICE"], "lattice",
                Kind::LatticeName, "default", "Name of the lattice to join")
                .short('x').aliases(&["lattice-prefix"]).written(Written::Always),
            Setting::new("host_seed", &["WASMCLOUD_HOST_SEED"], "host-seed",
                Kind::Seed(KeyPairType::Server), "", "Server nkey seed (SN...) of this host; made once and kept in host_identity.json of its directory without it")
                .written(Written::Never),
            Setting::new("cluster_seed", &["WASMCLOUD_CLUSTER_SEED"], "cluster-seed",
                Kind::Seed(KeyPairType::Cluster), "", "Cluster nkey seed (SC...) that signs calls; made up and kept in host_config.json without it")
                .written(Written::Always),
            Setting::new("cluster_issuers", &["WASMCLOUD_CLUSTER_ISSUERS"], "cluster-issuers",
                Kind::ClusterKeys, "", "Public cluster keys (C...) whose calls are accepted, besides our own")
                .written(Written::Always),
            Setting::new("js_domain", &["WASMCLOUD_JS_DOMAIN"], "js-domain",
                Kind::Token, "", "JetStream domain that holds the lattice metadata")
                .aliases(&["wasmcloud-js-domain"]).written(Written::Always),
            Setting::new("kv_replicas", &["WASMCLOUD_KV_REPLICAS"], "kv-replicas",
                Kind::Integer { min: 1, max: 5 }, "1", "Replicas of the metadata bucket when this host creates it"),
            Setting::new("kv_max_bytes", &["WASMCLOUD_KV_MAX_BYTES"], "kv-max-bytes",
                Kind::Bytes { min: 0, max: TIB }, "0", "Size of the buckets of metadata and of named configuration when this host creates them, like 64M; 0 is no bound, or 64M where the NATS account demands one"),
            Setting::new("applications", &["WASMCLOUD_APPLICATIONS"], "applications",
                Kind::Choice(&["auto", "always", "never"]), "auto", "Keep applications and answer their API (wadm.api): unless a deployment manager of its own does (auto), always, or never"),
            Setting::new("history_hours", &["WASMCLOUD_HISTORY_HOURS"], "history-hours",
                Kind::Integer { min: 0, max: 720 }, "24", "Hours that events, commands, figures and last log lines are kept in the lattice when this host creates their stream; 0 keeps none of this host"),
            Setting::new("history_max_bytes", &["WASMCLOUD_HISTORY_MAX_BYTES"], "history-max-bytes",
                Kind::Bytes { min: 0, max: TIB }, "0", "Size of that stream when this host creates it, like 1G; 0 is 128M, or what the NATS account has"),
            Setting::new("attention_webhook_url", &["WASMCLOUD_ATTENTION_WEBHOOK_URL"], "attention-webhook-url",
                Kind::Secret, "", "URL that is told when something begins or ceases to need attention; once per lattice, by a host with a dashboard")
                .written(Written::Never),
            Setting::new("attention_webhook_secret", &["WASMCLOUD_ATTENTION_WEBHOOK_SECRET"], "attention-webhook-secret",
                Kind::Secret, "", "Secret that signs what is sent there (HMAC-SHA256, header Lattice-Signature)")
                .written(Written::Never),
            Setting::new("artifacts_max_bytes", &["WASMCLOUD_ARTIFACTS_MAX_BYTES"], "artifacts-max-bytes",
                Kind::Bytes { min: 0, max: TIB }, "0", "Size of the bucket of uploads when it is created, like 5G; 0 is no bound, or 1G where the NATS account demands one"),
            Setting::new("payload_store_max_bytes", &["WASMCLOUD_PAYLOAD_STORE_MAX_BYTES"], "payload-store-max-bytes",
                Kind::Bytes { min: 0, max: TIB }, "0", "Size of the bucket through which large payloads travel when this host creates it; 0 is 1G, or what the NATS account has"),
            Setting::new("legacy_cache_delete", &["WASMCLOUD_LEGACY_CACHE_DELETE"], "legacy-cache-delete",
                Kind::Bool, "false", "Delete the metadata stream of 2022 hosts after its content was taken over"),
            Setting::new("forget", &["WASMCLOUD_FORGET"], "forget",
                Kind::Bool, "false", "Start empty, and forget what was started on this host before")
                .written(Written::Never),
        ],
    },
    connection!("NATS, all connections", "nats", "nats", "WASMCLOUD_NATS", "",
        host: ["NATS_HOST"] "127.0.0.1", port: ["NATS_PORT"] "4222",
        // The misspelling is the only name one released host reads.
        seed: ["WASMCOULD_NATS_SEED"], creds: [], tls: "false", written: Never, Never),
    // `wash` reads the names that begin with WASH.
    connection!("NATS, control interface", "ctl", "ctl", "WASMCLOUD_CTL", " [falls back to nats]",
        host: [] "", port: [] "", seed: [], creds: ["WASH_CTL_CREDS"], tls: "", written: Always, WhenChanged),
    connection!("NATS, lattice calls", "rpc", "rpc", "WASMCLOUD_RPC", " [falls back to nats]",
        host: [] "", port: [] "", seed: [], creds: ["WASH_RPC_CREDS"], tls: "", written: Always, WhenChanged),
    connection!("NATS, as handed to providers", "prov_rpc", "prov-rpc", "WASMCLOUD_PROV_RPC", " [falls back to rpc]",
        host: [] "", port: [] "", seed: [], creds: [], tls: "", written: Always, WhenChanged),
    Group {
        heading: "Messages and timeouts",
        settings: &[
            Setting::new("ctl_topic_prefix", &["WASMCLOUD_CTL_TOPIC_PREFIX"], "ctl-topic-prefix",
                Kind::Subject, "wasmbus.ctl", "First tokens of every control subject"),
            Setting::new("rpc_timeout_ms", &["WASMCLOUD_RPC_TIMEOUT_MS"], "rpc-timeout-ms",
                Kind::Integer { min: 1, max: HOUR_MS }, "2000", "Longest time a call may take, in milliseconds")
                .written(Written::Always),
            Setting::new("token_window_secs", &["WASMCLOUD_TOKEN_WINDOW_SECS"], "token-window-secs",
                Kind::Integer { min: 0, max: DAY_SECS }, "300", "Seconds for which the signed token of a call counts, once; 0 takes tokens of any age, as \
                    often as they come, for callers whose clocks are wrong"),
            Setting::new("repeatable_operations", &["WASMCLOUD_REPEATABLE_OPERATIONS"], "repeatable-operations",
                Kind::List, "", "Operations to repeat elsewhere when a host vanishes with a call, like Pets.List; idempotent HTTP requests and reads of \
                    the standard contracts always are"),
            Setting::new("require_signed_answers", &["WASMCLOUD_REQUIRE_SIGNED_ANSWERS"], "require-signed-answers",
                Kind::Bool, "false", "Believe nothing that hosts leave unsigned: hosts of 2022 to 2024 are not seen, and calls to them and to \
                    providers that are programs of their own, also on this machine, fail, since these sign no answers"),
            Setting::new("inbox_prefixes", &["WASMCLOUD_INBOX_PREFIXES"], "inbox-prefixes",
                Kind::InboxPrefixes, "", "Subjects below which clients get answers, besides _INBOX and _INBOX_NAME; other reply subjects are not answered"),
            Setting::new("provider_delay", &["WASMCLOUD_PROV_SHUTDOWN_DELAY_MS"], "provider-shutdown-delay",
                Kind::Integer { min: 0, max: HOUR_MS }, "300", "Milliseconds between asking a provider to stop and killing it")
                .aliases(&["provider-delay"]).written(Written::Always),
            // The newest of the earlier hosts stops within ten seconds; `wash up` waits for that.
            Setting::new("shutdown_timeout_ms", &["WASMCLOUD_SHUTDOWN_TIMEOUT_MS"], "shutdown-timeout-ms",
                Kind::Integer { min: 0, max: HOUR_MS }, "10000", "Longest time a stop may take, in milliseconds"),
            Setting::new("enable_ipv6", &["WASMCLOUD_ENABLE_IPV6"], "enable-ipv6",
                Kind::Bool, "false", "Reach NATS over IPv6")
                .written(Written::Always),
            Setting::new("config_service_enabled", &["WASMCLOUD_CONFIG_SERVICE"], "config-service-enabled",
                Kind::Bool, "false", "Ask the configuration service at start what to run, and for registry credentials")
                .written(Written::Always),
            Setting::new("policy_topic", &["WASMCLOUD_POLICY_TOPIC"], "policy-topic",
                Kind::Subject, "", "Subject of the policy service; no policy checks without it"),
            Setting::new("policy_changes_topic", &["WASMCLOUD_POLICY_CHANGES_TOPIC"], "policy-changes-topic",
                Kind::Subject, "", "Subject on which the policy service revises its decisions"),
            Setting::new("policy_timeout_ms", &["WASMCLOUD_POLICY_TIMEOUT"], "policy-timeout-ms",
                Kind::Integer { min: 1, max: HOUR_MS }, "1000", "Longest wait for the policy service, in milliseconds"),
        ],
    },
    Group {
        heading: "Artifacts",
        settings: &[
            Setting::new("allow_latest", &["WASMCLOUD_OCI_ALLOW_LATEST"], "allow-latest",
                Kind::Bool, "false", "Allow references with the tag `latest`")
                .written(Written::Always),
            Setting::new("allowed_insecure", &["WASMCLOUD_OCI_ALLOWED_INSECURE"], "allowed-insecure",
                Kind::List, "", "Registries that may be reached over plain HTTP")
                .written(Written::Always),
            Setting::new("enable_start_from_fs", &["WASMCLOUD_ALLOW_FILE_LOAD"], "allow-file-load",
                Kind::Bool, "false", "Allow `file://` references")
                .aliases(&["enable-start-from-fs"]),
            Setting::new("allowed_actor_issuers", &["WASMCLOUD_ALLOWED_ACTOR_ISSUERS"], "allowed-actor-issuers",
                Kind::AccountKeys, "", "Accounts (A...) that may sign actors of this host; without any, the first one of each actor"),
            Setting::new("allowed_provider_issuers", &["WASMCLOUD_ALLOWED_PROVIDER_ISSUERS"], "allowed-provider-issuers",
                Kind::AccountKeys, "", "Accounts (A...) that may sign providers of this host; without any, the first one of each provider"),
            Setting::new("oci_registry", &["WASMCLOUD_OCI_REGISTRY", "OCI_REGISTRY"], "oci-registry",
                Kind::Text, "", "Registry for which user and password are meant"),
            Setting::new("oci_user", &["WASMCLOUD_OCI_REGISTRY_USER", "OCI_REGISTRY_USER"], "oci-user",
                Kind::Text, "", "User name for the registry"),
            Setting::new("oci_password", &["WASMCLOUD_OCI_REGISTRY_PASSWORD", "OCI_REGISTRY_PASSWORD"], "oci-password",
                Kind::Secret, "", "Password for the registry"),
            Setting::new("oci_ca", &["WASMCLOUD_OCI_CA"], "oci-ca",
                Kind::File, "", "Certificates (PEM) that registries may be signed by, besides those of the system"),
            Setting::new("oci_token_hosts", &["WASMCLOUD_OCI_TOKEN_HOSTS"], "oci-token-hosts",
                Kind::List, "", "Hosts that may be shown a registry's login to get a token, besides the registry's own"),
            // It is machine code, so only hosts that share the cluster key give and take it.
            Setting::new("shared_code", &["WASMCLOUD_SHARED_CODE"], "shared-code",
                Kind::Bool, "true", "Take code that another host of the lattice compiled, if a cluster issuer signed it, and give what this host compiled"),
            Setting::new("pull_timeout_ms", &["WASMCLOUD_PULL_TIMEOUT_MS"], "pull-timeout-ms",
                Kind::Integer { min: 1, max: HOUR_MS }, "120000", "Longest time the pull of an image may take, in milliseconds"),
            Setting::new("oci_cache_bytes_max", &["WASMCLOUD_OCI_CACHE_BYTES_MAX"], "oci-cache-bytes-max",
                Kind::Bytes { min: 0, max: TIB }, "2G", "Size of the cache of images, like 500M or 2G; 0 keeps none"),
        ],
    },
    Group {
        heading: "Actors",
        settings: &[
            Setting::new("local_calls", &["WASMCLOUD_LOCAL_CALLS"], "local-calls",
                Kind::Bool, "true", "Answer calls in this process where the callee lives here too"),
            // A fresh instance per call is what actors were promised; reuse is a choice for the
            // fast ones.
            Setting::new("instance_reuse", &["WASMCLOUD_INSTANCE_REUSE"], "instance-reuse",
                Kind::Integer { min: 1, max: 1_000_000 }, "1", "Calls one actor instance may serve; components of WASI 0.3 serve up to 16 at a time, and 128 where this is 1. The annotation lattice.host/instance-reuse says it for one actor"),
            Setting::new("actor_memory_max_bytes", &["WASMCLOUD_ACTOR_MEMORY_MAX_BYTES"], "actor-memory-max-bytes",
                Kind::Bytes { min: KIB * KIB, max: 4 * KIB * KIB * KIB }, "128M", "Memory one actor instance may use, like 64M or 1G"),
            Setting::new("actor_instances_max", &["WASMCLOUD_ACTOR_INSTANCES_MAX"], "actor-instances-max",
                Kind::Integer { min: 0, max: 1_000_000 }, "0", "Actor instances alive at once; 0 asks the machine's memory"),
            Setting::new("payload_memory_max_bytes", &["WASMCLOUD_PAYLOAD_MEMORY_MAX_BYTES"], "payload-memory-max-bytes",
                Kind::BytesOrZero { min: budget::BYTES_MIN, max: TIB }, "0", "Memory that all large payloads, request bodies and images on their way may take together, like 1G; 0 is an eighth of the machine's memory, 256M at least and 512M at most"),
            Setting::new("call_queue_max", &["WASMCLOUD_CALL_QUEUE_MAX"], "call-queue-max",
                Kind::Integer { min: 0, max: 1_000_000 }, "1024", "Calls that may wait for one actor"),
        ],
    },
    Group {
        heading: "Providers",
        settings: &[
            Setting::new("allow_external_providers", &["WASMCLOUD_ALLOW_EXTERNAL_PROVIDERS"], "allow-external-providers",
                Kind::Bool, "true", "Start providers that are programs of their own, which get the cluster seed and the rights of the host's user"),
            Setting::new("provider_env", &["WASMCLOUD_PROVIDER_ENV"], "provider-env",
                Kind::List, "", "Environment variables passed on to provider processes, like HTTPS_PROXY,SSL_CERT_FILE; RUST_LOG and those of OpenTelemetry always are"),
            Setting::new("link_paths", &["WASMCLOUD_LINK_PATHS"], "link-paths",
                Kind::Directories, "", "Directories below which links may name files and directories, like /srv/blobs,/etc/lattice; without it any \
                    file, and directories that were made for it"),
        ],
    },
    Group {
        heading: "Dashboard",
        settings: &[
            // Hosts of 2022 took the port from PORT, and clients of that time look there whether
            // one runs.
            Setting::new("dashboard_port", &["WASMCLOUD_DASHBOARD_PORT", "PORT"], "dashboard-port",
                Kind::Integer { min: 0, max: 65_535 }, "4000", "Port of the dashboard, its API, health checks and metrics; the next free one if it is taken, none if 0")
                .written(Written::Never),
            Setting::new("dashboard_address", &["WASMCLOUD_DASHBOARD_ADDRESS"], "dashboard-address",
                Kind::Address, "127.0.0.1", "Address the dashboard listens on; on any but a loopback one reading needs a login, too")
                .written(Written::Never),
            Setting::new("dashboard_token", &["WASMCLOUD_DASHBOARD_TOKEN"], "dashboard-token",
                Kind::Secret, "", "A token of your choice that logs in to the dashboard, better 16 characters or more; with it reading needs a login, too. The one that is made up and kept in a file always logs in")
                .written(Written::Never),
            Setting::new("dashboard_names", &["WASMCLOUD_DASHBOARD_HOST", "DASHBOARD_HOST"], "dashboard-names",
                Kind::List, "", "Names the dashboard is reached by, besides addresses and localhost, like box.example")
                .written(Written::Never),
        ],
    },
    Group {
        heading: "Logging and files",
        settings: &[
            Setting::new("log_level", &["WASMCLOUD_LOG_LEVEL", "WASMCLOUD_STRUCTURED_LOG_LEVEL"], "log-level",
                Kind::Choice(LOG_LEVELS), "info", "Least severe level that is logged")
                .other_keys(&["structured_log_level"]).aliases(&["structured-log-level"]).written(Written::Never),
            Setting::new("structured_logging_enabled", &["WASMCLOUD_STRUCTURED_LOGGING_ENABLED"], "enable-structured-logging",
                Kind::Bool, "false", "Log JSON lines")
                .aliases(&["structured-logging-enabled"]).written(Written::Never),
            Setting::new("log_file", &["WASMCLOUD_LOG_FILE"], "log-file",
                Kind::Path, "", "File that the log goes to instead of standard error, where no journal takes that; a full one is renamed to FILE.1")
                .written(Written::Never),
            Setting::new("log_bytes_max", &["WASMCLOUD_LOG_BYTES_MAX"], "log-bytes-max",
                Kind::Bytes { min: LOG_BYTES_MIN, max: TIB }, "16M", "Size at which the file of the log is renamed and a new one begun, like 64M")
                .written(Written::Never),
            Setting::new("log_files_max", &["WASMCLOUD_LOG_FILES_MAX"], "log-files-max",
                Kind::Integer { min: 2, max: LOG_FILES_MAX }, "5", "Files of the log that are kept, with the one that is written")
                .written(Written::Never),
            Setting::new("audit_log", &["WASMCLOUD_AUDIT_LOG"], "audit-log",
                Kind::PathOrStderr, "", "File that gets a line of JSON for each command this host takes or refuses: who, what, outcome; stderr puts them among the log, and without it there are none")
                .written(Written::Never),
            Setting::new("audit_bytes_max", &["WASMCLOUD_AUDIT_BYTES_MAX"], "audit-bytes-max",
                Kind::Bytes { min: LOG_BYTES_MIN, max: TIB }, "16M", "Size at which the file of commands is renamed and a new one begun, like 64M")
                .written(Written::Never),
            Setting::new("audit_files_max", &["WASMCLOUD_AUDIT_FILES_MAX"], "audit-files-max",
                Kind::Integer { min: 2, max: LOG_FILES_MAX }, "10", "Files of commands that are kept, with the one that is written")
                .written(Written::Never),
            Setting::new("core_dumps", &["WASMCLOUD_CORE_DUMPS"], "core-dumps",
                Kind::Bool, "false", "Allow core files, which hold the seeds of this host")
                .written(Written::Never),
            Setting::new("host_config", &["HOST_CONFIG"], "host-config",
                Kind::Path, "", "A further place to write host_config.json to")
                .written(Written::Never),
        ],
    },
];

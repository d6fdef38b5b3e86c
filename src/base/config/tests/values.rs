//! Good and bad texts per kind, keys, and how mistakes are told.

use super::*;
use crate::config::{
    settings::{self, Kind},
    value,
};

#[test]
fn every_default_is_a_good_value() {
    for setting in settings::all().filter(|setting| !setting.default.is_empty()) {
        value::parse(&setting.kind, setting.default, Path::new("."))
            .unwrap_or_else(|problem| panic!("{}: {problem}", setting.key));
    }
}

/// Code that reads a number or a yes must find one; only connections inherit theirs.
#[test]
fn numbers_and_booleans_have_defaults() {
    let inherits =
        |key: &str| ["ctl_", "rpc_", "prov_rpc_"].iter().any(|family| key.starts_with(family));
    for setting in settings::all().filter(|setting| !inherits(setting.key)) {
        if matches!(
            setting.kind,
            Kind::Integer { .. }
                | Kind::Bytes { .. }
                | Kind::BytesOrZero { .. }
                | Kind::Bool
                | Kind::Choice(_)
        ) {
            assert!(!setting.default.is_empty(), "{}", setting.key);
        }
    }
}

#[test]
fn every_spelling_of_yes_and_no_is_understood() {
    let yes = [
        "1",
        "true",
        "TRUE",
        "yes",
        "Y",
        "on",
        "enabled",
        "Enable",
        "You Betcha",
        "yuppers",
        "TOTES",
    ];
    let no = ["0", "false", "No", "n", "OFF", "disabled", "disable"];
    for (texts, expected) in [(yes.as_slice(), true), (no.as_slice(), false)] {
        for text in texts {
            assert_eq!(
                Machine::new().env("WASMCLOUD_LOCAL_CALLS", text).config().local_calls,
                expected,
                "{text}"
            );
            let json = format!(r#"{{"local_calls":"{text}"}}"#);
            assert_eq!(Machine::new().json(&json).config().local_calls, expected, "{text}");
        }
    }
    for (json, expected) in [("1", true), ("0", false), ("true", true), ("false", false)] {
        let json = format!(r#"{{"config_service_enabled":{json}}}"#);
        assert_eq!(Machine::new().json(&json).config().config_service, expected, "{json}");
    }
}

#[test]
fn numbers_may_be_written_as_texts() {
    let config =
        Machine::new().json(r#"{"ctl_port":"4333","rpc_timeout_ms":2500,"ctl_tls":"1"}"#).config();
    assert_eq!(config.ctl.servers, ["tls://127.0.0.1:4333"]);
    assert_eq!(config.rpc_timeout, Duration::from_millis(2500));
}

#[test]
fn memory_may_have_a_unit() {
    for (text, bytes) in [
        ("1048576", 1 << 20),
        ("64M", 64 << 20),
        ("1g", 1 << 30),
        ("2048 KiB", 2 << 20),
        ("4GB", 4 << 30),
    ] {
        let config = Machine::new().env("WASMCLOUD_ACTOR_MEMORY_MAX_BYTES", text).config();
        assert_eq!(config.actors.memory_max_bytes as u64, bytes, "{text}");
    }
    let config = Machine::new().json(r#"{"actor_memory_max_bytes":2097152}"#).config();
    assert_eq!(config.actors.memory_max_bytes, 2 << 20);
}

#[test]
fn commands_are_noted_in_a_file_or_on_standard_error() {
    let machine = Machine::new()
        .env("WASMCLOUD_AUDIT_LOG", "logs/audit.jsonl")
        .env("WASMCLOUD_AUDIT_FILES_MAX", "3");
    let path = machine.dir().join("logs/audit.jsonl");
    let file = LogFile { path, bytes_max: 16 << 20, files_max: 3 };
    assert_eq!(machine.config().audit_log, Some(AuditLog::File(file)));
    for word in ["stderr", "STDERR", " stderr "] {
        let config = Machine::new().env("WASMCLOUD_AUDIT_LOG", word).config();
        assert_eq!(config.audit_log, Some(AuditLog::Stderr), "{word}");
    }
    assert_eq!(Machine::new().env("WASMCLOUD_AUDIT_LOG", "").config().audit_log, None);
}

#[test]
fn the_log_has_a_file_with_bounds() {
    let machine = Machine::new()
        .env("WASMCLOUD_LOG_FILE", "host.log")
        .env("WASMCLOUD_LOG_BYTES_MAX", "1M")
        .env("WASMCLOUD_LOG_FILES_MAX", "2");
    let path = machine.dir().join("host.log");
    let file = LogFile { path, bytes_max: 1 << 20, files_max: 2 };
    assert_eq!(machine.config().log.file, Some(file));
    let mistake = Machine::new().env("WASMCLOUD_LOG_FILES_MAX", "1").mistake();
    assert_eq!(mistake.problem, Problem::OutOfRange("1".into()));
}

#[test]
fn the_log_and_the_audit_log_share_no_file() {
    for (log, audit, is_shared) in [
        ("a.log", "a.log", true),
        ("a.log", "./a.log", true),
        ("a.log", "a.log.3", true),
        ("a.log", "b.log", false),
        ("a.log", "stderr", false),
        ("a.log", "", false),
    ] {
        let machine = Machine::new().flag("log_file", log).env("WASMCLOUD_AUDIT_LOG", audit);
        if !is_shared {
            machine.config();
            continue;
        }
        let mistake = machine.mistake();
        let (path, other) = (machine.dir().join(audit), machine.dir().join(log));
        assert_eq!(mistake.problem, Problem::SharedFile { path, with: "log_file", other });
        let told = mistake.to_string();
        for part in ["audit_log", "WASMCLOUD_AUDIT_LOG", "log_file", "stderr"] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
}

#[test]
fn zero_instances_means_as_many_as_fit() {
    let max = |text: &str| {
        Machine::new().env("WASMCLOUD_ACTOR_INSTANCES_MAX", text).config().actors.instances_max
    };
    assert_eq!((max("0"), max("12")), (None, Some(12)));
}

#[test]
fn log_levels_in_any_case() {
    let level = |text: &str| Machine::new().env("WASMCLOUD_LOG_LEVEL", text).config().log.level;
    assert_eq!(level("TRACE"), tracing::Level::TRACE);
    assert_eq!((level("warn"), level("Warning")), (tracing::Level::WARN, tracing::Level::WARN));
    assert_eq!(
        Machine::new().json(r#"{"structured_log_level":"debug"}"#).config().log.level,
        tracing::Level::DEBUG
    );
}

/// Each text is refused, with the variable named.
#[test]
fn bad_texts_are_refused() {
    let bad = [
        ("WASMCLOUD_LATTICE", "my.lattice", Problem::NotALatticeName("my.lattice".into())),
        ("WASMCLOUD_LATTICE", "ü", Problem::NotALatticeName("ü".into())),
        ("WASMCLOUD_JS_DOMAIN", "a.b", Problem::NotAToken("a.b".into())),
        ("WASMCLOUD_JS_DOMAIN", "a b", Problem::NotAToken("a b".into())),
        ("WASMCLOUD_CTL_TOPIC_PREFIX", "a..b", Problem::NotASubject("a..b".into())),
        ("WASMCLOUD_CTL_TOPIC_PREFIX", "a.*", Problem::NotASubject("a.*".into())),
        ("WASMCLOUD_CTL_TOPIC_PREFIX", "a.>", Problem::NotASubject("a.>".into())),
        ("WASMCLOUD_CTL_TOPIC_PREFIX", "a b.c", Problem::NotASubject("a b.c".into())),
        ("WASMCLOUD_POLICY_TOPIC", ".a", Problem::NotASubject(".a".into())),
        ("WASMCLOUD_CTL_PORT", "0", Problem::OutOfRange("0".into())),
        ("WASMCLOUD_CTL_PORT", "65536", Problem::OutOfRange("65536".into())),
        ("WASMCLOUD_CTL_PORT", "-1", Problem::OutOfRange("-1".into())),
        (
            "WASMCLOUD_CTL_PORT",
            "99999999999999999999999",
            Problem::OutOfRange("99999999999999999999999".into()),
        ),
        ("WASMCLOUD_CTL_PORT", "abc", Problem::NotInteger("abc".into())),
        ("WASMCLOUD_RPC_TIMEOUT_MS", "2.5", Problem::NotInteger("2.5".into())),
        ("WASMCLOUD_KV_REPLICAS", "6", Problem::OutOfRange("6".into())),
        ("WASMCLOUD_KV_REPLICAS", "0", Problem::OutOfRange("0".into())),
        ("WASMCLOUD_INSTANCE_REUSE", "0", Problem::OutOfRange("0".into())),
        ("WASMCLOUD_INSTANCE_REUSE", "1000001", Problem::OutOfRange("1000001".into())),
        ("WASMCLOUD_ACTOR_MEMORY_MAX_BYTES", "1023K", Problem::OutOfRange("1023K".into())),
        ("WASMCLOUD_ACTOR_MEMORY_MAX_BYTES", "5G", Problem::OutOfRange("5G".into())),
        ("WASMCLOUD_ACTOR_MEMORY_MAX_BYTES", "1T", Problem::NotBytes("1T".into())),
        ("WASMCLOUD_ACTOR_MEMORY_MAX_BYTES", "M", Problem::NotBytes("M".into())),
        (
            "WASMCLOUD_ACTOR_MEMORY_MAX_BYTES",
            "99999999999G",
            Problem::NotBytes("99999999999G".into()),
        ),
        ("WASMCLOUD_CTL_TLS", "maybe", Problem::NotBoolean("maybe".into())),
        ("WASMCLOUD_CTL_TLS", "2", Problem::NotBoolean("2".into())),
        ("WASMCLOUD_LOG_LEVEL", "loud", Problem::NotAChoice("loud".into())),
        (
            "WASMCLOUD_INBOX_PREFIXES",
            "_ME,wasmbus.ctl",
            Problem::NotAnInboxPrefix("wasmbus.ctl".into()),
        ),
        ("WASMCLOUD_LINK_PATHS", "/srv,srv/blobs", Problem::NotAbsolute("srv/blobs".into())),
        ("WASMCLOUD_PAYLOAD_MEMORY_MAX_BYTES", "1M", Problem::OutOfRange("1M".into())),
        ("WASMCLOUD_INBOX_PREFIXES", "a.>", Problem::NotAnInboxPrefix("a.>".into())),
        ("WASMCLOUD_CLUSTER_ISSUERS", "CABC", Problem::NotAPublicKey("CABC".into())),
    ];
    for (name, text, problem) in bad {
        let mistake = Machine::new().env(name, text).mistake();
        assert_eq!(
            (mistake.problem, mistake.origin),
            (problem, Origin::Env(name.into())),
            "{name}={text}"
        );
        assert!(!mistake.accepted.is_empty());
    }
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let mistakes = Machine::new()
        .json("{\"rpc_port\":\n[],\"lattice_prefix\":7}")
        .file(".env", "WASMCLOUD_KV_REPLICAS=9")
        .env("WASMCLOUD_CTL_TLS", "perhaps")
        .flag("ctl_port", "x")
        .load()
        .expect_err("five things are wrong");
    let keys: Vec<&str> = mistakes.0.iter().map(|mistake| mistake.key.as_str()).collect();
    assert_eq!(keys, ["lattice_prefix", "kv_replicas", "ctl_port", "ctl_tls", "rpc_port"]);
    let text = mistakes.to_string();
    assert_eq!(text.lines().count(), 5);
    assert!(
        text.contains(
            "ctl_port (flag --ctl-port): \"x\" is not a whole number; accepted: a whole number from 1 to 65535"
        ),
        "{text}"
    );
    assert!(text.contains("host_config.json:2): the value is an array"), "{text}");
}

#[test]
fn the_wrong_kind_of_seed_is_named_but_not_shown() {
    let (host, cluster, user) =
        (KeyPair::new_server(), KeyPair::new_cluster(), KeyPair::new_user());
    let cases = [
        ("WASMCLOUD_HOST_SEED", &cluster, "a server (N)", "a cluster (C)"),
        ("WASMCLOUD_CLUSTER_SEED", &host, "a cluster (C)", "a server (N)"),
        ("WASMCLOUD_CLUSTER_SEED", &user, "a cluster (C)", "a user (U)"),
        ("WASMCLOUD_CTL_SEED", &cluster, "a user (U)", "a cluster (C)"),
        ("WASMCLOUD_NATS_SEED", &host, "a user (U)", "a server (N)"),
    ];
    for (name, pair, wanted, found) in cases {
        let mistake = Machine::new().env(name, &seed(pair)).mistake();
        assert_eq!(mistake.problem, Problem::WrongSeedKind { wanted, found });
        assert!(!format!("{mistake} {mistake:?}").contains(&seed(pair)));
    }
}

#[test]
fn what_is_no_seed_is_refused_and_not_shown() {
    let mut damaged = seed(&KeyPair::new_cluster());
    damaged.replace_range(20..21, if &damaged[20..21] == "A" { "B" } else { "A" });
    let texts = [damaged.as_str(), "SCSHORT", "sééd", &"é".repeat(29)];
    for text in texts {
        for name in ["WASMCLOUD_HOST_SEED", "WASMCLOUD_CLUSTER_SEED"] {
            let mistake = Machine::new().env(name, text).mistake();
            assert_eq!(mistake.problem, Problem::NotASeed);
            assert!(!format!("{mistake} {mistake:?}").contains(text));
        }
    }
    let mistake = Machine::new()
        .env("WASMCLOUD_CLUSTER_SEED", &KeyPair::new_cluster().public_key())
        .mistake();
    assert_eq!(mistake.problem, Problem::PublicKeyInsteadOfSeed);
}

#[test]
fn issuers_are_trimmed_and_checked() {
    let (a, b) = (KeyPair::new_cluster().public_key(), KeyPair::new_cluster().public_key());
    let config = Machine::new().env("WASMCLOUD_CLUSTER_ISSUERS", &format!(" {a} , {b},")).config();
    assert_eq!(config.cluster.issuers[1..], [a, b]);

    let module = KeyPair::new_module().public_key();
    let mistake = Machine::new().env("WASMCLOUD_CLUSTER_ISSUERS", &module).mistake();
    assert!(
        matches!(mistake.problem, Problem::WrongPublicKeyKind { found: "a module (M)", .. }),
        "{mistake}"
    );

    let secret = seed(&KeyPair::new_cluster());
    let mistake = Machine::new().env("WASMCLOUD_CLUSTER_ISSUERS", &secret).mistake();
    assert_eq!(mistake.problem, Problem::SeedInsteadOfPublicKey);
    assert!(!mistake.to_string().contains(&secret));
}

#[test]
fn without_a_cluster_seed_one_is_made_up_and_issuers_stay() {
    let other = KeyPair::new_cluster().public_key();
    let cluster = Machine::new().env("WASMCLOUD_CLUSTER_ISSUERS", &other).config().cluster;
    assert!(cluster.ad_hoc && cluster.seed.expose().starts_with("SC"));
    assert_eq!(cluster.issuers, [cluster.public, other]);
}

#[test]
fn the_own_cluster_key_is_always_an_issuer_and_only_once() {
    let (own, other) = (KeyPair::new_cluster(), KeyPair::new_cluster().public_key());
    let machine = Machine::new().env("WASMCLOUD_CLUSTER_SEED", &seed(&own));
    let cluster = machine.config().cluster;
    assert!(!cluster.ad_hoc);
    assert_eq!((cluster.issuers, cluster.public), (vec![own.public_key()], own.public_key()));

    let list = format!("{other},{}", own.public_key());
    let cluster = machine.env("WASMCLOUD_CLUSTER_ISSUERS", &list).config().cluster;
    assert_eq!(cluster.issuers, [other, own.public_key()]);
}

#[test]
fn registry_credentials_need_all_three_parts() {
    let machine = Machine::new().env("OCI_REGISTRY", "r.example");
    let config = machine.config();
    assert_eq!((config.oci, config.warnings.len()), (None, 1));
    let machine =
        machine.env("WASMCLOUD_OCI_REGISTRY_USER", "me").env("OCI_REGISTRY_PASSWORD", " word ");
    let config = machine.config();
    let password = Secret::new(" word ");
    let expected = OciCredentials { registry: "r.example".into(), user: "me".into(), password };
    assert_eq!((config.oci, config.warnings.len()), (Some(expected), 0));
}

#[test]
fn the_url_of_a_webhook_may_have_space_around_it_and_needs_its_scheme() {
    let told = |url: &str| {
        let config = Machine::new().env("WASMCLOUD_ATTENTION_WEBHOOK_URL", url).config();
        let is_without_effect =
            config.warnings.iter().any(|warning| warning.contains("set it to the whole URL"));
        (config.attention_webhook.is_some(), is_without_effect)
    };
    assert_eq!(told("  https://example.com/hook "), (true, false));
    assert_eq!(told("example.com/hook"), (false, true));
}

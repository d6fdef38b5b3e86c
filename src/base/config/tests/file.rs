//! Reading and writing `host_config.json`.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::config::{
    file::members,
    settings::{self, Written},
};

/// The members hosts of mid-2022 wrote, in their order.
const KEYS_OF_2022: &str = "allow_latest allowed_insecure cluster_issuers cluster_key cluster_seed \
    config_service_enabled ctl_host ctl_jwt ctl_port ctl_seed ctl_tls enable_ipv6 js_domain lattice_prefix \
    prov_rpc_host prov_rpc_jwt prov_rpc_port prov_rpc_seed prov_rpc_tls provider_delay rpc_host rpc_jwt rpc_port \
    rpc_seed rpc_timeout_ms rpc_tls";

fn parsed(path: impl AsRef<Path>) -> BTreeMap<String, Value> {
    serde_json::from_str(&read(path)).expect("the written file is JSON")
}

/// Keeps the part of a configuration that the file carries: all but the identity of one host,
/// logging, labels and the place to write to.
fn lasting(mut config: Config) -> Config {
    let blank = Secret::new("");
    config.host_key = HostKey { seed: blank, public: String::new(), origin: KeyOrigin::ThisStart };
    config.log = Log { level: tracing::Level::INFO, json: false, file: None };
    config.audit_log = None;
    config.labels.clear();
    config.warnings.clear();
    config.host_config = None;
    // A made-up seed is a configured one from the second start on.
    config.cluster.ad_hoc = false;
    config
}

#[test]
fn the_file_of_2022_is_written_to_the_letter() {
    let cluster = KeyPair::new_cluster();
    let machine = Machine::new()
        .env("WASMCLOUD_CLUSTER_SEED", &seed(&cluster))
        .env("WASMCLOUD_JS_DOMAIN", "core");
    let results = machine.write();
    let paths: Vec<PathBuf> = results.into_iter().map(|result| result.expect("written")).collect();
    assert_eq!(
        paths,
        [machine.dir().join("host_config.json"), machine.home().join(".wash/host_config.json")]
    );

    let (key, seed) = (cluster.public_key(), seed(&cluster));
    let expected = format!(
        "{{\"allow_latest\":false,\"allowed_insecure\":[],\"cluster_issuers\":[\"{key}\"],\"cluster_key\":\"{key}\",\
        \"cluster_seed\":\"{seed}\",\"config_service_enabled\":\"\",\"ctl_host\":\"127.0.0.1\",\"ctl_jwt\":\"\",\
        \"ctl_port\":4222,\"ctl_seed\":\"\",\"ctl_tls\":0,\"enable_ipv6\":0,\"js_domain\":\"core\",\
        \"lattice_prefix\":\"default\",\"prov_rpc_host\":\"127.0.0.1\",\"prov_rpc_jwt\":\"\",\"prov_rpc_port\":4222,\
        \"prov_rpc_seed\":\"\",\"prov_rpc_tls\":0,\"provider_delay\":300,\"rpc_host\":\"127.0.0.1\",\"rpc_jwt\":\"\",\
        \"rpc_port\":4222,\"rpc_seed\":\"\",\"rpc_timeout_ms\":2000,\"rpc_tls\":0}}"
    );
    for path in paths {
        assert_eq!(read(path), expected);
    }
}

#[test]
fn the_strings_wash_insists_on_are_strings() {
    let machine = Machine::new();
    machine.write();
    let members = parsed(machine.home().join(".wash/host_config.json"));
    for key in ["cluster_seed", "ctl_jwt", "ctl_seed", "rpc_jwt", "rpc_seed"] {
        assert!(members[key].is_string(), "{key}");
    }
    assert!(members["ctl_port"].is_u64() && members["js_domain"].is_null());
}

/// The table says what is written; the writer has to know each of those and no other.
#[test]
fn every_written_setting_of_the_table_has_a_member() {
    let machine = Machine::new().env("WASMCLOUD_POLICY_TOPIC", "p");
    let members: BTreeSet<String> =
        members(&machine.config(), &machine.dir()).into_keys().collect();
    let written = settings::all().filter(|setting| setting.written != Written::Never);
    let mut expected: BTreeSet<String> = written.map(|setting| setting.key.to_owned()).collect();
    expected.insert("cluster_key".to_owned());
    assert_eq!(members, expected);

    let always = settings::all().filter(|setting| setting.written == Written::Always);
    let mut always: BTreeSet<&str> = always.map(|setting| setting.key).collect();
    always.insert("cluster_key");
    assert_eq!(always, KEYS_OF_2022.split_whitespace().collect());
}

/// Each machine differs from the default in other places; its next start, which knows only the
/// file, is the same.
#[test]
fn what_was_written_reads_back_the_same() {
    let user = seed(&KeyPair::new_user());
    let issuers =
        format!("{},{}", KeyPair::new_cluster().public_key(), KeyPair::new_cluster().public_key());
    let everything = Machine::new()
        .env("WASMCLOUD_LATTICE", "prod_1-a")
        .env("WASMCLOUD_HOST_SEED", &seed(&KeyPair::new_server()))
        .env("WASMCLOUD_CLUSTER_SEED", &seed(&KeyPair::new_cluster()))
        .env("WASMCLOUD_CLUSTER_ISSUERS", &issuers)
        .env("WASMCLOUD_JS_DOMAIN", "core")
        .env("WASMCLOUD_KV_REPLICAS", "3")
        .env("WASMCLOUD_LEGACY_CACHE_DELETE", "yes")
        .env("WASMCLOUD_CTL_TOPIC_PREFIX", "a.b.c")
        .env("WASMCLOUD_RPC_TIMEOUT_MS", "5000")
        .env("WASMCLOUD_PROV_SHUTDOWN_DELAY_MS", "0")
        .env("WASMCLOUD_SHUTDOWN_TIMEOUT_MS", "1")
        .env("WASMCLOUD_ENABLE_IPV6", "1")
        .env("WASMCLOUD_CONFIG_SERVICE", "1")
        .env("WASMCLOUD_POLICY_TOPIC", "policy")
        .env("WASMCLOUD_POLICY_CHANGES_TOPIC", "policy.changes")
        .env("WASMCLOUD_POLICY_TIMEOUT", "77")
        .env("WASMCLOUD_OCI_ALLOW_LATEST", "1")
        .env("WASMCLOUD_OCI_ALLOWED_INSECURE", "localhost:5000, r.example")
        .env("WASMCLOUD_ALLOW_FILE_LOAD", "1")
        .env("WASMCLOUD_ALLOWED_ACTOR_ISSUERS", &KeyPair::new_account().public_key())
        .env("WASMCLOUD_ALLOWED_PROVIDER_ISSUERS", &KeyPair::new_account().public_key())
        .env("WASMCLOUD_ALLOW_EXTERNAL_PROVIDERS", "no")
        .env("OCI_REGISTRY", "r.example")
        .env("OCI_REGISTRY_USER", "me")
        .env("OCI_REGISTRY_PASSWORD", "p\"w")
        .env("WASMCLOUD_PULL_TIMEOUT_MS", "5000")
        .env("WASMCLOUD_OCI_CACHE_BYTES_MAX", "0")
        .env("WASMCLOUD_LOCAL_CALLS", "false")
        .env("WASMCLOUD_INSTANCE_REUSE", "1000")
        .env("WASMCLOUD_ACTOR_MEMORY_MAX_BYTES", "64M")
        .env("WASMCLOUD_ACTOR_INSTANCES_MAX", "10")
        .env("WASMCLOUD_CALL_QUEUE_MAX", "0")
        .env("WASMCLOUD_LOG_LEVEL", "trace")
        .env("WASMCLOUD_CTL_HOST", "nats://a:1,b")
        .env("WASMCLOUD_CTL_USER", "me")
        .env("WASMCLOUD_CTL_PASSWORD", " spaced ")
        .env("WASMCLOUD_RPC_HOST", "tls://hub:4333")
        .env("WASMCLOUD_RPC_JWT", "ey.x.y")
        .env("WASMCLOUD_RPC_SEED", &user)
        .env("WASMCLOUD_PROV_RPC_TOKEN", "t");
    let certificates = Machine::new()
        .file("ca.pem", "x")
        .file("c.pem", "x")
        .file("me.creds", "x")
        .env("WASMCLOUD_NATS_CREDSFILE", "me.creds")
        .env("WASMCLOUD_CTL_TLS_CA", "ca.pem")
        .env("WASMCLOUD_OCI_CA", "ca.pem")
        .env("WASMCLOUD_RPC_TLS_CERT", "c.pem")
        .env("WASMCLOUD_RPC_TLS_KEY", "c.pem")
        .env("WASMCLOUD_RPC_TLS", "0")
        .env("NATS_HOST", "nats://a,tls://b:9")
        .env("NATS_PORT", "4333");
    let ipv6 = Machine::new().env("NATS_HOST", "::1").env("WASMCLOUD_RPC_SEED", &user);
    for machine in [Machine::new(), everything, certificates, ipv6] {
        let first = machine.config();
        let results = write(&first, &machine.dir(), Some(&machine.home()));
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        let machine = machine.restarted();
        let second = machine.config();
        assert_eq!(lasting(first), lasting(second.clone()));
        assert_eq!(second.warnings, [""; 0]);
    }
}

#[test]
fn a_made_up_cluster_seed_stays_with_the_directory() {
    let machine = Machine::new();
    let first = machine.config();
    write(&first, &machine.dir(), None);
    let second = machine.config();
    assert!(first.cluster.ad_hoc && !second.cluster.ad_hoc);
    assert_eq!(first.cluster.seed, second.cluster.seed);
    assert_ne!(first.host_key, second.host_key);
}

#[test]
fn a_directory_copied_to_another_machine_finds_its_credentials() {
    let machine = Machine::new().file("me.creds", "x").env("WASMCLOUD_NATS_CREDSFILE", "me.creds");
    machine.write();
    let other = Machine::new().file("me.creds", "x").json(&read(machine.dir().join(FILE_NAME)));
    assert_eq!(other.config().ctl.auth, Auth::Creds(other.dir().join("me.creds")));
}

#[test]
fn identity_and_logging_are_not_written() {
    let machine = Machine::new()
        .env("WASMCLOUD_HOST_SEED", &seed(&KeyPair::new_server()))
        .env("WASMCLOUD_LOG_LEVEL", "debug")
        .env("WASMCLOUD_STRUCTURED_LOGGING_ENABLED", "true")
        .env("NATS_HOST", "hub");
    machine.write();
    let keys: Vec<String> = parsed(machine.dir().join(FILE_NAME)).into_keys().collect();
    assert_eq!(keys, KEYS_OF_2022.split_whitespace().collect::<Vec<_>>());
}

/// The rewrite at start must not eat the host seed someone keeps in the file; but no copy gets it.
#[test]
fn what_a_user_put_into_the_local_file_stays_there() {
    let host = seed(&KeyPair::new_server());
    let text = format!(
        r#"{{"host_seed":"{host}","log_level":"debug","comment":{{"a":1}},"nats_host":"hub","kv_replicas":1,"cluster_key":""}}"#
    );
    let machine = Machine::new().json(&text);
    machine.write();
    let local = parsed(machine.dir().join(FILE_NAME));
    assert_eq!(
        (&local["host_seed"], &local["log_level"]),
        (&Value::from(host), &Value::from("debug"))
    );
    assert_eq!(local["comment"]["a"], 1);
    assert_eq!(local["ctl_host"], "hub");
    assert!(!local.contains_key("nats_host") && !local.contains_key("kv_replicas"));
    let copy = parsed(machine.home().join(".wash/host_config.json"));
    assert_eq!(
        copy.into_keys().collect::<Vec<_>>(),
        KEYS_OF_2022.split_whitespace().collect::<Vec<_>>()
    );
}

/// Returns the secrets that a connection logs in with.
fn secrets(auth: &Auth) -> Vec<&str> {
    match auth {
        Auth::User { password, .. } => vec![password.expose()],
        Auth::JwtAndSeed { jwt, seed } => vec![jwt.expose(), seed.expose()],
        Auth::Nkey { seed } => vec![seed.expose()],
        Auth::Token(token) => vec![token.expose()],
        Auth::Anonymous | Auth::Creds(_) => Vec::new(),
    }
}

/// A host starts again with the login that a user keeps in files of their own, and with what is in
/// these by then.
#[test]
fn a_login_in_a_file_of_its_own_stays_there() {
    let [one, two] = [seed(&KeyPair::new_user()), seed(&KeyPair::new_user())];
    let with_jwt = format!(r#"{{"nats_seed":"{one}","nats_jwt_file":"f"}}"#);
    for (json, one, two, of_ctl) in [
        (r#"{"nats_user":"me","nats_password_file":"f"}"#, "one", "two", None),
        (r#"{"ctl_user":"me","ctl_password_file":"f","rpc_token_file":"f"}"#, "one", "two", None),
        (r#"{"nats_token_file":"f"}"#, "one", "two", None),
        (r#"{"nats_token_file":"f","ctl_token":"own"}"#, "one", "two", Some("own")),
        (r#"{"nats_seed_file":"f"}"#, one.as_str(), two.as_str(), None),
        (with_jwt.as_str(), "ey.one.x", "ey.two.x", None),
    ] {
        let mut machine = Machine::new().json(json);
        for content in [one, one, two, one] {
            machine = machine.file("f", content);
            let config = machine.config();
            let told = |connection: &Connection| secrets(&connection.auth)[0].to_owned();
            assert_eq!(told(&config.ctl), of_ctl.unwrap_or(content), "{json}");
            assert_eq!([told(&config.rpc), told(&config.prov_rpc)], [content; 2], "{json}");
            machine.write();
        }
        let copy = read(machine.home().join(".wash/host_config.json"));
        assert!(!copy.contains("_file"), "{copy}");
        // Another way to log in takes its place, and no half of it is left.
        let machine = machine.env("WASMCLOUD_NATS_USER", "you").env("WASMCLOUD_NATS_PASSWORD", "p");
        machine.write();
        let config = machine.restarted().config();
        assert_eq!(secrets(&config.rpc.auth), ["p"], "{json}");
    }
}

/// A file may be exchanged or gone between the reading and the writing of a start.
#[test]
fn the_name_of_a_login_file_stays_whatever_the_file_holds_by_then() {
    for content in [Some("two"), Some(""), None] {
        let machine = Machine::new().json(r#"{"nats_token_file":"f"}"#).file("f", "one");
        let mut config = machine.config();
        match content {
            Some(content) => fs::write(machine.dir().join("f"), content).expect("write a file"),
            None => fs::remove_file(machine.dir().join("f")).expect("remove a file"),
        }
        write(&config, &machine.dir(), None);
        let written = parsed(machine.dir().join(FILE_NAME));
        for key in ["ctl_token_file", "rpc_token_file", "prov_rpc_token_file"] {
            assert_eq!(written[key], "f", "{content:?}");
        }
        // `host up` gave this connection a login of its own.
        config.ctl.auth = Auth::Token(Secret::new("of the server"));
        write(&config, &machine.dir(), None);
        let written = parsed(machine.dir().join(FILE_NAME));
        assert!(!written.contains_key("ctl_token_file"), "{written:?}");
        assert_eq!(written["rpc_token_file"], "f");
    }
}

/// Settings of the file that need others are nowhere else until those come, from a variable say.
#[test]
fn settings_that_wait_for_others_stay_in_the_file() {
    let login = r#"{"oci_registry":"r","oci_user":"me","oci_password":"p"}"#;
    let policy = r#"{"policy_topic":"p","policy_changes_topic":"c","policy_timeout_ms":500}"#;
    for (json, cleared, kept) in [
        (r#"{"oci_registry":"r","oci_user":"me"}"#, None, &["oci_registry", "oci_user"][..]),
        (r#"{"oci_user":"me","oci_password":""}"#, None, &["oci_password", "oci_user"]),
        (login, None, &["oci_password", "oci_registry", "oci_user"]),
        (login, Some("oci_user"), &[]),
        (
            r#"{"policy_changes_topic":"c","policy_timeout_ms":500}"#,
            None,
            &["policy_changes_topic", "policy_timeout_ms"],
        ),
        (policy, None, &["policy_changes_topic", "policy_timeout_ms", "policy_topic"]),
        (policy, Some("policy_topic"), &[]),
    ] {
        let machine = Machine::new().json(json);
        let machine = cleared.into_iter().fold(machine, |machine, key| machine.flag(key, ""));
        machine.write();
        let mut keys: Vec<String> = parsed(machine.dir().join(FILE_NAME)).into_keys().collect();
        keys.retain(|key| key.starts_with("oci_") || key.starts_with("policy_"));
        assert_eq!(keys, kept, "{json} without {cleared:?}");
    }
    let machine = Machine::new().json(r#"{"oci_registry":"r","oci_user":"me"}"#);
    machine.write();
    assert!(machine.env("OCI_REGISTRY_PASSWORD", "p").config().oci.is_some());
}

#[test]
fn a_third_copy_goes_where_host_config_points() {
    let machine = Machine::new().env("HOST_CONFIG", "third.json");
    assert_eq!(machine.write().len(), 3);
    assert_eq!(read(machine.dir().join("third.json")), read(machine.dir().join(FILE_NAME)));
    let machine = Machine::new().env("HOST_CONFIG", FILE_NAME);
    assert_eq!(machine.write().len(), 2);
}

#[test]
fn a_copy_that_cannot_be_written_does_not_keep_the_others() {
    let machine = Machine::new().env("HOST_CONFIG", "missing/x.json");
    fs::write(machine.home().join(".wash"), "a file in the way").expect("write a file");
    let results = machine.write();
    assert!(results[0].is_ok());
    assert!(matches!(results[1], Err(WriteError::CreateDirectory { .. })), "{results:?}");
    assert!(matches!(results[2], Err(WriteError::Write { .. })), "{results:?}");
    let results = write(&machine.config(), &machine.dir(), None);
    assert!(matches!(results[1], Err(WriteError::NoHome)));
}

#[cfg(unix)]
#[test]
fn only_the_owner_can_read_the_file_and_links_survive() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::new().file("real.json", "{}");
    std::os::unix::fs::symlink(machine.dir().join("real.json"), machine.dir().join(FILE_NAME))
        .expect("link");
    for path in machine.write() {
        let metadata = fs::metadata(path.expect("written")).expect("the file is there");
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    }
    assert!(read(machine.dir().join("real.json")).contains("cluster_seed"));
    let names = fs::read_dir(machine.dir()).expect("list").count();
    assert_eq!(names, 2, "no temporary file is left");
}

#[test]
fn files_of_the_next_era_are_read_too() {
    let text = r#"{"ctl_tls":false,"rpc_tls":true,"enable_ipv6":true,"config_service_enabled":true,
        "structured_logging_enabled":false,"log_level":null,"ctl_topic_prefix":"wasmbus.ctl",
        "provider_delay":400,"policy_timeout_ms":1000,"host_key":"NX","cluster_key":"CX"}"#;
    let config = Machine::new().json(text).config();
    assert!(
        !config.ctl.tls.required
            && config.rpc.tls.required
            && config.ctl.ipv6
            && config.config_service
    );
    assert_eq!(config.provider_delay, Duration::from_millis(400));
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn an_unknown_key_is_a_warning_with_its_line() {
    for (key, meant) in [
        ("latice_prefix", Some("lattice_prefix")),
        // Names of flags and of variables.
        ("lattice", Some("lattice_prefix")),
        ("enable_structured_logging", Some("structured_logging_enabled")),
        ("WASMCLOUD_PROV_SHUTDOWN_DELAY_MS", Some("provider_delay")),
        ("colour_of_the_host", None),
    ] {
        let config = Machine::new().json(&format!("{{\n\"{key}\": \"x\"}}")).config();
        let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
        assert!(warning.contains("host_config.json:2") && warning.contains(key), "{warning}");
        let told = warning.split_once("did you mean ").map(|(_, told)| told);
        assert_eq!(told, meant.map(|key| format!("{key:?}?")).as_deref(), "{warning}");
    }
}

#[test]
fn a_broken_file_is_a_mistake_with_line_and_column() {
    let cases: [(&[u8], usize, usize); 8] = [
        (b"{\"a\":1,\n  \"b\" 2}", 2, 7),
        (b"", 1, 0),
        (b"{\n\"a\":", 2, 4),
        (b"[]", 1, 0),
        (b"\"SCSECRET\"", 1, 10),
        (b"{\"a\":1}\n}", 2, 1),
        (b"{\"a\":1,\n \"\xff\":2}", 2, 3),
        (b"{\"a\":\n1e999}", 2, 5),
    ];
    for (bytes, line, column) in cases {
        let machine = Machine::new().file(FILE_NAME, bytes);
        let mistake = machine.mistake();
        let text = String::from_utf8_lossy(bytes);
        assert_eq!(
            mistake.origin,
            Origin::File { path: machine.dir().join(FILE_NAME), line },
            "{text}: {mistake}"
        );
        let Problem::Syntax { line: at, column: found, message } = &mistake.problem else {
            panic!("{text}: {mistake}")
        };
        assert_eq!(*at, line, "{text}: {mistake}");
        assert!(!message.contains("SCSECRET"), "{mistake}");
        assert!(found.abs_diff(column) <= 1, "{text}: {mistake}");
    }
}

#[test]
fn a_member_of_the_wrong_type_is_named_with_its_line() {
    let cases = [
        ("{\n\"ctl_port\": true}", "ctl_port", "a boolean"),
        ("{\n\"js_domain\": 5}", "js_domain", "a number"),
        ("{\n\"rpc_seed\": {\"a\":1}}", "rpc_seed", "an object"),
        ("{\n\"ctl_host\": [\"a\"]}", "ctl_host", "an array"),
        (
            "{\n\"allowed_insecure\": [1]}",
            "allowed_insecure",
            "an array that holds more than strings",
        ),
    ];
    for (text, key, found) in cases {
        let machine = Machine::new().json(text);
        let mistake = machine.mistake();
        assert_eq!((mistake.key.as_str(), &mistake.problem), (key, &Problem::WrongType { found }));
        assert_eq!(mistake.origin, Origin::File { path: machine.dir().join(FILE_NAME), line: 2 });
    }
}

#[test]
fn a_file_that_cannot_be_read_is_a_mistake() {
    let machine = Machine::new();
    fs::create_dir(machine.dir().join(FILE_NAME)).expect("create a directory");
    let mistake = machine.mistake();
    assert!(matches!(mistake.problem, Problem::Unreadable { .. }), "{mistake}");
    assert_eq!(mistake.key, FILE_NAME);
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let config = Machine::new().json("\u{feff}{\"js_domain\":\"core\"}").config();
    assert_eq!(config.js_domain.as_deref(), Some("core"));
}

#[test]
fn deep_nesting_is_a_mistake_not_a_crash() {
    let text = format!("{{\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(Machine::new().json(&text).mistake().problem, Problem::Syntax { .. }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn no_file_makes_the_host_panic(json in any::<Vec<u8>>(), dotenv in any::<Vec<u8>>()) {
        let _ = Machine::new().file(FILE_NAME, json).file(".env", dotenv).load();
    }

    /// Mostly well-formed members with odd values get deeper than random bytes.
    #[test]
    fn no_member_makes_the_host_panic(index in 0usize..1000, value in ".{0,70}", number in any::<f64>()) {
        let key = settings::all().nth(index % settings::all().count()).map(|setting| setting.key);
        let key = key.unwrap_or_default();
        for value in [Value::from(value.clone()), Value::from(number), Value::from(vec![value.clone()])] {
            let text = serde_json::json!({ key: value, "nats_host": "h" }).to_string();
            let _ = Machine::new().json(&text).load();
        }
        let _ = Machine::new().flag(key, &value).load();
    }
}

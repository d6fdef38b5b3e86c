//! The precedence of sources, the record of it, and labels.

use super::*;
use crate::config::settings;

#[test]
fn without_any_input_everything_has_its_default() {
    let config = Machine::new().config();
    assert_eq!(config.lattice, "default");
    assert_eq!(config.ctl.servers, ["nats://127.0.0.1:4222"]);
    assert_eq!(config.prov_rpc, config.ctl);
    assert_eq!(config.ctl_topic_prefix, "wasmbus.ctl");
    assert_eq!(config.rpc_timeout, Duration::from_secs(2));
    assert_eq!(config.provider_delay, Duration::from_millis(300));
    assert_eq!(config.shutdown_timeout, Duration::from_secs(10));
    assert_eq!((config.js_domain, config.oci, config.policy), (None, None, None));
    assert_eq!(config.kv_replicas, 1);
    assert_eq!(config.log, Log { level: tracing::Level::INFO, json: false, file: None });
    assert_eq!(config.audit_log, None);
    let limits = Actors {
        instance_reuse: 1,
        memory_max_bytes: 128 << 20,
        instances_max: None,
        queue_max: 1024,
        payload_memory_max_bytes: None,
    };
    assert_eq!(config.actors, limits);
    assert!(config.local_calls && !config.legacy_cache_delete && !config.config_service);
    assert!(!config.allow_latest && !config.allow_file_load);
    assert_eq!(config.warnings, [""; 0]);
    assert!(
        config.host_key.public.starts_with('N') && config.host_key.seed.expose().starts_with("SN")
    );
}

/// Flags beat the environment, that beats dotenv files, a later one of those an earlier one, they
/// beat the file.
#[test]
fn the_higher_source_wins_and_is_remembered() {
    let mut machine = Machine::new();
    let domain = |machine: &Machine| {
        let row = machine.row("js_domain");
        (row.value, row.origin)
    };
    assert_eq!(domain(&machine), (String::new(), Origin::Default));

    machine = machine.json("{\n\n \"js_domain\": \"file\"\n}");
    let path = machine.dir().join(FILE_NAME);
    assert_eq!(domain(&machine), ("file".into(), Origin::File { path, line: 3 }));

    for (name, value) in
        [(".env", "1"), (".env.prod", "2"), (".env.local", "3"), (".env.prod.local", "4")]
    {
        machine = machine.file(name, format!("# a comment\n  WASMCLOUD_JS_DOMAIN = {value} \n"));
        let origin = Origin::Dotenv {
            file: machine.dir().join(name),
            line: 2,
            name: "WASMCLOUD_JS_DOMAIN".into(),
        };
        assert_eq!(domain(&machine), (value.into(), origin));
    }

    machine = machine.env("WASMCLOUD_JS_DOMAIN", "env");
    assert_eq!(domain(&machine), ("env".into(), Origin::Env("WASMCLOUD_JS_DOMAIN".into())));
    machine = machine.flag("js_domain", "flag");
    assert_eq!(domain(&machine), ("flag".into(), Origin::Flag("--js-domain".into())));
}

#[test]
fn an_origin_reads_as_a_place_to_edit() {
    let dotenv = Origin::Dotenv { file: "./.env".into(), line: 3, name: "X".into() };
    let file = Origin::File { path: "./host_config.json".into(), line: 1 };
    let shown =
        [Origin::Flag("--lattice".into()), Origin::Env("X".into()), dotenv, file, Origin::Default];
    assert_eq!(
        shown.map(|origin| origin.to_string()),
        [
            "flag --lattice",
            "environment variable X",
            "X in ./.env:3",
            "./host_config.json:1",
            "default"
        ]
    );
}

#[test]
fn an_empty_variable_is_not_set() {
    let machine = Machine::new().json(r#"{"js_domain":"file"}"#).env("WASMCLOUD_JS_DOMAIN", " ");
    assert_eq!(machine.config().js_domain.as_deref(), Some("file"));
    let machine = machine.file(".env", "WASMCLOUD_JS_DOMAIN=\n");
    assert_eq!(machine.config().js_domain.as_deref(), Some("file"));
}

#[test]
fn an_empty_flag_takes_a_persisted_value_away() {
    let machine = Machine::new()
        .json(r#"{"js_domain":"core","ctl_topic_prefix":"a.b","allowed_insecure":["r"]}"#)
        .flag("js_domain", "")
        .flag("ctl_topic_prefix", "")
        .flag("allowed_insecure", "");
    let config = machine.config();
    assert_eq!(config.js_domain, None);
    assert_eq!(config.ctl_topic_prefix, "wasmbus.ctl");
    assert!(config.allowed_insecure.is_empty());
    let mistake = Machine::new().flag("ctl_port", "").mistake();
    assert_eq!(mistake.problem, Problem::NotInteger(String::new()));
}

#[test]
fn null_and_empty_texts_in_the_file_mean_default() {
    let with = |value: &str| {
        let members: Vec<String> =
            settings::all().map(|setting| format!("\"{}\":{value}", setting.key)).collect();
        format!("{{{}}}", members.join(","))
    };
    for value in ["null", "\"\""] {
        let loaded = Machine::new().json(&with(value)).load().expect("nothing is set");
        assert!(loaded.table.rows().iter().all(|row| row.origin == Origin::Default));
    }
}

#[test]
fn the_longer_lattice_variable_wins() {
    let machine = Machine::new().env("WASMCLOUD_LATTICE", "new");
    assert_eq!(machine.config().lattice, "new");
    assert_eq!(machine.env("WASMCLOUD_LATTICE_PREFIX", "old").config().lattice, "old");
}

/// Every variable earlier hosts and clients know, with a text it accepts.
#[test]
fn all_variables_of_earlier_hosts_are_understood() {
    let user = seed(&KeyPair::new_user());
    let issuer = KeyPair::new_cluster().public_key();
    let names = [
        ("WASMCLOUD_LATTICE_PREFIX", "lattice_prefix", "prod"),
        ("WASMCLOUD_LATTICE", "lattice_prefix", "prod"),
        ("WASMCLOUD_RPC_HOST", "rpc_host", "hub"),
        ("WASMCLOUD_RPC_PORT", "rpc_port", "5222"),
        ("WASMCLOUD_RPC_SEED", "rpc_seed", user.as_str()),
        ("WASMCLOUD_RPC_TLS", "rpc_tls", "1"),
        ("WASMCLOUD_RPC_TIMEOUT_MS", "rpc_timeout_ms", "2500"),
        ("WASMCLOUD_PROV_RPC_HOST", "prov_rpc_host", "hub"),
        ("WASMCLOUD_PROV_RPC_PORT", "prov_rpc_port", "5222"),
        ("WASMCLOUD_PROV_RPC_SEED", "prov_rpc_seed", user.as_str()),
        ("WASMCLOUD_PROV_RPC_TLS", "prov_rpc_tls", "1"),
        ("WASMCLOUD_CTL_HOST", "ctl_host", "hub"),
        ("WASMCLOUD_CTL_PORT", "ctl_port", "5222"),
        ("WASMCLOUD_CTL_SEED", "ctl_seed", user.as_str()),
        ("WASMCLOUD_CTL_TLS", "ctl_tls", "1"),
        ("WASMCLOUD_CTL_TOPIC_PREFIX", "ctl_topic_prefix", "my.ctl"),
        ("WASMCLOUD_CLUSTER_ISSUERS", "cluster_issuers", issuer.as_str()),
        ("WASMCLOUD_PROV_SHUTDOWN_DELAY_MS", "provider_delay", "301"),
        ("WASMCLOUD_OCI_ALLOW_LATEST", "allow_latest", "true"),
        ("WASMCLOUD_OCI_ALLOWED_INSECURE", "allowed_insecure", "localhost:5000"),
        ("WASMCLOUD_JS_DOMAIN", "js_domain", "core"),
        ("WASMCLOUD_CONFIG_SERVICE", "config_service_enabled", "1"),
        ("WASMCLOUD_STRUCTURED_LOGGING_ENABLED", "structured_logging_enabled", "true"),
        ("WASMCLOUD_STRUCTURED_LOG_LEVEL", "log_level", "debug"),
        ("WASMCLOUD_LOG_LEVEL", "log_level", "WARNING"),
        ("WASMCLOUD_ENABLE_IPV6", "enable_ipv6", "1"),
        ("WASMCLOUD_ALLOW_FILE_LOAD", "enable_start_from_fs", "true"),
        ("HOST_CONFIG", "host_config", "/tmp/x.json"),
        ("WASMCLOUD_POLICY_TOPIC", "policy_topic", "policy"),
        ("WASMCLOUD_POLICY_CHANGES_TOPIC", "policy_changes_topic", "policy.changes"),
        ("WASMCLOUD_POLICY_CHANGES_TOPIC_default", "policy_changes_topic", "policy.changes"),
        ("WASMCLOUD_POLICY_TIMEOUT", "policy_timeout_ms", "1001"),
        ("OCI_REGISTRY", "oci_registry", "r.example"),
        ("OCI_REGISTRY_USER", "oci_user", "me"),
        ("OCI_REGISTRY_PASSWORD", "oci_password", "word"),
        ("WASMCLOUD_OCI_REGISTRY", "oci_registry", "r.example"),
        ("WASMCLOUD_OCI_REGISTRY_USER", "oci_user", "me"),
        ("WASMCLOUD_OCI_REGISTRY_PASSWORD", "oci_password", "word"),
        ("NATS_HOST", "nats_host", "hub"),
        ("NATS_PORT", "nats_port", "5222"),
        ("WASMCOULD_NATS_SEED", "nats_seed", user.as_str()),
        ("WASMCLOUD_NATS_SEED", "nats_seed", user.as_str()),
    ];
    for (name, key, value) in names {
        let row = Machine::new().env(name, value).row(key);
        assert_eq!(row.origin, Origin::Env(name.to_owned()), "{name}");
        assert!(!row.value.is_empty(), "{name}");
    }
    // A JWT needs its seed, and these two seeds are keys of their own kind.
    for family in ["NATS", "CTL", "RPC", "PROV_RPC"] {
        let jwt = format!("WASMCLOUD_{family}_JWT");
        let machine =
            Machine::new().env(&jwt, "ey.ey.x").env(&format!("WASMCLOUD_{family}_SEED"), &user);
        assert_eq!(machine.row(&format!("{}_jwt", family.to_lowercase())).origin, Origin::Env(jwt));
    }
    let (host, cluster) = (KeyPair::new_server(), KeyPair::new_cluster());
    let machine = Machine::new()
        .env("WASMCLOUD_HOST_SEED", &seed(&host))
        .env("WASMCLOUD_CLUSTER_SEED", &seed(&cluster));
    let config = machine.config();
    assert_eq!(config.host_key.public, host.public_key());
    assert_eq!(config.cluster.public, cluster.public_key());
}

/// `wash` has names of its own for files with credentials; ours come first.
#[test]
fn credentials_named_for_wash_are_used() {
    for (name, ours, key) in [
        ("WASH_CTL_CREDS", "WASMCLOUD_CTL_CREDSFILE", "ctl_creds"),
        ("WASH_RPC_CREDS", "WASMCLOUD_RPC_CREDSFILE", "rpc_creds"),
    ] {
        let machine =
            Machine::new().file("wash.creds", "").file("ours.creds", "").env(name, "wash.creds");
        assert_eq!(machine.row(key).origin, Origin::Env(name.to_owned()));
        assert_eq!(machine.env(ours, "ours.creds").row(key).origin, Origin::Env(ours.to_owned()));
    }
}

#[test]
fn a_new_value_replaces_what_falls_back_to_it_and_other_ways_to_log_in() {
    let replaced = |key: &str| superseded(key).join(" ");
    assert_eq!(replaced("js_domain"), "js_domain");
    assert_eq!(replaced("rpc_timeout_ms"), "rpc_timeout_ms");
    assert_eq!(replaced("nats_host"), "nats_host ctl_host rpc_host prov_rpc_host");
    assert_eq!(replaced("prov_rpc_port"), "prov_rpc_port");
    let login = superseded("rpc_user");
    for gone in
        ["rpc_user", "rpc_creds", "rpc_token", "rpc_jwt", "prov_rpc_user", "prov_rpc_password"]
    {
        assert!(login.iter().any(|key| key == gone), "{gone} in {login:?}");
    }
    assert!(!login.iter().any(|key| key == "rpc_password" || key.starts_with("ctl")), "{login:?}");
}

/// The variables that `wash up` of 2022 passes, most of them empty.
#[test]
fn the_environment_of_wash_is_accepted() {
    let machine = Machine::new()
        .env("WASMCLOUD_LATTICE_PREFIX", "default")
        .env("WASMCLOUD_JS_DOMAIN", "")
        .env("WASMCLOUD_HOST_SEED", "")
        .env("WASMCLOUD_CLUSTER_ISSUERS", "")
        .env("WASMCLOUD_RPC_JWT", "")
        .env("WASMCLOUD_RPC_SEED", "")
        .env("WASMCLOUD_CTL_TLS", "1")
        .env("WASMCLOUD_CONFIG_SERVICE", "1")
        .env("WASMCLOUD_ENABLE_IPV6", "1");
    let config = machine.config();
    assert!(config.ctl.tls.required && !config.rpc.tls.required);
    assert!(config.config_service && config.rpc.ipv6);
}

#[test]
fn the_changes_topic_of_the_lattice_is_looked_at_first() {
    let machine = Machine::new()
        .env("WASMCLOUD_LATTICE", "my-lattice")
        .env("WASMCLOUD_POLICY_TOPIC", "policy")
        .env("WASMCLOUD_POLICY_CHANGES_TOPIC", "general")
        .env("WASMCLOUD_POLICY_CHANGES_TOPIC_other", "other");
    let changes =
        |machine: &Machine| machine.config().policy.and_then(|policy| policy.changes_topic);
    assert_eq!(changes(&machine).as_deref(), Some("general"));
    let machine = machine.env("WASMCLOUD_POLICY_CHANGES_TOPIC_my_lattice", "special");
    assert_eq!(changes(&machine).as_deref(), Some("special"));
    let machine = machine.flag("policy_changes_topic", "flag");
    assert_eq!(changes(&machine).as_deref(), Some("flag"));
}

#[test]
fn changes_of_a_policy_nobody_asks_are_worth_a_warning() {
    let config = Machine::new().env("WASMCLOUD_POLICY_CHANGES_TOPIC", "x").config();
    assert_eq!(config.policy, None);
    assert!(config.warnings[0].contains("policy_topic"), "{:?}", config.warnings);
}

#[test]
fn dotenv_lines_are_read_as_shells_read_them() {
    let text = "\u{feff}WASMCLOUD_JS_DOMAIN=\"quoted\"\n\n#WASMCLOUD_LATTICE=no\nno pair\nexport HOST_zone='a=b c' # why\n\
                OTHER=\"half\n";
    let config = Machine::new().file(".env", text).config();
    assert_eq!(config.js_domain.as_deref(), Some("quoted"));
    assert_eq!(config.lattice, "default");
    assert_eq!(config.labels["zone"], "a=b c");
    assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
    assert!(config.warnings[0].contains(".env:4") && !config.warnings[0].contains("no pair"));
    assert!(
        config.warnings[1].contains("OTHER") && !config.warnings[1].contains("half"),
        "{:?}",
        config.warnings
    );
}

#[test]
fn a_setting_that_is_quoted_wrongly_is_named_without_its_value() {
    for line in
        ["WASMCLOUD_CLUSTER_SEED=\"SCSECRET", "HOST_zone='SCSECRET' b", "NATS_HOST=\"a\"SCSECRET"]
    {
        let mistake = Machine::new().file(".env", format!("X=1\n{line}\n")).mistake();
        let told = mistake.to_string();
        assert_eq!(mistake.problem, Problem::WronglyQuoted);
        assert!(told.contains(".env:2") && !told.contains("SCSECRET"), "{told}");
        assert!(told.contains(line.split('=').next().unwrap()), "{told}");
    }
}

#[test]
fn quotes_that_docker_leaves_around_a_variable_are_no_part_of_it() {
    let config = Machine::new()
        .env("WASMCLOUD_JS_DOMAIN", "\"core\"")
        .env("WASMCLOUD_RPC_TIMEOUT_MS", "'5000'")
        .env("WASMCLOUD_NATS_USER", "me")
        .env("WASMCLOUD_NATS_PASSWORD", "\"word\"")
        .config();
    assert_eq!(
        (config.js_domain.as_deref(), config.rpc_timeout),
        (Some("core"), Duration::from_secs(5))
    );
    // A password may have some.
    assert!(
        matches!(&config.ctl.auth, Auth::User { password, .. } if password.expose() == "\"word\"")
    );
    assert_eq!(
        config.warnings.iter().filter(|warning| warning.contains("quotes")).count(),
        3,
        "{:?}",
        config.warnings
    );
}

#[test]
fn what_a_platform_says_of_other_services_does_not_stop_a_host() {
    let config = Machine::new()
        .env("NATS_PORT", "tcp://10.43.0.10:4222")
        .env("NATS_PORT_4222_TCP_ADDR", "10.43.0.10")
        .env("NATS_SERVICE_HOST", "10.43.0.10")
        .env("PORT", "tcp://10.43.0.11:80")
        .env("WASMCLOUD_DASHBOARD_PORT", "tcp://10.43.0.12:80")
        .env("HOST_PORT", "udp://10.43.0.13:80")
        .env("HOST_SERVICE_HOST", "10.43.0.13")
        .env("HOST_machine", "second")
        .config();
    assert_eq!(
        (config.ctl.port, config.dashboard.map(|dashboard| dashboard.address.port())),
        (4222, Some(4000))
    );
    assert!(
        config.labels.contains_key("machine") && !config.labels.contains_key("port"),
        "{:?}",
        config.labels
    );
    assert!(!config.labels.contains_key("service_host"));
    assert!(
        config.warnings.iter().any(|warning| warning.contains("NATS_PORT")),
        "{:?}",
        config.warnings
    );
    // A mistake in a name of ours stays one.
    let mistake = Machine::new().env("WASMCLOUD_NATS_PORT", "422x").mistake();
    assert!(matches!(mistake.problem, Problem::NotInteger(_)), "{mistake}");
}

#[test]
fn every_secret_can_be_in_a_file() {
    let seed = seed(&KeyPair::new_cluster());
    let given = |content: &str| {
        let machine = || Machine::new().file("seed", content);
        [
            machine().flag("cluster_seed_file", "seed"),
            machine().env("WASMCLOUD_CLUSTER_SEED_FILE", "seed"),
            machine().file(".env", "WASMCLOUD_CLUSTER_SEED_FILE=seed"),
            machine().json(r#"{"cluster_seed_file": "seed"}"#),
        ]
    };
    // One that was cut off is no wish to have another seed.
    for machine in ["", "\n", " \r\n"].into_iter().flat_map(given) {
        let expected = Problem::EmptyFile(machine.dir().join("seed"));
        assert_eq!(machine.mistake().problem, expected);
    }
    let mistake = Machine::new().json(r#"{"cluster_seed_file": 5}"#).mistake();
    assert_eq!(mistake.problem, Problem::WrongType { found: "a number" });
    for machine in given(&format!("{seed}\n")) {
        let config = machine.config();
        assert_eq!(config.cluster.seed.expose(), seed);
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }
    for setting in settings::all().filter(|setting| setting.kind.is_secret()) {
        let key = settings::file_key(setting).unwrap();
        let mistake = Machine::new().flag(key, "no-such-file").mistakes().remove(0);
        assert!(mistake.to_string().contains("no-such-file"), "{mistake}");
        assert!(setting.env.iter().all(|env| setting.is_env(&format!("{env}_FILE"))));
    }
    // One that is not for this user alone is told.
    let [open, ..] = given(&seed);
    chmod(&open.dir().join("seed"), 0o644);
    #[cfg(unix)]
    assert!(open.config().warnings[0].contains("chmod"), "{:?}", open.config().warnings);
}

#[cfg(unix)]
#[test]
fn a_secret_of_a_dotenv_file_that_others_may_read_is_told_whichever_file_had_it_first() {
    let machine = Machine::new()
        .file(".env", "WASMCLOUD_NATS_TOKEN=one\n")
        .file(".env.local", "WASMCLOUD_NATS_TOKEN=two\n");
    chmod(&machine.dir().join(".env.local"), 0o644);
    let warnings = machine.config().warnings;
    assert!(
        matches!(&*warnings, [one] if one.contains(".env.local holds secrets")),
        "{warnings:?}"
    );
}

#[cfg(unix)]
#[test]
fn files_that_others_can_change_are_refused_with_the_command_that_mends_it() {
    for name in ["host_config.json", ".env", "creds"] {
        let machine =
            Machine::new().file(name, "{}").file("creds", "x").flag("nats_creds", "creds");
        chmod(&machine.dir().join(name), 0o664);
        let told = machine.mistake().to_string();
        assert!(told.contains("chmod go-w") && told.contains(name), "{told}");
    }
}

#[test]
fn a_dotenv_file_must_be_text_and_a_directory_of_that_name_is_fine() {
    let machine = Machine::new();
    fs::create_dir(machine.dir().join(".env")).expect("create a directory");
    machine.config();
    let mistake = machine.file(".env.local", [0xff, 0xfe]).mistake();
    assert!(matches!(mistake.problem, Problem::Unreadable { .. }), "{mistake}");
}

#[test]
fn labels_come_from_three_eras() {
    let machine = Machine::new()
        .env("HOST_Machine", "second")
        .env("HOST_CONFIG", "/nowhere/x.json")
        .env("HOST_", "nothing")
        .env("HOST_empty", "")
        .env("WASMCLOUD_LABEL_Zone", "a")
        .file(".env", "HOST_rack=7\nHOST_Machine=first\n")
        .label("stack", "b=c");
    let config = machine.config();
    let mine: Vec<_> =
        config.labels.iter().filter(|(key, _)| !key.starts_with("hostcore.")).collect();
    let expected = [("Zone", "a"), ("machine", "second"), ("rack", "7"), ("stack", "b=c")];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(mine, expected.iter().map(|(key, value)| (key, value)).collect::<Vec<_>>());
    assert_eq!(config.warnings, [""; 0]);
    assert_eq!(machine.row("label.rack").value, "7");
}

#[test]
fn a_label_flag_beats_the_environment_with_a_warning() {
    let machine =
        Machine::new().env("WASMCLOUD_LABEL_zone", "a").env("HOST_zone", "x").label("zone", "b");
    let config = machine.config();
    assert_eq!(config.labels["zone"], "b");
    assert_eq!(config.warnings.len(), 1);
    assert!(config.warnings[0].contains("WASMCLOUD_LABEL_zone"), "{:?}", config.warnings);
}

#[test]
fn two_variables_of_one_label_are_told_apart_by_name() {
    let config = Machine::new().env("HOST_zone", "b").env("HOST_ZONE", "a").config();
    assert_eq!(config.labels["zone"], "a");
    assert!(config.warnings[0].contains("HOST_zone"), "{:?}", config.warnings);
}

#[test]
fn core_labels_cannot_be_set() {
    let config = Machine::new().label("hostcore.arch", "z80").config();
    assert_eq!(config.labels["hostcore.arch"], std::env::consts::ARCH);
    assert_eq!(config.labels["hostcore.os"], std::env::consts::OS);
    assert_eq!(config.labels["hostcore.osfamily"], std::env::consts::FAMILY);
    assert!(config.warnings[0].contains("hostcore.arch"));
}

#[test]
fn rows_show_every_setting_and_no_secret() {
    let secrets = [
        ("WASMCLOUD_CLUSTER_SEED", seed(&KeyPair::new_cluster())),
        ("WASMCLOUD_HOST_SEED", seed(&KeyPair::new_server())),
        ("WASMCLOUD_RPC_SEED", seed(&KeyPair::new_user())),
        ("WASMCLOUD_RPC_JWT", "ey.secret.jwt".to_owned()),
        ("WASMCLOUD_CTL_USER", "me".to_owned()),
        ("WASMCLOUD_CTL_PASSWORD", "hunter2".to_owned()),
        ("WASMCLOUD_PROV_RPC_TOKEN", "t0ken".to_owned()),
        ("OCI_REGISTRY_PASSWORD", "swordfish".to_owned()),
    ];
    let machine =
        secrets.iter().fold(Machine::new(), |machine, (name, value)| machine.env(name, value));
    let loaded = machine.load().expect("all is well");
    let shown = format!("{:?} {} {:?}", loaded.table.rows(), loaded.table.to_json(), loaded);
    for (name, value) in secrets.iter().filter(|(name, _)| *name != "WASMCLOUD_CTL_USER") {
        assert!(!shown.contains(value), "{name} is shown");
    }
    let cluster = &loaded.table.to_json()[2];
    assert_eq!(cluster["key"], "cluster_seed");
    assert_eq!(cluster["value"], "SC… (58 characters)");
    assert_eq!(cluster["origin"], "environment variable WASMCLOUD_CLUSTER_SEED");
    let keys = loaded.table.rows().iter().filter(|row| !row.key.starts_with("label.")).count();
    assert_eq!(keys, settings::all().count());
}

#[test]
fn settings_that_differ_from_an_earlier_reading_are_named_without_their_values() {
    let machine = Machine::new().env("WASMCLOUD_JS_DOMAIN", "core");
    let machine =
        machine.file(".env", "HOST_zone=a\nHOST_rack=7\nWASMCLOUD_NATS_TOKEN=first-secret\n");
    let before = machine.load().expect("it is read").table;
    assert!(before.differences(&before).is_empty());
    let machine = machine.file(
        ".env",
        "HOST_zone=b\nHOST_row=2\nWASMCLOUD_NATS_TOKEN=second-secret\nWASMCLOUD_LOG_LEVEL=debug\n",
    );
    let after = machine.load().expect("it is read").table;
    let expected = [
        "ctl_token",
        "log_level",
        "nats_token",
        "prov_rpc_token",
        "rpc_token",
        "label.rack",
        "label.row",
        "label.zone",
    ];
    assert_eq!(after.differences(&before), expected);
}

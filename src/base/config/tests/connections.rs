//! Addresses, inheriting between families, ways to log in, TLS.

use super::*;

#[test]
fn addresses_become_full_urls() {
    let cases = [
        ("hub", "nats://hub:4222", "hub"),
        ("hub:4333", "nats://hub:4333", "hub"),
        ("nats://hub", "nats://hub:4222", "hub"),
        ("NATS://hub:1/", "nats://hub:1", "hub"),
        ("tls://hub.example", "tls://hub.example:4222", "hub.example"),
        ("::1", "nats://[::1]:4222", "::1"),
        ("[::1]", "nats://[::1]:4222", "::1"),
        ("nats://[::1]:5", "nats://[::1]:5", "::1"),
        ("nats://a:1, b ,tls://c:2", "nats://a:1,nats://b:4222,tls://c:2", "a"),
    ];
    for (text, urls, host) in cases {
        let connection = Machine::new().env("WASMCLOUD_CTL_HOST", text).config().ctl;
        assert_eq!(connection.servers.join(","), urls, "{text}");
        assert_eq!(connection.host_text, host, "{text}");
    }
}

#[test]
fn what_is_no_address_is_refused() {
    for text in [
        "http://hub",
        "hub:0",
        "hub:99999",
        "hub:x",
        "a b",
        "nats://",
        "[::1",
        "[hub]:1",
        "a/b",
        ",",
        "a:1:2",
    ] {
        let mistake = Machine::new().env("WASMCLOUD_CTL_HOST", text).mistake();
        assert!(matches!(mistake.problem, Problem::NotAServer(_)), "{text}: {mistake}");
    }
}

#[test]
fn credentials_in_an_address_are_refused_and_not_shown() {
    for text in ["nats://me:hunter2@hub", "me:hunter2@hub", "a,hunter2@hub:1"] {
        let mistake = Machine::new().env("WASMCLOUD_CTL_HOST", text).mistake();
        assert_eq!(mistake.problem, Problem::CredentialsInAddress);
        assert!(!format!("{mistake:?}").contains("hunter2"));
    }
}

#[test]
fn the_port_setting_is_for_hosts_that_name_none() {
    let connection = Machine::new()
        .env("WASMCLOUD_CTL_HOST", "a,b:1")
        .env("WASMCLOUD_CTL_PORT", "7")
        .config()
        .ctl;
    assert_eq!(connection.servers, ["nats://a:7", "nats://b:1"]);
    assert_eq!(connection.port, 7);
}

#[test]
fn families_fall_back() {
    let user = seed(&KeyPair::new_user());
    let machine = Machine::new()
        .env("NATS_HOST", "base")
        .env("NATS_PORT", "4333")
        .env("WASMCLOUD_NATS_SEED", &user)
        .env("WASMCLOUD_RPC_HOST", "calls");
    let config = machine.config();
    assert_eq!(config.ctl.servers, ["nats://base:4333"]);
    assert_eq!(config.rpc.servers, ["nats://calls:4333"]);
    assert_eq!(config.prov_rpc.servers, ["nats://calls:4333"]);
    for connection in [&config.ctl, &config.rpc, &config.prov_rpc] {
        assert_eq!(connection.auth, Auth::Nkey { seed: Secret::new(&*user) });
    }
    assert_eq!(machine.row("ctl_port").origin, Origin::Env("NATS_PORT".into()));
    let config = machine.env("WASMCLOUD_PROV_RPC_HOST", "providers").config();
    assert_eq!(config.prov_rpc.servers, ["nats://providers:4333"]);
}

#[test]
fn a_login_is_inherited_whole_or_not_at_all() {
    let machine = Machine::new()
        .env("WASMCLOUD_NATS_JWT", "ey.base.x")
        .env("WASMCLOUD_NATS_SEED", &seed(&KeyPair::new_user()))
        .env("WASMCLOUD_CTL_TOKEN", "t");
    let config = machine.config();
    assert_eq!(config.ctl.auth, Auth::Token(Secret::new("t")));
    assert!(matches!(config.rpc.auth, Auth::JwtAndSeed { .. }));
}

/// The file repeats what an earlier start resolved; it must not make `NATS_HOST` a setting of the
/// first day.
#[test]
fn a_base_value_given_now_beats_what_the_file_remembers() {
    let machine = Machine::new().env("NATS_HOST", "old").env("WASMCLOUD_NATS_TOKEN", "old");
    machine.write();
    let machine = machine.restarted();
    assert_eq!(machine.config().rpc.servers, ["nats://old:4222"]);

    let machine = machine.flag("nats_host", "new").env("WASMCLOUD_NATS_TOKEN", "new");
    let config = machine.config();
    for connection in [&config.ctl, &config.rpc, &config.prov_rpc] {
        assert_eq!(connection.servers, ["nats://new:4222"]);
        assert_eq!(connection.auth, Auth::Token(Secret::new("new")));
    }
    assert_eq!(machine.env("WASMCLOUD_CTL_HOST", "special").config().ctl.host_text, "special");
}

#[test]
fn a_family_in_the_file_stands_beside_a_base_in_the_file() {
    let config = Machine::new().json(r#"{"nats_host":"base","ctl_host":"special"}"#).config();
    assert_eq!((config.ctl.host_text.as_str(), config.rpc.host_text.as_str()), ("special", "base"));
}

#[test]
fn a_remembered_login_gives_way_to_another_one_named_now() {
    let user = seed(&KeyPair::new_user());
    let machine = Machine::new()
        .env("WASMCLOUD_RPC_JWT", "ey.old.x")
        .env("WASMCLOUD_RPC_SEED", &user)
        .file("me.creds", "-----BEGIN NATS USER JWT-----");
    machine.write();
    let machine = machine.restarted().env("WASMCLOUD_RPC_CREDSFILE", "me.creds");
    let config = machine.config();
    assert_eq!(config.rpc.auth, Auth::Creds(machine.dir().join("me.creds")));
    assert_eq!(config.warnings.iter().filter(|warning| warning.contains("rpc_jwt")).count(), 1);
}

#[test]
fn every_way_to_log_in() {
    let user = seed(&KeyPair::new_user());
    let auth = |machine: Machine| machine.config().ctl.auth;
    assert_eq!(auth(Machine::new()), Auth::Anonymous);
    let machine = Machine::new().env("WASMCLOUD_CTL_SEED", &user);
    assert_eq!(auth(machine), Auth::Nkey { seed: Secret::new(&*user) });
    let machine =
        Machine::new().env("WASMCLOUD_CTL_SEED", &user).env("WASMCLOUD_CTL_JWT", "ey.x.y");
    assert_eq!(
        auth(machine),
        Auth::JwtAndSeed { jwt: Secret::new("ey.x.y"), seed: Secret::new(&*user) }
    );
    let machine = Machine::new().env("WASMCLOUD_CTL_USER", "me").env("WASMCLOUD_CTL_PASSWORD", "p");
    assert_eq!(auth(machine), Auth::User { user: "me".into(), password: Secret::new("p") });
    let machine = Machine::new().env("WASMCLOUD_CTL_TOKEN", "t");
    assert_eq!(auth(machine), Auth::Token(Secret::new("t")));
}

#[test]
fn half_a_login_is_a_mistake_that_names_both_halves() {
    let cases = [
        ("WASMCLOUD_CTL_JWT", "ey.x.y", "ctl_jwt", "ctl_seed"),
        ("WASMCLOUD_RPC_USER", "me", "rpc_user", "rpc_password"),
        ("WASMCLOUD_RPC_PASSWORD", "p", "rpc_password", "rpc_user"),
        ("WASMCLOUD_NATS_JWT", "ey.x.y", "nats_jwt", "nats_seed"),
    ];
    for (name, value, key, partner) in cases {
        let mistake = Machine::new().env(name, value).mistake();
        assert_eq!(mistake.key, key);
        assert_eq!(mistake.problem, Problem::MissingPartner(partner.into()));
        assert!(mistake.accepted.contains(key) && mistake.accepted.contains(partner));
    }
}

#[test]
fn two_ways_to_log_in_are_a_mistake() {
    let machine = Machine::new()
        .file("me.creds", "x")
        .env("WASMCLOUD_CTL_CREDSFILE", "me.creds")
        .env("WASMCLOUD_CTL_JWT", "ey.x.y")
        .env("WASMCLOUD_CTL_SEED", &seed(&KeyPair::new_user()));
    let mistake = machine.mistake();
    assert_eq!(mistake.key, "ctl_creds");
    assert_eq!(mistake.problem, Problem::Conflict("ctl_jwt and ctl_seed".into()));
}

#[test]
fn a_creds_file_must_be_readable_and_is_found_from_the_working_directory() {
    let machine = Machine::new().env("WASMCLOUD_NATS_CREDSFILE", "me.creds");
    // One setting, one mistake, although three connections inherit it.
    let mistake = machine.mistake();
    assert!(matches!(mistake.problem, Problem::Unreadable { .. }), "{mistake}");
    assert_eq!(mistake.key, "nats_creds");
    let machine = machine.file("me.creds", "x");
    assert_eq!(machine.config().prov_rpc.auth, Auth::Creds(machine.dir().join("me.creds")));
    let machine = Machine::new().env("WASMCLOUD_CTL_CREDSFILE", ".");
    assert!(matches!(machine.mistake().problem, Problem::Unreadable { .. }));
}

#[test]
fn tls_is_required_by_flag_scheme_or_certificate() {
    let tls = |machine: &Machine| {
        let connection = machine.config().ctl;
        (connection.tls.required, connection.servers[0].starts_with("tls://"))
    };
    assert_eq!(tls(&Machine::new()), (false, false));
    assert_eq!(tls(&Machine::new().env("WASMCLOUD_CTL_TLS", "1")), (true, true));
    assert_eq!(tls(&Machine::new().env("WASMCLOUD_CTL_HOST", "tls://hub")), (true, true));
    let with_ca = Machine::new().file("ca.pem", "x").env("WASMCLOUD_CTL_TLS_CA", "ca.pem");
    assert_eq!(tls(&with_ca), (true, true));
    assert_eq!(tls(&with_ca.env("WASMCLOUD_CTL_TLS", "off")), (false, false));
    let remembered =
        Machine::new().json(r#"{"ctl_tls":0}"#).file("ca.pem", "x").flag("ctl_tls_ca", "ca.pem");
    assert_eq!(tls(&remembered), (true, true));
}

#[test]
fn a_client_certificate_needs_its_key() {
    let machine =
        Machine::new().file("c.pem", "x").file("k.pem", "x").env("WASMCLOUD_RPC_TLS_CERT", "c.pem");
    let mistake = machine.mistake();
    assert_eq!(mistake.problem, Problem::MissingPartner("rpc_tls_key".into()));
    let machine = machine.env("WASMCLOUD_RPC_TLS_KEY", "k.pem");
    let dir = machine.dir();
    let tls = Tls {
        required: true,
        ca: None,
        cert: Some(dir.join("c.pem")),
        key: Some(dir.join("k.pem")),
    };
    let config = machine.config();
    assert_eq!((&config.rpc.tls, &config.prov_rpc.tls), (&tls, &tls));
    assert_eq!(config.ctl.tls, Tls::default());
}

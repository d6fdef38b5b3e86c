//! The binary as a user starts it: its log, its files, its exit codes and its signals.

use tempfile::TempDir;

use crate::harness::{
    CLUSTER_SEED, Events, Server,
    client::{Caller, ctl_2024},
    guests::{Signing, sign, wapc},
    process::{Process, command, command_in, member, output, stderr},
    text,
};

#[tokio::test]
async fn the_log_tells_what_the_walk_shows_in_its_order() {
    let server = Server::shared().await;
    let dir = TempDir::new().unwrap();
    let port = server.url().rsplit(':').next().unwrap().to_owned();
    let mut host = Process::start(
        command_in(dir.path(), &server)
            .arg("foreground")
            .env("WASMCLOUD_JS_DOMAIN", "core")
            .env("NATS_PORT", &port),
    );
    for text in [
        "Using JetStream domain: core",
        "Wrote \"./host_config.json\"",
        "/.wash/host_config.json\"",
        "Connecting to control interface NATS without authentication",
        "Connecting to lattice rpc NATS without authentication",
        "started.",
        "Valid cluster signers: C",
        "WARNING. You are using an ad hoc generated cluster seed.",
        "Lattice cache stream created or verified as existing (0 consumers).",
        "Attempting to create ephemeral consumer (cache loader)",
        "Created ephemeral consumer for lattice cache loader",
        "ready",
    ] {
        host.line(text);
    }
    let file = std::fs::read_to_string(dir.path().join("host_config.json")).unwrap();
    let file: serde_json::Value = serde_json::from_str(&file).unwrap();
    let seed = text(&file, "/cluster_seed");
    assert!(seed.starts_with("SC"));
    assert!(!host.seen.iter().any(|line| line.contains(seed)), "the seed is in the log");
    let pong = output(command(dir.path()).arg("ping"));
    assert_eq!(String::from_utf8_lossy(&pong.stdout), "pong\n");

    // A second host of the same directory counts the first one's consumer, and shares its seed
    // without a warning.
    let mut second = Process::start(
        command_in(dir.path(), &server)
            .arg("foreground")
            .env("NATS_PORT", &port)
            .env("HOST_machine", "second"),
    );
    second.line("(1 consumers)");
    second.line("ready");
    assert!(!second.seen.iter().any(|line| line.contains("WARNING")), "{:#?}", second.seen);
    let hosts = ctl_2024(&server).await.get_hosts().await.unwrap();
    assert_eq!(hosts.len(), 2);
    assert_eq!(hosts[0].cluster_issuers, hosts[1].cluster_issuers);
    for mut host in [host, second] {
        host.signal(rustix::process::Signal::TERM);
        assert_eq!(host.exit_code(), Some(0));
    }
    let ping = output(command(dir.path()).arg("ping"));
    assert!(!ping.status.success() && ping.stdout.is_empty());
}

/// A guest that works for about ten seconds on any machine this runs on, yielding all the time.
fn busy() -> String {
    wapc(
        "(local $n i64) (loop $l (local.set $n (i64.add (local.get $n) (i64.const 1))) (br_if $l (i64.lt_u (local.get $n) (i64.const 1000000000)))) (i32.const 1)",
    )
}

async fn with_a_call_in_work()
-> (Server, TempDir, Process, tokio::task::JoinHandle<Result<bytes::Bytes, String>>, Events) {
    let server = Server::shared().await;
    let dir = TempDir::new().unwrap();
    let mut process =
        Process::start(member(dir.path(), &server).args(["--shutdown-timeout-ms", "25000"]));
    process.line("ready");
    let guest = sign(&busy(), &Signing::default());
    let ctl = ctl_2024(&server).await;
    let mut events = Events::all(&server).await;
    let host = ctl.get_hosts().await.unwrap().remove(0).id;
    ctl.scale_actor(&host, &guest.reference, 1, None).await.unwrap();
    events.next("actor_scaled").await;
    let caller = Caller::new(&server).await;
    let mut wire = caller.nats.subscribe(server.rpc(&guest.id)).await.unwrap();
    crate::harness::client::settled(&caller.nats).await;
    let id = guest.id.clone();
    let call = tokio::spawn(async move {
        let _guest = guest;
        caller.call(&id, "work", "").await
    });
    futures::StreamExt::next(&mut wire).await.expect("the call is on its way");
    (server, dir, process, call, events)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_host_finishes_its_calls_says_goodbye_and_exits_with_zero() {
    let (_server, _dir, mut process, call, mut events) = with_a_call_in_work().await;
    process.signal(rustix::process::Signal::TERM);
    call.await.unwrap().expect("the call in work is finished");
    events.next("host_stopped").await;
    assert_eq!(process.exit_code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_host_at_once() {
    let (_server, _dir, mut process, call, _events) = with_a_call_in_work().await;
    process.signal(rustix::process::Signal::TERM);
    process.line("stopping");
    // Another one, for the same at the same moment counts once.
    process.signal(rustix::process::Signal::INT);
    assert_eq!(process.exit_code(), Some(130));
    call.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_over_the_control_interface_ends_the_process() {
    let server = Server::shared().await;
    let dir = TempDir::new().unwrap();
    let mut process = Process::start(command_in(dir.path(), &server).args([
        "foreground",
        "--nats-host",
        &server.url(),
        "--js-domain",
        "core",
    ]));
    process.line("ready");
    let ctl = ctl_2024(&server).await;
    let host = ctl.get_hosts().await.unwrap().remove(0).id;
    assert!(ctl.stop_host(&host, Some(2000)).await.unwrap().accepted);
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn all_mistakes_are_reported_together() {
    let dir = TempDir::new().unwrap();
    std::fs::write(
        dir.path().join("host_config.json"),
        "{\n  \"rpc_port\": \"many\",\n  \"js_domain\": \"core\"\n}",
    )
    .unwrap();
    let output = output(
        command(dir.path())
            .args(["foreground", "--cluster-seed", "SUPERSECRET"])
            .env("WASMCLOUD_LATTICE", "a.b"),
    );
    assert_eq!(output.status.code(), Some(64));
    let text = stderr(&output);
    for part in
        ["rpc_port", "host_config.json", "2", "cluster_seed", "lattice_prefix", "WASMCLOUD_LATTICE"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("SUPERSECRET"), "{text}");
}

#[test]
fn a_broken_file_is_an_error_and_not_silently_empty() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("host_config.json"), "{\n  \"rpc_port\": 4222,\n  oops\n}")
        .unwrap();
    let output = output(command(dir.path()).args(["config", "show"]));
    assert_eq!(output.status.code(), Some(64));
    assert!(
        stderr(&output).contains("host_config.json") && stderr(&output).contains('3'),
        "{}",
        stderr(&output)
    );
}

#[test]
fn host_alone_is_help_and_a_word_that_is_no_command_is_answered_with_those_that_there_are() {
    let dir = TempDir::new().unwrap();
    let alone = output(&mut command(dir.path()));
    assert_eq!((alone.status.code(), alone.stdout.len()), (Some(2), 0), "{alone:?}");
    assert!(stderr(&alone).starts_with("Begin with:\n  host up "), "{alone:?}");
    assert!(!dir.path().join("host_config.json").exists(), "it ran nothing");
    let unknown = output(command(dir.path()).args(["get", "nosuch"]));
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("hosts, inventory, claims, links"), "{unknown:?}");
}

#[test]
fn config_show_tells_where_each_value_comes_from() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join(".env"), "WASMCLOUD_JS_DOMAIN=core\n").unwrap();
    let shown = output(
        command(dir.path())
            .args(["config", "show", "--origin", "--cluster-seed", CLUSTER_SEED])
            .env("WASMCLOUD_RPC_TIMEOUT_MS", "5000"),
    );
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    let row = |key: &str| {
        text.lines()
            .find(|line| line.starts_with(key))
            .unwrap_or_else(|| panic!("{key} in {text}"))
            .to_owned()
    };
    assert!(row("js_domain").contains(".env") && row("js_domain").contains("core"));
    assert!(row("rpc_timeout_ms").contains("WASMCLOUD_RPC_TIMEOUT_MS"));
    assert!(row("cluster_seed").contains("--cluster-seed"));
    assert!(!text.contains(CLUSTER_SEED), "the seed is shown");
    let json = output(command(dir.path()).args(["config", "show", "-o", "json"]));
    let rows: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert!(rows.as_array().is_some_and(|rows| rows.len() > 40), "{rows}");
    std::fs::write(dir.path().join("host_config.json"), r#"{ "lattice": "x" }"#).unwrap();
    let odd = output(command(dir.path()).args(["config", "show"]));
    assert!(odd.status.success() && stderr(&odd).contains("\"lattice_prefix\"?"), "{odd:?}");
}

#[test]
fn inspect_reads_files_of_this_directory_and_names_a_missing_one() {
    let dir = TempDir::new().unwrap();
    std::fs::copy(
        crate::harness::example("echo").trim_start_matches("file://"),
        dir.path().join("echo.wasm"),
    )
    .unwrap();
    for reference in ["echo.wasm", "./echo.wasm"] {
        let output =
            command(dir.path()).args(["inspect", reference, "-o", "json"]).output().unwrap();
        let told: serde_json::Value =
            serde_json::from_slice(&output.stdout).expect("JSON on standard output");
        assert_eq!(told["public_key"], crate::harness::ECHO);
    }
    let missing = command(dir.path()).args(["inspect", "./nothing.wasm"]).output().unwrap();
    assert!(!missing.status.success() && missing.stdout.is_empty());
    assert!(String::from_utf8_lossy(&missing.stderr).contains("No such file"), "{missing:?}");
}

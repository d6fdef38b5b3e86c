//! The commands that operate a lattice, as a user types them: what they print, what they bring
//! about, and how they fail.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
    time::Instant,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::{
    CLUSTER_SEED, ECHO, KVCOUNTER, PATIENCE, PINGER, PROVIDER, Server, TestHost,
    client::{self, answering, ctl_2024},
    eventually, example,
    guests::{Signing, sign_as, wapc, write},
    host,
    process::{Process, command, stderr},
};

const HTTPSERVER: &str = "builtin://httpserver";

/// A user at a shell, in a directory of their own.
pub(crate) struct User {
    dir: TempDir,
    port: String,
    lattice: String,
}

impl User {
    pub(crate) fn of(server: &Server) -> Self {
        let port = server.address().rsplit(':').next().unwrap_or_default().to_owned();
        Self { dir: TempDir::new().unwrap(), port, lattice: server.lattice().to_owned() }
    }

    /// The directory that the user is in.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Types a command, with the port of the server in the environment.
    pub(crate) async fn run(&self, words: &[&str]) -> Output {
        self.run_reading(words, Stdio::null()).await
    }

    /// A command that is not run yet.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = command(self.dir.path());
        command.args(words).env("NATS_PORT", &self.port).env("WASMCLOUD_JS_DOMAIN", "core");
        command.env("WASMCLOUD_CLUSTER_SEED", CLUSTER_SEED).env("WASMCLOUD_LATTICE", &self.lattice);
        command
    }

    /// The same for a command that reads its standard input.
    pub(crate) async fn run_reading(&self, words: &[&str], input: impl Into<Stdio>) -> Output {
        let command = self.command(words);
        let command = tokio::process::Command::from(command).stdin(input).output();
        command.await.expect("host runs")
    }

    /// Types a command that ends well; returns what it printed.
    pub(crate) async fn prints(&self, words: &[&str]) -> String {
        let output = self.run(words).await;
        assert!(output.status.success(), "{words:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).expect("text")
    }

    pub(crate) async fn json(&self, words: &[&str]) -> Value {
        let text = self.prints(&[words, &["-o", "json"]].concat()).await;
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{words:?}: {e}: {text}"))
    }

    /// Types a command that fails with this exit code; returns what it complained of.
    pub(crate) async fn fails(&self, code: i32, words: &[&str]) -> String {
        let output = self.run(words).await;
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "errors go to standard error");
        stderr(&output)
    }
}

async fn inventory(
    server: &Server,
    host: &TestHost,
) -> wasmcloud_control_interface_2024::HostInventory {
    ctl_2024(server).await.get_host_inventory(&host.id).await.expect("an inventory")
}

#[tokio::test]
async fn hosts_are_shown_in_every_form() {
    let server = Server::shared().await;
    let first = host(&server).label("machine", "first").start().await;
    let second = host(&server).label("machine", "second").start().await;
    eventually("the hosts know each other", || async {
        (first.other_hosts().len() == 1).then_some(())
    })
    .await;
    eventually("the hosts know each other", || async {
        (second.other_hosts().len() == 1).then_some(())
    })
    .await;
    let user = User::of(&server);

    let text = user.prints(&["get", "hosts"]).await;
    assert!(
        text.contains(&first.id) && text.contains("machine=second"),
        "no id is shortened in a pipe: {text}"
    );
    assert!(
        !text.contains("hostcore")
            && user.prints(&["get", "hosts", "-o", "wide"]).await.contains("hostcore")
    );
    let json = user.json(&["ctl", "get", "hosts"]).await;
    assert_eq!(json["success"], true);
    assert_eq!(json["hosts"].as_array().map(Vec::len), Some(2));
    let names = user.prints(&["get", "hosts", "-o", "name"]).await;
    assert_eq!(names.lines().count(), 2);
    assert!(names.contains(&first.id) && names.contains(&second.id));
    assert!(
        user.prints(&["get", "hosts", "-o", "yaml"]).await.contains(&format!("id: {}", first.id))
    );
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_watched_until_ctrl_c_which_is_no_failure() {
    let server = Server::start().await;
    let first = host(&server).start().await;
    let user = User::of(&server);
    let mut watching =
        Process::printing(&mut user.command(&["get", "hosts", "--watch=0.2", "-o", "json"]));
    let count = |told: Value| told["hosts"].as_array().map_or(0, Vec::len);
    assert_eq!(count(watching.json("a first look")), 1);
    let second = host(&server).start().await;
    let began = Instant::now();
    while count(watching.json("two hosts")) < 2 {
        assert!(began.elapsed() < PATIENCE, "two hosts in vain");
    }
    watching.signal(rustix::process::Signal::INT);
    assert_eq!(watching.exit_code(), Some(0));
    assert!(user.fails(2, &["get", "hosts", "--watch=0"]).await.contains("--watch is between"));
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn an_actor_and_a_provider_are_started_linked_shown_and_stopped() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let user = User::of(&server);
    let reference = example("echo");

    let started = user.json(&["start", "actor", &reference, "--max", "3"]).await;
    assert_eq!(
        (started["actor_id"].as_str(), started["host_id"].as_str()),
        (Some(ECHO), Some(host.id.as_str()))
    );
    assert_eq!(inventory(&server, &host).await.actors[0].instances[0].max_instances, 3);
    let again = user.prints(&["start", "actor", &reference]).await;
    assert!(again.contains("already") && again.contains("takes 3 calls"), "{again}");
    assert_eq!(
        inventory(&server, &host).await.actors[0].instances[0].max_instances,
        3,
        "a start takes nothing away"
    );

    let provider = user.json(&["start", "provider", HTTPSERVER]).await;
    let provider_id = provider["provider_id"].as_str().expect("an id").to_owned();
    assert_eq!(provider["contract_id"], "wasmcloud:httpserver");
    assert!(user.prints(&["start", "provider", HTTPSERVER]).await.contains("already"));

    let port = crate::harness::nats::free_port();
    let address = format!("address=127.0.0.1:{port}");
    user.prints(&["link", "put", "echo", HTTPSERVER, "wasmcloud:httpserver", &address]).await;
    let links = user.json(&["link", "query"]).await;
    assert_eq!(links["links"][0]["values"]["address"], format!("127.0.0.1:{port}"));
    let same =
        user.prints(&["link", "put", ECHO, &provider_id, "wasmcloud:httpserver", &address]).await;
    assert!(same.contains("was there already"), "{same}");
    let text = user.prints(&["get", "links"]).await;
    assert!(text.contains("echo") && text.contains("HTTP server"), "{text}");
    let state = |told: &Value| told["states"].as_object()?.values().next().cloned();
    eventually("the provider takes the link on", || async {
        let told = user.json(&["get", "links"]).await;
        (state(&told) == Some(json!("ok"))).then_some(())
    })
    .await;
    let claims = user.json(&["get", "claims"]).await;
    assert!(
        claims["claims"]
            .as_array()
            .unwrap()
            .iter()
            .any(|claims| claims["sub"] == ECHO && claims["subject"] == ECHO)
    );
    let shown = user.prints(&["get", "inventory"]).await;
    assert!(
        shown.contains(&host.id) && shown.contains(&reference) && shown.contains(HTTPSERVER),
        "{shown}"
    );

    assert!(
        user.prints(&["stop", "provider", HTTPSERVER, "wasmcloud:httpserver"])
            .await
            .contains("stopped")
    );
    let short = user.fails(1, &["stop", "actor", "ec"]).await;
    assert!(short.contains("4 letters are needed") && short.contains(ECHO), "{short}");
    assert!(user.prints(&["stop", "actor", "echo"]).await.contains(ECHO), "the name will do");
    let inventory = inventory(&server, &host).await;
    assert!(inventory.actors.is_empty() && inventory.providers.is_empty());
    user.prints(&["link", "del", ECHO, "wasmcloud:httpserver"]).await;
    assert_eq!(user.json(&["get", "links"]).await["links"], json!([]));
    host.stop().await;
}

#[tokio::test]
async fn the_arguments_of_2022_mean_what_they_meant() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let user = User::of(&server);
    let reference = example("echo");
    user.prints(&["ctl", "start", "actor", &reference, "--count", "2"]).await;
    assert_eq!(inventory(&server, &host).await.actors[0].instances[0].max_instances, 2);
    user.prints(&["ctl", "scale", "actor", &host.id, ECHO, &reference, "--count", "5"]).await;
    assert_eq!(inventory(&server, &host).await.actors[0].instances[0].max_instances, 5);
    user.prints(&["ctl", "stop", "actor", &host.id, ECHO, "--count", "1"]).await;
    assert_eq!(inventory(&server, &host).await.actors[0].instances[0].max_instances, 4);
    let provider = user.json(&["ctl", "start", "provider", "builtin://keyvalue"]).await;
    let provider = provider["provider_id"].as_str().expect("an id").to_owned();
    user.prints(&["ctl", "stop", "provider", &host.id, &provider, "default", "wasmcloud:keyvalue"])
        .await;
    assert!(inventory(&server, &host).await.providers.is_empty());
    assert!(user.fails(2, &["stop", "actor", "echo", "second-word"]).await.contains("--host-id"));
    host.stop().await;
}

#[tokio::test]
async fn no_host_for_a_constraint_is_told_with_hosts_labels_and_the_rule_that_failed() {
    let server = Server::shared().await;
    let first = host(&server).label("machine", "first").start().await;
    let second =
        host(&server).set("enable_start_from_fs", "false").label("machine", "second").start().await;
    let user = User::of(&server);
    let reference = example("echo");
    let error = user
        .fails(
            1,
            &["start", "actor", &reference, "-c", "machine=third", "--auction-timeout-ms", "300"],
        )
        .await;
    assert!(
        error.contains("machine is first, not third")
            && error.contains("machine is second, not third"),
        "{error}"
    );
    assert!(error.contains("host label"), "it says what to do: {error}");
    let error = user
        .fails(1, &["start", "actor", &reference, "-c", "zone=a", "--auction-timeout-ms", "300"])
        .await;
    assert!(error.contains("has no label zone"), "{error}");
    let error = user
        .fails(
            1,
            &["start", "actor", &reference, "-c", "machine=second", "--auction-timeout-ms", "300"],
        )
        .await;
    assert!(
        error.contains("does not load files") && error.contains("--allow-file-load"),
        "{error}"
    );
    user.prints(&["start", "actor", &reference, "-c", "machine=first"]).await;
    assert!(
        user.fails(2, &["start", "actor", &reference, "-c", "a=1", "-c", "a=2"])
            .await
            .contains("twice")
    );
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn an_actor_on_several_hosts_is_stopped_where_one_says_or_everywhere() {
    let server = Server::shared().await;
    let hosts = [host(&server).start().await, host(&server).start().await];
    let user = User::of(&server);
    let reference = example("pinger");
    for host in &hosts {
        user.prints(&["start", "actor", &reference, "--host-id", &host.id]).await;
    }
    let error = user.fails(1, &["stop", "actor", PINGER]).await;
    assert!(
        hosts.iter().all(|host| error.contains(&host.id)) && error.contains("--all"),
        "{error}"
    );
    let stopped = user.json(&["stop", "actor", PINGER, "--all"]).await;
    assert_eq!(stopped["hosts"].as_array().map(Vec::len), Some(2));
    for host in &hosts {
        assert!(inventory(&server, host).await.actors.is_empty());
    }
    assert!(user.fails(1, &["stop", "actor", PINGER]).await.contains("nothing was stopped"));
    let [first, second] = hosts;
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn a_start_that_fails_says_why_and_ends_with_1() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let user = User::of(&server);
    let (_dir, unsigned) = write(&wat::parse_str("(module)").unwrap());
    let error = user.fails(1, &["start", "actor", &unsigned]).await;
    let name = &host.host().state().facts().friendly_name;
    assert!(error.contains("no claims") && error.contains(name.as_str()), "{error}");
    let error =
        user.fails(1, &["start", "provider", "builtin://nonsense", "--host-id", &host.id]).await;
    assert!(error.contains("nonsense"), "{error}");
    let error = user
        .run(&["start", "provider", "builtin://nonsense", "--host-id", &host.id, "-o", "json"])
        .await;
    let told: Value =
        serde_json::from_slice(&error.stderr).expect("errors are JSON where data was asked for");
    assert_eq!(told["success"], false);
    host.stop().await;
}

/// Stands for a host of another kind that takes commands on and is silent then.
async fn silent_host(server: &Server, id: &'static str) -> AbortOnDropHandle<()> {
    let answer = move |tail: &str, _: &[u8]| {
        Some(match tail {
            "ping.hosts" => json!({ "id": id, "friendly_name": "mute-mole-1" }),
            tail if tail.ends_with(".inv") => {
                json!({ "host_id": id, "version": "0.82.0", "actors": [], "providers": [] })
            }
            tail if tail.starts_with("auction.") => json!({ "host_id": id }),
            _ => json!({ "accepted": true, "error": "" }),
        })
    };
    answering(server, &server.ctl(">"), answer).await
}

#[tokio::test]
async fn a_start_nobody_hears_of_again_ends_with_3_and_says_how_to_find_out() {
    let server = Server::shared().await;
    let id = "NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF";
    let _host = silent_host(&server, id).await;
    let user = User::of(&server);
    let error =
        user.fails(3, &["start", "actor", "registry.example/echo:1", "--wait-ms", "300"]).await;
    assert!(
        error.contains("host get inventory mute-mole-1") && error.contains("may still start"),
        "{error}"
    );
    let taken = user.prints(&["start", "actor", "registry.example/echo:1", "--skip-wait"]).await;
    assert!(taken.contains("request received"), "{taken}");
}

#[tokio::test]
async fn nobody_there_is_told_with_subject_lattice_domain_and_what_to_check() {
    let server = Server::shared().await;
    let user = User::of(&server);
    let error = user.fails(1, &["get", "hosts", "--lattice", "shop"]).await;
    for part in [
        "wasmbus.ctl.shop.ping.hosts",
        "lattice shop",
        "domain core",
        "host up",
        "leaf node",
        "host doctor",
    ] {
        assert!(error.contains(part), "{part} in {error}");
    }
    let error = user.fails(1, &["get", "claims", "--ctl-port", "1"]).await;
    assert!(error.contains("127.0.0.1:1") && error.contains("--ctl-port"), "{error}");
    let error = user.fails(2, &["get", "hosts", "--ctl-port", "many"]).await;
    assert!(error.contains("\"many\" is not a whole number"), "{error}");
    user.fails(2, &["get", "nonsense"]).await;
}

#[tokio::test]
async fn links_that_are_unknown_or_doubtful_are_told_with_what_is_there() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let user = User::of(&server);
    client::start(&server, &host, &example("kvcounter"), 1).await;
    client::link(
        &server,
        KVCOUNTER,
        PROVIDER,
        "wasmcloud:keyvalue",
        &[("password", "geheim-geheim")],
    )
    .await;
    let error = user.fails(1, &["link", "del", "kvcounter", "wasmcloud:messaging"]).await;
    assert!(error.contains("wasmcloud:keyvalue (default)") && error.contains(PROVIDER), "{error}");
    let shown = user.prints(&["get", "links"]).await;
    assert!(shown.contains("password=****") && !shown.contains("geheim"), "{shown}");
    let doubtful =
        user.run(&["link", "put", KVCOUNTER, "builtin://messaging", "wasmcloud:messaging"]).await;
    assert!(doubtful.status.success());
    let notes = stderr(&doubtful);
    assert!(notes.contains("was not signed for"), "{notes}");
    let other = ["link", "put", KVCOUNTER, "builtin://httpserver", "wasmcloud:messaging"];
    assert!(user.fails(1, &other).await.contains("fulfils wasmcloud:httpserver"));
    assert!(
        user.fails(1, &["link", "put", "nobody", HTTPSERVER, "wasmcloud:httpserver"])
            .await
            .contains(KVCOUNTER)
    );
    host.stop().await;
}

#[tokio::test]
async fn labels_are_set_and_deleted_and_choose_hosts() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let user = User::of(&server);
    let name = user.json(&["get", "hosts"]).await["hosts"][0]["friendly_name"]
        .as_str()
        .expect("a name")
        .to_owned();
    let word = name.split('-').next().expect("a word");
    user.prints(&["label", word, "zone=a", "machine=first"]).await;
    assert_eq!(inventory(&server, &host).await.labels["zone"], "a");
    user.prints(&["label", &host.id, "zone", "--delete"]).await;
    assert!(!inventory(&server, &host).await.labels.contains_key("zone"));
    assert!(user.fails(2, &["label", word, "zone"]).await.contains("KEY=VALUE"));
    assert!(user.fails(1, &["label", "nobody-here", "a=b"]).await.contains(&host.id));
    host.stop().await;
}

#[tokio::test]
async fn a_call_is_signed_with_the_seed_of_the_settings_and_shows_its_answer() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let user = User::of(&server);
    client::start(&server, &host, &example("echo"), 1).await;
    let request = json!({"method": "GET", "path": "/cats", "queryString": "", "header": {}, "body": {"$bin": "aGk="}})
        .to_string();
    let call = ["call", "echo", "HttpServer.HandleRequest", &request];
    let shown = user.prints(&call).await;
    assert!(shown.contains("\"statusCode\": 200") && shown.contains("/cats"), "{shown}");
    let answer = user.json(&[&call[..], &["--bin", "s"]].concat()).await;
    assert!(
        answer["response"]["body"].as_str().is_some_and(|body| body.contains("[104,105]")),
        "{answer}"
    );

    let file = user.dir.path().join("request.json");
    std::fs::write(&file, &request).unwrap();
    let saved = user.dir.path().join("answer.bin");
    let words =
        ["call", ECHO, "HttpServer.HandleRequest", "-d", "request.json", "--save", "answer.bin"];
    assert_eq!(user.prints(&words).await, "");
    assert!(std::fs::read(&saved).unwrap().windows(10).any(|part| part == b"statusCode"));

    let other = wasmbus_rpc::wascap::prelude::KeyPair::new_cluster().seed().unwrap();
    let error = user.fails(1, &[&call[..], &["--cluster-seed", &other]].concat()).await;
    assert!(error.contains("issuer") && !error.contains(&other), "{error}");
    let error = user.fails(1, &["call", PINGER, "Ping.Ping"]).await;
    assert!(error.contains("runs on no host") && error.contains(PINGER), "{error}");
    client::start(&server, &host, &example("pinger"), 1).await;
    user.prints(&["stop", "actor", PINGER]).await;
    let error = user.fails(1, &["call", PINGER, "Ping.Ping"]).await;
    assert!(
        error.contains("inger runs on no host") && error.contains("host start actor"),
        "{error}"
    );
    assert!(
        user.fails(2, &["call", ECHO, "HttpServer.HandleRequest", "{broken"])
            .await
            .contains("no JSON")
    );
    host.stop().await;
}

#[tokio::test]
async fn an_update_exchanges_the_module_on_every_host_that_runs_it() {
    let server = Server::shared().await;
    let hosts = [host(&server).start().await, host(&server).start().await];
    let user = User::of(&server);
    let key = || {
        wasmbus_rpc::wascap::prelude::KeyPair::from_seed(
            "SMAAGAYDAMBQGAYDAMBQGAYDAMBQGAYDAMBQGAYDAMBQGAYDAMBQGA34LM",
        )
        .unwrap()
    };
    let signed = |revision| {
        sign_as(
            &wapc("i32.const 1"),
            &Signing { revision: Some(revision), ..Signing::default() },
            key(),
        )
    };
    let (old, new) = (signed(1), signed(2));
    for host in &hosts {
        client::start(&server, host, &old.reference, 1).await;
    }
    let updated = user.json(&["update", "actor", &old.id, &new.reference]).await;
    assert_eq!(updated["hosts"].as_array().map(Vec::len), Some(2));
    for host in &hosts {
        assert_eq!(
            inventory(&server, host).await.actors[0].image_ref.as_deref(),
            Some(new.reference.as_str())
        );
    }
    let error =
        user.fails(1, &["ctl", "update", "actor", &hosts[0].id, &old.id, &old.reference]).await;
    assert!(error.contains("revision"), "{error}");
    let [first, second] = hosts;
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn a_host_is_stopped_and_the_command_waits_until_it_has() {
    let server = Server::shared().await;
    let dir = TempDir::new().unwrap();
    let mut process = crate::harness::process::Process::start(
        &mut crate::harness::process::member(dir.path(), &server),
    );
    process.line("ready");
    let user = User::of(&server);
    let id = user.prints(&["get", "hosts", "-o", "name"]).await.trim().to_owned();
    assert!(user.prints(&["stop", "host", &id[..8]]).await.contains("stopped"));
    assert_eq!(process.exit_code(), Some(0));
    assert!(user.fails(1, &["get", "inventory", &id]).await.contains("nobody listens"));
}

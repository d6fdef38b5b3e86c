//! `host dev`: a module that is saved runs a moment later, and what cannot run does no harm.

use std::{cell::RefCell, fs, path::Path, time::Duration};

use futures::StreamExt as _;
use lattice_client::dev::{self, Change, Linking, Settings, Sign, Told};
use lattice_engine::providers::builtin::{blobstore, httpclient, httpserver, keyvalue};
use lattice_protocol::{control::types::Pairs, identity::claims::ActorClaims};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use wascap::prelude::{ClaimsBuilder, KeyPair};

use crate::{
    harness::{
        ECHO, Server, TestHost,
        client::{self, Caller, ctl_2024, start, start_provider},
        eventually, example, fixtures,
        guests::{Signing, sign_module, wapc},
        host,
        nats::free_port,
        process::{Process, command},
    },
    uploads::sender,
};

/// `host dev`, whose lines can be waited for.
pub struct Dev {
    process: Process,
    home: TempDir,
}

impl Dev {
    pub fn begin(server: &Server, file: &Path, args: &[&str]) -> Self {
        Self::begin_at_home(TempDir::new().unwrap(), server, file, args)
    }

    /// The same with the keys of a directory.
    fn begin_at_home(home: TempDir, server: &Server, file: &Path, args: &[&str]) -> Self {
        let (server_host, port) = server.address().rsplit_once(':').unwrap();
        let mut command = command(home.path());
        command.arg("dev").arg(file).args(["-o", "json", "-r", server_host, "-p", port]).args(args);
        Self { process: Process::printing(&mut command), home }
    }

    /// The next thing told that is no line of the actor's logs, no link, and not what to go on
    /// with, which has to be this.
    pub fn told(&mut self, event: &str) -> Value {
        loop {
            let told = self.process.json(event);
            let is_beside = ["log", "linked", "linked_before", "ready"]
                .iter()
                .any(|beside| told["event"] == *beside);
            if is_beside && told["event"] != event {
                continue;
            }
            assert_eq!(told["event"], event, "{told}");
            return told;
        }
    }

    fn interrupt(&self) {
        self.process.signal(Signal::INT);
    }

    /// Ends at once; its keys stay.
    fn end_without_a_word(self) -> TempDir {
        let Self { process, home } = self;
        drop(process);
        home
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.process.exit_code()
    }
}

/// An actor of which each revision answers with as many bytes.
struct Source {
    key: KeyPair,
    account: KeyPair,
}

impl Source {
    fn new() -> Self {
        Self { key: KeyPair::new_module(), account: KeyPair::new_account() }
    }

    fn id(&self) -> String {
        self.key.public_key()
    }

    fn unsigned(answer_bytes: usize) -> Vec<u8> {
        wat::parse_str(wapc(&format!(
            "(call $response (i32.const 0) (i32.const {answer_bytes})) (i32.const 1)"
        )))
        .unwrap()
    }

    fn sign(&self, wasm: &[u8], revision: i32) -> Vec<u8> {
        let metadata =
            wascap::jwt::Actor::new("saved".into(), None, None, false, Some(revision), None, None);
        let mut claims = ClaimsBuilder::<wascap::jwt::Actor>::new();
        claims
            .issuer(&self.account.public_key())
            .subject(&self.key.public_key())
            .with_metadata(metadata);
        wascap::wasm::embed_claims(wasm, &claims.build(), &self.account).unwrap()
    }

    fn signed(&self, revision: i32) -> Vec<u8> {
        self.sign(&Self::unsigned(revision as usize), revision)
    }
}

/// How many bytes an actor answers with now.
async fn answer(server: &Server, actor: &str) -> Result<usize, String> {
    Caller::new(server).await.call(actor, "Any.Thing", "").await.map(|answer| answer.len())
}

async fn runs(server: &Server, host: &TestHost, actor: &str) -> bool {
    let inventory =
        ctl_2024(server).await.get_host_inventory(&host.id).await.expect("an inventory");
    inventory.actors.iter().any(|found| found.id == actor)
}

/// Counts the uploads in the store.
async fn uploads(server: &Server) -> usize {
    let sender = sender(server).await;
    let readers = lattice_client::upload::Readers::find(&sender.lattice).await.unwrap();
    sender.store(&readers).list().await.unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_save_runs_without_a_failed_call_and_what_is_broken_does_no_harm() {
    let server = Server::start().await;
    let host = host(&server).set("enable_start_from_fs", "false").start().await;
    let (dir, source) = (TempDir::new().unwrap(), Source::new());
    let file = dir.path().join("saved.wasm");
    fs::write(&file, source.signed(1)).unwrap();
    let mut dev = Dev::begin(&server, &file, &[]);
    let running = dev.told("running");
    assert_eq!((&running["change"], &running["revision"]), (&"started".into(), &1.into()));
    assert_eq!(
        (&running["host_id"], &running["actor_id"]),
        (&host.id.as_str().into(), &source.id().into())
    );
    assert_eq!(answer(&server, &source.id()).await, Ok(1));

    let stop_load = CancellationToken::new();
    let load = (0..4).map(|_| {
        let (stop, actor, address) = (stop_load.clone(), source.id(), server.url());
        let lattice = server.lattice().to_owned();
        tokio::spawn(async move {
            let nats = async_nats::connect(address).await.expect("connected");
            let signer =
                lattice_protocol::rpc::antiforgery::Signer::new(crate::harness::CLUSTER_SEED)
                    .unwrap();
            let (caller, mut answers) = (Caller { nats, lattice, signer }, Vec::new());
            while !stop.is_cancelled() {
                answers.push(caller.call(&actor, "Any.Thing", "").await.map(|answer| answer.len()));
            }
            answers
        })
    });
    let load: Vec<_> = load.collect();
    for revision in 2..=4 {
        let new = dir.path().join("new");
        fs::write(&new, source.signed(revision)).unwrap();
        fs::rename(&new, &file).unwrap();
        let running = dev.told("running");
        assert_eq!(
            (&running["change"], &running["revision"]),
            (&"updated".into(), &revision.into())
        );
        assert_eq!(answer(&server, &source.id()).await, Ok(revision as usize));
    }
    stop_load.cancel();
    for answers in load {
        let answers = answers.await.unwrap();
        assert!(
            answers.iter().all(Result::is_ok),
            "{:?}",
            answers.iter().find(|answer| answer.is_err())
        );
        assert!(answers.iter().is_sorted(), "no call runs what was before");
    }
    eventually("what was replaced is removed", || async {
        (uploads(&server).await == 1).then_some(())
    })
    .await;

    let whole = source.signed(5);
    let does_not_compile = wat::parse_str("(module (func (result i32)))").unwrap();
    for (broken, why) in [
        (&whole[..whole.len() / 2], "not a whole module"),
        (b"no module at all", "neither"),
        (&source.signed(3), "host claims sign"),
        (&source.sign(&does_not_compile, 6), "type mismatch"),
        // It is signed with the developer's keys, and so is not the actor that was begun with.
        (&Source::unsigned(7), "another actor"),
    ] {
        fs::write(&file, broken).unwrap();
        let refused = dev.told("refused");
        assert_eq!(refused["running_revision"], 4, "{refused}");
        assert!(refused["error"].as_str().unwrap().contains(why), "{why} in {refused}");
        assert_eq!(answer(&server, &source.id()).await, Ok(4));
    }
    fs::write(&file, &whole).unwrap();
    assert_eq!(dev.told("running")["revision"], 5);

    dev.interrupt();
    assert_eq!(dev.told("stopped")["actor_id"], source.id());
    assert_eq!(dev.exit_code(), Some(0));
    assert!(!runs(&server, &host, &source.id()).await, "it waited until it has");
    assert_eq!(uploads(&server).await, 0);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_built_yet_is_waited_for_and_what_a_killed_one_left_is_taken_over() {
    let server = Server::start().await;
    let host = host(&server).start().await;
    let (dir, source) = (TempDir::new().unwrap(), Source::new());
    let file = dir.path().join("target/release/saved.wasm");
    let mut dev = Dev::begin(&server, &file, &["--max", "3", "--host-id", &host.id[..8]]);
    dev.told("waiting");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, source.signed(1)).unwrap();
    assert_eq!(dev.told("running")["change"], "started");
    let inventory = ctl_2024(&server).await.get_host_inventory(&host.id).await.unwrap();
    assert_eq!(inventory.actors[0].instances[0].max_instances, 3);
    drop(dev);
    assert!(runs(&server, &host, &source.id()).await);

    let mut kept = Dev::begin(&server, &file, &["--keep"]);
    assert_eq!(kept.told("running")["change"], "found");
    kept.interrupt();
    kept.told("left_running");
    assert_eq!(kept.exit_code(), Some(0));
    assert_eq!(answer(&server, &source.id()).await, Ok(1));

    let mut again = Dev::begin(&server, &file, &[]);
    again.told("running");
    again.interrupt();
    again.told("stopped");
    assert!(!runs(&server, &host, &source.id()).await);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_others_started_is_updated_and_left_running() {
    let server = Server::start().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("echo.wasm");
    fs::copy(example("echo").trim_start_matches("file://"), &file).unwrap();
    let mut dev = Dev::begin(&server, &file, &[]);
    let refused = dev.told("refused");
    let error = refused["error"].as_str().unwrap();
    assert!(error.contains("without --rev") && error.contains("host stop actor"), "{error}");
    dev.interrupt();
    assert_eq!(dev.exit_code(), Some(0));
    assert!(runs(&server, &host, ECHO).await);
    host.stop().await;
}

#[tokio::test]
async fn without_a_host_it_ends_and_says_what_to_do() {
    let server = Server::start().await;
    let dir = TempDir::new().unwrap();
    let mut dev = Dev::begin(&server, &dir.path().join("x.wasm"), &[]);
    assert_eq!(dev.exit_code(), Some(1));
}

/// The settings of a developer who has no wishes.
fn settings(file: &Path) -> Settings {
    Settings {
        file: file.to_owned(),
        host: None,
        max: 1,
        annotations: Pairs::new(),
        linking: Linking::Off,
        patience: dev::PATIENCE,
        keep: false,
    }
}

/// Collects what is told.
async fn until_told<T>(
    told: &RefCell<Vec<Told>>,
    what: &str,
    find: impl Fn(&Told) -> Option<T>,
) -> T {
    eventually(what, || async { told.borrow().iter().rev().find_map(&find) }).await
}

#[tokio::test]
async fn unsigned_modules_are_signed_with_revisions_that_rise_and_own_ones_are_signed_again() {
    let server = Server::start().await;
    let host = host(&server).start().await;
    let (dir, source) = (TempDir::new().unwrap(), Source::new());
    let file = dir.path().join("saved.wasm");
    fs::write(&file, Source::unsigned(1)).unwrap();
    let sign: Sign<'_> = Box::new(|wasm, claims: Option<&ActorClaims>, revision| {
        let is_own = claims.is_none_or(|claims| claims.subject.as_str() == source.id());
        // A token it has is replaced.
        Ok(is_own.then(|| source.sign(wasm, revision)))
    });
    let settings = settings(&file);
    let (told, stop) = (RefCell::new(Vec::new()), CancellationToken::new());
    let tell = |what: Told| told.borrow_mut().push(what);
    let watching = dev::run(sender(&server).await, settings, sign, None, stop.clone(), &tell);
    let revision_of = |change: Change, above: u64| {
        move |told: &Told| match told {
            Told::Running(running) if running.change == change && running.revision > above => {
                Some(running.revision)
            }
            _ => None,
        }
    };
    let saving = async {
        let first = until_told(&told, "it was started", revision_of(Change::Started, 0)).await;
        fs::write(&file, Source::unsigned(2)).unwrap();
        let second = until_told(&told, "it was updated", revision_of(Change::Updated, first)).await;
        assert_eq!(answer(&server, &source.id()).await, Ok(2));
        // Signed before, with a revision that is long over.
        fs::write(&file, source.signed(3)).unwrap();
        until_told(&told, "it was signed again", revision_of(Change::Updated, second)).await;
        assert_eq!(answer(&server, &source.id()).await, Ok(3));
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(watching, saving);
    ended.unwrap();
    assert!(matches!(told.borrow().last(), Some(Told::Stopped(_))), "{:?}", told.borrow().last());
    assert!(!runs(&server, &host, &source.id()).await);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsigned_module_is_signed_with_the_developers_keys_and_what_it_logs_is_shown() {
    let server = Server::start().await;
    let host = host(&server).start().await;
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("talks.wasm");
    fs::write(
        &file,
        wat::parse_str(wapc("(call $log (i32.const 0) (i32.const 5)) (i32.const 1)")).unwrap(),
    )
    .unwrap();
    let options = ["--cap", "wasmcloud:keyvalue", "--name", "Talks", "--no-links"];
    let mut dev = Dev::begin(&server, &file, &options);
    let running = dev.told("running");
    let actor = running["actor_id"].as_str().expect("an id").to_owned();
    assert_eq!(running["name"], "Talks");
    eventually("its claims are known", || async {
        let claims = ctl_2024(&server).await.get_claims().await.ok()?;
        let caps = claims.iter().find(|claims| claims["sub"] == actor)?["caps"].clone();
        (caps == "wasmcloud:keyvalue").then_some(())
    })
    .await;
    // It is followed from some moment on, so it speaks until it is heard.
    let caller = Caller::new(&server).await;
    let speaking = async {
        loop {
            let _ = caller.call(&actor, "Talk", Vec::new()).await;
        }
    };
    let hearing = tokio::task::spawn_blocking(move || while dev.told("log")["text"] != "state" {});
    tokio::select! {
        heard = hearing => heard.unwrap(),
        () = speaking => unreachable!("it has no end"),
    }
    host.stop().await;
}

/// The public keys of the providers that run on a host.
async fn providers(server: &Server, host: &TestHost) -> Vec<String> {
    let inventory = ctl_2024(server).await.get_host_inventory(&host.id).await.expect("inventory");
    inventory.providers.into_iter().map(|provider| provider.id).collect()
}

/// The contracts that an actor has links for.
async fn contracts(server: &Server, actor: &str) -> Vec<String> {
    let links = ctl_2024(server).await.query_links().await.expect("links");
    let of_actor = links.into_iter().filter(|link| link.actor_id == actor);
    let mut contracts: Vec<_> = of_actor.map(|link| link.contract_id).collect();
    contracts.sort();
    contracts
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_makes_a_page_of_an_unsigned_component_and_nothing_stays_behind() {
    let server = Server::start().await;
    let host = host(&server).start().await;
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("blobs.wasm");
    fs::write(&file, fixtures::wash_runtime("http_blobstore.wasm")).unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    let annotation = ["--annotation", "zone=a"];
    let mut dev = Dev::begin(&server, &file, &[&["--http", &address], &annotation[..]].concat());
    let actor = dev.told("running")["actor_id"].as_str().expect("an id").to_owned();
    let page = dev.told("linked");
    assert_eq!(page["contract_id"], "wasmcloud:httpserver", "{page}");
    assert_eq!(page["provider"], "builtin://httpserver", "{page}");
    assert_eq!(page["url"], format!("http://{address}/"), "{page}");
    assert!(page["started_on"].is_string(), "{page}");
    let blobs = dev.told("linked");
    assert_eq!(blobs["contract_id"], "wasmcloud:blobstore", "{blobs}");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = eventually("the page answers", async || {
        let request = client.post(page["url"].as_str()?).body("to and fro");
        let answer = request.send().await.ok()?;
        (answer.status() == 200).then_some(answer.text().await.ok()?)
    })
    .await;
    assert_eq!(answer, "to and fro");
    let inventory = ctl_2024(&server).await.get_host_inventory(&host.id).await.unwrap();
    let annotations = inventory.actors[0].instances[0].annotations.clone().unwrap_or_default();
    assert_eq!(annotations.get("zone").map(String::as_str), Some("a"));
    assert_eq!(annotations.get(dev::ANNOTATION).map(String::as_str), Some("blobs.wasm"));

    dev.interrupt();
    dev.told("unlinked");
    dev.told("unlinked");
    dev.told("provider_stopped");
    dev.told("provider_stopped");
    assert_eq!(dev.told("stopped")["actor_id"], actor);
    assert_eq!(dev.exit_code(), Some(0));
    assert_eq!(providers(&server, &host).await, Vec::<String>::new());
    assert_eq!(contracts(&server, &actor).await, Vec::<String>::new());
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_address_the_page_is_at_a_free_port_and_the_start_ends_with_it() {
    let server = Server::start().await;
    let host = host(&server).start().await;
    let file = example("echo");
    let file = Path::new(file.trim_start_matches("file://"));
    let mut dev = Dev::begin(&server, file, &[]);
    dev.told("running");
    let page = dev.told("linked");
    assert_eq!(page["contract_id"], "wasmcloud:httpserver", "{page}");
    let ready = dev.told("ready");
    assert_eq!(ready["url"], page["url"]);
    let url = ready["url"].as_str().expect("an address");
    let port = url.strip_prefix("http://127.0.0.1:").and_then(|rest| rest.strip_suffix('/'));
    let port: u16 = port.and_then(|port| port.parse().ok()).expect("a page on this machine");
    assert!((8080..=8111).contains(&port), "{port}");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    assert!(client.get(url).send().await.expect("an answer").status().is_success());
    dev.interrupt();
    dev.told("unlinked");
    dev.told("provider_stopped");
    dev.told("stopped");
    assert_eq!(dev.exit_code(), Some(0));
    assert_eq!(providers(&server, &host).await, Vec::<String>::new());
    assert_eq!(contracts(&server, ECHO).await, Vec::<String>::new());

    let mut dev = Dev::begin(&server, file, &["--no-links"]);
    dev.told("running");
    dev.interrupt();
    dev.told("stopped");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_without_a_page_is_ready_to_be_called() {
    let server = Server::start().await;
    let host = host(&server).start().await;
    let (dir, source) = (TempDir::new().unwrap(), Source::new());
    let file = dir.path().join("saved.wasm");
    fs::write(&file, source.signed(1)).unwrap();
    let mut dev = Dev::begin(&server, &file, &[]);
    dev.told("running");
    let ready = dev.told("ready");
    assert_eq!((&ready["url"], &ready["actor"]), (&Value::Null, &"saved".into()), "{ready}");
    dev.interrupt();
    dev.told("stopped");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_and_providers_of_others_are_used_and_stay() {
    let server = Server::start().await;
    let host = host(&server).start().await;
    let caps = ["httpserver", "httpclient", "keyvalue", "blobstore", "builtin:logging"];
    let caps = caps.map(|name| format!("wasmcloud:{name}")).to_vec();
    let signing = Signing { caps, ..Signing::default() };
    let wasm = fixtures::wash_runtime("http_counter.wasm");
    let guest = sign_module(&wasm, &signing, KeyPair::new_module());
    for reference in ["builtin://blobstore", "builtin://keyvalue"] {
        start_provider(&server, &host, reference).await;
    }
    let store = keyvalue::SPEC.known.public_key;
    client::link(&server, &guest.id, store, "wasmcloud:keyvalue", &[("bucket", "mine")]).await;
    let address = format!("127.0.0.1:{}", free_port());
    let file = guest.reference.trim_start_matches("file://");
    let mut dev = Dev::begin(&server, Path::new(file), &["--http", &address]);
    dev.told("running");
    assert_eq!(dev.told("linked")["provider"], "builtin://httpserver");
    let client = dev.told("linked");
    assert_eq!(client["provider"], "builtin://httpclient");
    assert!(client["started_on"].is_string(), "{client}");
    assert_eq!(dev.told("linked_before")["provider"], "builtin://keyvalue");
    let blobs = dev.told("linked");
    assert_eq!(
        (&blobs["provider"], &blobs["started_on"]),
        (&"builtin://blobstore".into(), &Value::Null)
    );
    // Another actor has come to need one that was started for this one.
    let client = httpclient::SPEC.known.public_key;
    client::link(&server, ECHO, client, "wasmcloud:httpclient", &[]).await;

    dev.interrupt();
    for _ in ["httpserver", "httpclient", "blobstore"] {
        dev.told("unlinked");
    }
    assert_eq!(dev.told("provider_stopped")["provider"], "builtin://httpserver");
    dev.told("stopped");
    assert_eq!(dev.exit_code(), Some(0));
    assert_eq!(contracts(&server, &guest.id).await, ["wasmcloud:keyvalue"]);
    let running = providers(&server, &host).await;
    for spec in [&blobstore::SPEC, &keyvalue::SPEC, &httpclient::SPEC] {
        assert!(
            running.iter().any(|id| id == spec.known.public_key),
            "{} in {running:?}",
            spec.known.name
        );
    }
    assert!(!running.iter().any(|id| id == httpserver::SPEC.known.public_key), "{running:?}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_gets_a_page_too_and_a_killed_one_leaves_it_to_the_next() {
    let server = Server::start().await;
    let host = host(&server).start().await;
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("saved.wasm");
    fs::write(&file, Source::unsigned(1)).unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    let mut killed = Dev::begin(&server, &file, &["--http", &address]);
    let actor = killed.told("running")["actor_id"].as_str().expect("an id").to_owned();
    killed.told("linked");
    let home = killed.end_without_a_word();
    assert_eq!(contracts(&server, &actor).await, ["wasmcloud:httpserver"]);
    let mut next = Dev::begin_at_home(home, &server, &file, &["--http", &address]);
    assert_eq!(next.told("running")["actor_id"], actor.as_str());
    assert_eq!(next.told("linked")["provider"], "builtin://httpserver");
    next.interrupt();
    next.told("unlinked");
    next.told("provider_stopped");
    next.told("stopped");
    assert_eq!(providers(&server, &host).await, Vec::<String>::new());
    host.stop().await;
}

#[tokio::test]
async fn a_start_that_is_late_is_told_when_it_ends() {
    let server = Server::start().await;
    let topic = server.own("policy.slow");
    let nats = async_nats::connect(server.url()).await.unwrap();
    let mut questions = nats.subscribe(topic.clone()).await.unwrap();
    let builder = host(&server).set("policy_topic", &topic);
    let host = builder.set("policy_timeout_ms", "60000").start().await;
    let (dir, source) = (TempDir::new().unwrap(), Source::new());
    let file = dir.path().join("saved.wasm");
    fs::write(&file, source.signed(1)).unwrap();
    let (told, stop) = (RefCell::new(Vec::new()), CancellationToken::new());
    let tell = |what: Told| told.borrow_mut().push(what);
    let settings = Settings { patience: Duration::from_millis(300), ..settings(&file) };
    let sign: Sign<'_> = Box::new(|_, _, _| Ok(None));
    let watching = dev::run(sender(&server).await, settings, sign, None, stop.clone(), &tell);
    let refused = |told: &Told| match told {
        Told::Refused { why, .. } => Some(why.clone()),
        _ => None,
    };
    let saving = async {
        for (revision, permitted) in [(1, false), (2, true)] {
            told.borrow_mut().clear();
            fs::write(&file, source.signed(revision)).unwrap();
            let question = questions.next().await.expect("the policy service is asked");
            let why = until_told(&told, "it is late", refused).await;
            assert!(why.contains("may still come"), "{why}");
            told.borrow_mut().clear();
            let asked: Value = serde_json::from_slice(&question.payload).unwrap();
            let answer = json!({
                "requestId": asked["requestId"], "permitted": permitted, "message": "not today",
            });
            let reply = question.reply.expect("an answer is wanted");
            nats.publish(reply, answer.to_string().into()).await.unwrap();
            if permitted {
                let runs = |told: &Told| match told {
                    Told::Running(running) => Some(running.revision),
                    _ => None,
                };
                assert_eq!(until_told(&told, "it runs", runs).await, 2);
            } else {
                let why = until_told(&told, "it failed", refused).await;
                assert!(why.contains("not today"), "{why}");
            }
        }
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(watching, saving);
    ended.unwrap();
    host.stop().await;
}

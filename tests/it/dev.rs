//! `host dev`: a module that is saved runs a moment later, and what cannot run does no harm.

use std::{cell::RefCell, fs, path::Path};

use lattice_client::dev::{self, Change, Settings, Sign, Told};
use lattice_protocol::identity::claims::ActorClaims;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use wascap::prelude::{ClaimsBuilder, KeyPair};

use crate::{
    harness::{
        ECHO, Server, TestHost,
        client::{Caller, ctl_2024, start},
        eventually, example,
        guests::wapc,
        host,
        process::{Process, command},
    },
    uploads::sender,
};

/// `host dev`, whose lines can be waited for.
pub struct Dev {
    process: Process,
    _home: TempDir,
}

impl Dev {
    pub fn begin(server: &Server, file: &Path, args: &[&str]) -> Self {
        let home = TempDir::new().unwrap();
        let (server_host, port) = server.address().rsplit_once(':').unwrap();
        let mut command = command(home.path());
        command.arg("dev").arg(file).args(["-o", "json", "-r", server_host, "-p", port]).args(args);
        Self { process: Process::printing(&mut command), _home: home }
    }

    /// The next thing told that is no line of the actor's logs, which has to be this.
    pub fn told(&mut self, event: &str) -> Value {
        loop {
            let told = self.process.json(event);
            if told["event"] == "log" && event != "log" {
                continue;
            }
            assert_eq!(told["event"], event, "{told}");
            return told;
        }
    }

    fn interrupt(&self) {
        self.process.signal(Signal::INT);
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
    assert!(error.contains("higher revision") && error.contains("host stop actor"), "{error}");
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
    let settings = Settings { file: file.clone(), host: None, max: 1, keep: false };
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
    let mut dev = Dev::begin(&server, &file, &["--cap", "wasmcloud:keyvalue", "--name", "Talks"]);
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

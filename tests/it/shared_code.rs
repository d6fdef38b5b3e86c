//! Code that one host compiled and others take: from the lattice's object store, if a host of this
//! lattice signed it, and never otherwise. Hosts are processes with homes of their own.

use std::{collections::BTreeMap, sync::Arc};

use async_nats::jetstream;
use futures::FutureExt as _;
use lattice_base::store::objects::{Info, Objects, stream_name};
use lattice_protocol::identity::{keys::Kind, signature::SigningKey};
use serde_json::Value;
use tempfile::TempDir;
use wascap::prelude::KeyPair;

use crate::harness::{
    CLUSTER_SEED, Server,
    client::{Caller, ctl_2024, nats},
    eventually,
    guests::{Guest, Signing, sign_as, wapc},
    nats::free_port,
    process::{self, Process},
};

const GIVEN: &str = "compiled code given to the lattice";
const TAKEN: &str = "compiled code taken from the lattice";
const REFUSED: &str = "compiled code of the lattice is not used";
const LOADED: &str = "module verified and loaded";

/// Returns a module that takes a while to be compiled; another `seed` makes another one.
fn heavy(seed: usize) -> Guest {
    let steps = "(i32.rotl (i32.const 3)) (i32.xor (local.get 1)) ".repeat(60);
    let function = |number: usize| {
        format!(
            "(func (param i32 i32) (result i32) (local.get 0) (i32.const {number}) (i32.add) {steps})\n"
        )
    };
    let functions: String = (0..1500).map(|number| function(number + seed)).collect();
    let module = wapc("(call $response (i32.const 24) (i32.const 1)) (i32.const 1)");
    let module = module.strip_suffix(')').expect("it ends with the module");
    sign_as(&format!("{module}\n{functions})"), &Signing::default(), KeyPair::new_module())
}

/// A host with a home of its own.
struct Member {
    process: Process,
    id: String,
    metrics: String,
}

impl Member {
    /// Starts a host of the tests' cluster in a directory.
    fn start(dir: &TempDir, server: &Server, arguments: &[&str]) -> Self {
        Self::start_with(CLUSTER_SEED, dir, server, arguments)
    }

    fn start_with(seed: &str, dir: &TempDir, server: &Server, arguments: &[&str]) -> Self {
        let (port, mut command) = (free_port(), process::command(dir.path()));
        command.env("WASMCLOUD_DASHBOARD_PORT", port.to_string());
        command.args(["foreground", "--nats-host", &server.url(), "--js-domain", "core"]);
        command.args(["--lattice-prefix", server.lattice(), "--cluster-seed", seed]);
        command.arg("--allow-file-load").args(arguments);
        let mut process = Process::start(&mut command);
        let line = process.line("started.");
        let (_, rest) = line.split_once("Host ").expect("its id");
        let id = rest.split(' ').next().expect("its id").to_owned();
        let metrics = format!("http://127.0.0.1:{port}/metrics");
        process.line("ready");
        Self { process, id, metrics }
    }

    /// Starts a guest, and returns the lines of the log until its code is ready.
    async fn run(&mut self, server: &Server, guest: &Guest) -> String {
        let before = self.process.seen.len();
        let ctl = ctl_2024(server).await;
        let ack = ctl.scale_actor(&self.id, &guest.reference, 1, None).await.expect("an ack");
        assert!(ack.accepted, "{}", ack.error);
        self.process.line(LOADED);
        self.process.seen[before..].join("\n")
    }

    /// How many modules came from where.
    async fn sources(&self) -> BTreeMap<String, u32> {
        let text = reqwest::get(&self.metrics).await.expect("metrics").text().await.expect("text");
        let counts = text.lines().filter_map(|line| {
            let rest = line.strip_prefix("lattice_modules_loaded_total{source=\"")?;
            let (source, count) = rest.split_once("\"} ")?;
            Some((source.to_owned(), count.parse().ok()?))
        });
        counts.collect()
    }
}

fn sources(compiled: u32, disk: u32, lattice: u32) -> BTreeMap<String, u32> {
    [("compiled", compiled), ("disk", disk), ("lattice", lattice)]
        .map(|(source, count)| (source.to_owned(), count))
        .into()
}

fn home() -> TempDir {
    TempDir::new().expect("a directory")
}

/// The object store of the lattice, when it is there.
async fn objects(server: &Server) -> Objects {
    let context = jetstream::with_domain(nats(server).await, "core");
    let bucket = format!("ARTIFACTS_{}", server.lattice());
    let stream =
        eventually("a bucket", async || context.get_stream(stream_name(&bucket)).await.ok()).await;
    let reopen = || async { Err("it is not opened again".to_owned()) }.boxed();
    Objects::new(context, stream, &bucket, Arc::new(reopen))
}

/// All compiled code in the store.
async fn codes(objects: &Objects) -> Vec<Info> {
    let all = objects.list().await.expect("a list");
    let codes = all.into_iter().filter(|(name, _)| name.starts_with("code-"));
    codes.map(|(_, listed)| listed.expect("it is readable").info).collect()
}

/// The cluster key that signed the note of an object.
fn issuer(info: &Info) -> String {
    let note = &info.metadata.as_ref().expect("metadata")["note"];
    let note: Value = serde_json::from_str(note).expect("a note");
    note["issuer"].as_str().expect("an issuer").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_host_takes_what_the_first_one_compiled() {
    let server = Server::shared().await;
    let (guest, homes) = (heavy(0), [home(), home()]);
    let mut first = Member::start(&homes[0], &server, &[]);
    assert!(!first.run(&server, &guest).await.contains(TAKEN));
    first.process.line(GIVEN);
    assert_eq!(first.sources().await, sources(1, 0, 0));

    let mut second = Member::start(&homes[1], &server, &[]);
    let log = second.run(&server, &guest).await;
    assert!(log.contains(TAKEN) && log.contains(&format!("compiled_by={}", first.id)), "{log}");
    assert_eq!(second.sources().await, sources(0, 0, 1));
    drop(first);
    let caller = Caller::new(&server).await;
    assert_eq!(caller.call(&guest.id, "x", "").await.as_deref(), Ok(&b"0"[..]));

    // The next time it is on the disk.
    drop(second);
    let mut again = Member::start(&homes[1], &server, &["--forget"]);
    assert!(!again.run(&server, &guest).await.contains(TAKEN));
    assert_eq!(again.sources().await, sources(0, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_code_is_compiled_and_replaced() {
    let server = Server::shared().await;
    let (guest, homes) = (heavy(10_000), [home(), home(), home()]);
    let mut first = Member::start(&homes[0], &server, &[]);
    first.run(&server, &guest).await;
    first.process.line(GIVEN);

    let objects = objects(&server).await;
    let info = codes(&objects).await.pop().expect("the code");
    objects.purge_pieces(&info.nuid).await;
    // As many pieces with as many bytes, so that only their content is wrong.
    let mut left = info.size as usize;
    for _ in 0..info.chunks {
        let piece = vec![7; left.min(objects.piece_bytes())];
        left -= piece.len();
        let subject = objects.piece_subject(&info.nuid);
        objects.context().publish(subject, piece.into()).await.unwrap().await.unwrap();
    }
    assert_eq!(left, 0);

    let mut second = Member::start(&homes[1], &server, &[]);
    let log = second.run(&server, &guest).await;
    assert!(log.contains(REFUSED) && log.contains("another hash"), "{log}");
    second.process.line(GIVEN);
    assert_eq!(second.sources().await, sources(1, 0, 0));

    let mut third = Member::start(&homes[2], &server, &[]);
    let log = third.run(&server, &guest).await;
    assert!(log.contains(&format!("compiled_by={}", second.id)), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn code_that_was_moved_to_another_module_is_refused() {
    let server = Server::shared().await;
    let (guests, homes) = ([heavy(20_000), heavy(30_000)], [home(), home()]);
    let mut first = Member::start(&homes[0], &server, &[]);
    for guest in &guests {
        first.run(&server, guest).await;
        first.process.line(GIVEN);
    }
    // Each name gets the metadata of the other one, with its note and its pieces.
    let objects = objects(&server).await;
    let codes: [Info; 2] = codes(&objects).await.try_into().expect("two of them");
    let names = [codes[1].name.clone(), codes[0].name.clone()];
    for (code, name) in codes.into_iter().zip(names) {
        // The pieces of the one before stay, since a publish here would remove them.
        let json = serde_json::to_vec(&Info { name: name.clone(), ..code }).unwrap();
        let published = objects.context().publish(objects.info_subject(&name), json.into());
        published.await.unwrap().await.unwrap();
    }

    let mut second = Member::start(&homes[1], &server, &[]);
    for guest in &guests {
        let log = second.run(&server, guest).await;
        assert!(log.contains(REFUSED) && log.contains("written for another key"), "{log}");
    }
    assert_eq!(second.sources().await, sources(2, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn code_of_a_cluster_that_is_not_accepted_is_neither_used_nor_removed() {
    let server = Server::shared().await;
    let (guest, homes) = (heavy(40_000), [home(), home(), home()]);
    let (stranger, seed) = SigningKey::generate(Kind::Cluster).unwrap();
    let mut theirs = Member::start_with(&seed, &homes[0], &server, &[]);
    theirs.run(&server, &guest).await;
    theirs.process.line(GIVEN);

    let mut ours = Member::start(&homes[1], &server, &[]);
    let log = ours.run(&server, &guest).await;
    assert!(log.contains(REFUSED) && log.contains("cluster issuers"), "{log}");
    assert_eq!(ours.sources().await, sources(1, 0, 0));

    // A host that accepts both takes it.
    let accepted = ["--cluster-issuers", stranger.public_key()];
    let mut both = Member::start(&homes[2], &server, &accepted);
    let log = both.run(&server, &guest).await;
    assert!(log.contains(&format!("compiled_by={}", theirs.id)), "{log}");
    let all = codes(&objects(&server).await).await;
    assert_eq!(all.iter().map(issuer).collect::<Vec<_>>(), [stranger.public_key()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_shares_no_code_neither_gives_nor_takes() {
    let server = Server::shared().await;
    let (guest, homes) = (heavy(50_000), [home(), home(), home()]);
    let alone = &["--no-shared-code"];
    let mut first = Member::start(&homes[0], &server, alone);
    first.run(&server, &guest).await;
    let mut second = Member::start(&homes[1], &server, &[]);
    second.run(&server, &guest).await;
    // Had the first one given its code, this one would not.
    second.process.line(GIVEN);
    assert_eq!(second.sources().await, sources(1, 0, 0));
    let mut third = Member::start(&homes[2], &server, alone);
    third.run(&server, &guest).await;
    assert_eq!(third.sources().await, sources(1, 0, 0));
}

//! Starts by hand come back with their host: after a stop, after a kill, with the
//! server or before it, and only from an entry that the host signed.

use std::path::Path;

use lattice_protocol::desired;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    CLUSTER_SEED, ECHO, Events, Server,
    client::{answering, nats},
    eventually, example,
    guests::{Signing, sign, sign_as, wapc},
    process::{Process, command, member, output, stderr},
    text,
};

/// A host of a directory.
pub struct Running {
    process: Process,
    pub id: String,
}

impl Running {
    /// Starts the host of a directory, with these flags; returns when it is ready.
    pub fn start(server: &Server, dir: &Path, flags: &[&str]) -> Self {
        Self::ready(Process::start(member(dir, server).args(flags)))
    }

    pub fn ready(mut process: Process) -> Self {
        let started = process.line("started.");
        let words: Vec<&str> = started.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "Host").expect("a host");
        let id = words[at + 1].to_owned();
        process.line(" ready");
        Self { process, id }
    }

    pub fn stop(mut self) {
        self.process.signal(Signal::TERM);
        assert_eq!(self.process.exit_code(), Some(0), "{:#?}", self.process.seen);
    }

    fn kill(mut self) {
        self.process.signal(Signal::KILL);
        assert_eq!(self.process.exit_code(), None);
    }

    /// Waits until its log has this text, which may have come before it was ready.
    fn says(&mut self, text: &str) {
        if !self.process.seen.iter().any(|line| line.contains(text)) {
            self.process.line(text);
        }
    }

    /// Gives a command; returns the answer.
    async fn ask(&self, server: &Server, tail: &str, body: Value) -> Value {
        let subject = server.ctl(format!("cmd.{}.{tail}", self.id));
        request(server, &subject, body).await.expect("an answer")
    }

    pub async fn accepted(&self, server: &Server, tail: &str, body: Value) -> Value {
        let answer = self.ask(server, tail, body).await;
        assert_eq!(answer["accepted"], true, "{tail}: {answer}");
        answer
    }

    async fn scale(&self, server: &Server, reference: &str, count: u32) -> Value {
        let body = json!({ "actor_ref": reference, "count": count });
        self.accepted(server, "scale", body).await
    }

    /// Returns what runs: references with annotations and amounts or link names, in order.
    async fn runs(&self, server: &Server) -> Vec<String> {
        self.try_runs(server).await.expect("an answer")
    }

    async fn try_runs(&self, server: &Server) -> Option<Vec<String>> {
        let inventory =
            request(server, &server.ctl(format!("get.{}.inv", self.id)), json!({})).await?;
        let mut all = Vec::new();
        for actor in inventory["actors"].as_array().expect("actors") {
            for run in actor["instances"].as_array().expect("instances") {
                // Of two revisions the one that is kept.
                let stable = actor.pointer("/trial/stable_ref").and_then(Value::as_str);
                let reference = stable.unwrap_or_else(|| text(actor, "/image_ref"));
                all.push(format!("{reference} {} {}", run["annotations"], run["max_instances"]));
            }
        }
        for run in inventory["providers"].as_array().expect("providers") {
            all.push(format!("{} {}", text(run, "/image_ref"), text(run, "/link_name")));
        }
        all.sort();
        Some(all)
    }

    /// Lets a newer revision of its only actor take a share of the calls, and waits for that.
    async fn tries(&self, server: &Server, actor: &str, reference: &str) {
        let body = json!({ "actor_id": actor, "new_actor_ref": reference, "share": 50 });
        self.accepted(server, "upd", body).await;
        eventually("the newer revision has its share", async || {
            let subject = server.ctl(format!("get.{}.inv", self.id));
            let inventory = request(server, &subject, json!({})).await?;
            (inventory["actors"][0]["trial"]["share"] == 50).then_some(())
        })
        .await;
    }

    /// Waits until just this runs.
    pub async fn comes_to(&self, server: &Server, wanted: &[String]) {
        let mut wanted = wanted.to_vec();
        wanted.sort();
        eventually(&format!("it runs {wanted:?}"), async || {
            (self.try_runs(server).await? == wanted).then_some(())
        })
        .await;
    }

    /// Waits until everything that was read is dealt with: a start that is given now comes after.
    async fn is_settled(&self, server: &Server, marker: &str) {
        self.accepted(server, "lp", provider(marker)).await;
        eventually("the marker runs", async || {
            let runs = self.runs(server).await;
            runs.iter().any(|run| run.ends_with(marker)).then_some(())
        })
        .await;
    }
}

/// Returns the answer to a request; nothing if nobody is there to answer.
async fn request(server: &Server, subject: &str, body: Value) -> Option<Value> {
    let answer = nats(server).await.request(subject.to_owned(), body.to_string().into()).await;
    Some(serde_json::from_slice(&answer.ok()?.payload).expect("JSON"))
}

/// A start of a provider that needs nothing.
fn provider(link_name: &str) -> Value {
    json!({ "provider_ref": "builtin://httpclient", "link_name": link_name })
}

/// A stop of the same.
fn stop(link_name: &str) -> Value {
    json!({ "provider_ref": http_client(), "link_name": link_name, "contract_id": "x" })
}

pub fn actor(reference: &str, max: u32) -> String {
    format!("{reference} {{}} {max}")
}

/// The bucket of desired state.
async fn bucket(server: &Server) -> Option<async_nats::jetstream::kv::Store> {
    let nats = nats(server).await;
    let context = async_nats::jetstream::with_domain(nats, server.domain().expect("a domain"));
    context.get_key_value(desired::bucket(server.lattice())).await.ok()
}

/// The entry of a host, as it lies in the bucket.
async fn entry(server: &Server, host: &str) -> bytes::Bytes {
    let bucket = bucket(server).await.expect("the bucket");
    bucket.get(desired::kept(host)).await.expect("an answer").expect("the entry")
}

#[tokio::test]
async fn what_was_started_by_hand_runs_again_after_a_stop_and_after_a_kill() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let host = Running::start(&server, dir.path(), &[]);
    assert!(bucket(&server).await.is_none(), "who keeps nothing makes no bucket");
    let echo = example("echo");
    let told = host.scale(&server, &echo, 3).await;
    let place = format!("KEPT_{} of bucket DESIREDDATA_{}", host.id, server.lattice());
    assert_eq!(text(&told, "/kept"), place);
    let marked = json!({ "actor_ref": echo, "count": 2, "annotations": { "team": "a" } });
    host.accepted(&server, "la", marked).await;
    let front = json!({
        "provider_ref": "builtin://httpclient", "link_name": "front", "configuration": "{\"a\":1}",
    });
    assert_eq!(text(&host.accepted(&server, "lp", front).await, "/kept"), place);
    let all = [
        actor(&echo, 3),
        format!("{echo} {{\"team\":\"a\"}} 2"),
        "builtin://httpclient front".to_owned(),
    ];
    host.comes_to(&server, &all).await;
    let id = host.id.clone();
    host.stop();
    let host = Running::start(&server, dir.path(), &[]);
    assert_eq!(host.id, id, "the directory keeps the identity");
    host.comes_to(&server, &all).await;
    host.kill();
    let host = Running::start(&server, dir.path(), &[]);
    assert_eq!(host.id, id);
    host.comes_to(&server, &all).await;
    host.stop();
}

#[tokio::test]
async fn a_server_that_is_killed_too_may_come_back_before_the_host_or_after_it() {
    let (mut server, dir) = (Server::start().await, TempDir::new().unwrap());
    let host = Running::start(&server, dir.path(), &[]);
    let all = [actor(&example("echo"), 2)];
    host.scale(&server, &example("echo"), 2).await;
    host.comes_to(&server, &all).await;

    host.kill();
    server.kill();
    server.resume().await;
    let host = Running::start(&server, dir.path(), &[]);
    host.comes_to(&server, &all).await;

    host.kill();
    server.kill();
    let mut process = Process::start(&mut member(dir.path(), &server));
    process.line("trying again");
    server.resume().await;
    Running::ready(process).comes_to(&server, &all).await;
}

#[tokio::test]
async fn without_jetstream_nothing_is_kept_until_there_is_one() {
    let (mut server, dir) = (Server::start().await, TempDir::new().unwrap());
    let host = Running::start(&server, dir.path(), &[]);
    host.scale(&server, &example("echo"), 2).await;
    host.accepted(&server, "lp", provider("ends")).await;
    let all = [actor(&example("echo"), 2), "builtin://httpclient ends".to_owned()];
    host.comes_to(&server, &all).await;
    host.kill();
    server.kill();

    // With the same store, and without JetStream.
    let with = "jetstream { domain: core\n store_dir: \"@DIR@/js\" }";
    server.configure("");
    server.resume().await;
    let mut host = Running::start(&server, dir.path(), &[]);
    host.says("by hand is not kept");
    let told = host.accepted(&server, "lp", provider("late")).await;
    assert!(text(&told, "/not_kept").contains("JetStream is switched off"), "{told}");
    let late = "builtin://httpclient late".to_owned();
    host.comes_to(&server, std::slice::from_ref(&late)).await;
    // It does not run, and is not to be started again when it is known that it was.
    let told = host.accepted(&server, "sp", stop("ends")).await;
    assert!(text(&told, "/not_kept").contains("JetStream is switched off"), "{told}");
    let told = host.accepted(&server, "la", json!({ "actor_ref": example("echo") })).await;
    assert!(text(&told, "/not_kept").contains("JetStream is switched off"), "{told}");

    // The starts that were kept come back, and what was said meanwhile counts.
    server.kill();
    server.configure(with);
    server.resume().await;
    let all = [actor(&example("echo"), 3), late];
    host.comes_to(&server, &all).await;
    eventually("the start is kept", async || {
        let entry = entry(&server, &host.id).await;
        String::from_utf8_lossy(&entry).contains("late").then_some(())
    })
    .await;
    host.kill();
    Running::start(&server, dir.path(), &[]).comes_to(&server, &all).await;
}

#[tokio::test]
async fn what_is_stopped_scaled_or_updated_by_hand_comes_back_so() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let echoing = wapc("(call $response (i32.const 0) (i32.const 5)) (i32.const 1)");
    let revision = |revision| Signing { revision: Some(revision), ..Signing::default() };
    let old = sign(&echoing, &revision(1));
    let new = sign_as(&echoing, &revision(2), nkeys_of(&old.key));
    let host = Running::start(&server, dir.path(), &[]);
    host.scale(&server, &old.reference, 1).await;
    host.scale(&server, &example("echo"), 1).await;
    for link_name in ["stays", "stops"] {
        host.accepted(&server, "lp", provider(link_name)).await;
    }
    let stays = "builtin://httpclient stays".to_owned();
    let before = [
        actor(&old.reference, 1),
        actor(&example("echo"), 1),
        stays.clone(),
        "builtin://httpclient stops".to_owned(),
    ];
    host.comes_to(&server, &before).await;

    host.scale(&server, &old.reference, 5).await;
    let update = json!({ "actor_id": old.id, "new_actor_ref": new.reference });
    host.accepted(&server, "upd", update).await;
    host.accepted(&server, "sa", json!({ "actor_ref": ECHO })).await;
    host.accepted(&server, "sp", stop("stops")).await;
    let after = [actor(&new.reference, 5), stays];
    host.comes_to(&server, &after).await;
    eventually("the update is kept", async || {
        let entry = entry(&server, &host.id).await;
        String::from_utf8_lossy(&entry).contains(&new.reference).then_some(())
    })
    .await;
    host.kill();
    let host = Running::start(&server, dir.path(), &[]);
    host.comes_to(&server, &after).await;
    host.stop();
}

#[tokio::test]
async fn an_actor_with_a_newer_revision_beside_it_comes_back_as_it_was() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let echoing = wapc("(call $response (i32.const 0) (i32.const 5)) (i32.const 1)");
    let revision = |revision| Signing { revision: Some(revision), ..Signing::default() };
    let old = sign(&echoing, &revision(1));
    let new = sign_as(&echoing, &revision(2), nkeys_of(&old.key));
    let host = Running::start(&server, dir.path(), &[]);
    host.scale(&server, &old.reference, 1).await;
    host.comes_to(&server, &[actor(&old.reference, 1)]).await;
    host.tries(&server, &old.id, &new.reference).await;
    host.scale(&server, &new.reference, 3).await;
    let after = [actor(&old.reference, 3)];
    host.comes_to(&server, &after).await;
    host.kill();
    let host = Running::start(&server, dir.path(), &[]);
    host.comes_to(&server, &after).await;

    host.tries(&server, &old.id, &new.reference).await;
    host.accepted(&server, "sa", json!({ "actor_ref": new.reference })).await;
    host.comes_to(&server, &[]).await;
    host.is_settled(&server, "marker").await;
    host.kill();
    let host = Running::start(&server, dir.path(), &[]);
    host.comes_to(&server, &["builtin://httpclient marker".to_owned()]).await;
    host.stop();
}

fn nkeys_of(key: &wascap::prelude::KeyPair) -> wascap::prelude::KeyPair {
    wascap::prelude::KeyPair::from_seed(&key.seed().expect("a seed")).expect("a key")
}

fn http_client() -> &'static str {
    lattice_engine::providers::builtin::httpclient::SPEC.known.public_key
}

#[tokio::test]
async fn what_others_manage_is_theirs_to_start_again() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let subject = format!("wasmbus.cfg.{}.req", server.lattice());
    let service = answering(&server, &subject, |_, _| {
        Some(json!({ "autoStartProviders": [{ "imageReference": "builtin://keyvalue" }] }))
    })
    .await;
    let host = Running::start(&server, dir.path(), &["--config-service-enabled"]);
    let managed = [("wasmcloud.dev/managed-by", "wadm"), ("lattice.host/dev", "a.wasm")];
    for (count, (mark, value)) in (1..).zip(managed) {
        let annotations = json!({ mark: value });
        let start =
            json!({ "actor_ref": example("echo"), "count": count, "annotations": annotations });
        let told = host.accepted(&server, "scale", start).await;
        assert!(told.get("kept").or(told.get("not_kept")).is_none(), "{told}");
        let mut start = provider(&format!("link-{count}"));
        start["annotations"] = annotations;
        host.accepted(&server, "lp", start).await;
    }
    eventually("all of it runs", async || (host.runs(&server).await.len() == 5).then_some(()))
        .await;
    host.is_settled(&server, "marker").await;
    host.stop();
    drop(service);
    let host = Running::start(&server, dir.path(), &[]);
    host.comes_to(&server, &["builtin://httpclient marker".to_owned()]).await;
    host.stop();
}

#[tokio::test]
async fn an_entry_that_this_host_did_not_sign_for_now_starts_nothing() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let host = Running::start(&server, dir.path(), &[]);
    host.scale(&server, &example("echo"), 1).await;
    host.comes_to(&server, &[actor(&example("echo"), 1)]).await;
    let (key, old) = (desired::kept(&host.id), entry(&server, &host.id).await);
    host.accepted(&server, "sa", json!({ "actor_ref": ECHO })).await;
    let bucket = bucket(&server).await.unwrap();
    host.stop();

    let items = json!({ "items": [{ "kind": "actor", "reference": example("echo"), "max": 1 }] });
    let sign = |seed: &str, lattice: &str, key: &str| {
        let authority = desired::Authority::new(lattice, seed, Vec::new()).unwrap();
        serde_json::to_vec(&authority.sign(key, u64::MAX, &items).unwrap()).unwrap()
    };
    let stranger = nkeys::KeyPair::new_cluster();
    let mut changed: Value = serde_json::from_slice(&old).unwrap();
    changed["value"] = items.to_string().into();
    for (what, value, cause) in [
        ("an older one", old.to_vec(), "an older one"),
        ("unsigned", items.to_string().into_bytes(), "no signed entry"),
        ("changed", changed.to_string().into_bytes(), "does not fit its content"),
        (
            "of a stranger",
            sign(&stranger.seed().unwrap(), server.lattice(), &key),
            "cluster_issuers",
        ),
        ("of another lattice", sign(CLUSTER_SEED, "other", &key), "does not fit"),
        ("of another host", sign(CLUSTER_SEED, server.lattice(), "KEPT_N"), "does not fit"),
        ("no list", b"7".to_vec(), "no signed entry"),
    ] {
        bucket.put(&*key, value.clone().into()).await.unwrap();
        let mut events = Events::only(&server, "command_refused").await;
        let mut host = Running::start(&server, dir.path(), &[]);
        let refused = events.next("command_refused").await;
        assert!(text(&refused, "/data/error").contains(cause), "{what}: {refused}");
        host.says("does not count");
        assert!(host.runs(&server).await.is_empty(), "{what}");
        assert_eq!(entry(&server, &host.id).await, value, "{what}: it stays for who looks at it");
        host.stop();
    }
    let host = Running::start(&server, dir.path(), &[]);
    // The next command replaces it.
    host.is_settled(&server, "next").await;
    host.stop();
    let host = Running::start(&server, dir.path(), &[]);
    host.comes_to(&server, &["builtin://httpclient next".to_owned()]).await;
    host.stop();
}

#[tokio::test]
async fn two_hosts_of_one_directory_keep_what_is_theirs() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let start = || Running::start(&server, dir.path(), &[]);
    let (first, second) = (start(), start());
    assert_ne!(first.id, second.id);
    first.is_settled(&server, "one").await;
    second.is_settled(&server, "two").await;
    let ids = (first.id.clone(), second.id.clone());
    first.kill();
    second.stop();
    let (first, second) = (start(), start());
    assert_eq!((first.id.clone(), second.id.clone()), ids);
    first.comes_to(&server, &["builtin://httpclient one".to_owned()]).await;
    second.comes_to(&server, &["builtin://httpclient two".to_owned()]).await;
    first.stop();
    second.stop();
}

#[tokio::test]
async fn a_copied_directory_is_another_host_and_starts_nothing_twice() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let copy = TempDir::new().unwrap();
    let original = Running::start(&server, dir.path(), &[]);
    original.is_settled(&server, "mine").await;
    for name in ["host_config.json", "host_identity.json"] {
        std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    let config = std::fs::read_to_string(dir.path().join("host_config.json")).unwrap();
    let identity = std::fs::read_to_string(dir.path().join("host_identity.json")).unwrap();
    let identity: Value = serde_json::from_str(&identity).unwrap();
    assert!(!config.contains(text(&identity, "/host_seed")));

    let copied = Running::start(&server, copy.path(), &[]);
    let told = copied.process.seen.join("\n");
    assert!(told.contains("this directory is a copy"), "{told}");
    assert!(!told.contains(text(&identity, "/host_seed")));
    assert_ne!(copied.id, original.id);
    copied.is_settled(&server, "own").await;
    assert_eq!(copied.runs(&server).await, ["builtin://httpclient own"]);
    let id = copied.id.clone();
    copied.stop();
    let copied = Running::start(&server, copy.path(), &[]);
    assert_eq!(copied.id, id, "it keeps what it got");
    copied.stop();
    original.stop();
}

#[tokio::test]
async fn a_host_that_is_to_forget_starts_empty_for_good() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let host = Running::start(&server, dir.path(), &[]);
    host.is_settled(&server, "old").await;
    host.stop();
    let host = Running::start(&server, dir.path(), &["--forget"]);
    host.is_settled(&server, "new").await;
    let new = ["builtin://httpclient new".to_owned()];
    assert_eq!(host.runs(&server).await, new);
    host.stop();
    let host = Running::start(&server, dir.path(), &[]);
    host.comes_to(&server, &new).await;
    host.stop();
}

#[tokio::test]
async fn a_start_that_fails_is_not_kept_and_the_one_before_it_is() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let host = Running::start(&server, dir.path(), &[]);
    host.is_settled(&server, "good").await;
    let mut events = Events::all(&server).await;
    host.scale(&server, "file:///nowhere/at/all.wasm", 1).await;
    events.next("actor_scale_failed").await;
    let refused = host.ask(&server, "lp", provider("good")).await;
    assert_eq!(refused["accepted"], false, "{refused}");
    let odd = json!({ "provider_ref": "file:///nowhere.par.gz", "link_name": "default" });
    host.accepted(&server, "lp", odd).await;
    events.next("provider_start_failed").await;
    eventually("neither is kept", async || {
        let entry = entry(&server, &host.id).await;
        (!String::from_utf8_lossy(&entry).contains("nowhere")).then_some(())
    })
    .await;
    host.stop();
    let host = Running::start(&server, dir.path(), &[]);
    host.comes_to(&server, &["builtin://httpclient good".to_owned()]).await;
    host.stop();
}

#[tokio::test]
async fn what_cannot_start_yet_is_tried_until_it_can_or_is_stopped() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let (one, other) = (dir.path().join("one.wasm"), dir.path().join("other.wasm"));
    let module = example("echo").strip_prefix("file://").unwrap().to_owned();
    std::fs::copy(module, &one).unwrap();
    let guest = sign(&wapc("(i32.const 1)"), &Signing::default());
    std::fs::copy(guest.reference.strip_prefix("file://").unwrap(), &other).unwrap();
    let references = [&one, &other].map(|path| format!("file://{}", path.display()));
    let host = Running::start(&server, dir.path(), &[]);
    for reference in &references {
        host.scale(&server, reference, 1).await;
    }
    host.comes_to(&server, &references.clone().map(|reference| actor(&reference, 1))).await;
    host.stop();

    for path in [&one, &other] {
        std::fs::rename(path, path.with_extension("away")).unwrap();
    }
    let mut events = Events::only(&server, "actor_scale_failed").await;
    let host = Running::start(&server, dir.path(), &[]);
    let mut failed = Vec::new();
    while failed.len() < 2 {
        let event = events.next("actor_scale_failed").await;
        let reference = text(&event, "/data/image_ref").to_owned();
        if !failed.contains(&reference) {
            failed.push(reference);
        }
    }
    // Known by its key, although it does not run.
    let stopped = host.accepted(&server, "sa", json!({ "actor_ref": guest.id })).await;
    assert_eq!(stopped["error"], "", "{stopped}");
    let refused = host.ask(&server, "sa", json!({ "actor_ref": guest.id })).await;
    assert_eq!(refused["accepted"], false, "{refused}");
    for path in [&one, &other] {
        std::fs::rename(path.with_extension("away"), path).unwrap();
    }
    host.comes_to(&server, &[actor(&references[0], 1)]).await;
    host.stop();
    let host = Running::start(&server, dir.path(), &[]);
    host.comes_to(&server, &[actor(&references[0], 1)]).await;
    host.stop();
}

#[tokio::test]
async fn our_own_commands_tell_where_a_start_is_kept() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let host = Running::start(&server, dir.path(), &[]);
    let user = |arguments: &[&str]| {
        let mut told = command(dir.path());
        told.args(arguments).args(["--ctl-host", &server.url(), "-x", server.lattice()]);
        let told = output(&mut told);
        assert!(told.status.success(), "{told:?}");
        told
    };
    let json = |arguments: &[&str]| -> Value {
        serde_json::from_slice(&user(&[arguments, &["-o", "json"]].concat()).stdout).unwrap()
    };
    let key = desired::kept(&host.id);
    let started = json(&["start", "provider", "builtin://httpclient", "--host-id", &host.id]);
    assert!(text(&started, "/kept").contains(&key), "{started}");
    let started = user(&["start", "actor", &example("echo"), "--host-id", &host.id]);
    assert!(
        stderr(&started).contains(&format!("kept, so it is started again with its host ({key}"))
    );
    let scaled = json(&["scale", "actor", &host.id, ECHO, "--max", "4"]);
    assert!(text(&scaled, "/kept").contains(&key), "{scaled}");
    host.stop();
}

#[tokio::test]
async fn an_identity_that_cannot_be_read_keeps_a_host_from_starting_and_is_named() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    std::fs::write(dir.path().join("host_identity.json"), "{}").unwrap();
    let failed = output(&mut member(dir.path(), &server));
    assert_eq!(failed.status.code(), Some(1));
    let told = stderr(&failed);
    for part in ["./host_identity.json", "no identity as hosts write it", "remove it"] {
        assert!(told.contains(part), "{told}");
    }
    // Commands that only look at settings make none.
    let other = TempDir::new().unwrap();
    assert!(output(command(other.path()).args(["config", "show"])).status.success());
    assert!(!other.path().join("host_identity.json").exists());
}

#[tokio::test]
async fn a_second_start_that_is_refused_takes_nothing_from_the_first() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let host = Running::start(&server, dir.path(), &[]);
    let names = ["one", "two", "three"];
    for name in names {
        // The second one comes while the first one is under way.
        let start = || host.ask(&server, "lp", provider(name));
        let (first, second, third) = tokio::join!(start(), start(), start());
        let accepted = [first, second, third].map(|answer| answer["accepted"] == true);
        assert!(accepted.iter().any(|accepted| *accepted), "{accepted:?}");
    }
    let all = names.map(|name| format!("builtin://httpclient {name}"));
    host.comes_to(&server, &all).await;
    let refused = host.ask(&server, "lp", provider("one")).await;
    assert_eq!(refused["accepted"], false, "{refused}");
    host.stop();
    let host = Running::start(&server, dir.path(), &[]);
    host.comes_to(&server, &all).await;
    host.stop();
}

#[tokio::test]
async fn a_directory_that_is_moved_is_the_same_host() {
    let (server, root) = (Server::shared().await, TempDir::new().unwrap());
    let (before, after) = (root.path().join("before"), root.path().join("after"));
    std::fs::create_dir(&before).unwrap();
    let host = Running::start(&server, &before, &[]);
    host.is_settled(&server, "stays").await;
    let id = host.id.clone();
    host.stop();
    std::fs::rename(&before, &after).unwrap();
    for _ in 0..2 {
        let host = Running::start(&server, &after, &[]);
        assert_eq!(host.id, id);
        host.comes_to(&server, &["builtin://httpclient stays".to_owned()]).await;
        host.stop();
    }
}

#[tokio::test]
async fn of_two_references_of_one_actor_the_later_one_comes_back() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let [old, new] = ["old.wasm", "new.wasm"].map(|name| dir.path().join(name));
    let module = example("echo").strip_prefix("file://").unwrap().to_owned();
    for path in [&old, &new] {
        std::fs::copy(&module, path).unwrap();
    }
    let references = [&old, &new].map(|path| format!("file://{}", path.display()));
    let host = Running::start(&server, dir.path(), &[]);
    host.scale(&server, &references[0], 1).await;
    host.comes_to(&server, &[actor(&references[0], 1)]).await;
    host.stop();
    let away = old.with_extension("away");
    std::fs::rename(&old, &away).unwrap();
    let mut host = Running::start(&server, dir.path(), &[]);
    host.says("a kept start failed");
    host.scale(&server, &references[1], 2).await;
    host.comes_to(&server, &[actor(&references[1], 2)]).await;
    std::fs::rename(&away, &old).unwrap();
    eventually("one of them is kept", async || {
        let entry = entry(&server, &host.id).await;
        (!String::from_utf8_lossy(&entry).contains("old.wasm")).then_some(())
    })
    .await;
    host.stop();
    let host = Running::start(&server, dir.path(), &[]);
    host.comes_to(&server, &[actor(&references[1], 2)]).await;
    host.stop();
}

#[tokio::test]
async fn of_many_starts_at_once_those_that_fail_are_not_kept() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let host = Running::start(&server, dir.path(), &[]);
    let starts = (0..100).map(|number| {
        let body = json!({ "actor_ref": format!("file:///nowhere/{number}.wasm"), "count": 1 });
        host.accepted(&server, "scale", body)
    });
    futures::future::join_all(starts).await;
    host.is_settled(&server, "good").await;
    eventually("none of them is kept", async || {
        let entry = entry(&server, &host.id).await;
        (!String::from_utf8_lossy(&entry).contains("nowhere")).then_some(())
    })
    .await;
    host.stop();
    let host = Running::start(&server, dir.path(), &[]);
    host.comes_to(&server, &["builtin://httpclient good".to_owned()]).await;
    host.stop();
}

#[tokio::test]
async fn a_stop_that_cannot_be_written_says_so() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let host = Running::start(&server, dir.path(), &[]);
    host.is_settled(&server, "ends").await;
    host.is_settled(&server, "stays").await;
    let nats = nats(&server).await;
    let context = async_nats::jetstream::with_domain(nats, server.domain().expect("a domain"));
    let name = format!("KV_{}", desired::bucket(server.lattice()));
    let stream = context.get_stream(&name).await.expect("the stream");
    let before = stream.cached_info().config.clone();
    let mut small = before.clone();
    small.max_message_size = 16;
    context.update_stream(small).await.expect("a stream that takes no lists any more");
    let told = host.accepted(&server, "sp", stop("ends")).await;
    assert!(text(&told, "/not_kept").contains("starts again what KEPT_"), "{told}");
    host.comes_to(&server, &["builtin://httpclient stays".to_owned()]).await;
    context.update_stream(before).await.expect("the stream as it was");
    eventually("it is written", async || {
        let bucket = bucket(&server).await?;
        let entry = bucket.get(desired::kept(&host.id)).await.ok()??;
        let text = String::from_utf8_lossy(&entry);
        (text.contains("stays") && !text.contains("ends")).then_some(())
    })
    .await;
    host.stop();
}

#[tokio::test]
async fn a_stop_of_some_is_kept_as_it_was_carried_out() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let host = Running::start(&server, dir.path(), &[]);
    let echo = example("echo");
    let mark = json!({ "wasmcloud.dev/managed-by": "wadm" });
    let managed = json!({ "actor_ref": echo, "count": 3, "annotations": mark });
    host.accepted(&server, "scale", managed).await;
    let marked = |count| format!("{echo} {{\"wasmcloud.dev/managed-by\":\"wadm\"}} {count}");
    host.comes_to(&server, &[marked(3)]).await;
    host.scale(&server, &echo, 2).await;
    host.comes_to(&server, &[actor(&echo, 2), marked(3)]).await;
    // These are of those that somebody else started.
    host.accepted(&server, "sa", json!({ "actor_ref": ECHO, "count": 2 })).await;
    host.comes_to(&server, &[actor(&echo, 2), marked(1)]).await;
    host.kill();
    let host = Running::start(&server, dir.path(), &[]);
    host.comes_to(&server, &[actor(&echo, 2)]).await;
    host.stop();
}

//! Components of other people, unmodified: signed, started, linked to built-in providers, and asked
//! what their own tests ask.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::Path,
};

use futures::future::join_all;
use lattice_engine::providers::builtin::{Spec, blobstore, httpclient, httpserver, keyvalue};
use lattice_protocol::{
    contracts::{self, messaging},
    identity::{
        claims::now,
        module::{VerifyOptions, verify_module},
    },
};
use tempfile::TempDir;
use wascap::prelude::KeyPair;

use crate::{
    commands::User,
    harness::{
        Events, PATIENCE, Server, TestHost,
        client::{
            Caller, ctl_2024, http_body, http_request, link, link_builtin, start, start_instead,
            start_provider,
        },
        eventually, external, fixtures,
        guests::{Guest, Signing, sign_module, write},
        host,
        nats::free_port,
        origin::Origin,
        pki::Authority,
        process::{Process, member},
        text,
    },
};

const LOGGING: &str = "wasmcloud:builtin:logging";
const HTTP: &str = "wasmcloud:httpserver";
const BLOBS: &str = "wasmcloud:blobstore";

/// A component on a host of its own, with a page.
struct Site {
    server: Server,
    host: TestHost,
    guest: Guest,
    address: String,
}

/// Signs a component as tools of 2024 do, for these contracts.
fn signed(wasm: &[u8], caps: &[&str]) -> Guest {
    let caps = caps.iter().map(|cap| (*cap).to_owned()).collect();
    let signing = Signing { caps, ..Signing::default() };
    sign_module(wasm, &signing, KeyPair::new_module())
}

impl Site {
    /// Starts a component that answers requests.
    async fn open(wasm: &[u8], caps: &[&str], local_calls: bool) -> Self {
        let server = Server::start().await;
        let local_calls = if local_calls { "true" } else { "false" };
        let host = host(&server).set("local_calls", local_calls).start().await;
        let guest = signed(wasm, caps);
        start(&server, &host, &guest.reference, 20).await;
        let address = format!("127.0.0.1:{}", free_port());
        let site = Self { server, host, guest, address };
        let address = site.address.clone();
        site.link(&httpserver::SPEC, &[("address", &address)]).await;
        site
    }

    /// Has the component run on another host, away from the providers.
    async fn moves(&self, local_calls: bool) -> TestHost {
        let local_calls = if local_calls { "true" } else { "false" };
        let other = host(&self.server).set("local_calls", local_calls).start().await;
        start_instead(PATIENCE, &self.server, (&other, &self.host), &self.guest).await;
        other
    }

    /// Starts a built-in provider and links the component to it.
    async fn link(&self, spec: &Spec, values: &[(&str, &str)]) {
        start_provider(&self.server, &self.host, &format!("builtin://{}", spec.known.name)).await;
        link_builtin(&self.server, &self.guest.id, spec, values).await;
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> Option<(u16, String)> {
        let answer = request.send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    async fn get(&self, path: &str) -> Option<(u16, String)> {
        self.ask(client().get(self.url(path)).header("host", "foo")).await
    }

    async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Option<(u16, String)> {
        self.ask(client().post(self.url(path)).header("host", "foo").body(body)).await
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().expect("a client")
}

/// A server that is called `example.com`, and the authority that says so.
async fn example_com(dir: &Path) -> (Origin, String) {
    let authority = Authority::new(dir, "authority");
    let certified = authority.sign_for(dir, "example", &["example.com".to_owned()]);
    let origin = Origin::with_tls(&certified).await;
    (origin, fs::read_to_string(&authority.certificate).expect("a certificate"))
}

async fn blobs_come_back_as_they_went(local_calls: bool) {
    let wasm = fixtures::wash_runtime("http_blobstore.wasm");
    let site = Site::open(&wasm, &[HTTP, BLOBS], local_calls).await;
    site.link(&blobstore::SPEC, &[]).await;
    let text = "Hello, blobstore world!";
    eventually("the blob comes back", async || {
        (site.post("/", text).await? == (200, text.to_owned())).then_some(())
    })
    .await;
    // More than one chunk of the contract, and more than a message has.
    let large = "0123456789abcdef".repeat(150_000);
    let (status, body) = site.post("/", large.clone()).await.expect("an answer");
    assert!(status == 200 && body == large, "{status} {}", body.len());

    let other = site.moves(local_calls).await;
    eventually("it comes back from another host", async || {
        (site.post("/", large.clone()).await? == (200, large.clone())).then_some(())
    })
    .await;
    other.stop().await;
    site.host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_come_back_as_they_went_on_the_local_path() {
    blobs_come_back_as_they_went(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_come_back_as_they_went_over_nats() {
    blobs_come_back_as_they_went(false).await;
}

/// Takes each message, and is a job as well; with asynchronous functions, as of WASI 0.3.
const WORKER: &str = r#"(component
    (core module $Program
        (memory (export "memory") 1)
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024)
        (func (export "run") (result i32) i32.const 0)
        (func (export "handle") (param i32 i32 i32 i32 i32 i32) (result i32) i32.const 512))
    (core instance $program (instantiate $Program))
    (alias core export $program "memory" (core memory $memory))
    (alias core export $program "realloc" (core func $realloc))
    (type $message (record (field "subject" string) (field "body" (stream u8))
        (field "reply-to" (option string))))
    (type $error (variant (case "reject") (case "retry") (case "other" string)))
    (func $run async (result (result)) (canon lift (core func $program "run")))
    (func $handle async (param "msg" $message) (result (result (error $error)))
        (canon lift (core func $program "handle") (memory $memory) (realloc $realloc)))
    (component $named
        (type $message (record (field "subject" string) (field "body" (stream u8))
            (field "reply-to" (option string))))
        (type $error (variant (case "reject") (case "retry") (case "other" string)))
        (import "message" (type $m (eq $message)))
        (import "error" (type $e (eq $error)))
        (import "handle" (func $handle async (param "msg" $m) (result (result (error $e)))))
        (export $message_out "broker-message" (type $m))
        (export $error_out "handle-message-error" (type $e))
        (export "handle-message" (func $handle)
            (func async (param "msg" $message_out) (result (result (error $error_out))))))
    (instance $handler (instantiate $named (with "message" (type $message))
        (with "error" (type $error)) (with "handle" (func $handle))))
    (export "wasmcloud:messaging/handler@0.3.0" (instance $handler))
    (instance $job (export "run" (func $run)))
    (export "wasi:cli/run@0.3.0" (instance $job)))"#;

#[tokio::test(flavor = "multi_thread")]
async fn jobs_and_messages_reach_asynchronous_exports() {
    let server = Server::start().await;
    let host = host(&server).start().await;
    let guest = signed(&wat::parse_str(WORKER).expect("valid text"), &["wasmcloud:messaging"]);
    start(&server, &host, &guest.reference, 1).await;
    let caller = Caller::new(&server).await;
    let done = caller.call(&guest.id, "Nightly.Run", "").await.expect("the job runs");
    assert!(done.is_empty());
    let message = messaging::Message {
        subject: "orders".into(),
        reply_to: None,
        body: b"one".to_vec().into(),
    };
    let message = contracts::encode(&message);
    let taken = caller.call(&guest.id, messaging::HANDLE_MESSAGE, message).await;
    assert!(taken.expect("it takes the message").is_empty());
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_answers_as_many_requests_as_its_annotation_says() {
    let wasm = fixtures::wash_runtime("http_blobstore.wasm");
    let site = Site::open(&wasm, &[HTTP, BLOBS], true).await;
    site.link(&blobstore::SPEC, &[]).await;
    let ctl = ctl_2024(&site.server).await;
    let annotations = HashMap::from([("lattice.host/instance-reuse".to_owned(), "3".to_owned())]);
    let reference = &site.guest.reference;
    ctl.scale_actor(&site.host.id, reference, 5, Some(annotations)).await.expect("an ack");
    for number in 0..8 {
        let text = format!("request {number}");
        eventually("the blob comes back", async || {
            (site.post("/", text.clone()).await? == (200, text.clone())).then_some(())
        })
        .await;
    }
    site.host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_server_of_2024_drives_a_component() {
    let server = Server::start().await;
    let host = host(&server).start().await;
    let guest = signed(&fixtures::wash_runtime("http_blobstore.wasm"), &[HTTP, BLOBS]);
    start(&server, &host, &guest.reference, 5).await;
    start_provider(&server, &host, "builtin://blobstore").await;
    link(&server, &guest.id, blobstore::SPEC.known.public_key, BLOBS, &[]).await;
    let dir = TempDir::new().expect("a directory");
    let archive = dir.path().join("httpserver.par");
    external::pack("provider_httpserver", &archive);
    start_provider(&server, &host, &format!("file://{}", archive.display())).await;
    let address = format!("127.0.0.1:{}", free_port());
    let provider = external::public_key("provider_httpserver");
    link(&server, &guest.id, &provider, HTTP, &[("address", &address)]).await;
    let site = Site { server, host, guest, address };
    let text = "through two processes".to_owned();
    eventually("the blob comes back", async || {
        (site.post("/", text.clone()).await? == (200, text.clone())).then_some(())
    })
    .await;
    site.host.stop().await;
}

async fn each_request_counts_once(local_calls: bool) {
    let wasm = fixtures::wash_runtime("http_counter.wasm");
    let caps = [HTTP, "wasmcloud:httpclient", "wasmcloud:keyvalue", BLOBS, LOGGING];
    let site = Site::open(&wasm, &caps, local_calls).await;
    let dir = TempDir::new().expect("a directory");
    let (origin, authority) = example_com(dir.path()).await;
    let resolve = format!("example.com:127.0.0.1:{}", origin.port);
    let values =
        [("resolve", resolve.as_str()), ("ca", authority.as_str()), ("allow_loopback", "true")];
    site.link(&httpclient::SPEC, &values).await;
    site.link(&blobstore::SPEC, &[]).await;
    site.link(&keyvalue::SPEC, &[]).await;
    let first = eventually("the first count", async || {
        let (status, body) = site.get("/").await?;
        (status == 200).then_some(body)
    })
    .await;
    assert_eq!(first.trim(), "1");
    assert_eq!(site.get("/").await, Some((200, "2".into())));
    let rapid = join_all((0..5).map(|_| site.get("/"))).await;
    let counts: BTreeSet<_> = rapid.iter().flatten().map(|(_, body)| body.trim()).collect();
    assert_eq!(counts, BTreeSet::from(["3", "4", "5", "6", "7"]), "{rapid:?}");
    let (status, _) = site.post("/invalid-path", "invalid-data").await.expect("an answer");
    assert_eq!(status, 200);

    let other = site.moves(local_calls).await;
    let next = eventually("another host counts", async || {
        let (status, body) = site.get("/").await?;
        (status == 200).then_some(body)
    })
    .await;
    assert_eq!(next.trim(), "9");
    other.stop().await;
    site.host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_counts_once_on_the_local_path() {
    each_request_counts_once(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_counts_once_over_nats() {
    each_request_counts_once(false).await;
}

async fn a_blob_server_answers_as_its_own_test_wants(local_calls: bool) {
    let wasm = fixtures::wash_runtime("blobby.wasm");
    let site = Site::open(&wasm, &[HTTP, BLOBS, LOGGING], local_calls).await;
    site.link(&blobstore::SPEC, &[]).await;
    eventually("nothing is there yet", async || {
        (site.get("/a.txt").await? == (404, "Object not found".into())).then_some(())
    })
    .await;
    // It never calls `finish`, which it does not import; what it drops is stored.
    let text = "Hello from blobby test!";
    let (status, told) = site.post("/a.txt", text).await.expect("an answer");
    assert!(status == 201 && told.contains("a.txt"), "{status} {told}");
    let is_there = async || (site.get("/a.txt").await? == (200, text.to_owned())).then_some(());
    eventually("it is there", is_there).await;

    let other = site.moves(local_calls).await;
    eventually("it is there from another host", is_there).await;
    other.stop().await;
    site.host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_server_of_seven_megabytes_answers_on_the_local_path() {
    a_blob_server_answers_as_its_own_test_wants(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_server_of_seven_megabytes_answers_over_nats() {
    a_blob_server_answers_as_its_own_test_wants(false).await;
}

#[test]
fn what_signed_a_component_agrees_with_us_about_its_hash() {
    for name in ["http_counter.wasm", "http_blobstore.wasm", "cron_component.wasm"] {
        let wasm = fixtures::wash_runtime(name);
        let guest = signed(&wasm, &[]);
        let file = fs::read(guest.reference.trim_start_matches("file://")).expect("the guest");
        let verified = verify_module(&file, now(), &VerifyOptions::default()).expect(name);
        assert_eq!(verified.claims.subject.as_str(), guest.id);
        assert!(verified.component.is_some() && verified.names_caps, "{name}");
    }
}

#[test]
fn a_component_that_wash_signed_is_signed_for_what_it_imports() {
    let file = fixtures::of_crate("wash", "0.43.0").join("tests/fixtures/hello_plugin_s.wasm");
    let wasm = fs::read(file).expect("the plugin");
    let verified = verify_module(&wasm, now(), &VerifyOptions::default()).expect("verified");
    assert_eq!(verified.claims.name.as_deref(), Some("hello-plugin"));
    assert!(!verified.names_caps);
    assert_eq!(verified.claims.caps, ["wasmcloud:httpclient"]);
    let hash = "BEBDA8844610EBA6A1EFBC679CC48790E0CAFC2890818FA968F450A134B386A0";
    assert_eq!(verified.claims.hash, hash);
}

/// Asks for a start, and waits for its refusal.
async fn refused(
    server: &Server,
    host: &TestHost,
    reference: &str,
    annotations: Option<HashMap<String, String>>,
) -> String {
    let mut events = Events::all(server).await;
    let ctl = ctl_2024(server).await;
    ctl.scale_actor(&host.id, reference, 1, annotations).await.expect("an ack");
    text(&events.next("actor_start_failed").await, "/data/error").to_owned()
}

fn trap(value: &str) -> Option<HashMap<String, String>> {
    Some(HashMap::from([("lattice.host/unknown-imports".to_owned(), value.to_owned())]))
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_that_nothing_answers_refuse_the_start_or_trap_if_that_is_wished() {
    let server = Server::start().await;
    let host = host(&server).set("rpc_timeout_ms", "20000").start().await;
    let guest = signed(&fixtures::wash_runtime("cron_service.wasm"), &[]);
    let why = refused(&server, &host, &guest.reference, None).await;
    for part in ["wasmcloud:example/cron@0.0.1", "wac plug", "lattice.host/unknown-imports=trap"] {
        assert!(why.contains(part), "{why}");
    }
    let why = refused(&server, &host, &guest.reference, trap("stub")).await;
    assert!(why.contains("\"stub\", expected trap"), "{why}");

    let mut events = Events::all(&server).await;
    let ctl = ctl_2024(&server).await;
    ctl.scale_actor(&host.id, &guest.reference, 1, trap("trap")).await.expect("an ack");
    events.next("actor_scaled").await;
    let caller = Caller::new(&server).await;
    let error = caller.call(&guest.id, "Cron.Run", "").await.expect_err("it calls out");
    assert!(error.contains("called invoke of wasmcloud:example/cron@0.0.1"), "{error}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn components_nobody_should_trust_are_refused_with_the_reason() {
    let server = Server::start().await;
    let host = host(&server).start().await;
    let wasm = fixtures::wash_runtime("http_blobstore.wasm");
    let guest = signed(&wasm, &[HTTP, BLOBS]);
    let good = fs::read(guest.reference.trim_start_matches("file://")).expect("the guest");
    let other = signed(&fixtures::wash_runtime("cron_component.wasm"), &[HTTP, BLOBS]);
    let other = fs::read(other.reference.trim_start_matches("file://")).expect("the guest");
    let token = |file: &[u8], wasm: &[u8]| file[wasm.len()..].to_vec();
    let mut changed = good.clone();
    let at = changed.windows(8).position(|text| text == b"hi.txt\0\0" || text == b"my-conta");
    changed[at.expect("a text of the program")] ^= 1;
    let tokens = token(&good, &wasm);
    let foreign = token(&other, &fixtures::wash_runtime("cron_component.wasm"));
    // A whole component inside another one.
    let mut nested = b"\0asm\x0d\0\x01\0\x04".to_vec();
    let mut length = good.len();
    while length >= 0x80 {
        nested.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    nested.push(length as u8);
    nested.extend(&good);
    let few = signed(&wasm, &[HTTP]);
    let mut kept = Vec::new();
    let mut file = |bytes: &[u8]| {
        let (dir, reference) = write(bytes);
        kept.push(dir);
        reference
    };
    for (reference, reason) in [
        (file(&wasm), "sign"),
        (file(&changed), "hash"),
        (file(&[&wasm[..], &foreign].concat()), "hash"),
        (file(&nested), "sign"),
        (file(&[&good[..], &tokens].concat()), ""),
        (file(&good[..good.len() / 2]), ""),
        (file(b"\0asm\x0c\0\x01\0"), "wasm-tools component new"),
        (file(b"\x7fELF\x02\x01\x01\xc8precompiled"), ""),
        (few.reference.clone(), "host claims sign FILE --cap wasmcloud:blobstore"),
    ] {
        let why = refused(&server, &host, &reference, None).await;
        assert!(why.contains(reason) && why.contains(&reference), "{reason}: {why}");
    }
    assert!(ctl_2024(&server).await.get_host_inventory(&host.id).await.unwrap().actors.is_empty());
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_linked_is_told_in_the_words_of_the_interface() {
    let wasm = fixtures::wash_runtime("http_blobstore.wasm");
    let server = Server::start().await;
    let host = host(&server).start().await;
    let guest = signed(&wasm, &[HTTP, BLOBS]);
    start(&server, &host, &guest.reference, 1).await;
    let caller = Caller::new(&server).await;
    // It is no provider that calls here, so the claims of the component say whether it may.
    let request = http_request("POST", "/", b"x");
    let answered = caller.call(&guest.id, "HttpServer.HandleRequest", request).await;
    let answer = answered.map(|answer| String::from_utf8_lossy(&http_body(&answer)).into_owned());
    let told = answer.unwrap_or_else(|error| error);
    assert!(told.contains("link"), "{told}");
    let error = caller.call(&guest.id, "Any.Thing", "").await.expect_err("it has no such export");
    for part in ["wasi:http/incoming-handler@0.2.2", "wasi:cli/run"] {
        assert!(error.contains(part), "{error}");
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_signs_inspects_and_starts_a_component() {
    let server = Server::start().await;
    let dir = TempDir::new().expect("a directory");
    let mut process = Process::start(&mut member(dir.path(), &server));
    process.line("ready");
    let user = User::of(&server);
    let file = dir.path().join("blobs.wasm");
    let path = file.display().to_string();
    fs::write(&file, fixtures::wash_runtime("http_blobstore.wasm")).expect("written");

    let signed = user.json(&["claims", "sign", &path]).await;
    assert_eq!(signed["capabilities"], serde_json::json!([HTTP, BLOBS]));
    let output = user.run(&["claims", "sign", &path, "-d", "less.wasm", "--no-cap", BLOBS]).await;
    let note = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && note.contains("--cap wasmcloud:blobstore"), "{note}");
    let output = user.run(&["claims", "sign", &path, "--no-cap", "wasmcloud:blobstor"]).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains(BLOBS), "{error}");

    let signed = dir.path().join("blobs_s.wasm").display().to_string();
    let told = user.json(&["claims", "inspect", &signed]).await;
    assert_eq!((&told["module_kind"], &told["kind"]), (&"component".into(), &"actor".into()));
    let told = user.prints(&["inspect", &signed]).await;
    for part in ["a component", "wasi:blobstore/container@0.2.0-draft (wasmcloud:blobstore)"] {
        assert!(told.contains(part), "{told}");
    }

    for provider in ["builtin://httpserver", "builtin://blobstore"] {
        user.prints(&["start", "provider", provider]).await;
    }
    let started = user.json(&["start", "actor", &signed]).await;
    let actor = started["actor_id"].as_str().expect("an id").to_owned();
    let address = format!("127.0.0.1:{}", free_port());
    let value = format!("address={address}");
    user.prints(&["link", "put", &actor, "builtin://blobstore", BLOBS]).await;
    user.prints(&["link", "put", &actor, "builtin://httpserver", HTTP, &value]).await;
    let answer = eventually("the blob comes back", async || {
        let request = client().post(format!("http://{address}/")).body("to and fro");
        let answer = request.send().await.ok()?;
        (answer.status() == 200).then_some(answer.text().await.ok()?)
    })
    .await;
    assert_eq!(answer, "to and fro");
    user.prints(&["stop", "actor", &actor]).await;

    // Unsigned, it is signed with the user's keys at the start.
    let started = user.json(&["start", "actor", &path, "--sign"]).await;
    assert_eq!(started["actor_id"], actor.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsigned_component_that_is_saved_runs() {
    let server = Server::start().await;
    let host = host(&server).start().await;
    start_provider(&server, &host, "builtin://blobstore").await;
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("blobs.wasm");
    fs::write(&file, fixtures::wash_runtime("http_blobstore.wasm")).expect("written");
    let mut dev = crate::dev::Dev::begin(&server, &file, &[]);
    let running = dev.told("running");
    let actor = running["actor_id"].as_str().expect("an id").to_owned();
    link(&server, &actor, blobstore::SPEC.known.public_key, BLOBS, &[]).await;
    let caller = Caller::new(&server).await;
    eventually("it answers", async || {
        let request = http_request("POST", "/", b"saved");
        let answer = caller.call(&actor, "HttpServer.HandleRequest", request).await.ok()?;
        (http_body(&answer) == "saved").then_some(())
    })
    .await;
    // Another component of the same name is its next revision.
    fs::write(&file, fixtures::wash_runtime("http_counter.wasm")).expect("written");
    assert_eq!(dev.told("running")["change"], "updated");
    host.stop().await;
}

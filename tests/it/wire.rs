//! Payloads, uploads and names on the wire, written by a peer without keys: whoever may publish can
//! write objects and their metadata, and can send again what it overheard.

use async_nats::{HeaderMap, jetstream};
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use bytes::Bytes;
use futures::TryStreamExt as _;
use lattice_base::{
    budget::Budget,
    registry::{digest::Digest, uploads::Problem},
    store::{artifacts::Artifacts, jetstream::making::Making},
};
use lattice_engine::rpc::{
    call::{Call, CallError},
    chunking::{self, ChunkError, Chunks, PayloadName, Reader, Settings},
    client::{Client, new_id},
};
use lattice_protocol::{
    identity::keys::{ActorId, HostId},
    rpc::{
        antiforgery::Signer,
        invocation::{Entity, Invocation},
    },
};
use serde_json::{Value, json};
use std::{sync::atomic::AtomicBool, time::Duration};
use tokio::time::Instant;

use crate::{
    connections::anonymous,
    harness::{
        CLUSTER_SEED, ECHO, PONGER, PROVIDER, Server, TestHost,
        client::{self, Caller, http_body, http_request, start},
        eventually, example, host,
    },
};

const HOST: &str = "NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF";
const OPERATION: &str = "HttpServer.HandleRequest";

/// The object store of large payloads as a peer sees it.
struct Store {
    context: jetstream::Context,
    bucket: String,
}

impl Store {
    async fn of(server: &Server, bucket: &str) -> Self {
        let context = client::jetstream(server).await;
        Self { context, bucket: bucket.to_owned() }
    }

    async fn stream(&self) -> jetstream::stream::Stream {
        self.context.get_stream(format!("OBJ_{}", self.bucket)).await.expect("the bucket is there")
    }

    /// Writes a piece.
    async fn piece(&self, nuid: &str, bytes: Vec<u8>) {
        let subject = format!("$O.{}.C.{nuid}", self.bucket);
        self.context.publish(subject, bytes.into()).await.expect("sent").await.expect("stored");
    }

    /// Writes the metadata of an object, as any peer may.
    async fn metadata(&self, name: &str, metadata: &Value) {
        let subject = format!("$O.{}.M.{}", self.bucket, URL_SAFE.encode(name));
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Rollup", "sub");
        let sent =
            self.context.publish_with_headers(subject, headers, metadata.to_string().into()).await;
        sent.expect("sent").await.expect("stored");
    }

    /// How many messages lie on subjects that match.
    async fn count(&self, filter: &str) -> usize {
        let stream = self.stream().await;
        let subjects = stream
            .info_with_subjects(format!("$O.{}.{filter}", self.bucket))
            .await
            .expect("counted");
        let counts: Vec<(String, usize)> = subjects.try_collect().await.expect("counted");
        counts.into_iter().map(|(_, count)| count).sum()
    }
}

fn chunks(nats: &async_nats::Client, server: &Server) -> Chunks {
    Chunks::new(nats, server.domain(), server.lattice(), Settings::default())
}

fn named(id: &str) -> PayloadName {
    PayloadName::of_call(id).expect("an id")
}

fn objects_of(id: &str, nuid: &str, size: u64) -> Value {
    json!({ "name": id, "bucket": "default", "nuid": nuid, "size": size, "chunks": 1 })
}

/// A host that runs the echo actor, and a peer that has overheard a call of it.
async fn victim(server: &Server, settings: &[(&'static str, &str)]) -> (TestHost, Caller) {
    let mut builder = host(server);
    for (key, value) in settings {
        builder = builder.set(key, value);
    }
    let host = builder.start().await;
    start(server, &host, &example("echo"), 1).await;
    (host, Caller::new(server).await)
}

/// An overheard call, as a peer sends it again: its payload is said to travel apart.
fn overheard(caller: &Caller, payload: &[u8], content_length: u64) -> Invocation {
    let mut invocation = caller.invocation(ECHO, OPERATION, http_request("POST", "/", payload));
    (invocation.msg, invocation.content_length) = (Bytes::new(), content_length);
    invocation
}

async fn error(caller: &Caller, invocation: &Invocation) -> String {
    caller.send(ECHO, invocation).await.error.expect("it is refused")
}

async fn still_answers(caller: &Caller) {
    assert_eq!(caller.call(ECHO, OPERATION, http_request("GET", "/", b"")).await.err(), None);
}

/// Stores a payload as a caller of this make does.
async fn stored(server: &Server, id: &str, payload: &Bytes) -> (Chunks, chunking::Stored) {
    let chunks = chunks(&client::nats(server).await, server);
    let stored = chunks.put(named(id), payload, ECHO).await.expect("stored");
    (chunks, stored)
}

#[tokio::test]
async fn metadata_that_names_the_pieces_of_everybody_reads_and_removes_nothing() {
    let server = Server::shared().await;
    let (host, caller) = victim(&server, &[]).await;
    let other = Bytes::from(vec![7; 1_000_000]);
    let (_chunks, _stored) = stored(&server, "somebody-else", &other).await;
    let store = Store::of(&server, server.lattice()).await;
    let pieces = store.count("C.>").await;
    assert!(pieces > 1);
    for nuid in [">", "*", "", "a.>", "a b"] {
        let call = overheard(&caller, b"x", 1_000_000);
        store.metadata(&call.id, &objects_of(&call.id, nuid, 1_000_000)).await;
        let error = error(&caller, &call).await;
        assert!(
            error.contains(&format!("object store {}", server.lattice()))
                && error.contains("the id of the pieces"),
            "{nuid:?}: {error}"
        );
        assert_eq!(store.count("C.>").await, pieces, "{nuid:?}");
    }
    still_answers(&caller).await;
    host.stop().await;
}

#[tokio::test]
async fn bytes_that_are_announced_and_not_there_are_refused_without_a_wait() {
    let server = Server::shared().await;
    // Nobody waits this long.
    let (host, caller) =
        victim(&server, &[("actor_memory_max_bytes", "2G"), ("payload_memory_max_bytes", "2G")])
            .await;
    let (_chunks, _stored) = stored(&server, "makes-the-bucket", &Bytes::from_static(b"x")).await;
    let store = Store::of(&server, server.lattice()).await;
    let sizes: [u64; 4] = [5_000_000, 900 << 20, 1 << 30, 1 << 40];
    for (number, size) in sizes.into_iter().enumerate() {
        let nothing = overheard(&caller, b"x", size);
        let refused = error(&caller, &nothing).await;
        assert!(
            refused.contains("there is no such object") || refused.contains("and the limit is"),
            "{refused}"
        );

        // Metadata without a size is believed by nobody who reads what is there.
        let unsized_ = overheard(&caller, b"x", size);
        let nuid = format!("none{number}");
        store
            .metadata(&unsized_.id, &json!({ "name": "x", "bucket": "default", "nuid": nuid }))
            .await;
        let refused = error(&caller, &unsized_).await;
        assert!(refused.contains("only 0 of") || refused.contains("and the limit is"), "{refused}");

        let zero = overheard(&caller, b"x", size);
        store.metadata(&zero.id, &objects_of(&zero.id, &nuid, 0)).await;
        let refused = error(&caller, &zero).await;
        assert!(
            refused.contains("it has 0 bytes") || refused.contains("and the limit is"),
            "{refused}"
        );

        let one = overheard(&caller, b"x", size);
        store.piece(&format!("one{number}"), vec![1]).await;
        store.metadata(&one.id, &objects_of(&one.id, &format!("one{number}"), size)).await;
        let refused = error(&caller, &one).await;
        assert!(refused.contains("only 1 of") || refused.contains("and the limit is"), "{refused}");
    }
    let more = overheard(&caller, b"x", 2_000_000);
    store.piece("more", vec![1; 900_000]).await;
    store.piece("more", vec![1; 900_000]).await;
    store.piece("more", vec![1; 900_000]).await;
    store.metadata(&more.id, &objects_of(&more.id, "more", 2_000_000)).await;
    let refused = error(&caller, &more).await;
    assert!(refused.contains("more than 2000000 bytes"), "{refused}");
    still_answers(&caller).await;
    host.stop().await;
}

#[tokio::test]
async fn a_payload_that_its_reader_cannot_hold_is_refused_before_it_is_read() {
    let server = Server::shared().await;
    let (host, caller) = victim(&server, &[("actor_memory_max_bytes", "4M")]).await;
    let call = overheard(&caller, b"x", 5 << 20);
    let payload = Bytes::from(vec![1; 5 << 20]);
    let (_chunks, _stored) = stored(&server, &call.id, &payload).await;
    let refused = error(&caller, &call).await;
    assert!(refused.contains("actor_memory_max_bytes") && refused.contains("5242880"), "{refused}");
    host.stop().await;

    let server = Server::shared().await;
    let (host, caller) = victim(&server, &[("payload_memory_max_bytes", "16M")]).await;
    let refused = error(&caller, &overheard(&caller, b"x", 15 << 20)).await;
    assert!(refused.contains("payload_memory_max_bytes"), "{refused}");
    host.stop().await;
}

#[tokio::test]
async fn many_forged_payloads_at_once_share_one_budget_and_destroy_nothing() {
    let server = Server::shared().await;
    let (host, caller) = victim(&server, &[("payload_memory_max_bytes", "16M")]).await;
    // One object, named by many calls that were signed for something else.
    let payload = Bytes::from(vec![3; 3 << 20]);
    let (_chunks, _stored) = stored(&server, "one-object", &payload).await;
    let store = Store::of(&server, server.lattice()).await;
    let piece = store
        .stream()
        .await
        .get_last_raw_message_by_subject(&format!("$O.{}.C.>", server.lattice()))
        .await
        .expect("a piece");
    let nuid = piece.subject.rsplit('.').next().expect("an id").to_owned();
    let pieces = store.count("C.>").await;
    let calls: Vec<Invocation> = (0..24).map(|_| overheard(&caller, b"x", 3 << 20)).collect();
    for call in &calls {
        store.metadata(&call.id, &objects_of(&call.id, &nuid, 3 << 20)).await;
    }
    let answers = futures::future::join_all(calls.iter().map(|call| caller.send(ECHO, call))).await;
    for answer in answers {
        let refused = answer.error.expect("it is refused");
        let reasons = ["hash does not match", "payload_memory_max_bytes", "in time"];
        assert!(reasons.iter().any(|reason| refused.contains(reason)), "{refused}");
    }
    assert_eq!(store.count("C.>").await, pieces, "what was not verified is not removed");
    still_answers(&caller).await;
    host.stop().await;
}

#[tokio::test]
async fn a_call_sent_again_does_not_take_the_payload_of_the_first() {
    let server = Server::shared().await;
    let (host, caller) = victim(&server, &[]).await;
    let request = Bytes::from(http_request("POST", "/", &vec![b'x'; 1_500_000]));
    let mut first = caller.invocation(ECHO, OPERATION, request.clone());
    (first.content_length, first.msg) = (request.len() as u64, Bytes::new());
    let (_chunks, _stored) = stored(&server, &first.id, &request).await;
    // Forged: the same id, another operation, a token of another call.
    let mut forged = overheard(&caller, b"y", request.len() as u64);
    forged.id.clone_from(&first.id);
    let refused = error(&caller, &forged).await;
    assert!(refused.contains("is not the invocation ID"), "{refused}");
    // A recorded token of this id whose payload is another one.
    let store = Store::of(&server, server.lattice()).await;
    let mut other = first.clone();
    other.encoded_claims = caller.signer.sign(
        &first.origin,
        &first.target,
        OPERATION,
        b"something else",
        &first.id,
        lattice_protocol::identity::claims::now(),
    );
    let refused = error(&caller, &other).await;
    assert!(refused.contains("hash does not match"), "{refused}");
    assert!(store.count("C.>").await > 0);
    assert_eq!(caller.send(ECHO, &first).await.error, None);
    host.stop().await;
}

/// A caller as it is in a host, with the budgets of one.
async fn client_of(server: &Server) -> (Client, Chunks) {
    let nats = client::nats(server).await;
    let chunks = chunks(&nats, server);
    let subjects = server.subjects();
    let signer = Signer::new(CLUSTER_SEED).expect("a seed");
    let host = HostId::parse(HOST).expect("a key");
    (Client::new(nats, subjects, signer, chunks.clone(), host), chunks)
}

fn call(payload: Vec<u8>) -> Call {
    let actor = Entity::actor(&ActorId::parse(ECHO).expect("an actor"));
    let payload = http_request("POST", "/", &payload).into();
    let deadline = Instant::now() + Duration::from_secs(2);
    Call::new((actor.clone(), actor), OPERATION, payload, deadline)
}

#[tokio::test]
async fn a_large_call_to_nobody_stores_nothing() {
    let server = Server::shared().await;
    let (client, _chunks) = client_of(&server).await;
    for _ in 0..3 {
        let outcome =
            client.invoke(call(vec![1; 2_000_000]), None, new_id(), &AtomicBool::new(false)).await;
        assert!(matches!(outcome, Err(CallError::NoResponders { .. })), "{outcome:?}");
    }
    let store = Store::of(&server, server.lattice()).await;
    assert!(
        store.context.get_stream(format!("OBJ_{}", server.lattice())).await.is_err(),
        "not even the bucket"
    );
}

#[tokio::test]
async fn a_large_call_that_fails_leaves_nothing_behind() {
    let server = Server::shared().await;
    let (client, chunks) = client_of(&server).await;
    let deaf = client::nats(&server).await;
    let _subscription = deaf.subscribe(server.rpc(ECHO)).await.expect("subscribed");
    crate::harness::client::settled(&deaf).await;
    // Its caller gives up, here even before the deadline.
    let (id, sent) = (new_id(), AtomicBool::new(false));
    let calling = client.invoke(call(vec![1; 2_000_000]), None, id, &sent);
    assert!(tokio::time::timeout(Duration::from_secs(3), calling).await.is_err());
    let store = Store::of(&server, server.lattice()).await;
    assert!(store.count(">").await > 0);
    chunks.tidy().await;
    assert_eq!(store.count(">").await, 0);
}

#[tokio::test]
async fn answers_that_nobody_fetches_are_bounded_and_fetched_ones_make_room() {
    let server = Server::shared().await;
    let nats = client::nats(&server).await;
    let (chunks, reader) = (chunks(&nats, &server), chunks(&nats, &server));
    let stop = tokio_util::sync::CancellationToken::new();
    let tidying = tokio::spawn(chunks.clone().keep_tidy(stop.clone()));
    let answer = Bytes::from(vec![5; 20 << 20]);
    let name = |id: &str| PayloadName::of_answer(id).expect("an id");
    for id in ["a", "b", "c"] {
        chunks.put(name(id), &answer, ECHO).await.expect("stored").leave();
    }
    let refused = chunks.put(name("d"), &answer, ECHO).await.err();
    assert!(matches!(refused, Some(ChunkError::InFlight { .. })), "{refused:?}");
    // Others are not kept from it.
    chunks.put(name("e"), &answer, HOST).await.expect("stored").leave();
    let fetched = reader
        .fetch(name("a"), answer.len() as u64, Reader::Provider, |_| {})
        .await
        .expect("fetched");
    assert!(fetched.remove().await == answer);
    eventually("what was fetched makes room", || async {
        chunks.put(name("d"), &answer, ECHO).await.ok().map(chunking::Stored::leave)
    })
    .await;
    stop.cancel();
    tidying.await.expect("it ends");
}

#[tokio::test]
async fn the_bucket_of_payloads_that_a_host_makes_is_bounded_in_size_and_time() {
    let server = Server::shared().await;
    let (_chunks, _stored) = stored(&server, "first", &Bytes::from_static(b"x")).await;
    let config =
        Store::of(&server, server.lattice()).await.stream().await.cached_info().config.clone();
    assert_eq!((config.max_bytes, config.max_age), (1 << 30, Duration::from_secs(600)));
    // A bucket of another host stays as it is.
    let server = Server::shared().await;
    let store = Store::of(&server, server.lattice()).await;
    let config = jetstream::stream::Config {
        name: format!("OBJ_{}", server.lattice()),
        subjects: vec![format!("$O.{}.>", server.lattice())],
        allow_rollup: true,
        ..Default::default()
    };
    store.context.create_stream(config).await.expect("made");
    let (_chunks, _stored) = stored(&server, "second", &Bytes::from_static(b"x")).await;
    let config = store.stream().await.cached_info().config.clone();
    assert_eq!((config.max_bytes, config.max_age), (-1, Duration::ZERO));
}

/// A server whose messages are no larger.
async fn small_server(max_payload: usize) -> Server {
    let config = format!(
        "max_payload: {max_payload}\njetstream {{ domain: core, store_dir: \"@DIR@/js\" }}\n"
    );
    Server::with_config(Some("core"), &config).await
}

#[tokio::test]
async fn payloads_of_any_size_travel_where_messages_are_small() {
    for max_payload in [8 << 10, 64 << 10, 128 << 10] {
        let server = small_server(max_payload).await;
        let (host, _caller) = victim(&server, &[("local_calls", "false")]).await;
        let (client, _chunks) = client_of(&server).await;
        for size in [0, 3_000, 5_000, 40_000, 60_000, 130_000, 400_000] {
            let answer = client
                .invoke(call(vec![b'x'; size]), None, new_id(), &AtomicBool::new(false))
                .await;
            let answer =
                answer.unwrap_or_else(|error| panic!("{size} bytes at {max_payload}: {error}"));
            let echoed: Value = serde_json::from_slice(&http_body(&answer)).expect("JSON");
            assert_eq!(echoed["body"].as_array().map(Vec::len), Some(size), "{max_payload}");
        }
        host.stop().await;
    }
}

#[tokio::test]
async fn uploads_travel_where_messages_are_small() {
    let server = small_server(8 << 10).await;
    let nats = connected(&server).await;
    let store = Artifacts::new(
        nats,
        server.domain(),
        server.lattice(),
        Making::of_artifacts(1, None),
        Budget::default(),
    );
    let content = Bytes::from((0..300_000_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    store.put(&content, &Default::default(), |_, _| {}).await.expect("sent");
    assert!(store.get(&Digest::of(&content)).await.expect("read") == content);
}

async fn connected(server: &Server) -> lattice_base::lattice::connection::Nats {
    use lattice_base::lattice::connection::{Purpose, connect_once};
    connect_once(Purpose::Control, &anonymous(server), "test").await.expect("connected")
}

#[tokio::test]
async fn what_needs_the_object_store_and_has_none_is_told_of_max_payload() {
    let server = Server::with_config(None, "max_payload: 65536\n").await;
    let (client, _chunks) = client_of(&server).await;
    let deaf = client::nats(&server).await;
    let _subscription = deaf.subscribe(server.rpc(ECHO)).await.expect("subscribed");
    crate::harness::client::settled(&deaf).await;
    let outcome =
        client.invoke(call(vec![1; 60_000]), None, new_id(), &AtomicBool::new(false)).await;
    let error = outcome.expect_err("there is no JetStream").to_string();
    assert!(error.contains("max_payload of the NATS server is 65536"), "{error}");
}

#[tokio::test]
async fn metadata_of_uploads_cannot_harm_those_of_others() {
    let server = Server::shared().await;
    let uploads = Artifacts::new(
        connected(&server).await,
        server.domain(),
        server.lattice(),
        Making::of_artifacts(1, None),
        Budget::default(),
    );
    let good = Bytes::from(vec![4; 500_000]);
    uploads.put(&good, &Default::default(), |_, _| {}).await.expect("sent");
    let store = Store::of(&server, &format!("ARTIFACTS_{}", server.lattice())).await;
    let pieces = store.count("C.>").await;
    let wanted = Digest::of(b"wanted");
    let name = format!("sha256-{}", wanted.hex());
    for (nuid, size, chunks) in
        [(">", 500_000, 4), ("*", 500_000, 4), ("", 1, 1), ("none", 500 << 20, 4000)]
    {
        let metadata =
            json!({ "name": name, "bucket": "x", "nuid": nuid, "size": size, "chunks": chunks });
        store.metadata(&name, &metadata).await;
        let refused = uploads.get(&wanted).await.expect_err("it is refused");
        assert!(matches!(refused.problem, Problem::Damaged), "{nuid:?}: {refused}");
        assert_eq!(store.count("C.>").await, pieces, "{nuid:?}");
    }
    // Half a gigabyte of which one byte is there is not waited for.
    store.piece("short", vec![1]).await;
    let metadata =
        json!({ "name": name, "bucket": "x", "nuid": "short", "size": 500 << 20, "chunks": 1 });
    store.metadata(&name, &metadata).await;
    let refused = uploads.get(&wanted).await.expect_err("it is refused");
    assert!(matches!(refused.problem, Problem::Damaged), "{refused}");
    // Metadata that says it is another's changes only its own.
    let other = format!("sha256-{}", Digest::of(&good).hex());
    let metadata = json!({ "name": other, "bucket": "x", "nuid": "short", "size": 1, "chunks": 1 });
    store.metadata(&name, &metadata).await;
    assert!(uploads.get(&wanted).await.is_err());
    assert!(uploads.get(&Digest::of(&good)).await.expect("it is whole") == good);
}

#[tokio::test]
async fn accounts_that_demand_a_bound_get_one() {
    let config = "jetstream { domain: core, store_dir: \"@DIR@/js\", max_file_store: 1G }\n\
                  accounts { A { users: [{ user: a, password: a }], \
                  jetstream: { max_mem: 1M, max_file: 400M, max_bytes_required: true } } }\n\
                  no_auth_user: a\n";
    let server = Server::with_config(Some("core"), config).await;
    let (host, caller) = victim(&server, &[]).await;
    still_answers(&caller).await;
    let store = Store::of(&server, server.lattice()).await;
    let bound = async |stream: &str| {
        store.context.get_stream(stream).await.expect(stream).cached_info().config.max_bytes
    };
    assert_eq!(bound(&format!("KV_LATTICEDATA_{}", server.lattice())).await, 64 << 20);
    let (_chunks, _stored) = stored(&server, "first", &Bytes::from_static(b"x")).await;
    assert!((1 << 20..400 << 20).contains(&bound(&format!("OBJ_{}", server.lattice())).await));
    let uploads = Artifacts::new(
        connected(&server).await,
        server.domain(),
        server.lattice(),
        Making::of_artifacts(1, Some(10 << 20)),
        Budget::default(),
    );
    uploads.put(&Bytes::from_static(b"x"), &Default::default(), |_, _| {}).await.expect("sent");
    assert_eq!(bound(&format!("OBJ_ARTIFACTS_{}", server.lattice())).await, 10 << 20);
    host.stop().await;
}

/// The metadata bucket of the lattice, as any peer writes it.
async fn metadata_bucket(server: &Server) -> jetstream::kv::Store {
    Store::of(server, server.lattice())
        .await
        .context
        .get_key_value(format!("LATTICEDATA_{}", server.lattice()))
        .await
        .expect("the bucket")
}

#[tokio::test]
async fn claims_written_into_the_bucket_give_no_capability_to_what_runs() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("ponger"), 1).await;
    let bucket = metadata_bucket(&server).await;
    let key = format!("CLAIMS_{PONGER}");
    let claims = bucket.get(&key).await.expect("read").expect("claims");
    let mut claims: Value = serde_json::from_slice(&claims).expect("JSON");
    claims["caps"] = json!("wasmcloud:httpserver,wasmcloud:keyvalue");
    bucket.put(&key, claims.to_string().into()).await.expect("written");
    let ctl = client::ctl_2024(&server).await;
    eventually("the host knows them", || async {
        let known = ctl.get_claims().await.ok()?;
        known
            .into_iter()
            .find(|claims| claims["sub"] == PONGER && claims["caps"].contains("keyvalue"))
    })
    .await;
    let rpc = client::provider_rpc(&server).await;
    let request = http_request("GET", "/", b"");
    let refused = client::call_as_provider(&rpc, PONGER, OPERATION, request)
        .await
        .expect_err("it is refused");
    assert!(refused.to_string().contains("actor is missing capability claims"), "{refused}");
    host.stop().await;
}

#[tokio::test]
async fn garbage_in_the_bucket_harms_nobody() {
    let server = Server::shared().await;
    let (host, caller) = victim(&server, &[]).await;
    let bucket = metadata_bucket(&server).await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let wide = json!({ "actor_id": ECHO, "provider_id": ECHO, "link_name": "default",
        "contract_id": "x".repeat(400_000), "values": {} });
    let other_key = json!({ "actor_id": ECHO, "provider_id": HOST, "link_name": "default",
        "contract_id": "acme:x", "values": {} });
    for (key, value) in [
        ("LINKDEF_00", "{".to_owned()),
        ("LINKDEF_", "{}".to_owned()),
        (&format!("LINKDEF_{}", "0".repeat(64)), other_key.to_string()),
        (&format!("LINKDEF_{}", "F".repeat(64)), wide.to_string()),
        ("LINKDEF_01", deep.clone()),
        ("CLAIMS_", "null".to_owned()),
        (&format!("CLAIMS_{ECHO}"), deep),
        ("CLAIMS_MX", json!({ "sub": 1, "caps": {}, "rev": [] }).to_string()),
        ("REFMAP_x", "[]".to_owned()),
        ("x/y", "\u{1b}[2J".to_owned()),
        ("OTHER", String::new()),
    ] {
        bucket.put(key, value.into()).await.expect("written");
    }
    // Later words on the same bucket are heeded.
    let ctl = client::ctl_2024(&server).await;
    let provider = nkeys::KeyPair::new_service().public_key();
    ctl.advertise_link(ECHO, &provider, "acme:x", "default", Default::default())
        .await
        .expect("asked");
    eventually("the link is known", || async {
        ctl.query_links().await.ok()?.into_iter().find(|link| link.provider_id == provider)
    })
    .await;
    still_answers(&caller).await;
    // A host that joins reads all of it.
    let second = crate::harness::host(&server).start().await;
    second.stop().await;
    host.stop().await;
}

#[tokio::test]
async fn a_page_in_a_browser_cannot_speak_to_the_nats_port() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let server = Server::shared().await;
    let mut stream = tokio::net::TcpStream::connect(server.address()).await.expect("connected");
    let body = format!("PUB wasmbus.ctl.{}.cmd.{HOST}.stop 2\r\n{{}}\r\n", server.lattice());
    let request = format!(
        "POST / HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n{body}",
        server.address(),
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut said = String::new();
    let _ = stream.read_to_string(&mut said).await;
    assert!(said.contains("-ERR 'Unknown Protocol Operation'"), "{said}");
}

#[tokio::test]
async fn names_with_wildcards_reach_no_key_and_no_other_subject() {
    let server = Server::shared().await;
    let (host, caller) = victim(&server, &[]).await;
    let nats = client::nats(&server).await;
    let mut replies = nats.subscribe("_INBOX.names.>").await.expect("subscribed");
    for subject in [
        "config.del.*",
        "config.del.>",
        "get.config.*.x",
        "get.config.M.>",
        "get.>.inv",
        "cmd.*.stop",
    ] {
        let sent = nats.publish_with_reply(server.ctl(subject), "_INBOX.names.x", "{}".into());
        sent.await.expect("sent");
    }
    // A later request on the same connection is answered after them.
    let ctl = client::ctl_2024(&server).await;
    eventually("the control interface answers", || async {
        ctl.get_hosts().await.ok().filter(|all| all.len() == 1)
    })
    .await;
    let answered =
        tokio::time::timeout(Duration::from_millis(300), futures::StreamExt::next(&mut replies))
            .await;
    if let Ok(Some(answer)) = answered {
        let is_refusal = String::from_utf8_lossy(&answer.payload).contains("\"accepted\":false");
        assert!(
            is_refusal || answer.status == Some(async_nats::StatusCode::NO_RESPONDERS),
            "{answer:?}"
        );
    }
    still_answers(&caller).await;
    host.stop().await;
}

#[tokio::test]
async fn another_spelling_of_a_contract_with_the_same_url_is_not_what_the_actor_was_signed_for() {
    let server = Server::shared().await;
    let (host, caller) = victim(&server, &[]).await;
    let mut call = caller.invocation(ECHO, OPERATION, http_request("GET", "/", b""));
    call.origin = Entity::new(PROVIDER, "prod_one", "wasmcloud/httpserver");
    let respelled = call.origin.url();
    assert_eq!(respelled, Entity::new(PROVIDER, "Prod One", "wasmcloud:httpserver").url());
    let now = lattice_protocol::identity::claims::now();
    call.encoded_claims =
        caller.signer.sign(&call.origin, &call.target, OPERATION, &call.msg, &call.id, now);
    let refused = error(&caller, &call).await;
    assert!(!refused.contains("signature") && refused.contains("capability"), "{refused}");
    host.stop().await;
}

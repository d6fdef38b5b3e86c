//! Hosts that know each other: their calls and answers have codes instead of tokens, and nobody
//! else calls, answers or says something in their name. Hosts of earlier releases take part as
//! before.

use std::{sync::atomic::AtomicBool, time::Duration};

use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use lattice_engine::{
    peers::{
        sessions::{Sessions, Settings},
        words::{self, Opened, Words},
    },
    rpc::{
        call::{Call, CallError},
        chunking::{self, Chunks},
        client::{Client, new_id},
    },
};
use lattice_protocol::{
    identity::{
        keys::{ActorId, ClusterKey, HostId, Kind},
        signature::SigningKey,
    },
    peers::{
        session::{AnswerProof, CallProof, SessionCall},
        wire::{Announcement, NONCE, Offers, PIECES, ROSTER, SESSION},
    },
    rpc::{
        antiforgery::Signer,
        codec,
        invocation::{Entity, Invocation, InvocationResponse},
    },
};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    calls::get,
    harness::{
        CLUSTER, CLUSTER_SEED, ECHO, PATIENCE, PINGER, PONGER, Server, TestHost,
        client::{self, http_request, settled, start},
        eventually, example, host,
    },
};

const OPERATION: &str = "HttpServer.HandleRequest";
/// The answer of `ponger`, in msgpack.
const PONG: &[u8] = &[53];

/// A host that the test is itself.
struct Own {
    nats: async_nats::Client,
    words: Words,
    client: Client,
    id: String,
    subject: String,
}

impl Own {
    /// A host that says nothing yet.
    async fn new(server: &Server) -> Self {
        let nats = client::nats(server).await;
        let (host_key, _) = SigningKey::generate(Kind::Server).expect("a key");
        let id = host_key.public_key().to_owned();
        let settings = Settings {
            lattice: server.lattice().to_owned(),
            host_key,
            cluster: SigningKey::from_seed(CLUSTER_SEED).expect("the cluster seed"),
            issuers: vec![ClusterKey::parse(CLUSTER).expect("a cluster key")],
            requires_signed: false,
        };
        let sessions = Sessions::new(settings).expect("sessions");
        let (subjects, domain) = (server.subjects(), server.domain());
        let bounds = chunking::Settings::default();
        let chunks = Chunks::new(&nats, domain, server.lattice(), bounds);
        let signer = Signer::new(CLUSTER_SEED).expect("the cluster seed");
        let host_id = HostId::parse(&id).expect("a host");
        let words = Words::new(sessions.clone());
        let client = Client::of_host(nats.clone(), subjects, signer, chunks, host_id, sessions);
        let subject = server.rpc(&id);
        Self { nats, words, client, id, subject }
    }

    fn announcement(&self) -> Announcement {
        let offers = Some(Offers::default());
        Announcement { host: self.id.clone(), incarnation: 7, offers, ..Announcement::default() }
    }

    /// Learns to know a host, as hosts do.
    async fn meet(&self, server: &Server, host: &TestHost) {
        let nonce = words::nonce();
        let (subject, headers) = (server.rpc(&host.id), words::question(&nonce));
        let asked = self.nats.request_with_headers(subject, headers, ROSTER.into());
        let answer = asked.await.expect("the host answers");
        let opened = self.words.open_answer(&answer.payload, &nonce);
        assert!(matches!(opened, Opened::Believed(_)), "{opened:?}");
    }

    /// Joins the lattice: says hello, and answers questions until what is returned is dropped.
    async fn join(&self, server: &Server, host: &TestHost) -> AbortOnDropHandle<()> {
        let mut questions = self.nats.subscribe(self.subject.clone()).await.expect("subscribed");
        settled(&self.nats).await;
        let (nats, words, announcement) =
            (self.nats.clone(), self.words.clone(), self.announcement());
        let answering = tokio::spawn(async move {
            while let Some(question) = questions.next().await {
                let Some(reply) = question.reply else { continue };
                let headers = question.headers.as_ref();
                let answer = words.seal_answer(&announcement, headers, 1 << 20);
                nats.publish(reply, answer).await.expect("published");
            }
        });
        let hello = Announcement { hello: true, ..self.announcement() };
        let hello = self.words.seal(&hello, 1 << 20);
        self.nats.publish(server.rpc("hosts"), hello).await.expect("published");
        knows(host, &self.id).await;
        AbortOnDropHandle::new(answering)
    }

    async fn call(&self, actor: &str, host: &TestHost, body: &[u8]) -> Result<Bytes, CallError> {
        let actor = Entity::actor(&ActorId::parse(actor).expect("an actor"));
        let payload = http_request("POST", "/", body).into();
        let deadline = Instant::now() + Duration::from_secs(10);
        let call = Call::new((actor.clone(), actor), OPERATION, payload, deadline);
        self.client.invoke(call, Some(&host.id), new_id(), &AtomicBool::new(false)).await
    }
}

async fn knows(host: &TestHost, other: &str) {
    eventually("the host knows the other one", || async {
        is_silent(host, other).is_some_and(|is_silent| !is_silent).then_some(())
    })
    .await;
}

fn is_silent(host: &TestHost, other: &str) -> Option<bool> {
    host.other_hosts().iter().find(|(id, _)| id == other).map(|(_, is_silent)| *is_silent)
}

/// Hears what is sent on a subject, as somebody who is no host.
async fn overhear(server: &Server, subject: String) -> (async_nats::Client, Subscriber) {
    let nats = client::nats(server).await;
    let heard = nats.subscribe(subject).await.expect("subscribed");
    settled(&nats).await;
    (nats, heard)
}

async fn next(heard: &mut Subscriber) -> Message {
    tokio::time::timeout(PATIENCE, heard.next()).await.expect("a message").expect("a message")
}

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    message.headers.as_ref()?.get(name).map(|value| value.as_str())
}

/// The call of a session that a message is.
fn session_call(message: &Message) -> Option<SessionCall> {
    match CallProof::read(header(message, SESSION)?) {
        Some(CallProof::Session(call)) => Some(call),
        _ => None,
    }
}

fn invocation(message: &Message) -> Invocation {
    codec::decode_invocation(message.payload.clone()).expect("an invocation")
}

/// Sends a message as somebody who is no host; returns the error that it is answered with.
async fn refusal(
    nats: &async_nats::Client,
    subject: &str,
    headers: HeaderMap,
    payload: Bytes,
) -> String {
    let request =
        async_nats::Request::new().headers(headers).payload(payload).timeout(Some(PATIENCE));
    let reply = nats.send_request(subject.to_owned(), request).await.expect("an answer");
    codec::decode_response(reply.payload).expect("a response").error.expect("a refusal")
}

/// Waits until a host has heard what was said to all before: an invented host, which it then knows.
async fn has_heard(nats: &async_nats::Client, server: &Server, host: &TestHost) {
    let invented = nkeys::KeyPair::new_server().public_key();
    let hello = json!({"host": invented, "life": 1, "roster": 0, "offers": {}}).to_string();
    nats.publish(server.rpc("hosts"), hello.into()).await.expect("published");
    knows(host, &invented).await;
}

#[tokio::test]
async fn calls_and_answers_between_hosts_have_codes_and_no_tokens() {
    let server = Server::shared().await;
    let (first, second) = (host(&server).start().await, host(&server).start().await);
    start(&server, &first, &example("pinger"), 1).await;
    start(&server, &second, &example("ponger"), 1).await;
    let (_nats, mut calls) =
        overhear(&server, server.rpc(format_args!("{PONGER}.{}", second.id))).await;
    let (_nats, mut answers) = overhear(&server, "_INBOX.>".to_owned()).await;
    knows(&first, &second.id).await;
    knows(&second, &first.id).await;
    assert_eq!(get(&server, PINGER, "/").await.unwrap(), json!({"value": 53}));
    let call = next(&mut calls).await;
    assert_eq!(invocation(&call).encoded_claims, "");
    assert!(session_call(&call).is_some(), "{:?}", call.headers);
    let reply = call.reply.expect("an inbox");
    let answer = loop {
        let answer = next(&mut answers).await;
        if answer.subject == reply {
            break answer;
        }
    };
    let proof = header(&answer, SESSION).and_then(AnswerProof::read);
    assert!(matches!(proof, Some(AnswerProof::Code { hash: None, .. })), "{:?}", answer.headers);
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn a_call_of_a_session_is_made_once_and_only_as_its_host_sent_it() {
    let server = Server::shared().await;
    let (host, other) = (host(&server).start().await, host(&server).start().await);
    start(&server, &host, &example("echo"), 1).await;
    start(&server, &other, &example("echo"), 1).await;
    let own = Own::new(&server).await;
    let _joined = own.join(&server, &host).await;
    own.meet(&server, &host).await;
    let subject = server.rpc(format_args!("{ECHO}.{}", host.id));
    let (nats, mut calls) = overhear(&server, subject.clone()).await;
    own.call(ECHO, &host, b"one").await.expect("the call works");
    let sent = next(&mut calls).await;
    let proof = session_call(&sent).expect("a session");
    let headers = |proof: SessionCall| {
        let mut headers = sent.headers.clone().expect("headers");
        headers.insert(SESSION, CallProof::Session(proof).to_string());
        headers
    };
    let changed = |change: fn(&mut Invocation)| {
        let mut call = invocation(&sent);
        change(&mut call);
        codec::encode_invocation(&call)
    };
    let with = |name: &str, value: &str| {
        let mut headers = headers(proof);
        headers.insert(name, value);
        headers
    };
    let payload = || sent.payload.clone();
    const CODE: &str = "the code of the call is wrong";
    for (case, headers, payload, expected) in [
        ("repeated", headers(proof), payload(), "was made before"),
        (
            "payload",
            headers(proof),
            changed(|call| call.msg = http_request("POST", "/", b"two").into()),
            CODE,
        ),
        ("operation", headers(proof), changed(|call| call.operation.push('x')), CODE),
        ("id", headers(proof), changed(|call| call.id.push('x')), CODE),
        ("host", headers(proof), changed(|call| call.host_id.push('x')), CODE),
        ("time left", with("Lattice-Time-Left", "9999999"), payload(), CODE),
        ("depth", with("Lattice-Waiting", "0"), payload(), CODE),
        ("pieces", with(PIECES, "1"), payload(), CODE),
        ("counter", headers(SessionCall { counter: proof.counter + 1, ..proof }), payload(), CODE),
        (
            "payload elsewhere",
            headers(SessionCall { hash: Some([0; 32]), ..proof }),
            payload(),
            CODE,
        ),
        (
            "another key",
            headers(SessionCall { caller_key: proof.caller_key + 1, ..proof }),
            payload(),
            "the session of the call is unknown",
        ),
        ("no proof", HeaderMap::new(), payload(), "token"),
    ] {
        let error = refusal(&nats, &subject, headers, payload).await;
        assert!(error.contains(expected), "{case}: {error}");
    }
    let elsewhere = server.rpc(format_args!("{ECHO}.{}", other.id));
    let error = refusal(&nats, &elsewhere, headers(proof), payload()).await;
    assert!(error.contains("the session of the call is unknown"), "{error}");
    own.call(ECHO, &host, b"two").await.expect("the session goes on");

    let health = server.ctl(format_args!("probe.{}.health", host.id));
    let told = nats.request(health, Bytes::new()).await.expect("the host tells");
    let told: serde_json::Value = serde_json::from_slice(&told.payload).expect("JSON");
    assert!(told["refused"]["calls"].as_u64().is_some_and(|count| count >= 10), "{told:#}");
    let known = told["peers"].as_array().expect("peers");
    let known = known.iter().find(|peer| peer["host_id"] == own.id.as_str());
    assert_eq!(known.expect("the peer")["has_session"], json!(true), "{told:#}");
    host.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn an_answer_of_somebody_else_is_refused_and_the_call_is_not_made_twice() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let own = Own::new(&server).await;
    let _joined = own.join(&server, &host).await;
    own.meet(&server, &host).await;
    // A genuine answer to another call.
    let (_nats, mut heard) = overhear(&server, "_INBOX.>".to_owned()).await;
    own.call(ECHO, &host, b"one").await.expect("the call works");
    let genuine = loop {
        let answer = next(&mut heard).await;
        if header(&answer, SESSION).is_some_and(|proof| proof.starts_with("1.m.")) {
            break answer;
        }
    };
    let genuine_proof = header(&genuine, SESSION).expect("a proof").to_owned();
    // The host does not run this actor, so nobody is faster than the one who pretends to be it.
    let (nats, mut calls) =
        overhear(&server, server.rpc(format_args!("{PONGER}.{}", host.id))).await;
    let (stranger, _) = SigningKey::generate(Kind::Server).expect("a key");
    let (unknown, signature) = (format!("{}.99999", host.id), stranger.sign(b"it"));
    let (actor_id, reason) = (PONGER.to_owned(), "it has much to do".to_owned());
    let busy = CallError::NotAdmitted { actor_id, reason }.to_string();
    for (case, proof, error) in [
        ("no proof", None, None),
        ("an error", None, Some(&*busy)),
        ("no such code", Some(AnswerProof::code(&[7; 32], None)), None),
        ("the code of another answer", Some(genuine_proof.clone()), None),
        ("a signature", Some(AnswerProof::signed(&host.id, &signature, None)), None),
        ("it knows nothing", Some(AnswerProof::unknown(&unknown, &signature)), None),
    ] {
        let forge = async {
            let call = next(&mut calls).await;
            let id = invocation(&call).id;
            let answer = match error {
                Some(error) => InvocationResponse::failure(id, error),
                None => InvocationResponse::success(id, PONG.into()),
            };
            let mut headers = HeaderMap::new();
            if let Some(proof) = &proof {
                headers.insert(SESSION, proof.as_str());
            }
            let reply = call.reply.expect("an inbox");
            let answer = codec::encode_response(&answer);
            nats.publish_with_headers(reply, headers, answer).await.expect("published");
        };
        let (outcome, ()) = tokio::join!(own.call(PONGER, &host, b""), forge);
        let error = outcome.expect_err(case);
        assert!(matches!(error, CallError::OutcomeUnknown { .. }), "{case}: {error}");
        let expected = format!("is not that of host {}", host.id);
        assert!(error.to_string().contains(&expected), "{case}: {error}");
    }
    settled(&own.nats).await;
    settled(&nats).await;
    assert!(futures::FutureExt::now_or_never(calls.next()).is_none(), "a call was made twice");
    host.stop().await;
}

#[tokio::test]
async fn a_host_that_does_not_know_a_session_says_so_and_gets_the_call_once_more_with_a_token() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let own = Own::new(&server).await;
    // The host never heard of this one, as after it was started again.
    own.meet(&server, &host).await;
    let (_nats, mut calls) =
        overhear(&server, server.rpc(format_args!("{ECHO}.{}", host.id))).await;
    own.call(ECHO, &host, b"one").await.expect("the call works");
    let first = next(&mut calls).await;
    assert!(session_call(&first).is_some() && invocation(&first).encoded_claims.is_empty());
    let second = next(&mut calls).await;
    assert_eq!(header(&second, SESSION).and_then(CallProof::read), Some(CallProof::Token));
    assert!(!invocation(&second).encoded_claims.is_empty());
    assert_eq!(invocation(&second).id, invocation(&first).id);
    // Until the keys are known, calls have tokens at once.
    own.call(ECHO, &host, b"two").await.expect("the call works");
    assert!(session_call(&next(&mut calls).await).is_none());
    let _joined = own.join(&server, &host).await;
    own.meet(&server, &host).await;
    own.call(ECHO, &host, b"three").await.expect("the call works");
    assert!(session_call(&next(&mut calls).await).is_some());
    host.stop().await;
}

#[tokio::test]
async fn the_refusal_of_a_copied_call_with_a_token_is_not_signed() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let own = Own::new(&server).await;
    // The host never heard of this one, so the call is made once more with a token.
    own.meet(&server, &host).await;
    let subject = server.rpc(format_args!("{ECHO}.{}", host.id));
    let (nats, mut calls) = overhear(&server, subject.clone()).await;
    own.call(ECHO, &host, b"one").await.expect("the call works");
    assert!(session_call(&next(&mut calls).await).is_some());
    let sent = next(&mut calls).await;
    assert_eq!(header(&sent, SESSION).and_then(CallProof::read), Some(CallProof::Token));
    let copy = async_nats::Request::new()
        .headers(sent.headers.clone().expect("headers"))
        .payload(sent.payload.clone())
        .timeout(Some(PATIENCE));
    let reply = nats.send_request(subject, copy).await.expect("an answer");
    // Sent to the inbox of the call, it would be an answer that nothing proves.
    assert_eq!(header(&reply, SESSION), None, "{:?}", reply.headers);
    let error = codec::decode_response(reply.payload).expect("a response").error;
    assert!(error.as_ref().is_some_and(|error| error.contains("used before")), "{error:?}");
    host.stop().await;
}

#[tokio::test]
async fn large_payloads_are_proven_both_ways() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let own = Own::new(&server).await;
    let _joined = own.join(&server, &host).await;
    own.meet(&server, &host).await;
    let (_nats, mut calls) =
        overhear(&server, server.rpc(format_args!("{ECHO}.{}", host.id))).await;
    let answer = own.call(ECHO, &host, &vec![b'x'; 1_500_000]).await.expect("the call works");
    assert!(answer.len() > 1_500_000);
    let call = next(&mut calls).await;
    assert!(session_call(&call).is_some_and(|call| call.hash.is_some()));
    assert!(invocation(&call).msg.is_empty());
    host.stop().await;
}

#[tokio::test]
async fn nobody_speaks_in_the_name_of_a_host_and_its_earlier_starts_do_not_come_back() {
    let server = Server::shared().await;
    let watching = host(&server).start().await;
    let (key, seed) = SigningKey::generate(Kind::Server).expect("a key");
    let id = key.public_key().to_owned();
    let again = host(&server).set("host_seed", &seed);
    let (nats, mut said) = overhear(&server, server.rpc("hosts")).await;
    let first = again.clone().start().await;
    knows(&watching, &id).await;

    let goodbye = json!({"host": id, "life": 1, "roster": 9, "goodbye": true}).to_string();
    let (stranger, _) = SigningKey::generate(Kind::Server).expect("a key");
    let sealed =
        lattice_protocol::peers::sealed::seal(goodbye.as_bytes(), server.lattice(), &stranger);
    for forged in [Bytes::from(goodbye), sealed] {
        nats.publish(server.rpc("hosts"), forged).await.expect("published");
    }
    has_heard(&nats, &server, &watching).await;
    assert_eq!(is_silent(&watching, &id), Some(false), "nobody else says goodbye for it");

    first.stop().await;
    eventually("it has said goodbye", || async {
        is_silent(&watching, &id).is_none().then_some(())
    })
    .await;
    settled(&nats).await;
    let mut recorded = Vec::new();
    while let Some(Some(message)) = futures::FutureExt::now_or_never(said.next()) {
        let is_its = |said: Announcement| said.host == id && said.count > 0;
        if serde_json::from_slice(&message.payload).is_ok_and(is_its) {
            recorded.push(message.payload);
        }
    }
    let is_goodbye = |payload: &Bytes| {
        serde_json::from_slice::<Announcement>(payload).is_ok_and(|said| said.goodbye)
    };
    assert!(recorded.len() > 1 && recorded.last().is_some_and(is_goodbye));
    let replay = async || {
        for payload in &recorded {
            nats.publish(server.rpc("hosts"), payload.clone()).await.expect("published");
        }
        has_heard(&nats, &server, &watching).await;
    };
    replay().await;
    assert_eq!(is_silent(&watching, &id), None, "what it said does not bring it back");
    let second = again.start().await;
    knows(&watching, &id).await;
    replay().await;
    assert_eq!(is_silent(&watching, &id), Some(false), "nor does its goodbye end the next start");
    second.stop().await;
    watching.stop().await;
}

#[tokio::test]
async fn an_answer_to_a_hello_names_hosts_to_ask_and_no_other_subjects() {
    let server = Server::shared().await;
    let (nats, mut heard) = overhear(&server, server.rpc(">")).await;
    let host = host(&server).start().await;
    let hello = loop {
        let reply = next(&mut heard).await.reply;
        if let Some(reply) = reply.filter(|reply| reply.ends_with(".hello")) {
            break reply;
        }
    };
    let [unheard, speaker, named] = [(); 3].map(|()| nkeys::KeyPair::new_server().public_key());
    let shutdown = format!("{}.default.shutdown", nkeys::KeyPair::new_service().public_key());
    // Nothing is taken from one that is no host.
    for (speaker, known) in [("nobody", [&unheard, &shutdown]), (&*speaker, [&shutdown, &named])] {
        let known = known.map(|name| json!([name, 1, 1]));
        let answer = json!({"host": speaker, "life": 1, "known": known}).to_string();
        nats.publish(hello.clone(), answer.into()).await.expect("published");
    }
    let named = server.rpc(&named);
    let mut asked = Vec::new();
    while !asked.contains(&named) {
        let message = next(&mut heard).await;
        if message.payload == ROSTER {
            asked.push(message.subject.to_string());
        }
    }
    // All else that it asked at that time has come by then.
    has_heard(&nats, &server, &host).await;
    settled(&nats).await;
    while let Some(Some(message)) = futures::FutureExt::now_or_never(heard.next()) {
        if message.payload == ROSTER {
            asked.push(message.subject.to_string());
        }
    }
    assert!(asked.iter().all(|subject| *subject == named), "{asked:?}");
    host.stop().await;
}

/// A host of an earlier release: it signs nothing and answers the calls of `ponger`, also in its
/// queue group. Tells what was sent to it.
async fn earlier(server: &Server) -> (String, tokio::sync::mpsc::Receiver<Message>) {
    let (nats, id) = (client::nats(server).await, nkeys::KeyPair::new_server().public_key());
    let direct = nats.subscribe(server.rpc(format_args!("{PONGER}.{id}"))).await.unwrap();
    let group = nats.queue_subscribe(server.rpc(PONGER), server.rpc(PONGER)).await.unwrap();
    let questions = nats.subscribe(server.rpc(&id)).await.unwrap();
    settled(&nats).await;
    let offers = json!({"direct": [PONGER], "group": []});
    let word = json!({"host": id, "life": 3, "roster": 1, "offers": offers}).to_string();
    let (sender, received) = tokio::sync::mpsc::channel(16);
    let hosts = server.rpc("hosts");
    tokio::spawn(async move {
        let mut beat = tokio::time::interval(Duration::from_millis(500));
        let mut calls = futures::stream::select(direct, group);
        let mut questions = questions;
        loop {
            tokio::select! {
                _ = beat.tick() => nats.publish(hosts.clone(), word.clone().into()).await.unwrap(),
                Some(question) = questions.next() => {
                    nats.publish(question.reply.unwrap(), word.clone().into()).await.unwrap();
                }
                Some(call) = calls.next() => {
                    let answer = InvocationResponse::success(invocation(&call).id, PONG.into());
                    let answer = codec::encode_response(&answer);
                    nats.publish(call.reply.clone().unwrap(), answer).await.unwrap();
                    if sender.send(call).await.is_err() {
                        break;
                    }
                }
            }
        }
    });
    (id, received)
}

/// Lets the lattice know the call alias of `ponger`, which runs nowhere afterwards.
async fn know_ponger(server: &Server) {
    let host = host(server).start().await;
    start(server, &host, &example("ponger"), 1).await;
    host.stop().await;
}

#[tokio::test]
async fn a_host_of_an_earlier_release_is_called_and_answers_as_before() {
    let server = Server::shared().await;
    know_ponger(&server).await;
    let first = host(&server).start().await;
    start(&server, &first, &example("pinger"), 1).await;
    let (id, mut calls) = earlier(&server).await;
    knows(&first, &id).await;
    assert_eq!(get(&server, PINGER, "/").await.unwrap(), json!({"value": 53}));
    let call = calls.recv().await.expect("a call");
    assert!(!invocation(&call).encoded_claims.is_empty());
    assert_eq!((header(&call, SESSION), header(&call, NONCE)), (None, None));
    drop(calls);
    first.stop().await;
}

#[tokio::test]
async fn a_host_that_requires_signed_answers_believes_nobody_else() {
    let server = Server::shared().await;
    know_ponger(&server).await;
    let first = host(&server).set("require_signed_answers", "true").start().await;
    start(&server, &first, &example("pinger"), 1).await;
    let (id, mut calls) = earlier(&server).await;
    let error = get(&server, PINGER, "/").await.map_err(|error| error.to_string());
    let told = format!("{error:?}");
    assert!(told.contains("require_signed_answers"), "{told}");
    let call = calls.recv().await.expect("a call");
    assert_eq!(header(&call, SESSION).and_then(CallProof::read), Some(CallProof::Token));
    let second = host(&server).start().await;
    start(&server, &second, &example("ponger"), 1).await;
    knows(&first, &second.id).await;
    assert_eq!(is_silent(&first, &id), None, "it is not seen");
    eventually("ponger is called on the host that signs", || async {
        (get(&server, PINGER, "/").await == Ok(json!({"value": 53}))).then_some(())
    })
    .await;
    first.stop().await;
    second.stop().await;
}

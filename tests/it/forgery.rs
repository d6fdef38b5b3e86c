//! Invocations nobody should believe: each is refused for its own reason, and the actor never runs.

use futures::{StreamExt, stream};
use lattice_protocol::{
    control::probe::health::{Health, TokenHealth},
    identity::{claims::now, keys::Kind, signature::SigningKey, token},
    rpc::{
        antiforgery::Signer,
        codec,
        invocation::{Entity, Invocation},
    },
};
use serde_json::{Value, json};

use crate::harness::{
    CLUSTER, CLUSTER_SEED, ECHO, PONGER, Server, TestHost,
    client::{Caller, http_request, start},
    example, host,
};

const HANDLE: &str = "HttpServer.HandleRequest";

/// A token with claims of any kind, signed with the tests' cluster key.
fn token_with(invocation: &Invocation, change: impl FnOnce(&mut Value)) -> String {
    let signed: Vec<&str> = invocation.encoded_claims.split('.').collect();
    let claims =
        base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, signed[1])
            .unwrap();
    let mut claims: Value = serde_json::from_slice(&claims).unwrap();
    change(&mut claims);
    let key = SigningKey::from_seed(CLUSTER_SEED).unwrap();
    assert_eq!(key.kind(), Kind::Cluster);
    token::encode_json(&serde_json::to_vec(&claims).unwrap(), &key)
}

#[tokio::test]
async fn forged_invocations_are_refused_each_for_its_own_reason() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    start(&server, &host, &example("ponger"), 1).await;
    let caller = Caller::new(&server).await;
    let fresh = || caller.invocation(ECHO, HANDLE, http_request("GET", "/", b""));
    assert_eq!(caller.send(ECHO, &fresh()).await.error, None);

    let mut wrong_signature = fresh();
    let half = wrong_signature.encoded_claims.rfind('.').unwrap() + 10;
    let old = wrong_signature.encoded_claims.as_bytes()[half];
    wrong_signature.encoded_claims.replace_range(half..=half, if old == b'A' { "B" } else { "A" });

    let (_, other_seed) = SigningKey::generate(Kind::Cluster).unwrap();
    let mut wrong_issuer = fresh();
    wrong_issuer.encoded_claims = Signer::new(&other_seed).unwrap().sign(
        &wrong_issuer.origin,
        &wrong_issuer.target,
        &wrong_issuer.operation,
        &wrong_issuer.msg,
        &wrong_issuer.id,
        now(),
    );

    let mut expired = fresh();
    expired.encoded_claims = token_with(&expired, |claims| claims["exp"] = json!(now() - 60));
    let mut early = fresh();
    early.encoded_claims = token_with(&early, |claims| claims["nbf"] = json!(now() + 600));

    let mut wrong_hash = fresh();
    wrong_hash.msg = http_request("DELETE", "/everything", b"").into();
    wrong_hash.content_length = wrong_hash.msg.len() as u64;

    let mut other_origin = fresh();
    other_origin.origin = Entity::new(PONGER, "", "");
    let mut other_operation = fresh();
    other_operation.operation = "HttpServer.DropTables".into();
    let mut bare = fresh();
    bare.encoded_claims =
        token_with(&bare, |claims| drop(claims.as_object_mut().unwrap().remove("wascap")));
    let mut nonsense = fresh();
    nonsense.encoded_claims = "not.a.token".into();
    let mut bad_host = fresh();
    bad_host.host_id = "x".into();

    for (name, invocation, reason) in [
        ("signature", wrong_signature, "Invocation claims signature invalid"),
        (
            "issuer",
            wrong_issuer,
            "Issuer of this invocation is not among the list of valid issuers",
        ),
        ("expired", expired, "Invocation claims token expired"),
        ("early", early, "Attempt to use invocation before claims token allows"),
        ("hash", wrong_hash, "Invocation hash does not match signed claims hash"),
        ("origin", other_origin, "Invocation claims and invocation origin URL do not match"),
        ("operation", other_operation, "Invocation claims and invocation target URL do not match"),
        ("no wascap", bare, "No wascap metadata found on claims"),
        ("nonsense", nonsense, ""),
        ("host id", bad_host, "Invalid host ID on invocation: 'x'"),
    ] {
        let response = caller.send(ECHO, &invocation).await;
        let error = response.error.unwrap_or_else(|| panic!("{name} was believed"));
        assert!(error.contains(reason), "{name}: {error}");
        assert!(response.msg.is_empty(), "{name}");
    }

    // A call meant for one actor, sent to another.
    let replayed = fresh();
    let error = caller.send(PONGER, &replayed).await.error.expect("a replay is refused");
    assert!(error.contains(ECHO) && error.contains(PONGER), "{error}");
    assert!(caller.signer.issuer().as_str() == CLUSTER);
    host.stop().await;
}

#[tokio::test]
async fn what_is_no_invocation_is_answered_and_harms_nobody() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let caller = Caller::new(&server).await;
    for garbage in
        [&b""[..], b"\x80", b"\xc1\xc1", b"{\"json\": true}", &[0xdd, 0xff, 0xff, 0xff, 0xff]]
    {
        let reply = caller.nats.request(server.rpc(ECHO), garbage.to_vec().into()).await.unwrap();
        let response = codec::decode_response(reply.payload).unwrap();
        assert!(response.error.unwrap().contains("Failed to deserialize invocation"));
    }
    assert!(caller.call(ECHO, HANDLE, http_request("GET", "/", b"")).await.is_ok());
    host.stop().await;
}

#[tokio::test]
async fn a_large_payload_of_a_stranger_is_not_fetched() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let caller = Caller::new(&server).await;
    // Correctly signed, but the object it announces does not exist.
    let mut chunked = caller.invocation(ECHO, HANDLE, "");
    chunked.content_length = 5_000_000;
    let error = caller.send(ECHO, &chunked).await.error.unwrap();
    assert!(error.contains("object store"), "{error}");
    chunked.encoded_claims = "a.b.c".into();
    let error = caller.send(ECHO, &chunked).await.error.unwrap();
    assert!(!error.contains("object store"), "{error}");
    host.stop().await;
}

/// A call of the echo actor.
fn call(caller: &Caller) -> Invocation {
    caller.invocation(ECHO, HANDLE, http_request("GET", "/", b""))
}

/// A call whose token says that it was signed at a time.
fn signed_at(caller: &Caller, issued_at: u64) -> Invocation {
    let mut call = call(caller);
    call.encoded_claims = caller.signer.sign(
        &call.origin,
        &call.target,
        &call.operation,
        &call.msg,
        &call.id,
        issued_at,
    );
    call
}

/// The tokens that a host says it refused.
async fn refused_tokens(server: &Server, caller: &Caller, host: &TestHost) -> TokenHealth {
    let subject = server.ctl(format_args!("probe.{}.health", host.id));
    let answer = caller.nats.request(subject, "{}".into()).await.expect("an answer");
    let health: Health = serde_json::from_slice(&answer.payload).expect("its health");
    health.tokens.expect("the host tells of tokens")
}

#[tokio::test]
async fn a_recorded_call_is_made_once() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let caller = Caller::new(&server).await;
    let recorded = call(&caller);
    assert_eq!(caller.send(ECHO, &recorded).await.error, None);
    let error = caller.send(ECHO, &recorded).await.error.expect("it was made before");
    assert!(error.contains("used before") && error.contains("sign each call anew"), "{error}");

    // Another host id or trace does not make it another call, nor does a header beside it.
    let mut dressed = recorded.clone();
    dressed.host_id = host.id.clone();
    dressed
        .trace_context
        .push("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let error = caller.send(ECHO, &dressed).await.error.expect("it was made before");
    assert!(error.contains("used before"), "{error}");

    // The same bytes 500 times at once.
    let recorded = call(&caller);
    let answers = stream::iter(0..500).map(|_| caller.send(ECHO, &recorded));
    let answers: Vec<_> = answers.buffer_unordered(100).collect().await;
    let made = answers.iter().filter(|answer| answer.error.is_none()).count();
    assert_eq!(made, 1);
    assert_eq!(refused_tokens(&server, &caller, &host).await.repeated, 2 + 499);
    host.stop().await;
}

#[tokio::test]
async fn a_changed_copy_does_not_use_up_the_token_of_the_real_call() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let caller = Caller::new(&server).await;
    let real = call(&caller);
    let mut changed = real.clone();
    changed.msg = http_request("GET", "/other", b"").into();
    let error = caller.send(ECHO, &changed).await.error.expect("the hash does not match");
    assert!(error.contains("hash does not match"), "{error}");
    assert_eq!(caller.send(ECHO, &real).await.error, None);
    host.stop().await;
}

#[tokio::test]
async fn a_thousand_different_calls_pass() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 10).await;
    let caller = Caller::new(&server).await;
    let answers = stream::iter(0..1000).map(|_| async { caller.send(ECHO, &call(&caller)).await });
    let answers: Vec<_> = answers.buffer_unordered(16).collect().await;
    let errors: Vec<_> = answers.into_iter().filter_map(|answer| answer.error).collect();
    assert_eq!((errors.first(), errors.len()), (None, 0));
    assert_eq!(refused_tokens(&server, &caller, &host).await.repeated, 0);
    host.stop().await;
}

#[tokio::test]
async fn tokens_of_another_time_are_refused_with_their_age_and_counted() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let caller = Caller::new(&server).await;
    for (issued_at, reasons) in [
        (now() - 290, ["this host started", "token_window_secs"]),
        (now() - 400, ["those of the last 300 s", "token_window_secs"]),
        (now() - 400 * 86_400, ["signed 345", "clocks"]),
        (0, ["those of the last 300 s", "clocks"]),
        (now() + 100, ["in the future", "token_window_secs"]),
    ] {
        let answer = caller.send(ECHO, &signed_at(&caller, issued_at)).await;
        let error = answer.error.expect("it is of another time");
        assert!(reasons.iter().all(|reason| error.contains(reason)), "{issued_at}: {error}");
        assert!(answer.msg.is_empty());
    }
    // Clocks differ a little.
    for issued_at in [now() - 10, now() + 10] {
        assert_eq!(caller.send(ECHO, &signed_at(&caller, issued_at)).await.error, None);
    }
    let refused = refused_tokens(&server, &caller, &host).await;
    assert_eq!((refused.untimely, refused.repeated, refused.window_secs), (5, 0, 300));
    assert!((90..=100).contains(&refused.last_skew_secs), "{refused:?}");
    host.stop().await;
}

#[tokio::test]
async fn a_host_without_a_window_takes_tokens_of_any_time() {
    let server = Server::shared().await;
    let host = host(&server).set("token_window_secs", "0").start().await;
    start(&server, &host, &example("echo"), 1).await;
    let caller = Caller::new(&server).await;
    for issued_at in [0, now() - 400 * 86_400, now() + 3600] {
        let recorded = signed_at(&caller, issued_at);
        for _ in 0..2 {
            assert_eq!(caller.send(ECHO, &recorded).await.error, None);
        }
    }
    assert_eq!(refused_tokens(&server, &caller, &host).await, TokenHealth::default());
    host.stop().await;
}

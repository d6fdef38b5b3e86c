//! Invocations nobody should believe: each is refused for its own reason, and the actor never runs.

use lattice_protocol::{
    identity::{claims::now, keys::Kind, signature::SigningKey, token},
    rpc::{
        antiforgery::Signer,
        codec,
        invocation::{Entity, Invocation},
    },
};
use serde_json::{Value, json};

use crate::harness::{
    CLUSTER, CLUSTER_SEED, ECHO, PONGER, Server,
    client::{Caller, http_request, start},
    example, host,
};

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
    let fresh =
        || caller.invocation(ECHO, "HttpServer.HandleRequest", http_request("GET", "/", b""));
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
    assert!(
        caller.call(ECHO, "HttpServer.HandleRequest", http_request("GET", "/", b"")).await.is_ok()
    );
    host.stop().await;
}

#[tokio::test]
async fn a_large_payload_of_a_stranger_is_not_fetched() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let caller = Caller::new(&server).await;
    // Correctly signed, but the object it announces does not exist.
    let mut chunked = caller.invocation(ECHO, "HttpServer.HandleRequest", "");
    chunked.content_length = 5_000_000;
    let error = caller.send(ECHO, &chunked).await.error.unwrap();
    assert!(error.contains("object store"), "{error}");
    chunked.encoded_claims = "a.b.c".into();
    let error = caller.send(ECHO, &chunked).await.error.unwrap();
    assert!(!error.contains("object store"), "{error}");
    host.stop().await;
}

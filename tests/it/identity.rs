//! Checks of identity: accounts that sign, links that let providers in, requests to a policy
//! service, call aliases, and hosts that have one key.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use lattice_engine::{peers::Presence, providers::builtin::keyvalue};
use lattice_protocol::{
    identity::claims::now,
    rpc::invocation::{Entity, Invocation, TraceContext},
    store::keys,
};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;
use wascap::prelude::KeyPair;

use crate::commands::User;
use crate::harness::{
    ECHO, Events, PROVIDER, Server,
    client::{self, Caller, answering, ctl_2024, http_request, link, start},
    eventually, example, external,
    guests::{Guest, Signing, sign, sign_as_account, wapc},
    host, text,
};

const HTTP: &str = "wasmcloud:httpserver";
const ALIAS: &str = "acme/ponger";

/// A guest that answers with a text.
fn answering_guest(answer: &str) -> String {
    let length = answer.len();
    wapc(&format!("(call $response (i32.const 64) (i32.const {length})) (i32.const 1)"))
        .replace("(func (export", &format!("(data (i32.const 64) \"{answer}\")\n (func (export"))
}

/// A guest that calls an operation `x` of a namespace, and answers with what it answered.
fn relay(binding: &str, namespace: &str) -> String {
    let body = format!(
        r#"(if (call $host_call (i32.const 50) (i32.const {}) (i32.const 100) (i32.const {}) (i32.const 300) (i32.const 1)
            (i32.const 1) (i32.const 0))
        (then (call $host_response (i32.const 400)) (call $response (i32.const 400) (call $host_response_len))
            (return (i32.const 1))))
        (call $host_error (i32.const 400)) (call $error (i32.const 400) (call $host_error_len)) (i32.const 0)"#,
        binding.len(),
        namespace.len()
    );
    let data = format!(
        "(data (i32.const 50) \"{binding}\") (data (i32.const 100) \"{namespace}\") (data (i32.const 300) \"x\")"
    );
    wapc(&body).replace("(func (export", &format!("{data}\n(func (export"))
}

fn revision(revision: i32) -> Signing {
    Signing { revision: Some(revision), ..Signing::default() }
}

fn aliased() -> Signing {
    Signing { call_alias: Some(ALIAS.into()), ..Signing::default() }
}

fn same_key(guest: &Guest) -> KeyPair {
    KeyPair::from_seed(&guest.key.seed().expect("a seed")).expect("its key")
}

/// Returns the findings of `host doctor`, good or bad.
async fn doctor(user: &User) -> String {
    let output = user.run(&["doctor", "-o", "json"]).await;
    String::from_utf8(output.stdout).expect("text")
}

/// Asks for a start, and waits for its refusal.
async fn start_refused(server: &Server, host: &str, reference: &str) -> String {
    let mut events = Events::all(server).await;
    ctl_2024(server).await.scale_actor(host, reference, 1, None).await.expect("an ack");
    text(&events.next("actor_start_failed").await, "/data/error").to_owned()
}

#[tokio::test]
async fn another_account_can_neither_update_nor_start_what_runs() {
    let server = Server::shared().await;
    let (first, second) = (host(&server).start().await, host(&server).start().await);
    let good = sign(&answering_guest("GOOD"), &revision(1));
    start(&server, &first, &good.reference, 1).await;
    eventually("the second host hears of it", || async {
        second.host().peers().presence(&good.id).eq(&Presence::Runs).then_some(())
    })
    .await;
    let evil = sign_as_account(
        &answering_guest("EVIL"),
        &revision(9),
        same_key(&good),
        &KeyPair::new_account(),
    );
    assert_ne!(evil.issuer, good.issuer);
    let ctl = ctl_2024(&server).await;
    let ack = ctl.update_actor(&first.id, &good.id, &evil.reference, None).await.unwrap();
    let started = start_refused(&server, &first.id, &evil.reference).await;
    let elsewhere = start_refused(&server, &second.id, &evil.reference).await;
    assert!(!ack.accepted);
    for told in [&ack.error, &started, &elsewhere] {
        for part in
            [&good.id, &good.issuer, &evil.issuer, "--allow-issuer-change", "allowed_actor_issuers"]
        {
            assert!(told.contains(part), "{told}");
        }
    }
    // An annotation that anybody can write is no permission.
    let pretended = json!({"actor_id": good.id, "new_actor_ref": evil.reference,
        "annotations": {"lattice.host/allow-issuer-change": "true"}});
    let nats = client::nats(&server).await;
    let subject = server.ctl(format_args!("cmd.{}.upd", first.id));
    let reply = nats.request(subject, pretended.to_string().into()).await.unwrap();
    assert!(
        String::from_utf8_lossy(&reply.payload).contains("cannot be read"),
        "{:?}",
        reply.payload
    );
    let caller = Caller::new(&server).await;
    assert_eq!(caller.call(&good.id, "Any.Thing", "").await.unwrap(), "GOOD");
    // A stop forgets nothing.
    start(&server, &first, &good.reference, 0).await;
    assert!(start_refused(&server, &first.id, &evil.reference).await.contains(&good.issuer));
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn a_change_of_account_that_is_meant_is_allowed_by_settings_and_by_who_has_the_cluster_seed()
{
    let server = Server::shared().await;
    let (one, two) = (KeyPair::new_account(), KeyPair::new_account());
    let old = sign_as_account(&answering_guest("OLD"), &revision(1), KeyPair::new_module(), &one);
    let new = sign_as_account(&answering_guest("NEW"), &revision(2), same_key(&old), &two);
    let caller = Caller::new(&server).await;

    let listed = format!("{},{}", one.public_key(), two.public_key());
    let listing = host(&server).set("allowed_actor_issuers", &listed).start().await;
    start(&server, &listing, &old.reference, 1).await;
    let ack = ctl_2024(&server)
        .await
        .update_actor(&listing.id, &old.id, &new.reference, None)
        .await
        .unwrap();
    assert!(ack.accepted, "{}", ack.error);
    let refused = start_refused(&server, &listing.id, &example("echo")).await;
    assert!(
        refused.contains("allowed_actor_issuers") && refused.contains(&one.public_key()),
        "{refused}"
    );
    listing.stop().await;

    let plain = host(&server).start().await;
    start(&server, &plain, &old.reference, 1).await;
    let user = User::of(&server);
    let refused = user.fails(1, &["update", "actor", &old.id, &new.reference]).await;
    assert!(refused.contains("--allow-issuer-change"), "{refused}");
    user.prints(&["update", "actor", &old.id, &new.reference, "--allow-issuer-change"]).await;
    assert_eq!(caller.call(&old.id, "Any.Thing", "").await.unwrap(), "NEW");
    let inventory = ctl_2024(&server).await.get_host_inventory(&plain.id).await.unwrap();
    let annotations = inventory.actors[0].instances[0].annotations.clone().unwrap_or_default();
    assert!(annotations.is_empty(), "{annotations:?}");
    plain.stop().await;
}

#[tokio::test]
async fn a_host_starts_providers_only_of_the_accounts_it_allows_and_programs_only_if_it_may() {
    let server = Server::shared().await;
    let dir = tempfile::TempDir::new().unwrap();
    let (program, path) = (dir.path().join("program"), dir.path().join("kvmemory.par.gz"));
    std::fs::write(&program, "#!/bin/sh\nread line\n").unwrap();
    external::pack_program("provider_kvmemory", &program, &path);
    let reference = format!("file://{}", path.display());
    let ctl = ctl_2024(&server).await;
    let mut events = Events::all(&server).await;

    let account = KeyPair::new_account().public_key();
    let picky = host(&server).set("allowed_provider_issuers", &account).start().await;
    assert!(ctl.start_provider(&picky.id, &reference, None, None, None).await.unwrap().accepted);
    let failed = events.next("provider_start_failed").await;
    assert!(text(&failed, "/data/error").contains("allowed_provider_issuers"), "{failed}");
    picky.stop().await;

    let closed = host(&server).set("allow_external_providers", "false").start().await;
    let ack = ctl.start_provider(&closed.id, &reference, None, None, None).await.unwrap();
    assert!(!ack.accepted && ack.error.contains("allow_external_providers"), "{}", ack.error);
    let bids =
        ctl.perform_provider_auction(&reference, "default", Default::default()).await.unwrap();
    assert!(bids.is_empty(), "{bids:?}");
    client::start_provider(&server, &closed, "builtin://keyvalue").await;
    closed.stop().await;
}

/// A call of an actor by a provider, signed with the cluster's key.
fn as_provider(caller: &Caller, actor: &str, origin: Entity) -> Invocation {
    let (target, id) = (Entity::new(actor, "", ""), uuid::Uuid::new_v4().to_string());
    let (operation, payload) =
        ("HttpServer.HandleRequest", Bytes::from(http_request("GET", "/", b"")));
    Invocation {
        encoded_claims: caller.signer.sign(&origin, &target, operation, &payload, &id, now()),
        content_length: payload.len() as u64,
        origin,
        target,
        operation: operation.to_owned(),
        msg: payload,
        id,
        host_id: "NAWASHVALZUZPZNXPIF6HGQ4OMJYLXQ4B2WZZ5AMBCXKWEQPYXDOIWMA".into(),
        trace_context: TraceContext::default(),
    }
}

#[tokio::test]
async fn a_provider_reaches_an_actor_only_over_a_link_of_the_actor_to_it() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let caller = Caller::new(&server).await;
    let other = keyvalue::SPEC.known.public_key;
    let call = async |key: &str, link_name: &str, contract: &str| {
        let invocation = as_provider(&caller, ECHO, Entity::new(key, link_name, contract));
        caller.send(ECHO, &invocation).await.error
    };
    let unlinked = call(PROVIDER, "default", HTTP).await.unwrap();
    assert!(
        unlinked.contains("missing link definition") && unlinked.contains(PROVIDER),
        "{unlinked}"
    );
    link(&server, ECHO, PROVIDER, HTTP, &[]).await;
    assert_eq!(call(PROVIDER, "default", HTTP).await, None);
    for (key, link_name, contract, reason) in [
        (other, "default", HTTP, "missing link definition"),
        (PROVIDER, "other", HTTP, "missing link definition"),
        (PROVIDER, "default", "wasmcloud:keyvalue", "missing capability claims"),
        // As one that names nothing, like an actor.
        (PROVIDER, "", "", "missing capability claims"),
    ] {
        let refused = call(key, link_name, contract)
            .await
            .unwrap_or_else(|| panic!("{key} {link_name} {contract}"));
        assert!(refused.contains(reason), "{refused}");
    }
    // Tools and other actors name no contract.
    assert_eq!(call("__WASH__", "", "").await, None);
    host.stop().await;
}

#[tokio::test]
async fn a_link_is_not_reached_by_a_contract_and_a_link_name_that_run_together_alike() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    client::start_provider(&server, &host, "builtin://keyvalue").await;
    let signing = Signing { caps: vec!["wasmcloud:k".into()], ..Signing::default() };
    let guest = sign(&relay("eyvaluedefault", "wasmcloud:k"), &signing);
    start(&server, &host, &guest.reference, 1).await;
    link(&server, &guest.id, keyvalue::SPEC.known.public_key, "wasmcloud:keyvalue", &[]).await;
    let refused = Caller::new(&server).await.call(&guest.id, "Any.Thing", "").await.unwrap_err();
    let missing = format!("missing link definition for wasmcloud:k on {}", server.lattice());
    assert!(refused.contains(&missing), "{refused}");
    let ctl = ctl_2024(&server).await;
    let ack = ctl
        .advertise_link(
            &guest.id,
            keyvalue::SPEC.known.public_key,
            "wasmcloud:k",
            "eyvaluedefault",
            Default::default(),
        )
        .await
        .unwrap();
    assert!(!ack.accepted && ack.error.contains("same id"), "{}", ack.error);
    assert!(ctl.remove_link(&guest.id, "wasmcloud:k", "eyvaluedefault").await.unwrap().accepted);
    assert_eq!(ctl.query_links().await.unwrap().len(), 1, "the other link is still there");
    host.stop().await;
}

#[tokio::test]
async fn capabilities_written_into_the_metadata_allow_an_actor_nothing() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    client::start_provider(&server, &host, "builtin://keyvalue").await;
    let guest = sign(&relay("default", "wasmcloud:keyvalue"), &Signing::default());
    start(&server, &host, &guest.reference, 1).await;
    link(&server, &guest.id, keyvalue::SPEC.known.public_key, "wasmcloud:keyvalue", &[]).await;
    let forged = json!({"sub": guest.id, "iss": guest.issuer, "caps": "wasmcloud:keyvalue", "tags": "", "name": "x",
        "rev": "9", "version": "", "call_alias": ""});
    client::bucket(&server)
        .await
        .put(keys::claims(&guest.id), forged.to_string().into())
        .await
        .unwrap();
    eventually("the forged claims are there", || async {
        host.host()
            .links()
            .table()
            .claims(&guest.id)
            .filter(|claims| !claims.capabilities.is_empty())
            .map(drop)
    })
    .await;
    let refused = Caller::new(&server).await.call(&guest.id, "Any.Thing", "").await.unwrap_err();
    assert!(refused.contains("missing capability claim for wasmcloud:keyvalue"), "{refused}");
    host.stop().await;
}

#[tokio::test]
async fn calls_that_lead_nowhere_say_whether_the_alias_the_claim_or_the_link_is_missing() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let signed = |caps: &[&str]| Signing {
        caps: caps.iter().map(|cap| (*cap).into()).collect(),
        ..Signing::default()
    };
    let caller = Caller::new(&server).await;
    let nobody = format!("missing link definition for acme/nobody on {}", server.lattice());
    for (namespace, caps, first, then) in [
        ("acme/nobody", &[][..], &*nobody, "the call alias acme/nobody"),
        (
            "wasmcloud:keyvalue",
            &[],
            "missing capability claim for wasmcloud:keyvalue",
            "link it to a provider then",
        ),
        (
            "wasmcloud:keyvalue",
            &["wasmcloud:keyvalue"],
            "missing link definition for wasmcloud:keyvalue",
            "link it",
        ),
    ] {
        let guest = sign(&relay("default", namespace), &signed(caps));
        start(&server, &host, &guest.reference, 1).await;
        let refused = caller.call(&guest.id, "Any.Thing", "").await.unwrap_err();
        assert!(refused.starts_with(&format!("Invocation not authorized: {first}")), "{refused}");
        assert!(refused.contains(then), "{refused}");
    }
    host.stop().await;
}

/// A policy service that permits what `permits` says, and keeps what it was asked.
async fn policy(
    server: &Server,
    permits: impl Fn(&Value) -> bool + Send + 'static,
) -> (Arc<Mutex<Vec<Value>>>, AbortOnDropHandle<()>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&asked);
    let subject = server.own("policy.ask");
    let service = answering(server, &subject, move |_, request| {
        let request: Value = serde_json::from_slice(request).expect("a request is JSON");
        keep.lock().unwrap().push(request.clone());
        Some(json!({"requestId": request["requestId"], "permitted": permits(&request)}))
    });
    (asked, service.await)
}

#[tokio::test]
async fn a_policy_service_is_told_verified_claims_and_not_what_somebody_wrote_into_the_metadata() {
    let server = Server::shared().await;
    let (asked, _service) = policy(&server, |_| true).await;
    let host = host(&server).set("policy_topic", &server.own("policy.ask")).start().await;
    let callee = sign(&answering_guest("pong"), &aliased());
    let signing = Signing { caps: vec!["acme:own".into()], ..Signing::default() };
    let relaying = sign(&relay("", ALIAS), &signing);
    for guest in [&callee, &relaying] {
        start(&server, &host, &guest.reference, 1).await;
    }
    let bucket = client::bucket(&server).await;
    for guest in [&callee, &relaying] {
        let forged = json!({"sub": guest.id, "iss": "AFORGED", "caps": "wasmcloud:admin", "tags": "", "name": "x",
            "rev": "9", "version": "", "call_alias": if guest.id == callee.id { ALIAS } else { "" }});
        bucket.put(keys::claims(&guest.id), forged.to_string().into()).await.unwrap();
    }
    eventually("the forged claims are there", || async {
        let table = host.host().links().table();
        table.claims(&relaying.id).filter(|claims| claims.issuer == "AFORGED").map(drop)
    })
    .await;
    let caller = Caller::new(&server).await;
    assert_eq!(caller.call(&relaying.id, "Any.Thing", "").await.unwrap(), "pong");
    let asked = asked.lock().unwrap().clone();
    let calls: Vec<&Value> =
        asked.iter().filter(|request| request["action"] == "perform_invocation").collect();
    assert!(!asked.iter().any(|request| request.to_string().contains("AFORGED")), "{asked:?}");
    assert!(
        !asked.iter().any(|request| request.to_string().contains("wasmcloud:admin")),
        "{asked:?}"
    );
    let [arrived, onward] = calls.as_slice() else { panic!("{calls:?}") };
    // Over NATS anybody may have called who has the cluster's key.
    assert_eq!(arrived["target"]["issuer"], relaying.issuer);
    assert_eq!(onward["source"]["issuer"], relaying.issuer);
    assert_eq!(onward["source"]["capabilities"], json!(["acme:own"]));
    assert_eq!(onward["target"]["issuer"], callee.issuer);
    host.stop().await;
}

#[tokio::test]
async fn a_policy_service_is_told_that_the_claims_of_a_caller_elsewhere_are_unverified() {
    let server = Server::shared().await;
    let (asked, _service) = policy(&server, |_| true).await;
    let there = host(&server).start().await;
    let here = host(&server).set("policy_topic", &server.own("policy.ask")).start().await;
    let callee = sign(&answering_guest("pong"), &aliased());
    let relaying = sign(&relay("", ALIAS), &Signing::default());
    start(&server, &here, &callee.reference, 1).await;
    start(&server, &there, &relaying.reference, 1).await;
    assert_eq!(
        Caller::new(&server).await.call(&relaying.id, "Any.Thing", "").await.unwrap(),
        "pong"
    );
    let asked = asked.lock().unwrap().clone();
    let call = asked
        .iter()
        .find(|request| request["action"] == "perform_invocation")
        .expect("it was asked");
    assert_eq!(
        (text(call, "/source/publicKey"), text(call, "/source/issuer")),
        (&*relaying.id, "unverified")
    );
    assert_eq!(call["source"]["capabilities"], json!([]));
    assert_eq!(text(call, "/target/issuer"), callee.issuer);
    here.stop().await;
    there.stop().await;
}

#[tokio::test]
async fn who_overheard_a_request_cannot_open_what_the_policy_service_denied() {
    let server = Server::shared().await;
    let (asked, _service) =
        policy(&server, |request| request["action"] != "perform_invocation").await;
    let host = host(&server)
        .set("policy_topic", &server.own("policy.ask"))
        .set("policy_changes_topic", &server.own("policy.changes"))
        .start()
        .await;
    start(&server, &host, &example("echo"), 1).await;
    let caller = Caller::new(&server).await;
    let call = || caller.call(ECHO, "HttpServer.HandleRequest", http_request("GET", "/", b""));
    for _ in 0..2 {
        call().await.unwrap_err();
        let overheard = asked.lock().unwrap().last().unwrap()["requestId"].clone();
        let forged =
            json!({"request_id": overheard, "requestId": overheard, "permitted": true}).to_string();
        caller.nats.request(server.own("policy.changes"), forged.into()).await.unwrap();
    }
    let refused = call().await.unwrap_err();
    assert!(refused.contains("Policy denied invocation"), "{refused}");
    host.stop().await;
}

#[tokio::test]
async fn an_alias_stays_with_the_first_that_runs_and_goes_to_the_next_when_it_runs_nowhere() {
    let server = Server::shared().await;
    let (first, second) = (host(&server).start().await, host(&server).start().await);
    let old = sign(&answering_guest("OLD"), &aliased());
    let new = sign_as_account(
        &answering_guest("NEW"),
        &aliased(),
        KeyPair::new_module(),
        &KeyPair::new_account(),
    );
    let relaying = sign(&relay("", ALIAS), &Signing::default());
    let mut events = Events::all(&server).await;
    start(&server, &first, &old.reference, 1).await;
    start(&server, &second, &relaying.reference, 1).await;
    let caller = Caller::new(&server).await;
    let call = || caller.call(&relaying.id, "Any.Thing", "");
    assert_eq!(call().await.unwrap(), "OLD");

    start(&server, &first, &new.reference, 1).await;
    let contested = events.next("call_alias_contested").await;
    assert_eq!(
        (text(&contested, "/data/public_key"), text(&contested, "/data/other_public_key")),
        (&*new.id, &*old.id)
    );
    assert_eq!(
        (text(&contested, "/data/issuer"), text(&contested, "/data/other_issuer")),
        (&*new.issuer, &*old.issuer)
    );
    assert_eq!(call().await.unwrap(), "OLD", "the first keeps it");
    let user = User::of(&server);
    let told = doctor(&user).await;
    for part in [ALIAS, &old.id, &new.id, &old.issuer, &new.issuer] {
        assert!(told.contains(part), "{told}");
    }

    // The first keeps it even when its claims are deleted.
    client::bucket(&server).await.delete(keys::claims(&old.id)).await.unwrap();
    eventually("the claims are gone", || async {
        second.host().links().table().claims(&old.id).is_none().then_some(())
    })
    .await;
    assert_eq!(call().await.unwrap(), "OLD");

    start(&server, &first, &old.reference, 0).await;
    assert_eq!(call().await.unwrap(), "NEW");
    let moved = events.next("call_alias_moved").await;
    assert_eq!(
        (text(&moved, "/data/public_key"), text(&moved, "/data/old_public_key")),
        (&*new.id, &*old.id)
    );
    start(&server, &first, &old.reference, 1).await;
    assert_eq!(call().await.unwrap(), "NEW", "it runs, so it keeps it");
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn what_runs_nowhere_can_be_forgotten_and_what_runs_cannot() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let (old, new) =
        (sign(&answering_guest("OLD"), &aliased()), sign(&answering_guest("NEW"), &aliased()));
    start(&server, &host, &old.reference, 1).await;
    start(&server, &host, &old.reference, 0).await;
    start(&server, &host, &new.reference, 1).await;
    let user = User::of(&server);
    let refused = user.fails(1, &["claims", "forget", &new.id]).await;
    assert!(refused.contains("stop it first"), "{refused}");
    // Of two of one name that is meant which is gone.
    let told = user.json(&["claims", "forget", ALIAS]).await;
    assert_eq!(told["public_key"], old.id.as_str());
    eventually("the host has heard of it", || async {
        let table = host.host().links().table();
        let has = |actor: &Guest| {
            table.claims(&actor.id).is_some() && table.public_key_of(&actor.reference).is_some()
        };
        let forgot = table.claims(&old.id).is_none() && table.reference_to(&old.id).is_none();
        (forgot && has(&new)).then_some(())
    })
    .await;
    assert!(user.fails(1, &["claims", "forget", &old.id]).await.contains("neither"));
    host.stop().await;
}

#[tokio::test]
async fn two_hosts_with_one_key_both_notice_and_both_are_shown() {
    let server = Server::shared().await;
    let seed = nkeys::KeyPair::new_server().seed().unwrap();
    let twin = || host(&server).set("host_seed", &seed).start();
    let (first, second) = (twin().await, twin().await);
    assert_eq!(first.id, second.id);
    for host in [&first, &second] {
        eventually("it has noticed the other", || async { host.host().peers().twins() }).await;
    }
    let user = User::of(&server);
    assert_eq!(user.json(&["get", "hosts"]).await["hosts"].as_array().map(Vec::len), Some(2));
    let told = doctor(&user).await;
    assert!(told.contains("several hosts have the key") && told.contains(&first.id), "{told}");
    first.stop().await;
    second.stop().await;
}

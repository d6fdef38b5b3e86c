//! The services of a lattice that a host asks: configuration at its start, policy before starts and calls.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures::StreamExt;
use lattice_host::providers::builtin::keyvalue;
use serde_json::{Value, json};

use crate::harness::{
    ECHO, Events, KVCOUNTER, PONGER, Server,
    client::{self, Caller, ctl_2024, http_request, start},
    eventually, example, host, text,
};

/// Answers requests on a subject with what `answer` makes of them.
async fn service(server: &Server, subject: &'static str, answer: impl Fn(Value) -> Value + Send + 'static) {
    let nats = client::nats(server).await;
    let mut requests = nats.subscribe(subject).await.unwrap();
    nats.flush().await.unwrap();
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let answer = answer(serde_json::from_slice(&request.payload).expect("a request is JSON"));
            nats.publish(request.reply.expect("a reply subject"), answer.to_string().into()).await.unwrap();
        }
    });
}

#[tokio::test]
async fn the_configuration_service_says_what_to_start() {
    let server = Server::start().await;
    let mut events = Events::all(&server).await;
    service(&server, "wasmbus.cfg.default.req", |request| {
        assert_eq!(text(&request, "/labels/machine"), "first");
        json!({"autoStartActors": [example("echo")],
            "autoStartProviders": [{"imageReference": "builtin://keyvalue", "linkName": "default"}],
            "registryCredentials": {"r.example": {"registryType": "oci", "username": "u", "password": "p"}}})
    })
    .await;
    let host = host(&server).label("machine", "first").set("config_service_enabled", "true").start().await;
    assert_eq!(text(&events.next("actors_started").await, "/data/public_key"), ECHO);
    eventually("the provider runs", || async {
        let inventory = ctl_2024(&server).await.get_host_inventory(&host.id).await.ok()?;
        inventory
            .providers
            .iter()
            .find(|provider| provider.image_ref.as_deref() == Some("builtin://keyvalue"))
            .map(drop)
    })
    .await;
    host.stop().await;
}

#[tokio::test]
async fn a_missing_configuration_service_keeps_no_host_from_starting() {
    let server = Server::start().await;
    let host = host(&server).set("config_service_enabled", "yes").start().await;
    assert_eq!(ctl_2024(&server).await.get_hosts().await.unwrap().len(), 1);
    host.stop().await;
}

#[tokio::test]
async fn a_policy_service_decides_on_providers_and_on_calls_of_them() {
    let server = Server::start().await;
    service(&server, "policy.ask", |request| {
        let contract = request["target"]["contractId"].as_str().unwrap_or_default();
        let forbidden = request["action"] == "start_provider" && contract == "wasmcloud:blobstore"
            || request["action"] == "perform_invocation" && contract == "wasmcloud:keyvalue";
        json!({"requestId": request["requestId"], "permitted": !forbidden, "message": "by the book"})
    })
    .await;
    let host = host(&server).set("policy_topic", "policy.ask").start().await;
    let mut events = Events::all(&server).await;
    let ctl = ctl_2024(&server).await;
    assert!(ctl.start_provider(&host.id, "builtin://blobstore", None, None, None).await.unwrap().accepted);
    let failed = events.next("provider_start_failed").await;
    assert!(text(&failed, "/data/error").contains("Policy denied starting provider, request:"), "{failed}");
    assert!(ctl.get_host_inventory(&host.id).await.unwrap().providers.is_empty());

    client::start_provider(&server, &host, "builtin://keyvalue").await;
    start(&server, &host, &example("kvcounter"), 1).await;
    client::link(&server, KVCOUNTER, keyvalue::SPEC.public_key, "wasmcloud:keyvalue", &[]).await;
    let answer =
        Caller::new(&server).await.call(KVCOUNTER, "HttpServer.HandleRequest", http_request("GET", "/", b"")).await;
    let body = client::http_body(&answer.unwrap());
    assert!(String::from_utf8_lossy(&body).contains("Policy denied invocation"), "{body:?}");
    host.stop().await;
}

#[tokio::test]
async fn a_policy_service_is_asked_once_and_can_change_its_mind() {
    let server = Server::start().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let (sender, mut requests) = tokio::sync::mpsc::unbounded_channel();
    service(&server, "policy.ask", move |request| {
        let permitted = request["target"]["publicKey"] != PONGER;
        if request["action"] == "perform_invocation" {
            count.fetch_add(1, Ordering::Relaxed);
        }
        sender.send(request.clone()).unwrap();
        json!({"requestId": request["requestId"], "permitted": permitted, "message": "by the book"})
    })
    .await;
    let host =
        host(&server).set("policy_topic", "policy.ask").set("policy_changes_topic", "policy.changes").start().await;
    let mut events = Events::all(&server).await;

    start(&server, &host, &example("echo"), 1).await;
    let asked_for = requests.recv().await.unwrap();
    assert_eq!((text(&asked_for, "/action"), text(&asked_for, "/target/publicKey")), ("start_actor", ECHO));
    assert_eq!(text(&asked_for, "/host/publicKey"), host.id);

    ctl_2024(&server).await.scale_actor(&host.id, &example("ponger"), 1, None).await.unwrap();
    let failed = events.next("actor_start_failed").await;
    assert!(text(&failed, "/data/error").contains("Policy denied starting actor, request:"), "{failed}");
    requests.recv().await.unwrap();

    let caller = Caller::new(&server).await;
    let call = || caller.call(ECHO, "HttpServer.HandleRequest", http_request("GET", "/", b""));
    for _ in 0..3 {
        call().await.unwrap();
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);

    let request_id = text(&requests.recv().await.unwrap(), "/requestId").to_owned();
    let change = json!({"requestId": request_id, "permitted": false, "message": "no more"}).to_string();
    let reply = caller.nats.request("policy.changes", change.into()).await.unwrap();
    assert_eq!(&reply.payload[..], br#"{"success":true}"#);
    let refused = call().await.unwrap_err();
    assert!(refused.contains(&request_id) && refused.contains("no more"), "{refused}");

    // A start that is denied by now is denied for more of a running actor too, but never for less.
    let change = json!({"requestId": text(&asked_for, "/requestId"), "permitted": false}).to_string();
    caller.nats.request("policy.changes", change.into()).await.unwrap();
    let ctl = ctl_2024(&server).await;
    ctl.scale_actor(&host.id, &example("echo"), 5, None).await.unwrap();
    let failed = events.next("actor_start_failed").await;
    assert!(text(&failed, "/data/error").contains("Policy denied starting actor"), "{failed}");
    ctl.scale_actor(&host.id, &example("echo"), 0, None).await.unwrap();
    assert_eq!(events.next("actors_stopped").await["data"]["remaining"], 0);
    host.stop().await;
}

#[tokio::test]
async fn no_answer_of_the_policy_service_is_a_denial_that_is_not_kept() {
    let server = Server::start().await;
    let host = host(&server).set("policy_topic", "policy.late").set("policy_timeout_ms", "200").start().await;
    let mut events = Events::all(&server).await;
    let ctl = ctl_2024(&server).await;
    ctl.scale_actor(&host.id, &example("echo"), 1, None).await.unwrap();
    let failed = events.next("actor_start_failed").await;
    assert!(text(&failed, "/data/error").contains("no decision of the policy service"), "{failed}");
    service(&server, "policy.late", |request| json!({"requestId": request["requestId"], "permitted": true})).await;
    ctl.scale_actor(&host.id, &example("echo"), 1, None).await.unwrap();
    eventually("the actor runs", || async {
        ctl.get_host_inventory(&host.id).await.ok().filter(|inventory| inventory.actors.len() == 1)
    })
    .await;
    host.stop().await;
}

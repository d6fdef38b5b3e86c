//! Built-in providers in whole hosts: started, linked, used by actors near and far, stopped.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use lattice_engine::providers::builtin::{blobstore, httpclient, httpserver, keyvalue, messaging};
use serde_json::{Value, json};
use tempfile::TempDir;
use wasmbus_rpc::common::serialize;
use wasmcloud_interface_httpclient::HttpRequest;
use wasmcloud_interface_messaging::RequestMessage;

use crate::harness::{
    ECHO, Events, HostBuilder, KVCOUNTER, Server, TestHost, builtin,
    client::{self, ctl_2022, ctl_2024, link, start, start_provider, stop_provider},
    eventually, example, host,
    nats::free_port,
    origin::Origin,
    text,
};

const HTTP: &str = "wasmcloud:httpserver";
const KV: &str = "wasmcloud:keyvalue";

/// The count an address answers, or the status and text of a failure.
pub async fn count(url: &str) -> Result<i64, String> {
    let response = reqwest::get(url).await.map_err(|e| format!("{e:?}"))?;
    let (status, body) = (response.status(), response.text().await.map_err(|e| e.to_string())?);
    let counter =
        serde_json::from_str::<Value>(&body).ok().and_then(|json| json["counter"].as_i64());
    counter.ok_or_else(|| format!("{status}: {body}"))
}

/// Waits until an address answers with a count.
pub async fn counts(url: &str) -> i64 {
    eventually("the page counts", || async { count(url).await.ok() }).await
}

/// Links the counter to both built-in providers, the server at a free port; returns its address.
async fn link_counter(server: &Server) -> String {
    let address = format!("127.0.0.1:{}", free_port());
    link(server, KVCOUNTER, httpserver::SPEC.known.public_key, HTTP, &[("address", &address)])
        .await;
    link(server, KVCOUNTER, keyvalue::SPEC.known.public_key, KV, &[]).await;
    format!("http://{address}")
}

async fn counter_on_one_host(builder: fn(HostBuilder) -> HostBuilder) {
    let server = Server::shared().await;
    let host = builder(host(&server)).start().await;
    start_provider(&server, &host, "builtin://httpserver").await;
    start_provider(&server, &host, "builtin://keyvalue").await;
    start(&server, &host, &example("kvcounter"), 10).await;
    let page = link_counter(&server).await;
    assert_eq!(counts(&format!("{page}/cats")).await, 1);
    assert_eq!(count(&format!("{page}/cats")).await, Ok(2));
    assert_eq!(count(&format!("{page}/dogs")).await, Ok(1));
    host.stop().await;
}

#[tokio::test]
async fn a_page_counts_with_nothing_but_the_binary() {
    counter_on_one_host(|host| host).await;
}

#[tokio::test]
async fn a_page_counts_when_every_call_goes_over_the_lattice() {
    counter_on_one_host(|host| host.set("local_calls", "false")).await;
}

#[tokio::test]
async fn providers_and_actor_on_three_hosts_serve_one_page_and_a_provider_can_move() {
    let server = Server::shared().await;
    let (a, b, c) =
        (host(&server).start().await, host(&server).start().await, host(&server).start().await);
    start_provider(&server, &a, "builtin://httpserver").await;
    start(&server, &b, &example("kvcounter"), 10).await;
    start_provider(&server, &c, "builtin://keyvalue").await;
    let page = link_counter(&server).await;
    assert_eq!(counts(&page).await, 1);

    stop_provider(&server, &c, keyvalue::SPEC.known.public_key, KV).await;
    let failed = count(&page).await.unwrap_err();
    assert!(failed.contains(keyvalue::SPEC.known.public_key), "{failed}");
    start_provider(&server, &a, "builtin://keyvalue").await;
    assert_eq!(count(&page).await, Ok(2), "the store is the lattice's, not the host's");

    for host in [a, b, c] {
        host.stop().await;
    }
}

#[tokio::test]
async fn a_builtin_provider_is_listed_announced_and_stopped_like_any_other() {
    let server = Server::shared().await;
    let host = host(&server).label("zone", "a").start().await;
    let ctl = ctl_2024(&server).await;
    let reference = "builtin://keyvalue";

    let zone = |value: &str| HashMap::from([("zone".to_owned(), value.to_owned())]);
    let bids = ctl.perform_provider_auction(reference, "default", zone("a")).await.unwrap();
    assert_eq!((bids.len(), bids[0].host_id.as_str()), (1, host.id.as_str()));
    assert!(
        ctl.perform_provider_auction(reference, "default", zone("b")).await.unwrap().is_empty()
    );
    assert!(
        ctl.perform_provider_auction("builtin://teapot", "default", zone("a"))
            .await
            .unwrap()
            .is_empty()
    );

    let mut events = Events::all(&server).await;
    let annotations = HashMap::from([("owner".to_owned(), "me".to_owned())]);
    let ack = ctl
        .start_provider(&host.id, reference, None, Some(annotations.clone()), None)
        .await
        .unwrap();
    assert!(ack.accepted, "{}", ack.error);
    let started = events.next("provider_started").await;
    assert_eq!(text(&started, "/data/public_key"), keyvalue::SPEC.known.public_key);
    assert_eq!(text(&started, "/data/contract_id"), KV);
    assert_eq!(text(&started, "/data/image_ref"), reference);
    assert_eq!(text(&started, "/data/annotations/owner"), "me");
    assert_eq!(started["data"]["claims"]["tags"], Value::Null);
    events.next("health_check_passed").await;

    let inventory = ctl.get_host_inventory(&host.id).await.unwrap();
    assert_eq!(inventory.providers.len(), 1);
    assert_eq!(inventory.providers[0].id, keyvalue::SPEC.known.public_key);
    assert_eq!(inventory.providers[0].link_name, "default");
    assert_eq!(inventory.providers[0].annotations.as_ref().unwrap()["owner"], "me");
    let old = ctl_2022(&server).await.get_host_inventory(&host.id).await.unwrap();
    assert_eq!(old.providers[0].image_ref.as_deref(), Some(reference));
    let claims = ctl.get_claims().await.unwrap();
    assert!(
        claims
            .iter()
            .any(|c| c["sub"] == keyvalue::SPEC.known.public_key && c["contract_id"] == KV),
        "{claims:?}"
    );

    // It runs: no bid, and a second start is refused at once and by event.
    assert!(
        ctl.perform_provider_auction(reference, "default", zone("a")).await.unwrap().is_empty()
    );
    let again = ctl.start_provider(&host.id, reference, None, None, None).await.unwrap();
    assert!(!again.accepted && again.error.contains("already running"), "{}", again.error);
    assert!(
        text(&events.next("provider_start_failed").await, "/data/error")
            .contains("already running")
    );
    // Under another link name it is another one.
    let other =
        ctl.start_provider(&host.id, reference, Some("spare".into()), None, None).await.unwrap();
    assert!(other.accepted, "{}", other.error);
    assert_eq!(text(&events.next("provider_started").await, "/data/link_name"), "spare");

    let unknown = ctl.start_provider(&host.id, "builtin://teapot", None, None, None).await.unwrap();
    assert!(!unknown.accepted && unknown.error.contains("builtin://keyvalue"), "{}", unknown.error);

    let wrong = HashMap::from([("owner".to_owned(), "you".to_owned())]);
    for (link_name, annotations, complaint) in
        [("main", None, "default, spare"), ("default", Some(wrong), "annotations")]
    {
        let refused = ctl
            .stop_provider(&host.id, keyvalue::SPEC.known.public_key, link_name, KV, annotations)
            .await
            .unwrap();
        assert!(!refused.accepted && refused.error.contains(complaint), "{}", refused.error);
    }
    let stopped = ctl
        .stop_provider(&host.id, keyvalue::SPEC.known.public_key, "default", KV, Some(annotations))
        .await
        .unwrap();
    assert!(stopped.accepted, "{}", stopped.error);
    let event = events.next("provider_stopped").await;
    assert_eq!(text(&event, "/data/instance_id"), text(&started, "/data/instance_id"));
    assert_eq!(text(&event, "/data/annotations/owner"), "me");
    let left = ctl.get_host_inventory(&host.id).await.unwrap().providers;
    assert_eq!(
        left.iter().map(|provider| provider.link_name.as_str()).collect::<Vec<_>>(),
        ["spare"]
    );
    host.stop().await;
}

#[tokio::test]
async fn a_heartbeat_lists_providers_and_a_stopping_host_says_that_they_stopped() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start_provider(&server, &host, "builtin://keyvalue").await;
    let mut events = Events::all(&server).await;
    ctl_2022(&server).await.get_hosts().await.unwrap();
    let beat = events.next("host_heartbeat").await;
    assert_eq!(beat["data"]["providers"][0]["public_key"], keyvalue::SPEC.known.public_key);
    assert_eq!(beat["data"]["providers"][0]["contract_id"], KV);
    host.stop().await;
    let names = events.names_until("host_stopped").await;
    assert!(names.contains(&"provider_stopped".to_owned()), "{names:?}");
}

#[tokio::test]
async fn a_link_that_cannot_be_taken_on_says_why_and_works_once_it_can() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start_provider(&server, &host, "builtin://httpserver").await;
    start(&server, &host, &example("echo"), 10).await;
    let mut events = Events::all(&server).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    link(&server, ECHO, httpserver::SPEC.known.public_key, HTTP, &[("address", &address)]).await;
    let refused = events.next("linkdef_set_failed").await;
    assert!(text(&refused, "/data/error").contains(&address), "{refused}");
    assert_eq!(text(&refused, "/data/actor_id"), ECHO);
    drop(taken);
    let url = format!("http://{address}/");
    eventually("the port is taken as soon as it is free", || async {
        reqwest::get(&url).await.ok()
    })
    .await;

    // Written past every host; the link that works is better than none.
    client::store_link(&server, ECHO, &httpserver::SPEC, &[("address", "nonsense")]).await;
    let refused = events.next("linkdef_set_failed").await;
    assert!(text(&refused, "/data/error").contains("nonsense"), "{refused}");
    assert!(reqwest::get(&url).await.is_ok());
    host.stop().await;
}

#[tokio::test]
async fn only_linked_actors_are_served() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start_provider(&server, &host, "builtin://keyvalue").await;
    let rpc = client::provider_rpc(&server).await;
    let origin = wasmbus_rpc::core::WasmCloudEntity::new_actor(KVCOUNTER).unwrap();
    let mut target = wasmbus_rpc::core::WasmCloudEntity::new_provider(KV, "default").unwrap();
    target.public_key = keyvalue::SPEC.known.public_key.into();
    let argument = wasmbus_rpc::common::serialize(&"counter").unwrap();
    let message =
        || wasmbus_rpc::common::Message { method: "KeyValue.Get", arg: argument.clone().into() };
    let refused =
        rpc.client.send(origin.clone(), target.clone(), &rpc.lattice, message()).await.unwrap_err();
    assert!(refused.to_string().contains("not linked"), "{refused}");
    link(&server, KVCOUNTER, keyvalue::SPEC.known.public_key, KV, &[]).await;
    // The caller is the SDK of provider authors: what it decodes is what the contract says.
    let reply = rpc.client.send(origin, target, &rpc.lattice, message()).await.unwrap();
    let reply: wasmcloud_interface_keyvalue::GetResponse =
        wasmbus_rpc::common::deserialize(&reply).unwrap();
    assert!(!reply.exists);
    host.stop().await;
}

/// Asks a page again and again until told to stop; returns how many answers were right and what
/// went wrong.
async fn load(url: String, until: Arc<AtomicBool>, done: Arc<AtomicUsize>) -> Vec<String> {
    let http = reqwest::Client::new();
    let mut failures = Vec::new();
    while !until.load(Ordering::Relaxed) {
        match http.get(&url).timeout(Duration::from_secs(10)).send().await {
            Ok(response) if response.status().is_success() => {
                _ = done.fetch_add(1, Ordering::Relaxed)
            }
            Ok(response) => {
                failures.push(format!("{}: {:?}", response.status(), response.text().await))
            }
            Err(error) => failures.push(format!("{error:?}")),
        }
    }
    failures
}

/// Runs `change` under load on a page; nobody may notice.
pub async fn unnoticed<T>(url: &str, change: impl Future<Output = T>) -> T {
    let (until, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let loads: Vec<_> =
        (0..8).map(|_| tokio::spawn(load(url.to_owned(), until.clone(), done.clone()))).collect();
    let some_more = |of: usize| {
        let done = done.clone();
        move || {
            let done = done.clone();
            async move { (done.load(Ordering::Relaxed) >= of).then_some(()) }
        }
    };
    eventually("the load runs", some_more(50)).await;
    let result = change.await;
    let so_far = done.load(Ordering::Relaxed);
    eventually("the load goes on", some_more(so_far + 200)).await;
    until.store(true, Ordering::Relaxed);
    for load in loads {
        let failures = load.await.unwrap();
        assert!(failures.is_empty(), "{} failures, the first: {}", failures.len(), failures[0]);
    }
    result
}

#[tokio::test]
async fn link_values_change_under_load_and_nobody_notices() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start_provider(&server, &host, "builtin://httpserver").await;
    start_provider(&server, &host, "builtin://keyvalue").await;
    start(&server, &host, &example("kvcounter"), 50).await;
    let page = link_counter(&server).await;
    counts(&page).await;
    let address = page.trim_start_matches("http://").to_owned();
    unnoticed(&page, async {
        for bucket in ["first", "second", "third"] {
            let bucket = format!("{bucket}-{}", server.lattice());
            let bucket = [("bucket", &*bucket)];
            link(&server, KVCOUNTER, keyvalue::SPEC.known.public_key, KV, &bucket).await;
            let limit = [("address", address.as_str()), ("max_content_len", "5M")];
            link(&server, KVCOUNTER, httpserver::SPEC.known.public_key, HTTP, &limit).await;
        }
    })
    .await;
    host.stop().await;
}

#[tokio::test]
async fn one_of_two_providers_stops_and_starts_again_and_nobody_notices() {
    let server = Server::shared().await;
    let (a, b, c) =
        (host(&server).start().await, host(&server).start().await, host(&server).start().await);
    for host in [&a, &b] {
        start_provider(&server, host, "builtin://keyvalue").await;
    }
    start_provider(&server, &c, "builtin://httpserver").await;
    start(&server, &c, &example("kvcounter"), 50).await;
    let page = link_counter(&server).await;
    counts(&page).await;
    unnoticed(&page, async {
        for _ in 0..2 {
            stop_provider(&server, &a, keyvalue::SPEC.known.public_key, KV).await;
            start_provider(&server, &a, "builtin://keyvalue").await;
        }
    })
    .await;
    for host in [c, a, b] {
        host.stop().await;
    }
}

#[tokio::test]
async fn a_host_that_stops_answers_every_request_it_accepted() {
    let server = Server::shared().await;
    let host: TestHost = host(&server).start().await;
    start_provider(&server, &host, "builtin://httpserver").await;
    start(&server, &host, &example("echo"), 50).await;
    let address = format!("127.0.0.1:{}", free_port());
    link(&server, ECHO, httpserver::SPEC.known.public_key, HTTP, &[("address", &address)]).await;
    let url = format!("http://{address}/");
    eventually("the page answers", || async { reqwest::get(&url).await.ok() }).await;
    let requests: Vec<_> = (0..50)
        .map(|_| {
            let url = url.clone();
            // A connection of its own each, so that all are accepted before the stop or refused
            // after it.
            tokio::spawn(async move {
                reqwest::Client::new().post(url).body(json!({"x": 1}).to_string()).send().await
            })
        })
        .collect();
    host.stop().await;
    for request in requests {
        match request.await.unwrap() {
            Ok(response) => assert!(response.status().is_success(), "{}", response.status()),
            Err(error) => {
                assert!(error.is_connect(), "an accepted request got no answer: {error:?}")
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_served_whose_payload_was_on_its_way_for_as_long_as_a_call_may_take() {
    let server = Server::shared().await;
    let (origin, dir) = (Origin::start().await, TempDir::new().expect("a directory"));
    let subject = format!("late.{}", server.lattice());
    let _answering = client::answering(&server, &subject, |_, _| Some(json!("here"))).await;
    let get = serialize(&HttpRequest::get(&origin.url("/echo"))).expect("encoded");
    let ask = RequestMessage { subject, body: b"there?".to_vec(), timeout_ms: 0 };
    let ask = serialize(&ask).expect("encoded");
    let key = serialize(&"key").expect("encoded");
    for (spec, values, operation, payload) in [
        (&httpclient::SPEC, &[("allow_loopback", "true")][..], "HttpClient.Request", get),
        (&keyvalue::SPEC, &[], "KeyValue.Get", key),
        (&blobstore::SPEC, &[], "Blobstore.ListContainers", Vec::new()),
        (&messaging::SPEC, &[], "Messaging.Request", ask),
    ] {
        let context = builtin::context(&server, spec, dir.path(), HashMap::new()).await;
        let link = (spec.build)(context).link(builtin::link(spec, values)).await;
        let link = link.unwrap_or_else(|error| panic!("{operation}: {error}"));
        let result = builtin::call_after_a_transfer(&link, spec, operation, payload).await;
        assert!(result.is_ok(), "{operation}: {result:?}");
    }
}

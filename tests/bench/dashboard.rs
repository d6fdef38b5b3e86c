//! Times of the dashboard's API in a lattice of 200 hosts with 1 000 actors each; beside it the
//! baseline, an answer of the same server that has nothing to do.
//!
//! `cargo bench --bench dashboard`; `-- distinct` gives each host actors of its own, 200 000 in
//! all. The other hosts are made up: they beat and answer for their inventories over a real NATS
//! server. Medians.

mod common;

use std::{collections::HashMap, time::Instant};

use bytes::Bytes;
use futures::StreamExt;
use lattice_cli::bench::{machine::resident_bytes, stage::free_port};
use serde_json::{Value, json};

use common::{LATTICE, Server, median, millis, runtime};

const HOSTS: usize = 200;
const ACTORS: usize = 1000;
const ROUNDS: usize = 50;

fn main() {
    let distinct = std::env::args().any(|argument| argument == "distinct");
    runtime().block_on(run(distinct));
}

async fn run(distinct: bool) {
    let server = Server::start().await.expect("a server");
    let port = free_port().expect("a port").to_string();
    let host = server.host("shown", &[("dashboard_port", &port)]).await.expect("the host starts");
    let place = host.dashboard().expect("a dashboard");
    let (url, http) = (place.url(), reqwest::Client::new());
    let token =
        std::fs::read_to_string(place.token_file.as_ref().expect("a file")).expect("a token");
    let get = |path: &str| {
        let request = http.get(format!("{url}{path}")).bearer_auth(&token);
        async move { request.send().await.expect("an answer").bytes().await.expect("a body") }
    };
    let memory_before = resident_bytes(std::process::id());
    let client = server.client.clone();
    let answering = tokio::spawn(answer(client.clone(), distinct));
    client.flush().await.expect("flushed");
    get("/api/v1/hosts").await;
    let began = Instant::now();
    for number in 0..HOSTS {
        let beat = beat(number, distinct).to_string();
        client.publish(format!("wasmbus.evt.{LATTICE}"), beat.into()).await.expect("published");
    }
    client.flush().await.expect("flushed");
    let all = (HOSTS * ACTORS) as u64;
    loop {
        let overview: Value = serde_json::from_slice(&get("/api/v1/overview").await).expect("JSON");
        if overview["counts"]["replicas"].as_u64() == Some(all) {
            break;
        }
    }
    println!(
        "{HOSTS} hosts with {ACTORS} actors known after   {:>10.1} ms",
        millis(began.elapsed())
    );
    if let (Some(before), Some(now)) = (memory_before, resident_bytes(std::process::id())) {
        println!(
            "memory for all of it                      {:>10.1} MB",
            (now.saturating_sub(before)) as f64 / 1e6
        );
    }
    let bare = measure(|| get("/healthz")).await;
    println!("bare answer                               {bare:>10.2} ms");
    for path in [
        "/api/v1/overview",
        "/api/v1/hosts",
        "/api/v1/actors?limit=200",
        "/api/v1/actors?limit=200&offset=800&sort=-replicas",
        "/api/v1/actors?limit=200&q=actor+7",
    ] {
        let took = measure(|| get(path)).await;
        println!("{path:<52}{took:>8.2} ms  {:>6.1} x bare", took / bare);
    }
    answering.abort();
    host.stop(None).await;
    server.stop().await;
}

async fn measure<F: Future<Output = Bytes>>(ask: impl Fn() -> F) -> f64 {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        ask().await;
        times.push(millis(began.elapsed()));
    }
    median(times)
}

/// Key of a made-up host.
fn host_key(number: usize) -> String {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&(number as u64 + 1).to_le_bytes());
    nkeys::KeyPair::new_from_raw(nkeys::KeyPairType::Server, seed).expect("a key").public_key()
}

/// Key of a made-up actor; nobody checks these.
fn actor_key(number: usize) -> String {
    format!("M{number:0>55}")
}

fn actor(host: usize, number: usize, distinct: bool) -> usize {
    if distinct { host * ACTORS + number } else { number }
}

fn beat(host: usize, distinct: bool) -> Value {
    let actors: serde_json::Map<String, Value> =
        (0..ACTORS).map(|number| (actor_key(actor(host, number, distinct)), json!(1))).collect();
    json!({
        "specversion": "1.0", "id": format!("{host}"), "type": "com.wasmcloud.lattice.host_heartbeat", "source": host_key(host),
        "time": "2022-06-01T00:00:00Z", "datacontenttype": "application/json",
        "data": {
            "friendly_name": format!("host-{host}"), "labels": { "machine": format!("m{}", host % 10) }, "uptime_seconds": 60,
            "version": "0.63.0", "actors": actors, "providers": [],
        },
    })
}

async fn answer(client: async_nats::Client, distinct: bool) {
    let hosts: HashMap<String, usize> =
        (0..HOSTS).map(|number| (host_key(number), number)).collect();
    let inventories = format!("wasmbus.ctl.{LATTICE}.get.*.inv");
    let mut asked = client.subscribe(inventories).await.expect("subscribed");
    while let Some(message) = asked.next().await {
        let id = message.subject.split('.').nth(4).unwrap_or_default().to_owned();
        let Some(reply) = message.reply else { continue };
        let Some(host) = hosts.get(&id).copied() else { continue };
        let one = |number: usize| {
            let number = actor(host, number, distinct);
            json!({
                "id": actor_key(number), "image_ref": format!("registry.example/actor{number}:0.1.0"),
                "name": format!("actor {number}"),
                "instances": [{ "annotations": {}, "instance_id": "i", "revision": 1, "max_instances": 1 }],
            })
        };
        let inventory = json!({
            "host_id": id, "friendly_name": format!("host-{host}"), "labels": { "machine": format!("m{}", host % 10) },
            "version": "0.63.0", "uptime_seconds": 60, "providers": [], "actors": (0..ACTORS).map(one).collect::<Vec<_>>(),
        });
        let _ = client.publish(reply, inventory.to_string().into()).await;
    }
}

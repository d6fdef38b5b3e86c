//! How long a host that joins late takes until it says ready, with a lattice of no links and with
//! one of 10 000; beside it the bare thing, the same bucket read with the NATS client alone.
//!
//! `cargo bench --bench joining`, or `cargo bench --bench joining -- 50000` for another number.
//! Medians of several rounds.

mod common;

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, kv};
use futures::{StreamExt, stream};
use lattice_protocol::store::keys;
use serde_json::json;

use common::{LATTICE, Server, median, millis, runtime};

const LINKS: usize = 10_000;
const ROUNDS: usize = 5;
const ACTOR: &str = "MBA7VIBPQH52R2V2OR2JIQIQW26SLI2KM3KZMSRRX6MXRVQM5Z4P26C2";
const PROVIDER: &str = "VDFJHLAXAUMHA4OWPOB4P7YO72AQR2HMIUYFOXLXE2DZGM633K7HYIF3";
/// Links that are written at a time.
const WRITERS: usize = 256;

fn main() {
    let links = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(LINKS);
    runtime().block_on(run(links));
}

async fn run(links: usize) {
    let server = Server::start().await.expect("a server");
    // The first host makes the bucket.
    join(&server).await;
    let empty = joins(&server).await;
    let domain = server.lattice.js_domain.as_deref().expect("a domain");
    let context = jetstream::with_domain(server.client.clone(), domain);
    let bucket = format!("LATTICEDATA_{LATTICE}");
    let bucket = context.get_key_value(bucket).await.expect("the bucket");
    fill(&bucket, links).await;
    let full = joins(&server).await;
    let mut bare = Vec::new();
    for _ in 0..ROUNDS {
        bare.push(millis(read(&bucket, links).await));
    }
    println!("host start to ready, no links             {empty:>10.1} ms");
    println!("host start to ready, {links:>6} links         {full:>10.1} ms");
    println!("the bucket read with the NATS client      {:>10.1} ms", median(bare));
    server.stop().await;
}

async fn joins(server: &Server) -> f64 {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        times.push(millis(join(server).await));
    }
    median(times)
}

/// Starts a host and stops it again. That it knows everything when it is ready is what the tests
/// check.
async fn join(server: &Server) -> Duration {
    let began = Instant::now();
    let host = server.host("joining", &[]).await.expect("the host starts");
    let took = began.elapsed();
    host.stop(None).await;
    took
}

async fn fill(bucket: &kv::Store, links: usize) {
    let puts = (0..links).map(|n| {
        let contract = format!("acme:contract{n}");
        let id = keys::link_hash(ACTOR, &contract, "default");
        let link = json!({"id": id, "actor_id": ACTOR, "provider_id": PROVIDER, "link_name": "default",
            "contract_id": contract, "values": {"address": "127.0.0.1:8080"}});
        async move { bucket.put(keys::link(&id), link.to_string().into()).await.expect("a link is stored") }
    });
    stream::iter(puts).buffer_unordered(WRITERS).for_each(|_| async {}).await;
}

async fn read(bucket: &kv::Store, links: usize) -> Duration {
    let began = Instant::now();
    let mut entries = bucket.watch_with_history(">").await.expect("a watch");
    for _ in 0..links {
        entries.next().await.expect("an entry").expect("a readable entry");
    }
    began.elapsed()
}

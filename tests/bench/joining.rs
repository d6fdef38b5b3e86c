//! How a lattice of many links does: how fast they are put, by clients one after the other and many
//! at a time, with few links in the lattice and with all; and how long a host that joins late takes
//! until it says ready. Beside each the bare thing: the same entries put and read with the NATS
//! client alone.
//!
//! `cargo bench --bench joining`, or `cargo bench --bench joining -- 10000` for another number of
//! links. Medians of several rounds.

mod common;

use std::{
    future::ready,
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, kv};
use futures::{StreamExt, stream};
use lattice_protocol::store::keys;
use serde_json::{Value, json};

use common::{LATTICE, Server, median, millis, runtime};

const LINKS: usize = 100_000;
/// Actors that are known by their claims.
const ACTORS: usize = 5_000;
const ROUNDS: usize = 5;
const ACTOR: &str = "MBA7VIBPQH52R2V2OR2JIQIQW26SLI2KM3KZMSRRX6MXRVQM5Z4P26C2";
const PROVIDER: &str = "VDFJHLAXAUMHA4OWPOB4P7YO72AQR2HMIUYFOXLXE2DZGM633K7HYIF3";
/// Entries that are written at a time.
const WRITERS: usize = 256;
/// Puts of one measurement.
const PUTS: usize = 4_000;

fn main() {
    let links = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(LINKS);
    runtime().block_on(run(links));
}

async fn run(links: usize) {
    let server = Server::start().await.expect("a server");
    // The first host makes the bucket.
    join(&server).await;
    println!("host start to ready, no links             {:>10.1} ms", joins(&server).await);
    let domain = server.lattice.js_domain.as_deref().expect("a domain");
    let context = jetstream::with_domain(server.client.clone(), domain);
    let bucket = format!("LATTICEDATA_{LATTICE}");
    let bucket = context.get_key_value(bucket).await.expect("the bucket");
    let began = Instant::now();
    fill(&bucket, (0..ACTORS).map(claims)).await;
    println!(
        "{ACTORS} claims written with the NATS client, {WRITERS} at a time {:>10.0}/s",
        ACTORS as f64 / began.elapsed().as_secs_f64()
    );
    let mut next = 0;
    puts(&server, &mut next).await;
    let began = Instant::now();
    fill(&bucket, (next..links).map(link)).await;
    println!(
        "links written with the NATS client, {WRITERS} at a time  {:>10.0}/s",
        (links.saturating_sub(next)) as f64 / began.elapsed().as_secs_f64()
    );
    next = next.max(links);
    println!(
        "host start to ready, {links:>6} links, {ACTORS} claims {:>7.1} ms",
        joins(&server).await
    );
    let mut bare = Vec::new();
    for _ in 0..ROUNDS {
        bare.push(millis(read(&bucket, links + ACTORS).await));
    }
    println!("the bucket read with the NATS client      {:>10.1} ms", median(bare));
    puts(&server, &mut next).await;
    server.stop().await;
}

/// Puts links as clients do, so many at a time. `next` is the number of the first one.
async fn puts(server: &Server, next: &mut usize) {
    let host = server.host("joining", &[]).await.expect("the host starts");
    for at_once in [1, 16, 64] {
        let (first, count) = (*next, if at_once == 1 { PUTS / 4 } else { PUTS });
        let began = Instant::now();
        let asked = (first..first + count).map(|number| put(&server.client, number));
        let answers = stream::iter(asked).buffer_unordered(at_once);
        let accepted = answers.filter(|is_accepted| ready(*is_accepted)).count().await;
        let took = began.elapsed().as_secs_f64();
        assert_eq!(accepted, count, "all are accepted");
        println!(
            "puts through a host, {at_once:>2} at a time, with {first:>6} links {:>10.0}/s",
            count as f64 / took
        );
        *next += count;
    }
    host.stop(None).await;
}

/// Puts a link; returns whether it was accepted.
async fn put(client: &async_nats::Client, number: usize) -> bool {
    let (_, link) = link(number);
    let subject = format!("wasmbus.ctl.{LATTICE}.linkdefs.put");
    let reply = client.request(subject, link.to_string().into()).await.expect("an ack");
    let ack: Value = serde_json::from_slice(&reply.payload).expect("JSON");
    ack["accepted"] == json!(true)
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

fn link(number: usize) -> (String, Value) {
    let contract = format!("acme:contract{number}");
    let id = keys::link_hash(ACTOR, &contract, "default");
    let link = json!({"id": id, "actor_id": ACTOR, "provider_id": PROVIDER, "link_name": "default",
        "contract_id": contract, "values": {"address": "127.0.0.1:8080"}});
    (keys::link(&id), link)
}

fn claims(number: usize) -> (String, Value) {
    let id = format!("M{number:055}");
    let claims = json!({"call_alias": "", "caps": "wasmcloud:httpserver,wasmcloud:keyvalue", "iss": "ACCOUNT",
        "name": format!("actor {number}"), "rev": "1", "sub": id, "tags": "", "version": "0.1.0"});
    (keys::claims(&id), claims)
}

async fn fill(bucket: &kv::Store, entries: impl Iterator<Item = (String, Value)>) {
    let puts = entries.map(|(key, value)| async move {
        bucket.put(key, value.to_string().into()).await.expect("an entry is stored")
    });
    stream::iter(puts).buffer_unordered(WRITERS).for_each(|_| async {}).await;
}

async fn read(bucket: &kv::Store, entries: usize) -> Duration {
    let began = Instant::now();
    let mut told = bucket.watch_with_history(">").await.expect("a watch");
    for _ in 0..entries {
        told.next().await.expect("an entry").expect("a readable entry");
    }
    began.elapsed()
}

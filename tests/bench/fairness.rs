//! Effects on other actors of one that computes without end, and of two that call each other
//! without end: how long calls of an actor take that has little to do, alone and beside them.
//!
//! `cargo bench --bench fairness`. The caller has threads of its own, as one in another process
//! would; server, host and caller share the machine's cores.

mod common;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use lattice_engine::host::Host;
use lattice_protocol::{
    identity::{claims::now, keys::ActorId},
    rpc::{
        Signer, codec,
        invocation::{Entity, Invocation, TraceContext},
    },
};
use tempfile::TempDir;
use tokio::task::JoinSet;
use wascap::{
    prelude::{ClaimsBuilder, KeyPair},
    wasm::embed_claims,
};

use common::{CLUSTER_SEED, ECHO, command_of, start_actor, start_host, start_server};

/// Calls that are measured in each round, and the pause between two.
const CALLS: usize = 2000;
const PAUSE: Duration = Duration::from_millis(2);
const SPINNING: usize = 4;
const RECURSING: usize = 50;

fn main() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let (host_runtime, caller_runtime) = (runtime(), runtime());
    let dir = TempDir::new().expect("a directory");
    let (server, host, caller, guests) = host_runtime.block_on(async {
        let (server, address) = start_server(&dir).await;
        let host = start_host(&dir, &address, "true").await;
        let client = async_nats::connect(&address).await.expect("connected");
        start_actor(&client, &host, "echo").await;
        let spinning = start_guest(&client, &host, &dir, "spinning", "(loop (br 0))").await;
        let first = start_guest(&client, &host, &dir, "first", &twice("second")).await;
        start_guest(&client, &host, &dir, "second", &twice("first")).await;
        (server, host, address, (spinning, first))
    });
    caller_runtime.block_on(async {
        let client = async_nats::connect(&caller).await.expect("connected");
        let caller =
            Arc::new(Caller { client, signer: Signer::new(CLUSTER_SEED).expect("a seed") });
        // Once unmeasured: the first calls touch everything for the first time.
        measure(&caller).await;
        let alone = show("alone", measure(&caller).await, None);
        for (what, id, at_a_time) in [
            ("beside 4 that compute", guests.0, SPINNING),
            ("beside 50 that recurse", guests.1, RECURSING),
        ] {
            let mut calls = JoinSet::new();
            for _ in 0..at_a_time {
                let (caller, id) = (Arc::clone(&caller), id.clone());
                calls.spawn(async move {
                    loop {
                        caller.call(&id).await;
                    }
                });
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            show(what, measure(&caller).await, Some(alone));
            calls.shutdown().await;
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    });
    host_runtime.block_on(async {
        host.stop(None).await;
        server.stop().await;
    });
}

fn show(what: &str, mut took_us: Vec<f64>, alone: Option<f64>) -> f64 {
    took_us.sort_by(f64::total_cmp);
    let at = |share: f64| took_us[((took_us.len() - 1) as f64 * share) as usize];
    let (p50, p99) = (at(0.5), at(0.99));
    let ratio = alone.map_or(String::new(), |alone| format!("   p99 × {:.1}", p99 / alone));
    println!("{what:<24} p50 {p50:>9.0} µs   p99 {p99:>9.0} µs{ratio}");
    p99
}

async fn measure(caller: &Caller) -> Vec<f64> {
    let mut took_us = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let began = Instant::now();
        assert_eq!(caller.call(ECHO).await, None);
        took_us.push(began.elapsed().as_secs_f64() * 1e6);
        tokio::time::sleep(PAUSE).await;
    }
    took_us
}

/// A guest that calls another twice.
fn twice(alias: &str) -> String {
    let call = format!(
        "(drop (call $host_call (i32.const 0) (i32.const 0) (i32.const {}) (i32.const {}) (i32.const 200) (i32.const 1) \
         (i32.const 200) (i32.const 1)))",
        if alias == "first" { 100 } else { 120 },
        "bench/".len() + alias.len()
    );
    call.repeat(2)
}

async fn start_guest(
    client: &async_nats::Client,
    host: &Host,
    dir: &TempDir,
    name: &str,
    body: &str,
) -> String {
    let wat = format!(
        r#"(module
  (import "wapc" "__host_call" (func $host_call (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 100) "bench/first") (data (i32.const 120) "bench/second") (data (i32.const 200) "x")
  (func (export "__guest_call") (param i32 i32) (result i32) {body} (i32.const 1)))"#
    );
    let (account, key) = (KeyPair::new_account(), KeyPair::new_module());
    let alias = Some(format!("bench/{name}"));
    let metadata =
        wascap::jwt::Actor::new(name.into(), Some(vec![]), Some(vec![]), false, None, None, alias);
    let claims = ClaimsBuilder::<wascap::jwt::Actor>::new()
        .issuer(&account.public_key())
        .subject(&key.public_key())
        .with_metadata(metadata)
        .build();
    let signed =
        embed_claims(&wat::parse_str(wat).expect("valid text"), &claims, &account).expect("signed");
    let path = dir.path().join(format!("{name}.wasm"));
    std::fs::write(&path, signed).expect("written");
    start_file(client, host, &path).await;
    key.public_key()
}

async fn start_file(client: &async_nats::Client, host: &Host, path: &Path) {
    let body = format!(r#"{{"actor_ref":"file://{}","count":1000}}"#, path.display());
    command_of(client, "default", host.state().facts().id.as_str(), "scale", body, "actor_scaled")
        .await;
}

struct Caller {
    client: async_nats::Client,
    signer: Signer,
}

impl Caller {
    /// Calls an actor; returns its error.
    async fn call(&self, actor: &str) -> Option<String> {
        let target = Entity::actor(&ActorId::parse(actor).expect("an actor"));
        let (origin, id) = (target.clone(), uuid::Uuid::new_v4().to_string());
        let payload = Bytes::from_static(&[0x80]);
        let operation = "Actor.HealthRequest";
        let invocation = Invocation {
            encoded_claims: self.signer.sign(&origin, &target, operation, &payload, &id, now()),
            content_length: payload.len() as u64,
            origin,
            target,
            operation: operation.into(),
            msg: payload,
            id,
            host_id: "NAWASHVALZUZPZNXPIF6HGQ4OMJYLXQ4B2WZZ5AMBCXKWEQPYXDOIWMA".into(),
            trace_context: TraceContext::default(),
        };
        let request = async_nats::Request::new()
            .payload(codec::encode_invocation(&invocation))
            .timeout(Some(Duration::from_secs(30)));
        let reply = self.client.send_request(format!("wasmbus.rpc.default.{actor}"), request).await;
        codec::decode_response(reply.expect("a reply").payload).expect("a response").error
    }
}

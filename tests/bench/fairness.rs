//! Effects on other actors of one that computes without end, and of two that call each other
//! without end: how long calls of an actor take that has little to do, alone and beside them.
//!
//! `cargo bench --bench fairness`. The caller has threads of its own, as one in another process
//! would; server, host and caller share the machine's cores.

mod common;

use std::time::{Duration, Instant};

use lattice_cli::bench::{
    calls::Signed,
    guests::{Actor, Guests},
    load::Target as _,
    stage::start_actor,
};
use lattice_engine::host::Host;
use tokio::task::JoinSet;
use wascap::{
    prelude::{ClaimsBuilder, KeyPair},
    wasm::embed_claims,
};

use common::{Server, runtime};

/// Calls that are measured in each round, and the pause between two.
const CALLS: usize = 2000;
const PAUSE: Duration = Duration::from_millis(2);
const SPINNING: usize = 4;
const RECURSING: usize = 50;

fn main() {
    let (host_runtime, caller_runtime) = (runtime(), runtime());
    let (server, host, [echo, spinning, first]) = host_runtime.block_on(async {
        let server = Server::start().await.expect("a server");
        let host = server.host("fair", &[("rpc_timeout_ms", "2000")]).await.expect("it starts");
        let dir = server.dir_of("actors").expect("a directory");
        let echo = Guests::load(None).and_then(|guests| guests.actor.sign(&dir)).expect("signed");
        start(&server, &host, &echo).await;
        let spinning = start_guest(&server, &host, "spinning", "(loop (br 0))").await;
        let first = start_guest(&server, &host, "first", &twice("second")).await;
        start_guest(&server, &host, "second", &twice("first")).await;
        (server, host, [echo, spinning, first])
    });
    caller_runtime.block_on(async {
        let guest = Guests::load(None).expect("a guest").actor;
        let caller = Signed::new(&server, &guest, &echo).await.expect("connected");
        // Once unmeasured: the first calls touch everything for the first time.
        measure(&caller).await;
        let alone = show("alone", measure(&caller).await, None);
        for (what, actor, at_a_time) in [
            ("beside 4 that compute", spinning, SPINNING),
            ("beside 50 that recurse", first, RECURSING),
        ] {
            let mut calls = JoinSet::new();
            for _ in 0..at_a_time {
                let mut other = Signed::new(&server, &guest, &actor).await.expect("connected");
                calls.spawn(async move {
                    loop {
                        // Such a call fails, by its deadline or by its depth.
                        drop(other.exchange().await);
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

async fn measure(caller: &Signed) -> Vec<f64> {
    let mut caller = caller.clone();
    let mut took_us = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let began = Instant::now();
        caller.exchange().await.expect("an answer");
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

async fn start_guest(server: &Server, host: &Host, name: &str, body: &str) -> Actor {
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
    let file = server.dir().join(format!("{name}.wasm"));
    std::fs::write(&file, signed).expect("written");
    let actor = Actor { id: key.public_key(), file };
    start(server, host, &actor).await;
    actor
}

async fn start(server: &Server, host: &Host, actor: &Actor) {
    let host = host.state().facts().id.to_string();
    start_actor(&server.lattice, &host, actor, None).await.expect("the actor starts");
}

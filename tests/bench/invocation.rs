//! The cost of an invocation, beside the baseline in the same run:
//!
//! * signed invocation over NATS → actor → reply, against plain NATS request and reply;
//! * a call through the router to an actor in the same process, against calling the guest directly
//!   with wasmtime;
//! * starting a host, and starting an actor for the first and for the second time.
//!
//! `cargo bench --bench invocation`. Each number is the median of several rounds; absolute times
//! are the machine's, the ratios are ours.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use futures::{StreamExt, future::join_all};
use lattice_protocol::{
    identity::{claims::now, keys::ActorId},
    rpc::{
        Signer, codec,
        invocation::{Entity, Invocation, TraceContext},
    },
};
use tempfile::TempDir;

use common::{
    CLUSTER_SEED, CONCURRENCY, ECHO, median, millis, start_actor, start_host, start_server,
    stop_actor,
};

const CALLS: usize = 20_000;
const ROUNDS: usize = 5;

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run());
}

async fn run() {
    let dir = TempDir::new().expect("a directory");
    let (server, address) = start_server(&dir).await;
    let began = Instant::now();
    let host = start_host(&dir, &address, "true").await;
    println!("host start to ready                       {:>10.1} ms", millis(began.elapsed()));

    let client = async_nats::connect(&address).await.expect("connected");
    let first = start_actor(&client, &host, "echo").await;
    stop_actor(&client, &host, ECHO).await;
    let second = start_actor(&client, &host, "echo").await;
    println!("actor start, first time                   {:>10.1} ms", millis(first));
    println!("actor start, seen before                  {:>10.1} ms", millis(second));

    over_nats(&address).await;
    latency(&address).await;

    host.stop(None).await;
    server.stop().await;
}

/// Throughput at a fixed concurrency, plain and signed in turn, so that both see the same machine.
async fn over_nats(address: &str) {
    let responder = async_nats::connect(address).await.expect("connected");
    let mut requests =
        responder.queue_subscribe("bare.echo", "bare.echo".into()).await.expect("subscribed");
    responder.flush().await.expect("flushed");
    let answering = tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let responder = responder.clone();
            tokio::spawn(async move {
                if let Some(reply) = request.reply {
                    responder.publish(reply, request.payload).await.expect("published");
                }
            });
        }
    });
    let client = async_nats::connect(address).await.expect("connected");
    let caller = Arc::new(Caller {
        client: client.clone(),
        signer: Signer::new(CLUSTER_SEED).expect("a seed"),
    });
    let (mut bare, mut signed) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let payload = codec::encode_invocation(&caller.invocation());
        let plain = client.clone();
        bare.push(
            throughput(move || {
                let (client, payload) = (plain.clone(), payload.clone());
                async move { drop(client.request("bare.echo", payload).await.expect("a reply")) }
            })
            .await,
        );
        let caller = Arc::clone(&caller);
        signed.push(
            throughput(move || {
                let caller = Arc::clone(&caller);
                async move { caller.call().await }
            })
            .await,
        );
    }
    answering.abort();
    let (bare, signed) = (median(bare), median(signed));
    println!("NATS request/reply, {CONCURRENCY} at a time           {bare:>10.0} /s");
    println!("signed invocation of an actor             {signed:>10.0} /s");
    println!("  ratio                                   {:>10.2}", signed / bare);
}

/// One call at a time: what the actor adds to an empty request and reply.
async fn latency(address: &str) {
    let client = async_nats::connect(address).await.expect("connected");
    let caller = Caller { client, signer: Signer::new(CLUSTER_SEED).expect("a seed") };
    let mut times = Vec::new();
    for _ in 0..2_000 {
        let began = Instant::now();
        caller.call().await;
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    println!("signed invocation, one at a time          {:>10.0} µs", median(times));
}

struct Caller {
    client: async_nats::Client,
    signer: Signer,
}

impl Caller {
    fn invocation(&self) -> Invocation {
        let target = Entity::actor(&ActorId::parse(ECHO).expect("an actor"));
        let (origin, id) = (target.clone(), uuid::Uuid::new_v4().to_string());
        let payload = Bytes::from_static(&[0x80]);
        let operation = "Actor.HealthRequest";
        Invocation {
            encoded_claims: self.signer.sign(&origin, &target, operation, &payload, &id, now()),
            content_length: payload.len() as u64,
            origin,
            target,
            operation: operation.into(),
            msg: payload,
            id,
            host_id: "NAWASHVALZUZPZNXPIF6HGQ4OMJYLXQ4B2WZZ5AMBCXKWEQPYXDOIWMA".into(),
            trace_context: TraceContext::default(),
        }
    }

    async fn call(&self) {
        let payload = codec::encode_invocation(&self.invocation());
        let reply = self
            .client
            .request(format!("wasmbus.rpc.default.{ECHO}"), payload)
            .await
            .expect("a reply");
        let response = codec::decode_response(reply.payload).expect("a response");
        assert_eq!(response.error, None);
    }
}

async fn throughput<F: Future<Output = ()> + Send + 'static>(
    call: impl Fn() -> F + Send + Sync + 'static,
) -> f64 {
    let (call, left) = (Arc::new(call), Arc::new(AtomicUsize::new(CALLS)));
    let began = Instant::now();
    let workers = (0..CONCURRENCY).map(|_| {
        let (call, left) = (Arc::clone(&call), Arc::clone(&left));
        tokio::spawn(async move {
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok()
            {
                call().await;
            }
        })
    });
    for worker in join_all(workers).await {
        worker.expect("no call fails");
    }
    CALLS as f64 / began.elapsed().as_secs_f64()
}

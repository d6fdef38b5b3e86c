//! The cost of serving Wasm over HTTP, beside the baselines in the same run:
//!
//! * the built-in HTTP server → the echo actor → reply, with a fresh instance per request, with
//!   instances reused, and with every call going over NATS;
//! * hyper alone, answering a constant: what no server built on it can pass;
//! * `wasmtime serve` with a hello component, if a `wasmtime` is on the PATH or named by
//!   `$WASMTIME` (`cargo install wasmtime-cli` makes one).
//!
//! `cargo bench --bench http`. Every server is a process of its own and gets the same load from
//! this one. The rounds of all take turns; each number is the median of its rounds. Absolute
//! numbers are the machine's, the ratios are ours.

mod common;

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use lattice_base::config::{Environment, ProcessEnvironment};
use lattice_engine::providers::builtin::httpserver;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};

use common::{CLUSTER_SEED, CONCURRENCY, ECHO, command_of, free_port, median, start_server};

const ROUND: Duration = Duration::from_secs(3);
const ROUNDS: usize = 5;
/// The argument that makes this program the bare server.
const BARE: &str = "--bare-hyper";
/// Calls one instance serves where instances are reused, here and in `wasmtime serve`.
const REUSE: &str = "1000";

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == BARE) {
        let address: SocketAddr = arguments[at + 1].parse().expect("an address");
        runtime.block_on(bare(address));
    } else {
        runtime.block_on(run());
    }
}

struct Contestant {
    name: &'static str,
    address: String,
    _child: Child,
    rates: Vec<f64>,
    latencies: Vec<Duration>,
}

async fn run() {
    let dir = TempDir::new().expect("a directory");
    let (server, nats) = start_server(&dir).await;
    let mut contestants =
        vec![bare_hyper(), host(&dir, &nats, "fresh", "fresh instances", &[], "1").await];
    contestants.push(host(&dir, &nats, "reused", "instances reused", &[], REUSE).await);
    contestants.push(host(&dir, &nats, "remote", "over NATS", &["--no-local-calls"], "1").await);
    match wasmtime() {
        Some(binary) => {
            let keep = ["-O", "pooling-allocator=y", "-O", "pooling-memory-keep-resident=2097152"];
            contestants.push(wasmtime_serve(
                &binary,
                "wasmtime serve, pooling",
                &["-O", "pooling-allocator=y"],
            ));
            contestants.push(wasmtime_serve(&binary, "wasmtime serve, keep resident", &keep));
            let reuse = [&keep[..], &["--max-instance-reuse-count", REUSE]].concat();
            contestants.push(wasmtime_serve(&binary, "wasmtime serve, reused", &reuse));
        }
        None => println!(
            "`wasmtime serve` is not measured: no wasmtime on the PATH, and $WASMTIME is not set"
        ),
    }
    for contestant in &contestants {
        until_it_answers(contestant).await;
    }
    for _ in 0..ROUNDS {
        for contestant in &mut contestants {
            let (rate, mut latencies) = load(&contestant.address).await;
            contestant.rates.push(rate);
            contestant.latencies.append(&mut latencies);
        }
    }
    let bare = median(contestants[0].rates.clone());
    println!("{:32}{:>12}{:>12}{:>12}{:>16}", "", "requests/s", "p50", "p99", "of bare hyper");
    for contestant in &mut contestants {
        contestant.latencies.sort();
        let at = |share: usize| {
            contestant.latencies[contestant.latencies.len() * share / 100].as_micros()
        };
        let rate = median(contestant.rates.clone());
        let (p50, p99) = (at(50), at(99));
        println!("{:32}{rate:>12.0}{p50:>9} µs{p99:>9} µs{:>16.2}", contestant.name, rate / bare);
    }
    drop(contestants);
    server.stop().await;
}

/// Answers every request with a constant.
async fn bare(address: SocketAddr) {
    let listener = TcpListener::bind(address).await.expect("the port is free");
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("a socket option");
        let answer = |_: Request<Incoming>| async {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello, world\n"))))
        };
        tokio::spawn(async move {
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await;
        });
    }
}

fn contestant(name: &'static str, address: String, command: &mut Command) -> Contestant {
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    Contestant { name, address, _child: child, rates: Vec::new(), latencies: Vec::new() }
}

fn bare_hyper() -> Contestant {
    let address = format!("127.0.0.1:{}", free_port());
    let own = std::env::current_exe().expect("this program has a path");
    contestant("hyper, a constant", address.clone(), Command::new(own).args([BARE, &address]))
}

/// A host with the HTTP server and the echo actor, in a lattice of its own.
async fn host(
    dir: &TempDir,
    nats: &str,
    lattice: &'static str,
    name: &'static str,
    flags: &[&str],
    reuse: &str,
) -> Contestant {
    let home = dir.path().join(lattice);
    std::fs::create_dir_all(&home).expect("a directory");
    let client = async_nats::connect(nats).await.expect("connected");
    let mut events =
        client.subscribe(format!("wasmbus.evt.{lattice}.host_started")).await.expect("subscribed");
    let address = format!("127.0.0.1:{}", free_port());
    let contestant = contestant(
        name,
        address.clone(),
        Command::new(env!("CARGO_BIN_EXE_host"))
            .arg("foreground")
            .args(["--nats-host", nats, "--js-domain", "core", "--lattice-prefix", lattice])
            .args(["--cluster-seed", CLUSTER_SEED, "--allow-file-load", "--log-level", "warn"])
            .args(flags)
            .current_dir(&home)
            .env("HOME", &home),
    );
    let started = futures::StreamExt::next(&mut events).await.expect("the host starts");
    let started: serde_json::Value =
        serde_json::from_slice(&started.payload).expect("an event is JSON");
    let id = started["source"].as_str().expect("a source").to_owned();
    let order = |verb, body: String, event| command_of(&client, lattice, &id, verb, body, event);
    order("lp", r#"{"provider_ref":"builtin://httpserver"}"#.into(), "provider_started").await;
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/actors/signed/echo.wasm");
    let body = serde_json::json!({
        "actor_ref": format!("file://{}", path.display()), "count": CONCURRENCY,
        "annotations": {"lattice.host/instance-reuse": reuse},
    });
    order("scale", body.to_string(), "actor_scaled").await;
    let link = serde_json::json!({
        "actor_id": ECHO, "provider_id": httpserver::SPEC.public_key, "link_name": "default",
        "contract_id": httpserver::SPEC.contract_id, "values": {"address": address},
    });
    let subject = format!("wasmbus.ctl.{lattice}.linkdefs.put");
    client.request(subject, link.to_string().into()).await.expect("an ack");
    contestant
}

fn wasmtime() -> Option<PathBuf> {
    let vars = ProcessEnvironment.vars();
    let value =
        |name: &str| vars.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    if let Some(path) = value("WASMTIME") {
        return Some(path.into());
    }
    let path = value("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("wasmtime")).find(|file| file.is_file())
}

fn wasmtime_serve(binary: &Path, name: &'static str, flags: &[&str]) -> Contestant {
    let address = format!("127.0.0.1:{}", free_port());
    let hello = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/bench/hello.wasm");
    contestant(
        name,
        address.clone(),
        Command::new(binary).arg("serve").args(flags).args(["--addr", &address]).arg(hello),
    )
}

async fn until_it_answers(contestant: &Contestant) {
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(
            Instant::now() < patience,
            "{} does not answer on {}",
            contestant.name,
            contestant.address
        );
        if let Ok(mut connection) = Connection::open(&contestant.address).await
            && connection.exchange().await
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One round: requests per second, and the time of each.
async fn load(address: &str) -> (f64, Vec<Duration>) {
    let over = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let workers: Vec<_> = (0..CONCURRENCY)
        .map(|_| {
            let (address, over) = (address.to_owned(), Arc::clone(&over));
            tokio::spawn(async move {
                let mut connection = Connection::open(&address).await.expect("connected");
                let mut times = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let sent = Instant::now();
                    assert!(connection.exchange().await, "a request fails on {address}");
                    times.push(sent.elapsed());
                }
                times
            })
        })
        .collect();
    tokio::time::sleep(ROUND).await;
    over.store(true, Ordering::Relaxed);
    let mut times = Vec::new();
    for worker in workers {
        times.extend(worker.await.expect("no request fails"));
    }
    (times.len() as f64 / began.elapsed().as_secs_f64(), times)
}

/// A keep-alive connection that costs next to nothing: one constant request at a time.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: &str) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096) })
    }

    /// Sends a request and reads its whole answer; whether that is a success.
    async fn exchange(&mut self) -> bool {
        if self.stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.is_err() {
            return false;
        }
        self.buffer.clear();
        loop {
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(read) if read > 0 && is_whole(&self.buffer) => {
                    return self.buffer.starts_with(b"HTTP/1.1 200");
                }
                Ok(read) if read > 0 => {}
                _ => return false,
            }
        }
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return false;
    };
    let (head, body) = (&answer[..end], &answer[end + 4..]);
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    match head.lines().find_map(|line| line.strip_prefix("content-length:")) {
        Some(length) => length.trim().parse::<usize>().is_ok_and(|length| body.len() >= length),
        None => body.ends_with(b"0\r\n\r\n"),
    }
}

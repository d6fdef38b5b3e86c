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

use std::{convert::Infallible, net::SocketAddr, path::Path};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::{net::TcpListener, process::Command};

use common::{
    ECHO,
    contest::{Actor, Contestant, Page, compare, wasmtime},
    free_port, start_server,
};

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

async fn run() {
    let dir = TempDir::new().expect("a directory");
    let (server, nats) = start_server(&dir).await;
    let page = Page::default();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/actors/signed/echo.wasm");
    let fresh = Actor { id: ECHO.to_owned(), file, reuse: Some("1") };
    let reused = Actor { reuse: Some(REUSE), ..fresh.clone() };
    let mut contestants = vec![bare_hyper()];
    for (names, actor, flags) in [
        (("fresh", "fresh instances"), &fresh, &[][..]),
        (("reused", "instances reused"), &reused, &[]),
        (("remote", "over NATS"), &fresh, &["--no-local-calls"]),
    ] {
        contestants.push(Contestant::host(&dir, &nats, names, actor, page, flags).await);
    }
    match wasmtime() {
        Some(binary) => {
            let hello = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/hello.wasm");
            let pooling = ["-O", "pooling-allocator=y"];
            let keep = ["-O", "pooling-allocator=y", "-O", "pooling-memory-keep-resident=2097152"];
            let reuse = [&keep[..], &["--max-instance-reuse-count", REUSE]].concat();
            for (name, flags) in [
                ("wasmtime serve, pooling", &pooling[..]),
                ("wasmtime serve, keep resident", &keep),
                ("wasmtime serve, reused", &reuse),
            ] {
                contestants.push(Contestant::wasmtime(&binary, name, page, &hello, flags));
            }
        }
        None => println!(
            "`wasmtime serve` is not measured: no wasmtime on the PATH, and $WASMTIME is not set"
        ),
    }
    compare(contestants, "of bare hyper").await;
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

fn bare_hyper() -> Contestant {
    let address = format!("127.0.0.1:{}", free_port());
    let own = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(own);
    Contestant::start(
        "hyper, a constant",
        address.clone(),
        Page::default(),
        command.args([BARE, &address]),
    )
}

//! The cost of components, beside `wasmtime serve` in the same run where it can run them:
//!
//! * requests per second of hello components in Rust (WASI 0.2 and 0.3), of guests in JavaScript
//!   and Python (WASI 0.2.3 and 0.2.10), and of one in Python of WASI 0.3;
//! * `wasmtime serve` with the same files, with its defaults, with an instance per request and with
//!   instances reused, if a `wasmtime` is on the PATH or named by `$WASMTIME` (`cargo install
//!   wasmtime-cli --version ^48` makes one). It has no `wasi:logging`, so it cannot run the pages
//!   of `examples/components`, nor what Spin's Python imports;
//! * the time until a guest of 25 MB runs: for the first time, and again by another process;
//! * the memory that a hundred actors of 13 MB of JavaScript take that nobody calls.
//!
//! `cargo bench --bench components`. The guests are built with npm and pip, as in the tests. The
//! rounds of all take turns; absolute numbers are the machine's, the ratios are ours.

mod common;
#[path = "../it/harness/packages.rs"]
mod packages;
#[path = "../it/harness/toolchains.rs"]
mod toolchains;

use std::{
    fs,
    path::{Path, PathBuf},
};

use lattice_protocol::identity::{
    keys::Kind,
    sign::{self, ActorToken, Term},
    signature::SigningKey,
    wasm::inspect,
};
use tempfile::TempDir;

use common::{
    contest::{Actor, Contestant, Member, Page, compare, wasmtime},
    millis, start_server,
};
use toolchains::{JAVASCRIPT, PYTHON, Recipe, SPIN_JAVASCRIPT, SPIN_PYTHON};

/// Calls one instance serves where instances are reused, here and in `wasmtime serve`.
const REUSE: &str = "1000";
const IDLE_ACTORS: u64 = 100;

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run());
}

async fn run() {
    let dir = TempDir::new().expect("a directory");
    let (server, nats) = start_server(&dir).await;
    starts(&dir, &nats).await;
    idle(&dir, &nats).await;
    rates(&dir, &nats).await;
    server.stop().await;
}

/// Signs a component for what it imports, with keys of its own.
fn signed(dir: &TempDir, wasm: &[u8]) -> Actor {
    let key = |kind| SigningKey::generate(kind).expect("a key").0;
    let (module, account) = (key(Kind::Module), key(Kind::Account));
    let caps = inspect(wasm).expect("a component").contracts();
    let says = ActorToken {
        name: "guest".into(),
        caps: caps.into_iter().map(str::to_owned).collect(),
        ..ActorToken::default()
    };
    let signed = sign::module(wasm, &says, &module, &account, &Term::default()).expect("signed");
    let file = dir.path().join(format!("{}.wasm", module.public_key()));
    fs::write(&file, signed).expect("written");
    Actor { id: module.public_key().to_owned(), file, reuse: Some("1") }
}

/// Measures how long the largest guest takes to start.
async fn starts(dir: &TempDir, nats: &str) {
    let wasm = SPIN_PYTHON.component();
    let actor = signed(dir, &wasm);
    let home = dir.path().join("starts");
    println!("{:32}{:>12}", format!("start of {} MB", wasm.len() / 1_000_000), "ms");
    for what in ["for the first time", "again, by another process"] {
        let member = Member::start(&home, nats, "starts", &[]).await;
        println!("{what:32}{:>12.0}", millis(member.run(&actor).await));
    }
    println!();
}

/// Measures the memory of actors that are only there.
async fn idle(dir: &TempDir, nats: &str) {
    let wasm = JAVASCRIPT.component();
    let member = Member::start(&dir.path().join("idle"), nats, "idle", &[]).await;
    let resident = || resident_bytes(member.child.id().expect("it runs"));
    member.run(&signed(dir, &wasm)).await;
    let with_one = resident();
    for _ in 0..IDLE_ACTORS {
        member.run(&signed(dir, &wasm)).await;
    }
    let more = resident().saturating_sub(with_one);
    println!("{:32}{:>12}", "memory", "MiB");
    println!("{:32}{:>12.1}", "a host with a JavaScript actor", mib(with_one));
    println!("{:32}{:>12.1}\n", format!("{IDLE_ACTORS} more"), mib(more));
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1024 * 1024)
}

/// Returns the memory that a process has in RAM; 0 where the system does not tell in this way.
fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

async fn rates(dir: &TempDir, nats: &str) {
    let (hello, hello_p3) = (beside("hello.wasm"), beside("hello-p3.wasm"));
    let fresh = signed(dir, &fs::read(&hello).expect("the hello component"));
    let reused = Actor { reuse: Some(REUSE), ..fresh.clone() };
    let p3_fresh = signed(dir, &fs::read(&hello_p3).expect("the hello component of WASI 0.3"));
    // An instance of WASI 0.3 is reused unless an annotation says otherwise.
    let p3_usual = Actor { reuse: None, ..p3_fresh.clone() };
    let page = Page::default();
    // The pages of visitors are asked for what needs no store.
    let absent = Page { path: "/absent", status: "404" };
    let greeting = Page { path: "/hello/you", ..page };
    let mut contestants = Vec::new();
    for (names, actor, page) in [
        (("fresh", "hello, fresh instances"), fresh, page),
        (("reused", "hello, instances reused"), reused, page),
        (("p3fresh", "hello 0.3, fresh instances"), p3_fresh, page),
        (("p3usual", "hello 0.3, default reuse"), p3_usual, page),
        (("javascript", "JavaScript 0.2.10"), built(dir, &JAVASCRIPT), absent),
        (("python", "Python 0.2.10"), built(dir, &PYTHON), absent),
        (("spinjs", "Spin's JavaScript 0.2.3"), built(dir, &SPIN_JAVASCRIPT), greeting),
        (("spinpython", "Spin's Python 0.3"), built(dir, &SPIN_PYTHON), page),
    ] {
        contestants.push(Contestant::host(dir, nats, names, &actor, page, &[]).await);
    }
    match wasmtime() {
        Some(binary) => {
            let javascript = unsigned(dir, &SPIN_JAVASCRIPT);
            for (name, component, page, flags) in [
                ("wasmtime serve, hello", &hello, page, &[][..]),
                ("wasmtime serve, hello, fresh", &hello, page, &pool_flags("1")[..]),
                ("wasmtime serve, hello, reused", &hello, page, &pool_flags(REUSE)[..]),
                ("wasmtime serve, hello 0.3", &hello_p3, page, &[]),
                ("wasmtime serve, hello 0.3, fresh", &hello_p3, page, &pool_flags("1")),
                ("wasmtime serve, JavaScript", &javascript, greeting, &["-S", "cli"]),
            ] {
                contestants.push(Contestant::wasmtime(&binary, name, page, component, flags));
            }
        }
        None => println!(
            "`wasmtime serve` is not measured: no wasmtime on the PATH, and $WASMTIME is not set"
        ),
    }
    compare(contestants, "of the first").await;
}

/// Returns the path of a component that lies beside this file.
fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench").join(name)
}

/// The flags with which `wasmtime serve` keeps a pool, as a host does.
fn pool_flags(reuse: &'static str) -> [&'static str; 4] {
    ["-O", "pooling-allocator=y", "--max-instance-reuse-count", reuse]
}

fn built(dir: &TempDir, recipe: &Recipe) -> Actor {
    signed(dir, &recipe.component())
}

fn unsigned(dir: &TempDir, recipe: &Recipe) -> PathBuf {
    let file = dir.path().join("unsigned.wasm");
    fs::write(&file, recipe.component()).expect("written");
    file
}

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
    borrow::Cow,
    fs,
    path::{Path, PathBuf},
};

use lattice_cli::{
    bench::{
        Settings,
        bare::{Bare, find_wasmtime},
        guests::{Actor, Guest},
        http::{Http, until_it_answers},
        idle::{Idle, Kind, grow},
        load::Pace,
        report::table,
        rounds,
        row::{Group, Row},
        stage::{Member, REUSE, Server},
    },
    terminal::{Columns, Form, Progress, Terminal},
};

use common::{millis, runtime};
use toolchains::{JAVASCRIPT, PYTHON, Recipe, SPIN_JAVASCRIPT, SPIN_PYTHON};

const IDLE_ACTORS: u32 = 101;
/// Requests in work at a time.
const CONCURRENCY: usize = 64;
const SETTINGS: Settings = Settings { rounds: 5, seconds: 3.0, rate: 0.0 };
/// The first row, which the others are compared with.
const FIRST: &str = "hello, fresh instances";

fn main() {
    runtime().block_on(run());
}

async fn run() {
    let server = Server::start().await.expect("a server");
    let mut progress = Terminal::new(Form::default()).progress();
    starts(&server).await;
    idle(&server, &mut progress).await;
    rates(&server, &mut progress).await;
    server.stop().await;
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_host"))
}

fn guest(wasm: Vec<u8>) -> Guest {
    Guest::of("guest", Cow::Owned(wasm)).expect("a component")
}

fn signed(server: &Server, wasm: Vec<u8>) -> Actor {
    let dir = server.dir_of("actors").expect("a directory");
    guest(wasm).sign(&dir).expect("signed")
}

/// Measures how long the largest guest takes to start.
async fn starts(server: &Server) {
    let wasm = SPIN_PYTHON.component();
    println!("{:32}{:>12}", format!("start of {} MB", wasm.len() / 1_000_000), "ms");
    let actor = signed(server, wasm);
    for what in ["for the first time", "again, by another process"] {
        let member = Member::start(program(), server, "starts").await.expect("a host");
        let took = member.run(&actor, Some("1")).await.expect("it starts");
        println!("{what:32}{:>12.0}", millis(took));
        member.end().await;
    }
    println!();
}

/// Measures the memory of actors that are only there.
async fn idle(server: &Server, progress: &mut Progress) {
    let guest = guest(JAVASCRIPT.component());
    let member = Member::start(program(), server, "idle").await.expect("a host");
    let steps = grow(server, &member, &guest, Kind::Same, IDLE_ACTORS, progress).await;
    let steps = steps.expect("they start");
    member.end().await;
    println!("{:32}{:>12}", "memory", "MB");
    for step in &steps {
        let megabytes = step.resident_bytes.unwrap_or_default() as f64 / 1e6;
        println!("{:32}{megabytes:>12.1}", format!("{} JavaScript actors", step.actors));
    }
    let each = Idle::per_actor(&steps).unwrap_or_default();
    println!("{:32}{:>12.2}\n", "one more", each / 1e6);
}

async fn rates(server: &Server, progress: &mut Progress) {
    let (hello, hello_p3) = (beside("hello.wasm"), beside("hello-p3.wasm"));
    let read = |file: &PathBuf| fs::read(file).expect("a component");
    let member = Member::start(program(), server, "rates").await.expect("a host");
    member.serve().await.expect("an HTTP server");
    let mut rows = Vec::new();
    for (name, wasm, reuse, path) in [
        (FIRST, read(&hello), Some("1"), "/"),
        ("hello, instances reused", read(&hello), Some(REUSE), "/"),
        ("hello 0.3, fresh instances", read(&hello_p3), Some("1"), "/"),
        // An instance of WASI 0.3 is reused unless an annotation says otherwise.
        ("hello 0.3, default reuse", read(&hello_p3), None, "/"),
        // The pages of visitors are asked for what needs no store.
        ("JavaScript 0.2.10", JAVASCRIPT.component(), Some("1"), "/absent"),
        ("Python 0.2.10", PYTHON.component(), Some("1"), "/absent"),
        ("Spin's JavaScript 0.2.3", SPIN_JAVASCRIPT.component(), Some("1"), "/hello/you"),
        ("Spin's Python 0.3", SPIN_PYTHON.component(), Some("1"), "/"),
    ] {
        let actor = signed(server, wasm);
        member.run(&actor, reuse).await.expect("it starts");
        let address = member.publish(&actor).await.expect("it is linked");
        rows.push(row(name, Http::to(address, path)).await);
    }
    rows.extend(others(server, &hello, &hello_p3).await);
    let measured = rounds(&SETTINGS, rows, progress).await.expect("they answer");
    let measured: Vec<_> = measured.iter().collect();
    println!("{}", table(&measured).render(None, Columns::Usual));
    member.end().await;
}

async fn row(name: &str, http: Http) -> Row {
    let http = until_it_answers(http).await.expect("it answers");
    let row = Row::new(Group::Http, name, Pace::Closed { callers: CONCURRENCY }, http);
    if name == FIRST { row } else { row.beside(FIRST) }
}

/// `wasmtime serve` with the same files, if there is one.
async fn others(server: &Server, hello: &Path, hello_p3: &Path) -> Vec<Row> {
    let Some(binary) = find_wasmtime() else {
        println!(
            "`wasmtime serve` is not measured: no wasmtime on the PATH, and $WASMTIME is not set"
        );
        return Vec::new();
    };
    let javascript = unsigned(server, &SPIN_JAVASCRIPT);
    let mut rows = Vec::new();
    for (name, component, path, flags) in [
        ("wasmtime serve, hello", hello, "/", &[][..]),
        ("wasmtime serve, hello, fresh", hello, "/", &pool_flags("1")[..]),
        ("wasmtime serve, hello, reused", hello, "/", &pool_flags(REUSE)[..]),
        ("wasmtime serve, hello 0.3", hello_p3, "/", &[]),
        ("wasmtime serve, hello 0.3, fresh", hello_p3, "/", &pool_flags("1")),
        ("wasmtime serve, JavaScript", &javascript, "/hello/you", &["-S", "cli"]),
    ] {
        let bare = Bare::wasmtime(&binary, component, flags).await.expect("it serves");
        rows.push(row(name, Http::of(bare, path)).await);
    }
    rows
}

/// Returns the path of a component that lies beside this file.
fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench").join(name)
}

/// The flags with which `wasmtime serve` keeps a pool, as a host does.
fn pool_flags(reuse: &'static str) -> [&'static str; 4] {
    ["-O", "pooling-allocator=y", "--max-instance-reuse-count", reuse]
}

fn unsigned(server: &Server, recipe: &Recipe) -> PathBuf {
    let file = server.dir().join("unsigned.wasm");
    fs::write(&file, recipe.component()).expect("written");
    file
}

//! Servers of HTTP that are measured beside each other: each is a process of its own, all get the
//! same load from this one, and the rounds of all take turns.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use lattice_base::config::{Environment, ProcessEnvironment};
use lattice_engine::providers::builtin::httpserver;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
};

use super::{CLUSTER_SEED, CONCURRENCY, command_of, free_port, median};

const ROUND: Duration = Duration::from_secs(3);
const ROUNDS: usize = 5;
/// How long a server may take until it answers, compiling included.
const PATIENCE: Duration = Duration::from_secs(600);

/// A server that takes part, and what was measured of it.
pub struct Contestant {
    name: &'static str,
    address: String,
    page: Page,
    _child: Child,
    rates: Vec<f64>,
    latencies: Vec<Duration>,
}

/// A request, and the status that its answer must have.
#[derive(Clone, Copy)]
pub struct Page {
    pub path: &'static str,
    pub status: &'static str,
}

impl Default for Page {
    fn default() -> Self {
        Self { path: "/", status: "200" }
    }
}

impl Contestant {
    /// Starts a program that will listen on `address`.
    pub fn start(name: &'static str, address: String, page: Page, command: &mut Command) -> Self {
        Self::running(name, address, page, quiet(command).spawn().expect("it starts"))
    }

    fn running(name: &'static str, address: String, page: Page, child: Child) -> Self {
        Self { name, address, page, _child: child, rates: Vec::new(), latencies: Vec::new() }
    }

    /// `wasmtime serve` with a component.
    pub fn wasmtime(
        binary: &Path,
        name: &'static str,
        page: Page,
        component: &Path,
        flags: &[&str],
    ) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let mut serve = Command::new(binary);
        serve.arg("serve").args(flags).args(["--addr", &address]).arg(component);
        Self::start(name, address, page, &mut serve)
    }

    /// A host with the HTTP server and an actor, in a lattice of its own.
    pub async fn host(
        dir: &TempDir,
        nats: &str,
        (lattice, name): (&'static str, &'static str),
        actor: &Actor,
        page: Page,
        flags: &[&str],
    ) -> Self {
        let member = Member::start(&dir.path().join(lattice), nats, lattice, flags).await;
        let address = member.serve(actor).await;
        Self::running(name, address, page, member.child)
    }
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true)
}

/// An actor, and how it is to run.
#[derive(Clone)]
pub struct Actor {
    pub id: String,
    pub file: PathBuf,
    /// Calls that one instance serves; the usual number for its kind if not given.
    pub reuse: Option<&'static str>,
}

/// A host that is a process of its own.
pub struct Member {
    pub child: Child,
    pub id: String,
    lattice: &'static str,
    client: async_nats::Client,
}

impl Member {
    /// Starts one that keeps its files in `home`; it is ready when this returns.
    pub async fn start(home: &Path, nats: &str, lattice: &'static str, flags: &[&str]) -> Self {
        std::fs::create_dir_all(home).expect("a directory");
        let client = async_nats::connect(nats).await.expect("connected");
        let subject = format!("wasmbus.evt.{lattice}.host_started");
        let mut events = client.subscribe(subject).await.expect("subscribed");
        let mut command = Command::new(env!("CARGO_BIN_EXE_host"));
        command
            .arg("foreground")
            .args(["--nats-host", nats, "--js-domain", "core", "--lattice-prefix", lattice])
            .args(["--cluster-seed", CLUSTER_SEED, "--allow-file-load", "--log-level", "warn"])
            .args(flags)
            .current_dir(home)
            .env("HOME", home);
        let child = quiet(&mut command).spawn().expect("it starts");
        let started = futures::StreamExt::next(&mut events).await.expect("the host starts");
        let started: serde_json::Value =
            serde_json::from_slice(&started.payload).expect("an event is JSON");
        let id = started["source"].as_str().expect("a source").to_owned();
        Self { child, id, lattice, client }
    }

    async fn order(&self, verb: &str, body: String, event: &str) -> Duration {
        command_of(&self.client, self.lattice, &self.id, verb, body, event).await
    }

    /// Starts an actor; returns the time until it ran.
    pub async fn run(&self, actor: &Actor) -> Duration {
        let reuse = actor.reuse.map(|calls| ("lattice.host/instance-reuse", calls));
        let body = serde_json::json!({
            "actor_ref": format!("file://{}", actor.file.display()), "count": CONCURRENCY,
            "annotations": BTreeMap::from_iter(reuse),
        });
        self.order("scale", body.to_string(), "actor_scaled").await
    }

    /// Starts an actor behind the HTTP server; returns its address.
    async fn serve(&self, actor: &Actor) -> String {
        let address = self.front(actor).await;
        self.run(actor).await;
        address
    }

    /// Starts the HTTP server for an actor that may run elsewhere; returns its address.
    pub async fn front(&self, actor: &Actor) -> String {
        let address = format!("127.0.0.1:{}", free_port());
        let provider = r#"{"provider_ref":"builtin://httpserver"}"#.to_owned();
        self.order("lp", provider, "provider_started").await;
        let link = serde_json::json!({
            "actor_id": actor.id, "provider_id": httpserver::SPEC.known.public_key,
            "link_name": "default", "contract_id": httpserver::SPEC.known.contract_id,
            "values": {"address": address},
        });
        let subject = format!("wasmbus.ctl.{}.linkdefs.put", self.lattice);
        self.client.request(subject, link.to_string().into()).await.expect("an ack");
        address
    }
}

/// Finds the `wasmtime` that is on the PATH or named by `$WASMTIME`.
pub fn wasmtime() -> Option<PathBuf> {
    let vars = ProcessEnvironment.vars();
    let value =
        |name: &str| vars.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    if let Some(path) = value("WASMTIME") {
        return Some(path.into());
    }
    let path = value("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("wasmtime")).find(|file| file.is_file())
}

/// Measures all of them and prints a table. The last column compares their rates with the first
/// one's.
pub async fn compare(mut contestants: Vec<Contestant>, of_the_first: &str) {
    for contestant in &contestants {
        until_it_answers(contestant).await;
    }
    for _ in 0..ROUNDS {
        for contestant in &mut contestants {
            let (rate, mut latencies) = load(contestant).await;
            contestant.rates.push(rate);
            contestant.latencies.append(&mut latencies);
        }
    }
    let first = median(contestants[0].rates.clone());
    println!("{:32}{:>12}{:>12}{:>12}{of_the_first:>16}", "", "requests/s", "p50", "p99");
    for contestant in &mut contestants {
        contestant.latencies.sort();
        let at = |share: usize| {
            contestant.latencies[contestant.latencies.len() * share / 100].as_micros()
        };
        let rate = median(contestant.rates.clone());
        let (p50, p99) = (at(50), at(99));
        println!("{:32}{rate:>12.0}{p50:>9} µs{p99:>9} µs{:>16.2}", contestant.name, rate / first);
    }
}

async fn until_it_answers(contestant: &Contestant) {
    let patience = Instant::now() + PATIENCE;
    loop {
        assert!(
            Instant::now() < patience,
            "{} does not answer on {}",
            contestant.name,
            contestant.address
        );
        if let Ok(mut connection) = Connection::open(&contestant.address).await
            && connection.exchange(contestant.page).await
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One round: requests per second, and the time of each.
async fn load(contestant: &Contestant) -> (f64, Vec<Duration>) {
    let Contestant { address, page, .. } = contestant;
    let over = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let workers: Vec<_> = (0..CONCURRENCY)
        .map(|_| {
            let page = *page;
            let (address, over) = (address.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                let mut connection = Connection::open(&address).await.expect("connected");
                let mut times = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let sent = Instant::now();
                    assert!(connection.exchange(page).await, "a request fails on {address}");
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

/// A keep-alive connection that costs next to nothing: one request at a time.
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
    async fn exchange(&mut self, page: Page) -> bool {
        let request = format!("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", page.path);
        if self.stream.write_all(request.as_bytes()).await.is_err() {
            return false;
        }
        self.buffer.clear();
        loop {
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(read) if read > 0 && is_whole(&self.buffer) => {
                    let status = self.buffer.get(b"HTTP/1.1 ".len()..).unwrap_or_default();
                    return status.starts_with(page.status.as_bytes());
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

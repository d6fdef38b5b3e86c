//! Real nats-servers on free ports, each with its store in a directory of its own: one that all
//! tests share, where each gets a lattice of its own, and those of tests that do something to a
//! server.

use std::{
    fmt::Display,
    fs,
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use lattice_base::{config::ProcessEnvironment, dirs::Dirs};
use lattice_cli::up::nats_server;
use lattice_protocol::{identity::keys::LatticeName, lattice::subject::Subjects};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::{eventually, process::Running};

/// The domain of JetStream in the walk of the README.
const DOMAIN: &str = "core";

/// A server as a test sees it. One of its own is killed when dropped, and can be stopped, frozen
/// and configured; the shared one only gives a lattice.
pub struct Server {
    child: Option<Running>,
    /// `None` for the shared one.
    dir: Option<TempDir>,
    /// `host:port`; an IPv6 host in brackets.
    address: String,
    domain: Option<String>,
    lattice: String,
}

/// The server of all tests that do nothing to it.
struct Shared {
    address: String,
    /// Holds the guard's standard input. It is closed when this process ends; then the guard ends
    /// the server and removes its directory. The keeper of the tests waits for that.
    _guard: Child,
}

/// Starts the server and waits for the end of its standard input.
const GUARD: &str = r#""$0" --config "$1/nats.cfg" & read -r _; kill $!; wait $!; rm -rf "$1""#;

/// The binary, found or installed once for all tests.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let found = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            let dirs = Dirs::find(&ProcessEnvironment, std::env::home_dir().as_deref());
            runtime.block_on(nats_server::find_or_install(&ProcessEnvironment, &dirs))
        });
        found
            .join()
            .expect("the search does not panic")
            .expect("a nats-server can be found or installed")
    })
}

/// A port nobody listens on, and nobody else in these tests gets: a server may be away for a while
/// and come back to it. Below the ports that the system gives to outgoing connections, or one of
/// those could take it meanwhile.
pub fn free_port() -> u16 {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 20_000;
    static NEXT: OnceLock<AtomicU32> = OnceLock::new();
    // Test programs that run at the same time begin elsewhere.
    let next = NEXT.get_or_init(|| AtomicU32::new(std::process::id().wrapping_mul(997)));
    (0..COUNT)
        .filter_map(|_| u16::try_from(FIRST + next.fetch_add(1, Ordering::Relaxed) % COUNT).ok())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

impl Shared {
    async fn get() -> &'static Self {
        static SHARED: OnceCell<Shared> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    async fn start() -> Self {
        let dir = TempDir::new().expect("a directory").keep();
        let address = format!("127.0.0.1:{}", free_port());
        configure(&dir, &address, &jetstream(Some(DOMAIN)));
        let log = fs::File::create(dir.join("nats.log")).expect("a log file");
        let mut command = Command::new("sh");
        command.args(["-c", GUARD]).arg(binary()).arg(&dir);
        // An interrupt at the terminal is for the tests; the guard outlives them by a moment.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let guard = command.spawn().expect("sh runs");
        listening(&address).await;
        Self { address, _guard: guard }
    }
}

impl Server {
    /// A lattice that no other test is in, at the server that tests share, with JetStream in domain
    /// `core`. For tests that do nothing to the server itself, count nothing there, and name
    /// subjects, buckets and streams only with the name of their lattice.
    pub async fn shared() -> Self {
        static LATTICES: AtomicU32 = AtomicU32::new(1);
        let number = LATTICES.fetch_add(1, Ordering::Relaxed);
        Self {
            child: None,
            dir: None,
            address: Shared::get().await.address.clone(),
            domain: Some(DOMAIN.to_owned()),
            lattice: format!("test-{number}"),
        }
    }

    /// JetStream in domain `core`, as in the walk of the README.
    pub async fn start() -> Self {
        Self::with_domain(Some(DOMAIN)).await
    }

    /// JetStream in a domain, or without one.
    pub async fn with_domain(domain: Option<&str>) -> Self {
        Self::with_config(domain, &jetstream(domain)).await
    }

    /// Any configuration; `@DIR@` stands for the server's directory.
    pub async fn with_config(domain: Option<&str>, config: &str) -> Self {
        let mut server = Self::prepare("127.0.0.1", domain, config);
        server.resume().await;
        server
    }

    /// A server with an address and a configuration that does not run yet; [`Server::resume`]
    /// starts it.
    pub fn prepare(host: &str, domain: Option<&str>, config: &str) -> Self {
        let dir = TempDir::new().expect("a directory");
        let address = format!("{host}:{}", free_port());
        configure(dir.path(), &address, config);
        Self {
            child: None,
            dir: Some(dir),
            address,
            domain: domain.map(str::to_owned),
            lattice: "default".to_owned(),
        }
    }

    /// Writes another configuration, for the next start.
    pub fn configure(&self, config: &str) {
        configure(self.dir(), &self.address, config);
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The address as hosts are told, with a scheme.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    pub fn domain(&self) -> Option<&str> {
        self.domain.as_deref()
    }

    /// The subjects of the lattice that hosts and clients of the test are in.
    pub fn subjects(&self) -> Subjects {
        let lattice = LatticeName::parse(&self.lattice).expect("a name");
        Subjects::new(lattice, "wasmbus.ctl")
    }

    /// The name of the lattice that hosts and clients of the test are in.
    pub fn lattice(&self) -> &str {
        &self.lattice
    }

    /// A subject of the control interface of the lattice.
    pub fn ctl(&self, tail: impl Display) -> String {
        format!("wasmbus.ctl.{}.{tail}", self.lattice)
    }

    /// A subject of calls in the lattice.
    pub fn rpc(&self, tail: impl Display) -> String {
        format!("wasmbus.rpc.{}.{tail}", self.lattice)
    }

    /// A subject that no other test uses.
    pub fn own(&self, name: &str) -> String {
        format!("{name}.{}", self.lattice)
    }

    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("the server is the test's own").path()
    }

    /// Kills the server as a power cut does.
    pub fn kill(&mut self) {
        assert!(self.dir.is_some(), "the server is the test's own");
        self.child = None;
    }

    /// Freezes it; returns when none of its threads runs any more.
    pub async fn freeze(&self) {
        self.signal(Signal::STOP);
        super::process::frozen(self.child.as_ref().expect("the server runs").id()).await;
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().and_then(|child| Pid::from_raw(child.id().cast_signed()));
        kill_process(id.expect("the server runs"), signal).expect("the signal is sent");
    }

    /// Starts it again on the same port with the same store.
    pub async fn resume(&mut self) {
        let log = fs::File::create(self.dir().join("nats.log")).expect("a log file");
        let mut command = Command::new(binary());
        command.arg("--config").arg(self.dir().join("nats.cfg"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(Running::start(&mut command));
        listening(&self.address).await;
    }
}

fn jetstream(domain: Option<&str>) -> String {
    let line = domain.map(|domain| format!("domain: {domain}")).unwrap_or_default();
    // The streams of many lattices reserve more than a disk has, and use little of it.
    format!("jetstream {{ {line}\n store_dir: \"@DIR@/js\"\n max_file_store: 100TB }}")
}

fn configure(dir: &Path, address: &str, config: &str) {
    let config = config.replace("@DIR@", &dir.to_string_lossy());
    let text = format!("listen: \"{address}\"\n{config}");
    fs::write(dir.join("nats.cfg"), text).expect("the configuration is written");
}

async fn listening(address: &str) {
    eventually("the NATS server listens", || async {
        matches!(nats_server::probe(address).await, nats_server::Probe::Nats(_)).then_some(())
    })
    .await;
}

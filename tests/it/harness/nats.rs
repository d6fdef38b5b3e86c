//! A real nats-server on a free port, with its store in a directory of its own.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use lattice_base::{config::ProcessEnvironment, dirs::Dirs};
use lattice_cli::up::nats_server;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::eventually;

/// A running server; killed when dropped.
pub struct Server {
    child: Option<Child>,
    dir: TempDir,
    /// `host:port`; an IPv6 host in brackets.
    address: String,
    domain: Option<String>,
}

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

impl Server {
    /// JetStream in domain `core`, as in the walk of the README.
    pub async fn start() -> Self {
        Self::with_domain(Some("core")).await
    }

    /// JetStream in a domain, or without one.
    pub async fn with_domain(domain: Option<&str>) -> Self {
        let line = domain.map(|domain| format!("domain: {domain}")).unwrap_or_default();
        Self::with_config(domain, &format!("jetstream {{ {line}\n store_dir: \"@DIR@/js\" }}"))
            .await
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
        let server = Self { child: None, dir, address, domain: domain.map(str::to_owned) };
        server.configure(config);
        server
    }

    /// Writes another configuration, for the next start.
    pub fn configure(&self, config: &str) {
        let config = config.replace("@DIR@", &self.dir.path().to_string_lossy());
        let text = format!("listen: \"{}\"\n{config}", self.address);
        fs::write(self.dir.path().join("nats.cfg"), text).expect("the configuration is written");
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

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Kills the server as a power cut does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
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
        let log = fs::File::create(self.dir.path().join("nats.log")).expect("a log file");
        let child = Command::new(binary())
            .arg("--config")
            .arg(self.dir.path().join("nats.cfg"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("nats-server runs");
        self.child = Some(child);
        eventually("the NATS server listens", || async {
            matches!(nats_server::probe(&self.address).await, nats_server::Probe::Nats(_))
                .then_some(())
        })
        .await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

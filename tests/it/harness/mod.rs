//! The basis of the tests: a real nats-server, shared or of their own, hosts in this process or as
//! a child, and the real client crates of 2022 and 2024.
//!
//! Tests wait for events and states, never for time: [`eventually`] and [`Events::next`] have a
//! patience limit that only a failure reaches.

pub mod applications;
pub mod browser;
pub mod builtin;
pub mod client;
pub mod external;
pub mod fixtures;
pub mod guests;
pub mod hostile;
pub mod jwt;
pub mod nats;
pub mod origin;
pub mod packages;
pub mod pki;
pub mod process;
pub mod registry;
pub mod toolchains;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use lattice_base::{
    config::{Config, Sources},
    dirs::Dirs,
};
use lattice_engine::host::Host;
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub use client::Events;
pub use nats::Server;

/// How long anything may take before a test fails. Far beyond what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The example actors, signed.
pub fn example(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("examples/actors/signed")
        .join(format!("{name}.wasm"));
    format!("file://{}", path.display())
}

pub const ECHO: &str = "MBA7VIBPQH52R2V2OR2JIQIQW26SLI2KM3KZMSRRX6MXRVQM5Z4P26C2";
pub const KVCOUNTER: &str = "MCKFLHVNA3XIWBVZTCH37NGJRUGXU6WARY3XWVYDYR4LI2BRFHUJLUW3";
pub const PINGER: &str = "MAEYTZGIYOI6NGAAV6E3FHY7WAOASZXTKWRO74XNU2W7NOGINZI2GFRA";
pub const PONGER: &str = "MBMCAS5LWKBZ6PZVFOCZ4JNRKPY7Z4QQOPZKU43KBUYTAFU4HDBDVWFS";
pub const FETCHER: &str = "MA5YJOLVVEM4LXQRCQQSNVMD56ZFRJKCFSWHQOCGBQQNHXWGYK3JGJUD";
pub const PANTRY: &str = "MD2MV3ZRNE6GHMJRXLGLDF7ZS3JSFAU67EOH7KEKSSMOPUOTZ2JUBLIX";
pub const POSTBOX: &str = "MDH67KOWFTT5L4Q56OWVLGAQYHF52HBYLVT5GM6RW2MODFFJCHGDUAP6";
pub const RANDOGENLOGGER: &str = "MCTLBFHI4M53RJOMDVRT3VCFXDPAKOPWCF4TFINVRJYNWSYXVNKOV37Q";
/// The deterministic provider key of the protocol's golden vectors.
pub const PROVIDER: &str = "VDFJHLAXAUMHA4OWPOB4P7YO72AQR2HMIUYFOXLXE2DZGM633K7HYIF3";
/// A cluster key for tests.
pub const CLUSTER_SEED: &str = "SCAACAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAKOFQ";
pub const CLUSTER: &str = "CCFIRY65OQE7DFP5KLNS2PF2LVZMUZYJX4OZIEQ36N2IQANUB5XVZKMI";

/// A host in this process, with settings of its own.
pub struct TestHost {
    host: Option<Host>,
    pub id: String,
    dir: TempDir,
}

/// How a test host is to run.
#[derive(Clone)]
pub struct HostBuilder {
    flags: Vec<(&'static str, String)>,
    labels: Vec<(String, String)>,
    own_cache: bool,
}

/// A host that joins `server`'s lattice with the tests' cluster key and may load files.
pub fn host(server: &Server) -> HostBuilder {
    let mut builder = HostBuilder { flags: Vec::new(), labels: Vec::new(), own_cache: false };
    builder = builder
        .set("nats_host", &server.url())
        .set("lattice_prefix", server.lattice())
        .set("cluster_seed", CLUSTER_SEED)
        .set("enable_start_from_fs", "true");
    // Those that are about it say so.
    builder = builder.set("dashboard_port", "0").set("shared_code", "false");
    // Each place of the pool has two mappings, of which a process may have 65 530: the usual number
    // for a machine with much memory lets fewer hosts into this process than there are tests, and a
    // process that has none left ends in a panic.
    builder = builder.set("actor_instances_max", "128");
    match server.domain() {
        Some(domain) => builder.set("js_domain", domain),
        None => builder,
    }
}

impl HostBuilder {
    /// Sets a setting by its key.
    pub fn set(mut self, key: &'static str, value: &str) -> Self {
        self.flags.push((key, value.to_owned()));
        self
    }

    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Keeps images in a directory of its own.
    pub fn own_cache(mut self) -> Self {
        self.own_cache = true;
        self
    }

    /// Starts the host; it is ready when this returns.
    pub async fn start(self) -> TestHost {
        self.try_start().await.expect("the host starts")
    }

    pub async fn try_start(self) -> anyhow::Result<TestHost> {
        let dir = TempDir::new()?;
        let home = dir.path().to_path_buf();
        let sources = Sources {
            flags: self.flags,
            labels: self.labels,
            env: Box::new(Vec::<(String, String)>::new()),
            dir: home.clone(),
            home: Some(home.clone()),
            context: None,
        };
        let loaded = Config::load(&sources)?;
        if std::env::args().any(|argument| argument == "--nocapture") {
            lattice_base::telemetry::init(&loaded.config.log);
        }
        let mut dirs = Dirs::find(&*sources.env, Some(&home));
        if self.own_cache {
            share_compiled_code(&dirs.cache);
        } else {
            dirs.cache = shared_cache();
        }
        let host = Host::start(
            loaded.config,
            &dirs,
            &lattice_dashboard::Opener,
            &CancellationToken::new(),
        )
        .await?;
        let id = host.state().facts().id.to_string();
        Ok(TestHost { host: Some(host), id, dir })
    }
}

impl TestHost {
    /// The host itself.
    pub fn host(&self) -> &Host {
        self.host.as_ref().expect("it runs until it is stopped")
    }

    /// The directory of its own; with [`HostBuilder::own_cache`] its cache is in there.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The other hosts this one has heard of, and whether they are silent.
    pub fn other_hosts(&self) -> Vec<(String, bool)> {
        self.host.as_ref().map(|host| host.peers().others()).unwrap_or_default()
    }

    /// Waits until somebody asks it to stop.
    pub async fn stop_requested(&mut self) {
        if let Some(host) = &mut self.host {
            host.stop_requested().await;
        }
    }

    /// Stops in order.
    pub async fn stop(mut self) {
        if let Some(host) = self.host.take() {
            host.stop(None).await;
        }
    }
}

/// Compiled code is shared by all tests, or each would compile the same actors again.
fn shared_cache() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("cache")
}

/// Makes a cache directory that shares nothing with others but compiled code.
pub fn share_compiled_code(cache: &Path) {
    let shared = shared_cache().join("compiled");
    for dir in [cache, &shared] {
        std::fs::create_dir_all(dir).expect("a cache directory");
    }
    std::os::unix::fs::symlink(shared, cache.join("compiled"))
        .expect("a link to the compiled code");
}

/// Waits until `look` finds something; fails with `what` when it does not.
pub async fn eventually<T, F>(what: &str, look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    within_patience(look).await.unwrap_or_else(|| panic!("waited in vain: {what}"))
}

/// Waits until `look` finds something; none if the patience of tests ends before.
pub async fn within_patience<T, F>(mut look: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Option<T>>,
{
    let search = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, search).await.ok()
}

/// A member of a JSON value as text.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{pointer} in {value}"))
}

//! Hosts of a lattice with several NATS servers: in this process, or processes of their own.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use futures::StreamExt;
use lattice_base::{
    config::{Config, ProcessEnvironment, Sources},
    dirs::Dirs,
};
use lattice_cli::{bench::stage, up::nats_server};
use lattice_engine::{host::Host, providers::builtin::httpserver};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

const CLUSTER_SEED: &str = "SCAACAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAKOFQ";
const ECHO: &str = "MBA7VIBPQH52R2V2OR2JIQIQW26SLI2KM3KZMSRRX6MXRVQM5Z4P26C2";
/// Calls that the actor takes at a time.
const CALLS: usize = 64;

/// Finds a nats-server, or installs one.
pub async fn nats_binary() -> PathBuf {
    let dirs = Dirs::find(&ProcessEnvironment, std::env::home_dir().as_deref());
    nats_server::find_or_install(&ProcessEnvironment, &dirs).await.expect("a nats-server")
}

/// Returns a port that nobody listens on now.
pub fn free_port() -> u16 {
    stage::free_port().expect("a free port")
}

/// Starts a host of this process, with these settings besides the usual ones.
pub async fn start_host(dir: &TempDir, address: &str, settings: &[(&'static str, &str)]) -> Host {
    let home = dir.path().to_path_buf();
    let flags = [("nats_host", address), ("cluster_seed", CLUSTER_SEED), ("js_domain", "core")];
    let flags = flags.iter().chain(settings).map(|(key, value)| (*key, (*value).to_owned()));
    let sources = Sources {
        flags: flags.collect(),
        labels: Vec::new(),
        env: Box::new(Vec::<(String, String)>::new()),
        dir: home.clone(),
        home: Some(home.clone()),
        context: None,
    };
    let config = Config::load(&sources).expect("good settings").config;
    let dirs = Dirs::find(&*sources.env, Some(&home));
    Host::start(config, &dirs, &lattice_dashboard::Opener, &CancellationToken::new())
        .await
        .expect("the host starts")
}

/// A host that is a process of its own.
pub struct Member {
    pub child: Child,
    pub id: String,
    client: async_nats::Client,
}

impl Member {
    /// Starts one that keeps its files in `home`; it is ready when this returns.
    pub async fn start(home: &Path, nats: &str) -> Self {
        std::fs::create_dir_all(home).expect("a directory");
        let client = async_nats::connect(nats).await.expect("connected");
        let subject = "wasmbus.evt.default.host_started";
        let mut events = client.subscribe(subject).await.expect("subscribed");
        client.flush().await.expect("flushed");
        let mut command = Command::new(env!("CARGO_BIN_EXE_host"));
        command
            .args(["foreground", "--nats-host", nats, "--js-domain", "core"])
            .args(["--cluster-seed", CLUSTER_SEED, "--allow-file-load", "--log-level", "warn"])
            .args(["--dashboard-port", "0"])
            .current_dir(home)
            .env("HOME", home)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = stage::spawn(&mut command).expect("it starts");
        let started = events.next().await.expect("the host starts");
        let started: serde_json::Value =
            serde_json::from_slice(&started.payload).expect("an event is JSON");
        let id = started["source"].as_str().expect("a source").to_owned();
        Self { child, id, client }
    }

    /// Starts the echo actor.
    pub async fn run_echo(&self) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/actors/signed/echo.wasm");
        let body = serde_json::json!({
            "actor_ref": format!("file://{}", path.display()), "count": CALLS,
        });
        self.order("scale", body, "actor_scaled").await;
    }

    /// Starts the HTTP server for the echo actor, which may run elsewhere; returns its address.
    pub async fn front(&self) -> String {
        let address = format!("127.0.0.1:{}", free_port());
        let provider = serde_json::json!({"provider_ref": "builtin://httpserver"});
        self.order("lp", provider, "provider_started").await;
        let link = serde_json::json!({
            "actor_id": ECHO, "provider_id": httpserver::SPEC.known.public_key,
            "link_name": "default", "contract_id": httpserver::SPEC.known.contract_id,
            "values": {"address": address},
        });
        self.request("wasmbus.ctl.default.linkdefs.put", link).await;
        address
    }

    /// Sends a command to the host and waits for the event that tells of its end.
    async fn order(&self, verb: &str, body: serde_json::Value, event: &str) {
        let events = format!("wasmbus.evt.default.{event}");
        let mut events = self.client.subscribe(events).await.expect("subscribed");
        self.client.flush().await.expect("flushed");
        self.request(&format!("wasmbus.ctl.default.cmd.{}.{verb}", self.id), body).await;
        let event = tokio::time::timeout(Duration::from_secs(120), events.next()).await;
        event.expect("in time").expect("the event");
    }

    async fn request(&self, subject: &str, body: serde_json::Value) {
        let asked = self.client.request(subject.to_owned(), body.to_string().into());
        asked.await.expect("an ack");
    }
}

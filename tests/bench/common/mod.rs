//! The basis of benchmarks: a real nats-server, a host, and the control commands.

// Each benchmark uses a part of it.
#![allow(dead_code)]

pub mod contest;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use futures::StreamExt;
use lattice_base::{
    config::{Config, ProcessEnvironment, Sources},
    dirs::Dirs,
};
use lattice_cli::up::nats_server::{self, NatsServer};
use lattice_engine::host::Host;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub const CLUSTER_SEED: &str = "SCAACAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAKOFQ";
pub const ECHO: &str = "MBA7VIBPQH52R2V2OR2JIQIQW26SLI2KM3KZMSRRX6MXRVQM5Z4P26C2";
/// Calls in work at a time.
pub const CONCURRENCY: usize = 64;

/// Finds a nats-server, or installs one.
pub async fn nats_binary() -> PathBuf {
    let dirs = Dirs::find(&ProcessEnvironment, std::env::home_dir().as_deref());
    nats_server::find_or_install(&ProcessEnvironment, &dirs).await.expect("a nats-server")
}

/// An example actor, signed.
pub fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("examples/actors/signed")
        .join(format!("{name}.wasm"))
}

pub async fn start_server(dir: &TempDir) -> (NatsServer, String) {
    let binary = nats_binary().await;
    let port = free_port();
    let settings = nats_server::Settings {
        name: format!("bench-{port}"),
        address: format!("127.0.0.1:{port}"),
        domain: "core".into(),
        store_dir: dir.path().join("js"),
        dir: dir.path().into(),
        login: None,
        hub: None,
    };
    let server = NatsServer::start(&binary, &settings).await.expect("the server starts");
    (server, format!("nats://{}", settings.address))
}

pub async fn start_host(dir: &TempDir, address: &str, local_calls: &str) -> Host {
    start_host_with(dir, address, &[("local_calls", local_calls), ("dashboard_port", "0")]).await
}

/// A host with these settings besides the usual ones.
pub async fn start_host_with(
    dir: &TempDir,
    address: &str,
    settings: &[(&'static str, &str)],
) -> Host {
    let home = dir.path().to_path_buf();
    let flags = [
        ("nats_host", address),
        ("cluster_seed", CLUSTER_SEED),
        ("js_domain", "core"),
        ("enable_start_from_fs", "true"),
    ];
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

pub async fn start_actor(client: &async_nats::Client, host: &Host, name: &str) -> Duration {
    let path = example(name);
    let body = format!(r#"{{"actor_ref":"file://{}","count":{CONCURRENCY}}}"#, path.display());
    command(client, host, "scale", body, "actor_started").await
}

pub async fn stop_actor(client: &async_nats::Client, host: &Host, id: &str) {
    command(client, host, "sa", format!(r#"{{"actor_ref":"{id}"}}"#), "actors_stopped").await;
}

/// Sends a command to a host of this process and waits for the event that tells of its end.
async fn command(
    client: &async_nats::Client,
    host: &Host,
    verb: &str,
    body: String,
    event: &str,
) -> Duration {
    command_of(client, "default", host.state().facts().id.as_str(), verb, body, event).await
}

/// Sends a command to any host and waits for the event that tells of its end.
pub async fn command_of(
    client: &async_nats::Client,
    lattice: &str,
    host: &str,
    verb: &str,
    body: String,
    event: &str,
) -> Duration {
    let mut events =
        client.subscribe(format!("wasmbus.evt.{lattice}.{event}")).await.expect("subscribed");
    client.flush().await.expect("flushed");
    let began = Instant::now();
    let subject = format!("wasmbus.ctl.{lattice}.cmd.{host}.{verb}");
    client.request(subject, body.into()).await.expect("an ack");
    events.next().await.expect("the event");
    began.elapsed()
}

/// A port nobody listens on right now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}

pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

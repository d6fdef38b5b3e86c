//! Makes a hub of one's own: the NATS server that the servers of all machines join, in place of a
//! public one.
//!
//!     cargo run --example hub -- --dir ./my-hub --name hub.example.org
//!
//! writes everything into the directory and prints what to do next; with `--run` it starts the hub
//! as well and stops it at Ctrl-C. Run again it keeps the keys, so machines that were let in stay
//! so.

#[allow(dead_code, reason = "shared with another example and the tests, which use the rest")]
mod setup;

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use lattice_base::{config::ProcessEnvironment, dirs::Dirs};
use lattice_cli::up::nats_server;
use setup::{
    AUTHORITY, Addresses, CREDENTIALS, HUB_CONFIG, Hub,
    machines::{Changes, Kind},
};

/// How long the hub may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes the directory of a NATS hub: certificate, operator, account, credentials, and
/// configurations for the hub and for the servers of two machines.
#[derive(Debug, Parser)]
#[command(name = "hub")]
struct Arguments {
    /// Where everything is written
    #[arg(long, default_value = "hub")]
    dir: PathBuf,
    /// A name or address under which machines reach this hub; may be repeated, the first is written
    /// into their configurations
    #[arg(long = "name", value_name = "NAME OR IP", default_value = "127.0.0.1")]
    names: Vec<String>,
    /// Where clients with the credentials connect
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:4333")]
    listen: String,
    /// The port where the servers of the machines come in, on all addresses of this machine
    #[arg(long, value_name = "PORT", default_value_t = 7422)]
    leaf_port: u16,
    /// Start the hub as well, and stop it at Ctrl-C
    #[arg(long)]
    run: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { dir, names, listen, leaf_port, run } = Arguments::parse();
    if listen.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
        bail!("--listen {listen} is no address; use host:port, such as 127.0.0.1:4333");
    }
    let addresses = Addresses { clients: listen, leaves: format!("0.0.0.0:{leaf_port}"), names };
    let hub = Hub::prepare(&dir, &addresses)?;
    for kind in Kind::BOTH {
        hub.equip(&dir, kind, &Changes::default())?;
    }
    explain(&hub, &addresses, run);
    match run {
        true => serve(&hub).await,
        false => Ok(()),
    }
}

fn explain(hub: &Hub, addresses: &Addresses, run: bool) {
    let dir = hub.dir.display();
    println!(
        "A hub is ready in {dir}. It is trusted by its authority ({AUTHORITY}) and lets in who has {CREDENTIALS}.\n"
    );
    if !run {
        println!("1. Start it:\n\n    (cd {dir} && nats-server --config {HUB_CONFIG})\n");
    }
    println!(
        "{}On each machine take three files from {dir}, into the directory where its host will run:\n",
        step(run, 2)
    );
    println!("    first machine     {}      {CREDENTIALS}  {AUTHORITY}", Kind::Core.file_name());
    println!("    second machine    {}  {CREDENTIALS}  {AUTHORITY}\n", Kind::Extender.file_name());
    println!(
        "   {CREDENTIALS} is a secret. The two configurations are those of the repository, with {} as their hub",
        hub.url
    );
    println!("   and its authority named; they differ from them in nothing else.\n");
    println!("{}On the first machine:\n", step(run, 3));
    println!("    nats-server --config {}", Kind::Core.file_name());
    println!("    WASMCLOUD_JS_DOMAIN=core host foreground --allow-file-load\n");
    println!("{}On the second, with the first one's host_config.json beside them:\n", step(run, 4));
    println!("    nats-server --config {}", Kind::Extender.file_name());
    println!("    HOST_machine=second host foreground --allow-file-load\n");
    println!(
        "Clients of the hub itself: nats --server {} --creds {dir}/{CREDENTIALS} rtt",
        addresses.clients
    );
}

fn step(run: bool, number: u8) -> String {
    format!("{}. ", if run { number - 1 } else { number })
}

/// Runs the hub until Ctrl-C or a request to end.
async fn serve(hub: &Hub) -> Result<()> {
    let dirs = Dirs::find(&ProcessEnvironment, std::env::home_dir().as_deref());
    let binary = nats_server::find_or_install(&ProcessEnvironment, &dirs).await?;
    let binary = std::path::absolute(&binary).context("find the NATS server")?;
    println!("\nThe hub runs until Ctrl-C; its log:\n");
    let mut server = tokio::process::Command::new(&binary)
        .args(["--config", HUB_CONFIG])
        .current_dir(&hub.dir)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("run {}", binary.display()))?;
    tokio::select! {
        ended = server.wait() => {
            bail!("the hub ended ({}); its last lines above say why", ended.context("wait for the hub")?)
        }
        told = told_to_end() => told.context("listen to signals")?,
    }
    // At Ctrl-C the server has heard it too.
    #[cfg(unix)]
    if let Some(pid) =
        server.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
    {
        // An error means that it has ended already.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if tokio::time::timeout(STOP_TIMEOUT, server.wait()).await.is_err() {
        bail!("the hub does not stop; it is killed");
    }
    Ok(())
}

async fn told_to_end() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            interrupt = tokio::signal::ctrl_c() => interrupt,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

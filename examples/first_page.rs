//! Makes a page on a running host: starts two built-in providers and an actor, links them, and
//! prints the address.
//!
//! Run it in the directory where the host runs, whose `host_config.json` tells the server:
//!
//!     cargo run --release -- up --allow-file-load     # in one terminal
//!     cargo run --example first_page                  # in another
//!     curl http://127.0.0.1:8080/cats                 # counts
//!
//! Commands go through the client crate of early 2024; `wash` sends the same. Anything that already
//! runs is left as it is, so the example can be run again.

use std::{collections::HashMap, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use async_nats_2024::ConnectOptions;
use lattice_engine::providers::builtin::{Spec, httpserver, keyvalue};
use lattice_protocol::identity::operator::creds;
use serde::Deserialize;
use serde_json::Value;
use wasmcloud_control_interface_2024::{Client, ClientBuilder};

const KVCOUNTER: &str = "MCKFLHVNA3XIWBVZTCH37NGJRUGXU6WARY3XWVYDYR4LI2BRFHUJLUW3";
const ADDRESS: &str = "127.0.0.1:8080";
/// Calls of the actor at a time.
const REPLICAS: u32 = 50;
const PATIENCE: Duration = Duration::from_secs(10);

/// The part of `host_config.json` a client needs.
#[derive(Deserialize)]
struct HostConfig {
    ctl_host: String,
    ctl_port: u16,
    ctl_jwt: String,
    ctl_seed: String,
    lattice_prefix: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let config = std::fs::read("host_config.json").context(
        "read ./host_config.json (start a host in this directory first: cargo run --release -- up \
         --allow-file-load)",
    )?;
    let config: HostConfig = serde_json::from_slice(&config).context("read ./host_config.json")?;
    let server = format!("{}:{}", config.ctl_host, config.ctl_port);
    let options = match config.ctl_jwt.as_str() {
        "" => ConnectOptions::new(),
        jwt => ConnectOptions::with_credentials(&creds(jwt, &config.ctl_seed))
            .context("read the login")?,
    };
    let nats = options.connect(&server).await.with_context(|| format!("connect to {server}"))?;
    let ctl = ClientBuilder::new(nats).lattice(config.lattice_prefix.clone()).build();
    let hosts = ctl.get_hosts().await.map_err(|e| anyhow::anyhow!("ask for hosts: {e}"))?;
    let Some(host) = hosts.first() else {
        bail!("no host answers in lattice {}", config.lattice_prefix)
    };
    println!("host      {} ({})", host.id, host.friendly_name);

    for provider in [&httpserver::SPEC, &keyvalue::SPEC] {
        let reference = format!("builtin://{}", provider.known.name);
        start_provider(&ctl, &host.id, &reference).await?;
        println!("provider  {reference}");
    }
    let module =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/actors/signed/kvcounter.wasm");
    start_actor(&ctl, &host.id, &format!("file://{}", module.display())).await?;
    println!("actor     {KVCOUNTER}");
    link(&ctl, &httpserver::SPEC, [("address", ADDRESS)]).await?;
    link(&ctl, &keyvalue::SPEC, []).await?;
    println!("page      http://{ADDRESS}/cats");
    Ok(())
}

async fn start_provider(ctl: &Client, host: &str, reference: &str) -> Result<()> {
    let runs = ctl
        .get_host_inventory(host)
        .await
        .map_err(|e| anyhow::anyhow!("ask for the inventory: {e}"))?;
    if runs.providers.iter().any(|provider| provider.image_ref.as_deref() == Some(reference)) {
        return Ok(());
    }
    let kinds = vec!["provider_started".into(), "provider_start_failed".into()];
    let mut events =
        ctl.events_receiver(kinds).await.map_err(|e| anyhow::anyhow!("listen to events: {e}"))?;
    let ack = ctl.start_provider(host, reference, None, None, None).await;
    let ack = ack.map_err(|e| anyhow::anyhow!("start {reference}: {e}"))?;
    if !ack.accepted {
        bail!("the host refuses: {}", ack.error);
    }
    outcome(&mut events, reference).await
}

async fn start_actor(ctl: &Client, host: &str, reference: &str) -> Result<()> {
    let kinds = vec!["actor_scaled".into(), "actor_scale_failed".into()];
    let mut events =
        ctl.events_receiver(kinds).await.map_err(|e| anyhow::anyhow!("listen to events: {e}"))?;
    let ack = ctl.scale_actor(host, reference, REPLICAS, None).await;
    let ack = ack.map_err(|e| anyhow::anyhow!("start {reference}: {e}"))?;
    if !ack.accepted {
        bail!("the host refuses: {}", ack.error);
    }
    outcome(&mut events, reference).await
}

/// Waits for the event that tells how a start went.
async fn outcome<E: serde::Serialize>(
    events: &mut tokio::sync::mpsc::Receiver<E>,
    reference: &str,
) -> Result<()> {
    let event = tokio::time::timeout(PATIENCE, events.recv())
        .await
        .context("no event tells of the start")?;
    let event = serde_json::to_value(event.context("the events ended")?)?;
    match event.pointer("/data/error").and_then(Value::as_str) {
        Some(error) => bail!("{reference} did not start: {error}"),
        None => Ok(()),
    }
}

async fn link<const N: usize>(
    ctl: &Client,
    provider: &Spec,
    values: [(&str, &str); N],
) -> Result<()> {
    let values: HashMap<String, String> =
        values.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let ack = ctl
        .advertise_link(
            KVCOUNTER,
            provider.known.public_key,
            provider.known.contract_id,
            "default",
            values,
        )
        .await;
    let ack = ack.map_err(|e| anyhow::anyhow!("link the actor to {}: {e}", provider.known.name))?;
    if !ack.accepted {
        bail!("the host refuses the link: {}", ack.error);
    }
    Ok(())
}

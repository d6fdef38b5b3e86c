//! Starts the echo actor on a running host, calls it, shows the answer, and stops it again.
//!
//! Run it in the directory where the host runs, whose `host_config.json` tells the server, the
//! login for it, and the cluster seed that signs the call:
//!
//!     cargo run --release -- up --allow-file-load     # in one terminal
//!     cargo run --example first_call                  # in another
//!
//! Commands go through the client crate of early 2024, the call through the RPC client of provider
//! authors: nothing here is this host's own.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use async_nats_2024::ConnectOptions;
use bytes::Bytes;
use lattice_protocol::identity::operator::creds;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use wasmbus_rpc::{
    common::Message, core::WasmCloudEntity, rpc_client::RpcClient, wascap::prelude::KeyPair,
};
use wasmcloud_control_interface_2024::{Client, ClientBuilder};

const ECHO: &str = "MBA7VIBPQH52R2V2OR2JIQIQW26SLI2KM3KZMSRRX6MXRVQM5Z4P26C2";
const PATIENCE: Duration = Duration::from_secs(10);

/// The part of `host_config.json` a client needs.
#[derive(Deserialize)]
struct HostConfig {
    ctl_host: String,
    ctl_port: u16,
    ctl_jwt: String,
    ctl_seed: String,
    lattice_prefix: String,
    cluster_seed: String,
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
    println!("host     {} ({})", host.id, host.friendly_name);

    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/actors/signed/echo.wasm");
    start(&ctl, &host.id, &format!("file://{}", module.display())).await?;
    println!("actor    {ECHO}");

    let answer = call(&server, &config).await?;
    println!("answer   {answer}");

    let stopped = ctl
        .stop_actor(&host.id, ECHO, None)
        .await
        .map_err(|e| anyhow::anyhow!("stop the actor: {e}"))?;
    println!("stopped  {}", stopped.accepted);
    Ok(())
}

/// Starts the actor and waits for the event that tells how it went.
async fn start(ctl: &Client, host: &str, reference: &str) -> Result<()> {
    let mut events = ctl
        .events_receiver(vec!["actor_scaled".into(), "actor_scale_failed".into()])
        .await
        .map_err(|e| anyhow::anyhow!("listen to events: {e}"))?;
    let ack = ctl
        .scale_actor(host, reference, 1, None)
        .await
        .map_err(|e| anyhow::anyhow!("start the actor: {e}"))?;
    if !ack.accepted {
        bail!("the host refuses: {}", ack.error);
    }
    let event = tokio::time::timeout(PATIENCE, events.recv())
        .await
        .context("no event tells of the start")?;
    let event = serde_json::to_value(event.context("the events ended")?)?;
    match event.pointer("/data/error").and_then(Value::as_str) {
        Some(error) => bail!("the actor did not start: {error}"),
        None => Ok(()),
    }
}

/// Calls the actor as a provider of the HTTP server contract does, signed with the cluster seed.
async fn call(server: &str, config: &HostConfig) -> Result<Value> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct HttpRequest {
        method: &'static str,
        path: &'static str,
        query_string: &'static str,
        header: BTreeMap<String, Vec<String>>,
        body: Bytes,
    }
    #[derive(Deserialize)]
    struct HttpResponse {
        body: Bytes,
    }
    let request = HttpRequest {
        method: "GET",
        path: "/hello",
        query_string: "from=a+lattice",
        header: BTreeMap::new(),
        body: Bytes::new(),
    };
    let options = match config.ctl_jwt.as_str() {
        "" => wasmbus_rpc::async_nats::ConnectOptions::new(),
        jwt => wasmbus_rpc::async_nats::ConnectOptions::with_credentials(&creds(
            jwt,
            &config.ctl_seed,
        ))?,
    };
    let nats = options.connect(server).await.with_context(|| format!("connect to {server}"))?;
    let key = KeyPair::from_seed(&config.cluster_seed)
        .map_err(|e| anyhow::anyhow!("read the cluster seed: {e}"))?;
    let rpc = RpcClient::new(
        nats,
        "first_call".repeat(6)[..56].to_owned(),
        Some(PATIENCE),
        Arc::new(key),
    );
    let target = WasmCloudEntity::new_actor(ECHO)?;
    let argument = rmp_serde::to_vec_named(&request)?;
    let message = Message { method: "HttpServer.HandleRequest", arg: argument.into() };
    let reply = rpc.send(target.clone(), target, &config.lattice_prefix, message).await?;
    let response: HttpResponse = rmp_serde::from_slice(&reply)?;
    Ok(serde_json::from_slice(&response.body)?)
}

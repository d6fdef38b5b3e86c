//! Runs a capability provider without a host, for the work on one: gives it host data as a host
//! does, shows what it prints, and tells how it ended.
//!
//! ```text
//! nats-server &
//! cargo build --example provider_kvmemory
//! cargo run --example run_provider -- --executable target/debug/examples/provider_kvmemory \
//!     --provider VDFJHLAXAUMHA4OWPOB4P7YO72AQR2HMIUYFOXLXE2DZGM633K7HYIF3
//! ```
//!
//! With `--actor`, `--contract` and `--value` it is linked from the start; the actor is then called
//! over the lattice. Prints the number of the process on its standard output. Kill this program in
//! any way: the provider ends with it.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lattice_base::config::{ProcessEnvironment, Secret};
use lattice_engine::{
    journal::Journal,
    providers::external::{
        access::Access,
        host_data::{HostData, OtelConfig},
        process::{Exit, Launch, Process, environment},
    },
};
use lattice_protocol::{
    identity::keys::{HostId, LatticeName, LinkName, ProviderId},
    links::LinkDefinition,
};
use nkeys::KeyPair;

/// Runs a capability provider without a host
#[derive(Parser)]
struct Args {
    /// The provider
    #[arg(long, value_name = "FILE")]
    executable: PathBuf,

    /// Its public key (V...)
    #[arg(long, value_name = "KEY")]
    provider: String,

    /// The NATS server it is to use
    #[arg(long, default_value = "nats://127.0.0.1:4222", value_name = "URL")]
    nats: String,

    /// The lattice it belongs to
    #[arg(long, default_value = "default")]
    lattice: String,

    /// The link name it serves
    #[arg(long, default_value = "default")]
    link_name: String,

    /// An actor (M...) to link it with
    #[arg(long, value_name = "KEY", requires = "contract")]
    actor: Option<String>,

    /// The contract of that link
    #[arg(long, value_name = "CONTRACT")]
    contract: Option<String>,

    /// A value of that link; may be repeated
    #[arg(long = "value", value_name = "NAME=VALUE")]
    values: Vec<String>,

    /// The cluster seed (SC...) that callers sign with; a new one if not given
    #[arg(long, env = "WASMCLOUD_CLUSTER_SEED", hide_env_values = true, value_name = "SEED")]
    cluster_seed: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let args = Args::parse();
    let cluster = match &args.cluster_seed {
        Some(seed) => KeyPair::from_seed(seed).context("decode the cluster seed")?,
        None => KeyPair::new_cluster(),
    };
    let access = Access {
        url: Secret::new(&*args.nats),
        jwt: Secret::new(""),
        seed: Secret::new(""),
        environment: Vec::new(),
        limits: Vec::new(),
    };
    let host_data = HostData {
        host_id: HostId::parse(&KeyPair::new_server().public_key()).context("make a host key")?,
        lattice: LatticeName::parse(&args.lattice).context("read --lattice")?,
        link_name: LinkName::parse(&args.link_name).context("read --link-name")?,
        lattice_rpc_user_jwt: access.jwt.clone(),
        lattice_rpc_user_seed: access.seed.clone(),
        lattice_rpc_url: access.url.clone(),
        provider_id: ProviderId::parse(&args.provider).context("read --provider")?,
        cluster_seed: Secret::new(cluster.seed().context("take the cluster seed")?),
        env_values: Default::default(),
        instance_id: uuid::Uuid::new_v4().to_string(),
        links: link(&args)?.into_iter().collect(),
        cluster_issuers: vec![cluster.public_key()],
        configuration: None,
        default_rpc_timeout_ms: 2000,
        structured_logging: false,
        log_level: None,
        otel_config: OtelConfig::default(),
    };
    let environment = environment(&ProcessEnvironment, &[], &access);
    let journal = Journal::new(host_data.host_id.as_str());
    let launch = Launch {
        executable: &args.executable,
        host_data: &host_data,
        environment: &environment,
        journal: &journal,
    };
    let mut process = Process::spawn(launch).await?;
    println!("{}", process.pid());
    let exit = process.wait().await;
    ensure!(exit == Exit::Code(0), "the provider ended: {exit}");
    Ok(())
}

/// The link that the provider starts with.
fn link(args: &Args) -> Result<Option<Arc<LinkDefinition>>> {
    let (Some(actor), Some(contract)) = (&args.actor, &args.contract) else { return Ok(None) };
    let pair = |text: &String| {
        let (name, value) = text
            .split_once('=')
            .with_context(|| format!("read --value {text:?}, it has no `=`"))?;
        Ok((name.to_owned(), value.to_owned()))
    };
    Ok(Some(Arc::new(LinkDefinition {
        actor_id: actor.clone(),
        provider_id: args.provider.clone(),
        link_name: args.link_name.clone(),
        contract_id: contract.clone(),
        values: args.values.iter().map(pair).collect::<Result<_>>()?,
    })))
}

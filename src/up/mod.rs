//! `host up`: a NATS server and a host in one terminal.
//!
//! If a NATS server listens where the settings say, it is used as it is. Otherwise one is found or installed, started
//! with JetStream in a domain, and stopped after the host. What this process did not start it does not stop.

pub mod nats_server;

use std::path::Path;

use anyhow::{Context as _, Result};
use tracing::info;

use crate::{
    config::{Config, Sources},
    dirs::Dirs,
};
use nats_server::{NatsServer, Settings};

/// The JetStream domain when none is set; the one of the walk in the README.
const DOMAIN: &str = "core";

/// Adds the defaults of `up` to what the user said.
pub fn with_defaults(mut sources: Sources, table: &crate::config::Resolved) -> Sources {
    let unset = table.rows().iter().any(|row| row.key == "js_domain" && row.origin == crate::config::Origin::Default);
    if unset {
        sources.flags.push(("js_domain", DOMAIN.to_owned()));
    }
    sources
}

/// Makes sure that a NATS server listens; returns it if it was started here.
pub async fn ensure_server(config: &Config, dirs: &Dirs) -> Result<Option<NatsServer>> {
    let address = format!("{}:{}", config.ctl.host_text, config.ctl.port);
    match nats_server::probe(&address).await {
        nats_server::Probe::Nats(version) => {
            info!(%address, %version, "a NATS server runs already and is used");
            return Ok(None);
        }
        nats_server::Probe::Other => anyhow::bail!(
            "something that is no NATS server listens on {address}; choose another port with --ctl-port and --rpc-port"
        ),
        nats_server::Probe::Nothing => {}
    }
    let binary = nats_server::find_or_install(&crate::config::ProcessEnvironment, dirs).await?;
    let domain = config.js_domain.clone().unwrap_or_else(|| DOMAIN.to_owned());
    let settings = Settings {
        address: address.clone(),
        store_dir: dirs.data.join("nats").join(format!("{domain}-{}", config.ctl.port)),
        domain,
        // Servers on other ports have files of their own.
        log: dirs.state.join(format!("nats-server-{}.log", config.ctl.port)),
        config: dirs.state.join(format!("nats-server-{}.cfg", config.ctl.port)),
    };
    let server = NatsServer::start(&binary, &settings).await.with_context(|| start_hint(&settings.log))?;
    info!(%address, domain = %settings.domain, store = %settings.store_dir.display(), log = %settings.log.display(), "NATS server started");
    Ok(Some(server))
}

fn start_hint(log: &Path) -> String {
    format!("start the NATS server; its log is {}", log.display())
}

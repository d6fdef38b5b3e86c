//! Providers that are processes of their own: executables of 2021 to 2024, unmodified (wasmbus
//! protocol, section 9).
//!
//! * [`executable`] keeps unpacked executables in a private cache and checks them before each use;
//! * [`access`] finds out how the process is to log in to NATS, [`host_data`] writes down
//!   everything it is told;
//! * [`process`] runs it: hands over the host data, ends it, never leaves it behind;
//! * [`output`] carries what it prints into the log, with [`masks`] over the secrets it was told;
//! * [`health`] asks it how it is, and sees that it has every link.
//!
//! [`Launcher`] begins a run, [`watch`] follows it: until the process ends, or is asked to and
//! does.
//!
//! Links reach a provider in three ways, so that none is lost: those of the moment of its launch in
//! its host data; changes until it answered its first health check, right after that; all later
//! ones as they come, by [`delivery`](crate::delivery). Changes lost in an outage are made up for
//! at the next health check.
//!
//! A provider gets the cluster seed, because it signs its own calls with it. So running one means
//! trusting whoever signed it with the whole lattice.

pub mod access;
pub mod executable;
pub mod health;
pub mod host_data;
pub mod keeper;
pub mod masks;
pub mod output;
pub mod process;

use std::{path::Path, sync::Arc, time::Duration};

use serde_json::json;
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tracing::{Instrument, debug, info, warn};
use uuid::Uuid;

use crate::{
    delivery::LinkSender,
    events::Publisher,
    journal::Journal,
    links::Live,
    providers::{StopSignal, told_to_stop},
};
use access::{Access, AccessError};
use health::{Health, HealthChecks};
use host_data::{HostData, OtelConfig, log_level};
use lattice_base::{
    config::{Connection, Secret},
    telemetry::otel::settings::Variables,
};
use lattice_protocol::{
    clock,
    events::event::ProviderContext,
    identity::keys::{HostId, LatticeName, LinkName, ProviderId},
    lattice::subject::Subjects,
    links::{LinkDefinition, table::LinksTo},
};
use process::{Exit, Launch, Process, SpawnError};

/// How long a provider may take to confirm that it is going to end. Those that do so answer at
/// once.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the system may take to end a killed process.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// The launcher of a host's provider processes, with the data that all of them receive.
pub struct Launcher {
    pub host: HostId,
    pub lattice: LatticeName,
    /// How providers reach NATS.
    pub connection: Connection,
    pub cluster_seed: Secret,
    pub cluster_issuers: Vec<String>,
    pub rpc_timeout: Duration,
    pub structured_logging: bool,
    /// The host's own environment, and the names of what is passed on.
    pub environment: Vec<(String, String)>,
    pub passed: Vec<String>,
    pub links: Live,
    pub journal: Journal,
}

/// Why a run did not begin.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
}

impl Launcher {
    /// Starts a process and tells it what it has to know; returns it with the links it was told.
    pub async fn launch(
        &self,
        executable: &Path,
        id: &ProviderId,
        link_name: &LinkName,
        instance: Uuid,
        configuration: Option<&str>,
    ) -> Result<(Process, Vec<Arc<LinkDefinition>>), LaunchError> {
        let access = Access::find(&self.connection).await?;
        for limit in &access.limits {
            warn!("{limit}");
        }
        let given: Vec<_> =
            self.links.table().links_of(id.as_str(), link_name.as_str()).cloned().collect();
        let host_data = HostData {
            host_id: self.host.clone(),
            lattice: self.lattice.clone(),
            link_name: link_name.clone(),
            lattice_rpc_user_jwt: access.jwt.clone(),
            lattice_rpc_user_seed: access.seed.clone(),
            lattice_rpc_url: access.url.clone(),
            provider_id: id.clone(),
            cluster_seed: self.cluster_seed.clone(),
            env_values: Default::default(),
            instance_id: instance.to_string(),
            links: given.clone(),
            cluster_issuers: self.cluster_issuers.clone(),
            configuration: configuration.map(Secret::new),
            default_rpc_timeout_ms: clock::millis(self.rpc_timeout),
            structured_logging: self.structured_logging,
            log_level: log_level(&self.environment),
            otel_config: OtelConfig::of(&Variables::of(&self.environment)),
        };
        let environment = process::environment(&self.environment, &self.passed, &access);
        let (host_data, environment, journal) = (&host_data, &environment, &self.journal);
        let process =
            Process::spawn(Launch { executable, host_data, environment, journal }).await?;
        Ok((process, given))
    }
}

/// Everything a run needs besides its process.
pub struct Run {
    pub id: ProviderId,
    pub link_name: LinkName,
    pub host: HostId,
    pub about: ProviderContext,
    pub rpc: async_nats::Client,
    /// Ticks when the connection to the lattice came back.
    pub reconnects: watch::Receiver<u64>,
    pub subjects: Subjects,
    pub links: Live,
    pub events: Publisher,
    pub rpc_timeout: Duration,
    /// How long each step of a stop may take.
    pub stop_delay: Duration,
    /// The links the process was given when it was launched.
    pub given: Vec<Arc<LinkDefinition>>,
    /// Where it is noted how it answers health checks.
    pub reported: watch::Sender<Health>,
}

/// How a run ended.
pub enum Ended {
    Asked,
    ByItself(Exit),
}

impl Run {
    fn health_checks(&self) -> HealthChecks {
        HealthChecks {
            subject: self.subjects.provider_health(&self.id, &self.link_name),
            about: self.about.clone(),
            rpc: self.rpc.clone(),
            reconnects: self.reconnects.clone(),
            sender: LinkSender { rpc: self.rpc.clone(), subjects: self.subjects.clone() },
            links: self.links.clone(),
            events: self.events.clone(),
            timeout: self.rpc_timeout,
            given: self.given.clone(),
            reported: self.reported.clone(),
        }
    }
}

/// Watches a process until it ends. When told to stop it asks first, then signals, then kills.
pub async fn watch(mut process: Process, run: Run, mut stop: StopSignal) -> Ended {
    let mut checks = JoinSet::new();
    checks.spawn(run.health_checks().run().in_current_span());
    let masks = process.masks().clone();
    let (mut changes, mut seen) = (run.links.changes(), LinksTo::default());
    let deadline = loop {
        tokio::select! {
            exit = process.wait() => return Ended::ByItself(exit),
            deadline = told_to_stop(&mut stop) => break deadline,
            Ok(()) = changes.changed() => {
                // Values of later links may be secrets as well, and the process may print them.
                let links = run.links.table().links_to(run.id.as_str());
                if !links.is_copy_of(&seen) {
                    for link in links.values().filter(|link| link.link_name == run.link_name.as_str()) {
                        masks.add_values(&link.values);
                    }
                    seen = links;
                }
            }
        }
    };
    // A provider on its way out is not sick.
    checks.shutdown().await;
    end(&mut process, &run, deadline).await;
    Ended::Asked
}

/// Ends a process: asks it, then signals, then kills.
async fn end(process: &mut Process, run: &Run, deadline: Instant) {
    let subject = run.subjects.provider_shutdown(&run.id, &run.link_name);
    ask(&run.rpc, subject, &run.host, deadline.min(Instant::now() + ASK_TIMEOUT)).await;
    if !ends_within(process, run.stop_delay, deadline).await {
        info!(pid = process.pid(), "provider did not end when asked, sending SIGTERM");
        process.terminate();
        if !ends_within(process, run.stop_delay, deadline).await {
            warn!(pid = process.pid(), "provider did not end on SIGTERM, killing it");
        }
    }
    // All that it started goes with it.
    process.kill();
    if tokio::time::timeout(KILL_TIMEOUT, process.wait()).await.is_err() {
        warn!(pid = process.pid(), "the system has not ended a killed provider");
    }
}

/// Waits for the end of a process for a time, at most until the deadline; returns whether it came.
async fn ends_within(process: &mut Process, time: Duration, deadline: Instant) -> bool {
    tokio::time::timeout_at(deadline.min(Instant::now() + time), process.wait()).await.is_ok()
}

/// Asks a provider to end. The host's id keeps those of 2023 and later from ending on the word of
/// another host.
async fn ask(rpc: &async_nats::Client, subject: String, host: &HostId, deadline: Instant) {
    let body = json!({"host_id": host.as_str()}).to_string();
    let request = async_nats::Request::new().payload(body.into()).timeout(Some(ASK_TIMEOUT));
    match tokio::time::timeout_at(deadline, rpc.send_request(subject.clone(), request)).await {
        Ok(Ok(_)) => debug!(%subject, "provider confirmed that it ends"),
        Ok(Err(error)) => debug!(%subject, %error, "provider does not confirm that it ends"),
        Err(_) => debug!(%subject, "provider does not confirm in time that it ends"),
    }
}

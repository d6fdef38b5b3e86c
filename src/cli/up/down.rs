//! `host down`: stops what `host up` started, and only that.
//!
//! A living `up` is asked to stop and stops its server itself, in order. A server that a killed one
//! left behind is stopped here.

use std::{fmt, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    instance::{ClaimError, Instance, Record},
    nats_server,
};

const POLL: Duration = Duration::from_millis(40);
/// An `up` that has just begun has not noted itself yet.
const RECORD_PATIENCE: Duration = Duration::from_secs(2);
/// How long a killed process may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// The processes that were stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stopped {
    pub directory: PathBuf,
    /// Missing when it was not ready yet.
    pub host_id: Option<String>,
    /// The host's process; missing when only a server was left.
    pub host_pid: Option<u32>,
    /// The server's process; missing when `up` used one that ran before.
    pub server_pid: Option<u32>,
    /// Whether something did not stop in time and was killed.
    pub killed: bool,
    /// Where the streams of the server are; they stay.
    pub data: Option<PathBuf>,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.killed { "killed" } else { "stopped" };
        let what = match (self.host_pid, self.server_pid) {
            (Some(_), Some(_)) => "the host and its NATS server",
            (Some(_), None) => "the host",
            (None, _) => "the NATS server that a killed `host up` left",
        };
        write!(f, "{verb} {what} of {}", self.directory.display())?;
        match &self.data {
            Some(data) => write!(f, "; its data stays in {}", data.display()),
            None => Ok(()),
        }
    }
}

/// Stops what was started in this instance's directory; `None` when nothing runs.
pub async fn down(instance: &Instance) -> Result<Option<Stopped>> {
    let stopped = if instance.is_running() { stop_running(instance).await? } else { None };
    let left = stop_left(instance).await?;
    Ok(match (stopped, left) {
        (Some(stopped), Some(left)) => {
            Some(Stopped { killed: true, server_pid: left.server_pid, ..stopped })
        }
        (stopped, left) => stopped.or(left),
    })
}

async fn stop_running(instance: &Instance) -> Result<Option<Stopped>> {
    let Some(record) = living(instance).await? else { return Ok(None) };
    let pid = record.up.pid;
    info!(pid, directory = %record.directory.display(), "stopping host");
    record.up.ask_to_stop().with_context(|| format!("stop process {pid}"))?;
    let patience = Duration::from_millis(record.stop_within_ms);
    let mut killed = false;
    if !has_let_go(instance, patience).await {
        warn!(pid, seconds = patience.as_secs(), "the host does not stop, it is killed");
        record.up.kill().with_context(|| format!("kill process {pid}"))?;
        killed = true;
        if !has_let_go(instance, KILL_TIMEOUT).await {
            bail!(
                "process {pid} of {} does not end although it was killed",
                record.directory.display()
            );
        }
    }
    Ok(Some(Stopped { host_pid: Some(pid), killed, ..told(&record) }))
}

/// The record of the living `up`, as soon as it has one.
async fn living(instance: &Instance) -> Result<Option<Record>> {
    let deadline = Instant::now() + RECORD_PATIENCE;
    loop {
        if let Some(record) = instance.record().filter(|record| record.up.is_alive()) {
            return Ok(Some(record));
        }
        if !instance.is_running() {
            return Ok(None);
        }
        if Instant::now() >= deadline {
            bail!(
                "a `host up` runs, but {} does not tell which process it is; stop it in its terminal",
                instance.folder().display()
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn has_let_go(instance: &Instance, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while instance.is_running() {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
    true
}

/// Stops the server that a killed `up` left, and forgets both.
pub(super) async fn stop_left(instance: &Instance) -> Result<Option<Stopped>> {
    if instance.record().is_none() {
        return Ok(None);
    }
    // Held until the end, so that no `up` takes the server over meanwhile.
    let claim = match instance.claim() {
        Ok(claim) => claim,
        // Somebody was faster and starts again.
        Err(ClaimError::Taken) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Some(record) = instance.record() else { return Ok(None) };
    let process = match &record.server {
        Some(server) => server.leftover(instance).await,
        None => None,
    };
    let mut killed = false;
    if let Some(process) = &process {
        info!(pid = process.pid, "stopping the NATS server that a killed `host up` left");
        let stopped = nats_server::stop_process(process).await;
        killed =
            !stopped.with_context(|| format!("stop the NATS server, process {}", process.pid))?;
    }
    claim
        .clear()
        .with_context(|| format!("remove the record in {}", instance.folder().display()))?;
    Ok(process.map(|process| Stopped {
        server_pid: Some(process.pid),
        killed,
        host_pid: None,
        ..told(&record)
    }))
}

fn told(record: &Record) -> Stopped {
    let server = record.server.as_ref();
    Stopped {
        directory: record.directory.clone(),
        host_id: record.host_id.clone(),
        host_pid: None,
        server_pid: server.and_then(|server| Some(server.process.as_ref()?.pid)),
        killed: false,
        data: server.map(|server| server.store.clone()),
    }
}

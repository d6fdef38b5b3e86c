//! `host up --detached`: the same command again, in the background, and a look at it until it is
//! ready.
//!
//! The second process is told by a hidden flag; it leaves the terminal and works like any `host
//! up`. Its log goes to a file, which the first process repeats on standard error while it waits,
//! so that progress and errors look as they always do.

use std::{
    fs::{self, File, TryLockError},
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    down,
    instance::{Instance, Record},
    nats_server::fresh_log,
    process::Process,
};
use lattice_base::{service_manager, telemetry};

/// Tells the second process what it is.
const FLAG: &str = "--in-background";
/// How long the host may take to be ready: a server, a hub that does not answer, metadata, a
/// demonstration.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(40);
/// How long a host that was not ready in time may take to stop, at least.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// How long another `host up --detached` of the directory may take before its turn is over: it
/// starts a host, and stops it if that is late.
const TURN_TIMEOUT: Duration = Duration::from_secs(180);

/// The outcome of starting the host in the background.
#[derive(Debug)]
pub enum Outcome {
    Ready(Box<Record>),
    /// Somebody else started one in this directory a moment earlier.
    RunsAlready,
    /// It ended before.
    Ended(ExitStatus),
    /// It was not ready in time and was stopped, with its server.
    Late {
        killed: bool,
    },
    /// The user did not want to wait; if it had been started, it was stopped, with its server.
    Interrupted {
        killed: bool,
    },
    /// Nothing was started: another one of this directory is starting and does not come to an end.
    Busy,
}

/// Where the log of a host in the background is.
pub fn log_of(instance: &Instance) -> PathBuf {
    instance.folder().join("host.log")
}

/// Starts this command again in the background and waits until it is ready.
pub async fn start(instance: &Instance, interrupted: &CancellationToken) -> Result<Outcome> {
    let log = log_of(instance);
    fs::create_dir_all(instance.folder())
        .with_context(|| format!("create {}", instance.folder().display()))?;
    // Two that start at the same time would share the log, so they take turns.
    let path = instance.folder().join("starting.lock");
    let turn = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let deadline = Instant::now() + TURN_TIMEOUT;
    while let Err(error) = turn.try_lock() {
        match error {
            TryLockError::Error(error) => {
                return Err(error).with_context(|| format!("lock {}", path.display()));
            }
            TryLockError::WouldBlock if interrupted.is_cancelled() => {
                return Ok(Outcome::Interrupted { killed: false });
            }
            TryLockError::WouldBlock if Instant::now() >= deadline => return Ok(Outcome::Busy),
            TryLockError::WouldBlock => tokio::time::sleep(POLL).await,
        }
    }
    if instance.is_running() {
        return Ok(Outcome::RunsAlready);
    }
    let mut child = spawn(&log)?;
    // While nobody has asked how it ended, its number means this one. `None` if it has ended
    // already.
    let process = Process::of(child.id());
    let mut repeat = Repeat::of(&log)?;
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        repeat.on();
        if let Some(status) = child.try_wait().context("look at the host in the background")? {
            repeat.on();
            return Ok(Outcome::Ended(status));
        }
        // A record that a killed one left may have the same number.
        let record = instance.record().filter(|record| process.as_ref() == Some(&record.up));
        if let Some(record) = record.filter(|record| record.summary.is_some()) {
            repeat.on();
            return Ok(Outcome::Ready(Box::new(record)));
        }
        let is_interrupted = interrupted.is_cancelled();
        if !is_interrupted && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
            continue;
        }
        let killed = stop(&mut child, instance).await?;
        repeat.on();
        return Ok(if is_interrupted {
            Outcome::Interrupted { killed }
        } else {
            Outcome::Late { killed }
        });
    }
}

/// Waits until the `up` that has this directory is ready; `None` when it ends or takes too long.
pub async fn wait_for(instance: &Instance) -> Option<Record> {
    let deadline = Instant::now() + READY_TIMEOUT;
    while instance.is_running() && Instant::now() < deadline {
        if let Some(record) =
            instance.record().filter(|record| record.summary.is_some() && record.up.is_alive())
        {
            return Some(record);
        }
        tokio::time::sleep(POLL).await;
    }
    None
}

fn spawn(log: &Path) -> Result<Child> {
    let file = fresh_log(log).with_context(|| format!("create {}", log.display()))?;
    let program = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(&program);
    command.args(std::env::args_os().skip(1)).arg(FLAG);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    // A service manager that started this command does not mean the one in the background.
    for variable in service_manager::VARIABLES {
        command.env_remove(variable);
    }
    command.spawn().with_context(|| format!("run {}", program.display()))
}

/// Stops the host, and the server if it left one; returns whether it had to be killed.
async fn stop(child: &mut Child, instance: &Instance) -> Result<bool> {
    let mut killed = false;
    if let Some(process) = Process::of(child.id()) {
        process.ask_to_stop().context("stop the host in the background")?;
        // It knows best, if it got as far as its settings.
        let own = instance.record().filter(|record| record.up == process);
        let own = own.map_or(Duration::ZERO, |record| Duration::from_millis(record.stop_within_ms));
        if !process.has_ended_within(STOP_TIMEOUT.max(own)).await {
            child.kill().context("end the host in the background")?;
            killed = true;
        }
    }
    child.wait().context("wait for the host in the background")?;
    // One that was stopped in order has left nothing.
    down::stop_left(instance)
        .await
        .context("stop the NATS server that the host in the background left")?;
    Ok(killed)
}

/// A growing file with the log of another process, repeated as if this one logged it.
struct Repeat(File);

impl Repeat {
    fn of(path: &Path) -> Result<Self> {
        File::open(path).map(Self).with_context(|| format!("read {}", path.display()))
    }

    /// Repeats what is new. Nobody need read it.
    fn on(&mut self) {
        let mut new = Vec::new();
        if self.0.read_to_end(&mut new).is_ok() {
            telemetry::repeat(&new);
        }
    }
}

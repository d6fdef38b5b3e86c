//! `host up --detached`: the same command again, in the background, and a look at it until it is ready.
//!
//! The second process is told by a hidden flag; it leaves the terminal and works like any `host up`. Its log goes to a file,
//! which the first process repeats on standard error while it waits, so that progress and errors look as they always do.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    instance::{Instance, Record},
    process::Process,
};

/// Tells the second process what it is.
pub const FLAG: &str = "--in-background";
/// How long the host may take to be ready: a server, a hub that does not answer, metadata, a demonstration.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(40);
/// How long a host that was not ready in time may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// What became of the host in the background.
#[derive(Debug)]
pub enum Outcome {
    Ready(Box<Record>),
    /// Somebody else started one in this directory a moment earlier.
    RunsAlready,
    /// It ended before.
    Ended(ExitStatus),
    /// It was not ready in time and was stopped.
    Late,
    /// The user did not want to wait; it was stopped.
    Interrupted,
}

/// Where the log of a host in the background is.
pub fn log_of(instance: &Instance) -> PathBuf {
    instance.folder().join("host.log")
}

/// Starts this command again in the background and waits until it is ready.
pub async fn start(instance: &Instance, interrupted: &CancellationToken) -> Result<Outcome> {
    let log = log_of(instance);
    fs::create_dir_all(instance.folder()).with_context(|| format!("create {}", instance.folder().display()))?;
    let deadline = Instant::now() + READY_TIMEOUT;
    // Two that start at the same time would share the log, so they take turns.
    let path = instance.folder().join("starting.lock");
    let turn = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    while let Err(TryLockError::WouldBlock) = turn.try_lock() {
        if interrupted.is_cancelled() || Instant::now() >= deadline {
            return Ok(Outcome::Interrupted);
        }
        tokio::time::sleep(POLL).await;
    }
    if instance.is_running() {
        return Ok(Outcome::RunsAlready);
    }
    let mut child = spawn(&log)?;
    let mut repeat = Repeat::of(&log)?;
    loop {
        repeat.on();
        if let Some(status) = child.try_wait().context("look at the host in the background")? {
            repeat.on();
            return Ok(Outcome::Ended(status));
        }
        let record = instance.record().filter(|record| record.up.pid == child.id() && record.summary.is_some());
        if let Some(record) = record {
            repeat.on();
            return Ok(Outcome::Ready(Box::new(record)));
        }
        let outcome = match () {
            () if interrupted.is_cancelled() => Outcome::Interrupted,
            () if Instant::now() >= deadline => Outcome::Late,
            () => {
                tokio::time::sleep(POLL).await;
                continue;
            }
        };
        stop(&mut child).await?;
        repeat.on();
        return Ok(outcome);
    }
}

/// Waits until the `up` that has this directory is ready; `None` when it ends or takes too long.
pub async fn wait_for(instance: &Instance) -> Option<Record> {
    let deadline = Instant::now() + READY_TIMEOUT;
    while instance.is_running() && Instant::now() < deadline {
        if let Some(record) = instance.record().filter(|record| record.summary.is_some() && record.up.is_alive()) {
            return Some(record);
        }
        tokio::time::sleep(POLL).await;
    }
    None
}

fn spawn(log: &Path) -> Result<Child> {
    // One log per start, and the one before.
    let _ = fs::rename(log, log.with_extension("log.1"));
    let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let program = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(&program);
    command.args(std::env::args_os().skip(1)).arg(FLAG);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    command.spawn().with_context(|| format!("run {}", program.display()))
}

async fn stop(child: &mut Child) -> Result<()> {
    if let Some(process) = Process::of(child.id()) {
        process.ask_to_stop().context("stop the host in the background")?;
        if !process.has_ended_within(STOP_TIMEOUT).await {
            child.kill().context("end the host in the background")?;
        }
    }
    child.wait().map(drop).context("wait for the host in the background")
}

/// A growing file, repeated on standard error.
struct Repeat(File);

impl Repeat {
    fn of(path: &Path) -> Result<Self> {
        File::open(path).map(Self).with_context(|| format!("read {}", path.display()))
    }

    /// Repeats what is new. Nobody need read it.
    fn on(&mut self) {
        let mut new = Vec::new();
        if self.0.read_to_end(&mut new).is_ok() {
            let _ = io::stderr().lock().write_all(&new);
        }
    }
}

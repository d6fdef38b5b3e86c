//! A program that runs beside this one, with its output in a file; killed when dropped.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail};
use tokio::process::{Child, Command};

use super::PATIENCE;

/// How many lines of a log an error shows.
const TAIL: usize = 5;

/// A signal for a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Terminate,
    Kill,
    Freeze,
    Thaw,
}

pub struct Process {
    /// Names it in errors.
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program; everything it prints goes to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let errors = file.try_clone().context("share a log file")?;
        command.stdin(Stdio::null()).stdout(file).stderr(errors).kill_on_drop(true);
        // A Ctrl-C in the terminal is for this program, which ends the others in order.
        #[cfg(unix)]
        command.process_group(0);
        let child =
            command.spawn().with_context(|| format!("run {:?}", command.as_std().get_program()))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_path_buf() })
    }

    /// Waits until its log has a line with this text.
    pub async fn said(&mut self, text: &str) -> Result<()> {
        let began = tokio::time::Instant::now();
        while !self.log_text().lines().any(|line| line.contains(text)) {
            if let Some(status) = self.child.try_wait().context("ask for a process")? {
                bail!(
                    "{} ended ({status}) before it said {text:?}; its log ends with:\n{}",
                    self.name,
                    self.tail()
                );
            }
            if began.elapsed() > PATIENCE {
                bail!(
                    "{} has not said {text:?} after {} s; its log ends with:\n{}",
                    self.name,
                    PATIENCE.as_secs(),
                    self.tail()
                );
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        Ok(())
    }

    fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines of its log.
    pub fn tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }

    /// Sends a signal.
    #[cfg(unix)]
    pub fn signal(&self, signal: Signal) -> Result<()> {
        use rustix::process::{Pid, Signal as Number, kill_process};
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let id = id.with_context(|| {
            format!("{} has ended; its log ends with:\n{}", self.name, self.tail())
        })?;
        let number = match signal {
            Signal::Terminate => Number::TERM,
            Signal::Kill => Number::KILL,
            Signal::Freeze => Number::STOP,
            Signal::Thaw => Number::CONT,
        };
        kill_process(id, number).with_context(|| format!("signal {}", self.name))
    }

    #[cfg(not(unix))]
    pub fn signal(&self, signal: Signal) -> Result<()> {
        bail!("{} cannot be told {signal:?}: this system has no signals", self.name)
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => status.with_context(|| format!("wait for {}", self.name)),
            Err(_) => bail!("{} does not end; its log ends with:\n{}", self.name, self.tail()),
        }
    }

    /// Sends a signal and waits for the end that follows.
    pub async fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        self.signal(signal)?;
        self.ended().await
    }
}

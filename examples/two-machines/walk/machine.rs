//! One machine: a directory of its own, with a NATS server and a host that run in it.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use tokio::process::Command;

use super::{
    ground::{NATS_PORT, Place},
    process::{Process, Signal},
};

/// The file that takes a lattice from one machine to the next.
pub const HOST_CONFIG: &str = "host_config.json";

pub struct Machine {
    pub name: &'static str,
    pub dir: PathBuf,
    pub place: Place,
    /// Under which its web server is known: machines that share an address need names to tell their
    /// links apart.
    pub page_link: &'static str,
    nats: Option<Process>,
    host: Option<Process>,
    /// The id of the host that runs there.
    pub host_id: String,
}

impl Machine {
    pub fn new(name: &'static str, dir: PathBuf, place: Place, page_link: &'static str) -> Self {
        Self { name, dir, place, page_link, nats: None, host: None, host_id: String::new() }
    }

    /// The address of its page.
    pub fn page(&self) -> String {
        format!("http://{}/", self.place.page)
    }

    /// Starts its NATS server; it listens when this returns, and may not have joined the hub yet.
    pub async fn start_nats(&mut self, program: &Path, config: &str) -> Result<()> {
        let mut command = self.place.command(program);
        command.args(["--config", config]).current_dir(&self.dir);
        let mut nats = Process::start(
            &format!("the NATS server of {}", self.name),
            command,
            &self.dir.join("nats.log"),
        )?;
        nats.said("Server is ready").await?;
        self.nats = Some(nats);
        Ok(())
    }

    /// Starts its host in a clean environment, with these variables and flags; it is ready when
    /// this returns.
    pub async fn start_host(
        &mut self,
        program: &Path,
        vars: &[(&str, &OsStr)],
        flags: &[String],
    ) -> Result<()> {
        let home = self.dir.join("home");
        fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
        let mut command = self.place.command(program);
        command.arg("foreground").arg("--allow-file-load").args(flags).current_dir(&self.dir);
        self.clean(&mut command, &home);
        command.envs(vars.iter().copied());
        let mut host = Process::start(
            &format!("the host on {}", self.name),
            command,
            &self.dir.join("host.log"),
        )?;
        host.said("] ready").await?;
        self.host = Some(host);
        Ok(())
    }

    fn clean(&self, command: &mut Command, home: &Path) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).env("HOME", home);
    }

    /// The port of its NATS server, if its host has to be told.
    pub fn nats_port(&self) -> Option<String> {
        (self.place.nats_port != NATS_PORT).then(|| self.place.nats_port.to_string())
    }

    /// The running host.
    pub fn host(&mut self) -> Result<&mut Process> {
        let name = self.name;
        self.host.as_mut().with_context(|| format!("no host runs on {name}"))
    }

    /// The running NATS server.
    pub fn nats(&mut self) -> Result<&mut Process> {
        let name = self.name;
        self.nats.as_mut().with_context(|| format!("no NATS server runs on {name}"))
    }

    /// Takes over the host configuration of another machine, word for word.
    pub fn take_config_of(&self, other: &Self) -> Result<()> {
        let (from, to) = (other.dir.join(HOST_CONFIG), self.dir.join(HOST_CONFIG));
        // A copy keeps the mode, which is for the owner alone.
        fs::copy(&from, &to)
            .with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
        Ok(())
    }

    /// Ends the host in order, then the NATS server.
    pub async fn stop(&mut self) -> Result<()> {
        for process in [self.host.take(), self.nats.take()].into_iter().flatten() {
            let mut process = process;
            // A frozen one would not hear it; one that has ended needs nothing.
            if process.signal(Signal::Thaw).is_ok() {
                process.end(Signal::Terminate).await?;
            }
        }
        Ok(())
    }
}

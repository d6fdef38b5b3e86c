//! A real nats-server as a child process: configured, started, recognised again, and stopped.
//!
//! Each start gives the server a name made up for it, which the server tells everybody who
//! connects. So nobody mistakes another server on the same port for this one, and a server that
//! outlived its `host up` can be taken over by the next. One that is started again because it died
//! keeps its name.

use std::{
    fs, io,
    net::{TcpListener, ToSocketAddrs as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
};
use tracing::{info, warn};

pub use super::install::{find, find_or_install};
use super::{
    hub::{Hub, tail},
    login::Login,
    process::{Process, end_with_this_process},
};
use lattice_base::{service_manager, trusted};

/// How long a look at an address may take, with everything.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest greeting that is read; those of big clusters list all their servers.
const GREETING_MAX: u64 = 64 * 1024;
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may take to stop.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a killed process may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked whether a server that is no child of this process has ended.
const ENDED_POLL: Duration = Duration::from_millis(500);

/// The listener on an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    Nothing,
    Nats(Greeting),
    Other,
}

/// The facts that a NATS server tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    pub version: String,
    pub name: String,
}

impl Probe {
    /// Whether this is the server of this name.
    pub fn is(&self, name: &str) -> bool {
        matches!(self, Self::Nats(greeting) if greeting.name == name)
    }
}

/// Looks who listens on `host:port`: a NATS server speaks first.
pub async fn probe(address: &str) -> Probe {
    let mut line = Vec::new();
    let mut listens = false;
    let look = async {
        let stream = TcpStream::connect(address).await.ok()?;
        listens = true;
        BufReader::new(stream).take(GREETING_MAX).read_until(b'\n', &mut line).await.ok()
    };
    // The bytes that have come by then are looked at.
    let _ = tokio::time::timeout(PROBE_TIMEOUT, look).await;
    if !listens {
        return Probe::Nothing;
    }
    greeting(&line).map_or(Probe::Other, Probe::Nats)
}

fn greeting(line: &[u8]) -> Option<Greeting> {
    let info: serde_json::Value = serde_json::from_slice(line.strip_prefix(b"INFO ")?).ok()?;
    let [version, name] = ["version", "server_name"]
        .map(|member| info[member].as_str().unwrap_or("unknown").to_owned());
    Some(Greeting { version, name })
}

/// Whether a server can listen on this host's name or address here. Blocks for as long as the name
/// is looked up.
pub fn is_here(host: &str) -> bool {
    let addresses = (host, 0).to_socket_addrs();
    addresses.is_ok_and(|mut addresses| addresses.any(|address| TcpListener::bind(address).is_ok()))
}

/// How the server is to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Different for every server of a lattice, and for every `host up`.
    pub name: String,
    /// `host:port` for clients.
    pub address: String,
    /// Different for every server that meets others at a hub.
    pub domain: String,
    pub store_dir: PathBuf,
    /// For the files of the process: configuration, log, process number.
    pub dir: PathBuf,
    /// Without one, everybody is let in.
    pub login: Option<Login>,
    pub hub: Option<Hub>,
    /// Ends with the process that started it, however that ends; where the system can do that.
    pub ends_with_parent: bool,
}

impl Settings {
    pub fn log(&self) -> PathBuf {
        log_in(&self.dir)
    }

    pub fn config(&self) -> PathBuf {
        self.dir.join("nats-server.cfg")
    }

    fn pid_file(&self) -> PathBuf {
        pid_file_in(&self.dir)
    }

    /// Whether the last start in this directory was made with these settings.
    pub fn are_as_written(&self) -> bool {
        fs::read_to_string(self.config()).is_ok_and(|text| text == configuration(self))
    }
}

/// The log of the server whose files are in this directory.
pub fn log_in(dir: &Path) -> PathBuf {
    dir.join("nats-server.log")
}

/// Where a server whose files are in this directory notes its process number.
pub fn pid_file_in(dir: &Path) -> PathBuf {
    dir.join("nats-server.pid")
}

/// The server this process is responsible for.
static STARTED: Mutex<Option<Process>> = Mutex::new(None);

/// Kills the server this process is responsible for, if any: for an end that leaves no time to stop
/// it.
pub fn kill_started() {
    let process = STARTED.lock().take();
    if let Some(process) = process {
        // An error leaves it running, and the next `host up` finds it.
        let _ = process.kill();
    }
}

/// A server this process is responsible for. Dropped without [`NatsServer::stop`], a started one is
/// killed.
#[derive(Debug)]
pub struct NatsServer {
    process: Process,
    /// Missing for one that was taken over.
    child: Option<Child>,
}

impl NatsServer {
    /// Starts a server; returns when it accepts clients.
    pub async fn start(binary: &Path, settings: &Settings) -> Result<Self> {
        for dir in [&settings.store_dir, &settings.dir] {
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        // It may name a hub with a password, so it is for this user only.
        let config = settings.config();
        trusted::replace(&config, configuration(settings).as_bytes())
            .with_context(|| format!("write {}", config.display()))?;
        let log = settings.log();
        remove_ports_files(&settings.dir);
        // This file takes what the server says before it has read where its log is.
        let early = fresh_log(&log).with_context(|| format!("create {}", log.display()))?;
        let mut command = Command::new(binary);
        command.arg("--config").arg(&config).arg("--log").arg(&log);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(early).kill_on_drop(true);
        for variable in service_manager::VARIABLES {
            command.env_remove(variable);
        }
        // A Ctrl-C in the terminal is for the host, which stops the server after itself.
        #[cfg(unix)]
        command.process_group(0);
        if settings.ends_with_parent {
            end_with_this_process(&mut command);
        }
        let mut child = command.spawn().with_context(|| format!("run {}", binary.display()))?;
        let process = child.id().and_then(Process::of);
        *STARTED.lock() = process.clone();
        let ready = async {
            while !probe(&settings.address).await.is(&settings.name) {
                if let Some(status) = child.try_wait()? {
                    *STARTED.lock() = None;
                    bail!("it ended at once ({status}): {}", last_words(&log));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        tokio::time::timeout(START_TIMEOUT, ready).await.with_context(|| {
            format!(
                "it does not listen on {} after {} s",
                settings.address,
                START_TIMEOUT.as_secs()
            )
        })??;
        let process = process.context("it ended at once")?;
        Ok(Self { process, child: Some(child) })
    }

    /// Takes over a server that an earlier process started.
    pub fn adopt(process: Process) -> Self {
        *STARTED.lock() = Some(process.clone());
        Self { process, child: None }
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Waits until the server ends by itself; returns how. Cancel safe.
    pub async fn ended(&mut self) -> String {
        match &mut self.child {
            Some(child) => child
                .wait()
                .await
                .map_or_else(|error| error.to_string(), |status| status.to_string()),
            None => {
                while !self.process.has_ended_within(ENDED_POLL).await {}
                "it is gone".to_owned()
            }
        }
    }

    /// Asks it to stop, and ends it if it does not.
    pub async fn stop(mut self) {
        *STARTED.lock() = None;
        if let Some(child) = &mut self.child {
            // Until the status of a child is asked for, its number means nobody else.
            #[cfg(unix)]
            {
                let _ = self.process.ask_to_stop();
                if tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.is_ok() {
                    info!("NATS server stopped");
                    return;
                }
                warn!("NATS server does not stop, it is killed");
            }
            let _ = child.kill().await;
            return;
        }
        match stop_process(&self.process).await {
            Ok(true) => info!("NATS server stopped"),
            Ok(false) => warn!("NATS server did not stop, it was killed"),
            Err(error) => warn!(pid = self.process.pid, %error, "NATS server not stopped"),
        }
    }
}

/// Stops a server that is no child of this process; `false` when it had to be killed.
pub async fn stop_process(process: &Process) -> io::Result<bool> {
    process.ask_to_stop()?;
    if process.has_ended_within(STOP_TIMEOUT).await {
        return Ok(true);
    }
    process.kill()?;
    if process.has_ended_within(KILL_TIMEOUT).await {
        return Ok(false);
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "it does not end although it was killed"))
}

/// One log per start, and the one before. It is for this user only: a server that refuses its
/// configuration quotes from it, passwords and all.
pub(super) fn fresh_log(log: &Path) -> io::Result<fs::File> {
    let before = log.with_extension("log.1");
    let _ = fs::rename(log, &before);
    let mut options = fs::File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
        options.mode(0o600);
        // Others may have made it readable.
        let _ = fs::set_permissions(&before, fs::Permissions::from_mode(0o600));
    }
    options.open(log)
}

/// A killed server leaves the file with its ports, and a later one could have the same number.
fn remove_ports_files(dir: &Path) {
    let entries =
        fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    for file in
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "ports"))
    {
        let _ = fs::remove_file(file);
    }
}

/// The configuration file, in words that servers since 2.9 know.
fn configuration(settings: &Settings) -> String {
    let mut config = format!(
        "# Written by `host up` at each start; changes made here are lost.\n\
         server_name: {}\n\
         listen: {}\n\
         pid_file: {}\n\
         \n\
         # A client that is there but does not answer (a frozen machine, a stopped process) still gets its share of the calls\n\
         # until its connection is closed. With these two that takes about four seconds; with the defaults, six minutes.\n\
         ping_interval: \"1s\"\n\
         ping_max: 3\n\
         \n\
         jetstream {{\n  domain: {}\n  store_dir: {}\n}}\n",
        quoted(&settings.name),
        quoted(&settings.address),
        quoted_path(&settings.pid_file()),
        quoted(&settings.domain),
        quoted_path(&settings.store_dir),
    );
    if let Some(login) = &settings.login {
        config.push_str(
            "\n# One user, whose login the host has in its host_config.json. There is no seed in this file.\n",
        );
        config.push_str(&login.server_config);
    }
    if let Some(hub) = &settings.hub {
        let urls: Vec<String> = hub.urls.iter().map(|url| quoted(url)).collect();
        let mut remote = format!("      urls: [{}]\n", urls.join(", "));
        if let Some(login) = &settings.login {
            remote.push_str(&format!("      account: {}\n", quoted(&login.account)));
        }
        if let Some(creds) = &hub.creds {
            remote.push_str(&format!("      credentials: {}\n", quoted_path(creds)));
        }
        if hub.needs_tls() {
            let ca = hub
                .ca
                .as_ref()
                .map(|ca| format!(" ca_file: {} ", quoted_path(ca)))
                .unwrap_or_default();
            remote.push_str(&format!(
                "      # Without this block a hub that says it has no TLS would be believed.\n      tls {{{ca}}}\n"
            ));
        }
        config.push_str(&format!(
            "\n# `host up` asks here whether the hub is connected; the port is any free one, noted in the directory.\n\
             http: \"127.0.0.1:-1\"\n\
             ports_file_dir: {}\n\
             \n\
             leafnodes {{\n  remotes = [\n    {{\n{remote}    }}\n  ]\n}}\n",
            quoted_path(&settings.dir),
        ));
    }
    config
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// Why a server ended, in its own words.
fn last_words(log: &Path) -> String {
    let tail = tail(log).unwrap_or_default();
    let mut lines = tail.lines().rev().filter(|line| !line.trim().is_empty());
    let bad = lines.clone().find(|line| line.contains("[FTL]") || line.contains("[ERR]"));
    words(bad.or_else(|| lines.next()).unwrap_or("it gave no reason"))
}

/// The last lines of a log, at most so many, in one line.
pub(crate) fn last_lines(log: &Path, lines_max: usize) -> String {
    let tail = tail(log).unwrap_or_default();
    let lines: Vec<&str> = tail.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(lines_max)..].join(" | ")
}

/// Why a server gave up, in its own words; `None` if it did not: somebody else ended it.
pub(super) fn fatal_words(log: &Path) -> Option<String> {
    tail(log).ok()?.lines().rfind(|line| line.contains("[FTL]")).map(words)
}

/// A log line without time and process.
fn words(line: &str) -> String {
    line.split_once("[FTL] ")
        .or_else(|| line.split_once("[ERR] "))
        .map_or(line, |(_, words)| words)
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

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
    async fn a_listener_that_speaks_without_end_is_left_in_time() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let talker = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut said = 0;
            while stream.write_all(&[b'x'; 1024]).is_ok() {
                said += 1024;
            }
            said
        });
        assert_eq!(probe(&address).await, Probe::Other);
        // It was hung up on; what it said meanwhile waited in the sockets.
        assert!(talker.join().unwrap() < 64 << 20);
    }

    #[test]
    fn a_server_listens_on_addresses_of_this_machine_only() {
        assert!(is_here("localhost") && is_here("127.0.0.1") && is_here("0.0.0.0"));
        assert!(!is_here("192.0.2.1"));
    }

    #[cfg(unix)]
    #[test]
    fn a_log_is_for_its_user_and_passwords_in_it_are_not_repeated() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let log = log_in(dir.path());
        let mut file = fresh_log(&log).unwrap();
        assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);
        writeln!(file, "[1] 2026 [FTL] leafnode remote: parse \"nats-leaf://me:se@cret@h:1\": bad, and url://a@b")
            .unwrap();
        let told = last_words(&log);
        assert_eq!(told, "leafnode remote: parse \"nats-leaf://h:1\": bad, and url://b");
        assert_eq!(fatal_words(&log), Some(told));
    }

    #[test]
    fn a_hub_becomes_a_leaf_node_connection_with_credentials_and_authority() {
        let mut settings = Settings {
            name: "up-1".into(),
            address: "127.0.0.1:4222".into(),
            domain: "core".into(),
            store_dir: "/data/\"odd\"".into(),
            dir: "/state".into(),
            login: None,
            hub: None,
            ends_with_parent: false,
        };
        let alone = configuration(&settings);
        assert!(
            alone.contains("ping_interval: \"1s\"") && alone.contains("domain: \"core\""),
            "{alone}"
        );
        assert!(alone.contains(r#"store_dir: "/data/\"odd\"""#), "{alone}");
        assert!(!alone.contains("leafnodes") && !alone.contains("http:"), "{alone}");
        settings.hub = Some(Hub {
            urls: vec!["tls://a".into(), "tls://b:7422".into()],
            creds: Some("/home/me/lattice.creds".into()),
            ca: Some("/home/me/ca.pem".into()),
        });
        let leaf = configuration(&settings);
        for part in [
            r#"urls: ["tls://a", "tls://b:7422"]"#,
            r#"credentials: "/home/me/lattice.creds""#,
            r#"tls { ca_file: "/home/me/ca.pem" }"#,
        ] {
            assert!(leaf.contains(part), "{part} in {leaf}");
        }
    }
}

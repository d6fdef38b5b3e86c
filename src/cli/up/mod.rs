//! `host up`: a NATS server and a host in one terminal, or in the background.
//!
//! ```text
//! Session::enter   takes the directory (one `up` at a time), keeps what a killed one left behind
//!        settle    decides on domains, and adds ports to the settings
//!        ensure_server   takes over, starts, or uses a NATS server; looks at the hub
//!        (the settings are written: those of a start that fails before this are not kept)
//!        wrote     hears how that went, writes contexts, and adds what counts for this run only
//!        (the host starts)
//!        ready     starts the demonstration, notes and returns the summary
//!        (the host stops)
//!        finish    stops what was started here
//! ```
//!
//! Meanwhile [`Session::keep_server`] starts the server again whenever it dies.
//!
//! Always true: only what an `up` of this directory started is ever stopped. If a NATS server
//! listens where the settings say and nobody's `up` started it, it is used as it is and left alone.
//! A server that is started lets nobody in without its [`login`], unless `--open` was given.

mod again;
pub mod demo;
pub mod detached;
pub mod down;
pub mod hub;
pub(crate) mod install;
pub mod instance;
pub(crate) mod login;
pub mod nats_server;
mod neighbours;
pub mod process;
mod server;
mod settle;
pub mod summary;
mod supervise;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::task::JoinHandle;
use tracing::{info, warn};

pub use again::{differs, told};
use demo::Demo;
use hub::{Hub, Link, Watch};
use instance::{Claim, ClaimError, Instance, Record};
use lattice_base::{
    config::{Config, Loaded, Origin, Sources},
    dirs::Dirs,
};
use lattice_engine::{host::Host, providers::bounds::OwnSockets};
use lattice_protocol::clock;
use login::Login;
use process::Process;
use settle::{Domains, Lattice};
use summary::Summary;
use supervise::Supervised;

/// The time a stop takes beside the host's own: last events, providers, the server.
const STOP_MARGIN: Duration = Duration::from_secs(20);
/// The port of NATS everywhere.
const USUAL_PORT: u16 = 4222;
/// The settings that name a port, with the flags that set them.
const PORTS: [(&str, &str); 4] = [
    ("nats_port", "--nats-port"),
    ("ctl_port", "--ctl-port"),
    ("rpc_port", "--rpc-port"),
    ("prov_rpc_port", "--prov-rpc-port"),
];

/// Options of `up`, beside the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub hub: Option<Hub>,
    /// JetStream domain of this machine's server.
    pub domain: Option<String>,
    pub free_ports: bool,
    /// The server lets everybody in.
    pub open: bool,
    pub demo: bool,
    /// This process runs in the background, with its log in a file.
    pub in_background: bool,
}

impl Options {
    /// Checks what the user said; returns every mistake.
    pub fn check(
        self,
        hub: Option<&str>,
        creds: Option<&Path>,
        hub_ca: Option<&Path>,
        dir: &Path,
    ) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let hub = Hub::check(hub, creds, hub_ca, dir).unwrap_or_else(|errors| {
            mistakes.extend(errors.iter().map(ToString::to_string));
            None
        });
        let domain = self.domain.as_deref().map_or(Ok(()), settle::check_domain);
        mistakes.extend(domain.err().map(|error| error.to_string()));
        if mistakes.is_empty() { Ok(Self { hub, ..self }) } else { Err(mistakes) }
    }
}

/// One `up` of one directory, from its first step to its last.
pub struct Session {
    dirs: Dirs,
    options: Options,
    claim: Claim,
    record: Record,
    domains: Domains,
    server: Option<Supervised>,
    /// The login that the server accepts; `None` with `--open`, or if no server was started.
    login: Option<Login>,
    /// The name of the contexts that lead to the server, or why they could not be written.
    contexts: Option<Result<String>>,
    /// Why `host_config.json` could not be written here.
    not_written: Option<String>,
    /// Present with a hub.
    link: Option<(Watch, Link)>,
    follower: Option<JoinHandle<()>>,
    /// The sockets that no actor reaches; known once the host is ready.
    sockets: Option<OwnSockets>,
    /// Whether the demonstration was started in this directory before.
    has_demo: bool,
    demo: Option<Demo>,
}

impl Session {
    /// Takes the directory for this process, or says that another one has it.
    pub fn enter(dirs: &Dirs, directory: &Path, options: Options) -> Result<Self, ClaimError> {
        let instance = Instance::of(dirs, directory);
        let claim = instance.claim()?;
        let record = Record {
            directory: directory.to_owned(),
            up: Process::own(),
            since: instance::now(),
            address: None,
            hub: options.hub.as_ref().map(ToString::to_string),
            page: None,
            is_open: options.open,
            // A server that a killed predecessor left is not forgotten before it is dealt with.
            server: instance.record().and_then(|left| left.server),
            background_log: options.in_background.then(|| detached::log_of(&instance)),
            stop_within_ms: clock::millis(STOP_MARGIN),
            host_id: None,
            host_name: None,
            summary: None,
        };
        let session = Self {
            dirs: dirs.clone(),
            options,
            claim,
            record,
            domains: Domains::default(),
            server: None,
            login: None,
            contexts: None,
            not_written: None,
            link: None,
            follower: None,
            sockets: None,
            has_demo: false,
            demo: None,
        };
        session
            .note()
            .map_err(|source| ClaimError::Io { path: instance.folder().to_owned(), source })?;
        Ok(session)
    }

    /// Adds what `up` decides to the settings; returns every mistake.
    pub fn settle(&mut self, sources: &mut Sources, loaded: &Loaded) -> Result<(), Vec<String>> {
        let mut mistakes = Vec::new();
        let lattice = Lattice::of(&loaded.config);
        match settle::domains(
            &self.options,
            &loaded.table,
            &self.dirs,
            self.claim.instance(),
            &lattice,
        ) {
            Ok(domains) => self.domains = domains,
            Err(mistake) => mistakes.push(mistake.to_string()),
        }
        if self.options.free_ports {
            match self.choose_port(sources, loaded) {
                Ok(port) => {
                    let host = &loaded.config.ctl.host_text;
                    sources.flags.extend(
                        ["ctl_host", "rpc_host", "prov_rpc_host"].map(|key| (key, host.clone())),
                    );
                    sources.flags.extend(
                        ["ctl_port", "rpc_port", "prov_rpc_port"]
                            .map(|key| (key, port.to_string())),
                    );
                }
                Err(mistake) => mistakes.push(mistake.to_string()),
            }
        }
        if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
    }

    /// The port of the settings if somebody chose it once and it can be had, else a free one.
    fn choose_port(&mut self, sources: &Sources, loaded: &Loaded) -> Result<u16> {
        let given =
            sources.flags.iter().find_map(|(key, _)| PORTS.iter().find(|(port, _)| port == key));
        if let Some((_, flag)) = given {
            bail!("--free-ports chooses the port, and {flag} names one; leave one of them away");
        }
        let (host, port) = (loaded.config.ctl.host_text.as_str(), loaded.config.ctl.port);
        if !nats_server::is_here(host) {
            bail!("--free-ports: {}", elsewhere(host));
        }
        let own =
            self.record.server.as_ref().is_some_and(|left| left.address == address(host, port));
        if own {
            return Ok(port);
        }
        // The usual port is for those who ask for no other.
        let is_default =
            settle::row(&loaded.table, "ctl_port").is_none_or(|row| row.origin == Origin::Default);
        let wanted = Some(port).filter(|port| !is_default && *port != USUAL_PORT);
        let (claim, record) = (&self.claim, &mut self.record);
        let chosen = claim.choose_port(&self.dirs, host, wanted, |port| {
            record.address = Some(address(host, port));
            claim.write(record)
        });
        chosen.map_err(|error| anyhow!("--free-ports: {error}"))
    }

    /// Hears whether `host_config.json` was written in this directory, tells other clients of a
    /// server that was started, and adds to the settings what is not to be written: that the host
    /// loads files is for the demonstration, and must not outlive it. A cluster seed that was made
    /// just now is one of the file from here on.
    pub fn wrote(&mut self, config: &mut Config, not_written: Option<String>) {
        self.has_demo = self.demo_mark().exists() && !config.forget;
        self.not_written = not_written;
        if self.server.is_some() {
            let instance = self.claim.instance();
            let creds = settle::creds(&self.dirs, instance);
            let written = login::write_contexts(
                instance.key(),
                config,
                self.login.as_ref(),
                &self.dirs,
                &creds,
            );
            let name = instance.key().to_owned();
            self.contexts = Some(written.map(|()| name));
        }
        config.allow_file_load |= self.options.demo || self.has_demo;
        if config.cluster.ad_hoc && self.not_written.is_none() {
            // The warning of a host without `host up` reads like a failure at the first start.
            config.cluster.ad_hoc = false;
            info!(
                "This lattice has a cluster seed of its own now, in ./{}: another machine joins with a copy of that file",
                lattice_base::config::FILE_NAME
            );
        }
    }

    /// The host is ready: starts the demonstration, notes everything, and returns what to tell the
    /// user.
    pub async fn ready(&mut self, host: &Host, config: &Config) -> Result<Summary> {
        self.sockets = Some(host.own_sockets().clone());
        self.follow_hub();
        if self.wants_demo(host).await {
            match self.start_demo(host).await {
                // Nobody has asked for it this time, and the host is of use without it.
                Err(error) if !self.options.demo => warn!("{error:#}"),
                started => started?,
            }
        }
        let mut summary = self.summarize(host, config);
        for warning in self.warnings(host, config).await {
            warn!("{warning}");
            summary.row("WARNING", warning);
        }
        self.record.host_id = Some(host.state().facts().id.to_string());
        self.record.host_name = Some(host.state().facts().friendly_name.clone());
        self.record.summary = Some(summary.clone());
        self.note().context("note what runs")?;
        Ok(summary)
    }

    /// Returns what other hosts of the lattice show to be wrong with the settings of this one. They
    /// are asked where there may be some: at a server that was not started for this host alone.
    async fn warnings(&self, host: &Host, config: &Config) -> Vec<String> {
        let is_alone = self.server.is_some() && self.options.hub.is_none();
        if is_alone && host.peers().others().is_empty() {
            return Vec::new();
        }
        let facts = host.state().facts();
        let own = neighbours::Own {
            host_id: facts.id.to_string(),
            issuer: facts.issuer.clone(),
            cluster_issuers: facts.cluster_issuers.clone(),
            server: self.record.server.as_ref().map(|of| (of.name.clone(), of.domain.clone())),
        };
        match neighbours::ask(config, &own).await {
            Ok(others) => neighbours::warnings(&own, &others, &self.record.directory),
            Err(error) => {
                info!("other hosts of the lattice were not compared with this one: {error:#}");
                Vec::new()
            }
        }
    }

    /// Whether the demonstration is to start: it was asked for, or it ran before and was not
    /// stopped.
    async fn wants_demo(&self, host: &Host) -> bool {
        if self.options.demo || !self.demo_mark().exists() {
            return self.options.demo;
        }
        let is_kept = demo::is_kept(host, &self.dirs).await;
        if is_kept == Some(false)
            && let Err(error) = fs::remove_file(self.demo_mark())
        {
            warn!(%error, "the demonstration is not forgotten");
        }
        self.has_demo && is_kept == Some(true)
    }

    async fn start_demo(&mut self, host: &Host) -> Result<()> {
        info!("starting the demonstration");
        let dirs = self.dirs.clone();
        let demo = tokio::select! {
            demo = demo::start(host, &dirs) => demo.context("start the demonstration")?,
            why = self.keep_server() => bail!(why),
        };
        fs::write(self.demo_mark(), []).context("note that the demonstration runs")?;
        self.record.page = Some(demo.page.clone());
        self.demo = Some(demo);
        Ok(())
    }

    /// The file that says that the demonstration was started here.
    fn demo_mark(&self) -> PathBuf {
        self.claim.instance().folder().join("demo")
    }

    /// Tells of every change of the connection to the hub from now on.
    fn follow_hub(&mut self) {
        if let (Some((watch, link)), Some(sockets)) = (self.link.clone(), self.sockets.clone()) {
            self.follower = Some(tokio::spawn(watch.follow(link, sockets)));
        }
    }

    /// The host has stopped: stops what its last calls may have needed, then the server, and
    /// forgets all.
    pub async fn finish(mut self) {
        if let Some(demo) = self.demo.take() {
            demo.stop().await;
        }
        if let Some(follower) = self.follower.take() {
            follower.abort();
        }
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
        // A server left by a predecessor that this one never got to is kept in mind.
        let left = match &self.record.server {
            Some(server) => server.leftover(self.claim.instance()).await,
            None => None,
        };
        if left.is_none()
            && let Err(error) = self.claim.clear()
        {
            warn!(%error, "the record of what runs is not removed");
        }
    }

    fn note(&self) -> std::io::Result<()> {
        self.claim.write(&self.record)
    }
}

/// Why no server can be started on this host's name.
fn elsewhere(host: &str) -> String {
    format!(
        "{host} is no address of this machine: `host up` starts servers on this machine only. To use a NATS server that runs \
         elsewhere: host foreground --nats-host {host}. To join it as a hub, with a server here: host up --hub \
         nats-leaf://{host}"
    )
}

/// Where the server of these settings is, `host:port`.
pub fn place(config: &Config) -> String {
    address(&config.ctl.host_text, config.ctl.port)
}

/// `host:port`, as connections and servers take it.
fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The directory this process was started in, by its one true name.
pub fn directory() -> Result<PathBuf> {
    fs::canonicalize(".").context("find the directory this was started in; does it still exist?")
}

//! The NATS server of a session: finds or starts it, keeps it running, and watches its hub.
//!
//! One that listens already is used as it is. Else one is started, or the one that a killed `up` of
//! this directory left is taken over; only such a server gives the host its login and its domain.

use std::fs;

use anyhow::{Context as _, Result, bail};
use tracing::{info, warn};

use super::{
    STOP_MARGIN, Session, address, elsewhere,
    hub::{Hub, Link, Watch},
    instance::{self, Instance, ServerRecord},
    login::{self, Login},
    nats_server::{self, NatsServer, Probe, Settings},
    place,
    process::Process,
    settle::{self, Lattice},
    summary,
    supervise::{Change, Supervised},
};
use lattice_base::config::{Config, ProcessEnvironment};
use lattice_protocol::clock;

impl Session {
    /// Makes sure that a NATS server listens: the one a killed `up` of this directory left, one
    /// that is there, or a new one. Beside a server of its own, a host that has been told no
    /// `js_domain` gets that server's.
    pub async fn ensure_server(&mut self, config: &mut Config) -> Result<()> {
        let place = place(config);
        self.record.stop_within_ms = clock::millis(config.shutdown_timeout + STOP_MARGIN);
        self.record.address = Some(place.clone());
        if self.take_over(config, &place).await? {
            return Ok(());
        }
        match nats_server::probe(&place).await {
            Probe::Nothing => self.start_server(config, &place).await,
            Probe::Nats(greeting) => {
                self.check_foreign(&place, &greeting.name)?;
                info!(address = %place, version = %greeting.version, "a NATS server runs already and is used");
                self.note().context("note what runs")?;
                self.check_rpc(config, &place).await
            }
            Probe::Other => bail!(
                "something that is no NATS server listens on {place}; choose another port with --nats-port, or let one be \
                 chosen with --free-ports"
            ),
        }
    }

    /// Uses the server that a killed `up` of this directory left if it has these settings, or stops
    /// it. Says whether it is used.
    async fn take_over(&mut self, config: &mut Config, place: &str) -> Result<bool> {
        let Some(left) = self.record.server.clone() else { return Ok(false) };
        let as_left = self.server_settings(place, left.name.clone())?;
        match left.leftover(self.claim.instance()).await {
            Some(process)
                if as_left.are_as_written() && nats_server::probe(place).await.is(&left.name) =>
            {
                info!(address = %place, pid = process.pid, "the NATS server that a killed `host up` left is taken over");
                self.take_domain(config)?;
                self.take_login(config, &as_left);
                self.use_server(NatsServer::adopt(process), &as_left).await?;
                return Ok(true);
            }
            Some(process) => {
                info!(
                    address = %left.address, pid = process.pid,
                    "the NATS server that a killed `host up` left has other settings and is stopped"
                );
                nats_server::stop_process(&process)
                    .await
                    .context("stop the server an earlier `host up` left")?;
            }
            None => {}
        }
        self.record.server = None;
        Ok(false)
    }

    async fn start_server(&mut self, config: &mut Config, place: &str) -> Result<()> {
        let host = config.ctl.host_text.clone();
        let looked_up = host.clone();
        if !tokio::task::spawn_blocking(move || nats_server::is_here(&looked_up))
            .await
            .unwrap_or(true)
        {
            bail!("no NATS server answers on {place}, and {}", elsewhere(&host));
        }
        self.check_rpc(config, place).await?;
        let binary = nats_server::find_or_install(&ProcessEnvironment, &self.dirs).await?;
        let name = format!("{}-{:016x}", self.domains.server, rand::random::<u64>());
        let fresh = self.server_settings(place, name)?;
        login::give_store_to(&fresh.store_dir, fresh.login.as_ref()).with_context(|| {
            format!("give the streams in {} to the account that logs in", fresh.store_dir.display())
        })?;
        self.take_domain(config)?;
        self.take_login(config, &fresh);
        // Noted before it is started: whatever happens in between, the next `up` knows its name.
        self.record.server = Some(server_record(&fresh, None));
        self.note().context("note what is started")?;
        info!(address = %place, domain = %fresh.domain, "starting NATS server");
        let server = NatsServer::start(&binary, &fresh).await.with_context(|| {
            format!("start the NATS server; its log is {}", fresh.log().display())
        })?;
        info!(
            address = %place, domain = %fresh.domain, store = %fresh.store_dir.display(), log = %fresh.log().display(),
            "NATS server started"
        );
        self.use_server(server, &fresh).await
    }

    /// How a server of this name is to run at this place.
    fn server_settings(&self, place: &str, name: String) -> Result<Settings> {
        let (instance, domain) = (self.claim.instance(), &self.domains.server);
        Ok(Settings {
            name,
            address: place.to_owned(),
            domain: domain.clone(),
            store_dir: settle::store(&self.dirs, instance, domain),
            dir: instance.folder().to_owned(),
            login: self.own_login()?,
            hub: self.options.hub.clone(),
            // Its successor takes it over.
            ends_with_parent: false,
        })
    }

    /// The server will be this machine's own, and so are its domain and its store.
    fn take_domain(&self, config: &mut Config) -> Result<()> {
        if let Some(domain) = &self.domains.metadata {
            config.js_domain = Some(domain.clone());
        }
        if !self.domains.is_own {
            return Ok(());
        }
        let (instance, domain) = (self.claim.instance(), &self.domains.server);
        settle::mark(&self.dirs, instance, domain, &Lattice::of(config)).with_context(|| {
            format!(
                "note which lattice the store {} is for (XDG_DATA_HOME moves it)",
                settle::store(&self.dirs, instance, domain).display()
            )
        })
    }

    /// The login of this directory's server, unless it is to be open.
    fn own_login(&self) -> Result<Option<Login>> {
        if self.options.open {
            return Ok(None);
        }
        Login::keep(&settle::login(&self.dirs, self.claim.instance())).map(Some)
    }

    /// The settings get the login of the server.
    fn take_login(&mut self, config: &mut Config, server: &Settings) {
        self.login.clone_from(&server.login);
        let unused = login::log_in(config, server.login.as_ref(), &server.address);
        if !unused.is_empty() {
            warn!(
                "the login of {} is not used: the NATS server that `host up` starts has one of its own (--open starts it \
                 without)",
                unused.join(", ")
            );
        }
    }

    async fn use_server(&mut self, server: NatsServer, settings: &Settings) -> Result<()> {
        self.record.server = Some(server_record(settings, Some(server.process().clone())));
        let pid = server.process().pid;
        self.server = Some(Supervised::new(self.dirs.clone(), settings.clone(), server));
        self.note().context("note what was started")?;
        if let Some(hub) = self.options.hub.clone() {
            let watch = self.watch(hub, pid);
            info!(hub = %watch.hub, "waiting for the connection to the hub");
            let link = watch.first().await;
            self.link = Some((watch, link));
        }
        Ok(())
    }

    /// How the hub connection of the server with this process number is watched.
    fn watch(&self, hub: Hub, pid: u32) -> Watch {
        let folder = self.claim.instance().folder();
        Watch { hub, log: nats_server::log_in(folder), ports_dir: folder.to_owned(), pid }
    }

    /// A server that this directory's `up` did not start is used only as it is, and only if it does
    /// not end with another's.
    fn check_foreign(&self, place: &str, name: &str) -> Result<()> {
        if let Some((owner, record)) = instance::owner_of(&self.dirs, self.claim.instance(), name) {
            let directory = record.directory.display();
            if !owner.is_running() {
                bail!(
                    "the NATS server on {place} was left by a `host up` of {directory} that was killed, and goes with the next \
                     `host up` or `host down` there. Stop it with `host down` there; or for a lattice of its own here: host up \
                     --free-ports"
                );
            }
            bail!(
                "the NATS server on {place} belongs to the `host up` of {directory} (pid {}) and ends with it. For a lattice of \
                 its own here: host up --free-ports. To join that one, copy its host_config.json here and use: host foreground",
                record.up.pid
            );
        }
        let asked =
            [("--hub", self.options.hub.is_some()), ("--domain", self.options.domain.is_some())];
        if let Some((flag, _)) = asked.into_iter().find(|(_, is_asked)| *is_asked) {
            bail!(
                "{flag} is for a server that `host up` starts, but a NATS server that it did not start runs on {place}; stop \
                 that server, leave {flag} away, or let another port be chosen with --free-ports"
            );
        }
        Ok(())
    }

    /// One server is started; calls may go over another one only if that runs.
    async fn check_rpc(&self, config: &Config, place: &str) -> Result<()> {
        let rpc = address(&config.rpc.host_text, config.rpc.port);
        if rpc == place || !matches!(nats_server::probe(&rpc).await, Probe::Nothing) {
            return Ok(());
        }
        bail!(
            "the settings name one NATS server for control ({place}) and another for calls ({rpc}), where none listens; \
             `host up` starts only one: set both with --nats-host and --nats-port"
        )
    }

    /// Starts the server again whenever it dies; returns why, when that is given up. Waits for ever
    /// if none was started. Cancel safe.
    pub async fn keep_server(&mut self) -> String {
        loop {
            let change = match &mut self.server {
                Some(server) => server.changed().await,
                None => std::future::pending().await,
            };
            match change {
                Change::StartedAgain(process) => self.server_came_back(process),
                Change::GivenUp(why) => return why,
            }
        }
    }

    /// Notes the new process of the server, and watches its connection to the hub.
    fn server_came_back(&mut self, process: Process) {
        let pid = process.pid;
        if let Some(server) = &mut self.record.server {
            server.process = Some(process);
        }
        let row = self.server_row(pid);
        if let Some(summary) = &mut self.record.summary {
            summary.correct(summary::NATS, row);
        }
        if let Err(error) = self.note() {
            warn!(%error, "the new process of the NATS server is not noted; a kill of this one leaves it behind");
        }
        info!(address = self.record.address, pid, "NATS server started again");
        let Some(hub) = self.options.hub.clone() else { return };
        self.link = Some((self.watch(hub, pid), Link::Away(None)));
        // Before the host is ready nobody follows the connection.
        if let Some(follower) = self.follower.take() {
            follower.abort();
            self.follow_hub();
        }
    }
}

impl ServerRecord {
    /// The process of this server, if it still runs and surely is this server.
    pub(super) async fn leftover(&self, instance: &Instance) -> Option<Process> {
        match &self.process {
            Some(process) if !process.is_alive() => None,
            Some(process) if process.is_certain() => Some(process.clone()),
            process => {
                if !nats_server::probe(&self.address).await.is(&self.name) {
                    return None;
                }
                // Nobody else has its name, so the number it has noted is its own.
                process.clone().or_else(|| {
                    let noted =
                        fs::read_to_string(nats_server::pid_file_in(instance.folder())).ok()?;
                    Process::of(noted.trim().parse().ok()?)
                })
            }
        }
    }
}

fn server_record(settings: &Settings, process: Option<Process>) -> ServerRecord {
    ServerRecord {
        name: settings.name.clone(),
        address: settings.address.clone(),
        domain: settings.domain.clone(),
        store: settings.store_dir.clone(),
        process,
    }
}

//! The place where a measurement happens: a NATS server, a host of this process that calls, and one
//! of another process that serves. All of it lies in a temporary directory and ends with this
//! process.

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use lattice_base::{
    config::{Config, ProcessEnvironment, Sources, settings},
    dirs::Dirs,
    trusted,
};
use lattice_client::{commands::HostCommands, lattice::Lattice};
use lattice_engine::host::Host;
use lattice_protocol::{
    control::{request::PutLink, types::Pairs},
    identity::{
        keys::{Kind, LatticeName, LinkName},
        signature::SigningKey,
    },
    lattice::subject::Subjects,
    links::LinkDefinition,
};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::guests::{Actor, Guest, Guests};
use crate::up::{
    login::Login,
    nats_server::{self, NatsServer},
    process::end_with_this_process,
};

pub const LATTICE: &str = "bench";
/// The JetStream domain of the server.
const DOMAIN: &str = "bench";
/// Calls that an actor takes at a time.
const CALLS_MAX: u32 = 1024;
/// Calls that one instance serves where instances are reused.
pub const REUSE: &str = "1000";
const REUSE_ANNOTATION: &str = "lattice.host/instance-reuse";
/// How long a host may take to answer, or an actor to run, compiling included.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How long one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
pub const POLL: Duration = Duration::from_millis(10);
/// How long hosts of this process may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// The time of a call, in milliseconds: longer than what is measured, and shorter than forever.
const RPC_TIMEOUT_MS: &str = "10000";
/// Lines of a log that are quoted.
const LOG_LINES: usize = 5;

/// Where a NATS server is, and how to log in.
#[derive(Clone, Debug)]
pub struct Nats {
    /// `host:port`
    pub address: String,
    /// A file with the login.
    pub creds: PathBuf,
}

impl Nats {
    fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Opens a connection of its own.
    pub async fn connect(&self) -> Result<async_nats::Client> {
        let options = async_nats::ConnectOptions::with_credentials_file(&self.creds)
            .await
            .context("read the login of the NATS server")?;
        options.connect(self.url()).await.context("connect to the NATS server")
    }
}

/// A NATS server in a temporary directory, for hosts of one lattice.
pub struct Server {
    pub nats: Nats,
    pub client: async_nats::Client,
    pub lattice: Lattice,
    /// Signs calls of this lattice.
    pub cluster_seed: String,
    server: NatsServer,
    // Last, so that nobody writes to it any more when it is removed.
    dir: TempDir,
}

impl Server {
    /// Starts one; it is ready when this returns.
    pub async fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("host-bench-").tempdir();
        let dir = dir.context("make a temporary directory")?;
        let binary = nats_server::find_or_install(&ProcessEnvironment, &Dirs::of_process()).await?;
        let login = Login::keep(&dir.path().join("login.json"))?;
        let creds = dir.path().join("user.creds");
        trusted::create(&creds, login.creds().as_bytes()).context("write the login")?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let settings = nats_server::Settings {
            name: format!("bench-{:016x}", rand::random::<u64>()),
            address: address.clone(),
            domain: DOMAIN.to_owned(),
            store_dir: dir.path().join("streams"),
            dir: dir.path().join("nats"),
            login: Some(login),
            hub: None,
            ends_with_parent: true,
        };
        let server = NatsServer::start(&binary, &settings).await.context("start a NATS server")?;
        let nats = Nats { address, creds };
        let client = nats.connect().await?;
        let subjects = Subjects::new(LatticeName::parse(LATTICE)?, "wasmbus.ctl");
        let domain = Some(DOMAIN.to_owned());
        let lattice = Lattice::new(client.clone(), subjects, ANSWER_TIMEOUT, domain);
        let (_, cluster_seed) = SigningKey::generate(Kind::Cluster)?;
        Ok(Self { nats, client, lattice, cluster_seed, server, dir })
    }

    /// The temporary directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Makes a directory in it.
    pub fn dir_of(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(dir)
    }

    /// The settings of a host of this lattice, by their keys.
    fn settings(&self) -> Vec<(&'static str, String)> {
        [
            ("nats_host", &*self.nats.url()),
            ("nats_creds", &self.nats.creds.to_string_lossy()),
            ("lattice_prefix", LATTICE),
            ("js_domain", DOMAIN),
            ("cluster_seed", &self.cluster_seed),
            ("enable_start_from_fs", "true"),
            ("rpc_timeout_ms", RPC_TIMEOUT_MS),
            ("dashboard_port", "0"),
            ("log_level", "warn"),
        ]
        .map(|(key, value)| (key, value.to_owned()))
        .to_vec()
    }

    /// Starts a host in this process, with settings of its own besides the usual ones.
    pub async fn host(&self, name: &str, own: &[(&'static str, &str)]) -> Result<Host> {
        let home = self.dir_of(name)?;
        let mut flags = self.settings();
        flags.extend(own.iter().map(|(key, value)| (*key, (*value).to_owned())));
        let sources = Sources {
            flags,
            labels: Vec::new(),
            env: Box::new(Vec::<(String, String)>::new()),
            dir: home.clone(),
            home: Some(home.clone()),
            context: None,
        };
        let config = Config::load(&sources)?.config;
        let dirs = Dirs::find(&*sources.env, Some(&home));
        let never = CancellationToken::new();
        Host::start(config, &dirs, &lattice_dashboard::Opener, &never)
            .await
            .with_context(|| format!("start the host {name}"))
    }

    /// Stops the server and removes the directory.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

/// A host that is a process of its own.
pub struct Member {
    child: Child,
    pub id: String,
    lattice: Lattice,
    /// Addresses of pages, by actor.
    pages: Mutex<HashMap<String, String>>,
    /// The time from the start of the process until the host answered.
    pub start: Duration,
}

impl Member {
    /// Starts one that keeps its files in `home`, a directory of the server's; it answers when this
    /// returns.
    pub async fn start(program: &Path, server: &Server, home: &str) -> Result<Self> {
        let (key, seed) = SigningKey::generate(Kind::Server)?;
        let home = server.dir_of(home)?;
        let log = home.join("log");
        let mut command = Command::new(program);
        command.arg("foreground").current_dir(&home).env_clear();
        command.env("HOME", &home).env("TMPDIR", &home);
        // In variables, since everybody reads command lines.
        for (key, value) in server.settings().into_iter().chain([("host_seed", seed)]) {
            let setting = settings::find(key).context("find a setting")?;
            command.env(setting.env[0], value);
        }
        let file = File::create(&log).context("create the log of a host")?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let began = Instant::now();
        let child = spawn(&mut command).with_context(|| format!("run {}", program.display()))?;
        let (id, lattice) = (key.public_key().to_owned(), server.lattice.clone());
        let pages = Mutex::default();
        let mut member = Self { child, id, lattice, pages, start: Duration::ZERO };
        member.answers(&log, began).await?;
        member.start = began.elapsed();
        Ok(member)
    }

    /// Waits until the host tells what it runs.
    async fn answers(&mut self, log: &Path, began: Instant) -> Result<()> {
        while let Err(error) = self.lattice.inventory(&self.id).await {
            if let Some(status) = self.child.try_wait()? {
                let said = nats_server::last_lines(log, LOG_LINES);
                bail!("a host ended at once ({status}): {said}");
            }
            if began.elapsed() > PATIENCE {
                return Err(error).context("a host does not answer");
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Its process number.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Starts an actor whose instances serve so many calls; returns the time until it ran.
    pub async fn run(&self, actor: &Actor, reuse: Option<&str>) -> Result<Duration> {
        start_actor(&self.lattice, &self.id, actor, reuse).await
    }

    /// Starts the HTTP server.
    pub async fn serve(&self) -> Result<()> {
        let reference = lattice_protocol::builtin::HTTPSERVER.reference();
        let commands = HostCommands::new(&self.lattice, &self.id, Some(PATIENCE));
        let (link_name, none) = (LinkName::DEFAULT, Pairs::new());
        commands.start_provider(&reference, link_name, &none, None, &mut |_| {}).await?;
        Ok(())
    }

    /// Links an actor to the HTTP server, once; returns the address of its page.
    pub async fn publish(&self, actor: &Actor) -> Result<String> {
        if let Some(address) = self.pages.lock().get(&actor.id) {
            return Ok(address.clone());
        }
        let address = format!("127.0.0.1:{}", free_port()?);
        let known = lattice_protocol::builtin::HTTPSERVER;
        let link = LinkDefinition {
            actor_id: actor.id.clone(),
            provider_id: known.public_key.to_owned(),
            link_name: LinkName::DEFAULT.to_owned(),
            contract_id: known.contract_id.to_owned(),
            values: [("address".to_owned(), address.clone())].into(),
        };
        self.lattice.change(&PutLink::from(link)).await.context("link the actor")?;
        self.pages.lock().insert(actor.id.clone(), address.clone());
        Ok(address)
    }

    /// Ends the process.
    pub async fn end(mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill().await;
    }
}

/// Starts an actor; returns the time until it ran.
pub async fn start_actor(
    lattice: &Lattice,
    host: &str,
    actor: &Actor,
    reuse: Option<&str>,
) -> Result<Duration> {
    let commands = HostCommands::new(lattice, host, Some(PATIENCE));
    let annotation = reuse.map(|calls| (REUSE_ANNOTATION.to_owned(), calls.to_owned()));
    let annotations = annotation.into_iter().collect();
    let began = Instant::now();
    let reference = actor.reference();
    commands.start_actor(&reference, Some(CALLS_MAX), &annotations, &mut |_| {}).await?;
    Ok(began.elapsed())
}

/// Starts a process that ends with this one.
pub fn spawn(command: &mut Command) -> std::io::Result<Child> {
    // A Ctrl-C in the terminal is for this process, which ends them.
    #[cfg(unix)]
    command.process_group(0);
    end_with_this_process(command);
    command.kill_on_drop(true).spawn()
}

/// Returns a port that nobody listens on now.
pub fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}

/// The same code as two actors.
#[derive(Clone, Debug)]
pub struct Pair {
    /// An instance for each call.
    pub fresh: Actor,
    /// Instances that serve [`REUSE`] calls.
    pub reused: Actor,
}

/// How long starts took.
#[derive(Clone, Copy, Debug)]
pub struct Starts {
    pub host: Duration,
    /// An actor whose code the host has never seen.
    pub actor: Duration,
    /// An actor whose code runs already.
    pub actor_again: Duration,
}

/// A server, a host that calls, and a host that serves.
pub struct Stage {
    pub server: Server,
    pub guests: Guests,
    /// Makes calls; runs [`Stage::local`] itself.
    pub caller: Host,
    pub local: Pair,
    pub member: Member,
    pub remote: Pair,
    /// The component beside the actor, on the host that serves.
    pub component: Option<Pair>,
    pub starts: Starts,
    /// The binary of hosts and bare servers.
    pub program: PathBuf,
}

impl Stage {
    /// Starts all of it.
    pub async fn start(program: &Path, guests: Guests) -> Result<Self> {
        let server = Server::start().await?;
        let member = Member::start(program, &server, "serving").await?;
        let caller = server.host("calling", &[]).await?;
        let caller_id = caller.state().facts().id.to_string();
        let on = Place { server: &server, host: &caller_id };
        let (local, _) = on.start(&guests.actor).await?;
        let on = Place { server: &server, host: &member.id };
        let (remote, took) = on.start(&guests.actor).await?;
        let component = match &guests.component {
            Some(guest) => Some(on.start(guest).await?.0),
            None => None,
        };
        let starts = Starts { host: member.start, actor: took[0], actor_again: took[1] };
        let program = program.to_owned();
        Ok(Self { server, guests, caller, local, member, remote, component, starts, program })
    }

    /// Stops all of it; nothing is left then.
    pub async fn close(self) {
        self.member.end().await;
        self.caller.stop(Some(STOP_TIMEOUT)).await;
        self.server.stop().await;
    }
}

/// Where actors are started.
struct Place<'a> {
    server: &'a Server,
    host: &'a str,
}

impl Place<'_> {
    /// Starts a guest as two actors; returns how long each took.
    async fn start(&self, guest: &Guest) -> Result<(Pair, [Duration; 2])> {
        let dir = self.server.dir_of("actors")?;
        let pair = Pair { fresh: guest.sign(&dir)?, reused: guest.sign(&dir)? };
        let lattice = &self.server.lattice;
        let mut took = [Duration::ZERO; 2];
        for (took, (actor, reuse)) in
            took.iter_mut().zip([(&pair.fresh, "1"), (&pair.reused, REUSE)])
        {
            *took = start_actor(lattice, self.host, actor, Some(reuse))
                .await
                .with_context(|| format!("start the actor {}", guest.name))?;
        }
        Ok((pair, took))
    }
}

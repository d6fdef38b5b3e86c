//! A client of the lattice: what the commands of this binary ask of hosts, whoever wrote them.
//!
//! * [`Session`] is the settings of a command, and the connections made from them when they are needed.
//! * [`lattice`] is the requests of the control interface, with their answers read leniently.
//! * [`listing`] asks for links and claims, in pages where they are too many for one message.
//! * [`links`] puts and deletes links, and waits for what their providers say.
//! * [`names`] finds hosts, actors and providers by what people call them.
//! * [`upload`] sends files of this machine into the lattice, for hosts to start; [`dev`] does so at each save of one.
//! * [`calls`] and [`logs`] ask hosts for what they count and keep; [`rates`] compares two looks.
//! * [`placement`] tells on which hosts something may run. [`commands`] changes what a host runs, and
//!   sees it through to its end with [`watch`]: by events and by looking, whichever tells first.
//!
//! Nothing here prints. Every wait has a deadline, and an error says which subject of which lattice was asked, and what to
//! do: nobody who listens is told from somebody who is silent.

pub mod calls;
pub mod commands;
pub mod dev;
pub mod lattice;
pub mod links;
mod listing;
pub mod logs;
pub mod names;
pub mod placement;
pub mod rates;
pub mod upload;
pub mod watch;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::sync::OnceCell;

use crate::{
    cli::connect::Connect,
    config::{Config, FILE_NAME, Overruled, ProcessEnvironment, SettingArgs, Sources, WASH_DIR},
    context,
    dirs::Dirs,
    identity::keys::LatticeName,
    lattice::{
        connection::{Nats, Purpose, connect_once},
        subject::Subjects,
    },
};
use lattice::Lattice;

/// How long an answer may take unless told otherwise: what clients of all years wait.
pub const TIMEOUT: Duration = Duration::from_secs(2);

/// How commands are called on the server.
const CLIENT_NAME: &str = "host command";

/// The session of a command: settings, directories, and the lattice they lead to.
pub struct Session {
    pub config: Config,
    pub dirs: Dirs,
    pub home: Option<PathBuf>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// The context that was used, if one was.
    pub context: Option<PathBuf>,
    /// Values of the file that variables overrule.
    pub overruled: Vec<Overruled>,
    ctl: OnceCell<Nats>,
    rpc: OnceCell<Nats>,
}

/// Where the last host of this user left its settings, for commands that find none elsewhere.
fn left(home: Option<&Path>) -> Option<PathBuf> {
    home.map(|home| home.join(WASH_DIR).join(FILE_NAME))
}

impl Session {
    /// As [`Session::quiet`]; tells on standard error if the settings are those that a host left elsewhere.
    pub fn open(before: SettingArgs, connect: &Connect) -> Result<Self> {
        let session = Self::quiet(before, connect)?;
        if let Some(path) = left(session.home.as_deref())
            .filter(|path| connect.context.is_none() && session.context.as_ref() == Some(path))
        {
            let place = session.config.ctl.servers.join(",");
            let lattice = &session.config.lattice;
            let told =
                format!("lattice {lattice} at {place}, as the last host of this user left it in {}", path.display());
            crate::terminal::complain(told);
        }
        Ok(session)
    }

    /// Reads the settings: flags, environment, then those of a context, of this directory, or of the last host.
    pub fn quiet(before: SettingArgs, connect: &Connect) -> Result<Self> {
        let mut args = before;
        args.values.extend(connect.settings());
        Self::made(args, connect.context.as_deref(), connect.timeout_ms.map(Duration::from_millis))
    }

    /// The same for commands that need no lattice.
    pub fn of(args: SettingArgs, context: Option<&str>, timeout: Duration) -> Result<Self> {
        Self::made(args, context, Some(timeout))
    }

    /// Without a timeout that of the context counts, or else what clients always waited.
    fn made(args: SettingArgs, context: Option<&str>, timeout: Option<Duration>) -> Result<Self> {
        let mut sources = Sources::from_process(args);
        let dirs = Dirs::find(&ProcessEnvironment, sources.home.as_deref());
        sources.context = context::chosen(context, &sources.dir, &dirs, sources.home.as_deref())?;
        // A server that is named now is another one than that of the last host, and gets none of its login.
        let names_server = sources.flags.iter().any(|(key, _)| ["nats_host", "ctl_host"].contains(key));
        if names_server
            && sources.context.as_ref().map(|context| &context.path) == left(sources.home.as_deref()).as_ref()
        {
            sources.context = None;
        }
        let loaded = Config::load(&sources)?;
        let context = sources.context.take();
        let timeout = timeout.or_else(|| context.as_ref()?.timeout).unwrap_or(TIMEOUT);
        let context = context.map(|context| context.path);
        let (ctl, rpc) = (OnceCell::new(), OnceCell::new());
        let overruled = loaded.table.overruled;
        Ok(Self { config: loaded.config, dirs, home: sources.home, timeout, context, overruled, ctl, rpc })
    }

    /// The subjects of the lattice.
    pub fn subjects(&self) -> Result<Subjects> {
        let lattice = LatticeName::parse(&self.config.lattice).context("read the lattice name")?;
        Ok(Subjects::new(lattice, &self.config.ctl_topic_prefix))
    }

    /// The control connection, made when it is first needed.
    pub async fn ctl(&self) -> Result<&Nats> {
        Ok(self.ctl.get_or_try_init(|| connect_once(Purpose::Control, &self.config.ctl, CLIENT_NAME)).await?)
    }

    /// The connection for calls, made when it is first needed.
    pub async fn rpc(&self) -> Result<&Nats> {
        Ok(self.rpc.get_or_try_init(|| connect_once(Purpose::Rpc, &self.config.rpc, CLIENT_NAME)).await?)
    }

    /// The lattice, connected.
    pub async fn lattice(&self) -> Result<Lattice> {
        let nats = self.ctl().await?;
        Ok(Lattice::new(nats.client.clone(), self.subjects()?, self.timeout, self.config.js_domain.clone()))
    }
}

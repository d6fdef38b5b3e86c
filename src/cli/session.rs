//! The session of a command: its settings, and the connections made from them when they are needed.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use tokio::sync::OnceCell;

use crate::{
    args::{connect::Connect, flags::SettingArgs},
    context,
    up::{
        self,
        instance::{self, Record},
    },
};
use lattice_base::{
    config::{
        self, Config, Environment as _, FILE_NAME, Overruled, ProcessEnvironment, Sources, WASH_DIR,
    },
    dirs::Dirs,
    lattice::connection::{ConnectError, Nats, Purpose, connect_once},
};
use lattice_client::{
    CLIENT_NAME, TIMEOUT,
    history::{self, History},
    lattice::Lattice,
    upload::Sender,
};
use lattice_protocol::{
    control::types::HostReply, errors::Lines, history::Origin, identity::keys::LatticeName,
    lattice::subject::Subjects,
};

/// Where Linux tells the name of the machine; elsewhere a variable may.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

/// The file with the users of this machine, unless they are kept elsewhere.
#[cfg(unix)]
const USERS: &str = "/etc/passwd";

/// Hosts that are named where nobody answers.
const HOSTS_NAMED: usize = 3;

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
    /// As [`Session::quiet`]; tells on standard error if the settings are those that a host left
    /// elsewhere.
    pub fn open(before: SettingArgs, connect: &Connect) -> Result<Self> {
        let session = Self::quiet(before, connect)?;
        if let Some(path) = left(session.home.as_deref())
            .filter(|path| connect.context.is_none() && session.context.as_ref() == Some(path))
        {
            let place = session.config.ctl.servers.join(",");
            let lattice = &session.config.lattice;
            let told = format!(
                "lattice {lattice} at {place}, as the last host of this user left it in {}",
                path.display()
            );
            crate::terminal::complain(told);
        }
        Ok(session)
    }

    /// Reads the settings: flags, environment, then those of a context, of this directory, or of
    /// the last host.
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
        let mut sources = Sources::from_process(args.values, args.labels);
        let dirs = Dirs::find(&ProcessEnvironment, sources.home.as_deref());
        sources.context = context::chosen(context, &sources.dir, &dirs, sources.home.as_deref())?;
        // A server that is named now is another one than that of the last host, and gets none of
        // its login.
        let names_server =
            sources.flags.iter().any(|(key, _)| ["nats_host", "ctl_host"].contains(key));
        if names_server
            && sources.context.as_ref().map(|context| &context.path)
                == left(sources.home.as_deref()).as_ref()
        {
            sources.context = None;
        }
        let loaded = Config::load(&sources)?;
        let context = sources.context.take();
        let timeout = timeout.or_else(|| context.as_ref()?.timeout).unwrap_or(TIMEOUT);
        let context = context.map(|context| context.path);
        let (ctl, rpc) = (OnceCell::new(), OnceCell::new());
        let overruled = loaded.table.overruled;
        Ok(Self {
            config: loaded.config,
            dirs,
            home: sources.home,
            timeout,
            context,
            overruled,
            ctl,
            rpc,
        })
    }

    /// The subjects of the lattice.
    pub fn subjects(&self) -> Result<Subjects> {
        let lattice = LatticeName::parse(&self.config.lattice).context("read the lattice name")?;
        Ok(Subjects::new(lattice, &self.config.ctl_topic_prefix))
    }

    /// The control connection, made when it is first needed.
    pub async fn ctl(&self) -> Result<&Nats> {
        self.ctl.get_or_try_init(|| self.connected(Purpose::Control, &self.config.ctl)).await
    }

    /// Connects. Where nobody answers, the hosts of this user that run elsewhere are named.
    async fn connected(&self, purpose: Purpose, to: &config::Connection) -> Result<Nats> {
        let error = match connect_once(purpose, to, CLIENT_NAME).await {
            Ok(nats) => return Ok(nats),
            Err(error) => error,
        };
        if let ConnectError::Unreachable { servers, cause, .. } = &error
            && let Some(record) = instance::at(&self.dirs, &up::place(&self.config))
        {
            return Err(frozen(servers, cause, &record));
        }
        let hint = match &error {
            ConnectError::Unreachable { .. } => self.elsewhere(),
            _ => None,
        };
        let error = anyhow::Error::from(error);
        Err(match hint {
            Some(hint) => Lines(vec![format!("{error:#}"), hint]).into(),
            None => error,
        })
    }

    /// Names the hosts of this user that run on this machine at another NATS server, and how to
    /// reach them.
    fn elsewhere(&self) -> Option<String> {
        let hosts = instance::elsewhere(&self.dirs, &up::place(&self.config));
        let (context, first) = hosts.first()?;
        let named: Vec<String> =
            hosts.iter().take(HOSTS_NAMED).map(|(_, record)| record.told()).collect();
        Some(format!(
            "hosts of yours run on this machine: {}. Give the command in the directory of one, or with --context, as in \
             `--context {context}` for {}",
            named.join("; "),
            first.host_name.as_deref().unwrap_or("the first")
        ))
    }

    /// The connection for calls, made when it is first needed.
    pub async fn rpc(&self) -> Result<&Nats> {
        self.rpc.get_or_try_init(|| self.connected(Purpose::Rpc, &self.config.rpc)).await
    }

    /// Returns the history of the lattice. `hosts` are those that answer: what their clusters
    /// signed counts, and what the settings name.
    pub async fn history(&self, hosts: &[HostReply]) -> Result<History> {
        let domain = history::domain(&self.config, hosts);
        let trust = history::trust(&self.config, hosts);
        let nats = self.ctl().await?.clone();
        Ok(History::new(nats, domain.as_deref(), &self.config.lattice, trust))
    }

    /// Says who this command is, for the history of the hosts that take it.
    fn origin(&self) -> Origin {
        let names = ["USER", "LOGNAME", "USERNAME"];
        let user = names.into_iter().find_map(|name| ProcessEnvironment.var(name));
        let machine = std::fs::read_to_string(HOSTNAME).ok();
        let machine = machine.or_else(|| ProcessEnvironment.var("HOSTNAME"));
        let who = who(&user.unwrap_or_else(user_of_process), &machine.unwrap_or_default());
        let nats_user = self.config.ctl.auth.user_name().unwrap_or_default();
        Origin { kind: "cli".to_owned(), who, nats_user, ..Origin::default() }
    }

    /// Returns what sends files into the lattice.
    pub async fn sender(&self) -> Result<Sender> {
        Ok(Sender::new(self.lattice().await?, self.ctl().await?.clone(), &self.config))
    }

    /// The lattice, connected.
    pub async fn lattice(&self) -> Result<Lattice> {
        let nats = self.ctl().await?;
        Ok(Lattice::new(
            nats.client.clone(),
            self.subjects()?,
            self.timeout,
            self.config.js_domain.clone(),
        )
        .with_origin(self.origin()))
    }
}

/// Says who gives a command on a machine, as far as it is known.
fn who(user: &str, machine: &str) -> String {
    match (user, machine.trim()) {
        ("", machine) => machine.to_owned(),
        (user, "") => user.to_owned(),
        (user, machine) => format!("{user}@{machine}"),
    }
}

/// Returns the name of the user this process works for, or the number of one without a name here.
/// Where services, timers and containers start a process, no variable tells it.
#[cfg(unix)]
fn user_of_process() -> String {
    let uid = rustix::process::geteuid().as_raw();
    let users = std::fs::read(USERS).unwrap_or_default();
    name_of(uid, &String::from_utf8_lossy(&users)).unwrap_or_else(|| format!("uid {uid}"))
}

/// Nothing but a variable tells it here.
#[cfg(not(unix))]
fn user_of_process() -> String {
    String::new()
}

/// Looks for the name of a user in the file with all of them.
#[cfg(unix)]
fn name_of(uid: u32, users: &str) -> Option<String> {
    users.lines().find_map(|line| {
        // The name, a password or a sign for it, and the number.
        let mut parts = line.split(':');
        let name = parts.next().filter(|name| !name.is_empty())?;
        let is_it = parts.nth(1)?.parse::<u32>() == Ok(uid);
        is_it.then(|| name.to_owned())
    })
}

/// The error where a `host up` runs at a server that does not answer: one more would not help.
fn frozen(servers: &str, cause: &str, record: &Record) -> anyhow::Error {
    anyhow!(
        "the NATS server at {servers} does not answer ({cause}), although `host up` of {} runs: it may be frozen or overloaded. \
         `host down` and `host up` there start it anew",
        record.told()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_is_named_as_far_as_it_is_known() {
        for (user, machine, expected) in [
            ("ann", "laptop\n", "ann@laptop"),
            ("uid 7", "vm", "uid 7@vm"),
            ("", "vm", "vm"),
            ("ann", "", "ann"),
            ("", "\n", ""),
        ] {
            assert_eq!(who(user, machine), expected);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_user_without_a_variable_is_found_by_its_number() {
        let users = "root:x:0:0:root:/root:/bin/sh\n\n:x:7::\nsvc:x:77:7::/:\nann:x:7:7:Änn:/home/ann:\nbob";
        for (uid, name) in [(0, Some("root")), (7, Some("ann")), (77, Some("svc")), (8, None)] {
            assert_eq!(name_of(uid, users).as_deref(), name, "{uid}");
        }
        assert_eq!(name_of(0, ""), None);
        assert_ne!(user_of_process(), "");
    }
}

//! The login of a server that `host up` starts: without it every user of the machine, and every
//! page and actor that reaches loopback, could operate the lattice.
//!
//! ```text
//! Login::keep      reads the login of this directory's server, or makes one: operator, account, user
//! give_store_to    lets the account of that login have the streams that are there
//! log_in           puts the login into the settings; from there it goes into host_config.json, as every setting
//! write_contexts   tells `nats` and `wash` (and `host`, which reads those of both)
//! ```
//!
//! The keys of operator and account are thrown away once they have signed, so nobody can let
//! another user in. The login that is kept lies beside the streams, by directory *and* machine: a
//! copied `host_config.json` brings the login of the first machine's server along, but a server on
//! the second gets its own, and [`log_in`] puts that in the place of the other one. A login that
//! `host up` made is known by the name in its claims; any other is the user's.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::context;
use lattice_base::{
    config::{Auth, Config, Secret},
    dirs::Dirs,
    trusted::{self, Holds},
};
use lattice_protocol::identity::operator::{self, Keys, Operator};

/// The name in the claims of every login that `host up` makes.
const NAME: &str = "lattice-host-up";
/// The account that streams of a server without logins belong to.
const OPEN_ACCOUNT: &str = "$G";
/// Where a server keeps streams below its store, by account.
const STREAMS: &str = "jetstream";

/// A login, and what the server has to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Part of the server's configuration.
    pub server_config: String,
    /// `A…`
    pub account: String,
    jwt: String,
    seed: Secret,
}

/// As it lies on the disk.
#[derive(Serialize, Deserialize)]
struct Kept {
    server_config: String,
    account: String,
    user_jwt: String,
    user_seed: String,
}

impl Kept {
    fn write(&self, path: &Path) -> io::Result<()> {
        trusted::create_dir(path.parent().unwrap_or(Path::new(".")))?;
        trusted::create(path, &serde_json::to_vec(self)?)
    }
}

impl Login {
    /// Reads the login at `path`, or makes one and keeps it there.
    pub fn keep(path: &Path) -> Result<Self> {
        let kept: Kept = match trusted::read(path, Holds::OwnSecrets) {
            Ok(read) => serde_json::from_slice(&read.bytes).with_context(|| {
                format!("{} holds no login; remove it to get a new one", path.display())
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = Operator::new(&Keys::new(), NAME)
                    .context("make a login for the NATS server")?;
                let Operator { server_config, account, user_jwt, user_seed } = made;
                let kept = Kept { server_config, account, user_jwt, user_seed };
                kept.write(path).with_context(|| {
                    format!("keep the login of the NATS server in {}", path.display())
                })?;
                kept
            }
            Err(error) => {
                bail!("the login of the NATS server cannot be used: {}: {error}", path.display())
            }
        };
        let Kept { server_config, account, user_jwt, user_seed } = kept;
        Ok(Self { server_config, account, jwt: user_jwt, seed: Secret::new(user_seed) })
    }

    fn auth(&self) -> Auth {
        Auth::JwtAndSeed { jwt: Secret::new(&*self.jwt), seed: self.seed.clone() }
    }

    /// Returns the login as the file that clients read it from.
    pub fn creds(&self) -> String {
        operator::creds(&self.jwt, self.seed.expose())
    }
}

/// Whether a `host up` made this login, on whatever machine.
fn is_of_up(auth: &Auth) -> bool {
    let Auth::JwtAndSeed { jwt, .. } = auth else { return false };
    operator::name_in(jwt.expose()).as_deref() == Some(NAME)
}

/// Puts the login of the server at `place` into the settings of every connection that leads there,
/// or takes that of an earlier server out. Returns the families whose own login is not used.
pub fn log_in(config: &mut Config, login: Option<&Login>, place: &str) -> Vec<&'static str> {
    let wanted = login.map_or(Auth::Anonymous, Login::auth);
    let [is_ctl, is_rpc] =
        [&config.ctl, &config.rpc].map(|at| super::address(&at.host_text, at.port) == place);
    // Providers may know this machine by another name.
    let has_providers = is_rpc && config.prov_rpc.port == config.rpc.port;
    let families = [
        ("ctl", is_ctl, &mut config.ctl),
        ("rpc", is_rpc, &mut config.rpc),
        ("prov_rpc", has_providers, &mut config.prov_rpc),
    ];
    let mut unused = Vec::new();
    for (family, is_there, connection) in families {
        let is_users = connection.auth != Auth::Anonymous && !is_of_up(&connection.auth);
        match (is_there, is_users, login) {
            // An open server takes any login, and a login for elsewhere is the user's business.
            (_, true, None) | (false, true, _) => {}
            (true, true, Some(_)) => {
                unused.push(family);
                connection.auth = wanted.clone();
            }
            (true, false, _) => connection.auth = wanted.clone(),
            (false, false, _) => {}
        }
    }
    unused
}

/// Streams belong to an account. A store that another login of this directory left, or none, is
/// handed over; no server may run on it. Streams that the account has already stay.
pub fn give_store_to(store: &Path, login: Option<&Login>) -> io::Result<()> {
    let streams = store.join(STREAMS);
    let wanted = streams.join(login.map_or(OPEN_ACCOUNT, |login| &login.account));
    if wanted.exists() {
        return Ok(());
    }
    let entries = fs::read_dir(&streams).into_iter().flatten().filter_map(Result::ok);
    let mut accounts: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_account))
        .map(|entry| entry.path())
        .collect();
    match (accounts.pop(), accounts.is_empty()) {
        (Some(only), true) => fs::rename(only, wanted),
        _ => Ok(()),
    }
}

fn is_account(name: &str) -> bool {
    name == OPEN_ACCOUNT || (name.len() == 56 && name.starts_with('A'))
}

/// Writes contexts of this name for `nats` and for `wash`. They hold the login; an error says which
/// could not be written.
pub fn write_contexts(
    name: &str,
    config: &Config,
    login: Option<&Login>,
    dirs: &Dirs,
    creds: &Path,
) -> Result<()> {
    let (Some(nats), Some(wash)) = (&dirs.nats_config, &dirs.wash_contexts) else {
        bail!("this user has no home directory for contexts; set HOME");
    };
    if let Some(login) = login {
        trusted::replace(creds, login.creds().as_bytes())
            .with_context(|| format!("write {}", creds.display()))?;
    }
    write_context(&nats.join("context"), name, &nats_context(config, login, creds)?)?;
    // The cluster seed may have been made up just now; it is in host_config.json by the time this
    // is read.
    let mut known = config.clone();
    known.cluster.ad_hoc = false;
    write_context(wash, name, &context::write::wash_content(name, &known, None)?)
}

fn nats_context(config: &Config, login: Option<&Login>, creds: &Path) -> Result<Vec<u8>> {
    let context = json!({
        "description": format!("lattice {} of host up", config.lattice),
        "url": config.ctl.servers.join(","),
        "creds": login.map(|_| creds.display().to_string()).unwrap_or_default(),
        "jetstream_domain": config.js_domain.as_deref().unwrap_or_default(),
    });
    serde_json::to_vec_pretty(&context).context("encode the context")
}

fn write_context(dir: &Path, name: &str, content: &[u8]) -> Result<()> {
    let path = dir.join(format!("{name}.json"));
    trusted::create_dir(dir)
        .and_then(|()| trusted::replace(&path, content))
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_base::config::Sources;

    fn config(file: &serde_json::Value) -> Config {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("host_config.json"), file.to_string()).unwrap();
        let sources = Sources {
            flags: Vec::new(),
            labels: Vec::new(),
            env: Box::new(Vec::<(String, String)>::new()),
            dir: dir.path().into(),
            home: None,
            context: None,
        };
        Config::load(&sources).unwrap().config
    }

    fn logins(config: &Config) -> [&Auth; 3] {
        [&config.ctl.auth, &config.rpc.auth, &config.prov_rpc.auth]
    }

    #[test]
    fn a_login_is_made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/.login");
        let made = Login::keep(&path).unwrap();
        assert!(is_of_up(&made.auth()) && !made.server_config.contains(made.seed.expose()));
        assert_eq!(Login::keep(&path).unwrap(), made);
        assert_ne!(Login::keep(&dir.path().join("b/.login")).unwrap(), made);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        fs::write(&path, "{}").unwrap();
        assert!(format!("{:#}", Login::keep(&path).unwrap_err()).contains("remove it"));
    }

    #[test]
    fn a_copied_file_does_not_bring_the_first_machines_login_to_the_seconds_server() {
        let dir = tempfile::tempdir().unwrap();
        let [first, second] = ["a", "b"].map(|name| Login::keep(&dir.path().join(name)).unwrap());
        let (jwt, seed) = (&first.jwt, first.seed.expose());
        let copied = json!({
            "ctl_jwt": jwt, "ctl_seed": seed, "rpc_jwt": jwt, "rpc_seed": seed, "prov_rpc_jwt": jwt, "prov_rpc_seed": seed,
        });
        let mut own = config(&copied);
        assert!(log_in(&mut own, Some(&second), "127.0.0.1:4222").is_empty());
        assert_eq!(logins(&own), [&second.auth(); 3]);
        let mut open = config(&copied);
        assert!(log_in(&mut open, None, "127.0.0.1:4222").is_empty());
        assert_eq!(logins(&open), [&Auth::Anonymous; 3]);
    }

    #[test]
    fn a_login_of_the_users_stays_where_the_server_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let login = Login::keep(&dir.path().join("a")).unwrap();
        let user = Auth::User { user: "me".into(), password: Secret::new("word") };
        let said = json!({
            "ctl_user": "me", "ctl_password": "word", "rpc_host": "rpc.example", "rpc_user": "me", "rpc_password": "word",
        });
        let mut config = config(&said);
        assert_eq!(log_in(&mut config, None, "127.0.0.1:4222"), Vec::<&str>::new());
        assert_eq!(config.ctl.auth, user);
        assert_eq!(log_in(&mut config, Some(&login), "127.0.0.1:4222")[0], "ctl");
        assert_eq!((&config.ctl.auth, &config.rpc.auth), (&login.auth(), &user));
    }

    #[test]
    fn streams_go_to_the_account_that_logs_in_and_never_over_others() {
        let dir = tempfile::tempdir().unwrap();
        let (store, login) = (dir.path().join("core"), Login::keep(&dir.path().join("a")).unwrap());
        give_store_to(&store, Some(&login)).unwrap();
        let at = |account: &str| store.join(STREAMS).join(account);
        fs::create_dir_all(at(OPEN_ACCOUNT).join("streams")).unwrap();
        give_store_to(&store, Some(&login)).unwrap();
        assert!(at(&login.account).join("streams").is_dir() && !at(OPEN_ACCOUNT).exists());
        give_store_to(&store, None).unwrap();
        assert!(at(OPEN_ACCOUNT).join("streams").is_dir() && !at(&login.account).exists());
        fs::create_dir_all(at(&login.account)).unwrap();
        give_store_to(&store, Some(&login)).unwrap();
        assert!(at(OPEN_ACCOUNT).join("streams").is_dir());
    }
}

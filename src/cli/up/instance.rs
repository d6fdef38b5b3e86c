//! Which `host up` belongs to a directory: one at a time, with a record of what it started.
//!
//! A directory is a lattice's place on this machine: its `host_config.json` holds the cluster seed.
//! So `up` keeps one folder below the state directory for each directory it was started in:
//!
//! ```text
//! up/{name}-{hash}/lock          locked for as long as an `up` of this directory lives
//!                  record.json   what it started; removed when all of that has ended
//!                  nats-server.* configuration, log and process number of its server
//!                  host.log      the log of a host in the background
//!                  demo          the demonstration was started here
//! ```
//!
//! The lock goes with the process, however that ends. A record without a lock therefore was left by
//! an `up` that was killed, and tells which server it may have left behind. The lock file itself is
//! never removed: two processes could otherwise hold locks on two files of the same name.

use std::{
    fs::{self, File, TryLockError},
    io,
    net::TcpListener,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{process::Process, summary::Summary};
use lattice_base::{
    dirs::Dirs,
    trusted::{self, Holds},
};
use lattice_protocol::identity::digest::sha256;

const RECORD: &str = "record.json";
const LOCK: &str = "lock";
/// Others hold the lock for moments, to see whether it is held.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_POLL: Duration = Duration::from_millis(20);
/// Choosing a port takes milliseconds.
const TURN_PATIENCE: Duration = Duration::from_secs(10);
/// Ports for servers that share a machine: after the usual one, and below those that the system
/// gives to outgoing connections.
const FREE_PORTS: std::ops::RangeInclusive<u16> = 4223..=5221;

/// The place of one directory's `up`.
#[derive(Clone, Debug)]
pub struct Instance {
    folder: PathBuf,
    key: String,
}

/// The record of what an `up` started. No secret is in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Where it was started.
    pub directory: PathBuf,
    pub up: Process,
    /// When, in RFC 3339.
    pub since: String,
    /// Where its NATS server is or is going to be, `host:port`.
    pub address: Option<String>,
    /// The hub of its server, without passwords.
    pub hub: Option<String>,
    /// The page of the demonstration.
    pub page: Option<String>,
    /// Whether its server lets everybody in.
    #[serde(default)]
    pub is_open: bool,
    /// The server it started, or is about to start.
    pub server: Option<ServerRecord>,
    /// The log of a host in the background.
    pub background_log: Option<PathBuf>,
    /// How long it may take to stop.
    pub stop_within_ms: u64,
    pub host_id: Option<String>,
    /// The friendly name of the host.
    #[serde(default)]
    pub host_name: Option<String>,
    /// Present once the host is ready.
    pub summary: Option<Summary>,
}

/// A server as it was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerRecord {
    /// Made up for this one start, so that a server that answers with it is this one.
    pub name: String,
    pub address: String,
    pub domain: String,
    /// Where its streams are; they stay.
    pub store: PathBuf,
    /// Missing between the decision to start it and the start.
    pub process: Option<Process>,
}

impl Record {
    /// The host in words: its name or id, where it was started, and where its NATS server is.
    pub fn told(&self) -> String {
        let name = self.host_name.as_deref().or(self.host_id.as_deref()).unwrap_or("a host");
        let place = self.address.as_ref().map(|at| format!(", NATS {at}")).unwrap_or_default();
        format!("{name} ({}{place})", self.directory.display())
    }
}

/// Returns the hosts of this user that run on this machine at other addresses than `place`, with
/// the names of the contexts that lead to them.
pub fn elsewhere(dirs: &Dirs, place: &str) -> Vec<(String, Record)> {
    let running = Instance::all(dirs).into_iter().filter(Instance::is_running);
    let records = running.filter_map(|of| Some((of.key().to_owned(), of.record()?)));
    let others = records.filter(|(_, record)| record.address.as_deref() != Some(place));
    others.filter(|(_, record)| record.host_id.is_some()).collect()
}

/// Returns the record of a running `host up` of this user whose NATS server is at `place`.
pub fn at(dirs: &Dirs, place: &str) -> Option<Record> {
    let running = Instance::all(dirs).into_iter().filter(Instance::is_running);
    let mut records = running.filter_map(|of| of.record());
    records.find(|record| record.address.as_deref() == Some(place))
}

/// Why a directory cannot be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("a host of this directory runs already")]
    Taken,
    #[error(
        "{path} cannot be used, where `host up` notes what it started (XDG_STATE_HOME moves it)"
    )]
    Io { path: PathBuf, source: io::Error },
}

impl Instance {
    /// The instance of this directory, whether something runs there or not.
    pub fn of(dirs: &Dirs, directory: &Path) -> Self {
        let name: String = directory
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' })
            .take(40)
            .collect();
        let hash = HEXLOWER.encode(&sha256(directory.as_os_str().as_encoded_bytes())[..6]);
        let key = if name.is_empty() { hash } else { format!("{name}-{hash}") };
        Self { folder: root(dirs).join(&key), key }
    }

    /// All instances of this user, running or not.
    pub fn all(dirs: &Dirs) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(root(dirs)) else { return Vec::new() };
        let folders =
            entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir());
        let mut all: Vec<Self> = folders
            .filter_map(|folder| {
                Some(Self { key: folder.file_name()?.to_str()?.to_owned(), folder })
            })
            .collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all
    }

    /// Names the instance in paths.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether an `up` of this directory lives.
    pub fn is_running(&self) -> bool {
        let Ok(file) = File::open(self.folder.join(LOCK)) else { return false };
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    }

    /// Returns the record of the `up` that runs here, or that was killed here.
    pub fn record(&self) -> Option<Record> {
        // Without a home it is below the place for temporary files, where anybody can write.
        let read = trusted::read(&self.folder.join(RECORD), Holds::Settings).ok()?;
        serde_json::from_slice(&read.bytes).ok()
    }

    /// Takes the directory for this process. Blocks for a moment.
    pub fn claim(&self) -> Result<Claim, ClaimError> {
        let io = |source| ClaimError::Io { path: self.folder.clone(), source };
        fs::create_dir_all(&self.folder).map_err(io)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.folder.join(LOCK))
            .map_err(io)?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Claim { instance: self.clone(), _lock: lock }),
                Err(TryLockError::Error(source)) => return Err(io(source)),
                Err(TryLockError::WouldBlock) => {
                    let lives = self.record().is_some_and(|record| record.up.is_alive());
                    if lives || Instant::now() >= deadline {
                        return Err(ClaimError::Taken);
                    }
                    std::thread::sleep(LOCK_POLL);
                }
            }
        }
    }
}

/// A directory taken by this process; free again when dropped.
#[derive(Debug)]
pub struct Claim {
    instance: Instance,
    _lock: File,
}

impl Claim {
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Replaces the record in one step, so that nobody ever reads half of it.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        trusted::replace(&self.instance.folder.join(RECORD), &serde_json::to_vec_pretty(record)?)
    }

    /// Removes the record: nothing runs any longer.
    pub fn clear(&self) -> io::Result<()> {
        match fs::remove_file(self.instance.folder.join(RECORD)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Chooses the port of this instance's server and notes it with `note`: the wanted one if it
    /// can be had, else the first that nobody uses and no other running instance has noted. Blocks
    /// for a moment.
    pub fn choose_port(
        &self,
        dirs: &Dirs,
        host: &str,
        wanted: Option<u16>,
        note: impl FnOnce(u16) -> io::Result<()>,
    ) -> io::Result<u16> {
        // Two that start at the same time choose one after the other.
        let path = root(dirs).join("ports.lock");
        let turn = File::options().create(true).truncate(false).write(true).open(&path)?;
        let deadline = Instant::now() + TURN_PATIENCE;
        while let Err(error) = turn.try_lock() {
            match error {
                TryLockError::Error(error) => return Err(error),
                TryLockError::WouldBlock if Instant::now() >= deadline => {
                    let held = format!(
                        "another process holds {} and does not let go; end it",
                        path.display()
                    );
                    return Err(io::Error::new(io::ErrorKind::TimedOut, held));
                }
                TryLockError::WouldBlock => std::thread::sleep(LOCK_POLL),
            }
        }
        let noted: Vec<String> = Instance::all(dirs)
            .into_iter()
            .filter(|other| other.key != self.instance.key && other.is_running())
            .filter_map(|other| other.record()?.address)
            .collect();
        let is_free = |port: &u16| {
            !noted.contains(&super::address(host, *port))
                && TcpListener::bind((host, *port)).is_ok()
        };
        // Other users cannot see what is noted here; two who look at the same time begin at
        // different places.
        let (first, count) = (*FREE_PORTS.start(), FREE_PORTS.end() - FREE_PORTS.start() + 1);
        let offset = u16::try_from(std::process::id() % u32::from(count)).unwrap_or(0);
        let turns = (0..count).map(|step| first + (offset + step) % count);
        let port = wanted.into_iter().chain(turns).find(is_free).ok_or_else(|| {
            let range = format!(
                "no port from {} to {} is free on {host}",
                FREE_PORTS.start(),
                FREE_PORTS.end()
            );
            io::Error::new(io::ErrorKind::AddrInUse, range)
        })?;
        note(port)?;
        Ok(port)
    }
}

/// The instance of another directory whose `up`, running or not, started the server of this name;
/// with its record.
pub fn owner_of(dirs: &Dirs, own: &Instance, server_name: &str) -> Option<(Instance, Record)> {
    let others = Instance::all(dirs).into_iter().filter(|other| other.key != own.key);
    others.filter_map(|other| Some((other.record()?, other))).find_map(|(record, other)| {
        record
            .server
            .as_ref()
            .is_some_and(|server| server.name == server_name)
            .then_some((other, record))
    })
}

/// Now, as records have it.
pub fn now() -> String {
    OffsetDateTime::now_utc()
        .replace_nanosecond(0)
        .ok()
        .and_then(|now| now.format(&Rfc3339).ok())
        .unwrap_or_default()
}

fn root(dirs: &Dirs) -> PathBuf {
    dirs.state.join("up")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirs(home: &Path) -> Dirs {
        Dirs::find(&Vec::new(), Some(home))
    }

    fn record() -> Record {
        Record {
            directory: "/somewhere".into(),
            up: Process::own(),
            since: now(),
            address: None,
            hub: None,
            page: None,
            is_open: false,
            server: None,
            background_log: None,
            stop_within_ms: 0,
            host_id: None,
            host_name: None,
            summary: None,
        }
    }

    #[test]
    fn a_directory_is_claimed_once_and_free_after_the_claim() {
        let home = tempfile::tempdir().unwrap();
        let instance = Instance::of(&dirs(home.path()), Path::new("/some/where"));
        assert!(!instance.is_running());
        let claim = instance.claim().unwrap();
        claim.write(&record()).unwrap();
        assert!(instance.is_running());
        assert!(matches!(instance.claim(), Err(ClaimError::Taken)));
        assert_eq!(instance.record().unwrap().directory, Path::new("/somewhere"));
        claim.clear().unwrap();
        drop(claim);
        assert!(!instance.is_running() && instance.record().is_none());
        instance.claim().unwrap();
    }

    #[test]
    fn directories_of_the_same_name_are_told_apart() {
        let home = tempfile::tempdir().unwrap();
        let of = |path: &str| Instance::of(&dirs(home.path()), Path::new(path)).key().to_owned();
        assert_ne!(of("/a/host"), of("/b/host"));
        assert!(of("/a/my host").starts_with("my_host-"));
        assert!(!of("/").is_empty());
    }

    #[test]
    fn a_port_that_another_instance_has_noted_is_not_chosen_again() {
        let home = tempfile::tempdir().unwrap();
        let dirs = dirs(home.path());
        let choose = |path: &str| {
            let claim = Instance::of(&dirs, Path::new(path)).claim().unwrap();
            let note = |port| {
                claim.write(&Record { address: Some(format!("127.0.0.1:{port}")), ..record() })
            };
            let port = claim.choose_port(&dirs, "127.0.0.1", None, note).unwrap();
            (claim, port)
        };
        // Nothing listens yet on either.
        let (_first, one) = choose("/a");
        let (_second, other) = choose("/b");
        assert_ne!(one, other);
    }

    #[test]
    fn a_server_is_known_by_its_name_even_if_its_up_was_killed() {
        let home = tempfile::tempdir().unwrap();
        let dirs = dirs(home.path());
        let left = Instance::of(&dirs, Path::new("/a"));
        let server = ServerRecord {
            name: "core-1".into(),
            address: "127.0.0.1:4222".into(),
            domain: "core".into(),
            store: "/store".into(),
            process: None,
        };
        left.claim().unwrap().write(&Record { server: Some(server), ..record() }).unwrap();
        let asker = Instance::of(&dirs, Path::new("/b"));
        assert_eq!(owner_of(&dirs, &asker, "core-1").unwrap().0.key(), left.key());
        assert!(
            owner_of(&dirs, &asker, "core-2").is_none()
                && owner_of(&dirs, &left, "core-1").is_none()
        );
    }
}

//! The entry of one host in the bucket of desired state: signed, verified, and never older than one
//! that was seen.
//!
//! The serial number of an entry is noted on this machine after it was written or read. So an older
//! entry that somebody puts back is known as such, and a host that is killed between the two
//! believes the entry all the same.

use std::{collections::BTreeMap, io, path::PathBuf};

use tokio::sync::watch;
use tracing::warn;

use crate::host_context::HostContext;
use lattice_base::{
    store::{
        Expect,
        desired::{Desired, DesiredError},
    },
    trusted::{self, Holds},
};
use lattice_protocol::{
    clock,
    desired::{self, Authority, kept::Kept},
};

/// The entry of this host.
pub struct KeptEntry {
    desired: Desired,
    authority: Authority,
    key: String,
    serial: u64,
    seen: Seen,
}

/// The outcome of reading the entry.
pub(super) enum Loaded {
    Nothing,
    Kept(Kept),
    /// It does not count, for this reason.
    Rejected(String),
}

impl KeptEntry {
    pub(super) fn new(
        desired: Desired,
        authority: Authority,
        context: &HostContext,
        state_dir: &std::path::Path,
    ) -> Self {
        let host = context.host_id.as_str();
        let seen = Seen {
            path: state_dir.join("kept").join(format!("{host}.json")),
            lattice: context.subjects.lattice().as_str().to_owned(),
        };
        Self { desired, authority, key: desired::kept(host), serial: 0, seen }
    }

    /// Returns where the entry is, for people.
    pub(super) fn place(&self) -> String {
        format!("{} of bucket {}", self.key, self.desired.name())
    }

    pub(super) fn reconnects(&self) -> watch::Receiver<u64> {
        self.desired.reconnects()
    }

    /// Reads and verifies the entry.
    pub(super) async fn load(&mut self) -> Result<Loaded, DesiredError> {
        let found = self.desired.get(&self.key).await?;
        self.serial = self.seen.clone().read().await;
        let Some(entry) = found else { return Ok(Loaded::Nothing) };
        Ok(match self.authority.verify::<Kept>(&self.key, &entry.value) {
            Ok((_, serial)) if serial < self.serial => Loaded::Rejected(format!(
                "it is an older one (serial number {serial}) than this host has seen ({}), so somebody put it back",
                self.serial
            )),
            Ok((kept, serial)) => {
                self.seen.clone().note(serial).await;
                self.serial = serial;
                Loaded::Kept(kept)
            }
            Err(rejected) => Loaded::Rejected(rejected.to_string()),
        })
    }

    /// Writes the entry. A number is used once, whether the write worked or not; the time is in it,
    /// so it also grows where this machine has forgotten the last one.
    pub(super) async fn save(&mut self, kept: &Kept) -> Result<(), DesiredError> {
        self.serial = self.serial.saturating_add(1).max(clock::now_ms());
        let signed = self.authority.sign(&self.key, self.serial, kept);
        let value = signed.and_then(|signed| serde_json::to_vec(&signed)).map_err(|error| {
            DesiredError::Write { bucket: self.desired.name().to_owned(), cause: error.to_string() }
        })?;
        self.desired.put(&self.key, value.into(), Expect::Anything).await?;
        self.seen.clone().note(self.serial).await;
        Ok(())
    }
}

/// The serial numbers that a host of this key has seen, by lattice, in a file on this machine.
#[derive(Clone)]
struct Seen {
    path: PathBuf,
    lattice: String,
}

impl Seen {
    /// Returns the last number; 0 where none is known.
    async fn read(self) -> u64 {
        let lattice = self.lattice.clone();
        let read = tokio::task::spawn_blocking(move || self.read_all());
        read.await.ok().and_then(|all| all.get(&lattice).copied()).unwrap_or(0)
    }

    /// Notes a number.
    async fn note(self, serial: u64) {
        let written = tokio::task::spawn_blocking(move || {
            let mut all = self.read_all();
            if all.insert(self.lattice.clone(), serial) != Some(serial)
                && let Err(error) = self.write_all(&all)
            {
                warn!(
                    path = %self.path.display(), %error,
                    "it cannot be noted what this host has written, so an older entry that somebody puts back would count"
                );
            }
        });
        let _ = written.await;
    }

    fn read_all(&self) -> BTreeMap<String, u64> {
        match trusted::read_regular(&self.path, Holds::Settings) {
            Ok(read) => serde_json::from_slice(&read.bytes).unwrap_or_default(),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    warn!(path = %self.path.display(), %error, "what this host has seen is not known");
                }
                BTreeMap::new()
            }
        }
    }

    fn write_all(&self, all: &BTreeMap<String, u64>) -> io::Result<()> {
        if let Some(dir) = self.path.parent() {
            trusted::create_dir(dir)?;
        }
        trusted::replace(&self.path, &serde_json::to_vec(all)?)
    }
}

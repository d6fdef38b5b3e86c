//! The entry of one host in the bucket of desired state: signed, verified, and never older than one
//! that was seen.
//!
//! The serial number of an entry is noted on this machine after it was written or read. So an older
//! entry that somebody puts back is known as such, and a host that is killed between the two
//! believes the entry all the same.

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc};

use tokio::sync::watch;
use tracing::warn;

use crate::host_context::HostContext;
use lattice_base::{
    store::{
        Expect,
        desired::{DesiredError, Record},
    },
    trusted::{self, Holds},
};
use lattice_protocol::desired::{self, kept::Kept};

/// The entry of this host.
pub struct KeptEntry {
    context: Arc<HostContext>,
    key: String,
    /// Its value is the list that is known to lie in the bucket.
    record: Record<Kept>,
    seen: Seen,
}

/// The outcome of reading the entry.
pub(super) enum Loaded {
    Kept(Kept),
    /// It does not count, for this reason.
    Rejected(String),
}

impl KeptEntry {
    pub(super) fn new(context: Arc<HostContext>, state_dir: &std::path::Path) -> Self {
        let host = context.host_id.as_str();
        let seen = Seen {
            path: state_dir.join("kept").join(format!("{host}.json")),
            lattice: context.subjects.lattice().as_str().to_owned(),
        };
        Self { key: desired::kept(host), record: Record::default(), seen, context }
    }

    /// Returns where the entry is, for people.
    pub(super) fn place(&self) -> String {
        format!("{} of bucket {}", self.key, self.context.desired.name())
    }

    pub(super) fn reconnects(&self) -> watch::Receiver<u64> {
        self.context.desired.reconnects()
    }

    /// Reads and verifies the entry. None is like one that holds nothing, and one that does not
    /// count is left for people to look at until there is something to keep.
    pub(super) async fn load(&mut self) -> Result<Loaded, DesiredError> {
        let HostContext { desired, authority, .. } = &*self.context;
        self.record = desired.read_signed(authority, &self.key).await?;
        let (seen, serial) = (self.seen.clone().read().await, self.record.serial);
        self.record.serial = serial.max(seen);
        let kept = self.record.value.get_or_insert_default();
        if let Some(rejected) = &self.record.rejected {
            return Ok(Loaded::Rejected(rejected.to_string()));
        }
        if !kept.is_empty() && serial < seen {
            *kept = Kept::default();
            return Ok(Loaded::Rejected(format!(
                "it is an older one (serial number {serial}) than this host has seen ({seen}), so somebody put it back"
            )));
        }
        let kept = kept.clone();
        if serial > seen {
            self.seen.clone().note(serial).await;
        }
        Ok(Loaded::Kept(kept))
    }

    /// Has the next list written, even one that holds nothing.
    pub(super) fn replace(&mut self) {
        self.record.value = None;
    }

    /// Writes a list, if it is another one. One that holds nothing needs no entry; the number that
    /// it would have had is noted all the same, so that no earlier entry counts any more.
    pub(super) async fn save(&mut self, kept: Kept) -> Result<(), DesiredError> {
        if self.record.value.as_ref() == Some(&kept) {
            return Ok(());
        }
        // A write that is not confirmed may have worked all the same.
        self.record.value = None;
        let HostContext { desired, authority, .. } = &*self.context;
        if kept.is_empty() {
            desired.delete(&self.key, Expect::Anything).await?;
            self.record.serial = self.record.serial.saturating_add(1);
            self.record.value = Some(kept);
        } else {
            let record = &mut self.record;
            desired.put_signed(authority, &self.key, record, kept, Expect::Anything).await?;
        }
        self.seen.clone().note(self.record.serial).await;
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

//! The version of each application that is to run now: entries `APP_{name}` of the bucket
//! `DESIREDDATA_{lattice}`, signed by the host that took the command.
//!
//! Flow: [`Targets::set`] signs and writes, with a serial number above all that were seen →
//! [`Targets::run`] follows the bucket and verifies each entry → those who act watch
//! [`Targets::watch`].
//!
//! Never acted on are entries with a wrong signature, and older ones than this host has seen: they
//! are logged, and listed by [`Targets::rejected`]. An entry that is deleted is one that nobody
//! keeps: nothing is started for it, and nothing is stopped. Entries are not deleted here, so that
//! serial numbers go on growing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::leases::Leases;
use lattice_base::{
    backoff,
    store::{
        Backend as _, Update,
        desired::{Desired, DesiredError, Record},
    },
};
use lattice_protocol::{
    applications::manifest::Manifest,
    clock,
    desired::{self, Authority, Key, Rejected},
    store::Entry,
};

/// Attempts to write what others write too. Of several writers one succeeds in each round.
const ATTEMPTS_MAX: usize = 16;
/// How soon a bucket is asked for again that did not answer, or that could not be followed on.
const LOOK: Duration = Duration::from_secs(5);
/// About how often a bucket that nobody has made yet is looked for: news and a new connection come
/// before. Hosts that were started together do not look together.
const MISSING: Duration = Duration::from_secs(60);

/// The wanted state of an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is to run.
    Deployed,
    /// Nothing of it is to run.
    Undeployed,
    /// It goes on running as it does, and nobody keeps it so.
    Released,
}

/// An application, as it is to be now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    pub name: String,
    pub version: String,
    /// Also that of an application that was undeployed: its links are known by it only.
    pub manifest: Manifest,
    /// The version that ran before, as far as a rollout may have to go back to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Manifest>,
    pub state: State,
    /// When it was asked for, in Unix milliseconds.
    pub at: u64,
}

impl Target {
    /// Makes a target of this moment.
    pub fn of(manifest: Manifest, state: State) -> Self {
        Self {
            name: manifest.name().to_owned(),
            version: manifest.version().to_owned(),
            manifest,
            before: None,
            state,
            at: clock::now_ms(),
        }
    }

    pub fn is_deployed(&self) -> bool {
        self.state == State::Deployed
    }
}

/// Targets by the names of their applications.
pub type Snapshot = Arc<BTreeMap<String, Target>>;

/// Why a target was not read or written.
#[derive(Debug, thiserror::Error)]
#[error("Internal storage error: {0}")]
pub struct TargetError(#[from] pub DesiredError);

/// The targets of a lattice. Cheap to clone.
#[derive(Clone)]
pub struct Targets(Arc<Inner>);

struct Inner {
    desired: Desired,
    authority: Arc<Authority>,
    /// Of the same bucket, so they are told what is heard of it.
    leases: Leases,
    // Held for lines, never across an await.
    table: Mutex<Table>,
    snapshot: watch::Sender<Snapshot>,
    /// Somebody says that the bucket may be there now.
    wake: Notify,
}

/// The verified entries of the bucket.
#[derive(Debug, Default)]
struct Table {
    targets: BTreeMap<String, Target>,
    /// The highest serial number of each application that was ever seen, of deleted ones as well.
    serials: BTreeMap<String, u64>,
    rejected: BTreeMap<String, String>,
}

impl Targets {
    pub fn new(desired: Desired, authority: Arc<Authority>, leases: Leases) -> Self {
        Self(Arc::new(Inner {
            desired,
            authority,
            leases,
            table: Mutex::default(),
            snapshot: watch::Sender::new(Snapshot::default()),
            wake: Notify::new(),
        }))
    }

    /// Returns the verified targets, now and as they change.
    pub fn watch(&self) -> watch::Receiver<Snapshot> {
        self.0.snapshot.subscribe()
    }

    /// Returns the entries that do not count by their applications, with the reason.
    pub fn rejected(&self) -> BTreeMap<String, String> {
        self.0.table.lock().rejected.clone()
    }

    /// Looks for the bucket now, if nobody had made it yet.
    pub fn look(&self) {
        self.0.wake.notify_one();
    }

    /// Reads the target of an application from the bucket: it may have been written by another
    /// host a moment ago. An entry that does not count is like none.
    pub async fn get(&self, name: &str) -> Result<Option<Target>, TargetError> {
        let record = self.read(name).await?;
        let is_there = record.value.is_some() || record.rejected.is_some();
        self.take_record(name, &record);
        let known = self.0.table.lock().targets.get(name).cloned();
        Ok(known.filter(|_| is_there))
    }

    async fn read(&self, name: &str) -> Result<Record<Target>, DesiredError> {
        self.0.desired.read_signed(&self.0.authority, &desired::application(name)).await
    }

    /// Writes a target; the last one to write counts.
    pub async fn set(&self, target: &Target) -> Result<(), TargetError> {
        let (name, key) = (&*target.name, desired::application(&target.name));
        let mut attempts = 1;
        loop {
            let mut record = self.read(name).await?;
            self.take_record(name, &record);
            // Above those of entries that were deleted as well, as far as this host saw them.
            record.serial = record.serial.max(self.0.table.lock().last_serial(name));
            let expect = record.unchanged();
            let (desired, authority) = (&self.0.desired, &self.0.authority);
            match desired.put_signed(authority, &key, &mut record, target.clone(), expect).await {
                Ok(()) => {
                    self.take_record(name, &record);
                    self.look();
                    return Ok(());
                }
                Err(DesiredError::Conflict) if attempts < ATTEMPTS_MAX => attempts += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Follows the bucket until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut reconnects = self.0.desired.reconnects();
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.follow() => ended,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.0.wake.notified() => {}
                Ok(()) = reconnects.changed() => {}
                () = tokio::time::sleep(pause(ended, rand::random())) => {}
            }
        }
    }

    /// Follows the bucket for as long as it can be followed.
    async fn follow(&self) -> Ended {
        let bucket = match self.0.desired.find().await {
            Ok(Some(bucket)) => bucket,
            Ok(None) => return Ended::Missing,
            Err(error) => {
                debug!(%error, "the bucket of what is to run is not there");
                return Ended::Broken;
            }
        };
        let mut updates = bucket.watch();
        while let Some(update) = updates.recv().await {
            self.0.leases.on_update(&update);
            match update {
                Update::Snapshot(entries) => {
                    self.0.table.lock().keep_only(&entries);
                    entries.iter().for_each(|entry| _ = self.take(entry));
                    // Once for all of them: each time the whole table is copied.
                    self.publish();
                }
                Update::Put(entry) => {
                    if self.take(&entry) {
                        self.publish();
                    }
                }
                Update::Delete { key, .. } => {
                    if let Key::Application(name) = Key::parse(&key) {
                        self.0.table.lock().forget(name);
                        self.publish();
                    }
                }
                Update::Behind | Update::Current => {}
            }
        }
        Ended::Broken
    }

    /// Takes an entry of the bucket into account, if it counts; whether it says something new.
    fn take(&self, entry: &Entry) -> bool {
        let Key::Application(name) = Key::parse(&entry.key) else { return false };
        self.take_verified(name, self.0.authority.verify(&entry.key, &entry.value))
    }

    fn take_record(&self, name: &str, record: &Record<Target>) {
        let verified = match (&record.value, &record.rejected) {
            (Some(target), _) => Ok((target.clone(), record.serial)),
            (None, Some(rejected)) => Err(rejected.clone()),
            (None, None) => return,
        };
        if self.take_verified(name, verified) {
            self.publish();
        }
    }

    fn take_verified(&self, name: &str, verified: Result<(Target, u64), Rejected>) -> bool {
        let outcome = self.0.table.lock().take(name, verified);
        if let Taken::Rejected(reason) = &outcome {
            warn!(
                application = name,
                reason,
                "an entry that says what is to run does not count; deploy the application anew to replace it"
            );
        }
        outcome == Taken::New
    }

    fn publish(&self) {
        let targets = self.0.table.lock().targets.clone();
        self.0.snapshot.send_if_modified(|snapshot| {
            let is_new = **snapshot != targets;
            if is_new {
                *snapshot = Arc::new(targets);
            }
            is_new
        });
    }
}

/// Why a bucket is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Nobody has made it.
    Missing,
    /// It did not answer, or does not any longer.
    Broken,
}

/// How long to wait before a bucket is looked for again, by a number of chance from 0 to 1.
fn pause(ended: Ended, chance: f64) -> Duration {
    match ended {
        Ended::Missing => backoff::about(MISSING, chance),
        Ended::Broken => LOOK,
    }
}

/// The effect of an entry.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    New,
    Known,
    /// It does not count; told once.
    Rejected(String),
}

impl Table {
    fn take(&mut self, name: &str, verified: Result<(Target, u64), Rejected>) -> Taken {
        let seen = self.last_serial(name);
        let reason = match verified {
            // The key is part of what was signed, so a wrong name is a mistake of the signer.
            Ok((target, serial)) if target.name == name && serial >= seen => {
                self.rejected.remove(name);
                self.serials.insert(name.to_owned(), serial);
                let is_known = self.targets.get(name) == Some(&target);
                self.targets.insert(name.to_owned(), target);
                return if is_known { Taken::Known } else { Taken::New };
            }
            Ok((target, _)) if target.name != name => format!("it is of {:?}", target.name),
            Ok((_, serial)) => format!("it is an old one, {serial} where {seen} was seen"),
            Err(rejected) => rejected.to_string(),
        };
        match self.rejected.insert(name.to_owned(), reason.clone()) {
            Some(told) if told == reason => Taken::Known,
            _ => Taken::Rejected(reason),
        }
    }

    /// Drops what is not among the entries of a snapshot.
    fn keep_only(&mut self, entries: &[Entry]) {
        let named: BTreeSet<&str> = entries
            .iter()
            .filter_map(|entry| match Key::parse(&entry.key) {
                Key::Application(name) => Some(name),
                _ => None,
            })
            .collect();
        self.targets.retain(|name, _| named.contains(name.as_str()));
        self.rejected.retain(|name, _| named.contains(name.as_str()));
    }

    fn forget(&mut self, name: &str) {
        self.targets.remove(name);
        self.rejected.remove(name);
    }

    /// Returns the highest serial number that was seen, of a deleted entry as well.
    fn last_serial(&self, name: &str) -> u64 {
        self.serials.get(name).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str, version: &str) -> Target {
        let text = format!(
            r#"{{"apiVersion":"a","kind":"k","metadata":{{"name":"{name}","annotations":{{"version":"{version}"}}}},"spec":{{"components":[]}}}}"#
        );
        Target::of(serde_json::from_str(&text).unwrap(), State::Deployed)
    }

    #[test]
    fn older_entries_and_those_of_others_do_not_count() {
        let mut table = Table::default();
        let first = target("shop", "v1");
        assert_eq!(table.take("shop", Ok((first.clone(), 5))), Taken::New);
        assert_eq!(table.take("shop", Ok((first.clone(), 5))), Taken::Known);
        // A copy of an entry from before.
        assert!(matches!(table.take("shop", Ok((target("shop", "v0"), 4))), Taken::Rejected(_)));
        assert_eq!(table.targets["shop"].version, "v1");
        // Told once.
        assert_eq!(table.take("shop", Ok((target("shop", "v0"), 4))), Taken::Known);
        assert_eq!(table.rejected.len(), 1);
        assert!(matches!(table.take("other", Err(Rejected::Forged)), Taken::Rejected(_)));
        assert!(matches!(table.take("web", Ok((first.clone(), 9))), Taken::Rejected(_)));
        assert_eq!(table.targets.len(), 1);
        // An entry that counts again is not listed any more.
        assert_eq!(table.take("shop", Ok((target("shop", "v2"), 6))), Taken::New);
        assert!(!table.rejected.contains_key("shop"));
    }

    #[test]
    fn a_bucket_that_nobody_made_is_looked_for_seldom() {
        for (ended, chance, seconds) in [
            (Ended::Broken, 0.0, 5),
            (Ended::Broken, 1.0, 5),
            (Ended::Missing, 0.0, 30),
            (Ended::Missing, 0.5, 60),
            (Ended::Missing, 1.0, 90),
        ] {
            assert_eq!(pause(ended, chance), Duration::from_secs(seconds), "{ended:?} {chance}");
        }
    }

    #[test]
    fn serial_numbers_are_known_across_deletions() {
        let mut table = Table::default();
        assert_eq!(table.last_serial("shop"), 0);
        table.take("shop", Ok((target("shop", "v1"), 2000)));
        assert_eq!(table.last_serial("shop"), 2000);
        table.forget("shop");
        assert!(table.targets.is_empty());
        assert_eq!(table.last_serial("shop"), 2000);
        assert!(matches!(table.take("shop", Ok((target("shop", "v1"), 1999))), Taken::Rejected(_)));
    }
}

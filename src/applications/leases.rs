//! The leases of applications, kept in the bucket of desired state.
//!
//! [`lease`](super::lease) decides, this carries it out: it follows the bucket's entries, writes
//! by compare-and-set, and knows how long ago the bucket confirmed the last renewal of this host.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, time::Instant};
use tracing::{debug, info};

use crate::lease::{self, ACTS_FOR, RENEWAL, Seen, Step, View};
use lattice_base::store::{
    Expect, Update,
    desired::{Desired, DesiredError},
};
use lattice_protocol::{
    desired::{self, Key},
    store::Entry,
};

/// A lease as it lies in the bucket. Nobody has it if the owner is empty.
#[derive(Debug, Serialize, Deserialize)]
struct Lease {
    owner: String,
}

/// The leases of a lattice, as one host sees them. Cheap to clone.
#[derive(Clone)]
pub struct Leases(Arc<Inner>);

struct Inner {
    desired: Desired,
    me: String,
    // Held for lines, never across an await.
    table: Mutex<Table>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Table {
    leases: BTreeMap<String, Seen>,
    /// When each host was last seen to renew.
    renewed: BTreeMap<String, Instant>,
    /// Since when each application has nobody who acts for it.
    free_since: BTreeMap<String, Instant>,
    /// When the bucket confirmed the last renewal of this host, and when it was sent.
    confirmed: Option<Instant>,
    sent: Option<Instant>,
}

impl Leases {
    pub fn new(desired: Desired, me: &str) -> Self {
        Self(Arc::new(Inner {
            desired,
            me: me.to_owned(),
            table: Mutex::default(),
            changed: Notify::new(),
        }))
    }

    /// Waits until a lease changes hands. Cancel safe.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Takes a change of the bucket into account.
    pub fn on_update(&self, update: &Update) {
        match update {
            Update::Snapshot(entries) => entries.iter().for_each(|entry| self.take_in(entry)),
            Update::Put(entry) => self.take_in(entry),
            Update::Delete { key, .. } => {
                if let Key::Lease(name) = Key::parse(key) {
                    self.0.table.lock().leases.remove(name);
                    self.0.changed.notify_one();
                }
            }
            Update::Behind | Update::Current => {}
        }
    }

    fn take_in(&self, entry: &Entry) {
        match Key::parse(&entry.key) {
            Key::Lease(name) => {
                let Ok(Lease { owner }) = serde_json::from_slice(&entry.value) else { return };
                let seen = Seen { owner, revision: entry.revision };
                let old = self.0.table.lock().leases.insert(name.to_owned(), seen.clone());
                if old.as_ref() != Some(&seen) {
                    self.0.changed.notify_one();
                }
            }
            Key::Renewal(host) => {
                self.0.table.lock().renewed.insert(host.to_owned(), Instant::now());
            }
            _ => {}
        }
    }

    /// Returns those of the applications that this host acts for, and takes the leases whose turn
    /// it is. `live` are the other hosts that are there.
    pub async fn mine<'a>(
        &self,
        applications: impl Iterator<Item = &'a str>,
        live: &BTreeSet<String>,
    ) -> BTreeSet<String> {
        let mut mine = BTreeSet::new();
        for application in applications {
            match self.step(application, live) {
                Step::Act => _ = mine.insert(application.to_owned()),
                Step::Take(revision) if self.take(application, revision).await => {
                    _ = mine.insert(application.to_owned());
                }
                Step::Take(_) | Step::Leave => {}
            }
        }
        if !mine.is_empty() && !self.renew().await {
            mine.clear();
        }
        mine
    }

    fn step(&self, application: &str, live: &BTreeSet<String>) -> Step {
        let now = Instant::now();
        let mut table = self.0.table.lock();
        let view = View { me: &self.0.me, live, renewed: &table.renewed, now };
        let seen = table.leases.get(application).cloned();
        let is_held = seen
            .as_ref()
            .is_some_and(|seen| seen.owner == self.0.me || lease::is_held(&seen.owner, view));
        if is_held {
            table.free_since.remove(application);
        } else {
            table.free_since.entry(application.to_owned()).or_insert(now);
        }
        let free_since = table.free_since.get(application).copied();
        let view = View { me: &self.0.me, live, renewed: &table.renewed, now };
        lease::decide(application, seen.as_ref(), free_since, view)
    }

    /// Takes a lease; whether this host has it now. The renewal comes first, so that nobody sees a
    /// lease of a host that does not renew.
    async fn take(&self, application: &str, revision: u64) -> bool {
        if !self.renew().await {
            return false;
        }
        match self.write(application, &self.0.me, Expect::Revision(revision)).await {
            Ok(()) => {
                info!(application, "this host acts for the application");
                true
            }
            Err(DesiredError::Conflict) => false,
            Err(error) => {
                debug!(application, %error, "the lease is not taken");
                false
            }
        }
    }

    async fn write(
        &self,
        application: &str,
        owner: &str,
        expect: Expect,
    ) -> Result<(), DesiredError> {
        let key = desired::lease(application);
        let value = serde_json::to_vec(&Lease { owner: owner.to_owned() }).unwrap_or_default();
        let revision = self.0.desired.put(&key, Bytes::from(value), expect).await?;
        let seen = Seen { owner: owner.to_owned(), revision };
        self.0.table.lock().leases.insert(application.to_owned(), seen);
        Ok(())
    }

    /// Renews if it is time; whether this host may act.
    async fn renew(&self) -> bool {
        let now = Instant::now();
        let is_due = {
            let mut table = self.0.table.lock();
            let is_due = table.sent.is_none_or(|sent| now - sent >= RENEWAL)
                || table.confirmed.is_none_or(|confirmed| now - confirmed >= ACTS_FOR);
            if is_due {
                table.sent = Some(now);
            }
            is_due
        };
        if is_due {
            let key = desired::renewal(&self.0.me);
            match self.0.desired.put(&key, Bytes::new(), Expect::Anything).await {
                Ok(_) => self.0.table.lock().confirmed = Some(now),
                Err(error) => debug!(%error, "the bucket does not confirm that this host acts"),
            }
        }
        let confirmed = self.0.table.lock().confirmed;
        confirmed.is_some_and(|confirmed| confirmed.elapsed() < ACTS_FOR)
    }

    /// Gives all leases of this host back, so that others need not wait.
    pub async fn give_back(&self) {
        let mine: Vec<(String, u64)> = {
            let table = self.0.table.lock();
            let leases = table.leases.iter().filter(|(_, seen)| seen.owner == self.0.me);
            leases.map(|(name, seen)| (name.clone(), seen.revision)).collect()
        };
        for (application, revision) in mine {
            if let Err(error) = self.write(&application, "", Expect::Revision(revision)).await {
                debug!(application, %error, "the lease is not given back");
                return;
            }
        }
    }
}

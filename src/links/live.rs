//! Keeps the [`Table`] equal to the metadata bucket, publishes it, and tells what changed.
//!
//! Flow: the bucket's watch → [`Follower`] (the only writer) → a snapshot readers load without a lock, and a stream of
//! [`Notice`]s for those who must act: the delivery of links to providers, and events.
//!
//! * The first snapshot is complete before [`Live::start`] returns: ready means that every link and claim is known.
//! * Entries of the first snapshot are told as [`Origin::Replayed`]: providers need them, subscribers of events do not.
//! * A later snapshot (after an outage) is compared with what was known, and only the differences are told.
//! * What this host wrote itself is applied at once by [`Live::apply`], before the bucket echoes it; the echo carries the
//!   same revision and changes nothing.

use std::{collections::HashSet, sync::Arc};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::table::{Change, Rejected, Table};
use crate::store::{Entry, Store, Update};

/// Changes applied before the snapshot is published once for all of them.
const BATCH: usize = 256;
/// Notices buffered for their consumer; the follower waits when it is full, so none is lost.
const NOTICES: usize = 1024;
/// Own writes waiting to be applied.
const OWN_WRITES: usize = 256;

/// Where a change comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was there when this host started.
    Replayed,
    /// It happened while this host runs.
    Live,
}

/// A change, to be acted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub change: Change,
    pub origin: Origin,
}

/// The metadata as it is now. Cheap to clone.
#[derive(Clone)]
pub struct Live {
    table: Arc<ArcSwap<Table>>,
    published: watch::Receiver<()>,
    own_writes: mpsc::Sender<(Update, oneshot::Sender<()>)>,
}

impl Live {
    /// Follows a store; returns once its first snapshot is in.
    pub async fn start(store: Store, tasks: &TaskTracker, stop: CancellationToken) -> (Self, mpsc::Receiver<Notice>) {
        let table = Arc::new(ArcSwap::from_pointee(Table::default()));
        let (own_writes, inbox) = mpsc::channel(OWN_WRITES);
        let (notices, receiver) = mpsc::channel(NOTICES);
        let (loaded, first_snapshot) = oneshot::channel();
        let (changed, published) = watch::channel(());
        let follower = Follower {
            table: Table::default(),
            published: Arc::clone(&table),
            changed,
            pending: Vec::new(),
            notices,
            loaded: Some(loaded),
        };
        tasks.spawn(follower.run(store, inbox, stop));
        // An error means that the host is being stopped; it then ends without links.
        let _ = first_snapshot.await;
        (Self { table, published, own_writes }, receiver)
    }

    /// The snapshot of this moment.
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Ticks whenever there is another snapshot.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.published.clone()
    }

    /// Applies a write of this host without waiting for the bucket's echo; returns when readers see it.
    pub async fn apply(&self, update: Update) {
        let (done, applied) = oneshot::channel();
        if self.own_writes.send((update, done)).await.is_ok() {
            let _ = applied.await;
        }
    }
}

struct Follower {
    table: Table,
    published: Arc<ArcSwap<Table>>,
    changed: watch::Sender<()>,
    pending: Vec<Notice>,
    notices: mpsc::Sender<Notice>,
    loaded: Option<oneshot::Sender<()>>,
}

impl Follower {
    async fn run(
        mut self,
        store: Store,
        mut inbox: mpsc::Receiver<(Update, oneshot::Sender<()>)>,
        stop: CancellationToken,
    ) {
        let mut backends = store.changes();
        let mut updates = backends.borrow_and_update().watch();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Ok(()) = backends.changed() => updates = backends.borrow_and_update().watch(),
                Some((update, done)) = inbox.recv() => {
                    self.handle(update);
                    self.publish().await;
                    let _ = done.send(());
                }
                update = updates.recv() => match update {
                    Some(update) => {
                        self.handle(update);
                        for _ in 1..BATCH {
                            let Ok(next) = updates.try_recv() else { break };
                            self.handle(next);
                        }
                        self.publish().await;
                    }
                    // A backend ends its watch only with itself; ask for another.
                    None => updates = backends.borrow_and_update().watch(),
                },
            }
        }
    }

    fn handle(&mut self, update: Update) {
        match update {
            Update::Snapshot(entries) => self.replace(&entries),
            Update::Put(entry) => match self.table.put(&entry) {
                Ok(change) => self.note(change, Origin::Live),
                Err(rejected) => report(&entry, &rejected),
            },
            Update::Delete { key, revision } => {
                let change = self.table.delete(&key, revision);
                self.note(change, Origin::Live);
            }
        }
    }

    /// Takes a whole new table over. Its revisions need not continue the old ones: the bucket may have been made anew, or
    /// taken the place of memory. So contents are compared, not numbers.
    fn replace(&mut self, entries: &[Entry]) {
        let origin = if self.loaded.is_some() { Origin::Replayed } else { Origin::Live };
        let mut fresh = Table::default();
        let mut changes = Vec::new();
        for entry in entries {
            match fresh.put(entry) {
                Ok(change) => changes.extend(change),
                Err(rejected) => report(entry, &rejected),
            }
        }
        let kept: HashSet<String> = fresh.keys().collect();
        let gone: Vec<String> = self.table.keys().filter(|key| !kept.contains(key)).collect();
        for key in gone {
            let change = self.table.delete(&key, u64::MAX);
            self.note(change, origin);
        }
        for change in changes {
            if let Some(change) = against(&self.table, change) {
                self.note(Some(change), origin);
            }
        }
        self.table = fresh;
    }

    fn note(&mut self, change: Option<Change>, origin: Origin) {
        if let Some(change) = change {
            // Without link values: they may hold passwords.
            debug!(change = %change, "lattice metadata changed");
            self.pending.push(Notice { change, origin });
        }
    }

    /// Record, then announce: readers see the table before anybody hears of the change.
    async fn publish(&mut self) {
        self.published.store(Arc::new(self.table.clone()));
        self.changed.send_replace(());
        if let Some(loaded) = self.loaded.take() {
            let _ = loaded.send(());
        }
        for notice in self.pending.drain(..) {
            if self.notices.send(notice).await.is_err() {
                debug!("nobody listens to changes of the lattice metadata");
            }
        }
    }
}

/// What a change of an empty table means for one that knew `old`; `None` if it knew that already.
fn against(old: &Table, change: Change) -> Option<Change> {
    match change {
        Change::LinkPut { link, .. } => {
            let replaced = old.stored_link(&link.id()).map(|stored| Arc::clone(&stored.link));
            (replaced.as_ref() != Some(&link)).then_some(Change::LinkPut { link, replaced })
        }
        Change::ReferencePut { reference, public_key } => {
            let known = old.public_key_of(&reference) == Some(&public_key);
            (!known).then_some(Change::ReferencePut { reference, public_key })
        }
        other => Some(other),
    }
}

fn report(entry: &Entry, rejected: &Rejected) {
    warn!(key = %entry.key, reason = %rejected.0, "entry of the metadata bucket ignored");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::{Backend, Expect, keys, memory::Memory};

    const ACTOR: &str = "MDWUSKGGFDI4FRXK5EBTRECZSVQSSWJHHJOGH6JWG3AUMFFMQ435C2JZ";

    async fn put_link(memory: &Memory, contract: &str, provider: &str) {
        let key = keys::link(&keys::link_hash(ACTOR, contract, "default"));
        let value = json!({"actor_id": ACTOR, "provider_id": provider, "link_name": "default", "contract_id": contract, "values": {}});
        memory.put(&key, serde_json::to_vec(&value).unwrap().into(), Expect::Anything).await.unwrap();
    }

    #[tokio::test]
    async fn a_new_backend_is_compared_by_content() {
        let first = Arc::new(Memory::default());
        for provider in ["V0", "V1"] {
            put_link(&first, "a:kept", provider).await;
        }
        put_link(&first, "a:gone", "V2").await;
        let store = Store::new(first);
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let (live, mut notices) = Live::start(store.clone(), &tasks, stop.clone()).await;
        assert_eq!(live.table().links().count(), 2);
        for _ in 0..2 {
            assert_eq!(notices.recv().await.unwrap().origin, Origin::Replayed);
        }

        // The same link with a lower revision, one gone, one new.
        let second = Arc::new(Memory::default());
        put_link(&second, "a:kept", "V1").await;
        put_link(&second, "a:new", "V3").await;
        store.replace(second);
        let mut seen = vec![notices.recv().await.unwrap(), notices.recv().await.unwrap()];
        assert!(seen.iter().all(|notice| notice.origin == Origin::Live));
        assert!(matches!(seen.remove(0).change, Change::LinkDeleted { link } if link.contract_id == "a:gone"));
        assert!(
            matches!(seen.remove(0).change, Change::LinkPut { link, replaced: None } if link.contract_id == "a:new")
        );
        assert_eq!(live.table().links().count(), 2);
        stop.cancel();
    }
}

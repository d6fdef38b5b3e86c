//! Keeps the [`Table`] equal to the metadata bucket, publishes it, and tells what changed.
//!
//! Flow: the bucket's watch → [`Follower`] (the only writer) → a snapshot readers load without a
//! lock, and a stream of [`Notice`]s for those who must act: the delivery of links to providers,
//! and events.
//!
//! * The first snapshot is complete before [`Live::start`] returns: ready means that every link and
//!   claim is known. Where it does not come, the host goes on without, and [`Live::synced`] says so
//!   until it does.
//! * Entries of the first snapshot are told as [`Origin::Replayed`]: providers need them,
//!   subscribers of events do not. The same goes for the first snapshot of a bucket that could not
//!   be reached until now.
//! * A later snapshot (after an outage) is compared with what was known, and only the differences
//!   are told.
//! * An own write of this host is applied at once by [`Live::apply`], before the bucket echoes it;
//!   the echo carries the same revision and changes nothing.
//! * What comes together is taken together: changes of the bucket and own writes that wait are
//!   applied, published once, and told in one batch.
//! * An entry that this host must make known whatever happens goes through [`Live::announce`]: it
//!   counts here at once and is written as soon as the bucket takes it.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error, info, warn};

use super::unwritten::{Attempt, Unwritten};
use lattice_base::store::{Backend, Error, Store, Update};
use lattice_protocol::{
    clock,
    links::{
        LinkDefinition,
        table::{Change, Rejected, Table},
    },
    store::Entry,
};

/// Changes applied before the snapshot is published once for all of them, if so many wait.
const BATCH: usize = 4096;
/// How long a start waits for the first snapshot: the bucket may go out of reach after it was
/// opened.
const FIRST_SNAPSHOT: Duration = Duration::from_secs(5);
/// Batches of notices buffered for their consumer; the follower waits when it is full, so none is
/// lost.
const NOTICES: usize = 16;
/// Entries of a snapshot that are named when they cannot be read.
const NAMED_MAX: usize = 10;
/// Own writes waiting to be applied.
const OWN_WRITES: usize = 1024;
/// Entries that are on their way to the bucket at a time.
const WRITES_AT_ONCE: usize = 64;
/// How often it is tried to write what the bucket did not take.
const WRITE_RETRY: Duration = Duration::from_secs(1);

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
    is_complete: watch::Receiver<bool>,
    /// Whether the known metadata is that which the hosts of the lattice share.
    is_shared: Arc<AtomicBool>,
    is_current: watch::Receiver<bool>,
    own_writes: mpsc::Sender<(OwnWrite, oneshot::Sender<()>)>,
}

/// A change that this host adds by itself.
enum OwnWrite {
    /// The bucket has it; readers are told when this is applied.
    Stored(Update),
    /// The bucket is to get it; told when that was tried once.
    Announced(Vec<(String, Bytes)>),
    /// A provider of this host does not take a link on, and why. Nothing is written; it is told
    /// after the link itself.
    Refused { link: Arc<LinkDefinition>, error: String },
}

impl Live {
    /// Follows a store; returns once its first snapshot is in, or [`FIRST_SNAPSHOT`] is over.
    pub async fn start(
        store: Store,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> (Self, mpsc::Receiver<Vec<Notice>>) {
        let table = Arc::new(ArcSwap::from_pointee(Table::default()));
        let (own_writes, inbox) = mpsc::channel(OWN_WRITES);
        let (notices, receiver) = mpsc::channel(NOTICES);
        let (loaded, first_snapshot) = oneshot::channel();
        let (changed, published) = watch::channel(());
        let (complete, is_complete) = watch::channel(false);
        let (current, is_current) = watch::channel(true);
        let is_shared = Arc::new(AtomicBool::new(false));
        let follower = Follower {
            table: Table::default(),
            published: Arc::clone(&table),
            changed,
            complete,
            current,
            is_shared: Arc::clone(&is_shared),
            pending: Vec::new(),
            notices,
            loaded: Some(loaded),
            has_joined: false,
            watched: Watched::default(),
            unwritten: Unwritten::default(),
            writes: JoinSet::new(),
        };
        tasks.spawn(follower.run(store, inbox, stop));
        // An inner error means that the host is being stopped; it then ends without links.
        if tokio::time::timeout(FIRST_SNAPSHOT, first_snapshot).await.is_err() {
            error!(
                waited_ms = clock::millis(FIRST_SNAPSHOT),
                "lattice metadata was not told in time: actors and providers run, links of the lattice are unknown and cannot be changed; waiting for it"
            );
        }
        (Self { table, published, is_complete, is_shared, is_current, own_writes }, receiver)
    }

    /// The snapshot of this moment.
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Ticks whenever there is another snapshot.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.published.clone()
    }

    /// Whether a snapshot of what the lattice has was applied here, rather than of what stands in
    /// for it.
    pub fn synced(&self) -> watch::Receiver<bool> {
        self.is_complete.clone()
    }

    /// Whether the links that are known are those all hosts of the lattice share. Without a bucket,
    /// or one that has not told yet what it has, others may know more.
    pub fn has_those_of_the_lattice(&self) -> bool {
        self.is_shared.load(Ordering::Acquire)
    }

    /// Returns whether everything that happened in the bucket is known here, as far as this host
    /// was told.
    pub fn is_current(&self) -> bool {
        *self.is_current.borrow()
    }

    /// Waits until everything that happened in the bucket is known here.
    pub async fn catch_up(&self) {
        let mut is_current = self.is_current.clone();
        // An error means that the host is being stopped.
        let _ = is_current.wait_for(|is_current| *is_current).await;
    }

    /// Applies a write of this host without waiting for the bucket's echo; returns when readers see
    /// it.
    pub async fn apply(&self, update: Update) {
        self.hand_over(OwnWrite::Stored(update)).await;
    }

    /// Makes entries known: to readers here at once, to the lattice as soon as the bucket takes
    /// them. Returns when that was tried for the first time, which ends within
    /// [`lattice_base::store::WRITE_TIMEOUT`] of each.
    pub async fn announce(&self, entries: Vec<(String, Bytes)>) {
        if !entries.is_empty() {
            self.hand_over(OwnWrite::Announced(entries)).await;
        }
    }

    /// Tells that a provider of this host does not take a link on: after it was told that the link
    /// is there, so that who hears both knows the end. Never waits; with too many others on their
    /// way it is not told.
    pub fn refuse(&self, link: Arc<LinkDefinition>, error: String) {
        let (done, _) = oneshot::channel();
        if self.own_writes.try_send((OwnWrite::Refused { link, error }, done)).is_err() {
            warn!("the refusal of a link is not announced: too much else is on its way");
        }
    }

    async fn hand_over(&self, write: OwnWrite) {
        let (done, finished) = oneshot::channel();
        if self.own_writes.send((write, done)).await.is_ok() {
            let _ = finished.await;
        }
    }
}

struct Follower {
    table: Table,
    published: Arc<ArcSwap<Table>>,
    changed: watch::Sender<()>,
    complete: watch::Sender<bool>,
    current: watch::Sender<bool>,
    is_shared: Arc<AtomicBool>,
    pending: Vec<Notice>,
    notices: mpsc::Sender<Vec<Notice>>,
    loaded: Option<oneshot::Sender<()>>,
    /// Whether a snapshot of a bucket was seen, not only one of what stands in for it.
    has_joined: bool,
    watched: Watched,
    unwritten: Unwritten,
    /// At most one that tries everything, and one for each announcement.
    writes: JoinSet<Written>,
}

/// The source that is watched.
#[derive(Clone, Copy, Default)]
struct Watched {
    /// A bucket.
    is_shared: bool,
    /// It stands in for a bucket that others have.
    is_away: bool,
    /// Its snapshot was applied.
    has_snapshot: bool,
    /// More happened there than was applied.
    is_behind: bool,
}

/// How some writes ended.
struct Written {
    results: Vec<(Attempt, Result<u64, Error>)>,
    /// Not tried, because one before was not taken for a reason that holds for all.
    skipped: Vec<Attempt>,
    /// Notified at the end of the writes; only of an announcement.
    done: Option<oneshot::Sender<()>>,
}

impl Follower {
    async fn run(
        mut self,
        store: Store,
        mut inbox: mpsc::Receiver<(OwnWrite, oneshot::Sender<()>)>,
        stop: CancellationToken,
    ) {
        let mut backends = store.changes();
        let mut updates = self.watch(&mut backends);
        let mut retry = tokio::time::interval(WRITE_RETRY);
        retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Ok(()) = backends.changed() => updates = self.watch(&mut backends),
                Some(written) = self.writes.join_next(), if !self.writes.is_empty() => match written {
                    Ok(written) => self.reap(written).await,
                    Err(failure) => error!(error = %failure, "a write to the metadata bucket panicked"),
                },
                Some(write) = inbox.recv() => {
                    let mut writes = vec![write];
                    while writes.len() < OWN_WRITES
                        && let Ok(write) = inbox.try_recv()
                    {
                        writes.push(write);
                    }
                    self.take_own(writes, &store).await;
                }
                update = updates.recv() => match update {
                    Some(update) => {
                        let is_snapshot = matches!(update, Update::Snapshot(_));
                        self.handle(update);
                        for _ in 1..BATCH {
                            let Ok(next) = updates.try_recv() else { break };
                            self.handle(next);
                        }
                        self.publish().await;
                        if is_snapshot {
                            retry.reset_immediately();
                        }
                    }
                    // A backend ends its watch only with itself; ask for another.
                    None => updates = self.watch(&mut backends),
                },
                _ = retry.tick(), if self.watched.is_shared
                    && self.watched.has_snapshot
                    && self.writes.is_empty()
                    && !self.unwritten.is_empty() =>
                {
                    if self.unwritten.is_due() {
                        self.write(&store, self.unwritten.attempts(), None);
                    }
                }
            }
        }
    }

    /// Takes in what this host adds, in order; readers are shown all of it at once.
    async fn take_own(&mut self, writes: Vec<(OwnWrite, oneshot::Sender<()>)>, store: &Store) {
        let (mut stored, mut announced) = (Vec::new(), Vec::new());
        for (write, done) in writes {
            match write {
                OwnWrite::Stored(update) => {
                    self.handle(update);
                    stored.push(done);
                }
                OwnWrite::Refused { link, error } => {
                    let change = Change::LinkRefused { link, error };
                    self.pending.push(Notice { change, origin: Origin::Live });
                }
                OwnWrite::Announced(entries) => {
                    let keys: Vec<String> = entries.iter().map(|(key, _)| key.clone()).collect();
                    self.take_on(entries);
                    announced.push((keys, done));
                }
            }
        }
        self.show();
        for done in stored {
            let _ = done.send(());
        }
        self.tell().await;
        for (keys, done) in announced {
            // Not over what was not seen yet.
            let can_write = self.watched.is_shared && self.watched.has_snapshot;
            let attempts = if can_write { self.unwritten.attempts_of(&keys) } else { Vec::new() };
            self.write(store, attempts, Some(done));
        }
    }

    fn watch(
        &mut self,
        backends: &mut watch::Receiver<Arc<dyn Backend>>,
    ) -> mpsc::Receiver<Update> {
        let backend = backends.borrow_and_update();
        self.watched = Watched {
            is_shared: backend.is_shared(),
            is_away: backend.is_away(),
            ..Watched::default()
        };
        backend.watch()
    }

    fn handle(&mut self, update: Update) {
        match update {
            Update::Snapshot(entries) => {
                self.replace(entries);
                self.watched.has_snapshot = true;
                self.watched.is_behind = false;
            }
            Update::Behind => self.watched.is_behind = true,
            Update::Current => self.watched.is_behind = false,
            Update::Put(entry) => {
                let entry = self.unwritten.merge_update(entry);
                self.put(&entry);
            }
            Update::Delete { key, revision } => {
                let change = self.table.delete(&key, revision);
                self.note(change, Origin::Live);
                // Something newer was put already.
                if self.table.revision_of(&key) > revision {
                    return;
                }
                if let Some(ours) = self.unwritten.merge_delete(&key) {
                    self.put(&ours);
                }
            }
        }
    }

    fn put(&mut self, entry: &Entry) {
        match self.table.put(entry) {
            Ok(change) => self.note(change, Origin::Live),
            Err(rejected) => report_ignored(1, &[(entry.key.clone(), rejected)]),
        }
    }

    /// Takes over what this host announces: it counts here from now on.
    fn take_on(&mut self, entries: Vec<(String, Bytes)>) {
        for (key, value) in entries {
            let entry = self.unwritten.add(key, value, &self.table);
            self.put(&entry);
        }
    }

    /// Begins to write entries to the bucket, if there is one: many at a time, each of another key.
    fn write(&mut self, store: &Store, attempts: Vec<Attempt>, done: Option<oneshot::Sender<()>>) {
        let store = store.clone();
        self.writes.spawn(async move {
            let (mut results, mut attempts) = (Vec::new(), attempts.into_iter());
            let (mut in_flight, mut is_away) = (FuturesUnordered::new(), !store.is_shared());
            loop {
                while !is_away
                    && in_flight.len() < WRITES_AT_ONCE
                    && let Some(attempt) = attempts.next()
                {
                    in_flight.push(written(&store, attempt));
                }
                let Some((attempt, result)) = in_flight.next().await else { break };
                // The others would fare no better.
                is_away |= matches!(result, Err(Error::Unreachable(_) | Error::TimedOut { .. }));
                results.push((attempt, result));
            }
            drop(in_flight);
            Written { results, skipped: attempts.collect(), done }
        });
    }

    async fn reap(&mut self, Written { results, skipped, done }: Written) {
        skipped.iter().for_each(|attempt| self.unwritten.failed(attempt));
        let is_first = done.is_some();
        let mut has_news = false;
        for (attempt, result) in results {
            if result.is_err() {
                self.unwritten.failed(&attempt);
            }
            let Attempt { key, value, .. } = attempt;
            match result {
                Ok(revision) => {
                    if !is_first {
                        info!(key, "entry written to the metadata bucket");
                    }
                    self.handle(Update::Put(Entry { key, value, revision }));
                    has_news = true;
                }
                // The watch brings what was written instead.
                Err(Error::Conflict) => debug!(key, "somebody else wrote the entry first"),
                Err(error) if is_first => {
                    warn!(key, %error, waiting = self.unwritten.len(), "entry is known on this host only for now; it is written as soon as possible");
                }
                Err(error) => debug!(key, %error, "entry still not written to the metadata bucket"),
            }
        }
        if has_news {
            self.publish().await;
        }
        if let Some(done) = done {
            let _ = done.send(());
        }
    }

    /// Takes a whole new table over. Its revisions need not continue the old ones: the bucket may
    /// have been made anew, or taken the place of memory. So contents are compared, not numbers.
    fn replace(&mut self, entries: Vec<Entry>) {
        let joins = self.watched.is_shared && !self.has_joined;
        self.has_joined |= joins;
        let origin = if self.loaded.is_some() || joins { Origin::Replayed } else { Origin::Live };
        let mut fresh = Table::default();
        let mut changes = Vec::new();
        let (mut ignored, mut named) = (0, Vec::new());
        let mut take = |entry: Entry| match fresh.put(&entry) {
            Ok(change) => changes.extend(change),
            Err(rejected) => {
                ignored += 1;
                if named.len() < NAMED_MAX {
                    named.push((entry.key, rejected));
                }
            }
        };
        let mut ours: HashSet<String> = self.unwritten.keys().into_iter().collect();
        for entry in entries {
            ours.remove(&entry.key);
            take(self.unwritten.merge_update(entry));
        }
        // Last, so that what all hosts know is older.
        for key in ours {
            self.unwritten.merge_delete(&key).into_iter().for_each(&mut take);
        }
        report_ignored(ignored, &named);
        let gone: Vec<String> = self.table.keys().filter(|key| !fresh.has(key)).collect();
        for key in gone {
            let change = self.table.delete(&key, u64::MAX);
            self.note(change, origin);
        }
        for change in changes {
            if let Some(change) = against(&self.table, change) {
                self.note(Some(change), origin);
            }
        }
        fresh.keep_since(&self.table);
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
        self.show();
        self.tell().await;
    }

    /// Shows readers the table as it is now.
    fn show(&mut self) {
        let is_new = !self.table.is_copy_of(&self.published.load());
        if is_new {
            self.published.store(Arc::new(self.table.clone()));
        }
        let Watched { is_shared, is_away, has_snapshot, is_behind } = self.watched;
        // Metadata that was shared stays so while another watch has not delivered its snapshot.
        if has_snapshot || is_away {
            self.is_shared.store(is_shared && !is_away, Ordering::Release);
        }
        if is_new {
            self.changed.send_replace(());
        }
        self.current
            .send_if_modified(|current| std::mem::replace(current, !is_behind) == is_behind);
        let is_complete = self.watched.has_snapshot && !self.watched.is_away;
        if is_complete || self.watched.is_away {
            self.complete
                .send_if_modified(|known| std::mem::replace(known, is_complete) != is_complete);
        }
        if self.watched.has_snapshot
            && let Some(loaded) = self.loaded.take()
        {
            let _ = loaded.send(());
        }
    }

    /// Tells what changed.
    async fn tell(&mut self) {
        if !self.pending.is_empty()
            && self.notices.send(std::mem::take(&mut self.pending)).await.is_err()
        {
            debug!("nobody listens to changes of the lattice metadata");
        }
    }
}

async fn written(store: &Store, attempt: Attempt) -> (Attempt, Result<u64, Error>) {
    let result = store.put(&attempt.key, attempt.value.clone(), attempt.expect).await;
    (attempt, result)
}

/// Converts a change of an empty table into one of the table `old`; returns `None` if `old` has it
/// already.
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

/// Names some of the entries that cannot be read, and counts them: a snapshot may bring any number.
fn report_ignored(count: usize, named: &[(String, Rejected)]) {
    for (key, Rejected(reason)) in named {
        warn!(key, %reason, "entry of the metadata bucket ignored");
    }
    if count > named.len() {
        warn!(
            count,
            named = named.len(),
            "entries of the metadata bucket ignored, of which only some are named"
        );
    }
}

#[cfg(test)]
mod tests;

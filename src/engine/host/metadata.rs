//! Opens the lattice's metadata: the bucket when it is there, else a stand-in until then.
//!
//! A host without the bucket is of use (its actors run, calls by public key work), so it starts and
//! logs the problem plainly. Its rights depend on the cause:
//!
//! * There is no JetStream at all: the lattice is this server and the hosts at it. Metadata is kept
//!   in memory, and written to the bucket when there is one.
//! * The configured domain does not answer, or not to this host: other hosts may know more, so this
//!   one stores nothing in the lattice's name ([`Away`]) and leaves the answers to others as long
//!   as there are any.
//!
//! A task goes on trying; when the bucket opens, the host moves over.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use lattice_base::{
    lattice::connection::Nats,
    store::{
        Backend, Error, Expect, Store, Update,
        away::Away,
        domain_name,
        jetstream::{Bucket, OpenError, making::Making},
        memory::Memory,
    },
};
use lattice_protocol::store::{Entry, keys};

/// Pause between attempts to open a bucket that was not there at start.
const RETRY: Duration = Duration::from_secs(1);
/// Rounds of bringing what changed during the one before, until the bucket takes the place of
/// memory all the same.
const ROUNDS_MAX: usize = 10;
/// How long it may take to read what the bucket has.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Entries that are on their way to the bucket at a time.
const WRITES_AT_ONCE: usize = 64;
/// How often it is said that the bucket is still not there, for the same reason.
const REMINDER: Duration = Duration::from_secs(60);

/// Where the metadata is.
#[derive(Clone)]
pub struct Place {
    pub nats: Nats,
    pub domain: Option<String>,
    pub lattice: String,
    /// How the bucket is made if it is missing.
    pub making: Making,
}

impl Place {
    /// Opens the store; never fails, see the module's text.
    pub async fn open(&self, tasks: &TaskTracker, stop: &CancellationToken) -> Store {
        let cause = match self.open_bucket().await {
            Ok(bucket) => return Store::new(Arc::new(bucket)),
            Err(cause) => cause,
        };
        let (store, stand_in) = if matches!(cause, OpenError::SwitchedOff { .. }) {
            error!(
                error = %cause,
                "lattice metadata is kept in memory: links and claims are not shared with other hosts and are lost at the end; trying again"
            );
            let memory = Arc::new(Memory::default());
            (Store::new(memory.clone()), StandIn::Memory(memory, Copied::default()))
        } else {
            error!(
                error = %cause,
                "lattice metadata cannot be reached: actors and providers run, links of the lattice are unknown and cannot be changed; trying again"
            );
            let away = Arc::new(Away::new(domain_name(self.domain.as_deref()), cause.to_string()));
            (Store::new(away.clone()), StandIn::Away(away))
        };
        store.explain(&cause.to_string());
        let retry = self.clone().move_over(store.clone(), stand_in);
        let stop = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = retry => {}
            }
        });
        store
    }

    async fn open_bucket(&self) -> Result<Bucket, OpenError> {
        let name = keys::bucket(&self.lattice);
        let bucket = Bucket::open(&self.nats, self.domain.as_deref(), &name, self.making).await?;
        info!(
            "Lattice cache stream created or verified as existing ({} consumers).",
            bucket.consumers_before
        );
        if bucket.replicas < 2 && bucket.is_clustered {
            warn!(
                bucket = name,
                "the metadata bucket has one copy in a cluster of servers; with that server links and claims go away. \
                   Set kv_replicas before the bucket is made, or edit the stream"
            );
        }
        info!("Attempting to create ephemeral consumer (cache loader)");
        Ok(bucket)
    }

    async fn move_over(mut self, store: Store, mut stand_in: StandIn) {
        let mut said = (String::new(), Instant::now());
        loop {
            // A server that just came back may have come back with JetStream.
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                Ok(()) = self.nats.reconnects.changed() => {}
            }
            let bucket = match self.open_bucket().await {
                Ok(bucket) => Arc::new(bucket),
                Err(cause) => {
                    let cause = cause.to_string();
                    if said.0 != cause || said.1.elapsed() >= REMINDER {
                        warn!(error = %cause, "still no shared lattice metadata");
                        said = (cause.clone(), Instant::now());
                    }
                    store.explain(&cause);
                    stand_in.explain(cause);
                    continue;
                }
            };
            if !stand_in.bring_all(&*bucket).await {
                continue;
            }
            store.replace(bucket.clone());
            info!("lattice metadata is shared now");
            // Entries written during the last round; nothing comes after that.
            while !stand_in.bring_all(&*bucket).await {
                tokio::time::sleep(RETRY).await;
            }
            return;
        }
    }
}

/// The store of a host until the bucket opens.
enum StandIn {
    Memory(Arc<Memory>, Copied),
    Away(Arc<Away>),
}

impl StandIn {
    /// Takes over why the bucket is not there by now.
    fn explain(&self, cause: String) {
        if let Self::Away(away) = self {
            away.set_cause(cause);
        }
    }

    /// Brings what is new to the bucket until nothing is; whether all of it worked.
    async fn bring_all(&mut self, bucket: &dyn Backend) -> bool {
        let Self::Memory(memory, copied) = self else { return true };
        for _ in 0..ROUNDS_MAX {
            match copied.bring(memory, bucket).await {
                Brought::Nothing => break,
                Brought::News => {}
                Brought::Incomplete => return false,
            }
        }
        true
    }
}

/// How one round of bringing went; of two parts of a round the greater counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Brought {
    Nothing,
    News,
    Incomplete,
}

/// The entries brought from memory to the bucket: by key, the revisions in both places. The latter
/// is missing where somebody else's entry was there first; that one is newer than what this host
/// made alone, and stays.
#[derive(Default)]
struct Copied(HashMap<String, (u64, Option<u64>)>);

impl Copied {
    /// Brings what is new since the last time, and takes away what is gone.
    async fn bring(&mut self, memory: &Memory, bucket: &dyn Backend) -> Brought {
        let entries = memory.entries();
        let removed = self.take_away(&entries, bucket).await;
        removed.max(self.put(entries, bucket).await)
    }

    async fn take_away(&mut self, entries: &[Entry], bucket: &dyn Backend) -> Brought {
        let here: HashSet<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
        let gone: Vec<String> =
            self.0.keys().filter(|key| !here.contains(key.as_str())).cloned().collect();
        let mut brought = Brought::Nothing;
        for key in gone {
            brought = brought.max(Brought::News);
            if let Some((_, Some(revision))) = self.0.get(&key) {
                match bucket.delete(&key, Expect::Revision(*revision)).await {
                    Ok(()) | Err(Error::Conflict) => {}
                    Err(cause) => {
                        brought = not_brought(&key, &cause);
                        continue;
                    }
                }
            }
            self.0.remove(&key);
        }
        brought
    }

    async fn put(&mut self, entries: Vec<Entry>, bucket: &dyn Backend) -> Brought {
        let (mut brought, mut lost) = (Brought::Nothing, Vec::new());
        let news: Vec<(Entry, u64)> = entries
            .into_iter()
            .filter_map(|entry| {
                let before = match self.0.get(&entry.key) {
                    Some((known, _)) if *known == entry.revision => return None,
                    Some((_, None)) => return None,
                    Some((_, Some(revision))) => *revision,
                    None => 0,
                };
                Some((entry, before))
            })
            .collect();
        let writes = news.into_iter().map(|(entry, before)| async move {
            let put = bucket.put(&entry.key, entry.value.clone(), Expect::Revision(before)).await;
            (entry, put)
        });
        let mut writes = stream::iter(writes).buffer_unordered(WRITES_AT_ONCE);
        while let Some((entry, put)) = writes.next().await {
            brought = brought.max(Brought::News);
            match put {
                Ok(revision) => drop(self.0.insert(entry.key, (entry.revision, Some(revision)))),
                Err(Error::Conflict) => lost.push(entry),
                Err(cause) => brought = not_brought(&entry.key, &cause),
            }
        }
        if lost.is_empty() { brought } else { brought.max(self.note_lost(lost, bucket).await) }
    }

    /// Notes the entries that the bucket has from somebody else.
    async fn note_lost(&mut self, lost: Vec<Entry>, bucket: &dyn Backend) -> Brought {
        let Some(found) = read(bucket).await else {
            warn!("the metadata bucket does not tell what it has");
            return Brought::Incomplete;
        };
        for Entry { key, value, revision } in lost {
            // The same value may well be this host's, written without an answer that came in time.
            let ours =
                found.get(&key).filter(|theirs| theirs.value == value).map(|ours| ours.revision);
            self.0.insert(key, (revision, ours));
        }
        Brought::News
    }
}

fn not_brought(key: &str, cause: &Error) -> Brought {
    warn!(key, error = %cause, "entry not brought to the metadata bucket");
    Brought::Incomplete
}

/// Reads the entries of a bucket, by key; `None` if it does not answer in time.
async fn read(bucket: &dyn Backend) -> Option<HashMap<String, Entry>> {
    let mut updates = bucket.watch();
    match tokio::time::timeout(READ_TIMEOUT, updates.recv()).await {
        Ok(Some(Update::Snapshot(entries))) => {
            Some(entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn put(store: &Memory, key: &str, value: &'static str) {
        store.put(key, value.into(), Expect::Anything).await.unwrap();
    }

    #[tokio::test]
    async fn what_changes_while_it_is_copied_is_copied_again() {
        let (memory, bucket) = (Memory::default(), Memory::default());
        let mut copied = Copied::default();
        for key in ["changed", "gone", "same", "theirs"] {
            put(&memory, key, "ours").await;
        }
        put(&bucket, "theirs", "theirs").await;
        // Written by this host before, without an answer that came in time.
        put(&bucket, "gone", "ours").await;
        assert_eq!(copied.bring(&memory, &bucket).await, Brought::News);
        assert_eq!(copied.bring(&memory, &bucket).await, Brought::Nothing);

        put(&memory, "changed", "again").await;
        put(&memory, "theirs", "again").await;
        put(&memory, "new", "ours").await;
        memory.delete("gone", Expect::Anything).await.unwrap();
        // Somebody else was faster here.
        put(&bucket, "same", "theirs").await;
        assert_eq!(copied.bring(&memory, &bucket).await, Brought::News);
        let found: Vec<_> =
            bucket.entries().into_iter().map(|entry| (entry.key, entry.value)).collect();
        let expected =
            [("changed", "again"), ("new", "ours"), ("same", "theirs"), ("theirs", "theirs")];
        assert_eq!(found, expected.map(|(key, value)| (key.to_owned(), value.into())));
    }
}

//! The bucket of a host without JetStream: the same behaviour, for as long as the process lives.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures::future::{BoxFuture, ready};
use tokio::sync::mpsc;

use super::{Backend, Error, Expect, Update};
use lattice_protocol::store::Entry;

/// Updates a follower may lag behind before it gets a new snapshot instead.
const WATCH_CAPACITY: usize = 1024;

/// A bucket in memory.
#[derive(Default)]
pub struct Memory {
    // Held for a few lines, never across an await.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The value of a deleted key is `None`; its revision stays, as it does in a bucket.
    entries: BTreeMap<String, (Option<Bytes>, u64)>,
    last_revision: u64,
    watchers: Vec<Watcher>,
}

struct Watcher {
    updates: mpsc::Sender<Update>,
    /// Set when an update did not fit: the follower needs a snapshot before anything else.
    lagging: bool,
}

impl Memory {
    /// Everything there is, in the order of keys.
    pub fn entries(&self) -> Vec<Entry> {
        self.state().snapshot()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, key: &str, value: Option<Bytes>, expect: Expect) -> Result<u64, Error> {
        let mut state = self.state();
        let current = state.entries.get(key);
        if let Expect::Revision(expected) = expect {
            // As in a bucket: a deleted key counts as absent only for those who expect 0 or know
            // the marker's revision.
            let found = current.map_or(0, |(_, revision)| *revision);
            let deleted = current.is_some_and(|(value, _)| value.is_none());
            if found != expected && !(deleted && expected == 0) {
                return Err(Error::Conflict);
            }
        }
        state.last_revision += 1;
        let revision = state.last_revision;
        state.entries.insert(key.to_owned(), (value.clone(), revision));
        let update = match value {
            Some(value) => Update::Put(Entry { key: key.to_owned(), value, revision }),
            None => Update::Delete { key: key.to_owned(), revision },
        };
        state.tell(&update);
        Ok(revision)
    }
}

impl State {
    fn snapshot(&self) -> Vec<Entry> {
        self.entries
            .iter()
            .filter_map(|(key, (value, revision))| {
                Some(Entry { key: key.clone(), value: value.clone()?, revision: *revision })
            })
            .collect()
    }

    fn tell(&mut self, update: &Update) {
        let mut watchers = std::mem::take(&mut self.watchers);
        watchers.retain_mut(|watcher| {
            let next =
                if watcher.lagging { Update::Snapshot(self.snapshot()) } else { update.clone() };
            match watcher.updates.try_send(next) {
                Ok(()) => watcher.lagging = false,
                Err(mpsc::error::TrySendError::Full(_)) => watcher.lagging = true,
                Err(mpsc::error::TrySendError::Closed(_)) => return false,
            }
            true
        });
        self.watchers = watchers;
    }
}

impl Backend for Memory {
    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        expect: Expect,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        Box::pin(ready(self.write(key, Some(value), expect)))
    }

    fn delete<'a>(&'a self, key: &'a str, expect: Expect) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(ready(self.write(key, None, expect).map(drop)))
    }

    fn watch(&self) -> mpsc::Receiver<Update> {
        let (updates, receiver) = mpsc::channel(WATCH_CAPACITY);
        let mut state = self.state();
        // The channel is new and empty, so the snapshot always fits.
        let _ = updates.try_send(Update::Snapshot(state.snapshot()));
        state.watchers.push(Watcher { updates, lagging: false });
        receiver
    }

    fn place(&self) -> String {
        "the memory of this host".to_owned()
    }

    fn is_shared(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_follower_sees_a_snapshot_then_changes() {
        let memory = Memory::default();
        memory.put("a", "1".into(), Expect::Anything).await.unwrap();
        let mut updates = memory.watch();
        assert_eq!(
            updates.recv().await,
            Some(Update::Snapshot(vec![Entry { key: "a".into(), value: "1".into(), revision: 1 }]))
        );
        memory.delete("a", Expect::Revision(1)).await.unwrap();
        assert_eq!(updates.recv().await, Some(Update::Delete { key: "a".into(), revision: 2 }));
    }

    #[tokio::test]
    async fn a_write_on_a_stale_revision_is_a_conflict() {
        let memory = Memory::default();
        assert_eq!(memory.put("a", "1".into(), Expect::Revision(0)).await.unwrap(), 1);
        assert!(matches!(
            memory.put("a", "2".into(), Expect::Revision(0)).await,
            Err(Error::Conflict)
        ));
        assert_eq!(memory.put("a", "2".into(), Expect::Revision(1)).await.unwrap(), 2);
        assert!(matches!(memory.delete("a", Expect::Revision(1)).await, Err(Error::Conflict)));
    }

    #[tokio::test]
    async fn a_follower_that_lags_gets_a_snapshot() {
        let memory = Memory::default();
        let mut updates = memory.watch();
        for n in 0..=WATCH_CAPACITY {
            memory.put("a", n.to_string().into(), Expect::Anything).await.unwrap();
        }
        for _ in 0..WATCH_CAPACITY {
            updates.recv().await.unwrap();
        }
        memory.put("b", "x".into(), Expect::Anything).await.unwrap();
        let Some(Update::Snapshot(entries)) = updates.recv().await else { panic!("a snapshot") };
        assert_eq!(entries.len(), 2);
    }
}

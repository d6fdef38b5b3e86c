//! Stands in for a bucket in a domain that this host cannot reach, while other hosts of the lattice
//! may.
//!
//! It knows nothing and takes nothing: what it accepted would be lost, or would contradict what
//! others wrote meanwhile. The host beside it still runs its actors; what these need to be known by
//! waits in `links::Live::announce`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::{BoxFuture, ready};
use tokio::sync::mpsc;

use super::{Backend, Error, Expect, Update};

/// A bucket that cannot be reached.
pub struct Away {
    place: String,
    // Held for a few lines, never across an await.
    state: Mutex<State>,
}

struct State {
    /// Why, with what to do about it.
    cause: String,
    /// Kept so that a watch does not end.
    watchers: Vec<mpsc::Sender<Update>>,
}

impl Away {
    pub fn new(place: String, cause: String) -> Self {
        Self { place, state: Mutex::new(State { cause, watchers: Vec::new() }) }
    }

    /// Takes over why the bucket cannot be reached by now.
    pub fn set_cause(&self, cause: String) {
        self.state().cause = cause;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusal(&self) -> Error {
        let cause = &self.state().cause;
        Error::Unreachable(format!(
            "{}, where the lattice keeps its metadata, cannot be reached from the NATS server of this host: {cause}",
            self.place
        ))
    }
}

impl Backend for Away {
    fn put<'a>(&'a self, _: &'a str, _: Bytes, _: Expect) -> BoxFuture<'a, Result<u64, Error>> {
        Box::pin(ready(Err(self.refusal())))
    }

    fn delete<'a>(&'a self, _: &'a str, _: Expect) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(ready(Err(self.refusal())))
    }

    fn watch(&self) -> mpsc::Receiver<Update> {
        let (updates, receiver) = mpsc::channel(1);
        // The channel is new and empty, so the snapshot always fits.
        let _ = updates.try_send(Update::Snapshot(Vec::new()));
        self.state().watchers.push(updates);
        receiver
    }

    fn place(&self) -> String {
        self.place.clone()
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn is_away(&self) -> bool {
        true
    }

    fn is_reachable(&self) -> bool {
        false
    }

    fn absence(&self) -> Error {
        self.refusal()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_refuses_with_the_latest_cause_and_its_watch_stays_open() {
        let away = Away::new("JetStream domain \"core\"".into(), "first".into());
        let mut updates = away.watch();
        assert_eq!(updates.recv().await, Some(Update::Snapshot(Vec::new())));
        assert!(matches!(updates.try_recv(), Err(mpsc::error::TryRecvError::Empty)));
        away.set_cause("the leaf is down".into());
        let refused = away.put("a", "1".into(), Expect::Anything).await.unwrap_err().to_string();
        for part in ["\"core\"", "cannot be reached", "the leaf is down", "nothing was stored"] {
            assert!(refused.contains(part), "{refused}");
        }
    }
}

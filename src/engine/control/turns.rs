//! Requests about the same thing, one after the other; all others go on beside them.
//!
//! A request takes its [`Turn`] when it arrives, so turns come in the order of requests, whatever
//! the order in which their tasks run.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The requests that are in work or wait, by what they are about. There are no more of them than
/// requests that the control interface has taken on.
#[derive(Default)]
pub(super) struct Turns {
    // Held for lines, never across an await.
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    /// The number of the last turn, and what tells that it is over.
    by_key: HashMap<String, (u64, oneshot::Receiver<()>)>,
    taken: u64,
}

/// A place in the order; it is over when this is dropped.
pub(super) struct Turn {
    turns: Arc<Turns>,
    key: String,
    number: u64,
    before: Option<oneshot::Receiver<()>>,
    /// Dropped with this, which the next one notices.
    _over: oneshot::Sender<()>,
}

impl Turns {
    /// Takes the place after all that were taken for this key so far.
    pub fn take(self: &Arc<Self>, key: &str) -> Turn {
        let (over, is_over) = oneshot::channel();
        let mut last = self.last.lock();
        last.taken += 1;
        let number = last.taken;
        let before = last.by_key.insert(key.to_owned(), (number, is_over));
        let before = before.map(|(_, is_over)| is_over);
        Turn { turns: Arc::clone(self), key: key.to_owned(), number, before, _over: over }
    }
}

impl Turn {
    /// Returns when all turns before it are over.
    pub async fn come(&mut self) {
        if let Some(before) = &mut self.before {
            // Nothing is sent; the sender goes.
            let _ = before.await;
        }
        self.before = None;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut last = self.turns.last.lock();
        if last.by_key.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            last.by_key.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn turns_of_one_key_come_in_order_and_those_of_others_at_once() {
        let turns = Arc::new(Turns::default());
        let (mut first, mut second, third) = (turns.take("a"), turns.take("a"), turns.take("a"));
        assert!(first.come().now_or_never().is_some());
        assert!(turns.take("b").come().now_or_never().is_some());
        assert!(second.come().now_or_never().is_none());
        // One that is given up hands its place on, when those before it are over.
        drop(first);
        assert!(second.come().now_or_never().is_some());
        drop(second);
        let mut fourth = turns.take("a");
        assert!(fourth.come().now_or_never().is_none());
        drop(third);
        assert!(fourth.come().now_or_never().is_some());
        drop(fourth);
        assert!(turns.last.lock().by_key.is_empty());
    }
}

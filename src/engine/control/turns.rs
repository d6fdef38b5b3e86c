//! Requests about the same thing, one after the other; all others go on beside them.
//!
//! A request takes its [`Turn`] when it arrives, so turns come in the order of requests, whatever
//! the order in which their tasks run.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::oneshot::{self, error::TryRecvError};

/// The requests that are in work or wait, by what they are about. There are no more of them than
/// requests that the control interface has taken on.
#[derive(Default)]
pub(super) struct Turns {
    // Held for lines, never across an await.
    lines: Mutex<HashMap<String, Line>>,
}

/// The turns of one key.
struct Line {
    /// How many of them are not over.
    turns: usize,
    /// Tells that the last one is over.
    last: oneshot::Receiver<Over>,
}

/// Ends a turn; one that was given up names what it waited for.
struct Over(Option<oneshot::Receiver<Over>>);

/// A place in the order; it is over when this is dropped.
pub(super) struct Turn {
    turns: Arc<Turns>,
    key: String,
    before: Option<oneshot::Receiver<Over>>,
    /// Until this is dropped.
    over: Option<oneshot::Sender<Over>>,
}

impl Turns {
    /// Takes the place after all that were taken for this key so far.
    pub fn take(self: &Arc<Self>, key: &str) -> Turn {
        let (over, last) = oneshot::channel();
        let mut lines = self.lines.lock();
        let before = lines.remove(key);
        let turns = before.as_ref().map_or(0, |line| line.turns) + 1;
        lines.insert(key.to_owned(), Line { turns, last });
        let before = before.map(|line| line.last);
        Turn { turns: Arc::clone(self), key: key.to_owned(), before, over: Some(over) }
    }
}

impl Turn {
    /// Returns when all turns before it are over.
    pub async fn come(&mut self) {
        while let Some(before) = &mut self.before {
            self.before = match before.await {
                Ok(Over(earlier)) => earlier,
                Err(_) => None,
            };
        }
    }

    /// Passes over those before it that are over, so that nothing grows with those given up.
    fn skip(&mut self) {
        while let Some(before) = &mut self.before {
            match before.try_recv() {
                Ok(Over(earlier)) => self.before = earlier,
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Closed) => self.before = None,
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.skip();
        if let Some(over) = self.over.take() {
            // The one after it may be gone too.
            let _ = over.send(Over(self.before.take()));
        }
        let mut lines = self.turns.lines.lock();
        if let Some(line) = lines.get_mut(&self.key) {
            line.turns -= 1;
            if line.turns == 0 {
                lines.remove(&self.key);
            }
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
        assert!(turns.lines.lock().is_empty());
    }

    #[test]
    fn a_turn_that_is_given_up_lets_none_overtake() {
        let turns = Arc::new(Turns::default());
        let (mut first, second, mut third) = (turns.take("a"), turns.take("a"), turns.take("a"));
        assert!(first.come().now_or_never().is_some());
        drop(second);
        assert!(third.come().now_or_never().is_none());
        // Nor does the last one that waits.
        drop(third);
        let mut fourth = turns.take("a");
        assert!(fourth.come().now_or_never().is_none());
        drop(first);
        assert!(fourth.come().now_or_never().is_some());
        drop(fourth);
        assert!(turns.lines.lock().is_empty());
    }
}

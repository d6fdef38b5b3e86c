//! Messages that were refused because nothing proved them: counted, and told in the log.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;

/// The log tells of refused messages of one kind at most this often.
const LOG_PAUSE: Duration = Duration::from_secs(60);

/// Messages that were refused because nothing proved them.
#[derive(Default)]
pub(super) struct Refusals {
    words: Counted,
    calls: Counted,
    answers: Counted,
}

/// Refused messages of one kind.
#[derive(Default)]
struct Counted {
    count: AtomicU64,
    logged: Mutex<Option<Instant>>,
}

/// The kinds of messages that are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Word,
    Call,
    Answer,
}

impl Refusals {
    /// Counts a message that was refused because nothing proved it, and says so in the log once in
    /// a while.
    pub(super) fn refuse(&self, kind: Refusal, host: &str, why: &str) {
        let refused = self.of(kind);
        let count = refused.count.fetch_add(1, Ordering::Relaxed) + 1;
        {
            let mut logged = refused.logged.lock();
            if logged.is_some_and(|at| at.elapsed() < LOG_PAUSE) {
                return;
            }
            *logged = Some(Instant::now());
        }
        // The name may be anything that somebody sent.
        let host: String = host.chars().take(64).collect();
        warn!(
            host_id = ?host,
            count,
            why,
            "{} refused; somebody may be pretending to be a host of this lattice",
            kind.name()
        );
    }

    /// Returns how many messages of a kind were refused since the start.
    pub(super) fn count(&self, kind: Refusal) -> u64 {
        self.of(kind).count.load(Ordering::Relaxed)
    }

    fn of(&self, kind: Refusal) -> &Counted {
        match kind {
            Refusal::Word => &self.words,
            Refusal::Call => &self.calls,
            Refusal::Answer => &self.answers,
        }
    }
}

impl Refusal {
    fn name(self) -> &'static str {
        match self {
            Self::Word => "a message in the name of a host was",
            Self::Call => "a call in the name of a host was",
            Self::Answer => "an answer in the name of a host was",
        }
    }
}

//! One [`Target`] and the calls of it: its operations, how many calls of each ended how and how
//! long they took.
//!
//! A call is counted by [`InWork`] from its beginning to its [`Outcome`].

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{
    COUNTED_MAX, Common, Counted, Counters, IDLE, NAME_BYTES_MAX, OPERATIONS_MAX, OTHER,
    exemplars::{ByOperation, Exemplars},
};
use crate::rpc::call::CallError;
use lattice_base::telemetry::otel::trace::{Sampled, Span};
use lattice_protocol::meter::{OperationCounts, Path, Tally, TargetCounts, histogram::Buckets};

impl Counters<Target> {
    pub(super) fn read(&self) -> Vec<TargetCounts> {
        let known = self.known.load_full();
        let mut all: Vec<TargetCounts> =
            known.values().flatten().map(|target| target.read()).collect();
        all.sort_by(|a, b| (&a.id, &a.link_name).cmp(&(&b.id, &b.link_name)));
        all
    }

    pub(super) fn exemplars(&self) -> ByOperation {
        let known = self.known.load_full();
        known.values().flatten().flat_map(|target| target.exemplars()).collect()
    }
}

/// An actor, or a provider under a link name, whose calls are counted.
pub struct Target {
    pub(super) id: Arc<str>,
    pub(super) link_name: Arc<str>,
    operations: ArcSwap<Vec<Arc<Operation>>>,
    /// Held by whoever adds an operation, for lines without an await.
    growing: Mutex<()>,
    /// When it was called last, in seconds of the meter's life.
    called: AtomicU64,
    pub(super) common: Arc<Common>,
}

impl Counted for Target {
    fn new(id: &str, link_name: &str, common: &Arc<Common>) -> Self {
        let called = AtomicU64::new(common.began.elapsed().as_secs());
        let (operations, growing) = (ArcSwap::default(), Mutex::default());
        Self {
            id: id.into(),
            link_name: link_name.into(),
            operations,
            growing,
            called,
            common: Arc::clone(common),
        }
    }

    fn link_name(&self) -> &str {
        &self.link_name
    }

    fn is_idle(&self) -> bool {
        let called = Duration::from_secs(self.called.load(Ordering::Relaxed));
        self.common.began.elapsed().saturating_sub(called) >= IDLE
    }
}

impl Target {
    /// Begins to count a call.
    pub fn begin(&self, operation: &str, path: Path) -> InWork {
        let began = Instant::now();
        let second = began.saturating_duration_since(self.common.began).as_secs();
        // Written once a second, so that threads do not take the line from each other.
        if self.called.load(Ordering::Relaxed) != second {
            self.called.store(second, Ordering::Relaxed);
        }
        let operation = if operation.len() > NAME_BYTES_MAX { OTHER } else { operation };
        let known = self.operations.load();
        let operation = match known.iter().find(|known| *known.name == *operation) {
            Some(known) => Arc::clone(known),
            None => self.add(operation),
        };
        operation.counts(path).in_work.fetch_add(1, Ordering::Relaxed);
        InWork { operation, path, began, sampled: None, is_over: false }
    }

    fn add(&self, name: &str) -> Arc<Operation> {
        if !self.has_room()
            && let Some(other) = self.operations.load().iter().find(|known| *known.name == *OTHER)
        {
            return Arc::clone(other);
        }
        let _growing = self.growing.lock();
        let known = self.operations.load();
        let name = if self.has_room() { name } else { OTHER };
        if let Some(known) = known.iter().find(|known| *known.name == *name) {
            return Arc::clone(known);
        }
        let operation = Arc::new(Operation {
            name: name.into(),
            local: OnceLock::new(),
            nats: OnceLock::new(),
        });
        let mut more = Vec::clone(&known);
        more.push(Arc::clone(&operation));
        self.operations.store(Arc::new(more));
        self.common.counted.fetch_add(1, Ordering::Relaxed);
        operation
    }

    /// Returns the name under which an operation is counted that was called.
    pub fn name_of(&self, operation: &str) -> String {
        let known = self.operations.load();
        let own = known.iter().find(|known| *known.name == *operation);
        own.map_or(OTHER, |known| &*known.name).to_owned()
    }

    /// Whether an operation that is not known can be counted by itself.
    fn has_room(&self) -> bool {
        self.operations.load().len() < OPERATIONS_MAX
            && self.common.counted.load(Ordering::Relaxed) < COUNTED_MAX
    }

    /// Returns the numbers of all operations together, without their times.
    pub(super) fn sum(&self) -> Tally {
        let mut sum = Tally::default();
        for operation in &**self.operations.load() {
            let counts =
                [Path::Local, Path::Nats].into_iter().filter_map(|path| operation.slot(path).get());
            counts.for_each(|counts| sum.add(&counts.ends(counts.took.total())));
        }
        sum
    }

    pub(super) fn read(&self) -> TargetCounts {
        let operations = self.operations.load_full();
        let both = operations
            .iter()
            .flat_map(|operation| [operation.read(Path::Local), operation.read(Path::Nats)]);
        let operations = both.flatten().collect();
        TargetCounts { id: self.id.to_string(), link_name: self.link_name.to_string(), operations }
    }

    fn exemplars(&self) -> ByOperation {
        let mut all = ByOperation::default();
        for operation in &**self.operations.load() {
            for path in [Path::Local, Path::Nats] {
                let seen = operation.slot(path).get().and_then(|counts| counts.exemplars.read());
                let [id, link_name] = [&self.id, &self.link_name].map(|text| text.to_string());
                let key = (id, link_name, operation.name.to_string(), path);
                all.extend(seen.map(|seen| (key, seen)));
            }
        }
        all
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.common.counted.fetch_sub(self.operations.load().len(), Ordering::Relaxed);
    }
}

struct Operation {
    name: Box<str>,
    /// Most operations are called in one way only.
    local: OnceLock<Box<Counts>>,
    nats: OnceLock<Box<Counts>>,
}

impl Operation {
    fn slot(&self, path: Path) -> &OnceLock<Box<Counts>> {
        match path {
            Path::Local => &self.local,
            Path::Nats => &self.nats,
        }
    }

    fn counts(&self, path: Path) -> &Counts {
        self.slot(path).get_or_init(Box::default)
    }

    /// Returns its numbers, if it was ever called that way.
    fn read(&self, path: Path) -> Option<OperationCounts> {
        let tally = self.slot(path).get()?.read();
        Some(OperationCounts { operation: self.name.to_string(), path, tally })
    }
}

#[derive(Default)]
struct Counts {
    in_work: AtomicU64,
    failed: AtomicU64,
    timed_out: AtomicU64,
    refused: AtomicU64,
    abandoned: AtomicU64,
    sum_ns: AtomicU64,
    /// All that were carried out, whatever came of them.
    took: Buckets,
    exemplars: Exemplars,
}

impl Counts {
    fn read(&self) -> Tally {
        let took = self.took.read();
        let ends = self.ends(took.count());
        Tally { took, ..ends }
    }

    /// Returns how many calls ended how, without their times; so many of them were carried out.
    fn ends(&self, carried_out: u64) -> Tally {
        let refused = self.refused.load(Ordering::Relaxed);
        Tally {
            calls: carried_out.saturating_add(refused),
            failed: self.failed.load(Ordering::Relaxed),
            timed_out: self.timed_out.load(Ordering::Relaxed),
            refused,
            abandoned: self.abandoned.load(Ordering::Relaxed),
            in_work: self.in_work.load(Ordering::Relaxed),
            sum_us: self.sum_ns.load(Ordering::Relaxed) / 1000,
            ..Tally::default()
        }
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    Failed,
    TimedOut,
    /// It was not carried out.
    Refused,
}

impl Outcome {
    /// Returns the outcome of a call of `target`.
    pub fn of<T>(result: &Result<T, CallError>, target: &str) -> Self {
        match result {
            Ok(_) => Self::Answered,
            Err(error) => Self::of_error(error, target),
        }
    }

    /// Returns the outcome of a call of `target` that ended with an error.
    pub fn of_error(error: &CallError, target: &str) -> Self {
        match error {
            error if error.is_busy(target) || error.is_unlinked() => Self::Refused,
            CallError::NoLink { .. }
            | CallError::NoAlias { .. }
            | CallError::NoCapability { .. }
            | CallError::NotInForce { .. }
            | CallError::NeitherSignedNorLinked { .. }
            | CallError::NotSignedFor { .. }
            | CallError::NotLetIn { .. }
            | CallError::NotLinked { .. }
            | CallError::Denied { .. }
            | CallError::NotAdmitted { .. }
            | CallError::NoResponders { .. }
            | CallError::TooDeep => Self::Refused,
            CallError::TimedOut { .. }
            | CallError::OutcomeUnknown { .. }
            | CallError::Deadline { .. } => Self::TimedOut,
            CallError::Callee(_)
            | CallError::Trap { .. }
            | CallError::Transport(_)
            | CallError::TooLarge { .. } => Self::Failed,
        }
    }
}

/// A call that is being counted.
#[must_use = "dropped, it counts as one whose caller went away"]
pub struct InWork {
    operation: Arc<Operation>,
    path: Path,
    began: Instant,
    sampled: Option<Sampled>,
    is_over: bool,
}

impl InWork {
    /// Returns the name under which its operation is counted.
    pub fn operation(&self) -> &str {
        &self.operation.name
    }

    /// Says which span the call has.
    pub fn traced(&mut self, span: &Span) {
        self.sampled = span.sampled();
    }

    /// Counts how it ended.
    pub fn end(mut self, outcome: Outcome) {
        self.is_over = true;
        let counts = self.operation.counts(self.path);
        counts.in_work.fetch_sub(1, Ordering::Relaxed);
        match outcome {
            Outcome::Answered => {}
            Outcome::Failed => _ = counts.failed.fetch_add(1, Ordering::Relaxed),
            Outcome::TimedOut => _ = counts.timed_out.fetch_add(1, Ordering::Relaxed),
            Outcome::Refused => {
                counts.refused.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        let took = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        counts.sum_ns.fetch_add(took, Ordering::Relaxed);
        counts.took.count(took);
        if let Some(sampled) = self.sampled {
            counts.exemplars.keep(sampled, took);
        }
    }

    /// Takes it back: the call went elsewhere.
    pub fn withdraw(mut self) {
        self.is_over = true;
        self.operation.counts(self.path).in_work.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for InWork {
    fn drop(&mut self) {
        if !self.is_over {
            let counts = self.operation.counts(self.path);
            counts.in_work.fetch_sub(1, Ordering::Relaxed);
            counts.abandoned.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart_by_their_error() {
        let busy = CallError::Callee("MA takes no further call: no slot".into());
        let cases = [
            (Ok(()), Outcome::Answered),
            (Err(busy), Outcome::Refused),
            (Err(CallError::Callee("no such key".into())), Outcome::Failed),
            (Err(CallError::Deadline { actor_id: "MA".into(), limit_ms: 1 }), Outcome::TimedOut),
            (
                Err(CallError::Trap { actor_id: "MA".into(), reason: "unreachable".into() }),
                Outcome::Failed,
            ),
            (Err(CallError::Denied { request_id: String::new(), message: None }), Outcome::Refused),
        ];
        for (result, outcome) in cases {
            assert_eq!(Outcome::of(&result, "MA"), outcome, "{result:?}");
        }
    }
}

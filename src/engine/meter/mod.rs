//! Counts calls: what the actors and built-in providers of this process served, and what this host
//! called elsewhere.
//!
//! A [`Meter`] is a handle that the router has. Each target that runs here holds its own [`Target`]
//! and counts in it without looking it up ([`Meter::serve`]); targets elsewhere are looked up by
//! each call ([`Meter::called`]). A call [begins](Target::begin), and the value returned then
//! records how it [ended](InWork::end); if that value is dropped without it, the caller went away.
//!
//! A call costs two looks at the clock and a handful of atomics, some tens of nanoseconds. Readers
//! and callers share snapshots; a lock is only taken for an operation or a target that was never
//! seen before.
//!
//! Numbers only grow, so a reader that wants rates looks twice ([`Tally::since`]). A target that
//! stopped keeps its numbers and goes on with them when it starts again; it is forgotten when
//! nobody has called it for [`IDLE`] and its place is needed.
//!
//! Names of operations come from the wire, so there are bounds: [`NAME_BYTES_MAX`] for each,
//! [`OPERATIONS_MAX`] for each target and [`COUNTED_MAX`] for all. Everything beyond them is
//! counted as [`OTHER`].
//!
//! [`edges`] counts calls where they begin; [`exemplars`] names some of them.

pub mod edges;
pub mod exemplars;

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::rpc::call::CallError;
use edges::{Caller, EdgeCounts};
use exemplars::{ByOperation, Exemplars};
use lattice_base::telemetry::otel::trace::{Sampled, Span};
use lattice_protocol::{
    meter::{OperationCounts, Path, Tally, TargetCounts, histogram::Buckets},
    rpc::invocation::Entity,
};

/// Operations that are counted apart for each target.
pub const OPERATIONS_MAX: usize = 64;
/// Operations that are counted apart over all targets; each takes two kilobytes.
pub const COUNTED_MAX: usize = 4096;
/// Bytes of an operation's name; a longer one is counted as [`OTHER`].
pub const NAME_BYTES_MAX: usize = 128;
/// Targets that are counted apart. More of those that run here are counted nevertheless.
pub const TARGETS_MAX: usize = 1024;
/// A target that was not called for so long may be forgotten.
pub const IDLE: Duration = Duration::from_secs(600);
/// The name under which all that is beyond the bounds is counted, as one.
pub const OTHER: &str = "other";

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

/// Counts calls. Cheap to clone.
#[derive(Clone)]
pub struct Meter(Arc<Inner>);

struct Inner {
    served: Counters<Target>,
    called: Counters<Target>,
    callers: Counters<Caller>,
    common: Arc<Common>,
}

/// The state that all targets share.
struct Common {
    began: Instant,
    /// Operations that are counted apart, of all targets.
    counted: AtomicUsize,
    /// Edges that are counted apart, of all callers.
    edges: AtomicUsize,
}

impl Default for Meter {
    fn default() -> Self {
        let (counted, edges) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let common = Arc::new(Common { began: Instant::now(), counted, edges });
        let (served, called, callers) =
            (Counters::default(), Counters::default(), Counters::default());
        Self(Arc::new(Inner { served, called, callers, common }))
    }
}

impl Meter {
    /// Where the calls of something are counted that runs in this process; it keeps this as long as
    /// it runs. `link_name` is empty for actors.
    pub fn serve(&self, id: &str, link_name: &str) -> Arc<Target> {
        let Inner { served, common, .. } = &*self.0;
        served
            .find(id, link_name)
            .unwrap_or_else(|| served.add(id, link_name, common, Room::Always))
    }

    /// Begins to count a call that leaves the process.
    pub fn called(&self, target: &Entity, operation: &str) -> InWork {
        let Inner { called, common, .. } = &*self.0;
        let (id, link_name) = (&*target.public_key, &*target.link_name);
        let target = called
            .find(id, link_name)
            .unwrap_or_else(|| called.add(id, link_name, common, Room::IfFree));
        target.begin(operation, Path::Nats)
    }

    /// Where the calls that something in this process makes are counted; it keeps this as long as
    /// it runs. `link_name` is empty for actors.
    pub fn caller(&self, id: &str, link_name: &str) -> Arc<Caller> {
        self.caller_with(id, link_name, Room::Always)
    }

    /// The same for somebody elsewhere, whose calls are counted where they arrive.
    pub fn stranger(&self, id: &str, link_name: &str) -> Arc<Caller> {
        self.caller_with(id, link_name, Room::IfFree)
    }

    fn caller_with(&self, id: &str, link_name: &str, room: Room) -> Arc<Caller> {
        let Inner { callers, common, .. } = &*self.0;
        callers.find(id, link_name).unwrap_or_else(|| callers.add(id, link_name, common, room))
    }

    /// Notes the numbers of all edges, from which the last seconds are told. To be done every
    /// [`edges::SAMPLE`].
    pub fn sample(&self) {
        self.0.callers.sample(self.uptime());
    }

    /// How long it has been counting.
    pub fn uptime(&self) -> Duration {
        self.0.common.began.elapsed()
    }

    /// The numbers of all targets at this moment.
    pub fn snapshot(&self) -> Snapshot {
        let Inner { served, called, .. } = &*self.0;
        Snapshot { served: served.read(), called: called.read() }
    }

    /// The calls that served and called targets had last and of which a collector has the trace.
    pub fn exemplars(&self) -> [ByOperation; 2] {
        let Inner { served, called, .. } = &*self.0;
        [served.exemplars(), called.exemplars()]
    }

    /// The numbers of all edges at this moment: calls by caller and target, counted where they
    /// begin.
    pub fn edges(&self) -> Vec<EdgeCounts> {
        self.0.callers.read()
    }
}

/// Something with a public key and a link name of which calls are counted: a target, or a caller.
trait Counted {
    fn new(id: &str, link_name: &str, common: &Arc<Common>) -> Self;

    fn link_name(&self) -> &str;

    /// Whether nothing was counted for [`IDLE`].
    fn is_idle(&self) -> bool;
}

/// Targets or callers by public key; one key may have several link names.
type ByKey<T> = HashMap<Arc<str>, Vec<Arc<T>>>;

fn count<T>(targets: &ByKey<T>) -> usize {
    targets.values().map(Vec::len).sum()
}

/// Whether a target or a caller is counted apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    Always,
    /// Only where there are not [`TARGETS_MAX`] of them yet.
    IfFree,
}

/// All targets of one kind that are counted, or all callers.
struct Counters<T> {
    known: ArcSwap<ByKey<T>>,
    /// When there was no room for another one last, in seconds of the meter's life.
    full_at: AtomicU64,
    /// Held by whoever adds one, for lines without an await.
    growing: Mutex<()>,
}

impl<T> Default for Counters<T> {
    fn default() -> Self {
        Self { known: ArcSwap::default(), full_at: AtomicU64::new(0), growing: Mutex::default() }
    }
}

impl<T: Counted> Counters<T> {
    fn find(&self, id: &str, link_name: &str) -> Option<Arc<T>> {
        self.known.load().get(id)?.iter().find(|target| target.link_name() == link_name).cloned()
    }

    /// Adds a target; without room a stranger's calls are counted with those of others.
    fn add(&self, id: &str, link_name: &str, common: &Arc<Common>, room: Room) -> Arc<T> {
        // Idleness is a matter of minutes: a look for room that was in vain is not repeated at
        // every call.
        let second = common.began.elapsed().as_secs();
        if room == Room::IfFree
            && self.full_at.load(Ordering::Relaxed) == second
            && let Some(other) = self.find(OTHER, "")
        {
            return other;
        }
        let _growing = self.growing.lock();
        if let Some(target) = self.find(id, link_name) {
            return target;
        }
        let mut known = HashMap::clone(&self.known.load());
        if count(&known) >= TARGETS_MAX {
            // The map that readers see and this one hold it once each.
            known.values_mut().for_each(|targets| {
                targets.retain(|target| Arc::strong_count(target) > 2 || !target.is_idle())
            });
            known.retain(|_, targets| !targets.is_empty());
        }
        let has_room = room == Room::Always || count(&known) < TARGETS_MAX;
        if !has_room {
            self.full_at.store(second, Ordering::Relaxed);
        }
        let (id, link_name) = if has_room { (id, link_name) } else { (OTHER, "") };
        let targets = known.entry(Arc::from(id)).or_default();
        if let Some(target) = targets.iter().find(|target| target.link_name() == link_name) {
            return Arc::clone(target);
        }
        let target = Arc::new(T::new(id, link_name, common));
        targets.push(Arc::clone(&target));
        self.known.store(Arc::new(known));
        target
    }
}

impl Counters<Target> {
    fn read(&self) -> Vec<TargetCounts> {
        let known = self.known.load_full();
        let mut all: Vec<TargetCounts> =
            known.values().flatten().map(|target| target.read()).collect();
        all.sort_by(|a, b| (&a.id, &a.link_name).cmp(&(&b.id, &b.link_name)));
        all
    }

    fn exemplars(&self) -> ByOperation {
        let known = self.known.load_full();
        known.values().flatten().flat_map(|target| target.exemplars()).collect()
    }
}

/// An actor, or a provider under a link name, whose calls are counted.
pub struct Target {
    id: Arc<str>,
    link_name: Arc<str>,
    operations: ArcSwap<Vec<Arc<Operation>>>,
    /// Held by whoever adds an operation, for lines without an await.
    growing: Mutex<()>,
    /// When it was called last, in seconds of the meter's life.
    called: AtomicU64,
    common: Arc<Common>,
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

    /// Whether an operation that is not known can be counted by itself.
    fn has_room(&self) -> bool {
        self.operations.load().len() < OPERATIONS_MAX
            && self.common.counted.load(Ordering::Relaxed) < COUNTED_MAX
    }

    /// Returns the numbers of all operations together, without their times.
    fn sum(&self) -> Tally {
        let mut sum = Tally::default();
        for operation in &**self.operations.load() {
            let counts =
                [Path::Local, Path::Nats].into_iter().filter_map(|path| operation.slot(path).get());
            counts.for_each(|counts| sum.add(&counts.ends(counts.took.total())));
        }
        sum
    }

    fn read(&self) -> TargetCounts {
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

/// The counts of a meter, as plain values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Calls of what runs in this process.
    pub served: Vec<TargetCounts>,
    /// Calls that left it.
    pub called: Vec<TargetCounts>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(meter: &Meter) -> Tally {
        let served = meter.snapshot().served;
        assert_eq!((served.len(), served[0].operations.len()), (1, 1), "{served:?}");
        served[0].operations[0].tally.clone()
    }

    #[test]
    fn each_end_of_a_call_is_counted_once() {
        let meter = Meter::default();
        let target = meter.serve("MA", "");
        for outcome in [
            Outcome::Answered,
            Outcome::Answered,
            Outcome::Failed,
            Outcome::TimedOut,
            Outcome::Refused,
        ] {
            target.begin("Op", Path::Local).end(outcome);
        }
        drop(target.begin("Op", Path::Local));
        target.begin("Op", Path::Local).withdraw();
        let in_work = target.begin("Op", Path::Local);
        let tally = only(&meter);
        assert_eq!((tally.calls, tally.failed, tally.timed_out, tally.refused), (5, 1, 1, 1));
        assert_eq!(
            (tally.abandoned, tally.in_work, tally.errors(), tally.took.count()),
            (1, 1, 3, 4)
        );
        in_work.end(Outcome::Answered);
        let later = only(&meter).since(&tally);
        assert_eq!((later.calls, later.in_work, later.errors()), (1, 0, 0));
    }

    #[test]
    fn paths_operations_and_targets_are_counted_apart() {
        let meter = Meter::default();
        let actor = meter.serve("MA", "");
        actor.begin("Op", Path::Local).end(Outcome::Answered);
        actor.begin("Op", Path::Nats).end(Outcome::Answered);
        actor.begin("Other.Op", Path::Nats).end(Outcome::Answered);
        meter.called(&Entity::new("VA", "default", "acme:x"), "Op").end(Outcome::Answered);
        // One that starts again goes on with its numbers.
        assert!(Arc::ptr_eq(&meter.serve("MA", ""), &actor));
        let snapshot = meter.snapshot();
        assert_eq!(snapshot.served.len(), 1);
        assert_eq!(snapshot.served[0].operations.len(), 3);
        assert_eq!((&*snapshot.called[0].id, &*snapshot.called[0].link_name), ("VA", "default"));
    }

    #[test]
    fn strange_names_are_counted_together_beyond_the_bound() {
        let meter = Meter::default();
        let target = meter.serve("MA", "");
        for n in 0..OPERATIONS_MAX + 10 {
            target.begin(&format!("Op{n}"), Path::Nats).end(Outcome::Answered);
        }
        let operations = &meter.snapshot().served[0].operations;
        assert_eq!(operations.len(), OPERATIONS_MAX + 1);
        assert_eq!(
            (&*operations[OPERATIONS_MAX].operation, operations[OPERATIONS_MAX].tally.calls),
            (OTHER, 10)
        );

        // The beginnings of long names are not told apart.
        let long = "o".repeat(NAME_BYTES_MAX + 1);
        meter.serve("MLONG", "").begin(&long, Path::Nats).end(Outcome::Answered);
        let named =
            meter.snapshot().served.into_iter().find(|target| target.id == "MLONG").unwrap();
        assert_eq!(named.operations[0].operation, OTHER);

        for n in 0..TARGETS_MAX + 10 {
            meter.called(&Entity::new(&format!("M{n}"), "", ""), "Op").end(Outcome::Answered);
        }
        let called = meter.snapshot().called;
        assert_eq!(called.len(), TARGETS_MAX + 1);
        let other = called.iter().find(|target| target.id == OTHER).unwrap();
        assert_eq!(other.operations[0].tally.calls, 10);
        // A target that runs here always has a place of its own.
        let more: Vec<_> =
            (0..TARGETS_MAX + 10).map(|n| meter.serve(&format!("M{n}"), "")).collect();
        assert_eq!(meter.snapshot().served.len(), more.len() + 2);
    }

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

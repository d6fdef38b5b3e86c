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
//! Numbers only grow, so a reader that wants rates looks twice
//! ([`Tally::since`](lattice_protocol::meter::Tally::since)). A target that stopped keeps its
//! numbers and goes on with them when it starts again; it is forgotten when nobody has called it
//! for [`IDLE`] and its place is needed.
//!
//! Names of operations come from the wire, so there are bounds: [`NAME_BYTES_MAX`] for each,
//! [`OPERATIONS_MAX`] for each target and [`COUNTED_MAX`] for all. Everything beyond them is
//! counted as [`OTHER`].
//!
//! `target` has the counts of one target, [`edges`] counts calls where they begin, [`exemplars`]
//! names some of them.

pub mod edges;
pub mod exemplars;
mod target;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use edges::{Caller, EdgeCounts};
use exemplars::ByOperation;
use lattice_protocol::{
    meter::{Path, TargetCounts},
    rpc::invocation::Entity,
};
pub use target::{InWork, Outcome, Target};

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

    /// Returns the name under which an operation of a target is counted that was called.
    pub fn name_of(&self, target: &Entity, operation: &str) -> String {
        let Inner { served, called, .. } = &*self.0;
        let (id, link_name) = (&*target.public_key, &*target.link_name);
        let known = served.find(id, link_name).or_else(|| called.find(id, link_name));
        known.map_or_else(|| OTHER.to_owned(), |target| target.name_of(operation))
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
    use lattice_protocol::meter::Tally;

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
}

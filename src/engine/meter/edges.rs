//! Calls counted where they begin: the numbers of one caller and one target.
//!
//! Each caller in this process holds its [`Caller`], and what calls one target only holds its
//! [`Edge`], so that a call finds its numbers without looking into a map. The same counters are
//! used as for [what is served](super::Target); an edge of the HTTP server also counts the classes
//! of its answers.
//!
//! A call is counted here however it ends, also when it is refused before it goes anywhere, or
//! finds nobody. Calls of providers that are processes, and of tools, begin elsewhere; they are
//! counted where they arrive.
//!
//! [`Meter::sample`](super::Meter::sample) notes the numbers every [`SAMPLE`], from which the last
//! seconds are told ([`Recent`]): so everybody who asks learns the same, without looking twice.

use std::{
    collections::VecDeque,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{Common, Counted, Counters, InWork, OTHER, Target};
use lattice_protocol::{
    clock,
    control::probe::calls::{HttpClasses, Recent},
    meter::{Path, Tally, TargetCounts},
    rpc::invocation::Entity,
};

/// Edges that are counted apart for each caller.
pub const EDGES_MAX: usize = 64;
/// Edges that are counted apart over all callers.
pub const ALL_EDGES_MAX: usize = 2048;
/// How often the numbers are noted.
pub const SAMPLE: Duration = Duration::from_secs(1);
/// How far the last seconds reach.
pub const RECENT: Duration = Duration::from_secs(10);
/// Bytes of what an edge that leads nowhere was to lead to; guests write it.
const NAMESPACE_BYTES_MAX: usize = 128;

impl Counters<Caller> {
    pub(super) fn read(&self) -> Vec<EdgeCounts> {
        let known = self.known.load_full();
        let edges = known.values().flatten().flat_map(|caller| Vec::clone(&caller.edges.load()));
        let mut all: Vec<EdgeCounts> = edges.map(|edge| edge.read()).collect();
        all.sort_by(|a, b| a.key().cmp(&b.key()));
        all
    }

    pub(super) fn sample(&self, at: Duration) {
        for caller in self.known.load().values().flatten() {
            caller.edges.load().iter().for_each(|edge| edge.sample(at));
        }
    }
}

/// An actor, a provider under a link name, or all tools, whose calls are counted.
pub struct Caller {
    id: Arc<str>,
    link_name: Arc<str>,
    edges: ArcSwap<Vec<Arc<Edge>>>,
    /// Held by whoever adds an edge, for lines without an await.
    growing: Mutex<()>,
    common: Arc<Common>,
}

impl Counted for Caller {
    fn new(id: &str, link_name: &str, common: &Arc<Common>) -> Self {
        let (edges, growing) = (ArcSwap::default(), Mutex::default());
        let common = Arc::clone(common);
        Self { id: id.into(), link_name: link_name.into(), edges, growing, common }
    }

    fn link_name(&self) -> &str {
        &self.link_name
    }

    fn is_idle(&self) -> bool {
        self.edges.load().iter().all(|edge| edge.target.is_idle())
    }
}

impl Caller {
    /// Where the calls of one target are counted. A target without a key is none: its contract is
    /// what was asked for.
    pub fn to(&self, target: &Entity) -> Arc<Edge> {
        self.find(target).unwrap_or_else(|| self.add(target))
    }

    fn find(&self, target: &Entity) -> Option<Arc<Edge>> {
        self.leading_to([&target.public_key, &target.link_name, &target.contract_id])
    }

    /// The edge of all targets that are not counted by themselves.
    fn other(&self) -> Option<Arc<Edge>> {
        self.leading_to([OTHER, "", ""])
    }

    fn leading_to(&self, target: [&str; 3]) -> Option<Arc<Edge>> {
        self.edges.load().iter().find(|edge| edge.leads_to(target)).cloned()
    }

    fn add(&self, target: &Entity) -> Arc<Edge> {
        // Where there is no room, no call waits for another.
        if !self.has_room(target)
            && let Some(edge) = self.other()
        {
            return edge;
        }
        let _growing = self.growing.lock();
        let other = Entity::new(OTHER, "", "");
        let target = if self.has_room(target) { target } else { &other };
        if let Some(edge) = self.find(target) {
            return edge;
        }
        let edge = Arc::new(Edge::new(self, target));
        let mut more = Vec::clone(&self.edges.load());
        more.push(Arc::clone(&edge));
        self.edges.store(Arc::new(more));
        self.common.edges.fetch_add(1, Ordering::Relaxed);
        edge
    }

    /// Whether a target that is not known can be counted by itself.
    fn has_room(&self, target: &Entity) -> bool {
        self.edges.load().len() < EDGES_MAX
            && self.common.edges.load(Ordering::Relaxed) < ALL_EDGES_MAX
            && target.contract_id.len() <= NAMESPACE_BYTES_MAX
            && target.link_name.len() <= NAMESPACE_BYTES_MAX
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.common.edges.fetch_sub(self.edges.load().len(), Ordering::Relaxed);
    }
}

/// The calls of one caller to one target.
pub struct Edge {
    caller: Arc<str>,
    caller_link_name: Arc<str>,
    contract_id: Arc<str>,
    target: Target,
    /// Answers by the class of their status, from 2xx on.
    http: OnceLock<Box<[AtomicU64; 4]>>,
    /// The numbers of the last seconds, oldest first. Held for lines, never by a call.
    samples: Mutex<VecDeque<Sample>>,
}

/// The numbers of a moment.
#[derive(Clone, Copy, Default)]
struct Sample {
    at: Duration,
    calls: u64,
    failed: u64,
    timed_out: u64,
    refused: u64,
    server_errors: u64,
}

impl Edge {
    fn new(caller: &Caller, target: &Entity) -> Self {
        let at = caller.common.began.elapsed();
        Self {
            caller: Arc::clone(&caller.id),
            caller_link_name: Arc::clone(&caller.link_name),
            contract_id: Arc::clone(&target.contract_id),
            target: Target::new(&target.public_key, &target.link_name, &caller.common),
            http: OnceLock::new(),
            // It began with nothing; calls before the first sample are of the last seconds too.
            samples: Mutex::new(VecDeque::from([Sample { at, ..Sample::default() }])),
        }
    }

    /// Whether it leads to the target of a public key, a link name and a contract.
    fn leads_to(&self, [public_key, link_name, contract_id]: [&str; 3]) -> bool {
        *self.target.id == *public_key
            && *self.target.link_name == *link_name
            && *self.contract_id == *contract_id
    }

    /// Begins to count a call.
    pub fn begin(&self, operation: &str) -> InWork {
        self.target.begin(operation, Path::Local)
    }

    /// Counts an answer of the HTTP server.
    pub fn answered(&self, status: u16) {
        let classes = self.http.get_or_init(Box::default);
        if let Some(class) = usize::from(status / 100).checked_sub(2)
            && let Some(count) = classes.get(class)
        {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The public key and the link name of the caller.
    pub fn caller(&self) -> (&str, &str) {
        (&self.caller, &self.caller_link_name)
    }

    /// The target, as calls name it.
    pub fn target(&self) -> Entity {
        Entity {
            public_key: Arc::clone(&self.target.id),
            link_name: Arc::clone(&self.target.link_name),
            contract_id: Arc::clone(&self.contract_id),
        }
    }

    /// The public key of the target; empty if there is none.
    pub fn target_id(&self) -> &str {
        &self.target.id
    }

    fn sample(&self, at: Duration) {
        let now = Sample::of(&self.target.sum(), self.classes(), at);
        let mut samples = self.samples.lock();
        samples.push_back(now);
        // One sample before the last seconds is what they are counted from.
        while samples.get(1).is_some_and(|second| at.saturating_sub(second.at) >= RECENT) {
            samples.pop_front();
        }
    }

    fn classes(&self) -> Option<HttpClasses> {
        let classes = self.http.get()?;
        let [success, redirection, client_error, server_error] =
            classes.each_ref().map(|count| count.load(Ordering::Relaxed));
        Some(HttpClasses { success, redirection, client_error, server_error })
    }

    fn read(&self) -> EdgeCounts {
        let counts = self.target.read();
        let http = self.classes();
        let now = Sample::of(&counts.sum(), http, self.target.common.began.elapsed());
        let before = self.samples.lock().front().copied().unwrap_or_default();
        EdgeCounts {
            caller: self.caller.to_string(),
            caller_link_name: self.caller_link_name.to_string(),
            contract_id: self.contract_id.to_string(),
            counts,
            recent: now.since(&before),
            http,
        }
    }
}

impl Sample {
    fn of(tally: &Tally, http: Option<HttpClasses>, at: Duration) -> Self {
        let Tally { calls, failed, timed_out, refused, .. } = *tally;
        let server_errors = http.map_or(0, |classes| classes.server_error);
        Self { at, calls, failed, timed_out, refused, server_errors }
    }

    fn since(&self, earlier: &Self) -> Recent {
        let ms = self.at.saturating_sub(earlier.at).min(RECENT + SAMPLE);
        Recent {
            ms: clock::millis(ms),
            calls: self.calls.saturating_sub(earlier.calls),
            failed: self.failed.saturating_sub(earlier.failed),
            timed_out: self.timed_out.saturating_sub(earlier.timed_out),
            refused: self.refused.saturating_sub(earlier.refused),
            server_errors: self.server_errors.saturating_sub(earlier.server_errors),
        }
    }
}

/// The counts of an edge, as plain values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EdgeCounts {
    pub caller: String,
    pub caller_link_name: String,
    pub contract_id: String,
    /// Of the target.
    pub counts: TargetCounts,
    pub recent: Recent,
    pub http: Option<HttpClasses>,
}

impl EdgeCounts {
    fn key(&self) -> [&str; 5] {
        [
            &self.caller,
            &self.caller_link_name,
            &self.contract_id,
            &self.counts.id,
            &self.counts.link_name,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::{Meter, Outcome, TARGETS_MAX, count};

    fn kv() -> Entity {
        Entity::new("VA", "default", "acme:kv")
    }

    #[test]
    fn every_end_of_a_call_is_counted_at_its_caller() {
        let meter = Meter::default();
        let edge = meter.caller("MA", "").to(&kv());
        for outcome in [Outcome::Answered, Outcome::Refused, Outcome::TimedOut, Outcome::Failed] {
            edge.begin("Get").end(outcome);
        }
        assert!(Arc::ptr_eq(&edge, &meter.caller("MA", "").to(&kv())));
        meter
            .caller("MA", "")
            .to(&Entity::new("", "two", "acme:kv"))
            .begin("Get")
            .end(Outcome::Refused);
        let edges = meter.edges();
        let [nowhere, to_provider] = edges.as_slice() else { panic!("{edges:?}") };
        assert_eq!((&*nowhere.counts.id, &*to_provider.counts.id), ("", "VA"));
        let sum = to_provider.counts.sum();
        assert_eq!((sum.calls, sum.errors()), (4, 3));
        assert_eq!((to_provider.recent.calls, to_provider.recent.errors()), (4, 3));
    }

    #[test]
    fn the_last_seconds_are_those_since_the_oldest_sample() {
        let meter = Meter::default();
        let edge = meter.caller("MA", "").to(&kv());
        edge.begin("Get").end(Outcome::Refused);
        for second in 0..30 {
            edge.sample(Duration::from_secs(second));
        }
        assert!(edge.samples.lock().len() <= 12);
        assert_eq!(meter.edges()[0].recent.calls, 0, "it was long ago");
        edge.begin("Get").end(Outcome::Refused);
        assert_eq!(meter.edges()[0].recent.refused, 1);
    }

    #[test]
    fn answers_are_counted_by_class() {
        let meter = Meter::default();
        let edge = meter.caller("VH", "default").to(&Entity::new("MA", "", ""));
        assert_eq!(meter.edges()[0].http, None);
        [200, 204, 301, 404, 502, 999, 100].into_iter().for_each(|status| edge.answered(status));
        let http = meter.edges()[0].http.unwrap();
        assert_eq!(http.each().map(|(_, count)| count), [2, 1, 1, 1]);
    }

    #[test]
    fn strange_targets_and_callers_are_counted_together_beyond_the_bounds() {
        let meter = Meter::default();
        let caller = meter.caller("MA", "");
        for number in 0..EDGES_MAX + 10 {
            caller
                .to(&Entity::new("", "", &format!("acme:{number}")))
                .begin("Op")
                .end(Outcome::Refused);
        }
        let long = "x".repeat(NAMESPACE_BYTES_MAX + 1);
        caller.to(&Entity::new("", "", &long)).begin("Op").end(Outcome::Refused);
        let edges = meter.edges();
        assert_eq!(edges.len(), EDGES_MAX + 1);
        let other = edges.iter().find(|edge| edge.counts.id == OTHER).unwrap();
        assert_eq!(other.counts.sum().calls, 11);
        for number in 0..TARGETS_MAX + 10 {
            let stranger = meter.stranger(&format!("V{number}"), "default");
            stranger.to(&Entity::new("MA", "", "")).begin("Op").end(Outcome::Answered);
        }
        assert!(count(&meter.0.callers.known.load()) <= TARGETS_MAX + 1);
        assert!(meter.0.callers.find(OTHER, "").is_some());
    }
}

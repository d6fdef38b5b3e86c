//! The last calls that failed, kept by the host on which they began.
//!
//! The maker of a call for somebody [records](Failures::record) its failure: what was called by
//! whom, how it failed, and the reason, cut to a bound; never a payload or a link value. Each gets
//! an id, by which it is found again; that of an HTTP request is the one its client was told.
//!
//! One caller that fails all the time does not push out the failures of others: each edge keeps
//! [`EDGE_MAX`] at most, and if all together are more than [`KEPT_MAX`], the edge that has most
//! gives its oldest. Failures also come into the logs of their caller and their target, a few a
//! second.
//!
//! A lock is taken for each failure, and never by a call that ends well.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    control::state::json_bytes,
    journal::{Journal, cut},
    meter::{Outcome, edges::Edge},
    rpc::call::CallError,
};
use lattice_protocol::{
    builtin, clock,
    control::probe::{
        calls::TOOLS,
        failures::{Ask, FailedCall, Kind, REASON_BYTES_MAX},
    },
    journal::Level,
    links::Table,
    rpc::invocation::Entity,
};

/// Failures that are kept of one caller and one target.
const EDGE_MAX: usize = 256;
/// Failures that are kept of all.
const KEPT_MAX: usize = 2048;
/// Bytes of an operation's name that are kept.
const OPERATION_BYTES_MAX: usize = 128;
/// Lines in the logs about one caller and one target within [`LINES_TIME`].
const LINES_MAX: u32 = 5;
const LINES_TIME: Duration = Duration::from_secs(1);

/// The last failed calls of this host. Cheap to clone.
#[derive(Clone)]
pub struct Failures(Arc<Inner>);

struct Inner {
    journal: Journal,
    // Held for lines, never across an await.
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    edges: HashMap<EdgeKey, OfEdge>,
    count: usize,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct EdgeKey {
    caller: (Arc<str>, Arc<str>),
    target: (Arc<str>, Arc<str>, Arc<str>),
}

impl EdgeKey {
    fn of(edge: &Edge) -> Self {
        let ((caller, caller_link_name), target) = (edge.caller(), edge.target());
        Self {
            caller: (caller.into(), caller_link_name.into()),
            target: (target.public_key, target.link_name, target.contract_id),
        }
    }
}

/// The failures of one caller and one target.
struct OfEdge {
    /// Oldest first.
    calls: VecDeque<Arc<FailedCall>>,
    lines: Lines,
}

/// Counts the lines in the logs.
struct Lines {
    began: Instant,
    written: u32,
    left_out: u64,
}

/// A failure that is to be kept.
pub struct Failed<'a> {
    pub edge: &'a Edge,
    pub operation: &'a str,
    pub error: &'a CallError,
    /// The id that somebody was told already.
    pub id: Option<&'a str>,
}

impl Failures {
    pub fn new(journal: Journal) -> Self {
        Self(Arc::new(Inner { journal, kept: Mutex::default() }))
    }

    /// Keeps a failure, and tells it in the logs of those whom it is about; the table has their
    /// names.
    pub fn record(&self, failed: &Failed<'_>, table: &Table) {
        let call = Arc::new(failed.told(table));
        let key = EdgeKey::of(failed.edge);
        let line = self.0.kept.lock().keep(key, Arc::clone(&call), Instant::now());
        let Some(left_out) = line else { return };
        let mut text = call.told();
        if left_out > 0 {
            text.push_str(&format!(" (and {left_out} more before it)"));
        }
        let journal = &self.0.journal;
        if call.caller != TOOLS {
            journal.writer(&call.caller, &call.caller_link_name).write(Level::Warn, &text);
        }
        if !call.target.is_empty() {
            journal.writer(&call.target, &call.link_name).write(Level::Warn, &text);
        }
    }

    /// Returns what is asked for, newest first, as far as `bytes_max` goes in JSON.
    pub fn find(&self, ask: &Ask, bytes_max: usize) -> Vec<FailedCall> {
        let mut found: Vec<Arc<FailedCall>> = {
            let kept = self.0.kept.lock();
            let all = kept.edges.values().flat_map(|of_edge| &of_edge.calls);
            all.filter(|call| is_wanted(ask, call)).cloned().collect()
        };
        found.sort_by(|a, b| (b.at_ms, &b.id).cmp(&(a.at_ms, &a.id)));
        found.truncate(ask.limit.unwrap_or(KEPT_MAX));
        let mut bytes = 0;
        let fitting = found.iter().take_while(|call| {
            bytes += json_bytes(call);
            bytes <= bytes_max
        });
        fitting.map(|call| FailedCall::clone(call)).collect()
    }
}

fn is_wanted(Ask { entity, id, .. }: &Ask, call: &FailedCall) -> bool {
    entity.as_ref().is_none_or(|entity| call.is_of(entity))
        && id.as_ref().is_none_or(|id| call.id.starts_with(id.as_str()))
}

impl Failed<'_> {
    fn told(&self, table: &Table) -> FailedCall {
        let ((caller, caller_link_name), target) = (self.edge.caller(), self.edge.target());
        let Entity { public_key, link_name, contract_id } = &target;
        let outcome = Outcome::of_error(self.error, public_key);
        FailedCall {
            id: self.id.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned),
            at_ms: clock::now_ms(),
            caller: caller.to_owned(),
            caller_link_name: caller_link_name.to_owned(),
            caller_name: name_of(table, caller),
            target: public_key.to_string(),
            target_name: name_of(table, public_key),
            contract_id: contract_id.to_string(),
            link_name: link_name.to_string(),
            operation: cut(self.operation, OPERATION_BYTES_MAX).to_owned(),
            kind: match outcome {
                Outcome::Refused => Kind::Refused,
                Outcome::TimedOut => Kind::TimedOut,
                Outcome::Failed | Outcome::Answered => Kind::Failed,
            },
            reason: cut(&self.error.to_string(), REASON_BYTES_MAX).to_owned(),
        }
    }
}

/// Returns the name of an actor or a provider; empty if nobody knows one.
pub fn name_of(table: &Table, id: &str) -> String {
    match builtin::by_key(id) {
        Some(known) => known.reference(),
        None => table.claims(id).map(|claims| claims.name.clone()).unwrap_or_default(),
    }
}

impl Kept {
    /// Keeps a failure. Returns how many before it were not told in the logs, if this one is to be.
    fn keep(&mut self, key: EdgeKey, call: Arc<FailedCall>, now: Instant) -> Option<u64> {
        let of_edge = self.edges.entry(key).or_insert_with(|| OfEdge {
            calls: VecDeque::new(),
            lines: Lines { began: now, written: 0, left_out: 0 },
        });
        if of_edge.calls.len() >= EDGE_MAX {
            of_edge.calls.pop_front();
            self.count -= 1;
        }
        of_edge.calls.push_back(call);
        let line = of_edge.lines.next(now);
        self.count += 1;
        if self.count > KEPT_MAX {
            self.forget_one();
        }
        line
    }

    /// Forgets the oldest failure of the edge that has most.
    fn forget_one(&mut self) {
        let most = self.edges.iter().max_by_key(|(_, of_edge)| of_edge.calls.len());
        let Some(key) = most.map(|(key, _)| key.clone()) else { return };
        if let Some(of_edge) = self.edges.get_mut(&key)
            && of_edge.calls.pop_front().is_some()
        {
            self.count -= 1;
            if of_edge.calls.is_empty() {
                self.edges.remove(&key);
            }
        }
    }
}

impl Lines {
    /// Returns how many were left out before, if there is room for one more.
    fn next(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.began) >= LINES_TIME {
            (self.began, self.written) = (now, 0);
        }
        if self.written >= LINES_MAX {
            self.left_out += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Meter;

    const ROOM: usize = 1 << 20;

    fn failures() -> (Failures, Journal, Meter) {
        let journal = Journal::new("N");
        (Failures::new(journal.clone()), journal, Meter::default())
    }

    fn error(reason: &str) -> CallError {
        CallError::Callee(reason.into())
    }

    fn record(failures: &Failures, edge: &Edge, reason: &str, id: Option<&str>) {
        let failed = Failed { edge, operation: "X.Do", error: &error(reason), id };
        failures.record(&failed, &Table::default());
    }

    #[tokio::test]
    async fn a_failure_is_found_by_its_caller_its_target_and_its_id() {
        let (failures, journal, meter) = failures();
        let edge = meter.caller("MA", "").to(&Entity::new("VA", "default", "acme:x"));
        record(&failures, &edge, "no such key", Some("ab-1"));
        record(&failures, &edge, &"x".repeat(REASON_BYTES_MAX * 2), None);
        let found = |ask: Ask| failures.find(&ask, ROOM);
        let of = |entity: &str| Ask { entity: Some(entity.into()), ..Ask::default() };
        assert_eq!(
            [found(of("MA")).len(), found(of("VA")).len(), found(of("MB")).len()],
            [2, 2, 0]
        );
        let one = found(Ask { id: Some("ab-".into()), ..Ask::default() });
        let [one] = one.as_slice() else { panic!("{one:?}") };
        assert_eq!(
            (&*one.reason, &*one.operation, one.kind),
            ("no such key", "X.Do", Kind::Failed)
        );
        assert!(found(Ask::default()).iter().all(|call| call.reason.len() <= REASON_BYTES_MAX));
        assert_eq!(found(Ask { limit: Some(1), ..Ask::default() }).len(), 1);
        assert!(failures.find(&Ask::default(), 10).is_empty(), "no room");
        for entity in ["MA", "VA"] {
            let lines = journal.tail(entity, 10).lines;
            assert!(lines[0].text.contains("(ab-1): no such key"), "{entity}: {lines:?}");
        }
    }

    #[tokio::test]
    async fn one_caller_that_always_fails_does_not_push_out_the_others() {
        let (failures, journal, meter) = failures();
        let rare = meter.caller("MRARE", "").to(&Entity::new("VA", "default", "acme:x"));
        record(&failures, &rare, "once", None);
        for number in 0..10 {
            let target = Entity::new("VA", "default", &format!("acme:{number}"));
            let edge = meter.caller("MLOUD", "").to(&target);
            (0..EDGE_MAX + 20).for_each(|_| record(&failures, &edge, "again", None));
        }
        assert_eq!(failures.find(&Ask::default(), usize::MAX).len(), KEPT_MAX);
        let ask = Ask { entity: Some("MRARE".into()), ..Ask::default() };
        assert_eq!(failures.find(&ask, ROOM).len(), 1);
        let lines = journal.tail("MLOUD", 1000).lines.len();
        assert!(lines <= 10 * (LINES_MAX as usize) * 10, "{lines} lines");
    }

    #[test]
    fn lines_are_a_few_a_second_and_say_how_many_were_left_out() {
        let began = Instant::now();
        let mut lines = Lines { began, written: 0, left_out: 0 };
        let first: Vec<_> = (0..LINES_MAX + 3).map(|_| lines.next(began)).collect();
        assert_eq!(first.iter().filter(|line| line.is_some()).count(), LINES_MAX as usize);
        assert_eq!(lines.next(began + LINES_TIME), Some(3));
        assert_eq!(lines.next(began + LINES_TIME), Some(0));
    }
}

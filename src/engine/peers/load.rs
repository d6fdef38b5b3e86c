//! How much a host has to do for this one, and what one more call there costs: by how long its
//! answers take, by the calls that are on their way, and by those of its target that failed in a
//! row.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use lattice_protocol::clock;

/// From so many failures in a row on they count: fewer may be errors that any host would answer.
const FAILURES_MIN: u32 = 3;
/// Each failure doubles the cost, up to so many.
const FAILURES_MAX: u32 = 10;
/// The answers of a target that fails count as if they took so many µs at least: it may fail sooner
/// than any other answers, or never have answered.
const FAILING_US: u64 = 1000;
/// Targets of one host whose failures are counted, and how long after the last one.
const FAILING_TARGETS_MAX: usize = 64;
const FAILING_FOR: Duration = Duration::from_secs(1 << (FAILURES_MAX / 2));

/// How much a host has to do for this one. Concurrent updates may swallow each other, which a mean
/// can bear.
#[derive(Debug)]
pub(super) struct Load {
    began: Instant,
    pub in_flight: AtomicUsize,
    /// When a call was last sent to it, and when one of it came; in ms since `began`, from 1.
    pub called_ms: AtomicU64,
    pub calls_ms: AtomicU64,
    /// How long answers take, in µs, smoothed; and when something was last learnt of that, in ms
    /// since `began`.
    latency_us: AtomicU64,
    learnt_ms: AtomicU64,
    failing: Failing,
}

/// The targets whose last call failed.
#[derive(Debug, Default)]
struct Failing {
    /// How many there are: mostly none, and then nobody needs the lock.
    count: AtomicUsize,
    rows: Mutex<HashMap<Arc<str>, Row>>,
}

/// Failures of a target with no success between.
#[derive(Clone, Copy, Debug)]
struct Row {
    failures: u32,
    last: Instant,
}

impl Failing {
    fn note(&self, target: &Arc<str>, now: Instant) {
        let mut rows = self.rows.lock();
        if !rows.contains_key(target) && rows.len() >= FAILING_TARGETS_MAX {
            rows.retain(|_, row| now.saturating_duration_since(row.last) < FAILING_FOR);
            if rows.len() >= FAILING_TARGETS_MAX {
                return;
            }
        }
        let row = rows.entry(Arc::clone(target)).or_insert(Row { failures: 0, last: now });
        *row = Row { failures: row.failures.saturating_add(1), last: now };
        self.count.store(rows.len(), Ordering::Relaxed);
    }

    fn clear(&self, target: &str) {
        if self.count.load(Ordering::Relaxed) > 0 {
            let mut rows = self.rows.lock();
            rows.remove(target);
            self.count.store(rows.len(), Ordering::Relaxed);
        }
    }

    /// Returns by how much a call of a target costs more since those before it failed; nothing if
    /// they did not, or long ago.
    fn factor(&self, target: &str, now: Instant) -> Option<u64> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let row = *self.rows.lock().get(target)?;
        // Nothing is left of it after [`FAILING_FOR`].
        let idle = 1 + now.saturating_duration_since(row.last).as_secs();
        let factor = (1 << row.failures.min(FAILURES_MAX)) / idle.saturating_mul(idle);
        (row.failures >= FAILURES_MIN && factor > 1).then_some(factor)
    }
}

impl Load {
    pub fn new(began: Instant) -> Self {
        let [called_ms, calls_ms, latency_us, learnt_ms] = [0; 4].map(AtomicU64::new);
        let (in_flight, failing) = (AtomicUsize::new(0), Failing::default());
        Self { began, in_flight, called_ms, calls_ms, latency_us, learnt_ms, failing }
    }

    /// Notes that something happens now.
    pub fn note(&self, at_ms: &AtomicU64) {
        at_ms.store(self.age_ms(Instant::now()) + 1, Ordering::Relaxed);
    }

    pub fn is_within(&self, at_ms: &AtomicU64, time: Duration) -> bool {
        let at_ms = at_ms.load(Ordering::Relaxed);
        at_ms > 0 && self.age_ms(Instant::now()) + 1 < at_ms + clock::millis(time)
    }

    /// Notes how long a call of a target took that succeeded.
    pub fn record(&self, target: &str, took: Duration, now: Instant) {
        self.learn(took, now);
        self.failing.clear(target);
    }

    /// Notes that a call of a target failed: with an error, whose time says nothing of answers, or
    /// for want of an answer in this time.
    pub fn record_failure(&self, target: &Arc<str>, waited: Option<Duration>, now: Instant) {
        if let Some(waited) = waited {
            let mean = Duration::from_micros(self.latency_us.load(Ordering::Relaxed));
            self.learn(waited.max(mean), now);
        }
        self.failing.note(target, now);
    }

    fn learn(&self, took: Duration, now: Instant) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let before = self.latency_us.load(Ordering::Relaxed);
        let mean = if before == 0 { took } else { before - before / 8 + took / 8 };
        self.latency_us.store(mean, Ordering::Relaxed);
        self.learnt_ms.store(self.age_ms(now), Ordering::Relaxed);
    }

    /// Returns the cost of one more call of a target: the time of those before it, and much more
    /// where calls of that target fail. What was learnt long ago counts less, so that a host that
    /// was slow once, or where calls failed, is tried again.
    pub fn cost(&self, target: &str, now: Instant) -> u64 {
        let idle_ms = self.age_ms(now).saturating_sub(self.learnt_ms.load(Ordering::Relaxed));
        let latency = self.latency_us.load(Ordering::Relaxed) / (1 + idle_ms / 1000);
        let (latency, factor) = match self.failing.factor(target, now) {
            Some(factor) => (latency.max(FAILING_US), factor),
            None => (latency, 1),
        };
        let in_flight = self.in_flight.load(Ordering::Relaxed) as u64;
        latency.saturating_add(1).saturating_mul(in_flight + 1).saturating_mul(factor)
    }

    fn age_ms(&self, now: Instant) -> u64 {
        clock::millis(now.saturating_duration_since(self.began))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_costs_the_time_of_those_before_it_and_old_times_count_less() {
        let began = Instant::now();
        for (answers_us, in_flight, idle_s, cost) in [
            (&[][..], 0, 0, 1),
            (&[], 3, 0, 4),
            (&[800], 0, 0, 801),
            (&[800], 1, 0, 1602),
            (&[800, 1600], 0, 0, 901),
            (&[800], 0, 1, 401),
            (&[800], 0, 799, 2),
            (&[0], 0, 0, 2),
            (&[u64::MAX], 9, 0, u64::MAX),
        ] {
            let load = Load::new(began);
            for answer in answers_us {
                load.record("M", Duration::from_micros(*answer), began);
            }
            load.in_flight.store(in_flight, Ordering::Relaxed);
            let now = began + Duration::from_secs(idle_s);
            let case = format!("{answers_us:?}, {in_flight} on their way, {idle_s}");
            assert_eq!(load.cost("M", now), cost, "{case}");
        }
    }

    #[test]
    fn failures_in_a_row_make_a_host_dearer_for_their_target_until_a_success_or_for_a_while() {
        let began = Instant::now();
        // The time in µs of an answer of the host, if there was one, and how often it failed after
        // that; the time of one of the healthy host, and the calls on their way there; how long ago
        // that was; whether the next call goes to the host that failed.
        for (answer_us, failures, (healthy_us, in_flight), idle_s, is_chosen) in [
            // Errors that any host would answer.
            (Some(80), 1, (800, 0), 0, true),
            (Some(80), 2, (800, 0), 0, true),
            (None, 2, (800, 0), 0, true),
            (Some(80), 3, (800, 0), 0, false),
            // It is the only one with nothing to do.
            (Some(80), 3, (800, 1), 0, false),
            (Some(80), 9, (800, 50), 0, false),
            // The healthy one is slow.
            (None, 4, (11_000, 0), 0, false),
            (None, 10, (500_000, 1), 0, false),
            (Some(80), u32::from(u8::MAX), (500_000, 1), 0, false),
            // It is tried again.
            (Some(80), 3, (800, 0), 9, true),
            (Some(80), 10, (800, 0), 9, false),
            (Some(80), 10, (800, 0), 60, true),
        ] {
            let (failing, healthy) = (Load::new(began), Load::new(began));
            if let Some(answer) = answer_us {
                failing.record("M", Duration::from_micros(answer), began);
            }
            for _ in 0..failures {
                failing.record_failure(&"M".into(), None, began);
            }
            let now = began + Duration::from_secs(idle_s);
            healthy.record("M", Duration::from_micros(healthy_us), now);
            healthy.in_flight.store(in_flight, Ordering::Relaxed);
            let costs = (failing.cost("M", now), healthy.cost("M", now));
            let case = format!("{answer_us:?}, {failures} failed, {idle_s} s ago: {costs:?}");
            assert_eq!(costs.0 < costs.1, is_chosen, "{case}");
            let of_another = failing.cost("N", now);
            assert!(of_another <= answer_us.map_or(1, |answer| answer + 1), "{of_another}: {case}");
        }
    }

    #[test]
    fn a_call_that_succeeds_ends_the_row_of_failures_and_one_without_an_answer_has_its_time() {
        let (began, target) = (Instant::now(), Arc::from("M"));
        let load = Load::new(began);
        for _ in 0..5 {
            load.record_failure(&target, None, began);
            load.record_failure(&target, None, began);
            load.record("M", Duration::from_micros(80), began);
            assert_eq!(load.cost("M", began), 81);
        }
        load.record_failure(&target, Some(Duration::from_secs(2)), began);
        assert_eq!(load.cost("N", began), 250_071);
        load.record_failure(&target, Some(Duration::from_micros(1)), began);
        assert!(load.cost("N", began) > 250_000, "it is no faster for that");
    }

    #[test]
    fn only_so_many_failing_targets_are_kept_in_mind() {
        let (began, load) = (Instant::now(), Load::new(Instant::now()));
        let fail = |target: &str, now| {
            for _ in 0..FAILURES_MIN {
                load.record_failure(&target.into(), None, now);
            }
            load.cost(target, now) > FAILING_US
        };
        for number in 0..FAILING_TARGETS_MAX {
            assert!(fail(&number.to_string(), began));
        }
        assert!(!fail("M", began));
        load.record("7", Duration::from_micros(1), began);
        assert!(fail("M", began) && !fail("N", began));
        assert!(fail("N", began + FAILING_FOR), "those of long ago make room");
    }
}

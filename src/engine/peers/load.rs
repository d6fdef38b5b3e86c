//! How much a host has to do for this one, and what one more call there costs: by how long its
//! answers take, by the calls that are on their way, and by those that failed in a row.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use lattice_protocol::clock;

/// From so many failures in a row on they count: fewer may be errors that any host would answer.
const FAILURES_MIN: u32 = 3;
/// Each failure doubles the cost, up to so many.
const FAILURES_MAX: u32 = 10;
/// The answers of a host that fails count as if they took so many µs at least: it may fail sooner
/// than any other answers, or never have answered.
const FAILING_US: u64 = 1000;

/// How much a host has to do for this one. Concurrent updates may swallow each other, which a mean
/// can bear.
#[derive(Debug)]
pub(super) struct Load {
    began: Instant,
    pub in_flight: AtomicUsize,
    /// When a call was last sent to it, and when one of it came; in ms since `began`, from 1.
    pub called_ms: AtomicU64,
    pub calls_ms: AtomicU64,
    /// How long answers take, in µs, smoothed; and when something was last learnt of its calls, in
    /// ms since `began`.
    latency_us: AtomicU64,
    learnt_ms: AtomicU64,
    /// Calls that failed since the last one that did not.
    failures: AtomicU32,
}

impl Load {
    pub fn new(began: Instant) -> Self {
        let (in_flight, failures) = (AtomicUsize::new(0), AtomicU32::new(0));
        let [called_ms, calls_ms, latency_us, learnt_ms] = [0; 4].map(AtomicU64::new);
        Self { began, in_flight, called_ms, calls_ms, latency_us, learnt_ms, failures }
    }

    /// Notes that something happens now.
    pub fn note(&self, at_ms: &AtomicU64) {
        at_ms.store(self.age_ms(Instant::now()) + 1, Ordering::Relaxed);
    }

    pub fn is_within(&self, at_ms: &AtomicU64, time: Duration) -> bool {
        let at_ms = at_ms.load(Ordering::Relaxed);
        at_ms > 0 && self.age_ms(Instant::now()) + 1 < at_ms + clock::millis(time)
    }

    /// Notes how long a call took that succeeded.
    pub fn record(&self, took: Duration, now: Instant) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let before = self.latency_us.load(Ordering::Relaxed);
        let mean = if before == 0 { took } else { before - before / 8 + took / 8 };
        self.latency_us.store(mean, Ordering::Relaxed);
        self.learnt_ms.store(self.age_ms(now), Ordering::Relaxed);
        self.failures.store(0, Ordering::Relaxed);
    }

    /// Notes that a call failed. How long that took says nothing of those that do not.
    pub fn record_failure(&self, now: Instant) {
        let failures = self.failures.load(Ordering::Relaxed).saturating_add(1);
        self.failures.store(failures, Ordering::Relaxed);
        if failures >= FAILURES_MIN {
            self.learnt_ms.store(self.age_ms(now), Ordering::Relaxed);
        }
    }

    /// Returns the cost of one more call: the time of those before it, and much more where calls
    /// fail. What was learnt long ago counts less, so that a host that was slow once, or where
    /// calls failed, is tried again.
    pub fn cost(&self, now: Instant) -> u64 {
        let idle_ms = self.age_ms(now).saturating_sub(self.learnt_ms.load(Ordering::Relaxed));
        let idle = 1 + idle_ms / 1000;
        let latency = self.latency_us.load(Ordering::Relaxed);
        let (latency, factor) = match self.failures.load(Ordering::Relaxed) {
            failures if failures < FAILURES_MIN => (latency, 1),
            failures => (latency.max(FAILING_US), (1_u64 << failures.min(FAILURES_MAX)) / idle),
        };
        let in_flight = self.in_flight.load(Ordering::Relaxed) as u64;
        let cost = (latency / idle).saturating_add(1).saturating_mul(in_flight + 1);
        cost.saturating_mul(factor.max(1))
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
                load.record(Duration::from_micros(*answer), began);
            }
            load.in_flight.store(in_flight, Ordering::Relaxed);
            let now = began + Duration::from_secs(idle_s);
            assert_eq!(load.cost(now), cost, "{answers_us:?}, {in_flight} on their way, {idle_s}");
        }
    }

    #[test]
    fn failures_in_a_row_make_a_host_dearer_until_one_call_succeeds_or_time_has_passed() {
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
                failing.record(Duration::from_micros(answer), began);
            }
            for _ in 0..failures {
                failing.record_failure(began);
            }
            let now = began + Duration::from_secs(idle_s);
            healthy.record(Duration::from_micros(healthy_us), now);
            healthy.in_flight.store(in_flight, Ordering::Relaxed);
            let costs = (failing.cost(now), healthy.cost(now));
            let case = format!("{answer_us:?}, {failures} failed, {idle_s} s ago: {costs:?}");
            assert_eq!(costs.0 < costs.1, is_chosen, "{case}");
        }
    }

    #[test]
    fn a_call_that_succeeds_ends_the_row_of_failures() {
        let began = Instant::now();
        let load = Load::new(began);
        for _ in 0..5 {
            load.record_failure(began);
            load.record_failure(began);
            load.record(Duration::from_micros(80), began);
            assert_eq!(load.cost(began), 81);
        }
    }
}

//! A newer revision of an actor that takes a share of its calls, beside the one before it.
//!
//! Both run under the same key, on the same links and within the same limits. What they do is
//! counted apart, so that somebody can compare them and decide.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;

use super::artifact::Artifact;
use crate::{
    meter::Outcome,
    rpc::{call::CallError, exchange::Exchange},
};
use lattice_protocol::{
    contracts::httpserver,
    control::types::{Trial as Told, VersionCounts as ToldCounts},
    meter::histogram::Buckets,
};

/// The whole of the calls, in percent.
const WHOLE: u64 = 100;

/// The calls of both revisions since the trial began.
#[derive(Default)]
pub struct Counts {
    stable: VersionCounts,
    newer: VersionCounts,
}

#[derive(Default)]
struct VersionCounts {
    failed: AtomicU64,
    latency: Buckets,
}

/// A trial that runs.
pub struct Trial {
    pub artifact: Arc<Artifact>,
    /// Percent of the calls that it takes, 1 to 100.
    share: u8,
    turn: AtomicU32,
    counts: Arc<Counts>,
}

/// Which revision a call runs, with what counts it.
pub struct Version {
    counts: Arc<Counts>,
    is_newer: bool,
}

impl Trial {
    pub fn new(artifact: Arc<Artifact>, share: u8, counts: Arc<Counts>) -> Self {
        Self { artifact, share, turn: AtomicU32::new(0), counts }
    }

    /// Returns the revision of the next call.
    pub fn next(&self) -> Version {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        Version { counts: Arc::clone(&self.counts), is_newer: is_turn_of_newer(turn, self.share) }
    }
}

/// Whether the newer revision takes the call with this number: as evenly as the share allows.
fn is_turn_of_newer(number: u32, share: u8) -> bool {
    let share = u64::from(share);
    (u64::from(number) * share) % WHOLE < share
}

impl Version {
    pub fn is_newer(&self) -> bool {
        self.is_newer
    }

    /// Counts a call that ended.
    pub fn count(&self, took: Duration, failed: bool) {
        let counts = if self.is_newer { &self.counts.newer } else { &self.counts.stable };
        counts.latency.count(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        if failed {
            counts.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Says whether a call of `target` failed; nothing of one that was refused before it ran, which
/// says nothing about the revision. An answer with a status of `5xx` is a failure as well, be it
/// the result or given through the exchange.
pub fn has_failed(
    operation: &str,
    result: &Result<Bytes, CallError>,
    exchange: Option<&Exchange>,
    target: &str,
) -> Option<bool> {
    match (Outcome::of(result, target), result) {
        (Outcome::Refused, _) => None,
        (Outcome::Answered, Ok(answer)) => {
            let given = exchange.and_then(Exchange::status).map(u64::from);
            let status = given.or_else(|| status_of(operation, answer));
            Some(status.is_some_and(|status| status >= 500))
        }
        _ => Some(true),
    }
}

/// Returns the status of an answer that the result of a call has.
fn status_of(operation: &str, answer: &Bytes) -> Option<u64> {
    if operation != httpserver::HANDLE_REQUEST {
        return None;
    }
    let answer = httpserver::msgpack(answer.clone()).ok()?;
    Some(httpserver::HttpResponse::decode(&answer).ok()?.status_code)
}

/// A trial as readers see it. Its numbers are read when somebody asks.
#[derive(Clone)]
pub struct TrialView {
    /// The reference and the revision of the newer one.
    pub reference: String,
    pub revision: i32,
    pub share: u8,
    pub counts: Arc<Counts>,
}

impl TrialView {
    /// Returns it as inventories tell it, beside the revision that was there before.
    pub fn told(&self, stable_reference: &str, stable_revision: i32) -> Told {
        let told = |counts: &VersionCounts| ToldCounts {
            failed: counts.failed.load(Ordering::Relaxed),
            latency: counts.latency.read(),
        };
        Told {
            stable_ref: stable_reference.to_owned(),
            stable_revision,
            share: self.share,
            stable: told(&self.counts.stable),
            newer: told(&self.counts.newer),
        }
    }
}

impl PartialEq for TrialView {
    fn eq(&self, other: &Self) -> bool {
        self.reference == other.reference
            && self.share == other.share
            && Arc::ptr_eq(&self.counts, &other.counts)
    }
}

impl Eq for TrialView {}

impl std::fmt::Debug for TrialView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TrialView({} beside, {} %)", self.reference, self.share)
    }
}

#[cfg(test)]
mod tests {
    use hyper::{
        Response,
        http::{HeaderMap, StatusCode},
    };
    use lattice_protocol::contracts::{self, httpclient::HttpResponse};

    use super::*;
    use crate::rpc::exchange::whole;

    #[test]
    fn a_share_is_taken_evenly() {
        for share in [1, 7, 10, 33, 50, 99, 100] {
            let taken = |from: u32, to: u32| {
                (from..to).filter(|number| is_turn_of_newer(*number, share)).count()
            };
            assert_eq!(taken(0, 100), usize::from(share));
            assert_eq!(taken(1000, 1100), usize::from(share));
            let least = usize::from(share) / 2;
            assert!((least..=least + 1).contains(&taken(0, 50)), "{share}: {}", taken(0, 50));
        }
    }

    #[test]
    fn failures_are_those_of_the_revision() {
        let counts = Arc::new(Counts::default());
        for (is_newer, failed) in [(true, true), (true, false), (false, false)] {
            let version = Version { counts: Arc::clone(&counts), is_newer };
            version.count(Duration::from_millis(1), failed);
        }
        let read = |counts: &VersionCounts| {
            (counts.failed.load(Ordering::Relaxed), counts.latency.read().count())
        };
        assert_eq!((read(&counts.newer), read(&counts.stable)), ((1, 2), (0, 1)));
    }

    #[test]
    fn an_answer_of_5xx_is_a_failure_in_the_result_and_beside_it() {
        let trap = CallError::Trap { actor_id: "M".into(), reason: "r".into() };
        let answer = |status: u16| {
            let status = StatusCode::from_u16(status).unwrap();
            let response = HttpResponse::of(status, &HeaderMap::new(), Bytes::new());
            contracts::encode(&response)
        };
        let given = |status: u16| {
            let (exchange, answer) = Exchange::new(None);
            exchange.answer(Response::builder().status(status).body(whole(Bytes::new())).unwrap());
            drop(answer);
            Some(exchange)
        };
        let handle = httpserver::HANDLE_REQUEST;
        for (operation, result, exchange, expected) in [
            ("op", Err(trap), None, Some(true)),
            ("op", Err(CallError::TooDeep), None, None),
            ("op", Ok(Bytes::new()), None, Some(false)),
            ("op", Ok(answer(500)), None, Some(false)),
            (handle, Ok(answer(500)), None, Some(true)),
            (handle, Ok(answer(499)), None, Some(false)),
            (handle, Ok(answer(503)), Some(Exchange::new(None).0), Some(true)),
            (handle, Ok(Bytes::new()), given(200), Some(false)),
            (handle, Ok(Bytes::new()), given(502), Some(true)),
            (handle, Err(CallError::Callee("broke off".into())), given(200), Some(true)),
        ] {
            let failed = has_failed(operation, &result, exchange.as_deref(), "M");
            assert_eq!(failed, expected, "{operation} {result:?}");
        }
    }
}

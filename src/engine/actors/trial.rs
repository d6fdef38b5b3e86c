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
use crate::{meter::Outcome, rpc::call::CallError};
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
    /// Percent of the calls that it takes, 1 to 99.
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

    /// Counts a call. One that was refused before it ran says nothing about the revision; an answer
    /// that says `5xx` is a failure as well.
    pub fn count(
        &self,
        operation: &str,
        took: Duration,
        result: &Result<Bytes, CallError>,
        target: &str,
    ) {
        let failed = match Outcome::of(result, target) {
            Outcome::Refused => return,
            Outcome::Failed | Outcome::TimedOut => true,
            Outcome::Answered => is_server_error(operation, result),
        };
        let counts = if self.is_newer { &self.counts.newer } else { &self.counts.stable };
        counts.latency.count(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        if failed {
            counts.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn is_server_error(operation: &str, result: &Result<Bytes, CallError>) -> bool {
    let (httpserver::HANDLE_REQUEST, Ok(answer)) = (operation, result) else { return false };
    let Ok(answer) = httpserver::msgpack(answer.clone()) else { return false };
    httpserver::HttpResponse::decode(&answer).is_ok_and(|answer| answer.status_code >= 500)
}

/// A trial as readers see it. Its numbers are read when somebody asks.
#[derive(Clone)]
pub struct TrialView {
    pub stable_reference: String,
    pub stable_revision: i32,
    pub share: u8,
    pub counts: Arc<Counts>,
}

impl TrialView {
    /// Returns it as inventories tell it.
    pub fn told(&self) -> Told {
        let told = |counts: &VersionCounts| ToldCounts {
            failed: counts.failed.load(Ordering::Relaxed),
            latency: counts.latency.read(),
        };
        Told {
            stable_ref: self.stable_reference.clone(),
            stable_revision: self.stable_revision,
            share: self.share,
            stable: told(&self.counts.stable),
            newer: told(&self.counts.newer),
        }
    }
}

impl PartialEq for TrialView {
    fn eq(&self, other: &Self) -> bool {
        self.stable_reference == other.stable_reference
            && self.share == other.share
            && Arc::ptr_eq(&self.counts, &other.counts)
    }
}

impl Eq for TrialView {}

impl std::fmt::Debug for TrialView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TrialView({} beside, {} %)", self.stable_reference, self.share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_taken_evenly() {
        for share in [1, 7, 10, 33, 50, 99] {
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
        let version = Version { counts: Arc::clone(&counts), is_newer: true };
        let took = Duration::from_millis(1);
        let trap = CallError::Trap { actor_id: "M".into(), reason: "r".into() };
        version.count("op", took, &Err(trap), "M");
        version.count("op", took, &Ok(Bytes::new()), "M");
        version.count("op", took, &Err(CallError::TooDeep), "M");
        let read = counts.newer.latency.read();
        assert_eq!((counts.newer.failed.load(Ordering::Relaxed), read.count()), (1, 2));
    }
}

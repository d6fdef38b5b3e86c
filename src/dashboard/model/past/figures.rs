//! Series of the last day, of the minutes that hosts told: one point for each, and a gap where no
//! host told one.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::Past;
use crate::model::rates::{Of, percentile_us, rounded};
use lattice_base::store::history::ArchiveError;
use lattice_client::history::{Kept, Range};
use lattice_protocol::{
    history::{
        Kind, Minute,
        figures::{MINUTE_MS, Row},
    },
    meter::Tally,
};

/// How long a series is not read again; hosts tell a minute once.
const FRESH: Duration = Duration::from_secs(20);
/// Series that are kept for that time.
const KEPT: usize = 64;
/// How long after a minute hosts may tell it, in milliseconds.
const TOLD_LATER_MS: u64 = 5_000;

/// A history with a point for each minute, as lists of the same length, oldest first. Null is a
/// gap: no host told that minute, or there was no call to take the time of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct PastSeries {
    /// From one point to the next.
    pub step_ms: u64,
    /// When the time of the last point ended, in milliseconds since 1970.
    pub end_ms: u64,
    /// Calls per second.
    pub calls: Vec<Option<f64>>,
    pub errors: Vec<Option<f64>>,
    pub p50_us: Vec<Option<f64>>,
    pub p99_us: Vec<Option<f64>>,
}

type Key = (Of, u64);

/// Series that were read a moment ago.
#[derive(Default)]
pub(super) struct Cache(Mutex<HashMap<Key, (Instant, Arc<PastSeries>)>>);

/// The counts of a minute.
#[derive(Clone, Debug, Default)]
struct Sum {
    calls_per_s: f64,
    errors_per_s: f64,
    tally: Tally,
}

impl Sum {
    fn add(&mut self, tally: &Tally, seconds: f64) {
        self.calls_per_s += tally.calls as f64 / seconds;
        self.errors_per_s += tally.errors() as f64 / seconds;
        self.tally.add(tally);
    }
}

/// The minutes of one subject, as they are read.
#[derive(Debug, Default)]
struct Minutes {
    of: BTreeMap<u64, Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    served: Sum,
    /// The calls of targets as their callers count them, for those that nobody serves for us.
    called: HashMap<(String, String), Sum>,
    /// Targets that somebody serves.
    known: HashSet<(String, String)>,
}

impl Minutes {
    fn take(&mut self, of: &Of, host_id: &str, minute: &Minute) {
        if matches!(of, Of::Host(id) if id != host_id) {
            return;
        }
        let counted = self.of.entry(minute.end_ms).or_default();
        let seconds = minute.counted_ms.max(1) as f64 / 1000.0;
        let is_wanted = |row: &&Row| match of {
            Of::Target(id, link_name) => row.id == *id && row.link_name == *link_name,
            Of::Lattice | Of::Host(_) => true,
        };
        for row in minute.served.iter().filter(is_wanted) {
            counted.served.add(&row.tally, seconds);
            counted.known.insert((row.id.clone(), row.link_name.clone()));
        }
        // A call that a host makes elsewhere is no work of its own.
        if matches!(of, Of::Host(_)) {
            return;
        }
        for row in minute.called.iter().filter(is_wanted) {
            let key = (row.id.clone(), row.link_name.clone());
            counted.called.entry(key).or_default().add(&row.tally, seconds);
        }
    }

    fn series(mut self, range: Range) -> PastSeries {
        let first = range.since_ms / MINUTE_MS + 1;
        let mut last = range.until_ms / MINUTE_MS;
        // Hosts may not have told the last minute yet.
        let is_told = self.of.contains_key(&(last * MINUTE_MS));
        if !is_told && range.until_ms % MINUTE_MS < TOLD_LATER_MS {
            last -= 1;
        }
        let end_ms = last * MINUTE_MS;
        let mut series = PastSeries { step_ms: MINUTE_MS, end_ms, ..PastSeries::default() };
        for minute in first..=last {
            let sum = self.of.remove(&(minute * MINUTE_MS)).map(Counted::sum);
            series.calls.push(sum.as_ref().map(|sum| rounded(sum.calls_per_s)));
            series.errors.push(sum.as_ref().map(|sum| rounded(sum.errors_per_s)));
            let time = |share| percentile_us(&sum.as_ref()?.tally, share);
            series.p50_us.push(time(0.5));
            series.p99_us.push(time(0.99));
        }
        series
    }
}

impl Counted {
    fn sum(self) -> Sum {
        let mut sum = self.served;
        for (target, called) in self.called {
            if !self.known.contains(&target) {
                sum.calls_per_s += called.calls_per_s;
                sum.errors_per_s += called.errors_per_s;
                sum.tally.add(&called.tally);
            }
        }
        sum
    }
}

impl Past {
    /// Returns the series of a subject over the last so many milliseconds.
    pub async fn series(&self, of: &Of, span_ms: u64) -> Result<Arc<PastSeries>, ArchiveError> {
        let key = (of.clone(), span_ms);
        {
            let mut cached = self.0.figures.0.lock();
            cached.retain(|_, (read_at, _)| read_at.elapsed() < FRESH);
            if let Some((_, series)) = cached.get(&key) {
                return Ok(Arc::clone(series));
            }
        }
        let range = Range::last(span_ms);
        let host = match of {
            Of::Host(id) => Some(id.as_str()),
            Of::Lattice | Of::Target(..) => None,
        };
        let mut minutes = Minutes::default();
        let read = self.0.history.fold(Kind::Figures, host, range, |kept: Kept<Minute>| {
            minutes.take(of, &kept.host_id, &kept.item);
        });
        read.await?;
        let series = Arc::new(minutes.series(range));
        let mut cached = self.0.figures.0.lock();
        if cached.len() < KEPT {
            cached.insert(key, (Instant::now(), Arc::clone(&series)));
        }
        Ok(series)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, calls: u64, failed: u64) -> Row {
        let tally = Tally { calls, failed, ..Tally::default() };
        Row { id: id.into(), link_name: String::new(), tally }
    }

    fn minute(number: u64, served: Vec<Row>, called: Vec<Row>) -> Minute {
        Minute { end_ms: number * MINUTE_MS, counted_ms: MINUTE_MS, served, called }
    }

    fn series(of: &Of, told: &[(&str, Minute)]) -> PastSeries {
        let mut minutes = Minutes::default();
        told.iter().for_each(|(host, minute)| minutes.take(of, host, minute));
        let range = Range { since_ms: 10 * MINUTE_MS, until_ms: 14 * MINUTE_MS + 1000 };
        minutes.series(range)
    }

    #[test]
    fn a_minute_that_nobody_told_is_a_gap_and_one_without_calls_is_none() {
        let target = Of::Target("MA".into(), String::new());
        let told = [
            ("N1", minute(11, vec![row("MA", 60, 6)], vec![])),
            ("N2", minute(11, vec![row("MA", 60, 0), row("MB", 600, 0)], vec![row("MA", 60, 0)])),
            ("N1", minute(13, vec![], vec![row("V", 120, 0)])),
        ];
        let of_target = series(&target, &told);
        // The last minute may still be told.
        assert_eq!(of_target.end_ms, 13 * MINUTE_MS);
        assert_eq!(of_target.calls, [Some(2.0), None, Some(0.0)]);
        assert_eq!(of_target.errors, [Some(0.1), None, Some(0.0)]);
        assert_eq!(of_target.p50_us, [None, None, None]);
        let of_lattice = series(&Of::Lattice, &told);
        // A call that nobody serves for us is counted by its callers.
        assert_eq!(of_lattice.calls, [Some(12.0), None, Some(2.0)]);
        let of_host = series(&Of::Host("N1".into()), &told);
        assert_eq!(of_host.calls, [Some(1.0), None, Some(0.0)]);
    }

    #[test]
    fn a_host_that_began_within_a_minute_counts_for_its_part() {
        let half =
            Minute { counted_ms: MINUTE_MS / 2, ..minute(11, vec![row("MA", 30, 0)], vec![]) };
        assert_eq!(series(&Of::Lattice, &[("N1", half)]).calls, [Some(1.0), None, None]);
    }
}

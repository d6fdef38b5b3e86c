//! Rates of calls, now and in the last minutes.
//!
//! Hosts count; two looks at each give rates ([`lattice_client::rates`]). A [`Rate`] is of the time
//! between the last two looks. The [`History`] has a place for every [`STEP`]; a rate of a longer
//! time fills all places of that time.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::Serialize;
use utoipa::ToSchema;

use lattice_client::rates::Row;
use lattice_protocol::meter::Tally;

/// The time that one point stands for, in milliseconds.
pub const STEP_MS: u64 = 2000;
/// Points that are kept: ten minutes.
const POINTS_MAX: usize = 300;
/// Places that one rate may fill; what is longer was not looked at.
const FILL_MAX: u64 = 8;
/// Places of a look that shows as steps beside shorter ones; a chart with one has so many places in
/// each of its points.
const COARSE: u64 = 5;
/// Targets whose history is kept.
const TARGETS_MAX: usize = 2048;

/// How often something is called.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Rate {
    pub calls_per_s: f64,
    pub errors_per_s: f64,
    /// The time that half of the calls did not exceed, in microseconds; missing if there were none.
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    /// Calls that have not ended yet.
    pub in_work: u64,
}

/// Rates, added up as they are read from hosts.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    calls_per_s: f64,
    errors_per_s: f64,
    between: Tally,
    in_work: u64,
}

impl Sum {
    pub fn add(&mut self, row: &Row) {
        self.calls_per_s += row.calls_per_second;
        self.errors_per_s += row.errors_per_second;
        self.between.add(&row.between);
        self.in_work += row.in_work;
    }

    pub fn rate(&self) -> Rate {
        Rate {
            calls_per_s: rounded(self.calls_per_s),
            errors_per_s: rounded(self.errors_per_s),
            p50_us: percentile_us(&self.between, 0.5),
            p99_us: percentile_us(&self.between, 0.99),
            in_work: self.in_work,
        }
    }
}

/// Returns a number with two digits after the point.
pub fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// The time that this share of the calls did not exceed, in microseconds; nothing if there were
/// none.
pub fn percentile_us(tally: &Tally, share: f64) -> Option<f64> {
    tally.took.percentile(share).map(|ns| (ns / 100.0).round() / 10.0)
}

/// The subject of a rate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Of {
    Lattice,
    /// The actors and providers on a host.
    Host(String),
    /// An actor, or a provider under a link name, on all hosts.
    Target(String, String),
}

/// The rates of now.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    pub of: HashMap<Of, Rate>,
    /// Resident memory of hosts, by id.
    pub memory_bytes: HashMap<String, u64>,
}

impl Rates {
    pub fn lattice(&self) -> Rate {
        self.of.get(&Of::Lattice).cloned().unwrap_or_default()
    }

    pub fn host(&self, id: &str) -> Option<Rate> {
        self.of.get(&Of::Host(id.to_owned())).cloned()
    }

    pub fn target(&self, id: &str, link_name: &str) -> Option<Rate> {
        self.of.get(&Of::Target(id.to_owned(), link_name.to_owned())).cloned()
    }

    /// The resident memory of a host's process, in bytes.
    pub fn memory(&self, id: &str) -> Option<u64> {
        self.memory_bytes.get(id).copied()
    }
}

/// A history, as lists of the same length, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Series {
    /// From one point to the next.
    pub step_ms: u64,
    /// When the time of the last point ended, in milliseconds since 1970.
    pub end_ms: u64,
    /// Calls per second.
    pub calls: Vec<f64>,
    pub errors: Vec<f64>,
    pub p50_us: Vec<Option<f64>>,
    pub p99_us: Vec<Option<f64>>,
}

/// One point of a history.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Point {
    pub at_ms: u64,
    pub calls: f64,
    pub errors: f64,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    /// It is of a look that took much longer.
    #[serde(skip)]
    is_coarse: bool,
}

impl Point {
    fn of(rate: &Rate, place: u64, fill: u64) -> Self {
        Self {
            at_ms: (place + 1) * STEP_MS,
            calls: rate.calls_per_s,
            errors: rate.errors_per_s,
            p50_us: rate.p50_us,
            p99_us: rate.p99_us,
            is_coarse: fill >= COARSE,
        }
    }

    fn is_busy(&self) -> bool {
        self.calls > 0.0 || self.p50_us.is_some()
    }
}

/// Points by whose they are.
#[derive(Debug, Default)]
pub struct History {
    of: HashMap<Of, VecDeque<Point>>,
    /// The place of the last point.
    place: u64,
}

impl History {
    /// Takes the rates of a moment in.
    pub fn push(&mut self, rates: &Rates, now_ms: u64) {
        let place = now_ms / STEP_MS;
        if place + FILL_MAX < self.place {
            // The clock was set back.
            self.of.clear();
            self.place = place.saturating_sub(1);
        }
        if place <= self.place {
            return;
        }
        let gap = place - self.place;
        let fill = if gap <= FILL_MAX { gap } else { 1 };
        // Nobody looked for so long that what was before has no connection with it.
        if gap > FILL_MAX {
            self.of.clear();
        }
        self.place = place;
        for (of, rate) in &rates.of {
            let is_quiet = rate.calls_per_s == 0.0 && rate.in_work == 0 && *of != Of::Lattice;
            if !self.of.contains_key(of) && (is_quiet || self.of.len() >= TARGETS_MAX) {
                continue;
            }
            let points = self.of.entry(of.clone()).or_default();
            for place in (place + 1 - fill)..=place {
                points.push_back(Point::of(rate, place, fill));
            }
        }
        // A target without a rate goes on with zeros, until only zeros are left of it.
        let oldest_ms = (place + 1).saturating_sub(POINTS_MAX as u64) * STEP_MS;
        for (of, points) in &mut self.of {
            if !rates.of.contains_key(of) {
                points.extend(
                    ((place + 1 - fill)..=place)
                        .map(|place| Point::of(&Rate::default(), place, fill)),
                );
            }
            while points.front().is_some_and(|point| point.at_ms <= oldest_ms) {
                points.pop_front();
            }
        }
        self.of.retain(|of, points| *of == Of::Lattice || points.iter().any(Point::is_busy));
    }

    pub fn last(&self, of: &Of) -> Option<Point> {
        self.of.get(of)?.back().cloned()
    }

    pub fn series(&self, of: &Of) -> Series {
        let mut series = Series { step_ms: STEP_MS, ..Series::default() };
        let Some(points) = self.of.get(of) else { return series };
        // One chart has one resolution: that of the longest look in it.
        if points.iter().any(|point| point.is_coarse) {
            return coarse(points);
        }
        series.end_ms = points.back().map_or(0, |point| point.at_ms);
        for point in points {
            series.calls.push(point.calls);
            series.errors.push(point.errors);
            series.p50_us.push(point.p50_us);
            series.p99_us.push(point.p99_us);
        }
        series
    }
}

/// Returns a history with one point for [`COARSE`] places each.
fn coarse(points: &VecDeque<Point>) -> Series {
    let step_ms = STEP_MS * COARSE;
    let mut series = Series { step_ms, ..Series::default() };
    let mut bins: BTreeMap<u64, Vec<&Point>> = BTreeMap::new();
    for point in points {
        bins.entry((point.at_ms - 1) / step_ms).or_default().push(point);
    }
    // The last one is not whole yet, unless it is.
    if bins.last_key_value().is_some_and(|(_, bin)| (bin.len() as u64) < COARSE) {
        bins.pop_last();
    }
    for (bin, points) in bins {
        let mean = |of: fn(&Point) -> Option<f64>| {
            let values: Vec<f64> = points.iter().filter_map(|point| of(point)).collect();
            let sum: f64 = values.iter().sum();
            (!values.is_empty()).then(|| rounded(sum / values.len() as f64))
        };
        series.end_ms = (bin + 1) * step_ms;
        series.calls.push(mean(|point| Some(point.calls)).unwrap_or_default());
        series.errors.push(mean(|point| Some(point.errors)).unwrap_or_default());
        series.p50_us.push(mean(|point| point.p50_us));
        series.p99_us.push(mean(|point| point.p99_us));
    }
    series
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(of: &[(&Of, f64)]) -> Rates {
        let rate = |calls: f64| Rate { calls_per_s: calls, ..Rate::default() };
        Rates {
            of: of.iter().map(|(of, calls)| ((*of).clone(), rate(*calls))).collect(),
            ..Rates::default()
        }
    }

    #[test]
    fn each_step_has_a_point_however_long_a_look_took() {
        let mut history = History::default();
        let target = Of::Target("MA".into(), String::new());
        history.push(&rates(&[(&Of::Lattice, 1.0), (&target, 1.0)]), 100 * STEP_MS);
        // The same step again is no second point.
        history.push(&rates(&[(&Of::Lattice, 9.0)]), 100 * STEP_MS + 1);
        history.push(&rates(&[(&Of::Lattice, 3.0)]), 103 * STEP_MS);
        let series = history.series(&Of::Lattice);
        assert_eq!(
            (series.calls.as_slice(), series.end_ms),
            (&[1.0, 3.0, 3.0, 3.0][..], 104 * STEP_MS)
        );
        // A target that stopped goes on with zeros.
        assert_eq!(history.series(&target).calls, [1.0, 0.0, 0.0, 0.0]);
        // After a long time it begins anew.
        history.push(&rates(&[(&Of::Lattice, 5.0)]), 900 * STEP_MS);
        assert_eq!(history.series(&Of::Lattice).calls, [5.0]);
    }

    #[test]
    fn a_chart_has_one_resolution() {
        let mut history = History::default();
        history.push(&rates(&[(&Of::Lattice, 1.0)]), 99 * STEP_MS);
        // A look of ten seconds, and then shorter ones.
        history.push(&rates(&[(&Of::Lattice, 4.0)]), 104 * STEP_MS);
        for place in 105..=111 {
            history.push(&rates(&[(&Of::Lattice, place as f64)]), place * STEP_MS);
        }
        let series = history.series(&Of::Lattice);
        assert_eq!((series.step_ms, series.end_ms), (10_000, 110 * STEP_MS));
        assert_eq!(series.calls, [1.0, 4.0, 107.0]);
    }

    #[test]
    fn a_history_has_a_bound_and_the_quiet_have_none() {
        let mut history = History::default();
        let quiet = Of::Host("N1".into());
        let busy = Of::Host("N2".into());
        history.push(&rates(&[(&quiet, 0.0), (&busy, 1.0)]), STEP_MS);
        for n in 2..(POINTS_MAX as u64 + 10) {
            history.push(&rates(&[(&Of::Lattice, 1.0)]), n * STEP_MS);
        }
        assert_eq!(history.series(&Of::Lattice).calls.len(), POINTS_MAX);
        assert_eq!(history.of.len(), 1, "who is quiet for the whole time is forgotten");
    }
}

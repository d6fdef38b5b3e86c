//! Rates of calls, now and in the last minutes.
//!
//! Hosts count; two looks at each give rates ([`lattice_client::rates`]). A [`Rate`] is of the time
//! between the last two looks. The [`History`] has a place for every [`STEP`]; a rate of a longer
//! time fills all places of that time.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::Serialize;
use utoipa::ToSchema;

use lattice_client::{
    failing::Failing,
    rates::{self, Edge, Row, Totals},
};
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
    /// Calls to it; of a provider those it made as well.
    pub calls_per_s: f64,
    /// Of these calls, those that went wrong in the eyes of their callers.
    pub errors_per_s: f64,
    /// Calls that were made, where hosts count them, and how many of these went wrong.
    pub made_per_s: f64,
    pub made_errors_per_s: f64,
    /// Calls that came from outside: over HTTP, as messages, from tools. Of hosts and the lattice.
    pub requests_per_s: Option<f64>,
    /// Of these requests.
    pub request_errors_per_s: Option<f64>,
    /// The share that ended well, of the requests where there are any, else of the calls; missing
    /// if there were none.
    pub success_percent: Option<f64>,
    /// Answers of an HTTP server.
    pub http: Option<HttpRate>,
    /// The time that half of the calls did not exceed, in microseconds; missing if there were none.
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    /// Calls that have not ended yet.
    pub in_work: u64,
}

/// Answers of an HTTP server a second, by the class of their status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct HttpRate {
    #[serde(rename = "2xx")]
    success: f64,
    #[serde(rename = "3xx")]
    redirection: f64,
    #[serde(rename = "4xx")]
    client_error: f64,
    #[serde(rename = "5xx")]
    server_error: f64,
}

impl From<rates::HttpRate> for HttpRate {
    fn from(rate: rates::HttpRate) -> Self {
        Self {
            success: rounded(rate.success),
            redirection: rounded(rate.redirection),
            client_error: rounded(rate.client_error),
            server_error: rounded(rate.server_error),
        }
    }
}

/// Rates, added up as they are read from hosts.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    calls_per_s: f64,
    errors_per_s: f64,
    made_per_s: f64,
    made_errors_per_s: f64,
    requests_per_s: Option<f64>,
    request_errors_per_s: Option<f64>,
    between: Tally,
    in_work: u64,
    /// How many there were, requests or calls, and how many of them went wrong.
    judged: u64,
    errors: u64,
    http: Option<rates::HttpRate>,
}

impl Sum {
    /// Adds an actor or a provider.
    pub fn add(&mut self, row: &Row) {
        self.calls_per_s += row.calls_per_second;
        self.errors_per_s += row.errors_per_second;
        self.between.add(&row.between);
        self.in_work += row.in_work;
        self.judged += row.calls;
        self.errors += row.errors;
        self.made_per_s += row.made.calls_per_second;
        self.made_errors_per_s += row.made.errors_per_second;
        if let Some(http) = &row.made.http_rate {
            self.http.get_or_insert_default().plus(http);
        }
    }

    /// Adds the calls of one caller to one target, as the calls that they are.
    pub fn add_edge(&mut self, edge: &Edge) {
        self.calls_per_s += edge.calls_per_second;
        self.errors_per_s += edge.errors_per_second;
        self.between.add(&edge.between);
        self.judged += edge.between.calls;
        self.errors += edge.errors();
        if let Some(http) = &edge.http_rate {
            self.http.get_or_insert_default().plus(http);
        }
    }

    /// The sum of everything that runs on a host, or in the lattice.
    pub fn of_all(rows: &[Row], edges: &[Edge]) -> Self {
        let mut sum = Self::default();
        for row in rows {
            sum.between.add(&row.between);
            sum.in_work += row.in_work;
        }
        let totals = Totals::of(rows, edges);
        sum.calls_per_s = totals.calls_per_second;
        sum.errors_per_s = totals.errors_per_second;
        let has_requests = edges.iter().any(|edge| edge.is_entry() && edge.between.calls > 0);
        for edge in edges.iter().filter(|edge| edge.is_entry() || !has_requests) {
            sum.judged += edge.between.calls;
            sum.errors += edge.errors();
        }
        if edges.is_empty() {
            (sum.judged, sum.errors) = (sum.between.calls, sum.between.errors());
        }
        sum.requests_per_s = Some(totals.requests_per_second);
        sum.request_errors_per_s = Some(totals.request_errors_per_second);
        sum
    }

    pub fn rate(&self) -> Rate {
        let well = self.judged.saturating_sub(self.errors) as f64 * 100.0;
        Rate {
            calls_per_s: rounded(self.calls_per_s),
            errors_per_s: rounded(self.errors_per_s),
            made_per_s: rounded(self.made_per_s),
            made_errors_per_s: rounded(self.made_errors_per_s),
            requests_per_s: self.requests_per_s.map(rounded),
            request_errors_per_s: self.request_errors_per_s.map(rounded),
            success_percent: (self.judged > 0).then(|| rounded(well / self.judged as f64)),
            http: self.http.map(HttpRate::from),
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
    /// Calls by caller and target.
    pub edges: Vec<Edge>,
    /// Those that fail now.
    pub failing: Vec<Failing>,
}

/// The ends of a link: actor, provider and link name.
type LinkEnds<'a> = [&'a str; 3];

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

    /// The rates of hosts, by id.
    pub fn hosts(&self) -> HashMap<String, Rate> {
        let hosts = self.of.iter().filter_map(|(of, rate)| match of {
            Of::Host(id) => Some((id.clone(), rate.clone())),
            Of::Lattice | Of::Target(..) => None,
        });
        hosts.collect()
    }

    /// The calls by links, in either direction: an actor calls its provider, and an HTTP server the
    /// actors that are linked to it.
    pub fn links(&self) -> HashMap<LinkEnds<'_>, Sum> {
        let mut links: HashMap<LinkEnds<'_>, Sum> = HashMap::new();
        for edge in &self.edges {
            let ends = match edge.caller.starts_with('V') {
                true => [edge.id.as_str(), &edge.caller, &edge.caller_link_name],
                false => [edge.caller.as_str(), &edge.id, &edge.link_name],
            };
            links.entry(ends).or_default().add_edge(edge);
        }
        links
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
        self.calls > 0.0 || self.errors > 0.0 || self.p50_us.is_some()
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
            let is_still = rate.calls_per_s == 0.0 && rate.errors_per_s == 0.0;
            let is_quiet = is_still && rate.in_work == 0 && *of != Of::Lattice;
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
    use lattice_protocol::control::probe::calls::{HttpClasses, Look, Row as RowOfHost};

    fn rates(of: &[(&Of, f64)]) -> Rates {
        let rate = |calls: f64| Rate { calls_per_s: calls, ..Rate::default() };
        Rates {
            of: of.iter().map(|(of, calls)| ((*of).clone(), rate(*calls))).collect(),
            ..Rates::default()
        }
    }

    #[test]
    fn one_failing_request_is_one_error_whoever_shows_it() {
        // A page whose actor asks a provider that refuses, and answers 500: one request, two calls.
        let tally = |errors: u64| Tally { calls: 4, refused: errors, ..Tally::default() };
        let edge = |caller: &str, id: &str, errors: u64, http: u64| Edge {
            caller: caller.into(),
            id: id.into(),
            calls_per_second: 4.0,
            errors_per_second: 4.0,
            between: tally(errors),
            http: (http > 0).then(|| HttpClasses { server_error: http, ..HttpClasses::default() }),
            ..Edge::default()
        };
        let edges = [edge("VWEB", "MA", 0, 4), edge("MA", "VCLIENT", 4, 0)];
        let looks = [Look {
            served: ["MA", "VWEB", "VCLIENT"]
                .map(|id| RowOfHost { id: id.into(), ..RowOfHost::default() })
                .into(),
            ..Look::default()
        }];
        let rows = rates::between(&HashMap::new(), &looks, &edges);
        let lattice = Sum::of_all(&rows, &edges).rate();
        assert_eq!((lattice.requests_per_s, lattice.request_errors_per_s), (Some(4.0), Some(4.0)));
        assert_eq!((lattice.calls_per_s, lattice.errors_per_s), (8.0, 8.0));
        assert_eq!(lattice.success_percent, Some(0.0));
        for id in ["MA", "VWEB", "VCLIENT"] {
            let mut sum = Sum::default();
            rows.iter().filter(|row| row.id == id).for_each(|row| sum.add(row));
            let rate = sum.rate();
            assert_eq!((rate.calls_per_s, rate.errors_per_s), (4.0, 4.0), "{id}");
            assert_eq!(rate.success_percent, Some(0.0), "{id}");
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

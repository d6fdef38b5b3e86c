//! The results of a run: medians of rounds, ratios to what is bare, percentiles.

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Options, Settings,
    idle::Idle,
    load::{Pace, Round},
    machine::Machine,
    row::{Group, Row, pace_text},
    soak::Soak,
    stage::Stage,
};
use crate::terminal::{Cell, Column, Page, Table, Tone, View};

/// The percentiles of a plot.
const CURVE: [f64; 13] =
    [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.9, 99.95, 99.99];
const NS_PER_US: f64 = 1e3;

/// All that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub machine: Machine,
    pub settings: Settings,
    /// The name of the actor that was called.
    pub actor: String,
    pub actor_bytes: usize,
    pub starts_ms: StartsMs,
    pub rows: Vec<Measured>,
    pub soak: Option<Soak>,
    pub idle: Option<Idle>,
    /// The rows that are missing, and why.
    pub notes: Vec<String>,
}

/// How long starts took, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StartsMs {
    pub host: f64,
    pub actor: f64,
    pub actor_again: f64,
}

/// A row with its numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    pub group: Group,
    pub name: String,
    /// Callers of a closed loop.
    pub concurrency: Option<usize>,
    /// Calls per second that an open loop made.
    pub due_per_second: Option<f64>,
    /// The median of the rounds, in calls per second.
    pub rate: f64,
    /// Of each round.
    pub rates: Vec<f64>,
    pub beside: Option<&'static str>,
    /// The rate divided by that of the bare thing.
    pub ratio: Option<f64>,
    /// Of the calls of all rounds, in microseconds.
    pub latency_us: Latency,
    pub errors: u64,
    pub first_error: Option<String>,
    /// Percentiles and their times in microseconds.
    #[serde(skip)]
    pub curve: Vec<(f64, f64)>,
}

/// How long calls took, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Latency {
    pub fn of(round: &Round) -> Self {
        let at = |quantile| round.latency.value_at_quantile(quantile) as f64 / NS_PER_US;
        let max = round.latency.max() as f64 / NS_PER_US;
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max }
    }
}

/// Makes the numbers of rows that were measured.
pub fn measured(rows: Vec<Row>) -> Vec<Measured> {
    let mut measured: Vec<Measured> = rows.into_iter().map(Measured::of).collect();
    let ratios: Vec<Option<f64>> =
        measured.iter().map(|row| Some(row.rate / row.bare(&measured)?.rate)).collect();
    for (row, ratio) in measured.iter_mut().zip(ratios) {
        row.ratio = ratio.filter(|ratio| ratio.is_finite());
    }
    measured
}

impl Measured {
    fn of(row: Row) -> Self {
        let rates: Vec<f64> = row.rounds.iter().map(Round::rate).collect();
        let mut all = Round::new();
        row.rounds.into_iter().for_each(|round| all.add(round));
        let at = |percentile| all.latency.value_at_percentile(percentile) as f64 / NS_PER_US;
        let (concurrency, due_per_second) = match row.pace {
            Pace::Closed { callers } => (Some(callers), None),
            Pace::Open { rate } => (None, Some(rate)),
        };
        Self {
            group: row.group,
            name: row.name,
            concurrency,
            due_per_second,
            rate: median(rates.clone()),
            rates,
            beside: row.beside,
            ratio: None,
            latency_us: Latency::of(&all),
            errors: all.errors,
            curve: CURVE.map(|percentile| (percentile, at(percentile))).to_vec(),
            first_error: all.first_error,
        }
    }

    /// Finds the bare thing at the same pace.
    fn bare<'a>(&self, rows: &'a [Self]) -> Option<&'a Self> {
        let bare = self.beside?;
        let is_alike = |row: &&Self| {
            row.concurrency == self.concurrency && row.due_per_second == self.due_per_second
        };
        rows.iter().filter(is_alike).find(|row| row.name == bare)
    }

    /// Returns the pace in words.
    pub fn pace(&self) -> String {
        pace_text(match (self.concurrency, self.due_per_second) {
            (Some(callers), _) => Pace::Closed { callers },
            (None, rate) => Pace::Open { rate: rate.unwrap_or_default() },
        })
    }
}

/// The middle one; zero of none.
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or_default()
}

impl Report {
    /// A report without rows.
    pub fn new(options: &Options, stage: &Stage) -> Self {
        let guest = &stage.guests.actor;
        let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1e3;
        let starts = stage.starts;
        Self {
            machine: Machine::here(),
            settings: options.settings,
            actor: guest.name.clone(),
            actor_bytes: guest.wasm.len(),
            starts_ms: StartsMs {
                host: ms(starts.host),
                actor: ms(starts.actor),
                actor_again: ms(starts.actor_again),
            },
            rows: Vec::new(),
            soak: None,
            idle: None,
            notes: Vec::new(),
        }
    }

    /// The rows of a group.
    pub fn of(&self, group: Group) -> impl Iterator<Item = &Measured> {
        self.rows.iter().filter(move |row| row.group == group)
    }

    /// How each row was measured, in words.
    pub fn method(&self) -> String {
        let Settings { rounds, seconds, .. } = self.settings;
        format!(
            "Actor {} of {} kB; {rounds} rounds of {seconds} s, those of all rows in turn; medians",
            self.actor,
            self.actor_bytes / 1000
        )
    }
}

/// The title of a group.
pub fn title(group: Group) -> &'static str {
    match group {
        Group::Parts => "Parts of a call, on one core",
        Group::Guest => "A call of the guest",
        Group::Calls => "Calls of a client that signs each of them",
        Group::Hosts => "Calls from host to host",
        Group::Http => "HTTP to an actor on the host that serves it",
        Group::Open => "At a constant rate, timed from when a call was due",
    }
}

/// A rate with its thousands apart.
pub fn rate_text(rate: f64) -> String {
    let digits = format!("{rate:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A time with three digits at most, in the unit that fits.
pub fn time_text(us: f64) -> String {
    match us {
        us if us < 1.0 => format!("{:.0} ns", us * 1e3),
        us if us < 100.0 => format!("{us:.1} µs"),
        us if us < 1e3 => format!("{us:.0} µs"),
        us if us < 1e5 => format!("{:.1} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// A ratio with two digits, or nothing.
pub fn ratio_text(ratio: Option<f64>) -> String {
    ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default()
}

impl View for Report {
    fn json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_else(|error| json!({ "error": error.to_string() }))
    }

    fn text(&self, page: &mut Page) {
        page.line(self.machine.line());
        page.line(self.method());
        let StartsMs { host, actor, actor_again } = self.starts_ms;
        page.line(format!(
            "Start of a host {host:.0} ms, of an actor {actor:.0} ms, of one whose code runs already {actor_again:.0} ms"
        ));
        for group in Group::ALL {
            let rows: Vec<&Measured> = self.of(group).collect();
            if !rows.is_empty() {
                page.heading(title(group));
                page.table(&table(&rows), "");
            }
        }
        if let Some(soak) = &self.soak {
            page.heading("Over time");
            soak.text(page);
        }
        if let Some(idle) = &self.idle {
            page.heading("Memory of actors that nobody calls");
            idle.text(page);
        }
        page.gap();
        self.notes.iter().for_each(|note| page.hanging("", 0, note, Tone::Faint));
    }

    fn names(&self) -> Vec<String> {
        self.rows.iter().map(|row| format!("{}, {}", row.name, row.pace())).collect()
    }
}

/// The numbers of rows, for people.
pub fn table(rows: &[&Measured]) -> Table {
    let mut table = Table::new([
        Column::name("WHAT"),
        Column::fixed("PACE"),
        Column::number("PER SECOND"),
        Column::number("RATIO"),
        Column::number("P50"),
        Column::number("P90").if_room(),
        Column::number("P99"),
        Column::number("P99.9").if_room(),
        Column::number("MAX").if_room(),
        Column::number("ERRORS"),
    ]);
    for row in rows {
        let Latency { p50, p90, p99, p999, max } = row.latency_us;
        let tone = if row.errors > 0 { Tone::Bad } else { Tone::Plain };
        let mut cells: Vec<Cell> =
            vec![row.name.as_str().into(), row.pace().into(), rate_text(row.rate).into()];
        cells.push(ratio_text(row.ratio).into());
        cells.extend([p50, p90, p99, p999, max].map(|us| Cell::from(time_text(us))));
        cells.push(Cell::toned(row.errors.to_string(), tone));
        table.row(cells);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::Result;

    use super::*;
    use crate::bench::load::Target;

    #[derive(Clone)]
    struct Nothing;

    impl Target for Nothing {
        async fn exchange(&mut self) -> Result<()> {
            Ok(())
        }
    }

    fn row(name: &str, callers: usize, calls: [u64; 3]) -> Row {
        let mut row = Row::new(Group::Calls, name, Pace::Closed { callers }, Nothing);
        for calls in calls {
            let mut round = Round { took: Duration::from_secs(1), ..Round::new() };
            round.latency.record_n(1000 * calls, calls).unwrap();
            row.rounds.push(round);
        }
        row
    }

    #[test]
    fn a_row_has_the_median_of_its_rounds_and_its_ratio_to_the_bare_thing_at_the_same_pace() {
        let rows = measured(vec![
            row("bare", 1, [10, 10, 10]),
            row("bare", 64, [100, 300, 200]),
            row("ours", 64, [50, 10, 900]).beside("bare"),
            row("other", 16, [1, 1, 1]).beside("bare"),
        ]);
        assert_eq!(rows[1].rate, 200.0);
        assert_eq!((rows[2].rate, rows[2].ratio), (50.0, Some(0.25)));
        assert_eq!((rows[0].ratio, rows[3].ratio), (None, None));
        // Most calls are those of the last round.
        assert!((rows[2].latency_us.p50 - 900.0).abs() < 1.0, "{:?}", rows[2].latency_us);
        assert_eq!(rows[2].curve.len(), CURVE.len());
    }

    #[test]
    fn numbers_are_written_for_people() {
        for (rate, text) in [(7.0, "7"), (1234.4, "1 234"), (1_200_000.0, "1 200 000")] {
            assert_eq!(rate_text(rate), text);
        }
        for (us, text) in [
            (0.25, "250 ns"),
            (37.24, "37.2 µs"),
            (370.4, "370 µs"),
            (3_300.0, "3.3 ms"),
            (2_000_000.0, "2.00 s"),
        ] {
            assert_eq!(time_text(us), text);
        }
    }
}

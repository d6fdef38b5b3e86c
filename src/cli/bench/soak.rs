//! One load for a long time: whether memory grows, and whether calls get slower.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{
    calls::{HOSTS_FRESH, Routed},
    load::{Load as _, Pace, Plan},
    machine::resident_bytes,
    report::{Latency, rate_text, time_text},
    stage::Stage,
};
use crate::terminal::{Column, Page, Progress, Table};

/// Windows that the time is divided into.
const WINDOWS: u32 = 20;
/// A shorter window has too few calls for a percentile.
const WINDOW_MIN: Duration = Duration::from_millis(250);
/// The share of windows at the beginning that fill caches and pools.
const WARM_UP: usize = 4;
/// Growth that counts as flat: of memory in bytes, and of the p99 as a factor.
const FLAT_BYTES: f64 = 4.0 * 1024.0 * 1024.0;
const FLAT_P99: f64 = 1.25;

/// The figures that were seen.
#[derive(Clone, Debug, Serialize)]
pub struct Soak {
    /// The name of the load.
    pub name: &'static str,
    pub concurrency: usize,
    pub seconds: f64,
    pub calls: u64,
    pub errors: u64,
    pub first_error: Option<String>,
    pub windows: Vec<Window>,
    /// How much memory the serving host has more at the end than after the first windows, in bytes.
    pub serving_growth_bytes: f64,
    /// The p99 of the last windows divided by that of the first ones.
    pub p99_growth: f64,
    pub is_flat: bool,
}

/// A part of the time.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Window {
    /// Seconds from the beginning to the end of the window.
    pub at_seconds: f64,
    pub calls: u64,
    pub errors: u64,
    pub rate: f64,
    pub latency_us: Latency,
    /// Memory of the host that serves, and of this process, which calls.
    pub serving_bytes: Option<u64>,
    pub calling_bytes: Option<u64>,
}

/// Calls from host to host, with a fresh instance for each, for so long.
pub async fn run(
    callers: usize,
    duration: Duration,
    stage: &Stage,
    progress: &mut Progress,
) -> Result<Soak> {
    let target = Routed::new(stage, &stage.guests.actor, &stage.remote.fresh);
    let windows =
        (duration.as_secs_f64() / WINDOW_MIN.as_secs_f64()).clamp(1.0, f64::from(WINDOWS));
    let plan = Plan { pace: Pace::Closed { callers }, duration: duration.div_f64(windows.floor()) };
    let began = Instant::now();
    let (mut seen, mut first_error) = (Vec::new(), None);
    for number in 0..windows as u32 {
        progress.stage("over time", format!("window {} of {windows:.0}", number + 1));
        let round = target.round(&plan).await.context("call for a long time")?;
        seen.push(Window {
            at_seconds: began.elapsed().as_secs_f64(),
            calls: round.latency.len(),
            errors: round.errors,
            rate: round.rate(),
            latency_us: Latency::of(&round),
            serving_bytes: stage.member.pid().and_then(resident_bytes),
            calling_bytes: resident_bytes(std::process::id()),
        });
        first_error = first_error.or(round.first_error);
    }
    Ok(Soak { first_error, ..Soak::of(callers, seen) })
}

impl Soak {
    fn of(concurrency: usize, windows: Vec<Window>) -> Self {
        let first = windows.len() / WARM_UP;
        let p99s: Vec<f64> = windows.iter().map(|window| window.latency_us.p99).collect();
        let bytes: Vec<f64> =
            windows.iter().filter_map(|window| Some(window.serving_bytes? as f64)).collect();
        let growth = |values: &[f64]| {
            let values = values.get(first..).unwrap_or_default();
            let part = values.len().div_ceil(WARM_UP);
            (mean(&values[..part]), mean(&values[values.len() - part..]))
        };
        let ((bytes_first, bytes_last), (p99_first, p99_last)) = (growth(&bytes), growth(&p99s));
        let serving_growth_bytes = bytes_last - bytes_first;
        let p99_growth = if p99_first > 0.0 { p99_last / p99_first } else { 1.0 };
        let errors = windows.iter().map(|window| window.errors).sum();
        Self {
            name: HOSTS_FRESH,
            concurrency,
            seconds: windows.last().map_or(0.0, |window| window.at_seconds),
            calls: windows.iter().map(|window| window.calls).sum(),
            errors,
            first_error: None,
            windows,
            serving_growth_bytes,
            p99_growth,
            is_flat: serving_growth_bytes < FLAT_BYTES && p99_growth < FLAT_P99 && errors == 0,
        }
    }

    /// Returns the result in words.
    pub fn sentence(&self) -> String {
        let verdict = if self.is_flat { "flat" } else { "not flat" };
        let error = self.first_error.as_ref().map(|error| format!(" (the first: {error})"));
        format!(
            "{} calls ({}, {} at a time) in {:.0} s, {} errors{}: {verdict}. Memory of the serving host {:+.2} MB, p99 × {:.2} \
             from the first windows to the last.",
            rate_text(self.calls as f64),
            self.name,
            self.concurrency,
            self.seconds,
            self.errors,
            error.unwrap_or_default(),
            self.serving_growth_bytes / 1e6,
            self.p99_growth
        )
    }

    pub fn text(&self, page: &mut Page) {
        page.line(self.sentence());
        let mut table = Table::new([
            Column::number("AT"),
            Column::number("PER SECOND"),
            Column::number("P50"),
            Column::number("P99"),
            Column::number("SERVING"),
            Column::number("CALLING"),
            Column::number("ERRORS"),
        ]);
        for window in &self.windows {
            table.row([
                format!("{:.0} s", window.at_seconds).into(),
                rate_text(window.rate).into(),
                time_text(window.latency_us.p50).into(),
                time_text(window.latency_us.p99).into(),
                megabytes(window.serving_bytes).into(),
                megabytes(window.calling_bytes).into(),
                window.errors.into(),
            ]);
        }
        page.table(&table, "");
    }
}

/// Bytes in MB with one digit; nothing if they are not known.
pub fn megabytes(bytes: Option<u64>) -> String {
    bytes.map(|bytes| format!("{:.1} MB", bytes as f64 / 1e6)).unwrap_or_default()
}

fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(bytes: impl Fn(u64) -> u64, p99: impl Fn(u64) -> u64) -> Vec<Window> {
        let window = |number| Window {
            at_seconds: number as f64,
            calls: 100,
            errors: 0,
            rate: 100.0,
            latency_us: Latency {
                p50: 1.0,
                p90: 1.0,
                p99: p99(number) as f64,
                p999: 1.0,
                max: 1.0,
            },
            serving_bytes: Some(bytes(number)),
            calling_bytes: None,
        };
        (1..=20).map(window).collect()
    }

    #[test]
    fn what_grows_after_the_first_windows_is_not_flat() {
        const MB: u64 = 1_000_000;
        for (bytes, p99, is_flat) in [
            (Box::new(|_| 50 * MB) as Box<dyn Fn(u64) -> u64>, 1000, true),
            // Pools are filled at the beginning.
            (Box::new(|at| if at < 4 { 20 * MB } else { 50 * MB }), 1000, true),
            (Box::new(|at| at * MB), 1000, false),
        ] {
            assert_eq!(Soak::of(64, windows(bytes, |_| p99)).is_flat, is_flat);
        }
        let slower = Soak::of(64, windows(|_| MB, |at| 1000 + at * 100));
        assert!(!slower.is_flat && slower.p99_growth > 1.25);
        let mut failed = windows(|_| MB, |_| 1);
        failed[3].errors = 1;
        assert!(!Soak::of(64, failed).is_flat);
        assert!(Soak::of(1, Vec::new()).is_flat);
    }
}

//! Exports that a collector takes only in part. The SDK says so in a line of its own log and
//! nowhere else, so [`note`] reads that line, and the exporter that wrote it [takes](take) what was
//! noted.

use std::fmt;

use parking_lot::Mutex;
use tracing::{
    Event,
    field::{Field, Visit},
};

use super::settings::Signal;

/// The end of the names of such lines.
const PARTIAL: &str = ".PartialSuccess";
/// The beginning of the name of the field with the number of what was not taken.
const REJECTED: &str = "rejected_";
const MESSAGE: &str = "error_message";
/// A longer text of a collector is cut, in characters.
const TEXT_MAX: usize = 200;

/// The last one of each signal, until its exporter takes it.
static NOTED: Mutex<[Option<Partial>; 3]> = Mutex::new([None, None, None]);

/// The part of an export that a collector did not take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partial {
    /// Spans, lines or points; with 0 it only has something to say.
    pub rejected: u64,
    /// The words of the collector.
    pub says: String,
}

/// Returns the signal that a line of the SDK with this name is about, if it is such a line.
pub fn signal_of(name: &str) -> Option<Signal> {
    match name.strip_suffix(PARTIAL)? {
        "HttpTraceClient" | "TonicTracesClient" => Some(Signal::Traces),
        "HttpMetricsClient" | "TonicMetricsClient" => Some(Signal::Metrics),
        "HttpLogsClient" | "TonicLogsClient" => Some(Signal::Logs),
        _ => None,
    }
}

/// Notes what a line of the SDK says, if it is such a line.
pub(crate) fn note(event: &Event<'_>) {
    let Some(signal) = signal_of(event.metadata().name()) else { return };
    let mut partial = Partial::default();
    event.record(&mut partial);
    NOTED.lock()[signal as usize] = Some(partial);
}

/// Takes what was noted of an export of this signal.
pub fn take(signal: Signal) -> Option<Partial> {
    NOTED.lock()[signal as usize].take()
}

impl Visit for Partial {
    fn record_i64(&mut self, field: &Field, value: i64) {
        if field.name().starts_with(REJECTED) {
            self.rejected = u64::try_from(value).unwrap_or_default();
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == MESSAGE {
            self.says = value.chars().take(TEXT_MAX).collect();
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_every_client_belong_to_a_signal_and_no_others() {
        for (name, signal) in [
            ("HttpTraceClient.PartialSuccess", Some(Signal::Traces)),
            ("TonicTracesClient.PartialSuccess", Some(Signal::Traces)),
            ("HttpMetricsClient.PartialSuccess", Some(Signal::Metrics)),
            ("TonicMetricsClient.PartialSuccess", Some(Signal::Metrics)),
            ("HttpLogsClient.PartialSuccess", Some(Signal::Logs)),
            ("TonicLogsClient.PartialSuccess", Some(Signal::Logs)),
            ("HttpLogsClient.ExportSucceeded", None),
            ("PartialSuccess", None),
        ] {
            assert_eq!(signal_of(name), signal, "{name}");
        }
    }
}

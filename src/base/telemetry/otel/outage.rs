//! Tells when a collector begins to take nothing, and when it takes something again.
//!
//! Flow: an exporter of the SDK is [`Watched`] → each attempt tells the [`Way`] to its collector
//! how it ended → [`news`](super::news) says what of it is told. The exporters of signals that go
//! to one collector share a way, so an outage is told once and not once for each signal and
//! attempt; the SDK's own lines about it are left out of the log ([`is_told_otherwise`]).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    logs::{LogBatch, LogExporter},
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
    trace::{SpanData, SpanExporter},
};
use parking_lot::Mutex;
use tracing::{debug, info, warn};

use super::{
    news::{self, News, Outages},
    partial::{self, Partial},
    settings::{Address, Signal},
};
use lattice_protocol::errors;

/// The beginning of the targets of the SDK's own lines.
const SDK: &str = "opentelemetry";
/// Names of such lines that this program tells in its own words, or once instead of each time.
const TOLD_OTHERWISE: [&str; 15] = [
    "BatchSpanProcessor.ExportError",
    "BatchSpanProcessor.Shutdown.Timeout",
    "BatchSpanProcessor.OnEnd.AfterShutdown",
    "BatchLogProcessor.ExportError",
    "BatchLogProcessor.Shutdown.Timeout",
    "BatchLogProcessor.Emit.AfterShutdown",
    "PeriodicReader.ExportError",
    "PeriodReaderThreadShutdown.ResponseSendError",
    "Export.Failed.DeadlineExceeded",
    "Export.Failed.Exhausted",
    "Export.Failed.NonRetryable",
    // Of variables that have a wrong value.
    "Exporter.Config.InvalidEnvironmentVariable",
    "TracerProvider.Config.InvalidSamplerArgument",
    "TracerProvider.Config.InvalidSamplerType",
    "TracerProvider.Config.UnsupportedSampler",
];
/// The words of the SDK before the cause.
const FAILED_WITH: &str = "export failed with ";

/// The words for an outage where a report of counts has all that were counted so far.
const TAKES_NOTHING: &str = "the collector does not take telemetry: spans and log lines are dropped while that lasts, counts come with \
     the next report that it takes, and nothing else waits for it";
/// The same where a report has what was counted since the last one.
const TAKES_NO_DELTA: &str = "the collector does not take telemetry: spans, log lines and counts that go there are lost while that \
     lasts, and nothing else waits for it";

/// The losses of each signal, at its place: spans and lines, and reports of counts.
static LOST: [AtomicU64; 3] = [AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)];

/// The process ends: attempts that are cut off are no news.
static IS_OVER: AtomicBool = AtomicBool::new(false);

/// Tells nothing from now on.
pub(super) fn end() {
    IS_OVER.store(true, Ordering::Relaxed);
}

/// Says whether a line with this target and name, one of the SDK, is left out of the log.
pub(crate) fn is_told_otherwise(target: &str, name: &str) -> bool {
    let is_told = || TOLD_OTHERWISE.contains(&name) || partial::signal_of(name).is_some();
    target.starts_with(SDK) && is_told()
}

/// Returns how much no collector took, by the names of the signals: spans and log lines, and
/// reports of counts.
pub fn lost() -> [(&'static str, u64); 3] {
    Signal::ALL.map(|signal| (signal.name(), LOST[signal as usize].load(Ordering::Relaxed)))
}

/// The ways to all collectors of this process.
#[derive(Debug, Default)]
pub struct Ways {
    all: Vec<Arc<Way>>,
    is_delta: bool,
}

impl Ways {
    /// Returns none yet; with whether a report of counts has only those since the last one.
    pub fn new(is_delta: bool) -> Self {
        Self { all: Vec::new(), is_delta }
    }

    /// Returns the way to a collector; the same for all signals that one variable sends there.
    pub fn to(&mut self, to: &Address) -> Arc<Way> {
        let is_it =
            |way: &&Arc<Way>| (&way.to.shown, &way.to.variable) == (&to.shown, &to.variable);
        if let Some(way) = self.all.iter().find(is_it) {
            return Arc::clone(way);
        }
        let way = Arc::new(Way::new(to.clone(), self.is_delta));
        self.all.push(Arc::clone(&way));
        way
    }

    /// Returns where they lead to, for people.
    pub fn addresses(&self) -> String {
        let addresses: Vec<&str> = self.all.iter().map(|way| way.to.shown.as_str()).collect();
        addresses.join(", ")
    }
}

/// The way to a collector.
#[derive(Debug)]
pub struct Way {
    /// Of the first signal that goes there.
    to: Address,
    is_delta: bool,
    // Held for a look, never while something is told.
    outages: Mutex<Outages>,
    /// Whether it was told that a part was not taken, of each signal at its place.
    is_part_told: [AtomicBool; 3],
}

impl Way {
    fn new(to: Address, is_delta: bool) -> Self {
        Self { to, is_delta, outages: Mutex::default(), is_part_told: Default::default() }
    }

    /// Takes in how an attempt ended: with the cause if it failed.
    fn attempted(&self, signal: Signal, failure: Option<&str>) {
        if IS_OVER.load(Ordering::Relaxed) {
            return;
        }
        let news = self.outages.lock().attempted(signal, failure, Instant::now());
        let Address { shown: address, variable, is_grpc, .. } = &self.to;
        let (signal, cause) = (signal.name(), failure.unwrap_or_default());
        match news {
            Some(News::Began) => {
                let cause = news::explained(cause, *is_grpc);
                let words = if self.is_delta { TAKES_NO_DELTA } else { TAKES_NOTHING };
                warn!(%address, %variable, signal, %cause, "{words}");
            }
            Some(News::Ended) => {
                info!(%address, %variable, signal, "the collector takes telemetry again")
            }
            None if failure.is_some() => debug!(%address, signal, cause, "an export failed"),
            None => {}
        }
    }

    /// Tells that a part of an export was not taken, once for each signal.
    fn took_a_part(&self, signal: Signal, partial: &Partial) {
        let is_told = self.is_part_told[signal as usize].swap(true, Ordering::Relaxed);
        let Address { shown: address, variable, .. } = &self.to;
        let (signal, Partial { rejected, says }) = (signal.name(), partial);
        if is_told {
            debug!(%address, signal, rejected, says, "the collector rejected a part of an export");
        } else {
            warn!(
                %address, %variable, signal, rejected, says,
                "the collector has an objection to what it gets: what it rejected is lost, and further ones are told at the level \
                 debug"
            );
        }
    }
}

/// Returns the cause of a failed export as the SDK has it, without what says only that it failed.
fn cause_of(error: &OTelSdkError) -> String {
    let text = match error {
        OTelSdkError::InternalFailure(text) => text.clone(),
        other => other.to_string(),
    };
    let cause = text.split_once(FAILED_WITH).map_or(text.as_str(), |(_, cause)| cause);
    errors::plain(cause)
}

/// The cause that an HTTP client saw last. The SDK does not pass it on.
#[derive(Clone, Debug, Default)]
pub struct Seen(Arc<Mutex<Option<String>>>);

impl Seen {
    /// Notes how an exchange ended.
    pub fn set(&self, cause: Option<String>) {
        *self.0.lock() = cause;
    }

    fn take(&self) -> Option<String> {
        self.0.lock().take()
    }
}

/// An exporter whose attempts are watched.
#[derive(Debug)]
pub struct Watched<E> {
    exporter: E,
    signal: Signal,
    way: Arc<Way>,
    seen: Seen,
}

impl<E> Watched<E> {
    pub fn new(exporter: E, signal: Signal, way: Arc<Way>, seen: Seen) -> Self {
        Self { exporter, signal, way, seen }
    }

    /// Tells how an attempt to export so much ended.
    fn attempted(&self, amount: usize, result: OTelSdkResult) -> OTelSdkResult {
        let (seen, part) = (self.seen.take(), partial::take(self.signal));
        let cause = result.as_ref().err().map(|error| seen.unwrap_or_else(|| cause_of(error)));
        self.way.attempted(self.signal, cause.as_deref());
        let lost = match (&cause, &part) {
            (Some(_), _) => amount as u64,
            (None, Some(part)) => {
                self.way.took_a_part(self.signal, part);
                // Of points of counts nobody knows how many a report has: it counts as one.
                part.rejected.min(amount as u64)
            }
            (None, None) => 0,
        };
        LOST[self.signal as usize].fetch_add(lost, Ordering::Relaxed);
        result
    }
}

impl<E: SpanExporter> SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let amount = batch.len();
        self.attempted(amount, self.exporter.export(batch).await)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: LogExporter> LogExporter for Watched<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let amount = batch.iter().count();
        self.attempted(amount, self.exporter.export(batch).await)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for Watched<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.attempted(1, self.exporter.export(metrics).await)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}

#[cfg(test)]
mod tests {
    use super::{Signal::Logs, *};

    const REFUSED: &str = "error sending request: Connection refused";

    #[test]
    fn lines_of_the_library_that_say_the_same_are_left_out_and_no_others() {
        for (target, name, is_out) in [
            ("opentelemetry_sdk", "BatchSpanProcessor.ExportError", true),
            ("opentelemetry-otlp", "Export.Failed.Exhausted", true),
            ("opentelemetry_sdk", "TracerProvider.Config.InvalidSamplerType", true),
            ("opentelemetry_sdk", "BatchLogProcessor.Emit.AfterShutdown", true),
            ("opentelemetry-otlp", "TonicLogsClient.PartialSuccess", true),
            ("opentelemetry_sdk", "BatchSpanProcessor.SpansDropped", false),
            ("opentelemetry_sdk", "event src/lib.rs:1", false),
            ("lattice_base::telemetry::otel", "BatchSpanProcessor.ExportError", false),
        ] {
            assert_eq!(is_told_otherwise(target, name), is_out, "{target} {name}");
        }
    }

    #[test]
    fn a_cause_is_without_what_says_only_that_it_failed() {
        for (error, cause) in [
            (
                OTelSdkError::InternalFailure("HTTP export failed with status code: 403".into()),
                "status code: 403",
            ),
            (
                OTelSdkError::InternalFailure(
                    "TonicTracesClient export failed with gRPC code: Unavailable: tcp connect error: Connection refused (os error 111)"
                        .into(),
                ),
                "gRPC code: Unavailable: tcp connect error: Connection refused",
            ),
            (
                OTelSdkError::InternalFailure("HTTP export failed: network error".into()),
                "HTTP export failed: network error",
            ),
            (OTelSdkError::AlreadyShutdown, "Shutdown already invoked"),
        ] {
            assert_eq!(cause_of(&error), cause);
        }
    }

    #[test]
    fn signals_that_one_variable_sends_to_one_place_share_a_way() {
        let of = |shown: &str, variable: &str, url: &str| Address {
            url: url.to_owned(),
            shown: shown.to_owned(),
            variable: variable.to_owned(),
            is_grpc: false,
        };
        let mut ways = Ways::default();
        let first = ways.to(&of("http://c", "ALL", "http://c/v1/traces"));
        let second = ways.to(&of("http://c", "ALL", "http://c/v1/logs"));
        let third = ways.to(&of("http://c", "OWN", "http://c"));
        assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&first, &third));
        assert_eq!(ways.addresses(), "http://c, http://c");
    }

    fn nowhere() -> Arc<Way> {
        let (url, shown, variable) = Default::default();
        Ways::default().to(&Address { url, shown, variable, is_grpc: false })
    }

    /// Returns how much of a signal was lost so far; other tests lose some as well.
    fn lost_of(signal: Signal) -> u64 {
        lost().into_iter().find_map(|(name, lost)| (name == signal.name()).then_some(lost)).unwrap()
    }

    /// Fails with the SDK's words, while the client saw more.
    #[derive(Debug)]
    struct Refusing(Seen);

    impl SpanExporter for Refusing {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            self.0.set(Some(REFUSED.to_owned()));
            Err(OTelSdkError::InternalFailure("HTTP export failed: network error".into()))
        }
    }

    #[tokio::test]
    async fn an_attempt_that_fails_still_fails_and_its_cause_is_taken() {
        let (seen, way) = (Seen::default(), nowhere());
        let exporter = Watched::new(Refusing(seen.clone()), Logs, Arc::clone(&way), seen.clone());
        assert!(SpanExporter::export(&exporter, Vec::new()).await.is_err());
        assert_eq!(seen.take(), None);
        // It is known already.
        let again = way.outages.lock().attempted(Logs, Some(REFUSED), Instant::now());
        assert_eq!(again, None);
    }

    #[test]
    fn what_a_collector_did_not_take_is_counted() {
        let exporter = Watched::new((), Logs, nowhere(), Seen::default());
        let failure = || Err(OTelSdkError::InternalFailure("no".to_owned()));
        let before = lost_of(Logs);
        assert!(exporter.attempted(5, failure()).is_err() && exporter.attempted(3, Ok(())).is_ok());
        assert!(lost_of(Logs) >= before + 5);
    }
}

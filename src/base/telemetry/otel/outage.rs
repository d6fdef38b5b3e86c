//! Tells when a collector begins to take nothing, and when it takes something again.
//!
//! Flow: an exporter of the SDK is [`Watched`] → each attempt tells the [`Way`] to its collector
//! how it ended → the way says what is news. The exporters of signals that go to one collector
//! share a way, so an outage is told once and not once for each signal and attempt; the SDK's own
//! lines about it are left out of the log ([`is_told_otherwise`]).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
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

use super::settings::{Address, Signal};
use lattice_protocol::errors;

/// The beginning of the targets of the SDK's own lines.
const SDK: &str = "opentelemetry";
/// Names of such lines that this program tells in its own words, or once instead of each time.
const TOLD_OTHERWISE: [&str; 13] = [
    "BatchSpanProcessor.ExportError",
    "BatchSpanProcessor.Shutdown.Timeout",
    "BatchLogProcessor.ExportError",
    "BatchLogProcessor.Shutdown.Timeout",
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
/// The beginning of a cause that a collector has for gRPC.
const GRPC_CODE: &str = "gRPC code: ";
/// Codes of gRPC that mean that there was no answer.
const NO_ANSWER_CODES: [&str; 3] = ["Unavailable", "DeadlineExceeded", "Cancelled"];
/// The beginning of a cause that a collector has for HTTP.
const STATUS_CODE: &str = "status code: ";
/// The kind of all causes that are no answer of a collector.
const NO_ANSWER: &str = "";

/// The process ends: attempts that are cut off are no news.
static IS_OVER: AtomicBool = AtomicBool::new(false);

/// Tells nothing from now on.
pub(super) fn end() {
    IS_OVER.store(true, Ordering::Relaxed);
}

/// Says whether a line with this target and name, one of the SDK, is left out of the log.
pub(crate) fn is_told_otherwise(target: &str, name: &str) -> bool {
    target.starts_with(SDK) && TOLD_OTHERWISE.contains(&name)
}

/// The ways to all collectors of this process.
#[derive(Debug, Default)]
pub struct Ways(Vec<Arc<Way>>);

impl Ways {
    /// Returns the way to a collector; the same for all signals that one variable sends there.
    pub fn to(&mut self, to: &Address) -> Arc<Way> {
        let is_it =
            |way: &&Arc<Way>| (&way.to.shown, &way.to.variable) == (&to.shown, &to.variable);
        if let Some(way) = self.0.iter().find(is_it) {
            return Arc::clone(way);
        }
        let way = Arc::new(Way { to: to.clone(), failing: Mutex::default() });
        self.0.push(Arc::clone(&way));
        way
    }

    /// Returns where they lead to, for people.
    pub fn addresses(&self) -> String {
        let addresses: Vec<&str> = self.0.iter().map(|way| way.to.shown.as_str()).collect();
        addresses.join(", ")
    }
}

/// The way to a collector.
#[derive(Debug)]
pub struct Way {
    /// Of the first signal that goes there.
    to: Address,
    // Held for a look, never while something is told.
    failing: Mutex<Failing>,
}

/// The kinds of causes why signals fail, each at the place of its signal.
type Failing = [Option<String>; 3];

#[derive(Debug, PartialEq, Eq)]
enum News {
    Began,
    Ended,
}

impl Way {
    /// Takes in how an attempt ended: with the cause if it failed.
    fn attempted(&self, signal: Signal, failure: Option<&str>) {
        if IS_OVER.load(Ordering::Relaxed) {
            return;
        }
        let news = news(&mut self.failing.lock(), signal, failure);
        let Address { shown: address, variable, .. } = &self.to;
        let (signal, cause) = (signal.name(), failure.unwrap_or_default());
        match news {
            Some(News::Began) => warn!(
                %address, %variable, signal, cause,
                "the collector does not take telemetry: spans and log lines are dropped while that lasts, counts come with the \
                 next report that it takes, and nothing else waits for it"
            ),
            Some(News::Ended) => {
                info!(%address, %variable, signal, "the collector takes telemetry again")
            }
            None if failure.is_some() => debug!(%address, signal, cause, "an export failed"),
            None => {}
        }
    }
}

/// Returns what is news of an attempt. Signals that fail for causes of one kind are one outage,
/// which is over when the first of them gets through.
fn news(failing: &mut Failing, signal: Signal, failure: Option<&str>) -> Option<News> {
    let at = signal as usize;
    let Some(cause) = failure else {
        let kind = failing[at].take()?;
        failing.iter_mut().filter(|other| other.as_ref() == Some(&kind)).for_each(|other| {
            *other = None;
        });
        return Some(News::Ended);
    };
    if failing[at].is_some() {
        return None;
    }
    let kind = Some(kind_of(cause).to_owned());
    let is_told = failing.contains(&kind);
    failing[at] = kind;
    (!is_told).then_some(News::Began)
}

/// Returns the kind of a cause: what the collector answered, or that it did not.
fn kind_of(cause: &str) -> &str {
    match cause.strip_prefix(GRPC_CODE) {
        Some(code) if NO_ANSWER_CODES.iter().any(|known| code.starts_with(known)) => NO_ANSWER,
        Some(_) => cause,
        None if cause.starts_with(STATUS_CODE) => cause,
        None => NO_ANSWER,
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

    fn attempted(&self, result: OTelSdkResult) -> OTelSdkResult {
        let seen = self.seen.take();
        let cause = result.as_ref().err().map(|error| seen.unwrap_or_else(|| cause_of(error)));
        self.way.attempted(self.signal, cause.as_deref());
        result
    }
}

impl<E: SpanExporter> SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.attempted(self.exporter.export(batch).await)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: LogExporter> LogExporter for Watched<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        self.attempted(self.exporter.export(batch).await)
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
        self.attempted(self.exporter.export(metrics).await)
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
    use super::{Signal::*, *};

    const REFUSED: &str = "error sending request: Connection refused";
    const TIMED_OUT: &str = "error sending request: operation timed out";
    const FORBIDDEN: &str = "status code: 403";

    #[test]
    fn an_outage_is_told_when_it_begins_and_when_it_is_over_for_one_of_its_signals() {
        const BEGAN: Option<News> = Some(News::Began);
        const ENDED: Option<News> = Some(News::Ended);
        for attempts in [
            &[
                (Metrics, None, None),
                (Metrics, Some(REFUSED), BEGAN),
                (Metrics, Some(REFUSED), None),
                (Traces, Some(TIMED_OUT), None),
                (Logs, None, None),
                (Metrics, None, ENDED),
                (Traces, None, None),
            ][..],
            // An answer is no outage of the way, and each kind of it is told.
            &[
                (Metrics, Some(FORBIDDEN), BEGAN),
                (Traces, Some(FORBIDDEN), None),
                (Logs, Some(REFUSED), BEGAN),
                (Logs, None, ENDED),
                (Traces, Some(FORBIDDEN), None),
                (Traces, None, ENDED),
                (Metrics, Some(FORBIDDEN), BEGAN),
                (Traces, None, None),
                (Metrics, Some(FORBIDDEN), None),
            ],
        ] {
            let mut failing = Failing::default();
            for (number, (signal, failure, expected)) in attempts.iter().enumerate() {
                let news = news(&mut failing, *signal, *failure);
                assert_eq!(news, *expected, "{number}: {signal:?} {failure:?}");
            }
        }
    }

    #[test]
    fn lines_of_the_library_that_say_the_same_are_left_out_and_no_others() {
        for (target, name, is_out) in [
            ("opentelemetry_sdk", "BatchSpanProcessor.ExportError", true),
            ("opentelemetry-otlp", "Export.Failed.Exhausted", true),
            ("opentelemetry_sdk", "TracerProvider.Config.InvalidSamplerType", true),
            ("opentelemetry_sdk", "BatchSpanProcessor.SpansDropped", false),
            ("opentelemetry_sdk", "event src/lib.rs:1", false),
            ("lattice_base::telemetry::otel", "BatchSpanProcessor.ExportError", false),
        ] {
            assert_eq!(is_told_otherwise(target, name), is_out, "{target} {name}");
        }
    }

    #[test]
    fn a_cause_is_without_what_says_only_that_it_failed() {
        for (error, cause, kind) in [
            (OTelSdkError::InternalFailure("HTTP export failed with status code: 403".into()), FORBIDDEN, FORBIDDEN),
            (
                OTelSdkError::InternalFailure(
                    "TonicTracesClient export failed with gRPC code: Unavailable: tcp connect error: Connection refused (os error 111)"
                        .into(),
                ),
                "gRPC code: Unavailable: tcp connect error: Connection refused",
                NO_ANSWER,
            ),
            (
                OTelSdkError::InternalFailure(
                    "TonicLogsClient export failed with gRPC code: PermissionDenied".into(),
                ),
                "gRPC code: PermissionDenied",
                "gRPC code: PermissionDenied",
            ),
            (
                OTelSdkError::InternalFailure("HTTP export failed: network error".into()),
                "HTTP export failed: network error",
                NO_ANSWER,
            ),
            (OTelSdkError::AlreadyShutdown, "Shutdown already invoked", NO_ANSWER),
        ] {
            let found = cause_of(&error);
            assert_eq!((found.as_str(), kind_of(&found)), (cause, kind));
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
        let seen = Seen::default();
        let (url, shown, variable) = Default::default();
        let way = Ways::default().to(&Address { url, shown, variable, is_grpc: false });
        let exporter = Watched::new(Refusing(seen.clone()), Traces, Arc::clone(&way), seen.clone());
        assert!(SpanExporter::export(&exporter, Vec::new()).await.is_err());
        assert_eq!(seen.take(), None);
        assert_eq!(way.failing.lock()[0].as_deref(), Some(NO_ANSWER));
    }
}

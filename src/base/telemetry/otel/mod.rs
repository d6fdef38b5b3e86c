//! OpenTelemetry: spans of calls, counts and lines of the log, for a collector that speaks OTLP.
//!
//! [`start`] reads the standard variables (`OTEL_*`) and starts what they ask for; without them
//! nothing is started, and [`trace`] and [`logs`] do nothing. What the SDK reads itself is left to
//! it: samplers, limits of numbers of spans, headers and compression of exporters. [`settings`],
//! [`limits`] and [`resource`] have the rest, [`check`] the values that do not count, [`transport`]
//! the way to the collector, and [`outage`] what is told when it takes nothing.
//!
//! Always true: telemetry delays or fails nothing. Exporters have threads of their own, and drop
//! what the collector does not take in time. The end of the process waits for it once, for all
//! signals together ([`FLUSH_TIMEOUT`]), and no thread that still waits keeps the runtime.

mod check;
mod limits;
mod logs;
pub mod metrics;
mod news;
mod outage;
mod partial;
mod resource;
pub mod settings;
pub mod trace;
mod transport;

use std::{sync::OnceLock, thread, time::Duration};

use opentelemetry::InstrumentationScope;
use opentelemetry_sdk::{
    Resource,
    logs::{BatchLogProcessor, LogExporter, SdkLoggerProvider},
    metrics::{Instrument, PeriodicReader, SdkMeterProvider, Stream, exporter::PushMetricExporter},
    trace::{BatchSpanProcessor, SdkTracerProvider, SpanExporter},
};
use tokio::sync::oneshot;
use tracing::{debug, info, warn};

use crate::config::ProcessEnvironment;
use check::Wrong;
pub(crate) use logs::{SpanFields, emit};
use outage::Ways;
pub(crate) use outage::is_told_otherwise;
pub use outage::lost;
pub(crate) use partial::note;
use settings::{Address, Signal, Variables};
pub(crate) use trace::current;

/// The name of this program, as the source of spans, counts and lines.
const SCOPE: &str = "lattice-host";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// How long the end of the process waits for the collector, for all signals together.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);
/// How long each signal may take for its end: longer than anybody waits, so that the wait decides.
const END_TIMEOUT: Duration = Duration::from_secs(4);
/// Sets of labels that an instrument may have; all beyond it are told as one, and the SDK's own
/// bound is 2000. A host tells five results of each of the 4096 operations that it counts apart,
/// and of the rest of 1024 targets; hardly any operation is called both here and over NATS.
const SETS_MAX: usize = 32 << 10;
/// The same for buckets, of which each operation has eighteen.
const SETS_OF_BUCKETS_MAX: usize = 128 << 10;

static RUNNING: OnceLock<Running> = OnceLock::new();

/// The parts that export.
struct Running {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
    logs: Option<SdkLoggerProvider>,
    /// Where they export to, for people.
    addresses: String,
}

/// The host that tells.
pub struct About<'a> {
    pub host_id: &'a str,
    pub lattice: &'a str,
}

/// Starts what the environment asks for, once in a process. To be called within the runtime.
pub fn start(about: About<'_>) {
    if RUNNING.get().is_some() {
        return;
    }
    let variables = Variables::of(&ProcessEnvironment);
    if variables.is_disabled() {
        info!(variable = settings::DISABLED, "no telemetry goes to a collector");
        return;
    }
    check::wrong(&variables).for_each(tell_wrong);
    let destinations = Signal::ALL.map(|signal| variables.destination(signal));
    if destinations.iter().all(Result::is_err) {
        return;
    }
    let unused = check::unused(&variables).join(", ");
    if !unused.is_empty() {
        warn!(variables = unused.as_str(), "this host does not use these variables");
    }
    limits::start(&variables);
    let resource = resource::resource(&about, &variables);
    let running = RUNNING.get_or_init(|| Running::new(&variables, destinations, resource));
    if let Some(provider) = &running.traces {
        trace::start(provider);
    }
    if let Some(provider) = &running.metrics {
        metrics::start(provider);
    }
    if let Some(provider) = &running.logs {
        logs::start(provider);
    }
}

fn tell_wrong(wrong: Wrong) {
    let Wrong { variable, value, used, allowed } = &wrong;
    let value = value.as_deref().unwrap_or("(not shown)");
    warn!(variable, value, used, allowed, "this variable has a value that does not count");
}

/// Has the counts told once more, of a host that is about to stop and can be asked no longer after
/// it. Waits for nothing.
pub fn report() {
    if let Some(provider) = RUNNING.get().and_then(|running| running.metrics.as_ref()) {
        on_thread("otel-report", || tell(Some(provider.force_flush())));
    }
}

/// Lets out what was told and ends the export, as far as the collector takes it within a short
/// time. To be called before the runtime ends.
pub async fn finish() {
    let Some(running) = RUNNING.get() else { return };
    if !is_done_within(FLUSH_TIMEOUT, || running.end()).await {
        let addresses = running.addresses.as_str();
        warn!(addresses, "the collector did not take the last telemetry in time, and it is lost");
    }
    outage::end();
}

/// Does work that blocks; returns whether it was done within a time. It is left alone after it: a
/// task of the runtime would hold up its end.
async fn is_done_within(time: Duration, work: impl FnOnce() + Send + 'static) -> bool {
    let (done, is_done) = oneshot::channel();
    on_thread("otel-end", move || {
        work();
        // Nobody waits any more.
        let _ = done.send(());
    });
    matches!(tokio::time::timeout(time, is_done).await, Ok(Ok(())))
}

/// Does work on a thread of its own, if one can be had.
fn on_thread(name: &str, work: impl FnOnce() + Send + 'static) {
    drop(thread::Builder::new().name(name.to_owned()).spawn(work));
}

impl Running {
    fn new(
        variables: &Variables,
        [traces, metrics, logs]: [Result<Address, String>; 3],
        resource: Resource,
    ) -> Self {
        let mut ways = Ways::new(variables.is_delta());
        let traces =
            started(Signal::Traces, traces, |to| transport::spans(variables, to, &mut ways))
                .map(|exporter| tracer(exporter, variables, resource.clone()));
        let metrics =
            started(Signal::Metrics, metrics, |to| transport::metrics(variables, to, &mut ways))
                .map(|exporter| counting(exporter, variables.interval(), resource.clone()));
        let logs = started(Signal::Logs, logs, |to| transport::logs(variables, to, &mut ways))
            .map(|exporter| logger(exporter, variables, resource));
        Self { traces, metrics, logs, addresses: ways.addresses() }
    }

    /// Ends all signals at once. Counts have a time of the SDK's, which is longer, too.
    fn end(&self) {
        thread::scope(|threads| {
            threads.spawn(|| {
                tell(self.traces.as_ref().map(|all| all.shutdown_with_timeout(END_TIMEOUT)))
            });
            threads.spawn(|| {
                tell(self.metrics.as_ref().map(|all| all.shutdown_with_timeout(END_TIMEOUT)))
            });
            tell(self.logs.as_ref().map(|all| all.shutdown_with_timeout(END_TIMEOUT)));
        });
    }
}

fn tell(ended: Option<opentelemetry_sdk::error::OTelSdkResult>) {
    if let Some(Err(error)) = ended {
        debug!(%error, "the last telemetry may be lost");
    }
}

/// The source of all that is told.
fn scope() -> InstrumentationScope {
    InstrumentationScope::builder(SCOPE).with_version(VERSION).build()
}

fn tracer(
    exporter: impl SpanExporter + 'static,
    variables: &Variables,
    resource: Resource,
) -> SdkTracerProvider {
    let batch = variables.batches_of_spans();
    let config = opentelemetry_sdk::trace::BatchConfigBuilder::default()
        .with_max_queue_size(batch.queue_max)
        .with_max_export_batch_size(batch.batch_max)
        .with_scheduled_delay(batch.delay)
        .build();
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
    let provider = SdkTracerProvider::builder().with_span_processor(processor);
    let provider = match limits::attributes(variables) {
        Some(max) => provider.with_max_attributes_per_span(max),
        None => provider,
    };
    provider.with_resource(resource).build()
}

/// Returns a meter that reports to this exporter from time to time.
fn counting(
    exporter: impl PushMetricExporter,
    interval: Duration,
    resource: Resource,
) -> SdkMeterProvider {
    SdkMeterProvider::builder()
        .with_reader(PeriodicReader::builder(exporter).with_interval(interval).build())
        .with_view(bound)
        .with_resource(resource)
        .build()
}

/// Changes nothing of an instrument but its bound; one that cannot be had leaves that of the SDK.
fn bound(instrument: &Instrument) -> Option<Stream> {
    let max = match instrument.name().ends_with(metrics::BUCKET) {
        true => SETS_OF_BUCKETS_MAX,
        false => SETS_MAX,
    };
    Stream::builder().with_cardinality_limit(max).build().ok()
}

fn logger(
    exporter: impl LogExporter + 'static,
    variables: &Variables,
    resource: Resource,
) -> SdkLoggerProvider {
    let batch = variables.batches_of_lines();
    let config = opentelemetry_sdk::logs::BatchConfigBuilder::default()
        .with_max_queue_size(batch.queue_max)
        .with_max_export_batch_size(batch.batch_max)
        .with_scheduled_delay(batch.delay)
        .build();
    let processor = BatchLogProcessor::builder(exporter).with_batch_config(config).build();
    let provider = SdkLoggerProvider::builder().with_log_processor(processor);
    provider.with_resource(resource).build()
}

/// Makes the exporter of a signal; says where it goes to, or why nowhere.
fn started<T>(
    signal: Signal,
    to: Result<Address, String>,
    exporter: impl FnOnce(&Address) -> Result<T, transport::TransportError>,
) -> Option<T> {
    let signal = signal.name();
    let to =
        to.inspect_err(|why| info!(signal, why, "this telemetry goes to no collector")).ok()?;
    let made = exporter(&to);
    match &made {
        Ok(_) => info!(
            signal,
            address = %to.shown,
            variable = to.variable.as_str(),
            protocol = check::protocol(to.is_grpc),
            "telemetry goes to a collector"
        ),
        Err(error) => warn!(
            signal,
            %error,
            address = %to.shown,
            variable = to.variable.as_str(),
            "telemetry of this kind is not exported"
        ),
    }
    made.ok()
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        sync::{Arc, Mutex},
    };

    use opentelemetry::{
        KeyValue,
        metrics::{AsyncInstrument, MeterProvider as _},
    };
    use opentelemetry_sdk::{
        error::OTelSdkResult,
        metrics::{
            Temporality,
            data::{AggregatedMetrics, MetricData, ResourceMetrics},
        },
    };

    use super::*;

    const SETS: usize = 2001;

    /// The labels that the points of the last report had, by instrument.
    type Reported = Arc<Mutex<HashMap<String, Vec<KeyValue>>>>;

    /// Takes reports.
    struct Taking(Reported);

    impl PushMetricExporter for Taking {
        async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
            let metrics = metrics.scope_metrics().flat_map(|of_scope| of_scope.metrics());
            let told = metrics.map(|metric| (metric.name().to_owned(), labels_of(metric.data())));
            *self.0.lock().unwrap() = told.collect();
            Ok(())
        }

        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }

        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }

        fn temporality(&self) -> Temporality {
            Temporality::Cumulative
        }
    }

    fn labels_of(data: &AggregatedMetrics) -> Vec<KeyValue> {
        match data {
            AggregatedMetrics::F64(MetricData::Sum(sum)) => {
                sum.data_points().flat_map(|point| point.attributes().cloned()).collect()
            }
            AggregatedMetrics::F64(MetricData::Gauge(gauge)) => {
                gauge.data_points().flat_map(|point| point.attributes().cloned()).collect()
            }
            other => panic!("nobody tells {other:?}"),
        }
    }

    fn tell_sets(instrument: &dyn AsyncInstrument<f64>) {
        for n in 0..SETS {
            instrument.observe(1.0, &[KeyValue::new("set", n.to_string())]);
        }
    }

    #[test]
    fn an_end_that_takes_too_long_is_left_alone_and_keeps_no_runtime() {
        const LONG: Duration = Duration::from_secs(60);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
        let began = std::time::Instant::now();
        let done = runtime.block_on(async {
            let late = is_done_within(Duration::from_millis(20), || thread::sleep(LONG)).await;
            (late, is_done_within(LONG, || {}).await)
        });
        runtime.shutdown_timeout(LONG);
        assert_eq!(done, (false, true));
        assert!(began.elapsed() < LONG / 2, "{:?}", began.elapsed());
    }

    #[test]
    fn more_sets_of_labels_than_the_sdk_allows_are_told_apart() {
        let reported = Reported::default();
        let (exporter, nothing) =
            (Taking(Arc::clone(&reported)), Resource::builder_empty().build());
        let provider = counting(exporter, Duration::from_secs(60), nothing);
        let meter = provider.meter_with_scope(scope());
        let _counter = meter.f64_observable_counter("calls").with_callback(tell_sets).build();
        let _gauge = meter.f64_observable_gauge("depth").with_callback(tell_sets).build();
        provider.force_flush().unwrap();
        let reported = reported.lock().unwrap();
        for instrument in ["calls", "depth"] {
            let labels = &reported[instrument];
            assert_eq!(labels.len(), SETS, "{instrument}");
            assert!(labels.iter().all(|label| label.key.as_str() == "set"), "{instrument}");
        }
    }
}

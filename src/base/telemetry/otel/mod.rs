//! OpenTelemetry: spans of calls, counts and lines of the log, for a collector that speaks OTLP.
//!
//! [`start`] reads the standard variables (`OTEL_*`) and starts what they ask for; without them
//! nothing is started, and [`trace`] and [`logs`] do nothing. What the SDK reads itself is left to
//! it: samplers, limits, batches, the endpoints, headers and compression of exporters, the
//! attributes of the resource. [`settings`] has the rest, [`transport`] the way to the collector.
//!
//! Always true: telemetry delays or fails nothing. Exporters have threads of their own, and drop
//! what the collector does not take in time.

mod logs;
pub mod metrics;
pub mod settings;
pub mod trace;
mod transport;

use std::{sync::OnceLock, time::Duration};

use opentelemetry::{Key, KeyValue};
use opentelemetry_sdk::{
    Resource, logs::SdkLoggerProvider, metrics::SdkMeterProvider, trace::SdkTracerProvider,
};
use tracing::{debug, info, warn};

use crate::config::ProcessEnvironment;
pub(crate) use logs::emit;
use settings::{Signal, Variables};
pub(crate) use trace::current;

/// The name of this program, as the source of spans, counts and lines.
const SCOPE: &str = "lattice-host";
const SERVICE_NAME: &str = "service.name";
/// How long the end of the process waits for the collector.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

static RUNNING: OnceLock<Running> = OnceLock::new();

/// The parts that export.
#[derive(Default)]
struct Running {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
    logs: Option<SdkLoggerProvider>,
}

/// The host that tells.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    pub host_id: &'a str,
    pub lattice: &'a str,
    pub version: &'static str,
}

/// Starts what the environment asks for, once in a process. To be called within the runtime.
pub fn start(about: About<'_>) {
    let variables = Variables::of(&ProcessEnvironment);
    let wanted = Signal::ALL.map(|signal| is_wanted(&variables, signal));
    if wanted == [false; 3] || RUNNING.get().is_some() {
        return;
    }
    let resource = resource(about);
    let [traces, metrics, logs] = wanted;
    let running = Running {
        traces: traces.then(|| tracer(&variables, resource.clone())).flatten(),
        metrics: metrics.then(|| meter(&variables, resource.clone())).flatten(),
        logs: logs.then(|| logger(&variables, resource)).flatten(),
    };
    info!(
        traces = running.traces.is_some(),
        metrics = running.metrics.is_some(),
        logs = running.logs.is_some(),
        "telemetry goes to a collector"
    );
    let running = RUNNING.get_or_init(|| running);
    if let Some(provider) = &running.traces {
        let (carried, unknown) = variables.carried();
        for propagator in unknown {
            warn!(propagator, "OTEL_PROPAGATORS names one that this host does not have");
        }
        trace::start(provider, carried);
    }
    if let Some(provider) = &running.metrics {
        metrics::start(provider);
    }
    if let Some(provider) = &running.logs {
        logs::start(provider);
    }
}

/// Has the counts told once more, of a host that is about to stop and can be asked no longer after
/// it. Waits for nothing.
pub fn report() {
    if let Some(provider) = RUNNING.get().and_then(|running| running.metrics.as_ref()) {
        drop(tokio::task::spawn_blocking(|| tell(Some(provider.force_flush()))));
    }
}

/// Lets out what was told and ends the export, as far as the collector takes it within a short
/// time. To be called before the runtime ends.
pub async fn finish() {
    let Some(running) = RUNNING.get() else { return };
    let ended = tokio::task::spawn_blocking(|| running.end());
    if tokio::time::timeout(FLUSH_TIMEOUT + Duration::from_secs(1), ended).await.is_err() {
        warn!("the collector did not take the last telemetry in time");
    }
}

impl Running {
    fn end(&self) {
        std::thread::scope(|threads| {
            threads.spawn(|| {
                tell(self.traces.as_ref().map(|all| all.shutdown_with_timeout(FLUSH_TIMEOUT)))
            });
            threads.spawn(|| {
                tell(self.metrics.as_ref().map(|all| all.shutdown_with_timeout(FLUSH_TIMEOUT)))
            });
            tell(self.logs.as_ref().map(|all| all.shutdown_with_timeout(FLUSH_TIMEOUT)));
        });
    }
}

fn tell(ended: Option<opentelemetry_sdk::error::OTelSdkResult>) {
    if let Some(Err(error)) = ended {
        debug!(%error, "the last telemetry may be lost");
    }
}

fn is_wanted(variables: &Variables, signal: Signal) -> bool {
    variables.exports(signal).unwrap_or_else(|why| {
        warn!("{why}; nothing is exported of it");
        false
    })
}

/// The attributes of this host. Those that the environment gives win.
fn resource(about: About<'_>) -> Resource {
    let given = Resource::builder().build();
    let own = [
        (SERVICE_NAME, SCOPE),
        ("service.version", about.version),
        ("service.instance.id", about.host_id),
        ("lattice.name", about.lattice),
    ];
    let missing = own.into_iter().filter(|(name, _)| match given.get(&Key::new(*name)) {
        // The SDK makes one up.
        Some(value) => *name == SERVICE_NAME && value.as_str().starts_with("unknown_service"),
        None => true,
    });
    let missing: Vec<_> =
        missing.map(|(name, value)| KeyValue::new(name, value.to_owned())).collect();
    Resource::builder().with_attributes(missing).build()
}

fn tracer(variables: &Variables, resource: Resource) -> Option<SdkTracerProvider> {
    let exporter = started(Signal::Traces, transport::spans(variables))?;
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter);
    Some(provider.with_resource(resource).build())
}

fn meter(variables: &Variables, resource: Resource) -> Option<SdkMeterProvider> {
    let exporter = started(Signal::Metrics, transport::metrics(variables))?;
    let provider = SdkMeterProvider::builder().with_periodic_exporter(exporter);
    Some(provider.with_resource(resource).build())
}

fn logger(variables: &Variables, resource: Resource) -> Option<SdkLoggerProvider> {
    let exporter = started(Signal::Logs, transport::logs(variables))?;
    let provider = SdkLoggerProvider::builder().with_batch_exporter(exporter);
    Some(provider.with_resource(resource).build())
}

fn started<T>(signal: Signal, exporter: Result<T, transport::TransportError>) -> Option<T> {
    exporter
        .inspect_err(|error| {
            warn!(signal = signal.word(), %error, "telemetry of this kind is not exported");
        })
        .ok()
}

//! Counts as observable instruments: they are read when the collector is to be told, and at no
//! other time.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

pub use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter, MeterProvider as _};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use parking_lot::Mutex;

use super::scope;

/// The instruments of one report are asked one after the other; all are told the same.
const ONE_REPORT: Duration = Duration::from_secs(1);

static METER: OnceLock<Meter> = OnceLock::new();

/// Values that belong together.
pub struct Family {
    pub name: String,
    pub about: String,
    pub is_counter: bool,
}

/// The values of families, by their names.
pub type Samples = HashMap<String, Vec<(Vec<KeyValue>, f64)>>;

/// Begins to take instruments.
pub(super) fn start(provider: &SdkMeterProvider) {
    // An error means that there are some already.
    let _ = METER.set(provider.meter_with_scope(scope()));
}

/// Says whether counts are exported.
pub fn is_on() -> bool {
    METER.get().is_some()
}

/// Exports families from now on; `read` returns the values of all, and may block.
pub fn observe(families: Vec<Family>, read: impl Fn() -> Samples + Send + Sync + 'static) {
    let Some(meter) = METER.get() else { return };
    let report = Arc::new(Report { read, last: Mutex::new(None) });
    for Family { name, about, is_counter } in families {
        let (report, of) = (Arc::clone(&report), name.clone());
        let tell = move |instrument: &dyn AsyncInstrument<f64>| report.tell(&of, instrument);
        // The meter keeps them.
        if is_counter {
            let counter = meter.f64_observable_counter(name).with_description(about);
            let _ = counter.with_callback(tell).build();
        } else {
            let gauge = meter.f64_observable_gauge(name).with_description(about);
            let _ = gauge.with_callback(tell).build();
        }
    }
}

struct Report<R> {
    read: R,
    /// Held while the values are read, by the one thread that asks for them.
    last: Mutex<Option<(Instant, Arc<Samples>)>>,
}

impl<R: Fn() -> Samples> Report<R> {
    fn tell(&self, family: &str, instrument: &dyn AsyncInstrument<f64>) {
        let samples = self.samples();
        for (labels, value) in samples.get(family).into_iter().flatten() {
            instrument.observe(*value, labels);
        }
    }

    fn samples(&self) -> Arc<Samples> {
        let mut last = self.last.lock();
        match &*last {
            Some((read_at, samples)) if read_at.elapsed() < ONE_REPORT => Arc::clone(samples),
            _ => {
                let samples = Arc::new((self.read)());
                *last = Some((Instant::now(), Arc::clone(&samples)));
                samples
            }
        }
    }
}

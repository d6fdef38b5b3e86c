//! Counts as observable instruments: they are read when the collector is to be told, and at no
//! other time.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, OnceLock},
};

pub use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter, MeterProvider as _};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use parking_lot::Mutex;

use super::scope;

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

/// Exports families from now on; `read` returns the values of all, and may block. What it cannot
/// read is missing in one report.
pub fn observe(families: Vec<Family>, read: impl Fn() -> Samples + Send + Sync + 'static) {
    let Some(meter) = METER.get() else { return };
    let report = Arc::new(Report { read, last: Mutex::default() });
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
    last: Mutex<Last>,
}

/// The values of one report: its families are told one after the other, all from one reading.
#[derive(Default)]
struct Last {
    samples: Option<Arc<Samples>>,
    told: HashSet<String>,
}

impl<R: Fn() -> Samples> Report<R> {
    fn tell(&self, family: &str, instrument: &dyn AsyncInstrument<f64>) {
        let samples = self.samples(family);
        for (labels, value) in samples.get(family).into_iter().flatten() {
            instrument.observe(*value, labels);
        }
    }

    fn samples(&self, family: &str) -> Arc<Samples> {
        let mut last = self.last.lock();
        // A family that comes again belongs to the next report.
        let is_next = !last.told.insert(family.to_owned());
        match &last.samples {
            Some(samples) if !is_next => Arc::clone(samples),
            _ => {
                let samples = Arc::new((self.read)());
                let told = HashSet::from([family.to_owned()]);
                *last = Last { samples: Some(Arc::clone(&samples)), told };
                samples
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps the values that it is told.
    #[derive(Default)]
    struct Told(Mutex<Vec<f64>>);

    impl AsyncInstrument<f64> for Told {
        fn observe(&self, value: f64, _: &[KeyValue]) {
            self.0.lock().push(value);
        }
    }

    #[test]
    fn each_report_is_read_once_and_one_that_could_not_be_read_costs_no_other() {
        let reports = Mutex::new(0_u32);
        let read = || -> Samples {
            let mut number = reports.lock();
            *number += 1;
            let value = vec![(Vec::new(), f64::from(*number))];
            // The second cannot be read.
            let names: &[&str] = if *number == 2 { &[] } else { &["calls", "depth"] };
            names.iter().map(|name| ((*name).to_owned(), value.clone())).collect()
        };
        let (report, told) = (Report { read, last: Mutex::default() }, Told::default());
        for _ in 0..3 {
            report.tell("calls", &told);
            report.tell("depth", &told);
        }
        assert_eq!(*told.0.lock(), [1.0, 1.0, 3.0, 3.0]);
        assert_eq!(*reports.lock(), 3);
    }
}

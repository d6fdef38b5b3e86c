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

/// The end of the names of buckets.
pub const BUCKET: &str = "_bucket";
/// The ends of names that tell a unit, with the unit as OpenTelemetry writes it.
const UNITS: [(&str, &str); 3] = [("_seconds", "s"), ("_seconds_sum", "s"), ("_bytes", "By")];

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
        let unit = unit(&name);
        // The meter keeps them.
        if is_counter {
            let counter = meter.f64_observable_counter(name).with_description(about);
            let _ = counter.with_unit(unit).with_callback(tell).build();
        } else {
            let gauge = meter.f64_observable_gauge(name).with_description(about);
            let _ = gauge.with_unit(unit).with_callback(tell).build();
        }
    }
}

/// Returns the unit of a family by its name; empty of numbers of things.
fn unit(name: &str) -> &'static str {
    UNITS.iter().find(|(end, _)| name.ends_with(end)).map_or("", |(_, unit)| unit)
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
    fn a_name_tells_the_unit() {
        for (name, expected) in [
            ("lattice_host_uptime_seconds", "s"),
            ("lattice_invocation_duration_seconds_sum", "s"),
            ("lattice_invocation_duration_seconds_count", ""),
            ("lattice_invocation_duration_seconds_bucket", ""),
            ("lattice_host_memory_bytes", "By"),
            ("lattice_nats_bytes", "By"),
            ("lattice_invocations", ""),
        ] {
            assert_eq!(unit(name), expected, "{name}");
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

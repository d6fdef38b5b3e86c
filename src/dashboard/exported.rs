//! The numbers of `/metrics` for a collector that is told rather than asks (OTLP), under the same
//! names and labels. What [`metrics`] writes is read again here, so that the two never differ. A
//! host without a dashboard tells them as well.
//!
//! A histogram is told as counters: its count, its sum, and its buckets with the label `le`. The SDK
//! takes none that was counted elsewhere.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{runtime::Handle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use super::{Dashboard, Inner, metrics, model::Model};
use lattice_base::telemetry::otel::metrics::{self as otel, Family, KeyValue, Samples};
use lattice_engine::host::face::Parts;

/// How long the host may take to count; it asks its NATS server how it is.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// Exports the numbers of a host with a dashboard from now on, if there is a collector.
pub async fn start(dashboard: &Dashboard) {
    if !otel::is_on() {
        return;
    }
    start_from(Source::Dashboard(Arc::downgrade(&dashboard.0))).await;
}

/// The same of a host without one, until it stops.
pub async fn start_alone(parts: Arc<Parts>, tasks: &TaskTracker, stop: &CancellationToken) {
    if !otel::is_on() {
        return;
    }
    start_from(Source::Host(Arc::downgrade(&parts))).await;
    let stopped = stop.clone().cancelled_owned();
    // Nobody else keeps them.
    tasks.spawn(async move {
        stopped.await;
        drop(parts);
    });
}

async fn start_from(source: Source) {
    let Some((parts, model)) = source.numbers() else { return };
    let text = match metrics::text(parts, model).await {
        Ok(text) => text,
        Err(error) => return warn!(%error, "counts are not exported"),
    };
    let runtime = Handle::current();
    otel::observe(families(&text), move || source.read(&runtime));
}

/// The owner of the numbers, which are told as long as it is there.
enum Source {
    Dashboard(Weak<Inner>),
    Host(Weak<Parts>),
}

impl Source {
    fn numbers(&self) -> Option<(Arc<Parts>, Option<Model>)> {
        match self {
            Self::Dashboard(inner) => {
                inner.upgrade().map(|inner| (Arc::clone(&inner.parts), Some(inner.model.clone())))
            }
            Self::Host(parts) => parts.upgrade().map(|parts| (parts, None)),
        }
    }

    /// Blocks until the values are there; to be called outside the runtime.
    fn read(&self, runtime: &Handle) -> Samples {
        let Some((parts, model)) = self.numbers() else { return Samples::new() };
        // The time begins within the runtime, which has the clock.
        let reading = async { timeout(READ_TIMEOUT, metrics::text(parts, model)).await };
        let error = match runtime.block_on(reading) {
            Ok(Ok(text)) => return samples(&text),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it took more than {READ_TIMEOUT:?}"),
        };
        warn!(%error, "the counts of this host cannot be read, and one report is without them");
        Samples::new()
    }
}

/// The families that a text in OpenMetrics has.
fn families(text: &str) -> Vec<Family> {
    let helps: HashMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' ')).collect();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let mut families = Vec::new();
    for (name, kind) in types {
        let about = helps.get(name).copied().unwrap_or_default();
        for (name, is_counter) in parts_of(name, kind) {
            families.push(Family { name, about: about.to_owned(), is_counter });
        }
    }
    families
}

/// The numbers of a family: their names, and whether they only grow.
fn parts_of(name: &str, kind: &str) -> Vec<(String, bool)> {
    match kind {
        "counter" => vec![(name.to_owned(), true)],
        "gauge" => vec![(name.to_owned(), false)],
        "info" => vec![(format!("{name}_info"), false)],
        "histogram" => {
            ["_count", "_sum", otel::BUCKET].map(|end| (format!("{name}{end}"), true)).into()
        }
        _ => Vec::new(),
    }
}

/// The values of a text in OpenMetrics, by the names that [`families`] gives.
fn samples(text: &str) -> Samples {
    let mut samples = Samples::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, labels, value)) = sample(line) else { continue };
        match samples.get_mut(name) {
            Some(values) => values.push((labels, value)),
            None => drop(samples.insert(name.to_owned(), vec![(labels, value)])),
        }
    }
    samples
}

/// Reads `name{label="value"} number`, with the name that is told; what follows it is no part of it.
fn sample(line: &str) -> Option<(&str, Vec<KeyValue>, f64)> {
    let (name, rest) = line.split_at(line.find(['{', ' '])?);
    let (labels, number) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let number = number.split_whitespace().next()?.parse().ok()?;
    Some((name.strip_suffix("_total").unwrap_or(name), labels, number))
}

/// Reads labels up to their brace; returns what follows it.
fn labels(mut text: &str) -> Option<(Vec<KeyValue>, &str)> {
    let mut labels = Vec::new();
    loop {
        text = text.strip_prefix(',').unwrap_or(text);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = text.split_once("=\"")?;
        let (value, rest) = quoted(rest)?;
        labels.push(KeyValue::new(name.to_owned(), value));
        text = rest;
    }
}

/// Reads a text up to its closing quote; returns what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut letters) = (String::new(), text.char_indices());
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP lattice_calls Calls that ended.
# TYPE lattice_calls counter
lattice_calls_total{operation="a \"b\" {c}, \\ d\n",path="nats"} 3
lattice_calls_total{operation="e",path="local"} 4
# HELP lattice_host This host.
# TYPE lattice_host info
lattice_host_info{version="1"} 1
# HELP lattice_up_seconds Since the start.
# TYPE lattice_up_seconds gauge
# UNIT lattice_up_seconds seconds
lattice_up_seconds 1.5
# HELP lattice_took_seconds How long.
# TYPE lattice_took_seconds histogram
# UNIT lattice_took_seconds seconds
lattice_took_seconds_sum{target="M"} 0.25
lattice_took_seconds_count{target="M"} 2
lattice_took_seconds_bucket{le="0.1",target="M"} 1 # {trace_id="ab",span_id="cd"} 0.05 1.5
lattice_took_seconds_bucket{le="+Inf",target="M"} 2
# EOF
"#;

    #[test]
    fn the_text_is_read_as_it_was_meant() {
        let known = families(TEXT);
        let told: Vec<_> =
            known.iter().map(|family| (family.name.as_str(), family.is_counter)).collect();
        assert_eq!(
            told,
            [
                ("lattice_calls", true),
                ("lattice_host_info", false),
                ("lattice_up_seconds", false),
                ("lattice_took_seconds_count", true),
                ("lattice_took_seconds_sum", true),
                ("lattice_took_seconds_bucket", true),
            ]
        );
        assert_eq!(known[2].about, "Since the start.");
        let read = samples(TEXT);
        assert!(known.iter().all(|family| read.contains_key(&family.name)), "{read:?}");
        assert_eq!(read.len(), known.len());
        let values =
            |name: &str| -> Vec<f64> { read[name].iter().map(|(_, value)| *value).collect() };
        assert_eq!(values("lattice_calls"), [3.0, 4.0]);
        assert_eq!(values("lattice_up_seconds"), [1.5]);
        assert_eq!(values("lattice_took_seconds_sum"), [0.25]);
        assert_eq!(values("lattice_took_seconds_bucket"), [1.0, 2.0]);
        let (labels, _) = &read["lattice_took_seconds_bucket"][1];
        assert_eq!(labels, &[KeyValue::new("le", "+Inf"), KeyValue::new("target", "M")]);
        let (labels, _) = &read["lattice_calls"][0];
        assert_eq!(
            labels,
            &[KeyValue::new("operation", "a \"b\" {c}, \\ d\n"), KeyValue::new("path", "nats")]
        );
    }

    #[test]
    fn lines_that_are_no_samples_are_passed_over() {
        for line in ["", "name", "name{", "name{a=\"b} 1", "name{a=\"b\"} x", "name x"] {
            assert!(sample(line).is_none(), "{line}");
        }
    }
}

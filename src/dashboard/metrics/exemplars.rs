//! Exemplars: a sampled call behind a bucket of the times of calls, which leads to its trace.
//!
//! The crate that writes the lines of the buckets lets nobody make an exemplar, so they are added
//! to its text.

use std::time::Duration;

use super::operations;
use lattice_engine::meter::exemplars::{ByOperation, Exemplar};
use lattice_protocol::{clock, meter::TargetCounts};

/// An exemplar that is older says nothing about what is so now.
const EXEMPLAR_TIME: Duration = Duration::from_secs(600);

/// The ends of the lines of all buckets of these targets, in the order in which they are written.
pub(super) fn of_buckets(targets: &[TargetCounts], seen: &ByOperation) -> Vec<Option<String>> {
    let oldest = clock::now_ms().saturating_sub(EXEMPLAR_TIME.as_millis() as u64);
    let mut all = Vec::new();
    for (target, counts) in operations(targets) {
        let operation = counts.operation.clone();
        let key = (target.id.clone(), target.link_name.clone(), operation, counts.path);
        let buckets = seen.get(&key).copied().unwrap_or_default();
        let recent = |call: &Exemplar| call.at_ms >= oldest;
        all.extend(buckets.map(|bucket| bucket.filter(recent).map(|call| shown(&call))));
    }
    all
}

/// An exemplar as OpenMetrics writes it behind a bucket.
fn shown(Exemplar { sampled, took_ns, at_ms }: &Exemplar) -> String {
    let [trace_id, span_id] = sampled.ids();
    let (took, at) = (*took_ns as f64 / 1e9, *at_ms as f64 / 1e3);
    format!(r#" # {{trace_id="{trace_id}",span_id="{span_id}"}} {took} {at}"#)
}

/// Adds exemplars to the lines of the buckets of a family, which begin with `beginning`.
pub(super) fn added(text: String, beginning: &str, exemplars: &[Option<String>]) -> String {
    if exemplars.iter().all(Option::is_none) {
        return text;
    }
    let mut exemplars = exemplars.iter();
    let mut told = String::with_capacity(text.len());
    for line in text.lines() {
        told.push_str(line);
        let exemplar = line.starts_with(beginning).then(|| exemplars.next()).flatten();
        told.extend(exemplar.and_then(Option::as_deref));
        told.push('\n');
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exemplars_stand_behind_the_buckets_of_their_family_in_its_order() {
        let text = "took_bucket{le=\"1\"} 1\ntook_bucket{le=\"+Inf\"} 2\ntook_count{} 2\n\
                    other_bucket{le=\"1\"} 1\ntook_bucket{le=\"1\",b=\"\"} 3\n# EOF\n";
        let none = added(text.to_owned(), "took_bucket{", &[None, None, None]);
        assert_eq!(none, text);
        let exemplars = [None, Some(" # {a} 2".to_owned()), Some(" # {b} 3".to_owned())];
        let told = added(text.to_owned(), "took_bucket{", &exemplars);
        let expected = text.replace("+Inf\"} 2", "+Inf\"} 2 # {a} 2").replace("} 3", "} 3 # {b} 3");
        assert_eq!(told, expected);
    }
}

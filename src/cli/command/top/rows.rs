//! How rows of rates are sorted and printed.

use std::cmp::Ordering;

use serde_json::{Value, json};

use crate::args::lattice::TopOrder;
use lattice_client::rates::{Edge, Row};
use lattice_protocol::control::probe::calls::HttpClasses;

/// A row as data.
pub fn to_json(row: &Row) -> Value {
    let mut data = json!({
        "id": row.id, "name": row.name, "hosts": row.hosts,
        "counted_by": if row.by_callers { "callers" } else { "hosts" },
        "calls_per_second": rounded(row.calls_per_second), "errors_per_second": rounded(row.errors_per_second),
        "error_percent": row.error_percent().map(rounded), "local_percent": row.local_percent().map(rounded),
        "in_work": row.in_work,
        "p50_ms": percentile_ms(row, 0.5), "p90_ms": percentile_ms(row, 0.9), "p99_ms": percentile_ms(row, 0.99),
        "calls": row.calls, "errors": row.errors, "failed": row.between.failed, "timed_out": row.between.timed_out,
        "refused": row.between.refused, "abandoned": row.between.abandoned, "total": row.total,
        "made_per_second": rounded(row.made.calls_per_second), "made": row.made.between.calls,
        "made_errors": row.made.errors(),
    });
    if let Some(http) = &row.made.http {
        data["http"] = classes(http);
    }
    if !row.link_name.is_empty() {
        data["link_name"] = Value::from(&*row.link_name);
    }
    if !row.operation.is_empty() {
        data["operation"] = Value::from(&*row.operation);
    }
    data
}

fn classes(http: &HttpClasses) -> Value {
    http.each().into_iter().map(|(class, count)| (class.to_owned(), Value::from(count))).collect()
}

/// The calls of one caller to one target as data.
pub fn edge_to_json(edge: &Edge) -> Value {
    let mut data = json!({
        "caller": edge.caller, "caller_link_name": edge.caller_link_name, "caller_name": edge.caller_name,
        "id": edge.id, "link_name": edge.link_name, "contract_id": edge.contract_id, "name": edge.name,
        "calls_per_second": rounded(edge.calls_per_second), "errors_per_second": rounded(edge.errors_per_second),
        "calls": edge.between.calls, "failed": edge.between.failed, "timed_out": edge.between.timed_out,
        "refused": edge.between.refused, "total": edge.total,
    });
    if let Some(http) = &edge.http {
        data["http"] = classes(http);
    }
    data
}

/// Sorts rows: the most first, names from A to Z.
pub fn sort(rows: &mut [Row], order: TopOrder) {
    rows.sort_by(|a, b| {
        match order {
            TopOrder::Calls => by_calls(a, b),
            TopOrder::Latency => {
                most(a.percentile(0.99), b.percentile(0.99)).then_with(|| by_calls(a, b))
            }
            TopOrder::Errors => most(Some(a.errors_per_second), Some(b.errors_per_second))
                .then_with(|| most(a.error_percent(), b.error_percent()))
                .then_with(|| by_calls(a, b)),
            TopOrder::Name => Ordering::Equal,
        }
        .then_with(|| by_name(a, b))
    });
}

/// Compares numbers, the larger one first and a missing one last.
fn most(a: Option<f64>, b: Option<f64>) -> Ordering {
    b.unwrap_or(-1.0).total_cmp(&a.unwrap_or(-1.0))
}

fn by_calls(a: &Row, b: &Row) -> Ordering {
    most(Some(a.calls_per_second), Some(b.calls_per_second)).then_with(|| b.total.cmp(&a.total))
}

fn by_name(a: &Row, b: &Row) -> Ordering {
    (a.name.to_lowercase(), &a.id, &a.operation).cmp(&(b.name.to_lowercase(), &b.id, &b.operation))
}

/// Rounds to three places.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

fn percentile_ms(row: &Row, share: f64) -> Option<f64> {
    row.percentile(share).map(|ns| (ns / 1e3).round() / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_as_wanted() {
        let row = |name: &str, calls: f64, errors: f64| Row {
            name: name.into(),
            calls_per_second: calls,
            errors_per_second: errors,
            ..Row::default()
        };
        let mut rows = vec![row("b", 1.0, 5.0), row("A", 2.0, 0.0), row("c", 3.0, 1.0)];
        let mut sorted = |order: TopOrder| {
            sort(&mut rows, order);
            rows.iter().map(|row| row.name.clone()).collect::<String>()
        };
        assert_eq!(sorted(TopOrder::Calls), "cAb");
        assert_eq!(sorted(TopOrder::Errors), "bcA");
        assert_eq!(sorted(TopOrder::Name), "Abc");
    }
}

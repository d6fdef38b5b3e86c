//! How rows of rates are sorted and printed.

use serde_json::{Value, json};

use crate::{cli::lattice::TopOrder, client::rates::Row};

/// A row as data.
pub fn to_json(row: &Row) -> Value {
    let ms = |share: f64| row.percentile(share).map(|ns| (ns / 1e3).round() / 1e3);
    let rounded = |value: f64| (value * 1e3).round() / 1e3;
    let mut data = json!({
        "id": row.id, "name": row.name, "hosts": row.hosts,
        "counted_by": if row.by_callers { "callers" } else { "hosts" },
        "calls_per_second": rounded(row.calls_per_second), "errors_per_second": rounded(row.errors_per_second),
        "error_percent": row.error_percent().map(rounded), "local_percent": row.local_percent().map(rounded),
        "in_work": row.in_work, "p50_ms": ms(0.5), "p90_ms": ms(0.9), "p99_ms": ms(0.99),
        "calls": row.between.calls, "failed": row.between.failed, "timed_out": row.between.timed_out,
        "refused": row.between.refused, "abandoned": row.between.abandoned, "total": row.total,
    });
    if !row.link_name.is_empty() {
        data["link_name"] = Value::from(&*row.link_name);
    }
    if !row.operation.is_empty() {
        data["operation"] = Value::from(&*row.operation);
    }
    data
}

/// Sorts rows: the most first, names from A to Z.
pub fn sort(rows: &mut [Row], order: TopOrder) {
    let most = |a: f64, b: f64| b.total_cmp(&a);
    rows.sort_by(|a, b| {
        let names = || (a.name.to_lowercase(), &a.id, &a.operation).cmp(&(b.name.to_lowercase(), &b.id, &b.operation));
        let calls = || most(a.calls_per_second, b.calls_per_second).then_with(|| b.total.cmp(&a.total));
        match order {
            TopOrder::Calls => calls(),
            TopOrder::Latency => {
                most(a.percentile(0.99).unwrap_or(-1.0), b.percentile(0.99).unwrap_or(-1.0)).then_with(calls)
            }
            TopOrder::Errors => most(a.errors_per_second, b.errors_per_second)
                .then_with(|| most(a.error_percent().unwrap_or(-1.0), b.error_percent().unwrap_or(-1.0)))
                .then_with(calls),
            TopOrder::Name => names(),
        }
        .then_with(names)
    });
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

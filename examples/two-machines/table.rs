//! The results of the loads, as a table for people.

use std::{fmt::Write as _, time::Duration};

use crate::walk::disturbance::{Disturbance, Row};

/// A row per disturbance and page, and below it why requests failed.
pub fn markdown(rows: &[Row], frozen: Duration) -> String {
    let mut text = String::from(
        "| while | page of | requests | failures | longest gap | slowest answer |\n|---|---|---|---|---|---|\n",
    );
    let mut reasons = String::new();
    for Row { disturbance, page, report } in rows {
        let mut what = disturbance.words().to_owned();
        if *disturbance == Disturbance::HostFrozen {
            let _ = write!(what, " for {} s", frozen.as_secs());
        }
        let (gap, slowest) = (report.longest_gap.as_millis(), report.slowest.as_millis());
        let (requests, failures) = (report.requests, report.failures);
        let _ = writeln!(
            text,
            "| {what} | the {page} | {requests} | {failures} | {gap} ms | {slowest} ms |"
        );
        for (reason, count) in &report.reasons {
            let _ = writeln!(reasons, "{what}, page of the {page}: {count} × {reason}");
        }
    }
    if !reasons.is_empty() {
        let _ = write!(text, "\n{reasons}");
    }
    text
}

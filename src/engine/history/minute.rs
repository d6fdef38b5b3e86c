//! The figures of a minute, from two looks at the meter.

use std::collections::HashMap;

use crate::meter::Snapshot;
use lattice_protocol::{
    history::figures::{MINUTE_MS, Minute, Row},
    meter::{Tally, TargetCounts},
};

/// Rows of one kind; those with the most calls are kept.
const ROWS_MAX: usize = 256;

/// Counts minutes.
#[derive(Debug, Default)]
pub(super) struct Minutes {
    earlier: Sums,
    /// Since when is counted, in milliseconds since 1970; 0 before the first look.
    since_ms: u64,
}

/// The counts of all operations of a target, by id and link name.
type Sum = HashMap<(String, String), Tally>;

#[derive(Debug, Default)]
struct Sums {
    served: Sum,
    called: Sum,
}

impl Minutes {
    /// Returns whether a minute is over.
    pub(super) fn is_due(&self, now_ms: u64) -> bool {
        self.since_ms == 0 || now_ms / MINUTE_MS != self.since_ms / MINUTE_MS
    }

    /// Takes a look at the meter; returns the minute that is over. The first look begins a minute.
    pub(super) fn take(&mut self, snapshot: &Snapshot, now_ms: u64) -> Option<Minute> {
        let now = Sums { served: sums(&snapshot.served), called: sums(&snapshot.called) };
        let earlier = std::mem::replace(&mut self.earlier, now);
        let since_ms = std::mem::replace(&mut self.since_ms, now_ms);
        // The clock was set back, or this is the first look.
        if since_ms == 0 || now_ms <= since_ms {
            return None;
        }
        Some(Minute {
            end_ms: now_ms / MINUTE_MS * MINUTE_MS,
            counted_ms: now_ms - since_ms,
            served: rows(&earlier.served, &self.earlier.served),
            called: rows(&earlier.called, &self.earlier.called),
        })
    }
}

fn sums(targets: &[TargetCounts]) -> Sum {
    let mut sums = Sum::new();
    for target in targets {
        let sum = sums.entry((target.id.clone(), target.link_name.clone())).or_default();
        sum.add(&target.sum());
    }
    sums
}

/// Returns what was called between two looks.
fn rows(earlier: &Sum, now: &Sum) -> Vec<Row> {
    let rows = now.iter().map(|((id, link_name), tally)| {
        let tally = match earlier.get(&(id.clone(), link_name.clone())) {
            // A target that was forgotten meanwhile counts from its beginning.
            Some(earlier) if earlier.calls <= tally.calls => tally.since(earlier),
            _ => tally.clone(),
        };
        Row { id: id.clone(), link_name: link_name.clone(), tally }
    });
    let is_quiet = |row: &Row| row.tally.calls == 0 && row.tally.in_work == 0;
    let mut rows: Vec<Row> = rows.filter(|row| !is_quiet(row)).collect();
    rows.sort_by(|a, b| {
        (b.tally.calls, &a.id, &a.link_name).cmp(&(a.tally.calls, &b.id, &b.link_name))
    });
    rows.truncate(ROWS_MAX);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::{Meter, Outcome};
    use lattice_protocol::meter::Path;

    #[test]
    fn a_minute_has_what_was_called_in_it() {
        let meter = Meter::default();
        let (busy, quiet) = (meter.serve("MA", ""), meter.serve("MQUIET", ""));
        busy.begin("Before", Path::Local).end(Outcome::Answered);
        let mut minutes = Minutes::default();
        assert!(minutes.is_due(70_000));
        assert_eq!(minutes.take(&meter.snapshot(), 70_000), None);
        assert!(!minutes.is_due(119_999) && minutes.is_due(120_001));
        for outcome in [Outcome::Answered, Outcome::Failed] {
            busy.begin("Op", Path::Local).end(outcome);
            busy.begin("Other", Path::Nats).end(outcome);
        }
        let minute = minutes.take(&meter.snapshot(), 120_001).unwrap();
        assert_eq!((minute.end_ms, minute.counted_ms), (120_000, 50_001));
        let [row] = minute.served.as_slice() else { panic!("{minute:?}") };
        assert_eq!((&*row.id, row.tally.calls, row.tally.errors()), ("MA", 4, 2));
        assert_eq!(row.tally.took.count(), 4);
        let next = minutes.take(&meter.snapshot(), 180_000).unwrap();
        assert!(next.served.is_empty(), "who is not called is not in it: {next:?}");
        drop(quiet);
    }

    #[test]
    fn a_clock_that_is_set_back_begins_anew() {
        let (meter, mut minutes) = (Meter::default(), Minutes::default());
        minutes.take(&meter.snapshot(), 600_000);
        assert_eq!(minutes.take(&meter.snapshot(), 300_000), None);
        assert_eq!(minutes.take(&meter.snapshot(), 360_000).map(|m| m.end_ms), Some(360_000));
    }
}

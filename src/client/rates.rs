//! Rates of calls, from what hosts have counted: two looks at each host, subtracted and added up.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lattice_protocol::{
    control::probe::calls::{Look, Row as HostRow},
    meter::{Path, Tally},
};

/// An actor or a provider, or one of its operations, over all hosts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    pub id: String,
    pub link_name: String,
    pub name: String,
    /// Empty unless rows are of operations.
    pub operation: String,
    /// Hosts that counted it.
    pub hosts: usize,
    /// Nobody counted what it served, so its callers' numbers are taken.
    pub by_callers: bool,
    pub calls_per_second: f64,
    pub errors_per_second: f64,
    /// Of the time between the looks.
    pub between: Tally,
    pub local_between: u64,
    /// Since the hosts began to count.
    pub total: u64,
    pub in_work: u64,
}

impl Row {
    /// Errors of a hundred calls.
    pub fn error_percent(&self) -> Option<f64> {
        (self.between.calls > 0)
            .then(|| self.between.errors() as f64 * 100.0 / self.between.calls as f64)
    }

    /// Calls of a hundred that did not leave their host.
    pub fn local_percent(&self) -> Option<f64> {
        (self.between.calls > 0)
            .then(|| self.local_between as f64 * 100.0 / self.between.calls as f64)
    }

    /// The time that this share of calls did not exceed, in nanoseconds.
    pub fn percentile(&self, share: f64) -> Option<f64> {
        self.between.took.percentile(share)
    }
}

/// The rows of an earlier look, by id and link name.
type Before<'a> = HashMap<(&'a str, &'a str), &'a HostRow>;
/// Id, link name and operation.
type Key = (String, String, String);

/// The rows between an earlier look at each host and one of now. Of a host that was not looked at
/// before, or was started again since, everything it has counted is taken.
pub fn between(earlier: &HashMap<String, Look>, now: &[Look]) -> Vec<Row> {
    let served: BTreeSet<(&str, &str)> =
        now.iter().flat_map(|look| &look.served).map(|row| (&*row.id, &*row.link_name)).collect();
    let mut rows: BTreeMap<Key, Row> = BTreeMap::new();
    for look in now {
        let before = earlier.get(&look.host_id).filter(|before| before.uptime_ms <= look.uptime_ms);
        let took_ms = look.uptime_ms - before.map_or(0, |before| before.uptime_ms);
        let seconds = took_ms.max(1) as f64 / 1000.0;
        let (served_before, called_before) = match before {
            Some(before) => (index(&before.served), index(&before.called)),
            None => Default::default(),
        };
        for row in &look.served {
            add(&mut rows, row, &served_before, seconds, false);
        }
        for row in look.called.iter().filter(|row| !served.contains(&(&*row.id, &*row.link_name))) {
            add(&mut rows, row, &called_before, seconds, true);
        }
    }
    rows.into_values().collect()
}

fn index(rows: &[HostRow]) -> Before<'_> {
    rows.iter().map(|row| ((&*row.id, &*row.link_name), row)).collect()
}

fn add(
    rows: &mut BTreeMap<Key, Row>,
    row: &HostRow,
    before: &Before<'_>,
    seconds: f64,
    by_callers: bool,
) {
    let before = before.get(&(&*row.id, &*row.link_name));
    // A target that was not called has a row nevertheless.
    let operations: BTreeSet<&str> = match row.operations.is_empty() {
        true => BTreeSet::from([""]),
        false => row.operations.iter().map(|counts| &*counts.operation).collect(),
    };
    for operation in operations {
        let key = (row.id.clone(), row.link_name.clone(), operation.to_owned());
        let sum = rows.entry(key).or_insert_with(|| Row {
            id: row.id.clone(),
            link_name: row.link_name.clone(),
            operation: operation.to_owned(),
            by_callers,
            ..Row::default()
        });
        if sum.name.is_empty() {
            row.name.clone_into(&mut sum.name);
        }
        sum.hosts += 1;
        for counts in row.operations.iter().filter(|counts| counts.operation == operation) {
            let mut earlier = before.iter().flat_map(|before| &before.operations);
            let earlier = earlier
                .find(|earlier| earlier.operation == operation && earlier.path == counts.path);
            let between = earlier
                .map_or_else(|| counts.tally.clone(), |earlier| counts.tally.since(&earlier.tally));
            sum.calls_per_second += between.calls as f64 / seconds;
            sum.errors_per_second += between.errors() as f64 / seconds;
            sum.total += counts.tally.calls;
            sum.in_work += counts.tally.in_work;
            if counts.path == Path::Local {
                sum.local_between += between.calls;
            }
            sum.between.add(&between);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_engine::meter::{Meter, Outcome};
    use lattice_protocol::meter::TargetCounts;

    fn row(counts: TargetCounts) -> HostRow {
        let TargetCounts { id, link_name, operations } = counts;
        HostRow { name: format!("name of {id}"), id, link_name, operations, ..HostRow::default() }
    }

    fn look(host: &str, uptime_ms: u64, meter: &Meter) -> Look {
        let snapshot = meter.snapshot();
        Look {
            host_id: host.into(),
            uptime_ms,
            served: snapshot.served.into_iter().map(row).collect(),
            called: snapshot.called.into_iter().map(row).collect(),
            ..Look::default()
        }
    }

    fn entity(id: &str) -> lattice_protocol::rpc::invocation::Entity {
        lattice_protocol::rpc::invocation::Entity::new(id, "", "")
    }

    #[test]
    fn rates_are_of_the_time_between_two_looks_and_added_up_over_hosts() {
        let (first, second) = (Meter::default(), Meter::default());
        let (here, there) = (first.serve("MA", ""), second.serve("MA", ""));
        (0..5).for_each(|_| here.begin("Op", Path::Local).end(Outcome::Answered));
        let earlier = HashMap::from([
            ("N1".to_owned(), look("N1", 10_000, &first)),
            ("N2".to_owned(), look("N2", 70_000, &second)),
        ]);
        (0..4).for_each(|_| here.begin("Op", Path::Local).end(Outcome::Answered));
        (0..2).for_each(|_| there.begin("Op", Path::Nats).end(Outcome::Failed));
        let _in_work = there.begin("Op", Path::Nats);
        let rows = between(&earlier, &[look("N1", 12_000, &first), look("N2", 71_000, &second)]);
        let [row] = rows.as_slice() else { panic!("{rows:?}") };
        assert_eq!((row.hosts, row.total, row.in_work, &*row.name), (2, 11, 1, "name of MA"));
        assert_eq!((row.calls_per_second, row.errors_per_second), (4.0, 2.0));
        assert_eq!(
            (row.error_percent().unwrap().round(), row.local_percent().unwrap().round()),
            (33.0, 67.0)
        );
        assert!(row.percentile(0.5).is_some());
    }

    #[test]
    fn a_host_that_was_started_again_counts_from_its_start() {
        let (before, after) = (Meter::default(), Meter::default());
        (0..50)
            .for_each(|_| before.serve("MA", "").begin("Op", Path::Local).end(Outcome::Answered));
        after.serve("MA", "").begin("Op", Path::Local).end(Outcome::Answered);
        let earlier = HashMap::from([("N1".to_owned(), look("N1", 90_000, &before))]);
        let rows = between(&earlier, &[look("N1", 500, &after)]);
        assert_eq!((rows[0].calls_per_second, rows[0].total), (2.0, 1));
    }

    #[test]
    fn callers_are_believed_only_about_what_nobody_serves_for_us() {
        let meter = Meter::default();
        meter.serve("MA", "").begin("Op", Path::Nats).end(Outcome::Answered);
        meter.called(&entity("MA"), "Op").end(Outcome::Answered);
        meter.called(&entity("VX"), "Op").end(Outcome::Answered);
        meter.serve("MIDLE", "");
        let rows = between(&HashMap::new(), &[look("N1", 1000, &meter)]);
        let shown: Vec<_> = rows.iter().map(|row| (&*row.id, row.by_callers, row.total)).collect();
        assert_eq!(shown, [("MA", false, 1), ("MIDLE", false, 0), ("VX", true, 1)]);
    }
}

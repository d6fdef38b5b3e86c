//! Rates of calls, from what hosts have counted: two looks at each host, subtracted and added up.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lattice_protocol::{
    control::probe::calls::{Edge as HostEdge, HttpClasses, Look, Recent, Row as HostRow, RowKey},
    meter::{self, Path, Tally},
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
    /// Calls to it, and of a provider those that it made as well: an HTTP server serves by making
    /// calls.
    pub calls_per_second: f64,
    /// Of these calls, those that went wrong in the eyes of their callers.
    pub errors_per_second: f64,
    /// These calls, of the time between the looks.
    pub between: Tally,
    /// How many of them there were, and how many went wrong.
    pub calls: u64,
    pub errors: u64,
    pub local_between: u64,
    /// The calls it made, as far as hosts count these.
    pub made: Made,
    /// Since the hosts began to count.
    pub total: u64,
    pub in_work: u64,
}

/// Calls that somebody made, of the time between the looks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Made {
    pub calls_per_second: f64,
    pub errors_per_second: f64,
    pub between: Tally,
    /// Since the hosts began to count.
    pub total: u64,
    /// Answers of an HTTP server.
    pub http: Option<HttpClasses>,
    pub http_rate: Option<HttpRate>,
}

/// Answers of an HTTP server a second, by the class of their status.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HttpRate {
    pub success: f64,
    pub redirection: f64,
    pub client_error: f64,
    pub server_error: f64,
}

impl HttpRate {
    fn add(&mut self, http: &HttpClasses, seconds: f64) {
        self.success += http.success as f64 / seconds;
        self.redirection += http.redirection as f64 / seconds;
        self.client_error += http.client_error as f64 / seconds;
        self.server_error += http.server_error as f64 / seconds;
    }

    pub fn plus(&mut self, other: &Self) {
        self.success += other.success;
        self.redirection += other.redirection;
        self.client_error += other.client_error;
        self.server_error += other.server_error;
    }
}

impl Made {
    fn add(&mut self, edge: &Edge) {
        self.calls_per_second += edge.calls_per_second;
        self.errors_per_second += edge.errors_per_second;
        self.between.add(&edge.between);
        self.total = self.total.saturating_add(edge.total);
        if let Some(http) = &edge.http {
            self.http.get_or_insert_default().add(http);
        }
        if let Some(rate) = &edge.http_rate {
            self.http_rate.get_or_insert_default().plus(rate);
        }
    }

    /// Returns how many went wrong: calls, or answers that say so if these are more.
    pub fn errors(&self) -> u64 {
        errors(&self.between, self.http.as_ref())
    }
}

fn errors(between: &Tally, http: Option<&HttpClasses>) -> u64 {
    between.errors().max(http.map_or(0, |http| http.server_error))
}

/// The calls of one caller to one target over all hosts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edge {
    pub caller: String,
    pub caller_link_name: String,
    pub caller_name: String,
    /// Empty for calls that lead nowhere.
    pub id: String,
    pub link_name: String,
    pub contract_id: String,
    pub name: String,
    pub calls_per_second: f64,
    pub errors_per_second: f64,
    /// Of the time between the looks.
    pub between: Tally,
    /// Since the hosts began to count.
    pub total: u64,
    /// Answers of an HTTP server, of the time between the looks.
    pub http: Option<HttpClasses>,
    pub http_rate: Option<HttpRate>,
    pub recent: Recent,
}

impl Edge {
    /// Whether calls enter the lattice here: their caller is a provider or a tool.
    pub fn is_entry(&self) -> bool {
        !self.caller.starts_with('M')
    }

    pub fn errors(&self) -> u64 {
        errors(&self.between, self.http.as_ref())
    }
}

/// The calls of a lattice, or of a host, as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Every call between two of the lattice: one request may need several.
    pub calls_per_second: f64,
    /// Of these calls: a request that fails may be several of them.
    pub errors_per_second: f64,
    /// Calls that came from outside: over HTTP, as messages, from tools.
    pub requests_per_second: f64,
    /// Of these requests.
    pub request_errors_per_second: f64,
}

impl Totals {
    /// Adds up. An error is known at its caller, where hosts count that, so it is counted once.
    pub fn of(rows: &[Row], edges: &[Edge]) -> Self {
        let mut totals = Self::default();
        for row in rows {
            totals.calls_per_second += row.arriving_per_second();
            if edges.is_empty() {
                totals.errors_per_second += row.errors_per_second;
            }
        }
        for edge in edges {
            totals.errors_per_second += edge.errors_per_second;
            if edge.id.is_empty() {
                // It has no row.
                totals.calls_per_second += edge.calls_per_second;
            }
            if edge.is_entry() {
                totals.requests_per_second += edge.calls_per_second;
                totals.request_errors_per_second += edge.errors_per_second;
            }
        }
        totals
    }
}

impl Row {
    /// Errors of a hundred of its calls.
    pub fn error_percent(&self) -> Option<f64> {
        (self.calls > 0).then(|| (self.errors as f64 * 100.0 / self.calls as f64).min(100.0))
    }

    /// Whether the calls that it makes are those that it is there for.
    fn serves_by_calling(&self) -> bool {
        self.id.starts_with('V')
    }

    /// Calls to it a second: the calls of all rows together are those of the lattice.
    fn arriving_per_second(&self) -> f64 {
        let made = if self.serves_by_calling() { self.made.calls_per_second } else { 0.0 };
        self.calls_per_second - made
    }

    /// Takes in what callers say of it, all together: they know of calls that never arrived, and of
    /// answers that were errors.
    fn judge(&mut self, seen: &Made) {
        self.calls = self.between.calls;
        self.errors = self.between.errors();
        if seen.between.calls > self.calls {
            self.calls = seen.between.calls;
            self.calls_per_second = self.calls_per_second.max(seen.calls_per_second);
        }
        self.total = self.total.max(seen.total);
        if seen.errors() > self.errors {
            self.errors = seen.errors();
            self.errors_per_second = self.errors_per_second.max(seen.errors_per_second);
        }
        if self.serves_by_calling() {
            self.calls_per_second += self.made.calls_per_second;
            self.errors_per_second += self.made.errors_per_second;
            self.calls = self.calls.saturating_add(self.made.between.calls);
            self.errors = self.errors.saturating_add(self.made.errors());
            self.total = self.total.saturating_add(self.made.total);
            self.between.add(&self.made.between);
        }
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
/// before, or was started again since, everything it has counted is taken. `edges` are those of the
/// same looks ([`edges`]).
pub fn between(earlier: &HashMap<String, Look>, now: &[Look], edges: &[Edge]) -> Vec<Row> {
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
    let mut seen: BTreeMap<Key, Made> = BTreeMap::new();
    let names: HashMap<&String, &String> =
        edges.iter().map(|edge| (&edge.id, &edge.name)).collect();
    for edge in edges {
        let caller = (edge.caller.clone(), edge.caller_link_name.clone(), String::new());
        // Rows of operations are of what was served only.
        if let Some(row) = rows.get_mut(&caller) {
            row.made.add(edge);
        }
        let target = (edge.id.clone(), edge.link_name.clone(), String::new());
        seen.entry(target).or_default().add(edge);
    }
    for (id, link_name, operation) in seen.keys() {
        // Nobody counts what it serves, or it runs nowhere.
        if !id.is_empty()
            && !served.contains(&(&**id, &**link_name))
            && !has_rows(&rows, id, link_name)
        {
            let row = Row {
                id: id.clone(),
                link_name: link_name.clone(),
                name: names.get(id).map(|name| (*name).clone()).unwrap_or_default(),
                operation: operation.clone(),
                hosts: 1,
                by_callers: true,
                ..Row::default()
            };
            rows.insert((id.clone(), link_name.clone(), operation.clone()), row);
        }
    }
    for (key, row) in &mut rows {
        row.judge(seen.get(key).unwrap_or(&Made::default()));
    }
    rows.into_values().collect()
}

fn has_rows(rows: &BTreeMap<Key, Row>, id: &str, link_name: &str) -> bool {
    let mut of_it = rows.range((id.to_owned(), link_name.to_owned(), String::new())..);
    of_it.next().is_some_and(|((found, name, _), _)| found == id && name == link_name)
}

/// The edges between an earlier look at each host and one of now, as [`between`] compares them.
pub fn edges(earlier: &HashMap<String, Look>, now: &[Look]) -> Vec<Edge> {
    let mut edges: BTreeMap<RowKey, Edge> = BTreeMap::new();
    for look in now {
        let before = earlier.get(&look.host_id).filter(|before| before.uptime_ms <= look.uptime_ms);
        let took_ms = look.uptime_ms - before.map_or(0, |before| before.uptime_ms);
        let seconds = took_ms.max(1) as f64 / 1000.0;
        let before: BTreeMap<RowKey, &HostEdge> =
            before.iter().flat_map(|look| &look.edges).map(|edge| (edge.key(), edge)).collect();
        for edge in &look.edges {
            let sum = edges.entry(edge.key()).or_insert_with(|| named(edge));
            add_edge(sum, edge, before.get(&edge.key()).copied(), seconds);
        }
    }
    edges.into_values().collect()
}

/// An edge without numbers.
fn named(edge: &HostEdge) -> Edge {
    Edge {
        caller: edge.caller.clone(),
        caller_link_name: edge.caller_link_name.clone(),
        caller_name: edge.caller_name.clone(),
        id: edge.id.clone(),
        link_name: edge.link_name.clone(),
        contract_id: edge.contract_id.clone(),
        name: edge.name.clone(),
        ..Edge::default()
    }
}

fn add_edge(sum: &mut Edge, edge: &HostEdge, before: Option<&HostEdge>, seconds: f64) {
    let total = meter::sum(&edge.operations);
    let between = match before {
        Some(before) => total.since(&meter::sum(&before.operations)),
        None => total.clone(),
    };
    let http = edge.http.map(|http| match before.and_then(|before| before.http) {
        Some(before) => http.since(&before),
        None => http,
    });
    sum.calls_per_second += between.calls as f64 / seconds;
    sum.errors_per_second += errors(&between, http.as_ref()) as f64 / seconds;
    sum.total = sum.total.saturating_add(total.calls);
    sum.between.add(&between);
    if let Some(http) = &http {
        sum.http.get_or_insert_default().add(http);
        sum.http_rate.get_or_insert_default().add(http, seconds);
    }
    sum.recent.add(&edge.recent);
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
    use lattice_protocol::{meter::TargetCounts, rpc::invocation::Entity};

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

    fn edge(counts: lattice_engine::meter::edges::EdgeCounts) -> HostEdge {
        let TargetCounts { id, link_name, operations } = counts.counts;
        HostEdge {
            caller: counts.caller,
            caller_link_name: counts.caller_link_name,
            id,
            link_name,
            contract_id: counts.contract_id,
            operations,
            recent: counts.recent,
            http: counts.http,
            ..HostEdge::default()
        }
    }

    #[test]
    fn errors_are_those_of_their_caller_and_counted_once_in_all() {
        let (first, second) = (Meter::default(), Meter::default());
        let web = first.caller("VWEB", "default").to(&entity("MA"));
        web.begin("Handle").end(Outcome::Answered);
        web.answered(200);
        web.begin("Handle").end(Outcome::Answered);
        web.answered(502);
        let echo = first.serve("MA", "");
        (0..2).for_each(|_| echo.begin("Handle", Path::Local).end(Outcome::Answered));
        first.serve("VWEB", "default");
        for (meter, count) in [(&first, 3), (&second, 1)] {
            let edge = meter.caller("MA", "").to(&Entity::new("VGONE", "default", "acme:x"));
            (0..count).for_each(|_| edge.begin("Op").end(Outcome::Refused));
        }
        let look = |host: &str, meter: &Meter| {
            let edges = meter.edges().into_iter().map(edge).collect();
            let mut told = look(host, 1000, meter);
            // Hosts tell sums, unless they are asked for operations.
            let served = told.served.iter_mut().flat_map(|row| &mut row.operations);
            served.for_each(|counts| counts.operation.clear());
            Look { edges, ..told }
        };
        let now = [look("N1", &first), look("N2", &second)];
        let edges = super::edges(&HashMap::new(), &now);
        let rows = between(&HashMap::new(), &now, &edges);
        let row = |id: &str| rows.iter().find(|row| row.id == id).unwrap();
        // An answer 502 is an error, of the server and of the actor alike.
        for id in ["MA", "VWEB"] {
            let row = row(id);
            assert_eq!((row.calls_per_second, row.errors_per_second, row.total), (2.0, 1.0, 2));
            assert_eq!(row.error_percent(), Some(50.0), "{id}");
        }
        let made = &row("MA").made;
        assert_eq!((made.calls_per_second, made.errors_per_second, made.errors()), (4.0, 4.0, 4));
        let totals = Totals::of(&rows, &edges);
        assert_eq!((totals.requests_per_second, totals.request_errors_per_second), (2.0, 1.0));
        assert_eq!((totals.calls_per_second, totals.errors_per_second), (6.0, 5.0));
        // The same look again: nothing happened between.
        let earlier: HashMap<String, Look> =
            now.iter().map(|look| (look.host_id.clone(), look.clone())).collect();
        let later = now.map(|look| Look { uptime_ms: 2000, ..look });
        assert!(super::edges(&earlier, &later).iter().all(|edge| edge.errors_per_second == 0.0));
    }

    fn entity(id: &str) -> Entity {
        Entity::new(id, "", "")
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
        let now = [look("N1", 12_000, &first), look("N2", 71_000, &second)];
        let rows = between(&earlier, &now, &[]);
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
        let rows = between(&earlier, &[look("N1", 500, &after)], &[]);
        assert_eq!((rows[0].calls_per_second, rows[0].total), (2.0, 1));
    }

    #[test]
    fn callers_are_believed_only_about_what_nobody_serves_for_us() {
        let meter = Meter::default();
        meter.serve("MA", "").begin("Op", Path::Nats).end(Outcome::Answered);
        meter.called(&entity("MA"), "Op").end(Outcome::Answered);
        meter.called(&entity("VX"), "Op").end(Outcome::Answered);
        meter.serve("MIDLE", "");
        let rows = between(&HashMap::new(), &[look("N1", 1000, &meter)], &[]);
        let shown: Vec<_> = rows.iter().map(|row| (&*row.id, row.by_callers, row.total)).collect();
        assert_eq!(shown, [("MA", false, 1), ("MIDLE", false, 0), ("VX", true, 1)]);
    }
}

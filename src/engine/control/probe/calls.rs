//! The calls this host served and made, counted: `probe.{host}.calls`.
//!
//! The answer is a [`Look`]. Numbers are totals since the host started, so a client that wants
//! rates asks twice. Rows that do not fit into one message are asked for with [`Ask::after`], which
//! the answer before gives in [`Look::next`].

use std::collections::HashMap;

use crate::{
    control::{
        server::{Answer, Server, now},
        state::json_bytes,
    },
    failures::name_of,
    meter::edges::EdgeCounts,
};
use lattice_protocol::{
    clock,
    control::probe::calls::{Ask, Edge, Look, Row, RowKey},
    links::Table,
    meter::{OperationCounts, TargetCounts},
};

/// One answer may take the server's limit divided by this.
const PART_OF_PAYLOAD: usize = 2;

/// Name and reference of what runs here, by public key and link name.
type References = HashMap<(String, String), (String, String)>;

impl Server {
    pub(in crate::control) fn probe_calls(&self, ask: &Ask) -> Answer {
        now(&self
            .look(ask, self.parts.context.ctl.client.server_info().max_payload / PART_OF_PAYLOAD))
    }

    fn look(&self, ask: &Ask, bytes_max: usize) -> Look {
        let facts = self.parts.context.state.facts();
        let mut look = Look {
            host_id: facts.id.to_string(),
            friendly_name: facts.friendly_name.clone(),
            uptime_ms: clock::millis(self.parts.router.meter().uptime()),
            memory_bytes: memory_bytes(),
            ..Look::default()
        };
        let meter = self.parts.router.meter();
        let snapshot = meter.snapshot();
        let (references, table) = (self.references(), self.parts.context.links.table());
        let served = snapshot.served.into_iter().map(|counts| (false, counts));
        let all = served.chain(snapshot.called.into_iter().map(|counts| (true, counts)));
        let rows = all.map(|(called, counts)| {
            let row = row(counts, (!called).then_some(&references), &table, ask.operations);
            (row.key(called), if called { Told::Called(row) } else { Told::Served(row) })
        });
        // In the order of their keys, as rows are.
        let edges = if ask.edges { meter.edges() } else { Vec::new() };
        let edges = edges
            .into_iter()
            .map(|counts| edge(counts, &table, ask.operations))
            .map(|edge| (edge.key(), Told::Edge(Box::new(edge))));
        let wanted =
            rows.chain(edges).filter(|(key, _)| ask.after.as_ref().is_none_or(|after| key > after));
        fill(&mut look, wanted, bytes_max);
        look
    }

    /// Returns the name and the reference of everything that runs here, by id and link name.
    fn references(&self) -> References {
        let actors = self.parts.actors.running();
        let actors = actors.iter().map(|actor| {
            let name = actor.name.clone().unwrap_or_default();
            ((actor.id.to_string(), String::new()), (name, actor.reference.clone()))
        });
        let providers = self.parts.providers.running();
        let providers = providers.iter().map(|provider| {
            let key = (provider.id.to_string(), provider.link_name.to_string());
            (key, (provider.name.clone(), provider.reference.clone()))
        });
        actors.chain(providers).collect()
    }
}

fn edge(edge: EdgeCounts, table: &Table, by_operation: bool) -> Edge {
    let EdgeCounts { caller, caller_link_name, contract_id, counts, recent, http } = edge;
    let TargetCounts { id, link_name, operations } = counts;
    Edge {
        caller_name: name_of(table, &caller),
        caller,
        caller_link_name,
        name: name_of(table, &id),
        id,
        link_name,
        contract_id,
        operations: if by_operation { operations } else { together(operations) },
        recent,
        http,
    }
}

fn row(counts: TargetCounts, here: Option<&References>, table: &Table, by_operation: bool) -> Row {
    let TargetCounts { id, link_name, operations } = counts;
    let running = here.and_then(|here| here.get(&(id.clone(), link_name.clone())));
    let (name, reference) = match running {
        Some((name, reference)) => (name.clone(), Some(reference.clone())),
        None => (table.claims(&id).map(|claims| claims.name.clone()).unwrap_or_default(), None),
    };
    let operations = if by_operation { operations } else { together(operations) };
    Row { id, link_name, name, reference, operations }
}

/// The numbers of all operations, for each path.
fn together(operations: Vec<OperationCounts>) -> Vec<OperationCounts> {
    let mut sums: Vec<OperationCounts> = Vec::new();
    for counts in operations {
        match sums.iter_mut().find(|sum| sum.path == counts.path) {
            Some(sum) => sum.tally.add(&counts.tally),
            None => sums.push(OperationCounts { operation: String::new(), ..counts }),
        }
    }
    sums
}

/// One row of an answer.
enum Told {
    Served(Row),
    Called(Row),
    Edge(Box<Edge>),
}

impl Told {
    fn json_bytes(&self) -> usize {
        match self {
            Self::Served(row) | Self::Called(row) => json_bytes(row),
            Self::Edge(edge) => json_bytes(edge),
        }
    }
}

/// Takes rows until the next one would not fit; at least one.
fn fill(look: &mut Look, rows: impl Iterator<Item = (RowKey, Told)>, bytes_max: usize) {
    let mut bytes = 0;
    let mut last = None;
    for (key, row) in rows {
        bytes += row.json_bytes();
        // A first row that is too large is told all the same, or the next page would begin with it
        // for ever.
        if bytes > bytes_max && last.is_some() {
            look.next = last;
            return;
        }
        last = Some(key);
        match row {
            Told::Served(row) => look.served.push(row),
            Told::Called(row) => look.called.push(row),
            Told::Edge(edge) => look.edges.push(*edge),
        }
    }
}

/// The resident memory of this process; only Linux tells.
pub fn memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(resident.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::{Meter, Outcome};
    use lattice_protocol::meter::Path;

    #[test]
    fn what_does_not_fit_is_asked_for_with_the_next_look() {
        let rows = |after: Option<&RowKey>| {
            let row = |n: u32| Row { id: format!("M{n}"), name: "x".repeat(100), ..Row::default() };
            let told = |row: Row| match row.id.as_str() {
                "M0" | "M1" | "M2" | "M3" => (row.key(false), Told::Served(row)),
                "M4" | "M5" | "M6" => (row.key(true), Told::Called(row)),
                _ => {
                    let edge = Edge { caller: "MC".into(), id: row.id, ..Edge::default() };
                    (edge.key(), Told::Edge(Box::new(edge)))
                }
            };
            let all: Vec<_> = (0..10).map(row).map(told).collect();
            all.into_iter()
                .filter(|(key, _)| after.is_none_or(|after| key > after))
                .collect::<Vec<_>>()
        };
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let mut look = Look::default();
            fill(&mut look, rows(after.as_ref()).into_iter(), 400);
            let before = seen.len();
            seen.extend(look.served.into_iter().chain(look.called).map(|row| row.id));
            seen.extend(look.edges.into_iter().map(|edge| edge.id));
            assert!(seen.len() > before);
            after = look.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, (0..10).map(|n| format!("M{n}")).collect::<Vec<_>>());
    }

    #[test]
    fn operations_are_added_up_for_each_path() {
        let meter = Meter::default();
        let target = meter.serve("MA", "");
        for (operation, path) in [("A", Path::Local), ("B", Path::Local), ("A", Path::Nats)] {
            target.begin(operation, path).end(Outcome::Answered);
        }
        let sums = together(meter.snapshot().served.remove(0).operations);
        let sums: Vec<_> =
            sums.iter().map(|sum| (&*sum.operation, sum.path, sum.tally.calls)).collect();
        assert_eq!(sums, [("", Path::Local, 2), ("", Path::Nats, 1)]);
    }

    #[test]
    fn a_look_is_read_back() {
        let meter = Meter::default();
        meter.serve("MA", "").begin("Op", Path::Local).end(Outcome::Failed);
        let operations = meter.snapshot().served.remove(0).operations;
        let row = Row { id: "MA".into(), operations, ..Row::default() };
        let look = Look { host_id: "N".into(), served: vec![row], ..Look::default() };
        let json = serde_json::to_string(&look).unwrap();
        assert!(json.contains(r#""operation":"Op","path":"local","calls":1,"failed":1"#), "{json}");
        assert_eq!(serde_json::from_str::<Look>(&json).unwrap(), look);
    }
}

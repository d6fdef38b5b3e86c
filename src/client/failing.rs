//! Which calls fail now: one judgement for the doctor, for the page and for whoever else asks.
//!
//! Hosts count the calls of the last seconds at their callers ([`Recent`]). An edge of which a part
//! fails that is worth to say ([`SHARE_MIN`]) is an effect that somebody feels now, so it comes
//! before every slip of configuration.

use std::collections::BTreeMap;

use super::names::or_id;
use lattice_protocol::{
    control::probe::calls::{Look, Recent, RowKey, TOOLS},
    links::link_option,
};

/// The part of the calls that must fail to be told.
const SHARE_MIN: f64 = 0.01;

/// An edge whose calls fail now.
#[derive(Clone, Debug, PartialEq)]
pub struct Failing {
    pub caller: String,
    pub caller_link_name: String,
    /// The name of the caller.
    pub caller_name: String,
    /// Empty for calls that lead nowhere.
    pub target: String,
    /// The name of the target; of calls that lead nowhere what was asked for.
    pub target_name: String,
    pub contract_id: String,
    pub link_name: String,
    pub recent: Recent,
    pub cause: Cause,
}

/// Why calls fail, as far as it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The target runs nowhere.
    Absent,
    /// There is no target: a link or a claim is missing.
    Nowhere,
    /// The target answers with errors, or does not answer.
    Errors,
}

impl Failing {
    /// The fault, in a sentence without its full stop.
    pub fn text(&self) -> String {
        let Self { caller_name, target_name, recent, .. } = self;
        let on = match self.contract_id.as_str() {
            "" => String::new(),
            contract if contract == target_name => String::new(),
            contract => format!(" ({contract})"),
        };
        let why = match self.cause {
            Cause::Absent => ", which runs nowhere",
            Cause::Nowhere => ", which it may not call",
            Cause::Errors => "",
        };
        format!(
            "{} of {} calls of {caller_name} to {target_name}{on} failed in the last {} s{why}",
            recent.errors(),
            recent.calls.max(recent.errors()),
            recent.ms.div_ceil(1000).max(1)
        )
    }

    /// The command that mends it, or that says more.
    pub fn fix(&self) -> String {
        let Self { caller_name, target, target_name, contract_id, link_name, .. } = self;
        match self.cause {
            Cause::Absent if target.starts_with('V') => format!(
                "start it: host start provider {}{}",
                reference(target, target_name),
                link_option(link_name)
            ),
            Cause::Absent => format!("start it: host start actor {target_name}"),
            Cause::Nowhere => format!(
                "host explain {caller_name} {contract_id}{} says what is missing",
                link_option(link_name)
            ),
            Cause::Errors => {
                let who = if self.caller.starts_with('M') { caller_name } else { target_name };
                format!("host logs {who} has the last of them, with their reasons")
            }
        }
    }

    /// The part of the calls that failed, from 0 to 1.
    pub fn share(&self) -> f64 {
        let errors = self.recent.errors();
        errors as f64 / self.recent.calls.max(errors).max(1) as f64
    }
}

/// How a provider is started: built-in ones by their reference, others by what people know.
fn reference(id: &str, name: &str) -> String {
    let builtin = lattice_protocol::builtin::by_key(id);
    builtin.map_or_else(|| name.to_owned(), lattice_protocol::builtin::Known::reference)
}

/// Says which calls fail now, the worst first; `runs` tells whether an actor or a provider runs
/// anywhere, and nothing where not every host has told what it runs. Tools that call what is not
/// there are no fault of the lattice.
pub fn failing(looks: &[Look], runs: impl Fn(&str) -> Option<bool>) -> Vec<Failing> {
    let mut edges: BTreeMap<RowKey, Failing> = BTreeMap::new();
    let all = looks.iter().flat_map(|look| &look.edges).filter(|edge| edge.caller != TOOLS);
    for edge in all {
        let of_edge = edges.entry(edge.key()).or_insert_with(|| Failing {
            caller: edge.caller.clone(),
            caller_link_name: edge.caller_link_name.clone(),
            caller_name: or_id(&edge.caller_name, &edge.caller).to_owned(),
            target: edge.id.clone(),
            target_name: match edge.id.as_str() {
                "" => edge.contract_id.clone(),
                id => or_id(&edge.name, id).to_owned(),
            },
            contract_id: edge.contract_id.clone(),
            link_name: edge.link_name.clone(),
            recent: Recent::default(),
            cause: match edge.id.as_str() {
                "" => Cause::Nowhere,
                id if runs(id) == Some(false) => Cause::Absent,
                _ => Cause::Errors,
            },
        });
        of_edge.recent.add(&edge.recent);
    }
    let mut failing: Vec<Failing> = edges
        .into_values()
        .filter(|edge| edge.recent.errors() > 0 && edge.share() >= SHARE_MIN)
        .collect();
    failing.sort_by(|a, b| {
        (a.cause, b.recent.errors(), &a.caller_name).cmp(&(
            b.cause,
            a.recent.errors(),
            &b.caller_name,
        ))
    });
    failing
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::control::probe::calls::Edge;

    fn edge(caller: &str, id: &str, recent: Recent) -> Edge {
        Edge {
            caller: caller.into(),
            caller_name: format!("name of {caller}"),
            id: id.into(),
            name: if id.is_empty() { String::new() } else { format!("name of {id}") },
            contract_id: "acme:x".into(),
            link_name: "default".into(),
            recent,
            ..Edge::default()
        }
    }

    fn recent(calls: u64, refused: u64) -> Recent {
        Recent { ms: 10_000, calls, refused, ..Recent::default() }
    }

    #[test]
    fn calls_that_fail_now_are_told_with_their_cause_and_others_are_not() {
        for (number, (caller, id, recent, expected)) in [
            ("MA", "VGONE", recent(20, 20), Some(Cause::Absent)),
            ("MA", "", recent(5, 5), Some(Cause::Nowhere)),
            ("MA", "VHERE", recent(100, 1), Some(Cause::Errors)),
            ("MA", "VHERE", recent(101, 1), None),
            ("MA", "VHERE", recent(20, 0), None),
            ("MA", "VGONE", recent(0, 0), None),
            (TOOLS, "MGONE", recent(5, 5), None),
            ("VHERE", "MA", Recent { server_errors: 3, ..recent(9, 0) }, Some(Cause::Errors)),
        ]
        .into_iter()
        .enumerate()
        {
            let look = Look { edges: vec![edge(caller, id, recent)], ..Look::default() };
            let found =
                failing(std::slice::from_ref(&look), |id| Some(id == "VHERE" || id == "MA"));
            assert_eq!(found.first().map(|failing| failing.cause), expected, "{number}");
            // A host that has not told what it runs may run it.
            let cause = expected.map(|cause| cause.max(Cause::Nowhere));
            let unsure = failing(&[look], |id| (id == "VHERE").then_some(true));
            let expected = if cause == Some(Cause::Nowhere) && !id.is_empty() {
                Some(Cause::Errors)
            } else {
                cause
            };
            assert_eq!(unsure.first().map(|failing| failing.cause), expected, "{number}");
        }
    }

    #[test]
    fn what_hosts_count_is_added_up_and_the_worst_comes_first() {
        let look = |edges: Vec<Edge>| Look { edges, ..Look::default() };
        let looks = [
            look(vec![edge("MA", "VHERE", recent(10, 10)), edge("MB", "VGONE", recent(2, 1))]),
            look(vec![edge("MA", "VHERE", recent(5, 2))]),
        ];
        let found = failing(&looks, |id| Some(id == "VHERE"));
        let texts: Vec<String> = found.iter().map(Failing::text).collect();
        assert_eq!(
            texts,
            [
                "1 of 2 calls of name of MB to name of VGONE (acme:x) failed in the last 10 s, which runs nowhere",
                "12 of 15 calls of name of MA to name of VHERE (acme:x) failed in the last 10 s",
            ]
        );
        assert!(found[0].fix().starts_with("start it: host start provider"));
    }
}

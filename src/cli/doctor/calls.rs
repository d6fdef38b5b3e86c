//! The effects that somebody feels now: calls that fail, and what is gone with a host.

use super::{
    Finding, Found,
    facts::{Facts, Seen},
    hosts::inhabited,
};
use lattice_client::{
    expiry::span,
    failing::{Failing, failing},
    lost::{Missing, missing},
    names::listed,
};

/// Things that are named in one finding.
const NAMED_MAX: usize = 12;

/// The calls that fail now, as the page says it.
pub(super) fn failing_now(seen: &Seen) -> Vec<Failing> {
    let is_whole = seen.is_whole();
    failing(&seen.looks, |id| (is_whole || seen.runs(id)).then(|| seen.runs(id)))
}

pub(super) fn calls(facts: &Facts) -> Found {
    let seen = inhabited(facts)?;
    if seen.looks.is_empty() {
        return Err(Finding::skipped("no host tells the calls it counts"));
    }
    let failing = failing_now(seen);
    if failing.is_empty() {
        let edges = seen.looks.iter().flat_map(|look| &look.edges);
        let calls: u64 = edges.map(|edge| edge.recent.calls).sum();
        return Ok(vec![Finding::ok(match calls {
            0 => "nothing was called in the last 10 s".to_owned(),
            _ => format!("no call fails now ({calls} calls in the last 10 s)"),
        })]);
    }
    Ok(failing.iter().map(|failing| Finding::wrong(failing.text(), failing.fix())).collect())
}

pub(super) fn lost(facts: &Facts) -> Found {
    let seen = inhabited(facts)?;
    if !seen.is_whole() {
        return Err(Finding::skipped("not every host tells what it runs (hosts)"));
    }
    if seen.lost.is_empty() {
        return Ok(vec![Finding::ok("no host vanished within the last day")]);
    }
    let missing = missing(&seen.lost, &seen.inventories);
    Ok(seen
        .lost
        .iter()
        .map(|host| of_host(host.called(), &host.id, host.lost_ms, &missing, facts.now))
        .collect())
}

fn of_host(name: &str, id: &str, lost_ms: u64, missing: &[Missing], now: u64) -> Finding {
    let gone: Vec<&Missing> = missing.iter().filter(|missing| missing.ran_on(id)).collect();
    let ago = span(now.saturating_mul(1000).saturating_sub(lost_ms) / 1000);
    if gone.is_empty() {
        return Finding::ok(format!(
            "all that host {name} ran, which vanished {ago} ago, runs elsewhere; host forget {name} takes it off the list"
        ));
    }
    Finding::wrong(
        format!(
            "{} ran only on host {name}, which vanished {ago} ago, and {} nowhere: {}",
            gone.len(),
            if gone.len() == 1 { "runs" } else { "run" },
            listed(gone.iter().map(|missing| missing.called()), NAMED_MAX, gone.len())
        ),
        format!(
            "host start lost {name} starts them elsewhere; host forget {name} takes the host off the list"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;
    use lattice_protocol::control::{
        probe::{
            calls::{Edge, Look, Recent},
            lost::LostHost,
        },
        types::{HostReply, Inventory, InventoryActor},
    };

    fn facts(seen: Seen) -> Facts {
        Facts { now: 100, lattice: Ok(seen), ..Facts::default() }
    }

    fn inhabited(seen: Seen) -> Seen {
        let hosts = vec![HostReply { id: "NA".into(), ..HostReply::default() }];
        Seen { hosts, inventories: vec![Inventory::default()], ..seen }
    }

    fn worst(found: &Found) -> Option<Verdict> {
        found.as_ref().ok()?.iter().map(|finding| finding.verdict).max()
    }

    #[test]
    fn calls_that_fail_now_are_wrong() {
        for (refused, verdict) in [(0, Verdict::Ok), (5, Verdict::Wrong)] {
            let recent = Recent { ms: 10_000, calls: 9, refused, ..Recent::default() };
            let edge = Edge { caller: "MA".into(), id: "VGONE".into(), recent, ..Edge::default() };
            let looks = vec![Look { edges: vec![edge], ..Look::default() }];
            let found = calls(&facts(inhabited(Seen { looks, ..Seen::default() })));
            assert_eq!(worst(&found), Some(verdict), "{found:?}");
        }
        assert!(calls(&facts(inhabited(Seen::default()))).is_err(), "nobody counts");
    }

    #[test]
    fn what_ran_only_on_a_lost_host_is_wrong_and_named() {
        for (actors, verdict, words) in [
            (
                &["echo"][..],
                Verdict::Wrong,
                "1 ran only on host reef, which vanished 90 seconds ago",
            ),
            (&[], Verdict::Ok, "runs elsewhere"),
        ] {
            let actor = |name: &&str| InventoryActor {
                id: format!("M{name}"),
                name: (*name).into(),
                ..InventoryActor::default()
            };
            let inventory = Inventory {
                friendly_name: "reef".into(),
                actors: actors.iter().map(actor).collect(),
                ..Inventory::default()
            };
            let lost = vec![LostHost {
                id: "NL".into(),
                lost_ms: 10_000,
                inventory,
                ..LostHost::default()
            }];
            let found = super::lost(&facts(inhabited(Seen { lost, ..Seen::default() })));
            assert_eq!(worst(&found), Some(verdict), "{found:?}");
            assert!(found.unwrap()[0].seen.contains(words));
        }
    }
}

//! The checks of `host upgrade-check`: whether this binary can take over from the hosts that run.
//!
//! It looks at the lattice as the doctor does. Checks of the doctor that matter for an upgrade are
//! taken over ([`CHECKS`]); those that are only here are `versions`, `entries` and `replicas`.

use std::cmp::Ordering;

use anyhow::Result;
use serde::Serialize;

use super::{
    Check, Facts, Finding, Found, Report, bucket, check, connection,
    facts::{Seen, named},
    hosts::{self, inhabited},
    jetstream, running, settings,
    stored::{self, KindCount, Stored},
    trust,
};
use crate::session::Session;
use lattice_protocol::control::types::{HostReply, Inventory};

/// The version of this binary.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Names in a sentence.
const NAMED_MAX: usize = 8;

/// The checks of an upgrade, in the order in which one would look.
pub static CHECKS: [Check; 11] = [
    check(
        "settings",
        "settings of this directory that this binary does not know, or cannot use",
        settings::settings,
    ),
    check("nats-ctl", "the NATS server of the control interface", connection::ctl),
    check("jetstream", "JetStream, and the domain of the metadata", jetstream::jetstream),
    check("bucket", "the bucket with the lattice's metadata", bucket::bucket),
    check("hosts", "which hosts answer, and which fell silent", hosts::hosts),
    check("versions", "the version of each host, and that of this binary", versions),
    check("entries", "entries of the buckets that this binary cannot read", entries),
    check(
        "metadata",
        "whether every host works with the metadata that the others have",
        hosts::metadata,
    ),
    check("issuers", "whether hosts accept the calls of each other", trust::issuers),
    check(
        "claims",
        "claims that are over or soon will be: such an actor does not start again",
        running::claims,
    ),
    check("replicas", "what runs on one host only, and is away while that restarts", replicas),
];

/// The report, with the rows that its tables show.
#[derive(Clone, Debug)]
pub struct Upgrade {
    pub hosts: Vec<HostRow>,
    pub stored: Vec<KindCount>,
    pub report: Report,
}

/// A host, as an upgrade sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HostRow {
    pub id: String,
    pub name: String,
    pub version: String,
    pub actors: usize,
    pub providers: usize,
    /// The names of actors and providers that run on no other host.
    pub alone: Vec<String>,
}

/// Looks at the lattice of a session.
pub async fn examine(session: Result<Session>) -> Upgrade {
    let mut facts = Facts::gather(session).await;
    facts.stored = stored::gather(&facts).await;
    let report = Report { checks: CHECKS.iter().map(|check| check.run(&facts)).collect() };
    let hosts = facts.lattice.as_ref().map(rows).unwrap_or_default();
    Upgrade { hosts, stored: facts.stored.map(|stored| stored.kinds).unwrap_or_default(), report }
}

fn rows(seen: &Seen) -> Vec<HostRow> {
    let row = |host: &HostReply| {
        let inventory = seen.inventories.iter().find(|inventory| inventory.host_id == host.id);
        HostRow {
            id: host.id.clone(),
            name: host.friendly_name.clone(),
            version: host.version.clone(),
            actors: inventory.map_or(0, |inventory| inventory.actors.len()),
            providers: inventory.map_or(0, |inventory| inventory.providers.len()),
            alone: inventory
                .map(|inventory| alone(inventory, &seen.inventories))
                .unwrap_or_default(),
        }
    };
    seen.hosts.iter().map(row).collect()
}

/// Compares the versions of hosts with that of this binary.
fn versions(facts: &Facts) -> Found {
    let seen = inhabited(facts)?;
    let mut found: Vec<Finding> =
        seen.hosts.iter().filter_map(|host| of_version(&named(host), host, VERSION)).collect();
    if found.is_empty() {
        let count = seen.hosts.len();
        let hosts = match count {
            1 => "the host has".to_owned(),
            _ => format!("all {count} hosts have"),
        };
        found.push(Finding::ok(format!("{hosts} version {VERSION}, as this binary does")));
    }
    Ok(found)
}

/// Judges the version of a host; there is nothing to say of one that has that of this binary.
fn of_version(name: &str, host: &HostReply, own: &str) -> Option<Finding> {
    let version = &host.version;
    if !host.is_ours() {
        return Some(Finding::note(format!(
            "host {name} is one of earlier years, version {version}; it goes on beside this version"
        )));
    }
    match order(own, version) {
        Some(Ordering::Equal) => None,
        Some(Ordering::Greater) => Some(Finding::note(format!(
            "host {name} has version {version}, this binary is {own}: an upgrade"
        ))),
        Some(Ordering::Less) => Some(Finding::warning(
            format!("host {name} has version {version}, this binary is {own}: a downgrade"),
            "make a backup first; the chapter Upgrades of the book says what a downgrade loses",
        )),
        None => Some(Finding::note(format!(
            "host {name} has version {version:?}, which cannot be compared with {own}"
        ))),
    }
}

/// Compares two versions by their numbers; nothing if one is none.
fn order(one: &str, other: &str) -> Option<Ordering> {
    Some(numbers(one)?.cmp(&numbers(other)?))
}

/// Returns the numbers of a version, without what comes after a hyphen or a plus.
fn numbers(version: &str) -> Option<Vec<u64>> {
    let bare = version.trim_start_matches('v').split(['-', '+']).next()?;
    bare.split('.').map(|part| part.parse().ok()).collect()
}

/// Judges what was read of the buckets and of the history.
fn entries(facts: &Facts) -> Found {
    let stored = facts.stored.as_ref().map_err(Finding::skipped)?;
    let mut found = unread(stored);
    for kind in &stored.kinds {
        found.extend(unreadable(kind));
        found.extend(unproven(kind));
    }
    if found.is_empty() {
        let count: u64 = stored.kinds.iter().map(|kind| kind.entries).sum();
        found.push(Finding::ok(format!("this binary can read all {count} entries")));
    }
    Ok(found)
}

fn unread(stored: &Stored) -> Vec<Finding> {
    let failed = stored.failed.iter().map(|(place, why)| {
        Finding::warning(
            format!("{place} was not read: {why}"),
            "see the checks jetstream and permissions of `host doctor`",
        )
    });
    failed.collect()
}

fn unreadable(kind: &KindCount) -> Option<Finding> {
    let first = kind.keys.first()?;
    let keys: Vec<&str> = kind.keys.iter().take(NAMED_MAX).map(|one| one.key.as_str()).collect();
    let fix = format!(
        "look at it with `nats kv get {} {}`; keep the binary that wrote it, or delete the entry \
         if nobody needs it",
        kind.place, first.key
    );
    let seen = format!(
        "{} of {} {} in {} cannot be read by this binary: {} ({})",
        kind.unreadable,
        kind.entries,
        kind.kind,
        kind.place,
        listed(&keys, kind.unreadable),
        first.why
    );
    Some(Finding::wrong(seen, fix))
}

fn unproven(kind: &KindCount) -> Option<Finding> {
    (kind.unproven > 0).then(|| {
        Finding::warning(
            format!(
                "{} of {} {} in {} are not signed by a cluster that is known here, or in another \
                 form: they do not count",
                kind.unproven, kind.entries, kind.kind, kind.place
            ),
            "give this in the directory of a host, or add the cluster's key to cluster_issuers",
        )
    })
}

/// Joins names, and says how many are left out of so many.
fn listed(names: &[&str], of: u64) -> String {
    let named = u64::try_from(names.len()).unwrap_or(u64::MAX);
    match of.saturating_sub(named) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

/// Finds what is away while its only host restarts.
fn replicas(facts: &Facts) -> Found {
    let seen = inhabited(facts)?;
    let count = seen.hosts.len();
    let mut found: Vec<Finding> =
        rows(seen).iter().filter_map(|row| only_there(row, count)).collect();
    if seen.inventories.len() < count {
        found.push(Finding::warning(
            format!("{} of {count} hosts told what they run", seen.inventories.len()),
            "see the check hosts",
        ));
    }
    if found.is_empty() {
        found.push(Finding::ok(
            "all that runs does so on two hosts or more: restarts one by one lose no request",
        ));
    }
    Ok(found)
}

/// Tells what only one host of so many runs.
fn only_there(row: &HostRow, hosts: usize) -> Option<Finding> {
    let alone: Vec<&str> = row.alone.iter().take(NAMED_MAX).map(String::as_str).collect();
    if alone.is_empty() {
        return None;
    }
    let name = if row.name.is_empty() { &row.id } else { &row.name };
    let all = u64::try_from(row.alone.len()).unwrap_or(u64::MAX);
    let seen = format!(
        "only host {name} runs {}: it is away while that host restarts",
        listed(&alone, all)
    );
    let fix = match hosts {
        ..=1 => "start a second host, and there what runs here; or exchange it when nobody calls"
            .to_owned(),
        _ => format!(
            "host drain {name} before its binary is exchanged, or start it on another host too"
        ),
    };
    Some(Finding::warning(seen, fix))
}

/// Returns the names of what runs on this host and on none of the others.
fn alone(inventory: &Inventory, all: &[Inventory]) -> Vec<String> {
    let others: Vec<&Inventory> =
        all.iter().filter(|other| other.host_id != inventory.host_id).collect();
    let actors = inventory.actors.iter().filter(|actor| {
        !others.iter().flat_map(|other| &other.actors).any(|one| one.id == actor.id)
    });
    let providers = inventory.providers.iter().filter(|provider| {
        let mut elsewhere = others.iter().flat_map(|other| &other.providers);
        !elsewhere.any(|one| one.id == provider.id && one.link_name == provider.link_name)
    });
    let actors = actors.map(|actor| called(&actor.name, &actor.id));
    actors.chain(providers.map(|provider| called(&provider.name, &provider.id))).collect()
}

fn called(name: &str, id: &str) -> String {
    if name.is_empty() { id.to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{Verdict, stored::Unreadable};
    use lattice_protocol::control::types::{InventoryActor, InventoryProvider};

    fn host(id: &str, version: &str) -> HostReply {
        HostReply {
            id: id.into(),
            version: version.into(),
            peer_count: Some(0),
            ..HostReply::default()
        }
    }

    fn inventory(host: &str, actors: &[&str], providers: &[(&str, &str)]) -> Inventory {
        let actor = |id: &&str| InventoryActor { id: (*id).into(), ..InventoryActor::default() };
        let provider = |(id, link): &(&str, &str)| InventoryProvider {
            id: (*id).into(),
            link_name: (*link).into(),
            ..InventoryProvider::default()
        };
        Inventory {
            host_id: host.into(),
            actors: actors.iter().map(actor).collect(),
            providers: providers.iter().map(provider).collect(),
            ..Inventory::default()
        }
    }

    fn facts(seen: Seen) -> Facts {
        Facts { lattice: Ok(seen), ..Facts::default() }
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (one, other, expected) in [
            ("0.2.0", "0.1.9", Some(Ordering::Greater)),
            ("0.10.0", "0.9.0", Some(Ordering::Greater)),
            ("v0.1.0", "0.1.0", Some(Ordering::Equal)),
            ("0.1.0-dev", "0.1.0+abc", Some(Ordering::Equal)),
            ("0.1.0", "0.1.1", Some(Ordering::Less)),
            ("0.1.0", "", None),
            ("new", "0.1.0", None),
        ] {
            assert_eq!(order(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn a_downgrade_is_a_warning_and_an_upgrade_is_not() {
        let judged = |host: HostReply| of_version("a", &host, "0.2.0").map(|found| found.verdict);
        for (version, verdict) in [
            ("0.1.0", Some(Verdict::Note)),
            ("0.2.0", None),
            ("0.3.0", Some(Verdict::Warning)),
            ("mine", Some(Verdict::Note)),
        ] {
            assert_eq!(judged(host("N", version)), verdict, "{version}");
        }
        let of_2022 = HostReply { peer_count: None, ..host("N", "0.63.0") };
        assert_eq!(judged(of_2022), Some(Verdict::Note));
        let seen = Seen { hosts: vec![host("N", VERSION)], ..Seen::default() };
        let found = versions(&facts(seen)).unwrap();
        assert!(matches!(found.as_slice(), [one] if one.verdict == Verdict::Ok), "{found:?}");
    }

    #[test]
    fn what_has_a_replica_elsewhere_is_not_named() {
        let all = [
            inventory("N1", &["MA", "MB"], &[("V", "default"), ("V", "second")]),
            inventory("N2", &["MA"], &[("V", "default")]),
        ];
        assert_eq!(alone(&all[0], &all), ["MB", "V"]);
        assert!(alone(&all[1], &all).is_empty());
    }

    #[test]
    fn an_actor_on_one_host_is_told_with_how_to_move_it() {
        let seen = |inventories: Vec<Inventory>| Seen {
            hosts: inventories.iter().map(|one| host(&one.host_id, VERSION)).collect(),
            inventories,
            ..Seen::default()
        };
        let one = replicas(&facts(seen(vec![inventory("N1", &["MA"], &[])]))).unwrap();
        assert!(one[0].fix.as_ref().unwrap().starts_with("start a second host"));
        let two = vec![inventory("N1", &["MA"], &[]), inventory("N2", &["MA", "MB"], &[])];
        let found = replicas(&facts(seen(two))).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].fix.as_ref().unwrap().starts_with("host drain N2"), "{found:?}");
        let both = vec![inventory("N1", &["MA"], &[]), inventory("N2", &["MA"], &[])];
        assert_eq!(replicas(&facts(seen(both))).unwrap()[0].verdict, Verdict::Ok);
    }

    #[test]
    fn entries_that_cannot_be_read_are_wrong_and_named() {
        let kind = |unreadable: u64, unproven: u64| KindCount {
            place: "KV".into(),
            kind: "links",
            entries: 30,
            unreadable,
            keys: (0..unreadable)
                .map(|number| Unreadable { key: format!("K{number}"), why: "why".into() })
                .collect(),
            unproven,
        };
        let judged = |stored: Stored| {
            let facts = Facts { stored: Ok(stored), ..Facts::default() };
            let found = entries(&facts).unwrap();
            found.into_iter().map(|one| (one.verdict, one.seen)).collect::<Vec<_>>()
        };
        let of = |kinds: Vec<KindCount>| judged(Stored { kinds, ..Stored::default() });
        assert_eq!(
            of(vec![kind(0, 0)]),
            [(Verdict::Ok, "this binary can read all 30 entries".to_owned())]
        );
        let (verdict, text) = of(vec![kind(10, 0)]).remove(0);
        assert!(verdict == Verdict::Wrong && text.contains("K7 and 2 more (why)"), "{text}");
        assert_eq!(of(vec![kind(0, 3)])[0].0, Verdict::Warning);
        let failed = vec![("KV".to_owned(), "away".to_owned())];
        assert_eq!(judged(Stored { failed, ..Stored::default() })[0].0, Verdict::Warning);
    }

    #[test]
    fn without_a_connection_nothing_is_said_to_be_fine() {
        for check in [versions, entries, replicas] {
            assert_eq!(check(&Facts::default()).unwrap_err().verdict, Verdict::Skipped);
        }
    }
}

//! The checks of `host upgrade-check`: whether this binary can take over from the hosts that run.
//!
//! It looks at the lattice as the doctor does. Checks of the doctor that matter for an upgrade are
//! taken over ([`CHECKS`]); those that are only here are `versions`, `entries` and `replicas`.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
};

use anyhow::Result;
use serde::Serialize;

use super::{
    Check, Facts, Finding, Found, Report, Verdict, bucket, check, connection,
    facts::{NotConnected, Seen, Settings, Unknown, named},
    hosts::{self, inhabited},
    jetstream, running, settings,
    stored::{self, KindCount, Stored},
    trust,
};
use crate::session::Session;
use lattice_base::config::{Mistake, Problem};
use lattice_client::names::{listed, or_id};
use lattice_engine::control::state::VERSION;
use lattice_protocol::{
    control::types::{HostReply, Inventory},
    errors::chain,
};

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
    /// Why it is not known whether something would break; nothing where it is.
    pub unchecked: Option<String>,
}

/// The cause for which something could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Obstacle {
    why: String,
    /// The checks that judge it. What they find is no finding about an upgrade.
    told_by: &'static [&'static str],
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
    let mut report = Report { checks: CHECKS.iter().map(|check| check.run(&facts)).collect() };
    let obstacle = obstacle(&facts);
    if let Some(Obstacle { told_by, .. }) = &obstacle {
        set_aside(&mut report, told_by);
    }
    Upgrade {
        hosts: facts.lattice.as_ref().map(rows).unwrap_or_default(),
        stored: facts.stored.map(|stored| stored.kinds).unwrap_or_default(),
        report,
        unchecked: obstacle.map(|obstacle| obstacle.why),
    }
}

/// Finds why something could not be looked at; the first cause explains what comes after it.
fn obstacle(facts: &Facts) -> Option<Obstacle> {
    if facts.settings.config.is_none() {
        let why = unread_settings(&facts.settings)?;
        return Some(Obstacle { why, told_by: &["settings"] });
    }
    if let Err(cause) = &facts.ctl.connected {
        return Some(Obstacle { why: not_connected(cause), told_by: &["nats-ctl"] });
    }
    let seen = match &facts.lattice {
        Ok(seen) => seen,
        Err(why) => return Some(Obstacle { why: why.clone(), told_by: &["hosts"] }),
    };
    if seen.hosts.is_empty() && seen.refusals.is_empty() {
        let why = "no host of the lattice answers at this NATS server".to_owned();
        return Some(Obstacle { why, told_by: &["hosts"] });
    }
    unread_entries(&facts.stored)
}

/// Finds why entries were not read. The check of them says itself that it could not look, and what
/// was found elsewhere counts all the same.
fn unread_entries(stored: &Result<Stored, Unknown>) -> Option<Obstacle> {
    let why = match stored {
        Ok(stored) => {
            let (place, why) = stored.failed.first()?;
            format!("{place} was not read: {why}")
        }
        Err(why) => why.clone(),
    };
    Some(Obstacle { why, told_by: &[] })
}

/// Says why there are no settings, unless they have mistakes: with those, this binary could not
/// take over. What this user may not read, a host may.
fn unread_settings(settings: &Settings) -> Option<String> {
    if settings.error.is_some() {
        return settings.error.clone();
    }
    let mistakes = &settings.mistakes.0;
    let is_kept_from_us = !mistakes.is_empty() && mistakes.iter().all(is_kept_from_us);
    is_kept_from_us.then(|| mistakes[0].to_string())
}

/// Whether a mistake is that a file which is there cannot be read.
fn is_kept_from_us(mistake: &Mistake) -> bool {
    match &mistake.problem {
        Problem::Unreadable { path, .. } => !matches!(path.try_exists(), Ok(false)),
        _ => false,
    }
}

fn not_connected(cause: &NotConnected) -> String {
    let why = match cause {
        NotConnected::Failed(error) => chain(error),
        NotConnected::TimedOut => "it does not answer in time".to_owned(),
        NotConnected::NotTried => "the settings cannot be used".to_owned(),
    };
    format!("there is no connection to the NATS server: {why}")
}

/// Lets checks say that they could not look, whatever they found.
fn set_aside(report: &mut Report, names: &[&str]) {
    for check in report.checks.iter_mut().filter(|check| names.contains(&check.name)) {
        let findings = check.findings.iter_mut();
        for finding in findings.filter(|finding| finding.verdict >= Verdict::Warning) {
            finding.verdict = Verdict::Skipped;
        }
        let verdicts = check.findings.iter().map(|finding| finding.verdict);
        check.verdict = verdicts.max().unwrap_or(Verdict::Ok);
    }
}

fn rows(seen: &Seen) -> Vec<HostRow> {
    let homes = homes(&seen.inventories);
    let told: HashMap<&str, &Inventory> =
        seen.inventories.iter().map(|inventory| (&*inventory.host_id, inventory)).collect();
    seen.hosts.iter().map(|host| row(host, told.get(&*host.id).copied(), &homes)).collect()
}

/// Returns the row of a host, which may not have told what it runs.
fn row(host: &HostReply, inventory: Option<&Inventory>, homes: &Homes<'_>) -> HostRow {
    let row = HostRow {
        id: host.id.clone(),
        name: host.friendly_name.clone(),
        version: host.version.clone(),
        ..HostRow::default()
    };
    let Some(inventory) = inventory else { return row };
    HostRow {
        actors: inventory.actors.len(),
        providers: inventory.providers.len(),
        alone: alone(inventory, homes),
        ..row
    }
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
    let failed = stored.failed.iter().map(|(place, why)| Finding {
        fix: Some("see the checks jetstream and permissions of `host doctor`".to_owned()),
        ..Finding::skipped(format!("{place} was not read: {why}"))
    });
    failed.collect()
}

fn unreadable(kind: &KindCount) -> Option<Finding> {
    let first = kind.keys.first()?;
    let keys = kind.keys.iter().map(|one| one.key.as_str());
    let count = usize::try_from(kind.unreadable).unwrap_or(usize::MAX);
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
        listed(keys, NAMED_MAX, count),
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

/// Finds what is away while its only host restarts.
fn replicas(facts: &Facts) -> Found {
    let seen = inhabited(facts)?;
    let count = seen.hosts.len();
    let mut found: Vec<Finding> =
        rows(seen).iter().filter_map(|row| only_there(row, count)).collect();
    if !seen.is_whole() {
        found.push(Finding::warning(untold(seen), "see the check hosts"));
    }
    if found.is_empty() {
        found.push(Finding::ok(
            "all that runs does so on two hosts or more: restarts one by one lose no request",
        ));
    }
    Ok(found)
}

/// Says how many hosts told what they run, and which are silent and not known to be lost.
fn untold(seen: &Seen) -> String {
    let (told, count) = (seen.inventories.len(), seen.hosts.len());
    let told = format!("{told} of {count} hosts told what they run");
    let lost: HashSet<&str> = seen.lost.iter().map(|host| host.id.as_str()).collect();
    let silent = seen.silent.iter().map(String::as_str).filter(|id| !lost.contains(id));
    let silent: Vec<&str> = silent.collect();
    match silent.len() {
        0 => told,
        count => {
            let silent = listed(silent, NAMED_MAX, count);
            format!("{told}; others are silent, and may run anything: {silent}")
        }
    }
}

/// Tells what only one host of so many runs.
fn only_there(row: &HostRow, hosts: usize) -> Option<Finding> {
    if row.alone.is_empty() {
        return None;
    }
    let name = or_id(&row.name, &row.id);
    let seen = format!(
        "only host {name} runs {}: it is away while that host restarts",
        listed(row.alone.iter().map(String::as_str), NAMED_MAX, row.alone.len())
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

/// An actor, or a provider under its link name.
type Entity<'a> = (&'a str, Option<&'a str>);
/// The ids of the hosts that run each.
type Homes<'a> = HashMap<Entity<'a>, HashSet<&'a str>>;

/// Returns the hosts of all that runs.
fn homes(inventories: &[Inventory]) -> Homes<'_> {
    let mut homes = Homes::new();
    for inventory in inventories {
        for (entity, _) in running(inventory) {
            homes.entry(entity).or_default().insert(inventory.host_id.as_str());
        }
    }
    homes
}

/// Returns what runs on a host, each with its name.
fn running(inventory: &Inventory) -> impl Iterator<Item = (Entity<'_>, &str)> {
    let actors = inventory.actors.iter();
    let actors = actors.map(|actor| ((&*actor.id, None), or_id(&actor.name, &actor.id)));
    let providers = inventory.providers.iter().map(|provider| {
        ((&*provider.id, Some(&*provider.link_name)), or_id(&provider.name, &provider.id))
    });
    actors.chain(providers)
}

/// Returns the names of what runs on this host and on none of the others.
fn alone(inventory: &Inventory, homes: &Homes<'_>) -> Vec<String> {
    let here = running(inventory);
    let alone = here.filter(|(entity, _)| homes.get(entity).is_none_or(|hosts| hosts.len() < 2));
    alone.map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{Checked, facts::Reached, stored::Unreadable};
    use lattice_base::{
        config::{Config, Mistakes, Origin, Sources},
        lattice::connection::Purpose,
    };
    use lattice_protocol::control::{
        probe::lost::LostHost,
        types::{InventoryActor, InventoryProvider},
    };

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
        let homes = homes(&all);
        assert_eq!(alone(&all[0], &homes), ["MB", "V"]);
        assert!(alone(&all[1], &homes).is_empty());
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
    fn what_a_silent_host_runs_is_not_known_unless_it_is_lost() {
        let seen = |silent: &str, lost: &str| Seen {
            hosts: vec![host("N1", VERSION), host("N2", VERSION)],
            inventories: vec![inventory("N1", &["MA"], &[]), inventory("N2", &["MA"], &[])],
            silent: vec![silent.into()],
            lost: vec![LostHost { id: lost.into(), ..LostHost::default() }],
            ..Seen::default()
        };
        let found = replicas(&facts(seen("N3", "N4"))).unwrap();
        assert!(matches!(found.as_slice(), [one] if one.verdict == Verdict::Warning), "{found:?}");
        assert!(found[0].seen.starts_with("2 of 2 hosts told"), "{found:?}");
        assert!(found[0].seen.ends_with("may run anything: N3"), "{found:?}");
        let found = replicas(&facts(seen("N3", "N3"))).unwrap();
        assert_eq!(found[0].verdict, Verdict::Ok);
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
        // A place that was not read hides nothing of the others.
        let failed = vec![("KV".to_owned(), "away".to_owned())];
        let stored = Stored { kinds: vec![kind(1, 0)], failed };
        let obstacle = unread_entries(&Ok(stored.clone())).expect("an obstacle");
        assert_eq!((obstacle.why.as_str(), obstacle.told_by), ("KV was not read: away", &[][..]));
        let verdicts: Vec<Verdict> =
            judged(stored).into_iter().map(|(verdict, _)| verdict).collect();
        assert_eq!(verdicts, [Verdict::Skipped, Verdict::Wrong]);
        assert_eq!(unread_entries(&Ok(Stored::default())), None);
    }

    #[test]
    fn settings_that_this_user_may_not_read_are_no_mistake_of_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let mistake = |problem: Problem| Mistake {
            key: "host_config.json".into(),
            origin: Origin::Default,
            problem,
            accepted: "x".into(),
        };
        let unreadable = |path: &std::path::Path| {
            mistake(Problem::Unreadable { path: path.to_owned(), reason: "user 61000".into() })
        };
        let there = || unreadable(dir.path());
        let gone = || unreadable(&dir.path().join("gone"));
        let wrong = || mistake(Problem::NotASeed);
        for (mistakes, is_unknown) in [
            (vec![there()], true),
            (vec![there(), wrong()], false),
            (vec![wrong()], false),
            (vec![gone()], false),
            (Vec::new(), false),
        ] {
            let settings = Settings { mistakes: Mistakes(mistakes), ..Settings::default() };
            let facts = Facts { settings, ..Facts::default() };
            let found = obstacle(&facts);
            assert_eq!(found.is_some(), is_unknown, "{found:?}");
            assert!(found.is_none_or(|found| found.why.contains("user 61000")));
        }
        let settings = Settings { error: Some("no context x".into()), ..Settings::default() };
        let found = obstacle(&Facts { settings, ..Facts::default() }).expect("an obstacle");
        assert_eq!((found.why.as_str(), found.told_by), ("no context x", &["settings"][..]));
    }

    /// Returns the settings of a directory in which nothing is set.
    fn defaults() -> Config {
        let dir = tempfile::tempdir().unwrap();
        Config::load(&Sources::of_directory(dir.path())).unwrap().config
    }

    #[test]
    fn a_place_that_does_not_answer_is_no_finding_about_an_upgrade() {
        let not_there = |connected: NotConnected| Reached {
            purpose: Purpose::Control,
            looks: Vec::new(),
            connected: Err(connected),
            took: Default::default(),
            elsewhere: None,
        };
        let settings = Settings { config: Some(defaults()), ..Settings::default() };
        let facts = Facts { settings, ctl: not_there(NotConnected::TimedOut), ..Facts::default() };
        let found = obstacle(&facts).expect("an obstacle");
        assert!(found.why.contains("no connection") && found.why.contains("in time"), "{found:?}");
        let finding = |verdict: Verdict| Finding { verdict, ..Finding::ok("x") };
        let checked = |name: &'static str, verdicts: &[Verdict]| Checked {
            name,
            about: "",
            verdict: verdicts[0],
            findings: verdicts.iter().map(|verdict| finding(*verdict)).collect(),
        };
        let mut report = Report {
            checks: vec![
                checked("nats-ctl", &[Verdict::Wrong, Verdict::Note]),
                checked("settings", &[Verdict::Wrong]),
            ],
        };
        set_aside(&mut report, found.told_by);
        let verdicts: Vec<Verdict> = report.checks.iter().map(|check| check.verdict).collect();
        assert_eq!(verdicts, [Verdict::Note, Verdict::Wrong]);
    }

    #[test]
    fn without_a_connection_nothing_is_said_to_be_fine() {
        for check in [versions, entries, replicas] {
            assert_eq!(check(&Facts::default()).unwrap_err().verdict, Verdict::Skipped);
        }
    }
}

//! The hosts of the lattice: who answers, who is silent, and whether they agree about where they
//! are.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{
    Finding, Found,
    facts::{Facts, Seen, Told, Untold, named},
};
use lattice_client::{expiry::span, names::listed};
use lattice_protocol::control::{probe::lost::LostHost, types::HostReply};

/// Why nothing is known of hosts that answer.
pub(super) const TELL_NOTHING: &str = "hosts of earlier versions do not tell";
/// Hosts that have just started need not have heard of each other.
const YOUNG_SECS: u64 = 5;

/// The lattice, if a host answers in it; else what is to be said instead of looking at hosts.
pub(super) fn inhabited(facts: &Facts) -> Result<&Seen, Finding> {
    match facts.lattice.as_ref().map_err(Finding::skipped)? {
        seen if seen.hosts.is_empty() => Err(Finding::skipped("no host answers (hosts)")),
        seen => Ok(seen),
    }
}

/// Hosts that are named where all is well.
const NAMED_MAX: usize = 12;

/// The hosts that tell how they are, if there are any.
pub(super) fn telling(facts: &Facts) -> Result<Vec<(&HostReply, &Told)>, Finding> {
    inhabited(facts)?;
    let told = facts.told();
    if told.is_empty() { Err(Finding::skipped(TELL_NOTHING)) } else { Ok(told) }
}

pub(super) fn hosts(facts: &Facts) -> Found {
    let seen = facts.lattice.as_ref().map_err(Finding::skipped)?;
    let mut found: Vec<Finding> = seen.refusals.iter().map(|error| refusing(error)).collect();
    if seen.hosts.is_empty() && found.is_empty() {
        return Ok(vec![nobody(facts, seen)]);
    }
    for host in seen.hosts.iter().filter(|host| host.is_ours()) {
        if let Some(Err(Untold::Failed(error))) = seen.health.get(&host.id) {
            found.push(Finding::warning(
                format!("host {} answers, but does not tell how it is: {error}", named(host)),
                "look at its log; is it overloaded?",
            ));
        }
    }
    found.extend(missing(facts, seen));
    found.extend(deaf(facts));
    found.extend(namesakes(seen));
    found.extend(twins(facts, seen));
    if found.is_empty() {
        found.push(Finding::ok(everybody(&seen.hosts)));
    }
    Ok(found)
}

/// Names the hosts that answer; of many only the first.
fn everybody(hosts: &[HostReply]) -> String {
    let names: Vec<String> = hosts.iter().take(NAMED_MAX).map(named).collect();
    let names = listed(names.iter().map(String::as_str), NAMED_MAX, hosts.len());
    let count = if hosts.len() == 1 {
        "one host answers".to_owned()
    } else {
        format!("{} hosts answer", hosts.len())
    };
    format!("{count}: {names}")
}

/// A host that is there, and does not say which.
fn refusing(error: &str) -> Finding {
    Finding::wrong(
        format!("a host refuses to tell who it is: {error}"),
        "remove labels of it, or raise max_payload in the NATS server's configuration",
    )
}

fn nobody(facts: &Facts, seen: &Seen) -> Finding {
    let lattice =
        facts.settings.config.as_ref().map_or("default", |config| config.lattice.as_str());
    if let [other, rest @ ..] = seen.others.as_slice() {
        let rest =
            if rest.is_empty() { String::new() } else { format!(" (or of {})", rest.join(", ")) };
        return Finding::wrong(
            format!(
                "no host of lattice {lattice} answers, but there is something of lattice {other}{rest} at this NATS server"
            ),
            format!(
                "if that is meant: --lattice {other} (lattice_prefix, WASMCLOUD_LATTICE_PREFIX)"
            ),
        );
    }
    let here = match facts.machine.running.len() {
        0 => "no host runs on this machine either".to_owned(),
        1 => "one runs on this machine, at another NATS server or in another lattice".to_owned(),
        count => format!("{count} run on this machine, at other NATS servers or in other lattices"),
    };
    Finding::wrong(
        format!("no host of lattice {lattice} answers at this NATS server; {here}"),
        "start one: `host up`, or `host foreground` beside a NATS server; or name the right server (--ctl-host)",
    )
}

/// Hosts that others know and that do not answer.
fn missing(facts: &Facts, seen: &Seen) -> Vec<Finding> {
    let answering: HashSet<&str> = seen.hosts.iter().map(|host| host.id.as_str()).collect();
    // By host: how long it was silent where it is known to be, and who hears it.
    let mut silent: BTreeMap<String, u64> = BTreeMap::new();
    let mut heard: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (host, told) in facts.told() {
        for peer in
            told.health.peers.iter().filter(|peer| !answering.contains(peer.host_id.as_str()))
        {
            if peer.is_silent {
                let longest = silent.entry(peer.host_id.clone()).or_default();
                *longest = peer.silence_ms.max(*longest);
            } else {
                heard.entry(peer.host_id.clone()).or_default().insert(named(host));
            }
        }
    }
    let mut found = Vec::new();
    for (id, by) in &heard {
        let by: Vec<&str> = by.iter().map(String::as_str).collect();
        found.push(Finding::wrong(
            format!("host {id} is heard by {}, but does not answer here", by.join(", ")),
            "its control connection (ctl_*) may lead to another NATS server than its connection for calls (rpc_*), or it hangs",
        ));
    }
    for host in &seen.lost {
        // The others remember it for longer than they listen for it. Every check tells this age.
        let ago = facts.now.saturating_mul(1000).saturating_sub(host.lost_ms);
        silent.insert(host.id.clone(), ago);
    }
    for (id, ms) in silent.iter().filter(|(id, _)| !heard.contains_key(*id)) {
        let known = seen.lost.iter().find(|host| host.id == *id);
        let name = match known.map(LostHost::called) {
            Some(name) if name != id => format!("{name} ({id})"),
            _ => id.clone(),
        };
        found.push(Finding::warning(
            format!("host {name} vanished without a goodbye {} ago", span(ms / 1000)),
            format!(
                "see whether that machine runs and reaches its NATS server; if it is gone for good: host forget {}",
                known.map_or(id.as_str(), LostHost::called)
            ),
        ));
    }
    found
}

/// Hosts that answer and do not hear each other.
fn deaf(facts: &Facts) -> Vec<Finding> {
    let told = facts.told();
    let grown: Vec<&(&HostReply, &Told)> =
        told.iter().filter(|(_, told)| told.health.uptime_seconds >= YOUNG_SECS).collect();
    let mut found = Vec::new();
    // A peer that did not fit into the answer may have been heard all the same.
    for (host, told) in grown.iter().filter(|(_, told)| !told.health.is_cut) {
        let heard = told
            .health
            .peers
            .iter()
            .filter(|peer| !peer.is_silent)
            .map(|peer| peer.host_id.as_str());
        let heard: HashSet<&str> = heard.collect();
        let not_heard = grown
            .iter()
            .filter(|(other, _)| other.id != host.id)
            .filter(|(other, _)| !heard.contains(other.id.as_str()));
        let not_heard: Vec<String> = not_heard.map(|(other, _)| named(other)).collect();
        if !not_heard.is_empty() {
            found.push(Finding::wrong(
                format!("host {} does not hear {}, although both answer here", named(host), not_heard.join(", ")),
                "their connections for calls (rpc_host, rpc_port) lead to NATS servers that are not joined, or their users may not \
                 use wasmbus.rpc.>",
            ));
        }
    }
    found
}

/// Hosts that were started with one key.
fn twins(facts: &Facts, seen: &Seen) -> Vec<Finding> {
    let told = facts.told();
    let heard =
        told.iter().filter(|(_, told)| told.health.twin_ms.is_some()).map(|(host, _)| &host.id);
    let ids: BTreeSet<&String> = heard.chain(seen.twins.iter().map(|twin| &twin.id)).collect();
    let findings = ids.into_iter().map(|id| {
        let answering = seen.hosts.iter().chain(&seen.twins).filter(|host| host.id == *id);
        let names: Vec<&str> = answering.map(|host| host.friendly_name.as_str()).collect();
        Finding::wrong(
            format!(
                "several hosts have the key {id} ({}): commands and calls reach now the one, now the other",
                names.join(", ")
            ),
            "give each a host_seed (WASMCLOUD_HOST_SEED) of its own, or none, and start them again",
        )
    });
    findings.collect()
}

fn namesakes(seen: &Seen) -> Vec<Finding> {
    let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for host in seen.hosts.iter().filter(|host| !host.friendly_name.is_empty()) {
        names.entry(&host.friendly_name).or_default().push(&host.id);
    }
    let clashes = names.into_iter().filter(|(_, ids)| ids.len() > 1);
    clashes
        .map(|(name, ids)| {
            Finding::note(format!(
                "{} hosts are called {name}; name them by id: {}",
                ids.len(),
                ids.join(", ")
            ))
        })
        .collect()
}

pub(super) fn metadata(facts: &Facts) -> Found {
    let seen = inhabited(facts)?;
    let told = facts.told();
    let mut found = Vec::new();
    for (host, Told { health, .. }) in &told {
        let store = &health.store;
        let name = named(host);
        let why = store.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
        if store.is_away {
            found.push(Finding::wrong(
                format!("host {name} does not reach the metadata of the lattice and cannot change links{why}"),
                "see the checks jetstream and leaf at that host",
            ));
        } else if !store.is_shared {
            let seen = format!(
                "host {name} keeps links and claims in memory: nobody shares them, and they are lost when it stops{why}"
            );
            let fix = "give its NATS server JetStream; the host moves over by itself";
            found.push(if told.len() < 2 {
                Finding::warning(seen, fix)
            } else {
                Finding::wrong(seen, fix)
            });
        } else if !store.is_known && health.uptime_seconds >= YOUNG_SECS {
            found.push(Finding::warning(
                format!("host {name} has not been told yet what {} has", store.place),
                "see the check leaf",
            ));
        }
    }
    if seen.links.is_none() || seen.claims.is_none() {
        let why = seen.untold.as_deref().unwrap_or("nobody answers");
        found.push(Finding::wrong(
            format!("no host tells the links and claims of the lattice: {why}"),
            "see the checks leaf and permissions, or do what the host says",
        ));
    }
    if found.is_empty() {
        found.push(match told.first() {
            Some((_, told)) => Finding::ok(format!("all hosts share {}", told.health.store.place)),
            None => Finding::skipped(TELL_NOTHING),
        });
    }
    Ok(found)
}

pub(super) fn versions(facts: &Facts) -> Found {
    let seen = inhabited(facts)?;
    let mut found = Vec::new();
    let (ours, old): (Vec<&HostReply>, Vec<&HostReply>) =
        seen.hosts.iter().partition(|host| host.is_ours());
    if !old.is_empty() {
        let names: Vec<String> =
            old.iter().map(|host| format!("{}, version {}", named(host), host.version)).collect();
        found.push(Finding::note(format!(
            "hosts of earlier years take part: {}. They tell nothing of their state, and calls go to them through queue groups",
            names.join("; ")
        )));
    }
    let silent =
        ours.iter().filter(|host| matches!(seen.health.get(&host.id), Some(Err(Untold::TooOld))));
    let silent: Vec<String> = silent.map(|host| named(host)).collect();
    if !silent.is_empty() {
        let names = silent.join(", ");
        found.push(Finding::note(format!(
            "hosts of an earlier version do not tell how they are: {names}"
        )));
    }
    let versions: BTreeSet<&str> = ours.iter().map(|host| host.version.as_str()).collect();
    if versions.len() > 1 {
        let versions: Vec<&str> = versions.iter().copied().collect();
        found
            .push(Finding::note(format!("hosts have different versions: {}", versions.join(", "))));
    }
    if found.is_empty() {
        found.push(Finding::ok(format!(
            "all hosts have version {}",
            versions.first().copied().unwrap_or("unknown")
        )));
    }
    Ok(found)
}

pub(super) fn domains(facts: &Facts) -> Found {
    let seen = inhabited(facts)?;
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for host in &seen.hosts {
        // Without a domain of its own a host uses that of its server.
        let told = seen.health.get(&host.id).and_then(|told| told.as_ref().ok());
        let of_server = told.and_then(|told| told.health.ctl.server_domain.clone());
        let domain = host.js_domain.clone().filter(|domain| !domain.is_empty()).or(of_server);
        places.entry(domain.unwrap_or_else(|| "none".into())).or_default().push(named(host));
    }
    let own = facts.settings.config.as_ref().and_then(|config| config.js_domain.clone());
    let own =
        own.or_else(|| facts.server.as_ref().ok()?.domain.clone()).unwrap_or_else(|| "none".into());
    Ok(vec![match places.iter().collect::<Vec<_>>().as_slice() {
        [(domain, _)] if **domain == own => {
            Finding::ok(format!("all hosts keep the metadata in domain {domain}"))
        }
        [(domain, _)] => {
            let without = if domain.as_str() == "none" {
                "without --js-domain".to_owned()
            } else {
                format!("--js-domain {domain}")
            };
            Finding::warning(
                format!(
                    "the hosts keep the metadata in domain {domain}, the settings here say {own}"
                ),
                format!(
                    "{without} (js_domain, WASMCLOUD_JS_DOMAIN): a host that is started here would know other links"
                ),
            )
        }
        several => {
            let parts: Vec<String> = several
                .iter()
                .map(|(domain, hosts)| format!("{domain} ({})", hosts.join(", ")))
                .collect();
            Finding::wrong(
                format!(
                    "hosts of one lattice keep their metadata in different domains, so they know different links: {}",
                    parts.join("; ")
                ),
                "set the same js_domain (WASMCLOUD_JS_DOMAIN) on all of them: copy host_config.json, and start them again",
            )
        }
    }])
}

/// Reports warnings of hosts about their own settings, and differences between hosts of this
/// machine.
pub(super) fn settings(facts: &Facts) -> Found {
    let told = telling(facts)?;
    let mut found = Vec::new();
    for (host, told) in &told {
        for warning in &told.health.settings.warnings {
            found.push(Finding::warning(
                format!("host {} was started with: {warning}", named(host)),
                "correct it there and start the host again",
            ));
        }
    }
    let here: Vec<&(&HostReply, &Told)> =
        told.iter().filter(|(host, _)| facts.machine.running.contains(&host.id)).collect();
    if let Some(((first, one), rest)) = here.split_first() {
        let bare = |told: &Told| {
            let mut settings = told.health.settings.clone();
            settings.warnings.clear();
            settings
        };
        for (other, two) in rest.iter().filter(|(_, two)| bare(two) != bare(one)) {
            found.push(Finding::note(format!(
                "{} and {} run on this machine with different settings (files, registries, services or timeouts): {}",
                named(first),
                named(other),
                differences(one, two)
            )));
        }
    }
    if found.is_empty() {
        found.push(Finding::ok("no host found anything odd about its settings"));
    }
    Ok(found)
}

fn differences(one: &Told, two: &Told) -> String {
    let (Ok(one), Ok(two)) =
        (serde_json::to_value(&one.health.settings), serde_json::to_value(&two.health.settings))
    else {
        return String::new();
    };
    let members = one.as_object().into_iter().flatten();
    let differing =
        members.filter(|(key, value)| key.as_str() != "warnings" && two[key.as_str()] != **value);
    let differing: Vec<String> =
        differing.map(|(key, value)| format!("{key} {value} and {}", two[key.as_str()])).collect();
    differing.join("; ")
}

pub(super) fn labels(facts: &Facts) -> Found {
    let seen = inhabited(facts)?;
    let mut spellings: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let mut found = Vec::new();
    for host in &seen.hosts {
        for (key, value) in &host.labels {
            spellings.entry(key.to_lowercase()).or_default().insert(key);
            if value.trim() != value || value.is_empty() {
                found.push(Finding::warning(
                    format!(
                        "label {key} of host {} is {value:?}: constraints must equal it to the letter",
                        named(host)
                    ),
                    format!("host label {} {key}=VALUE, and in the settings it comes from", host.id),
                ));
            }
        }
    }
    for keys in spellings.values().filter(|keys| keys.len() > 1) {
        let keys: Vec<&str> = keys.iter().copied().collect();
        found.push(Finding::warning(
            format!("labels are spelt in different ways: {}; a constraint finds one of them", keys.join(", ")),
            "HOST_x variables become lower-case, WASMCLOUD_LABEL_x keep their case: use one of them everywhere",
        ));
    }
    if found.is_empty() {
        let own: BTreeSet<&str> =
            seen.hosts.iter().flat_map(|host| host.labels.keys()).map(String::as_str).collect();
        let own: Vec<&str> = own.into_iter().filter(|key| !key.starts_with("hostcore.")).collect();
        found.push(Finding::ok(match own.is_empty() {
            true => "no labels besides those of the machines".to_owned(),
            false => format!("labels to start things by: {}", own.join(", ")),
        }));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;
    use lattice_protocol::control::probe::health::{Health, PeerHealth};

    fn host(id: &str, change: impl FnOnce(&mut HostReply)) -> HostReply {
        let mut host = HostReply {
            id: id.into(),
            version: "1.0.0".into(),
            peers: Some(Vec::new()),
            ..HostReply::default()
        };
        change(&mut host);
        host
    }

    fn facts(hosts: Vec<HostReply>, change: impl Fn(&mut Health)) -> Facts {
        let health = hosts.iter().filter(|host| host.is_ours()).map(|host| {
            let mut health =
                Health { host_id: host.id.clone(), uptime_seconds: 100, ..Health::default() };
            change(&mut health);
            (host.id.clone(), Ok(Told { health, ..Told::default() }))
        });
        let health = health.collect();
        Facts { lattice: Ok(Seen { hosts, health, ..Seen::default() }), ..Facts::default() }
    }

    fn worst(found: Found) -> Verdict {
        found.unwrap().iter().map(|found| found.verdict).max().unwrap()
    }

    #[test]
    fn domains_must_be_the_same_and_that_of_the_server_counts() {
        let in_domain = |id: &str, domain: Option<&str>| {
            host(id, |host| host.js_domain = domain.map(str::to_owned))
        };
        let two = facts(vec![in_domain("A", Some("core")), in_domain("B", Some("edge"))], |_| {});
        assert_eq!(worst(domains(&two)), Verdict::Wrong);
        let server = |health: &mut Health| health.ctl.server_domain = Some("core".into());
        let mut same = facts(vec![in_domain("A", Some("core")), in_domain("B", None)], server);
        assert_eq!(worst(domains(&same)), Verdict::Warning, "the settings here say none");
        same.server =
            Ok(super::super::facts::Server { domain: Some("core".into()), ..Default::default() });
        assert_eq!(worst(domains(&same)), Verdict::Ok);
    }

    #[test]
    fn hosts_that_do_not_hear_each_other_are_told_from_those_that_vanished() {
        let both = || vec![host("A", |_| {}), host("B", |_| {})];
        assert_eq!(worst(hosts(&facts(both(), |_| {}))), Verdict::Wrong, "deaf");
        let peer = |id: &str, is_silent| PeerHealth {
            host_id: id.into(),
            is_silent,
            silence_ms: 9000,
            ..PeerHealth::default()
        };
        let hearing = |health: &mut Health| health.peers = vec![peer("A", false), peer("B", false)];
        assert_eq!(worst(hosts(&facts(both(), hearing))), Verdict::Ok);
        let vanished = |health: &mut Health| {
            health.peers = vec![peer("A", false), peer("B", false), peer("C", true)]
        };
        let found = hosts(&facts(both(), vanished)).unwrap();
        assert!(
            matches!(found.as_slice(), [one] if one.verdict == Verdict::Warning && one.seen.contains("9 seconds")),
            "{found:?}"
        );
        let young = |health: &mut Health| health.uptime_seconds = 1;
        assert_eq!(worst(hosts(&facts(both(), young))), Verdict::Ok);
    }

    #[test]
    fn labels_that_differ_in_case_are_a_warning() {
        let labelled =
            |id: &str, key: &str| host(id, |host| drop(host.labels.insert(key.into(), "a".into())));
        assert_eq!(
            worst(labels(&facts(vec![labelled("A", "Zone"), labelled("B", "zone")], |_| {}))),
            Verdict::Warning
        );
        assert_eq!(
            worst(labels(&facts(vec![labelled("A", "zone"), labelled("B", "zone")], |_| {}))),
            Verdict::Ok
        );
    }

    #[test]
    fn friendly_names_that_clash_are_worth_to_know() {
        let named = |id: &str| host(id, |host| host.friendly_name = "calm-otter".into());
        let found = namesakes(&Seen { hosts: vec![named("A"), named("B")], ..Seen::default() });
        assert!(found[0].verdict == Verdict::Note && found[0].seen.contains("A, B"));
    }
}

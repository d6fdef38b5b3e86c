//! Hosts that somebody should look at, and what they tell of what they run.

use std::collections::{BTreeMap, BTreeSet};

use super::{Attention, Grade, item::Rank};
use crate::model::{
    HostView, ProviderState, State,
    fix::{Fix, without_reference},
    names::name_or_short,
};
use lattice_client::{
    expiry::{self, Expiring},
    lost::Missing,
};
use lattice_protocol::{
    clock,
    control::{
        probe::health::{Failure, GivenUp, Health},
        types::InventoryProvider,
    },
    links::{Table, link_option, other_values},
};

/// Things that are named in one entry.
const NAMED_MAX: usize = 8;

/// Adds what is wrong with a host that is not lost, by its own report too.
pub(super) fn of_host(host: &HostView, table: &Table, attention: &mut Vec<Attention>) {
    match host.state {
        State::Ok | State::Stopping => {}
        State::Silent => attention.push(
            Attention::new(
                Grade::Warning,
                "host",
                &host.id,
                format!("Host {} misses its heartbeats", host.name),
            )
            .about(&host.name)
            .advice("It may be busy, frozen, or cut off from NATS."),
        ),
        // All that is lost with it is told with that.
        State::Lost => return,
    }
    attention
        .extend(host.inventory.providers.iter().filter_map(|provider| of_provider(host, provider)));
    if let Some(health) = &host.health {
        of_health(host, health, table, attention);
    }
}

fn of_provider(host: &HostView, provider: &InventoryProvider) -> Option<Attention> {
    let (id, link_name) = (&provider.id, &provider.link_name);
    let name = if provider.name.is_empty() { id } else { &provider.name };
    let health = host.health.as_ref().and_then(|health| health.provider(id, link_name));
    let (text, said) = if host.provider_health(id, link_name) == ProviderState::Unhealthy {
        let complaint = health.and_then(|health| health.complaint.as_deref());
        (format!("Provider {name} on {} fails its health check", host.name), complaint)
    } else {
        let health = health.filter(|health| health.crashes > 0)?;
        let text =
            format!("Provider {name} on {} ended {} times in a row", host.name, health.crashes);
        (text, health.last_end.as_deref())
    };
    let mut item = Attention::new(Grade::Error, "provider", id, text)
        .said(said)
        .about(name)
        .advice(format!("`host logs {id}{}` shows what it says.", link_option(link_name)));
    item.link_name.clone_from(link_name);
    Some(item)
}

/// The report of a host about itself: its starts, its links, its connections.
fn of_health(host: &HostView, health: &Health, table: &Table, attention: &mut Vec<Attention>) {
    for failure in &health.failures {
        if let Some(given_up) = &failure.given_up {
            attention.push(of_given_up(host, failure, given_up));
            continue;
        }
        let text = format!("{} does not start on {}", failure.reference, host.name);
        let said = without_reference(&failure.reference, &failure.error);
        let mut item = Attention::new(Grade::Warning, "host", &host.id, text)
            .said(Some(&said))
            .about(&host.name)
            .mended_by(Fix::of_failure(failure, &host.id))
            .rank(Rank::Start);
        item.since_ms = Some(failure.at_ms);
        attention.push(item);
    }
    attention
        .extend(expiry::of_health(health).filter_map(|(id, at)| of_claims(id, at, host, table)));
    for refused in &health.links {
        let actor =
            table.claims(&refused.actor_id).map_or(&refused.actor_id, |claims| &claims.name);
        let text = format!("The link of {actor} for {} is not taken on", refused.contract_id);
        let mut item = Attention::new(Grade::Error, "link", &refused.actor_id, text)
            .said(Some(&refused.error))
            .about(actor)
            .mended_by(Fix::PutLink {
                actor_id: refused.actor_id.clone(),
                contract_id: refused.contract_id.clone(),
                link_name: refused.link_name.clone(),
            })
            .advice(format!(
                "Put the link again with values that the provider takes: {}.",
                other_values(
                    &refused.actor_id,
                    &refused.provider_id,
                    &refused.contract_id,
                    &refused.link_name
                )
            ));
        item.link_name.clone_from(&refused.link_name);
        attention.push(item);
    }
    for line in [&health.ctl, &health.rpc] {
        for denied in line.denied.iter().collect::<BTreeSet<_>>() {
            let text = format!("The NATS server forbids host {} something: {denied}", host.name);
            attention.push(
                Attention::new(Grade::Error, "host", &host.id, text)
                    .about(&host.name)
                    .advice("`host doctor` names what is needed."),
            );
        }
    }
}

/// A provider that ran and is not started again: as bad as one that ends again and again.
fn of_given_up(host: &HostView, failure: &Failure, given_up: &GivenUp) -> Attention {
    let GivenUp { id, name } = given_up;
    let name = if name.is_empty() { id } else { name };
    let said = without_reference(&failure.reference, &failure.error);
    let text = format!("Provider {name} on {} does not run any more", host.name);
    let mut item = Attention::new(Grade::Error, "provider", id, text)
        .said(Some(&said))
        .about(name)
        .mended_by(Fix::of_failure(failure, &host.id))
        .advice(format!("`host logs {id}{}` shows what it said.", link_option(&failure.link_name)));
    item.link_name.clone_from(&failure.link_name);
    item.since_ms = Some(failure.at_ms);
    item
}

/// Claims of something that runs, if they are over or will be soon.
fn of_claims(id: &str, expires: u64, host: &HostView, table: &Table) -> Option<Attention> {
    let who = format!("{} on {}", name_or_short(table, id), host.name);
    let Expiring { is_over, text } = expiry::expiring(&who, expires, clock::now_ms() / 1000)?;
    let grade = if is_over { Grade::Error } else { Grade::Warning };
    let kind = if id.starts_with('V') { "provider" } else { "actor" };
    let text = format!("The claims{}", text.strip_prefix("the claims").unwrap_or(&text));
    let advice = match kind {
        "actor" => "Sign its module again with a later expiry, and update it.",
        _ => "Make its archive again with claims of a later expiry, and start it from there.",
    };
    let mut item = Attention::new(grade, kind, id, text).advice(advice);
    let provider = host.inventory.providers.iter().find(|provider| provider.id == id);
    if let Some(provider) = provider {
        item.link_name.clone_from(&provider.link_name);
    }
    Some(item)
}

/// A host that vanished, with what ran only there.
pub(super) fn of_lost(host: &HostView, missing: &[Missing]) -> Option<Attention> {
    if host.state != State::Lost {
        return None;
    }
    let gone: Vec<&str> =
        missing.iter().filter(|missing| missing.ran_on(&host.id)).map(Missing::called).collect();
    let mut text = format!("Host {} vanished without a goodbye", host.name);
    let advice = match gone.as_slice() {
        [] => {
            "All that it ran runs elsewhere. Look at its machine, and at the leaf node beside it."
                .to_owned()
        }
        gone => {
            let (count, named) = (gone.len(), named(gone));
            text.push_str(&format!("; {count} that ran only there run nowhere: {named}"));
            format!("Start them on other hosts: `host start lost {}`", host.name)
        }
    };
    // All that it ran goes on: somebody should look, and nobody misses anything.
    let severity = if gone.is_empty() { Grade::Warning } else { Grade::Error };
    let mut item = Attention::new(severity, "host", &host.id, text)
        .about(&host.name)
        .advice(advice)
        .rank(Rank::Loss);
    // The number of what runs nowhere, and its names, change while the host is lost.
    item.topic = Some("lost".to_owned());
    item.since_ms = host.lost_ms;
    item.fix = (!gone.is_empty()).then(|| Fix::StartElsewhere { host_id: host.id.to_string() });
    Some(item)
}

/// Hosts whose calls others refuse, since they sign with a cluster key that those do not accept; as
/// the doctor says it.
pub(super) fn strangers<'a>(
    hosts: impl Iterator<Item = (&'a str, &'a str, &'a Health)>,
) -> Vec<Attention> {
    let hosts: Vec<_> = hosts.filter(|(.., health)| !health.cluster_key.is_empty()).collect();
    let keys: BTreeSet<&str> =
        hosts.iter().map(|(.., health)| health.cluster_key.as_str()).collect();
    if keys.len() < 2 {
        return Vec::new();
    }
    let refusing: BTreeMap<&str, Vec<&str>> =
        keys.into_iter().map(|key| (key, refusing(&hosts, key))).collect();
    let told = hosts.iter().filter_map(|(id, name, signer)| {
        let refusing = refusing.get(signer.cluster_key.as_str())?;
        (!refusing.is_empty()).then(|| stranger(id, name, refusing))
    });
    told.collect()
}

/// The names of the hosts that do not accept calls which are signed with a cluster key.
fn refusing<'a>(hosts: &[(&'a str, &'a str, &'a Health)], key: &str) -> Vec<&'a str> {
    let refusing = hosts.iter().filter(|(.., other)| {
        let issuers = &other.cluster_issuers;
        other.cluster_key != key
            && !issuers.is_empty()
            && !issuers.iter().any(|issuer| issuer == key)
    });
    refusing.map(|(_, name, _)| *name).collect()
}

/// A host whose calls these refuse.
fn stranger(id: &str, name: &str, refusing: &[&str]) -> Attention {
    let named = named(refusing);
    let text = format!("Calls of {name} are refused by {named}: it has another cluster seed");
    let mut item = Attention::new(Grade::Error, "host", id, text).about(name).advice(
        "Start all with the same cluster_seed, or add its key to cluster_issuers of the others. `host doctor` names them.",
    );
    // Those that refuse come and go while it lasts.
    item.topic = Some("cluster seed".to_owned());
    item
}

/// Names the first of these, and says how many more there are.
fn named(names: &[&str]) -> String {
    let first = names.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mask::{HIDDEN, Mask as _};

    #[test]
    fn a_lost_host_and_a_start_that_failed_are_told() {
        let failure = Failure {
            reference: "x:1".into(),
            error: "no such image".into(),
            ..Failure::default()
        };
        let health = Health { failures: vec![failure], ..Health::default() };
        let mut host =
            HostView { name: "calm".into(), health: Some(Arc::new(health)), ..HostView::default() };
        let told = |host: &HostView| {
            let mut attention = Vec::new();
            of_host(host, &Table::default(), &mut attention);
            attention.into_iter().map(|item| item.text).collect::<Vec<_>>()
        };
        assert_eq!(told(&host), ["x:1 does not start on calm: no such image"]);
        let mut attention = Vec::new();
        of_host(&host, &Table::default(), &mut attention);
        attention.mask();
        assert_eq!(attention[0].text, format!("x:1 does not start on calm: {HIDDEN}"));
        host.state = State::Lost;
        assert!(told(&host).is_empty(), "what it said before is over");
        let lost = of_lost(&host, &[]).unwrap();
        assert_eq!(lost.text, "Host calm vanished without a goodbye");
        let gone = Missing {
            name: "echo".into(),
            hosts: vec![(host.id.to_string(), "calm".into())],
            ..Missing::default()
        };
        let lost = of_lost(&host, &[gone]).unwrap();
        assert!(lost.text.ends_with("1 that ran only there run nowhere: echo"), "{}", lost.text);
        assert!(matches!(lost.fix, Some(Fix::StartElsewhere { .. })));
        assert_eq!(lost.stable_key(), of_lost(&host, &[]).unwrap().stable_key());
    }

    #[test]
    fn hosts_of_another_cluster_are_told() {
        let health = |key: &str, issuers: &[&str]| Health {
            cluster_key: key.into(),
            cluster_issuers: issuers.iter().map(|key| (*key).to_owned()).collect(),
            ..Health::default()
        };
        let (one, two) = (health("CA", &["CA"]), health("CB", &["CA", "CB"]));
        let told = strangers([("N1", "calm", &one), ("N2", "bold", &two)].into_iter());
        let texts: Vec<&str> = told.iter().map(|item| item.text.as_str()).collect();
        assert_eq!(texts, ["Calls of bold are refused by calm: it has another cluster seed"]);
        let names: Vec<String> = (0..NAMED_MAX + 2).map(|number| format!("h{number}")).collect();
        let many = names.iter().map(|name| (name.as_str(), name.as_str(), &one));
        let more = strangers(many.chain([("N2", "bold", &two)]));
        assert_eq!((more.len(), more[0].stable_key()), (1, told[0].stable_key()));
        assert!(more[0].text.contains("h7 and 2 more: it has"), "{}", more[0].text);
        assert!(strangers([("N1", "calm", &one), ("N2", "bold", &one)].into_iter()).is_empty());
    }

    #[test]
    fn a_provider_that_is_given_up_is_an_error_under_its_name() {
        let failure = Failure {
            kind: "provider".into(),
            reference: "lattice://sha256:abc".into(),
            link_name: "b".into(),
            error: "given up after 6 restarts".into(),
            given_up: Some(GivenUp { id: "VA".into(), name: "Looper".into() }),
            ..Failure::default()
        };
        let health = Health { failures: vec![failure], ..Health::default() };
        let host = HostView { name: "calm".into(), ..HostView::default() };
        let mut attention = Vec::new();
        of_health(&host, &health, &Table::default(), &mut attention);
        let [item] = attention.as_slice() else { panic!("{attention:?}") };
        assert_eq!((item.severity, item.kind, &*item.id), (Grade::Error, "provider", "VA"));
        assert_eq!(
            item.text,
            "Provider Looper on calm does not run any more: given up after 6 restarts"
        );
    }

    #[test]
    fn claims_are_told_before_they_are_over() {
        let (host, now) =
            (HostView { name: "calm".into(), ..HostView::default() }, clock::now_ms() / 1000);
        let told = |expires: u64| of_claims("MA", expires, &host, &Table::default());
        assert_eq!(told(now - 10).unwrap().severity, Grade::Error);
        assert_eq!(told(now + 86_400).unwrap().severity, Grade::Warning);
        assert!(told(now + 30 * 86_400).is_none());
    }
}

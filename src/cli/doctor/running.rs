//! Checks of actors and providers: those that run, and the starts that failed.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Finding, Found,
    facts::{Facts, Told, named},
    hosts::{inhabited, telling},
};
use lattice_base::registry::uploads;
use lattice_client::expiry::{self, Expiring};
use lattice_protocol::{
    control::{
        probe::health::{ActorHealth, Failure, ProviderHealth},
        types::HostReply,
    },
    links::{Claims, link_option},
};

/// The message of the supervisor of providers when it stops restarting one.
const GIVEN_UP: &str = "given up after";
/// How a refusal to load a file begins.
const NO_FILES: &str = "files are not loaded";

pub(super) fn starts(facts: &Facts) -> Found {
    let told = telling(facts)?;
    let mut found = Vec::new();
    for (host, told) in told {
        for failure in &told.health.failures {
            found.push(Finding::warning(
                format!(
                    "{} {} did not start on {}: {}",
                    failure.kind,
                    failure.reference,
                    named(host),
                    failure.error
                ),
                start_again(host, failure),
            ));
        }
    }
    if found.is_empty() {
        found.push(Finding::ok("no start failed within the last hour"));
    }
    Ok(found)
}

fn start_again(host: &HostReply, failure: &Failure) -> String {
    let Failure { kind, reference, link_name, .. } = failure;
    // The content of a sent file stays the same under its reference.
    let reference: &str = if reference.starts_with(uploads::SCHEME) { "FILE" } else { reference };
    format!(
        "mend the cause, then: host start {kind} {reference}{} --host-id {}",
        link_option(link_name),
        host.id
    )
}

pub(super) fn references(facts: &Facts) -> Found {
    let told = telling(facts)?;
    let mut found = Vec::new();
    for (host, told) in &told {
        let refused =
            told.health.failures.iter().filter(|failure| failure.error.contains(NO_FILES));
        found.extend(refused.map(|failure| {
            Finding::warning(
                format!("host {} was asked for {} and loads no files", named(host), failure.reference),
                "start that host with allow_file_load (--allow-file-load, WASMCLOUD_ALLOW_FILE_LOAD=true), or push the artifact to a \
                 registry (`host push`)",
            )
        }));
    }
    let rules: [Rule; 2] = [
        ("files", is_file, |told| told.health.settings.allow_file_load),
        ("the tag latest", is_latest, |told| told.health.settings.allow_latest),
    ];
    for (what, is_it, allows) in rules {
        let actors =
            told.iter().flat_map(|(_, told)| &told.health.actors).map(|one| one.reference.as_str());
        let providers = told
            .iter()
            .flat_map(|(_, told)| &told.health.providers)
            .map(|one| one.reference.as_str());
        let references: BTreeSet<&str> =
            actors.chain(providers).filter(|reference| is_it(reference)).collect();
        let refusing = told.iter().filter(|(_, told)| !allows(told));
        let hosts: Vec<String> = refusing.map(|(host, _)| named(host)).collect();
        if !references.is_empty() && !hosts.is_empty() {
            found.push(Finding::note(format!(
                "{} come from {what}, which {} do not load: they cannot run there when their host is gone",
                references.into_iter().collect::<Vec<_>>().join(", "),
                hosts.join(", ")
            )));
        }
    }
    if found.is_empty() {
        found.push(Finding::ok("every host would load what runs"));
    }
    Ok(found)
}

/// A kind of reference that hosts may refuse: its name, whether a reference is one, whether a host
/// loads it.
type Rule = (&'static str, fn(&str) -> bool, fn(&Told) -> bool);

fn is_file(reference: &str) -> bool {
    reference.starts_with("file://") || reference.starts_with('/')
}

fn is_latest(reference: &str) -> bool {
    !reference.contains("://") && !reference.starts_with('/') && reference.ends_with(":latest")
}

/// Call aliases that several actors are signed with: calls go to one of them.
pub(super) fn aliases(facts: &Facts) -> Found {
    let seen = inhabited(facts)?;
    let Some(claims) = &seen.claims else {
        return Err(Finding::skipped("no host tells the claims of the lattice (metadata)"));
    };
    let mut by_alias: BTreeMap<&str, Vec<&Claims>> = BTreeMap::new();
    // An alias of one letter is none.
    for claims in
        claims.iter().filter(|claims| claims.call_alias.len() > 1 && !claims.is_provider())
    {
        by_alias.entry(&claims.call_alias).or_default().push(claims);
    }
    let actors: BTreeSet<&str> = seen
        .inventories
        .iter()
        .flat_map(|inventory| &inventory.actors)
        .map(|actor| actor.id.as_str())
        .collect();
    let contested = by_alias.iter().filter(|(_, claimants)| claimants.len() > 1);
    let mut found: Vec<Finding> =
        contested.flat_map(|(alias, claimants)| contest(alias, claimants, &actors)).collect();
    if found.is_empty() {
        found.push(Finding::ok("no call alias is claimed by two actors"));
    }
    Ok(found)
}

/// Names actors, each with its account.
fn listed(claimants: &[&Claims]) -> String {
    let each =
        claimants.iter().map(|claims| format!("{} (signed by {})", claims.subject, claims.issuer));
    each.collect::<Vec<_>>().join(" and ")
}

fn contest(alias: &str, claimants: &[&Claims], actors: &BTreeSet<&str>) -> Vec<Finding> {
    let (running, gone): (Vec<&Claims>, Vec<&Claims>) =
        claimants.iter().copied().partition(|claims| actors.contains(claims.subject.as_str()));
    let mut found = Vec::new();
    if running.len() > 1 {
        found.push(Finding::warning(
            format!(
                "call alias {alias} is claimed by {}, which all run: calls go to the first that ran",
                listed(&running)
            ),
            "sign all but one with another alias, and update them",
        ));
    }
    if !gone.is_empty() {
        let mut what =
            format!("call alias {alias} is claimed by {}, which runs nowhere", listed(&gone));
        if let [one] = running.as_slice() {
            what.push_str(&format!("; {} runs", listed(&[one])));
        }
        let fix: Vec<String> =
            gone.iter().map(|claims| format!("host claims forget {}", claims.subject)).collect();
        found.push(Finding::warning(what, format!("if it is gone for good: {}", fix.join("; "))));
    }
    found
}

pub(super) fn claims(facts: &Facts) -> Found {
    let told = telling(facts)?;
    let mut found = Vec::new();
    for (host, told) in &told {
        found.extend(
            told.health.actors.iter().filter_map(|actor| expiring_actor(host, actor, facts.now)),
        );
        found.extend(
            told.health
                .providers
                .iter()
                .filter_map(|provider| expiring_provider(host, provider, facts.now)),
        );
    }
    if found.is_empty() {
        found.push(Finding::ok("the claims of all running actors and providers count"));
    }
    Ok(found)
}

fn expiring_actor(host: &HostReply, actor: &ActorHealth, now: u64) -> Option<Finding> {
    let fix = format!(
        "sign the module again with a later expiry (host claims sign FILE --expires DAYS; without --rev it is newer than what \
         runs), then host update actor {} REFERENCE",
        actor.id
    );
    let who = format!("actor {} ({}) on {}", actor.name, actor.id, named(host));
    expiring(&who, fix, actor.expires?, now)
}

fn expiring_provider(host: &HostReply, provider: &ProviderHealth, now: u64) -> Option<Finding> {
    let fix =
        "make its archive again with claims of a later expiry, stop it and start it from there"
            .to_owned();
    let who = format!("provider {} ({}) on {}", provider.name, provider.id, named(host));
    expiring(&who, fix, provider.expires?, now)
}

fn expiring(who: &str, fix: String, expires: u64, now: u64) -> Option<Finding> {
    let Expiring { is_over, text } = expiry::expiring(who, expires, now)?;
    Some(if is_over { Finding::wrong(text, fix) } else { Finding::warning(text, fix) })
}

pub(super) fn actors(facts: &Facts) -> Found {
    let told = telling(facts)?;
    let actors: Vec<(&HostReply, &ActorHealth)> = told
        .iter()
        .flat_map(|(host, told)| told.health.actors.iter().map(move |actor| (*host, actor)))
        .collect();
    let mut found: Vec<Finding> =
        actors.iter().filter_map(|(host, actor)| crowded(host, actor)).collect();
    if found.is_empty() {
        found.push(Finding::ok(match actors.len() {
            0 => "no actor runs".to_owned(),
            1 => "one actor runs and has room for calls".to_owned(),
            count => format!("{count} actors run and have room for calls"),
        }));
    }
    Ok(found)
}

fn crowded(host: &HostReply, actor: &ActorHealth) -> Option<Finding> {
    let ActorHealth { id, name, limit, free, waiting, queue_max, .. } = actor;
    let who = format!("actor {name} ({id}) on {}", named(host));
    let fix = format!(
        "let it take more calls at a time: host scale actor {} {id} --max-instances N; or start it on another host",
        host.id
    );
    if *free == 0 && *waiting > 0 && waiting >= queue_max {
        return Some(Finding::wrong(
            format!(
                "{who} is at work on {limit} calls, {waiting} wait, and further ones are refused"
            ),
            fix,
        ));
    }
    (*free == 0 && *waiting > 0).then(|| {
        Finding::warning(
            format!("{who} is at work on {limit} calls, and {waiting} of at most {queue_max} wait"),
            fix,
        )
    })
}

pub(super) fn providers(facts: &Facts) -> Found {
    let told = telling(facts)?;
    let mut found = Vec::new();
    let mut count = 0;
    for (host, told) in told {
        count += told.health.providers.len();
        found.extend(told.health.providers.iter().filter_map(|provider| unwell(host, provider)));
        let given_up =
            told.health.failures.iter().filter(|failure| failure.error.contains(GIVEN_UP));
        found.extend(given_up.map(|failure| {
            Finding::wrong(
                format!(
                    "provider {} on {} ended again and again and was {}",
                    failure.reference,
                    named(host),
                    failure.error
                ),
                start_again(host, failure),
            )
        }));
    }
    if found.is_empty() {
        found.push(Finding::ok(match count {
            0 => "no provider runs".to_owned(),
            1 => "one provider runs and is well".to_owned(),
            count => format!("{count} providers run and are well"),
        }));
    }
    Ok(found)
}

fn unwell(host: &HostReply, provider: &ProviderHealth) -> Option<Finding> {
    let ProviderHealth {
        id,
        name,
        reference,
        link_name,
        phase,
        crashes,
        last_end,
        is_healthy,
        complaint,
        expires: _,
    } = provider;
    let who = format!("provider {name} ({reference}, link name {link_name}) on {}", named(host));
    let logs = format!("host logs {id} --host-id {}", host.id);
    if *is_healthy == Some(false) {
        let complaint = complaint.as_deref().unwrap_or("it does not say why");
        return Some(Finding::wrong(format!("{who} is not well: {complaint}"), logs));
    }
    let how = last_end.as_deref().unwrap_or("without a reason");
    if phase == "pausing" {
        return Some(Finding::wrong(
            format!("{who} ended {crashes} times in a row ({how}) and is started again"),
            logs,
        ));
    }
    (*crashes > 0).then(|| {
        Finding::warning(
            format!("{who} runs again after it ended {crashes} times in a row ({how})"),
            logs,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    fn host() -> HostReply {
        HostReply { id: "N".into(), ..HostReply::default() }
    }

    #[test]
    fn a_file_that_failed_is_not_started_again_unchanged() {
        for (reference, started) in [
            ("lattice://sha256:ab", "host start actor FILE --host-id N"),
            ("r.example/echo:1", "host start actor r.example/echo:1 --host-id N"),
        ] {
            let kind = "actor".to_owned();
            let failure = Failure { kind, reference: reference.into(), ..Failure::default() };
            assert!(start_again(&host(), &failure).ends_with(started), "{reference}");
        }
    }

    #[test]
    fn claims_are_judged_by_their_end() {
        let of = |expires| {
            let actor = ActorHealth { expires, ..ActorHealth::default() };
            let provider = ProviderHealth { expires, ..ProviderHealth::default() };
            let of_actor = expiring_actor(&host(), &actor, 1_000_000).map(|found| found.verdict);
            assert_eq!(
                of_actor,
                expiring_provider(&host(), &provider, 1_000_000).map(|found| found.verdict)
            );
            of_actor
        };
        assert_eq!(of(None), None);
        assert_eq!(of(Some(999_999)), Some(Verdict::Wrong));
        assert_eq!(of(Some(1_000_000)), Some(Verdict::Warning));
        assert_eq!(of(Some(1_000_000 + expiry::SOON_SECS)), None);
    }

    #[test]
    fn an_actor_that_refuses_calls_is_told_from_one_that_lets_them_wait() {
        let of = |free, waiting| {
            crowded(&host(), &ActorHealth { free, waiting, queue_max: 5, ..ActorHealth::default() })
                .map(|f| f.verdict)
        };
        assert_eq!((of(1, 0), of(0, 0)), (None, None));
        assert_eq!((of(0, 3), of(0, 5)), (Some(Verdict::Warning), Some(Verdict::Wrong)));
    }

    #[test]
    fn a_provider_that_ended_is_told_with_how() {
        let of = |phase: &str, crashes, is_healthy| {
            let provider = ProviderHealth {
                phase: phase.into(),
                crashes,
                is_healthy,
                ..ProviderHealth::default()
            };
            unwell(&host(), &provider).map(|found| found.verdict)
        };
        assert_eq!(of("running", 0, Some(true)), None);
        assert_eq!(of("running", 0, None), None);
        assert_eq!(of("running", 2, Some(true)), Some(Verdict::Warning));
        assert_eq!(of("pausing", 2, None), Some(Verdict::Wrong));
        assert_eq!(of("running", 0, Some(false)), Some(Verdict::Wrong));
    }
}

//! The services that hosts and operators use beside the lattice: registries, the policy service,
//! the configuration service, and those who keep applications.

use std::collections::BTreeMap;

use super::{
    Finding, Found,
    facts::{ApplicationKeeper, Facts, named},
    hosts::{inhabited, telling},
};
use lattice_protocol::control::probe::health::RegistryStatus;

pub(super) fn registries(facts: &Facts) -> Found {
    let told = telling(facts)?;
    let mut found = Vec::new();
    let mut well: Vec<&str> = Vec::new();
    for (host, told) in &told {
        let all = &told.health.registries;
        for answered in all {
            let RegistryStatus { registry, asked_for, is_greeting, error } = answered;
            let Some(error) = error else {
                well.push(registry);
                continue;
            };
            // An answer from just now says more than how a pull ended some time ago.
            let is_asked = all.iter().any(|other| {
                other.registry == *registry && other.asked_for.is_some() && !other.is_greeting
            });
            if asked_for.is_none() && is_asked {
                continue;
            }
            let seen = match asked_for {
                Some(_) => format!("host {} and registry {registry}: {error}", named(host)),
                None => format!(
                    "the last pull of host {} from registry {registry} failed: {error}",
                    named(host)
                ),
            };
            let fix = "what the message says; `host reg ping IMAGE` tries it from here";
            found.push(match is_greeting {
                // A registry may tell nobody of repositories that do not exist.
                true => Finding::warning(seen, fix),
                false => Finding::wrong(seen, fix),
            });
        }
    }
    if found.is_empty() {
        well.sort_unstable();
        well.dedup();
        found.push(match well.is_empty() {
            true => Finding::ok("nothing that runs came from a registry"),
            false => Finding::ok(format!("hosts are let in by {}", well.join(", "))),
        });
    }
    Ok(found)
}

pub(super) fn services(facts: &Facts) -> Found {
    inhabited(facts)?;
    let mut found = policy(facts);
    found.extend(configuration(facts));
    found.push(manager(facts));
    found.extend(failed_applications(facts));
    Ok(found)
}

/// The applications that the page tells of as well.
fn failed_applications(facts: &Facts) -> Vec<Finding> {
    let Ok(Some(ApplicationKeeper::Hosts { failed })) = &facts.manager else { return Vec::new() };
    let told = failed.iter().map(|(name, message)| {
        let said = if message.is_empty() { String::new() } else { format!(": {message}") };
        Finding::wrong(
            format!("application {name} failed{said}"),
            format!("host app status {name} shows which part is missing where"),
        )
    });
    told.collect()
}

fn policy(facts: &Facts) -> Vec<Finding> {
    let told = facts.told();
    let mut found = Vec::new();
    let mut topics: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (host, told) in &told {
        let topic = told.health.policy.as_ref().map_or("none", |policy| policy.subject.as_str());
        topics.entry(topic).or_default().push(named(host));
        let Some(policy) = &told.health.policy else { continue };
        if policy.answers == Some(false) {
            let why = policy.error.as_deref().unwrap_or("without a reason");
            found.push(Finding::wrong(
                format!("the policy service does not answer host {} on {}: {why}; every start and every call is denied", named(host), policy.subject),
                "start the policy service at the NATS servers of the lattice, or unset policy_topic (WASMCLOUD_POLICY_TOPIC)",
            ));
        }
    }
    if topics.len() > 1 {
        let parts: Vec<String> =
            topics.iter().map(|(topic, hosts)| format!("{topic} ({})", hosts.join(", "))).collect();
        found.push(Finding::warning(
            format!(
                "hosts ask different policy services, so what one denies another permits: {}",
                parts.join("; ")
            ),
            "set the same policy_topic (WASMCLOUD_POLICY_TOPIC) on all hosts",
        ));
    }
    if found.is_empty() && topics.keys().any(|topic| *topic != "none") {
        found.push(Finding::ok("the policy service answers"));
    }
    found
}

fn configuration(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for (host, told) in facts.told() {
        let Some(service) = &told.health.config_service else { continue };
        match service.answers {
            Some(true) => found.push(Finding::ok(format!(
                "the configuration service has answered host {}",
                named(host)
            ))),
            Some(false) | None => {
                let why = service.error.as_deref().unwrap_or("it was not asked yet");
                found.push(Finding::warning(
                    format!("no configuration service answers host {} on {}: {why}; it goes on without, and asks again", named(host), service.subject),
                    "start the configuration service, or set config_service_enabled to false (WASMCLOUD_CONFIG_SERVICE)",
                ));
            }
        }
    }
    found
}

fn manager(facts: &Facts) -> Finding {
    match &facts.manager {
        Ok(Some(ApplicationKeeper::Hosts { .. })) => Finding::ok("hosts keep the applications"),
        Ok(Some(ApplicationKeeper::Program)) => Finding::ok(
            "a deployment manager keeps the applications, so hosts do not; without it, or with applications=always \
             (WASMCLOUD_APPLICATIONS), they do",
        ),
        Ok(None) => Finding::ok(
            "nobody keeps applications: no host is there, or applications is never, or the NATS users of hosts may not use \
             wadm.>; none is needed unless you use `host app`",
        ),
        Err(why) => Finding::skipped(why.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_that_failed_is_wrong() {
        let failed = vec![("web".to_owned(), "no port".to_owned())];
        let manager = Ok(Some(ApplicationKeeper::Hosts { failed }));
        let found = failed_applications(&Facts { manager, ..Facts::default() });
        assert_eq!(found[0].seen, "application web failed: no port");
    }
}

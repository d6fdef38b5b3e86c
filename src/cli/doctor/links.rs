//! Link definitions: whether they lead somewhere, are allowed, and say what their provider
//! understands.

use std::collections::{BTreeMap, HashMap};

use super::{
    Finding, Found,
    facts::{Facts, Seen, named},
    hosts::{inhabited, telling},
};
use lattice_engine::providers::builtin::{self, values};
use lattice_protocol::{
    control::{probe::health::RefusedLink, types::HostReply},
    links::{Claims, Ends, LinkDefinition, Standing, link_option, other_values, put_command},
};

/// The most findings about single links; nobody reads more.
const FINDINGS_MAX: usize = 200;
/// How a provider says that it cannot listen somewhere.
const CANNOT_LISTEN: &str = "cannot listen on";

pub(super) fn links(facts: &Facts) -> Found {
    let seen = inhabited(facts)?;
    let Some(links) = &seen.links else {
        return Err(Finding::skipped("no host tells the links of the lattice (metadata)"));
    };
    let mut found = Vec::new();
    let claims: HashMap<&str, &Claims> =
        seen.claims.iter().flatten().map(|claims| (claims.subject.as_str(), claims)).collect();
    for link in links {
        if found.len() >= FINDINGS_MAX {
            found.push(Finding::note(format!(
                "the others of {} links were not looked at",
                links.len()
            )));
            break;
        }
        let scene = Scene::of(seen, &claims, link);
        found.extend(scene.judged());
        found.extend(scene.values());
    }
    found.extend(several_providers(links));
    for (host, told) in facts.told() {
        found.extend(told.health.links.iter().map(|link| refused(host, link)));
    }
    if found.is_empty() {
        found.push(Finding::ok(match links.len() {
            0 => "there are no links".to_owned(),
            1 => "one link, and it is in order".to_owned(),
            count => format!("{count} links are in order"),
        }));
    }
    Ok(found)
}

/// A link, with what is known of its ends.
struct Scene<'a> {
    seen: &'a Seen,
    link: &'a LinkDefinition,
    actor: Option<&'a Claims>,
    provider: Option<&'a Claims>,
    spec: Option<&'static builtin::Spec>,
}

impl<'a> Scene<'a> {
    fn of(seen: &'a Seen, claims: &HashMap<&str, &'a Claims>, link: &'a LinkDefinition) -> Self {
        let actor = claims.get(link.actor_id.as_str()).copied();
        let provider = claims.get(link.provider_id.as_str()).copied();
        let spec = builtin::by_key(&link.provider_id);
        Self { seen, link, actor, provider, spec }
    }

    fn actor_name(&self) -> String {
        match self.actor {
            Some(claims) if !claims.name.is_empty() => {
                format!("{} ({})", claims.name, self.link.actor_id)
            }
            _ => self.link.actor_id.clone(),
        }
    }

    fn provider_name(&self) -> String {
        match (self.spec, self.provider) {
            (Some(spec), _) => spec.known.reference(),
            (None, Some(claims)) if !claims.name.is_empty() => {
                format!("{} ({})", claims.name, self.link.provider_id)
            }
            _ => self.link.provider_id.clone(),
        }
    }

    /// The link in the middle of a sentence.
    fn what(&self) -> String {
        let link_name = match self.link.link_name.as_str() {
            "default" => String::new(),
            name => format!(" under link name {name}"),
        };
        format!(
            "the link of {} to {} for {}{link_name}",
            self.actor_name(),
            self.provider_name(),
            self.link.contract_id
        )
    }

    fn option(&self) -> String {
        link_option(&self.link.link_name)
    }

    fn delete(&self) -> String {
        format!("host link del {} {}{}", self.link.actor_id, self.link.contract_id, self.option())
    }

    /// Says all that is wrong with the link, of which the page says the worst. A refusal is told by
    /// its host.
    fn judged(&self) -> Vec<Finding> {
        let ends = Ends { actor: self.actor, provider: self.provider, ..Ends::default() };
        let told =
            Standing::all(self.link, &ends).into_iter().filter_map(|standing| match standing {
                Standing::NotSigned => Some(self.not_signed()),
                Standing::WrongContract(fulfils) => Some(self.wrong_contract(&fulfils)),
                _ => None,
            });
        told.chain(self.leads_somewhere()).collect()
    }

    fn not_signed(&self) -> Finding {
        Finding::wrong(
            format!(
                "{} is not allowed: the actor is not signed for {}",
                self.what(),
                self.link.contract_id
            ),
            format!(
                "host claims sign FILE --cap {} (with its other contracts too; without --rev it is newer than what runs), then \
                 host update actor {} REFERENCE",
                self.link.contract_id, self.link.actor_id
            ),
        )
    }

    fn wrong_contract(&self, fulfils: &str) -> Finding {
        Finding::wrong(
            format!("{} leads to a provider of another contract, {fulfils}", self.what()),
            format!(
                "{}; {}",
                self.delete(),
                put_command(
                    &self.link.actor_id,
                    &self.link.provider_id,
                    fulfils,
                    &self.link.link_name
                )
            ),
        )
    }

    fn leads_somewhere(&self) -> Option<Finding> {
        // Else nobody knows.
        if !self.seen.is_whole() {
            return None;
        }
        let providers = self.seen.inventories.iter().flat_map(|inventory| &inventory.providers);
        let running: Vec<&str> = providers
            .filter(|provider| provider.id == self.link.provider_id)
            .map(|provider| {
                if provider.link_name.is_empty() { "default" } else { provider.link_name.as_str() }
            })
            .collect();
        if running.contains(&self.link.link_name.as_str()) {
            return None;
        }
        let reference = match self.spec {
            Some(spec) => spec.known.reference(),
            None => format!("<reference of {}>", self.link.provider_id),
        };
        let fix = format!("host start provider {reference}{}; or {}", self.option(), self.delete());
        let actors = self.seen.inventories.iter().flat_map(|inventory| &inventory.actors);
        let actor_runs = actors.into_iter().any(|actor| actor.id == self.link.actor_id);
        if let [other, ..] = running.as_slice() {
            let seen =
                format!("{} leads nowhere: the provider runs under link name {other}", self.what());
            return Some(Finding::wrong(seen, fix));
        }
        let seen = format!("{} leads nowhere: the provider runs on no host", self.what());
        // A link may be put before anything runs, and outlives what ran.
        Some(if actor_runs && self.is_called() {
            Finding::wrong(format!("{seen}, and calls fail"), fix)
        } else if actor_runs {
            Finding::warning(seen, fix)
        } else {
            Finding::note(format!("{seen}, nor does the actor"))
        })
    }

    /// Whether its actor calls by it now.
    fn is_called(&self) -> bool {
        let LinkDefinition { actor_id, provider_id, contract_id, link_name, .. } = self.link;
        self.seen.looks.iter().flat_map(|look| &look.edges).any(|edge| {
            edge.caller == *actor_id
                && edge.id == *provider_id
                && edge.contract_id == *contract_id
                && edge.link_name == *link_name
                && edge.recent.errors() > 0
        })
    }

    fn values(&self) -> Option<Finding> {
        let spec = self.spec?;
        let unknown = values::unknown_values(spec, self.link);
        (!unknown.is_empty()).then(|| {
            let told: Vec<String> = unknown.iter().map(ToString::to_string).collect();
            Finding::warning(
                format!("{} has values without effect: {}", self.what(), told.join("; ")),
                other_values(
                    &self.link.actor_id,
                    spec.known.public_key,
                    &self.link.contract_id,
                    &self.link.link_name,
                ),
            )
        })
    }
}

/// An actor that is linked to several providers of a contract uses each under its link name.
fn several_providers(links: &[LinkDefinition]) -> Vec<Finding> {
    let mut uses: BTreeMap<(&str, &str), Vec<&LinkDefinition>> = BTreeMap::new();
    for link in links {
        uses.entry((&link.actor_id, &link.contract_id)).or_default().push(link);
    }
    let several = uses
        .into_iter()
        .filter(|(_, links)| links.iter().any(|link| link.provider_id != links[0].provider_id));
    let findings = several.map(|((actor, contract), links)| {
        let names: Vec<&str> = links.iter().map(|link| link.link_name.as_str()).collect();
        Finding::note(format!(
            "actor {actor} is linked to {} providers of {contract}, under {}: it says itself which of them it calls",
            links.len(),
            names.join(", ")
        ))
    });
    findings.collect()
}

fn refused(host: &HostReply, link: &RefusedLink) -> Finding {
    let RefusedLink { actor_id, provider_id, link_name, contract_id, error } = link;
    Finding::wrong(
        format!(
            "the provider of {contract_id} on {} does not take on the link of {actor_id}: {error}",
            named(host)
        ),
        format!("mend that, or: {}", other_values(actor_id, provider_id, contract_id, link_name)),
    )
}

/// Addresses that a provider cannot listen on. Whether the NATS server has its port, `nats-ctl`
/// tells.
pub(super) fn ports(facts: &Facts) -> Found {
    let told = telling(facts)?;
    let mut found = Vec::new();
    for (host, told) in &told {
        for link in told.health.links.iter().filter(|link| link.error.contains(CANNOT_LISTEN)) {
            found.push(Finding::wrong(
                format!("on {}: {}", named(host), link.error),
                format!(
                    "{} address=HOST:PORT with another port, or end what has it",
                    put_command(
                        &link.actor_id,
                        &link.provider_id,
                        &link.contract_id,
                        &link.link_name
                    )
                ),
            ));
        }
    }
    if found.is_empty() {
        found.push(Finding::ok("providers listen wherever they are meant to"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;
    use lattice_protocol::control::{
        probe::calls::{Edge, Look, Recent},
        types::{Inventory, InventoryActor, InventoryProvider},
    };

    const HTTP: &str = "wasmcloud:httpserver";

    fn link(change: impl FnOnce(&mut LinkDefinition)) -> LinkDefinition {
        let mut link = LinkDefinition {
            actor_id: "M".into(),
            provider_id: builtin::httpserver::SPEC.known.public_key.into(),
            link_name: "default".into(),
            contract_id: HTTP.into(),
            values: [("address".to_owned(), "127.0.0.1:1".to_owned())].into(),
        };
        change(&mut link);
        link
    }

    fn facts(link: LinkDefinition, runs: bool, capability: &str) -> Facts {
        let actor = Claims {
            subject: "M".into(),
            capabilities: vec![capability.into()],
            ..Claims::default()
        };
        let provider = InventoryProvider {
            id: link.provider_id.clone(),
            link_name: "default".into(),
            ..Default::default()
        };
        let inventory = Inventory {
            actors: vec![InventoryActor { id: "M".into(), ..Default::default() }],
            providers: if runs { vec![provider] } else { Vec::new() },
            ..Inventory::default()
        };
        let seen = Seen {
            hosts: vec![HostReply { id: "N".into(), ..HostReply::default() }],
            inventories: vec![inventory],
            claims: Some(vec![actor]),
            links: Some(vec![link]),
            ..Seen::default()
        };
        Facts { lattice: Ok(seen), ..Facts::default() }
    }

    fn one(facts: &Facts) -> Finding {
        let found = links(facts).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    }

    #[test]
    fn a_link_in_order_is_nothing_to_talk_about() {
        assert_eq!(one(&facts(link(|_| {}), true, HTTP)).verdict, Verdict::Ok);
    }

    #[test]
    fn each_fault_of_a_link_is_named() {
        let mut nowhere = facts(link(|_| {}), false, HTTP);
        let dangling = one(&nowhere);
        assert!(
            dangling.verdict == Verdict::Warning
                && dangling.fix.unwrap().contains("host start provider builtin://httpserver")
        );
        let edge = Edge {
            caller: "M".into(),
            id: builtin::httpserver::SPEC.known.public_key.into(),
            link_name: "default".into(),
            contract_id: HTTP.into(),
            recent: Recent { calls: 1, refused: 1, ..Recent::default() },
            ..Edge::default()
        };
        let look = Look { edges: vec![edge], ..Look::default() };
        nowhere.lattice.as_mut().unwrap().looks.push(look);
        assert_eq!(one(&nowhere).verdict, Verdict::Wrong, "somebody calls by it");
        assert!(one(&facts(link(|_| {}), true, "acme:other")).seen.contains("not signed for"));
        let other_name = one(&facts(link(|link| link.link_name = "front".into()), true, HTTP));
        assert!(other_name.seen.contains("runs under link name default"), "{other_name:?}");
        let foreign =
            one(&facts(link(|link| link.contract_id = "acme:web".into()), true, "acme:web"));
        assert!(foreign.seen.contains("another contract, wasmcloud:httpserver"), "{foreign:?}");
        let misspelt = one(&facts(link(|link| link.contract_id = "acme:web".into()), true, HTTP));
        let fix = misspelt.fix.unwrap();
        assert!(
            fix.ends_with("host link put M builtin://httpserver wasmcloud:httpserver"),
            "a command is copied as it is: {fix}"
        );
        let typo = one(&facts(
            link(|link| drop(link.values.insert("adress".into(), "x".into()))),
            true,
            HTTP,
        ));
        assert!(
            typo.verdict == Verdict::Warning && typo.seen.ends_with("did you mean address?"),
            "{typo:?}"
        );
    }
}

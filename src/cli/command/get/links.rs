//! `host get links`: the link definitions, with the names of their actors and providers, and how
//! each link is.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde_json::{Value, json};

use super::{healths, pairs, state};
use crate::{
    command::watch::Looked,
    terminal::{Cell, Column, Page, Table, Tone, View},
};
use lattice_client::{
    lattice::{Found, Lattice},
    lost,
};
use lattice_engine::providers::external::masks;
use lattice_protocol::{
    control::types::Pairs,
    links::{Claims, Ends, LinkDefinition, Standing},
};

/// The most characters shown of one link value.
const VALUE_CHARS_MAX: usize = 48;

pub(super) async fn look(lattice: &Lattice) -> Result<Looked> {
    Ok(Looked::all(Links::ask(lattice).await?))
}

struct Links {
    links: Vec<LinkDefinition>,
    claims: BTreeMap<String, Claims>,
    /// The actors that run in the lattice, and the providers with their link names, as its hosts
    /// tell.
    actors: BTreeSet<String>,
    providers: BTreeSet<(String, String)>,
    /// Not every host tells what it runs.
    is_partly_told: bool,
    /// Links that their providers do not take on, with the reason.
    refused: BTreeMap<String, String>,
}

impl Links {
    async fn ask(lattice: &Lattice) -> Result<Self> {
        let (links, claims, found) =
            tokio::join!(lattice.links(), lattice.claims(), lattice.ping());
        // Names and states are a courtesy; a host that does not tell them tells links all the same.
        let Found { hosts, silent, .. } = found.unwrap_or_default();
        let ids = hosts.iter().map(|host| host.id.clone()).collect();
        let (inventories, healths, lost) = tokio::join!(
            lattice.inventories(&hosts),
            healths(lattice, ids),
            lost::lost(lattice, &hosts)
        );
        let is_whole = lost::is_whole(&hosts, &silent, &inventories, &lost);
        let mut told = Self {
            links: links?,
            claims: claims
                .unwrap_or_default()
                .into_iter()
                .map(|claims| (claims.subject.clone(), claims))
                .collect(),
            actors: BTreeSet::new(),
            providers: BTreeSet::new(),
            is_partly_told: hosts.is_empty() || !is_whole,
            refused: BTreeMap::new(),
        };
        for inventory in &inventories {
            told.actors.extend(inventory.actors.iter().map(|actor| actor.id.clone()));
            let providers = inventory.providers.iter();
            told.providers.extend(providers.map(|one| (one.id.clone(), one.link_name.clone())));
        }
        for refused in healths.into_iter().flat_map(|health| health.links) {
            let link = LinkDefinition {
                actor_id: refused.actor_id,
                provider_id: refused.provider_id,
                link_name: refused.link_name,
                contract_id: refused.contract_id,
                values: Pairs::new(),
            };
            told.refused.insert(link.id(), refused.error);
        }
        told.sort();
        Ok(told)
    }

    fn sort(&mut self) {
        let mut links = std::mem::take(&mut self.links);
        links.sort_by_cached_key(|link| {
            let name = self.called(&link.actor_id).to_lowercase();
            (name, link.actor_id.clone(), link.contract_id.clone(), link.link_name.clone())
        });
        self.links = links;
    }

    /// The name of an actor or a provider; its id if it has none.
    fn called<'a>(&'a self, id: &'a str) -> &'a str {
        let name = self.claims.get(id).map(|claims| &*claims.name);
        name.filter(|name| !name.is_empty()).unwrap_or(id)
    }

    /// How a link is, in a word.
    fn state(&self, link: &LinkDefinition) -> &'static str {
        let standing = Standing::of(
            link,
            &Ends {
                actor: self.claims.get(&link.actor_id),
                provider: self.claims.get(&link.provider_id),
                actor_runs: self.actors.contains(&link.actor_id),
                provider_runs: self
                    .providers
                    .contains(&(link.provider_id.clone(), link.link_name.clone())),
                refusal: self.refused.get(&link.id()).map(String::as_str),
            },
        );
        match standing {
            // A host that does not tell may run it.
            Standing::ActorMissing | Standing::ProviderMissing if self.is_partly_told => "-",
            standing => standing.word(),
        }
    }
}

impl View for Links {
    fn json(&self) -> Value {
        let states: BTreeMap<String, &str> =
            self.links.iter().map(|link| (link.id(), self.state(link))).collect();
        json!({ "links": self.links, "states": states, "refused": self.refused })
    }

    fn text(&self, page: &mut Page) {
        let mut table = Table::new([
            Column::name("ACTOR"),
            Column::name("PROVIDER"),
            Column::tail("CONTRACT"),
            Column::fixed("LINK"),
            Column::fixed("STATE"),
            Column::text("VALUES"),
            Column::id("ACTOR ID").if_room(),
            Column::id("PROVIDER ID").if_room(),
        ]);
        for link in &self.links {
            let values = masks::shown(&link.values);
            table.row([
                Cell::toned(self.called(&link.actor_id), Tone::Strong),
                Cell::toned(self.called(&link.provider_id), Tone::Strong),
                Cell::from(&link.contract_id),
                Cell::from(&link.link_name),
                state(self.state(link)),
                Cell::from(pairs(&if page.is_wide() { values } else { short(values) })),
                Cell::from(&link.actor_id),
                Cell::from(&link.provider_id),
            ]);
        }
        page.table(
            &table,
            "no links; put one with `host link put ACTOR PROVIDER CONTRACT KEY=VALUE`",
        );
        for (link, error) in
            self.links.iter().filter_map(|link| Some((link, self.refused.get(&link.id())?)))
        {
            let (actor, contract) = (self.called(&link.actor_id), &link.contract_id);
            page.line(Tone::Bad.paint(&format!("refused: {actor} for {contract}: {error}")));
        }
    }

    fn names(&self) -> Vec<String> {
        self.links.iter().map(LinkDefinition::id).collect()
    }
}

/// Values as a table can hold them: of a certificate or a configuration the beginning.
fn short(mut values: Pairs) -> Pairs {
    for value in values.values_mut().filter(|value| value.chars().count() > VALUE_CHARS_MAX) {
        *value = value.chars().take(VALUE_CHARS_MAX).chain(['…']).collect();
    }
    values
}

//! `host get inventory`: what runs on the hosts, and how it is; and what runs nowhere any more.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{by_name, healths, labels_on, pairs, state};
use crate::{
    command::{
        lost::{missing_json, missing_table},
        watch::Looked,
    },
    terminal::{
        Cell, Column, Page, Table, Tone, View,
        table::{ID_MIN, middle},
    },
};
use lattice_client::{
    lattice::{Found, Lattice, RequestError},
    lost::{self, Missing},
    names::host_name,
    watch::count,
};
use lattice_protocol::control::{
    probe::health::Health,
    types::{Inventory, InventoryActor, InventoryProvider, Pairs, is_drained},
};

pub(super) async fn look(lattice: &Lattice, word: Option<&str>) -> Result<Looked> {
    if let Some(word) = word {
        let host = lattice.find_host(word).await?;
        let inventory = lattice
            .inventory(&host)
            .await
            .with_context(|| format!("ask host {word} what it runs"))?;
        return Ok(Looked::all(Inventories::told(lattice, vec![inventory], Vec::new()).await));
    }
    let Found { hosts, refusals, silent, .. } = lattice.found_hosts().await?;
    let mut inventories = Vec::with_capacity(hosts.len());
    let (mut refused, mut notes) = (refusals, Vec::new());
    let (told, lost) = tokio::join!(lattice.asked_inventories(&hosts), lost::lost(lattice, &hosts));
    for (host, asked) in told {
        let called = host_name(&host, &hosts);
        match asked {
            Ok(inventory) => inventories.push(inventory),
            Err(RequestError::Refused { error, .. }) => {
                refused.push(format!("host {called}: {error}"))
            }
            Err(error) => notes.push(format!("host {called} did not tell what it runs: {error}")),
        }
    }
    let missing = match lost::is_whole(&hosts, &silent, &inventories, &lost) {
        true => lost::missing(&lost, &inventories),
        false => Vec::new(),
    };
    let view = Inventories::told(lattice, inventories, missing).await;
    Ok(Looked { view: Box::new(view), notes, refusals: refused })
}

struct Inventories {
    told: Vec<Inventory>,
    /// The health of those hosts that tell it.
    healths: Vec<Health>,
    /// All that ran only on lost hosts.
    missing: Vec<Missing>,
}

impl Inventories {
    /// Asks the hosts how what they run is, and sorts it by name.
    async fn told(lattice: &Lattice, mut told: Vec<Inventory>, missing: Vec<Missing>) -> Self {
        let ids = told.iter().map(|host| host.host_id.clone()).collect();
        let healths = healths(lattice, ids).await;
        for host in &mut told {
            host.actors.sort_by(|a, b| by_name(&a.name, &b.name, &a.id, &b.id));
            host.providers.sort_by(|a, b| {
                by_name(&a.name, &b.name, &a.id, &b.id).then_with(|| a.link_name.cmp(&b.link_name))
            });
        }
        Self { told, healths, missing }
    }

    fn health(&self, host: &str) -> Option<&Health> {
        self.healths.iter().find(|health| health.host_id == host)
    }
}

impl View for Inventories {
    fn json(&self) -> Value {
        json!({ "inventories": self.told, "runs_nowhere": missing_json(&self.missing) })
    }

    fn text(&self, page: &mut Page) {
        for host in &self.told {
            let health = self.health(&host.host_id);
            let room = page
                .width()
                .map_or(usize::MAX, |width| width.saturating_sub(host.friendly_name.len() + 2));
            page.heading(&format!(
                "{}  {}",
                host.friendly_name,
                middle(&host.host_id, room.max(ID_MIN))
            ));
            if is_drained(&host.labels) {
                page.line(Tone::Warning.paint("drained: takes nothing new"));
            }
            let labels = labels_on(page, &host.labels);
            if !labels.is_empty() {
                page.line(Tone::Faint.paint(&labels));
            }
            if host.actors.is_empty() && host.providers.is_empty() {
                page.line("nothing runs here; start something with `host start actor` or `host start provider`");
                continue;
            }
            if !host.actors.is_empty() {
                page.table(&actors(host, health), "no actor");
            }
            if !host.providers.is_empty() {
                page.table(&providers(host, health), "no provider");
            }
        }
        if !self.missing.is_empty() {
            page.heading("runs nowhere");
            page.line(
                "`host start lost HOST` starts elsewhere what ran only on a host that vanished",
            );
            page.table(&missing_table(&self.missing), "nothing");
        }
    }

    fn names(&self) -> Vec<String> {
        let mut ids = Vec::new();
        for host in &self.told {
            ids.extend(host.actors.iter().map(|actor| actor.id.clone()));
            ids.extend(host.providers.iter().map(|provider| provider.id.clone()));
        }
        ids
    }
}

fn actors(host: &Inventory, health: Option<&Health>) -> Table {
    let mut table = Table::new([
        Column::name("NAME"),
        Column::fixed("STATE"),
        Column::fixed("KIND"),
        Column::number("MAX"),
        Column::tail("REFERENCE"),
        Column::id("ACTOR"),
        Column::number("REVISION").only_wide(),
        Column::text("EXPORTS").only_wide(),
        Column::text("ANNOTATIONS").only_wide(),
    ]);
    for actor in &host.actors {
        // Hosts of 2022 list every instance, later ones every set of annotations with its number.
        let mut groups: BTreeMap<&Pairs, (u64, i32)> = BTreeMap::new();
        for instance in &actor.instances {
            let group = groups.entry(&instance.annotations).or_default();
            *group = (group.0 + count(instance), instance.revision);
        }
        for (annotations, (max, revision)) in groups {
            table.row([
                Cell::toned(&actor.name, Tone::Strong),
                state(&actor_state(actor, health)),
                Cell::from(kind(actor)),
                Cell::from(bound(max)),
                Cell::from(&actor.image_ref),
                Cell::from(&actor.id),
                Cell::from(revision),
                Cell::from(exports(actor)),
                Cell::from(pairs(annotations)),
            ]);
        }
    }
    table
}

/// How an actor is on a host, as far as that host tells.
fn actor_state(actor: &InventoryActor, health: Option<&Health>) -> String {
    let told = health.and_then(|health| health.actors.iter().find(|told| told.id == actor.id));
    let now_s = health.map_or(0, |health| health.now_ms / 1000);
    match (told, &actor.trial) {
        (Some(told), _) if told.expires.is_some_and(|at| at < now_s) => "expired".to_owned(),
        (_, Some(trial)) => format!("trial {} %", trial.share),
        (Some(told), _) if told.waiting > 0 => "calls wait".to_owned(),
        _ => "running".to_owned(),
    }
}

/// How a provider is on a host, as far as that host tells.
fn provider_state<'a>(provider: &InventoryProvider, health: Option<&'a Health>) -> &'a str {
    let told = health.and_then(|health| health.provider(&provider.id, &provider.link_name));
    match told {
        Some(told) if told.is_healthy == Some(false) => "unhealthy",
        Some(told) if !told.phase.is_empty() => &told.phase,
        _ => "running",
    }
}

/// The kind of an actor's code; hosts of other makes do not tell it.
fn kind(actor: &InventoryActor) -> String {
    actor.code.as_ref().map_or("-".to_owned(), ToString::to_string)
}

fn exports(actor: &InventoryActor) -> String {
    actor.code.as_ref().map(|code| code.exports.join(" ")).unwrap_or_default()
}

fn providers(host: &Inventory, health: Option<&Health>) -> Table {
    let mut table = Table::new([
        Column::name("NAME"),
        Column::fixed("STATE"),
        Column::fixed("LINK"),
        Column::tail("CONTRACT"),
        Column::tail("REFERENCE"),
        Column::id("PROVIDER"),
        Column::number("REVISION").only_wide(),
        Column::text("ANNOTATIONS").only_wide(),
    ]);
    for provider in &host.providers {
        table.row([
            Cell::toned(&provider.name, Tone::Strong),
            state(provider_state(provider, health)),
            Cell::from(&provider.link_name),
            Cell::from(&provider.contract_id),
            Cell::from(&provider.image_ref),
            Cell::from(&provider.id),
            Cell::from(provider.revision),
            Cell::from(pairs(&provider.annotations)),
        ]);
    }
    table
}

/// How many calls an actor takes at a time; what a request without a count asks for has no bound.
fn bound(max: u64) -> String {
    if max >= u64::from(u32::MAX) { "any".to_owned() } else { max.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::control::probe::health::ActorHealth;

    #[test]
    fn an_actor_is_expired_when_its_last_second_is_over() {
        for (expires, state) in [(99, "expired"), (100, "running"), (101, "running")] {
            let told =
                ActorHealth { id: "MA".into(), expires: Some(expires), ..ActorHealth::default() };
            let health = Health { now_ms: 100_500, actors: vec![told], ..Health::default() };
            let actor = InventoryActor { id: "MA".into(), ..InventoryActor::default() };
            assert_eq!(actor_state(&actor, Some(&health)), state, "{expires}");
        }
    }
}

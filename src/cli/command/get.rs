//! `host get`: hosts, what runs on them, claims and links, as the lattice tells them now.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{
    lost::{gone_for, missing_json, missing_table},
    watch::{self, Looked},
};
use crate::{
    args::{
        flags::SettingArgs,
        lattice::{Get, Watch},
    },
    session::Session,
    terminal::{
        Cell, Column, Page, Table, Terminal, Tone, View,
        table::{ID_MIN, middle},
    },
};
use lattice_client::{
    expiry,
    lattice::{Found, Lattice, RequestError},
    lost::{self, Missing},
    names::host_name,
    watch::count,
};
use lattice_engine::providers::external::masks;
use lattice_protocol::{
    clock,
    control::{
        probe::{
            health::{self, Health},
            lost::LostHost,
        },
        types::{HostReply, Inventory, InventoryActor, InventoryProvider, Pairs, is_drained},
    },
    links::{Claims, Ends, LinkDefinition, Standing},
};

/// Labels every host has; they tell machines apart only where their kinds differ.
const CORE_LABELS: &str = "hostcore.";
/// The most characters shown of one link value.
const VALUE_CHARS_MAX: usize = 48;

pub async fn run(terminal: &Terminal, before: SettingArgs, get: Get) -> Result<()> {
    match get {
        Get::Hosts(query) => {
            let lattice = Session::open(before, &query.connect)?.lattice().await?;
            watch::run(terminal, &query.watch, async || hosts(&lattice).await).await
        }
        Get::Inventory(args) => {
            let lattice = Session::open(before, &args.connect)?.lattice().await?;
            let word = args.host.as_deref();
            watch::run(terminal, &args.watch, async || inventory(&lattice, word).await).await
        }
        Get::Claims(query) => {
            let lattice = Session::open(before, &query.connect)?.lattice().await?;
            watch::run(terminal, &query.watch, async || {
                let mut claims = lattice.claims().await?;
                claims.sort_by(|a, b| by_name(&a.name, &b.name, &a.subject, &b.subject));
                // A courtesy of the hosts that run something.
                let hosts = lattice.hosts().await.unwrap_or_default();
                let expires = expiry::ask(&lattice, &hosts).await;
                Ok(Looked::all(AllClaims { claims, expires }))
            })
            .await
        }
        Get::Links(query) => {
            let session = Session::open(before, &query.connect)?;
            links(terminal, &session, &query.watch).await
        }
    }
}

/// Compares by name without regard to case, then by id.
fn by_name(a: &str, b: &str, a_id: &str, b_id: &str) -> Ordering {
    (a.to_lowercase(), a_id).cmp(&(b.to_lowercase(), b_id))
}

async fn inventory(lattice: &Lattice, word: Option<&str>) -> Result<Looked> {
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

async fn hosts(lattice: &Lattice) -> Result<Looked> {
    let Found { mut hosts, twins, refusals, mut silent, .. } = lattice.found_hosts().await?;
    let notes = twins.iter().map(|twin| {
        format!(
            "several hosts answer as {}: they have the same host_seed (WASMCLOUD_HOST_SEED), and commands reach now the \
             one, now the other. Give each a seed of its own, or none",
            twin.id
        )
    });
    let notes = notes.collect();
    let lost = lost::lost(lattice, &hosts).await;
    silent.retain(|id| lost.iter().all(|host| host.id != *id));
    hosts.extend(twins);
    Ok(Looked { view: Box::new(Hosts { there: hosts, silent, lost }), notes, refusals })
}

/// Shows the link definitions of the lattice, with the names of who is linked.
pub async fn links(terminal: &Terminal, session: &Session, watch: &Watch) -> Result<()> {
    let lattice = session.lattice().await?;
    watch::run(terminal, watch, async || Ok(Looked::all(Links::ask(&lattice).await?))).await
}

/// The health of those hosts that tell it, by host.
async fn healths(lattice: &Lattice, ids: Vec<String>) -> Vec<Health> {
    let told = lattice.ask_each(ids, &health::Request { ask: false }).await;
    // Hosts of earlier years do not know the question, and states are a courtesy.
    told.into_iter().filter_map(|(_, health)| health.ok()).collect()
}

struct Hosts {
    there: Vec<HostReply>,
    /// Ids of those that others hear and that do not answer.
    silent: Vec<String>,
    lost: Vec<LostHost>,
}

impl View for Hosts {
    fn json(&self) -> Value {
        let lost = self.lost.iter().map(|host| {
            let Inventory { friendly_name, actors, providers, .. } = &host.inventory;
            json!({
                "id": host.id, "friendly_name": friendly_name, "lost_ms": host.lost_ms,
                "actors": actors.len(), "providers": providers.len(),
            })
        });
        let there = self.there.iter().map(|host| {
            let mut row = json!(host);
            row["state"] = json!(host.state.as_deref().unwrap_or("ok"));
            row
        });
        json!({
            "hosts": there.collect::<Vec<_>>(), "silent_hosts": self.silent, "lost_hosts": lost.collect::<Vec<_>>(),
        })
    }

    fn text(&self, page: &mut Page) {
        let mut table = Table::new([
            Column::name("NAME"),
            Column::fixed("STATE"),
            Column::fixed("UPTIME"),
            Column::text("LABELS"),
            Column::fixed("VERSION"),
            Column::id("HOST"),
            Column::fixed("DOMAIN").only_wide(),
            Column::fixed("LATTICE").only_wide(),
            Column::id("CLUSTER").only_wide(),
        ]);
        for host in &self.there {
            let lattice =
                if host.lattice.is_empty() { &host.lattice_prefix } else { &host.lattice };
            table.row([
                Cell::toned(&host.friendly_name, Tone::Strong),
                state(host.state.as_deref().unwrap_or("ok")),
                Cell::from(uptime(host.uptime_seconds)),
                Cell::from(labels_on(page, &host.labels)),
                Cell::from(&host.version),
                Cell::from(&host.id),
                Cell::from(host.js_domain.as_deref().unwrap_or("-")),
                Cell::from(lattice),
                Cell::from(&host.issuer),
            ]);
        }
        for id in &self.silent {
            table.row([
                Cell::from("-"),
                state("silent"),
                Cell::from("-"),
                Cell::from(""),
                Cell::from("-"),
                Cell::from(id),
            ]);
        }
        for host in &self.lost {
            let ago = uptime(gone_for(host).as_secs());
            table.row([
                Cell::toned(host.called(), Tone::Bad),
                Cell::toned("lost", Tone::Bad),
                Cell::from(format!("gone {ago}")),
                Cell::from(labels_on(page, &host.inventory.labels)),
                Cell::from(&host.inventory.version),
                Cell::from(&host.id),
                Cell::from("-"),
                Cell::from("-"),
                Cell::from(&host.inventory.issuer),
            ]);
        }
        page.table(&table, "no host");
    }

    fn names(&self) -> Vec<String> {
        self.there.iter().map(|host| host.id.clone()).collect()
    }
}

/// A state in a word; one that is not as it usually is stands out.
fn state(word: &str) -> Cell {
    let tone = match word {
        "ok" | "running" => Tone::Plain,
        "refused" | "wrong contract" | "not signed" | "expired" | "unhealthy" | "not running" => {
            Tone::Bad
        }
        _ => Tone::Warning,
    };
    Cell::toned(word, tone)
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

struct AllClaims {
    claims: Vec<Claims>,
    /// When those of what runs expire, by public key, in seconds since 1970.
    expires: BTreeMap<String, u64>,
}

impl View for AllClaims {
    fn json(&self) -> Value {
        let rows = self.claims.iter().map(|claims| {
            let mut row = json!(claims.reply_value());
            if let Some(expires) = self.expires.get(&claims.subject) {
                row["expires"] = Value::from(*expires);
            }
            row
        });
        json!({ "claims": rows.collect::<Vec<_>>() })
    }

    fn text(&self, page: &mut Page) {
        let mut table = Table::new([
            Column::name("NAME"),
            Column::fixed("VERSION"),
            Column::number("REVISION"),
            Column::text("MAY USE, OR FULFILS"),
            Column::text("ALIAS").if_room(),
            Column::fixed("EXPIRES"),
            Column::id("SUBJECT"),
            Column::id("ISSUER").only_wide(),
            Column::text("TAGS").only_wide(),
        ]);
        for claims in &self.claims {
            let contracts = if claims.is_provider() {
                claims.contract_id.clone()
            } else {
                claims.capabilities.join(",")
            };
            table.row([
                Cell::toned(&claims.name, Tone::Strong),
                Cell::from(&claims.version),
                Cell::from(&claims.revision),
                Cell::from(contracts),
                Cell::from(&claims.call_alias),
                expires(self.expires.get(&claims.subject)),
                Cell::from(&claims.subject),
                Cell::from(&claims.issuer),
                Cell::from(claims.tags.join(",")),
            ]);
        }
        page.table(&table, "no claims: nothing has ever run in this lattice");
    }

    fn names(&self) -> Vec<String> {
        self.claims.iter().map(|claims| claims.subject.clone()).collect()
    }
}

/// When claims expire; hosts tell it of what runs.
fn expires(at: Option<&u64>) -> Cell {
    let Some(at) = at else { return Cell::from("-") };
    let now = clock::now_ms() / 1000;
    let text = match at.checked_sub(now) {
        Some(left) => format!("in {}", expiry::span(left)),
        None => format!("{} ago", expiry::span(now - at)),
    };
    match expiry::expiring("", *at, now) {
        Some(expiring) if expiring.is_over => Cell::toned(text, Tone::Bad),
        Some(_) => Cell::toned(text, Tone::Warning),
        None => Cell::from(text),
    }
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

/// Seconds, as people say them.
fn uptime(seconds: u64) -> String {
    lattice_engine::control::state::human(std::time::Duration::from_secs(seconds))
}

/// Labels of a host; those every host has only on a wide page.
fn labels_on(page: &Page, labels: &Pairs) -> String {
    if page.is_wide() { pairs(labels) } else { own_labels(labels) }
}

/// Labels of a host without those that every host has.
pub(super) fn own_labels(labels: &Pairs) -> String {
    let own = labels.iter().filter(|(key, _)| !key.starts_with(CORE_LABELS));
    pairs(&own.map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// Values as a table can hold them: of a certificate or a configuration the beginning.
fn short(mut values: Pairs) -> Pairs {
    for value in values.values_mut().filter(|value| value.chars().count() > VALUE_CHARS_MAX) {
        *value = value.chars().take(VALUE_CHARS_MAX).chain(['…']).collect();
    }
    values
}

fn pairs(pairs: &Pairs) -> String {
    pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
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

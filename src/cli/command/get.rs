//! `host get`: hosts, what runs on them, claims and links, as the lattice tells them now.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::lost::{gone_for, missing_json, missing_table};
use crate::{
    args::{flags::SettingArgs, lattice::Get},
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
    watch::count,
};
use lattice_engine::providers::external::masks;
use lattice_protocol::{
    clock,
    control::{
        probe::lost::LostHost,
        types::{HostReply, Inventory, InventoryActor, Pairs},
    },
    links::{Claims, LinkDefinition},
};

/// Labels every host has; they tell machines apart only where their kinds differ.
const CORE_LABELS: &str = "hostcore.";
/// The most characters shown of one link value.
const VALUE_CHARS_MAX: usize = 48;

pub async fn run(terminal: &Terminal, before: SettingArgs, get: Get) -> Result<()> {
    match get {
        Get::Hosts(query) => {
            let lattice = Session::open(before, &query.connect)?.lattice().await?;
            hosts(terminal, &lattice).await
        }
        Get::Inventory(args) => {
            let session = Session::open(before, &args.connect)?;
            inventory(terminal, &session, args.host.as_deref()).await
        }
        Get::Claims(query) => {
            let lattice = Session::open(before, &query.connect)?.lattice().await?;
            let claims = lattice.claims().await?;
            // A courtesy of the hosts that run something.
            let hosts = lattice.hosts().await.unwrap_or_default();
            terminal.show(&AllClaims { claims, expires: expiry::ask(&lattice, &hosts).await })
        }
        Get::Links(query) => {
            let session = Session::open(before, &query.connect)?;
            links(terminal, &session).await
        }
    }
}

async fn inventory(terminal: &Terminal, session: &Session, word: Option<&str>) -> Result<()> {
    let lattice = session.lattice().await?;
    if let Some(word) = word {
        let host = lattice.find_host(word).await?;
        let inventory = lattice
            .inventory(&host)
            .await
            .with_context(|| format!("ask host {host} what it runs"))?;
        return terminal.show(&Inventories { told: vec![inventory], missing: Vec::new() });
    }
    let Found { hosts, refusals, .. } = lattice.found_hosts().await?;
    let mut inventories = Vec::with_capacity(hosts.len());
    let mut refused = refusals;
    for (host, asked) in lattice.asked_inventories(&hosts).await {
        match asked {
            Ok(inventory) => inventories.push(inventory),
            Err(RequestError::Refused { error, .. }) => {
                refused.push(format!("host {host}: {error}"))
            }
            Err(error) => terminal.note(format!("host {host} did not tell what it runs: {error}")),
        }
    }
    // Only who knows what runs everywhere knows what runs nowhere.
    let missing = match inventories.len() == hosts.len() {
        true => lost::missing(&lost::lost(&lattice, &hosts).await, &inventories),
        false => Vec::new(),
    };
    terminal.show(&Inventories { told: inventories, missing })?;
    complete(&refused)
}

async fn hosts(terminal: &Terminal, lattice: &Lattice) -> Result<()> {
    let Found { mut hosts, twins, refusals, .. } = lattice.found_hosts().await?;
    for twin in &twins {
        terminal.note(format!(
            "several hosts answer as {}: they have the same host_seed (WASMCLOUD_HOST_SEED), and commands reach now the \
             one, now the other. Give each a seed of its own, or none",
            twin.id
        ));
    }
    let lost = lost::lost(lattice, &hosts).await;
    hosts.extend(twins);
    terminal.show(&Hosts { there: hosts, lost })?;
    complete(&refusals)
}

/// Fails if hosts refused to tell: then not all was shown, and a caller that counts on it has to
/// know.
fn complete(refusals: &[String]) -> Result<()> {
    ensure!(refusals.is_empty(), "this is not all, hosts refuse to tell: {}", refusals.join("; "));
    Ok(())
}

/// Shows the link definitions of the lattice, with the names of who is linked.
pub async fn links(terminal: &Terminal, session: &Session) -> Result<()> {
    let lattice = session.lattice().await?;
    let (links, claims) = tokio::join!(lattice.links(), lattice.claims());
    let mut links = links?;
    links.sort_by(|a, b| {
        (&a.actor_id, &a.contract_id, &a.link_name).cmp(&(
            &b.actor_id,
            &b.contract_id,
            &b.link_name,
        ))
    });
    // Names are a courtesy; a host that does not tell claims tells links all the same.
    let names = claims
        .unwrap_or_default()
        .into_iter()
        .map(|claims| (claims.subject, claims.name))
        .collect();
    terminal.show(&Links { links, names })
}

struct Hosts {
    there: Vec<HostReply>,
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
        json!({ "hosts": self.there, "lost_hosts": lost.collect::<Vec<_>>() })
    }

    fn text(&self, page: &mut Page) {
        let mut table = Table::new([
            Column::text("NAME"),
            Column::id("HOST"),
            Column::fixed("STATE"),
            Column::fixed("UPTIME"),
            Column::text("LABELS"),
            Column::fixed("VERSION"),
            Column::fixed("DOMAIN").only_wide(),
            Column::fixed("LATTICE").only_wide(),
            Column::id("CLUSTER").only_wide(),
        ]);
        for host in &self.there {
            let lattice =
                if host.lattice.is_empty() { &host.lattice_prefix } else { &host.lattice };
            table.row([
                Cell::toned(&host.friendly_name, Tone::Strong),
                Cell::from(&host.id),
                Cell::from("ok"),
                Cell::from(uptime(host.uptime_seconds)),
                Cell::from(labels_on(page, &host.labels)),
                Cell::from(&host.version),
                Cell::from(host.js_domain.as_deref().unwrap_or("-")),
                Cell::from(lattice),
                Cell::from(&host.issuer),
            ]);
        }
        for host in &self.lost {
            let ago = uptime(gone_for(host).as_secs());
            table.row([
                Cell::toned(host.called(), Tone::Bad),
                Cell::from(&host.id),
                Cell::toned("lost", Tone::Bad),
                Cell::from(format!("gone {ago}")),
                Cell::from(labels_on(page, &host.inventory.labels)),
                Cell::from(&host.inventory.version),
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

struct Inventories {
    told: Vec<Inventory>,
    /// What ran only on lost hosts.
    missing: Vec<Missing>,
}

impl View for Inventories {
    fn json(&self) -> Value {
        json!({ "inventories": self.told, "runs_nowhere": missing_json(&self.missing) })
    }

    fn text(&self, page: &mut Page) {
        for host in &self.told {
            let room = page
                .width()
                .map_or(usize::MAX, |width| width.saturating_sub(host.friendly_name.len() + 2));
            page.heading(&format!(
                "{}  {}",
                host.friendly_name,
                middle(&host.host_id, room.max(ID_MIN))
            ));
            let labels = labels_on(page, &host.labels);
            if !labels.is_empty() {
                page.line(Tone::Faint.paint(&labels));
            }
            if host.actors.is_empty() && host.providers.is_empty() {
                page.line("nothing runs here; start something with `host start actor` or `host start provider`");
                continue;
            }
            if !host.actors.is_empty() {
                page.table(&actors(host), "no actor");
            }
            if !host.providers.is_empty() {
                page.table(&providers(host), "no provider");
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

fn actors(host: &Inventory) -> Table {
    let mut table = Table::new([
        Column::id("ACTOR"),
        Column::text("NAME"),
        Column::fixed("KIND"),
        Column::number("MAX"),
        Column::text("REFERENCE"),
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
                Cell::from(&actor.id),
                Cell::toned(&actor.name, Tone::Strong),
                Cell::from(kind(actor)),
                Cell::from(bound(max)),
                Cell::from(&actor.image_ref),
                Cell::from(revision),
                Cell::from(exports(actor)),
                Cell::from(pairs(annotations)),
            ]);
        }
    }
    table
}

/// The kind of an actor's code; hosts of other makes do not tell it.
fn kind(actor: &InventoryActor) -> String {
    actor.code.as_ref().map_or("-".to_owned(), ToString::to_string)
}

fn exports(actor: &InventoryActor) -> String {
    actor.code.as_ref().map(|code| code.exports.join(" ")).unwrap_or_default()
}

fn providers(host: &Inventory) -> Table {
    let mut table = Table::new([
        Column::id("PROVIDER"),
        Column::text("NAME"),
        Column::fixed("LINK"),
        Column::text("REFERENCE"),
        Column::text("CONTRACT"),
        Column::number("REVISION").only_wide(),
        Column::text("ANNOTATIONS").only_wide(),
    ]);
    for provider in &host.providers {
        table.row([
            Cell::from(&provider.id),
            Cell::toned(&provider.name, Tone::Strong),
            Cell::from(&provider.link_name),
            Cell::from(&provider.image_ref),
            Cell::from(&provider.contract_id),
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
            Column::id("SUBJECT"),
            Column::text("NAME"),
            Column::fixed("VERSION"),
            Column::number("REVISION"),
            Column::text("MAY USE, OR FULFILS"),
            Column::text("ALIAS"),
            Column::fixed("EXPIRES"),
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
                Cell::from(&claims.subject),
                Cell::toned(&claims.name, Tone::Strong),
                Cell::from(&claims.version),
                Cell::from(&claims.revision),
                Cell::from(contracts),
                Cell::from(&claims.call_alias),
                expires(self.expires.get(&claims.subject)),
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
    names: BTreeMap<String, String>,
}

impl Links {
    fn name(&self, id: &str) -> String {
        self.names.get(id).cloned().unwrap_or_default()
    }
}

impl View for Links {
    fn json(&self) -> Value {
        json!({ "links": self.links })
    }

    fn text(&self, page: &mut Page) {
        let mut table = Table::new([
            Column::text("ACTOR"),
            Column::id("ACTOR ID"),
            Column::text("PROVIDER"),
            Column::id("PROVIDER ID"),
            Column::text("CONTRACT"),
            Column::fixed("LINK"),
            Column::text("VALUES"),
        ]);
        for link in &self.links {
            let values = masks::shown(&link.values);
            table.row([
                Cell::toned(self.name(&link.actor_id), Tone::Strong),
                Cell::from(&link.actor_id),
                Cell::toned(self.name(&link.provider_id), Tone::Strong),
                Cell::from(&link.provider_id),
                Cell::from(&link.contract_id),
                Cell::from(&link.link_name),
                Cell::from(pairs(&if page.is_wide() { values } else { short(values) })),
            ]);
        }
        page.table(
            &table,
            "no links; put one with `host link put ACTOR PROVIDER CONTRACT KEY=VALUE`",
        );
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

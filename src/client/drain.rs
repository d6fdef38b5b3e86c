//! Empties a host: what runs on it is started on others first, and stopped there then.
//!
//! ```text
//! label (the host takes nothing new) ─▶ inventory ─▶ each item: offers ─▶ start elsewhere ─▶ stop
//!                                                    items of applications: their keeper moves them
//! ```
//!
//! The host is told by a label ([`DRAINED_LABEL`]), which lasts until it is taken away or the host
//! starts again. An item that can go nowhere else runs on, with the reason.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Error, Result, bail};
use serde::Serialize;
use tokio::time::Instant;

use super::{
    commands::{CONFIGURED, HostCommands, serving},
    lattice::Lattice,
    names::{host_name, or_id},
    placement::{AUCTION_WAIT, Wanted},
    watch::{Observed, Watch, count, groups},
};
use lattice_protocol::{
    applications::ownership::{APPLICATION, MANAGED_BY},
    control::{
        request::{DeleteLabel, PutLabel},
        types::{DRAINED_LABEL, HostReply, Inventory, Pairs},
    },
};

/// How long emptying a host may take unless told otherwise.
pub const DRAIN_WAIT: Duration = Duration::from_secs(60);

/// Something that runs on the host that is to be empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    pub kind: ItemKind,
    pub id: String,
    pub name: String,
    pub reference: String,
    /// Of a provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_name: Option<String>,
    pub annotations: Pairs,
    /// Calls an actor takes at a time; 1 for a provider.
    pub count: u32,
    /// The application that it is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application: Option<String>,
    /// A provider was started with a configuration, which no host tells.
    #[serde(skip)]
    is_configured: bool,
    #[serde(skip)]
    contract_id: String,
}

impl Item {
    /// Returns what it is called.
    pub fn called(&self) -> &str {
        or_id(&self.name, &self.id)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ItemKind {
    Provider,
    Actor,
}

/// The end of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "outcome")]
pub enum Fate {
    /// It runs on another host now, with this id and name.
    Moved { host_id: String, host_name: String },
    /// The keeper of its application has taken it away from here.
    Replaced,
    /// It can go nowhere else, or its end is not known, and runs on.
    Left { why: String },
}

/// Lets a host take nothing new. Returns the hosts of the lattice.
///
/// # Errors
///
/// If the host is of a version that goes on taking work; then it has no label either.
async fn mark(lattice: &Lattice, host: &str) -> Result<Vec<HostReply>> {
    let label = PutLabel { key: DRAINED_LABEL.to_owned(), value: "true".to_owned() };
    lattice.command(host, &label).await.context("let the host take nothing new")?;
    let hosts = lattice.hosts().await?;
    let Some(reply) = hosts.iter().find(|reply| reply.id == host) else {
        bail!("host {host} does not answer any more; nothing was moved");
    };
    if reply.state.is_none() {
        undo(lattice, host).await?;
        bail!(
            "host {} is of a version ({}) that goes on taking work, so nothing was moved; stop what runs on it with \
             `host stop`, or update it",
            reply.friendly_name,
            reply.version
        );
    }
    Ok(hosts)
}

/// Lets a host take work again.
pub async fn undo(lattice: &Lattice, host: &str) -> Result<()> {
    let label = DeleteLabel { key: DRAINED_LABEL.to_owned(), value: None };
    lattice.command(host, &label).await.context("let the host take work again").map(drop)
}

/// A host that was emptied, and the end of all that ran there.
#[derive(Clone, Debug)]
pub struct Drained {
    pub host_name: String,
    pub fates: Vec<(Item, Fate)>,
}

impl Drained {
    /// Returns how much runs on.
    pub fn left(&self) -> usize {
        self.fates.iter().filter(|(_, fate)| matches!(fate, Fate::Left { .. })).count()
    }
}

/// Lets a host take nothing new and moves what runs there to hosts with these labels, within a
/// time. `tell` hears how far it is: a word, and what it is about.
///
/// # Errors
///
/// If the host does not answer, or is of a version that goes on taking work.
pub async fn drain(
    lattice: &Lattice,
    host: &str,
    constraints: &Pairs,
    wait: Duration,
    mut tell: impl FnMut(&'static str, String),
) -> Result<Drained> {
    let until = Instant::now() + wait;
    let hosts = mark(lattice, host).await?;
    let host_name = host_name(host, &hosts).to_owned();
    let others = hosts.into_iter().filter(|reply| reply.id != host).collect();
    let drain = Drain { lattice, host, others, constraints, until };
    let (managed, own): (Vec<Item>, Vec<Item>) =
        drain.items().await?.into_iter().partition(|item| item.application.is_some());
    let mut fates = Vec::with_capacity(own.len() + managed.len());
    for (number, item) in own.iter().enumerate() {
        tell("moving", format!("{} ({} of {})", item.called(), number + 1, own.len()));
        fates.push((item.clone(), drain.empty(item).await));
    }
    if !managed.is_empty() {
        tell("waiting for applications", String::new());
    }
    fates.extend(drain.replaced(managed).await?);
    Ok(Drained { host_name, fates })
}

/// A host that is emptied.
struct Drain<'a> {
    lattice: &'a Lattice,
    host: &'a str,
    /// The other hosts of the lattice.
    others: Vec<HostReply>,
    /// Only hosts with these labels get something.
    constraints: &'a Pairs,
    until: Instant,
}

impl Drain<'_> {
    /// Returns what runs on the host, providers first: what is moved then finds them.
    async fn items(&self) -> Result<Vec<Item>> {
        let asked = self.lattice.inventory(self.host).await;
        Ok(items(&asked.with_context(|| format!("ask host {} what it runs", self.host))?))
    }

    /// Moves one item, which is of no application.
    async fn empty(&self, item: &Item) -> Fate {
        self.moved(item).await.unwrap_or_else(|error| Fate::Left { why: format!("{error:#}") })
    }

    async fn moved(&self, item: &Item) -> Result<Fate> {
        if item.is_configured {
            bail!("{CONFIGURED}, then stop it here");
        }
        if self.others.is_empty() {
            bail!("there is no other host");
        }
        if self.left().is_zero() {
            bail!("the time for the drain was over before its turn came");
        }
        let inventories = self.lattice.inventories(&self.others).await;
        let to = match self.runner(item, &inventories) {
            Some(host) => host,
            None => self.started(item, &inventories).await?,
        };
        self.stop(item).await?;
        let host_name = host_name(&to, &self.others).to_owned();
        Ok(Fate::Moved { host_id: to, host_name })
    }

    /// Returns the host that runs a provider already, so that no other is needed.
    fn runner(&self, item: &Item, inventories: &[Inventory]) -> Option<String> {
        let link_name = item.link_name.as_deref()?;
        let fits = |inventory: &&Inventory| {
            self.constraints.iter().all(|(key, value)| inventory.labels.get(key) == Some(value))
                && serving(inventory, &item.reference, link_name).is_some()
        };
        inventories.iter().find(fits).map(|inventory| inventory.host_id.clone())
    }

    /// Starts an item on the emptiest host that offers and takes it. Returns the host.
    async fn started(&self, item: &Item, inventories: &[Inventory]) -> Result<String> {
        let wanted = Wanted {
            reference: &item.reference,
            link_name: item.link_name.as_deref(),
            constraints: self.constraints,
            readers: None,
        };
        let wait = AUCTION_WAIT.min(self.left());
        let offers = wanted.all(self.lattice, &self.others, wait).await?;
        let candidates: Vec<&str> =
            offers.iter().filter(|(_, obstacle)| obstacle.is_none()).map(|(id, _)| &**id).collect();
        let mut failure: Option<Error> = None;
        for host in by_load(candidates, inventories) {
            match self.start(item, host, inventories).await {
                Ok(()) => return Ok(host.to_owned()),
                Err(error) => failure = Some(error),
            }
            if self.left().is_zero() {
                break;
            }
        }
        Err(failure.unwrap_or_else(|| {
            let whys = offers.iter().filter_map(|(id, obstacle)| {
                let host = self.others.iter().find(|host| host.id == *id)?;
                Some(format!("{}: {}", host.friendly_name, obstacle.as_ref()?.why))
            });
            anyhow::anyhow!(
                "no other host offers to run it ({})",
                whys.collect::<Vec<_>>().join("; ")
            )
        }))
    }

    async fn start(&self, item: &Item, host: &str, inventories: &[Inventory]) -> Result<()> {
        let commands = HostCommands::new(self.lattice, host, Some(self.left()));
        match &item.link_name {
            None => {
                let there = inventories
                    .iter()
                    .filter(|inventory| inventory.host_id == host)
                    .map(|inventory| calls_of(inventory, item))
                    .sum::<u64>();
                let max = u32::try_from(there).unwrap_or(u32::MAX).saturating_add(item.count);
                let (reference, annotations) = (&item.reference, &item.annotations);
                commands.start_actor(reference, Some(max), annotations, &mut |_| {}).await.map(drop)
            }
            Some(link_name) => commands
                .start_provider(&item.reference, link_name, &item.annotations, None, &mut |_| {})
                .await
                .map(drop),
        }
    }

    async fn stop(&self, item: &Item) -> Result<()> {
        let commands = HostCommands::new(self.lattice, self.host, Some(self.left()));
        let stopped = match &item.link_name {
            // Only what has just these annotations: a stop would take what has more of them, too.
            None => commands
                .scale_actor(
                    Some(&item.id),
                    &item.reference,
                    Some(0),
                    &item.annotations,
                    &mut |_| {},
                )
                .await
                .map(drop),
            Some(link_name) => {
                commands.stop_provider(&item.id, link_name, &item.contract_id).await.map(drop)
            }
        };
        stopped.context("it runs elsewhere now, and is not stopped here")
    }

    /// Waits until the keepers of applications have taken these items away from the host. Returns
    /// what became of each.
    async fn replaced(&self, items: Vec<Item>) -> Result<Vec<(Item, Fate)>> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let mut left = items.clone();
        let watch = Watch::open(self.lattice, self.host).await?;
        let looked = watch.wait(
            self.until,
            |_| Observed::<()>::Nothing,
            |inventory| {
                let here = self::items(inventory);
                left.retain(|item| here.iter().any(|there| is_same(item, there)));
                Observed::done_if(left.is_empty())
            },
            |_| {},
        );
        // Whether all are gone or the time is over: what is left tells.
        let _ = looked.await;
        let fates = items.into_iter().map(|item| {
            let fate = match left.contains(&item) {
                false => Fate::Replaced,
                true => Fate::Left {
                    why: format!(
                        "application {} has no other host for it yet; `host app get` tells why",
                        item.application.as_deref().unwrap_or_default()
                    ),
                },
            };
            (item, fate)
        });
        Ok(fates.collect())
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

fn is_same(item: &Item, there: &Item) -> bool {
    (&item.id, &item.link_name, &item.annotations)
        == (&there.id, &there.link_name, &there.annotations)
}

/// How many calls an actor takes at a time on a host, under the annotations of the item.
fn calls_of(inventory: &Inventory, item: &Item) -> u64 {
    let of_it = inventory.actors.iter().filter(|actor| actor.id == item.id);
    let instances = of_it.flat_map(|actor| &actor.instances);
    instances.filter(|instance| instance.annotations == item.annotations).map(count).sum()
}

/// The hosts from the one that runs the least to the one that runs the most.
fn by_load<'a>(mut hosts: Vec<&'a str>, inventories: &[Inventory]) -> Vec<&'a str> {
    let loads: BTreeMap<&str, usize> = inventories
        .iter()
        .map(|inventory| {
            (inventory.host_id.as_str(), inventory.actors.len() + inventory.providers.len())
        })
        .collect();
    hosts.sort_by_key(|host| (loads.get(host).copied().unwrap_or(usize::MAX), *host));
    hosts
}

/// All that a host runs, providers first.
fn items(inventory: &Inventory) -> Vec<Item> {
    let mut all = Vec::new();
    for provider in &inventory.providers {
        all.push(Item {
            kind: ItemKind::Provider,
            id: provider.id.clone(),
            name: provider.name.clone(),
            reference: provider.image_ref.clone(),
            link_name: Some(provider.link_name.clone()),
            annotations: provider.annotations.clone(),
            count: 1,
            application: application(&provider.annotations),
            is_configured: provider.is_configured,
            contract_id: provider.contract_id.clone(),
        });
    }
    for actor in &inventory.actors {
        all.extend(groups(actor).into_iter().map(|(annotations, calls)| Item {
            kind: ItemKind::Actor,
            id: actor.id.clone(),
            name: actor.name.clone(),
            reference: actor.stable_reference().to_owned(),
            link_name: None,
            application: application(&annotations),
            annotations,
            count: calls,
            is_configured: false,
            contract_id: String::new(),
        }));
    }
    all.sort_by(|a, b| (a.kind, &a.name, &a.id).cmp(&(b.kind, &b.name, &b.id)));
    all
}

/// The application that something with these annotations is of.
fn application(annotations: &Pairs) -> Option<String> {
    annotations.contains_key(MANAGED_BY).then(|| annotations.get(APPLICATION).cloned())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::control::types::{
        InventoryActor, InventoryInstance, InventoryProvider, Trial,
    };

    fn annotated(pairs: &[(&str, &str)]) -> Pairs {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn instance(max_instances: u32, annotations: &Pairs) -> InventoryInstance {
        let annotations = annotations.clone();
        InventoryInstance { max_instances, annotations, ..InventoryInstance::default() }
    }

    fn actor(id: &str, name: &str, instances: Vec<InventoryInstance>) -> InventoryActor {
        let (id, name) = (id.to_owned(), name.to_owned());
        InventoryActor { id, name, image_ref: "new:2".into(), instances, ..Default::default() }
    }

    #[test]
    fn a_host_is_emptied_item_by_item_providers_first() {
        let managed = annotated(&[(MANAGED_BY, "wadm"), (APPLICATION, "shop")]);
        let trial = Trial { stable_ref: "old:1".into(), ..Trial::default() };
        let inventory = Inventory {
            actors: vec![
                actor("M2", "zebra", vec![instance(3, &Pairs::new()), instance(2, &managed)]),
                InventoryActor {
                    trial: Some(trial),
                    ..actor("M1", "ape", vec![instance(1, &Pairs::new())])
                },
            ],
            providers: vec![InventoryProvider {
                id: "V1".into(),
                name: "http".into(),
                link_name: "default".into(),
                ..Default::default()
            }],
            ..Inventory::default()
        };
        let told: Vec<(String, u32, Option<String>)> = items(&inventory)
            .into_iter()
            .map(|item| (format!("{} {}", item.name, item.reference), item.count, item.application))
            .collect();
        let expected = [
            ("http ", 1, None),
            ("ape old:1", 1, None),
            ("zebra new:2", 3, None),
            ("zebra new:2", 2, Some("shop")),
        ];
        assert_eq!(
            told,
            expected.map(|(what, count, of)| (what.to_owned(), count, of.map(str::to_owned)))
        );
    }

    #[test]
    fn the_emptiest_host_gets_it() {
        let host = |id: &str, actors: usize| Inventory {
            host_id: id.into(),
            actors: vec![InventoryActor::default(); actors],
            ..Inventory::default()
        };
        let inventories = [host("N1", 3), host("N2", 1), host("N3", 1)];
        assert_eq!(by_load(vec!["N4", "N1", "N3", "N2"], &inventories), ["N2", "N3", "N1", "N4"]);
    }
}

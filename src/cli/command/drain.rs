//! `host drain`: empties a host, or lets it take work again.
//!
//! With the words of `wash` (`all`, `oci`, `lib`, `compiled`, `smithy`, `downloads`) it throws
//! caches away, which [`cache`] does.

use anyhow::{Result, bail};
use clap::ValueEnum as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{cache, pairs_of};
use crate::{
    args::{flags::SettingArgs, lattice::Drain as Args, tools::CacheWhat},
    session::Session,
    terminal::{Cell, Column, Message, Page, Table, Terminal, Tone, View},
};
use lattice_client::{
    drain::{self, DRAIN_WAIT, Drain, Fate, Item, ItemKind, Wish},
    lattice::Lattice,
};

pub async fn run(terminal: &Terminal, before: SettingArgs, args: Args) -> Result<()> {
    if let Ok(what) = CacheWhat::from_str(&args.host, true) {
        return cache::clear(terminal, what);
    }
    let session = Session::open(before, &args.connect)?;
    let lattice = session.lattice().await?;
    let host = lattice.find_host(&args.host).await?;
    if args.undo {
        drain::mark(&lattice, &host, Wish::Undo).await?;
        let text = format!("Host {} takes work again", args.host);
        return terminal.show(&Message::new(
            text,
            &host,
            json!({ "host_id": host, "drained": false }),
        ));
    }
    let drained = emptied(terminal, &lattice, &host, &args).await?;
    terminal.show(&drained)?;
    let left = drained.left();
    if left > 0 {
        bail!(
            "{left} of {} go nowhere else and run on; host {} takes nothing new. `host drain {} --undo` lets it take work again",
            drained.fates.len(),
            drained.name,
            args.host
        );
    }
    Ok(())
}

/// Empties the host, item by item.
async fn emptied(
    terminal: &Terminal,
    lattice: &Lattice,
    host: &str,
    args: &Args,
) -> Result<Drained> {
    let wait = args.wait_ms.map_or(DRAIN_WAIT, std::time::Duration::from_millis);
    let until = Instant::now() + wait;
    let constraints = pairs_of("constraint", args.constraints.clone())?;
    let hosts = drain::mark(lattice, host, Wish::Drain).await?;
    let drain = Drain { lattice, host, hosts: &hosts, constraints: &constraints, until };
    let (managed, own): (Vec<Item>, Vec<Item>) =
        drain.items().await?.into_iter().partition(|item| item.application.is_some());
    let mut progress = terminal.progress();
    let mut fates = Vec::with_capacity(own.len() + managed.len());
    for (number, item) in own.iter().enumerate() {
        progress.stage("moving", format!("{} ({} of {})", item.name, number + 1, own.len()));
        fates.push((item.clone(), drain.empty(item).await));
    }
    if !managed.is_empty() {
        progress.stage("waiting for applications", "");
    }
    fates.extend(drain.replaced(managed).await?);
    drop(progress);
    let reply = hosts.iter().find(|reply| reply.id == host);
    let name = reply.map_or(&args.host, |reply| &reply.friendly_name).clone();
    Ok(Drained { host_id: host.to_owned(), name, fates })
}

/// A host that was emptied, and what became of all that ran there.
struct Drained {
    host_id: String,
    name: String,
    fates: Vec<(Item, Fate)>,
}

impl Drained {
    /// How much runs on.
    fn left(&self) -> usize {
        self.fates.iter().filter(|(_, fate)| matches!(fate, Fate::Left { .. })).count()
    }
}

impl View for Drained {
    fn json(&self) -> Value {
        let items: Vec<Value> = self
            .fates
            .iter()
            .map(|(item, fate)| {
                let (mut told, fate) = (json!(item), json!(fate));
                if let (Some(told), Value::Object(fate)) = (told.as_object_mut(), fate) {
                    told.extend(fate);
                }
                told
            })
            .collect();
        json!({
            "success": self.left() == 0, "host_id": self.host_id, "host_name": self.name, "drained": true,
            "left": self.left(), "items": items,
        })
    }

    fn text(&self, page: &mut Page) {
        if !self.fates.is_empty() {
            let mut table = Table::new([
                Column::name("NAME"),
                Column::fixed("KIND"),
                Column::fixed("STATE"),
                Column::text("WHERE, OR WHY NOT"),
                Column::id("ID").if_room(),
            ]);
            for (item, fate) in &self.fates {
                let kind = match item.kind {
                    ItemKind::Actor => "actor",
                    ItemKind::Provider => "provider",
                };
                let (state, tone, place) = match fate {
                    Fate::Moved { host_name, .. } => ("moved", Tone::Good, host_name.clone()),
                    Fate::Replaced => ("moved", Tone::Good, "by its application".to_owned()),
                    Fate::Left { why } => ("runs on", Tone::Bad, why.clone()),
                };
                let name = if item.name.is_empty() { &item.id } else { &item.name };
                table.row([
                    Cell::toned(name, Tone::Strong),
                    Cell::from(kind),
                    Cell::toned(state, tone),
                    Cell::from(place),
                    Cell::from(&item.id),
                ]);
            }
            page.table(&table, "");
        }
        if self.left() == 0 {
            page.line(format!(
                "Host {} is empty and takes nothing new; `host drain {} --undo` lets it take work again",
                self.name, self.name
            ));
        }
    }

    fn names(&self) -> Vec<String> {
        self.fates.iter().map(|(item, _)| item.id.clone()).collect()
    }
}

//! `host drain`: empties a host, or lets it take work again.
//!
//! With the words of `wash` (`all`, `oci`, `lib`, `compiled`, `smithy`, `downloads`) it throws
//! caches away, which [`cache`] does.

use anyhow::{Result, bail};
use clap::ValueEnum as _;
use serde_json::{Value, json};

use super::{cache, pairs_of};
use crate::{
    args::{flags::SettingArgs, lattice::Drain as Args, tools::CacheWhat},
    session::Session,
    terminal::{Cell, Column, Message, Page, Table, Terminal, Tone, View},
};
use lattice_client::{
    drain::{self, DRAIN_WAIT, Fate, ItemKind},
    names,
};

pub async fn run(terminal: &Terminal, before: SettingArgs, args: Args) -> Result<()> {
    if let Ok(what) = CacheWhat::from_str(&args.host, true) {
        return cache::clear(terminal, what);
    }
    let session = Session::open(before, &args.connect)?;
    let lattice = session.lattice().await?;
    let host = lattice.find_host(&args.host).await?;
    if args.undo {
        drain::undo(&lattice, &host).await?;
        let hosts = lattice.hosts().await.unwrap_or_default();
        let text = format!("Host {} takes work again", names::host_name(&host, &hosts));
        return terminal.show(&Message::new(
            text,
            &host,
            json!({ "host_id": host, "drained": false }),
        ));
    }
    let wait = args.wait_ms.map_or(DRAIN_WAIT, std::time::Duration::from_millis);
    let constraints = pairs_of("constraint", args.constraints.clone())?;
    let mut progress = terminal.progress();
    let told = drain::drain(&lattice, &host, &constraints, wait, |stage, about| {
        progress.stage(stage, about);
    });
    let told = told.await?;
    drop(progress);
    let (left, all, name) = (told.left(), told.fates.len(), told.host_name.clone());
    terminal.show(&Drained { host_id: host, told })?;
    if left > 0 {
        bail!(
            "{left} of {all} go nowhere else and run on; host {name} takes nothing new. `host drain {} --undo` lets it take work \
             again",
            args.host
        );
    }
    Ok(())
}

/// A host that was emptied, as it is shown.
struct Drained {
    host_id: String,
    told: drain::Drained,
}

impl View for Drained {
    fn json(&self) -> Value {
        let items: Vec<Value> = self
            .told
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
            "success": self.told.left() == 0, "host_id": self.host_id, "host_name": self.told.host_name, "drained": true,
            "left": self.told.left(), "items": items,
        })
    }

    fn text(&self, page: &mut Page) {
        if !self.told.fates.is_empty() {
            let mut table = Table::new([
                Column::name("NAME"),
                Column::fixed("KIND"),
                Column::fixed("STATE"),
                Column::text("WHERE, OR WHY NOT"),
                Column::id("ID").if_room(),
            ]);
            for (item, fate) in &self.told.fates {
                let kind = match item.kind {
                    ItemKind::Actor => "actor",
                    ItemKind::Provider => "provider",
                };
                let (state, tone, place) = match fate {
                    Fate::Moved { host_name, .. } => ("moved", Tone::Good, host_name.clone()),
                    Fate::Replaced => ("moved", Tone::Good, "by its application".to_owned()),
                    Fate::Left { why } => ("runs on", Tone::Bad, why.clone()),
                };
                table.row([
                    Cell::toned(item.called(), Tone::Strong),
                    Cell::from(kind),
                    Cell::toned(state, tone),
                    Cell::from(place),
                    Cell::from(&item.id),
                ]);
            }
            page.table(&table, "");
        }
        if self.told.left() == 0 {
            page.line(format!(
                "Host {} is empty and takes nothing new; `host drain {} --undo` lets it take work again",
                self.told.host_name, self.told.host_name
            ));
        }
    }

    fn names(&self) -> Vec<String> {
        self.told.fates.iter().map(|(item, _)| item.id.clone()).collect()
    }
}

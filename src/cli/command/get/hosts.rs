//! `host get hosts`: the hosts that answer, those that only others hear, and those that vanished.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::{labels_on, state};
use crate::{
    command::{lost::gone_for, watch::Looked},
    terminal::{Cell, Column, Page, Table, Tone, View},
};
use lattice_client::{
    lattice::{Found, Lattice},
    lost,
};
use lattice_engine::control::state::human;
use lattice_protocol::control::{
    probe::lost::LostHost,
    types::{HostReply, Inventory},
};

pub(super) async fn look(lattice: &Lattice) -> Result<Looked> {
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

/// Seconds, as people say them.
fn uptime(seconds: u64) -> String {
    human(Duration::from_secs(seconds))
}

//! `host get`: hosts, what runs on them, claims and links, as the lattice tells them now; a file
//! for each.

mod claims;
mod hosts;
mod inventory;
mod links;

use std::cmp::Ordering;

use anyhow::Result;

use super::watch;
use crate::{
    args::{
        flags::SettingArgs,
        lattice::{Get, Watch},
    },
    session::Session,
    terminal::{Cell, Page, Terminal, Tone},
};
use lattice_client::lattice::Lattice;
use lattice_protocol::control::{
    probe::health::{self, Health},
    types::Pairs,
};

/// Labels every host has; they tell machines apart only where their kinds differ.
const CORE_LABELS: &str = "hostcore.";

pub async fn run(terminal: &Terminal, before: SettingArgs, get: Get) -> Result<()> {
    match get {
        Get::Hosts(query) => {
            let lattice = Session::open(before, &query.connect)?.lattice().await?;
            watch::run(terminal, &query.watch, async || hosts::look(&lattice).await).await
        }
        Get::Inventory(args) => {
            let lattice = Session::open(before, &args.connect)?.lattice().await?;
            let word = args.host.as_deref();
            watch::run(terminal, &args.watch, async || inventory::look(&lattice, word).await).await
        }
        Get::Claims(query) => {
            let lattice = Session::open(before, &query.connect)?.lattice().await?;
            watch::run(terminal, &query.watch, async || claims::look(&lattice).await).await
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

/// Shows the link definitions of the lattice, with the names of who is linked.
pub async fn links(terminal: &Terminal, session: &Session, watch: &Watch) -> Result<()> {
    let lattice = session.lattice().await?;
    watch::run(terminal, watch, async || links::look(&lattice).await).await
}

/// The health of those hosts that tell it, by host.
async fn healths(lattice: &Lattice, ids: Vec<String>) -> Vec<Health> {
    let told = lattice.ask_each(ids, &health::Request { ask: false }).await;
    // Hosts of earlier years do not know the question, and states are a courtesy.
    told.into_iter().filter_map(|(_, health)| health.ok()).collect()
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

/// Labels of a host; those every host has only on a wide page.
fn labels_on(page: &Page, labels: &Pairs) -> String {
    if page.is_wide() { pairs(labels) } else { own_labels(labels) }
}

/// Labels of a host without those that every host has.
pub(super) fn own_labels(labels: &Pairs) -> String {
    let own = labels.iter().filter(|(key, _)| !key.starts_with(CORE_LABELS));
    pairs(&own.map(|(key, value)| (key.clone(), value.clone())).collect())
}

fn pairs(pairs: &Pairs) -> String {
    pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

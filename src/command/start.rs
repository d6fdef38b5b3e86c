//! `host start`: an actor or a provider, on the first host that offers to run it or on one that is named.
//!
//! ```text
//! reference ─▶ host (named, or auction) ─▶ runs there already? ─▶ listen ─▶ command ─▶ wait for event or inventory
//! ```

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{
    files::size,
    get::labels,
    pairs_of,
    permit::issuer_change,
    sending::{Meant, Sending, a_provider, an_actor},
};
use crate::{
    cli::lattice::{Placement, Start, StartActor, StartProvider},
    client::{
        Session, Usage,
        act::{Act, End, START_WAIT, Started, serving},
        lattice::Lattice,
        placement::Wanted,
    },
    config::SettingArgs,
    control::types::{Pairs, Step},
    terminal::{Cell, Column, Page, Progress, Said, Table, Terminal},
};

pub async fn run(terminal: &Terminal, before: SettingArgs, start: Start) -> Result<()> {
    match start {
        Start::Actor(args) => actor(terminal, before, args).await,
        Start::Provider(args) => provider(terminal, before, args).await,
    }
}

async fn actor(terminal: &Terminal, before: SettingArgs, args: StartActor) -> Result<()> {
    let session = Session::open(before, &args.connect)?;
    let lattice = session.lattice().await?;
    let mut progress = terminal.progress();
    let annotations = pairs_of("annotation", args.placement.annotations.clone())?;
    let constraints = pairs_of("constraint", args.placement.constraints.clone())?;
    let sending = Sending { session: &session, terminal, sign: args.sign, caps: &args.caps };
    let meant = sending.resolve(&args.reference, &mut progress, an_actor).await?;
    let Meant { reference, readers, .. } = &meant;
    let wanted = Wanted { reference, link_name: None, constraints: &constraints, readers: readers.as_ref() };
    let host = place(&lattice, &mut progress, &args.placement, &wanted).await?;
    if args.max == Some(0) {
        bail!(Usage("an actor that takes no call does not start; --max is at least 1".into()));
    }
    let permission = issuer_change(&session, reference, args.placement.allow_issuer_change).await?;
    let act = Act { issuer_change: permission.as_deref(), ..Act::new(&lattice, &host, args.placement.wait()) };
    let end = act.start_actor(reference, args.max, &annotations, &mut |step| show_step(&mut progress, step)).await?;
    drop(progress);
    let (text, id, max) = match &end {
        End::Before(Started { id, max, .. }) => (
            format!(
                "Actor [{id}] (ref: [{reference}]) runs on host [{host}] already and takes {max} calls at a time; nothing was \
                 changed"
            ),
            Some(id),
            Some(*max),
        ),
        End::Asked => (format!("Start actor [{reference}] request received on host [{host}]"), None, args.max),
        End::Done(Started { id, max, .. }) => {
            (format!("Actor [{id}] (ref: [{reference}]) started on host [{host}]"), Some(id), Some(*max))
        }
    };
    let members = json!({ "actor_ref": reference, "actor_id": id, "host_id": host, "max_instances": max });
    terminal.show(&Said::new(text, id.unwrap_or(reference), members))?;
    if let End::Done(Started { alias_note, .. }) = &end {
        alias_note.iter().for_each(|note| terminal.note(note));
        meant.tidy().await;
    }
    Ok(())
}

async fn provider(terminal: &Terminal, before: SettingArgs, args: StartProvider) -> Result<()> {
    let session = Session::open(before, &args.connect)?;
    let lattice = session.lattice().await?;
    let mut progress = terminal.progress();
    let link_name = &args.link_name;
    let configuration = match &args.config_json {
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?),
        None => None,
    };
    let annotations = pairs_of("annotation", args.placement.annotations.clone())?;
    let constraints = pairs_of("constraint", args.placement.constraints.clone())?;
    let sending = Sending { session: &session, terminal, sign: false, caps: &[] };
    let meant = sending.resolve(&args.reference, &mut progress, a_provider).await?;
    let Meant { reference, readers, .. } = &meant;
    let wanted = Wanted { reference, link_name: Some(link_name), constraints: &constraints, readers: readers.as_ref() };
    let host = place(&lattice, &mut progress, &args.placement, &wanted).await?;
    let permission = issuer_change(&session, reference, args.placement.allow_issuer_change).await?;
    let act = Act { issuer_change: permission.as_deref(), ..Act::new(&lattice, &host, args.placement.wait()) };
    let mut on_step = |step: &Step| show_step(&mut progress, step);
    let end = act.start_provider(reference, link_name, &annotations, configuration.as_deref(), &mut on_step).await?;
    drop(progress);
    let (text, serving) = match &end {
        End::Before(serving) => (
            format!(
                "Provider [{}] (ref: [{reference}]) runs on host [{host}] already; nothing was changed",
                serving.id
            ),
            Some(serving),
        ),
        End::Asked => (format!("Start provider request received: {reference}"), None),
        End::Done(serving) => {
            (format!("Provider [{}] (ref: [{reference}]) started on host [{host}]", serving.id), Some(serving))
        }
    };
    let mut members = json!({ "provider_ref": reference, "link_name": link_name, "host_id": host });
    if let Some(serving) = serving {
        members["provider_id"] = Value::from(&*serving.id);
        members["contract_id"] = Value::from(&*serving.contract_id);
    }
    let name = serving.map_or(&**reference, |serving| &serving.id);
    terminal.show(&Said::new(text, name, members))?;
    if matches!(end, End::Done(_)) {
        meant.tidy().await;
    }
    Ok(())
}

impl Placement {
    /// How long to wait for the end of a start; not at all if that is wished.
    fn wait(&self) -> Option<Duration> {
        (!self.skip_wait).then(|| self.wait_ms.map_or(START_WAIT, Duration::from_millis))
    }
}

/// Shows a step on the way of a start.
pub fn show_step(progress: &mut Progress, step: &Step) {
    let detail = if step.of > 0 { format!("{} of {}", size(step.bytes), size(step.of)) } else { String::new() };
    progress.stage(&step.stage, detail);
}

/// The host that is to run something: the one that was named, or the first that offers.
async fn place(
    lattice: &Lattice,
    progress: &mut Progress,
    placement: &Placement,
    wanted: &Wanted<'_>,
) -> Result<String> {
    if let Some(word) = &placement.host_id {
        let host = lattice.find_host(word).await?;
        if let Some(readers) = wanted.readers {
            readers.require(&host)?;
        }
        return Ok(host);
    }
    progress.stage("auction", "");
    match wanted.first(lattice, Duration::from_millis(placement.auction_timeout_ms)).await? {
        Some(host) => Ok(host),
        None => nobody_offers(lattice, wanted).await,
    }
}

/// Where a provider runs already, which is why nobody offers; else an error that says why no host did: each with its labels
/// and the first rule that kept it from offering.
async fn nobody_offers(lattice: &Lattice, wanted: &Wanted<'_>) -> Result<String> {
    let hosts = lattice.some_hosts().await?;
    let inventories = lattice.inventories(&hosts).await;
    if let Some(link_name) = wanted.link_name {
        let is_meant = |id: &str| {
            let labels = hosts.iter().find(|host| host.id == id).map(|host| &host.labels);
            let is_so =
                |(key, value): (&String, &String)| labels.and_then(|labels: &Pairs| labels.get(key)) == Some(value);
            wanted.constraints.iter().all(is_so)
        };
        let mut running =
            inventories.iter().filter(|inventory| serving(inventory, wanted.reference, link_name).is_some());
        if let Some(inventory) = running.find(|inventory| is_meant(&inventory.host_id)) {
            return Ok(inventory.host_id.clone());
        }
    }
    let mut table = Table::new([Column::text("HOST"), Column::text("LABELS"), Column::text("DOES NOT OFFER BECAUSE")]);
    let mut rules = BTreeSet::new();
    for host in &hosts {
        let obstacle = wanted.obstacle(host);
        table.row([
            Cell::from(&host.friendly_name),
            Cell::from(labels(&host.labels, false)),
            Cell::from(&obstacle.why),
        ]);
        rules.insert(obstacle.advice);
    }
    let mut page = Page::new(None, true);
    page.table(&table, "no host");
    let advice: Vec<&str> = rules.into_iter().collect();
    bail!(
        "no host offers to run {}\n\n{}\n{}",
        wanted.reference,
        anstream::adapter::strip_str(&page.into_text()),
        advice.join("\n")
    )
}

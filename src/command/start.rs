//! `host start`: an actor or a provider, on the first host that offers to run it or on one that is named.
//!
//! ```text
//! reference ─▶ host (named, or auction) ─▶ runs there already? ─▶ listen ─▶ command ─▶ wait for event or inventory
//! ```

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    files::size,
    get::labels,
    pairs_of,
    sending::{Meant, Sending, a_provider, an_actor},
};
use crate::{
    cli::lattice::{Placement, Start, StartActor, StartProvider},
    client::{
        OutcomeUnknown, Session, Usage,
        lattice::{Event, Lattice},
        outcome::{Outcome, Told, Watch, instances},
        upload::Readers,
    },
    config::SettingArgs,
    control::types::{HostReply, Inventory, Pairs, Step},
    lattice::subject::Command,
    registry::reference::Reference,
    terminal::{Cell, Column, Page, Progress, Said, Table, Terminal},
};

/// How long a start may take unless told otherwise, downloads included.
pub const WAIT: Duration = Duration::from_secs(60);

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
    let sending = Sending { session: &session, terminal, sign: args.sign, caps: &args.caps };
    let meant = sending.resolve(&args.reference, &mut progress, an_actor).await?;
    let Meant { reference, readers, .. } = &meant;
    let wanted = Wanted { reference, link_name: None, readers: readers.as_ref() };
    let host = place(&lattice, &mut progress, &args.placement, &wanted).await?;
    let inventory = lattice.inventory(&host).await.with_context(|| format!("ask host {host} what it runs"))?;
    let before = running(&inventory, reference, &annotations);
    let max = match (args.max, &before) {
        (Some(0), _) => bail!(Usage("an actor that takes no call does not start; --max is at least 1".into())),
        (Some(max), _) => max,
        (None, Some((_, now))) => u32::try_from(*now).unwrap_or(u32::MAX),
        (None, None) => 1,
    };
    let answer = |text: String, id: Option<&str>| {
        let members = json!({ "actor_ref": reference, "actor_id": id, "host_id": host, "max_instances": max });
        Said::new(text, id.unwrap_or(reference), members)
    };
    if let Some((id, now)) = &before
        && *now == u64::from(max)
    {
        drop(progress);
        let text = format!(
            "Actor [{id}] (ref: [{reference}]) runs on host [{host}] already and takes {now} calls at a time; nothing was changed"
        );
        return terminal.show(&answer(text, Some(id)));
    }
    let watch = Watch::open(&lattice, &host).await?;
    let body = json!({
        "actor_ref": reference, "host_id": host, "count": max, "annotations": annotations,
        "actor_id": before.as_ref().map(|(id, _)| id),
    });
    // Hosts of 2022 start actors with another command; they are the ones that do not tell their version here.
    let command = if inventory.version.is_empty() { Command::LaunchActor } else { Command::ScaleActor };
    lattice.command(&host, command, &without_nulls(body)).await.context("start the actor")?;
    if args.placement.skip_wait {
        drop(progress);
        return terminal.show(&answer(format!("Start actor [{reference}] request received on host [{host}]"), None));
    }
    let outcome = watch
        .wait(
            Instant::now() + args.placement.wait_ms.map_or(WAIT, Duration::from_millis),
            |event| actor_event(event, reference),
            |inventory| match running(inventory, reference, &annotations) {
                Some((id, now)) if now >= u64::from(max) || inventory.version.is_empty() => Told::Done(id),
                _ => Told::Nothing,
            },
            |step| show_step(&mut progress, step, reference),
        )
        .await;
    drop(progress);
    match outcome {
        Outcome::Done(id) => {
            terminal.show(&answer(format!("Actor [{id}] (ref: [{reference}]) started on host [{host}]"), Some(&id)))?;
            meant.tidy().await;
            Ok(())
        }
        Outcome::Failed(why) => bail!("actor {reference} does not start on host {host}: {why}"),
        Outcome::Unknown => Err(unknown(reference, &host).into()),
    }
}

async fn provider(terminal: &Terminal, before: SettingArgs, args: StartProvider) -> Result<()> {
    let session = Session::open(before, &args.connect)?;
    let lattice = session.lattice().await?;
    let mut progress = terminal.progress();
    let link_name = args.link_name.clone();
    let configuration = match &args.config_json {
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?),
        None => None,
    };
    let annotations = pairs_of("annotation", args.placement.annotations.clone())?;
    let sending = Sending { session: &session, terminal, sign: false, caps: &[] };
    let meant = sending.resolve(&args.reference, &mut progress, a_provider).await?;
    let Meant { reference, readers, .. } = &meant;
    let wanted = Wanted { reference, link_name: Some(&link_name), readers: readers.as_ref() };
    let host = place(&lattice, &mut progress, &args.placement, &wanted).await?;
    let answer = |text: String, id: Option<&str>, contract: Option<&str>| {
        let members = json!({
            "provider_ref": reference, "provider_id": id, "link_name": link_name, "contract_id": contract, "host_id": host,
        });
        Said::new(text, id.unwrap_or(reference), without_nulls(members))
    };
    let inventory = lattice.inventory(&host).await.with_context(|| format!("ask host {host} what it runs"))?;
    if let Some((id, contract)) = serving(&inventory, reference, &link_name) {
        drop(progress);
        let text = format!("Provider [{id}] (ref: [{reference}]) runs on host [{host}] already; nothing was changed");
        return terminal.show(&answer(text, Some(&id), Some(&contract)));
    }
    let watch = Watch::open(&lattice, &host).await?;
    let body = json!({
        "provider_ref": reference, "link_name": link_name, "host_id": host, "annotations": annotations,
        "configuration": configuration,
    });
    lattice.command(&host, Command::LaunchProvider, &without_nulls(body)).await.context("start the provider")?;
    if args.placement.skip_wait {
        drop(progress);
        return terminal.show(&answer(format!("Start provider request received: {reference}"), None, None));
    }
    let outcome = watch
        .wait(
            Instant::now() + args.placement.wait_ms.map_or(WAIT, Duration::from_millis),
            |event| match event.name() {
                "provider_started" if event.text("image_ref") == reference && event.text("link_name") == link_name => {
                    Told::Done((event.text("public_key").to_owned(), event.text("contract_id").to_owned()))
                }
                "provider_start_failed" if event.text("provider_ref") == reference => {
                    Told::Failed(event.text("error").to_owned())
                }
                _ => Told::Nothing,
            },
            |inventory| serving(inventory, reference, &link_name).map_or(Told::Nothing, Told::Done),
            |step| show_step(&mut progress, step, reference),
        )
        .await;
    drop(progress);
    match outcome {
        Outcome::Done((id, contract)) => {
            let text = format!("Provider [{id}] (ref: [{reference}]) started on host [{host}]");
            terminal.show(&answer(text, Some(&id), Some(&contract)))?;
            meant.tidy().await;
            Ok(())
        }
        Outcome::Failed(why) => bail!("provider {reference} does not start on host {host}: {why}"),
        Outcome::Unknown => Err(unknown(reference, &host).into()),
    }
}

/// What an event says about the start of an actor with this reference.
pub fn actor_event(event: &Event, reference: &str) -> Told<String> {
    let is_meant = |member| event.text(member) == reference;
    match event.name() {
        "actor_scaled" | "actors_started" | "actor_started" if is_meant("image_ref") => {
            Told::Done(event.text("public_key").to_owned())
        }
        "actor_scale_failed" | "actors_start_failed" if is_meant("image_ref") => {
            Told::Failed(event.text("error").to_owned())
        }
        "actor_start_failed" if is_meant("actor_ref") => Told::Failed(event.text("error").to_owned()),
        _ => Told::Nothing,
    }
}

/// Shows a step on the way of a reference.
pub fn show_step(progress: &mut Progress, step: &Step, reference: &str) {
    if step.reference == reference {
        let detail = if step.of > 0 { format!("{} of {}", size(step.bytes), size(step.of)) } else { String::new() };
        progress.stage(&step.stage, detail);
    }
}

/// The error of a start whose outcome is not known.
pub fn unknown(reference: &str, host: &str) -> OutcomeUnknown {
    OutcomeUnknown(format!(
        "host {host} took the start of {reference} on, but nothing was heard of it within the time; it may still start. \
         `host get inventory {host}` tells whether it runs; --wait-ms gives it more time"
    ))
}

/// The id of an actor that runs with this reference, and how many calls it takes at a time under these annotations.
pub fn running(inventory: &Inventory, reference: &str, annotations: &Pairs) -> Option<(String, u64)> {
    let actor = inventory.actors.iter().find(|actor| actor.image_ref == reference)?;
    let now = instances(actor, |theirs| theirs == annotations);
    (now > 0).then(|| (actor.id.clone(), now))
}

/// The id and the contract of a provider that runs with this reference under a link name.
fn serving(inventory: &Inventory, reference: &str, link_name: &str) -> Option<(String, String)> {
    let serves = |provider: &&crate::control::types::InventoryProvider| {
        provider.image_ref == reference && provider.link_name == link_name
    };
    inventory.providers.iter().find(serves).map(|provider| (provider.id.clone(), provider.contract_id.clone()))
}

/// Older hosts refuse null where they expect a text.
pub fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(members) = &mut value {
        members.retain(|_, member| !member.is_null());
    }
    value
}

/// What a host is looked for.
struct Wanted<'a> {
    reference: &'a str,
    /// Of a provider.
    link_name: Option<&'a str>,
    /// The hosts that know it, if it is a file that was sent.
    readers: Option<&'a Readers>,
}

impl Wanted<'_> {
    /// Whether a host comes into question at all.
    fn fits(&self, host: &str) -> bool {
        self.readers.is_none_or(|readers| readers.has(host))
    }
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
    let constraints = pairs_of("constraint", placement.constraints.clone())?;
    progress.stage("auction", "");
    let (reference, wait) = (wanted.reference, Duration::from_millis(placement.auction_timeout_ms));
    let fits = |host: &str| wanted.fits(host);
    let bid = match wanted.link_name {
        None => lattice.auction_actor(reference, &constraints, wait, fits).await?,
        Some(link_name) => lattice.auction_provider(reference, link_name, &constraints, wait, fits).await?,
    };
    match bid {
        Some(host) => Ok(host),
        None => nobody_offers(lattice, wanted, &constraints).await,
    }
}

/// Where a provider runs already, which is why nobody offers; else an error that says why no host did: each with its labels
/// and the first rule that kept it from offering.
async fn nobody_offers(lattice: &Lattice, wanted: &Wanted<'_>, constraints: &Pairs) -> Result<String> {
    let hosts = lattice.some_hosts().await?;
    let inventories = lattice.inventories(&hosts).await;
    if let Some(link_name) = wanted.link_name {
        let is_meant = |id: &str| {
            let labels = hosts.iter().find(|host| host.id == id).map(|host| &host.labels);
            constraints.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
        };
        let mut serving =
            inventories.iter().filter(|inventory| serving(inventory, wanted.reference, link_name).is_some());
        if let Some(inventory) = serving.find(|inventory| is_meant(&inventory.host_id)) {
            return Ok(inventory.host_id.clone());
        }
    }
    let mut table = Table::new([Column::text("HOST"), Column::text("LABELS"), Column::text("DOES NOT OFFER BECAUSE")]);
    let mut rules = BTreeSet::new();
    for host in &hosts {
        let rule = rule(host, wanted, constraints);
        table.row([Cell::from(&host.friendly_name), Cell::from(labels(&host.labels, false)), Cell::from(&rule.0)]);
        rules.insert(rule.1);
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

/// The first rule that keeps a host from offering, and what to do about it.
fn rule(host: &HostReply, wanted: &Wanted<'_>, constraints: &Pairs) -> (String, &'static str) {
    for (key, value) in constraints {
        let advice = "Set the label with `host label HOST KEY=VALUE`, or start a host with HOST_KEY=VALUE.";
        match host.labels.get(key) {
            None => return (format!("it has no label {key}"), advice),
            Some(found) if found != value => return (format!("its {key} is {found}, not {value}"), advice),
            Some(_) => {}
        }
    }
    if !wanted.fits(&host.id) {
        return (
            "it is of earlier years, or of another JetStream domain, and knows no files that are sent".to_owned(),
            "Send the file to a registry with `host push IMAGE FILE`, and start the image.",
        );
    }
    match Reference::parse(wanted.reference) {
        Ok(Reference::File(_)) => (
            "it does not load files".to_owned(),
            "Start hosts with --allow-file-load to load files of their machine; a path without file:// sends the file to them.",
        ),
        Ok(Reference::Image(image)) if !image.contains('@') && !has_tag(&image) => (
            "the image has no tag".to_owned(),
            "Name a version, as in registry.example/echo:0.3.4, or start hosts with --allow-latest.",
        ),
        Ok(Reference::Image(image)) if image.ends_with(":latest") => {
            ("it does not run images tagged latest".to_owned(), "Name a version, or start hosts with --allow-latest.")
        }
        Err(_) | Ok(_) => (
            "it cannot fetch such a reference, or did not answer in time".to_owned(),
            "Check the reference; --auction-timeout-ms gives hosts more time to offer.",
        ),
    }
}

fn has_tag(image: &str) -> bool {
    image.rsplit('/').next().is_some_and(|name| name.contains(':'))
}

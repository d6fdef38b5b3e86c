//! `host scale actor`: how many calls an actor takes at a time on a host.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::{
    pairs_of,
    start::{add_keeping, show_step, tell_keeping},
};
use crate::{
    args::{
        flags::SettingArgs,
        lattice::{Scale, ScaleActor},
    },
    session::Session,
    terminal::{Message, Terminal},
};
use lattice_client::{
    commands::{HostCommands, Outcome, START_WAIT},
    names,
};
use lattice_protocol::{control::types::Inventory, errors::Usage, identity::keys::ActorId};

pub async fn run(terminal: &Terminal, before: SettingArgs, scale: Scale) -> Result<()> {
    let Scale::Actor(args) = scale;
    if let Some(number) = args.old_reference.as_ref().filter(|word| word.parse::<u32>().is_ok()) {
        bail!(Usage(format!(
            "{number} is no reference; the number of calls is given with --max-instances {number}"
        )));
    }
    let session = Session::open(before, &args.connect)?;
    let lattice = session.lattice().await?;
    let mut progress = terminal.progress();
    let host = lattice.find_host(&args.host).await?;
    let annotations = pairs_of("annotation", args.annotations.clone())?;
    let inventory =
        lattice.inventory(&host).await.with_context(|| format!("ask host {host} what it runs"))?;
    let max = wanted(&args);
    let reference = match &args.old_reference {
        Some(reference) => reference.clone(),
        None => reference_of(&args.actor, &inventory)?,
    };
    let amount = match max {
        Some(0) => "stopped".to_owned(),
        Some(max) => format!("scaled to {max}"),
        None => "scaled without a bound".to_owned(),
    };
    let wait = (!args.skip_wait).then(|| args.wait_ms.map_or(START_WAIT, Duration::from_millis));
    let id = ActorId::parse(&args.actor).ok().map(|id| id.to_string());
    let commands = HostCommands::new(&lattice, &host, wait);
    let end = commands
        .scale_actor(id.as_deref(), &reference, max, &annotations, &mut |step| {
            show_step(&mut progress, step)
        })
        .await?;
    drop(progress);
    let keeping = end.keeping();
    let (text, id) = match end {
        Outcome::Unchanged(id) => (
            format!("Actor {reference} on host [{host}] was {amount} before; nothing was changed"),
            id,
        ),
        Outcome::Accepted(_) => {
            (format!("Request to scale actor {reference} on host [{host}] received"), id)
        }
        Outcome::Done(id, _) => (format!("Actor {reference} {amount} on host [{host}]"), id),
    };
    let mut members =
        json!({ "actor_ref": reference, "host_id": host, "max_instances": max, "actor_id": id });
    add_keeping(&mut members, &keeping);
    terminal.show(&Message::new(text, &reference, members))?;
    tell_keeping(terminal, &keeping);
    Ok(())
}

/// How many are wanted; `None` is no bound. With the arguments of 2022 one is meant if nothing is
/// said.
fn wanted(args: &ScaleActor) -> Option<u32> {
    args.max.or_else(|| args.old_reference.as_ref().map(|_| 1)).filter(|max| *max != u32::MAX)
}

/// The reference an actor runs with here, if one is meant that runs; else the word is a reference
/// itself.
fn reference_of(word: &str, inventory: &Inventory) -> Result<String> {
    let here = names::actors(&[], std::slice::from_ref(inventory));
    let id = match names::find("actor of this host", word, &here) {
        Ok(named) => named.id.clone(),
        Err(error) if ActorId::parse(word).is_ok() => {
            return Err(error.context("only its reference can start it"));
        }
        Err(_) => return Ok(word.to_owned()),
    };
    let actor = inventory.actors.iter().find(|actor| actor.id == id);
    Ok(actor.map_or_else(|| word.to_owned(), |actor| actor.image_ref.clone()))
}

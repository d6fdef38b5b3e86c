//! `host scale actor`: how many calls an actor takes at a time on a host.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use tokio::time::Instant;

use super::{
    pairs_of,
    start::{WAIT, actor_event, running, show_step, unknown, without_nulls},
};
use crate::{
    cli::lattice::{Scale, ScaleActor},
    client::{
        Session, names,
        outcome::{Outcome, Told, Watch},
    },
    config::SettingArgs,
    control::types::Inventory,
    identity::keys::ActorId,
    lattice::subject::Command,
    terminal::{Said, Terminal},
};

pub async fn run(terminal: &Terminal, before: SettingArgs, scale: Scale) -> Result<()> {
    let Scale::Actor(args) = scale;
    let session = Session::open(before, &args.connect)?;
    let lattice = session.lattice().await?;
    let mut progress = terminal.progress();
    let host = lattice.find_host(&args.host).await?;
    let annotations = pairs_of("annotation", args.annotations.clone())?;
    let inventory = lattice.inventory(&host).await.with_context(|| format!("ask host {host} what it runs"))?;
    let max = wanted(&args);
    let reference = match &args.old_reference {
        Some(reference) => reference.clone(),
        None => reference_of(&args.actor, &inventory)?,
    };
    let before = running(&inventory, &reference, &annotations);
    let members = json!({
        "actor_ref": reference, "host_id": host, "max_instances": max, "actor_id": before.as_ref().map(|(id, _)| id),
    });
    let amount = match max {
        Some(0) => "stopped".to_owned(),
        Some(max) => format!("scaled to {max}"),
        None => "scaled without a bound".to_owned(),
    };
    let now = before.as_ref().map_or(0, |(_, now)| *now);
    let wanted = max.map_or(u64::from(u32::MAX), u64::from);
    if now == wanted {
        drop(progress);
        let text = format!("Actor {reference} on host [{host}] was {amount} before; nothing was changed");
        return terminal.show(&Said::new(text, &reference, members));
    }
    let watch = Watch::open(&lattice, &host).await?;
    // Hosts of 2022 know an actor by its id here, later ones by its reference.
    let id = ActorId::parse(&args.actor).ok().map(|id| id.to_string()).or(before.map(|(id, _)| id));
    let body = json!({
        "actor_ref": reference, "actor_id": id, "host_id": host, "annotations": annotations,
        // Those of 2022 and 2023 refuse null, which later ones read as no bound.
        "count": max.unwrap_or(u32::MAX),
    });
    lattice.command(&host, Command::ScaleActor, &without_nulls(body)).await.context("scale the actor")?;
    if args.skip_wait {
        drop(progress);
        let text = format!("Request to scale actor {reference} on host [{host}] received");
        return terminal.show(&Said::new(text, &reference, members));
    }
    let outcome = watch
        .wait(
            Instant::now() + args.wait_ms.map_or(WAIT, Duration::from_millis),
            |event| match actor_event(event, &reference) {
                Told::Done(_) if event.name() != "actor_scaled" => Told::Nothing,
                told => told,
            },
            |inventory| match running(inventory, &reference, &annotations).map_or(0, |(_, now)| now) == wanted {
                true => Told::Done(String::new()),
                false => Told::Nothing,
            },
            |step| show_step(&mut progress, step, &reference),
        )
        .await;
    drop(progress);
    match outcome {
        Outcome::Done(_) => {
            terminal.show(&Said::new(format!("Actor {reference} {amount} on host [{host}]"), &reference, members))
        }
        Outcome::Failed(why) => bail!("actor {reference} is not scaled on host {host}: {why}"),
        Outcome::Unknown => Err(unknown(&reference, &host).into()),
    }
}

/// How many are wanted; `None` is no bound. With the arguments of 2022 one is meant if nothing is said.
fn wanted(args: &ScaleActor) -> Option<u32> {
    args.max.or_else(|| args.old_reference.as_ref().map(|_| 1)).filter(|max| *max != u32::MAX)
}

/// The reference an actor runs with here, if one is meant that runs; else the word is a reference itself.
fn reference_of(word: &str, inventory: &Inventory) -> Result<String> {
    let here = names::actors(&[], std::slice::from_ref(inventory));
    let id = match names::find("actor of this host", word, &here) {
        Ok(named) => named.id.clone(),
        Err(error) if ActorId::parse(word).is_ok() => return Err(error.context("only its reference can start it")),
        Err(_) => return Ok(word.to_owned()),
    };
    let actor = inventory.actors.iter().find(|actor| actor.id == id);
    Ok(actor.map_or_else(|| word.to_owned(), |actor| actor.image_ref.clone()))
}

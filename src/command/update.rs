//! `host update actor`: another module for an actor that runs.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use tokio::time::Instant;

use super::{
    sending::{Meant, Sending, an_actor},
    start::{WAIT, show_step, unknown},
};
use crate::{
    cli::lattice::Update,
    client::{
        Session, Usage,
        lattice::{Lattice, RequestError},
        names,
        outcome::{Outcome, Told, Watch},
    },
    config::SettingArgs,
    control::types::{Ack, Inventory},
    identity::keys::HostId,
    lattice::subject::{Command, Control},
    terminal::{Progress, Said, Terminal},
};

pub async fn run(terminal: &Terminal, before: SettingArgs, update: Update) -> Result<()> {
    let Update::Actor(args) = update;
    let session = Session::open(before, &args.connect)?;
    let lattice = session.lattice().await?;
    let (host, word, reference) = match <[String; 3]>::try_from(args.names.clone()) {
        // The order of 2022.
        Ok([host, actor, reference]) if HostId::parse(&host).is_ok() => (Some(host), actor, reference),
        Ok(_) => bail!(Usage("it is `host update actor ACTOR REFERENCE`; name a host with --host-id".into())),
        Err(names) => {
            let [actor, reference] = <[String; 2]>::try_from(names)
                .map_err(|_| Usage("it is `host update actor ACTOR REFERENCE`".into()))?;
            (args.host_id.clone(), actor, reference)
        }
    };
    let inventories = lattice.inventories_of(host.as_deref()).await?;
    let id = names::actor(&word, &lattice.claims().await.unwrap_or_default(), &inventories)?;
    let runs = |inventory: &&Inventory| inventory.actors.iter().any(|actor| actor.id == id);
    let hosts: Vec<&Inventory> = inventories.iter().filter(runs).collect();
    if hosts.is_empty() {
        bail!("actor {id} runs on no host that answers; start it with `host start actor {reference}`");
    }
    let mut progress = terminal.progress();
    let sending = Sending { session: &session, terminal, sign: args.sign, caps: &args.caps };
    let meant = sending.resolve(&reference, &mut progress, an_actor).await?;
    let Meant { reference, readers, .. } = &meant;
    if let Some(readers) = readers {
        hosts.iter().try_for_each(|host| readers.require(&host.host_id))?;
    }
    let until = Instant::now() + args.wait_ms.map_or(WAIT, Duration::from_millis);
    let mut updated = Vec::new();
    for inventory in hosts {
        let exchange = Exchange { lattice: &lattice, id: &id, reference, until };
        exchange.on(inventory, &mut progress).await?;
        updated.push(inventory.host_id.as_str());
    }
    drop(progress);
    let text = format!("Actor [{id}] updated to {reference} on {}", updated.join(", "));
    let members = json!({ "actor_id": id, "new_actor_ref": reference, "host_id": updated.first(), "hosts": updated });
    terminal.show(&Said::new(text, &id, members))?;
    meant.tidy().await;
    Ok(())
}

/// A module to exchange on a host.
pub struct Exchange<'a> {
    pub lattice: &'a Lattice,
    pub id: &'a str,
    pub reference: &'a str,
    pub until: Instant,
}

impl Exchange<'_> {
    /// Exchanges it; returns when new calls run the new module.
    pub async fn on(&self, inventory: &Inventory, progress: &mut Progress) -> Result<()> {
        let (host, id, reference) = (&inventory.host_id, self.id, self.reference);
        let watch = Watch::open(self.lattice, host).await?;
        let body = json!({ "actor_id": id, "new_actor_ref": reference, "host_id": host, "annotations": {} });
        let command = Control::Command { host: host.clone(), command: Command::UpdateActor };
        match self.lattice.request::<Ack>(&command, &body).await {
            Ok(ack) if !ack.accepted => bail!("host {host} does not update {id}: {}", ack.error),
            // It answers late when the module has to be fetched first.
            Ok(_) | Err(RequestError::TimedOut { .. }) => {}
            Err(error) => return Err(error).context("update the actor"),
        }
        let outcome = watch
            .wait(
                self.until,
                |event| match event.name() {
                    "actor_update_failed" if event.text("public_key") == id => {
                        Told::Failed(event.text("reason").to_owned())
                    }
                    _ => Told::Nothing,
                },
                |inventory| {
                    let is_new =
                        |actor: &&crate::control::types::InventoryActor| actor.id == id && actor.image_ref == reference;
                    if inventory.actors.iter().any(|actor| is_new(&actor)) { Told::Done(()) } else { Told::Nothing }
                },
                |step| show_step(progress, step, reference),
            )
            .await;
        match outcome {
            Outcome::Done(()) => Ok(()),
            Outcome::Failed(why) => bail!("host {host} does not update {id}: {why}"),
            Outcome::Unknown => Err(unknown(reference, host).into()),
        }
    }
}

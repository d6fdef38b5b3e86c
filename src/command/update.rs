//! `host update actor`: another module for an actor that runs.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;
use tokio::time::Instant;

use super::{
    permit::issuer_change,
    sending::{Meant, Sending, an_actor},
    start::show_step,
};
use crate::{
    cli::lattice::Update,
    client::{
        Session, Usage,
        act::{Act, START_WAIT},
        names,
    },
    config::SettingArgs,
    control::types::Inventory,
    identity::keys::HostId,
    terminal::{Said, Terminal},
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
    let until = Instant::now() + args.wait_ms.map_or(START_WAIT, Duration::from_millis);
    let permission = issuer_change(&session, reference, args.allow_issuer_change).await?;
    let mut updated = Vec::new();
    for inventory in hosts {
        let act = Act {
            lattice: &lattice,
            host: &inventory.host_id,
            until: Some(until),
            issuer_change: permission.as_deref(),
        };
        act.update_actor(&id, reference, &mut |step| show_step(&mut progress, step)).await?;
        updated.push(inventory.host_id.as_str());
    }
    drop(progress);
    let text = format!("Actor [{id}] updated to {reference} on {}", updated.join(", "));
    let members = json!({ "actor_id": id, "new_actor_ref": reference, "host_id": updated.first(), "hosts": updated });
    terminal.show(&Said::new(text, &id, members))?;
    meant.tidy().await;
    Ok(())
}

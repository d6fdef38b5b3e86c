//! `host update actor`: another module for an actor that runs.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;

use super::{
    permit::issuer_change,
    runs_actor,
    sending::{Resolved, Sending, an_actor},
    start::show_step,
};
use crate::{
    args::{flags::SettingArgs, lattice::Update},
    session::Session,
    terminal::{Message, Terminal},
};
use lattice_client::{
    commands::{HostCommands, Patience, START_WAIT},
    names,
};
use lattice_protocol::{control::types::Inventory, errors::Usage, identity::keys::HostId};

pub async fn run(terminal: &Terminal, before: SettingArgs, update: Update) -> Result<()> {
    let Update::Actor(args) = update;
    let session = Session::open(before, &args.connect)?;
    let lattice = session.lattice().await?;
    let (host, word, reference) = match <[String; 3]>::try_from(args.names.clone()) {
        // The order of 2022.
        Ok([host, actor, reference]) if HostId::parse(&host).is_ok() => {
            (Some(host), actor, reference)
        }
        Ok(_) => bail!(Usage(
            "it is `host update actor ACTOR REFERENCE`; name a host with --host-id".into()
        )),
        Err(names) => {
            let [actor, reference] = <[String; 2]>::try_from(names)
                .map_err(|_| Usage("it is `host update actor ACTOR REFERENCE`".into()))?;
            (args.host_id.clone(), actor, reference)
        }
    };
    let inventories = lattice.inventories_of(host.as_deref()).await?;
    let id = names::actor(&word, &lattice.claims().await.unwrap_or_default(), &inventories)?;
    let hosts: Vec<&Inventory> =
        inventories.iter().filter(|inventory| runs_actor(inventory, &id)).collect();
    if hosts.is_empty() {
        bail!(
            "actor {id} runs on no host that answers; start it with `host start actor {reference}`"
        );
    }
    let mut progress = terminal.progress();
    let sending = Sending { session: &session, terminal, sign: args.sign, caps: &args.caps };
    let resolved = sending.resolve(&reference, &mut progress, an_actor).await?;
    let Resolved { reference, readers, .. } = &resolved;
    // A file that was sent is of no use to a host that cannot read the lattice's object store.
    if let Some(readers) = readers {
        hosts.iter().try_for_each(|host| readers.require(&host.host_id))?;
    }
    // One deadline for all hosts: a user waits for the whole.
    let patience = Patience::new(args.wait_ms.map_or(START_WAIT, Duration::from_millis));
    let permission = issuer_change(&session, reference, args.allow_issuer_change).await?;
    let mut updated = Vec::new();
    for inventory in hosts {
        let commands = HostCommands {
            lattice: &lattice,
            host: &inventory.host_id,
            patience: Some(patience),
            issuer_change: permission.as_deref(),
        };
        let update =
            commands.update_actor(&id, reference, &mut |step| show_step(&mut progress, step)).await;
        if let Err(error) = update {
            let typed = args.names.last().map_or(&**reference, String::as_str);
            return Err(resolved.told(&sending, (typed, &*inventory.host_id), error).await);
        }
        updated.push(inventory.host_id.as_str());
    }
    drop(progress);
    let text = format!("Actor [{id}] updated to {reference} on {}", updated.join(", "));
    let members = json!({ "actor_id": id, "new_actor_ref": reference, "host_id": updated.first(), "hosts": updated });
    terminal.show(&Message::new(text, &id, members))?;
    // Last, because it takes time and the answer does not depend on it.
    resolved.tidy().await;
    Ok(())
}

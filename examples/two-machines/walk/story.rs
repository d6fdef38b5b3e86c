//! The walk, step by step: two machines, one application, and requests that never stop.

use anyhow::{Result, ensure};
use wasmcloud_control_interface_2024::HostInventory;

use super::{
    eventually,
    ground::Ground,
    lattice::{FIRST, Lattice, Plan, SECOND, Var},
    load::{Load, Report},
    machine::Machine,
    process::Signal,
};

/// How the page is asked for meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Requests a second.
    pub rate: u32,
    /// Requests that have to end after a step before the next one.
    pub requests: u64,
}

/// The results of the walk.
pub struct Outcome {
    /// The page of the first machine, from the start of the application to the end of its host.
    pub first_page: Report,
    /// The page of the second, from its start to the end.
    pub second_page: Report,
    /// Both inventories while the application ran on both.
    pub inventories: [HostInventory; 2],
    /// Links and claims that the first host had when the second joined, and what the second knew
    /// when it was ready.
    pub metadata: [(usize, usize); 2],
}

/// Walks; `say` gets a line per step. Returns the lattice as the walk left it: the application on
/// the second machine.
pub async fn walk(
    plan: Plan,
    ground: Ground,
    pace: Pace,
    mut say: impl FnMut(String),
) -> Result<(Lattice, Outcome)> {
    let flags: String = plan.flags.iter().map(|flag| format!(" {flag}")).collect();
    // As one would type it there.
    let command = |machine: &Machine, (name, value): Var| {
        let port = machine.nats_port().map(|port| format!(" NATS_PORT={port}")).unwrap_or_default();
        format!("{name}={value}{port} host foreground --allow-file-load{flags}")
    };
    let mut lattice = Lattice::start_servers(plan, ground).await?;
    say("a hub, and the NATS servers of two machines as its leaves; domains core and extender reach each other".into());
    lattice.start_first_host().await?;
    say(format!("first machine:  {}  → {}", command(&lattice.first, FIRST), lattice.first.host_id));
    lattice.launch().await?;
    let first_page = Load::start(&lattice.first.page(), pace.rate)?;
    answered(&first_page, pace).await?;
    say(format!("its page {} answers: {}", lattice.first.page(), counts(&first_page)));

    let known = lattice.control(&lattice.first).await?.metadata().await?;
    lattice.copy_config()?;
    say("host_config.json copied to the second machine".into());
    lattice.start_second_host().await?;
    say(format!(
        "second machine: {}  → {}",
        command(&lattice.second, SECOND),
        lattice.second.host_id
    ));
    // Servers prefer the listener beside them, so this is the second host's own answer.
    let arrived = lattice.control(&lattice.second).await?.metadata().await?;
    say(format!("it knows {} links and {} claims without being told", arrived.0, arrived.1));
    lattice.extend().await?;
    let second_page = Load::start(&lattice.second.page(), pace.rate)?;
    answered(&second_page, pace).await?;
    say(format!(
        "an auction with machine=second: the application runs there too, its page {} answers",
        lattice.second.page()
    ));
    say(format!("    first page: {}; second page: {}", counts(&first_page), counts(&second_page)));

    let control = lattice.control(&lattice.first).await?;
    let inventories = [
        control.inventory(&lattice.first.host_id).await?,
        control.inventory(&lattice.second.host_id).await?,
    ];
    for inventory in &inventories {
        say(format!("inventory of {}", summary(inventory)));
    }

    lattice.end_actor_on_first().await?;
    answered(&first_page, pace).await?;
    answered(&second_page, pace).await?;
    say("the actor is stopped on the first machine; its page goes on, answered by the second"
        .into());
    say(format!("    first page: {}; second page: {}", counts(&first_page), counts(&second_page)));
    let first_page = first_page.stop().await?;

    let status = lattice.first.host()?.end(Signal::Terminate).await?;
    ensure!(status.success(), "the first host did not end in order: {status}");
    answered(&second_page, pace).await?;
    say(format!("the first host is stopped; second page: {}", counts(&second_page)));
    let second_page = second_page.stop().await?;
    let outcome = Outcome { first_page, second_page, inventories, metadata: [known, arrived] };
    Ok((lattice, outcome))
}

fn counts(load: &Load) -> String {
    let (answered, failed) = load.so_far();
    format!("{answered} answers, {failed} failures")
}

/// Waits until the page was answered, or refused, often enough to tell.
async fn answered(load: &Load, pace: Pace) -> Result<()> {
    let total = |(answered, failed)| answered + failed;
    let before = total(load.so_far());
    eventually("requests end", || async {
        ensure!(
            total(load.so_far()) >= before + pace.requests,
            "{} requests have not ended",
            pace.requests
        );
        Ok(())
    })
    .await
}

fn summary(inventory: &HostInventory) -> String {
    let label = inventory
        .labels
        .get("machine")
        .map(|label| format!(" machine={label}"))
        .unwrap_or_default();
    let actors = inventory.actors.iter().map(|actor| {
        let replicas: u32 = actor.instances.iter().map(|instance| instance.max_instances).sum();
        format!("{} × {replicas}", actor.name.as_deref().unwrap_or(&actor.id))
    });
    let providers = inventory.providers.iter().map(|provider| {
        format!(
            "{} ({})",
            provider.image_ref.as_deref().unwrap_or(&provider.id),
            provider.link_name
        )
    });
    let running: Vec<String> = actors.chain(providers).collect();
    format!("{}{label}: {}", inventory.friendly_name, running.join(", "))
}

//! `host stop`: an actor, a provider, or a host.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{pairs_of, runs_actor, start::add_keeping};
use crate::{
    args::{
        flags::SettingArgs,
        lattice::{Stop, StopActor, StopHost, StopProvider},
    },
    session::Session,
    terminal::{Message, Terminal},
};
use lattice_client::{
    commands::{HostCommands, Keeping, STOP_WAIT},
    lattice::Lattice,
    lost::missing_called,
    names,
};
use lattice_protocol::{
    control::{
        probe::health::{self, GivenUp},
        request::{self as control, HostRequest},
        types::{Ack, Inventory, InventoryProvider},
    },
    errors::{Lines, Usage},
    identity::keys::{HostId, LinkName},
};

pub async fn run(terminal: &Terminal, before: SettingArgs, stop: Stop) -> Result<()> {
    match stop {
        Stop::Actor(args) => actor(terminal, &Session::open(before, &args.connect)?, args).await,
        Stop::Provider(args) => {
            provider(terminal, &Session::open(before, &args.connect)?, args).await
        }
        Stop::Host(args) => host(terminal, &Session::open(before, &args.connect)?, args).await,
    }
}

async fn actor(terminal: &Terminal, session: &Session, args: StopActor) -> Result<()> {
    let lattice = session.lattice().await?;
    let annotations = pairs_of("annotation", args.annotations)?;
    let (word, host) = match (args.actor, args.old_actor) {
        (actor, None) => (actor, args.host_id),
        (host, Some(actor)) if HostId::parse(&host).is_ok() => (actor, Some(host)),
        (_, Some(extra)) => {
            bail!(Usage(format!("{extra:?} is one argument too many; name a host with --host-id")))
        }
    };
    let inventories = lattice.inventories_of(host.as_deref()).await?;
    let running = names::actors(&[], &inventories);
    let id = match names::find("running actor", &word, &running) {
        Ok(named) => named.id.clone(),
        // It may be called by its alias, which only claims tell.
        Err(error) => match names::actor(&word, &lattice.claims().await?, &inventories) {
            Ok(id) if running.iter().any(|named| named.id == id) => id,
            found => {
                let actor_ref = found.as_ref().map_or(&*word, |id| id).to_owned();
                let stop = control::StopActor { actor_ref, annotations, ..Default::default() };
                if let Some(early) = stopped_before_it_runs(&lattice, &inventories, &stop).await {
                    return show_stopped_early(terminal, &stop.actor_ref, early);
                }
                if let Some(missing) = missing_called(&lattice, "actor", &stop.actor_ref).await {
                    bail!(missing.comes_back());
                }
                match found {
                    Ok(id) => bail!("actor {id} runs on no host that answers; nothing was stopped"),
                    Err(_) => return Err(error),
                }
            }
        },
    };
    let hosts: Vec<&Inventory> =
        inventories.iter().filter(|inventory| runs_actor(inventory, &id)).collect();
    if hosts.len() > 1 && !args.all {
        bail!(several("actor", &id, &hosts));
    }
    let (mut stopped, mut unwritten) = (Vec::new(), Keeping::default());
    for inventory in &hosts {
        let commands = HostCommands::new(&lattice, &inventory.host_id, wait(args.skip_wait));
        let keeping = commands.stop_actor(&id, args.count, &annotations).await?;
        unwritten.not_kept = unwritten.not_kept.or(keeping.not_kept);
        stopped.push(inventory.host_id.as_str());
    }
    let verb = if args.skip_wait { "stop requested" } else { "stopped" };
    let text = format!(
        "Actor [{id}] {verb} on host{} [{}]",
        if stopped.len() > 1 { "s" } else { "" },
        stopped.join(", ")
    );
    let members = json!({ "actor_id": id, "host_id": stopped.first(), "hosts": stopped });
    show(terminal, text, &id, members, &unwritten)
}

async fn provider(terminal: &Terminal, session: &Session, args: StopProvider) -> Result<()> {
    let lattice = session.lattice().await?;
    let wanted = WantedProvider::read(&args)?;
    let inventories = lattice.inventories_of(wanted.host.as_deref()).await?;
    let running: Vec<(&Inventory, &InventoryProvider)> = inventories
        .iter()
        .flat_map(|inventory| inventory.providers.iter().map(move |provider| (inventory, provider)))
        .collect();
    let named = names::running_providers(&inventories);
    let link_name = wanted.link_name.as_deref().unwrap_or(LinkName::DEFAULT);
    let id = match names::find("running provider", &wanted.provider, &named) {
        Ok(named) => named.id.clone(),
        Err(error) => {
            let named = wanted.provider.as_str();
            return match stopped_unfound(&lattice, inventories, named, link_name).await {
                Some((provider, early)) => show_stopped_early(terminal, &provider, early),
                // Its host starts it when it comes back.
                None => match missing_called(&lattice, "provider", named).await {
                    Some(missing) => bail!(missing.comes_back()),
                    None => Err(error),
                },
            };
        }
    };
    let of_it: Vec<_> = running.iter().filter(|(_, provider)| provider.id == id).collect();
    let mut matching = of_it.iter().filter(|(_, provider)| provider.link_name == link_name);
    let Some((inventory, provider)) = matching.next() else {
        let links: Vec<&str> =
            of_it.iter().map(|(_, provider)| provider.link_name.as_str()).collect();
        bail!(
            "provider {id} does not run under link name {link_name}; it runs under: {}",
            links.join(", ")
        );
    };
    if let Some(contract) = &wanted.contract
        && !provider.contract_id.is_empty()
        && *contract != provider.contract_id
    {
        bail!(
            "provider {id} fulfils {}, not {contract}; nothing was stopped",
            provider.contract_id
        );
    }
    let others: Vec<&Inventory> = matching.map(|(inventory, _)| *inventory).collect();
    if !others.is_empty() {
        let all: Vec<&Inventory> = std::iter::once(*inventory).chain(others).collect();
        bail!(several("provider", &id, &all));
    }
    let host = inventory.host_id.clone();
    let contract = if provider.contract_id.is_empty() {
        wanted.contract.unwrap_or_default()
    } else {
        provider.contract_id.clone()
    };
    let commands = HostCommands::new(&lattice, &host, wait(args.skip_wait));
    let keeping = commands.stop_provider(&id, link_name, &contract).await?;
    let verb = if args.skip_wait { "stop requested" } else { "stopped" };
    let members = json!({ "provider_id": id, "link_name": link_name, "contract_id": contract, "host_id": host });
    let text = format!("Provider [{id}] {verb} on host [{host}]");
    show(terminal, text, &id, members, &keeping)
}

/// Stops a provider that does not run: one that was given up, which has a name still, or that a
/// host tries to start. Returns what stands for it, and that host with its words.
async fn stopped_unfound(
    lattice: &Lattice,
    mut inventories: Vec<Inventory>,
    word: &str,
    link_name: &str,
) -> Option<(String, (String, Keeping))> {
    let mut provider_ref = word.to_owned();
    if let Some((host, id)) = given_up(lattice, &inventories, word, link_name).await {
        inventories.retain(|inventory| inventory.host_id == host);
        provider_ref = id;
    }
    let link_name = link_name.to_owned();
    let stop = control::StopProvider { provider_ref, link_name, ..Default::default() };
    let early = stopped_before_it_runs(lattice, &inventories, &stop).await?;
    Some((stop.provider_ref, early))
}

/// Returns the host that gave a provider of this name up, and the public key of that.
async fn given_up(
    lattice: &Lattice,
    inventories: &[Inventory],
    word: &str,
    link_name: &str,
) -> Option<(String, String)> {
    let ids = inventories.iter().map(|inventory| inventory.host_id.clone()).collect();
    let healths = lattice.ask_each(ids, &health::Request { ask: false }).await;
    let of_hosts = healths.into_iter().filter_map(|(host, health)| Some((host, health.ok()?)));
    let mut failures = of_hosts.flat_map(|(host, health)| {
        health.failures.into_iter().map(move |failure| (host.clone(), failure))
    });
    failures.find_map(|(host, failure)| {
        let GivenUp { id, name } = failure.given_up?;
        let is_it = id == word || name.eq_ignore_ascii_case(word) || failure.reference == word;
        (is_it && failure.link_name == link_name).then_some((host, id))
    })
}

/// Stops what a host has kept and tries to start again. Returns that host and its words; nothing if
/// none does, or several might.
async fn stopped_before_it_runs<R: HostRequest<Reply = Ack>>(
    lattice: &Lattice,
    inventories: &[Inventory],
    stop: &R,
) -> Option<(String, Keeping)> {
    let [Inventory { host_id, .. }] = inventories else { return None };
    let answer = lattice.command(host_id, stop).await.ok()?;
    Some((host_id.clone(), answer.into()))
}

fn show_stopped_early(
    terminal: &Terminal,
    word: &str,
    (host, keeping): (String, Keeping),
) -> Result<()> {
    let text =
        format!("{word} did not run on host [{host}], which does not try to start it any more");
    let members = json!({ "host_id": host, "hosts": [host] });
    show(terminal, text, word, members, &keeping)
}

/// Shows a stop, and why it does not hold for the next start of the host.
fn show(
    terminal: &Terminal,
    text: String,
    name: &str,
    mut members: Value,
    keeping: &Keeping,
) -> Result<()> {
    add_keeping(&mut members, keeping);
    terminal.show(&Message::new(text, name, members))?;
    if let Some(cause) = &keeping.not_kept
        && !terminal.is_data()
    {
        terminal.note(format!("not noted for the next start of the host: {cause}"));
    }
    Ok(())
}

/// How long to wait for a stop; not at all if that is wished.
fn wait(skip: bool) -> Option<Duration> {
    (!skip).then_some(STOP_WAIT)
}

/// Which provider is meant, in whatever order of the years it was said.
struct WantedProvider {
    host: Option<String>,
    provider: String,
    contract: Option<String>,
    link_name: Option<String>,
}

impl WantedProvider {
    fn read(args: &StopProvider) -> Result<Self> {
        let (host_id, first) = (args.host_id.clone(), args.provider.clone());
        let rest: Vec<&str> = args.rest.iter().map(String::as_str).collect();
        let (host, provider, contract, link_name) = match (HostId::parse(&first).is_ok(), rest.as_slice()) {
            // `HOST PROVIDER LINK_NAME CONTRACT`, the order of 2022.
            (true, [provider, link_name, contract]) => (Some(first), *provider, Some(*contract), Some(*link_name)),
            (false, []) => (host_id, first.as_str(), None, None),
            (false, [contract]) => (host_id, first.as_str(), Some(*contract), None),
            (false, [contract, link_name]) => (host_id, first.as_str(), Some(*contract), Some(*link_name)),
            _ => bail!(Usage(
                "it is `host stop provider PROVIDER [CONTRACT [LINK_NAME]]`; name a host with --host-id".into()
            )),
        };
        let link_name = args.link_name.clone().or(link_name.map(str::to_owned));
        Ok(Self {
            provider: provider.to_owned(),
            contract: contract.map(str::to_owned),
            link_name,
            host,
        })
    }
}

async fn host(terminal: &Terminal, session: &Session, args: StopHost) -> Result<()> {
    let lattice = session.lattice().await?;
    let host = lattice.find_host(&args.host).await?;
    let timeout = Duration::from_millis(args.host_timeout_ms);
    let mut progress = terminal.progress();
    if !args.skip_wait {
        progress.stage("stopping", host.clone());
    }
    // It finishes its calls first.
    HostCommands::new(&lattice, &host, wait(args.skip_wait).map(|wait| wait + timeout))
        .stop_host(timeout)
        .await?;
    drop(progress);
    let text = match args.skip_wait {
        true => format!("Host {host} acknowledged the stop"),
        false => format!("Host [{host}] stopped"),
    };
    terminal.show(&Message::new(text, &host, json!({ "host_id": host })))
}

fn several(what: &str, id: &str, hosts: &[&Inventory]) -> Lines {
    let all = if what == "actor" { ", or stop it everywhere with --all" } else { "" };
    let mut lines =
        vec![format!("{what} {id} runs on several hosts; choose one with --host-id{all}:")];
    let named = hosts.iter().map(|host| format!("  {} ({})", host.host_id, host.friendly_name));
    lines.extend(named);
    Lines(lines)
}

//! `host stop`: an actor, a provider, or a host.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::pairs_of;
use crate::{
    cli::lattice::{Stop, StopActor, StopHost, StopProvider},
    client::{
        OutcomeUnknown, Session, Usage,
        lattice::{Lattice, RequestError},
        names,
        outcome::{Outcome, Told, Watch, instances},
    },
    config::SettingArgs,
    control::types::{Ack, Inventory, InventoryProvider, Pairs},
    identity::keys::{HostId, LinkName},
    lattice::subject::{Command, Control},
    terminal::{Said, Terminal},
};

/// How long a stop may take: calls are finished first.
const WAIT: Duration = Duration::from_secs(15);

pub async fn run(terminal: &Terminal, before: SettingArgs, stop: Stop) -> Result<()> {
    match stop {
        Stop::Actor(args) => actor(terminal, &Session::open(before, &args.connect)?, args).await,
        Stop::Provider(args) => provider(terminal, &Session::open(before, &args.connect)?, args).await,
        Stop::Host(args) => host(terminal, &Session::open(before, &args.connect)?, args).await,
    }
}

async fn actor(terminal: &Terminal, session: &Session, args: StopActor) -> Result<()> {
    let lattice = session.lattice().await?;
    let annotations = pairs_of("annotation", args.annotations)?;
    let (word, host) = match (args.actor, args.old_actor) {
        (actor, None) => (actor, args.host_id),
        (host, Some(actor)) if HostId::parse(&host).is_ok() => (actor, Some(host)),
        (_, Some(extra)) => bail!(Usage(format!("{extra:?} is one argument too many; name a host with --host-id"))),
    };
    let inventories = lattice.inventories_of(host.as_deref()).await?;
    let running = names::actors(&[], &inventories);
    let id = match names::find("running actor", &word, &running) {
        Ok(named) => named.id.clone(),
        // It may be called by its alias, which only claims tell.
        Err(error) => match names::actor(&word, &lattice.claims().await?, &inventories) {
            Ok(id) if running.iter().any(|named| named.id == id) => id,
            Ok(id) => bail!("actor {id} runs on no host that answers; nothing was stopped"),
            Err(_) => return Err(error),
        },
    };
    let runs = |inventory: &&Inventory| inventory.actors.iter().any(|actor| actor.id == id);
    let hosts: Vec<&Inventory> = inventories.iter().filter(runs).collect();
    if hosts.len() > 1 && !args.all {
        bail!(several("actor", &id, &hosts));
    }
    let mut stopped = Vec::new();
    for inventory in &hosts {
        let stop = StopOne {
            lattice: &lattice,
            id: &id,
            count: args.count,
            annotations: &annotations,
            skip_wait: args.skip_wait,
        };
        stop.on(inventory).await?;
        stopped.push(inventory.host_id.as_str());
    }
    let verb = if args.skip_wait { "stop requested" } else { "stopped" };
    let text =
        format!("Actor [{id}] {verb} on host{} [{}]", if stopped.len() > 1 { "s" } else { "" }, stopped.join(", "));
    terminal.show(&Said::new(text, &id, json!({ "actor_id": id, "host_id": stopped.first(), "hosts": stopped })))
}

/// One actor to stop on one host.
struct StopOne<'a> {
    lattice: &'a Lattice,
    id: &'a str,
    count: Option<u32>,
    annotations: &'a Pairs,
    skip_wait: bool,
}

impl StopOne<'_> {
    async fn on(&self, inventory: &Inventory) -> Result<()> {
        let (host, id) = (&inventory.host_id, self.id);
        let before = self.instances(inventory);
        let fewer = self.count.filter(|count| *count > 0).map_or(before, u64::from).min(before);
        let watch = Watch::open(self.lattice, host).await?;
        let body = json!({
            "actor_ref": id, "host_id": host, "count": self.count.unwrap_or(0), "annotations": self.annotations,
        });
        let asked = self.acknowledged(host, &body).await?;
        if self.skip_wait {
            return Ok(());
        }
        let outcome = watch
            .wait(
                Instant::now() + WAIT,
                |_| Told::Nothing,
                |inventory| if self.instances(inventory) + fewer <= before { Told::Done(()) } else { Told::Nothing },
                |_| {},
            )
            .await;
        match outcome {
            Outcome::Done(()) => Ok(()),
            Outcome::Failed(why) => bail!(why),
            Outcome::Unknown => bail!(OutcomeUnknown(format!(
                "host {host} {} the stop of {id}, but still runs it after {} s; calls in work are finished first. \
                 `host get inventory {host}` tells when it is gone",
                if asked { "took on" } else { "did not answer" },
                WAIT.as_secs()
            ))),
        }
    }

    /// Hosts answer when the actor has left; one that takes longer than a request may is watched all the same.
    async fn acknowledged(&self, host: &str, body: &serde_json::Value) -> Result<bool> {
        let command = Control::Command { host: host.to_owned(), command: Command::StopActor };
        match self.lattice.request::<Ack>(&command, body).await {
            Ok(ack) if ack.accepted => Ok(true),
            Ok(ack) => bail!("host {host} refuses to stop {}: {}", self.id, ack.error),
            Err(RequestError::TimedOut { .. }) => Ok(false),
            Err(error) => Err(error).context("stop the actor"),
        }
    }

    fn instances(&self, inventory: &Inventory) -> u64 {
        let counts = |theirs: &Pairs| self.annotations.iter().all(|(key, value)| theirs.get(key) == Some(value));
        inventory.actors.iter().filter(|actor| actor.id == self.id).map(|actor| instances(actor, counts)).sum()
    }
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
    let id = names::find("running provider", &wanted.provider, &named)?.id.clone();
    let link_name = wanted.link_name.as_deref().unwrap_or(LinkName::DEFAULT);
    let of_it: Vec<_> = running.iter().filter(|(_, provider)| provider.id == id).collect();
    let mut matching = of_it.iter().filter(|(_, provider)| provider.link_name == link_name);
    let Some((inventory, provider)) = matching.next() else {
        let links: Vec<&str> = of_it.iter().map(|(_, provider)| provider.link_name.as_str()).collect();
        bail!("provider {id} does not run under link name {link_name}; it runs under: {}", links.join(", "));
    };
    if let Some(contract) = &wanted.contract
        && !provider.contract_id.is_empty()
        && *contract != provider.contract_id
    {
        bail!("provider {id} fulfils {}, not {contract}; nothing was stopped", provider.contract_id);
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
    let watch = Watch::open(&lattice, &host).await?;
    let body = json!({
        "provider_ref": id, "link_name": link_name, "contract_id": contract, "host_id": host, "annotations": {},
    });
    lattice.command(&host, Command::StopProvider, &body).await.context("stop the provider")?;
    let members = json!({ "provider_id": id, "link_name": link_name, "contract_id": contract, "host_id": host });
    if args.skip_wait {
        return terminal.show(&Said::new(format!("Provider [{id}] stop requested on host [{host}]"), &id, members));
    }
    let outcome = watch
        .wait(
            Instant::now() + WAIT,
            |event| match event.name() {
                "provider_stopped" if event.text("public_key") == id && event.text("link_name") == link_name => {
                    Told::Done(())
                }
                _ => Told::Nothing,
            },
            |inventory| {
                let runs =
                    inventory.providers.iter().any(|provider| provider.id == id && provider.link_name == link_name);
                if runs { Told::Nothing } else { Told::Done(()) }
            },
            |_| {},
        )
        .await;
    match outcome {
        Outcome::Done(()) => {
            terminal.show(&Said::new(format!("Provider [{id}] stopped on host [{host}]"), &id, members))
        }
        Outcome::Failed(why) => bail!(why),
        Outcome::Unknown => bail!(OutcomeUnknown(format!(
            "host {host} took the stop of {id} on, but still runs it after {} s; `host get inventory {host}` tells when it is gone",
            WAIT.as_secs()
        ))),
    }
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
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let link_name = args.link_name.clone().or(owned(link_name));
        Ok(Self { provider: provider.to_owned(), contract: owned(contract), link_name, host })
    }
}

async fn host(terminal: &Terminal, session: &Session, args: StopHost) -> Result<()> {
    let lattice = session.lattice().await?;
    let host = lattice.find_host(&args.host).await?;
    let mut events = lattice.events().await?;
    let timeout = Duration::from_millis(args.host_timeout_ms);
    let body = json!({ "host_id": host, "timeout": args.host_timeout_ms });
    lattice.command(&host, Command::StopHost, &body).await.with_context(|| format!("stop host {host}"))?;
    let members = json!({ "host_id": host });
    if args.skip_wait {
        return terminal.show(&Said::new(format!("Host {host} acknowledged the stop"), &host, members));
    }
    // It finishes its calls, then says goodbye.
    let until = Instant::now() + timeout + WAIT;
    let mut progress = terminal.progress();
    progress.stage("stopping", host.clone());
    loop {
        let look_at = until.min(Instant::now() + Duration::from_millis(500));
        let told = match timeout_at(look_at, events.next()).await {
            Ok(Some(event)) => event.name() == "host_stopped" && event.source == host,
            // Who is gone cannot say so any more.
            _ => matches!(lattice.inventory(&host).await, Err(RequestError::NoResponders { .. })),
        };
        if told {
            drop(progress);
            return terminal.show(&Said::new(format!("Host [{host}] stopped"), &host, members));
        }
        if Instant::now() >= until {
            bail!(OutcomeUnknown(format!(
                "host {host} took the stop on, but is still there; `host get hosts` tells when it is gone"
            )));
        }
    }
}

fn several(what: &str, id: &str, hosts: &[&Inventory]) -> String {
    let list: Vec<String> = hosts.iter().map(|host| format!("  {} ({})", host.host_id, host.friendly_name)).collect();
    let all = if what == "actor" { ", or stop it everywhere with --all" } else { "" };
    format!("{what} {id} runs on several hosts; choose one with --host-id{all}:\n{}", list.join("\n"))
}

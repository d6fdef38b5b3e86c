//! The hub and its machines as one thing: put up step by step, as a reader of the walk does it, or
//! at once.

use std::{ffi::OsStr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use lattice_engine::providers::builtin::{Spec, httpclient, httpserver};

use super::{
    app::{App, PROVIDERS, REPLICAS},
    control::{Control, Values, values},
    eventually,
    ground::{Ground, HubPlace},
    machine::Machine,
    process::{Process, Signal},
};
use crate::hub_setup::{
    Addresses, HUB_CONFIG, Hub,
    machines::{Changes, Kind},
};

/// How long one question to another machine's JetStream may take before it is asked again.
const ASK: Duration = Duration::from_secs(2);

/// A variable in the environment of a host.
pub type Var = (&'static str, &'static str);
/// The variable that the walk sets for the host of the first machine, and for that of the second.
pub const FIRST: Var = ("WASMCLOUD_JS_DOMAIN", "core");
pub const SECOND: Var = ("HOST_machine", "second");

/// The lattice to set up, and its parts.
pub struct Plan {
    /// Where everything lies.
    pub dir: PathBuf,
    pub programs: Programs,
    pub app: App,
    /// Flags for every host.
    pub flags: Vec<String>,
    /// Where hosts keep compiled code, if not each for itself.
    pub cache: Option<PathBuf>,
    /// A third machine has the page and no actor, so that every request is answered by one of the
    /// other two.
    pub third: bool,
}

/// The programs that run as processes.
#[derive(Clone)]
pub struct Programs {
    pub host: PathBuf,
    pub nats_server: PathBuf,
}

/// A hub, and machines with hosts; everything ends when it is dropped.
pub struct Lattice {
    plan: Plan,
    hub: Hub,
    hub_place: HubPlace,
    hub_process: Process,
    pub first: Machine,
    pub second: Machine,
    pub third: Option<Machine>,
    /// The ground under it is dropped last.
    _ground: Ground,
}

impl Lattice {
    /// Makes the hub and the machines' directories, and starts all NATS servers; they have found
    /// each other when this returns.
    pub async fn start_servers(plan: Plan, ground: Ground) -> Result<Self> {
        let place = ground.hub();
        let addresses = Addresses {
            clients: place.clients.clone(),
            leaves: place.leaves.clone(),
            names: vec![place.name.clone()],
        };
        let hub = Hub::prepare(&plan.dir.join("hub"), &addresses)?;
        let hub_process = start_hub(&hub, &place, &plan.programs).await?;
        let second_link = if ground.is_apart() { "default" } else { "second" };
        let third_link = if ground.is_apart() { "default" } else { "third" };
        let machine = |number, name, link| {
            Machine::new(name, plan.dir.join(name), ground.machine(number), link)
        };
        let first = machine(0, "first", "default");
        let second = machine(1, "second", second_link);
        let third = plan.third.then(|| machine(2, "third", third_link));
        let mut lattice = Self {
            plan,
            hub,
            hub_place: place,
            hub_process,
            first,
            second,
            third,
            _ground: ground,
        };
        for machine in lattice.machines() {
            lattice.equip(machine)?;
        }
        let program = lattice.plan.programs.nats_server.clone();
        lattice.first.start_nats(&program, Kind::Core.file_name()).await?;
        lattice.second.start_nats(&program, Kind::Extender.file_name()).await?;
        if let Some(third) = &mut lattice.third {
            third.start_nats(&program, Kind::Extender.file_name()).await?;
        }
        lattice.joined().await?;
        Ok(lattice)
    }

    fn machines(&self) -> impl Iterator<Item = &Machine> {
        [&self.first, &self.second].into_iter().chain(&self.third)
    }

    fn equip(&self, machine: &Machine) -> Result<()> {
        let kind = if machine.name == self.first.name { Kind::Core } else { Kind::Extender };
        // Domains are names of stores; a third machine's is another one.
        let domain = (machine.name == "third").then_some("third");
        let changes =
            Changes { listen: machine.place.nats_listen(), domain: domain.map(str::to_owned) };
        self.hub.equip(&machine.dir, kind, &changes)?;
        Ok(())
    }

    /// Waits until every machine reaches the metadata's domain, and the first one the second's.
    pub async fn joined(&self) -> Result<()> {
        for machine in self.machines() {
            reaches(machine, "core").await?;
        }
        reaches(&self.first, "extender").await
    }

    /// Starts the host of the first machine, as the walk says.
    pub async fn start_first_host(&mut self) -> Result<()> {
        start_host(&self.plan, &mut self.first, FIRST).await?;
        let hosts = self.control(&self.first).await?.hosts_are(1).await?;
        self.first.host_id = hosts[0].id.clone();
        Ok(())
    }

    /// Copies the configuration to the second machine.
    pub fn copy_config(&self) -> Result<()> {
        self.second.take_config_of(&self.first)
    }

    /// Starts the host of the second machine, as the walk says.
    pub async fn start_second_host(&mut self) -> Result<()> {
        start_host(&self.plan, &mut self.second, SECOND).await?;
        self.second.host_id = self.host_labelled("second", 2).await?;
        Ok(())
    }

    async fn start_third_host(&mut self) -> Result<()> {
        let Some(third) = &mut self.third else { return Ok(()) };
        third.take_config_of(&self.first)?;
        start_host(&self.plan, third, ("HOST_machine", "third")).await?;
        let id = self.host_labelled("third", 3).await?;
        if let Some(third) = &mut self.third {
            third.host_id = id;
        }
        Ok(())
    }

    async fn host_labelled(&self, machine: &str, hosts: usize) -> Result<String> {
        let hosts = self.control(&self.first).await?.hosts_are(hosts).await?;
        let labelled = hosts.into_iter().find(|host| {
            host.labels
                .as_ref()
                .and_then(|labels| labels.get("machine"))
                .is_some_and(|label| label == machine)
        });
        labelled
            .map(|host| host.id)
            .with_context(|| format!("no host has the label machine={machine}"))
    }

    /// Starts the application on the first machine: providers, actor and links; the page answers
    /// when this returns.
    pub async fn launch(&self) -> Result<()> {
        let (app, control) = (&self.plan.app, self.control(&self.first).await?);
        for provider in PROVIDERS {
            control
                .start_provider(&self.first.host_id, provider, link_of(&self.first, provider))
                .await?;
        }
        control.scale(&self.first.host_id, &app.reference, REPLICAS).await?;
        control.link(&app.actor, &httpserver::SPEC, "default", page_address(&self.first)).await?;
        if let Some(values) = app.web() {
            control.link(&app.actor, &httpclient::SPEC, "default", values).await?;
        }
        self.page_answers(&self.first).await
    }

    /// Extends it to the second machine: an auction among the hosts labelled so, then providers and
    /// replicas there.
    pub async fn extend(&self) -> Result<()> {
        let (app, control) = (&self.plan.app, self.control(&self.first).await?);
        let there = values([("machine", "second")]);
        let bids = control.bids_for_actor(&app.reference, &there).await?;
        let [host] = bids.as_slice() else {
            bail!("{} hosts bid for a place on machine=second", bids.len())
        };
        if *host != self.second.host_id {
            bail!("{host} bids for a place on machine=second, and is another one");
        }
        self.open_page(&control, &self.second).await?;
        control.scale(host, &app.reference, REPLICAS).await?;
        self.page_answers(&self.second).await?;
        if let Some(third) = &self.third {
            self.open_page(&control, third).await?;
            self.page_answers(third).await?;
        }
        Ok(())
    }

    /// Starts the providers on a further machine, and gives its web server an address where
    /// machines share theirs.
    async fn open_page(&self, control: &Control, machine: &Machine) -> Result<()> {
        for provider in PROVIDERS {
            control.start_provider(&machine.host_id, provider, link_of(machine, provider)).await?;
        }
        if machine.page_link != self.first.page_link {
            let values = page_address(machine);
            control
                .link(&self.plan.app.actor, &httpserver::SPEC, machine.page_link, values)
                .await?;
        }
        Ok(())
    }

    /// Ends the actor on the first machine.
    pub async fn end_actor_on_first(&self) -> Result<()> {
        let control = self.control(&self.second).await?;
        control.scale(&self.first.host_id, &self.plan.app.reference, 0).await
    }

    /// Everything at once: both hosts, the application on both.
    pub async fn ready(plan: Plan, ground: Ground) -> Result<Self> {
        let mut lattice = Self::start_servers(plan, ground).await?;
        lattice.start_first_host().await?;
        lattice.copy_config()?;
        lattice.start_second_host().await?;
        lattice.start_third_host().await?;
        lattice.launch().await?;
        lattice.extend().await?;
        Ok(lattice)
    }

    /// A client of the lattice beside a machine's NATS server.
    pub async fn control(&self, machine: &Machine) -> Result<Control> {
        Control::connect(&machine.place.nats).await
    }

    async fn page_answers(&self, machine: &Machine) -> Result<()> {
        let (client, url) = (reqwest::Client::builder().no_proxy().build()?, machine.page());
        eventually("the page answers", || async {
            let answer = client.get(&url).send().await?;
            let status = answer.status();
            if !status.is_success() {
                bail!("{url} answers {status}: {}", answer.text().await.unwrap_or_default());
            }
            Ok(())
        })
        .await
    }

    /// Ends the hub's process and starts it again.
    pub async fn restart_hub(&mut self) -> Result<()> {
        self.hub_process.end(Signal::Terminate).await?;
        self.hub_process = start_hub(&self.hub, &self.hub_place, &self.plan.programs).await?;
        Ok(())
    }

    /// Ends the NATS server of the second machine and starts it again.
    pub async fn restart_nats_of_second(&mut self) -> Result<()> {
        self.second.nats()?.end(Signal::Terminate).await?;
        let program = self.plan.programs.nats_server.clone();
        self.second.start_nats(&program, Kind::Extender.file_name()).await
    }

    /// Ends everything in order.
    pub async fn stop(mut self) -> Result<()> {
        for machine in [&mut self.first, &mut self.second].into_iter().chain(&mut self.third) {
            machine.stop().await?;
        }
        self.hub_process.end(Signal::Terminate).await?;
        Ok(())
    }
}

/// Starts a host as the walk does, with one variable, and what this ground and this plan make
/// necessary.
async fn start_host(plan: &Plan, machine: &mut Machine, var: Var) -> Result<()> {
    let (port, (name, value)) = (machine.nats_port(), var);
    let mut vars: Vec<(&str, &OsStr)> = vec![(name, OsStr::new(value))];
    if let Some(port) = &port {
        vars.push(("NATS_PORT", OsStr::new(port)));
    }
    if let Some(cache) = &plan.cache {
        vars.push(("XDG_CACHE_HOME", cache.as_os_str()));
    }
    machine.start_host(&plan.programs.host, &vars, &plan.flags).await
}

async fn start_hub(hub: &Hub, place: &HubPlace, programs: &Programs) -> Result<Process> {
    let mut command = place.command(&programs.nats_server);
    command.args(["--config", HUB_CONFIG]).current_dir(&hub.dir);
    let mut process = Process::start("the hub", command, &hub.dir.join("nats.log"))?;
    process.said("Server is ready").await?;
    Ok(process)
}

/// Waits until JetStream of a domain answers a client beside a machine's NATS server.
async fn reaches(machine: &Machine, domain: &str) -> Result<()> {
    let client =
        async_nats::connect(&machine.place.nats).await.context("connect to a NATS server")?;
    let subject = format!("$JS.{domain}.API.INFO");
    eventually(&format!("{} reaches domain {domain}", machine.name), || async {
        let request = async_nats::Request::new().timeout(Some(ASK));
        Ok(client.send_request(subject.clone(), request).await.map(drop)?)
    })
    .await
}

/// The link name under which a provider runs on a machine.
fn link_of(machine: &Machine, provider: &Spec) -> &'static str {
    if provider.known.name == httpserver::SPEC.known.name { machine.page_link } else { "default" }
}

fn page_address(machine: &Machine) -> Values {
    values([("address", machine.place.page_listen.as_str())])
}

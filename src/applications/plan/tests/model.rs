//! A lattice for the tests of the planner: what runs in it, and what its hosts do with a command.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::super::*;
use crate::attempts::{Attempts, apply};
use lattice_protocol::applications::resolved::{self, Mode};

/// Passes after which everything must be as demanded: each component may need an update, a start
/// and an end on each host in turn.
pub const PASSES_MAX: usize = 60;

/// A lattice that carries commands out at once, by the rules of hosts: one module of an actor per
/// host, a provider once per link name.
pub struct Model {
    pub seen: Observed,
    /// Hosts where nothing starts.
    pub broken: BTreeSet<String>,
    pub refused: Refused,
    pub own_links: Vec<LinkDefinition>,
    pub trials: Vec<Trial>,
}

impl Model {
    pub fn new(seen: Observed) -> Self {
        let (broken, refused) = (BTreeSet::new(), Refused::default());
        Self { seen, broken, refused, own_links: Vec::new(), trials: Vec::new() }
    }

    pub fn input<'a>(
        &'a self,
        application: &'a Application,
        others: &'a [&'a Application],
    ) -> Input<'a> {
        Input {
            application,
            others,
            observed: &self.seen,
            expected: &self.seen,
            own_links: &self.own_links,
            trials: &self.trials,
            refused: &self.refused,
        }
    }

    pub fn plan(&self, application: &Application, others: &[&Application]) -> Plan {
        plan(self.input(application, others))
    }

    /// Plans and carries out until nothing is planned; returns how often each thing was commanded.
    pub fn settle(&mut self, application: &Application, others: &[&Application]) -> Plan {
        for _ in 0..PASSES_MAX {
            let plan = self.plan(application, others);
            if plan.commands.is_empty() {
                return plan;
            }
            for command in &plan.commands {
                self.carry_out(command);
            }
        }
        panic!("no end after {PASSES_MAX} passes: {:?}", self.plan(application, others).commands);
    }

    pub fn carry_out(&mut self, command: &Command) {
        match command {
            Command::Scale { scaler, host, image, count, .. } if *count > 0 => {
                let key = key_of(image);
                let is_taken = self.seen.hosts[host]
                    .actors
                    .iter()
                    .any(|group| group.key == key && group.image != *image);
                if is_taken || self.broken.contains(host) {
                    self.refuse(scaler, host);
                    return;
                }
                self.seen.keys.insert(image.clone(), key);
            }
            Command::Update { scaler, host, key, image, .. } if key_of(image) != *key => {
                self.refuse_update(scaler, host);
                return;
            }
            Command::Update { scaler, host, share: None, .. } if self.broken.contains(host) => {
                self.refuse_update(scaler, host);
                return;
            }
            Command::Update { image, key, .. } => {
                self.seen.keys.insert(image.clone(), key.clone());
            }
            Command::StartProvider { scaler, host, image, link_name, .. } => {
                let key = key_of(image);
                let is_taken = self.seen.hosts[host]
                    .providers
                    .iter()
                    .any(|run| run.key == key && run.link_name == *link_name);
                assert!(!is_taken, "{image} runs on {host} already");
                if self.broken.contains(host) {
                    self.refuse(scaler, host);
                    return;
                }
                self.seen.keys.insert(image.clone(), key);
            }
            Command::PutLink(link) => self.own_links.push(link.clone().into()),
            _ => {}
        }
        apply(command, &mut self.seen);
    }

    fn refuse(&mut self, scaler: &str, host: &str) {
        let at = (scaler.to_owned(), host.to_owned());
        self.refused.errors.insert(at.clone(), "it does not start here".into());
        self.refused.starts.insert(at);
    }

    /// A command reaches its host late: what the host refuses is told to who sent it.
    pub fn arrive(&mut self, command: &Command, attempts: &mut Attempts, now: Instant) {
        let before = std::mem::take(&mut self.refused);
        let runs_already = match command {
            Command::StartProvider { host, image, link_name, .. } => {
                let runs = &self.seen.hosts[host].providers;
                runs.iter().any(|run| run.key == key_of(image) && run.link_name == *link_name)
            }
            _ => false,
        };
        if !runs_already {
            self.carry_out(command);
        }
        if runs_already || !self.refused.errors.is_empty() {
            attempts.failed(command, "refused", now);
        }
        self.refused = before;
    }

    fn refuse_update(&mut self, scaler: &str, host: &str) {
        let at = (scaler.to_owned(), host.to_owned());
        self.refused.errors.insert(at.clone(), "it does not change over here".into());
        self.refused.updates.insert(at);
    }

    pub fn foreign(&self, name: &str) -> Vec<(String, Vec<ActorGroup>, Vec<ProviderRun>)> {
        let is_foreign = |annotations: &Annotations| {
            annotations.get(ownership::APPLICATION).is_none_or(|owner| owner != name)
        };
        let hosts = self.seen.hosts.iter();
        hosts
            .map(|(host, view)| {
                let actors = view.actors.iter().filter(|group| is_foreign(&group.annotations));
                let providers = view.providers.iter().filter(|run| is_foreign(&run.annotations));
                (host.clone(), actors.cloned().collect(), providers.cloned().collect())
            })
            .collect()
    }

    pub fn count_on(&self, host: &str, scaler: &Scaler, rule: &Rule, name: &str) -> u32 {
        let groups = self.seen.hosts[host].actors.iter();
        let own = groups.filter(|group| scaler.annotations(name, rule) == group.annotations);
        own.map(|group| group.count).sum()
    }
}

/// Images of the model are `NAME:TAG`, and the name is the key.
pub fn key_of(image: &str) -> String {
    image.split(':').next().unwrap_or_default().to_owned()
}

pub fn labels(zone: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("zone".to_owned(), zone.to_owned())])
}

pub fn hosts(zones: &[&str]) -> Observed {
    let host = |(number, zone): (usize, &&str)| {
        (format!("N{number}"), HostView { labels: labels(zone), ..HostView::default() })
    };
    Observed { hosts: zones.iter().enumerate().map(host).collect(), ..Observed::default() }
}

pub fn rule(name: &str, zone: Option<&str>, count: u32) -> Rule {
    Rule { name: name.into(), requirements: zone.map(labels).unwrap_or_default(), count }
}

pub fn actor(component: &str, image: &str, rules: Vec<Rule>) -> Scaler {
    Scaler {
        id: format!("actorspreadscaler-shop-{component}-{image}"),
        old_id: None,
        component: component.into(),
        image: image.into(),
        kind: ScalerKind::Actor,
        mode: Mode::Spread,
        rules,
        rebalance: false,
    }
}

pub fn provider(component: &str, image: &str, rules: Vec<Rule>) -> Scaler {
    Scaler {
        id: format!("providerspreadscaler-shop-{component}-{image}-default"),
        kind: ScalerKind::Provider {
            contract: Some("wasmcloud:httpserver".into()),
            link_name: "default".into(),
            configuration: None,
        },
        ..actor(component, image, rules)
    }
}

pub fn shop(scalers: Vec<Scaler>) -> Application {
    Application { name: "shop".into(), version: "v1".into(), scalers, links: Vec::new() }
}

pub fn foreign_provider(image: &str) -> ProviderRun {
    ProviderRun {
        key: key_of(image),
        image: image.into(),
        contract: "wasmcloud:httpserver".into(),
        link_name: "default".into(),
        annotations: Annotations::new(),
    }
}

/// A link of the front to the HTTP server; `values` are names and values.
pub fn http_link(values: &[(&str, &str)]) -> resolved::Link {
    resolved::Link {
        actor_image: "echo:1".into(),
        provider_image: "http:1".into(),
        contract: Some("wasmcloud:httpserver".into()),
        link_name: "default".into(),
        values: values.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
    }
}

//! The planner: what is to run and what does run go in, the commands that are missing come out.
//!
//! A pure function of [`Input`]; it knows no clock and no network. Whatever it returns is safe to
//! send twice: counts are totals of one set of annotations on one host, a provider is started only
//! where it does not run.
//!
//! Rules:
//!
//! * Only what carries the annotations of the application is stopped or scaled. A provider that
//!   somebody else started counts as running, and is left alone.
//! * What runs stays where it runs as long as that host fits. Missing instances go to the fitting
//!   host that has the fewest of the component; surplus ones are taken from the host that has the
//!   most. Ties are broken by the host's id, so every host that plans comes to the same end.
//! * Where what was asked for is there, no command is sent.
//! * A component with a new image takes the place of the old one host by host: an actor by a live
//!   update, a provider by a stop and a start. The old one is taken away when the new one runs.
//! * The way down is links, then actors, then providers.

mod actors;
mod links;
mod placement;
mod providers;
mod trials;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use lattice_protocol::{
    applications::{
        ownership,
        resolved::{Application, Mode, Rule, Scaler, ScalerKind},
    },
    events::event::{Annotations, has_all},
    links::LinkDefinition,
};

pub use links::stored as stored_links;
pub use trials::Trial;

/// The lattice as it was last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// By id; only hosts that are there.
    pub hosts: BTreeMap<String, HostView>,
    /// The public keys that image references led to.
    pub keys: BTreeMap<String, String>,
    /// The contracts of providers, by public key.
    pub contracts: BTreeMap<String, String>,
    pub links: Vec<LinkDefinition>,
    /// The words of built-in providers that run to these links, by the links' ids.
    pub taken: BTreeMap<String, TakenOn>,
}

impl Observed {
    /// Returns the name of a host, or its id.
    fn called<'a>(&'a self, host: &'a str) -> &'a str {
        let name = self.hosts.get(host).map(|view| view.name.as_str());
        name.filter(|name| !name.is_empty()).unwrap_or(host)
    }
}

/// Whether the providers of a link have taken it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TakenOn {
    Yes,
    /// They have not said so yet.
    Awaited,
    /// That of a host, by its id, does not.
    Refused {
        host: String,
        error: String,
    },
}

/// A host and what it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostView {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub actors: Vec<ActorGroup>,
    pub providers: Vec<ProviderRun>,
    /// The newer images that take a share of the calls, by the actor's key.
    pub trials: BTreeMap<String, TrialSeen>,
}

/// A newer image beside that of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrialSeen {
    pub image: String,
    /// Percent of the calls.
    pub share: u8,
}

/// Instances of an actor under one set of annotations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActorGroup {
    pub key: String,
    pub image: String,
    pub annotations: Annotations,
    pub count: u32,
}

/// A provider that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderRun {
    pub key: String,
    pub image: String,
    pub contract: String,
    pub link_name: String,
    pub annotations: Annotations,
}

/// The input of the planner.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The application to plan for; without scalers and links when it is to go.
    pub application: &'a Application,
    /// The other applications that are to run.
    pub others: &'a [&'a Application],
    pub observed: &'a Observed,
    /// The same, with what was sent and has not shown yet as if it had. New instances are placed by
    /// it; what is replaced goes only when its successor is really seen.
    pub expected: &'a Observed,
    /// The links that were put for this application.
    pub own_links: &'a [LinkDefinition],
    /// The trials of a rollout.
    pub trials: &'a [Trial],
    pub refused: &'a Refused,
}

/// The attempts that failed lately.
#[derive(Clone, Debug, Default)]
pub struct Refused {
    /// Starts that are not repeated for now, by scaler id and host.
    pub starts: BTreeSet<(String, String)>,
    /// Live updates that are not repeated for now, by the new scaler's id and the host.
    pub updates: BTreeSet<(String, String)>,
    /// The last errors of both that have not succeeded since, in the words of the hosts.
    pub errors: BTreeMap<(String, String), String>,
    /// The last errors of links that are not there.
    pub links: BTreeMap<Link, String>,
}

/// A command to a host, or a change of the lattice's links.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Command {
    DeleteLink {
        actor_id: String,
        contract_id: String,
        link_name: String,
    },
    /// Sets the total of a set of annotations on a host; 0 stops it.
    Scale {
        scaler: String,
        host: String,
        image: String,
        annotations: Annotations,
        count: u32,
    },
    /// Replaces the module of a running actor, or gives a newer one a share of the calls beside it.
    Update {
        scaler: String,
        host: String,
        key: String,
        image: String,
        /// Percent of the calls; 0 takes the newer one back, `None` gives it all.
        share: Option<u8>,
    },
    StopProvider {
        scaler: String,
        host: String,
        key: String,
        contract: String,
        link_name: String,
        annotations: Annotations,
    },
    StartProvider {
        scaler: String,
        host: String,
        image: String,
        link_name: String,
        configuration: Option<String>,
        annotations: Annotations,
    },
    PutLink(Link),
}

/// A link to put, in an order of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    pub actor_id: String,
    pub provider_id: String,
    pub link_name: String,
    pub contract_id: String,
    pub values: BTreeMap<String, String>,
}

impl From<Link> for LinkDefinition {
    fn from(link: Link) -> Self {
        let Link { actor_id, provider_id, link_name, contract_id, values } = link;
        Self { actor_id, provider_id, link_name, contract_id, values }
    }
}

/// How a part of an application stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Deployed,
    Reconciling(String),
    Failed(String),
}

impl Standing {
    /// Returns the standing of a whole, of those of its parts.
    fn worst(parts: Vec<Self>) -> Self {
        let mut failures = Vec::new();
        let mut reconciling = None;
        for part in parts {
            match part {
                // Several rules may fail in the same way.
                Self::Failed(text) if failures.contains(&text) => {}
                Self::Failed(text) => failures.push(text),
                Self::Reconciling(text) => reconciling = Some(text),
                Self::Deployed => {}
            }
        }
        match (failures.is_empty(), reconciling) {
            (false, _) => Self::Failed(failures.join("; ")),
            (true, Some(text)) => Self::Reconciling(text),
            (true, None) => Self::Deployed,
        }
    }
}

/// The standing of one scaler or link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartStatus {
    /// The scaler's id; of links one that never goes over the wire.
    pub id: String,
    /// `SpreadScaler`, `DaemonScaler` or `LinkScaler`.
    pub kind: &'static str,
    /// The image, or the link in words.
    pub name: String,
    /// The component of the manifest it belongs to; empty for links.
    pub component: String,
    pub standing: Standing,
}

/// The outcome of planning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order they are to be sent.
    pub commands: Vec<Command>,
    pub parts: Vec<PartStatus>,
}

/// Plans for one application.
pub fn plan(input: Input<'_>) -> Plan {
    let mut plan = Plan::default();
    links::plan_deletions(input, &mut plan);
    let leftovers = Leftovers::find(input);
    for scaler in &input.application.scalers {
        plan_scaler(input, scaler, &leftovers, &mut plan);
    }
    trials::plan_trials(input, &mut plan);
    actors::plan_leftovers(input, &leftovers, &mut plan);
    providers::plan_leftovers(input, &leftovers, &mut plan);
    links::plan_puts(input, &mut plan);
    plan
}

/// Plans one scaler, rule by rule.
fn plan_scaler<'a>(input: Input<'a>, scaler: &Scaler, leftovers: &Leftovers<'a>, plan: &mut Plan) {
    // A host runs a provider once, so it counts for one rule only.
    let mut claimed = BTreeSet::new();
    let mut standings = Vec::new();
    for rule in &scaler.rules {
        standings.push(match scaler.kind {
            ScalerKind::Actor => actors::plan_rule(input, scaler, rule, leftovers, plan),
            ScalerKind::Provider { .. } => {
                providers::plan_rule(input, scaler, rule, (leftovers, &mut claimed), plan)
            }
        });
    }
    let kind = match scaler.mode {
        Mode::Spread => "SpreadScaler",
        Mode::Daemon => "DaemonScaler",
    };
    plan.parts.push(PartStatus {
        id: scaler.id.clone(),
        kind,
        name: scaler.image.clone(),
        component: scaler.component.clone(),
        standing: Standing::worst(standings),
    });
}

/// The sets of annotations of an application that no rule of it asks for any more.
struct Leftovers<'a> {
    actors: Vec<(&'a str, &'a ActorGroup)>,
    providers: Vec<(&'a str, &'a ProviderRun)>,
}

impl<'a> Leftovers<'a> {
    fn find(input: Input<'a>) -> Self {
        let is_left = |annotations: &Annotations| is_left_over(input.application, annotations);
        let (mut actors, mut providers) = (Vec::new(), Vec::new());
        for (host, view) in &input.observed.hosts {
            let groups = view.actors.iter().filter(|group| is_left(&group.annotations));
            actors.extend(groups.map(|group| (host.as_str(), group)));
            let runs = view.providers.iter().filter(|run| is_left(&run.annotations));
            providers.extend(runs.map(|run| (host.as_str(), run)));
        }
        Self { actors, providers }
    }
}

/// Whether annotations are those of an application.
fn is_of_application(application: &Application, annotations: &Annotations) -> bool {
    ownership::owner(annotations) == Some(&*application.name)
}

fn is_asked_for(application: &Application, annotations: &Annotations) -> bool {
    application.scalers.iter().any(|scaler| {
        scaler.rules.iter().any(|rule| is_of_rule(application, scaler, rule, annotations))
    })
}

/// Whether annotations are those of an application, and no rule of it asks for them any more.
pub fn is_left_over(application: &Application, annotations: &Annotations) -> bool {
    is_of_application(application, annotations) && !is_asked_for(application, annotations)
}

/// Whether annotations are those of a rule, as this program writes them or the old manager did.
pub fn is_of_rule(
    application: &Application,
    scaler: &Scaler,
    rule: &Rule,
    annotations: &Annotations,
) -> bool {
    std::iter::once(&scaler.id).chain(&scaler.old_id).any(|id| {
        let own = ownership::annotations(&application.name, id, &rule.name);
        has_all(annotations, &own)
    })
}

/// Returns the hosts that a rule means, by id.
fn eligible<'a>(observed: &'a Observed, rule: &Rule) -> Vec<&'a str> {
    rule.eligible(observed.hosts.iter().map(|(id, view)| (id.as_str(), &view.labels)))
}

/// Says how something does not start on one of these hosts, if it failed there lately.
fn refusal(input: Input<'_>, scaler: &Scaler, hosts: &[&str]) -> Option<String> {
    let (host, error) = hosts.iter().find_map(|host| {
        let error = input.refused.errors.get(&(scaler.id.clone(), (*host).to_owned()))?;
        Some((*host, error))
    })?;
    let image = &scaler.image;
    // Hosts begin with what they were to do.
    let error = error.strip_prefix(&format!("start {image}: ")).unwrap_or(error);
    Some(format!("{image} does not start on {}: {error}", input.observed.called(host)))
}

/// Says what hosts lack that a rule asks for, after words that say that there is none.
fn lacking(observed: &Observed, rule: &Rule) -> String {
    let labels: Vec<String> =
        rule.requirements.iter().map(|(key, value)| format!("{key}={value}")).collect();
    match (observed.hosts.len(), labels.is_empty()) {
        (0, _) | (_, true) => String::new(),
        (1, false) => format!(" The only host does not have {}.", labels.join(" and ")),
        (count, false) => {
            format!(" There are {count} hosts, and none has {}.", labels.join(" and "))
        }
    }
}

/// Returns the scaler that takes the place of what has these annotations: that of the same
/// component. Of components whose names begin alike it is the one with the longest name.
fn successor<'a>(application: &'a Application, annotations: &Annotations) -> Option<&'a Scaler> {
    let left = annotations.get(ownership::SCALER)?;
    let is_of = |scaler: &&Scaler| {
        let kind = match scaler.kind {
            ScalerKind::Actor => "actor",
            ScalerKind::Provider { .. } => "provider",
        };
        ["spread", "daemon"].iter().any(|mode| {
            let start = format!("{kind}{mode}scaler-{}-{}-", application.name, scaler.component);
            left.starts_with(&start)
        })
    };
    application.scalers.iter().filter(is_of).max_by_key(|scaler| scaler.component.len())
}

/// Whether what has these annotations makes room for a scaler.
fn makes_room_for(application: &Application, scaler: &Scaler, annotations: &Annotations) -> bool {
    successor(application, annotations).is_some_and(|successor| successor.id == scaler.id)
}

impl Command {
    /// Whether it changes which share of the calls a newer image has.
    pub fn is_trial(&self) -> bool {
        matches!(self, Self::Update { share: Some(_), .. })
    }

    /// Returns the host it is for; changes of links are for the lattice.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Scale { host, .. }
            | Self::Update { host, .. }
            | Self::StopProvider { host, .. }
            | Self::StartProvider { host, .. } => Some(host),
            Self::DeleteLink { .. } | Self::PutLink(_) => None,
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeleteLink { actor_id, contract_id, link_name } => {
                write!(f, "delete the link of {actor_id} for {contract_id} ({link_name})")
            }
            Self::Scale { host, image, count, .. } => write!(f, "{count} of {image} on {host}"),
            Self::Update { host, key, image, share: None, .. } => {
                write!(f, "update {key} on {host} to {image}")
            }
            Self::Update { host, key, image, share: Some(share), .. } => {
                write!(f, "give {share} % of the calls of {key} on {host} to {image}")
            }
            Self::StopProvider { host, key, link_name, .. } => {
                write!(f, "stop {key} ({link_name}) on {host}")
            }
            Self::StartProvider { host, image, link_name, .. } => {
                write!(f, "start {image} ({link_name}) on {host}")
            }
            Self::PutLink(link) => write!(
                f,
                "link {} to {} for {} ({})",
                link.actor_id, link.provider_id, link.contract_id, link.link_name
            ),
        }
    }
}

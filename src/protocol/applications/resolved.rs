//! The things that are to run of an application, ready to be compared with those that do.

use std::collections::BTreeMap;

use super::{
    counts::counts,
    manifest::{Capability, Component, Manifest, Properties, Scaling, Trait},
    ownership,
};
use crate::{
    control::types::{Pairs, is_drained},
    events::event::has_all,
};

/// The rule of a scaler whose manifest names none.
const DEFAULT_RULE: &str = "default";

/// A version of an application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Application {
    pub name: String,
    pub version: String,
    /// In the order of the manifest.
    pub scalers: Vec<Scaler>,
    pub links: Vec<Link>,
}

/// Keeps a number of instances of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scaler {
    /// The value of the annotation [`ownership::SCALER`].
    pub id: String,
    /// The value that the old manager would have written, if it differs.
    pub old_id: Option<String>,
    /// The component's name in the manifest.
    pub component: String,
    pub image: String,
    pub kind: ScalerKind,
    pub mode: Mode,
    pub rules: Vec<Rule>,
    /// A host that comes back takes its share again.
    pub rebalance: bool,
}

/// The thing that a scaler starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScalerKind {
    Actor,
    Provider {
        /// `None` if only the provider's claims say it.
        contract: Option<String>,
        link_name: String,
        configuration: Option<String>,
    },
}

/// A provider that runs on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProviderRun<'a> {
    pub key: &'a str,
    pub image: &'a str,
    pub link_name: &'a str,
}

/// How the count of a rule is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// For all hosts together.
    Spread,
    /// For each host.
    Daemon,
}

/// A number of instances for hosts with certain labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The value of the annotation [`ownership::SPREAD_NAME`].
    pub name: String,
    /// Labels that a host must have.
    pub requirements: BTreeMap<String, String>,
    pub count: u32,
}

/// A link from an actor to a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub actor_image: String,
    pub provider_image: String,
    /// `None` if only the provider's claims say it.
    pub contract: Option<String>,
    pub link_name: String,
    pub values: BTreeMap<String, String>,
}

impl Application {
    /// Returns what a manifest asks for. A link whose target is no capability of it is left out;
    /// such a manifest is refused before.
    pub fn of(manifest: &Manifest) -> Self {
        let components = &manifest.spec.components;
        let capabilities = manifest.capabilities().collect();
        Self {
            name: manifest.name().to_owned(),
            version: manifest.version().to_owned(),
            scalers: components.iter().flat_map(|one| scalers(manifest.name(), one)).collect(),
            links: components.iter().flat_map(|one| links(&capabilities, one)).collect(),
        }
    }
}

impl Scaler {
    /// Returns the annotations of what runs by a rule of this scaler.
    pub fn annotations(&self, application: &str, rule: &Rule) -> BTreeMap<String, String> {
        ownership::annotations(application, &self.id, &rule.name)
    }

    /// Says whether what runs is the provider of this scaler, whoever started it; `key` is the
    /// public key that the scaler's image led to.
    pub fn is_served_by(&self, run: ProviderRun<'_>, key: Option<&str>) -> bool {
        let ScalerKind::Provider { link_name, .. } = &self.kind else { return false };
        run.link_name == link_name && (run.image == self.image || key == Some(run.key))
    }
}

impl Mode {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Spread => "spread",
            Self::Daemon => "daemon",
        }
    }
}

impl Rule {
    /// Says whether a host with these labels is one that this rule means.
    pub fn fits(&self, labels: &BTreeMap<String, String>) -> bool {
        has_all(labels, &self.requirements)
    }

    /// Returns the hosts that this rule means, of some with their labels: those that fit and are
    /// not drained, or all that fit, if there is no other. A replica that can go nowhere else stays
    /// where it is.
    pub fn eligible<'a, T>(&self, hosts: impl Iterator<Item = (T, &'a Pairs)>) -> Vec<T> {
        let fitting = hosts.filter(|(_, labels)| self.fits(labels));
        let (drained, open): (Vec<_>, Vec<_>) = fitting.partition(|(_, labels)| is_drained(labels));
        let meant = if open.is_empty() { drained } else { open };
        meant.into_iter().map(|(host, _)| host).collect()
    }
}

fn scalers(application: &str, component: &Component) -> Vec<Scaler> {
    let implicit = [Trait::Spreadscaler(Scaling { instances: 1, ..Scaling::default() })];
    let traits = match (&component.traits, &component.properties) {
        (Some(traits), _) => &traits[..],
        // A capability without a list of traits runs once; an actor does not.
        (None, Properties::Capability(_)) => &implicit,
        (None, Properties::Actor(_)) => &[],
    };
    let scaling = traits.iter().filter_map(|one| match one {
        Trait::Spreadscaler(scaling) => Some((Mode::Spread, scaling)),
        Trait::Daemonscaler(scaling) => Some((Mode::Daemon, scaling)),
        Trait::Linkdef(_) | Trait::Rollout(_) => None,
    });
    scaling.map(|(mode, scaling)| scaler(application, component, mode, scaling)).collect()
}

fn scaler(application: &str, component: &Component, mode: Mode, scaling: &Scaling) -> Scaler {
    let ids = ownership::scaler_ids(application, component, mode);
    let (image, kind) = match &component.properties {
        Properties::Actor(actor) => (&actor.image, ScalerKind::Actor),
        Properties::Capability(provider) => (&provider.image, provider_kind(provider)),
    };
    Scaler {
        id: ids.own,
        old_id: ids.old,
        component: component.name.clone(),
        image: image.clone(),
        kind,
        mode,
        rules: rules(mode, scaling),
        rebalance: scaling.rebalance,
    }
}

fn provider_kind(provider: &Capability) -> ScalerKind {
    ScalerKind::Provider {
        contract: provider.contract.clone(),
        link_name: provider.link_name().to_owned(),
        configuration: provider.config.as_ref().map(super::manifest::Config::text),
    }
}

fn rules(mode: Mode, scaling: &Scaling) -> Vec<Rule> {
    if scaling.spread.is_empty() {
        let count = scaling.instances;
        return vec![Rule { name: DEFAULT_RULE.into(), requirements: BTreeMap::new(), count }];
    }
    let counts = match mode {
        Mode::Spread => counts(scaling.instances, &scaling.spread),
        Mode::Daemon => vec![scaling.instances; scaling.spread.len()],
    };
    let rules = scaling.spread.iter().zip(counts).map(|(spread, count)| Rule {
        name: spread.name.clone(),
        requirements: spread.requirements.clone(),
        count,
    });
    rules.collect()
}

fn links(capabilities: &BTreeMap<&str, &Capability>, component: &Component) -> Vec<Link> {
    // On a capability a link means nothing.
    let Properties::Actor(actor) = &component.properties else { return Vec::new() };
    let links = component.links().filter_map(|link| {
        let provider = capabilities.get(&*link.target)?;
        Some(Link {
            actor_image: actor.image.clone(),
            provider_image: provider.image.clone(),
            contract: provider.contract.clone(),
            link_name: provider.link_name().to_owned(),
            values: link.values.clone(),
        })
    });
    links.collect()
}

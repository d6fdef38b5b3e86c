//! A manifest in its normal form (wadm, section 2): serializing it gives the JSON that is stored,
//! and that `model.get` answers with.
//!
//! Only shapes of wadm 0.10 are in here, so that its clients can read it. Forms of later versions
//! are turned into these when a manifest is decoded, see [`decode`](super::decode). One member may
//! be missing that those clients want, the contract of a capability: a host fills it in when it
//! stores a manifest, as far as it is known by then.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    decode::{Raw, Violations},
    rollout,
};

/// The `apiVersion` of every manifest.
pub const API_VERSION: &str = "core.oam.dev/v1beta1";
/// The `kind` of every manifest.
pub const KIND: &str = "Application";
/// The types of components.
pub const ACTOR: &str = "actor";
pub const CAPABILITY: &str = "capability";
/// The types of traits.
pub const SPREADSCALER: &str = "spreadscaler";
pub const DAEMONSCALER: &str = "daemonscaler";
pub const LINKDEF: &str = "linkdef";
/// A link of later versions, which becomes a [`LINKDEF`].
pub const LINK: &str = "link";
pub const ROLLOUT: &str = "rollout";
/// The annotation with the version of a manifest.
pub const VERSION: &str = "version";
/// The annotation with a sentence about an application.
pub const DESCRIPTION: &str = "description";
/// The annotation with the set of manifests that an application was applied with. An extension of
/// ours.
pub const APPLIED_SET: &str = "lattice.host/applied-set";
/// The annotation with the contracts that a host filled in, by components. An extension of ours.
pub(super) const FILLED_IN: &str = "lattice.host/filled-contracts";
/// The version that is always the newest one, and never a version of its own.
pub const LATEST: &str = "latest";
/// The link name of a capability that has none.
pub const DEFAULT_LINK: &str = "default";
/// The weight of a rule that has none.
pub const DEFAULT_WEIGHT: u32 = 100;

/// An application as somebody wants it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "Raw")]
pub struct Manifest {
    pub api_version: String,
    pub kind: String,
    pub metadata: Metadata,
    pub spec: Specification,
}

/// The name of an application, and remarks.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Metadata {
    pub name: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// The parts of an application, in the order of the manifest.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Specification {
    pub components: Vec<Component>,
}

/// An actor or a provider of an application.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Component {
    pub name: String,
    #[serde(flatten)]
    pub properties: Properties,
    /// `None` and no traits are two things: a capability without a list runs once, one with an
    /// empty list never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traits: Option<Vec<Trait>>,
}

/// The kind of a component, with what is known of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", content = "properties", rename_all = "lowercase")]
pub enum Properties {
    Actor(Actor),
    Capability(Capability),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Actor {
    /// Goes to hosts as it is.
    pub image: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Capability {
    /// Goes to hosts as it is.
    pub image: String,
    /// Manifests of later versions have none; then the claims of the provider say it. Clients of
    /// wadm 0.10 read no manifest without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contract: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Config>,
}

/// The configuration that a provider starts with.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Config {
    /// Goes to the provider as it is.
    Text(String),
    /// Goes to the provider as compact JSON.
    Object(Map<String, Value>),
}

/// A rule about a component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", content = "properties", rename_all = "lowercase")]
pub enum Trait {
    /// So many in the lattice.
    Spreadscaler(Scaling),
    /// So many on each host.
    Daemonscaler(Scaling),
    Linkdef(Linkdef),
    /// How a new image takes over. An extension of ours.
    Rollout(rollout::Policy),
}

/// How many are to run, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Scaling {
    pub instances: u32,
    pub spread: Vec<Spread>,
    /// A host that comes back takes its share again, although others run it by then. An extension
    /// of ours.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rebalance: bool,
}

/// A share of the instances, for hosts with certain labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spread {
    pub name: String,
    /// Labels that a host must have; none fit every host.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub requirements: BTreeMap<String, String>,
    /// [`DEFAULT_WEIGHT`] if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// A link from an actor to a capability of the same manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Linkdef {
    /// The name of the component.
    pub target: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, String>,
}

impl Manifest {
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    /// Returns the version; empty if there is none, as wadm 0.10 stores such a manifest.
    pub fn version(&self) -> &str {
        self.metadata.annotations.get(VERSION).map_or("", String::as_str)
    }

    /// Gives the manifest a version.
    pub fn set_version(&mut self, version: &str) {
        self.metadata.annotations.insert(VERSION.to_owned(), version.to_owned());
    }

    pub fn description(&self) -> Option<&str> {
        self.metadata.annotations.get(DESCRIPTION).map(String::as_str)
    }

    /// Returns the capability of a name.
    pub fn capability(&self, name: &str) -> Option<&Capability> {
        self.capabilities().find(|(of, _)| *of == name).map(|(_, capability)| capability)
    }

    /// Returns the capabilities with their names.
    pub fn capabilities(&self) -> impl Iterator<Item = (&str, &Capability)> {
        self.spec.components.iter().filter_map(|component| match &component.properties {
            Properties::Capability(capability) => Some((&*component.name, capability)),
            Properties::Actor(_) => None,
        })
    }

    /// Fills in the contracts that are missing, as far as they are `known` by the image, and notes
    /// that in an annotation. Returns the components that still have none.
    pub fn fill_contracts(&mut self, known: impl Fn(&str) -> Option<String>) -> Vec<String> {
        let (mut filled, mut missing) = (BTreeMap::new(), Vec::new());
        for component in &mut self.spec.components {
            let Properties::Capability(provider) = &mut component.properties else { continue };
            if provider.contract.is_some() {
                continue;
            }
            provider.contract = known(&provider.image);
            match &provider.contract {
                Some(contract) => _ = filled.insert(component.name.clone(), contract.clone()),
                None => missing.push(component.name.clone()),
            }
        }
        if !filled.is_empty() {
            // A map of texts always encodes.
            let filled = serde_json::to_string(&filled).unwrap_or_default();
            self.metadata.annotations.insert(FILLED_IN.to_owned(), filled);
        }
        missing
    }

    /// Returns the manifest as somebody wrote it: without the contracts that a host filled in. Two
    /// are compared so, since the host may know more now than it did then.
    pub fn as_written(mut self) -> Self {
        let noted = self.metadata.annotations.remove(FILLED_IN).unwrap_or_default();
        let filled: BTreeMap<String, String> = serde_json::from_str(&noted).unwrap_or_default();
        for component in &mut self.spec.components {
            if let Properties::Capability(provider) = &mut component.properties
                && provider.contract.is_some()
                // Somebody may have written another one since.
                && provider.contract.as_ref() == filled.get(&component.name)
            {
                provider.contract = None;
            }
        }
        self
    }

    /// Returns the actors with their names.
    pub fn actors(&self) -> impl Iterator<Item = (&str, &Actor)> {
        self.spec.components.iter().filter_map(|component| match &component.properties {
            Properties::Actor(actor) => Some((&*component.name, actor)),
            Properties::Capability(_) => None,
        })
    }
}

impl TryFrom<Raw> for Manifest {
    type Error = Violations;

    fn try_from(raw: Raw) -> Result<Self, Violations> {
        raw.into_manifest().map(|decoded| decoded.manifest)
    }
}

impl Component {
    /// Returns the links of this component.
    pub fn links(&self) -> impl Iterator<Item = &Linkdef> {
        self.traits.iter().flatten().filter_map(|one| match one {
            Trait::Linkdef(link) => Some(link),
            Trait::Spreadscaler(_) | Trait::Daemonscaler(_) | Trait::Rollout(_) => None,
        })
    }
}

impl Properties {
    /// Returns the type of a component with these properties.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Actor(_) => ACTOR,
            Self::Capability(_) => CAPABILITY,
        }
    }

    pub fn image(&self) -> &str {
        match self {
            Self::Actor(actor) => &actor.image,
            Self::Capability(provider) => &provider.image,
        }
    }
}

impl Capability {
    pub fn link_name(&self) -> &str {
        self.link_name.as_deref().unwrap_or(DEFAULT_LINK)
    }
}

impl Config {
    /// Returns the text that a provider is started with.
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Object(object) => Value::Object(object.clone()).to_string(),
        }
    }
}

impl Trait {
    /// Returns the name of this kind of trait.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Spreadscaler(_) => SPREADSCALER,
            Self::Daemonscaler(_) => DAEMONSCALER,
            Self::Linkdef(_) => LINKDEF,
            Self::Rollout(_) => ROLLOUT,
        }
    }
}

impl Spread {
    pub fn weight(&self) -> u32 {
        self.weight.unwrap_or(DEFAULT_WEIGHT)
    }
}

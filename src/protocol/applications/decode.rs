//! Reads manifests as people write them: YAML or JSON, of wadm 0.10 and, where they can be meant
//! here, of later versions (wadm, sections 2 and 8).
//!
//! Texts become [`Raw`], whose members are typed, so that a number in YAML is read by its text, and
//! an error says the line: the first one, since nothing behind it was read. [`Raw::into_manifest`]
//! then looks at the parts, and [`members`] for names that nobody knows; both tell everything that
//! is wrong at once.
//!
//! Manifests come from others, so what is compared has [`bounds`], and so has what is said of
//! mistakes.
//!
//! Of later versions: `component` is an actor; a `link` becomes a link of the actor, also where it
//! is written at the capability; lists of configuration with their content become one object.
//! Secrets, components of other applications, and configuration that is kept elsewhere are refused.
//! Members with several forms are read by [`forms`].

mod bounds;
mod forms;
mod members;

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{
    manifest::{
        Actor, Capability, Component, Config, DAEMONSCALER, DEFAULT_LINK, LINK, LINKDEF, Linkdef,
        Manifest, Metadata, Properties, ROLLOUT, SPREADSCALER, Scaling, Specification, Spread,
        Trait,
    },
    rollout::{Policy, Step},
};
use crate::serde_null::null_as_default;
use forms::{RawConfig, RawEnd, RawSettings, RawTarget};

/// The lengths that the old manager's schema allows, in characters.
const IMAGE_MAX: usize = 512;
const CONTRACT_MAX: usize = 128;
const LINK_NAME_MAX: usize = 128;
/// Hosts read the number of instances as 16 bits.
const INSTANCES_MAX: u32 = 65535;
/// Mistakes that are told at once, and remarks: nobody reads more.
const TOLD_MAX: usize = 100;
/// Bytes of a name in a sentence about it.
const SHOWN_BYTES_MAX: usize = 256;

/// The form of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Yaml,
    Json,
    /// YAML, or else JSON.
    Either,
}

/// A manifest, and what of its text was left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub manifest: Manifest,
    /// Sentences for the one who wrote it.
    pub warnings: Vec<String>,
}

/// Why a text is no manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("Unable to parse manifest: {0}")]
    Unreadable(String),
    #[error("{0}")]
    Violations(Violations),
}

/// A part of a manifest that cannot be meant so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The place, in the old manager's spelling: `spec/components/ at index: 0`.
    pub path: String,
    pub reason: String,
}

/// Everything that is wrong with a manifest, in the old manager's frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations(pub Vec<Violation>);

impl std::error::Error for Violations {}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Validation Error: ")?;
        for Violation { path, reason } in &self.0 {
            writeln!(f, "Should be able to parse object at: {path} ({reason})")?;
        }
        write!(f, "Please check for missing or incorrect elements")
    }
}

/// Reads a manifest.
pub fn decode(text: &[u8], format: Format) -> Result<Decoded, DecodeError> {
    let raw: Raw = read(text, format).map_err(DecodeError::Unreadable)?;
    let beyond = raw.beyond();
    if !beyond.0.is_empty() {
        return Err(DecodeError::Violations(beyond));
    }
    // The same text, so it can be read again.
    let unknown = read(text, format).map_or_else(|_| Vec::new(), |tree| members::unknown(&tree));
    match raw.into_manifest() {
        Ok(decoded) if unknown.is_empty() => Ok(decoded),
        read => {
            let Violations(mut all) = read.err().unwrap_or_default();
            all.extend(unknown);
            Err(DecodeError::Violations(Violations(all)))
        }
    }
}

fn read<T: DeserializeOwned>(text: &[u8], format: Format) -> Result<T, String> {
    let json = || serde_json::from_slice(text).map_err(|error| error.to_string());
    match format {
        Format::Yaml => yaml(text),
        Format::Json => json(),
        Format::Either => yaml(text).or_else(|as_yaml| {
            json().map_err(|as_json| {
                // Of a text that clearly is JSON, the other complaint only confuses.
                match text.trim_ascii_start().first() {
                    Some(b'{') => format!("as JSON: {as_json}; as YAML: {as_yaml}"),
                    _ => format!("as YAML: {as_yaml}; as JSON: {as_json}"),
                }
            })
        }),
    }
}

fn yaml<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
    serde_saphyr::from_str(text).map_err(|error| {
        // Behind the first line the place is drawn, and messages are sentences.
        let told = error.to_string();
        let first = told.lines().next().unwrap_or_default();
        first.strip_prefix("error: ").unwrap_or(first).to_owned()
    })
}

/// A manifest as it is written. Members that nobody knows are dropped here: what another manager
/// stored is read as well.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Raw {
    api_version: String,
    kind: String,
    metadata: RawMetadata,
    spec: RawSpecification,
}

#[derive(Debug, Deserialize)]
struct RawMetadata {
    name: String,
    #[serde(default, deserialize_with = "null_as_default")]
    annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null_as_default")]
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct RawSpecification {
    components: Vec<RawComponent>,
    #[serde(default, deserialize_with = "null_as_default")]
    policies: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct RawComponent {
    name: String,
    #[serde(rename = "type")]
    kind: RawKind,
    properties: RawProperties,
    traits: Option<Vec<RawTrait>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawKind {
    #[serde(alias = "component")]
    Actor,
    Capability,
}

/// The properties of all kinds of components.
#[derive(Debug, Deserialize)]
struct RawProperties {
    image: Option<String>,
    contract: Option<String>,
    link_name: Option<String>,
    #[serde(default, deserialize_with = "forms::settings")]
    config: Option<RawSettings>,
    id: Option<String>,
    /// A component of another application.
    application: Option<Value>,
    #[serde(default, deserialize_with = "null_as_default")]
    secrets: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct RawTrait {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "null_as_default")]
    properties: RawTraitProperties,
}

/// The properties of all kinds of traits.
#[derive(Debug, Default, Deserialize)]
struct RawTraitProperties {
    #[serde(alias = "replicas")]
    instances: Option<u32>,
    #[serde(default, deserialize_with = "null_as_default")]
    spread: Vec<RawSpread>,
    #[serde(default, deserialize_with = "null_as_default")]
    rebalance: bool,
    #[serde(default, deserialize_with = "forms::target")]
    target: Option<RawTarget>,
    #[serde(default, deserialize_with = "null_as_default")]
    values: BTreeMap<String, String>,
    name: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    source_config: Vec<RawConfig>,
    #[serde(default, deserialize_with = "null_as_default")]
    target_config: Vec<RawConfig>,
    #[serde(default, deserialize_with = "null_as_default")]
    source: RawEnd,
    steps: Option<Vec<Step>>,
    calls: Option<u64>,
    max_errors_percent: Option<u64>,
    max_p99_percent: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct RawSpread {
    name: String,
    #[serde(default, deserialize_with = "null_as_default")]
    requirements: BTreeMap<String, String>,
    weight: Option<u32>,
}

impl Raw {
    /// Makes a manifest of it, or tells everything that is wrong with it.
    pub fn into_manifest(self) -> Result<Decoded, Violations> {
        let mut reader = Reader::default();
        if !self.spec.policies.is_empty() {
            reader.warn("spec.policies are left out: hosts of this protocol have no secrets");
        }
        let mut components = Vec::new();
        for (index, raw) in self.spec.components.into_iter().enumerate() {
            reader.at_component(index, &raw.name);
            components.extend(reader.component(raw));
        }
        reader.links_of_capabilities(&mut components);
        if !reader.violations.is_empty() {
            return Err(Violations(reader.violations));
        }
        let manifest = Manifest {
            api_version: self.api_version,
            kind: self.kind,
            metadata: Metadata {
                // Its names are keys and parts of subjects.
                name: self.metadata.name.trim().to_owned(),
                annotations: self.metadata.annotations,
                labels: self.metadata.labels,
            },
            spec: Specification { components },
        };
        Ok(Decoded { manifest, warnings: reader.warnings })
    }
}

/// Collects what is wrong, and where.
#[derive(Default)]
struct Reader {
    path: String,
    place: String,
    violations: Vec<Violation>,
    warnings: Vec<String>,
    /// Links that are written at a capability: its name, the actor's, and the values.
    backward: Vec<Backward>,
}

struct Backward {
    path: String,
    capability: String,
    actor: String,
    values: BTreeMap<String, String>,
}

impl Reader {
    fn at_component(&mut self, index: usize, name: &str) {
        self.path = format!("spec/components/ at index: {index}");
        self.place = format!("component {:?}", shown(name));
    }

    /// Goes on to a trait of the component at this place.
    fn at_trait(&mut self, place: &str, index: usize, kind: &str) {
        self.place = format!("{place}, trait {} ({})", index + 1, shown(kind));
    }

    fn refuse(&mut self, reason: impl fmt::Display) {
        if self.violations.len() >= TOLD_MAX {
            return;
        }
        let reason = format!("{}: {reason}", self.place);
        self.violations.push(Violation { path: self.path.clone(), reason });
    }

    fn warn(&mut self, warning: impl fmt::Display) {
        if self.warnings.len() >= TOLD_MAX {
            return;
        }
        let place = if self.place.is_empty() { String::new() } else { format!("{}: ", self.place) };
        self.warnings.push(format!("{place}{warning}"));
    }

    fn component(&mut self, raw: RawComponent) -> Option<Component> {
        let RawComponent { name, kind, properties, traits } = raw;
        let place = self.place.clone();
        let properties = self.properties(kind, properties);
        let traits = traits.map(|traits| {
            let mut read = Vec::new();
            for (index, one) in traits.into_iter().enumerate() {
                self.at_trait(&place, index, &one.kind);
                read.extend(self.one_trait(&name, properties.as_ref(), one));
            }
            read
        });
        Some(Component { name, properties: properties?, traits })
    }

    fn properties(&mut self, kind: RawKind, raw: RawProperties) -> Option<Properties> {
        if raw.id.is_some() {
            self.warn("`id` is left out: the key of what runs is in its claims");
        }
        if !raw.secrets.is_empty() {
            self.refuse("`secrets` are not known to hosts of this protocol");
        }
        let Some(image) = raw.image else {
            self.refuse(match raw.application {
                Some(_) => "components of other applications are not known here; give an `image`",
                None => "`image` is missing",
            });
            return None;
        };
        if image.trim().is_empty() {
            self.refuse("`image` is empty");
        }
        self.bounded("image", &image, IMAGE_MAX);
        match kind {
            RawKind::Actor => {
                if raw.config.is_some() {
                    self.warn("`config` of an actor is left out");
                }
                Some(Properties::Actor(Actor { image }))
            }
            RawKind::Capability => {
                self.bounded("contract", raw.contract.as_deref().unwrap_or(""), CONTRACT_MAX);
                self.bounded("link_name", raw.link_name.as_deref().unwrap_or(""), LINK_NAME_MAX);
                let config = self.config(raw.config);
                let (contract, link_name) = (raw.contract, raw.link_name);
                Some(Properties::Capability(Capability { image, contract, link_name, config }))
            }
        }
    }

    fn bounded(&mut self, member: &str, text: &str, chars_max: usize) {
        if text.chars().count() > chars_max {
            self.refuse(format!("`{member}` has more than {chars_max} characters"));
        }
    }

    fn config(&mut self, raw: Option<RawSettings>) -> Option<Config> {
        match raw? {
            RawSettings::Text(text) => Some(Config::Text(text)),
            RawSettings::Object(object) => Some(Config::Object(object)),
            RawSettings::Named(named) => {
                let merged = self.merged(named);
                let members = merged.into_iter().map(|(key, text)| (key, text.into()));
                Some(Config::Object(members.collect::<Map<_, _>>()))
            }
            RawSettings::Other => {
                self.refuse("`config` is a text, an object, or a list of named objects");
                None
            }
        }
    }

    /// Puts named configurations together; later ones win.
    fn merged(&mut self, named: Vec<RawConfig>) -> BTreeMap<String, String> {
        let mut merged = BTreeMap::new();
        for RawConfig { name, properties } in named {
            match properties {
                Some(properties) => merged.extend(properties),
                None => self.refuse(format!(
                    "configuration {name:?} is kept outside the manifest, which is not known here; \
                     write its `properties`"
                )),
            }
        }
        merged
    }

    fn one_trait(
        &mut self,
        component: &str,
        properties: Option<&Properties>,
        raw: RawTrait,
    ) -> Option<Trait> {
        match &*raw.kind {
            SPREADSCALER => self.scaling(raw.properties).map(Trait::Spreadscaler),
            DAEMONSCALER => self.scaling(raw.properties).map(Trait::Daemonscaler),
            LINKDEF => match properties {
                Some(Properties::Capability(_)) => {
                    self.refuse("a linkdef belongs to an actor; its `target` is the capability");
                    None
                }
                _ => self.linkdef(raw.properties).map(Trait::Linkdef),
            },
            ROLLOUT => match properties {
                Some(Properties::Capability(_)) => {
                    self.refuse("a rollout is of an actor; a provider is replaced host by host");
                    None
                }
                _ => self.rollout(raw.properties).map(Trait::Rollout),
            },
            LINK => self.link(component, properties, raw.properties).map(Trait::Linkdef),
            _ => {
                self.refuse(members::no_trait(&raw.kind));
                None
            }
        }
    }

    fn scaling(&mut self, raw: RawTraitProperties) -> Option<Scaling> {
        let Some(instances) = raw.instances else {
            self.refuse("`instances` is missing");
            return None;
        };
        if instances > INSTANCES_MAX {
            self.refuse(format!("`instances` is greater than {INSTANCES_MAX}"));
        }
        let spread = raw.spread.into_iter().map(|raw| Spread {
            name: raw.name,
            requirements: raw.requirements,
            weight: raw.weight,
        });
        Some(Scaling { instances, spread: spread.collect(), rebalance: raw.rebalance })
    }

    fn rollout(&mut self, raw: RawTraitProperties) -> Option<Policy> {
        let usual = Policy::default();
        let policy = Policy {
            steps: raw.steps.unwrap_or(usual.steps),
            calls: raw.calls.unwrap_or(usual.calls),
            max_errors_percent: raw.max_errors_percent.unwrap_or(usual.max_errors_percent),
            max_p99_percent: raw.max_p99_percent.unwrap_or(usual.max_p99_percent),
        };
        match policy.mistake() {
            Some(mistake) => {
                self.refuse(mistake);
                None
            }
            None => Some(policy),
        }
    }

    /// Returns the name of a link's other end, and the configuration of that end.
    fn target(&mut self, target: Option<RawTarget>) -> Option<(String, Vec<RawConfig>)> {
        let Some(RawTarget { name, config, secrets }) = target else {
            self.refuse("`target` is missing");
            return None;
        };
        let config = self.end(RawEnd { config, secrets });
        if name.is_none() {
            self.refuse("`target` has no `name`");
        }
        Some((name?, config))
    }

    fn end(&mut self, end: RawEnd) -> Vec<RawConfig> {
        if !end.secrets.is_empty() {
            self.refuse("`secrets` are not known to hosts of this protocol");
        }
        end.config
    }

    fn linkdef(&mut self, raw: RawTraitProperties) -> Option<Linkdef> {
        let (target, config) = self.target(raw.target)?;
        if !config.is_empty() {
            self.refuse("a linkdef has no `config`; write it as `values`");
        }
        Some(Linkdef { target, values: raw.values })
    }

    /// Reads a link of later versions. Its values are the configuration of the capability's end.
    fn link(
        &mut self,
        component: &str,
        properties: Option<&Properties>,
        raw: RawTraitProperties,
    ) -> Option<Linkdef> {
        let (target, config) = self.target(raw.target)?;
        let config_of_target = [config, raw.target_config].concat();
        let config_of_source = [self.end(raw.source), raw.source_config].concat();
        if raw.name.is_some_and(|name| name != DEFAULT_LINK) {
            self.refuse("a link has no name of its own; set `link_name` of the capability");
        }
        let is_backward = matches!(properties?, Properties::Capability(_));
        let (of_capability, of_actor) = match is_backward {
            true => (config_of_source, config_of_target),
            false => (config_of_target, config_of_source),
        };
        if !of_actor.is_empty() {
            self.warn("the configuration of the actor's end is left out");
        }
        let mut values = self.merged(of_capability);
        values.extend(raw.values);
        if !is_backward {
            return Some(Linkdef { target, values });
        }
        let (path, capability) = (self.path.clone(), component.to_owned());
        self.backward.push(Backward { path, capability, actor: target, values });
        None
    }

    /// Gives actors the links that are written at capabilities.
    fn links_of_capabilities(&mut self, components: &mut [Component]) {
        for Backward { path, capability, actor, values } in std::mem::take(&mut self.backward) {
            let found = components
                .iter_mut()
                .find(|one| one.name == actor && matches!(one.properties, Properties::Actor(_)));
            match found {
                Some(component) => {
                    let link = Linkdef { target: capability, values };
                    component.traits.get_or_insert_default().push(Trait::Linkdef(link));
                }
                None => {
                    self.path = path;
                    self.place = format!("component {capability:?}");
                    self.refuse(format!("its link's target {actor:?} is no actor of the manifest"));
                }
            }
        }
    }
}

/// Returns as much of a name as is said of it.
fn shown(name: &str) -> &str {
    &name[..name.floor_char_boundary(SHOWN_BYTES_MAX)]
}

#[cfg(test)]
mod tests;

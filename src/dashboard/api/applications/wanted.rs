//! Compares what an application is to run with what runs: pure functions of a manifest, of the
//! hosts, and of the last status.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    mask::{HIDDEN, Mask},
    model::{HostView, Snapshot, State as HostState},
};
use lattice_applications::plan::{is_left_over, is_of_rule};
use lattice_client::watch::count;
use lattice_engine::providers::external::masks;
use lattice_protocol::{
    applications::{
        api::{Info, Status, StatusType},
        manifest::{Config, Manifest, Properties, Trait},
        ownership,
        resolved::{Application, Mode, ProviderRun, Rule, Scaler, ScalerKind},
    },
    control::types::{InventoryInstance, InventoryProvider},
    links::Table,
};

/// Hosts that are told of one rule.
const PLACES_MAX: usize = 100;
/// The words before those of a host that could not start something, or refused a link: it quotes
/// values then.
const BEFORE_WORDS: [&str; 2] = [" does not start: ", " is not put: "];

/// How an application, or a part of one, stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    Failed,
    /// A new version takes over step by step.
    Rolling,
    Reconciling,
    Deployed,
    #[default]
    Undeployed,
}

impl From<StatusType> for Standing {
    fn from(kind: StatusType) -> Self {
        match kind {
            StatusType::Undeployed => Self::Undeployed,
            StatusType::Reconciling => Self::Reconciling,
            StatusType::Deployed => Self::Deployed,
            StatusType::Failed => Self::Failed,
        }
    }
}

/// A component of a manifest, with what keeps it running.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Part {
    pub name: String,
    /// `actor` or `provider`.
    pub kind: &'static str,
    pub image: String,
    /// Of a provider.
    pub link_name: Option<String>,
    /// The key that the image led to, once it is known.
    pub id: Option<String>,
    pub state: Standing,
    pub message: String,
    pub scalers: Vec<ScalerView>,
}

/// A scaler: how many are to run by it, and how many do.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ScalerView {
    /// `spread`, for all hosts together, or `daemon`, for each host.
    pub mode: &'static str,
    pub state: Standing,
    pub message: String,
    /// When the next attempt is made after one that failed.
    pub next_at_ms: Option<u64>,
    pub wanted: u64,
    pub running: u64,
    pub rules: Vec<RuleView>,
}

/// A rule of a scaler, with where its instances are.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct RuleView {
    pub name: String,
    /// Labels that a host must have.
    pub requirements: BTreeMap<String, String>,
    pub wanted: u64,
    pub running: u64,
    /// Hosts that the rule means: they have the labels, and are not drained unless all others are.
    pub fitting: usize,
    /// Where it runs, and of a daemonscaler where it is to.
    pub places: Vec<PlaceView>,
    /// Places that are left out here.
    pub more: usize,
}

/// A host that something runs on, or is to.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct PlaceView {
    pub host_id: String,
    pub host_name: String,
    pub host_state: HostState,
    /// The rule means the host.
    pub fits: bool,
    /// Of a daemonscaler.
    pub wanted: Option<u64>,
    pub running: u64,
    /// It runs for another application as well, or was started by hand (an empty text): it counts,
    /// and is left alone.
    pub shared_with: Option<String>,
}

/// Something that runs for the application, and that its manifest does not ask for any more.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Leftover {
    /// `actor` or `provider`.
    pub kind: &'static str,
    pub id: String,
    pub image: String,
    pub host_id: String,
    pub host_name: String,
    pub running: u64,
}

/// A link that the manifest declares.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct DeclaredLink {
    pub component: String,
    pub target: String,
    pub contract_id: Option<String>,
    pub link_name: String,
    /// Null for secrets, and for all without a login.
    pub values: BTreeMap<String, Option<String>>,
    pub state: Standing,
    pub message: String,
}

impl Mask for DeclaredLink {
    fn mask(&mut self) {
        self.values.values_mut().for_each(|value| *value = None);
        self.message = without_words(&self.message);
    }
}

impl Mask for Part {
    fn mask(&mut self) {
        self.message = without_words(&self.message);
        self.scalers.iter_mut().for_each(|one| one.message = without_words(&one.message));
    }
}

/// Returns a sentence of ours without what a host said.
pub fn without_words(message: &str) -> String {
    let ends = BEFORE_WORDS.iter().filter_map(|words| Some(message.find(words)? + words.len()));
    match ends.min() {
        Some(end) => format!("{}{HIDDEN}", &message[..end]),
        None => message.to_owned(),
    }
}

/// Returns a manifest as it is shown: without values that are secrets, or, for somebody who has not
/// logged in, without any.
pub fn shown(manifest: &Manifest, is_operator: bool) -> Manifest {
    let mut shown = manifest.clone();
    for component in &mut shown.spec.components {
        if let Properties::Capability(capability) = &mut component.properties
            && let Some(config) = &mut capability.config
        {
            *config = shown_config(config, is_operator);
        }
        for one in component.traits.iter_mut().flatten() {
            if let Trait::Linkdef(link) = one {
                link.values = shown_values(&link.values, is_operator);
            }
        }
    }
    shown
}

fn shown_values(values: &BTreeMap<String, String>, is_operator: bool) -> BTreeMap<String, String> {
    if is_operator {
        return masks::shown(values);
    }
    values.keys().map(|key| (key.clone(), HIDDEN.to_owned())).collect()
}

/// Nothing tells what of a provider's configuration is a secret but the names in it, however deep;
/// a text has none, so all of it may be one.
fn shown_config(config: &Config, is_operator: bool) -> Config {
    match config {
        _ if !is_operator => Config::Text(HIDDEN.to_owned()),
        Config::Text(_) => Config::Text(masks::MASK.to_owned()),
        Config::Object(object) => {
            let mut object = object.clone();
            object.iter_mut().for_each(|(name, value)| mask_member(name, value));
            Config::Object(object)
        }
    }
}

fn mask_member(name: &str, value: &mut Value) {
    match value {
        Value::String(text) => {
            let masked = masks::shown(&BTreeMap::from([(name.to_owned(), text.clone())]));
            *text = masked.into_values().next().unwrap_or_default();
        }
        // The depth of what serde_json reads is bounded.
        Value::Array(items) => items.iter_mut().for_each(|item| mask_member(name, item)),
        Value::Object(members) => members.iter_mut().for_each(|(name, one)| mask_member(name, one)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The lattice that an application is compared with.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    pub snapshot: &'a Snapshot,
    pub table: &'a Table,
    pub status: &'a Status,
}

/// Returns the components of what is to run, each with what does.
pub fn parts(manifest: &Manifest, application: &Application, seen: Seen<'_>) -> Vec<Part> {
    let parts = manifest.spec.components.iter().map(|component| {
        let image = component.properties.image();
        let (kind, link_name) = match &component.properties {
            Properties::Actor(_) => ("actor", None),
            Properties::Capability(provider) => ("provider", Some(provider.link_name().to_owned())),
        };
        let scalers =
            application.scalers.iter().filter(|scaler| scaler.component == component.name);
        let told = seen.status.components.iter().find(|told| told.name == component.name);
        let Info { kind: state, message } =
            told.map(|told| told.status.clone()).unwrap_or_default();
        Part {
            name: component.name.clone(),
            kind,
            image: image.to_owned(),
            link_name,
            id: seen.table.public_key_of(image).map(|key| key.to_string()),
            state: state.into(),
            message,
            scalers: scalers.map(|scaler| scaler_view(application, scaler, seen)).collect(),
        }
    });
    parts.collect()
}

fn scaler_view(application: &Application, scaler: &Scaler, seen: Seen<'_>) -> ScalerView {
    let rules: Vec<RuleView> =
        scaler.rules.iter().map(|rule| rule_view(application, scaler, rule, seen)).collect();
    let told = seen.status.scalers.iter().find(|told| told.id == scaler.id);
    let Info { kind, message } = told.map(|told| told.status.clone()).unwrap_or_default();
    ScalerView {
        mode: match scaler.mode {
            Mode::Spread => "spread",
            Mode::Daemon => "daemon",
        },
        state: kind.into(),
        message,
        next_at_ms: told.and_then(|told| told.next_at),
        wanted: rules.iter().map(|rule| rule.wanted).sum(),
        running: rules.iter().map(|rule| rule.running).sum(),
        rules,
    }
}

fn rule_view(application: &Application, scaler: &Scaler, rule: &Rule, seen: Seen<'_>) -> RuleView {
    let mut view = RuleView {
        name: rule.name.clone(),
        requirements: rule.requirements.clone(),
        wanted: 0,
        running: 0,
        fitting: 0,
        places: Vec::new(),
        more: 0,
    };
    // A host runs a provider once, whatever the number.
    let per_host = match scaler.kind {
        ScalerKind::Actor => u64::from(rule.count),
        ScalerKind::Provider { .. } => u64::from(rule.count.min(1)),
    };
    let present = || seen.snapshot.present();
    let eligible: BTreeSet<&str> =
        rule.eligible(present().map(|host| (&*host.id, &host.labels))).into_iter().collect();
    for host in present() {
        let fits = eligible.contains(&*host.id);
        let (running, shared_with) = match &scaler.kind {
            ScalerKind::Actor => (instances(application, scaler, rule, host), None),
            ScalerKind::Provider { .. } => {
                provider(application, scaler, (rule, fits), host, seen.table)
            }
        };
        let wanted = (scaler.mode == Mode::Daemon).then_some(if fits { per_host } else { 0 });
        view.fitting += usize::from(fits);
        view.running += running;
        view.wanted += wanted.unwrap_or_default();
        if running == 0 && wanted.unwrap_or_default() == 0 {
            continue;
        }
        if view.places.len() >= PLACES_MAX {
            view.more += 1;
            continue;
        }
        view.places.push(PlaceView {
            host_id: host.id.to_string(),
            host_name: host.name.clone(),
            host_state: host.state,
            fits,
            wanted,
            running,
            shared_with,
        });
    }
    if scaler.mode == Mode::Spread {
        view.wanted = u64::from(rule.count);
    }
    view.places.sort_by(|a, b| a.host_name.cmp(&b.host_name));
    view
}

/// Returns how many instances run by a rule on a host.
fn instances(application: &Application, scaler: &Scaler, rule: &Rule, host: &HostView) -> u64 {
    let groups = host.inventory.actors.iter().flat_map(|actor| &actor.instances);
    let own = groups.filter(|group| is_of_rule(application, scaler, rule, &group.annotations));
    own.map(count).sum()
}

/// Returns whether a provider runs on a host, by a rule or for somebody else; and then for whom.
fn provider(
    application: &Application,
    scaler: &Scaler,
    (rule, fits): (&Rule, bool),
    host: &HostView,
    table: &Table,
) -> (u64, Option<String>) {
    let runs = &host.inventory.providers;
    if runs.iter().any(|run| is_of_rule(application, scaler, rule, &run.annotations)) {
        return (1, None);
    }
    let key = table.public_key_of(&scaler.image).map(|key| &**key);
    let is_foreign = |run: &&InventoryProvider| {
        let InventoryProvider { id, image_ref, link_name, .. } = run;
        ownership::owner(&run.annotations) != Some(&*application.name)
            && scaler.is_served_by(ProviderRun { key: id, image: image_ref, link_name }, key)
    };
    match runs.iter().find(is_foreign).filter(|_| fits) {
        Some(run) => (1, Some(ownership::owner(&run.annotations).unwrap_or_default().to_owned())),
        None => (0, None),
    }
}

/// Returns what runs for an application, and is not asked for by it.
pub fn leftovers(application: &Application, snapshot: &Snapshot) -> Vec<Leftover> {
    let mut all = Vec::new();
    for host in snapshot.present() {
        let (host_id, host_name) = (host.id.to_string(), host.name.clone());
        let of = |kind, id: &str, image: &str, running| Leftover {
            kind,
            id: id.to_owned(),
            image: image.to_owned(),
            host_id: host_id.clone(),
            host_name: host_name.clone(),
            running,
        };
        for actor in &host.inventory.actors {
            let is_left =
                |group: &&InventoryInstance| is_left_over(application, &group.annotations);
            let running: u64 = actor.instances.iter().filter(is_left).map(count).sum();
            if running > 0 {
                all.push(of("actor", &actor.id, &actor.image_ref, running));
            }
        }
        let runs = host.inventory.providers.iter();
        let runs = runs.filter(|run| is_left_over(application, &run.annotations));
        all.extend(runs.map(|run| of("provider", &run.id, &run.image_ref, 1)));
    }
    all
}

/// Returns the links that a manifest declares, with how each is.
pub fn links(manifest: &Manifest, status: &Status) -> Vec<DeclaredLink> {
    let components = manifest.spec.components.iter();
    let declared = components.flat_map(|component| {
        component.links().filter_map(move |link| {
            let target = manifest.capability(&link.target)?;
            let info = status_of_link(status, component.properties.image(), &target.image);
            let masked = masks::shown(&link.values);
            let values = link.values.iter().map(|(name, value)| {
                (name.clone(), masked.get(name).filter(|shown| *shown == value).cloned())
            });
            Some(DeclaredLink {
                component: component.name.clone(),
                target: link.target.clone(),
                contract_id: target.contract.clone(),
                link_name: target.link_name().to_owned(),
                values: values.collect(),
                state: info.kind.into(),
                message: info.message,
            })
        })
    });
    declared.collect()
}

fn status_of_link(status: &Status, actor: &str, provider: &str) -> Info {
    let name = format!("{actor} -> {provider}");
    let told = status.scalers.iter().find(|told| told.kind == "LinkScaler" && told.name == name);
    told.map(|told| told.status.clone()).unwrap_or_default()
}

/// Returns how many are to run of an application, and how many do.
pub fn sums(application: &Application, seen: Seen<'_>) -> (u64, u64) {
    let mut sums = (0, 0);
    for scaler in &application.scalers {
        for rule in &scaler.rules {
            let view = rule_view(application, scaler, rule, seen);
            sums = (sums.0 + view.wanted, sums.1 + view.running);
        }
    }
    sums
}

#[cfg(test)]
mod tests;

//! Refuses manifests that cannot be meant so (wadm, section 2.5), with texts whose beginnings are
//! those of the old manager.
//!
//! [`validate`] knows the manifest only. The rules of a daemonscaler must not overlap: a host that
//! two of them fit would run twice what the scaler says. Rules of a spreadscaler may, since each
//! rule has a share of its own.
//!
//! [`unmet`] compares with the hosts that are there. What it finds is no mistake of the manifest:
//! hosts may come later. So it is told beside the success of a put, and refuses nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    manifest::{
        API_VERSION, APPLIED_SET, Component, FILLED_IN, KIND, LATEST, Manifest, Properties,
        Scaling, Spread, Trait, VERSION,
    },
    resolved::{Application, Mode, Rule, Scaler, ScalerKind},
};
use crate::builtin::{self, UnknownBuiltin};

/// Bytes of a name; it is part of keys and subjects.
const NAME_BYTES_MAX: usize = 256;
/// Annotations of a manifest, and labels.
const REMARKS_MAX: usize = 64;
/// Bytes of one of them, its name included.
const REMARK_BYTES_MAX: usize = 8 * 1024;
/// Hosts that a warning names.
const NAMED_HOSTS_MAX: usize = 5;

/// Why a manifest is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("apiVersion is {0:?}, and it must be {API_VERSION:?}")]
    ApiVersion(String),
    #[error("kind is {0:?}, and it must be {KIND:?}")]
    Kind(String),
    #[error("A manifest with a version latest is not allowed in wadm")]
    Latest,
    #[error(
        "Manifest name {0} contains invalid characters. Use up to {NAME_BYTES_MAX} ASCII letters, digits, dashes and underscores"
    )]
    Name(String),
    #[error("the manifest has {found} {what}, and it may have {REMARKS_MAX}")]
    Remarks { what: &'static str, found: usize },
    #[error(
        "one of the {what} of the manifest has {found} bytes, and it may have {REMARK_BYTES_MAX}; keep long texts elsewhere"
    )]
    LongRemark { what: &'static str, found: usize },
    #[error("the version of the manifest has {0} bytes, and it may have {NAME_BYTES_MAX}")]
    LongVersion(usize),
    #[error("Duplicate component name in manifest: {0}")]
    DuplicateComponent(String),
    #[error("Duplicate image reference {image} to link name {link_name} in manifest")]
    DuplicateProvider { image: String, link_name: String },
    #[error("Duplicate image reference in manifest: {0}")]
    DuplicateActor(String),
    #[error("Duplicate target {target} for component {component} linkdef trait in manifest")]
    DuplicateTarget { component: String, target: String },
    #[error("The following capability component(s) are missing from the manifest:  {0:?}")]
    MissingTargets(BTreeSet<String>),
    #[error(
        "component {component:?}: its linkdef's target {target:?} is an actor, and must be a capability"
    )]
    TargetIsActor { component: String, target: String },
    #[error("component {component:?}: {source}")]
    UnknownBuiltin { component: String, source: UnknownBuiltin },
    #[error(
        "component {component:?}: {image} fulfils the contract {fulfils}, not {contract:?}; write {fulfils}, or leave the contract out"
    )]
    Contract { component: String, image: String, fulfils: &'static str, contract: String },
    #[error(
        "component {component:?} has two traits {kind}: they would act on the same instances; put their rules into one"
    )]
    TwoScalers { component: String, kind: &'static str },
    #[error("component {component:?}: two rules of its {kind} have the name {rule:?}")]
    DuplicateRule { component: String, kind: &'static str, rule: String },
    #[error("component {component:?}: all weights of its {kind} are 0, so no rule has a share")]
    NoWeight { component: String, kind: &'static str },
    #[error(
        "component {component:?}: the rules {first:?} and {second:?} of its daemonscaler overlap, a host with {labels} would run \
         its instances twice; give one of them a requirement that the other's hosts do not meet"
    )]
    Overlap { component: String, first: String, second: String, labels: String },
}

/// Refuses a manifest that cannot be meant so.
pub fn validate(manifest: &Manifest) -> Result<(), Invalid> {
    if manifest.api_version != API_VERSION {
        return Err(Invalid::ApiVersion(manifest.api_version.clone()));
    }
    if manifest.kind != KIND {
        return Err(Invalid::Kind(manifest.kind.clone()));
    }
    if manifest.version() == LATEST {
        return Err(Invalid::Latest);
    }
    if !is_name(manifest.name()) {
        return Err(Invalid::Name(manifest.name().to_owned()));
    }
    check_duplicates(manifest)?;
    check_builtins(manifest)?;
    check_links(manifest)?;
    manifest.spec.components.iter().try_for_each(check_scaling)
}

/// Refuses a manifest whose remarks are too large: they are part of what is told of the application.
/// This is for new manifests; one that is stored with them stays of use.
pub fn check_remarks(manifest: &Manifest) -> Result<(), Invalid> {
    let metadata = &manifest.metadata;
    for (what, remarks) in [("annotations", &metadata.annotations), ("labels", &metadata.labels)] {
        // That of a host is as large as the components are many.
        let written = || remarks.iter().filter(|(key, _)| *key != FILLED_IN);
        // `apply` adds these after it has checked a file, which must not be refused later.
        let is_added = |key: &str| key == APPLIED_SET || key == VERSION;
        let found = written().filter(|(key, _)| !is_added(key)).count();
        if found > REMARKS_MAX {
            return Err(Invalid::Remarks { what, found });
        }
        let longest = written().map(|(key, value)| key.len() + value.len()).max();
        if let Some(found) = longest.filter(|found| *found > REMARK_BYTES_MAX) {
            return Err(Invalid::LongRemark { what, found });
        }
    }
    let version = metadata.annotations.get(VERSION).map_or(0, String::len);
    if version > NAME_BYTES_MAX { Err(Invalid::LongVersion(version)) } else { Ok(()) }
}

/// Says whether an application may have this name. The old manager also took letters of other
/// alphabets, which no key of a bucket can have.
pub fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Returns an image reference without its tag and digest; a registry's port is no tag.
pub fn untagged(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    let name_from = image.rfind('/').map_or(0, |slash| slash + 1);
    match image[name_from..].find(':') {
        Some(colon) => &image[..name_from + colon],
        None => image,
    }
}

fn check_duplicates(manifest: &Manifest) -> Result<(), Invalid> {
    let mut names = BTreeSet::new();
    for component in &manifest.spec.components {
        if !names.insert(&component.name) {
            return Err(Invalid::DuplicateComponent(component.name.clone()));
        }
    }
    let mut providers = BTreeSet::new();
    for (_, provider) in manifest.capabilities() {
        if !providers.insert((untagged(&provider.image), provider.link_name())) {
            return Err(Invalid::DuplicateProvider {
                image: provider.image.clone(),
                link_name: provider.link_name().to_owned(),
            });
        }
    }
    let mut actors = BTreeSet::new();
    for (_, actor) in manifest.actors() {
        if !actors.insert(&actor.image) {
            return Err(Invalid::DuplicateActor(actor.image.clone()));
        }
    }
    Ok(())
}

/// Refuses built-in providers that there are not, and contracts that they do not fulfil: their
/// links would lead nowhere.
fn check_builtins(manifest: &Manifest) -> Result<(), Invalid> {
    for (component, provider) in manifest.capabilities() {
        let Some(found) = builtin::find(&provider.image) else { continue };
        let component = component.to_owned();
        let known = match found {
            Ok(known) => known,
            Err(source) => return Err(Invalid::UnknownBuiltin { component, source }),
        };
        if let Some(contract) = provider.contract.clone().filter(|of| of != known.contract_id) {
            let (image, fulfils) = (provider.image.clone(), known.contract_id);
            return Err(Invalid::Contract { component, image, fulfils, contract });
        }
    }
    Ok(())
}

fn check_links(manifest: &Manifest) -> Result<(), Invalid> {
    let components = manifest.spec.components.iter();
    let components: BTreeMap<&str, &Properties> =
        components.map(|one| (&*one.name, &one.properties)).collect();
    let mut missing = BTreeSet::new();
    for component in &manifest.spec.components {
        let mut targets = BTreeSet::new();
        for link in component.links() {
            let (component, target) = (component.name.clone(), link.target.clone());
            if !targets.insert(&link.target) {
                return Err(Invalid::DuplicateTarget { component, target });
            }
            match components.get(&*link.target) {
                Some(Properties::Capability(_)) => {}
                Some(Properties::Actor(_)) => {
                    return Err(Invalid::TargetIsActor { component, target });
                }
                None => _ = missing.insert(target),
            }
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(Invalid::MissingTargets(missing)) }
}

fn check_scaling(component: &Component) -> Result<(), Invalid> {
    let name = || component.name.clone();
    let mut kinds = BTreeSet::new();
    for one in component.traits.iter().flatten() {
        let (Trait::Spreadscaler(scaling) | Trait::Daemonscaler(scaling)) = one else { continue };
        let kind = one.kind();
        if !kinds.insert(kind) {
            return Err(Invalid::TwoScalers { component: name(), kind });
        }
        let mut rules = BTreeSet::new();
        if let Some(twice) = scaling.spread.iter().find(|rule| !rules.insert(&rule.name)) {
            let rule = twice.name.clone();
            return Err(Invalid::DuplicateRule { component: name(), kind, rule });
        }
        match one {
            Trait::Daemonscaler(_) => check_overlap(component, scaling)?,
            _ if !scaling.spread.is_empty()
                && scaling.spread.iter().all(|rule| rule.weight() == 0) =>
            {
                return Err(Invalid::NoWeight { component: name(), kind });
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_overlap(component: &Component, scaling: &Scaling) -> Result<(), Invalid> {
    for (index, first) in scaling.spread.iter().enumerate() {
        for second in &scaling.spread[index + 1..] {
            if overlap(first, second) {
                let mut labels = first.requirements.clone();
                labels.extend(second.requirements.clone());
                return Err(Invalid::Overlap {
                    component: component.name.clone(),
                    first: first.name.clone(),
                    second: second.name.clone(),
                    labels: shown_labels(&labels),
                });
            }
        }
    }
    Ok(())
}

/// Says whether a host can fit both: no label would need two values.
fn overlap(first: &Spread, second: &Spread) -> bool {
    first
        .requirements
        .iter()
        .all(|(key, value)| second.requirements.get(key).is_none_or(|other| other == value))
}

/// Returns what of an application cannot run on these hosts, by their ids and labels, as sentences.
/// Nothing is said where no host is known.
pub fn unmet(
    application: &Application,
    hosts: &BTreeMap<String, BTreeMap<String, String>>,
) -> Vec<String> {
    if hosts.is_empty() {
        return Vec::new();
    }
    let mut warnings = Vec::new();
    // By what they ask for, so that hosts are named once.
    let mut unfit: BTreeMap<&BTreeMap<String, String>, Vec<String>> = BTreeMap::new();
    for scaler in &application.scalers {
        for rule in scaler.rules.iter().filter(|rule| rule.count > 0) {
            match rule.eligible(hosts.iter()).len() {
                0 => {
                    let named = format!("{:?} of {:?}", rule.name, scaler.component);
                    unfit.entry(&rule.requirements).or_default().push(named);
                }
                fitting => warnings.extend(too_few(scaler, rule, fitting)),
            }
        }
    }
    warnings.extend(unfit.into_iter().map(|(asked, rules)| no_host(asked, &rules, hosts)));
    warnings
}

/// Says that no host has what rules ask for, and what hosts have instead.
fn no_host(
    asked: &BTreeMap<String, String>,
    rules: &[String],
    hosts: &BTreeMap<String, BTreeMap<String, String>>,
) -> String {
    let named = hosts.iter().take(NAMED_HOSTS_MAX).map(|(id, labels)| {
        let same = asked.keys().filter_map(|key| labels.get_key_value(key));
        let has = same.map(|(key, value)| (key.clone(), value.clone())).collect();
        format!("{id} has {}", shown_labels(&has))
    });
    let named: Vec<String> = named.collect();
    let more = if hosts.len() > named.len() { ", …" } else { "" };
    format!(
        "no host of now has {}, which these rules ask for: {} ({}{more})",
        shown_labels(asked),
        rules.join(", "),
        named.join(", ")
    )
}

/// Says that fewer hosts fit than a rule wants providers, which run once on a host.
fn too_few(scaler: &Scaler, rule: &Rule, fitting: usize) -> Option<String> {
    let is_provider = matches!(scaler.kind, ScalerKind::Provider { .. });
    let is_too_few = is_provider && scaler.mode == Mode::Spread && fitting < rule.count as usize;
    is_too_few.then(|| {
        format!(
            "rule {:?} of component {:?} asks for {} providers, one on a host, and {fitting} of the hosts of now fit it",
            rule.name, scaler.component, rule.count
        )
    })
}

fn shown_labels(labels: &BTreeMap<String, String>) -> String {
    if labels.is_empty() {
        return "no such label".to_owned();
    }
    let shown: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    shown.join(" and ")
}

#[cfg(test)]
mod tests;

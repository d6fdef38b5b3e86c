//! Finds members of a manifest that nobody reads. A typing error in one of them means something
//! else without a word: a rule with `requirement` instead of `requirements` fits every host.
//!
//! Of the properties of a trait and of named configuration every member is known, so any other is
//! refused. Elsewhere a member may be of another tool, and is refused only if it looks like a known
//! one that is missing.

use serde_json::{Map, Value};

use super::{TOLD_MAX, Violation, shown};
use crate::applications::manifest::{
    CAPABILITY, DAEMONSCALER, LINK, LINKDEF, ROLLOUT, SPREADSCALER,
};

const SCALER: &[&str] = &["instances", "replicas", "spread", "rebalance"];
const SPREAD: &[&str] = &["name", "requirements", "weight"];
const STEP: &[&str] = &["percent", "requirements"];
/// The ends of a link, where they are objects.
const ENDS: [(&str, &[&str]); 2] =
    [("target", &["name", "config", "secrets"]), ("source", &["config", "secrets"])];
const CONFIG: &[&str] = &["name", "properties"];

/// The types of traits with the members of their properties.
const TRAITS: [(&str, &[&str]); 5] = [
    (SPREADSCALER, SCALER),
    (DAEMONSCALER, SCALER),
    (LINKDEF, &["target", "values"]),
    (
        LINK,
        &[
            "target",
            "values",
            "name",
            "namespace",
            "package",
            "interfaces",
            "source",
            "source_config",
            "target_config",
        ],
    ),
    (ROLLOUT, &["steps", "calls", "max_errors_percent", "max_p99_percent"]),
];

const TOP: &[&str] = &["apiVersion", "kind", "metadata", "spec"];
const METADATA: &[&str] = &["name", "annotations", "labels"];
const SPECIFICATION: &[&str] = &["components", "policies"];
const COMPONENT: &[&str] = &["name", "type", "properties", "traits"];
const PROPERTIES: &[&str] =
    &["image", "contract", "link_name", "config", "id", "application", "secrets"];
const TRAIT: &[&str] = &["type", "properties"];
/// Bytes of the longest word that may be a typing error of a known one.
const WORD_BYTES_MAX: usize = 64;

/// Says whether members that look like no other are refused.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    Refused,
    LeftAlone,
}

/// Returns a violation for each member that is to be refused.
pub(super) fn unknown(manifest: &Value) -> Vec<Violation> {
    let mut found = Search { path: "/".into(), violations: Vec::new() };
    found.look("", manifest, TOP, Others::LeftAlone);
    found.look("metadata", &manifest["metadata"], METADATA, Others::LeftAlone);
    found.look("spec", &manifest["spec"], SPECIFICATION, Others::LeftAlone);
    for (index, component) in items(&manifest["spec"]["components"]).enumerate() {
        found.path = format!("spec/components/ at index: {index}");
        let place = format!("component {:?}", shown(text(component, "name")));
        found.look(&place, component, COMPONENT, Others::LeftAlone);
        found.look(&place, &component["properties"], PROPERTIES, Others::LeftAlone);
        // That of an actor is left out.
        if text(component, "type") == CAPABILITY {
            found.configs(&place, &component["properties"]["config"]);
        }
        for (index, one) in items(&component["traits"]).enumerate() {
            let place = format!("{place}, trait {} ({})", index + 1, shown(text(one, "type")));
            found.one_trait(&place, one);
        }
    }
    found.violations
}

/// Says that a type of traits is not known.
pub(super) fn no_trait(kind: &str) -> String {
    let all = TRAITS.map(|(kind, _)| kind);
    match closest(kind, all.into_iter()) {
        Some(meant) => format!("this type is not known; did you mean `{meant}`?"),
        None => format!("this type is none of {}", all.join(", ")),
    }
}

struct Search {
    path: String,
    violations: Vec<Violation>,
}

impl Search {
    fn one_trait(&mut self, place: &str, one: &Value) {
        self.look(place, one, TRAIT, Others::LeftAlone);
        let kind = text(one, "type");
        // Another type is refused as a whole.
        let Some((_, known)) = TRAITS.iter().find(|(of, _)| *of == kind) else { return };
        let properties = &one["properties"];
        self.look(place, properties, known, Others::Refused);
        for rule in items(&properties["spread"]) {
            let place = format!("{place}, rule {:?}", shown(text(rule, "name")));
            self.look(&place, rule, SPREAD, Others::Refused);
        }
        for (index, step) in items(&properties["steps"]).enumerate() {
            self.look(&format!("{place}, step {}", index + 1), step, STEP, Others::Refused);
        }
        for (end, known) in ENDS {
            let place = format!("{place}, {end}");
            self.look(&place, &properties[end], known, Others::Refused);
            self.configs(&place, &properties[end]["config"]);
        }
        for list in ["source_config", "target_config"] {
            self.configs(&format!("{place}, {list}"), &properties[list]);
        }
    }

    /// Looks at a list of named configurations; other forms have no names.
    fn configs(&mut self, place: &str, list: &Value) {
        for config in items(list) {
            let place = format!("{place}, configuration {:?}", shown(text(config, "name")));
            self.look(&place, config, CONFIG, Others::Refused);
        }
    }

    fn look(&mut self, place: &str, object: &Value, known: &[&str], others: Others) {
        let Value::Object(members) = object else { return };
        for member in members.keys().filter(|member| !known.contains(&member.as_str())) {
            if self.violations.len() >= TOLD_MAX {
                return;
            }
            let Some(reason) = reason(member, members, known, others) else { continue };
            let place = if place.is_empty() { String::new() } else { format!("{place}: ") };
            let reason = format!("{place}{reason}");
            self.violations.push(Violation { path: self.path.clone(), reason });
        }
    }
}

/// Returns why an unknown member is refused, if it is.
fn reason(
    member: &str,
    members: &Map<String, Value>,
    known: &[&str],
    others: Others,
) -> Option<String> {
    let missing = known.iter().copied().filter(|known| !members.contains_key(*known));
    match closest(member, missing) {
        Some(meant) => Some(format!("`{member}` is not known; did you mean `{meant}`?")),
        None if others == Others::Refused => {
            Some(format!("`{member}` is not known here; there are {}", known.join(", ")))
        }
        None => None,
    }
}

/// Returns the word that another one is a typing error of: one in three letters may differ.
fn closest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    let word = word.to_lowercase().replace('-', "_");
    let (distance, found) = known
        .map(|known| (strsim::osa_distance(&word, &known.to_lowercase()), known))
        .min_by_key(|(distance, _)| *distance)?;
    (distance * 3 <= found.len()).then_some(found)
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

use super::*;
use crate::{
    applications::decode::{DecodeError, Format, decode},
    control::types::DRAINED_LABEL,
};

fn manifest(components: &str) -> String {
    format!(
        "apiVersion: core.oam.dev/v1beta1\nkind: Application\nmetadata:\n  name: shop\n  annotations: {{version: v1}}\nspec:\n  \
         components:\n{components}"
    )
}

fn refusal(text: &str) -> String {
    match decode(text.as_bytes(), Format::Either) {
        Ok(decoded) => validate(&decoded.manifest).expect_err(text).to_string(),
        Err(error) => error.to_string(),
    }
}

const WEB: &str = "  - {name: web, type: capability, properties: {image: r/http:1, contract: c}}\n";

#[test]
fn what_cannot_be_meant_is_refused_by_name() {
    let actor = |traits: &str| {
        manifest(&format!(
            "  - name: front\n    type: actor\n    properties: {{image: r/front:1}}\n    traits:\n{traits}{WEB}"
        ))
    };
    let scaler = |kind: &str, properties: &str| {
        format!("    - {{type: {kind}, properties: {properties}}}\n")
    };
    let two = |first: &str, second: &str| manifest(&format!("  - {first}\n  - {second}\n"));
    for (text, part) in [
        (manifest(WEB).replace("v1beta1", "v1"), "apiVersion is \"core.oam.dev/v1\""),
        (manifest(WEB).replace("Application", "Deployment"), "kind is \"Deployment\""),
        (manifest(WEB).replace("version: v1", "version: latest"), "version latest is not allowed"),
        (manifest(WEB).replace("shop", "sh.op"), "Manifest name sh.op contains invalid characters"),
        (manifest(WEB).replace("shop", "größe"), "contains invalid characters"),
        (manifest(&WEB.repeat(2)), "Duplicate component name in manifest: web"),
        (
            two(
                "{name: a, type: capability, properties: {image: 'r:5000/http:1', contract: c}}",
                "{name: b, type: capability, properties: {image: 'r:5000/http:2', contract: c, link_name: default}}",
            ),
            "Duplicate image reference r:5000/http:2 to link name default in manifest",
        ),
        (
            two(
                "{name: a, type: actor, properties: {image: 'r/a:1'}}",
                "{name: b, type: component, properties: {image: 'r/a:1'}}",
            ),
            "Duplicate image reference in manifest: r/a:1",
        ),
        (
            actor(&scaler("linkdef", "{target: web}").repeat(2)),
            "Duplicate target web for component front linkdef trait in manifest",
        ),
        (
            actor(&scaler("linkdef", "{target: wep}")),
            "The following capability component(s) are missing from the manifest:  {\"wep\"}",
        ),
        (actor(&scaler("linkdef", "{target: front}")), "must be a capability"),
        (
            manifest(&WEB.replace(
                "r/http:1, contract: c",
                "'builtin://httpserver', contract: 'wasmcloud:httpsrver'",
            )),
            "builtin://httpserver fulfils the contract wasmcloud:httpserver, not \"wasmcloud:httpsrver\"",
        ),
        (manifest(&WEB.replace("r/http:1", "'builtin://htp'")), "there is no built-in provider"),
        (actor(&scaler("spreadscaler", "{instances: 1}").repeat(2)), "two traits spreadscaler"),
        (
            actor(&scaler(
                "spreadscaler",
                "{instances: 1, spread: [{name: a, weight: 0}, {name: b, weight: 0}]}",
            )),
            "all weights of its spreadscaler are 0",
        ),
        (
            actor(&scaler("spreadscaler", "{instances: 1, spread: [{name: a}, {name: a}]}")),
            "have the name \"a\"",
        ),
        (
            actor(&scaler(
                "daemonscaler",
                "{instances: 1, spread: [{name: a, requirements: {zone: east}}, {name: b, requirements: {fast: 'yes'}}]}",
            )),
            "rules \"a\" and \"b\" of its daemonscaler overlap, a host with fast=yes and zone=east",
        ),
        (
            actor(&scaler("spreadscaler", "{spread: []}")),
            "trait 1 (spreadscaler): `instances` is missing",
        ),
        (actor(&scaler("linkdef", "{}")), "trait 1 (linkdef): `target` is missing"),
        (actor(&scaler("customscaler", "{target: web}")), "trait 1 (customscaler)"),
        (actor(&scaler("spreadscaler", "{instances: 65536}")), "greater than 65535"),
        (actor(&scaler("spreadscaler", "{instances: -1}")), "Unable to parse manifest: "),
        (
            actor(&scaler("spreadscaler", "{instances: 1, replicas: 1}")),
            "Unable to parse manifest: ",
        ),
        (
            actor(&scaler("spreadscaler", "{instances: 1, spread: [{name: a, weight: -1}]}")),
            "Unable to parse",
        ),
    ] {
        let refusal = refusal(&text);
        assert!(refusal.contains(part), "{part:?} in {refusal}");
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once_with_its_place() {
    let text = manifest(
        "  - {name: a, type: actor, properties: {}}\n  - {name: b, type: capability, properties: {image: x, config: 5}}\n",
    );
    let Err(DecodeError::Violations(violations)) = decode(text.as_bytes(), Format::Yaml) else {
        panic!("it is refused");
    };
    assert_eq!(
        violations.to_string(),
        "Validation Error: \n\
         Should be able to parse object at: spec/components/ at index: 0 (component \"a\": `image` is missing)\n\
         Should be able to parse object at: spec/components/ at index: 1 (component \"b\": `config` is a text, an object, \
         or a list of named objects)\n\
         Please check for missing or incorrect elements"
    );
}

#[test]
fn a_tag_comes_after_the_last_slash() {
    for (image, name) in [
        ("registry.example/web:1.0", "registry.example/web"),
        ("localhost:5000/a:1", "localhost:5000/a"),
        ("localhost:5000/a", "localhost:5000/a"),
        ("r/a:1@sha256:00ff", "r/a"),
        ("r/a@sha256:00ff", "r/a"),
        ("a", "a"),
    ] {
        assert_eq!(untagged(image), name);
    }
}

#[test]
fn hosts_of_now_that_do_not_fit_are_named() {
    let text = manifest(
        "  - name: web\n    type: capability\n    properties: {image: r/http:1, contract: c}\n    traits:\n    - type: \
         spreadscaler\n      properties: {instances: 4, spread: [{name: moon, requirements: {zone: moon}}, {name: all}]}\n",
    );
    let application = Application::of(&decode(text.as_bytes(), Format::Yaml).unwrap().manifest);
    let host = |zone: &str| [("zone".to_owned(), zone.to_owned())].into();
    let hosts = [("NA".to_owned(), host("east"))].into();
    assert_eq!(
        unmet(&application, &hosts),
        [
            "rule \"all\" of component \"web\" asks for 2 providers, one on a host, and 1 of the hosts of now fit it",
            "no host of now has zone=moon, which these rules ask for: \"moon\" of \"web\" (NA has zone=east)",
        ]
    );
    let hosts = ["NA", "NB"].map(|id| (id.to_owned(), host("moon"))).into();
    assert!(unmet(&application, &hosts).is_empty());
    // A drained host takes nothing new while there is another.
    let mut drained: BTreeMap<String, BTreeMap<String, String>> = hosts;
    drained.get_mut("NB").unwrap().insert(DRAINED_LABEL.into(), String::new());
    assert_eq!(unmet(&application, &drained).len(), 2);
    assert!(unmet(&application, &BTreeMap::new()).is_empty());
}

#[test]
fn remarks_of_a_new_manifest_are_short_but_for_those_of_a_host() {
    let manifest = decode(manifest(WEB).as_bytes(), Format::Yaml).unwrap().manifest;
    let long = "x".repeat(REMARK_BYTES_MAX);
    let many = || (0..=REMARKS_MAX).map(|number| (number.to_string(), String::new()));
    let one = |key: &str| BTreeMap::from([(key.to_owned(), long.clone())]);
    let none = BTreeMap::new;
    let added = [APPLIED_SET, VERSION].map(|key| (key.to_owned(), "1".to_owned()));
    let version = BTreeMap::from([(VERSION.to_owned(), "v".repeat(NAME_BYTES_MAX + 1))]);
    for (annotations, labels, part) in [
        (many().skip(1).collect(), many().skip(1).collect(), None),
        (one(FILLED_IN), none(), None),
        (many().skip(1).chain(added).collect(), none(), None),
        (one(APPLIED_SET), none(), Some("one of the annotations")),
        (many().collect(), none(), Some("has 65 annotations, and it may have 64")),
        (none(), many().collect(), Some("has 65 labels")),
        (one("description"), none(), Some("one of the annotations of the manifest has 8203 bytes")),
        (none(), one("team"), Some("one of the labels")),
        (version, none(), Some("the version of the manifest has 257 bytes")),
    ] {
        let mut manifest = manifest.clone();
        (manifest.metadata.annotations, manifest.metadata.labels) = (annotations, labels);
        assert_eq!(validate(&manifest), Ok(()), "it stays of use");
        match (check_remarks(&manifest).map_err(|refusal| refusal.to_string()), part) {
            (Ok(()), None) => {}
            (Err(refusal), Some(part)) => assert!(refusal.contains(part), "{refusal}"),
            (found, expected) => panic!("{found:?}, and not {expected:?}"),
        }
    }
}

use serde_json::json;

use super::{
    bounds::{
        COMPARED_RULES_MAX, COMPONENTS_MAX, LOOKUPS_MAX, NAME_BYTES_MAX, REQUIREMENTS_MAX,
        RULES_MAX,
    },
    *,
};
use crate::applications::resolved::{Application, Mode, ScalerKind};

const SHOP: &str = r#"
apiVersion: core.oam.dev/v1beta1
kind: Application
metadata:
  name: " shop "
  annotations: {version: 1.0, description: demo}
spec:
  components:
    - name: front
      type: actor
      properties: {image: "r/front:1"}
      traits:
        - type: spreadscaler
          properties:
            replicas: 4
            spread:
              - {name: east, requirements: {zone: east}, weight: 75}
              - {name: west, requirements: {zone: west}}
        - type: linkdef
          properties: {target: web, values: {port: 8080}}
    - name: web
      type: capability
      properties: {image: "r/http:1", contract: "wasmcloud:httpserver", config: {number: 1}}
"#;

fn read(text: &str) -> Decoded {
    decode(text.as_bytes(), Format::Either).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_normal_form_is_what_old_clients_read_and_reads_as_itself() {
    let manifest = read(SHOP).manifest;
    let normal = json!({
        "apiVersion": "core.oam.dev/v1beta1",
        "kind": "Application",
        "metadata": {"name": "shop", "annotations": {"version": "1.0", "description": "demo"}},
        "spec": {"components": [
            {"name": "front", "type": "actor", "properties": {"image": "r/front:1"}, "traits": [
                {"type": "spreadscaler", "properties": {"instances": 4, "spread": [
                    {"name": "east", "requirements": {"zone": "east"}, "weight": 75},
                    {"name": "west", "requirements": {"zone": "west"}}]}},
                {"type": "linkdef", "properties": {"target": "web", "values": {"port": "8080"}}}]},
            {"name": "web", "type": "capability", "properties": {
                "image": "r/http:1", "contract": "wasmcloud:httpserver", "config": {"number": 1}}}]},
    });
    assert_eq!(json!(manifest), normal);
    assert_eq!(read(&normal.to_string()).manifest, manifest, "JSON");
    assert_eq!(serde_json::from_value::<Manifest>(normal).unwrap(), manifest);
}

#[test]
fn forms_of_later_versions_become_those_of_the_old_one() {
    let decoded = read(
        r#"
apiVersion: core.oam.dev/v1beta1
kind: Application
metadata: {name: shop, labels: {team: a}}
spec:
  components:
    - name: front
      type: component
      properties: {image: "r/front:1", id: front, config: [{name: x}]}
      traits:
        - type: link
          properties:
            target: {name: store, config: [{name: s, properties: {url: u}}]}
            namespace: wasi
            package: keyvalue
            interfaces: [store]
    - name: web
      type: capability
      properties: {image: "r/http:1", config: [{name: a, properties: {log: debug}}]}
      traits:
        - type: link
          properties: {target: front, source_config: [{name: s, properties: {address: any}}]}
    - {name: store, type: capability, properties: {image: "r/kv:1"}}
"#,
    );
    let application = Application::of(&decoded.manifest);
    let links: Vec<_> = application
        .links
        .iter()
        .map(|link| (&*link.actor_image, &*link.provider_image, json!(link.values)))
        .collect();
    assert_eq!(
        links,
        [
            ("r/front:1", "r/kv:1", json!({"url": "u"})),
            ("r/front:1", "r/http:1", json!({"address": "any"})),
        ]
    );
    assert_eq!(json!(decoded.manifest)["metadata"]["labels"], json!({"team": "a"}));
    // The capability with a list of traits that has no scaler in it is never started.
    let started: Vec<_> = application.scalers.iter().map(|one| &*one.component).collect();
    assert_eq!(started, ["store"]);
    assert_eq!(decoded.warnings.len(), 2, "{:?}", decoded.warnings);
}

#[test]
fn contracts_are_filled_in_as_far_as_they_are_known_and_taken_out_to_compare() {
    let text = SHOP.replacen(", contract: \"wasmcloud:httpserver\"", "", 1)
        + "    - {name: own, type: capability, properties: {image: \"r/own:1\", contract: \"acme:own\"}}\n"
        + "    - {name: new, type: capability, properties: {image: \"r/new:1\"}}\n";
    let written = read(&text).manifest;
    let mut filled = written.clone();
    let known = |image: &str| (image == "r/http:1").then(|| "wasmcloud:httpserver".to_owned());
    assert_eq!(filled.fill_contracts(known), ["new"]);
    let contract = |manifest: &Manifest, of: &str| {
        manifest.capability(of).and_then(|one| one.contract.clone())
    };
    for (of, expected) in
        [("web", Some("wasmcloud:httpserver")), ("own", Some("acme:own")), ("new", None)]
    {
        assert_eq!(contract(&filled, of).as_deref(), expected, "{of}");
    }
    let stored: Manifest = serde_json::from_value(json!(filled)).unwrap();
    assert_eq!(stored.clone().as_written(), written);
    // A contract that somebody wrote over it stays.
    let mut corrected = stored;
    for component in &mut corrected.spec.components {
        if let Properties::Capability(provider) = &mut component.properties {
            provider.contract = Some("acme:other".into());
        }
    }
    assert_eq!(contract(&corrected.as_written(), "web").as_deref(), Some("acme:other"));
}

#[test]
fn what_is_kept_elsewhere_is_refused() {
    let text = |properties: &str| {
        format!(
            "{{apiVersion: core.oam.dev/v1beta1, kind: Application, metadata: {{name: a}}, spec: {{components: [{{name: web, type: \
             capability, properties: {properties}}}]}}}}"
        )
    };
    for (properties, part) in [
        ("{image: x, config: [{name: outside}]}", "\"outside\" is kept outside the manifest"),
        ("{image: x, secrets: [{name: s}]}", "`secrets` are not known"),
        ("{application: {name: other, component: c}}", "components of other applications"),
        ("{image: x, config: [1]}", "`config` is a text, an object, or a list of named objects"),
        ("{image: x, config: [{properties: {}}]}", "or a list of named objects"),
        ("{image: x, config: 1}", "`config` is a text, an object, or a list of named objects"),
    ] {
        let error = decode(text(properties).as_bytes(), Format::Yaml).unwrap_err().to_string();
        assert!(error.contains(part), "{part:?} in {error}");
    }
}

#[test]
fn whatever_an_actor_is_configured_with_is_left_out_with_a_word() {
    for config in
        ["1", "text", "{a: [b]}", "[a]", "[null]", "[{}]", "[[1], true, 1.5]", "[{name: x}]"]
    {
        let text = format!(
            "{{apiVersion: core.oam.dev/v1beta1, kind: Application, metadata: {{name: a}}, spec: {{components: [{{name: front, type: \
             actor, properties: {{image: x, config: {config}}}}}]}}}}"
        );
        let decoded = decode(text.as_bytes(), Format::Yaml).unwrap();
        assert_eq!(decoded.warnings.len(), 1, "{config}: {:?}", decoded.warnings);
    }
}

/// A manifest with one trait of an actor, and a capability with this configuration.
fn linked(one: &str, config: &str) -> Result<Decoded, DecodeError> {
    let text = format!(
        "{{apiVersion: core.oam.dev/v1beta1, kind: Application, metadata: {{name: a}}, spec: {{components: [{{name: front, type: \
         actor, properties: {{image: f}}, traits: [{one}]}}, {{name: web, type: capability, properties: {{image: w, config: \
         {config}}}}}]}}}}"
    );
    decode(text.as_bytes(), Format::Yaml)
}

#[test]
fn a_number_in_named_configuration_is_read_by_its_text_wherever_that_is_written() {
    let list = "[{name: c, properties: {port: 8080, since: 1.0}}]";
    let values = json!({"port": "8080", "since": "1.0"});
    for properties in [
        format!("{{target: {{name: web, config: {list}}}}}"),
        format!("{{target: web, target_config: {list}}}"),
        "{target: web, values: {port: 8080, since: 1.0}}".to_owned(),
    ] {
        let one = format!("{{type: link, properties: {properties}}}");
        let application = Application::of(&linked(&one, list).unwrap().manifest);
        assert_eq!(json!(application.links[0].values), values, "{properties}");
        let ScalerKind::Provider { configuration, .. } = &application.scalers[0].kind else {
            panic!("a provider")
        };
        assert_eq!(configuration.as_deref(), Some(&*values.to_string()));
    }
}

#[test]
fn a_fault_within_an_end_of_a_link_is_told_with_its_place() {
    let link = "component \"front\", trait 1 (link)";
    for (kind, properties, part) in [
        ("link", "target: {nmae: web}", format!("{link}: `target` has no `name`")),
        ("link", "target: {nmae: web}", "target: `nmae` is not known; did you mean `name`?".into()),
        ("link", "target: 8080", "expected the name of a component".into()),
        (
            "link",
            "target: web, source: {configs: []}",
            format!("{link}, source: `configs` is not known; did you mean `config`?"),
        ),
        (
            "link",
            "target: {name: web, config: [{name: c, properties: {}, value: 1}]}",
            format!("{link}, target, configuration \"c\": `value` is not known here"),
        ),
        (
            "link",
            "target: web, target_config: [{name: c, propertis: {}}]",
            "target_config, configuration \"c\": `propertis` is not known".into(),
        ),
        (
            "linkdef",
            "target: {name: web, config: [{name: c, properties: {}}]}",
            "a linkdef has no `config`; write it as `values`".into(),
        ),
    ] {
        let one = format!("{{type: {kind}, properties: {{{properties}}}}}");
        let error = linked(&one, "{}").unwrap_err().to_string();
        assert!(error.contains(&part), "{part} in {error}");
    }
    let error = linked("", "[{name: c, propertis: {}}]").unwrap_err().to_string();
    assert!(error.contains("component \"web\", configuration \"c\": `propertis`"), "{error}");
    let one = "{type: link, properties: {target: web, source: {config: [{name: c, properties: {a: b}}]}}}";
    let warnings = linked(one, "{}").unwrap().warnings.join("\n");
    assert!(warnings.contains("the configuration of the actor's end is left out"), "{warnings}");
}

#[test]
fn a_link_at_a_capability_has_its_own_values_too() {
    let front = "{type: spreadscaler, properties: {instances: 1}}";
    let mut text = json!(linked(front, "{}").unwrap().manifest);
    text["spec"]["components"][1]["traits"] = json!([{"type": "link", "properties": {
        "target": "front", "values": {"a": "b"},
        "source": {"config": [{"name": "c", "properties": {"d": "e"}}]}}}]);
    let application = Application::of(&read(&text.to_string()).manifest);
    assert_eq!(json!(application.links[0].values), json!({"a": "b", "d": "e"}));
}

#[test]
fn scalers_have_the_counts_and_the_names_of_the_old_manager() {
    let application = Application::of(&read(SHOP).manifest);
    let [front, web] = &application.scalers[..] else { panic!("two scalers") };
    assert_eq!(front.id, "actorspreadscaler-shop-front-r/front:1");
    let rules: Vec<_> = front.rules.iter().map(|rule| (&*rule.name, rule.count)).collect();
    assert_eq!(rules, [("east", 1), ("west", 3)]);
    assert_eq!(
        (web.mode, web.rules[0].name.as_str(), web.rules[0].count),
        (Mode::Spread, "default", 1)
    );
    let configuration = Some("{\"number\":1}".to_owned());
    let expected = ScalerKind::Provider {
        contract: Some("wasmcloud:httpserver".into()),
        link_name: "default".into(),
        configuration,
    };
    assert_eq!(web.kind, expected);
    assert_eq!(
        json!(front.annotations("shop", &front.rules[0])),
        json!({
            "wasmcloud.dev/managed-by": "wadm",
            "wasmcloud.dev/appspec": "shop",
            "wasmcloud.dev/scaler": "actorspreadscaler-shop-front-r/front:1",
            "wasmcloud.dev/spread_name": "east",
        })
    );
}

#[test]
fn members_that_nobody_knows_are_refused_by_name() {
    for (from, to, part) in [
        (
            "requirements: {zone: east}",
            "requirement: {zone: east}",
            "component \"front\", trait 1 (spreadscaler), rule \"east\": `requirement` is not known; did you mean `requirements`?",
        ),
        ("weight: 75", "wieght: 75", "did you mean `weight`?"),
        ("replicas: 4", "replica: 4", "did you mean `replicas`?"),
        ("spread:\n", "spraed:\n", "did you mean `spread`?"),
        (
            "replicas: 4",
            "replicas: 4\n            zones: [a]",
            "there are instances, replicas, spread",
        ),
        (
            "target: web,",
            "targt: web,",
            "trait 2 (linkdef): `targt` is not known; did you mean `target`?",
        ),
        ("values: {port", "value: {port", "did you mean `values`?"),
        ("type: spreadscaler", "type: spreadscalar", "did you mean `spreadscaler`?"),
        (
            "traits:\n",
            "trait:\n",
            "component \"front\": `trait` is not known; did you mean `traits`?",
        ),
        ("contract:", "contrat:", "component \"web\": `contrat` is not known"),
        ("annotations:", "annotation:", "metadata: `annotation` is not known"),
        (
            "type: linkdef\n          properties: {target: web, values: {port: 8080}}",
            "type: rollout\n          properties: {calls: 5, steps: [{percent: 5, requirement: {}}], max_errors: 1}",
            "trait 2 (rollout), step 1: `requirement` is not known",
        ),
    ] {
        assert!(SHOP.contains(from), "{from}");
        let text = SHOP.replacen(from, to, 1);
        let error = decode(text.as_bytes(), Format::Yaml).unwrap_err().to_string();
        assert!(error.contains(part), "{part} in {error}");
    }
    // Other tools have their own members where no trait is.
    for (from, to) in [
        ("  name: \" shop \"", "  name: \" shop \"\n  namespace: default"),
        ("type: capability", "type: capability\n      notes: ours"),
        ("config: {number: 1}", "config: {number: 1}, replicated: 1"),
    ] {
        let text = SHOP.replacen(from, to, 1);
        assert_eq!(read(&text).manifest, read(SHOP).manifest, "{to}");
    }
}

#[test]
fn rules_that_are_written_once_with_an_anchor_are_known() {
    let shared = SHOP.replacen("requirements: {zone: east}", "requirements: &east {zone: east}", 1);
    let shared = shared.replacen("requirements: {zone: west}", "requirements: *east", 1);
    let application = Application::of(&read(&shared).manifest);
    assert_eq!(application.scalers[0].rules[1].requirements["zone"], "east");
}

#[test]
fn an_image_that_is_empty_is_missing() {
    let error = decode(SHOP.replace("r/front:1", " ").as_bytes(), Format::Yaml).unwrap_err();
    assert!(error.to_string().contains("`image` is empty"), "{error}");
}

#[test]
fn types_are_written_as_they_are_called() {
    let manifest = json!(read(SHOP).manifest);
    let components = read(SHOP).manifest.spec.components;
    for (index, component) in components.iter().enumerate() {
        let written = &manifest["spec"]["components"][index];
        assert_eq!(written["type"], component.properties.kind());
        for (index, one) in component.traits.iter().flatten().enumerate() {
            assert_eq!(written["traits"][index]["type"], one.kind());
        }
    }
    for (one, kind) in [
        (Trait::Daemonscaler(Scaling::default()), DAEMONSCALER),
        (Trait::Rollout(Policy::default()), ROLLOUT),
    ] {
        assert_eq!((one.kind(), &json!(one)["type"]), (kind, &json!(kind)));
    }
}

#[test]
fn an_error_says_the_line() {
    let broken = SHOP.replace("replicas: 4", "replicas: many");
    let error = decode(broken.as_bytes(), Format::Yaml).unwrap_err().to_string();
    assert!(
        error.starts_with("Unable to parse manifest: ") && error.contains("line 15"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
    let error = decode(b"{\n\"kind\": 5}", Format::Json).unwrap_err().to_string();
    assert!(error.contains("line 2"), "{error}");
}

/// Returns a manifest of these components, in JSON.
fn of_components(components: serde_json::Value) -> String {
    json!({"apiVersion": "core.oam.dev/v1beta1", "kind": "Application", "metadata": {"name": "shop"},
        "spec": {"components": components}})
    .to_string()
}

/// Returns a component with a scaler of so many rules, each for so many labels.
fn scaled(kind: &str, rules: usize, labels: usize) -> serde_json::Value {
    let asked: BTreeMap<String, String> =
        (0..labels).map(|label| (format!("l{label}"), String::new())).collect();
    let rules: Vec<_> =
        (0..rules).map(|rule| json!({"name": rule.to_string(), "requirements": asked})).collect();
    let scaler = json!({"type": kind, "properties": {"instances": 1, "spread": rules}});
    json!({"name": "a", "type": "actor", "properties": {"image": "a"}, "traits": [scaler]})
}

#[test]
fn what_hosts_compare_has_bounds() {
    let named = |name: &str| json!({"name": name, "type": "actor", "properties": {"image": "a"}});
    let many = |count: usize| json!(vec![named("a"); count]);
    for (within, beyond, part) in [
        (many(COMPONENTS_MAX), many(COMPONENTS_MAX + 1), "there are 1025 components"),
        (
            json!([named(&"n".repeat(NAME_BYTES_MAX))]),
            json!([named(&"n".repeat(NAME_BYTES_MAX + 1))]),
            "its name has more than 256 bytes",
        ),
        (
            json!([scaled(SPREADSCALER, RULES_MAX, 1)]),
            json!([scaled(SPREADSCALER, RULES_MAX + 1, 1)]),
            "trait 1 (spreadscaler): `spread` has 1025 rules",
        ),
        (
            json!([scaled(DAEMONSCALER, COMPARED_RULES_MAX, 1)]),
            json!([scaled(DAEMONSCALER, COMPARED_RULES_MAX + 1, 1)]),
            "trait 1 (daemonscaler): `spread` has 257 rules",
        ),
        (
            json!([scaled(SPREADSCALER, 1, REQUIREMENTS_MAX)]),
            json!([scaled(SPREADSCALER, 1, REQUIREMENTS_MAX + 1)]),
            "rule \"0\" asks for more than 64 labels",
        ),
        (
            json!([scaled(DAEMONSCALER, COMPARED_RULES_MAX, 16)]),
            json!(vec![scaled(DAEMONSCALER, COMPARED_RULES_MAX, 16); 2]),
            "all daemonscalers together: to compare their rules takes 1044480 look-ups",
        ),
    ] {
        read(&of_components(within));
        let beyond = of_components(beyond);
        let refusal = decode(beyond.as_bytes(), Format::Json).unwrap_err();
        assert!(refusal.to_string().contains(part), "{part} in {refusal}");
        let kept = serde_json::from_str::<Manifest>(&beyond);
        assert!(kept.is_ok(), "what is stored with more stays of use: {part}");
    }
    let compared = COMPARED_RULES_MAX * (COMPARED_RULES_MAX - 1) / 2;
    assert_eq!(LOOKUPS_MAX / compared, 16, "labels of a rule, if all are compared");
}

#[test]
fn of_many_mistakes_the_first_are_told_and_of_long_names_the_beginning() {
    let long = "n".repeat(100_000);
    let mut component = scaled(&long, 0, 0);
    let one = component["traits"][0].clone();
    component["traits"] = json!(vec![one; 20]);
    let mut rules = scaled(SPREADSCALER, 1000, 0);
    for rule in rules["traits"][0]["properties"]["spread"].as_array_mut().unwrap() {
        *rule = json!({"name": "r", "wieght": 1});
    }
    let text = of_components(json!([component, rules]));
    let Err(DecodeError::Violations(told)) = decode(text.as_bytes(), Format::Json) else {
        panic!("it is refused");
    };
    assert_eq!(told.0.len(), 20 + TOLD_MAX);
    assert!(told.to_string().len() < 100_000, "{} bytes", told.to_string().len());
}

use serde_json::json;

use super::*;
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
        ("{image: x, config: [1]}", "cannot be read"),
    ] {
        let error = decode(text(properties).as_bytes(), Format::Yaml).unwrap_err().to_string();
        assert!(error.contains(part), "{part:?} in {error}");
    }
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
fn an_error_says_the_line() {
    let broken = SHOP.replace("replicas: 4", "replicas: many");
    let error = decode(broken.as_bytes(), Format::Yaml).unwrap_err().to_string();
    assert!(
        error.starts_with("Unable to parse manifest: ") && error.contains("line 15"),
        "{error}"
    );
    let error = decode(b"{\n\"kind\": 5}", Format::Json).unwrap_err().to_string();
    assert!(error.contains("line 2"), "{error}");
}

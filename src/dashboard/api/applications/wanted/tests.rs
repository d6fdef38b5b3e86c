use std::sync::Arc;

use super::*;
use lattice_protocol::{
    applications::{
        api::ScalerStatus,
        decode::{Format, decode},
    },
    control::types::{DRAINED_LABEL, Inventory, InventoryActor, Pairs},
};

const SHOP: &str = "
apiVersion: core.oam.dev/v1beta1
kind: Application
metadata: {name: shop, annotations: {version: v1}}
spec:
  components:
  - name: front
    type: actor
    properties: {image: r/front:1}
    traits:
    - type: spreadscaler
      properties:
        instances: 4
        spread:
        - {name: east, requirements: {zone: east}, weight: 50}
        - {name: west, requirements: {zone: west}, weight: 50}
    - type: linkdef
      properties: {target: web, values: {address: '0.0.0.0:80', token: abcdefgh}}
  - name: web
    type: capability
    properties: {image: r/web:1, contract: 'wasmcloud:httpserver', config: {password: abcdefgh}}
    traits:
    - {type: daemonscaler, properties: {instances: 1, spread: [{name: east, requirements: {zone: east}}]}}
";

fn manifest() -> Manifest {
    decode(SHOP.as_bytes(), Format::Yaml).unwrap().manifest
}

fn host(id: &str, zone: &str, inventory: Inventory) -> (Arc<str>, Arc<HostView>) {
    let labels = Pairs::from([("zone".into(), zone.into())]);
    let inventory = Arc::new(inventory);
    let view =
        HostView { id: id.into(), name: id.into(), labels, inventory, ..HostView::default() };
    (id.into(), Arc::new(view))
}

fn group(annotations: Pairs, max_instances: u32) -> InventoryInstance {
    InventoryInstance { annotations, max_instances, ..InventoryInstance::default() }
}

fn actor(instances: Vec<InventoryInstance>) -> InventoryActor {
    InventoryActor { id: "MA".into(), instances, ..InventoryActor::default() }
}

fn provider_of(annotations: Pairs) -> InventoryProvider {
    InventoryProvider {
        id: "VA".into(),
        image_ref: "r/web:1".into(),
        link_name: "default".into(),
        annotations,
        ..InventoryProvider::default()
    }
}

#[test]
fn what_is_wanted_stands_beside_what_runs_host_by_host() {
    let (manifest, application) = (manifest(), Application::of(&manifest()));
    let front = &application.scalers[0];
    let of = |rule: usize| front.annotations("shop", &front.rules[rule]);
    let others = ownership::annotations("other", "x", "default");
    let old = ownership::annotations("shop", "actorspreadscaler-shop-front-r/front:0", "east");
    let snapshot = Snapshot::new(
        [
            host(
                "N1",
                "east",
                Inventory {
                    actors: vec![actor(vec![
                        group(of(0), 2),
                        group(old, 3),
                        group(Pairs::new(), 9),
                    ])],
                    providers: vec![provider_of(others)],
                    ..Inventory::default()
                },
            ),
            host(
                "N2",
                "west",
                Inventory { actors: vec![actor(vec![group(of(1), 1)])], ..Inventory::default() },
            ),
            host("N3", "east", Inventory::default()),
        ]
        .into(),
    );
    let told = ScalerStatus {
        id: front.id.clone(),
        kind: "SpreadScaler".into(),
        name: "r/front:1".into(),
        status: Info { kind: StatusType::Reconciling, message: "Scaling r/front:1".into() },
        next_at: Some(7),
    };
    let status = Status { scalers: vec![told], ..Status::default() };
    let table = Table::default();
    let seen = Seen { snapshot: &snapshot, table: &table, status: &status };
    let parts = parts(&manifest, &application, seen);
    let sums_of = |part: &Part| {
        let rules = part.scalers[0].rules.iter();
        rules
            .map(|rule| (rule.wanted, rule.running, rule.fitting, rule.places.len()))
            .collect::<Vec<_>>()
    };
    assert_eq!(sums_of(&parts[0]), [(2, 2, 2, 1), (2, 1, 1, 1)]);
    assert_eq!(
        (parts[0].scalers[0].state, parts[0].scalers[0].next_at_ms),
        (Standing::Reconciling, Some(7))
    );
    // One of two hosts runs it, for another application.
    assert_eq!(sums_of(&parts[1]), [(2, 1, 2, 2)]);
    let shared: Vec<_> = parts[1].scalers[0].rules[0]
        .places
        .iter()
        .map(|place| place.shared_with.as_deref())
        .collect();
    assert_eq!(shared, [Some("other"), None]);
    assert_eq!(sums(&application, seen), (6, 4));
    let left = leftovers(&application, &snapshot);
    assert_eq!(
        left.iter().map(|one| (&*one.host_id, one.running)).collect::<Vec<_>>(),
        [("N1", 3)]
    );
}

#[test]
fn the_page_counts_as_the_planner_does() {
    let (manifest, application) = (manifest(), Application::of(&manifest()));
    let front = &application.scalers[0];
    let east = front.annotations("shop", &front.rules[0]);
    // As a host of 2023 and one of 2022 tell it.
    let concurrent = InventoryInstance { max_concurrent: 3, ..group(east.clone(), 0) };
    let single = group(east, 0);
    let others = ownership::annotations("other", "x", "default");
    let inventory = || Inventory {
        actors: vec![actor(vec![concurrent.clone(), single.clone(), single.clone()])],
        providers: vec![provider_of(others.clone())],
        ..Inventory::default()
    };
    let drained = |id: &str| {
        let (id, mut view) = host(id, "east", inventory());
        Arc::make_mut(&mut view).labels.insert(DRAINED_LABEL.into(), String::new());
        (id, view)
    };
    let counted = |hosts: Vec<(Arc<str>, Arc<HostView>)>| {
        let snapshot = Snapshot::new(hosts.into_iter().collect());
        let (table, status) = (Table::default(), Status::default());
        let seen = Seen { snapshot: &snapshot, table: &table, status: &status };
        let parts = parts(&manifest, &application, seen);
        let rule = |part: &Part| {
            let rule = &part.scalers[0].rules[0];
            (rule.wanted, rule.running, rule.fitting)
        };
        (rule(&parts[0]), rule(&parts[1]))
    };
    let open = host("N2", "east", Inventory::default());
    // An instance on a drained host runs, and nothing is wanted there, while there is another.
    assert_eq!(counted(vec![drained("N1"), open]), ((2, 5, 1), (1, 0, 1)));
    assert_eq!(counted(vec![drained("N1")]), ((2, 5, 1), (1, 1, 1)));
    let snapshot = Snapshot::new([drained("N1")].into());
    let nothing = Application { name: "shop".into(), ..Application::default() };
    let left = leftovers(&nothing, &snapshot);
    assert_eq!(left.iter().map(|one| one.running).collect::<Vec<_>>(), [5]);
}

#[test]
fn nobody_sees_secrets_and_readers_see_no_values() {
    for (is_operator, address) in [(true, "0.0.0.0:80"), (false, HIDDEN)] {
        let text = serde_json::to_string(&shown(&manifest(), is_operator)).unwrap();
        assert!(!text.contains("abcdefgh") && text.contains(address), "{text}");
    }
    let mut links = links(&manifest(), &Status::default());
    assert_eq!(links[0].values["address"].as_deref(), Some("0.0.0.0:80"));
    assert_eq!(links[0].values["token"], None);
    links.mask();
    assert!(links[0].values.values().all(Option::is_none));
}

#[test]
fn a_secret_of_a_providers_configuration_is_hidden_however_deep() {
    let config = serde_json::json!({
        "region": "east", "db": {"password": "hunter22", "host": "h"},
        "users": [{"name": "ann", "token": "abcdefgh"}],
    });
    let Value::Object(object) = config else { panic!("an object") };
    let shown = shown_config(&Config::Object(object), true);
    let text = serde_json::to_string(&shown).unwrap();
    for (part, is_there) in
        [("hunter22", false), ("abcdefgh", false), ("east", true), ("ann", true)]
    {
        assert_eq!(text.contains(part), is_there, "{part} in {text}");
    }
    assert_eq!(shown_config(&Config::Text("k=v".into()), true), Config::Text("****".into()));
}

#[test]
fn the_words_of_a_host_are_hidden_from_readers_and_ours_are_not() {
    for (message, expected) in [
        ("r/x:1 does not start: no such tag", format!("r/x:1 does not start: {HIDDEN}")),
        (
            "The link definition between A and B is not put: link value x is 7",
            format!("The link definition between A and B is not put: {HIDDEN}"),
        ),
        ("Scaling r/x:1", "Scaling r/x:1".to_owned()),
    ] {
        assert_eq!(without_words(message), expected);
    }
}

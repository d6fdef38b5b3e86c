use super::*;
use lattice_client::apply::documents::yaml;
use lattice_protocol::{
    applications::{
        counts::counts,
        decode::{Format, decode},
        ownership,
        validate::validate,
    },
    control::types::{InventoryInstance, Trial},
};

fn pairs(all: &[(&str, &str)]) -> Pairs {
    all.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

fn inventory(id: &str, labels: &[(&str, &str)]) -> Inventory {
    Inventory { host_id: id.into(), labels: pairs(labels), ..Inventory::default() }
}

fn instance(annotations: Pairs, max_instances: u32) -> InventoryInstance {
    InventoryInstance { annotations, max_instances, ..InventoryInstance::default() }
}

fn runs(host: &mut Inventory, id: &str, image: &str, instances: Vec<InventoryInstance>) {
    let (id, image_ref, name) = (id.into(), image.into(), "Echo, Ltd.".into());
    host.actors.push(InventoryActor { id, image_ref, name, instances, ..Default::default() });
}

fn serves(host: &mut Inventory, id: &str, image: &str, link_name: &str) {
    host.providers.push(InventoryProvider {
        id: id.into(),
        link_name: link_name.into(),
        contract_id: "wasmcloud:httpserver".into(),
        image_ref: image.into(),
        name: "HTTP server".into(),
        ..InventoryProvider::default()
    });
}

fn link(actor: &str, provider: &str, link_name: &str) -> LinkDefinition {
    LinkDefinition {
        actor_id: actor.into(),
        provider_id: provider.into(),
        link_name: link_name.into(),
        contract_id: "wasmcloud:httpserver".into(),
        values: pairs(&[
            ("address", "127.0.0.1:8080"),
            ("odd", "yes: \"no\"\n- 1.0"),
            ("n", "1.0"),
        ]),
    }
}

/// Makes a manifest, which has to be one that is accepted, and the same after it was written.
fn built(hosts: &[Inventory], links: &[LinkDefinition]) -> Built {
    let built = unmanaged(hosts, links);
    validate(&built.manifest).unwrap();
    let text = yaml(&built.manifest).unwrap();
    let read = decode(text.as_bytes(), Format::Yaml).unwrap();
    assert_eq!(read.manifest, built.manifest, "{text}");
    assert!(read.warnings.is_empty());
    built
}

/// Returns the scaling of the first component.
fn scaling(built: &Built) -> &Scaling {
    match &built.manifest.spec.components[0].traits.as_deref() {
        Some([Trait::Spreadscaler(scaling), ..]) => scaling,
        other => panic!("{other:?}"),
    }
}

fn names(built: &Built) -> Vec<&str> {
    built.manifest.spec.components.iter().map(|component| component.name.as_str()).collect()
}

#[test]
fn numbers_become_one_rule_or_one_for_each_host() {
    let (linux, macos) = (("hostcore.os", "linux"), ("hostcore.os", "macos"));
    let (a, b) = (("zone", "a"), ("zone", "b"));
    // Labels of the hosts, how many each runs, the rules with their numbers, and whether something
    // is lost.
    for (hosts, expected, is_lost) in [
        (vec![(vec![], 3)], vec![], false),
        (vec![(vec![a], 3), (vec![b], 3)], vec![], false),
        (vec![(vec![a], 3), (vec![b], 1)], vec![("zone=a", 3), ("zone=b", 1)], false),
        (vec![(vec![a], 2), (vec![b], 0)], vec![("zone=a", 2)], false),
        // A label that somebody gave before those that every host has.
        (vec![(vec![linux, a], 1), (vec![macos, b], 2)], vec![("zone=a", 1), ("zone=b", 2)], false),
        (
            vec![(vec![linux], 1), (vec![macos], 2)],
            vec![("hostcore.os=linux", 1), ("hostcore.os=macos", 2)],
            false,
        ),
        (vec![(vec![a], 3), (vec![a], 1)], vec![], true),
        (vec![(vec![], 3), (vec![a], 1)], vec![], true),
        (vec![(vec![a], 65_000), (vec![b], 1_000)], vec![], true),
    ] {
        let inventories = hosts.iter().enumerate().map(|(index, (labels, count))| {
            let mut host = inventory(&format!("N{index}"), labels);
            if *count > 0 {
                runs(&mut host, "MECHO", "r/echo:1", vec![instance(Pairs::new(), *count)]);
            }
            host
        });
        let inventories: Vec<Inventory> = inventories.collect();
        let built = built(&inventories, &[]);
        let scaling = scaling(&built);
        let sum = hosts.iter().map(|(_, count)| count).sum::<u32>();
        assert_eq!(scaling.instances, sum.min(65_535));
        let numbers = match scaling.spread.is_empty() {
            true => Vec::new(),
            false => counts(scaling.instances, &scaling.spread),
        };
        let rules: Vec<(&str, u32)> =
            scaling.spread.iter().map(|rule| rule.name.as_str()).zip(numbers).collect();
        assert_eq!(rules, expected, "{hosts:?}");
        assert_eq!(!built.notes.is_empty(), is_lost, "{:?}", built.notes);
    }
}

#[test]
fn what_an_application_manages_is_left_out_with_its_links() {
    let own = ownership::annotations("shop", "scaler", "default");
    let mut host = inventory("N1", &[]);
    let by_hand = [instance(pairs(&[("a", "b")]), 2), instance(Pairs::new(), 1)];
    let instances = std::iter::once(instance(own.clone(), 5)).chain(by_hand).collect();
    runs(&mut host, "MECHO", "r/echo:1", instances);
    runs(&mut host, "MSHOP", "r/shop:1", vec![instance(own.clone(), 1)]);
    serves(&mut host, "VWEB", "builtin://httpserver", "default");
    serves(&mut host, "VSHOP", "r/http:1", "shop");
    host.providers[1].annotations = own;
    let links = [
        link("MECHO", "VWEB", "default"),
        link("MECHO", "VSHOP", "shop"),
        link("MSHOP", "VWEB", "default"),
        link("MGONE", "VWEB", "default"),
    ];
    let built = built(&[host], &links);
    assert_eq!(names(&built), ["echo-ltd", "http-server"]);
    assert_eq!(scaling(&built).instances, 3);
    let of_echo: Vec<&Linkdef> = built.manifest.spec.components[0].links().collect();
    assert_eq!(of_echo.len(), 1);
    assert_eq!((&*of_echo[0].target, &of_echo[0].values), ("http-server", &links[0].values));
    let [link, annotation] = &built.notes[..] else { panic!("{:?}", built.notes) };
    assert!(link.contains("VSHOP"), "{link}");
    assert!(annotation.starts_with("echo-ltd: its annotation a=b is left out"), "{annotation}");
}

#[test]
fn each_image_and_each_link_name_is_a_component_of_its_own() {
    let mut host = inventory("N1", &[]);
    for image in ["r/echo:1", "r/echo:2"] {
        runs(&mut host, "MECHO", image, vec![instance(Pairs::new(), 1)]);
    }
    for (image, link_name) in
        [("r/http:1", "default"), ("r/http:1", "second"), ("r/http:2", "second"), ("", "default")]
    {
        serves(&mut host, "VWEB", image, link_name);
    }
    let links = [link("MECHO", "VWEB", "default"), link("MECHO", "VWEB", "second")];
    let built = built(&[host], &links);
    assert_eq!(names(&built), ["echo-ltd", "echo-ltd-2", "http-server", "http-server-second"]);
    for component in &built.manifest.spec.components[..2] {
        let targets: Vec<&str> = component.links().map(|link| link.target.as_str()).collect();
        assert_eq!(targets, ["http-server", "http-server-second"]);
    }
    let told = built.notes.join("\n");
    assert!(told.contains("r/http:2") && told.contains("does not say"), "{told}");
}

#[test]
fn an_image_that_nobody_tells_is_in_no_manifest() {
    let mut host = inventory("N1", &[]);
    runs(&mut host, "MECHO", "", vec![instance(Pairs::new(), 1)]);
    runs(&mut host, "MSHOP", "r/shop:1", vec![instance(Pairs::new(), 1)]);
    let built = built(&[host], &[]);
    let images = built.manifest.actors().map(|(_, actor)| &*actor.image);
    assert_eq!(images.collect::<Vec<_>>(), ["r/shop:1"]);
    assert!(matches!(&built.notes[..], [note] if note.contains("MECHO")), "{:?}", built.notes);
}

#[test]
fn of_two_revisions_that_share_the_calls_the_one_before_is_exported_from_all_hosts() {
    let mut hosts = [inventory("N1", &[("zone", "a")]), inventory("N2", &[("zone", "b")])];
    runs(&mut hosts[0], "MECHO", "r/echo:2", vec![instance(Pairs::new(), 3)]);
    let trial = Trial { stable_ref: "r/echo:1".into(), share: 10, ..Trial::default() };
    hosts[0].actors[0].trial = Some(trial);
    runs(&mut hosts[1], "MECHO", "r/echo:1", vec![instance(Pairs::new(), 1)]);
    let built = built(&hosts, &[]);
    assert_eq!(names(&built), ["echo-ltd"]);
    assert_eq!(built.manifest.spec.components[0].properties.image(), "r/echo:1");
    assert_eq!(counts(scaling(&built).instances, &scaling(&built).spread), [3, 1]);
    let told = built.notes.join("\n");
    assert!(told.contains("r/echo:2 is left out") && told.contains("10 %"), "{told}");
}

#[test]
fn images_that_others_cannot_read_are_told() {
    let mut host = inventory("N1", &[]);
    for (id, image) in [("MA", "file:///a.wasm"), ("MB", "lattice://sha256:00"), ("MC", "r/c:1")] {
        runs(&mut host, id, image, vec![instance(Pairs::new(), 1)]);
    }
    let notes = bound_to_here(&built(&[host], &[]).manifest);
    assert!(
        matches!(&notes[..], [file, upload]
        if file.contains("machines") && upload.contains("lattices")),
        "{notes:?}"
    );
}

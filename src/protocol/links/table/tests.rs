use serde_json::{Value, json};

use super::*;

const ACTOR: &str = "MDWUSKGGFDI4FRXK5EBTRECZSVQSSWJHHJOGH6JWG3AUMFFMQ435C2JZ";

fn entry(key: String, value: &Value, revision: u64) -> Entry {
    Entry { key, value: serde_json::to_vec(value).unwrap().into(), revision }
}

fn link_entry(provider: &str, revision: u64) -> Entry {
    let hash = keys::link_hash(ACTOR, "wasmcloud:keyvalue", "default");
    let value = json!({"actor_id": ACTOR, "provider_id": provider, "link_name": "default",
        "contract_id": "wasmcloud:keyvalue", "values": null});
    entry(keys::link(&hash), &value, revision)
}

#[test]
fn a_newer_link_replaces_and_an_older_one_does_not() {
    let mut table = Table::default();
    assert!(matches!(
        table.put(&link_entry("V1", 5)),
        Ok(Some(Change::LinkPut { replaced: None, .. }))
    ));
    assert_eq!(table.put(&link_entry("V0", 4)), Ok(None));
    assert!(matches!(
        table.put(&link_entry("V2", 6)),
        Ok(Some(Change::LinkPut { replaced: Some(_), .. }))
    ));
    assert_eq!(table.link(ACTOR, "wasmcloud:keyvalue", "default").unwrap().provider_id, "V2");
    assert_eq!(table.delete(&link_entry("V2", 6).key, 5), None);
    assert_eq!(table.links().count(), 1);
}

#[test]
fn a_link_under_a_foreign_key_is_rejected() {
    let mut foreign = link_entry("V1", 1);
    foreign.key = keys::link("00");
    assert!(Table::default().put(&foreign).is_err());
}

#[test]
fn entries_beyond_what_hosts_write_are_not_kept_whoever_wrote_them() {
    let link = |values: usize| {
        let mut entry = link_entry("V1", 1);
        let mut value: Value = serde_json::from_slice(&entry.value).unwrap();
        let values = (0..values).map(|number| (number.to_string(), "v".to_owned()));
        value["values"] = json!(values.collect::<std::collections::BTreeMap<_, _>>());
        entry.value = serde_json::to_vec(&value).unwrap().into();
        entry
    };
    let claims = |caps: Value| entry(keys::claims("M1"), &json!({"sub": "M1", "caps": caps}), 1);
    let reference =
        |url: &str| entry(keys::reference(url), &json!({"oci_url": url, "public_key": "M1"}), 1);
    for (entry, is_kept) in [
        (link(512), true),
        (link(70_000), false),
        (claims(json!("a,b")), true),
        (claims(json!("c,".repeat(120_000))), false),
        (claims(json!(vec!["c"; 120_000])), false),
        (claims(json!("c".repeat(100_000))), false),
        (reference("registry.example/echo:1"), true),
        (reference(&"r".repeat(100_000)), false),
    ] {
        let mut table = Table::default();
        let put = table.put(&entry);
        assert_eq!((put.is_ok(), table.has(&entry.key)), (is_kept, is_kept), "{}", entry.key);
        assert_eq!(table.revision_of(&entry.key), 1, "it can be written over");
    }
}

#[test]
fn claims_of_all_eras_read_alike() {
    let short = json!({"call_alias": "", "caps": "a,b", "iss": "A", "name": "Echo", "rev": "4", "sub": "M", "tags": "", "version": null});
    let long = json!({"call_alias": null, "capabilities": ["a", "b"], "issuer": "A", "name": "Echo", "revision": 4, "subject": "M", "tags": []});
    let read = |value: &Value| Claims::parse(&serde_json::to_vec(value).unwrap()).unwrap();
    assert_eq!(read(&short), read(&long));
    assert_eq!(read(&short).capabilities, ["a", "b"]);
}

#[test]
fn a_provider_entry_has_no_capabilities_and_a_reply_has_texts_only() {
    let provider = Claims {
        subject: "V1".into(),
        contract_id: "wasmcloud:httpserver".into(),
        ..Claims::default()
    };
    let value = provider.bucket_value();
    assert!(value.get("caps").is_none() && value.get("tags").is_none());
    assert_eq!(value["call_alias"], "");
    assert_eq!(provider.reply_value()["config_schema"], "");
}

#[test]
fn actors_that_claim_an_alias_are_known_in_the_order_they_came() {
    let mut table = Table::default();
    for (subject, revision) in [("M2", 2), ("M1", 1), ("MNEW", 0)] {
        let value = json!({"sub": subject, "call_alias": "lattice/ponger"});
        table.put(&entry(keys::claims(subject), &value, revision)).unwrap();
    }
    let claimants = |table: &Table| {
        table.claimants("lattice/ponger").iter().map(|id| id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(claimants(&table), ["M1", "M2", "MNEW"]);
    table.delete(&keys::claims("M1"), 3);
    assert_eq!(claimants(&table), ["M2", "MNEW"]);
    // Signed anew without the alias.
    table.put(&entry(keys::claims("M2"), &json!({"sub": "M2"}), 4)).unwrap();
    assert_eq!(claimants(&table), ["MNEW"]);
}

/// Each runs together with the link of [`link_entry`] to the same text, and so has its hash.
const SPLIT_ELSEWHERE: [(&str, &str); 3] = [
    ("wasmcloud:k", "eyvaluedefault"),
    ("wasmcloud:keyvaluedefaul", "t"),
    ("", "wasmcloud:keyvaluedefault"),
];

#[test]
fn a_link_is_found_only_by_all_three_that_make_it() {
    let mut table = Table::default();
    table.put(&link_entry("V1", 5)).unwrap();
    for (contract, link_name) in SPLIT_ELSEWHERE {
        assert_eq!(
            keys::link_hash(ACTOR, contract, link_name),
            keys::link_hash(ACTOR, "wasmcloud:keyvalue", "default")
        );
        assert!(table.link(ACTOR, contract, link_name).is_none(), "{contract} {link_name}");
        assert!(!table.lets_in("V1", ACTOR, contract, link_name), "{contract} {link_name}");
        // Nor does one that is split elsewhere take its place.
        let value = json!({"actor_id": ACTOR, "provider_id": "V2", "link_name": link_name, "contract_id": contract});
        let key = keys::link(&keys::link_hash(ACTOR, contract, link_name));
        assert!(table.put(&entry(key, &value, 9)).is_err(), "{contract} {link_name}");
    }
    assert_eq!(table.link(ACTOR, "wasmcloud:keyvalue", "default").unwrap().provider_id, "V1");
}

#[test]
fn a_provider_is_let_in_by_its_link_and_for_a_moment_after_it() {
    let mut table = Table::default();
    let lets_in = |table: &Table, provider: &str| {
        table.lets_in(provider, ACTOR, "wasmcloud:keyvalue", "default")
    };
    assert!(!lets_in(&table, "V1"));
    table.put(&link_entry("V1", 5)).unwrap();
    assert!(lets_in(&table, "V1") && !lets_in(&table, "V2"));
    table.put(&link_entry("V2", 6)).unwrap();
    assert!(lets_in(&table, "V1") && lets_in(&table, "V2") && !lets_in(&table, "V3"));
    table.delete(&link_entry("V2", 6).key, 7);
    assert!(lets_in(&table, "V2"), "what it had taken on is finished");
    let hash = keys::link_hash(ACTOR, "wasmcloud:keyvalue", "default");
    table.former.get_mut(&*hash).unwrap().since = Instant::now().checked_sub(LET_GO).unwrap();
    assert!(!lets_in(&table, "V1") && !lets_in(&table, "V2"));
}

#[test]
fn of_several_references_the_one_that_led_there_last_is_named() {
    let mut table = Table::default();
    for (reference, revision) in
        [("b.example/echo:1", 1), ("a.example/echo:1", 2), ("file:///echo.wasm", 3)]
    {
        let value = json!({"oci_url": reference, "public_key": ACTOR});
        table.put(&entry(keys::reference(reference), &value, revision)).unwrap();
    }
    assert_eq!(table.reference_to(ACTOR).as_deref(), Some("a.example/echo:1"));
    // The first leads elsewhere now.
    let moved = json!({"oci_url": "b.example/echo:1", "public_key": "V1"});
    table.put(&entry(keys::reference("b.example/echo:1"), &moved, 4)).unwrap();
    let mut left: Vec<_> = table.references_to(ACTOR).map(|(_, revision)| revision).collect();
    left.sort_unstable();
    assert_eq!(left, [2, 3]);
}

#[test]
fn former_links_that_fill_the_table_make_room_when_their_time_is_over() {
    let mut table = Table::default();
    table.put(&link_entry("V1", 5)).unwrap();
    let link = Arc::clone(table.links().next().unwrap());
    for number in 0..=FORMER_MAX {
        table.keep_in_mind(&number.to_string(), &link);
    }
    assert_eq!(table.former.len(), FORMER_MAX);
    let until = table.former_full_until.expect("it is full");
    table.former.get_mut("7").unwrap().since = Instant::now().checked_sub(LET_GO).unwrap();
    table.keep_in_mind("next", &link);
    assert!(table.former.get("next").is_none(), "it does not look before {until:?}");
    table.former_full_until = Some(Instant::now());
    table.keep_in_mind("next", &link);
    assert!(table.former.get("next").is_some() && table.former.get("7").is_none());
}

//! Every reader of foreign bytes outside of the invocation codec, which has its own: no input makes
//! one panic.

use lattice_base::{providers::archive::Archive, registry::reference::Reference};
use lattice_protocol::{
    contracts::{self, blobstore, httpclient, httpserver, keyvalue, messaging},
    control::request,
    identity::keys::LatticeName,
    lattice::subject::Subjects,
    links::{Claims, Table},
    store::{Entry, keys::Key},
};
use proptest::prelude::*;

/// Texts that look like JSON objects of the lattice, with values of every kind.
fn lattice_json() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "actor_id",
        "provider_id",
        "link_name",
        "contract_id",
        "values",
        "sub",
        "subject",
        "caps",
        "capabilities",
        "rev",
        "tags",
        "call_alias",
        "oci_url",
        "public_key",
        "actor_ref",
        "count",
        "annotations",
        "constraints",
        "timeout",
        "key",
    ]);
    let value = prop::sample::select(vec![
        "null",
        "1",
        "-1",
        "1e99",
        "true",
        "\"M\"",
        "\"\"",
        "[]",
        "[1,null]",
        "{}",
        "{\"a\":1}",
        "{\"a\":\"b\"}",
    ]);
    prop::collection::btree_map(name, value, 0..8).prop_map(|members| {
        let members: Vec<String> =
            members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    })
}

/// Every form a payload may come in: as it is, marked as MessagePack, marked as CBOR.
fn payloads() -> impl Strategy<Value = Vec<u8>> {
    let marker = prop::sample::select(vec![vec![], vec![0xc1], vec![0x7f]]);
    (marker, any::<Vec<u8>>()).prop_map(|(mut payload, rest)| {
        payload.extend(rest);
        payload
    })
}

proptest! {
    #[test]
    fn payloads_of_the_contracts(payload in payloads()) {
        let _ = contracts::decode::<keyvalue::IncrementRequest>("x", &payload);
        let _ = contracts::decode::<keyvalue::SetRequest>("x", &payload);
        let _ = contracts::decode::<keyvalue::ListRangeRequest>("x", &payload);
        let _ = contracts::decode::<messaging::Message>("x", &payload);
        let _ = contracts::decode::<messaging::RequestMessage>("x", &payload);
        let _ = contracts::decode::<httpclient::HttpRequest>("x", &payload);
        let _ = contracts::decode::<blobstore::PutChunkRequest>("x", &payload);
        let _ = blobstore::GetObjectRequest::decode(&payload);
        let _ = contracts::decode::<blobstore::ListObjectsRequest>("x", &payload);
        if let Ok(payload) = httpserver::msgpack(payload.into()) {
            let _ = httpserver::HttpResponse::decode(&payload);
        }
    }

    #[test]
    fn provider_archives(bytes: Vec<u8>) {
        let _ = Archive::read(&bytes, "x86_64-linux", 0);
        let _ = Archive::inspect(&bytes, 0);
    }

    #[test]
    fn entries_of_the_bucket(key in "(LINKDEF_|CLAIMS_|REFMAP_|)[A-Za-z0-9_]{0,20}", json in lattice_json(), raw: Vec<u8>) {
        let _ = Key::parse(&key);
        let mut table = Table::default();
        for value in [json.into_bytes(), raw] {
            let _ = Claims::parse(&value);
            let _ = table.put(&Entry { key: key.clone(), value: value.into(), revision: 1 });
        }
        table.delete(&key, u64::MAX);
    }

    #[test]
    fn claims_that_were_read_are_written_and_read_again(json in lattice_json()) {
        if let Some(claims) = Claims::parse(json.as_bytes()) {
            // Lists travel as texts with commas, so an item with a comma or an empty one cannot
            // come back the same.
            prop_assume!(claims.capabilities.iter().chain(&claims.tags).all(|item| !item.is_empty() && !item.contains(',')));
            let written = serde_json::to_vec(&claims.bucket_value()).unwrap();
            let again = Claims::parse(&written).unwrap();
            prop_assert_eq!(again.subject, claims.subject);
            prop_assert_eq!(again.call_alias, claims.call_alias);
        }
    }

    #[test]
    fn control_requests(json in lattice_json(), raw: Vec<u8>) {
        for body in [json.as_bytes(), &raw] {
            let _ = serde_json::from_slice::<request::LaunchActor>(body);
            let _ = serde_json::from_slice::<request::ScaleActor>(body);
            let _ = serde_json::from_slice::<request::StopActor>(body);
            let _ = serde_json::from_slice::<request::UpdateActor>(body);
            let _ = serde_json::from_slice::<request::AuctionActor>(body);
            let _ = serde_json::from_slice::<request::PutLink>(body);
            let _ = serde_json::from_slice::<request::DeleteLink>(body);
            let _ = serde_json::from_slice::<request::PutLabel>(body);
            let _ = serde_json::from_slice::<request::StopHost>(body);
        }
    }

    #[test]
    fn subjects_that_parse_are_built_the_same(tail in "[a-z]{1,9}(\\.[A-Za-z]{1,9}){0,4}") {
        let subjects = Subjects::new(LatticeName::parse("default").unwrap(), "wasmbus.ctl");
        let subject = format!("wasmbus.ctl.default.{tail}");
        if let Some(request) = subjects.parse_control(&subject) {
            prop_assert_eq!(subjects.parse_control(&subjects.control(&request)), Some(request));
        }
    }

    #[test]
    fn references(text in "\\PC{0,60}") {
        let _ = Reference::parse(&text);
    }
}

use std::collections::HashMap;

use data_encoding::{HEXLOWER, HEXUPPER};
use proptest::prelude::*;
use rmp_serde::to_vec;
use serde_json::json;
use wasmbus_rpc::{
    common::{deserialize, serialize},
    core::{
        Invocation as PeerInvocation, InvocationResponse as PeerResponse,
        WasmCloudEntity as PeerEntity,
    },
};

use super::*;
use crate::{identity::digest::sha256, rpc::antiforgery::tests::known_invocation};

const ID: &str = "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b";

fn invocation(bytes: impl Into<Vec<u8>>) -> Result<Invocation, DecodeError> {
    decode_invocation(Bytes::from(bytes.into()))
}

fn response(bytes: impl Into<Vec<u8>>) -> Result<InvocationResponse, DecodeError> {
    decode_response(Bytes::from(bytes.into()))
}

/// Encodes JSON as msgpack.
fn pack(value: &serde_json::Value) -> Vec<u8> {
    to_vec(value).unwrap()
}

fn entity_json() -> serde_json::Value {
    json!({"contract_id": "c", "public_key": "V", "link_name": "l"})
}

fn invocation_json() -> serde_json::Value {
    json!({"unknown": {"deep": [[1.5, null, {"x": true}]]}, "host_id": "N", "id": "1", "operation": "A.B",
        "msg": [1, 2, 255], "encoded_claims": "t", "target": entity_json(), "origin": entity_json()})
}

/// The JSON invocation with one member replaced or, by null's absence, removed.
fn invocation_with(
    field: &str,
    value: Option<serde_json::Value>,
) -> Result<Invocation, DecodeError> {
    let mut json = invocation_json();
    let members = json.as_object_mut().unwrap();
    match value {
        Some(value) => members.insert(field.into(), value),
        None => members.remove(field),
    };
    invocation(pack(&json))
}

#[test]
fn the_known_invocation_is_reproduced_and_read() {
    let known = known_invocation();
    let encoded = encode_invocation(&known);
    assert_eq!(encoded.len(), 1176);
    assert_eq!(
        HEXLOWER.encode(&sha256(&encoded)),
        "426a25cbf6f2b69d190091aa45a61c524b3a5fedf28365294f6998fc0f585011"
    );
    assert_eq!(decode_invocation(encoded.clone()), Ok(known));
}

#[test]
fn the_known_responses_are_reproduced_and_read() {
    let result = Bytes::from_static(b"\x82\xa5value\xa17\xa6exists\xc3");
    for (response, hex) in [
        (
            InvocationResponse::success(ID, result),
            "84a36d7367c41182a576616c7565a137a6657869737473c3ad696e766f636174696f6e5f6964d92430313930613162322d633364342d\
             376535662d386139622d306331643265336634613562ae636f6e74656e745f6c656e67746811ac7472616365436f6e7465787480",
        ),
        (
            InvocationResponse::failure(ID, "key missing"),
            "85a36d7367c400ad696e766f636174696f6e5f6964d92430313930613162322d633364342d376535662d386139622d30633164326533\
             6634613562a56572726f72ab6b6579206d697373696e67ae636f6e74656e745f6c656e67746800ac7472616365436f6e7465787480",
        ),
    ] {
        let encoded = encode_response(&response);
        assert_eq!(HEXLOWER.encode(&encoded), hex);
        assert_eq!(decode_response(encoded.clone()), Ok(response));
    }
}

#[test]
fn payloads_are_not_copied() {
    let encoded = encode_invocation(&known_invocation());
    let memory = encoded.as_ptr_range();
    let decoded = decode_invocation(encoded.clone()).unwrap();
    assert!(memory.contains(&decoded.msg.as_ptr()));
}

fn peer_entity(entity: &Entity) -> PeerEntity {
    PeerEntity {
        public_key: entity.public_key.to_string(),
        link_name: entity.link_name.to_string(),
        contract_id: entity.contract_id.to_string(),
    }
}

/// The known call as the peer's type, with and without the optional fields.
fn peer_invocation(content_length: Option<u64>, trace: Option<&str>) -> PeerInvocation {
    let ours = known_invocation();
    // The peer's types cannot be written as literals.
    let mut theirs = PeerInvocation::default();
    theirs.origin = peer_entity(&ours.origin);
    theirs.target = peer_entity(&ours.target);
    theirs.operation = ours.operation.to_string();
    theirs.msg = ours.msg.to_vec();
    theirs.id = ours.id.to_string();
    theirs.encoded_claims = ours.encoded_claims;
    theirs.host_id = ours.host_id.to_string();
    theirs.content_length = content_length;
    theirs.trace_context = trace.map(|trace| HashMap::from([("traceparent".into(), trace.into())]));
    theirs
}

#[test]
fn a_peer_reads_our_invocation() {
    let mut ours = known_invocation();
    ours.trace_context = TraceContext(vec![("traceparent".into(), "00-a-b-01".into())]);
    let theirs: PeerInvocation = deserialize(&encode_invocation(&ours)).unwrap();
    assert_eq!(theirs, peer_invocation(Some(13), Some("00-a-b-01")));
}

#[test]
fn we_read_a_peers_invocation_as_map_and_as_array() {
    for length in [None, Some(13), Some(2_000_000)] {
        for trace in [None, Some("00-a-b-01")] {
            let mut expected = known_invocation();
            expected.content_length = length.unwrap_or(13);
            expected.trace_context.0.extend(trace.map(|t| ("traceparent".into(), t.into())));
            let theirs = peer_invocation(length, trace);
            assert_eq!(invocation(serialize(&theirs).unwrap()), Ok(expected.clone()));
            assert_eq!(invocation(to_vec(&theirs).unwrap()), Ok(expected));
        }
    }
}

#[test]
fn responses_pass_between_us_and_a_peer() {
    for error in [None, Some("broken \"thing\"".to_owned())] {
        let ours = InvocationResponse {
            error: error.clone(),
            ..InvocationResponse::success("1", Bytes::from_static(b"abc"))
        };
        let mut theirs = PeerResponse::default();
        theirs.msg = b"abc".to_vec();
        theirs.invocation_id = "1".into();
        theirs.error = error;
        theirs.content_length = Some(3);
        let read: PeerResponse = deserialize(&encode_response(&ours)).unwrap();
        assert_eq!(read, theirs);
        assert_eq!(response(serialize(&theirs).unwrap()), Ok(ours.clone()));
        assert_eq!(response(to_vec(&theirs).unwrap()), Ok(ours));
    }
}

#[test]
fn odd_but_readable_invocations_are_read() {
    let plain = invocation(pack(&invocation_json())).unwrap();
    assert_eq!(plain.msg, [1u8, 2, 255].as_slice());
    assert_eq!(plain.content_length, 3);
    assert_eq!(&*plain.origin.contract_id, "c");

    let with = |field, value| invocation_with(field, Some(value)).unwrap();
    assert_eq!(with("msg", json!(null)).msg, Bytes::new());
    assert_eq!(invocation_with("msg", None).unwrap().msg, Bytes::new());
    assert_eq!(with("msg", json!("text")).msg, "text");
    assert_eq!(with("content_length", json!(null)).content_length, 3);
    assert!(with("content_length", json!(1_000_000)).is_chunked());
    for trace in [json!(null), json!([1]), json!("x"), json!({"a": 1}), json!({})] {
        assert!(with("traceContext", trace).trace_context.is_empty());
    }
    let mixed = with("traceContext", json!({"a": 1, "traceparent": "p"}));
    assert_eq!(mixed.trace_context.get("traceparent"), Some("p"));
    let array = with("origin", json!(["K", "L", "C", "more"])).origin;
    assert_eq!((&*array.public_key, &*array.link_name, &*array.contract_id), ("K", "L", "C"));
    assert_eq!(&*with("origin", json!({"public_key": "M"})).origin.link_name, "");

    let mut trailing = pack(&invocation_json());
    trailing.extend([0xC1, 0xFF]);
    assert!(invocation(trailing).is_ok());
}

#[test]
fn integers_of_any_width_are_read() {
    let base = pack(&json!({"msg": null}));
    assert_eq!(base[0], 0x81);
    for number in [
        "05",
        "cc05",
        "cd0005",
        "ce00000005",
        "cf0000000000000005",
        "d005",
        "d10005",
        "d200000005",
        "d30000000000000005",
    ] {
        let mut bytes = b"\x81\xaecontent_length".to_vec();
        bytes.extend(HEXLOWER.decode(number.as_bytes()).unwrap());
        assert_eq!(response(bytes).unwrap().content_length, 5, "{number}");
    }
    for negative in ["ff", "d0ff", "d1ffff", "d2ffffffff", "d3ffffffffffffffff"] {
        let mut bytes = b"\x81\xaecontent_length".to_vec();
        bytes.extend(HEXLOWER.decode(negative.as_bytes()).unwrap());
        assert_eq!(
            response(bytes),
            Err(DecodeError { field: "content_length", problem: Problem::Negative })
        );
    }
}

#[test]
fn an_error_names_the_field() {
    let fault = |field, value| {
        let error = invocation_with(field, value).unwrap_err();
        (error.field, error.problem)
    };
    for field in ["origin", "target", "operation", "id", "encoded_claims", "host_id"] {
        assert_eq!(fault(field, None), (field, Problem::Missing));
        let (named, problem) = fault(field, Some(json!(null)));
        assert_eq!(named, field);
        assert!(matches!(problem, Problem::Type { found: "nil", .. }));
    }
    assert_eq!(
        fault("target", Some(json!({"link_name": ""}))),
        ("target.public_key", Problem::Missing)
    );
    let (named, _) = fault("target", Some(json!({"public_key": "V", "link_name": null})));
    assert_eq!(named, "target.link_name");
    for bad in [json!(true), json!(1.5), json!([256]), json!(["x"]), json!({})] {
        assert_eq!(fault("msg", Some(bad)).0, "msg");
    }
    assert_eq!(fault("content_length", Some(json!("3"))).0, "content_length");
    assert_eq!(fault("content_length", Some(json!(-5))), ("content_length", Problem::Negative));

    let twice = HEXUPPER.decode(b"82A26964A131A26964A132").unwrap();
    assert_eq!(invocation(twice), Err(DecodeError { field: "id", problem: Problem::Duplicate }));
    let latin1 = HEXUPPER.decode(b"81A26964A1FF").unwrap();
    let error = invocation(latin1).unwrap_err();
    assert_eq!(error.to_string(), "field `id` is not UTF-8 text");
    for bytes in [[].as_slice(), &[0xC0], &[0x01]] {
        assert_eq!(invocation(bytes).unwrap_err().field, "invocation");
        assert_eq!(response(bytes).unwrap_err().field, "response");
    }
}

#[test]
fn the_older_hosts_responses_are_read() {
    // Any bytes in a string.
    let mut raw = b"\x83\xa3msg\xa3\xff\x00\xfe\xadinvocation_id\xa11\xabinstance_id\xa1x".to_vec();
    let read = response(raw.clone()).unwrap();
    assert_eq!(read.msg, b"\xff\x00\xfe".as_slice());
    assert_eq!((read.content_length, read.error), (3, None));

    raw.splice(5..9, [0xC0]);
    assert_eq!(response(raw).unwrap().msg, Bytes::new());

    let not_running = response(pack(&json!({"msg": [], "error": "not running"}))).unwrap();
    assert_eq!(not_running.error.as_deref(), Some("not running"));

    let empty = response(pack(&json!({"error": "", "invocation_id": null}))).unwrap();
    assert_eq!(empty.error, None);
    let latin1 = response(b"\x81\xa5error\xa1\xe9".to_vec()).unwrap();
    assert_eq!(latin1.error.as_deref(), Some("\u{fffd}"));
}

#[test]
fn lengths_are_not_believed() {
    for hex in [
        "81A36D7367DDFFFFFFFF", // msg: array of 4 Gi bytes
        "81A36D7367C6FFFFFFFF", // msg: 4 GiB of binary
        "81A178DFFFFFFFFF",     // x: map of 4 Gi entries
        "81A178C9FFFFFFFF00",   // x: extension of 4 GiB
        "DFFFFFFFFF",
        "DDFFFFFFFF",
    ] {
        let bytes = HEXUPPER.decode(hex.as_bytes()).unwrap();
        assert_eq!(response(bytes.clone()).unwrap_err().problem, Problem::Truncated);
        assert_eq!(invocation(bytes).unwrap_err().problem, Problem::Truncated);
    }
    // A million nested arrays do not exhaust the stack.
    let mut deep = b"\x81\xa1x".to_vec();
    deep.extend(vec![0x91; 1_000_000]);
    deep.push(0xC0);
    assert!(response(deep).is_ok());
}

#[test]
fn every_kind_of_value_is_skipped() {
    for (marker, bytes) in [
        (0xC2, 0),
        (0xCA, 4),
        (0xCB, 8),
        (0xC1, 0),
        (0xE0, 0),
        (0xCF, 8),
        (0xD3, 8),
        (0xD4, 2),
        (0xD5, 3),
        (0xD6, 5),
        (0xD7, 9),
        (0xD8, 17),
    ] {
        let mut message = b"\x82\xa1x".to_vec();
        message.push(marker);
        message.extend(vec![0; bytes]);
        message.extend(b"\xa5error\xa1e");
        let read = response(message).unwrap();
        assert_eq!(read.error.as_deref(), Some("e"), "{marker:x}");
    }
    for value in [
        b"\xc7\x02\x01ab".as_slice(),
        b"\xc8\x00\x02\x01ab",
        b"\xc9\x00\x00\x00\x02\x01ab",
        b"\xde\x00\x01\x01\x02",
        b"\xdf\x00\x00\x00\x01\x01\x02",
        b"\xdc\x00\x01\x02",
        b"\xdd\x00\x00\x00\x01\x02",
        b"\xc5\x00\x01a",
        b"\xdb\x00\x00\x00\x01a",
    ] {
        // Also as a key that is no string.
        for message in [
            [b"\x82\xa1x", value, b"\xa5error\xa1e"].concat(),
            [b"\x82", value, b"\x01\xa5error\xa1e"].concat(),
        ] {
            let read = response(message).unwrap();
            assert_eq!(read.error.as_deref(), Some("e"), "{value:x?}");
        }
    }
}

fn any_entity() -> impl Strategy<Value = Entity> {
    (".{0,300}", ".{0,40}", ".{0,40}")
        .prop_map(|(key, link, contract)| Entity::new(&key, &link, &contract))
}

fn any_trace() -> impl Strategy<Value = TraceContext> {
    prop::collection::vec((".{0,20}", ".{0,60}"), 0..20).prop_map(TraceContext)
}

prop_compose! {
    fn any_invocation()(
        origin in any_entity(),
        target in any_entity(),
        operation in ".{0,40}",
        msg in prop::collection::vec(any::<u8>(), 0..70_000),
        id in ".{0,40}",
        encoded_claims in ".{0,300}",
        host_id in ".{0,40}",
        content_length: u64,
        trace_context in any_trace(),
    ) -> Invocation {
        Invocation { encoded_claims, content_length, trace_context,
            ..Invocation::new(origin, target, operation, msg.into(), id, host_id) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn invocations_survive_the_round_trip(invocation in any_invocation()) {
        let encoded = encode_invocation(&invocation);
        let theirs: PeerInvocation = deserialize(&encoded).unwrap();
        prop_assert_eq!(theirs.content_length, Some(invocation.content_length));
        prop_assert_eq!(decode_invocation(encoded.clone()), Ok(invocation));
    }

    #[test]
    fn responses_survive_the_round_trip(
        msg: Vec<u8>, id in ".{0,40}", error in prop::option::of(".{1,300}"), content_length: u64, trace_context in any_trace(),
    ) {
        let response = InvocationResponse { error, content_length, trace_context,
            ..InvocationResponse::success(id, msg.into()) };
        let encoded = encode_response(&response);
        prop_assert_eq!(decode_response(encoded.clone()), Ok(response));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>) {
        let _ = invocation(bytes.clone());
        let _ = response(bytes);
    }

    #[test]
    fn damaged_messages_do_not_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut: Option<prop::sample::Index>,
        array: bool,
    ) {
        let mut bytes = if array {
            to_vec(&peer_invocation(Some(13), Some("t"))).unwrap()
        } else {
            encode_invocation(&known_invocation()).to_vec()
        };
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = response(bytes.clone());
        let _ = invocation(bytes);
    }
}

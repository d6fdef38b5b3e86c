//! Every structure against the published crate, and the arguments of the CBOR years.

use serde::{Serialize, de::DeserializeOwned};
use wasmbus_rpc::common::{deserialize, serialize};
use wasmcloud_interface_blobstore as published;

use super::*;
use crate::contracts::encode;

/// Both ends write the same bytes and read each other's.
fn agree<O, P>(ours: O, theirs: P)
where
    O: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
    P: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let bytes = serialize(&theirs).unwrap();
    assert_eq!(encode(&ours), bytes, "{ours:?}");
    assert_eq!(decode::<O>("it", &bytes).unwrap(), ours);
    assert_eq!(deserialize::<P>(&encode(&ours)).unwrap(), theirs);
}

fn chunk() -> (Chunk, published::Chunk) {
    let bytes = vec![0, 1, 0xff];
    (
        Chunk {
            object_id: "o".into(),
            container_id: "c".into(),
            bytes: bytes.clone().into(),
            offset: 1 << 40,
            is_last: true,
        },
        published::Chunk {
            object_id: "o".into(),
            container_id: "c".into(),
            bytes,
            offset: 1 << 40,
            is_last: true,
        },
    )
}

#[test]
fn structures_are_those_of_the_published_crate() {
    let (ours, theirs) = chunk();
    agree(ours.clone(), theirs.clone());
    agree(
        ChunkResponse { cancel_download: true },
        published::ChunkResponse { cancel_download: true },
    );
    let time = wasmbus_rpc::Timestamp::new(1_700_000_000, 5).unwrap();
    for is_known in [true, false] {
        let text = |text: &str| is_known.then(|| text.to_owned());
        let our_time = is_known.then_some(Timestamp { sec: 1_700_000_000, nsec: 5 });
        agree(
            ContainerMetadata { container_id: "c".into(), created_at: our_time },
            published::ContainerMetadata {
                container_id: "c".into(),
                created_at: is_known.then_some(time),
            },
        );
        let object = ObjectMetadata {
            object_id: "o".into(),
            container_id: "c".into(),
            content_length: 9,
            last_modified: our_time,
            content_type: text("text/plain"),
            content_encoding: text("gzip"),
        };
        let their_object = published::ObjectMetadata {
            object_id: "o".into(),
            container_id: "c".into(),
            content_length: 9,
            last_modified: is_known.then_some(time),
            content_type: text("text/plain"),
            content_encoding: text("gzip"),
        };
        agree(object.clone(), their_object.clone());
        agree(
            ListObjectsResponse {
                objects: vec![object],
                is_last: !is_known,
                continuation: text("next"),
            },
            published::ListObjectsResponse {
                objects: vec![their_object],
                is_last: !is_known,
                continuation: text("next"),
            },
        );
        agree(
            ListObjectsRequest {
                container_id: "c".into(),
                start_with: text("a"),
                continuation: text("n"),
                end_with: text("y"),
                end_before: text("z"),
                max_items: is_known.then_some(70_000),
            },
            published::ListObjectsRequest {
                container_id: "c".into(),
                start_with: text("a"),
                continuation: text("n"),
                end_with: text("y"),
                end_before: text("z"),
                max_items: is_known.then_some(70_000),
            },
        );
        agree(
            GetObjectRequest {
                object_id: "o".into(),
                container_id: "c".into(),
                range_start: is_known.then_some(0),
                range_end: is_known.then_some(u64::MAX),
            },
            published::GetObjectRequest {
                object_id: "o".into(),
                container_id: "c".into(),
                range_start: is_known.then_some(0),
                range_end: is_known.then_some(u64::MAX),
            },
        );
        agree(
            GetObjectResponse {
                success: is_known,
                error: text("why"),
                initial_chunk: is_known.then(|| ours.clone()),
                content_length: 3,
                content_type: text("text/plain"),
                content_encoding: text("gzip"),
            },
            published::GetObjectResponse {
                success: is_known,
                error: text("why"),
                initial_chunk: is_known.then(|| theirs.clone()),
                content_length: 3,
                content_type: text("text/plain"),
                content_encoding: text("gzip"),
            },
        );
        agree(
            ItemResult { key: "k".into(), success: is_known, error: text("why") },
            published::ItemResult { key: "k".into(), success: is_known, error: text("why") },
        );
        agree(
            PutObjectRequest {
                chunk: ours.clone(),
                content_type: text("a/b"),
                content_encoding: text("br"),
            },
            published::PutObjectRequest {
                chunk: theirs.clone(),
                content_type: text("a/b"),
                content_encoding: text("br"),
            },
        );
        agree(
            PutObjectResponse { stream_id: text("s") },
            published::PutObjectResponse { stream_id: text("s") },
        );
        agree(
            PutChunkRequest {
                chunk: ours.clone(),
                stream_id: text("s"),
                cancel_and_remove: is_known,
            },
            published::PutChunkRequest {
                chunk: theirs.clone(),
                stream_id: text("s"),
                cancel_and_remove: is_known,
            },
        );
    }
    agree(
        ContainerObject { container_id: "c".into(), object_id: "o".into() },
        published::ContainerObject { container_id: "c".into(), object_id: "o".into() },
    );
    agree(
        RemoveObjectsRequest { container_id: "c".into(), objects: vec!["a".into(), "b".into()] },
        published::RemoveObjectsRequest {
            container_id: "c".into(),
            objects: vec!["a".into(), "b".into()],
        },
    );
}

/// The bytes of CBOR, written by hand: arrays in the order of the declaration, null for what is
/// absent.
fn cbor(parts: &[&[u8]]) -> Vec<u8> {
    [&[0x7f_u8][..], &parts.concat()].concat()
}

#[test]
fn arrays_of_the_cbor_years_are_read() {
    // array(5) "o" "c" bytes(3) 0x1_0000_0000 true
    const CHUNK: &[u8] = b"\x85\x61o\x61c\x43\x00\x01\xff\x1b\x00\x00\x00\x01\x00\x00\x00\x00\xf5";
    let chunk = Chunk {
        object_id: "o".into(),
        container_id: "c".into(),
        bytes: Bytes::from_static(&[0, 1, 0xff]),
        offset: 1 << 32,
        is_last: true,
    };
    assert_eq!(decode::<Chunk>("it", &cbor(&[CHUNK])).unwrap(), chunk);
    assert_eq!(
        decode::<PutObjectRequest>("it", &cbor(&[b"\x83", CHUNK, b"\x6atext/plain\xf6"])).unwrap(),
        PutObjectRequest {
            chunk: chunk.clone(),
            content_type: Some("text/plain".into()),
            content_encoding: None
        }
    );
    assert_eq!(
        decode::<PutChunkRequest>("it", &cbor(&[b"\x83", CHUNK, b"\xf6\xf4"])).unwrap(),
        PutChunkRequest { chunk, stream_id: None, cancel_and_remove: false }
    );
    assert_eq!(
        decode::<ContainerObject>("it", &cbor(&[b"\x82\x61c\x61o"])).unwrap(),
        ContainerObject { container_id: "c".into(), object_id: "o".into() }
    );
    let request = GetObjectRequest::decode(&cbor(&[b"\x84\x61o\x61c\x00\x00"])).unwrap();
    assert_eq!((request.range_start, request.range_end), (Some(0), Some(0)), "the first byte");
    let request = GetObjectRequest::decode(&cbor(&[b"\x84\x61o\x61c\xf6\x19\x01\x00"])).unwrap();
    assert_eq!((request.range_start, request.range_end), (None, Some(256)));
    assert_eq!(
        decode::<ListObjectsRequest>("it", &cbor(&[b"\x86\x61c\x61a\xf6\xf6\x61z\x18\x64"]))
            .unwrap(),
        ListObjectsRequest {
            container_id: "c".into(),
            start_with: Some("a".into()),
            end_before: Some("z".into()),
            max_items: Some(100),
            ..Default::default()
        }
    );
    assert_eq!(
        decode::<RemoveObjectsRequest>("it", &cbor(&[b"\x82\x61c\x82\x61a\x61b"])).unwrap().objects,
        ["a", "b"]
    );
    assert_eq!(
        decode::<ChunkResponse>("it", &cbor(&[b"\x81\xf5"])).unwrap(),
        ChunkResponse { cancel_download: true }
    );
    assert_eq!(decode::<String>("it", &cbor(&[b"\x61c"])).unwrap(), "c");
    assert_eq!(
        decode::<Vec<String>>("it", &cbor(&[b"\x9f\x61c\xff"])).unwrap(),
        ["c"],
        "of unknown length"
    );
}

#[test]
fn maps_of_go_are_read_with_their_empty_members() {
    let request = GetObjectRequest::decode(&cbor(&[
        b"\xa4\x68objectId\x61o\x6bcontainerId\x61c\x6arangeStart\x00\x68rangeEnd\x00",
    ]));
    let whole = GetObjectRequest {
        object_id: "o".into(),
        container_id: "c".into(),
        range_start: None,
        range_end: None,
    };
    assert_eq!(request.unwrap(), whole);
    let put: PutObjectRequest = decode(
        "it",
        &cbor(&[
            b"\xa3\x65chunk\xa5\x68objectId\x61o\x6bcontainerId\x61c\x65bytes\x42hi\x66offset\x00\x66isLast\xf5",
            b"\x6bcontentType\x60\x6fcontentEncoding\x60",
        ]),
    )
    .unwrap();
    assert_eq!((put.chunk.bytes.as_ref(), put.chunk.is_last), (&b"hi"[..], true));
    assert_eq!(given(put.content_type), None);
}

#[test]
fn bytes_may_come_as_text_or_numbers() {
    for bytes in [serde_json::json!("hi"), serde_json::json!([104, 105])] {
        let map = serde_json::json!({"objectId": "o", "containerId": "c", "bytes": bytes, "offset": 0, "isLast": true});
        let chunk: Chunk = decode("it", &rmp_serde::to_vec_named(&map).unwrap()).unwrap();
        assert_eq!(chunk.bytes.as_ref(), b"hi");
    }
    let bare = rmp_serde::to_vec("object").unwrap();
    let error =
        decode::<ContainerObject>("Blobstore.GetObjectInfo", &bare).unwrap_err().to_string();
    assert!(error.contains("Blobstore.GetObjectInfo"), "{error}");
}

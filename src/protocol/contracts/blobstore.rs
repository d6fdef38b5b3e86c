//! `wasmcloud:blobstore`: an actor keeps objects in containers (wasmbus protocol, section 5.7).
//!
//! Large objects travel in chunks: up in `PutObject` and then `PutChunk`s, down in the answer to
//! `GetObject` and then in calls of the actor's `ChunkReceiver.ReceiveChunk`. The fields stand in
//! the order of the published declaration, which is the order of the arrays that actors of the CBOR
//! years send. Those of Go send every member, and mean an absent one by an empty text or zero:
//! [`given`] and [`GetObjectRequest::decode`] know that.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{PayloadError, decode};
use crate::serde_null::null_as_default;

pub const CONTRACT_ID: &str = "wasmcloud:blobstore";
pub const SERVICE: &str = "Blobstore";
/// The operation of actors that takes the further chunks of an object.
pub const RECEIVE_CHUNK: &str = "ChunkReceiver.ReceiveChunk";

/// Begins CBOR, after the marker: these bits of a byte say that a map follows.
const CBOR_MAJOR_MAP: u8 = 5;

/// A part of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    #[serde(rename = "objectId")]
    pub object_id: String,
    #[serde(rename = "containerId")]
    pub container_id: String,
    #[serde(with = "blob")]
    pub bytes: Bytes,
    /// Where in the object it begins.
    #[serde(default, deserialize_with = "null_as_default")]
    pub offset: u64,
    #[serde(default, rename = "isLast", deserialize_with = "null_as_default")]
    pub is_last: bool,
}

/// The answer of an actor to a chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkResponse {
    #[serde(default, rename = "cancelDownload", deserialize_with = "null_as_default")]
    pub cancel_download: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerMetadata {
    #[serde(rename = "containerId")]
    pub container_id: String,
    #[serde(default, rename = "createdAt", skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerObject {
    #[serde(rename = "containerId")]
    pub container_id: String,
    #[serde(rename = "objectId")]
    pub object_id: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetObjectRequest {
    #[serde(rename = "objectId")]
    pub object_id: String,
    #[serde(rename = "containerId")]
    pub container_id: String,
    #[serde(default, rename = "rangeStart", skip_serializing_if = "Option::is_none")]
    pub range_start: Option<u64>,
    /// Inclusive.
    #[serde(default, rename = "rangeEnd", skip_serializing_if = "Option::is_none")]
    pub range_end: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetObjectResponse {
    pub success: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, rename = "initialChunk", skip_serializing_if = "Option::is_none")]
    pub initial_chunk: Option<Chunk>,
    #[serde(rename = "contentLength")]
    pub content_length: u64,
    #[serde(default, rename = "contentType", skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(default, rename = "contentEncoding", skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
}

/// The result for one of several items.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemResult {
    pub key: String,
    pub success: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListObjectsRequest {
    #[serde(rename = "containerId")]
    pub container_id: String,
    /// Only names that begin so.
    #[serde(default, rename = "startWith", skip_serializing_if = "Option::is_none")]
    pub start_with: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continuation: Option<String>,
    /// The last name, inclusive.
    #[serde(default, rename = "endWith", skip_serializing_if = "Option::is_none")]
    pub end_with: Option<String>,
    /// The last name, exclusive.
    #[serde(default, rename = "endBefore", skip_serializing_if = "Option::is_none")]
    pub end_before: Option<String>,
    #[serde(default, rename = "maxItems", skip_serializing_if = "Option::is_none")]
    pub max_items: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListObjectsResponse {
    pub objects: Vec<ObjectMetadata>,
    #[serde(rename = "isLast")]
    pub is_last: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continuation: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectMetadata {
    #[serde(rename = "objectId")]
    pub object_id: String,
    #[serde(rename = "containerId")]
    pub container_id: String,
    #[serde(rename = "contentLength")]
    pub content_length: u64,
    #[serde(default, rename = "lastModified", skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<Timestamp>,
    #[serde(default, rename = "contentType", skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(default, rename = "contentEncoding", skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutChunkRequest {
    pub chunk: Chunk,
    #[serde(default, rename = "streamId", skip_serializing_if = "Option::is_none")]
    pub stream_id: Option<String>,
    #[serde(default, rename = "cancelAndRemove", deserialize_with = "null_as_default")]
    pub cancel_and_remove: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutObjectRequest {
    pub chunk: Chunk,
    #[serde(default, rename = "contentType", skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(default, rename = "contentEncoding", skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutObjectResponse {
    #[serde(default, rename = "streamId", skip_serializing_if = "Option::is_none")]
    pub stream_id: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveObjectsRequest {
    #[serde(rename = "containerId")]
    pub container_id: String,
    pub objects: Vec<String>,
}

/// An instant, since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    pub sec: i64,
    pub nsec: u32,
}

impl GetObjectRequest {
    /// Reads the argument. Actors of Go, which send CBOR maps, ask for the whole object with a
    /// range of 0 to 0; from others that is its first byte.
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        let mut request: Self = decode("Blobstore.GetObject", payload)?;
        let is_cbor_map =
            matches!(payload, [super::CBOR_MARKER, first, ..] if first >> 5 == CBOR_MAJOR_MAP);
        if is_cbor_map && (request.range_start, request.range_end) == (Some(0), Some(0)) {
            (request.range_start, request.range_end) = (None, None);
        }
        Ok(request)
    }
}

/// An optional text, of which the empty one is none.
pub fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// Bytes: written as such, read as [`Binary`](super::binary::Binary) reads them.
mod blob {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::contracts::binary::Binary;

    pub(super) fn serialize<S: Serializer>(
        bytes: &Bytes,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Bytes, D::Error> {
        Ok(Binary::deserialize(deserializer)?.0)
    }
}

#[cfg(test)]
mod tests;

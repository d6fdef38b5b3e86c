//! The metadata of objects, and the names and ids in it.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest::Context as Digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::contracts::blobstore::{ObjectMetadata, Timestamp};

/// The size of a stored piece, as that of other clients.
pub(super) const PIECE_BYTES: usize = 128 * 1024;
pub(super) const CONTENT_TYPE: &str = "content-type";
pub(super) const CONTENT_ENCODING: &str = "content-encoding";

/// The metadata of an object, in the form all clients share.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Info {
    pub(super) name: String,
    #[serde(default)]
    pub(super) metadata: Option<HashMap<String, String>>,
    #[serde(default)]
    pub(super) options: Option<serde_json::Value>,
    pub(super) bucket: String,
    pub(super) nuid: String,
    #[serde(default)]
    pub(super) size: u64,
    #[serde(default)]
    pub(super) chunks: u64,
    /// When it was stored. Read by clients of two generations under two names.
    #[serde(default, alias = "modified")]
    pub(super) mtime: Option<String>,
    #[serde(default)]
    pub(super) digest: Option<String>,
    #[serde(default)]
    pub(super) deleted: bool,
}

impl Info {
    pub(super) fn new(name: String, bucket: String, nuid: String) -> Self {
        let options = serde_json::json!({ "max_chunk_size": PIECE_BYTES });
        Self { name, bucket, nuid, options: Some(options), ..Default::default() }
    }

    /// Completes the metadata when all bytes are known.
    pub(super) fn with_digest(mut self, digest: Digest) -> Self {
        self.digest = Some(format!("SHA-256={}", URL_SAFE.encode(digest.finish().as_ref())));
        self.mtime = OffsetDateTime::now_utc().format(&Rfc3339).ok();
        self
    }

    pub(super) fn time(&self) -> Option<Timestamp> {
        let time = OffsetDateTime::parse(self.mtime.as_deref()?, &Rfc3339).ok()?;
        Some(Timestamp { sec: time.unix_timestamp(), nsec: time.nanosecond() })
    }

    pub(super) fn object(&self, container: String, object: String) -> ObjectMetadata {
        let content = |name: &str| self.metadata.as_ref().and_then(|metadata| metadata.get(name)).cloned();
        ObjectMetadata {
            object_id: object,
            container_id: container,
            content_length: self.size,
            last_modified: self.time(),
            content_type: content(CONTENT_TYPE),
            content_encoding: content(CONTENT_ENCODING),
        }
    }
}

/// The name of an object, as subjects and headers carry it.
pub(super) fn encoded(name: &str) -> String {
    URL_SAFE.encode(name)
}

pub(super) fn decoded(encoded: &str) -> Option<String> {
    String::from_utf8(URL_SAFE.decode(encoded).ok()?).ok()
}

/// The object that stands for a container.
pub(super) fn marker(container: &str) -> String {
    format!("{container}/")
}

pub(super) fn full_name(container: &str, object: &str) -> String {
    format!("{container}/{object}")
}

pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

pub(super) fn new_nuid() -> String {
    format!("{:010}-{}", now().as_secs(), uuid::Uuid::new_v4().simple())
}

/// When the upload of pieces with this id began, in seconds since 1970, if it is an id of ours.
pub(super) fn begun_at(nuid: &str) -> Option<u64> {
    let (seconds, id) = nuid.split_once('-')?;
    (id.len() == 32).then(|| seconds.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_pieces_tell_when_their_upload_began() {
        let begun = begun_at(&new_nuid()).unwrap();
        assert!(now().as_secs() - begun < 60);
        for other in ["", "x", "0123456789", "VN5SP1W5JG3GT1Z0G1CEAB", "12-34"] {
            assert_eq!(begun_at(other), None, "{other:?}");
        }
    }
}

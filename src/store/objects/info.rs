//! The metadata of objects, and the names and ids in it.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest::Context as Digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The size of a stored piece, as that of other clients.
pub const PIECE_BYTES: usize = 128 * 1024;

/// The metadata of an object, in the form all clients share.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Info {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default)]
    pub metadata: Option<HashMap<String, String>>,
    #[serde(default)]
    pub options: Option<serde_json::Value>,
    pub bucket: String,
    pub nuid: String,
    #[serde(default)]
    pub size: u64,
    #[serde(default)]
    pub chunks: u64,
    /// When it was stored. Read by clients of two generations under two names.
    #[serde(default, alias = "modified")]
    pub mtime: Option<String>,
    #[serde(default)]
    pub digest: Option<String>,
    #[serde(default)]
    pub deleted: bool,
}

impl Info {
    /// That of an object without bytes, of which the pieces get a new id.
    pub fn new(name: String, bucket: String) -> Self {
        let options = serde_json::json!({ "max_chunk_size": PIECE_BYTES });
        Self { name, bucket, nuid: new_nuid(), options: Some(options), ..Default::default() }
    }

    /// Completes the metadata when all bytes are known.
    pub fn with_digest(mut self, digest: Digest) -> Self {
        self.digest = Some(digest_text(digest.finish().as_ref()));
        self.stored_now()
    }

    /// Says that it was stored at this time.
    pub fn stored_now(mut self) -> Self {
        self.mtime = OffsetDateTime::now_utc().format(&Rfc3339).ok();
        self
    }

    /// When it was stored, if it says so.
    pub fn time(&self) -> Option<OffsetDateTime> {
        OffsetDateTime::parse(self.mtime.as_deref()?, &Rfc3339).ok()
    }

    /// Whether it says that its bytes have this hash. Some clients leave the padding out.
    pub fn has_digest(&self, hash: &[u8]) -> bool {
        let said = self.digest.as_deref().unwrap_or_default();
        said.trim_end_matches('=') == digest_text(hash).trim_end_matches('=')
    }
}

/// A hash as metadata has it.
fn digest_text(hash: &[u8]) -> String {
    format!("SHA-256={}", URL_SAFE.encode(hash))
}

/// The name of an object, as subjects and headers carry it.
pub fn encoded(name: &str) -> String {
    URL_SAFE.encode(name)
}

/// The name that subjects and headers carry, if it is one.
pub fn decoded(encoded: &str) -> Option<String> {
    String::from_utf8(URL_SAFE.decode(encoded).ok()?).ok()
}

pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn new_nuid() -> String {
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

    #[test]
    fn digests_are_compared_with_and_without_padding() {
        let hash = crate::identity::digest::sha256(b"");
        let with = |digest: &str| Info { digest: Some(digest.into()), ..Info::default() };
        assert!(with("SHA-256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU=").has_digest(&hash));
        assert!(with("SHA-256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU").has_digest(&hash));
        assert!(!with("SHA-256=").has_digest(&hash) && !Info::default().has_digest(&hash));
    }
}

//! The metadata of objects, and the names and ids in it.

use std::{collections::HashMap, fmt, time::Duration};

use aws_lc_rs::digest::Context as Digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use lattice_protocol::clock;

/// The size of a stored piece, as that of other clients.
pub const PIECE_BYTES: usize = 128 * 1024;

/// The longest id of pieces, in characters. Those of all known clients have 22 to 43.
const PIECE_ID_MAX: usize = 64;

/// The id that the pieces of an object share: the last token of their subject.
///
/// Metadata is written by strangers, so an id that it names is parsed before it becomes a part of a
/// subject: a wildcard in it would mean the pieces of everybody.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PieceId(String);

impl PieceId {
    /// Makes a new id that tells when the upload began.
    pub fn new() -> Self {
        Self(format!("{:010}-{}", now().as_secs(), uuid::Uuid::new_v4().simple()))
    }

    /// Reads an id: 1 to 64 letters, digits, `-` and `_`.
    pub fn parse(text: &str) -> Option<Self> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        let is_id = (1..=PIECE_ID_MAX).contains(&text.len()) && text.bytes().all(is_plain);
        is_id.then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// When the upload of these pieces began, in seconds since 1970, if it is an id of ours.
    pub(super) fn begun_at(&self) -> Option<u64> {
        let (seconds, id) = self.0.split_once('-')?;
        (id.len() == 32).then(|| seconds.parse().ok()).flatten()
    }
}

impl Default for PieceId {
    fn default() -> Self {
        Self::new()
    }
}

impl TryFrom<String> for PieceId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or(
            "the id of the pieces has other characters than letters, digits, - and _, or too many",
        )
    }
}

impl From<PieceId> for String {
    fn from(id: PieceId) -> Self {
        id.0
    }
}

impl fmt::Display for PieceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The subject of pieces in a bucket.
pub fn piece_subject(bucket: &str, id: &PieceId) -> String {
    format!("$O.{bucket}.C.{id}")
}

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
    pub nuid: PieceId,
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
        Self { name, bucket, nuid: PieceId::new(), options: Some(options), ..Default::default() }
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
    clock::unix_time()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_pieces_tell_when_their_upload_began() {
        let begun = PieceId::new().begun_at().unwrap();
        assert!(now().as_secs() - begun < 60);
        for other in ["x", "0123456789", "VN5SP1W5JG3GT1Z0G1CEAB", "12-34"] {
            assert_eq!(PieceId::parse(other).unwrap().begun_at(), None, "{other:?}");
        }
    }

    #[test]
    fn ids_of_pieces_cannot_name_those_of_others() {
        let long = "x".repeat(65);
        for bad in ["", ">", "*", "a.>", "a.b", "a b", "a\r\nPUB x 0", "ä", "$JS", &long] {
            assert_eq!(PieceId::parse(bad), None, "{bad:?}");
            let metadata = serde_json::json!({"name": "x", "bucket": "b", "nuid": bad});
            assert!(serde_json::from_value::<Info>(metadata).is_err(), "{bad:?}");
        }
        for good in ["VN5SP1W5JG3GT1Z0G1CEAB", "a", &long[1..], PieceId::new().as_str()] {
            let metadata = serde_json::json!({"name": "x", "bucket": "b", "nuid": good});
            let info: Info = serde_json::from_value(metadata).unwrap();
            assert_eq!(piece_subject("b", &info.nuid), format!("$O.b.C.{good}"));
            assert_eq!(serde_json::to_value(&info).unwrap()["nuid"], good);
        }
    }

    #[test]
    fn digests_are_compared_with_and_without_padding() {
        let hash = lattice_protocol::identity::digest::sha256(b"");
        let with = |digest: &str| Info { digest: Some(digest.into()), ..Info::default() };
        assert!(with("SHA-256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU=").has_digest(&hash));
        assert!(with("SHA-256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU").has_digest(&hash));
        assert!(!with("SHA-256=").has_digest(&hash) && !Info::default().has_digest(&hash));
    }
}

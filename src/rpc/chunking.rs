//! Payloads too large for a message travel through the object store of the lattice (wasmbus protocol, section 3).
//!
//! The sender stores the object, then publishes the invocation with an empty `msg` and the full `content_length`. The
//! reader fetches it and deletes it. Objects are named after the invocation, a reply's has `-r` appended.
//!
//! Peers wrote and read four generations of the object's metadata, on two subjects. A reader of any generation finds its
//! own here: the union of all members is written to both subjects, and both are looked at when reading. Providers of
//! those years know no JetStream domain, so reading tries the configured domain first and then none.
//!
//! Whoever dies between storing and reading leaves an object behind; [`Chunks::sweep`] removes what this host stored and
//! nobody fetched.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_nats::{
    HeaderMap,
    jetstream::{
        Context, ErrorCode,
        context::{GetStreamErrorKind, PublishAckFuture},
        stream::{self, Stream},
    },
};
use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::debug;

use crate::store::{jetstream::context, objects};

/// Larger payloads travel through the object store; the threshold of all peers since late 2022.
pub const THRESHOLD_BYTES: usize = 900 * 1024;
/// What the envelope around a payload may take of the server's `max_payload`.
const ENVELOPE_BYTES: usize = 24 * 1024;
/// Size of one stored piece.
const PIECE_BYTES: usize = 128 * 1024;
/// Pieces that may be on their way at a time.
const UNCONFIRMED_MAX: usize = 32;
/// How much longer a caller waits when its payload went through the object store.
pub const EXTRA_TIME: Duration = Duration::from_secs(13);
/// No payload is larger than this, whatever a message claims.
pub const PAYLOAD_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Objects nobody fetched are removed after this time.
const ABANDONED_AFTER: Duration = Duration::from_secs(120);
/// Time between two pieces before a fetch counts as failed.
const PIECE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a large payload could not be stored or fetched.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    #[error(
        "{bytes} bytes need the object store {bucket}, which cannot be used: {cause}. Is JetStream enabled in the configured domain?"
    )]
    Store { bytes: usize, bucket: String, cause: String },
    #[error("the payload {name} is not in the object store {bucket}: {cause}")]
    Fetch { name: String, bucket: String, cause: String },
}

/// Stores and fetches large payloads. Cheap to clone.
#[derive(Clone)]
pub struct Chunks(Arc<Inner>);

struct Inner {
    /// The configured domain first, then none.
    contexts: Vec<Context>,
    bucket: String,
    threshold: usize,
    // Held for a few lines, never across an await.
    stored: Mutex<VecDeque<(Instant, String)>>,
}

/// The members of an object's metadata that a reader needs, whatever their generation.
#[derive(Deserialize)]
struct Metadata {
    nuid: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    deleted: bool,
    #[serde(default)]
    digest: Option<String>,
}

/// The object name of a reply.
pub fn reply_name(invocation_id: &str) -> String {
    format!("{invocation_id}-r")
}

impl Chunks {
    pub fn new(client: &async_nats::Client, domain: Option<&str>, lattice: &str) -> Self {
        let mut contexts = vec![context(client, domain)];
        if domain.is_some() {
            contexts.push(context(client, None));
        }
        let room = client.max_payload().saturating_sub(ENVELOPE_BYTES);
        Self(Arc::new(Inner {
            contexts,
            bucket: lattice.to_owned(),
            threshold: THRESHOLD_BYTES.min(room),
            stored: Mutex::new(VecDeque::new()),
        }))
    }

    /// Whether a payload of this size must go through the object store.
    pub fn is_needed(&self, bytes: usize) -> bool {
        bytes > self.0.threshold
    }

    /// Stores a payload under a name.
    pub async fn put(&self, name: &str, payload: &Bytes) -> Result<(), ChunkError> {
        self.remember(name);
        self.0.put(name, payload).await.map_err(|cause| ChunkError::Store {
            bytes: payload.len(),
            bucket: self.0.bucket.clone(),
            cause,
        })
    }

    /// Fetches a payload and deletes it. `expected` is what the message said about its length.
    pub async fn take(&self, name: &str, expected: u64) -> Result<Bytes, ChunkError> {
        let error = |cause: String| ChunkError::Fetch { name: name.to_owned(), bucket: self.0.bucket.clone(), cause };
        if !is_safe_name(name) {
            return Err(error("the invocation id has characters no object name may have".into()));
        }
        if expected > PAYLOAD_BYTES_MAX {
            return Err(error(format!("{expected} bytes are more than the limit of {PAYLOAD_BYTES_MAX}")));
        }
        let mut last = String::from("no object store");
        for context in &self.0.contexts {
            match self.0.fetch(context, name, expected).await {
                Ok(payload) => return Ok(payload),
                Err(cause) => last = cause,
            }
        }
        Err(error(last))
    }

    /// Removes an object this host stored, if its reader has not done so.
    async fn discard(&self, name: &str) {
        if let Some(context) = self.0.contexts.first()
            && let Ok(stream) = context.get_stream_no_info(self.0.stream_name()).await
        {
            self.0.purge(&stream, name, None).await;
        }
    }

    /// Removes what this host stored a while ago and nobody fetched.
    pub async fn sweep(&self) {
        let abandoned: Vec<String> = {
            let mut stored = self.0.stored.lock().unwrap_or_else(PoisonError::into_inner);
            let keep_from = stored.iter().position(|(at, _)| at.elapsed() < ABANDONED_AFTER).unwrap_or(stored.len());
            stored.drain(..keep_from).map(|(_, name)| name).collect()
        };
        for name in abandoned {
            self.discard(&name).await;
        }
    }

    fn remember(&self, name: &str) {
        self.0.stored.lock().unwrap_or_else(PoisonError::into_inner).push_back((Instant::now(), name.to_owned()));
    }
}

impl Inner {
    fn stream_name(&self) -> String {
        objects::stream_name(&self.bucket)
    }

    fn metadata_subjects(&self, name: &str) -> [String; 2] {
        let bucket = &self.bucket;
        [format!("$O.{bucket}.M.{}", URL_SAFE.encode(name)), format!("$O.{bucket}.M.{}", name.replace(['.', ' '], "_"))]
    }

    async fn put(&self, name: &str, payload: &Bytes) -> Result<(), String> {
        let context = self.contexts.first().ok_or("no JetStream context")?;
        let stream = self.open_or_create(context).await?;
        let nuid = uuid::Uuid::new_v4().simple().to_string();
        let subject = format!("$O.{}.C.{nuid}", self.bucket);
        // In order, with a bounded number on their way: every unconfirmed piece holds a place in the client.
        let mut unconfirmed = VecDeque::new();
        let mut pieces = 0;
        for start in (0..payload.len()).step_by(PIECE_BYTES) {
            let piece = payload.slice(start..payload.len().min(start + PIECE_BYTES));
            if unconfirmed.len() >= UNCONFIRMED_MAX
                && let Some(ack) = unconfirmed.pop_front()
            {
                confirm(ack).await?;
            }
            unconfirmed.push_back(context.publish(subject.clone(), piece).await.map_err(|e| e.to_string())?);
            pieces += 1;
        }
        for ack in unconfirmed {
            confirm(ack).await?;
        }
        // An object of this name, from a caller that uses its ids twice, is replaced by the roll-up.
        let metadata = self.metadata(name, &nuid, payload, pieces);
        for subject in self.metadata_subjects(name) {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Rollup", "sub");
            let ack =
                context.publish_with_headers(subject, headers, metadata.clone()).await.map_err(|e| e.to_string())?;
            ack.await.map_err(|e| e.to_string())?;
        }
        debug!(name, bytes = payload.len(), pieces, stream = %stream.cached_info().config.name, "large payload stored");
        Ok(())
    }

    /// The union of the members that four generations of readers need.
    fn metadata(&self, name: &str, nuid: &str, payload: &[u8], pieces: usize) -> Bytes {
        let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let digest = format!("SHA-256={}", URL_SAFE.encode(digest(&SHA256, payload).as_ref()));
        let metadata = json!({
            "name": name, "description": null, "link": null, "options": null, "bucket": self.bucket, "nuid": nuid,
            "size": payload.len(), "chunks": pieces, "modified": now, "mtime": now, "digest": digest, "deleted": false,
        });
        metadata.to_string().into()
    }

    async fn open_or_create(&self, context: &Context) -> Result<Stream, String> {
        let name = self.stream_name();
        match context.get_stream(&name).await {
            Ok(stream) => return Ok(stream),
            Err(e) => match e.kind() {
                GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
                _ => return Err(e.to_string()),
            },
        }
        let bucket = &self.bucket;
        let created = context
            .create_stream(stream::Config {
                name: name.clone(),
                subjects: vec![format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")],
                allow_rollup: true,
                allow_direct: true,
                discard: stream::DiscardPolicy::New,
                storage: stream::StorageType::File,
                num_replicas: 1,
                ..Default::default()
            })
            .await;
        match created {
            Ok(stream) => Ok(stream),
            // Another host was first.
            Err(e) => context.get_stream(&name).await.map_err(|_| e.to_string()),
        }
    }

    async fn fetch(&self, context: &Context, name: &str, expected: u64) -> Result<Bytes, String> {
        let stream = context.get_stream(self.stream_name()).await.map_err(|e| e.to_string())?;
        let mut found = None;
        for subject in self.metadata_subjects(name) {
            if let Ok(message) = stream.get_last_raw_message_by_subject(&subject).await {
                let metadata: Metadata = serde_json::from_slice(&message.payload).map_err(|e| e.to_string())?;
                if !metadata.deleted {
                    found = Some(metadata);
                    break;
                }
            }
        }
        let metadata =
            found.ok_or("there is no such object; was it fetched before, or stored in another JetStream domain?")?;
        if metadata.size != 0 && metadata.size != expected {
            return Err(format!("it has {} bytes, the message announced {expected}", metadata.size));
        }
        let pieces = format!("$O.{}.C.{}", self.bucket, metadata.nuid);
        let payload = objects::whole(context, &stream, pieces, expected, PIECE_TIMEOUT).await?;
        if let Some(stored) = metadata.digest.as_deref().and_then(|text| text.strip_prefix("SHA-256=")) {
            let computed = URL_SAFE.encode(digest(&SHA256, &payload).as_ref());
            if computed.trim_end_matches('=') != stored.trim_end_matches('=') {
                return Err("its digest does not match its pieces".into());
            }
        }
        self.purge(&stream, name, Some(&metadata.nuid)).await;
        Ok(payload)
    }

    /// Removes an object: its metadata, and its pieces when their id is known or can be read.
    async fn purge<I>(&self, stream: &Stream<I>, name: &str, nuid: Option<&str>) {
        let mut nuid = nuid.map(str::to_owned);
        for subject in self.metadata_subjects(name) {
            if nuid.is_none()
                && let Ok(message) = stream.get_last_raw_message_by_subject(&subject).await
            {
                nuid = serde_json::from_slice::<Metadata>(&message.payload).ok().map(|metadata| metadata.nuid);
            }
            if let Err(error) = stream.purge().filter(subject).await {
                debug!(name, %error, "stored payload not removed");
            }
        }
        if let Some(nuid) = nuid
            && let Err(error) = stream.purge().filter(format!("$O.{}.C.{nuid}", self.bucket)).await
        {
            debug!(name, %error, "pieces of a stored payload not removed");
        }
    }
}

async fn confirm(ack: PublishAckFuture) -> Result<(), String> {
    ack.await.map(drop).map_err(|e| e.to_string())
}

/// Invocation ids come from strangers; only these characters may end up in a subject.
fn is_safe_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 128 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_=/.-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_subject_are_refused() {
        assert!(is_safe_name("0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b-r"));
        for name in ["", "a b", "a>", "a*", "a\r\nPUB", &"x".repeat(200)] {
            assert!(!is_safe_name(name), "{name:?}");
        }
    }
}

//! Payloads too large for a message travel through the object store of the lattice (wasmbus
//! protocol, section 3).
//!
//! The sender stores the object, then publishes the invocation with an empty `msg` and the full
//! `content_length`. The reader fetches it and deletes it. Objects are named after the invocation,
//! a reply's has `-r` appended.
//!
//! Peers wrote and read four generations of the object's metadata, on two subjects. A reader of any
//! generation finds its own here: the union of all members is written to both subjects, and both
//! are looked at when reading. Providers of those years know no JetStream domain, so reading tries
//! the configured domain first and then none.
//!
//! `name` has the names of objects, `stored` bounds and removes what this host has stored.
//!
//! # What a stranger can bring about
//!
//! Neither the length in a message nor the metadata of an object is signed, and whoever may publish
//! can write both. So:
//!
//! * A payload larger than its reader can hold is refused before anything is read
//!   ([`Settings::actor_bytes_max`]); bytes are paid for as they arrive, out of the host's
//!   [`Budget`]; no more than [`FETCHES_MAX`] are read at a time.
//! * Metadata names pieces by a [`PieceId`], never by a part of a subject.
//! * A payload is removed after its reader has verified it ([`Fetched::remove`]): a forged call
//!   destroys nothing.

mod name;
mod stored;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow, ensure};
use async_nats::{
    HeaderMap,
    jetstream::{
        self, ErrorCode,
        context::{
            GetStreamError, GetStreamErrorKind, PublishAckFuture, RequestError, RequestErrorKind,
        },
        stream::{self, Stream},
    },
};
use aws_lc_rs::digest::{Context as Hash, SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::Semaphore;
use tracing::debug;

use lattice_base::{
    budget::{self, Budget, Held, Shortage},
    store::{
        jetstream::{
            context,
            making::{Bound, Making, advice},
        },
        objects::{self, PieceId, Pieces, piece_bytes, piece_subject},
    },
};
use lattice_protocol::{errors::chain, serde_null::null_as_default};
pub use name::{BadName, PayloadName};
pub use stored::Stored;
use stored::{IN_FLIGHT_OF_ONE, InStore};

/// Larger payloads travel through the object store; the threshold of all peers since late 2022.
pub const THRESHOLD_BYTES: usize = 900 * 1024;
/// The part of the server's `max_payload` that the envelope around a payload may take; of a small
/// one at most half.
const ENVELOPE_BYTES: usize = 24 * 1024;
/// Pieces that may be on their way at a time.
const UNCONFIRMED_MAX: usize = 32;
/// No payload is larger than this, whatever a message claims.
pub const PAYLOAD_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Time between two pieces before a fetch counts as failed.
const PIECE_TIMEOUT: Duration = Duration::from_secs(5);
/// Payloads that are read at a time.
const FETCHES_MAX: usize = 16;
/// Objects in a bucket made by this host live no longer.
const OBJECT_AGE_MAX: Duration = Duration::from_secs(600);
/// The size of a bucket made by this host, where the account has it.
const BUCKET_BYTES: u64 = 1 << 30;

/// Why a large payload could not be stored or fetched.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    #[error(
        "{bytes} bytes are more than a message takes here (max_payload of the NATS server is {max_payload}) and need the \
         object store {bucket}, which cannot be used: {cause}. Is JetStream enabled in the configured domain?"
    )]
    Store {
        bytes: usize,
        max_payload: usize,
        /// There is no store, rather than one that fails now.
        is_absent: bool,
        bucket: String,
        cause: String,
    },
    #[error("the payload {name} is not in the object store {bucket}: {cause}")]
    Fetch { name: String, bucket: String, cause: String },
    #[error("the payload has {bytes} bytes, and {limit}")]
    TooLarge { bytes: u64, limit: String },
    #[error(
        "{bytes} bytes need the object store {bucket}, where earlier payloads of {whose} were not fetched yet; it may have \
         {} MiB there",
        IN_FLIGHT_OF_ONE >> 10
    )]
    InFlight { bytes: usize, bucket: String, whose: String },
}

/// The bounds of large payloads.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The budget that pays for payloads that are fetched.
    pub budget: Budget,
    /// The memory one actor may use (`actor_memory_max_bytes`): it can take no larger payload.
    pub actor_bytes_max: u64,
    /// The size of the bucket, should this host make it.
    pub bound: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { budget: Budget::default(), actor_bytes_max: PAYLOAD_BYTES_MAX, bound: None }
    }
}

/// The kind of target a payload is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    Actor,
    Provider,
}

/// Stores and fetches large payloads. Cheap to clone.
#[derive(Clone)]
pub struct Chunks(Arc<Inner>);

struct Inner {
    client: async_nats::Client,
    /// The configured domain first, then none.
    contexts: Vec<jetstream::Context>,
    bucket: String,
    settings: Settings,
    fetches: Semaphore,
    in_store: InStore,
}

/// The members of an object's metadata that a reader needs, whatever their generation.
#[derive(Deserialize)]
struct Metadata {
    nuid: PieceId,
    /// Written by all of them; not required by the last.
    #[serde(default)]
    size: Option<u64>,
    #[serde(default, deserialize_with = "null_as_default")]
    deleted: bool,
    #[serde(default)]
    digest: Option<String>,
}

/// A payload that was fetched. Its object is still there, for the reader to remove once the payload
/// is verified.
pub struct Fetched {
    pub payload: Bytes,
    chunks: Chunks,
    stream: Stream,
    name: PayloadName,
    pieces: PieceId,
}

impl Fetched {
    /// Removes the object, as far as that works.
    pub async fn remove(self) -> Bytes {
        self.chunks.0.purge(&self.stream, &self.name, &self.pieces).await;
        self.payload
    }
}

impl Chunks {
    pub fn new(
        client: &async_nats::Client,
        domain: Option<&str>,
        lattice: &str,
        settings: Settings,
    ) -> Self {
        let mut contexts = vec![context(client, domain)];
        if domain.is_some() {
            contexts.push(context(client, None));
        }
        Self(Arc::new(Inner {
            client: client.clone(),
            contexts,
            bucket: lattice.to_owned(),
            settings,
            fetches: Semaphore::new(FETCHES_MAX),
            in_store: InStore::default(),
        }))
    }

    /// Whether a payload of this size must go through the object store.
    pub fn is_needed(&self, bytes: usize) -> bool {
        bytes > threshold(self.0.client.max_payload())
    }

    /// Pays for the payload of a message that has arrived, unless it is a small one. Refused at
    /// once where others take all the memory there is.
    pub fn admit(&self, bytes: usize) -> Result<Option<Held>, Shortage> {
        if bytes <= budget::SMALL {
            return Ok(None);
        }
        let mut held = self.0.settings.budget.hold();
        held.try_cover(bytes)?;
        Ok(Some(held))
    }

    /// Stores the payload of a call or an answer of `whose` under a name. Waits a moment while too
    /// many bytes of the same actor or provider are there already. Takes as long as its caller
    /// waits.
    pub async fn put(
        &self,
        name: PayloadName,
        payload: &Bytes,
        whose: &str,
    ) -> Result<Stored, ChunkError> {
        let Inner { bucket, client, .. } = &*self.0;
        let in_flight = self.0.in_store.room(payload.len(), whose).await.ok_or_else(|| {
            ChunkError::InFlight {
                bytes: payload.len(),
                bucket: bucket.clone(),
                whose: whose.to_owned(),
            }
        })?;
        let pieces = PieceId::parse(&uuid::Uuid::new_v4().simple().to_string()).unwrap_or_default();
        // Made before anything is sent: if this ends early, the pieces sent are removed.
        let stored = Stored::new(self.clone(), name.clone(), pieces.clone(), in_flight);
        self.0.put(&name, &pieces, payload).await.map_err(|cause| ChunkError::Store {
            bytes: payload.len(),
            max_payload: client.max_payload(),
            is_absent: is_absent(&cause),
            bucket: bucket.clone(),
            cause: cause.to_string(),
        })?;
        Ok(stored)
    }

    /// Fetches a payload, `expected` bytes as the message said; `seen` is handed each piece as it
    /// arrives. Takes as long as its caller waits.
    pub async fn fetch(
        &self,
        name: PayloadName,
        expected: u64,
        reader: Reader,
        mut seen: impl FnMut(&[u8]),
    ) -> Result<Fetched, ChunkError> {
        self.0.check_size(expected, reader)?;
        let mut last = anyhow!("no object store");
        for context in &self.0.contexts {
            let found = match self.0.find(context, &name, expected).await {
                Ok(found) => found,
                Err(cause) => {
                    last = cause;
                    continue;
                }
            };
            // Only what is there takes a place.
            let Ok(_place) = self.0.fetches.acquire().await else { break };
            let (stream, metadata) = found;
            let payload = self.0.read(&stream, &metadata, expected, &mut seen).await;
            let payload = payload.map_err(|cause| self.0.not_fetched(&name, &cause))?;
            return Ok(Fetched {
                payload,
                chunks: self.clone(),
                stream,
                name,
                pieces: metadata.nuid,
            });
        }
        Err(self.0.not_fetched(&name, &last))
    }
}

/// From which size on a payload is too large for a message, of a server that takes so many bytes.
pub(super) fn threshold(max_payload: usize) -> usize {
    THRESHOLD_BYTES.min(max_payload - ENVELOPE_BYTES.min(max_payload / 2))
}

impl Inner {
    fn stream_name(&self) -> String {
        objects::stream_name(&self.bucket)
    }

    /// Refuses what the reader cannot hold.
    fn check_size(&self, bytes: u64, reader: Reader) -> Result<(), ChunkError> {
        let Settings { budget, actor_bytes_max, .. } = &self.settings;
        let limit = if bytes > PAYLOAD_BYTES_MAX {
            format!("the limit is {PAYLOAD_BYTES_MAX}")
        } else if reader == Reader::Actor && bytes > *actor_bytes_max {
            format!("the memory of an actor is {actor_bytes_max} (actor_memory_max_bytes)")
        } else if bytes > budget.payload_max() as u64 {
            format!("this host takes {} at most (payload_memory_max_bytes)", budget.payload_max())
        } else {
            return Ok(());
        };
        Err(ChunkError::TooLarge { bytes, limit })
    }

    fn not_fetched(&self, name: &PayloadName, cause: &anyhow::Error) -> ChunkError {
        ChunkError::Fetch {
            name: name.0.clone(),
            bucket: self.bucket.clone(),
            cause: cause.to_string(),
        }
    }

    async fn put(&self, name: &PayloadName, pieces: &PieceId, payload: &Bytes) -> Result<()> {
        let context = self.contexts.first().context("no JetStream context")?;
        let stream = self.open_or_create(context).await?;
        let subject = piece_subject(&self.bucket, pieces);
        let piece_bytes = piece_bytes(&self.client);
        // In order, with a bounded number on their way: every unconfirmed piece holds a place in
        // the client.
        let mut unconfirmed = VecDeque::new();
        let mut count = 0;
        for start in (0..payload.len()).step_by(piece_bytes) {
            let piece = payload.slice(start..payload.len().min(start + piece_bytes));
            if unconfirmed.len() >= UNCONFIRMED_MAX
                && let Some(ack) = unconfirmed.pop_front()
            {
                confirm(ack).await?;
            }
            unconfirmed.push_back(
                context.publish(subject.clone(), piece).await.map_err(|e| whole_text(&e))?,
            );
            count += 1;
        }
        for ack in unconfirmed {
            confirm(ack).await?;
        }
        // An object of this name, from a caller that uses its ids twice, is replaced by the
        // roll-up.
        let metadata = self.metadata(name, pieces, payload, count);
        for subject in name.metadata_subjects(&self.bucket) {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Rollup", "sub");
            let ack = context.publish_with_headers(subject, headers, metadata.clone()).await;
            confirm(ack.map_err(|e| whole_text(&e))?).await?;
        }
        let stream = &stream.cached_info().config.name;
        debug!(name = name.0, bytes = payload.len(), pieces = count, %stream, "large payload stored");
        Ok(())
    }

    /// The union of the members that four generations of readers need.
    fn metadata(
        &self,
        name: &PayloadName,
        pieces: &PieceId,
        payload: &[u8],
        count: usize,
    ) -> Bytes {
        let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let digest = format!("SHA-256={}", URL_SAFE.encode(digest(&SHA256, payload).as_ref()));
        let metadata = json!({
            "name": name.0, "description": null, "link": null, "options": null, "bucket": self.bucket, "nuid": pieces,
            "size": payload.len(), "chunks": count, "modified": now, "mtime": now, "digest": digest, "deleted": false,
        });
        metadata.to_string().into()
    }

    async fn open_or_create(&self, context: &jetstream::Context) -> Result<Stream> {
        let name = self.stream_name();
        match context.get_stream(&name).await {
            Ok(stream) => return Ok(stream),
            Err(e) => match e.kind() {
                GetStreamErrorKind::JetStream(e)
                    if e.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
                _ => return Err(e.into()),
            },
        }
        let bucket = &self.bucket;
        let making =
            Making { replicas: 1, bound: Bound::Wish(BUCKET_BYTES).or_set(self.settings.bound) };
        let created = making.create(
            context,
            stream::Config {
                name: name.clone(),
                subjects: vec![format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")],
                description: Some("large payloads on their way; nothing is kept here".to_owned()),
                allow_rollup: true,
                allow_direct: true,
                discard: stream::DiscardPolicy::New,
                storage: stream::StorageType::File,
                max_age: OBJECT_AGE_MAX,
                ..Default::default()
            },
        );
        match created.await {
            Ok(stream) => Ok(stream),
            // Another host was first.
            Err(e) => context.get_stream(&name).await.map_err(|absent| {
                let text = format!("{}{}", chain(&e), advice(&e, "payload_store_max_bytes"));
                anyhow::Error::new(absent).context(text)
            }),
        }
    }

    /// Finds a payload's metadata, and the stream it is in.
    async fn find(
        &self,
        context: &jetstream::Context,
        name: &PayloadName,
        expected: u64,
    ) -> Result<(Stream, Metadata)> {
        let stream = context.get_stream(self.stream_name()).await.map_err(|e| whole_text(&e))?;
        let mut found = None;
        for subject in name.metadata_subjects(&self.bucket) {
            if let Ok(message) = stream.get_last_raw_message_by_subject(&subject).await {
                let metadata: Metadata = serde_json::from_slice(&message.payload)?;
                if !metadata.deleted {
                    found = Some(metadata);
                    break;
                }
            }
        }
        let metadata =
            found.context("there is no such object; was it fetched before, or stored in another JetStream domain?")?;
        if let Some(size) = metadata.size {
            ensure!(size == expected, "it has {size} bytes, the message announced {expected}");
        }
        Ok((stream, metadata))
    }

    async fn read(
        &self,
        stream: &Stream,
        metadata: &Metadata,
        expected: u64,
        seen: &mut impl FnMut(&[u8]),
    ) -> Result<Bytes> {
        let subject = piece_subject(&self.bucket, &metadata.nuid);
        let mut hash = Hash::new(&SHA256);
        let pieces = Pieces { stream, subject, expected, timeout: PIECE_TIMEOUT };
        let payload = objects::whole(pieces, &self.settings.budget, |piece| {
            hash.update(piece);
            seen(piece);
        });
        let payload = payload.await?;
        if let Some(stored) =
            metadata.digest.as_deref().and_then(|text| text.strip_prefix("SHA-256="))
        {
            let computed = URL_SAFE.encode(hash.finish().as_ref());
            let is_equal = computed.trim_end_matches('=') == stored.trim_end_matches('=');
            ensure!(is_equal, "its digest does not match its pieces");
        }
        Ok(payload)
    }

    /// Whether an object is not there any more, as far as can be told.
    async fn is_gone<I>(&self, stream: &Stream<I>, name: &PayloadName) -> bool {
        let [subject, _] = name.metadata_subjects(&self.bucket);
        match stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => serde_json::from_slice::<Metadata>(&message.payload)
                .is_ok_and(|metadata| metadata.deleted),
            Err(error) => error.kind() == stream::LastRawMessageErrorKind::NoMessageFound,
        }
    }

    /// Removes an object: its metadata, and its pieces.
    async fn purge<I>(&self, stream: &Stream<I>, name: &PayloadName, pieces: &PieceId) {
        let [new, old] = name.metadata_subjects(&self.bucket);
        tokio::join!(
            purge_subject(stream, name, new),
            purge_subject(stream, name, old),
            purge_subject(stream, name, piece_subject(&self.bucket, pieces)),
        );
    }
}

async fn purge_subject<I>(stream: &Stream<I>, name: &PayloadName, subject: String) {
    if let Err(error) = stream.purge().filter(subject).await {
        debug!(name = name.0, error = %chain(&error), "a part of a stored payload not removed");
    }
}

async fn confirm(ack: PublishAckFuture) -> Result<()> {
    ack.await.map(drop).map_err(|e| whole_text(&e))
}

/// Whether a payload was not stored because there is no store: no stream can be made, or JetStream
/// is off, as the server says or as nobody listens for it.
fn is_absent(error: &anyhow::Error) -> bool {
    let Some(error) = error.downcast_ref::<GetStreamError>() else { return false };
    match error.kind() {
        GetStreamErrorKind::JetStream(answer) => [
            ErrorCode::STREAM_NOT_FOUND,
            ErrorCode::JETSTREAM_NOT_ENABLED,
            ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT,
        ]
        .contains(&answer.error_code()),
        GetStreamErrorKind::Request => std::error::Error::source(error)
            .and_then(|source| source.downcast_ref::<RequestError>())
            .is_some_and(|source| source.kind() == RequestErrorKind::NoResponders),
        _ => false,
    }
}

/// Returns an error with the texts of all its causes in one, which goes to people as it is.
fn whole_text(error: &dyn std::error::Error) -> anyhow::Error {
    anyhow::Error::msg(chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_room_for_its_envelope_whatever_the_server_takes() {
        for (max_payload, expected) in [
            (1 << 20, THRESHOLD_BYTES),
            (8 << 20, THRESHOLD_BYTES),
            (64 << 10, 40 << 10),
            (16 << 10, 8 << 10),
            (8 << 10, 4 << 10),
        ] {
            assert_eq!(threshold(max_payload), expected, "{max_payload}");
        }
    }

    #[test]
    fn a_store_that_fails_is_not_an_absent_one() {
        let answered = |code: u64| -> anyhow::Error {
            let error = serde_json::from_value(json!({"code": 500, "err_code": code})).unwrap();
            GetStreamError::new(GetStreamErrorKind::JetStream(error)).into()
        };
        let request = |kind| -> anyhow::Error {
            let source = RequestError::new(kind);
            GetStreamError::with_source(GetStreamErrorKind::Request, source).into()
        };
        let not_made = |error: anyhow::Error| error.context("no room");
        for (error, expected) in [
            (answered(10039), true),
            (answered(10076), true),
            (not_made(answered(10059)), true),
            (request(RequestErrorKind::NoResponders), true),
            // The cluster has no leader; nobody answers; the stream is full.
            (answered(10008), false),
            (request(RequestErrorKind::TimedOut), false),
            (not_made(request(RequestErrorKind::TimedOut)), false),
            (anyhow!("maximum bytes exceeded"), false),
        ] {
            assert_eq!(is_absent(&error), expected, "{error:?}");
        }
    }

    #[test]
    fn metadata_that_names_the_pieces_of_others_is_none() {
        for nuid in [">", "*", "a.>", ""] {
            let json = json!({"nuid": nuid, "size": 1}).to_string();
            assert!(serde_json::from_str::<Metadata>(&json).is_err(), "{nuid:?}");
        }
        let json = r#"{"nuid":"VN5SP1W5JG3GT1Z0G1CEAB","deleted":null}"#;
        let metadata: Metadata = serde_json::from_str(json).unwrap();
        assert_eq!((metadata.size, metadata.deleted), (None, false));
    }
}

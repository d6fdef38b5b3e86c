//! The metadata bucket on JetStream, in the configured domain.
//!
//! [`Bucket::open`] looks the bucket up, creates it when it is missing and never changes an
//! existing one (lattice protocol, section 4.2). [`OpenError`] names the obstacle: which domain was
//! asked, which one the server has, and what to set. `watch` follows the bucket, through outages.
//!
//! A write during an outage is refused before it is sent: otherwise it would be held on the way and
//! carried out afterwards, long after its client was told that it failed.

mod backlog;
pub mod making;
mod open;
pub mod read;
mod watch;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{
    connection::State,
    jetstream::{
        self, Context, ErrorCode,
        context::{PublishError, PublishErrorKind, RequestErrorKind},
        kv,
        stream::Stream,
    },
};
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch as state};

use super::{Backend, Error, Expect, Update, unreachable};
use lattice_protocol::store::Entry;

pub use open::lasting;
pub use open::{OpenError, api_prefix, find, is_clustered, publish_prefix};

/// How long the server may take for one request of the JetStream API.
const API_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the server may take to show that it is there, before something is written.
const PROBE_TIMEOUT: Duration = Duration::from_millis(600);
/// Updates buffered between the watch and its follower.
const WATCH_CAPACITY: usize = 4096;

/// An open metadata bucket. Cheap to clone.
#[derive(Clone)]
pub struct Bucket {
    kv: kv::Store,
    stream: Stream,
    context: Context,
    reconnects: state::Receiver<u64>,
    place: Arc<str>,
    domain: Option<Arc<str>>,
    /// Whether its watch heard from it lately; true while nobody watches.
    hears: Arc<AtomicBool>,
    /// Consumers the stream had when it was opened, before this host's own.
    pub consumers_before: usize,
    /// Copies of each entry the bucket keeps.
    pub replicas: usize,
    /// How large it may get when it is made again.
    bound: making::Bound,
    /// Whether the bucket lives on a cluster of servers, where copies would outlive one of them.
    pub is_clustered: bool,
}

/// The JetStream context of a domain, with a deadline on every request.
pub fn context(client: &async_nats::Client, domain: Option<&str>) -> Context {
    let mut context = match domain {
        Some(domain) => jetstream::with_domain(client.clone(), domain),
        None => jetstream::new(client.clone()),
    };
    context.set_timeout(API_TIMEOUT);
    context
}

impl Bucket {
    /// Makes sure that a write does not go into an outage. Costs a round trip only while there may
    /// be one.
    async fn check(&self) -> Result<(), Error> {
        if self.context.client().connection_state() != State::Connected {
            return Err(self.unreachable("this host has no connection to its NATS server"));
        }
        if self.hears.load(Ordering::Relaxed) { Ok(()) } else { self.probe().await }
    }

    /// Asks for the bucket's stream; an answer of any content shows that its domain is there.
    async fn probe(&self) -> Result<(), Error> {
        let about = format!("STREAM.INFO.KV_{}", self.kv.name);
        let answer = self.context.request::<_, _, serde_json::Value>(about, &());
        match tokio::time::timeout(PROBE_TIMEOUT, answer).await {
            Ok(Ok(answer)) => match answer.get("error") {
                None => Ok(()),
                Some(error) if error["err_code"] == ErrorCode::STREAM_NOT_FOUND.0 => {
                    Err(Error::Refused(
                        "it is gone, and hosts are making it again; try again in a moment".into(),
                    ))
                }
                Some(error) => Err(Error::Refused(
                    error["description"].as_str().unwrap_or("without a reason").into(),
                )),
            },
            Ok(Err(e)) if e.kind() == RequestErrorKind::NoResponders => {
                Err(self.unreachable("no server answers for it"))
            }
            Ok(Err(e)) => Err(self.unreachable(&e.to_string())),
            Err(_) => {
                Err(self.unreachable(&format!("no answer within {} ms", PROBE_TIMEOUT.as_millis())))
            }
        }
    }

    fn unreachable(&self, cause: &str) -> Error {
        Error::Unreachable(unreachable(self.domain.as_deref(), cause))
    }

    /// Turns the failure of a write into an error. Where nobody took it, the bucket or its whole
    /// domain may be missing.
    async fn failure(&self, error: &(dyn std::error::Error + Sync + 'static)) -> Error {
        match publish_error(error) {
            Some(PublishErrorKind::WrongLastSequence) => Error::Conflict,
            Some(PublishErrorKind::TimedOut) => Error::TimedOut { place: self.place.to_string() },
            Some(PublishErrorKind::StreamNotFound | PublishErrorKind::BrokenPipe) => self
                .probe()
                .await
                .err()
                .unwrap_or_else(|| self.unreachable("it was away for a moment")),
            _ => Error::Refused(error.to_string()),
        }
    }

    /// Reads a key; `None` if it is absent or deleted.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, read::ReadError> {
        let subject = format!("{}{key}", self.kv.prefix);
        let Some(message) = read::last(&self.stream, &subject).await? else { return Ok(None) };
        let is_deleted = read::is_deletion(&message.headers);
        let entry =
            Entry { key: key.to_owned(), value: message.payload, revision: message.sequence };
        Ok((!is_deleted).then_some(entry))
    }

    /// Writes a key that must not be there. A delete marker is as good as nothing.
    async fn create(&self, key: &str, value: Bytes) -> Result<u64, Error> {
        let error = match self.kv.update(key, value.clone(), 0).await {
            Ok(revision) => return Ok(revision),
            Err(error) => self.failure(&error).await,
        };
        if !matches!(error, Error::Conflict) {
            return Err(error);
        }
        let found = self.kv.entry(key).await.map_err(|e| self.unreachable(&e.to_string()))?;
        let Some(kv::Entry {
            operation: kv::Operation::Delete | kv::Operation::Purge,
            revision,
            ..
        }) = found
        else {
            return Err(Error::Conflict);
        };
        match self.kv.update(key, value, revision).await {
            Ok(revision) => Ok(revision),
            Err(error) => Err(self.failure(&error).await),
        }
    }
}

impl Backend for Bucket {
    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        expect: Expect,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        Box::pin(async move {
            self.check().await?;
            match expect {
                Expect::Anything => match self.kv.put(key, value).await {
                    Ok(revision) => Ok(revision),
                    Err(error) => Err(self.failure(&error).await),
                },
                Expect::Revision(0) => self.create(key, value).await,
                Expect::Revision(revision) => match self.kv.update(key, value, revision).await {
                    Ok(revision) => Ok(revision),
                    Err(error) => Err(self.failure(&error).await),
                },
            }
        })
    }

    fn delete<'a>(&'a self, key: &'a str, expect: Expect) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.check().await?;
            let revision = match expect {
                Expect::Anything => None,
                Expect::Revision(revision) => Some(revision),
            };
            match self.kv.delete_expect_revision(key, revision).await {
                Ok(()) => Ok(()),
                Err(error) => Err(self.failure(&error).await),
            }
        })
    }

    fn watch(&self) -> mpsc::Receiver<Update> {
        let (updates, receiver) = mpsc::channel(WATCH_CAPACITY);
        // Owned by the receiver: the task ends when that is dropped.
        tokio::spawn(self.clone().follow(updates));
        receiver
    }

    fn place(&self) -> String {
        self.place.to_string()
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn is_reachable(&self) -> bool {
        self.hears.load(Ordering::Relaxed)
            && self.context.client().connection_state() == State::Connected
    }
}

/// The publish error in the chain of an error of the client.
fn publish_error(error: &(dyn std::error::Error + 'static)) -> Option<PublishErrorKind> {
    let mut source = Some(error);
    while let Some(current) = source {
        if let Some(publish) = current.downcast_ref::<PublishError>() {
            return Some(publish.kind());
        }
        // This one hides what it was made from. Deletions have it too.
        if let Some(update) = current.downcast_ref::<kv::UpdateError>()
            && update.kind() == kv::UpdateErrorKind::TimedOut
        {
            return Some(PublishErrorKind::TimedOut);
        }
        source = current.source();
    }
    None
}

//! A bucket of JetStream, shared by all links of this process that name it.
//!
//! A read is one round trip, a write without a condition too. A change that depends on the entry's
//! old value ([`Bucket::change`]) reads it and writes on condition that nobody wrote in between,
//! again and again until it succeeds or the call's time is over; so increments of many hosts all
//! count. Within the process changes of one key take [turns](TURNS), or they would only spoil each
//! other's conditions.
//!
//! A write nobody confirmed is never repeated: it may have happened.
//!
//! Expired entries count as absent from their instant on. They are removed by the server, where it
//! can do that (2.11 and later); elsewhere [`Bucket::sweep`] removes them, and what deletions leave
//! behind, every now and then.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Weak},
    time::Duration,
};

use async_nats::{
    HeaderMap, HeaderValue,
    header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_TTL},
    jetstream::{
        Context,
        context::PublishErrorKind,
        stream::{Config, Stream},
    },
};
use bytes::Bytes;
use rand::Rng;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::{
    Error,
    entry::{self, Entry, EntryError, Expiry, Value},
    keys,
};
use crate::providers::builtin::{
    LinkError,
    jetstream::{self, Held, Placement, ReadError},
};
use lattice_base::{
    backoff::Backoff,
    store::jetstream::{
        publish_prefix,
        read::{OPERATION, is_deletion},
    },
};
use lattice_protocol::errors::chain;

/// Queues in which the changes of this process wait for each other; a key always has the same one.
const TURNS: usize = 64;
/// Pause after a change that somebody else spoiled; doubled up to the limit, of which a random part
/// is waited.
const PAUSE_FIRST: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(64);
/// How long the mark of a deletion stays, so that those who watch the bucket learn of it.
const MARK_TIME: Duration = Duration::from_secs(300);
/// Time between two sweeps of a host, on average.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// Entries removed in one sweep; the next one goes on.
const SWEEP_MAX: usize = 10_000;

/// An open bucket.
pub struct Bucket {
    name: String,
    placement: Placement,
    context: Context,
    /// Replaced when the bucket had to be made again.
    handle: Held<Handle>,
    turns: [Semaphore; TURNS],
    /// Ends with the bucket.
    _sweeper: AbortOnDropHandle<()>,
}

struct Handle {
    stream: Stream,
    read_prefix: String,
    write_prefix: String,
    /// The server removes messages when their time is over.
    is_timed: bool,
}

/// The state found under a key.
struct Found {
    /// The state a conditional write relies on; 0 if there is nothing.
    revision: u64,
    entry: Option<Entry>,
}

/// The change of an entry.
pub enum Change<T> {
    /// It stays; the answer.
    Keep(T),
    /// It gets another value, and keeps its expiry; the answer.
    Put(Value, T),
    /// It is removed; the answer.
    Remove(T),
}

enum WriteError {
    /// Somebody else wrote first.
    Conflict,
    /// Nobody serves the bucket.
    Gone,
    Other(Error),
}

impl Bucket {
    /// Opens the bucket, and creates it if it is missing.
    pub async fn open(
        client: &async_nats::Client,
        name: String,
        placement: Placement,
    ) -> Result<Arc<Self>, LinkError> {
        let context = placement.context(client);
        let handle = Handle::open(&context, &name, &placement).await?;
        Ok(Arc::new_cyclic(|bucket| Self {
            name,
            placement,
            context,
            handle: Held::new(handle),
            turns: [const { Semaphore::const_new(1) }; TURNS],
            _sweeper: AbortOnDropHandle::new(tokio::spawn(sweep_regularly(Weak::clone(bucket)))),
        }))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the value under a key now.
    pub async fn get(&self, key: &str) -> Result<Option<Value>, Error> {
        let found = self.read(key).await?;
        Ok(found.entry.map(|entry| entry.value))
    }

    /// Returns the value under a key now, and the revision for a [`swap`](Self::swap).
    pub async fn version(&self, key: &str) -> Result<(u64, Option<Value>), Error> {
        let found = self.read(key).await?;
        Ok((found.revision, found.entry.map(|entry| entry.value)))
    }

    /// Puts a value under a key if its revision is still this one, and says whether it was.
    pub async fn swap(&self, key: &str, value: Value, revision: u64) -> Result<bool, Error> {
        match self.write(key, Some(&Entry { value, expires: None }), Some(revision)).await {
            Ok(()) => Ok(true),
            Err(WriteError::Conflict | WriteError::Gone) => Ok(false),
            Err(WriteError::Other(error)) => Err(error),
        }
    }

    /// Returns the first `limit` keys after one, in the order of their bytes, and whether there are
    /// more. Keys that stand in the bucket by their digest are left out.
    pub async fn keys(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<String>, bool), Error> {
        self.asked(|handle| async move {
            let (filter, now) = (format!("{}>", handle.read_prefix), Expiry::now());
            // One more than is asked for, to know whether there are more.
            let mut first = BTreeSet::new();
            jetstream::scan(&handle.stream, &filter, true, |message| {
                let key = message.subject.strip_prefix(&*handle.read_prefix);
                let Some(key) = key.and_then(keys::decode) else { return };
                if after.is_some_and(|after| *key <= *after) || !is_there(&message, now) {
                    return;
                }
                first.insert(key);
                if first.len() > limit + 1 {
                    first.pop_last();
                }
            })
            .await?;
            let more = first.len() > limit;
            Ok((first.into_iter().take(limit).collect(), more))
        })
        .await
    }

    /// Puts a value under a key, whatever stood there.
    pub async fn set(&self, key: &str, value: Value, expires: Option<Expiry>) -> Result<(), Error> {
        self.write(key, Some(&Entry { value, expires }), None).await.map_err(|error| match error {
            WriteError::Other(error) => error,
            WriteError::Conflict | WriteError::Gone => {
                self.failed("it was removed while it was used".into())
            }
        })
    }

    /// Changes what stands under a key by what it is. `decide` is asked again when somebody else
    /// was faster. Ends when it succeeds or fails; the caller sets the time limit, and may drop it.
    pub async fn change<T>(
        &self,
        key: &str,
        mut decide: impl FnMut(Option<Value>) -> Result<Change<T>, Error>,
    ) -> Result<T, Error> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let turn = &self.turns[(hasher.finish() % TURNS as u64) as usize];
        // Never closed; if it were, the condition of the write would still keep everything right.
        let _turn = turn.acquire().await.ok();
        let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        loop {
            let found = self.read(key).await?;
            let expires = found.entry.as_ref().and_then(|entry| entry.expires);
            let (entry, answer) = match decide(found.entry.map(|entry| entry.value))? {
                Change::Keep(answer) => return Ok(answer),
                Change::Put(value, answer) => (Some(Entry { value, expires }), answer),
                Change::Remove(answer) => (None, answer),
            };
            match self.write(key, entry.as_ref(), Some(found.revision)).await {
                Ok(()) => return Ok(answer),
                Err(WriteError::Conflict | WriteError::Gone) => {}
                Err(WriteError::Other(error)) => return Err(error),
            }
            let wait = rand::rng().random_range(Duration::ZERO..backoff.next_pause());
            tokio::time::sleep(wait).await;
        }
    }

    /// Asks the bucket, and once more if it was removed and made again.
    async fn asked<T, F>(&self, question: impl Fn(Arc<Handle>) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, ReadError>>,
    {
        let mut was_opened = false;
        loop {
            let handle = self.handle.now();
            match question(Arc::clone(&handle)).await {
                Ok(answer) => return Ok(answer),
                Err(ReadError::Gone) if !was_opened => {
                    self.open_again(&handle).await?;
                    was_opened = true;
                }
                Err(error) => return Err(self.failed(chain(&error))),
            }
        }
    }

    async fn read(&self, key: &str) -> Result<Found, Error> {
        let encoded = keys::encode(key);
        let encoded = &encoded;
        let message = self.asked(|handle| async move {
            jetstream::last(&handle.stream, &format!("{}{encoded}", handle.read_prefix)).await
        });
        let message = message.await?;
        let Some(message) = message else { return Ok(Found { revision: 0, entry: None }) };
        let entry = if is_deletion(&message.headers) {
            None
        } else {
            let entry = Entry::from_message(&message.payload, &message.headers);
            Some(entry.map_err(|cause| self.unreadable(key, cause))?)
        };
        Ok(Found {
            revision: message.sequence,
            entry: entry.filter(|entry| !entry.is_expired(Expiry::now())),
        })
    }

    /// Writes an entry or the mark of its deletion; with a revision, on condition that it is still
    /// the last one.
    async fn write(
        &self,
        key: &str,
        entry: Option<&Entry>,
        revision: Option<u64>,
    ) -> Result<(), WriteError> {
        let encoded = keys::encode(key);
        let (payload, headers) = match entry {
            Some(entry) => entry.to_message(),
            None => {
                let mut headers = HeaderMap::new();
                headers.insert(OPERATION, "DEL");
                (Bytes::new(), headers)
            }
        };
        let mut was_opened = false;
        loop {
            let handle = self.handle.now();
            let mut headers = headers.clone();
            if let Some(revision) = revision {
                headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, HeaderValue::from(revision));
            }
            if handle.is_timed {
                let seconds = match entry {
                    Some(entry) => entry.expires.map(|expires| expires.seconds_from(Expiry::now())),
                    None => Some(MARK_TIME.as_secs()),
                };
                if let Some(seconds) = seconds {
                    headers.insert(NATS_MESSAGE_TTL, HeaderValue::from(seconds));
                }
            }
            let subject = format!("{}{encoded}", handle.write_prefix);
            match self.publish(key, subject, headers, payload.clone()).await {
                Err(WriteError::Gone) if !was_opened => {
                    self.open_again(&handle).await.map_err(WriteError::Other)?;
                    was_opened = true;
                    // The state that the condition relied on is gone with the bucket.
                    if revision.is_some_and(|revision| revision > 0) {
                        return Err(WriteError::Conflict);
                    }
                }
                Err(WriteError::Gone) => {
                    return Err(WriteError::Other(self.failed("it does not stay".into())));
                }
                outcome => return outcome,
            }
        }
    }

    async fn publish(
        &self,
        key: &str,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), WriteError> {
        let bytes = payload.len();
        let published = match self.context.publish_with_headers(subject, headers, payload).await {
            Ok(acknowledged) => acknowledged.await,
            Err(error) => Err(error),
        };
        let Err(error) = published else { return Ok(()) };
        Err(match error.kind() {
            _ if jetstream::is_conflict(&error) => WriteError::Conflict,
            PublishErrorKind::StreamNotFound => WriteError::Gone,
            PublishErrorKind::MaxPayloadExceeded => WriteError::Other(Error::TooLarge {
                key: keys::shown(key),
                bytes,
                bytes_max: self.context.client().max_payload(),
            }),
            PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => {
                WriteError::Other(Error::Unconfirmed {
                    key: keys::shown(key),
                    bucket: self.name.clone(),
                })
            }
            _ => WriteError::Other(self.failed(chain(&error))),
        })
    }

    /// Looks the bucket up again, and makes it again if it was removed.
    async fn open_again(&self, gone: &Arc<Handle>) -> Result<(), Error> {
        let open = Handle::open(&self.context, &self.name, &self.placement);
        self.handle
            .renew(&self.name, gone, open)
            .await
            .map_err(|error| self.failed(error.to_string()))
    }

    fn unreadable(&self, key: &str, cause: EntryError) -> Error {
        Error::Unreadable { key: keys::shown(key), bucket: self.name.clone(), cause }
    }

    fn failed(&self, cause: String) -> Error {
        Error::Bucket { bucket: self.name.clone(), cause }
    }

    /// Removes expired entries and old marks of deletions, if the server does not do that itself.
    /// Returns how many.
    pub async fn sweep(&self, now: Expiry) -> anyhow::Result<usize> {
        let handle = self.handle.now();
        if handle.is_timed {
            return Ok(0);
        }
        let mut due = Vec::new();
        let filter = format!("{}>", handle.read_prefix);
        jetstream::scan(&handle.stream, &filter, true, |message| {
            let headers = message.headers.clone().unwrap_or_default();
            let Ok(info) = message.info() else { return };
            let ends = match is_deletion(&headers) {
                true => Some(
                    Expiry::at(info.published.unix_timestamp_nanos() / 1_000_000).after(MARK_TIME),
                ),
                false => entry::expires(&headers).unwrap_or_default(),
            };
            if ends.is_some_and(|ends| ends <= now) && due.len() < SWEEP_MAX {
                due.push((message.subject.to_string(), info.stream_sequence));
            }
        })
        .await?;
        let mut removed = 0;
        for (subject, revision) in due {
            // Up to this revision: whatever was written since stays.
            let purged = handle.stream.purge().filter(subject).sequence(revision + 1).await;
            removed += usize::from(purged?.purged > 0);
        }
        Ok(removed)
    }
}

impl Handle {
    async fn open(
        context: &Context,
        bucket: &str,
        placement: &Placement,
    ) -> Result<Self, LinkError> {
        let config = Config {
            name: format!("KV_{bucket}"),
            subjects: vec![format!("$KV.{bucket}.>")],
            description: Some("kept by actors through wasmcloud:keyvalue".into()),
            max_messages_per_subject: 1,
            deny_delete: true,
            // Servers before 2.11 do not know it, and leave it out of their answer.
            allow_message_ttl: true,
            ..jetstream::lasting()
        };
        placement.open(context, config).await?;
        // Knows the subjects of buckets that mirror others.
        let store = context.get_key_value(bucket).await.map_err(|e| {
            LinkError::Unavailable(format!("the bucket {bucket} cannot be used: {}", chain(&e)))
        })?;
        let mut write_prefix = String::new();
        if store.use_jetstream_prefix {
            write_prefix.push_str(&publish_prefix(placement.domain.as_deref()));
        }
        write_prefix.push_str(store.put_prefix.as_ref().unwrap_or(&store.prefix));
        let is_timed = store.stream.cached_info().config.allow_message_ttl;
        Ok(Self { read_prefix: store.prefix, write_prefix, is_timed, stream: store.stream })
    }
}

/// Says whether the message of a key is an entry that has not expired.
fn is_there(message: &async_nats::jetstream::Message, now: Expiry) -> bool {
    let Some(headers) = &message.headers else { return true };
    let ends = entry::expires(headers).unwrap_or_default();
    !is_deletion(headers) && ends.is_none_or(|ends| ends > now)
}

/// Sweeps until the bucket is dropped.
async fn sweep_regularly(bucket: Weak<Bucket>) {
    loop {
        // Hosts that began together do not sweep together.
        let pause = rand::rng().random_range(SWEEP_EVERY / 2..SWEEP_EVERY * 3 / 2);
        tokio::time::sleep(pause).await;
        let Some(bucket) = bucket.upgrade() else { return };
        match bucket.sweep(Expiry::now()).await {
            Ok(0) => {}
            Ok(removed) => debug!(bucket = %bucket.name, removed, "expired entries removed"),
            Err(error) => {
                let error = chain(error.as_ref());
                warn!(bucket = %bucket.name, error, "expired entries not removed, trying again later");
            }
        }
    }
}

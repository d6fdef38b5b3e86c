//! The stream `LATTICEHISTORY_{lattice}`: what happened in the lattice, under the subjects of
//! [`history`](lattice_protocol::history).
//!
//! It lies in the domain of the metadata. The first host that writes makes it, with a bound of age,
//! of size and of messages for each subject; what is oldest goes first. A stream that is there is
//! never changed. Whoever reads it must check who signed what is in it.
//!
//! Unlike the buckets it is no place where a lattice keeps its state: nothing waits for it, and a
//! lattice without it works as well.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use async_nats::{
    HeaderMap,
    header::NATS_MESSAGE_ID,
    jetstream::{
        Context, Message,
        consumer::{DeliverPolicy, pull},
        stream::{Config, DiscardPolicy, Stream},
    },
};
use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use time::OffsetDateTime;
use tokio::time::timeout;

use super::{
    WRITE_TIMEOUT,
    jetstream::{
        OpenError, context, find, lasting,
        making::{Bound, Making, advice},
        publish_prefix,
        read::{ReadError, scan_since},
    },
};
use crate::lattice::connection::Nats;
use lattice_protocol::{
    errors::chain,
    history::{self, Kind},
};

/// Messages of one subject: what a host writes once a second for almost three hours, or once a
/// minute for a week.
const MESSAGES_OF_SUBJECT_MAX: i64 = 10_000;
/// The size of the stream if it is not set, in bytes.
const BYTES: u64 = 128 << 20;
/// Of the storage of an account the stream takes one part of so many, unless its size is set.
const SHARE: u64 = 16;
/// How long the server may remember ids of messages, so that a repeated write counts once.
const DUPLICATES: Duration = Duration::from_secs(120);
/// How long a read may take with everything.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// The bounds of the stream, for the host that makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long entries are kept.
    pub age: Duration,
    pub making: Making,
}

impl Limits {
    /// Keeps entries for `age`; `bytes_max` is the setting of the size.
    pub fn new(age: Duration, replicas: usize, bytes_max: Option<u64>) -> Self {
        let making = Making { replicas, bound: Bound::Wish(BYTES).or_set(bytes_max) };
        Self { age, making }
    }
}

/// The stream, whether it is there or not. Cheap to clone.
#[derive(Clone)]
pub struct Archive {
    nats: Nats,
    domain: Option<Arc<str>>,
    lattice: Arc<str>,
    opened: Arc<ArcSwapOption<Opened>>,
}

/// The stream as it was found or made.
struct Opened {
    stream: Stream,
    context: Context,
}

/// Why the stream was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("read stream {stream}: {cause}")]
    Read { stream: String, cause: ReadError },
    #[error("write to stream {stream}: {cause}")]
    Write { stream: String, cause: String },
}

/// How a stream that was there differs from the settings of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// How long it keeps entries; zero is for ever.
    pub age: Duration,
    /// The setting of this host.
    pub wanted: Duration,
}

impl Archive {
    /// Names the stream of a lattice.
    pub fn new(nats: Nats, domain: Option<&str>, lattice: &str) -> Self {
        let (domain, lattice) = (domain.map(Into::into), lattice.into());
        Self { nats, domain, lattice, opened: Arc::default() }
    }

    /// Returns the name of the stream.
    pub fn name(&self) -> String {
        history::stream(&self.lattice)
    }

    /// Opens the stream, and makes it if it is not there. Returns how one that was there differs
    /// from `limits`.
    pub async fn open(&self, limits: Limits) -> Result<Option<Difference>, ArchiveError> {
        if let Some(opened) = self.find().await? {
            let age = opened.stream.cached_info().config.max_age;
            let is_same = age == limits.age;
            return Ok((!is_same).then_some(Difference { age, wanted: limits.age }));
        }
        let context = context(&self.nats.client, self.domain.as_deref());
        let name = self.name();
        let config = Config {
            name: name.clone(),
            description: Some("what happened in the lattice; written by its hosts".to_owned()),
            subjects: vec![format!("{}.>", history::root(&self.lattice))],
            max_messages_per_subject: MESSAGES_OF_SUBJECT_MAX,
            discard: DiscardPolicy::Old,
            max_age: limits.age,
            duplicate_window: DUPLICATES.min(limits.age),
            allow_rollup: false,
            ..lasting()
        };
        let account = context.query_account().await.ok();
        let storage = account.and_then(|account| account.limits.max_storage);
        let making = within(limits.making, storage);
        let stream = match making.create(&context, config).await {
            Ok(stream) => stream,
            // Another host was first.
            Err(error) => context.get_stream(&name).await.map_err(|_| OpenError::Refused {
                bucket: name,
                cause: format!("{error}{}", advice(&error, "history_max_bytes")),
            })?,
        };
        self.opened.store(Some(Arc::new(Opened { stream, context })));
        Ok(None)
    }

    /// Returns the stream if it is there.
    async fn find(&self) -> Result<Option<Arc<Opened>>, OpenError> {
        if let Some(opened) = self.opened.load_full() {
            return Ok(Some(opened));
        }
        let (domain, name) = (self.domain.as_deref(), self.name());
        let context = context(&self.nats.client, domain);
        let found = find(&self.nats, &context, domain, &name, &name).await?;
        Ok(found.map(|stream| {
            let opened = Arc::new(Opened { stream, context });
            self.opened.store(Some(Arc::clone(&opened)));
            opened
        }))
    }

    /// Whether there is such a stream.
    pub async fn is_there(&self) -> Result<bool, ArchiveError> {
        Ok(self.find().await?.is_some())
    }

    /// Whether the stream was found or made.
    pub fn is_open(&self) -> bool {
        self.opened.load().is_some()
    }

    /// Writes a message under a key ([`history::key`]). A message whose `id` the stream has had
    /// lately counts as written. Ends within a few seconds.
    pub async fn write(&self, key: &str, id: &str, payload: Bytes) -> Result<(), ArchiveError> {
        let failed = |cause: String| ArchiveError::Write { stream: self.name(), cause };
        let Some(opened) = self.find().await? else {
            return Err(failed("it is not there".to_owned()));
        };
        let prefix = publish_prefix(self.domain.as_deref());
        let subject = format!("{prefix}{}.{key}", history::root(&self.lattice));
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, id);
        let written =
            async { opened.context.publish_with_headers(subject, headers, payload).await?.await };
        match timeout(WRITE_TIMEOUT, written).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                self.opened.store(None);
                Err(failed(chain(&error)))
            }
            Err(_) => {
                self.opened.store(None);
                Err(failed(format!("no answer within {} ms", WRITE_TIMEOUT.as_millis())))
            }
        }
    }

    /// Drops all but the last messages of a key.
    pub async fn keep_last(&self, key: &str, messages: u64) -> Result<(), ArchiveError> {
        let Some(opened) = self.find().await? else { return Ok(()) };
        let subject = format!("{}.{key}", history::root(&self.lattice));
        let purged = timeout(WRITE_TIMEOUT, async {
            opened.stream.purge().filter(subject).keep(messages).await
        });
        let cause = match purged.await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => chain(&error),
            Err(_) => format!("no answer within {} ms", WRITE_TIMEOUT.as_millis()),
        };
        Err(ArchiveError::Write { stream: self.name(), cause })
    }

    /// Hands out the messages of a kind since a moment, oldest first, each with its key, until
    /// `found` has seen enough. Without a stream there are none. Ends within [`READ_TIMEOUT`].
    pub async fn read(
        &self,
        kind: Kind,
        host_id: Option<&str>,
        since_ms: u64,
        mut found: impl FnMut(&str, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), ArchiveError> {
        let Some(opened) = self.find().await? else { return Ok(()) };
        let root = format!("{}.", history::root(&self.lattice));
        let filter = format!("{root}{}", history::key(kind, host_id.unwrap_or("*")));
        let scan = scan_since(&opened.stream, &filter, moment(since_ms), |message| {
            match message.subject.strip_prefix(&root) {
                Some(key) => found(key, &message.payload),
                None => ControlFlow::Continue(()),
            }
        });
        let cause = match timeout(READ_TIMEOUT, scan).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(cause)) => cause,
            Err(_) => ReadError::Failed(format!("no end within {} s", READ_TIMEOUT.as_secs())),
        };
        self.opened.store(None);
        if matches!(cause, ReadError::Gone) {
            return Ok(());
        }
        Err(ArchiveError::Read { stream: self.name(), cause })
    }

    /// Follows the messages of a kind since a moment, each with its key and how many are still to
    /// come that were there already. It ends when the stream is gone, or the connection.
    pub async fn follow(
        &self,
        kind: Kind,
        since_ms: u64,
    ) -> Result<Option<BoxStream<'static, Passing>>, ArchiveError> {
        let Some(opened) = self.find().await? else { return Ok(None) };
        let root = format!("{}.", history::root(&self.lattice));
        let config = pull::OrderedConfig {
            description: Some("a follower of the history".to_owned()),
            filter_subject: format!("{root}{}", history::key(kind, "*")),
            deliver_policy: DeliverPolicy::ByStartTime { start_time: moment(since_ms) },
            ..Default::default()
        };
        let failed = |cause: String| {
            self.opened.store(None);
            ArchiveError::Read { stream: self.name(), cause: ReadError::Failed(cause) }
        };
        let consumer =
            opened.stream.create_consumer(config).await.map_err(|e| failed(chain(&e)))?;
        let to_come = consumer.cached_info().num_pending;
        let messages = consumer.messages().await.map_err(|e| failed(chain(&e)))?;
        let passing = messages
            .take_while(|message| std::future::ready(message.is_ok()))
            .filter_map(move |message| {
                let passing = message.ok().and_then(|message| Passing::of(&root, message));
                std::future::ready(passing)
            });
        let first = (to_come == 0).then(|| Passing { to_come: 0, ..Passing::default() });
        Ok(Some(futures::stream::iter(first).chain(passing).boxed()))
    }
}

/// A message of a stream that is followed. The first one is empty where nothing was there.
#[derive(Clone, Debug, Default)]
pub struct Passing {
    pub key: String,
    pub payload: Bytes,
    /// Messages that the stream has and did not send yet.
    pub to_come: u64,
}

impl Passing {
    fn of(root: &str, message: Message) -> Option<Self> {
        let key = message.subject.strip_prefix(root)?.to_owned();
        let to_come = message.info().map_or(0, |info| info.pending);
        Some(Self { key, to_come, payload: message.message.payload })
    }
}

/// Returns a size that leaves room for what matters more, in an account with a limit of storage.
fn within(making: Making, storage_max: Option<i64>) -> Making {
    let storage_max = storage_max.and_then(|max| u64::try_from(max).ok()).filter(|max| *max > 0);
    match (making.bound, storage_max) {
        (Bound::Wish(bytes), Some(max)) => {
            Making { bound: Bound::Wish(bytes.min(max / SHARE)), ..making }
        }
        _ => making,
    }
}

fn moment(ms: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_leaves_room_in_a_small_account() {
        let making = |bound| Making { replicas: 1, bound };
        let wish = making(Bound::Wish(BYTES));
        for (making, storage_max, bound) in [
            (wish, None, Bound::Wish(BYTES)),
            (wish, Some(-1), Bound::Wish(BYTES)),
            (wish, Some(64 << 20), Bound::Wish(4 << 20)),
            (wish, Some(i64::MAX), Bound::Wish(BYTES)),
            (making(Bound::Set(5)), Some(64 << 20), Bound::Set(5)),
        ] {
            assert_eq!(within(making, storage_max).bound, bound, "{storage_max:?}");
        }
    }
}

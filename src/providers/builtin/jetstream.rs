//! What the built-in providers that keep data in JetStream share: where their streams live, how these are opened, and how
//! what is in them is read.
//!
//! [`Placement`] reads the link values of that, [`Placement::open`] looks a stream up and creates it when it is missing;
//! an existing one is used as it is, and several hosts may open at the same time. Reads always see what was written
//! before: where a stream has one replica, that answers directly, which is the fastest; where it has several, the leader
//! is asked, because others may be behind. A [`scan`] is whole or an error. [`Held`] keeps what was opened, until it has to
//! be opened again.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use async_nats::jetstream::{
    self, Context, ErrorCode,
    consumer::{AckPolicy, Consumer, DeliverPolicy, pull},
    context::{GetStreamErrorKind, PublishError, PublishErrorKind},
    message::StreamMessage,
    stream::{
        Config, ConsumerErrorKind, DirectGetErrorKind, DiscardPolicy, LastRawMessageErrorKind, RawMessageErrorKind,
        StorageType, Stream,
    },
};
use futures::StreamExt;
use tracing::warn;

use super::{
    LinkError, Value,
    values::{Values, wrong},
};
use crate::{errors::chain, store::jetstream::context};

/// Messages of one batch of a scan.
const SCAN_BATCH: usize = 500;
/// How long the next message of a batch may take.
const SCAN_BATCH_TIME: Duration = Duration::from_secs(5);
/// How long a scan may take that writers are faster than.
const SCAN_TIME: Duration = Duration::from_secs(120);
/// Batches in a row that may bring nothing although something is left: it may have been written in between.
const EMPTY_MAX: u32 = 3;
/// How long the server keeps the consumer of a scan that broke off.
const CONSUMER_GRACE: Duration = Duration::from_secs(30);
/// The largest number of copies JetStream keeps.
const REPLICAS_MAX: u64 = 5;

pub const DOMAIN: Value = Value {
    name: "domain",
    aliases: &["js_domain"],
    default: "the host's js_domain",
    help: "JetStream domain the data lives in.",
};
pub const REPLICAS: Value = Value {
    name: "replicas",
    aliases: &["num_replicas"],
    default: "1",
    help: "Copies kept in a cluster of NATS servers, 1 to 5. Only used when the bucket is created.",
};
pub const STORAGE: Value = Value {
    name: "storage",
    aliases: &[],
    default: "file",
    help: "file, or memory for data that need not outlive the NATS server. Only used when the bucket is created.",
};
pub const MAX_BYTES: Value = Value {
    name: "max_bytes",
    aliases: &[],
    default: "no limit",
    help: "Size of the bucket, such as 500M or 10G; writes fail when it is full. Only used when the bucket is created.",
};

/// Where a provider's stream lives, and how it is made if it is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub domain: Option<String>,
    replicas: usize,
    storage: StorageType,
    max_bytes: Option<i64>,
}

/// What a provider holds of its stream. The stream may vanish: somebody removes it, or it was kept in memory and the
/// server was restarted. Then it is opened again, and by that made again, instead of failing until the link is new.
pub struct Held<H> {
    handle: ArcSwap<H>,
}

impl<H> Held<H> {
    pub fn new(handle: H) -> Self {
        Self { handle: ArcSwap::from_pointee(handle) }
    }

    /// The handle to try now.
    pub fn now(&self) -> Arc<H> {
        self.handle.load_full()
    }

    /// Replaces the handle nobody answered for by what `open` gives, unless another call did so already.
    pub async fn renew(
        &self,
        bucket: &str,
        gone: &Arc<H>,
        open: impl Future<Output = Result<H, LinkError>>,
    ) -> Result<(), LinkError> {
        if !Arc::ptr_eq(gone, &self.now()) {
            return Ok(());
        }
        warn!(bucket, "the bucket does not answer, opening it again");
        self.handle.store(Arc::new(open.await?));
        Ok(())
    }
}

/// Why a read has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Nobody serves the stream; it may have been removed, of which older servers say nothing.
    #[error("nobody answers for the stream")]
    Gone,
    #[error("{0}")]
    Failed(String),
}

impl Placement {
    /// Reads the values above.
    pub fn read(values: &Values, host_domain: Option<&str>) -> Result<Self, LinkError> {
        let replicas = match values.number(REPLICAS.name)? {
            None => 1,
            Some(number @ 1..=REPLICAS_MAX) => number as usize,
            Some(number) => return Err(wrong(REPLICAS.name, &number.to_string(), "1 to 5")),
        };
        let storage = match values.text(STORAGE.name).as_deref() {
            None | Some("file") => StorageType::File,
            Some("memory") => StorageType::Memory,
            Some(other) => return Err(wrong(STORAGE.name, other, "file or memory")),
        };
        let domain = values.text(DOMAIN.name).or_else(|| host_domain.map(str::to_owned));
        if let Some(domain) = &domain
            && !domain.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
        {
            return Err(wrong(DOMAIN.name, domain, "letters, digits, - and _"));
        }
        let max_bytes = match values.bytes(MAX_BYTES.name)? {
            None => None,
            Some(0) => return Err(wrong(MAX_BYTES.name, "0", "bytes, at least 1")),
            Some(bytes) => Some(i64::try_from(bytes).unwrap_or(i64::MAX)),
        };
        Ok(Self { domain, replicas, storage, max_bytes })
    }

    /// A context of the domain, with a deadline on every request.
    pub fn context(&self, client: &async_nats::Client) -> Context {
        context(client, self.domain.as_deref())
    }

    /// What the subject of a published key-value entry begins with in this domain.
    pub fn publish_prefix(&self) -> String {
        self.domain.as_deref().map(|domain| format!("$JS.{domain}.API.")).unwrap_or_default()
    }

    /// Opens a stream, or creates it as `config` says, in this place.
    pub async fn open(&self, context: &Context, config: Config) -> Result<Stream, LinkError> {
        let name = config.name.clone();
        match context.get_stream(&name).await {
            Ok(stream) => return Ok(stream),
            Err(e) => match e.kind() {
                GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
                GetStreamErrorKind::JetStream(error) => return Err(self.refused(&name, &error)),
                _ => return Err(self.unanswered(&name, &chain(&e))),
            },
        }
        let config = Config {
            storage: self.storage,
            num_replicas: self.replicas,
            max_bytes: self.max_bytes.unwrap_or(-1),
            max_messages: -1,
            max_consumers: -1,
            max_message_size: -1,
            discard: DiscardPolicy::New,
            allow_rollup: true,
            allow_direct: true,
            ..config
        };
        match context.create_stream(config).await {
            Ok(stream) => Ok(stream),
            // Another host was first, with other values perhaps: both are fine as long as it is there.
            Err(error) => context.get_stream(&name).await.map_err(|_| {
                LinkError::Unavailable(format!(
                    "JetStream {} does not create the stream {name}: {}. Change the link values replicas, storage or \
                     max_bytes, or the limits of the account",
                    self.shown(),
                    chain(&error)
                ))
            }),
        }
    }

    fn refused(&self, name: &str, error: &jetstream::Error) -> LinkError {
        let code = error.error_code();
        let shown = self.shown();
        LinkError::Unavailable(
            if matches!(code, ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT) {
                format!(
                    "JetStream {shown} is switched off in the NATS server or for the account of this host. Start the server with \
                     -js, or with `jetstream {{}}` in its configuration; in a server with accounts, enable it there"
                )
            } else {
                format!("JetStream {shown} refuses the stream {name}: {error}")
            },
        )
    }

    fn unanswered(&self, name: &str, cause: &str) -> LinkError {
        LinkError::Unavailable(format!(
            "JetStream {} does not answer for the stream {name} ({cause}). Start the NATS server with JetStream (-js), or \
             set the link value domain to a domain this host reaches",
            self.shown()
        ))
    }

    fn shown(&self) -> String {
        self.domain.as_ref().map_or_else(|| "without a domain".to_owned(), |domain| format!("domain {domain:?}"))
    }
}

/// The name of a bucket, from a link value or made of other names.
pub fn bucket_name(value: Option<String>, default: String) -> Result<String, LinkError> {
    let name = value.unwrap_or(default);
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
    if name.len() > 128 || !name.bytes().all(is_plain) {
        return Err(wrong("bucket", &name, "up to 128 letters, digits, - and _"));
    }
    if name.starts_with("LATTICEDATA_") {
        return Err(wrong("bucket", &name, "another bucket than the one in which hosts keep links and claims"));
    }
    Ok(name)
}

/// The last message on a subject, as of now.
pub async fn last(stream: &Stream, subject: &str) -> Result<Option<StreamMessage>, ReadError> {
    if answers_directly(stream) {
        return direct(stream.direct_get_last_for_subject(subject).await);
    }
    match stream.get_last_raw_message_by_subject(subject).await {
        Ok(message) => Ok(Some(message)),
        Err(e) => match e.kind() {
            LastRawMessageErrorKind::NoMessageFound => Ok(None),
            LastRawMessageErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Err(ReadError::Gone)
            }
            _ => Err(ReadError::Failed(chain(&e))),
        },
    }
}

/// The first message on a subject that is not before `sequence`.
pub async fn next(stream: &Stream, subject: &str, sequence: u64) -> Result<Option<StreamMessage>, ReadError> {
    if answers_directly(stream) {
        return direct(stream.direct_get_next_for_subject(subject, Some(sequence)).await);
    }
    match stream.raw_message_builder().next_by_subject(subject).sequence(sequence).send().await {
        Ok(message) => Ok(Some(message)),
        Err(e) => match e.kind() {
            RawMessageErrorKind::NoMessageFound => Ok(None),
            RawMessageErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Err(ReadError::Gone)
            }
            _ => Err(ReadError::Failed(chain(&e))),
        },
    }
}

fn answers_directly(stream: &Stream) -> bool {
    let config = &stream.cached_info().config;
    config.allow_direct && config.num_replicas <= 1 && config.mirror.is_none()
}

fn direct(
    answer: Result<StreamMessage, jetstream::stream::DirectGetError>,
) -> Result<Option<StreamMessage>, ReadError> {
    match answer {
        Ok(message) => Ok(Some(message)),
        Err(e) => match e.kind() {
            DirectGetErrorKind::NotFound => Ok(None),
            DirectGetErrorKind::TimedOut => Err(ReadError::Gone),
            DirectGetErrorKind::ErrorResponse(status, _) if status == async_nats::StatusCode::NO_RESPONDERS => {
                Err(ReadError::Gone)
            }
            _ => Err(ReadError::Failed(chain(&e))),
        },
    }
}

/// The last messages of all subjects that match a filter, handed out one by one. A message that is written while the
/// scan runs may or may not be among them. Without an error, none of the others is missing.
pub async fn scan(
    stream: &Stream,
    filter: &str,
    headers_only: bool,
    found: impl FnMut(async_nats::jetstream::Message),
) -> Result<(), ReadError> {
    let config = pull::Config {
        description: Some("scan of a built-in provider".into()),
        deliver_policy: DeliverPolicy::LastPerSubject,
        ack_policy: AckPolicy::None,
        filter_subject: filter.to_owned(),
        inactive_threshold: CONSUMER_GRACE,
        memory_storage: true,
        num_replicas: 1,
        headers_only,
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await.map_err(|e| match e.kind() {
        ConsumerErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => ReadError::Gone,
        _ => ReadError::Failed(chain(&e)),
    })?;
    let outcome = match consumer.cached_info().num_pending {
        0 => Ok(()),
        _ => tokio::time::timeout(SCAN_TIME, deliver(&consumer, found)).await.unwrap_or_else(|_| {
            Err(ReadError::Failed(format!("the scan had no end within {} s", SCAN_TIME.as_secs())))
        }),
    };
    // Best effort: the server drops it by itself after `CONSUMER_GRACE`.
    let _ = stream.delete_consumer(&consumer.cached_info().name).await;
    outcome
}

/// Takes what a consumer has, until the server says that nothing is left and nothing was lost.
async fn deliver(
    consumer: &Consumer<pull::Config>,
    mut found: impl FnMut(async_nats::jetstream::Message),
) -> Result<(), ReadError> {
    let failed = |cause: String| ReadError::Failed(cause);
    let (mut received, mut empty) = (0, 0);
    loop {
        // Without waiting: it ends at once with what there is, even if something was removed meanwhile.
        let fetched = consumer.fetch().max_messages(SCAN_BATCH).messages();
        let silent = || failed(format!("nothing more came for {} s", SCAN_BATCH_TIME.as_secs()));
        let mut messages = tokio::time::timeout(SCAN_BATCH_TIME, fetched)
            .await
            .map_err(|_| silent())?
            .map_err(|e| failed(chain(&e)))?;
        let mut taken = 0;
        loop {
            let next = tokio::time::timeout(SCAN_BATCH_TIME, messages.next()).await;
            let Some(message) = next.map_err(|_| silent())? else { break };
            found(message.map_err(|e| failed(e.to_string()))?);
            taken += 1;
        }
        received += taken;
        if taken == SCAN_BATCH as u64 {
            continue;
        }
        // The library ends a batch in the same way when it is done and when it was cut short; the server knows which.
        let info = consumer.get_info().await.map_err(|e| failed(chain(&e)))?;
        if info.delivered.consumer_sequence != received {
            let sent = info.delivered.consumer_sequence;
            return Err(failed(format!("of {sent} entries that were sent, {received} arrived")));
        }
        if info.num_pending == 0 {
            return Ok(());
        }
        empty = if taken == 0 { empty + 1 } else { 0 };
        if empty == EMPTY_MAX {
            return Err(failed(format!("the server does not send the last {} entries", info.num_pending)));
        }
    }
}

/// Whether a write that failed surely did not happen: the server said no, or it never left.
pub fn is_refused(error: &PublishError) -> bool {
    let is_answer = std::error::Error::source(error).is_some_and(|source| source.is::<jetstream::Error>());
    match error.kind() {
        PublishErrorKind::StreamNotFound
        | PublishErrorKind::WrongLastMessageId
        | PublishErrorKind::WrongLastSequence
        | PublishErrorKind::MaxAckPending
        | PublishErrorKind::MaxPayloadExceeded => true,
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => false,
        _ => is_answer,
    }
}

/// Whether a write was refused because somebody else wrote first.
pub fn is_conflict(error: &PublishError) -> bool {
    // Clusters use a code of their own, which the client library leaves among the others.
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<jetstream::Error>());
    error.kind() == PublishErrorKind::WrongLastSequence
        || source.is_some_and(|error| error.error_code() == ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_names_are_plain_and_never_the_hosts_own() {
        assert_eq!(bucket_name(None, "KEYVALUE_default".into()).unwrap(), "KEYVALUE_default");
        for bad in ["a b", "a.b", "LATTICEDATA_default", &"x".repeat(129)] {
            let error = bucket_name(Some(bad.to_owned()), String::new()).unwrap_err();
            assert!(matches!(&error, LinkError::Values(text) if text.contains("link value bucket")), "{error}");
        }
    }
}

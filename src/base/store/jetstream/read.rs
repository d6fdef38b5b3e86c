//! Reading what streams hold, for all who keep data in them.
//!
//! Reads always see what was written before: where a stream has one replica, that answers directly,
//! which is the fastest; where it has several, the leader is asked, because others may be behind. A
//! [`scan`] is whole or an error. [`Held`] keeps what was opened, until it has to be opened again.
//! [`is_refused`] and [`is_conflict`] say what a failed write means, [`is_deletion`] whether a
//! message of a bucket is no entry.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use async_nats::{
    HeaderMap,
    header::NATS_MARKER_REASON,
    jetstream::{
        self, ErrorCode,
        consumer::{AckPolicy, Consumer, DeliverPolicy, pull},
        context::{PublishError, PublishErrorKind},
        message::StreamMessage,
        stream::{
            ConsumerErrorKind, DirectGetErrorKind, LastRawMessageErrorKind, RawMessageErrorKind,
            Stream,
        },
    },
};
use futures::StreamExt;
use time::OffsetDateTime;
use tracing::warn;

use lattice_protocol::errors::chain;

/// The header that says what was done with a key of a bucket.
pub const OPERATION: &str = "KV-Operation";
/// Messages of one batch of a scan.
const SCAN_BATCH: usize = 500;
/// How long the next message of a batch may take.
const SCAN_BATCH_TIME: Duration = Duration::from_secs(5);
/// How long a scan may take that writers are faster than.
const SCAN_TIME: Duration = Duration::from_secs(120);
/// Batches in a row that may bring nothing although something is left: it may have been written in
/// between.
const EMPTY_MAX: u32 = 3;
/// How long the server keeps the consumer of a scan that broke off.
const CONSUMER_GRACE: Duration = Duration::from_secs(30);

/// Says whether a message of a bucket tells that its key was deleted, by a client or by the server.
pub fn is_deletion(headers: &HeaderMap) -> bool {
    let operations = headers
        .iter()
        // Clients of some languages write headers in lower case.
        .filter(|(name, _)| name.to_string().eq_ignore_ascii_case(OPERATION))
        .filter_map(|(_, values)| values.first());
    headers.get(NATS_MARKER_REASON).is_some()
        || operations.into_iter().any(|operation| matches!(operation.as_str(), "DEL" | "PURGE"))
}

/// A handle of a stream. The stream may vanish: somebody removes it, or it was kept in memory and
/// the server was restarted. Then it is opened again, and by that made again, instead of failing
/// for ever.
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

    /// Replaces the handle nobody answered for by what `open` gives, unless another call did so
    /// already.
    pub async fn renew<E>(
        &self,
        bucket: &str,
        gone: &Arc<H>,
        open: impl Future<Output = Result<H, E>>,
    ) -> Result<(), E> {
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

/// The last message on a subject, as of now.
pub async fn last(stream: &Stream, subject: &str) -> Result<Option<StreamMessage>, ReadError> {
    if answers_directly(stream) {
        return direct(stream.direct_get_last_for_subject(subject).await);
    }
    match stream.get_last_raw_message_by_subject(subject).await {
        Ok(message) => Ok(Some(message)),
        Err(e) => match e.kind() {
            LastRawMessageErrorKind::NoMessageFound => Ok(None),
            LastRawMessageErrorKind::JetStream(error)
                if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                Err(ReadError::Gone)
            }
            _ => Err(ReadError::Failed(chain(&e))),
        },
    }
}

/// The first message on a subject that is not before `sequence`.
pub async fn next(
    stream: &Stream,
    subject: &str,
    sequence: u64,
) -> Result<Option<StreamMessage>, ReadError> {
    if answers_directly(stream) {
        return direct(stream.direct_get_next_for_subject(subject, Some(sequence)).await);
    }
    match stream.raw_message_builder().next_by_subject(subject).sequence(sequence).send().await {
        Ok(message) => Ok(Some(message)),
        Err(e) => match e.kind() {
            RawMessageErrorKind::NoMessageFound => Ok(None),
            RawMessageErrorKind::JetStream(error)
                if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
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
            DirectGetErrorKind::ErrorResponse(status, _)
                if status == async_nats::StatusCode::NO_RESPONDERS =>
            {
                Err(ReadError::Gone)
            }
            _ => Err(ReadError::Failed(chain(&e))),
        },
    }
}

/// The last messages of all subjects that match a filter, handed out one by one. A message that is
/// written while the scan runs may or may not be among them. Without an error, none of the others
/// is missing.
pub async fn scan(
    stream: &Stream,
    filter: &str,
    headers_only: bool,
    mut found: impl FnMut(async_nats::jetstream::Message),
) -> Result<(), ReadError> {
    let config = pull::Config {
        deliver_policy: DeliverPolicy::LastPerSubject,
        filter_subject: filter.to_owned(),
        headers_only,
        ..scanning()
    };
    scan_with(stream, config, |message| {
        found(message);
        ControlFlow::Continue(())
    })
    .await
}

/// The messages since a moment on all subjects that match a filter, oldest first, handed out one by
/// one until `found` has seen enough. Those that are written while the scan runs are among them.
pub async fn scan_since(
    stream: &Stream,
    filter: &str,
    since: OffsetDateTime,
    found: impl FnMut(async_nats::jetstream::Message) -> ControlFlow<()>,
) -> Result<(), ReadError> {
    let config = pull::Config {
        deliver_policy: DeliverPolicy::ByStartTime { start_time: since },
        filter_subject: filter.to_owned(),
        ..scanning()
    };
    scan_with(stream, config, found).await
}

/// Returns the configuration of the consumer of a scan.
fn scanning() -> pull::Config {
    pull::Config {
        description: Some("scan of a host".into()),
        ack_policy: AckPolicy::None,
        inactive_threshold: CONSUMER_GRACE,
        memory_storage: true,
        num_replicas: 1,
        ..Default::default()
    }
}

async fn scan_with(
    stream: &Stream,
    config: pull::Config,
    found: impl FnMut(async_nats::jetstream::Message) -> ControlFlow<()>,
) -> Result<(), ReadError> {
    let consumer = stream.create_consumer(config).await.map_err(|e| match e.kind() {
        ConsumerErrorKind::JetStream(error)
            if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
        {
            ReadError::Gone
        }
        _ => ReadError::Failed(chain(&e)),
    })?;
    let outcome = match consumer.cached_info().num_pending {
        0 => Ok(()),
        _ => {
            tokio::time::timeout(SCAN_TIME, deliver(&consumer, found)).await.unwrap_or_else(|_| {
                Err(ReadError::Failed(format!(
                    "the scan had no end within {} s",
                    SCAN_TIME.as_secs()
                )))
            })
        }
    };
    // Best effort: the server drops it by itself after `CONSUMER_GRACE`.
    let _ = stream.delete_consumer(&consumer.cached_info().name).await;
    outcome
}

/// Takes what a consumer has, until the server says that nothing is left and nothing was lost, or
/// `found` has seen enough.
async fn deliver(
    consumer: &Consumer<pull::Config>,
    mut found: impl FnMut(async_nats::jetstream::Message) -> ControlFlow<()>,
) -> Result<(), ReadError> {
    let failed = |cause: String| ReadError::Failed(cause);
    let (mut received, mut empty) = (0, 0);
    loop {
        // Without waiting: it ends at once with what there is, even if something was removed
        // meanwhile.
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
            if found(message.map_err(|e| failed(e.to_string()))?).is_break() {
                return Ok(());
            }
            taken += 1;
        }
        received += taken;
        if taken == SCAN_BATCH as u64 {
            continue;
        }
        // The library ends a batch in the same way when it is done and when it was cut short; the
        // server knows which.
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
            return Err(failed(format!(
                "the server does not send the last {} entries",
                info.num_pending
            )));
        }
    }
}

/// Whether a write that failed surely did not happen: the server said no, or it never left.
pub fn is_refused(error: &PublishError) -> bool {
    let is_answer =
        std::error::Error::source(error).is_some_and(|source| source.is::<jetstream::Error>());
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
    let source = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<jetstream::Error>());
    error.kind() == PublishErrorKind::WrongLastSequence
        || source.is_some_and(|error| {
            error.error_code() == ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deletions_are_known_by_their_headers() {
        for (name, value, expected) in [
            (OPERATION, "DEL", true),
            (OPERATION, "PURGE", true),
            ("kv-operation", "DEL", true),
            ("Nats-Marker-Reason", "MaxAge", true),
            (OPERATION, "PUT", false),
            ("Type", "DEL", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value);
            assert_eq!(is_deletion(&headers), expected, "{name}: {value}");
        }
        assert!(!is_deletion(&HeaderMap::new()));
    }
}

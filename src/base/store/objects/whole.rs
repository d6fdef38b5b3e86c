//! Reading all pieces of an object.
//!
//! The server sends only a few pieces ahead of what was taken, so what is not yet paid for stays
//! with it. It also tells how many are left; pieces that are not there are noticed at once and not
//! waited for. A reader that lost the server for a moment goes on where it was.

use std::time::Duration;

use async_nats::jetstream::{
    consumer::{AckPolicy, DeliverPolicy, pull},
    stream::Stream,
};
use bytes::Bytes;
use futures::StreamExt;
use tokio::time::{Instant, timeout};

use crate::budget::{Budget, Buffer};
use lattice_protocol::errors::chain;

/// Pieces that may be on their way to the reader at a time, 2 MiB of them.
const AHEAD_MAX: usize = 16;
/// How often a reader begins where it was.
const RESUMES_MAX: usize = 3;
/// How long the server keeps a reader it does not hear of.
const CONSUMER_GRACE: Duration = Duration::from_secs(10);

/// The pieces to read.
pub struct Pieces<'a> {
    pub stream: &'a Stream,
    /// The subject of the pieces, of one [`PieceId`](super::PieceId).
    pub subject: String,
    /// How many bytes they have to have.
    pub expected: u64,
    /// How long the next piece may take, and memory for it.
    pub timeout: Duration,
}

/// Why an object was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Its pieces are not those that its metadata tells of, and will not be.
    #[error("{0}")]
    Damaged(String),
    /// The server, the line or this host.
    #[error("{0}")]
    Failed(String),
}

/// Why one consumer came to an end early.
enum Ended {
    /// It can go on with another one.
    Lost(String),
    Error(ReadError),
}

/// Returns the error for a failure that is not the object's.
fn failed(cause: impl ToString) -> Ended {
    Ended::Error(ReadError::Failed(cause.to_string()))
}

/// Reads all pieces at the speed of the line, no more than `expected` bytes; `seen` is handed each
/// as it arrives.
pub async fn whole(
    pieces: Pieces<'_>,
    budget: &Budget,
    mut seen: impl FnMut(&[u8]),
) -> Result<Bytes, ReadError> {
    let Ok(expected) = usize::try_from(pieces.expected) else {
        return Err(ReadError::Failed(format!("this machine holds no {} bytes", pieces.expected)));
    };
    let mut reading =
        Reading { content: Buffer::new(budget, Some(expected)), expected, next_sequence: 1 };
    let mut resumes = 0;
    while reading.content.len() < expected {
        match pieces.read(&mut reading, &mut seen).await {
            Ok(()) => {}
            Err(Ended::Error(error)) => return Err(error),
            Err(Ended::Lost(cause)) if resumes == RESUMES_MAX => {
                return Err(ReadError::Failed(cause));
            }
            Err(Ended::Lost(_)) => resumes += 1,
        }
    }
    Ok(reading.content.finish())
}

/// How far a read is.
struct Reading {
    content: Buffer,
    expected: usize,
    /// Where in the stream the next piece is not before.
    next_sequence: u64,
}

impl Reading {
    /// The error of pieces that are fewer than they have to be.
    fn short(&self) -> Ended {
        let (found, expected) = (self.content.len(), self.expected);
        Ended::Error(ReadError::Damaged(format!("only {found} of {expected} bytes are stored")))
    }
}

impl Pieces<'_> {
    /// Reads with one consumer, to the end or as far as it comes.
    async fn read(&self, reading: &mut Reading, seen: &mut impl FnMut(&[u8])) -> Result<(), Ended> {
        let config = pull::Config {
            description: Some("reader of an object".into()),
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: reading.next_sequence,
            },
            ack_policy: AckPolicy::None,
            filter_subject: self.subject.clone(),
            inactive_threshold: CONSUMER_GRACE,
            memory_storage: true,
            num_replicas: 1,
            ..Default::default()
        };
        let consumer = self.stream.create_consumer(config).await.map_err(|e| failed(chain(&e)))?;
        if consumer.cached_info().num_pending == 0 {
            return Err(reading.short());
        }
        let messages = consumer.stream().max_messages_per_batch(AHEAD_MAX).expires(self.timeout);
        let mut messages = messages.messages().await.map_err(|e| failed(chain(&e)))?;
        let mut delivered = 0;
        loop {
            let message = match timeout(self.timeout, messages.next()).await {
                Err(_) => {
                    let came = reading.content.len();
                    return Err(failed(format!(
                        "only {came} of {} bytes arrived in time",
                        reading.expected
                    )));
                }
                Ok(None) => return Err(Ended::Lost("the delivery ended early".into())),
                Ok(Some(message)) => message.map_err(|e| Ended::Lost(chain(&e)))?,
            };
            let info = message.info().map_err(failed)?;
            delivered += 1;
            if info.consumer_sequence != delivered {
                return Err(Ended::Lost("a piece got lost on its way".into()));
            }
            let (pending, next_sequence) = (info.pending, info.stream_sequence + 1);
            let piece = &message.payload;
            if piece.len() > reading.expected - reading.content.len() {
                let surplus = format!("its pieces have more than {} bytes", reading.expected);
                return Err(Ended::Error(ReadError::Damaged(surplus)));
            }
            let deadline = Instant::now() + self.timeout;
            reading.content.push(piece, deadline).await.map_err(failed)?;
            seen(piece);
            reading.next_sequence = next_sequence;
            if reading.content.len() == reading.expected {
                return Ok(());
            }
            if pending == 0 {
                return Err(reading.short());
            }
        }
    }
}

//! Objects of JetStream on their way: pieces written and pieces read.

use std::collections::VecDeque;

use async_nats::{
    HeaderMap, HeaderValue,
    jetstream::{context::PublishAckFuture, message::StreamMessage},
};
use aws_lc_rs::digest::{Context as Digest, SHA256};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, future::BoxFuture};

use super::{
    Nats, OBJECT, OFFSET, Unpublished,
    info::{Info, PIECE_BYTES, encoded},
};
use crate::{
    contracts::blobstore::ObjectMetadata,
    errors::chain,
    providers::builtin::{
        blobstore::backend::{Download, Error, Upload},
        jetstream,
    },
};

/// Pieces that may be on their way at a time.
const UNCONFIRMED_MAX: usize = 16;
/// Looks at pieces to find the one with a byte. One is enough unless others wrote at the same time.
const PROBES_MAX: u32 = 64;

/// An upload: its pieces are stored, its metadata not yet.
pub(super) struct Pieces {
    store: Nats,
    container: String,
    info: Info,
    /// Less than a piece.
    rest: BytesMut,
    unconfirmed: VecDeque<PublishAckFuture>,
    digest: Digest,
}

impl Pieces {
    pub(super) fn new(store: Nats, container: String, info: Info) -> Self {
        let digest = Digest::new(&SHA256);
        Self { store, container, info, rest: BytesMut::new(), unconfirmed: VecDeque::new(), digest }
    }

    async fn publish(&mut self, piece: Bytes) -> Result<(), Error> {
        if self.unconfirmed.len() >= UNCONFIRMED_MAX {
            self.confirm_first().await?;
        }
        let mut headers = HeaderMap::new();
        headers.insert(OFFSET, HeaderValue::from(self.info.size));
        if self.info.size == 0 {
            headers.insert(OBJECT, encoded(&self.info.name));
        }
        self.digest.update(&piece);
        self.info.size += piece.len() as u64;
        self.info.chunks += 1;
        let subject = self.store.piece_subject(&self.info.nuid);
        let published = self.store.context.publish_with_headers(subject, headers, piece).await;
        self.unconfirmed.push_back(published.map_err(|e| self.store.error("write", chain(&e)))?);
        Ok(())
    }

    async fn confirm_first(&mut self) -> Result<(), Error> {
        if let Some(acknowledged) = self.unconfirmed.pop_front() {
            acknowledged.await.map_err(|e| self.store.error("write", chain(&e)))?;
        }
        Ok(())
    }

    async fn store_rest(&mut self) -> Result<(), Error> {
        if !self.rest.is_empty() {
            let rest = self.rest.split().freeze();
            self.publish(rest).await?;
        }
        while !self.unconfirmed.is_empty() {
            self.confirm_first().await?;
        }
        // It may have been removed while the chunks came, and made again, with all that was in it.
        self.store.must_have(&self.container).await?;
        match self.stored().await? == self.info.chunks {
            true => Ok(()),
            false => Err(self.store.error("write", "pieces of the object were lost meanwhile; store it again".into())),
        }
    }

    /// How many of the pieces there are.
    async fn stored(&self) -> Result<u64, Error> {
        if self.info.chunks == 0 {
            return Ok(0);
        }
        let failed = |cause: String| self.store.error("write", cause);
        let stream = self.store.stream.now();
        let counts = stream.info_with_subjects(self.store.piece_subject(&self.info.nuid)).await;
        let count = counts.map_err(|e| failed(chain(&e)))?.next().await;
        Ok(count.transpose().map_err(|e| failed(chain(&e)))?.map_or(0, |(_, count)| count as u64))
    }
}

impl Upload for Pieces {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.rest.extend_from_slice(&bytes);
            while self.rest.len() >= PIECE_BYTES {
                let piece = self.rest.split_to(PIECE_BYTES).freeze();
                self.publish(piece).await?;
            }
            // Confirmed before the actor hears of it.
            while !self.unconfirmed.is_empty() {
                self.confirm_first().await?;
            }
            Ok(())
        })
    }

    fn finish(mut self: Box<Self>) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(async move {
            let stored = self.store_rest().await;
            let Self { store, info, digest, .. } = *self;
            let nuid = info.nuid.clone();
            let published = match stored {
                Ok(()) => store.publish_info(&info.with_digest(digest)).await,
                Err(error) => Err(Unpublished::Refused(error)),
            };
            // Metadata that may be there, or may still come, needs its pieces; if it does not, they are swept one day.
            if let Err(Unpublished::Refused(_)) = &published {
                store.purge_pieces(&nuid).await;
            }
            Ok(published?)
        })
    }

    fn abort(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.store.purge_pieces(&self.info.nuid).await })
    }
}

/// A download: reads piece after piece.
pub(super) struct Reading {
    store: Nats,
    metadata: ObjectMetadata,
    nuid: String,
    /// Where to begin, until the piece of it was looked for.
    seek: Option<u64>,
    /// Bytes in pieces that were not read yet.
    unread: u64,
    /// Bytes before the first that is wanted.
    to_skip: u64,
    next_sequence: u64,
    /// What is left of the last piece.
    piece: Bytes,
}

/// A piece that tells where in the object it is.
struct Placed {
    offset: u64,
    message: StreamMessage,
}

impl Placed {
    fn read(message: StreamMessage) -> Option<Self> {
        let offset = message.headers.get(OFFSET)?.as_str().parse().ok()?;
        Some(Self { offset, message })
    }

    fn end(&self) -> u64 {
        self.offset.saturating_add(self.message.payload.len() as u64)
    }

    fn has(&self, at: u64) -> bool {
        (self.offset..self.end()).contains(&at)
    }

    /// Offset and sequence.
    fn place(&self) -> (u64, u64) {
        (self.offset, self.message.sequence)
    }
}

impl Download for Reading {
    fn metadata(&self) -> &ObjectMetadata {
        &self.metadata
    }

    fn read(&mut self, limit: usize) -> BoxFuture<'_, Result<Bytes, Error>> {
        Box::pin(async move {
            let mut bytes = BytesMut::new();
            while bytes.len() < limit {
                if self.piece.is_empty() {
                    if self.unread == 0 {
                        break;
                    }
                    self.read_piece().await?;
                    let skipped = self.to_skip.min(self.piece.len() as u64);
                    self.to_skip -= skipped;
                    // Not more than the length of the piece, so it fits.
                    let _ = self.piece.split_to(skipped as usize);
                    continue;
                }
                let taken = self.piece.split_to(self.piece.len().min(limit - bytes.len()));
                bytes.extend_from_slice(&taken);
            }
            Ok(bytes.freeze())
        })
    }
}

impl Reading {
    pub(super) fn new(store: Nats, info: &Info, metadata: ObjectMetadata, start: u64) -> Self {
        Self {
            store,
            nuid: info.nuid.clone(),
            seek: Some(start).filter(|start| *start > 0),
            unread: info.size,
            to_skip: start.min(info.size),
            metadata,
            next_sequence: 1,
            piece: Bytes::new(),
        }
    }

    async fn read_piece(&mut self) -> Result<(), Error> {
        if let Some(start) = self.seek.take()
            && start >= PIECE_BYTES as u64
            && let Some(found) = self.find(start).await?
        {
            // Everything before it counts as read and skipped.
            self.unread = self.unread.saturating_sub(found.offset);
            self.to_skip = start - found.offset;
            return self.take(Some(found.message));
        }
        let message = self.next(self.next_sequence).await?;
        self.take(message)
    }

    fn take(&mut self, piece: Option<StreamMessage>) -> Result<(), Error> {
        // A piece that is missing, or one too large: the object was replaced or removed meanwhile.
        let piece = piece.filter(|piece| !piece.payload.is_empty() && piece.payload.len() as u64 <= self.unread);
        let Some(piece) = piece else {
            let ObjectMetadata { container_id, object_id, .. } = self.metadata.clone();
            return Err(Error::Changed { container: container_id, object: object_id });
        };
        self.unread -= piece.payload.len() as u64;
        self.next_sequence = piece.sequence + 1;
        self.piece = piece.payload;
        Ok(())
    }

    /// The first piece that is not before `sequence`.
    async fn next(&self, sequence: u64) -> Result<Option<StreamMessage>, Error> {
        let stream = self.store.stream.now();
        let found = jetstream::next(&stream, &self.store.piece_subject(&self.nuid), sequence).await;
        found.map_err(|e| self.store.error("read", chain(&e)))
    }

    /// The piece with the byte at `start`, whatever lies before it. `None` if pieces do not tell their offsets, or have no
    /// such byte.
    async fn find(&self, start: u64) -> Result<Option<Placed>, Error> {
        let Some(first) = self.next(1).await?.and_then(Placed::read) else { return Ok(None) };
        let last = self.store.last(&self.store.piece_subject(&self.nuid)).await?;
        let Some(last) = last.and_then(Placed::read) else { return Ok(None) };
        for piece in [&last, &first] {
            if piece.has(start) {
                return Ok(Some(Placed { offset: piece.offset, message: piece.message.clone() }));
            }
        }
        // It is after `low`, and its sequence less than `below`. What others wrote lies in between, so where it should be
        // is tried in turn with the middle, which ends soon whatever there is.
        let (mut low, mut high, mut below) = (first.place(), last.place(), last.message.sequence);
        for probe in 0..PROBES_MAX {
            if low.0 > start || high.0 <= start || below <= low.1 + 1 {
                return Ok(None);
            }
            let guess = match probe % 2 {
                0 => {
                    let ahead = u128::from(start - low.0) * u128::from(high.1 - low.1) / u128::from(high.0 - low.0);
                    low.1 + u64::try_from(ahead).unwrap_or(0)
                }
                _ => low.1.midpoint(below),
            };
            let guess = guess.clamp(low.1 + 1, below - 1);
            let Some(piece) = self.next(guess).await?.and_then(Placed::read) else { return Ok(None) };
            if piece.has(start) {
                return Ok(Some(piece));
            }
            match piece.offset > start {
                true => (high, below) = (piece.place(), guess),
                false => low = piece.place(),
            }
        }
        Ok(None)
    }
}

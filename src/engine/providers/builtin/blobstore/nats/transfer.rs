//! Objects of JetStream on their way: pieces written and pieces read.

use async_nats::jetstream::message::StreamMessage;
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;

use super::Nats;
use crate::providers::builtin::{
    blobstore::backend::{Download, Error, Upload},
    jetstream,
};
use lattice_base::store::objects::{Info, OFFSET, Objects, PIECE_BYTES, PieceId, Writer};
use lattice_protocol::{contracts::blobstore::ObjectMetadata, errors::chain};

/// Looks at pieces to find the one with a byte. One is enough unless others wrote at the same time.
const PROBES_MAX: u32 = 64;

/// An upload: its pieces are stored, its metadata not yet.
pub(super) struct Pieces {
    store: Nats,
    container: String,
    writer: Writer,
    /// Less than a piece.
    rest: BytesMut,
}

impl Pieces {
    pub(super) fn new(store: Nats, container: String, info: Info) -> Self {
        let writer = Writer::new(store.0.clone(), info);
        Self { store, container, writer, rest: BytesMut::new() }
    }

    async fn store_rest(&mut self) -> Result<(), Error> {
        if !self.rest.is_empty() {
            let rest = self.rest.split().freeze();
            self.writer.piece(rest).await?;
        }
        self.writer.confirm().await?;
        // It may have been removed while the chunks came, and made again, with all that was in it.
        self.store.must_have(&self.container).await?;
        match self.writer.is_stored().await? {
            true => Ok(()),
            false => {
                let lost = "pieces of the object were lost meanwhile; store it again".to_owned();
                Err(self.store.0.error("write", lost).into())
            }
        }
    }
}

impl Upload for Pieces {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.rest.extend_from_slice(&bytes);
            let piece_bytes = self.store.0.piece_bytes();
            while self.rest.len() >= piece_bytes {
                let piece = self.rest.split_to(piece_bytes).freeze();
                self.writer.piece(piece).await?;
            }
            // Confirmed before the actor hears of it.
            Ok(self.writer.confirm().await?)
        })
    }

    fn finish(mut self: Box<Self>) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(async move {
            match self.store_rest().await {
                Ok(()) => Ok(self.writer.finish().await?),
                Err(error) => {
                    self.writer.abort().await;
                    Err(error)
                }
            }
        })
    }

    fn abort(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(self.writer.abort())
    }
}

/// A download: reads piece after piece.
pub(super) struct Reading {
    store: Objects,
    metadata: ObjectMetadata,
    nuid: PieceId,
    /// Where to begin, until the piece of it was looked for.
    seek: Option<u64>,
    /// Bytes in pieces that were not read yet.
    unread: u64,
    /// Bytes before the first that is wanted.
    to_skip: u64,
    next_sequence: u64,
    /// The rest of the last piece.
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
    pub(super) fn new(store: Objects, info: &Info, metadata: ObjectMetadata, start: u64) -> Self {
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
        let piece = piece
            .filter(|piece| !piece.payload.is_empty() && piece.payload.len() as u64 <= self.unread);
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
        let stream = self.store.stream();
        let found = jetstream::next(&stream, &self.store.piece_subject(&self.nuid), sequence).await;
        found.map_err(|e| self.store.error("read", chain(&e)).into())
    }

    /// The piece with the byte at `start`, whatever lies before it. `None` if pieces do not tell
    /// their offsets, or have no such byte.
    async fn find(&self, start: u64) -> Result<Option<Placed>, Error> {
        let Some(first) = self.next(1).await?.and_then(Placed::read) else { return Ok(None) };
        let last = self.store.last(&self.store.piece_subject(&self.nuid)).await?;
        let Some(last) = last.and_then(Placed::read) else { return Ok(None) };
        for piece in [&last, &first] {
            if piece.has(start) {
                return Ok(Some(Placed { offset: piece.offset, message: piece.message.clone() }));
            }
        }
        // It is after `low`, and its sequence less than `below`. Messages of others lie in between,
        // so the place where it should be is tried in turn with the middle, which ends soon in any
        // case.
        let (mut low, mut high, mut below) = (first.place(), last.place(), last.message.sequence);
        for probe in 0..PROBES_MAX {
            if low.0 > start || high.0 <= start || below <= low.1 + 1 {
                return Ok(None);
            }
            let guess = match probe % 2 {
                0 => {
                    let ahead = u128::from(start - low.0) * u128::from(high.1 - low.1)
                        / u128::from(high.0 - low.0);
                    low.1 + u64::try_from(ahead).unwrap_or(0)
                }
                _ => low.1.midpoint(below),
            };
            let guess = guess.clamp(low.1 + 1, below - 1);
            let Some(piece) = self.next(guess).await?.and_then(Placed::read) else {
                return Ok(None);
            };
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

//! Objects of JetStream on their way: pieces written and pieces read.

use std::collections::VecDeque;

use async_nats::jetstream::context::PublishAckFuture;
use aws_lc_rs::digest::{Context as Digest, SHA256};
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;

use super::{Info, Nats, PIECE_BYTES};
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
        self.digest.update(&piece);
        self.info.size += piece.len() as u64;
        self.info.chunks += 1;
        let published = self.store.context.publish(self.store.piece_subject(&self.info.nuid), piece).await;
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
        // It may have been removed while the chunks came.
        self.store.must_have(&self.container).await
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
            let mut outcome = self.store_rest().await;
            let Self { store, info, digest, .. } = *self;
            let nuid = info.nuid.clone();
            if outcome.is_ok() {
                outcome = store.publish_info(&info.with_digest(digest)).await;
            }
            if outcome.is_err() {
                store.purge_pieces(&nuid).await;
            }
            outcome
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
    /// Bytes in pieces that were not read yet.
    unread: u64,
    /// Bytes before the first that is wanted.
    to_skip: u64,
    next_sequence: u64,
    /// What is left of the last piece.
    piece: Bytes,
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
            unread: info.size,
            to_skip: start.min(info.size),
            metadata,
            next_sequence: 1,
            piece: Bytes::new(),
        }
    }

    async fn read_piece(&mut self) -> Result<(), Error> {
        let subject = self.store.piece_subject(&self.nuid);
        let found = jetstream::next(&self.store.stream, &subject, self.next_sequence).await;
        let message = found.map_err(|e| self.store.error("read", chain(&e)))?;
        // A piece that is missing, or one too large: the object was replaced or removed meanwhile.
        let piece = message.filter(|piece| !piece.payload.is_empty() && piece.payload.len() as u64 <= self.unread);
        let Some(piece) = piece else {
            let ObjectMetadata { container_id, object_id, .. } = self.metadata.clone();
            return Err(Error::Changed { container: container_id, object: object_id });
        };
        self.unread -= piece.payload.len() as u64;
        self.next_sequence = piece.sequence + 1;
        self.piece = piece.payload;
        Ok(())
    }
}

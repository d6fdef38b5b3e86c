//! An object on its way in, piece after piece.

use std::collections::VecDeque;

use async_nats::{HeaderMap, HeaderValue, jetstream::context::PublishAckFuture};
use aws_lc_rs::digest::{Context as Digest, SHA256};
use bytes::Bytes;

use super::{Error, Info, Objects, Unpublished, info::encoded};

/// Header of a piece: where in the object it begins.
pub const OFFSET: &str = "Lattice-Offset";
/// Header of the first piece: the object it is of, encoded as in subjects.
pub(super) const OBJECT: &str = "Lattice-Object";
/// Pieces that may be on their way at a time.
const UNCONFIRMED_MAX: usize = 16;

/// Stores an object: its pieces as they come, its metadata at the end.
pub struct Writer {
    objects: Objects,
    info: Info,
    /// With the bytes of each.
    unconfirmed: VecDeque<(u64, PublishAckFuture)>,
    confirmed: u64,
    digest: Digest,
}

impl Writer {
    /// `info` is that of a new object, without bytes.
    pub fn new(objects: Objects, info: Info) -> Self {
        Self {
            objects,
            info,
            unconfirmed: VecDeque::new(),
            confirmed: 0,
            digest: Digest::new(&SHA256),
        }
    }

    /// The metadata so far.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// How many bytes the bucket has confirmed.
    pub fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// Sends the next piece; waits only while too many are on their way.
    pub async fn piece(&mut self, piece: Bytes) -> Result<(), Error> {
        if self.unconfirmed.len() >= UNCONFIRMED_MAX {
            self.confirm_first().await?;
        }
        let mut headers = HeaderMap::new();
        headers.insert(OFFSET, HeaderValue::from(self.info.size));
        if self.info.size == 0 {
            headers.insert(OBJECT, encoded(&self.info.name));
        }
        let bytes = piece.len() as u64;
        self.digest.update(&piece);
        self.info.size += bytes;
        self.info.chunks += 1;
        let subject = self.objects.piece_subject(&self.info.nuid);
        let published = self.objects.context.publish_with_headers(subject, headers, piece).await;
        self.unconfirmed.push_back((bytes, published.map_err(|e| self.objects.unwritten(&e))?));
        Ok(())
    }

    /// Waits until all pieces that were sent are confirmed.
    pub async fn confirm(&mut self) -> Result<(), Error> {
        while !self.unconfirmed.is_empty() {
            self.confirm_first().await?;
        }
        Ok(())
    }

    async fn confirm_first(&mut self) -> Result<(), Error> {
        if let Some((bytes, acknowledged)) = self.unconfirmed.pop_front() {
            acknowledged.await.map_err(|e| self.objects.unwritten(&e))?;
            self.confirmed += bytes;
        }
        Ok(())
    }

    /// Whether the bucket has all pieces that were sent.
    pub async fn is_stored(&self) -> Result<bool, Error> {
        self.objects.is_whole(&self.info).await
    }

    /// Makes the object appear. If it surely does not, its pieces are removed.
    pub async fn finish(self) -> Result<(), Unpublished> {
        let Self { objects, info, digest, .. } = self;
        let published = objects.publish_info(&info.clone().with_digest(digest)).await;
        // Metadata that may be there, or may still come, needs its pieces; if it does not, they are
        // swept one day.
        if let Err(Unpublished::Refused(_)) = &published {
            objects.purge_pieces(&info.nuid).await;
        }
        published
    }

    /// Removes what was sent.
    pub async fn abort(self) {
        self.objects.purge_pieces(&self.info.nuid).await;
    }
}

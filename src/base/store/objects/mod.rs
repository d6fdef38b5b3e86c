//! Objects in a bucket of JetStream, in the form all NATS clients share: `nats object ls` and `nats
//! object get` show them.
//!
//! * [`Info`] is the metadata of an object; [`Objects`] reads, writes and removes it.
//! * [`Writer`] stores the pieces of an object, and its metadata last: an object appears whole, and
//!   on condition that nobody else wrote it meanwhile, so that the pieces of the one before can be
//!   removed without a doubt.
//! * [`whole`] reads all pieces of one, and pays for them out of the host's budget.
//! * [`PieceId`] names the pieces of an object; it is parsed wherever it is read.
//!
//! The id of pieces begins with the time of their upload. By that [`Objects::sweep`] finds the
//! pieces of uploads whose process died: older than a day, and no metadata names them. Each piece
//! has its offset in a header, by which a reader of a part finds its beginning, and the first one
//! the name of its object, by which a sweep looks again before it removes anything. Other clients
//! ignore both.
//!
//! NATS servers map no subject of objects into a JetStream domain, as they do for the entries of a
//! key-value bucket. A message reaches every domain that has a bucket of the same name, and any of
//! them may be the first to confirm it. So nothing is concluded from a confirmation alone: whether
//! pieces and metadata are there is read in the right domain.

mod info;
mod whole;
mod writer;

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_nats::{
    HeaderMap, HeaderValue,
    header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_ROLLUP},
    jetstream::{
        Context,
        message::StreamMessage,
        stream::{Config, PurgeErrorKind, Stream},
    },
};
use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture};
use serde::Deserialize;
use tracing::{debug, warn};

use info::now;
pub use info::{Info, PIECE_BYTES, PieceId, decoded, encoded, piece_subject};
pub use whole::{Pieces, ReadError as WholeError, whole};
use writer::OBJECT;
pub use writer::{OFFSET, Writer};

use super::jetstream::{
    lasting,
    read::{self, Held, ReadError},
};
use lattice_protocol::{errors::chain, serde_null::null_as_default};

/// Attempts to write metadata that others write too.
const ATTEMPTS_MAX: usize = 10;
/// Pieces no metadata names are removed when they are this old.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The size of a message without its piece: the headers, of which the longest is the name of an
/// object.
const ENVELOPE_BYTES: usize = 2 * 1024;
/// No server allows so little.
const PIECE_BYTES_MIN: usize = 256;

/// Opens the stream of a bucket again, when it was there and is gone.
pub type Reopen = Arc<dyn Fn() -> BoxFuture<'static, Result<Stream, String>> + Send + Sync>;

/// Why something about an object was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the bucket {bucket} did not confirm the write of {name:?} ({cause}): it may or may not have happened; look at the object to know"
    )]
    Unconfirmed { name: String, bucket: String, cause: String },
    #[error(
        "the metadata of {name:?} in the bucket {bucket} cannot be read: {cause}; was it written by another program? Remove the object \
         or store it anew"
    )]
    Unreadable { name: String, bucket: String, cause: String },
    /// There is no stream for what was written, or its server does not hear of it.
    #[error("cannot write in the bucket {bucket}: nobody takes messages for it ({cause})")]
    Unheard { bucket: String, cause: String },
    /// The server refuses, or does not answer.
    #[error("cannot {action}: {cause}")]
    Storage { action: String, cause: String },
}

/// Why metadata is not known to be stored.
#[derive(Debug)]
pub enum Unpublished {
    /// It surely is not, and will not be.
    Refused(Error),
    /// It may be, or may be in a moment.
    Unknown(Error),
}

impl From<Unpublished> for Error {
    fn from(unpublished: Unpublished) -> Self {
        match unpublished {
            Unpublished::Refused(error) | Unpublished::Unknown(error) => error,
        }
    }
}

/// The metadata of an object as a listing shows it.
#[derive(Clone, Debug)]
pub struct Listed {
    pub info: Info,
    /// When the server took it.
    pub stored: time::OffsetDateTime,
}

/// The member of the metadata that tells whether there is an object.
#[derive(Deserialize)]
struct Mark {
    #[serde(default, deserialize_with = "null_as_default")]
    deleted: bool,
}

/// A bucket of objects. Cheap to clone.
#[derive(Clone)]
pub struct Objects {
    context: Context,
    stream: Arc<Held<Stream>>,
    bucket: Arc<str>,
    reopen: Reopen,
}

/// The name of a bucket's stream.
pub fn stream_name(bucket: &str) -> String {
    format!("OBJ_{bucket}")
}

/// Returns the configuration of a bucket's stream.
pub fn stream_config(bucket: &str, description: &str) -> Config {
    Config {
        name: stream_name(bucket),
        subjects: vec![format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")],
        description: Some(description.to_owned()),
        ..lasting()
    }
}

impl Objects {
    pub fn new(context: Context, stream: Stream, bucket: &str, reopen: Reopen) -> Self {
        Self { context, stream: Arc::new(Held::new(stream)), bucket: bucket.into(), reopen }
    }

    pub fn context(&self) -> &Context {
        &self.context
    }

    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The bucket's stream, as it was opened last.
    pub fn stream(&self) -> Arc<Stream> {
        self.stream.now()
    }

    async fn open_again(&self, gone: &Arc<Stream>) -> Result<(), Error> {
        self.stream
            .renew(&self.bucket, gone, (self.reopen)())
            .await
            .map_err(|cause| self.error("read", cause))
    }

    /// The last message on a subject; the bucket is opened again if it is gone.
    pub async fn last(&self, subject: &str) -> Result<Option<StreamMessage>, Error> {
        let mut was_opened = false;
        loop {
            let stream = self.stream();
            match read::last(&stream, subject).await {
                Err(ReadError::Gone) if !was_opened => {
                    self.open_again(&stream).await?;
                    was_opened = true;
                }
                outcome => return outcome.map_err(|e| self.error("read", chain(&e))),
            }
        }
    }

    /// Reads the metadata of an object, readable or not, with the sequence a conditional write
    /// relies on.
    async fn state(&self, name: &str) -> Result<(u64, Option<Result<Info, Error>>), Error> {
        let Some(message) = self.last(&self.info_subject(name)).await? else {
            return Ok((0, None));
        };
        Ok((message.sequence, self.read_info(name, &message.payload).transpose()))
    }

    /// The metadata of an object, if there is one.
    pub async fn info(&self, name: &str) -> Result<Option<Info>, Error> {
        let (_, info) = self.state(name).await?;
        info.transpose()
    }

    /// Reads metadata; `None` is that of a removed object.
    fn read_info(&self, name: &str, json: &[u8]) -> Result<Option<Info>, Error> {
        // Of a removed object the other members may be anything.
        if serde_json::from_slice::<Mark>(json).is_ok_and(|mark| mark.deleted) {
            return Ok(None);
        }
        let info = serde_json::from_slice::<Info>(json).map_err(|error| Error::Unreadable {
            name: name.to_owned(),
            bucket: self.bucket.to_string(),
            cause: error.to_string(),
        })?;
        // The name and the bucket are those of its subject, whatever it says itself.
        Ok(Some(Info { name: name.to_owned(), bucket: self.bucket.to_string(), ..info }))
    }

    /// Writes metadata, and removes the pieces of what it replaces.
    pub async fn publish_info(&self, info: &Info) -> Result<(), Unpublished> {
        self.publish_over(Over::Anything, info).await?;
        Ok(())
    }

    /// Says that an object was stored at this time, unless it was replaced or removed since its
    /// metadata was read; whether it said so.
    pub async fn store_again(&self, info: Info) -> Result<bool, Unpublished> {
        self.publish_over(Over::Itself, &info.stored_now()).await
    }

    async fn publish_over(&self, over: Over, info: &Info) -> Result<bool, Unpublished> {
        let refused = |error| Unpublished::Refused(error);
        let json =
            serde_json::to_vec(info).map_err(|e| refused(self.error("write", e.to_string())))?;
        let json = Bytes::from(json);
        for attempt in 0..ATTEMPTS_MAX {
            let (sequence, before) = self.state(&info.name).await.map_err(refused)?;
            // It was stored, and the answer came from a bucket of the same name in another domain.
            if attempt > 0 && before.as_ref().is_some_and(|before| is(before, info)) {
                return Ok(true);
            }
            if !over.may_replace(before.as_ref(), info) {
                return Ok(false);
            }
            let mut headers = HeaderMap::new();
            headers.insert(NATS_ROLLUP, "sub");
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, HeaderValue::from(sequence));
            let subject = self.info_subject(&info.name);
            let published =
                match self.context.publish_with_headers(subject, headers, json.clone()).await {
                    Ok(acknowledged) => acknowledged.await,
                    Err(error) => Err(error),
                };
            match published {
                Ok(_) => {}
                Err(error) if read::is_conflict(&error) => continue,
                Err(error) if read::is_refused(&error) => {
                    return Err(refused(self.unwritten(&error)));
                }
                // Nobody knows, unless it can be seen.
                Err(error) => match self.state(&info.name).await {
                    Ok((_, Some(found))) if is(&found, info) => {}
                    _ => {
                        return Err(Unpublished::Unknown(
                            self.unconfirmed(&info.name, chain(&error)),
                        ));
                    }
                },
            }
            if let Some(Ok(before)) = before
                && before.nuid != info.nuid
            {
                self.purge_pieces(&before.nuid).await;
            }
            return Ok(true);
        }
        Err(refused(self.error("write", format!("others write {:?} without a pause", info.name))))
    }

    /// Removes an object, also one whose metadata nobody can read; whether there was one.
    pub async fn remove(&self, name: &str) -> Result<bool, Error> {
        self.remove_if(name, |_| true).await
    }

    /// Removes an object if its metadata, as far as it can be read, is of the kind wanted; whether
    /// it was removed.
    pub async fn remove_if(
        &self,
        name: &str,
        is_wanted: impl Fn(&Result<Info, Error>) -> bool,
    ) -> Result<bool, Error> {
        for _ in 0..ATTEMPTS_MAX {
            let (sequence, info) = self.state(name).await?;
            let Some(info) = info.filter(&is_wanted) else { return Ok(false) };
            // Only this state of it: what was written since stays, and is looked at again.
            let purged =
                self.stream().purge().filter(self.info_subject(name)).sequence(sequence + 1).await;
            let purged = purged.map_err(|e| match e.kind() {
                PurgeErrorKind::JetStream(_) => self.error("write", chain(&e)),
                _ => self.unconfirmed(name, chain(&e)),
            })?;
            if purged.purged > 0 {
                if let Ok(info) = info {
                    self.purge_pieces(&info.nuid).await;
                }
                return Ok(true);
            }
        }
        Err(self.error("write", format!("others write {name:?} without a pause")))
    }

    /// Removes pieces nothing names any longer. A sweep finds those that stay after a failure.
    pub async fn purge_pieces(&self, nuid: &PieceId) {
        if let Err(error) = self.stream().purge().filter(self.piece_subject(nuid)).await {
            warn!(bucket = %self.bucket, %nuid, %error, "pieces of an object not removed, a later sweep will");
        }
    }

    /// How many pieces with this id there are.
    async fn count_pieces(&self, nuid: &PieceId) -> Result<u64, Error> {
        let counts = self.stream().info_with_subjects(self.piece_subject(nuid)).await;
        let count = counts.map_err(|e| self.error("write", chain(&e)))?.next().await;
        Ok(count
            .transpose()
            .map_err(|e| self.error("write", chain(&e)))?
            .map_or(0, |(_, count)| count as u64))
    }

    /// Whether all pieces that metadata names are there.
    pub async fn is_whole(&self, info: &Info) -> Result<bool, Error> {
        match info.chunks {
            0 => Ok(info.size == 0),
            chunks => Ok(self.count_pieces(&info.nuid).await? == chunks),
        }
    }

    /// All objects there are, by their names. All or an error: what cannot be read is among them.
    pub async fn list(&self) -> Result<Vec<(String, Result<Listed, Error>)>, Error> {
        let prefix = format!("$O.{}.M.", self.bucket);
        let filter = format!("{prefix}>");
        let mut was_opened = false;
        loop {
            let mut all = Vec::new();
            let stream = self.stream();
            let scanned = read::scan(&stream, &filter, false, |message| {
                let encoded = message
                    .subject
                    .strip_prefix(prefix.as_str())
                    .unwrap_or(message.subject.as_str());
                let name = decoded(encoded).unwrap_or_else(|| encoded.to_owned());
                let stored =
                    message.info().map_or(time::OffsetDateTime::UNIX_EPOCH, |info| info.published);
                match self.read_info(&name, &message.payload) {
                    Ok(None) => {}
                    Ok(Some(info)) => all.push((name, Ok(Listed { info, stored }))),
                    Err(error) => all.push((name, Err(error))),
                }
            });
            match scanned.await {
                Ok(()) => return Ok(all),
                Err(ReadError::Gone) if !was_opened => {
                    self.open_again(&stream).await?;
                    was_opened = true;
                }
                Err(error) => return Err(self.error("list", chain(&error))),
            }
        }
    }

    /// Removes the pieces of uploads that were never finished.
    pub async fn sweep(&self) -> Result<(), Error> {
        let stream = self.stream();
        let prefix = format!("$O.{}.C.", self.bucket);
        let oldest = now().saturating_sub(ABANDONED_AFTER).as_secs();
        let found = stream.info_with_subjects(format!("{prefix}>")).await;
        let mut subjects = found.map_err(|e| self.error("list", chain(&e)))?;
        let mut old = HashSet::new();
        while let Some(found) = subjects.next().await {
            let (subject, _) = found.map_err(|e| self.error("list", chain(&e)))?;
            if let Some(nuid) = subject.strip_prefix(&prefix).and_then(PieceId::parse)
                && nuid.begun_at().is_some_and(|begun| begun < oldest)
            {
                old.insert(nuid);
            }
        }
        if old.is_empty() {
            return Ok(());
        }
        for (_, listed) in self.list().await? {
            // Those of an object with unreadable metadata are kept below.
            if let Ok(listed) = listed {
                old.remove(&listed.info.nuid);
            }
        }
        for nuid in old {
            // It may have become an object since. Pieces that do not tell of which are not ours to
            // remove.
            let piece = read::next(&stream, &self.piece_subject(&nuid), 1).await;
            let piece = piece.map_err(|e| self.error("read", chain(&e)))?;
            let name =
                piece.as_ref().and_then(|piece| decoded(piece.headers.get(OBJECT)?.as_str()));
            let Some(name) = name else { continue };
            match self.info(&name).await {
                Ok(info) if info.as_ref().is_none_or(|info| info.nuid != nuid) => {}
                Ok(_) | Err(Error::Unreadable { .. }) => continue,
                Err(error) => return Err(error),
            }
            debug!(bucket = %self.bucket, %nuid, "removing pieces of an upload that was never finished");
            self.purge_pieces(&nuid).await;
        }
        Ok(())
    }

    /// Where the metadata of an object is.
    pub fn info_subject(&self, name: &str) -> String {
        format!("$O.{}.M.{}", self.bucket, encoded(name))
    }

    /// Where pieces with this id are.
    pub fn piece_subject(&self, nuid: &PieceId) -> String {
        piece_subject(&self.bucket, nuid)
    }

    /// How large the pieces are that are written: as those of other clients, or what a message may
    /// have here.
    pub fn piece_bytes(&self) -> usize {
        piece_bytes(&self.context.client())
    }

    fn unconfirmed(&self, name: &str, cause: String) -> Error {
        Error::Unconfirmed { name: name.to_owned(), bucket: self.bucket.to_string(), cause }
    }

    fn unwritten(&self, error: &async_nats::jetstream::context::PublishError) -> Error {
        match error.kind() {
            async_nats::jetstream::context::PublishErrorKind::StreamNotFound => {
                Error::Unheard { bucket: self.bucket.to_string(), cause: chain(error) }
            }
            _ => self.error("write", chain(error)),
        }
    }

    /// Returns the error of a failed action on this bucket.
    pub fn error(&self, verb: &str, cause: String) -> Error {
        Error::Storage { action: format!("{verb} in the bucket {}", self.bucket), cause }
    }
}

/// The thing that metadata may be written over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// Anything that is there, or nothing.
    Anything,
    /// The metadata of the same object only: its pieces are named by no other.
    Itself,
}

impl Over {
    fn may_replace(self, before: Option<&Result<Info, Error>>, info: &Info) -> bool {
        match (self, before) {
            (Self::Anything, _) => true,
            (Self::Itself, Some(Ok(before))) => before.nuid == info.nuid,
            (Self::Itself, None | Some(Err(_))) => false,
        }
    }
}

fn is(found: &Result<Info, Error>, info: &Info) -> bool {
    found.as_ref().is_ok_and(|found| found.nuid == info.nuid && found.mtime == info.mtime)
}

/// Returns how large the pieces that this client writes may be. The server's limit may change with
/// the server.
pub fn piece_bytes(client: &async_nats::Client) -> usize {
    PIECE_BYTES.min(client.max_payload().saturating_sub(ENVELOPE_BYTES)).max(PIECE_BYTES_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_that_is_stored_again_replaces_that_of_the_same_object_only() {
        let info = || Info::new("name".into(), "bucket".into());
        let (marked, other) = (info(), info());
        let unreadable = || Error::Unreadable {
            name: "name".into(),
            bucket: "bucket".into(),
            cause: "why".into(),
        };
        for (before, may_replace) in [
            (Some(Ok(marked.clone())), true),
            (Some(Ok(other)), false),
            (Some(Err(unreadable())), false),
            (None, false),
        ] {
            assert_eq!(Over::Itself.may_replace(before.as_ref(), &marked), may_replace);
            assert!(Over::Anything.may_replace(before.as_ref(), &marked), "{before:?}");
        }
    }
}

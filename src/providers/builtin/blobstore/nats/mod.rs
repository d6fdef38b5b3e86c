//! Objects in the object store of JetStream, in a bucket that by default belongs to one actor.
//!
//! The bucket is an ordinary one: `nats object ls` and `nats object get` show it. An object is named
//! `{container}/{object}`, a container is the empty object `{container}/`. Pieces are written as chunks arrive, and read
//! as chunks are sent; nothing is held whole. An object appears with its metadata, which is written last and on condition
//! that nobody else wrote it meanwhile, so that the pieces of the one before can be removed without a doubt.
//!
//! The id of pieces begins with the time of their upload. By that [`Nats::sweep`] finds the pieces of uploads whose
//! process died: older than a day, and no metadata names them. Each piece has its offset in a header, by which a download
//! of a part finds its beginning, and the first one the name of its object, by which a sweep looks again before it removes
//! anything. Other clients ignore both; what these stored is read from its beginning.

mod info;
mod transfer;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use async_nats::{
    HeaderMap, HeaderValue,
    header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_ROLLUP},
    jetstream::{
        Context,
        message::StreamMessage,
        stream::{Config, PurgeErrorKind, Stream},
    },
};
use aws_lc_rs::digest::{Context as Digest, SHA256};
use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture};
use tracing::{debug, warn};

use self::{
    info::{CONTENT_ENCODING, CONTENT_TYPE, Info, begun_at, decoded, encoded, full_name, marker, new_nuid, now},
    transfer::{Pieces, Reading},
};
use super::backend::{Backend, ContentInfo, Download, Error, Listing, Page, Upload};
use crate::{
    contracts::blobstore::{ContainerMetadata, ObjectMetadata},
    errors::chain,
    providers::builtin::{
        LinkError,
        jetstream::{self, Held, Placement, ReadError},
    },
};

/// Attempts to write metadata that others write too.
const ATTEMPTS_MAX: usize = 10;
/// Pieces no metadata names are removed when they are this old.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Header of a piece: where in the object it begins.
const OFFSET: &str = "Lattice-Offset";
/// Header of the first piece: the object it is of, encoded as in subjects.
const OBJECT: &str = "Lattice-Object";

/// A bucket of objects.
#[derive(Clone)]
pub struct Nats {
    context: Context,
    stream: Arc<Held<Stream>>,
    bucket: String,
    placement: Placement,
}

/// Why metadata is not known to be stored.
enum Unpublished {
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

impl Nats {
    /// Opens the bucket, and creates it if it is missing.
    pub async fn open(client: &async_nats::Client, bucket: String, placement: &Placement) -> Result<Self, LinkError> {
        let context = placement.context(client);
        let stream = open_stream(&context, &bucket, placement).await?;
        Ok(Self { context, stream: Arc::new(Held::new(stream)), bucket, placement: placement.clone() })
    }

    async fn open_again(&self, gone: &Arc<Stream>) -> Result<(), Error> {
        let open = open_stream(&self.context, &self.bucket, &self.placement);
        self.stream.renew(&self.bucket, gone, open).await.map_err(|error| self.error("read", error.to_string()))
    }

    /// The last message on a subject; the bucket is opened again if it is gone.
    async fn last(&self, subject: &str) -> Result<Option<StreamMessage>, Error> {
        let mut was_opened = false;
        loop {
            let stream = self.stream.now();
            match jetstream::last(&stream, subject).await {
                Err(ReadError::Gone) if !was_opened => {
                    self.open_again(&stream).await?;
                    was_opened = true;
                }
                outcome => return outcome.map_err(|e| self.error("read", chain(&e))),
            }
        }
    }

    /// What is known of an object, readable or not, with the state a conditional write relies on.
    async fn state(&self, name: &str) -> Result<(u64, Option<Result<Info, Error>>), Error> {
        let Some(message) = self.last(&self.meta_subject(name)).await? else { return Ok((0, None)) };
        Ok((message.sequence, self.read_info(name, &message.payload).transpose()))
    }

    /// The metadata of an object, with the state a conditional write relies on.
    async fn info(&self, name: &str) -> Result<(u64, Option<Info>), Error> {
        let (sequence, info) = self.state(name).await?;
        Ok((sequence, info.transpose()?))
    }

    /// Reads metadata; `None` is that of a removed object.
    fn read_info(&self, name: &str, json: &[u8]) -> Result<Option<Info>, Error> {
        let unreadable = |e: serde_json::Error| Error::Unreadable {
            name: name.to_owned(),
            bucket: self.bucket.clone(),
            cause: e.to_string(),
        };
        let info = serde_json::from_slice::<Info>(json).map_err(unreadable)?;
        Ok(Some(info).filter(|info| !info.deleted))
    }

    /// Writes metadata and removes the pieces it replaces.
    async fn publish_info(&self, info: &Info) -> Result<(), Unpublished> {
        let refused = |error| Unpublished::Refused(error);
        let json = serde_json::to_vec(info).map_err(|e| refused(self.error("write", e.to_string())))?;
        let json = Bytes::from(json);
        for _ in 0..ATTEMPTS_MAX {
            let (sequence, before) = self.state(&info.name).await.map_err(refused)?;
            let mut headers = HeaderMap::new();
            headers.insert(NATS_ROLLUP, "sub");
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, HeaderValue::from(sequence));
            let subject = self.meta_subject(&info.name);
            let published = match self.context.publish_with_headers(subject, headers, json.clone()).await {
                Ok(acknowledged) => acknowledged.await,
                Err(error) => Err(error),
            };
            match published {
                Ok(_) => {}
                Err(error) if jetstream::is_conflict(&error) => continue,
                Err(error) if jetstream::is_refused(&error) => return Err(refused(self.error("write", chain(&error)))),
                // Nobody knows, unless it can be seen.
                Err(error) => match self.info(&info.name).await {
                    Ok((_, Some(found))) if found.nuid == info.nuid => {}
                    _ => return Err(Unpublished::Unknown(self.unconfirmed(&info.name, chain(&error)))),
                },
            }
            if let Some(Ok(before)) = before {
                self.purge_pieces(&before.nuid).await;
            }
            return Ok(());
        }
        Err(refused(self.error("write", format!("others write {:?} without a pause", info.name))))
    }

    /// Removes an object, also one whose metadata nobody can read; whether there was one.
    async fn remove(&self, name: &str) -> Result<bool, Error> {
        for _ in 0..ATTEMPTS_MAX {
            let (sequence, info) = self.state(name).await?;
            let Some(info) = info else { return Ok(false) };
            // Only this state of it: what was written since stays, and is looked at again.
            let purged = self.stream.now().purge().filter(self.meta_subject(name)).sequence(sequence + 1).await;
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

    /// Removes pieces nothing names any longer. What fails here is found by a sweep.
    async fn purge_pieces(&self, nuid: &str) {
        if let Err(error) = self.stream.now().purge().filter(self.piece_subject(nuid)).await {
            warn!(bucket = %self.bucket, nuid, %error, "pieces of an object not removed, a later sweep will");
        }
    }

    /// All objects there are, containers among them, by their names. All or an error: what cannot be read is among them.
    async fn infos(&self) -> Result<Vec<(String, Result<Info, Error>)>, Error> {
        let (prefix, filter) = (format!("$O.{}.M.", self.bucket), format!("$O.{}.M.>", self.bucket));
        let mut was_opened = false;
        loop {
            let mut infos = Vec::new();
            let stream = self.stream.now();
            let scanned = jetstream::scan(&stream, &filter, false, |message| {
                let encoded = message.subject.strip_prefix(prefix.as_str()).unwrap_or(message.subject.as_str());
                let name = decoded(encoded).unwrap_or_else(|| encoded.to_owned());
                match self.read_info(&name, &message.payload) {
                    Ok(None) => {}
                    Ok(Some(info)) => infos.push((name, Ok(info))),
                    Err(error) => infos.push((name, Err(error))),
                }
            });
            match scanned.await {
                Ok(()) => return Ok(infos),
                Err(ReadError::Gone) if !was_opened => {
                    self.open_again(&stream).await?;
                    was_opened = true;
                }
                Err(error) => return Err(self.error("list", chain(&error))),
            }
        }
    }

    async fn must_have(&self, container: &str) -> Result<(), Error> {
        match self.info(&marker(container)).await? {
            (_, Some(_)) => Ok(()),
            (_, None) => Err(Error::NoContainer(container.to_owned())),
        }
    }

    async fn sweep_pieces(&self) -> Result<(), Error> {
        let stream = self.stream.now();
        let prefix = self.piece_subject("");
        let oldest = now().saturating_sub(ABANDONED_AFTER).as_secs();
        let found = stream.info_with_subjects(format!("{prefix}>")).await;
        let mut subjects = found.map_err(|e| self.error("list", chain(&e)))?;
        let mut old = HashSet::new();
        while let Some(found) = subjects.next().await {
            let (subject, _) = found.map_err(|e| self.error("list", chain(&e)))?;
            if let Some(nuid) = subject.strip_prefix(&prefix)
                && begun_at(nuid).is_some_and(|begun| begun < oldest)
            {
                old.insert(nuid.to_owned());
            }
        }
        if old.is_empty() {
            return Ok(());
        }
        for (_, info) in self.infos().await? {
            // What cannot be read may name any of them: then nothing is removed.
            old.remove(&info?.nuid);
        }
        for nuid in old {
            // It may have become an object since. Pieces that do not tell of which are not ours to remove.
            let piece = jetstream::next(&stream, &self.piece_subject(&nuid), 1).await;
            let piece = piece.map_err(|e| self.error("read", chain(&e)))?;
            let name = piece.as_ref().and_then(|piece| decoded(piece.headers.get(OBJECT)?.as_str()));
            let Some(name) = name else { continue };
            if self.info(&name).await?.1.is_some_and(|info| info.nuid == nuid) {
                continue;
            }
            debug!(bucket = %self.bucket, nuid, "removing pieces of an upload that was never finished");
            self.purge_pieces(&nuid).await;
        }
        Ok(())
    }

    fn meta_subject(&self, name: &str) -> String {
        format!("$O.{}.M.{}", self.bucket, encoded(name))
    }

    fn piece_subject(&self, nuid: &str) -> String {
        format!("$O.{}.C.{nuid}", self.bucket)
    }

    fn unconfirmed(&self, name: &str, cause: String) -> Error {
        Error::Unconfirmed { name: name.to_owned(), bucket: self.bucket.clone(), cause }
    }

    fn error(&self, verb: &str, cause: String) -> Error {
        Error::Storage { action: format!("{verb} in the bucket {}", self.bucket), cause }
    }
}

impl Backend for Nats {
    fn container(&self, container: String) -> BoxFuture<'_, Result<Option<ContainerMetadata>, Error>> {
        Box::pin(async move {
            let (_, info) = self.info(&marker(&container)).await?;
            Ok(info.map(|info| ContainerMetadata { container_id: container, created_at: info.time() }))
        })
    }

    fn create_container(&self, container: String) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            if self.container(container.clone()).await?.is_some() {
                return Ok(());
            }
            let info = Info::new(marker(&container), self.bucket.clone(), new_nuid());
            let digest = Digest::new(&SHA256);
            Ok(self.publish_info(&info.with_digest(digest)).await?)
        })
    }

    fn containers(&self) -> BoxFuture<'_, Result<Vec<ContainerMetadata>, Error>> {
        Box::pin(async move {
            let mut containers = Vec::new();
            for (name, info) in self.infos().await? {
                if let Some(container) = name.strip_suffix('/').filter(|name| !name.contains('/')) {
                    let created_at = info?.time();
                    containers.push(ContainerMetadata { container_id: container.to_owned(), created_at });
                }
            }
            containers.sort_unstable_by(|a, b| a.container_id.cmp(&b.container_id));
            Ok(containers)
        })
    }

    fn remove_container(&self, container: String) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let marker = marker(&container);
            // Out of sight first; what is stored into it from now on is refused.
            if !self.remove(&marker).await? {
                return Err(Error::NoContainer(container));
            }
            for (name, _) in self.infos().await? {
                if name.starts_with(&marker) {
                    self.remove(&name).await?;
                }
            }
            Ok(())
        })
    }

    fn object(&self, container: String, object: String) -> BoxFuture<'_, Result<Option<ObjectMetadata>, Error>> {
        Box::pin(async move {
            let (_, info) = self.info(&full_name(&container, &object)).await?;
            Ok(info.map(|info| info.object(container, object)))
        })
    }

    fn list(&self, container: String, page: Page) -> BoxFuture<'_, Result<Listing, Error>> {
        Box::pin(async move {
            self.must_have(&container).await?;
            let marker = marker(&container);
            let mut objects = Vec::new();
            for (name, info) in self.infos().await? {
                if let Some(object) = name.strip_prefix(&marker).filter(|object| !object.is_empty()) {
                    objects.push(info?.object(container.clone(), object.to_owned()));
                }
            }
            let (objects, is_cut) = page.select(objects, |object| &object.object_id);
            Ok(Listing { objects, is_cut })
        })
    }

    fn remove_object(&self, container: String, object: String) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            match self.remove(&full_name(&container, &object)).await? {
                true => Ok(()),
                false => Err(Error::NoObject { container, object }),
            }
        })
    }

    fn upload(
        &self,
        container: String,
        object: String,
        content: ContentInfo,
    ) -> BoxFuture<'_, Result<Box<dyn Upload>, Error>> {
        Box::pin(async move {
            self.must_have(&container).await?;
            let mut info = Info::new(full_name(&container, &object), self.bucket.clone(), new_nuid());
            let given = [(CONTENT_TYPE, content.content_type), (CONTENT_ENCODING, content.content_encoding)];
            let metadata: HashMap<String, String> =
                given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
            info.metadata = Some(metadata).filter(|metadata| !metadata.is_empty());
            Ok(Box::new(Pieces::new(self.clone(), container, info)) as Box<dyn Upload>)
        })
    }

    fn download(
        &self,
        container: String,
        object: String,
        start: u64,
    ) -> BoxFuture<'_, Result<Option<Box<dyn Download>>, Error>> {
        Box::pin(async move {
            let (_, info) = self.info(&full_name(&container, &object)).await?;
            let Some(info) = info else { return Ok(None) };
            let metadata = info.object(container, object);
            Ok(Some(Box::new(Reading::new(self.clone(), &info, metadata, start)) as Box<dyn Download>))
        })
    }

    fn sweep(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.sweep_pieces())
    }
}

async fn open_stream(context: &Context, bucket: &str, placement: &Placement) -> Result<Stream, LinkError> {
    let config = Config {
        name: format!("OBJ_{bucket}"),
        subjects: vec![format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")],
        description: Some("kept by actors through wasmcloud:blobstore".into()),
        ..Default::default()
    };
    placement.open(context, config).await
}

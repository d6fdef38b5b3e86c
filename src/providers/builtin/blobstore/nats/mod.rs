//! Objects in the object store of JetStream, in a bucket that by default belongs to one actor.
//!
//! The bucket is an ordinary one: `nats object ls` and `nats object get` show it. An object is named
//! `{container}/{object}`, a container is the empty object `{container}/`. Pieces are written as chunks arrive, and read
//! as chunks are sent; nothing is held whole. An object appears with its metadata, which is written last and on condition
//! that nobody else wrote it meanwhile, so that the pieces of the one before can be removed without a doubt.
//!
//! The id of pieces begins with the time of their upload. By that [`Nats::sweep`] finds the pieces of uploads whose
//! process died: older than a day, and no metadata names them.

mod transfer;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_nats::{
    HeaderMap, HeaderValue,
    header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_ROLLUP},
    jetstream::{
        Context,
        stream::{Config, Stream},
    },
};
use aws_lc_rs::digest::{Context as Digest, SHA256};
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::{debug, warn};

use self::transfer::{Pieces, Reading};
use super::backend::{Backend, ContentInfo, Download, Error, Listing, Page, Upload};
use crate::{
    contracts::blobstore::{ContainerMetadata, ObjectMetadata, Timestamp},
    errors::chain,
    providers::builtin::{
        LinkError,
        jetstream::{self, Placement},
    },
};

/// The size of a stored piece, as that of other clients.
const PIECE_BYTES: usize = 128 * 1024;
/// Attempts to write metadata that others write too.
const ATTEMPTS_MAX: usize = 10;
/// Pieces no metadata names are removed when they are this old.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);
const CONTENT_TYPE: &str = "content-type";
const CONTENT_ENCODING: &str = "content-encoding";

/// A bucket of objects.
#[derive(Clone)]
pub struct Nats {
    context: Context,
    stream: Stream,
    bucket: String,
}

/// The metadata of an object, in the form all clients share.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Info {
    name: String,
    #[serde(default)]
    metadata: Option<HashMap<String, String>>,
    #[serde(default)]
    options: Option<serde_json::Value>,
    bucket: String,
    nuid: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    chunks: u64,
    /// When it was stored. Read by clients of two generations under two names.
    #[serde(default, alias = "modified")]
    mtime: Option<String>,
    #[serde(default)]
    digest: Option<String>,
    #[serde(default)]
    deleted: bool,
}

impl Nats {
    /// Opens the bucket, and creates it if it is missing.
    pub async fn open(client: &async_nats::Client, bucket: String, placement: &Placement) -> Result<Self, LinkError> {
        let context = placement.context(client);
        let config = Config {
            name: format!("OBJ_{bucket}"),
            subjects: vec![format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")],
            description: Some("kept by actors through wasmcloud:blobstore".into()),
            ..Default::default()
        };
        let stream = placement.open(&context, config).await?;
        Ok(Self { context, stream, bucket })
    }

    /// The metadata of an object, with the state a conditional write relies on.
    async fn info(&self, name: &str) -> Result<(u64, Option<Info>), Error> {
        let found = jetstream::last(&self.stream, &self.meta_subject(name)).await;
        let Some(message) = found.map_err(|e| self.error("read", chain(&e)))? else { return Ok((0, None)) };
        let info = serde_json::from_slice::<Info>(&message.payload)
            .map_err(|e| self.error("read", format!("the metadata of {name:?} is no JSON of an object: {e}")))?;
        Ok((message.sequence, Some(info).filter(|info| !info.deleted)))
    }

    /// Writes metadata and removes the pieces it replaces.
    async fn publish_info(&self, info: &Info) -> Result<(), Error> {
        let json = serde_json::to_vec(info).map_err(|e| self.error("write", e.to_string()))?;
        let json = Bytes::from(json);
        for _ in 0..ATTEMPTS_MAX {
            let (sequence, before) = self.info(&info.name).await?;
            let mut headers = HeaderMap::new();
            headers.insert(NATS_ROLLUP, "sub");
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, HeaderValue::from(sequence));
            let subject = self.meta_subject(&info.name);
            let published = match self.context.publish_with_headers(subject, headers, json.clone()).await {
                Ok(acknowledged) => acknowledged.await,
                Err(error) => Err(error),
            };
            match published {
                Ok(_) => {
                    if let Some(before) = before {
                        self.purge_pieces(&before.nuid).await;
                    }
                    return Ok(());
                }
                Err(error) if jetstream::is_conflict(&error) => {}
                Err(error) => return Err(self.error("write", chain(&error))),
            }
        }
        Err(self.error("write", format!("others write {:?} without a pause", info.name)))
    }

    /// Removes an object; whether there was one.
    async fn remove(&self, name: &str) -> Result<bool, Error> {
        for _ in 0..ATTEMPTS_MAX {
            let (sequence, info) = self.info(name).await?;
            let Some(info) = info else { return Ok(false) };
            // Only this state of it: what was written since stays, and is looked at again.
            let purged = self.stream.purge().filter(self.meta_subject(name)).sequence(sequence + 1).await;
            if purged.map_err(|e| self.error("write", chain(&e)))?.purged > 0 {
                self.purge_pieces(&info.nuid).await;
                return Ok(true);
            }
        }
        Err(self.error("write", format!("others write {name:?} without a pause")))
    }

    /// Removes pieces nothing names any longer. What fails here is found by a sweep.
    async fn purge_pieces(&self, nuid: &str) {
        if let Err(error) = self.stream.purge().filter(self.piece_subject(nuid)).await {
            warn!(bucket = %self.bucket, nuid, %error, "pieces of an object not removed, a later sweep will");
        }
    }

    /// All objects there are, containers among them.
    async fn infos(&self) -> Result<Vec<Info>, Error> {
        let mut infos = Vec::new();
        let filter = format!("$O.{}.M.>", self.bucket);
        let scanned = jetstream::scan(&self.stream, &filter, false, |message| {
            match serde_json::from_slice::<Info>(&message.payload) {
                Ok(info) if !info.deleted => infos.push(info),
                Ok(_) => {}
                Err(error) => debug!(subject = %message.subject, %error, "metadata of an object not readable"),
            }
        });
        scanned.await.map_err(|cause| self.error("list", cause))?;
        Ok(infos)
    }

    async fn must_have(&self, container: &str) -> Result<(), Error> {
        match self.info(&marker(container)).await? {
            (_, Some(_)) => Ok(()),
            (_, None) => Err(Error::NoContainer(container.to_owned())),
        }
    }

    async fn sweep_pieces(&self) -> Result<(), Error> {
        let filter = format!("$O.{}.C.>", self.bucket);
        let prefix = format!("$O.{}.C.", self.bucket);
        let oldest = now().saturating_sub(ABANDONED_AFTER).as_secs();
        let mut subjects = self.stream.info_with_subjects(&filter).await.map_err(|e| self.error("list", chain(&e)))?;
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
        for info in self.infos().await? {
            old.remove(&info.nuid);
        }
        for nuid in old {
            debug!(bucket = %self.bucket, nuid, "removing pieces of an upload that was never finished");
            self.purge_pieces(&nuid).await;
        }
        Ok(())
    }

    fn meta_subject(&self, name: &str) -> String {
        format!("$O.{}.M.{}", self.bucket, URL_SAFE.encode(name))
    }

    fn piece_subject(&self, nuid: &str) -> String {
        format!("$O.{}.C.{nuid}", self.bucket)
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
            self.publish_info(&info.with_digest(digest)).await
        })
    }

    fn containers(&self) -> BoxFuture<'_, Result<Vec<ContainerMetadata>, Error>> {
        Box::pin(async move {
            let infos = self.infos().await?;
            let mut containers: Vec<ContainerMetadata> = infos
                .iter()
                .filter_map(|info| {
                    let container = info.name.strip_suffix('/').filter(|name| !name.contains('/'))?;
                    Some(ContainerMetadata { container_id: container.to_owned(), created_at: info.time() })
                })
                .collect();
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
            for info in self.infos().await? {
                if info.name.starts_with(&marker) {
                    self.remove(&info.name).await?;
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
            let objects = self.infos().await?.into_iter().filter_map(|info| {
                let object = info.name.strip_prefix(&marker).filter(|object| !object.is_empty())?.to_owned();
                Some(info.object(container.clone(), object))
            });
            let (objects, is_cut) = page.select(objects.collect(), |object| &object.object_id);
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

impl Info {
    fn new(name: String, bucket: String, nuid: String) -> Self {
        let options = serde_json::json!({ "max_chunk_size": PIECE_BYTES });
        Self { name, bucket, nuid, options: Some(options), ..Default::default() }
    }

    /// Completes the metadata when all bytes are known.
    fn with_digest(mut self, digest: Digest) -> Self {
        self.digest = Some(format!("SHA-256={}", URL_SAFE.encode(digest.finish().as_ref())));
        self.mtime = OffsetDateTime::now_utc().format(&Rfc3339).ok();
        self
    }

    fn time(&self) -> Option<Timestamp> {
        let time = OffsetDateTime::parse(self.mtime.as_deref()?, &Rfc3339).ok()?;
        Some(Timestamp { sec: time.unix_timestamp(), nsec: time.nanosecond() })
    }

    fn object(&self, container: String, object: String) -> ObjectMetadata {
        let content = |name: &str| self.metadata.as_ref().and_then(|metadata| metadata.get(name)).cloned();
        ObjectMetadata {
            object_id: object,
            container_id: container,
            content_length: self.size,
            last_modified: self.time(),
            content_type: content(CONTENT_TYPE),
            content_encoding: content(CONTENT_ENCODING),
        }
    }
}

/// The object that stands for a container.
fn marker(container: &str) -> String {
    format!("{container}/")
}

fn full_name(container: &str, object: &str) -> String {
    format!("{container}/{object}")
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn new_nuid() -> String {
    format!("{:010}-{}", now().as_secs(), uuid::Uuid::new_v4().simple())
}

/// When the upload of pieces with this id began, in seconds since 1970, if it is an id of ours.
fn begun_at(nuid: &str) -> Option<u64> {
    let (seconds, id) = nuid.split_once('-')?;
    (id.len() == 32).then(|| seconds.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_pieces_tell_when_their_upload_began() {
        let begun = begun_at(&new_nuid()).unwrap();
        assert!(now().as_secs() - begun < 60);
        for other in ["", "x", "0123456789", "VN5SP1W5JG3GT1Z0G1CEAB", "12-34"] {
            assert_eq!(begun_at(other), None, "{other:?}");
        }
    }
}

//! Objects in the object store of JetStream, in a bucket that by default belongs to one actor.
//!
//! The bucket is an ordinary one: `nats object ls` and `nats object get` show it. An object is
//! named `{container}/{object}`, a container is the empty object `{container}/`. Pieces are written
//! as chunks arrive, and read as chunks are sent; nothing is held whole. An object appears with its
//! metadata, which is written last and on condition that nobody else wrote it meanwhile, so that
//! the pieces of the one before can be removed without a doubt.
//!
//! How objects are stored, and what tidies up after uploads that were never finished, is
//! [`objects`]' matter. By the offset in each piece a download of a part finds its beginning; what
//! other clients stored is read from its beginning.

mod transfer;

use std::{collections::HashMap, sync::Arc};

use aws_lc_rs::digest::{Context as Digest, SHA256};
use futures::{FutureExt as _, future::BoxFuture};

use self::transfer::{Pieces, Reading};
use super::backend::{Backend, ContentInfo, Download, Error, Listing, Page, Upload};
use crate::providers::builtin::{LinkError, jetstream::Placement};
use lattice_base::store::objects::{self, Info, Objects};
use lattice_protocol::contracts::blobstore::{ContainerMetadata, ObjectMetadata, Timestamp};

const CONTENT_TYPE: &str = "content-type";
const CONTENT_ENCODING: &str = "content-encoding";

/// A bucket of objects.
#[derive(Clone)]
pub struct Nats(Objects);

impl From<objects::Error> for Error {
    fn from(error: objects::Error) -> Self {
        match error {
            objects::Error::Unconfirmed { name, bucket, cause } => {
                Self::Unconfirmed { name, bucket, cause }
            }
            objects::Error::Unreadable { name, bucket, cause } => {
                Self::Unreadable { name, bucket, cause }
            }
            objects::Error::Storage { action, cause } => Self::Storage { action, cause },
            objects::Error::Unheard { bucket, cause } => {
                Self::Storage { action: format!("write in the bucket {bucket}"), cause }
            }
        }
    }
}

impl From<objects::Unpublished> for Error {
    fn from(unpublished: objects::Unpublished) -> Self {
        objects::Error::from(unpublished).into()
    }
}

impl Nats {
    /// Opens the bucket, and creates it if it is missing.
    pub async fn open(
        client: &async_nats::Client,
        bucket: String,
        placement: &Placement,
    ) -> Result<Self, LinkError> {
        let context = placement.context(client);
        let config = objects::stream_config(&bucket, "kept by actors through wasmcloud:blobstore");
        let stream = placement.open(&context, config.clone()).await?;
        let (placement, again) = (placement.clone(), context.clone());
        let reopen = move || {
            let (placement, context, config) = (placement.clone(), again.clone(), config.clone());
            async move { placement.open(&context, config).await.map_err(|error| error.to_string()) }
                .boxed()
        };
        Ok(Self(Objects::new(context, stream, &bucket, Arc::new(reopen))))
    }

    async fn must_have(&self, container: &str) -> Result<(), Error> {
        match self.0.info(&marker(container)).await? {
            Some(_) => Ok(()),
            None => Err(Error::NoContainer(container.to_owned())),
        }
    }
}

impl Backend for Nats {
    fn container(
        &self,
        container: String,
    ) -> BoxFuture<'_, Result<Option<ContainerMetadata>, Error>> {
        Box::pin(async move {
            let info = self.0.info(&marker(&container)).await?;
            Ok(info.map(|info| ContainerMetadata {
                container_id: container,
                created_at: time_of(&info),
            }))
        })
    }

    fn create_container(&self, container: String) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            if self.container(container.clone()).await?.is_some() {
                return Ok(());
            }
            let info = Info::new(marker(&container), self.0.bucket().to_owned());
            let digest = Digest::new(&SHA256);
            Ok(self.0.publish_info(&info.with_digest(digest)).await?)
        })
    }

    fn containers(&self) -> BoxFuture<'_, Result<Vec<ContainerMetadata>, Error>> {
        Box::pin(async move {
            let mut containers = Vec::new();
            for (name, listed) in self.0.list().await? {
                if let Some(container) = name.strip_suffix('/').filter(|name| !name.contains('/')) {
                    let created_at = time_of(&listed?.info);
                    containers
                        .push(ContainerMetadata { container_id: container.to_owned(), created_at });
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
            if !self.0.remove(&marker).await? {
                return Err(Error::NoContainer(container));
            }
            for (name, _) in self.0.list().await? {
                if name.starts_with(&marker) {
                    self.0.remove(&name).await?;
                }
            }
            Ok(())
        })
    }

    fn object(
        &self,
        container: String,
        object: String,
    ) -> BoxFuture<'_, Result<Option<ObjectMetadata>, Error>> {
        Box::pin(async move {
            let info = self.0.info(&full_name(&container, &object)).await?;
            Ok(info.map(|info| object_metadata(&info, container, object)))
        })
    }

    fn list(&self, container: String, page: Page) -> BoxFuture<'_, Result<Listing, Error>> {
        Box::pin(async move {
            self.must_have(&container).await?;
            let marker = marker(&container);
            let mut objects = Vec::new();
            for (name, listed) in self.0.list().await? {
                if let Some(object) = name.strip_prefix(&marker).filter(|object| !object.is_empty())
                {
                    objects.push(object_metadata(
                        &listed?.info,
                        container.clone(),
                        object.to_owned(),
                    ));
                }
            }
            let (objects, is_cut) = page.select(objects, |object| &object.object_id);
            Ok(Listing { objects, is_cut })
        })
    }

    fn remove_object(&self, container: String, object: String) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            match self.0.remove(&full_name(&container, &object)).await? {
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
            let mut info = Info::new(full_name(&container, &object), self.0.bucket().to_owned());
            let given = [
                (CONTENT_TYPE, content.content_type),
                (CONTENT_ENCODING, content.content_encoding),
            ];
            let metadata: HashMap<String, String> = given
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?)))
                .collect();
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
            let info = self.0.info(&full_name(&container, &object)).await?;
            let Some(info) = info else { return Ok(None) };
            let metadata = object_metadata(&info, container, object);
            Ok(Some(
                Box::new(Reading::new(self.0.clone(), &info, metadata, start)) as Box<dyn Download>
            ))
        })
    }

    fn sweep(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { Ok(self.0.sweep().await?) })
    }
}

/// The object that stands for a container.
fn marker(container: &str) -> String {
    format!("{container}/")
}

fn full_name(container: &str, object: &str) -> String {
    format!("{container}/{object}")
}

fn time_of(info: &Info) -> Option<Timestamp> {
    info.time().map(|time| Timestamp { sec: time.unix_timestamp(), nsec: time.nanosecond() })
}

/// Returns what the metadata of an object has under a name.
fn noted(info: &Info, name: &str) -> Option<String> {
    info.metadata.as_ref()?.get(name).cloned()
}

fn object_metadata(info: &Info, container: String, object: String) -> ObjectMetadata {
    ObjectMetadata {
        object_id: object,
        container_id: container,
        content_length: info.size,
        last_modified: time_of(info),
        content_type: noted(info, CONTENT_TYPE),
        content_encoding: noted(info, CONTENT_ENCODING),
    }
}

//! One actor's use of the blob store: the operations of the contract, and the chunks of its
//! downloads.
//!
//! Every operation runs in a task of the link, so that one whose caller stops waiting is finished,
//! not cut. The first chunk of a large object is in the answer to `GetObject`; the others are sent
//! to the actor by such a task afterwards, one by one, until the last or until the actor cancels.
//! [`Link::end`] waits for all of them, then cuts what is left. A call that took this link in the
//! moment another one replaced it is served nevertheless; only uploads do not begin here any more,
//! because their further chunks would reach the other one.

use std::{sync::Arc, time::Duration};

use anyhow::{anyhow, bail};
use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tracing::{debug, warn};

use super::{
    backend::{Backend, ContentInfo, Download, Error, Upload},
    listing,
    names::{check_container, check_object},
    uploads::{IDLE_MAX, Uploads},
};
use crate::{
    providers::builtin::{Context, Link, unknown_operation},
    rpc::call::{Call, CallError},
};
use lattice_protocol::{
    contracts::{
        blobstore::{
            Chunk, ChunkResponse, ContainerMetadata, ContainerObject, GetObjectRequest,
            GetObjectResponse, ItemResult, ListObjectsRequest, ListObjectsResponse, ObjectMetadata,
            PutChunkRequest, PutObjectRequest, PutObjectResponse, RECEIVE_CHUNK,
            RemoveObjectsRequest, SERVICE, given,
        },
        decode, encode, method,
    },
    errors::chain,
};

/// Downloads whose further chunks may be on their way at a time.
const DOWNLOADS_MAX: usize = 32;
/// How often open uploads are looked at.
const EXPIRE_EVERY: Duration = Duration::from_secs(30);
/// How often leftovers are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(24 * 3600);
/// How long before its deadline an ending link cuts what is in work, to tidy up; less when there is
/// little time at all.
const CUT_MARGIN: Duration = Duration::from_millis(250);

pub(super) struct BlobLink {
    context: Context,
    actor_id: String,
    backend: Arc<dyn Backend>,
    chunk_bytes: usize,
    uploads: Arc<Uploads>,
    downloads: Arc<Semaphore>,
    /// The operations and downloads in work, for which the end of the link waits; closed by it.
    tasks: TaskTracker,
    /// Cuts them.
    cut: CancellationToken,
    /// Drops abandoned uploads, until the link is dropped.
    _keeper: AbortOnDropHandle<()>,
}

/// The part of an object that was asked for, on its way to the actor.
struct Outgoing {
    download: Box<dyn Download>,
    /// Where in the object the next chunk begins, and how many bytes are left from there.
    offset: u64,
    left: u64,
}

impl BlobLink {
    pub(super) fn new(
        context: Context,
        actor_id: String,
        backend: Arc<dyn Backend>,
        chunk_bytes: usize,
    ) -> Arc<Self> {
        let uploads = Arc::new(Uploads::default());
        let keeper =
            tokio::spawn(keep(Arc::clone(&backend), Arc::clone(&uploads), actor_id.clone()));
        Arc::new(Self {
            context,
            actor_id,
            backend,
            chunk_bytes,
            uploads,
            downloads: Arc::new(Semaphore::new(DOWNLOADS_MAX)),
            tasks: TaskTracker::new(),
            cut: CancellationToken::new(),
            _keeper: AbortOnDropHandle::new(keeper),
        })
    }

    async fn perform(self: Arc<Self>, call: Call) -> Result<Bytes, CallError> {
        let payload = &call.payload[..];
        let outcome = match method(&call.operation, SERVICE) {
            "ContainerExists" => {
                result(self.container_exists(argument("Blobstore.ContainerExists", payload)).await)
            }
            "CreateContainer" => {
                done(self.create_container(argument("Blobstore.CreateContainer", payload)).await)
            }
            "GetContainerInfo" => {
                result(self.container_info(argument("Blobstore.GetContainerInfo", payload)).await)
            }
            "ListContainers" => result(self.backend.containers().await),
            "RemoveContainers" => result(
                self.remove_containers(argument("Blobstore.RemoveContainers", payload)).await,
            ),
            // Not in the contract, but sent by hosts of 2024.
            "DeleteContainer" => {
                done(self.delete_container(argument("Blobstore.DeleteContainer", payload)).await)
            }
            "ObjectExists" => {
                result(self.object_exists(argument("Blobstore.ObjectExists", payload)).await)
            }
            "GetObjectInfo" => {
                result(self.object_info(argument("Blobstore.GetObjectInfo", payload)).await)
            }
            "ListObjects" => {
                result(self.list_objects(argument("Blobstore.ListObjects", payload)).await)
            }
            "RemoveObjects" => {
                result(self.remove_objects(argument("Blobstore.RemoveObjects", payload)).await)
            }
            "PutObject" => result(self.put_object(argument("Blobstore.PutObject", payload)).await),
            "PutChunk" => done(self.put_chunk(argument("Blobstore.PutChunk", payload)).await),
            "GetObject" => result(
                Arc::clone(&self)
                    .get_object(GetObjectRequest::decode(payload).map_err(Error::from))
                    .await,
            ),
            _ => return Err(unknown_operation(&call)),
        };
        outcome.map_err(|error| CallError::Callee(error.to_string()))
    }

    async fn container_exists(&self, container: Result<String, Error>) -> Result<bool, Error> {
        Ok(self.backend.container(container_name(container)?).await?.is_some())
    }

    async fn create_container(&self, container: Result<String, Error>) -> Result<(), Error> {
        self.backend.create_container(container_name(container)?).await
    }

    async fn container_info(
        &self,
        container: Result<String, Error>,
    ) -> Result<ContainerMetadata, Error> {
        let container = container_name(container)?;
        let found = self.backend.container(container.clone()).await?;
        found.ok_or(Error::NoContainer(container))
    }

    async fn delete_container(&self, container: Result<String, Error>) -> Result<(), Error> {
        self.backend.remove_container(container_name(container)?).await
    }

    async fn remove_containers(
        &self,
        containers: Result<Vec<String>, Error>,
    ) -> Result<Vec<ItemResult>, Error> {
        let mut failures = Vec::new();
        for container in containers? {
            let outcome = self.delete_container(Ok(container.clone())).await;
            failures.extend(outcome.err().map(|error| failure(container, &error)));
        }
        Ok(failures)
    }

    async fn object_exists(&self, object: Result<ContainerObject, Error>) -> Result<bool, Error> {
        let ContainerObject { container_id, object_id } = object_name(object?)?;
        Ok(self.backend.object(container_id, object_id).await?.is_some())
    }

    async fn object_info(
        &self,
        object: Result<ContainerObject, Error>,
    ) -> Result<ObjectMetadata, Error> {
        let ContainerObject { container_id: container, object_id: object } = object_name(object?)?;
        let found = self.backend.object(container.clone(), object.clone()).await?;
        found.ok_or(Error::NoObject { container, object })
    }

    async fn list_objects(
        &self,
        request: Result<ListObjectsRequest, Error>,
    ) -> Result<ListObjectsResponse, Error> {
        let request = request?;
        let container = container_name(Ok(request.container_id.clone()))?;
        let page = listing::page(request)?;
        let prefix = page.prefix.clone();
        let listing = self.backend.list(container, page).await?;
        let last = listing.objects.last().filter(|_| listing.is_cut);
        Ok(ListObjectsResponse {
            continuation: last.map(|last| listing::continuation(&last.object_id, &prefix)),
            is_last: !listing.is_cut,
            objects: listing.objects,
        })
    }

    async fn remove_objects(
        &self,
        request: Result<RemoveObjectsRequest, Error>,
    ) -> Result<Vec<ItemResult>, Error> {
        let RemoveObjectsRequest { container_id, objects } = request?;
        let container_id = container_name(Ok(container_id))?;
        let mut failures = Vec::new();
        for object_id in objects {
            let name = ContainerObject {
                container_id: container_id.clone(),
                object_id: object_id.clone(),
            };
            let outcome = match object_name(name) {
                Ok(name) => self.backend.remove_object(name.container_id, name.object_id).await,
                Err(error) => Err(error),
            };
            failures.extend(outcome.err().map(|error| failure(object_id, &error)));
        }
        Ok(failures)
    }

    async fn put_object(
        &self,
        request: Result<PutObjectRequest, Error>,
    ) -> Result<PutObjectResponse, Error> {
        let PutObjectRequest { chunk, content_type, content_encoding } = request?;
        let info = ContentInfo {
            content_type: given(content_type),
            content_encoding: given(content_encoding),
        };
        check_container(&chunk.container_id)?;
        check_object(&chunk.object_id)?;
        if chunk.offset != 0 {
            return Err(Error::NoBeginning(chunk.offset));
        }
        if chunk.is_last {
            let mut upload = self.backend.upload(chunk.container_id, chunk.object_id, info).await?;
            if let Err(error) = upload.write(chunk.bytes).await {
                upload.abort().await;
                return Err(error);
            }
            upload.finish().await?;
            return Ok(PutObjectResponse { stream_id: None });
        }
        // This task is counted already: either the end of the link waits for it and removes the
        // upload, or it is seen here.
        if self.tasks.is_closed() {
            return Err(Error::Ended);
        }
        let id = self.uploads.reserve(&chunk)?;
        let outcome = match self.backend.upload(chunk.container_id, chunk.object_id, info).await {
            Ok(upload) => self.write(&id, upload, chunk.bytes).await,
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            self.uploads.remove(&id);
            return Err(error);
        }
        Ok(PutObjectResponse { stream_id: Some(id) })
    }

    async fn put_chunk(&self, request: Result<PutChunkRequest, Error>) -> Result<(), Error> {
        let PutChunkRequest { chunk, stream_id, cancel_and_remove } = request?;
        let id = given(stream_id).or_else(|| self.uploads.id_of(&chunk));
        let id = id.ok_or_else(|| {
            Error::NoUpload(format!("{}/{}", chunk.container_id, chunk.object_id))
        })?;
        if cancel_and_remove {
            if let Some(upload) = self.uploads.cancel(&id, &chunk)? {
                upload.abort().await;
            }
            return Ok(());
        }
        let mut upload = self.uploads.take(&id, &chunk)?;
        if !chunk.is_last {
            let outcome = self.write(&id, upload, chunk.bytes).await;
            if outcome.is_err() {
                self.uploads.remove(&id);
            }
            return outcome;
        }
        self.uploads.remove(&id);
        if let Err(error) = upload.write(chunk.bytes).await {
            upload.abort().await;
            return Err(error);
        }
        upload.finish().await
    }

    /// Writes a chunk and keeps the upload for the next one.
    async fn write(
        &self,
        id: &str,
        mut upload: Box<dyn Upload>,
        bytes: Bytes,
    ) -> Result<(), Error> {
        let length = bytes.len();
        if let Err(error) = upload.write(bytes).await {
            upload.abort().await;
            return Err(error);
        }
        match self.uploads.put_back(id, upload, length) {
            None => Ok(()),
            Some(upload) => {
                upload.abort().await;
                Err(Error::NoUpload(id.to_owned()))
            }
        }
    }

    async fn get_object(
        self: Arc<Self>,
        request: Result<GetObjectRequest, Error>,
    ) -> Result<GetObjectResponse, Error> {
        let GetObjectRequest { object_id: object, container_id: container, range_start, range_end } =
            request?;
        check_container(&container)?;
        check_object(&object)?;
        let start = range_start.unwrap_or(0);
        let found = self.backend.download(container.clone(), object.clone(), start).await?;
        let Some(mut download) = found else {
            let error = match self.backend.container(container.clone()).await? {
                Some(_) => Error::NoObject { container, object },
                None => Error::NoContainer(container),
            };
            return Ok(GetObjectResponse { error: Some(error.to_string()), ..Default::default() });
        };
        let metadata = download.metadata().clone();
        let end = range_end.map_or(metadata.content_length, |end| {
            end.saturating_add(1).min(metadata.content_length)
        });
        let length = end.saturating_sub(start);
        let is_large = length > self.chunk_bytes as u64;
        let permit = match is_large {
            true => Some(
                Arc::clone(&self.downloads)
                    .try_acquire_owned()
                    .map_err(|_| Error::DownloadsFull(DOWNLOADS_MAX))?,
            ),
            false => None,
        };
        let bytes = match length {
            0 => Bytes::new(),
            _ => self.read(&mut download, length).await?,
        };
        let read = bytes.len() as u64;
        let chunk = Chunk {
            object_id: object,
            container_id: container,
            bytes,
            offset: start,
            is_last: !is_large,
        };
        if let Some(permit) = permit {
            let outgoing = Outgoing { download, offset: start + read, left: length - read };
            // Begun by the last line of the call; its next read is from the store, so the answer is
            // on its way first.
            self.tasks.spawn(Arc::clone(&self).send(outgoing, permit));
        }
        Ok(GetObjectResponse {
            success: true,
            error: None,
            initial_chunk: Some(chunk),
            content_length: length,
            content_type: metadata.content_type,
            content_encoding: metadata.content_encoding,
        })
    }

    /// Reads the next chunk of a download of which `left` bytes are wanted, after its memory is
    /// paid for.
    async fn read(&self, download: &mut Box<dyn Download>, left: u64) -> Result<Bytes, Error> {
        let limit = self.chunk_bytes.min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut held = self.context.budget.hold();
        let paid = held.cover(limit, Instant::now() + self.context.rpc_timeout).await;
        paid.map_err(|cause| Error::Storage {
            action: "read a chunk".to_owned(),
            cause: cause.to_string(),
        })?;
        Ok(held.keep(download.read(limit).await?))
    }

    /// Sends the further chunks of an object to the actor.
    async fn send(self: Arc<Self>, outgoing: Outgoing, _permit: OwnedSemaphorePermit) {
        let (actor_id, object_id) =
            (self.actor_id.clone(), outgoing.download.metadata().object_id.clone());
        let outcome = tokio::select! {
            biased;
            () = self.cut.cancelled() => Err(anyhow!("the link ended")),
            outcome = self.send_chunks(outgoing) => outcome,
        };
        match outcome {
            Ok(()) => debug!(%actor_id, object_id, "object sent"),
            Err(error) => {
                let error = chain(error.as_ref());
                warn!(%actor_id, object_id, error, "object not sent to its end");
            }
        }
    }

    async fn send_chunks(&self, mut outgoing: Outgoing) -> anyhow::Result<()> {
        while outgoing.left > 0 {
            let bytes = self.read(&mut outgoing.download, outgoing.left).await?;
            if bytes.is_empty() {
                bail!("it got shorter while it was read");
            }
            let length = bytes.len() as u64;
            let metadata = outgoing.download.metadata();
            let chunk = Chunk {
                object_id: metadata.object_id.clone(),
                container_id: metadata.container_id.clone(),
                bytes,
                offset: outgoing.offset,
                is_last: length == outgoing.left,
            };
            let deadline = Instant::now() + self.context.rpc_timeout;
            let answer = self
                .context
                .call_actor(&self.actor_id, RECEIVE_CHUNK, encode(&chunk), deadline)
                .await?;
            // An actor with nothing to say wants the rest.
            let answer: Option<ChunkResponse> = decode(RECEIVE_CHUNK, &answer)?;
            if answer.is_some_and(|answer| answer.cancel_download) {
                return Ok(());
            }
            outgoing.offset += length;
            outgoing.left -= length;
        }
        Ok(())
    }
}

impl Link for BlobLink {
    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        Box::pin(async move {
            let (deadline, operation, cut) =
                (call.ends_at(), call.operation.clone(), self.cut.clone());
            let work = Arc::clone(&self).perform(call);
            let work = self.tasks.spawn(async move { cut.run_until_cancelled_owned(work).await });
            match tokio::time::timeout_at(deadline, work).await {
                Ok(Ok(Some(outcome))) => outcome,
                Ok(Ok(None) | Err(_)) => {
                    Err(CallError::Callee(format!("{operation} was cut off; call again")))
                }
                Err(_) => Err(CallError::Callee(format!(
                    "{operation} has no result in time; it goes on, and may still succeed"
                ))),
            }
        })
    }

    fn end(self: Arc<Self>, deadline: Instant) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.tasks.close();
            // The caller of this waits until the same deadline, and drops it then.
            let left = deadline.saturating_duration_since(Instant::now());
            let margin = CUT_MARGIN.min(left / 4);
            if tokio::time::timeout_at(deadline - margin, self.tasks.wait()).await.is_err() {
                self.cut.cancel();
                let _ = tokio::time::timeout_at(deadline - margin / 2, self.tasks.wait()).await;
            }
            let aborts =
                self.uploads.expire(Duration::ZERO).into_iter().map(|upload| upload.abort());
            let _ = tokio::time::timeout_at(deadline, futures::future::join_all(aborts)).await;
        })
    }
}

/// Removes what earlier processes left behind, at once and now and then, and the uploads nobody
/// goes on with.
async fn keep(backend: Arc<dyn Backend>, uploads: Arc<Uploads>, actor_id: String) {
    let mut sweep_at = Instant::now();
    loop {
        if sweep_at <= Instant::now() {
            sweep_at = Instant::now() + SWEEP_EVERY;
            if let Err(error) = backend.sweep().await {
                warn!(%actor_id, %error, "leftovers of earlier uploads not removed, trying again later");
            }
        }
        tokio::time::sleep(EXPIRE_EVERY).await;
        for upload in uploads.expire(IDLE_MAX) {
            debug!(%actor_id, "dropping an upload nobody goes on with");
            upload.abort().await;
        }
    }
}

fn argument<T: DeserializeOwned>(what: &'static str, payload: &[u8]) -> Result<T, Error> {
    Ok(decode(what, payload)?)
}

fn result<T: Serialize>(outcome: Result<T, Error>) -> Result<Bytes, Error> {
    outcome.map(|result| encode(&result))
}

fn done(outcome: Result<(), Error>) -> Result<Bytes, Error> {
    outcome.map(|()| Bytes::new())
}

fn container_name(container: Result<String, Error>) -> Result<String, Error> {
    let container = container?;
    check_container(&container)?;
    Ok(container)
}

fn object_name(name: ContainerObject) -> Result<ContainerObject, Error> {
    check_container(&name.container_id)?;
    check_object(&name.object_id)?;
    Ok(name)
}

fn failure(key: String, error: &Error) -> ItemResult {
    ItemResult { key, success: false, error: Some(error.to_string()) }
}

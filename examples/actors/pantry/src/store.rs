//! The pantry's use of the blob store, in the operations of its contract. Every failure names the
//! operation that failed.

use wasmbus_rpc::actor::prelude::{Context, RpcResult, WasmHost};
use wasmcloud_interface_blobstore::{
    Blobstore, BlobstoreSender, Chunk, ContainerObject, GetObjectRequest, ListObjectsRequest, MultiResult,
    ObjectMetadata, PutChunkRequest, PutObjectRequest, RemoveObjectsRequest,
};

use crate::{Failure, OBJECT_MAX_BYTES};

/// The most bytes of an object in one call, either way.
const CHUNK_BYTES: usize = 256 << 10;

pub struct Store<'a> {
    ctx: &'a Context,
    blobs: BlobstoreSender<WasmHost>,
}

impl<'a> Store<'a> {
    pub fn new(ctx: &'a Context) -> Self {
        Self { ctx, blobs: BlobstoreSender::new() }
    }

    /// Every object of a container, however many answers that takes.
    pub async fn list(&self, container: &str) -> Result<Vec<ObjectMetadata>, Failure> {
        self.must_have_container(container).await?;
        let mut objects = Vec::new();
        let mut request = ListObjectsRequest { container_id: container.to_string(), ..Default::default() };
        loop {
            let page = said("ListObjects", self.blobs.list_objects(self.ctx, &request).await)?;
            objects.extend(page.objects);
            if page.is_last || page.continuation.is_none() {
                return Ok(objects);
            }
            request.continuation = page.continuation;
        }
    }

    /// Stores an object, chunk by chunk. The stored part of it is removed if a later chunk fails.
    pub async fn put(
        &self,
        target: &ContainerObject,
        content_type: Option<String>,
        body: &[u8],
    ) -> Result<(), Failure> {
        if !self.has_container(&target.container_id).await? {
            said("CreateContainer", self.blobs.create_container(self.ctx, &target.container_id).await)?;
        }
        let first = chunk(target, body, 0);
        let mut next = first.bytes.len();
        let request = PutObjectRequest { chunk: first, content_type, content_encoding: None };
        let begun = said("PutObject", self.blobs.put_object(self.ctx, &request).await)?;
        while next < body.len() {
            let chunk = chunk(target, body, next);
            next += chunk.bytes.len();
            let mut request = PutChunkRequest { chunk, stream_id: begun.stream_id.clone(), cancel_and_remove: false };
            let put = self.blobs.put_chunk(self.ctx, &request).await;
            if put.is_err() {
                request.chunk.bytes.clear();
                request.cancel_and_remove = true;
                // The caller is told of the first failure; it explains this one, if it comes to that.
                let _ = self.blobs.put_chunk(self.ctx, &request).await;
            }
            said("PutChunk", put)?;
        }
        Ok(())
    }

    /// The content type of an object and all of its bytes, fetched range by range.
    pub async fn get(&self, target: &ContainerObject) -> Result<(String, Vec<u8>), Failure> {
        self.must_have(target).await?;
        let info = said("GetObjectInfo", self.blobs.get_object_info(self.ctx, target).await)?;
        // The length of an answer may be that of the range, so the whole length comes from the object's description.
        let length = match usize::try_from(info.content_length) {
            Ok(length) if length <= OBJECT_MAX_BYTES => length,
            _ => {
                let text =
                    format!("the object has {} bytes; at most {OBJECT_MAX_BYTES} are served", info.content_length);
                return Err(Failure(502, text));
            }
        };
        let mut body = Vec::with_capacity(length);
        while body.len() < length {
            let want = CHUNK_BYTES.min(length - body.len());
            body.extend(self.range(target, body.len(), want).await?);
        }
        Ok((info.content_type.unwrap_or_else(|| "application/octet-stream".to_string()), body))
    }

    /// At least one and at most `want` bytes of an object from `start` on.
    async fn range(&self, target: &ContainerObject, start: usize, want: usize) -> Result<Vec<u8>, Failure> {
        let request = GetObjectRequest {
            object_id: target.object_id.clone(),
            container_id: target.container_id.clone(),
            range_start: Some(start as u64),
            // The last byte, not the one after it.
            range_end: Some((start + want - 1) as u64),
        };
        let came = said("GetObject", self.blobs.get_object(self.ctx, &request).await)?;
        let bytes = came.initial_chunk.map(|chunk| chunk.bytes).unwrap_or_default();
        match came.error {
            Some(error) if !came.success => Err(Failure::of("GetObject", &error)),
            _ if (1..=want).contains(&bytes.len()) => Ok(bytes),
            _ => {
                let text = format!("asked for {want} bytes from {start} on and got {}", bytes.len());
                Err(Failure::of("GetObject", &text))
            }
        }
    }

    pub async fn remove(&self, target: &ContainerObject) -> Result<(), Failure> {
        self.must_have(target).await?;
        let request =
            RemoveObjectsRequest { container_id: target.container_id.clone(), objects: vec![target.object_id.clone()] };
        all_removed("RemoveObjects", self.blobs.remove_objects(self.ctx, &request).await)
    }

    pub async fn remove_container(&self, container: &str) -> Result<(), Failure> {
        self.must_have_container(container).await?;
        let containers = vec![container.to_string()];
        all_removed("RemoveContainers", self.blobs.remove_containers(self.ctx, &containers).await)
    }

    async fn has_container(&self, container: &str) -> Result<bool, Failure> {
        said("ContainerExists", self.blobs.container_exists(self.ctx, &container.to_string()).await)
    }

    async fn must_have_container(&self, container: &str) -> Result<(), Failure> {
        match self.has_container(container).await? {
            true => Ok(()),
            false => Err(Failure(404, format!("there is no container {container}"))),
        }
    }

    async fn must_have(&self, target: &ContainerObject) -> Result<(), Failure> {
        // Blob stores differ in what they say of objects in containers that are not there.
        self.must_have_container(&target.container_id).await?;
        match said("ObjectExists", self.blobs.object_exists(self.ctx, target).await)? {
            true => Ok(()),
            false => Err(Failure(404, format!("there is no object {}/{}", target.container_id, target.object_id))),
        }
    }
}

/// The result of an operation; a failure with the name of the operation.
fn said<T>(operation: &str, result: RpcResult<T>) -> Result<T, Failure> {
    result.map_err(|error| Failure::of(operation, &error.to_string()))
}

/// The chunk of an object that begins at `offset`; the first is also the last if the object is small or empty.
fn chunk(target: &ContainerObject, body: &[u8], offset: usize) -> Chunk {
    let end = body.len().min(offset + CHUNK_BYTES);
    Chunk {
        object_id: target.object_id.clone(),
        container_id: target.container_id.clone(),
        bytes: body[offset..end].to_vec(),
        offset: offset as u64,
        is_last: end == body.len(),
    }
}

/// Blob stores report what they failed to remove; some report successes too.
fn all_removed(operation: &str, results: RpcResult<MultiResult>) -> Result<(), Failure> {
    match said(operation, results)?.into_iter().find(|item| !item.success) {
        Some(item) => Err(Failure::of(operation, item.error.as_deref().unwrap_or("no reason given"))),
        None => Ok(()),
    }
}

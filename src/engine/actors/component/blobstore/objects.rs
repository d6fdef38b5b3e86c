//! Containers, objects and lists of names, as calls of the contract.

use bytes::{Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};
use wasmtime_wasi::p2::{InputStream, Pollable, StreamError, StreamResult};

use super::{
    super::Caller,
    ObjectId,
    spool::{Spool, Spooled},
};
use lattice_protocol::contracts::blobstore::{
    CONTRACT_ID, Chunk, ContainerMetadata, ContainerObject, GetObjectRequest, GetObjectResponse,
    ItemResult, ListObjectsRequest, ListObjectsResponse, ObjectMetadata, PutChunkRequest,
    PutObjectRequest, PutObjectResponse, RemoveObjectsRequest, Timestamp,
};

/// Bytes that travel in one call.
pub(super) const CHUNK_BYTES: usize = 512 * 1024;
/// Names in one answer of a list.
const NAMES_MAX: u64 = 1000;

/// A container of a guest.
#[derive(Clone)]
pub(super) struct Container {
    pub(super) name: String,
    /// Empty stands for the default link.
    pub(super) link_name: String,
}

/// A value on its way out.
#[derive(Default)]
pub(super) struct Outgoing {
    pub(super) spool: Option<Spool>,
    /// Where it goes, once `write-data` said so.
    pub(super) place: Option<Place>,
}

/// An object of a container.
#[derive(Clone)]
pub(super) struct Place {
    link_name: String,
    container: String,
    object: String,
}

/// A value on its way in.
pub(super) struct Incoming {
    place: Place,
    start: u64,
    pub(super) length: u64,
}

/// A list of names that is being read.
pub(super) struct Names {
    container: Container,
    /// Read and not yet handed over.
    ready: std::vec::IntoIter<String>,
    continuation: Option<String>,
    is_last: bool,
}

pub(super) type Outcome<T> = Result<T, String>;
pub(super) type Called<T> = wasmtime::Result<Outcome<T>>;

/// Seconds since 1970, 0 where that is unknown.
pub(super) fn seconds(timestamp: Option<Timestamp>) -> u64 {
    timestamp.map_or(0, |timestamp| u64::try_from(timestamp.sec).unwrap_or(0))
}

async fn call<R: DeserializeOwned>(
    caller: &Caller,
    link_name: &str,
    operation: &'static str,
    argument: &impl Serialize,
) -> Called<R> {
    let result = caller.call((CONTRACT_ID, link_name), operation, argument).await?;
    Ok(result.map_err(|error| error.to_string()))
}

/// Ends with the error of a call, as the value of the function.
macro_rules! told {
    ($called:expr) => {
        match $called {
            Ok(value) => value,
            Err(text) => return Ok(Err(text)),
        }
    };
}

/// The first failure of those that a provider lists.
fn first_failure(results: Vec<ItemResult>) -> Outcome<()> {
    match results.into_iter().find(|result| !result.success) {
        Some(failed) => Err(failed.error.unwrap_or_else(|| format!("{} failed", failed.key))),
        None => Ok(()),
    }
}

pub(super) async fn container_exists(caller: &Caller, name: &String) -> Called<bool> {
    exists_at(caller, caller.link_for(CONTRACT_ID, name), name).await
}

async fn exists_at(caller: &Caller, link_name: &str, name: &String) -> Called<bool> {
    call(caller, link_name, "Blobstore.ContainerExists", name).await
}

pub(super) async fn create_container(caller: &Caller, name: String) -> Called<Container> {
    let link_name = caller.link_for(CONTRACT_ID, &name).to_owned();
    if told!(exists_at(caller, &link_name, &name).await?) {
        return Ok(Err(format!("container {name} exists already")));
    }
    let created: Outcome<()> = call(caller, &link_name, "Blobstore.CreateContainer", &name).await?;
    Ok(created.map(|()| Container { name, link_name }))
}

pub(super) async fn get_container(caller: &Caller, name: String) -> Called<Container> {
    let link_name = caller.link_for(CONTRACT_ID, &name).to_owned();
    if !told!(exists_at(caller, &link_name, &name).await?) {
        return Ok(Err(format!("container {name} does not exist")));
    }
    Ok(Ok(Container { name, link_name }))
}

pub(super) async fn container_info(
    caller: &Caller,
    container: &Container,
) -> Called<ContainerMetadata> {
    call(caller, &container.link_name, "Blobstore.GetContainerInfo", &container.name).await
}

pub(super) async fn delete_container(caller: &Caller, name: String) -> Called<()> {
    let link_name = caller.link_for(CONTRACT_ID, &name).to_owned();
    let removed = call(caller, &link_name, "Blobstore.RemoveContainers", &[name]).await?;
    Ok(removed.and_then(first_failure))
}

/// Copies an object chunk by chunk; not atomic, as the contract has no such operation.
pub(super) async fn copy_object(caller: &Caller, from: &ObjectId, to: ObjectId) -> Called<()> {
    let from = Place::of(caller, from.container.clone(), from.object.clone());
    let info = told!(object_info(caller, &from).await?);
    let spool = Spooled::new(caller);
    let mut incoming = Incoming { place: from, start: 0, length: info.content_length };
    while let Some(chunk) = told!(incoming.next(caller).await?) {
        told!(spool.lock().push(&chunk));
    }
    upload(caller, &Place::of(caller, to.container, to.object), &spool).await
}

pub(super) async fn remove_objects(
    caller: &Caller,
    container: &Container,
    objects: Vec<String>,
) -> Called<()> {
    let request = RemoveObjectsRequest { container_id: container.name.clone(), objects };
    let removed = call(caller, &container.link_name, "Blobstore.RemoveObjects", &request).await?;
    Ok(removed.and_then(first_failure))
}

pub(super) async fn object_info(caller: &Caller, place: &Place) -> Called<ObjectMetadata> {
    call(caller, &place.link_name, "Blobstore.GetObjectInfo", &place.id()).await
}

pub(super) async fn object_exists(caller: &Caller, place: &Place) -> Called<bool> {
    call(caller, &place.link_name, "Blobstore.ObjectExists", &place.id()).await
}

/// Begins to read an object between two offsets, both inclusive; what lies beyond it is left out.
pub(super) async fn get_data(
    caller: &Caller,
    place: Place,
    start: u64,
    end: u64,
) -> Called<Incoming> {
    let size = told!(object_info(caller, &place).await?).content_length;
    let end = end.saturating_add(1).min(size);
    Ok(Ok(Incoming { place, start, length: end.saturating_sub(start) }))
}

pub(super) async fn clear(caller: &Caller, container: Container) -> Called<()> {
    let mut names = Names::of(container);
    loop {
        told!(names.fill(caller).await?);
        let page: Vec<String> = names.ready.by_ref().collect();
        if page.is_empty() {
            return Ok(Ok(()));
        }
        told!(remove_objects(caller, &names.container, page).await?);
    }
}

/// Stores what was written.
async fn upload(caller: &Caller, place: &Place, spool: &Spool) -> Called<()> {
    let size = told!(spool.lock().rewind());
    let mut offset = 0;
    let mut stream_id = None;
    loop {
        let bytes = told!(spool.lock().read());
        let end = offset + bytes.len() as u64;
        let is_last = end >= size;
        let ContainerObject { container_id, object_id } = place.id();
        let chunk = Chunk { object_id, container_id, bytes, offset, is_last };
        if offset == 0 {
            let request = PutObjectRequest { chunk, content_type: None, content_encoding: None };
            let begun: PutObjectResponse =
                told!(call(caller, &place.link_name, "Blobstore.PutObject", &request).await?);
            stream_id = begun.stream_id;
        } else {
            let request =
                PutChunkRequest { chunk, stream_id: stream_id.clone(), cancel_and_remove: false };
            let () = told!(call(caller, &place.link_name, "Blobstore.PutChunk", &request).await?);
        }
        if is_last {
            return Ok(Ok(()));
        }
        offset = end;
    }
}

impl Place {
    pub(super) fn of(caller: &Caller, container: String, object: String) -> Self {
        let link_name = caller.link_for(CONTRACT_ID, &container).to_owned();
        Self { link_name, container, object }
    }

    pub(super) fn in_container(container: &Container, object: String) -> Self {
        Self { link_name: container.link_name.clone(), container: container.name.clone(), object }
    }

    fn id(&self) -> ContainerObject {
        ContainerObject { container_id: self.container.clone(), object_id: self.object.clone() }
    }
}

pub(super) async fn move_object(caller: &Caller, from: ObjectId, to: ObjectId) -> Called<()> {
    let stays = (&from.container, &from.object) == (&to.container, &to.object);
    told!(copy_object(caller, &from, to).await?);
    if stays {
        return Ok(Ok(()));
    }
    let link_name = caller.link_for(CONTRACT_ID, &from.container).to_owned();
    let container = Container { name: from.container, link_name };
    remove_objects(caller, &container, vec![from.object]).await
}

pub(super) async fn finish(caller: &Caller, value: Outgoing) -> Called<()> {
    let Some(place) = value.place else {
        return Ok(Err("the value was written to no container; call write-data before".into()));
    };
    let spool = value.spool.unwrap_or_else(|| Spooled::new(caller));
    upload(caller, &place, &spool).await
}

impl Incoming {
    /// Reads on; `None` at the end.
    pub(super) async fn next(&mut self, caller: &Caller) -> Called<Option<Bytes>> {
        if self.length == 0 {
            return Ok(Ok(None));
        }
        let wanted = self.length.min(CHUNK_BYTES as u64);
        let ContainerObject { container_id, object_id } = self.place.id();
        let request = GetObjectRequest {
            object_id,
            container_id,
            range_start: Some(self.start),
            range_end: Some(self.start + wanted - 1),
        };
        let link_name = &self.place.link_name;
        let answer: GetObjectResponse =
            told!(call(caller, link_name, "Blobstore.GetObject", &request).await?);
        let chunk = answer.initial_chunk.filter(|chunk| !chunk.bytes.is_empty());
        let Some(mut chunk) = chunk else {
            let text = answer
                .error
                .unwrap_or_else(|| format!("object {} ended while it was read", self.place.object));
            return Ok(Err(text));
        };
        chunk.bytes.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
        self.start += chunk.bytes.len() as u64;
        self.length -= chunk.bytes.len() as u64;
        Ok(Ok(Some(chunk.bytes)))
    }

    /// Reads to the end.
    pub(super) async fn all(mut self, caller: &Caller) -> Called<Vec<u8>> {
        if self.length > caller.memory_max_bytes as u64 {
            return Ok(Err(format!(
                "the object has {} bytes, more than the actor's memory; read it as a stream",
                self.length
            )));
        }
        let mut all = BytesMut::new();
        while let Some(chunk) = told!(self.next(caller).await?) {
            all.extend_from_slice(&chunk);
        }
        Ok(Ok(all.into()))
    }
}

impl Names {
    pub(super) fn of(container: Container) -> Self {
        Self { container, ready: Vec::new().into_iter(), continuation: None, is_last: false }
    }

    /// Reads the next page unless there are names left.
    async fn fill(&mut self, caller: &Caller) -> Called<()> {
        if self.ready.len() > 0 || self.is_last {
            return Ok(Ok(()));
        }
        let request = ListObjectsRequest {
            container_id: self.container.name.clone(),
            continuation: self.continuation.take(),
            ..ListObjectsRequest::default()
        };
        let link_name = &self.container.link_name;
        let page: ListObjectsResponse =
            told!(call(caller, link_name, "Blobstore.ListObjects", &request).await?);
        let names: Vec<String> = page.objects.into_iter().map(|object| object.object_id).collect();
        self.is_last = page.is_last || page.continuation.is_none();
        self.continuation = page.continuation;
        self.ready = names.into_iter();
        Ok(Ok(()))
    }

    /// Reads up to so many names; the flag says that there are no more.
    pub(super) async fn read(
        &mut self,
        caller: &Caller,
        count: u64,
    ) -> Called<(Vec<String>, bool)> {
        let mut names = Vec::new();
        while (names.len() as u64) < count.min(NAMES_MAX) {
            told!(self.fill(caller).await?);
            match self.ready.next() {
                Some(name) => names.push(name),
                None => return Ok(Ok((names, true))),
            }
        }
        let is_end = self.ready.len() == 0 && self.is_last;
        Ok(Ok((names, is_end)))
    }
}

/// The stream a guest reads a value from.
pub(super) struct Reading {
    caller: Caller,
    incoming: Incoming,
    ready: Bytes,
    failure: Option<StreamError>,
}

impl Reading {
    pub(super) fn new(caller: Caller, incoming: Incoming) -> Self {
        Self { caller, incoming, ready: Bytes::new(), failure: None }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Reading {
    async fn ready(&mut self) {
        if !self.ready.is_empty() || self.failure.is_some() {
            return;
        }
        // Dropped in the middle, the same range is read again.
        match self.incoming.next(&self.caller).await {
            Ok(Ok(Some(chunk))) => self.ready = chunk,
            Ok(Ok(None)) => self.failure = Some(StreamError::Closed),
            Ok(Err(text)) => {
                self.failure = Some(StreamError::LastOperationFailed(wasmtime::Error::msg(text)));
            }
            Err(error) => self.failure = Some(StreamError::Trap(error)),
        }
    }
}

#[wasmtime_wasi::async_trait]
impl InputStream for Reading {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if self.ready.is_empty()
            && let Some(failure) = self.failure.replace(StreamError::Closed)
        {
            return Err(failure);
        }
        Ok(self.ready.split_to(size.min(self.ready.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_of_a_list_is_told() {
        let result = |key: &str, error: Option<&str>| ItemResult {
            key: key.into(),
            success: error.is_none(),
            error: error.map(str::to_owned),
        };
        assert_eq!(first_failure(vec![result("a", None)]), Ok(()));
        let failed = first_failure(vec![result("a", None), result("b", Some("is in use"))]);
        assert_eq!(failed, Err("is in use".into()));
        assert_eq!(seconds(Some(Timestamp { sec: -1, nsec: 0 })), 0);
    }
}

//! Containers, objects and lists of names, as calls of the contract.

use std::collections::HashSet;

use bytes::{Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};
use wasmtime_wasi::p2::{InputStream, Pollable, StreamError, StreamResult};

use super::{
    super::Caller,
    Holding, ObjectId,
    spool::{self, Spool, Spooled},
};
use crate::providers::builtin::blobstore;
use lattice_protocol::contracts::blobstore::{
    CONTRACT_ID, Chunk, ContainerMetadata, ContainerObject, GetObjectRequest, GetObjectResponse,
    ItemResult, ListObjectsRequest, ListObjectsResponse, ObjectMetadata, PutChunkRequest,
    PutObjectRequest, PutObjectResponse, RemoveObjectsRequest, Timestamp,
};

/// Bytes that go up in one call.
pub(super) const CHUNK_BYTES: usize = 512 * 1024;
/// Bytes of the first range of a download: those that the built-in provider answers at once.
const RANGE_BYTES: u64 = blobstore::CHUNK_BYTES;
/// Bytes of a range at least: some providers answer with what has come from their disk or store so
/// far, which says nothing of their next answer.
const RANGE_BYTES_MIN: u64 = 16 * 1024;
/// Names in one answer of a list.
const NAMES_MAX: u64 = 1000;

const PUT_CHUNK: &str = "Blobstore.PutChunk";

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
    /// Bytes that one answer holds, as far as is known. Of a longer range a provider would send the
    /// rest in calls to the actor.
    range_bytes: u64,
}

/// An upload that has begun. Dropped before its last chunk was sent it is cancelled, since the
/// provider would keep a place for it. From then on the object may be stored, whatever becomes of
/// the answer, and a cancellation would remove it.
struct Begun<'a> {
    caller: &'a Caller,
    place: &'a Place,
    /// `None` if the provider needs no id, or the last chunk was sent.
    stream_id: Option<String>,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        let Some(stream_id) = self.stream_id.take() else { return };
        let ContainerObject { container_id, object_id } = self.place.id();
        let request = PutChunkRequest {
            chunk: Chunk { object_id, container_id, ..Chunk::default() },
            stream_id: Some(stream_id),
            cancel_and_remove: true,
        };
        let place = (CONTRACT_ID, self.place.link_name.as_str());
        self.caller.call_afterwards(place, PUT_CHUNK, &request);
    }
}

/// A list of names that is being read.
pub(super) struct Names {
    container: Container,
    /// Read and not yet handed over.
    ready: std::vec::IntoIter<String>,
    /// The memory that they take.
    held: Option<Holding>,
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
        Some(failed) => Err(text_of(&failed)),
        None => Ok(()),
    }
}

fn text_of(failed: &ItemResult) -> String {
    failed.error.clone().unwrap_or_else(|| format!("{} failed", failed.key))
}

/// Returns the objects that may still be there after some removals failed. Providers that keep
/// files name them by their paths; then it may be any of those that were asked for.
fn doubtful<'a>(failed: &'a [ItemResult], asked: &'a [String]) -> Vec<&'a str> {
    let known: HashSet<&str> = asked.iter().map(String::as_str).collect();
    match failed.iter().all(|item| known.contains(item.key.as_str())) {
        true => failed.iter().map(|item| item.key.as_str()).collect(),
        false => asked.iter().map(String::as_str).collect(),
    }
}

/// Words that the host holds too much for a guest.
fn no_room(caller: &Caller) -> String {
    format!(
        "what the host keeps for the actor has more than {} bytes together; read less at a time, \
         or raise actor_memory_max_bytes",
        caller.memory_max_bytes
    )
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
    let mut incoming = Incoming::new(from, 0, info.content_length);
    while let Some(chunk) = told!(incoming.next(caller).await?) {
        told!(spool::push(&spool, chunk).await);
    }
    upload(caller, &Place::of(caller, to.container, to.object), &spool).await
}

/// Removes objects. One that is not there is as good as removed, though providers call it a
/// failure.
pub(super) async fn remove_objects(
    caller: &Caller,
    container: &Container,
    objects: Vec<String>,
) -> Called<()> {
    let request = RemoveObjectsRequest { container_id: container.name.clone(), objects };
    let link_name = &container.link_name;
    let mut failed: Vec<ItemResult> =
        told!(call(caller, link_name, "Blobstore.RemoveObjects", &request).await?);
    failed.retain(|item| !item.success);
    for name in doubtful(&failed, &request.objects) {
        let place = Place::in_container(container, name.to_owned());
        // Where that cannot be told, the failure counts.
        if object_exists(caller, &place).await?.unwrap_or(true) {
            let its_own = failed.iter().find(|item| item.key == name).or(failed.first());
            return Ok(Err(its_own.map_or_else(|| format!("{name} failed"), text_of)));
        }
    }
    Ok(Ok(()))
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
    Ok(Ok(Incoming::new(place, start, end.saturating_sub(start))))
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
    let size = told!(spool::rewind(spool).await);
    let (mut offset, mut begun) = (0, Begun { caller, place, stream_id: None });
    loop {
        let bytes = told!(spool::read(spool).await);
        let end = offset + bytes.len() as u64;
        let is_last = end >= size;
        let ContainerObject { container_id, object_id } = place.id();
        let chunk = Chunk { object_id, container_id, bytes, offset, is_last };
        if offset == 0 {
            let request = PutObjectRequest { chunk, content_type: None, content_encoding: None };
            let answer: PutObjectResponse =
                told!(call(caller, &place.link_name, "Blobstore.PutObject", &request).await?);
            begun.stream_id = answer.stream_id.filter(|_| !is_last);
        } else {
            let id = &mut begun.stream_id;
            let stream_id = if is_last { id.take() } else { id.clone() };
            let request = PutChunkRequest { chunk, stream_id, cancel_and_remove: false };
            let () = told!(call(caller, &place.link_name, PUT_CHUNK, &request).await?);
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
    fn new(place: Place, start: u64, length: u64) -> Self {
        Self { place, start, length, range_bytes: RANGE_BYTES }
    }

    /// Reads on; `None` at the end.
    pub(super) async fn next(&mut self, caller: &Caller) -> Called<Option<Bytes>> {
        if self.length == 0 {
            return Ok(Ok(None));
        }
        let wanted = self.length.min(self.range_bytes);
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
        let read = chunk.bytes.len() as u64;
        if read < wanted {
            self.range_bytes = read.max(RANGE_BYTES_MIN);
        }
        self.start += read;
        self.length -= read;
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
        let (mut all, mut held) = (BytesMut::new(), caller.hold());
        while let Some(chunk) = told!(self.next(caller).await?) {
            if !held.grow(chunk.len()) {
                return Ok(Err(no_room(caller)));
            }
            all.extend_from_slice(&chunk);
        }
        Ok(Ok(all.into()))
    }
}

impl Names {
    pub(super) fn of(container: Container) -> Self {
        Self {
            container,
            ready: Vec::new().into_iter(),
            held: None,
            continuation: None,
            is_last: false,
        }
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
        // Those of the page before are gone.
        self.held = None;
        let mut held = caller.hold();
        if !held.grow(names.iter().map(|name| name.len() + size_of::<String>()).sum()) {
            return Ok(Err(no_room(caller)));
        }
        self.held = Some(held);
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
    /// The memory that they take.
    held: Option<Holding>,
    failure: Option<StreamError>,
}

impl Reading {
    pub(super) fn new(caller: Caller, incoming: Incoming) -> Self {
        Self { caller, incoming, ready: Bytes::new(), held: None, failure: None }
    }

    fn take(&mut self, chunk: Bytes) {
        let mut held = self.caller.hold();
        if held.grow(chunk.len()) {
            (self.ready, self.held) = (chunk, Some(held));
        } else {
            self.fail(no_room(&self.caller));
        }
    }

    fn fail(&mut self, text: String) {
        self.failure = Some(StreamError::LastOperationFailed(wasmtime::Error::msg(text)));
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Reading {
    async fn ready(&mut self) {
        if !self.ready.is_empty() || self.failure.is_some() {
            return;
        }
        self.held = None;
        // Dropped in the middle, the same range is read again.
        match self.incoming.next(&self.caller).await {
            Ok(Ok(Some(chunk))) => self.take(chunk),
            Ok(Ok(None)) => self.failure = Some(StreamError::Closed),
            Ok(Err(text)) => self.fail(text),
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

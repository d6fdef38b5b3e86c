//! `wasi:blobstore@0.2.0-draft`: containers and their objects, `Blobstore.*`.
//!
//! An object is uploaded when its value is *finished*, whatever the order of `write-data` and the
//! bytes: guests of the wild do both. Until then it waits in memory, and beyond [`SPOOL_BYTES`] in
//! a file; a value that is dropped unfinished stores nothing.
//!
//! A download is read by ranges: the provider would send what does not fit its first answer to the
//! actor in further calls, so each range asks for what was not answered, and further calls are
//! cancelled.

use std::{
    io::{Read as _, Seek as _, Write as _},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use tempfile::SpooledTempFile;
use wasmtime::{
    StoreContextMut,
    component::{ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType},
};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, InputStream, OutputStream, Pollable, StreamError, StreamResult,
};

use super::{Caller, Guest};
use lattice_protocol::contracts::blobstore::{
    CONTRACT_ID, Chunk, ContainerMetadata, ContainerObject, GetObjectRequest, GetObjectResponse,
    ItemResult, ListObjectsRequest, ListObjectsResponse, ObjectMetadata, PutChunkRequest,
    PutObjectRequest, PutObjectResponse, RemoveObjectsRequest, Timestamp,
};

/// The names under which it is imported.
pub(super) const NAMES: [&str; 3] = [
    "wasi:blobstore/types@0.2.0-draft",
    "wasi:blobstore/container@0.2.0-draft",
    "wasi:blobstore/blobstore@0.2.0-draft",
];

/// Bytes of a value that wait in memory.
const SPOOL_BYTES: usize = 1024 * 1024;
/// Bytes of one object that a guest may write.
const OBJECT_BYTES_MAX: u64 = 4 << 30;
/// Bytes that travel in one call.
const CHUNK_BYTES: usize = 512 * 1024;
/// Bytes a guest may write at once.
const WRITE_BYTES_MAX: usize = 256 * 1024;
/// Names in one answer of a list.
const NAMES_MAX: u64 = 1000;

struct Container {
    name: String,
    /// Empty stands for the default link.
    link_name: String,
}

/// A value on its way out.
#[derive(Default)]
struct Outgoing {
    spool: Option<Spool>,
    /// Where it goes, once `write-data` said so.
    place: Option<Place>,
}

/// An object of a container.
#[derive(Clone)]
struct Place {
    link_name: String,
    container: String,
    object: String,
}

/// The bytes of a value. Held for one write or read, never across an await.
type Spool = Arc<Mutex<Spooled>>;

struct Spooled {
    file: SpooledTempFile,
    written: u64,
    failure: Option<String>,
}

/// A value on its way in.
struct Incoming {
    place: Place,
    start: u64,
    length: u64,
}

/// A list of names that is being read.
struct Names {
    container: Container,
    /// Read and not yet handed over.
    ready: std::vec::IntoIter<String>,
    continuation: Option<String>,
    is_last: bool,
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct ContainerInfo {
    name: String,
    #[component(name = "created-at")]
    created_at: u64,
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct ObjectInfo {
    name: String,
    container: String,
    #[component(name = "created-at")]
    created_at: u64,
    size: u64,
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct ObjectId {
    container: String,
    object: String,
}

type Outcome<T> = Result<T, String>;
type Called<T> = wasmtime::Result<Outcome<T>>;

/// Seconds since 1970, 0 where that is unknown.
fn seconds(timestamp: Option<Timestamp>) -> u64 {
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

async fn container_exists(caller: &Caller, name: &String) -> Called<bool> {
    let link_name = caller.link_for(CONTRACT_ID, name);
    call(caller, link_name, "Blobstore.ContainerExists", name).await
}

async fn create_container(caller: &Caller, name: String) -> Called<Container> {
    if told!(container_exists(caller, &name).await?) {
        return Ok(Err(format!("container {name} exists already")));
    }
    let link_name = caller.link_for(CONTRACT_ID, &name).to_owned();
    let created: Outcome<()> = call(caller, &link_name, "Blobstore.CreateContainer", &name).await?;
    Ok(created.map(|()| Container { name, link_name }))
}

async fn get_container(caller: &Caller, name: String) -> Called<Container> {
    if !told!(container_exists(caller, &name).await?) {
        return Ok(Err(format!("container {name} does not exist")));
    }
    let link_name = caller.link_for(CONTRACT_ID, &name).to_owned();
    Ok(Ok(Container { name, link_name }))
}

async fn delete_container(caller: &Caller, name: String) -> Called<()> {
    let link_name = caller.link_for(CONTRACT_ID, &name).to_owned();
    let removed = call(caller, &link_name, "Blobstore.RemoveContainers", &[name]).await?;
    Ok(removed.and_then(first_failure))
}

/// Copies an object chunk by chunk; not atomic, as the contract has no such operation.
async fn copy_object(caller: &Caller, from: &ObjectId, to: ObjectId) -> Called<()> {
    let from = Place::of(caller, from.container.clone(), from.object.clone());
    let info = told!(object_info(caller, &from).await?);
    let spool = Spooled::new();
    let mut incoming = Incoming { place: from, start: 0, length: info.content_length };
    while let Some(chunk) = told!(incoming.next(caller).await?) {
        told!(spool.lock().push(&chunk));
    }
    upload(caller, &Place::of(caller, to.container, to.object), &spool).await
}

async fn remove_objects(
    caller: &Caller,
    container: &Container,
    objects: Vec<String>,
) -> Called<()> {
    let request = RemoveObjectsRequest { container_id: container.name.clone(), objects };
    let removed = call(caller, &container.link_name, "Blobstore.RemoveObjects", &request).await?;
    Ok(removed.and_then(first_failure))
}

async fn object_info(caller: &Caller, place: &Place) -> Called<ObjectMetadata> {
    call(caller, &place.link_name, "Blobstore.GetObjectInfo", &place.id()).await
}

async fn object_exists(caller: &Caller, place: &Place) -> Called<bool> {
    call(caller, &place.link_name, "Blobstore.ObjectExists", &place.id()).await
}

/// Begins to read an object between two offsets, both inclusive; what lies beyond it is left out.
async fn get_data(caller: &Caller, place: Place, start: u64, end: u64) -> Called<Incoming> {
    let size = told!(object_info(caller, &place).await?).content_length;
    let end = end.saturating_add(1).min(size);
    Ok(Ok(Incoming { place, start, length: end.saturating_sub(start) }))
}

async fn clear(caller: &Caller, container: Container) -> Called<()> {
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
    fn of(caller: &Caller, container: String, object: String) -> Self {
        let link_name = caller.link_for(CONTRACT_ID, &container).to_owned();
        Self { link_name, container, object }
    }

    fn in_container(container: &Container, object: String) -> Self {
        Self { link_name: container.link_name.clone(), container: container.name.clone(), object }
    }

    fn id(&self) -> ContainerObject {
        ContainerObject { container_id: self.container.clone(), object_id: self.object.clone() }
    }
}

impl Spooled {
    fn new() -> Spool {
        let file = tempfile::spooled_tempfile(SPOOL_BYTES);
        Arc::new(Mutex::new(Self { file, written: 0, failure: None }))
    }

    fn push(&mut self, bytes: &[u8]) -> Outcome<()> {
        let written = self.written + bytes.len() as u64;
        if written > OBJECT_BYTES_MAX {
            return Err(format!("the object has more than {OBJECT_BYTES_MAX} bytes"));
        }
        self.file.write_all(bytes).map_err(|error| format!("keep the object: {error}"))?;
        self.written = written;
        Ok(())
    }

    /// Goes back to the beginning; returns how much there is.
    fn rewind(&mut self) -> Outcome<u64> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.file.rewind().map_err(|error| format!("read the object again: {error}"))?;
        Ok(self.written)
    }

    /// Reads the next chunk, a full one unless it is the last.
    fn read(&mut self) -> Outcome<Bytes> {
        let mut chunk = Vec::new();
        let mut part = (&mut self.file).take(CHUNK_BYTES as u64);
        part.read_to_end(&mut chunk).map_err(|error| format!("read the object again: {error}"))?;
        Ok(chunk.into())
    }
}

impl Incoming {
    /// Reads on; `None` at the end.
    async fn next(&mut self, caller: &Caller) -> Called<Option<Bytes>> {
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
    async fn all(mut self, caller: &Caller) -> Called<Vec<u8>> {
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
    fn of(container: Container) -> Self {
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
    async fn read(&mut self, caller: &Caller, count: u64) -> Called<(Vec<String>, bool)> {
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

/// The stream a guest writes a value to.
struct Writing(Spool);

#[wasmtime_wasi::async_trait]
impl Pollable for Writing {
    async fn ready(&mut self) {}
}

impl OutputStream for Writing {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let mut spooled = self.0.lock();
        spooled.push(&bytes).map_err(|text| {
            // `finish` tells it.
            spooled.failure = Some(text);
            StreamError::Closed
        })
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        match &self.0.lock().failure {
            Some(_) => Err(StreamError::Closed),
            None => Ok(WRITE_BYTES_MAX),
        }
    }
}

/// The stream a guest reads a value from.
struct Reading {
    caller: Caller,
    incoming: Incoming,
    ready: Bytes,
    failure: Option<StreamError>,
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

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let [types, container, blobstore] = NAMES;
    let mut values = linker.instance(types)?;
    add_outgoing_value(&mut values)?;
    add_incoming_value(&mut values)?;
    let mut interface = linker.instance(container)?;
    add_container(&mut interface)?;
    add_names(&mut interface)?;
    add_store(&mut linker.instance(blobstore)?)
}

fn add_outgoing_value(types: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    types.resource("outgoing-value", ResourceType::host::<Outgoing>(), |mut store, rep| {
        store.data_mut().table.delete(Resource::<Outgoing>::new_own(rep))?;
        Ok(())
    })?;
    types.func_wrap(
        "[static]outgoing-value.new-outgoing-value",
        |mut store: StoreContextMut<'_, Guest>, (): ()| {
            Ok((store.data_mut().table.push(Outgoing::default())?,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-value.outgoing-value-write-body",
        |mut store: StoreContextMut<'_, Guest>, (value,): (Resource<Outgoing>,)| {
            let table = &mut store.data_mut().table;
            let value = table.get_mut(&value)?;
            if value.spool.is_some() {
                return Ok((Err(()),));
            }
            let spool = Spooled::new();
            value.spool = Some(Arc::clone(&spool));
            let stream: DynOutputStream = Box::new(Writing(spool));
            Ok((Ok(table.push(stream)?),))
        },
    )?;
    types.func_wrap_async(
        "[static]outgoing-value.finish",
        |mut store: StoreContextMut<'_, Guest>, (value,): (Resource<Outgoing>,)| {
            let caller = store.data().caller.clone();
            let taken = store.data_mut().table.delete(value);
            Box::new(async move { Ok((finish(&caller, taken?).await?,)) })
        },
    )
}

fn add_incoming_value(types: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    types.resource("incoming-value", ResourceType::host::<Incoming>(), |mut store, rep| {
        store.data_mut().table.delete(Resource::<Incoming>::new_own(rep))?;
        Ok(())
    })?;
    types.func_wrap(
        "[method]incoming-value.size",
        |store: StoreContextMut<'_, Guest>, (value,): (Resource<Incoming>,)| {
            Ok((store.data().table.get(&value)?.length,))
        },
    )?;
    types.func_wrap_async(
        "[static]incoming-value.incoming-value-consume-sync",
        |mut store: StoreContextMut<'_, Guest>, (value,): (Resource<Incoming>,)| {
            let caller = store.data().caller.clone();
            let taken = store.data_mut().table.delete(value);
            Box::new(async move { Ok((taken?.all(&caller).await?,)) })
        },
    )?;
    types.func_wrap(
        "[static]incoming-value.incoming-value-consume-async",
        |mut store: StoreContextMut<'_, Guest>, (value,): (Resource<Incoming>,)| {
            let guest = store.data_mut();
            let (caller, incoming) = (guest.caller.clone(), guest.table.delete(value)?);
            let reading = Reading { caller, incoming, ready: Bytes::new(), failure: None };
            let stream: DynInputStream = Box::new(reading);
            Ok((Ok::<_, String>(guest.table.push(stream)?),))
        },
    )
}

async fn finish(caller: &Caller, value: Outgoing) -> Called<()> {
    let Some(place) = value.place else {
        return Ok(Err("the value was written to no container; call write-data before".into()));
    };
    let spool = value.spool.unwrap_or_else(Spooled::new);
    upload(caller, &place, &spool).await
}

/// Adds a method of a container that calls out.
macro_rules! on_container {
    (
        $interface:expr, $name:expr,
        |$caller:ident, $container:ident $(, $arg:ident: $ty:ty)*| $body:expr
    ) => {
        $interface.func_wrap_async(
            $name,
            |store: StoreContextMut<'_, Guest>,
             (container, $($arg,)*): (Resource<Container>, $($ty,)*)| {
                let guest = store.data();
                let $caller = guest.caller.clone();
                let found = guest.table.get(&container).map(Container::clone);
                Box::new(async move {
                    let $container = found?;
                    Ok(($body,))
                })
            },
        )
    };
}

impl Clone for Container {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), link_name: self.link_name.clone() }
    }
}

fn add_container(interface: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    interface.resource("container", ResourceType::host::<Container>(), |mut store, rep| {
        store.data_mut().table.delete(Resource::<Container>::new_own(rep))?;
        Ok(())
    })?;
    interface.func_wrap(
        "[method]container.name",
        |store: StoreContextMut<'_, Guest>, (container,): (Resource<Container>,)| {
            Ok((Ok::<_, String>(store.data().table.get(&container)?.name.clone()),))
        },
    )?;
    on_container!(interface, "[method]container.info", |caller, container| {
        let info: Outcome<ContainerMetadata> =
            call(&caller, &container.link_name, "Blobstore.GetContainerInfo", &container.name)
                .await?;
        info.map(|info| ContainerInfo {
            name: info.container_id,
            created_at: seconds(info.created_at),
        })
    })?;
    on_container!(
        interface,
        "[method]container.delete-object",
        |caller, container, name: String| {
            remove_objects(&caller, &container, vec![name]).await?
        }
    )?;
    on_container!(
        interface,
        "[method]container.delete-objects",
        |caller, container, names: Vec<String>| {
            remove_objects(&caller, &container, names).await?
        }
    )?;
    on_container!(interface, "[method]container.has-object", |caller, container, name: String| {
        object_exists(&caller, &Place::in_container(&container, name)).await?
    })?;
    on_container!(
        interface,
        "[method]container.object-info",
        |caller, container, name: String| {
            let info = object_info(&caller, &Place::in_container(&container, name)).await?;
            info.map(|info| ObjectInfo {
                name: info.object_id,
                container: info.container_id,
                created_at: seconds(info.last_modified),
                size: info.content_length,
            })
        }
    )?;
    on_container!(interface, "[method]container.clear", |caller, container| {
        clear(&caller, container).await?
    })?;
    add_data(interface)
}

fn add_data(interface: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    interface.func_wrap_async(
        "[method]container.get-data",
        |mut store: StoreContextMut<'_, Guest>,
         (container, name, start, end): (Resource<Container>, String, u64, u64)| {
            Box::new(async move {
                let guest = store.data();
                let caller = guest.caller.clone();
                let place = Place::in_container(guest.table.get(&container)?, name);
                let incoming = match get_data(&caller, place, start, end).await? {
                    Ok(incoming) => incoming,
                    Err(text) => return Ok((Err(text),)),
                };
                Ok((Ok(store.data_mut().table.push(incoming)?),))
            })
        },
    )?;
    interface.func_wrap(
        "[method]container.write-data",
        |mut store: StoreContextMut<'_, Guest>,
         (container, name, value): (Resource<Container>, String, Resource<Outgoing>)| {
            let table = &mut store.data_mut().table;
            let place = Place::in_container(table.get(&container)?, name);
            table.get_mut(&value)?.place = Some(place);
            Ok((Ok::<(), String>(()),))
        },
    )
}

fn add_names(interface: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    interface.resource(
        "stream-object-names",
        ResourceType::host::<Names>(),
        |mut store, rep| {
            store.data_mut().table.delete(Resource::<Names>::new_own(rep))?;
            Ok(())
        },
    )?;
    interface.func_wrap(
        "[method]container.list-objects",
        |mut store: StoreContextMut<'_, Guest>, (container,): (Resource<Container>,)| {
            let table = &mut store.data_mut().table;
            let names = Names::of(table.get(&container)?.clone());
            Ok((Ok::<_, String>(table.push(names)?),))
        },
    )?;
    interface.func_wrap_async(
        "[method]stream-object-names.read-stream-object-names",
        |mut store: StoreContextMut<'_, Guest>, (names, count): (Resource<Names>, u64)| {
            Box::new(async move {
                let guest = store.data_mut();
                let caller = guest.caller.clone();
                Ok((guest.table.get_mut(&names)?.read(&caller, count).await?,))
            })
        },
    )?;
    interface.func_wrap_async(
        "[method]stream-object-names.skip-stream-object-names",
        |mut store: StoreContextMut<'_, Guest>, (names, count): (Resource<Names>, u64)| {
            Box::new(async move {
                let guest = store.data_mut();
                let caller = guest.caller.clone();
                let read = guest.table.get_mut(&names)?.read(&caller, count).await?;
                Ok((read.map(|(names, is_end)| (names.len() as u64, is_end)),))
            })
        },
    )
}

/// Adds a function that makes a container of a name.
macro_rules! on_name {
    ($interface:expr, $name:expr, $make:path) => {
        $interface.func_wrap_async(
            $name,
            |mut store: StoreContextMut<'_, Guest>, (name,): (String,)| {
                Box::new(async move {
                    let caller = store.data().caller.clone();
                    match $make(&caller, name).await? {
                        Ok(container) => Ok((Ok(store.data_mut().table.push(container)?),)),
                        Err(text) => Ok((Err::<Resource<Container>, String>(text),)),
                    }
                })
            },
        )
    };
}

fn add_store(interface: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    on_name!(interface, "create-container", create_container)?;
    on_name!(interface, "get-container", get_container)?;
    interface.func_wrap_async(
        "delete-container",
        |store: StoreContextMut<'_, Guest>, (name,): (String,)| {
            let caller = store.data().caller.clone();
            Box::new(async move { Ok((delete_container(&caller, name).await?,)) })
        },
    )?;
    interface.func_wrap_async(
        "container-exists",
        |store: StoreContextMut<'_, Guest>, (name,): (String,)| {
            let caller = store.data().caller.clone();
            Box::new(async move { Ok((container_exists(&caller, &name).await?,)) })
        },
    )?;
    interface.func_wrap_async(
        "copy-object",
        |store: StoreContextMut<'_, Guest>, (from, to): (ObjectId, ObjectId)| {
            let caller = store.data().caller.clone();
            Box::new(async move { Ok((copy_object(&caller, &from, to).await?,)) })
        },
    )?;
    interface.func_wrap_async(
        "move-object",
        |store: StoreContextMut<'_, Guest>, (from, to): (ObjectId, ObjectId)| {
            let caller = store.data().caller.clone();
            Box::new(async move { Ok((move_object(&caller, from, to).await?,)) })
        },
    )
}

async fn move_object(caller: &Caller, from: ObjectId, to: ObjectId) -> Called<()> {
    told!(copy_object(caller, &from, to).await?);
    let link_name = caller.link_for(CONTRACT_ID, &from.container).to_owned();
    let container = Container { name: from.container, link_name };
    remove_objects(caller, &container, vec![from.object]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again_in_chunks() {
        let spool = Spooled::new();
        let bytes = vec![7; CHUNK_BYTES + 10];
        spool.lock().push(&bytes).expect("kept");
        assert_eq!(spool.lock().rewind(), Ok(bytes.len() as u64));
        let mut spooled = spool.lock();
        let lengths = [(); 3].map(|()| spooled.read().expect("a chunk").len());
        assert_eq!(lengths, [CHUNK_BYTES, 10, 0]);
    }

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

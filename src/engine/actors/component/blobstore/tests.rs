//! The bridge in front of a provider that is a map.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use lattice_protocol::contracts::{
    self,
    blobstore::{
        Chunk, ContainerObject, GetObjectRequest, GetObjectResponse, ItemResult, ObjectMetadata,
        PutChunkRequest, PutObjectRequest, PutObjectResponse, RemoveObjectsRequest,
    },
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{
    Caller,
    objects::{self, Container, Incoming, Outgoing, Place},
    spool::{self, Spooled},
};
use crate::{
    actors::{component::caller::fake, inbound::HostCall},
    rpc::call::CallError,
};

const MEMORY: usize = 64 << 20;
/// The id of each upload.
const STREAM: &str = "the upload";

/// A provider with one container. As the built-in one it sends what does not fit an answer in calls
/// to the actor.
struct Store {
    objects: BTreeMap<String, Bytes>,
    /// Bytes of an answer.
    chunk_bytes: usize,
    /// Bytes of the first answer, if they are others.
    first_bytes: Option<usize>,
    /// Names failed items as a provider does whose objects are files.
    names_paths: bool,
    /// The answer to all chunks of an upload but the first.
    to_chunks: Option<Result<(), &'static str>>,
    /// Ranges that were asked for.
    asked: usize,
    sent_to_actor: usize,
    cancelled: Vec<PutChunkRequest>,
}

type Shared = Arc<Mutex<Store>>;

impl Store {
    fn of(objects: &[(&str, usize)], chunk_bytes: usize) -> Shared {
        let objects = objects.iter().map(|(name, length)| {
            let bytes: Bytes = (0..*length).map(|at| (at % 251) as u8 ^ (at >> 12) as u8).collect();
            ((*name).to_owned(), bytes)
        });
        Arc::new(Mutex::new(Self {
            objects: objects.collect(),
            chunk_bytes,
            first_bytes: None,
            names_paths: false,
            to_chunks: Some(Ok(())),
            asked: 0,
            sent_to_actor: 0,
            cancelled: Vec::new(),
        }))
    }

    /// Answers a call; never, if it has no answer.
    fn answer(&mut self, call: &HostCall) -> Option<Result<Bytes, CallError>> {
        let answer = match call.operation.as_str() {
            "Blobstore.GetObject" => contracts::encode(&self.get(&argument(call))),
            "Blobstore.GetObjectInfo" => contracts::encode(&self.info(argument(call))),
            "Blobstore.ObjectExists" => {
                let object: ContainerObject = argument(call);
                if object.object_id.contains("..") {
                    return Some(Err(CallError::Callee("no name".into())));
                }
                contracts::encode(&self.objects.contains_key(&object.object_id))
            }
            "Blobstore.RemoveObjects" => contracts::encode(&self.remove(argument(call))),
            "Blobstore.PutObject" => {
                let request: PutObjectRequest = argument(call);
                let stream_id = (!request.chunk.is_last).then(|| STREAM.to_owned());
                contracts::encode(&PutObjectResponse { stream_id })
            }
            "Blobstore.PutChunk" => {
                let request: PutChunkRequest = argument(call);
                if request.cancel_and_remove {
                    self.cancelled.push(request);
                } else if let Err(text) = self.to_chunks? {
                    return Some(Err(CallError::Callee(text.into())));
                }
                Bytes::new()
            }
            operation => panic!("{operation} is not expected"),
        };
        Some(Ok(answer))
    }

    fn get(&mut self, request: &GetObjectRequest) -> GetObjectResponse {
        let object = &self.objects[&request.object_id];
        let [start, end] = [request.range_start, request.range_end]
            .map(|at| usize::try_from(at.expect("a range")).expect("an offset"));
        let asked = object.slice(start..(end + 1).min(object.len()));
        let bytes_max = self.first_bytes.take().unwrap_or(self.chunk_bytes);
        let bytes = asked.slice(..asked.len().min(bytes_max));
        self.asked += 1;
        self.sent_to_actor += usize::from(bytes.len() < asked.len());
        GetObjectResponse {
            success: true,
            content_length: asked.len() as u64,
            initial_chunk: Some(Chunk { bytes, ..Chunk::default() }),
            ..GetObjectResponse::default()
        }
    }

    fn info(&self, object: ContainerObject) -> ObjectMetadata {
        let ContainerObject { object_id, container_id } = object;
        ObjectMetadata {
            content_length: self.objects[&object_id].len() as u64,
            object_id,
            container_id,
            last_modified: None,
            content_type: None,
            content_encoding: None,
        }
    }

    /// Removes what is there, except an object that is locked.
    fn remove(&mut self, request: RemoveObjectsRequest) -> Vec<ItemResult> {
        let mut failed = Vec::new();
        for name in request.objects {
            if name == "locked" || self.objects.remove(&name).is_none() {
                let key = if self.names_paths { format!("\"/data/c/{name}\"") } else { name };
                failed.push(ItemResult { error: Some(format!("{key}!")), key, success: false });
            }
        }
        failed
    }
}

fn argument<T: DeserializeOwned>(call: &HostCall) -> T {
    contracts::decode("an argument", &call.payload).expect("an argument of the contract")
}

fn caller(store: &Shared, memory_max_bytes: usize) -> Caller {
    let store = Arc::clone(store);
    fake::caller(memory_max_bytes, move |call| store.lock().answer(&call))
}

fn container() -> Container {
    Container { name: "c".into(), link_name: String::new() }
}

async fn opened(caller: &Caller, object: &str) -> Incoming {
    let place = Place::in_container(&container(), object.into());
    let opened = objects::get_data(caller, place, 0, u64::MAX).await;
    opened.expect("the guest goes on").expect("the object is there")
}

#[tokio::test]
async fn ranges_are_no_longer_than_an_answer() {
    let store = Store::of(&[("o", (9 << 20) + 77)], 0);
    let caller = caller(&store, MEMORY);
    for (first_bytes, chunk_bytes, longer, asked_max) in [
        (None, 256 << 10, 0, 37),
        (None, 64 << 10, 1, 146),
        (None, 16 << 10, 1, 578),
        // An answer may be short by chance.
        (Some(200), 256 << 10, 1, 578),
        (None, 16 << 20, 0, 37),
    ] {
        {
            let mut store = store.lock();
            (store.first_bytes, store.chunk_bytes) = (first_bytes, chunk_bytes);
            (store.asked, store.sent_to_actor) = (0, 0);
        }
        let read = opened(&caller, "o").await.all(&caller).await.expect("the guest goes on");
        let store = store.lock();
        assert!(read.expect("it is read") == store.objects["o"], "{chunk_bytes}");
        // Only the first range cannot know better.
        assert_eq!(store.sent_to_actor, longer, "{first_bytes:?} {chunk_bytes}");
        assert!(store.asked <= asked_max, "{first_bytes:?} {chunk_bytes}: {}", store.asked);
    }
}

#[tokio::test]
async fn an_object_that_is_read_whole_counts_as_memory_of_the_guest() {
    let store = Store::of(&[("o", 1000)], 256);
    for (held_before, is_enough) in [(0, true), (200, true), (201, false)] {
        let caller = caller(&store, 1200);
        let mut held = caller.hold();
        assert!(held.grow(held_before));
        let read = opened(&caller, "o").await.all(&caller).await.expect("the guest goes on");
        let told = read.err().unwrap_or_default();
        assert_eq!(told.is_empty(), is_enough, "{told}");
        assert!(is_enough || told.contains("actor_memory_max_bytes"), "{told}");
    }
}

#[tokio::test]
async fn an_object_that_is_not_there_is_as_good_as_removed() {
    for names_paths in [false, true] {
        for (names, expected) in [
            (vec!["there"], None),
            (vec!["absent"], None),
            (vec!["absent", "there", "away"], None),
            (vec!["absent", "locked"], Some("locked")),
            (vec!["../x"], Some("../x")),
        ] {
            let store = Store::of(&[("there", 1), ("locked", 1)], 1024);
            store.lock().names_paths = names_paths;
            let objects = names.iter().map(|name| (*name).to_owned()).collect();
            let caller = caller(&store, MEMORY);
            let removed = objects::remove_objects(&caller, &container(), objects).await;
            let failure = removed.expect("the guest goes on").err();
            match (&failure, expected) {
                (None, None) => {}
                // A path need not be that of the object which stayed.
                (Some(text), Some(name)) => assert!(names_paths || text.contains(name), "{text}"),
                _ => panic!("{names:?}: {failure:?}"),
            }
            assert_eq!(store.lock().objects.contains_key("there"), !names.contains(&"there"));
        }
    }
}

/// Uploads an object of so many chunks, whose second one gets an answer; returns the cancellations.
async fn cancellations(
    chunks: usize,
    to_chunks: Option<Result<(), &'static str>>,
) -> Vec<PutChunkRequest> {
    let store = Store::of(&[], 1024);
    store.lock().to_chunks = to_chunks;
    let caller = caller(&store, MEMORY);
    let spool = Spooled::new(&caller);
    let bytes = vec![1; objects::CHUNK_BYTES * (chunks - 1) + 1];
    spool::push(&spool, bytes.into()).await.expect("kept");
    let place = Place::in_container(&container(), "o".into());
    let value = Outgoing { spool: Some(spool), place: Some(place) };
    // A guest that waits in vain ends, and its call with it.
    let finished = timeout(Duration::from_secs(1), objects::finish(&caller, value)).await.ok();
    let finished = finished.map(|finished| finished.expect("the guest goes on"));
    assert_eq!(finished, to_chunks.map(|answer| answer.map_err(str::to_owned)));
    std::mem::take(&mut store.lock().cancelled)
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_breaks_off_is_cancelled_unless_it_may_be_stored() {
    assert!(cancellations(3, Some(Ok(()))).await.is_empty());
    for answer in [Some(Err("the disk is full")), None] {
        // The second of two is the last one: only its answer may be lost.
        assert!(cancellations(2, answer).await.is_empty(), "{answer:?}");
        let cancelled = cancellations(3, answer).await;
        let [PutChunkRequest { chunk, stream_id, .. }] = &cancelled[..] else {
            panic!("{cancelled:?}");
        };
        assert_eq!((chunk.container_id.as_str(), chunk.object_id.as_str()), ("c", "o"));
        assert!(stream_id.as_deref() == Some(STREAM) && chunk.bytes.is_empty());
    }
}

//! The built-in blob store in both places it keeps objects: a directory and JetStream.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use async_nats::jetstream::stream;
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use bytes::Bytes;
use futures::TryStreamExt;
use lattice_base::store::jetstream::read::scan;
use lattice_engine::{
    providers::builtin::{
        Link, LinkError,
        blobstore::{
            SPEC,
            backend::{Backend, ContentInfo, Error},
            nats::Nats,
        },
        jetstream::Placement,
        values::Values,
    },
    router::Local,
    rpc::call::CallError,
};
use serde::{Serialize, de::DeserializeOwned};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;
use wasmbus_rpc::common::{deserialize, serialize};
use wasmcloud_interface_blobstore::{
    Chunk, ChunkResponse, ContainerMetadata, ContainerObject, GetObjectRequest, GetObjectResponse,
    ItemResult, ListObjectsRequest, ListObjectsResponse, ObjectMetadata, PutChunkRequest,
    PutObjectRequest, PutObjectResponse, RemoveObjectsRequest,
};

use crate::harness::{ECHO, PATIENCE, Server, builtin, client, eventually};

/// A provider with one link, and an actor that receives chunks.
struct Store {
    link: Arc<dyn Link>,
    dir: TempDir,
    /// The chunks that the actor received, and its answer: whether to cancel.
    chunks: mpsc::Receiver<Chunk>,
    cancels: Arc<Mutex<bool>>,
}

impl Store {
    async fn new(server: &Server, values: &[(&str, &str)]) -> Self {
        Self::try_new(server, values).await.expect("the link is taken on")
    }

    async fn try_new(server: &Server, values: &[(&str, &str)]) -> Result<Self, LinkError> {
        let dir = TempDir::new().expect("a directory");
        let (sender, chunks) = mpsc::channel(64);
        let cancels = Arc::new(Mutex::new(false));
        let answer = Arc::clone(&cancels);
        let actor = builtin::Closure(move |operation: String, payload: Bytes| {
            let (sender, cancel_download) = (sender.clone(), *answer.lock().unwrap());
            async move {
                assert_eq!(operation, "ChunkReceiver.ReceiveChunk");
                let chunk = deserialize(&payload).expect("a chunk as the published crate reads it");
                sender.send(chunk).await.expect("the test listens");
                Ok::<Bytes, CallError>(
                    serialize(&ChunkResponse { cancel_download }).unwrap().into(),
                )
            }
        });
        let actors: HashMap<Arc<str>, Arc<dyn Local>> =
            HashMap::from([(ECHO.into(), Arc::new(actor) as Arc<dyn Local>)]);
        let context = builtin::context(server, &SPEC, dir.path(), actors).await;
        let link = (SPEC.build)(context).link(builtin::link(&SPEC, values)).await?;
        Ok(Self { link, dir, chunks, cancels })
    }

    async fn raw(&self, operation: &str, argument: &impl Serialize) -> Result<Bytes, String> {
        let payload = serialize(argument).expect("an argument");
        let outcome =
            builtin::call(&self.link, &SPEC, &format!("Blobstore.{operation}"), payload).await;
        outcome.map_err(|error| error.to_string())
    }

    async fn call<T: DeserializeOwned>(
        &self,
        operation: &str,
        argument: &impl Serialize,
    ) -> Result<T, String> {
        let result = self.raw(operation, argument).await?;
        Ok(deserialize(&result).expect("a result of the contract"))
    }

    async fn create(&self, container: &str) {
        let result = self.raw("CreateContainer", &container).await.expect("it is created");
        assert!(result.is_empty(), "no result is no byte");
    }

    async fn put(
        &self,
        container: &str,
        object: &str,
        bytes: &[u8],
    ) -> Result<PutObjectResponse, String> {
        let request = PutObjectRequest {
            chunk: chunk(container, object, bytes, 0, true),
            content_type: Some("text/plain".into()),
            content_encoding: None,
        };
        self.call("PutObject", &request).await
    }

    /// Begins an upload of several chunks.
    async fn begin(&self, container: &str, object: &str, bytes: &[u8]) -> String {
        let chunk = chunk(container, object, bytes, 0, false);
        let request =
            PutObjectRequest { chunk, content_type: None, content_encoding: Some("gzip".into()) };
        let response: PutObjectResponse =
            self.call("PutObject", &request).await.expect("it begins");
        response.stream_id.expect("there will be more")
    }

    async fn go_on(&self, stream: Option<&str>, chunk: Chunk) -> Result<(), String> {
        let request = PutChunkRequest {
            chunk,
            stream_id: stream.map(str::to_owned),
            cancel_and_remove: false,
        };
        self.raw("PutChunk", &request).await.map(|result| assert!(result.is_empty()))
    }

    async fn get(&self, object: &str, start: Option<u64>, end: Option<u64>) -> GetObjectResponse {
        let request = GetObjectRequest {
            object_id: object.into(),
            container_id: "c".into(),
            range_start: start,
            range_end: end,
        };
        self.call("GetObject", &request).await.expect("an answer")
    }

    async fn exists(&self, object: &str) -> bool {
        self.call(
            "ObjectExists",
            &ContainerObject { container_id: "c".into(), object_id: object.into() },
        )
        .await
        .unwrap()
    }

    async fn next_chunk(&mut self) -> Chunk {
        tokio::time::timeout(PATIENCE, self.chunks.recv())
            .await
            .expect("a chunk")
            .expect("the actor is there")
    }

    /// The directory of the actor.
    fn home(&self) -> PathBuf {
        self.dir.path().join("blobs/default").join(ECHO)
    }
}

fn chunk(container: &str, object: &str, bytes: &[u8], offset: u64, is_last: bool) -> Chunk {
    Chunk {
        object_id: object.into(),
        container_id: container.into(),
        bytes: bytes.to_vec(),
        offset,
        is_last,
    }
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8 ^ (at >> 12) as u8).collect()
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder).map(Iterator::count).unwrap_or(0)
}

/// All that a store promises, wherever it keeps objects.
async fn keeps_objects(server: &Server, values: &[(&str, &str)]) {
    let store = Store::new(server, values).await;
    assert_eq!(store.call("ContainerExists", &"c").await, Ok(false));
    let error = store.put("c", "o", b"x").await.unwrap_err();
    assert!(error.contains("no container \"c\"") && error.contains("CreateContainer"), "{error}");
    store.create("c").await;
    store.create("c").await;
    store.create("b").await;
    assert_eq!(store.call("ContainerExists", &"c").await, Ok(true));
    let info: ContainerMetadata = store.call("GetContainerInfo", &"c").await.unwrap();
    assert_eq!(info.container_id, "c");
    assert!(info.created_at.is_some_and(|at| at.sec > 1_700_000_000));
    assert!(
        store
            .call::<ContainerMetadata>("GetContainerInfo", &"none")
            .await
            .unwrap_err()
            .contains("none")
    );
    let containers: Vec<ContainerMetadata> = deserialize(
        &builtin::call(&store.link, &SPEC, "Blobstore.ListContainers", Vec::new()).await.unwrap(),
    )
    .unwrap();
    assert_eq!(containers.iter().map(|c| c.container_id.as_str()).collect::<Vec<_>>(), ["b", "c"]);

    // In one chunk: there and back, whole and in part.
    assert_eq!(store.put("c", "o", b"0123456789").await, Ok(PutObjectResponse { stream_id: None }));
    let whole = store.get("o", None, None).await;
    assert_eq!(whole.initial_chunk, Some(chunk("c", "o", b"0123456789", 0, true)));
    assert_eq!(
        (whole.success, whole.content_length, whole.content_type.as_deref()),
        (true, 10, Some("text/plain"))
    );
    for (start, end, part) in [
        (Some(3), None, "3456789"),
        (None, Some(0), "0"),
        (Some(2), Some(4), "234"),
        (Some(8), Some(99), "89"),
        (Some(10), None, ""),
        (Some(99), Some(5), ""),
    ] {
        let response = store.get("o", start, end).await;
        let expected = chunk("c", "o", part.as_bytes(), start.unwrap_or(0), true);
        assert_eq!(response.initial_chunk, Some(expected), "{start:?}..={end:?}");
        assert_eq!(response.content_length, part.len() as u64);
    }
    let absent = store.get("absent", None, None).await;
    assert!(
        !absent.success && absent.content_length == 0 && absent.error.unwrap().contains("absent")
    );
    let name = ContainerObject { container_id: "c".into(), object_id: "o".into() };
    let info: ObjectMetadata = store.call("GetObjectInfo", &name).await.unwrap();
    assert_eq!((info.content_length, info.content_type.as_deref()), (10, Some("text/plain")));
    assert!(info.last_modified.is_some_and(|at| at.sec > 1_700_000_000));
    let error = store.call::<ObjectMetadata>("GetObjectInfo", &"o").await.unwrap_err();
    assert!(error.contains("Blobstore.GetObjectInfo"), "a bare name tells no container: {error}");

    // Replaced, empty, and in folders.
    store.put("c", "o", b"new").await.unwrap();
    assert_eq!(store.get("o", None, None).await.initial_chunk.unwrap().bytes, b"new");
    store.put("c", "empty", b"").await.unwrap();
    assert_eq!(
        store.get("empty", None, None).await.initial_chunk,
        Some(chunk("c", "empty", b"", 0, true))
    );
    store.put("c", "f/a b/ü", b"deep").await.unwrap();
    assert_eq!(store.get("f/a b/ü", None, None).await.initial_chunk.unwrap().bytes, b"deep");

    // Lists, in pages.
    let list =
        |start: Option<&str>, continuation: Option<String>, max: Option<u32>| ListObjectsRequest {
            container_id: "c".into(),
            start_with: start.map(str::to_owned),
            continuation,
            max_items: max,
            ..Default::default()
        };
    let names = |page: &ListObjectsResponse| {
        page.objects.iter().map(|object| object.object_id.clone()).collect::<Vec<_>>().join(" ")
    };
    let first: ListObjectsResponse =
        store.call("ListObjects", &list(None, None, Some(2))).await.unwrap();
    assert_eq!((names(&first).as_str(), first.is_last), ("empty f/a b/ü", false));
    assert!(first.continuation.is_some());
    let rest: ListObjectsResponse =
        store.call("ListObjects", &list(None, first.continuation, Some(2))).await.unwrap();
    assert_eq!((names(&rest).as_str(), rest.is_last, rest.continuation.clone()), ("o", true, None));
    assert_eq!((rest.objects[0].content_length, rest.objects[0].container_id.as_str()), (3, "c"));
    let folder: ListObjectsResponse =
        store.call("ListObjects", &list(Some("f/"), None, None)).await.unwrap();
    assert_eq!(names(&folder), "f/a b/ü");
    assert!(
        store
            .call::<ListObjectsResponse>("ListObjects", &list(None, Some("?".into()), None))
            .await
            .is_err()
    );

    // Removals answer with the failures.
    let request = RemoveObjectsRequest {
        container_id: "c".into(),
        objects: vec!["f/a b/ü".into(), "absent".into(), "../b".into(), "o".into()],
    };
    let failures: Vec<ItemResult> = store.call("RemoveObjects", &request).await.unwrap();
    assert_eq!(
        failures.iter().map(|f| (f.key.as_str(), f.success)).collect::<Vec<_>>(),
        [("absent", false), ("../b", false)]
    );
    assert!(failures.iter().all(|failure| failure.error.is_some()));
    assert!(
        !store.exists("o").await && !store.exists("f/a b/ü").await && store.exists("empty").await
    );
    let failures: Vec<ItemResult> = store.call("RemoveContainers", &["c", "none"]).await.unwrap();
    assert_eq!(failures.iter().map(|failure| failure.key.as_str()).collect::<Vec<_>>(), ["none"]);
    store.create("c").await;
    assert!(!store.exists("empty").await, "a removed container takes its objects along");
    assert!(store.raw("DeleteContainer", &"b").await.unwrap().is_empty());
    assert_eq!(store.call("ContainerExists", &"b").await, Ok(false));
    assert_eq!(store.raw("Defrag", &"b").await.unwrap_err(), "method not handled Blobstore.Defrag");

    // 2022's encoding: positional CBOR.
    let cbor = b"\x7f\x83\x85\x61o\x61c\x42hi\x00\xf5\xf6\xf6".to_vec();
    builtin::call(&store.link, &SPEC, "Blobstore.PutObject", cbor).await.unwrap();
    assert_eq!(store.get("o", None, None).await.initial_chunk.unwrap().bytes, b"hi");
}

/// Large objects travel in chunks, both ways, and a cut upload leaves nothing.
async fn carries_large_objects(server: &Server, values: &[(&str, &str)]) {
    let mut store = Store::new(server, values).await;
    store.create("c").await;
    let content = content(5 * 1024 * 1024 + 77);
    let begun = Instant::now();
    let mut parts = content.chunks(300_000).enumerate().peekable();
    let stream = store.begin("c", "large", parts.next().unwrap().1).await;
    while let Some((at, part)) = parts.next() {
        assert!(!store.exists("large").await, "it is seen when it is whole");
        let part = chunk("c", "large", part, at as u64 * 300_000, parts.peek().is_none());
        // A client with only one open upload of an object need not repeat its id.
        store.go_on(Some(stream.as_str()).filter(|_| at % 2 == 0), part).await.unwrap();
    }
    println!("up, {values:?}: {:?}", begun.elapsed());
    let error = store.go_on(Some(&stream), chunk("c", "large", b"", 0, true)).await.unwrap_err();
    assert!(error.contains(&stream), "{error}");

    let begun = Instant::now();
    let response = store.get("large", None, None).await;
    assert_eq!(
        (response.content_length, response.content_encoding.as_deref()),
        (content.len() as u64, Some("gzip"))
    );
    let mut chunk_before = response.initial_chunk.expect("the first chunk");
    let mut received = chunk_before.bytes.clone();
    while !chunk_before.is_last {
        assert_eq!(chunk_before.bytes.len(), 256 * 1024);
        let next = store.next_chunk().await;
        assert_eq!((next.offset, next.object_id.as_str()), (received.len() as u64, "large"));
        received.extend_from_slice(&next.bytes);
        chunk_before = next;
    }
    assert!(received == content, "what comes is what went");
    println!("down, {values:?}: {:?}", begun.elapsed());

    // A part of it that needs two chunks.
    let response = store.get("large", Some(1_000_001), Some(1_400_000)).await;
    assert_eq!(response.content_length, 400_000);
    let first = response.initial_chunk.unwrap();
    let second = store.next_chunk().await;
    assert_eq!((first.offset, first.is_last, second.is_last), (1_000_001, false, true));
    assert!([first.bytes, second.bytes].concat() == content[1_000_001..=1_400_000]);

    // An actor that has enough gets no more.
    *store.cancels.lock().unwrap() = true;
    store.get("large", None, None).await;
    store.next_chunk().await;
    *store.cancels.lock().unwrap() = false;
    let whole = store.get("large", Some(content.len() as u64 - 300_000), None).await;
    assert_eq!(
        store.next_chunk().await.offset,
        whole.initial_chunk.unwrap().offset + 256 * 1024,
        "of the next download"
    );

    // Chunks come in order, and a cancelled upload leaves what was there.
    let stream = store.begin("c", "large", b"other").await;
    let error = store.go_on(Some(&stream), chunk("c", "large", b"x", 3, false)).await.unwrap_err();
    assert!(error.contains("offset 3") && error.contains("5 bytes"), "{error}");
    store.go_on(Some(&stream), chunk("c", "large", b"x", 5, false)).await.unwrap();
    let cancel = PutChunkRequest {
        chunk: chunk("c", "large", b"", 0, false),
        stream_id: Some(stream.clone()),
        cancel_and_remove: true,
    };
    store.raw("PutChunk", &cancel).await.unwrap();
    assert!(store.go_on(Some(&stream), chunk("c", "large", b"x", 6, true)).await.is_err());
    assert_eq!(store.get("large", None, Some(9)).await.initial_chunk.unwrap().bytes, content[..10]);
    let error = store.put("c", "late", b"").await.map(|_| ()).err();
    assert_eq!(error, None);
    let late = PutObjectRequest {
        chunk: chunk("c", "late", b"x", 7, true),
        content_type: None,
        content_encoding: None,
    };
    assert!(store.raw("PutObject", &late).await.unwrap_err().contains("offset 7"));

    // An upload that the end of the link cuts leaves nothing.
    let cut = store.begin("c", "cut", &content[..600_000]).await;
    Arc::clone(&store.link).end(Instant::now() + Duration::from_secs(10)).await;
    // A call that took the link in the moment it was replaced is served; an upload in several
    // chunks would be lost.
    assert_eq!(store.call("ContainerExists", &"c").await, Ok(true));
    let begins = chunk("c", "cut", b"x", 0, false);
    let begins = PutObjectRequest { chunk: begins, content_type: None, content_encoding: None };
    assert!(store.raw("PutObject", &begins).await.unwrap_err().contains("PutObject again"));
    let error = store.go_on(Some(&cut), chunk("c", "cut", b"x", 600_000, true)).await.unwrap_err();
    assert!(error.contains("Begin it anew"), "{error}");
    if values.is_empty() {
        assert_eq!(files(&store.home().join(".uploads")), 0);
        assert_eq!(files(&store.home().join("c")), 2);
    }
}

#[tokio::test]
async fn a_directory_keeps_objects() {
    let server = Server::start().await;
    keeps_objects(&server, &[]).await;
    carries_large_objects(&server, &[]).await;
}

#[tokio::test]
async fn jetstream_keeps_objects() {
    let server = Server::start().await;
    keeps_objects(&server, &[("backend", "nats"), ("bucket", "small")]).await;
    carries_large_objects(&server, &[("backend", "nats")]).await;
    // Of what was cut or replaced no piece is left: only those of the large object.
    let context = builtin::context(&server, &SPEC, Path::new("/"), HashMap::new()).await;
    let js = async_nats::jetstream::with_domain(context.nats.clone(), "core");
    let stream = js.get_stream(format!("OBJ_BLOBS_default_{ECHO}")).await.unwrap();
    let subjects = stream.info_with_subjects("$O.*.C.>").await.unwrap();
    let pieces: Vec<(String, usize)> = subjects.try_collect().await.unwrap();
    assert_eq!(pieces.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [41], "{pieces:?}");

    // Another host sees the same objects; and a small cut upload, whose process died, is not seen.
    let other = Store::new(&server, &[("backend", "nats")]).await;
    assert!(other.exists("large").await);
    let values = Values::read(&SPEC, &builtin::link(&SPEC, &[])).unwrap();
    let placement = Placement::read(&values, Some("core")).unwrap();
    let backend =
        Nats::open(&context.nats, format!("BLOBS_default_{ECHO}"), &placement).await.unwrap();
    let mut upload =
        backend.upload("c".into(), "died".into(), ContentInfo::default()).await.unwrap();
    upload.write(vec![0; 300_000].into()).await.unwrap();
    drop(upload);
    assert!(!other.exists("died").await);
    // Old pieces that nothing names are swept, young ones may still become an object; as may those
    // of an object whose metadata cannot be read.
    for (object, digit) in [("c/forgotten", "0"), ("c/junk", "1")] {
        let piece = format!("$O.BLOBS_default_{ECHO}.C.0000000001-{}", digit.repeat(32));
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Lattice-Object", URL_SAFE.encode(object));
        js.publish_with_headers(piece, headers, "x".into()).await.unwrap().await.unwrap();
    }
    let junk = format!("$O.BLOBS_default_{ECHO}.M.{}", URL_SAFE.encode("c/junk"));
    js.publish(junk, "junk".into()).await.unwrap().await.unwrap();
    backend.sweep().await.unwrap();
    let pieces = async || {
        let subjects = stream.info_with_subjects("$O.*.C.>").await.unwrap();
        let mut counts: Vec<usize> =
            subjects.map_ok(|(_, count)| count).try_collect().await.unwrap();
        counts.sort_unstable();
        counts
    };
    assert_eq!(pieces().await, [1, 2, 41]);
    let list = ListObjectsRequest { container_id: "c".into(), ..Default::default() };
    assert!(
        other
            .call::<ListObjectsResponse>("ListObjects", &list)
            .await
            .unwrap_err()
            .contains("c/junk")
    );
    let request = RemoveObjectsRequest { container_id: "c".into(), objects: vec!["junk".into()] };
    assert_eq!(other.call::<Vec<ItemResult>>("RemoveObjects", &request).await, Ok(vec![]));
    other.call::<ListObjectsResponse>("ListObjects", &list).await.unwrap();
    backend.sweep().await.unwrap();
    assert_eq!(pieces().await, [2, 41]);
}

/// A bucket by itself, through any connection.
async fn bucket(client: &async_nats::Client, name: &str) -> Nats {
    let values = Values::read(&SPEC, &builtin::link(&SPEC, &[])).unwrap();
    let placement = Placement::read(&values, Some("core")).unwrap();
    Nats::open(client, name.into(), &placement).await.expect("it opens")
}

async fn upload(backend: &Nats, object: &str, bytes: &[u8]) -> Result<(), Error> {
    let mut upload = backend.upload("c".into(), object.into(), ContentInfo::default()).await?;
    upload.write(Bytes::copy_from_slice(bytes)).await?;
    upload.finish().await
}

async fn part(backend: &Nats, object: &str, start: usize, length: usize) -> Bytes {
    let download = backend.download("c".into(), object.into(), start as u64).await.unwrap();
    download.expect("it is there").read(length).await.unwrap()
}

#[tokio::test]
async fn a_part_is_read_without_what_lies_before_it() {
    let server = Server::start().await;
    let client = client::nats(&server).await;
    let backend = bucket(&client, "parts").await;
    backend.create_container("c".into()).await.unwrap();
    let content = content(6 * 1024 * 1024 + 77);
    // Two at the same time, so that their pieces alternate.
    let (one, two) =
        tokio::join!(upload(&backend, "one", &content), upload(&backend, "two", &content[1..]));
    one.and(two).unwrap();
    let received = || client.statistics().in_bytes.load(Ordering::Relaxed);
    for start in
        [0, 131_071, 131_072, 131_073, 3_000_000, 5_111_808, 6 * 1024 * 1024 - 1, content.len() - 5]
    {
        let before = received();
        assert!(
            part(&backend, "one", start, 300_000).await
                == content[start..content.len().min(start + 300_000)]
        );
        assert!(
            received() - before < 16 * 131_072,
            "{} bytes for the part at {start}",
            received() - before
        );
        assert!(
            part(&backend, "two", start, 9).await
                == content[1..][start..(content.len() - 1).min(start + 9)]
        );
    }
    // An object of another client has no offsets.
    let js = async_nats::jetstream::with_domain(client.clone(), "core");
    for piece in content[..1_000_000].chunks(131_072) {
        js.publish("$O.parts.C.other", Bytes::copy_from_slice(piece)).await.unwrap().await.unwrap();
    }
    let meta = serde_json::json!({ "name": "c/other", "bucket": "parts", "nuid": "other", "size": 1_000_000, "chunks": 8 });
    let subject = format!("$O.parts.M.{}", URL_SAFE.encode("c/other"));
    js.publish(subject, meta.to_string().into()).await.unwrap().await.unwrap();
    assert!(part(&backend, "other", 700_001, 1000).await == content[700_001..701_001]);
}

#[tokio::test]
async fn a_bucket_in_memory_is_made_again_after_a_restart_of_the_server() {
    let mut server = Server::start().await;
    let values = &[("backend", "nats"), ("storage", "memory"), ("bucket", "memory")];
    let store = Store::new(&server, values).await;
    store.create("c").await;
    store.put("c", "o", b"x").await.unwrap();
    server.kill();
    server.resume().await;
    let error = eventually("the store answers", || async {
        store.put("c", "o", b"x").await.unwrap_err().contains("no container").then_some(())
    });
    error.await;
    store.create("c").await;
    store.put("c", "o", b"y").await.unwrap();
    assert_eq!(store.get("o", None, None).await.initial_chunk.unwrap().bytes, b"y");

    // An upload whose beginning went with the bucket is no object.
    let stream = store.begin("c", "half", &[1; 300_000]).await;
    let js = async_nats::jetstream::with_domain(client::nats(&server).await, "core");
    js.delete_stream("OBJ_memory").await.unwrap();
    let containers =
        builtin::call(&store.link, &SPEC, "Blobstore.ListContainers", Vec::new()).await.unwrap();
    assert_eq!(deserialize::<Vec<ContainerMetadata>>(&containers).unwrap(), []);
    store.create("c").await;
    let error =
        store.go_on(Some(&stream), chunk("c", "half", &[1; 10], 300_000, true)).await.unwrap_err();
    assert!(error.contains("lost"), "{error}");
    assert!(!store.exists("half").await);
}

/// A relay before a NATS server that breaks a connection at a message, once.
struct Relay {
    address: String,
    cut: Arc<Mutex<Option<Cut>>>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Clone, Copy, PartialEq)]
enum Cut {
    /// The message is lost.
    Message,
    /// The answer to it is lost.
    Answer,
}

impl Relay {
    async fn start(server: &Server, pattern: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (upstream, cut) = (server.address().to_owned(), Arc::new(Mutex::new(None)));
        let armed = Arc::clone(&cut);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(Self::relay(
                    client,
                    upstream.clone(),
                    pattern,
                    Arc::clone(&armed),
                ));
            }
        });
        Self { address, cut, _task: AbortOnDropHandle::new(task) }
    }

    async fn relay(
        mut client: TcpStream,
        upstream: String,
        pattern: &'static str,
        armed: Arc<Mutex<Option<Cut>>>,
    ) {
        let mut server = TcpStream::connect(upstream).await.unwrap();
        let (mut up, mut down, mut is_muted) = (vec![0; 1 << 20], vec![0; 1 << 20], false);
        loop {
            tokio::select! {
                Ok(read) = client.read(&mut up) => {
                    let is_it = up[..read].windows(pattern.len()).any(|window| window == pattern.as_bytes());
                    match is_it.then(|| armed.lock().unwrap().take()).flatten() {
                        Some(Cut::Message) => return,
                        Some(Cut::Answer) => is_muted = true,
                        None => {}
                    }
                    if read == 0 || server.write_all(&up[..read]).await.is_err() {
                        return;
                    }
                }
                Ok(read) = server.read(&mut down) => {
                    if read == 0 || is_muted || client.write_all(&down[..read]).await.is_err() {
                        return;
                    }
                }
                else => return,
            }
        }
    }
}

#[tokio::test]
async fn a_write_nobody_confirmed_loses_no_content() {
    let server = Server::start().await;
    let relay = Relay::start(&server, "HPUB $O.relay.M.").await;
    let backend = bucket(&async_nats::connect(&relay.address).await.unwrap(), "relay").await;
    let watcher = bucket(&client::nats(&server).await, "relay").await;
    backend.create_container("c".into()).await.unwrap();
    upload(&backend, "o", b"first").await.unwrap();

    *relay.cut.lock().unwrap() = Some(Cut::Answer);
    upload(&backend, "o", b"second").await.expect("a look shows that it happened");
    assert_eq!(part(&watcher, "o", 0, 10).await, "second");

    *relay.cut.lock().unwrap() = Some(Cut::Message);
    let error = upload(&backend, "o", b"third").await.unwrap_err();
    assert!(
        matches!(error, Error::Unconfirmed { .. }) && error.to_string().contains("may or may not"),
        "{error}"
    );
    assert_eq!(part(&watcher, "o", 0, 10).await, "second");
    // Its pieces stay: the metadata could still have been on its way.
    let js = async_nats::jetstream::with_domain(client::nats(&server).await, "core");
    let subjects =
        js.get_stream("OBJ_relay").await.unwrap().info_with_subjects("$O.relay.C.>").await.unwrap();
    assert_eq!(subjects.try_collect::<Vec<_>>().await.unwrap().len(), 2);
    upload(&backend, "o", b"fourth").await.unwrap();
    assert_eq!(part(&watcher, "o", 0, 10).await, "fourth");
}

#[tokio::test]
async fn an_ending_link_tidies_up_before_its_deadline() {
    let server = Server::start().await;
    let store = Store::new(&server, &[("max_chunk_size_bytes", "1K")]).await;
    store.create("c").await;
    store.put("c", "o", &content(100 * 1024)).await.unwrap();
    store.begin("c", "open", b"x").await;
    // The actor takes 64 chunks, and then nothing any more.
    store.get("o", None, None).await;
    eventually("the actor is full", || async { (store.chunks.len() == 64).then_some(()) }).await;
    let deadline = Instant::now() + Duration::from_millis(800);
    let ended = tokio::time::timeout_at(deadline, Arc::clone(&store.link).end(deadline)).await;
    assert!(ended.is_ok(), "who waits until the deadline sees the end");
    assert_eq!(files(&store.home().join(".uploads")), 0);
}

/// Entries of a stream while somebody removes and writes others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_is_whole_or_an_error() {
    let server = Server::start().await;
    let js = async_nats::jetstream::with_domain(client::nats(&server).await, "core");
    let config = stream::Config {
        name: "entries".into(),
        subjects: vec!["entries.>".into()],
        max_messages_per_subject: 1,
        ..Default::default()
    };
    let stream = js.create_stream(config).await.unwrap();
    let mut acknowledged = Vec::new();
    for at in 0..2000 {
        acknowledged
            .push(js.publish(format!("entries.{at}"), "x".into()).await.unwrap().into_future());
    }
    futures::future::try_join_all(acknowledged).await.unwrap();
    let in_between = |work: futures::future::BoxFuture<'_, ()>| {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(work));
    };

    let (mut found, begun) = (HashSet::new(), Instant::now());
    let mut taken = 0;
    scan(&stream, "entries.>", false, |message| {
        found.insert(message.subject.to_string());
        taken += 1;
        if taken == 10 {
            in_between(Box::pin(async {
                for at in (1000..2000).step_by(100) {
                    stream.purge().filter(format!("entries.{at}")).await.unwrap();
                    js.publish(format!("entries.{}", at + 1), "y".into())
                        .await
                        .unwrap()
                        .await
                        .unwrap();
                    js.publish(format!("entries.new{at}"), "y".into())
                        .await
                        .unwrap()
                        .await
                        .unwrap();
                }
            }));
        }
    })
    .await
    .unwrap();
    for at in (0..2000).filter(|at| *at < 1000 || at % 100 != 0) {
        assert!(found.contains(&format!("entries.{at}")), "{at} is missing");
    }
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "a removal holds nobody up: {:?}",
        begun.elapsed()
    );

    let mut taken = 0;
    let outcome = scan(&stream, "entries.>", false, |_| {
        taken += 1;
        if taken == 10 {
            in_between(Box::pin(async {
                let consumers: Vec<String> = stream.consumer_names().try_collect().await.unwrap();
                let until = time::OffsetDateTime::now_utc() + Duration::from_secs(600);
                for consumer in consumers {
                    stream.pause_consumer(&consumer, until).await.unwrap();
                }
            }));
        }
    });
    let outcome = outcome.await;
    assert!(outcome.is_err() && taken < 1990, "{taken} of 2000, {outcome:?}");
}

#[tokio::test]
async fn no_name_leads_out_of_the_directory() {
    let server = Server::start().await;
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let store = Store::new(&server, &[]).await;
    store.create("c").await;
    for container in ["..", "../c", "/tmp", ".uploads", "c/../..", "c\0", ""] {
        assert!(
            store.raw("CreateContainer", &container).await.unwrap_err().contains("cannot be used"),
            "{container:?}"
        );
        assert!(store.put(container, "o", b"x").await.is_err());
        let failures: Vec<ItemResult> = store.call("RemoveContainers", &[container]).await.unwrap();
        assert_eq!(failures.len(), 1, "{container:?}");
    }
    let absolute = outside.path().join("secret").to_string_lossy().into_owned();
    for object in ["../c/o", "..", "a/../../x", &absolute, "a\0b", "a//b", ""] {
        assert!(
            store.put("c", object, b"x").await.unwrap_err().contains("cannot be used"),
            "{object:?}"
        );
        let request = GetObjectRequest {
            object_id: object.into(),
            container_id: "c".into(),
            ..Default::default()
        };
        assert!(store.raw("GetObject", &request).await.is_err(), "{object:?}");
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(outside.path(), store.home().join("c/link")).unwrap();
        std::os::unix::fs::symlink(outside.path(), store.home().join("linked")).unwrap();
        for (container, object) in [("c", "link/secret"), ("c", "link"), ("linked", "secret")] {
            let request = GetObjectRequest {
                object_id: object.into(),
                container_id: container.into(),
                ..Default::default()
            };
            let error = store.raw("GetObject", &request).await.unwrap_err();
            assert!(error.contains("symbolic link"), "{error}");
            assert!(
                store.put(container, object, b"x").await.unwrap_err().contains("symbolic link")
            );
        }
        let list = ListObjectsRequest { container_id: "c".into(), ..Default::default() };
        let listed: ListObjectsResponse = store.call("ListObjects", &list).await.unwrap();
        assert_eq!(listed.objects.len(), 0);
        // Removing a container removes a link in it, not what it leads to.
        let failures: Vec<ItemResult> = store.call("RemoveContainers", &["c"]).await.unwrap();
        assert_eq!(failures, []);
    }
    assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"secret");
    assert_eq!(files(outside.path()), 1);
}

#[tokio::test]
async fn names_that_meet_in_a_directory_are_told() {
    let server = Server::start().await;
    let root = TempDir::new().unwrap();
    let store = Store::new(&server, &[("ROOT", &root.path().to_string_lossy())]).await;
    store.create("c").await;
    store.put("c", "a/b", b"x").await.unwrap();
    assert!(store.put("c", "a", b"x").await.unwrap_err().contains("folder"));
    assert!(store.put("c", "a/b/c", b"x").await.unwrap_err().contains("folder"));
    assert_eq!(
        fs::read(root.path().join(ECHO).join("c/a/b")).unwrap(),
        b"x",
        "as the provider of old lays them out"
    );
    let request = RemoveObjectsRequest { container_id: "c".into(), objects: vec!["a/b".into()] };
    store.raw("RemoveObjects", &request).await.unwrap();
    store.put("c", "a", b"now a file").await.unwrap();
    eventually("no unfinished file is left", || async {
        (files(&root.path().join(ECHO).join(".uploads")) == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn uploads_are_limited_and_make_room_when_they_end() {
    let server = Server::start().await;
    let store = Store::new(&server, &[]).await;
    store.create("c").await;
    let mut streams = Vec::new();
    for at in 0..32 {
        streams.push(store.begin("c", &at.to_string(), b"x").await);
    }
    let chunk_of = |object: &str| chunk("c", object, b"x", 0, false);
    let request =
        PutObjectRequest { chunk: chunk_of("more"), content_type: None, content_encoding: None };
    assert!(store.raw("PutObject", &request).await.unwrap_err().contains("32 uploads"));
    store.go_on(Some(&streams[7]), chunk("c", "7", b"y", 1, true)).await.unwrap();
    assert_eq!(store.get("7", None, None).await.initial_chunk.unwrap().bytes, b"xy");
    store.raw("PutObject", &request).await.unwrap();
}

#[tokio::test]
async fn links_that_cannot_work_say_what_to_change() {
    let server = Server::start().await;
    for (values, part) in [
        (&[("backend", "s3")][..], "link value backend"),
        (&[("root", "relative/path")], "absolute"),
        (&[("max_chunk_size_bytes", "1G")], "link value max_chunk_size_bytes"),
        (&[("backend", "nats"), ("bucket", "default")], "link value bucket"),
        (&[("backend", "nats"), ("replicas", "0")], "link value replicas"),
    ] {
        let Err(LinkError::Values(text)) = Store::try_new(&server, values).await.map(|_| ()) else {
            panic!("{values:?} is wrong")
        };
        assert!(text.contains(part), "{text}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let root = file.path().join("below").to_string_lossy().into_owned();
    let Err(LinkError::Unavailable(text)) =
        Store::try_new(&server, &[("root", &root)]).await.map(|_| ())
    else {
        panic!("no directory can be made below a file")
    };
    assert!(text.contains(&root) && text.contains("link value root"), "{text}");
}

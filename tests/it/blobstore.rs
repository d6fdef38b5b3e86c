//! The built-in blob store in both places it keeps objects: a directory and JetStream.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use lattice_host::{
    providers::builtin::{
        Link, LinkError,
        blobstore::{
            SPEC,
            backend::{Backend, ContentInfo},
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
use tokio::{sync::mpsc, time::Instant};
use wasmbus_rpc::common::{deserialize, serialize};
use wasmcloud_interface_blobstore::{
    Chunk, ChunkResponse, ContainerMetadata, ContainerObject, GetObjectRequest, GetObjectResponse, ItemResult,
    ListObjectsRequest, ListObjectsResponse, ObjectMetadata, PutChunkRequest, PutObjectRequest, PutObjectResponse,
    RemoveObjectsRequest,
};

use crate::harness::{ECHO, PATIENCE, Server, builtin, eventually};

/// A provider with one link, and an actor that receives chunks.
struct Store {
    link: Arc<dyn Link>,
    dir: TempDir,
    /// What the actor received, and what it answers: whether to cancel.
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
                Ok::<Bytes, CallError>(serialize(&ChunkResponse { cancel_download }).unwrap().into())
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
        let outcome = builtin::call(&self.link, &SPEC, &format!("Blobstore.{operation}"), payload).await;
        outcome.map_err(|error| error.to_string())
    }

    async fn call<T: DeserializeOwned>(&self, operation: &str, argument: &impl Serialize) -> Result<T, String> {
        let result = self.raw(operation, argument).await?;
        Ok(deserialize(&result).expect("a result of the contract"))
    }

    async fn create(&self, container: &str) {
        let result = self.raw("CreateContainer", &container).await.expect("it is created");
        assert!(result.is_empty(), "no result is no byte");
    }

    async fn put(&self, container: &str, object: &str, bytes: &[u8]) -> Result<PutObjectResponse, String> {
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
        let request = PutObjectRequest { chunk, content_type: None, content_encoding: Some("gzip".into()) };
        let response: PutObjectResponse = self.call("PutObject", &request).await.expect("it begins");
        response.stream_id.expect("there will be more")
    }

    async fn go_on(&self, stream: Option<&str>, chunk: Chunk) -> Result<(), String> {
        let request = PutChunkRequest { chunk, stream_id: stream.map(str::to_owned), cancel_and_remove: false };
        self.raw("PutChunk", &request).await.map(|result| assert!(result.is_empty()))
    }

    async fn get(&self, object: &str, start: Option<u64>, end: Option<u64>) -> GetObjectResponse {
        let request =
            GetObjectRequest { object_id: object.into(), container_id: "c".into(), range_start: start, range_end: end };
        self.call("GetObject", &request).await.expect("an answer")
    }

    async fn exists(&self, object: &str) -> bool {
        self.call("ObjectExists", &ContainerObject { container_id: "c".into(), object_id: object.into() })
            .await
            .unwrap()
    }

    async fn next_chunk(&mut self) -> Chunk {
        tokio::time::timeout(PATIENCE, self.chunks.recv()).await.expect("a chunk").expect("the actor is there")
    }

    /// The directory of the actor.
    fn home(&self) -> PathBuf {
        self.dir.path().join("blobs/default").join(ECHO)
    }
}

fn chunk(container: &str, object: &str, bytes: &[u8], offset: u64, is_last: bool) -> Chunk {
    Chunk { object_id: object.into(), container_id: container.into(), bytes: bytes.to_vec(), offset, is_last }
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
    assert!(store.call::<ContainerMetadata>("GetContainerInfo", &"none").await.unwrap_err().contains("none"));
    let containers: Vec<ContainerMetadata> =
        deserialize(&builtin::call(&store.link, &SPEC, "Blobstore.ListContainers", Vec::new()).await.unwrap()).unwrap();
    assert_eq!(containers.iter().map(|c| c.container_id.as_str()).collect::<Vec<_>>(), ["b", "c"]);

    // In one chunk: there and back, whole and in part.
    assert_eq!(store.put("c", "o", b"0123456789").await, Ok(PutObjectResponse { stream_id: None }));
    let whole = store.get("o", None, None).await;
    assert_eq!(whole.initial_chunk, Some(chunk("c", "o", b"0123456789", 0, true)));
    assert_eq!((whole.success, whole.content_length, whole.content_type.as_deref()), (true, 10, Some("text/plain")));
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
    assert!(!absent.success && absent.content_length == 0 && absent.error.unwrap().contains("absent"));
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
    assert_eq!(store.get("empty", None, None).await.initial_chunk, Some(chunk("c", "empty", b"", 0, true)));
    store.put("c", "f/a b/ü", b"deep").await.unwrap();
    assert_eq!(store.get("f/a b/ü", None, None).await.initial_chunk.unwrap().bytes, b"deep");

    // Lists, in pages.
    let list = |start: Option<&str>, continuation: Option<String>, max: Option<u32>| ListObjectsRequest {
        container_id: "c".into(),
        start_with: start.map(str::to_owned),
        continuation,
        max_items: max,
        ..Default::default()
    };
    let names = |page: &ListObjectsResponse| {
        page.objects.iter().map(|object| object.object_id.clone()).collect::<Vec<_>>().join(" ")
    };
    let first: ListObjectsResponse = store.call("ListObjects", &list(None, None, Some(2))).await.unwrap();
    assert_eq!((names(&first).as_str(), first.is_last), ("empty f/a b/ü", false));
    assert!(first.continuation.is_some());
    let rest: ListObjectsResponse = store.call("ListObjects", &list(None, first.continuation, Some(2))).await.unwrap();
    assert_eq!((names(&rest).as_str(), rest.is_last, rest.continuation.clone()), ("o", true, None));
    assert_eq!((rest.objects[0].content_length, rest.objects[0].container_id.as_str()), (3, "c"));
    let folder: ListObjectsResponse = store.call("ListObjects", &list(Some("f/"), None, None)).await.unwrap();
    assert_eq!(names(&folder), "f/a b/ü");
    assert!(store.call::<ListObjectsResponse>("ListObjects", &list(None, Some("?".into()), None)).await.is_err());

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
    assert!(!store.exists("o").await && !store.exists("f/a b/ü").await && store.exists("empty").await);
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
        // Who has one upload of an object open need not repeat its id.
        store.go_on(Some(stream.as_str()).filter(|_| at % 2 == 0), part).await.unwrap();
    }
    println!("up, {values:?}: {:?}", begun.elapsed());
    let error = store.go_on(Some(&stream), chunk("c", "large", b"", 0, true)).await.unwrap_err();
    assert!(error.contains(&stream), "{error}");

    let begun = Instant::now();
    let response = store.get("large", None, None).await;
    assert_eq!((response.content_length, response.content_encoding.as_deref()), (content.len() as u64, Some("gzip")));
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
    let late =
        PutObjectRequest { chunk: chunk("c", "late", b"x", 7, true), content_type: None, content_encoding: None };
    assert!(store.raw("PutObject", &late).await.unwrap_err().contains("offset 7"));

    // An upload that the end of the link cuts leaves nothing.
    store.begin("c", "cut", &content[..600_000]).await;
    Arc::clone(&store.link).end(Instant::now() + Duration::from_secs(10)).await;
    assert!(store.raw("ContainerExists", &"c").await.unwrap_err().contains("ended"));
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
    use futures::TryStreamExt;
    let pieces: Vec<(String, usize)> = subjects.try_collect().await.unwrap();
    assert_eq!(pieces.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [41], "{pieces:?}");

    // Another host sees the same objects; and a small cut upload, whose process died, is not seen.
    let other = Store::new(&server, &[("backend", "nats")]).await;
    assert!(other.exists("large").await);
    let values = Values::read(&SPEC, &builtin::link(&SPEC, &[])).unwrap();
    let placement = Placement::read(&values, Some("core")).unwrap();
    let backend = Nats::open(&context.nats, format!("BLOBS_default_{ECHO}"), &placement).await.unwrap();
    let mut upload = backend.upload("c".into(), "died".into(), ContentInfo::default()).await.unwrap();
    upload.write(vec![0; 300_000].into()).await.unwrap();
    drop(upload);
    assert!(!other.exists("died").await);
    // Old pieces that nothing names are swept, young ones may still become an object.
    let forgotten = format!("$O.BLOBS_default_{ECHO}.C.0000000001-{}", "0".repeat(32));
    js.publish(forgotten, "x".into()).await.unwrap().await.unwrap();
    backend.sweep().await.unwrap();
    let subjects = stream.info_with_subjects("$O.*.C.>").await.unwrap();
    let mut counts: Vec<usize> = subjects.map_ok(|(_, count)| count).try_collect().await.unwrap();
    counts.sort_unstable();
    assert_eq!(counts, [2, 41]);
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
        assert!(store.put("c", object, b"x").await.unwrap_err().contains("cannot be used"), "{object:?}");
        let request = GetObjectRequest { object_id: object.into(), container_id: "c".into(), ..Default::default() };
        assert!(store.raw("GetObject", &request).await.is_err(), "{object:?}");
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(outside.path(), store.home().join("c/link")).unwrap();
        std::os::unix::fs::symlink(outside.path(), store.home().join("linked")).unwrap();
        for (container, object) in [("c", "link/secret"), ("c", "link"), ("linked", "secret")] {
            let request =
                GetObjectRequest { object_id: object.into(), container_id: container.into(), ..Default::default() };
            let error = store.raw("GetObject", &request).await.unwrap_err();
            assert!(error.contains("symbolic link"), "{error}");
            assert!(store.put(container, object, b"x").await.unwrap_err().contains("symbolic link"));
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
    assert_eq!(fs::read(root.path().join(ECHO).join("c/a/b")).unwrap(), b"x", "as the provider of old lays them out");
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
    let request = PutObjectRequest { chunk: chunk_of("more"), content_type: None, content_encoding: None };
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
    let Err(LinkError::Unavailable(text)) = Store::try_new(&server, &[("root", &root)]).await.map(|_| ()) else {
        panic!("no directory can be made below a file")
    };
    assert!(text.contains(&root) && text.contains("link value root"), "{text}");
}

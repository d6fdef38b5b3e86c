//! Files of one machine that hosts of other machines run: sent through the lattice's object store.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use async_nats::jetstream;
use bytes::Bytes;
use futures::TryStreamExt as _;
use lattice_base::{
    budget::Budget,
    lattice::connection::{Purpose, connect_once},
    registry::uploads::{Problem, reference},
    store::{
        artifacts::{About, Artifacts, Put},
        jetstream::making::Making,
    },
};
use lattice_client::{
    lattice::Lattice,
    upload::{Artifact, Readers, Sender, prepare},
};
use lattice_protocol::control::request::AuctionActor;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    connections::anonymous,
    harness::{
        ECHO, Events, PINGER, Server, TestHost,
        client::{self, Caller, answering, ctl_2024, http_request},
        eventually, example, host,
        process::{command_in, output, stderr},
        text,
    },
    leaf_cut::Site,
};

/// The bucket of a lattice.
fn bucket(server: &Server) -> String {
    format!("ARTIFACTS_{}", server.lattice())
}

/// A client beside a server, without settings: what hosts say decides.
pub(crate) async fn sender(server: &Server) -> Sender {
    let nats = connect_once(Purpose::Control, &anonymous(server), "test").await.expect("connected");
    let subjects = server.subjects();
    let lattice = Lattice::new(nats.client.clone(), subjects, Duration::from_secs(2), None);
    Sender { lattice, nats, making: making() }
}

fn making() -> Making {
    Making::of_artifacts(1, None)
}

fn path(name: &str) -> PathBuf {
    example(name).trim_start_matches("file://").into()
}

async fn artifact(name: &str) -> Artifact {
    type Sign = fn(&[u8]) -> anyhow::Result<Vec<u8>>;
    let unsigned = None::<Sign>;
    prepare(&path(name), unsigned).await.expect("the example is signed")
}

async fn store(server: &Server, domain: Option<&str>) -> Artifacts {
    Artifacts::new(sender(server).await.nats, domain, server.lattice(), making(), Budget::default())
}

/// A host of earlier years: it answers a ping without saying whom it hears, and bids for whatever
/// it is asked, at once.
async fn host_of_2022(server: &Server) -> (String, AbortOnDropHandle<()>) {
    let id = "NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF".to_owned();
    let own = id.clone();
    let everything = server.ctl(">");
    let answers = answering(server, &everything, move |tail, _| match tail {
        "ping.hosts" => {
            Some(json!({ "id": own, "friendly_name": "old-oak-1", "version": "0.63.1" }))
        }
        "auction.actor" => Some(json!({ "host_id": own })),
        _ => None,
    });
    (id, answers.await)
}

/// Starts an upload on a host, and waits until it runs or failed.
async fn start(server: &Server, host: &TestHost, reference: &str) -> Result<Value, String> {
    let mut events = Events::all(server).await;
    let ack =
        ctl_2024(server).await.scale_actor(&host.id, reference, 1, None).await.expect("an ack");
    assert!(ack.accepted, "{}", ack.error);
    loop {
        let event = events.any().await;
        match event["type"].as_str().unwrap_or_default() {
            "com.wasmcloud.lattice.actors_started" => return Ok(event),
            "com.wasmcloud.lattice.actor_scale_failed" => {
                return Err(text(&event, "/data/error").to_owned());
            }
            _ => {}
        }
    }
}

async fn stop(server: &Server, host: &TestHost, reference: &str) {
    let mut events = Events::all(server).await;
    ctl_2024(server).await.scale_actor(&host.id, reference, 0, None).await.expect("an ack");
    events.next("actors_stopped").await;
}

async fn answers(server: &Server, actor: &str) -> bool {
    let request = http_request("GET", "/", b"");
    Caller::new(server).await.call(actor, "HttpServer.HandleRequest", request).await.is_ok()
}

/// How many pieces the bucket of a domain has.
async fn pieces(server: &Server, domain: &str) -> usize {
    let context = jetstream::with_domain(client::nats(server).await, domain);
    let bucket = bucket(server);
    let stream = context.get_stream(format!("OBJ_{bucket}")).await.expect("the bucket");
    let subjects = stream.info_with_subjects(format!("$O.{bucket}.C.>")).await.unwrap();
    let counts: Vec<(String, usize)> = subjects.try_collect().await.unwrap();
    counts.into_iter().map(|(_, count)| count).sum()
}

#[tokio::test]
async fn an_actor_sent_from_a_file_starts_on_a_host_that_never_saw_it_and_may_not_load_files() {
    let server = Server::shared().await;
    let (old, _answers) = host_of_2022(&server).await;
    let host = host(&server).own_cache().set("enable_start_from_fs", "false").start().await;
    let (sender, artifact) = (sender(&server).await, artifact("echo").await);
    let readers = Readers::find(&sender.lattice).await.unwrap();
    assert_eq!(readers.domain(), Some("core"), "as the host says");
    assert!(readers.require(&old).unwrap_err().to_string().contains("earlier years"));

    let mut told = Vec::new();
    let uploaded =
        sender.send(&readers, &artifact, |bytes, of| told.push((bytes, of))).await.unwrap();
    let size = artifact.content.len() as u64;
    assert_eq!((uploaded.put, uploaded.bytes), (Put::Sent, size));
    assert!(told.is_sorted() && told.last() == Some(&(size, size)), "{told:?}");

    let wait = Duration::from_secs(5);
    let lattice = &sender.lattice;
    let auction =
        AuctionActor { actor_ref: uploaded.reference.clone(), constraints: Default::default() };
    let any = lattice.first_bid(&auction, wait, |_| true).await.unwrap();
    assert!([&old, &host.id].contains(&any.as_ref().expect("an offer")), "the old host offers too");
    let bid = lattice.first_bid(&auction, wait, |host| readers.has(host)).await.unwrap();
    assert_eq!(bid.as_ref(), Some(&host.id));
    let started = start(&server, &host, &uploaded.reference).await.unwrap();
    assert_eq!(text(&started, "/data/image_ref"), uploaded.reference);
    assert_eq!(text(&started, "/data/public_key"), ECHO);
    assert!(answers(&server, ECHO).await);
    host.stop().await;
}

#[tokio::test]
async fn the_same_file_is_sent_once_and_any_nats_client_reads_it() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let (sender, artifact) = (sender(&server).await, artifact("pinger").await);
    let readers = Readers::find(&sender.lattice).await.unwrap();
    assert_eq!(sender.send(&readers, &artifact, |_, _| {}).await.unwrap().put, Put::Sent);
    let before = pieces(&server, "core").await;
    let (one, other) = tokio::join!(
        sender.send(&readers, &artifact, |_, _| panic!("nothing is sent")),
        sender.send(&readers, &artifact, |_, _| panic!("nothing is sent"))
    );
    assert_eq!((one.unwrap().put, other.unwrap().put), (Put::AlreadyThere, Put::AlreadyThere));
    assert_eq!(pieces(&server, "core").await, before);

    let nats = async_nats_2024::connect(server.url()).await.unwrap();
    let objects = async_nats_2024::jetstream::with_domain(nats, "core")
        .get_object_store(bucket(&server))
        .await
        .unwrap();
    let names: Vec<_> =
        objects.list().await.unwrap().map_ok(|info| info.name).try_collect().await.unwrap();
    let name = format!("sha256-{}", artifact.digest.hex());
    assert_eq!(names, std::slice::from_ref(&name));
    let mut content = Vec::new();
    objects.get(&name).await.unwrap().read_to_end(&mut content).await.unwrap();
    assert_eq!(content, artifact.content);

    let dir = tempfile::TempDir::new().unwrap();
    let inspected = output(
        command_in(dir.path(), &server).args(["inspect", &reference(&artifact.digest)]).args([
            "--nats-host",
            &server.url(),
            "-o",
            "json",
        ]),
    );
    let told: Value = serde_json::from_slice(&inspected.stdout)
        .unwrap_or_else(|_| panic!("{}", stderr(&inspected)));
    assert_eq!(told["public_key"], PINGER);
    host.stop().await;
}

#[tokio::test]
async fn two_clients_may_send_the_same_at_the_same_time() {
    let server = Server::shared().await;
    let (one, other) = (store(&server, Some("core")).await, store(&server, Some("core")).await);
    let content = Bytes::from(vec![7; 3_000_000]);
    let about = About { kind: "actor".into(), public_key: "M".into(), ..About::default() };
    let (first, second) =
        tokio::join!(one.put(&content, &about, |_, _| {}), other.put(&content, &about, |_, _| {}));
    assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
    let stored = one.list().await.unwrap();
    assert_eq!((stored.len(), stored[0].bytes), (1, 3_000_000));
    assert_eq!(one.get(&stored[0].digest).await.unwrap(), content);
    assert_eq!(pieces(&server, "core").await, 23, "of one of them");
}

#[tokio::test]
async fn a_damaged_upload_is_refused_and_may_be_sent_again() {
    let server = Server::shared().await;
    let host = host(&server).own_cache().start().await;
    let (sender, artifact) = (sender(&server).await, artifact("echo").await);
    let readers = Readers::find(&sender.lattice).await.unwrap();
    let uploaded = sender.send(&readers, &artifact, |_, _| {}).await.unwrap();
    let context = jetstream::with_domain(client::nats(&server).await, "core");
    let stream = context.get_stream(format!("OBJ_{}", bucket(&server))).await.unwrap();
    let nats = async_nats_2024::connect(server.url()).await.unwrap();
    let objects = async_nats_2024::jetstream::with_domain(nats, "core")
        .get_object_store(bucket(&server))
        .await
        .unwrap();
    let name = format!("sha256-{}", artifact.digest.hex());
    for damage in ["other bytes", "lost pieces"] {
        match damage {
            "other bytes" => {
                drop(objects.put(name.as_str(), &mut &b"something else"[..]).await.unwrap())
            }
            _ => drop(stream.purge().filter(format!("$O.{}.C.>", bucket(&server))).await.unwrap()),
        }
        let error = start(&server, &host, &uploaded.reference).await.unwrap_err();
        for part in [
            &uploaded.reference,
            &bucket(&server),
            "\"core\"",
            "not those that its name says",
            "host start actor",
        ] {
            assert!(error.contains(part), "{damage}: {part} in {error}");
        }
        assert_eq!(
            sender.send(&readers, &artifact, |_, _| {}).await.unwrap().put,
            Put::Sent,
            "{damage}"
        );
    }
    start(&server, &host, &uploaded.reference).await.unwrap();
    host.stop().await;
}

#[tokio::test]
async fn an_actor_that_ran_here_starts_again_while_the_store_is_away() {
    let server = Server::shared().await;
    let (host, fresh) =
        (host(&server).own_cache().start().await, host(&server).own_cache().start().await);
    let (sender, artifact) = (sender(&server).await, artifact("echo").await);
    let readers = Readers::find(&sender.lattice).await.unwrap();
    let reference = sender.send(&readers, &artifact, |_, _| {}).await.unwrap().reference;
    start(&server, &host, &reference).await.unwrap();
    stop(&server, &host, &reference).await;
    let context = jetstream::with_domain(client::nats(&server).await, "core");
    context.delete_stream(format!("OBJ_{}", bucket(&server))).await.unwrap();
    start(&server, &host, &reference).await.unwrap();
    let error = start(&server, &fresh, &reference).await.unwrap_err();
    for part in [&reference, &*bucket(&server), "is not there", "send it again", "js_domain"] {
        assert!(error.contains(part), "{part} in {error}");
    }
    host.stop().await;
    fresh.stop().await;
}

#[tokio::test]
async fn what_stands_in_the_way_of_an_upload_is_named() {
    let content = Bytes::from_static(b"anything");
    let refused = async |server: &Server, domain: Option<&str>| {
        let error = store(server, domain)
            .await
            .put(&content, &About::default(), |_, _| {})
            .await
            .unwrap_err();
        assert!(matches!(error.problem, Problem::Unreachable(_)), "{error}");
        error.to_string()
    };
    let server = Server::with_config(None, "").await;
    let error = refused(&server, None).await;
    assert!(
        error.contains(&bucket(&server)) && error.contains("JetStream is switched off"),
        "{error}"
    );
    let server = Server::shared().await;
    let error = refused(&server, Some("other")).await;
    assert!(error.contains("\"other\"") && error.contains("\"core\""), "{error}");
    let server = Server::with_config(
        Some("core"),
        r#"jetstream { domain: core, store_dir: "@DIR@/js" }
           authorization { users = [{ user: u, password: p, permissions: {
             publish: { deny: ["$O.>"] } } }] }
           no_auth_user: u"#,
    )
    .await;
    let error = refused(&server, Some("core")).await;
    assert!(error.contains("$O.") && error.contains("may not write there"), "{error}");
}

#[tokio::test]
async fn uploads_go_where_hosts_look_for_them_across_leaf_nodes() {
    let site = Site::start().await;
    let (first, second) = (
        host(&site.core).own_cache().start().await,
        host(&site.extender).own_cache().start().await,
    );
    let others = || async { (first.other_hosts().len() == 1).then_some(()) };
    eventually("the hosts hear each other", others).await;
    // A bucket of the same name in the extender's own domain hears what is published, too.
    let trap = Bytes::from_static(b"sent with a wrong domain");
    store(&site.extender, Some("extender"))
        .await
        .put(&trap, &About::default(), |_, _| {})
        .await
        .unwrap();

    let (sender, artifact) = (sender(&site.extender).await, artifact("echo").await);
    let readers = Readers::find(&sender.lattice).await.unwrap();
    assert_eq!((readers.domain(), readers.hosts().len()), (Some("core"), 2));
    let reference = sender.send(&readers, &artifact, |_, _| {}).await.unwrap().reference;
    for (server, host) in [(&site.extender, &second), (&site.core, &first)] {
        start(server, host, &reference).await.unwrap();
    }
    let content = store(&site.core, Some("core")).await.get(&artifact.digest).await.unwrap();
    assert_eq!(content, artifact.content);
    assert!(answers(&site.core, ECHO).await);
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn an_upload_that_was_sent_again_is_not_removed_by_who_saw_it_before() {
    let server = Server::shared().await;
    let store = store(&server, Some("core")).await;
    let about =
        About { kind: "actor".into(), public_key: "M".into(), name: "x".into(), revision: 1 };
    let contents = ["one", "two"].map(|text| Bytes::from_static(text.as_bytes()));
    for content in &contents {
        store.put(content, &about, |_, _| {}).await.unwrap();
    }
    let listed = store.list().await.unwrap();
    assert!(listed.iter().all(|stored| stored.about.as_ref() == Some(&about)), "{listed:?}");
    assert_eq!(store.put(&contents[0], &about, |_, _| {}).await.unwrap(), Put::AlreadyThere);
    assert_eq!(store.delete_unchanged(&listed.iter().collect::<Vec<_>>()).await.unwrap(), 1);
    let left = store.list().await.unwrap();
    let digests: BTreeSet<_> = left.iter().map(|stored| stored.digest.to_string()).collect();
    let first = lattice_base::registry::digest::Digest::of(&contents[0]);
    assert_eq!(digests, BTreeSet::from([first.to_string()]));
    assert!(store.has(&first).await.unwrap() && store.delete(&first).await.unwrap());
    assert!(!store.has(&first).await.unwrap() && !store.delete(&first).await.unwrap());
    assert_eq!(store.get(&first).await.unwrap_err().problem, Problem::Missing);
    assert_eq!(pieces(&server, "core").await, 0);
}

//! The NATS permissions of SECURITY.md are those that work: each user can do its work, and
//! nothing beyond.

use std::{
    fs,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use async_nats::ConnectOptions;
use futures::{FutureExt as _, StreamExt as _};
use lattice_protocol::identity::keys::HostId;
use serde_json::{Value, json};

use crate::{
    commands::User,
    harness::{
        CLUSTER_SEED, ECHO, PATIENCE, PROVIDER, Server, TestHost,
        client::{ProviderRpc, call_as_provider, http_request, settled},
        eventually, example, host,
        process::stderr,
    },
};

/// The block of SECURITY.md that a reader pastes.
fn users() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("SECURITY.md");
    let text = fs::read_to_string(path).expect("SECURITY.md");
    let block = text.split("```text\n").nth(1).expect("a block of text");
    block.split("```").next().expect("the end of the block").to_owned()
}

/// A server with the users of SECURITY.md, and a host of it that runs echo.
async fn lattice() -> (Server, TestHost) {
    let config = format!("jetstream {{ domain: core, store_dir: \"@DIR@/js\" }}\n{}", users());
    let server = Server::with_config(Some("core"), &config).await;
    let host =
        host(&server).set("nats_user", "host").set("nats_password", "change-me-1").start().await;
    (server, host)
}

async fn connected(server: &Server, user: &str, number: u8) -> async_nats::Client {
    let options =
        ConnectOptions::with_user_and_password(user.into(), format!("change-me-{number}"));
    options.connect(server.url()).await.expect("connected")
}

/// Waits until the server has taken what was sent before, by a question that each of these users
/// may ask.
async fn taken(nats: &async_nats::Client) {
    nats.request("wasmbus.ctl.default.ping.hosts", "".into()).await.expect("a host answers");
}

/// Returns the next message, which has to come.
async fn next(heard: &mut async_nats::Subscriber) -> async_nats::Message {
    tokio::time::timeout(PATIENCE, heard.next()).await.expect("in time").expect("a message")
}

/// Says that nobody asked the host to stop, after it has taken a later command.
async fn goes_on(host: &mut TestHost, operator: &wasmcloud_control_interface_2024::Client) {
    assert!(operator.scale_actor(&host.id, &example("echo"), 1, None).await.unwrap().accepted);
    assert!(host.stop_requested().now_or_never().is_none(), "the host was asked to stop");
}

/// The client crate of early 2024, as a user.
async fn control(
    server: &Server,
    user: &str,
    number: u8,
) -> wasmcloud_control_interface_2024::Client {
    let password = format!("change-me-{number}");
    let options = async_nats_2024::ConnectOptions::with_user_and_password(user.into(), password);
    let nats = options.connect(server.url()).await.expect("connected");
    wasmcloud_control_interface_2024::ClientBuilder::new(nats)
        .timeout(Duration::from_secs(2))
        .auction_timeout(Duration::from_millis(300))
        .build()
}

#[tokio::test]
async fn operators_and_wash_operate_with_the_permissions_they_are_given() {
    let (server, host) = lattice().await;
    for (user, number) in [("operator", 2), ("wash", 3)] {
        let ctl = control(&server, user, number).await;
        assert_eq!(ctl.get_hosts().await.unwrap().len(), 1, "{user}");
        let nats = connected(&server, user, number).await;
        let mut events = nats.subscribe("wasmbus.evt.default").await.unwrap();
        taken(&nats).await;
        assert!(ctl.scale_actor(&host.id, &example("echo"), 1, None).await.unwrap().accepted);
        let is_started =
            |event: &Value| event["type"].as_str().unwrap().ends_with("actors_started");
        let started = async {
            loop {
                let event = events.next().await.expect("events");
                if is_started(&serde_json::from_slice(&event.payload).unwrap()) {
                    break;
                }
            }
        };
        tokio::time::timeout(PATIENCE, started).await.expect("echo starts");
        assert!(ctl.scale_actor(&host.id, &example("echo"), 0, None).await.unwrap().accepted);
        eventually("echo is gone", || async {
            ctl.get_host_inventory(&host.id).await.unwrap().actors.is_empty().then_some(())
        })
        .await;
    }
    host.stop().await;
}

#[tokio::test]
async fn our_own_commands_need_no_more_than_these_permissions() {
    let (server, host) = lattice().await;
    let desk = User::of(&server);
    let run = async |user: &str, number: u8, words: &[&str]| -> Output {
        let mut command = desk.command(words);
        for connection in ["CTL", "RPC"] {
            command.env(format!("WASMCLOUD_{connection}_USER"), user);
            command.env(format!("WASMCLOUD_{connection}_PASSWORD"), format!("change-me-{number}"));
        }
        let command = tokio::process::Command::from(command).stdin(Stdio::null()).output();
        command.await.expect("host runs")
    };
    let echo = example("echo");
    for (user, number) in [("operator", 2), ("wash", 3)] {
        for words in [&["start", "actor", echo.as_str()][..], &["stop", "actor", ECHO]] {
            let done = run(user, number, words).await;
            assert!(done.status.success(), "{user}, {words:?}: {}", stderr(&done));
        }
        let looked = run(user, number, &["doctor", "--check", "server"]).await;
        let found = String::from_utf8_lossy(&looked.stdout);
        assert!(looked.status.success() && found.contains("away and back"), "{user}: {found}");
    }
    assert!(run("operator", 2, &["events"]).await.status.success());
    let told = stderr(&run("observer", 4, &["events"]).await);
    assert!(
        told.contains(".STREAM.INFO.LATTICEHISTORY_default") && told.contains("operators"),
        "{told}"
    );
    host.stop().await;
}

#[tokio::test]
async fn an_observer_sees_everything_and_changes_nothing() {
    let (server, mut host) = lattice().await;
    let ctl = control(&server, "observer", 4).await;
    assert_eq!(ctl.get_hosts().await.unwrap().len(), 1);
    assert!(ctl.get_host_inventory(&host.id).await.is_ok());
    let nats = connected(&server, "observer", 4).await;
    let stop = format!("wasmbus.ctl.default.cmd.{}.stop", HostId::parse(&host.id).unwrap());
    // By itself, and in the name of the host.
    nats.publish(stop.clone(), "{}".into()).await.unwrap();
    nats.publish_with_reply("wasmbus.ctl.default.ping.hosts", stop, "".into()).await.unwrap();
    taken(&nats).await;
    assert!(ctl.put_config("x", "k", "v").await.is_err());
    assert!(ctl.scale_actor(&host.id, &example("echo"), 1, None).await.is_err());
    let operator = control(&server, "operator", 2).await;
    let inventory = operator.get_host_inventory(&host.id).await.expect("the host goes on");
    assert!(inventory.actors.is_empty());
    goes_on(&mut host, &operator).await;
    host.stop().await;
}

#[tokio::test]
async fn a_provider_calls_actors_and_commands_nobody() {
    let (server, mut host) = lattice().await;
    let operator = control(&server, "operator", 2).await;
    assert!(operator.scale_actor(&host.id, &example("echo"), 1, None).await.unwrap().accepted);
    let contract = "wasmcloud:httpserver";
    let link = operator.advertise_link(ECHO, PROVIDER, contract, "default", Default::default());
    assert!(link.await.unwrap().accepted);
    let rpc = {
        let options = wasmbus_rpc::async_nats::ConnectOptions::with_user_and_password(
            "provider".into(),
            "change-me-5".into(),
        );
        let nats = options.connect(server.url()).await.expect("connected");
        let key = wasmbus_rpc::wascap::prelude::KeyPair::from_seed(CLUSTER_SEED).unwrap();
        let client = wasmbus_rpc::rpc_client::RpcClient::new(
            nats,
            "NwashHostCallerId000000000000000000000000000000000000000".into(),
            Some(Duration::from_secs(5)),
            std::sync::Arc::new(key),
        );
        ProviderRpc { client, lattice: server.lattice().to_owned() }
    };
    eventually("echo answers", || async {
        let request = http_request("GET", "/", b"");
        call_as_provider(&rpc, ECHO, "HttpServer.HandleRequest", request).await.ok()
    })
    .await;
    // Large payloads go through the object store of the lattice, which a provider makes if need be.
    let options = async_nats_2024::ConnectOptions::with_user_and_password(
        "provider".into(),
        "change-me-5".into(),
    );
    let context =
        async_nats_2024::jetstream::new(options.connect(server.url()).await.expect("connected"));
    let bucket = async_nats_2024::jetstream::object_store::Config {
        bucket: "default".into(),
        ..Default::default()
    };
    let store = context.create_object_store(bucket).await.expect("a store");
    store.put("a-call", &mut vec![7; 2 << 20].as_slice()).await.expect("it is stored");
    let nats = connected(&server, "provider", 5).await;
    let owner = connected(&server, "host", 1).await;
    let stop = format!("wasmbus.ctl.default.cmd.{}.stop", host.id);
    let mut heard = owner.subscribe(stop.clone()).await.unwrap();
    settled(&owner).await;
    nats.publish(stop.clone(), "{}".into()).await.unwrap();
    nats.publish("wasmbus.rpc.default.hosts", "{}".into()).await.unwrap();
    nats.publish("$JS.API.STREAM.PURGE.KV_LATTICEDATA_default", "".into()).await.unwrap();
    // JetStream acknowledges what it stores, to any subject.
    nats.publish_with_reply("$O.default.C.x", stop, "{}".into()).await.unwrap();
    let acknowledged = next(&mut heard).await;
    assert!(acknowledged.payload.starts_with(b"{\"stream\""), "{acknowledged:?}");
    goes_on(&mut host, &operator).await;
    let links = async_nats::jetstream::new(owner).get_stream("KV_LATTICEDATA_default").await;
    assert_ne!(links.unwrap().cached_info().state.messages, 0, "the links are there");
    host.stop().await;
}

#[tokio::test]
async fn an_answer_of_jetstream_commands_nobody() {
    let (server, mut host) = lattice().await;
    let operator = control(&server, "operator", 2).await;
    let owner = connected(&server, "host", 1).await;
    let nats = connected(&server, "operator", 2).await;
    let (stop, hosts) = (
        format!("wasmbus.ctl.default.cmd.{}.stop", host.id),
        "wasmbus.rpc.default.hosts".to_owned(),
    );
    let mut commands = owner.subscribe(stop.clone()).await.unwrap();
    let mut words = owner.subscribe(hosts.clone()).await.unwrap();
    settled(&owner).await;
    let bucket = async_nats::jetstream::stream::Config {
        name: "OBJ_default".to_owned(),
        subjects: vec!["$O.default.C.>".to_owned()],
        allow_direct: true,
        ..Default::default()
    };
    async_nats::jetstream::new(nats.clone()).create_stream(bucket).await.expect("a bucket");

    let snapshot = json!({ "deliver_subject": stop }).to_string();
    for (subject, question) in [
        ("$O.default.C.x", "{}"),
        ("$JS.API.DIRECT.GET.OBJ_default", r#"{"last_by_subj":"$O.default.C.x"}"#),
        ("$JS.API.DIRECT.GET.OBJ_default", r#"{"seq":99}"#),
        ("$JS.API.STREAM.INFO.OBJ_default", ""),
        ("$JS.API.STREAM.SNAPSHOT.OBJ_default", snapshot.as_str()),
    ] {
        let question = question.to_owned().into();
        nats.publish_with_reply(subject, stop.clone(), question).await.unwrap();
        next(&mut commands).await;
    }
    // The end of the snapshot has no mark at all.
    while !next(&mut commands).await.payload.is_empty() {}
    goes_on(&mut host, &operator).await;

    // Nor does it invent a host.
    let stranger = "NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF";
    let word = json!({ "host": stranger, "life": 1, "roster": 0, "hello": true }).to_string();
    nats.request("$O.default.C.y", word.clone().into()).await.expect("it is stored");
    let question = r#"{"last_by_subj":"$O.default.C.y"}"#.into();
    nats.publish_with_reply("$JS.API.DIRECT.GET.OBJ_default", hosts.clone(), question)
        .await
        .unwrap();
    while next(&mut words).await.payload != word {}
    // It is heard before this question, which is answered.
    nats.request(format!("wasmbus.rpc.default.{}", host.id), "roster".into()).await.unwrap();
    assert!(host.other_hosts().is_empty(), "{:?}", host.other_hosts());
    owner.publish(hosts, word.into()).await.unwrap();
    eventually("a host that signs nothing is believed", || async {
        (!host.other_hosts().is_empty()).then_some(())
    })
    .await;
    host.stop().await;
}

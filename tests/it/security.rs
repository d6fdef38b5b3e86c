//! The NATS permissions of SECURITY.md are those that work: each user can do its work, and
//! nothing beyond.

use std::{fs, path::Path, time::Duration};

use async_nats::ConnectOptions;
use futures::StreamExt as _;
use lattice_protocol::identity::keys::HostId;
use serde_json::Value;

use crate::harness::{
    CLUSTER_SEED, ECHO, PROVIDER, Server, TestHost,
    client::{ProviderRpc, call_as_provider, http_request},
    eventually, example, host,
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
        tokio::time::timeout(crate::harness::PATIENCE, started).await.expect("echo starts");
        assert!(ctl.scale_actor(&host.id, &example("echo"), 0, None).await.unwrap().accepted);
        eventually("echo is gone", || async {
            ctl.get_host_inventory(&host.id).await.unwrap().actors.is_empty().then_some(())
        })
        .await;
    }
    host.stop().await;
}

#[tokio::test]
async fn an_observer_sees_everything_and_changes_nothing() {
    let (server, host) = lattice().await;
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
    host.stop().await;
}

#[tokio::test]
async fn a_provider_calls_actors_and_commands_nobody() {
    let (server, host) = lattice().await;
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
    nats.publish(format!("wasmbus.ctl.default.cmd.{}.stop", host.id), "{}".into()).await.unwrap();
    nats.publish("wasmbus.rpc.default.hosts", "{}".into()).await.unwrap();
    crate::harness::client::settled(&nats).await;
    assert!(operator.get_host_inventory(&host.id).await.is_ok(), "the host goes on");
    host.stop().await;
}

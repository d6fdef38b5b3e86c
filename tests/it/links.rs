//! Link definitions and claims: in the bucket, on the way to providers, and in the eyes of a host
//! that comes late.

use std::collections::HashMap;

use futures::StreamExt;
use serde_json::{Value, json};

use crate::harness::{
    ECHO, Events, KVCOUNTER, PROVIDER, Server,
    client::{self, ctl_2024, start},
    eventually, example, host, text,
};

async fn bucket(server: &Server) -> async_nats::jetstream::kv::Store {
    let context = async_nats::jetstream::with_domain(client::nats(server).await, "core");
    context.get_key_value(format!("LATTICEDATA_{}", server.lattice())).await.expect("the bucket")
}

#[tokio::test]
async fn the_bucket_is_made_as_all_hosts_make_it() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let context = async_nats::jetstream::with_domain(client::nats(&server).await, "core");
    let stream = context.get_stream(format!("KV_LATTICEDATA_{}", server.lattice())).await.unwrap();
    let config = &stream.cached_info().config;
    assert_eq!(config.subjects, [format!("$KV.LATTICEDATA_{}.>", server.lattice())]);
    assert_eq!((config.max_messages_per_subject, config.num_replicas), (1, 1));
    assert!(config.allow_rollup && config.deny_delete && !config.deny_purge && config.allow_direct);
    assert_eq!(stream.get_info().await.unwrap().state.consumer_count, 1);
    host.stop().await;
    eventually("the consumer goes with the host", || async {
        (stream.get_info().await.ok()?.state.consumer_count == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn claims_and_references_are_written_when_an_actor_starts() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("kvcounter"), 1).await;
    let bucket = bucket(&server).await;
    let claims: Value =
        serde_json::from_slice(&bucket.get(format!("CLAIMS_{KVCOUNTER}")).await.unwrap().unwrap())
            .unwrap();
    assert_eq!(claims["caps"], "wasmcloud:httpserver,wasmcloud:keyvalue");
    assert!(claims.as_object().unwrap().values().all(Value::is_string), "{claims}");
    let key = lattice_protocol::store::keys::reference(&example("kvcounter"));
    let reference: Value =
        serde_json::from_slice(&bucket.get(key).await.unwrap().unwrap()).unwrap();
    assert_eq!(reference, json!({"oci_url": example("kvcounter"), "public_key": KVCOUNTER}));
    host.stop().await;
}

#[tokio::test]
async fn a_link_goes_to_its_provider_with_the_ids_all_peers_compute() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let nats = client::nats(&server).await;
    let mut wire =
        nats.subscribe(server.rpc(format_args!("{PROVIDER}.default.linkdefs.*"))).await.unwrap();
    crate::harness::client::settled(&nats).await;
    let ctl = ctl_2024(&server).await;
    let values = |port: &str| HashMap::from([("PORT".to_owned(), port.to_owned())]);
    ctl.advertise_link(ECHO, PROVIDER, "wasmcloud:httpserver", "default", values("1"))
        .await
        .unwrap();
    let put = wire.next().await.unwrap();
    assert!(put.subject.ends_with("linkdefs.put"));
    // The real type of provider authors reads it.
    let link: wasmbus_rpc::core::LinkDefinition =
        wasmbus_rpc::common::deserialize(&put.payload).unwrap();
    assert_eq!((link.actor_id.as_str(), link.values["PORT"].as_str()), (ECHO, "1"));

    let id = lattice_protocol::store::keys::link_hash(ECHO, "wasmcloud:httpserver", "default");
    let stored: Value = serde_json::from_slice(
        &bucket(&server).await.get(format!("LINKDEF_{id}")).await.unwrap().unwrap(),
    )
    .unwrap();
    assert_eq!(stored["id"], id);

    // New values reach a provider only if the old link goes first.
    ctl.advertise_link(ECHO, PROVIDER, "wasmcloud:httpserver", "default", values("2"))
        .await
        .unwrap();
    assert!(wire.next().await.unwrap().subject.ends_with("linkdefs.del"));
    assert!(wire.next().await.unwrap().subject.ends_with("linkdefs.put"));
    assert_eq!(ctl.query_links().await.unwrap().len(), 1);

    ctl.remove_link(ECHO, "wasmcloud:httpserver", "default").await.unwrap();
    assert!(wire.next().await.unwrap().subject.ends_with("linkdefs.del"));
    let marker = bucket(&server).await.entry(format!("LINKDEF_{id}")).await.unwrap().unwrap();
    assert_eq!(marker.operation, async_nats::jetstream::kv::Operation::Delete);
    host.stop().await;
}

#[tokio::test]
async fn links_written_by_others_in_any_form_are_taken_over() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let bucket = bucket(&server).await;
    let mut events = Events::all(&server).await;
    let id = lattice_protocol::store::keys::link_hash(ECHO, "acme:thing", "default");
    let raw = format!(
        r#"{{"actor_id":"{ECHO}","provider_id":"{PROVIDER}","link_name":"default","contract_id":"acme:thing","values":null}}"#
    );
    bucket.put(format!("LINKDEF_{id}"), raw.into()).await.unwrap();
    assert_eq!(text(&events.next("linkdef_set").await, "/data/contract_id"), "acme:thing");
    // Older hosts delete by purging.
    bucket.purge(format!("LINKDEF_{id}")).await.unwrap();
    events.next("linkdef_deleted").await;

    // Nonsense, and claims in the form of 2024, harm nobody.
    bucket.put("LINKDEF_00", "{".into()).await.unwrap();
    bucket.put("OTHER_key", "x".into()).await.unwrap();
    let claims = json!({"subject": "MX", "issuer": "A", "name": "x", "capabilities": ["a"], "tags": [], "revision": "1", "version": "1", "call_alias": ""});
    bucket.put("CLAIMS_MX", claims.to_string().into()).await.unwrap();
    eventually("the claims show", || async {
        ctl_2024(&server)
            .await
            .get_claims()
            .await
            .ok()?
            .into_iter()
            .find(|claims| claims["sub"] == "MX" && claims["caps"] == "a")
    })
    .await;
    host.stop().await;
}

#[tokio::test]
async fn a_host_that_joins_late_knows_everything_when_it_is_ready() {
    let server = Server::shared().await;
    let first = host(&server).start().await;
    let bucket = bucket(&server).await;
    const LINKS: usize = 600;
    const CLAIMS: usize = 100;
    let puts = (0..LINKS).map(|n| {
        let contract = format!("acme:contract{n}");
        let id = lattice_protocol::store::keys::link_hash(ECHO, &contract, "default");
        let value = json!({"id": id, "actor_id": ECHO, "provider_id": PROVIDER, "link_name": "default", "contract_id": contract, "values": {}});
        let bucket = bucket.clone();
        async move { bucket.put(format!("LINKDEF_{id}"), value.to_string().into()).await.unwrap() }
    });
    futures::stream::iter(puts).buffer_unordered(64).collect::<Vec<_>>().await;
    for n in 0..CLAIMS {
        let claims = json!({"sub": format!("M{n}"), "iss": "A", "call_alias": format!("acme/{n}"), "caps": "", "tags": ""});
        bucket.put(format!("CLAIMS_M{n}"), claims.to_string().into()).await.unwrap();
    }
    first.stop().await;
    let nats = client::nats(&server).await;
    let mut delivered =
        nats.subscribe(server.rpc(format_args!("{PROVIDER}.default.linkdefs.put"))).await.unwrap();
    let mut events = Events::all(&server).await;
    crate::harness::client::settled(&nats).await;
    let ctl = ctl_2024(&server).await;
    let second = host(&server).start().await;
    // The first things it is asked.
    assert_eq!(ctl.query_links().await.unwrap().len(), LINKS);
    assert_eq!(ctl.get_claims().await.unwrap().len(), CLAIMS);
    for _ in 0..LINKS {
        delivered.next().await.expect("every link goes to its provider");
    }
    second.stop().await;
    assert!(
        !events.names_until("host_stopped").await.contains(&"linkdef_set".to_owned()),
        "a replay is no news"
    );
}

#[tokio::test]
async fn two_hosts_asked_at_once_agree() {
    let server = Server::shared().await;
    let (first, second) = (host(&server).start().await, host(&server).start().await);
    let ctl = ctl_2024(&server).await;
    let puts = (0..40).map(|n| {
        let values = HashMap::from([("N".to_owned(), n.to_string())]);
        ctl.advertise_link(ECHO, PROVIDER, "wasmcloud:httpserver", "default", values)
    });
    for ack in futures::future::join_all(puts).await {
        let ack = ack.unwrap();
        assert!(ack.accepted || ack.error.contains("changed by somebody else"), "{}", ack.error);
    }
    assert_eq!(ctl.query_links().await.unwrap().len(), 1);
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn the_metadata_of_a_2022_lattice_is_copied_and_left_in_place() {
    let server = Server::shared().await;
    let context = async_nats::jetstream::with_domain(client::nats(&server).await, "core");
    context
        .create_stream(async_nats::jetstream::stream::Config {
            name: format!("LATTICECACHE_{}", server.lattice()),
            subjects: vec![format!("lc.{}.>", server.lattice())],
            storage: async_nats::jetstream::stream::StorageType::Memory,
            max_messages_per_subject: 1,
            ..Default::default()
        })
        .await
        .unwrap();
    let link = |deleted: bool, contract: &str| json!({"id": "uuid", "actor_id": ECHO, "provider_id": PROVIDER, "link_name": "default", "contract_id": contract, "values": {"a": "b"}, "deleted": deleted});
    for (subject, body) in [
        ("linkdefs.one", link(false, "acme:kept")),
        ("linkdefs.two", link(true, "acme:gone")),
        ("claims.MX", json!({"sub": "MX", "iss": "A", "caps": "x", "call_alias": ""})),
    ] {
        let subject = format!("lc.{}.{subject}", server.lattice());
        context.publish(subject, body.to_string().into()).await.unwrap().await.unwrap();
    }
    let host = host(&server).start().await;
    let links = eventually("the link is copied", || async {
        ctl_2024(&server).await.query_links().await.ok().filter(|links| !links.is_empty())
    })
    .await;
    assert_eq!(
        links.iter().map(|link| link.contract_id.as_str()).collect::<Vec<_>>(),
        ["acme:kept"]
    );
    assert!(context.get_stream(format!("LATTICECACHE_{}", server.lattice())).await.is_ok());
    host.stop().await;
}

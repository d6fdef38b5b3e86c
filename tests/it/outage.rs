//! The server goes away and comes back: nothing is lost, nothing is stale, calls go on.

use std::{collections::HashMap, sync::atomic::Ordering};

use lattice_base::lattice::connection::confirm;

use crate::harness::{
    ECHO, PROVIDER, Server,
    client::{self, Caller, ctl_2024, http_request, start},
    eventually, example, host,
};

#[tokio::test]
async fn a_killed_server_loses_nothing_when_it_comes_back() {
    let mut server = Server::start().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let ctl = ctl_2024(&server).await;
    ctl.advertise_link(ECHO, PROVIDER, "wasmcloud:httpserver", "default", HashMap::new())
        .await
        .unwrap();
    server.kill();
    server.resume().await;
    let caller = Caller::new(&server).await;
    let invocation =
        || caller.invocation(ECHO, "HttpServer.HandleRequest", http_request("GET", "/", b""));
    eventually("calls go on", || async {
        let payload = lattice_protocol::rpc::codec::encode_invocation(&invocation());
        caller.nats.request(format!("wasmbus.rpc.default.{ECHO}"), payload).await.ok()
    })
    .await;
    let ctl = ctl_2024(&server).await;
    eventually("the link is still there", || async {
        ctl.query_links().await.ok().filter(|links| links.len() == 1)
    })
    .await;
    assert!(ctl.get_claims().await.unwrap().iter().any(|claims| claims["sub"] == ECHO));
    let ack =
        ctl.advertise_link(ECHO, PROVIDER, "acme:second", "default", HashMap::new()).await.unwrap();
    assert!(ack.accepted, "{}", ack.error);
    host.stop().await;
}

/// A message that is on its way when a connection breaks is lost.
#[tokio::test]
async fn a_round_trip_that_is_cut_off_is_made_on_the_next_connection() {
    let mut server = Server::start().await;
    let nats = client::nats(&server).await;
    confirm(&nats).await.expect("the server answers");
    server.freeze().await;
    let sent = || nats.statistics().out_messages.load(Ordering::Relaxed);
    let before = sent();
    let asking = tokio::spawn({
        let nats = nats.clone();
        async move { confirm(&nats).await }
    });
    eventually("the question is sent", async || (sent() > before).then_some(())).await;
    server.kill();
    server.resume().await;
    asking.await.expect("no panic").expect("it is asked again");
}

#[tokio::test]
async fn a_host_whose_server_is_gone_stops_without_waiting_for_it() {
    let mut server = Server::start().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    server.kill();
    eventually("the host misses its server", async || {
        (!host.host().store().backend().is_reachable()).then_some(())
    })
    .await;
    // Less than leaving a queue group takes where a server is slow.
    let stopped = tokio::time::timeout(std::time::Duration::from_secs(6), host.stop()).await;
    stopped.expect("nothing is in work, so there is nothing to wait for");
}

#[tokio::test]
async fn what_changed_during_an_outage_is_known_after_it() {
    let mut server = Server::start().await;
    let host = host(&server).start().await;
    let ctl = ctl_2024(&server).await;
    ctl.advertise_link(ECHO, PROVIDER, "acme:old", "default", HashMap::new()).await.unwrap();
    server.kill();
    server.resume().await;
    // Before the host is back, or while it comes back, somebody else writes the bucket.
    let context = async_nats::jetstream::with_domain(client::nats(&server).await, "core");
    let bucket = eventually("the bucket is there", || async {
        context.get_key_value("LATTICEDATA_default").await.ok()
    })
    .await;
    let id = |contract: &str| lattice_protocol::store::keys::link_hash(ECHO, contract, "default");
    bucket.delete(format!("LINKDEF_{}", id("acme:old"))).await.unwrap();
    let value = format!(
        r#"{{"actor_id":"{ECHO}","provider_id":"{PROVIDER}","link_name":"default","contract_id":"acme:new","values":{{}}}}"#
    );
    bucket.put(format!("LINKDEF_{}", id("acme:new")), value.into()).await.unwrap();
    let ctl = ctl_2024(&server).await;
    eventually("the host knows", || async {
        let links = ctl.query_links().await.ok()?;
        (links.len() == 1 && links[0].contract_id == "acme:new").then_some(())
    })
    .await;
    host.stop().await;
}

#[tokio::test]
async fn a_store_that_is_lost_is_made_again_with_what_the_host_knows() {
    let mut server = Server::start().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let ack = ctl_2024(&server)
        .await
        .advertise_link(ECHO, PROVIDER, "acme:kept", "default", HashMap::new())
        .await
        .unwrap();
    assert!(ack.accepted, "{}", ack.error);
    server.kill();
    std::fs::remove_dir_all(server.dir().join("js")).unwrap();
    server.resume().await;
    let context = async_nats::jetstream::with_domain(client::nats(&server).await, "core");
    let link = lattice_protocol::store::keys::link_hash(ECHO, "acme:kept", "default");
    for key in [format!("CLAIMS_{ECHO}"), format!("LINKDEF_{link}")] {
        eventually("the bucket is made again", || async {
            context.get_key_value("LATTICEDATA_default").await.ok()?.get(key.clone()).await.ok()?
        })
        .await;
    }
    assert_eq!(ctl_2024(&server).await.query_links().await.unwrap().len(), 1);
    host.stop().await;
}

#[tokio::test]
async fn a_link_that_cannot_be_stored_is_refused_in_time() {
    // JetStream lives on a leaf's hub here: the host reaches its own server, but not the domain.
    let server = Server::start().await;
    let host = host(&server).start().await;
    let context = async_nats::jetstream::with_domain(client::nats(&server).await, "core");
    context.delete_stream("KV_LATTICEDATA_default").await.unwrap();
    // A bucket that refuses every write stands in its place.
    context
        .create_stream(async_nats::jetstream::stream::Config {
            name: "KV_LATTICEDATA_default".into(),
            subjects: vec!["$KV.LATTICEDATA_default.>".into()],
            max_messages_per_subject: 1,
            max_messages: 1,
            max_bytes: 10,
            discard: async_nats::jetstream::stream::DiscardPolicy::New,
            ..Default::default()
        })
        .await
        .unwrap();
    let ack = ctl_2024(&server)
        .await
        .advertise_link(ECHO, PROVIDER, "acme:x", "default", HashMap::new())
        .await
        .unwrap();
    assert!(!ack.accepted && ack.error.contains("refused the write"), "{}", ack.error);
    host.stop().await;
}

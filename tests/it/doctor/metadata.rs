//! JetStream and the metadata bucket.

use std::time::Duration;

use async_nats::jetstream::{self, stream};
use serde_json::json;

use super::Desk;
use crate::harness::{Server, client, eventually, host, nats::free_port};

#[tokio::test]
async fn a_wrong_domain_is_told_with_the_right_one() {
    let server = Server::start().await;
    let desk = Desk::new();
    desk.settings(
        &json!({ "ctl_host": server.url(), "rpc_host": server.url(), "js_domain": "other" }),
    );
    let diagnosis = desk.diagnosis().await;
    diagnosis.says(
        "jetstream",
        "wrong",
        &["domain other does not answer", "domain core", "--js-domain core"],
    );
    assert_eq!(diagnosis.verdict("bucket"), "skipped");

    let server = Server::with_domain(None).await;
    desk.settings(
        &json!({ "ctl_host": server.url(), "rpc_host": server.url(), "js_domain": "other" }),
    );
    let diagnosis = desk.diagnosis().await;
    diagnosis.says(
        "jetstream",
        "wrong",
        &["JetStream without a domain", "jetstream { domain: other }"],
    );
}

#[tokio::test]
async fn jetstream_that_is_switched_off_is_named_and_what_hosts_do_without_it() {
    let server = Server::with_config(None, "").await;
    let host = host(&server).start().await;
    let diagnosis = Desk::at(&server).diagnosis().await;
    diagnosis.says("jetstream", "wrong", &["switched off", "-js"]);
    diagnosis.says("metadata", "warning", &[&host.id, "in memory"]);
    host.stop().await;
}

/// Makes the bucket as somebody else would.
async fn bucket(server: &Server, change: impl FnOnce(&mut stream::Config)) {
    let context = jetstream::with_domain(client::nats(server).await, "core");
    let mut config = stream::Config {
        name: "KV_LATTICEDATA_default".into(),
        subjects: vec!["$KV.LATTICEDATA_default.>".into()],
        max_messages_per_subject: 1,
        discard: stream::DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        ..Default::default()
    };
    change(&mut config);
    context.create_stream(config).await.expect("a stream");
}

#[tokio::test]
async fn a_bucket_that_forgets_is_wrong_and_one_that_may_be_lost_is_a_warning() {
    let server = Server::start().await;
    bucket(&server, |config| {
        config.max_age = Duration::from_secs(3600);
        config.storage = stream::StorageType::Memory;
        config.max_messages = 1000;
        config.duplicate_window = Duration::from_secs(60);
    })
    .await;
    let diagnosis = Desk::at(&server).diagnosis().await;
    diagnosis.says("bucket", "wrong", &["forgets its entries after 3600 s", "--max-age=0"]);
    diagnosis.says("bucket", "wrong", &["limited to 1000 entries", "--max-msgs=-1"]);
    diagnosis.says("bucket", "warning", &["kept in memory"]);
}

#[tokio::test]
async fn looking_at_a_bucket_changes_nothing_in_it() {
    let server = Server::start().await;
    let host = host(&server).start().await;
    let context = jetstream::with_domain(client::nats(&server).await, "core");
    let state = || async {
        let mut stream = context.get_stream("KV_LATTICEDATA_default").await.expect("the bucket");
        let state = stream.info().await.expect("its state").state.clone();
        (state.last_sequence, state.messages, state.consumer_count)
    };
    let before = state().await;
    let diagnosis = Desk::at(&server).diagnosis().await;
    diagnosis.says("bucket", "ok", &["can be read and written"]);
    assert_eq!(state().await, before);
    host.stop().await;
}

/// Three servers that are a cluster.
async fn cluster() -> Vec<Server> {
    let routes: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let mut servers = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let others: Vec<String> =
            routes.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
        let config = format!(
            "server_name: s{index}\njetstream {{ store_dir: \"@DIR@/js\" }}
             cluster {{ name: C, listen: \"127.0.0.1:{route}\", routes: [{}] }}",
            others.join(", ")
        );
        servers.push(Server::with_config(None, &config).await);
    }
    let context = jetstream::new(client::nats(&servers[0]).await);
    eventually("the cluster has a leader", || async { context.query_account().await.ok() }).await;
    servers
}

#[tokio::test]
async fn one_copy_of_the_bucket_in_a_cluster_is_a_warning_and_three_are_none() {
    let servers = cluster().await;
    let started = eventually("a host makes the bucket", || async {
        let host = host(&servers[0]).start().await;
        let context = jetstream::new(client::nats(&servers[0]).await);
        match context.get_stream("KV_LATTICEDATA_default").await {
            Ok(_) => Some(host),
            Err(_) => {
                host.stop().await;
                None
            }
        }
    })
    .await;
    let diagnosis = Desk::at(&servers[0]).diagnosis().await;
    diagnosis.says("bucket", "warning", &["one copy in a cluster of 3 servers", "--replicas 3"]);
    let context = jetstream::new(client::nats(&servers[0]).await);
    let mut config =
        context.get_stream("KV_LATTICEDATA_default").await.unwrap().cached_info().config.clone();
    config.num_replicas = 3;
    context.update_stream(config).await.unwrap();
    eventually("the copies are made", || async {
        let diagnosis = Desk::at(&servers[0]).diagnosis().await;
        diagnosis.finding("bucket", "ok", &["3 copies"]).map(drop)
    })
    .await;
    started.stop().await;
}

/// A hub without JetStream and two leaf nodes, with domains `core` and `extender`; the lattice is
/// in `core`.
async fn site() -> (Server, Server, Server) {
    let port = free_port();
    let hub =
        Server::with_config(None, &format!("leafnodes {{ listen: \"127.0.0.1:{port}\" }}")).await;
    let leaf = |domain: &str| {
        format!(
            "jetstream {{ domain: {domain}, store_dir: \"@DIR@/js\" }}
             leafnodes {{ remotes = [ {{ url: \"nats://127.0.0.1:{port}\" }} ] }}"
        )
    };
    let core = Server::with_config(Some("core"), &leaf("core")).await;
    let extender = Server::with_config(Some("core"), &leaf("extender")).await;
    let context = jetstream::with_domain(client::nats(&extender).await, "core");
    eventually("the extender reaches the core", || async { context.query_account().await.ok() })
        .await;
    (hub, core, extender)
}

#[tokio::test]
async fn a_leaf_node_that_is_cut_off_is_named_and_told_from_a_wrong_domain() {
    let (mut hub, core, extender) = site().await;
    let (at_core, at_extender) = (host(&core).start().await, host(&extender).start().await);
    let desk = Desk::at(&extender);
    let diagnosis = desk.diagnosed("hosts", "ok", &["2 hosts answer"]).await;
    diagnosis.says("leaf", "ok", &["domain extender", "reaches the one with core"]);
    diagnosis.is_content("domains");
    // The server of the bucket stands alone, and no copy is asked for.
    diagnosis.is_content("bucket");

    hub.kill();
    let diagnosis = desk.diagnosed("leaf", "wrong", &["does not reach one with domain core"]).await;
    diagnosis.says("jetstream", "wrong", &["domain core does not answer", "leaf node connection"]);
    desk.diagnosed("leaf", "wrong", &[&at_extender.id, "does not hear from"]).await;
    desk.diagnosed("hosts", "warning", &[&at_core.id, "vanished"]).await;

    // A host that starts now never reached it.
    let late = host(&extender).start().await;
    desk.diagnosed("metadata", "wrong", &[&late.id, "does not reach the metadata"]).await;
    for host in [late, at_extender, at_core] {
        host.stop().await;
    }
}

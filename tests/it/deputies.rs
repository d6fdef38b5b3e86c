//! What a host must not be made to do in its own name: answer where somebody is commanded, and reach with a built-in
//! provider what the one who asks could not reach.

use async_nats::ConnectOptions;
use futures::StreamExt;
use lattice_host::providers::builtin::keyvalue;
use serde_json::{Value, json};

use crate::harness::{
    ECHO, PATIENCE, Server, TestHost,
    client::{self, ctl_2024, start, start_provider},
    eventually, example, host,
};

/// Users who may ask, each in one way, and nothing else; a host; and ears for everything.
const USERS: &str = r#"
    jetstream { domain: core, store_dir: "@DIR@/js" }
    authorization { users: [
        { user: host, password: secret }
        { user: observer, password: secret, permissions: {
            publish: ["wasmbus.ctl.default.ping.hosts", "wasmbus.ctl.default.get.>", "wasmbus.ctl.default.probe.>"]
            subscribe: ["_INBOX.>", "replies.>"] } }
        { user: caller, password: secret, permissions: {
            publish: ["wasmbus.rpc.default.>"], subscribe: ["_INBOX.>"] } }
        { user: judge, password: secret, permissions: { publish: ["rules.changes"], subscribe: ["_INBOX.>"] } }
    ] }
"#;

async fn user(server: &Server, name: &str) -> async_nats::Client {
    let options = ConnectOptions::with_user_and_password(name.into(), "secret".into());
    options.connect(server.url()).await.expect("connected")
}

/// Asks a question and waits until the host has refused to answer it there.
async fn is_refused(host: &TestHost, asker: &async_nats::Client, subject: &str, question: &str, reply: &str) {
    let before = host.host().answers().refused();
    asker
        .publish_with_reply(subject.to_owned(), reply.to_owned(), question.to_owned().into())
        .await
        .expect("a question may be asked");
    eventually(&format!("{subject} with the reply subject {reply} is not answered"), || async {
        (host.host().answers().refused() > before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_may_only_ask_commands_nobody_by_a_reply_subject() {
    let server = Server::with_config(Some("core"), USERS).await;
    let as_host =
        |builder: crate::harness::HostBuilder| builder.set("nats_user", "host").set("nats_password", "secret");
    let host = as_host(host(&server))
        .set("policy_topic", "rules.ask")
        .set("policy_changes_topic", "rules.changes")
        .set("inbox_prefixes", "replies")
        .start()
        .await;
    let owner = user(&server, "host").await;
    let mut heard = owner.subscribe(">").await.expect("subscribed");
    owner.flush().await.expect("flushed");
    let (observer, caller, judge) =
        (user(&server, "observer").await, user(&server, "caller").await, user(&server, "judge").await);

    let id = &host.id;
    let stranger = "NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF";
    let hello = json!({"host": stranger, "life": 1, "roster": 0, "hello": true}).to_string();
    let follow = json!({"entity": ECHO, "follow": "me", "tail": 10}).to_string();
    let probe = |name: &str| format!("wasmbus.ctl.default.probe.{id}.{name}");
    let questions = [
        (&observer, "wasmbus.ctl.default.ping.hosts".to_owned(), String::new()),
        (&observer, "wasmbus.ctl.default.get.links".to_owned(), String::new()),
        (&observer, "wasmbus.ctl.default.get.claims".to_owned(), String::new()),
        (&observer, format!("wasmbus.ctl.default.get.{id}.inv"), String::new()),
        (&observer, probe("health"), String::new()),
        (&observer, probe("calls"), String::new()),
        (&observer, probe("logs"), follow),
        (&caller, "wasmbus.rpc.default.hosts".to_owned(), hello),
        (&caller, format!("wasmbus.rpc.default.{id}"), "roster".to_owned()),
        (&judge, "rules.changes".to_owned(), json!({"requestId": "x", "permitted": true}).to_string()),
    ];
    let replies = [
        format!("wasmbus.ctl.default.cmd.{id}.stop"),
        format!("wasmbus.ctl.default.cmd.{stranger}.stop"),
        "wasmbus.ctl.default.registries.put".to_owned(),
        "wasmbus.ctl.default.linkdefs.put".to_owned(),
        format!("wasmbus.rpc.default.{ECHO}"),
        "wasmbus.evt.default".to_owned(),
        "wadm.api.default.model.put".to_owned(),
        format!("$KV.LATTICEDATA_default.CLAIMS_{ECHO}"),
        "$JS.core.API.STREAM.PURGE.KV_LATTICEDATA_default".to_owned(),
        "rules.ask".to_owned(),
        "orders.new".to_owned(),
        "replies".to_owned(),
        "_INBOX.>".to_owned(),
        "_INBOX..x".to_owned(),
    ];
    for (asker, subject, question) in &questions {
        for reply in &replies {
            is_refused(&host, asker, subject, question, reply).await;
        }
    }
    // It is there, it answers where it may, and nothing it said went to any of those subjects.
    for reply in ["replies.observer.1", "_INBOX.observer.1"] {
        let mut answers = observer.subscribe(reply).await.expect("subscribed");
        observer.publish_with_reply("wasmbus.ctl.default.ping.hosts", reply, "".into()).await.expect("asked");
        tokio::time::timeout(PATIENCE, answers.next()).await.expect("an answer").expect("an answer");
    }
    owner.publish("the.end", "".into()).await.expect("published");
    while let Some(message) = tokio::time::timeout(PATIENCE, heard.next()).await.expect("the end is heard") {
        if message.subject.as_str() == "the.end" {
            break;
        }
        let is_asked = questions.iter().any(|(_, subject, _)| *message.subject == **subject);
        let is_event = message.subject.starts_with("wasmbus.evt.default")
            && serde_json::from_slice::<Value>(&message.payload).is_ok_and(|event| event["specversion"].is_string());
        assert!(is_asked || is_event || !replies.iter().any(|reply| *message.subject == **reply), "{message:?}");
    }
    host.stop().await;
}

#[tokio::test]
async fn an_actor_a_provider_and_the_health_of_one_answer_to_inboxes_only() {
    let server = Server::start().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    start_provider(&server, &host, "builtin://keyvalue").await;
    let nats = client::nats(&server).await;
    let key = keyvalue::SPEC.public_key;
    let stop = format!("wasmbus.ctl.default.cmd.{}.stop", host.id);
    for subject in [
        format!("wasmbus.rpc.default.{ECHO}"),
        format!("wasmbus.rpc.default.{ECHO}.{}", host.id),
        format!("wasmbus.rpc.default.{key}.default"),
        format!("wasmbus.rpc.default.{key}.default.health"),
    ] {
        is_refused(&host, &nats, &subject, "{}", &stop).await;
        let answer = nats.request(subject.clone(), "{}".into()).await;
        assert!(answer.is_ok(), "{subject}: {answer:?}");
    }
    // The oldest library of providers has inboxes without a root.
    let mut bare = nats.subscribe("7Kx0PqLm3NvTzY8bWc5RdA").await.expect("subscribed");
    let subject = format!("wasmbus.rpc.default.{ECHO}");
    nats.publish_with_reply(subject, "7Kx0PqLm3NvTzY8bWc5RdA", "{}".into()).await.expect("asked");
    tokio::time::timeout(PATIENCE, bare.next()).await.expect("an answer").expect("an answer");
    assert_eq!(ctl_2024(&server).await.get_hosts().await.expect("hosts").len(), 1);
    host.stop().await;
}

//! Bounds of the control interface against too many or malformed requests: it keeps bounded
//! amounts, refuses the rest with the reason, and goes on answering.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};

use lattice_protocol::lattice::control::Control;

use crate::harness::{
    ECHO, Events, PATIENCE, Server, TestHost,
    client::{self, ctl_2024, start},
    eventually, example, host, text,
};

/// Somebody with control permission.
struct Operator {
    nats: async_nats::Client,
    host_id: String,
    /// The part with which all subjects of commands begin.
    prefix: String,
}

impl Operator {
    async fn of(server: &Server, host: &TestHost) -> Self {
        Self { nats: client::nats(server).await, host_id: host.id.clone(), prefix: server.ctl("") }
    }

    fn subject(&self, tail: &str) -> String {
        self.prefix.clone() + &tail.replace("@HOST", &self.host_id)
    }

    /// The answer, or nothing where none comes.
    async fn ask(&self, tail: &str, body: impl Into<Bytes>, patience: Duration) -> Option<Value> {
        let request = async_nats::Request::new().payload(body.into()).timeout(Some(patience));
        let reply = self.nats.send_request(self.subject(tail), request).await.ok()?;
        Some(serde_json::from_slice(&reply.payload).expect("an answer is JSON"))
    }

    /// Sends a command; returns why it is refused, or nothing if it is accepted.
    async fn refusal(&self, tail: &str, body: &Value) -> Option<String> {
        let ack = self
            .ask(tail, body.to_string(), PATIENCE)
            .await
            .unwrap_or_else(|| panic!("no answer to {tail}"));
        (ack["accepted"] != true).then(|| text(&ack, "/error").to_owned())
    }

    async fn inventory(&self) -> Value {
        let inventory = self.ask("get.@HOST.inv", "", PATIENCE).await.expect("an inventory");
        assert_eq!(inventory["host_id"], json!(self.host_id), "{inventory}");
        inventory
    }

    /// The host answers whatever anybody asks it about itself.
    async fn is_there(&self) {
        self.inventory().await;
        let ping = self.ask("ping.hosts", "", PATIENCE).await.expect("a ping is answered");
        assert_eq!(ping["id"], json!(self.host_id), "{ping}");
    }
}

fn value(bytes: usize) -> String {
    "v".repeat(bytes)
}

#[tokio::test]
async fn core_labels_stay_and_others_have_bounds_and_are_one_line_each() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let operator = Operator::of(&server, &host).await;
    let core = operator.inventory().await["labels"].clone();
    for (key, value, complaint) in [
        ("hostcore.arch", "riscv", "core label"),
        ("hostcore.new", "x", "core label"),
        ("HOSTCORE.os", "x", "core label"),
        ("", "x", "needs a key"),
        (&*value(129), "x", "key of the label has 129 bytes"),
        ("k", &value(1025), "has 1025 bytes"),
        ("k", &value(400_000), "has 400000 bytes"),
        ("a\nb", "x", "visible characters"),
        ("a", "x\r\nERROR forged", "line breaks"),
        ("a", "\u{1b}[31mred", "control characters"),
        ("a", "\u{202e}abc", "direction of text"),
    ] {
        let label = json!({ "key": key, "value": value });
        let refusal = operator.refusal("labels.@HOST.put", &label).await;
        assert!(
            refusal.as_ref().is_some_and(|refusal| refusal.contains(complaint)),
            "{key:?}: {refusal:?}"
        );
    }
    assert!(operator.refusal("labels.@HOST.del", &json!({ "key": "hostcore.os" })).await.is_some());
    assert_eq!(operator.inventory().await["labels"], core);
    let riscv = HashMap::from([("hostcore.arch".to_owned(), "riscv".to_owned())]);
    assert!(
        ctl_2024(&server)
            .await
            .perform_provider_auction("file:///x", "default", riscv)
            .await
            .unwrap()
            .is_empty()
    );

    for number in 0..61 {
        let label = json!({ "key": format!("k{number}"), "value": value(1024) });
        assert_eq!(operator.refusal("labels.@HOST.put", &label).await, None, "label {number}");
    }
    let refusal = operator
        .refusal("labels.@HOST.put", &json!({ "key": "more", "value": "x" }))
        .await
        .unwrap();
    assert!(refusal.contains("64 labels"), "{refusal}");
    assert_eq!(operator.inventory().await["labels"].as_object().unwrap().len(), 64);
    operator.is_there().await;
    host.stop().await;
}

#[tokio::test]
async fn thousands_of_labels_leave_the_host_in_sight_and_make_few_heartbeats() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let operator = Operator::of(&server, &host).await;
    let mut heartbeats = operator
        .nats
        .subscribe(format!("wasmbus.evt.{}.host_heartbeat", server.lattice()))
        .await
        .unwrap();
    crate::harness::client::settled(&operator.nats).await;
    let began = std::time::Instant::now();
    for number in 0..3000 {
        let label = json!({ "key": format!("k{number}"), "value": value(500) });
        operator
            .nats
            .publish(operator.subject("labels.@HOST.put"), label.to_string().into())
            .await
            .unwrap();
    }
    operator.is_there().await;
    // The last that has room is seen in a heartbeat, though not each by itself.
    let mut seen = 0;
    let search = async {
        while let Some(beat) = heartbeats.next().await {
            seen += 1;
            let beat: Value = serde_json::from_slice(&beat.payload).unwrap();
            if beat["data"]["labels"].as_object().unwrap().len() == 64 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, search).await.expect("a heartbeat with the labels");
    assert!(seen <= 2 + began.elapsed().as_secs(), "{seen} heartbeats in {:?}", began.elapsed());
    host.stop().await;
}

#[tokio::test]
async fn garbage_on_every_control_subject_is_refused_and_harms_nothing() {
    let server = Server::shared().await;
    let mut host = host(&server).start().await;
    let operator = Operator::of(&server, &host).await;
    let bodies: [Bytes; 6] = [
        Bytes::from_static(b"{"),
        Bytes::from_static(b"[]"),
        Bytes::from_static(b"null"),
        Bytes::from_static(b"\"text\""),
        Bytes::from_static(b"\xff\xfe\x00"),
        "[".repeat(100_000).into(),
    ];
    // Some queries read no body; everything else has to refuse what it cannot read.
    let reads_no_body = |request: &Control| {
        matches!(
            request,
            Control::PingHosts
                | Control::Claims
                | Control::Links
                | Control::Inventory { .. }
                | Control::ConfigGet { .. }
                | Control::ConfigList { .. }
                | Control::ProbeHealth { .. }
                | Control::ProbeLost { .. }
        )
    };
    let subjects = server.subjects();
    for request in Control::every(&host.id, "nobody", "key") {
        let subject = subjects.control(&request);
        let is_answered = !subjects.is_auction(&subject);
        let tail = subject.strip_prefix(&*operator.prefix).expect("a subject of the lattice");
        for body in &bodies {
            let patience = if is_answered { PATIENCE } else { Duration::from_millis(50) };
            let answer = operator.ask(tail, body.clone(), patience).await;
            match answer {
                None => assert!(!is_answered, "{subject} has no answer to {:?}", body.get(..20)),
                Some(answer) if reads_no_body(&request) => {
                    assert_ne!(answer["accepted"], json!(false), "{subject}: {answer}")
                }
                Some(answer) => assert_eq!(answer["accepted"], json!(false), "{subject}: {answer}"),
            }
        }
    }
    operator.is_there().await;
    assert!(
        tokio::time::timeout(Duration::ZERO, host.stop_requested()).await.is_err(),
        "nobody asked it to stop"
    );
    host.stop().await;
}

#[tokio::test]
async fn two_hundred_who_follow_a_log_are_all_answered_and_most_are_refused() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let operator = Operator::of(&server, &host).await;
    let inbox = operator.nats.new_inbox();
    let mut parts = operator.nats.subscribe(format!("{inbox}.>")).await.unwrap();
    for number in 0..200 {
        let reply = format!("{inbox}.{number}");
        let ask = json!({ "entity": ECHO, "follow": reply }).to_string();
        operator
            .nats
            .publish_with_reply(operator.subject("probe.@HOST.logs"), reply, ask.into())
            .await
            .unwrap();
    }
    let mut answered = std::collections::HashMap::new();
    let search = async {
        while answered.len() < 200 {
            let part = parts.next().await.expect("a part");
            let text = String::from_utf8_lossy(&part.payload).into_owned();
            answered
                .entry(part.subject.to_string())
                .or_insert_with(|| text.contains("64 followers"));
        }
    };
    tokio::time::timeout(PATIENCE, search).await.expect("everybody is answered");
    assert_eq!(answered.values().filter(|is_refused| **is_refused).count(), 200 - 64);
    operator.is_there().await;
    host.stop().await;
}

#[tokio::test]
async fn counts_that_make_no_sense_are_refused_and_no_bound_is_one_word() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let operator = Operator::of(&server, &host).await;
    let scale = |count: &str| format!(r#"{{"actor_ref":"{}","count":{count}}}"#, example("echo"));
    for count in ["-1", "1e30", "1.5", "\"3\"", "\"many\"", "4294967296", "true", "[1]", "{}"] {
        let ack = operator.ask("cmd.@HOST.scale", scale(count), PATIENCE).await.unwrap();
        assert_eq!(ack["accepted"], json!(false), "{count}: {ack}");
    }
    for count in ["4294967295", "null"] {
        let mut events = Events::all(&server).await;
        let ack = operator.ask("cmd.@HOST.scale", scale(count), PATIENCE).await.unwrap();
        assert_eq!(ack["accepted"], json!(true), "{count}: {ack}");
        events.next("actor_scaled").await;
        assert_eq!(
            operator.inventory().await["actors"][0]["instances"][0]["max_instances"],
            json!(u32::MAX)
        );
    }
    host.stop().await;
}

#[tokio::test]
async fn what_is_too_large_to_keep_is_refused_with_its_bound() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let operator = Operator::of(&server, &host).await;
    let many = |count: usize| {
        (0..count)
            .map(|number| (format!("k{number}"), json!("v")))
            .collect::<serde_json::Map<_, _>>()
    };
    let logins = |count: usize| {
        (0..count)
            .map(|number| (format!("r{number}"), json!({ "token": "t" })))
            .collect::<serde_json::Map<_, _>>()
    };
    let link = |values: Value| {
        json!({ "actor_id": ECHO, "provider_id": crate::harness::PROVIDER, "link_name": "default",
            "contract_id": "acme:thing", "values": values })
    };
    for (subject, body, complaint) in [
        ("cmd.@HOST.scale", json!({ "actor_ref": value(5000), "count": 1 }), "4096"),
        (
            "cmd.@HOST.scale",
            json!({ "actor_ref": "x", "count": 1, "annotations": many(65) }),
            "65 annotations",
        ),
        ("cmd.@HOST.la", json!({ "actor_ref": "x", "annotations": { "k": value(9000) } }), "8192"),
        ("cmd.@HOST.sa", json!({ "actor_ref": value(5000) }), "4096"),
        ("cmd.@HOST.upd", json!({ "new_actor_ref": value(5000) }), "4096"),
        (
            "cmd.@HOST.lp",
            json!({ "provider_ref": "builtin://keyvalue", "configuration": value(600_000) }),
            "524288",
        ),
        (
            "cmd.@HOST.lp",
            json!({ "provider_ref": "builtin://keyvalue", "link_name": value(5000) }),
            "256",
        ),
        ("cmd.@HOST.sp", json!({ "provider_ref": value(5000) }), "4096"),
        ("registries.put", Value::Object(logins(257)), "256"),
        ("registries.put", json!({ "r": { "token": value(40_000) } }), "32768"),
        ("linkdefs.put", link(Value::Object(many(513))), "513 link values"),
        ("linkdefs.put", link(json!({ "k": value(600_000) })), "524288"),
    ] {
        let refusal = operator.refusal(subject, &body).await;
        assert!(
            refusal.as_ref().is_some_and(|refusal| refusal.contains(complaint)),
            "{subject}: {refusal:?}"
        );
    }
    for (key, bytes, complaint) in [("k".repeat(129), 1, "128"), ("k".to_owned(), 70_000, "65536")]
    {
        let ack = operator
            .ask(&format!("config.put.{ECHO}.{key}"), value(bytes), PATIENCE)
            .await
            .unwrap();
        assert!(ack["accepted"] == false && text(&ack, "/error").contains(complaint), "{ack}");
    }
    // An auction nobody can win has no answer, as always.
    let auction = json!({ "actor_ref": example("echo"), "constraints": many(65) });
    assert!(
        operator
            .ask("auction.actor", auction.to_string(), Duration::from_millis(100))
            .await
            .is_none()
    );
    host.stop().await;
}

#[tokio::test]
async fn a_host_starts_no_more_than_its_inventory_can_tell() {
    let server = Server::with_config(
        Some("core"),
        "max_payload: 65536\njetstream { domain: core, store_dir: \"@DIR@/js\" }",
    )
    .await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let operator = Operator::of(&server, &host).await;
    let mut events = Events::all(&server).await;
    for number in 0..40 {
        let annotations = json!({ "number": number.to_string(), "filler": value(2000) });
        let scale = json!({ "actor_ref": example("echo"), "count": 1, "annotations": annotations });
        assert_eq!(operator.refusal("cmd.@HOST.scale", &scale).await, None);
    }
    let failed = events.next("actor_scale_failed").await;
    assert!(text(&failed, "/data/error").contains("inventory"), "{failed}");
    for number in 0..40 {
        let annotations = json!({ "filler": value(2000) });
        let launch = json!({ "provider_ref": "builtin://keyvalue", "link_name": format!("l{number}"), "annotations": annotations });
        operator.refusal("cmd.@HOST.lp", &launch).await;
    }
    let failed = events.next("provider_start_failed").await;
    assert!(text(&failed, "/data/error").contains("inventory"), "{failed}");
    eventually("everything that starts has started", || async {
        let inventory = operator.inventory().await;
        (inventory["providers"].as_array()?.len() >= 5).then_some(())
    })
    .await;
    operator.is_there().await;
    let health = operator.ask("probe.@HOST.health", "{}", PATIENCE).await.unwrap();
    assert_eq!(health["host_id"], json!(host.id));
    host.stop().await;
}

//! Calls: from providers and tools, between actors, of what every host offers, large ones, and over
//! two hosts. The outcome must not depend on the path of a call, so these run with the local path
//! and without it.

use std::collections::HashMap;

use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::harness::{
    ECHO, Events, HostBuilder, KVCOUNTER, PINGER, PONGER, PROVIDER, RANDOGENLOGGER, Server,
    client::{
        self, Caller, call_as_provider, ctl_2024, http_body, http_request, provider_rpc, start,
    },
    example,
    guests::{Signing, sign, wapc},
    host,
    nats::free_port,
};

/// Both ways a call can take inside one host.
const WAYS: [&str; 2] = ["true", "false"];

fn with_way(server: &Server, way: &str) -> HostBuilder {
    host(server).set("local_calls", way)
}

/// Asks for a page, as the HTTP server that the actor is linked to.
pub async fn get(server: &Server, actor: &str, path: &str) -> Result<Value, String> {
    client::link(server, actor, PROVIDER, "wasmcloud:httpserver", &[]).await;
    let rpc = provider_rpc(server).await;
    let reply =
        call_as_provider(&rpc, actor, "HttpServer.HandleRequest", http_request("GET", path, b""))
            .await;
    let body = http_body(&reply.map_err(|e| e.to_string())?);
    Ok(serde_json::from_slice(&body)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&body))))
}

#[tokio::test]
async fn a_provider_of_the_time_calls_an_actor() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let reply = get(&server, ECHO, "/some/path").await.unwrap();
    assert_eq!(
        reply,
        json!({"method": "GET", "path": "/some/path", "query_string": "", "body": []})
    );
    host.stop().await;
}

#[tokio::test]
async fn an_actor_calls_another_by_its_alias_on_every_way() {
    let server = Server::shared().await;
    for way in WAYS {
        let host = with_way(&server, way).start().await;
        start(&server, &host, &example("pinger"), 1).await;
        start(&server, &host, &example("ponger"), 1).await;
        assert_eq!(
            get(&server, PINGER, "/").await.unwrap(),
            json!({"value": 53}),
            "local calls: {way}"
        );
        host.stop().await;
    }
}

#[tokio::test]
async fn actors_on_two_hosts_call_each_other() {
    let server = Server::shared().await;
    let (first, second) = (host(&server).start().await, host(&server).start().await);
    start(&server, &first, &example("pinger"), 1).await;
    start(&server, &second, &example("ponger"), 1).await;
    assert_eq!(get(&server, PINGER, "/").await.unwrap(), json!({"value": 53}));
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn what_every_host_offers_needs_no_link() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("randogenlogger"), 1).await;
    let reply = get(&server, RANDOGENLOGGER, "/").await.unwrap();
    assert!(uuid::Uuid::parse_str(reply["guid"].as_str().unwrap()).is_ok(), "{reply}");
    host.stop().await;
}

#[tokio::test]
async fn a_call_without_a_link_or_a_claim_names_what_is_missing() {
    let server = Server::shared().await;
    for way in WAYS {
        let host = with_way(&server, way).start().await;
        start(&server, &host, &example("kvcounter"), 1).await;
        let refused = get(&server, KVCOUNTER, "/a").await.unwrap().to_string();
        assert!(
            refused.contains(&format!(
                "missing link definition for wasmcloud:keyvalue on {}",
                server.lattice()
            )),
            "{refused}"
        );

        // This guest calls key-value without having been signed for it.
        let body = r#"(drop (call $host_call (i32.const 100) (i32.const 7) (i32.const 110) (i32.const 18)
            (i32.const 130) (i32.const 12) (i32.const 1) (i32.const 0)))
            (call $host_error (i32.const 200)) (call $error (i32.const 200) (call $host_error_len)) (i32.const 0)"#;
        let data = r#"(data (i32.const 100) "default") (data (i32.const 110) "wasmcloud:keyvalue") (data (i32.const 130) "KeyValue.Get")"#;
        let unsigned_for = sign(
            &wapc(body).replace("(func (export", &format!("{data}\n(func (export")),
            &Signing::default(),
        );
        start(&server, &host, &unsigned_for.reference, 1).await;
        let ctl = ctl_2024(&server).await;
        ctl.advertise_link(
            &unsigned_for.id,
            PROVIDER,
            "wasmcloud:keyvalue",
            "default",
            HashMap::new(),
        )
        .await
        .unwrap();
        let refused =
            Caller::new(&server).await.call(&unsigned_for.id, "Any.Thing", "").await.unwrap_err();
        assert!(refused.contains("missing capability claim for wasmcloud:keyvalue"), "{refused}");
        host.stop().await;
    }
}

#[tokio::test]
async fn a_provider_may_only_call_on_contracts_the_actor_was_signed_for() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("ponger"), 1).await;
    let refused = get(&server, PONGER, "/").await.unwrap_err();
    assert!(refused.contains("actor is missing capability claims"), "{refused}");
    host.stop().await;
}

#[tokio::test]
async fn a_linked_provider_is_called_and_its_error_comes_back_word_for_word() {
    use lattice_protocol::rpc::{
        codec,
        invocation::{InvocationResponse, TraceContext},
    };
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let nats = client::nats(&server).await;
    let mut calls = nats
        .queue_subscribe(server.rpc(format_args!("{PROVIDER}.default")), "rpc".into())
        .await
        .unwrap();
    crate::harness::client::settled(&nats).await;
    let provider = tokio::spawn(async move {
        while let Some(message) = calls.next().await {
            let call = codec::decode_invocation(message.payload).unwrap();
            let fails = call.msg.windows(6).any(|window| window == b"broken");
            let response = InvocationResponse {
                msg: rmp_serde::to_vec(&7).unwrap().into(),
                invocation_id: call.id,
                error: fails.then(|| "disk is \"full\"".to_owned()),
                content_length: 1,
                trace_context: TraceContext::default(),
            };
            nats.publish(message.reply.unwrap(), codec::encode_response(&response)).await.unwrap();
        }
    });
    start(&server, &host, &example("kvcounter"), 1).await;
    let ctl = ctl_2024(&server).await;
    ctl.advertise_link(KVCOUNTER, PROVIDER, "wasmcloud:keyvalue", "default", HashMap::new())
        .await
        .unwrap();
    assert_eq!(get(&server, KVCOUNTER, "/fine").await.unwrap(), json!({"counter": 7}));
    let failed = get(&server, KVCOUNTER, "/broken").await.unwrap();
    assert!(failed["error"].as_str().unwrap().contains("disk is \"full\""), "{failed}");
    provider.abort();
    let _ = provider.await;
    // Nobody listens now: that is known at once, and said with the subject and the lattice.
    let failed =
        get(&server, KVCOUNTER, "/gone").await.unwrap()["error"].as_str().unwrap().to_owned();
    assert!(failed.contains("Failed to perform RPC call: request timeout"), "{failed}");
    assert!(
        failed.contains(&format!("in lattice {}", server.lattice())) && failed.contains(PROVIDER),
        "{failed}"
    );
    host.stop().await;
}

#[tokio::test]
async fn large_payloads_travel_both_ways_through_the_object_store() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    client::link(&server, ECHO, PROVIDER, "wasmcloud:httpserver", &[]).await;
    // The answer holds every byte as a number in JSON, so both directions are far beyond a
    // message's size.
    let body: Vec<u8> = (0..2_000_000u32).map(|n| (n % 251) as u8).collect();
    let rpc = provider_rpc(&server).await;
    let request = http_request("POST", "/large", &body);
    let reply = call_as_provider(&rpc, ECHO, "HttpServer.HandleRequest", request).await.unwrap();
    let reply: Value = serde_json::from_slice(&http_body(&reply)).unwrap();
    let echoed: Vec<u8> = serde_json::from_value(reply["body"].clone()).unwrap();
    assert!(echoed == body);

    let nats = client::nats(&server).await;
    let context = async_nats::jetstream::with_domain(nats, "core");
    let stream = context.get_stream(format!("OBJ_{}", server.lattice())).await.unwrap();
    // The reader removes the pieces; its tombstone and our second copy of the metadata go with the
    // next sweep.
    crate::harness::eventually("the pieces are removed", || async {
        let mut subjects =
            stream.info_with_subjects(format!("$O.{}.C.>", server.lattice())).await.ok()?;
        futures::StreamExt::next(&mut subjects).await.is_none().then_some(())
    })
    .await;
    host.stop().await;
}

#[tokio::test]
async fn the_trace_of_a_call_is_passed_on() {
    let server = Server::shared().await;
    let (first, second) = (host(&server).start().await, host(&server).start().await);
    start(&server, &first, &example("pinger"), 1).await;
    start(&server, &second, &example("ponger"), 1).await;
    let caller = Caller::new(&server).await;
    // Whichever way the call takes: through the queue group, or straight to the other host.
    let wire = caller.nats.subscribe(server.rpc(">")).await.unwrap();
    let mut wire = wire.filter(|message| std::future::ready(message.subject.contains(PONGER)));
    crate::harness::client::settled(&caller.nats).await;
    let mut invocation =
        caller.invocation(PINGER, "HttpServer.HandleRequest", http_request("GET", "/", b""));
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    invocation.trace_context.push("traceparent", parent);
    assert_eq!(caller.send(PINGER, &invocation).await.error, None);
    let seen = wire.next().await.unwrap();
    assert_eq!(seen.headers.as_ref().unwrap().get("traceparent").unwrap().as_str(), parent);
    let onward = lattice_protocol::rpc::codec::decode_invocation(seen.payload).unwrap();
    assert_eq!(onward.trace_context.get("traceparent"), Some(parent));
    first.stop().await;
    second.stop().await;
}

/// How many messages the server delivered to each host, by its own statistics.
async fn delivered(monitor: u16) -> HashMap<String, u64> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut connection = tokio::net::TcpStream::connect(("127.0.0.1", monitor)).await.unwrap();
    connection.write_all(b"GET /connz HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let statistics: Value = serde_json::from_str(body).unwrap();
    let mut delivered = HashMap::new();
    for connection in statistics["connections"].as_array().unwrap() {
        let name = connection["name"].as_str().unwrap_or_default();
        *delivered.entry(name.to_owned()).or_default() += connection["out_msgs"].as_u64().unwrap();
    }
    delivered
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_share_the_load_and_one_goes_on_alone() {
    const CALLS: usize = 10_000;
    let monitor = free_port();
    let config = format!(
        "http: \"127.0.0.1:{monitor}\"\njetstream {{ domain: core\n store_dir: \"@DIR@/js\" }}"
    );
    let server = Server::with_config(Some("core"), &config).await;
    let (first, second) = (host(&server).start().await, host(&server).start().await);
    for host in [&first, &second] {
        start(&server, host, &example("echo"), 64).await;
    }
    let caller = std::sync::Arc::new(Caller::new(&server).await);
    let call_many = |count: usize| {
        let caller = std::sync::Arc::clone(&caller);
        async move {
            let calls = futures::stream::iter(0..count).map(|_| {
                let caller = std::sync::Arc::clone(&caller);
                async move {
                    caller
                        .call(ECHO, "HttpServer.HandleRequest", http_request("GET", "/", b""))
                        .await
                }
            });
            let failures: Vec<String> =
                calls.buffer_unordered(64).filter_map(|end| async { end.err() }).collect().await;
            assert!(failures.is_empty(), "{} failed, the first: {}", failures.len(), failures[0]);
        }
    };
    call_many(CALLS).await;
    let delivered = delivered(monitor).await;
    for host in [&first, &second] {
        // The statistics lag a little and hold other messages too; a fair share is far above this.
        let share = delivered[&format!("host {}", host.id)];
        assert!(share > CALLS as u64 / 10, "{delivered:?}");
    }
    // While calls go on, one host leaves in order; no call may fail.
    let mut events = Events::all(&server).await;
    tokio::join!(call_many(2_000), first.stop());
    events.next("host_stopped").await;
    call_many(200).await;
    second.stop().await;
}

#[tokio::test]
async fn a_health_request_is_answered_like_any_call() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let reply = Caller::new(&server)
        .await
        .call(ECHO, "Actor.HealthRequest", Bytes::from_static(&[0x80]))
        .await
        .unwrap();
    let health: HashMap<String, Value> = rmp_serde::from_slice(&reply).unwrap();
    assert_eq!(health["healthy"], json!(true));
    host.stop().await;
}

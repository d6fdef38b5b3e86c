//! The words about what needs attention, and who is told of it.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use receiver::Receiver;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Dashboard, with_dashboard};
use crate::{
    commands::User,
    harness::{Server, client, host},
};

/// A start that fails, which needs attention as long as it is not mended.
async fn fail(dashboard: &Dashboard) -> Value {
    let id = dashboard.host.id.clone();
    let failed = json!({ "reference": "file:///nowhere/at/all.wasm", "host_id": id, "max": 1 });
    let operation = dashboard.change(Method::POST, "/actors", failed).await;
    assert_eq!(operation["state"], "failed");
    dashboard.until("/overview", |overview| item(&overview["attention"])).await
}

fn item(list: &Value) -> Option<Value> {
    let items = list.as_array()?;
    items.iter().find(|item| item["text"].to_string().contains("all.wasm")).cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_or_muted_is_so_on_every_page() {
    let server = Server::shared().await;
    let (one, two) = (Dashboard::start(&server).await, Dashboard::start(&server).await);
    let failed = fail(&one).await;
    let key = failed["key"].as_str().unwrap().to_owned();
    let path = format!("/attention/{key}");
    let ack = json!({ "said": "ack", "note": "I look" });
    let (status, body) = one.send(Method::PUT, &path, Some(ack)).await;
    assert_eq!(status, StatusCode::NO_CONTENT, "{body}");
    let said = |said: &'static str| {
        move |list: &Value| (item(&list["items"])?["mark"]["said"] == said).then_some(())
    };
    one.until("/attention", said("ack")).await;
    two.until("/attention", said("ack")).await;
    let (status, _) =
        two.send(Method::PUT, &path, Some(json!({ "said": "mute", "for_s": 3600 }))).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    for dashboard in [&one, &two] {
        dashboard
            .until("/attention", |list| {
                (item(&list["items"]).is_none() && item(&list["muted"]).is_some()).then_some(())
            })
            .await;
        let overview = dashboard.get("/overview").await;
        assert!(item(&overview["attention"]).is_none(), "{overview}");
    }
    let (status, _) = one.send(Method::DELETE, &path, None).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    two.until("/attention", |list| item(&list["items"])?["mark"].is_null().then_some(())).await;
    let (status, body) =
        one.send(Method::PUT, "/attention/x", Some(json!({ "said": "ack" }))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    let nobody =
        one.without_login().put(one.at(&path)).json(&json!({ "said": "ack" })).send().await;
    assert_eq!(nobody.unwrap().status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_host_tells_what_begins_on_the_subject_and_to_the_webhook() {
    let server = Server::shared().await;
    let receiver = Receiver::start().await;
    let nats = client::nats(&server).await;
    let mut told = nats.subscribe(format!("wasmbus.attention.{}", server.lattice())).await.unwrap();
    client::settled(&nats).await;
    let start = async || {
        let builder = with_dashboard(host(&server))
            .set("attention_webhook_url", &receiver.url)
            .set("attention_webhook_secret", "it is a secret");
        Dashboard::of(builder.start().await)
    };
    let (one, _two) = (start().await, start().await);
    let failed = fail(&one).await;
    let news: Value = loop {
        let message = tokio::time::timeout(crate::harness::PATIENCE, told.next()).await;
        let message = message.expect("news in time").expect("the subscription goes on");
        let news: Value = serde_json::from_slice(&message.payload).unwrap();
        if news["item"]["key"] == failed["key"] {
            break news;
        }
    };
    assert_eq!((&news["change"], &news["lattice"]), (&json!("began"), &json!(server.lattice())));
    assert!(!news.to_string().contains("it is a secret"));
    let (headers, body) = loop {
        let received = tokio::time::timeout(crate::harness::PATIENCE, receiver.next()).await;
        let (headers, body) = received.expect("the webhook is told");
        let sent: Value = serde_json::from_slice(&body).unwrap();
        if sent["item"]["key"] == failed["key"] {
            break (headers, body);
        }
    };
    let signature = &headers["lattice-signature"];
    let parts: BTreeMap<&str, &str> =
        signature.split(',').filter_map(|part| part.split_once('=')).collect();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"it is a secret");
    let signed = [parts["t"].as_bytes(), b".", &body].concat();
    let mac = data_encoding::HEXLOWER.decode(parts["v1"].as_bytes()).unwrap();
    aws_lc_rs::hmac::verify(&key, &signed, &mac).expect("the signature is right");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_acknowledges_mutes_and_takes_it_back() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let key = fail(&dashboard).await["key"].as_str().unwrap().to_owned();
    let user = User::of(&server);
    let mark = async |words: &[&str]| -> Value {
        user.prints(&[&["attention"], words].concat()).await;
        let told = user.json(&["attention"]).await;
        let items = told["attention"].as_array().unwrap().clone();
        let item = items.into_iter().find(|item| item["key"] == json!(key));
        item.map_or(json!("is not listed"), |item| item["mark"]["said"].clone())
    };
    assert_eq!(mark(&["ack", &key, "--note", "I look"]).await, json!("ack"));
    assert!(user.prints(&["attention"]).await.contains("I look"));
    dashboard
        .until("/attention", |list| (item(&list["items"])?["mark"]["said"] == "ack").then_some(()))
        .await;
    mark(&["mute", &key, "--for", "2h"]).await;
    dashboard.until("/attention", |list| item(&list["muted"]).map(|_| ())).await;
    assert_eq!(mark(&["clear", &key]).await, Value::Null);
    assert!(user.fails(1, &["attention", "ack", "nosuch"]).await.contains("host attention"));
    assert!(user.fails(2, &["attention", "mute", &key, "--for", "soon"]).await.contains("15m"));
    dashboard.host.stop().await;
}

/// A receiver of the webhook.
mod receiver {
    use std::collections::BTreeMap;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        sync::Mutex,
    };

    pub struct Receiver {
        pub url: String,
        listener: Mutex<TcpListener>,
    }

    impl Receiver {
        pub async fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/hook", listener.local_addr().unwrap());
            Self { url, listener: Mutex::new(listener) }
        }

        /// Takes a request, with its headers in lower case, and answers that all is well.
        pub async fn next(&self) -> (BTreeMap<String, String>, Vec<u8>) {
            let (mut stream, _) = self.listener.lock().await.accept().await.unwrap();
            let mut bytes = Vec::new();
            let (end, length, headers) = loop {
                let mut more = [0; 4096];
                let read = stream.read(&mut more).await.unwrap();
                assert!(read > 0, "the request ended within its head");
                bytes.extend_from_slice(&more[..read]);
                let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
                    continue;
                };
                let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
                let headers: BTreeMap<String, String> = head
                    .lines()
                    .filter_map(|line| line.split_once(": "))
                    .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                    .collect();
                let length: usize = headers["content-length"].parse().unwrap();
                break (end + 4, length, headers);
            };
            while bytes.len() < end + length {
                let mut more = [0; 4096];
                let read = stream.read(&mut more).await.unwrap();
                assert!(read > 0, "the request ended within its body");
                bytes.extend_from_slice(&more[..read]);
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            (headers, bytes[end..end + length].to_vec())
        }
    }
}

//! One actor per contract, through whole hosts: from a browser's request to what the capability
//! does.

use std::time::Duration;

use futures::StreamExt;
use lattice_engine::providers::builtin::{blobstore, httpclient, httpserver, messaging};
use reqwest::StatusCode;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{
    FETCHER, PANTRY, POSTBOX, Server, TestHost,
    client::{self, link, start, start_provider},
    eventually, example, host,
    nats::free_port,
    origin::Origin,
};

/// Starts an actor and the provider it is for, links both and the HTTP server; returns the page's
/// address.
async fn page(server: &Server, host: &TestHost, actor: &str, name: &str) -> String {
    start_provider(server, host, "builtin://httpserver").await;
    start(server, host, &example(name), 20).await;
    let address = format!("127.0.0.1:{}", free_port());
    let values = [("address", address.as_str()), ("timeout_ms", "10000")];
    link(server, actor, httpserver::SPEC.known.public_key, "wasmcloud:httpserver", &values).await;
    eventually("the page is there", || async { std::net::TcpStream::connect(&address).ok() }).await;
    format!("http://{address}")
}

#[tokio::test]
async fn an_actor_fetches_pages_by_the_linked_client_only() {
    let (server, origin) = (Server::shared().await, Origin::start().await);
    let host = host(&server).start().await;
    let page = page(&server, &host, FETCHER, "fetcher").await;
    let url = format!("{page}/?url=http://127.0.0.1:{}/status/418", origin.port);
    let refused = reqwest::get(&url).await.unwrap();
    assert_eq!(refused.status(), StatusCode::BAD_GATEWAY);
    assert!(
        refused.text().await.unwrap().contains("link"),
        "the error says that a link is missing"
    );

    start_provider(&server, &host, "builtin://httpclient").await;
    let values = [("allow_loopback", "true")];
    link(&server, FETCHER, httpclient::SPEC.known.public_key, "wasmcloud:httpclient", &values)
        .await;
    assert_eq!(reqwest::get(&url).await.unwrap().status(), StatusCode::IM_A_TEAPOT);
    let echoed = format!("{page}/?url=http://127.0.0.1:{}/echo", origin.port);
    let echoed = reqwest::Client::new().post(echoed).body("hello").send().await.unwrap();
    assert!(echoed.text().await.unwrap().contains("POST"));

    let metadata =
        reqwest::get(format!("{page}/?url=http://169.254.169.254/latest")).await.unwrap();
    assert_eq!(metadata.status(), StatusCode::BAD_GATEWAY);
    assert!(
        metadata.text().await.unwrap().contains("allow_link_local"),
        "the refusal says what lifts it"
    );
    host.stop().await;
}

#[tokio::test]
async fn an_actor_sends_and_receives_messages() {
    let server = Server::start().await;
    let host = host(&server).start().await;
    let page = page(&server, &host, POSTBOX, "postbox").await;
    start_provider(&server, &host, "builtin://messaging").await;
    let values = [("subscription", "letters.>")];
    link(&server, POSTBOX, messaging::SPEC.known.public_key, "wasmcloud:messaging", &values).await;
    let nats = client::nats(&server).await;

    // From the lattice to the actor, which answers.
    let answer = eventually("the actor has subscribed", || async {
        nats.request("letters.home", "dear".into()).await.ok()
    })
    .await;
    assert_eq!(answer.payload, "DEAR");

    // From the actor to the lattice, and a question of the actor that something there answers.
    let mut heard = nats.subscribe("out.>").await.unwrap();
    let mut asked = nats.subscribe("question").await.unwrap();
    crate::harness::client::settled(&nats).await;
    let http = reqwest::Client::new();
    let sent = http.post(format!("{page}/publish/out.there")).body("hello").send().await.unwrap();
    assert!(sent.status().is_success(), "{}", sent.text().await.unwrap());
    assert_eq!(heard.next().await.unwrap().payload, "hello");
    let responder = tokio::spawn(async move {
        let question = asked.next().await.unwrap();
        nats.publish(question.reply.unwrap(), "42".into()).await.unwrap();
        crate::harness::client::settled(&nats).await;
    });
    let reply = http
        .post(format!("{page}/request/question?timeout_ms=5000"))
        .body("?")
        .send()
        .await
        .unwrap();
    assert_eq!(reply.text().await.unwrap(), "42");
    responder.await.unwrap();
    // Its own lattice's calls are none of an actor's business.
    let forbidden = http
        .post(format!("{page}/publish/wasmbus.rpc.{}.x", server.lattice()))
        .body("x")
        .send()
        .await
        .unwrap();
    assert_eq!(forbidden.status(), StatusCode::BAD_GATEWAY);
    host.stop().await;
}

async fn five_megabytes(values: &[(&str, &str)]) {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let page = page(&server, &host, PANTRY, "pantry").await;
    start_provider(&server, &host, "builtin://blobstore").await;
    link(&server, PANTRY, blobstore::SPEC.known.public_key, "wasmcloud:blobstore", values).await;
    let body: Vec<u8> = (0..5_000_000_u32).map(|index| (index % 251) as u8).collect();
    let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
    let url = format!("{page}/shelf/jar");
    let put = http
        .put(&url)
        .header("content-type", "application/x-jam")
        .body(body.clone())
        .send()
        .await
        .unwrap();
    assert_eq!(put.status(), StatusCode::CREATED, "{}", put.text().await.unwrap());
    let got = http.get(&url).send().await.unwrap();
    assert_eq!(got.headers()["content-type"], "application/x-jam");
    assert!(got.bytes().await.unwrap() == body, "what comes out is what went in");
    let listed: Value = serde_json::from_str(
        &http.get(format!("{page}/shelf")).send().await.unwrap().text().await.unwrap(),
    )
    .unwrap();
    assert_eq!(listed["objects"][0]["size"], 5_000_000);
    assert_eq!(http.delete(&url).send().await.unwrap().status(), StatusCode::NO_CONTENT);
    assert_eq!(http.get(&url).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    host.stop().await;
}

#[tokio::test]
async fn five_megabytes_go_into_a_directory_and_out_again() {
    let dir = TempDir::new().unwrap();
    five_megabytes(&[("root", &dir.path().display().to_string())]).await;
}

#[tokio::test]
async fn five_megabytes_go_into_the_object_store_and_out_again() {
    five_megabytes(&[("backend", "nats")]).await;
}

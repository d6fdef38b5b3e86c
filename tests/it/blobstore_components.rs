//! The built-in blob store as components use it: by ranges of objects.

use lattice_engine::providers::builtin::{blobstore, httpserver};
use wascap::prelude::KeyPair;

use crate::harness::{
    Server,
    client::{link_builtin, start, start_provider},
    eventually, fixtures,
    guests::{Signing, sign_module},
    host,
    nats::free_port,
};

/// A component whose only permit is taken by the request that reads gets no chunks sent, so the
/// provider may not be asked for more than it answers at once.
async fn large_objects_come_back_through_one_instance(chunk_bytes: &str) {
    let server = Server::start().await;
    let host = host(&server).set("rpc_timeout_ms", "20000").start().await;
    let caps = ["wasmcloud:httpserver", "wasmcloud:blobstore"].map(str::to_owned).to_vec();
    let signing = Signing { caps, ..Signing::default() };
    let wasm = fixtures::wash_runtime("http_blobstore.wasm");
    let guest = sign_module(&wasm, &signing, KeyPair::new_module());
    start(&server, &host, &guest.reference, 1).await;
    let address = format!("127.0.0.1:{}", free_port());
    for (spec, value) in [
        (&httpserver::SPEC, ("address", address.as_str())),
        (&blobstore::SPEC, ("max_chunk_size_bytes", chunk_bytes)),
    ] {
        start_provider(&server, &host, &format!("builtin://{}", spec.known.name)).await;
        link_builtin(&server, &guest.id, spec, &[value]).await;
    }
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let echoed = async |text: &str| {
        let request = client.post(format!("http://{address}/")).body(text.to_owned());
        let answer = request.send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    };
    eventually("a small object comes back", async || {
        (echoed("small").await? == (200, "small".to_owned())).then_some(())
    })
    .await;
    let large = "0123456789abcdef".repeat(600_000);
    let (status, body) = echoed(&large).await.expect("an answer");
    assert!(status == 200 && body == large, "{status} {}", body.len());
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_objects_come_back_in_usual_chunks() {
    large_objects_come_back_through_one_instance("256K").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_objects_come_back_in_small_chunks() {
    large_objects_come_back_through_one_instance("16K").await;
}

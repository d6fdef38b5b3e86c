//! Modules and components beside each other: what commands tell of each.

use std::fs;

use serde_json::json;
use tempfile::TempDir;
use wascap::prelude::KeyPair;

use crate::{
    commands::User,
    harness::{
        ECHO, Server,
        client::{ctl_2022, ctl_2024, start},
        example, fixtures,
        guests::{Signing, sign_module},
        host,
    },
};

const PAGE: &str = "http_blobstore.wasm";

#[tokio::test(flavor = "multi_thread")]
async fn the_world_of_a_component_is_printed_whether_it_is_signed_or_not() {
    let server = Server::shared().await;
    let user = User::of(&server);
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("page.wasm");
    let path = file.display().to_string();
    fs::write(&file, fixtures::wash_runtime(PAGE)).expect("written");
    let signed = dir.path().join("page_s.wasm").display().to_string();
    user.prints(&["claims", "sign", &path, "-d", &signed]).await;
    for words in [["inspect", &path], ["inspect", &signed]] {
        let text = user.prints(&[&words[..], &["--wit"]].concat()).await;
        for part in [
            "world root {",
            "import wasi:blobstore/container@0.2.0-draft;",
            "export wasi:http/incoming-handler@0.2.2;",
            "handle: func(request: incoming-request, response-out: response-outparam);",
            "get-container: func(name: container-name) -> result<container, error>;",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
    let told = user.json(&["claims", "inspect", &signed, "--wit"]).await;
    assert!(told["wit"].as_str().expect("a text").contains("world root {"));

    let echo = example("echo").trim_start_matches("file://").to_owned();
    let error = user.fails(1, &["inspect", &echo, "--wit"]).await;
    assert!(error.contains("core module") && error.contains("wasm-tools component new"), "{error}");
    let whole = fs::read(&file).expect("the component");
    fs::write(&file, &whole[..whole.len() - 100]).expect("written");
    let error = user.fails(1, &["inspect", &path, "--wit"]).await;
    assert!(error.contains("page.wasm"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inventory_tells_the_kind_of_an_actor_and_old_clients_read_it_all_the_same() {
    let server = Server::start().await;
    let host = host(&server).start().await;
    let caps = ["wasmcloud:httpserver", "wasmcloud:blobstore"].map(str::to_owned).to_vec();
    let signing = Signing { name: Some("page".into()), caps, ..Signing::default() };
    let guest = sign_module(&fixtures::wash_runtime(PAGE), &signing, KeyPair::new_module());
    start(&server, &host, &guest.reference, 2).await;
    start(&server, &host, &example("echo"), 1).await;

    let user = User::of(&server);
    let text = user.prints(&["get", "inventory", "-o", "wide"]).await;
    let row = |id: &str| text.lines().find(|line| line.contains(id)).expect("a row").to_owned();
    let page = row(&guest.id);
    assert!(page.contains("component 0.2") && page.contains("wasi:http/incoming-handler@0.2.2"));
    assert!(row(ECHO).contains("module"), "{text}");
    let told = user.json(&["get", "inventory", &host.id]).await;
    let actors = told["inventories"][0]["actors"].as_array().expect("actors").clone();
    let code = |id: &str| {
        let actor = actors.iter().find(|actor| actor["id"] == id);
        actor.expect("it runs")["code"].clone()
    };
    let exports = ["wasi:http/incoming-handler@0.2.2"];
    assert_eq!(code(&guest.id), json!({ "kind": "component", "wasi": "0.2", "exports": exports }));
    assert_eq!(code(ECHO), json!({ "kind": "module", "exports": [] }));

    let of_2022 = ctl_2022(&server).await.get_host_inventory(&host.id).await.expect("2022");
    let of_2024 = ctl_2024(&server).await.get_host_inventory(&host.id).await.expect("2024");
    assert_eq!((of_2022.actors.len(), of_2024.actors.len()), (2, 2));
    host.stop().await;
}

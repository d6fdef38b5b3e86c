//! The page knows modules from components: what it shows of each, and how it calls them.

use lattice_engine::providers::builtin::blobstore;
use reqwest::Method;
use serde_json::json;
use wascap::prelude::KeyPair;

use super::{Dashboard, start};
use crate::harness::{
    ECHO, Server,
    browser::Browser,
    client, example, fixtures,
    guests::{Guest, Signing, sign_module},
};

/// A component that takes messages and runs as a job; it does nothing, and that well.
const WORKER: &str = r#"(component
    (core module $code
        (memory (export "memory") 1)
        (global $free (mut i32) (i32.const 1024))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32)
            (global.get $free)
            (global.set $free (i32.add (global.get $free)
                (i32.and (i32.add (local.get 3) (i32.const 15)) (i32.const -8)))))
        (func (export "handle") (param i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 16))
        (func (export "run") (result i32) (i32.const 0)))
    (core instance $code (instantiate $code))
    (alias core export $code "memory" (core memory $memory))
    (alias core export $code "realloc" (core func $realloc))
    (type $message (record (field "subject" string) (field "body" (list u8))
        (field "reply-to" (option string))))
    (type $handle (func (param "msg" $message) (result (result (error string)))))
    (func $handle (type $handle) (canon lift (core func $code "handle")
        (memory $memory) (realloc $realloc)))
    (func $run (result (result)) (canon lift (core func $code "run")))
    (component $named
        (type $message (record (field "subject" string) (field "body" (list u8))
            (field "reply-to" (option string))))
        (import "message" (type $imported (eq $message)))
        (import "handle" (func $handle (param "msg" $imported) (result (result (error string)))))
        (export $exported "broker-message" (type $imported))
        (export "handle-message" (func $handle)
            (func (param "msg" $exported) (result (result (error string))))))
    (instance $handler (instantiate $named (with "message" (type $message))
        (with "handle" (func $handle))))
    (export "wasmcloud:messaging/handler@0.2.0" (instance $handler))
    (instance $job (export "run" (func $run)))
    (export "wasi:cli/run@0.2.0" (instance $job)))"#;

fn named(name: &str, wasm: &[u8], caps: &[&str]) -> Guest {
    let caps = caps.iter().map(|cap| (*cap).to_owned()).collect();
    let signing = Signing { name: Some(name.to_owned()), caps, ..Signing::default() };
    sign_module(wasm, &signing, KeyPair::new_module())
}

/// The host with a component that keeps what is sent to it, one that works, and a module.
async fn furnished(server: &Server) -> (Dashboard, Guest, Guest) {
    let dashboard = Dashboard::start(server).await;
    let id = dashboard.host.id.clone();
    let wasm = fixtures::wash_runtime("http_blobstore.wasm");
    let page = named("page", &wasm, &["wasmcloud:httpserver", "wasmcloud:blobstore"]);
    let worker = wat::parse_str(WORKER).expect("a component");
    let worker = named("worker", &worker, &["wasmcloud:messaging"]);
    let request = json!({ "reference": "builtin://blobstore", "host_id": id });
    dashboard.done(Method::POST, "/providers", request).await;
    for reference in [&page.reference, &worker.reference, &example("echo")] {
        dashboard.done(Method::POST, "/actors", start(reference, Some(&id))).await;
    }
    let provider = blobstore::SPEC.known.public_key;
    client::link(server, &page.id, provider, "wasmcloud:blobstore", &[]).await;
    (dashboard, page, worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_tells_the_kind_of_an_actor_and_what_it_exports() {
    let server = Server::shared().await;
    let (dashboard, page, worker) = furnished(&server).await;
    let kinds = |actor: &serde_json::Value| {
        let told = (actor["kind"].clone(), actor["wasi"].clone(), actor["exports"].clone());
        serde_json::to_value(told).expect("values")
    };
    let known = |actor: &serde_json::Value| (actor["hosts"] == 1).then(|| kinds(actor));
    for (id, expected) in [
        (ECHO, json!(["module", null, []])),
        (&page.id, json!(["component", "0.2", ["wasi:http/incoming-handler@0.2.2"]])),
        (
            &worker.id,
            json!([
                "component",
                "0.2",
                ["wasmcloud:messaging/handler@0.2.0", "wasi:cli/run@0.2.0"]
            ]),
        ),
    ] {
        assert_eq!(dashboard.until(&format!("/actors/{id}"), known).await, expected, "{id}");
    }
    let found = dashboard.get("/actors?q=incoming-handler").await;
    assert_eq!((&found["total"], &found["items"][0]["name"]), (&json!(1), &json!("page")));
    let sorted = dashboard.get("/actors?sort=kind").await;
    let last = sorted["items"].as_array().and_then(|items| items.last()).cloned();
    assert_eq!(last.expect("actors")["id"], ECHO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_is_called_by_forms_of_its_exports() {
    let server = Server::shared().await;
    let (dashboard, page, worker) = furnished(&server).await;
    let browser = Browser::start().await;
    dashboard.enter(&browser).await;
    let at = |path: &str| dashboard.url.join(path).expect("a path").to_string();

    browser.open(&at(&format!("/actors/{}", page.id))).await;
    browser.with_text("main .facts", "component 0.2").await;
    browser.with_text("main .facts", "wasi:http/incoming-handler@0.2.2").await;

    browser.open(&at(&format!("/call?actor={}", page.id))).await;
    browser.with_text("main .segmented .on", "HTTP request").await;
    assert_eq!(browser.violations().await, Vec::<String>::new());
    let post = "main select option[value=POST]";
    browser.see("main select").await;
    browser.client.find(fantoccini::Locator::Css(post)).await.unwrap().click().await.unwrap();
    browser.fill("Path", "/kept?as=it is").await;
    browser.click("main button", "Add a header").await;
    browser.fill("Name 1", "X-Note").await;
    browser.fill("Value 1", "a header").await;
    browser.fill("Body", "to and fro, ä").await;
    browser.picture("call-component").await;
    browser.click("main button[type=submit]", "Call").await;
    browser.with_text("main .reply", "200").await;
    browser.with_text("main .reply", "to and fro, ä").await;

    // A job has another form; a message, too.
    browser.open(&at(&format!("/call?actor={}", worker.id))).await;
    browser.with_text("main .segmented .on", "Message").await;
    browser.fill("Subject", "news").await;
    browser.click("main button[type=submit]", "Call").await;
    browser.with_text("main .reply", "ok").await;
    browser.click("main .segmented label", "Job").await;
    browser.fill("Standard input", "5").await;
    browser.click("main button[type=submit]", "Call").await;
    browser.with_text("main .reply", "(an empty text)").await;
    // An earlier call is one click away, form and all.
    browser.click("main .call-item", "MessageSubscriber.HandleMessage").await;
    browser.with_text("main .segmented .on", "Message").await;

    // A module has the one form it always had.
    browser.open(&at(&format!("/call?actor={ECHO}"))).await;
    browser.with_text("main .field", "Payload, as JSON").await;
    browser.no_text("main .segmented", "Any operation").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

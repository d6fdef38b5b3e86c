//! The page of applications: manifests that are dropped, compared and applied; desired beside
//! actual; rollouts with their numbers; the way back; and why nothing can be done.

use futures::StreamExt as _;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use wascap::prelude::KeyPair;

use super::{Dashboard, with_dashboard};
use crate::harness::{
    Server,
    browser::Browser,
    client::{self, Caller},
    eventually, example,
    guests::{Guest, Signing, sign_as, wapc},
    host,
    nats::free_port,
};

const ESCAPE: &str = "\u{e00c}";
/// Answers what it is called.
const GOOD: &str = "(call $response (i32.const 0) (i32.const 5)) (i32.const 1)";

/// The echo actor behind an HTTP server on a port; of a zone, if one is named.
fn shop(instances: u32, port: u16, zone: Option<&str>) -> String {
    let requirements =
        zone.map(|zone| format!("requirements: {{zone: {zone}}}")).unwrap_or_default();
    format!(
        "apiVersion: core.oam.dev/v1beta1
kind: Application
metadata:
  name: shop
  annotations:
    description: Sells what the echo says
spec:
  components:
    - name: front
      type: actor
      properties: {{image: \"{}\"}}
      traits:
        - type: spreadscaler
          properties:
            instances: {instances}
            spread:
              - name: all
                {requirements}
        - type: linkdef
          properties: {{target: web, values: {{address: \"127.0.0.1:{port}\"}}}}
    - name: web
      type: capability
      properties: {{image: \"builtin://httpserver\", contract: \"wasmcloud:httpserver\"}}
",
        example("echo")
    )
}

fn texts(text: &str) -> Value {
    json!({ "texts": [{ "name": "shop.yaml", "text": text }] })
}

/// Applies a text, whatever comes of it.
async fn apply(dashboard: &Dashboard, text: &str) -> Value {
    dashboard.change(Method::POST, "/apply", texts(text)).await
}

async fn open(dashboard: &Dashboard, browser: &Browser, path: &str) {
    browser.open(dashboard.url.join(path).unwrap().as_str()).await;
    browser.see("main h1").await;
}

/// Drops a file on the page, as a hand would.
async fn drop_file(browser: &Browser, name: &str, text: &str) {
    let script = format!(
        "const data = new DataTransfer(); data.items.add(new File([{}], {}));
         const view = document.querySelector('main .view');
         for (const type of ['dragenter', 'dragover', 'drop']) view.dispatchEvent(new DragEvent(type, {{ dataTransfer: data, \
         bubbles: true, cancelable: true }}));",
        json!(text),
        json!(name)
    );
    // The page takes files when it knows that hosts keep applications.
    eventually("the page takes files", || async {
        browser.find_text("main .page-actions button, main .empty button", "").await
    })
    .await;
    browser.run(&script).await;
    browser.see("dialog[open]").await;
}

/// Chooses in the menu of the actions of an application.
async fn choose(browser: &Browser, item: &str) {
    let button = "main header button[aria-haspopup]";
    eventually(item, || async {
        browser.client.find(fantoccini::Locator::Css(button)).await.ok()?.click().await.ok()?;
        browser.find_text("[role=menuitem]", item).await?.click().await.ok()
    })
    .await;
    browser.see("dialog[open]").await;
}

/// Sends the open form, waits for the end of what it sets off, and leaves the dialog.
async fn submit(browser: &Browser, end: &str) {
    browser.click("dialog[open] button[type=submit]:not([disabled])", "").await;
    browser.with_text("dialog[open] .dialog-stage", end).await;
    browser.press(ESCAPE).await;
    eventually("the dialog is gone", || async {
        (browser.run("return document.querySelectorAll('dialog[open]').length").await == 0)
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_dropped_compared_applied_and_taken_down_on_the_page() {
    let server = Server::shared().await;
    let builder = with_dashboard(host(&server)).label("zone", "east");
    let dashboard = Dashboard::of(builder.start().await);
    let browser = Browser::start().await;
    dashboard.enter(&browser).await;
    open(&dashboard, &browser, "/applications").await;
    browser.with_text("main .empty", "host apply -f app.yaml").await;
    assert_eq!(browser.violations().await, Vec::<String>::new());
    browser.picture("applications-empty").await;

    // Mistakes are told with file, line and cause, and nothing can be applied.
    let port = free_port();
    let first = shop(2, port, None);
    drop_file(&browser, "broken.yaml", &format!("{first}---\nkind: Application\nmetadata: [\n"))
        .await;
    browser.with_text("dialog[open] .mistakes", "broken.yaml, document 2").await;
    browser.with_text("dialog[open] .mistakes", "line 2").await;
    assert_eq!(browser.violations().await, Vec::<String>::new());
    browser.picture("apply-mistakes").await;
    browser.see("dialog[open] button[type=submit][disabled]").await;
    browser.press(ESCAPE).await;

    // First what would change, then the change.
    drop_file(&browser, "shop.yaml", &first).await;
    browser.with_text("dialog[open] .diff", "+kind: Application").await;
    browser.with_text("dialog[open] .planned", "new").await;
    assert_eq!(dashboard.get("/applications").await["total"], 0);
    assert_eq!(browser.violations().await, Vec::<String>::new());
    browser.picture("apply-preview").await;
    submit(&browser, "is deployed").await;
    browser.with_text("main tbody .badge", "deployed").await;
    browser.picture("applications-list").await;

    // Desired beside actual, and what is there is reached.
    browser.click("main tbody a", "shop").await;
    browser.with_text("main h1", "shop").await;
    browser.with_text("main .part", "front").await;
    browser.with_text("main .stat", "3 of 3").await;
    let url = format!("http://127.0.0.1:{port}/");
    eventually("the page answers", || async { reqwest::get(&url).await.ok() }).await;
    browser.picture("application-deployed").await;

    // A rule that no host fits says so; the page shows it without a reload.
    let version =
        dashboard.get("/applications/shop").await["deployed"].as_str().unwrap().to_owned();
    let impossible = apply(&dashboard, &shop(4, port, Some("moon"))).await;
    assert_eq!(impossible["state"], "failed", "{impossible}");
    browser.with_text("main header .badge", "failed").await;
    browser.with_text("main .note", "0/1 eligible hosts found").await;
    browser.see("nav.sidebar a[href='/applications'] .dot").await;
    assert_eq!(browser.violations().await, Vec::<String>::new());
    browser.picture("application-failed").await;

    // The way back.
    open(&dashboard, &browser, "/applications/shop?tab=versions").await;
    browser.with_text("main .diff", "zone: moon").await;
    browser.picture("application-versions").await;
    assert_eq!(browser.violations().await, Vec::<String>::new());
    browser.click("main table button", "Roll back to it").await;
    browser.with_text("dialog[open] .diff", "-").await;
    browser.picture("application-roll-back").await;
    submit(&browser, "is deployed").await;
    browser.with_text("main header .badge", "deployed").await;
    assert_eq!(dashboard.get("/applications/shop").await["deployed"], json!(version));

    // Down, with what stops.
    choose(&browser, "Undeploy").await;
    browser.with_text("dialog[open] .stops", "2 instances").await;
    browser.with_text("dialog[open] .stops", "1 link").await;
    assert_eq!(browser.violations().await, Vec::<String>::new());
    browser.picture("application-undeploy").await;
    submit(&browser, "is undeployed").await;
    browser.with_text("main header .badge", "undeployed").await;
    dashboard.until("/actors", |actors| (actors["total"] == 0).then_some(())).await;
    browser.picture("application-undeployed").await;
    choose(&browser, "Delete").await;
    browser.with_text("dialog[open]", "nothing").await;
    submit(&browser, "is deleted").await;
    dashboard.until("/applications", |all| (all["total"] == 0).then_some(())).await;
    open(&dashboard, &browser, "/applications").await;
    browser.with_text("main .empty", "There are no applications yet").await;
    // The page asks once more for what it shows, and is told that it is gone; the browser logs
    // that.
    let mut complaints = browser.complaints().await;
    complaints.retain(|text| !(text.contains("/applications/shop") && text.contains("404")));
    assert_eq!(complaints, Vec::<String>::new());
}

/// A revision of an actor, in a file.
fn revision_of(key: &KeyPair, revision: i32) -> Guest {
    let signing = Signing { revision: Some(revision), ..Signing::default() };
    sign_as(&wapc(GOOD), &signing, KeyPair::from_seed(&key.seed().unwrap()).unwrap())
}

/// A version of an application whose actor takes over in steps.
fn in_steps(version: &str, image: &str) -> String {
    let manifest = json!({
        "apiVersion": "core.oam.dev/v1beta1", "kind": "Application",
        "metadata": {"name": "shop", "annotations": {"version": version}},
        "spec": {"components": [{
            "name": "front", "type": "actor", "properties": {"image": image},
            "traits": [
                {"type": "spreadscaler", "properties": {"instances": 2}},
                {"type": "rollout", "properties": {
                    "steps": [{"percent": 20}, {"percent": 60}], "calls": 1000, "max_p99_percent": 100_000,
                }},
            ],
        }]},
    });
    manifest.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_takes_over_with_its_numbers_and_is_taken_back_on_the_page() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let caller = Caller::new(&server).await;
    let key = KeyPair::new_module();
    let [first, second] = [1, 2].map(|revision| revision_of(&key, revision));
    let applied = apply(&dashboard, &in_steps("v1", &first.reference)).await;
    assert_eq!(applied["state"], "done", "{applied}");
    let browser = Browser::start().await;
    dashboard.enter(&browser).await;
    open(&dashboard, &browser, "/applications/shop").await;
    browser.with_text("main header .badge", "deployed").await;

    // It does not wait for the end, which calls decide about.
    let applied = apply(&dashboard, &in_steps("v2", &second.reference)).await;
    assert_eq!(applied["state"], "done", "{applied}");
    browser.with_text("main header .badge", "rolling out").await;
    browser.with_text("main .step.here", "20 %").await;
    dashboard
        .until("/actors", |actors| {
            (actors["items"][0]["references"] == json!([second.reference])).then_some(())
        })
        .await;
    for _ in 0..100 {
        caller.call(&key.public_key(), "Op", vec![0; 3]).await.unwrap();
    }
    let told = dashboard
        .until("/applications/shop", |shop| {
            let rollout = &shop["rollout"];
            (rollout["newer"]["calls"].as_u64()? >= 20).then(|| rollout.clone())
        })
        .await;
    assert_eq!((&told["share"], &told["calls_wanted"]), (&json!(20), &json!(1000)), "{told}");
    browser.with_text("main .card", "The step is judged after 1,000 calls of v2").await;
    browser.with_text("main .card table", "20 %").await;
    assert_eq!(browser.violations().await, Vec::<String>::new());
    browser.picture("application-rollout").await;

    browser.click("main .card button", "Pause").await;
    submit(&browser, "stays at step 1").await;
    browser.with_text("main .card .badge", "paused").await;
    browser.click("main .card button", "Go on now").await;
    browser.with_text("dialog[open]", "60 % of the calls").await;
    submit(&browser, "at step 2").await;
    browser.with_text("main .step.here", "60 %").await;
    browser.click("main .card button", "Abort").await;
    browser.picture("application-abort").await;
    submit(&browser, "was taken back").await;
    browser.with_text("main header .badge", "failed").await;
    browser.with_text("main .card", "an operator ended it").await;
    browser.picture("application-taken-back").await;
    assert_eq!(browser.violations().await, Vec::<String>::new());
    let over = dashboard
        .change(Method::POST, "/applications/shop/rollout", json!({ "action": "resume" }))
        .await;
    assert_eq!(over["state"], "failed", "{over}");
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_manifests_unknown_names_and_strangers_are_refused() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    dashboard.until("/keeping", |keeping| (keeping["keeper"] == "hosts").then_some(())).await;
    let good = shop(1, free_port(), None);
    let post = |path: &'static str, body: Value| dashboard.send(Method::POST, path, Some(body));

    let (status, mistakes) = post("/apply/preview", texts("just a text")).await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        mistakes["mistakes"][0].as_str().unwrap().starts_with("shop.yaml, document 1"),
        "{mistakes}"
    );
    let relative = good.replace("builtin://httpserver", "file://build/x.par.gz");
    let twice = format!("{good}---\n{good}");
    let large = "#".repeat((2 << 20) + 1);
    let many: Vec<Value> =
        (0..65).map(|n| json!({ "name": format!("{n}.yaml"), "text": "a: b" })).collect();
    let wish = json!({ "action": "hurry" });
    let unprocessable = StatusCode::UNPROCESSABLE_ENTITY;
    for (path, body, status, words) in [
        ("/apply", texts("just a text"), unprocessable, "document 1"),
        ("/apply", texts("kind: ["), unprocessable, "line 1"),
        ("/apply", texts(" \n"), unprocessable, "no manifest"),
        (
            "/apply",
            texts("apiVersion: v1\nkind: ConfigMap"),
            unprocessable,
            "a ConfigMap is no Application",
        ),
        ("/apply", texts(&relative), unprocessable, "line 23: "),
        (
            "/apply",
            texts(&twice),
            unprocessable,
            "application shop is in shop.yaml, document 1 too",
        ),
        ("/apply", json!({ "texts": many }), unprocessable, "64 files"),
        ("/apply", json!({ "text": "x" }), unprocessable, "texts"),
        ("/apply", texts(&large), StatusCode::PAYLOAD_TOO_LARGE, "body"),
        ("/apply/preview", texts(&large), StatusCode::PAYLOAD_TOO_LARGE, "body"),
        (
            "/applications/nobody/deploy",
            json!({ "version": "v1" }),
            StatusCode::NOT_FOUND,
            "nobody",
        ),
        ("/applications/nobody/undeploy", json!({}), StatusCode::NOT_FOUND, "nobody"),
        (
            "/applications/nobody/rollout",
            json!({ "action": "abort" }),
            StatusCode::NOT_FOUND,
            "nobody",
        ),
        ("/applications/nobody/rollout", wish, unprocessable, "hurry"),
        ("/applications/a.b/undeploy", json!({}), unprocessable, "names no application"),
        ("/applications/%3E/undeploy", json!({}), unprocessable, "names no application"),
    ] {
        let (answered, answer) = post(path, body).await;
        assert_eq!(answered, status, "{path}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(words), "{path}: {answer}");
    }
    for path in ["/applications/nobody", "/applications/nobody/manifest?version=v1"] {
        let (status, answer) = dashboard.send(Method::GET, path, None).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}: {answer}");
    }

    // Nothing of all that was stored; and whoever has no token only reads, and no values.
    assert_eq!(dashboard.get("/applications").await["total"], 0);
    let (_, seen) = post("/apply/preview", texts(&good)).await;
    let mut sent = texts(&good);
    sent["seen"] = seen["seen"].clone();
    let applied = dashboard.done(Method::POST, "/apply", sent.clone()).await;
    assert!(applied["text"].as_str().unwrap().contains("is deployed"), "{applied}");
    let (status, answer) = post("/apply", sent).await;
    assert_eq!(status, StatusCode::CONFLICT, "{answer}");
    let stranger = dashboard.without_login();
    for (method, path) in [
        (Method::POST, "/apply"),
        (Method::POST, "/apply/preview"),
        (Method::POST, "/applications/shop/deploy"),
        (Method::POST, "/applications/shop/undeploy"),
        (Method::POST, "/applications/shop/rollout"),
        (Method::DELETE, "/applications/shop"),
    ] {
        let request = stranger.request(method.clone(), dashboard.at(path)).json(&texts(&good));
        assert_eq!(
            request.send().await.unwrap().status(),
            StatusCode::UNAUTHORIZED,
            "{method} {path}"
        );
    }
    let version = seen["items"][0]["version"].as_str().unwrap();
    let manifest = format!("/applications/shop/manifest?version={version}");
    for path in ["/applications/shop", &manifest] {
        let answer = stranger.get(dashboard.at(path)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let text = answer.text().await.unwrap();
        assert!(text.contains("front") && !text.contains("127.0.0.1:"), "{text}");
    }
    assert!(dashboard.get(&manifest).await["text"].as_str().unwrap().contains("127.0.0.1:"));
    // A form of another page cannot send JSON.
    let form = stranger.post(dashboard.at("/apply")).bearer_auth(&dashboard.token);
    let form = form.header("content-type", "text/plain").body(texts(&good).to_string());
    assert_eq!(form.send().await.unwrap().status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_manager_answers_or_nobody_can_the_page_says_why_nothing_can_be_done() {
    let server = Server::shared().await;
    let nats = client::nats(&server).await;
    let subject = format!("wadm.api.{}.>", server.lattice());
    let mut requests = nats.queue_subscribe(subject, "wadm_server".into()).await.unwrap();
    client::settled(&nats).await;
    let manager = {
        let nats = nats.clone();
        tokio::spawn(async move {
            let list = json!([{ "name": "theirs", "version": "v1", "description": null,
                "deployed_version": "v1", "status": "deployed", "status_message": null }]);
            while let Some(request) = requests.next().await {
                let answer = list.to_string().into();
                nats.publish(request.reply.expect("a request"), answer).await.unwrap();
            }
        })
    };
    let dashboard = Dashboard::start(&server).await;
    let browser = Browser::start().await;
    dashboard.enter(&browser).await;
    open(&dashboard, &browser, "/applications").await;
    browser.with_text("main .note", "A deployment manager (wadm)").await;
    browser.with_text("main tbody", "theirs").await;
    browser.no_text("main button", "Apply manifests").await;
    assert_eq!(browser.violations().await, Vec::<String>::new());
    browser.picture("applications-manager").await;
    let (status, answer) =
        dashboard.send(Method::POST, "/apply", Some(texts(&shop(1, 1, None)))).await;
    assert_eq!(status, StatusCode::CONFLICT, "{answer}");
    manager.abort();

    // Without JetStream there is no place for applications.
    let bare = Server::with_config(None, "").await;
    let dashboard = Dashboard::start(&bare).await;
    dashboard.enter(&browser).await;
    open(&dashboard, &browser, "/applications").await;
    browser.with_text("main .note", "JetStream").await;
    browser.picture("applications-unavailable").await;
    let (status, answer) =
        dashboard.send(Method::POST, "/apply", Some(texts(&shop(1, 1, None)))).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY, "{answer}");
}

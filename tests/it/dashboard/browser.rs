//! The page in a real browser: every view, every action with mouse and keyboard, the rules of
//! accessibility, and what it looks like, for `target/dashboard`.

use std::process::Command;

use lattice_engine::providers::builtin::httpserver;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Dashboard, start, with_dashboard};
use crate::harness::{
    ECHO, KVCOUNTER, Server,
    browser::{Browser, CONTROL},
    client, eventually, example,
    guests::{self, Signing},
    host,
    nats::free_port,
    process::{Process, member},
};

pub const ESCAPE: &str = "\u{e00c}";
const ENTER: &str = "\u{e007}";

/// How far the document is longer than the window, and the view longer than what is in it (but for
/// the pixel of a rounded size).
const VOIDS: &str = "const main = document.getElementById('main'); \
    const below = main.firstElementChild.getBoundingClientRect().bottom + main.scrollTop; \
    const end = main.getBoundingClientRect().top + main.scrollHeight; \
    const is_filled = main.scrollHeight <= main.clientHeight; \
    return [Math.max(0, document.documentElement.scrollHeight - innerHeight), \
        is_filled ? 0 : Math.max(0, Math.round(end - below) - 1)]";

/// A name that would do harm if it were taken for markup.
const HOSTILE: &str =
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>";

/// Something of everything: an actor that is called, providers, links, one of them dangling.
async fn furnished(server: &Server) -> (Dashboard, String) {
    let dashboard =
        Dashboard::of(with_dashboard(host(server)).label("machine", "first").start().await);
    let id = dashboard.host.id.clone();
    for reference in ["builtin://httpserver", "builtin://keyvalue"] {
        dashboard
            .done(Method::POST, "/providers", json!({ "reference": reference, "host_id": id }))
            .await;
    }
    for name in ["echo", "kvcounter"] {
        dashboard.done(Method::POST, "/actors", start(&example(name), Some(&id))).await;
    }
    let address = format!("127.0.0.1:{}", free_port());
    client::link(
        server,
        ECHO,
        httpserver::SPEC.known.public_key,
        "wasmcloud:httpserver",
        &[("address", &address)],
    )
    .await;
    let url = format!("http://{address}/");
    eventually("the page answers", || async { reqwest::get(&url).await.ok() }).await;
    (dashboard, url)
}

fn views(dashboard: &Dashboard) -> Vec<(&'static str, String)> {
    let host = &dashboard.host.id;
    let provider = httpserver::SPEC.known.public_key;
    vec![
        ("overview", "/".into()),
        ("applications", "/applications".into()),
        ("application", "/applications/shop".into()),
        ("application-links", "/applications/shop?tab=links".into()),
        ("application-versions", "/applications/shop?tab=versions".into()),
        ("hosts", "/hosts".into()),
        ("host", format!("/hosts/{host}")),
        ("actors", "/actors".into()),
        ("actor", format!("/actors/{ECHO}")),
        ("providers", "/providers".into()),
        ("provider", format!("/providers/{provider}/default")),
        ("links", "/links".into()),
        ("claims", "/claims".into()),
        ("events", "/events".into()),
        ("activity", "/activity".into()),
        ("call", format!("/call?actor={ECHO}")),
        ("nowhere", "/hosts/NOBODY".into()),
        ("not-found", "/no/such/page".into()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_view_is_readable_for_everybody_on_every_screen() {
    let server = Server::shared().await;
    let (dashboard, _) = furnished(&server).await;
    applied(&dashboard).await;
    let browser = Browser::start().await;
    dashboard.enter(&browser).await;
    let mut found = Vec::new();
    let mut screens =
        [("light", 1440, 1000), ("dark", 1440, 1000), ("light", 360, 780), ("dark", 2560, 1300)];
    for (name, path) in views(&dashboard) {
        let url = dashboard.url.join(&path).unwrap();
        // Each view begins on another screen, and follows the change to the next ones.
        screens.rotate_left(1);
        for (at, (scheme, width, height)) in screens.into_iter().enumerate() {
            browser.prefer(scheme).await;
            browser.resize(width, height).await;
            if at == 0 {
                browser.open(url.as_str()).await;
            }
            browser.see("main h1").await;
            settled(&browser).await;
            let violations = browser.violations().await;
            found.extend(
                violations
                    .into_iter()
                    .map(|violation| format!("{name} {scheme} {width}: {violation}")),
            );
            let too_wide =
                browser.run("return document.documentElement.scrollWidth - innerWidth").await;
            if too_wide.as_i64().unwrap_or_default() > 0 {
                found.push(format!("{name} {scheme} {width}: {too_wide} pixels too wide"));
            }
            let voids = browser.run(VOIDS).await;
            if voids != json!([0, 0]) {
                found.push(format!("{name} {scheme} {width}: pixels of nothing below: {voids}"));
            }
            let kind = if width == 360 {
                "phone"
            } else if width == 2560 {
                "wall"
            } else {
                scheme
            };
            browser.picture(&format!("{name}-{kind}")).await;
        }
        let complaints = browser.complaints().await;
        // The views of what is not there.
        let is_there = !["nowhere", "not-found"].contains(&name);
        let complaints = complaints.into_iter().filter(|text| is_there || !text.contains("404"));
        found.extend(complaints.map(|complaint| format!("{name}: {complaint}")));
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// Applications of all kinds: one in two versions, of which nobody can run a part, one that runs,
/// and one that is not deployed.
async fn applied(dashboard: &Dashboard) {
    let manifest = |name: &str, version: &str, instances: u32, zone: &str| {
        json!({
            "apiVersion": "core.oam.dev/v1beta1", "kind": "Application",
            "metadata": {"name": name, "annotations": {"version": version,
                "description": "A shop that sells what an echo says, to whoever asks for it"}},
            "spec": {"components": [
                {"name": "front", "type": "actor", "properties": {"image": example("echo")}, "traits": [
                    {"type": "spreadscaler", "properties": {"instances": instances, "spread": [
                        {"name": "first", "requirements": {"machine": "first"}, "weight": 60},
                        {"name": "second", "requirements": {"machine": zone}, "weight": 40},
                    ]}},
                    {"type": "linkdef", "properties": {"target": "store", "values": {
                        "URL": "redis://me:hunter22@127.0.0.1", "bucket": "shop"}}},
                ]},
                {"name": "store", "type": "capability",
                    "properties": {"image": "builtin://keyvalue", "contract": "wasmcloud:keyvalue"},
                    "traits": [{"type": "daemonscaler", "properties": {"instances": 1, "spread": []}}]},
            ]},
        })
    };
    for (name, version, instances, zone) in [
        ("shop", "v1.2.0", 5, "first"),
        ("shop", "v1.3.0-a-rather-long-name-of-a-version", 10, "second"),
        ("warehouse", "v1", 2, "first"),
        ("old-shop", "v1", 1, "first"),
    ] {
        let text = manifest(name, version, instances, zone).to_string();
        let texts = json!({ "texts": [{ "name": "shop.json", "text": text }] });
        dashboard.change(Method::POST, "/apply", texts).await;
    }
    dashboard.done(Method::POST, "/applications/old-shop/undeploy", json!({})).await;
}

/// Waits until nothing of the page is still loading.
pub async fn settled(browser: &Browser) {
    eventually("everything is loaded", || async {
        let loading = "return document.querySelectorAll('.skeleton, [aria-busy=true]').length";
        (browser.run(loading).await == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_small_and_asks_nobody_else() {
    let server = Server::shared().await;
    let (dashboard, _) = furnished(&server).await;
    let browser = Browser::start().await;
    dashboard.enter(&browser).await;
    browser.open(dashboard.url.as_str()).await;
    browser.see("main h1").await;
    settled(&browser).await;
    let script = "return performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))\
        .map((entry) => [entry.name, entry.transferSize])";
    let entries = browser.run(script).await;
    let entries: Vec<(String, u64)> = serde_json::from_value(entries).unwrap();
    let files = entries.iter().filter(|(name, _)| !name.contains("/api/")).count();
    assert!((2..=6).contains(&files), "{entries:?}");
    for (name, _) in &entries {
        assert!(name.starts_with(dashboard.url.as_str()) || name.starts_with("data:"), "{name}");
    }
    let assets = entries
        .iter()
        .filter(|(name, _)| !name.contains("/api/"))
        .map(|(_, bytes)| bytes)
        .sum::<u64>();
    assert!(assets < 150_000, "{assets} bytes");
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_is_put_together_with_the_mouse() {
    let server = Server::shared().await;
    let dashboard =
        Dashboard::of(with_dashboard(host(&server)).label("machine", "first").start().await);
    let second = host(&server).label("machine", "second").start().await;
    let file = example("echo").trim_start_matches("file://").to_owned();
    let browser = Browser::start().await;
    dashboard.enter(&browser).await;
    browser.open(dashboard.url.as_str()).await;

    // An actor, from a file.
    browser.click("main button", "Start an actor").await;
    browser.see("dialog[open]").await;
    browser.click("dialog[open] label", "Upload").await;
    upload(&browser, &file).await;
    browser.with_text("dialog[open]", "wasmcloud:httpserver").await;
    // Either host might be the first that offers.
    choose_host(&browser, &dashboard.host.id).await;
    send(&browser).await;
    browser.with_text("dialog[open] .dialog-stage", "Runs on").await;
    browser.picture("started-actor").await;
    browser.press(ESCAPE).await;

    // A provider that is built in.
    browser.open(dashboard.url.join("/providers").unwrap().as_str()).await;
    browser.click("main button", "Start a provider").await;
    browser.click("dialog[open] label", "HTTP server").await;
    submit(&browser, "Runs on").await;

    // A link between the two, and the page it brings.
    let address = format!("127.0.0.1:{}", free_port());
    browser.open(dashboard.url.join(&format!("/actors/{ECHO}")).unwrap().as_str()).await;
    browser.click("main button", "Link it").await;
    // The one provider that fulfils the contract is chosen already.
    let chosen = "return [...document.querySelectorAll('dialog[open] input')].some((input) => input.value == 'HTTP server')";
    eventually("the provider is chosen", || async {
        (browser.run(chosen).await == true).then_some(())
    })
    .await;
    put_value(&browser, "address", &address).await;
    browser.picture("link-form").await;
    send(&browser).await;
    let url = format!("http://{address}/");
    browser.see(&format!("a[href=\"{url}\"]")).await;
    let answer = eventually("the page answers", || async { reqwest::get(&url).await.ok() }).await;
    assert!(answer.status().is_success());
    browser.press(ESCAPE).await;

    // A replica on the second host.
    browser.open(dashboard.url.join(&format!("/actors/{ECHO}")).unwrap().as_str()).await;
    browser.click("main button", "replica").await;
    browser.see("dialog[open]").await;
    choose_host(&browser, &second.id).await;
    submit(&browser, "Runs on").await;
    let there = dashboard
        .until(&format!("/actors/{ECHO}"), |actor| (actor["hosts"] == 2).then(|| actor.clone()))
        .await;
    assert_eq!(there["placements"].as_array().map(Vec::len), Some(2));
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_link_value_has_one_outcome_and_is_undone_with_the_mouse() {
    let server = Server::shared().await;
    let (dashboard, url) = furnished(&server).await;
    let before = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let browser = Browser::start().await;
    dashboard.enter(&browser).await;
    browser.open(dashboard.url.join("/links").unwrap().as_str()).await;
    let menu = "main [role=row] button[aria-haspopup], main tbody button[aria-haspopup]";
    choose(&browser, menu, "Edit").await;

    // A mistake is told in the form, and nothing is stored.
    replace_value(&browser, "address", "127.0.0.1:8080x").await;
    send(&browser).await;
    browser.with_text("dialog[open] [role=alert]", "HOST:PORT").await;
    assert!(reqwest::get(&url).await.is_ok(), "the page goes on");

    // A port that somebody else has is refused by the provider: one box says so, in red.
    replace_value(&browser, "address", &taken.local_addr().unwrap().to_string()).await;
    send(&browser).await;
    browser.with_text("dialog[open] .dialog-stage [role=alert]", "stays in force").await;
    browser.picture("link-refused").await;
    let notes =
        "return [...document.querySelectorAll('dialog[open] .note')].map((note) => note.className)";
    assert_eq!(browser.run(notes).await, json!(["note tone-error"]));
    assert!(reqwest::get(&url).await.is_ok(), "the page goes on");

    browser.click("dialog[open] button", "Undo").await;
    browser.click("dialog[open] button[type=submit]", "Undo it").await;
    browser.with_text("dialog[open] .dialog-stage", "as it was before").await;
    dashboard
        .until("/links", |links| {
            (links["items"][0]["values"]["address"] == before.as_str()).then_some(())
        })
        .await;
}

/// Gives a value of a link in the open form another text.
async fn replace_value(browser: &Browser, name: &str, value: &str) {
    let field = browser.see(&format!("dialog[open] input[data-value=\"{name}\"]")).await;
    field.click().await.expect("the field takes the focus");
    browser.press(&format!("{CONTROL}a{CONTROL}")).await;
    field.send_keys(value).await.expect("the field takes text");
}

/// Gives the file field of an open dialog a file.
async fn upload(browser: &Browser, file: &str) {
    let field = eventually("a field for a file", || async {
        browser.client.find(fantoccini::Locator::Css("dialog[open] input[type=file]")).await.ok()
    })
    .await;
    field.send_keys(file).await.expect("the field takes the file");
}

/// Sets a value of a link in the open form.
async fn put_value(browser: &Browser, name: &str, value: &str) {
    browser.click("dialog[open] .quick button", name).await;
    let field = browser.see(&format!("dialog[open] input[data-value=\"{name}\"]")).await;
    field.send_keys(value).await.expect("the field takes text");
}

/// Chooses a host by its id in the open form.
async fn choose_host(browser: &Browser, id: &str) {
    browser.click("dialog[open] label", "A named host").await;
    let option = format!("dialog[open] select option[value=\"{id}\"]");
    eventually("a host can be chosen", || async {
        browser.client.find(fantoccini::Locator::Css(&option)).await.ok()?.click().await.ok()
    })
    .await;
}

/// Chooses in a menu that a button opens.
async fn choose(browser: &Browser, button: &str, item: &str) {
    eventually(&format!("{item} of {button}"), || async {
        browser.client.find(fantoccini::Locator::Css(button)).await.ok()?.click().await.ok()?;
        browser.find_text("[role=menuitem]", item).await?.click().await.ok()
    })
    .await;
}

/// Sends the open form as soon as it is complete, waits for the end of what it sets off, and leaves
/// the dialog.
async fn submit(browser: &Browser, end: &str) {
    send(browser).await;
    browser.with_text("dialog[open] .dialog-stage", end).await;
    browser.press(ESCAPE).await;
    eventually("the dialog is gone", || async {
        (browser.run("return document.querySelectorAll('dialog[open]').length").await == 0)
            .then_some(())
    })
    .await;
}

/// Sends the open form as soon as it is complete.
pub async fn send(browser: &Browser) {
    browser.click("dialog[open] button[type=submit]:not([disabled])", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_changed_and_stopped_with_the_mouse() {
    let server = Server::shared().await;
    let (dashboard, _) = furnished(&server).await;
    let id = dashboard.host.id.clone();
    let browser = Browser::start().await;
    dashboard.enter(&browser).await;
    let at = |path: &str| dashboard.url.join(path).unwrap().to_string();
    let actor = format!("/actors/{ECHO}");

    browser.open(&at(&actor)).await;
    choose(&browser, "main header button[aria-haspopup]", "Scale").await;
    browser.fill("Replicas", "9").await;
    submit(&browser, "has 9 replicas").await;
    dashboard.until(&actor, |actor| (actor["replicas"] == 9).then_some(())).await;

    // A failure says why, and the form can be corrected.
    choose(&browser, "main header button[aria-haspopup]", "Update").await;
    browser.click("dialog[open] label", "reference").await;
    browser.fill("Reference", "file:///nowhere/echo.wasm").await;
    send(&browser).await;
    browser.with_text("dialog[open] .dialog-stage", "/nowhere/echo.wasm").await;
    browser.picture("update-failed").await;
    browser.press(ESCAPE).await;

    browser.open(&at(&format!("/hosts/{id}"))).await;
    browser.click("main button", "Edit").await;
    browser.see("dialog[open]").await;
    browser.click("dialog[open] button", "Add a label").await;
    let cells = "dialog[open] .kv-row:last-of-type input, dialog[open] li:last-of-type input";
    let fields = eventually("a row for a label", || async {
        let found = browser.client.find_all(fantoccini::Locator::Css(cells)).await.ok()?;
        (found.len() == 2).then_some(found)
    })
    .await;
    fields[0].send_keys("zone").await.unwrap();
    fields[1].send_keys("b").await.unwrap();
    submit(&browser, "zone=b").await;
    dashboard
        .until(&format!("/hosts/{id}"), |host| (host["labels"]["zone"] == "b").then_some(()))
        .await;

    browser.open(&at("/links")).await;
    choose(
        &browser,
        "main [role=row] button[aria-haspopup], main tbody button[aria-haspopup]",
        "Delete",
    )
    .await;
    submit(&browser, "is not linked").await;
    dashboard.until("/links", |links| (links["total"] == 0).then_some(())).await;

    browser.open(&at(&actor)).await;
    choose(&browser, "main header button[aria-haspopup]", "Stop").await;
    submit(&browser, "has stopped").await;
    dashboard.until(&actor, |actor| (actor["hosts"] == 0).then_some(())).await;

    browser.open(&at(&format!("/providers/{}/default", httpserver::SPEC.known.public_key))).await;
    choose(&browser, "main header button[aria-haspopup]", "Stop").await;
    submit(&browser, "has stopped").await;
    browser.with_text("main header .badge", "not running").await;

    browser.open(&at("/activity")).await;
    browser.see("main h1").await;
    settled(&browser).await;
    browser.picture("activity-after").await;
    browser.with_text("main", "Scale echo to 9").await;
    browser.with_text("main", "/nowhere/echo.wasm").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());

    browser.open(&at(&format!("/hosts/{id}"))).await;
    choose(&browser, "main header button[aria-haspopup]", "Stop").await;
    browser.click("dialog[open] button[type=submit]", "Stop the host").await;
    let mut host = dashboard.host;
    host.stop_requested().await;
    host.stop().await;
    browser.with_text("body", "The host does not answer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_is_called_and_events_are_searched() {
    let server = Server::shared().await;
    let (dashboard, _) = furnished(&server).await;
    let browser = Browser::start().await;
    dashboard.enter(&browser).await;
    let call = format!("/call?actor={ECHO}&operation=HttpServer.HandleRequest");
    browser.open(dashboard.url.join(&call).unwrap().as_str()).await;
    browser.click("main button", "Payload of").await;
    browser.click("main button[type=submit]", "Call").await;
    browser.with_text("main .reply", "200").await;
    browser.with_text("main", "path").await;
    browser.picture("call-reply").await;

    browser.open(dashboard.url.join("/events?q=kvcounter").unwrap().as_str()).await;
    browser.with_text("main", "with 1 replica").await;
    browser.no_text("main", "echo runs on").await;
    // While the page is open, without a reload.
    dashboard
        .done(
            Method::POST,
            &format!("/actors/{KVCOUNTER}/scale"),
            json!({ "host_id": dashboard.host.id, "max": 4 }),
        )
        .await;
    browser.with_text("main", "with 4 replicas").await;

    // From anywhere to anywhere with the keyboard.
    browser.open(dashboard.url.as_str()).await;
    browser.see("main h1").await;
    let keys = format!("{CONTROL}k{CONTROL}");
    browser.press(&keys).await;
    browser.see("dialog[open]").await;
    browser.press("echo").await;
    browser.with_text("dialog[open] [role=option]", "echo").await;
    browser.press(ENTER).await;
    eventually("the actor is shown", || async {
        browser.client.current_url().await.ok()?.path().contains(ECHO).then_some(())
    })
    .await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_login_page_lets_in_whoever_has_the_token() {
    let server = Server::shared().await;
    let token = "a token of more than enough characters";
    let builder = with_dashboard(host(&server)).set("dashboard_token", token);
    let dashboard = Dashboard::of(builder.start().await);
    let browser = Browser::start().await;
    browser.open(dashboard.url.join("/hosts").unwrap().as_str()).await;
    let field = browser.see("input[type=password]").await;
    assert_eq!(browser.violations().await, Vec::<String>::new());
    browser.picture("login").await;
    field.send_keys("a guess").await.unwrap();
    browser.press(ENTER).await;
    browser.with_text("body", "not the token").await;
    browser.fill("Token", token).await;
    browser.press(ENTER).await;
    browser.with_text("main h1", "Hosts").await;
    assert_eq!(browser.client.current_url().await.unwrap().path(), "/hosts");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_login_the_page_shows_things_and_asks_before_it_changes_any() {
    let server = Server::shared().await;
    let (dashboard, page) = furnished(&server).await;
    let address = page.trim_start_matches("http://").trim_end_matches('/');
    let browser = Browser::start().await;
    browser.open(dashboard.url.join("/links").unwrap().as_str()).await;
    browser.with_text("main .chip", "hidden").await;
    browser.no_text("main", address).await;
    // A change first asks for a login, which the keyboard alone can give.
    browser.click("main button", "Link an actor").await;
    browser.with_text("dialog[open] h2", "Log in to change things").await;
    assert_eq!(browser.violations().await, Vec::<String>::new());
    browser.picture("login-dialog").await;
    browser.press("a guess").await;
    browser.press(ENTER).await;
    browser.with_text("dialog[open] [role=alert]", "not the token").await;
    browser.fill("Or enter the token", &dashboard.token).await;
    browser.press(ENTER).await;
    browser.with_text("dialog[open] h2", "Link").await;
    browser.no_text("dialog[open] h2", "Log in").await;
    browser.press(ESCAPE).await;
    browser.with_text("main .chip", address).await;
    // It is still so in a page that is loaded anew, and over when one leaves.
    browser.open(dashboard.url.join("/links").unwrap().as_str()).await;
    browser.with_text("main .chip", address).await;
    browser.see("header button[aria-label='Log out']").await.click().await.unwrap();
    browser.with_text("main .chip", "hidden").await;
    browser.no_text("main", address).await;
    let kept = browser.run("return document.cookie + JSON.stringify(localStorage)").await;
    assert!(!kept.as_str().unwrap().contains("eyJ"), "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_host_turns_red_and_a_new_one_appears() {
    let server = Server::with_domain(Some("core")).await;
    let dashboard = Dashboard::start(&server).await;
    let browser = Browser::start().await;
    dashboard.enter(&browser).await;
    browser.open(dashboard.url.as_str()).await;
    browser.see("main h1").await;
    let dir = TempDir::new().unwrap();
    let mut command: Command = member(dir.path(), &server);
    let mut process = Process::start(&mut command);
    process.line("ready");
    let id = dashboard
        .until("/hosts", |hosts| {
            let all = hosts["items"].as_array()?;
            let other = all.iter().find(|host| host["is_this"] == false)?;
            Some(other["id"].as_str()?.to_owned())
        })
        .await;
    let tile = format!("main a[href=\"/hosts/{id}\"]");
    browser.see(&tile).await;
    process.signal(rustix::process::Signal::KILL);
    browser.with_text("main .state-text", "is lost").await;
    let name: Value = dashboard.get(&format!("/hosts/{id}")).await["name"].clone();
    browser.with_text("main", &format!("Host {} vanished", name.as_str().unwrap())).await;
    browser.picture("lost-host").await;

    // Of what it does not tell any more nothing is drawn, and what cannot be done says why.
    browser.see(&tile).await.click().await.unwrap();
    browser.with_text("main h1", name.as_str().unwrap()).await;
    browser.with_text("main .stat", "Uptime\nnot known").await;
    browser.with_text("main .stat", "JetStream domain\nnot known").await;
    browser.with_text("main button[aria-disabled=true]", "Start an actor here").await;
    browser.with_text("main button[aria-disabled=true]", "Edit").await;
    assert_eq!(browser.violations().await, Vec::<String>::new());
    browser.picture("lost-host-page").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_texts_whatever_is_in_them() {
    let server = Server::shared().await;
    let dashboard =
        Dashboard::of(with_dashboard(host(&server)).label("zone", HOSTILE).start().await);
    let signing =
        Signing { name: Some(HOSTILE.into()), caps: vec![HOSTILE.into()], ..Signing::default() };
    let guest = guests::sign(&guests::wapc("(i32.const 1)"), &signing);
    dashboard.done(Method::POST, "/actors", start(&guest.reference, None)).await;
    // As a host of another release may have stored it.
    client::store_link_for(&server, &guest.id, (&httpserver::SPEC, HOSTILE), &[(HOSTILE, HOSTILE)])
        .await;
    let browser = Browser::start().await;
    dashboard.enter(&browser).await;
    let actor = format!("/actors/{}", guest.id);
    for path in
        ["/", "/hosts", "/actors", &actor, "/links", "/claims", "/events", "/activity", "/call"]
    {
        browser.open(dashboard.url.join(path).unwrap().as_str()).await;
        browser.see("main h1").await;
        settled(&browser).await;
        assert_ne!(browser.client.title().await.unwrap(), "owned", "{path}");
        let injected =
            browser.run("return document.querySelectorAll('main img, main script').length").await;
        assert_eq!(injected, 0, "{path}");
    }
    browser.open(dashboard.url.join(&actor).unwrap().as_str()).await;
    browser.with_text("main h1", "<img src=x").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

//! The page while things are not well, in a real browser: old data, a host that stops, what needs
//! attention; and that nothing is red where nothing is wrong.

use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};

use super::{
    Dashboard,
    browser::{ESCAPE, settled},
    start,
};
use crate::harness::{Server, browser::Browser, eventually, host, nats::free_port};

/// Stands in for the dashboard of a host: answers streams with these events, and refuses everything
/// else. Returns when it has answered `count` streams, with the connections that are still open.
async fn stand_in(listener: &TcpListener, events: &str, count: usize, keeps: bool) -> JoinSet<()> {
    let (answered, mut streams) = mpsc::channel(16);
    let mut connections = JoinSet::new();
    let mut left = count;
    while left > 0 {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.expect("a connection");
                let (events, answered) = (events.to_owned(), answered.clone());
                connections.spawn(answer(stream, events, answered, keeps));
            }
            Some(()) = streams.recv() => left -= 1,
        }
    }
    connections
}

async fn answer(mut stream: TcpStream, events: String, answered: mpsc::Sender<()>, keeps: bool) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        // Browsers open some connections that they do not use.
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let is_stream = head.starts_with(b"GET /api/v1/stream");
    let answer = match is_stream {
        true => format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{events}"
        ),
        false => {
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                .to_owned()
        }
    };
    let _ = stream.write_all(answer.as_bytes()).await;
    if is_stream {
        let _ = answered.send(()).await;
        if keeps {
            std::future::pending::<()>().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_age_of_old_data_is_kept_until_new_ones_come() {
    let server = Server::shared().await;
    let port = free_port();
    let begin = || host(&server).set("dashboard_port", &port.to_string()).start();
    let dashboard = Dashboard::of(begin().await);
    let browser = Browser::start().await;
    dashboard.enter(&browser).await;
    browser.open(dashboard.url.join("/claims").unwrap().as_str()).await;
    browser.with_text(".topbar-status", "Live").await;
    dashboard.host.stop().await;
    let since = browser.with_text(".banner b", "The data is from").await.text().await.unwrap();

    // A host that greets again and again, and tells nothing: its data are not of now.
    let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
    let hello = "event: hello\ndata: {\"lattice\":\"l\",\"host_name\":\"h\",\"version\":\"1\",\"life\":\"x\"}\n\n";
    drop(stand_in(&listener, hello, 3, false).await);
    let now = browser.with_text(".banner b", "The data is from").await.text().await.unwrap();
    assert_eq!(now, since);

    // One that stops, and says so while it still tells what it knows.
    let overview = json!({ "counts": {}, "attention": [], "rates": null, "point": null });
    let events =
        format!("{hello}event: overview\ndata: {overview}\n\nevent: stopping\ndata: {{}}\n\n");
    let open = stand_in(&listener, &events, 1, true).await;
    browser.with_text(".banner", "The host of this page stops").await;
    browser.with_text(".topbar-status", "Stopping").await;
    drop((open, listener));
    browser.with_text(".banner", "it has stopped").await;

    let again = Dashboard::of(begin().await);
    browser.with_text(".topbar-status", "Live").await;
    browser.no_text(".banner", "The data is from").await;
    again.host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_red_in_a_lattice_at_rest() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let browser = Browser::start().await;
    dashboard.enter(&browser).await;
    for path in ["/".to_owned(), format!("/hosts/{}", dashboard.host.id)] {
        browser.open(dashboard.url.join(&path).unwrap().as_str()).await;
        browser.see("main .stats").await;
        browser.see("main .series-quiet").await;
        settled(&browser).await;
        let red =
            "return document.querySelectorAll('main .series-errors, main .stat.tone-error').length";
        assert_eq!(browser.run(red).await, 0, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_attention_is_said_once_and_mended_with_a_press() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let reference = "file:///nowhere/typo.wasm";
    let begin = start(reference, Some(&dashboard.host.id));
    let failed = dashboard.change(Method::POST, "/actors", begin).await;
    assert_eq!(failed["state"], "failed", "{failed}");
    let browser = Browser::start().await;
    dashboard.enter(&browser).await;
    let item = browser.with_text("main .attention-text", "does not start on").await;
    let text = item.text().await.unwrap();
    assert_eq!(text.matches("typo.wasm").count(), 1, "{text}");
    assert!(!text.contains("os error"), "{text}");
    // Only the thing that it is about is a link.
    let link = browser.see("main .attention-text a").await.text().await.unwrap();
    assert_eq!(link, dashboard.get(&format!("/hosts/{}", dashboard.host.id)).await["name"]);
    browser.click("main .attention button", "Start it again").await;
    browser.see("dialog[open]").await;
    let filled = format!(
        "return [...document.querySelectorAll('dialog[open] input')].some((input) => input.value == '{reference}')"
    );
    eventually("the form has the reference", || async {
        (browser.run(&filled).await == true).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn words_explain_themselves_to_the_pointer_and_the_keyboard() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let browser = Browser::start().await;
    browser.open(dashboard.url.join("/claims").unwrap().as_str()).await;
    browser.see("main .term-word").await;
    settled(&browser).await;
    browser.run("document.querySelector('main .term-word').focus()").await;
    browser.with_text("[role=tooltip]", "who signed it").await;
    assert_eq!(browser.violations().await, Vec::<String>::new());
    browser.press(ESCAPE).await;
    browser.no_text("[role=tooltip]", "who signed it").await;
    // A press brings it back, as a tap does.
    browser.click("main .term-word", "").await;
    browser.with_text("[role=tooltip]", "who signed it").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_none_has_a_page_that_says_so() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let browser = Browser::start().await;
    browser.open(dashboard.url.join("/no/such/page").unwrap().as_str()).await;
    browser.with_text("main h1", "Not found").await;
    browser.click("main a", "Go to the overview").await;
    browser.see("main .state-text").await;
}

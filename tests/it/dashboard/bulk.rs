//! Several things of a list at once, in a real browser: chosen with the keyboard, named before
//! anything happens, and told one by one.

use fantoccini::Locator;
use reqwest::Method;
use serde_json::json;

use super::{
    Dashboard,
    browser::{ESCAPE, send},
    start,
};
use crate::harness::{ECHO, KVCOUNTER, Server, browser::Browser, eventually, example, host};

const ARROW_DOWN: &str = "\u{e015}";

#[tokio::test(flavor = "multi_thread")]
async fn actors_are_moved_together_and_what_does_not_stop_is_told() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let second = host(&server).start().await;
    for name in ["echo", "kvcounter"] {
        let begin = start(&example(name), Some(&dashboard.host.id));
        dashboard.done(Method::POST, "/actors", begin).await;
    }
    dashboard.until("/hosts", |hosts| (hosts["total"] == 2).then_some(())).await;
    let browser = Browser::start().await;
    dashboard.enter(&browser).await;
    browser.open(dashboard.url.join("/actors").unwrap().as_str()).await;

    // Two rows, with the keyboard alone.
    browser.with_text("main tr[data-at]", "kvcounter").await;
    browser.run("document.querySelector('main tr[data-at=\"0\"]').focus()").await;
    browser.press(" ").await;
    browser.with_text("main .bulk-bar", "1 chosen").await;
    browser.press(ARROW_DOWN).await;
    browser.press(" ").await;
    browser.with_text("main .bulk-bar", "2 chosen").await;
    assert_eq!(browser.violations().await, Vec::<String>::new());

    // All are named before anything happens; then each is told.
    browser.click("main .bulk-bar button", "Move").await;
    browser.with_text("dialog[open] .bulk-list", "echo").await;
    browser.with_text("dialog[open] .bulk-list", "kvcounter").await;
    let option = format!("dialog[open] select option[value=\"{}\"]", second.id);
    eventually("the host can be chosen", || async {
        browser.client.find(Locator::Css(&option)).await.ok()?.click().await.ok()
    })
    .await;
    assert_eq!(browser.violations().await, Vec::<String>::new());
    send(&browser).await;
    browser.with_text("dialog[open] [role=status]", "2 of 2 done").await;
    browser.picture("moved-together").await;
    for id in [ECHO, KVCOUNTER] {
        let is_there = |actor: &serde_json::Value| {
            let places = actor["placements"].as_array()?;
            (places.len() == 1 && places[0]["host_id"] == second.id).then_some(())
        };
        dashboard.until(&format!("/actors/{id}"), is_there).await;
    }
    browser.press(ESCAPE).await;

    // One of them is gone before the confirmation: the other stops, and this one is told.
    browser.click("main th.check input", "").await;
    browser.click("main .bulk-bar button", "Stop").await;
    browser.with_text("dialog[open] .bulk-list", "kvcounter").await;
    let stop = format!("/actors/{KVCOUNTER}/stop");
    dashboard.done(Method::POST, &stop, json!({ "host_id": second.id })).await;
    send(&browser).await;
    browser.with_text("dialog[open] [role=status]", "1 of 2 done, 1 failed").await;
    browser.see("dialog[open] .bulk-list .text-error").await;
    browser.with_text("dialog[open] button", "Try the failed again").await;
    browser.picture("stopped-together").await;
    dashboard.until("/actors", |actors| (actors["total"] == 0).then_some(())).await;
}

//! The operator is told when something breaks: the page, its API, `/metrics`, the doctor and
//! the commands say the same.

use std::time::Duration;

use lattice_engine::providers::builtin::{httpclient, httpserver};
use reqwest::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    commands::User,
    dashboard::Dashboard,
    harness::{
        FETCHER, KVCOUNTER, PONGER, Server, TestHost,
        browser::Browser,
        client::{link_builtin, start, start_provider},
        eventually, example,
        guests::{self, Signing},
        host,
        nats::free_port,
        process::{Process, member, stderr},
    },
};

/// Runs a command, and returns its exit code, what it printed as JSON and what it complained of.
async fn told(user: &User, words: &[&str]) -> (Option<i32>, Value, String) {
    let output = user.run(&[words, &["-o", "json"]].concat()).await;
    let printed = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), printed, stderr(&output))
}

/// The findings of a check of the doctor, as text.
async fn check(user: &User, name: &str) -> (String, String) {
    let (_, report, _) = told(user, &["doctor", "--check", name]).await;
    let check = &report["checks"][0];
    (check["verdict"].as_str().unwrap_or_default().to_owned(), check["findings"].to_string())
}

/// Has an actor answer an address; returns its URL.
async fn page(server: &Server, host: &TestHost, reference: &str, actor: &str) -> String {
    start(server, host, reference, 4).await;
    let address = format!("127.0.0.1:{}", free_port());
    link_builtin(server, actor, &httpserver::SPEC, &[("address", &address)]).await;
    eventually("the page is there", || async { std::net::TcpStream::connect(&address).ok() }).await;
    format!("http://{address}")
}

/// Returns what is seen while something calls an address again and again.
async fn while_calling<T>(url: &str, seen: impl Future<Output = T>) -> T {
    let calls = async {
        loop {
            reqwest::get(url).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        seen = seen => seen,
        () = calls => unreachable!("it goes on for ever"),
    }
}

async fn metrics(dashboard: &Dashboard) -> String {
    let answer = reqwest::get(dashboard.url.join("/metrics").unwrap()).await.unwrap();
    answer.text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_to_a_provider_that_runs_nowhere_are_errors_wherever_one_looks() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    start_provider(&server, &dashboard.host, "builtin://httpserver").await;
    let page = page(&server, &dashboard.host, &example("fetcher"), FETCHER).await;
    let known = httpclient::SPEC.known;
    link_builtin(&server, FETCHER, &httpclient::SPEC, &[]).await;
    let url = format!("{page}/?url=http%3A%2F%2F127.0.0.1%2F");
    let first = dashboard.until("/overview", |overview| {
        let item = overview["attention"].get(0)?;
        let is_felt = item["severity"] == "error";
        (is_felt && item["text"].as_str()?.contains("runs nowhere")).then(|| item.clone())
    });
    let errors = format!("/actors/{FETCHER}");
    let errors = dashboard.until(&errors, |actor| {
        (actor["rates"]["errors_per_s"].as_f64()? > 0.0).then(|| actor.clone())
    });
    assert_eq!(reqwest::get(&url).await.unwrap().status(), StatusCode::BAD_GATEWAY);
    let (first, actor) = while_calling(&url, async { (first.await, errors.await) }).await;
    assert_eq!((&first["severity"], &first["id"]), (&json!("error"), &json!(FETCHER)));
    let advice = first["advice"].as_str().unwrap();
    assert!(advice.contains("host start provider builtin://httpclient"), "{advice}");

    assert!(actor["rates"]["success_percent"].as_f64().unwrap() < 100.0, "{}", actor["rates"]);
    let failures = dashboard.get(&format!("/actors/{FETCHER}/failures")).await;
    let call = &failures["items"][0];
    assert_eq!(
        (&call["caller_id"], &call["target_id"], &call["kind"]),
        (&json!(FETCHER), &json!(known.public_key), &json!("refused"))
    );
    assert!(call["reason"].as_str().unwrap().contains("runs on no host"), "{call}");

    let text = metrics(&dashboard).await;
    let made = text.lines().find(|line| {
        line.starts_with("lattice_calls_made_total{")
            && line.contains(FETCHER)
            && line.contains("target_name=\"builtin://httpclient\"")
            && line.contains("host_name=\"")
            && line.contains("result=\"refused\"")
    });
    assert!(made.is_some_and(|line| !line.ends_with(" 0")), "{text}");
    assert!(
        text.lines().any(|line| line.starts_with("lattice_http_responses_total{")
            && line.contains("class=\"5xx\"")
            && line.contains("actor_name=\"")),
        "{text}"
    );

    let user = User::of(&server);
    reqwest::get(&url).await.unwrap();
    let (verdict, findings) = check(&user, "calls").await;
    assert!(verdict == "wrong" && findings.contains("runs nowhere"), "{verdict} {findings}");
    let said = user.prints(&["logs", FETCHER]).await;
    assert!(said.contains("was refused") && said.contains("builtin://httpclient"), "{said}");
    dashboard.host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_id_in_an_error_leads_to_the_call_that_failed() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let signing = Signing { caps: vec!["wasmcloud:httpserver".into()], ..Signing::default() };
    let guest = guests::sign(&guests::wapc("(unreachable)"), &signing);
    start_provider(&server, &dashboard.host, "builtin://httpserver").await;
    let trapping = page(&server, &dashboard.host, &guest.reference, &guest.id).await;
    let answer = reqwest::get(&trapping).await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    let error: Value = answer.json().await.unwrap();
    let id = error["id"].as_str().expect("an id").to_owned();

    let found = dashboard.get(&format!("/failures?id={id}")).await;
    let [call] = found["items"].as_array().unwrap().as_slice() else { panic!("{found}") };
    assert_eq!((&call["target_id"], &call["id"]), (&json!(guest.id), &json!(id)));
    // A call that an actor could not make, having no link for it, is kept with that actor.
    let fetching = page(&server, &dashboard.host, &example("fetcher"), FETCHER).await;
    let url = format!("{fetching}/?url=http%3A%2F%2F127.0.0.1%2F");
    assert_eq!(reqwest::get(&url).await.unwrap().status(), StatusCode::BAD_GATEWAY);
    let all = dashboard.get(&format!("/actors/{FETCHER}/failures")).await;
    let nowhere = all["items"].as_array().unwrap().iter().find(|call| call["target_id"] == "");
    let nowhere = nowhere.unwrap_or_else(|| panic!("{all}"));
    assert_eq!(nowhere["contract_id"], "wasmcloud:httpclient");

    let user = User::of(&server);
    let (code, explained, said) = told(&user, &["explain", &id]).await;
    assert_eq!((code, &explained["failures"][0]["id"]), (Some(0), &json!(id)), "{said}");
    let (code, _, said) = told(&user, &["explain", "00000000-0000"]).await;
    assert!(code == Some(1) && said.contains("no host keeps"), "{code:?} {said}");
    // Readers see that it failed, not what was said.
    let masked = dashboard.get_as_guest(&format!("/failures?id={id}")).await;
    assert_eq!(masked["items"][0]["reason"], "(log in to read it)", "{masked}");
    dashboard.host.stop().await;
}

/// A host that runs an actor alone, and is killed; returns its id and its name.
async fn lose(server: &Server, dashboard: &Dashboard, actor: &str) -> (String, String) {
    let dir = TempDir::new().unwrap();
    let mut process = Process::start(&mut member(dir.path(), server));
    process.line("ready");
    let (id, name) = dashboard
        .until("/hosts", |hosts| {
            let all = hosts["items"].as_array()?;
            let other =
                all.iter().find(|host| host["is_this"] == false && host["state"] == "ok")?;
            Some((other["id"].as_str()?.to_owned(), other["name"].as_str()?.to_owned()))
        })
        .await;
    let reference = example(actor);
    dashboard.done(Method::POST, "/actors", crate::dashboard::start(&reference, Some(&id))).await;
    eventually("its neighbour knows what it runs", || async {
        let known = dashboard.host.host().peers().remembered(&id)?;
        (known.actors.len() == 1).then_some(())
    })
    .await;
    process.signal(Signal::KILL);
    (id, name)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ran_only_on_a_lost_host_runs_nowhere_until_it_is_started_elsewhere() {
    let server = Server::start().await;
    let dashboard = Dashboard::start(&server).await;
    let (id, name) = lose(&server, &dashboard, "ponger").await;
    let lost = dashboard
        .until("/hosts", |hosts| {
            let all = hosts["items"].as_array()?;
            let lost = all.iter().find(|host| host["id"] == json!(id))?;
            (lost["state"] == "lost" && lost["runs_nowhere"] == 1).then(|| lost.clone())
        })
        .await;
    assert_eq!(lost["name"], json!(name));
    let actors = dashboard.get("/actors").await;
    assert_eq!(actors["items"][0]["lost_on"], json!([name]), "{actors}");
    dashboard
        .until("/overview", |overview| {
            let all = overview["attention"].as_array()?;
            all.iter()
                .find(|item| item["fix"]["kind"] == "start_elsewhere" && item["id"] == json!(id))
                .map(drop)
        })
        .await;

    let user = User::of(&server);
    let (_, hosts, _) = told(&user, &["get", "hosts"]).await;
    assert_eq!(hosts["lost_hosts"][0]["id"], json!(id), "{hosts}");
    let (_, inventory, _) = told(&user, &["get", "inventory"]).await;
    assert_eq!(inventory["runs_nowhere"][0]["id"], PONGER, "{inventory}");
    let (verdict, findings) = check(&user, "lost").await;
    assert!(verdict == "wrong" && findings.contains(&name), "{verdict} {findings}");

    // A host that came later says the same.
    let late = Dashboard::start(&server).await;
    late.until("/hosts", |hosts| {
        let all = hosts["items"].as_array()?;
        all.iter().find(|host| host["id"] == json!(id) && host["runs_nowhere"] == 1).map(drop)
    })
    .await;

    let (code, started, said) = told(&user, &["start", "lost", &name]).await;
    assert_eq!((code, started["started"].as_array().map(Vec::len)), (Some(0), Some(1)), "{said}");
    dashboard
        .until(&format!("/actors/{PONGER}"), |actor| (actor["hosts"] == 1).then_some(()))
        .await;
    assert_eq!(check(&user, "lost").await.0, "ok");
    let (code, _, said) = told(&user, &["forget", &name]).await;
    assert_eq!(code, Some(0), "{said}");
    for dashboard in [&dashboard, &late] {
        dashboard
            .until("/hosts", |hosts| {
                let all = hosts["items"].as_array()?;
                all.iter().all(|host| host["id"] != json!(id)).then_some(())
            })
            .await;
    }
    let (_, hosts, _) = told(&user, &["get", "hosts"]).await;
    assert_eq!(hosts["lost_hosts"], json!([]), "{hosts}");
    late.host.stop().await;
    dashboard.host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_press_on_the_page_starts_elsewhere_what_a_lost_host_ran() {
    let server = Server::start().await;
    let dashboard = Dashboard::start(&server).await;
    let (id, _) = lose(&server, &dashboard, "ponger").await;
    dashboard
        .until(&format!("/hosts/{id}"), |host| {
            (host["state"] == "lost" && host["missing"].as_array()?.len() == 1).then_some(())
        })
        .await;
    let operation =
        dashboard.done(Method::POST, &format!("/hosts/{id}/start-elsewhere"), json!({})).await;
    assert_eq!(operation["text"], "It runs elsewhere");
    dashboard.done(Method::POST, &format!("/hosts/{id}/forget"), json!({})).await;
    let (status, _) = dashboard.send(Method::GET, &format!("/hosts/{id}"), None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    dashboard.host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_stops_in_order_is_not_lost() {
    let server = Server::start().await;
    let dashboard = Dashboard::start(&server).await;
    let other = host(&server).start().await;
    dashboard.until("/hosts", |hosts| (hosts["total"] == 2).then_some(())).await;
    other.stop().await;
    dashboard.until("/hosts", |hosts| (hosts["total"] == 1).then_some(())).await;
    let user = User::of(&server);
    let (_, hosts, _) = told(&user, &["get", "hosts"]).await;
    assert_eq!(hosts["lost_hosts"], json!([]), "{hosts}");
    dashboard.host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_figures_of_hosts_are_together_those_of_the_lattice_and_requests_are_no_hops() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    start_provider(&server, &dashboard.host, "builtin://httpserver").await;
    let page = page(&server, &dashboard.host, &example("kvcounter"), KVCOUNTER).await;
    start_provider(&server, &dashboard.host, "builtin://keyvalue").await;
    let keyvalue = &lattice_engine::providers::builtin::keyvalue::SPEC;
    link_builtin(&server, KVCOUNTER, keyvalue, &[]).await;
    let seen = dashboard.until("/overview", |overview| {
        let rates = &overview["rates"];
        (rates["requests_per_s"].as_f64()? > 0.0).then(|| overview.clone())
    });
    let seen = while_calling(&format!("{page}/mycounter"), seen).await;
    let of = |value: &Value| value["calls_per_s"].as_f64().unwrap_or_default();
    let hosts: f64 = seen["hosts"].as_object().unwrap().values().map(of).sum();
    assert!((hosts - of(&seen["rates"])).abs() < 0.05, "{seen}");
    // Each request is a call of the actor, which calls its store.
    assert!(of(&seen["rates"]) > seen["rates"]["requests_per_s"].as_f64().unwrap(), "{seen}");
    let links = dashboard.get("/links").await;
    let of_server = links["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|link| link["provider_id"] == httpserver::SPEC.known.public_key);
    assert!(of_server.unwrap()["rates"]["http"].is_object(), "{links}");
    dashboard.host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_errors_of_an_actor_are_on_its_page() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    start_provider(&server, &dashboard.host, "builtin://httpserver").await;
    let page = page(&server, &dashboard.host, &example("kvcounter"), KVCOUNTER).await;
    reqwest::get(&format!("{page}/mycounter")).await.unwrap();
    let browser = Browser::start().await;
    dashboard.enter(&browser).await;
    let errors = format!("/actors/{KVCOUNTER}?tab=errors");
    browser.open(dashboard.url.join(&errors).unwrap().as_str()).await;
    browser.with_text("main", "missing link definition").await;
    browser.with_text("main", "host explain").await;
    dashboard.host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_that_expire_soon_are_told_by_the_page_the_doctor_and_the_listing() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let signing = Signing { expires_in_days: Some(10), ..Signing::default() };
    let guest = guests::sign(&guests::wapc("(i32.const 1)"), &signing);
    start(&server, &dashboard.host, &guest.reference, 1).await;
    let item = dashboard
        .until("/overview", |overview| {
            let all = overview["attention"].as_array()?;
            all.iter().find(|item| item["id"] == json!(guest.id)).cloned()
        })
        .await;
    assert_eq!(item["severity"], "warning");
    assert!(item["text"].as_str().unwrap().contains("expire in"), "{item}");
    let claims = dashboard.get("/claims").await;
    assert!(claims["items"][0]["expires_ms"].is_u64(), "{claims}");
    let user = User::of(&server);
    let (_, claims, _) = told(&user, &["get", "claims"]).await;
    assert!(claims["claims"][0]["expires"].is_u64(), "{claims}");
    let (verdict, findings) = check(&user, "claims").await;
    assert!(verdict == "warning" && findings.contains(&guest.id), "{verdict} {findings}");
    dashboard.host.stop().await;
}

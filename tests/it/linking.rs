//! `host link put` and its kind tell the truth: what a provider refuses is an error with its
//! reason, before it is stored where that can be known, and what worked before goes on.

use lattice_engine::providers::builtin::{
    Spec, blobstore, httpclient, httpserver, keyvalue, messaging,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    commands::User,
    dashboard::Dashboard,
    harness::{
        ECHO, Events, PINGER, PROVIDER, Server, TestHost,
        client::{self, ctl_2024, start, start_provider},
        eventually, example, host,
        nats::free_port,
        process::stderr,
        text,
    },
};

/// Values that a built-in provider refuses, with what it complains of.
const REFUSED: [(&Spec, &str, &str); 17] = [
    (&httpserver::SPEC, "adress=127.0.0.1:1", "did you mean address?"),
    (&httpserver::SPEC, "config_json={\"adress\":\"127.0.0.1:1\"}", "did you mean address?"),
    (&keyvalue::SPEC, "colour=red", "host inspect builtin://keyvalue"),
    (&httpserver::SPEC, "address=0.0.0.0:8080:80", "HOST:PORT"),
    (&httpserver::SPEC, "config_b64=???", "base64"),
    (&httpserver::SPEC, "config_json={\"address\":\"127.0.0.1:1\",}", "no JSON"),
    (&httpserver::SPEC, "max_content_len=2G", "1G"),
    (&httpserver::SPEC, "tls_cert_file=/x.pem", "tls_priv_key_file"),
    (&httpclient::SPEC, "redirects=many", "whole number"),
    (&httpclient::SPEC, "proxy=ftp://x", "proxy"),
    (&httpclient::SPEC, "ca=nonsense", "certificate"),
    (&messaging::SPEC, "SUBSCRIPTION=wasmbus.evt.default", "wasmbus.evt.default"),
    (&messaging::SPEC, "client_seed=x", "uri"),
    (&keyvalue::SPEC, "bucket=no.such name!", "bucket"),
    (&keyvalue::SPEC, "replicas=9", "1 to 5"),
    (&blobstore::SPEC, "backend=tape", "fs or nats"),
    (&blobstore::SPEC, "root=here", "absolute path"),
];

fn reference(spec: &Spec) -> String {
    format!("builtin://{}", spec.known.name)
}

async fn page(host: &TestHost, server: &Server, user: &User) -> String {
    start(server, host, &example("echo"), 5).await;
    start_provider(server, host, "builtin://httpserver").await;
    let address = format!("127.0.0.1:{}", free_port());
    let value = format!("address={address}");
    user.prints(&["link", "put", ECHO, "builtin://httpserver", "wasmcloud:httpserver", &value])
        .await;
    // The command has waited for it.
    let url = format!("http://{address}/");
    assert!(reqwest::get(&url).await.is_ok(), "the page is there when the command says so");
    url
}

#[tokio::test]
async fn values_that_a_built_in_provider_refuses_fail_the_command_and_leave_the_page_as_it_was() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let user = User::of(&server);
    let url = page(&host, &server, &user).await;
    for (spec, value, complaint) in REFUSED {
        let said = user
            .fails(1, &["link", "put", ECHO, &reference(spec), spec.known.contract_id, value])
            .await;
        assert!(said.contains(complaint), "{} {value}: {said}", spec.known.name);
    }
    assert!(reqwest::get(&url).await.is_ok(), "the page goes on");
    assert_eq!(
        user.json(&["get", "links"]).await["links"].as_array().map(Vec::len),
        Some(1),
        "nothing was stored"
    );

    // A port that somebody has only the provider's machine knows.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("address={}", taken.local_addr().unwrap());
    let said = user
        .fails(1, &["link", "put", ECHO, "builtin://httpserver", "wasmcloud:httpserver", &address])
        .await;
    assert!(said.contains("cannot listen") && said.contains(&host.id), "{said}");
    assert!(said.contains("stays in force") && said.contains("host link undo"), "{said}");
    assert!(reqwest::get(&url).await.is_ok(), "the page goes on");

    let explained = user
        .run(&["explain", "builtin://httpserver", "echo", "HttpServer.HandleRequest", "-o", "json"])
        .await;
    assert_eq!(explained.status.code(), Some(1), "{}", stderr(&explained));
    let explained: Value = serde_json::from_slice(&explained.stdout).unwrap();
    let steps = explained["steps"].as_array().unwrap();
    let link = steps.iter().find(|step| step["step"] == "link").unwrap();
    assert!(link["outcome"] == "fails" && text(link, "/why").contains("cannot listen"), "{link}");

    // The command that was offered.
    user.prints(&["link", "undo", ECHO, "builtin://httpserver", "wasmcloud:httpserver"]).await;
    assert_eq!(
        address_of(&user).await.as_deref(),
        url.strip_prefix("http://").map(|rest| &rest[..rest.len() - 1])
    );
    host.stop().await;
}

/// The address of the only link there is.
async fn address_of(user: &User) -> Option<String> {
    let links = user.json(&["get", "links"]).await;
    assert!(links["links"].as_array().is_some_and(|links| links.len() <= 1), "{links}");
    Some(links["links"][0]["values"]["address"].as_str()?.to_owned())
}

#[tokio::test]
async fn the_last_change_of_a_link_is_undone_by_any_host_and_an_undo_too() {
    let server = Server::shared().await;
    let (first, user) = (host(&server).start().await, User::of(&server));
    let [one, other] = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let link = ["link", "put", ECHO, "builtin://httpserver", "wasmcloud:httpserver"];
    let undo = ["link", "undo", ECHO, "builtin://httpserver", "wasmcloud:httpserver"];
    let delete = ["link", "del", ECHO, "wasmcloud:httpserver"];
    let [at_one, at_other] = [&one, &other].map(|address| format!("address={address}"));
    assert!(user.fails(1, &undo).await.contains("no host knows what this link was before"));
    user.prints(&[&link[..], &[&*at_one]].concat()).await;
    user.prints(&[&link[..], &[&*at_other]].concat()).await;
    // Put again as it is, it has not changed.
    user.prints(&[&link[..], &[&*at_other]].concat()).await;
    let second = host(&server).start().await;
    first.stop().await;

    for expected in [&one, &other, &one] {
        user.prints(&undo).await;
        assert_eq!(address_of(&user).await.as_ref(), Some(expected));
    }
    user.prints(&delete).await;
    user.prints(&undo).await;
    assert_eq!(address_of(&user).await.as_ref(), Some(&one), "a deleted link is put again");
    user.prints(&delete).await;
    user.prints(&[&link[..], &[&*at_other]].concat()).await;
    let undone = user.json(&undo).await;
    assert_eq!((&undone["undone"], address_of(&user).await), (&"deleted".into(), None));
    second.stop().await;
}

#[tokio::test]
async fn an_undo_comes_back_to_the_last_link_that_its_provider_took_on() {
    let server = Server::shared().await;
    // The provider runs on one host, and either may store the link.
    let (first, second) = (host(&server).start().await, host(&server).start().await);
    let user = User::of(&server);
    let url = page(&first, &server, &user).await;
    let works = address_of(&user).await;
    let link = ["link", "put", ECHO, "builtin://httpserver", "wasmcloud:httpserver"];
    let taken = [0; 2].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    for one in &taken {
        let address = format!("address={}", one.local_addr().unwrap());
        let said = user.fails(1, &[&link[..], &[&*address]].concat()).await;
        assert!(said.contains("cannot listen"), "{said}");
    }
    let undo = ["link", "undo", ECHO, "builtin://httpserver", "wasmcloud:httpserver"];
    for _ in 0..2 {
        user.prints(&undo).await;
        assert_eq!(address_of(&user).await, works);
        assert!(reqwest::get(&url).await.is_ok(), "the page goes on");
    }
    second.stop().await;
    first.stop().await;
}

#[tokio::test]
async fn a_link_has_one_state_and_a_wrong_contract_of_a_built_in_provider_is_refused() {
    let server = Server::shared().await;
    let (host, user) = (host(&server).start().await, User::of(&server));
    start(&server, &host, &example("echo"), 1).await;
    start_provider(&server, &host, "builtin://keyvalue").await;
    let misspelt = ["link", "put", ECHO, "builtin://keyvalue", "wasmcloud:keyvalu"];
    let said = user.fails(1, &misspelt).await;
    assert!(said.contains("it fulfils wasmcloud:keyvalue"), "{said}");
    assert!(said.contains("nothing was put"), "{said}");
    // Echo is not signed for this one.
    user.prints(&["link", "put", ECHO, "builtin://keyvalue", "wasmcloud:keyvalue"]).await;
    let links = user.json(&["get", "links"]).await;
    let states: Vec<&Value> = links["states"].as_object().unwrap().values().collect();
    assert_eq!(states, ["not signed"]);
    let report = user.run(&["doctor", "--check", "links", "-o", "json"]).await;
    let report = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(report.contains("not signed for wasmcloud:keyvalue"), "{report}");
    host.stop().await;
}

#[tokio::test]
async fn a_change_that_nobody_noted_is_not_undone() {
    let server = Server::shared().await;
    let (host, user) = (host(&server).start().await, User::of(&server));
    let ctl = ctl_2024(&server).await;
    let values = [("address".to_owned(), "127.0.0.1:1".to_owned())].into();
    let key = httpserver::SPEC.known.public_key;
    // Clients of those years are served by this host, which notes it.
    ctl.advertise_link(ECHO, key, "wasmcloud:httpserver", "default", values).await.unwrap();
    client::store_link(&server, ECHO, &httpserver::SPEC, &[("address", "127.0.0.1:2")]).await;
    let is_known = async || (address_of(&user).await? == "127.0.0.1:2").then_some(());
    eventually("the host knows of the change", is_known).await;
    let undo = ["link", "undo", ECHO, "builtin://httpserver", "wasmcloud:httpserver"];
    let said = user.fails(1, &undo).await;
    assert!(said.contains("changed since"), "{said}");
    assert_eq!(address_of(&user).await.as_deref(), Some("127.0.0.1:2"));
    let other = ["link", "undo", ECHO, PROVIDER, "wasmcloud:httpserver"];
    assert!(user.fails(1, &other).await.contains("does not lead to"));
    host.stop().await;
}

#[tokio::test]
async fn a_link_that_is_in_the_bucket_is_taken_on_whatever_names_it_has() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 5).await;
    start_provider(&server, &host, "builtin://httpserver").await;
    let address = format!("127.0.0.1:{}", free_port());
    let values = [("address", &*address), ("adress", "x")];
    client::store_link(&server, ECHO, &httpserver::SPEC, &values).await;
    let url = format!("http://{address}/");
    eventually("the page answers", || async { reqwest::get(&url).await.ok() }).await;
    host.stop().await;
}

#[tokio::test]
async fn clients_of_all_years_are_refused_with_the_reason_and_hear_it_as_an_event() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let ctl = ctl_2024(&server).await;
    let mut events = Events::all(&server).await;
    for (spec, value, complaint) in REFUSED {
        let (key, value) = value.split_once('=').unwrap();
        let values = [(key.to_owned(), value.to_owned())].into();
        let ack = ctl
            .advertise_link(ECHO, spec.known.public_key, spec.known.contract_id, "default", values)
            .await
            .unwrap();
        assert!(
            !ack.accepted && ack.error.contains(complaint),
            "{} {key}={value}: {}",
            spec.known.name,
            ack.error
        );
        let failed = events.next("linkdef_set_failed").await;
        assert!(text(&failed, "/data/error").contains(complaint), "{failed}");
    }
    assert!(ctl.query_links().await.unwrap().is_empty());
    host.stop().await;
}

#[tokio::test]
async fn what_became_of_a_link_is_announced_after_the_link_itself() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start_provider(&server, &host, "builtin://httpserver").await;
    let spec = &httpserver::SPEC;
    for _ in 0..5 {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let mut events = Events::all(&server).await;
        client::link_builtin(&server, ECHO, spec, &[("address", &address)]).await;
        let names = events.names_until("linkdef_set_failed").await;
        assert!(names.contains(&"linkdef_set".to_owned()), "{names:?}");
    }
    host.stop().await;
}

#[tokio::test]
async fn names_of_earlier_years_are_named_and_what_nobody_can_tell_is_said() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let user = User::of(&server);
    start_provider(&server, &host, "builtin://httpserver").await;
    let port = format!("port={}", free_port());
    let words =
        ["link", "put", PINGER, "builtin://httpserver", "wasmcloud:httpserver", &port, "URL=y"];
    let output = user.run(&words).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("URL") && said.contains("host inspect builtin://httpserver"), "{said}");

    // Nobody runs it.
    let output = user.run(&["link", "put", ECHO, PROVIDER, "acme:thing", "a=b"]).await;
    assert!(
        output.status.success() && stderr(&output).contains("runs on no host"),
        "{}",
        stderr(&output)
    );
    // Deleted, and let go.
    let deleted = user.prints(&["link", "del", PINGER, "wasmcloud:httpserver"]).await;
    assert!(deleted.contains("Deleted link"), "{deleted}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_tells_a_refused_link_as_one() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    start_provider(&server, &dashboard.host, "builtin://httpserver").await;
    let link = |address: &str| {
        json!({ "actor_id": ECHO, "provider_id": httpserver::SPEC.known.public_key, "contract_id": "wasmcloud:httpserver",
            "values": { "address": address } })
    };
    let (status, body) = dashboard.send(Method::PUT, "/links", Some(link("0.0.0.0:8080:80"))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    assert!(body.to_string().contains("HOST:PORT"), "{body}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ended = dashboard
        .change(Method::PUT, "/links", link(&taken.local_addr().unwrap().to_string()))
        .await;
    assert_eq!((&ended["state"], &ended["can_undo"]), (&"failed".into(), &true.into()), "{ended}");
    assert!(text(&ended, "/text").contains("cannot listen"), "{ended}");
    let free = format!("127.0.0.1:{}", free_port());
    let ended = dashboard.change(Method::PUT, "/links", link(&free)).await;
    assert_eq!((&ended["state"], &ended["can_undo"]), (&"done".into(), &true.into()), "{ended}");
    let ended = dashboard.change(Method::PUT, "/links", link(&free)).await;
    assert_eq!(ended["can_undo"], false, "nothing was changed: {ended}");
    drop(taken);
    let which = json!({ "actor_id": ECHO, "contract_id": "wasmcloud:httpserver" });
    let ended = dashboard.change(Method::POST, "/links/undo", which).await;
    assert_eq!((&ended["state"], &ended["kind"]), (&"done".into(), &"undo_link".into()), "{ended}");
    dashboard.host.stop().await;
}

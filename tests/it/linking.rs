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
        example, host,
        nats::free_port,
        process::stderr,
        text,
    },
};

/// Values that a built-in provider refuses, with what it complains of.
const REFUSED: [(&Spec, &str, &str); 14] = [
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
    assert!(reqwest::get(&url).await.is_ok(), "the page goes on");

    let explained = user
        .run(&["explain", "builtin://httpserver", "echo", "HttpServer.HandleRequest", "-o", "json"])
        .await;
    assert_eq!(explained.status.code(), Some(1), "{}", stderr(&explained));
    let explained: Value = serde_json::from_slice(&explained.stdout).unwrap();
    let steps = explained["steps"].as_array().unwrap();
    let link = steps.iter().find(|step| step["step"] == "link").unwrap();
    assert!(link["outcome"] == "fails" && text(link, "/why").contains("cannot listen"), "{link}");
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
async fn names_without_effect_are_named_and_what_nobody_can_tell_is_said() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let user = User::of(&server);
    start_provider(&server, &host, "builtin://httpserver").await;
    let port = format!("port={}", free_port());
    let words = [
        "link",
        "put",
        PINGER,
        "builtin://httpserver",
        "wasmcloud:httpserver",
        &port,
        "adress=x",
        "URL=y",
    ];
    let output = user.run(&words).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("adress") && said.contains("did you mean address?"), "{said}");
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
    assert_eq!(ended["state"], "failed", "{ended}");
    assert!(text(&ended, "/text").contains("cannot listen"), "{ended}");
    let free = format!("127.0.0.1:{}", free_port());
    let ended = dashboard.change(Method::PUT, "/links", link(&free)).await;
    assert_eq!(ended["state"], "done", "{ended}");
    dashboard.host.stop().await;
}

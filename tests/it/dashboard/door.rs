//! Access to the dashboard: attacks, as they are made.

use futures::StreamExt as _;
use lattice_base::config::Secret;
use lattice_dashboard::token::{self, Keys};
use lattice_engine::providers::builtin::httpserver::SPEC;
use reqwest::{Client, Method, StatusCode, header, redirect};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{Dashboard, start, with_dashboard};
use crate::harness::{
    PATIENCE, RANDOGENLOGGER, Server, eventually, example, host,
    nats::free_port,
    process::{Process, command, member, output, stderr},
};

const TOKEN: &str = "sixteen letters!";

fn plain() -> Client {
    Client::builder().redirect(redirect::Policy::none()).build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_gets_the_page_at_every_address_and_a_program_only_what_is_there() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    for (path, accepts, status) in [
        ("/", "*/*", StatusCode::OK),
        ("/hosts/NABC", "text/html,*/*;q=0.8", StatusCode::OK),
        // The page says itself that it has no such view.
        ("/no/such/page", "text/html", StatusCode::NOT_FOUND),
        ("/no/such/page", "*/*", StatusCode::NOT_FOUND),
        ("/assets/nothing.js", "text/html", StatusCode::NOT_FOUND),
        ("/api/v1/nothing", "text/html", StatusCode::NOT_FOUND),
    ] {
        let url = dashboard.url.join(path).unwrap();
        let answer = plain().get(url).header("accept", accepts).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path} {accepts}");
        let is_page = answer.text().await.unwrap().contains("<div id=\"app\">");
        let wanted = status == StatusCode::OK || (path, accepts) == ("/no/such/page", "text/html");
        assert_eq!(is_page, wanted, "{path} {accepts}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_page_are_kept_by_browsers_and_the_page_is_asked_for_anew() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let kept =
        |answer: &reqwest::Response| answer.headers()["cache-control"].to_str().unwrap().to_owned();
    let page = plain().get(dashboard.url.clone()).send().await.unwrap();
    assert_eq!(kept(&page), "no-cache");
    let tag = page.headers()["etag"].clone();
    let again = plain().get(dashboard.url.clone()).header("if-none-match", &tag);
    assert_eq!(again.send().await.unwrap().status(), StatusCode::NOT_MODIFIED);
    // Also where nothing is: a browser is told so each time.
    let nowhere = plain().get(dashboard.url.join("/no/such/page").unwrap());
    let nowhere = nowhere.header("accept", "text/html").header("if-none-match", &tag);
    assert_eq!(nowhere.send().await.unwrap().status(), StatusCode::NOT_FOUND);
    let script = dashboard.url.join(&dashboard.script_path().await).unwrap();
    let script = plain().get(script).header("accept-encoding", "gzip").send().await.unwrap();
    assert!(kept(&script).contains("immutable"));
    assert_eq!(script.headers()["content-encoding"], "gzip");
    assert!(
        script.headers()["content-security-policy"]
            .to_str()
            .unwrap()
            .contains("script-src 'self';")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn other_pages_and_other_names_are_refused() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let http = plain();
    let start = json!({ "reference": "x.example/y:1" });
    // A page of another origin, with what it can and cannot send.
    let forged = [
        http.post(dashboard.at("/actors")).header("origin", "http://evil.example").json(&start),
        http.post(dashboard.at("/actors")).header("sec-fetch-site", "cross-site").json(&start),
        http.post(dashboard.at("/session"))
            .header("origin", "http://localhost:3000")
            .json(&json!({ "token": "x" })),
        http.request(Method::OPTIONS, dashboard.at("/actors"))
            .header("origin", "http://evil.example")
            .header("access-control-request-method", "POST"),
        http.get(dashboard.at("/links")).header("origin", "null"),
        http.get(dashboard.at("/stream")).header("sec-fetch-site", "same-site"),
    ];
    for request in forged {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        assert!(!answer.headers().keys().any(|name| name.as_str().starts_with("access-control-")));
    }
    // No route here accepts a content type that a form can send, with or without the token.
    for kind in
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
    {
        for path in ["/actors", "/uploads"] {
            let request = |http: &Client| {
                http.post(dashboard.at(path)).header("content-type", kind).body(start.to_string())
            };
            let status = request(&http).send().await.unwrap().status();
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{path} {kind}");
            let status =
                request(&http).bearer_auth(&dashboard.token).send().await.unwrap().status();
            assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{path} {kind}");
        }
    }
    // A name that was pointed here.
    for path in ["/", "/api/v1/hosts", "/metrics"] {
        let request =
            http.get(dashboard.url.join(path).unwrap()).header("host", "evil.example:4000");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::MISDIRECTED_REQUEST, "{path}");
        assert!(answer.text().await.unwrap().contains("--dashboard-names"));
    }
    assert_eq!(dashboard.get("/operations").await["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_names_two_hosts_or_another_one_is_refused() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let own = format!("127.0.0.1:{}", dashboard.url.port().unwrap());
    for (request, expected) in [
        (format!("GET /api/v1/hosts HTTP/1.1\r\nhost: {own}\r\nhost: evil.example\r\n\r\n"), "400"),
        (format!("GET /api/v1/hosts HTTP/1.1\r\nhost: {own}\r\nhost: {own}\r\n\r\n"), "400"),
        (format!("GET http://evil.example/api/v1/hosts HTTP/1.1\r\nhost: {own}\r\n\r\n"), "421"),
        ("GET /api/v1/hosts HTTP/1.1\r\n\r\n".to_owned(), "421"),
        (format!("GET http://{own}/api/v1/hosts HTTP/1.1\r\nhost: {own}\r\n\r\n"), "200"),
        // Smuggling: two lengths, a length beside chunks that nobody can agree on.
        (
            format!(
                "GET /livez HTTP/1.1\r\nhost: {own}\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"
            ),
            "400",
        ),
        (
            format!("GET /livez HTTP/1.1\r\nhost: {own}\r\ntransfer-encoding: xchunked\r\n\r\n"),
            "400",
        ),
    ] {
        let answer = raw(&own, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{request}: {answer}");
    }
}

/// Sends bytes and reads the first part of the answer.
async fn raw(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = timeout(PATIENCE, stream.read(&mut answer)).await.expect("an answer").unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_login_loopback_only_reads_and_sees_no_values_and_no_logs() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    dashboard.done(Method::POST, "/actors", start(&example("randogenlogger"), None)).await;
    dashboard
        .done(Method::POST, "/providers", json!({ "reference": "builtin://httpserver" }))
        .await;
    let words = "hidden-words";
    let mut link = json!({
        "actor_id": RANDOGENLOGGER, "provider_id": SPEC.known.public_key, "contract_id": "wasmcloud:httpserver",
        "values": { "address": "127.0.0.1:0", "cache_control": words, "timeout_ms": words },
    });
    // Values that are refused come back in sentences.
    dashboard.send(Method::PUT, "/links", Some(link.clone())).await;
    link["values"]["timeout_ms"] = json!("1000");
    dashboard.done(Method::PUT, "/links", link).await;
    dashboard
        .until("/links", |links| (links["items"][0]["values"].is_object()).then_some(()))
        .await;
    let call = json!({ "actor_id": RANDOGENLOGGER, "operation": "Log", "payload": {} });
    dashboard.send(Method::POST, "/call", Some(call)).await;
    let guest = dashboard.without_login();
    let provider = SPEC.known.public_key;
    for path in [
        "/overview".to_owned(),
        "/links".into(),
        format!("/links?q={words}"),
        "/events".into(),
        format!("/events?q={words}"),
        "/operations".into(),
        format!("/actors/{RANDOGENLOGGER}"),
        format!("/actors/{RANDOGENLOGGER}/logs"),
        format!("/providers/{provider}/default"),
        format!("/providers/{provider}/logs"),
        format!("/hosts/{}", dashboard.host.id),
        "/hosts".into(),
        "/pulls".into(),
        "/claims".into(),
    ] {
        let answer = guest.get(dashboard.at(&path)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let text = answer.text().await.unwrap();
        assert!(!text.contains(words) && !text.contains("127.0.0.1:0"), "{path}: {text}");
    }
    // A client with the token sees them.
    assert_eq!(dashboard.get("/links").await["items"][0]["values"]["cache_control"], words);
    assert_eq!(dashboard.get(&format!("/links?q={words}")).await["total"], 1);
    let masked: Value = guest
        .get(dashboard.at(&format!("/links?q={words}")))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(masked["total"], 0, "a search must not tell what is hidden: {masked}");
    let stream = guest.get(dashboard.at("/stream")).send().await.unwrap();
    let mut parts = stream.bytes_stream();
    let mut heard = String::new();
    while !heard.contains("event: overview") {
        let part = timeout(PATIENCE, parts.next()).await.expect("an overview").unwrap().unwrap();
        heard.push_str(&String::from_utf8_lossy(&part));
    }
    assert!(heard.contains("\"is_logged_in\":false") && !heard.contains(words), "{heard}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_login_nothing_is_changed_sent_or_called() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let guest = dashboard.without_login();
    let host = &dashboard.host.id;
    let description: Value =
        guest.get(dashboard.at("/openapi.json")).send().await.unwrap().json().await.unwrap();
    let mut tried = 0;
    for (path, item) in description["paths"].as_object().unwrap() {
        for method in item
            .as_object()
            .unwrap()
            .keys()
            .filter(|method| *method != "parameters" && *method != "get")
        {
            if path == "/api/v1/session" {
                continue;
            }
            let path =
                path.replace("{id}", host).replace("{key}", "k").replace("{link_name}", "default");
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            for http in [&guest, &forged_sessions(&dashboard)] {
                let request = http
                    .request(method.clone(), dashboard.url.join(&path).unwrap())
                    .json(&json!({}));
                let answer = request.send().await.unwrap();
                assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
                assert!(answer.text().await.unwrap().contains("host dashboard"), "{method} {path}");
            }
            tried += 1;
        }
    }
    assert!(tried >= 14, "{tried}");
    assert_eq!(dashboard.get("/operations").await["items"], json!([]));
}

/// A client with a session that somebody else signed.
fn forged_sessions(dashboard: &Dashboard) -> Client {
    let other = Keys::new(&Secret::new("another secret"), None);
    assert_ne!(other.session(token::now()), dashboard.token);
    let bearer = format!("Bearer {}", other.session(token::now())).parse().unwrap();
    let headers = header::HeaderMap::from_iter([(header::AUTHORIZATION, bearer)]);
    Client::builder().default_headers(headers).build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_logs_in_once_and_the_session_outlives_a_restart_until_it_is_revoked() {
    let server = Server::shared().await;
    let dir = TempDir::new().unwrap();
    let run = |port: &str| {
        let mut command = member(dir.path(), &server);
        command.env("WASMCLOUD_DASHBOARD_PORT", port);
        let mut process = Process::start(&mut command);
        process.line("ready");
        process
    };
    let port = free_port().to_string();
    let mut process = run(&port);
    let base = format!("http://127.0.0.1:{port}");
    let asked = |arguments: &[&str]| {
        let output = output(command(dir.path()).arg("dashboard").args(arguments));
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let link = asked(&["--no-open"]);
    let code =
        link.strip_prefix(&format!("{base}/login#")).unwrap_or_else(|| panic!("{link}")).to_owned();
    let http = plain();
    let enter = |shown: Value| http.post(format!("{base}/api/v1/session")).json(&shown).send();
    let entered: Value = enter(json!({ "code": code })).await.unwrap().json().await.unwrap();
    let session = entered["session"].as_str().unwrap().to_owned();
    let again = enter(json!({ "code": code })).await.unwrap();
    assert_eq!(again.status(), StatusCode::UNAUTHORIZED);
    assert!(again.text().await.unwrap().contains("host dashboard"));
    let change = |session: &str| {
        let url = format!("{base}/api/v1/links?actor_id=M&contract_id=x");
        http.delete(url).bearer_auth(session).send()
    };
    assert_eq!(
        change(&session).await.unwrap().status(),
        StatusCode::NOT_FOUND,
        "let in, and there is no such link"
    );

    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.exit_code(), Some(0));
    let none = output(command(dir.path()).arg("dashboard"));
    assert!(!none.status.success() && stderr(&none).contains("host up"), "{}", stderr(&none));
    let _process = run(&port);
    assert_eq!(change(&session).await.unwrap().status(), StatusCode::NOT_FOUND);
    let data: Value = serde_json::from_str(&asked(&["-o", "json"])).unwrap();
    assert_eq!((&data["url"], &data["lattice"]), (&json!(base), &json!(server.lattice())));

    asked(&["--revoke"]);
    eventually("the session has ended", || async {
        (change(&session).await.ok()?.status() == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await;
    // And another link logs in again.
    let code = asked(&["--no-open"]).split_once('#').unwrap().1.to_owned();
    assert_eq!(enter(json!({ "code": code })).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_says_what_browsers_may_do_with_it() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    for path in ["/", "/hosts", "/assets/index.html", "/api/v1/hosts", "/nothing", "/login"] {
        let answer = plain().get(dashboard.url.join(path).unwrap()).send().await.unwrap();
        let text = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        let policy = text("content-security-policy");
        assert!(
            policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(
            (&*text("x-content-type-options"), &*text("x-frame-options")),
            ("nosniff", "DENY"),
            "{path}"
        );
        assert!(answer.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN).is_none());
    }
    let first =
        plain().get(dashboard.url.join("/assets/index.html").unwrap()).send().await.unwrap();
    let tag = first.headers()[header::ETAG].clone();
    let again =
        plain().get(dashboard.url.join("/assets/index.html").unwrap()).header("if-none-match", tag);
    assert_eq!(again.send().await.unwrap().status(), StatusCode::NOT_MODIFIED);
    let outside = plain()
        .get(dashboard.url.join("/assets/..%2f..%2fCargo.toml").unwrap())
        .send()
        .await
        .unwrap();
    assert_eq!(outside.status(), StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_the_door_and_guessing_does_not() {
    let server = Server::shared().await;
    let builder = with_dashboard(host(&server)).set("dashboard_token", TOKEN);
    let dashboard = Dashboard::of(builder.start().await);
    let http = plain();
    assert_eq!(
        http.get(dashboard.at("/hosts")).send().await.unwrap().status(),
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        http.get(dashboard.url.join("/metrics").unwrap()).send().await.unwrap().status(),
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        http.get(dashboard.url.join("/healthz").unwrap()).send().await.unwrap().status(),
        StatusCode::OK
    );
    assert_eq!(
        http.get(dashboard.url.join("/login").unwrap()).send().await.unwrap().status(),
        StatusCode::OK
    );

    let log_in =
        |token: &str| http.post(dashboard.at("/session")).json(&json!({ "token": token })).send();
    let entered = log_in(TOKEN).await.unwrap();
    assert_eq!(entered.status(), StatusCode::OK);
    // Browsers send cookies to every port of a machine, so there is none.
    assert!(entered.headers().get(header::SET_COOKIE).is_none());
    let entered: Value = entered.json().await.unwrap();
    let session = entered["session"].as_str().unwrap().to_owned();
    let with_session = |method: Method, path: &str| {
        http.request(method, dashboard.at(path)).bearer_auth(&session).send()
    };
    assert_eq!(with_session(Method::GET, "/hosts").await.unwrap().status(), StatusCode::OK);
    for token in [TOKEN, &dashboard.token] {
        let bearer = http
            .get(dashboard.url.join("/metrics").unwrap())
            .bearer_auth(token)
            .send()
            .await
            .unwrap();
        assert_eq!(bearer.status(), StatusCode::OK);
    }
    assert_eq!(
        with_session(Method::DELETE, "/session").await.unwrap().status(),
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        with_session(Method::GET, "/hosts").await.unwrap().status(),
        StatusCode::UNAUTHORIZED
    );

    let mut wait = None;
    for _ in 0..10 {
        // A forged address makes no difference.
        let guess = http.post(dashboard.at("/session")).header("x-forwarded-for", "10.0.0.9");
        let answer = guess.json(&json!({ "token": "a guess" })).send().await.unwrap();
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            wait = Some(answer.headers()[header::RETRY_AFTER].clone());
        }
    }
    assert!(wait.is_some(), "guesses are counted");
    assert_eq!(log_in(TOKEN).await.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_a_token_is_made_up_and_kept_in_a_file() {
    let server = Server::shared().await;
    let builder = with_dashboard(host(&server)).set("dashboard_address", "0.0.0.0");
    let dashboard = Dashboard::of(builder.start().await);
    let file = dashboard.host.host().dashboard().unwrap().token_file.clone().expect("a file");
    let token = std::fs::read_to_string(file).unwrap();
    assert_eq!(
        plain().get(dashboard.at("/hosts")).send().await.unwrap().status(),
        StatusCode::UNAUTHORIZED
    );
    let entered =
        plain().get(dashboard.at("/hosts")).bearer_auth(token.trim()).send().await.unwrap();
    assert_eq!(entered.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_makes_way_and_0_is_none() {
    let server = Server::shared().await;
    let first = Dashboard::start(&server).await;
    let port = first.url.port().unwrap();
    let second =
        Dashboard::of(host(&server).set("dashboard_port", &port.to_string()).start().await);
    assert!(second.url.port().unwrap() > port);
    assert_eq!(second.get("/overview").await["host_id"], json!(second.host.id));
    assert!(host(&server).start().await.host().dashboard().is_none());
}

//! Who may enter: attacks, as they are made.

use reqwest::{Client, Method, StatusCode, header, redirect};
use serde_json::json;

use super::{Dashboard, with_dashboard};
use crate::harness::{Server, host};

const TOKEN: &str = "sixteen letters!";

fn plain() -> Client {
    Client::builder().redirect(redirect::Policy::none()).build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn other_pages_and_other_names_are_refused() {
    let server = Server::start().await;
    let dashboard = Dashboard::start(&server).await;
    let http = plain();
    let start = json!({ "reference": "x.example/y:1" });
    // A page of another origin, with what it can and cannot send.
    let forged = [
        http.post(dashboard.at("/actors")).header("origin", "http://evil.example").json(&start),
        http.post(dashboard.at("/actors")).header("sec-fetch-site", "cross-site").json(&start),
        http.get(dashboard.at("/links")).header("origin", "null"),
        http.get(dashboard.at("/stream")).header("sec-fetch-site", "same-site"),
    ];
    for request in forged {
        assert_eq!(request.send().await.unwrap().status(), StatusCode::FORBIDDEN);
    }
    // What its forms can send has not the type of anything here.
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        for path in ["/actors", "/uploads"] {
            let request = http.post(dashboard.at(path)).header("content-type", kind).body(start.to_string());
            let status = request.send().await.unwrap().status();
            assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{path} {kind}");
        }
    }
    // A name that was pointed here.
    for path in ["/", "/api/v1/hosts", "/metrics"] {
        let request = http.get(dashboard.url.join(path).unwrap()).header("host", "evil.example:4000");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::MISDIRECTED_REQUEST, "{path}");
        assert!(answer.text().await.unwrap().contains("--dashboard-names"));
    }
    assert_eq!(dashboard.get("/operations").await["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_says_what_browsers_may_do_with_it() {
    let server = Server::start().await;
    let dashboard = Dashboard::start(&server).await;
    for path in ["/", "/hosts", "/assets/index.html", "/api/v1/hosts", "/nothing", "/login"] {
        let answer = plain().get(dashboard.url.join(path).unwrap()).send().await.unwrap();
        let text = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        let policy = text("content-security-policy");
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!((&*text("x-content-type-options"), &*text("x-frame-options")), ("nosniff", "DENY"), "{path}");
        assert!(answer.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN).is_none());
    }
    let first = plain().get(dashboard.url.join("/assets/index.html").unwrap()).send().await.unwrap();
    let tag = first.headers()[header::ETAG].clone();
    let again = plain().get(dashboard.url.join("/assets/index.html").unwrap()).header("if-none-match", tag);
    assert_eq!(again.send().await.unwrap().status(), StatusCode::NOT_MODIFIED);
    let outside = plain().get(dashboard.url.join("/assets/..%2f..%2fCargo.toml").unwrap()).send().await.unwrap();
    assert_eq!(outside.status(), StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_the_door_and_guessing_does_not() {
    let server = Server::start().await;
    let builder = with_dashboard(host(&server)).set("dashboard_token", TOKEN);
    let dashboard = Dashboard::of(builder.start().await);
    let http = plain();
    let page = http.get(dashboard.url.join("/hosts").unwrap()).send().await.unwrap();
    assert_eq!(
        (page.status(), &page.headers()["location"]),
        (StatusCode::SEE_OTHER, &"/login?next=%2Fhosts".parse().unwrap())
    );
    assert_eq!(http.get(dashboard.at("/hosts")).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        http.get(dashboard.url.join("/metrics").unwrap()).send().await.unwrap().status(),
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(http.get(dashboard.url.join("/healthz").unwrap()).send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(http.get(dashboard.url.join("/login").unwrap()).send().await.unwrap().status(), StatusCode::OK);

    let log_in = |token: &str| http.post(dashboard.at("/session")).json(&json!({ "token": token })).send();
    let entered = log_in(TOKEN).await.unwrap();
    assert_eq!(entered.status(), StatusCode::NO_CONTENT);
    let cookie = entered.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let with_cookie =
        |method: Method, path: &str| http.request(method, dashboard.at(path)).header("cookie", &cookie).send();
    assert_eq!(with_cookie(Method::GET, "/hosts").await.unwrap().status(), StatusCode::OK);
    let bearer = http.get(dashboard.url.join("/metrics").unwrap()).bearer_auth(TOKEN).send().await.unwrap();
    assert_eq!(bearer.status(), StatusCode::OK);
    assert_eq!(with_cookie(Method::DELETE, "/session").await.unwrap().status(), StatusCode::NO_CONTENT);
    assert_eq!(with_cookie(Method::GET, "/hosts").await.unwrap().status(), StatusCode::UNAUTHORIZED);

    let mut wait = None;
    for _ in 0..10 {
        let answer = log_in("a guess").await.unwrap();
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            wait = Some(answer.headers()[header::RETRY_AFTER].clone());
        }
    }
    assert!(wait.is_some(), "guesses are counted");
    assert_eq!(log_in(TOKEN).await.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_a_token_is_made_up_and_kept_in_a_file() {
    let server = Server::start().await;
    let builder = with_dashboard(host(&server)).set("dashboard_address", "0.0.0.0");
    let dashboard = Dashboard::of(builder.start().await);
    let file = dashboard.host.host().dashboard().unwrap().token_file.clone().expect("a file");
    let token = std::fs::read_to_string(file).unwrap();
    assert_eq!(plain().get(dashboard.at("/hosts")).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let entered = plain().get(dashboard.at("/hosts")).bearer_auth(token.trim()).send().await.unwrap();
    assert_eq!(entered.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_makes_way_and_0_is_none() {
    let server = Server::start().await;
    let first = Dashboard::start(&server).await;
    let port = first.url.port().unwrap();
    let second = Dashboard::of(host(&server).set("dashboard_port", &port.to_string()).start().await);
    assert!(second.url.port().unwrap() > port);
    assert_eq!(second.get("/overview").await["host_id"], json!(second.host.id));
    assert!(host(&server).start().await.host().dashboard().is_none());
}

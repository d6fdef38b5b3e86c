//! The provider that makes HTTP requests, against a real server, with and without a real proxy.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use lattice_engine::{
    providers::builtin::{Link, LinkError, httpclient::SPEC},
    rpc::call::CallError,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;
use wasmbus_rpc::common::{deserialize, serialize};
use wasmcloud_interface_httpclient::{HttpRequest, HttpResponse};

use crate::harness::{
    PATIENCE, Server, builtin,
    nats::free_port,
    origin::{Origin, Proxy},
    pki::Authority,
};

async fn try_link(values: &[(&str, &str)]) -> Result<Arc<dyn Link>, LinkError> {
    let (server, dir) = (Server::shared().await, TempDir::new().expect("a directory"));
    let context = builtin::context(&server, &SPEC, dir.path(), HashMap::new()).await;
    (SPEC.build)(context).link(builtin::link(&SPEC, values)).await
}

/// A link that may reach this machine, where all servers of these tests are.
async fn link(values: &[(&str, &str)]) -> Arc<dyn Link> {
    let values: Vec<_> = values.iter().copied().chain([("allow_loopback", "true")]).collect();
    strict_link(&values).await
}

/// A link with these values alone.
async fn strict_link(values: &[(&str, &str)]) -> Arc<dyn Link> {
    try_link(values).await.expect("the link is taken on")
}

async fn send(link: &Arc<dyn Link>, request: &HttpRequest) -> Result<HttpResponse, String> {
    let payload = serialize(request).expect("encoded");
    match builtin::call(link, &SPEC, "HttpClient.Request", payload).await {
        Ok(response) => Ok(deserialize(&response).expect("a response of the contract")),
        Err(CallError::Callee(text)) => Err(text),
        Err(other) => panic!("{other}"),
    }
}

async fn get(link: &Arc<dyn Link>, url: &str) -> Result<HttpResponse, String> {
    send(link, &HttpRequest::get(url)).await
}

/// Fails with a text that holds each of `expected`.
async fn refused(link: &Arc<dyn Link>, url: &str, expected: &[&str]) {
    let error = get(link, url).await.map(|response| response.status_code).expect_err(url);
    assert!(expected.iter().all(|part| error.contains(part)), "{error}");
}

fn json(response: &HttpResponse) -> Value {
    serde_json::from_slice(&response.body).expect("JSON")
}

fn lines<'a>(seen: &'a Value, name: &str) -> Vec<&'a str> {
    let headers = seen["headers"].as_array().expect("headers");
    headers.iter().filter(|line| line[0] == name).filter_map(|line| line[1].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_arrives_as_the_actor_wrote_it_and_every_status_is_a_result() {
    let (origin, link) = (Origin::start().await, link(&[]).await);
    let mut request = HttpRequest::post(&origin.url("/echo?a=b"), b"hello".to_vec());
    request.headers = HashMap::from([
        ("X-Two".into(), vec!["one".into(), "two, three".into()]),
        ("Connection".into(), vec!["close".into()]),
        ("Content-Length".into(), vec!["999".into()]),
    ]);
    let response = send(&link, &request).await.expect("a response");
    let seen = json(&response);
    assert_eq!((seen["method"].as_str(), seen["body"].as_str()), (Some("POST"), Some("hello")));
    assert_eq!(lines(&seen, "x-two"), ["one", "two, three"]);
    assert_eq!(lines(&seen, "content-length"), ["5"]);
    assert_eq!(lines(&seen, "host"), [format!("127.0.0.1:{}", origin.port)]);
    assert_eq!(lines(&seen, "user-agent"), [concat!("lattice-host/", env!("CARGO_PKG_VERSION"))]);
    assert!(lines(&seen, "connection").is_empty() && lines(&seen, "accept-encoding").is_empty());
    // The body is as it came, whatever its encoding is said to be.
    assert_eq!(response.header["content-encoding"], ["gzip"]);

    let empty = send(&link, &HttpRequest::post(&origin.url("/echo"), Vec::new()))
        .await
        .expect("a response");
    assert_eq!(lines(&json(&empty), "content-length"), ["0"]);
    let mut own_agent = HttpRequest::get(&origin.url("/echo"));
    own_agent.headers.insert("User-Agent".into(), vec!["mine".into()]);
    assert_eq!(
        lines(&json(&send(&link, &own_agent).await.expect("a response")), "user-agent"),
        ["mine"]
    );

    assert_eq!(get(&link, &origin.url("/status/404")).await.expect("a response").status_code, 404);
    assert_eq!(get(&link, &origin.url("/status/503")).await.expect("a response").status_code, 503);
    let cookies = get(&link, &origin.url("/cookies")).await.expect("a response");
    assert_eq!(cookies.header["set-cookie"], ["a=1, x", "b=2"]);

    let plain_spelling = serialize(&HttpRequest::get(&origin.url("/x"))).expect("encoded");
    assert!(builtin::call(&link, &SPEC, "Request", plain_spelling).await.is_ok());
    let unknown = builtin::call(&link, &SPEC, "HttpClient.Other", Vec::new()).await;
    assert_eq!(unknown, Err(CallError::Callee("method not handled HttpClient.Other".into())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_authority_is_trusted_when_the_link_names_it() {
    let dir = TempDir::new().expect("a directory");
    let authority = Authority::new(dir.path(), "authority");
    let origin = Origin::with_tls(&authority.sign(dir.path(), "origin")).await;
    let url = format!("https://localhost:{}/echo", origin.port);

    let file = authority.certificate.to_str().expect("a path");
    let pem = std::fs::read_to_string(file).expect("the certificate");
    for values in [[("ca_file", file)], [("ca", pem.as_str())]] {
        let seen = json(&get(&link(&values).await, &url).await.expect("a response"));
        assert_eq!(seen["version"], "HTTP/2.0");
    }
    refused(
        &link(&[]).await,
        &format!("{url}?token=secret"),
        &["GET https://localhost", "/echo: TLS", "ca_file"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_followed_and_every_hop_is_checked() {
    let origin = Origin::start().await;
    let to = |code: u16, url: &str| origin.url(&format!("/redirect/{code}?{url}"));
    let default = link(&[]).await;
    let mut post = HttpRequest::post(&to(302, "/echo"), b"body".to_vec());
    post.headers.insert("Authorization".into(), vec!["secret".into()]);
    let seen = json(&send(&default, &post).await.expect("a response"));
    assert_eq!((seen["method"].as_str(), seen["body"].as_str()), (Some("GET"), Some("")));
    assert_eq!(lines(&seen, "authorization"), ["secret"]);
    post.url = to(307, &format!("http://localhost:{}/echo", origin.port));
    let seen = json(&send(&default, &post).await.expect("a response"));
    assert_eq!((seen["method"].as_str(), seen["body"].as_str()), (Some("POST"), Some("body")));
    assert!(lines(&seen, "authorization").is_empty());

    for away in [
        "http://169.254.169.254/latest",
        "http://0xa9fea9fe/",
        "//[::ffff:a9fe:a9fe]/",
        "http://metadata.google.internal/",
    ] {
        refused(&default, &to(302, away), &["link-local", "allow_link_local=true"]).await;
    }
    refused(&default, &to(302, "file:///etc/passwd"), &["only http and https"]).await;

    let allowed = link(&[("allowed_hosts", "127.0.0.1")]).await;
    assert!(get(&allowed, &to(302, "/x")).await.is_ok());
    refused(
        &allowed,
        &to(302, &format!("http://localhost:{}/x", origin.port)),
        &["localhost", "allowed_hosts"],
    )
    .await;

    // An empty location is the same URL again.
    refused(&default, &to(302, ""), &["more than 10 redirects"]).await;
    let off = link(&[("redirects", "0")]).await;
    let response =
        get(&off, &to(302, "http://169.254.169.254/")).await.expect("the redirect itself");
    assert_eq!(
        (response.status_code, &response.header["location"][..]),
        (302, &["http://169.254.169.254/".to_owned()][..])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_name_resolves_to_decides() {
    let origin = Origin::start().await;
    let by_name = format!("http://localhost:{}/echo", origin.port);
    assert!(get(&link(&[]).await, &by_name).await.is_ok());
    assert!(get(&link(&[("allow_private", "false")]).await, &by_name).await.is_ok());
    for values in [&[][..], &[("allow_private", "false")], &[("allowed_hosts", "*")]] {
        let strict = strict_link(values).await;
        refused(&strict, &by_name, &["localhost resolves to", "allow_loopback=true"]).await;
        refused(
            &strict,
            &origin.url("/echo"),
            &["127.0.0.1 is a loopback address", "allowed_hosts"],
        )
        .await;
    }
    let named = strict_link(&[("allowed_hosts", "localhost,127.0.0.1")]).await;
    assert!(get(&named, &by_name).await.is_ok() && get(&named, &origin.url("/echo")).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_takes_requests_and_tunnels_for_a_link() {
    let dir = TempDir::new().expect("a directory");
    let authority = Authority::new(dir.path(), "authority");
    let (plain, secure) =
        (Origin::start().await, Origin::with_tls(&authority.sign(dir.path(), "origin")).await);
    let proxy = Proxy::start().await;
    let address = format!("http://user:secret@127.0.0.1:{}", proxy.port);
    let ca = authority.certificate.to_str().expect("a path");
    // Nothing here is in the internet, and a proxy still may be used.
    let values = [
        ("proxy", &*address),
        ("ca_file", ca),
        ("no_proxy", "127.0.0.1"),
        ("allow_private", "false"),
    ];
    let link = strict_link(&values).await;

    let far = format!("http://far.example:{}/echo", plain.port);
    let seen = json(&get(&link, &far).await.expect("a response"));
    assert_eq!(lines(&seen, "host"), [format!("far.example:{}", plain.port)]);
    refused(
        &link,
        &format!("https://far.example:{}/echo", secure.port),
        &["TLS", "not valid for name"],
    )
    .await;
    assert_eq!(
        proxy.log(),
        [format!("GET {far} HTTP/1.1"), format!("CONNECT far.example:{} HTTP/1.1", secure.port)]
    );

    // The proxy would reach these for us.
    for url in ["http://metadata.google.internal/", "http://169.254.169.254/"] {
        refused(&link, url, &["allow_link_local=true"]).await;
    }
    refused(&link, &format!("http://localhost:{}/", plain.port), &["allow_loopback=true"]).await;
    refused(&link, &plain.url("/"), &["127.0.0.1 is a loopback"]).await;
    assert_eq!(proxy.log().len(), 2);

    let wrong = format!("http://user:wrong@127.0.0.1:{}", proxy.port);
    let link = self::strict_link(&[("proxy", &*wrong)]).await;
    let error = get(&link, &format!("https://far.example:{}/", secure.port)).await.unwrap_err();
    assert!(error.contains("proxy") && !error.contains("wrong"), "{error}");
}

/// Names the test below when it runs as its own child, with an environment it cannot give itself.
const ENVIRONMENT: &str = "LATTICE_HOST_TEST_ENVIRONMENT";

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_proxies_of_the_environment_are_used() {
    if let Some(ports) = std::env::var_os(ENVIRONMENT) {
        return in_the_environment(ports.to_str().expect("ports")).await;
    }
    let dir = TempDir::new().expect("a directory");
    let authority = Authority::new(dir.path(), "authority");
    let secure = Origin::with_tls(&authority.sign(dir.path(), "origin")).await;
    let (plain, proxy) = (Origin::start().await, Proxy::start().await);
    let address = format!("http://user:secret@127.0.0.1:{}", proxy.port);
    let child = tokio::process::Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "httpclient::certificates_and_proxies_of_the_environment_are_used"])
        .env(ENVIRONMENT, format!("{} {}", secure.port, plain.port))
        .env("SSL_CERT_FILE", &authority.certificate)
        .env("https_proxy", &address)
        .env("HTTP_PROXY", &address)
        .env("NO_PROXY", "127.0.0.1")
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, child).await.expect("it ends").expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let (connect, get) = (
        format!("CONNECT localhost:{} HTTP/1.1", secure.port),
        format!("http://localhost:{}", plain.port),
    );
    assert_eq!(proxy.log(), [connect, format!("GET {get}/echo HTTP/1.1")]);
}

async fn in_the_environment(ports: &str) {
    let (secure, plain) = ports.split_once(' ').expect("two ports");
    let link = link(&[]).await;
    assert!(get(&link, &format!("https://localhost:{secure}/echo")).await.is_ok());
    assert!(get(&link, &format!("http://localhost:{plain}/echo")).await.is_ok());
    assert!(get(&link, &format!("http://127.0.0.1:{plain}/echo")).await.is_ok());
    let direct = self::link(&[("proxy", "none")]).await;
    assert!(get(&direct, &format!("http://localhost:{plain}/echo")).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_have_limits_and_waiting_has_an_end() {
    let origin = Origin::start().await;
    let values = [("max_body", "10K"), ("max_request_body", "1k"), ("timeout_ms", "300")];
    let link = link(&values).await;
    assert_eq!(
        get(&link, &origin.url("/bytes/10240")).await.expect("a response").body.len(),
        10_240
    );
    assert_eq!(
        get(&link, &origin.url("/stream/10000")).await.expect("a response").body.len(),
        10_000
    );
    for path in ["/bytes/10241", "/stream/1000000000"] {
        refused(&link, &origin.url(path), &["more than 10240 bytes", "max_body"]).await;
    }
    let head =
        HttpRequest { method: "HEAD".into(), ..HttpRequest::get(&origin.url("/bytes/99999")) };
    assert_eq!(send(&link, &head).await.expect("a response").header["content-length"], ["99999"]);
    let error =
        send(&link, &HttpRequest::post(&origin.url("/echo"), vec![0; 1025])).await.unwrap_err();
    assert!(error.contains("max_request_body"), "{error}");

    let began = Instant::now();
    refused(
        &link,
        &origin.url("/gate?token=secret"),
        &["/gate: there was no answer", "timeout_ms"],
    )
    .await;
    // The call itself had five seconds.
    assert!(began.elapsed() < Duration::from_secs(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_name_the_request_and_the_next_step() {
    let link = link(&[]).await;
    let nobody = format!("http://user:secret@127.0.0.1:{}/path?secret#secret", free_port());
    refused(&link, &nobody, &["GET http://127.0.0.1", "/path: connection refused"]).await;
    let error = get(&link, &nobody).await.unwrap_err();
    assert!(!error.contains("secret"), "{error}");
    refused(
        &link,
        "http://no-such-name.invalid/",
        &["no-such-name.invalid cannot be resolved", "DNS"],
    )
    .await;
    refused(&link, "ftp://example.org/", &["only http and https"]).await;
    refused(&link, "example.org", &["http://"]).await;
    for (values, expected) in
        [([("proxy", "socks5://a:1")], "proxy"), ([("allowed_hosts", "a/b")], "allowed_hosts")]
    {
        let error = try_link(&values).await.err().expect(expected);
        assert!(matches!(&error, LinkError::Values(text) if text.contains(expected)), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_ends_waits_for_its_requests() {
    let (origin, link) = (Origin::start().await, link(&[]).await);
    let (in_work, url) = (Arc::clone(&link), origin.url("/gate"));
    let request = tokio::spawn(async move { get(&in_work, &url).await });
    origin.arrival().await;
    let end = Arc::clone(&link).end(Instant::now() + PATIENCE);
    let end = tokio::spawn(end);
    // A call that took the link before another one replaced it comes late, and is made all the
    // same.
    tokio::task::yield_now().await;
    assert!(get(&link, &origin.url("/x")).await.is_ok());
    assert!(!end.is_finished());
    origin.open();
    assert_eq!(request.await.expect("no panic").expect("a response").body, b"passed");
    tokio::time::timeout(PATIENCE, end).await.expect("it ends").expect("no panic");
    assert!(get(&link, &origin.url("/x")).await.is_ok());
}

#[test]
fn every_link_value_is_documented() {
    let names: BTreeMap<&str, &str> =
        SPEC.values.iter().map(|value| (value.name, value.help)).collect();
    assert_eq!(names.len(), SPEC.values.len());
    assert!(names.values().all(|help| help.len() > 10) && !SPEC.about.is_empty());
}

//! The page with dogs and cats: its demonstration on a real host, what it says when something is in
//! the way, and the link value that leads it to an API of one's own.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, TcpListener},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream};
use lattice_base::dirs::Dirs;
use lattice_cli::up::demo::{
    self, ACTOR, Demo,
    certificate::Certificate,
    pets::{Pets, Settings},
};
use lattice_engine::{
    providers::builtin::{Link, httpclient, httpserver},
    rpc::call::CallError,
};
use lattice_protocol::identity::{
    claims::now,
    module::{VerifyOptions, verify_module},
};
use tempfile::TempDir;
use wasmbus_rpc::common::{deserialize, serialize};
use wasmcloud_interface_httpclient::{HttpRequest, HttpResponse};

use crate::harness::{
    Server, TestHost, builtin,
    client::{link, start, start_provider},
    eventually, example, host,
    nats::free_port,
    origin::{Origin, Proxy},
};

const HTTP: &str = "wasmcloud:httpserver";
const CLIENT: &str = "wasmcloud:httpclient";

async fn try_demo(host: &TestHost) -> anyhow::Result<Demo> {
    let no_environment: Vec<(String, String)> = Vec::new();
    demo::start(host.host(), &Dirs::find(&no_environment, Some(host.dir()))).await
}

async fn pets(delay: Duration) -> Pets {
    let certificate = Certificate::generate().expect("a certificate");
    Pets::start(Settings { listen: (Ipv4Addr::LOCALHOST, 0).into(), delay, certificate })
        .await
        .expect("the API starts")
}

/// Returns the answer as a browser gets it: status, content type, body.
async fn get(url: &str) -> (u16, String, String) {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let answer = client.get(url).send().await.expect("an answer");
    let content_type = answer.headers()["content-type"].to_str().expect("a text").to_owned();
    (answer.status().as_u16(), content_type, answer.text().await.expect("a body"))
}

/// The kind of animal on a picture.
fn animal((status, content_type, body): &(u16, String, String)) -> &'static str {
    assert_eq!((*status, content_type.as_str()), (200, "image/svg+xml"), "{body}");
    ["dog", "cat"]
        .into_iter()
        .find(|kind| body.contains(&format!("<title>{kind}: ")))
        .expect("a dog or a cat")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstration_shows_dogs_and_cats_and_can_be_started_again() {
    let server = Server::shared().await;
    let first = host(&server).start().await;
    // A page that is linked already stays where it is; other tests may have taken the usual port.
    let address = format!("127.0.0.1:{}", free_port());
    link(&server, ACTOR, httpserver::SPEC.known.public_key, HTTP, &[("address", &address)]).await;
    let demo = try_demo(&first).await.expect("the demonstration starts");
    let page = demo.page.clone();
    assert_eq!(page, format!("http://{address}/"));
    let shown: Vec<_> =
        stream::iter(0..200).map(|_| get(&page)).buffer_unordered(16).collect().await;
    let dogs = shown.iter().filter(|answer| animal(answer) == "dog").count();
    // One in 10^20 of fair draws is farther from the middle.
    assert!((30..170).contains(&dogs), "{dogs} dogs of 200");

    assert_eq!(animal(&get(&format!("{page}dog")).await), "dog");
    assert_eq!(animal(&get(&format!("{page}pets/Cat/")).await), "cat");
    assert_eq!(animal(&get(&format!("{page}dog?animal=cat")).await), "cat");
    let (status, _, text) = get(&format!("{page}?animal=cow")).await;
    assert!(status == 400 && text.contains("\"cow\"") && text.contains("dog or cat"), "{text}");

    // The links outlive the host, and the API they lead to does not.
    first.stop().await;
    demo.stop().await;
    let second = host(&server).start().await;
    let demo = try_demo(&second).await.expect("the demonstration starts again");
    assert_eq!(demo.page, page);
    assert_eq!(animal(&get(&format!("{page}cat")).await), "cat");
    second.stop().await;
    demo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_picture_away_is_told_in_words() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start_provider(&server, &host, "builtin://httpserver").await;
    start_provider(&server, &host, "builtin://httpclient").await;
    start(&server, &host, &example("dogs-and-cats"), 10).await;
    let address = format!("127.0.0.1:{}", free_port());
    link(&server, ACTOR, httpserver::SPEC.known.public_key, HTTP, &[("address", &address)]).await;

    let (quick, slow) = (pets(Duration::ZERO).await, pets(Duration::from_secs(20)).await);
    let good = quick.link_values();
    let with = |values: &BTreeMap<String, String>, name: &str, value: &str| {
        let mut values = values.clone();
        values.insert(name.to_owned(), value.to_owned());
        values
    };
    let says = async |path: &str, values: &BTreeMap<String, String>, expected: &[&str]| {
        let values: Vec<_> =
            values.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        link(&server, ACTOR, httpclient::SPEC.known.public_key, CLIENT, &values).await;
        let url = format!("http://{address}/{path}");
        eventually(expected[0], async || {
            let client = reqwest::Client::builder().no_proxy().build().expect("a client");
            let answer = client.get(&url).send().await.ok()?;
            let status = answer.status().as_u16();
            let text = answer.text().await.ok()?;
            (status == 502 && expected.iter().all(|part| text.contains(part))).then_some(())
        })
        .await;
    };
    let dogs = "https://dog.ceo/api/breeds/image/random";
    says(
        "dog",
        &with(&good, "ca", slow.authority()),
        &["no picture of a dog", dogs, "TLS", "ca_file"],
    )
    .await;
    says("cat", &with(&good, "max_body", "300"), &["no picture of a cat", "/cats/", "max_body"])
        .await;
    says(
        "cat",
        &with(&slow.link_values(), "timeout_ms", "200"),
        &["api.thecatapi.com", "there was no answer"],
    )
    .await;
    let elsewhere = Pets::resolve(slow.address()).replace("dog.ceo:", "dog.example:");
    says(
        "dog",
        &with(&with(&good, "resolve", &elsewhere), "allowed_hosts", "dog.example"),
        &[dogs, "allowed_hosts"],
    )
    .await;
    quick.stop().await;
    says("dog", &good, &["no picture of a dog", dogs, "connection refused"]).await;
    host.stop().await;
    slow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_whose_port_is_taken_moves_to_a_free_one() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    link(&server, ACTOR, httpserver::SPEC.known.public_key, HTTP, &[("address", &address)]).await;
    let demo = try_demo(&host).await.expect("the demonstration starts elsewhere");
    let port = demo.page.strip_prefix("http://127.0.0.1:").and_then(|rest| rest.strip_suffix('/'));
    let port: u16 = port.and_then(|port| port.parse().ok()).expect("a page on this machine");
    assert!((8080..8180).contains(&port), "{port}");
    animal(&get(&demo.page).await);
    host.stop().await;
    demo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demonstration_that_cannot_start_says_which_part_and_why() {
    let server = Server::shared().await;
    let host = host(&server).set("enable_start_from_fs", "false").start().await;
    let error = format!("{:#}", try_demo(&host).await.expect_err("files are not loaded"));
    assert!(
        error.contains("the actor dogs-and-cats cannot start") && error.contains("allow_file_load"),
        "{error}"
    );
    host.stop().await;
}

#[test]
fn the_actor_is_signed_for_what_it_uses_and_small() {
    let wasm =
        std::fs::read(example("dogs-and-cats").trim_start_matches("file://")).expect("the module");
    assert!(wasm.len() <= 250_000, "{} bytes", wasm.len());
    let claims =
        verify_module(&wasm, now(), &VerifyOptions::default()).expect("a signed module").claims;
    assert_eq!((claims.subject.as_str(), claims.name.as_deref()), (ACTOR, Some("dogs-and-cats")));
    assert_eq!(claims.caps, [HTTP, CLIENT, "wasmcloud:builtin:numbergen"]);
    assert_eq!(claims.issuer, "ABJ7776SLJGWTTLAJITX6OZDFC3EPDJRITCWHSBZTYWNURQUBC23RP2F");
}

/// A link to the HTTP client, without a host around it.
async fn client(values: &[(&str, &str)]) -> Arc<dyn Link> {
    let (server, dir) = (Server::shared().await, TempDir::new().expect("a directory"));
    let context =
        builtin::context(&server, &httpclient::SPEC, dir.path(), Default::default()).await;
    (httpclient::SPEC.build)(context)
        .link(builtin::link(&httpclient::SPEC, values))
        .await
        .expect("the link is taken on")
}

async fn fetch(link: &Arc<dyn Link>, url: &str) -> Result<HttpResponse, String> {
    let payload = serialize(&HttpRequest::get(url)).expect("encoded");
    match builtin::call(link, &httpclient::SPEC, "HttpClient.Request", payload).await {
        Ok(response) => Ok(deserialize(&response).expect("a response of the contract")),
        Err(CallError::Callee(text)) => Err(text),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolved_name_is_found_past_proxies_and_after_redirects() {
    let (api, plain, proxy) =
        (pets(Duration::ZERO).await, Origin::start().await, Proxy::start().await);
    let proxy_url = format!("http://user:secret@127.0.0.1:{}", proxy.port);
    let ca = api.authority();
    // The port of the address is for URLs without one.
    let resolve = format!(
        "{},plain.example=127.0.0.1:1,by-colon.example:127.0.0.1",
        Pets::resolve(api.address())
    );
    let values =
        [("resolve", &*resolve), ("ca", ca), ("proxy", &proxy_url), ("no_proxy", "127.0.0.1")];
    let link = client(&[&values[..], &[("allow_loopback", "true")]].concat()).await;
    let url = "https://dog.ceo/api/breeds/image/random";
    let body = |response: HttpResponse| String::from_utf8(response.body).expect("text");
    assert!(body(fetch(&link, url).await.expect("an answer")).contains("https://dog.ceo/dogs/"));
    for name in ["plain.example", "by-colon.example"] {
        let by_name = format!("http://{name}:{}/x", plain.port);
        assert_eq!(body(fetch(&link, &by_name).await.expect("an answer")), "/x");
    }
    let redirected =
        fetch(&link, &plain.url(&format!("/redirect/302?{url}"))).await.expect("an answer");
    assert!(body(redirected).contains("success"));
    assert_eq!(proxy.log(), Vec::<String>::new());
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolved_name_passes_the_rules_and_the_check_of_its_certificate() {
    let (api, other, plain) =
        (pets(Duration::ZERO).await, pets(Duration::ZERO).await, Origin::start().await);
    let resolve = format!(
        "{},elsewhere.example={},metadata.example=169.254.169.254:80",
        Pets::resolve(api.address()),
        api.address()
    );
    let refused = async |values: &[(&str, &str)], url: &str, expected: &[&str]| {
        let mut all = vec![("resolve", resolve.as_str())];
        all.extend(values);
        if !values.contains(&("allow_private", "false")) {
            all.push(("allow_loopback", "true"));
        }
        let error = fetch(&client(&all).await, url)
            .await
            .map(|response| response.status_code)
            .expect_err(url);
        assert!(expected.iter().all(|part| error.contains(part)), "{error}");
    };
    let (ca, url) = (("ca", api.authority()), "https://dog.ceo/");
    refused(
        &[ca, ("allow_private", "false")],
        url,
        &["dog.ceo resolves to 127.0.0.1", "allow_loopback=true"],
    )
    .await;
    let metadata = "http://metadata.example/latest";
    refused(&[ca], metadata, &["metadata.example resolves to 169.254.169.254", "allow_link_local"])
        .await;
    let redirect = plain.url(&format!("/redirect/302?{metadata}"));
    refused(&[ca], &redirect, &["metadata.example resolves to 169.254.169.254"]).await;
    refused(&[ca, ("allowed_hosts", "127.0.0.1")], url, &["dog.ceo", "allowed_hosts"]).await;
    refused(&[], url, &["TLS", "UnknownIssuer", "ca_file"]).await;
    refused(&[("ca", other.authority())], url, &["TLS", "ca_file"]).await;
    refused(&[ca], "https://elsewhere.example/", &["TLS", "elsewhere.example"]).await;
    api.stop().await;
    other.stop().await;
}

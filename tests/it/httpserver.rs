//! The built-in HTTP server, with actors that are closures: browsers' and other clients' view of
//! it.

use std::{
    collections::HashMap,
    io::ErrorKind,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use lattice_base::budget::Budget;
use lattice_engine::{
    providers::builtin::{Context, Link, LinkError, Provider, httpserver::SPEC},
    router::Local,
    rpc::call::CallError,
};
use lattice_protocol::links::LinkDefinition;
use reqwest::{Method, StatusCode, Version};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};
use wasmbus_rpc::common::{deserialize, serialize};
use wasmcloud_interface_httpserver::{HttpRequest, HttpResponse};

use crate::harness::{
    ECHO, KVCOUNTER, PATIENCE, PINGER, PONGER, Server,
    builtin::{self, Closure},
    eventually,
    nats::free_port,
    pki::Authority,
};

/// A provider with some actors.
pub struct Site {
    provider: Arc<dyn Provider>,
    dir: TempDir,
    pub port: u16,
    _server: Server,
}

pub type Actors = Vec<(&'static str, Arc<dyn Local>)>;

/// An actor that answers requests.
pub fn actor<R>(answer: impl Fn(HttpRequest) -> R + Clone + Send + Sync + 'static) -> Arc<dyn Local>
where
    R: Future<Output = Result<HttpResponse, CallError>> + Send + 'static,
{
    Arc::new(Closure(move |operation: String, payload: Bytes| {
        let answer = answer.clone();
        async move {
            assert_eq!(operation, "HttpServer.HandleRequest");
            let request = deserialize(&payload).expect("peers read the request");
            Ok(serialize(&answer(request).await?).expect("encodable").into())
        }
    }))
}

pub fn ok(body: impl Into<Vec<u8>>) -> HttpResponse {
    HttpResponse { status_code: 200, header: HashMap::new(), body: body.into() }
}

/// Answers its name and the path.
pub fn named(name: &'static str) -> Arc<dyn Local> {
    actor(move |request| async move { Ok(ok(format!("{name} {}", request.path))) })
}

pub fn all_named() -> Actors {
    vec![(ECHO, named("echo")), (PINGER, named("pinger")), (PONGER, named("ponger"))]
}

impl Site {
    pub async fn with(actors: Actors) -> Self {
        Self::with_budget(actors, Budget::default()).await
    }

    async fn with_budget(actors: Actors, budget: Budget) -> Self {
        let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
        let actors = actors.into_iter().map(|(id, actor)| (Arc::from(id), actor)).collect();
        let context =
            Context { budget, ..builtin::context(&server, &SPEC, dir.path(), actors).await };
        Self { provider: (SPEC.build)(context), dir, port: free_port(), _server: server }
    }

    pub async fn echo(answer: Arc<dyn Local>) -> Self {
        Self::with(vec![(ECHO, answer)]).await
    }

    /// Links the echo actor on the site's port.
    pub async fn link(&self, values: &[(&str, &str)]) -> Arc<dyn Link> {
        self.try_link(ECHO, values).await.expect("the link is taken on")
    }

    async fn try_link(
        &self,
        actor: &str,
        values: &[(&str, &str)],
    ) -> Result<Arc<dyn Link>, LinkError> {
        let port = self.port.to_string();
        let mut all = vec![("port", port.as_str())];
        all.extend(values);
        self.link_at(actor, &all).await
    }

    async fn link_at(
        &self,
        actor: &str,
        values: &[(&str, &str)],
    ) -> Result<Arc<dyn Link>, LinkError> {
        let link = LinkDefinition {
            actor_id: actor.into(),
            ..LinkDefinition::clone(&builtin::link(&SPEC, values))
        };
        Arc::clone(&self.provider).link(Arc::new(link)).await
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let answer = client().get(self.url(path)).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.expect("a connection")
    }

    /// Sends bytes and reads until the server closes.
    pub async fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        rest(&mut stream).await
    }
}

pub fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

pub async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    ended.unwrap_or_else(|_| panic!("the connection does not end: {answer:?}")).expect("no reset");
    answer
}

/// Reads one answer with a body of known length.
pub async fn one(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
        let read = timeout(PATIENCE, stream.read_buf(&mut answer))
            .await
            .expect("an answer")
            .expect("no reset");
        assert_ne!(read, 0, "the connection ended after {text:?}");
    }
}

async fn end(link: Arc<dyn Link>) {
    timeout(PATIENCE, link.end(Instant::now() + PATIENCE)).await.expect("the link ends");
}

#[tokio::test]
async fn a_request_reaches_the_actor_as_it_was_sent_and_its_answer_comes_back() {
    let site = Site::echo(actor(|request| async move {
        assert_eq!((request.method.as_str(), request.path.as_str()), ("PATCH", "/a%20b/"));
        assert_eq!(request.query_string, "x=%31&y");
        assert_eq!(request.header["x-many"], ["1", "2"]);
        assert!(request.header["host"][0].starts_with("127.0.0.1:"));
        let header = HashMap::from([
            ("Set-Cookie".to_owned(), vec!["a=1".to_owned(), String::new(), "b=2".to_owned()]),
            ("Connection".to_owned(), vec!["close".to_owned()]),
        ]);
        Ok(HttpResponse { status_code: 418, header, body: request.body })
    }))
    .await;
    let link = site.link(&[]).await;
    let h2c = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    for (client, version) in [(client(), Version::HTTP_11), (h2c, Version::HTTP_2)] {
        for length in [0, 5, 70_000, 5 << 20] {
            let body: Vec<u8> = (0..length).map(|number: u32| number as u8).collect();
            let request = client.request(Method::PATCH, site.url("/a%20b/?x=%31&y"));
            let request = request.header("X-Many", "1").header("x-many", "2").body(body.clone());
            let answer = request.send().await.unwrap();
            assert_eq!((answer.status().as_u16(), answer.version()), (418, version));
            let cookies: Vec<_> = answer.headers().get_all("set-cookie").iter().collect();
            assert_eq!(cookies, ["a=1", "b=2"]);
            assert!(!answer.headers().contains_key("connection"));
            assert_eq!(answer.bytes().await.unwrap(), body);
        }
    }
    end(link).await;
}

#[tokio::test]
async fn a_connection_is_kept_and_head_is_answered_without_a_body() {
    let site = Site::with(all_named()).await;
    let _link = site.link(&[]).await;
    let mut stream = site.connect().await;
    for _ in 0..2 {
        stream.write_all(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        assert!(one(&mut stream).await.ends_with("\r\n\r\necho /x"));
    }
    stream.write_all(b"HEAD /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.contains("content-length: 7\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    let old = site.exchange(b"GET /old HTTP/1.0\r\n\r\n").await;
    assert!(old.ends_with("echo /old"), "{old}");
    let bad = site.exchange(b"NO HTTP AT ALL\r\n\r\n").await;
    assert!(bad.starts_with("HTTP/1.1 400"), "{bad}");
}

#[tokio::test]
async fn head_tells_the_length_that_the_actor_says() {
    let site = Site::echo(actor(|request| async move {
        assert_eq!(request.method, "HEAD");
        Ok(HttpResponse {
            header: HashMap::from([("Content-Length".into(), vec!["1234".into()])]),
            ..ok("")
        })
    }))
    .await;
    let _link = site.link(&[]).await;
    let h2c = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    for client in [client(), h2c] {
        for _ in 0..2 {
            let answer = client.head(site.url("/")).send().await.unwrap();
            assert_eq!(
                (answer.status(), &answer.headers()["content-length"]),
                (StatusCode::OK, &"1234".parse().unwrap())
            );
        }
    }
}

#[tokio::test]
async fn a_request_has_one_host_and_the_actor_sees_the_one_it_was_found_by() {
    let hosts = |name: &'static str| {
        actor(move |request| async move {
            Ok(ok(format!("{name} {}", request.header["host"].join(" and "))))
        })
    };
    let site = Site::with(vec![(ECHO, hosts("echo")), (PINGER, hosts("pinger"))]).await;
    let _any = site.link(&[]).await;
    let _named = site.try_link(PINGER, &[("host", "a.example")]).await.unwrap();
    let ask = async |head: &str| {
        site.exchange(format!("{head}connection: close\r\n\r\n").as_bytes()).await
    };
    let absolute = ask("GET http://a.example:81/x HTTP/1.1\r\nhost: b.example\r\n").await;
    assert!(absolute.ends_with("\r\n\r\npinger a.example:81"), "{absolute}");
    let away = ask("GET http://b.example/ HTTP/1.1\r\nhost: a.example\r\n").await;
    assert!(away.ends_with("\r\n\r\necho b.example"), "{away}");
    for head in [
        "GET / HTTP/1.1\r\n",
        "POST / HTTP/1.1\r\nhost: a.example\r\nhost: b.example\r\ncontent-length: 9\r\n",
    ] {
        let refused = ask(head).await;
        assert!(refused.starts_with("HTTP/1.1 400") && refused.contains("one host"), "{refused}");
    }
    let h2c = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let answer = h2c
        .get(site.url("/"))
        .header("host", "a.example")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(answer == "pinger a.example" || answer.starts_with("echo 127.0.0.1"), "{answer}");
}

#[tokio::test]
async fn large_bodies_that_stand_still_make_room_for_others() {
    let lengths = actor(|request| async move { Ok(ok(request.body.len().to_string())) });
    // 21 times what such a body has, and the part of the one whose turn it is.
    let site = Site::with_budget(vec![(ECHO, lengths)], Budget::new(16 << 20)).await;
    let _link = site.link(&[("body_idle_ms", "60000"), ("timeout_ms", "1000")]).await;
    let mut holders = Vec::new();
    for _ in 0..22 {
        let mut stream = site.connect().await;
        // An announced length takes no memory from others.
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", 90 << 20);
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b'x'; 300_000]).await.unwrap();
        holders.push(stream);
    }
    let (client, body) = (client(), vec![b'x'; 2 << 20]);
    let post = || async {
        let answer = client.post(site.url("/")).body(body.clone()).send().await.ok()?;
        let status = answer.status();
        Some((status, answer.text().await.ok()?))
    };
    eventually("all room is taken", || async {
        let (status, _) = post().await?;
        (status == StatusCode::SERVICE_UNAVAILABLE).then_some(())
    })
    .await;
    let answered = eventually("there is room again", || async {
        let (status, text) = post().await?;
        (status == StatusCode::OK).then_some(text)
    })
    .await;
    assert_eq!(answered, (2 << 20).to_string());
    for stream in &mut holders {
        assert!(rest(stream).await.starts_with("HTTP/1.1 408"));
    }
}

#[tokio::test]
async fn over_tls_both_versions_are_spoken_and_a_renewed_certificate_is_taken_up() {
    let site = Site::with(all_named()).await;
    let dir = site.dir.path();
    let (first, second) = (Authority::new(dir, "first"), Authority::new(dir, "second"));
    let (one, two) = (first.sign(dir, "one"), second.sign(dir, "two"));
    let (certificate, key) = (dir.join("site.pem"), dir.join("site-key.pem"));
    let install = |from: &crate::harness::pki::Certified| {
        std::fs::copy(&from.certificate, &certificate).unwrap();
        std::fs::copy(&from.key, &key).unwrap();
    };
    let https = |authority: &Path| {
        let certificate =
            reqwest::Certificate::from_pem(&std::fs::read(authority).unwrap()).unwrap();
        reqwest::Client::builder().no_proxy().tls_certs_only([certificate])
    };
    install(&one);
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    let tls = [("tls_cert_file", certificate.as_str()), ("tls_priv_key_file", key.as_str())];
    let before = site.link(&tls).await;
    let url = format!("https://localhost:{}/x", site.port);
    let get = async |client: reqwest::ClientBuilder| client.build().unwrap().get(&url).send().await;
    assert_eq!(get(https(&first.certificate)).await.unwrap().version(), Version::HTTP_2);
    assert_eq!(
        get(https(&first.certificate).http1_only()).await.unwrap().version(),
        Version::HTTP_11
    );
    assert!(get(https(&second.certificate)).await.is_err());

    let refused = site
        .try_link(PINGER, &[("path", "/p")])
        .await
        .err()
        .expect("no plain HTTP on a TLS address");
    assert!(matches!(&refused, LinkError::Unavailable(text) if text.contains(ECHO)), "{refused}");
    let shared = site.try_link(PINGER, &[&tls[..], &[("path", "/p")]].concat()).await.unwrap();

    std::fs::copy(&two.certificate, dir.join("site.pem")).unwrap();
    std::fs::copy(&two.key, dir.join("site-key.pem")).unwrap();
    let after = site.link(&tls).await;
    end(before).await;
    assert_eq!(get(https(&second.certificate)).await.unwrap().status(), StatusCode::OK);

    // Another path for both, one after the other: the first is refused until the second has it too,
    // then not any more.
    let moved = (two.certificate.display().to_string(), two.key.display().to_string());
    let moved = [("tls_cert_file", moved.0.as_str()), ("tls_priv_key_file", moved.1.as_str())];
    let too_early =
        site.try_link(ECHO, &moved).await.err().expect("the other link has the old path");
    assert!(
        matches!(&too_early, LinkError::Unavailable(text) if text.contains(PINGER)),
        "{too_early}"
    );
    end(after).await;
    let other = site.try_link(PINGER, &[&moved[..], &[("path", "/p")]].concat()).await.unwrap();
    end(shared).await;
    let retried = site.link(&moved).await;
    assert_eq!(get(https(&second.certificate)).await.unwrap().status(), StatusCode::OK);
    tokio::join!(end(retried), end(other));

    // Files may be mounted later.
    for values in [
        [("tls_cert_file", "/no/such"), ("tls_priv_key_file", &key)],
        [("config_file", "/no/such"), ("path", "/")],
    ] {
        let missing = site.try_link(ECHO, &values).await.err().unwrap();
        assert!(
            matches!(&missing, LinkError::Unavailable(text) if text.contains("/no/such")),
            "{missing}"
        );
    }
    let no_key = site
        .try_link(ECHO, &[("tls_cert_file", &certificate), ("tls_key", "secret")])
        .await
        .err()
        .unwrap();
    assert!(!no_key.to_string().contains("secret"), "{no_key}");
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_before_it_is_sent() {
    let site =
        Site::echo(actor(|request| async move { Ok(ok(request.body.len().to_string())) })).await;
    let _link = site.link(&[("max_content_len", "1K")]).await;
    let early = site
        .exchange(
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1025\r\nexpect: 100-continue\r\n\r\n",
        )
        .await;
    assert!(early.starts_with("HTTP/1.1 413") && early.contains("1024 bytes"), "{early}");

    // Without waiting for leave; the answer must survive what is sent after it.
    let mut stream = site.connect().await;
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 8000000\r\n\r\n")
        .await
        .unwrap();
    stream.write_all(&vec![b'x'; 8_000_000]).await.expect("the server reads on for a while");
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 413"));

    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    let head =
        "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let fits = site.exchange(format!("{head}{chunk}0\r\n\r\n").as_bytes()).await;
    assert!(fits.ends_with("1024"), "{fits}");
    let chunked = site.exchange(format!("{head}{chunk}1\r\ny\r\n0\r\n\r\n").as_bytes()).await;
    assert!(chunked.starts_with("HTTP/1.1 413"), "{chunked}");

    let mut stream = site.connect().await;
    stream
        .write_all(
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n",
        )
        .await
        .unwrap();
    assert!(one(&mut stream).await.starts_with("HTTP/1.1 100"));
    stream.write_all(b"hi").await.unwrap();
    assert!(one(&mut stream).await.ends_with("\r\n\r\n2"));
}

#[tokio::test]
async fn slow_clients_stop_nobody_and_are_let_go() {
    let site = Site::with(all_named()).await;
    let _link = site.link(&[("header_timeout_ms", "1500"), ("body_idle_ms", "1500")]).await;
    let mut slow = Vec::new();
    for number in 0..200 {
        let mut stream = site.connect().await;
        let sent: &[u8] = match number % 4 {
            0 => b"",
            1 => b"GET / HTTP/1.1\r\nhost: a\r\n",
            2 => b"PRI * HTTP/2.0",
            _ => b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nx",
        };
        stream.write_all(sent).await.unwrap();
        slow.push(stream);
    }
    let client = client();
    for _ in 0..50 {
        assert_eq!(
            client.post(site.url("/")).body("body").send().await.unwrap().status(),
            StatusCode::OK
        );
    }
    for (number, stream) in slow.iter_mut().enumerate() {
        let answer = rest(stream).await;
        let expected = if number % 4 == 3 { "HTTP/1.1 408" } else { "" };
        assert!(
            answer.starts_with(expected) && (number % 4 == 3 || answer.is_empty()),
            "{number}: {answer}"
        );
    }
    assert_eq!(client.get(site.url("/")).send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn further_connections_wait_for_a_place() {
    let site = Site::with(all_named()).await;
    let _link = site.link(&[("max_connections", "1"), ("max_request_headers", "2")]).await;
    let mut first = site.connect().await;
    first.write_all(b"GET /1 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(one(&mut first).await.ends_with("echo /1"));
    let mut second = site.connect().await;
    second
        .write_all(b"GET /2 HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx: 1\r\n\r\n")
        .await
        .unwrap();
    assert!(timeout(Duration::from_millis(100), second.readable()).await.is_err());
    drop(first);
    assert!(rest(&mut second).await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn actors_share_an_address_by_host_and_path() {
    let site = Site::with(all_named()).await;
    let root = site.link(&[]).await;
    let api = site.try_link(PINGER, &[("path", "/api"), ("strip_path", "yes")]).await.unwrap();
    let named = site.try_link(PONGER, &[("host", "*.example.org, example.org")]).await.unwrap();
    assert_eq!(site.get("/apis").await, (200, "echo /apis".to_owned()));
    assert_eq!(site.get("/api").await, (200, "pinger /".to_owned()));
    assert_eq!(site.get("/api/x").await, (200, "pinger /x".to_owned()));
    let with_host = async |host: &str| {
        let answer = client().get(site.url("/api")).header("host", host).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(with_host("www.Example.org:80").await.1, "ponger /api");

    let taken = site.try_link(PONGER, &[("path", "/api/")]).await.err().expect("the path is taken");
    assert!(
        matches!(&taken, LinkError::Unavailable(text) if text.contains(PINGER) && text.contains("/api")),
        "{taken}"
    );
    let other_address = [("address", "0.0.0.0"), ("port", &site.port.to_string())];
    let busy = site.link_at(PONGER, &other_address).await.err().expect("the port is taken");
    assert!(matches!(&busy, LinkError::Unavailable(text) if text.contains("127.0.0.1")), "{busy}");

    end(api).await;
    assert_eq!(site.get("/api").await.1, "echo /api");
    end(root).await;
    let (status, body) = site.get("/api").await;
    assert_eq!((status, body.contains("no actor is linked")), (404, true));
    assert_eq!(with_host("example.org").await.1, "ponger /api");
    end(named).await;
    let gone = client().get(site.url("/")).send().await.unwrap_err();
    assert!(gone.is_connect(), "{gone:?}");
    // The address is free at once.
    let _again = site.link(&[]).await;
    assert_eq!(site.get("/").await.0, 200);
}

#[tokio::test]
async fn a_port_of_another_process_is_named_and_taken_when_it_is_free() {
    let site = Site::with(all_named()).await;
    let other = std::net::TcpListener::bind(("127.0.0.1", site.port)).unwrap();
    let error = site.try_link(ECHO, &[]).await.err().expect("the port is taken");
    let LinkError::Unavailable(text) = error else { panic!("{error:?}") };
    assert!(text.contains(&site.port.to_string()) && text.contains("another process"), "{text}");
    drop(other);
    let _link =
        site.link_at(ECHO, &[("address", &format!("localhost:{}", site.port))]).await.unwrap();
    assert_eq!(site.get("/").await.0, 200);
}

#[tokio::test]
async fn a_link_with_new_values_takes_over_without_a_lost_request() {
    let site = Site::with(all_named()).await;
    let mut link = site.link(&[]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        let (stop, url) = (Arc::clone(&stop), site.url("/x"));
        clients.spawn(async move {
            let mut answered = 0;
            while !stop.load(Ordering::Relaxed) {
                // A connection of its own for each, so that a listener that was away would be
                // noticed.
                let answer = client().get(&url).send().await.expect("an answer");
                assert_eq!(answer.status(), StatusCode::OK);
                answered += 1;
            }
            answered
        });
    }
    for number in 0..10 {
        let value = format!("max-age={number}");
        let new = site.link(&[("cache_control", &value)]).await;
        end(std::mem::replace(&mut link, new)).await;
        let answer = client().get(site.url("/")).send().await.unwrap();
        assert_eq!(answer.headers()["cache-control"], value);
    }
    stop.store(true, Ordering::Relaxed);
    let answered: Vec<i32> = clients.join_all().await;
    assert!(answered.iter().all(|count| *count > 0), "{answered:?}");
}

#[tokio::test]
async fn a_request_in_work_is_answered_while_the_address_is_already_gone() {
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begin, wait) = (Arc::clone(&begun), Arc::clone(&go));
    let slow = actor(move |_| {
        let (begin, wait) = (Arc::clone(&begin), Arc::clone(&wait));
        async move {
            begin.notify_one();
            wait.notified().await;
            Ok(ok("done"))
        }
    });
    let site = Site::echo(slow).await;
    let link = site.link(&[("timeout_ms", "60000")]).await;
    for http2 in [false, true] {
        let link =
            if http2 { site.link(&[("timeout_ms", "60000")]).await } else { Arc::clone(&link) };
        let builder = reqwest::Client::builder().no_proxy();
        let client = if http2 { builder.http2_prior_knowledge() } else { builder }.build().unwrap();
        let request = tokio::spawn(client.get(site.url("/")).send());
        begun.notified().await;
        let ending = tokio::spawn(end(link));
        eventually("the address is gone", || async {
            TcpStream::connect(("127.0.0.1", site.port))
                .await
                .is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
                .then_some(())
        })
        .await;
        assert!(!ending.is_finished());
        go.notify_one();
        assert_eq!(request.await.unwrap().unwrap().text().await.unwrap(), "done");
        ending.await.unwrap();
    }
}

#[tokio::test]
async fn a_link_ends_at_its_deadline_whatever_is_in_work() {
    let begun = Arc::new(Notify::new());
    let begin = Arc::clone(&begun);
    let never = actor(move |_| {
        begin.notify_one();
        std::future::pending()
    });
    let site = Site::with(vec![(ECHO, never), (PINGER, named("pinger"))]).await;
    let stuck = async || {
        let mut stream = site.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        begun.notified().await;
        stream
    };
    let (link, other) =
        (site.link(&[]).await, site.try_link(PINGER, &[("path", "/p")]).await.unwrap());
    let _in_work = stuck().await;
    // The end of a link waits until the deadline and not a moment longer.
    let deadline = || Instant::now() + Duration::from_millis(600);
    let until = deadline();
    timeout_at(until, link.end(until)).await.expect("one of several");
    let link = site.link(&[]).await;
    end(other).await;
    let mut in_work = stuck().await;
    let until = deadline();
    timeout_at(until, link.end(until)).await.expect("the last one");
    assert_eq!(in_work.read(&mut [0; 8]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_link_that_is_only_dropped_lets_its_connections_go() {
    let site = Site::with(all_named()).await;
    let link = site.link(&[]).await;
    let mut http1 = site.connect().await;
    http1.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    one(&mut http1).await;
    let mut http2 = site.connect().await;
    http2
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        .await
        .unwrap();
    let mut frame = async || {
        let mut head = [0; 9];
        timeout(PATIENCE, http2.read_exact(&mut head)).await.expect("a frame").expect("no end");
        let mut body = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        http2.read_exact(&mut body).await.unwrap();
        head[3]
    };
    let (settings, goaway) = (4, 7);
    assert_eq!(frame().await, settings);
    drop(link);
    while frame().await != goaway {}
    assert_eq!(rest(&mut http1).await, "");
}

#[tokio::test]
async fn a_planned_stop_under_load_fails_no_request_that_was_accepted() {
    let site = Site::with(all_named()).await;
    let links = [
        site.link(&[]).await,
        site.try_link(PINGER, &[("path", "/p")]).await.unwrap(),
        site.try_link(PONGER, &[("path", "/q")]).await.unwrap(),
    ];
    let answered = Arc::new(AtomicU32::new(0));
    let mut clients = JoinSet::new();
    for number in 0..12 {
        let (answered, port) = (Arc::clone(&answered), site.port);
        let path = ["/", "/p", "/q"][number % 3];
        clients.spawn(async move {
            // Ends when the address is gone; any other failure is one.
            loop {
                let mut stream = match TcpStream::connect(("127.0.0.1", port)).await {
                    Ok(stream) => stream,
                    Err(error) => return assert_eq!(error.kind(), ErrorKind::ConnectionRefused),
                };
                for _ in 0..50 {
                    stream
                        .write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes())
                        .await
                        .unwrap();
                    let answer = one(&mut stream).await;
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                    answered.fetch_add(1, Ordering::Relaxed);
                    if answer.contains("connection: close") {
                        break;
                    }
                }
            }
        });
    }
    eventually("load", || async { (answered.load(Ordering::Relaxed) > 500).then_some(()) }).await;
    futures::future::join_all(links.map(end)).await;
    while let Some(done) = timeout(PATIENCE, clients.join_next()).await.expect("clients notice") {
        done.expect("no failed request");
    }
}

#[tokio::test]
async fn browsers_are_told_what_pages_may_do() {
    let site = Site::with(all_named()).await;
    let _open = site.link(&[]).await;
    let strict = [
        ("path", "/strict"),
        ("cors_allowed_origins", "https://a.example"),
        ("readonly_mode", "true"),
    ];
    let _strict = site.try_link(PINGER, &strict).await.unwrap();
    let ask = async |method: Method, path: &str, origin: &str, preflight: bool| {
        let mut request = client().request(method, site.url(path)).header("origin", origin);
        if preflight {
            request = request.header("access-control-request-method", "PUT");
        }
        let answer = request.send().await.unwrap();
        let allowed = answer
            .headers()
            .get("access-control-allow-origin")
            .map(|value| value.to_str().unwrap().to_owned());
        (answer.status().as_u16(), allowed)
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(ask(Method::OPTIONS, "/", "https://b.example", true).await, (204, some("*")));
    assert_eq!(ask(Method::OPTIONS, "/", "https://b.example", false).await, (200, some("*")));
    assert_eq!(ask(Method::GET, "/", "https://b.example", false).await, (200, some("*")));
    assert_eq!(
        ask(Method::OPTIONS, "/strict", "https://a.example", true).await,
        (204, some("https://a.example"))
    );
    assert_eq!(ask(Method::OPTIONS, "/strict", "https://b.example", true).await, (403, None));
    assert_eq!(ask(Method::GET, "/strict", "https://b.example", false).await, (200, None));
    let answer = client().post(site.url("/strict")).body("x").send().await.unwrap();
    assert_eq!(
        (answer.status(), &answer.headers()["allow"]),
        (StatusCode::METHOD_NOT_ALLOWED, &"GET, HEAD".parse().unwrap())
    );
}

#[tokio::test]
async fn what_goes_wrong_with_an_actor_is_a_status_that_leaks_nothing() {
    let site = Site::echo(actor(|request| async move {
        let actor_id = ECHO.to_owned();
        match request.path.as_str() {
            "/busy" => Err(CallError::NotAdmitted { actor_id, reason: "secret".into() }),
            "/late" => Err(CallError::Deadline { actor_id, limit_ms: 7 }),
            "/trap" => Err(CallError::Trap { actor_id, reason: "secret".into() }),
            "/error" => Err(CallError::Callee("secret".into())),
            "/status" => Ok(HttpResponse { status_code: 99, ..ok("secret") }),
            _ => Ok(ok("fine")),
        }
    }))
    .await;
    let _link = site.link(&[("cache_control", "max-age=60")]).await;
    // Linked, but running nowhere.
    let _nowhere = site.try_link(KVCOUNTER, &[("path", "/nowhere")]).await.unwrap();
    for (path, status, retry, with_id) in [
        ("/busy", 503, true, false),
        ("/nowhere", 503, true, false),
        ("/late", 504, false, true),
        ("/trap", 502, false, true),
        ("/error", 502, false, true),
        ("/status", 502, false, true),
    ] {
        let answer = client().get(site.url(path)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path}");
        assert_eq!(answer.headers()["cache-control"], "no-store", "{path}");
        assert_eq!(answer.headers().contains_key("retry-after"), retry, "{path}");
        let body = answer.text().await.unwrap();
        assert!(!body.contains("secret") && body.contains("\"id\"") == with_id, "{path}: {body}");
    }
    let fine = client().get(site.url("/fine")).send().await.unwrap();
    assert_eq!(
        (fine.status(), &fine.headers()["cache-control"]),
        (StatusCode::OK, &"max-age=60".parse().unwrap())
    );
}

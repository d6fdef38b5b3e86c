//! Clients of the built-in HTTP server that wish it ill: requests that two readers could read in
//! two ways, floods, and those that hold what they never take.

use std::time::Duration;

use reqwest::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};

use crate::{
    harness::PATIENCE,
    httpserver::{Site, actor, all_named, client, ok, one, rest},
};

/// Longer than a client is kept that takes nothing of what it asked for.
const LET_GO: Duration = Duration::from_secs(75);

/// The frames of HTTP/2 that the attacks need, by hand.
mod h2 {
    pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;

    pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// The preface, with a window of so many bytes for each stream.
    pub fn hello(window: u32) -> Vec<u8> {
        let setting = [&[0, 4][..], &window.to_be_bytes()].concat();
        [PREFACE, &frame(SETTINGS, 0, 0, &setting)].concat()
    }

    /// `GET /` of host `a`.
    pub fn get(stream: u32, flags: u8) -> Vec<u8> {
        frame(HEADERS, flags, stream, &[0x82, 0x84, 0x86, 0x01, 1, b'a'])
    }

    pub fn window_update(stream: u32, bytes: u32) -> Vec<u8> {
        frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
    }
}

/// Reads until the server closes; returns the kinds of the frames that came.
async fn frames(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    // A reset is an end as well.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("the connection ends");
    let (mut kinds, mut rest) = (Vec::new(), all.as_slice());
    while rest.len() >= 9 {
        let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
        kinds.push(rest[3]);
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    kinds
}

#[tokio::test]
async fn requests_that_could_be_read_in_two_ways_are_refused() {
    let site = Site::with(all_named()).await;
    let _link = site.link(&[]).await;
    let post = |headers: &str, body: &str| {
        format!("POST / HTTP/1.1\r\nhost: a\r\n{headers}\r\n\r\n{body}")
    };
    for request in [
        post("content-length: 5\r\ncontent-length: 6", "hello"),
        post("content-length: 5, 6", "hello"),
        post("content-length: +5", "hello"),
        post("content-length: 5 5", "hello"),
        post("content-length: 0x5", "hello"),
        post("content-length: -5", "hello"),
        post("transfer-encoding: xchunked", "0\r\n\r\n"),
        post("transfer-encoding: chunked, identity", "0\r\n\r\n"),
        post("transfer-encoding : chunked", "0\r\n\r\n"),
        post("content-length : 5", "hello"),
        post("x: a\0b", ""),
        post("x: a\r\n folded: b", ""),
        post("transfer-encoding: chunked", "fffffffffffffffff\r\nx"),
        post("transfer-encoding: chunked", "-1\r\nx"),
        post("transfer-encoding: chunked", "zz\r\nx"),
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nconnection: close\r\n\r\n".to_owned(),
        // A path or a user, for whoever makes a URL of it.
        "GET /public HTTP/1.1\r\nhost: a:80/admin?x=\r\nconnection: close\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nhost: b@a\r\nconnection: close\r\n\r\n".to_owned(),
        "GET http://a/ HTTP/1.1\r\nhost: a#b\r\nconnection: close\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\nhost a\n\n".to_owned(),
        "GET  / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\nhost: a\r\n\r\n".to_owned(),
    ] {
        let answer = site.exchange(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{request:?}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{request:?}: {answer:?}");
    }
    // Both lengths: chunks win, and what follows is no second request.
    let both = post(
        "content-length: 4\r\ntransfer-encoding: chunked",
        "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
    );
    let answer = site.exchange(both.as_bytes()).await;
    assert!(answer.matches("HTTP/1.1 ").count() == 1 && !answer.contains("smuggled"), "{answer:?}");
}

#[tokio::test]
async fn heads_without_measure_are_refused() {
    let site = Site::with(all_named()).await;
    let _link = site.link(&[]).await;
    let long = |length: usize| "x".repeat(length);
    let many: String = (0..5000).map(|number| format!("h{number}: 1\r\n")).collect();
    for (request, expected) in [
        (format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", long(1 << 20)), ["431", "400"]),
        (format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"), ["431", "400"]),
        (format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", long(200_000)), ["431", "414"]),
        (
            format!(
                "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1;{}\r\nx",
                long(1 << 20)
            ),
            ["400", "431"],
        ),
    ] {
        let mut stream = site.connect().await;
        // It may close before it has read all.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = vec![0; 64];
        let read =
            timeout(PATIENCE, stream.read(&mut answer)).await.expect("an answer").unwrap_or(0);
        let status = String::from_utf8_lossy(&answer[..read])
            .split(' ')
            .nth(1)
            .unwrap_or_default()
            .to_owned();
        assert!(expected.contains(&status.as_str()), "{}: {status}", &request[..40]);
    }
}

#[tokio::test]
async fn odd_requests_do_nothing_odd() {
    let site = Site::echo(actor(|request| async move {
        Ok(ok(format!("{} {} {}", request.method, request.path, request.body.len())))
    }))
    .await;
    let _link = site.link(&[]).await;
    let gzip = "\u{1f}\u{8b}";
    for (request, expected, body) in [
        (
            "GET / HTTP/1.1\r\nhost: a\r\nrange: bytes=0-0,1-1,2-2,-1\r\n".to_owned(),
            "200",
            "GET / 0",
        ),
        ("CONNECT b:80 HTTP/1.1\r\nhost: b:80\r\n".into(), "405", "not allowed"),
        ("TRACE / HTTP/1.1\r\nhost: a\r\nsecret: x\r\n".into(), "200", "TRACE / 0"),
        ("GET /a/../b/%2e%2e/c HTTP/1.1\r\nhost: a\r\n".into(), "200", "GET /a/../b/%2e%2e/c 0"),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\nx: y\r\n"
                .into(),
            "200",
            "GET / 0",
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000000000000\r\n".into(),
            "413",
            "longer",
        ),
    ] {
        let close = if expected == "413" { "" } else { "connection: close\r\n" };
        let answer = site.exchange(format!("{request}{close}\r\n").as_bytes()).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {expected}")) && answer.contains(body),
            "{request}: {answer}"
        );
        assert!(!answer.contains("secret"), "{answer}");
    }
    let body = client()
        .post(site.url("/"))
        .header("content-encoding", "gzip")
        .body(gzip)
        .send()
        .await
        .unwrap();
    assert_eq!(body.text().await.unwrap(), format!("POST / {}", gzip.len()));
}

#[tokio::test]
async fn half_heads_and_dripping_bodies_keep_nobody_out_and_are_let_go() {
    let site = Site::with(all_named()).await;
    let _link = site.link(&[("header_timeout_ms", "2000")]).await;
    let mut heads = Vec::new();
    for _ in 0..600 {
        let mut stream = site.connect().await;
        // Older ones make way for those that come later.
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nx: ").await;
        heads.push(stream);
    }
    let client = client();
    for _ in 0..50 {
        assert_eq!(client.get(site.url("/")).send().await.unwrap().status(), StatusCode::OK);
    }
    let mut drips = JoinSet::new();
    for _ in 0..100 {
        let mut stream = site.connect().await;
        drips.spawn(async move {
            stream
                .write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n")
                .await
                .unwrap();
            let (mut reading, mut writing) = stream.into_split();
            let drip = async {
                while writing.write_all(b"x").await.is_ok() {
                    sleep(Duration::from_millis(500)).await;
                }
                std::future::pending::<()>().await;
            };
            let mut answer = Vec::new();
            tokio::select! {
                _ = reading.read_to_end(&mut answer) => {}
                () = drip => {}
            }
            String::from_utf8_lossy(&answer).into_owned()
        });
    }
    while let Some(answer) =
        timeout(PATIENCE, drips.join_next()).await.expect("all drips are let go")
    {
        let answer = answer.unwrap();
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer:?}");
    }
    for stream in &mut heads {
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("let go");
        assert_eq!(answer, b"");
    }
}

#[tokio::test]
async fn floods_of_frames_end_their_connection_or_keep_nobody_out() {
    let site = Site::with(all_named()).await;
    let _link = site.link(&[]).await;
    let flood = async |frames_of: &dyn Fn(u32) -> Vec<u8>, number: u32| {
        let mut stream = site.connect().await;
        stream.write_all(&h2::hello(65_535)).await.unwrap();
        for at in 0..number {
            // The end of the connection ends the flood.
            if !matches!(
                timeout(Duration::from_secs(5), stream.write_all(&frames_of(at))).await,
                Ok(Ok(()))
            ) {
                break;
            }
        }
        stream
    };
    let reset = |at: u32| {
        let stream = 2 * at + 1;
        let cancel = h2::frame(h2::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        [h2::get(stream, h2::END_HEADERS | h2::END_STREAM), cancel].concat()
    };
    assert!(frames(&mut flood(&reset, 3000).await).await.contains(&h2::GOAWAY));
    let continued = |at: u32| match at {
        0 => h2::get(1, 0),
        _ => h2::frame(h2::CONTINUATION, 0, 1, &[0x40, 1, b'x', 1, b'y'].repeat(1000)),
    };
    frames(&mut flood(&continued, 10_000).await).await;
    // Nobody reads what these are answered with.
    let ping = |_| h2::frame(h2::PING, 0, 0, &[0; 8]).repeat(100);
    let settings = |_| h2::frame(h2::SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]).repeat(100);
    let priority = |at| h2::frame(h2::PRIORITY, 0, 2 * at + 1, &[0, 0, 0, 0, 1]).repeat(100);
    let empty = |at: u32| match at {
        0 => h2::get(1, h2::END_HEADERS),
        _ => h2::frame(h2::DATA, 0, 1, &[]).repeat(100),
    };
    let _held =
        (flood(&ping, 1000).await, flood(&settings, 1000).await, flood(&priority, 1000).await);
    let _empty = flood(&empty, 100).await;
    assert_eq!(client().get(site.url("/")).send().await.unwrap().status(), StatusCode::OK);
}

/// Waits until the server gives a connection up: it takes no byte more. Meanwhile `beat` is sent
/// each second, and so many bytes are read.
async fn given_up(mut stream: TcpStream, beat: Vec<u8>, reads: usize) -> Duration {
    let began = Instant::now();
    let mut second = interval(Duration::from_secs(1));
    let mut scrap = vec![0; reads];
    loop {
        second.tick().await;
        let sent = timeout(Duration::from_millis(200), stream.write_all(&beat)).await;
        let is_over = match reads {
            0 => false,
            _ => matches!(
                timeout(Duration::from_millis(200), stream.read(&mut scrap)).await,
                Ok(Ok(0) | Err(_))
            ),
        };
        if is_over || matches!(sent, Ok(Err(_))) {
            return began.elapsed();
        }
        assert!(began.elapsed() < LET_GO, "a connection is still held");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_not_taken_are_given_up_whatever_else_the_client_does() {
    const ANSWER: usize = 2 << 20;
    // Some are larger than what a system keeps of a connection.
    let length = |path: &str| if path == "/large" { 8 * ANSWER } else { ANSWER };
    let site =
        Site::echo(actor(move |request| async move { Ok(ok(vec![b'x'; length(&request.path)])) }))
            .await;
    let _link = site.link(&[]).await;
    let connect = || async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(([127, 0, 0, 1], site.port).into()).await.unwrap()
    };
    let mut held = JoinSet::new();
    // HTTP/2 without a window: 10 streams, and something that looks like life.
    let asked: Vec<u8> =
        (0..10).flat_map(|at| h2::get(2 * at + 1, h2::END_HEADERS | h2::END_STREAM)).collect();
    let all_streams = |bytes: u32| {
        (0..10).flat_map(|at| h2::window_update(2 * at + 1, bytes)).collect::<Vec<u8>>()
    };
    for (window, beat) in [
        (0, h2::frame(h2::PING, 0, 0, &[0; 8])),
        (0, h2::frame(h2::SETTINGS, 0, 0, &[])),
        (0, h2::window_update(0, 1)),
        (0, all_streams(1)),
        // The connection's own window is never opened.
        (1 << 20, h2::frame(h2::PING, 0, 0, &[0; 8])),
    ] {
        let mut stream = connect().await;
        stream.write_all(&[h2::hello(window), asked.clone()].concat()).await.unwrap();
        held.spawn(given_up(stream, beat, 4096));
    }
    // HTTP/1: one that reads nothing, and one that reads a little now and then.
    for reads in [0, 2048] {
        let mut stream = connect().await;
        stream.write_all(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        held.spawn(given_up(stream, b"GET / HTTP/1.1\r\n".to_vec(), reads));
    }
    // A client that reads slowly but steadily gets everything, and others are answered meanwhile.
    let mut slow = connect().await;
    slow.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let slow = tokio::spawn(async move {
        let (mut read, mut part) = (0, vec![0; 16 << 10]);
        loop {
            match slow.read(&mut part).await.expect("no reset") {
                0 => return read,
                more => read += more,
            }
            sleep(Duration::from_millis(250)).await;
        }
    });
    let quick = client().get(site.url("/")).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(quick.len(), ANSWER);
    while let Some(held) = timeout(LET_GO, held.join_next()).await.expect("all are let go") {
        held.unwrap();
    }
    assert!(slow.await.unwrap() > ANSWER);
}

#[tokio::test]
async fn a_client_has_so_many_connections_and_those_at_rest_make_way() {
    let site = Site::with(all_named()).await;
    let _link = site.link(&[("max_connections_per_address", "3")]).await;
    let mut first = site.connect().await;
    first.write_all(b"GET /1 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(one(&mut first).await.ends_with("echo /1"));
    let mut silent = [site.connect().await, site.connect().await];
    for number in 0..20 {
        let mut stream = site.connect().await;
        stream.write_all(b"GET /2 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        assert!(rest(&mut stream).await.ends_with("echo /2"), "{number}");
    }
    // The oldest that never asked went first; the one that was answered is still there.
    assert_eq!(rest(&mut silent[0]).await, "");
    first.write_all(b"GET /3 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(one(&mut first).await.ends_with("echo /3"));
}

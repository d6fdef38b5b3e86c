//! Clients that hold the dashboard: what they keep others from, and how long they are kept.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::Dashboard;
use crate::harness::{PATIENCE, Server, eventually};

/// Longer than a client that reads nothing is kept.
const LET_GO: Duration = Duration::from_secs(60);

fn address(dashboard: &Dashboard) -> String {
    format!("127.0.0.1:{}", dashboard.url.port().unwrap())
}

async fn connect(dashboard: &Dashboard) -> TcpStream {
    TcpStream::connect(address(dashboard)).await.expect("a connection")
}

fn request(dashboard: &Dashboard, path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {}\r\n{more}\r\n", address(dashboard))
}

/// The status of an answer.
async fn status(stream: &mut TcpStream) -> String {
    let mut answer = vec![0; 4096];
    let read = timeout(PATIENCE, stream.read(&mut answer)).await.expect("an answer").unwrap_or(0);
    String::from_utf8_lossy(&answer[..read]).split(' ').nth(1).unwrap_or_default().to_owned()
}

/// A new connection asks for the host's health.
async fn is_well(dashboard: &Dashboard) {
    for path in ["/healthz", "/readyz"] {
        let answer = dashboard.without_login().get(dashboard.url.join(path).unwrap()).send().await;
        assert_eq!(
            answer.unwrap_or_else(|error| panic!("{path}: {error}")).status(),
            StatusCode::OK,
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_held_open_health_is_told_and_operators_come_in() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let script = dashboard.script_path().await;
    // Silent, with half a head, and with answers that nobody reads.
    let mut held = Vec::new();
    for number in 0..600 {
        let mut stream = connect(&dashboard).await;
        let sent = match number % 3 {
            0 => String::new(),
            1 => "GET / HTTP/1.1\r\nhost: a\r\n".to_owned(),
            _ => request(&dashboard, &script, "").repeat(20),
        };
        // Some are closed already for those that came later.
        let _ = stream.write_all(sent.as_bytes()).await;
        held.push(stream);
        if number % 100 == 99 {
            is_well(&dashboard).await;
        }
    }
    assert_eq!(dashboard.get("/hosts").await["total"], 1);
    // Streams that stay open are the most that an address can hold.
    let mut streams = Vec::new();
    for _ in 0..300 {
        let mut stream = connect(&dashboard).await;
        let _ = stream.write_all(request(&dashboard, "/api/v1/stream", "").as_bytes()).await;
        streams.push(stream);
    }
    let mut taken = 0;
    for stream in &mut streams {
        taken += usize::from(status(stream).await == "200");
    }
    assert!((1..=32).contains(&taken), "{taken} streams of one address without a login");
    is_well(&dashboard).await;
    assert_eq!(dashboard.get("/hosts").await["total"], 1);
    drop((held, streams));
    eventually("everybody may read again", || async {
        let answer = dashboard.without_login().get(dashboard.at("/hosts")).send().await.ok()?;
        (answer.status() == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_operators_are_bounded_too() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let bearer = format!("authorization: Bearer {}\r\n", dashboard.token);
    let mut streams = Vec::new();
    for _ in 0..300 {
        let mut stream = connect(&dashboard).await;
        stream.write_all(request(&dashboard, "/api/v1/stream", &bearer).as_bytes()).await.unwrap();
        let status = status(&mut stream).await;
        streams.push((stream, status));
    }
    let of = |wanted: &str| streams.iter().filter(|(_, status)| status == wanted).count();
    assert_eq!((of("200"), of("503")), (256, 44));
    is_well(&dashboard).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_no_answer_is_let_go() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address(&dashboard).parse().unwrap()).await.unwrap();
    // More than all buffers take.
    let asked = request(&dashboard, &dashboard.script_path().await, "").repeat(500);
    let all = async {
        // It ends with an error, as the host reads no further.
        let sent = stream.write_all(asked.as_bytes()).await;
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            // Sending tells of the end without reading.
            if sent.is_err() || stream.write_all(b"GET / HTTP/1.1\r\n").await.is_err() {
                return;
            }
        }
    };
    timeout(LET_GO, all).await.expect("the connection is ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_files_keep_no_other_file_out_and_are_given_up() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(&dashboard).await;
        let head = format!(
            "POST /api/v1/uploads HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n\
             content-type: application/octet-stream\r\ncontent-length: 60000000\r\n\r\n",
            address(&dashboard),
            dashboard.token
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    // Others are answered meanwhile.
    let (status, refused) = dashboard.upload(b"no module".to_vec()).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{refused}");
    for stream in &mut slow {
        let drip = async {
            let mut answer = [0; 64];
            loop {
                if stream.write_all(b"x").await.is_err() {
                    return String::new();
                }
                if let Ok(Ok(read)) =
                    timeout(Duration::from_millis(500), stream.read(&mut answer)).await
                {
                    return String::from_utf8_lossy(&answer[..read]).into_owned();
                }
            }
        };
        let answer = timeout(PATIENCE, drip).await.expect("the file is given up");
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_on_sending_what_is_refused_reads_the_answer() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let bearer = format!("authorization: Bearer {}\r\n", dashboard.token);
    let json = "content-type: application/json\r\n";
    let body = vec![b'x'; 3 << 20];
    let cases = [
        ("PUT", "/api/v1/links", format!("{bearer}{json}"), "413"),
        ("PUT", "/api/v1/links", json.to_owned(), "401"),
        ("PUT", "/api/v1/links", bearer.clone(), "415"),
        ("POST", "/api/v1/uploads", format!("{bearer}{json}"), "415"),
        ("POST", "/api/v1/links", bearer.clone(), "405"),
        ("POST", "/api/v1/nowhere", bearer.clone(), "404"),
        ("POST", "/healthz", String::new(), "405"),
    ];
    for (method, path, more, expected) in cases {
        let mut stream = connect(&dashboard).await;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\n{more}content-length: {}\r\n\r\n",
            address(&dashboard),
            body.len()
        );
        let (wanted, rest) = body.split_at((2 << 20) + 1);
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(wanted).await.unwrap_or_else(|error| panic!("{path}: {error}"));
        // The answer is there before the rest, which still comes.
        timeout(PATIENCE, stream.readable()).await.expect("an answer").unwrap();
        for piece in rest.chunks(64 << 10) {
            stream.write_all(piece).await.unwrap_or_else(|error| panic!("{path}: {error}"));
        }
        assert_eq!(status(&mut stream).await, expected, "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_files_and_bodies_are_refused_and_the_host_lives() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    for number in 0..200 {
        let (status, body) = dashboard.upload(vec![number; 100 + usize::from(number)]).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    }
    let http = dashboard.without_login();
    let post = |body: String| {
        let request = http.post(dashboard.at("/links")).bearer_auth(&dashboard.token);
        request.header("content-type", "application/json").body(body).send()
    };
    let put = |body: String| {
        let request = http.put(dashboard.at("/links")).bearer_auth(&dashboard.token);
        request.header("content-type", "application/json").body(body).send()
    };
    // Depth, size, and what nobody asked for.
    assert_eq!(post("{}".into()).await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(put("[".repeat(50_000)).await.unwrap().status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        put(format!("\"{}\"", "x".repeat(3 << 20))).await.unwrap().status(),
        StatusCode::PAYLOAD_TOO_LARGE
    );
    for path in
        ["/assets/../../Cargo.toml", "/assets/..%2f..%2fCargo.toml", "/assets/%2e%2e/index.html"]
    {
        let mut stream = connect(&dashboard).await;
        stream.write_all(request(&dashboard, path, "").as_bytes()).await.unwrap();
        assert_eq!(status(&mut stream).await, "404", "{path}");
    }
    let overview: Value = dashboard.get("/overview").await;
    assert_eq!(overview["counts"]["hosts"], 1);
}

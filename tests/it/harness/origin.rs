//! A web server and a proxy, real sockets both, for the provider that makes HTTP requests.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    header,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use super::pki::Certified;

/// A web server; ends when dropped.
///
/// * `/echo` answers what it got, as JSON.
/// * `/status/{code}` answers with it; `/redirect/{code}?{url}` sends elsewhere; `/cookies` sets
///   two.
/// * `/bytes/{n}` announces its length, `/stream/{n}` does not.
/// * `/gate` answers when [`Origin::open`] lets it, and `/drip` sends each of its two pieces then.
/// * `/heard` lets each piece of a request arrive by itself, and answers with all of them.
pub struct Origin {
    pub port: u16,
    arrived: Arc<Semaphore>,
    gate: Arc<Semaphore>,
    _connections: JoinSet<()>,
}

impl Origin {
    /// Speaks plain HTTP/1.1 and, to those who know, HTTP/2.
    pub async fn start() -> Self {
        Self::listen(None).await
    }

    /// Speaks TLS, and HTTP/2 to those who offer it.
    pub async fn with_tls(certified: &Certified) -> Self {
        let chain = CertificateDer::pem_file_iter(&certified.certificate)
            .expect("a file")
            .map(|c| c.expect("a certificate"));
        let key = PrivateKeyDer::from_pem_file(&certified.key).expect("a key");
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain.collect(), key)
            .expect("TLS");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self::listen(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn listen(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (arrived, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let state = (Arc::clone(&arrived), Arc::clone(&gate));
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, state) = (tls.clone(), state.clone());
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(request, state.clone()));
                    let builder = auto::Builder::new(TokioExecutor::new());
                    // A client that gives up is no failure of the server.
                    let _ = match tls {
                        None => builder.serve_connection(TokioIo::new(stream), service).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => {
                                builder.serve_connection(TokioIo::new(stream), service).await
                            }
                            Err(_) => return,
                        },
                    };
                });
            }
        });
        Self { port, arrived, gate, _connections: connections }
    }

    /// A URL of this server.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Waits until a request is at the gate.
    pub async fn arrival(&self) {
        self.arrived.acquire().await.expect("never closed").forget();
    }

    /// Lets one request pass the gate.
    pub fn open(&self) {
        self.gate.add_permits(1);
    }
}

type Body = BoxBody<Bytes, Infallible>;

async fn answer(
    request: Request<Incoming>,
    (arrived, gate): (Arc<Semaphore>, Arc<Semaphore>),
) -> Result<Response<Body>, hyper::Error> {
    let (path, query) =
        (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let number = |text: &&str| text.parse::<usize>().unwrap_or(0);
    let code = parts.get(1).map(number).and_then(|code| StatusCode::from_u16(code as u16).ok());
    let response = Response::builder().status(code.unwrap_or(StatusCode::OK));
    let response = match parts[0] {
        "echo" => {
            let (head, body) = request.into_parts();
            let headers: Vec<(String, String)> = head
                .headers
                .iter()
                .map(|(name, value)| {
                    (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
                })
                .collect();
            let body = body.collect().await?.to_bytes();
            let seen = json!({
                "method": head.method.as_str(),
                "path": path,
                "version": format!("{:?}", head.version),
                "headers": headers,
                "body": String::from_utf8_lossy(&body),
            });
            response.header("content-encoding", "gzip").body(full(seen.to_string()))
        }
        "redirect" => response.header(header::LOCATION, query).body(full("elsewhere")),
        "cookies" => {
            response.header("set-cookie", "a=1, x").header("set-cookie", "b=2").body(full(""))
        }
        "bytes" => {
            let response = Response::builder();
            response.body(full(vec![7; parts.get(1).map_or(0, number)]))
        }
        "stream" => {
            let chunks = stream::repeat(Bytes::from_static(&[7; 1000]))
                .take(parts.get(1).map_or(0, number) / 1000);
            Response::builder()
                .body(BodyExt::boxed(StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk))))))
        }
        "gate" => {
            arrived.add_permits(1);
            gate.acquire().await.expect("never closed").forget();
            response.body(full("passed"))
        }
        "drip" => {
            let pieces = stream::unfold(0, move |sent| {
                let gate = Arc::clone(&gate);
                async move {
                    gate.acquire().await.expect("never closed").forget();
                    (sent < 2).then_some((Ok(Frame::data(Bytes::from_static(b"drop"))), sent + 1))
                }
            });
            response.body(BodyExt::boxed(StreamBody::new(pieces)))
        }
        "heard" => {
            let (mut body, mut heard) = (request.into_body(), Vec::new());
            while let Some(frame) = body.frame().await {
                heard.extend(frame?.into_data().unwrap_or_default());
                arrived.add_permits(1);
            }
            response.body(full(heard))
        }
        _ => response.body(full(path.clone())),
    };
    Ok(response.expect("a response"))
}

fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).boxed()
}

/// A proxy that wants `user:secret`, takes requests and tunnels, and leads every name to this
/// machine.
pub struct Proxy {
    pub port: u16,
    log: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let log = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&log);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let seen = Arc::clone(&seen);
                connections.spawn(async move { drop(forward(stream, &seen).await) });
            }
        });
        Self { port, log, _tasks: tasks }
    }

    /// The request lines of what it took, in order.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("not poisoned").clone()
    }
}

async fn forward(stream: TcpStream, seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut client = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if client.read_line(&mut line).await? <= 2 {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    let credentials = format!("proxy-authorization: Basic {}", STANDARD.encode("user:secret"));
    if !head.iter().any(|line| line.eq_ignore_ascii_case(&credentials)) {
        let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
        return client.write_all(refusal).await;
    }
    let line = head.first().cloned().unwrap_or_default();
    seen.lock().expect("not poisoned").push(line.clone());
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let authority = target.trim_start_matches("http://").split('/').next().unwrap_or_default();
    let port = authority.rsplit_once(':').map_or("80", |(_, port)| port);
    let mut server = TcpStream::connect(format!("127.0.0.1:{port}")).await?;
    if method == "CONNECT" {
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        copy_bidirectional(&mut client, &mut server).await?;
        return Ok(());
    }
    let path = target.trim_start_matches("http://").trim_start_matches(authority);
    let rest: Vec<&String> =
        head[1..].iter().filter(|line| !line.to_lowercase().starts_with("proxy-")).collect();
    let rest: String = rest.into_iter().map(|line| format!("{line}\r\n")).collect();
    server
        .write_all(
            format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n{rest}\r\n").as_bytes(),
        )
        .await?;
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), server.read_to_end(&mut answer)).await??;
    client.write_all(&answer).await
}

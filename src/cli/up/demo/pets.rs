//! The pets API: a small HTTPS server that stands in for `dog.ceo` and `api.thecatapi.com`,
//! pictures included.
//!
//! | request | answer |
//! |---|---|
//! | `GET /api/breeds/image/random` | `{"message": URL, "status": "success"}`, as `dog.ceo` |
//! | `GET /v1/images/search` | `[{"id", "url": URL, "width", "height"}]`, as `api.thecatapi.com` |
//! | `GET` of such a URL | the picture |
//!
//! The URLs lead back to the name and port that the request was for. Its clients are told that the
//! two names are here, and which authority to trust: [`Pets::link_values`] says both to the
//! built-in HTTP client.
//!
//! It speaks HTTP/1.1, which needs no task per request. Its tasks end with [`Pets::stop`], or when
//! it is dropped.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::seq::IndexedRandom as _;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    certificate::Certificate,
    pictures::{Animal, PICTURES, Picture},
};

/// The names of the services it stands in for.
pub const DOG_API: &str = "dog.ceo";
pub const CAT_API: &str = "api.thecatapi.com";

/// Connections at a time; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 1024;
/// How long a client may take for its handshake, and for the head of a request.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long requests in work may take at the end.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// How the server is to run.
pub struct Settings {
    /// Port 0 is a free one.
    pub listen: SocketAddr,
    /// Every answer comes so much later, for those who want to see a slow API.
    pub delay: Duration,
    pub certificate: Certificate,
}

/// A server that accepts connections.
#[derive(Debug)]
pub struct Pets {
    address: SocketAddr,
    authority: String,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Pets {
    /// Starts a server; it accepts connections when this returns.
    pub async fn start(settings: Settings) -> Result<Self> {
        let Settings { listen, delay, certificate } = settings;
        let tls = tls(&certificate)?;
        let listener =
            TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
        let address = listener.local_addr().context("find the address that is listened on")?;
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(accept(listener, tls, Arc::new(Api::new(delay)), stop.clone()));
        Ok(Self { address, authority: certificate.authority, stop, tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate of its authority, as PEM.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The link value `resolve` of an HTTP client that reaches it at `address`; without `=`, where
    /// some tools would cut it.
    pub fn resolve(address: SocketAddr) -> String {
        [DOG_API, CAT_API].map(|name| format!("{name}:{address}")).join(",")
    }

    /// The address at which this machine reaches it.
    pub fn local_address(&self) -> SocketAddr {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            other => other,
        };
        SocketAddr::new(ip, self.address.port())
    }

    /// Returns the values that a link to the built-in HTTP client of this machine needs to find and
    /// trust this server.
    pub fn link_values(&self) -> BTreeMap<String, String> {
        let resolve = Self::resolve(self.local_address());
        let values = [
            ("resolve", resolve),
            ("ca", self.authority.clone()),
            ("allow_loopback", "true".to_owned()),
        ];
        values.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// Stops accepting, lets requests in work end, and ends.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_TIMEOUT, ended).await.is_err() {
            debug!("requests of the pets API were still in work at the deadline");
        }
    }
}

fn tls(certificate: &Certificate) -> Result<TlsAcceptor> {
    let chain = CertificateDer::pem_slice_iter(certificate.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>();
    let chain = chain.context("read the certificate of the pets API")?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes())
        .context("read the key of the pets API")?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("use the certificate of the pets API with its key")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, api: Arc<Api>, stop: CancellationToken) {
    let (mut connections, permits) = (JoinSet::new(), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    loop {
        // Never closed, so there is always a permit to wait for.
        let next = async { (Arc::clone(&permits).acquire_owned().await, listener.accept().await) };
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            (permit, accepted) = next => match accepted {
                Ok((stream, _)) => {
                    let (tls, api, stop) = (tls.clone(), Arc::clone(&api), stop.clone());
                    connections.spawn(async move {
                        let _permit = permit;
                        if let Err(error) = serve(stream, tls, api, stop).await {
                            debug!(%error, "a connection to the pets API ended");
                        }
                    });
                }
                Err(error) => {
                    debug!(%error, "the pets API cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve(
    stream: TcpStream,
    tls: TlsAcceptor,
    api: Arc<Api>,
    stop: CancellationToken,
) -> io::Result<()> {
    // Answers are small, and their last packet must not wait for more.
    stream.set_nodelay(true)?;
    let stream = tokio::select! {
        shaken = tokio::time::timeout(CLIENT_TIMEOUT, tls.accept(stream)) => shaken.map_err(io::Error::other)??,
        () = stop.cancelled() => return Ok(()),
    };
    let service = service_fn(|request| {
        let api = Arc::clone(&api);
        async move { Ok::<_, Infallible>(api.answer(&request).await) }
    });
    let mut builder = http1::Builder::new();
    let connection = builder.timer(TokioTimer::new()).header_read_timeout(CLIENT_TIMEOUT);
    let mut connection = pin!(connection.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = connection.as_mut() => return ended.map_err(io::Error::other),
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await.map_err(io::Error::other)
}

type Answer = Response<Full<Bytes>>;

/// The API that it serves.
struct Api {
    delay: Duration,
    pictures: BTreeMap<String, Bytes>,
}

impl Api {
    fn new(delay: Duration) -> Self {
        let pictures =
            PICTURES.iter().map(|picture| (picture.path(), picture.svg().into())).collect();
        Self { delay, pictures }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        let path = request.uri().path();
        debug!(method = %request.method(), path, "request to the pets API");
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            return problem(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here");
        }
        if let Some(svg) = self.pictures.get(path) {
            return with(StatusCode::OK, "image/svg+xml", svg.clone());
        }
        let Some(site) = site(request) else {
            return problem(
                StatusCode::BAD_REQUEST,
                "the request has no Host header, so no address can lead back here",
            );
        };
        match path {
            "/api/breeds/image/random" => {
                let url =
                    format!("{site}{}", any(Animal::Dog).map_or_else(String::new, Picture::path));
                json_with(StatusCode::OK, &json!({"message": url, "status": "success"}))
            }
            "/v1/images/search" => {
                let found: Vec<_> = any(Animal::Cat)
                    .map(|cat| json!({"id": cat.name, "url": format!("{site}{}", cat.path()), "width": 400, "height": 400}))
                    .into_iter()
                    .collect();
                json_with(StatusCode::OK, &json!(found))
            }
            _ => problem(
                StatusCode::NOT_FOUND,
                "there is nothing here but /api/breeds/image/random, /v1/images/search and their pictures",
            ),
        }
    }
}

/// The scheme, name and port by which a client found this server.
fn site(request: &Request<Incoming>) -> Option<String> {
    let named = request.uri().authority().map(|authority| authority.as_str());
    let host = named.or_else(|| request.headers().get(header::HOST)?.to_str().ok())?;
    Some(format!("https://{host}"))
}

fn any(animal: Animal) -> Option<&'static Picture> {
    let of_kind: Vec<&Picture> =
        PICTURES.iter().filter(|picture| picture.animal == animal).collect();
    of_kind.choose(&mut rand::rng()).copied()
}

/// An error as `dog.ceo` words it.
fn problem(status: StatusCode, text: &str) -> Answer {
    json_with(status, &json!({"status": "error", "message": text, "code": status.as_u16()}))
}

fn json_with(status: StatusCode, value: &serde_json::Value) -> Answer {
    let mut answer = with(status, "application/json", value.to_string().into());
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn with(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

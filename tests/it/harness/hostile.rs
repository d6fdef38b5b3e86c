//! A web server under the control of an attacker: it answers what a test tells it, and remembers
//! what it was asked.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http_body_util::{Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

pub type Body = BoxBody<Bytes, Infallible>;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub authorization: Option<String>,
}

/// A running server; it ends when dropped.
pub struct Hostile {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    _task: AbortOnDropHandle<()>,
}

impl Hostile {
    /// Answers each request with what `answer` makes of its path and of the server's address.
    pub async fn start<F>(answer: F) -> Self
    where
        F: Fn(&str, SocketAddr) -> Response<Body> + Clone + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(serve(listener, address, Arc::clone(&asked), answer));
        Self { address, asked, _task: AbortOnDropHandle::new(task) }
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The requests until now.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("the list").clone()
    }
}

async fn serve<F>(listener: TcpListener, own: SocketAddr, asked: Arc<Mutex<Vec<Asked>>>, answer: F)
where
    F: Fn(&str, SocketAddr) -> Response<Body> + Clone + Send + Sync + 'static,
{
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (asked, answer) = (Arc::clone(&asked), answer.clone());
        connections.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let path = request.uri().path_and_query().map_or("/", |p| p.as_str()).to_owned();
                let login = request.headers().get("authorization");
                let authorization = login.and_then(|login| Some(login.to_str().ok()?.to_owned()));
                asked.lock().expect("the list").push(Asked { path: path.clone(), authorization });
                let answered = answer(&path, own);
                async move { Ok::<_, Infallible>(answered) }
            });
            let http = hyper::server::conn::http1::Builder::new();
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// An answer with a body that is known.
pub fn plain(status: u16, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(BoxBody::new(Full::new(body.into())));
    *response.status_mut() = status.try_into().expect("a status");
    response
}

/// The same with a header.
pub fn with(mut response: Response<Body>, name: &'static str, value: &str) -> Response<Body> {
    response.headers_mut().insert(name, value.parse().expect("a header"));
    response
}

/// An answer without end; `sent` counts its mebibytes.
pub fn endless(status: u16, sent: Arc<std::sync::atomic::AtomicUsize>) -> Response<Body> {
    let piece = Bytes::from(vec![b' '; 1 << 20]);
    let pieces = stream::repeat(piece).map(move |piece| {
        sent.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(Frame::data(piece))
    });
    let mut response = Response::new(BoxBody::new(StreamBody::new(pieces)));
    *response.status_mut() = status.try_into().expect("a status");
    response
}

/// An answer that begins and never goes on.
pub fn stuck() -> Response<Body> {
    let first = stream::iter([Ok(Frame::data(Bytes::from_static(b"{")))]);
    Response::new(BoxBody::new(StreamBody::new(first.chain(stream::pending()))))
}

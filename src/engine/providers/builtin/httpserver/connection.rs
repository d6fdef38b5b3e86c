//! One connection: finds out what it speaks, then lets hyper speak it.
//!
//! TLS says which protocol it carries (ALPN). On plain connections HTTP/2 is known by its preface
//! ("prior knowledge"), and everything else is HTTP/1. All of this has a deadline; afterwards the
//! listener watches (see [`super::pulse`]).

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use hyper::{
    rt::Executor,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::{
    clients::Client,
    listener::Listener,
    pulse::{Ask, Pulse},
    request::Requests,
    settings::DEFAULT_HEADERS_MAX,
    wire::Wire,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// As much as one packet brings: mostly a whole request.
const FIRST_READ: usize = 2048;
const TLS_HANDSHAKE: Duration = Duration::from_secs(10);
/// How much of a connection is read ahead, and how long the head of a request may be.
const BUFFER_MAX: usize = 64 << 10;
/// Requests of one HTTP/2 connection at a time.
const STREAMS_MAX: u32 = 128;

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// The client at the other end of a connection.
pub struct Peer {
    pub address: SocketAddr,
    pub client: Arc<Client>,
}

/// Serves a connection until it ends. Errors on it are the client's affair, and worth a line at
/// debug level.
pub async fn serve(listener: Arc<Listener>, stream: TcpStream, peer: Peer, pulse: Arc<Pulse>) {
    let remote = peer.address;
    let opened = tokio::select! {
        biased;
        opened = open(&listener, stream) => opened,
        () = pulse.is_asked() => return,
    };
    match opened {
        Ok(Open::Tls(stream, protocol)) => {
            speak(listener, (*stream, "https"), Bytes::new(), protocol, peer, pulse).await;
        }
        Ok(Open::Plain(stream, protocol, first)) => {
            speak(listener, (stream, "http"), first, protocol, peer, pulse).await;
        }
        Err(error) => debug!(remote = %remote, %error, "connection ended before its first request"),
    }
}

enum Open {
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>, Protocol),
    /// With what was read of it.
    Plain(TcpStream, Protocol, Bytes),
}

/// Finds out the protocol of a connection, after the TLS handshake if there is one.
async fn open(listener: &Listener, mut stream: TcpStream) -> io::Result<Open> {
    let Some(config) = listener.tls.load_full() else {
        let limit = listener.limits.load().header_timeout;
        let (protocol, first) = timeout(limit, sniff(&mut stream)).await??;
        return Ok(Open::Plain(stream, protocol, first));
    };
    let handshake = TlsAcceptor::from(config).accept(stream);
    let stream = timeout(TLS_HANDSHAKE, handshake).await??;
    let protocol = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        _ => Protocol::Http1,
    };
    Ok(Open::Tls(Box::new(stream), protocol))
}

/// Reads until the protocol is clear; returns it with what was read.
async fn sniff(stream: &mut TcpStream) -> io::Result<(Protocol, Bytes)> {
    let mut first = BytesMut::with_capacity(FIRST_READ);
    loop {
        if stream.read_buf(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let compared = first.len().min(PREFACE.len());
        if first[..compared] != PREFACE[..compared] {
            return Ok((Protocol::Http1, first.freeze()));
        }
        if compared == PREFACE.len() {
            return Ok((Protocol::Http2, first.freeze()));
        }
    }
}

async fn speak<T>(
    listener: Arc<Listener>,
    (io, scheme): (T, &'static str),
    first: Bytes,
    protocol: Protocol,
    peer: Peer,
    pulse: Arc<Pulse>,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(Wire::new(io, first, Arc::clone(&pulse)));
    let headers_max = listener.limits.load().headers_max;
    let tasks = listener.tasks.clone();
    let Peer { address: peer, client } = peer;
    let requests =
        Arc::new(Requests { listener, pulse: Arc::clone(&pulse), peer, client, protocol, scheme });
    let service = service_fn(move |request| {
        let requests = Arc::clone(&requests);
        async move { Ok::<_, Infallible>(requests.answer(request).await) }
    });
    let ended = match protocol {
        Protocol::Http2 => {
            pulse.speaks_http2();
            let mut builder = http2::Builder::new(Tracked(tasks));
            builder.max_concurrent_streams(STREAMS_MAX).max_header_list_size(BUFFER_MAX as u32);
            let connection = builder.serve_connection(io, service);
            drive(connection, http2::Connection::graceful_shutdown, &pulse).await
        }
        Protocol::Http1 => {
            let mut builder = http1::Builder::new();
            // The listener's watch has this timeout for all connections together.
            builder.max_buf_size(BUFFER_MAX).header_read_timeout(None);
            if headers_max != DEFAULT_HEADERS_MAX {
                builder.max_headers(headers_max);
            }
            let connection = builder.serve_connection(io, service);
            drive(connection, http1::Connection::graceful_shutdown, &pulse).await
        }
    };
    if let Err(error) = ended {
        debug!(remote = %peer, error = %lattice_protocol::errors::chain(&error), "connection ended");
    }
}

/// Polls a connection until it ends, and passes on what is asked of it.
pub async fn drive<C>(connection: C, finish: fn(Pin<&mut C>), pulse: &Pulse) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = pin!(connection);
    let mut finishing = false;
    poll_fn(|context| {
        match pulse.asked(context) {
            Ask::Nothing => {}
            Ask::Finish if finishing => {}
            Ask::Finish => {
                finishing = true;
                finish(connection.as_mut());
            }
            Ask::Abort => return Poll::Ready(Ok(())),
        }
        connection.as_mut().poll(context)
    })
    .await
}

/// Runs the streams of an HTTP/2 connection as tasks of the listener.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.spawn(stream);
    }
}

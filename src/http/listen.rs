//! The dashboard's address: opened, or the next free one, and served until the host stops.

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, time::Duration};

use axum::Router;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

/// Ports that are tried after one that is taken.
const PORTS: u16 = 100;
/// Connections at a time: some dozens of pages with a stream and a few requests each.
const CONNECTIONS_MAX: usize = 512;
/// How long the head of a request may take, and how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long requests in work may take when the host stops.
const LAST_REQUESTS: Duration = Duration::from_secs(1);

/// Why there is no dashboard.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("ports {first} to {last} of {ip} are all taken; choose another one with --dashboard-port, or 0 for none", ip = address.ip())]
    AllTaken { address: SocketAddr, first: u16, last: u16 },
    #[error("{address} cannot be listened on: {cause}; --dashboard-address and --dashboard-port choose another")]
    Refused { address: SocketAddr, cause: io::Error },
}

/// Who asks, as the connection tells.
#[derive(Clone, Copy, Debug)]
pub struct Caller(pub SocketAddr);

/// Listens on an address, or on the next port of it that is free.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let last = address.port().saturating_add(PORTS);
    for port in address.port()..=last {
        let tried = SocketAddr::new(address.ip(), port);
        match TcpListener::bind(tried).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(cause) => return Err(BindError::Refused { address: tried, cause }),
        }
    }
    Err(BindError::AllTaken { address, first: address.port(), last })
}

/// Answers until told to stop; then what is in work gets a moment.
pub async fn run(listener: TcpListener, app: Router, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(done) = connections.join_next(), if !connections.is_empty() => {
                if let Err(failure) = done {
                    error!(error = %failure, "a connection of the dashboard panicked");
                }
            }
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, caller)) => _ = connections.spawn(serve(stream, caller, app.clone(), stop.clone())),
                Err(error) => {
                    warn!(%error, "the dashboard cannot accept connections, trying on");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(LAST_REQUESTS, ended).await.is_err() {
        connections.shutdown().await;
    }
}

async fn serve(stream: TcpStream, caller: SocketAddr, app: Router, stop: CancellationToken) {
    // Events are small and wait for nobody.
    let _ = stream.set_nodelay(true);
    let app = TowerToHyperService::new(app);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Caller(caller));
        let answer = hyper::service::Service::call(&app, request);
        async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(remote = %caller, error = %crate::errors::chain(&error), "connection of the dashboard ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_makes_way_for_the_next_free_one() {
        let first = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = first.local_addr().unwrap();
        let second = bind(address).await.unwrap();
        let port = second.local_addr().unwrap().port();
        assert!(port > address.port() && port <= address.port() + PORTS);
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_refused_by_name() {
        // Reserved for documentation: nobody has it.
        let error = bind("192.0.2.1:4000".parse().unwrap()).await.unwrap_err();
        assert!(matches!(&error, BindError::Refused { .. }));
        assert!(error.to_string().contains("192.0.2.1:4000") && error.to_string().contains("--dashboard-address"));
    }
}

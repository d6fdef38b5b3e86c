//! One address that is listened on: accepts connections, watches them, ends them in order.
//!
//! Links share a listener, so it has no owner among them: [`super::table`] starts it with the first
//! and closes it with the last. Closing it loses no request that a client has sent: first it stops
//! accepting, but takes what the kernel has accepted already; then every connection finishes what
//! is in work, and those that are idle get a moment for the request that may be under way to them.
//! A listener that is only told to close ([`Listener::begin_close`], by a link that nobody ended)
//! sees to the same by its watch, without a deadline.
//!
//! hyper-util's `GracefulShutdown` does not do instead: it asks all connections at once and only
//! waits, while here HTTP/1 gets time for a last request, one connection can be ended for its
//! client's sake ([`super::pulse`], [`super::clients`]), and all that is left is cut off at a
//! deadline.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, info, info_span, warn};

use super::{
    clients::Clients,
    connection,
    debt::Lodgings,
    pulse::{Ask, Pulse, Seen},
    request::Route,
    routes::Routes,
    settings::Limits,
};
use crate::router::Router;
use lattice_base::budget::Budget;

/// Connections the kernel keeps until they are accepted.
const BACKLOG: u32 = 1024;
/// How long to wait when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long an idle connection is kept for a request under way when the listener closes.
const LAST_REQUEST: Duration = Duration::from_millis(300);

/// How long ended connections may take to be gone.
const ABORT: Duration = Duration::from_secs(1);

/// A listener that runs.
pub struct Listener {
    pub address: SocketAddr,
    pub routes: ArcSwap<Routes<Route>>,
    pub tls: ArcSwapOption<ServerConfig>,
    pub limits: ArcSwap<Limits>,
    pub budget: Budget,
    pub lodgings: Arc<Lodgings>,
    clients: Arc<Clients>,
    pub router: Router,
    /// All that runs here.
    pub tasks: TaskTracker,
    // Held for a few lines, never across an await.
    connections: Mutex<Connections>,
    next: AtomicU64,
    /// A connection has ended.
    freed: Notify,
    stop: CancellationToken,
    closing: AtomicBool,
    /// Nothing is accepted any more and no connection is left.
    empty: CancellationToken,
}

struct Connections {
    accepting: bool,
    open: HashMap<u64, (Arc<Pulse>, Seen)>,
}

/// Makes a socket that listens. Never waits.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted host must not wait for connections of the last one. On Windows the option means
    // something else.
    #[cfg(not(windows))]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Everything a listener begins with.
pub struct Start {
    pub socket: TcpListener,
    pub routes: Routes<Route>,
    pub tls: Option<Arc<ServerConfig>>,
    pub limits: Limits,
    pub budget: Budget,
    pub lodgings: Arc<Lodgings>,
    pub router: Router,
}

impl Listener {
    /// Starts to accept. `closed` is called when the address is free again.
    pub fn start(
        start: Start,
        closed: impl FnOnce(SocketAddr) + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let address = start.socket.local_addr()?;
        let listener = Arc::new(Self {
            address,
            routes: ArcSwap::from_pointee(start.routes),
            tls: ArcSwapOption::new(start.tls),
            limits: ArcSwap::from_pointee(start.limits),
            budget: start.budget,
            lodgings: start.lodgings,
            clients: Arc::default(),
            router: start.router,
            tasks: TaskTracker::new(),
            connections: Mutex::new(Connections { accepting: true, open: HashMap::new() }),
            next: AtomicU64::new(0),
            freed: Notify::new(),
            stop: CancellationToken::new(),
            closing: AtomicBool::new(false),
            empty: CancellationToken::new(),
        });
        let span = info_span!("http", %address);
        let accepting = Arc::clone(&listener).accept(start.socket);
        listener.tasks.spawn(
            async move {
                accepting.await;
                closed(address);
            }
            .instrument(span.clone()),
        );
        listener.tasks.spawn(Arc::clone(&listener).watch().instrument(span));
        Ok(listener)
    }

    /// Says whether connections are to end after their next answer.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Begins to close; never waits. Everything accepted before is served to its end.
    pub fn begin_close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.stop.cancel();
        // HTTP/2 tells clients which requests will be answered, so there is nothing to wait for.
        self.ask_all(Ask::Finish, |pulse| pulse.is_http2());
    }

    /// Closes: returns when every connection has ended, at the latest at the deadline. Requests
    /// that are still in work at `cut` are cut off then.
    pub async fn close(&self, cut: Instant, deadline: Instant) {
        self.begin_close();
        let last = Instant::now() + LAST_REQUEST;
        let _ = timeout_at(last.min(cut), self.empty.cancelled()).await;
        self.ask_all(Ask::Finish, |_| true);
        if timeout_at(cut, self.empty.cancelled()).await.is_err() {
            let open = self.connections.lock().open.len();
            warn!(address = %self.address, open, "connections cut off: they did not end before the deadline");
            self.ask_all(Ask::Abort, |_| true);
        }
        self.tasks.close();
        let _ = timeout_at(deadline.min(Instant::now() + ABORT), self.tasks.wait()).await;
    }

    /// Waits until another has closed the listener.
    pub async fn wait_closed(&self, deadline: Instant) {
        let _ = timeout_at(deadline, self.empty.cancelled()).await;
    }

    fn ask_all(&self, ask: Ask, which: impl Fn(&Pulse) -> bool) {
        let connections = self.connections.lock();
        connections
            .open
            .values()
            .filter(|(pulse, _)| which(pulse))
            .for_each(|(pulse, _)| pulse.ask(ask));
    }

    async fn accept(self: Arc<Self>, socket: TcpListener) {
        let mut failed_before = false;
        while !self.stop.is_cancelled() {
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                accepted = async {
                    self.place().await;
                    socket.accept().await
                } => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    failed_before = false;
                    self.serve(stream, peer);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    if !failed_before {
                        warn!(%error, "cannot accept connections, trying on (too few file descriptors? see ulimit -n)");
                    }
                    failed_before = true;
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        self.accept_rest(socket);
        info!("http server listens no longer");
        let mut connections = self.connections.lock();
        connections.accepting = false;
        if connections.open.is_empty() {
            self.empty.cancel();
        }
    }

    /// Takes those whom the kernel has accepted already, then frees the address.
    fn accept_rest(self: &Arc<Self>, socket: TcpListener) {
        // The operating system's own socket, since tokio may not know yet of the very last.
        let Ok(socket) = socket.into_std() else { return };
        while let Ok((stream, peer)) = socket.accept() {
            if stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                self.serve(stream, peer);
            }
        }
    }

    /// Waits until there may be one more connection.
    async fn place(&self) {
        loop {
            // Before the look at the number, so that a place freed in between wakes this wait.
            let freed = self.freed.notified();
            if self.connections.lock().open.len() < self.limits.load().connections_max {
                return;
            }
            freed.await;
        }
    }

    fn serve(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        // Answers, and their pieces, are written whole; waiting for more of them only delays.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(remote = %peer, %error, "connection gone before it was served");
            return;
        }
        let pulse = Arc::new(Pulse::default());
        let most = self.limits.load().connections_per_address_max;
        let Some(seat) = self.clients.seat(peer.ip(), most, &pulse) else {
            debug!(remote = %peer, most, "connection closed: its client has that many that are all in work");
            return;
        };
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.connections.lock().open.insert(id, (Arc::clone(&pulse), Seen::new(Instant::now())));
        let place = Place { listener: Arc::clone(self), id };
        let peer = connection::Peer { address: peer, client: Arc::clone(&seat.client) };
        let served = connection::serve(Arc::clone(self), stream, peer, pulse);
        self.tasks.spawn(async move {
            let _held = (place, seat);
            served.await;
        });
    }

    /// Looks at all connections once in a while and ends those that are stuck.
    async fn watch(self: Arc<Self>) {
        let mut closing_since = None;
        loop {
            let header_timeout = self.limits.load().header_timeout;
            let pause =
                (header_timeout / 4).clamp(Duration::from_millis(20), Duration::from_secs(1));
            tokio::select! {
                () = self.empty.cancelled() => return,
                () = sleep(pause) => {}
            }
            let now = Instant::now();
            if self.is_closing() {
                // Also those that were only just accepted, or found to speak HTTP/2.
                let last = now - *closing_since.get_or_insert(now) >= LAST_REQUEST;
                self.ask_all(Ask::Finish, |pulse| last || pulse.is_http2());
            }
            for (pulse, seen) in self.connections.lock().open.values_mut() {
                match seen.judge(pulse, header_timeout, now) {
                    Ask::Nothing => {}
                    ask => pulse.ask(ask),
                }
            }
        }
    }
}

/// A connection's place among those that are open; given back when dropped.
struct Place {
    listener: Arc<Listener>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connections = self.listener.connections.lock();
        connections.open.remove(&self.id);
        if !connections.accepting && connections.open.is_empty() {
            self.listener.empty.cancel();
        }
        drop(connections);
        self.listener.freed.notify_one();
    }
}

/// Errors that say nothing about the next connection.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

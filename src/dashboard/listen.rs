//! The dashboard's address: opened, or the next free one, and served until the host stops.
//!
//! Everybody who reaches the address may open connections, so a connection is given a place by what
//! it asks for:
//!
//! * A *newcomer* has asked for nothing yet, or only for the health of the host and the files of
//!   the page. There are [`NEWCOMERS_MAX`]; one more ends the oldest. So a health check, which asks
//!   at once, is answered whatever else is held open.
//! * A *guest* has asked the API for something without a login. Of one address there are
//!   [`GUESTS_OF_ADDRESS_MAX`], of all together [`GUESTS_MAX`]; one more ends the oldest of its
//!   address that rests, or is refused.
//! * An *operator* is logged in. Of guests and operators there are [`SETTLED_MAX`].
//!
//! Connections are watched like those of the built-in HTTP server
//! ([`pulse`](lattice_engine::providers::builtin::httpserver::pulse)): a head has to come at once,
//! and answers have to be read.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body as AxumBody};
use bytes::Bytes;
use hyper::{
    Request,
    body::{Body, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::auth::Access;
use lattice_engine::providers::builtin::httpserver::{
    clients::network,
    connection::drive,
    debt,
    pulse::{Ask, Busy, Pulse, Seen},
    wire::{Arriving, Wire},
};

/// Ports that are tried after one that is taken.
const PORTS: u16 = 100;
/// Connections that have asked for nothing yet.
const NEWCOMERS_MAX: usize = 64;
/// Connections without a login: of one address, and all together.
const GUESTS_OF_ADDRESS_MAX: usize = 32;
const GUESTS_MAX: usize = 384;
/// Guests and operators: some dozens of pages with a stream and a few requests each.
const SETTLED_MAX: usize = 512;
/// How long the head of a request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How often connections are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// The longest head, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long to wait when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long requests in work may take when the host stops.
const LAST_REQUESTS: Duration = Duration::from_secs(1);

/// Why there is no dashboard.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("ports {first} to {last} of {ip} are all taken; choose another one with --dashboard-port, or 0 for none", ip = address.ip())]
    AllTaken { address: SocketAddr, first: u16, last: u16 },
    #[error(
        "{address} cannot be listened on: {cause}; --dashboard-address and --dashboard-port choose another"
    )]
    Refused { address: SocketAddr, cause: io::Error },
}

/// The caller, as the connection identifies it.
#[derive(Clone, Debug)]
pub struct Caller {
    address: SocketAddr,
    id: u64,
    crowd: Arc<Mutex<Places>>,
}

impl Caller {
    pub fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    /// Takes a place for whoever asks for more than newcomers may.
    pub fn settle(&self, access: Access) -> Result<(), Crowd> {
        self.crowd.lock().settle(self.id, access)
    }
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Crowd {
    #[error(
        "{GUESTS_OF_ADDRESS_MAX} connections of this address are open without a login; close one, or log in"
    )]
    OfAddress,
    #[error("too many connections are open; close one, or try again soon")]
    OfAll,
}

/// The standing of a caller, by what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Newcomer,
    Guest,
    Operator,
}

/// A connection.
#[derive(Debug)]
struct Open {
    address: IpAddr,
    standing: Standing,
    pulse: Arc<Pulse>,
    seen: Seen,
    /// It makes way for another one, and counts no longer.
    is_ended: bool,
}

impl Open {
    fn is_newcomer(&self) -> bool {
        self.standing == Standing::Newcomer
    }

    fn is_guest(&self) -> bool {
        self.standing == Standing::Guest
    }
}

/// All connections, oldest first.
#[derive(Debug, Default)]
struct Places {
    last: u64,
    open: BTreeMap<u64, Open>,
}

impl Places {
    /// Takes a newcomer in.
    fn enter(&mut self, address: IpAddr, pulse: &Arc<Pulse>, now: Instant) -> u64 {
        if self.count(Open::is_newcomer) >= NEWCOMERS_MAX
            && !self.end_one(|open| open.is_newcomer() && open.pulse.is_at_rest())
        {
            // None of them rests; what they ask for takes a moment, so the oldest is stuck.
            self.end_one(Open::is_newcomer);
        }
        self.last += 1;
        let (address, pulse, seen) = (network(address), Arc::clone(pulse), Seen::new(now));
        let open = Open { address, standing: Standing::Newcomer, pulse, seen, is_ended: false };
        self.open.insert(self.last, open);
        self.last
    }

    fn settle(&mut self, id: u64, access: Access) -> Result<(), Crowd> {
        // One that makes way counts no longer, so it must not begin anything either.
        let open = self.open.get(&id).filter(|open| !open.is_ended);
        let Some(open) = open else { return Err(Crowd::OfAll) };
        let (standing, address) = (open.standing, open.address);
        let wanted = match (access, standing) {
            (Access::Operator, _) => Standing::Operator,
            // A page may ask for a file without its session.
            (Access::Reader, Standing::Operator) => return Ok(()),
            (Access::Reader, _) => Standing::Guest,
        };
        if wanted == standing {
            return Ok(());
        }
        if standing == Standing::Newcomer && self.count(|open| !open.is_newcomer()) >= SETTLED_MAX {
            return Err(Crowd::OfAll);
        }
        if wanted == Standing::Guest {
            let neighbours = self.count(|open| open.is_guest() && open.address == address);
            if neighbours >= GUESTS_OF_ADDRESS_MAX && !self.end_resting_guest(address) {
                return Err(Crowd::OfAddress);
            }
            if self.count(Open::is_guest) >= GUESTS_MAX && !self.end_resting_guest(address) {
                return Err(Crowd::OfAll);
            }
        }
        if let Some(open) = self.open.get_mut(&id) {
            open.standing = wanted;
        }
        Ok(())
    }

    fn count(&self, which: impl Fn(&Open) -> bool) -> usize {
        self.open.values().filter(|open| !open.is_ended && which(open)).count()
    }

    /// Ends the oldest guest of an address that rests; says whether there was one.
    fn end_resting_guest(&mut self, address: IpAddr) -> bool {
        self.end_one(|open| open.is_guest() && open.address == address && open.pulse.is_at_rest())
    }

    /// Ends the oldest of these; says whether there was one.
    fn end_one(&mut self, which: impl Fn(&Open) -> bool) -> bool {
        let Some(open) = self.open.values_mut().find(|open| !open.is_ended && which(open)) else {
            return false;
        };
        open.is_ended = true;
        open.pulse.ask(Ask::Abort);
        true
    }

    /// Looks at all connections and ends those that are stuck.
    fn look(&mut self, now: Instant) {
        for open in self.open.values_mut() {
            match open.seen.judge(&open.pulse, HEAD_TIMEOUT, now) {
                Ask::Nothing => {}
                // Nothing can be lost.
                Ask::Finish if !open.pulse.has_served() => open.pulse.ask(Ask::Abort),
                ask => open.pulse.ask(ask),
            }
        }
    }
}

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
    let places = Arc::new(Mutex::new(Places::default()));
    let mut connections = JoinSet::new();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(done) = connections.join_next(), if !connections.is_empty() => {
                if let Err(failure) = done {
                    error!(error = %failure, "a connection of the dashboard panicked");
                }
            }
            _ = look.tick() => places.lock().look(Instant::now()),
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    let pulse = Arc::new(Pulse::default());
                    let id = places.lock().enter(address.ip(), &pulse, Instant::now());
                    let caller = Caller { address, id, crowd: Arc::clone(&places) };
                    connections.spawn(serve(stream, caller, pulse, app.clone()));
                }
                Err(error) => {
                    warn!(%error, "the dashboard cannot accept connections, trying on");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    places.lock().open.values().for_each(|open| open.pulse.ask(Ask::Finish));
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(LAST_REQUESTS, ended).await.is_err() {
        connections.shutdown().await;
    }
}

/// A connection's place; given back when dropped.
struct Place(Caller);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.crowd.lock().open.remove(&self.0.id);
    }
}

async fn serve(stream: TcpStream, caller: Caller, pulse: Arc<Pulse>, app: Router) {
    let place = Place(caller);
    // Events are small and wait for nobody.
    let _ = stream.set_nodelay(true);
    let app = TowerToHyperService::new(app);
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(place.0.clone());
        let busy = pulse.busy_until_answered();
        let request = request.map(|body| Arriving::new(body, Arc::clone(&pulse)));
        let answer = hyper::service::Service::call(&app, request);
        let pulse = Arc::clone(&pulse);
        async move {
            let answer = answer.await.unwrap_or_else(|never| match never {});
            Ok::<_, Infallible>(answer.map(|body| Watched { body, pulse, _busy: busy }))
        }
    });
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX).header_read_timeout(None);
    let io = TokioIo::new(Wire::new(stream, Bytes::new(), Arc::clone(&pulse)));
    let connection = builder.serve_connection(io, service);
    if let Err(error) = drive(connection, http1::Connection::graceful_shutdown, &pulse).await {
        let remote = place.0.address;
        debug!(%remote, error = %lattice_protocol::errors::chain(&error), "connection of the dashboard ended");
    }
}

/// The body of an answer: its request is in work until the end of it, and the client owes it to
/// read it.
struct Watched {
    body: AxumBody,
    pulse: Arc<Pulse>,
    _busy: Busy<Arc<Pulse>>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(
            frame.map(|frame| {
                frame.map(|frame| frame.map_data(|data| debt::parcel(data, &self.pulse)))
            }),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    /// Connections of one address that have all asked for something, and the places they have.
    fn settled(
        places: &mut Places,
        of: IpAddr,
        number: usize,
        access: Access,
    ) -> Vec<Result<Arc<Pulse>, Crowd>> {
        let one = |_| {
            let pulse = Arc::new(Pulse::default());
            let id = places.enter(of, &pulse, Instant::now());
            let settled = places.settle(id, access);
            if settled.is_err() {
                places.open.remove(&id);
            }
            settled.map(|()| pulse)
        };
        (0..number).map(one).collect()
    }

    #[test]
    fn silent_connections_keep_nobody_out() {
        let mut places = Places::default();
        for _ in 0..1000 {
            places.enter(address(1), &Arc::new(Pulse::default()), Instant::now());
        }
        assert_eq!(places.count(|_| true), NEWCOMERS_MAX);
        // Nor do those that read no answer: the oldest makes way.
        let mut places = Places::default();
        let pulses: Vec<_> = (0..=NEWCOMERS_MAX).map(|_| Arc::new(Pulse::default())).collect();
        for pulse in &pulses {
            pulse.owes(1);
            places.enter(address(1), pulse, Instant::now());
        }
        let is_ended = |pulse: &Arc<Pulse>| {
            pulse.asked(&mut Context::from_waker(std::task::Waker::noop())) == Ask::Abort
        };
        assert_eq!(
            (places.count(|_| true), pulses.iter().filter(|pulse| is_ended(pulse)).count()),
            (NEWCOMERS_MAX, 1)
        );
        assert!(is_ended(&pulses[0]));
    }

    #[test]
    fn guests_of_one_address_have_so_many_places_and_operators_find_theirs() {
        let mut places = Places::default();
        let guests = settled(&mut places, address(1), GUESTS_OF_ADDRESS_MAX, Access::Reader);
        let busy: Vec<_> = guests.iter().map(|guest| guest.as_ref().unwrap().busy()).collect();
        let more = |places: &mut Places, of, access| settled(places, of, 1, access).remove(0).err();
        assert_eq!(more(&mut places, address(1), Access::Reader), Some(Crowd::OfAddress));
        assert_eq!(more(&mut places, address(2), Access::Reader), None);
        assert_eq!(more(&mut places, address(1), Access::Operator), None);
        // One that rests makes way.
        drop(busy);
        assert_eq!(more(&mut places, address(1), Access::Reader), None);
        let is_guest = |open: &Open| open.standing == Standing::Guest && open.address == address(1);
        assert_eq!(places.count(is_guest), GUESTS_OF_ADDRESS_MAX);
    }

    #[test]
    fn guests_leave_places_for_operators() {
        let mut places = Places::default();
        let mut kept = Vec::new();
        for last in 0..20 {
            kept.extend(
                settled(&mut places, address(last), GUESTS_OF_ADDRESS_MAX, Access::Reader)
                    .into_iter()
                    .flatten(),
            );
            kept.iter().for_each(|pulse| pulse.owes(1));
        }
        assert_eq!((kept.len(), places.count(|_| true)), (GUESTS_MAX, GUESTS_MAX));
        let operators = settled(&mut places, address(99), SETTLED_MAX, Access::Operator);
        assert_eq!(
            operators.iter().filter(|place| place.is_ok()).count(),
            SETTLED_MAX - GUESTS_MAX
        );
        assert!(matches!(operators.last(), Some(Err(Crowd::OfAll))));
    }

    #[test]
    fn a_head_has_to_come_at_once() {
        let (mut places, start) = (Places::default(), Instant::now());
        let [silent, half] = [Arc::new(Pulse::default()), Arc::new(Pulse::default())];
        for pulse in [&silent, &half] {
            places.enter(address(1), pulse, start);
        }
        for second in 1..=6 {
            half.has_read();
            places.look(start + Duration::from_secs(second));
        }
        for pulse in [silent, half] {
            let mut context = Context::from_waker(std::task::Waker::noop());
            assert_eq!(pulse.asked(&mut context), Ask::Abort);
        }
    }

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
        assert!(
            error.to_string().contains("192.0.2.1:4000")
                && error.to_string().contains("--dashboard-address")
        );
    }
}

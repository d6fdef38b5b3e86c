//! Calls whose bodies go piece by piece (see [`exchange`]).
//!
//! An answer that is complete soon after its head is sent as a whole, with its length. Every other
//! one is on its way from then on: a task of the listener drives the call and passes the pieces on,
//! through a short queue that is paid for out of the room for answers ([`Lodgings`]). A component
//! that is faster than its client waits then. Each piece that moves, in either direction, gives the
//! call the time of a whole one; so an answer may take as long as it likes, but not pause for
//! longer.
//!
//! A client that goes away ends the call. An answer that breaks off never looks complete: its end
//! is said ([`Item::End`]).
//!
//! [`Lodgings`]: super::debt::Lodgings

use std::{
    pin::{Pin, pin},
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    Response,
    body::{Body, Frame, SizeHint},
    http::response,
};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    body::BodyError,
    clients,
    debt::{self, Lodging, Owed, PIECE, Room},
    listener::Listener,
    pulse::{Busy, Pulse},
    request::Route,
};
use crate::rpc::{
    call::{Call, CallError, Chain},
    exchange::{self, Begun, Ongoing},
};
use lattice_protocol::contracts::httpserver::HANDLE_REQUEST;

/// Pieces that wait for the client.
const PIECES_MAX: usize = 4;

/// A call while its bodies move.
pub struct Live {
    chain: Chain,
    timeout: Duration,
    /// Set when the call begins.
    deadline: OnceLock<Instant>,
    /// Why the client's body was not read to its end.
    refused: Mutex<Option<BodyError>>,
}

impl Live {
    pub fn new(timeout: Duration) -> Arc<Self> {
        let (chain, deadline) = (Chain::default().with_pieces(), OnceLock::new());
        Arc::new(Self { chain, timeout, deadline, refused: Mutex::default() })
    }

    /// Begins the call: returns its chain and its deadline.
    pub fn begin(&self) -> (Chain, Instant) {
        let deadline = *self.deadline.get_or_init(|| Instant::now() + self.timeout);
        (self.chain.clone(), deadline)
    }

    /// Gives the call more time, since a piece has moved.
    pub fn has_moved(&self) {
        if let Some(deadline) = self.deadline.get() {
            self.chain.go_on_until(Instant::now() + self.timeout, *deadline);
        }
    }

    /// Notes why the client's body is not read any further.
    pub fn refuse(&self, error: BodyError) {
        self.refused.lock().get_or_insert(error);
    }

    pub fn take_refusal(&self) -> Option<BodyError> {
        self.refused.lock().take()
    }
}

/// The end of a call, or the beginning of its answer.
pub enum Answered {
    /// As the contract has it.
    Payload(Bytes),
    Whole(response::Parts, Bytes),
    Pieces(response::Parts, Pieces),
    /// Too much waits already to be read by clients.
    NoRoom,
}

/// The place of a client that is answered.
pub struct Client<'a> {
    pub listener: &'a Arc<Listener>,
    pub client: &'a Arc<clients::Client>,
    pub pulse: &'a Arc<Pulse>,
}

/// Performs a call for a route.
pub async fn perform(
    client: Client<'_>,
    route: &Arc<Route>,
    live: &Arc<Live>,
    (call, answer): (Call, oneshot::Receiver<Response<exchange::Body>>),
) -> Result<Answered, CallError> {
    let Client { listener, client, pulse } = client;
    let (router, edge) = (listener.router.clone(), Arc::clone(&route.edge));
    let running = Box::pin(async move {
        let made = pin!(router.call(call));
        router.counted(&edge, HANDLE_REQUEST, made).await
    });
    let (parts, ongoing) = match exchange::begin(running, answer).await? {
        Begun::Payload(payload) => return Ok(Answered::Payload(payload)),
        Begun::Whole(parts, body, None) => return Ok(Answered::Whole(parts, body)),
        Begun::Whole(parts, body, Some(running)) => {
            let route = Arc::clone(route);
            listener.tasks.spawn(async move {
                if let Err(error) = running.await {
                    route.failed_late(&error);
                }
            });
            return Ok(Answered::Whole(parts, body));
        }
        Begun::Pieces(parts, ongoing) => (parts, ongoing),
    };
    let is_bodiless = exchange::has_no_body(parts.status);
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    let queue = PIECES_MAX * PIECE + ongoing.ready();
    let lodging = match listener.lodgings.lodge(queue, &listener.budget, client) {
        Room::Taken(lodging) => lodging,
        Room::Full | Room::NotNeeded => return Ok(Answered::NoRoom),
    };
    let in_work = route.in_work.token();
    let passing = Passing {
        sender,
        live: Arc::clone(live),
        pulse: Arc::clone(pulse),
        cut: route.cut.clone(),
        _lodging: lodging,
    };
    let route = Arc::clone(route);
    listener.tasks.spawn(async move {
        let _in_work = in_work;
        let ended = match is_bodiless {
            true => ongoing.finish().await,
            false => passing.pass_on(ongoing).await,
        };
        if let Err(error) = ended {
            route.failed_late(&error);
        }
    });
    if is_bodiless {
        return Ok(Answered::Whole(parts, Bytes::new()));
    }
    let (live, busy) = (Arc::clone(live), pulse.busy_until_answered());
    Ok(Answered::Pieces(parts, Pieces { pieces, live, has_ended: false, _busy: busy }))
}

/// A part of an answer on its way to the connection.
enum Item {
    Piece(Bytes),
    /// The answer is complete.
    End,
}

/// Passes an answer on, from a component to the connection of its client.
struct Passing {
    sender: mpsc::Sender<Item>,
    live: Arc<Live>,
    pulse: Arc<Pulse>,
    /// The link ends, and waits for its answers no longer.
    cut: CancellationToken,
    _lodging: Lodging,
}

impl Passing {
    /// Passes the pieces of an answer on, until its end or until the client is gone. If it ends
    /// otherwise, the client sees that the answer broke off.
    async fn pass_on(self, mut ongoing: Ongoing) -> Result<(), CallError> {
        loop {
            let piece = tokio::select! {
                biased;
                () = self.sender.closed() => return Ok(()),
                () = self.cut.cancelled() => {
                    let text = "the link ended before its answer".to_owned();
                    return Err(CallError::Callee(text));
                }
                piece = ongoing.next(self.live.timeout) => piece?,
            };
            let Some(data) = piece else { break };
            if self.push(data).await.is_none() {
                return Ok(());
            }
        }
        let _ = self.sender.send(Item::End).await;
        drop(self);
        ongoing.finish().await
    }

    /// Passes data on, as soon as the client takes it; `None` if it is gone, or the link is.
    async fn push(&self, mut data: Bytes) -> Option<()> {
        while !data.is_empty() {
            let piece = debt::parcel(data.split_to(PIECE.min(data.len())), &self.pulse);
            tokio::select! {
                sent = self.sender.send(Item::Piece(piece)) => sent.ok()?,
                () = self.cut.cancelled() => return None,
            }
            self.live.has_moved();
        }
        Some(())
    }
}

/// The body of an answer that is on its way.
pub struct Pieces {
    pieces: mpsc::Receiver<Item>,
    live: Arc<Live>,
    has_ended: bool,
    /// The connection is at work until the end.
    _busy: Busy<Arc<Pulse>>,
}

impl Pieces {
    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, exchange::BodyError>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let item = ready!(self.pieces.poll_recv(context));
        // The client has taken what it was given before.
        self.live.has_moved();
        Poll::Ready(match item {
            Some(Item::Piece(piece)) => Some(Ok(piece)),
            Some(Item::End) => {
                self.has_ended = true;
                None
            }
            None => {
                self.has_ended = true;
                Some(Err(exchange::BodyError::Broken("the answer broke off".to_owned())))
            }
        })
    }
}

/// The body of any answer.
pub enum Content {
    Whole(Owed),
    Pieces(Pieces),
}

impl Body for Content {
    type Data = Bytes;
    type Error = exchange::BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, exchange::BodyError>>> {
        match self.get_mut() {
            Self::Whole(owed) => {
                let frame = ready!(Pin::new(owed).poll_frame(context));
                Poll::Ready(frame.map(|frame| frame.map_err(|never| match never {})))
            }
            Self::Pieces(pieces) => {
                let piece = ready!(pieces.poll_next(context));
                Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(owed) => owed.is_end_stream(),
            Self::Pieces(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(owed) => owed.size_hint(),
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}

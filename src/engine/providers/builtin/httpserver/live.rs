//! Calls whose bodies go piece by piece (see [`exchange`]).
//!
//! An answer that is complete soon after its head is sent as a whole, with its length. Every other
//! one is on its way from then on: a task of the listener drives the call and passes the pieces on.
//! They are in memory only as far as there is room for answers ([`Lodgings`]); a component that
//! is faster than its client waits then. Each piece that moves, in either direction, gives the call
//! the time of a whole one; so an answer may take as long as it likes, but not pause for longer.
//!
//! A client that goes away ends the call.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    HeaderMap, Response, StatusCode,
    body::{Body, Frame, SizeHint},
    header,
    http::response,
};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout},
};

use super::{
    body::BodyError,
    clients::Client,
    debt::{self, Lodging, Lodgings, Owed, PIECE, Room},
    listener::Listener,
    pulse::{Busy, Pulse},
};
use crate::rpc::{
    call::{Call, CallError, Chain},
    exchange::{self, Begun, Ongoing},
};
use lattice_base::budget::Budget;

/// Pieces that wait for the client; the room for answers mostly bounds them before.
const PIECES_MAX: usize = 1024;
/// How often a piece that has no room looks for some.
const ROOM_PAUSE: Duration = Duration::from_millis(20);

/// A call while its bodies move.
pub struct Live {
    chain: Chain,
    deadline: Instant,
    timeout: Duration,
    /// Why the client's body was not read to its end.
    refused: Mutex<Option<BodyError>>,
}

impl Live {
    pub fn new(deadline: Instant, timeout: Duration) -> Arc<Self> {
        let chain = Chain::default().with_pieces();
        Arc::new(Self { chain, deadline, timeout, refused: Mutex::default() })
    }

    /// The chain that the call begins.
    pub fn chain(&self) -> Chain {
        self.chain.clone()
    }

    /// Gives the call more time, since a piece has moved.
    pub fn has_moved(&self) {
        self.chain.go_on_until(Instant::now() + self.timeout, self.deadline);
    }

    /// Notes why the client's body is not read any further.
    pub fn refuse(&self, error: BodyError) {
        self.refused.lock().get_or_insert(error);
    }

    pub fn take_refusal(&self) -> Option<BodyError> {
        self.refused.lock().take()
    }
}

/// How a call ended, or goes on.
pub enum Answered {
    /// As the contract has it.
    Payload(Bytes),
    Whole(response::Parts, Bytes),
    Pieces(response::Parts, Pieces),
}

/// The place of a client that is answered.
pub struct Place<'a> {
    pub listener: &'a Arc<Listener>,
    pub client: &'a Arc<Client>,
    pub pulse: &'a Arc<Pulse>,
}

/// Performs a call. `failed` learns of one that fails when its answer is on its way already.
pub async fn perform(
    place: Place<'_>,
    live: &Arc<Live>,
    (call, answer): (Call, oneshot::Receiver<Response<exchange::Body>>),
    failed: impl Fn(&CallError) + Send + 'static,
) -> Result<Answered, CallError> {
    let router = place.listener.router.clone();
    let running = Box::pin(async move { router.call(call).await });
    let (parts, ongoing) = match exchange::begin(running, answer).await? {
        Begun::Payload(payload) => return Ok(Answered::Payload(payload)),
        Begun::Whole(parts, body, running) => {
            if let Some(running) = running {
                place.listener.tasks.spawn(running);
            }
            return Ok(Answered::Whole(parts, body));
        }
        Begun::Pieces(parts, _) if has_no_body(parts.status) => {
            return Ok(Answered::Whole(parts, Bytes::new()));
        }
        Begun::Pieces(parts, ongoing) => (parts, ongoing),
    };
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    let passing = Passing {
        sender,
        live: Arc::clone(live),
        pulse: Arc::clone(place.pulse),
        client: Arc::clone(place.client),
        lodgings: Arc::clone(&place.listener.lodgings),
        budget: place.listener.budget.clone(),
    };
    place.listener.tasks.spawn(async move {
        if let Err(error) = passing.pass_on(ongoing).await {
            failed(&error);
        }
    });
    let busy = place.pulse.busy_until_answered();
    Ok(Answered::Pieces(parts, Pieces { pieces, live: Arc::clone(live), _busy: busy }))
}

/// Whether answers with this status have no body.
pub fn has_no_body(status: StatusCode) -> bool {
    [StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::NOT_MODIFIED].contains(&status)
}

/// Passes an answer on, from a component to the connection of its client.
struct Passing {
    sender: mpsc::Sender<Result<Bytes, exchange::BodyError>>,
    live: Arc<Live>,
    pulse: Arc<Pulse>,
    client: Arc<Client>,
    lodgings: Arc<Lodgings>,
    budget: Budget,
}

impl Passing {
    /// Passes the pieces of an answer on, until its end or until the client is gone.
    async fn pass_on(self, mut ongoing: Ongoing) -> Result<(), CallError> {
        loop {
            let piece = tokio::select! {
                biased;
                () = self.sender.closed() => return Ok(()),
                piece = ongoing.next(self.live.timeout) => piece,
            };
            match piece {
                Ok(None) => break,
                Ok(Some(data)) => {
                    if self.push(data).await.is_none() {
                        return Ok(());
                    }
                }
                Err(error) => return self.break_off(error).await,
            }
        }
        // The client sees the end.
        drop(self);
        ongoing.finish().await
    }

    /// Ends the answer where it is, so that the client does not take it for a whole one.
    async fn break_off(self, error: CallError) -> Result<(), CallError> {
        let broken = exchange::BodyError::Broken("the answer broke off".to_owned());
        let _ = timeout(self.live.timeout, self.sender.send(Err(broken))).await;
        Err(error)
    }

    /// Passes data on, as soon as there is room; `None` if the client is gone or takes too long.
    async fn push(&self, mut data: Bytes) -> Option<()> {
        while !data.is_empty() {
            let piece = data.split_to(PIECE.min(data.len()));
            let lodging = timeout(self.live.timeout, self.lodge(piece.len())).await.ok()??;
            let piece = debt::parcel(piece, &self.pulse, Some(lodging));
            self.sender.send(Ok(piece)).await.ok()?;
            self.live.has_moved();
        }
        Some(())
    }

    async fn lodge(&self, bytes: usize) -> Option<Lodging> {
        loop {
            match self.lodgings.lodge(bytes, &self.budget, &self.client) {
                Room::Taken(lodging) => return Some(lodging),
                _ if self.sender.is_closed() => return None,
                _ => sleep(ROOM_PAUSE).await,
            }
        }
    }
}

/// The body of an answer that is on its way.
pub struct Pieces {
    pieces: mpsc::Receiver<Result<Bytes, exchange::BodyError>>,
    live: Arc<Live>,
    /// The connection is at work until the end.
    _busy: Busy<Arc<Pulse>>,
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
            Self::Pieces(Pieces { pieces, live, .. }) => {
                let piece = ready!(pieces.poll_recv(context));
                // The client has taken what it was given before.
                live.has_moved();
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

/// The length that a component announces of an answer on its way.
pub fn announced(headers: &HeaderMap) -> Option<u64> {
    let mut given = headers.get_all(header::CONTENT_LENGTH).iter();
    match (given.next()?.to_str().ok()?.parse(), given.next()) {
        (Ok(length), None) => Some(length),
        _ => None,
    }
}

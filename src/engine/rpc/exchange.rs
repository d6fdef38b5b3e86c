//! The bodies of an HTTP request that go from caller to callee, and back, piece by piece.
//!
//! The contracts of HTTP have whole requests and whole answers. A call that need not wait for them
//! has an [`Exchange`] beside its payload:
//!
//! * If the callee is in the same process and takes pieces
//!   ([`Local::takes_pieces`](crate::router::Local)), it reads the body of the request while it
//!   still arrives, and its answer is there with its head.
//! * If it is on another host of this make, the body of the request is read to its end first
//!   ([`Call::whole`](super::call::Call::whole)), and the answer comes in
//!   [`pieces`](super::pieces).
//! * Everybody else gets and gives payloads.
//!
//! [`begin`] performs such a call: an answer that is complete soon after its head is taken as a
//! whole, and every other one is [`Ongoing`].

use std::{
    fmt,
    future::pending,
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::{future::BoxFuture, stream};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{Response, StatusCode, body::Frame, http::response::Parts};
use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout_at},
};

use super::call::CallError;

/// How long an answer may take after its head to be taken as a whole.
const WHOLE_WITHIN: Duration = Duration::from_millis(2);
/// The longest body that is taken as a whole, in bytes.
pub const WHOLE_BYTES_MAX: usize = 256 << 10;

/// A call under way.
pub type Running = BoxFuture<'static, Result<Bytes, CallError>>;

/// A body that still arrives.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Why a body broke off.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("it is longer than {0} bytes")]
    TooLarge(u64),
    #[error("{0}")]
    Broken(String),
}

/// The body of a request that nobody has read yet.
pub trait Upload: Send {
    /// Returns it as it arrives.
    fn pieces(self: Box<Self>) -> Body;
    /// Reads it to its end; returns the payload that has it.
    fn payload(self: Box<Self>) -> BoxFuture<'static, Result<Bytes, CallError>>;
}

/// The state of the body of a request.
enum State {
    Unread(Box<dyn Upload>),
    /// The callee has it.
    Taken,
    /// It is in the payload; in this one, if it was read later than the call was made.
    InPayload(Option<Bytes>),
}

/// The bodies of a request and of its answer.
pub struct Exchange {
    // Held for lines without an await.
    request: Mutex<State>,
    answer: Mutex<Option<oneshot::Sender<Response<Body>>>>,
    status: OnceLock<u16>,
}

impl Exchange {
    /// Makes the one of a request; with no upload, the payload has the whole body. The answer comes
    /// to the receiver, unless the result of the call has it.
    pub fn new(upload: Option<Box<dyn Upload>>) -> (Arc<Self>, oneshot::Receiver<Response<Body>>) {
        let (sender, receiver) = oneshot::channel();
        let state = upload.map_or(State::InPayload(None), State::Unread);
        let (request, answer) = (Mutex::new(state), Mutex::new(Some(sender)));
        (Arc::new(Self { request, answer, status: OnceLock::new() }), receiver)
    }

    /// Takes the argument of the call that has this payload: the payload, and the body that is not
    /// in it.
    pub fn take(&self, payload: Bytes) -> (Bytes, Option<Body>) {
        match self.take_state() {
            State::Unread(upload) => (payload, Some(upload.pieces())),
            State::InPayload(Some(whole)) => (whole, None),
            State::InPayload(None) => (payload, None),
            // A second callee must not take the head for the whole request.
            State::Taken => (payload, Some(gone())),
        }
    }

    /// Takes what there is of the request; what is in the payload stays.
    fn take_state(&self) -> State {
        let mut state = self.request.lock();
        let stays = match &*state {
            State::InPayload(payload) => State::InPayload(payload.clone()),
            State::Unread(_) | State::Taken => State::Taken,
        };
        std::mem::replace(&mut *state, stays)
    }

    /// Reads the body of the request to its end, and returns the payload that has it; nothing if
    /// that of the call has it already. A call that is made again gets the same.
    pub(super) async fn payload(&self) -> Result<Option<Bytes>, CallError> {
        let upload = match self.take_state() {
            State::Unread(upload) => upload,
            State::InPayload(payload) => return Ok(payload),
            State::Taken => {
                return Err(CallError::Callee("the body of the request is gone".to_owned()));
            }
        };
        let payload = upload.payload().await?;
        *self.request.lock() = State::InPayload(Some(payload.clone()));
        Ok(Some(payload))
    }

    /// Says whether the body of the request is still to be read.
    pub fn is_unread(&self) -> bool {
        matches!(*self.request.lock(), State::Unread(_))
    }

    /// Answers; the body may still arrive. Says whether somebody waits for the answer.
    pub fn answer(&self, answer: Response<Body>) -> bool {
        let Some(sender) = self.answer.lock().take() else { return false };
        let _ = self.status.set(answer.status().as_u16());
        sender.send(answer).is_ok()
    }

    /// Returns the status of the answer that was given.
    pub fn status(&self) -> Option<u16> {
        self.status.get().copied()
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").finish_non_exhaustive()
    }
}

/// Whether answers with this status have no body.
pub fn has_no_body(status: StatusCode) -> bool {
    [StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::NOT_MODIFIED].contains(&status)
}

/// A body that is there.
pub fn whole<E: 'static>(body: Bytes) -> UnsyncBoxBody<Bytes, E> {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

/// The pieces of a body that were read. One alone, as most bodies are, is not copied.
#[derive(Default)]
pub struct Joined {
    first: Bytes,
    /// All of them, once there are several.
    all: BytesMut,
}

impl Joined {
    pub fn push(&mut self, piece: Bytes) {
        if self.bytes() == 0 {
            self.first = piece;
            return;
        }
        self.all.extend_from_slice(&std::mem::take(&mut self.first));
        self.all.extend_from_slice(&piece);
    }

    /// Returns the number of bytes.
    pub fn bytes(&self) -> usize {
        self.first.len() + self.all.len()
    }

    /// Returns all bytes.
    pub fn whole(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

/// A body that has something for as long as it lives.
pub fn holding<B>(body: B, held: impl Send + 'static) -> UnsyncBoxBody<Bytes, B::Error>
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
{
    let held = move |frame| {
        let _ = &held;
        frame
    };
    body.map_frame(held).boxed_unsync()
}

/// A body that somebody else has.
fn gone() -> Body {
    let error = BodyError::Broken("the body of the request is gone".to_owned());
    StreamBody::new(stream::iter([Err(error)])).boxed_unsync()
}

/// The result of a call that has one, or the answer that has begun.
pub enum Begun {
    /// The result, as its contract has it.
    Payload(Bytes),
    /// The callee may have something to do after its answer.
    Whole(Parts, Bytes, Option<Running>),
    Pieces(Parts, Ongoing),
}

/// Performs a call that is answered through the exchange of this receiver, or by its result.
pub async fn begin(
    mut running: Running,
    mut answer: oneshot::Receiver<Response<Body>>,
) -> Result<Begun, CallError> {
    let mut has_returned = false;
    let response = tokio::select! {
        biased;
        returned = &mut running => {
            let payload = returned?;
            let Ok(response) = answer.try_recv() else { return Ok(Begun::Payload(payload)) };
            has_returned = true;
            response
        }
        Ok(response) = &mut answer => response,
    };
    let (parts, body) = response.into_parts();
    let (mut read, mut limit) = (Joined::default(), pin!(sleep(WHOLE_WITHIN)));
    let mut body = Some(body);
    while !(body.is_none() && has_returned) && read.bytes() <= WHOLE_BYTES_MAX {
        tokio::select! {
            biased;
            // First, since a callee may wait until its answer was read.
            piece = frame_of(&mut body) => match data_of(piece)? {
                Some(data) => read.push(data),
                None => body = None,
            },
            returned = &mut running, if !has_returned => {
                returned?;
                has_returned = true;
            }
            () = &mut limit => break,
        }
    }
    let (first, running) = (read.whole(), (!has_returned).then_some(running));
    Ok(match body {
        None => Begun::Whole(parts, first, running),
        Some(body) => Begun::Pieces(parts, Ongoing { first, running, body, waits_since: None }),
    })
}

/// Waits for a frame if there is a body, and else for ever.
async fn frame_of(body: &mut Option<Body>) -> Option<Result<Frame<Bytes>, BodyError>> {
    match body {
        Some(body) => body.frame().await,
        None => pending().await,
    }
}

/// The data of a frame; nothing at the end. Trailers have no place in the contract.
fn data_of(frame: Option<Result<Frame<Bytes>, BodyError>>) -> Result<Option<Bytes>, CallError> {
    match frame {
        None => Ok(None),
        Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
        Some(Err(error)) => {
            Err(CallError::Callee(format!("the body of the answer broke off: {error}")))
        }
    }
}

/// An answer that is on its way, with the call that makes it. Dropping it ends the call.
pub struct Ongoing {
    first: Bytes,
    running: Option<Running>,
    body: Body,
    /// When a call that has returned was first asked for the piece that is to come.
    waits_since: Option<Instant>,
}

impl Ongoing {
    /// Bytes that are in memory and were not taken.
    pub fn ready(&self) -> usize {
        self.first.len()
    }

    /// Drives the call until there is another piece, which is never empty; returns nothing at the
    /// end. A call that has returned may pause for `pause_max`, one that runs until its own end.
    /// Safe to drop.
    pub async fn next(&mut self, pause_max: Duration) -> Result<Option<Bytes>, CallError> {
        if !self.first.is_empty() {
            return Ok(Some(std::mem::take(&mut self.first)));
        }
        loop {
            let piece = match &mut self.running {
                Some(running) => tokio::select! {
                    biased;
                    piece = self.body.frame() => piece,
                    returned = running => {
                        self.running = None;
                        returned?;
                        continue;
                    }
                },
                None => {
                    let until = *self.waits_since.get_or_insert_with(Instant::now) + pause_max;
                    let Ok(piece) = timeout_at(until, self.body.frame()).await else {
                        let text = "the body of the answer did not go on";
                        return Err(CallError::Callee(text.to_owned()));
                    };
                    piece
                }
            };
            self.waits_since = None;
            match data_of(piece)? {
                Some(data) if data.is_empty() => {}
                piece => return Ok(piece),
            }
        }
    }

    /// Lets the callee do what is left, after the last piece.
    pub async fn finish(self) -> Result<(), CallError> {
        let Self { running, body, .. } = self;
        // It sees that its answer was read.
        drop(body);
        match running {
            Some(running) => running.await.map(drop),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Text(&'static str);

    impl Upload for Text {
        fn pieces(self: Box<Self>) -> Body {
            whole(self.0.into())
        }

        fn payload(self: Box<Self>) -> BoxFuture<'static, Result<Bytes, CallError>> {
            Box::pin(async move { Ok(self.0.into()) })
        }
    }

    #[tokio::test]
    async fn a_body_is_taken_once_or_read_as_often_as_the_call_is_made() {
        let (exchange, _answer) = Exchange::new(Some(Box::new(Text("hello"))));
        let (head, body) = exchange.take("head".into());
        let body = body.expect("the body").collect().await.unwrap().to_bytes();
        assert_eq!((head, body), ("head".into(), "hello".into()));
        let again = exchange.take(Bytes::new()).1.expect("an error");
        assert!(again.collect().await.is_err() && exchange.payload().await.is_err());

        let (exchange, _answer) = Exchange::new(Some(Box::new(Text("hello"))));
        for _ in 0..2 {
            assert_eq!(exchange.payload().await.unwrap().as_deref(), Some(&b"hello"[..]));
        }
        let (payload, body) = exchange.take("head".into());
        assert!(payload == "hello" && body.is_none());

        let (exchange, _answer) = Exchange::new(None);
        assert!(exchange.payload().await.unwrap().is_none());
        let (payload, body) = exchange.take("all".into());
        assert!(payload == "all" && body.is_none());
    }

    #[test]
    fn pieces_are_joined_and_one_alone_is_not_copied() {
        for (pieces, expected) in [
            (vec![], ""),
            (vec!["", "a"], "a"),
            (vec!["a", "", "b"], "ab"),
            (vec!["a", "b", "c"], "abc"),
        ] {
            let mut joined = Joined::default();
            pieces.into_iter().for_each(|piece| joined.push(Bytes::from_static(piece.as_bytes())));
            assert_eq!(joined.bytes(), expected.len());
            assert_eq!(joined.whole(), expected);
        }
        let (mut joined, piece) = (Joined::default(), Bytes::from(vec![7; 100]));
        joined.push(piece.clone());
        assert_eq!(joined.whole().as_ptr(), piece.as_ptr());
    }

    #[tokio::test]
    async fn one_answer_is_taken_while_somebody_waits() {
        let answer = || Response::new(Box::new(Text("")).pieces());
        let (exchange, received) = Exchange::new(None);
        assert!(exchange.answer(answer()) && !exchange.answer(answer()));
        assert!(received.await.is_ok());
        let (exchange, received) = Exchange::new(None);
        drop(received);
        assert!(!exchange.answer(answer()));
    }
}

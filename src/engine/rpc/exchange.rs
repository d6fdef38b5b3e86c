//! The bodies of an HTTP request that go from caller to callee, and back, piece by piece.
//!
//! The contracts of HTTP have whole requests and whole answers. Where caller and callee share a
//! process, and the callee takes pieces ([`Local::takes_pieces`](crate::router::Local)), a call has
//! an [`Exchange`] beside its payload: the callee reads the body of the request while it still
//! arrives, and its answer is there with its head. Wherever else the call goes, the router reads
//! the body to its end first ([`Call::whole`]), and the answer is a payload.
//!
//! [`Call::whole`]: super::call::Call::whole

use std::{fmt, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::Response;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::call::CallError;

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

/// What became of the body of a request.
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
}

impl Exchange {
    /// Makes the one of a request; with no upload, the payload has the whole body. The answer comes
    /// to the receiver, unless the result of the call has it.
    pub fn new(upload: Option<Box<dyn Upload>>) -> (Arc<Self>, oneshot::Receiver<Response<Body>>) {
        let (sender, receiver) = oneshot::channel();
        let state = upload.map_or(State::InPayload(None), State::Unread);
        (Arc::new(Self { request: Mutex::new(state), answer: Mutex::new(Some(sender)) }), receiver)
    }

    /// Takes the argument of the call that has this payload: the payload, and the body that is not
    /// in it.
    pub fn take(&self, payload: Bytes) -> (Bytes, Option<Body>) {
        match self.take_state() {
            State::Unread(upload) => (payload, Some(upload.pieces())),
            State::InPayload(Some(whole)) => (whole, None),
            State::InPayload(None) | State::Taken => (payload, None),
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

    /// Answers; the body may still arrive. Says whether somebody waits for the answer.
    pub fn answer(&self, answer: Response<Body>) -> bool {
        self.answer.lock().take().is_some_and(|sender| sender.send(answer).is_ok())
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    struct Text(&'static str);

    impl Upload for Text {
        fn pieces(self: Box<Self>) -> Body {
            Full::new(self.0.into()).map_err(|never| match never {}).boxed_unsync()
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
        assert!(exchange.take(Bytes::new()).1.is_none() && exchange.payload().await.is_err());

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

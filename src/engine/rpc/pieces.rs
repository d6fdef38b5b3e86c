//! An answer that goes to another host piece by piece.
//!
//! A caller that takes pieces says so with the header [`wire::PIECES`]. The answer of the callee's
//! host has the head then, as an HTTP response of the contract, and its trace context says how the
//! body comes ([`Form`]): with the head, or in pieces. The caller's host asks for each piece, on
//! the way the call took, with the invocation's id ([`wire::NEXT`]) and the number of the piece
//! ([`wire::NUMBER`]); the callee's host answers when it has something, and at the latest after
//! [`QUIET_MAX`]. So a client that takes its time slows the callee down, a piece that was lost on
//! the way is asked for again, and neither host keeps anything for one that is gone.
//!
//! In a session the questions and the pieces are [proven](super::proof): nobody but the caller's
//! host gets a piece, and a forged one is asked for again like one that was lost.
//!
//! The first byte of a piece is one of [`MORE`], [`END`] and [`BROKEN`].

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use async_nats::{HeaderMap, Message, Request, RequestErrorKind};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{FutureExt as _, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{Response, body::Frame, http::response::Parts};
use parking_lot::Mutex;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tracing::debug;

use super::{
    call::{CallError, Chain},
    exchange::{Body, BodyError, Ongoing},
    proof::{Proven, Question, Seal},
};
use crate::{
    host_context::HostContext,
    peers::sessions::{Sessions, Standing},
};
use lattice_protocol::{
    contracts::{self, httpclient::HttpResponse},
    peers::wire,
    rpc::invocation::TraceContext,
};

/// The form of an answer, in its trace context.
const ANSWER: &str = "lattice-answer";
/// The longest piece, in bytes; less where messages are smaller.
const PIECE_MAX: usize = 256 << 10;
/// How long the callee's host may have nothing to say.
const QUIET_MAX: Duration = Duration::from_millis(500);
/// How long its answer may take beyond that, before the question is asked again.
const ON_THE_WAY_MAX: Duration = Duration::from_millis(500);
/// How long the other host may be silent, at least: its questions and answers may be lost once or
/// twice, and a client that is slow keeps the caller's from asking.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How long the last piece is there to be asked for again.
const LAST_KEPT: Duration = Duration::from_secs(3);
/// How long handing a piece to the connection may take.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait before a question that was lost is asked again.
const PAUSE: Duration = Duration::from_millis(50);
/// Questions that may wait; a caller asks one after the other.
const QUESTIONS_MAX: usize = 4;
/// Room for what a message has beside a piece.
const HEAD_BYTES: usize = 1 << 10;

/// There is more; an empty one means: ask again for this number.
const MORE: u8 = 0;
/// This was the last piece.
const END: u8 = 1;
/// The answer broke off, for the reason that follows.
const BROKEN: u8 = 2;

/// How the body of an answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Whole,
    Pieces,
}

impl Form {
    /// Tells the caller.
    pub fn tell(self, told: &mut TraceContext) {
        told.push(ANSWER, if self == Self::Whole { "whole" } else { "pieces" });
    }

    /// Reads what [`tell`](Self::tell) wrote; nothing of a result that is a payload.
    pub fn read(told: &TraceContext) -> Option<Self> {
        match told.get(ANSWER)? {
            "whole" => Some(Self::Whole),
            "pieces" => Some(Self::Pieces),
            _ => None,
        }
    }
}

/// Writes an answer, or the head of one.
pub fn write(parts: &Parts, body: Bytes) -> Bytes {
    contracts::encode(&HttpResponse::of(parts.status, &parts.headers, body))
}

/// Reads what [`write`] wrote.
pub fn read(payload: &[u8]) -> Result<Response<Bytes>, CallError> {
    let answer = contracts::decode::<HttpResponse>("an HTTP response", payload);
    let answer = answer.map_err(|error| CallError::Transport(error.to_string()))?;
    answer.into_http().map_err(|error| CallError::Transport(error.to_string()))
}

/// The end of an answer at the caller's host.
pub struct Inlet {
    pub nats: async_nats::Client,
    /// The way the call took.
    pub subject: String,
    /// The invocation.
    pub id: String,
    /// The host that answers, if it proves its pieces.
    pub member: Option<(Sessions, Arc<str>)>,
}

/// An inlet, and the number of the next piece; nothing after the last one.
type Reading = (Inlet, Option<u64>);

impl Inlet {
    /// Returns the body; each piece is asked for when it is wanted.
    pub fn body(self) -> Body {
        StreamBody::new(stream::try_unfold((self, Some(0)), next_frame)).boxed_unsync()
    }

    /// Asks for a piece until the other host answers.
    async fn ask(&self, number: u64) -> Result<Bytes, BodyError> {
        let mut heard_at = Instant::now();
        loop {
            let asked_at = Instant::now();
            let mut headers = HeaderMap::new();
            headers.insert(wire::NEXT, self.id.as_str());
            headers.insert(wire::NUMBER, number.to_string());
            let question = self.prove(&mut headers, number);
            let wait = QUIET_MAX + ON_THE_WAY_MAX;
            let request = Request::new().headers(headers).payload(Bytes::new()).timeout(Some(wait));
            let asked = self.nats.send_request(self.subject.clone(), request);
            let why = match timeout(wait, asked).await {
                Ok(Ok(reply)) if !self.is_its_own(question, &reply) => "proves nothing",
                Ok(Ok(reply)) if *reply.payload == [MORE] => {
                    heard_at = Instant::now();
                    if asked_at.elapsed() < PAUSE {
                        sleep(PAUSE).await;
                    }
                    continue;
                }
                Ok(Ok(reply)) => return Ok(reply.payload),
                Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => "is gone",
                Ok(Err(_)) | Err(_) => "fell silent",
            };
            if heard_at.elapsed() >= SILENCE_MAX {
                return Err(BodyError::Broken(format!("the host that answers {why}")));
            }
            sleep(PAUSE).await;
        }
    }

    /// Adds the proof to a question, if the other host is a member whose key is known.
    fn prove(&self, headers: &mut HeaderMap, number: u64) -> Option<Question> {
        let (sessions, host) = self.member.as_ref()?;
        let Standing::Member(Some(session)) = sessions.standing(host) else { return None };
        Some(Question::write(sessions, session, headers, (&self.id, Some(number))))
    }

    /// Says whether a piece is that of the host that answers.
    fn is_its_own(&self, question: Option<Question>, reply: &Message) -> bool {
        match (&self.member, question) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(_), Some(question)) => question.is_answered_by(&self.id, reply),
        }
    }
}

async fn next_frame(
    (inlet, number): Reading,
) -> Result<Option<(Frame<Bytes>, Reading)>, BodyError> {
    let Some(number) = number else { return Ok(None) };
    let reply = inlet.ask(number).await?;
    match reply.first() {
        Some(&MORE) => Ok(Some((Frame::data(reply.slice(1..)), (inlet, Some(number + 1))))),
        Some(&END) => Ok(Some((Frame::data(reply.slice(1..)), (inlet, None)))),
        Some(&BROKEN) => Err(BodyError::Broken(String::from_utf8_lossy(&reply[1..]).into_owned())),
        _ => Err(BodyError::Broken("the host that answers knows nothing of it".to_owned())),
    }
}

/// The answers of this host that go out in pieces, by invocation: where the questions for them go.
#[derive(Default)]
pub struct Outlets(Mutex<HashMap<String, Asker>>);

/// The caller of an answer.
struct Asker {
    questions: mpsc::Sender<Asked>,
    /// The member that made the call, if it proved that; nobody else may ask.
    host: Option<Arc<str>>,
}

/// A question for a piece, and its proof.
pub struct Asked {
    /// The invocation.
    id: String,
    message: Message,
    proven: Option<Proven>,
}

impl Asked {
    /// Answers with a piece. One that is lost is asked for again.
    async fn answer(&self, context: &HostContext, piece: Bytes) {
        let Self { id, message, proven } = self;
        let Some(reply) = &message.reply else { return };
        let seal = proven.as_ref().map_or(Seal::Plain, Proven::seal);
        let headers = seal.headers(&context.sessions, id, None, &piece);
        let HostContext { rpc, answers, .. } = context;
        let _ = answers.send_with(&rpc.client, reply, headers, piece, REPLY_TIMEOUT).await;
    }
}

impl Outlets {
    /// Takes the questions for an invocation of this member, or of anybody, from now on; nothing if
    /// another call has its id.
    pub fn open(self: &Arc<Self>, id: &str, host: Option<Arc<str>>) -> Option<Questions> {
        let (questions, received) = mpsc::channel(QUESTIONS_MAX);
        match self.0.lock().entry(id.to_owned()) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(vacant) => vacant.insert(Asker { questions, host }),
        };
        Some(Questions { received, outlets: Arc::clone(self), id: id.to_owned() })
    }

    /// Passes a question on; says whether there is such an answer.
    pub fn ask(&self, id: &str, message: &Message, proven: Option<Proven>) -> bool {
        let outlets = self.0.lock();
        let Some(Asker { questions, host }) = outlets.get(id) else { return false };
        let is_its_own = match (host, &proven) {
            (None, _) => true,
            (Some(host), Some(proven)) => proven.session.host == *host,
            (Some(_), None) => false,
        };
        if is_its_own {
            // One that finds no room is asked again.
            let _ =
                questions.try_send(Asked { id: id.to_owned(), message: message.clone(), proven });
        }
        true
    }
}

/// The questions for one answer; they come as long as this lives.
pub struct Questions {
    received: mpsc::Receiver<Asked>,
    outlets: Arc<Outlets>,
    id: String,
}

impl Drop for Questions {
    fn drop(&mut self) {
        self.outlets.0.lock().remove(&self.id);
    }
}

/// The end of an answer at the callee's host.
pub struct Outlet {
    pub ongoing: Ongoing,
    /// The questions of the caller's host.
    pub questions: Questions,
    pub chain: Chain,
    pub deadline: Instant,
    /// How long the answer may pause.
    pub pause_max: Duration,
    pub context: Arc<HostContext>,
}

/// The part of an answer that is there, and has not been asked for.
#[derive(Default)]
struct Unsent {
    data: Bytes,
    failure: Option<CallError>,
}

impl Outlet {
    /// Answers for one piece after the other, until the last one is there or nobody asks any more.
    pub async fn serve(mut self) {
        let message_max = self.context.rpc.client.max_payload();
        let piece_max = PIECE_MAX.min(message_max.saturating_sub(HEAD_BYTES)).max(1);
        let (mut next, mut unsent, mut asked) = (0, Unsent::default(), None);
        // It is sent again if its answer was lost.
        let mut last = Bytes::new();
        loop {
            let Ok(Some(question)) = timeout(SILENCE_MAX, self.questions.received.recv()).await
            else {
                return;
            };
            match number_of(&question.message) {
                Some(number) if number == next => {}
                Some(number) if number.checked_add(1) == Some(next) => {
                    question.answer(&self.context, last.clone()).await;
                    continue;
                }
                _ => {
                    question.answer(&self.context, Bytes::from_static(wire::UNKNOWN)).await;
                    continue;
                }
            }
            if asked.replace(next) != Some(next) {
                // The caller has taken the piece before, and waits for this one from now on.
                self.chain.go_on_until(Instant::now() + self.pause_max, self.deadline);
            }
            let piece = match timeout(QUIET_MAX, self.piece(&mut unsent, piece_max)).await {
                Err(_) => {
                    question.answer(&self.context, Bytes::from_static(&[MORE])).await;
                    continue;
                }
                Ok(piece) => piece,
            };
            (last, next) = (piece, next + 1);
            question.answer(&self.context, last.clone()).await;
            if last.first() != Some(&MORE) {
                return self.end(next, last).await;
            }
        }
    }

    /// The next piece as it is sent, with all that is there already. Safe to drop.
    async fn piece(&mut self, unsent: &mut Unsent, piece_max: usize) -> Bytes {
        if let Some(error) = unsent.failure.take() {
            return broken(&error, piece_max);
        }
        if unsent.data.is_empty() {
            match self.ongoing.next(self.pause_max).await {
                Ok(Some(data)) => unsent.data = data,
                Ok(None) => return Bytes::from_static(&[END]),
                Err(error) => return broken(&error, piece_max),
            }
        }
        let mut piece = BytesMut::with_capacity(1 + unsent.data.len().min(piece_max));
        piece.put_u8(MORE);
        loop {
            let room = piece_max + 1 - piece.len();
            piece.put(unsent.data.split_to(unsent.data.len().min(room)));
            if piece.len() > piece_max {
                break;
            }
            match self.ongoing.next(self.pause_max).now_or_never() {
                Some(Ok(Some(data))) => unsent.data = data,
                Some(Ok(None)) => {
                    piece[0] = END;
                    break;
                }
                Some(Err(error)) => {
                    unsent.failure = Some(error);
                    break;
                }
                None => break,
            }
        }
        piece.freeze()
    }

    /// Lets the callee finish, and sends the last piece again if it was lost.
    async fn end(self, next: u64, last: Bytes) {
        let Self { ongoing, mut questions, context, .. } = self;
        let again = async {
            while let Some(question) = questions.received.recv().await {
                let number = number_of(&question.message);
                if number.and_then(|number| number.checked_add(1)) == Some(next) {
                    question.answer(&context, last.clone()).await;
                }
            }
        };
        if let (Err(error), _) = tokio::join!(ongoing.finish(), timeout(LAST_KEPT, again)) {
            debug!(%error, "a call failed after its answer");
        }
    }
}

pub fn number_of(question: &Message) -> Option<u64> {
    question.headers.as_ref()?.get(wire::NUMBER)?.as_str().parse().ok()
}

fn broken(error: &CallError, piece_max: usize) -> Bytes {
    let (mut piece, text) = (BytesMut::new(), error.to_string());
    piece.put_u8(BROKEN);
    piece.put(&text.as_bytes()[..text.floor_char_boundary(piece_max)]);
    piece.freeze()
}

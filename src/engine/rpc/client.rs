//! Calls that leave the process: signed, published, awaited.
//!
//! A host proves a call to another one by their session, and accepts no answer that is not proven
//! ([`proof`](super::proof)); everybody else signs each call with the cluster's key.
//!
//! A call ends in one of four ways: the callee's result, the callee's error, nobody listening, or
//! the deadline. No wait is without one.

mod answered;
mod headers;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{HeaderMap, Message, Request, RequestErrorKind, connection::State};
use bytes::Bytes;
use hyper::Response;
use tokio::time::Instant;
use tracing::debug;
use uuid::Uuid;

use super::{
    call::{Call, CallError, Chain, TRANSFERS_MAX},
    chunking::{ChunkError, Chunks, PayloadName, Reader, threshold},
    exchange::{self, Body},
    limits::Limits,
    pieces::{self, Form, Inlet},
    proof::{Proof, Question, Verdict},
};
use crate::peers::{
    refusals::Refusal,
    sessions::{Sessions, Standing},
    words,
};
use answered::{Answered, Sent, read, with_error};
use headers::headers;
use lattice_protocol::{
    identity::{
        claims::now,
        keys::{HostId, LinkName, ProviderId},
    },
    lattice::subject::{Subjects, is_token},
    peers::{session::Bytes32, wire},
    rpc::{
        antiforgery::Signer,
        codec,
        invocation::{Entity, Invocation},
    },
};

/// How long to wait for a sign that somebody listens for a call with a large payload; that nobody
/// does is known at once.
const LISTENER_TIMEOUT: Duration = Duration::from_millis(250);

/// Sends calls to actors and providers anywhere in the lattice. Cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    nats: async_nats::Client,
    subjects: Subjects,
    signer: Signer,
    chunks: Chunks,
    host_id: HostId,
    /// Those of a host; a client that is none has none.
    sessions: Option<Sessions>,
}

impl Client {
    /// Makes a client that signs each call.
    pub fn new(
        nats: async_nats::Client,
        subjects: Subjects,
        signer: Signer,
        chunks: Chunks,
        host_id: HostId,
    ) -> Self {
        Self(Arc::new(Inner { nats, subjects, signer, chunks, host_id, sessions: None }))
    }

    /// Makes the client of a host, which has sessions with others.
    pub fn of_host(
        nats: async_nats::Client,
        subjects: Subjects,
        signer: Signer,
        chunks: Chunks,
        host_id: HostId,
        sessions: Sessions,
    ) -> Self {
        let sessions = Some(sessions);
        Self(Arc::new(Inner { nats, subjects, signer, chunks, host_id, sessions }))
    }

    /// Performs a call and waits for its result until its deadline, and longer by the time that a
    /// large payload travels. It goes to whoever is in the target's queue group, or to one `host`.
    /// `id` is the invocation's, and must be new; `sent` tells whether it is with the callee.
    pub async fn invoke(
        &self,
        call: Call,
        host: Option<&str>,
        id: String,
        sent: &AtomicBool,
    ) -> Result<Bytes, CallError> {
        self.perform(call, host, id, None, sent).await
    }

    /// The same for a call that somebody else has signed, under this `id`.
    pub async fn invoke_signed(
        &self,
        call: Call,
        host: Option<&str>,
        id: String,
        encoded_claims: String,
        sent: &AtomicBool,
    ) -> Result<Bytes, CallError> {
        self.perform(call, host, id, Some(encoded_claims), sent).await
    }

    /// Performs a call. The parts that few calls need are in boxes: the future of a call is moved
    /// into one of its own, and had thirty kilobytes with the transfers of large payloads in it.
    async fn perform(
        &self,
        call: Call,
        host: Option<&str>,
        id: String,
        token: Option<String>,
        sent: &AtomicBool,
    ) -> Result<Bytes, CallError> {
        let inner = &*self.0;
        let sessions = inner.sessions.as_ref().filter(|_| token.is_none());
        let proof = Proof::of(sessions, host);
        let subject = inner.subject(&call.target, host)?;
        let content_length = call.payload.len() as u64;
        let chunked = inner.chunks.is_needed(call.payload.len());
        let (chain, deadline) = (call.chain.clone(), call.deadline);
        if chunked && host.is_none() {
            Box::pin(inner.check_listener(&call.target, &subject)).await?;
        }
        let time = Time { subject: &subject, chain: &chain, deadline, began: Instant::now() };
        // Until there is an answer: the callee fetches what was stored, and that time does not
        // count either.
        let transfer = chunked.then(|| chain.transfer());
        let payload = call.payload;
        // Removed at the end of this call, whatever that is, if the callee has not done so.
        let (msg, _stored) = if chunked {
            let name = PayloadName::of_call(&id).map_err(transport)?;
            let put = inner.chunks.put(name, &payload, &call.origin.public_key);
            (Bytes::new(), Some(Box::pin(inner.in_time(&time, put)).await?))
        } else {
            (payload.clone(), None)
        };
        let stored_in = if chunked { time.began.elapsed() } else { Duration::ZERO };
        let limits = is_told_limits(&chain, &call.target, host)
            .then(|| Limits::of(&chain, deadline + stored_in));
        // Hosts that are chosen are of this make. Pieces have no signatures.
        let exchange =
            call.exchange.filter(|_| host.is_some() && !matches!(proof, Proof::SignedAnswer(_)));
        let host_id = inner.host_id.to_string();
        let invocation = Invocation {
            encoded_claims: token.unwrap_or_default(),
            content_length,
            trace_context: call.trace,
            ..Invocation::new(call.origin, call.target, call.operation, msg, id, host_id)
        };
        let takes_pieces = exchange.is_some();
        let mut outgoing = Outgoing { invocation, payload, chunked, limits, takes_pieces, proof };
        let ends_at = match chunked {
            true => deadline + TRANSFERS_MAX + chain.prolonged(),
            false => chain.ends_at(deadline),
        };
        let asked = Instant::now();
        let response =
            inner.deliver(&Way { subject: &subject, ends_at, sent }, &mut outgoing).await?;
        chain.add_transfer(stored_in);
        // A host tells how long its part took, of others it is guessed by how long storing took.
        chain.add_transfer(response.transfers.unwrap_or(stored_in).min(asked.elapsed()));
        drop(transfer);
        let form = response.form;
        let result = inner.result(&time, &outgoing, response).await?;
        let (Some(exchange), Some(form)) = (exchange, form) else { return Ok(result) };
        exchange.answer(inner.begun((&result, form), &subject, outgoing)?);
        Ok(Bytes::new())
    }

    /// Where calls of a target go: to its queue group, or to one `host`.
    pub fn subject(&self, target: &Entity, host: Option<&str>) -> Result<String, CallError> {
        self.0.subject(target, host)
    }

    /// The error of a call that had no answer in time.
    pub fn timed_out(&self, subject: &str, waited: Duration) -> CallError {
        self.0.timed_out(subject, waited)
    }

    /// Whether answers that nothing proves are refused, whoever gives them.
    pub fn requires_signed(&self) -> bool {
        self.0.sessions.as_ref().is_some_and(Sessions::requires_signed)
    }

    /// Whether a payload of this size travels apart from its call.
    pub fn travels_apart(&self, bytes: usize) -> bool {
        self.0.chunks.is_needed(bytes)
    }

    /// Asks a host for an invocation that was sent to it before, on the way the invocation took.
    pub async fn ask(&self, call: &Call, host: &str, id: &str, timeout: Duration) -> Answer {
        let Ok(subject) = self.0.subject(&call.target, Some(host)) else { return Answer::Silence };
        let mut headers = HeaderMap::new();
        headers.insert(wire::ASK, id);
        let proof =
            match self.0.sessions.as_ref().map(|sessions| (sessions, sessions.standing(host))) {
                Some((sessions, Standing::Member(Some(session)))) => {
                    Some(Question::write(sessions, session, &mut headers, (id, None)))
                }
                // Nothing that it said could be believed before its key is known.
                Some((_, Standing::Member(None))) => return Answer::CutOff,
                Some((_, Standing::Unsigned)) | None => None,
            };
        let request = Request::new().headers(headers).payload(Bytes::new()).timeout(Some(timeout));
        let is_its_own = |reply: &Message| match &proof {
            Some(question) => question.is_answered_by(id, reply),
            None => true,
        };
        self.0.question((host, subject), request, timeout, is_its_own).await
    }

    /// Asks a host whether it is there.
    pub async fn look_for(&self, host: &str, timeout: Duration) -> Answer {
        let sessions = self.0.sessions.as_ref().filter(|sessions| sessions.is_member(host));
        let nonce = words::nonce();
        let mut request = Request::new().payload(Bytes::new()).timeout(Some(timeout));
        if sessions.is_some() {
            request = request.headers(words::question(&nonce));
        }
        let is_its_own = |reply: &Message| match sessions {
            Some(sessions) => words::is_answer_of(sessions, host, &reply.payload, &nonce),
            None => true,
        };
        let subject = self.0.subjects.host(host);
        self.0.question((host, subject), request, timeout, is_its_own).await
    }
}

/// The outcome of a question to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The host is there and, if it was asked for an invocation, works on it.
    InWork,
    /// The host knows nothing of the invocation: it never came, or its answer is lost.
    Unknown,
    /// Nobody listens there: the host is gone, or cut off.
    Gone,
    /// No answer in time.
    Silence,
    /// This host could not ask, or somebody else answered.
    CutOff,
}

/// A new id for an invocation.
pub fn new_id() -> String {
    Uuid::new_v4().to_string()
}

impl Inner {
    fn subject(&self, target: &Entity, host: Option<&str>) -> Result<String, CallError> {
        // The target may have been named by a guest, and the host by a peer.
        for token in [Some(&*target.public_key), host].into_iter().flatten() {
            if !is_token(token) {
                return Err(CallError::Transport(format!(
                    "{token:?} is no public key, so nothing can be sent there"
                )));
            }
        }
        let subject = if target.is_actor() {
            self.subjects.actor(&target.public_key)
        } else {
            let provider = ProviderId::parse(&target.public_key).map_err(transport)?;
            let link = LinkName::parse(&target.link_name).map_err(transport)?;
            self.subjects.provider(&provider, &link)
        };
        Ok(host.map(|host| Subjects::on_host(&subject, host)).unwrap_or(subject))
    }

    fn is_connected(&self) -> bool {
        self.nats.connection_state() == State::Connected
    }

    /// Asks a host; an answer that is not `its_own` says nothing.
    async fn question(
        &self,
        (host, subject): (&str, String),
        request: Request,
        timeout: Duration,
        is_its_own: impl Fn(&Message) -> bool,
    ) -> Answer {
        let was_connected = self.is_connected();
        // The request's own timeout begins when the connection has taken it, so there is one around
        // it.
        match tokio::time::timeout(timeout, self.nats.send_request(subject, request)).await {
            Ok(Ok(reply)) if !is_its_own(&reply) => {
                if let Some(sessions) = &self.sessions {
                    // It may have been started again.
                    sessions.want(host);
                }
                Answer::CutOff
            }
            Ok(Ok(reply)) if &*reply.payload == wire::UNKNOWN => Answer::Unknown,
            Ok(Ok(_)) => Answer::InWork,
            Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => Answer::Gone,
            Ok(Err(_)) | Err(_) if was_connected && self.is_connected() => Answer::Silence,
            Ok(Err(_)) | Err(_) => Answer::CutOff,
        }
    }

    /// Waits for a transfer through the object store while its call has time.
    async fn in_time<T>(
        &self,
        time: &Time<'_>,
        transfer: impl Future<Output = Result<T, ChunkError>>,
    ) -> Result<T, CallError> {
        let done = time.chain.within(time.deadline, transfer).await;
        done.ok_or_else(|| self.timed_out(time.subject, time.began.elapsed()))?.map_err(of_transfer)
    }

    /// The result that an answer has, or that travelled apart from it.
    async fn result(
        &self,
        time: &Time<'_>,
        outgoing: &Outgoing,
        response: Answered,
    ) -> Result<Bytes, CallError> {
        let Answered { msg, error, content_length, hash, .. } = response;
        match error {
            Some(error) => Err(CallError::Callee(error)),
            None if content_length <= msg.len() as u64 => Ok(msg),
            None => Box::pin(self.fetch_result(time, outgoing, (content_length, hash))).await,
        }
    }

    /// Fetches a result that travelled apart from its answer.
    async fn fetch_result(
        &self,
        time: &Time<'_>,
        outgoing: &Outgoing,
        (bytes, hash): (u64, Option<Bytes32>),
    ) -> Result<Bytes, CallError> {
        let Outgoing { invocation, proof, .. } = outgoing;
        let transfer = time.chain.transfer();
        let mut hasher = blake3::Hasher::new();
        let name = PayloadName::of_answer(&invocation.id).map_err(transport)?;
        let reader = if invocation.origin.is_actor() { Reader::Actor } else { Reader::Provider };
        let seen = |piece: &[u8]| {
            hasher.update(piece);
        };
        let fetched = self.in_time(time, self.chunks.fetch(name, bytes, reader, seen)).await?;
        if !matches!(proof, Proof::Token) && hash.is_none_or(|hash| hasher.finalize() != hash) {
            return Err(self.unproven(time.subject, outgoing, "its payload is another one"));
        }
        transfer.succeeded();
        Ok(fetched.remove().await)
    }

    /// Reads an answer that has begun: its head, and the body that comes with it or piece by piece.
    fn begun(
        &self,
        (head, form): (&[u8], Form),
        subject: &str,
        outgoing: Outgoing,
    ) -> Result<Response<Body>, CallError> {
        let Outgoing { invocation, proof, .. } = outgoing;
        Ok(pieces::read(head)?.map(|body| match form {
            Form::Whole => exchange::whole(body),
            Form::Pieces => {
                let (nats, subject) = (self.nats.clone(), subject.to_owned());
                let member = match (proof, &self.sessions) {
                    (Proof::Session(session), Some(sessions)) => {
                        Some((sessions.clone(), Arc::clone(&session.host)))
                    }
                    _ => None,
                };
                Inlet { nats, subject, id: invocation.id, member }.body()
            }
        }))
    }

    /// Sends a call and waits for its answer; once more with a token, if the callee does not know
    /// the session.
    async fn deliver(&self, way: &Way<'_>, outgoing: &mut Outgoing) -> Result<Answered, CallError> {
        if !matches!(outgoing.proof, Proof::Session(_)) {
            self.sign(outgoing);
        }
        loop {
            let session = match self.send(way, outgoing).await? {
                Sent::Answered(answered) => return Ok(answered),
                Sent::NotDone(session) => session,
            };
            debug!(host_id = %session.host, subject = way.subject, "a call is made again with a token: its session is unknown there");
            if let Some(sessions) = &self.sessions {
                sessions.doubt(&session);
            }
            // To a call with a token nobody can say that its session is unknown.
            outgoing.proof = Proof::SignedAnswer(Some(Arc::clone(&session.host)));
            outgoing.takes_pieces = false;
            self.sign(outgoing);
        }
    }

    /// Gives a call its token, unless it has one.
    fn sign(&self, outgoing: &mut Outgoing) {
        let Outgoing { invocation, payload, .. } = outgoing;
        if invocation.encoded_claims.is_empty() {
            let Invocation { origin, target, operation, id, .. } = &*invocation;
            let token = self.signer.sign(origin, target, operation, payload, id, now());
            invocation.encoded_claims = token;
        }
    }

    /// Sends a call and waits for its answer.
    async fn send(&self, way: &Way<'_>, outgoing: &Outgoing) -> Result<Sent, CallError> {
        let Way { subject, ends_at, sent } = *way;
        let Outgoing { invocation, payload, chunked, limits, takes_pieces, proof } = outgoing;
        let began = Instant::now();
        let body = codec::encode_invocation(invocation);
        let mut headers = headers(&invocation.trace_context, *limits, *takes_pieces);
        let hash = || chunked.then(|| blake3::hash(payload).into());
        let call = (&*invocation.id, &body);
        let sessions = self.sessions.as_ref();
        let asked = sessions.and_then(|sessions| proof.write(sessions, &mut headers, call, hash));
        // A timeout of its own would begin when the connection has taken it, which may be never.
        let mut request = Request::new().payload(body).timeout(None);
        if !headers.is_empty() {
            request = request.headers(headers);
        }
        sent.store(true, Ordering::Release);
        let answered =
            tokio::time::timeout_at(ends_at, self.nats.send_request(subject.to_owned(), request))
                .await;
        sent.store(false, Ordering::Release);
        let Ok(answered) = answered else { return Err(self.timed_out(subject, began.elapsed())) };
        let reply = match answered {
            Ok(reply) => reply,
            Err(error) => {
                debug!(subject, invocation_id = %invocation.id, %error, "call without a reply");
                return Err(match error.kind() {
                    RequestErrorKind::NoResponders => self.nobody(&invocation.target, subject),
                    RequestErrorKind::TimedOut => self.timed_out(subject, began.elapsed()),
                    _ => transport(error),
                });
            }
        };
        let hash = match (asked.map(|asked| asked.judge(&reply)), proof) {
            (None, _) => None,
            (Some(Verdict::Proven(hash)), _) => hash,
            (Some(Verdict::NotDone), Proof::Session(session)) => {
                return Ok(Sent::NotDone(Arc::clone(session)));
            }
            (Some(Verdict::NotDone), _) => {
                return Err(self.unproven(subject, outgoing, "it answers another call"));
            }
            (Some(Verdict::Unproven(why)), _) => {
                return Err(self.unproven(subject, outgoing, &with_error(why, reply.payload)));
            }
        };
        read(reply, subject, invocation, hash).map(Sent::Answered)
    }

    /// The error of a call whose answer nothing proves to be the callee's. What became of the call
    /// is unknown.
    fn unproven(&self, subject: &str, outgoing: &Outgoing, why: &str) -> CallError {
        let Outgoing { invocation, proof, .. } = outgoing;
        let host = match proof {
            Proof::Session(session) => Some(&session.host),
            Proof::SignedAnswer(host) => host.as_ref(),
            Proof::Token => None,
        };
        let whose = match host {
            Some(host) => format!("host {host}"),
            None => "a host that signs its answers (require_signed_answers)".to_owned(),
        };
        if let Some(sessions) = &self.sessions {
            sessions.refuse(Refusal::Answer, host.map_or("", |host| host), why);
        }
        CallError::OutcomeUnknown {
            operation: invocation.operation.clone(),
            target: invocation.target.public_key.to_string(),
            cause: format!("the answer on {subject} is not that of {whose}: {why}"),
        }
    }

    /// Refuses a call that nobody listens for, before its payload is stored. A provider is asked
    /// for its health and an actor for an invocation that nobody made; only that somebody hears it
    /// counts, not the answer.
    async fn check_listener(&self, target: &Entity, subject: &str) -> Result<(), CallError> {
        let (asked, mut headers) = match target.is_actor() {
            true => (subject.to_owned(), HeaderMap::new()),
            false => (format!("{subject}.health"), HeaderMap::new()),
        };
        headers.insert(wire::ASK, "nobody");
        let request =
            Request::new().headers(headers).payload(Bytes::new()).timeout(Some(LISTENER_TIMEOUT));
        match tokio::time::timeout(LISTENER_TIMEOUT, self.nats.send_request(asked, request)).await {
            Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {
                Err(self.nobody(target, subject))
            }
            _ => Ok(()),
        }
    }

    fn nobody(&self, target: &Entity, subject: &str) -> CallError {
        CallError::NoResponders {
            subject: subject.to_owned(),
            lattice: self.subjects.lattice().to_string(),
            target: target.public_key.to_string(),
        }
    }

    fn timed_out(&self, subject: &str, waited: Duration) -> CallError {
        CallError::TimedOut {
            subject: subject.to_owned(),
            lattice: self.subjects.lattice().to_string(),
            waited_ms: waited.as_millis(),
        }
    }
}

fn transport(error: impl ToString) -> CallError {
    CallError::Transport(error.to_string())
}

/// The error of a call whose payload did not get into the object store or out of it. It is too
/// large only where there is no store: one that fails now may take it later.
fn of_transfer(error: ChunkError) -> CallError {
    match error {
        ChunkError::Store { max_payload, is_absent: true, .. } => CallError::TooLarge {
            cause: error.to_string(),
            bytes_max: threshold(max_payload) as u64,
        },
        error => transport(error),
    }
}

/// The time a call has for its payloads.
struct Time<'a> {
    /// Where it goes, for the error of one that is late.
    subject: &'a str,
    chain: &'a Chain,
    deadline: Instant,
    began: Instant,
}

/// How an invocation travels.
struct Way<'a> {
    subject: &'a str,
    /// When its answer is waited for no longer.
    ends_at: Instant,
    /// Whether it is with the callee.
    sent: &'a AtomicBool,
}

/// A call as it is sent.
struct Outgoing {
    invocation: Invocation,
    /// The whole argument, which may travel apart.
    payload: Bytes,
    chunked: bool,
    limits: Option<Limits>,
    takes_pieces: bool,
    proof: Proof,
}

/// Whether the callee of a call is told its [`Limits`]: hosts are, for calls that others wait for.
/// A provider of other makers has no use for them.
fn is_told_limits(chain: &Chain, target: &Entity, host: Option<&str>) -> bool {
    chain.waiting() > 0 && (target.is_actor() || host.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_too_large_only_where_there_is_no_store_for_it() {
        let error = |is_absent| {
            let [bucket, cause] = ["default", "x"].map(str::to_owned);
            let (bytes, max_payload) = (50_000, 64 << 10);
            of_transfer(ChunkError::Store { bytes, max_payload, is_absent, bucket, cause })
        };
        let absent = error(true);
        assert!(matches!(absent, CallError::TooLarge { bytes_max: 40_960, .. }), "{absent}");
        assert!(matches!(error(false), CallError::Transport(_)));
    }
}

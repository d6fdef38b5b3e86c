//! One call: its proof is checked, then it is performed, and its answer proven.

use std::{borrow::Cow, sync::Arc, time::Duration};

use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{Arrived, Handler, Inner, Way, has, is_usual, not_admitted};
use crate::{
    host_context::HostContext,
    peers::refusals,
    rpc::{
        call::{Call, CallError, Chain},
        chunking::{BadName, ChunkError, PayloadName, Reader},
        exchange::{self, Begun, Exchange, Running},
        limits::{Limits, tell_transfers},
        pieces::{self, Form, Outlet},
        proof::{Claim, Proven, Seal},
    },
};
use lattice_base::lattice::answers::Unsent;
use lattice_protocol::{
    identity::claims::now,
    peers::{session::Bytes32, wire},
    rpc::{
        antiforgery::{self, Checked, ForgeryError, check_target},
        codec,
        invocation::{Invocation, InvocationResponse, TraceContext, dispatch_operation},
        window::Untimely,
    },
};

/// How long handing a reply to the connection may take; it only waits when the server is away.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// A call that began on this host and came back over NATS counts as made by a waiting one.
const DEPTH_OF_OWN: u8 = 1;

/// Why an invocation is refused. The texts go back to the caller.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Forged(#[from] ForgeryError),
    #[error(transparent)]
    Untimely(#[from] Untimely),
    #[error(transparent)]
    Name(#[from] BadName),
    #[error("the payload did not arrive from the object store in time")]
    TimedOut,
    #[error(transparent)]
    Payload(#[from] ChunkError),
    #[error("the payload is not the one that the calling host sent")]
    OtherPayload,
}

/// Why a large result does not reach its caller. The texts do.
#[derive(Debug, thiserror::Error)]
enum ResultLost {
    #[error(transparent)]
    Name(#[from] BadName),
    #[error(transparent)]
    Store(#[from] ChunkError),
    #[error("the object store did not take the result in time; is JetStream reachable?")]
    TimedOut,
}

/// Performs a call; of a caller that takes pieces, until its answer has begun.
async fn answered(
    mut call: Call,
    takes_pieces: bool,
    handler: Arc<dyn Handler>,
) -> Result<Begun, CallError> {
    if !takes_pieces {
        return handler.handle(call).await.map(Begun::Payload);
    }
    let (exchange, answer) = Exchange::new(None);
    call.exchange = Some(exchange);
    exchange::begin(handler.handle(call), answer).await
}

/// The answer to a call.
pub(super) struct Answer {
    response: InvocationResponse,
    /// How it is proven.
    seal: Seal,
    /// The hash of a result that travels apart, if the answer is to be proven.
    hash: Option<Bytes32>,
    /// The rest of the call.
    left: Option<Left>,
}

impl From<InvocationResponse> for Answer {
    /// Answers without a proof.
    fn from(response: InvocationResponse) -> Self {
        Self { response, seal: Seal::Plain, hash: None, left: None }
    }
}

/// The hash of a payload that arrives, and what it has to be.
enum Arriving<'a> {
    Token(&'a Checked, antiforgery::Arriving),
    Session(Box<blake3::Hasher>, Option<Bytes32>),
}

impl<'a> Arriving<'a> {
    fn of_token(checked: &'a Checked) -> Self {
        Self::Token(checked, checked.arriving())
    }

    fn of_session(proven: &Proven) -> Self {
        Self::Session(Box::default(), proven.hash)
    }

    fn update(&mut self, piece: &[u8]) {
        match self {
            Self::Token(_, arriving) => arriving.update(piece),
            Self::Session(hasher, _) => drop(hasher.update(piece)),
        }
    }

    /// Checks that the whole payload arrived as it was sent.
    fn verify(self) -> Result<(), Refusal> {
        match self {
            Self::Token(checked, arriving) => Ok(checked.verify_arrived(arriving)?),
            Self::Session(hasher, Some(expected)) if hasher.finalize() == expected => Ok(()),
            Self::Session(..) => Err(Refusal::OtherPayload),
        }
    }
}

/// The rest of a call whose answer has begun.
pub(super) enum Left {
    /// Its callee has something to do.
    Running(Running),
    /// The pieces of its answer are asked for.
    Pieces(Box<Outlet>),
}

impl Left {
    pub(super) async fn serve(self) {
        match self {
            Self::Pieces(outlet) => outlet.serve().await,
            Self::Running(running) => {
                if let Err(error) = running.await {
                    debug!(%error, "a call failed after its answer");
                }
            }
        }
    }
}

impl Inner {
    /// Sends an answer; returns the rest of the call.
    pub(super) async fn reply(
        &self,
        reply: Option<async_nats::Subject>,
        answer: Answer,
    ) -> Option<Left> {
        let Answer { response, seal, hash, left } = answer;
        if let Some(reply) = reply {
            let context = &self.parts.context;
            let payload = fitting(&response, context.rpc.client.max_payload());
            let id = &response.invocation_id;
            let headers = seal.headers(&context.sessions, id, hash.as_ref(), &payload);
            self.send(reply, headers, payload, id).await;
        }
        left
    }

    pub(super) async fn send(
        &self,
        reply: async_nats::Subject,
        headers: HeaderMap,
        payload: Bytes,
        invocation_id: &str,
    ) {
        let HostContext { rpc, answers, .. } = &*self.parts.context;
        let nats = &rpc.client;
        match answers.send_with(nats, &reply, headers, payload, REPLY_TIMEOUT).await {
            Ok(()) | Err(Unsent::Refused) => {}
            Err(error) => warn!(invocation_id, %error, "reply lost"),
        }
    }

    /// Checks the proof of a call before anything else is done with it, and performs it unless it
    /// is refused. Nothing is answered where an answer could be taken for that to another call. The
    /// parts that few calls need are in boxes, here and below: each call moves this into a task.
    pub(super) async fn take_in(
        &self,
        invocation: Invocation,
        refusal: Option<Cow<'static, str>>,
        Arrived { message, way, in_flight }: Arrived<'_>,
        target: &str,
        handler: Arc<dyn Handler>,
    ) -> Option<Answer> {
        let (sessions, id) = (&self.parts.context.sessions, &invocation.id);
        let (seal, proven) = match Claim::of_call(sessions, message, (id, &invocation.host_id)) {
            Ok(Claim::Token(seal)) => (seal, None),
            Ok(Claim::Proven(proven)) => {
                self.note_caller(way, &invocation);
                (proven.seal(), Some(proven))
            }
            // One that has it in work knows it well.
            Ok(Claim::Unknown(_)) if self.is_repeated(id) => return None,
            Ok(Claim::Unknown(seal)) => {
                let text = "the session of the call is unknown here; make the call with a token";
                let response = InvocationResponse::failure(id, text);
                return Some(Answer { seal, ..response.into() });
            }
            Err(why) => {
                drop(in_flight.take());
                let (host, why) = (&invocation.host_id, why.to_string());
                sessions.refuse(refusals::Refusal::Call, host, &why);
                // Without a proof, or somebody could end the call that this one is a copy of.
                return Some(InvocationResponse::failure(id, why).into());
            }
        };
        if let Some(refusal) = refusal {
            let seal = self.seal_of_refusal(seal, proven.as_ref(), id);
            let response = not_admitted(target, invocation.id, refusal);
            return Some(Answer { seal, ..response.into() });
        }
        Some(self.perform(invocation, message, target, (way, handler), (seal, proven)).await)
    }

    /// Returns how the refusal of a call is proven: not at all where the call has a token and is in
    /// work a second time, or the refusal of a copy would be taken for the answer to the real one.
    fn seal_of_refusal(&self, seal: Seal, proven: Option<&Proven>, id: &str) -> Seal {
        match proven.is_none() && self.is_repeated(id) {
            true => Seal::Plain,
            false => seal,
        }
    }

    async fn perform(
        &self,
        invocation: Invocation,
        message: &Message,
        target: &str,
        (way, handler): (Way, Arc<dyn Handler>),
        (seal, proven): (Seal, Option<Proven>),
    ) -> Answer {
        let received = Instant::now();
        let id = invocation.id.clone();
        let limits = Limits::read(message.headers.as_ref());
        // The headers of a session are proven as far as they matter; its trace is in the call.
        let trace = if proven.is_none() { trace_of(message) } else { TraceContext::default() };
        let (times, callee) = ((limits, received), (target, way));
        let mut call = match self.verified(invocation, proven.as_ref(), callee, trace, times).await
        {
            Ok(call) => call,
            Err(reason) => {
                warn!(actor_id = target, invocation_id = %id, %reason, "invocation refused");
                let seal = match reason {
                    // The real call may be done, and its answer still on its way.
                    Refusal::Untimely(Untimely::Repeated) => Seal::Plain,
                    _ => self.seal_of_refusal(seal, proven.as_ref(), &id),
                };
                let response = InvocationResponse::failure(id, reason.to_string());
                return Answer { seal, ..response.into() };
            }
        };
        let takes_pieces = way == Way::Own && has(message, wire::PIECES) && is_usual(&id);
        if takes_pieces {
            call.chain = call.chain.with_pieces();
        }
        let (chain, deadline) = (call.chain.clone(), call.deadline);
        let answered = answered(call, takes_pieces, handler).await;
        let asker = proven.map(|proven| Arc::clone(&proven.session.host));
        let (payload, form, left) = match answered.and_then(|begun| {
            let pause_max = deadline.saturating_duration_since(received);
            self.taken_apart(begun, (&id, asker), (&chain, deadline, pause_max))
        }) {
            Ok(parts) => parts,
            Err(error) => {
                debug!(actor_id = target, invocation_id = %id, %error, "invocation failed");
                let response = InvocationResponse::failure(id, error.to_string());
                return Answer { seal, ..response.into() };
            }
        };
        let is_proven = !matches!(seal, Seal::Plain);
        let hash = (is_proven && self.parts.chunks.is_needed(payload.len()))
            .then(|| blake3::hash(&payload).into());
        let mut response = self.success(id, payload, target, (&chain, deadline)).await;
        if let Some(form) = form {
            form.tell(&mut response.trace_context);
        }
        let left = left.filter(|_| response.error.is_none());
        let hash = hash.filter(|_| response.error.is_none());
        Answer { response, seal, hash, left }
    }

    /// Returns what is sent of an answer now, in which form, and what is left of the call. From now
    /// on the caller may ask for the pieces.
    fn taken_apart(
        &self,
        begun: Begun,
        (id, asker): (&str, Option<Arc<str>>),
        (chain, deadline, pause_max): (&Chain, Instant, Duration),
    ) -> Result<(Bytes, Option<Form>, Option<Left>), CallError> {
        Ok(match begun {
            Begun::Payload(payload) => (payload, None, None),
            Begun::Whole(parts, body, running) => {
                (pieces::write(&parts, body), Some(Form::Whole), running.map(Left::Running))
            }
            Begun::Pieces(parts, ongoing) => {
                let questions = self.outlets.open(id, asker).ok_or_else(|| {
                    let text = format!("another call with the id {id} is being answered");
                    CallError::Transport(text)
                })?;
                let (chain, context) = (chain.clone(), Arc::clone(&self.parts.context));
                let outlet = Outlet { ongoing, questions, chain, deadline, pause_max, context };
                let head = pieces::write(&parts, Bytes::new());
                (head, Some(Form::Pieces), Some(Left::Pieces(Box::new(outlet))))
            }
        })
    }

    async fn verified(
        &self,
        invocation: Invocation,
        proven: Option<&Proven>,
        (target, way): (&str, Way),
        from_headers: TraceContext,
        (limits, received): (Limits, Instant),
    ) -> Result<Call, Refusal> {
        let context = &self.parts.context;
        let checked = match proven {
            Some(_) => None,
            None => {
                let checked = self.parts.verifier.verify_claims(&invocation, now())?;
                self.note_caller(way, &invocation);
                Some(checked)
            }
        };
        check_target(&invocation, target)?;
        let deadline = limits.deadline(received, context.rpc_timeout);
        let chain = Chain::of_waiting(limits.waiting);
        let payload = if invocation.is_chunked() {
            if let Some(checked) = &checked {
                context.tokens.check(checked.stamp(), context.state.uptime())?;
            }
            let arriving = match (proven, &checked) {
                (Some(proven), _) => Arriving::of_session(proven),
                (None, Some(checked)) => Arriving::of_token(checked),
                (None, None) => return Err(Refusal::OtherPayload),
            };
            Box::pin(self.fetch(&invocation, arriving, (&chain, deadline))).await?
        } else {
            if let Some(checked) = &checked {
                checked.verify_hash(&invocation.msg)?;
            }
            invocation.msg.clone()
        };
        // Only now: a changed call must not use up the token of the real one.
        if let Some(checked) = &checked {
            context.tokens.admit(checked.stamp(), context.state.uptime())?;
        }
        let trace = if invocation.trace_context.is_empty() {
            from_headers
        } else {
            invocation.trace_context
        };
        Ok(Call {
            operation: dispatch_operation(&invocation.operation).to_owned(),
            origin: invocation.origin,
            target: invocation.target,
            payload,
            trace,
            deadline,
            depth: if invocation.host_id == context.host_id.as_str() { DEPTH_OF_OWN } else { 0 },
            chain,
            exchange: None,
        })
    }

    /// Fetches the payload of an invocation from the object store, and checks it as it arrives.
    async fn fetch(
        &self,
        invocation: &Invocation,
        mut arriving: Arriving<'_>,
        (chain, deadline): (&Chain, Instant),
    ) -> Result<Bytes, Refusal> {
        let name = PayloadName::of_call(&invocation.id)?;
        let reader = if invocation.target.is_actor() { Reader::Actor } else { Reader::Provider };
        let transfer = chain.transfer();
        let fetch = self
            .parts
            .chunks
            .fetch(name, invocation.content_length, reader, |piece| arriving.update(piece));
        let fetched = chain.within(deadline, fetch).await.ok_or(Refusal::TimedOut)??;
        arriving.verify()?;
        transfer.succeeded();
        // Removed only now: a call made up by a stranger may name the payload of another.
        Ok(fetched.remove().await)
    }

    async fn success(
        &self,
        id: String,
        payload: Bytes,
        target: &str,
        (chain, deadline): (&Chain, Instant),
    ) -> InvocationResponse {
        let content_length = payload.len() as u64;
        let mut msg = payload;
        if self.parts.chunks.is_needed(msg.len()) {
            let stored = Box::pin(self.store(&id, &msg, target, (chain, deadline)));
            if let Err(error) = stored.await {
                warn!(invocation_id = %id, %error, "large result lost");
                return InvocationResponse::failure(id, error.to_string());
            }
            msg = Bytes::new();
        }
        InvocationResponse {
            msg,
            invocation_id: id,
            error: None,
            content_length,
            trace_context: tell_transfers(chain),
        }
    }

    /// Leaves a result that is too large for a message in the object store.
    async fn store(
        &self,
        id: &str,
        result: &Bytes,
        target: &str,
        (chain, deadline): (&Chain, Instant),
    ) -> Result<(), ResultLost> {
        let transfer = chain.transfer();
        let name = PayloadName::of_answer(id)?;
        let put = self.parts.chunks.put(name, result, target);
        let stored = chain.within(deadline, put).await.ok_or(ResultLost::TimedOut)??;
        stored.leave();
        transfer.succeeded();
        Ok(())
    }
}

/// The message of an answer. An error that the server would not take is shortened, for its
/// beginning says more than silence.
fn fitting(response: &InvocationResponse, max_payload: usize) -> Bytes {
    let encoded = codec::encode_response(response);
    match &response.error {
        Some(error) if encoded.len() > max_payload => {
            let short = error[..error.floor_char_boundary(max_payload / 2)].to_owned();
            codec::encode_response(&InvocationResponse::failure(
                response.invocation_id.clone(),
                short,
            ))
        }
        _ => encoded,
    }
}

fn trace_of(message: &Message) -> TraceContext {
    let mut trace = TraceContext::default();
    if let Some(headers) = &message.headers {
        for key in ["traceparent", "tracestate"] {
            if let Some(value) = headers.get(key) {
                trace.push(key, value.as_str());
            }
        }
    }
    trace
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_too_long_for_a_message_is_shortened() {
        let long = InvocationResponse::failure("id", "ä".repeat(40_000));
        let whole = codec::decode_response(fitting(&long, 1 << 20)).unwrap();
        assert_eq!(whole.error, long.error);
        let encoded = fitting(&long, 8 << 10);
        assert!(encoded.len() <= 8 << 10);
        let short = codec::decode_response(encoded).unwrap().error.unwrap();
        assert!(long.error.unwrap().starts_with(&short) && short.len() > 4000);
    }
}

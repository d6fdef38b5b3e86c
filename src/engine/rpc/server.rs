//! Invocations that arrive: decoded, checked, handed to the router, answered exactly once.
//!
//! The order of checks is fixed (wasmbus protocol, section 2.5): signature and issuer, time,
//! addresses, the receiving actor, and only then is a large payload fetched, so that strangers
//! cannot make this host read objects; the hash is verified last, over the whole payload. A token is
//! taken [once](super::tokens). A refused invocation is answered with the reason and logged.
//!
//! [`Receiver::serve`] owns the two subscriptions of one target: its queue group, which everybody
//! uses, and a subject of this host alone, for [`peers`](crate::peers) that choose the host
//! themselves. When it is told to stop it first tells the peers and waits until they have heard,
//! then leaves the queue group, takes what the server had already sent, finishes those calls and
//! returns.
//!
//! On its own subject it also answers whether an invocation is in work, until the last one is done.
//! Question and call take the same way, so when the question is here, the call has come before it,
//! or never will. Answers that go out in [`pieces`] are asked for there as well.

use std::{borrow::Cow, collections::HashMap, sync::Arc, time::Duration};

use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture};
use parking_lot::Mutex;
use tokio::{sync::oneshot, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::{
    call::{Call, CallError, Chain},
    chunking::{BadName, ChunkError, Chunks, PayloadName, Reader},
    exchange::{self, Begun, Exchange, Running},
    leave::{LEAVE_TIMEOUT, drain, leave},
    limits::{Limits, tell_transfers},
    pieces::{self, Form, Outlet, Outlets},
    proof::{Claim, Proven, Seal},
};
use crate::{host_context::HostContext, peers::sessions};
use lattice_base::lattice::{
    answers::Unsent,
    connection::{ConfirmError, confirm},
};
use lattice_protocol::{
    identity::claims::now,
    lattice::subject::Subjects,
    peers::{session::Bytes32, wire},
    rpc::{
        antiforgery::{self, Checked, ForgeryError, Verifier, check_target},
        codec,
        invocation::{Invocation, InvocationResponse, TraceContext, dispatch_operation},
        window::Untimely,
    },
};

/// Calls of one subscription that may be in work at a time, waiting ones included. Beyond it the
/// subscription is read no further and the server's messages wait in the client.
const IN_WORK_MAX: usize = 4096;
/// How long subscribing may take, the server's confirmation included.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long handing a reply to the connection may take; it only waits when the server is away.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the rest may take that has come where leaving took too long.
const REST_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest id of an invocation that is asked for; those of all peers are UUIDs.
const ID_CHARS_MAX: usize = 128;
/// A call that began on this host and came back over NATS counts as made by a waiting one.
const DEPTH_OF_OWN: u8 = 1;

/// A handler that answers calls once they are verified.
pub trait Handler: Send + Sync + 'static {
    fn handle(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>>;
}

/// Turns messages into verified calls and results into replies. Cheap to clone.
#[derive(Clone)]
pub struct Receiver(Arc<Inner>);

/// Everything a receiver works with.
pub struct Parts {
    pub context: Arc<HostContext>,
    pub verifier: Verifier,
    pub chunks: Chunks,
}

struct Inner {
    parts: Parts,
    /// The invocations in work that came over subjects of this host alone, or whose answer is to be
    /// proven, and how often each came.
    in_flight: Mutex<HashMap<String, usize>>,
    outlets: Arc<Outlets>,
}

/// Where the calls of one target arrive.
pub struct Subscriptions {
    group: Subscriber,
    own: Subscriber,
}

/// Why a target is not subscribed for.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    #[error("{0}")]
    Client(async_nats::SubscribeError),
    #[error("{0}")]
    Unconfirmed(ConfirmError),
    #[error("the NATS connection does not take the subscription")]
    TimedOut,
}

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

impl Receiver {
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner { parts, in_flight: Mutex::default(), outlets: Arc::default() }))
    }

    /// Subscribes for a target; returns when the server has confirmed it.
    pub async fn subscribe(
        &self,
        subject: &str,
        queue: &str,
    ) -> Result<Subscriptions, SubscribeError> {
        use SubscribeError::{Client, TimedOut, Unconfirmed};
        let HostContext { rpc, host_id, .. } = &*self.0.parts.context;
        let nats = &rpc.client;
        let subscribing = async {
            let group =
                nats.queue_subscribe(subject.to_owned(), queue.to_owned()).await.map_err(Client)?;
            let own = Subjects::on_host(subject, host_id.as_str());
            // A group as well: a target may be started again while its last run still finishes, and
            // one of them is enough.
            let own = nats.queue_subscribe(own.clone(), own).await.map_err(Client)?;
            confirm(nats).await.map_err(Unconfirmed)?;
            Ok(Subscriptions { group, own })
        };
        let subscribed = tokio::time::timeout(SUBSCRIBE_TIMEOUT, subscribing).await;
        subscribed.unwrap_or(Err(TimedOut))
    }

    /// Answers the invocations of `target` until told to stop, then until those in work are done.
    /// `name` is what peers know it by. `drained` is told when no further call can arrive.
    pub async fn serve(
        self,
        subscriptions: Subscriptions,
        (target, name): (Arc<str>, Arc<str>),
        handler: Arc<dyn Handler>,
        stop: CancellationToken,
        drained: oneshot::Sender<()>,
    ) {
        let Subscriptions { group, own } = subscriptions;
        let mut group = Dispatcher::new(&self.0, Way::Group, &target, &handler).on(group);
        let mut own = Dispatcher::new(&self.0, Way::Own, &target, &handler).on(own);
        let advertisement = self.0.parts.context.peers.advertise(&name);
        let (leave_now, left_the_group, done) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let shutdown = async {
            stop.cancelled().await;
            advertisement.retract().await;
            leave_now.cancel();
        };
        let through_the_group = async {
            group.receive(&leave_now).await;
            group.leave().await;
            left_the_group.cancel();
        };
        // Peers that did not hear of the stop in time still choose this host, so its own subject is
        // read as long as the group's.
        let directly = own.receive(&left_the_group);
        tokio::select! {
            _ = async { tokio::join!(through_the_group, directly) } => {}
            () = async { shutdown.await; std::future::pending().await } => {}
        }
        drop(advertisement);
        let _ = drained.send(());
        // A question about a call in work gets an answer; a call that comes now is refused: the
        // peers were told before.
        own.dispatcher.is_closed = true;
        let finish = async {
            group.dispatcher.finish().await;
            done.cancel();
        };
        tokio::join!(finish, own.receive(&done));
        // Questions for the pieces of their answers come here.
        own.receive_until_idle().await;
        own.leave().await;
        own.dispatcher.finish().await;
    }
}

/// One of the two subscriptions of a target.
struct Subscription {
    subscription: Subscriber,
    /// Messages so far.
    total: u64,
    dispatcher: Dispatcher,
}

impl Subscription {
    /// Takes calls until told to stop.
    async fn receive(&mut self, stop: &CancellationToken) {
        let Self { subscription, total, dispatcher } = self;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(done) = dispatcher.work.join_next(), if !dispatcher.work.is_empty() => report(done),
                message = subscription.next(), if dispatcher.work.len() < IN_WORK_MAX => match message {
                    Some(message) => {
                        *total += 1;
                        dispatcher.take_on(message);
                    }
                    None => return,
                },
            }
        }
    }

    /// Takes messages until nothing is in work any more.
    async fn receive_until_idle(&mut self) {
        let Self { subscription, total, dispatcher } = self;
        while !dispatcher.work.is_empty() {
            tokio::select! {
                biased;
                Some(done) = dispatcher.work.join_next() => report(done),
                Some(message) = subscription.next() => {
                    *total += 1;
                    dispatcher.take_on(message);
                }
            }
        }
    }

    /// Leaves, and takes on what comes meanwhile.
    async fn leave(&mut self) {
        let Self { subscription, total, dispatcher } = self;
        let nats = dispatcher.inner.parts.context.rpc.client.clone();
        let leaving = leave(&nats, subscription, *total, |message| dispatcher.take_on(message));
        if tokio::time::timeout(LEAVE_TIMEOUT, leaving).await.is_ok() {
            return;
        }
        warn!(actor_id = %dispatcher.target, "left the queue group without a word of the NATS server");
        // The server sends calls here as long as the subscription lives.
        let rest = drain(subscription, |message| dispatcher.take_on(message));
        let _ = tokio::time::timeout(REST_TIMEOUT, rest).await;
    }
}

/// Which of the two subscriptions of a target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Group,
    /// This host's alone; questions for calls come there as well.
    Own,
}

/// The calls that came through one subscription.
struct Dispatcher {
    inner: Arc<Inner>,
    way: Way,
    target: Arc<str>,
    handler: Arc<dyn Handler>,
    work: JoinSet<()>,
    /// It takes no further calls.
    is_closed: bool,
}

impl Dispatcher {
    fn new(inner: &Arc<Inner>, way: Way, target: &Arc<str>, handler: &Arc<dyn Handler>) -> Self {
        let (inner, target, handler) = (Arc::clone(inner), Arc::clone(target), Arc::clone(handler));
        Self { inner, way, target, handler, work: JoinSet::new(), is_closed: false }
    }

    fn on(self, subscription: Subscriber) -> Subscription {
        Subscription { subscription, total: 0, dispatcher: self }
    }

    /// Begins to answer a message: a call, or the question for one.
    fn take_on(&mut self, message: Message) {
        if self.take_question(&message) {
            return;
        }
        let inner = Arc::clone(&self.inner);
        let admitted = inner.parts.chunks.admit(message.payload.len());
        let refusal: Option<Cow<'static, str>> =
            match (self.is_closed, inner.parts.context.suspend.is_stale(), &admitted) {
                (true, ..) => Some("it is being stopped on this host".into()),
                (_, true, _) => Some(
                    "the host did not run for a while and refuses what came meanwhile; call again"
                        .into(),
                ),
                (.., Err(shortage)) => Some(shortage.to_string().into()),
                (false, false, Ok(_)) => None,
            };
        let invocation = codec::decode_invocation(message.payload.clone());
        let is_remembered = self.way == Way::Own || has(&message, wire::SESSION);
        let remembered =
            invocation.as_ref().ok().filter(|call| is_remembered && is_usual(&call.id));
        if let Some(call) = remembered.filter(|_| self.way == Way::Own) {
            inner.parts.context.peers.note_caller(&call.host_id);
        }
        let in_flight = remembered.map(|call| InFlight::new(&inner, &call.id));
        let (target, handler) = (Arc::clone(&self.target), Arc::clone(&self.handler));
        let way = self.way;
        self.work.spawn(async move {
            let paid_for = admitted;
            let answer = match invocation {
                Ok(invocation) => {
                    inner.take_in(invocation, refusal, &message, &target, (way, handler)).await
                }
                Err(error) => Some(unreadable(&target, &error).into()),
            };
            let left = match answer {
                Some(answer) => inner.reply(message.reply, answer).await,
                None => None,
            };
            // Only now: a caller that asks for it and hears that it is unknown must have been sent
            // the answer before.
            drop((in_flight, paid_for));
            if let Some(left) = left {
                left.serve().await;
            }
        });
    }

    /// Answers a question for a call, or for a piece of its answer; says whether it is one.
    fn take_question(&mut self, message: &Message) -> bool {
        let Some(headers) = &message.headers else { return false };
        let sessions = &self.inner.parts.context.sessions;
        let (answer, id, proven) = if let Some(id) = headers.get(wire::ASK) {
            let proven = Proven::of_question(sessions, headers, (id.as_str(), None));
            let is_in_work = self.inner.is_in_flight(id.as_str());
            (if is_in_work { wire::IN_WORK } else { wire::UNKNOWN }, id, proven)
        } else if let Some(id) = headers.get(wire::NEXT) {
            let number = pieces::number_of(message);
            let proven = Proven::of_question(sessions, headers, (id.as_str(), number));
            if self.inner.outlets.ask(id.as_str(), message, proven.clone()) {
                return true;
            }
            (wire::UNKNOWN, id, proven)
        } else {
            return false;
        };
        if let Some(reply) = message.reply.clone() {
            let (inner, id) = (Arc::clone(&self.inner), id.to_string());
            self.work.spawn(async move {
                let seal = proven.as_ref().map_or(Seal::Plain, Proven::seal);
                let headers = seal.headers(&inner.parts.context.sessions, &id, None, answer);
                inner.send(reply, headers, Bytes::from_static(answer), &id).await;
            });
        }
        true
    }

    /// Waits until the calls in work are done.
    async fn finish(&mut self) {
        while let Some(done) = self.work.join_next().await {
            report(done);
        }
    }
}

/// Answers a message that is no invocation.
fn unreadable(target: &str, error: &impl std::fmt::Display) -> InvocationResponse {
    warn!(actor_id = %target, %error, "message is no invocation");
    InvocationResponse::failure("", format!("Failed to deserialize invocation: {error}"))
}

/// Answers a call that this host does not take now.
fn not_admitted(target: &str, id: String, refusal: Cow<'static, str>) -> InvocationResponse {
    let reason = refusal.into();
    let refused = CallError::NotAdmitted { actor_id: target.to_owned(), reason };
    InvocationResponse::failure(id, refused.to_string())
}

/// A call that panicked is a bug of the host; its caller times out, the others go on.
fn report(done: Result<(), tokio::task::JoinError>) {
    if let Err(failure) = done {
        error!(error = %failure, "answering a call panicked");
    }
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

/// Whether a message has a header.
fn has(message: &Message, header: &str) -> bool {
    message.headers.as_ref().is_some_and(|headers| headers.get(header).is_some())
}

/// The answer to a call.
struct Answer {
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

/// Whether an invocation has an id that may be remembered.
fn is_usual(id: &str) -> bool {
    id.len() <= ID_CHARS_MAX
}

/// The rest of a call whose answer has begun.
enum Left {
    /// Its callee has something to do.
    Running(Running),
    /// The pieces of its answer are asked for.
    Pieces(Box<Outlet>),
}

impl Left {
    async fn serve(self) {
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

/// An invocation in work, as long as this lives.
struct InFlight {
    inner: Arc<Inner>,
    id: String,
}

impl InFlight {
    fn new(inner: &Arc<Inner>, id: &str) -> Self {
        *inner.in_flight.lock().entry(id.to_owned()).or_default() += 1;
        Self { inner: Arc::clone(inner), id: id.to_owned() }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut in_flight = self.inner.in_flight.lock();
        match in_flight.get_mut(&self.id) {
            Some(times @ 2..) => *times -= 1,
            _ => drop(in_flight.remove(&self.id)),
        }
    }
}

impl Inner {
    fn is_in_flight(&self, id: &str) -> bool {
        self.in_flight.lock().contains_key(id)
    }

    /// Says whether the same invocation is in work a second time.
    fn is_repeated(&self, id: &str) -> bool {
        self.in_flight.lock().get(id).is_some_and(|times| *times > 1)
    }

    /// Sends an answer; returns the rest of the call.
    async fn reply(&self, reply: Option<async_nats::Subject>, answer: Answer) -> Option<Left> {
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

    async fn send(
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
    /// is refused. Nothing is answered where an answer could be taken for that to another call.
    async fn take_in(
        &self,
        invocation: Invocation,
        refusal: Option<Cow<'static, str>>,
        message: &Message,
        target: &str,
        to: (Way, Arc<dyn Handler>),
    ) -> Option<Answer> {
        let (sessions, id) = (&self.parts.context.sessions, &invocation.id);
        let (seal, proven) = match Claim::of_call(sessions, message, (id, &invocation.host_id)) {
            Ok(Claim::Token(seal)) => (seal, None),
            Ok(Claim::Proven(proven)) => (proven.seal(), Some(proven)),
            // One that has it in work knows it well.
            Ok(Claim::Unknown(_)) if self.is_repeated(id) => return None,
            Ok(Claim::Unknown(seal)) => {
                let text = "the session of the call is unknown here; make the call with a token";
                let response = InvocationResponse::failure(id, text);
                return Some(Answer { seal, ..response.into() });
            }
            Err(why) => {
                let (host, why) = (&invocation.host_id, why.to_string());
                sessions.refuse(sessions::Refusal::Call, host, &why);
                // Without a proof, or somebody could end the call that this one is a copy of.
                return Some(InvocationResponse::failure(id, why).into());
            }
        };
        if let Some(refusal) = refusal {
            let seal = match proven.is_none() && self.is_repeated(id) {
                true => Seal::Plain,
                false => seal,
            };
            let response = not_admitted(target, invocation.id, refusal);
            return Some(Answer { seal, ..response.into() });
        }
        Some(self.perform(invocation, message, target, to, (seal, proven)).await)
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
        let verified =
            self.verified(invocation, proven.as_ref(), target, trace, (limits, received));
        let mut call = match verified.await {
            Ok(call) => call,
            Err(reason) => {
                warn!(actor_id = target, invocation_id = %id, %reason, "invocation refused");
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
        target: &str,
        from_headers: TraceContext,
        (limits, received): (Limits, Instant),
    ) -> Result<Call, Refusal> {
        let context = &self.parts.context;
        let checked = match proven {
            Some(_) => None,
            None => Some(self.parts.verifier.verify_claims(&invocation, now())?),
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
            self.fetch(&invocation, arriving, (&chain, deadline)).await?
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
            if let Err(error) = self.store(&id, &msg, target, (chain, deadline)).await {
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

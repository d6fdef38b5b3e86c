//! Invocations that arrive: decoded, checked, handed to the router, answered exactly once.
//!
//! The order of checks is fixed (wasmbus protocol, section 2.5): signature and issuer, time,
//! addresses, the receiving actor, and only then is a large payload fetched, so that strangers
//! cannot make this host read objects; the hash is verified last, over the whole payload. A token
//! is taken [once](super::tokens). A refused invocation is answered with the reason and logged.
//!
//! [`Receiver::serve`] owns the two subscriptions of one target: its queue group, which everybody
//! uses, and a subject of this host alone, for [`peers`](crate::peers) that choose the host
//! themselves. When it is told to stop it first tells the peers and waits until they have heard,
//! then leaves the queue group, takes what the server had already sent, finishes those calls and
//! returns.
//!
//! On its own subject it also answers whether an invocation is in work, until the last one is done.
//! Question and call take the same way, so when the question is here, the call has come before it,
//! or never will. Answers that go out in [`pieces`] are asked for there as well. `performing` has
//! one call, from its proof to its answer.

mod performing;

use std::{borrow::Cow, collections::HashMap, sync::Arc, time::Duration};

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture};
use parking_lot::Mutex;
use tokio::{sync::oneshot, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{
    call::{Call, CallError},
    chunking::Chunks,
    leave::{LEAVE_TIMEOUT, drain, leave},
    pieces::{self, Outlets},
    proof::{Proven, Seal},
};
use crate::host_context::HostContext;
use lattice_base::lattice::connection::{ConfirmError, confirm};
use lattice_protocol::{
    lattice::subject::Subjects,
    peers::wire,
    rpc::{
        antiforgery::Verifier,
        codec,
        invocation::{Invocation, InvocationResponse},
    },
};

/// Calls of one subscription that may be in work at a time, waiting ones included. Beyond it the
/// subscription is read no further and the server's messages wait in the client.
const IN_WORK_MAX: usize = 4096;
/// How long subscribing may take, the server's confirmation included.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the rest may take that has come where leaving took too long.
const REST_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest id of an invocation that is asked for; those of all peers are UUIDs.
const ID_CHARS_MAX: usize = 128;

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
        let mut in_flight = remembered.map(|call| InFlight::new(&inner, &call.id));
        let (target, handler) = (Arc::clone(&self.target), Arc::clone(&self.handler));
        let way = self.way;
        self.work.spawn(async move {
            let paid_for = admitted;
            let answer = match invocation {
                Ok(invocation) => {
                    let arrived = Arrived { message: &message, way, in_flight: &mut in_flight };
                    inner.take_in(invocation, refusal, arrived, &target, handler).await
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
                Box::pin(left.serve()).await;
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

/// Whether a message has a header.
fn has(message: &Message, header: &str) -> bool {
    message.headers.as_ref().is_some_and(|headers| headers.get(header).is_some())
}

/// Whether an invocation has an id that may be remembered.
fn is_usual(id: &str) -> bool {
    id.len() <= ID_CHARS_MAX
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

/// A call as it came.
struct Arrived<'a> {
    message: &'a Message,
    way: Way,
    /// Taken out when nothing proves the call: a stranger does not say what is in work.
    in_flight: &'a mut Option<InFlight>,
}

impl Inner {
    /// Notes which host makes calls over the subjects of this host alone.
    fn note_caller(&self, way: Way, invocation: &Invocation) {
        if way == Way::Own && is_usual(&invocation.id) {
            self.parts.context.peers.note_caller(&invocation.host_id);
        }
    }

    fn is_in_flight(&self, id: &str) -> bool {
        self.in_flight.lock().contains_key(id)
    }

    /// Says whether the same invocation is in work a second time.
    fn is_repeated(&self, id: &str) -> bool {
        self.in_flight.lock().get(id).is_some_and(|times| *times > 1)
    }
}

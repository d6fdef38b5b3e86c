//! Invocations that arrive: decoded, checked, handed to the router, answered exactly once.
//!
//! The order of checks is fixed (wasmbus protocol, section 2.5): signature and issuer, time, addresses, the receiving
//! actor, and only then is a large payload fetched, so that strangers cannot make this host read objects; the hash is
//! verified last, over the whole payload. What is refused is answered with its reason and logged.
//!
//! [`serve`] owns the subscription of one actor. When it is told to stop it leaves the queue group first, takes what the
//! server had already sent, finishes those calls and returns.

use std::{sync::Arc, time::Duration};

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture};
use tokio::{sync::oneshot, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::{
    antiforgery::{Verifier, check_target},
    call::{Call, CallError},
    chunking::{self, Chunks},
    codec,
    invocation::{Invocation, InvocationResponse, TraceContext, dispatch_operation},
};
use crate::identity::keys::HostId;

/// Calls of one subscription that may be in work at a time, waiting ones included. Beyond it the subscription is read no
/// further and the server's messages wait in the client.
const IN_WORK_MAX: usize = 4096;
/// How long handing a reply to the connection may take; it only waits when the server is away.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long leaving a queue group may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// More messages than are ever on their way to one subscription.
const LEAVE_FURTHER_MAX: u64 = 16 * 1024;
/// How long to look how many arrive, which covers a round trip across a continent.
const LEAVE_LOOK: Duration = Duration::from_millis(100);
/// How long to wait for the agreed number.
const LEAVE_COUNT: Duration = Duration::from_millis(300);
/// A call that began on this host and came back over NATS counts as made by a waiting one.
const DEPTH_OF_OWN: u8 = 1;

/// What answers calls once they are verified.
pub trait Handler: Send + Sync + 'static {
    fn handle(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>>;
}

/// Turns messages into verified calls and results into replies. Cheap to clone.
#[derive(Clone)]
pub struct Receiver(Arc<Inner>);

struct Inner {
    nats: async_nats::Client,
    verifier: Verifier,
    chunks: Chunks,
    rpc_timeout: Duration,
    host_id: HostId,
}

impl Receiver {
    pub fn new(
        nats: async_nats::Client,
        verifier: Verifier,
        chunks: Chunks,
        rpc_timeout: Duration,
        host_id: HostId,
    ) -> Self {
        Self(Arc::new(Inner { nats, verifier, chunks, rpc_timeout, host_id }))
    }

    /// Answers the invocations of one target until told to stop, then until those in work are done. `left` is told when
    /// no further call can arrive.
    pub async fn serve(
        self,
        mut subscription: Subscriber,
        target: Arc<str>,
        handler: Arc<dyn Handler>,
        stop: CancellationToken,
        left: oneshot::Sender<()>,
    ) {
        let mut work = JoinSet::new();
        let mut total = 0;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(done) = work.join_next(), if !work.is_empty() => report(done),
                message = subscription.next(), if work.len() < IN_WORK_MAX => match message {
                    Some(message) => {
                        total += 1;
                        self.take_on(&mut work, message, &target, &handler);
                    }
                    None => break,
                },
            }
        }
        let leaving = leave(&mut subscription, total, |message| self.take_on(&mut work, message, &target, &handler));
        if tokio::time::timeout(LEAVE_TIMEOUT, leaving).await.is_err() {
            warn!(actor_id = %target, "left the queue group without a word of the NATS server");
        }
        let _ = left.send(());
        while let Some(done) = work.join_next().await {
            report(done);
        }
    }

    fn take_on(&self, work: &mut JoinSet<()>, message: Message, target: &Arc<str>, handler: &Arc<dyn Handler>) {
        let (inner, target, handler) = (Arc::clone(&self.0), Arc::clone(target), Arc::clone(handler));
        work.spawn(async move { inner.answer(message, &target, handler).await });
    }
}

/// Leaves the queue group without losing what the server has already sent; `total` messages came so far.
///
/// The client forgets a drained subscription when it next wakes up, and drops messages that are still on their way. So the
/// server is asked to end the subscription by itself, after a number of messages that both sides count to: first one so
/// high that nothing on its way is cut off while we see how much arrives, then one that is reached soon and still beyond
/// what can be on its way. Where hardly anything arrives, hardly anything can be on its way, and draining is good enough.
pub(crate) async fn leave(subscription: &mut Subscriber, total: u64, mut take_on: impl FnMut(Message)) {
    let Some(arrived) = end_after(subscription, total + LEAVE_FURTHER_MAX, LEAVE_LOOK, &mut take_on).await else {
        return;
    };
    if arrived > 0 {
        let agreed = total + arrived + 4 + arrived * 2;
        if end_after(subscription, agreed, LEAVE_COUNT, &mut take_on).await.is_none() {
            return;
        }
    }
    if subscription.drain().await.is_ok() {
        while let Some(message) = subscription.next().await {
            take_on(message);
        }
    }
}

/// Asks the server to end a subscription after `count` messages in all, and takes on what arrives meanwhile. Returns how
/// many did if the subscription still lives after `pause`.
async fn end_after(
    subscription: &mut Subscriber,
    count: u64,
    pause: Duration,
    take_on: &mut impl FnMut(Message),
) -> Option<u64> {
    subscription.unsubscribe_after(count).await.ok()?;
    let mut arrived = 0;
    let ended = async {
        while let Some(message) = subscription.next().await {
            arrived += 1;
            take_on(message);
        }
    };
    let lives = tokio::time::timeout(pause, ended).await.is_err();
    lives.then_some(arrived)
}

/// A call that panicked is a bug of the host; its caller times out, the others go on.
fn report(done: Result<(), tokio::task::JoinError>) {
    if let Err(failure) = done {
        error!(error = %failure, "answering a call panicked");
    }
}

impl Inner {
    async fn answer(&self, message: Message, target: &str, handler: Arc<dyn Handler>) {
        let reply = message.reply.clone();
        let response = self.perform(message, target, handler).await;
        let Some(reply) = reply else { return };
        let publish = self.nats.publish(reply, codec::encode_response(&response));
        match tokio::time::timeout(REPLY_TIMEOUT, publish).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(invocation_id = %response.invocation_id, %error, "reply lost"),
            Err(_) => {
                warn!(invocation_id = %response.invocation_id, "reply lost: the NATS connection does not take it")
            }
        }
    }

    async fn perform(&self, message: Message, target: &str, handler: Arc<dyn Handler>) -> InvocationResponse {
        let received = Instant::now();
        let from_headers = trace_of(&message);
        let invocation = match codec::decode_invocation(message.payload) {
            Ok(invocation) => invocation,
            Err(error) => {
                warn!(actor_id = target, %error, "message is no invocation");
                return failure(String::new(), format!("Failed to deserialize invocation: {error}"));
            }
        };
        let id = invocation.id.clone();
        match self.verified(invocation, target, from_headers, received).await {
            Err(reason) => {
                warn!(actor_id = target, invocation_id = %id, %reason, "invocation refused");
                failure(id, reason)
            }
            Ok(call) => match handler.handle(call).await {
                Ok(payload) => self.success(id, payload).await,
                Err(error) => {
                    debug!(actor_id = target, invocation_id = %id, %error, "invocation failed");
                    failure(id, error.to_string())
                }
            },
        }
    }

    async fn verified(
        &self,
        invocation: Invocation,
        target: &str,
        from_headers: TraceContext,
        received: Instant,
    ) -> Result<Call, String> {
        let checked =
            self.verifier.verify_claims(&invocation, crate::identity::claims::now()).map_err(|e| e.to_string())?;
        check_target(&invocation, target).map_err(|e| e.to_string())?;
        let chunked = invocation.content_length > invocation.msg.len() as u64;
        let mut deadline = received + self.rpc_timeout;
        let payload = if chunked {
            deadline += chunking::EXTRA_TIME;
            let fetch = self.chunks.take(&invocation.id, invocation.content_length);
            tokio::time::timeout_at(deadline, fetch)
                .await
                .map_err(|_| "the payload did not arrive from the object store in time".to_owned())?
                .map_err(|e| e.to_string())?
        } else {
            invocation.msg.clone()
        };
        checked.verify_hash(&payload).map_err(|e| e.to_string())?;
        let trace = if invocation.trace_context.is_empty() { from_headers } else { invocation.trace_context };
        Ok(Call {
            operation: dispatch_operation(&invocation.operation).to_owned(),
            origin: invocation.origin,
            target: invocation.target,
            payload,
            trace,
            deadline,
            depth: if invocation.host_id == self.host_id.as_str() { DEPTH_OF_OWN } else { 0 },
        })
    }

    async fn success(&self, id: String, payload: Bytes) -> InvocationResponse {
        let content_length = payload.len() as u64;
        let mut msg = payload;
        if self.chunks.is_needed(msg.len()) {
            let name = chunking::reply_name(&id);
            let stored = tokio::time::timeout(chunking::EXTRA_TIME, self.chunks.put(&name, &msg)).await;
            let problem = match stored {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("the object store did not take the result in time; is JetStream reachable?".to_owned()),
            };
            if let Some(problem) = problem {
                warn!(invocation_id = %id, error = %problem, "large result lost");
                return failure(id, problem);
            }
            msg = Bytes::new();
        }
        InvocationResponse {
            msg,
            invocation_id: id,
            error: None,
            content_length,
            trace_context: TraceContext::default(),
        }
    }
}

fn failure(invocation_id: String, error: String) -> InvocationResponse {
    InvocationResponse {
        msg: Bytes::new(),
        invocation_id,
        error: Some(error),
        content_length: 0,
        trace_context: TraceContext::default(),
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

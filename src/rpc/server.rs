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
use tracing::{debug, warn};

use super::{
    antiforgery::{Verifier, check_target},
    call::{Call, CallError},
    chunking::{self, Chunks},
    codec,
    invocation::{Invocation, InvocationResponse, TraceContext, dispatch_operation},
};

/// Calls of one subscription that may be in work at a time, waiting ones included. Beyond it the subscription is read no
/// further and the server's messages wait in the client.
const IN_WORK_MAX: usize = 4096;

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
}

impl Receiver {
    pub fn new(nats: async_nats::Client, verifier: Verifier, chunks: Chunks, rpc_timeout: Duration) -> Self {
        Self(Arc::new(Inner { nats, verifier, chunks, rpc_timeout }))
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
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_) = work.join_next(), if !work.is_empty() => {}
                message = subscription.next(), if work.len() < IN_WORK_MAX => match message {
                    Some(message) => self.take_on(&mut work, message, &target, &handler),
                    None => break,
                },
            }
        }
        // Leave the queue group; what the server sent before it knew still arrives here.
        if subscription.drain().await.is_ok() {
            while let Some(message) = subscription.next().await {
                self.take_on(&mut work, message, &target, &handler);
            }
        }
        let _ = left.send(());
        while work.join_next().await.is_some() {}
    }

    fn take_on(&self, work: &mut JoinSet<()>, message: Message, target: &Arc<str>, handler: &Arc<dyn Handler>) {
        let (inner, target, handler) = (Arc::clone(&self.0), Arc::clone(target), Arc::clone(handler));
        work.spawn(async move { inner.answer(message, &target, handler).await });
    }
}

impl Inner {
    async fn answer(&self, message: Message, target: &str, handler: Arc<dyn Handler>) {
        let reply = message.reply.clone();
        let response = self.perform(message, target, handler).await;
        let Some(reply) = reply else { return };
        if let Err(error) = self.nats.publish(reply, codec::encode_response(&response)).await {
            warn!(invocation_id = %response.invocation_id, %error, "reply lost");
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
            depth: 0,
        })
    }

    async fn success(&self, id: String, payload: Bytes) -> InvocationResponse {
        let content_length = payload.len() as u64;
        let mut msg = payload;
        if self.chunks.is_needed(msg.len()) {
            if let Err(error) = self.chunks.put(&chunking::reply_name(&id), &msg).await {
                warn!(invocation_id = %id, %error, "large result lost");
                return failure(id, error.to_string());
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

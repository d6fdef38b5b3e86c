//! One call as the instance of an actor sees it, whatever its kind: where it came from, where its
//! own calls go, and how it ended.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use wasmtime::{Trap, UpdateDeadline, bail};

use super::{
    component::config::{Unreadable, Values},
    turns::Turn,
};
use crate::{
    router::LinkEnd,
    rpc::{call::CallError, exchange::Exchange},
};

/// A guest's error text and a binding, namespace or operation name are no place for more than this.
pub(super) const TEXT_BYTES_MAX: usize = 64 * 1024;

/// Where a guest's outward calls go, and how much time it has; made per call.
pub trait Outward: Send + Sync {
    /// Returns when the guest's time is over.
    fn ends_at(&self) -> Instant;
    /// Performs a host call on behalf of the guest.
    fn host_call(&self, request: HostCall) -> BoxFuture<'_, Result<Bytes, CallError>>;
    /// Makes a call that nobody waits for, in time of its own: the guest may be gone.
    fn call_afterwards(&self, request: HostCall);
    /// Says where the link of the guest's actor that has this name for a contract leads.
    fn link_end(&self, contract: &str, link_name: &str) -> LinkEnd;
    /// Reads the named configuration of the guest's actor.
    fn configuration(&self) -> BoxFuture<'_, Result<Arc<Values>, Unreadable>>;
}

/// A request of a guest to the host.
#[derive(Clone, Debug)]
pub struct HostCall {
    /// The link name; empty stands for `default`.
    pub binding: String,
    /// A contract id, an actor's public key or a call alias.
    pub namespace: String,
    pub operation: String,
    pub payload: Bytes,
    /// Bodies that are not in the payload.
    pub exchange: Option<Arc<Exchange>>,
}

/// One call as an instance sees it.
pub struct Inbound {
    pub operation: String,
    pub payload: Bytes,
    /// Bodies that are not in the payload.
    pub exchange: Option<Arc<Exchange>>,
    pub outward: Arc<dyn Outward>,
    /// The right to go on, once it has run for a while.
    pub turn: Turn,
}

/// Marks the end of a guest that used up its time.
#[derive(Debug, thiserror::Error)]
#[error("the call ran past its deadline")]
struct PastDeadline;

/// How a call through an instance ended.
pub enum Outcome<I> {
    /// The instance may serve again.
    Returned(Result<Bytes, CallError>, Option<I>),
    /// The instance is gone.
    Ended(Ended),
}

/// Why an instance did not return.
#[derive(Clone, Debug)]
pub enum Ended {
    PastDeadline,
    Trap(String),
}

/// Makes a call of a guest. The outer error ends the guest: its time is over.
pub(super) async fn call_out(
    outward: &dyn Outward,
    turn: &Turn,
    request: HostCall,
) -> wasmtime::Result<Result<Bytes, CallError>> {
    let result = outward.host_call(request).await;
    go_on(outward, turn).await?;
    Ok(result)
}

/// Lets a guest go on that waited for something of its host. An error ends it: its time is over.
pub(super) async fn go_on(outward: &dyn Outward, turn: &Turn) -> wasmtime::Result<()> {
    turn.begin().await;
    // The guest would only look at its next loop or function.
    in_time(outward)
}

/// Decides at a tick: a guest whose time is over ends, and others go on when it is their turn.
pub(super) fn at_tick(outward: &dyn Outward, turn: &Turn) -> wasmtime::Result<UpdateDeadline> {
    in_time(outward)?;
    Ok(UpdateDeadline::YieldCustom(1, Box::pin(turn.clone().next())))
}

fn in_time(outward: &dyn Outward) -> wasmtime::Result<()> {
    if Instant::now() >= outward.ends_at() {
        bail!(PastDeadline);
    }
    Ok(())
}

/// Words the end of a program that says by a number that it failed.
pub(super) fn failed_with(code: impl std::fmt::Display) -> String {
    format!("operation failed with exit code `{code}`")
}

/// Puts the end of an instance into words. `refused_at` is the limit if it was refused memory.
pub(super) fn ended(error: &wasmtime::Error, refused_at: Option<usize>) -> Ended {
    if error.downcast_ref::<PastDeadline>().is_some() {
        return Ended::PastDeadline;
    }
    let text = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    trapped(text, refused_at)
}

/// Adds what explains the end of a guest that was refused memory before.
pub(super) fn trapped(mut text: String, refused_at: Option<usize>) -> Ended {
    if let Some(bytes) = refused_at {
        text.push_str(&format!(
            " (after it was refused more than {bytes} bytes of memory, see actor_memory_max_bytes)"
        ));
    }
    Ended::Trap(text)
}

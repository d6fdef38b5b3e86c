//! One call on the lattice, before it is decided how it travels.
//!
//! Guest to provider, provider to guest, guest to guest, tool to guest: all are a [`Call`]. The [`router`](crate::router)
//! takes it to an actor in this process or hands it to the [`client`](super::client).

use bytes::Bytes;
use tokio::time::Instant;

use super::invocation::{Entity, TraceContext};

/// Calls that may wait for each other in one chain on one host. Actors that call themselves end here.
pub const DEPTH_MAX: u8 = 16;

/// How a callee that is too busy says so, to this host and to others.
const BUSY: &str = "takes no further call";

/// A request from one entity to another.
#[derive(Clone, Debug)]
pub struct Call {
    pub origin: Entity,
    pub target: Entity,
    /// `Service.Method`, as the caller wrote it.
    pub operation: String,
    /// The argument, not chunked.
    pub payload: Bytes,
    pub trace: TraceContext,
    /// When nobody waits any longer.
    pub deadline: Instant,
    /// How many calls of this host wait for this one.
    pub depth: u8,
}

/// Why a call has no result. The texts go to guests and callers; where actors of 2022 know a text, it comes first and
/// unchanged, and the explanation follows it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// What the callee itself answered, word for word.
    #[error("{0}")]
    Callee(String),
    #[error(
        "Invocation not authorized: missing link definition for {namespace} on {lattice} (actor {actor_id}, link name {link_name}; \
         link it to a provider, or call an actor by its public key or call alias)"
    )]
    NoLink { namespace: String, lattice: String, actor_id: String, link_name: String },
    #[error(
        "Invocation not authorized: missing capability claim for {contract} (sign {actor_id} with this capability)"
    )]
    NoCapability { contract: String, actor_id: String },
    #[error("actor is missing capability claims: {actor_id} was not signed for {contract}, as which {origin} calls it")]
    NotSignedFor { contract: String, actor_id: String, origin: String },
    #[error(
        "{actor_id} is not linked to {provider_id} under link name {link_name}; put a link definition between them"
    )]
    NotLinked { actor_id: String, provider_id: String, link_name: String },
    #[error("Policy denied invocation, request: {request_id}{}", message.as_deref().map(|m| format!(" ({m})")).unwrap_or_default())]
    Denied { request_id: String, message: Option<String> },
    /// Nobody listens on the subject.
    #[error(
        "Failed to perform RPC call: request timeout (nobody listens on {subject} in lattice {lattice}: \
         {target} runs on no host, or the leaf node between is down)"
    )]
    NoResponders { subject: String, lattice: String, target: String },
    #[error(
        "Failed to perform RPC call: request timeout (no reply on {subject} in lattice {lattice} within {waited_ms} ms; \
         the callee may still be working. Raise rpc_timeout_ms if it needs longer)"
    )]
    TimedOut { subject: String, lattice: String, waited_ms: u128 },
    /// The host that had the call is gone, and the call may not be made twice.
    #[error(
        "Failed to perform RPC call: request timeout ({cause}; whether {operation} of {target} was carried out is unknown. Look \
         before you repeat it, or mark it with repeatable_operations if repeating it does no harm)"
    )]
    OutcomeUnknown { operation: String, target: String, cause: String },
    #[error("the call of {actor_id} ran past its deadline of {limit_ms} ms and was ended (rpc_timeout_ms)")]
    Deadline { actor_id: String, limit_ms: u128 },
    #[error("{actor_id} {BUSY}: {reason}")]
    NotAdmitted { actor_id: String, reason: String },
    #[error("actor trapped: {reason} ({actor_id}; only this call failed)")]
    Trap { actor_id: String, reason: String },
    #[error("a chain of more than {DEPTH_MAX} calls waits on this host; does an actor call itself?")]
    TooDeep,
    #[error("the invocation cannot travel: {0}")]
    Transport(String),
}

impl CallError {
    /// Says whether `target` was too busy to take the call, here or on another host; nothing was done. A callee that fails
    /// because somebody else was busy does not count, whatever it says about it.
    pub fn is_busy(&self, target: &str) -> bool {
        match self {
            Self::NotAdmitted { actor_id, .. } => actor_id == target,
            Self::Callee(text) => text
                .strip_prefix(target)
                .and_then(|rest| rest.strip_prefix(' '))
                .is_some_and(|rest| rest.starts_with(BUSY)),
            _ => false,
        }
    }

    /// Says whether a provider refused the call because it knows of no link, which means that nothing was done.
    pub fn is_unlinked(&self) -> bool {
        match self {
            Self::NotLinked { .. } => true,
            // Our own words and those of the SDKs of 2023 and 2024; then of 2022's.
            Self::Callee(text) => text.contains("is not linked to") || text.contains("unlinked actor"),
            _ => false,
        }
    }
}

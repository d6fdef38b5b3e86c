//! One call on the lattice, before it is decided how it travels.
//!
//! Guest to provider, provider to guest, guest to guest, tool to guest: all are a [`Call`]. The
//! [`router`](crate::router) takes it to an actor in this process or hands it to the
//! [`client`](super::client).

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::exchange::Exchange;
use lattice_protocol::rpc::invocation::{Entity, TraceContext};

/// Calls that may wait for each other in one chain, wherever they run. Actors that call each other
/// without end stop here.
pub const DEPTH_MAX: u8 = 16;
/// The most time that transfers through the object store add to the deadline of a chain of calls,
/// all together.
pub const TRANSFERS_MAX: Duration = Duration::from_secs(13);
/// How often a wait looks whether a transfer has ended that kept it from ending.
const TRANSFER_LOOK: Duration = Duration::from_millis(50);

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
    /// When nobody waits any longer, transfers through the object store not counted; see
    /// [`Call::ends_at`].
    pub deadline: Instant,
    /// How many calls of this host wait for this one.
    pub depth: u8,
    /// The state it shares with the calls that wait for it.
    pub chain: Chain,
    /// Bodies that are not in the payload.
    pub exchange: Option<Arc<Exchange>>,
}

impl Call {
    /// Makes a call that begins a chain, from origin to target.
    pub fn new(
        (origin, target): (Entity, Entity),
        operation: impl Into<String>,
        payload: Bytes,
        deadline: Instant,
    ) -> Self {
        Self {
            origin,
            target,
            operation: operation.into(),
            payload,
            trace: TraceContext::default(),
            deadline,
            depth: 0,
            chain: Chain::default(),
            exchange: None,
        }
    }

    /// Returns when the call ends: its deadline, and the time its payloads spent in the object
    /// store so far.
    pub fn ends_at(&self) -> Instant {
        self.chain.ends_at(self.deadline)
    }

    /// Puts the whole argument into the payload, for a callee that takes no pieces of it. Waits for
    /// the client that still sends it.
    pub async fn whole(mut self) -> Result<Self, CallError> {
        if let Some(exchange) = &self.exchange
            && let Some(payload) = exchange.payload().await?
        {
            self.payload = payload;
        }
        Ok(self)
    }
}

/// The state shared by calls that wait for each other. A call from outside begins one; each call
/// that its callee makes goes on with it.
///
/// The time that payloads really spent in the object store is not counted against the deadline. It
/// is measured here, for the whole chain, and ends at [`TRANSFERS_MAX`]. A call whose bodies go
/// piece by piece gets more time with each of them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// Calls that wait for the one that has this, on all hosts.
    waiting: u8,
    transfers: Arc<Transfers>,
    pieces: Option<Arc<Pieces>>,
}

/// The time that one call got for its pieces, in nanoseconds.
#[derive(Debug, Default)]
struct Pieces(AtomicU64);

#[derive(Debug, Default)]
struct Transfers {
    /// The time that finished ones took, in nanoseconds.
    took_ns: AtomicU64,
    /// Those under way.
    running: AtomicU32,
}

/// A transfer under way. Its time counts when it [succeeds](Transfer::succeeded); dropped before,
/// nothing was transferred.
#[derive(Debug)]
pub struct Transfer<'a> {
    transfers: &'a Transfers,
    began: Instant,
}

impl Chain {
    /// Continues a chain of which `waiting` calls wait on other hosts.
    pub fn of_waiting(waiting: u8) -> Self {
        Self { waiting, transfers: Arc::default(), pieces: None }
    }

    /// The chain of a call that moves pieces.
    pub fn with_pieces(self) -> Self {
        Self { pieces: Some(Arc::default()), ..self }
    }

    /// Lets the call with this deadline go on until `end`, since a piece of it has moved.
    pub fn go_on_until(&self, end: Instant, deadline: Instant) {
        if let Some(Pieces(more_ns)) = self.pieces.as_deref() {
            let more = end.saturating_duration_since(deadline).saturating_sub(self.transferred());
            more_ns.fetch_max(nanoseconds(more), Ordering::Relaxed);
        }
    }

    /// Returns the time that pieces gave to the call.
    pub fn prolonged(&self) -> Duration {
        let Some(Pieces(more_ns)) = self.pieces.as_deref() else { return Duration::ZERO };
        Duration::from_nanos(more_ns.load(Ordering::Relaxed))
    }

    /// Returns how many calls wait for this one.
    pub fn waiting(&self) -> u8 {
        self.waiting
    }

    /// The chain as a call has it that is made by this one's callee.
    pub fn next(&self) -> Self {
        let (waiting, transfers) = (self.waiting.saturating_add(1), Arc::clone(&self.transfers));
        Self { waiting, transfers, pieces: None }
    }

    /// The same for a call that moves pieces: they give time to this one as well.
    pub fn next_with_pieces(&self) -> Self {
        Self { pieces: self.pieces.clone(), ..self.next() }
    }

    /// Notes that a payload goes into the object store, or comes from there.
    pub fn transfer(&self) -> Transfer<'_> {
        self.transfers.running.fetch_add(1, Ordering::Relaxed);
        Transfer { transfers: &self.transfers, began: Instant::now() }
    }

    /// Adds a transfer that somebody else measured.
    pub fn add_transfer(&self, took: Duration) {
        self.transfers.add(took);
    }

    /// Returns the time that transfers took so far, [`TRANSFERS_MAX`] at most.
    pub fn transferred(&self) -> Duration {
        Duration::from_nanos(self.transfers.took_ns.load(Ordering::Relaxed)).min(TRANSFERS_MAX)
    }

    /// Returns when a call with this deadline ends.
    pub fn ends_at(&self, deadline: Instant) -> Instant {
        deadline + self.transferred() + self.prolonged()
    }

    /// Waits for work until the call with this deadline ends; while a transfer is under way, until
    /// that has ended. The work is dropped when the time is over.
    pub async fn within<T>(&self, deadline: Instant, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        loop {
            if let Ok(done) = timeout_at(self.look_at(deadline), &mut work).await {
                return Some(done);
            }
            if Instant::now() >= self.look_at(deadline) {
                return None;
            }
        }
    }

    /// When to look next whether the time is over.
    fn look_at(&self, deadline: Instant) -> Instant {
        let end = self.ends_at(deadline);
        if self.transfers.running.load(Ordering::Relaxed) == 0 {
            return end;
        }
        let last = deadline + TRANSFERS_MAX + self.prolonged();
        end.max(Instant::now() + TRANSFER_LOOK).min(last)
    }
}

impl Transfers {
    fn add(&self, took: Duration) {
        self.took_ns.fetch_add(nanoseconds(took.min(TRANSFERS_MAX)), Ordering::Relaxed);
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Transfer<'_> {
    /// Counts the time it took, because an object was really stored or fetched.
    pub fn succeeded(self) {
        self.transfers.add(self.began.elapsed());
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        self.transfers.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a call has no result. The texts go to guests and callers; where actors of 2022 know a text,
/// it comes first and unchanged, and the explanation follows it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The error of the callee itself, word for word.
    #[error("{0}")]
    Callee(String),
    #[error(
        "Invocation not authorized: missing link definition for {namespace} on {lattice} (actor {actor_id}, link name {link_name}; \
         link it to a provider, or call an actor by its public key or call alias)"
    )]
    NoLink { namespace: String, lattice: String, actor_id: String, link_name: String },
    /// A namespace that can be no contract, and is the call alias of nobody.
    #[error(
        "Invocation not authorized: missing link definition for {alias} on {lattice} (no actor of the lattice has the call alias \
         {alias}: start the one that is signed with it, or call an actor by its public key; a contract has a colon in its name)"
    )]
    NoAlias { alias: String, lattice: String },
    #[error(
        "Invocation not authorized: missing capability claim for {contract} (sign {actor_id} with this capability)"
    )]
    NoCapability { contract: String, actor_id: String },
    /// Neither signed for a contract nor linked for it.
    #[error(
        "Invocation not authorized: missing capability claim for {contract} (sign {actor_id} with this capability first), and \
         missing link definition for {contract} on {lattice} (link name {link_name}; link it to a provider then)"
    )]
    NeitherSignedNorLinked {
        contract: String,
        lattice: String,
        actor_id: String,
        link_name: String,
    },
    #[error(
        "actor is missing capability claims: {actor_id} was not signed for {contract}, as which {origin} calls it"
    )]
    NotSignedFor { contract: String, actor_id: String, origin: String },
    /// A provider that calls an actor it is not linked to.
    #[error(
        "Invocation not authorized: missing link definition of {actor_id} to {origin} for {contract} (link name {link_name}; a \
         provider may call the actors that are linked to it)"
    )]
    NotLetIn { actor_id: String, origin: String, contract: String, link_name: String },
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
    #[error(
        "the call of {actor_id} ran past its deadline, {limit_ms} ms after it began here, and was ended; its caller says how long \
         it may take (timeout_ms of a link, or rpc_timeout_ms)"
    )]
    Deadline { actor_id: String, limit_ms: u128 },
    #[error("{actor_id} {BUSY}: {reason}")]
    NotAdmitted { actor_id: String, reason: String },
    #[error("actor trapped: {reason} ({actor_id})")]
    Trap { actor_id: String, reason: String },
    #[error(
        "a chain of more than {DEPTH_MAX} calls waits for this one; does an actor call itself?"
    )]
    TooDeep,
    /// The claims of the caller or of the callee do not count now.
    #[error(
        "Invocation not authorized: the claims of {id} {why}; sign it again with other times (`host claims sign`) and \
         update it"
    )]
    NotInForce { id: String, why: &'static str },
    #[error("the invocation cannot travel: {0}")]
    Transport(String),
    /// The argument is more than a message takes, and nothing else takes it.
    #[error("the invocation cannot travel: {cause}")]
    TooLarge { cause: String, bytes_max: u64 },
}

impl CallError {
    /// Says whether the caller may not make such a call at all.
    pub fn is_forbidden(&self) -> bool {
        matches!(
            self,
            Self::NoCapability { .. } | Self::NeitherSignedNorLinked { .. } | Self::Denied { .. }
        )
    }

    /// Says whether `target` was too busy to take the call, here or on another host; nothing was
    /// done. A callee that fails because somebody else was busy does not count, whatever it says
    /// about it.
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

    /// Says whether a provider refused the call because it knows of no link, which means that
    /// nothing was done.
    pub fn is_unlinked(&self) -> bool {
        match self {
            Self::NotLinked { .. } => true,
            // Our own words and those of the SDKs of 2023 and 2024; then of 2022's.
            Self::Callee(text) => {
                text.contains("is not linked to") || text.contains("unlinked actor")
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_transfers_that_succeeded_add_their_time_and_no_more_than_the_bound() {
        let chain = Chain::default();
        let deadline = Instant::now() + Duration::from_secs(2);
        let failed = chain.transfer();
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(failed);
        assert_eq!(chain.ends_at(deadline), deadline);
        let stored = chain.transfer();
        tokio::time::advance(Duration::from_secs(3)).await;
        stored.succeeded();
        assert_eq!(chain.ends_at(deadline), deadline + Duration::from_secs(3));
        // Nested calls share what was measured.
        chain.next().add_transfer(Duration::from_secs(60));
        assert_eq!(chain.ends_at(deadline), deadline + TRANSFERS_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_the_deadline_and_outlasts_it_only_for_a_transfer() {
        let (chain, began) = (Chain::default(), Instant::now());
        let deadline = began + Duration::from_secs(2);
        assert_eq!(chain.within(deadline, std::future::pending::<()>()).await, None);
        assert_eq!(began.elapsed(), Duration::from_secs(2));

        let (chain, began) = (Chain::default(), Instant::now());
        let deadline = began + Duration::from_secs(2);
        let store = async {
            let transfer = chain.transfer();
            tokio::time::sleep(Duration::from_secs(5)).await;
            transfer.succeeded();
        };
        assert_eq!(chain.within(deadline, store).await, Some(()));
        assert_eq!(chain.transferred(), Duration::from_secs(5));

        let (chain, began) = (Chain::default(), Instant::now());
        let deadline = began + Duration::from_secs(2);
        let _endless = chain.transfer();
        assert_eq!(chain.within(deadline, std::future::pending::<()>()).await, None);
        assert_eq!(began.elapsed(), Duration::from_secs(2) + TRANSFERS_MAX);
    }

    #[test]
    fn calls_that_wait_are_counted_along_the_chain() {
        let chain = Chain::of_waiting(3).next().next();
        assert_eq!((chain.waiting(), Chain::default().waiting()), (5, 0));
        assert_eq!(Chain::of_waiting(u8::MAX).next().waiting(), u8::MAX);
    }
}

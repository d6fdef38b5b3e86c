//! The calls that a guest makes, and the bytes that the host holds for them.
//!
//! An instance that serves several calls at a time makes each of its own calls for one of them:
//! [`caller`] finds out for which.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use wasmtime::{AsContextMut, component::GuestTaskId, error::Context as _};

use super::{
    Guest,
    config::{Unreadable, Values},
};
use crate::{
    actors::{
        inbound::{HostCall, Inbound, Outward, go_on},
        turns::Turn,
    },
    router::LinkEnd,
    rpc::{call::CallError, exchange::Exchange},
};
use lattice_protocol::{contracts, identity::keys::LinkName};

/// The name of a link that was given none.
const DEFAULT: &str = LinkName::DEFAULT;

/// Makes calls on behalf of a guest. Cheap to clone, so that no store is borrowed while one waits.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) outward: Arc<dyn Outward>,
    pub(super) turn: Turn,
    pub(super) memory_max_bytes: usize,
    pub(super) kept: Arc<Kept>,
    /// How the guest ends, if its bodies may go piece by piece.
    pub(super) end: Option<Arc<End>>,
    pub(super) when_late: WhenLate,
}

/// The bytes that the host holds for an instance: for the calls that it makes and that wait.
pub(super) type Held = Arc<AtomicUsize>;

/// The state that the host keeps for a call.
#[derive(Default)]
pub(super) struct Kept {
    /// That of the instance, whose other calls hold some as well.
    held: Held,
    /// The named configuration, once it was read.
    configuration: OnceLock<Arc<Values>>,
}

/// The fate of an instance that was waiting for its host when the time of its call was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhenLate {
    Ends,
    /// Other calls go on in it. It ends if it computes longer than until the next tick.
    GoesOn,
}

/// The calls that an instance serves.
pub(super) struct Calls {
    /// The one that it was made for.
    first: Caller,
    /// Those that it serves at a time, by the task that each began. A task may go on after its
    /// call; then it has the rights of that call, whose time ends. Tasks get the numbers of those
    /// that ended, so there are not many more than ran at a time.
    by_task: HashMap<GuestTaskId, Caller>,
}

impl Calls {
    pub(super) fn of(first: Caller) -> Self {
        Self { first, by_task: HashMap::new() }
    }

    /// Notes a call that is served beside others.
    pub(super) fn begin(&mut self, task: GuestTaskId, caller: Caller) {
        self.by_task.insert(task, caller);
    }

    /// Forgets those that have ended, when no task is left.
    pub(super) fn clear(&mut self) {
        self.by_task.clear();
    }
}

/// Returns the caller for what the guest does now. To be asked before anything is awaited: nobody
/// knows later which task it was.
pub(super) fn caller(store: &mut impl AsContextMut<Data = Guest>) -> wasmtime::Result<Caller> {
    let mut store = store.as_context_mut();
    if store.data().calls.by_task.is_empty() {
        return Ok(store.data().calls.first.clone());
    }
    // The oldest is the task that the host began; the others are parts of the component.
    let began = store.async_call_stack()?.last();
    let calls = &store.data().calls.by_task;
    let caller = began.and_then(|task| calls.get(&task)).cloned();
    caller.context("the component asked its host for something outside of every call")
}

/// The end of a guest. What it still wrote when it was cut off is no whole body, although the end
/// of its store ends the body like any other.
#[derive(Debug, Default)]
pub(super) struct End {
    how: AtomicU8,
    is_given_up: AtomicBool,
}

const RETURNED: u8 = 1;
const CUT_OFF: u8 = 2;

impl End {
    /// Runs a guest, and notes how it ends: before anything of it is dropped, so that nobody takes
    /// the end of its streams for that of a body.
    pub(super) async fn of<T>(
        &self,
        running: impl Future<Output = wasmtime::Result<wasmtime::Result<T>>>,
    ) -> wasmtime::Result<T> {
        let running = pin!(running);
        // Dropped first, as it was made last.
        let guard = Guard(self);
        let ran = running.await.and_then(|ran| ran);
        if ran.is_ok() {
            guard.0.set(RETURNED);
        }
        ran
    }

    pub(super) fn is_cut_off(&self) -> bool {
        self.how.load(Ordering::Acquire) == CUT_OFF
    }

    /// Notes that nobody waits for the guest any more, whose answer is there.
    pub(super) fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Release);
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Acquire)
    }

    fn set(&self, how: u8) {
        // The first end counts.
        let _ = self.how.compare_exchange(0, how, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// Cuts a guest off when dropped, unless it has returned.
struct Guard<'a>(&'a End);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.set(CUT_OFF);
    }
}

/// Bytes that the host holds for a guest; all of them together may be as many as its memory. Gives
/// them back when dropped.
pub(super) struct Holding {
    of: Arc<Kept>,
    bytes: usize,
    bytes_max: usize,
}

impl Holding {
    #[cfg(test)]
    pub(super) fn of_at_most(bytes_max: usize) -> Self {
        Self { of: Arc::default(), bytes: 0, bytes_max }
    }

    /// Another one of the same guest.
    #[cfg(test)]
    pub(super) fn beside(&self) -> Self {
        Self { of: Arc::clone(&self.of), bytes: 0, bytes_max: self.bytes_max }
    }

    /// Takes more; says whether there is room.
    pub(super) fn grow(&mut self, more: usize) -> bool {
        let taken = self.of.held.fetch_add(more, Ordering::Relaxed);
        self.bytes += more;
        taken.saturating_add(more) <= self.bytes_max
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.of.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Caller {
    pub(super) fn new(call: &Inbound, memory_max_bytes: usize) -> Self {
        let (outward, turn) = (Arc::clone(&call.outward), call.turn.clone());
        let (kept, when_late) = (Arc::default(), WhenLate::Ends);
        Self { outward, turn, memory_max_bytes, kept, end: None, when_late }
    }

    /// Returns the one of a call that is served beside others, in an instance with this turn and
    /// these bytes.
    pub(super) fn in_instance(&self, turn: &Turn, held: &Held) -> Self {
        let kept = Kept { held: Arc::clone(held), configuration: OnceLock::new() };
        Self { turn: turn.clone(), kept: Arc::new(kept), ..self.clone() }
    }

    /// Performs a call of a contract. The outer error ends the guest: its time is over.
    pub(super) async fn call<R: DeserializeOwned>(
        &self,
        (contract, link_name): (&str, &str),
        operation: &'static str,
        argument: &impl Serialize,
    ) -> wasmtime::Result<Result<R, CallError>> {
        let payload = contracts::encode(argument);
        let result = self.send((contract, link_name), operation, payload, None).await?;
        Ok(result.and_then(|payload| {
            contracts::decode(operation, &payload)
                .map_err(|error| CallError::Callee(error.to_string()))
        }))
    }

    pub(super) async fn send(
        &self,
        (contract, link_name): (&str, &str),
        operation: &str,
        payload: Bytes,
        exchange: Option<Arc<Exchange>>,
    ) -> wasmtime::Result<Result<Bytes, CallError>> {
        let request = HostCall {
            binding: link_name.to_owned(),
            namespace: contract.to_owned(),
            operation: operation.to_owned(),
            payload,
            exchange,
        };
        let result = self.outward.host_call(request).await;
        self.go_on().await?;
        Ok(result)
    }

    /// Makes a call that nobody waits for, and that is made also when the guest is gone.
    pub(super) fn call_afterwards(
        &self,
        (contract, link_name): (&str, &str),
        operation: &str,
        argument: &impl Serialize,
    ) {
        self.outward.call_afterwards(HostCall {
            binding: link_name.to_owned(),
            namespace: contract.to_owned(),
            operation: operation.to_owned(),
            payload: contracts::encode(argument),
            exchange: None,
        });
    }

    /// Returns the named configuration of the guest's actor, as it was at the first question of the
    /// call. The outer error ends the guest: its time is over.
    pub(super) async fn configuration(&self) -> wasmtime::Result<Result<Arc<Values>, Unreadable>> {
        let known = &self.kept.configuration;
        if let Some(values) = known.get() {
            return Ok(Ok(Arc::clone(values)));
        }
        let read = self.outward.configuration().await;
        self.go_on().await?;
        Ok(read.map(|values| Arc::clone(known.get_or_init(|| values))))
    }

    async fn go_on(&self) -> wasmtime::Result<()> {
        match self.when_late {
            WhenLate::Ends => go_on(&*self.outward, &self.turn).await,
            WhenLate::GoesOn => Ok(()),
        }
    }

    /// Begins to hold bytes for the guest.
    pub(super) fn hold(&self) -> Holding {
        let bytes_max = self.memory_max_bytes;
        Holding { of: Arc::clone(&self.kept), bytes: 0, bytes_max }
    }

    /// Says whether nothing but so many others has this call any more.
    pub(super) fn is_done_but_for(&self, others: usize) -> bool {
        Arc::strong_count(&self.kept) <= others + 1
    }

    /// Chooses the link that a name inside an interface means: the one of that name if there is
    /// one, the default link if not.
    pub(super) fn link_for<'a>(&self, contract: &str, name: &'a str) -> &'a str {
        if !is_default(name) && self.link_end(contract, name) != LinkEnd::None { name } else { "" }
    }

    /// Says where a link leads; an empty name stands for the default link.
    pub(super) fn link_end(&self, contract: &str, name: &str) -> LinkEnd {
        self.outward.link_end(contract, if name.is_empty() { DEFAULT } else { name })
    }
}

/// Whether a name means the default link.
pub(super) fn is_default(name: &str) -> bool {
    name.is_empty() || name == DEFAULT
}

/// A host that answers the calls of a guest from a function.
#[cfg(test)]
pub(super) mod fake {
    use std::{
        future,
        time::{Duration, Instant},
    };

    use futures::future::BoxFuture;

    use super::*;
    use crate::actors::turns::{ActorTurns, Turns};

    struct Host<F>(F);

    /// Returns the caller of a guest with so much memory. A call without an answer never ends.
    pub fn caller<F>(memory_max_bytes: usize, answer: F) -> Caller
    where
        F: Fn(HostCall) -> Option<Result<Bytes, CallError>> + Send + Sync + 'static,
    {
        Caller {
            outward: Arc::new(Host(answer)),
            turn: ActorTurns::new(&Turns::new(2)).turn(0),
            memory_max_bytes,
            kept: Arc::default(),
            end: None,
            when_late: WhenLate::Ends,
        }
    }

    impl<F> Outward for Host<F>
    where
        F: Fn(HostCall) -> Option<Result<Bytes, CallError>> + Send + Sync,
    {
        fn ends_at(&self) -> Instant {
            Instant::now() + Duration::from_secs(3600)
        }

        fn host_call(&self, request: HostCall) -> BoxFuture<'_, Result<Bytes, CallError>> {
            match (self.0)(request) {
                Some(answer) => Box::pin(future::ready(answer)),
                None => Box::pin(future::pending()),
            }
        }

        fn call_afterwards(&self, request: HostCall) {
            let _ = (self.0)(request);
        }

        fn link_end(&self, _: &str, _: &str) -> LinkEnd {
            LinkEnd::Builtin
        }

        fn configuration(&self) -> BoxFuture<'_, Result<Arc<Values>, Unreadable>> {
            Box::pin(future::ready(Ok(Arc::default())))
        }
    }
}

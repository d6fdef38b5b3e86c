//! One guest called directly, for those who measure what a host adds to it.
//!
//! * [`Bare`] is a module in wasmtime alone: the pool of a host and memories with room, and nothing
//!   that bounds the guest.
//! * [`Bounded`] is the same module as an actor has it: its memory, its time and its turns are
//!   bounded. Permits, claims and the router are not there.
//!
//! No host uses what is here, and what a guest wants of the host is refused.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use wasmtime::{
    Caller, InstancePre, Linker, Memory, Module, Store, TypedFunc, bail, error::Context as _,
};

use super::{
    component::config::{Unreadable, Values},
    engine::{self, Engine},
    guest::{self, Abi, Entry, Guest},
    inbound::{Ended, HostCall, Inbound, Outcome, Outward},
    room::with_room,
    sink::Sink,
    turns::ActorTurns,
    weight::Weight,
};
use crate::{journal::Journal, router::LinkEnd, rpc::call::CallError};

/// Memory that one instance may have, in bytes: what a host gives without settings.
const MEMORY_MAX_BYTES: usize = 256 * 1024 * 1024;
/// Time of one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Under this name the guest logs.
const NAME: &str = "measured";

/// A module in wasmtime alone.
pub struct Bare {
    pre: InstancePre<Plain>,
    initialisers: Vec<&'static str>,
}

/// The state of a bare instance.
struct Plain {
    operation: String,
    payload: Bytes,
    answer: Option<Bytes>,
    memory: Option<Memory>,
}

/// A bare instance between calls.
pub struct BareInstance {
    store: Store<Plain>,
    guest_call: TypedFunc<(u32, u32), u32>,
}

impl Bare {
    /// Compiles a module with the waPC interface. Blocks for as long as that takes. `instances` may
    /// exist at a time.
    pub fn new(wasm: &[u8], instances: u32) -> anyhow::Result<Self> {
        Ok(Self::load(wasm, instances)?)
    }

    fn load(wasm: &[u8], instances: u32) -> wasmtime::Result<Self> {
        let mut config = engine::pooled_config(MEMORY_MAX_BYTES, instances);
        config.epoch_interruption(false);
        let engine = wasmtime::Engine::new(&config)?;
        let module = Module::new(&engine, with_room(wasm, MEMORY_MAX_BYTES))?;
        let Entry::Wapc { initialisers } = Abi::of(&module)?.entry else {
            bail!("it has no waPC interface")
        };
        let mut linker = Linker::new(&engine);
        for name in guest::IMPORT_MODULES {
            define(&mut linker, name)?;
        }
        linker.define_unknown_imports_as_traps(&module)?;
        Ok(Self { pre: linker.instantiate_pre(&module)?, initialisers })
    }

    /// Makes an instance.
    pub fn instance(&self) -> anyhow::Result<BareInstance> {
        Ok(self.instantiate()?)
    }

    fn instantiate(&self) -> wasmtime::Result<BareInstance> {
        let plain =
            Plain { operation: String::new(), payload: Bytes::new(), answer: None, memory: None };
        let mut store = Store::new(self.pre.module().engine(), plain);
        let instance = self.pre.instantiate(&mut store)?;
        store.data_mut().memory = instance.get_memory(&mut store, "memory");
        for name in &self.initialisers {
            instance.get_typed_func::<(), ()>(&mut store, name)?.call(&mut store, ())?;
        }
        let guest_call = instance.get_typed_func(&mut store, "__guest_call")?;
        Ok(BareInstance { store, guest_call })
    }
}

impl BareInstance {
    /// Makes a call and returns its answer.
    pub fn call(&mut self, operation: &str, payload: &Bytes) -> anyhow::Result<Bytes> {
        let plain = self.store.data_mut();
        operation.clone_into(&mut plain.operation);
        plain.payload = payload.clone();
        plain.answer = None;
        let lengths = (operation.len() as u32, payload.len() as u32);
        let code = self.guest_call.call(&mut self.store, lengths)?;
        anyhow::ensure!(code == 1, "the guest refuses {operation}");
        Ok(self.store.data_mut().answer.take().unwrap_or_default())
    }
}

/// Defines the functions with which a guest reads a call and answers it.
fn define(linker: &mut Linker<Plain>, module: &str) -> wasmtime::Result<()> {
    linker.func_wrap(
        module,
        "__guest_request",
        |mut caller: Caller<'_, Plain>, operation: u32, payload: u32| {
            let memory = caller.data().memory.context("the guest has no memory")?;
            let (data, plain) = memory.data_and_store_mut(&mut caller);
            put(data, operation, plain.operation.as_bytes())?;
            put(data, payload, &plain.payload)
        },
    )?;
    linker.func_wrap(
        module,
        "__guest_response",
        |mut caller: Caller<'_, Plain>, pointer: u32, length: u32| {
            let memory = caller.data().memory.context("the guest has no memory")?;
            let (data, plain) = memory.data_and_store_mut(&mut caller);
            let start = pointer as usize;
            let answer = data.get(start..start.saturating_add(length as usize));
            let answer = answer.context("the answer is outside of the memory")?;
            plain.answer = Some(Bytes::copy_from_slice(answer));
            wasmtime::error::Ok(())
        },
    )?;
    linker.func_wrap(module, "__guest_error", |_: u32, _: u32| {})?;
    linker.func_wrap(module, "__console_log", |_: u32, _: u32| {})?;
    Ok(())
}

/// Writes into the memory of a guest.
fn put(data: &mut [u8], pointer: u32, bytes: &[u8]) -> wasmtime::Result<()> {
    let start = pointer as usize;
    let place = data.get_mut(start..start.saturating_add(bytes.len()));
    place.context("the guest asks for data outside of its memory")?.copy_from_slice(bytes);
    Ok(())
}

/// A module as an actor has it, without the actor.
pub struct Bounded {
    engine: Engine,
    pre: InstancePre<Guest>,
    abi: Abi,
    sink: Arc<Sink>,
    turns: Arc<ActorTurns>,
}

/// An instance that may serve again, or none.
#[derive(Default)]
pub struct Kept(Option<guest::Idle>);

impl Bounded {
    /// Compiles a module; the same holds as for [`Bare::new`].
    pub fn new(wasm: &[u8], instances: u32, cache_dir: Option<PathBuf>) -> anyhow::Result<Self> {
        let settings = engine::Settings {
            slots: Some(instances),
            memory_max_bytes: MEMORY_MAX_BYTES,
            cache_dir,
            sharing: None,
        };
        let (engine, _) = Engine::new(settings)?;
        let module = engine.compile(wasm, &Weight::of(wasm)?)?;
        let abi = Abi::of(&module)?;
        let pre = guest::linker(&module, &abi)?;
        let sink = Sink::new(NAME.into(), Journal::new(NAME).writer(NAME, ""));
        let turns = ActorTurns::new(&engine.turns());
        Ok(Self { engine, pre, abi, sink, turns })
    }

    /// Makes a call in the instance that was kept, or in a fresh one. Returns the answer and the
    /// instance. Safe to drop: the instance goes with it.
    pub async fn call(
        &self,
        kept: Kept,
        operation: &str,
        payload: &Bytes,
    ) -> Result<(Bytes, Kept), CallError> {
        let _ticking = self.engine.tick();
        let call = Inbound {
            operation: operation.to_owned(),
            payload: payload.clone(),
            exchange: None,
            outward: Arc::new(Nowhere { ends_at: Instant::now() + CALL_TIMEOUT }),
            turn: self.turns.turn(0),
        };
        let memory_max = self.engine.memory_max_bytes();
        match guest::run(&self.pre, &self.abi, &self.sink, memory_max, kept.0, call).await {
            Outcome::Returned(result, kept) => Ok((result?, Kept(kept))),
            Outcome::Ended(Ended::Trap(reason)) => {
                Err(CallError::Trap { actor_id: NAME.to_owned(), reason })
            }
            Outcome::Ended(Ended::PastDeadline) => Err(CallError::Deadline {
                actor_id: NAME.to_owned(),
                limit_ms: CALL_TIMEOUT.as_millis(),
            }),
        }
    }
}

/// The way out of a guest that has no host.
struct Nowhere {
    ends_at: Instant,
}

impl Outward for Nowhere {
    fn ends_at(&self) -> Instant {
        self.ends_at
    }

    fn host_call(&self, request: HostCall) -> BoxFuture<'_, Result<Bytes, CallError>> {
        let refusal = format!("{} is not there: the guest is measured alone", request.namespace);
        async move { Err(CallError::Callee(refusal)) }.boxed()
    }

    fn call_afterwards(&self, _: HostCall) {}

    fn link_end(&self, _: &str, _: &str) -> LinkEnd {
        LinkEnd::None
    }

    fn configuration(&self) -> BoxFuture<'_, Result<Arc<Values>, Unreadable>> {
        async { Ok(Arc::default()) }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECHO: &[u8] = include_bytes!("../../../examples/actors/signed/echo.wasm");
    const OPERATION: &str = "Actor.HealthRequest";
    const REQUEST: Bytes = Bytes::from_static(&[0x80]);

    #[tokio::test]
    async fn the_guest_answers_alike_alone_and_bounded_fresh_and_used() {
        let (bare, bounded) = (Bare::new(ECHO, 4).unwrap(), Bounded::new(ECHO, 4, None).unwrap());
        let mut instance = bare.instance().unwrap();
        let first = instance.call(OPERATION, &REQUEST).unwrap();
        assert!(!first.is_empty());
        assert_eq!(instance.call(OPERATION, &REQUEST).unwrap(), first);
        let (answer, kept) = bounded.call(Kept::default(), OPERATION, &REQUEST).await.unwrap();
        assert_eq!(answer, first);
        assert!(kept.0.is_some());
        let (answer, _) = bounded.call(kept, OPERATION, &REQUEST).await.unwrap();
        assert_eq!(answer, first);
        assert!(instance.call("No.Such", &REQUEST).is_err());
    }
}

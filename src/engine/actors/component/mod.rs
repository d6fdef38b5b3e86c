//! Components: guests of today's toolchains, beside the modules with the waPC interface.
//!
//! A component says by its types what it takes and gives. What it imports is answered here by thin
//! bridges onto the contracts of a lattice ([`http`], [`keyvalue`], [`blobstore`], [`messaging`],
//! [`logging`], [`config`], [`secrets`]); every call of a bridge goes the way of a module's host
//! call, so that capabilities, links, policy and both paths are the same. What it exports is called
//! by the operations of those contracts ([`Exports`]). The components document has the tables.
//!
//! * [`engine`] has wasmtime's configuration for components.
//! * [`linker`] puts the bridges together, and makes traps of imports that nobody answers.
//! * [`cli`] runs a component that is a job.
//! * [`caller`] makes the calls of a guest; [`instances`] counts what a component is made of,
//!   before it is compiled.
//!
//! Invariants:
//! * An instance serves one call at a time, unless it answers requests and is of WASI 0.3
//!   ([`http::worker`]). One that answered a request to its end may answer further ones, if it is
//!   of WASI 0.3 or its annotation says so; every other is gone with its call.
//! * Each call that a guest makes is one for the call that it serves, with the deadline, the trace
//!   and the place in its chain of that one ([`caller`]).
//! * An instance that still waits for the host after its call is not used again: the answer would
//!   come under the deadline and the right to run of another call.
//! * A guest has no files, no environment, no sockets; its output goes to the actor's log.
//! * Nothing that a lattice refuses traps the guest: it is an error of the interface.

pub mod blobstore;
mod caller;
pub mod cli;
pub mod config;
pub mod engine;
pub mod http;
mod instances;
pub mod keyvalue;
pub mod linker;
pub mod logging;
pub mod messaging;
pub mod secrets;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use bytes::Bytes;
use wasmtime::{
    ResourceLimiter, Store, StoreContextMut,
    component::{InstancePre, Resource, ResourceTable},
};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::{
    engine::Engine,
    inbound::{self, Ended, Inbound, Outcome, TEXT_BYTES_MAX, at_tick},
    sink::{Level, Sink},
    weight::Weight,
};
use crate::rpc::call::CallError;
use caller::{Caller, Calls, caller, is_default};
use engine::Needs;
use instances::Instances;
use lattice_protocol::{
    contracts::{
        self, blobstore as blobs, health::HealthResponse, httpserver, messaging as messages,
    },
    identity::WasmInfo,
};

/// Handles of the host that one instance may hold.
const RESOURCES_MAX: usize = 10_000;
/// Handles of the component model that one instance may hold.
const HANDLES_MAX: usize = 10_000;
/// Bytes that a guest may hand over in one call of the host.
const HOSTCALL_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Instances of modules and of components of which one instance may consist: each takes its time to
/// compile. Python takes 14.
const INSTANCES_MAX: u32 = 10_000;
/// Random bytes that a guest may ask for at once.
const RANDOM_BYTES_MAX: u64 = 1024 * 1024;
/// Tells an actor's health; answered for it.
const HEALTH: &str = "Actor.HealthRequest";

/// Why a component cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    #[error("compile: {0}")]
    Compile(String),
    #[error(
        "it imports whole programs or values, which no host hands over: {}; put them in before it \
         is signed, for example with `wac plug`",
        .0.join(", ")
    )]
    Impossible(Vec<String>),
    #[error(
        "one instance of it is made of more than {INSTANCES_MAX} instances of what is inside, or \
         of components that are no part of the file; instantiate fewer of them, each from the file"
    )]
    TooManyInstances,
    #[error("its imports do not fit: {0}")]
    Link(String),
    #[error(
        "it exports nothing that can be called ({exports}); it needs {}, {}, {} or {}",
        http::INCOMING,
        http::HANDLER,
        messaging::HANDLER,
        cli::RUN
    )]
    NoEntry { exports: String },
    #[error(
        "one instance takes {needed} slots of the pool ({memories} memories, {tables} tables, \
         {cores} core instances), and calls may use {slots}; raise actor_instances_max"
    )]
    TooManySlots { needed: u32, memories: u32, tables: u32, cores: u32, slots: u32 },
}

/// A compiled component with its imports resolved.
pub struct Prepared {
    exports: Exports,
    /// Imports that nothing answers; calls of them trap.
    pub unserved: Vec<String>,
    /// The slots of the pool that one instance takes.
    pub slots: u32,
    /// Calls that an instance usually serves.
    pub reuse_usual: u32,
    dropped: blobstore::Dropped,
    /// Counts the memory of all instances of components.
    bytes_of_all: Arc<AtomicUsize>,
}

/// An instance that may serve again. Its store has its last call, and so its actor, until the next
/// one or until it goes.
pub struct Idle {
    store: Store<Guest>,
    proxy: wasmtime_wasi_http::handler::Proxy,
    /// Calls it has served.
    pub served: u32,
}

/// Whether an instance may be kept for another call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    Never,
    Possible,
}

impl Reuse {
    pub fn of(calls_max: u32) -> Self {
        if calls_max > 1 { Self::Possible } else { Self::Never }
    }
}

/// How a component can be called.
struct Exports {
    pre: InstancePre<Guest>,
    http: Option<wasmtime_wasi_http::handler::ProxyPre<Guest>>,
    messages: Option<messaging::Handler>,
    job: Option<cli::Job>,
    /// For messages.
    names: String,
}

impl Prepared {
    /// Compiles a component and resolves its imports; the rules of [`Engine::compile`] hold.
    /// `slots_max` is what one call may take.
    pub fn load(
        engine: &Engine,
        wasm: &[u8],
        info: &WasmInfo,
        weight: &Weight,
        slots_max: u32,
    ) -> Result<Self, ComponentError> {
        let impossible = linker::impossible(info);
        if !impossible.is_empty() {
            return Err(ComponentError::Impossible(impossible));
        }
        let instances = Instances::of(wasm);
        if instances.cores.max(instances.components) > INSTANCES_MAX {
            return Err(ComponentError::TooManyInstances);
        }
        let mut compiled = engine
            .compile_component(wasm, weight)
            .map_err(|e| ComponentError::Compile(format!("{e:#}")))?;
        let needs = Needs::of(&compiled.component, instances.cores);
        let Needs { memories, tables, cores } = needs;
        let slots = needs.slots();
        if slots > slots_max {
            return Err(ComponentError::TooManySlots {
                needed: slots,
                memories,
                tables,
                cores,
                slots: slots_max,
            });
        }
        linker::stub_unserved(&mut compiled.linker, &compiled.component)
            .map_err(|e| ComponentError::Link(format!("{e:#}")))?;
        let pre = compiled
            .linker
            .instantiate_pre(&compiled.component)
            .map_err(|e| ComponentError::Link(format!("{e:#}")))?;
        let names = info.exports.iter().map(|export| export.name.as_str()).collect::<Vec<_>>();
        let exports = Exports::of(pre, names.join(", "));
        if exports.is_empty() {
            return Err(ComponentError::NoEntry { exports: exports.names });
        }
        let dropped = blobstore::Dropped::of(&compiled.component);
        let reuse_usual = exports.http.as_ref().map_or(1, http::reuse_usual);
        let (unserved, bytes_of_all) = (info.unanswered(), Arc::clone(engine.component_bytes()));
        Ok(Self { exports, unserved, slots, reuse_usual, dropped, bytes_of_all })
    }

    /// Returns the parts of an instance that is made for a call.
    fn instance(&self, caller: Caller, sink: Arc<Sink>) -> Instance {
        let (dropped, bytes_of_all) = (self.dropped, Arc::clone(&self.bytes_of_all));
        Instance { caller, sink, refusal: Refusal::default(), dropped, bytes_of_all }
    }

    /// Says whether an instance that has served may take a call of this operation: only those that
    /// answer requests may serve again.
    pub fn can_reuse(&self, operation: &str) -> bool {
        operation == httpserver::HANDLE_REQUEST && self.answers_requests()
    }

    /// Says whether an instance can serve several calls of this operation at a time.
    pub fn can_share(&self, operation: &str) -> bool {
        self.can_reuse(operation) && self.exports.http.as_ref().is_some_and(http::answers_several)
    }

    /// Says whether it answers requests.
    pub fn answers_requests(&self) -> bool {
        self.exports.http.is_some()
    }
}

impl Exports {
    fn of(pre: InstancePre<Guest>, names: String) -> Self {
        Self {
            http: http::proxy(&pre),
            messages: messaging::Handler::of(&pre),
            job: cli::Job::of(&pre),
            names,
            pre,
        }
    }

    fn is_empty(&self) -> bool {
        self.http.is_none() && self.messages.is_none() && self.job.is_none()
    }

    fn lacks(&self, operation: &str, wanted: &str) -> Failure {
        let names = &self.names;
        Failure::Told(format!(
            "the component cannot answer {operation}: it exports {names}, not {wanted}"
        ))
    }
}

/// The store of an instance.
pub struct Guest {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: http::Hooks,
    limits: Limits,
    calls: Calls,
    sink: Arc<Sink>,
    dropped: blobstore::Dropped,
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: &mut self.table, ctx: &mut self.http }
    }
}

/// Drops a resource of this host that a guest had.
fn drop_resource<T: 'static>(
    mut store: StoreContextMut<'_, Guest>,
    rep: u32,
) -> wasmtime::Result<()> {
    store.data_mut().table.delete(Resource::<T>::new_own(rep))?;
    Ok(())
}

/// Counts the memory of an instance, all of its memories together, and remembers a refusal so that
/// the trap that follows can be explained.
struct Limits {
    memory_max_bytes: usize,
    used_bytes: usize,
    bytes_of_all: Arc<AtomicUsize>,
    refusal: Refusal,
}

impl Drop for Limits {
    fn drop(&mut self) {
        self.bytes_of_all.fetch_sub(self.used_bytes, Ordering::Relaxed);
    }
}

/// Set when a guest was refused memory; outlives its store.
type Refusal = Arc<AtomicBool>;

impl ResourceLimiter for Limits {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // Refused by the engine in any case: the memory itself may not have so much.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(true);
        }
        let more = desired.saturating_sub(current);
        let allowed = self.used_bytes.saturating_add(more) <= self.memory_max_bytes;
        if allowed {
            self.used_bytes += more;
            self.bytes_of_all.fetch_add(more, Ordering::Relaxed);
        }
        self.refusal.fetch_or(!allowed, Ordering::Relaxed);
        Ok(allowed)
    }

    fn table_growing(
        &mut self,
        _: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= engine::TABLE_ELEMENTS)
    }
}

/// Why a call of a guest has no result.
enum Failure {
    /// The guest said so, or cannot be asked; the text is for the caller.
    Told(String),
    /// The instance ended.
    Ended(wasmtime::Error),
}

impl From<wasmtime::Error> for Failure {
    fn from(error: wasmtime::Error) -> Self {
        Self::Ended(error)
    }
}

/// Runs one call in `idle` or in a fresh instance. Safe to drop: the instance goes with it.
pub async fn run(
    prepared: &Prepared,
    (sink, memory_max_bytes): (&Arc<Sink>, usize),
    idle: Option<Box<Idle>>,
    reuse: Reuse,
    call: Inbound,
) -> Outcome<Box<Idle>> {
    let caller = Caller::new(&call, memory_max_bytes);
    let instance = prepared.instance(caller, Arc::clone(sink));
    let refusal = Arc::clone(&instance.refusal);
    let ran = match (&*call.operation, &prepared.exports.http) {
        (httpserver::HANDLE_REQUEST, Some(proxy)) => {
            http::handle(proxy, instance, idle, reuse, (call.payload, call.exchange)).await
        }
        (operation, _) => {
            let ran = dispatch(&prepared.exports, instance, operation, call.payload).await;
            ran.map(|payload| (payload, None))
        }
    };
    match ran {
        Ok((payload, idle)) => Outcome::Returned(Ok(payload), idle),
        Err(Failure::Told(text)) => Outcome::Returned(Err(told_to_caller(text)), None),
        Err(Failure::Ended(error)) => {
            let refused = refusal.load(Ordering::Relaxed);
            Outcome::Ended(ended(&error, refused.then_some(memory_max_bytes)))
        }
    }
}

/// Makes the error of a call from what its guest, or something in its name, said.
fn told_to_caller(mut text: String) -> CallError {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    CallError::Callee(text)
}

/// Takes a call to the export that its operation means (components, section 2.14).
async fn dispatch(
    exports: &Exports,
    instance: Instance,
    operation: &str,
    payload: Bytes,
) -> Result<Bytes, Failure> {
    match operation {
        httpserver::HANDLE_REQUEST => Err(exports.lacks(operation, http::INCOMING)),
        messages::HANDLE_MESSAGE => match &exports.messages {
            Some(handler) => handler.handle(&exports.pre, instance, &payload).await,
            None => Err(exports.lacks(operation, messaging::HANDLER)),
        },
        HEALTH => {
            let mut store = instance.store(&exports.pre, Output::Log);
            exports.pre.instantiate_async(&mut store).await?;
            Ok(contracts::encode(&HealthResponse { healthy: true, message: None }))
        }
        // Downloads are read by ranges, so further chunks are not wanted.
        blobs::RECEIVE_CHUNK => {
            Ok(contracts::encode(&blobs::ChunkResponse { cancel_download: true }))
        }
        _ => match &exports.job {
            Some(job) => cli::run(job, instance, &exports.pre, operation, payload).await,
            None => Err(exports.lacks(operation, cli::RUN)),
        },
    }
}

/// The parts that an instance is made from.
struct Instance {
    caller: Caller,
    sink: Arc<Sink>,
    refusal: Refusal,
    dropped: blobstore::Dropped,
    bytes_of_all: Arc<AtomicUsize>,
}

/// Where the standard streams of an instance lead.
enum Output {
    Log,
    /// A job: its argument, its input, and where its output goes.
    Job(String, Bytes, wasmtime_wasi::p2::pipe::MemoryOutputPipe),
}

impl Instance {
    /// Makes the store; the guest yields to other tasks on every tick of the epoch, and goes on
    /// when it is its turn.
    fn store(&self, pre: &InstancePre<Guest>, output: Output) -> Store<Guest> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        let memory_max_bytes = self.caller.memory_max_bytes;
        let guest = Guest {
            table,
            wasi: context(&self.sink, output),
            http: WasiHttpCtx::new(),
            hooks: http::Hooks::new(self.caller.clone()),
            limits: Limits {
                memory_max_bytes,
                used_bytes: 0,
                bytes_of_all: Arc::clone(&self.bytes_of_all),
                refusal: Arc::clone(&self.refusal),
            },
            calls: Calls::of(self.caller.clone()),
            sink: Arc::clone(&self.sink),
            dropped: self.dropped,
        };
        let mut store = Store::new(pre.engine(), guest);
        store.limiter(|guest| &mut guest.limits);
        store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
        store.set_max_component_handles(HANDLES_MAX);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut context| {
            let Caller { outward, turn, .. } = caller(&mut context)?;
            at_tick(&*outward, &turn)
        });
        store
    }

    /// Gives a store that has served to the next call.
    fn take_over(&self, store: &mut Store<Guest>) {
        let guest = store.data_mut();
        guest.hooks = http::Hooks::new(self.caller.clone());
        guest.calls = Calls::of(self.caller.clone());
        guest.limits.refusal = Arc::clone(&self.refusal);
        store.set_epoch_deadline(1);
    }
}

/// Builds what WASI gives to a guest: clocks, random numbers, the log, and nothing of this machine.
fn context(sink: &Arc<Sink>, output: Output) -> WasiCtx {
    let mut context = WasiCtx::builder();
    context
        .stdout(sink.stream(Level::Debug))
        .stderr(sink.stream(Level::Warn))
        .allow_blocking_current_thread(false)
        .allow_ip_name_lookup(false)
        .allow_tcp(false)
        .allow_udp(false)
        .max_random_size(RANDOM_BYTES_MAX)
        .socket_addr_check(|_, _| Box::pin(async { false }));
    match output {
        Output::Log => context.args(&["main.wasm"]),
        Output::Job(operation, input, output) => context
            .args(&["main.wasm", &operation])
            .stdin(wasmtime_wasi::p2::pipe::MemoryInputPipe::new(input))
            .stdout(output),
    };
    context.build()
}

/// Puts the end of an instance into words.
fn ended(error: &wasmtime::Error, refused_at: Option<usize>) -> Ended {
    match error.downcast_ref::<I32Exit>() {
        Some(exit) => {
            inbound::trapped(format!("it ended itself with exit code {}", exit.0), refused_at)
        }
        None => inbound::ended(error, refused_at),
    }
}

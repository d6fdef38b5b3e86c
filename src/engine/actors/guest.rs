//! The waPC interface: what a guest module imports from the host, and how one call goes through one
//! instance.
//!
//! The guest owns its memory. For a call the host tells it two lengths (`__guest_call`), the guest
//! allocates and asks for the bytes (`__guest_request`), works, calls out if it must
//! (`__host_call`, then `__host_response` or `__host_error`), and hands back a result
//! (`__guest_response`) or a text (`__guest_error`). All functions exist under the module names
//! `wasmbus` and `wapc`; WASI preview 1 is there for modules that want it (wasmbus protocol,
//! section 4).
//!
//! Invariants:
//! * One call at a time goes through an instance, and none after a trap.
//! * Every pointer of the guest is checked; a zero length is never looked at, whatever the pointer.
//! * `__host_call` returns exactly 1 or 0: some SDKs take every other value for success.
//! * A guest that asks for a response or an error again gets it again, until its next host call.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime::{
    AsContext, AsContextMut, Caller, FuncType, Instance, InstancePre, Linker, Memory, Module,
    ResourceLimiter, Store, TypedFunc, UpdateDeadline, bail, error::Context as _,
};
use wasmtime_wasi::{
    I32Exit, WasiCtx, WasiCtxBuilder, WasiView,
    p1::WasiP1Ctx,
    p2::pipe::{MemoryInputPipe, MemoryOutputPipe},
};

use super::{
    inbound::{
        Ended, HostCall, Inbound, Outcome, TEXT_BYTES_MAX, at_tick, call_out, ended, failed_with,
    },
    sink::{Level, Sink},
};
use crate::rpc::call::CallError;

/// The import modules under which the interface is offered.
pub(super) const IMPORT_MODULES: [&str; 2] = ["wasmbus", "wapc"];
const WASI: &str = "wasi_snapshot_preview1";
/// The name of WASI before it had one.
const WASI_OLD: &str = "wasi_unstable";
/// Handles that WASI may hold for a guest at a time, as in one `poll_oneoff` with many
/// subscriptions.
const WASI_HANDLES_MAX: usize = 1024;

/// Why a module cannot be linked.
#[derive(Debug, thiserror::Error)]
pub enum AbiError {
    #[error(
        "it exports neither __guest_call (waPC) nor _start (WASI command), so nothing can be called; build it with an actor SDK"
    )]
    NoEntry,
    #[error("its {name} has the wrong type, expected {expected}")]
    WrongType { name: &'static str, expected: &'static str },
    #[error("it exports no memory")]
    NoMemory,
    #[error("it imports what no actor host offers: {0}")]
    Imports(String),
}

impl AbiError {
    fn imports(error: wasmtime::Error) -> Self {
        Self::Imports(format!("{error:#}"))
    }
}

/// How a module wants to be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// `__guest_call`, with these initialisers once per instance, in this order.
    Wapc { initialisers: Vec<&'static str> },
    /// `_start` per call: the operation is an argument, payload and result are the standard
    /// streams.
    Command,
}

/// Facts about a module, found when it was loaded.
#[derive(Clone, Debug)]
pub struct Abi {
    pub entry: Entry,
    pub uses_wasi: bool,
}

impl Abi {
    /// Looks at the exports and imports of a module.
    pub fn of(module: &Module) -> Result<Self, AbiError> {
        if module.get_export("memory").is_none_or(|export| export.memory().is_none()) {
            return Err(AbiError::NoMemory);
        }
        let entry = match exported_function(module, "__guest_call") {
            Some(call) if is_i32(call.params(), 2) && is_i32(call.results(), 1) => {
                let initialisers = ["_initialize", "_start", "wapc_init"];
                let exported = initialisers
                    .into_iter()
                    .filter(|name| exported_function(module, name).is_some());
                Entry::Wapc { initialisers: exported.collect() }
            }
            Some(_) => {
                return Err(AbiError::WrongType {
                    name: "__guest_call",
                    expected: "(i32, i32) -> i32",
                });
            }
            None if exported_function(module, "_start").is_some() => Entry::Command,
            None => return Err(AbiError::NoEntry),
        };
        let uses_wasi = module.imports().any(|import| matches!(import.module(), WASI | WASI_OLD));
        Ok(Self { entry, uses_wasi })
    }
}

fn exported_function(module: &Module, name: &str) -> Option<FuncType> {
    module.get_export(name)?.func().cloned()
}

fn is_i32(mut types: impl ExactSizeIterator<Item = wasmtime::ValType>, count: usize) -> bool {
    types.len() == count && types.all(|ty| ty.is_i32())
}

/// The store of an instance: the call it is in, and its limits.
pub struct Guest {
    call: Option<Inbound>,
    response: Option<Bytes>,
    error: Option<String>,
    host_response: Bytes,
    host_error: String,
    memory: Option<Memory>,
    limits: Limits,
    sink: Arc<Sink>,
    // Boxed, for few modules import it and a guest is moved.
    wasi: Option<Box<WasiP1Ctx>>,
}

/// Counts memory against the limit and remembers a refusal, so that the trap that follows can be
/// explained.
struct Limits {
    memory_max_bytes: usize,
    refused: bool,
}

impl Limits {
    /// Returns the limit if more was refused.
    fn refused_at(&self) -> Option<usize> {
        self.refused.then_some(self.memory_max_bytes)
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(
        &mut self,
        _: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let allowed = desired <= self.memory_max_bytes;
        self.refused |= !allowed;
        Ok(allowed)
    }

    fn table_growing(
        &mut self,
        _: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= super::engine::TABLE_ELEMENTS)
    }

    fn tables(&self) -> usize {
        super::engine::TABLES_PER_MODULE as usize
    }
}

/// An instance between calls.
pub struct Idle {
    store: Store<Guest>,
    guest_call: TypedFunc<(u32, u32), u32>,
    /// Calls it has served.
    pub served: u32,
}

/// Prepares a module for instantiation.
pub fn linker(module: &Module, abi: &Abi) -> Result<InstancePre<Guest>, AbiError> {
    let mut linker = Linker::new(module.engine());
    for name in IMPORT_MODULES {
        define(&mut linker, name, HostCallForm::of(module, name)).map_err(AbiError::imports)?;
    }
    if abi.uses_wasi {
        // Present whenever `uses_wasi` is, see `Guest::new`.
        wasmtime_wasi::p1::add_to_linker_async(&mut linker, |guest: &mut Guest| {
            guest.wasi.as_mut().expect("a guest that imports WASI was given one")
        })
        .map_err(AbiError::imports)?;
        linker.alias_module(WASI, WASI_OLD).map_err(AbiError::imports)?;
    }
    // AssemblyScript modules call this when an assertion fails.
    linker
        .func_wrap("env", "abort", |_: i32, _: i32, _: i32, _: i32| -> wasmtime::Result<()> {
            bail!("the guest aborted itself")
        })
        .map_err(AbiError::imports)?;
    linker.instantiate_pre(module).map_err(AbiError::imports)
}

/// The parameters with which a module imports `__host_call`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HostCallForm {
    Full,
    /// As old AssemblyScript guests do.
    WithoutBinding,
}

impl HostCallForm {
    fn of(module: &Module, import_module: &str) -> Self {
        let mut imports = module.imports();
        let import = imports
            .find(|import| import.module() == import_module && import.name() == "__host_call");
        match import.and_then(|import| Some(import.ty().func()?.params().len())) {
            Some(6) => Self::WithoutBinding,
            _ => Self::Full,
        }
    }
}

/// Defines the functions of the waPC ABI that a module imports from `module`.
fn define(linker: &mut Linker<Guest>, module: &str, form: HostCallForm) -> wasmtime::Result<()> {
    define_call(linker, module)?;
    define_host_call(linker, module, form)?;
    linker.func_wrap(
        module,
        "__console_log",
        |mut caller: Caller<'_, Guest>, pointer: u32, length: u32| {
            let text = read(&mut caller, pointer, length.min(TEXT_BYTES_MAX as u32))?;
            caller.data().sink.log(Level::Info, &String::from_utf8_lossy(&text));
            wasmtime::error::Ok(())
        },
    )?;
    Ok(())
}

/// Defines how a guest reads the call that it serves, and answers it.
fn define_call(linker: &mut Linker<Guest>, module: &str) -> wasmtime::Result<()> {
    linker.func_wrap(
        module,
        "__guest_request",
        |mut caller: Caller<'_, Guest>, operation: u32, payload: u32| {
            let Some(call) = &caller.data().call else {
                bail!("__guest_request outside of a call")
            };
            let (name, argument) = (call.operation.clone(), call.payload.clone());
            write(&mut caller, operation, name.as_bytes())?;
            write(&mut caller, payload, &argument)
        },
    )?;
    linker.func_wrap(
        module,
        "__guest_response",
        |mut caller: Caller<'_, Guest>, pointer: u32, length: u32| {
            let response = read(&mut caller, pointer, length)?;
            caller.data_mut().response = Some(response);
            wasmtime::error::Ok(())
        },
    )?;
    linker.func_wrap(
        module,
        "__guest_error",
        |mut caller: Caller<'_, Guest>, pointer: u32, length: u32| {
            let text = read(&mut caller, pointer, length.min(TEXT_BYTES_MAX as u32))?;
            caller.data_mut().error = Some(String::from_utf8_lossy(&text).into_owned());
            wasmtime::error::Ok(())
        },
    )?;
    Ok(())
}

/// Defines how a guest makes a call, and reads the answer.
fn define_host_call(
    linker: &mut Linker<Guest>,
    module: &str,
    form: HostCallForm,
) -> wasmtime::Result<()> {
    linker.func_wrap(module, "__host_response_len", |caller: Caller<'_, Guest>| {
        caller.data().host_response.len() as u32
    })?;
    linker.func_wrap(
        module,
        "__host_response",
        |mut caller: Caller<'_, Guest>, pointer: u32| {
            let response = caller.data().host_response.clone();
            write(&mut caller, pointer, &response)
        },
    )?;
    linker.func_wrap(module, "__host_error_len", |caller: Caller<'_, Guest>| {
        caller.data().host_error.len() as u32
    })?;
    linker.func_wrap(module, "__host_error", |mut caller: Caller<'_, Guest>, pointer: u32| {
        let text = caller.data().host_error.clone();
        write(&mut caller, pointer, text.as_bytes())
    })?;
    match form {
        HostCallForm::WithoutBinding => linker.func_wrap_async(
            module,
            "__host_call",
            |caller: Caller<'_, Guest>,
             (ns, ns_len, op, op_len, ptr, len): (u32, u32, u32, u32, u32, u32)| {
                Box::new(host_call(caller, (0, 0), (ns, ns_len), (op, op_len), (ptr, len)))
            },
        )?,
        HostCallForm::Full => linker.func_wrap_async(
            module,
            "__host_call",
            |caller: Caller<'_, Guest>,
             (bd, bd_len, ns, ns_len, op, op_len, ptr, len): (
                u32,
                u32,
                u32,
                u32,
                u32,
                u32,
                u32,
                u32,
            )| {
                Box::new(host_call(caller, (bd, bd_len), (ns, ns_len), (op, op_len), (ptr, len)))
            },
        )?,
    };
    Ok(())
}

type Span = (u32, u32);

async fn host_call(
    mut caller: Caller<'_, Guest>,
    binding: Span,
    namespace: Span,
    operation: Span,
    payload: Span,
) -> wasmtime::Result<u32> {
    let request = HostCall {
        binding: text(&mut caller, binding, "binding")?,
        namespace: text(&mut caller, namespace, "namespace")?,
        operation: text(&mut caller, operation, "operation")?,
        payload: read(&mut caller, payload.0, payload.1)?,
        exchange: None,
    };
    let Some(call) = &caller.data().call else { bail!("__host_call outside of a call") };
    let (outward, turn) = (Arc::clone(&call.outward), call.turn.clone());
    let result = call_out(&*outward, &turn, request).await?;
    let guest = caller.data_mut();
    match result {
        Ok(response) => {
            guest.host_response = response;
            guest.host_error.clear();
            Ok(1)
        }
        Err(error) => {
            guest.host_response = Bytes::new();
            guest.host_error = error.to_string();
            Ok(0)
        }
    }
}

fn memory_of(caller: &mut Caller<'_, Guest>) -> wasmtime::Result<Memory> {
    if let Some(memory) = caller.data().memory {
        return Ok(memory);
    }
    // Only a start function gets here: the memory is known once instantiation is over.
    caller
        .get_export("memory")
        .and_then(wasmtime::Extern::into_memory)
        .context("the guest has no memory")
}

fn read(caller: &mut Caller<'_, Guest>, pointer: u32, length: u32) -> wasmtime::Result<Bytes> {
    if length == 0 {
        return Ok(Bytes::new());
    }
    let memory = memory_of(caller)?;
    let start = pointer as usize;
    let bytes = start
        .checked_add(length as usize)
        .and_then(|end| memory.data(caller.as_context()).get(start..end));
    Ok(Bytes::copy_from_slice(
        bytes.context("the guest handed over a range outside of its memory")?,
    ))
}

fn write(caller: &mut Caller<'_, Guest>, pointer: u32, bytes: &[u8]) -> wasmtime::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let memory = memory_of(caller)?;
    memory
        .write(caller.as_context_mut(), pointer as usize, bytes)
        .ok()
        .context("the guest asked for data outside of its memory")
}

fn text(
    caller: &mut Caller<'_, Guest>,
    (pointer, length): Span,
    what: &str,
) -> wasmtime::Result<String> {
    if length as usize > TEXT_BYTES_MAX {
        bail!("the guest's {what} is longer than {TEXT_BYTES_MAX} bytes");
    }
    let bytes = read(caller, pointer, length)?;
    String::from_utf8(bytes.into()).ok().with_context(|| format!("the guest's {what} is not UTF-8"))
}

impl Guest {
    fn new(abi: &Abi, sink: &Arc<Sink>, memory_max_bytes: usize) -> Self {
        Self {
            call: None,
            response: None,
            error: None,
            host_response: Bytes::new(),
            host_error: String::new(),
            memory: None,
            limits: Limits { memory_max_bytes, refused: false },
            sink: Arc::clone(sink),
            wasi: abi.uses_wasi.then(|| {
                let mut context = WasiCtx::builder();
                context
                    .args(&["main.wasm"])
                    .stdout(sink.stream(Level::Debug))
                    .stderr(sink.stream(Level::Warn));
                Box::new(bounded(&mut context))
            }),
        }
    }

    fn begin(&mut self, call: Inbound) {
        self.call = Some(call);
        self.response = None;
        self.error = None;
        self.host_response = Bytes::new();
        self.host_error.clear();
        self.limits.refused = false;
    }
}

/// Builds what WASI keeps for a guest. It sleeps without holding a thread, and holds no more than a
/// guest needs.
fn bounded(context: &mut WasiCtxBuilder) -> WasiP1Ctx {
    let mut wasi = context.allow_blocking_current_thread(false).build_p1();
    wasi.ctx().table.set_max_capacity(WASI_HANDLES_MAX);
    wasi
}

/// Makes the store of a new instance; the guest yields to other tasks on every tick of the epoch,
/// and goes on when it is its turn.
fn store(pre: &InstancePre<Guest>, guest: Guest) -> Store<Guest> {
    let mut store = Store::new(pre.module().engine(), guest);
    store.limiter(|guest| &mut guest.limits);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|context| match &context.data().call {
        Some(call) => at_tick(&*call.outward, &call.turn),
        None => Ok(UpdateDeadline::Yield(1)),
    });
    store
}

/// Runs one call in `idle` or in a fresh instance. Not cancel safe for the guest, but safe to drop:
/// the instance goes with it.
pub async fn run(
    pre: &InstancePre<Guest>,
    abi: &Abi,
    sink: &Arc<Sink>,
    memory_max_bytes: usize,
    idle: Option<Idle>,
    call: Inbound,
) -> Outcome<Idle> {
    if abi.entry == Entry::Command {
        return Box::pin(run_command(pre, sink, memory_max_bytes, call)).await;
    }
    let mut instance = match idle {
        Some(mut idle) => {
            idle.store.data_mut().begin(call);
            idle.store.set_epoch_deadline(1);
            idle
        }
        // Boxed, for where instances are reused few calls come here.
        None => {
            match Box::pin(fresh(pre, abi, Guest::new(abi, sink, memory_max_bytes), call)).await {
                Ok(fresh) => fresh,
                Err(ended) => return Outcome::Ended(ended),
            }
        }
    };
    let lengths = instance
        .store
        .data()
        .call
        .as_ref()
        .map_or((0, 0), |call| (call.operation.len(), call.payload.len()));
    let lengths = (lengths.0 as u32, lengths.1 as u32);
    let returned = instance.guest_call.call_async(&mut instance.store, lengths).await;
    let code = match returned {
        Ok(code) => code,
        Err(error) => {
            return Outcome::Ended(ended(&error, instance.store.data().limits.refused_at()));
        }
    };
    instance.served += 1;
    let guest = instance.store.data_mut();
    guest.call = None;
    let result = match code {
        1 => Ok(guest.response.take().unwrap_or_default()),
        0 => Err(CallError::Callee(guest.error.take().unwrap_or_else(|| {
            if guest.host_error.is_empty() {
                "the actor failed without a reason".into()
            } else {
                guest.host_error.clone()
            }
        }))),
        code => Err(CallError::Callee(failed_with(code))),
    };
    Outcome::Returned(result, Some(instance))
}

/// Makes an instance for a call.
async fn fresh(
    pre: &InstancePre<Guest>,
    abi: &Abi,
    mut guest: Guest,
    call: Inbound,
) -> Result<Idle, Ended> {
    guest.begin(call);
    let mut store = store(pre, guest);
    match instantiate(pre, abi, &mut store).await {
        Ok(guest_call) => Ok(Idle { store, guest_call, served: 0 }),
        Err(error) => Err(ended(&error, store.data().limits.refused_at())),
    }
}

async fn instantiate(
    pre: &InstancePre<Guest>,
    abi: &Abi,
    store: &mut Store<Guest>,
) -> wasmtime::Result<TypedFunc<(u32, u32), u32>> {
    let instance = pre.instantiate_async(&mut *store).await?;
    store.data_mut().memory = instance.get_memory(&mut *store, "memory");
    if let Entry::Wapc { initialisers } = &abi.entry {
        for name in initialisers {
            initialise(&instance, store, name).await?;
        }
    }
    instance.get_typed_func(&mut *store, "__guest_call")
}

async fn initialise(
    instance: &Instance,
    store: &mut Store<Guest>,
    name: &str,
) -> wasmtime::Result<()> {
    let function: TypedFunc<(), ()> = instance.get_typed_func(&mut *store, name)?;
    match function.call_async(&mut *store, ()).await {
        // A module whose `main` ends with exit(0) has registered its handlers.
        Err(error) if error.downcast_ref::<I32Exit>().is_some_and(|exit| exit.0 == 0) => Ok(()),
        other => other.with_context(|| format!("initialise the guest with {name}")),
    }
}

async fn run_command(
    pre: &InstancePre<Guest>,
    sink: &Arc<Sink>,
    memory_max_bytes: usize,
    call: Inbound,
) -> Outcome<Idle> {
    let abi = Abi { entry: Entry::Command, uses_wasi: false };
    let mut guest = Guest::new(&abi, sink, memory_max_bytes);
    let output = MemoryOutputPipe::new(memory_max_bytes);
    let mut context = WasiCtx::builder();
    context
        .args(&["main.wasm", &call.operation])
        .stdin(MemoryInputPipe::new(call.payload.clone()))
        .stdout(output.clone())
        .stderr(sink.stream(Level::Warn));
    guest.wasi = Some(Box::new(bounded(&mut context)));
    guest.begin(call);
    let mut store = store(pre, guest);
    let ran = async {
        let instance = pre.instantiate_async(&mut store).await?;
        store.data_mut().memory = instance.get_memory(&mut store, "memory");
        initialise(&instance, &mut store, "_start").await
    };
    match ran.await {
        Ok(()) => Outcome::Returned(Ok(output.contents()), None),
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(exit) => Outcome::Returned(Err(CallError::Callee(failed_with(exit.0))), None),
            None => Outcome::Ended(ended(&error, store.data().limits.refused_at())),
        },
    }
}

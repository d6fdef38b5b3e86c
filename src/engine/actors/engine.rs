//! The one home of wasmtime's configuration.
//!
//! [`Engine`] holds two wasmtime engines with the same code generation. The first takes instances
//! from a pool that is reserved once: memory slots keep the pages a module touches, so a fresh
//! instance costs no page fault on most of them. Memories have room to grow into (`room`), so no
//! page changes its protection either. The second allocates on demand; it is made when a module
//! does not fit a slot of the pool, or when the machine refuses the pool's address space, and a log
//! line says so.
//!
//! One system call is left, where Linux has it (`PAGEMAP_SCAN`): when an instance goes, it tells
//! which pages were written and are to be as before. Otherwise all pages that may stay resident are
//! written, and the others are given back: for a guest in Rust that is 40 µs instead of 3.
//!
//! Time is counted by an epoch that a thread advances while at least one call runs. A guest looks
//! at it in every loop and function; when it has moved, the guest yields to other tasks, and ends
//! when its call's deadline has passed.
//!
//! Components have [engines of their own](super::component::engine), made for the first of them.
//!
//! Compiled code is kept on disk and shared with other hosts by [`Codes`], so an actor seen before
//! starts in milliseconds.

use std::{
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::Thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::{info, warn};
use wasmtime::{Config, InstanceAllocationStrategy, Module, PoolingAllocationConfig};

use super::{
    code::{Code as _, Codes, GivingTask, Image, Sharing, Sources},
    component::engine::{self as components, Compiled, Engines},
    turns::Turns,
    weight::Weight,
};
use lattice_base::budget::{machine_memory, mappings_max};
use lattice_protocol::meter::histogram::{Buckets, Histogram};

/// How often a running guest gives way to others; also how far past its deadline it can run.
const EPOCH: Duration = Duration::from_millis(5);
/// The same while calls of different actors mix, which otherwise would wait for each other longer
/// than they take.
const EPOCH_MIXED: Duration = Duration::from_millis(1);
/// The limit of a guest's own call stack. Rust guests keep theirs in linear memory, so they need
/// little here.
const GUEST_STACK_BYTES: usize = 512 * 1024;
/// The stack the host runs a guest on, its own frames included.
const FIBER_STACK_BYTES: usize = 1024 * 1024;
/// Pages of a slot that stay in memory from call to call. Example actors touch 150 to 400 KiB.
const KEEP_RESIDENT_BYTES: usize = 512 * 1024;
/// Slots when the machine's memory is unknown, and the bounds for when it is.
const SLOTS_DEFAULT: u32 = 256;
const SLOTS_MIN: u32 = 32;
const SLOTS_MAX: u32 = 4096;
/// Mappings of memory that a slot may come to: four of its memory, two of its stack, five of an
/// instance that allocates on demand, and the share of the pool for components. A process that has
/// no mapping left cannot even give memory back, and wasmtime panics then.
const MAPPINGS_PER_SLOT: u32 = 15;
/// The share of the machine's memory that resident slots may take in the worst case: one eighth.
const MEMORY_SHARE: u64 = 8;
/// Limits of a module in a slot, far above what compilers emit for actors.
pub(super) const TABLE_ELEMENTS: usize = 100_000;
pub(super) const TABLES_PER_MODULE: u32 = 4;
const CORE_INSTANCE_BYTES: usize = 4 * 1024 * 1024;

/// The settings of the engine that an operator can change.
pub struct Settings {
    /// Slots of the pool; `None` sizes it from the machine's memory.
    pub slots: Option<u32>,
    /// Linear memory one instance may use, in bytes.
    pub memory_max_bytes: usize,
    /// Where compiled code is kept; `None` compiles every time.
    pub cache_dir: Option<PathBuf>,
    /// Where it is shared with other hosts; `None` shares nothing.
    pub sharing: Option<Sharing>,
}

/// Why the engine cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("set up the WebAssembly engine: {0}")]
pub struct EngineError(String);

/// Compiles modules and gives them instances. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    memory_max_bytes: usize,
    codes: Codes,
    pooled: Option<wasmtime::Engine>,
    on_demand: OnceLock<wasmtime::Engine>,
    /// Made for the first component.
    components: OnceLock<Engines>,
    slots: u32,
    clock: Arc<Clock>,
    compiles: Compiling,
    component_bytes: Arc<AtomicUsize>,
}

/// Counts how long modules took to be compiled.
#[derive(Default)]
struct Compiling {
    took: Buckets,
    sum_ns: AtomicU64,
}

/// How long modules took to be compiled, or to be found in the cache.
#[derive(Clone, Debug, Default)]
pub struct Compiles {
    pub took: Histogram,
    pub sum_us: u64,
}

/// Advances the epoch while calls run, and sleeps when none does.
struct Clock {
    running: AtomicUsize,
    stopped: AtomicBool,
    engines: Mutex<Vec<wasmtime::EngineWeak>>,
    thread: OnceLock<Thread>,
    turns: Turns,
}

/// Keeps the epoch advancing for as long as it lives.
pub struct Ticking(Arc<Clock>);

impl Engine {
    /// Makes the engine, and the task that shares what it compiles, which the caller runs. It has
    /// to be called in the runtime.
    pub fn new(settings: Settings) -> Result<(Self, Option<GivingTask>), EngineError> {
        let Settings { slots, memory_max_bytes, cache_dir, sharing } = settings;
        let slots = mapped_slots(slots.unwrap_or_else(slots_for_this_machine), mappings_max());
        let (codes, giving) = Codes::new(cache_dir.as_deref(), sharing, memory_max_bytes);
        let clock = Arc::new(Clock {
            running: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            engines: Mutex::new(Vec::new()),
            thread: OnceLock::new(),
            turns: Turns::default(),
        });
        let pooled = match wasmtime::Engine::new(&pooled_config(memory_max_bytes, slots)) {
            Ok(engine) => Some(engine),
            Err(error) => {
                warn!(
                    slots,
                    error = format!("{error:#}"),
                    "no instance pool: its address space was refused, each call allocates its memory anew (slower); \
                     lower actor_instances_max or raise the limit of virtual memory (ulimit -v)"
                );
                None
            }
        };
        let inner = Inner {
            memory_max_bytes,
            codes,
            pooled,
            on_demand: OnceLock::new(),
            components: OnceLock::new(),
            slots,
            clock,
            compiles: Compiling::default(),
            component_bytes: Arc::default(),
        };
        if let Some(engine) = &inner.pooled {
            inner.clock.follow(engine);
        } else {
            inner.on_demand()?;
        }
        inner.clock.start()?;
        Ok((Self(Arc::new(inner)), giving))
    }

    /// How many instances may exist at a time.
    pub fn slots(&self) -> u32 {
        self.0.slots
    }

    /// Counts the linear memory of all instances of components that there are, in bytes.
    pub fn component_bytes(&self) -> &Arc<AtomicUsize> {
        &self.0.component_bytes
    }

    /// How many slots there are for instances of components.
    pub fn component_slots(&self) -> u32 {
        components::slots_for_this_machine(self.0.slots)
    }

    /// Linear memory one instance may use, in bytes.
    pub fn memory_max_bytes(&self) -> usize {
        self.0.memory_max_bytes
    }

    /// Compiles a module, or finds it compiled. Takes up to seconds for one not seen before, and
    /// more for a large one, which leaves a core to the calls: call it off the async threads.
    pub fn compile(&self, wasm: &[u8], weight: &Weight) -> Result<Module, wasmtime::Error> {
        let engine = match &self.0.pooled {
            Some(pooled) => pooled,
            None => self.on_demand()?,
        };
        self.timed(|| self.0.codes.load(engine, wasm, weight, |image| self.mapped(image)))
    }

    /// Compiles a component; the same holds.
    pub fn compile_component(
        &self,
        wasm: &[u8],
        weight: &Weight,
    ) -> Result<Compiled, wasmtime::Error> {
        let engines = self.0.components()?;
        let compiled = self.timed(|| engines.compile(&self.0.codes, wasm, weight));
        // A component that did not fit the pool may have brought a further engine.
        engines.engines().for_each(|engine| self.0.clock.follow(engine));
        compiled
    }

    /// Measures how long compiling takes.
    fn timed<T>(
        &self,
        compile: impl FnOnce() -> Result<T, wasmtime::Error>,
    ) -> Result<T, wasmtime::Error> {
        let began = Instant::now();
        let compiled = compile()?;
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.0.compiles.took.count(took);
        self.0.compiles.sum_ns.fetch_add(took, Ordering::Relaxed);
        Ok(compiled)
    }

    /// How long that took so far.
    pub fn compiles(&self) -> Compiles {
        let Compiling { took, sum_ns } = &self.0.compiles;
        Compiles { took: took.read(), sum_us: sum_ns.load(Ordering::Relaxed) / 1000 }
    }

    /// Returns where the code of all modules and components came from.
    pub fn code_sources(&self) -> Sources {
        self.0.codes.sources()
    }

    fn mapped(&self, image: &Image) -> Result<Module, wasmtime::Error> {
        let Some(pooled) = &self.0.pooled else { return Module::map(self.on_demand()?, image) };
        match Module::map(pooled, image) {
            Ok(module) => Ok(module),
            // Either the code is no good, and the second engine says so too, or it wants more than
            // a slot has.
            Err(in_pool) => {
                let module = Module::map(self.on_demand()?, image)?;
                info!(
                    reason = format!("{in_pool:#}"),
                    "module does not fit a slot of the instance pool, its calls allocate memory anew"
                );
                Ok(module)
            }
        }
    }

    /// The turns of the actors whose guests it runs.
    pub fn turns(&self) -> Turns {
        self.0.clock.turns.clone()
    }

    /// Keeps the clock running for one call.
    pub fn tick(&self) -> Ticking {
        self.0.clock.enter();
        Ticking(Arc::clone(&self.0.clock))
    }

    fn on_demand(&self) -> Result<&wasmtime::Engine, wasmtime::Error> {
        self.0.on_demand().map_err(|e| wasmtime::Error::msg(e.0))
    }
}

impl Inner {
    fn components(&self) -> Result<&Engines, wasmtime::Error> {
        if let Some(engines) = self.components.get() {
            return Ok(engines);
        }
        let settings = components::Settings {
            slots: components::slots_for_this_machine(self.slots),
            memory_max_bytes: self.memory_max_bytes,
        };
        let engines = Engines::new(settings)?;
        // A second thread that was here first wins; both are alike.
        Ok(self.components.get_or_init(|| engines))
    }

    fn on_demand(&self) -> Result<&wasmtime::Engine, EngineError> {
        if let Some(engine) = self.on_demand.get() {
            return Ok(engine);
        }
        let engine =
            wasmtime::Engine::new(&base_config()).map_err(|e| EngineError(format!("{e:#}")))?;
        self.clock.follow(&engine);
        // A second thread that was here first wins; both engines are alike.
        Ok(self.on_demand.get_or_init(|| engine))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.clock.stopped.store(true, Ordering::Release);
        if let Some(thread) = self.clock.thread.get() {
            thread.unpark();
        }
    }
}

impl Clock {
    /// Advances the epoch of an engine from now on.
    fn follow(&self, engine: &wasmtime::Engine) {
        let mut engines = self.engines.lock();
        let is_followed = engines
            .iter()
            .filter_map(wasmtime::EngineWeak::upgrade)
            .any(|followed| wasmtime::Engine::same(&followed, engine));
        if !is_followed {
            engines.push(engine.weak());
        }
    }

    fn enter(&self) {
        if self.running.fetch_add(1, Ordering::AcqRel) == 0
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    fn start(self: &Arc<Self>) -> Result<(), EngineError> {
        let clock = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("wasm-epoch".into())
            .spawn(move || clock.run())
            .map_err(|e| EngineError(format!("start the epoch thread: {e}")))?;
        self.thread.get_or_init(|| thread.thread().clone());
        Ok(())
    }

    fn run(&self) {
        while !self.stopped.load(Ordering::Acquire) {
            if self.running.load(Ordering::Acquire) == 0 {
                // Woken by the next call; a laptop with idle actors sleeps.
                std::thread::park();
                continue;
            }
            std::thread::sleep(if self.turns.are_mixed() { EPOCH_MIXED } else { EPOCH });
            for engine in self.engines.lock().iter() {
                if let Some(engine) = engine.upgrade() {
                    engine.increment_epoch();
                }
            }
        }
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The configuration of modules: no part of the component model, whose state every store would
/// have.
fn base_config() -> Config {
    let mut config = common_config();
    config.wasm_component_model(false).concurrency_support(false);
    config
}

/// The configuration that all engines have.
pub(super) fn common_config() -> Config {
    let mut config = Config::new();
    // The memory limit is per memory, so a module has one.
    config
        .wasm_multi_memory(false)
        .epoch_interruption(true)
        .max_wasm_stack(GUEST_STACK_BYTES)
        .async_stack_size(FIBER_STACK_BYTES);
    config
}

/// The part of a pool's configuration that all engines have: each slot has one memory.
pub(super) fn common_pool(slots: u32, memory_max_bytes: usize) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_memories(slots)
        .max_memory_size(memory_max_bytes)
        .max_memories_per_module(1)
        .max_unused_warm_slots(slots)
        .table_keep_resident(64 * 1024)
        .async_stack_keep_resident(64 * 1024)
        .pagemap_scan(wasmtime::Enabled::Auto);
    pool
}

/// The configuration of the engine with a pool.
pub(super) fn pooled_config(memory_max_bytes: usize, slots: u32) -> Config {
    let mut pool = common_pool(slots, memory_max_bytes);
    pool.total_core_instances(slots)
        .total_tables(slots * TABLES_PER_MODULE)
        .total_stacks(slots)
        .max_tables_per_module(TABLES_PER_MODULE)
        .table_elements(TABLE_ELEMENTS)
        .max_core_instance_size(CORE_INSTANCE_BYTES)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES);
    let mut config = base_config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// As many slots as an eighth of the machine's memory can keep resident.
fn slots_for_this_machine() -> u32 {
    let Some(memory) = machine_memory() else { return SLOTS_DEFAULT };
    let slots = memory / MEMORY_SHARE / KEEP_RESIDENT_BYTES as u64;
    u32::try_from(slots).unwrap_or(SLOTS_MAX).clamp(SLOTS_MIN, SLOTS_MAX)
}

/// As many of the slots as a process may have mappings for.
fn mapped_slots(slots: u32, mappings_max: Option<u32>) -> u32 {
    let most = mappings_max.map_or(u32::MAX, |max| (max / MAPPINGS_PER_SLOT).max(1));
    if slots > most {
        warn!(
            wanted = slots,
            slots = most,
            mappings_max,
            "this system lets a process have mappings for fewer instances than \
             actor_instances_max: to have all of them, raise vm.max_map_count (sysctl) to \
             {MAPPINGS_PER_SLOT} for each"
        );
    }
    slots.min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_slots_than_there_are_mappings_for() {
        for (wanted, mappings_max, slots) in [
            (4096, Some(65_530), 4096),
            (20_000, Some(65_530), 4368),
            (20_000, Some(300_000), 20_000),
            (20_000, None, 20_000),
            (4096, Some(1), 1),
        ] {
            assert_eq!(mapped_slots(wanted, mappings_max), slots, "{wanted} {mappings_max:?}");
        }
    }
}

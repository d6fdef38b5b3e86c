//! The engines for components: configuration, pool, linkers.
//!
//! They are engines of their own beside those for modules. Code generation for the async half of
//! the component model makes every store dearer, which modules should not pay; and a component
//! takes several core instances of the pool where a module takes one. Objects of two engines never
//! mix, so each has its linker.
//!
//! A *slot* here is what a component of today's toolchains needs at most: one memory, some tables,
//! [`CORES_PER_SLOT`] core instances. One that needs more takes several ([`Needs`]).

use std::sync::OnceLock;

use tracing::{info, warn};
use wasmtime::{
    Config, InstanceAllocationStrategy,
    component::{Component, Linker},
};

use super::{Guest, linker};
use crate::actors::{
    code::{Code as _, Codes, Image},
    engine::{common_config, common_pool},
    weight::Weight,
};
use lattice_base::budget::machine_memory;

/// Core instances of a slot. Rust and JavaScript take 4, Python 14.
const CORES_PER_SLOT: u32 = 16;
/// Tables of a slot. Components of today have 2.
const TABLES_PER_SLOT: u32 = 4;
/// Elements of one table; the largest one known begins with 7,785.
pub(super) const TABLE_ELEMENTS: usize = 50_000;
/// Bytes that a component and its core instances keep beside their memories.
const INSTANCE_BYTES: usize = 4 * 1024 * 1024;
/// Pages of a slot that stay in memory from call to call. JavaScript touches 400 KiB for a small
/// answer; what Python touches beyond that is given back.
const KEEP_RESIDENT_BYTES: usize = 512 * 1024;
/// The memory by which slots are counted: Python touches up to 2 MiB for a small answer.
const SLOT_BYTES: u64 = 2 * 1024 * 1024;
/// The share of the machine's memory that all slots may touch in that way: one eighth.
const MEMORY_SHARE: u64 = 8;
const SLOTS_DEFAULT: u32 = 128;
const SLOTS_MIN: u32 = 16;
const SLOTS_MAX: u32 = 1024;
/// Stacks per slot: tasks of one instance that wait have one each.
const STACKS_PER_SLOT: u32 = 2;

/// The measures of the pools of a host.
#[derive(Clone, Debug)]
pub struct Settings {
    pub slots: u32,
    pub memory_max_bytes: usize,
}

/// The engines for components. Made when the first component is loaded.
pub struct Engines {
    pooled: Option<Linking>,
    on_demand: OnceLock<Linking>,
    settings: Settings,
}

/// An engine and what it offers to its guests.
struct Linking {
    engine: wasmtime::Engine,
    linker: Linker<Guest>,
}

/// A compiled component, and the linker that its engine has.
pub struct Compiled {
    pub component: Component,
    pub linker: Linker<Guest>,
}

/// The part of the pool that one instance takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    pub memories: u32,
    pub tables: u32,
    pub cores: u32,
}

impl Needs {
    /// Finds out how much a component takes that has so many core instances.
    pub fn of(component: &Component, cores: u32) -> Self {
        let resources = component.resources_required();
        let (memories, tables) =
            resources.map_or((1, 1), |found| (found.num_memories, found.num_tables));
        Self { memories, tables, cores }
    }

    /// Returns the slots that this comes to, at least one.
    pub fn slots(&self) -> u32 {
        let tables = self.tables.div_ceil(TABLES_PER_SLOT);
        self.memories.max(tables).max(self.cores.div_ceil(CORES_PER_SLOT)).max(1)
    }
}

impl Engines {
    /// Makes the pool. Without the address space for it, instances allocate on demand.
    pub fn new(settings: Settings) -> Result<Self, wasmtime::Error> {
        let pooled = match Linking::new(&pooled_config(&settings)) {
            Ok(linking) => Some(linking),
            Err(error) => {
                warn!(
                    slots = settings.slots,
                    error = format!("{error:#}"),
                    "no instance pool for components: its address space was refused, each call \
                     allocates its memory anew (slower); lower actor_instances_max or raise the \
                     limit of virtual memory (ulimit -v)"
                );
                None
            }
        };
        let engines = Self { pooled, on_demand: OnceLock::new(), settings };
        if engines.pooled.is_none() {
            engines.on_demand()?;
        }
        Ok(engines)
    }

    /// Returns the engines there are, for the clock.
    pub fn engines(&self) -> impl Iterator<Item = &wasmtime::Engine> {
        self.pooled.iter().chain(self.on_demand.get()).map(|linking| &linking.engine)
    }

    /// Compiles a component, or finds it compiled: for the pool, or if it does not fit there, for
    /// allocation on demand.
    pub fn compile(
        &self,
        codes: &Codes,
        wasm: &[u8],
        weight: &Weight,
    ) -> Result<Compiled, wasmtime::Error> {
        let linking = match &self.pooled {
            Some(pooled) => pooled,
            None => self.on_demand()?,
        };
        let component = codes.load(&linking.engine, wasm, weight, |image| self.mapped(image))?;
        let all = [self.pooled.as_ref(), self.on_demand.get()];
        let its_own = all.into_iter().flatten().find(|linking| linking.is_for(&component));
        let linker = its_own.unwrap_or(linking).linker.clone();
        Ok(Compiled { component, linker })
    }

    fn mapped(&self, image: &Image) -> Result<Component, wasmtime::Error> {
        let Some(pooled) = &self.pooled else {
            return Component::map(&self.on_demand()?.engine, image);
        };
        match Component::map(&pooled.engine, image) {
            Ok(component) => Ok(component),
            Err(in_pool) => {
                let component = Component::map(&self.on_demand()?.engine, image)?;
                info!(
                    reason = format!("{in_pool:#}"),
                    "component does not fit a slot of the instance pool, its calls allocate \
                     memory anew"
                );
                Ok(component)
            }
        }
    }

    fn on_demand(&self) -> Result<&Linking, wasmtime::Error> {
        if let Some(linking) = self.on_demand.get() {
            return Ok(linking);
        }
        let linking = Linking::new(&base_config())?;
        // A second thread that was here first wins; both engines are alike.
        Ok(self.on_demand.get_or_init(|| linking))
    }

    /// Returns how much memory one instance may use.
    pub fn memory_max_bytes(&self) -> usize {
        self.settings.memory_max_bytes
    }
}

impl Linking {
    fn new(config: &Config) -> Result<Self, wasmtime::Error> {
        let engine = wasmtime::Engine::new(config)?;
        let linker = linker::new(&engine)?;
        Ok(Self { engine, linker })
    }

    fn is_for(&self, component: &Component) -> bool {
        wasmtime::Engine::same(&self.engine, component.engine())
    }
}

/// Returns as many slots as an eighth of the machine's memory can hold in the worst case, and no
/// more than modules have.
pub fn slots_for_this_machine(slots_of_modules: u32) -> u32 {
    let slots = machine_memory().map_or(SLOTS_DEFAULT, |memory| {
        let slots = memory / MEMORY_SHARE / SLOT_BYTES;
        u32::try_from(slots).unwrap_or(SLOTS_MAX).clamp(SLOTS_MIN, SLOTS_MAX)
    });
    slots.min(slots_of_modules).max(1)
}

fn base_config() -> Config {
    let mut config = common_config();
    config.wasm_component_model(true).wasm_component_model_async(true);
    config
}

fn pooled_config(settings: &Settings) -> Config {
    let slots = settings.slots;
    let mut pool = common_pool(slots, settings.memory_max_bytes);
    pool.total_component_instances(slots)
        .max_component_instance_size(INSTANCE_BYTES)
        .total_core_instances(slots.saturating_mul(CORES_PER_SLOT))
        .max_core_instance_size(INSTANCE_BYTES)
        .total_tables(slots.saturating_mul(TABLES_PER_SLOT))
        .total_stacks(slots.saturating_mul(STACKS_PER_SLOT))
        .max_tables_per_module(TABLES_PER_SLOT)
        .table_elements(TABLE_ELEMENTS)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES);
    let mut config = base_config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_follow_from_what_is_scarcest() {
        for (memories, tables, cores, slots) in
            [(1, 2, 4, 1), (1, 2, 14, 1), (1, 2, 17, 2), (3, 2, 4, 3), (1, 9, 4, 3), (0, 0, 0, 1)]
        {
            assert_eq!(Needs { memories, tables, cores }.slots(), slots, "{memories} {tables}");
        }
    }
}

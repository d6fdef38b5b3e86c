//! Compiled code: found on disk, taken from the lattice, or made.
//!
//! ```text
//! load ─▶ files (of this host) ─▶ lattice (signed by a host) ─▶ compile ─▶ files, lattice (later)
//!             └───────────┬────────────────┘                       └─────────────┬────────────┘
//!                         └──────────────────▶ map (unsafe) ◀────────────────────┘
//! ```
//!
//! Always true: bytes are mapped that this host's compiler made, or whose signed note and hashes
//! were verified; code with another [`key`] than that of the module, the compiler and the processor
//! is never looked at; no failure here keeps a module from being compiled. All of it is mapped from
//! files where there is a directory from which code may be run, so the kernel takes back the memory
//! of code that nobody runs.

mod files;
mod key;
mod lattice;
mod map;
mod note;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{room::with_room, weight::Weight};
use files::Files;
use key::Key;
use lattice::{Giver, Lattice};
use lattice_base::store::artifacts::Artifacts;
use lattice_protocol::{desired::Authority, identity::keys::HostId};

pub use map::{Code, Image};

/// Code that took longer than this is offered to the lattice; less is compiled faster than fetched.
const WORTH_GIVING: Duration = Duration::from_millis(200);
/// A module with fewer bytes of code takes less even on a slow machine that is not busy, so it is
/// neither looked for nor offered. One of 120 KB takes 80 ms.
const WORTH_SHARING_BYTES: u64 = 256 * 1024;

/// Finds compiled code, or makes it.
pub struct Codes {
    memory_max_bytes: usize,
    files: Option<Files>,
    lattice: Option<Lattice>,
    /// Threads for what takes long to compile, one less than cores; without them all cores compile.
    compilers: Option<rayon::ThreadPool>,
    counts: Counts,
}

/// Where code came from, in numbers of modules and components.
#[derive(Default)]
struct Counts {
    compiled: AtomicU64,
    disk: AtomicU64,
    lattice: AtomicU64,
}

/// The same, read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    pub compiled: u64,
    pub disk: u64,
    pub lattice: u64,
}

/// The parts of a host that share code with others.
pub struct Sharing {
    pub artifacts: Artifacts,
    pub authority: Arc<Authority>,
    pub host_id: HostId,
}

/// The task that gives code to the lattice.
pub struct GivingTask(Giver);

impl GivingTask {
    /// Runs until the host stops.
    pub async fn run(self, stop: CancellationToken) {
        self.0.run(stop).await;
    }
}

impl Codes {
    /// Keeps code in a directory. Without one that is this user's alone nothing is kept or shared.
    /// With `sharing` it has to be called in the runtime.
    ///
    /// No memory of the code may be larger than `memory_max_bytes`.
    pub fn new(
        dir: Option<&Path>,
        sharing: Option<Sharing>,
        memory_max_bytes: usize,
    ) -> (Self, Option<GivingTask>) {
        let files = dir.and_then(Files::open);
        let shared = sharing.zip(files.clone()).map(|(sharing, files)| {
            Lattice::new(sharing.artifacts, sharing.authority, sharing.host_id, files)
        });
        let (lattice, giver) = shared.unzip();
        let (compilers, counts) = (compilers(), Counts::default());
        let codes = Self { memory_max_bytes, files, lattice, compilers, counts };
        (codes, giver.map(GivingTask))
    }

    /// Returns the code of a module or a component. `engine` is any of those that may run it, which
    /// all make the same code; `map` maps it for the one that does. Takes up to seconds for what
    /// was not seen before: call it off the async threads.
    pub fn load<T: Code>(
        &self,
        engine: &wasmtime::Engine,
        wasm: &[u8],
        weight: &Weight,
        map: impl Fn(&Image) -> Result<T, wasmtime::Error>,
    ) -> Result<T, wasmtime::Error> {
        let key = Key::new(T::KIND, wasm, engine, self.memory_max_bytes);
        if let Some((image, count)) = self.find(&key, weight) {
            let began = Instant::now();
            match mapped(&image, &map) {
                Ok(code) => {
                    count.fetch_add(1, Ordering::Relaxed);
                    debug!(took_us = began.elapsed().as_micros(), "compiled code mapped");
                    return Ok(code);
                }
                Err(error) => {
                    warn!(
                        error = format!("{error:#}"),
                        "compiled code cannot be used, it is compiled anew"
                    );
                    self.files.iter().for_each(|files| files.discard(&image));
                }
            }
        }
        let began = Instant::now();
        let code = self.compiled::<T>(engine, wasm, weight)?;
        let took = began.elapsed();
        let image = match &self.files {
            Some(files) => files.keep(&key, code),
            None => Image::in_memory(code),
        };
        let code = mapped(&image, &map)?;
        self.counts.compiled.fetch_add(1, Ordering::Relaxed);
        if let Some(lattice) = self.lattice_for(weight).filter(|_| took > WORTH_GIVING) {
            lattice.offer(&key, &image, took);
        }
        Ok(code)
    }

    /// Looks for code that need not be compiled, and says where that is counted.
    fn find(&self, key: &Key, weight: &Weight) -> Option<(Image, &AtomicU64)> {
        let files = self.files.as_ref()?;
        if let Some(image) = files.find(key) {
            return Some((image, &self.counts.disk));
        }
        Some((self.lattice_for(weight)?.take(key, files)?, &self.counts.lattice))
    }

    fn lattice_for(&self, weight: &Weight) -> Option<&Lattice> {
        self.lattice.as_ref().filter(|_| weight.code_bytes >= WORTH_SHARING_BYTES)
    }

    /// Compiles on as many threads as the weight allows: a large module leaves a core to the calls.
    fn compiled<T: Code>(
        &self,
        engine: &wasmtime::Engine,
        wasm: &[u8],
        weight: &Weight,
    ) -> Result<Vec<u8>, wasmtime::Error> {
        let wasm = &with_room(wasm, self.memory_max_bytes);
        match self.compilers.as_ref().filter(|_| weight.is_large()) {
            Some(compilers) => compilers.install(|| T::compile(engine, wasm)),
            None => T::compile(engine, wasm),
        }
    }

    /// Returns where the code that runs here came from.
    pub fn sources(&self) -> Sources {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { compiled, disk, lattice } = &self.counts;
        Sources { compiled: read(compiled), disk: read(disk), lattice: read(lattice) }
    }
}

/// Maps code from its file, or where that is not allowed, from memory.
fn mapped<T>(
    image: &Image,
    map: impl Fn(&Image) -> Result<T, wasmtime::Error>,
) -> Result<T, wasmtime::Error> {
    map(image).or_else(|error| {
        let Some(copy) = image.copied() else { return Err(error) };
        // Its copy in memory fails as well if something is wrong with the code itself.
        let code = map(&copy)?;
        debug!(error = format!("{error:#}"), "compiled code is not mapped from its file");
        Ok(code)
    })
}

fn compilers() -> Option<rayon::ThreadPool> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = rayon::ThreadPoolBuilder::new().num_threads(cores.saturating_sub(1).max(1));
    threads.thread_name(|number| format!("wasm-compile-{number}")).build().ok()
}

#[cfg(test)]
mod tests {
    use wasmtime::{Engine, Module};

    use super::*;

    const MEMORY_MAX_BYTES: usize = 1 << 20;
    const MODULE: &[u8] = b"\0asm\x01\0\0\0";

    fn load(codes: &Codes, engine: &Engine, wasm: &[u8]) -> Result<Module, wasmtime::Error> {
        codes.load(engine, wasm, &Weight::default(), |image| Module::map(engine, image))
    }

    #[test]
    fn a_module_is_compiled_once_and_then_comes_from_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::default();
        for (compiled, disk) in [(1, 0), (0, 1)] {
            let (codes, _) = Codes::new(Some(dir.path()), None, MEMORY_MAX_BYTES);
            load(&codes, &engine, MODULE).expect("it is compiled");
            assert_eq!(codes.sources(), Sources { compiled, disk, lattice: 0 });
        }
        let (codes, _) = Codes::new(None, None, MEMORY_MAX_BYTES);
        load(&codes, &engine, MODULE).expect("it is compiled without a directory");
        assert_eq!(codes.sources().compiled, 1);
        assert!(load(&codes, &engine, b"no module").is_err());
    }

    #[test]
    fn code_runs_from_memory_where_files_must_not_be_run() {
        let (dir, engine) = (tempfile::tempdir().unwrap(), Engine::default());
        let from_memory = |image: &Image| match image.path() {
            Some(_) => Err(wasmtime::Error::msg("permission denied")),
            None => Module::map(&engine, image),
        };
        for (compiled, disk) in [(1, 0), (0, 1)] {
            let (codes, _) = Codes::new(Some(dir.path()), None, MEMORY_MAX_BYTES);
            codes.load(&engine, MODULE, &Weight::default(), from_memory).expect("it is mapped");
            assert_eq!(codes.sources(), Sources { compiled, disk, lattice: 0 });
        }
    }

    #[test]
    fn code_that_cannot_be_mapped_is_compiled_anew() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::default();
        let (codes, _) = Codes::new(Some(dir.path()), None, MEMORY_MAX_BYTES);
        let files = codes.files.as_ref().expect("a directory");
        let key = Key::new(Module::KIND, MODULE, &engine, MEMORY_MAX_BYTES);
        files.keep(&key, b"\x7fELF of nothing".to_vec());
        load(&codes, &engine, MODULE).expect("it is compiled");
        assert_eq!(codes.sources(), Sources { compiled: 1, disk: 0, lattice: 0 });
        load(&codes, &engine, MODULE).expect("it is there");
        assert_eq!(codes.sources().disk, 1);
    }
}

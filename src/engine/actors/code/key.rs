//! The key of compiled code: what was compiled, by which compiler, for which machines.

use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

use crate::actors::room;

/// Tells these hashes from all others.
const PURPOSE: &[u8] = b"lattice.host/code/1\n";

/// A BLAKE3 hash, as 64 hex digits in texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn of(content: &[u8]) -> Self {
        Self(*blake3::hash(content).as_bytes())
    }

    /// Reads the digits.
    pub fn parse(hex: &str) -> Option<Self> {
        blake3::Hash::from_hex(hex).ok().map(|hash| Self(*hash.as_bytes()))
    }

    pub fn hex(self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;

    fn try_from(hex: String) -> Result<Self, Self::Error> {
        Self::parse(&hex).ok_or("a hash has 64 hex digits")
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.hex()
    }
}

/// The kinds of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Module,
    Component,
}

/// Names compiled code. Two hosts with the same key make code that runs on both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    pub kind: Kind,
    /// The bytes that are compiled.
    pub wasm: Digest,
    /// The version of wasmtime, its settings, the features of the machine's processor, and the room
    /// that memories get.
    pub engine: Digest,
}

impl Key {
    /// No memory of the code may be larger than `memory_max_bytes`.
    pub fn new(
        kind: Kind,
        wasm: &[u8],
        engine: &wasmtime::Engine,
        memory_max_bytes: usize,
    ) -> Self {
        Self { kind, wasm: Digest::of(wasm), engine: fingerprint(engine, memory_max_bytes) }
    }

    /// Returns the key as the name of a file or an object.
    pub fn name(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(PURPOSE);
        hasher.update(&[self.kind as u8]).update(&self.wasm.0).update(&self.engine.0);
        Digest::from(hasher.finalize()).hex()
    }
}

/// Returns all that has to be the same for code to run, as a hash.
fn fingerprint(engine: &wasmtime::Engine, memory_max_bytes: usize) -> Digest {
    let mut hasher = Fed(blake3::Hasher::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    (room::VERSION, memory_max_bytes as u64).hash(&mut hasher);
    Digest::from(hasher.0.finalize())
}

/// Takes what is hashed into a hash that no other content has.
struct Fed(blake3::Hasher);

impl Hasher for Fed {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Nobody asks for it.
    fn finish(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::{Config, Engine, InstanceAllocationStrategy};

    use super::*;
    use crate::actors::engine::common_pool;

    fn key(wasm: &[u8], change: impl FnOnce(&mut Config) -> &mut Config) -> Key {
        let mut config = Config::new();
        change(&mut config);
        Key::new(Kind::Module, wasm, &Engine::new(&config).expect("an engine"), 1 << 20)
    }

    #[test]
    fn a_key_follows_from_all_that_makes_the_code() {
        let plain = key(b"x", |config| config);
        assert_eq!(plain, key(b"x", |config| config));
        let others = [
            key(b"y", |config| config),
            key(b"x", |config| config.epoch_interruption(true)),
            key(b"x", |config| config.wasm_simd(false).wasm_relaxed_simd(false)),
            key(b"x", |config| config.module_version(another_version()).expect("a version")),
            Key { kind: Kind::Component, ..plain },
            Key::new(Kind::Module, b"x", &Engine::default(), 1 << 21),
        ];
        let mut names: Vec<_> = others.iter().chain([&plain]).map(Key::name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), others.len() + 1);
    }

    fn another_version() -> wasmtime::ModuleVersionStrategy {
        wasmtime::ModuleVersionStrategy::Custom("another".into())
    }

    #[test]
    fn code_for_the_pool_runs_outside_of_it_too() {
        let pooled = key(b"x", |config| {
            let pool = common_pool(2, 1 << 20);
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        });
        assert_eq!(pooled, key(b"x", |config| config));
    }

    #[test]
    fn hashes_read_back() {
        let digest = Digest::of(b"x");
        assert_eq!(Digest::parse(&digest.hex()), Some(digest));
        for wrong in ["", "xy", &digest.hex()[1..], &format!("{}0", digest.hex())] {
            assert_eq!(Digest::parse(wrong), None, "{wrong}");
        }
    }
}

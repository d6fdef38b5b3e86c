//! The one place where bytes become code that runs.
//!
//! wasmtime believes what it maps, so this is unsafe for bytes of anybody else. Only [`Image`]s are
//! mapped. They are made by [`files`](super::files), of the output of this host's compiler, or as a
//! copy of one.

use std::path::Path;

use wasmtime::{Engine, Error, Module, component::Component};

use super::key::Kind;

/// Compiled code that this host made itself, or that was verified.
#[derive(Debug)]
pub struct Image(Place);

#[derive(Debug)]
enum Place {
    File(Box<Path>),
    Memory(Vec<u8>),
}

impl Image {
    /// An image in a file of a directory that only this user writes to. The caller has verified it,
    /// and neither it nor another host changes it: files there are made, renamed and removed.
    pub(super) fn in_file(path: &Path) -> Self {
        Self(Place::File(path.into()))
    }

    /// The output of this host's compiler.
    pub(super) fn in_memory(bytes: Vec<u8>) -> Self {
        Self(Place::Memory(bytes))
    }

    /// Returns the same code in memory, if it is in a file: for file systems from which nothing may
    /// be run.
    pub(super) fn copied(&self) -> Option<Self> {
        Some(Self::in_memory(std::fs::read(self.path()?).ok()?))
    }

    /// Returns its file, if it is in one.
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Place::File(path) => Some(path),
            Place::Memory(_) => None,
        }
    }
}

/// Code of one kind: modules, or components.
pub trait Code: Sized {
    const KIND: Kind;

    /// Compiles, and returns what can be mapped.
    fn compile(engine: &Engine, wasm: &[u8]) -> Result<Vec<u8>, Error>;

    /// Maps code into this process. An error says that it is for another engine, or does not fit
    /// into the pool of this one.
    fn map(engine: &Engine, image: &Image) -> Result<Self, Error>;
}

/// The same for both kinds, whose types have these functions in common and no trait.
macro_rules! code {
    ($type:ty, $kind:expr, $compile:ident) => {
        impl Code for $type {
            const KIND: Kind = $kind;

            fn compile(engine: &Engine, wasm: &[u8]) -> Result<Vec<u8>, Error> {
                engine.$compile(wasm)
            }

            #[expect(unsafe_code, reason = "wasmtime has no safe way to take compiled code")]
            fn map(engine: &Engine, image: &Image) -> Result<Self, Error> {
                // SAFETY: the bytes are unchanged output of the compiler, either of this host, or
                // of one that signed them with a key which this host accepts for that; an `Image`
                // is made of nothing else. Its file is not written to while it is mapped, since it
                // came to its place by a rename and the directory is closed to others.
                unsafe {
                    match &image.0 {
                        Place::File(path) => Self::deserialize_file(engine, path),
                        Place::Memory(bytes) => Self::deserialize(engine, bytes),
                    }
                }
            }
        }
    };
}

code!(Module, Kind::Module, precompile_module);
code!(Component, Kind::Component, precompile_component);

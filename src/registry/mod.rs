//! Where modules come from.
//!
//! * [`reference`] reads the text of a request and tells what kind of place it names.
//! * [`Registry`] fetches the bytes behind a reference.

pub mod reference;

use std::{
    fs::File,
    io::{self, Read as _},
    path::PathBuf,
};

use bytes::Bytes;

use reference::Reference;

/// The largest module or archive that is read, in bytes.
const ARTIFACT_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Why an artifact could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("files are not loaded by this host; start it with allow_file_load (WASMCLOUD_ALLOW_FILE_LOAD=true)")]
    FilesNotAllowed,
    #[error("read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} has more than the {ARTIFACT_BYTES_MAX} bytes a module may have")]
    TooLarge { path: PathBuf },
    #[error("bindle is a service that no longer exists; use a file (file:///path/to/actor.wasm)")]
    Bindle,
    #[error("it names an image of an OCI registry, and this host loads files; use file:///path/to/actor.wasm")]
    NotAFile,
    #[error(transparent)]
    Reference(#[from] reference::ReferenceError),
}

/// Fetches artifacts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Registry {
    allow_files: bool,
}

impl Registry {
    pub fn new(allow_files: bool) -> Self {
        Self { allow_files }
    }

    /// Whether this host loads what a reference of this kind names.
    pub fn could_fetch(&self, reference: &str) -> bool {
        self.allow_files && matches!(Reference::parse(reference), Ok(Reference::File(_)))
    }

    /// Fetches what a reference names. Blocks on the file system: call it off the async threads.
    pub fn fetch(&self, reference: &str) -> Result<Bytes, FetchError> {
        match Reference::parse(reference)? {
            Reference::File(path) if self.allow_files => read(path),
            Reference::File(_) => Err(FetchError::FilesNotAllowed),
            Reference::Bindle => Err(FetchError::Bindle),
            Reference::Image(_) => Err(FetchError::NotAFile),
        }
    }
}

fn read(path: PathBuf) -> Result<Bytes, FetchError> {
    let content = || {
        // A pipe or a device would be read without end.
        if !std::fs::metadata(&path)?.is_file() {
            return Err(io::Error::other("it is no ordinary file"));
        }
        let file = File::open(&path)?;
        let mut content = Vec::new();
        file.take(ARTIFACT_BYTES_MAX + 1).read_to_end(&mut content)?;
        Ok(content)
    };
    match content() {
        Ok(content) if content.len() as u64 > ARTIFACT_BYTES_MAX => Err(FetchError::TooLarge { path }),
        Ok(content) => Ok(content.into()),
        Err(source) => Err(FetchError::Read { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_reference_fails_for_its_own_reason() {
        let closed = Registry::new(false);
        assert!(matches!(closed.fetch("file:///a.wasm"), Err(FetchError::FilesNotAllowed)));
        let open = Registry::new(true);
        assert!(matches!(open.fetch("file:///no/such/file.wasm"), Err(FetchError::Read { .. })));
        assert!(matches!(open.fetch("bindle://x"), Err(FetchError::Bindle)));
        assert!(matches!(open.fetch("registry.example/echo:1"), Err(FetchError::NotAFile)));
        assert!(matches!(open.fetch(""), Err(FetchError::Reference(_))));
    }
}

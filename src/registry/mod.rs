//! Where modules and provider archives come from.
//!
//! * [`reference`] reads the text of a request and tells what kind of place it names.
//! * [`Registry`] fetches the bytes behind a reference: a file, or an image of an OCI registry.
//! * [`credentials`] knows who logs in where; [`docker`] reads what `docker login` keeps.
//! * [`problem`] is what can go wrong with a registry, in words that say what to do.
//!
//! A pull goes through these, each of which can be read alone:
//!
//! ```text
//! Registry::fetch ─▶ image (name, tag rule) ─▶ pull (deadline, order of things)
//!                                               ├─▶ oci (one registry: log in, manifest, layers)
//!                                               ├─▶ manifest (which layers make the artifact)
//!                                               └─▶ cache (content by digest, on disk)
//! ```
//!
//! Always true: no content leaves here whose digest was not verified; a registry decides by its manifest what a tag
//! means as long as it answers; requests for one image at the same time share one pull; no secret is in an error.

mod cache;
pub mod credentials;
mod digest;
mod docker;
mod image;
mod manifest;
mod oci;
pub mod problem;
mod pull;
pub mod reference;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};

use credentials::Logins;
use image::{Image, ImageError};
use problem::PullError;
use pull::Puller;
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
    #[error(
        "reading {path} did not end within {} ms (pull_timeout_ms); check the file system it is on",
        after.as_millis()
    )]
    Stuck { path: PathBuf, after: Duration },
    #[error(
        "bindle is a service that no longer exists; push the artifact to an OCI registry, or use a file \
         (file:///path/to/actor.wasm)"
    )]
    Bindle,
    #[error(
        "builtin://{0} names a provider that is part of the host, there is nothing to fetch; start it as a provider"
    )]
    Builtin(String),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Pull(#[from] Arc<PullError>),
    #[error(transparent)]
    Reference(#[from] reference::ReferenceError),
}

/// What fetching depends on.
pub struct Settings {
    pub allow_files: bool,
    /// Whether images may be named without saying which.
    pub allow_latest: bool,
    /// Registries reached over plain HTTP, as `host:port`.
    pub allowed_insecure: Vec<String>,
    /// A file of certificates that registries may be signed by, besides those of the system.
    pub ca: Option<PathBuf>,
    /// How long one fetch may take, with everything.
    pub pull_timeout: Duration,
    /// Where images are kept; made when needed.
    pub cache_dir: PathBuf,
    /// How much is kept there, in bytes; 0 keeps nothing.
    pub cache_bytes_max: u64,
    pub logins: Logins,
}

type Pulled = Result<Bytes, Arc<PullError>>;

/// Fetches artifacts. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    allow_files: bool,
    allow_latest: bool,
    timeout: Duration,
    puller: Arc<Puller>,
    /// Pulls in work by image. They live as long as somebody waits for them. Held for lines, never across an await.
    running: Mutex<HashMap<String, WeakShared<BoxFuture<'static, Pulled>>>>,
}

impl Registry {
    pub fn new(settings: Settings) -> Self {
        let (allow_files, allow_latest) = (settings.allow_files, settings.allow_latest);
        let timeout = settings.pull_timeout;
        let puller = Arc::new(Puller::new(settings));
        Self { inner: Arc::new(Inner { allow_files, allow_latest, timeout, puller, running: Mutex::default() }) }
    }

    /// Whether this host would fetch what a reference of this kind names. Asks nobody.
    pub fn could_fetch(&self, reference: &str) -> bool {
        match Reference::parse(reference) {
            Ok(Reference::File(_)) => self.inner.allow_files,
            Ok(Reference::Image(text)) => Image::parse(&text, self.inner.allow_latest).is_ok(),
            Ok(Reference::Builtin(_) | Reference::Bindle) | Err(_) => false,
        }
    }

    /// Fetches what a reference names, within the configured time. Cancel safe: a pull nobody waits for ends.
    pub async fn fetch(&self, reference: &str) -> Result<Bytes, FetchError> {
        match Reference::parse(reference)? {
            Reference::File(path) if self.inner.allow_files => self.read_file(path).await,
            Reference::File(_) => Err(FetchError::FilesNotAllowed),
            Reference::Bindle => Err(FetchError::Bindle),
            Reference::Builtin(name) => Err(FetchError::Builtin(name)),
            Reference::Image(text) => {
                let image = Image::parse(&text, self.inner.allow_latest)?;
                Ok(self.pull(image).await?)
            }
        }
    }

    async fn read_file(&self, path: PathBuf) -> Result<Bytes, FetchError> {
        let after = self.inner.timeout;
        let content = tokio::task::spawn_blocking({
            let path = path.clone();
            move || read(path)
        });
        match tokio::time::timeout(after, content).await {
            Ok(Ok(content)) => content,
            Ok(Err(error)) => Err(FetchError::Read { path, source: io::Error::other(error) }),
            // A network file system whose server is away.
            Err(_) => Err(FetchError::Stuck { path, after }),
        }
    }

    /// Joins the pull of this image that is in work, or begins one.
    fn pull(&self, image: Image) -> Shared<BoxFuture<'static, Pulled>> {
        let mut running = self.inner.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, pull| pull.upgrade().is_some_and(|pull| pull.peek().is_none()));
        let key = image.to_string();
        if let Some(pull) = running.get(&key).and_then(WeakShared::upgrade) {
            return pull;
        }
        let pull = Arc::clone(&self.inner.puller).pull(image).boxed().shared();
        if let Some(weak) = pull.downgrade() {
            running.insert(key, weak);
        }
        pull
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

    fn registry(allow_files: bool) -> Registry {
        Registry::new(Settings {
            allow_files,
            allow_latest: false,
            allowed_insecure: Vec::new(),
            ca: None,
            pull_timeout: Duration::from_secs(1),
            cache_dir: PathBuf::from("/nonexistent"),
            cache_bytes_max: 0,
            logins: Logins { lattice: Default::default(), settings: None, docker: None },
        })
    }

    #[tokio::test]
    async fn each_kind_of_reference_fails_for_its_own_reason() {
        let closed = registry(false);
        assert!(matches!(closed.fetch("file:///a.wasm").await, Err(FetchError::FilesNotAllowed)));
        let open = registry(true);
        assert!(matches!(open.fetch("file:///no/such/file.wasm").await, Err(FetchError::Read { .. })));
        assert!(matches!(open.fetch("bindle://x").await, Err(FetchError::Bindle)));
        assert!(matches!(open.fetch("builtin://httpserver").await, Err(FetchError::Builtin(_))));
        assert!(matches!(open.fetch("registry.example/echo:latest").await, Err(FetchError::Image(_))));
        assert!(matches!(open.fetch("").await, Err(FetchError::Reference(_))));
    }

    #[test]
    fn a_host_bids_for_what_it_would_fetch() {
        let (closed, open) = (registry(false), registry(true));
        assert!(open.could_fetch("file:///a.wasm") && !closed.could_fetch("file:///a.wasm"));
        for (reference, could) in [
            ("registry.example/echo:1", true),
            ("oci://localhost:5000/Echo:1", true),
            ("registry.example/echo", false),
            ("registry.example/echo:latest", false),
            ("./echo.wasm", false),
            ("builtin://httpserver", false),
            ("bindle://x/1", false),
        ] {
            assert_eq!(closed.could_fetch(reference), could, "{reference}");
        }
    }
}

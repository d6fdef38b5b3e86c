//! Where modules and provider archives come from, and go to.
//!
//! * [`reference`] reads the text of a request and tells what kind of place it names.
//! * [`Registry`] fetches the bytes behind a reference: a file, an image of an OCI registry, or an
//!   upload.
//! * [`uploads`] is what clients sent into the lattice itself.
//! * [`credentials`] knows who logs in where; [`docker`] reads what `docker login` keeps.
//! * [`problem`] is what can go wrong with a registry, in words that say what to do.
//! * [`push`] sends an artifact to a registry.
//!
//! A pull goes through these, each of which can be read alone:
//!
//! ```text
//! Registry::fetch ─▶ image (name, tag rule) ─▶ pull (deadline, order of things)
//!                                               ├─▶ connect (with or without TLS, which login)
//!                                               │    └─▶ oci (one registry) ─▶ http (what is read, in bounds)
//!                                               │                               └─▶ login (who gets the login)
//!                                               ├─▶ manifest (which layers make the artifact)
//!                                               └─▶ cache (content by digest, on disk)
//! ```
//!
//! Always true: no content leaves here whose digest was not verified; a registry decides by its
//! manifest what a tag means as long as it answers; requests for one image at the same time share
//! one pull; no secret is in an error.

mod cache;
mod connect;
pub mod credentials;
pub mod digest;
mod docker;
mod http;
mod image;
mod login;
mod manifest;
mod oci;
pub mod problem;
mod pull;
pub mod push;
pub mod reference;
pub mod uploads;

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
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use cache::Cache;
use connect::Connector;
use credentials::Logins;
use digest::Digest;
use image::{Image, ImageError};
use problem::{PullError, PushError};
use pull::Puller;
use push::{Pushed, Upload};
use reference::Reference;
use uploads::{Fetcher, UploadError, Uploads};

use crate::{budget::Budget, config::OciCredentials};

/// The largest module or archive that is read, in bytes.
pub const ARTIFACT_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Why an artifact could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(
        "files are not loaded by this host; start it with allow_file_load (WASMCLOUD_ALLOW_FILE_LOAD=true)"
    )]
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
    Upload(#[from] Arc<UploadError>),
    #[error(
        "{0} lies in the object store of a lattice, and no lattice is connected here; name its NATS server"
    )]
    NoLattice(String),
    #[error(transparent)]
    Reference(#[from] reference::ReferenceError),
}

impl FetchError {
    /// Whether the registry answered that it has no such image.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Pull(error) if error.problem == problem::Problem::Missing)
    }
}

/// Settings for fetching.
pub struct Settings {
    pub allow_files: bool,
    /// Whether images may be named without saying which.
    pub allow_latest: bool,
    /// Registries reached over plain HTTP, as `host:port`.
    pub allowed_insecure: Vec<String>,
    /// A file of certificates that registries may be signed by, besides those of the system.
    pub ca: Option<PathBuf>,
    /// Pays for what is fetched.
    pub budget: Budget,
    /// How long one fetch may take, with everything.
    pub pull_timeout: Duration,
    /// Where images are kept; made when needed.
    pub cache_dir: PathBuf,
    /// How much is kept there, in bytes; 0 keeps nothing.
    pub cache_bytes_max: u64,
    pub logins: Logins,
    /// Hosts that logins may be shown to, besides the registry's own.
    pub token_hosts: Vec<String>,
}

/// An image that was pulled.
#[derive(Clone)]
struct Artifact {
    content: Bytes,
    /// The digest that its name stands for.
    manifest: Digest,
}

type Pulled = Result<Artifact, Arc<PullError>>;

/// The content that was fetched for a reference.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub content: Bytes,
    /// The digest of the manifest; of images only.
    pub digest: Option<String>,
}

/// How far a download is: bytes that are here, of how many; 0 of 0 before that is known.
pub type Got = (u64, u64);

/// A pull in work, and how far it is.
struct Pulling {
    pull: WeakShared<BoxFuture<'static, Pulled>>,
    got: watch::Receiver<Got>,
}

/// Fetches artifacts. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
    /// `None` where no lattice is at hand.
    uploads: Option<Arc<Fetcher>>,
}

struct Inner {
    allow_files: bool,
    allow_latest: bool,
    timeout: Duration,
    connector: Arc<Connector>,
    puller: Arc<Puller>,
    /// Pulls in work by image. They live as long as somebody waits for them. Held for lines, never
    /// across an await.
    running: Mutex<HashMap<String, Pulling>>,
}

impl Registry {
    pub fn new(settings: Settings) -> Self {
        let (allow_files, allow_latest) = (settings.allow_files, settings.allow_latest);
        let timeout = settings.pull_timeout;
        let connector = Arc::new(Connector::new(&settings));
        let cache = Cache::new(settings.cache_dir, settings.cache_bytes_max);
        let puller = Arc::new(Puller::new(Arc::clone(&connector), timeout, cache));
        let running = Mutex::default();
        let inner =
            Arc::new(Inner { allow_files, allow_latest, timeout, connector, puller, running });
        Self { inner, uploads: None }
    }

    /// The same, which also fetches what clients sent into a lattice.
    pub fn with_uploads(mut self, uploads: Arc<dyn Uploads>) -> Self {
        self.uploads =
            Some(Arc::new(Fetcher::new(uploads, self.inner.puller.cache(), self.inner.timeout)));
        self
    }

    /// Takes another login of the settings.
    pub fn set_login(&self, login: Option<OciCredentials>) {
        self.inner.connector.set_login(login);
    }

    /// Whether this host would fetch what a reference of this kind names. Asks nobody.
    pub fn could_fetch(&self, reference: &str) -> bool {
        match Reference::parse(reference) {
            Ok(Reference::File(_)) => self.inner.allow_files,
            Ok(Reference::Image(text)) => Image::parse(&text, self.inner.allow_latest).is_ok(),
            Ok(Reference::Lattice(_)) => self.uploads.is_some(),
            Ok(Reference::Builtin(_) | Reference::Bindle) | Err(_) => false,
        }
    }

    /// Fetches what a reference names, within the configured time. Cancel safe: a pull nobody waits
    /// for ends.
    pub async fn fetch(&self, reference: &str) -> Result<Bytes, FetchError> {
        Ok(self.fetch_telling(reference, self.inner.timeout, |_| {}).await?.content)
    }

    /// The same, with the digest where content has one; where that is an image, `tell` is told how
    /// far its download is: when it is asked for and when the download begins, then no more often
    /// than `every` so long, and in the end that all of it is here. Cancel safe, too.
    pub async fn fetch_telling(
        &self,
        reference: &str,
        every: Duration,
        tell: impl FnMut(Got),
    ) -> Result<Fetched, FetchError> {
        match Reference::parse(reference)? {
            Reference::File(path) if self.inner.allow_files => {
                Ok(Fetched { content: self.read_file(path).await?, digest: None })
            }
            Reference::File(_) => Err(FetchError::FilesNotAllowed),
            Reference::Bindle => Err(FetchError::Bindle),
            Reference::Builtin(name) => Err(FetchError::Builtin(name)),
            Reference::Lattice(digest) => match &self.uploads {
                Some(uploads) => {
                    let named = digest.to_string();
                    Ok(Fetched { content: uploads.fetch(digest).await?, digest: Some(named) })
                }
                None => Err(FetchError::NoLattice(reference.to_owned())),
            },
            Reference::Image(text) => {
                let image = Image::parse(&text, self.inner.allow_latest)?;
                let Artifact { content, manifest } = self.pull_telling(image, every, tell).await?;
                Ok(Fetched { content, digest: Some(manifest.to_string()) })
            }
        }
    }

    /// Asks a registry for the digest of an image, without fetching it.
    pub async fn resolve(&self, image: &str) -> Result<String, FetchError> {
        let image = Image::parse(image, self.inner.allow_latest)?;
        let digest =
            self.inner.puller.resolve(image, self.inner.timeout).await.map_err(Arc::new)?;
        Ok(digest.to_string())
    }

    /// Sends an artifact to a registry under this name; `sent` is told how much of it has arrived.
    /// There is no deadline for the whole, but one for every piece.
    pub async fn push(
        &self,
        image: &str,
        upload: Upload,
        sent: impl FnMut(u64),
    ) -> Result<Pushed, PushError> {
        let image = Image::parse(image, self.inner.allow_latest)?;
        push::push(&self.inner.connector, &image, upload, sent).await
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

    /// How the last pull from each registry ended, as far as this host remembers: `None` is well.
    pub fn outcomes(&self) -> Vec<(String, Option<String>)> {
        self.inner.puller.outcomes()
    }

    /// Asks the registry of an image whether it has it and lets this host have it; fetches no
    /// content.
    pub async fn ask(&self, reference: &str, patience: Duration) -> Result<(), FetchError> {
        let Reference::Image(text) = Reference::parse(reference)? else { return Ok(()) };
        let image = Image::parse(&text, true)?;
        self.inner
            .puller
            .resolve(image, patience)
            .await
            .map(drop)
            .map_err(|error| Arc::new(error).into())
    }

    async fn pull_telling(
        &self,
        image: Image,
        every: Duration,
        mut tell: impl FnMut(Got),
    ) -> Pulled {
        let (mut pull, mut got) = self.pull(image);
        tell((0, 0));
        let (mut told, mut tell_at) = (None, Instant::now());
        let result = loop {
            tokio::select! {
                biased;
                result = &mut pull => break result,
                // The sender lives until the pull is over.
                Ok(()) = got.changed() => {}
            }
            tokio::select! {
                biased;
                result = &mut pull => break result,
                () = sleep_until(tell_at) => {}
            }
            let now = *got.borrow_and_update();
            tell(now);
            told = Some(now);
            tell_at = Instant::now() + every;
        };
        let last = *got.borrow();
        if result.is_ok() && last.1 > 0 && told != Some(last) {
            tell(last);
        }
        result
    }

    /// Joins the pull of this image that is in work, or begins one.
    fn pull(&self, image: Image) -> (Shared<BoxFuture<'static, Pulled>>, watch::Receiver<Got>) {
        let mut running = self.inner.running.lock().unwrap_or_else(PoisonError::into_inner);
        running
            .retain(|_, running| running.pull.upgrade().is_some_and(|pull| pull.peek().is_none()));
        let key = image.to_string();
        let joined = running
            .get(&key)
            .and_then(|running| Some((running.pull.upgrade()?, running.got.clone())));
        if let Some(joined) = joined {
            return joined;
        }
        let (tell, got) = watch::channel((0, 0));
        let pull = Arc::clone(&self.inner.puller).pull(image, tell).boxed().shared();
        if let Some(weak) = pull.downgrade() {
            running.insert(key, Pulling { pull: weak, got: got.clone() });
        }
        (pull, got)
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
        Ok(content) if content.len() as u64 > ARTIFACT_BYTES_MAX => {
            Err(FetchError::TooLarge { path })
        }
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
            budget: Budget::default(),
            logins: Logins {
                given: None,
                lattice: Default::default(),
                settings: None,
                docker: None,
            },
            token_hosts: Vec::new(),
        })
    }

    #[tokio::test]
    async fn each_kind_of_reference_fails_for_its_own_reason() {
        let closed = registry(false);
        assert!(matches!(closed.fetch("file:///a.wasm").await, Err(FetchError::FilesNotAllowed)));
        let open = registry(true);
        assert!(matches!(
            open.fetch("file:///no/such/file.wasm").await,
            Err(FetchError::Read { .. })
        ));
        assert!(matches!(open.fetch("bindle://x").await, Err(FetchError::Bindle)));
        assert!(matches!(open.fetch("builtin://httpserver").await, Err(FetchError::Builtin(_))));
        assert!(matches!(
            open.fetch("registry.example/echo:latest").await,
            Err(FetchError::Image(_))
        ));
        assert!(matches!(open.fetch("").await, Err(FetchError::Reference(_))));
        let upload = uploads::reference(&digest::Digest::of(b""));
        assert!(
            matches!(open.fetch(&upload).await, Err(FetchError::NoLattice(_)))
                && !open.could_fetch(&upload)
        );
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

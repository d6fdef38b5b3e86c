//! Artifacts that clients sent into the lattice itself, `lattice://sha256:…`: files of one machine
//! that any host can run.
//!
//! [`Uploads`] is where they lie, in the hands of the store; here is what the registry makes of it:
//! content that was read once is kept on disk like that of images, and as a digest names content
//! that cannot change, nobody is asked while it is here. So an actor that ran on this machine
//! starts again while the store is away.

use std::{
    collections::HashMap,
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};
use tokio::{sync::Semaphore, time::timeout};
use tracing::info;

use super::{ARTIFACT_BYTES_MAX, cache::Cache, digest::Digest};
use lattice_protocol::clock;

/// The prefix of references of uploads.
pub const SCHEME: &str = "lattice://";
/// Reads at once. More would share the same line and hold more in memory.
const READS_MAX: usize = 4;

/// The reference of an upload.
pub fn reference(digest: &Digest) -> String {
    format!("{SCHEME}{digest}")
}

/// How a reference is named where there is little room.
pub fn shown(reference: &str) -> String {
    match reference.rsplit_once("sha256:") {
        Some((scheme, digest)) if digest.chars().count() > 12 => {
            format!("{scheme}sha256:{}…", digest.chars().take(12).collect::<String>())
        }
        _ => reference.to_owned(),
    }
}

/// Returns the references of uploads in a text of whatever form.
pub fn references_in(text: &str) -> impl Iterator<Item = String> {
    text.split(SCHEME).skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != ':');
        format!("{SCHEME}{}", &rest[..end.unwrap_or(rest.len())])
    })
}

/// Where uploads lie.
pub trait Uploads: Send + Sync + 'static {
    /// Reads an artifact, verified against its digest.
    fn read<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Bytes, Problem>>;
    /// Where this is, in the middle of a sentence: the bucket and its JetStream domain.
    fn place(&self) -> String;
}

/// An upload that could not be stored, read or removed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reference} in the {place}: {problem}")]
pub struct UploadError {
    pub reference: String,
    pub place: String,
    pub problem: Problem,
}

/// A problem with an upload, or with the store it lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// JetStream is missing, has another domain, or is not for this user.
    Unreachable(String),
    Missing,
    /// The content does not match the name.
    Damaged,
    TooLarge(u64),
    /// Not complete in time.
    Deadline(Duration),
    /// The store refuses, or the transfer broke.
    Broken(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(cause) => write!(f, "the object store cannot be used: {cause}"),
            Self::Missing => f.write_str(
                "it is not there; send it again, for example with `host start actor ./file.wasm`. If it was sent, whoever sent \
                 it used another lattice or another JetStream domain (js_domain)",
            ),
            Self::Damaged => f.write_str(
                "its bytes are not those that its name says, so it is not used; send it again, for example with \
                 `host start actor ./file.wasm`",
            ),
            Self::TooLarge(bytes) => {
                write!(f, "it has {bytes} bytes, more than the {ARTIFACT_BYTES_MAX} an artifact may have")
            }
            Self::Deadline(after) => write!(
                f,
                "it did not arrive within {} ms; look at the line to that domain, or allow more time (pull_timeout_ms, \
                 WASMCLOUD_PULL_TIMEOUT_MS)",
                after.as_millis()
            ),
            Self::Broken(cause) => write!(f, "{cause}; look at the NATS server, and try again"),
        }
    }
}

type Fetched = Result<Bytes, Arc<UploadError>>;

/// Fetches uploads for the registry.
pub(super) struct Fetcher {
    source: Arc<dyn Uploads>,
    cache: Option<Cache>,
    timeout: Duration,
    permits: Semaphore,
    /// Those in work. They live as long as somebody waits for them. Held for lines, never across an
    /// await.
    running: Mutex<HashMap<Digest, WeakShared<BoxFuture<'static, Fetched>>>>,
}

impl Fetcher {
    pub(super) fn new(source: Arc<dyn Uploads>, cache: Option<Cache>, timeout: Duration) -> Self {
        Self {
            source,
            cache,
            timeout,
            permits: Semaphore::new(READS_MAX),
            running: Mutex::default(),
        }
    }

    /// Joins the fetch of this upload that is in work, or begins one.
    pub(super) fn fetch(self: &Arc<Self>, digest: Digest) -> Shared<BoxFuture<'static, Fetched>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, fetch| fetch.upgrade().is_some_and(|fetch| fetch.peek().is_none()));
        if let Some(fetch) = running.get(&digest).and_then(WeakShared::upgrade) {
            return fetch;
        }
        let fetch = Arc::clone(self).whatever_happens(digest.clone()).boxed().shared();
        if let Some(weak) = fetch.downgrade() {
            running.insert(digest, weak);
        }
        fetch
    }

    async fn whatever_happens(self: Arc<Self>, digest: Digest) -> Fetched {
        let work = AssertUnwindSafe(self.work(&digest)).catch_unwind().await;
        let result =
            work.unwrap_or_else(|_| Err(Problem::Broken("the NATS client panicked".into())));
        result.map_err(|problem| {
            Arc::new(UploadError {
                reference: reference(&digest),
                place: self.source.place(),
                problem,
            })
        })
    }

    async fn work(&self, digest: &Digest) -> Result<Bytes, Problem> {
        if let Some(cache) = &self.cache
            && let Some(found) = cache.content(digest).await
        {
            info!(reference = reference(digest), "upload served from the cache");
            return Ok(found);
        }
        let began = std::time::Instant::now();
        let read = async {
            // Never closed, so there is always a permit to wait for.
            let _permit = self.permits.acquire().await;
            self.source.read(digest).await
        };
        let content =
            timeout(self.timeout, read).await.map_err(|_| Problem::Deadline(self.timeout))??;
        let took_ms = clock::millis(began.elapsed());
        info!(reference = reference(digest), bytes = content.len(), took_ms, "upload fetched");
        if let Some(cache) = &self.cache {
            cache.keep_content(digest.clone(), content.clone()).await;
        }
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_digest_is_cut_whatever_it_is_made_of() {
        assert_eq!(shown("lattice://sha256:0123456789abcdef"), "lattice://sha256:0123456789ab…");
        assert_eq!(shown("x@sha256:éééééééééééééé"), "x@sha256:éééééééééééé…");
        assert_eq!(shown("registry.example/echo:0.3.4"), "registry.example/echo:0.3.4");
    }

    #[test]
    fn references_are_found_in_texts_of_texts() {
        let entry =
            r#"{"value":"{\"reference\":\"lattice://sha256:ab12\",\"x\":1}"} lattice://sha256:cd"#;
        let found: Vec<String> = references_in(entry).collect();
        assert_eq!(found, ["lattice://sha256:ab12", "lattice://sha256:cd"]);
        assert_eq!(references_in("nothing").count(), 0);
    }

    /// A store that has one upload, and counts who asks.
    struct Shelf {
        content: Option<Bytes>,
        asked: AtomicUsize,
    }

    impl Uploads for Shelf {
        fn read<'a>(&'a self, _: &'a Digest) -> BoxFuture<'a, Result<Bytes, Problem>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            async {
                tokio::task::yield_now().await;
                self.content.clone().ok_or(Problem::Missing)
            }
            .boxed()
        }

        fn place(&self) -> String {
            "object store on a shelf".into()
        }
    }

    fn fetcher(content: Option<Bytes>, dir: &TempDir) -> (Arc<Shelf>, Arc<Fetcher>) {
        let shelf = Arc::new(Shelf { content, asked: AtomicUsize::new(0) });
        let cache = Cache::new(dir.path().to_owned(), 1000);
        (Arc::clone(&shelf), Arc::new(Fetcher::new(shelf, cache, Duration::from_secs(5))))
    }

    #[tokio::test]
    async fn an_upload_is_read_once_by_all_who_want_it_and_then_comes_from_the_disk() {
        let dir = TempDir::new().unwrap();
        let content = Bytes::from_static(b"an artifact");
        let digest = Digest::of(&content);
        let (shelf, registry) = fetcher(Some(content.clone()), &dir);
        let (one, other) =
            tokio::join!(registry.fetch(digest.clone()), registry.fetch(digest.clone()));
        assert_eq!((one.unwrap(), other.unwrap()), (content.clone(), content.clone()));
        assert_eq!(registry.fetch(digest.clone()).await.unwrap(), content);
        assert_eq!(shelf.asked.load(Ordering::Relaxed), 1);

        let (_, without_store) = fetcher(None, &dir);
        assert_eq!(without_store.fetch(digest).await.unwrap(), content);
    }

    #[tokio::test]
    async fn a_missing_upload_is_named_with_its_place_and_what_to_do() {
        let dir = TempDir::new().unwrap();
        let (_, registry) = fetcher(None, &dir);
        let digest = Digest::of(b"x");
        let error = registry.fetch(digest.clone()).await.unwrap_err();
        assert_eq!(error.problem, Problem::Missing);
        let text = error.to_string();
        for part in [&reference(&digest), "on a shelf", "host start actor ./file.wasm", "js_domain"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}

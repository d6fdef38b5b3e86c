//! One pull, from the name of an image to the bytes of the artifact.
//!
//! A tag is always asked for: its manifest is small, and content that is already here is not
//! fetched again. Only when the registry fails to answer is the image served that the tag had last,
//! with a warning; an answer that it refuses us or has no such image counts, however old what we
//! have. A digest names content that cannot change, so nobody is asked while it is here.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore, watch},
    time::{timeout, timeout_at},
};
use tracing::{info, warn};

use super::{
    Artifact, Got, Pulled,
    cache::Cache,
    connect::Connector,
    digest::Digest,
    image::Image,
    manifest::{self, Manifest},
    oci::{Purpose, Remote},
    problem::{Problem, PullError},
};
use lattice_protocol::clock;

/// Pulls at once. More would share the same line.
const PULLS_MAX: usize = 16;
/// Pulls at once from one registry: one that is slow keeps no others waiting.
const PULLS_OF_REGISTRY_MAX: usize = 2;
/// Progress of what is smaller is not worth a line.
const PROGRESS_FROM_BYTES: u64 = 4 * 1024 * 1024;
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
const PROGRESS_STEP_PERCENT: u64 = 10;
/// Registries whose last outcome is remembered.
const OUTCOMES_MAX: usize = 64;

/// Pulls images.
pub struct Puller {
    connector: Arc<Connector>,
    timeout: Duration,
    cache: Option<Cache>,
    gate: Gate,
    /// How the last pull from each registry ended. Held for a few lines, never across an await.
    outcomes: Mutex<BTreeMap<String, Option<String>>>,
}

/// An artifact, and all content its name led to.
struct Assembled {
    artifact: Bytes,
    manifest: Digest,
    content: Vec<(Digest, Bytes)>,
}

/// A manifest as it came, with its name.
struct Top {
    digest: Digest,
    body: Bytes,
}

impl Top {
    fn new(body: Bytes) -> Self {
        Self { digest: Digest::of(&body), body }
    }

    /// Asks a registry what an image is now.
    async fn fetch(remote: &Remote, image: &Image) -> Result<Self, Problem> {
        let asked = remote.manifest(&image.reference()).await;
        let body = match (asked, image.folded_tag()) {
            (Err(Problem::Missing), Some(tag)) => {
                let body = remote.manifest(&tag).await?;
                warn!(image = %image, tag,
                    "the registry has no such tag, but one in lower case, as tools of 2022 to 2024 push it; that is used. \
                     Name it so, or push the image again");
                body
            }
            (asked, _) => asked?,
        };
        Ok(Self::new(body))
    }
}

/// Lets pulls begin.
struct Gate {
    all: Arc<Semaphore>,
    /// Of registries that are asked now. Held for lines, never across an await.
    of: Mutex<BTreeMap<String, Arc<Semaphore>>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(PULLS_MAX)), of: Mutex::default() }
    }
}

impl Gate {
    /// Waits for a place. Cancel safe.
    async fn enter(&self, registry: &str) -> Result<[OwnedSemaphorePermit; 2], AcquireError> {
        // A pull that waits for a busy registry takes no place from others.
        let own = self.of(registry).acquire_owned().await?;
        let all = Arc::clone(&self.all).acquire_owned().await?;
        Ok([own, all])
    }

    fn of(&self, registry: &str) -> Arc<Semaphore> {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        // A permit and a waiter hold the semaphore too.
        of.retain(|_, places| Arc::strong_count(places) > 1);
        let places = of.entry(registry.to_owned());
        Arc::clone(places.or_insert_with(|| Arc::new(Semaphore::new(PULLS_OF_REGISTRY_MAX))))
    }
}

impl Puller {
    pub fn new(connector: Arc<Connector>, timeout: Duration, cache: Option<Cache>) -> Self {
        let (gate, outcomes) = (Gate::default(), Mutex::default());
        Self { connector, timeout, cache, gate, outcomes }
    }

    /// How the last pull from each registry ended: `None` is well.
    pub fn outcomes(&self) -> Vec<(String, Option<String>)> {
        let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes.iter().map(|(registry, outcome)| (registry.clone(), outcome.clone())).collect()
    }

    fn note(&self, registry: &str, outcome: Option<String>) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        if outcomes.len() < OUTCOMES_MAX || outcomes.contains_key(registry) {
            outcomes.insert(registry.to_owned(), outcome);
        }
    }

    /// Where content is kept.
    pub fn cache(&self) -> Option<Cache> {
        self.cache.clone()
    }

    /// Pulls an image, whatever happens, within the configured time. `tell` is told how far the
    /// download is.
    pub async fn pull(self: Arc<Self>, image: Image, tell: watch::Sender<Got>) -> Pulled {
        let work = AssertUnwindSafe(self.work(&image, &tell)).catch_unwind().await;
        let result =
            work.unwrap_or_else(|_| Err(Problem::Broken("the OCI client panicked".into())));
        self.note(
            image.registry(),
            result.as_ref().err().map(|problem| problem.text(image.registry())),
        );
        result.map_err(|problem| {
            let (registry, reference) = (image.registry().to_owned(), image.to_string());
            Arc::new(PullError { registry, reference, problem })
        })
    }

    /// Asks what an image is now; nothing of it is fetched or kept.
    pub async fn resolve(&self, image: Image, patience: Duration) -> Result<Digest, PullError> {
        let ask = async {
            let remote = self.connector.connect(&image, Purpose::Pull).await?;
            Ok(Top::fetch(&remote, &image).await?.digest)
        };
        let answer = timeout(patience, ask).await.unwrap_or(Err(Problem::Deadline(patience)));
        answer.map_err(|problem| {
            let (registry, reference) = (image.registry().to_owned(), image.to_string());
            PullError { registry, reference, problem }
        })
    }

    async fn work(&self, image: &Image, tell: &watch::Sender<Got>) -> Result<Artifact, Problem> {
        if let Some(digest) = image.digest()
            && let Some(found) = self.cached(image, digest).await
        {
            info!(image = %image, "image served from the cache");
            return Ok(found);
        }
        // Waiting for other pulls is no fault of this registry.
        let permit = timeout(self.timeout, self.gate.enter(image.registry()));
        let permit = permit.await.map_err(|_| Problem::Queued(self.timeout))?;
        let permit = permit.map_err(|_| Problem::Setup("the host is stopping".into()))?;
        let deadline = tokio::time::Instant::now() + self.timeout;
        let late = || Problem::Deadline(self.timeout);
        let ask = async {
            let remote = self.connector.connect(image, Purpose::Pull).await?;
            let top = Top::fetch(&remote, image).await?;
            Ok((remote, top))
        };
        match timeout_at(deadline, ask).await.unwrap_or_else(|_| Err(late())) {
            Ok((remote, top)) => {
                let load = self.assemble(image, top, Some((&remote, tell)));
                let done = timeout_at(deadline, load).await.unwrap_or_else(|_| Err(late()))?;
                drop(permit);
                // After the deadline counts no more: the artifact is here, and a slow disk must not
                // take it away.
                if let Some(cache) = &self.cache {
                    cache.keep(image.to_string(), done.manifest.clone(), done.content).await;
                }
                Ok(Artifact { content: done.artifact, manifest: done.manifest })
            }
            Err(problem) if problem.is_outage() && image.digest().is_none() => {
                let Some(found) = self.last_known(image).await else { return Err(problem) };
                let error = problem.text(image.registry());
                warn!(registry = image.registry(), image = %image, error,
                    "the registry cannot be asked, the image pulled last is served from the cache");
                Ok(found)
            }
            Err(problem) => Err(problem),
        }
    }

    /// The artifact of a manifest, if all of it is in the cache.
    async fn cached(&self, image: &Image, manifest: &Digest) -> Option<Artifact> {
        let body = self.cache.as_ref()?.content(manifest).await?;
        let found =
            self.assemble(image, Top { digest: manifest.clone(), body }, None).await.ok()?;
        Some(Artifact { content: found.artifact, manifest: found.manifest })
    }

    /// The artifact an image was when it was pulled last.
    async fn last_known(&self, image: &Image) -> Option<Artifact> {
        let manifest = self.cache.as_ref()?.manifest_of(image.to_string()).await?;
        self.cached(image, &manifest).await
    }

    /// Makes an artifact of its manifest, from the cache and from the registry. Without a registry
    /// it is an error when something is missing.
    async fn assemble(
        &self,
        image: &Image,
        top: Top,
        remote: Option<(&Remote, &watch::Sender<Got>)>,
    ) -> Result<Assembled, Problem> {
        let mut content = vec![(top.digest.clone(), top.body.clone())];
        let layers = match manifest::read(&top.body)? {
            Manifest::Image(layers) => layers,
            Manifest::Elsewhere(digest) => {
                let body = match (self.content(&digest).await, remote) {
                    (Some(body), _) => body,
                    (None, Some((remote, _))) => remote.manifest(&digest.to_string()).await?,
                    (None, None) => return Err(Problem::Missing),
                };
                content.push((digest, body.clone()));
                match manifest::read(&body)? {
                    Manifest::Image(layers) => layers,
                    Manifest::Elsewhere(_) => {
                        return Err(Problem::Manifest("it is an index inside of an index".into()));
                    }
                }
            }
        };
        let mut parts = Vec::with_capacity(layers.len());
        for layer in &layers {
            // A size that is not true would get around the limit.
            parts.push(
                self.content(&layer.digest).await.filter(|part| part.len() as u64 == layer.size),
            );
        }
        let missing = layers.iter().zip(&parts).filter(|(_, part)| part.is_none());
        let (count, bytes) =
            missing.fold((0, 0), |(count, bytes), (layer, _)| (count + 1, bytes + layer.size));
        match remote {
            None if count > 0 => return Err(Problem::Missing),
            Some((remote, tell)) if count > 0 => {
                let mut progress = Progress::begin(image, bytes, tell);
                for (index, layer) in layers.iter().enumerate() {
                    if parts[index].is_none() {
                        let part = remote.layer(layer, |bytes| progress.came(bytes)).await?;
                        // The same content may stand in several places; it is fetched once.
                        let same =
                            layers.iter().zip(&mut parts).filter(|(other, _)| *other == layer);
                        same.for_each(|(_, place)| *place = Some(part.clone()));
                    }
                }
                progress.end();
            }
            Some(_) => {
                info!(registry = image.registry(), image = %image, "image is unchanged, served from the cache")
            }
            None => {}
        }
        let named = layers.into_iter().zip(&parts);
        content.extend(named.filter_map(|(layer, part)| Some((layer.digest, part.clone()?))));
        Ok(Assembled { artifact: join(parts), manifest: top.digest, content })
    }

    async fn content(&self, digest: &Digest) -> Option<Bytes> {
        self.cache.as_ref()?.content(digest).await
    }
}

/// Layers in their order; a single one, as all tools of these years make them, is not copied.
fn join(parts: Vec<Option<Bytes>>) -> Bytes {
    let mut parts = parts.into_iter().flatten();
    let first = parts.next().unwrap_or_default();
    let mut rest = parts.peekable();
    if rest.peek().is_none() {
        return first;
    }
    let mut all = BytesMut::from(first);
    rest.for_each(|part| all.extend_from_slice(&part));
    all.freeze()
}

/// Tells the log how a download goes, and those who wait for it.
struct Progress<'a> {
    image: &'a Image,
    tell: &'a watch::Sender<Got>,
    total: u64,
    got: u64,
    began: Instant,
    told_at: Instant,
    told_percent: u64,
}

impl<'a> Progress<'a> {
    fn begin(image: &'a Image, total: u64, tell: &'a watch::Sender<Got>) -> Self {
        tell.send_replace((0, total));
        info!(registry = image.registry(), image = %image, bytes = total, "pull began");
        let began = Instant::now();
        Self { image, tell, total, got: 0, began, told_at: began, told_percent: 0 }
    }

    fn came(&mut self, bytes: usize) {
        self.got += bytes as u64;
        self.tell.send_replace((self.got, self.total));
        if self.total < PROGRESS_FROM_BYTES {
            return;
        }
        let percent = self.got * 100 / self.total;
        if percent >= self.told_percent + PROGRESS_STEP_PERCENT
            || self.told_at.elapsed() >= PROGRESS_EVERY
        {
            (self.told_at, self.told_percent) = (Instant::now(), percent);
            info!(image = %self.image, bytes = self.got, of = self.total, percent, "pull goes on");
        }
    }

    fn end(self) {
        let took_ms = clock::millis(self.began.elapsed());
        info!(registry = self.image.registry(), image = %self.image, bytes = self.got, took_ms, "pull done");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_joined_in_their_order() {
        let part = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        assert_eq!(join(vec![part("a"), part("b"), part("c")]), "abc");
        let single = part("only");
        let address = single.as_ref().unwrap().as_ptr();
        assert_eq!(join(vec![single]).as_ptr(), address);
    }

    #[tokio::test]
    async fn a_registry_that_is_slow_keeps_only_its_own_pulls_waiting() {
        let gate = Gate::default();
        let _slow = [gate.enter("slow").await.unwrap(), gate.enter("slow").await.unwrap()];
        assert!(gate.enter("slow").now_or_never().is_none());
        for registry in ["a", "b", "c"] {
            assert!(gate.enter(registry).now_or_never().is_some());
        }
        // Those that are over are forgotten.
        drop(gate.of("d"));
        assert_eq!(gate.of.lock().unwrap().keys().collect::<Vec<_>>(), ["d", "slow"]);
    }
}

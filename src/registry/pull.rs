//! One pull, from the name of an image to the bytes of the artifact.
//!
//! A tag is always asked for: its manifest is small, and content that is already here is not fetched again. Only when
//! the registry fails to answer is the image served that the tag had last, with a warning; an answer that it refuses
//! us or has no such image counts, however old what we have. A digest names content that cannot change, so nobody is
//! asked while it is here.

use std::{
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use tokio::{
    sync::Semaphore,
    time::{timeout, timeout_at},
};
use tracing::{info, warn};

use super::{
    Pulled, Settings,
    cache::Cache,
    credentials::{Logins, authority},
    digest::Digest,
    image::Image,
    manifest::{self, Manifest},
    oci::{Access, Remote},
    problem::{Problem, PullError},
};

/// Pulls at once. More would share the same line and hold more in memory.
const PULLS_MAX: usize = 4;
/// Progress of what is smaller is not worth a line.
const PROGRESS_FROM_BYTES: u64 = 4 * 1024 * 1024;
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
const PROGRESS_STEP_PERCENT: u64 = 10;

/// Pulls images.
pub struct Puller {
    allowed_insecure: Vec<String>,
    ca: Option<PathBuf>,
    timeout: Duration,
    logins: Logins,
    cache: Option<Cache>,
    permits: Semaphore,
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
}

impl Puller {
    pub fn new(settings: Settings) -> Self {
        Self {
            allowed_insecure: settings.allowed_insecure.iter().map(|registry| authority(registry)).collect(),
            ca: settings.ca,
            timeout: settings.pull_timeout,
            logins: settings.logins,
            cache: Cache::new(settings.cache_dir, settings.cache_bytes_max),
            permits: Semaphore::new(PULLS_MAX),
        }
    }

    /// Pulls an image, whatever happens, within the configured time.
    pub async fn pull(self: Arc<Self>, image: Image) -> Pulled {
        let work = AssertUnwindSafe(self.work(&image)).catch_unwind().await;
        let result = work.unwrap_or_else(|_| Err(Problem::Broken("the OCI client panicked".into())));
        result.map_err(|problem| {
            let (registry, reference) = (image.registry().to_owned(), image.to_string());
            Arc::new(PullError { registry, reference, problem })
        })
    }

    async fn work(&self, image: &Image) -> Result<Bytes, Problem> {
        if let Some(digest) = image.digest()
            && let Some(found) = self.cached(image, digest).await
        {
            info!(image = %image, "image served from the cache");
            return Ok(found);
        }
        // Waiting for other pulls is no fault of this registry.
        let permit = timeout(self.timeout, self.permits.acquire()).await.map_err(|_| Problem::Queued(self.timeout))?;
        let permit = permit.map_err(|_| Problem::Setup("the host is stopping".into()))?;
        let deadline = tokio::time::Instant::now() + self.timeout;
        let late = || Problem::Deadline(self.timeout);
        let ask = async {
            let remote = self.connect(image).await?;
            let top = Top::new(remote.manifest(None).await?);
            Ok((remote, top))
        };
        match timeout_at(deadline, ask).await.unwrap_or_else(|_| Err(late())) {
            Ok((remote, top)) => {
                let load = self.assemble(image, top, Some(&remote));
                let done = timeout_at(deadline, load).await.unwrap_or_else(|_| Err(late()))?;
                drop(permit);
                // After the deadline counts no more: the artifact is here, and a slow disk must not take it away.
                if let Some(cache) = &self.cache {
                    cache.keep(image.to_string(), done.manifest, done.content).await;
                }
                Ok(done.artifact)
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

    /// Makes the client and logs in.
    async fn connect(&self, image: &Image) -> Result<Remote, Problem> {
        let (place, credentials) = self.logins.of(image.registry()).await;
        let insecure = self.allowed_insecure.iter().any(|allowed| allowed == image.registry());
        let (image, ca) = (image.clone(), self.ca.clone());
        let made = tokio::task::spawn_blocking(move || {
            Remote::new(image, Access { insecure, ca: ca.as_deref(), credentials, place })
        });
        let remote = made.await.map_err(|error| Problem::Setup(format!("no client can be made: {error}")))??;
        remote.log_in().await?;
        Ok(remote)
    }

    /// The artifact of a manifest, if all of it is in the cache.
    async fn cached(&self, image: &Image, manifest: &Digest) -> Option<Bytes> {
        let body = self.cache.as_ref()?.content(manifest).await?;
        let found = self.assemble(image, Top { digest: manifest.clone(), body }, None).await;
        found.ok().map(|found| found.artifact)
    }

    /// The artifact an image was when it was pulled last.
    async fn last_known(&self, image: &Image) -> Option<Bytes> {
        let manifest = self.cache.as_ref()?.manifest_of(image.to_string()).await?;
        self.cached(image, &manifest).await
    }

    /// Makes an artifact of its manifest, from the cache and from the registry. Without a registry it is an error when
    /// something is missing.
    async fn assemble(&self, image: &Image, top: Top, remote: Option<&Remote>) -> Result<Assembled, Problem> {
        let mut content = vec![(top.digest.clone(), top.body.clone())];
        let layers = match manifest::read(&top.body)? {
            Manifest::Image(layers) => layers,
            Manifest::Elsewhere(digest) => {
                let body = match (self.content(&digest).await, remote) {
                    (Some(body), _) => body,
                    (None, Some(remote)) => remote.manifest(Some(&digest)).await?,
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
            parts.push(self.content(&layer.digest).await.filter(|part| part.len() as u64 == layer.size));
        }
        let missing = layers.iter().zip(&parts).filter(|(_, part)| part.is_none());
        let (count, bytes) = missing.fold((0, 0), |(count, bytes), (layer, _)| (count + 1, bytes + layer.size));
        match remote {
            None if count > 0 => return Err(Problem::Missing),
            Some(remote) if count > 0 => {
                let mut progress = Progress::begin(image, bytes);
                for (layer, part) in layers.iter().zip(&mut parts) {
                    if part.is_none() {
                        *part = Some(remote.layer(layer, |bytes| progress.came(bytes)).await?);
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

/// Tells the log how a download goes.
struct Progress<'a> {
    image: &'a Image,
    total: u64,
    got: u64,
    began: Instant,
    told_at: Instant,
    told_percent: u64,
}

impl<'a> Progress<'a> {
    fn begin(image: &'a Image, total: u64) -> Self {
        info!(registry = image.registry(), image = %image, bytes = total, "pull began");
        let began = Instant::now();
        Self { image, total, got: 0, began, told_at: began, told_percent: 0 }
    }

    fn came(&mut self, bytes: usize) {
        self.got += bytes as u64;
        if self.total < PROGRESS_FROM_BYTES {
            return;
        }
        let percent = self.got * 100 / self.total;
        if percent >= self.told_percent + PROGRESS_STEP_PERCENT || self.told_at.elapsed() >= PROGRESS_EVERY {
            (self.told_at, self.told_percent) = (Instant::now(), percent);
            info!(image = %self.image, bytes = self.got, of = self.total, percent, "pull goes on");
        }
    }

    fn end(self) {
        let took_ms = self.began.elapsed().as_millis() as u64;
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
}

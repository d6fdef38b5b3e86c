//! The images and uploads this host keeps on disk, so that it starts what it knows while a registry
//! or the object store of the lattice is away.
//!
//! ```text
//! DIR/blobs/sha256/HEX     manifests, layers and uploads, each named by its digest
//! DIR/tags/HEX             which manifest a name had last, HEX of the name:
//!                          {"image": NAME, "manifest": "sha256:…"}
//! ```
//!
//! Content is verified by its name whenever it is read; a damaged file is dropped, and its content
//! is fetched again. Files appear whole (written elsewhere, then renamed), so several hosts may
//! share the directory. The tags say what is run when a registry cannot be asked, so what lies
//! where another user may write is not read at all. A cache that cannot be used costs time, not the
//! artifact: every failure here is a warning.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Once},
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{ARTIFACT_BYTES_MAX, digest::Digest};
use crate::{
    cached::{DirError, check_trusted, remove, touch, trim, trusted_dir},
    dirs::UNFINISHED,
    trusted::create_dir,
};

/// Longest time one use may take: a slow disk reads the largest artifact in half of it.
const DISK_TIMEOUT: Duration = Duration::from_secs(30);
/// More than any name of an image and a digest.
const TAG_BYTES_MAX: u64 = 16 * 1024;

/// A directory of images. Cheap to clone.
#[derive(Clone)]
pub struct Cache {
    dir: Arc<Path>,
    bytes_max: u64,
    /// That the directory is not used is told once.
    refusal: Arc<Once>,
}

#[derive(Serialize, Deserialize)]
struct Tag {
    image: String,
    manifest: String,
}

impl Cache {
    /// A cache that holds so many bytes; none when that is nothing.
    pub fn new(dir: PathBuf, bytes_max: u64) -> Option<Self> {
        (bytes_max > 0).then(|| Self { dir: dir.into(), bytes_max, refusal: Arc::new(Once::new()) })
    }

    /// Returns content, verified, and marks it as used.
    pub async fn content(&self, digest: &Digest) -> Option<Bytes> {
        let (cache, digest) = (self.clone(), digest.clone());
        off_thread(move || cache.read(&digest)).await?
    }

    /// Returns the manifest an image had when it was pulled last.
    pub async fn manifest_of(&self, image: String) -> Option<Digest> {
        let cache = self.clone();
        off_thread(move || cache.read_tag(&image)).await?
    }

    /// Keeps content, and which manifest an image has now; then makes room.
    pub async fn keep(&self, image: String, manifest: Digest, content: Vec<(Digest, Bytes)>) {
        let cache = self.clone();
        off_thread(move || {
            if !cache.is_usable(trusted_dir) {
                return;
            }
            if let Err(error) = cache.write(image, &manifest, &content).and_then(|()| cache.trim()) {
                warn!(dir = %cache.dir.display(), %error, "image not kept, it will be pulled again");
            }
        })
        .await;
    }

    /// Keeps content that nothing but its digest names; then makes room.
    pub async fn keep_content(&self, digest: Digest, content: Bytes) {
        let cache = self.clone();
        off_thread(move || {
            if !cache.is_usable(trusted_dir) {
                return;
            }
            if let Err(error) = cache.write_content(&[(digest, content)]).and_then(|()| cache.trim()) {
                warn!(dir = %cache.dir.display(), %error, "content not kept, it will be fetched again");
            }
        })
        .await;
    }

    fn blobs(&self) -> PathBuf {
        self.dir.join("blobs").join("sha256")
    }

    fn tags(&self) -> PathBuf {
        self.dir.join("tags")
    }

    fn tag_path(&self, image: &str) -> PathBuf {
        self.tags().join(Digest::of(image.as_bytes()).hex())
    }

    /// Whether the content of the directory is believed. One that is not there yet is nobody's.
    fn is_usable(&self, look: fn(&Path) -> Result<(), DirError>) -> bool {
        let looked = look(&self.dir);
        if let Err(error) = &looked
            && !error.is_missing()
        {
            self.refusal.call_once(
                || warn!(%error, "no cache of images, they are pulled again at each start"),
            );
        }
        looked.is_ok()
    }

    fn read(&self, digest: &Digest) -> Option<Bytes> {
        if !self.is_usable(check_trusted) {
            return None;
        }
        let path = self.blobs().join(digest.hex());
        let content = match read_file(&path, ARTIFACT_BYTES_MAX) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                warn!(path = %path.display(), %error, "cached content not read, it is fetched again");
                return None;
            }
        };
        if Digest::of(&content) != *digest {
            warn!(path = %path.display(), "cached content is damaged, it is fetched again");
            remove(&path);
            return None;
        }
        touch(&path);
        Some(content.into())
    }

    fn read_tag(&self, image: &str) -> Option<Digest> {
        if !self.is_usable(check_trusted) {
            return None;
        }
        let path = self.tag_path(image);
        let content = read_file(&path, TAG_BYTES_MAX).ok()?;
        let tag: Tag =
            serde_json::from_slice(&content).ok().filter(|tag: &Tag| tag.image == image)?;
        Digest::parse(&tag.manifest)
    }

    fn write(
        &self,
        image: String,
        manifest: &Digest,
        content: &[(Digest, Bytes)],
    ) -> io::Result<()> {
        self.write_content(content)?;
        let tags = self.tags();
        let path = self.tag_path(&image);
        let tag = Tag { image, manifest: manifest.to_string() };
        write_file(&tags, &path, &serde_json::to_vec(&tag)?)
    }

    fn write_content(&self, content: &[(Digest, Bytes)]) -> io::Result<()> {
        let blobs = self.blobs();
        create_dir(&blobs)?;
        create_dir(&self.tags())?;
        for (digest, content) in content {
            let path = blobs.join(digest.hex());
            if path.exists() { touch(&path) } else { write_file(&blobs, &path, content)? }
        }
        Ok(())
    }

    /// Removes what was not used for longest until the rest fits, and tags whose manifest went.
    fn trim(&self) -> io::Result<()> {
        if !trim(&self.blobs(), self.bytes_max)? {
            return Ok(());
        }
        for entry in fs::read_dir(self.tags())? {
            let path = entry?.path();
            let manifest = read_file(&path, TAG_BYTES_MAX).ok().and_then(|content| {
                let tag: Tag = serde_json::from_slice(&content).ok()?;
                Digest::parse(&tag.manifest)
            });
            if manifest.is_none_or(|manifest| !self.blobs().join(manifest.hex()).exists()) {
                remove(&path);
            }
        }
        Ok(())
    }
}

/// Runs what blocks on the file system. A panic there, or a disk that does not answer, is a cache
/// that knows nothing.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match tokio::time::timeout(DISK_TIMEOUT, tokio::task::spawn_blocking(work)).await {
        Ok(done) => done.inspect_err(|error| warn!(%error, "the cache of images failed")).ok(),
        Err(_) => {
            warn!("the disk of the cache of images does not answer, going on without");
            None
        }
    }
}

fn read_file(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > bytes_max {
        return Err(io::Error::other("it is no file that was written here"));
    }
    let mut content = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
    file.take(bytes_max).read_to_end(&mut content)?;
    Ok(content)
}

fn write_file(dir: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(dir)?;
    file.write_all(content)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tempfile::TempDir;

    use super::*;

    fn content(byte: u8, size: usize) -> (Digest, Bytes) {
        let content = Bytes::from(vec![byte; size]);
        (Digest::of(&content), content)
    }

    #[tokio::test]
    async fn what_is_kept_is_found_and_what_was_damaged_is_dropped() {
        let dir = TempDir::new().unwrap();
        let cache = Cache::new(dir.path().join("oci"), 1000).unwrap();
        let (digest, bytes) = content(1, 10);
        assert_eq!(cache.content(&digest).await, None);
        cache.keep("r/a:1".into(), digest.clone(), vec![(digest.clone(), bytes.clone())]).await;
        assert_eq!(cache.content(&digest).await, Some(bytes));
        assert_eq!(cache.manifest_of("r/a:1".into()).await, Some(digest.clone()));
        assert_eq!(cache.manifest_of("r/b:1".into()).await, None);

        let path = cache.blobs().join(digest.hex());
        fs::write(&path, b"something else").unwrap();
        assert_eq!(cache.content(&digest).await, None);
        assert!(!path.exists());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(
                fs::metadata(dir.path().join("oci")).unwrap().permissions().mode() & 0o777,
                0o700
            );
        }
    }

    #[tokio::test]
    async fn what_was_used_last_stays_when_room_is_needed() {
        let dir = TempDir::new().unwrap();
        let cache = Cache::new(dir.path().to_owned(), 250).unwrap();
        let kept: Vec<_> = (0..3).map(|byte| content(byte, 100)).collect();
        for (age, (digest, bytes)) in kept.iter().take(2).enumerate() {
            cache
                .keep(format!("r/{age}:1"), digest.clone(), vec![(digest.clone(), bytes.clone())])
                .await;
            let file = File::open(cache.blobs().join(digest.hex())).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(100 - age as u64)).unwrap();
        }
        // The older one is used, so the other one goes.
        assert!(cache.content(&kept[0].0).await.is_some());
        let (digest, bytes) = &kept[2];
        cache.keep("r/2:1".into(), digest.clone(), vec![(digest.clone(), bytes.clone())]).await;
        assert!(cache.content(&kept[0].0).await.is_some());
        assert!(cache.content(&kept[1].0).await.is_none());
        assert!(cache.content(&kept[2].0).await.is_some());
        assert_eq!(cache.manifest_of("r/1:1".into()).await, None);
        assert!(cache.manifest_of("r/0:1".into()).await.is_some());
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_link_counts_if_it_is_this_users_and_else_nothing_is_read_or_added_there() {
        use std::os::unix::fs::{lchown, symlink};
        let dir = TempDir::new().unwrap();
        let (digest, bytes) = content(1, 10);
        let own = Cache::new(dir.path().join("own"), 1000).unwrap();
        own.keep("r/a:1".into(), digest.clone(), vec![(digest.clone(), bytes)]).await;
        symlink(dir.path().join("own"), dir.path().join("oci")).unwrap();
        let linked = Cache::new(dir.path().join("oci"), 1000).unwrap();
        assert_eq!(linked.manifest_of("r/a:1".into()).await, Some(digest.clone()));
        // Only root can make the link of another user.
        if !rustix::process::geteuid().is_root() {
            return;
        }
        lchown(dir.path().join("oci"), Some(65_534), None).unwrap();
        assert_eq!(linked.manifest_of("r/a:1".into()).await, None);
        assert_eq!(linked.content(&digest).await, None);
        let (other, bytes) = content(2, 10);
        linked.keep("r/b:1".into(), other.clone(), vec![(other.clone(), bytes.clone())]).await;
        linked.keep_content(other.clone(), bytes).await;
        assert_eq!(own.content(&other).await, None);
        assert_eq!(own.manifest_of("r/a:1".into()).await, Some(digest));
    }

    #[test]
    fn no_room_is_no_cache() {
        assert!(Cache::new(PathBuf::from("/tmp"), 0).is_none());
    }
}

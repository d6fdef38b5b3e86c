//! Notices that a file was saved, and hands its content over.
//!
//! The directory is watched and not the file: builds and editors put a new file in the place of the
//! old one. Events come in bursts, so the file is read when nothing happened for [`QUIET`]. Where
//! no events come (network file systems, a directory that is not there yet, one that was removed
//! and made again) the file is looked at every [`LOOK`].
//!
//! Only the latest content counts: a caller that is busy with one finds the last of those that came
//! meanwhile.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _, event::AccessKind};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use crate::upload;

/// Pause in a burst of events after which the file is read.
const QUIET: Duration = Duration::from_millis(100);
/// A file that is written without a pause is read nevertheless.
const BURST_MAX: Duration = Duration::from_secs(2);
/// How often the file is looked at without an event.
const LOOK: Duration = Duration::from_secs(1);

/// Why a file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(String);

/// A file's content after it was saved.
#[derive(Clone, Debug)]
pub struct Save {
    pub content: Result<Bytes, Unreadable>,
    /// When the save was noticed.
    pub noticed: Instant,
}

/// The saves of one file, from the content it has now on. Ends its watch when dropped.
pub struct Saves {
    saves: watch::Receiver<Option<Save>>,
    _task: AbortOnDropHandle<()>,
}

impl Saves {
    /// Begins to watch a file that may not exist yet.
    pub fn watch(file: &Path) -> Result<Self> {
        let file = std::path::absolute(file).with_context(|| format!("find {}", file.display()))?;
        let (sender, saves) = watch::channel(None);
        let lookout = Lookout::new(file)?;
        Ok(Self { saves, _task: AbortOnDropHandle::new(tokio::spawn(lookout.keep(sender))) })
    }

    /// The next content, which differs from the one before; `None` if nobody watches any more.
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Save> {
        loop {
            self.saves.changed().await.ok()?;
            if let Some(save) = self.saves.borrow_and_update().clone() {
                return Some(save);
            }
        }
    }
}

/// The properties of a file that can be seen without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Looks {
    bytes: u64,
    modified: Option<SystemTime>,
    identity: u64,
}

/// Which file or directory it is, where the system tells.
fn identity(metadata: &std::fs::Metadata) -> u64 {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        metadata.ino()
    }
    #[cfg(not(unix))]
    {
        let made = metadata
            .created()
            .ok()
            .and_then(|made| made.duration_since(SystemTime::UNIX_EPOCH).ok());
        made.map_or(0, |made| made.as_nanos() as u64)
    }
}

struct Lookout {
    file: PathBuf,
    dir: PathBuf,
    changes: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    /// Which directory is watched.
    watched: Option<u64>,
    /// How the file looked when it was read.
    looked: Option<Looks>,
    last: Option<Result<Bytes, Unreadable>>,
}

impl Lookout {
    fn new(file: PathBuf) -> Result<Self> {
        let dir = file.parent().context("the file has no directory")?.to_owned();
        let name = file
            .file_name()
            .with_context(|| format!("{} names no file", file.display()))?
            .to_owned();
        let changes = Arc::new(Notify::new());
        let changed = Arc::clone(&changes);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let is_ours = match event {
                // Reading it is no change.
                Ok(event) if is_reading(event.kind) => false,
                Ok(event) => {
                    event.need_rescan()
                        || event.paths.iter().any(|path| path.file_name() == Some(&name))
                }
                Err(_) => true,
            };
            if is_ours {
                changed.notify_one();
            }
        });
        // Without events the file is looked at.
        let watcher = watcher.inspect_err(|error| debug!(%error, "no file system events")).ok();
        Ok(Self { file, dir, changes, watcher, watched: None, looked: None, last: None })
    }

    async fn keep(mut self, saves: watch::Sender<Option<Save>>) {
        let mut is_due = true;
        loop {
            self.follow_dir().await;
            if !is_due {
                is_due = match timeout(LOOK, self.changes.notified()).await {
                    Ok(()) => true,
                    Err(_) => self.looks().await.is_some_and(|looks| Some(looks) != self.looked),
                };
                continue;
            }
            is_due = false;
            let noticed = Instant::now();
            while timeout(QUIET, self.changes.notified()).await.is_ok()
                && noticed.elapsed() < BURST_MAX
            {}
            if let Some(content) = self.read().await {
                saves.send_replace(Some(Save { content, noticed }));
            }
        }
    }

    /// Watches the directory, again if it is another one by now.
    async fn follow_dir(&mut self) {
        let now = tokio::fs::metadata(&self.dir).await.ok().map(|metadata| identity(&metadata));
        if now == self.watched {
            return;
        }
        let Some(watcher) = &mut self.watcher else { return };
        if self.watched.take().is_some() {
            // It is gone, and with it most likely its watch.
            let _ = watcher.unwatch(&self.dir);
        }
        if now.is_none() {
            return;
        }
        match watcher.watch(&self.dir, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.watched = now;
                // The file may have come before the watch.
                self.changes.notify_one();
            }
            Err(error) => {
                debug!(dir = %self.dir.display(), %error, "no file system events of this directory")
            }
        }
    }

    async fn looks(&self) -> Option<Looks> {
        let metadata = tokio::fs::metadata(&self.file).await.ok()?;
        Some(Looks {
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
            identity: identity(&metadata),
        })
    }

    /// The content, if there is one and it is another one. A file that vanished is none: a build
    /// makes it again.
    async fn read(&mut self) -> Option<Result<Bytes, Unreadable>> {
        let looks = self.looks().await?;
        if self.looked.as_ref() == Some(&looks) {
            return None;
        }
        let content =
            upload::read(&self.file).await.map_err(|error| Unreadable(format!("{error:#}")));
        if self.looks().await.as_ref() == Some(&looks) {
            self.looked = Some(looks);
        } else {
            // It was written meanwhile; what comes after that is read again.
            self.changes.notify_one();
            return None;
        }
        if self.last.as_ref() == Some(&content) {
            return None;
        }
        self.last = Some(content.clone());
        Some(content)
    }
}

fn is_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if !matches!(access, AccessKind::Close(notify::event::AccessMode::Write)))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    async fn next(saves: &mut Saves) -> Bytes {
        timeout(PATIENCE, saves.next()).await.expect("a save").expect("a watch").content.unwrap()
    }

    #[tokio::test]
    async fn each_save_is_noticed_whatever_way_it_was_made() {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("x.wasm");
        std::fs::write(&file, "one").unwrap();
        let mut saves = Saves::watch(&file).unwrap();
        assert_eq!(next(&mut saves).await, "one");
        std::fs::write(&file, "two").unwrap();
        assert_eq!(next(&mut saves).await, "two");
        // As builds do.
        std::fs::write(dir.path().join("new"), "three").unwrap();
        std::fs::rename(dir.path().join("new"), &file).unwrap();
        assert_eq!(next(&mut saves).await, "three");
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, "four").unwrap();
        assert_eq!(next(&mut saves).await, "four");
    }

    #[tokio::test]
    async fn a_directory_that_comes_later_and_is_made_again_is_followed() {
        let dir = TempDir::new().unwrap();
        let target = dir.path().join("target/release");
        let file = target.join("x.wasm");
        let mut saves = Saves::watch(&file).unwrap();
        for content in ["one", "two"] {
            std::fs::create_dir_all(&target).unwrap();
            std::fs::write(&file, content).unwrap();
            assert_eq!(next(&mut saves).await, content);
            std::fs::remove_dir_all(&target).unwrap();
        }
    }

    #[tokio::test]
    async fn a_save_that_changes_nothing_is_passed_over() {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("x.wasm");
        std::fs::write(&file, "same").unwrap();
        let mut saves = Saves::watch(&file).unwrap();
        assert_eq!(next(&mut saves).await, "same");
        std::fs::write(&file, "same").unwrap();
        std::fs::write(dir.path().join("other.wasm"), "other").unwrap();
        assert!(timeout(QUIET * 4, saves.next()).await.is_err());
        std::fs::write(&file, "other").unwrap();
        assert_eq!(next(&mut saves).await, "other");
    }
}

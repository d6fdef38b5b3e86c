//! Objects as files: `{root}/{actor}/{container}/{object}`.
//!
//! An upload is a file beside the containers, in `.uploads`, and becomes the object by a rename; so
//! a cut upload leaves nothing that is seen. Content type and encoding, which a file cannot tell,
//! stand in `.meta/{container}`, in files named by the digest of the object's name; they are
//! written after the object, and both under a lock of that object, so that a reader sees what
//! belongs together. No symbolic link below the root is followed.
//!
//! The work is done by blocking calls, off the threads that serve others.

mod storing;
mod transfer;

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, ErrorKind, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use futures::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use self::transfer::{FileDownload, FileUpload};
use super::backend::{Backend, ContentInfo, Download, Error, Listing, Page, Upload};
use lattice_protocol::contracts::blobstore::{ContainerMetadata, ObjectMetadata, Timestamp};

const UPLOADS: &str = ".uploads";
const META: &str = ".meta";
/// Unfinished files of a process that died are removed when they are this old.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Attempts at what another call may spoil in that moment: folders go when they get empty,
/// containers when they are removed.
const ATTEMPTS_MAX: usize = 10;
/// The locks of objects, of all links of this process; an object always has the same one. They are
/// held for a few operations of the file system, on threads for such work, and never two at a time.
static TURNS: [Mutex<()>; 64] = [const { Mutex::new(()) }; 64];

/// The objects of one actor.
pub struct Fs(Files);

#[derive(Clone)]
struct Files {
    root: PathBuf,
    actor: String,
}

#[derive(Default, Serialize, Deserialize)]
struct Meta {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_encoding: Option<String>,
}

impl Fs {
    /// Opens the directory of an actor, making it if it is missing.
    pub async fn open(root: PathBuf, actor: String) -> Result<Self, Error> {
        let files = Files { root, actor };
        let opened = files.clone();
        blocking(move || {
            files.check_links(&[])?;
            let uploads = files.home().join(UPLOADS);
            fs::create_dir_all(&uploads).map_err(|e| storage("create", &uploads, &e))
        })
        .await?;
        Ok(Self(opened))
    }
}

impl Backend for Fs {
    fn container(
        &self,
        container: String,
    ) -> BoxFuture<'_, Result<Option<ContainerMetadata>, Error>> {
        let files = self.0.clone();
        Box::pin(blocking(move || files.container(&container)))
    }

    fn create_container(&self, container: String) -> BoxFuture<'_, Result<(), Error>> {
        let files = self.0.clone();
        Box::pin(blocking(move || {
            let path = files.container_path(&container)?;
            fs::create_dir_all(&path).map_err(|e| storage("create", &path, &e))
        }))
    }

    fn containers(&self) -> BoxFuture<'_, Result<Vec<ContainerMetadata>, Error>> {
        let files = self.0.clone();
        Box::pin(blocking(move || files.containers()))
    }

    fn remove_container(&self, container: String) -> BoxFuture<'_, Result<(), Error>> {
        let files = self.0.clone();
        Box::pin(blocking(move || files.remove_container(&container)))
    }

    fn object(
        &self,
        container: String,
        object: String,
    ) -> BoxFuture<'_, Result<Option<ObjectMetadata>, Error>> {
        let files = self.0.clone();
        Box::pin(blocking(move || files.object(&container, &object)))
    }

    fn list(&self, container: String, page: Page) -> BoxFuture<'_, Result<Listing, Error>> {
        let files = self.0.clone();
        Box::pin(blocking(move || files.list(&container, &page)))
    }

    fn remove_object(&self, container: String, object: String) -> BoxFuture<'_, Result<(), Error>> {
        let files = self.0.clone();
        Box::pin(blocking(move || files.remove_object(&container, &object)))
    }

    fn upload(
        &self,
        container: String,
        object: String,
        info: ContentInfo,
    ) -> BoxFuture<'_, Result<Box<dyn Upload>, Error>> {
        let files = self.0.clone();
        Box::pin(blocking(move || {
            files.must_have(&container)?;
            files.object_path(&container, &object)?;
            let file = files.temporary()?;
            Ok(Box::new(FileUpload { files, container, object, info, file: Some(file) })
                as Box<dyn Upload>)
        }))
    }

    fn download(
        &self,
        container: String,
        object: String,
        start: u64,
    ) -> BoxFuture<'_, Result<Option<Box<dyn Download>>, Error>> {
        let files = self.0.clone();
        Box::pin(blocking(move || {
            let path = files.object_path(&container, &object)?;
            let _turn = turn(&path);
            let mut file = match File::open(&path) {
                Ok(file) => file,
                Err(e) if is_absence(&e) => return Ok(None),
                Err(e) => return Err(storage("open", &path, &e)),
            };
            let Some(metadata) = files.metadata(&container, &object, &file.metadata(), &path)?
            else {
                return Ok(None);
            };
            file.seek(SeekFrom::Start(start)).map_err(|e| storage("read", &path, &e))?;
            Ok(Some(
                Box::new(FileDownload { metadata, path, file: Some(file) }) as Box<dyn Download>
            ))
        }))
    }

    fn sweep(&self) -> BoxFuture<'_, Result<(), Error>> {
        let files = self.0.clone();
        Box::pin(blocking(move || files.sweep()))
    }
}

impl Files {
    fn home(&self) -> PathBuf {
        self.root.join(&self.actor)
    }

    fn container_path(&self, container: &str) -> Result<PathBuf, Error> {
        self.check_links(&[container])?;
        Ok(self.home().join(container))
    }

    fn object_path(&self, container: &str, object: &str) -> Result<PathBuf, Error> {
        let parts: Vec<&str> = std::iter::once(container).chain(object.split('/')).collect();
        self.check_links(&parts)?;
        let mut path = self.home();
        path.extend(parts);
        Ok(path)
    }

    /// Refuses symbolic links on the way from the root to these parts.
    fn check_links(&self, parts: &[&str]) -> Result<(), Error> {
        let mut path = self.root.clone();
        for part in std::iter::once(self.actor.as_str()).chain(parts.iter().copied()) {
            path.push(part);
            match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_symlink() => {
                    return Err(Error::SymbolicLink(part.to_owned()));
                }
                Ok(_) => {}
                Err(e) if is_absence(&e) => return Ok(()),
                Err(e) => return Err(storage("look at", &path, &e)),
            }
        }
        Ok(())
    }

    fn must_have(&self, container: &str) -> Result<(), Error> {
        match self.container(container)? {
            Some(_) => Ok(()),
            None => Err(Error::NoContainer(container.to_owned())),
        }
    }

    fn container(&self, container: &str) -> Result<Option<ContainerMetadata>, Error> {
        let path = self.container_path(container)?;
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                let created = metadata.created().or_else(|_| metadata.modified()).ok();
                let created_at = created.and_then(timestamp);
                Ok(Some(ContainerMetadata { container_id: container.to_owned(), created_at }))
            }
            Ok(_) => Ok(None),
            Err(e) if is_absence(&e) => Ok(None),
            Err(e) => Err(storage("look at", &path, &e)),
        }
    }

    fn containers(&self) -> Result<Vec<ContainerMetadata>, Error> {
        let home = self.home();
        let mut names: Vec<String> = entries(&home)?
            .into_iter()
            .filter(|(name, kind)| kind.is_dir() && !name.starts_with('.'))
            .map(|(name, _)| name)
            .collect();
        names.sort_unstable();
        // One that is removed meanwhile is left out.
        names.iter().filter_map(|name| self.container(name).transpose()).collect()
    }

    fn remove_container(&self, container: &str) -> Result<(), Error> {
        self.must_have(container)?;
        let path = self.container_path(container)?;
        // Out of sight at once, however long the removal takes and wherever it is interrupted.
        let aside = self.home().join(UPLOADS).join(uuid::Uuid::new_v4().to_string());
        if let Err(error) = fs::rename(&path, &aside) {
            // Another call may have been faster.
            self.must_have(container)?;
            return Err(storage("remove", &path, &error));
        }
        // An upload that was on its way into it adds to it even now; that ends soon, and a sweep
        // removes the rest.
        let mut attempts = 1;
        while let Err(error) = fs::remove_dir_all(&aside) {
            if error.kind() != ErrorKind::DirectoryNotEmpty || attempts == ATTEMPTS_MAX {
                return Err(storage("remove", &aside, &error));
            }
            attempts += 1;
        }
        let meta = self.home().join(META).join(container);
        match fs::remove_dir_all(&meta) {
            // An upload that ended in this moment may add to it. Its leftover is replaced with its
            // object.
            Err(e) if !is_absence(&e) && e.kind() != ErrorKind::DirectoryNotEmpty => {
                Err(storage("remove", &meta, &e))
            }
            _ => Ok(()),
        }
    }

    fn object(&self, container: &str, object: &str) -> Result<Option<ObjectMetadata>, Error> {
        let path = self.object_path(container, object)?;
        let _turn = turn(&path);
        self.metadata(container, object, &fs::metadata(&path), &path)
    }

    /// Returns the metadata of an object; the caller holds the object's turn.
    fn metadata(
        &self,
        container: &str,
        object: &str,
        file: &io::Result<fs::Metadata>,
        path: &Path,
    ) -> Result<Option<ObjectMetadata>, Error> {
        let file = match file {
            Ok(file) if file.is_file() => file,
            Ok(_) => return Ok(None),
            Err(e) if is_absence(e) => return Ok(None),
            Err(e) => return Err(storage("look at", path, e)),
        };
        // Unreadable metadata is no reason to hide the object.
        let meta: Meta = fs::read(self.meta_path(container, object))
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or_default();
        Ok(Some(ObjectMetadata {
            object_id: object.to_owned(),
            container_id: container.to_owned(),
            content_length: file.len(),
            last_modified: file.modified().ok().and_then(timestamp),
            content_type: meta.content_type,
            content_encoding: meta.content_encoding,
        }))
    }

    fn meta_path(&self, container: &str, object: &str) -> PathBuf {
        let digest = HEXLOWER.encode(digest(&SHA256, object.as_bytes()).as_ref());
        self.home().join(META).join(container).join(format!("{digest}.json"))
    }

    fn list(&self, container: &str, page: &Page) -> Result<Listing, Error> {
        self.must_have(container)?;
        let mut names = Vec::new();
        let mut folders = vec![(self.container_path(container)?, String::new())];
        while let Some((path, prefix)) = folders.pop() {
            for (name, kind) in entries(&path)? {
                if kind.is_dir() {
                    folders.push((path.join(&name), format!("{prefix}{name}/")));
                } else if kind.is_file() {
                    names.push(format!("{prefix}{name}"));
                }
            }
        }
        let (names, is_cut) = page.select(names, |name| name);
        // One that is removed meanwhile is left out.
        let objects = names.iter().filter_map(|name| self.object(container, name).transpose());
        Ok(Listing { objects: objects.collect::<Result<_, _>>()?, is_cut })
    }

    fn remove_object(&self, container: &str, object: &str) -> Result<(), Error> {
        self.must_have(container)?;
        let path = self.object_path(container, object)?;
        let _turn = turn(&path);
        if self.metadata(container, object, &fs::metadata(&path), &path)?.is_none() {
            return Err(Error::NoObject {
                container: container.to_owned(),
                object: object.to_owned(),
            });
        }
        remove_file(&path)?;
        let _ = fs::remove_file(self.meta_path(container, object));
        // Folders exist for the objects in them; the first that is not empty ends this.
        let mut folder = path.parent();
        for _ in object.split('/').skip(1) {
            let Some(path) = folder else { break };
            if fs::remove_dir(path).is_err() {
                break;
            }
            folder = path.parent();
        }
        Ok(())
    }

    fn sweep(&self) -> Result<(), Error> {
        let folder = self.home().join(UPLOADS);
        for (name, kind) in entries(&folder)? {
            let path = folder.join(name);
            let modified = fs::symlink_metadata(&path).and_then(|metadata| metadata.modified());
            let is_old =
                modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age >= ABANDONED_AFTER));
            if is_old {
                let removed =
                    if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.map_err(|e| storage("remove", &path, &e))?;
            }
        }
        Ok(())
    }
}

/// Waits for the object at this path.
fn turn(path: &Path) -> MutexGuard<'static, ()> {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    TURNS[(hasher.finish() % TURNS.len() as u64) as usize].lock()
}

/// Files and folders with names that are text; neither the links nor what else there may be.
fn entries(folder: &Path) -> Result<Vec<(String, fs::FileType)>, Error> {
    match read_entries(folder) {
        Err(e) if is_absence(&e) => Ok(Vec::new()),
        outcome => outcome.map_err(|e| storage("list", folder, &e)),
    }
}

fn read_entries(folder: &Path) -> io::Result<Vec<(String, fs::FileType)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string() {
            found.push((name, entry.file_type()?));
        }
    }
    Ok(found)
}

/// Removes a file; it is no error if there is none.
fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if !is_absence(&e) => Err(storage("remove", path, &e)),
        _ => Ok(()),
    }
}

/// Runs blocking work off the threads that serve others.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(cut()))
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn is_in_the_way(error: &io::Error) -> bool {
    use ErrorKind::{AlreadyExists, DirectoryNotEmpty, IsADirectory, NotADirectory};
    matches!(error.kind(), AlreadyExists | DirectoryNotEmpty | IsADirectory | NotADirectory)
}

fn cut() -> Error {
    Error::Storage {
        action: "go on".into(),
        cause: "the work on this file was cut off; begin it anew".into(),
    }
}

fn storage(verb: &str, path: &Path, error: &io::Error) -> Error {
    Error::Storage { action: format!("{verb} {}", path.display()), cause: error.to_string() }
}

fn timestamp(time: SystemTime) -> Option<Timestamp> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp { sec: i64::try_from(since.as_secs()).ok()?, nsec: since.subsec_nanos() })
}

//! The directory of compiled code: what this host compiled, and what it took from the lattice.
//!
//! ```text
//! DIR/KEY-HASH    code by its key, and the hash of its bytes
//! ```
//!
//! A file is mapped when its bytes have the hash of its name, so one that a crash of the machine
//! left half written is dropped. It appears whole and never changes, so a mapped one may be
//! removed, and several hosts of a user may share the directory. It is for its owner only: what is
//! in there runs as this user.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use tempfile::NamedTempFile;
use tracing::{debug, warn};

use super::{
    key::{Digest, Key},
    map::Image,
};
use lattice_base::{
    cached::{remove, touch, trim},
    dirs::UNFINISHED,
    trusted::create_dir,
};

/// Bytes that are kept. Code of a JavaScript guest has 60 MB, that of a module some megabytes.
const BYTES_MAX: u64 = 2 << 30;

/// The files of compiled code. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Files(Arc<Path>);

/// Code on its way into the directory.
pub struct Draft {
    file: NamedTempFile,
    hasher: blake3::Hasher,
}

impl Files {
    /// Opens the directory, and makes it if it is not there; without it each start compiles.
    pub fn open(dir: &Path) -> Option<Self> {
        match own_directory(dir) {
            Ok(()) => Some(Self(dir.into())),
            Err(error) => {
                warn!(dir = %dir.display(), %error, "no cache of compiled actors, each start compiles");
                None
            }
        }
    }

    /// Finds code by its key, verifies it, and marks it as used.
    pub fn find(&self, key: &Key) -> Option<Image> {
        let prefix = format!("{}-", key.name());
        let entries = fs::read_dir(&self.0).ok()?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        for name in names.filter(|name| name.starts_with(&prefix)) {
            let path = self.0.join(&name);
            if let Ok(hash) = hash(&path)
                && Digest::parse(&name[prefix.len()..]) == Some(hash)
            {
                touch(&path);
                return Some(Image::in_file(&path));
            }
            warn!(path = %path.display(), "compiled code on disk is damaged, it is removed");
            remove(&path);
        }
        None
    }

    /// Keeps what this host compiled. Where that fails, it is in memory only.
    pub fn keep(&self, key: &Key, code: Vec<u8>) -> Image {
        let kept = || {
            let mut draft = self.draft()?;
            draft.write_all(&code)?;
            self.finish(draft, key)
        };
        match kept() {
            Ok(image) => image,
            Err(error) => {
                warn!(dir = %self.0.display(), %error, "compiled code not kept, it will be compiled again");
                Image::in_memory(code)
            }
        }
    }

    /// Begins a file.
    pub fn draft(&self) -> io::Result<Draft> {
        let file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.0)?;
        Ok(Draft { file, hasher: blake3::Hasher::new() })
    }

    /// Puts a finished file, whose content the caller answers for, in its place; then makes room.
    pub fn finish(&self, draft: Draft, key: &Key) -> io::Result<Image> {
        let path = self.0.join(format!("{}-{}", key.name(), draft.hash().hex()));
        draft.file.persist(&path)?;
        if let Err(error) = trim(&self.0, BYTES_MAX) {
            debug!(dir = %self.0.display(), %error, "no room made in the cache of compiled actors");
        }
        Ok(Image::in_file(&path))
    }

    /// Makes a file beside the others that goes when it is closed.
    pub fn scratch(&self) -> io::Result<File> {
        tempfile::tempfile_in(&self.0)
    }

    /// Removes code that cannot be mapped.
    pub fn discard(&self, image: &Image) {
        image.path().into_iter().for_each(remove);
    }
}

impl Draft {
    /// Returns the hash of what was written.
    pub fn hash(&self) -> Digest {
        self.hasher.finalize().into()
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.file.write(bytes)?;
        self.hasher.update(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn hash(path: &Path) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize().into())
}

/// Makes a directory that only this user may write to, or sees that it is one.
#[cfg(unix)]
fn own_directory(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;

    create_dir(dir)?;
    let found = fs::metadata(dir)?;
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other(
            "it belongs to another user; remove it, or set another cache directory",
        ));
    }
    if found.mode() & 0o022 != 0 {
        return Err(io::Error::other(
            "other users may write there; give it to this user alone (chmod go-w)",
        ));
    }
    Ok(())
}

#[cfg(not(unix))]
fn own_directory(dir: &Path) -> io::Result<()> {
    create_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::{super::key::Kind, *};

    fn key(wasm: &[u8]) -> Key {
        Key { kind: Kind::Module, wasm: Digest::of(wasm), engine: Digest::of(b"engine") }
    }

    fn files() -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(&dir.path().join("compiled")).expect("a directory");
        (dir, files)
    }

    #[test]
    fn code_is_found_by_its_key_and_dropped_when_it_is_damaged() {
        let (_dir, files) = files();
        assert!(files.find(&key(b"a")).is_none());
        let kept = files.keep(&key(b"a"), b"code".to_vec());
        let path = kept.path().expect("a file").to_owned();
        assert_eq!(files.find(&key(b"a")).expect("it is there").path(), Some(&*path));
        assert!(files.find(&key(b"b")).is_none());

        fs::write(&path, b"c0de").unwrap();
        assert!(files.find(&key(b"a")).is_none() && !path.exists());
    }

    #[cfg(unix)]
    #[test]
    fn code_is_for_its_owner_only_and_a_directory_that_is_not_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let (dir, files) = files();
        let image = files.keep(&key(b"a"), b"code".to_vec());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&files.0), mode(image.path().unwrap())), (0o700, 0o600));
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Files::open(&open).is_none());
    }

    #[cfg(unix)]
    #[test]
    fn a_directory_of_another_user_is_refused_with_advice_that_helps() {
        // Only root can make one.
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let theirs = dir.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        std::os::unix::fs::chown(&theirs, Some(65_534), None).unwrap();
        let error = own_directory(&theirs).unwrap_err().to_string();
        assert!(error.contains("another user") && !error.contains("chmod"), "{error}");
    }

    #[test]
    fn code_that_cannot_be_written_is_kept_in_memory() {
        let (dir, files) = files();
        drop(dir);
        assert!(files.keep(&key(b"a"), b"code".to_vec()).path().is_none());
    }
}

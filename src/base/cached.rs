//! Directories of files that can be made again: all that the caches of this host share.
//!
//! A file appears whole (written beside its place, then renamed) and is marked as used when it is
//! read, so several hosts may share a directory, and the files that were not used for longest go
//! first. A directory whose files decide what runs is a [private one](private_dir).

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tracing::{debug, warn};

use crate::{
    dirs::UNFINISHED,
    trusted::{create_dir, is_own_dir},
};

/// Left by a host that ended while it wrote; a write takes seconds.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// Why a directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    #[error("cannot {what} {}: {cause}; a cache needs a directory of this user with room in it, set XDG_CACHE_HOME to choose \
             another", path.display())]
    Io { what: &'static str, path: PathBuf, cause: io::Error },
    #[error("the cache directory {} is a link, or it or the directory that it is in belongs to another user, who could exchange \
             its content; remove it or set XDG_CACHE_HOME to choose another", .0.display())]
    Foreign(PathBuf),
}

impl DirError {
    /// Returns how to make an error of what the system said about this path.
    pub fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |cause| Self::Io { what, path, cause }
    }

    /// Whether there is no such directory.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { cause, .. } if cause.kind() == io::ErrorKind::NotFound)
    }
}

/// Makes a directory that only this user may enter, or sees that it is one.
pub fn private_dir(dir: &Path) -> Result<(), DirError> {
    create_dir(dir).map_err(DirError::io("create", dir))?;
    check_private(dir)
}

/// Sees that a directory is one that only this user may enter; closes an own one that is open. To
/// be asked whenever something in it is believed: without a home it is in a place where every user
/// of the machine may make it first.
pub fn check_private(dir: &Path) -> Result<(), DirError> {
    if !is_own_dir(dir).map_err(DirError::io("look at", dir))? {
        return Err(DirError::Foreign(dir.to_owned()));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(dir).map_err(DirError::io("look at", dir))?.permissions().mode();
        if mode & 0o077 != 0 {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
                .map_err(DirError::io("close to others", dir))?;
        }
    }
    Ok(())
}

/// Removes the files of a directory that were not used for longest, until the rest has no more than
/// `bytes_max` bytes; and those that were never finished. Says whether one was removed.
pub fn trim(dir: &Path, bytes_max: u64) -> io::Result<bool> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Another host may have removed it in between.
        let Ok(metadata) = entry.metadata() else { continue };
        if !metadata.is_file() {
            continue;
        }
        let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            if used.elapsed().is_ok_and(|age| age > LEFTOVER_AGE) {
                remove(&entry.path());
            }
        } else {
            files.push((used, metadata.len(), entry.path()));
        }
    }
    let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
    if total <= bytes_max {
        return Ok(false);
    }
    files.sort();
    for (_, size, path) in files {
        if total <= bytes_max {
            break;
        }
        debug!(path = %path.display(), "cached content makes room");
        remove(&path);
        total -= size;
    }
    Ok(true)
}

/// Marks a file as used now.
pub fn touch(path: &Path) {
    if let Err(error) = File::open(path).and_then(|file| file.set_modified(SystemTime::now())) {
        debug!(path = %path.display(), %error, "cached content not marked as used");
    }
}

/// Removes a file; a failure is a warning.
pub fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(path = %path.display(), %error, "cached content not removed");
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use super::*;

    #[test]
    fn only_a_directory_of_this_user_is_private_and_an_open_one_is_closed() {
        let base = tempfile::tempdir().unwrap();
        let own = base.path().join("above/own");
        assert!(check_private(&own).unwrap_err().is_missing());
        private_dir(&own).unwrap();
        fs::set_permissions(&own, fs::Permissions::from_mode(0o777)).unwrap();
        check_private(&own).unwrap();
        assert_eq!(fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o700);

        let (link, file) = (base.path().join("link"), base.path().join("file"));
        symlink(&own, &link).unwrap();
        fs::write(&file, b"").unwrap();
        for refused in [check_private(&link), private_dir(&link), check_private(&file)] {
            assert!(matches!(refused, Err(DirError::Foreign(_))), "{refused:?}");
        }
        // Only root can give a directory away.
        if !rustix::process::geteuid().is_root() {
            return;
        }
        for theirs in [own.as_path(), own.parent().unwrap()] {
            chown(theirs, Some(65_534), None).unwrap();
            let refused = private_dir(&own);
            assert!(matches!(refused, Err(DirError::Foreign(_))), "{theirs:?}: {refused:?}");
            chown(theirs, Some(0), None).unwrap();
        }
        private_dir(&own).unwrap();
    }
}

//! Directories of files that can be made again: all that the caches of this host share.
//!
//! A file appears whole (written beside its place, then renamed) and is marked as used when it is
//! read, so several hosts may share a directory, and the files that were not used for longest go
//! first. Whoever may write to a directory of programs or images decides what runs: the one is a
//! [private directory](private_dir), the other a [trusted one](trusted_dir).

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tracing::{debug, warn};

use crate::{
    dirs::UNFINISHED,
    trusted::{ENV_FILE_CHECKS, create_dir, is_own_dir, is_trusted_dir, open_to_others},
};

/// Left by a host that ended while it wrote; a write takes seconds.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// Why a directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    #[error("cannot {what} {}: {cause}; a cache needs a directory of this user with room in it, set XDG_CACHE_HOME to choose \
             another", path.display())]
    Io { what: &'static str, path: PathBuf, cause: io::Error },
    #[error("the cache directory {} is a link or belongs to another user, who could exchange the programs in it; remove it or \
             set XDG_CACHE_HOME to choose another", .0.display())]
    Foreign(PathBuf),
    #[error("the cache directory {}, or what it leads to or is in, belongs to another user, who could exchange its content; set \
             XDG_CACHE_HOME to choose another, or {}=off if the file system knows no owners", .0.display(), ENV_FILE_CHECKS)]
    Untrusted(PathBuf),
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
    if !is_own_dir(dir).map_err(DirError::io("look at", dir))? {
        return Err(DirError::Foreign(dir.to_owned()));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(dir).map_err(DirError::io("look at", dir))?.permissions().mode();
        if mode & 0o077 != 0 {
            close(dir)?;
        }
    }
    Ok(())
}

/// Makes a directory whose content is believed, or sees that it is one.
pub fn trusted_dir(dir: &Path) -> Result<(), DirError> {
    create_dir(dir).map_err(DirError::io("create", dir))?;
    check_trusted(dir)
}

/// Sees that the content of a directory is believed: nobody but this user, root and the user of
/// `sudo` may write there. Closes one that is open, where only that others write has to be
/// prevented: what cannot be closed may be of root, or read-only. To be asked whenever something in
/// it is believed: without a home it is in a place where every user of the machine may make it
/// first.
pub fn check_trusted(dir: &Path) -> Result<(), DirError> {
    if !is_trusted_dir(dir).map_err(DirError::io("look at", dir))? {
        return Err(DirError::Untrusted(dir.to_owned()));
    }
    let Some(mode) = open_to_others(dir) else { return Ok(()) };
    // Others may use the place that a link leads to.
    if dir.is_symlink() {
        let is_closed = mode & 0o022 == 0;
        return is_closed.then_some(()).ok_or_else(|| DirError::Untrusted(dir.to_owned()));
    }
    close(dir).or_else(|error| if mode & 0o022 == 0 { Ok(()) } else { Err(error) })
}

fn close(dir: &Path) -> Result<(), DirError> {
    #[cfg(unix)]
    {
        let own = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(dir, own).map_err(DirError::io("close to others", dir))?;
    }
    let _ = dir;
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
    use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};

    use super::*;

    fn mode(dir: &Path) -> u32 {
        fs::metadata(dir).unwrap().permissions().mode() & 0o777
    }

    fn set_mode(dir: &Path, mode: u32) {
        fs::set_permissions(dir, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_directory_is_private_if_it_is_own_and_trusted_if_nobody_else_may_write_there() {
        let base = tempfile::tempdir().unwrap();
        let own = base.path().join("above/own");
        assert!(check_trusted(&own).unwrap_err().is_missing());
        trusted_dir(&own).unwrap();
        for look in [check_trusted, private_dir] {
            for open in [0o755, 0o777] {
                set_mode(&own, open);
                look(&own).unwrap();
                assert_eq!(mode(&own), 0o700);
            }
        }

        // An own link may lead to a larger disk.
        let (link, file) = (base.path().join("link"), base.path().join("file"));
        symlink(&own, &link).unwrap();
        trusted_dir(&link).unwrap();
        assert!(matches!(private_dir(&link), Err(DirError::Foreign(_))));
        fs::write(&file, b"").unwrap();
        assert!(matches!(check_trusted(&file), Err(DirError::Untrusted(_))));
        // Only root can give a directory away.
        if !rustix::process::geteuid().is_root() {
            return;
        }
        for (theirs, is_private) in [(own.as_path(), false), (own.parent().unwrap(), true)] {
            chown(theirs, Some(65_534), None).unwrap();
            assert_eq!(private_dir(&own).is_ok(), is_private, "{theirs:?}");
            for dir in [&own, &link] {
                let told = check_trusted(dir).unwrap_err().to_string();
                assert!(told.contains(ENV_FILE_CHECKS), "{theirs:?}: {told}");
            }
            chown(theirs, Some(0), None).unwrap();
        }
        lchown(&link, Some(65_534), None).unwrap();
        assert!(matches!(trusted_dir(&link), Err(DirError::Untrusted(_))));
        trusted_dir(&own).unwrap();
    }
}

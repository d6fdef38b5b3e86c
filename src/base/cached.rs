//! Directories of files that can be made again: all that the caches of this host share.
//!
//! A file appears whole (written beside its place, then renamed) and is marked as used when it is
//! read, so several hosts may share a directory, and the files that were not used for longest go
//! first.

use std::{
    fs::{self, File},
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use tracing::{debug, warn};

use crate::dirs::UNFINISHED;

/// Left by a host that ended while it wrote; a write takes seconds.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

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

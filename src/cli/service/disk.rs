//! The files of a service on the disk: read if they are ours, and written and removed if this user
//! can do that.

use std::{
    fs,
    io::{self, ErrorKind},
    path::Path,
};

use anyhow::{Context as _, Result, bail};

use super::MARK;
use lattice_base::trusted;

/// Returns the content of a file that is ours; none if it is not there.
pub fn own(path: &Path) -> Result<Option<Vec<u8>>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    if !String::from_utf8_lossy(&text).contains(MARK) {
        bail!(
            "{} was not written by `host service install`, and stays as it is; move it away first",
            path.display()
        );
    }
    Ok(Some(text))
}

/// Checks whether this user can write and remove a file, whose directory may have to be made first.
pub fn check_folder(file: &Path) -> Result<()> {
    let dir = trusted::directory_of(file);
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(dir);
    can_change(there).with_context(|| {
        format!(
            "the service stays as it is: {} cannot be written to; mend that and give the command again",
            there.display()
        )
    })
}

/// Checks whether this user can make and remove files in a directory.
#[cfg(unix)]
fn can_change(dir: &Path) -> io::Result<()> {
    use rustix::fs::Access;
    if !dir.is_dir() {
        return Err(ErrorKind::NotADirectory.into());
    }
    rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK).map_err(io::Error::from)
}

/// Elsewhere than on Unix the attempt shows it.
#[cfg(not(unix))]
fn can_change(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Writes a file for its owner alone.
pub fn keep(path: &Path, text: &[u8]) -> Result<()> {
    fs::create_dir_all(trusted::directory_of(path))
        .and_then(|()| trusted::replace(path, text))
        .with_context(|| format!("write {}", path.display()))
}

/// Removes a file, if it is there.
pub fn remove(path: &Path) -> Result<()> {
    // A file system that cannot be written says so, also of a file that is not there.
    let is_there = |error: &io::Error| {
        error.kind() != ErrorKind::NotFound
            && !fs::symlink_metadata(path).is_err_and(|seen| seen.kind() == ErrorKind::NotFound)
    };
    match fs::remove_file(path) {
        Err(error) if is_there(&error) => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

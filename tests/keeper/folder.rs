//! The folder of a run: whatever its processes make in `TMPDIR` is in there.
//!
//! Its name has the number of the keeper, which holds a lock on a file in it. A folder whose lock
//! is free belongs to nobody any more.

use std::{
    fs::{self, DirEntry, File, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rustix::process::{Pid, getpid};

/// Short, since Chromium has a socket in here, whose path may have 108 bytes.
const PREFIX: &str = "htests-";
/// The file that is locked. No other program's folder has one of this name.
const OWNER: &str = "keeper-of-host-tests.lock";

pub struct Folder {
    path: PathBuf,
    /// Its lock ends with it, and with this process.
    _owner: File,
}

impl Folder {
    /// Makes the folder of this process.
    pub fn make() -> io::Result<Self> {
        let path = of(getpid());
        // One of this name is of an earlier process with this number.
        remove(&path)?;
        fs::create_dir(&path)?;
        // Nobody sees the file under its name before it is locked.
        let draft = path.join("draft");
        let owner = File::create(&draft)?;
        owner.lock()?;
        fs::rename(draft, path.join(OWNER))?;
        Ok(Self { path, _owner: owner })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it with all that is in it.
    pub fn remove(self) -> io::Result<()> {
        remove(&self.path)
    }
}

/// Returns the path of the folder that a keeper has.
pub fn of(keeper: Pid) -> PathBuf {
    std::env::temp_dir().join(format!("{PREFIX}{}", keeper.as_raw_pid()))
}

/// Removes the folders of runs that were killed with their keepers.
pub fn remove_abandoned() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if is_ours && is_directory(&entry) {
            remove_if_abandoned(&entry.path());
        }
    }
}

fn remove_if_abandoned(path: &Path) {
    let Ok(owner) = File::open(path.join(OWNER)) else { return };
    if owner.try_lock().is_ok() {
        // A folder that cannot be removed belongs to another user.
        let _ = remove(path);
    }
}

/// Removes a folder with all that is in it, also where a test has taken rights away. That there is
/// none is no error.
pub fn remove(path: &Path) -> io::Result<()> {
    let removed = fs::remove_dir_all(path).or_else(|_| {
        give_rights(path);
        fs::remove_dir_all(path)
    });
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Lets the owner change all directories from here downwards.
fn give_rights(directory: &Path) {
    let _ = fs::set_permissions(directory, Permissions::from_mode(0o700));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if is_directory(&entry) {
            give_rights(&entry.path());
        }
    }
}

/// Whether it is a directory itself, and no link to one.
fn is_directory(entry: &DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a file in a directory that nobody may change.
    fn folder(root: &Path) -> PathBuf {
        let folder = root.join("folder");
        fs::create_dir_all(folder.join("closed")).unwrap();
        fs::write(folder.join("closed/file"), "").unwrap();
        fs::write(folder.join(OWNER), "").unwrap();
        fs::set_permissions(folder.join("closed"), Permissions::from_mode(0o500)).unwrap();
        folder
    }

    #[test]
    fn a_folder_is_removed_when_the_lock_on_its_owner_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(dir.path());
        let owner = File::open(folder.join(OWNER)).unwrap();
        owner.lock().unwrap();
        remove_if_abandoned(&folder);
        assert!(folder.exists(), "its owner is there");
        drop(owner);
        remove_if_abandoned(&folder);
        assert!(!folder.exists());
    }

    #[test]
    fn a_folder_that_says_nothing_of_its_owner_stays() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(dir.path());
        fs::remove_file(folder.join(OWNER)).unwrap();
        remove_if_abandoned(&folder);
        assert!(folder.exists());
        remove(&folder).unwrap();
        remove(&folder).unwrap();
    }
}

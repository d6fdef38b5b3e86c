//! Which hosts run on this machine: each holds a lock on a file of its own for as long as it lives.
//!
//! The lock goes with the process, however that ends, so a file without a lock is a leftover and is
//! removed.

use crate::dirs::Dirs;
use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// A running host's mark; gone when dropped.
#[derive(Debug)]
pub struct Presence {
    path: PathBuf,
    _lock: File,
    /// There as long as the host runs, and after it was cut off.
    note: PathBuf,
    was_cut_off: bool,
}

impl Presence {
    /// Marks a host as running.
    pub fn announce(dir: &Path, host_id: &str) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let path = dir.join(format!("{host_id}.lock"));
        let mut lock = File::create(&path)?;
        lock.lock()?;
        writeln!(lock, "{}", std::process::id())?;
        let note = dir.join(format!("{host_id}.runs"));
        let was_cut_off = note.exists();
        File::create(&note)?;
        Ok(Self { path, _lock: lock, note, was_cut_off })
    }

    /// Whether the host ended before without taking its mark away: it was killed, or its machine
    /// went down.
    pub fn was_cut_off(&self) -> bool {
        self.was_cut_off
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.note);
        let _ = fs::remove_file(&self.path);
    }
}

/// The ids of hosts that run on this machine under this user.
pub fn running(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut found = Vec::new();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    // Sockets are in there, too.
    for path in paths.filter(|path| path.extension().is_some_and(|extension| extension == "lock")) {
        let (Some(id), Ok(file)) =
            (path.file_stem().and_then(|stem| stem.to_str()), File::open(&path))
        else {
            continue;
        };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => found.push(id.to_owned()),
            Ok(()) => {
                let _ = fs::remove_file(&path);
            }
            Err(TryLockError::Error(_)) => {}
        }
    }
    found.sort();
    found
}

/// The process numbers of the hosts that [`running`] finds.
pub fn pids(dir: &Path) -> Vec<u32> {
    let locks = running(dir).into_iter().map(|id| dir.join(format!("{id}.lock")));
    locks.filter_map(|lock| fs::read_to_string(lock).ok()?.trim().parse().ok()).collect()
}

/// Where running hosts of this user are marked.
pub fn presence_dir(dirs: &Dirs) -> PathBuf {
    dirs.state.join("hosts")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_seen_while_it_lives() {
        let dir = tempfile::tempdir().unwrap();
        assert!(running(dir.path()).is_empty());
        let presence = Presence::announce(dir.path(), "NABC").unwrap();
        assert_eq!(running(dir.path()), ["NABC"]);
        assert_eq!(pids(dir.path()), [std::process::id()]);
        assert!(!presence.was_cut_off());
        drop(presence);
        assert!(running(dir.path()).is_empty());
        let presence = Presence::announce(dir.path(), "NABC").unwrap();
        assert!(!presence.was_cut_off(), "it had ended in order");
    }

    #[test]
    fn a_host_that_was_killed_is_told_so_at_its_next_start() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("NABC.runs"), "").unwrap();
        assert!(Presence::announce(dir.path(), "NABC").unwrap().was_cut_off());
    }

    #[test]
    fn a_leftover_is_cleaned_up() {
        let dir = tempfile::tempdir().unwrap();
        let leftover = dir.path().join("NOLD.lock");
        fs::write(&leftover, "1").unwrap();
        assert!(running(dir.path()).is_empty());
        assert!(!leftover.exists());
    }
}

//! Where the sockets of hosts are, and how to reach one whose path is too long for the system.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use lattice_base::presence;

/// The longest path of a socket that every system takes, in bytes.
const PATH_BYTES_MAX: usize = 100;
/// So much of a host's id is its socket's name: enough to tell hosts apart, and short, for the
/// reason above.
const NAME_CHARS: usize = 16;
const EXTENSION: &str = "sock";

/// The socket of a host.
pub(super) fn of_host(dir: &Path, host_id: &str) -> PathBuf {
    dir.join(name(host_id)).with_extension(EXTENSION)
}

fn name(host_id: &str) -> &str {
    host_id.get(..NAME_CHARS).unwrap_or(host_id)
}

/// A path that the system takes for a socket.
pub(super) struct Reachable {
    pub path: PathBuf,
    /// The path leads through it.
    _dir: Option<File>,
}

impl Reachable {
    pub fn new(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= PATH_BYTES_MAX {
            return Ok(Self { path: path.to_owned(), _dir: None });
        }
        through_its_directory(path)
    }
}

/// A shorter way to the same place: by the number of the open directory.
#[cfg(target_os = "linux")]
fn through_its_directory(path: &Path) -> io::Result<Reachable> {
    use std::os::fd::AsRawFd as _;

    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let dir = File::open(parent)?;
    let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    Ok(Reachable { path, _dir: Some(dir) })
}

#[cfg(not(target_os = "linux"))]
fn through_its_directory(path: &Path) -> io::Result<Reachable> {
    let text = format!(
        "the path {} is too long for a socket; set XDG_STATE_HOME to a shorter one",
        path.display()
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

/// Removes sockets of hosts that are gone.
pub(super) fn remove_stale(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let running = presence::running(dir);
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let is_socket = path.extension().is_some_and(|extension| extension == EXTENSION);
        let owner = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if is_socket && !running.iter().any(|id| name(id) == owner) {
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_of_hosts_that_are_gone_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (here, gone) = ("NHERE5YOVB6ROX2WUNKGN", "NGONE5YOVB6ROX2WUNKGN");
        let _presence = presence::Presence::announce(dir.path(), here).unwrap();
        for host in [here, gone] {
            fs::write(of_host(dir.path(), host), "").unwrap();
        }
        fs::write(dir.path().join("other"), "").unwrap();
        remove_stale(dir.path());
        assert!(of_host(dir.path(), here).exists() && !of_host(dir.path(), gone).exists());
        assert!(dir.path().join("other").exists());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_long_path_is_reached_through_its_directory() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("d".repeat(120));
        fs::create_dir(&dir).unwrap();
        let path = of_host(&dir, "NHERE");
        let listener =
            std::os::unix::net::UnixListener::bind(Reachable::new(&path).unwrap().path).unwrap();
        assert!(path.exists());
        std::os::unix::net::UnixStream::connect(Reachable::new(&path).unwrap().path).unwrap();
        drop(listener);
    }
}

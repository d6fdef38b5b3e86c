//! Small files whose paths come from elsewhere: from a link, a client, a lattice.
//!
//! Such a path may name anything: a pipe that nobody writes to, a device without end, a file of a
//! network drive that does not answer, a file of the kernel that tells the secrets of this process.
//! [`read_small`] reads ordinary files only, up to a bound that it enforces while it reads, within
//! a time, and few at a time.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::sync::Semaphore;

/// More than certificates, keys and settings ever have.
pub const SMALL_BYTES_MAX: u64 = 1 << 20;
/// How long reading a small file may take. A disk that is busy needs less, a drive that does not
/// answer more.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// Files that are read at a time. One whose drive does not answer keeps its thread and its place.
static PLACES: Semaphore = Semaphore::const_new(16);

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is no ordinary file")]
    NotOrdinary,
    #[error("it has more than {0} bytes")]
    TooLarge(u64),
    #[error("reading it took longer than {} s", .0.as_secs_f32())]
    Late(Duration),
    #[error("it is not below a directory of the host's setting link_paths")]
    Outside,
}

/// Reads an ordinary file of at most `bytes_max` bytes. Symbolic links are followed; if there are
/// `roots`, what they lead to must be below one of these. Ends within `patience`.
pub async fn read_small(
    path: &Path,
    roots: &[PathBuf],
    bytes_max: u64,
    patience: Duration,
) -> Result<Vec<u8>, ReadError> {
    let (path, roots) = (path.to_owned(), roots.to_vec());
    within(patience, move || read(&path, &roots, bytes_max)).await
}

/// Does something with the file system that may take for ever, and waits for it no longer than
/// `patience`.
pub async fn within<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    let done = async {
        let place = PLACES.acquire().await.map_err(|_| ReadError::Late(patience))?;
        let working = tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        });
        working.await.map_err(|panic| ReadError::Io(io::Error::other(panic)))?
    };
    tokio::time::timeout(patience, done).await.unwrap_or(Err(ReadError::Late(patience)))
}

/// Returns whether a path without symbolic links is one of these directories or below one. Those
/// may be links themselves.
pub fn is_below(path: &Path, roots: &[PathBuf]) -> bool {
    roots.iter().any(|root| root.canonicalize().is_ok_and(|root| path.starts_with(root)))
}

fn read(path: &Path, roots: &[PathBuf], bytes_max: u64) -> Result<Vec<u8>, ReadError> {
    let path = path.canonicalize()?;
    if !roots.is_empty() && !is_below(&path, roots) {
        return Err(ReadError::Outside);
    }
    // Before it is opened, too: opening alone does something to some devices.
    if !std::fs::symlink_metadata(&path)?.is_file() {
        return Err(ReadError::NotOrdinary);
    }
    let file = open(&path)?;
    if !file.metadata()?.is_file() || is_of_the_kernel(&file)? {
        return Err(ReadError::NotOrdinary);
    }
    let mut content = Vec::new();
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > bytes_max {
        return Err(ReadError::TooLarge(bytes_max));
    }
    Ok(content)
}

/// Opens a file without waiting for the other end of a pipe, should it have become one, and without
/// following a link.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;
        let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY;
        options.custom_flags(flags.bits().cast_signed());
    }
    options.open(path)
}

/// Returns whether a file is made up by the kernel (`/proc`, `/sys`): it has no size, and may tell
/// what is in this process.
#[cfg(target_os = "linux")]
fn is_of_the_kernel(file: &File) -> io::Result<bool> {
    const SYSFS_MAGIC: rustix::fs::FsWord = 0x6265_6572;
    Ok([rustix::fs::PROC_SUPER_MAGIC, SYSFS_MAGIC].contains(&rustix::fs::fstatfs(file)?.f_type))
}

#[cfg(not(target_os = "linux"))]
fn is_of_the_kernel(_: &File) -> io::Result<bool> {
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_it(path: &Path) -> Result<Vec<u8>, ReadError> {
        read_small(path, &[], 16, PATIENCE).await
    }

    #[tokio::test]
    async fn ordinary_files_are_read_up_to_the_bound() {
        let dir = tempfile::tempdir().unwrap();
        for bytes in [0, 1, 16] {
            let path = dir.path().join(bytes.to_string());
            std::fs::write(&path, vec![7; bytes]).unwrap();
            assert_eq!(read_it(&path).await.unwrap().len(), bytes);
        }
        let large = dir.path().join("large");
        std::fs::write(&large, [7; 17]).unwrap();
        assert!(matches!(read_it(&large).await, Err(ReadError::TooLarge(16))));
        // A hole of a terabyte takes no room on the disk, and must take none here.
        File::create(&large).unwrap().set_len(1 << 40).unwrap();
        assert!(matches!(read_it(&large).await, Err(ReadError::TooLarge(16))));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn pipes_devices_directories_and_files_of_the_kernel_are_refused_at_once() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        let led = dir.path().join("led");
        std::os::unix::fs::symlink("/dev/zero", &led).unwrap();
        for path in [
            &pipe,
            &led,
            &dir.path().join("socket"),
            dir.path(),
            Path::new("/dev/zero"),
            Path::new("/dev/null"),
            Path::new("/dev/stdin"),
            Path::new("/proc/self/environ"),
            Path::new("/proc/self/mem"),
            Path::new("/proc/self/fd/0"),
            Path::new("/proc/kmsg"),
            Path::new("/sys/kernel/uevent_seqnum"),
        ] {
            let refused = read_it(path).await;
            assert!(
                matches!(refused, Err(ReadError::NotOrdinary | ReadError::Io(_))),
                "{path:?}: {refused:?}"
            );
        }
        assert!(matches!(read_it(&pipe).await, Err(ReadError::NotOrdinary)));
        assert!(matches!(
            read_it(Path::new("/proc/self/environ")).await,
            Err(ReadError::NotOrdinary)
        ));
    }

    #[tokio::test]
    async fn with_roots_only_what_is_below_one_is_read_wherever_a_link_leads() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let roots = [inside.path().canonicalize().unwrap()];
        let (good, bad) = (inside.path().join("good"), outside.path().join("bad"));
        std::fs::write(&good, "x").unwrap();
        std::fs::write(&bad, "x").unwrap();
        let led = inside.path().join("led");
        std::os::unix::fs::symlink(&bad, &led).unwrap();
        let around = inside.path().join("..").join(outside.path().file_name().unwrap()).join("bad");
        assert_eq!(read_small(&good, &roots, 16, PATIENCE).await.unwrap(), b"x");
        for path in [&bad, &led, &around] {
            let refused = read_small(path, &roots, 16, PATIENCE).await;
            assert!(matches!(refused, Err(ReadError::Outside)), "{path:?}: {refused:?}");
        }
    }

    #[tokio::test]
    async fn what_takes_for_ever_is_waited_for_no_longer_than_told() {
        let (_sender, receiver) = std::sync::mpsc::channel::<()>();
        let short = Duration::from_millis(20);
        let stuck =
            within(short, move || receiver.recv().map_err(|e| ReadError::Io(io::Error::other(e))));
        assert!(matches!(stuck.await, Err(ReadError::Late(_))));
    }
}

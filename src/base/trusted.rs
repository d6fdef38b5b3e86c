//! Files that decide what a process of this user does: settings, contexts, credentials, tokens.
//!
//! Everything of that kind is read with [`read`] and written with [`replace`] or [`create`], so one
//! rule holds for all:
//!
//! * A file is believed if its owner is this user or root and nobody else may write to it. A
//!   symbolic link is followed if its owner is one of the two; Kubernetes mounts secrets as links
//!   of root.
//! * A secret that others may read is used, with a warning. If the file is one that this program
//!   writes, its permissions are corrected as well. What a service manager hands over is readable
//!   for the service alone, by a list whose mask stands in the place of its group.
//! * A file is written as a whole, for its owner alone, and never through a link of somebody else.
//!
//! Two more owners are believed where root looks: the user who called `sudo`, and any for a file
//! that is mounted by itself, which only root can do (`docker run -v
//! ./host_config.json:/host_config.json`). File systems that know neither owners nor permissions
//! need [`ENV_FILE_CHECKS`]`=off`.
//!
//! A command of root that only looks at a service says so with [`look_at`]. In the directory of
//! that service the files of its user are believed as well, and nothing there leads root to a file
//! that this user could not read: what the service has written is known, and obeyed no further.
//!
//! Only Unix has what is checked here. Elsewhere every file is believed.

#[cfg(unix)]
mod unix;

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// With the value `off`, owners and permissions of files are not looked at.
pub const ENV_FILE_CHECKS: &str = "WASMCLOUD_FILE_CHECKS";
/// More is no file of settings and no key.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The content of a file, which decides whether others may read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Secrets, and this program writes the file.
    OwnSecrets,
    /// Secrets, and the user writes the file.
    Secrets,
    /// Nothing secret.
    Settings,
}

/// Why a file is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    #[error(
        "{} belongs to user {owner}, who is neither this user ({me}) nor root, and could make this program do anything; if it \
         is yours: chown {me} {}",
        path.display(), path.display()
    )]
    Owner { path: PathBuf, owner: u32, me: u32 },
    #[error(
        "{} belongs to user {owner}, as its directory does, and could make this program do anything as root; give the command \
         as that user: sudo -u '#{owner}' COMMAND",
        path.display()
    )]
    OfDirectory { path: PathBuf, owner: u32 },
    #[error(
        "{} cannot be read by user {user}, whose service is looked at and leads to it; let that user read it, or name another \
         file",
        path.display()
    )]
    NotForService { path: PathBuf, user: u32 },
    #[error("{} can be changed by other users (mode {mode:04o}); if it is as you left it: chmod go-w {}", path.display(), path.display())]
    Writable { path: PathBuf, mode: u32 },
    #[error(
        "{} is a link that belongs to user {owner}, who is neither this user ({me}) nor root; remove it, or name the file it \
         leads to",
        path.display()
    )]
    Link { path: PathBuf, owner: u32, me: u32 },
}

/// A service that root looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its user and group, other than root's.
    pub user: u32,
    pub group: Option<u32>,
    /// The directory with its settings, without links.
    pub home: PathBuf,
    /// The directory of the files that its manager hands to it while it runs.
    pub handed: PathBuf,
}

/// The service that this process looks at, if it does.
static SERVICE: OnceLock<Service> = OnceLock::new();

/// Lets root believe what the user of this service has written in its directory. For a command that
/// looks at settings and does not live by them, since it lasts to the end of the process.
pub fn look_at(service: Service) {
    // A command looks at one service; the first stays.
    let _ = SERVICE.set(service);
}

/// A file that is believed.
#[derive(Debug)]
pub struct Trusted {
    pub bytes: Vec<u8>,
    /// That others may read a secret, and what was or can be done.
    pub warning: Option<String>,
}

impl Trusted {
    /// The content as text; what is not UTF-8 is an error.
    pub fn text(self) -> io::Result<String> {
        String::from_utf8(self.bytes)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
    }
}

/// Reads a file that is believed. Devices, and pipes that this process was given (`/dev/fd/N`), are
/// read as they are, up to a few MiB: they have no content of their own. A pipe in a directory is
/// refused: it would wait for its other end.
///
/// # Errors
///
/// Those of the system, and [`Distrust`] as the cause of one of kind `PermissionDenied`.
pub fn read(path: &Path, holds: Holds) -> io::Result<Trusted> {
    read_for(path, holds, service_of(path, None))
}

fn read_for(path: &Path, holds: Holds, service: Option<&Service>) -> io::Result<Trusted> {
    check_links(path)?;
    let file = if is_stream(path, service)? { File::open(path)? } else { open_regular(path)? };
    read_open(path, file, holds, service)
}

fn read_open(
    path: &Path,
    file: File,
    holds: Holds,
    service: Option<&Service>,
) -> io::Result<Trusted> {
    let warning = check_open(path, &file, holds, service)?;
    let mut bytes = Vec::new();
    // One byte more tells that there is more.
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {BYTES_MAX} bytes"),
        ));
    }
    Ok(Trusted { bytes, warning })
}

/// Reads a regular file that is believed as text. A pipe would wait for its other end.
pub fn read_regular(path: &Path, holds: Holds) -> io::Result<Trusted> {
    read_regular_named(path, holds, None)
}

/// Does the same for a file that is named in the file `source`, if in one: that of a service names
/// only what its user can read.
pub fn read_regular_named(path: &Path, holds: Holds, source: Option<&Path>) -> io::Result<Trusted> {
    check_links(path)?;
    read_open(path, open_regular(path)?, holds, service_of(path, source))
}

/// Checks a file that another library reads. Returns a warning about a secret that others may read.
pub fn check(path: &Path, holds: Holds) -> io::Result<Option<String>> {
    check_named(path, holds, None)
}

/// Does the same for a file that is named in the file `source`, if in one.
pub fn check_named(path: &Path, holds: Holds, source: Option<&Path>) -> io::Result<Option<String>> {
    let service = service_of(path, source);
    check_links(path)?;
    if is_stream(path, service)? {
        return Ok(None);
    }
    check_open(path, &open_regular(path)?, holds, service)
}

/// Whether a device, or a pipe that this process was given, is at a path where one may be: none is
/// read for a service that is looked at.
fn is_stream(path: &Path, service: Option<&Service>) -> io::Result<bool> {
    let metadata = fs::metadata(path)?;
    #[cfg(unix)]
    let is_pipe = std::os::unix::fs::FileTypeExt::is_fifo(&metadata.file_type());
    #[cfg(not(unix))]
    let is_pipe = false;
    let is_given = ["/dev/fd", "/dev/stdin", "/proc"].iter().any(|given| path.starts_with(given));
    let is_other = !metadata.is_file() && !metadata.is_dir() && (!is_pipe || is_given);
    Ok(service.is_none() && is_other)
}

/// Opens a regular file. Should it be or become a pipe, nothing waits for the other end.
fn open_regular(path: &Path) -> io::Result<File> {
    // Before it is opened, too: opening alone does something to some devices.
    check_regular(&fs::metadata(path)?)?;
    let mut options = fs::OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        rustix::fs::OFlags::NONBLOCK.bits().cast_signed(),
    );
    let file = options.open(path)?;
    check_regular(&file.metadata()?)?;
    Ok(file)
}

fn check_regular(metadata: &fs::Metadata) -> io::Result<()> {
    match metadata.is_file() {
        true => Ok(()),
        false if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        false => Err(io::Error::other("it is no regular file")),
    }
}

/// Writes a file for its owner alone, over another or not. It appears whole or not at all. A link
/// of this user or of root stays and what it leads to is replaced; a link of somebody else is an
/// error.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    check_links(path)?;
    // A renamed file would replace a link instead of what it leads to.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let file = whole(&target, content)?;
    file.persist(&target).map_err(|error| error.error)?;
    Ok(())
}

/// Writes a file that must not be there yet, for its owner alone.
///
/// # Errors
///
/// Of kind `AlreadyExists` if there is one.
pub fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    whole(path, content)?.persist_noclobber(path).map_err(|error| error.error)?;
    Ok(())
}

/// Makes a directory with those above it; new ones are for their owner alone.
pub fn create_dir(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// The directory that a file is in, also where its path is a name alone.
pub fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A complete file beside the place it is meant for.
fn whole(path: &Path, content: &[u8]) -> io::Result<tempfile::NamedTempFile> {
    // Temporary files have mode 0600, which the rename keeps.
    let mut file = tempfile::Builder::new().prefix(".new.").tempfile_in(directory_of(path))?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    Ok(file)
}

#[cfg(not(unix))]
fn check_links(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(not(unix))]
fn check_open(_: &Path, _: &File, _: Holds, _: Option<&Service>) -> io::Result<Option<String>> {
    Ok(None)
}

#[cfg(not(unix))]
fn service_of(_: &Path, _: Option<&Path>) -> Option<&'static Service> {
    None
}

/// Returns the mode of a file, if others may read or change it.
#[cfg(not(unix))]
pub fn open_to_others(_: &Path) -> Option<u32> {
    None
}

/// Whether a directory, which is no link, is somebody's own.
#[cfg(not(unix))]
pub fn is_own_dir(dir: &Path) -> io::Result<bool> {
    Ok(fs::symlink_metadata(dir)?.is_dir())
}

/// Whether a directory is one.
#[cfg(not(unix))]
pub fn is_trusted_dir(dir: &Path) -> io::Result<bool> {
    Ok(fs::metadata(dir)?.is_dir())
}

#[cfg(unix)]
use unix::{check_links, check_open, service_of};
#[cfg(unix)]
pub use unix::{is_own_dir, is_trusted_dir, open_to_others};

/// Writes a file that must not exist, for its owner only.
pub fn write(dir: &Path, path: &Path, seed: &str) -> io::Result<()> {
    create_dir(dir)?;
    // Without a line break, which `wash` would take for a part of the seed.
    create(path, seed.as_bytes())
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::{
        fd::AsRawFd as _,
        unix::fs::{PermissionsExt as _, symlink},
    };

    use super::{unix::is_in, *};

    /// Returns a service of another user in a directory.
    fn service(dir: &Path) -> Service {
        let home = fs::canonicalize(dir).unwrap();
        Service { user: 61_000, group: None, home, handed: "/nowhere".into() }
    }

    #[test]
    fn a_service_leads_root_to_no_file_in_a_directory_that_its_user_cannot_enter() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(dir.path());
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let path = file(&inner, "f", 0o644);
        for (mode, is_believed) in [(0o711, true), (0o700, false), (0o755, true)] {
            fs::set_permissions(&inner, fs::Permissions::from_mode(mode)).unwrap();
            let read = read_for(&path, Holds::Settings, Some(&service));
            assert_eq!(read.is_ok(), is_believed, "{mode:o}: {read:?}");
        }
        for (path, expected) in [(path.as_path(), true), (Path::new("/etc/hosts"), false)] {
            assert_eq!(is_in(&service, path), expected, "{path:?}");
        }
        // It may lead there when somebody looks again.
        assert!(is_in(&service, Path::new("/no/such/directory/f")));
    }

    #[test]
    fn nobody_waits_for_the_other_end_of_a_pipe_and_one_that_was_given_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (service, pipe) = (service(dir.path()), dir.path().join("pipe"));
        let made = std::process::Command::new("mkfifo").args(["-m", "600"]).arg(&pipe).status();
        assert!(made.unwrap().success());
        for refused in [
            read(&pipe, Holds::Settings).map(drop),
            read_regular(&pipe, Holds::Secrets).map(drop),
            check(&pipe, Holds::Secrets).map(drop),
            read_for(&pipe, Holds::Settings, Some(&service)).map(drop),
            read_for(Path::new("/dev/null"), Holds::Settings, Some(&service)).map(drop),
        ] {
            assert_eq!(refused.unwrap_err().to_string(), "it is no regular file");
        }
        assert_eq!(read(Path::new("/dev/null"), Holds::Settings).unwrap().bytes, b"");
        let (given, mut other) = io::pipe().unwrap();
        other.write_all(b"text").unwrap();
        drop(other);
        let path = PathBuf::from(format!("/dev/fd/{}", given.as_raw_fd()));
        assert_eq!(check(&path, Holds::Secrets).unwrap(), None);
        assert_eq!(read(&path, Holds::Secrets).unwrap().bytes, b"text");
    }

    fn file(dir: &Path, name: &str, mode: u32) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, "text").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_others_may_write_is_refused_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o620, 0o602, 0o666, 0o664] {
            let path = file(dir.path(), "f", mode);
            let error = read(&path, Holds::Settings).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            assert!(
                error.to_string().contains(&format!("chmod go-w {}", path.display())),
                "{error}"
            );
            assert!(check(&path, Holds::Secrets).is_err());
        }
    }

    #[test]
    fn a_secret_that_others_may_read_is_used_told_and_tightened_where_it_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        for (holds, before, warns, after) in [
            (Holds::OwnSecrets, 0o644, true, 0o600),
            (Holds::OwnSecrets, 0o600, false, 0o600),
            (Holds::Secrets, 0o640, true, 0o640),
            (Holds::Settings, 0o644, false, 0o644),
        ] {
            let path = file(dir.path(), "f", before);
            let read = read(&path, holds).unwrap();
            assert_eq!(
                (read.bytes.as_slice(), read.warning.is_some()),
                (&b"text"[..], warns),
                "{holds:?}"
            );
            assert_eq!(mode(&path), after, "{holds:?}");
        }
    }

    #[test]
    fn own_links_are_followed_and_stay_when_the_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        // As Kubernetes mounts a secret.
        fs::create_dir(dir.path().join("..2026")).unwrap();
        file(&dir.path().join("..2026"), "f", 0o644);
        symlink("..2026", dir.path().join("..data")).unwrap();
        let link = dir.path().join("f");
        symlink("..data/f", &link).unwrap();
        assert_eq!(read(&link, Holds::Settings).unwrap().bytes, b"text");
        replace(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!((fs::read(&link).unwrap().as_slice(), mode(&link)), (&b"new"[..], 0o600));
    }

    #[test]
    fn files_and_links_of_another_user_are_refused() {
        // Only root can make such files.
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path(), "f", 0o644);
        std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
        let error = read(&path, Holds::Settings).unwrap_err().to_string();
        assert!(error.contains("user 65534") && error.contains("chown 0"), "{error}");
        let own = file(dir.path(), "own", 0o600);
        let link = dir.path().join("link");
        symlink(&own, &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(65_534), None).unwrap();
        for error in [read(&link, Holds::Settings).unwrap_err(), replace(&link, b"x").unwrap_err()]
        {
            assert!(error.to_string().contains("a link that belongs to user 65534"), "{error}");
        }
        assert_eq!(fs::read(&own).unwrap(), b"text");
    }

    #[test]
    fn what_is_created_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/f");
        create_dir(path.parent().unwrap()).unwrap();
        create(&path, b"one").unwrap();
        assert_eq!(create(&path, b"two").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!((fs::read(&path).unwrap().as_slice(), mode(&path)), (&b"one"[..], 0o600));
    }
}

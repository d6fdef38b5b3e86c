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

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// With the value `off`, owners and permissions of files are not looked at.
pub const ENV_FILE_CHECKS: &str = "WASMCLOUD_FILE_CHECKS";
/// The directory of the files that a service manager hands to this process, with its variable in
/// systemd.exec(5).
#[cfg(unix)]
const ENV_HANDED: &str = "CREDENTIALS_DIRECTORY";
/// More is no file of settings and no key.
const BYTES_MAX: u64 = 4 * 1024 * 1024;
/// As many links as Linux follows.
const LINKS_MAX: usize = 40;

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

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::{
        Distrust, ENV_FILE_CHECKS, ENV_HANDED, File, Holds, LINKS_MAX, Path, PathBuf, SERVICE,
        Service, directory_of, fs, io,
    };

    /// The owners whose files this process believes, besides root.
    #[derive(Clone, Copy, Debug)]
    pub(super) struct Believer {
        pub uid: u32,
        /// The user who became root with `sudo`.
        pub sudo_uid: Option<u32>,
    }

    /// Whether a directory, which is no link, belongs to this user.
    pub fn is_own_dir(dir: &Path) -> io::Result<bool> {
        let found = fs::symlink_metadata(dir)?;
        Ok(found.is_dir() && found.uid() == rustix::process::geteuid().as_raw())
    }

    /// Whether a directory, or a link and the directory that it leads to, belongs to somebody who
    /// is believed, and so does what they are in: its owner could put others into their place.
    pub fn is_trusted_dir(dir: &Path) -> io::Result<bool> {
        let is_dir = fs::metadata(dir)?.is_dir();
        let Some(me) = Believer::of_process() else { return Ok(is_dir) };
        let real = fs::canonicalize(dir)?;
        for path in [dir, directory_of(dir), real.as_path(), directory_of(&real)] {
            // Of a link both owners count.
            let owners = [fs::symlink_metadata(path)?.uid(), fs::metadata(path)?.uid()];
            if !owners.into_iter().all(|owner| me.trusts(owner)) {
                return Ok(false);
            }
        }
        Ok(is_dir)
    }

    impl Believer {
        /// This process; `None` if nothing is to be checked.
        fn of_process() -> Option<Self> {
            if std::env::var_os(ENV_FILE_CHECKS).is_some_and(|value| value == "off") {
                return None;
            }
            let uid = rustix::process::geteuid().as_raw();
            let sudo = std::env::var_os("SUDO_UID").and_then(|uid| uid.to_str()?.parse().ok());
            Some(Self { uid, sudo_uid: sudo.filter(|_| uid == 0) })
        }

        fn trusts(self, owner: u32) -> bool {
            owner == 0 || owner == self.uid || self.sudo_uid == Some(owner)
        }

        /// Whether a regular file is believed.
        pub(super) fn judge(
            self,
            path: &Path,
            owner: u32,
            mode: u32,
            is_mount: bool,
        ) -> Result<(), Distrust> {
            let is_placed_by_root = self.uid == 0 && is_mount;
            if !self.trusts(owner) && !is_placed_by_root {
                return Err(Distrust::Owner { path: path.to_owned(), owner, me: self.uid });
            }
            private(path, mode)
        }

        /// Whether a regular file is believed that a service has written or leads to: it is the
        /// service's own, or it would be believed anyway and the service could read it. `real` is
        /// its path without links.
        pub(super) fn judge_for(
            self,
            service: &Service,
            (path, real): (&Path, &Path),
            (owner, group): (u32, u32),
            mode: u32,
        ) -> Result<(), Distrust> {
            if owner != service.user {
                if !self.trusts(owner) {
                    return Err(Distrust::Owner { path: path.to_owned(), owner, me: self.uid });
                }
                let is_handed = path.parent() == Some(service.handed.as_path());
                let is_readable = may_use(service, (owner, group), mode, 0o4);
                let is_shared = is_readable && is_reached(service, real);
                if !is_handed && !is_shared {
                    let (path, user) = (path.to_owned(), service.user);
                    return Err(Distrust::NotForService { path, user });
                }
            }
            private(path, mode)
        }

        /// Says better what to do about a file that belongs to the owner of its directory: it would
        /// be the wrong one that gets another owner.
        pub(super) fn explain(self, distrust: Distrust, directory: Option<u32>) -> Distrust {
            match distrust {
                Distrust::Owner { path, owner, .. }
                    if self.uid == 0 && directory == Some(owner) =>
                {
                    Distrust::OfDirectory { path, owner }
                }
                distrust => distrust,
            }
        }
    }

    /// Whether nobody but the owner of a file may write to it.
    fn private(path: &Path, mode: u32) -> Result<(), Distrust> {
        match mode & 0o022 {
            0 => Ok(()),
            _ => Err(Distrust::Writable { path: path.to_owned(), mode: mode & 0o7777 }),
        }
    }

    /// Whether permissions of a file or directory let a service do something, which is a bit of
    /// those of others.
    fn may_use(service: &Service, (owner, group): (u32, u32), mode: u32, bit: u32) -> bool {
        match (owner == service.user, service.group == Some(group)) {
            (true, _) => mode & (bit << 6) != 0,
            (false, true) => mode & (bit << 3) != 0,
            (false, false) => mode & bit != 0,
        }
    }

    /// Whether a service comes to a file: it may search each directory above it. To its own it
    /// comes in any case, also where systemd keeps that below one of root's.
    fn is_reached(service: &Service, real: &Path) -> bool {
        let mut above = real.ancestors().skip(1).take_while(|dir| *dir != service.home);
        above.all(|dir| {
            fs::symlink_metadata(dir)
                .is_ok_and(|seen| may_use(service, (seen.uid(), seen.gid()), seen.mode(), 0o1))
        })
    }

    /// Returns the path of an open file without links; on Linux it is that of the file itself,
    /// whatever has become of the path meanwhile.
    fn real_path(path: &Path, file: &File) -> io::Result<PathBuf> {
        if cfg!(target_os = "linux") {
            use std::os::fd::AsRawFd as _;
            return fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
        }
        fs::canonicalize(path)
    }

    /// Returns the service that a file is read for: it lies in the directory of the service, or is
    /// named in a file there.
    pub fn service_of(path: &Path, source: Option<&Path>) -> Option<&'static Service> {
        let service = SERVICE.get()?;
        let is_root = Believer::of_process().is_some_and(|me| me.uid == 0);
        let is_of_it = is_in(service, path) || source.is_some_and(|source| is_in(service, source));
        (is_root && is_of_it).then_some(service)
    }

    /// Whether a path lies in the directory of a service, or leads there. One that cannot be
    /// resolved does: its user may have seen to that.
    pub(super) fn is_in(service: &Service, path: &Path) -> bool {
        let leads = fs::canonicalize(directory_of(path));
        std::path::absolute(path).is_ok_and(|path| path.starts_with(&service.home))
            || leads.map_or(true, |dir| dir.starts_with(&service.home))
    }

    pub(super) fn refused(distrust: Distrust) -> io::Error {
        io::Error::new(io::ErrorKind::PermissionDenied, distrust)
    }

    /// Looks at every link from `path` on; a path that leads nowhere is no error here.
    pub fn check_links(path: &Path) -> io::Result<()> {
        let Some(me) = Believer::of_process() else { return Ok(()) };
        let mut path: PathBuf = path.to_owned();
        for _ in 0..LINKS_MAX {
            let Ok(metadata) = fs::symlink_metadata(&path) else { return Ok(()) };
            if !metadata.is_symlink() {
                return Ok(());
            }
            // The kernel's own, such as /dev/stdin, belong to whoever looks.
            if !me.trusts(metadata.uid()) {
                return Err(refused(Distrust::Link { path, owner: metadata.uid(), me: me.uid }));
            }
            let target = fs::read_link(&path)?;
            path = path.parent().unwrap_or(Path::new("")).join(target);
        }
        Ok(())
    }

    /// Looks at the open file, so what was judged is what is read.
    pub fn check_open(
        path: &Path,
        file: &File,
        holds: Holds,
        service: Option<&Service>,
    ) -> io::Result<Option<String>> {
        let Some(me) = Believer::of_process() else { return Ok(None) };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let (owner, mode) = (metadata.uid(), metadata.mode());
        let judged = match service {
            Some(service) => {
                let real = real_path(path, file)?;
                me.judge_for(service, (path, &real), (owner, metadata.gid()), mode)
            }
            None => me.judge(path, owner, mode, is_mount(file)),
        };
        judged.map_err(|distrust| {
            let directory = fs::metadata(directory_of(path)).ok();
            refused(me.explain(distrust, directory.map(|directory| directory.uid())))
        })?;
        if holds == Holds::Settings || rights_of_others(path, owner, mode, &handed()) & 0o044 == 0 {
            return Ok(None);
        }
        let seen = format!(
            "{} holds secrets and could be read by other users (mode {:04o})",
            path.display(),
            metadata.mode() & 0o7777
        );
        let is_tightened = holds == Holds::OwnSecrets
            && metadata.uid() == me.uid
            && file.set_permissions(fs::Permissions::from_mode(0o600)).is_ok();
        Ok(Some(match is_tightened {
            true => format!("{seen}; it is for its owner alone now"),
            false => format!("{seen}; chmod go-rwx {}", path.display()),
        }))
    }

    /// Returns the mode of a file, if others may read or change it.
    pub fn open_to_others(path: &Path) -> Option<u32> {
        Believer::of_process()?;
        let seen = fs::metadata(path).ok()?;
        let rights = rights_of_others(path, seen.uid(), seen.mode(), &handed());
        (rights != 0).then_some(seen.mode() & 0o7777)
    }

    /// Returns the directories of the files that a service manager hands to this process, and to
    /// the service that is looked at.
    fn handed() -> Vec<PathBuf> {
        let own = std::env::var_os(ENV_HANDED).map(PathBuf::from);
        own.into_iter().chain(SERVICE.get().map(|service| service.handed.clone())).collect()
    }

    /// Returns the bits of a mode that say what others than the owner of a file may do. Those of
    /// the group say nothing of a file that root handed over.
    pub(super) fn rights_of_others(path: &Path, owner: u32, mode: u32, handed: &[PathBuf]) -> u32 {
        let is_in = |dir: &Path| handed.iter().any(|handed| handed == dir);
        let is_handed = owner == 0 && path.parent().is_some_and(is_in);
        mode & if is_handed { 0o007 } else { 0o077 }
    }

    /// Whether a file is mounted by itself, over another one.
    #[cfg(target_os = "linux")]
    fn is_mount(file: &File) -> bool {
        use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
        statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE)
            .is_ok_and(|seen| seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
    }

    #[cfg(not(target_os = "linux"))]
    fn is_mount(_: &File) -> bool {
        false
    }
}

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

    use super::{
        unix::{Believer, is_in, rights_of_others},
        *,
    };

    #[test]
    fn a_file_is_believed_by_its_owner_and_its_mode() {
        let path = Path::new("f");
        let user = Believer { uid: 1000, sudo_uid: None };
        let root = Believer { uid: 0, sudo_uid: None };
        let sudo = Believer { uid: 0, sudo_uid: Some(1000) };
        for (me, owner, mode, is_mount, is_believed) in [
            (user, 1000, 0o100_600, false, true),
            (user, 1000, 0o100_644, false, true),
            // In /etc, and a secret of Kubernetes.
            (user, 0, 0o100_644, false, true),
            (user, 0, 0o100_440, false, true),
            (user, 1001, 0o100_644, false, false),
            (user, 1001, 0o100_644, true, false),
            (user, 1000, 0o100_664, false, false),
            (user, 1000, 0o100_646, false, false),
            (user, 0, 0o100_666, false, false),
            (root, 0, 0o100_600, false, true),
            (root, 1000, 0o100_644, false, false),
            (root, 1000, 0o100_644, true, true),
            (root, 1000, 0o100_666, true, false),
            (sudo, 1000, 0o100_600, false, true),
            (sudo, 1001, 0o100_600, false, false),
        ] {
            let judged = me.judge(path, owner, mode, is_mount);
            assert_eq!(
                judged.is_ok(),
                is_believed,
                "{me:?} {owner} {mode:o} {is_mount}: {judged:?}"
            );
        }
    }

    #[test]
    fn root_that_looks_at_a_service_believes_its_files_and_what_it_could_read() {
        let root = Believer { uid: 0, sudo_uid: None };
        let sudo = Believer { uid: 0, sudo_uid: Some(1000) };
        let service = Service {
            user: 61_000,
            group: Some(61_000),
            home: "/var/lib/private/lattice-host".into(),
            handed: "/run/credentials/lattice-host.service".into(),
        };
        let (own, creds) = ("host_config.json", "/run/credentials/lattice-host.service/nats_creds");
        for (me, path, owner, group, mode, is_believed) in [
            (root, own, 61_000, 61_000, 0o100_600, true),
            (root, own, 61_000, 61_000, 0o100_644, true),
            // Others could have written it.
            (root, own, 61_000, 61_000, 0o100_666, false),
            // Somebody else's is refused as ever.
            (root, own, 1000, 1000, 0o100_644, false),
            (sudo, own, 1000, 1000, 0o100_644, true),
            // Of what is root's only that which the service could read.
            (root, "/etc/lattice-host/ca.pem", 0, 0, 0o100_644, true),
            (root, "/etc/lattice-host/host.creds", 0, 61_000, 0o100_640, true),
            (root, "/etc/lattice-host/host.creds", 0, 61_000, 0o100_600, false),
            (root, "/etc/shadow", 0, 42, 0o100_640, false),
            (root, "/root/host.creds", 0, 0, 0o100_600, false),
            (root, creds, 0, 0, 0o100_440, true),
            (root, creds, 61_000, 0, 0o100_400, true),
            (root, "/run/credentials/lattice-host.service/../x", 0, 0, 0o100_400, false),
        ] {
            // Everybody enters the one directory above it.
            let paths = (Path::new(path), Path::new("/f"));
            let judged = me.judge_for(&service, paths, (owner, group), mode);
            assert_eq!(judged.is_ok(), is_believed, "{path} {owner} {mode:o}: {judged:?}");
        }
        let alone = Service { group: None, ..service };
        let shadow = Path::new("/etc/shadow");
        let judged = root.judge_for(&alone, (shadow, shadow), (0, 0), 0o100_640);
        assert!(matches!(judged, Err(Distrust::NotForService { user: 61_000, .. })), "{judged:?}");
    }

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

    #[test]
    fn the_advice_never_takes_a_file_from_the_owner_of_its_directory() {
        let root = Believer { uid: 0, sudo_uid: None };
        let user = Believer { uid: 1000, sudo_uid: None };
        for (me, owner, directory, advice) in [
            (root, 61_000, Some(61_000), "sudo -u '#61000'"),
            (root, 61_000, Some(0), "chown 0 f"),
            (root, 61_000, None, "chown 0 f"),
            (user, 61_000, Some(61_000), "chown 1000 f"),
        ] {
            let distrust = me.judge(Path::new("f"), owner, 0o100_600, false).unwrap_err();
            let told = me.explain(distrust, directory).to_string();
            assert!(told.contains(advice), "{told}");
        }
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
    fn what_a_service_manager_handed_over_is_open_to_nobody_else() {
        let handed = [PathBuf::from("/run/credentials/lattice-host.service")];
        let file = "/run/credentials/lattice-host.service/nats_creds";
        for (path, owner, mode, rights) in [
            (file, 0, 0o100_440, 0),
            (file, 0, 0o100_444, 0o004),
            (file, 61_000, 0o100_440, 0o040),
            ("/run/credentials/other.service/nats_creds", 0, 0o100_440, 0o040),
            ("/etc/lattice-host/nats_creds", 0, 0o100_600, 0),
            ("/etc/lattice-host/nats_creds", 0, 0o100_626, 0o026),
        ] {
            let found = rights_of_others(Path::new(path), owner, mode, &handed);
            assert_eq!(found, rights, "{path} {owner} {mode:o}");
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

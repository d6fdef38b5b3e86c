//! The rule of [`super`] on Unix: looks at owners, permissions and links of files, and judges them.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::{Distrust, ENV_FILE_CHECKS, Holds, SERVICE, Service, directory_of};

/// The directory of the files that a service manager hands to this process, with its variable in
/// systemd.exec(5).
const ENV_HANDED: &str = "CREDENTIALS_DIRECTORY";
/// As many links as Linux follows.
const LINKS_MAX: usize = 40;

/// The owners whose files this process believes, besides root.
#[derive(Clone, Copy, Debug)]
struct Believer {
    uid: u32,
    /// The user who became root with `sudo`.
    sudo_uid: Option<u32>,
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
    fn judge(self, path: &Path, owner: u32, mode: u32, is_mount: bool) -> Result<(), Distrust> {
        let is_placed_by_root = self.uid == 0 && is_mount;
        if !self.trusts(owner) && !is_placed_by_root {
            return Err(Distrust::Owner { path: path.to_owned(), owner, me: self.uid });
        }
        private(path, mode)
    }

    /// Whether a regular file is believed that a service has written or leads to: it is the
    /// service's own, or it would be believed anyway and the service could read it. `real` is
    /// its path without links.
    fn judge_for(
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
    fn explain(self, distrust: Distrust, directory: Option<u32>) -> Distrust {
        match distrust {
            Distrust::Owner { path, owner, .. } if self.uid == 0 && directory == Some(owner) => {
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
pub(super) fn service_of(path: &Path, source: Option<&Path>) -> Option<&'static Service> {
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

fn refused(distrust: Distrust) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, distrust)
}

/// Looks at every link from `path` on; a path that leads nowhere is no error here.
pub(super) fn check_links(path: &Path) -> io::Result<()> {
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
pub(super) fn check_open(
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
fn rights_of_others(path: &Path, owner: u32, mode: u32, handed: &[PathBuf]) -> u32 {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}

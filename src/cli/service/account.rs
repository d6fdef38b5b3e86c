//! The users of services: whether there is one of a name, and whose files root believes while it
//! looks at a service of the system ([`trusted::look_at`]).
//!
//! A host writes its settings itself, so those of a service belong to its user. Root reads them to
//! check what a service is asked to be, and to ask its lattice; it never lives by them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use lattice_base::trusted::{self, Service};

use super::{
    NAME,
    definition::state_directory,
    manager::is_root,
    program::{output, run},
    status::{properties, property},
};

/// Where systemd puts the files with secrets that it hands to a service while that runs.
const HANDED: &str = "/run/credentials";
/// As many links as Linux follows.
#[cfg(unix)]
const LINKS_MAX: usize = 40;

/// The user that a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    Known(u32),
    Missing,
    /// This machine does not tell.
    Unknown,
}

/// Looks for a user of this machine. Names are not in one file alone, so the program is asked that
/// knows all of them.
pub fn user(name: &str) -> User {
    match output("id", &["-u", name]) {
        Ok(output) => told(output.status.success(), &String::from_utf8_lossy(&output.stdout)),
        Err(_) => User::Unknown,
    }
}

/// Reads what the program says of a user.
fn told(is_there: bool, text: &str) -> User {
    match (is_there, text.trim().parse()) {
        (true, Ok(id)) => User::Known(id),
        (true, Err(_)) => User::Unknown,
        (false, _) => User::Missing,
    }
}

/// Lets root look at the service of the system in whose directory this command is given, if it is
/// given in one.
pub fn look_at_service_here() {
    if !is_root() {
        return;
    }
    let Ok(here) = std::env::current_dir().and_then(fs::canonicalize) else { return };
    let kept = service_in(&state_directory(), None).filter(|service| service.home == here);
    if let Some(service) = kept.or_else(|| service_of_unit(&here)) {
        trusted::look_at(service);
    }
}

/// Returns the service that runs in a directory: as this user, or else as the owner of the
/// directory. Where that is root, or the directory is not there, there is nothing to look at.
pub fn service_in(directory: &Path, user: Option<u32>) -> Option<Service> {
    let home = fs::canonicalize(directory).ok()?;
    let (owner, group) = owner_of(&home)?;
    let user = Some(user.unwrap_or(owner)).filter(|user| *user != 0)?;
    let group = Some(group).filter(|group| *group != 0);
    Some(Service { user, group, home, handed: handed() })
}

/// Returns the directory of the files that systemd hands to the service of the system.
pub fn handed() -> PathBuf {
    Path::new(HANDED).join(format!("{NAME}.service"))
}

/// Returns the service that runs in this directory with the user whom its unit names.
fn service_of_unit(here: &Path) -> Option<Service> {
    let unit = format!("{NAME}.service");
    let shown = run("systemctl", &["show", "--property=User,UID,WorkingDirectory", &unit]).ok()?;
    let (directory, name) = place_in(&shown)?;
    if fs::canonicalize(directory).ok()? != here {
        return None;
    }
    match name.parse().map_or_else(|_| user(&name), User::Known) {
        User::Known(id) => service_in(here, Some(id)),
        User::Missing | User::Unknown => None,
    }
}

/// Returns the directory and the user, or its number, that systemd shows of a unit; `None` without
/// one of them.
fn place_in(shown: &str) -> Option<(PathBuf, String)> {
    let shown = properties(shown);
    // A directory that may be missing has a sign in front.
    let directory = property(&shown, "WorkingDirectory")?.trim_start_matches(['!', '-']);
    let id = property(&shown, "UID").filter(|id| id.parse::<u32>().is_ok());
    let user = id.or_else(|| property(&shown, "User"))?;
    directory.starts_with('/').then(|| (PathBuf::from(directory), user.to_owned()))
}

/// Whether nobody but root decides what is at a path: it is root's and others cannot write to it,
/// and so are the directories and the links that lead to it.
///
/// # Errors
///
/// If something of that is not there, or cannot be looked at.
#[cfg(unix)]
pub fn is_of_root(path: &Path) -> io::Result<bool> {
    leads_over_root(path, LINKS_MAX)
}

/// Elsewhere than on Unix nothing else is known of it.
#[cfg(not(unix))]
pub fn is_of_root(_: &Path) -> io::Result<bool> {
    Ok(true)
}

/// Whether every user of this machine can read a file, as its permissions and those of the
/// directories that lead to it say. One that cannot be looked at is for nobody.
#[cfg(unix)]
pub fn is_for_all(path: &Path) -> bool {
    let Ok(real) = fs::canonicalize(path) else { return false };
    // A link is passed in the directory where it is, and in that where it leads.
    let mut dirs = path.ancestors().skip(1).chain(real.ancestors().skip(1));
    has_mode(&real, 0o004) && dirs.all(|dir| has_mode(dir, 0o001))
}

/// Elsewhere than on Unix nothing else is known of it.
#[cfg(not(unix))]
pub fn is_for_all(_: &Path) -> bool {
    true
}

#[cfg(unix)]
fn has_mode(path: &Path, bits: u32) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(path).is_ok_and(|seen| seen.mode() & bits == bits)
}

#[cfg(unix)]
fn leads_over_root(path: &Path, links_max: usize) -> io::Result<bool> {
    if !path.is_absolute() {
        return Ok(false);
    }
    for part in path.ancestors() {
        if !is_set_by_root(part, links_max)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether nobody but root decides on a file, a directory, or a link and where that leads.
#[cfg(unix)]
fn is_set_by_root(part: &Path, links_max: usize) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let seen = fs::symlink_metadata(part)?;
    if seen.uid() != 0 {
        return Ok(false);
    }
    if !seen.is_symlink() {
        return Ok(seen.mode() & 0o022 == 0);
    }
    let target = trusted::directory_of(part).join(fs::read_link(part)?);
    Ok(links_max > 0 && leads_over_root(&target, links_max - 1)?)
}

#[cfg(unix)]
fn owner_of(path: &Path) -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.uid(), metadata.gid()))
}

#[cfg(not(unix))]
fn owner_of(_: &Path) -> Option<(u32, u32)> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_known_missing_or_not_told() {
        for (is_there, text, expected) in [
            (true, "998\n", User::Known(998)),
            (false, "", User::Missing),
            (true, "", User::Unknown),
        ] {
            assert_eq!(told(is_there, text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_unit_names_a_directory_and_a_user_or_nothing_is_looked_at() {
        for (unit, expected) in [
            ("User=lattice\nUID=998\nWorkingDirectory=/srv/50%\n", Some(("/srv/50%", "998"))),
            (
                "UID=[not set]\nUser=lattice\nWorkingDirectory=!/srv/x\n",
                Some(("/srv/x", "lattice")),
            ),
            ("UID=[not set]\nUser=\nWorkingDirectory=/var/lib/lattice-host\n", None),
            ("User=c\nUID=998\nWorkingDirectory=~\n", None),
            ("User=c\nUID=[not set]\nWorkingDirectory=\n", None),
            ("", None),
        ] {
            let expected = expected.map(|(dir, user)| (PathBuf::from(dir), user.to_owned()));
            assert_eq!(place_in(unit), expected, "{unit:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_is_of_root_with_all_that_leads_to_it() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("f"), dir.path().join("link"));
        fs::write(&file, "x").unwrap();
        symlink("/etc/passwd", &link).unwrap();
        // Root's own, too: whoever may write here may exchange what is here.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        for (path, expected) in [
            ("/etc/passwd", Ok(true)),
            ("etc/passwd", Ok(false)),
            (file.to_str().unwrap(), Ok(false)),
            (link.to_str().unwrap(), Ok(false)),
            ("/no/such/file", Err(io::ErrorKind::NotFound)),
        ] {
            let found = is_of_root(Path::new(path)).map_err(|error| error.kind());
            assert_eq!(found, expected, "{path}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_is_for_all_if_all_may_read_it_and_enter_what_leads_to_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let (folder, file) = (dir.path().join("a"), dir.path().join("a/ca.pem"));
        fs::create_dir(&folder).unwrap();
        fs::write(&file, "x").unwrap();
        let mode = |path: &Path, mode: u32| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        // Only what is below counts here: the directories above are those of the machine.
        let is_above_open = dir.path().ancestors().skip(1).all(|above| has_mode(above, 0o001));
        mode(dir.path(), 0o755);
        for (of_folder, of_file, expected) in [
            (0o755, 0o644, true),
            (0o711, 0o604, true),
            (0o700, 0o644, false),
            (0o755, 0o640, false),
        ] {
            mode(&folder, of_folder);
            mode(&file, of_file);
            let expected = expected && is_above_open;
            assert_eq!(is_for_all(&file), expected, "{of_folder:o} {of_file:o}");
        }
        assert!(!is_for_all(&dir.path().join("none")));
    }

    #[cfg(unix)]
    #[test]
    fn a_service_is_looked_at_in_its_directory_unless_it_runs_as_root() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
        let found = service_in(&dir.path().join("link"), Some(61_000)).expect("a service");
        assert_eq!((found.user, &found.home), (61_000, &fs::canonicalize(dir.path()).unwrap()));
        assert_eq!(found.handed, Path::new("/run/credentials/lattice-host.service"));
        assert_eq!(service_in(dir.path(), Some(0)), None);
        assert_eq!(service_in(&dir.path().join("missing"), Some(61_000)), None);
        let of_owner = service_in(dir.path(), None).map(|service| service.user);
        assert_eq!(of_owner, owner_of(dir.path()).map(|(owner, _)| owner).filter(|it| *it != 0));
    }
}

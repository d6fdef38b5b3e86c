//! The users of services: whether there is one of a name, and whose files root believes while it
//! looks at a service of the system ([`trusted::look_at`]).
//!
//! A host writes its settings itself, so those of a service belong to its user. Root reads them to
//! check what a service is asked to be, and to ask its lattice; it never lives by them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use lattice_base::trusted::{self, Service};

use super::{
    NAME,
    definition::{STATE, state_directory},
    manager::is_root,
};

/// Where systemd puts the files with secrets that it hands to a service while that runs.
const HANDED: &str = "/run/credentials";
/// Where units of the system are; the first one that is there counts.
const UNITS: [&str; 3] = ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

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
    match Command::new("id").args(["-u", name]).stdin(Stdio::null()).output() {
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
    let known = [service_in(&state_directory(), None), service_of_unit()];
    if let Some(service) = known.into_iter().flatten().find(|service| service.home == here) {
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

/// Returns the service whose unit names a directory and a user.
fn service_of_unit() -> Option<Service> {
    let unit = format!("{NAME}.service");
    let text = UNITS.iter().find_map(|dir| fs::read_to_string(Path::new(dir).join(&unit)).ok())?;
    let (directory, name) = place_in(&text)?;
    match user(&name) {
        User::Known(id) => service_in(&directory, Some(id)),
        User::Missing | User::Unknown => None,
    }
}

/// Returns the directory and the user that a unit names; `None` without one of them.
fn place_in(unit: &str) -> Option<(PathBuf, String)> {
    let directory = value_in(unit, "WorkingDirectory")?.trim_start_matches('-');
    let directory = directory.replace("%S", STATE).replace("%%", "%");
    let user = value_in(unit, "User").filter(|user| !user.is_empty())?;
    directory.starts_with('/').then(|| (PathBuf::from(directory), user.to_owned()))
}

/// Returns the value of the last line of a unit with this name.
fn value_in<'a>(unit: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = unit.lines().rev();
    lines.find_map(|line| Some(line.trim().strip_prefix(name)?.strip_prefix('=')?.trim()))
}

/// Whether a file belongs to root. Elsewhere than on Unix nothing else is known of it.
pub fn is_of_root(file: &Path) -> bool {
    owner_of(file).is_none_or(|(owner, _)| owner == 0)
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
            ("WorkingDirectory=/srv/50%%\nUser=lattice\n", Some(("/srv/50%", "lattice"))),
            (
                "User=host\nStateDirectory=x\nWorkingDirectory=%S/lattice-host\n",
                Some(("/var/lib/lattice-host", "host")),
            ),
            ("WorkingDirectory=/a\nWorkingDirectory=/b\nUser=c\n", Some(("/b", "c"))),
            ("WorkingDirectory=%S/lattice-host\nDynamicUser=yes\n", None),
            ("WorkingDirectory=~\nUser=c\n", None),
            ("#User=c\nWorkingDirectory=/b\n", None),
            ("", None),
        ] {
            let expected = expected.map(|(dir, user)| (PathBuf::from(dir), user.to_owned()));
            assert_eq!(place_in(unit), expected, "{unit:?}");
        }
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

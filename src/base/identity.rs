//! The identity of a host: its key, made once per directory and kept beside `host_config.json`.
//!
//! ```text
//! host_identity.json      the first host of the directory; its file is locked while it runs
//! host_identity.2.json    a second one that runs beside it, and so on
//! host_identity.N….json   set aside, by its public key: it belongs to a host elsewhere
//! ```
//!
//! A key names one host of a lattice. It stays with a directory that is moved or renamed, and must
//! not travel with one that is copied. So the file notes machine and directory, and [`origin`] says
//! from them what happened. The file of a copy is set aside, never lost, and another key is made.
//! A machine is known by its number, not by its name: that may change. A host whose directory
//! nobody may write to has a key for one start.

use std::{
    fs::{self, File, TryLockError},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::{
    config::{Config, HostKey, KeyOrigin},
    trusted::{self, Holds},
};
use lattice_protocol::identity::digest::sha256;

/// The name of the file of the first host of a directory.
pub const FILE_NAME: &str = "host_identity.json";
/// Hosts of one directory that keep an identity each.
const HOSTS_MAX: usize = 64;
/// A file that is replaced under our hands is looked at again, so often.
const ATTEMPTS_MAX: usize = 8;
/// The machine's own number, on systems with systemd or D-Bus.
const MACHINE: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];
/// The numbers of machines are not to be told to everybody, so a hash with this is noted.
const PURPOSE: &str = "lattice.host/identity/1";
const NOTE: &str = "The identity of one host in this directory. Not to be copied: a copy is noticed and set aside.";

/// The identity that a process has; others get another one until this is dropped.
#[derive(Debug, Default)]
pub struct Identity {
    _lock: Option<File>,
    /// The remarks for the user, a line each.
    pub warnings: Vec<String>,
    /// The file, where there is one.
    pub path: Option<PathBuf>,
}

/// Why a host has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(
        "read the identity of this host, {}: {cause}. Mend the file, or remove it to have another identity made: then what \
         was started on this host before is not started again",
        path.display()
    )]
    Unreadable { path: PathBuf, cause: String },
    #[error(
        "{HOSTS_MAX} hosts run in {} already; start this one in another directory",
        directory.display()
    )]
    TooMany { directory: PathBuf },
}

/// The content of the file.
#[derive(Serialize, Deserialize)]
struct Content {
    #[serde(default)]
    note: String,
    host_seed: String,
    /// The public key, for people.
    #[serde(default)]
    host_key: String,
    /// A hash of the machine's number; empty where it has none.
    machine: String,
    directory: PathBuf,
}

/// Where a file of this directory came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// It was made here.
    Here,
    /// It was made in a directory that does not have it any more.
    Moved,
    /// It belongs to a host of another directory.
    OtherDirectory,
    OtherMachine,
}

/// One look at a file.
enum Look {
    Ours(Content, File),
    /// Another process has it.
    Taken,
    /// The directory was moved, or has another name now.
    Moved(Content, File),
    /// It belongs to a host elsewhere.
    Copied(Content, File),
    Missing,
    /// It was replaced meanwhile.
    Changed,
}

/// Gives the settings the identity of this host, unless they have a `host_seed`. Blocks on small
/// files.
pub fn take(config: &mut Config, dir: &Path) -> Result<Identity, IdentityError> {
    if config.host_key.origin == KeyOrigin::Given {
        return Ok(Identity::default());
    }
    let (key, identity) = take_in(dir, &machine())?;
    if let Some(key) = key {
        config.host_key = key;
    }
    Ok(identity)
}

fn take_in(dir: &Path, machine: &str) -> Result<(Option<HostKey>, Identity), IdentityError> {
    let directory = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let here = Here { directory, machine };
    let mut warnings = Vec::new();
    for number in 1..=HOSTS_MAX {
        let path = dir.join(file_name(number));
        match here.take_file(&path, &mut warnings)? {
            Taken::Ours(key, lock) => {
                return Ok((Some(key), Identity { _lock: Some(lock), warnings, path: Some(path) }));
            }
            Taken::ByAnother => {}
            Taken::NotWritable(cause) => {
                warnings.push(format!(
                    "the identity of this host cannot be kept in {}: {cause}. It has a key for this start only, so what is \
                     started on it is not kept. Let this user write there, or set host_seed (WASMCLOUD_HOST_SEED)",
                    path.display()
                ));
                return Ok((None, Identity { warnings, ..Identity::default() }));
            }
        }
    }
    Err(IdentityError::TooMany { directory: here.directory })
}

/// The place that identities are for.
struct Here<'a> {
    /// By its one true name.
    directory: PathBuf,
    machine: &'a str,
}

/// How taking one file went.
enum Taken {
    Ours(HostKey, File),
    ByAnother,
    NotWritable(io::Error),
}

impl Here<'_> {
    fn take_file(&self, path: &Path, warnings: &mut Vec<String>) -> Result<Taken, IdentityError> {
        for _ in 0..ATTEMPTS_MAX {
            let made = match self.look(path, warnings)? {
                Look::Ours(content, lock) => {
                    return Ok(Taken::Ours(key_of(path, &content)?, lock));
                }
                Look::Taken => return Ok(Taken::ByAnother),
                Look::Changed => continue,
                Look::Missing => trusted::create(path, &self.new_content()),
                Look::Moved(content, lock) => {
                    let key = key_of(path, &content)?;
                    if trusted::replace(path, &self.noted(content)).is_err() {
                        // It counts all the same, and is known as moved the next time as well.
                        return Ok(Taken::Ours(key, lock));
                    }
                    Ok(())
                }
                // Locked until it is away, so that no other host takes it for its own meanwhile.
                Look::Copied(content, _lock) => {
                    let aside = path.with_file_name(aside(&key_of(path, &content)?.public));
                    warnings.push(self.told_copied(path, &content, &aside));
                    fs::rename(path, &aside)
                }
            };
            match made {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Ok(Taken::NotWritable(error)),
            }
        }
        Err(unreadable(path, "it changes all the time"))
    }

    fn look(&self, path: &Path, warnings: &mut Vec<String>) -> Result<Look, IdentityError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Look::Missing),
            Err(error) => return Err(unreadable(path, error)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Look::Taken),
            // Some file systems have no locks; two hosts of one key notice each other later.
            Err(TryLockError::Error(error)) => {
                warnings.push(format!(
                    "{} cannot be locked ({error}): a second host in this directory would have the same identity",
                    path.display()
                ));
            }
        }
        let read = trusted::read_regular(path, Holds::OwnSecrets);
        let read = read.map_err(|error| unreadable(path, error))?;
        if !is_same(&file, path) {
            return Ok(Look::Changed);
        }
        warnings.extend(read.warning);
        let content: Content = serde_json::from_slice(&read.bytes).map_err(|error| {
            // Its texts may be the seed.
            let at = format!("line {}, column {}", error.line(), error.column());
            unreadable(path, format!("it is no identity as hosts write it ({at})"))
        })?;
        Ok(match origin(&content, self, || has_identity(&content.directory, &content, &file)) {
            Origin::Here => Look::Ours(content, file),
            Origin::Moved => Look::Moved(content, file),
            Origin::OtherDirectory | Origin::OtherMachine => Look::Copied(content, file),
        })
    }

    fn told_copied(&self, path: &Path, content: &Content, aside: &Path) -> String {
        let of = if is_other_machine(&content.machine, self.machine) {
            "on another machine".to_owned()
        } else {
            format!("for {}, which has it still", content.directory.display())
        };
        format!(
            "{} was made {of}, so this directory is a copy: this host gets an identity of its own, and nothing that was started \
             on the other one is started here. The file is {} now. Where this directory is to go on as the host {} before, set \
             host_seed (WASMCLOUD_HOST_SEED) to the seed in that file, and let no other host have it",
            path.display(),
            aside.display(),
            content.host_key
        )
    }

    /// Returns a file with another identity.
    fn new_content(&self) -> Vec<u8> {
        let key = HostKey::new(None);
        self.noted(Content {
            note: String::new(),
            host_seed: key.seed.expose().to_owned(),
            host_key: key.public,
            machine: String::new(),
            directory: PathBuf::new(),
        })
    }

    /// Returns a file with this identity, for this place.
    fn noted(&self, content: Content) -> Vec<u8> {
        let content = Content {
            note: NOTE.to_owned(),
            machine: self.machine.to_owned(),
            directory: self.directory.clone(),
            ..content
        };
        serde_json::to_vec_pretty(&content).unwrap_or_default()
    }
}

/// Says where a file came from. `is_still_there` looks whether the directory that it names has this
/// identity, in a file of its own.
fn origin(content: &Content, here: &Here<'_>, is_still_there: impl FnOnce() -> bool) -> Origin {
    if is_other_machine(&content.machine, here.machine) {
        Origin::OtherMachine
    } else if content.directory == here.directory {
        Origin::Here
    } else if is_still_there() {
        Origin::OtherDirectory
    } else {
        Origin::Moved
    }
}

/// Says whether two machines are known to differ: one without a number may be any.
fn is_other_machine(noted: &str, here: &str) -> bool {
    !noted.is_empty() && !here.is_empty() && noted != here
}

/// Whether a directory has an identity in another file than the open one. A file that cannot be
/// looked at counts as one: two hosts of one key are worse than one that begins anew.
fn has_identity(directory: &Path, of: &Content, open: &File) -> bool {
    (1..=HOSTS_MAX).any(|number| {
        let path = directory.join(file_name(number));
        match fs::read(&path) {
            Ok(bytes) => {
                let found = serde_json::from_slice::<Content>(&bytes);
                found.is_ok_and(|found| found.host_seed == of.host_seed)
                    // A link, or the same directory under another name.
                    && !(cfg!(unix) && is_same(open, &path))
            }
            Err(error) => error.kind() == ErrorKind::PermissionDenied,
        }
    })
}

fn key_of(path: &Path, content: &Content) -> Result<HostKey, IdentityError> {
    HostKey::of_directory(&content.host_seed).map_err(|cause| unreadable(path, cause))
}

/// Returns the name under which the file of another host is set aside.
fn aside(public_key: &str) -> String {
    FILE_NAME.replace(".json", &format!(".{public_key}.json"))
}

fn unreadable(path: &Path, cause: impl ToString) -> IdentityError {
    IdentityError::Unreadable { path: path.to_owned(), cause: cause.to_string() }
}

fn file_name(number: usize) -> String {
    match number {
        1 => FILE_NAME.to_owned(),
        _ => FILE_NAME.replace(".json", &format!(".{number}.json")),
    }
}

/// Returns the machine as files note it; empty if it has no number.
fn machine() -> String {
    let texts = MACHINE.iter().filter_map(|path| fs::read_to_string(path).ok());
    let number = texts.map(|text| text.trim().to_owned()).find(|text| !text.is_empty());
    let noted = |number: String| format!("{PURPOSE}\n{number}");
    number
        .map_or_else(String::new, |number| HEXLOWER.encode(&sha256(noted(number).as_bytes())[..16]))
}

/// Whether a path still leads to an open file.
#[cfg(unix)]
fn is_same(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let (Ok(open), Ok(now)) = (file.metadata(), fs::metadata(path)) else { return false };
    (open.dev(), open.ino()) == (now.dev(), now.ino())
}

#[cfg(not(unix))]
fn is_same(_: &File, _: &Path) -> bool {
    true
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const MACHINE: &str = "m1";

    fn taken(dir: &Path) -> (String, Identity) {
        let (key, identity) = take_in(dir, MACHINE).unwrap();
        (key.expect("a key that is kept").public, identity)
    }

    fn path(dir: &Path, number: usize) -> PathBuf {
        dir.join(file_name(number))
    }

    #[test]
    fn a_directory_keeps_the_identities_of_its_hosts() {
        let dir = tempfile::tempdir().unwrap();
        let (first, one) = taken(dir.path());
        let (second, two) = taken(dir.path());
        assert_ne!(first, second);
        assert!(one.warnings.is_empty() && two.warnings.is_empty());
        assert!(path(dir.path(), 2).ends_with("host_identity.2.json"));
        for number in [1, 2] {
            let mode = fs::metadata(path(dir.path(), number)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        drop((one, two));
        let (again, _one) = taken(dir.path());
        assert_eq!((again, taken(dir.path()).0), (first, second));
    }

    #[test]
    fn a_copy_gets_an_identity_of_its_own_says_why_and_loses_nothing() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (original, identity) = taken(dir.path());
        let file = fs::read(path(dir.path(), 1)).unwrap();
        fs::copy(path(dir.path(), 1), path(other.path(), 1)).unwrap();
        let (copy, copied) = taken(other.path());
        assert_ne!(copy, original);
        let [told] = &copied.warnings[..] else { panic!("{:?}", copied.warnings) };
        let set_aside = other.path().join(aside(&original));
        for part in [dir.path(), set_aside.as_path(), Path::new("host_seed")] {
            assert!(told.contains(&part.display().to_string()), "{told}");
        }
        assert_eq!(fs::read(&set_aside).unwrap(), file);
        drop((identity, copied));
        // Both are kept from here on.
        assert_eq!((taken(dir.path()).0, taken(other.path()).0), (original.clone(), copy));
        let (moved, identity) = take_in(dir.path(), "m2").unwrap();
        assert_ne!(moved.unwrap().public, original);
        assert!(identity.warnings[0].contains("on another machine"), "{:?}", identity.warnings);
        assert_eq!(fs::read(dir.path().join(aside(&original))).unwrap(), file);
    }

    #[test]
    fn a_directory_that_is_moved_or_linked_keeps_its_identities() {
        let root = tempfile::tempdir().unwrap();
        let place = |name: &str| root.path().join(name);
        fs::create_dir(place("a")).unwrap();
        let ids = {
            let (one, two) = (taken(&place("a")), taken(&place("a")));
            (one.0, two.0)
        };
        fs::rename(place("a"), place("b")).unwrap();
        for _ in 0..2 {
            let (one, two) = (taken(&place("b")), taken(&place("b")));
            assert!(one.1.warnings.is_empty() && two.1.warnings.is_empty(), "{one:?} {two:?}");
            assert_eq!((one.0, two.0), ids);
        }
        fs::rename(place("b"), place("c")).unwrap();
        std::os::unix::fs::symlink(place("c"), place("b")).unwrap();
        let (one, two) = (taken(&place("c")), taken(&place("b")));
        assert_eq!((one.0, two.0), ids);
    }

    #[test]
    fn a_file_tells_by_its_machine_and_directory_where_it_came_from() {
        let content = |machine: &str, directory: &str| Content {
            note: String::new(),
            host_seed: String::new(),
            host_key: String::new(),
            machine: machine.to_owned(),
            directory: directory.into(),
        };
        let here = |machine| Here { directory: "/here".into(), machine };
        let cases = [
            ("where it was made", "m1", "/here", "m1", true, Origin::Here),
            ("a directory that was moved", "m1", "/there", "m1", false, Origin::Moved),
            ("a copy", "m1", "/there", "m1", true, Origin::OtherDirectory),
            ("another machine", "m2", "/here", "m1", false, Origin::OtherMachine),
            ("a copy from another machine", "m2", "/there", "m1", true, Origin::OtherMachine),
            ("a machine that has no number, renamed", "m2", "/here", "", false, Origin::Here),
            ("a machine that got a number", "", "/here", "m1", false, Origin::Here),
            ("moved, without a number", "", "/there", "", false, Origin::Moved),
        ];
        for (case, machine, directory, now, is_still_there, expected) in cases {
            let found = origin(&content(machine, directory), &here(now), || is_still_there);
            assert_eq!(found, expected, "{case}");
        }
    }

    #[test]
    fn a_file_that_is_no_identity_is_named_with_the_next_step() {
        let dir = tempfile::tempdir().unwrap();
        let file = path(dir.path(), 1);
        let (_, identity) = taken(dir.path());
        drop(identity);
        let good = fs::read_to_string(&file).unwrap();
        let seed: Content = serde_json::from_str(&good).unwrap();
        let public = good.replace(&seed.host_seed, &seed.host_key);
        for (content, mode, cause) in [
            ("", 0o600, "no identity"),
            ("[]", 0o600, "no identity"),
            (&*good.replace("host_seed", "seed"), 0o600, "no identity"),
            (&*public, 0o600, "public key"),
            (&*good.replace(&seed.host_seed[2..6], "0000"), 0o600, "seed"),
            (&*good, 0o666, "chmod go-w"),
        ] {
            fs::write(&file, content).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let error = take_in(dir.path(), MACHINE).unwrap_err().to_string();
            for part in [&*file.display().to_string(), cause, "remove it"] {
                assert!(error.contains(part), "{part}: {error}");
            }
            assert!(!error.contains(&seed.host_seed), "{error}");
        }
        fs::write(&file, &good).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let (key, identity) = taken(dir.path());
        assert_eq!(key, seed.host_key);
        assert!(identity.warnings[0].contains("for its owner alone now"));
    }

    #[test]
    fn a_directory_that_cannot_be_written_gives_a_key_for_one_start() {
        let dir = tempfile::tempdir().unwrap();
        // Root may write anywhere, but in no directory that is not there.
        let (key, identity) = take_in(&dir.path().join("gone"), MACHINE).unwrap();
        assert!(key.is_none() && identity.path.is_none());
        assert!(identity.warnings[0].contains("not kept"), "{:?}", identity.warnings);
    }
}

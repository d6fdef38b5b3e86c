//! The private cache of provider executables.
//!
//! Earlier hosts kept them in a directory that every user of the machine may write to, under a name
//! anybody could guess, and ran what they found there. Here the directory belongs to this user
//! alone, the name holds the hash, and the file is hashed again before each use; one that does not
//! match is replaced. A file that is not used for a month is removed.
//!
//! Several hosts may share the cache: a file is written under a name of its own and appears by a
//! rename, so nobody sees half a program, and a running one is never written to.

use std::{
    fs, io,
    io::{Read, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use lattice_base::{
    cached::{DirError, private_dir},
    dirs::{EXECUTABLES, UNFINISHED},
    providers::archive::Archive,
};
use lattice_protocol::identity::digest::{Sha256, hex_upper};

const BUFFER_BYTES: usize = 64 << 10;
/// How long an executable is kept that nobody starts.
const KEPT_UNUSED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Why a program could not be put into the cache.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("{} is gone or was changed since it was unpacked; start the provider again", .0.display())]
    Changed(PathBuf),
    #[error(transparent)]
    Directory(#[from] DirError),
}

/// Makes sure that the executable of an archive lies in the cache, unchanged, and returns where.
///
/// Reads or writes the whole file: call it off the async threads, before each start.
pub fn install(cache_dir: &Path, archive: &Archive) -> Result<PathBuf, InstallError> {
    let dir = cache_dir.join(EXECUTABLES);
    private_dir(&dir)?;
    let path = dir.join(file_name(archive));
    forget_old(&dir);
    if is_intact(&path, &archive.hash) {
        return Ok(path);
    }
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    let mut file =
        builder.tempfile_in(&dir).map_err(DirError::io("create a file beside", &path))?;
    file.write_all(&archive.executable).map_err(DirError::io("write", &path))?;
    // Closed before it gets its name: a program that anybody has open for writing cannot be run.
    let file = file.into_temp_path();
    let persisted = file.persist(&path).map_err(|error| error.error);
    persisted.map_err(DirError::io("rename a new file to", &path))?;
    Ok(path)
}

/// Makes sure that an executable from [`install`] still is what it was; for restarts, when the
/// archive is no longer at hand.
///
/// Reads the whole file: call it off the async threads.
pub fn check(path: &Path, hash: &[u8; 32]) -> Result<(), InstallError> {
    if is_intact(path, hash) { Ok(()) } else { Err(InstallError::Changed(path.to_owned())) }
}

/// Removes executables that nobody has started for a long time. A program that still runs goes on:
/// only the name of its file is gone.
fn forget_old(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(is_old) {
        // Another host may have been faster; what cannot be removed is tried again next time.
        let _ = fs::remove_file(entry.path());
    }
}

fn is_old(entry: &fs::DirEntry) -> bool {
    let used = entry.metadata().and_then(|found| found.modified());
    used.is_ok_and(|used| used.elapsed().is_ok_and(|unused| unused > KEPT_UNUSED))
}

/// Returns a file name with the provider, its revision and the hash of exactly this program.
fn file_name(archive: &Archive) -> String {
    let claims = &archive.claims;
    let (revision, hash) = (claims.effective_revision(), hex_upper(&archive.hash).to_lowercase());
    format!("{}-{revision}-{hash}{}", claims.subject, std::env::consts::EXE_SUFFIX)
}

/// Whether a file is there, is a plain file that can be run, and has the hash it should have.
fn is_intact(path: &Path, hash: &[u8; 32]) -> bool {
    let Ok(found) = fs::symlink_metadata(path) else { return false };
    #[cfg(unix)]
    let is_runnable = std::os::unix::fs::MetadataExt::mode(&found) & 0o777 == 0o700;
    #[cfg(not(unix))]
    let is_runnable = true;
    let intact =
        found.is_file() && is_runnable && hash_of(path).is_ok_and(|actual| actual == *hash);
    if intact && let Ok(file) = fs::File::open(path) {
        // A note that it is in use; without it the file is only unpacked again some day.
        let _ = file.set_modified(SystemTime::now());
    }
    intact
}

fn hash_of(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::{collections::BTreeSet, os::unix::fs::PermissionsExt};

    use super::*;
    use lattice_protocol::identity::{
        digest::sha256, keys::ProviderId, provider::ProviderClaims, samples::PROVIDER,
    };

    fn archive(program: &[u8]) -> Archive {
        let claims = ProviderClaims {
            subject: ProviderId::parse(PROVIDER.public).unwrap(),
            issuer: String::new(),
            name: None,
            vendor: String::new(),
            revision: Some(4),
            version: None,
            contract_id: "c".into(),
            target_hashes: Default::default(),
            config_schema: None,
            issued_at: 7,
            expires: None,
            not_before: None,
        };
        Archive {
            claims,
            targets: BTreeSet::new(),
            executable: program.to_vec(),
            hash: sha256(program),
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_program_is_installed_once_and_for_its_user_only() {
        let cache = tempfile::tempdir().unwrap();
        let path = install(cache.path(), &archive(b"one")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o700, 0o700));
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with(&format!("{}-4-", PROVIDER.public)), "{name}");

        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        let written = inode(&path);
        assert_eq!(install(cache.path(), &archive(b"one")).unwrap(), path);
        assert_eq!(inode(&path), written);
        // Built again under the same revision, it is another program.
        assert_ne!(install(cache.path(), &archive(b"two")).unwrap(), path);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2);
    }

    #[test]
    fn a_program_nobody_starts_is_removed_after_a_month_and_one_in_use_is_kept() {
        let cache = tempfile::tempdir().unwrap();
        let (unused, used) = (archive(b"one"), archive(b"two"));
        let paths = [&unused, &used].map(|archive| install(cache.path(), archive).unwrap());
        for path in &paths {
            let long_ago = SystemTime::now() - KEPT_UNUSED - Duration::from_secs(60);
            fs::File::open(path).unwrap().set_modified(long_ago).unwrap();
        }
        check(&paths[1], &used.hash).unwrap();
        install(cache.path(), &archive(b"three")).unwrap();
        assert_eq!(paths.clone().map(|path| path.exists()), [false, true]);
        assert!(matches!(check(&paths[0], &unused.hash), Err(InstallError::Changed(_))));
    }

    #[test]
    fn a_program_that_was_changed_planted_or_linked_is_replaced() {
        let cache = tempfile::tempdir().unwrap();
        let path = install(cache.path(), &archive(b"one")).unwrap();
        fs::write(&path, b"evil").unwrap();
        install(cache.path(), &archive(b"one")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");

        let elsewhere = cache.path().join("elsewhere");
        fs::write(&elsewhere, b"one").unwrap();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        install(cache.path(), &archive(b"one")).unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_file());

        fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
        fs::set_permissions(path.parent().unwrap(), PermissionsExt::from_mode(0o777)).unwrap();
        install(cache.path(), &archive(b"one")).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o700, 0o700));
    }

    #[test]
    fn a_cache_that_is_no_directory_of_ours_is_refused() {
        let cache = tempfile::tempdir().unwrap();
        let target = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(target.path(), cache.path().join(EXECUTABLES)).unwrap();
        let error = install(cache.path(), &archive(b"one")).unwrap_err();
        assert!(matches!(error, InstallError::Directory(DirError::Foreign(_))), "{error}");

        let file = cache.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = install(&file, &archive(b"one")).unwrap_err();
        assert!(error.to_string().contains("XDG_CACHE_HOME"), "{error}");
    }

    #[test]
    fn many_hosts_install_the_same_program_at_once() {
        let cache = tempfile::tempdir().unwrap();
        let program = vec![7; 1 << 20];
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let path = install(cache.path(), &archive(&program)).unwrap();
                    assert_eq!(hash_of(&path).unwrap(), sha256(&program));
                });
            }
        });
        assert_eq!(fs::read_dir(cache.path().join(EXECUTABLES)).unwrap().count(), 1);
    }
}

//! Files that commands read and write: whole, or not at all. A path that is no ordinary file (a
//! pipe, a terminal) is written to.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use lattice_base::trusted;

/// Reads a file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// Writes a file, with its directories; what was there before is replaced in one moment.
pub fn write(path: &Path, content: &[u8]) -> Result<()> {
    replace(path, content).with_context(|| format!("write {}", path.display()))
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    // A renamed file would replace a symbolic link instead of what it points to.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let before = fs::metadata(&path).ok();
    if before.as_ref().is_some_and(|before| !before.is_file() && !before.is_dir()) {
        return fs::write(&path, content);
    }
    let dir = trusted::directory_of(&path);
    fs::create_dir_all(dir)?;
    let mut builder = tempfile::Builder::new();
    // The umask decides what others may do with it, as with every file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(dir)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    if let Some(before) = before {
        file.as_file().set_permissions(before.permissions())?;
    }
    file.persist(path)?;
    Ok(())
}

/// The file a destination names: itself, or one in it if it is a directory.
pub fn destination(given: Option<&Path>, name: &str) -> PathBuf {
    match given {
        Some(dir) if dir.is_dir() => dir.join(name),
        Some(file) => file.to_owned(),
        None => PathBuf::from(name),
    }
}

/// A number of bytes for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_the_largest_unit_that_fits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (5 << 20, "5.0 MiB"),
            (3 << 30, "3.0 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_file_is_replaced_and_its_directory_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.wasm");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert_eq!(destination(Some(dir.path()), "x.wasm"), dir.path().join("x.wasm"));
        assert_eq!(destination(Some(&path), "x.wasm"), path);
        let error = format!("{:#}", write(dir.path(), b"x").unwrap_err());
        assert!(error.starts_with("write ") && error.contains("directory"), "{error}");
        let error = format!("{:#}", read(&dir.path().join("none")).unwrap_err());
        assert!(error.contains("none: No such file"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_permissions_kept_and_devices_written_to() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("b.wasm"), dir.path().join("link"));
        fs::write(&path, b"one").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        write(&link, b"two").unwrap();
        assert!(link.is_symlink() && read(&path).unwrap() == b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        write(Path::new("/dev/null"), b"x").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}

//! Whether the log and the audit log would share a file, under whatever names.
//!
//! Each of the two renames its file when that is full, `host.log` to `host.log.1` and so on, so the
//! one must not be an earlier file of the other either.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::trusted;

/// As many links in a row as Linux follows.
const LINKS_MAX: usize = 40;

/// Says whether one of two files is the other, or an earlier file of the other.
pub(super) fn overlap(one: &Path, other: &Path) -> bool {
    let (one, other) = (place(one), place(other));
    let is_same = one.parent() == other.parent() && name(&one) == name(&other);
    is_same || is_one_file(&one, &other) || is_earlier(&one, &other) || is_earlier(&other, &one)
}

/// Says whether a file is one that another is renamed to.
fn is_earlier(file: &Path, current: &Path) -> bool {
    let (file_name, current_name) = (name(file), name(current));
    let rest = file_name.strip_prefix(current_name.as_slice());
    let number = rest.and_then(|rest| rest.strip_prefix(b"."));
    let is_number = number.is_some_and(|number| {
        !number.is_empty() && number.iter().all(|byte| byte.is_ascii_digit())
    });
    is_number && file.parent() == current.parent()
}

/// Returns the name of a file in its directory, as the file system compares names.
fn name(path: &Path) -> Vec<u8> {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    // Theirs usually take two names that differ in case for one.
    match cfg!(any(windows, target_os = "macos")) {
        true => name.to_ascii_lowercase(),
        false => name.to_vec(),
    }
}

/// Returns the path of a file without links, also of one that is not there yet.
fn place(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        if let Ok(place) = fs::canonicalize(&path) {
            return place;
        }
        // A link may lead to what is not there yet.
        let Ok(target) = fs::read_link(&path) else { break };
        path = trusted::directory_of(&path).join(target);
    }
    let directory = trusted::directory_of(&path);
    let found = fs::canonicalize(directory).or_else(|_| std::path::absolute(directory));
    let directory = found.unwrap_or_else(|_| directory.to_owned());
    directory.join(path.file_name().unwrap_or_default())
}

/// Says whether two paths are of one file, as hard links are.
#[cfg(unix)]
fn is_one_file(one: &Path, other: &Path) -> bool {
    node(one).is_some_and(|node_of_one| node(other) == Some(node_of_one))
}

/// Returns the device of a file and its number there.
#[cfg(unix)]
fn node(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn is_one_file(_: &Path, _: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_one_under_any_spelling_and_earlier_files_are_theirs_too() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::create_dir(dir.join("logs")).unwrap();
        for (one, other, is_overlap) in [
            ("a.log", "a.log", true),
            ("a.log", "./a.log", true),
            ("a.log", "logs/../a.log", true),
            ("none/a.log", "none/./a.log", true),
            ("a.log", "b.log", false),
            ("a.log", "logs/a.log", false),
            ("a.log", "a.log.1", true),
            ("a.log.12", "a.log", true),
            ("logs/a.log.1", "a.log", false),
            ("a.log", "a.log.", false),
            ("a.log", "a.log.gz", false),
            ("a.log", "a.log1", false),
        ] {
            let (one, other) = (dir.join(one), dir.join(other));
            assert_eq!(overlap(&one, &other), is_overlap, "{one:?} {other:?}");
            assert_eq!(overlap(&other, &one), is_overlap, "{other:?} {one:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_lead_to_the_file_that_they_mean_also_before_it_is_there() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str| dir.path().join(name);
        symlink("a.log", of("link.log")).unwrap();
        symlink(of("link.log"), of("second.log")).unwrap();
        symlink(dir.path(), of("directory")).unwrap();
        symlink("round.log", of("round.log")).unwrap();
        let cases = [
            ("link.log", true),
            ("second.log", true),
            ("directory/a.log", true),
            ("directory/b.log", false),
            ("round.log", false),
        ];
        for is_there in [false, true] {
            if is_there {
                fs::write(of("a.log"), "line\n").unwrap();
            }
            for (other, is_overlap) in cases {
                assert_eq!(overlap(&of("a.log"), &of(other)), is_overlap, "{other} {is_there}");
            }
        }
        fs::hard_link(of("a.log"), of("hard.log")).unwrap();
        fs::write(of("same text.log"), "line\n").unwrap();
        assert!(overlap(&of("a.log"), &of("hard.log")));
        assert!(!overlap(&of("a.log"), &of("same text.log")));
    }
}

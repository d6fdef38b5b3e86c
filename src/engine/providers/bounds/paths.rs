//! Paths in link values: which files they may name, and which directories.
//!
//! With the setting `link_paths` everything a link names must be below one of its directories,
//! wherever symbolic links lead. Without it:
//!
//! * a file may be anywhere, for what is in it is never shown: a certificate, a key, settings;
//! * a directory to write to must have been prepared by somebody who has the machine: it is there,
//!   and empty or holds nothing but stores of actors. So a link cannot write into a home, `/etc` or
//!   anything else that is in use, also where the host runs as root, and `mkdir` is all that the
//!   documented use takes.

use std::{
    io,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use crate::providers::builtin::LinkError;
use lattice_base::files::{PATIENCE, ReadError, SMALL_BYTES_MAX, is_below, read_small, within};
use lattice_protocol::identity::keys::ActorId;

/// The directory that a file system has at its top by itself.
const LOST_AND_FOUND: &str = "lost+found";

/// Where link values may lead on this machine. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct LinkPaths(Arc<[PathBuf]>);

/// Why objects are not kept in a directory.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("it is not below a directory of the host's setting link_paths")]
    Outside,
    #[error(
        "it is not there; make it on the machine of the host, or name a directory above it in the host's setting \
         link_paths"
    )]
    Missing,
    #[error(
        "it holds other things than stores of actors ({0:?}); make an empty directory on the machine of the host, or \
         name this one in the host's setting link_paths"
    )]
    InUse(String),
    #[error("it is no plain absolute path")]
    NotPlain,
}

impl LinkPaths {
    /// Only what is below these directories may be named; with none, what the module says.
    pub fn new(roots: Vec<PathBuf>) -> Self {
        Self(roots.into())
    }

    /// Reads the small file that the link value `name` names.
    pub async fn read(&self, name: &str, path: &str) -> Result<Vec<u8>, LinkError> {
        let read = read_small(Path::new(path), &self.0, SMALL_BYTES_MAX, PATIENCE).await;
        // It may come later, or be put right.
        read.map_err(|error| {
            LinkError::Unavailable(format!(
                "link value {name} names the file {path}, which cannot be read: {error}"
            ))
        })
    }

    /// Returns where the directory leads that the link value `name` names, if actors may write
    /// there. Everything below `own` is the host's own place for that.
    pub async fn directory(
        &self,
        name: &str,
        path: &Path,
        own: &Path,
    ) -> Result<PathBuf, LinkError> {
        let (roots, wanted, own) = (Arc::clone(&self.0), path.to_owned(), own.to_owned());
        let found = within(PATIENCE, move || {
            fit(&wanted, &roots, &own).map_err(io::Error::other).map_err(ReadError::Io)
        });
        found.await.map_err(|error| {
            LinkError::Unavailable(format!(
                "link value {name} names the directory {}, which cannot be used: {error}",
                path.display()
            ))
        })
    }
}

fn fit(path: &Path, roots: &[PathBuf], own: &Path) -> Result<PathBuf, Unfit> {
    let found = resolved(path)?;
    if !roots.is_empty() {
        return if is_below(&found, roots) { Ok(found) } else { Err(Unfit::Outside) };
    }
    // The host's own place need not be there yet.
    if resolved(own).is_ok_and(|own| found.starts_with(own)) {
        return Ok(found);
    }
    let entries = std::fs::read_dir(&found).map_err(|_| Unfit::Missing)?;
    for entry in entries {
        let name = entry.map_err(|_| Unfit::Missing)?.file_name().to_string_lossy().into_owned();
        if name != LOST_AND_FOUND && ActorId::parse(&name).is_err() {
            return Err(Unfit::InUse(name));
        }
    }
    Ok(found)
}

/// Resolves the part of a path that is there; what is not there yet has no links.
fn resolved(path: &Path) -> Result<PathBuf, Unfit> {
    if !path.is_absolute() || path.components().any(|part| matches!(part, Component::ParentDir)) {
        return Err(Unfit::NotPlain);
    }
    let (there, found) = path
        .ancestors()
        .find_map(|there| Some((there, there.canonicalize().ok()?)))
        .ok_or(Unfit::Missing)?;
    // A link that leads nowhere is there, and must not become the name of a directory.
    let rest = path.strip_prefix(there).map_err(|_| Unfit::NotPlain)?;
    match rest.components().next() {
        None => Ok(found),
        Some(next) if found.join(next).symlink_metadata().is_ok() => Err(Unfit::Missing),
        Some(_) => Ok(found.join(rest)),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    const ACTOR: &str = "MBA7VIBPQH52R2V2OR2JIQIQW26SLI2KM3KZMSRRX6MXRVQM5Z4P26C2";

    #[test]
    fn without_roots_objects_go_only_where_somebody_prepared_a_place() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let own = base.join("data/blobs");
        let [empty, used, home] = ["empty", "used", "home"].map(|name| base.join(name));
        for path in [&empty, &used.join(ACTOR), &home.join(".ssh")] {
            fs::create_dir_all(path).unwrap();
        }
        fs::create_dir(used.join(LOST_AND_FOUND)).unwrap();
        let (to_empty, to_home, to_nothing) =
            (base.join("to-empty"), base.join("to-home"), base.join("to-nothing"));
        symlink(&empty, &to_empty).unwrap();
        symlink(&home, &to_home).unwrap();
        symlink(base.join("nothing"), &to_nothing).unwrap();
        for (path, expected) in [
            (&empty, &empty),
            (&used, &used),
            (&to_empty, &empty),
            (&own, &own),
            (&own.join("x"), &own.join("x")),
        ] {
            assert_eq!(fit(path, &[], &own).unwrap(), *expected);
        }
        let around = empty.join("../home");
        for path in
            [&home, &to_home, &to_nothing, &around, &base, &empty.join("new"), &base.join("data")]
        {
            assert!(fit(path, &[], &own).is_err(), "{path:?}");
        }
        for path in ["/", "/etc", "/proc/self", "/etc/new", "/usr/bin/env", "relative", ""] {
            assert!(fit(Path::new(path), &[], &own).is_err(), "{path}");
        }
    }

    #[test]
    fn with_roots_objects_go_only_below_them() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let [root, other] = ["root", "other"].map(|name| base.join(name));
        fs::create_dir_all(root.join("in use/a")).unwrap();
        fs::create_dir(&other).unwrap();
        symlink(&other, root.join("out")).unwrap();
        let roots = [root.clone()];
        for path in [&root, &root.join("in use"), &root.join("new/deep")] {
            assert_eq!(fit(path, &roots, &other).unwrap(), *path);
        }
        for path in [&other, &root.join("out"), &root.join("out/x"), &root.join("../other"), &base]
        {
            assert!(fit(path, &roots, &other).is_err(), "{path:?}");
        }
    }

    #[tokio::test]
    async fn files_of_links_are_small_and_below_the_roots() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        fs::write(&file, "x").unwrap();
        let file = file.to_str().unwrap();
        assert_eq!(LinkPaths::default().read("ca_file", file).await.unwrap(), b"x");
        let elsewhere = LinkPaths::new(vec![tempfile::tempdir().unwrap().path().to_owned()]);
        for (paths, path, part) in [
            (&elsewhere, file, "link_paths"),
            (&LinkPaths::default(), "/dev/zero", "no ordinary file"),
            (&LinkPaths::default(), "/no/such", "No such file"),
        ] {
            let error = paths.read("ca_file", path).await.unwrap_err().to_string();
            assert!(
                error.contains(part)
                    && error.contains("link value ca_file")
                    && error.contains(path),
                "{error}"
            );
        }
    }
}

//! `host cache`: lists caches and throws them away; `host drain all` and the like do so too, in the
//! words of `wash`.
//!
//! | argument | content | when it is missed |
//! |---|---|---|
//! | `oci` | images of registries | pulled again; hosts read them whole, so none is in use after |
//! | `compiled` | compiled code of actors | taken from the lattice or compiled at the next start |
//! | `lib` | executables of providers | unpacked again at the next start of the provider |
//!
//! Only files go, never directories, and never one that is just being written: a host may be at it.
//! Code that runs is mapped and goes on without the name of its file. Executables stay while a host
//! of this user runs on this machine. The running process would not mind, but a provider that
//! crashes is started again from its file, and without the file it would stay away.
//!
//! Files that earlier tools left in the directory for temporary files are not ours and are not
//! touched.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::files;
use crate::{
    args::tools::{Cache as Args, CacheDeed, CacheWhat},
    terminal::{Cell, Column, Page, Table, Terminal, Tone, View},
};
use lattice_base::{
    dirs::{Dirs, UNFINISHED},
    presence,
};

/// A file that is not finished by then never will be.
const UNFINISHED_AGE: Duration = Duration::from_secs(3600);
/// Caches nest three or four levels deep.
const DEPTH_MAX: usize = 16;

/// Tells where a cache is.
type PathOf = fn(&Dirs) -> PathBuf;

/// The caches, with their words, what is missed when they are thrown away, and where they are.
const CACHES: [(CacheWhat, &str, &str, PathOf); 3] = [
    (CacheWhat::Oci, "oci", "images of registries; pulled again", Dirs::images),
    (
        CacheWhat::Compiled,
        "compiled",
        "compiled code of actors; taken from the lattice or compiled again",
        Dirs::compiled_code,
    ),
    (CacheWhat::Lib, "lib", "executables of providers; unpacked again", Dirs::executables),
];

pub fn run(terminal: &Terminal, args: &Args) -> Result<()> {
    match args.deed {
        CacheDeed::List => list(terminal, args.what),
        CacheDeed::Clear => clear(terminal, args.what),
    }
}

/// Whether a cache is among those that are wanted.
fn is_wanted(what: CacheWhat, wanted: CacheWhat) -> bool {
    wanted == what || wanted == CacheWhat::All
}

/// Shows what is in the caches.
fn list(terminal: &Terminal, wanted: CacheWhat) -> Result<()> {
    let dirs = Dirs::of_process();
    let mut caches = Vec::new();
    for (_, word, holds, path_of) in
        CACHES.into_iter().filter(|(what, ..)| is_wanted(*what, wanted))
    {
        caches.push((word, holds, counted(path_of(&dirs), CacheDeed::List)?));
    }
    terminal.show(&Listed(caches))
}

/// Throws caches away.
pub fn clear(terminal: &Terminal, wanted: CacheWhat) -> Result<()> {
    let dirs = Dirs::of_process();
    let hosts = presence::running(&presence::presence_dir(&dirs));
    let mut drained = Vec::new();
    for (what, .., path_of) in CACHES {
        if !is_wanted(what, wanted) {
            continue;
        }
        let dir = path_of(&dirs);
        if what == CacheWhat::Lib && !hosts.is_empty() && dir.exists() {
            let (path, hosts) = (dir.display(), hosts.join(", "));
            terminal.note(format!(
                "{path} is kept: running hosts start providers from it when those crash ({hosts}); stop them first"
            ));
            continue;
        }
        let cache = counted(dir, CacheDeed::Clear)?;
        // One that was never used is not worth a line.
        if cache.path.exists() {
            drained.push(cache);
        }
    }
    if wanted == CacheWhat::Smithy {
        terminal.note("this host keeps neither models nor downloads; nothing was removed");
    }
    terminal.show(&Drained(drained))
}

/// Counts the files of a cache, or removes and counts them.
fn counted(path: PathBuf, deed: CacheDeed) -> Result<Cache> {
    let doing = match deed {
        CacheDeed::List => "look into",
        CacheDeed::Clear => "clear",
    };
    let mut cache = Cache { path: path.clone(), files: 0, bytes: 0 };
    walk(&path, 0, &mut cache, deed)
        .with_context(|| format!("{doing} the cache {}", path.display()))?;
    Ok(cache)
}

/// Counts or removes the files below a directory.
fn walk(dir: &Path, depth: usize, cache: &mut Cache, deed: CacheDeed) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        // Hosts make room in their caches, too: what is gone is gone.
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if metadata.is_dir() {
            if depth < DEPTH_MAX {
                walk(&entry.path(), depth + 1, cache, deed)?;
            }
            continue;
        }
        if is_unfinished(&entry, &metadata) {
            continue;
        }
        let done = match deed {
            CacheDeed::List => Ok(()),
            CacheDeed::Clear => fs::remove_file(entry.path()),
        };
        match done {
            Ok(()) => {
                cache.files += 1;
                cache.bytes += metadata.len();
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_unfinished(entry: &fs::DirEntry, metadata: &fs::Metadata) -> bool {
    if !entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
        return false;
    }
    let age = metadata.modified().ok().and_then(|modified| modified.elapsed().ok());
    age.is_none_or(|age| age < UNFINISHED_AGE)
}

/// A cache, and what is in it or was removed from it.
struct Cache {
    path: PathBuf,
    files: u64,
    bytes: u64,
}

/// Caches, each with its word and what it holds.
struct Listed(Vec<(&'static str, &'static str, Cache)>);

impl View for Listed {
    fn json(&self) -> Value {
        let caches: Vec<Value> = (self.0.iter())
            .map(|(word, _, cache)| {
                json!({ "cache": word, "path": cache.path.display().to_string(), "files": cache.files, "bytes": cache.bytes })
            })
            .collect();
        json!({ "caches": caches })
    }

    fn text(&self, page: &mut Page) {
        let mut table = Table::new([
            Column::fixed("CACHE"),
            Column::number("FILES"),
            Column::number("SIZE"),
            Column::text("HOLDS"),
            Column::text("DIRECTORY").if_room(),
        ]);
        for (word, holds, cache) in &self.0 {
            table.row([
                Cell::toned(*word, Tone::Strong),
                Cell::from(cache.files),
                Cell::from(files::size(cache.bytes)),
                Cell::from(*holds),
                Cell::from(cache.path.display()),
            ]);
        }
        page.table(&table, "no cache");
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|(word, ..)| (*word).to_owned()).collect()
    }
}

struct Drained(Vec<Cache>);

impl View for Drained {
    fn json(&self) -> Value {
        let paths: Vec<String> = self.names();
        let caches: Vec<Value> = (self.0.iter())
            .map(
                |cache| json!({ "path": cache.path.display().to_string(), "files": cache.files, "bytes": cache.bytes }),
            )
            .collect();
        let bytes: u64 = self.0.iter().map(|cache| cache.bytes).sum();
        json!({ "drained": paths, "bytes": bytes, "caches": caches })
    }

    fn text(&self, page: &mut Page) {
        let mut table =
            Table::new([Column::text("CACHE"), Column::number("FILES"), Column::number("REMOVED")]);
        for cache in &self.0 {
            table.row([
                Cell::from(cache.path.display()),
                Cell::from(cache.files),
                Cell::from(files::size(cache.bytes)),
            ]);
        }
        page.table(&table, "nothing to remove");
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|cache| cache.path.display().to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_and_directories_and_what_is_being_written_stay() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("blobs/sha256");
        fs::create_dir_all(&deep).unwrap();
        for name in ["a", "b", ".new-c"] {
            fs::write(deep.join(name), b"12345").unwrap();
        }
        let mut cache = Cache { path: dir.path().to_owned(), files: 0, bytes: 0 };
        walk(dir.path(), 0, &mut cache, CacheDeed::List).unwrap();
        assert_eq!((cache.files, cache.bytes), (2, 10));
        let mut cache = Cache { path: dir.path().to_owned(), files: 0, bytes: 0 };
        walk(dir.path(), 0, &mut cache, CacheDeed::Clear).unwrap();
        assert_eq!((cache.files, cache.bytes), (2, 10));
        assert!(deep.join(".new-c").exists() && !deep.join("a").exists());
        fs::File::options()
            .write(true)
            .open(deep.join(".new-c"))
            .unwrap()
            .set_modified(std::time::SystemTime::now() - UNFINISHED_AGE * 2)
            .unwrap();
        walk(dir.path(), 0, &mut cache, CacheDeed::Clear).unwrap();
        assert_eq!(fs::read_dir(&deep).unwrap().count(), 0);
        walk(&dir.path().join("none"), 0, &mut cache, CacheDeed::Clear).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_removed_and_not_what_it_leads_to() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(elsewhere.path().join("precious"), b"x").unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("link")).unwrap();
        let mut cache = Cache { path: dir.path().to_owned(), files: 0, bytes: 0 };
        walk(dir.path(), 0, &mut cache, CacheDeed::Clear).unwrap();
        assert!(elsewhere.path().join("precious").exists() && !dir.path().join("link").exists());
    }
}

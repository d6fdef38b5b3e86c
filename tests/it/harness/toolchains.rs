//! Guests of today's toolchains, built from their sources by the package clients of their
//! languages, with the versions and hashes that the sources pin. Each is built once: it is kept
//! below `target`, named by what it was built from.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use tempfile::TempDir;

use super::packages;

/// A page that counts its visitors: WASI 0.2.10 and `wasi:keyvalue`.
pub static JAVASCRIPT: Recipe = Recipe {
    root: "examples/components",
    sources: &[
        "javascript/package.json",
        "javascript/package-lock.json",
        "javascript/visitors.js",
        "wit",
    ],
    directory: "javascript",
    client: Client::Npm,
    component: "visitors.wasm",
    building: Mutex::new(()),
};

/// The same page in Python.
pub static PYTHON: Recipe = Recipe {
    root: "examples/components",
    sources: &["python/requirements.txt", "python/visitors.py", "wit"],
    directory: "python",
    client: Client::Pip(&[
        "-d",
        "../wit",
        "-w",
        "visitors",
        "componentize",
        "visitors",
        "-o",
        "visitors.wasm",
    ]),
    component: "visitors.wasm",
    building: Mutex::new(()),
};

/// WASI 0.2.3, by Spin's tools for JavaScript.
pub static SPIN_JAVASCRIPT: Recipe = Recipe {
    root: "tests/guests",
    sources: &[
        "spin-javascript/package.json",
        "spin-javascript/package-lock.json",
        "spin-javascript/hello.js",
    ],
    directory: "spin-javascript",
    client: Client::Npm,
    component: "hello.wasm",
    building: Mutex::new(()),
};

/// WASI 0.3, by Spin's SDK for Python.
pub static SPIN_PYTHON: Recipe = Recipe {
    root: "tests/guests",
    sources: &["spin-python/requirements.txt", "spin-python/app.py"],
    directory: "spin-python",
    client: Client::Pip(&[
        "-w",
        "spin:up/http-trigger@4.1.0",
        "componentize",
        "app",
        "-p",
        ".",
        "-p",
        "../packages",
        "-o",
        "app.wasm",
    ]),
    component: "app.wasm",
    building: Mutex::new(()),
};

/// How a guest is built.
pub struct Recipe {
    /// The directory in this repository below which its sources are.
    root: &'static str,
    /// Files and whole directories that the build reads.
    sources: &'static [&'static str],
    /// Where it is built.
    directory: &'static str,
    client: Client,
    /// The file that comes out, in that directory.
    component: &'static str,
    building: Mutex<()>,
}

/// The package client of a language.
#[derive(Hash)]
enum Client {
    /// Installs what the lock file says, and runs the package's script `build`.
    Npm,
    /// Installs what `requirements.txt` says into `../packages`, which keeps the packages of one
    /// guest from those of others, and runs `componentize-py` with these arguments.
    Pip(&'static [&'static str]),
}

impl Recipe {
    /// Returns the component, unsigned. Builds it if that was not done yet, which takes a minute.
    pub fn component(&self) -> Vec<u8> {
        let _one_at_a_time = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let guests = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
        let sources = self.read_sources();
        let kept = guests.join(format!("{}-{:016x}.wasm", self.directory, self.key(&sources)));
        if let Ok(component) = fs::read(&kept) {
            return component;
        }
        fs::create_dir_all(&guests).expect("a directory for guests");
        let place = place_to_build(&guests);
        for (path, content) in sources {
            let path = place.path().join(path);
            fs::create_dir_all(path.parent().expect("a file has a directory")).expect("made");
            fs::write(path, content).expect("a source is written");
        }
        let directory = place.path().join(self.directory);
        self.client.build(&directory);
        let built = directory.join(self.component);
        let component = fs::read(&built).unwrap_or_else(|error| {
            panic!("the build of {} made no {}: {error}", self.directory, self.component)
        });
        // It appears whole or not at all.
        fs::rename(built, kept).expect("the component is kept");
        component
    }

    /// The sources by their paths below the root.
    fn read_sources(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(self.root);
        let mut left: Vec<PathBuf> = self.sources.iter().map(|path| root.join(path)).collect();
        let mut sources = BTreeMap::new();
        while let Some(path) = left.pop() {
            if path.is_dir() {
                let entries = fs::read_dir(&path).expect("a directory of sources");
                left.extend(entries.map(|entry| entry.expect("an entry").path()));
                continue;
            }
            let content = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let below = path.strip_prefix(&root).expect("it is below the root").to_owned();
            sources.insert(below, content);
        }
        sources
    }

    fn key(&self, sources: &BTreeMap<PathBuf, Vec<u8>>) -> u64 {
        let mut hasher = DefaultHasher::new();
        (sources, self.directory, &self.client, self.component).hash(&mut hasher);
        hasher.finish()
    }
}

/// The beginning of the name of a directory to build in; the number of its process follows.
const PLACE_PREFIX: &str = "building-";

/// Returns a directory to build in, and removes those of processes that are gone. It is where the
/// component is kept, since a component cannot be moved in one step to another disk.
fn place_to_build(guests: &Path) -> TempDir {
    for entry in fs::read_dir(guests).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if builder_of(&name).is_some_and(|builder| !Path::new("/proc").join(builder).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let prefix = format!("{PLACE_PREFIX}{}-", std::process::id());
    let place = tempfile::Builder::new().prefix(&prefix).tempdir_in(guests);
    place.expect("a directory to build in")
}

/// Returns the number of the process that builds in a directory of this name.
fn builder_of(name: &str) -> Option<&str> {
    let builder = name.strip_prefix(PLACE_PREFIX)?.split_once('-')?.0;
    builder.parse::<u32>().is_ok().then_some(builder)
}

impl Client {
    fn build(&self, directory: &Path) {
        match self {
            Self::Npm => {
                let npm = packages::program("npm", "npm");
                let install = ["ci", "--no-audit", "--no-fund", "--loglevel=error"];
                run(Command::new(&npm).args(install).current_dir(directory));
                run(Command::new(&npm).args(["run", "build"]).current_dir(directory));
            }
            Self::Pip(arguments) => {
                packages::program("pip3", "python3-pip");
                let install = [
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                    "--no-input",
                    "--require-hashes",
                    "--target",
                    "../packages",
                    "--requirement",
                    "requirements.txt",
                ];
                run(Command::new("python3").args(install).current_dir(directory));
                let mut componentize = Command::new("python3");
                componentize.arg("../packages/bin/componentize-py").args(*arguments);
                run(componentize.env("PYTHONPATH", "../packages").current_dir(directory));
            }
        }
    }
}

fn run(command: &mut Command) {
    let ran = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        ran.status.success(),
        "{command:?} failed: {}{}",
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr)
    );
}

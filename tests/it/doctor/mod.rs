//! `host doctor`: broken situations with real servers and real hosts, and which check says what;
//! and that it keeps quiet where all is well.
//!
//! One file per family: [`local`] is files and settings, [`connections`] the way to NATS and what
//! this user may do there, [`metadata`] JetStream, [`lattice`] the hosts, and [`running`] what runs
//! on them. Each situation is a test of its own.

mod connections;
mod lattice;
mod local;
mod metadata;
mod permissions;
mod running;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    CLUSTER_SEED, Server, eventually,
    process::{command, output},
};

/// A directory with a home, as an operator sits in.
struct Desk {
    dir: TempDir,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
}

/// The report of `host doctor`.
struct Diagnosis {
    report: Value,
    code: Option<i32>,
}

impl Desk {
    fn new() -> Self {
        Self {
            dir: TempDir::new().expect("a directory"),
            arguments: Vec::new(),
            variables: Vec::new(),
        }
    }

    /// One whose settings are those of a host of the tests at this server.
    fn at(server: &Server) -> Self {
        let mut settings = json!({
            "ctl_host": server.url(), "rpc_host": server.url(), "lattice_prefix": server.lattice(),
            "cluster_seed": CLUSTER_SEED,
        });
        if let Some(domain) = server.domain() {
            settings["js_domain"] = domain.into();
        }
        let desk = Self::new();
        desk.settings(&settings);
        desk
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).expect("the file is written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode is set");
        path
    }

    /// Writes `host_config.json`.
    fn settings(&self, settings: &Value) {
        self.file("host_config.json", settings.to_string());
    }

    fn with(mut self, argument: &str, value: &str) -> Self {
        self.arguments.extend([argument.to_owned(), value.to_owned()]);
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    fn command(&self) -> Command {
        let mut command = command(self.path());
        command.args(["doctor", "-o", "json"]).args(&self.arguments);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Asks the doctor. Hosts of this process go on meanwhile.
    async fn diagnosis(&self) -> Diagnosis {
        let mut command = self.command();
        let output = tokio::task::spawn_blocking(move || output(&mut command))
            .await
            .expect("it does not panic");
        let report = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error} in {output:?}"));
        Diagnosis { report, code: output.status.code() }
    }

    /// Asks until a check says what is expected: some things take time to go wrong.
    async fn diagnosed(&self, check: &str, verdict: &str, words: &[&str]) -> Diagnosis {
        eventually(&format!("{check} says {verdict}: {words:?}"), || async {
            let diagnosis = self.diagnosis().await;
            diagnosis.finding(check, verdict, words).is_some().then_some(diagnosis)
        })
        .await
    }
}

impl Diagnosis {
    fn check(&self, name: &str) -> &Value {
        let checks = self.report["checks"].as_array().expect("checks");
        checks
            .iter()
            .find(|check| check["name"] == name)
            .unwrap_or_else(|| panic!("no check {name}"))
    }

    fn verdict(&self, check: &str) -> &str {
        self.check(check)["verdict"].as_str().expect("a verdict")
    }

    /// The finding of a check with this verdict, that has all of these words in what was seen or in
    /// what to do.
    fn finding(&self, check: &str, verdict: &str, words: &[&str]) -> Option<&Value> {
        let findings = self.check(check)["findings"].as_array()?;
        findings.iter().find(|finding| {
            let text = format!("{} {}", finding["seen"], finding["fix"]);
            finding["verdict"] == verdict && words.iter().all(|word| text.contains(word))
        })
    }

    /// Asserts that a check says so; something wrong makes the command fail, and only that.
    fn says(&self, check: &str, verdict: &str, words: &[&str]) {
        let Some(found) = self.finding(check, verdict, words) else {
            panic!("{check} does not say {verdict} with {words:?}: {:#}", self.check(check));
        };
        // Every fault comes with its remedy.
        assert_eq!(found["fix"].is_string(), matches!(verdict, "wrong" | "warning"), "{found}");
        let is_wrong = self.report["wrong"].as_u64() != Some(0);
        assert_eq!(self.code, Some(i32::from(is_wrong)), "{:#}", self.report);
    }

    /// Asserts that a check found nothing amiss.
    fn is_content(&self, check: &str) {
        assert!(
            matches!(self.verdict(check), "ok" | "note" | "skipped"),
            "{:#}",
            self.check(check)
        );
    }

    /// Asserts that nothing is amiss anywhere, and that everything was looked at. Servers of the
    /// tests let everybody in.
    fn is_healthy(&self) {
        let checks = self.report["checks"].as_array().expect("checks");
        let is_amiss = |check: &&Value| !matches!(check["verdict"].as_str(), Some("ok" | "note"));
        let amiss: Vec<_> =
            checks.iter().filter(is_amiss).filter(|check| check["name"] != "login").collect();
        assert!(amiss.is_empty() && self.code == Some(0), "{amiss:#?}");
    }

    /// Asserts that no secret is in it.
    fn hides(&self, secret: &str) {
        assert!(!self.report.to_string().contains(secret), "a secret is shown");
    }
}

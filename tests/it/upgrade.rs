//! An upgrade of one host after the other: no request is lost, and `host upgrade-check` tells
//! before what would break.
//!
//! A second version cannot be built within the time of these tests. The host that is exchanged
//! comes back as a copy of the binary under another path, and formats of earlier versions are in
//! [`formats`](crate::formats). `packaging/upgrade-test` does the same with two real binaries.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use lattice_engine::providers::builtin::httpserver;
use lattice_protocol::desired;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::interval};
use tokio_util::sync::CancellationToken;

use crate::{
    harness::{
        CLUSTER_SEED, ECHO, Server,
        client::{Caller, bucket, http_request, link},
        eventually, example,
        nats::free_port,
        process::{Process, command, member, output},
    },
    kept::{Running, actor},
};

/// The time between two requests, and between two calls.
const PACE: Duration = Duration::from_millis(20);
/// Requests that are done before the host is exchanged, and after each exchange.
const SOME: usize = 50;

/// Requests that are sent one after the other at a steady pace, in a task of their own.
struct Load {
    ends: CancellationToken,
    done: Arc<AtomicUsize>,
    task: JoinHandle<Vec<String>>,
}

impl Load {
    /// Does something again and again, until the end.
    fn of<F, R>(once: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), String>> + Send + 'static,
    {
        let (ends, done) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let (until, count) = (ends.clone(), Arc::clone(&done));
        let task = tokio::spawn(async move {
            let (mut pace, mut failures) = (interval(PACE), Vec::new());
            while !until.is_cancelled() {
                pace.tick().await;
                match once().await {
                    Ok(()) => _ = count.fetch_add(1, Ordering::Relaxed),
                    Err(failure) => failures.push(failure),
                }
            }
            failures
        });
        Self { ends, done, task }
    }

    /// Waits until some more were done.
    async fn goes_on(&self) {
        let before = self.done.load(Ordering::Relaxed);
        eventually("the load goes on", async || {
            (self.done.load(Ordering::Relaxed) >= before + SOME).then_some(())
        })
        .await;
    }

    /// Ends it and asserts that nothing failed.
    async fn proves_unharmed(self, what: &str) {
        self.ends.cancel();
        let failures = self.task.await.expect("it does not panic");
        assert!(failures.is_empty(), "{} {what} failed: {}", failures.len(), failures[0]);
    }
}

/// Asks a page.
fn requests(url: &str) -> Load {
    let (http, url) = (reqwest::Client::builder().no_proxy().build().unwrap(), url.to_owned());
    Load::of(move || {
        let request = http.get(&url).timeout(Duration::from_secs(10));
        async move {
            let answer = request.send().await.map_err(|error| format!("{error:?}"))?;
            let status = answer.status();
            match status.is_success() {
                true => Ok(()),
                false => Err(format!("{status}: {:?}", answer.text().await)),
            }
        }
    })
}

/// Calls the actor over NATS, on whatever host takes the call.
async fn calls(server: &Server) -> Load {
    let caller = Arc::new(Caller::new(server).await);
    Load::of(move || {
        let caller = Arc::clone(&caller);
        async move {
            let request = http_request("GET", "/", b"");
            caller.call(ECHO, "HttpServer.HandleRequest", request).await.map(drop)
        }
    })
}

/// Copies the binary to another path, as an installation of another version would lie there.
fn other_binary(dir: &Path) -> PathBuf {
    let (binary, copy) = (env!("CARGO_BIN_EXE_host"), dir.join("host-of-another-version"));
    // It is large; a second name is a copy as well.
    if fs::hard_link(binary, &copy).is_err() {
        fs::copy(binary, &copy).expect("the binary is copied");
    }
    copy
}

/// Returns the same command with another program.
fn with_program(program: &Path, command: &Command) -> Command {
    let mut other = Command::new(program);
    other.args(command.get_args()).env_clear();
    other.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    other.current_dir(command.get_current_dir().expect("a directory"));
    other
}

/// Starts the actor on a host.
async fn runs_echo(server: &Server, host: &Running) {
    let body = json!({ "actor_ref": example("echo"), "count": 20 });
    host.accepted(server, "scale", body).await;
    host.comes_to(server, &[actor(&example("echo"), 20)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_comes_back_as_another_binary_costs_no_request() {
    let server = Server::shared().await;
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let binaries = TempDir::new().unwrap();
    let other = other_binary(binaries.path());
    let stays = Running::start(&server, dirs[0].path(), &[]);
    let mut changes = Running::start(&server, dirs[1].path(), &[]);
    let id = changes.id.clone();
    runs_echo(&server, &stays).await;
    runs_echo(&server, &changes).await;
    let provider = json!({ "provider_ref": "builtin://httpserver", "link_name": "default" });
    stays.accepted(&server, "lp", provider).await;
    let address = format!("127.0.0.1:{}", free_port());
    let known = &httpserver::SPEC.known;
    link(&server, ECHO, known.public_key, known.contract_id, &[("address", &address)]).await;
    let url = format!("http://{address}/");
    eventually("the page listens", || async { reqwest::get(&url).await.ok() }).await;

    let loads = [requests(&url), calls(&server).await];
    loads[0].goes_on().await;
    loads[1].goes_on().await;
    // There, and back again.
    for program in [other.as_path(), Path::new(env!("CARGO_BIN_EXE_host"))] {
        changes.stop();
        let mut next = with_program(program, &member(dirs[1].path(), &server));
        changes = Running::ready(Process::start(&mut next));
        assert_eq!(changes.id, id, "the directory keeps the identity");
        changes.comes_to(&server, &[actor(&example("echo"), 20)]).await;
        loads[0].goes_on().await;
        loads[1].goes_on().await;
    }
    let [of_page, of_nats] = loads;
    of_page.proves_unharmed("requests to the page").await;
    of_nats.proves_unharmed("calls over NATS").await;
    changes.stop();
    stays.stop();
}

/// Asks a binary whether it could take over; returns the report and the exit code.
async fn checked(dir: &Path, flags: &[&str]) -> (Value, Option<i32>) {
    let mut command = command(dir);
    command.args(["upgrade-check", "-o", "json"]).args(flags);
    let output = tokio::task::spawn_blocking(move || output(&mut command)).await.unwrap();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error} in {output:?}"));
    (report, output.status.code())
}

/// Writes the settings of a directory in which the command is given.
fn settings(dir: &Path, server: &Server, more: &Value) {
    let mut settings = json!({
        "ctl_host": server.url(), "rpc_host": server.url(), "lattice_prefix": server.lattice(),
        "cluster_seed": CLUSTER_SEED, "js_domain": server.domain(),
    });
    let more = more.as_object().expect("settings").clone();
    settings.as_object_mut().expect("settings").extend(more);
    let path = dir.join("host_config.json");
    fs::write(&path, settings.to_string()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Returns the finding of a check that is the worst.
fn worst<'a>(report: &'a Value, check: &str) -> &'a Value {
    let mut checks = report["checks"].as_array().expect("checks").iter();
    let found = checks.find(|found| found["name"] == check);
    &found.unwrap_or_else(|| panic!("no check {check} in {report:#}"))["findings"][0]
}

fn is_so(report: &Value, check: &str, verdict: &str, words: &[&str]) {
    let found = worst(report, check);
    let text = found.to_string();
    assert_eq!(found["verdict"], verdict, "{check}: {report:#}");
    assert!(words.iter().all(|word| text.contains(word)), "{check}: {words:?} in {text}");
}

#[tokio::test]
async fn before_an_upgrade_it_is_told_what_would_break() {
    let server = Server::shared().await;
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let desk = TempDir::new().unwrap();
    settings(desk.path(), &server, &json!({}));
    let first = Running::start(&server, dirs[0].path(), &[]);
    runs_echo(&server, &first).await;

    let (report, code) = checked(desk.path(), &[]).await;
    assert_eq!((code, &report["success"]), (Some(0), &json!(true)), "{report:#}");
    is_so(&report, "replicas", "warning", &["echo", "second host"]);
    let (report, code) = checked(desk.path(), &["--strict"]).await;
    assert_eq!((code, &report["success"]), (Some(1), &json!(false)), "{report:#}");

    let second = Running::start(&server, dirs[1].path(), &[]);
    runs_echo(&server, &second).await;
    let (report, code) = checked(desk.path(), &["--strict"]).await;
    assert_eq!((code, &report["success"]), (Some(0), &json!(true)), "{report:#}");
    is_so(&report, "replicas", "ok", &["lose no request"]);
    is_so(&report, "entries", "ok", &["can read all"]);
    is_so(&report, "versions", "ok", &["all 2 hosts"]);
    let hosts: Vec<&Value> = report["hosts"].as_array().unwrap().iter().collect();
    assert!(hosts.len() == 2 && hosts.iter().all(|host| host["actors"] == 1), "{report:#}");
    let stored = report["stored"].as_array().unwrap();
    let place = desired::bucket(server.lattice());
    let kept = stored.iter().find(|kind| kind["place"] == *place && kind["kind"] == "kept starts");
    assert_eq!(kept.expect("kept starts")["entries"], 2, "{report:#}");

    // An entry of a later version, and a setting that nobody knows.
    bucket(&server).await.put("LINKDEF_0A", "{\"of\":\"later\"}".into()).await.unwrap();
    settings(desk.path(), &server, &json!({ "warp_speed": 9 }));
    let (report, code) = checked(desk.path(), &[]).await;
    assert_eq!(code, Some(1), "{report:#}");
    is_so(&report, "entries", "wrong", &["1 of", "links", "LINKDEF_0A"]);
    is_so(&report, "settings", "warning", &["warp_speed"]);
    first.stop();
    second.stop();
}

#[tokio::test]
async fn where_nothing_can_be_checked_nothing_is_said_to_break() {
    let dir = TempDir::new().unwrap();
    let port = free_port().to_string();
    let (report, code) =
        checked(dir.path(), &["--ctl-host", "127.0.0.1", "--ctl-port", &port]).await;
    assert_eq!(code, Some(3), "{report:#}");
    assert_eq!((&report["success"], &report["wrong"]), (&json!(false), &json!(0)), "{report:#}");
    assert!(report["unchecked"].to_string().contains("no connection"), "{report:#}");
    is_so(&report, "nats-ctl", "skipped", &["nobody listens", &port]);
}

//! The files of a host: the audit log, with a line for each command, its sender and its outcome and
//! no secret, and the log.

use std::path::Path;

use async_nats::{Client, HeaderMap};
use lattice_engine::providers::builtin::httpserver;
use lattice_protocol::history::ORIGIN_HEADER;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    ECHO, PONGER, Server, client, eventually, example, host,
    process::{Process, command, member, output, stderr},
    text,
};

const SECRET: &str = "hunter2";
const ORIGIN: &str = r#"{"kind":"cli","who":"ann@laptop","nats_user":"UANN"}"#;

/// Sends a command that says who sends it, and waits for the answer.
async fn send(nats: &Client, subject: &str, body: &Value) -> Value {
    let mut headers = HeaderMap::new();
    headers.insert(ORIGIN_HEADER, ORIGIN);
    let body = body.to_string();
    let answer = nats.request_with_headers(subject.to_owned(), headers, body.into()).await;
    serde_json::from_slice(&answer.expect("an answer").payload).expect("JSON")
}

/// Returns the lines of a file, once there are so many.
async fn lines(path: &Path, count: usize) -> Vec<Value> {
    eventually("the lines are written", async || {
        let written = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<Value> =
            written.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (lines.len() >= count).then_some(lines)
    })
    .await
}

/// Returns verb and outcome of each line.
fn told(lines: &[Value]) -> Vec<(&str, &str)> {
    let told = lines.iter().map(|line| (text(line, "/verb"), text(line, "/outcome")));
    told.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_of_the_walk_is_one_line_with_its_outcome_and_without_secrets() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let path = dir.path().join("audit.jsonl");
    let mut host = host(&server).set("audit_log", &path.display().to_string()).start().await;
    client::start(&server, &host, &example("echo"), 2).await;
    client::start_provider(&server, &host, "builtin://httpserver").await;
    let known = httpserver::SPEC.known;
    let link = |values: Value| {
        json!({"actor_id": ECHO, "provider_id": known.public_key, "contract_id": known.contract_id,
            "link_name": "default", "values": values})
    };
    let of_host = |verb: &str| server.ctl(format!("cmd.{}.{verb}", host.id));
    let label = |verb: &str| server.ctl(format!("labels.{}.{verb}", host.id));
    let login = json!({"registry.example": {"username": "me", "password": SECRET}});
    let zone = json!({"key": "zone", "value": "b"});
    let malformed = json!({"provider_ref": "builtin://httpserver", "annotations": SECRET});
    let missing = json!({"actor_ref": "file:///none.wasm", "count": 1});
    let walk = [
        (server.ctl("registries.put"), login, ("registry credentials", "accepted")),
        (
            server.ctl("linkdefs.put"),
            link(json!({"address": "127.0.0.1:0"})),
            ("link put", "accepted"),
        ),
        (server.ctl("linkdefs.put"), link(json!({"passwort": SECRET})), ("link put", "refused")),
        (label("put"), zone.clone(), ("label put", "accepted")),
        (
            of_host("scale"),
            json!({"actor_ref": example("echo"), "count": 5}),
            ("scale actor", "accepted"),
        ),
        (of_host("lp"), malformed, ("start provider", "refused")),
        (of_host("sa"), json!({"actor_ref": PONGER}), ("stop actor", "refused")),
        (label("del"), zone, ("label del", "accepted")),
        (
            server.ctl(format!("config.put.{ECHO}.password")),
            json!(SECRET),
            ("config put", "accepted"),
        ),
        (server.ctl("linkdefs.del"), link(json!({})), ("link del", "accepted")),
        (of_host("sp"), json!({"provider_ref": known.public_key}), ("stop provider", "accepted")),
        (of_host("sa"), json!({"actor_ref": ECHO}), ("stop actor", "accepted")),
        (of_host("scale"), missing, ("scale actor", "accepted")),
    ];
    let nats = client::nats(&server).await;
    let mut expected = vec![("scale actor", "accepted"), ("start provider", "accepted")];
    for (subject, body, (verb, outcome)) in &walk {
        // Questions are no commands.
        send(&nats, &server.ctl("get.links"), &json!({})).await;
        let answer = send(&nats, subject, body).await;
        assert_eq!(answer["accepted"], json!(*outcome == "accepted"), "{verb}: {answer}");
        expected.push((*verb, *outcome));
    }
    // The file of the last actor is not there, which turns out after the command was taken.
    expected.push(("scale actor", "failed"));
    lines(&path, expected.len()).await;
    send(&nats, &of_host("stop"), &json!({})).await;
    expected.push(("stop host", "accepted"));
    host.stop_requested().await;

    let noted = lines(&path, expected.len()).await;
    assert_eq!(told(&noted), expected);
    for line in &noted {
        assert_eq!(
            (&line["host_id"], &line["lattice"]),
            (&json!(host.id), &json!(server.lattice()))
        );
        assert!(line["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
        let is_refused = line["outcome"] != "accepted";
        assert_eq!(line["reason"].as_str().is_some(), is_refused, "{line}");
    }
    // Those of a client of 2024 say nothing of their sender.
    assert_eq!(
        (&noted[0]["who"], &noted[2]["who"]),
        (&json!("unknown"), &json!("ann@laptop (NATS user UANN)"))
    );
    // The failure is that of the command before it.
    let [.., taken, failed, _] = noted.as_slice() else { panic!("{noted:?}") };
    assert!(failed["id"].is_string(), "{failed}");
    assert_eq!((&failed["id"], &failed["who"]), (&taken["id"], &taken["who"]));
    assert_eq!(noted[3]["object"]["contract_id"], known.contract_id);
    assert_eq!(noted[5]["object"]["value"], "b");
    assert_eq!(noted[7]["object"]["annotations"], Value::Null);
    let whole = std::fs::read_to_string(&path).unwrap();
    for secret in [SECRET, "127.0.0.1:0", "registry.example"] {
        assert!(!whole.contains(secret), "{secret} in {whole}");
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_goes_to_its_file_from_the_first_line_to_the_last() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let mut command = member(dir.path(), &server);
    command.args(["--log-file", "host.log", "--audit-log", "stderr"]);
    let mut process = Process::start(&mut command);
    let path = dir.path().join("host.log");
    eventually("the host is ready", async || {
        std::fs::read_to_string(&path).ok()?.contains("[info] ready").then_some(())
    })
    .await;
    // The log has its file, and standard error is for commands alone.
    let nats = client::nats(&server).await;
    let nobody = json!({"actor_id": ECHO, "contract_id": "a:b", "link_name": "default"});
    send(&nats, &server.ctl("linkdefs.del"), &nobody).await;
    let line = process.json("the command");
    assert_eq!((&line["verb"], &line["outcome"]), (&json!("link del"), &json!("accepted")));
    process.signal(Signal::TERM);
    assert_eq!(process.exit_code(), Some(0));
    let log = std::fs::read_to_string(&path).unwrap();
    assert!(log.contains("stopped."), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_cannot_note_its_commands_does_not_start_and_one_without_a_log_does() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let mut command = member(dir.path(), &server);
    let refused = output(command.args(["--audit-log", "none/audit.jsonl"]));
    let said = stderr(&refused);
    assert_eq!(refused.status.code(), Some(64), "{said}");
    assert!(said.contains("audit_log") && said.contains("none/audit.jsonl"), "{said}");
    assert!(said.contains("make the directory ./none"), "{said}");
    let mut command = member(dir.path(), &server);
    let mut process = Process::start(command.args(["--log-file", "none/host.log"]));
    let told = process.line("the log goes to standard error");
    assert!(told.contains("none/host.log"), "{told}");
    assert!(told.contains("make the directory ./none"), "{told}");
    process.line("ready");
}

#[test]
fn one_file_for_the_log_and_the_audit_log_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    std::os::unix::fs::symlink("host.log", dir.path().join("link.log")).unwrap();
    for audit in ["host.log", "./host.log", "link.log", "host.log.1"] {
        let mut foreground = command(dir.path());
        foreground.args(["foreground", "--log-file", "host.log", "--audit-log", audit]);
        let refused = output(&mut foreground);
        let said = stderr(&refused);
        assert_eq!(refused.status.code(), Some(64), "{audit}: {said}");
        for part in ["audit_log (flag --audit-log)", audit, "log_file"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    assert!(!dir.path().join("host.log").exists(), "nothing was begun");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_is_told_in_the_file_of_the_log_and_on_standard_error() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let mut member = member(dir.path(), &server);
    member.args(["--log-file", "host.log", "--audit-log", "none/audit.jsonl"]);
    let failed = output(&mut member);
    let log = std::fs::read_to_string(dir.path().join("host.log")).unwrap();
    for said in [stderr(&failed), log] {
        let line = said.lines().find(|line| line.contains("[error]")).unwrap_or_default();
        assert!(line.contains("none/audit.jsonl"), "{said}");
    }
    assert!(stderr(&failed).contains("host.log"), "it names the log");
}

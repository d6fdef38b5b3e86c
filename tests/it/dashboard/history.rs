//! The history as dashboards show it: the same on every host.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use super::{Dashboard, start};
use lattice_protocol::history::{Kind, Said};

use crate::harness::{
    ECHO, Server, client, eventually, example,
    process::{Process, command_in, member},
};

/// The ids of the events that are listed.
fn ids(events: &Value) -> BTreeSet<String> {
    let items = events["items"].as_array().into_iter().flatten();
    items.filter_map(|event| event["id"].as_str()).map(str::to_owned).collect()
}

fn names(events: &Value) -> Vec<String> {
    let items = events["items"].as_array().into_iter().flatten();
    items.filter_map(|event| event["name"].as_str()).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_hosts_page_has_the_same_events_and_commands_after_a_host_is_gone() {
    let server = Server::shared().await;
    let first = Dashboard::start(&server).await;
    let id = first.host.id.clone();
    first.done(Method::POST, "/actors", start(&example("echo"), Some(&id))).await;
    let scaled = json!({ "host_id": id, "max": 5 });
    first.done(Method::POST, &format!("/actors/{ECHO}/scale"), scaled).await;
    let (before, commands) = tokio::join!(
        first.until("/events", |events| {
            let scaled = names(events).iter().filter(|name| *name == "actor_scaled").count();
            (scaled >= 2).then(|| ids(events))
        }),
        first.until("/audit", |audit| (audit["items"].as_array()?.len() >= 2)
            .then(|| audit.clone())),
    );
    let command = &commands["items"][0];
    assert_eq!(
        (&command["verb"], &command["outcome"]),
        (&json!("scale actor"), &json!("accepted"))
    );
    assert_eq!((&command["origin"], &command["from"]), (&json!("dashboard"), &json!("127.0.0.1")));
    // It knows nothing of what was before but by the history.
    let second = Dashboard::start(&server).await;
    first.host.stop().await;
    second
        .until("/events", |events| {
            let stopped = names(events).iter().any(|name| name == "host_stopped");
            (stopped && ids(events).is_superset(&before)).then_some(())
        })
        .await;
    second.until("/audit", |audit| (ids(audit).is_superset(&ids(&commands))).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_host_leaves_its_loss_and_the_last_lines_of_its_actors() {
    let server = Server::shared().await;
    let watching = Dashboard::start(&server).await;
    let dir = tempfile::TempDir::new().unwrap();
    let mut doomed = Process::start(&mut member(dir.path(), &server));
    doomed.line("ready");
    let doomed_id = watching
        .until("/hosts", |hosts| {
            let hosts = hosts["items"].as_array()?;
            let other = hosts.iter().find(|host| host["id"] != json!(watching.host.id))?;
            Some(other["id"].as_str()?.to_owned())
        })
        .await;
    watching.done(Method::POST, "/actors", start(&example("echo"), Some(&doomed_id))).await;
    let logs = format!("/actors/{ECHO}/logs");
    let lines = |logs: &Value| {
        let items = logs["items"].as_array().cloned().unwrap_or_default();
        items.into_iter().filter(|line| line["host_id"] == json!(doomed_id)).count()
    };
    watching.until(&logs, |logs| (lines(logs) > 0).then_some(())).await;
    watching
        .until("/events?name=actor_scaled", |events| (!names(events).is_empty()).then_some(()))
        .await;
    let history = crate::history::reader(&server).await;
    eventually("its lines are written", async || {
        let said = crate::history::read::<Said>(&history, Kind::Logs).await;
        said.iter().any(|kept| kept.host_id == doomed_id).then_some(())
    })
    .await;
    // It is killed.
    drop(doomed);
    watching
        .until("/events", |events| {
            let lost = names(events).iter().filter(|name| *name == "host_lost").count();
            assert!(lost <= 1, "a loss is told once: {events:#}");
            (lost == 1).then_some(())
        })
        .await;
    watching.until(&logs, |logs| (lines(logs) > 0).then_some(())).await;
    let mut command = command_in(dir.path(), &server);
    command.args(["events", "--since", "1h", "-o", "json", "--ctl-host", &server.url()]);
    command.args(["--js-domain", "core"]);
    let output = command.output().expect("host runs");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let lost: Vec<Value> = printed
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|event| event["name"] == "host_lost")
        .collect();
    assert_eq!(lost.len(), 1, "{printed} {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(lost[0]["host_id"], json!(doomed_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_of_ranges_have_gaps_and_marks() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let id = dashboard.host.id.clone();
    client::start(&server, &dashboard.host, &example("echo"), 1).await;
    let chart = format!("/history/rates?of=actor&id={ECHO}&range=15m");
    let figures = dashboard
        .until(&chart, |figures| {
            let marks = figures["marks"].as_array()?;
            let started = marks.iter().any(|mark| mark["kind"] == "start");
            started.then(|| figures.clone())
        })
        .await;
    assert_eq!(figures["step_ms"], 60_000);
    let calls = figures["calls"].as_array().unwrap();
    assert!((14..=16).contains(&calls.len()), "{figures}");
    // Nobody was there a quarter of an hour ago.
    assert!(calls[0].is_null() && figures["p99_us"][0].is_null(), "{figures}");
    assert_eq!(figures["keeping"]["is_kept"], true);
    for wrong in ["of=actor", "of=nobody&id=x", "of=lattice&range=1y"] {
        let (status, body) =
            dashboard.send(Method::GET, &format!("/history/rates?{wrong}"), None).await;
        assert_eq!(status, reqwest::StatusCode::UNPROCESSABLE_ENTITY, "{wrong}: {body}");
    }
    let of_host = dashboard.get(&format!("/history/rates?of=host&id={id}&range=24h")).await;
    assert_eq!(of_host["calls"].as_array().map(Vec::len).map(|n| n / 10), Some(144), "{of_host}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_logged_in_does_not_read_who_did_what() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let id = dashboard.host.id.clone();
    dashboard.done(Method::POST, "/actors", start(&example("echo"), Some(&id))).await;
    dashboard.until("/audit", |audit| (!audit["items"].as_array()?.is_empty()).then_some(())).await;
    let seen: Value = dashboard
        .without_login()
        .get(dashboard.at("/audit"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let command = &seen["items"][0];
    assert_eq!(command["verb"], "scale actor");
    assert_ne!(command["from"], "127.0.0.1");
    let found: Value = dashboard
        .without_login()
        .get(dashboard.at("/audit?q=127.0.0.1"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(found["items"], json!([]), "a search tells nothing either");
}

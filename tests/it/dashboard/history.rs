//! The history as dashboards show it: the same on every host.

use std::collections::BTreeSet;

use lattice_protocol::{
    clock,
    history::{
        Audit, Kind, Minute, Said,
        figures::{MINUTE_MS, Row},
    },
    meter::Tally,
};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Dashboard, start};
use crate::harness::{
    CLUSTER_SEED, ECHO, Server,
    client::{self, ctl_2024},
    eventually, example,
    nats::free_port,
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
async fn the_pages_of_others_tell_the_same_after_the_host_of_a_page_was_killed() {
    let server = Server::shared().await;
    let dir = TempDir::new().unwrap();
    let port = free_port();
    let mut command = member(dir.path(), &server);
    let mut doomed = Process::start(command.env("WASMCLOUD_DASHBOARD_PORT", port.to_string()));
    doomed.line("ready");
    let doomed_id = ctl_2024(&server).await.get_hosts().await.unwrap().remove(0).id;
    let (second, third) = (Dashboard::start(&server).await, Dashboard::start(&server).await);
    second.done(Method::POST, "/actors", start(&example("echo"), Some(&doomed_id))).await;
    let scaled = json!({ "host_id": doomed_id, "max": 5 });
    second.done(Method::POST, &format!("/actors/{ECHO}/scale"), scaled).await;
    let history = crate::history::reader(&server).await;
    eventually("both commands are written", async || {
        let kept = crate::history::read::<Audit>(&history, Kind::Audit).await;
        (kept.len() >= 2).then_some(())
    })
    .await;
    let page = format!("http://127.0.0.1:{port}/api/v1");
    let seen = async |path: &str| -> Value {
        let answer = reqwest::get(format!("{page}{path}")).await.expect("an answer");
        answer.json().await.expect("JSON")
    };
    let (events, commands) = (seen("/events").await, seen("/audit").await);
    assert!(names(&events).iter().filter(|name| *name == "actor_scaled").count() >= 2);
    assert!(commands["items"].as_array().is_some_and(|items| items.len() >= 2), "{commands}");
    doomed.signal(Signal::KILL);
    for page in [&second, &third] {
        page.until("/events", |told| {
            let is_told = names(told).iter().any(|name| name == "host_lost");
            (is_told && ids(told).is_superset(&ids(&events))).then_some(())
        })
        .await;
        page.until("/audit", |told| ids(told).is_superset(&ids(&commands)).then_some(())).await;
    }
    let command = &second.get("/audit").await["items"][0];
    assert_eq!(
        (&command["verb"], &command["outcome"]),
        (&json!("scale actor"), &json!("accepted"))
    );
    assert_eq!((&command["origin"], &command["from"]), (&json!("dashboard"), &json!("127.0.0.1")));
    // A host that comes later knows nothing of what was before but by the history.
    let fourth = Dashboard::start(&server).await;
    fourth.until("/events", |told| ids(told).is_superset(&ids(&events)).then_some(())).await;
    let stopped_id = json!(third.host.id);
    third.host.stop().await;
    second
        .until("/events", |told| {
            let mut items = told["items"].as_array()?.iter();
            let is_told = items
                .any(|event| event["name"] == "host_stopped" && event["host_id"] == stopped_id);
            is_told.then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_host_leaves_its_loss_and_the_last_lines_of_its_actors() {
    let server = Server::shared().await;
    let watching = Dashboard::start(&server).await;
    let dir = TempDir::new().unwrap();
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
    dashboard.until("/events", |told| (told["keeping"]["is_kept"] == true).then_some(())).await;
    // A host that is gone served calls five minutes ago and three; nobody counted in between.
    let now = clock::now_ms();
    let minute = |ago: u64, calls: u64| {
        let tally = Tally { calls, ..Tally::default() };
        let served = vec![Row { id: ECHO.to_owned(), link_name: String::new(), tally }];
        let end_ms = (now / MINUTE_MS - ago) * MINUTE_MS;
        Minute { end_ms, counted_ms: MINUTE_MS, served, called: Vec::new() }
    };
    let gone = format!("N{}", "A".repeat(55));
    let minutes = vec![minute(5, 120), minute(3, 60)];
    crate::history::keep(&server, CLUSTER_SEED, Kind::Figures, (&gone, &gone), minutes).await;
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
    let end_ms = figures["end_ms"].as_u64().unwrap();
    let at = |ago: u64| {
        let steps = end_ms.saturating_sub((now / MINUTE_MS - ago) * MINUTE_MS) / MINUTE_MS;
        &calls[calls.len() - 1 - usize::try_from(steps).unwrap()]
    };
    assert_eq!((at(5), at(4), at(3)), (&json!(2.0), &Value::Null, &json!(1.0)), "{figures}");
    let other = Dashboard::start(&server).await;
    other
        .until(&chart, |told| {
            let theirs = told["calls"].as_array()?;
            let same = |ago: u64| theirs.iter().any(|rate| rate == at(ago));
            (same(5) && same(3)).then_some(())
        })
        .await;
    // Nobody was there a quarter of an hour ago.
    assert!(calls[0].is_null() && figures["p99_us"][0].is_null(), "{figures}");
    assert_eq!(figures["keeping"]["is_kept"], true);
    for wrong in ["of=actor", "of=nobody&id=x", "of=lattice&range=1y"] {
        let (status, body) =
            dashboard.send(Method::GET, &format!("/history/rates?{wrong}"), None).await;
        assert_eq!(status, reqwest::StatusCode::UNPROCESSABLE_ENTITY, "{wrong}: {body}");
    }
    let of_host = dashboard.get(&format!("/history/rates?of=host&id={id}&range=24h")).await;
    // The last minute counts as soon as it is told.
    let minutes = of_host["calls"].as_array().map_or(0, Vec::len);
    assert!((1439..=1441).contains(&minutes), "{minutes}: {of_host}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_logged_in_does_not_read_who_did_what() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let id = dashboard.host.id.clone();
    dashboard.done(Method::POST, "/actors", start(&example("echo"), Some(&id))).await;
    dashboard.until("/audit", |audit| (!audit["items"].as_array()?.is_empty()).then_some(())).await;
    let seen = dashboard.get_as_guest("/audit").await;
    let command = &seen["items"][0];
    assert_eq!(command["verb"], "scale actor");
    assert_eq!(command["from"], "(log in to read it)");
    let found = dashboard.get_as_guest("/audit?q=127.0.0.1").await;
    assert_eq!(found["items"], json!([]), "a search tells nothing either");
}

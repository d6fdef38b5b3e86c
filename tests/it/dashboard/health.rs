//! Health checks and metrics.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Dashboard, start};
use crate::harness::{ECHO, Server, eventually, example};

async fn check(dashboard: &Dashboard, path: &str) -> (StatusCode, Value) {
    let answer = reqwest::get(dashboard.url.join(path).unwrap()).await.expect("an answer");
    (answer.status(), answer.json().await.expect("JSON"))
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_nats_server_and_liveness_does_not() {
    let server = Server::start().await;
    let dashboard = Dashboard::start(&server).await;
    for (path, member) in [
        ("/healthz", "live"),
        ("/api/livez", "live"),
        ("/readyz", "ready"),
        ("/api/readyz", "ready"),
    ] {
        let (status, body) = check(&dashboard, path).await;
        assert_eq!((status, &body[member]), (StatusCode::OK, &json!(true)), "{path}: {body}");
    }
    // Frozen, it holds its connections and answers nothing.
    server.freeze().await;
    let began = Instant::now();
    let (status, body) = check(&dashboard, "/readyz").await;
    assert_eq!(
        (status, &body["ready"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!(false)),
        "{body}"
    );
    assert!(began.elapsed() < Duration::from_secs(5), "it must not hang with the server");
    let why = body["checks"][0]["why"].as_str().unwrap();
    assert!(why.contains("NATS server does not answer"), "{why}");
    assert_eq!(check(&dashboard, "/healthz").await.0, StatusCode::OK);
    server.thaw();
    eventually("the host is ready again", || async {
        (check(&dashboard, "/readyz").await.0 == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_stops_says_so_in_the_stream_before_that_ends() {
    let server = Server::start().await;
    let dashboard = Dashboard::start(&server).await;
    let (id, stream) = (dashboard.host.id.clone(), dashboard.at("/stream"));
    let mut answer = dashboard.without_login().get(stream).send().await.expect("a stream");
    let mut told = String::new();
    while !told.contains("event: change") {
        let piece = answer.chunk().await.expect("a piece").expect("it goes on");
        told.push_str(&String::from_utf8_lossy(&piece));
    }
    assert!(told.contains("\"state\":\"running\""), "{told}");
    let stopping = tokio::spawn(dashboard.host.stop());
    while let Ok(Some(piece)) = answer.chunk().await {
        told.push_str(&String::from_utf8_lossy(&piece));
    }
    let after = told.split("event: stopping").nth(1).unwrap_or_else(|| panic!("{told}"));
    assert!(after.contains(&id) && after.contains("since_ms"), "{told}");
    stopping.await.expect("it stops");
}

const OPENMETRICS: &str = "application/openmetrics-text";

/// The numbers of a host for a reader that accepts this: their type, and the text.
async fn metrics(dashboard: &Dashboard, accepts: &str) -> (String, String) {
    let request = reqwest::Client::new().get(dashboard.url.join("/metrics").unwrap());
    let answer = request.header("accept", accepts).send().await.expect("an answer");
    let kind = answer.headers()["content-type"].to_str().expect("a text").to_owned();
    (kind, answer.text().await.expect("a text"))
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_of_this_host() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    dashboard.done(Method::POST, "/actors", start(&example("echo"), None)).await;
    let call = json!({ "actor_id": ECHO, "operation": "No.Such\"Operation", "payload": {} });
    dashboard.send(Method::POST, "/call", Some(call)).await;
    let (kind, plain) = metrics(&dashboard, "*/*").await;
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    for line in ["# TYPE lattice_host_info gauge", "# TYPE lattice_provider_restarts_total counter"]
    {
        assert!(plain.contains(line), "{line} in {plain}");
    }
    let (kind, text) = metrics(&dashboard, OPENMETRICS).await;
    assert!(kind.starts_with(OPENMETRICS), "{kind}");
    assert!(text.ends_with("# EOF\n") && !plain.contains("# EOF"), "{text}");
    for line in [
        "lattice_host_info{",
        "lattice_invocations_total{target=\"MBA7",
        "operation=\"No.Such\\\"Operation\"",
        "lattice_invocation_duration_seconds_bucket{le=\"+Inf\"",
        "lattice_actor_permits{actor=\"MBA7",
        "lattice_actor_queue_depth{actor=\"MBA7",
        "lattice_instance_pool_slots{state=\"free\"}",
        "lattice_component_pool_slots{state=\"running\"} 0",
        "lattice_component_pool_bytes{state=\"used\"} 0",
        "lattice_module_compile_duration_seconds_count 1",
        "lattice_nats_round_trip_seconds{connection=\"ctl\"}",
        "lattice_nats_reconnects_total{connection=\"rpc\"} 0",
        "lattice_store_lag_seconds 0",
        "lattice_store_entries{kind=\"claims\"}",
        "# TYPE lattice_provider_restarts counter",
        "lattice_tokens_refused_total{reason=\"repeated\"} 0",
        "lattice_messages_refused_total{kind=\"call\"} 0",
        "lattice_log_lines_lost_total{log=\"log\"} 0",
        "lattice_telemetry_lost_total{signal=\"traces\"} 0",
        "lattice_history_left_out_total 0",
        "# TYPE lattice_links_refused gauge",
        "# TYPE lattice_applications gauge",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

/// The names of metrics in a text, as those who scrape a host see them.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("lattice_")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn dashboards_and_alerts_ask_for_metrics_that_there_are() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let (_, text) = metrics(&dashboard, OPENMETRICS).await;
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let served: BTreeSet<String> = types
        .filter_map(|line| line.split_once(' '))
        .flat_map(|(name, kind)| {
            let endings: &[&str] = match kind {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                "info" => &["_info"],
                _ => &[""],
            };
            endings.iter().map(move |ending| format!("{name}{ending}"))
        })
        .collect();
    let wanted = [
        include_str!("../../../packaging/grafana/host.json"),
        include_str!("../../../packaging/prometheus/alerts.yml"),
    ];
    for name in wanted.into_iter().flat_map(named) {
        assert!(served.contains(name), "{name} in {served:#?}");
    }
}

//! Health checks, for those who watch over this process: a service manager, a load balancer, a person with curl.
//!
//! `/healthz` says that the process answers. `/readyz` says that the host does its work: both connections pass messages to the
//! NATS server and back, the lattice's metadata is known, the server forbade no subscription, and the host neither stops nor
//! wakes from a pause. Why not is told to whoever may read. It answers within
//! two seconds, whatever hangs. Under `/api/livez` and `/api/readyz` are the forms of 2022.

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;

use super::{
    Dashboard,
    door::{Access, Reading},
};
use crate::lattice::connection::{Nats, confirm};

/// How long the NATS server may take for a message there and back.
const ROUND_TRIP: Duration = Duration::from_secs(1);

/// One thing that has to be well.
#[derive(Debug, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl Check {
    fn of(name: &'static str, outcome: Result<(), String>) -> Self {
        Self { name, ok: outcome.is_ok(), why: outcome.err() }
    }
}

/// `GET /healthz`, `GET /api/livez`
pub async fn live() -> Response {
    Json(json!({ "live": true })).into_response()
}

/// `GET /readyz`, `GET /api/readyz`
pub async fn ready(State(dashboard): State<Dashboard>, Extension(access): Extension<Access>) -> Response {
    let mut checks = checks(&dashboard).await;
    if access == Access::Reader && dashboard.door().reading() == Reading::Closed {
        // Everybody may ask whether, and whoever may read finds out why.
        checks.iter_mut().for_each(|check| check.why = None);
    }
    let ready = checks.iter().all(|check| check.ok);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready, "checks": checks }))).into_response()
}

async fn checks(dashboard: &Dashboard) -> [Check; 5] {
    let parts = dashboard.parts();
    let (ctl, rpc) = tokio::join!(passes(&parts.ctl), passes(&parts.rpc));
    let backend = parts.store.backend();
    let store = match *parts.links.knowledge().borrow() {
        true => Ok(()),
        false => Err(parts.store.story().trouble.clone().unwrap_or_else(|| backend.absence().to_string())),
    };
    let host = match (parts.closing.is_cancelled(), parts.vigil.may_be_old()) {
        (true, _) => Err("the host stops".to_owned()),
        (_, true) => Err("the host did not run for a while and refuses what came meanwhile".to_owned()),
        _ => Ok(()),
    };
    // The control interface and the calls are subscribed before the dashboard opens; what remains is whether they hold.
    let is_deaf = |text: &&String| text.contains("Subscription");
    let denied = [parts.ctl.denied.borrow().clone(), parts.rpc.denied.borrow().clone()].concat();
    let denied: Vec<&str> = denied.iter().filter(is_deaf).map(String::as_str).collect();
    let subscriptions = if denied.is_empty() { Ok(()) } else { Err(format!("forbidden: {}", denied.join("; "))) };
    [
        Check::of("nats-ctl", ctl),
        Check::of("nats-rpc", rpc),
        Check::of("store", store),
        Check::of("subscriptions", subscriptions),
        Check::of("host", host),
    ]
}

async fn passes(nats: &Nats) -> Result<(), String> {
    match timeout(ROUND_TRIP, confirm(&nats.client)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("the NATS server does not answer within {} ms", ROUND_TRIP.as_millis())),
    }
}

//! Health checks, for those who watch over this process: a service manager, a load balancer, a
//! person with curl.
//!
//! `/healthz` says that the process answers. `/readyz` says that the host does its work: both
//! connections pass messages to the NATS server and back, the lattice's metadata is known, the
//! server forbade no subscription, and the host neither stops nor wakes from a pause. Why not is
//! told to whoever may read. It answers within two seconds, whatever hangs. Under `/api/livez` and
//! `/api/readyz` are the forms of 2022.

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
    auth::{Access, Reading},
};
use lattice_base::lattice::connection::{Nats, confirm};

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
    /// It is well unless there is a reason why not.
    fn of(name: &'static str, why: Option<String>) -> Self {
        Self { name, ok: why.is_none(), why }
    }
}

/// `GET /healthz`, `GET /api/livez`
pub async fn live() -> Response {
    Json(json!({ "live": true })).into_response()
}

/// `GET /readyz`, `GET /api/readyz`
pub async fn ready(
    State(dashboard): State<Dashboard>,
    Extension(access): Extension<Access>,
) -> Response {
    let mut checks = checks(&dashboard).await;
    if access == Access::Reader && dashboard.auth().reading() == Reading::Closed {
        // Everybody may ask whether, and whoever may read finds out why.
        checks.iter_mut().for_each(|check| check.why = None);
    }
    let ready = checks.iter().all(|check| check.ok);
    let stopping = dashboard.parts().context.lifeline.closing.is_cancelled();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let told = json!({ "ready": ready, "stopping": stopping, "checks": checks });
    (status, Json(told)).into_response()
}

async fn checks(dashboard: &Dashboard) -> [Check; 5] {
    let parts = dashboard.parts();
    let (ctl, rpc) = tokio::join!(trouble_of(&parts.context.ctl), trouble_of(&parts.context.rpc));
    let backend = parts.context.store.backend();
    let store = (!*parts.context.links.synced().borrow()).then(|| {
        parts.context.store.story().trouble.clone().unwrap_or_else(|| backend.absence().to_string())
    });
    let host =
        match (parts.context.lifeline.closing.is_cancelled(), parts.context.suspend.is_stale()) {
            (true, _) => Some("the host stops".to_owned()),
            (_, true) => {
                Some("the host did not run for a while and refuses what came meanwhile".to_owned())
            }
            _ => None,
        };
    // The control interface and the calls are subscribed before the dashboard opens; what remains
    // is whether they hold.
    let mut denied =
        [parts.context.ctl.denied.borrow().clone(), parts.context.rpc.denied.borrow().clone()]
            .concat();
    denied.retain(|text| text.contains("Subscription"));
    let subscriptions = (!denied.is_empty()).then(|| format!("forbidden: {}", denied.join("; ")));
    [
        Check::of("nats-ctl", ctl),
        Check::of("nats-rpc", rpc),
        Check::of("store", store),
        Check::of("subscriptions", subscriptions),
        Check::of("host", host),
    ]
}

/// Returns why no message passes a connection, if none does.
async fn trouble_of(nats: &Nats) -> Option<String> {
    match timeout(ROUND_TRIP, confirm(&nats.client)).await {
        Ok(confirmed) => confirmed.err().map(|error| error.to_string()),
        Err(_) => {
            Some(format!("the NATS server does not answer within {} ms", ROUND_TRIP.as_millis()))
        }
    }
}

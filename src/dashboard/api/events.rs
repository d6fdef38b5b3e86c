//! Recent events, and the images that hosts fetch and start.

use axum::{Extension, Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Query;
use crate::{
    Dashboard,
    auth::Access,
    model::{
        Pull,
        events::{Entry, Severity},
    },
};

const LIMIT: usize = 500;
const LIMIT_MAX: usize = 2000;

/// Which events are wanted.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// Events with this text in their sentence, name, host or data.
    #[serde(default)]
    q: String,
    /// Events with this name, like `actor_scaled`.
    #[serde(default)]
    name: String,
    /// `good`, `info`, `warning` or `error`.
    #[serde(default)]
    severity: String,
    /// Events of this host.
    #[serde(default)]
    host: String,
    /// Events before this one.
    before: Option<u64>,
    /// 500 unless given, 2000 at most.
    limit: Option<usize>,
}

impl Wanted {
    fn takes(&self, entry: &Entry, text: &str) -> bool {
        let severity = match entry.severity {
            Severity::Good => "good",
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        (self.name.is_empty() || entry.name == self.name)
            && (self.severity.is_empty() || severity == self.severity)
            && (self.host.is_empty() || entry.host_id == self.host)
            && self.before.is_none_or(|before| entry.seq < before)
            && (text.is_empty() || {
                let all = format!(
                    "{} {} {} {} {}",
                    entry.text, entry.name, entry.host_id, entry.host_name, entry.data
                );
                all.to_lowercase().contains(text)
            })
    }
}

/// The last events.
#[derive(Serialize, ToSchema)]
pub struct Events {
    /// Newest first.
    items: Vec<Entry>,
    /// The number of the last event there was.
    last: u64,
}

/// Lists recent events, newest first
#[utoipa::path(get, path = "/api/v1/events", tag = "lattice", params(Wanted), responses((status = 200, body = Events)))]
pub async fn list(
    State(dashboard): State<Dashboard>,
    Extension(access): Extension<Access>,
    Query(wanted): Query<Wanted>,
) -> Json<Events> {
    let text = wanted.q.trim().to_lowercase();
    let limit = wanted.limit.unwrap_or(LIMIT).min(LIMIT_MAX);
    let log = dashboard.model().log();
    // Masked before it is searched.
    let all = log.newest().map(|entry| access.view(entry.clone()));
    let items = all.filter(|entry| wanted.takes(entry, &text)).take(limit).collect();
    Json(Events { items, last: log.last() })
}

/// The images that hosts fetch and start.
#[derive(Serialize, ToSchema)]
pub struct Pulls {
    items: Vec<Pull>,
}

/// Lists the images that hosts fetch and start at the moment
#[utoipa::path(get, path = "/api/v1/pulls", tag = "lattice", responses((status = 200, body = Pulls)))]
pub async fn pulls(State(dashboard): State<Dashboard>) -> Json<Pulls> {
    Json(Pulls { items: dashboard.model().pulls() })
}

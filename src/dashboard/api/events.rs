//! Events, and the images that hosts fetch and start.

use axum::{Extension, Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Query, page::fitting};
use crate::{
    Dashboard,
    auth::Access,
    model::{
        Pull,
        events::Entry,
        past::{DAY_MS, Keeping, Past},
    },
};
use lattice_client::history::Range;
use lattice_protocol::clock;

const LIMIT: usize = 500;
const LIMIT_MAX: usize = 2000;
/// How far the clocks of hosts may differ, in milliseconds.
const CLOCKS_MS: u64 = 60_000;

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
    /// Events since this moment, in milliseconds since 1970; those of the last day unless given.
    since: Option<u64>,
    /// Events until this moment.
    until: Option<u64>,
    /// Events that this host heard before the one with this number; the history of the lattice is
    /// not read.
    before: Option<u64>,
    /// 500 unless given, 2000 at most.
    limit: Option<usize>,
}

impl Wanted {
    fn takes(&self, entry: &Entry, text: &str) -> bool {
        let severity = entry.severity.name();
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

    /// Returns what is to be searched, newest first, and why the history is not in it.
    async fn all(&self, dashboard: &Dashboard) -> (Vec<Entry>, Option<String>) {
        let live = || dashboard.model().log().newest().cloned().collect();
        if self.before.is_some() {
            return (live(), None);
        }
        let range = range(self.since, self.until);
        match dashboard.past().events(dashboard, range).await {
            Ok(entries) => (entries, None),
            Err(error) => (live(), Some(error.to_string())),
        }
    }
}

/// Returns the span of time that a question is about.
pub fn range(since: Option<u64>, until: Option<u64>) -> Range {
    let until_ms = until.unwrap_or_else(clock::now_ms);
    // Clocks of hosts differ a little, and the newest of all is wanted too.
    let until_ms = if until.is_some() { until_ms } else { until_ms + CLOCKS_MS };
    Range { since_ms: since.unwrap_or_else(|| until_ms.saturating_sub(DAY_MS)), until_ms }
}

/// Some events.
#[derive(Serialize, ToSchema)]
pub struct Events {
    /// Newest first.
    items: Vec<Entry>,
    /// Older ones fit as well.
    is_more: bool,
    /// The number of the last event that this host heard.
    last: u64,
    keeping: Keeping,
}

/// Lists events, newest first
///
/// Those of the history of the lattice, which is the same on every host, with what this host heard
/// just now. Where no history is kept, those that this host heard since its start.
#[utoipa::path(get, path = "/api/v1/events", tag = "lattice", params(Wanted), responses((status = 200, body = Events)))]
pub async fn list(
    State(dashboard): State<Dashboard>,
    Extension(access): Extension<Access>,
    Query(wanted): Query<Wanted>,
) -> Json<Events> {
    dashboard.model().mark_viewed().await;
    let text = wanted.q.trim().to_lowercase();
    let limit = wanted.limit.unwrap_or(LIMIT).min(LIMIT_MAX);
    let (all, failure) = wanted.all(&dashboard).await;
    let (items, is_more) = fitting(all, access, limit, |entry| wanted.takes(entry, &text));
    let keeping = Past::keeping(&dashboard).unless(failure);
    Json(Events { items, is_more, last: dashboard.model().log().last(), keeping })
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

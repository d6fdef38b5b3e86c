//! Recent output of actors and providers, on any host, and on hosts that are gone.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use utoipa::{IntoParams, ToSchema};

use super::{ErrorBody, Query, Refusal};
use crate::{
    Dashboard,
    auth::Access,
    mask::{HIDDEN, Mask},
    model::{HostView, State as HostState},
};
use lattice_client::logs::{Logs, News};
use lattice_protocol::journal::{Level, Line, wire::Mark};

/// Lines of each host, unless asked for fewer.
pub const TAIL: u64 = 200;
const TAIL_MAX: u64 = 1000;
/// Errors that are shown beside something else.
const ERRORS_MAX: usize = 20;
/// How long hosts may take.
const WAIT: Duration = Duration::from_millis(800);

/// A line that was said.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LogLine {
    pub host_id: String,
    pub host_name: String,
    pub at_ms: u64,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: &'static str,
    pub link_name: String,
    /// Not told without a login.
    pub text: String,
}

impl LogLine {
    fn of(host_id: &str, host_name: &str, line: &Line) -> Self {
        Self {
            host_id: host_id.to_owned(),
            host_name: host_name.to_owned(),
            at_ms: line.at_us / 1000,
            level: line.level.name(),
            link_name: line.link_name.to_string(),
            text: line.text.to_string(),
        }
    }
}

impl Mask for LogLine {
    fn mask(&mut self) {
        HIDDEN.clone_into(&mut self.text);
    }
}

/// The last lines.
#[derive(Serialize, ToSchema)]
pub struct Lines {
    /// Oldest first.
    items: Vec<LogLine>,
}

/// How many lines.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Tail {
    /// Of each host; 200 unless given, 1000 at most.
    tail: Option<u64>,
}

/// The parts of a request for lines.
type Asked = (State<Dashboard>, Extension<Access>, Path<String>, Query<Tail>);

/// Returns what an actor logged lately
#[utoipa::path(get, path = "/api/v1/actors/{id}/logs", tag = "actors", params(("id" = String, Path), Tail),
    responses((status = 200, body = Lines), (status = 422, body = ErrorBody)))]
pub async fn of_actor(asked: Asked) -> Result<Json<Lines>, Refusal> {
    all(asked).await
}

/// Returns what a provider printed lately
#[utoipa::path(get, path = "/api/v1/providers/{id}/logs", tag = "providers", params(("id" = String, Path), Tail),
    responses((status = 200, body = Lines), (status = 422, body = ErrorBody)))]
pub async fn of_provider(asked: Asked) -> Result<Json<Lines>, Refusal> {
    all(asked).await
}

async fn all(
    (State(dashboard), Extension(access), Path(id), Query(tail)): Asked,
) -> Result<Json<Lines>, Refusal> {
    dashboard.model().mark_viewed().await;
    let snapshot = dashboard.model().snapshot();
    let hosts: Vec<_> = snapshot.present().cloned().collect();
    let items = lines(&dashboard, &id, &hosts, tail.tail.unwrap_or(TAIL).min(TAIL_MAX)).await?;
    Ok(Json(Lines { items: access.view(items) }))
}

/// The last lines of an entity on these hosts, oldest first; those of hosts that do not answer in
/// time are missing.
pub async fn lines(
    dashboard: &Dashboard,
    id: &str,
    hosts: &[Arc<HostView>],
    tail: u64,
) -> Result<Vec<LogLine>, Refusal> {
    let until = Instant::now() + WAIT;
    let asked = async {
        let mut logs = Logs::open(dashboard.lattice(), id, tail, false).await?;
        let mut waited_for = 0;
        for host in hosts.iter().filter(|host| host.is_ours && host.state != HostState::Lost) {
            logs.ask(&host.id).await?;
            waited_for += 1;
        }
        anyhow::Ok((logs, waited_for))
    };
    let (mut logs, mut waited_for) = timeout_at(until, asked).await.map_err(|_| {
        Refusal::new(
            StatusCode::GATEWAY_TIMEOUT,
            "the connection to NATS takes nothing at the moment",
        )
    })??;
    let mut found = Vec::new();
    // The starts of hosts whose lines are known.
    let mut lives = HashSet::new();
    // Each host sends its past in parts; the last part says so. Other news means that a host is
    // not there.
    while waited_for > 0
        && let Ok(Some(news)) = timeout_at(until, logs.next()).await
    {
        let News::Part(part) = news else {
            waited_for -= 1;
            continue;
        };
        if matches!(part.mark, Mark::Past | Mark::Over) {
            waited_for -= 1;
        }
        let host = hosts.iter().find(|host| *host.id == *part.host_id);
        let host_name = host.map(|host| host.name.clone()).unwrap_or_default();
        found.extend(part.lines.iter().map(|line| LogLine::of(&part.host_id, &host_name, line)));
        lives.insert(part.life);
    }
    add_archived(dashboard, id, &lives, tail, &mut found).await;
    found.sort_by_key(|line| line.at_ms);
    Ok(found)
}

/// Adds the lines of hosts that did not answer, and of earlier starts of those that did, from the
/// history of the lattice: the last of each host.
async fn add_archived(
    dashboard: &Dashboard,
    id: &str,
    lives: &HashSet<String>,
    tail: u64,
    found: &mut Vec<LogLine>,
) {
    let archived = dashboard.past().lines(id).await;
    let mut taken: HashMap<&str, u64> = HashMap::new();
    for kept in archived.iter().rev().filter(|kept| !lives.contains(&kept.life)) {
        let of_host = taken.entry(&kept.host_id).or_default();
        *of_host += 1;
        if *of_host <= tail {
            found.push(LogLine::of(&kept.host_id, &kept.host_name, &kept.line));
        }
    }
}

/// Picks the warnings and errors, newest first.
pub fn errors(lines: Vec<LogLine>) -> Vec<LogLine> {
    let levels = [Level::Warn.name(), Level::Error.name()];
    lines.into_iter().rev().filter(|line| levels.contains(&line.level)).take(ERRORS_MAX).collect()
}

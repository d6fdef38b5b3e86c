//! Hosts that vanished: what ran only there, starting that elsewhere, and forgetting the host.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Refusal,
    hosts::present,
    operations::{Accepted, begin_on_host},
};
use crate::{
    Dashboard,
    model::{Snapshot, State as HostState},
    operations::End,
};
use lattice_client::{
    commands::START_WAIT,
    lost::{self, Missing, Restarted},
    placement::AUCTION_WAIT,
};

/// Something that ran only on lost hosts.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RunsNowhere {
    id: String,
    name: String,
    /// `actor` or `provider`.
    kind: &'static str,
    link_name: Option<String>,
    reference: String,
    /// The application that starts it again by itself.
    application: Option<String>,
}

impl RunsNowhere {
    pub fn of(missing: &Missing) -> Self {
        Self {
            id: missing.id.clone(),
            name: missing.name.clone(),
            kind: missing.kind(),
            link_name: missing.link_name.clone(),
            reference: missing.reference.clone(),
            application: missing.application().map(str::to_owned),
        }
    }
}

/// All that ran only on lost hosts, this one among them.
pub fn missing_with<'a>(snapshot: &'a Snapshot, id: &'a str) -> impl Iterator<Item = &'a Missing> {
    let missing = snapshot.index().missing.iter();
    missing.filter(move |missing| missing.ran_on(id))
}

/// Starts what ran only on a lost host on others
#[utoipa::path(post, path = "/api/v1/hosts/{id}/start-elsewhere", tag = "hosts",
    params(("id" = String, Path)), responses((status = 202, body = Accepted)))]
pub async fn start_elsewhere(
    State(dashboard): State<Dashboard>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    let id = absent(&dashboard, &id).await?;
    let snapshot = dashboard.model().snapshot();
    let missing: Vec<Missing> = missing_with(&snapshot, &id).cloned().collect();
    let title = format!("Start elsewhere what ran on {}", snapshot.host_name(&id));
    begin_on_host(&dashboard, ("start_elsewhere", title), &id, |handle, lattice, host| async move {
        handle.stage("auction", "");
        let wait = (AUCTION_WAIT, START_WAIT);
        end(&lost::start_elsewhere(&lattice, &host, missing, wait).await)
    })
}

/// The end of a start elsewhere: an error names all that was not started.
fn end(all: &[Restarted]) -> anyhow::Result<End> {
    let failed = all.iter().filter_map(|one| {
        Some(format!("{}: {:#}", one.missing.called(), one.outcome.as_ref().err()?))
    });
    let failed: Vec<String> = failed.collect();
    let count = all.len() - failed.len();
    if !failed.is_empty() {
        anyhow::bail!("{count} of {} run elsewhere; {}", all.len(), failed.join("; "));
    }
    let text = match count {
        0 => "Nothing is left to start: all of it runs elsewhere".to_owned(),
        1 => "It runs elsewhere".to_owned(),
        count => format!("All {count} run elsewhere"),
    };
    Ok(End { text, ..End::default() })
}

/// Takes a lost host off the lists of all hosts
#[utoipa::path(post, path = "/api/v1/hosts/{id}/forget", tag = "hosts",
    params(("id" = String, Path)), responses((status = 202, body = Accepted)))]
pub async fn forget(
    State(dashboard): State<Dashboard>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    let id = absent(&dashboard, &id).await?;
    let title = format!("Forget host {}", dashboard.model().snapshot().host_name(&id));
    let model = dashboard.model().clone();
    begin_on_host(&dashboard, ("forget_host", title), &id, |handle, lattice, host| async move {
        handle.stage("command", "");
        lost::forget(&lattice, &lattice.hosts().await?, &host).await?;
        model.forget_lost(&host);
        Ok(End { text: "The lattice has forgotten the host".to_owned(), ..End::default() })
    })
}

/// The id of a host that is lost.
async fn absent(dashboard: &Dashboard, text: &str) -> Result<String, Refusal> {
    let id = present(dashboard, text).await?;
    match dashboard.model().snapshot().host(&id) {
        Some(host) if host.state == HostState::Lost => Ok(id),
        _ => Err(Refusal::wrong(format!("host {id} is not lost; it answers"))),
    }
}

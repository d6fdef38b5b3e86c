//! Emptying a host, and letting it take work again.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};

use super::{
    Refusal,
    hosts::present,
    operations::{Accepted, begin_on_host},
};
use crate::{
    Dashboard,
    operations::{End, OperationHandle},
};
use lattice_client::drain::{self, DRAIN_WAIT, Drained, Fate};
use lattice_protocol::control::types::Pairs;

/// Empties a host: what runs there is started on others and stopped there then
///
/// The host takes nothing new until it may again, or starts again. What can go nowhere else runs
/// on, and the operation fails with the reasons.
#[utoipa::path(post, path = "/api/v1/hosts/{id}/drain", tag = "hosts",
    params(("id" = String, Path)), responses((status = 202, body = Accepted)))]
pub async fn drain(
    State(dashboard): State<Dashboard>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    let id = present(&dashboard, &id).await?;
    let title = format!("Drain host {}", dashboard.model().snapshot().host_name(&id));
    begin_on_host(&dashboard, ("drain", title), &id, |handle, lattice, host| async move {
        handle.stage("command", "");
        let told = |word, about| tell(&handle, word, about);
        let drained = drain::drain(&lattice, &host, &Pairs::new(), DRAIN_WAIT, told).await?;
        Ok(End { text: outcome(&drained)?, ..End::default() })
    })
}

/// Lets a host take work again
#[utoipa::path(post, path = "/api/v1/hosts/{id}/undrain", tag = "hosts",
    params(("id" = String, Path)), responses((status = 202, body = Accepted)))]
pub async fn undrain(
    State(dashboard): State<Dashboard>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    let id = present(&dashboard, &id).await?;
    let title = format!("Let host {} take work again", dashboard.model().snapshot().host_name(&id));
    begin_on_host(&dashboard, ("undrain", title), &id, |handle, lattice, host| async move {
        handle.stage("command", "");
        drain::undo(&lattice, &host).await?;
        Ok(End { text: "The host takes work again".to_owned(), ..End::default() })
    })
}

/// Tells what is moved now, or what is waited for.
fn tell(handle: &OperationHandle, word: &'static str, about: String) {
    handle.stage("move", if about.is_empty() { word.to_owned() } else { about });
}

/// Says how emptying a host ended; an error names what runs on, with the reasons.
fn outcome(drained: &Drained) -> anyhow::Result<String> {
    let left = drained.fates.iter().filter_map(|(item, fate)| match fate {
        Fate::Left { why } => Some(format!("{}: {why}", item.called())),
        Fate::Moved { .. } | Fate::Replaced => None,
    });
    let left: Vec<String> = left.collect();
    let count = drained.fates.len();
    match (left.len(), count) {
        (0, 0) => Ok("Nothing ran there; the host takes nothing new".to_owned()),
        (0, 1) => Ok("It runs elsewhere; the host takes nothing new".to_owned()),
        (0, _) => Ok(format!("All {count} run elsewhere; the host takes nothing new")),
        (some, _) => anyhow::bail!(
            "{some} of {count} can go nowhere else and run on, and the host takes nothing new: {}",
            left.join("; ")
        ),
    }
}

//! All that needs attention, and what is said about it.

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Body, ErrorBody, Refusal};
use crate::{
    Dashboard,
    auth::Access,
    model::attention::{Attention, Summary},
};
use lattice_client::origin;
use lattice_protocol::attention::{MarkAttention, Said};

/// All that needs attention.
#[derive(Serialize, ToSchema)]
pub struct List {
    /// Worst first, acknowledged ones last.
    items: Vec<Attention>,
    /// Items that nobody wants to hear of for a while; the overview leaves these out.
    muted: Vec<Attention>,
}

/// Lists what needs attention, with what is muted
#[utoipa::path(get, path = "/api/v1/attention", tag = "lattice", responses((status = 200, body = List)))]
pub async fn attention(
    State(dashboard): State<Dashboard>,
    Extension(access): Extension<Access>,
) -> Json<List> {
    dashboard.model().mark_viewed().await;
    let Summary { attention, muted, .. } = Summary::of(&dashboard);
    Json(List { items: access.view(attention), muted: access.view(muted) })
}

/// The word about something.
#[derive(Deserialize, ToSchema)]
pub struct Wish {
    /// `ack`: somebody looks after it. `mute`: nobody wants to hear of it for a while.
    #[schema(value_type = String)]
    said: Said,
    /// How long it is muted, in seconds: an hour unless given, a week at most.
    for_s: Option<u64>,
    /// A word for the others.
    #[serde(default)]
    note: String,
}

/// Acknowledges or mutes something, on every page of the lattice
///
/// An acknowledgement ends with what it is about, or after three days.
#[utoipa::path(put, path = "/api/v1/attention/{key}", tag = "lattice", params(("key" = String, Path)),
    request_body = Wish, responses((status = 204, description = "noted"), (status = 422, body = ErrorBody)))]
pub async fn mark(
    State(dashboard): State<Dashboard>,
    Path(key): Path<String>,
    Body(wish): Body<Wish>,
) -> Result<StatusCode, Refusal> {
    let Wish { said, for_s, note } = wish;
    let for_ms = for_s.map(|seconds| seconds.saturating_mul(1000));
    note_mark(&dashboard, MarkAttention { key, said: Some(said), for_ms, note }).await
}

/// Takes back what was said about something
#[utoipa::path(delete, path = "/api/v1/attention/{key}", tag = "lattice", params(("key" = String, Path)),
    responses((status = 204, description = "taken back"), (status = 422, body = ErrorBody)))]
pub async fn clear(
    State(dashboard): State<Dashboard>,
    Path(key): Path<String>,
) -> Result<StatusCode, Refusal> {
    note_mark(&dashboard, MarkAttention { key, ..MarkAttention::default() }).await
}

async fn note_mark(dashboard: &Dashboard, mark: MarkAttention) -> Result<StatusCode, Refusal> {
    let by = origin::current().unwrap_or_default();
    let by = if by.who.is_empty() { by.from } else { format!("{}, {}", by.words(), by.from) };
    dashboard.alerts().mark(&mark, by).await.map_err(Refusal::wrong)?;
    Ok(StatusCode::NO_CONTENT)
}

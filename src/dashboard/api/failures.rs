//! The last calls that failed, of all hosts: by whom, to whom, why, and under which id.

use axum::{
    Extension, Json,
    extract::{Path, State},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Query;
use crate::{
    Dashboard,
    auth::Access,
    mask::{HIDDEN, Mask},
};
use lattice_client::failures::{self, Failure};
use lattice_protocol::control::probe::failures::{Ask, FailedCall, Kind};

/// Failures, unless asked for fewer.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// A call that failed.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FailedCallRow {
    /// Of the failure; an HTTP client got the same in its answer.
    id: String,
    at_ms: u64,
    host_id: String,
    host_name: String,
    caller_id: String,
    caller_link_name: String,
    caller_name: String,
    /// Empty if the call led nowhere.
    target_id: String,
    /// Of a call that led nowhere, what was asked for.
    target_name: String,
    contract_id: String,
    link_name: String,
    operation: String,
    /// `refused`, `timed_out` or `failed`.
    kind: &'static str,
    /// Not told without a login.
    reason: String,
}

impl Mask for FailedCallRow {
    fn mask(&mut self) {
        HIDDEN.clone_into(&mut self.reason);
    }
}

impl FailedCallRow {
    fn of(host_name: String, Failure { host_id, call }: Failure) -> Self {
        let target_name = call.target_called().to_owned();
        let FailedCall { caller_name, operation, reason, kind, .. } = call;
        Self {
            id: call.id,
            at_ms: call.at_ms,
            host_id,
            host_name,
            caller_id: call.caller,
            caller_link_name: call.caller_link_name,
            caller_name,
            target_id: call.target,
            target_name,
            contract_id: call.contract_id,
            link_name: call.link_name,
            operation,
            kind: match kind {
                Kind::Refused => "refused",
                Kind::TimedOut => "timed_out",
                Kind::Failed => "failed",
            },
            reason,
        }
    }
}

/// Failed calls.
#[derive(Serialize, ToSchema)]
pub struct FailedCalls {
    /// Newest first.
    items: Vec<FailedCallRow>,
}

/// Which failed calls are wanted.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// Those with this id, or this beginning of it.
    id: Option<String>,
    /// 100 unless given, 1000 at most.
    limit: Option<usize>,
}

/// The last calls that failed
#[utoipa::path(get, path = "/api/v1/failures", tag = "lattice", params(Which),
    responses((status = 200, body = FailedCalls)))]
pub async fn failed_calls(
    State(dashboard): State<Dashboard>,
    Extension(access): Extension<Access>,
    Query(which): Query<Which>,
) -> Json<FailedCalls> {
    found(&dashboard, access, None, which).await
}

/// The last calls of an actor that failed, those it made and those it was to take
#[utoipa::path(get, path = "/api/v1/actors/{id}/failures", tag = "actors", params(("id" = String, Path), Which),
    responses((status = 200, body = FailedCalls)))]
pub async fn failed_calls_of_actor(
    State(dashboard): State<Dashboard>,
    Extension(access): Extension<Access>,
    Path(id): Path<String>,
    Query(which): Query<Which>,
) -> Json<FailedCalls> {
    found(&dashboard, access, Some(id), which).await
}

/// The last calls of a provider that failed, those it made and those it was to take
#[utoipa::path(get, path = "/api/v1/providers/{id}/failures", tag = "providers", params(("id" = String, Path), Which),
    responses((status = 200, body = FailedCalls)))]
pub async fn failed_calls_of_provider(
    State(dashboard): State<Dashboard>,
    Extension(access): Extension<Access>,
    Path(id): Path<String>,
    Query(which): Query<Which>,
) -> Json<FailedCalls> {
    found(&dashboard, access, Some(id), which).await
}

async fn found(
    dashboard: &Dashboard,
    access: Access,
    entity: Option<String>,
    Which { id, limit }: Which,
) -> Json<FailedCalls> {
    dashboard.model().mark_viewed().await;
    let snapshot = dashboard.model().snapshot();
    let ours = snapshot.present().filter(|host| host.is_ours).map(|host| host.id.to_string());
    let limit = Some(limit.unwrap_or(LIMIT).min(LIMIT_MAX));
    let ask = Ask { entity, id, limit };
    let found = failures::of_hosts(dashboard.lattice(), ours.collect(), &ask).await;
    let rows = found
        .into_iter()
        .map(|failure| FailedCallRow::of(snapshot.host_name(&failure.host_id), failure));
    Json(FailedCalls { items: access.view(rows.collect()) })
}

//! The list of operations, and the answer of everything that begins one.

use axum::{Extension, Json, extract::State, http::StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::Refusal;
use crate::{
    Dashboard,
    auth::Access,
    operations::{Busy, End, NewOperation, Operation, OperationHandle},
};
use lattice_client::lattice::Lattice;

/// The answer to a change: it has begun.
pub type Accepted = Operation;

/// The last operations.
#[derive(Serialize, ToSchema)]
pub struct List {
    /// Newest first.
    items: Vec<Operation>,
}

/// The last operations, newest first
#[utoipa::path(get, path = "/api/v1/operations", tag = "operations", responses((status = 200, body = List)))]
pub async fn list(
    State(dashboard): State<Dashboard>,
    Extension(access): Extension<Access>,
) -> Json<List> {
    Json(List { items: access.view(dashboard.operations().list()) })
}

/// Answers with an operation that has begun.
pub fn accepted(begun: Result<Operation, Busy>) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    Ok((StatusCode::ACCEPTED, Json(begun?)))
}

/// Begins an operation that a host is changed by, and answers with it.
pub fn begin_on_host<F>(
    dashboard: &Dashboard,
    (kind, title): (&'static str, String),
    id: &str,
    work: impl FnOnce(OperationHandle, Lattice, String) -> F,
) -> Result<(StatusCode, Json<Accepted>), Refusal>
where
    F: Future<Output = anyhow::Result<End>> + Send + 'static,
{
    let operation = NewOperation { kind, title, host_id: id, ..NewOperation::default() };
    let (lattice, host) = (dashboard.lattice().clone(), id.to_owned());
    accepted(dashboard.operations().begin(operation, |handle| work(handle, lattice, host)))
}

//! The list of operations, and the answer of everything that begins one.

use axum::{Extension, Json, extract::State, http::StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::Refusal;
use crate::{
    Dashboard,
    auth::Access,
    operations::{Busy, Operation},
};

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

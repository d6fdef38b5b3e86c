//! Entering with the token, and leaving.

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Body, ErrorBody};
use crate::http::{Dashboard, door, listen::Caller};

/// What opens a session.
#[derive(Deserialize, ToSchema)]
pub struct LogIn {
    token: String,
}

/// Opens a session: sets its cookie
#[utoipa::path(post, path = "/api/v1/session", tag = "session", request_body = LogIn, responses(
    (status = 204, description = "entered"), (status = 401, body = ErrorBody), (status = 429, body = ErrorBody)))]
pub async fn log_in(
    State(dashboard): State<Dashboard>,
    Extension(Caller(caller)): Extension<Caller>,
    headers: HeaderMap,
    Body(LogIn { token }): Body<LogIn>,
) -> Response {
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    let is_secure = origin.is_some_and(|origin| origin.starts_with("https://"));
    match dashboard.door().log_in(caller.ip(), &token, is_secure) {
        Ok(cookie) => (StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response(),
        Err(error) => door::refuse_login(error),
    }
}

/// Ends the session of this cookie
#[utoipa::path(delete, path = "/api/v1/session", tag = "session", responses((status = 204, description = "left")))]
pub async fn log_out(State(dashboard): State<Dashboard>, headers: HeaderMap) -> Response {
    let cookie = dashboard.door().log_out(&headers);
    (StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response()
}

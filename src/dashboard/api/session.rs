//! Logging in, with the token or with the code of a link, and leaving.

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Body, ErrorBody};
use crate::{
    Dashboard,
    auth::{self, Proof},
    listen::Caller,
    token,
};

/// The proof that opens a session: one of the two.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogIn {
    /// The token of this user, or that of the settings.
    Token(String),
    /// The text after the `#` of a link of `host dashboard`.
    Code(String),
}

/// A session.
#[derive(Serialize, ToSchema)]
pub struct Session {
    /// To be shown as bearer: `authorization: Bearer SESSION`.
    session: String,
    /// How long it lasts, in seconds.
    lasts_s: u64,
}

/// Opens a session
#[utoipa::path(post, path = "/api/v1/session", tag = "session", request_body = LogIn, responses(
    (status = 200, body = Session), (status = 401, body = ErrorBody), (status = 429, body = ErrorBody)))]
pub async fn log_in(
    State(dashboard): State<Dashboard>,
    Extension(caller): Extension<Caller>,
    Body(shown): Body<LogIn>,
) -> Response {
    let proof = match &shown {
        LogIn::Token(token) => Proof::Token(token),
        LogIn::Code(code) => Proof::Code(code),
    };
    match dashboard.auth().log_in(caller.ip(), proof) {
        Ok(session) => Json(Session { session, lasts_s: token::SESSION.as_secs() }).into_response(),
        Err(error) => auth::refuse_login(error),
    }
}

/// Ends the session that is shown
///
/// It ends for as long as this host runs. Another secret in the file, by `host dashboard --revoke`,
/// ends all for good.
#[utoipa::path(delete, path = "/api/v1/session", tag = "session", responses((status = 204, description = "left")))]
pub async fn log_out(State(dashboard): State<Dashboard>, headers: HeaderMap) -> StatusCode {
    dashboard.auth().log_out(&headers);
    StatusCode::NO_CONTENT
}

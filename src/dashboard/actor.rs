//! Requests of actors end here: a dashboard is for people and their programs.
//!
//! The HTTP client for actors does not connect to its own host's sockets. It does not know those of
//! other hosts on the machine, nor where a proxy or a forwarded port leads; so it marks requests
//! that may stay on this machine, and no dashboard takes one. An actor cannot take the mark away.

use axum::{
    extract::Request,
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::debug;

use lattice_engine::providers::bounds::FROM_ACTOR;

/// Refuses what an actor asks for.
pub async fn refuse(request: Request, next: Next) -> Response {
    if request.headers().contains_key(FROM_ACTOR) {
        debug!(
            path = request.uri().path(),
            "an actor asked the dashboard for something and was refused"
        );
        return (StatusCode::FORBIDDEN, "actors may not use the dashboard of a host\n")
            .into_response();
    }
    next.run(request).await
}

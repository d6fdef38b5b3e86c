//! The answer to a request that is not done: a status, and `{"error": "…"}`.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::operations::{Busy, may_be_done};
use lattice_client::lattice::RequestError;

/// Why a request is not answered as wished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    status: StatusCode,
    error: String,
}

/// The body of every error.
#[derive(Serialize, ToSchema)]
pub(super) struct ErrorBody<'a> {
    error: &'a str,
}

impl Refusal {
    pub fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into() }
    }

    /// The request makes no sense.
    pub(super) fn wrong(error: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, error)
    }

    pub(super) fn not_found(error: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: &self.error })).into_response()
    }
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        let status = if error.chain().any(may_be_done) {
            StatusCode::GATEWAY_TIMEOUT
        } else if error.chain().any(is_silence) {
            StatusCode::BAD_GATEWAY
        } else {
            StatusCode::UNPROCESSABLE_ENTITY
        };
        Self::new(status, format!("{error:#}"))
    }
}

/// Whether an error says that nobody in the lattice answered, rather than that somebody refuses.
fn is_silence(cause: &(dyn std::error::Error + 'static)) -> bool {
    let asked = cause.downcast_ref::<RequestError>();
    asked.is_some_and(|asked| !matches!(asked, RequestError::Refused { .. }))
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        anyhow::Error::from(error).into()
    }
}

impl From<Busy> for Refusal {
    fn from(busy: Busy) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, busy.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::errors::OutcomeUnknown;

    #[test]
    fn errors_have_the_status_of_their_kind() {
        let status = |error: anyhow::Error| Refusal::from(error).status;
        assert_eq!(status(OutcomeUnknown("late".into()).into()), StatusCode::GATEWAY_TIMEOUT);
        let silent =
            RequestError::TimedOut { subject: "s".into(), lattice: "l".into(), waited_ms: 1 };
        assert_eq!(status(anyhow::Error::from(silent).context("ask")), StatusCode::GATEWAY_TIMEOUT);
        let nobody = RequestError::NoResponders {
            subject: "s".into(),
            lattice: "l".into(),
            advice: String::new(),
        };
        assert_eq!(status(nobody.into()), StatusCode::BAD_GATEWAY);
        assert_eq!(status(anyhow::anyhow!("no")), StatusCode::UNPROCESSABLE_ENTITY);
    }
}

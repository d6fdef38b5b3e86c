//! The answers that the provider gives by itself: short JSON that says what happened, and nothing
//! about the inside. Where somebody has to look into it, an error id stands there that is in the
//! log as well, beside the whole error. No cache may keep them: the next request may well reach the
//! actor.

use bytes::Bytes;
use hyper::{
    HeaderMap, Response, StatusCode,
    header::{self, HeaderValue},
};
use serde_json::json;
use uuid::Uuid;

use super::body::BodyError;
use crate::rpc::call::CallError;
use lattice_protocol::contracts::httpserver::status_of_error;

pub type Answer = Response<Bytes>;

/// An answer with a reason.
pub fn refuse(status: StatusCode, error: &str) -> Answer {
    with_body(status, json!({ "error": error }).to_string())
}

fn with_body(status: StatusCode, body: String) -> Answer {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// Too much waits already to be read by clients.
pub fn no_room() -> Answer {
    let mut answer =
        refuse(StatusCode::SERVICE_UNAVAILABLE, "too many answers wait for clients to read them");
    retry_soon(&mut answer);
    answer
}

/// Nobody answers for this host and path.
pub fn not_found() -> Answer {
    refuse(StatusCode::NOT_FOUND, "no actor is linked for this host and path")
}

/// A request that does not say for which host it is, or says it twice, or more than that.
pub fn of_no_host() -> Answer {
    let text = "a request has exactly one host: a name or an address, and perhaps a port";
    refuse(StatusCode::BAD_REQUEST, text)
}

/// The method may not be used; `allowed` may.
pub fn not_allowed(allowed: &'static str) -> Answer {
    let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, "this method is not allowed here");
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    answer
}

/// The answer to a preflight request.
pub fn preflight(headers: Option<HeaderMap>) -> Answer {
    let Some(headers) = headers else {
        return refuse(StatusCode::FORBIDDEN, "pages of this origin may not use this actor");
    };
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    *answer.headers_mut() = headers;
    answer
}

/// Why there is no body to pass on. The rest of it is not read, so the connection ends.
pub fn of_body(error: &BodyError) -> Answer {
    let (status, text) = match error {
        BodyError::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, error.to_string()),
        BodyError::TooSlow => (StatusCode::REQUEST_TIMEOUT, error.to_string()),
        BodyError::NoRoom(_) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        BodyError::Broken(_) => (StatusCode::BAD_REQUEST, "the body is broken".to_owned()),
    };
    let mut answer = refuse(status, &text);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        retry_soon(&mut answer);
    }
    answer
}

/// Returns the answer to a failed call of an actor, and the id under which the failure is to be
/// logged; none if it is no fault.
pub fn of_call(error: &CallError, actor_id: &str) -> (Answer, Option<String>) {
    let (status, text) = match error {
        busy if busy.is_busy(actor_id) => (StatusCode::SERVICE_UNAVAILABLE, "the actor is busy"),
        CallError::NoResponders { .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, "the actor runs nowhere at the moment")
        }
        CallError::Deadline { .. } | CallError::TimedOut { .. } => {
            (StatusCode::GATEWAY_TIMEOUT, "the actor did not answer in time")
        }
        CallError::OutcomeUnknown { .. } => (
            StatusCode::BAD_GATEWAY,
            "the host that worked on the request vanished; whether the request was carried out is unknown",
        ),
        CallError::Callee(text) => match status_of_error(text) {
            Some(status) => return of_error_code(status),
            None => return of_failure(),
        },
        _ => return of_failure(),
    };
    if status == StatusCode::SERVICE_UNAVAILABLE {
        let mut answer = refuse(status, text);
        retry_soon(&mut answer);
        return (answer, None);
    }
    identified(status, text)
}

/// A component answered with an error, which has this status.
fn of_error_code(status: StatusCode) -> (Answer, Option<String>) {
    let text = match status.is_client_error() {
        true => "the actor refused the request",
        false => "the actor failed to answer",
    };
    let (mut answer, id) = identified(status, text);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        retry_soon(&mut answer);
    }
    (answer, id)
}

/// The actor failed, or its answer is none.
pub fn of_failure() -> (Answer, Option<String>) {
    identified(StatusCode::BAD_GATEWAY, "the actor failed to answer")
}

fn identified(status: StatusCode, error: &str) -> (Answer, Option<String>) {
    let id = Uuid::new_v4().to_string();
    (with_body(status, json!({ "error": error, "id": id }).to_string()), Some(id))
}

fn retry_soon(answer: &mut Answer) {
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_has_its_status_and_the_code_of_a_component_that_of_the_code() {
        let text = String::new;
        let told = |text: &str| CallError::Callee(text.to_owned());
        for (error, status, has_id) in [
            (told("why"), 502, true),
            (told("wasi:http error: HTTP-request-denied (HTTP request denied)"), 403, true),
            (told("wasi:http error: HTTP-request-body-size (more than 9)"), 413, true),
            (told("wasi:http error: HTTP-request-URI-too-long (it is)"), 414, true),
            (told("wasi:http error: HTTP-request-header-size (it is)"), 431, true),
            (told("wasi:http error: HTTP-request-length-required (it is)"), 411, true),
            (told("wasi:http error: HTTP-request-URI-invalid (it is)"), 400, true),
            (told("wasi:http error: connection-limit-reached (it is)"), 503, true),
            (told("wasi:http error: HTTP-response-timeout (it is)"), 504, true),
            (told("wasi:http error: internal-error (it is)"), 500, true),
            (told("wasi:http error: HTTP-protocol-error (it is)"), 502, true),
            // As hosts of before say it.
            (told("wasi:http error: HTTP request denied"), 502, true),
            (told("M takes no further call: all instances are busy"), 503, false),
            (CallError::NotAdmitted { actor_id: "M".into(), reason: text() }, 503, false),
            (CallError::Deadline { actor_id: text(), limit_ms: 1 }, 504, true),
            (CallError::TooDeep, 502, true),
        ] {
            let (answer, id) = of_call(&error, "M");
            assert_eq!((answer.status().as_u16(), id.is_some()), (status, has_id), "{error}");
            let waits = answer.headers().contains_key(header::RETRY_AFTER);
            assert_eq!(waits, status == 503, "{error}");
        }
    }
}

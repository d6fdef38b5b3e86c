//! Answers of actors as their clients get them: whole or on their way, without the headers of a
//! connection, and with those that the link's values ask for.

use std::net::SocketAddr;

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Response, StatusCode,
    header::{self, HeaderName, HeaderValue},
    http::{request::Parts, response},
};
use tokio::time::Instant;
use tracing::{Level, debug, enabled, info, warn};

use super::{
    answers::{self, Answer},
    cors,
    live::Pieces,
    request::Route,
    settings::Rules,
};
use crate::rpc::{call::CallError, exchange};
use lattice_base::telemetry::ACCESS;
use lattice_protocol::contracts::{
    PayloadError,
    httpserver::{HttpResponse, msgpack},
};

/// More header lines than any answer needs; the rest is dropped.
const HEADERS_MAX: usize = 1000;
/// Headers that speak of one connection, which is not the actor's, and of the length, which the
/// body has. Only to HEAD an actor may tell the length of a body that it does not send.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TRAILER,
    header::TE,
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// The answer to a request, before it is on its way.
pub enum Reply {
    Whole(Answer),
    Pieces(Response<Pieces>),
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self::Whole(answer)
    }
}

impl Reply {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Whole(answer) => answer.status(),
            Self::Pieces(answer) => answer.status(),
        }
    }

    /// Adds what the link's values ask for.
    pub fn finish(&mut self, rules: &Rules, parts: &Parts) {
        match self {
            Self::Whole(answer) => {
                decorate(rules, parts, answer);
                if exchange::has_no_body(answer.status()) {
                    *answer.body_mut() = Bytes::new();
                }
            }
            Self::Pieces(answer) => decorate(rules, parts, answer),
        }
    }

    /// Logs a request, with the bytes of an answer whose length is known.
    pub fn log(&self, route: &Route, parts: &Parts, remote: SocketAddr, began: Instant) {
        let (status, bytes) = match self {
            Self::Whole(answer) => (answer.status(), Some(answer.body().len())),
            Self::Pieces(answer) => (answer.status(), None),
        };
        macro_rules! line {
            ($log:ident) => {
                $log!(
                    target: ACCESS,
                    method = parts.method.as_str(),
                    path = parts.uri.path(),
                    status = status.as_u16(),
                    bytes,
                    took_us = began.elapsed().as_micros() as u64,
                    actor_id = route.actor_id,
                    %remote,
                    "request"
                )
            };
        }
        if route.rules.access_log {
            line!(info);
        } else if enabled!(target: ACCESS, Level::DEBUG) {
            line!(debug);
        }
    }
}

/// The answer in an actor's payload, or that there is none.
pub fn of_payload(route: &Route, payload: Bytes, method: &Method) -> Answer {
    match answer_of(payload, method) {
        Ok(answer) => cached(&route.rules, answer),
        Err(error) => no_answer(route, &error),
    }
}

/// Adds the header for caches that the link's values name.
fn cached<B>(rules: &Rules, mut answer: Response<B>) -> Response<B> {
    if let Some(value) = &rules.cache_control
        && !answer.headers().contains_key(header::CACHE_CONTROL)
    {
        answer.headers_mut().insert(header::CACHE_CONTROL, value.clone());
    }
    answer
}

/// Answers for an actor whose answer is none.
pub fn no_answer(route: &Route, error: &BadResponse) -> Answer {
    let (answer, error_id) = answers::of_failure();
    warn!(actor_id = route.actor_id, error_id, %error, "actor gave no HTTP response");
    let error = CallError::Callee(format!("it gave no HTTP response: {error}"));
    route.record_failure(&error, error_id.as_deref());
    answer
}

/// The head of a component's answer as clients get it: without the headers of a connection.
pub fn settled(rules: &Rules, head: &response::Parts) -> Result<Response<()>, BadResponse> {
    if head.status.is_informational() {
        return Err(BadResponse::Status(head.status.as_u16().into()));
    }
    let mut answer = Response::new(());
    *answer.status_mut() = head.status;
    let passed = head.headers.iter().filter(|(name, _)| !HOP_BY_HOP.contains(name));
    for (name, value) in passed.take(HEADERS_MAX) {
        answer.headers_mut().append(name.clone(), value.clone());
    }
    Ok(cached(rules, answer))
}

/// Reads the answer in an actor's payload. One to HEAD may say how long the body would be that it
/// lacks.
fn answer_of(payload: Bytes, method: &Method) -> Result<Answer, BadResponse> {
    let payload = msgpack(payload)?;
    let response = HttpResponse::decode(&payload)?;
    // Interim answers are no answers: clients would wait on.
    let status = u16::try_from(response.status_code)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok())
        .filter(|status| !status.is_informational())
        .ok_or(BadResponse::Status(response.status_code))?;
    let mut headers = HeaderMap::with_capacity(response.header.len().min(32) + 4);
    let mut length = None;
    for (name, value) in response.header {
        if *method == Method::HEAD
            && name.eq_ignore_ascii_case(header::CONTENT_LENGTH.as_str().as_bytes())
        {
            length = length.or_else(|| number(value));
        }
        match (
            HeaderName::from_bytes(name),
            HeaderValue::from_maybe_shared(payload.slice_ref(value)),
        ) {
            (Ok(name), _) if HOP_BY_HOP.contains(&name) => {}
            (Ok(name), Ok(value)) if headers.len() < HEADERS_MAX => {
                headers.append(name, value);
            }
            _ => {
                debug!(name = %String::from_utf8_lossy(name), "header of an actor's response dropped")
            }
        }
    }
    let body = response.body.into_bytes(&payload);
    if let Some(length) = length.filter(|_| body.is_empty() && status != StatusCode::NO_CONTENT) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let mut answer = Answer::new(body);
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    Ok(answer)
}

/// The length that a component says an answer on its way has.
pub fn length_of(headers: &HeaderMap) -> Option<u64> {
    let mut given = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = number(given.next()?.as_bytes());
    length.filter(|_| given.next().is_none())
}

fn number(text: &[u8]) -> Option<u64> {
    let digits =
        str::from_utf8(text).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok()
}

/// Why an actor's payload is no answer.
#[derive(Debug, thiserror::Error)]
pub enum BadResponse {
    #[error(transparent)]
    Payload(#[from] PayloadError),
    #[error("the status code {0} is not between 200 and 999")]
    Status(u64),
}

/// Answers for an actor that failed, and logs what the client is not told.
pub fn failed(route: &Route, error: &CallError) -> Answer {
    let (answer, error_id) = answers::of_call(error, &route.actor_id);
    route.record_failure(error, error_id.as_deref());
    match error_id {
        Some(error_id) if answer.status().is_client_error() => {
            debug!(actor_id = route.actor_id, error_id, %error, "actor refused a request");
        }
        Some(error_id) => {
            warn!(actor_id = route.actor_id, error_id, %error, "actor failed to answer a request");
        }
        // Under load there is one of these per request, and they say nothing new.
        None => debug!(actor_id = route.actor_id, %error, "actor not available for a request"),
    }
    answer
}

/// Adds the headers that the link's values ask for.
fn decorate<B>(rules: &Rules, parts: &Parts, answer: &mut Response<B>) {
    if !cors::is_preflight(parts) {
        rules.cors.decorate(parts.headers.get(header::ORIGIN), answer.headers_mut());
    }
}

/// Takes the body away and says how long it would have been.
pub fn only_head(answer: &mut Answer) {
    let length = answer.body().len();
    if length > 0 {
        answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        *answer.body_mut() = Bytes::new();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn payload(json: &serde_json::Value) -> Bytes {
        rmp_serde::to_vec_named(json).unwrap().into()
    }

    #[test]
    fn an_actors_headers_pass_unless_they_are_the_connections_or_none() {
        let response = json!({"statusCode": 299, "header": {
            "Set-Cookie": ["a=1", "b=2"], "Connection": ["close"], "Content-Length": ["7"], "Transfer-Encoding": ["x"],
            "bad name": ["1"], "bad-value": ["a\nb"], "X-Text": "é",
        }, "body": "hi"});
        let answer = answer_of(payload(&response), &Method::GET).unwrap();
        assert_eq!(answer.status(), 299);
        let mut headers: Vec<_> =
            answer.headers().iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect();
        headers.sort_unstable();
        assert_eq!(
            headers,
            [("set-cookie", &b"a=1"[..]), ("set-cookie", b"b=2"), ("x-text", "é".as_bytes())]
        );
        assert_eq!(answer.into_body(), "hi");
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for status in [0, 99, 100, 101, 1000, 70_000] {
            assert!(matches!(
                answer_of(payload(&json!({"statusCode": status})), &Method::GET),
                Err(BadResponse::Status(_))
            ));
        }
        assert!(matches!(answer_of("hello".into(), &Method::GET), Err(BadResponse::Payload(_))));
        assert!(answer_of(payload(&json!({"statusCode": 999})), &Method::GET).is_ok());
    }

    #[test]
    fn head_may_be_told_the_length_of_a_body_that_is_not_sent() {
        let length = |status: u16, value: &str, body: &str, method| {
            let response =
                json!({"statusCode": status, "header": {"Content-Length": [value]}, "body": body});
            let answer = answer_of(payload(&response), &method).unwrap();
            answer
                .headers()
                .get(header::CONTENT_LENGTH)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(length(200, "1234", "", Method::HEAD).as_deref(), Some("1234"));
        for (status, value, body, method) in [
            (200, "1234", "", Method::GET),
            (200, "1234", "x", Method::HEAD),
            (200, "+7", "", Method::HEAD),
            (204, "7", "", Method::HEAD),
        ] {
            assert_eq!(length(status, value, body, method), None);
        }
    }

    #[test]
    fn a_flood_of_headers_is_cut() {
        let header: serde_json::Map<String, serde_json::Value> =
            (0..40_000).map(|number| (format!("h{number}"), json!(["1"]))).collect();
        let answer = answer_of(payload(&json!({"header": header})), &Method::GET).unwrap();
        assert_eq!(answer.headers().len(), HEADERS_MAX);
    }
}

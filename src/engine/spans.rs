//! The spans of a call, for a collector: what each hop is called and what it says of itself.
//!
//! ```text
//! request ─▶ call ─▶ (over NATS: received there) ─▶ actor ─▶ call ─▶ provider ─▶ request
//! ```
//!
//! Each function names its span in the trace of the call, so that the next hop is under it. All of
//! them do nothing where no traces are exported ([`trace`]).

use std::{fmt::Display, net::SocketAddr, pin::Pin};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, StatusCode,
    header::{self, HeaderName, HeaderValue},
    http::request::Parts,
};

use crate::{
    meter::NAME_BYTES_MAX,
    rpc::call::{Call, CallError},
};
use lattice_base::telemetry::{
    otel::trace::{self, KeyValue, Span, SpanKind},
    within,
};
use lattice_protocol::{
    identity::claims::ActorClaims,
    meter::Path,
    rpc::invocation::{Entity, TraceContext},
};

/// The name of a request with a method of nobody's.
const OTHER_METHOD: &str = "HTTP";
/// The method of the same, as an attribute.
const OTHER: &str = "_OTHER";

/// Begins the span of a call that begins in this process.
pub fn made(call: &mut Call, path: Path) -> Span {
    if !trace::is_on() {
        return Span::none();
    }
    let (kind, way) = match path {
        Path::Local => (SpanKind::Internal, "local"),
        Path::Nats => (SpanKind::Client, "nats"),
    };
    let operation = operation_of(call);
    let mut attributes = about(call, &operation);
    attributes.push(KeyValue::new("lattice.path", way));
    Span::begin(kind, format!("call {operation}"), attributes, &mut call.trace)
}

/// Begins the span of a call that arrived over NATS.
pub fn received(call: &mut Call) -> Span {
    if !trace::is_on() {
        return Span::none();
    }
    let operation = operation_of(call);
    let mut attributes = about(call, &operation);
    attributes.push(KeyValue::new("lattice.path", "nats"));
    Span::begin(SpanKind::Server, operation, attributes, &mut call.trace)
}

/// Begins the span of a call in an instance of an actor, from the wait for the instance on.
pub fn run(call: &mut Call, claims: &ActorClaims) -> Span {
    if !trace::is_on() {
        return Span::none();
    }
    let operation = operation_of(call);
    let name = format!("actor {operation}");
    let mut attributes = vec![
        KeyValue::new("lattice.actor.id", claims.subject.to_string()),
        KeyValue::new("rpc.method", operation),
    ];
    attributes.extend(claims.name.clone().map(|name| KeyValue::new("lattice.actor.name", name)));
    let revision = claims.revision.map(i64::from);
    attributes.extend(revision.map(|number| KeyValue::new("lattice.actor.revision", number)));
    Span::begin(SpanKind::Internal, name, attributes, &mut call.trace)
}

/// Begins the span of a call in a built-in provider.
pub fn provided(call: &mut Call) -> Span {
    if !trace::is_on() {
        return Span::none();
    }
    let operation = operation_of(call);
    let name = format!("provider {operation}");
    let Entity { contract_id, link_name, public_key } = &call.target;
    let attributes = vec![
        KeyValue::new("lattice.provider.id", public_key.to_string()),
        KeyValue::new("lattice.contract_id", contract_id.to_string()),
        KeyValue::new("lattice.link_name", link_name.to_string()),
        KeyValue::new("rpc.method", operation),
    ];
    Span::begin(SpanKind::Internal, name, attributes, &mut call.trace)
}

/// The operation of a call as far as a span names it: it comes from the wire.
fn operation_of(call: &Call) -> String {
    within(&call.operation, NAME_BYTES_MAX).into_owned()
}

/// The attributes that every hop has of a call.
fn about(call: &Call, operation: &str) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("rpc.system", "wasmbus"),
        KeyValue::new("rpc.method", operation.to_owned()),
        KeyValue::new("lattice.origin", call.origin.public_key.to_string()),
        KeyValue::new("lattice.target", call.target.public_key.to_string()),
    ];
    if !call.target.is_actor() {
        let contract_id = call.target.contract_id.to_string();
        attributes.push(KeyValue::new("lattice.contract_id", contract_id));
    }
    attributes
}

/// Performs a call within its span, which ends with it.
pub async fn around<F>(span: Span, call: Pin<&mut F>) -> Result<Bytes, CallError>
where
    F: Future<Output = Result<Bytes, CallError>>,
{
    let result = span.within(call).await;
    end(span, &result);
    result
}

/// Ends the span of a call with its result.
pub fn end(span: Span, result: &Result<Bytes, CallError>) {
    span.end(result.as_ref().err().map(as_display));
}

fn as_display(error: &CallError) -> &dyn Display {
    error
}

/// The trace of a request under the span of its server.
#[derive(Clone)]
struct Served(TraceContext);

/// Begins the span of a request that an actor is to answer.
pub fn request(parts: &mut Parts, actor_id: &str, remote: SocketAddr) -> Span {
    if !trace::is_on() {
        return Span::none();
    }
    let (name, method) = named(&parts.method);
    let mut attributes = vec![
        KeyValue::new("http.request.method", method),
        KeyValue::new("url.path", parts.uri.path().to_owned()),
        KeyValue::new("client.address", remote.ip().to_string()),
        KeyValue::new("lattice.target", actor_id.to_owned()),
    ];
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    attributes.extend(host.map(|host| KeyValue::new("server.address", host.to_owned())));
    let mut told = carried(&parts.headers);
    let span = Span::begin(SpanKind::Server, name, attributes, &mut told);
    parts.extensions.insert(Served(told));
    span
}

/// Returns the trace of a request: what its client has begun, or the span of its server.
pub fn of_request(parts: &Parts) -> TraceContext {
    match parts.extensions.get::<Served>() {
        Some(Served(told)) => told.clone(),
        None => carried(&parts.headers),
    }
}

/// Ends the span of a request with the status of its answer.
pub fn answered(span: Span, status: StatusCode) {
    end_with_status(span, status, status.is_server_error());
}

/// The trace that the headers of a request carry.
fn carried(headers: &HeaderMap) -> TraceContext {
    let mut told = TraceContext::default();
    for &name in trace::carried() {
        if let Some(value) = headers.get(name).and_then(|value| value.to_str().ok()) {
            told.push(name, value);
        }
    }
    told
}

/// Begins the span of a request to another server, and adds the headers that carry it. `shown`
/// makes the URL without its secrets.
pub fn outgoing(
    told: &TraceContext,
    method: &Method,
    shown: impl FnOnce() -> String,
    headers: &mut HeaderMap,
) -> Span {
    if !trace::is_on() {
        return Span::none();
    }
    let (name, method) = named(method);
    let attributes =
        vec![KeyValue::new("http.request.method", method), KeyValue::new("url.full", shown())];
    let mut told = told.clone();
    let span = Span::begin(SpanKind::Client, name, attributes, &mut told);
    carry(&told, headers);
    span
}

/// Adds the headers that carry a trace, unless the actor has written them.
fn carry(told: &TraceContext, headers: &mut HeaderMap) {
    for &name in trace::carried() {
        let name = HeaderName::from_static(name);
        let value = told.get(name.as_str()).and_then(|value| HeaderValue::from_str(value).ok());
        if let Some(value) = value
            && !headers.contains_key(&name)
        {
            headers.insert(name, value);
        }
    }
}

/// Ends the span of a request to another server with its answer, or with the reason for none.
pub fn sent(span: Span, outcome: Result<StatusCode, &dyn Display>) {
    match outcome {
        Ok(status) => {
            let is_failure = status.is_client_error() || status.is_server_error();
            end_with_status(span, status, is_failure);
        }
        Err(failure) => span.end(Some(failure)),
    }
}

fn end_with_status(span: Span, status: StatusCode, is_failure: bool) {
    if span.is_on() {
        span.set(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
    }
    span.end(is_failure.then_some(&status as &dyn Display));
}

/// The name of the span of a request, and its method as an attribute: only those that everybody
/// knows, for clients choose the others.
fn named(method: &Method) -> (String, String) {
    const KNOWN: [Method; 9] = [
        Method::CONNECT,
        Method::DELETE,
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::PATCH,
        Method::POST,
        Method::PUT,
        Method::TRACE,
    ];
    match KNOWN.contains(method) {
        true => (method.to_string(), method.to_string()),
        false => (OTHER_METHOD.to_owned(), OTHER.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_of_a_span_has_a_bound() {
        for (bytes, told) in [(NAME_BYTES_MAX, ""), (1 << 20, "… (1048576 bytes)")] {
            let ends = (Entity::new("V", "default", "c"), Entity::new("M", "", ""));
            let deadline = tokio::time::Instant::now();
            let call = Call::new(ends, "o".repeat(bytes), Bytes::new(), deadline);
            let operation = operation_of(&call);
            assert_eq!(operation, format!("{}{told}", "o".repeat(NAME_BYTES_MAX)));
            assert!(about(&call, &operation).contains(&KeyValue::new("rpc.method", operation)));
        }
    }

    #[test]
    fn methods_of_nobody_name_no_span() {
        for (method, name, attribute) in
            [("GET", "GET", "GET"), ("PATCH", "PATCH", "PATCH"), ("PURGE1", "HTTP", "_OTHER")]
        {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(named(&method), (name.to_owned(), attribute.to_owned()));
        }
    }

    #[test]
    fn a_request_carries_the_trace_of_its_call_unless_the_actor_wrote_one() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let told = TraceContext(vec![
            ("traceparent".into(), parent.into()),
            ("tracestate".into(), "line\nbreak".into()),
            ("other".into(), "x".into()),
        ]);
        for (written, expected) in [(None, parent), (Some("mine"), "mine")] {
            let mut headers = HeaderMap::new();
            if let Some(written) = written {
                headers.insert("traceparent", HeaderValue::from_static(written));
            }
            carry(&told, &mut headers);
            assert_eq!(headers["traceparent"], expected);
            assert_eq!(headers.len(), 1, "{headers:?}");
        }
    }

    #[test]
    fn a_request_that_no_span_was_begun_for_has_the_trace_of_its_client() {
        let request = hyper::Request::get("/").header("traceparent", "p").header("x", "y");
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let remote = SocketAddr::from(([127, 0, 0, 1], 1));
        let span = super::request(&mut parts, "M", remote);
        assert_eq!(of_request(&parts).iter().collect::<Vec<_>>(), [("traceparent", "p")]);
        answered(span, StatusCode::OK);
    }
}

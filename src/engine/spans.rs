//! The spans of a call, for a collector: what each hop is called and what it says of itself.
//!
//! ```text
//! request ─▶ call ─▶ (over NATS: received there) ─▶ actor ─▶ call ─▶ provider ─▶ request
//! ```
//!
//! Each function names its span in the trace of the call, so that the next hop is under it. Where no
//! traces are exported ([`trace`]) there are no spans, and the trace that a client began goes on as
//! it came.
//!
//! Operations come from the wire, so a span is named as its call is [counted](crate::meter); the
//! operation itself is an attribute.

use std::{borrow::Cow, fmt::Display, net::SocketAddr, pin::Pin};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, StatusCode,
    header::{self, HeaderName, HeaderValue},
    http::{request::Parts, uri::Authority},
};
use reqwest::Url;

use crate::{
    meter::{self, InWork, NAME_BYTES_MAX, Target},
    rpc::call::{Call, CallError},
};
use lattice_base::telemetry::{
    otel::trace::{self, KeyValue, Span, SpanKind},
    within,
};
use lattice_protocol::{
    contracts::httpclient::FailureCause,
    identity::{claims::ActorClaims, keys::ActorId},
    meter::Path,
    rpc::invocation::{Entity, TraceContext},
};

/// The name of a request with a method of nobody's.
const OTHER_METHOD: &str = "HTTP";
/// The method of the same, as an attribute.
const OTHER: &str = "_OTHER";
/// The kind of a failure, of which there are few.
const ERROR_TYPE: &str = "error.type";
/// The header of which a request has one line at most.
const PARENT: &str = "traceparent";

/// Begins the span of a call that begins in this process.
pub fn made(call: &mut Call, path: Path, counted: Option<&InWork>) -> Span {
    if !trace::is_on() {
        return Span::none();
    }
    let (kind, way) = match path {
        Path::Local => (SpanKind::Internal, "local"),
        Path::Nats => (SpanKind::Client, "nats"),
    };
    let mut attributes = about((&call.origin, &call.target), &call.operation);
    attributes.push(KeyValue::new("lattice.path", way));
    Span::begin(kind, format!("call {}", name_of(counted)), attributes, &mut call.trace)
}

/// Tells of a call that was refused before it went anywhere.
pub fn refused(
    ends: (&Entity, &Entity),
    operation: &str,
    (trace, name): (&TraceContext, impl FnOnce() -> String),
    error: &CallError,
) {
    if !trace::is_on() {
        return;
    }
    let name = format!("call {}", name());
    let attributes = about(ends, operation);
    fail(Span::begin(SpanKind::Internal, name, attributes, &mut trace.clone()), error);
}

/// Begins the span of a call that arrived over NATS.
pub fn received(call: &mut Call, counted: Option<&InWork>) -> Span {
    if !trace::is_on() {
        return Span::none();
    }
    let mut attributes = about((&call.origin, &call.target), &call.operation);
    attributes.push(KeyValue::new("lattice.path", "nats"));
    Span::begin(SpanKind::Server, name_of(counted).to_owned(), attributes, &mut call.trace)
}

/// Begins the span of a call of an actor, from the wait for a permit on.
pub fn run(call: &mut Call, actor_id: &ActorId, served: &Target) -> Span {
    if !trace::is_on() {
        return Span::none();
    }
    let name = format!("actor {}", served.name_of(&call.operation));
    let attributes = vec![
        KeyValue::new("lattice.actor.id", actor_id.to_string()),
        KeyValue::new("rpc.method", operation_of(&call.operation)),
    ];
    Span::begin(SpanKind::Internal, name, attributes, &mut call.trace)
}

/// Says of which module the instance is that a call of an actor gets.
pub fn runs_in(span: &Span, claims: &ActorClaims) {
    if !span.is_on() {
        return;
    }
    if let Some(name) = &claims.name {
        span.set(KeyValue::new("lattice.actor.name", name.clone()));
    }
    if let Some(revision) = claims.revision {
        span.set(KeyValue::new("lattice.actor.revision", i64::from(revision)));
    }
}

/// Begins the span of a call in a built-in provider, from the wait for its link on.
pub fn provided(call: &mut Call, served: &Target) -> Span {
    if !trace::is_on() {
        return Span::none();
    }
    let name = format!("provider {}", served.name_of(&call.operation));
    let Entity { contract_id, link_name, public_key } = &call.target;
    let attributes = vec![
        KeyValue::new("lattice.provider.id", public_key.to_string()),
        KeyValue::new("lattice.contract_id", contract_id.to_string()),
        KeyValue::new("lattice.link_name", link_name.to_string()),
        KeyValue::new("rpc.method", operation_of(&call.operation)),
    ];
    Span::begin(SpanKind::Internal, name, attributes, &mut call.trace)
}

/// The name under which the operation of a call is counted.
fn name_of(counted: Option<&InWork>) -> &str {
    counted.map_or(meter::OTHER, InWork::operation)
}

/// An operation as far as a span has it: it comes from the wire.
fn operation_of(operation: &str) -> String {
    within(operation, NAME_BYTES_MAX).into_owned()
}

/// The attributes that every hop has of a call.
fn about((origin, target): (&Entity, &Entity), operation: &str) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("rpc.system", "wasmbus"),
        KeyValue::new("rpc.method", operation_of(operation)),
        KeyValue::new("lattice.origin", origin.public_key.to_string()),
        KeyValue::new("lattice.target", target.public_key.to_string()),
    ];
    if !target.is_actor() {
        attributes.push(KeyValue::new("lattice.contract_id", target.contract_id.to_string()));
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
    match result {
        Ok(_) => span.end(None),
        Err(error) => fail(span, error),
    }
}

/// Ends the span of a call that failed.
pub fn fail(span: Span, error: &CallError) {
    span.set(KeyValue::new(ERROR_TYPE, kind_of(error)));
    span.end(Some(error));
}

/// The kind of an error, for those who count spans by it.
fn kind_of(error: &CallError) -> &'static str {
    match error {
        CallError::Callee(_) => "callee",
        CallError::NoLink { .. } => "no_link",
        CallError::NoAlias { .. } => "no_alias",
        CallError::NoCapability { .. } | CallError::NeitherSignedNorLinked { .. } => {
            "no_capability"
        }
        CallError::NotSignedFor { .. } => "not_signed_for",
        CallError::NotLetIn { .. } | CallError::NotLinked { .. } => "not_linked",
        CallError::Denied { .. } => "denied",
        CallError::NoResponders { .. } => "no_responders",
        CallError::TimedOut { .. } => "timed_out",
        CallError::OutcomeUnknown { .. } => "outcome_unknown",
        CallError::Deadline { .. } => "deadline",
        CallError::NotAdmitted { .. } => "not_admitted",
        CallError::Trap { .. } => "trap",
        CallError::TooDeep => "too_deep",
        CallError::NotInForce { .. } => "not_in_force",
        CallError::Transport(_) => "transport",
        CallError::TooLarge { .. } => "too_large",
    }
}

/// The trace of a request under the span of its server.
#[derive(Clone)]
struct Served(TraceContext);

/// Begins the span of a request that an actor is to answer. `scheme` is that of its connection.
pub fn request(
    parts: &mut Parts,
    actor_id: &str,
    (remote, scheme): (SocketAddr, &'static str),
) -> Span {
    if !trace::is_on() {
        return Span::none();
    }
    let (name, method) = named(&parts.method);
    let mut attributes = vec![
        KeyValue::new("http.request.method", method),
        KeyValue::new("url.path", parts.uri.path().to_owned()),
        KeyValue::new("url.scheme", scheme),
        KeyValue::new("client.address", remote.ip().to_string()),
        KeyValue::new("lattice.target", actor_id.to_owned()),
    ];
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    attributes.extend(host.map(address_of).into_iter().flat_map(server));
    let mut told = carried(&parts.headers);
    let span = Span::begin(SpanKind::Server, name, attributes, &mut told);
    parts.extensions.insert(Served(told));
    span
}

/// The address and the port that a `Host` header names.
fn address_of(host: &str) -> (String, Option<u16>) {
    match host.parse::<Authority>() {
        Ok(authority) => (bare(authority.host()), authority.port_u16()),
        Err(_) => (host.to_owned(), None),
    }
}

/// An address without the brackets that one of IPv6 has in a URL.
fn bare(address: &str) -> String {
    address.trim_matches(['[', ']']).to_owned()
}

/// The attributes of the server that a request is for.
fn server((address, port): (String, Option<u16>)) -> impl Iterator<Item = KeyValue> {
    let address = KeyValue::new("server.address", address);
    let port = port.map(|port| KeyValue::new("server.port", i64::from(port)));
    [Some(address), port].into_iter().flatten()
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
        if let Some(value) = value_of(headers, name) {
            told.push(name, value);
        }
    }
    told
}

/// The value of a header, of which the lines are one list. Two parents are none.
fn value_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<Cow<'a, str>> {
    let mut lines = headers.get_all(name).iter();
    let mut value = Cow::Borrowed(lines.next()?.to_str().ok()?);
    for line in lines {
        if name == PARENT {
            return None;
        }
        let joined = value.to_mut();
        joined.push(',');
        joined.push_str(line.to_str().ok()?);
    }
    Some(value)
}

/// Begins the span of a request to another server, and adds the headers that carry it; where no
/// traces are exported, those of the trace that its call came with. `shown` makes the URL without
/// its secrets.
pub fn outgoing(
    told: &TraceContext,
    method: &Method,
    (url, shown): (&Url, fn(&Url) -> String),
    headers: &mut HeaderMap,
) -> Span {
    if !trace::is_on() {
        carry(told, headers);
        return Span::none();
    }
    let (name, method) = named(method);
    let mut attributes =
        vec![KeyValue::new("http.request.method", method), KeyValue::new("url.full", shown(url))];
    let address = url.host_str().map(|host| (bare(host), url.port_or_known_default()));
    attributes.extend(address.into_iter().flat_map(server));
    let mut told = told.clone();
    let span = Span::begin(SpanKind::Client, name, attributes, &mut told);
    carry(&told, headers);
    span
}

/// Adds the headers that carry a trace, unless the actor has written them.
fn carry(told: &TraceContext, headers: &mut HeaderMap) {
    if told.is_empty() {
        return;
    }
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
pub fn sent(span: Span, outcome: Result<StatusCode, (FailureCause, &dyn Display)>) {
    match outcome {
        Ok(status) => {
            let is_failure = status.is_client_error() || status.is_server_error();
            end_with_status(span, status, is_failure);
        }
        Err((cause, failure)) => {
            if span.is_on() {
                span.set(KeyValue::new(ERROR_TYPE, word_of(cause)));
            }
            span.end(Some(failure));
        }
    }
}

/// The word of `wasi:http` for a failure.
fn word_of(cause: FailureCause) -> String {
    // A variant without members is a text.
    let word = serde_json::to_value(cause).unwrap_or_default();
    word.as_str().unwrap_or_default().to_owned()
}

fn end_with_status(span: Span, status: StatusCode, is_failure: bool) {
    if span.is_on() {
        span.set(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if is_failure {
            span.set(KeyValue::new(ERROR_TYPE, status.as_str().to_owned()));
        }
    }
    // The code says it; no description repeats it.
    span.end(is_failure.then_some(&"" as &dyn Display));
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
    use crate::meter::Meter;

    #[test]
    fn an_operation_of_a_span_has_a_bound() {
        let (origin, target) = (Entity::new("V", "default", "c"), Entity::new("M", "", ""));
        for (bytes, told) in [(NAME_BYTES_MAX, ""), (1 << 20, "… (1048576 bytes)")] {
            let attributes = about((&origin, &target), &"o".repeat(bytes));
            let expected = format!("{}{told}", "o".repeat(NAME_BYTES_MAX));
            assert!(attributes.contains(&KeyValue::new("rpc.method", expected)), "{bytes}");
        }
    }

    #[test]
    fn a_call_is_named_as_it_is_counted() {
        let target = Meter::default().serve("M", "");
        let long = "o".repeat(NAME_BYTES_MAX + 1);
        for (operation, name) in [("Op", "Op"), (&*long, meter::OTHER)] {
            let counted = target.begin(operation, Path::Local);
            assert_eq!(name_of(Some(&counted)), name);
            assert_eq!(target.name_of(operation), name);
            counted.withdraw();
        }
        assert_eq!((name_of(None), target.name_of("Never")), (meter::OTHER, meter::OTHER.into()));
    }

    #[test]
    fn an_address_has_no_port_and_no_brackets() {
        for (host, address, port) in [
            ("127.0.0.1:4410", "127.0.0.1", Some(4410)),
            ("example.org", "example.org", None),
            ("[::1]:80", "::1", Some(80)),
            ("[::1]", "::1", None),
            ("a b", "a b", None),
        ] {
            assert_eq!(address_of(host), (address.to_owned(), port));
        }
    }

    #[test]
    fn a_failure_without_an_answer_has_the_word_of_wasi_http() {
        assert_eq!(word_of(FailureCause::DnsError), "dns-error");
        assert_eq!(word_of(FailureCause::InternalError), "internal-error");
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
    fn without_spans_a_request_takes_along_what_its_call_came_with() {
        let url = Url::parse("http://example.org").unwrap();
        let shown: fn(&Url) -> String = |_| unreachable!("there is no span");
        for carried in [&[("traceparent", "p"), ("tracestate", "a=b"), ("baggage", "k=v")][..], &[]]
        {
            let pairs = carried.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            let (told, mut headers) = (TraceContext(pairs.collect()), HeaderMap::new());
            let span = outgoing(&told, &Method::GET, (&url, shown), &mut headers);
            assert!(!span.is_on());
            assert_eq!(headers.len(), carried.len());
            assert!(carried.iter().all(|(name, value)| headers[*name] == *value), "{headers:?}");
        }
    }

    #[test]
    fn a_request_that_no_span_was_begun_for_has_the_trace_of_its_client() {
        const NONE: &[(&str, &str)] = &[];
        for (lines, expected) in [
            (&[("traceparent", "p"), ("x", "y")][..], &[("traceparent", "p")][..]),
            (&[("traceparent", "p"), ("traceparent", "q")], NONE),
            (
                &[
                    ("tracestate", "a=b"),
                    ("tracestate", "c=d"),
                    ("baggage", "k=1"),
                    ("baggage", "l=2"),
                ],
                &[("baggage", "k=1,l=2"), ("tracestate", "a=b,c=d")],
            ),
            (&[("baggage", "k=ä"), ("baggage", "l=2")], NONE),
            (NONE, NONE),
        ] {
            let mut request = hyper::Request::get("/");
            for (name, value) in lines {
                request = request.header(*name, *value);
            }
            let (mut parts, ()) = request.body(()).unwrap().into_parts();
            let remote = SocketAddr::from(([127, 0, 0, 1], 1));
            let span = super::request(&mut parts, "M", (remote, "http"));
            assert_eq!(of_request(&parts).iter().collect::<Vec<_>>(), expected, "{lines:?}");
            answered(span, StatusCode::OK);
        }
    }
}

//! `wasi:http`: requests to a component, and its own to the world.
//!
//! A request comes as `HttpServer.HandleRequest`; the guest sees it as
//! `wasi:http/incoming-handler@0.2` or, if it exports that, `wasi:http/handler@0.3`. Its own
//! requests are [`outgoing`].
//!
//! Bodies go piece by piece where the provider is built in (see [`exchange`]); to and from every
//! other one they are whole, and as long as the guest's memory at most.
//!
//! The half of wasmtime-wasi-http for 0.3, whose interface still moves, is used here and where the
//! linker is made.
//!
//! * [`worker`] is an instance of 0.3 that answers several requests at a time.
//!
//! [`exchange`]: crate::rpc::exchange

mod outgoing;
pub mod worker;

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::{channel::oneshot, future};
use http_body_util::{BodyExt as _, Limited};
use hyper::{
    body::Frame,
    http::{self, HeaderMap, HeaderName, HeaderValue, Method, Uri, header},
};
use serde::Deserialize;
use tokio::time::timeout;
use wasmtime::{
    AsContextMut as _,
    component::{InstancePre, Linker},
};
use wasmtime_wasi_http::{
    Error, WasiBody, WasiHttp, WasiHttpView,
    handler::{Prepared, Proxy, ProxyPre, Response},
    p2, p3,
};

use super::{Failure, Guest, Idle, Instance, Output, Reuse, caller::End};
use crate::rpc::exchange::{self, BodyError, Exchange};
use lattice_protocol::{
    contracts::{
        self,
        binary::Binary,
        httpclient::{HeaderValues, HttpResponse},
        httpserver::HANDLE_REQUEST,
    },
    serde_null::null_as_default,
};
pub(super) use outgoing::Hooks;

/// The exports that take requests, as messages name them.
pub const INCOMING: &str = "wasi:http/incoming-handler@0.2";
pub const HANDLER: &str = "wasi:http/handler@0.3";
/// How long an instance of 0.2 that has returned waits until its answer was read, to serve again.
const READ_WITHIN: Duration = Duration::from_millis(2);
/// The host of a request that names none, as tools send it.
const NO_HOST: &str = "localhost";

/// A request, as providers of all years send it.
#[derive(Debug, Default, Deserialize)]
struct Incoming {
    #[serde(default, deserialize_with = "null_as_default")]
    method: String,
    #[serde(default, deserialize_with = "null_as_default")]
    path: String,
    #[serde(default, rename = "queryString", deserialize_with = "null_as_default")]
    query: String,
    #[serde(default, deserialize_with = "null_as_default")]
    header: BTreeMap<String, HeaderValues>,
    #[serde(default)]
    body: Binary,
}

/// Why a request of a provider is none.
#[derive(Debug, thiserror::Error)]
enum BadRequest {
    #[error("the method is no token")]
    Method,
    #[error("the name of a header is no token")]
    HeaderName,
    #[error("a header has control characters")]
    HeaderValue,
    #[error("the path cannot be read: {0}")]
    Path(#[from] http::uri::InvalidUri),
}

impl Incoming {
    fn into_request(self) -> Result<http::Request<WasiBody>, BadRequest> {
        let method = match self.method.as_str() {
            "" => Method::GET,
            given => Method::from_bytes(given.as_bytes()).map_err(|_| BadRequest::Method)?,
        };
        let mut headers = HeaderMap::new();
        for (name, HeaderValues(values)) in self.header {
            let name = HeaderName::from_bytes(name.as_bytes());
            let name = name.map_err(|_| BadRequest::HeaderName)?;
            for value in values {
                let value = HeaderValue::from_bytes(value.as_bytes());
                headers.append(&name, value.map_err(|_| BadRequest::HeaderValue)?);
            }
        }
        let authority = headers.remove(header::HOST);
        let authority = authority.as_ref().and_then(|host| host.to_str().ok());
        let authority = authority.filter(|host| !host.is_empty()).unwrap_or(NO_HOST);
        let slash = if self.path.starts_with('/') { "" } else { "/" };
        let mark = if self.query.is_empty() { "" } else { "?" };
        // Absolute, because a guest of 0.3 knows its host from nothing else.
        let uri: Uri =
            format!("http://{authority}{slash}{}{mark}{}", self.path, self.query).parse()?;
        // It is of one connection.
        headers.remove(header::TRANSFER_ENCODING);
        let mut request = http::Request::new(exchange::whole(self.body.0));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let options = p2::bindings::LinkOptions::default();
    p2::bindings::http::types::add_to_linker::<_, WasiHttp>(
        linker,
        &(&options).into(),
        WasiHttpView::http,
    )?;
    p3::bindings::http::types::add_to_linker::<_, WasiHttp>(linker, WasiHttpView::http)?;
    outgoing::add_to_linker(linker)
}

/// Finds the export that takes requests, the one of 0.3 first.
pub(super) fn proxy(pre: &InstancePre<Guest>) -> Option<ProxyPre<Guest>> {
    if let Ok(service) = p3::bindings::ServicePre::new(pre.clone()) {
        return Some(ProxyPre::P3(service));
    }
    p2::bindings::ProxyPre::new(pre.clone()).ok().map(ProxyPre::P2)
}

/// Says whether an instance can answer several requests at a time.
pub(super) fn answers_several(pre: &ProxyPre<Guest>) -> bool {
    matches!(pre, ProxyPre::P3(_))
}

/// How many requests an instance usually answers. A guest of 0.2 was built for one; one of 0.3 for
/// as many as `wasmtime serve` gives it.
pub(super) fn reuse_usual(pre: &ProxyPre<Guest>) -> u32 {
    match pre {
        ProxyPre::P2(_) => 1,
        ProxyPre::P3(_) => 128,
    }
}

/// Has an instance answer a request; returns it if it may answer another one.
pub(super) async fn handle(
    pre: &ProxyPre<Guest>,
    mut instance: Instance,
    idle: Option<Box<Idle>>,
    reuse: Reuse,
    (payload, exchange): (Bytes, Option<Arc<Exchange>>),
) -> Result<(Bytes, Option<Box<Idle>>), Failure> {
    let request = request_of(payload, exchange.as_deref()).map_err(Failure::Told)?;
    let method = request.method().clone();
    let bytes_max = instance.caller.memory_max_bytes;
    let end = Arc::new(End::default());
    instance.caller.end = Some(Arc::clone(&end));
    let mut idle = match idle {
        Some(mut idle) => {
            instance.take_over(&mut idle.store);
            idle
        }
        None => fresh(pre, &instance).await?,
    };
    let (sender, answer) = oneshot::channel();
    let (read_to_end, is_read) = oneshot::channel::<()>();
    let running = async {
        let Idle { store, proxy, served } = &mut *idle;
        *served += 1;
        let prepared =
            Prepared::new(store.as_context_mut(), proxy, request, WasiHttpView::http, sender)?;
        let ran = store.run_concurrent(async |accessor| {
            let ran = prepared.run(accessor, future::pending()).await;
            ran.map(drop)?;
            wasmtime::Result::Ok(may_go_on(proxy, reuse, is_read).await)
        });
        // Streams that a guest left open would never end while its store lives.
        let may_go_on = end.of(ran).await?;
        // The store has the call twice: in its data and in its hooks.
        let is_done = instance.caller.is_done_but_for(2);
        wasmtime::Result::Ok((may_go_on && is_done).then_some(idle))
    };
    let reading = read(answer, exchange.as_deref(), (&end, read_to_end), (&method, bytes_max));
    let (ran, read): (wasmtime::Result<_>, _) = future::join(running, reading).await;
    let idle = ran?;
    Ok((read.map_err(Failure::Told)?, idle))
}

type Answer = oneshot::Receiver<wasmtime::Result<Response>>;

/// Waits for the answer of a guest, and returns the result of the call: all of it, or nothing if
/// the caller reads it as it comes. The error is a text for the caller.
async fn read(
    answer: Answer,
    exchange: Option<&Exchange>,
    (end, read_to_end): (&Arc<End>, oneshot::Sender<()>),
    (method, bytes_max): (&Method, usize),
) -> Result<Bytes, String> {
    let response = match answer.await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(told(&error)),
        Err(_) => return Err("the component returned without an answer".to_owned()),
    };
    match exchange {
        Some(exchange) => hand_over(exchange, response, (end, read_to_end)),
        None => {
            let read = collect(response, method, bytes_max).await;
            drop(read_to_end);
            read
        }
    }
}

/// Gives an answer to the caller, which reads its body as it comes; then the payload is empty.
fn hand_over(
    caller: &Exchange,
    response: Response,
    (end, read_to_end): (&Arc<End>, oneshot::Sender<()>),
) -> Result<Bytes, String> {
    let end = Arc::clone(end);
    let response =
        response.map(|body| exchange::holding(OfGuest { first: None, body, end }, read_to_end));
    match caller.answer(response) {
        true => Ok(Bytes::new()),
        false => Err("nobody waits for the answer any more".to_owned()),
    }
}

/// The request of a call, with its body as it comes if that is not in the payload.
fn request_of(
    payload: Bytes,
    exchange: Option<&Exchange>,
) -> Result<http::Request<WasiBody>, String> {
    let (payload, body) = match exchange {
        Some(exchange) => exchange.take(payload),
        None => (payload, None),
    };
    let incoming: Incoming =
        contracts::decode(HANDLE_REQUEST, &payload).map_err(|error| error.to_string())?;
    let mut request = incoming.into_request().map_err(|error| error.to_string())?;
    if let Some(body) = body {
        *request.body_mut() = body.map_err(request_broke_off).boxed_unsync();
    }
    Ok(request)
}

async fn fresh(pre: &ProxyPre<Guest>, instance: &Instance) -> wasmtime::Result<Box<Idle>> {
    let mut store = match pre {
        ProxyPre::P2(pre) => instance.store(pre.instance_pre(), Output::Log),
        ProxyPre::P3(pre) => instance.store(pre.instance_pre(), Output::Log),
    };
    let proxy = pre.instantiate_async(&mut store).await?;
    Ok(Box::new(Idle { store, proxy, served: 0 }))
}

/// Says whether an instance that returned can answer another request: its answer must have been
/// read to the end.
async fn may_go_on(proxy: &Proxy, reuse: Reuse, is_read: oneshot::Receiver<()>) -> bool {
    match proxy {
        Proxy::P3(_) => {
            // Its tasks go on writing the body after the head was returned.
            let _ = is_read.await;
            reuse == Reuse::Possible
        }
        // All that it wrote is there, and mostly it is read at once. A body that the guest left
        // open gets no end while the store lives.
        Proxy::P2(_) => reuse == Reuse::Possible && timeout(READ_WITHIN, is_read).await.is_ok(),
    }
}

/// A body that a guest writes. If the guest is cut off, the body breaks off.
struct OfGuest {
    /// The part that was read already.
    first: Option<Bytes>,
    body: WasiBody,
    end: Arc<End>,
}

impl hyper::body::Body for OfGuest {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(match frame {
            None if self.end.is_cut_off() => {
                Some(Err(BodyError::Broken("the component ended before".to_owned())))
            }
            frame => frame.map(|frame| frame.map_err(|error| BodyError::Broken(error.to_string()))),
        })
    }
}

/// The error that a guest sees of a body whose client does not send it to the end.
fn request_broke_off(error: BodyError) -> Error {
    match error {
        BodyError::TooLarge(bytes_max) => Error::HttpRequestBodySize(Some(bytes_max)),
        BodyError::Broken(_) => Error::ConnectionTerminated,
    }
}

/// Reads an answer to its end and writes it as the contract has it.
async fn collect(response: Response, method: &Method, bytes_max: usize) -> Result<Bytes, String> {
    let (mut parts, body) = response.into_parts();
    let body = Limited::new(body, bytes_max).collect().await.map_err(|error| {
        format!("the body of the answer is cut off: {error}; it may have {bytes_max} bytes")
    })?;
    // The contract has no trailers.
    let body = body.to_bytes();
    if *method != Method::HEAD && !has_length(&parts.headers, body.len()) {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    Ok(contracts::encode(&HttpResponse::of(parts.status, &parts.headers, body)))
}

fn has_length(headers: &HeaderMap, length: usize) -> bool {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    announced.is_none_or(|announced| announced.parse() == Ok(length))
}

/// Words the error that a guest answered with.
fn told(error: &wasmtime::Error) -> String {
    let code = match (
        error.downcast_ref::<p2::bindings::http::types::ErrorCode>(),
        error.downcast_ref::<p3::bindings::http::types::ErrorCode>(),
        error.downcast_ref::<Error>(),
    ) {
        (Some(code), _, _) => Error::from(code.clone()).to_string(),
        (_, Some(code), _) => Error::from(code.clone()).to_string(),
        (_, _, Some(code)) => code.to_string(),
        _ => return format!("the component gave no answer: {error:#}"),
    };
    format!("wasi:http error: {code}")
}

#[cfg(test)]
mod tests {
    use lattice_protocol::contracts::httpclient::header_map;

    use super::*;

    fn incoming(host: &[&str], path: &str, query: &str) -> http::Request<WasiBody> {
        let values = host.iter().map(|host| (*host).to_owned()).collect();
        let request = Incoming {
            method: "POST".into(),
            path: path.into(),
            query: query.into(),
            header: BTreeMap::from([("Host".into(), HeaderValues(values))]),
            body: Binary::default(),
        };
        request.into_request().expect("a request")
    }

    #[test]
    fn a_request_has_an_absolute_url_and_no_host_header() {
        let request = incoming(&["shop.example:8080"], "/a%20b", "x=1&x=2");
        assert_eq!(*request.uri(), "http://shop.example:8080/a%20b?x=1&x=2");
        assert!(request.headers().is_empty());
        for (path, url) in [("", "http://localhost/"), ("/", "http://localhost/")] {
            assert_eq!(*incoming(&[], path, "").uri(), url);
        }
    }

    #[test]
    fn what_is_no_request_is_named() {
        let broken = |change: fn(&mut Incoming)| {
            let mut incoming = Incoming::default();
            change(&mut incoming);
            incoming.into_request().map(drop).expect_err("no request").to_string()
        };
        assert!(broken(|request| request.method = "G ET".into()).contains("method"));
        assert!(broken(|request| request.path = "/a b".into()).contains("path"));
        assert!(
            broken(|request| {
                request.header.insert("a b".into(), HeaderValues::default());
            })
            .contains("header")
        );
    }

    #[test]
    fn headers_keep_their_values_apart_and_lengths_are_checked() {
        let mut headers = HeaderMap::new();
        for value in ["a=1", "b=2"] {
            headers.append(header::SET_COOKIE, HeaderValue::from_static(value));
        }
        assert_eq!(header_map(&headers)["set-cookie"].0, ["a=1", "b=2"]);
        assert!(has_length(&headers, 7));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("8"));
        assert!(has_length(&headers, 8) && !has_length(&headers, 7));
    }
}

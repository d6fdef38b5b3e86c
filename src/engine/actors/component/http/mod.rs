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

mod codes;
mod outgoing;
pub mod worker;

use std::{
    future::poll_fn,
    mem,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::{channel::oneshot, future, future::Either};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{
    body::{Body as _, Frame},
    http::{
        self, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header,
        uri::{Authority, Scheme},
    },
};
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
use crate::rpc::exchange::{self, BodyError, Exchange, Joined, WHOLE_BYTES_MAX};
use lattice_protocol::contracts::{
    self, PayloadError,
    httpclient::HttpResponse,
    httpserver::{self, HttpRequest},
};
pub(super) use outgoing::Hooks;

/// The exports that take requests, as messages name them.
pub const INCOMING: &str = "wasi:http/incoming-handler@0.2";
pub const HANDLER: &str = "wasi:http/handler@0.3";
/// How long an instance of 0.2 that has returned waits until its answer was read, to serve again.
/// All that it wrote is there then, and mostly it is read at once.
const READ_WITHIN: Duration = Duration::from_millis(2);
/// How long a guest may write a body that nobody sees.
const UNSEEN_WITHIN: Duration = Duration::from_secs(1);
/// Headers for which there is room at once; the number that a payload says is only a claim.
const HEADERS_AT_ONCE: usize = 32;
/// The host of a request that names none, as tools send it, or none that a URL can have.
const NO_HOST: &str = "localhost";

/// Why a request of a provider is none.
#[derive(Debug, thiserror::Error)]
enum BadRequest {
    #[error("the method is no token")]
    Method,
    #[error("the name of a header is no token")]
    HeaderName,
    #[error("a header has control characters")]
    HeaderValue,
    #[error("the header host has more in it than a host")]
    Host,
    #[error("the path cannot be read: {0}")]
    Path(#[from] http::Error),
    #[error(transparent)]
    Payload(#[from] PayloadError),
}

/// Reads a request, as providers of all years send it. Headers and body are parts of the payload.
fn incoming(payload: Bytes) -> Result<http::Request<WasiBody>, BadRequest> {
    let payload = httpserver::msgpack(payload)?;
    let HttpRequest { method, path, query, header, body } = HttpRequest::decode(&payload)?;
    let method = match method {
        b"" => Method::GET,
        given => Method::from_bytes(given).map_err(|_| BadRequest::Method)?,
    };
    let mut headers = HeaderMap::with_capacity(header.len().min(HEADERS_AT_ONCE));
    for (name, value) in header {
        let name = HeaderName::from_bytes(name).map_err(|_| BadRequest::HeaderName)?;
        let value = HeaderValue::from_maybe_shared(payload.slice_ref(value));
        headers.append(name, value.map_err(|_| BadRequest::HeaderValue)?);
    }
    let host = headers.remove(header::HOST);
    let host = host.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
    if !httpserver::is_host(host) {
        return Err(BadRequest::Host);
    }
    let authority = httpserver::authority(host).unwrap_or_else(|| Authority::from_static(NO_HOST));
    let slash: &[u8] = if path.starts_with(b"/") { b"" } else { b"/" };
    let mark: &[u8] = if query.is_empty() { b"" } else { b"?" };
    // Absolute, because a guest of 0.3 knows its host from nothing else.
    let uri = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(authority)
        .path_and_query([slash, path, mark, query].concat())
        .build()?;
    // It is of one connection.
    headers.remove(header::TRANSFER_ENCODING);
    let mut request = http::Request::new(exchange::whole(body.into_bytes(&payload)));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
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
    let reading = read(answer, exchange.as_deref(), (&end, read_to_end), (&method, bytes_max));
    let mut reading = pin!(reading);
    let (is_read, read) = {
        let running = pin!(end.of(run(&mut idle, (request, sender), is_read)));
        match future::select(running, reading.as_mut()).await {
            Either::Left((is_read, _)) => (is_read?, None),
            // It may write without end.
            Either::Right((read, _)) if end.is_given_up() => {
                return read.map(|payload| (payload, None)).map_err(Failure::Told);
            }
            Either::Right((read, running)) => (running.await?, Some(read)),
        }
    };
    let mut idle = (reuse == Reuse::Possible).then_some(idle);
    let read = match read {
        Some(read) => read,
        None => match timeout(READ_WITHIN, reading.as_mut()).await {
            Ok(read) => read,
            Err(_) => {
                // A body that the guest left open gets no end while its store lives.
                idle = None;
                reading.await
            }
        },
    };
    if idle.is_some() && timeout(READ_WITHIN, is_read).await.is_err() {
        idle = None;
    }
    // The store has the call twice: in its data and in its hooks.
    let is_done = instance.caller.is_done_but_for(2);
    Ok((read.map_err(Failure::Told)?, idle.filter(|_| is_done)))
}

/// Runs an instance until its guest has answered a request, and one of 0.3 until its answer was
/// read: its tasks go on writing the body after the head was returned.
async fn run(
    idle: &mut Idle,
    (request, answer): (http::Request<WasiBody>, oneshot::Sender<wasmtime::Result<Response>>),
    mut is_read: oneshot::Receiver<()>,
) -> wasmtime::Result<wasmtime::Result<oneshot::Receiver<()>>> {
    let Idle { store, proxy, served } = idle;
    *served += 1;
    let (context, view) = (store.as_context_mut(), WasiHttpView::http);
    let prepared = Prepared::new(context, proxy, request, view, answer)?;
    let running = store.run_concurrent(async |accessor| {
        prepared.run(accessor, future::pending()).await?;
        if let Proxy::P3(_) = proxy {
            let _ = (&mut is_read).await;
        }
        Ok(is_read)
    });
    running.await
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
        Ok(Err(error)) => return Err(codes::told(&error)),
        Err(_) => return Err("the component returned without an answer".to_owned()),
    };
    match exchange {
        Some(exchange) => hand_over(exchange, response, method, (end, read_to_end)).await,
        None => {
            let read = collect(response, (method, bytes_max), end).await;
            drop(read_to_end);
            read
        }
    }
}

/// Gives an answer to the caller, which reads its body as it comes; then the payload is empty. A
/// body that is there already is given as a whole, so that nobody waits until it was read.
async fn hand_over(
    caller: &Exchange,
    response: Response,
    method: &Method,
    (end, read_to_end): (&Arc<End>, oneshot::Sender<()>),
) -> Result<Bytes, String> {
    let (parts, body) = response.into_parts();
    if is_only_head(method, parts.status) {
        let head = http::Response::from_parts(parts, exchange::whole(Bytes::new()));
        given(caller.answer(head))?;
        unseen(body, WHOLE_BYTES_MAX, end).await;
        return Ok(Bytes::new());
    }
    let mut body = OfGuest { first: None, body, end: Arc::clone(end) };
    let body = match body.read_what_is_there().await {
        Ok((whole, true)) => exchange::whole(whole),
        Ok((first, false)) => {
            body.first = Some(first).filter(|first| !first.is_empty());
            exchange::holding(body, read_to_end)
        }
        Err(error) => return Err(format!("the body of the answer broke off: {error}")),
    };
    given(caller.answer(http::Response::from_parts(parts, body)))
}

/// The result of a call whose answer was given to its caller.
fn given(somebody_waits: bool) -> Result<Bytes, String> {
    match somebody_waits {
        true => Ok(Bytes::new()),
        false => Err("nobody waits for the answer any more".to_owned()),
    }
}

/// Whether an answer has no body, whatever its headers say of one: guests tell the length of what
/// they do not write, and for wasmtime such a body breaks off.
fn is_only_head(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD || exchange::has_no_body(status)
}

/// Reads the body of an answer of which only the head is seen: its guest may write one all the
/// same. One without an end, such as a stream of events, is given up with its guest; how any other
/// one ends matters to nobody.
async fn unseen(body: WasiBody, bytes_max: usize, end: &End) -> Bytes {
    let mut body = pin!(Limited::new(body, bytes_max));
    // One that writes nothing may have other work to do.
    let mut first = match body.frame().await {
        Some(Ok(frame)) => frame.into_data().map(BytesMut::from).unwrap_or_default(),
        Some(Err(_)) | None => return Bytes::new(),
    };
    match timeout(UNSEEN_WITHIN, body.collect()).await {
        Ok(Ok(rest)) => {
            first.extend_from_slice(&rest.to_bytes());
            return first.freeze();
        }
        Ok(Err(error)) if !error.is::<LengthLimitError>() => {}
        Ok(Err(_)) | Err(_) => end.give_up(),
    }
    Bytes::new()
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
    let mut request = incoming(payload).map_err(|error| error.to_string())?;
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

/// A body that a guest writes. If the guest is cut off, the body breaks off.
struct OfGuest {
    /// The part that was read already.
    first: Option<Bytes>,
    body: WasiBody,
    end: Arc<End>,
}

impl OfGuest {
    /// Reads without waiting; says whether that is all. Trailers have no place in the contract.
    async fn read_what_is_there(&mut self) -> Result<(Bytes, bool), BodyError> {
        let mut read = Joined::default();
        poll_fn(|context| {
            while read.bytes() <= WHOLE_BYTES_MAX {
                let Poll::Ready(frame) = Pin::new(&mut *self).poll_frame(context) else { break };
                match frame.transpose() {
                    Err(error) => return Poll::Ready(Err(error)),
                    Ok(None) => return Poll::Ready(Ok((mem::take(&mut read).whole(), true))),
                    Ok(Some(frame)) => read.push(frame.into_data().unwrap_or_default()),
                }
            }
            Poll::Ready(Ok((mem::take(&mut read).whole(), false)))
        })
        .await
    }
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
async fn collect(
    response: Response,
    (method, bytes_max): (&Method, usize),
    end: &End,
) -> Result<Bytes, String> {
    let (mut parts, body) = response.into_parts();
    let body = if is_only_head(method, parts.status) {
        unseen(body, bytes_max, end).await
    } else {
        let read = Limited::new(body, bytes_max).collect().await.map_err(|error| {
            format!("the body of the answer is cut off: {error}; it may have {bytes_max} bytes")
        });
        // The contract has no trailers.
        read?.to_bytes()
    };
    if *method != Method::HEAD && !has_length(&parts.headers, body.len()) {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    Ok(contracts::encode(&HttpResponse::of(parts.status, &parts.headers, body)))
}

fn has_length(headers: &HeaderMap, length: usize) -> bool {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    announced.is_none_or(|announced| announced.parse() == Ok(length))
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt as _, stream};
    use http_body_util::StreamBody;
    use lattice_protocol::contracts::httpclient::header_map;
    use serde_json::{Value, json};

    use super::{read as read_answer, *};

    fn read(request: &Value) -> Result<http::Request<WasiBody>, BadRequest> {
        incoming(contracts::encode(request))
    }

    #[test]
    fn a_request_has_an_absolute_url_and_no_host_header() {
        let request = read(&json!({
            "method": "POST", "path": "/a%20b", "queryString": "x=1&x=2", "body": null,
            "header": {"Host": ["shop.example:8080"], "Transfer-Encoding": ["chunked"]},
        }));
        let request = request.expect("a request");
        assert_eq!(*request.uri(), "http://shop.example:8080/a%20b?x=1&x=2");
        assert!(request.headers().is_empty() && request.method() == Method::POST);
        for path in ["", "/"] {
            for host in [json!([]), json!([""]), json!(""), json!("::1"), json!("sch\u{f6}n")] {
                let request = read(&json!({ "path": path, "header": {"host": host} }));
                assert_eq!(*request.expect("a request").uri(), "http://localhost/");
            }
        }
    }

    #[test]
    fn headers_without_a_value_are_kept() {
        let request = read(&json!({ "header": {"x-a": ["", "1"], "x-b": "2"} }));
        let headers = request.expect("a request").into_parts().0.headers;
        let values: Vec<_> = headers.get_all("x-a").iter().collect();
        assert!(values == ["", "1"] && headers["x-b"] == "2");
    }

    #[test]
    fn what_is_no_request_is_named() {
        for (request, expected) in [
            (json!({"method": "G ET"}), "method"),
            (json!({"path": "/a b"}), "path"),
            (json!({"header": {"a b": ["1"]}}), "name of a header"),
            (json!({"header": {"a": ["1\n2"]}}), "control characters"),
            (json!({"path": "/public", "header": {"host": "a:80/admin?x="}}), "header host"),
            (json!({"path": "/public", "header": {"host": "a@b"}}), "header host"),
            (json!("nothing of the kind"), "HandleRequest"),
        ] {
            let error = read(&request).map(drop).expect_err("no request").to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    /// An answer that tells a length and breaks off before, as wasmtime has it.
    fn broken_off(status: u16) -> Response {
        let pieces = [Ok(Frame::data(Bytes::from_static(b"x"))), Err(Error::HttpProtocolError)];
        let body = StreamBody::new(stream::iter(pieces)).boxed_unsync();
        let response = http::Response::builder().status(status).header("content-length", "7");
        response.body(body).expect("an answer")
    }

    #[tokio::test]
    async fn where_only_the_head_counts_no_body_breaks_off() {
        for (method, status, is_answer) in [
            (Method::HEAD, 200, true),
            (Method::GET, 204, true),
            (Method::GET, 304, true),
            (Method::GET, 200, false),
            (Method::POST, 201, false),
        ] {
            for by_pieces in [false, true] {
                let (sender, answer) = oneshot::channel();
                assert!(sender.send(Ok(broken_off(status))).is_ok());
                let (exchange, mut taken) = Exchange::new(None);
                let exchange = by_pieces.then_some(&*exchange);
                let (end, (read_to_end, _is_read)) = (Arc::default(), oneshot::channel());
                let read = read_answer(answer, exchange, (&end, read_to_end), (&method, 1)).await;
                assert_eq!(read.is_ok(), is_answer, "{method} {status} {by_pieces}: {read:?}");
                let Ok(payload) = read else { continue };
                let (status_code, length) = if by_pieces {
                    let head = taken.try_recv().expect("an answer").into_parts().0;
                    (head.status.as_u16(), head.headers.get("content-length").cloned())
                } else {
                    let answer: HttpResponse = contracts::decode("x", &payload).expect("one");
                    assert!(answer.body.0.is_empty());
                    let answer = answer.into_http().expect("one");
                    (answer.status().as_u16(), answer.headers().get("content-length").cloned())
                };
                assert_eq!(status_code, status);
                assert_eq!(length.is_some(), by_pieces || method == Method::HEAD);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_without_an_end_is_given_up_where_only_the_head_counts() {
        for writes in [false, true] {
            for by_pieces in [false, true] {
                let event = || Ok::<_, Error>(Frame::data(Bytes::from_static(b"data: x\n\n")));
                let body = match writes {
                    true => StreamBody::new(stream::repeat_with(event)).boxed_unsync(),
                    false => StreamBody::new(stream::iter([event()]).chain(stream::pending()))
                        .boxed_unsync(),
                };
                let (sender, answer) = oneshot::channel();
                assert!(sender.send(Ok(http::Response::new(body))).is_ok());
                let (exchange, _taken) = Exchange::new(None);
                let exchange = by_pieces.then_some(&*exchange);
                let (end, (read_to_end, _is_read)) = (Arc::default(), oneshot::channel());
                let of = (&Method::HEAD, 1 << 20);
                let read = read_answer(answer, exchange, (&end, read_to_end), of).await;
                assert!(read.is_ok() && end.is_given_up(), "{writes} {by_pieces}: {read:?}");
            }
        }
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

//! The requests of a guest to the world.
//!
//! They leave as `HttpClient.Request` over the guest's link; the built-in provider is asked for
//! `HttpClient.Send`, which follows no redirect and names the cause of a failure.
//!
//! The functions that a guest calls for that are those of wasmtime-wasi-http. They know nothing of
//! calls, so each is told first for which call it is ([`note_caller`]).

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{channel::oneshot, future::BoxFuture};
use http_body_util::BodyExt as _;
use hyper::http::{self, Method, header};
use tokio::time::{sleep, timeout};
use wasmtime::{
    AsContextMut, StoreContextMut,
    component::{Accessor, HasData, Linker, Resource},
};
use wasmtime_wasi::TrappableError;
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttp, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
    p2::{
        bindings::http::{outgoing_handler::Host as _, types as second},
        types::{HostFutureIncomingResponse, HostOutgoingRequest},
    },
    p3::{
        self,
        bindings::http::{
            client::{self, HostWithStore},
            types::ErrorCode,
        },
    },
};

use super::{
    super::{
        Guest,
        caller::{Caller, End, Holding, caller},
    },
    OfGuest,
    codes::{error_of, failure_of},
};
use crate::{
    router::LinkEnd,
    rpc::{
        call::CallError,
        exchange::{self, Body, BodyError, Exchange, Joined, Upload, WHOLE_BYTES_MAX},
    },
};
use lattice_protocol::contracts::{
    self,
    binary::Binary,
    httpclient::{CONTRACT_ID, HttpRequest, HttpResponse, Sent, header_map},
};

/// The link of a guest's own requests.
const PLACE: (&str, &str) = (CONTRACT_ID, "");
const REQUEST: &str = "HttpClient.Request";
const SEND: &str = "HttpClient.Send";
/// How long the body of a request may take to be sent as a whole, with its length.
const WHOLE_WITHIN: Duration = Duration::from_millis(50);
/// The interface of 0.2 by which a guest makes requests; all versions of 0.2 match.
const OUTGOING: &str = "wasi:http/outgoing-handler@0.2.12";

/// Adds the functions by which a guest makes requests.
pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    client::add_to_linker::<_, Client>(linker, WasiHttpView::http)?;
    linker.instance(OUTGOING)?.func_wrap("handle", handle)
}

type Handled = Result<Resource<HostFutureIncomingResponse>, second::ErrorCode>;

/// Begins a request of a guest of 0.2.
fn handle(
    mut store: StoreContextMut<'_, Guest>,
    (request, options): (Resource<HostOutgoingRequest>, Option<Resource<RequestOptions>>),
) -> wasmtime::Result<(Handled,)> {
    note_caller(&mut store)?;
    match store.data_mut().http().handle(request, options) {
        Ok(response) => Ok((Ok(response),)),
        Err(error) => Ok((Err(error.downcast()?),)),
    }
}

/// Sends the requests of guests of 0.3.
struct Client;

impl HasData for Client {
    type Data<'a> = WasiHttpCtxView<'a>;
}

impl HostWithStore<Guest> for Client {
    async fn send(
        accessor: &Accessor<Guest, Self>,
        request: Resource<p3::Request>,
    ) -> Result<Resource<p3::Response>, TrappableError<ErrorCode>> {
        let noted = accessor.with(|mut access| note_caller(&mut access));
        noted.map_err(TrappableError::trap)?;
        // It hands the request to the hooks before it waits for anything.
        WasiHttp::send(&accessor.with_getter::<WasiHttp>(Guest::http), request).await
    }
}

/// Tells the hooks for which call the guest makes its next request.
fn note_caller(store: &mut impl AsContextMut<Data = Guest>) -> wasmtime::Result<()> {
    let caller = caller(store)?;
    store.as_context_mut().data_mut().hooks.caller = caller;
    Ok(())
}

/// Sends the requests of a guest over its link.
pub struct Hooks {
    /// The one of the request that is made now.
    caller: Caller,
}

type Io = dyn Future<Output = Result<(), Error>> + Send;

impl Hooks {
    pub(in super::super) fn new(caller: Caller) -> Self {
        Self { caller }
    }
}

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<Io>,
    ) -> Box<dyn Future<Output = Result<(http::Response<WasiBody>, Box<Io>), Error>> + Send> {
        let caller = self.caller.clone();
        Box::new(async move {
            let sending = send(&caller, request);
            let response = match options.and_then(first_byte_after) {
                Some(limit) => {
                    timeout(limit, sending).await.unwrap_or(Err(Error::HttpResponseTimeout))
                }
                None => sending.await,
            };
            response.map(|response| (response, Box::new(async { Ok(()) }) as Box<Io>))
        })
    }
}

/// The time in which an answer has to begin. How long it may pause then is up to the guest's call.
/// The time to connect alone says nothing of when an answer begins, and when a connection stands is
/// known to the provider only, whose link bounds that itself.
fn first_byte_after(options: RequestOptions) -> Option<Duration> {
    let RequestOptions { connect_timeout, first_byte_timeout, .. } = options;
    let first_byte = first_byte_timeout?;
    Some(first_byte.saturating_add(connect_timeout.unwrap_or_default()))
}

async fn send(
    caller: &Caller,
    request: http::Request<WasiBody>,
) -> Result<http::Response<WasiBody>, Error> {
    let (parts, body) = request.into_parts();
    if parts.method == Method::CONNECT {
        return Err(Error::HttpRequestMethodInvalid);
    }
    let mut headers = header_map(&parts.headers);
    // It is set from the URL.
    headers.remove(header::HOST.as_str());
    let mut request = HttpRequest {
        method: parts.method.as_str().to_owned(),
        url: parts.uri.to_string(),
        headers,
        body: Binary::default(),
    };
    let mut sending = Sending { caller, body, read: Joined::default(), held: caller.hold() };
    if caller.link_end(CONTRACT_ID, "") != LinkEnd::Builtin {
        sending.read_to_its_end().await?;
        request.body = sending.read.whole().into();
        return called(caller.call(PLACE, REQUEST, &request).await).and_then(response_of);
    }
    // A length that is known is sent, and a body that nobody expects with this method needs one.
    let may_be_pieces = ![Method::GET, Method::HEAD].contains(&parts.method);
    let end = caller.end.as_ref().filter(|_| may_be_pieces);
    let is_whole = match end {
        Some(_) => sending.read_beginning().await?,
        None => sending.read_to_its_end().await.map(|()| true)?,
    };
    let Sending { body, read, held, .. } = sending;
    let (broke_off, mut why) = oneshot::channel();
    let (payload, upload) = match end {
        Some(end) if !is_whole => {
            let (payload, caller, end) =
                (contracts::encode(&request), caller.clone(), Arc::clone(end));
            let upload = Outgoing { caller, end, request, read, held, body, broke_off };
            (payload, Some(Box::new(upload) as Box<dyn Upload>))
        }
        _ => {
            request.body = read.whole().into();
            (kept(contracts::encode(&request), held), None)
        }
    };
    let sent = sent(caller, payload, upload).await;
    match why.try_recv() {
        Ok(Some(error)) => Err(error),
        _ => sent,
    }
}

/// Sends a request to the built-in provider.
async fn sent(
    caller: &Caller,
    payload: Bytes,
    upload: Option<Box<dyn Upload>>,
) -> Result<http::Response<WasiBody>, Error> {
    let (exchange, mut answer) = Exchange::new(upload);
    let payload = called(caller.send(PLACE, SEND, payload, Some(exchange)).await)?;
    if let Ok(response) = answer.try_recv() {
        let caller = caller.clone();
        return Ok(response.map(|body| arriving(body, caller)));
    }
    let sent = contracts::decode(SEND, &payload);
    match sent.map_err(|error| Error::InternalError(Some(error.to_string())))? {
        Sent::Response(answer) => response_of(answer),
        Sent::Failed { cause, text } => Err(failure_of(cause, text)),
    }
}

/// The body of an answer that the guest reads as it arrives. It has the caller, so that an instance
/// with one is not used again.
fn arriving(body: Body, caller: Caller) -> WasiBody {
    exchange::holding(body.map_err(response_broke_off), caller)
}

fn response_broke_off(error: BodyError) -> Error {
    match error {
        BodyError::TooLarge(bytes_max) => Error::HttpResponseBodySize(Some(bytes_max)),
        BodyError::Broken(_) => Error::HttpResponseIncomplete,
    }
}

/// The body of a guest's request while it is read.
struct Sending<'a> {
    caller: &'a Caller,
    body: WasiBody,
    read: Joined,
    held: Holding,
}

impl Sending<'_> {
    /// Reads what comes soon; says whether that is all.
    async fn read_beginning(&mut self) -> Result<bool, Error> {
        let mut limit = pin!(sleep(WHOLE_WITHIN));
        while self.read.bytes() <= WHOLE_BYTES_MAX {
            tokio::select! {
                biased;
                read = self.read_on() => if !read? {
                    return Ok(true);
                },
                () = &mut limit => break,
            }
        }
        Ok(false)
    }

    async fn read_to_its_end(&mut self) -> Result<(), Error> {
        while self.read_on().await? {}
        Ok(())
    }

    /// Reads a piece; says whether there was one.
    async fn read_on(&mut self) -> Result<bool, Error> {
        let Some(frame) = self.body.frame().await else {
            return match self.caller.end.as_ref().is_some_and(|end| end.is_cut_off()) {
                true => Err(Error::ConnectionTerminated),
                false => Ok(false),
            };
        };
        // The contract has no trailers.
        if let Ok(data) = frame?.into_data() {
            if !self.held.grow(data.len()) {
                return Err(Error::HttpRequestBodySize(None));
            }
            self.read.push(data);
        }
        Ok(true)
    }
}

/// Holds what was counted for some bytes as long as they live.
fn kept(bytes: Bytes, held: Holding) -> Bytes {
    Bytes::from_owner(Kept { bytes, _held: held })
}

struct Kept {
    bytes: Bytes,
    _held: Holding,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The body of a guest's request that is longer, or slower, than what is read first.
struct Outgoing {
    caller: Caller,
    end: Arc<End>,
    request: HttpRequest,
    read: Joined,
    held: Holding,
    body: WasiBody,
    /// Tells why there is no payload.
    broke_off: oneshot::Sender<Error>,
}

impl Upload for Outgoing {
    fn pieces(self: Box<Self>) -> Body {
        let Self { caller, end, read, held, body, .. } = *self;
        let first = Some(kept(read.whole(), held)).filter(|first| !first.is_empty());
        exchange::holding(OfGuest { first, body, end }, caller)
    }

    fn payload(self: Box<Self>) -> BoxFuture<'static, Result<Bytes, CallError>> {
        Box::pin(async move {
            let Self { caller, mut request, read, held, body, broke_off, .. } = *self;
            let mut sending = Sending { caller: &caller, body, read, held };
            if let Err(error) = sending.read_to_its_end().await {
                let text = error.to_string();
                let _ = broke_off.send(error);
                return Err(CallError::Callee(text));
            }
            request.body = sending.read.whole().into();
            Ok(kept(contracts::encode(&request), sending.held))
        })
    }
}

/// The epoch ends a guest itself whose time is over.
fn called<R>(answered: wasmtime::Result<Result<R, CallError>>) -> Result<R, Error> {
    answered.map_err(|_| Error::HttpResponseTimeout)?.map_err(error_of)
}

fn response_of(answer: HttpResponse) -> Result<http::Response<WasiBody>, Error> {
    answer
        .into_http()
        .map(|response| response.map(exchange::whole))
        .map_err(|_| Error::HttpProtocolError)
}

//! `builtin://httpclient`: actors make HTTP requests (wasmbus protocol, section 5.2).
//!
//! Each link has [`settings`] and, made from them, connections of its own. A call becomes an
//! [`request::Outgoing`]; that and every redirect pass the [`rules`] before anything is sent. Any
//! answer of the server is a result, an error status too; the call fails only if no complete answer
//! arrives within the limits, and [`failure`] says why. A component on the same host gives and
//! takes the bodies piece by piece ([`Exchange`]); then the head of the answer has to be there
//! within the time, and the component's own time bounds the rest.
//!
//! Some rules always hold: bodies have a limit in both directions, [`IN_WORK_MAX`] requests of a
//! link are in work at a time, and every request ends a little before the call does, so that the
//! actor gets our error text and not a bare timeout.

mod failure;
mod request;
mod resolve;
mod rules;
mod settings;

use std::{error::Error, fmt::Display, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use reqwest::{Method, Response, header::HeaderMap};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use self::{
    failure::{Failure, shown, shown_url},
    request::Outgoing,
    settings::{Clients, Settings, TrustStore},
};
use super::{
    Context, Link, LinkError, Provider, Spec, unknown_operation,
    values::{Values, within_usize},
};
use crate::{
    providers::bounds::{Bounds, FROM_ACTOR},
    rpc::{
        call::{Call, CallError},
        exchange::{self, Body, BodyError, Exchange},
    },
    spans,
};
use lattice_base::budget::{Budget, Buffer, Held};
use lattice_protocol::{
    builtin,
    contracts::{
        self,
        httpclient::{
            FailureCause, HttpRequest, HttpResponse, REQUEST, SEND, SERVICE, Sent, header_map,
        },
    },
    links::LinkDefinition,
};

/// Requests of one link in work at a time; further ones wait.
const IN_WORK_MAX: usize = 256;
/// Longer than any call takes.
const NEVER: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// At most this long before the call's own deadline a request is given up.
const MARGIN_MAX: Duration = Duration::from_millis(100);

pub static SPEC: Spec = Spec {
    known: builtin::HTTPCLIENT,
    about: "Makes HTTP requests for actors: HTTP/1.1 and HTTP/2, TLS with the system's certificates, proxies, redirects, with a \
            list of allowed hosts and without a way to the host's own machine, link-local and cloud metadata addresses. No \
            link value is required.",
    values: settings::VALUES,
    is_ingress: false,
    check,
    build,
};

fn check(link: &LinkDefinition) -> Result<Vec<String>, LinkError> {
    let values = Values::read(&SPEC, link)?;
    // The sockets of the provider's host are known there.
    let settings = Settings::read(&values, &Bounds::default())?;
    settings.check_authorities()?;
    let mut odd = values.oddities()?;
    odd.extend(settings.odd_bodies());
    Ok(odd)
}

fn build(context: Context) -> Arc<dyn Provider> {
    Arc::new(HttpClient { context })
}

struct HttpClient {
    context: Context,
}

impl Provider for HttpClient {
    fn link(
        self: Arc<Self>,
        link: Arc<LinkDefinition>,
    ) -> BoxFuture<'static, Result<Arc<dyn Link>, LinkError>> {
        Box::pin(async move {
            let values = Values::read(&SPEC, &link)?;
            let (actor_id, link_name) = (&link.actor_id, &link.link_name);
            self.context.tell_unknown(&values.unknown, &link);
            let settings = Arc::new(Settings::read(&values, &self.context.bounds)?);
            let clients = Clients::build(Arc::clone(&settings)).await?;
            if let TrustStore::Empty(error) = &clients.trust {
                warn!(
                    %actor_id, %link_name, %error,
                    "no certificates are trusted, so https does not work; install ca-certificates or set the link value ca_file"
                );
            }
            let (permits, work) = (Arc::new(Semaphore::new(IN_WORK_MAX)), TaskTracker::new());
            let budget = self.context.budget.clone();
            Ok(Arc::new(HttpLink { link, settings, clients, permits, work, budget })
                as Arc<dyn Link>)
        })
    }
}

/// An answer whose body still arrives.
type Answer = hyper::Response<Body>;

/// Why there is no answer: for programs, and for people.
struct Failed {
    cause: FailureCause,
    text: String,
}

struct HttpLink {
    link: Arc<LinkDefinition>,
    settings: Arc<Settings>,
    /// Its idle connections close with the link.
    clients: Clients,
    permits: Arc<Semaphore>,
    /// Counts what is in work.
    work: TaskTracker,
    /// Pays for answers.
    budget: Budget,
}

impl Link for HttpLink {
    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        // A call that took the link just before another one replaced it is made all the same:
        // nothing of the link goes before the last of its calls.
        let in_work = self.work.token();
        Box::pin(async move {
            let _in_work = in_work;
            match contracts::method(&call.operation, SERVICE) {
                REQUEST => {
                    match self.request(&call, "HttpClient.Request", self.settings.redirects).await {
                        // The payload has the body in it, so what the body holds goes on with it.
                        Ok((response, held)) => Ok(held.keep(contracts::encode(&response))),
                        Err(Failed { text, .. }) => Err(CallError::Callee(text)),
                    }
                }
                SEND if let Some(exchange) = &call.exchange => {
                    Ok(match self.pieces(&call, exchange).await {
                        Ok(response) => {
                            exchange.answer(response);
                            Bytes::new()
                        }
                        Err(Failed { cause, text }) => {
                            contracts::encode(&Sent::Failed { cause, text })
                        }
                    })
                }
                SEND => Ok(match self.request(&call, "HttpClient.Send", 0).await {
                    Ok((response, held)) => held.keep(contracts::encode(&Sent::Response(response))),
                    Err(Failed { cause, text }) => contracts::encode(&Sent::Failed { cause, text }),
                }),
                _ => Err(unknown_operation(&call)),
            }
        })
    }

    fn end(self: Arc<Self>, deadline: Instant) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.work.close();
            if tokio::time::timeout_at(deadline, self.work.wait()).await.is_err() {
                let (actor_id, link_name) = (&self.link.actor_id, &self.link.link_name);
                warn!(%actor_id, %link_name, requests = self.work.len(), "a link ended before its HTTP requests");
            }
        })
    }
}

impl HttpLink {
    /// Makes the request of a call; follows as many redirects.
    async fn request(
        &self,
        call: &Call,
        operation: &'static str,
        redirects: u64,
    ) -> Result<(HttpResponse, Held), Failed> {
        let outgoing = self.outgoing(call, &call.payload, operation)?;
        let what = shown(&outgoing.method, &outgoing.url);
        let performed = self.perform(outgoing, redirects, self.deadline(call.ends_at())).await;
        performed.map_err(|failure| self.failed(&what, &failure))
    }

    /// Makes the request of a call whose bodies go piece by piece; follows no redirect.
    async fn pieces(&self, call: &Call, exchange: &Exchange) -> Result<Answer, Failed> {
        let (payload, body) = exchange.take(call.payload.clone());
        let mut outgoing = self.outgoing(call, &payload, "HttpClient.Send")?;
        let body = body.map(|body| {
            outgoing.announce();
            reqwest::Body::wrap_stream(
                Limited::new(body, within_usize(self.settings.max_request_body)).into_data_stream(),
            )
        });
        let what = shown(&outgoing.method, &outgoing.url);
        // Pieces of the request give it time; the rest of the waiting is bounded by that.
        let performed = self.perform_pieces(&outgoing, body, Instant::now() + NEVER);
        let ends_at = call.ends_at();
        // The chain adds what it gave already.
        let given = ends_at.saturating_duration_since(call.deadline);
        let performed = call.chain.within(self.deadline(ends_at) - given, performed).await;
        let sent = performed.unwrap_or_else(|| {
            let phase = format!("there was no answer of {} yet", shown_url(&outgoing.url));
            Err(Failure::Timeout { phase })
        });
        sent.map_err(|failure| self.failed(&what, &failure))
    }

    fn outgoing(
        &self,
        call: &Call,
        payload: &[u8],
        operation: &'static str,
    ) -> Result<Outgoing, Failed> {
        let request: HttpRequest = contracts::decode(operation, payload).map_err(|error| {
            Failed { cause: FailureCause::InternalError, text: format!("deserialization: {error}") }
        })?;
        let outgoing = Outgoing::new(request);
        let mut outgoing = outgoing.map_err(|failure| self.failed(operation, &failure))?;
        outgoing.trace = call.trace.clone();
        Ok(outgoing)
    }

    fn failed(&self, what: &str, failure: &Failure) -> Failed {
        debug!(actor_id = %self.link.actor_id, request = %what, error = %failure, "HTTP request failed");
        Failed { cause: failure.cause(), text: format!("{what}: {failure}") }
    }

    /// When a request of a call that ends then is given up.
    fn deadline(&self, call: Instant) -> Instant {
        let now = Instant::now();
        let left = call.saturating_duration_since(now);
        let own = left - (left / 10).min(MARGIN_MAX);
        now + self.settings.timeout.map_or(own, |timeout| timeout.min(own))
    }

    async fn perform(
        &self,
        mut outgoing: Outgoing,
        redirects: u64,
        deadline: Instant,
    ) -> Result<(HttpResponse, Held), Failure> {
        let _permit = self.admit(&outgoing, deadline).await?;
        let mut followed = 0;
        loop {
            let response = self.send(&outgoing, None, deadline).await?;
            if redirects == 0 {
                return self.read(response, &outgoing.method, deadline).await;
            }
            let Some(next) = outgoing.redirected(response.status(), response.headers()) else {
                return self.read(response, &outgoing.method, deadline).await;
            };
            followed += 1;
            if followed > redirects {
                return Err(Failure::Redirects { limit: redirects, last: shown_url(&next.url) });
            }
            outgoing = next;
        }
    }

    /// Checks what the link's values say of a request, and waits until it may be made.
    async fn admit(
        &self,
        outgoing: &Outgoing,
        deadline: Instant,
    ) -> Result<OwnedSemaphorePermit, Failure> {
        let limit = self.settings.max_request_body;
        if outgoing.body.len() as u64 > limit {
            return Err(Failure::RequestTooLarge { limit });
        }
        outgoing.check_host_header(&self.settings.rules)?;
        let permit = Arc::clone(&self.permits).acquire_owned();
        match tokio::time::timeout_at(deadline, permit).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Failure::Busy { limit: IN_WORK_MAX }),
        }
    }

    /// Makes a request, and returns its answer as it arrives: in work until its body is gone.
    async fn perform_pieces(
        &self,
        outgoing: &Outgoing,
        body: Option<reqwest::Body>,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let in_work = (self.admit(outgoing, deadline).await?, self.work.token());
        let response = self.send(outgoing, body, deadline).await?;
        let limit = self.settings.max_body;
        self.check_announced(&response, &outgoing.method)?;
        let too_long_or_broken =
            move |error: Box<dyn Error + Send + Sync>| match error.is::<LengthLimitError>() {
                true => BodyError::TooLarge(limit),
                false => BodyError::Broken(lattice_protocol::errors::chain(&*error)),
            };
        Ok(hyper::Response::from(response).map(|body| {
            let body = Limited::new(body, within_usize(limit)).map_err(too_long_or_broken);
            exchange::holding(body, in_work)
        }))
    }

    /// Refuses an answer that says it is too long. The one to HEAD announces a body that does not
    /// come.
    fn check_announced(&self, response: &Response, method: &Method) -> Result<(), Failure> {
        let limit = self.settings.max_body;
        match response.content_length() {
            Some(announced) if announced > limit && method != Method::HEAD => {
                Err(Failure::TooLarge { limit })
            }
            _ => Ok(()),
        }
    }

    /// Sends a request to exactly the URL it names, and waits for the head of the response. `body`
    /// is one that still comes.
    async fn send(
        &self,
        outgoing: &Outgoing,
        body: Option<reqwest::Body>,
        deadline: Instant,
    ) -> Result<Response, Failure> {
        let Outgoing { method, url, trace, .. } = outgoing;
        let mut headers = outgoing.headers.clone();
        let span = spans::outgoing(trace, method, (url, shown_url), &mut headers);
        let result = self.send_with(headers, outgoing, body, deadline).await;
        let outcome = result.as_ref().map(Response::status);
        spans::sent(span, outcome.map_err(|failure| (failure.cause(), failure as &dyn Display)));
        result
    }

    async fn send_with(
        &self,
        headers: HeaderMap,
        outgoing: &Outgoing,
        body: Option<reqwest::Body>,
        deadline: Instant,
    ) -> Result<Response, Failure> {
        let chosen = tokio::time::timeout_at(deadline, self.clients.choose(&outgoing.url)).await;
        let (way, client) = chosen.map_err(|_| Failure::Timeout {
            phase: format!("{} was being looked up", shown_url(&outgoing.url)),
        })??;
        self.settings.rules.check(&outgoing.url, way)?;
        let mut request =
            client.request(outgoing.method.clone(), outgoing.url.clone()).headers(headers);
        if self.settings.rules.reaches_this_machine() {
            // After the actor's own headers, so that it is there whatever these say.
            request = request.header(FROM_ACTOR, "1");
        }
        if let Some(body) = body {
            request = request.body(body);
        } else if !outgoing.body.is_empty() {
            request = request.body(outgoing.body.clone());
        }
        match tokio::time::timeout_at(deadline, request.send()).await {
            Ok(sent) => sent.map_err(|error| match is_too_long(&error) {
                true => Failure::RequestTooLarge { limit: self.settings.max_request_body },
                false => Failure::of(error, way, &self.clients.trust),
            }),
            Err(_) => Err(Failure::Timeout {
                phase: format!("there was no answer of {} yet", shown_url(&outgoing.url)),
            }),
        }
    }

    async fn read(
        &self,
        mut response: Response,
        method: &Method,
        deadline: Instant,
    ) -> Result<(HttpResponse, Held), Failure> {
        let limit = self.settings.max_body;
        self.check_announced(&response, method)?;
        let announced = response.content_length().unwrap_or(0);
        let status_code = response.status().as_u16();
        let header = header_map(response.headers());
        let announced = usize::try_from(announced).ok().filter(|announced| *announced > 0);
        let mut body = Buffer::new(&self.budget, announced);
        loop {
            let chunk =
                tokio::time::timeout_at(deadline, response.chunk()).await.map_err(|_| {
                    Failure::Timeout {
                        phase: format!(
                            "the response body was not complete ({} bytes had come)",
                            body.len()
                        ),
                    }
                })?;
            match chunk.map_err(|e| {
                Failure::Other(format!("the response broke off: {}", without_url(e)))
            })? {
                None => {
                    let (body, held) = body.into_parts();
                    return Ok((HttpResponse { status_code, header, body: body.into() }, held));
                }
                Some(chunk) if (body.len() + chunk.len()) as u64 > limit => {
                    return Err(Failure::TooLarge { limit });
                }
                Some(chunk) => {
                    let paid = body.push(&chunk, deadline).await;
                    paid.map_err(|shortage| {
                        Failure::Other(format!("the response was not read: {shortage}"))
                    })?;
                }
            }
        }
    }
}

/// Whether a request failed for the length of its body.
fn is_too_long(error: &reqwest::Error) -> bool {
    let error: &(dyn Error + 'static) = error;
    std::iter::successors(Some(error), |&error| error.source())
        .any(|error| error.is::<LengthLimitError>())
}

fn without_url(error: reqwest::Error) -> String {
    lattice_protocol::errors::chain(&error.without_url())
}

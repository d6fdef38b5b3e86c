//! `builtin://httpclient`: actors make HTTP requests (wasmbus protocol, section 5.2).
//!
//! Each link has [`settings`] and, made from them, connections of its own. A call becomes an
//! [`request::Outgoing`]; that and every redirect pass the [`rules`] before anything is sent. Any
//! answer of the server is a result, an error status too; the call fails only if no complete answer
//! arrives within the limits, and [`failure`] says why.
//!
//! Some rules always hold: bodies have a limit in both directions, [`IN_WORK_MAX`] requests of a
//! link are in work at a time, and every request ends a little before the call does, so that the
//! actor gets our error text and not a bare timeout.

mod failure;
mod request;
mod resolve;
mod rules;
mod settings;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use reqwest::{Method, Response, header::HeaderMap};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use self::{
    failure::{Failure, shown, shown_url},
    request::Outgoing,
    settings::{Clients, Settings, TrustStore},
};
use super::{Context, Link, LinkError, Provider, Spec, unknown_operation, values::Values};
use crate::{
    providers::bounds::{Bounds, FROM_ACTOR},
    rpc::call::{Call, CallError},
};
use lattice_base::budget::{Budget, Buffer, Held};
use lattice_protocol::{
    builtin,
    contracts::{
        self,
        httpclient::{
            FailureCause, HeaderValues, HttpRequest, HttpResponse, REQUEST, SEND, SERVICE, Sent,
        },
    },
    links::LinkDefinition,
};

/// Requests of one link in work at a time; further ones wait.
const IN_WORK_MAX: usize = 256;
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
    Settings::read(&values, &Bounds::default())?.check_authorities()?;
    Ok(values.oddities())
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
            let (permits, work) = (Semaphore::new(IN_WORK_MAX), TaskTracker::new());
            let budget = self.context.budget.clone();
            Ok(Arc::new(HttpLink { link, settings, clients, permits, work, budget })
                as Arc<dyn Link>)
        })
    }
}

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
    permits: Semaphore,
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
        let request: HttpRequest =
            contracts::decode(operation, &call.payload).map_err(|error| Failed {
                cause: FailureCause::InternalError,
                text: format!("deserialization: {error}"),
            })?;
        let outgoing =
            Outgoing::new(request).map_err(|failure| self.failed(operation, &failure))?;
        let what = shown(&outgoing.method, &outgoing.url);
        let performed = self.perform(outgoing, redirects, self.deadline(call.deadline)).await;
        performed.map_err(|failure| self.failed(&what, &failure))
    }

    fn failed(&self, what: &str, failure: &Failure) -> Failed {
        debug!(actor_id = %self.link.actor_id, request = %what, error = %failure, "HTTP request failed");
        Failed { cause: failure.cause(), text: format!("{what}: {failure}") }
    }

    /// When a request of a call with this deadline is given up.
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
        let limit = self.settings.max_request_body;
        if outgoing.body.len() as u64 > limit {
            return Err(Failure::RequestTooLarge { bytes: outgoing.body.len(), limit });
        }
        outgoing.check_host_header(&self.settings.rules)?;
        let _permit = tokio::time::timeout_at(deadline, self.permits.acquire())
            .await
            .map_err(|_| Failure::Busy { limit: IN_WORK_MAX })?;
        let mut followed = 0;
        loop {
            let response = self.send(&outgoing, deadline).await?;
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

    /// Sends a request to exactly the URL it names, and waits for the head of the response.
    async fn send(&self, outgoing: &Outgoing, deadline: Instant) -> Result<Response, Failure> {
        let chosen = tokio::time::timeout_at(deadline, self.clients.choose(&outgoing.url)).await;
        let (way, client) = chosen.map_err(|_| Failure::Timeout {
            phase: format!("{} was being looked up", shown_url(&outgoing.url)),
        })??;
        self.settings.rules.check(&outgoing.url, way)?;
        let mut request = client
            .request(outgoing.method.clone(), outgoing.url.clone())
            .headers(outgoing.headers.clone());
        if self.settings.rules.reaches_this_machine() {
            // After the actor's own headers, so that it is there whatever these say.
            request = request.header(FROM_ACTOR, "1");
        }
        if !outgoing.body.is_empty() {
            request = request.body(outgoing.body.clone());
        }
        match tokio::time::timeout_at(deadline, request.send()).await {
            Ok(sent) => sent.map_err(|e| Failure::of(e, way, &self.clients.trust)),
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
        let announced = response.content_length().unwrap_or(0);
        // The answer to HEAD announces a body that does not come.
        if announced > limit && method != Method::HEAD {
            return Err(Failure::TooLarge { limit });
        }
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

/// The headers of a response: names in lower case, a text for each line.
fn header_map(headers: &HeaderMap) -> BTreeMap<String, HeaderValues> {
    let mut map: BTreeMap<String, HeaderValues> = BTreeMap::new();
    for (name, value) in headers {
        let text = str::from_utf8(value.as_bytes()).map(str::to_owned);
        // A value that is not UTF-8 is read as Latin-1, of which every byte is a character.
        let text =
            text.unwrap_or_else(|_| value.as_bytes().iter().copied().map(char::from).collect());
        map.entry(name.as_str().to_owned()).or_default().0.push(text);
    }
    map
}

fn without_url(error: reqwest::Error) -> String {
    lattice_protocol::errors::chain(&error.without_url())
}

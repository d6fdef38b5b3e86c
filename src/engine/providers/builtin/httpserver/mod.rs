//! The HTTP server: actors answer the web. `builtin://httpserver`, contract `wasmcloud:httpserver`
//! (wasmbus protocol, section 5.1).
//!
//! A link makes its actor answer an address, or the part of it that host names and a path prefix
//! cut out; links of several actors share an address. The way of a request:
//!
//! 1. [`listener`] accepts a connection, [`connection`] finds out whether it speaks HTTP/1 or
//!    HTTP/2, hyper parses.
//! 2. [`request`] finds the actor in a snapshot of the [`routes`], reads the [`body`] within bounds
//!    straight into the payload, and calls the actor through the router; [`live`] does so piece by
//!    piece where that can be.
//! 3. [`reply`] turns its answer into an HTTP response. [`answers`] answers everything that goes
//!    wrong; [`cors`] lets in web pages of other origins.
//!
//! [`table`] keeps which link has which routes on which listener. [`settings`] reads link values,
//! [`section`] those of them that are one JSON object, [`tls`] certificates. [`pulse`] and [`wire`]
//! notice clients that are stuck, without a timer per request; [`debt`] keeps answers within bounds
//! while they are read, and [`clients`] counts what each address has. The dashboard uses these four
//! as well.

mod answers;
mod body;
pub mod clients;
pub mod connection;
mod cors;
pub mod debt;
mod listener;
mod live;
pub mod pulse;
mod reply;
mod request;
mod routes;
mod section;
mod settings;
mod table;
mod tls;
pub mod wire;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tracing::{debug, warn};

use self::{
    listener::Listener,
    request::Route,
    settings::Settings,
    table::{Added, Removal, Table},
};
use super::{
    Context, Link, LinkError, Provider, Spec, unknown_operation,
    values::{Values, remarks},
};
use crate::rpc::call::{Call, CallError};
use lattice_protocol::{builtin, journal::Level, links::LinkDefinition, rpc::invocation::Entity};

pub static SPEC: Spec = Spec {
    known: builtin::HTTPSERVER,
    about: "Serves HTTP/1.1 and HTTP/2, plain or TLS, with actors as handlers: each request becomes one call of the \
            linked actor. Several actors may share an address, told apart by host name and path. A request whose actor \
            has no room for it gets 503, one whose actor takes too long 504, and one whose actor fails 502, the last two \
            with an id that is in the log. An error code that a component answers with has a status of its own, such as \
            403 for HTTP-request-denied. The provider of 2022 answered 503 where this one answers 504, and 500 where it \
            answers 502, both without a body.",
    values: settings::VALUES,
    is_ingress: true,
    check,
    build,
};

fn check(link: &LinkDefinition) -> Result<Vec<String>, LinkError> {
    // The file is on the provider's machine.
    let has_file = link.values.keys().any(|key| key.eq_ignore_ascii_case("config_file"));
    if has_file {
        return Values::read(&SPEC, link)?.oddities();
    }
    let Settings { mut warnings, unknown, .. } = Settings::read(&SPEC, link, Duration::ZERO)?;
    warnings.extend(remarks(&unknown)?);
    warnings.extend(Values::read(&SPEC, link)?.empty_remarks());
    Ok(warnings)
}

/// Where the pages of a link are: `http` or `https`, the address as the link has it, and its path.
/// Nothing if its values make no sense, or are in a file of the provider's machine.
pub fn pages(link: &LinkDefinition) -> Option<(&'static str, String, String)> {
    if link.values.keys().any(|key| key.eq_ignore_ascii_case("config_file")) {
        return None;
    }
    let settings = Settings::read(&SPEC, link, Duration::ZERO).ok()?;
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    Some((scheme, settings.address, settings.path.to_string()))
}

/// How long an ending link waits for the others of its address, so that a host that stops answers
/// for all of them to the end.
const TOGETHER: Duration = Duration::from_millis(20);
/// How long before its deadline an ending link cuts off what is in work: those who wait for the end
/// give up at the deadline.
const CUT_BEFORE: Duration = Duration::from_millis(250);
/// How long to wait for an address that this provider itself is giving up.
const NOT_YET: Duration = Duration::from_millis(10);

fn build(context: Context) -> Arc<dyn Provider> {
    Arc::new(Server { context, table: Arc::default() })
}

struct Server {
    context: Context,
    table: Arc<Table>,
}

impl Server {
    async fn take_on(
        self: Arc<Self>,
        link: Arc<LinkDefinition>,
    ) -> Result<Arc<dyn Link>, LinkError> {
        let paths = &self.context.bounds.paths;
        let settings = Settings::load(&SPEC, &link, self.context.rpc_timeout, paths).await?;
        self.context.tell_unknown(&settings.unknown, &link);
        for warning in &settings.warnings {
            warn!(actor_id = link.actor_id, warning, "link value without effect");
            let text = format!("a link value of {} has no effect: {warning}", link.actor_id);
            self.context.journal.write(Level::Warn, &text);
        }
        let certificate = match &settings.tls {
            Some(source) => Some(source.load(paths).await?),
            None => None,
        };
        let address = resolve(&settings.address).await?;
        if self.context.bounds.sockets.is_taken(address) {
            return Err(LinkError::Values(format!(
                "link value address is {address}, where the host itself or its NATS server listens; use another port"
            )));
        }
        let provider = &self.context.provider_id;
        let origin = Entity::new(
            provider.as_str(),
            self.context.link_name.as_str(),
            self.context.contract_id,
        );
        let rules = settings.rules.clone();
        let route = Arc::new(Route::new(&link.actor_id, rules, origin, &self.context));
        loop {
            match self.table.add(&self.context, address, &settings, certificate.clone(), &route)? {
                // Nothing waits after this, so that a dropped future has done nothing.
                Added::To(listener) => {
                    let address = listener.address;
                    debug!(actor_id = link.actor_id, %address, path = %settings.path, "http route added");
                    let table = Arc::clone(&self.table);
                    return Ok(Arc::new(HttpLink {
                        table,
                        listener,
                        route,
                        ended: AtomicBool::new(false),
                    }));
                }
                Added::NotYet => sleep(NOT_YET).await,
            }
        }
    }
}

/// The first of the addresses that a text names; IPv4 before IPv6, as the default is.
async fn resolve(address: &str) -> Result<SocketAddr, LinkError> {
    let cause = match tokio::net::lookup_host(address).await {
        Ok(found) => match found.min_by_key(SocketAddr::is_ipv6) {
            Some(found) => return Ok(found),
            None => "the name has no address".to_owned(),
        },
        Err(error) => error.to_string(),
    };
    let text = format!("cannot resolve link value address {address}: {cause}; write an IP address");
    Err(LinkError::Unavailable(text))
}

impl Provider for Server {
    fn link(
        self: Arc<Self>,
        link: Arc<LinkDefinition>,
    ) -> BoxFuture<'static, Result<Arc<dyn Link>, LinkError>> {
        Box::pin(self.take_on(link))
    }
}

/// One actor's part of an address.
struct HttpLink {
    table: Arc<Table>,
    listener: Arc<Listener>,
    route: Arc<Route>,
    ended: AtomicBool,
}

impl HttpLink {
    async fn end(&self, deadline: Instant) {
        self.ended.store(true, Ordering::Relaxed);
        let left = deadline.saturating_duration_since(Instant::now());
        let cut = deadline - CUT_BEFORE.min(left / 4);
        match self.begin_end() {
            Removal::Last => return self.listener.close(cut, deadline).await,
            Removal::Nothing => {}
            Removal::Shared => {
                sleep_until(cut.min(Instant::now() + TOGETHER)).await;
                if self.listener.is_closing() {
                    return self.listener.wait_closed(deadline).await;
                }
                self.table.end(self.listener.address, &self.listener, &self.route);
            }
        }
        self.route.in_work.close();
        if timeout_at(cut, self.route.in_work.wait()).await.is_err() {
            let open = self.route.in_work.len();
            warn!(
                actor_id = self.route.actor_id,
                open, "http link ended before its requests were answered"
            );
            self.route.cut.cancel();
        }
    }

    fn begin_end(&self) -> Removal {
        self.table.begin_end(self.listener.address, &self.listener, &self.route)
    }
}

impl Link for HttpLink {
    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        Box::pin(async move { Err(unknown_operation(&call)) })
    }

    fn end(self: Arc<Self>, deadline: Instant) -> BoxFuture<'static, ()> {
        Box::pin(async move { HttpLink::end(&self, deadline).await })
    }
}

impl Drop for HttpLink {
    /// A link nobody ended gives its routes back all the same.
    fn drop(&mut self) {
        if !self.ended.load(Ordering::Relaxed) && matches!(self.begin_end(), Removal::Shared) {
            self.table.end(self.listener.address, &self.listener, &self.route);
        }
    }
}

//! One request: to its actor and back.
//!
//! In this order: the one host it is for; the route by host and path; read-only mode; preflight
//! requests of browsers; the length of the body; the body itself; the call; the answer. All of it
//! runs in the task of the connection (HTTP/2: of the stream), with no lock and no task of its own,
//! but for an answer that goes out in pieces ([`live`]). The route is held as in work until the
//! answer is there.

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use bytes::Bytes;
use hyper::{
    Method, Request, Response, Version,
    body::Incoming,
    header::{self, HeaderValue},
    http::request::Parts,
};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::{
    answers::{self, Answer},
    body::{self, BodyError, Bounds, Read},
    clients::Client,
    connection::Protocol,
    cors,
    debt::{Owed, Room},
    listener::Listener,
    live::{self, Answered, Content, Live},
    pulse::Pulse,
    reply::{self, Reply},
    settings::Rules,
    wire::Arriving,
};
use crate::{
    meter::edges::Edge,
    providers::builtin::Context,
    router::{Router, Takes},
    rpc::{
        call::{Call, CallError, Chain},
        exchange::{Exchange, Upload},
    },
    spans,
};
use lattice_protocol::{
    contracts::httpserver::{self, HANDLE_REQUEST, RequestHead, RequestWriter},
    rpc::invocation::Entity,
};

/// A link as its requests see it.
pub struct Route {
    pub actor_id: String,
    pub rules: Rules,
    /// Keeps the calls that fail.
    router: Router,
    /// Counts the calls of this link, and its answers.
    pub edge: Arc<Edge>,
    /// Requests of this link that are in work.
    pub in_work: TaskTracker,
    /// Cuts off the answers that are still on their way.
    pub cut: CancellationToken,
    stage: AtomicU8,
    origin: Entity,
    target: Entity,
}

/// The life of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Serving,
    /// Its link ends; requests are still answered.
    Ending,
    /// It answers nothing more.
    Ended,
}

impl Route {
    pub fn new(actor_id: &str, rules: Rules, origin: Entity, context: &Context) -> Self {
        let target = Entity::new(actor_id, "", "");
        Self {
            actor_id: actor_id.to_owned(),
            rules,
            edge: context.made.to(&target),
            router: context.router.clone(),
            in_work: TaskTracker::new(),
            cut: CancellationToken::new(),
            stage: AtomicU8::new(Stage::Serving as u8),
            origin,
            target,
        }
    }

    /// Keeps a call that failed, under the id that its client was told.
    pub fn record_failure(&self, error: &CallError, id: Option<&str>) {
        self.router.record_failure(&self.edge, HANDLE_REQUEST, error, id);
    }

    /// Logs a call that failed when its answer was on its way already.
    pub fn failed_late(&self, error: &CallError) {
        warn!(actor_id = self.actor_id, %error, "actor failed to end its answer to a request");
        self.record_failure(error, None);
    }

    /// The call that takes a request to the actor.
    fn call(
        &self,
        parts: &Parts,
        payload: Bytes,
        (chain, deadline): (Chain, Instant),
        exchange: Option<Arc<Exchange>>,
    ) -> Call {
        Call {
            origin: self.origin.clone(),
            target: self.target.clone(),
            operation: HANDLE_REQUEST.to_owned(),
            payload,
            trace: spans::of_request(parts),
            deadline,
            depth: 0,
            chain,
            exchange,
        }
    }

    pub fn set_stage(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::SeqCst);
    }

    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::SeqCst) {
            0 => Stage::Serving,
            1 => Stage::Ending,
            _ => Stage::Ended,
        }
    }
}

/// The requests of one connection.
pub struct Requests {
    pub listener: Arc<Listener>,
    pub pulse: Arc<Pulse>,
    pub peer: SocketAddr,
    pub client: Arc<Client>,
    pub protocol: Protocol,
    /// That of the URLs of these requests.
    pub scheme: &'static str,
}

impl Requests {
    /// Answers one request.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Content> {
        let _busy = self.pulse.busy();
        let began = Instant::now();
        let (mut parts, body) = request.into_parts();
        let body = Arriving::new(body, Arc::clone(&self.pulse));
        let reply = if !settle_host(&mut parts) {
            Reply::Whole(answers::of_no_host())
        } else if let Some((route, _in_work)) = self.route(&parts) {
            let connection = (self.peer, self.scheme);
            let span = spans::request(&mut parts, &route.actor_id, connection);
            let mut reply = span.within(pin!(self.serve(&route, &parts, body, began))).await;
            reply.finish(&route.rules, &parts);
            route.edge.answered(reply.status().as_u16());
            span.scope(|| reply.log(&route, &parts, self.peer, began));
            spans::answered(span, reply.status());
            reply
        } else {
            Reply::Whole(answers::not_found())
        };
        let mut answer = match reply {
            Reply::Whole(answer) => self.owed(&parts.method, answer),
            Reply::Pieces(answer) => answer.map(Content::Pieces),
        };
        if self.protocol == Protocol::Http1 && self.listener.is_closing() {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    /// Makes an answer what the client is owed, if there is room for it.
    fn owed(&self, method: &Method, mut answer: Answer) -> Response<Content> {
        if method == Method::HEAD {
            reply::only_head(&mut answer);
        }
        let (answer, lodging) = match self.listener.lodgings.lodge(
            answer.body().len(),
            &self.listener.budget,
            &self.client,
        ) {
            Room::NotNeeded => (answer, None),
            Room::Taken(lodging) => (answer, Some(lodging)),
            Room::Full => {
                debug!(remote = %self.peer, bytes = answer.body().len(), "answer given up: no room until it is read");
                (answers::no_room(), None)
            }
        };
        answer.map(|bytes| Content::Whole(Owed::new(bytes, &self.pulse, lodging)))
    }

    /// Finds the route and holds it as in work.
    fn route(&self, parts: &Parts) -> Option<(Arc<Route>, impl Drop + use<>)> {
        loop {
            let routes = self.listener.routes.load();
            let route = Arc::clone(routes.find(|| host(parts), parts.uri.path())?);
            let in_work = route.in_work.token();
            // The end of a route first takes it out, then marks it, then waits for the requests in
            // work. A route found before and held after the waiting is seen here, and looked for
            // again among the current ones.
            if route.stage() != Stage::Ended {
                return Some((route, in_work));
            }
        }
    }

    async fn serve(
        &self,
        route: &Arc<Route>,
        parts: &Parts,
        body: Arriving,
        began: Instant,
    ) -> Reply {
        let rules = &route.rules;
        if cors::is_preflight(parts) {
            let allowed = rules.cors.preflight(parts.headers.get(header::ORIGIN));
            return Reply::Whole(answers::preflight(allowed));
        }
        if rules.readonly && parts.method != Method::GET && parts.method != Method::HEAD {
            return Reply::Whole(answers::not_allowed("GET, HEAD"));
        }
        if parts.method == Method::CONNECT {
            let allowed = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
            return Reply::Whole(answers::not_allowed(allowed));
        }
        let (request, bounds) = match begin(rules, parts, &body, began) {
            Ok(begun) => begun,
            Err(error) => return Reply::Whole(self.refused_body(route, &error)),
        };
        // The length of an answer to HEAD is that of the whole, and a client of HTTP/1.0 could not
        // tell an answer that broke off from one that is complete.
        let may_be_pieces = parts.method != Method::HEAD && parts.version >= Version::HTTP_11;
        let takes = match may_be_pieces {
            true => self.listener.router.takes(&route.target),
            false => Takes::Wholes,
        };
        match takes {
            Takes::Wholes => {
                Reply::Whole(self.as_whole(route, parts, body, (request, bounds)).await)
            }
            // Boxed, for it is larger than the way of a module.
            takes => Box::pin(self.by_pieces(route, parts, (body, takes), (request, bounds))).await,
        }
    }

    /// Has an actor answer that is given whole requests and gives whole answers.
    async fn as_whole(
        &self,
        route: &Route,
        parts: &Parts,
        body: Arriving,
        (mut request, bounds): (RequestWriter, Bounds),
    ) -> Answer {
        let read = body::read(&self.listener.budget, body, &mut request, bounds).await;
        let _held = match read {
            Ok(held) => held,
            Err(error) => return self.refused_body(route, &error),
        };
        let began = (Chain::default(), Instant::now() + route.rules.timeout);
        let call = route.call(parts, request.finish(), began, None);
        let router = &self.listener.router;
        let made = pin!(router.call(call));
        match router.counted(&route.edge, HANDLE_REQUEST, made).await {
            Ok(payload) => reply::of_payload(route, payload, &parts.method),
            Err(error) => reply::failed(route, &error),
        }
    }

    /// Has a component answer, or whatever runs on another host: bodies go as they come.
    async fn by_pieces(
        &self,
        route: &Arc<Route>,
        parts: &Parts,
        (body, takes): (Arriving, Takes),
        (request, bounds): (RequestWriter, Bounds),
    ) -> Reply {
        let rules = &route.rules;
        let live = Live::new(rules.timeout);
        let first = if takes == Takes::Pieces { rules.body_first } else { usize::MAX };
        let read = body::begin(&self.listener.budget, body, request, bounds, (first, &live)).await;
        let (payload, upload) = match read {
            Ok(Read::Whole(payload)) => (payload, None),
            Ok(Read::Beginning(beginning)) => {
                let head = head_of(rules, parts).encode(&[]);
                (head, Some(beginning as Box<dyn Upload>))
            }
            Err(error) => return Reply::Whole(self.refused_body(route, &error)),
        };
        let (exchange, answer) = Exchange::new(upload);
        let call = route.call(parts, payload, live.begin(), Some(exchange));
        let client =
            live::Client { listener: &self.listener, client: &self.client, pulse: &self.pulse };
        let answered = live::perform(client, route, &live, (call, answer)).await;
        let is_on_its_way = matches!(answered, Ok(Answered::Pieces(..)));
        if let Some(error) = live.take_refusal().filter(|_| !is_on_its_way) {
            return Reply::Whole(self.refused_body(route, &error));
        }
        let reply = match answered {
            Ok(Answered::Payload(payload)) => {
                Ok(reply::of_payload(route, payload, &parts.method).into())
            }
            Ok(Answered::Whole(head, body)) => {
                reply::settled(rules, &head).map(|head| head.map(|()| body).into())
            }
            Ok(Answered::Pieces(head, pieces)) => reply::settled(rules, &head).map(|mut answer| {
                if let Some(length) = reply::length_of(&head.headers) {
                    answer.headers_mut().insert(header::CONTENT_LENGTH, length.into());
                }
                Reply::Pieces(answer.map(|()| pieces))
            }),
            Ok(Answered::NoRoom) => Ok(answers::no_room().into()),
            Err(error) => Ok(reply::failed(route, &error).into()),
        };
        reply.unwrap_or_else(|error| reply::no_answer(route, &error).into())
    }

    /// Answers for a body that is not read. The connection ends with HTTP/1.
    fn refused_body(&self, route: &Route, error: &BodyError) -> Answer {
        debug!(actor_id = route.actor_id, remote = %self.peer, %error, "request refused for its body");
        let mut answer = answers::of_body(error);
        if self.protocol == Protocol::Http1 {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

/// Begins to write a request, unless its body is too long.
fn begin(
    rules: &Rules,
    parts: &Parts,
    body: &Arriving,
    began: Instant,
) -> Result<(RequestWriter, Bounds), BodyError> {
    let announced = body::announced(body);
    if announced.is_some_and(|length| length > rules.content_max) {
        return Err(BodyError::TooLarge(rules.content_max));
    }
    let request = head_of(rules, parts).begin(announced.map(|length| length as usize));
    let bounds = Bounds {
        content_max: rules.content_max,
        idle: rules.body_idle,
        deadline: began + rules.timeout,
    };
    Ok((request, bounds))
}

/// The head of a request, as its actor sees it.
fn head_of<'a>(rules: &Rules, parts: &'a Parts) -> RequestHead<'a> {
    let path = parts.uri.path();
    RequestHead {
        method: parts.method.as_str(),
        path: rules.strip.as_ref().map_or(path, |prefix| prefix.strip(path)),
        query: parts.uri.query().unwrap_or(""),
        header: &parts.headers,
    }
}

/// Makes the header `host` say for which host the request is: what the target says counts (HTTP/2,
/// absolute form), so that an actor never sees another host than the one by which it was found.
/// Returns whether the request says it once, and nothing else there: a path behind the host would
/// be read by those who make a URL of it.
fn settle_host(parts: &mut Parts) -> bool {
    let mut given = parts.headers.get_all(header::HOST).iter();
    let is_said_well = match (given.next(), given.next()) {
        (None, _) => parts.version != Version::HTTP_11,
        (Some(host), None) => httpserver::is_host(host.as_bytes()),
        (Some(_), Some(_)) => false,
    };
    if let Some(authority) = parts.uri.authority().filter(|_| is_said_well) {
        let bare = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, host)| host);
        let Ok(value) = HeaderValue::from_str(bare) else { return false };
        parts.headers.insert(header::HOST, value);
    }
    is_said_well
}

/// The host a request is for, as the client wrote it.
fn host(parts: &Parts) -> Option<&str> {
    parts.uri.host().or_else(|| parts.headers.get(header::HOST)?.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_the_target_counts_and_there_is_one() {
        let settled = |uri: &str, version, hosts: &[&str]| {
            let mut request = Request::builder().uri(uri).version(version);
            for host in hosts {
                request = request.header(header::HOST, *host);
            }
            let (mut parts, ()) = request.body(()).unwrap().into_parts();
            settle_host(&mut parts).then(|| {
                let hosts: Vec<_> = parts
                    .headers
                    .get_all(header::HOST)
                    .iter()
                    .map(|h| h.to_str().unwrap())
                    .collect();
                hosts.join(" and ")
            })
        };
        let (old, one, two) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
        for (uri, version, hosts, expected) in [
            ("/", one, &["a:80"][..], Some("a:80")),
            ("/", one, &[], None),
            ("/", one, &["a", "a"], None),
            ("/", old, &[], Some("")),
            ("/", old, &["a", "b"], None),
            ("http://me@b:81/", one, &["a"], Some("b:81")),
            ("http://b/", one, &[], None),
            ("http://b/", two, &[], Some("b")),
            ("http://b/", two, &["a"], Some("b")),
            ("/", two, &[], Some("")),
            ("/", one, &[""], Some("")),
            ("/", one, &["[::1]:80"], Some("[::1]:80")),
            ("/", one, &["a:80/admin?x="], None),
            ("/", one, &["a?x="], None),
            ("/", one, &["a#"], None),
            ("/", one, &["a\\b"], None),
            ("/", one, &["me@a"], None),
            ("/", one, &["a b"], None),
            // Nobody reads a path in them.
            ("/", one, &["::1"], Some("::1")),
            ("/", one, &["a:80:81"], Some("a:80:81")),
            ("/", one, &["a%20b"], Some("a%20b")),
            ("/", old, &["a/b"], None),
            ("http://b/", one, &["a/c"], None),
            ("/", two, &["a/b"], None),
        ] {
            assert_eq!(
                settled(uri, version, hosts).as_deref(),
                expected,
                "{uri} {version:?} {hosts:?}"
            );
        }
    }
}

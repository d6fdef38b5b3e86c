//! Subscribes to the control subjects, dispatches requests and answers them.
//!
//! Flow: one task per subscription reads messages in order → [`Server::respond`] parses and hands a
//! command over, in that order and without waiting → longer work runs as a child task and answers
//! when it is done. In any case an answer leaves within [`ANSWER_TIMEOUT`]: clients wait two
//! seconds.
//!
//! An auction is answered by a bid or not at all: clients read every other answer as a bid of a
//! host without a name.
//!
//! Requests about the lattice's metadata are answered by one host for all, through a queue group. A
//! host that has not been told yet what the lattice knows is no member: it hears every such request
//! and answers late, after any member would have, and writes nothing. So clients are told something
//! by a host that is alone, never less than others know, and no write is carried out twice.

use std::{fmt::Display, io, sync::Arc, time::Duration};

use async_nats::{Message, Subject, Subscriber};
use bytes::Bytes;
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, ready},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, error, info_span, warn};

use super::{
    audited, link_changes::LinkChanges, named_config::NamedConfig, probe::health::ProbeContext,
    refusals::Refusals, state::Readiness, turns::Turns,
};
use crate::{
    actors,
    host_context::HostContext,
    journal::followers::Followers,
    kept::{KeptStarts, Noted, Told},
    providers,
    router::Router,
};
use lattice_base::{
    lattice::{answers::Unsent, connection::confirm, made},
    registry::{Registry, credentials::Registries},
    store::WRITE_TIMEOUT,
};
use lattice_protocol::{
    control::types::Ack,
    events::Event,
    history::{ORIGIN_HEADER, audit::Asked},
    lattice::{
        control::{Control, Intent},
        subject::ControlSubscription,
    },
};

/// Clients give up after two seconds.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_millis(1900);
/// Requests of one subscription that may wait for their answers.
const WAITING_MAX: usize = 256;
/// How long leaving a subscription may take.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(250);
/// The time that a member of a queue group may need to answer from its state, and to write; and a
/// little more.
const LATE_READ: Duration = Duration::from_millis(500);
const LATE_WRITE: Duration = WRITE_TIMEOUT.saturating_add(Duration::from_millis(200));
/// Heartbeats that somebody provokes, with pings or labels, come no closer than this.
const EXTRA_HEARTBEAT: Duration = Duration::from_secs(1);

/// The content of a reply: nothing, or JSON.
pub type Answer = BoxFuture<'static, Option<Bytes>>;

/// How a stop of the host was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopRequest {
    /// How long calls in work may take.
    pub timeout: Option<Duration>,
}

/// The parts of the host that the handlers use.
pub struct Parts {
    pub context: Arc<HostContext>,
    /// Providers that are programs of their own may start.
    pub allow_external: bool,
    pub actors: actors::supervisor::Handle,
    pub providers: providers::supervisor::Handle,
    pub named_config: NamedConfig,
    pub registries: Registries,
    pub registry: Registry,
    pub router: Router,
    /// Remembers what is started by hand.
    pub kept: KeptStarts,
    /// The parts that only the health probe uses.
    pub probe_context: ProbeContext,
    /// Those who ask for logs.
    pub followers: Followers,
    /// Tells the host that it is to stop.
    pub stop_requests: watch::Sender<Option<StopRequest>>,
}

/// Why the control interface cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("subscribe to {subject}: {cause}")]
pub struct SubscribeError {
    subject: String,
    cause: String,
}

/// How this host takes part in a queue group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Membership {
    Member,
    /// It does not know yet what the lattice knows, so it hears all requests, and answers after any
    /// member would have.
    Late,
}

impl Membership {
    fn of(is_synced: bool) -> Self {
        if is_synced { Self::Member } else { Self::Late }
    }

    /// Whether this host is the one that acts on a request, and not one of those that answer in
    /// vain after a member.
    fn acts(self, request: &Control) -> bool {
        self == Self::Member || !writes_shared(request)
    }
}

/// Whether a request writes what the lattice shares, so that one host does it for all.
fn writes_shared(request: &Control) -> bool {
    matches!(
        request,
        Control::LinkPut
            | Control::LinkDel
            | Control::ConfigPut { .. }
            | Control::ConfigDel { .. }
            | Control::ConfigClear { .. }
    )
}

/// One subscription, and how its requests are answered.
struct Listening {
    wanted: ControlSubscription,
    subscription: Subscriber,
    membership: Membership,
    synced: watch::Receiver<bool>,
}

/// Serves the control interface of one host.
pub struct Server {
    pub(super) parts: Parts,
    refusals: Refusals,
    /// Links as they were before.
    pub(super) link_changes: LinkChanges,
    /// Changes of links, by the link's id.
    pub(super) turns: Arc<Turns>,
    /// A heartbeat is wanted before the next is due.
    heartbeat_wanted: Notify,
}

impl Server {
    /// Subscribes; requests are answered from here on, by `tasks`.
    pub async fn start(parts: Parts, tasks: &TaskTracker) -> Result<(), SubscribeError> {
        let lifeline = parts.context.lifeline.clone();
        let refusals =
            Refusals::new(parts.context.state.facts().id.to_string(), parts.context.events.clone());
        let link_changes = LinkChanges::new(Arc::clone(&parts.context));
        let server = Arc::new(Self {
            parts,
            refusals,
            link_changes,
            turns: Arc::default(),
            heartbeat_wanted: Notify::new(),
        });
        let host = &server.parts.context.state.facts().id;
        let client = &server.parts.context.ctl.client;
        let mut synced = server.parts.context.links.synced();
        let membership = Membership::of(*synced.borrow_and_update());
        let mut subscriptions = Vec::new();
        for wanted in server.parts.context.subjects.control_subscriptions(host) {
            let subscription = server.subscribe(&wanted, membership).await?;
            subscriptions.push(Listening {
                wanted,
                subscription,
                membership,
                synced: synced.clone(),
            });
        }
        confirm(client).await.map_err(|e| SubscribeError {
            subject: "the control interface".into(),
            cause: e.to_string(),
        })?;
        tasks.spawn(Arc::clone(&server).beat_when_wanted(lifeline.closing.clone()));
        for listening in subscriptions {
            let span = info_span!("control", subject = %listening.wanted.subject);
            let listening =
                Arc::clone(&server).listen(listening, lifeline.closing.clone()).instrument(span);
            tasks.spawn(lifeline.essential("control interface", listening));
        }
        Ok(())
    }

    /// Subscribes, as a member of the queue group if this host knows what the group answers for.
    async fn subscribe(
        &self,
        wanted: &ControlSubscription,
        membership: Membership,
    ) -> Result<Subscriber, SubscribeError> {
        let (client, subject) = (&self.parts.context.ctl.client, wanted.subject.clone());
        let subscribed = match &wanted.queue {
            Some(queue) if membership == Membership::Member => {
                client.queue_subscribe(subject, queue.clone()).await
            }
            _ => client.subscribe(subject).await,
        };
        subscribed
            .map_err(|e| SubscribeError { subject: wanted.subject.clone(), cause: e.to_string() })
    }

    async fn listen(self: Arc<Self>, mut listening: Listening, stop: CancellationToken) {
        let mut waiting = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(done) = waiting.join_next(), if !waiting.is_empty() => {
                    if let Err(failure) = done {
                        error!(error = %failure, "a control request panicked");
                    }
                }
                Ok(()) = listening.synced.changed(), if listening.wanted.queue.is_some() => {
                    self.join_or_leave(&mut listening, &mut waiting).await;
                }
                message = listening.subscription.next(), if waiting.len() < WAITING_MAX => match message {
                    Some(message) => self.take_on(&mut waiting, message, listening.membership),
                    None => break,
                },
            }
        }
        // Out of the queue groups first, so that others get the requests; whoever asked before
        // still gets an answer.
        self.leave(listening.subscription, listening.membership, &mut waiting).await;
        while waiting.join_next().await.is_some() {}
    }

    /// Joins the queue group when this host knows what the lattice knows, or leaves it. Requests
    /// from before are answered as they would have been then: the group may have got them too.
    async fn join_or_leave(self: &Arc<Self>, listening: &mut Listening, waiting: &mut JoinSet<()>) {
        let membership = Membership::of(*listening.synced.borrow_and_update());
        if membership == listening.membership {
            return;
        }
        match self.subscribe(&listening.wanted, membership).await {
            Ok(subscription) => {
                let old = std::mem::replace(&mut listening.subscription, subscription);
                self.leave(old, listening.membership, waiting).await;
                listening.membership = membership;
            }
            Err(error) => warn!(%error, "this host goes on answering as before"),
        }
    }

    async fn leave(
        self: &Arc<Self>,
        mut subscription: Subscriber,
        membership: Membership,
        waiting: &mut JoinSet<()>,
    ) {
        if subscription.drain().await.is_ok() {
            while let Ok(Some(message)) =
                tokio::time::timeout(LEAVE_TIMEOUT, subscription.next()).await
            {
                self.take_on(waiting, message, membership);
            }
        }
    }

    fn take_on(
        self: &Arc<Self>,
        waiting: &mut JoinSet<()>,
        message: Message,
        membership: Membership,
    ) {
        let request = self.parts.context.subjects.parse_control(&message.subject);
        let is_dropped = match request.as_ref().map(Control::intent) {
            Some(Intent::Command(_)) => made::by_jetstream_as_command(&message),
            Some(Intent::Query(_)) | None => made::by_jetstream(&message),
        };
        if is_dropped {
            return;
        }
        let Message { subject, reply, payload, headers, .. } = message;
        let origin = headers.as_ref().and_then(|headers| headers.get(ORIGIN_HEADER));
        let origin = origin.map(|origin| origin.as_str());
        let asked = Asked::now(origin);
        debug!(%subject, "control request");
        let answer = match membership {
            Membership::Member => self.respond(subject.as_str(), &payload, reply.as_ref(), origin),
            Membership::Late => {
                self.respond_late(subject.as_str(), &payload, reply.as_ref(), origin)
            }
        };
        let server = Arc::clone(self);
        waiting.spawn(async move {
            let answer = match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
                Ok(answer) => answer,
                Err(_) => json(&Ack::rejected(
                    "the host did not finish in time, the outcome is unknown; query it to find out",
                )),
            };
            let Some(answer) = answer else { return };
            server.refusals.tell(request.as_ref(), &subject, &payload, &answer);
            if let Some(request) = request.filter(|request| membership.acts(request))
                && let Some(entry) = audited::entry(asked, &request, &payload, &answer)
            {
                server.parts.context.history.audit(entry);
            }
            if let Some(reply) = reply {
                server.send(&subject, &reply, answer).await;
            }
        });
    }

    async fn send(&self, subject: &Subject, reply: &Subject, mut answer: Bytes) {
        let (size, max) = (answer.len(), self.payload_max());
        // The client library would refuse it, and the one who asks would wait in vain.
        if size > max {
            warn!(%subject, size, max, "control reply is larger than the NATS server takes; raise its max_payload");
            let refusal = format!(
                "the answer has {size} bytes, more than the {max} the NATS server takes in one message; raise its max_payload"
            );
            answer = json(&Ack::rejected(refusal)).unwrap_or_default();
        }
        let context = &self.parts.context;
        match context.answers.send(&context.ctl.client, reply, answer, ANSWER_TIMEOUT).await {
            Ok(()) | Err(Unsent::Refused) => {}
            Err(error) => warn!(%subject, %error, "control reply lost"),
        }
    }

    /// Handles a request as a host that knows less than others: they answer first, and only they
    /// write.
    fn respond_late(
        self: &Arc<Self>,
        subject: &str,
        payload: &Bytes,
        reply: Option<&Subject>,
        origin: Option<&str>,
    ) -> Answer {
        match self.parts.context.subjects.parse_control(subject) {
            Some(Control::Claims | Control::Links) => {
                // Answers from the state after the delay.
                let (server, subject, payload) =
                    (Arc::clone(self), subject.to_owned(), payload.clone());
                async move {
                    tokio::time::sleep(LATE_READ).await;
                    server.respond(&subject, &payload, None, None).await
                }
                .boxed()
            }
            Some(Control::ConfigGet { .. } | Control::ConfigList { .. }) => {
                let answer = self.respond(subject, payload, reply, origin);
                async move { tokio::join!(answer, tokio::time::sleep(LATE_WRITE)).0 }.boxed()
            }
            Some(request) if writes_shared(&request) => {
                let store = self.parts.context.store.clone();
                async move {
                    tokio::time::sleep(LATE_WRITE).await;
                    json(&Ack::rejected(store.backend().absence()))
                }
                .boxed()
            }
            // Asked of this host, or of each.
            _ => self.respond(subject, payload, reply, origin),
        }
    }

    /// Handles a request. Work that must happen in the order of requests is done before this
    /// returns. An answer of many messages goes to `reply` by itself.
    fn respond(
        self: &Arc<Self>,
        subject: &str,
        payload: &Bytes,
        reply: Option<&Subject>,
        origin: Option<&str>,
    ) -> Answer {
        let Some(request) = self.parts.context.subjects.parse_control(subject) else {
            return self.unsupported(subject);
        };
        match request {
            Control::PingHosts => self.ping(),
            Control::Inventory { .. } => self.inventory(),
            Control::Claims => self.get_claims(),
            Control::Links => self.get_links(),
            Control::LinkPut => read("put link", payload, |ask| self.put_link(ask)),
            Control::LinkDel => read("delete link", payload, |ask| self.delete_link(ask)),
            Control::AuctionActor => bid(payload, |ask| self.bid_for_actor(ask)),
            Control::AuctionProvider => bid(payload, |ask| self.bid_for_provider(ask)),
            Control::LaunchActor { .. } => {
                read("launch actor", payload, |ask| self.launch_actor(ask))
            }
            Control::ScaleActor { .. } => read("scale actor", payload, |ask| self.scale_actor(ask)),
            Control::StopActor { .. } => read("stop actor", payload, |ask| self.stop_actor(ask)),
            Control::UpdateActor { .. } => {
                read("update actor", payload, |ask| self.update_actor(ask))
            }
            Control::LaunchProvider { .. } => {
                read("launch provider", payload, |ask| self.launch_provider(ask))
            }
            Control::StopProvider { .. } => {
                read("stop provider", payload, |ask| self.stop_provider(ask))
            }
            Control::StopHost { .. } => {
                read("stop host", or_empty(payload), |ask| self.stop_host(ask))
            }
            Control::ForgetHost { .. } => {
                read("forget host", payload, |ask| self.forget_host(&ask))
            }
            Control::LabelPut { .. } => read("label", payload, |ask| self.put_label(ask)),
            Control::LabelDel { .. } => read("label", payload, |ask| self.delete_label(ask)),
            Control::RegistriesPut => self.put_registries(payload),
            Control::ConfigPut { entity, key } => self.put_config(entity, key, payload.clone()),
            Control::ConfigDel { entity, key } => self.delete_config(entity, Some(key)),
            Control::ConfigClear { entity } => self.delete_config(entity, None),
            Control::ConfigGet { entity, key } => self.get_config(entity, Some(key)),
            Control::ConfigList { entity } => self.get_config(entity, None),
            Control::ProbeCalls { .. } => {
                read("calls", or_empty(payload), |ask| self.probe_calls(&ask))
            }
            Control::ProbeLogs { .. } => read("logs", payload, |ask| self.probe_logs(ask, reply)),
            Control::ProbeExplain { .. } => read("explain", payload, |ask| self.probe_explain(ask)),
            Control::ProbeHealth { .. } => self.probe_health(payload),
            Control::ProbeLinks { .. } => {
                read("page", or_empty(payload), |ask| self.probe_links(ask))
            }
            Control::ProbeClaims { .. } => {
                read("page", or_empty(payload), |ask| self.probe_claims(ask))
            }
            Control::ProbeLink { .. } => read("link", payload, |ask| self.probe_link(ask)),
            Control::ProbeLinkChange { .. } => {
                read("link change", payload, |ask| self.probe_link_change(ask))
            }
            Control::ProbeFailures { .. } => {
                read("failures", or_empty(payload), |ask| self.probe_failures(&ask))
            }
            Control::ProbeLost { .. } => self.probe_lost(),
            Control::ProbeAttention { .. } => self.probe_attention(),
            Control::MarkAttention { .. } => {
                read("attention", payload, |ask| self.mark_attention(ask, origin))
            }
        }
    }

    fn unsupported(&self, subject: &str) -> Answer {
        if self.parts.context.subjects.is_auction(subject) {
            // Clients take every answer to an auction for a bid.
            return silence();
        }
        now(&Ack::rejected(format!("unsupported subject {subject}")))
    }

    /// Returns the refusal of everything new, if this host is drained.
    pub(super) fn refusal(&self) -> Option<Ack> {
        let state = &self.parts.context.state;
        (state.readiness() == Readiness::Drained).then(|| {
            let name = &state.facts().friendly_name;
            Ack::rejected(format!(
                "host {name} is drained and takes nothing new; `host drain {name} --undo` lets it take work again, and so \
                 does its next start"
            ))
        })
    }

    fn ping(&self) -> Answer {
        // Dashboards of older hosts fill their tables from the heartbeats that a ping provokes.
        self.heartbeat_soon();
        let context = &self.parts.context;
        let there = context.peers.others().into_iter().filter(|(_, is_silent)| !is_silent);
        now(&context.state.ping(there.map(|(host, _)| host).collect()))
    }

    fn inventory(&self) -> Answer {
        let Parts { context, actors, providers, .. } = &self.parts;
        now(&context.state.inventory(&actors.running(), &providers.running()))
    }

    /// Tells how this host is before the next heartbeat is due: at once, or when the last one is a
    /// second old. However often this is asked for meanwhile, it is one heartbeat.
    pub(super) fn heartbeat_soon(&self) {
        self.heartbeat_wanted.notify_one();
    }

    async fn beat_when_wanted(self: Arc<Self>, closing: CancellationToken) {
        let beats = async {
            loop {
                self.heartbeat_wanted.notified().await;
                let parts = &self.parts;
                let heartbeat = parts
                    .context
                    .state
                    .heartbeat(&parts.actors.running(), &parts.providers.running());
                parts.context.events.publish(Event::HostHeartbeat(heartbeat));
                sleep(EXTRA_HEARTBEAT).await;
            }
        };
        closing.run_until_cancelled(beats).await;
    }

    /// Bytes the NATS server takes in one message.
    pub(super) fn payload_max(&self) -> usize {
        self.parts.context.ctl.client.server_info().max_payload
    }
}

/// Answers a command, with what is kept of it.
pub(super) async fn with_kept(outcome: Result<Noted, impl Display>) -> Option<Bytes> {
    let told = match outcome {
        Ok(noted) => noted.told().await,
        Err(error) => return json(&Ack::rejected(error)),
    };
    json(&match told {
        Told::Nothing => Ack::accepted(),
        Told::Kept(place) => Ack { kept: Some(place), ..Ack::accepted() },
        Told::NotKept(cause) => Ack { not_kept: Some(cause), ..Ack::accepted() },
    })
}

/// An answer that is known at once.
pub(super) fn now(reply: &impl Serialize) -> Answer {
    let reply = json(reply);
    async move { reply }.boxed()
}

/// Encodes a listing, if it fits into one message; nothing larger is ever built.
pub(super) fn json_within(listing: &impl Serialize, bytes_max: usize) -> Option<Bytes> {
    let mut bounded = Bounded { bytes: Vec::new(), bytes_max };
    serde_json::to_writer(&mut bounded, listing).ok()?;
    Some(bounded.bytes.into())
}

/// Takes bytes as far as there is room.
struct Bounded {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.bytes_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Encodes a reply.
pub(super) fn json(reply: &impl Serialize) -> Option<Bytes> {
    match serde_json::to_vec(reply) {
        Ok(json) => Some(json.into()),
        Err(error) => {
            error!(%error, "reply cannot be encoded");
            None
        }
    }
}

/// No answer at all.
fn silence() -> Answer {
    ready(None).boxed()
}

/// Reads a request and carries it out, or answers why it cannot be read.
fn read<R: DeserializeOwned>(
    what: &str,
    payload: &[u8],
    carry_out: impl FnOnce(R) -> Answer,
) -> Answer {
    match parse(payload) {
        Ok(request) => carry_out(request),
        Err(error) => now(&Ack::rejected(format!("malformed {what} request: {error}"))),
    }
}

/// Reads an auction and answers with a bid, or not at all. A bid is a promise: clients take the
/// first one.
fn bid<R: DeserializeOwned, B: Serialize>(
    payload: &[u8],
    offer: impl FnOnce(R) -> Option<B>,
) -> Answer {
    match parse(payload) {
        Ok(request) => offer(request).map_or_else(silence, |bid| now(&bid)),
        Err(error) => {
            warn!(%error, "auction request is malformed");
            silence()
        }
    }
}

/// A request that may be empty, as the object without members.
fn or_empty(payload: &Bytes) -> &[u8] {
    if payload.is_empty() { b"{}" } else { payload }
}

/// Reads a request. Each is a JSON object; a list would be read as the members of one, in their
/// order.
fn parse<T: DeserializeOwned>(payload: &[u8]) -> serde_json::Result<T> {
    match payload.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') | None => serde_json::from_slice(payload),
        Some(_) => Err(serde::de::Error::custom("it is no JSON object")),
    }
}

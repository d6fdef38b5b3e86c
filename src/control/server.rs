//! Subscribes to the control subjects, dispatches requests and answers them.
//!
//! Flow: one task per subscription reads messages in order → [`Server::respond`] parses and hands a
//! command over, in that order and without waiting → longer work runs as a child task and answers
//! when it is done. In any case an answer leaves within [`ANSWER_TIMEOUT`]: clients wait two
//! seconds.
//!
//! An auction is answered by a bid or not at all: clients read every other answer as a bid of a host without a name.
//!
//! Requests about the lattice's metadata are answered by one host for all, through a queue group. A host that has not been
//! told yet what the lattice knows is no member: it hears every such request and answers late, after any member would
//! have, and writes nothing. So clients are told something by a host that is alone, never less than others know, and no
//! write is carried out twice.

use std::{io, sync::Arc, time::Duration};

use async_nats::{Message, Subject, Subscriber};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, error, info_span, warn};

use super::{named_config::NamedConfig, probe::health::Vitals, refusals::Refusals, state::HostState, types::Ack};
use crate::{
    actors,
    events::{Event, Publisher},
    issuers::Issuers,
    journal::followers::Followers,
    lattice::{
        answers::{Answers, Unsent},
        connection::confirm,
        subject::{Command, Control, ControlSubscription, Probe, Subjects},
    },
    links::Live,
    meter::Meter,
    peers::Peers,
    providers,
    registry::{Registry, credentials::Registries},
    router::Router,
    shutdown::essential,
    store::{Store, WRITE_TIMEOUT},
};

/// Clients give up after two seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1900);
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
    pub client: async_nats::Client,
    pub answers: Answers,
    pub subjects: Subjects,
    pub state: HostState,
    pub peers: Peers,
    pub issuers: Issuers,
    /// Providers that are programs of their own may start.
    pub allow_external: bool,
    pub actors: actors::supervisor::Handle,
    pub providers: providers::supervisor::Handle,
    pub store: Store,
    pub links: Live,
    pub named_config: NamedConfig,
    pub registries: Registries,
    pub registry: Registry,
    pub events: Publisher,
    pub router: Router,
    /// The parts that only the health probe uses.
    pub vitals: Vitals,
    /// Counts calls.
    pub meter: Meter,
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

/// One subscription, and how its requests are answered.
struct Listening {
    wanted: ControlSubscription,
    subscription: Subscriber,
    /// Not as a member of the queue group, but after its members.
    is_late: bool,
    knowledge: watch::Receiver<bool>,
}

/// Serves the control interface of one host.
pub struct Server {
    pub(super) parts: Parts,
    refusals: Refusals,
    /// A heartbeat is wanted before the next is due.
    heartbeat_wanted: Notify,
}

impl Server {
    /// Subscribes; requests are answered from here on.
    ///
    /// The tokens are: this host is closing, and this host cannot go on.
    pub async fn start(
        parts: Parts,
        tasks: &TaskTracker,
        (closing, failed): (CancellationToken, CancellationToken),
    ) -> Result<(), SubscribeError> {
        let refusals = Refusals::new(parts.state.facts().id.to_string(), parts.events.clone());
        let server = Arc::new(Self { parts, refusals, heartbeat_wanted: Notify::new() });
        let host = &server.parts.state.facts().id;
        let client = &server.parts.client;
        let mut knowledge = server.parts.links.knowledge();
        let is_late = !*knowledge.borrow_and_update();
        let mut subscriptions = Vec::new();
        for wanted in server.parts.subjects.control_subscriptions(host) {
            let subscription = server.subscribe(&wanted, is_late).await?;
            subscriptions.push(Listening { wanted, subscription, is_late, knowledge: knowledge.clone() });
        }
        confirm(client)
            .await
            .map_err(|e| SubscribeError { subject: "the control interface".into(), cause: e.to_string() })?;
        tasks.spawn(Arc::clone(&server).beat_when_wanted(closing.clone()));
        for listening in subscriptions {
            let span = info_span!("control", subject = %listening.wanted.subject);
            let listening = Arc::clone(&server).listen(listening, closing.clone()).instrument(span);
            tasks.spawn(essential("control interface", listening, closing.clone(), failed.clone()));
        }
        Ok(())
    }

    /// Subscribes, as a member of the queue group if this host knows what the group answers for.
    async fn subscribe(&self, wanted: &ControlSubscription, is_late: bool) -> Result<Subscriber, SubscribeError> {
        let (client, subject) = (&self.parts.client, wanted.subject.clone());
        let subscribed = match &wanted.queue {
            Some(queue) if !is_late => client.queue_subscribe(subject, queue.clone()).await,
            _ => client.subscribe(subject).await,
        };
        subscribed.map_err(|e| SubscribeError { subject: wanted.subject.clone(), cause: e.to_string() })
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
                Ok(()) = listening.knowledge.changed(), if listening.wanted.queue.is_some() => {
                    self.join_or_leave(&mut listening, &mut waiting).await;
                }
                message = listening.subscription.next(), if waiting.len() < WAITING_MAX => match message {
                    Some(message) => self.take_on(&mut waiting, message, listening.is_late),
                    None => break,
                },
            }
        }
        // Out of the queue groups first, so that others get the requests; whoever asked before still gets an answer.
        self.leave(listening.subscription, listening.is_late, &mut waiting).await;
        while waiting.join_next().await.is_some() {}
    }

    /// Joins the queue group when this host knows what the lattice knows, or leaves it. Requests
    /// from before are answered as they would have been then: the group may have got them too.
    async fn join_or_leave(self: &Arc<Self>, listening: &mut Listening, waiting: &mut JoinSet<()>) {
        let is_late = !*listening.knowledge.borrow_and_update();
        if is_late == listening.is_late {
            return;
        }
        match self.subscribe(&listening.wanted, is_late).await {
            Ok(subscription) => {
                let old = std::mem::replace(&mut listening.subscription, subscription);
                self.leave(old, listening.is_late, waiting).await;
                listening.is_late = is_late;
            }
            Err(error) => warn!(%error, "this host goes on answering as before"),
        }
    }

    async fn leave(self: &Arc<Self>, mut subscription: Subscriber, is_late: bool, waiting: &mut JoinSet<()>) {
        if subscription.drain().await.is_ok() {
            while let Ok(Some(message)) = tokio::time::timeout(LEAVE_TIMEOUT, subscription.next()).await {
                self.take_on(waiting, message, is_late);
            }
        }
    }

    fn take_on(self: &Arc<Self>, waiting: &mut JoinSet<()>, message: Message, is_late: bool) {
        let Message { subject, reply, payload, .. } = message;
        debug!(%subject, "control request");
        let answer = if is_late {
            self.respond_late(subject.as_str(), &payload, reply.as_ref())
        } else {
            self.respond(subject.as_str(), &payload, reply.as_ref())
        };
        let (client, answers) = (self.parts.client.clone(), self.parts.answers.clone());
        let server = Arc::clone(self);
        waiting.spawn(async move {
            let answer = match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
                Ok(answer) => answer,
                Err(_) => json(&Ack::rejected(
                    "the host did not finish in time, the outcome is unknown; query it to find out",
                )),
            };
            if let Some(answer) = &answer {
                let request = server.parts.subjects.parse_control(&subject);
                server.refusals.tell(request.as_ref(), &subject, &payload, answer);
            }
            let (Some(reply), Some(mut answer)) = (reply, answer) else { return };
            // The client library would refuse it, and the one who asks would wait in vain.
            let (size, max) = (answer.len(), client.server_info().max_payload);
            if size > max {
                warn!(%subject, size, max, "control reply is larger than the NATS server takes; raise its max_payload");
                let refusal = format!(
                    "the answer has {size} bytes, more than the {max} the NATS server takes in one message; raise its max_payload"
                );
                answer = json(&Ack::rejected(refusal)).unwrap_or_default();
            }
            match answers.send(&client, &reply, answer, ANSWER_TIMEOUT).await {
                Ok(()) | Err(Unsent::Refused) => {}
                Err(error) => warn!(%subject, %error, "control reply lost"),
            }
        });
    }

    /// Handles a request as a host that knows less than others: they answer first, and only they
    /// write.
    fn respond_late(self: &Arc<Self>, subject: &str, payload: &Bytes, reply: Option<&Subject>) -> Answer {
        match self.parts.subjects.parse_control(subject) {
            Some(Control::Claims | Control::Links) => {
                // Answers from the state after the delay.
                let (server, subject, payload) = (Arc::clone(self), subject.to_owned(), payload.clone());
                async move {
                    tokio::time::sleep(LATE_READ).await;
                    server.respond(&subject, &payload, None).await
                }
                .boxed()
            }
            Some(Control::ConfigGet { .. }) => {
                let answer = self.respond(subject, payload, reply);
                async move { tokio::join!(answer, tokio::time::sleep(LATE_WRITE)).0 }.boxed()
            }
            Some(
                Control::LinkPut
                | Control::LinkDel
                | Control::ConfigPut { .. }
                | Control::ConfigDel { .. }
                | Control::ConfigClear { .. },
            ) => {
                let store = self.parts.store.clone();
                async move {
                    tokio::time::sleep(LATE_WRITE).await;
                    json(&Ack::rejected(store.backend().absence()))
                }
                .boxed()
            }
            // Asked of this host, or of each.
            _ => self.respond(subject, payload, reply),
        }
    }

    /// Handles a request. Work that must happen in the order of requests is done before this
    /// returns. An answer of many messages goes to `reply` by itself.
    fn respond(self: &Arc<Self>, subject: &str, payload: &Bytes, reply: Option<&Subject>) -> Answer {
        let Some(request) = self.parts.subjects.parse_control(subject) else {
            if self.parts.subjects.is_auction(subject) {
                // Clients take every answer to an auction for a bid.
                return futures::future::ready(None).boxed();
            }
            return now(&Ack::rejected(format!("unsupported subject {subject}")));
        };
        match request {
            Control::PingHosts => {
                // Dashboards of older hosts fill their tables from the heartbeats that a ping provokes.
                self.heartbeat_soon();
                let there = self.parts.peers.others().into_iter().filter(|(_, is_silent)| !is_silent);
                now(&self.parts.state.ping(there.map(|(host, _)| host).collect()))
            }
            Control::Inventory { .. } => {
                now(&self.parts.state.inventory(&self.parts.actors.running(), &self.parts.providers.running()))
            }
            Control::Claims => self.get_claims(),
            Control::Links => self.get_links(),
            Control::LinkPut => self.put_link(payload),
            Control::LinkDel => self.delete_link(payload),
            Control::AuctionActor => self.auction_actor(payload),
            Control::AuctionProvider => self.auction_provider(payload),
            Control::Command { command, .. } => match command {
                Command::LaunchActor => self.launch_actor(payload),
                Command::ScaleActor => self.scale_actor(payload),
                Command::StopActor => self.stop_actor(payload),
                Command::UpdateActor => self.update_actor(payload),
                Command::LaunchProvider => self.launch_provider(payload),
                Command::StopProvider => self.stop_provider(payload),
                Command::StopHost => self.stop_host(payload),
            },
            Control::LabelPut { .. } => self.put_label(payload),
            Control::LabelDel { .. } => self.delete_label(payload),
            Control::RegistriesPut => self.put_registries(payload),
            Control::ConfigPut { entity, key } => self.put_config(entity, key, payload.clone()),
            Control::ConfigDel { entity, key } => self.delete_config(entity, Some(key)),
            Control::ConfigClear { entity } => self.delete_config(entity, None),
            Control::ConfigGet { entity, key } => self.get_config(entity, key),
            Control::Probe { probe, .. } => match probe {
                Probe::Calls => self.probe_calls(payload),
                Probe::Logs => self.probe_logs(payload, reply),
                Probe::Explain => self.probe_explain(payload),
                Probe::Health => self.probe_health(payload),
                Probe::Links => self.probe_links(payload),
                Probe::Claims => self.probe_claims(payload),
                Probe::Link => self.probe_link(payload),
            },
        }
    }

    /// Tells how this host is before the next heartbeat is due: at once, or when the last one is a second old. However often
    /// this is asked for meanwhile, it is one heartbeat.
    pub(super) fn heartbeat_soon(&self) {
        self.heartbeat_wanted.notify_one();
    }

    async fn beat_when_wanted(self: Arc<Self>, closing: CancellationToken) {
        let beats = async {
            loop {
                self.heartbeat_wanted.notified().await;
                let parts = &self.parts;
                let heartbeat = parts.state.heartbeat(&parts.actors.running(), &parts.providers.running());
                parts.events.publish(Event::HostHeartbeat(heartbeat));
                sleep(EXTRA_HEARTBEAT).await;
            }
        };
        closing.run_until_cancelled(beats).await;
    }

    /// Bytes the NATS server takes in one message.
    pub(super) fn payload_max(&self) -> usize {
        self.parts.client.server_info().max_payload
    }
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

/// Reads a request, or makes the rejecting answer.
pub(super) fn parse<T: DeserializeOwned>(what: &str, payload: &[u8]) -> Result<T, Answer> {
    read(payload).map_err(|error| now(&Ack::rejected(format!("malformed {what} request: {error}"))))
}

/// Reads a request. Each is a JSON object; a list would be read as the members of one, in their order.
pub(super) fn read<T: DeserializeOwned>(payload: &[u8]) -> serde_json::Result<T> {
    match payload.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') | None => serde_json::from_slice(payload),
        Some(_) => Err(serde::de::Error::custom("it is no JSON object")),
    }
}

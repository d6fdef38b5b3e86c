//! `builtin://messaging`: actors publish to NATS, ask others, and receive the messages of their
//! subscriptions (wasmbus protocol, section 5.5).
//!
//! A link uses the host's own connection, on which [`subjects`] keeps it away from the lattice's
//! subjects, or a [`connection`] of its own. [`deliver`] brings messages to the actor.
//!
//! Some rules always hold: a message of a subscription is delivered once in the lattice, on
//! whichever host, because all hosts with this link are in one queue group; a link that is taken on
//! has its subscriptions; messages that had arrived when a link ends are handled, and the actor can
//! still publish while it handles them.

mod connection;
mod deliver;
mod subjects;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{Request, RequestErrorKind};
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use self::{
    connection::Server,
    deliver::Deliveries,
    subjects::{Reserved, SubjectError, Subscription, check_publish},
};
use super::{
    Context, Link, LinkError, Provider, Spec, Value, unknown_operation,
    values::{Values, wrong},
};
use crate::rpc::call::{Call, CallError};
use lattice_base::lattice::{connection::confirm, reserved};
use lattice_protocol::{
    builtin,
    contracts::{
        self, PayloadError,
        messaging::{
            Message, PUBLISH, REQUEST, RequestMessage, SERVICE,
            words::{NO_REPLY, NO_RESPONDERS, TOO_LARGE},
        },
    },
    errors::chain,
    links::LinkDefinition,
};

/// At most this long before the call's own deadline a request is given up, so that the actor gets
/// our words.
const MARGIN_MAX: Duration = Duration::from_millis(100);
/// How much longer the client's own timeout of a request may take to be noticed.
const GRACE: Duration = Duration::from_millis(25);
/// The longest time an actor may be given for a message. Far beyond what anybody waits for.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How long calls that took a link just before another one replaced it may take to begin.
const LATE_CALLS: Duration = Duration::from_millis(100);
/// Subscriptions a link may have.
const SUBSCRIPTIONS_MAX: usize = 256;

pub static SPEC: Spec = Spec {
    known: builtin::MESSAGING,
    about: "Publishes messages to NATS, makes requests and hands the messages of subscriptions to actors. Without the link value \
            uri it uses the lattice's own server and leaves the lattice's subjects alone; the provider of earlier years then \
            used 0.0.0.0:4222.",
    values: VALUES,
    is_ingress: true,
    check,
    build,
};

fn check(link: &LinkDefinition) -> Result<Vec<String>, LinkError> {
    let values = Values::read(&SPEC, link)?;
    let own_server = Server::read(&values)?;
    // Only the provider's host knows the further subjects that its settings reserve.
    let reserved_there = reserved_at_the_hosts(&values, &reserved::Reserved::default())?;
    let reserved = if own_server.is_none() { reserved_there } else { Reserved::Nothing };
    subscriptions(&values, &reserved)?;
    timeout(&values, Duration::ZERO)?;
    values.oddities()
}

const VALUES: &[Value] = &[
    Value {
        name: "subscription",
        aliases: &["subscriptions"],
        default: "none",
        help: "Comma list of subjects whose messages the actor handles, each subject or subject|queuegroup, with the wildcards \
               * and >. Without a group of its own a subscription is in one that all hosts of the lattice with this link share, \
               so that a message is delivered once.",
    },
    Value {
        name: "uri",
        aliases: &["cluster_uris"],
        default: "the lattice's server, over the host's connection",
        help: "Comma list of NATS servers for a connection of this link's own: nats://[user:password@]host:port or tls://….",
    },
    Value {
        name: "client_jwt",
        aliases: &["auth_jwt"],
        default: "none",
        help: "The user's JWT for the servers of uri; needs client_seed.",
    },
    Value {
        name: "client_seed",
        aliases: &["auth_seed"],
        default: "none",
        help: "The user's seed for the servers of uri, with a JWT or alone.",
    },
    Value {
        name: "ca_file",
        aliases: &["tls_ca_file"],
        default: "the system's certificates",
        help: "A PEM file on the host with further authorities, for the servers of uri.",
    },
    Value {
        name: "ping_interval_sec",
        aliases: &[],
        default: "60",
        help: "Seconds between the pings that notice a dead connection to the servers of uri.",
    },
    Value {
        name: "timeout_ms",
        aliases: &[],
        default: "the host's rpc_timeout_ms",
        help: "How long the actor has to handle a message.",
    },
    Value {
        name: "allow_system_subjects",
        aliases: &[],
        default: "false",
        help: "On the host's connection, and on one of its own to the host's NATS server, allow wasmbus.>, wadm.>, $JS.>, $KV.> \
               and whatever else begins with $, subscriptions that cover these, and subscriptions of _INBOX.>. Whoever may \
               publish there can command the lattice.",
    },
    Value {
        name: "config_json",
        aliases: &[],
        default: "none",
        help: "These values as one JSON object: subscriptions[], cluster_uris[], auth_jwt, auth_seed, ping_interval_sec and \
               all of the above; a value of its own wins.",
    },
    Value { name: "config_b64", aliases: &[], default: "none", help: "The same, base64 encoded." },
];

fn build(context: Context) -> Arc<dyn Provider> {
    Arc::new(Messaging { context })
}

struct Messaging {
    context: Context,
}

impl Provider for Messaging {
    fn link(
        self: Arc<Self>,
        link: Arc<LinkDefinition>,
    ) -> BoxFuture<'static, Result<Arc<dyn Link>, LinkError>> {
        Box::pin(async move {
            let link = MessagingLink::open(self.context.clone(), link).await?;
            Ok(Arc::new(link) as Arc<dyn Link>)
        })
    }
}

struct MessagingLink {
    link: Arc<LinkDefinition>,
    client: async_nats::Client,
    /// The connection is this link's own.
    is_own: bool,
    /// The subjects that are off limits.
    reserved: Reserved,
    /// Tells the subscriptions to end, and until when.
    stop: watch::Sender<Option<Instant>>,
    /// One task per subscription; ends with the link. Held for lines.
    subscriptions: Mutex<JoinSet<()>>,
    /// Counts calls in work.
    calls: TaskTracker,
    /// The link's own connection closes: what is sent now would be lost.
    closing: AtomicBool,
}

/// How long the actor has for a message.
fn timeout(values: &Values, default: Duration) -> Result<Duration, LinkError> {
    match values.milliseconds("timeout_ms")?.unwrap_or(default) {
        long if long > TIMEOUT_MAX => {
            Err(wrong("timeout_ms", &long.as_millis().to_string(), "milliseconds, at most a day"))
        }
        timeout => Ok(timeout),
    }
}

/// Returns the subjects off limits at the host's own server: those of the lattice, unless the link
/// values lift that.
fn reserved_at_the_hosts(
    values: &Values,
    lattice: &reserved::Reserved,
) -> Result<Reserved, LinkError> {
    match values.boolean("allow_system_subjects")? {
        Some(true) => Ok(Reserved::Nothing),
        _ => Ok(Reserved::Lattice(lattice.clone())),
    }
}

impl MessagingLink {
    async fn open(context: Context, link: Arc<LinkDefinition>) -> Result<Self, LinkError> {
        let values = Values::read(&SPEC, &link)?;
        let (actor_id, link_name) = (link.actor_id.clone(), link.link_name.clone());
        context.tell_unknown(&values.unknown, &link);
        let server = Server::read(&values)?;
        let reserved_there = reserved_at_the_hosts(&values, &context.bounds.subjects)?;
        // Errors in them are reported also while the server is away.
        let reserved = if server.is_none() { &reserved_there } else { &Reserved::Nothing };
        subscriptions(&values, reserved)?;
        let timeout = timeout(&values, context.rpc_timeout)?;
        let own = match server {
            None => None,
            Some(server) => {
                let name = format!("messaging {actor_id} {link_name}");
                Some(server.connect(name, Arc::clone(&link), &context.bounds, &context.nats).await?)
            }
        };
        let is_the_hosts = own.as_ref().is_none_or(|own| own.is_the_hosts);
        let reserved = if is_the_hosts { reserved_there } else { Reserved::Nothing };
        let wanted = subscriptions(&values, &reserved)?;
        let client = own.as_ref().map_or_else(|| context.nats.clone(), |own| own.client.clone());
        let mut subscribers = Vec::with_capacity(wanted.len());
        for Subscription { subject, queue } in wanted {
            let queue = queue.unwrap_or_else(|| queue_group(&context, &actor_id));
            let subscriber = client.queue_subscribe(subject.clone(), queue).await.map_err(|e| {
                LinkError::Unavailable(format!("subscribe to {subject}: {}", chain(&e)))
            })?;
            subscribers.push(subscriber);
        }
        // A link that is taken on has its subscriptions: whatever is published from then on
        // arrives.
        match &own {
            Some(own) => own.confirm().await?,
            None if subscribers.is_empty() => {}
            None => confirm(&client)
                .await
                .map_err(|e| LinkError::Unavailable(format!("subscribe: {e}")))?,
        }
        info!(%actor_id, %link_name, subscriptions = subscribers.len(), own_connection = own.is_some(), "messaging link is up");
        let (stop, stopped) = watch::channel(None);
        let deliveries = Arc::new(Deliveries::new(context, Arc::clone(&link), timeout));
        let mut tasks = JoinSet::new();
        for subscriber in subscribers {
            tasks.spawn(Arc::clone(&deliveries).follow(subscriber, stopped.clone()));
        }
        Ok(Self {
            link,
            client,
            is_own: own.is_some(),
            reserved,
            stop,
            subscriptions: Mutex::new(tasks),
            calls: TaskTracker::new(),
            closing: AtomicBool::new(false),
        })
    }

    async fn publish(&self, message: Message, deadline: Instant) -> Result<(), Failure> {
        let Message { subject, reply_to, body } = message;
        self.check(&subject, body.0.len())?;
        let sent = async {
            match reply_to {
                None => self.client.publish(subject.clone(), body.0).await,
                Some(reply) => {
                    // The receiver would send there with rights of its own.
                    check_publish(&reply, &self.reserved)?;
                    self.client.publish_with_reply(subject.clone(), reply, body.0).await
                }
            }
            .map_err(|e| Failure::Nats {
                what: "publish to",
                subject: subject.clone(),
                cause: chain(&e),
            })
        };
        match tokio::time::timeout_at(deadline, sent).await {
            Ok(sent) => sent,
            Err(_) => Err(Failure::Away { what: "publish to", subject }),
        }
    }

    async fn request(
        &self,
        message: RequestMessage,
        deadline: Instant,
    ) -> Result<Message, Failure> {
        let RequestMessage { subject, body, timeout_ms } = message;
        self.check(&subject, body.0.len())?;
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = match timeout_ms {
            0 => left,
            asked => Duration::from_millis(asked.into()).min(left),
        };
        let request = Request::new().payload(body.0).timeout(Some(wait));
        // The client's timeout begins when the connection has taken the request.
        let sent = tokio::time::timeout_at(
            deadline + GRACE,
            self.client.send_request(subject.clone(), request),
        )
        .await;
        let Ok(result) = sent else { return Err(Failure::Away { what: "request to", subject }) };
        match result {
            Ok(reply) => Ok(Message {
                subject: reply.subject.to_string(),
                reply_to: reply.reply.map(|reply| reply.to_string()),
                body: reply.payload.into(),
            }),
            Err(error) => Err(match error.kind() {
                RequestErrorKind::NoResponders => Failure::NoResponders { subject },
                RequestErrorKind::TimedOut => {
                    Failure::NoReply { subject, waited_ms: wait.as_millis() }
                }
                _ => Failure::Nats { what: "request to", subject, cause: chain(&error) },
            }),
        }
    }

    fn check(&self, subject: &str, bytes: usize) -> Result<(), Failure> {
        check_publish(subject, &self.reserved)?;
        let limit = self.client.max_payload();
        if bytes > limit {
            return Err(Failure::TooLarge { subject: subject.to_owned(), bytes, limit });
        }
        Ok(())
    }
}

impl Link for MessagingLink {
    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        // Before anything else, so that an ending link waits for it.
        let in_work = self.calls.token();
        Box::pin(async move {
            let _in_work = in_work;
            if self.closing.load(Ordering::SeqCst) {
                let (actor, name) = (&self.link.actor_id, &self.link.link_name);
                return Err(CallError::Callee(format!(
                    "link {name} of {actor} to messaging has ended"
                )));
            }
            let ends_at = call.ends_at();
            let left = ends_at.saturating_duration_since(Instant::now());
            let deadline = ends_at - (left / 10).min(MARGIN_MAX);
            let result = match contracts::method(&call.operation, SERVICE) {
                PUBLISH => match contracts::decode("Messaging.Publish", &call.payload) {
                    Ok(message) => self.publish(message, deadline).await.map(|()| Bytes::new()),
                    Err(error) => Err(error.into()),
                },
                REQUEST => match contracts::decode("Messaging.Request", &call.payload) {
                    Ok(message) => {
                        self.request(message, deadline).await.map(|reply| contracts::encode(&reply))
                    }
                    Err(error) => Err(error.into()),
                },
                _ => return Err(unknown_operation(&call)),
            };
            result.map_err(|failure| CallError::Callee(failure.to_string()))
        })
    }

    fn end(self: Arc<Self>, deadline: Instant) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let late_calls = Instant::now() + LATE_CALLS;
            self.stop.send_replace(Some(deadline));
            let mut tasks = std::mem::take(&mut *self.subscriptions.lock());
            // They watch the deadline themselves, and say what is left undone.
            while tasks.join_next().await.is_some() {}
            self.calls.close();
            let _ = tokio::time::timeout_at(deadline, self.calls.wait()).await;
            if !self.is_own {
                // The host's connection goes on, and so may calls that are late.
                return;
            }
            tokio::time::sleep_until(late_calls.min(deadline)).await;
            self.closing.store(true, Ordering::SeqCst);
            // Those that came before this was set.
            let _ = tokio::time::timeout_at(deadline, self.calls.wait()).await;
            // All published messages must be out before the connection closes.
            let closing = async {
                let flushed = self.client.flush().await.map_err(|e| chain(&e));
                flushed.and(self.client.drain().await.map_err(|e| chain(&e)))
            };
            let result = tokio::time::timeout_at(deadline, closing).await;
            if !matches!(result, Ok(Ok(()))) {
                let (actor_id, link_name) = (&self.link.actor_id, &self.link.link_name);
                warn!(%actor_id, %link_name, "the NATS connection of a link was closed without a word of its server");
            }
        })
    }
}

/// Why a message does not go out, or no reply comes back.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Subject(#[from] SubjectError),
    #[error("deserialization: {0}")]
    Payload(#[from] PayloadError),
    #[error(
        "the message to {subject} has {bytes} bytes, and the NATS server takes {limit} {TOO_LARGE}"
    )]
    TooLarge { subject: String, bytes: usize, limit: usize },
    #[error("{NO_RESPONDERS} {subject}, so there is no reply")]
    NoResponders { subject: String },
    #[error(
        "{NO_REPLY} {subject} within {waited_ms} ms (timeoutMs of the request, at most what the call itself has left)"
    )]
    NoReply { subject: String, waited_ms: u128 },
    #[error(
        "{what} {subject}: the connection to the NATS server does not take it; is the server reachable?"
    )]
    Away { what: &'static str, subject: String },
    #[error("{what} {subject}: {cause}")]
    Nats { what: &'static str, subject: String, cause: String },
}

fn subscriptions(values: &Values, reserved: &Reserved) -> Result<Vec<Subscription>, LinkError> {
    let texts = values.list("subscription")?.unwrap_or_default();
    if texts.len() > SUBSCRIPTIONS_MAX {
        return Err(LinkError::Values(format!(
            "link value subscription names {} subjects, and a link may have {SUBSCRIPTIONS_MAX}; use wildcards",
            texts.len()
        )));
    }
    texts.iter().map(|text| Subscription::parse(text, reserved)).collect()
}

/// The queue group of a link on all hosts of its lattice. The link name may be anything printable,
/// so it comes last.
fn queue_group(context: &Context, actor_id: &str) -> String {
    format!("lattice.{}.messaging.{actor_id}.{}", context.lattice, context.link_name)
}

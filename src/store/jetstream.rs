//! The metadata bucket on JetStream, in the configured domain.
//!
//! [`Bucket::open`] looks the bucket up, creates it when it is missing and never changes an existing one (lattice
//! protocol, section 4.2). What stands in the way is named by [`OpenError`]: which domain was asked, which one the server
//! has, and what to set.
//!
//! The watch holds one ephemeral push consumer that replays the last value of every key and then follows. It begins
//! anew, with a fresh snapshot, when a sequence number is missing, when the heartbeat stays away, or when the connection
//! came back; a snapshot replaces all that was known, so nothing stale survives an outage. It asks for neither
//! acknowledgements nor flow control: their subjects do not cross leaf nodes of another domain.

use std::{collections::HashMap, time::Duration};

use async_nats::{
    Message, StatusCode,
    jetstream::{
        self, Context, ErrorCode,
        consumer::{AckPolicy, DeliverPolicy, ReplayPolicy, push},
        context::{GetStreamErrorKind, PublishError, PublishErrorKind, RequestErrorKind},
        kv,
        stream::{self, Stream},
    },
};
use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture};
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use super::{Backend, Entry, Error, Expect, Update};
use crate::lattice::connection::{NEEDED_SUBJECTS, Nats};

/// How long the server may take for one request of the JetStream API.
const API_TIMEOUT: Duration = Duration::from_secs(2);
/// How often an idle consumer shows that it is alive; two missed ones end a watch.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long the server keeps a consumer nobody listens to.
const CONSUMER_GRACE: Duration = Duration::from_secs(30);
/// Pause between attempts to begin a watch anew.
const WATCH_RETRY: Duration = Duration::from_millis(500);
/// Updates buffered between the watch and its follower.
const WATCH_CAPACITY: usize = 1024;

/// Why the bucket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "JetStream domain {asked:?} does not answer, the server here has domain {found:?}. Set js_domain (WASMCLOUD_JS_DOMAIN) \
         to {found:?}, or connect this server to the leaf node that has {asked:?}"
    )]
    OtherDomain { asked: String, found: String },
    #[error(
        "JetStream domain {asked:?} does not answer, the server here has JetStream without a domain. Leave js_domain \
         (WASMCLOUD_JS_DOMAIN) unset, or set `jetstream {{ domain: {asked} }}` in the server's configuration"
    )]
    ServerHasNoDomain { asked: String },
    #[error(
        "JetStream is switched off in the NATS server, or for the account of this host (asked domain: {asked}). Start the server \
         with -js, or with `jetstream {{ domain: core }}` in its configuration; in a server with accounts, enable jetstream there"
    )]
    SwitchedOff { asked: String },
    #[error(
        "the JetStream API of domain {asked} does not answer within {} ms. Either the leaf node link is down, or the account may not \
         use {prefix}.>; allow it for this user",
        API_TIMEOUT.as_millis()
    )]
    Silent { asked: String, prefix: String },
    #[error(
        "the NATS user of this host may not use the JetStream API of domain {asked}: {denied}. Allow this user {NEEDED_SUBJECTS}"
    )]
    NotAllowed { asked: String, denied: String },
    #[error("JetStream refuses bucket {bucket}: {cause}")]
    Refused { bucket: String, cause: String },
}

/// An open metadata bucket. Cheap to clone.
#[derive(Clone)]
pub struct Bucket {
    kv: kv::Store,
    stream: Stream,
    context: Context,
    reconnects: watch::Receiver<u64>,
    /// Consumers the stream had when it was opened, before this host's own.
    pub consumers_before: usize,
    /// Copies of each entry the bucket keeps.
    pub replicas: usize,
    /// Whether the bucket lives on a cluster of servers, where copies would outlive one of them.
    pub is_clustered: bool,
}

/// The JetStream context of a domain, with a deadline on every request.
pub fn context(client: &async_nats::Client, domain: Option<&str>) -> Context {
    let mut context = match domain {
        Some(domain) => jetstream::with_domain(client.clone(), domain),
        None => jetstream::new(client.clone()),
    };
    context.set_timeout(API_TIMEOUT);
    context
}

impl Bucket {
    /// Opens the bucket, creating it with `replicas` copies if it is not there.
    pub async fn open(nats: &Nats, domain: Option<&str>, bucket: &str, replicas: usize) -> Result<Self, OpenError> {
        let context = context(&nats.client, domain);
        let name = format!("KV_{bucket}");
        let refused = |cause: String| OpenError::Refused { bucket: bucket.to_owned(), cause };
        let stream = match context.get_stream(&name).await {
            Ok(stream) => stream,
            Err(e) => match e.kind() {
                GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    create(&context, bucket, replicas).await.map_err(refused)?
                }
                GetStreamErrorKind::JetStream(e)
                    if matches!(
                        e.error_code(),
                        ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
                    ) =>
                {
                    return Err(OpenError::SwitchedOff { asked: shown(domain) });
                }
                GetStreamErrorKind::JetStream(e) => return Err(refused(e.to_string())),
                _ => {
                    return Err(diagnose(nats, &context, domain).await.unwrap_or_else(|| refused(e.to_string())));
                }
            },
        };
        let info = stream.cached_info();
        let (consumers_before, found_replicas) = (info.state.consumer_count, info.config.num_replicas);
        let is_clustered = info.cluster.as_ref().is_some_and(|cluster| cluster.name.is_some());
        let kv = context.get_key_value(bucket).await.map_err(|e| refused(e.to_string()))?;
        Ok(Self {
            kv,
            stream,
            context,
            reconnects: nats.reconnects.clone(),
            consumers_before,
            replicas: found_replicas,
            is_clustered,
        })
    }

    /// Follows the bucket until nobody listens; owns its own recovery.
    async fn follow(self, updates: mpsc::Sender<Update>) {
        let mut reconnects = self.reconnects.clone();
        let mut known = HashMap::new();
        while !updates.is_closed() {
            reconnects.mark_unchanged();
            let outcome = tokio::select! {
                () = updates.closed() => return,
                outcome = self.follow_once(&updates, &mut known) => outcome,
                Ok(()) = reconnects.changed() => Ok("the connection came back"),
            };
            match outcome {
                Ok(reason) => debug!(bucket = %self.kv.name, reason, "metadata watch begins anew"),
                Err(error) => {
                    warn!(bucket = %self.kv.name, %error, "metadata watch interrupted, trying again");
                    self.restore_if_lost(&known).await;
                    tokio::time::sleep(WATCH_RETRY).await;
                }
            }
        }
    }

    /// Makes the bucket again if it vanished with its server's disk, with what this host knew to be in it. Other hosts do
    /// the same; whoever writes a key first is right.
    async fn restore_if_lost(&self, known: &HashMap<String, Bytes>) {
        let lost = match self.context.get_stream(format!("KV_{}", self.kv.name)).await {
            Err(e) => {
                matches!(e.kind(), GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND)
            }
            Ok(_) => false,
        };
        if !lost {
            return;
        }
        warn!(bucket = %self.kv.name, entries = known.len(), "the metadata bucket is gone, making it again with what this host knows");
        if let Err(error) = create(&self.context, &self.kv.name, self.replicas).await {
            warn!(bucket = %self.kv.name, %error, "metadata bucket not made again");
            return;
        }
        for (key, value) in known {
            match self.put(key, value.clone(), Expect::Revision(0)).await {
                Ok(_) | Err(Error::Conflict) => {}
                Err(error) => warn!(key, %error, "entry not restored"),
            }
        }
    }

    /// One consumer's life: replay, snapshot, changes. Returns why it cannot be trusted any longer. `known` always holds
    /// what its followers were told.
    async fn follow_once(
        &self,
        updates: &mpsc::Sender<Update>,
        known: &mut HashMap<String, Bytes>,
    ) -> Result<&'static str, String> {
        let client = self.context.client();
        let inbox = client.new_inbox();
        // Subscribed before the consumer exists, so that its first message has somewhere to go.
        let mut messages = client.subscribe(inbox.clone()).await.map_err(|e| e.to_string())?;
        let consumer = self
            .stream
            .create_consumer(push::Config {
                deliver_subject: inbox,
                description: Some("lattice metadata watch".into()),
                deliver_policy: DeliverPolicy::LastPerSubject,
                ack_policy: AckPolicy::None,
                replay_policy: ReplayPolicy::Instant,
                filter_subject: format!("{}>", self.kv.prefix),
                idle_heartbeat: HEARTBEAT,
                inactive_threshold: CONSUMER_GRACE,
                max_deliver: 1,
                memory_storage: true,
                num_replicas: 1,
                ..Default::default()
            })
            .await
            .map_err(|e| e.to_string())?;
        let info = consumer.cached_info();
        let _removal = RemoveConsumer { stream: self.stream.clone(), name: info.name.clone() };
        let mut replay = Some(HashMap::new());
        if info.num_pending == 0 && info.delivered.consumer_sequence == 0 {
            finish_replay(&mut replay, updates, known).await;
        }
        let mut last_sequence = 0;
        loop {
            let next = tokio::time::timeout(HEARTBEAT * 2 + HEARTBEAT / 2, messages.next()).await;
            let message = match next {
                Err(_) => return Ok("the heartbeat stayed away"),
                Ok(None) => return Err("the subscription ended".into()),
                Ok(Some(message)) => message,
            };
            if let Some(status) = message.status {
                if status == StatusCode::IDLE_HEARTBEAT
                    && heartbeat_sequence(&message).is_some_and(|s| s != last_sequence)
                {
                    return Ok("a heartbeat told of messages that did not arrive");
                }
                if status.as_u16() >= 400 {
                    return Ok("the server ended the consumer");
                }
                continue;
            }
            let Some(delivery) = Delivery::read(&message) else { continue };
            if delivery.consumer_sequence != last_sequence + 1 {
                return Ok("a message was missed");
            }
            last_sequence = delivery.consumer_sequence;
            if let Some(update) = self.read(&message, delivery.stream_sequence) {
                match &mut replay {
                    Some(entries) => collect(entries, update),
                    None => {
                        match &update {
                            Update::Put(entry) => drop(known.insert(entry.key.clone(), entry.value.clone())),
                            Update::Delete { key, .. } => drop(known.remove(key)),
                            Update::Snapshot(_) => {}
                        }
                        if updates.send(update).await.is_err() {
                            return Ok("nobody listens");
                        }
                    }
                }
            }
            if replay.is_some() && delivery.pending == 0 {
                finish_replay(&mut replay, updates, known).await;
            }
        }
    }

    fn read(&self, message: &Message, revision: u64) -> Option<Update> {
        let key = message.subject.strip_prefix(&self.kv.prefix)?.to_owned();
        let operation = message.headers.as_ref().and_then(|headers| {
            headers.iter().find(|(name, _)| name.to_string().eq_ignore_ascii_case("KV-Operation"))?.1.first()
        });
        Some(match operation.map(async_nats::HeaderValue::as_str) {
            Some("DEL" | "PURGE") => Update::Delete { key, revision },
            _ => Update::Put(Entry { key, value: message.payload.clone(), revision }),
        })
    }
}

impl Backend for Bucket {
    fn put<'a>(&'a self, key: &'a str, value: Bytes, expect: Expect) -> BoxFuture<'a, Result<u64, Error>> {
        Box::pin(async move {
            match expect {
                Expect::Anything => self.kv.put(key, value).await.map_err(|e| write_error(&e)),
                // `create` also succeeds over a delete marker.
                Expect::Revision(0) => self.kv.create(key, value).await.map_err(|e| match e.kind() {
                    kv::CreateErrorKind::AlreadyExists => Error::Conflict,
                    _ => write_error(&e),
                }),
                Expect::Revision(revision) => self.kv.update(key, value, revision).await.map_err(|e| match e.kind() {
                    kv::UpdateErrorKind::WrongLastRevision => Error::Conflict,
                    _ => write_error(&e),
                }),
            }
        })
    }

    fn delete<'a>(&'a self, key: &'a str, expect: Expect) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let revision = match expect {
                Expect::Anything => None,
                Expect::Revision(revision) => Some(revision),
            };
            self.kv.delete_expect_revision(key, revision).await.map_err(|e| write_error(&e))
        })
    }

    fn watch(&self) -> mpsc::Receiver<Update> {
        let (updates, receiver) = mpsc::channel(WATCH_CAPACITY);
        // Owned by the receiver: the task ends when that is dropped.
        tokio::spawn(self.clone().follow(updates));
        receiver
    }

    fn is_shared(&self) -> bool {
        true
    }
}

/// Deletes the consumer of an abandoned watch, so that the server's count stays one per host.
struct RemoveConsumer {
    stream: Stream,
    name: String,
}

impl Drop for RemoveConsumer {
    fn drop(&mut self) {
        let (stream, name) = (self.stream.clone(), std::mem::take(&mut self.name));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Best effort and short: the server drops the consumer by itself after `CONSUMER_GRACE`.
            runtime.spawn(async move {
                let _ = tokio::time::timeout(API_TIMEOUT, stream.delete_consumer(&name)).await;
            });
        }
    }
}

/// What the reply subject of a delivered message says about it.
struct Delivery {
    stream_sequence: u64,
    consumer_sequence: u64,
    pending: u64,
}

impl Delivery {
    /// Reads `$JS.ACK.[domain.account.]stream.consumer.delivered.stream_seq.consumer_seq.time.pending[.token]`.
    fn read(message: &Message) -> Option<Self> {
        let tokens: Vec<&str> = message.reply.as_ref()?.split('.').collect();
        let from = match tokens.len() {
            9 => 4,
            11 | 12 => 6,
            _ => return None,
        };
        let number = |offset: usize| tokens.get(from + offset)?.parse().ok();
        Some(Self { stream_sequence: number(1)?, consumer_sequence: number(2)?, pending: number(4)? })
    }
}

fn heartbeat_sequence(message: &Message) -> Option<u64> {
    message.headers.as_ref()?.get("Nats-Last-Consumer")?.as_str().parse().ok()
}

fn collect(entries: &mut HashMap<String, Entry>, update: Update) {
    match update {
        Update::Put(entry) => {
            entries.insert(entry.key.clone(), entry);
        }
        Update::Delete { key, .. } => {
            entries.remove(&key);
        }
        Update::Snapshot(_) => {}
    }
}

async fn finish_replay(
    replay: &mut Option<HashMap<String, Entry>>,
    updates: &mpsc::Sender<Update>,
    known: &mut HashMap<String, Bytes>,
) {
    if let Some(entries) = replay.take() {
        *known = entries.values().map(|entry| (entry.key.clone(), entry.value.clone())).collect();
        let mut entries: Vec<Entry> = entries.into_values().collect();
        entries.sort_by_key(|entry| entry.revision);
        // A follower that is gone is noticed by the loop.
        let _ = updates.send(Update::Snapshot(entries)).await;
    }
}

async fn create(context: &Context, bucket: &str, replicas: usize) -> Result<Stream, String> {
    let config = stream::Config {
        name: format!("KV_{bucket}"),
        subjects: vec![format!("$KV.{bucket}.>")],
        max_messages_per_subject: 1,
        max_messages: -1,
        max_bytes: -1,
        max_consumers: -1,
        max_message_size: -1,
        retention: stream::RetentionPolicy::Limits,
        discard: stream::DiscardPolicy::New,
        storage: stream::StorageType::File,
        num_replicas: replicas,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        duplicate_window: Duration::from_secs(120),
        ..Default::default()
    };
    let created = context.create_stream(config).await;
    match created {
        Ok(stream) => {
            info!(bucket, replicas, "lattice metadata bucket created");
            Ok(stream)
        }
        // Another host was first, or the bucket has other settings: both are fine as long as it is there.
        Err(e) => context.get_stream(format!("KV_{bucket}")).await.map_err(|_| e.to_string()),
    }
}

/// Finds out why a domain does not answer by asking the server for its own. `None` means that it does answer.
async fn diagnose(nats: &Nats, asked_context: &Context, asked: Option<&str>) -> Option<OpenError> {
    let prefix = asked.map_or_else(|| "$JS.API".to_owned(), |domain| format!("$JS.{domain}.API"));
    let silent = || match denied(nats) {
        Some(denied) => OpenError::NotAllowed { asked: shown(asked), denied },
        None => OpenError::Silent { asked: shown(asked), prefix: prefix.clone() },
    };
    let answer: Result<serde_json::Value, _> = asked_context.request("INFO", &()).await;
    match answer {
        Ok(_) => return None,
        Err(e) if e.kind() == RequestErrorKind::TimedOut => return Some(silent()),
        Err(_) => {}
    }
    let own: Result<serde_json::Value, _> = context(&nats.client, None).request("INFO", &()).await;
    let own = match own {
        Ok(own) => own,
        Err(e) if e.kind() == RequestErrorKind::TimedOut => return Some(silent()),
        Err(_) => return Some(OpenError::SwitchedOff { asked: shown(asked) }),
    };
    if own.get("error").is_some() {
        return Some(OpenError::SwitchedOff { asked: shown(asked) });
    }
    let asked = asked?.to_owned();
    Some(match own.get("domain").and_then(serde_json::Value::as_str) {
        Some(found) if found != asked => OpenError::OtherDomain { asked, found: found.to_owned() },
        Some(_) => silent(),
        None => OpenError::ServerHasNoDomain { asked },
    })
}

/// The server's word on why a request to a JetStream API gets no answer: it must be allowed to go there, and the answer to
/// come back. The server that has the domain names the subject without it.
fn denied(nats: &Nats) -> Option<String> {
    let denied = nats.denied.borrow();
    denied.iter().find(|what| what.contains("\"$JS.") || what.contains("\"_INBOX.")).cloned()
}

fn shown(domain: Option<&str>) -> String {
    domain.map_or_else(|| "none".to_owned(), |domain| format!("{domain:?}"))
}

/// Sorts the write errors of the client by what a caller can do about them.
fn write_error(error: &(dyn std::error::Error + 'static)) -> Error {
    let mut source = Some(error);
    while let Some(current) = source {
        if let Some(publish) = current.downcast_ref::<PublishError>() {
            return match publish.kind() {
                PublishErrorKind::WrongLastSequence => Error::Conflict,
                PublishErrorKind::TimedOut => Error::TimedOut,
                PublishErrorKind::StreamNotFound | PublishErrorKind::BrokenPipe => {
                    Error::Unreachable(publish.to_string())
                }
                _ => Error::Refused(publish.to_string()),
            };
        }
        source = current.source();
    }
    Error::Refused(error.to_string())
}

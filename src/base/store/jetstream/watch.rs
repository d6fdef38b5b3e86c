//! Following the bucket: one ephemeral push consumer that replays the last value of every key and
//! then goes on.
//!
//! A watch begins anew, with a fresh snapshot, when a sequence number is missing, when the
//! heartbeat stays away, or when the connection came back; a snapshot replaces all that was known,
//! so nothing stale survives an outage. The heartbeat is what tells that a domain behind leaf nodes
//! went away: the connection to the host's own server never breaks then.
//!
//! A bucket that vanished is made again, and what was known to be in it is written back before
//! anything is told of it: an empty bucket is not the truth while this host can say better.
//!
//! A watch asks for neither acknowledgements nor flow control: their subjects do not cross leaf
//! nodes of another domain. So it never waits for its follower: what that has not taken yet waits
//! in a [`Backlog`].

use std::{
    collections::HashMap,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use async_nats::{
    Message, StatusCode,
    jetstream::{
        ErrorCode,
        consumer::{AckPolicy, Consumer, DeliverPolicy, ReplayPolicy, push},
        stream::{ConsumerErrorKind, Stream},
    },
};
use bytes::Bytes;
use futures::StreamExt;
use tokio::{sync::mpsc, time::Instant as Clock};
use tracing::{debug, info, warn};

use super::{API_TIMEOUT, Bucket, backlog::Backlog, making::Making, open, read::is_deletion};
use crate::store::{Error, Update, WRITE_TIMEOUT};
use lattice_protocol::{clock, store::Entry};

/// How often an idle consumer shows that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Silence after which a watch is deaf: two heartbeats are missed, and one may be late.
const DEAF_AFTER: Duration = Duration::from_millis(2500);
/// How long the server keeps a consumer nobody listens to.
const CONSUMER_GRACE: Duration = Duration::from_secs(30);
/// Pause between attempts to begin a watch anew.
const WATCH_RETRY: Duration = Duration::from_millis(500);
/// A watch that lasted longer is begun anew without a pause.
const LASTING: Duration = Duration::from_secs(5);
/// Entries written back to a new bucket at a time.
const RESTORED_AT_ONCE: usize = 16;

/// Why a watch has to begin anew.
enum Ended {
    /// It cannot prove any longer that it misses nothing.
    Untrusted(&'static str),
    /// It missed a change, for this reason.
    Missed(&'static str),
    /// The server has no such bucket any more.
    Gone,
    /// The server could not be asked.
    Failed(String),
}

/// The state that a watch keeps from one consumer to the next.
#[derive(Default)]
struct Following {
    /// The entries of the bucket, as far as this watch has seen.
    known: HashMap<String, Bytes>,
    backlog: Backlog,
    /// The entries to write again to a bucket that vanished, before it is watched.
    lost: HashMap<String, Bytes>,
    is_gone: bool,
    /// Since when the bucket does not answer.
    silent_since: Option<Instant>,
}

/// How far a watch has come with one consumer.
struct Received {
    /// The messages of the replay with their revisions, until it is complete.
    replay: Option<Vec<(Message, u64)>>,
    last_sequence: u64,
}

impl Bucket {
    /// Follows the bucket until nobody listens; owns its own recovery.
    pub(super) async fn follow(self, updates: mpsc::Sender<Update>) {
        let mut reconnects = self.reconnects.clone();
        let mut following = Following::default();
        let mut is_restless = false;
        while !updates.is_closed() {
            reconnects.mark_unchanged();
            let began = Instant::now();
            let ended = tokio::select! {
                () = updates.closed() => return,
                ended = self.follow_once(&updates, &mut following) => ended,
                Ok(()) = reconnects.changed() => Ended::Untrusted("the connection came back"),
            };
            // Until a consumer is there again, writers have to find out by themselves.
            self.hears.store(false, Ordering::Relaxed);
            if matches!(ended, Ended::Missed(_)) {
                following.backlog.miss();
            }
            // It may take long until there is a snapshot again.
            while let Some(update) = following.backlog.next() {
                if updates.send(update).await.is_err() {
                    return;
                }
            }
            let was_restless = std::mem::replace(&mut is_restless, began.elapsed() < LASTING);
            match ended {
                Ended::Untrusted(reason) | Ended::Missed(reason) => {
                    debug!(bucket = %self.kv.name, reason, "metadata watch begins anew");
                    if !(was_restless && is_restless) {
                        continue;
                    }
                }
                Ended::Gone => {
                    let entries = following.known.len();
                    warn!(bucket = %self.kv.name, entries, "the metadata bucket is gone, making it again with what this host knows");
                    following.lost.clone_from(&following.known);
                    following.is_gone = true;
                }
                // Said once: it may take days.
                Ended::Failed(error) if following.silent_since.is_none() => {
                    following.silent_since = Some(Instant::now());
                    warn!(
                        bucket = %self.kv.name, place = %self.place, %error,
                        "the lattice metadata cannot be reached; this host goes on with what it knows, and refuses to change links"
                    );
                }
                Ended::Failed(error) => {
                    debug!(bucket = %self.kv.name, %error, "the lattice metadata still cannot be reached")
                }
            }
            tokio::select! {
                () = updates.closed() => return,
                () = tokio::time::sleep(WATCH_RETRY) => {}
            }
        }
    }

    /// Makes the bucket again that vanished with its server's disk, with what this host knew to be
    /// in it. Other hosts do the same; whoever writes a key first is right. Ends at the first sign
    /// of an outage and keeps what is left for the next time.
    async fn restore(&self, lost: &mut HashMap<String, Bytes>) -> Result<(), Ended> {
        let created = open::create(
            &self.context,
            &self.kv.name,
            Making { replicas: self.replicas, bound: self.bound },
        )
        .await;
        created.map_err(|error| Ended::Failed(format!("make the bucket again: {error}")))?;
        let entries: Vec<_> =
            lost.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let writes = entries.into_iter().map(|(key, value)| async move {
            // A key that was deleted in the new bucket stays so.
            let written =
                match tokio::time::timeout(WRITE_TIMEOUT, self.kv.update(&key, value, 0)).await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(error)) => Err(self.failure(&error).await),
                    Err(_) => Err(Error::TimedOut { place: self.place.to_string() }),
                };
            (key, written)
        });
        let mut writes = futures::stream::iter(writes).buffer_unordered(RESTORED_AT_ONCE);
        let (mut refused, mut last_refusal) = (0_usize, None);
        while let Some((key, written)) = writes.next().await {
            match written {
                Ok(()) | Err(Error::Conflict) => {}
                Err(error @ (Error::Unreachable(_) | Error::TimedOut { .. })) => {
                    return Err(Ended::Failed(format!("write {key} to the new bucket: {error}")));
                }
                Err(error) => {
                    refused += 1;
                    last_refusal = Some((key.clone(), error));
                }
            }
            lost.remove(&key);
        }
        // Said once: a full disk refuses everything.
        if let Some((key, error)) = last_refusal {
            warn!(bucket = %self.kv.name, refused, last_key = key, %error, "entries not taken by the new metadata bucket");
        }
        info!(bucket = %self.kv.name, "the metadata bucket is there again");
        Ok(())
    }

    /// One consumer's life: replay, snapshot, changes. Returns why it cannot be trusted any longer.
    async fn follow_once(
        &self,
        updates: &mpsc::Sender<Update>,
        following: &mut Following,
    ) -> Ended {
        if following.is_gone {
            if let Err(ended) = self.restore(&mut following.lost).await {
                return ended;
            }
            following.is_gone = false;
        }
        let client = self.context.client();
        let inbox = client.new_inbox();
        // Subscribed before the consumer exists, so that its first message has somewhere to go.
        let mut messages = match client.subscribe(inbox.clone()).await {
            Ok(messages) => messages,
            Err(e) => return Ended::Failed(e.to_string()),
        };
        let consumer = match self.consumer(inbox).await {
            Ok(consumer) => consumer,
            Err(ended) => return ended,
        };
        self.hears.store(true, Ordering::Relaxed);
        if let Some(since) = following.silent_since.take() {
            info!(
                bucket = %self.kv.name, place = %self.place, silent_ms = clock::millis(since.elapsed()),
                "the lattice metadata is reached again"
            );
        }
        let info = consumer.cached_info();
        let _removal = RemoveConsumer { stream: self.stream.clone(), name: info.name.clone() };
        let mut received = Received { replay: Some(Vec::new()), last_sequence: 0 };
        if info.num_pending == 0 && info.delivered.consumer_sequence == 0 {
            self.finish_replay(&mut received.replay, following);
        }
        let mut heard = Clock::now();
        loop {
            let message = tokio::select! {
                room = updates.reserve(), if following.backlog.has_next() => {
                    let Ok(room) = room else { return Ended::Untrusted("nobody listens") };
                    if let Some(update) = following.backlog.next() {
                        room.send(update);
                    }
                    continue;
                }
                message = tokio::time::timeout_at(heard + DEAF_AFTER, messages.next()) => match message {
                    Err(_) => return Ended::Untrusted("the heartbeat stayed away"),
                    Ok(None) => return Ended::Failed("the subscription ended".into()),
                    Ok(Some(message)) => message,
                },
            };
            heard = Clock::now();
            if let Err(ended) = self.take(message, &mut received, following) {
                return ended;
            }
        }
    }

    /// Makes the consumer of a watch, which sends to `inbox`.
    async fn consumer(&self, inbox: String) -> Result<Consumer<push::Config>, Ended> {
        let created = self.stream.create_consumer(push::Config {
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
        });
        created.await.map_err(|e| match e.kind() {
            ConsumerErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Ended::Gone
            }
            _ => Ended::Failed(e.to_string()),
        })
    }

    /// Takes a message of the consumer, unless it shows that another one was missed.
    fn take(
        &self,
        message: Message,
        received: &mut Received,
        following: &mut Following,
    ) -> Result<(), Ended> {
        if let Some(status) = message.status {
            if status == StatusCode::IDLE_HEARTBEAT
                && heartbeat_sequence(&message).is_some_and(|s| s != received.last_sequence)
            {
                return Err(Ended::Missed("a heartbeat told of messages that did not arrive"));
            }
            if status.as_u16() >= 400 {
                return Err(Ended::Untrusted("the server ended the consumer"));
            }
            return Ok(());
        }
        let Some(delivery) = Delivery::read(&message) else { return Ok(()) };
        if delivery.consumer_sequence != received.last_sequence + 1 {
            return Err(Ended::Missed("a message was missed"));
        }
        received.last_sequence = delivery.consumer_sequence;
        match &mut received.replay {
            // Only kept for now: the server sends all of it at once, and what is not taken in time
            // is dropped.
            Some(messages) => messages.push((message, delivery.stream_sequence)),
            None => {
                if let Some(update) = self.read(&message, delivery.stream_sequence) {
                    note(&update, &mut following.known);
                    following.backlog.push(update, delivery.pending);
                }
            }
        }
        if delivery.pending == 0 {
            self.finish_replay(&mut received.replay, following);
        }
        Ok(())
    }

    /// Ends a replay, if it still goes on: everything that was kept is one snapshot.
    fn finish_replay(&self, replay: &mut Option<Vec<(Message, u64)>>, following: &mut Following) {
        let Some(messages) = replay.take() else { return };
        let mut entries = HashMap::with_capacity(messages.len());
        for update in
            messages.iter().filter_map(|(message, revision)| self.read(message, *revision))
        {
            match update {
                Update::Put(entry) => drop(entries.insert(entry.key.clone(), entry)),
                Update::Delete { key, .. } => drop(entries.remove(&key)),
                Update::Snapshot(_) | Update::Behind | Update::Current => {}
            }
        }
        following.known =
            entries.values().map(|entry| (entry.key.clone(), own(&entry.value))).collect();
        let mut entries: Vec<Entry> = entries.into_values().collect();
        entries.sort_unstable_by_key(|entry| entry.revision);
        following.backlog.replace(entries);
    }

    fn read(&self, message: &Message, revision: u64) -> Option<Update> {
        let key = message.subject.strip_prefix(&self.kv.prefix)?.to_owned();
        if message.headers.as_ref().is_some_and(is_deletion) {
            return Some(Update::Delete { key, revision });
        }
        Some(Update::Put(Entry { key, value: message.payload.clone(), revision }))
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
            // Best effort and short: the server drops the consumer by itself after
            // `CONSUMER_GRACE`.
            runtime.spawn(async move {
                let _ = tokio::time::timeout(API_TIMEOUT, stream.delete_consumer(&name)).await;
            });
        }
    }
}

/// The facts about a delivered message in its reply subject.
struct Delivery {
    stream_sequence: u64,
    consumer_sequence: u64,
    pending: u64,
}

impl Delivery {
    /// Reads `$JS.ACK.[domain.account.]` and then
    /// `stream.consumer.delivered.stream_seq.consumer_seq.time.pending[.token]`.
    fn read(message: &Message) -> Option<Self> {
        let reply = message.reply.as_ref()?.as_str();
        let before = match reply.split('.').count() {
            9 => 5,
            11 | 12 => 7,
            _ => return None,
        };
        let mut numbers = reply.split('.').skip(before);
        let mut number = || numbers.next()?.parse().ok();
        let (stream_sequence, consumer_sequence, _time) = (number()?, number()?, number()?);
        Some(Self { stream_sequence, consumer_sequence, pending: number()? })
    }
}

fn heartbeat_sequence(message: &Message) -> Option<u64> {
    message.headers.as_ref()?.get("Nats-Last-Consumer")?.as_str().parse().ok()
}

/// Notes what an update makes known.
fn note(update: &Update, known: &mut HashMap<String, Bytes>) {
    match update {
        Update::Put(entry) => drop(known.insert(entry.key.clone(), own(&entry.value))),
        Update::Delete { key, .. } => drop(known.remove(key)),
        Update::Snapshot(_) | Update::Behind | Update::Current => {}
    }
}

/// A copy that keeps no more than itself: what is received shares the buffer it was read into, with
/// the subjects and headers of its message and those beside it.
fn own(value: &Bytes) -> Bytes {
    Bytes::copy_from_slice(value)
}

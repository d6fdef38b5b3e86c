//! Wraps events in their CloudEvents envelope and publishes them, in order, on the two subjects
//! clients listen to.
//!
//! [`Publisher::publish`] never waits: events go through a bounded queue to one task. A caller has
//! already made the change that the event announces, and must not be held up by a server that is
//! away.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use uuid::Uuid;

use super::{Steps, troubles::Troubles};
use crate::history::History;
use lattice_base::lattice::connection::confirm;
use lattice_protocol::{
    clock,
    events::{Event, Step},
    identity::keys::HostId,
    lattice::subject::Subjects,
};

/// Events that may wait for the connection. A start of a large actor makes about forty.
const QUEUE: usize = 4096;
/// Bytes of all events that wait: what is lost beyond that could not be published in time. So 32 MB
/// are the worst, whoever changes large links without a pause.
const QUEUE_BYTES: usize = 32 << 20;
/// Bytes that must be free for [`Publisher::has_room`]: an event of a link may be so large.
const ROOM: usize = 1 << 20;
/// How long handing one event to the connection may take. It only waits when the server is away and
/// the client's buffer is full; an event nobody could have received is not worth more.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(1);

/// Events kept for followers within the process that are slower than they come.
const FOLLOWED: usize = 256;

/// Publishes the events of one host. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    host: HostId,
    queue: mpsc::Sender<Item>,
    /// A permit for each free byte.
    bytes: Arc<Semaphore>,
    /// Whenever something has left the queue.
    sent: Arc<Notify>,
    followers: broadcast::Sender<Event>,
    troubles: Troubles,
    history: History,
}

enum Item {
    /// An event, encoded, with its name.
    Event(String, Bytes, OwnedSemaphorePermit),
    /// A step of a start, encoded.
    Step(Bytes),
    Flush(oneshot::Sender<()>),
}

/// The id that tells an event from all others, and when it was published.
#[derive(Debug)]
struct Stamp {
    id: String,
    at: OffsetDateTime,
}

impl Publisher {
    /// Starts the task that publishes; it ends when the last publisher is dropped.
    pub fn start(
        client: async_nats::Client,
        subjects: Subjects,
        host: HostId,
        history: History,
        tasks: &TaskTracker,
    ) -> Self {
        let (queue, items) = mpsc::channel(QUEUE);
        let sent = Arc::new(Notify::new());
        tasks.spawn(run(client, subjects, items, Arc::clone(&sent)));
        Self {
            host,
            queue,
            bytes: Arc::new(Semaphore::new(QUEUE_BYTES)),
            sent,
            followers: broadcast::Sender::new(FOLLOWED),
            troubles: Troubles::default(),
            history,
        }
    }

    /// Returns the recent failures that were not mended since.
    pub fn troubles(&self) -> &Troubles {
        &self.troubles
    }

    /// Publishes an event after those before it. If the queue is full it is lost, with a warning.
    pub fn publish(&self, event: Event) {
        self.troubles.on_event(&event);
        if self.followers.receiver_count() > 0 {
            let _ = self.followers.send(event.clone());
        }
        let stamp = Stamp { id: Uuid::new_v4().to_string(), at: OffsetDateTime::now_utc() };
        self.history.event(&stamp.id, clock::now_ms(), &event);
        if !self.enqueue(&event, stamp) {
            warn!(event = event.name(), "event lost: too many wait for the NATS connection");
        }
    }

    /// Lets an event wait for the connection, if there is room for it.
    fn enqueue(&self, event: &Event, stamp: Stamp) -> bool {
        let Ok(place) = self.queue.try_reserve() else { return false };
        if self.bytes.available_permits() == 0 {
            return false;
        }
        let payload = Bytes::from(envelope(&self.host, event, stamp).to_string());
        let bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&self.bytes).try_acquire_many_owned(bytes) else {
            return false;
        };
        place.send(Item::Event(event.name().to_owned(), payload, permit));
        true
    }

    /// Whether another event would be lost.
    pub fn is_full(&self) -> bool {
        self.queue.capacity() == 0 || self.bytes.available_permits() < ROOM
    }

    /// Waits until there is room for another event, for those who have many and may be held up;
    /// returns whether there is. It takes no place meanwhile: the events of others go before.
    pub async fn has_room(&self) -> bool {
        tokio::time::timeout(2 * PUBLISH_TIMEOUT, self.wait_for_room()).await.is_ok()
    }

    async fn wait_for_room(&self) {
        loop {
            // What is sent from here on wakes it.
            let sent = self.sent.notified();
            if !self.is_full() {
                return;
            }
            sent.await;
        }
    }

    /// The host whose events these are.
    pub fn host_id(&self) -> String {
        self.host.to_string()
    }

    /// Returns the reporter of the steps of a start.
    pub fn steps(&self, reference: &str) -> Steps {
        Steps::new(self.clone(), reference)
    }

    /// Tells a step of a start, if events leave room for it.
    pub(super) fn tell(&self, step: &Step) {
        if self.queue.capacity() > QUEUE / 2
            && let Ok(step) = serde_json::to_vec(step)
        {
            let _ = self.queue.try_send(Item::Step(step.into()));
        }
    }

    /// Follows the events of this host from here on, without the way over NATS. A slow follower
    /// misses the oldest ones.
    pub fn follow(&self) -> broadcast::Receiver<Event> {
        self.followers.subscribe()
    }

    /// Publishes several events in order.
    pub fn publish_all(&self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.publish(event);
        }
    }

    /// Waits until the server has taken all events so far.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.queue.send(Item::Flush(done)).await.is_ok() {
            let _ = flushed.await;
        }
    }
}

async fn run(
    client: async_nats::Client,
    subjects: Subjects,
    mut items: mpsc::Receiver<Item>,
    sent: Arc<Notify>,
) {
    while let Some(item) = items.recv().await {
        match item {
            Item::Event(name, payload, _permit) => send(&client, &subjects, &name, payload).await,
            Item::Step(step) => {
                // Nobody misses one.
                let _ = tokio::time::timeout(
                    PUBLISH_TIMEOUT,
                    client.publish(subjects.progress(), step),
                )
                .await;
            }
            Item::Flush(done) => {
                if let Err(error) = confirm(&client).await {
                    warn!(%error, "events not confirmed");
                }
                let _ = done.send(());
            }
        }
        sent.notify_waiters();
    }
}

async fn send(client: &async_nats::Client, subjects: &Subjects, name: &str, payload: Bytes) {
    for subject in [subjects.events(), subjects.event(name)] {
        let published =
            tokio::time::timeout(PUBLISH_TIMEOUT, client.publish(subject.clone(), payload.clone()));
        match published.await {
            Ok(Ok(())) => debug!(event = name, %subject, "event published"),
            Ok(Err(error)) => warn!(event = name, %subject, %error, "event lost"),
            Err(_) => {
                warn!(event = name, %subject, "event lost: the NATS connection does not take it")
            }
        }
    }
}

/// The CloudEvents 1.0 envelope (lattice protocol, section 7.1).
fn envelope(host: &HostId, event: &Event, stamp: Stamp) -> serde_json::Value {
    let mut envelope = json!({
        "specversion": "1.0",
        "id": stamp.id,
        "type": format!("com.wasmcloud.lattice.{}", event.name()),
        "source": host.as_str(),
        "time": stamp.at.format(&Rfc3339).unwrap_or_default(),
        "datacontenttype": "application/json",
        "data": null,
    });
    // Moved: the macro would copy it.
    envelope["data"] = event.data();
    envelope
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::remote::offline_client;
    use lattice_protocol::identity::{keys::LatticeName, samples};

    #[tokio::test]
    async fn large_events_fill_the_queue_by_their_bytes() {
        let subjects = Subjects::new(LatticeName::parse("default").unwrap(), "wasmbus.ctl");
        let host = HostId::parse(samples::HOST.public).unwrap();
        let (history, _inbox) = History::new();
        let client = offline_client().await;
        let publisher = Publisher::start(client, subjects, host, history, &TaskTracker::new());
        let small = Event::HostHeartbeat(json!("x"));
        let large = Event::HostHeartbeat(json!("x".repeat(1 << 20)));
        for _ in 0..100 {
            publisher.publish(small.clone());
        }
        // The task that publishes has no turn meanwhile.
        let mut taken = 0;
        while !publisher.is_full() {
            publisher.publish(large.clone());
            taken += 1;
        }
        assert!((20..=QUEUE_BYTES >> 20).contains(&taken), "{taken}");
        let full = publisher.queue.capacity();
        publisher.publish(large);
        assert_eq!(publisher.queue.capacity(), full, "it is lost");
        let mut room = std::pin::pin!(publisher.wait_for_room());
        assert!(futures::poll!(room.as_mut()).is_pending());
        publisher.publish(small);
        assert_eq!(publisher.queue.capacity(), full - 1, "who waits for room takes none");
    }
}

//! The part of the history that this host keeps: events, commands and who sent them, figures of
//! each minute, and what its actors and providers say.
//!
//! ```text
//! events, control interface ─▶ History ─▶ queue ─▶ Keeper ─▶ batches, signed ─▶ the lattice's stream
//!                                   journal, meter, peers ─▲
//! ```
//!
//! * [`History`] is the handle. It never waits: what finds no room in the queue is left out, and
//!   counted.
//! * [`keeper`] is the one task that writes, at most once a second and kind. Nothing waits for it.
//! * [`outbox`] holds what the stream did not take yet, within a bound; [`minute`] and [`losses`]
//!   decide what is told of the meter and of the peers.
//!
//! In a lattice without JetStream nothing is kept; [`History::status`] says so. The audit log of
//! this machine ([`AuditLog`]) gets the commands at the same place, and does not depend on it.

pub mod keeper;
mod losses;
mod minute;
mod outbox;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot, watch,
};

use lattice_base::telemetry::audit::AuditLog;
use lattice_protocol::{
    events::Event,
    history::{Audit, Happened, compact},
};

/// Entries that may wait for the task that writes: of events, 16 MB at the worst.
const QUEUE: usize = 4096;

/// Takes in what is to be kept. Cheap to clone.
#[derive(Clone, Debug)]
pub struct History {
    queue: mpsc::Sender<Item>,
    /// Entries that found no room since the start of the host.
    left_out: Arc<AtomicU64>,
    status: watch::Receiver<Status>,
    /// The file of commands, if the settings want one.
    log: Option<AuditLog>,
}

/// The other end of a [`History`], for its keeper.
#[derive(Debug)]
pub struct Inbox {
    items: mpsc::Receiver<Item>,
    left_out: Arc<AtomicU64>,
    status: watch::Sender<Status>,
}

/// Whether the lattice's history is kept, as this host knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// It was not found out yet.
    #[default]
    Unknown,
    Kept,
    /// It is not kept, for this reason.
    NotKept(String),
}

#[derive(Debug)]
enum Item {
    /// With small data, and without the source.
    Event(Box<Happened>),
    Audit(Box<Audit>),
    Flush(oneshot::Sender<()>),
}

impl History {
    /// Makes the handle and what its keeper reads from.
    pub fn new() -> (Self, Inbox) {
        let ((queue, items), left_out) = (mpsc::channel(QUEUE), Arc::default());
        let (status, told) = watch::channel(Status::default());
        let handle = Self { queue, left_out: Arc::clone(&left_out), status: told, log: None };
        (handle, Inbox { items, left_out, status })
    }

    /// Notes commands in this log as well.
    pub fn with_log(self, log: Option<AuditLog>) -> Self {
        Self { log, ..self }
    }

    /// Keeps an event of this host; `id` is its id on the wire.
    pub fn event(&self, id: &str, at_ms: u64, event: &Event) {
        if let Some(log) = &self.log {
            log.on_event(at_ms, event);
        }
        if is_kept(event) && !self.queue.is_closed() {
            let (name, data) = (event.name().to_owned(), compact::data(&event.data()));
            let happened = Happened { id: id.to_owned(), at_ms, name, data, ..Default::default() };
            self.take(Item::Event(Box::new(happened)));
        }
    }

    /// Keeps a command that this host took or refused.
    pub fn audit(&self, audit: Audit) {
        if let Some(log) = &self.log {
            log.note(&audit);
        }
        self.take(Item::Audit(Box::new(audit)));
    }

    /// Waits until what came so far was written, or could not be.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.queue.send(Item::Flush(done)).await.is_ok() {
            let _ = flushed.await;
        }
    }

    /// Tells whether the history is kept.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Returns how many entries were left out since the start of the host.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// Returns how many lines of the audit log were lost since the start of the host; none if there
    /// is no such log, or it is a part of the host's log.
    pub fn log_lost(&self) -> Option<u64> {
        self.log.as_ref().and_then(AuditLog::lost)
    }

    fn take(&self, item: Item) {
        // A history whose keeper has ended has nothing, so nothing is missing in it.
        if let Err(TrySendError::Full(_)) = self.queue.try_send(item) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Inbox {
    /// Notes that nothing is kept, for this reason.
    pub fn turn_off(&self, reason: &str) {
        self.status.send_replace(Status::NotKept(reason.to_owned()));
    }
}

/// Whether an event is news. A host tells each start with the events of all years, of which one is
/// enough; heartbeats and checks that found what was known are none.
fn is_kept(event: &Event) -> bool {
    !matches!(
        event,
        Event::HostHeartbeat(_)
            | Event::HealthCheckStatus(_)
            | Event::ActorStarted { .. }
            | Event::ActorsStarted { .. }
            | Event::ActorStopped { .. }
            | Event::ActorsStopped { .. }
            | Event::ActorStartFailed { .. }
            | Event::ActorsStartFailed { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_finds_no_room_is_counted_and_delays_nobody() {
        let (history, inbox) = History::new();
        let event = Event::HostStopped { labels: Default::default() };
        for _ in 0..QUEUE + 5 {
            history.event("id", 1, &event);
        }
        history.event("id", 1, &Event::HostHeartbeat(serde_json::Value::Null));
        assert_eq!(history.left_out(), 5);
        drop(inbox);
        history.flush().await;
        assert_eq!(history.status(), Status::Unknown);
        history.event("id", 1, &event);
        history.audit(Audit::default());
        assert_eq!(history.left_out(), 5, "nothing is kept, so nothing is left out");
    }
}

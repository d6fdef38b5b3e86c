//! Answers those who ask for lines, each in a task of its own that ends with its lease or with the
//! host.
//!
//! A follower has no queue: it reads from the journal where it is, as fast as the connection takes
//! it, and is told how many lines went by when it is too slow. There are at most [`FOLLOWERS_MAX`]
//! of them and [`READERS_MAX`] who only read the past.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use async_nats::Subject;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::{Excerpt, Journal, LINES_MAX};
use lattice_base::lattice::answers::Answers;
use lattice_protocol::journal::wire::{Ask, Mark, Part};

/// Followers of one host. Beyond that somebody has forgotten to end.
pub const FOLLOWERS_MAX: usize = 64;
/// Answers about the past that are on their way at a time.
pub const READERS_MAX: usize = 64;
/// Lines of one message.
const PART_LINES_MAX: usize = 500;
/// Text of one message, unless the server takes less: far below what servers take, also when every
/// byte is escaped.
const PART_BYTES_MAX: usize = 64 << 10;
/// The text of a message may be the server's limit divided by this: JSON makes up to six bytes of
/// one.
const PART_OF_PAYLOAD: usize = 8;
/// Lines that come shortly after each other go together.
const GATHER: Duration = Duration::from_millis(25);
/// How long the connection may take a message; it only waits when the server is away.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);
/// How long followers may take to end with the host.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// The name of a follower is kept, so it must not be long.
const NAME_BYTES_MAX: usize = 128;

/// Those who read the journal of one host from elsewhere. Cheap to clone.
#[derive(Clone)]
pub struct Followers(Arc<Inner>);

struct Inner {
    journal: Journal,
    client: async_nats::Client,
    answers: Answers,
    tasks: TaskTracker,
    stop: CancellationToken,
    readers: AtomicUsize,
    // Held for lines, never across an await.
    followers: Mutex<HashMap<String, Follower>>,
}

struct Follower {
    /// Until when it is served; `None` when it wants no more.
    until: watch::Sender<Option<Instant>>,
}

impl Followers {
    pub fn new(journal: Journal, client: async_nats::Client, answers: Answers) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (readers, followers) = (AtomicUsize::new(0), Mutex::default());
        Self(Arc::new(Inner { journal, client, answers, tasks, stop, readers, followers }))
    }

    /// How many are being served.
    pub fn count(&self) -> usize {
        self.0.followers.lock().len()
    }

    /// Takes an ask on: answers it at once, or has it answered from here on.
    pub fn take(&self, ask: Ask, reply: Option<Subject>) -> Option<Part> {
        let inner = &self.0;
        // Both are kept while somebody reads, so neither may be of any size.
        if [Some(&ask.entity), ask.follow.as_ref()]
            .into_iter()
            .flatten()
            .any(|name| name.len() > NAME_BYTES_MAX)
        {
            let why = format!(
                "the entity and the name of its follower have at most {NAME_BYTES_MAX} bytes"
            );
            return Some(inner.refusal("", &why));
        }
        let Some(name) = &ask.follow else {
            // Without anybody to answer there is nothing to do.
            return reply.and_then(|reply| self.read(ask, reply));
        };
        if let Some(follower) = inner.followers.lock().get(name) {
            follower.until.send_replace((!ask.stop).then(|| Instant::now() + ask.lease()));
            return Some(inner.part(&ask.entity, Mark::Kept));
        }
        if ask.stop {
            return Some(inner.part(&ask.entity, Mark::Over));
        }
        reply.and_then(|reply| self.begin(ask, reply))
    }

    /// Ends all; they are told.
    pub async fn close(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        if timeout(CLOSE_TIMEOUT, self.0.tasks.wait()).await.is_err() {
            warn!("some who follow the logs of this host were not told that it stops");
        }
    }

    fn read(&self, ask: Ask, reply: Subject) -> Option<Part> {
        let inner = Arc::clone(&self.0);
        if inner.readers.fetch_add(1, Ordering::Relaxed) >= READERS_MAX || inner.stop.is_cancelled()
        {
            inner.readers.fetch_sub(1, Ordering::Relaxed);
            return Some(inner.refusal(
                &ask.entity,
                "too many ask for logs of this host at this moment; try again",
            ));
        }
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = inner.stop.cancelled() => {}
                _ = inner.send_past(&ask, &reply) => {}
            }
            inner.readers.fetch_sub(1, Ordering::Relaxed);
        });
        None
    }

    fn begin(&self, ask: Ask, reply: Subject) -> Option<Part> {
        let inner = &self.0;
        let name = ask.follow.clone().unwrap_or_default();
        let mut followers = inner.followers.lock();
        if followers.len() >= FOLLOWERS_MAX || inner.stop.is_cancelled() {
            let why = format!(
                "this host serves {FOLLOWERS_MAX} followers of its logs already, or is stopping; end one, or ask without follow"
            );
            return Some(inner.refusal(&ask.entity, &why));
        }
        let (until, lease) = watch::channel(Some(Instant::now() + ask.lease()));
        followers.insert(name.clone(), Follower { until });
        drop(followers);
        let served = Served { inner: Arc::clone(inner), name };
        inner.tasks.spawn(async move { served.run(ask, reply, lease).await });
        None
    }
}

/// A follower that is being served; forgotten when dropped.
struct Served {
    inner: Arc<Inner>,
    name: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.inner.followers.lock().remove(&self.name);
    }
}

impl Served {
    async fn run(self, ask: Ask, reply: Subject, mut lease: watch::Receiver<Option<Instant>>) {
        let inner = &*self.inner;
        let mut seen = None;
        let why = tokio::select! {
            why = inner.follow(&ask, &reply, &mut seen) => why,
            () = ended(&mut lease) => String::new(),
            () = inner.stop.cancelled() => "the host stops".to_owned(),
        };
        if let (true, Some(seen)) = (inner.stop.is_cancelled(), seen) {
            // The last words.
            let _ = inner.send_after(&ask.entity, &reply, seen, Mark::Live).await;
        }
        debug!(entity = ask.entity, why, "a follower of logs ends");
        let _ =
            inner.send(&reply, &Part { error: why, ..inner.part(&ask.entity, Mark::Over) }).await;
    }
}

/// Waits until a follower has not been renewed in time, or wants no more.
async fn ended(lease: &mut watch::Receiver<Option<Instant>>) {
    loop {
        let Some(until) = *lease.borrow_and_update() else { return };
        tokio::select! {
            () = sleep_until(until) => return,
            changed = lease.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

impl Inner {
    /// Sends the past and then what comes; returns why it cannot go on.
    /// `sent` is the last line that was sent; dropped, the line after it may have been sent, too.
    async fn follow(&self, ask: &Ask, reply: &Subject, sent: &mut Option<u64>) -> String {
        // First, so that nothing is said in between.
        let mut said = self.journal.follow(&ask.entity);
        let mut seen = match self.send_past(ask, reply).await {
            Ok(seen) => seen,
            Err(why) => return why.to_string(),
        };
        loop {
            *sent = Some(seen);
            if *said.borrow_and_update() <= seen {
                // The journal keeps the sender as long as somebody follows.
                if said.changed().await.is_err() {
                    return "the journal was closed".into();
                }
                sleep(GATHER).await;
            }
            match self.send_after(&ask.entity, reply, seen, Mark::Live).await {
                Ok(last) => seen = last,
                Err(why) => return why.to_string(),
            }
        }
    }

    /// Sends what was said before; returns the number of the last line.
    async fn send_past(&self, ask: &Ask, reply: &Subject) -> Result<u64> {
        let tail = usize::try_from(ask.tail).unwrap_or(usize::MAX).min(LINES_MAX);
        let mut seen = match &ask.seen {
            Some(seen) if seen.life == self.journal.life() => seen.number,
            _ => {
                let past = self.journal.tail(&ask.entity, tail);
                past.lines.first().map_or(past.last, |line| line.number - 1)
            }
        };
        loop {
            let excerpt = self.journal.after(&ask.entity, seen, PART_LINES_MAX, self.part_bytes());
            seen = excerpt.last;
            let is_last = self.journal.after(&ask.entity, seen, 1, 0).lines.is_empty();
            let mark = if is_last { Mark::Past } else { Mark::More };
            self.send(reply, &self.part_of(&ask.entity, mark, excerpt)).await?;
            if is_last {
                return Ok(seen);
            }
        }
    }

    /// Sends what was said after a line, as much as one message takes; returns the number of the
    /// last line.
    async fn send_after(
        &self,
        entity: &str,
        reply: &Subject,
        seen: u64,
        mark: Mark,
    ) -> Result<u64> {
        let excerpt = self.journal.after(entity, seen, PART_LINES_MAX, self.part_bytes());
        let last = excerpt.last;
        self.send(reply, &self.part_of(entity, mark, excerpt)).await?;
        Ok(last)
    }

    fn part_bytes(&self) -> usize {
        PART_BYTES_MAX.min(self.client.server_info().max_payload / PART_OF_PAYLOAD)
    }

    fn part(&self, entity: &str, mark: Mark) -> Part {
        let (host_id, life) = (self.journal.host_id().to_owned(), self.journal.life().to_owned());
        Part { host_id, entity: entity.to_owned(), life, mark, ..Part::default() }
    }

    fn part_of(&self, entity: &str, mark: Mark, excerpt: Excerpt) -> Part {
        let Excerpt { lines, lost, last } = excerpt;
        Part { lines, lost, last, ..self.part(entity, mark) }
    }

    fn refusal(&self, entity: &str, why: &str) -> Part {
        Part { error: why.to_owned(), ..self.part(entity, Mark::Over) }
    }

    async fn send(&self, reply: &Subject, part: &Part) -> Result<()> {
        let bytes = serde_json::to_vec(part)?;
        Ok(self.answers.send(&self.client, reply, bytes.into(), SEND_TIMEOUT).await?)
    }
}

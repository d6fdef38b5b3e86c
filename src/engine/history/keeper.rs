//! The task that writes the history of a host, at most once a second.
//!
//! Each round: what came through the queue, what was said since the last round, the minute if one
//! is over, and the losses of other hosts become batches → each is signed and goes into the outbox
//! → the outbox is written in order until the stream does not take one.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_nats::connection::State::Connected;
use serde::Serialize;
use serde_json::json;
use tokio::{
    sync::oneshot,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{
    Inbox, Item, Status,
    losses::{Change, Losses},
    minute::Minutes,
    outbox::{Outbox, Prepared},
};
use crate::{host_context::HostContext, meter::Meter};
use lattice_base::store::history::{Archive, Limits};
use lattice_protocol::{
    clock,
    events::Event,
    history::{self, Audit, Batch, FRIENDLY_NAME, HOST_BACK, HOST_LOST, Happened, Kind, Said},
};

/// How often is written.
const ROUND: Duration = Duration::from_secs(1);
/// Pauses between attempts to open the stream.
const AGAIN: Duration = Duration::from_secs(5);
/// Entries of one batch.
const BATCH_MAX: usize = 100;
/// Text of what was said in a second that is kept, in bytes.
const SAID_BYTES_MAX: usize = 24 << 10;
/// Batches of what was said that are kept of a host: with those of a second that has most to say
/// six megabytes.
const SAID_BATCHES_MAX: u64 = 256;
/// A host that was cut off hears all others again within this time.
const HEARING: Duration = Duration::from_secs(4);

/// Writes the history of one host.
pub struct Keeper {
    context: Arc<HostContext>,
    meter: Meter,
    archive: Archive,
    limits: Limits,
    inbox: Inbox,
    events: Vec<Happened>,
    audits: Vec<Audit>,
    outbox: Outbox,
    minutes: Minutes,
    losses: Losses,
    /// How far each entity's lines were read.
    seen: HashMap<Arc<str>, u64>,
    /// Entries that were left out and are not told yet.
    told_left_out: u64,
    open_at: Instant,
    /// Since when both hosts and the server could be heard.
    hears_since: Option<Instant>,
    /// Since when the server of one of the connections is away.
    away_since: Option<Instant>,
    /// How often the connections came back, added up, when both were there last.
    reconnects: u64,
    /// When the lines were cut to their bound, in minutes since 1970.
    cut_at: u64,
}

impl Keeper {
    /// Makes a keeper; `inbox` is the other end of the context's [`History`](super::History).
    pub fn new(context: Arc<HostContext>, meter: Meter, limits: Limits, inbox: Inbox) -> Self {
        let archive = Archive::new(
            context.ctl.clone(),
            context.js_domain.as_deref(),
            context.subjects.lattice().as_str(),
        );
        Self {
            context,
            meter,
            archive,
            limits,
            inbox,
            events: Vec::new(),
            audits: Vec::new(),
            outbox: Outbox::default(),
            minutes: Minutes::default(),
            losses: Losses::default(),
            seen: HashMap::new(),
            told_left_out: 0,
            open_at: Instant::now(),
            hears_since: None,
            away_since: None,
            reconnects: 0,
            cut_at: 0,
        }
    }

    /// Writes until told to stop. What came last is written by [`History::flush`] before.
    ///
    /// [`History::flush`]: super::History::flush
    pub async fn run(mut self, stop: CancellationToken) {
        let mut round = interval(ROUND);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let flushed = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = round.tick() => None,
                item = self.inbox.items.recv() => match item {
                    Some(item) => match self.take(item) {
                        Some(flushed) => Some(flushed),
                        None => continue,
                    },
                    None => return,
                },
            };
            // A server that is away does not delay the end of the host.
            if stop.run_until_cancelled(self.write()).await.is_none() {
                return;
            }
            if let Some(flushed) = flushed {
                let _ = flushed.send(());
            }
        }
    }

    /// Takes an item of the queue in; returns whom to tell that all before it was written.
    fn take(&mut self, item: Item) -> Option<oneshot::Sender<()>> {
        match item {
            Item::Event(happened) => {
                let source = self.context.host_id.to_string();
                self.events.push(Happened { source, ..*happened });
                if self.events.len() >= BATCH_MAX {
                    let events = std::mem::take(&mut self.events);
                    self.prepare(Kind::Events, events);
                }
            }
            Item::Audit(audit) => {
                self.audits.push(*audit);
                if self.audits.len() >= BATCH_MAX {
                    let audits = std::mem::take(&mut self.audits);
                    self.prepare(Kind::Audit, audits);
                }
            }
            Item::Flush(flushed) => return Some(flushed),
        }
        None
    }

    async fn write(&mut self) {
        let is_up = self.is_up();
        self.tell_return(is_up);
        self.tell_losses(is_up);
        let events = std::mem::take(&mut self.events);
        self.prepare(Kind::Events, events);
        let audits = std::mem::take(&mut self.audits);
        self.prepare(Kind::Audit, audits);
        let said = self.said();
        self.prepare(Kind::Logs, said);
        let now_ms = clock::now_ms();
        if self.minutes.is_due(now_ms)
            && let Some(minute) = self.minutes.take(&self.meter.snapshot(), now_ms)
        {
            self.prepare(Kind::Figures, vec![minute]);
        }
        if self.open().await {
            self.send().await;
        }
    }

    /// Returns what actors and providers said since the last round.
    fn said(&mut self) -> Vec<Said> {
        let journal = &self.context.journal;
        let news = journal.news(&mut self.seen, SAID_BYTES_MAX);
        let said = news.into_iter().map(|(entity, news)| Said {
            entity: entity.to_string(),
            life: journal.life().to_owned(),
            left_out: news.lost,
            lines: news.lines,
        });
        said.collect()
    }

    /// Whether both connections are there.
    fn is_up(&self) -> bool {
        let HostContext { ctl, rpc, .. } = &*self.context;
        [ctl, rpc].iter().all(|nats| nats.client.connection_state() == Connected)
    }

    /// Adds the losses of other hosts to the events.
    fn tell_losses(&mut self, is_up: bool) {
        let context = &self.context;
        let hears_since = match is_up && !context.suspend.is_stale() {
            true => Some(self.hears_since.unwrap_or_else(Instant::now)),
            false => None,
        };
        self.hears_since = hears_since;
        let hears = hears_since.is_some_and(|since| since.elapsed() >= HEARING);
        let others = context.peers.others();
        for change in self.losses.look(context.host_id.as_str(), &others, hears) {
            let (name, source) = match change {
                Change::Lost(id) => (HOST_LOST, id),
                Change::Back(id) => (HOST_BACK, id),
            };
            let (id, at_ms) = (Uuid::new_v4().to_string(), clock::now_ms());
            let mut data = json!({ "told_by": context.host_id.as_str() });
            // The name that it has now: later nobody may know it.
            if let Some(inventory) = context.peers.remembered(&source) {
                data[FRIENDLY_NAME] = json!(inventory.friendly_name);
            }
            self.events.push(Happened { id, at_ms, name: name.to_owned(), source, data });
        }
    }

    /// Tells that the server was away when it is back.
    fn tell_return(&mut self, is_up: bool) {
        if !is_up {
            self.away_since.get_or_insert_with(Instant::now);
            return;
        }
        let HostContext { ctl, rpc, events, .. } = &*self.context;
        let reconnects = [ctl, rpc].iter().map(|nats| *nats.reconnects.borrow()).sum();
        // A return may be counted a moment after the connection is there.
        if std::mem::replace(&mut self.reconnects, reconnects) < reconnects {
            let away_ms = self.away_since.take().map_or(0, |since| clock::millis(since.elapsed()));
            events.publish(Event::NatsReturned { away_ms });
        }
    }

    /// Signs a batch and puts it into the outbox.
    fn prepare<T: Serialize>(&mut self, kind: Kind, items: Vec<T>) {
        if items.is_empty() {
            return;
        }
        let context = &self.context;
        let (key, at_ms) = (history::key(kind, context.host_id.as_str()), clock::now_ms());
        let left_out = self.inbox.left_out.load(std::sync::atomic::Ordering::Relaxed);
        let batch = Batch {
            host_id: context.host_id.to_string(),
            host_name: context.state.facts().friendly_name.clone(),
            at_ms,
            left_out: left_out - std::mem::replace(&mut self.told_left_out, left_out),
            items,
        };
        let signed = context.authority.sign(&key, at_ms, &batch);
        match signed.and_then(|signed| serde_json::to_vec(&signed)) {
            Ok(payload) => {
                let (id, entries) = (Uuid::new_v4().to_string(), batch.items.len() as u64);
                let dropped =
                    self.outbox.push(Prepared { key, id, payload: payload.into(), entries });
                self.leave_out(dropped);
            }
            Err(error) => warn!(%error, "a part of the history cannot be encoded"),
        }
    }

    fn leave_out(&self, entries: u64) {
        self.inbox.left_out.fetch_add(entries, std::sync::atomic::Ordering::Relaxed);
    }

    /// Opens the stream, unless it was tried in vain just now.
    async fn open(&mut self) -> bool {
        if self.archive.is_open() {
            return true;
        }
        if Instant::now() < self.open_at {
            return false;
        }
        self.open_at = Instant::now() + AGAIN;
        match self.archive.open(self.limits).await {
            Ok(difference) => {
                if let Some(difference) = difference {
                    let (there_h, here_h) =
                        (difference.age.as_secs() / 3600, difference.wanted.as_secs() / 3600);
                    info!(
                        stream = self.archive.name(),
                        there_h,
                        here_h,
                        "the history of the lattice keeps entries for another time than history_hours says here"
                    );
                }
                true
            }
            Err(error) => {
                self.note(Status::NotKept(error.to_string()));
                false
            }
        }
    }

    async fn send(&mut self) {
        let max = self.context.ctl.client.server_info().max_payload;
        while let Some(first) = self.outbox.first().cloned() {
            // Larger than the server takes: it would be refused for ever.
            if first.payload.len() + first.key.len() < max {
                let written = self.archive.write(&first.key, &first.id, first.payload).await;
                if let Err(error) = written {
                    self.note(Status::NotKept(error.to_string()));
                    return;
                }
            } else {
                self.leave_out(first.entries);
            }
            self.outbox.pop();
        }
        self.note(Status::Kept);
        self.cut_said().await;
    }

    /// Keeps the lines of this host within their bound, once a minute.
    async fn cut_said(&mut self) {
        let minute = clock::now_ms() / history::figures::MINUTE_MS;
        if std::mem::replace(&mut self.cut_at, minute) == minute {
            return;
        }
        let key = history::key(Kind::Logs, self.context.host_id.as_str());
        if let Err(error) = self.archive.keep_last(&key, SAID_BATCHES_MAX).await {
            debug!(%error, "old log lines stay in the history");
        }
    }

    /// Notes whether the history is kept; each change is logged once.
    fn note(&self, status: Status) {
        self.inbox.status.send_if_modified(|before| {
            // Why it is not kept may be told in other words each time.
            let is_new = std::mem::discriminant(before) != std::mem::discriminant(&status);
            if is_new && let Status::NotKept(reason) = &status {
                warn!(reason, "the history of the lattice is not kept at the moment");
            } else if is_new && matches!(before, Status::NotKept(_)) {
                info!("the history of the lattice is kept");
            }
            *before = status;
            is_new
        });
    }
}

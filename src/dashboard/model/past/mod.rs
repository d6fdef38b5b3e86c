//! The history of the lattice, as the dashboard has it: the same on every host.
//!
//! While somebody looks, the newest events and commands are followed in the lattice's stream and
//! kept in memory within a bound; what is older is read when it is asked for. A host that is gone
//! told what it knew, so nothing of it is lost but the last second.
//!
//! * [`figures`] makes series of the minutes that hosts told, [`marks`] what is drawn beside them.

pub mod figures;
pub mod marks;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use utoipa::ToSchema;

use super::{Collection, Model, events::Entry, names::short};
use crate::{
    Dashboard,
    mask::{HIDDEN, Mask},
};
use lattice_base::store::history::ArchiveError;
use lattice_client::history::{ArchivedLine, History, Kept, Range, SAME_LOSS_MS, in_order};
use lattice_engine::history::Status;
use lattice_protocol::{
    clock,
    history::{Audit, HOST_BACK, HOST_LOST, Happened, Kind, TOLD_BY_ALL, figures::MINUTE_MS},
};

/// Entries of each kind that are kept in memory: the newest.
const ENTRIES_MAX: usize = 2000;
/// Entries that one question reads at most.
const READ_MAX: usize = 20_000;
/// How far back a question goes unless it says more, in milliseconds; the stream keeps a day unless
/// it is set.
pub const DAY_MS: u64 = 24 * 60 * MINUTE_MS;
/// How often it is looked whether somebody looks.
const LOOK: Duration = Duration::from_millis(200);
/// Pause after the stream could not be followed.
const AGAIN: Duration = Duration::from_secs(2);
/// How long a first question waits for the newest entries.
const FRESH: Duration = Duration::from_millis(1500);
/// How far to go back where following begins again: hosts write some time after something happened.
const OVERLAP_MS: u64 = 60_000;
/// How far back the stream is followed, in milliseconds: a little more than a day, since time
/// passes between a question for the last day and its answer.
const FOLLOWED_MS: u64 = DAY_MS + OVERLAP_MS;
/// Names of hosts that are remembered.
const NAMES_MAX: usize = 4096;
/// How long the last lines of an entity are not read again.
const LINES_FRESH: Duration = Duration::from_secs(8);
/// Entities whose last lines are kept for that time.
const LINES_KEPT: usize = 32;
/// How far back lines are read, in milliseconds.
const LINES_SPAN_MS: u64 = DAY_MS;

/// A command that a host took or refused.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Command {
    pub id: String,
    pub at_ms: u64,
    /// `start actor`, `link put` and so on.
    pub verb: String,
    /// Its subject, in a few words.
    pub subject: String,
    /// The members of the command that name it.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub object: std::collections::BTreeMap<String, String>,
    /// `accepted`, `refused` or `unknown`.
    pub outcome: &'static str,
    /// Why it was refused.
    pub reason: String,
    pub took_ms: u64,
    /// `cli`, `dashboard` or `application`, as the sender says; empty if it says nothing.
    pub origin: String,
    /// The sender, in a few words of its own.
    pub who: String,
    /// The user at the NATS server, as the sender says.
    pub nats_user: String,
    /// The address of a browser, or the id of a host.
    pub from: String,
    /// The host that took the command.
    pub host_id: String,
    pub host_name: String,
}

impl Mask for Command {
    fn mask(&mut self) {
        // The places of people are nobody else's business.
        for text in [&mut self.reason, &mut self.who, &mut self.nats_user, &mut self.from] {
            if !text.is_empty() {
                HIDDEN.clone_into(text);
            }
        }
    }
}

impl From<Kept<Audit>> for Command {
    fn from(Kept { host_id, host_name, item }: Kept<Audit>) -> Self {
        Self {
            subject: item.subject(),
            outcome: item.outcome.word(),
            id: item.id,
            at_ms: item.at_ms,
            verb: item.verb,
            object: item.object,
            reason: item.reason,
            took_ms: item.took_ms,
            who: item.origin.words(),
            origin: item.origin.kind,
            nats_user: item.origin.nats_user,
            from: item.origin.from,
            host_id,
            host_name,
        }
    }
}

/// Whether the history is kept, for those who read it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Keeping {
    pub is_kept: bool,
    /// Why it is not; then only what this host has in memory is shown.
    pub reason: Option<String>,
    /// Entries that this host left out since its start: more came than it keeps.
    pub left_out: u64,
}

impl Keeping {
    /// Notes why a question was not answered from the history, if it was not.
    pub fn unless(self, failure: Option<String>) -> Self {
        match failure {
            Some(reason) => Self { is_kept: false, reason: Some(reason), ..self },
            None => self,
        }
    }
}

/// The history as the dashboard has it. Cheap to clone.
#[derive(Clone)]
pub struct Past(Arc<Inner>);

struct Inner {
    history: History,
    // Held for lines, never across an await.
    recent: Mutex<Recent>,
    /// Whether all that the stream had is in `recent`.
    is_fresh: watch::Sender<bool>,
    lines: Mutex<VecDeque<CachedLines>>,
    figures: figures::Cache,
}

#[derive(Default)]
struct Recent {
    /// Oldest first.
    events: VecDeque<Kept<Happened>>,
    commands: VecDeque<Kept<Audit>>,
    /// Names of hosts, as they signed.
    names: HashMap<String, String>,
}

struct CachedLines {
    entity: String,
    read_at: Instant,
    lines: Arc<Vec<ArchivedLine>>,
}

/// A kind of entries of which the newest are kept in memory.
trait Remembered: Clone + DeserializeOwned {
    const KIND: Kind;
    const COLLECTION: Collection;

    fn id(&self) -> &str;
    fn at_ms(&self) -> u64;
    /// Its list in memory, oldest first.
    fn list(recent: &mut Recent) -> &mut VecDeque<Kept<Self>>;
}

impl Remembered for Happened {
    const KIND: Kind = Kind::Events;
    const COLLECTION: Collection = Collection::Events;

    fn id(&self) -> &str {
        &self.id
    }

    fn at_ms(&self) -> u64 {
        self.at_ms
    }

    fn list(recent: &mut Recent) -> &mut VecDeque<Kept<Self>> {
        &mut recent.events
    }
}

impl Remembered for Audit {
    const KIND: Kind = Kind::Audit;
    const COLLECTION: Collection = Collection::Audit;

    fn id(&self) -> &str {
        &self.id
    }

    fn at_ms(&self) -> u64 {
        self.at_ms
    }

    fn list(recent: &mut Recent) -> &mut VecDeque<Kept<Self>> {
        &mut recent.commands
    }
}

/// Puts an entry where it belongs by its time, unless it is there; whether it was new.
fn insert<T: Remembered>(list: &mut VecDeque<Kept<T>>, entry: Kept<T>) -> bool {
    let (id, at_ms) = (entry.item.id(), entry.item.at_ms());
    let at = list.partition_point(|other| other.item.at_ms() <= at_ms);
    let is_known = |other: &Kept<T>| !id.is_empty() && other.item.id() == id;
    // Entries of one moment are few.
    let mut same = list.range(..at).rev().take_while(|other| other.item.at_ms() == at_ms);
    if same.any(is_known) {
        return false;
    }
    list.insert(at, entry);
    if list.len() > ENTRIES_MAX {
        list.pop_front();
    }
    true
}

/// Whether what happened since a moment is in memory, as long as that is not full.
fn is_followed(since_ms: u64, now_ms: u64) -> bool {
    since_ms >= now_ms.saturating_sub(FOLLOWED_MS)
}

impl Recent {
    fn name(&mut self, id: &str, name: &str) {
        if !name.is_empty() && (self.names.len() < NAMES_MAX || self.names.contains_key(id)) {
            self.names.insert(id.to_owned(), name.to_owned());
        }
    }
}

impl Past {
    pub fn new(history: History) -> Self {
        Self(Arc::new(Inner {
            history,
            recent: Mutex::default(),
            is_fresh: watch::Sender::new(false),
            lines: Mutex::default(),
            figures: figures::Cache::default(),
        }))
    }

    fn take<T: Remembered>(&self, model: &Model, entries: Vec<Kept<T>>) {
        let is_news = {
            let mut recent = self.0.recent.lock();
            let mut is_news = false;
            for kept in entries {
                recent.name(&kept.host_id, &kept.host_name);
                is_news |= insert(T::list(&mut recent), kept);
            }
            is_news
        };
        if is_news {
            model.records().changed(T::COLLECTION);
        }
    }

    /// Waits a moment for the newest entries, if somebody began to look just now.
    async fn fresh(&self) {
        let mut fresh = self.0.is_fresh.subscribe();
        let _ = timeout(FRESH, fresh.wait_for(|fresh| *fresh)).await;
    }

    /// Returns what happened in a span of time, newest first: from memory where that reaches so
    /// far back, else from the stream.
    pub async fn events(
        &self,
        dashboard: &Dashboard,
        range: Range,
    ) -> Result<Vec<Entry>, ArchiveError> {
        // The events of the stream, each loss once.
        let events = in_order(self.kept::<Happened>(range).await?);
        let mut entries: Vec<Entry> =
            events.iter().rev().filter_map(|kept| self.entry(dashboard, kept)).collect();
        let log = dashboard.model().log();
        let live = log.newest().filter(|entry| range.has(entry.at_ms));
        merge(&mut entries, live.cloned());
        Ok(entries)
    }

    /// Returns the commands of a span of time, newest first.
    pub async fn commands(&self, range: Range) -> Result<Vec<Command>, ArchiveError> {
        let mut commands = self.kept::<Audit>(range).await?;
        commands.sort_by_key(|kept| std::cmp::Reverse(kept.item.at_ms));
        Ok(commands.into_iter().map(Command::from).collect())
    }

    /// Returns the entries of a span of time: from memory where that reaches so far back, else from
    /// the stream.
    async fn kept<T: Remembered>(&self, range: Range) -> Result<Vec<Kept<T>>, ArchiveError> {
        self.fresh().await;
        let is_wanted = |kept: &Kept<T>| range.has(kept.item.at_ms());
        let in_memory: Option<Vec<Kept<T>>> = {
            let mut recent = self.0.recent.lock();
            let list = &*T::list(&mut recent);
            let wanted = || list.iter().filter(|kept| is_wanted(kept)).cloned().collect();
            self.reaches(list, range).then(wanted)
        };
        if let Some(entries) = in_memory {
            return Ok(entries);
        }
        let mut entries = self.0.history.read::<T>(T::KIND, None, range, READ_MAX).await?.entries;
        entries.retain(is_wanted);
        Ok(entries)
    }

    /// Whether the entries in memory are all of a span of time.
    fn reaches<T: Remembered>(&self, list: &VecDeque<Kept<T>>, range: Range) -> bool {
        // Older ones were dropped from a full list.
        let is_whole = list.len() < ENTRIES_MAX
            || list.front().is_some_and(|oldest| oldest.item.at_ms() <= range.since_ms);
        *self.0.is_fresh.borrow() && is_followed(range.since_ms, clock::now_ms()) && is_whole
    }

    fn entry(&self, dashboard: &Dashboard, kept: &Kept<Happened>) -> Option<Entry> {
        let table = dashboard.parts().context.links.table();
        let then = kept.host_then().map(str::to_owned);
        let host = then.unwrap_or_else(|| self.host_name(dashboard, &kept.item.source));
        Entry::kept(&kept.item, &host, |key| table.claims(key).map(|claims| claims.name.clone()))
    }

    /// Returns the name of a host, whether it is still there or not.
    pub fn host_name(&self, dashboard: &Dashboard, id: &str) -> String {
        let snapshot = dashboard.model().snapshot();
        let known = snapshot.host(id).map(|host| host.name.clone()).filter(|name| !name.is_empty());
        known.or_else(|| self.0.recent.lock().names.get(id).cloned()).unwrap_or_else(|| short(id))
    }

    /// Returns the last lines of an entity that hosts wrote into the stream, oldest first; none if
    /// the stream cannot be read.
    pub async fn lines(&self, entity: &str) -> Arc<Vec<ArchivedLine>> {
        {
            let mut cached = self.0.lines.lock();
            cached.retain(|one| one.read_at.elapsed() < LINES_FRESH);
            if let Some(one) = cached.iter().find(|one| one.entity == entity) {
                return Arc::clone(&one.lines);
            }
        }
        let range = Range::last(LINES_SPAN_MS);
        let read = self.0.history.lines(entity, range, ENTRIES_MAX).await;
        let lines = read.inspect_err(|error| debug!(%error, "no lines of the history"));
        let lines = Arc::new(lines.unwrap_or_default());
        let mut cached = self.0.lines.lock();
        if cached.len() >= LINES_KEPT {
            cached.pop_front();
        }
        let (entity, read_at) = (entity.to_owned(), Instant::now());
        cached.push_back(CachedLines { entity, read_at, lines: Arc::clone(&lines) });
        lines
    }

    /// Returns whether the history is kept.
    pub fn keeping(dashboard: &Dashboard) -> Keeping {
        let history = &dashboard.parts().context.history;
        let reason = match history.status() {
            Status::Kept => None,
            Status::Unknown => Some("the host has not found out yet whether it is".to_owned()),
            Status::NotKept(reason) => Some(reason),
        };
        Keeping { is_kept: reason.is_none(), reason, left_out: history.left_out() }
    }
}

/// Adds the events that a host heard itself to those of the stream, newest first, each once.
fn merge(entries: &mut Vec<Entry>, live: impl Iterator<Item = Entry>) {
    let known: HashMap<String, usize> = entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| !entry.id.is_empty())
        .map(|(at, entry)| (entry.id.clone(), at))
        .collect();
    let mut more = Vec::new();
    for entry in live {
        match known.get(&entry.id) {
            // As it was heard, with more of its data.
            Some(at) => {
                let at_ms = entries[*at].at_ms;
                entries[*at] = entry.at(at_ms);
            }
            None if is_told_by_others(&entry) && entries.iter().any(|it| is_same(it, &entry)) => {}
            None => more.push(entry),
        }
    }
    entries.extend(more);
    entries.sort_by_key(|entry| std::cmp::Reverse((entry.at_ms, entry.seq)));
}

/// Whether several hosts may tell what an entry tells.
fn is_told_by_others(entry: &Entry) -> bool {
    matches!(&*entry.name, HOST_LOST | HOST_BACK) || TOLD_BY_ALL.contains(&&*entry.name)
}

fn is_same(a: &Entry, b: &Entry) -> bool {
    is_same_loss(a, b) || a.is_same_change(b)
}

/// Whether two entries tell the same loss, or the same return, of a host.
fn is_same_loss(a: &Entry, b: &Entry) -> bool {
    (a.id.is_empty() || b.id.is_empty())
        && (&a.name, &a.host_id) == (&b.name, &b.host_id)
        && a.at_ms.abs_diff(b.at_ms) <= SAME_LOSS_MS
}

/// Follows the stream while somebody looks, until told to stop.
pub async fn run(dashboard: Dashboard, stop: CancellationToken) {
    let following = async {
        loop {
            if !dashboard.model().is_viewed() {
                dashboard.past().0.is_fresh.send_replace(false);
                sleep(LOOK).await;
                continue;
            }
            if let Err(error) = follow(&dashboard).await {
                debug!(%error, "the history of the lattice is not followed");
            }
            // Those who wait for it need not: there is no more to come.
            dashboard.past().0.is_fresh.send_replace(true);
            sleep(AGAIN).await;
        }
    };
    stop.run_until_cancelled(following).await;
}

/// Follows events and commands until nobody looks any more, or one of them ends.
async fn follow(dashboard: &Dashboard) -> Result<(), ArchiveError> {
    let (past, model) = (dashboard.past(), dashboard.model());
    let since = |oldest: Option<u64>| {
        let first = clock::now_ms().saturating_sub(FOLLOWED_MS);
        oldest.map_or(first, |last| last.saturating_sub(OVERLAP_MS).max(first))
    };
    let (events_ms, commands_ms) = {
        let recent = past.0.recent.lock();
        let last_event = recent.events.back().map(|kept| kept.item.at_ms);
        (since(last_event), since(recent.commands.back().map(|kept| kept.item.at_ms)))
    };
    let history = &past.0.history;
    let Some(mut events) = history.follow::<Happened>(Kind::Events, events_ms).await? else {
        return Ok(());
    };
    let Some(mut commands) = history.follow::<Audit>(Kind::Audit, commands_ms).await? else {
        return Ok(());
    };
    let (mut has_events, mut has_commands) = (false, false);
    loop {
        tokio::select! {
            told = events.next() => match told {
                Some((entries, is_all)) => {
                    has_events |= is_all;
                    past.take(model, entries);
                }
                None => return Ok(()),
            },
            told = commands.next() => match told {
                Some((entries, is_all)) => {
                    has_commands |= is_all;
                    past.take(model, entries);
                }
                None => return Ok(()),
            },
            () = sleep(LOOK) => if !model.is_viewed() {
                return Ok(());
            },
        }
        if has_events && has_commands && !*past.0.is_fresh.borrow() {
            past.0.is_fresh.send_replace(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::events::Severity;

    fn kept(id: &str, at_ms: u64) -> Kept<Happened> {
        let item = Happened { id: id.into(), at_ms, ..Happened::default() };
        Kept { host_id: "N".into(), host_name: "calm".into(), item }
    }

    #[test]
    fn entries_are_kept_once_in_the_order_of_time_and_within_a_bound() {
        let mut list = VecDeque::new();
        for (id, at_ms, is_new) in
            [("b", 20, true), ("a", 10, true), ("b", 20, false), ("c", 20, true), ("d", 15, true)]
        {
            assert_eq!(insert(&mut list, kept(id, at_ms)), is_new, "{id}");
        }
        let ids: Vec<_> = list.iter().map(|kept| &*kept.item.id).collect();
        assert_eq!(ids, ["a", "d", "b", "c"]);
        for n in 0..ENTRIES_MAX as u64 {
            insert(&mut list, kept(&n.to_string(), 100 + n));
        }
        assert_eq!((list.len(), list[0].item.at_ms), (ENTRIES_MAX, 100));
    }

    #[test]
    fn the_last_day_is_in_memory_though_time_passes_until_the_answer() {
        let now_ms = 10 * DAY_MS;
        let asked = now_ms - DAY_MS;
        assert!(is_followed(asked, now_ms) && is_followed(asked, now_ms + 1));
        assert!(is_followed(asked, now_ms + OVERLAP_MS));
        assert!(!is_followed(asked, now_ms + OVERLAP_MS + 1));
        assert!(is_followed(0, DAY_MS), "nothing is before the beginning");
    }

    #[test]
    fn what_a_host_heard_and_what_the_stream_has_are_one_list() {
        let entry = |id: &str, name: &str, at_ms, seq| {
            let text = format!("{name} {seq}");
            let mut entry = Entry::concluded(name, Severity::Info, "N1", "calm", text).at(at_ms);
            (entry.id, entry.seq) = (id.to_owned(), seq);
            entry
        };
        let mut entries = vec![entry("b", "host_started", 20, 0), entry("x", "host_lost", 10, 0)];
        let live = [
            entry("b", "host_started", 21, 7),
            entry("", "host_lost", 12, 6),
            entry("c", "actor_scaled", 30, 8),
            entry("", "host_lost", 90_000, 9),
        ];
        merge(&mut entries, live.into_iter());
        let shown: Vec<_> = entries.iter().map(|e| (&*e.name, e.at_ms, e.seq)).collect();
        assert_eq!(
            shown,
            [
                ("host_lost", 90_000, 9),
                ("actor_scaled", 30, 8),
                ("host_started", 20, 7),
                ("host_lost", 10, 0)
            ]
        );
    }
}

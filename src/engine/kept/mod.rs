//! Keeps what an operator starts on this host by hand, and starts it again when the host comes
//! back.
//!
//! ```text
//! command ─▶ note: another list ─▶ entry (signed, in the bucket) ─▶ answer: kept, or why not
//! start of the host ─▶ entry, verified ─▶ list ─▶ start again, until it works or is stopped
//! ```
//!
//! The list is that of [`desired::kept`](lattice_protocol::desired::kept), in one [`entry`] of the
//! bucket of desired state, which this host alone writes. [`restore`] starts what is in it. A start
//! that fails the first time is not kept: it is taken back when the event of its failure comes.
//!
//! A host whose key ends with the process keeps nothing. Until the entry was read, commands wait
//! for it in order; so a bucket that comes late loses none of them.
//!
//! Invariant: the list changes under one lock together with what is being started again, so a stop
//! by hand always comes after a start from here.

mod entry;
mod restore;

use std::{
    collections::HashMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, broadcast, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    actors::supervisor::{self as actors, Amount},
    host_context::HostContext,
    providers::supervisor as providers,
};
pub use entry::KeptEntry;
use entry::Loaded;
use lattice_base::{
    backoff::Backoff,
    store::desired::{Desired, DesiredError},
};
use lattice_protocol::{
    desired::{
        Authority,
        kept::{Command, Item, Kept, Place, Provider},
    },
    errors::chain,
    events::Event,
};

/// Commands that wait for the entry to be read.
const EARLY_MAX: usize = 256;
/// How long an answer waits for the entry to be written; clients give up after two seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1200);
/// Pauses between attempts to reach the bucket grow from the first to the last of these.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(15);
/// How often it is said that the bucket is not reached, for the same reason.
const REMINDER: Duration = Duration::from_secs(600);
/// How long the entry may take to be read, for those who ask what is kept.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// The parts of the host that this works with.
pub struct Parts<'a> {
    pub context: Arc<HostContext>,
    pub desired: Desired,
    pub authority: Authority,
    pub actors: actors::Handle,
    pub providers: providers::Handle,
    /// The directory of this user's state: the serial numbers that were seen are noted there.
    pub state_dir: &'a Path,
    /// Start empty, and clear the entry.
    pub forget: bool,
}

/// The starts that this host keeps. Cheap to clone.
#[derive(Clone)]
pub struct KeptStarts(Option<Arc<Inner>>);

struct Inner {
    context: Arc<HostContext>,
    actors: actors::Handle,
    providers: providers::Handle,
    /// Where the entry is, for people.
    place: String,
    forget: bool,
    // Held for a few lines, never across an await.
    state: Mutex<State>,
    /// The list changed.
    changed: Notify,
    progress: watch::Sender<Progress>,
    /// Bounds how much is started again at a time.
    starts: Semaphore,
}

#[derive(Default)]
struct State {
    /// The list; `None` until the entry was read.
    kept: Option<Kept>,
    /// The commands that came before that.
    early: Vec<Command>,
    /// Starts that have not worked yet, with what to go back to if they fail.
    trials: HashMap<Place, Option<Item>>,
    /// Ends the attempts to start something again.
    restoring: HashMap<Place, CancellationToken>,
    /// Counts the commands.
    version: u64,
}

/// How far the entry is.
#[derive(Clone, Default)]
struct Progress {
    is_read: bool,
    /// The number of the last command that was to be written, and of the last one that was.
    attempted: u64,
    written: u64,
    /// Why the bucket cannot be used now.
    trouble: Option<String>,
}

/// A command that was noted.
#[must_use]
pub struct Noted {
    kept: KeptStarts,
    command: Command,
    outcome: Outcome,
}

enum Outcome {
    /// This host keeps nothing, or it is managed by somebody else.
    Ignored,
    Refused(String),
    Taken {
        version: u64,
        effect: NotedEffect,
    },
}

/// The difference that a command makes to what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NotedEffect {
    /// The start that it is about is kept.
    Keeps,
    /// The start that it is about was kept.
    Removes,
    None,
}

/// The part of an answer that tells of a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Nothing,
    /// Where it is kept.
    Kept(String),
    /// Why it is not.
    NotKept(String),
}

impl From<&actors::Start> for Command {
    fn from(start: &actors::Start) -> Self {
        let (reference, annotations) = (start.reference.clone(), start.annotations.clone());
        match start.amount {
            Amount::Exactly(max) => Self::ScaleActor { reference, annotations, max },
            Amount::Add(more) | Amount::AtLeast(more) => {
                Self::LaunchActor { reference, annotations, more }
            }
        }
    }
}

impl From<&providers::Start> for Command {
    fn from(start: &providers::Start) -> Self {
        Self::StartProvider(Provider {
            reference: start.reference.clone(),
            id: None,
            link_name: start.link_name.to_string(),
            annotations: start.annotations.clone(),
            configuration: start.configuration.clone(),
        })
    }
}

impl KeptStarts {
    /// Keeps nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// Makes the list, which [`KeptStarts::start`] fills.
    pub fn new(parts: Parts<'_>) -> (Self, KeptEntry) {
        let Parts { context, desired, authority, actors, providers, state_dir, forget } = parts;
        let entry = KeptEntry::new(desired, authority, &context, state_dir);
        let inner = Inner {
            actors,
            providers,
            place: entry.place(),
            forget,
            state: Mutex::default(),
            changed: Notify::new(),
            progress: watch::Sender::default(),
            starts: Semaphore::new(restore::AT_ONCE),
            context,
        };
        let inner = Arc::new(inner);
        let (events, closing) =
            (inner.context.events.follow(), inner.context.lifeline.closing.clone());
        let following = Arc::clone(&inner).follow(events);
        inner.context.tasks.spawn(async move { closing.run_until_cancelled(following).await });
        (Self(Some(inner)), entry)
    }

    /// Reads the entry and starts what is in it, and writes it from then on, until `stop`. Returns
    /// at once.
    pub fn start(&self, entry: KeptEntry, stop: CancellationToken) {
        let Some(inner) = &self.0 else { return };
        let working = Arc::clone(inner).run(entry);
        inner.context.tasks.spawn(async move { stop.run_until_cancelled(working).await });
    }

    /// Notes a command before it is carried out. Never waits.
    pub fn note(&self, command: Command) -> Noted {
        let outcome = match &self.0 {
            Some(inner) if !command.is_managed() => inner.note(&command),
            _ => Outcome::Ignored,
        };
        Noted { kept: self.clone(), command, outcome }
    }

    /// Returns whether something is kept, as soon as that is known; nothing if it is not known soon.
    pub async fn keeps(&self, place: &Place) -> Option<bool> {
        let Some(inner) = &self.0 else { return Some(false) };
        let mut progress = inner.progress.subscribe();
        let known = progress.wait_for(|progress| progress.is_read || progress.trouble.is_some());
        let _ = tokio::time::timeout(READ_TIMEOUT, known).await;
        inner.state.lock().kept.as_ref().map(|kept| kept.get(place).is_some())
    }
}

impl Noted {
    /// Takes a start back that was refused.
    pub fn undo(self) {
        if let (Some(inner), Outcome::Taken { .. }) = (&self.kept.0, &self.outcome) {
            inner.undo(&self.command);
        }
    }

    /// Whether it took something away that was kept.
    pub fn has_removed(&self) -> bool {
        matches!(self.outcome, Outcome::Taken { effect: NotedEffect::Removes, .. })
    }

    /// Waits for the entry to be written, for a moment; returns what to tell.
    pub async fn told(&self) -> Told {
        let (version, effect, inner) = match (&self.outcome, &self.kept.0) {
            (Outcome::Refused(cause), _) => return Told::NotKept(cause.clone()),
            (Outcome::Taken { version, effect }, Some(inner)) => (*version, *effect, inner),
            _ => return Told::Nothing,
        };
        let mut progress = inner.progress.subscribe();
        let attempted = progress.wait_for(|progress| {
            progress.attempted >= version || !progress.is_read && progress.trouble.is_some()
        });
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, attempted).await;
        let Progress { written, trouble, .. } = progress.borrow().clone();
        if effect != NotedEffect::Keeps {
            return Told::Nothing;
        }
        if written >= version {
            return Told::Kept(inner.place.clone());
        }
        let cause = trouble.unwrap_or_else(|| format!("{} does not answer in time", inner.place));
        Told::NotKept(format!("{cause}; this host goes on trying"))
    }
}

impl Inner {
    fn note(self: &Arc<Self>, command: &Command) -> Outcome {
        let mut state = self.state.lock();
        let Some(kept) = &mut state.kept else {
            if state.early.len() >= EARLY_MAX {
                let cause =
                    format!("{} was not read yet, and {EARLY_MAX} commands wait", self.place);
                return Outcome::Refused(cause);
            }
            state.early.push(command.clone());
            state.version += 1;
            let effect = match command.place() {
                Some(_) => NotedEffect::Keeps,
                None => NotedEffect::None,
            };
            return Outcome::Taken { version: state.version, effect };
        };
        let before = kept.clone();
        let places = match kept.apply(command) {
            Ok(places) => places,
            Err(full) => {
                warn!(cause = %full, "a start is not kept");
                return Outcome::Refused(full.to_string());
            }
        };
        let effect = effect_of(command, kept, &places);
        for place in &places {
            self.settle(&mut state, place, command, before.get(place));
        }
        state.version += 1;
        self.changed.notify_one();
        Outcome::Taken { version: state.version, effect }
    }

    /// Follows a change of one place: what is started again, and what may be taken back.
    fn settle(
        self: &Arc<Self>,
        state: &mut State,
        place: &Place,
        command: &Command,
        before: Option<&Item>,
    ) {
        let was_restoring = state.restoring.remove(place).inspect(|over| over.cancel()).is_some();
        let is_there = state.kept.as_ref().is_some_and(|kept| kept.get(place).is_some());
        if !is_there {
            state.trials.remove(place);
        } else if was_restoring {
            self.restore(state, place.clone());
        } else if command.place().as_ref() == Some(place) {
            state.trials.entry(place.clone()).or_insert_with(|| before.cloned());
        }
    }

    /// Takes a start back that was refused.
    fn undo(&self, command: &Command) {
        let mut state = self.state.lock();
        if let Some(at) = state.early.iter().rposition(|early| early == command) {
            state.early.remove(at);
        }
        if let Some(place) = command.place() {
            self.take_back(&mut state, &place);
        }
    }

    /// Goes back to what was kept before a start that did not work.
    fn take_back(&self, state: &mut State, place: &Place) -> bool {
        let Some(before) = state.trials.remove(place) else { return false };
        let Some(kept) = &mut state.kept else { return false };
        // It was there before, so there is room for it.
        let _ = kept.put(place, before);
        state.version += 1;
        self.changed.notify_one();
        true
    }

    /// Hears how starts by hand end.
    async fn follow(self: Arc<Self>, mut events: broadcast::Receiver<Event>) {
        loop {
            match events.recv().await {
                Ok(event) => self.hear(&event),
                // The trial of what was missed stays one; it is kept.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    fn hear(&self, event: &Event) {
        let Some((place, end)) = restore::end_of(event) else { return };
        let mut state = self.state.lock();
        match end {
            restore::End::Runs(key) => {
                state.trials.remove(&place);
                if state.kept.as_mut().is_some_and(|kept| kept.identify(&place, key)) {
                    state.version += 1;
                    self.changed.notify_one();
                }
            }
            restore::End::Failed(cause) => {
                if self.take_back(&mut state, &place) {
                    info!(?place, cause, "a start that failed is not kept");
                }
            }
        }
    }

    /// Reads the entry, starts what is in it, and writes it whenever it changes.
    async fn run(self: Arc<Self>, mut entry: KeptEntry) {
        let loaded = self.load(&mut entry).await;
        // The list that is known to lie in the bucket, and the one that is to lie there.
        let (stored, kept) = match loaded {
            Loaded::Nothing => (Some(Kept::default()), Kept::default()),
            Loaded::Kept(kept) if self.forget => {
                info!(
                    items = kept.items.len(),
                    "what was started on this host before is forgotten"
                );
                (Some(kept), Kept::default())
            }
            Loaded::Kept(kept) => (Some(kept.clone()), kept),
            Loaded::Rejected(_) if self.forget => (None, Kept::default()),
            Loaded::Rejected(cause) => {
                self.tell_rejected(&cause);
                (Some(Kept::default()), Kept::default())
            }
        };
        self.begin(kept);
        self.write(entry, stored).await;
    }

    async fn load(&self, entry: &mut KeptEntry) -> Loaded {
        let mut retry = Retry::new(entry);
        loop {
            match entry.load().await {
                Ok(loaded) => return loaded,
                Err(error) => self.failed(&error, 0, &mut retry),
            }
            retry.pause().await;
        }
    }

    /// Notes why the bucket cannot be used when this command was to be written, and says so unless
    /// it was said lately.
    fn failed(&self, error: &DesiredError, version: u64, retry: &mut Retry) {
        let cause = chain(error);
        if retry.is_news(&cause) {
            warn!(
                error = %cause,
                "what is started on this host by hand is not kept, so it would not be started again; trying again"
            );
        }
        self.progress.send_modify(|progress| {
            progress.attempted = version;
            progress.trouble = Some(cause);
        });
    }

    fn tell_rejected(&self, cause: &str) {
        let text = format!(
            "what {} says was started on this host does not count: {cause}. Nothing of it is started; the next command about \
             this host replaces it",
            self.place
        );
        error!("{text}");
        self.context.events.publish(Event::CommandRefused {
            host_id: self.context.host_id.to_string(),
            command: "kept starts".to_owned(),
            subject: self.place.clone(),
            error: text,
        });
    }

    /// Takes over what was read, with the commands that came before, and starts it.
    fn begin(self: &Arc<Self>, mut kept: Kept) {
        let mut state = self.state.lock();
        for command in std::mem::take(&mut state.early) {
            if let Err(full) = kept.apply(&command) {
                warn!(cause = %full, "a start is not kept");
            }
        }
        let places: Vec<Place> = kept.items.iter().map(Item::place).collect();
        state.kept = Some(kept);
        if !places.is_empty() {
            info!(items = places.len(), place = %self.place, "starting again what was started on this host");
        }
        for place in places {
            self.restore(&mut state, place);
        }
        self.changed.notify_one();
        self.progress.send_modify(|progress| (progress.is_read, progress.trouble) = (true, None));
    }

    async fn write(&self, mut entry: KeptEntry, mut stored: Option<Kept>) {
        loop {
            self.changed.notified().await;
            let mut retry = Retry::new(&entry);
            loop {
                let (version, kept) = {
                    let state = self.state.lock();
                    (state.version, state.kept.clone().unwrap_or_default())
                };
                let written = match stored.as_ref() == Some(&kept) {
                    true => Ok(()),
                    false => entry.save(&kept).await,
                };
                match written {
                    Ok(()) => {
                        stored = Some(kept);
                        self.progress.send_modify(|progress| {
                            (progress.attempted, progress.written) = (version, version);
                            progress.trouble = None;
                        });
                        break;
                    }
                    Err(error) => self.failed(&error, version, &mut retry),
                }
                tokio::select! {
                    () = retry.pause() => {}
                    () = self.changed.notified() => {}
                }
            }
        }
    }
}

/// Returns the effect of a command that changed these places.
fn effect_of(command: &Command, kept: &Kept, places: &[Place]) -> NotedEffect {
    match (command, command.place()) {
        (_, Some(place)) if kept.get(&place).is_some() => NotedEffect::Keeps,
        (_, None) if places.is_empty() => NotedEffect::None,
        (Command::UpdateActor { .. }, None) => NotedEffect::Keeps,
        (_, None) => NotedEffect::Removes,
        (_, Some(_)) => NotedEffect::None,
    }
}

/// The attempts to reach the bucket.
struct Retry {
    backoff: Backoff,
    reconnects: watch::Receiver<u64>,
    /// The text that was said last, and when.
    said: Option<(String, Instant)>,
}

impl Retry {
    fn new(entry: &KeptEntry) -> Self {
        let backoff = Backoff::new(RETRY_FIRST, RETRY_LAST);
        Self { backoff, reconnects: entry.reconnects(), said: None }
    }

    fn is_news(&mut self, cause: &str) -> bool {
        let is_old =
            self.said.as_ref().is_some_and(|(said, at)| said == cause && at.elapsed() < REMINDER);
        if !is_old {
            self.said = Some((cause.to_owned(), Instant::now()));
        }
        !is_old
    }

    /// Waits before the next attempt. A server that comes back ends the pause.
    async fn pause(&mut self) {
        let pause = self.backoff.next_pause();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Ok(()) = self.reconnects.changed() => {}
        }
    }
}

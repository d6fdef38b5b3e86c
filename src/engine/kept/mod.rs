//! Keeps what an operator starts on this host by hand, and starts it again when the host comes
//! back.
//!
//! ```text
//! command ─▶ log, and at once the supervisor ─▶ entry (signed, in the bucket) ─▶ answer: kept, or not
//!             ▲                        │
//!             └── how it has ended ◀───┘
//! start of the host ─▶ entry, verified ─▶ log ─▶ start again, until it works or is stopped
//! ```
//!
//! The list is that of [`desired::kept`](lattice_protocol::desired::kept), in one [`entry`] of the
//! bucket of desired state, which this host alone writes. `keeping` reads and writes it,
//! [`restore`] starts what is in it, `noted` has the answers. A start is kept when it is given, and
//! not any more when that very start has failed.
//!
//! A host whose key ends with the process keeps nothing. Commands that come before the entry was
//! read are carried out on the list as soon as it is: a stop of what did not run yet counts, and so
//! does a start.
//!
//! Invariant: a command is noted under one lock together with its way to the supervisor, so the
//! order of the list is that in which they are carried out, starts from here included.

mod entry;
mod keeping;
mod noted;
mod restore;

use std::{collections::HashSet, path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    actors::supervisor::{self as actors, ActorError, Amount, Changed},
    host_context::HostContext,
    providers::{
        builtin,
        supervisor::{self as providers, ProviderError},
    },
};
pub use entry::KeptEntry;
use lattice_protocol::{
    desired::kept::{Command, CommandLog, Ended, Item, Place, Provider},
    links::Table,
};
use noted::{About, Note};
pub use noted::{Noted, Told};

/// How long the end of a stop waits for the entry to be read, before its answer waits for it to be
/// written.
const STOP_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the entry may take to be read, for those who ask what is kept.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// The parts of the host that this works with.
pub struct Parts<'a> {
    pub context: Arc<HostContext>,
    pub actors: actors::Handle,
    pub providers: providers::Handle,
    /// The directory of this user's state: the serial numbers that were seen are noted there.
    pub state_dir: &'a Path,
    /// Start empty, and clear the entry.
    pub forget: bool,
}

/// Gives the commands of operators to the supervisors, and keeps what they start. Cheap to clone.
#[derive(Clone)]
pub struct KeptStarts {
    actors: actors::Handle,
    providers: providers::Handle,
    /// `None` if nothing is kept.
    inner: Option<Arc<Inner>>,
}

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
    log: CommandLog,
    /// The things that were read and do not run yet.
    restoring: HashSet<Place>,
    /// Counts the changes of the list.
    version: u64,
}

/// How far the entry is.
#[derive(Clone, Default)]
struct Progress {
    /// The entry was read.
    is_read: bool,
    /// The version that was to be written last, and the last one that was.
    attempted: u64,
    written: u64,
    /// Why the bucket cannot be used now.
    trouble: Option<String>,
}

impl KeptStarts {
    /// Keeps nothing.
    pub fn off(actors: actors::Handle, providers: providers::Handle) -> Self {
        Self { actors, providers, inner: None }
    }

    /// Makes the list, which [`KeptStarts::start`] fills.
    pub fn new(parts: Parts<'_>) -> (Self, KeptEntry) {
        let Parts { context, actors, providers, state_dir, forget } = parts;
        let entry = KeptEntry::new(Arc::clone(&context), state_dir);
        let inner = Inner {
            actors: actors.clone(),
            providers: providers.clone(),
            place: entry.place(),
            forget,
            state: Mutex::default(),
            changed: Notify::new(),
            progress: watch::Sender::default(),
            starts: Semaphore::new(restore::AT_ONCE),
            context,
        };
        (Self { actors, providers, inner: Some(Arc::new(inner)) }, entry)
    }

    /// Reads the entry and starts what is in it, and writes it from then on, until `stop`. Returns
    /// at once.
    pub fn start(&self, entry: KeptEntry, stop: CancellationToken) {
        let Some(inner) = &self.inner else { return };
        let working = Arc::clone(inner).run(entry);
        inner.context.tasks.spawn(async move { stop.run_until_cancelled(working).await });
    }

    /// Starts an actor. Never waits.
    pub fn start_actor(&self, start: actors::Start) -> Result<Noted, ActorError> {
        let command = Command::StartActor {
            reference: start.reference.clone(),
            annotations: start.annotations.clone(),
            amount: start.amount,
        };
        match self.noting(&command) {
            Some(inner) => inner.start_actor(start, command),
            None => self.actors.start(start).map(|_| Noted(None)),
        }
    }

    /// Stops an actor, at once in the order of commands; the answer comes when it has ended.
    pub fn stop_actor(
        &self,
        stop: actors::Stop,
    ) -> impl Future<Output = Result<Noted, ActorError>> + Send + use<> {
        let (actor, annotations) = (stop.actor.clone(), stop.annotations.clone());
        let command = Command::StopActor { actor, annotations, count: stop.count };
        let noting = self.noting(&command).cloned();
        let ended = match noting {
            Some(inner) => Ok(inner.stop_actor(stop, command)),
            None => Err(self.actors.stop(stop)),
        };
        async move {
            match ended {
                Ok(ended) => ended.await.unwrap_or(Err(ActorError::Unavailable)),
                Err(stopped) => {
                    let outcome = stopped.await.unwrap_or(Err(ActorError::Unavailable));
                    outcome.map(|_| Noted(None))
                }
            }
        }
    }

    /// Starts a provider, at once in the order of commands; the answer says whether the command was
    /// taken.
    pub fn start_provider(
        &self,
        start: providers::Start,
    ) -> impl Future<Output = Result<Noted, ProviderError>> + Send + use<> {
        let command = Command::StartProvider(Provider {
            reference: start.reference.clone(),
            id: None,
            link_name: start.link_name.to_string(),
            annotations: start.annotations.clone(),
            configuration: start.configuration.clone(),
        });
        let (accepted, noted) = match self.noting(&command) {
            Some(inner) => inner.start_provider(start, command),
            None => (self.providers.start(start), Noted(None)),
        };
        async move {
            accepted.await.unwrap_or(Err(ProviderError::Unavailable))?;
            Ok(noted)
        }
    }

    /// Stops a provider, at once in the order of commands.
    pub fn stop_provider(
        &self,
        stop: providers::Stop,
    ) -> impl Future<Output = Result<Noted, ProviderError>> + Send + use<> {
        let command = Command::StopProvider {
            provider: stop.provider.clone(),
            link_name: stop.link_name.to_string(),
            annotations: stop.annotations.clone(),
        };
        let noting = self.noting(&command).cloned();
        let ended = match noting {
            Some(inner) => Ok(inner.stop_provider(stop, command)),
            None => Err(self.providers.stop(stop)),
        };
        async move {
            match ended {
                Ok(ended) => ended.await.unwrap_or(Err(ProviderError::Unavailable)),
                Err(stopped) => {
                    let outcome = stopped.await.unwrap_or(Err(ProviderError::Unavailable));
                    outcome.map(|()| Noted(None))
                }
            }
        }
    }

    /// Notes that an actor runs another module from now on.
    pub fn updated(&self, changed: Changed) -> Noted {
        let Changed { id, reference, .. } = changed;
        let command = Command::UpdateActor { actor: id.to_string(), reference };
        let Some(inner) = self.noting(&command) else { return Noted(None) };
        let mut note = inner.note(&mut inner.state.lock(), command);
        inner.end(&mut note, worked(None));
        Noted(Some((Arc::clone(inner), note)))
    }

    /// Returns whether something is kept, as soon as that is known; nothing if it is not known
    /// soon.
    pub async fn keeps(&self, place: &Place) -> Option<bool> {
        let Some(inner) = &self.inner else { return Some(false) };
        inner.wait_until_read(READ_TIMEOUT).await;
        let state = inner.state.lock();
        state.log.is_read().then(|| state.log.current().get(place).is_some())
    }

    /// Returns what notes a command; none if nothing is kept, or somebody else starts it again.
    fn noting(&self, command: &Command) -> Option<&Arc<Inner>> {
        self.inner.as_ref().filter(|_| !command.is_managed())
    }
}

impl Inner {
    /// Notes a command that goes to a supervisor under the same lock.
    fn note(&self, state: &mut State, command: Command) -> Note {
        let about = About::of(&command);
        match state.log.note(command) {
            Ok(noted) => {
                // Whether it is news is not known before the entry was read.
                let may_be_news = noted.is_news || !state.log.is_read();
                if may_be_news {
                    self.list_changed(state);
                }
                // A command about nothing that is kept need not wait for anything to be written.
                let is_start = matches!(about, About::Start(_));
                let (version, about) = match may_be_news || is_start {
                    true => (state.version, about),
                    false => (0, About::Stop),
                };
                Note::Taken { number: noted.number, version, about }
            }
            Err(refused) => {
                warn!(cause = %refused, "a command is not kept");
                Note::Refused(refused.to_string())
            }
        }
    }

    fn list_changed(&self, state: &mut State) {
        state.version += 1;
        self.changed.notify_one();
    }

    /// Takes in how a command has ended; an answer that comes after it waits for that to be
    /// written.
    fn end(&self, note: &mut Note, ended: Ended) {
        let Note::Taken { number, version, .. } = note else { return };
        let mut state = self.state.lock();
        if state.log.end(*number, ended) {
            self.list_changed(&mut state);
            *version = state.version;
        }
    }

    fn start_actor(
        self: &Arc<Self>,
        mut start: actors::Start,
        command: Command,
    ) -> Result<Noted, ActorError> {
        let Some(place) = command.place() else { return Err(ActorError::Unavailable) };
        let mut state = self.state.lock();
        let mut note = self.note(&mut state, command);
        let is_settled = state.log.is_read() && !state.restoring.contains(&place);
        // More of what does not run again yet: all of it together, for both may be on their way.
        if state.restoring.contains(&place)
            && let Some(Item::Actor(actor)) = state.log.current().get(&place)
        {
            start.amount = Amount::Exactly(actor.max);
        }
        let started = self.actors.start(start);
        drop(state);
        let outcome = match started {
            Ok(outcome) => outcome,
            Err(error) => {
                self.end(&mut note, Ended::Failed);
                return Err(error);
            }
        };
        let (inner, mut noted) = (Arc::clone(self), note.clone());
        self.context.tasks.spawn(async move {
            let ended = match outcome.await {
                Ok(outcome) => end_of_start(outcome, &place, is_settled),
                // The host has stopped, or the task has panicked: the start counts.
                Err(_) => worked(None),
            };
            inner.end(&mut noted, ended);
        });
        Ok(Noted(Some((Arc::clone(self), note))))
    }

    fn stop_actor(
        self: &Arc<Self>,
        stop: actors::Stop,
        command: Command,
    ) -> tokio::task::JoinHandle<Result<Noted, ActorError>> {
        let mut state = self.state.lock();
        let note = self.note_stop(&mut state, command);
        let is_settled = state.log.is_read() && state.restoring.is_empty();
        let stopped = self.actors.stop(stop);
        drop(state);
        let inner = Arc::clone(self);
        self.context.tasks.spawn(async move {
            let outcome = stopped.await.unwrap_or(Err(ActorError::Unavailable));
            let is_absent = matches!(
                outcome,
                Err(ActorError::NotRunning(_) | ActorError::NoSuchAnnotations { .. })
            );
            let outcome = outcome.map(|Changed { reference, groups, .. }| {
                is_settled.then_some(Command::LeftOfActor { reference, left: groups })
            });
            inner.end_stop(note, outcome, is_absent).await
        })
    }

    fn start_provider(
        self: &Arc<Self>,
        start: providers::Start,
        command: Command,
    ) -> (oneshot::Receiver<Result<(), ProviderError>>, Noted) {
        let mut state = self.state.lock();
        let note = self.note(&mut state, command);
        let (accepted, ended) = self.providers.start_and_follow(start);
        drop(state);
        let (tell, answer) = oneshot::channel();
        let (inner, mut noted) = (Arc::clone(self), note.clone());
        self.context.tasks.spawn(async move {
            let accepted = accepted.await.unwrap_or(Err(ProviderError::Unavailable));
            let is_refused = accepted.is_err();
            if is_refused {
                inner.end(&mut noted, Ended::Failed);
            }
            let _ = tell.send(accepted);
            if is_refused {
                return;
            }
            let ended = match ended.await {
                Ok(Ok(id)) => Ended::Worked { exactly: None, key: Some(id.to_string()) },
                Ok(Err(error)) => {
                    info!(%error, "a start that failed is not kept");
                    Ended::Failed
                }
                // The host has stopped, or the task has panicked: the start counts.
                Err(_) => worked(None),
            };
            inner.end(&mut noted, ended);
        });
        (answer, Noted(Some((Arc::clone(self), note))))
    }

    fn stop_provider(
        self: &Arc<Self>,
        stop: providers::Stop,
        command: Command,
    ) -> tokio::task::JoinHandle<Result<Noted, ProviderError>> {
        let mut state = self.state.lock();
        let note = self.note_stop(&mut state, command);
        let stopped = self.providers.stop(stop);
        drop(state);
        let inner = Arc::clone(self);
        self.context.tasks.spawn(async move {
            let outcome = stopped.await.unwrap_or(Err(ProviderError::Unavailable));
            let is_absent = matches!(
                outcome,
                Err(ProviderError::NotRunning { .. } | ProviderError::NoSuchAnnotations { .. })
            );
            inner.end_stop(note, outcome.map(|()| None), is_absent).await
        })
    }

    /// Notes a stop. It may be by the key of what has not run since this host came back.
    fn note_stop(&self, state: &mut State, command: Command) -> Note {
        let table = self.context.links.table();
        state.log.learn(|reference| key_of(&table, reference));
        self.note(state, command)
    }

    /// Takes in how a stop has ended. One of what does not run counts if that was about to be
    /// started again; as long as that is not known it is taken, and carried out when it is.
    async fn end_stop<E>(
        self: Arc<Self>,
        mut note: Note,
        outcome: Result<Option<Command>, E>,
        is_absent: bool,
    ) -> Result<Noted, E> {
        let exactly = match outcome {
            Ok(exactly) => exactly,
            Err(error) => {
                if !is_absent || !self.is_about_kept(&note).await {
                    self.end(&mut note, Ended::Failed);
                    return Err(error);
                }
                None
            }
        };
        self.end(&mut note, worked(exactly));
        Ok(Noted(Some((self, note))))
    }

    /// Whether a stop takes something from the list, or may do so when that is read.
    async fn is_about_kept(&self, note: &Note) -> bool {
        let Note::Taken { number, .. } = note else { return false };
        self.wait_until_read(STOP_TIMEOUT).await;
        self.state.lock().log.is_news(*number) != Some(false)
    }

    /// Waits until the entry was read or cannot be, for so long.
    async fn wait_until_read(&self, timeout: Duration) {
        let mut progress = self.progress.subscribe();
        let known = progress.wait_for(|progress| progress.is_read || progress.trouble.is_some());
        let _ = tokio::time::timeout(timeout, known).await;
    }
}

/// Returns the public key that a reference is known to lead to.
fn key_of(table: &Table, reference: &str) -> Option<String> {
    match builtin::find(reference) {
        Some(found) => found.ok().map(|spec| spec.known.public_key.to_owned()),
        None => table.public_key_of(reference).map(ToString::to_string),
    }
}

fn worked(exactly: Option<Command>) -> Ended {
    Ended::Worked { exactly, key: None }
}

/// Returns the end of the start of an actor. Where nothing else starts it, the host says how many
/// there are after it: there may have been others that nobody keeps.
fn end_of_start(outcome: actors::Outcome, place: &Place, is_settled: bool) -> Ended {
    let Changed { id, groups, .. } = match outcome {
        Ok(changed) => changed,
        Err(error) => {
            info!(%error, "a start that failed is not kept");
            return Ended::Failed;
        }
    };
    let Place::Actor { reference, annotations } = place else { return worked(None) };
    let now = groups.into_iter().find(|(of, _)| of == annotations).filter(|_| is_settled);
    let exactly = now.map(|(annotations, count)| Command::StartActor {
        reference: reference.clone(),
        annotations,
        amount: Amount::Exactly(count),
    });
    Ended::Worked { exactly, key: Some(id.to_string()) }
}

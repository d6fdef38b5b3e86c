//! Owns the set of providers that run on this host, and is the only part that changes it.
//!
//! Commands arrive in order through one inbox. Slow work (fetching, unpacking, launching, stopping)
//! runs as a child task that reports back. Every change follows the same steps: state first, then
//! the snapshot for readers, then events; so an event never announces what an inventory does not
//! show.
//!
//! A provider whose process ends by itself leaves the inventory at once and is started again after
//! a pause that grows. After several such ends in a row it is given up. Asking for a start in a
//! pause ends the pause. One that ends with exit code 0 has done its work, or was asked to end by
//! somebody else, and stays ended. [`plan`](super::plan) decides all this, one provider at a time.
//!
//! `command` has what can be asked, `starts` has the starts whose provider is not known yet,
//! `prepare` makes a reference startable, `entry` is one provider, `run` begins and follows one run
//! of either kind; this file is the loop and the set of providers, and carries out what the plan
//! wants.

mod command;
mod entry;
mod prepare;
mod run;
mod starts;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::anyhow;
use futures::FutureExt;
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
    time::Instant,
};
use tracing::{Instrument, error, info, info_span, warn};
use uuid::Uuid;

use super::{
    bounds::Bounds,
    external::{Launcher, health::Health},
    plan::{Effect, Facts, Input, RunEnd, STOPPED},
    told_to_stop,
};
use crate::{
    events::troubles::GivenUp,
    host_context::HostContext,
    policy::Verified,
    router::{Locals, Router},
    rpc::server::Receiver,
};
use command::Command;
use entry::{Entry, Key};
use lattice_base::registry::Registry;
use lattice_protocol::{
    clock,
    errors::chain,
    events::{Event, event::ProviderContext},
    identity::keys::{LinkName, ProviderId},
    journal::Level,
};
use prepare::PreparedProvider;
use run::{Launched, begin, follow};
use starts::Preparing;

pub use super::plan::Phase;
pub use command::{
    Condition, Ended, Handle, NotStarted, ProviderError, ProviderView, Start, Stop, Which,
};

/// Commands waiting for the supervisor.
const INBOX: usize = 256;
/// Providers that are fetched and unpacked at a time.
const PREPARES_MAX: usize = 4;
/// How long a stop may take that nobody set a deadline for.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often to look whether the claims of providers still count.
const TERM_CHECK: Duration = Duration::from_secs(5);
/// The time that runs get beyond their deadline, in which they kill what did not end.
const CUT_OFF: Duration = Duration::from_secs(3);
/// Why a provider was not started that was stopped before.
const STOPPED_EARLY: &str = "it was stopped before it had started";
/// The text for a bug; the place of the panic is in the log.
const PANICKED: &str = "the host's task for it panicked, which is a bug";

/// Everything the supervisor works with.
pub struct Parts {
    pub context: Arc<HostContext>,
    pub registry: Registry,
    pub router: Router,
    pub receiver: Receiver,
    /// Start providers that are programs of their own.
    pub allow_external: bool,
    /// How long each step of a stop may take.
    pub stop_delay: Duration,
    /// Limits that no link of a built-in provider can lift.
    pub bounds: Bounds,
    /// Where executables are unpacked, in a directory of their own.
    pub cache_dir: PathBuf,
    /// Where built-in providers keep data.
    pub data_dir: PathBuf,
    pub launcher: Launcher,
}

/// Starts the supervisor; it ends after [`Handle::stop_all`] of all.
pub fn spawn(parts: Parts) -> Handle {
    let context = Arc::clone(&parts.context);
    let (commands, inbox) = mpsc::channel(INBOX);
    let (published, view) = watch::channel(Arc::default());
    let (told, conditions) = watch::channel(Arc::default());
    let supervisor = Supervisor {
        parts: Arc::new(parts),
        prepares: Arc::new(Semaphore::new(PREPARES_MAX)),
        preparing: HashMap::new(),
        entries: BTreeMap::new(),
        children: JoinSet::new(),
        published,
        told,
        waiting: Vec::new(),
        closing: false,
    };
    let running = supervisor.run(inbox).instrument(info_span!("providers"));
    context.tasks.spawn(context.lifeline.essential("provider supervisor", running));
    Handle { commands, view, conditions }
}

struct Supervisor {
    parts: Arc<Parts>,
    /// Bounds how many providers are fetched and unpacked at a time.
    prepares: Arc<Semaphore>,
    /// Starts whose provider is not known yet, by a number of their own.
    preparing: HashMap<Uuid, Preparing>,
    entries: BTreeMap<Key, Entry>,
    children: JoinSet<Done>,
    published: watch::Sender<Arc<Vec<ProviderView>>>,
    told: watch::Sender<Arc<Vec<Condition>>>,
    /// The callers that wait for providers to have stopped, each with these providers.
    waiting: Vec<(BTreeSet<Key>, oneshot::Sender<()>)>,
    /// Nothing is started any more.
    closing: bool,
}

/// The report of a child task.
enum Done {
    Prepared { number: Uuid, result: anyhow::Result<Arc<PreparedProvider>> },
    Launched { key: Key, instance: Uuid, result: anyhow::Result<Launched> },
    Ended { key: Key, instance: Uuid, how: RunEnd },
    PauseOver { key: Key, instance: Uuid },
}

impl Supervisor {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let mut last_deadline = None;
        let mut term_check = tokio::time::interval(TERM_CHECK);
        term_check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if let Some(deadline) = last_deadline
                && self.entries.is_empty()
            {
                tracing::debug!(?deadline, "all providers have stopped");
                return;
            }
            let cut_off = async {
                match last_deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline + CUT_OFF).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(done) = self.children.join_next(), if !self.children.is_empty() => self.reap(done),
                command = inbox.recv() => match command {
                    Some(Command::StopAll { which, deadline, done }) => {
                        self.stop_all(which, deadline, done);
                        if which == Which::All {
                            last_deadline = Some(deadline);
                        }
                    }
                    Some(Command::Start(start, reply, end)) => {
                        let _ = reply.send(self.begin(start, end));
                    }
                    Some(Command::Stop(stop, reply)) => {
                        let _ = reply.send(self.stop(&stop));
                    }
                    None => return,
                },
                _ = term_check.tick() => self.look_at_terms(),
                () = cut_off => {
                    warn!("some providers did not stop in time and are cut off");
                    return self.cut_off();
                }
            }
        }
    }

    fn reap(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Prepared { number, result }) => self.prepared(number, result),
            Ok(Done::Launched { key, instance, result }) => self.launched(key, instance, result),
            Ok(Done::Ended { key, instance, how }) => {
                self.advance_run(&key, instance, Input::Ended(how))
            }
            Ok(Done::PauseOver { key, instance }) => {
                self.advance_run(&key, instance, Input::PauseOver)
            }
            // A preparation that was called off.
            Err(ended) if ended.is_cancelled() => {}
            // Panics of the work inside are caught there.
            Err(failure) => error!(error = %failure, "a task of the provider supervisor panicked"),
        }
    }

    /// Begins a run of a known provider.
    fn launch(&mut self, key: &Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.instance = Uuid::new_v4();
        entry.stop = watch::Sender::new(None);
        entry.health.send_replace(Health::Unknown);
        let (key, instance) = (key.clone(), entry.instance);
        let (parts, prepared, start) =
            (Arc::clone(&self.parts), Arc::clone(&entry.prepared), entry.start.clone());
        let mut stop = entry.stop.subscribe();
        let span = info_span!("provider", provider_id = %key.id, link_name = %key.link_name);
        self.children.spawn(
            async move {
                let result = tokio::select! {
                    result = caught(begin(&parts, &prepared, &start, instance)) => result,
                    _ = told_to_stop(&mut stop) => Err(anyhow!(STOPPED_EARLY)),
                };
                Done::Launched { key, instance, result }
            }
            .instrument(span),
        );
        self.tell_conditions();
    }

    fn launched(&mut self, key: Key, instance: Uuid, result: anyhow::Result<Launched>) {
        // A launch that nobody waits for any more ends with what it made.
        let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.instance == instance)
        else {
            return;
        };
        match result {
            Ok(launched) => {
                if let Launched::Builtin(launched) = &launched {
                    entry.local = Some(launched.local.clone());
                }
                self.advance(&key, Input::Launched);
                self.follow_run(key, launched);
            }
            Err(error) => self.advance(&key, Input::LaunchFailed(chain(&*error))),
        }
    }

    /// Has a run followed to its end.
    fn follow_run(&mut self, key: Key, launched: Launched) {
        let Some(entry) = self.entries.get(&key) else { return };
        let about = entry.about(&key, &self.parts.context.host_id);
        let (instance, stop, health) =
            (entry.instance, entry.stop.subscribe(), entry.health.clone());
        let span = info_span!("provider", provider_id = %key.id, link_name = %key.link_name);
        let parts = Arc::clone(&self.parts);
        let ended = async move {
            let run = AssertUnwindSafe(follow(&parts, &key, launched, (about, health), stop))
                .catch_unwind();
            let how = run.await.unwrap_or_else(|_| RunEnd::Failed(PANICKED.into()));
            Done::Ended { key, instance, how }
        };
        self.children.spawn(ended.instrument(span));
    }

    /// Advances a provider unless the input is about an earlier run of it.
    fn advance_run(&mut self, key: &Key, instance: Uuid, input: Input) {
        if self.entries.get(key).is_some_and(|entry| entry.instance == instance) {
            self.advance(key, input);
        }
    }

    /// Tells the lifecycle of a provider what happened, and carries out what it wants.
    fn advance(&mut self, key: &Key, input: Input) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let facts = Facts {
            now: Instant::now(),
            is_closing: self.closing,
            is_ingress: entry.prepared.is_ingress(),
            not_in_force: entry.prepared.in_force().err().map(|error| error.to_string()),
        };
        let effects = entry.life.on(input, &facts);
        // Made before the first effect: events tell of a provider that is removed already.
        let about = entry.about(key, &self.parts.context.host_id);
        // A host that stops cuts starts off: then it is not the start that failed.
        let end = effects.iter().find_map(|effect| end_of(effect, &key.id));
        let end = end.filter(|end| end.is_ok() || !self.closing);
        let end = end.and_then(|end| Some((entry.end.take()?, end)));
        for effect in effects {
            self.carry_out(key, &about, effect);
        }
        if let Some((sender, end)) = end {
            let _ = sender.send(end);
        }
    }

    fn carry_out(&mut self, key: &Key, about: &ProviderContext, effect: Effect) {
        let (provider_id, link_name) = (&key.id, &key.link_name);
        let entry = self.entries.get_mut(key);
        match effect {
            Effect::Remove => drop(self.entries.remove(key)),
            Effect::Publish => self.publish_state(),
            Effect::Withdraw => {
                if let Some(entry) = entry {
                    entry.local = None;
                }
            }
            Effect::Launch => self.launch(key),
            Effect::EndRun(deadline) => {
                if let Some(entry) = entry {
                    entry.stop.send_replace(Some(deadline));
                }
            }
            Effect::Pause(pause) => self.begin_pause(key, pause),
            Effect::TellStarted => self.tell_started(key, about),
            Effect::TellCrashed(reason) => {
                warn!(%provider_id, %link_name, reason, "provider ended by itself");
                self.log(key, Level::Error, &format!("the provider ended by itself: {reason}"));
                self.tell_stopped(about, reason);
            }
            Effect::TellEnded(reason) => {
                info!(%provider_id, %link_name, reason, "provider stopped");
                self.log(key, Level::Info, &format!("the provider stopped: {reason}"));
                self.tell_stopped(about, reason);
            }
            Effect::TellStopped => self.tell_stopped(about, STOPPED.into()),
            Effect::TellNotStarted(text) => self.start_failed(&about.image_ref, link_name, &text),
            Effect::TellGivenUp(text) => {
                self.log(key, Level::Error, &text);
                self.start_failed(&about.image_ref, link_name, &text);
                self.tell_given_up(about);
            }
            Effect::Release => self.gone(key),
        }
    }

    /// Adds its name to the failure that is told of it: it ran, so people know it.
    fn tell_given_up(&self, about: &ProviderContext) {
        let HostContext { links, events, .. } = &*self.parts.context;
        let name = links.table().claims(&about.public_key).map(|claims| claims.name.clone());
        let given_up = GivenUp { id: about.public_key.clone(), name: name.unwrap_or_default() };
        events.troubles().give_up(&about.image_ref, &about.link_name, given_up);
    }

    /// Has a provider launched again after a pause.
    fn begin_pause(&mut self, key: &Key, pause: Duration) {
        let Some(entry) = self.entries.get(key) else { return };
        let (key, instance) = (key.clone(), entry.instance);
        self.tell_conditions();
        info!(provider_id = %key.id, pause_ms = clock::millis(pause), "provider is started again after a pause");
        self.children.spawn(async move {
            tokio::time::sleep(pause).await;
            Done::PauseOver { key, instance }
        });
    }

    fn tell_started(&self, key: &Key, about: &ProviderContext) {
        let Some(entry) = self.entries.get(key) else { return };
        let claims = &entry.prepared.claims;
        info!(provider_id = %key.id, link_name = %key.link_name, contract_id = %claims.contract_id, "provider started");
        self.log(key, Level::Info, "the provider started");
        self.parts
            .context
            .events
            .publish(Event::ProviderStarted { provider: about.clone(), claims: claims.into() });
    }

    fn tell_stopped(&self, about: &ProviderContext, reason: String) {
        self.parts
            .context
            .events
            .publish(Event::ProviderStopped { provider: about.clone(), reason });
    }

    /// Refuses calls of and to providers whose claims do not count any more, and tells of each
    /// once.
    fn look_at_terms(&mut self) {
        let mut out_of_term = HashMap::new();
        for (key, entry) in &mut self.entries {
            let refused = entry.prepared.in_force().err();
            let is_news = refused.is_some() && !entry.is_out_of_term;
            entry.is_out_of_term = refused.is_some();
            let Some(error) = refused else { continue };
            out_of_term.insert(Arc::from(key.id.as_str()), error.clone());
            if !is_news {
                continue;
            }
            let claims = &entry.prepared.claims;
            warn!(provider_id = %key.id, link_name = %key.link_name, expires = %claims.expires_human(), %error,
                "calls of and to a provider are refused");
            let text = format!("calls of and to the provider are refused on this host: {error}");
            self.parts
                .context
                .journal
                .writer(key.id.as_str(), key.link_name.as_str())
                .write(Level::Warn, &text);
            self.parts.context.events.publish(Event::ClaimsNotInForce {
                public_key: key.id.to_string(),
                image_ref: entry.start.reference.clone(),
                host_id: self.parts.context.host_id.to_string(),
                not_before_human: claims.not_before_human(),
                expires_human: claims.expires_human(),
                error: error.to_string(),
            });
        }
        self.parts.router.set_out_of_term(out_of_term);
    }

    fn stop(&mut self, stop: &Stop) -> Result<(), ProviderError> {
        let was_preparing = self.call_off(stop);
        let found: Vec<Key> = self
            .entries
            .iter()
            .filter(|(key, entry)| entry.is_of(key, &stop.provider))
            .map(|(key, _)| key.clone())
            .collect();
        let Some(key) = found.iter().find(|key| key.link_name == stop.link_name) else {
            if was_preparing {
                return Ok(());
            }
            return Err(ProviderError::NotRunning {
                provider: stop.provider.clone(),
                link_name: stop.link_name.to_string(),
                others: found.iter().map(|key| key.link_name.to_string()).collect(),
            });
        };
        if !self.entries.get(key).is_some_and(|entry| stop.selects(&entry.start)) {
            return Err(ProviderError::NoSuchAnnotations {
                provider: stop.provider.clone(),
                annotations: stop.annotations.clone(),
            });
        }
        self.advance(key, Input::Stop(Instant::now() + STOP_TIMEOUT));
        Ok(())
    }

    /// The end of everything that did not end: state first, then the events nobody else can send
    /// any more.
    fn cut_off(mut self) {
        self.children.abort_all();
        let cut_off = std::mem::take(&mut self.entries);
        self.publish_state();
        for (key, entry) in &cut_off {
            if entry.life.is_shown() {
                self.tell_stopped(
                    &entry.about(key, &self.parts.context.host_id),
                    "killed at the deadline".into(),
                );
            }
        }
    }

    fn stop_all(&mut self, which: Which, deadline: Instant, done: oneshot::Sender<()>) {
        self.closing = true;
        let meant: BTreeSet<Key> = self
            .entries
            .iter()
            .filter(|(_, entry)| which == Which::All || entry.prepared.is_ingress())
            .map(|(key, _)| key.clone())
            .collect();
        self.call_off_all();
        self.waiting.push((meant.clone(), done));
        for key in &meant {
            self.advance(key, Input::Stop(deadline));
        }
        self.tell_waiting();
    }

    /// Notes that a provider is no more.
    fn gone(&mut self, key: &Key) {
        self.tell_conditions();
        for (keys, _) in &mut self.waiting {
            keys.remove(key);
        }
        self.tell_waiting();
    }

    fn tell_waiting(&mut self) {
        for (keys, done) in std::mem::take(&mut self.waiting) {
            if keys.is_empty() {
                let _ = done.send(());
            } else {
                self.waiting.push((keys, done));
            }
        }
    }

    /// Shows how every provider is.
    fn tell_conditions(&self) {
        let conditions = self.entries.iter().map(|(key, entry)| entry.condition(key));
        self.told.send_replace(Arc::new(conditions.collect()));
    }

    fn publish_state(&self) {
        self.tell_conditions();
        let shown = self.entries.iter().filter(|(_, entry)| entry.life.is_shown());
        let view = shown.map(|(key, entry)| entry.view(key));
        let view = view.collect();
        let mut locals: HashMap<Arc<str>, Locals> = HashMap::new();
        for (key, entry) in &self.entries {
            if let Some(local) = &entry.local {
                let by_link = locals.entry(key.id.as_str().into()).or_default();
                by_link.insert(key.link_name.as_str().into(), Arc::clone(local));
            }
        }
        self.parts.router.set_providers(locals);
        let claims = self.entries.iter().filter(|(_, entry)| entry.life.phase == Phase::Running);
        let claims = claims.map(|(key, entry)| {
            (Arc::clone(key.id.as_arc()), Verified::of_provider(&entry.prepared.claims))
        });
        self.parts.router.set_provider_claims(claims.collect());
        self.published.send_replace(Arc::new(view));
    }

    /// Says something about a provider where its own lines are.
    fn log(&self, key: &Key, level: Level, text: &str) {
        self.parts
            .context
            .journal
            .writer(key.id.as_str(), key.link_name.as_str())
            .write(level, text);
    }

    fn start_failed(&self, reference: &str, link_name: &LinkName, text: &str) {
        warn!(%reference, %link_name, error = text, "provider not started");
        self.parts.context.events.publish(Event::ProviderStartFailed {
            provider_ref: reference.to_owned(),
            link_name: link_name.to_string(),
            error: text.to_owned(),
        });
    }
}

/// Says whether a start has ended with an effect, and how.
fn end_of(effect: &Effect, id: &ProviderId) -> Option<Result<ProviderId, NotStarted>> {
    match effect {
        Effect::TellStarted => Some(Ok(id.clone())),
        Effect::TellNotStarted(cause) => {
            Some(Err(NotStarted { id: Some(id.clone()), cause: cause.clone() }))
        }
        _ => None,
    }
}

/// Turns a panic, which is a bug, into an error like others: an entry must not wait for ever for
/// its task.
async fn caught<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| Err(anyhow!(PANICKED)))
}

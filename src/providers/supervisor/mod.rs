//! Owns the set of providers that run on this host, and is the only part that changes it.
//!
//! Commands arrive in order through one inbox. Slow work (fetching, unpacking, launching, stopping)
//! runs as a child task that reports back. Every change follows the same steps: state first, then
//! the snapshot for readers, then events; so an event never announces what an inventory does not
//! show.
//!
//! A provider whose process ends by itself leaves the inventory at once and is started again after a pause that grows.
//! After several such ends in a row it is given up. Asking for a start in a pause ends the pause. One that ends with exit
//! code 0 has done its work, or was asked to end by somebody else, and stays ended.
//!
//! `command` has what can be asked, `prepare` makes a reference startable, `run` begins and follows one run of either kind;
//! this file is the loop, its state and every change of it.

mod command;
mod prepare;
mod run;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    task::{AbortHandle, JoinSet},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, error, info, info_span, warn};
use uuid::Uuid;

use super::{
    bounds::Bounds,
    builtin,
    external::{Launcher, health::Wellbeing, process::Exit},
    told_to_stop,
};
use crate::{
    budget::Budget,
    control::state::bytes_of_providers,
    events::{Event, Publisher, event::ProviderContext},
    identity::keys::{HostId, LinkName, ProviderId},
    issuers::Issuers,
    journal::{Journal, Level},
    lattice::{answers::Answers, connection::Nats, subject::Subjects},
    links::Live,
    peers::Peers,
    policy::{Policy, Verified},
    registry::Registry,
    router::{Local, Locals, Router},
    rpc::server::Receiver,
    shutdown::essential,
};
use command::Command;
use prepare::{Blueprint, prepare};
use run::{EndedByItself, Launched, begin, follow};

pub use command::{Condition, Handle, Phase, ProviderError, ProviderView, Start, Stop, Which};

/// Commands waiting for the supervisor.
const INBOX: usize = 256;
/// Providers that are fetched and unpacked at a time.
const PREPARES_MAX: usize = 4;
/// Starts that may be under way.
const STARTS_MAX: usize = 256;
/// The providers of a host may fill one of so many equal parts of the NATS message with its
/// inventory: the host's answer has to fit into one message.
const INVENTORY_PART: usize = 4;
/// Why nothing further is started.
const FULL: &str = "the host runs as many providers as its inventory can tell in one message; start it on another host, or \
                    raise max_payload in the NATS server's configuration";
/// How long a stop may take that nobody set a deadline for.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause before the first restart; each further one is twice as long.
const RESTART_FIRST: Duration = Duration::from_millis(100);
/// Restarts in a row before a provider is given up; the pauses add up to six seconds.
const RESTARTS_MAX: u32 = 6;
/// A run of this length ends the row.
const STEADY: Duration = Duration::from_secs(60);
/// How often to look whether the claims of providers still count.
const TERM_CHECK: Duration = Duration::from_secs(5);
/// The time that runs get beyond their deadline, in which they kill what did not end.
const CUT_OFF: Duration = Duration::from_secs(3);
/// Why a stop was asked for, in events.
const STOPPED: &str = "stopped";
/// The text for a bug; the place of the panic is in the log.
const PANICKED: &str = "the host's task for it panicked, which is a bug";

/// Everything the supervisor works with.
pub struct Parts {
    pub host: HostId,
    pub registry: Registry,
    pub router: Router,
    pub peers: Peers,
    pub receiver: Receiver,
    pub rpc: Nats,
    pub subjects: Subjects,
    pub links: Live,
    pub policy: Policy,
    pub issuers: Issuers,
    /// Start providers that are programs of their own.
    pub allow_external: bool,
    pub events: Publisher,
    pub journal: Journal,
    pub budget: Budget,
    pub rpc_timeout: Duration,
    /// How long each step of a stop may take.
    pub stop_delay: Duration,
    pub js_domain: Option<String>,
    /// Limits that no link of a built-in provider can lift.
    pub bounds: Bounds,
    pub answers: Answers,
    /// Where executables are unpacked, in a directory of their own.
    pub cache_dir: PathBuf,
    /// Where built-in providers keep data.
    pub data_dir: PathBuf,
    pub launcher: Launcher,
}

/// Starts the supervisor; it ends after [`Handle::stop_all`] of all.
///
/// The tokens are: this host is closing, and this host cannot go on.
pub fn spawn(parts: Parts, tasks: &TaskTracker, (closing, failed): (CancellationToken, CancellationToken)) -> Handle {
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
    tasks.spawn(essential("provider supervisor", running, closing, failed));
    Handle { commands, view, conditions }
}

/// The key of a provider on one host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    id: ProviderId,
    link_name: LinkName,
}

struct Supervisor {
    parts: Arc<Parts>,
    /// Bounds how many providers are fetched and unpacked at a time.
    prepares: Arc<Semaphore>,
    /// Starts whose provider is not known yet, by a number of their own.
    preparing: HashMap<Uuid, (Start, AbortHandle)>,
    entries: BTreeMap<Key, Entry>,
    children: JoinSet<Done>,
    published: watch::Sender<Arc<Vec<ProviderView>>>,
    told: watch::Sender<Arc<Vec<Condition>>>,
    /// The callers that wait for providers to have stopped, each with these providers.
    waiting: Vec<(BTreeSet<Key>, oneshot::Sender<()>)>,
    /// Nothing is started any more.
    closing: bool,
}

struct Entry {
    start: Start,
    blueprint: Arc<Blueprint>,
    phase: Phase,
    /// The run; a restart has another.
    instance: Uuid,
    /// Tells the run to end, and by when.
    stop: watch::Sender<Option<Instant>>,
    /// Ends of its own in a row.
    crashes: u32,
    /// How often it was started again.
    restarts: u64,
    /// How the last of them was.
    last_end: Option<String>,
    health: watch::Sender<Wellbeing>,
    started: Instant,
    /// The in-process form, while it runs.
    local: Option<Arc<dyn Local>>,
    /// Its claims do not count now, and that was told.
    is_out_of_term: bool,
}

impl Entry {
    /// Returns the provider as readers see it.
    fn view(&self, key: &Key) -> ProviderView {
        let claims = &self.blueprint.claims;
        ProviderView {
            id: key.id.clone(),
            link_name: key.link_name.clone(),
            contract_id: claims.contract_id.clone(),
            reference: self.start.reference.clone(),
            name: claims.name.clone().unwrap_or_default(),
            revision: i32::try_from(claims.effective_revision()).unwrap_or(i32::MAX),
            annotations: self.start.annotations.clone(),
            instance_id: self.instance.to_string(),
        }
    }
}

/// The report of a child task.
enum Done {
    Prepared {
        number: Uuid,
        result: Result<Arc<Blueprint>, String>,
    },
    Launched {
        key: Key,
        instance: Uuid,
        result: Result<Launched, String>,
    },
    /// A run ended: by request (`None`), or by itself.
    Ended {
        key: Key,
        instance: Uuid,
        by_itself: Option<EndedByItself>,
    },
    PauseOver {
        key: Key,
        instance: Uuid,
    },
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
                    Some(Command::Start(start, reply)) => {
                        let _ = reply.send(self.begin(start));
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
            Ok(Done::Ended { key, instance, by_itself }) => self.ended(&key, instance, by_itself),
            Ok(Done::PauseOver { key, instance }) => {
                let due = |entry: &Entry| entry.instance == instance && entry.phase == Phase::Pausing;
                if !self.closing && self.entries.get(&key).is_some_and(due) {
                    self.launch(&key);
                }
            }
            // A preparation that was called off.
            Err(ended) if ended.is_cancelled() => {}
            // Panics of the work inside are caught there.
            Err(failure) => error!(error = %failure, "a task of the provider supervisor panicked"),
        }
    }

    /// Takes a start on, or refuses it at once with the reason.
    fn begin(&mut self, start: Start) -> Result<(), ProviderError> {
        let refused = self.refuse(&start);
        if let Err(error) = &refused {
            self.start_failed(&start, &error.to_string());
            return refused;
        }
        if let Some(key) = self.known_key(&start) {
            self.end_pause(&key);
        }
        let number = Uuid::new_v4();
        let (parts, prepares) = (Arc::clone(&self.parts), Arc::clone(&self.prepares));
        let span = info_span!("provider", reference = %start.reference, link_name = %start.link_name);
        let wanted = start.clone();
        let handle = self.children.spawn(
            async move {
                // Never closed, so there is always a permit to wait for.
                let _permit = prepares.acquire_owned().await;
                Done::Prepared { number, result: caught(prepare(&parts, &start)).await }
            }
            .instrument(span),
        );
        self.preparing.insert(number, (wanted, handle));
        Ok(())
    }

    /// Forgets a provider that waits for its restart: the operator does not want to wait, or wants another program.
    fn end_pause(&mut self, key: &Key) {
        if self.entries.get(key).is_some_and(|entry| entry.phase == Phase::Pausing) {
            self.entries.remove(key);
            self.gone(key);
        }
    }

    fn refuse(&self, start: &Start) -> Result<(), ProviderError> {
        if self.closing || self.preparing.len() >= STARTS_MAX {
            return Err(ProviderError::Unavailable);
        }
        match builtin::find(&start.reference) {
            Some(Ok(_)) => {}
            Some(Err(unknown)) => return Err(unknown.into()),
            None if self.parts.allow_external => {}
            None => return Err(ProviderError::External { provider: start.reference.clone() }),
        }
        let twin = |other: &Start| other.reference == start.reference && other.link_name == start.link_name;
        let key = self.known_key(start);
        let running = key.and_then(|key| self.entries.get(&key)).is_some_and(|entry| entry.phase != Phase::Pausing);
        if running || self.preparing.values().any(|(other, _)| twin(other)) {
            return Err(ProviderError::AlreadyRunning {
                provider: start.reference.clone(),
                link_name: start.link_name.to_string(),
            });
        }
        Ok(())
    }

    /// Which provider a reference names, as far as that is known without fetching it.
    fn known_key(&self, start: &Start) -> Option<Key> {
        let link_name = start.link_name.clone();
        let here = self
            .entries
            .iter()
            .find(|(key, entry)| entry.start.reference == start.reference && key.link_name == link_name);
        if let Some((key, _)) = here {
            return Some(key.clone());
        }
        let text: Arc<str> = match builtin::find(&start.reference) {
            Some(Ok(spec)) => spec.public_key.into(),
            _ => Arc::clone(self.parts.links.table().public_key_of(&start.reference)?),
        };
        Some(Key { id: ProviderId::parse(&text).ok()?, link_name })
    }

    fn prepared(&mut self, number: Uuid, result: Result<Arc<Blueprint>, String>) {
        // It is gone if it was stopped meanwhile.
        let Some((start, _)) = self.preparing.remove(&number) else { return };
        let blueprint = match result {
            Ok(blueprint) => blueprint,
            Err(text) => return self.start_failed(&start, &text),
        };
        if self.closing {
            return self.start_failed(&start, "the host is stopping");
        }
        let key = Key { id: blueprint.id().clone(), link_name: start.link_name.clone() };
        self.end_pause(&key);
        if self.entries.contains_key(&key) {
            let error =
                ProviderError::AlreadyRunning { provider: key.id.to_string(), link_name: key.link_name.to_string() };
            return self.start_failed(&start, &error.to_string());
        }
        if !self.has_room() {
            return self.start_failed(&start, FULL);
        }
        let entry = Entry {
            start,
            blueprint,
            phase: Phase::Launching,
            instance: Uuid::nil(),
            stop: watch::Sender::new(None),
            crashes: 0,
            restarts: 0,
            last_end: None,
            health: watch::Sender::new(Wellbeing::Unknown),
            started: Instant::now(),
            local: None,
            is_out_of_term: false,
        };
        self.entries.insert(key.clone(), entry);
        self.launch(&key);
    }

    /// Whether the inventory has room for one more provider, those that are about to run included.
    fn has_room(&self) -> bool {
        let views: Vec<ProviderView> = self.entries.iter().map(|(key, entry)| entry.view(key)).collect();
        let used = bytes_of_providers(&views);
        used < self.parts.rpc.client.server_info().max_payload / INVENTORY_PART
    }

    /// Begins a run of a known provider.
    fn launch(&mut self, key: &Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.phase = Phase::Launching;
        entry.instance = Uuid::new_v4();
        entry.stop = watch::Sender::new(None);
        entry.health.send_replace(Wellbeing::Unknown);
        let (key, instance) = (key.clone(), entry.instance);
        let (parts, blueprint, start) = (Arc::clone(&self.parts), Arc::clone(&entry.blueprint), entry.start.clone());
        let mut stop = entry.stop.subscribe();
        let span = info_span!("provider", provider_id = %key.id, link_name = %key.link_name);
        self.children.spawn(
            async move {
                let result = tokio::select! {
                    result = caught(begin(&parts, &blueprint, &start, instance)) => result,
                    _ = told_to_stop(&mut stop) => Err("it was stopped before it had started".into()),
                };
                Done::Launched { key, instance, result }
            }
            .instrument(span),
        );
        self.tell_conditions();
    }

    fn launched(&mut self, key: Key, instance: Uuid, result: Result<Launched, String>) {
        // A launch that nobody waits for any more ends with what it made.
        let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.instance == instance) else { return };
        let launched = match result {
            Ok(launched) => launched,
            Err(text) if entry.phase == Phase::Stopping || entry.crashes == 0 => {
                if let Some(entry) = self.entries.remove(&key) {
                    self.start_failed(&entry.start, &text);
                    if entry.phase == Phase::Stopping {
                        // The client that asked for the stop waits for this event.
                        let provider = context(&self.parts, &key, &entry);
                        self.parts.events.publish(Event::ProviderStopped { provider, reason: STOPPED.into() });
                    }
                    self.gone(&key);
                }
                return;
            }
            Err(text) => return self.pause(&key, &format!("it could not be started again: {text}")),
        };
        let stopping = entry.phase == Phase::Stopping;
        if !stopping {
            entry.phase = Phase::Running;
        }
        entry.started = Instant::now();
        if let Launched::Builtin(launched) = &launched {
            entry.local = Some(launched.local.clone());
        }
        let about = context(&self.parts, &key, entry);
        let claims = entry.blueprint.claims.clone();
        let (stop, health) = (entry.stop.subscribe(), entry.health.clone());
        self.publish_state();
        info!(provider_id = %key.id, link_name = %key.link_name, contract_id = %claims.contract_id, "provider started");
        self.remark(&key, Level::Info, "the provider started");
        self.parts.events.publish(Event::ProviderStarted { provider: about.clone(), claims });
        let span = info_span!("provider", provider_id = %key.id, link_name = %key.link_name);
        let parts = Arc::clone(&self.parts);
        let ended = async move {
            let run = AssertUnwindSafe(follow(&parts, &key, launched, (about, health), stop)).catch_unwind();
            let by_itself = run.await.unwrap_or_else(|_| Err(EndedByItself::Failed(PANICKED.into()))).err();
            Done::Ended { key, instance, by_itself }
        };
        self.children.spawn(ended.instrument(span));
    }

    fn ended(&mut self, key: &Key, instance: Uuid, by_itself: Option<EndedByItself>) {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.instance == instance) else { return };
        let about = context(&self.parts, key, entry);
        entry.local = None;
        match by_itself {
            Some(EndedByItself::Failed(how)) if entry.phase != Phase::Stopping && !self.closing => {
                if entry.started.elapsed() >= STEADY {
                    entry.crashes = 0;
                }
                entry.phase = Phase::Pausing;
                self.publish_state();
                warn!(provider_id = %key.id, link_name = %key.link_name, reason = how, "provider ended by itself");
                self.remark(key, Level::Error, &format!("the provider ended by itself: {how}"));
                self.parts.events.publish(Event::ProviderStopped { provider: about, reason: how.clone() });
                self.pause(key, &how);
            }
            how => {
                self.entries.remove(key);
                self.publish_state();
                let reason = match how {
                    None => STOPPED.to_owned(),
                    Some(EndedByItself::Done) => Exit::Code(0).to_string(),
                    Some(EndedByItself::Failed(how)) => how,
                };
                info!(provider_id = %key.id, link_name = %key.link_name, reason, "provider stopped");
                self.remark(key, Level::Info, &format!("the provider stopped: {reason}"));
                self.parts.events.publish(Event::ProviderStopped { provider: about, reason });
                self.gone(key);
            }
        }
    }

    /// Refuses calls of and to providers whose claims do not count any more, and tells of each once.
    fn look_at_terms(&mut self) {
        let mut out_of_term = HashMap::new();
        for (key, entry) in &mut self.entries {
            let refused = entry.blueprint.in_force().err();
            let is_news = refused.is_some() && !entry.is_out_of_term;
            entry.is_out_of_term = refused.is_some();
            let Some(error) = refused else { continue };
            out_of_term.insert(Arc::from(key.id.as_str()), error.clone());
            if !is_news {
                continue;
            }
            let claims = &entry.blueprint.claims;
            warn!(provider_id = %key.id, link_name = %key.link_name, expires = %claims.expires_human(), %error,
                "calls of and to a provider are refused");
            let text = format!("calls of and to the provider are refused on this host: {error}");
            self.parts.journal.writer(key.id.as_str(), key.link_name.as_str()).write(Level::Warn, &text);
            self.parts.events.publish(Event::ClaimsNotInForce {
                public_key: key.id.to_string(),
                image_ref: entry.start.reference.clone(),
                host_id: self.parts.host.to_string(),
                not_before_human: claims.not_before_human(),
                expires_human: claims.expires_human(),
                error: error.to_string(),
            });
        }
        self.parts.router.set_out_of_term(out_of_term);
    }

    /// Forgets a provider that is not started again.
    fn give_up(&mut self, key: &Key, text: &str) {
        if let Some(entry) = self.entries.remove(key) {
            self.remark(key, Level::Error, text);
            self.start_failed(&entry.start, text);
            self.gone(key);
        }
    }

    /// Has a provider that ended by itself started again after a pause, or gives it up.
    fn pause(&mut self, key: &Key, how: &str) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if let Err(error) = entry.blueprint.in_force() {
            return self.give_up(key, &format!("it ended ({how}) and is not started again: {error}"));
        }
        entry.crashes += 1;
        entry.phase = Phase::Pausing;
        entry.last_end = Some(how.to_owned());
        let crashes = entry.crashes;
        self.tell_conditions();
        if crashes > RESTARTS_MAX {
            let text = format!(
                "given up after {RESTARTS_MAX} restarts in a row; the last time: {how}. Its log lines say more; start it again when \
                 the cause is mended"
            );
            return self.give_up(key, &text);
        }
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.restarts += 1;
        let pause = RESTART_FIRST * 2_u32.pow(crashes - 1);
        info!(provider_id = %key.id, pause_ms = pause.as_millis() as u64, "provider is started again after a pause");
        let (key, instance) = (key.clone(), entry.instance);
        self.children.spawn(async move {
            tokio::time::sleep(pause).await;
            Done::PauseOver { key, instance }
        });
    }

    fn stop(&mut self, stop: &Stop) -> Result<(), ProviderError> {
        let meant = |reference: &str| reference == stop.provider;
        let before = self.preparing.len();
        let parts = Arc::clone(&self.parts);
        self.preparing.retain(|_, (start, work)| {
            let is_meant = meant(&start.reference) && start.link_name == stop.link_name && stop.selects(start);
            if is_meant {
                work.abort();
                parts.events.publish(Event::ProviderStartFailed {
                    provider_ref: start.reference.clone(),
                    link_name: start.link_name.to_string(),
                    error: "it was stopped before it had started".into(),
                });
            }
            !is_meant
        });
        let cancelled = before != self.preparing.len();
        let is_provider = |key: &Key, entry: &Entry| key.id.as_str() == stop.provider || meant(&entry.start.reference);
        let found: Vec<Key> =
            self.entries.iter().filter(|(key, entry)| is_provider(key, entry)).map(|(key, _)| key.clone()).collect();
        let Some(key) = found.iter().find(|key| key.link_name == stop.link_name) else {
            if cancelled {
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
        self.end(key, Instant::now() + STOP_TIMEOUT);
        Ok(())
    }

    /// Has one provider end, whatever it is doing.
    fn end(&mut self, key: &Key, deadline: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.phase == Phase::Pausing {
            let about = context(&self.parts, key, entry);
            self.entries.remove(key);
            self.parts.events.publish(Event::ProviderStopped { provider: about, reason: STOPPED.into() });
            return self.gone(key);
        }
        entry.phase = Phase::Stopping;
        entry.stop.send_replace(Some(deadline));
        if !entry.blueprint.brings_work() {
            // Others of the lattice may run it too: calls from here go to them from now on.
            entry.local = None;
            self.publish_state();
        }
    }

    /// The end of everything that did not end: state first, then the events nobody else can send any more.
    fn cut_off(mut self) {
        self.children.abort_all();
        let cut_off = std::mem::take(&mut self.entries);
        self.publish_state();
        for (key, entry) in &cut_off {
            if matches!(entry.phase, Phase::Running | Phase::Stopping) {
                let provider = context(&self.parts, key, entry);
                self.parts.events.publish(Event::ProviderStopped { provider, reason: "killed at the deadline".into() });
            }
        }
    }

    fn stop_all(&mut self, which: Which, deadline: Instant, done: oneshot::Sender<()>) {
        self.closing = true;
        let meant: BTreeSet<Key> = self
            .entries
            .iter()
            .filter(|(_, entry)| which == Which::All || entry.blueprint.brings_work())
            .map(|(key, _)| key.clone())
            .collect();
        for (start, work) in std::mem::take(&mut self.preparing).into_values() {
            work.abort();
            self.start_failed(&start, "the host is stopping");
        }
        self.waiting.push((meant.clone(), done));
        for key in &meant {
            self.end(key, deadline);
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
        let condition = |(key, entry): (&Key, &Entry)| Condition {
            id: key.id.clone(),
            link_name: key.link_name.clone(),
            reference: entry.start.reference.clone(),
            name: entry.blueprint.claims.name.clone().unwrap_or_default(),
            phase: entry.phase,
            crashes: entry.crashes,
            restarts: entry.restarts,
            last_end: entry.last_end.clone(),
            expires: entry.blueprint.claims.expires,
            since: entry.started,
            health: entry.health.subscribe(),
        };
        self.told.send_replace(Arc::new(self.entries.iter().map(condition).collect()));
    }

    fn publish_state(&self) {
        self.tell_conditions();
        let shown = |entry: &Entry| matches!(entry.phase, Phase::Running | Phase::Stopping);
        let view = self.entries.iter().filter(|(_, entry)| shown(entry)).map(|(key, entry)| entry.view(key));
        let view = view.collect();
        let mut locals: HashMap<Arc<str>, Locals> = HashMap::new();
        for (key, entry) in &self.entries {
            if let Some(local) = &entry.local {
                let by_link = locals.entry(key.id.as_str().into()).or_default();
                by_link.insert(key.link_name.as_str().into(), Arc::clone(local));
            }
        }
        self.parts.router.set_providers(locals);
        let claims = self.entries.iter().filter(|(_, entry)| entry.phase == Phase::Running);
        let claims =
            claims.map(|(key, entry)| (Arc::clone(key.id.as_arc()), Verified::of_provider(&entry.blueprint.claims)));
        self.parts.router.set_provider_claims(claims.collect());
        self.published.send_replace(Arc::new(view));
    }

    /// Says something about a provider where its own lines are.
    fn remark(&self, key: &Key, level: Level, text: &str) {
        self.parts.journal.writer(key.id.as_str(), key.link_name.as_str()).write(level, text);
    }

    fn start_failed(&self, start: &Start, text: &str) {
        warn!(reference = %start.reference, link_name = %start.link_name, error = text, "provider not started");
        self.parts.events.publish(Event::ProviderStartFailed {
            provider_ref: start.reference.clone(),
            link_name: start.link_name.to_string(),
            error: text.to_owned(),
        });
    }
}

/// Turns a panic, which is a bug, into an error like others: an entry must not wait for ever for its task.
async fn caught<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| Err(PANICKED.into()))
}

fn context(parts: &Parts, key: &Key, entry: &Entry) -> ProviderContext {
    ProviderContext {
        host_id: parts.host.to_string(),
        public_key: key.id.to_string(),
        link_name: key.link_name.to_string(),
        contract_id: entry.blueprint.claims.contract_id.clone(),
        image_ref: entry.start.reference.clone(),
        annotations: entry.start.annotations.clone(),
        instance_id: entry.instance.to_string(),
    }
}

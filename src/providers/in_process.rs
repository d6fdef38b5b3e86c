//! A built-in provider that runs: its links kept equal to the lattice's link definitions, its calls answered, on its
//! subject and within the process.
//!
//! One loop ([`Links::follow`]) owns the links. Whenever the link table changes it compares what it
//! should serve with what it serves, and starts an attempt for each difference, at most one per
//! actor at a time; so nothing is lost however fast changes come, and a link that takes long holds
//! nobody up. New values are taken on before the old link ends. A link that fails because something
//! is in the way is tried again, one that fails for its values waits for other values; the old link
//! stays meanwhile.
//!
//! A call that arrives before its link is up waits for it, until its own deadline. So an actor's link can move here from
//! another provider while the actor is in use.

use std::{
    collections::{HashMap, hash_map::Entry},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use async_nats::Subscriber;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use tokio::{
    sync::{oneshot, watch},
    task::{JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    StopSignal,
    builtin::{Context, Link, LinkError, Provider, Spec},
    told_to_stop,
};
use crate::{
    events::{Event, Publisher, event::ProviderContext},
    journal::Level,
    lattice::{answers::Answers, subject::Subjects},
    links::{LinkDefinition, Live},
    meter::{Path, Target},
    router::{self, Admitted, LinkStanding, Local, ended},
    rpc::{
        call::{Call, CallError},
        invocation::Entity,
        server::{Handler, Inlets, Receiver},
    },
};

/// Links that a provider takes on; each may hold connections and certificates.
const LINKS_MAX: usize = 4096;
/// How long taking on one link may take.
const LINK_TIMEOUT: Duration = Duration::from_secs(10);
/// Pauses between attempts for a link grow from the first to the last of these.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(10);
/// How long calls of a link that ended may still take.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// How long replies to health requests may wait for the connection.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// How often health is told when nothing changes, as for external providers.
const HEALTH_INTERVAL: Duration = Duration::from_secs(30);

/// How the links of a provider stand, by actor.
type Standings = HashMap<Arc<str>, Standing>;

#[derive(Clone)]
enum Standing {
    Up(Arc<dyn Link>),
    Refused(LinkError),
}

/// A running built-in provider, as callers see it.
pub struct InProcess {
    context: Context,
    /// The provider as the target of calls.
    own: Entity,
    links: Live,
    standings: watch::Receiver<Arc<Standings>>,
    attempted: watch::Receiver<Arc<Attempted>>,
    /// Counts the calls of all time.
    served: Arc<Target>,
}

/// The definitions that links were last tried with, by actor.
type Attempted = HashMap<Arc<str>, AttemptedWith>;

/// How an attempt with a definition went.
#[derive(Clone)]
struct AttemptedWith {
    link: Arc<LinkDefinition>,
    is_in_work: bool,
    /// Why it is not taken on. One with other values may be up meanwhile.
    refusal: Option<LinkError>,
}

impl InProcess {
    /// The link of a call once it stands, or why there is none.
    async fn link_of(&self, call: &Call) -> Result<Arc<dyn Link>, CallError> {
        if let Some(Standing::Up(link)) = self.standings.borrow().get(&call.origin.public_key) {
            return Ok(Arc::clone(link));
        }
        let mut standings = self.standings.clone();
        let standing = tokio::time::timeout_at(
            call.deadline,
            standings.wait_for(|standings| standings.contains_key(&call.origin.public_key)),
        );
        match standing.await {
            Ok(Ok(standings)) => match standings.get(&call.origin.public_key) {
                Some(Standing::Up(link)) => Ok(Arc::clone(link)),
                Some(Standing::Refused(error)) => Err(CallError::Callee(format!(
                    "the link of {} to {} does not work: {error}",
                    call.origin.public_key, self.context.contract_id
                ))),
                None => Err(router::not_linked(&call.origin.public_key, &self.own)),
            },
            Ok(Err(_)) => Err(CallError::Callee(format!("provider {} is stopping", self.context.provider_id))),
            Err(_) => Err(CallError::Callee(format!(
                "the link of {} to {} was not ready in time",
                call.origin.public_key, self.context.contract_id
            ))),
        }
    }
}

impl Local for InProcess {
    fn check(&self, call: &Call) -> Result<(), CallError> {
        router::linked(&self.links.table(), &call.origin.public_key, &self.own)
    }

    fn standing(&self) -> router::Standing {
        let attempted = self.attempted.borrow();
        let refused = attempted.values().filter_map(|tried| Some((Arc::clone(&tried.link), tried.refusal.as_ref()?)));
        let refused = refused.map(|(link, error)| (link, error.to_string())).collect();
        router::Standing { refused, ..router::Standing::default() }
    }

    fn link_standing(&self, link: &LinkDefinition) -> Option<LinkStanding> {
        let attempted = self.attempted.borrow();
        let Some(tried) = attempted.get(&*link.actor_id) else {
            let is_wanted = link.contract_id == self.context.contract_id
                && self.links.table().link(&link.actor_id, &link.contract_id, &link.link_name).is_some();
            return match attempted.len() {
                _ if !is_wanted => None,
                LINKS_MAX.. => Some(LinkStanding::Refused(format!(
                    "the provider has {LINKS_MAX} links on this host, the most it takes; start it on another host as well, or \
                     delete links that nobody uses"
                ))),
                _ => Some(LinkStanding::Pending),
            };
        };
        Some(match &tried.refusal {
            _ if tried.is_in_work || *tried.link != *link => LinkStanding::Pending,
            Some(error) => LinkStanding::Refused(error.to_string()),
            None => LinkStanding::Up,
        })
    }

    fn served(&self) -> Option<&Target> {
        Some(&self.served)
    }

    fn try_admit(self: Arc<Self>) -> Option<Admitted> {
        // The caller's own permit is what bounds calls from this process.
        Some(Box::new(move |call| self.call(call)))
    }

    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        Box::pin(async move {
            let link = self.link_of(&call).await?;
            link.call(call).await
        })
    }
}

impl Handler for InProcess {
    fn handle(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        Box::pin(async move {
            let key = Arc::clone(&call.target.public_key);
            let counted = self.served.begin(&call.operation, Path::Nats);
            let result = match self.check(&call) {
                Ok(()) => self.call(call).await,
                Err(error) => Err(error),
            };
            ended(Some(counted), result, &key)
        })
    }
}

/// A built-in provider that is subscribed and has looked at all its links once.
pub struct Launched {
    spec: &'static Spec,
    pub local: Arc<InProcess>,
    inlets: Inlets,
    health: Subscriber,
    follower: JoinSet<()>,
    /// Ends the follower, at the deadline it is given.
    end: watch::Sender<Option<Instant>>,
    context: Context,
    receiver: Receiver,
    answers: Answers,
}

/// Everything a built-in provider is launched with.
pub struct Equipment {
    pub context: Context,
    pub links: Live,
    pub subjects: Subjects,
    pub receiver: Receiver,
    pub answers: Answers,
}

/// Builds, links and subscribes a provider. Nothing is left behind if this is dropped.
pub async fn launch(spec: &'static Spec, equipment: Equipment) -> Result<Launched, String> {
    let Equipment { context, links, subjects, receiver, answers } = equipment;
    let (published, standings) = watch::channel(Arc::default());
    let (told, attempted) = watch::channel(Arc::default());
    let (settled, all_looked_at) = oneshot::channel();
    let (end, ending) = watch::channel(None);
    let follower = Links {
        provider: (spec.build)(context.clone()),
        context: context.clone(),
        live: links.clone(),
        beyond: 0,
        slots: HashMap::new(),
        published,
        told,
        attempts: JoinSet::new(),
        retired: Vec::new(),
        endings: JoinSet::new(),
        settled: Some(settled),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(follower.follow(ending));
    // An error means that the follower is gone, which the driver will notice.
    let _ = all_looked_at.await;
    // Only now: every member of the queue group gets its share of the lattice's calls, whether it
    // answers or not.
    let subject = subjects.provider(&context.provider_id, &context.link_name);
    let subscribe = async {
        let health = context.nats.subscribe(subjects.provider_health(&context.provider_id, &context.link_name)).await;
        Ok::<_, String>((receiver.subscribe(&subject, "rpc").await?, health.map_err(|e| e.to_string())?))
    };
    let (inlets, health) = subscribe.await.map_err(|error| format!("subscribe to {subject}: {error}"))?;
    let served = context.router.meter().serve(context.provider_id.as_str(), context.link_name.as_str());
    let own = Entity::new(context.provider_id.as_str(), context.link_name.as_str(), context.contract_id);
    let local = Arc::new(InProcess { context: context.clone(), own, links, standings, attempted, served });
    Ok(Launched { spec, local, inlets, health, follower: tasks, end, context, receiver, answers })
}

impl Launched {
    /// Answers calls and health requests until told to stop; then ends the links, in order, until the deadline.
    /// Returns early only if the provider cannot go on, with the reason.
    pub async fn run(self, about: ProviderContext, events: Publisher, mut stop: StopSignal) -> Result<(), String> {
        let Self { spec, local, inlets, mut health, mut follower, end, context, receiver, answers } = self;
        let leave = CancellationToken::new();
        let (left, _) = oneshot::channel();
        let name = format!("{}.{}", context.provider_id, context.link_name).into();
        let mut serving = JoinSet::new();
        serving.spawn(receiver.serve(
            inlets,
            (context.provider_id.as_str().into(), name),
            local.clone(),
            leave.clone(),
            left,
        ));
        events.publish(Event::HealthCheckPassed(about.clone()));
        let mut beat = tokio::time::interval_at(Instant::now() + HEALTH_INTERVAL, HEALTH_INTERVAL);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let deadline = loop {
            tokio::select! {
                deadline = told_to_stop(&mut stop) => break deadline,
                _ = serving.join_next() => return Err("its subscription ended by itself".into()),
                _ = follower.join_next() => return Err("the task that follows its links ended by itself".into()),
                _ = beat.tick() => events.publish(Event::HealthCheckStatus(about.clone())),
                Some(message) = health.next() => {
                    let Some(reply) = message.reply else { continue };
                    let health = healthy(&local.standings.borrow());
                    if let Err(error) = answers.send(&context.nats, &reply, health, REPLY_TIMEOUT).await {
                        debug!(%error, "health reply lost");
                    }
                }
            }
        };
        let finish = async {
            if spec.brings_work {
                // Work from outside ends first, while those who answer it can still call back.
                end.send_replace(Some(deadline));
                while follower.join_next().await.is_some() {}
            }
            // Out of the queue group before anything else ends: until then others send calls here.
            leave.cancel();
            while serving.join_next().await.is_some() {}
            end.send_replace(Some(deadline));
            while follower.join_next().await.is_some() {}
        };
        if tokio::time::timeout_at(deadline, finish).await.is_err() {
            warn!(provider_id = %context.provider_id, "calls of a provider were still in work at the deadline");
        }
        Ok(())
    }
}

/// The reply to a health request: well, with a word about links that do not work.
fn healthy(standings: &Standings) -> Bytes {
    #[derive(serde::Serialize)]
    struct Health {
        healthy: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    }
    let refused = standings.values().filter(|standing| matches!(standing, Standing::Refused(_))).count();
    let message = (refused > 0).then(|| format!("{refused} of {} links do not work", standings.len()));
    crate::contracts::encode(&Health { healthy: true, message })
}

/// An actor, and what became of taking its link on.
type Attempt = (Arc<str>, Result<Arc<dyn Link>, LinkError>);

/// The state of one actor's link.
struct Slot {
    /// The link definition in the lattice now; `None` when the link is gone.
    wanted: Option<Arc<LinkDefinition>>,
    /// The link definition of the last attempt.
    tried: Option<Arc<LinkDefinition>>,
    link: Option<Arc<dyn Link>>,
    refused: Option<LinkError>,
    busy: bool,
    failures: u32,
    retry_at: Option<Instant>,
}

/// Keeps the links of a provider equal to the link definitions.
struct Links {
    provider: Arc<dyn Provider>,
    context: Context,
    live: Live,
    /// Links there is no room for.
    beyond: usize,
    slots: HashMap<Arc<str>, Slot>,
    published: watch::Sender<Arc<Standings>>,
    told: watch::Sender<Arc<Attempted>>,
    attempts: JoinSet<Attempt>,
    /// Links that end as soon as nobody is led to them any more.
    retired: Vec<Arc<dyn Link>>,
    endings: JoinSet<()>,
    /// Told when every link of the beginning was tried once.
    settled: Option<oneshot::Sender<()>>,
}

impl Links {
    async fn follow(mut self, mut end: StopSignal) {
        let mut changes = self.live.changes();
        self.compare();
        let deadline = loop {
            self.tell_settled();
            let retry = self.slots.values().filter_map(|slot| slot.retry_at).min();
            tokio::select! {
                deadline = told_to_stop(&mut end) => break deadline,
                Ok(()) = changes.changed() => self.compare(),
                Some(tried) = self.attempts.join_next(), if !self.attempts.is_empty() => {
                    self.reap(tried);
                    // Shown once for all that have ended, since that takes a look at every link.
                    while let Some(tried) = self.attempts.try_join_next() {
                        self.reap(tried);
                    }
                    self.publish();
                }
                Some(_) = self.endings.join_next(), if !self.endings.is_empty() => {}
                () = tokio::time::sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => self.retry(),
            }
        };
        // Attempts on their way are dropped, which leaves nothing behind; links end together.
        while let Some(tried) = self.attempts.try_join_next() {
            if let Ok((_, Ok(link))) = tried {
                self.endings.spawn(link.end(deadline));
            }
        }
        self.attempts.abort_all();
        let retired = std::mem::take(&mut self.retired);
        for link in retired {
            self.endings.spawn(link.end(deadline));
        }
        for slot in self.slots.values_mut() {
            if let Some(link) = slot.link.take() {
                self.endings.spawn(link.end(deadline));
            }
        }
        let ended = async { while self.endings.join_next().await.is_some() {} };
        if tokio::time::timeout_at(deadline, ended).await.is_err() {
            warn!(provider_id = %self.context.provider_id, "links were still in use at the deadline");
        }
    }

    /// Looks at what the lattice wants and starts what is missing.
    fn compare(&mut self) {
        let table = self.live.table();
        let (provider, link_name) = (self.context.provider_id.as_str(), self.context.link_name.as_str());
        let wanted: HashMap<Arc<str>, Arc<LinkDefinition>> = table
            .links_of(provider, link_name)
            .filter(|link| link.contract_id == self.context.contract_id)
            .map(|link| (Arc::from(link.actor_id.as_str()), Arc::clone(link)))
            .collect();
        let gone: Vec<Arc<str>> = self.slots.keys().filter(|actor| !wanted.contains_key(*actor)).cloned().collect();
        for actor in gone {
            if let Some(slot) = self.slots.get_mut(&actor) {
                slot.wanted = None;
            }
            self.settle(&actor);
        }
        let mut beyond = 0;
        for (actor, link) in wanted {
            if self.slots.len() >= LINKS_MAX && !self.slots.contains_key(&actor) {
                beyond += 1;
                continue;
            }
            let slot = match self.slots.entry(Arc::clone(&actor)) {
                Entry::Occupied(slot) => slot.into_mut(),
                Entry::Vacant(slot) => slot.insert(Slot {
                    wanted: None,
                    tried: None,
                    link: None,
                    refused: None,
                    busy: false,
                    failures: 0,
                    retry_at: None,
                }),
            };
            slot.wanted = Some(link);
            self.settle(&actor);
        }
        if beyond > self.beyond {
            warn!(
                contract_id = self.context.contract_id,
                links = LINKS_MAX,
                beyond,
                "further links of a provider are not taken on"
            );
        }
        self.beyond = beyond;
        self.publish();
    }

    fn reap(&mut self, tried: Result<Attempt, JoinError>) {
        match tried {
            Ok((actor, result)) => self.tried(&actor, result),
            // An attempt catches its panics, and nobody cancels one.
            Err(failure) => tracing::error!(error = %failure, "taking on a link was cut off"),
        }
    }

    /// Brings one link closer to what is wanted, unless an attempt is on its way: its end comes back here.
    fn settle(&mut self, actor: &Arc<str>) {
        let Some(slot) = self.slots.get_mut(actor) else { return };
        if slot.busy {
            return;
        }
        let Some(wanted) = slot.wanted.clone() else {
            if let Some(link) = slot.link.take() {
                info!(actor_id = %actor, contract_id = self.context.contract_id, "link ended");
                self.context.journal.write(Level::Info, &format!("the link of {actor} ended"));
                self.retired.push(link);
            }
            self.slots.remove(actor);
            return;
        };
        if slot.tried.as_ref() == Some(&wanted) && slot.retry_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        if slot.tried.as_ref() != Some(&wanted) {
            slot.failures = 0;
        }
        slot.tried = Some(Arc::clone(&wanted));
        slot.retry_at = None;
        slot.busy = true;
        let (provider, actor) = (Arc::clone(&self.provider), Arc::clone(actor));
        self.attempts.spawn(async move {
            let late = || LinkError::Unavailable(format!("it took longer than {} s", LINK_TIMEOUT.as_secs()));
            let bug = || LinkError::Unavailable("taking it on panicked, which is a bug".into());
            let attempt = AssertUnwindSafe(async { provider.link(wanted).await }).catch_unwind();
            let tried = tokio::time::timeout(LINK_TIMEOUT, attempt).await;
            (actor, tried.unwrap_or_else(|_| Ok(Err(late()))).unwrap_or_else(|_| Err(bug())))
        });
    }

    fn tried(&mut self, actor: &Arc<str>, result: Result<Arc<dyn Link>, LinkError>) {
        let Some(slot) = self.slots.get_mut(actor) else { return };
        slot.busy = false;
        let previous = match result {
            Ok(link) => {
                info!(actor_id = %actor, contract_id = self.context.contract_id, "linked");
                self.context.journal.write(Level::Info, &format!("linked with {actor}"));
                slot.refused = None;
                slot.failures = 0;
                slot.link.replace(link)
            }
            Err(error) => {
                slot.failures += 1;
                if let LinkError::Unavailable(_) = error {
                    let pause = RETRY_FIRST * 2_u32.saturating_pow(slot.failures.min(10) - 1);
                    slot.retry_at = Some(Instant::now() + pause.min(RETRY_LAST));
                }
                // Once per cause: a retry that fails the same way says nothing new.
                if slot.refused.as_ref() != Some(&error) || slot.failures == 1 {
                    warn!(actor_id = %actor, contract_id = self.context.contract_id, %error, "link refused");
                    self.context.journal.write(Level::Warn, &format!("the link of {actor} is refused: {error}"));
                    if let Some(link) = &slot.tried {
                        self.live.refuse(Arc::clone(link), error.to_string());
                    }
                }
                // An obstacle may go away, and values that make no sense are replaced by others:
                // until then the old link is better than none.
                slot.refused = Some(error);
                None
            }
        };
        self.retired.extend(previous);
        self.settle(actor);
    }

    fn retry(&mut self) {
        let now = Instant::now();
        let due = |slot: &Slot| slot.retry_at.is_some_and(|at| at <= now);
        let actors: Vec<Arc<str>> =
            self.slots.iter().filter(|(_, slot)| due(slot)).map(|(actor, _)| Arc::clone(actor)).collect();
        for actor in actors {
            self.settle(&actor);
        }
    }

    /// Shows how links stand now, and ends those that are shown no more.
    fn publish(&mut self) {
        let standing = |slot: &Slot| match (&slot.link, &slot.refused) {
            (Some(link), _) => Some(Standing::Up(Arc::clone(link))),
            (None, Some(error)) => Some(Standing::Refused(error.clone())),
            (None, None) => None,
        };
        let standings = self.slots.iter().filter_map(|(actor, slot)| Some((Arc::clone(actor), standing(slot)?)));
        self.published.send_replace(Arc::new(standings.collect()));
        let attempted = self.slots.iter().filter_map(|(actor, slot)| {
            let link = Arc::clone(slot.tried.as_ref()?);
            let refusal = slot.refused.clone();
            Some((Arc::clone(actor), AttemptedWith { link, is_in_work: slot.busy, refusal }))
        });
        self.told.send_replace(Arc::new(attempted.collect()));
        for link in self.retired.drain(..) {
            self.endings.spawn(link.end(Instant::now() + END_TIMEOUT));
        }
    }

    fn tell_settled(&mut self) {
        if self.slots.values().all(|slot| !slot.busy)
            && let Some(settled) = self.settled.take()
        {
            let _ = settled.send(());
        }
    }
}

//! A built-in provider that runs: its links kept equal to the lattice's link definitions, its calls
//! answered, on its subject and within the process.
//!
//! One loop ([`Links::follow`]) owns the links, and [`slots`] decides about them. Whenever the link
//! table changes it compares what it should serve with what it serves, and starts an attempt for
//! each difference, at most one per actor at a time; so nothing is lost however fast changes come,
//! and a link that takes long holds nobody up. New values are taken on before the old link ends. A
//! link that fails because something is in the way is tried again, one that fails for its values
//! waits for other values; the old link stays meanwhile.
//!
//! A call that arrives before its link is up waits for it, until its own deadline. So an actor's
//! link can move here from another provider while the actor is in use.

mod slots;

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
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
    plan::RunEnd,
    told_to_stop,
};
use crate::{
    events::Publisher,
    links::Live,
    meter::Target,
    router::{self, Admitted, LinkStatus, Local, ended},
    rpc::{
        call::{Call, CallError},
        server::{Handler, Receiver, Subscriptions},
    },
    spans,
};
use lattice_base::lattice::answers::Answers;
use lattice_protocol::{
    contracts::{health::HealthResponse, httpclient},
    events::{Event, event::ProviderContext},
    journal::Level,
    lattice::subject::Subjects,
    links::{LinkDefinition, table::LinksTo},
    meter::Path,
    rpc::invocation::Entity,
};
use slots::{Effect, LINKS_MAX, LastAttempt, LinkState, Slots};

/// How long taking on one link may take.
const LINK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long calls of a link that ended may still take.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// How long replies to health requests may wait for the connection.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// How often health is told when nothing changes, as for external providers.
const HEALTH_INTERVAL: Duration = Duration::from_secs(30);

type DynLink = Arc<dyn Link>;
/// How the links of a provider stand, by actor.
type LinkStates = HashMap<Arc<str>, LinkState<DynLink>>;
/// How its links were last tried, by actor.
type Attempts = HashMap<Arc<str>, LastAttempt>;

/// A running built-in provider, as callers see it.
pub struct InProcess {
    context: Context,
    /// The provider as the target of calls.
    own: Entity,
    links: Live,
    states: watch::Receiver<Arc<LinkStates>>,
    attempted: watch::Receiver<Arc<Attempts>>,
    /// Counts the calls of all time.
    served: Arc<Target>,
}

impl InProcess {
    /// The link of a call once it stands, or why there is none.
    async fn link_of(&self, call: &Call) -> Result<DynLink, CallError> {
        if let Some(LinkState::Up(link)) = self.states.borrow().get(&call.origin.public_key) {
            return Ok(Arc::clone(link));
        }
        let mut states = self.states.clone();
        let state = tokio::time::timeout_at(
            call.ends_at(),
            states.wait_for(|states| states.contains_key(&call.origin.public_key)),
        );
        match state.await {
            Ok(Ok(states)) => match states.get(&call.origin.public_key) {
                Some(LinkState::Up(link)) => Ok(Arc::clone(link)),
                Some(LinkState::Refused(error)) => Err(CallError::Callee(format!(
                    "the link of {} to {} does not work: {error}",
                    call.origin.public_key, self.context.contract_id
                ))),
                None => Err(router::not_linked(&call.origin.public_key, &self.own)),
            },
            Ok(Err(_)) => {
                Err(CallError::Callee(format!("provider {} is stopping", self.context.provider_id)))
            }
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

    fn status(&self) -> router::TargetStatus {
        let attempted = self.attempted.borrow();
        let refused = attempted
            .values()
            .filter_map(|tried| Some((Arc::clone(&tried.definition), tried.refusal.as_ref()?)));
        let refused = refused.map(|(link, error)| (link, error.to_string())).collect();
        router::TargetStatus { refused, ..router::TargetStatus::default() }
    }

    fn link_status(&self, link: &LinkDefinition) -> Option<LinkStatus> {
        let attempted = self.attempted.borrow();
        let Some(tried) = attempted.get(&*link.actor_id) else {
            let is_wanted = link.contract_id == self.context.contract_id
                && self
                    .links
                    .table()
                    .link(&link.actor_id, &link.contract_id, &link.link_name)
                    .is_some();
            return match attempted.len() {
                _ if !is_wanted => None,
                LINKS_MAX.. => Some(LinkStatus::Refused {
                    error: format!(
                        "the provider has {LINKS_MAX} links on this host, the most it takes; start it on another host as well, or \
                         delete links that nobody uses"
                    ),
                    is_former_up: false,
                }),
                _ => Some(LinkStatus::Pending),
            };
        };
        Some(match &tried.refusal {
            _ if tried.is_in_work || *tried.definition != *link => LinkStatus::Pending,
            Some(error) => {
                let states = self.states.borrow();
                let is_former_up = matches!(states.get(&*link.actor_id), Some(LinkState::Up(_)));
                LinkStatus::Refused { error: error.to_string(), is_former_up }
            }
            None => LinkStatus::Up,
        })
    }

    fn served(&self) -> Option<&Target> {
        Some(&self.served)
    }

    /// Of the built-in providers, the one that makes requests is given pieces.
    fn takes_pieces(&self) -> bool {
        self.context.contract_id == httpclient::CONTRACT_ID
    }

    fn try_admit(self: Arc<Self>) -> Option<Admitted> {
        // The caller's own permit is what bounds calls from this process.
        Some(Box::new(move |call| self.call(call)))
    }

    fn call(self: Arc<Self>, mut call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        Box::pin(async move {
            let span = spans::provided(&mut call, &self.served);
            let performed = pin!(async { self.link_of(&call).await?.call(call).await });
            spans::around(span, performed).await
        })
    }
}

impl Handler for InProcess {
    fn handle(self: Arc<Self>, mut call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        Box::pin(async move {
            let key = Arc::clone(&call.target.public_key);
            let mut counted = self.served.begin(&call.operation, Path::Nats);
            let span = spans::received(&mut call, Some(&counted));
            counted.traced(&span);
            let result = match self.check(&call) {
                Ok(()) => span.within(Pin::new(&mut self.call(call))).await,
                Err(error) => Err(error),
            };
            spans::end(span, &result);
            ended(Some(counted), result, &key)
        })
    }
}

/// A built-in provider that is subscribed and has looked at all its links once.
pub struct Launched {
    spec: &'static Spec,
    pub local: Arc<InProcess>,
    inlets: Subscriptions,
    health: Subscriber,
    follower: JoinSet<()>,
    /// Ends the follower, at the deadline it is given.
    end: watch::Sender<Option<Instant>>,
    context: Context,
    receiver: Receiver,
    answers: Answers,
}

/// Everything a built-in provider is launched with.
pub struct LaunchContext {
    pub context: Context,
    pub links: Live,
    pub subjects: Subjects,
    pub receiver: Receiver,
    pub answers: Answers,
}

/// Builds, links and subscribes a provider. Nothing is left behind if this is dropped.
pub async fn launch(spec: &'static Spec, launch: LaunchContext) -> Result<Launched> {
    let LaunchContext { context, links, subjects, receiver, answers } = launch;
    let (settled, all_looked_at) = oneshot::channel();
    let (end, ending) = watch::channel(None);
    let provider = (spec.build)(context.clone());
    let follower = Links::new(provider, context.clone(), links.clone(), Some(settled));
    let (states, attempted) = (follower.published.subscribe(), follower.told.subscribe());
    let mut tasks = JoinSet::new();
    tasks.spawn(follower.follow(ending));
    // An error means that the follower is gone, which the driver will notice.
    let _ = all_looked_at.await;
    // Only now: every member of the queue group gets its share of the lattice's calls, whether it
    // answers or not.
    let subject = subjects.provider(&context.provider_id, &context.link_name);
    let health = context
        .nats
        .subscribe(subjects.provider_health(&context.provider_id, &context.link_name))
        .await;
    let subscribed = receiver.subscribe(&subject, "rpc").await.map_err(anyhow::Error::msg);
    let (inlets, health) = subscribed
        .and_then(|inlets| Ok((inlets, health?)))
        .with_context(|| format!("subscribe to {subject}"))?;
    let served =
        context.router.meter().serve(context.provider_id.as_str(), context.link_name.as_str());
    let own =
        Entity::new(context.provider_id.as_str(), context.link_name.as_str(), context.contract_id);
    let local =
        Arc::new(InProcess { context: context.clone(), own, links, states, attempted, served });
    Ok(Launched { spec, local, inlets, health, follower: tasks, end, context, receiver, answers })
}

impl Launched {
    /// Answers calls and health requests until told to stop; then ends the links, in order, until
    /// the deadline. Returns early only if the provider cannot go on, with the reason.
    pub(super) async fn run(
        self,
        about: ProviderContext,
        events: Publisher,
        mut stop: StopSignal,
    ) -> RunEnd {
        let Self { spec, local, inlets, mut health, mut follower, end, context, receiver, answers } =
            self;
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
                _ = serving.join_next() => return RunEnd::Failed("its subscription ended by itself".into()),
                _ = follower.join_next() => return RunEnd::Failed("the task that follows its links ended by itself".into()),
                _ = beat.tick() => events.publish(Event::HealthCheckStatus(about.clone())),
                Some(message) = health.next() => {
                    let Some(reply) = message.reply else { continue };
                    let health = healthy(&local.states.borrow());
                    if let Err(error) = answers.send(&context.nats, &reply, health, REPLY_TIMEOUT).await {
                        debug!(%error, "health reply lost");
                    }
                }
            }
        };
        let finish = async {
            if spec.is_ingress {
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
        RunEnd::Asked
    }
}

/// The reply to a health request: well, with a word about links that do not work.
fn healthy(states: &LinkStates) -> Bytes {
    let refused = states.values().filter(|state| matches!(state, LinkState::Refused(_))).count();
    let message = (refused > 0).then(|| format!("{refused} of {} links do not work", states.len()));
    lattice_protocol::contracts::encode(&HealthResponse { healthy: true, message })
}

/// An actor, and what became of taking its link on.
type Attempted = (Arc<str>, Result<DynLink, LinkError>);

/// Takes a link on, within a time.
async fn attempt(
    provider: Arc<dyn Provider>,
    actor: Arc<str>,
    definition: Arc<LinkDefinition>,
) -> Attempted {
    let attempt = AssertUnwindSafe(async { provider.link(definition).await }).catch_unwind();
    let result = match tokio::time::timeout(LINK_TIMEOUT, attempt).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(LinkError::Unavailable("taking it on panicked, which is a bug".into())),
        Err(_) => {
            Err(LinkError::Unavailable(format!("it took longer than {} s", LINK_TIMEOUT.as_secs())))
        }
    };
    (actor, result)
}

/// Keeps the links of a provider equal to the link definitions.
struct Links {
    provider: Arc<dyn Provider>,
    context: Context,
    live: Live,
    slots: Slots<DynLink>,
    /// The link definitions that were looked at last.
    seen: LinksTo,
    published: watch::Sender<Arc<LinkStates>>,
    told: watch::Sender<Arc<Attempts>>,
    attempts: JoinSet<Attempted>,
    /// Links that end as soon as nobody is led to them any more.
    retired: Vec<DynLink>,
    endings: JoinSet<()>,
    /// Told when every link of the beginning was tried once.
    settled: Option<oneshot::Sender<()>>,
}

impl Links {
    fn new(
        provider: Arc<dyn Provider>,
        context: Context,
        live: Live,
        settled: Option<oneshot::Sender<()>>,
    ) -> Self {
        Self {
            provider,
            context,
            live,
            slots: Slots::new(),
            seen: LinksTo::default(),
            published: watch::Sender::default(),
            told: watch::Sender::default(),
            attempts: JoinSet::new(),
            retired: Vec::new(),
            endings: JoinSet::new(),
            settled,
        }
    }

    async fn follow(mut self, mut end: StopSignal) {
        let mut changes = self.live.changes();
        self.compare();
        let deadline = loop {
            self.tell_settled();
            let retry = self.slots.next_retry();
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
        for link in self.retired.drain(..).chain(self.slots.take_links()) {
            self.endings.spawn(link.end(deadline));
        }
        let ended = async { while self.endings.join_next().await.is_some() {} };
        if tokio::time::timeout_at(deadline, ended).await.is_err() {
            warn!(provider_id = %self.context.provider_id, "links were still in use at the deadline");
        }
    }

    /// Looks at what the lattice wants and starts what is missing.
    fn compare(&mut self) {
        let links = self.live.table().links_to(self.context.provider_id.as_str());
        if links.is_copy_of(&self.seen) {
            return;
        }
        let (link_name, contract_id) = (self.context.link_name.as_str(), self.context.contract_id);
        let wanted = links
            .values()
            .filter(|link| link.link_name == link_name && link.contract_id == contract_id)
            .map(|link| (Arc::from(link.actor_id.as_str()), Arc::clone(link)))
            .collect();
        self.seen = links;
        let effects = self.slots.compare(wanted, Instant::now());
        self.carry_out(effects);
        self.publish();
    }

    fn reap(&mut self, tried: Result<Attempted, JoinError>) {
        match tried {
            Ok((actor, result)) => {
                let effects = self.slots.tried(&actor, result, Instant::now());
                self.carry_out(effects);
            }
            // An attempt catches its panics, and nobody cancels one.
            Err(failure) => tracing::error!(error = %failure, "taking on a link was cut off"),
        }
    }

    fn retry(&mut self) {
        let effects = self.slots.retry(Instant::now());
        self.carry_out(effects);
        self.publish();
    }

    fn carry_out(&mut self, effects: Vec<Effect<DynLink>>) {
        let contract_id = self.context.contract_id;
        for effect in effects {
            match effect {
                Effect::Attempt { actor, definition } => {
                    self.attempts.spawn(attempt(Arc::clone(&self.provider), actor, definition));
                }
                Effect::Retire(link) => self.retired.push(link),
                Effect::TellLinked(actor_id) => {
                    info!(%actor_id, contract_id, "linked");
                    self.context.journal.write(Level::Info, &format!("linked with {actor_id}"));
                }
                Effect::TellRefused { actor: actor_id, definition, error } => {
                    warn!(%actor_id, contract_id, %error, "link refused");
                    let line = format!("the link of {actor_id} is refused: {error}");
                    self.context.journal.write(Level::Warn, &line);
                    self.live.refuse(definition, error.to_string());
                }
                Effect::TellEnded(actor_id) => {
                    info!(%actor_id, contract_id, "link ended");
                    self.context
                        .journal
                        .write(Level::Info, &format!("the link of {actor_id} ended"));
                }
                Effect::TellBeyond(beyond) => {
                    warn!(
                        contract_id,
                        links = LINKS_MAX,
                        beyond,
                        "further links of a provider are not taken on"
                    );
                }
            }
        }
    }

    /// Shows how links stand now, and ends those that are shown no more.
    fn publish(&mut self) {
        self.published.send_replace(Arc::new(self.slots.states()));
        self.told.send_replace(Arc::new(self.slots.attempts()));
        for link in self.retired.drain(..) {
            self.endings.spawn(link.end(Instant::now() + END_TIMEOUT));
        }
    }

    fn tell_settled(&mut self) {
        if self.slots.is_settled()
            && let Some(settled) = self.settled.take()
        {
            let _ = settled.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::{
        journal::Journal,
        peers::Peers,
        policy::Policy,
        providers::bounds::Bounds,
        router::{
            Router,
            remote::{self, Remote},
        },
    };
    use lattice_base::{
        budget::Budget,
        store::{Backend as _, Expect, Store, memory::Memory},
    };
    use lattice_protocol::{
        identity::{
            keys::{HostId, LatticeName, LinkName, ProviderId},
            samples::{ACTOR, HOST, PROVIDER},
        },
        store::keys,
    };

    const CONTRACT: &str = "a:b";

    /// Refuses its first link, and never finishes with another.
    #[derive(Default)]
    struct Busy(AtomicBool);

    impl Provider for Busy {
        fn link(
            self: Arc<Self>,
            _: Arc<LinkDefinition>,
        ) -> BoxFuture<'static, Result<DynLink, LinkError>> {
            match self.0.swap(true, Ordering::Relaxed) {
                false => async { Err(LinkError::Unavailable("not yet".into())) }.boxed(),
                true => futures::future::pending().boxed(),
            }
        }
    }

    /// Returns metadata with one link to the provider.
    async fn linked(tasks: &TaskTracker, stop: CancellationToken) -> Live {
        let memory = Memory::default();
        let link = serde_json::json!({
            "actor_id": ACTOR.public, "provider_id": PROVIDER.public, "link_name": "default",
            "contract_id": CONTRACT, "values": {}
        });
        let key = keys::link(&keys::link_hash(ACTOR.public, CONTRACT, "default"));
        memory.put(&key, link.to_string().into(), Expect::Anything).await.unwrap();
        Live::start(Store::new(Arc::new(memory)), tasks, stop).await.0
    }

    async fn context(live: &Live) -> Context {
        let host_id = HostId::parse(HOST.public).unwrap();
        let lattice = LatticeName::parse("default").unwrap();
        let remote = Remote::offline(Peers::new(&host_id), live.clone()).await;
        let (policy, timeout) = (Policy::off(), Duration::from_secs(2));
        let (journal, name) = (Journal::new(host_id.as_str()), lattice.clone());
        let links = live.clone();
        let writer = journal.writer(PROVIDER.public, "default");
        let router = Router::new(name, links, policy, remote, true, timeout, journal);
        Context {
            journal: writer,
            made: router.meter().caller(PROVIDER.public, "default"),
            router,
            host_id,
            lattice,
            provider_id: ProviderId::parse(PROVIDER.public).unwrap(),
            link_name: LinkName::parse("default").unwrap(),
            contract_id: CONTRACT,
            nats: remote::offline_client().await,
            js_domain: None,
            bounds: Bounds::default(),
            budget: Budget::default(),
            rpc_timeout: timeout,
            data_dir: "/nowhere".into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_is_tried_again_is_shown_in_work() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let live = linked(&tasks, stop.clone()).await;
        let (_end, ending) = watch::channel(None);
        let context = context(&live).await;
        let links = Links::new(Arc::new(Busy::default()), context, live, None);
        let (_states, mut attempted) = (links.published.subscribe(), links.told.subscribe());
        let following = tokio::spawn(links.follow(ending));
        for is_in_work in [false, true] {
            let wanted = attempted.wait_for(|attempts: &Arc<Attempts>| {
                attempts.get(ACTOR.public).is_some_and(|tried| tried.is_in_work == is_in_work)
            });
            // Less than an attempt may take, whose end would be shown.
            tokio::time::timeout(LINK_TIMEOUT / 2, wanted).await.unwrap().unwrap();
        }
        following.abort();
        stop.cancel();
    }
}

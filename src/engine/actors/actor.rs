//! One actor of this host: admits calls, runs each in an instance, counts what is running.
//!
//! A call takes a permit of the actor, then a slot of the host's instance pool, and gives both back
//! when it ends. Calls from outside may fill only a part of the slots: the rest is for the calls
//! that those calls make, or a host full of waiting callers could never answer them. Instances kept
//! for reuse have slots of their own.
//!
//! Invariant: an instance that trapped, ran out of time or was dropped in the middle of a call is
//! never used again.

mod outward;

use std::{pin::pin, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};
use tokio_util::task::TaskTracker;

use super::{
    artifact::{Artifact, Code, ModuleCode},
    component::{self, Prepared, Reuse, config::Configuration, http::worker::Visit},
    engine::Engine,
    guest,
    idle::{Idle, Instance},
    inbound::{Ended, Inbound, Outcome},
    permits::{Permit, Permits, Refused},
    sink::{Level, Sink},
    trial::{Trial, Version, has_failed},
    turns::{ActorTurns, Turn},
    workers::Workers,
};
use crate::{
    control::named_config::NamedConfig,
    journal::Journal,
    meter::{Target, edges::Caller},
    policy::Verified,
    router::{self, Admitted, Local, Router, TargetStatus},
    rpc::{
        call::{Call, CallError},
        server::Handler,
    },
    spans,
};
use lattice_base::telemetry::otel::trace::Span;
use lattice_protocol::{
    identity::{
        claims::{ActorClaims, now},
        keys::ActorId,
    },
    rpc::invocation::Entity,
};
use outward::OutwardOf;

/// Calls of one actor that outlast those they belong to, at a time.
const AFTERWARDS_MAX: usize = 16;

/// The slots of the instance pool, shared by all actors of a host: a quarter may hold idle
/// instances, the rest runs calls.
#[derive(Clone)]
pub struct Slots {
    running: Arc<Semaphore>,
    /// The part of the running slots that calls from outside may take together.
    outside: Arc<Semaphore>,
    idle: Arc<Semaphore>,
    running_max: usize,
    idle_max: usize,
}

/// How slots are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// By calls.
    pub running: usize,
    /// By instances that wait for their next call.
    pub idle: usize,
    pub free: usize,
}

/// The right to one instance.
pub(super) struct Slot {
    _running: OwnedSemaphorePermit,
    _outside: Option<OwnedSemaphorePermit>,
}

impl Slots {
    pub fn new(count: u32) -> Self {
        let count = count as usize;
        let running = (count - count / 4).max(1);
        Self {
            running: Arc::new(Semaphore::new(running)),
            outside: Arc::new(Semaphore::new(outside_of(running))),
            idle: Arc::new(Semaphore::new(count / 4)),
            running_max: running,
            idle_max: count / 4,
        }
    }

    /// How they are used now.
    pub fn usage(&self) -> Usage {
        let (running, idle) = (self.running.available_permits(), self.idle.available_permits());
        Usage {
            running: self.running_max.saturating_sub(running),
            idle: self.idle_max.saturating_sub(idle),
            free: running + idle,
        }
    }

    /// Waits for so many slots, which one instance takes.
    async fn acquire(&self, depth: u8, count: u32) -> Option<Slot> {
        let outside = match depth {
            0 => Some(Arc::clone(&self.outside).acquire_many_owned(count).await.ok()?),
            _ => None,
        };
        Some(Slot {
            _running: Arc::clone(&self.running).acquire_many_owned(count).await.ok()?,
            _outside: outside,
        })
    }

    /// Returns how many slots one call from outside can take at most.
    pub fn at_most(&self) -> u32 {
        u32::try_from(outside_of(self.running_max)).unwrap_or(u32::MAX)
    }
}

/// The part of the running slots that calls from outside may take.
fn outside_of(running: usize) -> usize {
    (running - running / 4).max(1)
}

/// The state that all actors of a host share.
#[derive(Clone)]
pub struct Shared {
    pub engine: Engine,
    pub slots: Slots,
    /// Components have a pool of their own.
    pub component_slots: Slots,
    pub router: Router,
    pub journal: Journal,
    pub config: NamedConfig,
    pub queue_max: usize,
}

/// A running actor.
pub struct Actor {
    pub id: ActorId,
    artifact: ArcSwap<Artifact>,
    /// A newer revision that takes a share of the calls.
    trial: ArcSwapOption<Trial>,
    permits: Arc<Permits>,
    /// Instances that may serve again.
    pub(super) idle: Arc<Idle>,
    /// Those that serve several calls at a time.
    pub(super) workers: Workers,
    pub(super) sink: Arc<Sink>,
    /// Keeps its calls from taking every core.
    pub(super) turns: Arc<ActorTurns>,
    /// Its named configuration, as components read it.
    config: Configuration,
    /// Counts the calls of all time: those it took, and those it made.
    served: Arc<Target>,
    made: Arc<Caller>,
    pub(super) shared: Shared,
    /// Counts the calls in work, so that stopping can wait for them.
    in_work: TaskTracker,
    /// Places of calls that outlast the one they belong to; without one they are left out.
    afterwards: Arc<Semaphore>,
}

impl Actor {
    pub fn new(artifact: Arc<Artifact>, limit: u32, reuse: u32, shared: Shared) -> Arc<Self> {
        let id = artifact.claims.subject.clone();
        Arc::new(Self {
            permits: Permits::new(limit, shared.queue_max),
            idle: Idle::new(reuse),
            workers: Workers::default(),
            sink: Sink::new(id.as_str().into(), shared.journal.writer(id.as_str(), "")),
            served: shared.router.meter().serve(id.as_str(), ""),
            made: shared.router.meter().caller(id.as_str(), ""),
            turns: ActorTurns::new(&shared.engine.turns()),
            config: Configuration::new(shared.config.clone(), id.to_string()),
            artifact: ArcSwap::new(artifact),
            trial: ArcSwapOption::empty(),
            shared,
            in_work: TaskTracker::new(),
            afterwards: Arc::new(Semaphore::new(AFTERWARDS_MAX)),
            id,
        })
    }

    /// The claims it runs under now.
    pub fn claims(&self) -> Arc<ActorClaims> {
        Arc::clone(&self.artifact.load().claims)
    }

    /// Returns the modules it runs now, its own first.
    pub fn artifacts(&self) -> Vec<Arc<Artifact>> {
        let newer = self.trial.load().as_ref().map(|trial| Arc::clone(&trial.artifact));
        [self.artifact.load_full()].into_iter().chain(newer).collect()
    }

    /// Returns the claims of the newest module it runs now.
    pub fn newest_claims(&self) -> Arc<ActorClaims> {
        match &*self.trial.load() {
            Some(trial) => Arc::clone(&trial.artifact.claims),
            None => self.claims(),
        }
    }

    /// Runs another module from the next call on; calls in work finish with the old one.
    pub fn update(&self, artifact: Arc<Artifact>) {
        self.artifact.store(artifact);
        self.trial.store(None);
        self.forget_instances_but(&self.artifacts());
    }

    /// Lets a newer revision take a share of the calls from the next one on, or none any more.
    pub fn set_trial(&self, trial: Option<Trial>) {
        self.trial.store(trial.map(Arc::new));
        self.forget_instances_but(&self.artifacts());
    }

    /// Returns the module of the next call; and what counts the call, while there are two.
    fn next_version(&self) -> (Arc<Artifact>, Option<Version>) {
        let trial = self.trial.load();
        let version = trial.as_ref().map(|trial| trial.next());
        let artifact = match (&*trial, &version) {
            (Some(trial), Some(version)) if version.is_newer() => Arc::clone(&trial.artifact),
            _ => self.artifact.load_full(),
        };
        (artifact, version)
    }

    /// Refuses a call that the claims of a module do not allow.
    fn allows(&self, claims: &ActorClaims, origin: &Entity) -> Result<(), CallError> {
        router::in_force(claims, now())?;
        self.shared.router.admits(origin, self.id.as_str(), &claims.caps)
    }

    /// Changes how many calls may run at a time.
    pub fn set_limit(&self, limit: u32) {
        self.permits.set_limit(limit);
    }

    /// Changes how many calls one instance may serve; `None` for what is usual.
    pub fn set_reuse(&self, reuse: Option<u32>) {
        if self.idle.set_reuse(reuse) {
            self.forget_instances_but(&[]);
        }
    }

    /// Has no instance that there is serve further calls, except those of some modules.
    fn forget_instances_but(&self, modules: &[Arc<Artifact>]) {
        self.workers.retain(modules);
        self.idle.retain(modules);
    }

    /// Admits no call any more and waits until those in work are done.
    pub async fn drain(&self) {
        self.permits.close();
        self.in_work.close();
        self.in_work.wait().await;
        self.forget_instances_but(&[]);
    }

    /// The slots for the instances of an artifact, and how many one instance takes.
    fn slots_of(&self, artifact: &Artifact) -> (&Slots, u32) {
        match &artifact.code {
            Code::Module(_) => (&self.shared.slots, 1),
            Code::Component(prepared) => (&self.shared.component_slots, prepared.slots),
        }
    }

    /// Waits for the slots of one instance.
    pub(super) async fn slot(
        &self,
        artifact: &Artifact,
        depth: u8,
        ends_at: Instant,
    ) -> Result<Slot, CallError> {
        let (slots, count) = self.slots_of(artifact);
        let slot = timeout_at(ends_at, slots.acquire(depth, count)).await;
        slot.map_err(|_| self.not_admitted(Refused::NoSlot))?
            .ok_or_else(|| self.not_admitted(Refused::Stopped))
    }

    pub(super) fn keep(&self, artifact: &Arc<Artifact>, instance: Instance) {
        let (slots, count) = self.slots_of(artifact);
        self.idle.keep(Arc::clone(artifact), instance, || {
            Arc::clone(&slots.idle).try_acquire_many_owned(count).ok()
        });
    }

    pub(super) fn not_admitted(&self, refused: Refused) -> CallError {
        CallError::NotAdmitted { actor_id: self.id.to_string(), reason: refused.to_string() }
    }

    /// Notes that a call ran past its deadline, and returns that as its error. `limit` is the time
    /// that it had.
    fn out_of_time(&self, limit: Duration) -> CallError {
        self.sink.note(Level::Error, "a call ran past its deadline and was ended");
        let limit_ms = limit.as_micros().div_ceil(1000);
        CallError::Deadline { actor_id: self.id.to_string(), limit_ms }
    }

    /// Runs an admitted call. Safe to drop: its instance goes with it.
    async fn run(
        self: Arc<Self>,
        call: Call,
        permit: Permit,
        span: Span,
    ) -> Result<Bytes, CallError> {
        let (artifact, version) = self.next_version();
        spans::runs_in(&span, &artifact.claims);
        let Some(version) = version else {
            return self.run_bounded(call, permit, span, artifact).await;
        };
        let (operation, exchange) = (call.operation.clone(), call.exchange.clone());
        let began = Instant::now();
        // The actor's own claims were looked at before.
        if version.is_newer()
            && let Err(refusal) = self.allows(&artifact.claims, &call.origin)
        {
            version.count(began.elapsed(), true);
            spans::fail(span, &refusal);
            return Err(refusal);
        }
        let result = Arc::clone(&self).run_bounded(call, permit, span, artifact).await;
        let target = self.id.as_str();
        if let Some(failed) = has_failed(&operation, &result, exchange.as_deref(), target) {
            version.count(began.elapsed(), failed);
        }
        result
    }

    async fn run_bounded(
        self: Arc<Self>,
        call: Call,
        permit: Permit,
        span: Span,
        artifact: Arc<Artifact>,
    ) -> Result<Bytes, CallError> {
        // The guest looks at its deadline in its own code only. This is for all that it can wait
        // for in the host, and for a core.
        let (chain, deadline) = (call.chain.clone(), call.deadline);
        let limit = deadline.saturating_duration_since(Instant::now());
        let turn = self.turns.turn(chain.waiting());
        let ended = match &artifact.code {
            Code::Component(prepared)
                if self.idle.calls_max(&artifact) > 1
                    && !turn.is_deep()
                    && prepared.can_share(&call.operation) =>
            {
                let started = (call, turn, limit, span);
                let running = self.run_shared(started, permit, (&artifact, prepared));
                chain.within(deadline, Box::pin(running)).await
            }
            _ => {
                let started = (call, turn, limit, span);
                let running = Arc::clone(&self).run_alone(started, permit, artifact);
                let carried = self.turns.carry(Box::pin(running));
                let ended = chain.within(deadline, carried).await;
                ended.map(|result| result.unwrap_or_else(|| Err(self.ended_by_host())))
            }
        };
        ended.unwrap_or_else(|| Err(self.out_of_time(limit)))
    }

    fn ended_by_host(&self) -> CallError {
        let reason = "the host ended it".to_owned();
        CallError::Trap { actor_id: self.id.to_string(), reason }
    }

    /// Makes of a call what an instance of an artifact gets.
    fn inbound(self: &Arc<Self>, call: Call, artifact: &Artifact, turn: Turn) -> Inbound {
        let outward = OutwardOf {
            actor: Arc::clone(self),
            claims: Arc::clone(&artifact.claims),
            trace: call.trace,
            deadline: call.deadline,
            depth: call.depth,
            chain: call.chain,
        };
        Inbound {
            operation: call.operation,
            payload: call.payload,
            exchange: call.exchange,
            outward: Arc::new(outward),
            turn,
        }
    }

    /// Runs a call in an instance that may serve others, and that computes in a task of its own.
    async fn run_shared(
        self: &Arc<Self>,
        (call, turn, limit, span): (Call, Turn, Duration, Span),
        _permit: Permit,
        (artifact, prepared): (&Arc<Artifact>, &Arc<Prepared>),
    ) -> Result<Bytes, CallError> {
        let _in_work = self.in_work.token();
        let place = (call.depth, call.ends_at(), limit);
        let memory_max = self.shared.engine.memory_max_bytes();
        let inbound = self.inbound(call, artifact, turn);
        let running = pin!(async {
            let visit = Visit::new(inbound, memory_max)?;
            self.run_beside_others((artifact, prepared), visit, place).await
        });
        spans::around(span, running).await
    }

    /// Runs a call in an instance of its own.
    async fn run_alone(
        self: Arc<Self>,
        (call, turn, limit, span): (Call, Turn, Duration, Span),
        _permit: Permit,
        artifact: Arc<Artifact>,
    ) -> Result<Bytes, CallError> {
        let _in_work = self.in_work.token();
        let call = match (&artifact.code, &call.exchange) {
            // A component was replaced by a module while the call was on its way here.
            (Code::Module(_), Some(_)) => match Box::pin(call.whole()).await {
                Ok(call) => call,
                Err(error) => {
                    spans::fail(span, &error);
                    return Err(error);
                }
            },
            _ => call,
        };
        let (depth, ends_at) = (call.depth, call.ends_at());
        let _ticking = self.shared.engine.tick();
        let inbound = self.inbound(call, &artifact, turn.clone());
        let memory_max = self.shared.engine.memory_max_bytes();
        let reuse = match &artifact.code {
            // Those that are kept may serve several calls, and this one has it for itself.
            Code::Component(prepared) if prepared.can_share(&inbound.operation) => Reuse::Never,
            _ => Reuse::of(self.idle.calls_max(&artifact)),
        };
        let running = pin!(async {
            let _slot = self.slot(&artifact, depth, ends_at).await?;
            turn.begin().await;
            let idle = match reuse {
                Reuse::Possible => self.idle.take(&artifact, &inbound.operation),
                Reuse::Never => None,
            };
            match &artifact.code {
                Code::Module(code) => {
                    let (ModuleCode { pre, abi }, idle) =
                        (&**code, idle.and_then(Instance::module));
                    let ran = guest::run(pre, abi, &self.sink, memory_max, idle, inbound).await;
                    self.result_of((ran, limit), &artifact, Instance::Module)
                }
                Code::Component(prepared) => {
                    let (place, idle) =
                        ((&self.sink, memory_max), idle.and_then(Instance::component));
                    // Boxed: the state of a component is ten times that of a module.
                    let ran = Box::pin(component::run(prepared, place, idle, reuse, inbound)).await;
                    self.result_of((ran, limit), &artifact, Instance::Component)
                }
            }
        });
        turn.watch(pin!(spans::around(span, running))).await
    }

    /// Makes the result of a call of how its instance ended and how long it might take, and keeps
    /// an instance that may serve again.
    pub(super) fn result_of<I>(
        &self,
        (outcome, limit): (Outcome<I>, Duration),
        artifact: &Arc<Artifact>,
        kept: fn(I) -> Instance,
    ) -> Result<Bytes, CallError> {
        match outcome {
            Outcome::Returned(result, instance) => {
                if let Some(instance) = instance {
                    self.keep(artifact, kept(instance));
                }
                result
            }
            Outcome::Ended(Ended::PastDeadline) => Err(self.out_of_time(limit)),
            Outcome::Ended(Ended::Trap(reason)) => {
                tracing::warn!(actor_id = %self.id, error = %reason, "actor trapped, the call failed");
                self.sink
                    .note(Level::Error, &format!("the actor trapped, the call failed: {reason}"));
                Err(CallError::Trap { actor_id: self.id.to_string(), reason })
            }
        }
    }
}

impl Local for Actor {
    fn check(&self, call: &Call) -> Result<(), CallError> {
        self.allows(&self.artifact.load().claims, &call.origin)
    }

    fn served(&self) -> Option<&Target> {
        Some(&self.served)
    }

    fn takes_pieces(&self) -> bool {
        match &self.artifact.load().code {
            Code::Module(_) => false,
            Code::Component(prepared) => prepared.answers_requests(),
        }
    }

    fn try_admit(self: Arc<Self>) -> Option<Admitted> {
        let permit = self.permits.try_acquire()?;
        Some(Box::new(move |mut call| {
            let span = spans::run(&mut call, &self.id, &self.served);
            Box::pin(self.run(call, permit, span))
        }))
    }

    fn call(self: Arc<Self>, mut call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        Box::pin(async move {
            let span = spans::run(&mut call, &self.id, &self.served);
            match self.permits.acquire(call.ends_at()).await {
                Ok(permit) => self.run(call, permit, span).await,
                Err(refused) => {
                    let error = self.not_admitted(refused);
                    spans::fail(span, &error);
                    Err(error)
                }
            }
        })
    }

    fn verified(&self) -> Option<Verified> {
        Some(Verified::of_actor(&self.claims()))
    }

    fn status(&self) -> TargetStatus {
        let claims = self.claims();
        TargetStatus {
            capabilities: Some(claims.caps.clone()),
            expires: claims.expires,
            out_of_term: router::in_force(&claims, now()).err(),
            room: Some(self.permits.room()),
            refused: Vec::new(),
        }
    }
}

impl Handler for Actor {
    fn handle(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let router = self.shared.router.clone();
        Box::pin(async move { router.receive(self, call).await })
    }
}

//! Instances kept between the calls of an actor.
//!
//! An instance that has served as many calls as it may is not kept, nor is one that ended in the
//! middle of a call. The newest is taken first, so that in quiet times the others have nothing to
//! do; after [`LASTS`] without a call an instance goes.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use super::{
    artifact::Artifact,
    component::{self, http::worker::Worker},
    guest,
};

/// Instances kept per actor. More are rarely idle at the same time on a small machine.
const KEPT_MAX: usize = 64;
/// How long an instance waits for its next call.
const LASTS: Duration = Duration::from_secs(1);

/// An instance that may serve again.
pub enum Instance {
    Module(guest::Idle),
    // Boxed: it is ten times as large.
    Component(Box<component::Idle>),
    /// One that serves several calls at a time, and none now.
    Worker(Arc<Worker>),
}

impl Instance {
    pub fn module(self) -> Option<guest::Idle> {
        match self {
            Self::Module(idle) => Some(idle),
            Self::Component(_) | Self::Worker(_) => None,
        }
    }

    pub fn component(self) -> Option<Box<component::Idle>> {
        match self {
            Self::Component(idle) => Some(idle),
            Self::Module(_) | Self::Worker(_) => None,
        }
    }

    pub fn worker(self) -> Option<Arc<Worker>> {
        match self {
            Self::Worker(worker) => Some(worker),
            Self::Module(_) | Self::Component(_) => None,
        }
    }

    /// The calls that it has served.
    fn served(&self) -> u32 {
        match self {
            Self::Module(idle) => idle.served,
            Self::Component(idle) => idle.served,
            Self::Worker(worker) => worker.served(),
        }
    }

    /// Gives it a slot; returns the slot if it cannot keep one itself.
    fn hold(&self, slot: OwnedSemaphorePermit) -> Option<OwnedSemaphorePermit> {
        match self {
            Self::Worker(worker) => {
                worker.hold(Box::new(slot));
                None
            }
            Self::Module(_) | Self::Component(_) => Some(slot),
        }
    }
}

/// An idle instance and the artifact it is of: a live update makes the old ones useless.
struct Kept {
    artifact: Arc<Artifact>,
    instance: Instance,
    since: Instant,
    _slot: Option<OwnedSemaphorePermit>,
}

/// The idle instances of an actor.
pub struct Idle {
    /// Calls that an instance may serve if the annotations say nothing; 1 for one.
    default: u32,
    /// The number that the annotations say; 0 if they say none.
    annotated: AtomicU32,
    // Held for a few lines, never across an await.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In the order of time.
    kept: Vec<Kept>,
    /// Runs while there are some.
    sweeper: Option<AbortOnDropHandle<()>>,
}

impl Idle {
    pub fn new(default: u32) -> Arc<Self> {
        Arc::new(Self { default, annotated: AtomicU32::new(0), state: Mutex::default() })
    }

    /// Changes how many calls one instance may serve; `None` for what is usual.
    pub fn set_reuse(&self, reuse: Option<u32>) {
        self.annotated.store(reuse.unwrap_or(0), Ordering::Relaxed);
        self.clear();
    }

    /// Drops all of them.
    pub fn clear(&self) {
        // Instances are dropped without the lock: the end of one takes its time.
        let _held = mem::take(&mut *self.state.lock());
    }

    /// How many calls an instance of an artifact may serve.
    pub fn calls_max(&self, artifact: &Artifact) -> u32 {
        match self.annotated.load(Ordering::Relaxed) {
            0 => self.default.max(artifact.reuse_usual()),
            annotated => annotated,
        }
    }

    /// Takes one of an artifact, for a call of this operation.
    pub fn take(&self, artifact: &Arc<Artifact>, operation: &str) -> Option<Instance> {
        if self.calls_max(artifact) <= 1 || !artifact.can_reuse(operation) {
            return None;
        }
        let mut state = self.state.lock();
        // Two revisions may run side by side.
        let newest = state.kept.iter().rposition(|kept| Arc::ptr_eq(&kept.artifact, artifact))?;
        Some(state.kept.remove(newest).instance)
    }

    /// Keeps one that has served, if it may serve again and there is a `slot` for it.
    pub fn keep(
        self: &Arc<Self>,
        artifact: Arc<Artifact>,
        instance: Instance,
        slot: impl FnOnce() -> Option<OwnedSemaphorePermit>,
    ) {
        if instance.served() >= self.calls_max(&artifact) {
            return;
        }
        // Without a free place the instance goes: the next call gets a fresh one.
        let Some(slot) = slot() else { return };
        let mut state = self.state.lock();
        if state.kept.len() >= KEPT_MAX {
            return;
        }
        let _slot = instance.hold(slot);
        state.kept.push(Kept { artifact, instance, since: Instant::now(), _slot });
        if state.sweeper.is_none() {
            let sweeping = tokio::spawn(Arc::clone(self).sweep());
            state.sweeper = Some(AbortOnDropHandle::new(sweeping));
        }
    }

    /// Drops those whose time is over, until none is left.
    async fn sweep(self: Arc<Self>) {
        let mut next = Instant::now() + LASTS;
        loop {
            tokio::time::sleep_until(next).await;
            let (_old, oldest) = self.take_old();
            let Some(oldest) = oldest else { return };
            next = oldest + LASTS;
        }
    }

    /// Takes out those whose time is over, and says since when the oldest of the others waits.
    fn take_old(&self) -> (Vec<Kept>, Option<Instant>) {
        let mut state = self.state.lock();
        let old = state.kept.partition_point(|kept| kept.since.elapsed() >= LASTS);
        let old: Vec<Kept> = state.kept.drain(..old).collect();
        let oldest = state.kept.first().map(|kept| kept.since);
        if oldest.is_none() {
            state.sweeper = None;
        }
        (old, oldest)
    }
}

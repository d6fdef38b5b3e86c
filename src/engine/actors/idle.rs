//! Instances kept between the calls of an actor.
//!
//! An instance that has served as many calls as it may is not kept, nor is one that ended in the
//! middle of a call. The newest is taken first, so that in quiet times the others have nothing to
//! do; after [`LASTS`] without a call an instance goes.

use std::{
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

    /// Says whether it serves no further calls, although it was kept: a worker may end a little
    /// after its last call.
    fn has_ended(&self) -> bool {
        matches!(self, Self::Worker(worker) if worker.has_ended())
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

    /// Changes how many calls one instance may serve; `None` for what is usual. Says whether it is
    /// another number than before.
    pub fn set_reuse(&self, reuse: Option<u32>) -> bool {
        let reuse = reuse.unwrap_or(0);
        self.annotated.swap(reuse, Ordering::Relaxed) != reuse
    }

    /// Drops all of them, except those of some artifacts.
    pub fn retain(&self, artifacts: &[Arc<Artifact>]) {
        let dropped = {
            let mut state = self.state.lock();
            let is_dropped = |kept: &mut Kept| !kept.artifact.is_one_of(artifacts);
            let dropped: Vec<Kept> = state.kept.extract_if(.., is_dropped).collect();
            if state.kept.is_empty() {
                state.sweeper = None;
            }
            dropped
        };
        // Without the lock: the end of an instance takes its time.
        drop(dropped);
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
        // One that has ended since is dropped here, without the lock.
        std::iter::from_fn(|| self.take_newest(artifact)).find(|instance| !instance.has_ended())
    }

    fn take_newest(&self, artifact: &Arc<Artifact>) -> Option<Instance> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps an instance that serves several calls at a time.
    fn keep(idle: &Idle, artifact: &Arc<Artifact>, worker: &Arc<Worker>) {
        let (artifact, worker) = (Arc::clone(artifact), Arc::clone(worker));
        let (instance, since) = (Instance::Worker(worker), Instant::now());
        idle.state.lock().kept.push(Kept { artifact, instance, since, _slot: None });
    }

    #[tokio::test]
    async fn an_instance_that_ended_since_is_dropped() {
        let (idle, artifact) = (Idle::new(128), Artifact::of_nothing());
        let alive = Worker::of_nothing(&Arc::default());
        let ended = Worker::of_nothing(&Arc::default());
        keep(&idle, &artifact, &alive);
        keep(&idle, &artifact, &ended);
        ended.resume(Box::new(()));
        let taken = idle.take(&artifact, "op").and_then(Instance::worker);
        assert!(taken.is_some_and(|taken| Arc::ptr_eq(&taken, &alive)));
        assert!(idle.state.lock().kept.is_empty());
    }

    #[tokio::test]
    async fn instances_of_other_modules_are_dropped_and_no_others() {
        let (stable, newer) = (Artifact::of_nothing(), Artifact::of_nothing());
        let idle = Idle::new(128);
        for artifact in [&stable, &newer] {
            keep(&idle, artifact, &Worker::of_nothing(&Arc::default()));
        }
        idle.retain(&[Arc::clone(&stable), Arc::clone(&newer)]);
        assert_eq!(idle.state.lock().kept.len(), 2);
        idle.retain(&[Arc::clone(&stable)]);
        assert!(idle.take(&newer, "op").is_none() && idle.take(&stable, "op").is_some());
    }

    #[test]
    fn only_another_number_of_calls_is_news() {
        let idle = Idle::new(1);
        for (reuse, expected) in
            [(None, false), (Some(3), true), (Some(3), false), (Some(4), true), (None, true)]
        {
            assert_eq!(idle.set_reuse(reuse), expected, "{reuse:?}");
        }
    }
}

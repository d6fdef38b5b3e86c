//! The instances of an actor that serve several calls at a time.
//!
//! A call that finds one with room joins it, and needs no slot of the pool. Else it waits for room
//! in one of them, or for a slot, and with that takes an idle instance or a new one. Calls that
//! many others wait for stay by themselves: such chains run by turns (see [`turns`](super::turns)).
//!
//! Invariants:
//! * An instance that a call left before its end takes no further calls: a task of a guest cannot
//!   be cancelled. It goes with the last of its other calls.
//! * An instance with a slot for calls from outside is joined by all calls, every other one only by
//!   calls of actors: those slots are kept for them.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, timeout_at},
};

use super::{
    actor::Actor,
    artifact::Artifact,
    component::{
        Prepared,
        http::worker::{AT_A_TIME_MAX, Fate, Parts, Right, Visit, Worker},
    },
    idle::Instance,
    permits::Refused,
};
use crate::rpc::call::CallError;
use lattice_protocol::contracts::httpserver::HANDLE_REQUEST;

/// The instances that serve calls now, and take more.
#[derive(Default)]
pub struct Workers {
    // Held for a few lines, never across an await.
    busy: Mutex<Vec<Busy>>,
    /// Told when one of them may have room.
    room: Arc<Notify>,
}

/// The lines of calls that wait for a place in the instances of one artifact. Only the first of a
/// line looks for one, so that room that becomes free does not wake all of them.
pub struct Lines {
    outside: Semaphore,
    /// Of calls that actors make.
    actors: Semaphore,
}

impl Default for Lines {
    fn default() -> Self {
        Self { outside: Semaphore::new(1), actors: Semaphore::new(1) }
    }
}

impl Lines {
    /// The line of a call that so many calls of this host wait for.
    fn of(&self, depth: u8) -> &Semaphore {
        match SlotOf::of(depth) {
            SlotOf::Outside => &self.outside,
            SlotOf::Actors => &self.actors,
        }
    }
}

struct Busy {
    artifact: Arc<Artifact>,
    worker: Arc<Worker>,
    /// Calls in it.
    calls: usize,
    slot: SlotOf,
}

/// The calls that a slot of the pool is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotOf {
    Outside,
    /// Kept for calls that actors make.
    Actors,
}

impl SlotOf {
    /// The slot that a call takes which so many calls of this host wait for.
    fn of(depth: u8) -> Self {
        if depth == 0 { Self::Outside } else { Self::Actors }
    }

    fn is_for(self, depth: u8) -> bool {
        self == Self::Outside || depth > 0
    }
}

/// Says whether an instance with so many calls now, and so many in all, takes another one.
fn has_room((calls, served): (usize, u32), calls_max: u32) -> bool {
    calls < AT_A_TIME_MAX && served < calls_max
}

/// The thing that a call found first.
enum Found<S> {
    /// Room in an instance, and it has a place there.
    Room(Arc<Worker>),
    /// A slot for another instance.
    Slot(S),
}

impl Workers {
    /// Waits for room in an instance of an artifact, or for what `slot` ends with. Calls from
    /// outside have depth zero. Safe to drop.
    async fn find<S>(
        &self,
        (artifact, calls_max): (&Arc<Artifact>, u32),
        depth: u8,
        slot: impl Future<Output = S>,
    ) -> Found<S> {
        // Never closed, so there is always a permit to wait for.
        let _first = artifact.lines.of(depth).acquire().await;
        let mut slot = pin!(slot);
        loop {
            // Made before the look: it hears of all room from now on.
            let room = self.room.notified();
            if let Some(worker) = self.join(artifact, depth, calls_max) {
                return Found::Room(worker);
            }
            tokio::select! {
                biased;
                slot = &mut slot => return Found::Slot(slot),
                () = room => {}
            }
        }
    }

    /// Takes a place in one that has room.
    fn join(&self, artifact: &Arc<Artifact>, depth: u8, calls_max: u32) -> Option<Arc<Worker>> {
        let mut busy = self.busy.lock();
        let found = busy.iter_mut().find(|busy| {
            Arc::ptr_eq(&busy.artifact, artifact)
                && busy.slot.is_for(depth)
                && has_room((busy.calls, busy.worker.served()), calls_max)
                && busy.worker.reserve()
        })?;
        found.calls += 1;
        Some(Arc::clone(&found.worker))
    }

    /// Adds one with its first call.
    fn add(&self, artifact: Arc<Artifact>, worker: Arc<Worker>, depth: u8) {
        let slot = SlotOf::of(depth);
        self.busy.lock().push(Busy { artifact, worker, calls: 1, slot });
    }

    /// Takes a call out; returns the instance if no call is left in it and it may have another.
    fn leave(&self, worker: &Arc<Worker>, how: Left) -> Option<Busy> {
        let mut busy = self.busy.lock();
        let at = busy.iter().position(|busy| Arc::ptr_eq(&busy.worker, worker))?;
        busy[at].calls -= 1;
        let is_whole = how == Left::AtItsEnd && !worker.has_ended();
        if is_whole && busy[at].calls > 0 {
            let was_full = busy[at].calls + 1 == AT_A_TIME_MAX;
            drop(busy);
            if was_full {
                self.room.notify_waiters();
            }
            return None;
        }
        let left = busy.swap_remove(at);
        drop(busy);
        is_whole.then_some(left)
    }

    /// Has none of them take further calls, except those of some artifacts.
    pub fn retain(&self, artifacts: &[Arc<Artifact>]) {
        let is_dropped = |busy: &mut Busy| !busy.artifact.is_one_of(artifacts);
        let former: Vec<Busy> = self.busy.lock().extract_if(.., is_dropped).collect();
        drop(former);
    }
}

/// How a call left its instance.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    AtItsEnd,
    Before,
}

/// The place of a call in an instance.
struct Place<'a> {
    actor: &'a Arc<Actor>,
    worker: Arc<Worker>,
    left: Left,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(Busy { artifact, worker, .. }) =
            self.actor.workers.leave(&self.worker, self.left)
        {
            self.actor.keep(&artifact, Instance::Worker(worker));
        }
    }
}

impl Actor {
    /// Runs a call in an instance that may serve others at the same time.
    pub(super) async fn run_beside_others(
        self: &Arc<Self>,
        (artifact, prepared): (&Arc<Artifact>, &Arc<Prepared>),
        visit: Visit,
        (depth, ends_at, limit): (u8, Instant, Duration),
    ) -> Result<Bytes, CallError> {
        let calls_max = self.idle.calls_max(artifact);
        loop {
            let slot = self.slot(artifact, depth, ends_at);
            let finding = self.workers.find((artifact, calls_max), depth, slot);
            let found = timeout_at(ends_at, finding).await;
            let worker = match found.map_err(|_| self.not_admitted(Refused::NoSlot))? {
                Found::Room(worker) => worker,
                Found::Slot(slot) => {
                    let worker = self.open((artifact, prepared), &visit, Box::new(slot?));
                    self.workers.add(Arc::clone(artifact), Arc::clone(&worker), depth);
                    worker
                }
            };
            let mut place = Place { actor: self, worker, left: Left::Before };
            let fate = place.worker.answer(&visit).await;
            place.left = Left::AtItsEnd;
            drop(place);
            if let Fate::Done(outcome) = fate {
                return self.result_of((outcome, limit), artifact, |never| match never {});
            }
        }
    }

    /// Takes an instance that serves no call, or makes one, for a first call.
    fn open(
        self: &Arc<Self>,
        (artifact, prepared): (&Arc<Artifact>, &Arc<Prepared>),
        visit: &Visit,
        slot: Right,
    ) -> Arc<Worker> {
        if let Some(worker) = self.idle.take(artifact, HANDLE_REQUEST).and_then(Instance::worker) {
            worker.resume(slot);
            return worker;
        }
        let (prepared, sink) = (Arc::clone(prepared), Arc::clone(&self.sink));
        let (turns, engine) = (Arc::clone(&self.turns), self.shared.engine.clone());
        let room = Arc::clone(&self.workers.room);
        let parts = Parts { prepared, sink, turns, engine, room };
        Arc::new(Worker::spawn(parts, visit, slot))
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn an_instance_takes_sixteen_calls_at_a_time_and_as_many_as_it_may_in_all() {
        for (calls, served, expected) in
            [(1, 1, true), (15, 127, true), (16, 16, false), (1, 128, false)]
        {
            assert_eq!(has_room((calls, served), 128), expected, "{calls} {served}");
        }
    }

    #[test]
    fn slots_kept_for_calls_of_actors_are_not_taken_by_calls_from_outside() {
        for (opened_at, depth, expected) in
            [(0, 0, true), (0, 3, true), (3, 3, true), (3, 1, true), (3, 0, false)]
        {
            assert_eq!(SlotOf::of(opened_at).is_for(depth), expected, "{opened_at} {depth}");
        }
    }

    /// Workers with one that has its first call.
    fn with_one(artifact: &Arc<Artifact>) -> (Workers, Arc<Worker>) {
        let workers = Workers::default();
        let worker = Worker::of_nothing(&workers.room);
        workers.add(Arc::clone(artifact), Arc::clone(&worker), 0);
        (workers, worker)
    }

    #[tokio::test]
    async fn a_call_that_waits_for_a_slot_takes_room_that_becomes_free() {
        let artifact = Artifact::of_nothing();
        let (workers, worker) = with_one(&artifact);
        let find = |depth| Box::pin(workers.find((&artifact, 128), depth, pending::<()>()));
        let mut first = find(0);
        let mut second = find(0);
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        worker.waits();
        assert!((&mut second).now_or_never().is_none(), "it is not its turn");
        assert!(matches!((&mut first).now_or_never(), Some(Found::Room(_))));
        assert!((&mut second).now_or_never().is_none(), "there was room for one");
        worker.waits();
        assert!(matches!((&mut second).now_or_never(), Some(Found::Room(_))));
        assert_eq!(worker.served(), 3);
    }

    #[tokio::test]
    async fn a_full_instance_has_room_when_a_call_leaves_it() {
        let artifact = Artifact::of_nothing();
        let (workers, worker) = with_one(&artifact);
        for _ in 1..AT_A_TIME_MAX {
            worker.waits();
            assert!(workers.join(&artifact, 0, 128).is_some());
        }
        worker.waits();
        let mut waiting = Box::pin(workers.find((&artifact, 128), 0, pending::<()>()));
        assert!((&mut waiting).now_or_never().is_none());
        assert!(workers.leave(&worker, Left::AtItsEnd).is_none());
        assert!(matches!((&mut waiting).now_or_never(), Some(Found::Room(_))));
    }

    #[tokio::test]
    async fn calls_of_actors_do_not_wait_behind_calls_from_outside() {
        let artifact = Artifact::of_nothing();
        let workers = Workers::default();
        let mut outside = Box::pin(workers.find((&artifact, 128), 0, pending::<()>()));
        assert!((&mut outside).now_or_never().is_none());
        let found = workers.find((&artifact, 128), 1, ready(7)).now_or_never();
        assert!(matches!(found, Some(Found::Slot(7))));
    }

    #[tokio::test]
    async fn calls_of_one_revision_do_not_wait_behind_those_of_another() {
        let (stable, newer) = (Artifact::of_nothing(), Artifact::of_nothing());
        let (workers, worker) = with_one(&stable);
        let mut waiting = Box::pin(workers.find((&newer, 128), 0, pending::<()>()));
        assert!((&mut waiting).now_or_never().is_none());
        worker.waits();
        let found = workers.find((&stable, 128), 0, pending::<()>()).now_or_never();
        assert!(matches!(found, Some(Found::Room(_))));
    }

    #[tokio::test]
    async fn a_worker_takes_no_more_calls_than_it_may_in_all() {
        let artifact = Artifact::of_nothing();
        let (workers, worker) = with_one(&artifact);
        worker.waits();
        assert!(workers.join(&artifact, 0, 2).is_some());
        // Before the request of the other is handed over.
        worker.waits();
        assert!(workers.join(&artifact, 0, 2).is_none());
    }

    #[tokio::test]
    async fn only_instances_of_other_modules_are_forgotten() {
        let (stable, newer) = (Artifact::of_nothing(), Artifact::of_nothing());
        let (workers, worker) = with_one(&stable);
        worker.waits();
        workers.retain(&[Arc::clone(&stable), Arc::clone(&newer)]);
        assert!(workers.join(&stable, 0, 128).is_some());
        worker.waits();
        workers.retain(&[newer]);
        assert!(workers.join(&stable, 0, 128).is_none());
    }
}

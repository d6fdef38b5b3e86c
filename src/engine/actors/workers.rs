//! The instances of an actor that serve several calls at a time.
//!
//! A call that finds one with room joins it, and needs no slot of the pool. Else it takes a slot,
//! and with that an idle instance or a new one. Calls that many others wait for stay by themselves:
//! such chains run by turns (see [`turns`](super::turns)).
//!
//! Invariants:
//! * An instance that a call left before its end takes no further calls: a task of a guest cannot
//!   be cancelled. It goes with the last of its other calls.
//! * An instance with a slot for calls from outside is joined by all calls, every other one only by
//!   calls of actors: those slots are kept for them.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    actor::Actor,
    artifact::Artifact,
    component::{
        Prepared,
        http::worker::{AT_A_TIME_MAX, Fate, Parts, Visit, Worker},
    },
    idle::Instance,
};
use crate::rpc::call::CallError;
use lattice_protocol::contracts::httpserver::HANDLE_REQUEST;

/// The instances that serve calls now, and take more.
#[derive(Default)]
pub struct Workers {
    // Held for a few lines, never across an await.
    busy: Mutex<Vec<Busy>>,
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

impl Workers {
    /// Takes a place in one that has room. Calls from outside have depth zero.
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
            return None;
        }
        let left = busy.swap_remove(at);
        drop(busy);
        is_whole.then_some(left)
    }

    /// Has none of them take further calls.
    pub fn clear(&self) {
        let former = std::mem::take(&mut *self.busy.lock());
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
        (depth, ends_at): (u8, Instant),
    ) -> Result<Bytes, CallError> {
        let calls_max = self.idle.calls_max(artifact);
        loop {
            let worker = match self.workers.join(artifact, depth, calls_max) {
                Some(worker) => worker,
                None => self.open((artifact, prepared), &visit, (depth, ends_at)).await?,
            };
            let mut place = Place { actor: self, worker, left: Left::Before };
            let fate = place.worker.answer(&visit).await;
            place.left = Left::AtItsEnd;
            drop(place);
            if let Fate::Done(outcome) = fate {
                return self.result_of(outcome, artifact, |never| match never {});
            }
        }
    }

    /// Takes an instance that serves no call, or makes one.
    async fn open(
        self: &Arc<Self>,
        (artifact, prepared): (&Arc<Artifact>, &Arc<Prepared>),
        visit: &Visit,
        (depth, ends_at): (u8, Instant),
    ) -> Result<Arc<Worker>, CallError> {
        let slot = Box::new(self.slot(artifact, depth, ends_at).await?);
        let idle = self.idle.take(artifact, HANDLE_REQUEST).and_then(Instance::worker);
        let worker = match idle {
            Some(worker) => {
                worker.hold(slot);
                // It serves this call first.
                worker.reserve();
                worker
            }
            None => {
                let (prepared, sink) = (Arc::clone(prepared), Arc::clone(&self.sink));
                let (turns, engine) = (Arc::clone(&self.turns), self.shared.engine.clone());
                let parts = Parts { prepared, sink, turns, engine };
                Arc::new(Worker::spawn(parts, visit, slot))
            }
        };
        self.workers.add(Arc::clone(artifact), Arc::clone(&worker), depth);
        Ok(worker)
    }
}

#[cfg(test)]
mod tests {
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
}

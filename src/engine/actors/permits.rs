//! How many calls of one actor may run at a time, and how many may wait.
//!
//! The limit can change while calls run. Raising it admits waiting calls at once; lowering it takes
//! free permits away first, and for the rest collects a debt that returning permits pay. Waiting is
//! bounded twice: by a number of waiting calls, beyond which a call is refused at once, and by the
//! caller's deadline.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::router::Room;

/// Why a call was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{waiting} calls are waiting already (call_queue_max)")]
    QueueFull { waiting: usize },
    #[error("no instance became free before the deadline ({limit} may run at a time)")]
    Deadline { limit: u32 },
    #[error("all instances of this host were in use until the deadline (actor_instances_max)")]
    NoSlot,
    #[error("it is being stopped")]
    Stopped,
}

/// The permits of one actor.
#[derive(Debug)]
pub struct Permits {
    semaphore: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue_max: usize,
    // Held for a few lines, never across an await.
    limit: Mutex<Limit>,
}

#[derive(Debug)]
struct Limit {
    limit: u32,
    /// Permits that are out and must not come back.
    debt: usize,
}

/// The right to run one call; gives it back when dropped.
#[derive(Debug)]
pub struct Permit {
    permit: Option<OwnedSemaphorePermit>,
    permits: Arc<Permits>,
}

impl Permits {
    pub fn new(limit: u32, queue_max: usize) -> Arc<Self> {
        Arc::new(Self {
            semaphore: Arc::new(Semaphore::new(limit as usize)),
            waiting: AtomicUsize::new(0),
            queue_max,
            limit: Mutex::new(Limit { limit, debt: 0 }),
        })
    }

    /// How many calls may run at a time.
    pub fn limit(&self) -> u32 {
        self.limit.lock().limit
    }

    /// How much room there is for calls now.
    pub fn room(&self) -> Room {
        // A permit that is free and still owed is taken away when it is next given back.
        let free = u32::try_from(self.semaphore.available_permits()).unwrap_or(u32::MAX);
        let waiting = self.waiting.load(Ordering::Relaxed);
        Room { limit: self.limit(), free, waiting, queue_max: self.queue_max }
    }

    /// Changes how many calls may run at a time.
    pub fn set_limit(&self, limit: u32) {
        let mut state = self.limit.lock();
        if limit >= state.limit {
            let raise = (limit - state.limit) as usize;
            let paid = raise.min(state.debt);
            state.debt -= paid;
            self.semaphore.add_permits(raise - paid);
        } else {
            let lower = (state.limit - limit) as usize;
            state.debt += lower - self.semaphore.forget_permits(lower);
        }
        state.limit = limit;
    }

    /// A permit if one is free now.
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let permit = Arc::clone(&self.semaphore).try_acquire_owned().ok()?;
        Some(Permit { permit: Some(permit), permits: Arc::clone(self) })
    }

    /// Waits for a permit, in the order of arrival. Cancel safe.
    pub async fn acquire(self: &Arc<Self>, deadline: Instant) -> Result<Permit, Refused> {
        if let Some(permit) = self.try_acquire() {
            return Ok(permit);
        }
        let _place = Place::take(self)?;
        let permit =
            match tokio::time::timeout_at(deadline, Arc::clone(&self.semaphore).acquire_owned())
                .await
            {
                Err(_) => return Err(Refused::Deadline { limit: self.limit() }),
                Ok(Err(_)) => return Err(Refused::Stopped),
                Ok(Ok(permit)) => permit,
            };
        Ok(Permit { permit: Some(permit), permits: Arc::clone(self) })
    }

    /// Admits nobody from now on; calls that wait are refused.
    pub fn close(&self) {
        self.semaphore.close();
    }
}

/// A place in the queue; given back when dropped.
struct Place<'a>(&'a Permits);

impl<'a> Place<'a> {
    fn take(permits: &'a Permits) -> Result<Self, Refused> {
        let waiting = permits.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Self(permits);
        if waiting >= permits.queue_max {
            return Err(Refused::QueueFull { waiting });
        }
        Ok(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let mut state = self.permits.limit.lock();
        if state.debt > 0 {
            state.debt -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(10)
    }

    #[tokio::test(start_paused = true)]
    async fn a_lowered_limit_is_paid_by_returning_permits() {
        let permits = Permits::new(3, 8);
        let held: Vec<Permit> = (0..3).filter_map(|_| permits.try_acquire()).collect();
        permits.set_limit(1);
        assert_eq!(permits.acquire(soon()).await.unwrap_err(), Refused::Deadline { limit: 1 });
        drop(held);
        let one = permits.try_acquire();
        assert!(one.is_some());
        assert!(permits.try_acquire().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn raising_while_in_debt_adds_only_the_rest() {
        let permits = Permits::new(2, 8);
        let held: Vec<Permit> = (0..2).filter_map(|_| permits.try_acquire()).collect();
        permits.set_limit(1);
        permits.set_limit(3);
        let third = permits.try_acquire();
        assert!(third.is_some() && permits.try_acquire().is_none());
        drop((held, third));
        assert_eq!((0..4).filter_map(|_| permits.try_acquire()).map(std::mem::forget).count(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_refuses_at_once() {
        let permits = Permits::new(0, 1);
        let waiting = tokio::spawn({
            let permits = Arc::clone(&permits);
            async move { permits.acquire(soon()).await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert_eq!(permits.acquire(soon()).await.unwrap_err(), Refused::QueueFull { waiting: 1 });
        assert_eq!(waiting.await.unwrap(), Err(Refused::Deadline { limit: 0 }));
    }

    #[tokio::test]
    async fn closing_refuses_who_waits() {
        let permits = Permits::new(0, 1);
        permits.close();
        let far = Instant::now() + Duration::from_secs(60);
        assert_eq!(permits.acquire(far).await.unwrap_err(), Refused::Stopped);
    }
}

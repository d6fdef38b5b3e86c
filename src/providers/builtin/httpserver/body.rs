//! Reads the bodies of requests, within bounds.
//!
//! * A body that says it is too long is refused before it is read; one that gets too long is refused then.
//! * All bodies of a provider together have a room of fixed size. A body takes of it twice what has arrived, until that
//!   is more than a small body is; then it takes its whole length at once, so that two half-read bodies never wait for
//!   each other. Small bodies have a part of the room for themselves and never wait behind large ones.
//! * A body that pauses is given up; so is one that trickles, sooner and faster when others wait for its part of the room
//!   or have just done so in vain. This is looked at with every piece that arrives and, while none does, every [`TICK`].
//!
//! The room is given back when the answer is there, since the payload lives as long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::contracts::httpserver::RequestWriter;

/// The longest of the small bodies.
const SMALL: usize = 64 << 10;
const SMALL_UNIT: usize = 1 << 10;
const LARGE_UNIT: usize = 64 << 10;
/// 64 MiB for small bodies and 448 MiB for large ones.
const SMALL_UNITS: usize = (64 << 20) / SMALL_UNIT;
const LARGE_UNITS: usize = (448 << 20) / LARGE_UNIT;
/// How long a body may be slow.
const GRACE: Duration = Duration::from_secs(10);
/// Slower than any line that is in use, bytes per second.
const TRICKLE: u64 = 240;
/// The same for a body in whose place another could be read.
const GRACE_WHEN_WANTED: Duration = Duration::from_secs(3);
/// What is then asked of it, bytes per second. Clients on bad lines send small bodies.
const SMALL_WHEN_WANTED: u64 = 8 << 10;
const LARGE_WHEN_WANTED: u64 = 64 << 10;
/// How long room counts as wanted after somebody waited for it: most waiters give up sooner than a body counts as slow.
const STILL_WANTED: Duration = Duration::from_secs(15);
/// How often bodies that wait for their client are looked at.
const TICK: Duration = Duration::from_millis(500);

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body is longer than {0} bytes")]
    TooLarge(u64),
    #[error("the body came too slowly")]
    TooSlow,
    #[error("too many request bodies are being read")]
    NoRoom,
    #[error("the body is broken: {0}")]
    Broken(#[from] hyper::Error),
}

/// The memory for bodies of one provider.
#[derive(Debug)]
pub struct Room {
    small: Part,
    large: Part,
}

impl Default for Room {
    fn default() -> Self {
        Self { small: Part::new(SMALL_UNITS, SMALL_WHEN_WANTED), large: Part::new(LARGE_UNITS, LARGE_WHEN_WANTED) }
    }
}

/// The room for bodies of one kind.
#[derive(Debug)]
struct Part {
    units: Arc<Semaphore>,
    /// What is asked of those that have it when others want it, bytes per second.
    rate_when_wanted: u64,
    /// Bodies that wait for it.
    waiting: AtomicUsize,
    /// Until when it counts as wanted though nobody waits, in milliseconds after `began`.
    wanted_until: AtomicU64,
    began: Instant,
}

/// The room that one body takes; given back when dropped.
#[derive(Debug, Default)]
pub struct Reserved {
    bytes: usize,
    large: bool,
    permit: Option<OwnedSemaphorePermit>,
}

/// One body's bounds.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub content_max: u64,
    pub idle: Duration,
    /// Until when it waits for room.
    pub deadline: Instant,
}

/// The length a body says it has.
pub fn announced(body: &Incoming) -> Option<u64> {
    body.size_hint().exact()
}

impl Room {
    /// Reads a body into the request that is being written.
    pub async fn read(
        &self,
        mut body: Incoming,
        request: &mut RequestWriter,
        bounds: Bounds,
    ) -> Result<Reserved, BodyError> {
        let mut reserved = Reserved::default();
        if body.is_end_stream() {
            return Ok(reserved);
        }
        let announced = announced(&body);
        // Moved on by what the body had to wait here, which is not its client's fault.
        let mut began = Instant::now();
        loop {
            let slow = |length| self.part(&reserved).is_trickle(length, began.elapsed());
            let idle_at = Instant::now() + bounds.idle;
            let frame = loop {
                let look_at = idle_at.min(Instant::now() + TICK);
                match timeout_at(look_at, body.frame()).await {
                    Err(_) if look_at == idle_at || slow(request.body_len()) => return Err(BodyError::TooSlow),
                    Err(_) => {}
                    Ok(None) => return Ok(reserved),
                    Ok(Some(frame)) => break frame?,
                }
            };
            // Trailers have no place in the contract.
            let Ok(data) = frame.into_data() else { continue };
            let length = request.body_len() + data.len();
            if length as u64 > bounds.content_max {
                return Err(BodyError::TooLarge(bounds.content_max));
            }
            let announced = announced.unwrap_or(0).min(bounds.content_max) as usize;
            let arrived = Instant::now();
            if self.cover(&mut reserved, length, announced, bounds.deadline).await? {
                began += arrived.elapsed();
                if reserved.large {
                    request.reserve(announced.max(length));
                }
            }
            request.push(&data);
            if body.is_end_stream() {
                return Ok(reserved);
            }
            if self.part(&reserved).is_trickle(length, began.elapsed()) {
                return Err(BodyError::TooSlow);
            }
        }
    }

    fn part(&self, reserved: &Reserved) -> &Part {
        if reserved.large { &self.large } else { &self.small }
    }

    /// Makes sure that a body of `length` bytes has room; says whether it took more.
    async fn cover(
        &self,
        reserved: &mut Reserved,
        length: usize,
        announced: usize,
        deadline: Instant,
    ) -> Result<bool, BodyError> {
        if length <= reserved.bytes {
            return Ok(false);
        }
        let doubled = length.next_power_of_two();
        if length <= SMALL {
            let bytes = doubled.min(announced.max(length)).next_multiple_of(SMALL_UNIT);
            let units = (bytes - reserved.bytes) / SMALL_UNIT;
            let more = self.small.acquire(units, deadline).await?;
            reserved.take(bytes, more);
            return Ok(true);
        }
        let bytes = doubled.max(announced).next_multiple_of(LARGE_UNIT);
        // What a small body has goes back once it is a large one.
        let has = if reserved.large { reserved.bytes } else { 0 };
        // A body larger than the room has it for itself.
        let units = |bytes: usize| (bytes / LARGE_UNIT).min(LARGE_UNITS);
        let more = units(bytes) - units(has);
        let more = self.large.acquire(more, deadline).await?;
        if !reserved.large {
            (reserved.permit, reserved.large) = (None, true);
        }
        reserved.take(bytes, more);
        Ok(true)
    }
}

impl Reserved {
    fn take(&mut self, bytes: usize, more: OwnedSemaphorePermit) {
        self.bytes = bytes;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
    }
}

impl Part {
    fn new(units: usize, rate_when_wanted: u64) -> Self {
        Self {
            units: Arc::new(Semaphore::new(units)),
            rate_when_wanted,
            waiting: AtomicUsize::new(0),
            wanted_until: AtomicU64::new(0),
            began: Instant::now(),
        }
    }

    async fn acquire(&self, units: usize, deadline: Instant) -> Result<OwnedSemaphorePermit, BodyError> {
        let units = u32::try_from(units).map_err(|_| BodyError::NoRoom)?;
        if let Ok(permit) = Arc::clone(&self.units).try_acquire_many_owned(units) {
            return Ok(permit);
        }
        let _waiting = Waiting::new(self);
        match timeout_at(deadline, Arc::clone(&self.units).acquire_many_owned(units)).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(BodyError::NoRoom),
        }
    }

    /// Says whether others wait for room, or did a moment ago.
    fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0 || self.now() < self.wanted_until.load(Ordering::Relaxed)
    }

    /// Says whether a body that has a place here comes more slowly than it may.
    fn is_trickle(&self, length: usize, took: Duration) -> bool {
        // Most bodies are done before anybody has to look further.
        if took <= GRACE_WHEN_WANTED {
            return false;
        }
        let below = |rate: u64| (length as u64) < rate.saturating_mul(took.as_secs());
        (took > GRACE && below(TRICKLE)) || (below(self.rate_when_wanted) && self.is_wanted())
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}

/// One body that waits for room.
struct Waiting<'a>(&'a Part);

impl<'a> Waiting<'a> {
    fn new(part: &'a Part) -> Self {
        part.waiting.fetch_add(1, Ordering::Relaxed);
        Self(part)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let until = self.0.now() + STILL_WANTED.as_millis() as u64;
        self.0.wanted_until.fetch_max(until, Ordering::Relaxed);
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(10)
    }

    fn free(room: &Room) -> (usize, usize) {
        (room.small.units.available_permits(), room.large.units.available_permits())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_holds_twice_what_came_and_all_of_a_large_one_at_once() {
        let room = Room::default();
        let mut reserved = Reserved::default();
        assert!(room.cover(&mut reserved, 1, 100 << 20, soon()).await.unwrap());
        assert_eq!(free(&room), (SMALL_UNITS - 1, LARGE_UNITS));
        assert!(!room.cover(&mut reserved, 1024, 100 << 20, soon()).await.unwrap());
        assert!(room.cover(&mut reserved, 3000, 100 << 20, soon()).await.unwrap());
        assert_eq!(free(&room), (SMALL_UNITS - 4, LARGE_UNITS));
        assert!(room.cover(&mut reserved, SMALL + 1, 100 << 20, soon()).await.unwrap());
        assert_eq!(free(&room), (SMALL_UNITS, LARGE_UNITS - 1600));
        assert!(!room.cover(&mut reserved, 100 << 20, 100 << 20, soon()).await.unwrap());
        drop(reserved);
        assert_eq!(free(&room), (SMALL_UNITS, LARGE_UNITS));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_of_unknown_length_doubles_and_one_larger_than_the_room_has_it_all() {
        let room = Room::default();
        let mut reserved = Reserved::default();
        for length in [SMALL, SMALL + 1, (1 << 20) + 1] {
            room.cover(&mut reserved, length, 0, soon()).await.unwrap();
        }
        assert_eq!(free(&room), (SMALL_UNITS, LARGE_UNITS - 32));
        room.cover(&mut reserved, 1 << 30, 0, soon()).await.unwrap();
        assert_eq!(free(&room), (SMALL_UNITS, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn without_room_a_large_body_waits_until_its_deadline_and_a_small_one_does_not() {
        let room = Room::default();
        let (mut first, mut second, mut small) = Default::default();
        room.cover(&mut first, 1 << 30, 1 << 30, soon()).await.unwrap();
        assert!(matches!(room.cover(&mut second, SMALL + 1, 0, soon()).await, Err(BodyError::NoRoom)));
        room.cover(&mut small, SMALL, 0, soon()).await.unwrap();
        let (waited, ()) = tokio::join!(room.cover(&mut second, SMALL + 1, 0, soon()), async {
            tokio::task::yield_now().await;
            drop(first);
        });
        waited.unwrap();
        assert!(room.large.is_wanted() && !room.small.is_wanted());
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_wanted_while_somebody_waits_for_it_and_a_while_longer() {
        let room = Room::default();
        let mut holders: Vec<Reserved> = Vec::new();
        for _ in 0..1024 {
            let mut holder = Reserved::default();
            room.cover(&mut holder, SMALL / 2 + 1, SMALL, soon()).await.unwrap();
            holders.push(holder);
        }
        let (came, took) = (SMALL / 2 + 1, Duration::from_secs(20));
        assert!(!room.small.is_trickle(came, took), "nobody waits");
        let mut late = Reserved::default();
        let deadline = Instant::now() + Duration::from_secs(2);
        let (refused, ()) = tokio::join!(room.cover(&mut late, 1, 1, deadline), async {
            tokio::task::yield_now().await;
            assert!(room.small.is_trickle(came, took));
        });
        assert!(matches!(refused, Err(BodyError::NoRoom)));
        // Its client will try again, and then there is room.
        assert!(room.small.is_trickle(came, took) && !room.large.is_wanted());
        tokio::time::advance(STILL_WANTED).await;
        assert!(!room.small.is_trickle(came, took));
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_known_by_its_rate_after_a_while() {
        let (seconds, room) = (Duration::from_secs, Room::default());
        assert!(!room.large.is_trickle(1, seconds(10)));
        assert!(room.large.is_trickle(1000, seconds(11)));
        assert!(!room.large.is_trickle(100_000, seconds(11)));
        let _waiting = (Waiting::new(&room.large), Waiting::new(&room.small));
        assert!(!room.large.is_trickle(1, seconds(3)));
        assert!(room.large.is_trickle(100_000, seconds(4)) && !room.small.is_trickle(100_000, seconds(4)));
        assert!(!room.large.is_trickle(1 << 20, seconds(16)));
    }
}

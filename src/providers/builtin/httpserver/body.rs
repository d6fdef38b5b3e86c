//! Reads the bodies of requests, within bounds.
//!
//! * A body that says it is too long is refused before it is read; one that gets too long is refused then.
//! * All bodies of a provider together have a room of fixed size. A body takes of it twice what has arrived, until that
//!   is more than a small body is; then it takes its whole length at once, so that two half-read bodies never wait for
//!   each other. Small bodies have a part of the room for themselves and never wait behind large ones.
//! * A body that pauses is given up; so is one that trickles, and sooner when others wait for its room.
//!
//! The room is given back when the answer is there, since the payload lives as long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
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
/// What is asked of a body in whose place another could be read, bytes per second.
const TRICKLE_WHEN_WANTED: u64 = 64 << 10;

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
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    /// Large bodies that wait.
    wanted: AtomicUsize,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            small: Arc::new(Semaphore::new(SMALL_UNITS)),
            large: Arc::new(Semaphore::new(LARGE_UNITS)),
            wanted: AtomicUsize::new(0),
        }
    }
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
        let began = Instant::now();
        loop {
            let frame = match timeout(bounds.idle, body.frame()).await {
                Err(_) => return Err(BodyError::TooSlow),
                Ok(None) => return Ok(reserved),
                Ok(Some(frame)) => frame?,
            };
            // Trailers have no place in the contract.
            let Ok(data) = frame.into_data() else { continue };
            let length = request.body_len() + data.len();
            if length as u64 > bounds.content_max {
                return Err(BodyError::TooLarge(bounds.content_max));
            }
            let announced = announced.unwrap_or(0).min(bounds.content_max) as usize;
            if self.cover(&mut reserved, length, announced, bounds.deadline).await? && reserved.large {
                request.reserve(announced.max(length));
            }
            request.push(&data);
            if body.is_end_stream() {
                return Ok(reserved);
            }
            if is_trickle(length, began.elapsed(), self.wanted.load(Ordering::Relaxed) > 0) {
                return Err(BodyError::TooSlow);
            }
        }
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
            let more = acquire(&self.small, units, deadline).await?;
            reserved.take(bytes, more);
            return Ok(true);
        }
        let bytes = doubled.max(announced).next_multiple_of(LARGE_UNIT);
        // What a small body has goes back once it is a large one.
        let has = if reserved.large { reserved.bytes } else { 0 };
        // A body larger than the room has it for itself.
        let units = |bytes: usize| (bytes / LARGE_UNIT).min(LARGE_UNITS);
        let more = units(bytes) - units(has);
        let wanted = (self.large.available_permits() < more).then(|| Wanted::new(&self.wanted));
        let more = acquire(&self.large, more, deadline).await?;
        drop(wanted);
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

/// One large body that waits for room.
struct Wanted<'a>(&'a AtomicUsize);

impl<'a> Wanted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn acquire(room: &Arc<Semaphore>, units: usize, deadline: Instant) -> Result<OwnedSemaphorePermit, BodyError> {
    let units = u32::try_from(units).map_err(|_| BodyError::NoRoom)?;
    if let Ok(permit) = Arc::clone(room).try_acquire_many_owned(units) {
        return Ok(permit);
    }
    match timeout_at(deadline, Arc::clone(room).acquire_many_owned(units)).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(BodyError::NoRoom),
    }
}

/// Says whether a body comes more slowly than it may.
fn is_trickle(length: usize, took: Duration, wanted: bool) -> bool {
    let rate = if wanted { TRICKLE_WHEN_WANTED } else { TRICKLE };
    took > GRACE && (length as u64) < rate.saturating_mul(took.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(10)
    }

    fn free(room: &Room) -> (usize, usize) {
        (room.small.available_permits(), room.large.available_permits())
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
            assert_eq!(room.wanted.load(Ordering::Relaxed), 1);
            drop(first);
        });
        waited.unwrap();
        assert_eq!(room.wanted.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_trickle_is_known_by_its_rate_after_a_while() {
        let seconds = Duration::from_secs;
        assert!(!is_trickle(1, seconds(10), true));
        assert!(is_trickle(1000, seconds(11), false));
        assert!(!is_trickle(100_000, seconds(11), false));
        assert!(is_trickle(100_000, seconds(11), true));
    }
}

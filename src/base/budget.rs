//! The memory that payloads may take, all of this process together.
//!
//! Payloads come from strangers, and many may come at a time. Each of them is small enough by a
//! limit of its own; this is the limit of their sum. A [`Budget`] is made once for a host and
//! handed to everybody who gathers payloads: fetches from object stores, bodies of requests and
//! answers, images.
//!
//! * Bytes are paid for when they have arrived, never by a size that somebody announces. [`Held`]
//!   is what one payload has; it grows with the payload and gives everything back when it is
//!   dropped.
//! * [`Buffer`] gathers one payload: it pays first and reserves memory then, never more than twice
//!   what has arrived or [`AHEAD`], and without ever ending the process for want of memory. Its
//!   result gives back with its last copy.
//! * Small payloads, up to [`SMALL`], have a part of the budget for themselves and never wait
//!   behind large ones.
//! * A payload larger than the whole budget has it for itself; whoever reads it has a limit of its
//!   own.
//! * Large ones wait in the order of arrival, until their caller's deadline. So that half-read ones
//!   do not wait for each other in vain, one payload at a time has the *turn*: a quarter of the
//!   large part that is for it alone.
//!
//! Everything waits without a lock. A small payload costs one atomic operation.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use lattice_protocol::clock;

/// The longest of the small payloads, in bytes.
pub const SMALL: usize = 64 << 10;
/// How far memory is reserved ahead of the first bytes of a payload.
const AHEAD: usize = 1 << 20;
/// The bytes that one permit stands for.
const UNIT: usize = 1 << 10;
/// Large payloads grow in steps of this size.
const LARGE_STEP: usize = 64 << 10;
/// Of the budget, the part for small payloads; of the rest, the part for the one whose turn it is.
const SMALL_SHARE: usize = 8;
const TURN_SHARE: usize = 4;
/// Of the machine's memory, the budget unless it is set; within bounds that serve on every machine.
const MEMORY_SHARE: u64 = 8;
const DEFAULT_MIN: u64 = 256 << 20;
const DEFAULT_MAX: u64 = 512 << 20;
/// The smallest budget that can be set.
pub const BYTES_MIN: u64 = 16 << 20;
/// How long a part counts as wanted after somebody waited for it: most waiters give up soon.
const STILL_WANTED: Duration = Duration::from_secs(15);

/// Why a payload has no room.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    #[error(
        "other payloads take the memory that is for them on this host ({max} bytes, payload_memory_max_bytes); try \
         again later, or raise it"
    )]
    Full { max: usize },
    #[error("the machine has no memory for {bytes} more bytes of a payload")]
    Machine { bytes: usize },
}

/// The memory for payloads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes_max: usize,
    small: Part,
    large: Part,
    /// Held by the payload whose turn it is, until that is dropped.
    turn: Arc<Semaphore>,
    /// The units for it alone.
    for_turn: Arc<Semaphore>,
    /// The units for all large payloads, and those that one of them can have at most.
    shared: usize,
    large_max: usize,
}

/// The memory for payloads of one kind.
#[derive(Debug)]
struct Part {
    units: Arc<Semaphore>,
    /// Payloads that wait for it.
    waiting: AtomicUsize,
    /// Until when it counts as wanted though nobody waits, in milliseconds after `began`.
    wanted_until: AtomicU64,
    began: Instant,
}

impl Default for Budget {
    /// A share of this machine's memory.
    fn default() -> Self {
        let share = machine_memory().map_or(DEFAULT_MAX, |memory| memory / MEMORY_SHARE);
        Self::new(share.clamp(DEFAULT_MIN, DEFAULT_MAX))
    }
}

impl Budget {
    /// A budget of so many bytes, [`BYTES_MIN`] at least.
    pub fn new(bytes_max: u64) -> Self {
        let bytes_max = usize::try_from(bytes_max.max(BYTES_MIN)).unwrap_or(usize::MAX / 2);
        let units = (bytes_max / UNIT).min(Semaphore::MAX_PERMITS);
        let small = units / SMALL_SHARE;
        let large_max = (units - small).min(u32::MAX as usize);
        let for_turn = large_max / TURN_SHARE;
        let shared = large_max - for_turn;
        Self(Arc::new(Inner {
            bytes_max,
            small: Part::new(small),
            large: Part::new(shared),
            turn: Arc::new(Semaphore::new(1)),
            for_turn: Arc::new(Semaphore::new(for_turn)),
            shared,
            large_max,
        }))
    }

    /// How many bytes all payloads may take together.
    pub fn bytes_max(&self) -> usize {
        self.0.bytes_max
    }

    /// How many bytes the largest payload has that fits into the budget.
    pub fn payload_max(&self) -> usize {
        self.0.large_max * UNIT / LARGE_STEP * LARGE_STEP
    }

    /// Begins a payload that has nothing yet.
    pub fn hold(&self) -> Held {
        Held {
            budget: self.clone(),
            bytes: 0,
            small: None,
            large: None,
            for_turn: None,
            turn: None,
        }
    }

    /// Whether others wait for the part that a payload of this length is in, or did a moment ago.
    pub fn is_wanted(&self, length: usize) -> bool {
        if length <= SMALL { self.0.small.is_wanted() } else { self.0.large.is_wanted() }
    }
}

/// The part of the budget that one payload holds; given back when dropped.
#[derive(Debug)]
pub struct Held {
    budget: Budget,
    bytes: usize,
    small: Option<OwnedSemaphorePermit>,
    large: Option<OwnedSemaphorePermit>,
    for_turn: Option<OwnedSemaphorePermit>,
    turn: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// How many bytes are paid for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes sure that a payload of `bytes` in all is paid for, and waits for that until the
    /// deadline. Says whether it took more.
    pub async fn cover(&mut self, bytes: usize, deadline: Instant) -> Result<bool, Shortage> {
        if bytes <= self.bytes {
            return Ok(false);
        }
        if self.take_at_once(bytes) {
            return Ok(true);
        }
        let wanted = rounded(bytes);
        let budget = self.budget.clone();
        let inner = &*budget.0;
        let part = if wanted <= SMALL { &inner.small } else { &inner.large };
        let _waiting = Waiting::new(part);
        timeout_at(deadline, self.wait(wanted))
            .await
            .map_err(|_| Shortage::Full { max: inner.bytes_max })?;
        self.bytes = wanted;
        Ok(true)
    }

    /// The same without waiting.
    pub fn try_cover(&mut self, bytes: usize) -> Result<(), Shortage> {
        if bytes <= self.bytes || self.take_at_once(bytes) {
            return Ok(());
        }
        Err(Shortage::Full { max: self.budget.0.bytes_max })
    }

    /// Makes a payload that gives back what it has with its last copy.
    pub fn keep(self, payload: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        Bytes::from_owner(Kept { payload, _held: self })
    }

    /// Takes what is missing if it is there now; says whether it was.
    fn take_at_once(&mut self, bytes: usize) -> bool {
        let wanted = rounded(bytes);
        let budget = self.budget.clone();
        let inner = &*budget.0;
        if wanted <= SMALL {
            let missing = units(wanted - self.bytes);
            let Some(more) = taken(&inner.small.units, missing) else { return false };
            merge(&mut self.small, more);
        } else {
            let missing = self.missing_units(wanted);
            if let Some(more) = taken(&inner.large.units, missing) {
                merge(&mut self.large, more);
            } else if self.turn.is_some()
                && let Some(more) = taken(&inner.for_turn, missing)
            {
                merge(&mut self.for_turn, more);
            } else {
                return false;
            }
            self.small = None;
        }
        self.bytes = wanted;
        true
    }

    /// Waits for what is missing. Cancel safe.
    async fn wait(&mut self, wanted: usize) {
        let budget = self.budget.clone();
        let inner = &*budget.0;
        if wanted <= SMALL {
            let more = waited(&inner.small.units, units(wanted - self.bytes)).await;
            return merge(&mut self.small, more);
        }
        if self.turn.is_none() {
            let missing = self.missing_units(wanted);
            tokio::select! {
                biased;
                // More than is there for all would never come, and be kept from everybody
                // meanwhile.
                more = waited(&inner.large.units, missing), if missing as usize <= inner.shared => {
                    self.small = None;
                    return merge(&mut self.large, more);
                }
                turn = waited(&inner.turn, 1) => self.turn = Some(turn),
            }
        }
        // The payload whose turn it is first takes what is left of the part reserved for it, and
        // then waits until others give back the rest.
        let missing = self.missing_units(wanted);
        let own =
            u32::try_from(inner.for_turn.available_permits()).unwrap_or(u32::MAX).min(missing);
        if let Some(more) = taken(&inner.for_turn, own) {
            merge(&mut self.for_turn, more);
        }
        let missing = self.missing_units(wanted);
        let more = waited(&inner.large.units, missing).await;
        self.small = None;
        merge(&mut self.large, more);
    }

    /// The units a large payload misses; it never needs more than there are.
    fn missing_units(&self, wanted: usize) -> u32 {
        let held = [&self.large, &self.for_turn].into_iter().flatten();
        let has: usize = held.map(OwnedSemaphorePermit::num_permits).sum();
        let all = u32::try_from(self.budget.0.large_max).unwrap_or(u32::MAX);
        units(wanted).min(all).saturating_sub(u32::try_from(has).unwrap_or(u32::MAX))
    }
}

/// A payload together with what it holds of the budget.
struct Kept<T> {
    payload: T,
    _held: Held,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Kept<T> {
    fn as_ref(&self) -> &[u8] {
        self.payload.as_ref()
    }
}

/// Gathers one payload that arrives in pieces.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    held: Held,
    /// The length it is said to get: memory is not reserved beyond it.
    announced: Option<usize>,
}

impl Buffer {
    /// A buffer for a payload that is said to get so many bytes; nobody relies on that.
    pub fn new(budget: &Budget, announced: Option<usize>) -> Self {
        Self { bytes: Vec::new(), held: budget.hold(), announced }
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends a piece that has arrived, after it is paid for; waits for that until the deadline.
    pub async fn push(&mut self, piece: &[u8], deadline: Instant) -> Result<(), Shortage> {
        let length = self.bytes.len() + piece.len();
        if length > self.bytes.capacity() {
            let capacity =
                capacity(length, self.announced).min(self.held.budget.payload_max()).max(length);
            self.held.cover(capacity, deadline).await?;
            let more = capacity - self.bytes.len();
            self.bytes.try_reserve_exact(more).map_err(|_| Shortage::Machine { bytes: more })?;
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    /// Ends the payload and hands over what it holds, for a payload that is made of it.
    pub fn into_parts(self) -> (Bytes, Held) {
        (self.bytes.into(), self.held)
    }

    /// Ends the payload. Its part of the budget is given back with its last copy.
    pub fn finish(self) -> Bytes {
        if self.bytes.is_empty() {
            return Bytes::new();
        }
        self.held.keep(self.bytes)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// How much a buffer gets when it must have `length` bytes: twice that, or a little at the
/// beginning, and never more than it is said to need in all.
fn capacity(length: usize, announced: Option<usize>) -> usize {
    let ahead = length.saturating_mul(2);
    match announced {
        Some(announced) if announced >= length => announced.min(ahead.max(AHEAD)),
        _ => ahead,
    }
}

impl Part {
    fn new(units: usize) -> Self {
        Self {
            units: Arc::new(Semaphore::new(units)),
            waiting: AtomicUsize::new(0),
            wanted_until: AtomicU64::new(0),
            began: Instant::now(),
        }
    }

    /// Says whether others wait for it, or did a moment ago.
    fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
            || self.now() < self.wanted_until.load(Ordering::Relaxed)
    }

    fn now(&self) -> u64 {
        clock::millis(self.began.elapsed())
    }
}

/// One payload that waits for memory.
struct Waiting<'a>(&'a Part);

impl<'a> Waiting<'a> {
    fn new(part: &'a Part) -> Self {
        part.waiting.fetch_add(1, Ordering::Relaxed);
        Self(part)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let until = self.0.now() + clock::millis(STILL_WANTED);
        self.0.wanted_until.fetch_max(until, Ordering::Relaxed);
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn taken(semaphore: &Arc<Semaphore>, units: u32) -> Option<OwnedSemaphorePermit> {
    Arc::clone(semaphore).try_acquire_many_owned(units).ok()
}

async fn waited(semaphore: &Arc<Semaphore>, units: u32) -> OwnedSemaphorePermit {
    Arc::clone(semaphore)
        .acquire_many_owned(units)
        .await
        .expect("no semaphore of a budget is ever closed")
}

fn merge(held: &mut Option<OwnedSemaphorePermit>, more: OwnedSemaphorePermit) {
    match held {
        Some(held) => held.merge(more),
        None => *held = Some(more),
    }
}

/// Returns how much of the budget a payload of so many bytes takes.
fn rounded(bytes: usize) -> usize {
    let step = if bytes <= SMALL { UNIT } else { LARGE_STEP };
    bytes.checked_next_multiple_of(step).unwrap_or(bytes)
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

/// The machine's memory in bytes, or the control group's limit when that is lower.
pub fn machine_memory() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024;
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    Some(group.map_or(total, |group: u64| group.min(total)))
}

/// How many mappings of memory a process may have, where the system has such a limit.
pub fn mappings_max() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/vm/max_map_count").ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(10)
    }

    /// Free units in KiB: of the small part, of the large part, for the one whose turn it is.
    fn free(budget: &Budget) -> (usize, usize, usize) {
        let inner = &budget.0;
        let free = |units: &Semaphore| units.available_permits();
        (free(&inner.small.units), free(&inner.large.units), free(&inner.for_turn))
    }

    #[tokio::test(start_paused = true)]
    async fn a_payload_pays_for_what_it_has_and_gives_it_back() {
        let budget = Budget::new(64 << 20);
        let all = free(&budget);
        assert_eq!(all, (8 << 10, 42 << 10, 14 << 10));
        let mut held = budget.hold();
        assert!(held.cover(1, soon()).await.unwrap());
        assert!(!held.cover(1024, soon()).await.unwrap());
        assert_eq!(free(&budget).0, all.0 - 1);
        assert!(held.cover(SMALL + 1, soon()).await.unwrap());
        assert_eq!((free(&budget).0, free(&budget).1), (all.0, all.1 - 128));
        let payload = held.keep(vec![1, 2, 3]);
        let copy = payload.slice(1..);
        drop(payload);
        assert_eq!((&copy[..], free(&budget).1), (&[2, 3][..], all.1 - 128));
        drop(copy);
        assert_eq!(free(&budget), all);
    }

    #[tokio::test(start_paused = true)]
    async fn without_room_a_payload_waits_until_its_deadline_and_a_small_one_does_not() {
        let budget = Budget::new(64 << 20);
        let (mut first, mut second, mut small) = (budget.hold(), budget.hold(), budget.hold());
        // The second has the turn, and more than that is not there.
        first.cover(42 * MIB, soon()).await.unwrap();
        assert_eq!(second.cover(15 * MIB, soon()).await, Err(Shortage::Full { max: 64 << 20 }));
        assert!(budget.is_wanted(15 * MIB) && !budget.is_wanted(1));
        small.cover(SMALL, soon()).await.unwrap();
        assert_eq!(second.try_cover(15 * MIB), Err(Shortage::Full { max: 64 << 20 }));
        let (waited, ()) = tokio::join!(second.cover(15 * MIB, soon()), async {
            tokio::task::yield_now().await;
            drop(first);
        });
        assert!(waited.unwrap());
        tokio::time::advance(STILL_WANTED * 2).await;
        assert!(!budget.is_wanted(15 * MIB));
    }

    #[tokio::test(start_paused = true)]
    async fn half_read_payloads_do_not_wait_for_each_other_in_vain() {
        let budget = Budget::new(64 << 20);
        let mut half_read: Vec<Held> = (0..6).map(|_| budget.hold()).collect();
        for held in &mut half_read {
            held.cover(7 * MIB, soon()).await.unwrap();
        }
        assert_eq!(free(&budget).1, 0);
        let deadline = Instant::now() + Duration::from_secs(10);
        let wholes = half_read.into_iter().map(|mut held| async move {
            held.cover(14 * MIB, deadline).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        });
        futures::future::join_all(wholes).await;
        assert_eq!(free(&budget), (8 << 10, 42 << 10, 14 << 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_payload_larger_than_the_budget_has_it_for_itself() {
        let budget = Budget::new(64 << 20);
        assert_eq!(budget.payload_max(), 56 * MIB);
        let (mut other, mut giant, mut small) = (budget.hold(), budget.hold(), budget.hold());
        other.cover(MIB, soon()).await.unwrap();
        assert!(giant.cover(500 * MIB, soon()).await.is_err());
        drop(other);
        assert!(giant.cover(500 * MIB, soon()).await.unwrap());
        assert_eq!((free(&budget).1, free(&budget).2), (0, 0));
        assert!(giant.cover(900 * MIB, soon()).await.unwrap());
        small.cover(SMALL, soon()).await.unwrap();
        drop(giant);
        drop(small);
        assert_eq!(free(&budget), (8 << 10, 42 << 10, 14 << 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_buffer_reserves_nothing_by_what_is_announced() {
        let budget = Budget::new(64 << 20);
        let mut buffer = Buffer::new(&budget, Some(1 << 40));
        assert_eq!((buffer.bytes.capacity(), buffer.held.bytes()), (0, 0));
        buffer.push(&[1], soon()).await.unwrap();
        assert_eq!(buffer.bytes.capacity(), AHEAD);
        buffer.push(&vec![2; 3 * MIB], soon()).await.unwrap();
        assert_eq!(buffer.bytes.capacity(), 2 * (3 * MIB + 1));
        for _ in 0..53 {
            buffer.push(&vec![3; MIB - 1], soon()).await.unwrap();
        }
        let payload = buffer.finish();
        assert_eq!(payload.len(), 1 + 3 * MIB + 53 * (MIB - 1));
        drop(payload);
        assert_eq!(free(&budget), (8 << 10, 42 << 10, 14 << 10));
    }

    #[test]
    fn a_buffer_doubles_and_stops_at_what_is_announced() {
        for (length, announced, expected) in [
            (1, None, 2),
            (1, Some(10), 10),
            (1, Some(100 * MIB), MIB),
            (3 * MIB, Some(100 * MIB), 6 * MIB),
            (60 * MIB, Some(100 * MIB), 100 * MIB),
            (100 * MIB, Some(100 * MIB), 100 * MIB),
            // It lied.
            (101 * MIB, Some(100 * MIB), 202 * MIB),
        ] {
            assert_eq!(capacity(length, announced), expected, "{length} of {announced:?}");
        }
    }
}

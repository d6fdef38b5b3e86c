//! The payloads that this host has in the object store: how much they may take, and when they go.
//!
//! [`Stored`] is an object that this host stored. When it is dropped, by whatever end its call
//! took, the object goes; an answer stays for [`ANSWER_KEPT`]. Until it has gone its bytes count as
//! in flight, of which each actor and provider has [`IN_FLIGHT_OF_ONE`] and the host
//! [`IN_FLIGHT_MAX`]. [`Chunks::keep_tidy`] removes what is due; buckets made by this host drop
//! what is older than [`OBJECT_AGE_MAX`](super::OBJECT_AGE_MAX) besides, for hosts that die.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{Chunks, name::PayloadName};
use lattice_base::store::objects::PieceId;

/// How long an answer stays for its caller; all of them give up before.
const ANSWER_KEPT: Duration = Duration::from_secs(30);
/// Bytes of one actor or provider that are in the object store, in KiB. A larger payload has all of
/// it.
pub(super) const IN_FLIGHT_OF_ONE: u32 = 64 << 10;
/// Bytes of all of them, in KiB.
const IN_FLIGHT_MAX: u32 = 512 << 10;
const KIB: usize = 1 << 10;
/// How long a payload waits until others' bytes are not in flight any more.
const IN_FLIGHT_WAIT: Duration = Duration::from_millis(1500);
/// How long after it was left an answer is most likely fetched.
const FETCHED_AFTER: Duration = Duration::from_secs(2);
/// Objects that are looked at or removed at a time.
const TIDY_AT_ONCE: usize = 16;
/// How often those who wait for others' bytes have the store looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How often what is due is looked for without a reason.
const TIDY: Duration = Duration::from_secs(5);

/// The payloads of this host that are in the object store.
pub(super) struct InStore {
    in_flight: Arc<Semaphore>,
    // Both held for a few lines, never across an await.
    in_flight_of: Mutex<HashMap<String, Weak<Semaphore>>>,
    leftovers: Mutex<VecDeque<Leftover>>,
    /// Payloads that wait until others' bytes are not in flight any more.
    waiting: AtomicUsize,
    /// Something is due, or somebody waits.
    untidy: Notify,
}

impl Default for InStore {
    fn default() -> Self {
        Self {
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_MAX as usize)),
            in_flight_of: Mutex::default(),
            leftovers: Mutex::default(),
            waiting: AtomicUsize::new(0),
            untidy: Notify::new(),
        }
    }
}

impl InStore {
    /// Counts bytes as in flight; `None` if too many are.
    pub(super) async fn room(&self, bytes: usize, whose: &str) -> Option<InFlight> {
        let deadline = Instant::now() + IN_FLIGHT_WAIT;
        let kib = u32::try_from(bytes.div_ceil(KIB)).unwrap_or(u32::MAX);
        let of_one = self.semaphore_of(whose).acquire_many_owned(kib.min(IN_FLIGHT_OF_ONE));
        let of_all = Arc::clone(&self.in_flight).acquire_many_owned(kib.min(IN_FLIGHT_MAX));
        let both =
            async { Some(InFlight { _of_one: of_one.await.ok()?, _of_all: of_all.await.ok()? }) };
        let mut both = std::pin::pin!(both);
        if let Poll::Ready(in_flight) = futures::poll!(&mut both) {
            return in_flight;
        }
        let _waiting = Waiting::new(&self.waiting);
        loop {
            // Those before may have been fetched since.
            self.untidy.notify_one();
            tokio::select! {
                biased;
                in_flight = &mut both => return in_flight,
                () = tokio::time::sleep_until(deadline) => return None,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// The bytes in flight of one actor or provider.
    fn semaphore_of(&self, whose: &str) -> Arc<Semaphore> {
        let mut all = self.in_flight_of.lock();
        if let Some(found) = all.get(whose).and_then(Weak::upgrade) {
            return found;
        }
        all.retain(|_, semaphore| semaphore.strong_count() > 0);
        let made = Arc::new(Semaphore::new(IN_FLIGHT_OF_ONE as usize));
        all.insert(whose.to_owned(), Arc::downgrade(&made));
        made
    }
}

/// Bytes in the object store, counted until this is dropped.
#[derive(Debug)]
pub(super) struct InFlight {
    _of_one: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// An object to remove.
struct Leftover {
    name: PayloadName,
    pieces: PieceId,
    left: Instant,
    due: Instant,
    _in_flight: InFlight,
}

/// A payload this host stored. Its object goes when this is dropped.
#[must_use = "the object is removed when this is dropped"]
pub struct Stored {
    chunks: Chunks,
    /// `None` once it is a leftover.
    object: Option<(PayloadName, PieceId, InFlight)>,
}

impl Stored {
    pub(super) fn new(
        chunks: Chunks,
        name: PayloadName,
        pieces: PieceId,
        in_flight: InFlight,
    ) -> Self {
        Self { chunks, object: Some((name, pieces, in_flight)) }
    }

    /// Leaves the object for whom the answer went to.
    pub fn leave(mut self) {
        self.end(Instant::now() + ANSWER_KEPT);
    }

    fn end(&mut self, due: Instant) {
        let Some((name, pieces, in_flight)) = self.object.take() else { return };
        let (left, _in_flight) = (Instant::now(), in_flight);
        let in_store = &self.chunks.0.in_store;
        in_store.leftovers.lock().push_back(Leftover { name, pieces, left, due, _in_flight });
        in_store.untidy.notify_one();
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.end(Instant::now());
    }
}

impl Chunks {
    /// Removes what is due until told to stop.
    pub async fn keep_tidy(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TIDY) => {}
                () = self.0.in_store.untidy.notified() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.tidy() => {}
            }
        }
    }

    /// Removes the objects that are due, and forgets those that their readers have removed.
    pub async fn tidy(&self) {
        let Some(context) = self.0.contexts.first() else { return };
        let Ok(stream) = context.get_stream_no_info(self.0.stream_name()).await else { return };
        let is_wanted = self.0.in_store.waiting.load(Ordering::Relaxed) > 0;
        let leftovers = std::mem::take(&mut *self.0.in_store.leftovers.lock());
        let looks = leftovers.into_iter().map(|leftover| {
            let stream = &stream;
            async move {
                let is_gone = match Instant::now() {
                    now if now >= leftover.due => {
                        self.0.purge(stream, &leftover.name, &leftover.pieces).await;
                        true
                    }
                    now if is_wanted || now >= leftover.left + FETCHED_AFTER => {
                        self.0.is_gone(stream, &leftover.name).await
                    }
                    _ => false,
                };
                (!is_gone).then_some(leftover)
            }
        });
        let mut looks = futures::stream::iter(looks).buffer_unordered(TIDY_AT_ONCE);
        while let Some(look) = looks.next().await {
            if let Some(leftover) = look {
                self.0.in_store.leftovers.lock().push_back(leftover);
            }
        }
    }
}

/// One payload that waits until others' bytes are not in flight any more.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

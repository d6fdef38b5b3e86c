//! Turns: how actors that compute for long share the cores with those that do not.
//!
//! Guests run on the threads that everything else of the host runs on. A call that is done before
//! the next tick of the [engine](super::engine)'s clock never comes here. At each tick a guest
//! yields; one whose actor computed much lately then has to wait for its turn before it goes on, in
//! the [background](super::background).
//! There is one turn less than there are cores, for each actor and for all of them together, and
//! turns are given in the order they were asked for. So one core is always there for calls that
//! take little, and of two actors that compute for long none gets more because it has more calls.
//!
//! Actors that call each other without end hardly ever run until a tick, each of their calls is
//! short. So a call for which [`DEEP`] others wait needs a turn from its beginning.
//!
//! An actor that is alone may have all cores, and stays out of the background: turns count while
//! different actors are called or compute, and a little longer.
//!
//! Invariant: a turn is held by a guest that runs, and by none that waits. [`Turn::watch`] gives it
//! back.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::available_parallelism,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::background::{self, Background, Carried};
use lattice_protocol::clock;

/// How many calls wait for one that needs a turn from its beginning. Applications chain two or
/// three.
const DEEP: u8 = 4;
/// How long turns count after calls of different actors mixed.
const MIXED_FOR: Duration = Duration::from_millis(250);
/// Ticks an actor may use before it needs turns.
const FREE_TICKS: f64 = 20.0;
/// Ticks an actor may use for ever without needing turns, in each millisecond: a fifth of a core.
const FREE_RATE: f64 = 0.2;
/// Ticks that are remembered of an actor at most: one that used more needs turns until a second
/// after it stopped.
const REMEMBERED_TICKS: f64 = FREE_TICKS + FREE_RATE * 1000.0;

/// The turns of all actors of a host. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Turns(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    places: Places,
    places_max: usize,
    background: Background,
    /// Actors so far, for their numbers.
    actors: AtomicU64,
    /// The actor that was called last, or computed last.
    last: AtomicU64,
    began: Instant,
    /// When another actor followed, in milliseconds since `began`.
    mixed_ms: AtomicU64,
}

/// Turns of one kind. Those of the background are others: a call of the host's own threads would
/// wait long for one that is held there.
#[derive(Debug)]
struct Places {
    here: Arc<Semaphore>,
    background: Arc<Semaphore>,
}

impl Places {
    fn new(max: usize) -> Self {
        Self { here: Arc::new(Semaphore::new(max)), background: Arc::new(Semaphore::new(max)) }
    }

    fn of_this_thread(&self) -> Arc<Semaphore> {
        Arc::clone(if background::is_here() { &self.background } else { &self.here })
    }
}

/// The turns of one actor.
#[derive(Debug)]
pub struct ActorTurns {
    number: u64,
    shared: Arc<Shared>,
    places: Places,
    // Held for lines, once per tick.
    used: Mutex<Used>,
}

/// The ticks an actor computed lately.
#[derive(Debug)]
struct Used {
    ticks: f64,
    at: Instant,
}

/// The turn of one call. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Turn(Arc<TurnOf>);

#[derive(Debug)]
struct TurnOf {
    actor: Arc<ActorTurns>,
    is_deep: bool,
    /// It lets others run after a tick.
    is_yielding: AtomicBool,
    // Held for lines, never across an await.
    held: Mutex<Option<[OwnedSemaphorePermit; 2]>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self::new(available_parallelism().map_or(1, usize::from))
    }
}

impl Turns {
    /// The turns of a machine with so many cores.
    pub fn new(cores: usize) -> Self {
        let places_max = cores.saturating_sub(1).max(1);
        Self(Arc::new(Shared {
            places: Places::new(places_max),
            places_max,
            background: Background::new(cores),
            actors: AtomicU64::new(0),
            last: AtomicU64::new(0),
            began: Instant::now(),
            mixed_ms: AtomicU64::new(0),
        }))
    }

    /// Whether calls of different actors mix.
    pub fn are_mixed(&self) -> bool {
        self.0.are_mixed()
    }
}

impl Shared {
    fn note(&self, actor: u64) {
        // One actor that is called alone only reads here.
        if self.last.load(Ordering::Relaxed) != actor
            && self.last.swap(actor, Ordering::Relaxed) != 0
        {
            self.mixed_ms.store(self.now_ms(), Ordering::Relaxed);
        }
    }

    fn are_mixed(&self) -> bool {
        let mixed_ms = self.mixed_ms.load(Ordering::Relaxed);
        mixed_ms > 0 && self.now_ms() - mixed_ms.min(self.now_ms()) <= clock::millis(MIXED_FOR)
    }

    /// The time, never zero.
    fn now_ms(&self) -> u64 {
        clock::millis(self.began.elapsed()).max(1)
    }
}

impl ActorTurns {
    pub fn new(turns: &Turns) -> Arc<Self> {
        let shared = Arc::clone(&turns.0);
        Arc::new(Self {
            // Zero is no actor.
            number: shared.actors.fetch_add(1, Ordering::Relaxed) + 1,
            places: Places::new(shared.places_max),
            shared,
            used: Mutex::new(Used { ticks: 0.0, at: Instant::now() }),
        })
    }

    /// The turn of a call that begins; so many others wait for it.
    pub fn turn(self: &Arc<Self>, waiting: u8) -> Turn {
        self.shared.note(self.number);
        Turn(Arc::new(TurnOf {
            actor: Arc::clone(self),
            is_deep: waiting >= DEEP,
            is_yielding: AtomicBool::new(false),
            held: Mutex::default(),
        }))
    }

    /// Runs a call here until it is to go on in the background. Ends with `None` if the host
    /// stopped before it.
    pub async fn carry<T: Send + 'static>(&self, call: BoxFuture<'static, T>) -> Option<T> {
        Carried::new(call, &self.shared.background).await
    }

    /// Counts a tick; says whether the actor computed so much that it needs turns.
    fn tick(&self) -> bool {
        // A guest that computes begins no calls, and mixes with those that others begin.
        self.shared.note(self.number);
        self.used.lock().tick(Instant::now())
    }
}

impl Used {
    fn tick(&mut self, now: Instant) -> bool {
        let forgotten = now.saturating_duration_since(self.at).as_secs_f64() * 1000.0 * FREE_RATE;
        self.ticks = ((self.ticks - forgotten).max(0.0) + 1.0).min(REMEMBERED_TICKS);
        self.at = now;
        self.ticks > FREE_TICKS
    }
}

impl Turn {
    /// Whether the call needs a turn from its beginning.
    pub fn is_deep(&self) -> bool {
        self.0.is_deep
    }

    /// Waits for the first turn of a call that needs one at once.
    pub async fn begin(&self) {
        if self.0.is_deep {
            self.take().await;
        }
    }

    /// Lets others run after a tick, and goes on when it is this call's turn: in the background if
    /// its actor computed much while calls of others came.
    pub async fn next(self) {
        let computes = self.0.actor.tick();
        let needs_turns = computes || self.0.is_deep;
        self.give_back();
        self.0.is_yielding.store(true, Ordering::Relaxed);
        let turn = async {
            tokio::task::yield_now().await;
            if needs_turns {
                self.take().await;
            }
            self.0.is_yielding.store(false, Ordering::Relaxed);
        };
        match computes && self.0.actor.shared.are_mixed() {
            true => background::asking(turn).await,
            false => turn.await,
        }
    }

    /// Says whether the guest stands still after a tick, so that others can run.
    pub fn is_yielding(&self) -> bool {
        self.0.is_yielding.load(Ordering::Relaxed)
    }

    /// Runs a guest, whose turn goes to others whenever it waits for something.
    pub async fn watch<T>(&self, mut guest: Pin<&mut impl Future<Output = T>>) -> T {
        poll_fn(|context| {
            let polled = guest.as_mut().poll(context);
            // Also at the end: an instance that is kept has no turn.
            self.give_back();
            polled
        })
        .await
    }

    async fn take(&self) {
        let actor = &self.0.actor;
        if !actor.shared.are_mixed() || self.0.held.lock().is_some() {
            return;
        }
        // The actor's first: so each stands in the line of all with as many calls as any other.
        let own = actor.places.of_this_thread().acquire_owned().await;
        let common = actor.shared.places.of_this_thread().acquire_owned().await;
        // Neither is ever closed.
        if let (Ok(own), Ok(common)) = (own, common) {
            *self.0.held.lock() = Some([own, common]);
        }
    }

    fn give_back(&self) {
        let held = self.0.held.lock().take();
        drop(held);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt;

    use super::*;

    /// A turn of an actor that computed much.
    fn busy(actor: &Arc<ActorTurns>) -> Turn {
        while !actor.tick() {}
        actor.turn(0)
    }

    #[test]
    fn an_actor_that_uses_less_than_its_share_needs_no_turns_and_one_that_stops_is_forgiven() {
        let began = Instant::now();
        let mut used = Used { ticks: 0.0, at: began };
        // A tick each ten milliseconds is a tenth of a core.
        assert!((1..1000).all(|n| !used.tick(began + Duration::from_millis(n * 10))));
        let mut now = began + Duration::from_secs(10);
        assert_eq!((0..1000).filter(|_| used.tick(now)).count(), 1000 - FREE_TICKS as usize);
        now += Duration::from_millis(500);
        assert!(used.tick(now));
        now += Duration::from_millis(1100);
        assert!(!used.tick(now));
    }

    #[tokio::test]
    async fn of_two_busy_actors_one_call_runs_at_a_time_on_two_cores() {
        let turns = Turns::new(2);
        let (first, second) = (ActorTurns::new(&turns), ActorTurns::new(&turns));
        let (one, other) = (busy(&first), busy(&second));
        one.take().await;
        assert!(other.take().now_or_never().is_none());
        // A call that waits for something gives its turn away.
        one.watch(pin!(tokio::task::yield_now())).await;
        assert!(other.take().now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_guest_yields_from_its_tick_until_it_goes_on() {
        let turns = Turns::new(2);
        let turn = ActorTurns::new(&turns).turn(0);
        let mut next = pin!(turn.clone().next());
        assert!(!turn.is_yielding());
        assert!(futures::poll!(next.as_mut()).is_pending() && turn.is_yielding());
        next.await;
        assert!(!turn.is_yielding());
    }

    #[tokio::test]
    async fn an_actor_alone_has_all_cores() {
        let turns = Turns::new(2);
        let actor = ActorTurns::new(&turns);
        let (one, other) = (busy(&actor), busy(&actor));
        one.take().await;
        assert!(other.take().now_or_never().is_some());
        assert!(!turns.are_mixed());
    }

    #[tokio::test]
    async fn a_call_for_which_many_wait_needs_a_turn_at_once_and_others_do_not() {
        let turns = Turns::new(2);
        let (first, second) = (ActorTurns::new(&turns), ActorTurns::new(&turns));
        let (deep, deeper, shallow) = (first.turn(DEEP), second.turn(DEEP + 1), second.turn(1));
        deep.begin().await;
        assert!(deeper.begin().now_or_never().is_none());
        assert!(shallow.begin().now_or_never().is_some());
        drop(deep);
        assert!(deeper.begin().now_or_never().is_some());
    }
}

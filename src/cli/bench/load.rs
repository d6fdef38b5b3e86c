//! Load: calls of a target, and how long each took.
//!
//! * Closed loop: so many callers, each of which calls again when it has its answer. The target
//!   decides how fast that goes.
//! * Open loop: calls are due at a constant rate, whatever the target does, and are timed from the
//!   moment they were due. A target that stands still for a second so delays all calls of that
//!   second, and the percentiles say it; a closed loop would have made one call less (coordinated
//!   omission).

use std::{
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use futures::future::BoxFuture;
use hdrhistogram::Histogram;
use tokio::{sync::Semaphore, task::JoinSet};

/// The longest time that is told apart, in nanoseconds: a minute.
const LATENCY_MAX_NS: u64 = 60_000_000_000;
/// Digits of a time that are kept.
const DIGITS: u8 = 3;
/// The first part of a round that is not measured, and its longest.
const WARM_UP_SHARE: f64 = 0.2;
const WARM_UP_MAX: Duration = Duration::from_millis(500);
/// How long the last calls of a round may take.
const GRACE: Duration = Duration::from_secs(30);
/// Calls in work at a time in an open loop; those that are due beyond wait, and that is measured.
pub const OPEN_CALLERS: usize = 128;

/// Something that can be called. A clone is a caller.
pub trait Target: Clone + Send + 'static {
    /// Calls that one exchange makes: more than one where a call takes less than a look at the
    /// clock.
    const CALLS: u64 = 1;

    /// Does what a caller needs once, like opening a connection.
    fn prepare(&mut self) -> impl Future<Output = Result<()>> + Send {
        ready(Ok(()))
    }

    /// Makes a call and waits for its answer.
    fn exchange(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// When calls are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// By so many callers, one after the other.
    Closed { callers: usize },
    /// So many per second.
    Open { rate: f64 },
}

/// A round of calls.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub pace: Pace,
    pub duration: Duration,
}

impl Plan {
    /// A short one, for what the first calls do for all.
    pub fn short(self) -> Self {
        Self { duration: self.duration.mul_f64(WARM_UP_SHARE).min(WARM_UP_MAX), ..self }
    }
}

/// The result of a round.
#[derive(Debug)]
pub struct Round {
    pub took: Duration,
    /// Of calls that succeeded, in nanoseconds.
    pub latency: Histogram<u64>,
    pub errors: u64,
    pub first_error: Option<String>,
}

impl Round {
    pub fn new() -> Self {
        let latency = Histogram::new_with_max(LATENCY_MAX_NS, DIGITS)
            .expect("bounds and digits are constants that fit");
        Self { took: Duration::ZERO, latency, errors: 0, first_error: None }
    }

    /// Successful calls per second.
    pub fn rate(&self) -> f64 {
        self.latency.len() as f64 / self.took.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Adds what another caller, or another round, has seen.
    pub fn add(&mut self, other: Self) {
        self.took += other.took;
        self.latency += other.latency;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    fn note(&mut self, calls: u64, took: Duration, result: Result<()>) {
        match result {
            Ok(()) => {
                let each = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX) / calls;
                self.latency.saturating_record_n(each, calls);
            }
            Err(error) => self.failed(calls, format!("{error:#}")),
        }
    }

    fn failed(&mut self, calls: u64, why: String) {
        self.errors += calls;
        self.first_error.get_or_insert(why);
    }
}

impl Default for Round {
    fn default() -> Self {
        Self::new()
    }
}

/// A load whose target is not known by its type.
pub trait Load {
    /// Makes the calls of one round.
    fn round(&self, plan: &Plan) -> BoxFuture<'static, Result<Round>>;
}

impl<T: Target> Load for T {
    fn round(&self, plan: &Plan) -> BoxFuture<'static, Result<Round>> {
        let Plan { pace, duration } = *plan;
        let callers = match pace {
            Pace::Closed { callers } => vec![self.clone(); callers],
            Pace::Open { .. } => vec![self.clone(); OPEN_CALLERS],
        };
        Box::pin(async move {
            let round = async {
                let callers = prepared(callers).await?;
                match pace {
                    Pace::Closed { .. } => closed(callers, duration).await,
                    Pace::Open { rate } => open(callers, rate, duration).await,
                }
            };
            let ended = tokio::time::timeout(duration + GRACE, round).await;
            ended.with_context(|| too_late(pace))?
        })
    }
}

/// Says that the last calls of a round took too long.
fn too_late(pace: Pace) -> String {
    let told = format!("the last calls did not end within {} s", GRACE.as_secs());
    match pace {
        Pace::Closed { .. } => told,
        Pace::Open { rate } => format!(
            "{told}: it does not keep up with {rate:.0} calls per second; give a lower --rate"
        ),
    }
}

async fn prepared<T: Target>(mut callers: Vec<T>) -> Result<Vec<T>> {
    for caller in &mut callers {
        caller.prepare().await?;
    }
    Ok(callers)
}

async fn closed<T: Target>(callers: Vec<T>, duration: Duration) -> Result<Round> {
    let began = Instant::now();
    let until = began + duration;
    let mut tasks = JoinSet::new();
    for mut caller in callers {
        tasks.spawn(async move {
            let mut round = Round::new();
            let mut sent = Instant::now();
            while sent < until {
                let result = caller.exchange().await;
                // A call that waits for nothing lets the other callers have their turn.
                tokio::task::yield_now().await;
                let now = Instant::now();
                round.note(T::CALLS, now - sent, result);
                sent = now;
            }
            round
        });
    }
    collect(tasks, began).await
}

/// Adds up what all callers have seen.
async fn collect(mut tasks: JoinSet<Round>, began: Instant) -> Result<Round> {
    let mut all = Round::new();
    while let Some(round) = tasks.join_next().await {
        all.add(round.context("a caller has panicked")?);
    }
    all.took = began.elapsed();
    Ok(all)
}

/// The calls of an open loop: which is due when, and which are taken.
struct Schedule {
    began: Instant,
    interval: Duration,
    total: u64,
    /// A permit for each call that is due and not taken.
    due: Semaphore,
    taken: AtomicU64,
    is_over: AtomicBool,
}

impl Schedule {
    fn due_at(&self, number: u64) -> Instant {
        self.began + Duration::from_secs_f64(self.interval.as_secs_f64() * number as f64)
    }

    /// Waits for the next call that is due; returns since when.
    async fn next(&self) -> Option<Instant> {
        self.due.acquire().await.ok()?.forget();
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        if number + 1 >= self.total {
            self.due.close();
        }
        (number < self.total).then(|| self.due_at(number))
    }

    /// Lets calls become due, on a thread of its own: the timers of the runtime are no finer than a
    /// millisecond.
    fn run(&self) {
        for number in 0..self.total {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            let left = self.due_at(number).saturating_duration_since(Instant::now());
            if !left.is_zero() {
                std::thread::sleep(left);
            }
            self.due.add_permits(1);
        }
    }
}

/// Ends the thread of a schedule, also when the round is given up.
struct Over(Arc<Schedule>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

async fn open<T: Target>(callers: Vec<T>, rate: f64, duration: Duration) -> Result<Round> {
    if !(rate.is_finite() && rate > 0.0) {
        bail!("a rate of {rate} calls per second cannot be kept");
    }
    let schedule = Arc::new(Schedule {
        began: Instant::now(),
        interval: Duration::from_secs_f64(1.0 / rate),
        total: ((duration.as_secs_f64() * rate) as u64).max(1),
        due: Semaphore::new(0),
        taken: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
    });
    let over = Over(Arc::clone(&schedule));
    let clock = Arc::clone(&schedule);
    let clock = tokio::task::spawn_blocking(move || clock.run());
    let mut tasks = JoinSet::new();
    for mut caller in callers {
        let schedule = Arc::clone(&schedule);
        tasks.spawn(async move {
            let mut round = Round::new();
            while let Some(due) = schedule.next().await {
                let result = caller.exchange().await;
                round.note(T::CALLS, due.elapsed(), result);
            }
            round
        });
    }
    let round = collect(tasks, schedule.began).await;
    drop(over);
    clock.await.context("the clock of the calls has panicked")?;
    round
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes its time for one call, and none for the others.
    #[derive(Clone)]
    struct Stalls {
        calls: Arc<AtomicU64>,
        gate: Arc<Semaphore>,
        stall: Duration,
    }

    impl Stalls {
        fn new(stall_ms: u64) -> Self {
            let stall = Duration::from_millis(stall_ms);
            Self { calls: Arc::default(), gate: Arc::new(Semaphore::new(1)), stall }
        }
    }

    impl Target for Stalls {
        async fn exchange(&mut self) -> Result<()> {
            let _one_at_a_time = self.gate.acquire().await?;
            if self.calls.fetch_add(1, Ordering::Relaxed) == 10 {
                tokio::time::sleep(self.stall).await;
            }
            Ok(())
        }
    }

    #[derive(Clone)]
    struct Fails;

    impl Target for Fails {
        async fn exchange(&mut self) -> Result<()> {
            tokio::task::yield_now().await;
            bail!("always")
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn calls_that_were_due_while_the_target_stood_still_count_as_late() {
        let plan = Plan { pace: Pace::Open { rate: 1000.0 }, duration: Duration::from_secs(1) };
        let open = Stalls::new(400).round(&plan).await.unwrap();
        assert_eq!((open.latency.len(), open.errors), (1000, 0));
        // Of the 400 calls that were due meanwhile, half waited 200 ms and more.
        let late = open.latency.count_between(200_000_000, LATENCY_MAX_NS);
        assert!(late >= 150, "{late}");
        // A closed loop sees one slow call per caller.
        let plan = Plan { pace: Pace::Closed { callers: 2 }, ..plan };
        let closed = Stalls::new(400).round(&plan).await.unwrap();
        let late = closed.latency.count_between(200_000_000, LATENCY_MAX_NS);
        assert!(closed.latency.len() > 1000 && late <= 2, "{late}");
    }

    #[test]
    fn a_rate_that_is_too_high_is_named() {
        assert!(too_late(Pace::Open { rate: 5e4 }).contains("50000 calls per second"));
        assert!(!too_late(Pace::Closed { callers: 1 }).contains("--rate"));
    }

    #[tokio::test]
    async fn failures_are_counted_and_the_first_is_told() {
        let duration = Duration::from_millis(20);
        let plan = Plan { pace: Pace::Closed { callers: 2 }, duration };
        let round = Fails.round(&plan).await.unwrap();
        assert!(round.errors >= 2 && round.latency.is_empty());
        assert_eq!(round.first_error.as_deref(), Some("always"));
        assert!(Fails.round(&Plan { pace: Pace::Open { rate: 0.0 }, duration }).await.is_err());
    }
}

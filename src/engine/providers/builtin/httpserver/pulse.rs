//! Whether a connection is alive: what it last did, who asks it to end, and the rule that tells one
//! from a stuck one.
//!
//! A client may be slow, but not so slow that its answers stay in memory: while it is owed
//! something ([`super::debt`]) it has to take [`RATE`] on average, and each of its answers has to
//! move.
//!
//! The connection's task and its socket only count what they do, without a clock. Once in a while
//! the listener compares the counts with those of the time before and decides ([`Seen::judge`]).
//! Thus time limits cost a request nothing.

use std::{
    borrow::Borrow,
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a connection may be idle between requests. Longer than that of most clients, which thus
/// close first.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a client may take no byte of an answer.
const WRITE_STALL: Duration = Duration::from_secs(30);
/// Bytes per second that a client has to take at least of what it is owed, on average.
pub const RATE: usize = 32 << 10;
/// How much longer one answer may rest for each other that is on its way: at [`RATE`], a piece of
/// each takes so long.
const TURN: Duration = Duration::from_secs(1);
/// How long a connection that was asked to end may go on with what it has in work.
const FINISH_MAX: Duration = Duration::from_secs(60 * 60);

/// A request to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ask {
    Nothing,
    /// To finish what is in work and take nothing new.
    Finish,
    /// To end.
    Abort,
}

/// The counts of a connection, and the request to it.
#[derive(Debug, Default)]
pub struct Pulse {
    reads: AtomicU32,
    writes: AtomicU32,
    write_blocked: AtomicBool,
    in_work: AtomicU32,
    served: AtomicU32,
    http2: AtomicBool,
    /// The client may still be sending what nobody wants.
    linger: AtomicBool,
    asked: AtomicU8,
    waker: AtomicWaker,
    /// Bytes of answers that are not written yet, and those that were written, which wrap.
    owed: AtomicUsize,
    paid: AtomicUsize,
    // Held for lines without an await.
    answers: Mutex<Answers>,
}

/// Answers that take more than a moment, with how often each has moved.
#[derive(Debug, Default)]
struct Answers {
    last: u64,
    moves: HashMap<u64, Arc<AtomicU32>>,
}

/// A request in work; ends when dropped.
#[derive(Debug)]
pub struct Busy<P: Borrow<Pulse>>(P);

impl<P: Borrow<Pulse>> Drop for Busy<P> {
    fn drop(&mut self) {
        let pulse = self.0.borrow();
        pulse.in_work.fetch_sub(1, Ordering::Relaxed);
        pulse.served.fetch_add(1, Ordering::Relaxed);
    }
}

impl Pulse {
    pub fn has_read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    pub fn has_written(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.write_blocked.store(false, Ordering::Relaxed);
    }

    pub fn write_is_blocked(&self) {
        self.write_blocked.store(true, Ordering::Relaxed);
    }

    pub fn speaks_http2(&self) {
        self.http2.store(true, Ordering::Relaxed);
    }

    pub fn is_http2(&self) -> bool {
        self.http2.load(Ordering::Relaxed)
    }

    /// Bytes that the client has still to take.
    pub fn owed(&self) -> usize {
        self.owed.load(Ordering::Relaxed)
    }

    pub fn owes(&self, bytes: usize) {
        self.owed.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The client has taken something, as far as this process can tell.
    pub fn has_paid(&self, bytes: usize) {
        self.owed.fetch_sub(bytes, Ordering::Relaxed);
        self.paid.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Something is not going to be sent.
    pub fn is_let_off(&self, bytes: usize) {
        self.owed.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Begins to watch an answer: it is to count its moves.
    pub fn expect(&self) -> (u64, Arc<AtomicU32>) {
        let mut answers = self.answers.lock();
        answers.last += 1;
        let (id, moves) = (answers.last, Arc::default());
        answers.moves.insert(id, Arc::clone(&moves));
        (id, moves)
    }

    /// Ends the watch over an answer.
    pub fn forget(&self, id: u64) {
        self.answers.lock().moves.remove(&id);
    }

    /// Marks a request as in work.
    pub fn busy(&self) -> Busy<&Self> {
        self.in_work.fetch_add(1, Ordering::Relaxed);
        Busy(self)
    }

    /// The same, for as long as its answer takes.
    pub fn busy_until_answered(self: &Arc<Self>) -> Busy<Arc<Self>> {
        self.in_work.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Whether any request was served.
    pub fn has_served(&self) -> bool {
        self.served.load(Ordering::Relaxed) > 0
    }

    /// Whether no request is in work, and no answer on its way.
    pub fn is_at_rest(&self) -> bool {
        self.in_work.load(Ordering::Relaxed) == 0 && self.owed() == 0
    }

    /// Closing now could make the client miss the answer, since it is still sending.
    pub fn linger(&self) {
        self.linger.store(true, Ordering::Relaxed);
    }

    pub fn is_to_linger(&self) -> bool {
        self.linger.load(Ordering::Relaxed)
    }

    /// Asks; what was asked before stays asked.
    pub fn ask(&self, ask: Ask) {
        self.asked.fetch_max(ask as u8, Ordering::AcqRel);
        self.waker.wake();
    }

    /// Returns the request to the connection, whose task is woken by the next [`ask`](Self::ask).
    pub fn asked(&self, context: &mut Context<'_>) -> Ask {
        self.waker.register(context.waker());
        match self.asked.load(Ordering::Acquire) {
            0 => Ask::Nothing,
            1 => Ask::Finish,
            _ => Ask::Abort,
        }
    }

    /// Waits until anything is asked. Cancel safe.
    pub async fn is_asked(&self) {
        std::future::poll_fn(|context| match self.asked(context) {
            Ask::Nothing => Poll::Pending,
            _ => Poll::Ready(()),
        })
        .await;
    }
}

/// The state of a connection as it was seen so far.
#[derive(Debug)]
pub struct Seen {
    reads: u32,
    writes: u32,
    served: u32,
    /// Since when it has no request in work.
    idle_since: Instant,
    /// Since when it has sent a part of a head.
    head_since: Option<Instant>,
    blocked_since: Option<Instant>,
    /// When it was asked to finish, and when it last wrote since then.
    told: Option<(Instant, Instant)>,
    paid: usize,
    /// How long the client may still take nothing, as of a moment; none if nothing is owed.
    credit: Option<(Instant, Duration)>,
    /// Answers, with their moves and since when those are as many.
    resting: HashMap<u64, (u32, Instant)>,
}

impl Seen {
    pub fn new(now: Instant) -> Self {
        Self {
            reads: 0,
            writes: 0,
            served: 0,
            idle_since: now,
            head_since: None,
            blocked_since: None,
            told: None,
            paid: 0,
            credit: None,
            resting: HashMap::new(),
        }
    }

    /// Whether the client takes what is owed to it too slowly.
    fn is_in_arrears(&mut self, pulse: &Pulse, now: Instant) -> bool {
        let paid = pulse.paid.load(Ordering::Relaxed);
        let earned = paid.wrapping_sub(std::mem::replace(&mut self.paid, paid));
        if pulse.owed() == 0 {
            self.credit = None;
            self.resting.clear();
            return false;
        }
        let (looked, left) = self.credit.unwrap_or((now, WRITE_STALL));
        let earned = Duration::from_secs_f64(earned as f64 / RATE as f64);
        // Credit for bytes taken quickly is not saved up for long.
        let left = left
            .saturating_add(earned)
            .min(WRITE_STALL + (now - looked))
            .saturating_sub(now - looked);
        self.credit = Some((now, left));
        left.is_zero() || self.rests_too_long(pulse, now)
    }

    /// Whether one of several answers rests while others move.
    fn rests_too_long(&mut self, pulse: &Pulse, now: Instant) -> bool {
        let answers = pulse.answers.lock();
        self.resting.retain(|id, _| answers.moves.contains_key(id));
        let patience = WRITE_STALL + TURN * u32::try_from(answers.moves.len()).unwrap_or(u32::MAX);
        answers.moves.iter().any(|(id, moves)| {
            let moves = moves.load(Ordering::Relaxed);
            let seen = self.resting.entry(*id).or_insert((moves, now));
            if seen.0 != moves {
                *seen = (moves, now);
            }
            now - seen.1 >= patience
        })
    }

    /// Looks again and says what to ask of the connection.
    pub fn judge(&mut self, pulse: &Pulse, header_timeout: Duration, now: Instant) -> Ask {
        let reads = pulse.reads.load(Ordering::Relaxed);
        let writes = pulse.writes.load(Ordering::Relaxed);
        let served = pulse.served.load(Ordering::Relaxed);
        let in_work = pulse.in_work.load(Ordering::Relaxed);
        let wrote = writes != self.writes;
        self.writes = writes;
        let blocked = pulse.write_blocked.load(Ordering::Relaxed);
        if wrote || !blocked {
            self.blocked_since = None;
        } else if now - *self.blocked_since.get_or_insert(now) >= WRITE_STALL {
            return Ask::Abort;
        }
        if self.is_in_arrears(pulse, now) {
            return Ask::Abort;
        }
        // Bytes that HTTP/1 writes belong to an answer; HTTP/2 has frames that belong to no
        // request.
        let answering = !pulse.is_http2() && (wrote || blocked);
        // An answer that is still being read is work as well.
        let is_at_work = in_work > 0 || pulse.owed() > 0;
        // A whole request may have come and gone since the last look.
        if is_at_work || answering || served != self.served {
            (self.served, self.reads, self.idle_since, self.head_since) =
                (served, reads, now, None);
        } else if reads != self.reads {
            self.head_since.get_or_insert(now);
        }
        // HTTP/2 has frames that belong to no request.
        let head_is_late =
            !pulse.is_http2() && self.head_since.is_some_and(|since| now - since >= header_timeout);
        if head_is_late {
            // hyper would wait for the rest of it.
            return Ask::Abort;
        }
        if let Some((told, wrote_last)) = &mut self.told {
            if wrote || is_at_work {
                *wrote_last = now;
            }
            let stuck = now - *wrote_last >= WRITE_STALL || now - *told >= FINISH_MAX;
            return if stuck { Ask::Abort } else { Ask::Nothing };
        }
        let idle = now - self.idle_since;
        if idle >= KEEP_ALIVE || (served == 0 && idle >= header_timeout) {
            self.told = Some((now, now));
            return Ask::Finish;
        }
        Ask::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Duration = Duration::from_secs(10);

    fn after(seen: &mut Seen, pulse: &Pulse, start: Instant, seconds: u64) -> Ask {
        seen.judge(pulse, HEADER, start + Duration::from_secs(seconds))
    }

    #[test]
    fn a_client_that_never_finishes_a_head_is_let_go() {
        let (pulse, start) = (Pulse::default(), Instant::now());
        let mut seen = Seen::new(start);
        pulse.has_read();
        assert_eq!(after(&mut seen, &pulse, start, 9), Ask::Nothing);
        pulse.has_read();
        assert_eq!(after(&mut seen, &pulse, start, 18), Ask::Finish);
        assert_eq!(after(&mut seen, &pulse, start, 19), Ask::Abort);
    }

    #[test]
    fn a_client_that_sends_nothing_is_let_go() {
        let (pulse, start) = (Pulse::default(), Instant::now());
        let mut seen = Seen::new(start);
        assert_eq!(after(&mut seen, &pulse, start, 10), Ask::Finish);
        assert_eq!(after(&mut seen, &pulse, start, 11), Ask::Nothing);
        assert_eq!(after(&mut seen, &pulse, start, 40), Ask::Abort);
    }

    #[test]
    fn a_kept_connection_may_be_idle_for_longer_but_a_second_head_may_not_be_late() {
        let (pulse, start) = (Pulse::default(), Instant::now());
        let mut seen = Seen::new(start);
        pulse.has_read();
        drop(pulse.busy());
        assert_eq!(after(&mut seen, &pulse, start, 1), Ask::Nothing);
        assert_eq!(after(&mut seen, &pulse, start, 70), Ask::Nothing);
        pulse.has_read();
        assert_eq!(after(&mut seen, &pulse, start, 71), Ask::Nothing);
        drop(pulse.busy());
        assert_eq!(after(&mut seen, &pulse, start, 72), Ask::Nothing);
        assert_eq!(after(&mut seen, &pulse, start, 146), Ask::Nothing);
        assert_eq!(after(&mut seen, &pulse, start, 147), Ask::Finish);

        let mut seen = Seen::new(start);
        assert_eq!(after(&mut seen, &pulse, start, 1), Ask::Nothing);
        pulse.has_read();
        assert_eq!(after(&mut seen, &pulse, start, 2), Ask::Nothing);
        assert_eq!(after(&mut seen, &pulse, start, 12), Ask::Abort);
    }

    #[test]
    fn a_request_in_work_has_no_limit_here() {
        let (pulse, start) = (Pulse::default(), Instant::now());
        let mut seen = Seen::new(start);
        let _busy = pulse.busy();
        assert_eq!(after(&mut seen, &pulse, start, 1000), Ask::Nothing);
    }

    #[test]
    fn a_client_that_takes_no_answer_is_let_go_and_a_slow_one_is_not() {
        let (pulse, start) = (Pulse::default(), Instant::now());
        let mut seen = Seen::new(start);
        drop(pulse.busy());
        for second in (1..60).step_by(5) {
            // It has sent its next request already.
            pulse.has_read();
            pulse.has_written();
            pulse.write_is_blocked();
            assert_eq!(after(&mut seen, &pulse, start, second), Ask::Nothing);
        }
        assert_eq!(after(&mut seen, &pulse, start, 60), Ask::Nothing);
        assert_eq!(after(&mut seen, &pulse, start, 90), Ask::Abort);
    }

    /// Looks each second; returns after how many seconds the connection was given up.
    fn given_up(pulse: &Pulse, seconds: u64, mut each: impl FnMut(u64)) -> Option<u64> {
        let start = Instant::now();
        let mut seen = Seen::new(start);
        (1..=seconds).find(|second| {
            each(*second);
            after(&mut seen, pulse, start, *second) == Ask::Abort
        })
    }

    #[test]
    fn a_client_takes_what_it_is_owed_at_a_rate() {
        // Other traffic on its connection makes no difference.
        let busy = |pulse: &Pulse| {
            pulse.speaks_http2();
            pulse.has_read();
            pulse.has_written();
        };
        let owing = || {
            let pulse = Pulse::default();
            pulse.owes(1 << 30);
            drop(pulse.busy());
            pulse
        };
        let nothing = owing();
        assert_eq!(given_up(&nothing, 100, |_| busy(&nothing)), Some(31));
        let drip = owing();
        let taken = |second: u64| drip.has_paid(if second.is_multiple_of(6) { 2048 } else { 0 });
        assert_eq!(given_up(&drip, 100, taken), Some(32));
        let half = owing();
        assert_eq!(given_up(&half, 100, |_| half.has_paid(RATE / 2)), Some(61));
        let just = owing();
        assert_eq!(given_up(&just, 1000, |_| just.has_paid(RATE)), None);
        // Bytes taken at once are no store for an hour of rest.
        let rested = owing();
        let at_once = |second: u64| rested.has_paid(if second == 1 { 1 << 29 } else { 0 });
        assert_eq!(given_up(&rested, 1000, at_once), Some(31));
    }

    #[test]
    fn a_debt_that_is_paid_begins_anew() {
        let pulse = Pulse::default();
        let answer = |second: u64| {
            if second % 20 == 1 {
                pulse.owes(100);
            }
            if second.is_multiple_of(20) {
                pulse.has_paid(100);
            }
            drop(pulse.busy());
        };
        assert_eq!(given_up(&pulse, 1000, answer), None);
    }

    #[test]
    fn one_answer_may_not_rest_behind_others_that_move() {
        let pulse = Pulse::default();
        pulse.owes(1 << 30);
        let answers: Vec<_> = (0..10).map(|_| pulse.expect()).collect();
        let moves = |answers: &[(u64, Arc<AtomicU32>)], second: u64| {
            pulse.has_paid(2 * RATE);
            // Each in its turn.
            answers[second as usize % answers.len()].1.fetch_add(1, Ordering::Relaxed);
        };
        assert_eq!(given_up(&pulse, 1000, |second| moves(&answers, second)), None);
        assert_eq!(given_up(&pulse, 1000, |second| moves(&answers[..9], second)), Some(41));
        pulse.forget(answers[9].0);
        assert_eq!(given_up(&pulse, 1000, |second| moves(&answers[..9], second)), None);
    }

    #[test]
    fn what_was_asked_stays_asked() {
        let pulse = Pulse::default();
        pulse.ask(Ask::Abort);
        pulse.ask(Ask::Finish);
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert_eq!(pulse.asked(&mut context), Ask::Abort);
    }
}

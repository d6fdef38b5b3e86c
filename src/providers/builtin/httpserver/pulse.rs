//! Whether a connection is alive: what it last did, who asks it to end, and the rule that tells one from a stuck one.
//!
//! The connection's task and its socket only count what they do, without a clock. Once in a while the listener compares
//! the counts with those of the time before and decides ([`Seen::judge`]). Thus time limits cost a request nothing.

use std::{
    sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use futures::task::AtomicWaker;
use tokio::time::Instant;

/// How long a connection may be idle between requests. Longer than that of most clients, which thus close first.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a client may take no byte of an answer.
const WRITE_STALL: Duration = Duration::from_secs(30);
/// How long a connection that was asked to end may go on with what it has in work.
const FAREWELL: Duration = Duration::from_secs(60 * 60);

/// What a connection is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ask {
    Nothing,
    /// To finish what is in work and take nothing new.
    Finish,
    /// To end.
    Abort,
}

/// What a connection counts, and what it is asked.
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
}

/// A request in work; ends when dropped.
#[derive(Debug)]
pub struct Busy<'a>(&'a Pulse);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.in_work.fetch_sub(1, Ordering::Relaxed);
        self.0.served.fetch_add(1, Ordering::Relaxed);
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

    /// Marks a request as in work.
    pub fn busy(&self) -> Busy<'_> {
        self.in_work.fetch_add(1, Ordering::Relaxed);
        Busy(self)
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

    /// What is asked of the connection, whose task is woken by the next [`ask`](Self::ask).
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

/// What was seen of a connection so far.
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
}

impl Seen {
    pub fn new(now: Instant) -> Self {
        Self { reads: 0, writes: 0, served: 0, idle_since: now, head_since: None, blocked_since: None, told: None }
    }

    /// Looks again and says what to ask of the connection.
    pub fn judge(&mut self, pulse: &Pulse, header_timeout: Duration, now: Instant) -> Ask {
        let load = |number: &AtomicU32| number.load(Ordering::Relaxed);
        let (reads, writes, served, in_work) =
            (load(&pulse.reads), load(&pulse.writes), load(&pulse.served), load(&pulse.in_work));
        let wrote = writes != self.writes;
        self.writes = writes;
        let blocked = pulse.write_blocked.load(Ordering::Relaxed);
        if wrote || !blocked {
            self.blocked_since = None;
        } else if now - *self.blocked_since.get_or_insert(now) >= WRITE_STALL {
            return Ask::Abort;
        }
        // What HTTP/1 writes belongs to an answer; HTTP/2 has frames that belong to no request.
        let answering = !pulse.is_http2() && (wrote || blocked);
        if in_work > 0 || answering || served != self.served {
            (self.served, self.reads, self.idle_since, self.head_since) = (served, reads, now, None);
        } else if reads != self.reads {
            self.head_since.get_or_insert(now);
        }
        // HTTP/2 has frames that belong to no request.
        let head_is_late = !pulse.is_http2() && self.head_since.is_some_and(|since| now - since >= header_timeout);
        if head_is_late {
            // hyper would wait for the rest of it.
            return Ask::Abort;
        }
        if let Some((told, wrote_last)) = &mut self.told {
            if wrote || in_work > 0 {
                *wrote_last = now;
            }
            let stuck = now - *wrote_last >= WRITE_STALL || now - *told >= FAREWELL;
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

    #[test]
    fn what_was_asked_stays_asked() {
        let pulse = Pulse::default();
        pulse.ask(Ask::Abort);
        pulse.ask(Ask::Finish);
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert_eq!(pulse.asked(&mut context), Ask::Abort);
    }
}

//! Which attempts of a call are in doubt, when to ask for them, and when to make another one.
//!
//! An *attempt* is a call as it was sent once. Pure: what the network says and the time of it come
//! in as arguments, [`remote`](super::remote) does what follows. An attempt goes through these
//! states, of which the last two end it:
//!
//! * on its way, until it is sent: nobody can be asked for it;
//! * out: somebody should be working on it, and is asked once in a while;
//! * in doubt, while it is out: an answer, or the silence of its host, says that it most likely has
//!   no result. It may have been carried out nevertheless;
//! * lost: its host knows nothing of it, and neither the call nor its answer is on its way;
//! * over: it was certainly not taken.

use std::time::Duration;

use tokio::time::Instant;

use crate::rpc::client::Answer;
use lattice_base::backoff::Backoff;

/// How long an answer may take before it is asked for. Longer than nearly all calls take.
pub const PROBE_AFTER: Duration = Duration::from_millis(200);
/// The longest pause between two questions.
const PROBE_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// How often to look whether others have found out that a host is lost.
pub const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// The shortest time between the looks for one host, which calls share: a look may begin so much
/// later than it is asked for. Calls learn of a loss that another one found no sooner.
pub const LOOK_INTERVAL: Duration = CHECK_INTERVAL;
/// How long a host counts as at work that said so: the longest pause between two questions, the
/// time until a look that is shared, and that for an answer.
const HEARD: Duration = Duration::from_millis(1700);
/// The time that a callee that cannot be asked gets for fetching a large payload, if storing it
/// took less.
const FETCH_MIN: Duration = Duration::from_secs(1);
/// How often one call is made at most.
const ATTEMPTS_MAX: usize = 4;

/// All attempts of one call.
pub struct Pursuit {
    attempts: Vec<Attempt>,
    /// Attempts that may have been carried out.
    made: usize,
    again_at: Option<Instant>,
    probe_at: Instant,
    probe_pauses: Backoff,
}

struct Attempt {
    began: Instant,
    /// Questions for it without an answer.
    questions: usize,
    /// When it was first seen to be with the callee.
    out_since: Option<Instant>,
    /// When the host that has it last said so.
    in_work_at: Option<Instant>,
    /// Why it will most likely have no answer.
    doubt: Option<String>,
    /// It was not taken, so nothing was done.
    is_over: bool,
    /// Since when neither the call nor its answer is on its way any more.
    lost_since: Option<Instant>,
}

impl Attempt {
    fn new(began: Instant) -> Self {
        Self {
            began,
            questions: 0,
            out_since: None,
            in_work_at: None,
            doubt: None,
            is_over: false,
            lost_since: None,
        }
    }

    /// Tells whether somebody should be working on it; `is_sent` as in [`Sight`].
    fn is_out(&self, is_sent: bool) -> bool {
        !self.is_over && self.lost_since.is_none() && is_sent
    }
}

/// An attempt as it looks from outside.
#[derive(Clone, Copy)]
pub struct Sight<'a> {
    /// The callee has it, or should; before that and afterwards a large payload may be on its way.
    pub is_sent: bool,
    /// A host that may have it and was lost since it began.
    pub lost_host: Option<&'a str>,
}

/// The consequence of the answer to a question about an attempt.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Conclusion {
    /// Why the host that was asked, with all its calls, counts as lost.
    pub host_is_lost: Option<&'static str>,
    /// The attempt is in doubt now and was not before.
    pub is_newly_doubtful: bool,
}

/// The consequence of a look at all attempts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// The attempts to ask for.
    pub to_probe: Vec<usize>,
    /// Some attempt is in doubt now and was not before.
    pub is_newly_doubtful: bool,
}

impl Pursuit {
    /// Begins with the first attempt, whose number is 0; its answer has taken long at `now`.
    pub fn new(began: Instant, now: Instant) -> Self {
        Self {
            attempts: vec![Attempt::new(began)],
            made: 1,
            again_at: None,
            probe_at: now,
            probe_pauses: Backoff::new(PROBE_AFTER, PROBE_INTERVAL_MAX),
        }
    }

    /// Returns when the next attempt is to be made, if one is to be.
    pub fn again_at(&self) -> Option<Instant> {
        self.again_at
    }

    /// Plans another attempt.
    pub fn plan_again(&mut self, at: Instant) {
        self.again_at = Some(at);
    }

    /// Begins the attempt that was planned, unless there were too many.
    pub fn try_again(&mut self, now: Instant) -> bool {
        self.again_at = None;
        let may = self.made < ATTEMPTS_MAX;
        if may {
            self.made += 1;
            self.attempts.push(Attempt::new(now));
        }
        may
    }

    /// Notes that an attempt was not taken. It does not count against the bound on attempts.
    pub fn not_taken(&mut self, number: usize) {
        self.made -= 1;
        self.attempts[number].is_over = true;
    }

    /// Notes how many hosts were asked for an attempt.
    pub fn asked(&mut self, number: usize, hosts: usize) {
        self.attempts[number].questions = hosts;
    }

    /// Draws the conclusion from the answer of `host` to a question about an attempt.
    pub fn record_probe(
        &mut self,
        number: usize,
        is_sent: bool,
        (host, answer): (&str, Answer),
        now: Instant,
    ) -> Conclusion {
        let attempt = &mut self.attempts[number];
        attempt.questions -= 1;
        if !attempt.is_out(is_sent) {
            // The answer to the call crossed the question.
            return Conclusion::default();
        }
        let (why, host_is_lost) = match answer {
            Answer::InWork => {
                attempt.in_work_at = Some(now);
                return Conclusion::default();
            }
            // It is this host that could not ask.
            Answer::CutOff => return Conclusion::default(),
            Answer::Unknown => {
                attempt.lost_since = Some(now);
                ("lost the call or its answer", false)
            }
            Answer::Gone => ("vanished", true),
            Answer::Silence => ("fell silent", true),
        };
        let is_newly_doubtful = attempt.doubt.is_none();
        attempt.doubt = Some(format!("host {host} {why}"));
        Conclusion { host_is_lost: host_is_lost.then_some(why), is_newly_doubtful }
    }

    /// Looks at all attempts: which to ask for now, and whether a host was lost meanwhile.
    pub fn check<'a>(&mut self, now: Instant, sight: impl Fn(usize) -> Sight<'a>) -> Check {
        let is_time = now >= self.probe_at;
        if is_time {
            self.probe_at += self.probe_pauses.next_pause();
        }
        let mut check = Check::default();
        for (number, attempt) in self.attempts.iter_mut().enumerate() {
            let Sight { is_sent, lost_host } = sight(number);
            if !attempt.is_out(is_sent) {
                continue;
            }
            if attempt.doubt.is_none()
                && let Some(host) = lost_host
            {
                // Another call, or the beats of the host that stayed away, showed it.
                attempt.doubt = Some(format!("host {host} fell silent"));
                check.is_newly_doubtful = true;
            } else if is_time && attempt.questions == 0 {
                check.to_probe.push(number);
            }
        }
        check
    }

    /// Tells whether the time of a call with a large payload is over, and no host says that it is
    /// still at work with it; `ends_at` is the call's own end. Fetching the payload may take a host
    /// longer than storing it took this one; a host that answers nothing at all gets no more than a
    /// moment.
    pub fn is_late(
        &mut self,
        now: Instant,
        ends_at: Instant,
        is_sent: impl Fn(usize) -> bool,
    ) -> bool {
        let mut is_late = false;
        for (number, attempt) in self.attempts.iter_mut().enumerate() {
            if !attempt.is_out(is_sent(number)) {
                continue;
            }
            let out_since = *attempt.out_since.get_or_insert(now);
            let stored_in = out_since.saturating_duration_since(attempt.began);
            let is_heard =
                attempt.in_work_at.is_some_and(|at| now.saturating_duration_since(at) < HEARD);
            if is_heard || now < ends_at + stored_in + stored_in.max(FETCH_MIN) {
                return false;
            }
            is_late = true;
        }
        is_late
    }

    /// Tells whether an attempt is lost, for so long that its answer would have come by now.
    pub fn is_lost(&self, now: Instant) -> bool {
        self.attempts.iter().any(|attempt| {
            attempt
                .lost_since
                .is_some_and(|since| now.saturating_duration_since(since) >= CHECK_INTERVAL)
        })
    }

    /// Returns why it is unknown what became of the call; `None` if every attempt is accounted for.
    pub fn cause(&self) -> Option<&str> {
        self.attempts
            .iter()
            .filter(|attempt| !attempt.is_over)
            .find_map(|attempt| attempt.doubt.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn sight<'a>(is_sent: bool, lost_host: Option<&'a str>) -> impl Fn(usize) -> Sight<'a> {
        move |_| Sight { is_sent, lost_host }
    }

    fn probed(pursuit: &mut Pursuit, answer: Answer, now: Instant) -> Conclusion {
        pursuit.asked(0, 1);
        pursuit.record_probe(0, true, ("N", answer), now)
    }

    #[test]
    fn answers_to_questions_say_which_attempt_is_in_doubt() {
        use crate::rpc::client::Answer::{CutOff, Gone, InWork, Silence, Unknown};
        let now = Instant::now();
        for (earlier, answer, host_is_lost, is_newly_doubtful, cause) in [
            (None, InWork, None, false, None),
            (None, CutOff, None, false, None),
            (None, Unknown, None, true, Some("host N lost the call or its answer")),
            (None, Gone, Some("vanished"), true, Some("host N vanished")),
            (None, Silence, Some("fell silent"), true, Some("host N fell silent")),
            // An attempt in doubt stays so; the last answer says why, and lost hosts are lost
            // again.
            (Some(Gone), InWork, None, false, Some("host N vanished")),
            (Some(Gone), CutOff, None, false, Some("host N vanished")),
            (Some(Gone), Silence, Some("fell silent"), false, Some("host N fell silent")),
            (Some(Silence), Gone, Some("vanished"), false, Some("host N vanished")),
            (Some(Silence), Unknown, None, false, Some("host N lost the call or its answer")),
            (Some(InWork), Gone, Some("vanished"), true, Some("host N vanished")),
            // Nothing can be found out of one that is lost.
            (Some(Unknown), Gone, None, false, Some("host N lost the call or its answer")),
            (Some(Unknown), InWork, None, false, Some("host N lost the call or its answer")),
        ] {
            let mut pursuit = Pursuit::new(now, now);
            if let Some(earlier) = earlier {
                probed(&mut pursuit, earlier, now);
            }
            let conclusion = probed(&mut pursuit, answer, now);
            let expected = Conclusion { host_is_lost, is_newly_doubtful };
            assert_eq!(conclusion, expected, "{earlier:?}, then {answer:?}");
            assert_eq!(pursuit.cause(), cause, "{earlier:?}, then {answer:?}");
        }
    }

    #[test]
    fn an_attempt_nobody_works_on_is_neither_asked_for_nor_in_doubt() {
        let now = Instant::now();
        for (is_sent, is_over, is_lost, is_out) in [
            (true, false, false, true),
            (false, false, false, false),
            (true, true, false, false),
            (true, false, true, false),
            (false, true, true, false),
        ] {
            let case = format!("sent {is_sent}, over {is_over}, lost {is_lost}");
            let mut pursuit = Pursuit::new(now, now);
            if is_lost {
                probed(&mut pursuit, Answer::Unknown, now);
            }
            if is_over {
                pursuit.not_taken(0);
            }
            let was_doubtful = is_lost && !is_over;
            let check = pursuit.check(now, sight(is_sent, None));
            let to_probe = if is_out { vec![0] } else { Vec::new() };
            assert_eq!(check, Check { to_probe, is_newly_doubtful: false }, "{case}");
            let check = pursuit.check(now, sight(is_sent, Some("N")));
            assert_eq!(check.is_newly_doubtful, is_out, "{case}");
            assert_eq!(pursuit.cause().is_some(), is_out || was_doubtful, "{case}");
            pursuit.asked(0, 1);
            let conclusion = pursuit.record_probe(0, is_sent, ("N", Answer::Gone), now);
            assert_eq!(conclusion.host_is_lost.is_some(), is_out, "{case}");
        }
    }

    #[test]
    fn questions_come_less_and_less_often_and_one_at_a_time() {
        let began = Instant::now();
        let mut pursuit = Pursuit::new(began, began);
        let mut asked_at = Vec::new();
        for ms in (0..=4_000).step_by(100) {
            let check = pursuit.check(began + MS * ms, sight(true, None));
            if check.to_probe == [0] {
                asked_at.push(ms);
            }
        }
        assert_eq!(asked_at, [0, 200, 600, 1_400, 2_400, 3_400]);
        let later = began + MS * 10_000;
        pursuit.asked(0, 2);
        assert!(pursuit.check(later, sight(true, None)).to_probe.is_empty());
        pursuit.record_probe(0, true, ("N", Answer::InWork), later);
        assert!(pursuit.check(later, sight(true, None)).to_probe.is_empty(), "one is under way");
        pursuit.record_probe(0, true, ("N", Answer::InWork), later);
        assert_eq!(pursuit.check(later, sight(true, None)).to_probe, [0]);
    }

    #[test]
    fn a_host_that_others_found_lost_is_news_once() {
        let now = Instant::now();
        let mut pursuit = Pursuit::new(now, now);
        assert!(pursuit.check(now, sight(true, Some("N"))).is_newly_doubtful);
        assert_eq!(pursuit.cause(), Some("host N fell silent"));
        let check = pursuit.check(now, sight(true, Some("N")));
        assert!(!check.is_newly_doubtful);
        assert!(!probed(&mut pursuit, Answer::Gone, now).is_newly_doubtful);
    }

    #[test]
    fn a_call_is_made_four_times_at_most_and_attempts_that_were_not_taken_do_not_count() {
        let now = Instant::now();
        let mut pursuit = Pursuit::new(now, now);
        for _ in 1..ATTEMPTS_MAX {
            pursuit.plan_again(now);
            assert!(pursuit.again_at().is_some() && pursuit.try_again(now));
            assert_eq!(pursuit.again_at(), None);
        }
        assert!(!pursuit.try_again(now));
        pursuit.not_taken(2);
        assert!(pursuit.try_again(now) && !pursuit.try_again(now));
    }

    #[test]
    fn the_outcome_is_unknown_while_an_attempt_in_doubt_is_not_accounted_for() {
        let now = Instant::now();
        let mut pursuit = Pursuit::new(now, now);
        assert!(pursuit.try_again(now));
        assert_eq!(pursuit.cause(), None);
        pursuit.asked(1, 1);
        pursuit.record_probe(1, true, ("SECOND", Answer::Gone), now);
        assert_eq!(pursuit.cause(), Some("host SECOND vanished"));
        probed(&mut pursuit, Answer::Silence, now);
        assert_eq!(pursuit.cause(), Some("host N fell silent"), "the first one is named");
        pursuit.not_taken(0);
        assert_eq!(pursuit.cause(), Some("host SECOND vanished"));
        pursuit.not_taken(1);
        assert_eq!(pursuit.cause(), None);
    }

    #[test]
    fn a_call_that_its_host_does_not_know_is_lost_after_a_moment() {
        let now = Instant::now();
        for (answer, after, is_lost) in [
            (Answer::Unknown, CHECK_INTERVAL, true),
            (Answer::Unknown, CHECK_INTERVAL - MS, false),
            (Answer::Gone, CHECK_INTERVAL * 10, false),
            (Answer::InWork, CHECK_INTERVAL * 10, false),
        ] {
            let mut pursuit = Pursuit::new(now, now);
            probed(&mut pursuit, answer, now);
            assert_eq!(pursuit.is_lost(now + after), is_lost, "{answer:?} {after:?}");
        }
    }

    #[test]
    fn a_large_payload_has_the_time_it_took_to_store_and_a_moment_at_least() {
        let began = Instant::now();
        let ends_at = began + MS * 2_000;
        for (number, (stored_ms, in_work_at, now_ms, is_late)) in [
            (0, None, 2_000, false),
            (0, None, 2_999, false),
            (0, None, 3_000, true),
            (500, None, 3_499, false),
            (500, None, 3_500, true),
            (3_000, None, 7_999, false),
            (3_000, None, 8_000, true),
            // A host that says it is at work is waited for.
            (0, Some(2_000), 3_699, false),
            (0, Some(2_000), 3_700, true),
            (3_000, Some(9_000), 10_000, false),
        ]
        .into_iter()
        .enumerate()
        {
            let mut pursuit = Pursuit::new(began, began);
            assert!(!pursuit.is_late(began, ends_at, |_| false), "it is still being stored");
            let _ = pursuit.is_late(began + MS * stored_ms, ends_at, |_| true);
            if let Some(ms) = in_work_at {
                probed(&mut pursuit, Answer::InWork, began + MS * ms);
            }
            let now = began + MS * now_ms;
            assert_eq!(pursuit.is_late(now, ends_at, |_| true), is_late, "case {number}");
            assert!(!pursuit.is_late(now, ends_at, |_| false), "its answer is being fetched");
        }
    }

    #[test]
    fn one_attempt_that_has_time_left_is_enough() {
        let began = Instant::now();
        let (ends_at, now) = (began + MS * 2_000, began + MS * 3_500);
        let mut pursuit = Pursuit::new(began, began);
        let _ = pursuit.is_late(began, ends_at, |_| true);
        assert!(pursuit.is_late(now, ends_at, |_| true));
        assert!(pursuit.try_again(began + MS * 2_700));
        let _ = pursuit.is_late(began + MS * 3_400, ends_at, |_| true);
        assert!(!pursuit.is_late(now, ends_at, |number| number == 1), "it took 700 ms to store");
    }
}

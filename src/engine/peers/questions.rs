//! Asks other hosts what they offer: now, or after a pause; each host one question at a time, and
//! only so many at a time as [`ASKING_MAX`] says.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use async_nats::Client;
use bytes::Bytes;
use tokio::{task::JoinSet, time::Instant};

use super::{table::PEERS_MAX, words};
use lattice_base::backoff;
use lattice_protocol::{identity::keys::HostId, lattice::subject::Subjects, peers::wire::ROSTER};

/// How long a host may take to answer.
pub(super) const ASK: Duration = Duration::from_secs(2);
/// Questions that may be under way.
pub(super) const ASKING_MAX: usize = 64;
/// How long after the first question without an answer a host is asked again, about; twice as long
/// after each further one, so many times.
const RETRY: Duration = Duration::from_secs(2);
const RETRIES: u32 = 3;

/// Questions for what others offer.
pub struct Questions {
    client: Client,
    subjects: Subjects,
    asking: JoinSet<Told>,
    plan: Plan,
}

/// The host that a question went to, and its answer with the nonce of the question.
pub type Told = (String, Option<(Bytes, String)>);

/// The end of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The host answered with its message of this number.
    Answered(u64),
    /// It did not.
    Silence,
    /// It did not, and is not asked again.
    GivenUp,
}

impl Questions {
    pub fn new(client: Client, subjects: Subjects) -> Self {
        Self { client, subjects, asking: JoinSet::new(), plan: Plan::default() }
    }

    /// Asks a host, unless it is being asked; as soon as there is room. The name may be anything
    /// that somebody sent, and is a part of a subject: only that of a host is asked.
    pub fn ask(&mut self, host: &str) {
        self.ask_after(host, Duration::ZERO);
    }

    /// The same after a pause, unless it is asked before.
    pub fn ask_after(&mut self, host: &str, pause: Duration) {
        if HostId::parse(host).is_err() {
            return;
        }
        if pause.is_zero() {
            self.plan.ask(host);
            self.start();
        } else {
            self.plan.ask_at(host, Instant::now() + pause);
        }
    }

    /// Asks a host after a pause whether it said what was heard of it, a message of this number.
    pub fn ask_to_confirm(&mut self, host: &str, count: u64, pause: Duration) {
        if !self.plan.ask_again_below(host, count) {
            self.ask_after(host, pause);
        }
    }

    /// Asks those whose pause is over.
    pub fn ask_due(&mut self) {
        self.plan.ask_due(Instant::now());
        self.start();
    }

    /// Waits for an answer, or for the time in which it should have come; nothing where nobody is
    /// asked. Safe to drop. What follows from it goes to [`end`](Self::end).
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            match self.asking.join_next().await? {
                Ok(told) => return Some(told),
                // It is not known which one was lost.
                Err(_) => self.plan.forget_asked(),
            }
            self.start();
        }
    }

    /// Notes how the question to a host ended.
    pub fn end(&mut self, host: &str, end: End) {
        self.plan.end(host, end, Instant::now(), rand::random());
        self.start();
    }

    fn start(&mut self) {
        while self.asking.len() < ASKING_MAX
            && let Some(host) = self.plan.next()
        {
            let (client, subject) = (self.client.clone(), self.subjects.host(&host));
            self.asking.spawn(async move {
                let nonce = words::nonce();
                let request = Bytes::from_static(ROSTER);
                let asked = client.request_with_headers(subject, words::question(&nonce), request);
                let answer = tokio::time::timeout(ASK, asked).await.ok().and_then(Result::ok);
                (host, answer.map(|answer| (answer.payload, nonce)))
            });
        }
    }
}

/// The hosts to ask, and when.
#[derive(Default)]
struct Plan {
    /// Those that are being asked.
    asked: HashSet<String>,
    /// Those of them that said something meanwhile, which their answers may not know yet: the
    /// highest number of these messages.
    again: HashMap<String, u64>,
    /// Those to be asked when there is room, in their order and as a set.
    waiting: VecDeque<String>,
    is_waiting: HashSet<String>,
    /// Those to be asked later, in their order and by name.
    later: BTreeSet<(Instant, String)>,
    due: HashMap<String, Instant>,
    /// Those that did not answer, and how often.
    unanswered: HashMap<String, u32>,
}

impl Plan {
    fn ask(&mut self, host: &str) {
        if self.asked.contains(host) {
            return;
        }
        if let Some(at) = self.due.remove(host) {
            self.later.remove(&(at, host.to_owned()));
        }
        if self.is_waiting.contains(host) {
            return;
        }
        if self.waiting.len() >= PEERS_MAX {
            self.unanswered.remove(host);
            return;
        }
        self.is_waiting.insert(host.to_owned());
        self.waiting.push_back(host.to_owned());
    }

    /// Has a host asked later, unless it is asked before that; says whether it will be.
    fn ask_at(&mut self, host: &str, at: Instant) -> bool {
        if self.asked.contains(host) || self.is_waiting.contains(host) {
            return true;
        }
        match self.due.get(host).copied() {
            Some(before) if before <= at => return true,
            Some(before) => _ = self.later.remove(&(before, host.to_owned())),
            None if self.due.len() >= PEERS_MAX => return false,
            None => {}
        }
        self.due.insert(host.to_owned(), at);
        self.later.insert((at, host.to_owned()));
        true
    }

    /// Has a host that is being asked now asked once more if its answer is older than its message
    /// of this number; says whether it is being asked.
    fn ask_again_below(&mut self, host: &str, count: u64) -> bool {
        let is_asked = self.asked.contains(host);
        if is_asked {
            let highest = self.again.entry(host.to_owned()).or_default();
            *highest = count.max(*highest);
        }
        is_asked
    }

    fn ask_due(&mut self, now: Instant) {
        while self.later.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, host)) = self.later.pop_first()
        {
            self.due.remove(&host);
            self.ask(&host);
        }
    }

    /// The next one to ask, which counts as being asked from then on.
    fn next(&mut self) -> Option<String> {
        let host = self.waiting.pop_front()?;
        self.is_waiting.remove(&host);
        self.asked.insert(host.clone());
        Some(host)
    }

    fn forget_asked(&mut self) {
        self.asked.clear();
        self.again.clear();
    }

    /// Notes the end of a question, with a number of chance from 0 to 1.
    fn end(&mut self, host: &str, end: End, now: Instant, chance: f64) {
        self.asked.remove(host);
        let again = self.again.remove(host);
        let unanswered = self.unanswered.remove(host).unwrap_or(0);
        match end {
            End::Answered(count) if again.is_some_and(|heard| count < heard) => self.ask(host),
            End::Silence if unanswered < RETRIES => {
                let pause = RETRY * (1 << unanswered);
                if self.ask_at(host, now + backoff::about(pause, chance)) {
                    self.unanswered.insert(host.to_owned(), unanswered + 1);
                }
            }
            End::Answered(_) | End::Silence | End::GivenUp => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::remote::offline_client;
    use lattice_protocol::identity::{keys::LatticeName, samples};

    const SECOND: Duration = Duration::from_secs(1);

    fn all(plan: &mut Plan) -> Vec<String> {
        std::iter::from_fn(|| plan.next()).collect()
    }

    #[test]
    fn a_host_is_asked_once_at_a_time_and_again_if_its_answer_is_older_than_its_words() {
        // The words that were heard meanwhile, the end, and whether it is asked again at once.
        for (heard, end, is_again) in [
            (&[][..], End::Answered(5), false),
            (&[4], End::Answered(5), false),
            (&[5], End::Answered(5), false),
            (&[6, 3], End::Answered(5), true),
            (&[6], End::Silence, false),
            (&[6], End::GivenUp, false),
        ] {
            let mut plan = Plan::default();
            assert!(!plan.ask_again_below("A", 9), "it is not being asked");
            plan.ask("A");
            plan.ask("A");
            assert_eq!(all(&mut plan), ["A"]);
            plan.ask("A");
            assert!(heard.iter().all(|count| plan.ask_again_below("A", *count)));
            assert!(all(&mut plan).is_empty());
            plan.end("A", end, Instant::now(), 0.5);
            assert_eq!(!all(&mut plan).is_empty(), is_again, "{heard:?} {end:?}");
        }
    }

    #[test]
    fn a_host_that_does_not_answer_is_asked_again_three_times_at_growing_intervals() {
        let (mut plan, mut now) = (Plan::default(), Instant::now());
        plan.ask("A");
        for seconds in [2, 4, 8] {
            assert_eq!(all(&mut plan), ["A"]);
            plan.end("A", End::Silence, now, 0.5);
            plan.ask_due(now + SECOND * seconds - SECOND / 10);
            assert!(all(&mut plan).is_empty(), "{seconds}");
            now += SECOND * seconds;
            plan.ask_due(now);
        }
        assert_eq!(all(&mut plan), ["A"]);
        plan.end("A", End::Silence, now, 0.5);
        plan.ask_due(now + SECOND * 100);
        assert!(all(&mut plan).is_empty() && plan.unanswered.is_empty());
    }

    #[test]
    fn a_host_that_is_to_be_asked_later_is_asked_once_and_at_the_earliest_time() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        for (host, seconds) in [("A", 3), ("B", 2), ("A", 1), ("B", 5), ("C", 4), ("D", 9)] {
            assert!(plan.ask_at(host, now + SECOND * seconds));
        }
        plan.ask_due(now + SECOND * 2);
        assert_eq!(all(&mut plan), ["A", "B"]);
        plan.ask("C");
        assert_eq!(all(&mut plan), ["C"]);
        assert!(plan.ask_at("A", now + SECOND * 6), "it is being asked");
        plan.ask_due(now + SECOND * 8);
        assert!(all(&mut plan).is_empty());
        assert_eq!((plan.later.len(), plan.due.len()), (1, 1));
    }

    #[tokio::test]
    async fn only_hosts_are_asked_whatever_name_somebody_sends() {
        let subjects = Subjects::new(LatticeName::parse("default").unwrap(), "wasmbus.ctl");
        let mut questions = Questions::new(offline_client().await, subjects);
        let shutdown = format!("{}.default.shutdown", samples::PROVIDER.public);
        let long = "N".repeat(1 << 20);
        for (name, is_host) in [
            (samples::HOST.public, true),
            (samples::PROVIDER.public, false),
            (&*shutdown, false),
            (&*long, false),
            ("hosts", false),
            (">", false),
            ("", false),
        ] {
            questions.ask_after(name, SECOND);
            assert_eq!(questions.plan.due.contains_key(name), is_host, "{name:.60}");
            questions.ask(name);
            assert_eq!(questions.plan.asked.contains(name), is_host, "{name:.60}");
        }
        assert!(questions.plan.waiting.is_empty() && questions.plan.later.is_empty());
    }

    #[test]
    fn what_is_to_be_asked_is_bounded() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        for number in 0..PEERS_MAX + 9 {
            plan.ask(&format!("A{number}"));
            plan.ask_at(&format!("B{number}"), now);
        }
        assert_eq!((plan.waiting.len(), plan.later.len()), (PEERS_MAX, PEERS_MAX));
        assert_eq!((plan.is_waiting.len(), plan.due.len()), (PEERS_MAX, PEERS_MAX));
    }
}

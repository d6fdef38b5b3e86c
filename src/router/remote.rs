//! Calls that leave the process: to which host, and what happens when that host vanishes.
//!
//! If [`peers`](crate::peers) know who runs the target, one of them is chosen and gets the call on a subject of its own; so it is
//! known who has it. Otherwise the queue group decides, as for callers of all years. A host that turns out not to listen, or to be
//! too busy, has done nothing, so the call goes to the next one at once.
//!
//! An answer that takes long is asked for, at the host that has the call. If that host is gone, silent, or has never seen the
//! call, the call is made again elsewhere, provided that it may be made twice ([`repeat`]); the first answer wins. A call that
//! may not be made twice waits for its answer as long as there is hope, and then its error says that the outcome is unknown.
//!
//! Everything ends at the call's deadline.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, interval, sleep, sleep_until};
use tracing::{debug, info};

use crate::{
    links::Live,
    peers::{Peer, Peers, Presence, target_of},
    rpc::{
        call::{Call, CallError},
        client::{Answer, Client, new_id},
        invocation::Entity,
        repeat::{self, Repeat},
    },
};

/// How long an answer may take before it is asked for. Longer than nearly all calls take.
const DOUBT: Duration = Duration::from_millis(200);
/// The longest pause between two questions.
const DOUBT_MAX: Duration = Duration::from_secs(1);
/// How often to look whether others have found out that a host is lost.
const LOOK: Duration = Duration::from_millis(100);
/// How long a host may take to answer a question. Twice the way around the world.
const ASK: Duration = Duration::from_millis(500);
/// How long a host counts as at work that said so: the longest pause between two questions, and the time for an answer.
const HEARD: Duration = Duration::from_millis(1600);
/// The time that a callee that cannot be asked gets for fetching a large payload, if storing it
/// took less.
const FETCH_MIN: Duration = Duration::from_secs(1);
/// How often one call is made at most.
const ATTEMPTS_MAX: usize = 4;
/// How long after a host was last heard of its calls wait for it to come back: a NATS server that is started again takes its
/// clients and leaf nodes back within this time.
const GRACE: Duration = Duration::from_secs(4);
/// How long to wait before looking for it again.
const GRACE_PAUSE: Duration = Duration::from_millis(50);

/// Performs calls on other hosts. Cheap to clone.
#[derive(Clone)]
pub struct Remote(Arc<Inner>);

struct Inner {
    client: Client,
    peers: Peers,
    links: Live,
    /// Operations the operator marked as repeatable.
    marked: Vec<String>,
}

/// A call that was sent.
struct Attempt {
    /// The host that has it; unknown when the queue group decided.
    peer: Option<Arc<Peer>>,
    /// Those who may have it, and how often each had been lost.
    may_have: Vec<(Arc<Peer>, u64)>,
    id: String,
    began: Instant,
    sent: Arc<AtomicBool>,
    answer: BoxFuture<'static, Result<Bytes, CallError>>,
}

/// The state of an attempt whose answer takes long.
struct Pending {
    peer: Option<Arc<Peer>>,
    may_have: Vec<(Arc<Peer>, u64)>,
    id: String,
    began: Instant,
    /// The callee has it, or should; before that and afterwards a large payload may be on its way.
    sent: Arc<AtomicBool>,
    /// Questions for it without an answer.
    asked: usize,
    /// When it was first seen to be with the callee.
    out_since: Option<Instant>,
    /// When the host that has it last said so.
    in_work_at: Option<Instant>,
    /// It will most likely have no answer, and why.
    doubt: Option<String>,
    /// It was not taken, so nothing was done.
    is_over: bool,
    /// Since when neither the call nor its answer is on its way any more.
    lost_since: Option<Instant>,
}

impl Pending {
    /// Whether somebody should be working on it.
    fn is_out(&self) -> bool {
        !self.is_over && self.lost_since.is_none() && self.sent.load(Ordering::Acquire)
    }

    /// One of those who may have it was lost since.
    fn lost_host(&self) -> Option<&Arc<Peer>> {
        self.may_have.iter().find(|(peer, losses)| peer.losses() > *losses).map(|(peer, _)| peer)
    }
}

/// The hosts a call may still go to: those of the target that were not tried.
struct Choice {
    target: Arc<str>,
    may_be_here: bool,
    tried: Vec<Arc<Peer>>,
}

impl Remote {
    /// `marked` are operations that may be repeated, besides those [`repeat`] knows.
    pub fn new(client: Client, peers: Peers, links: Live, marked: Vec<String>) -> Self {
        Self(Arc::new(Inner { client, peers, links, marked }))
    }

    /// Performs a call elsewhere, or here if it `may_be_here`.
    pub async fn call(&self, call: Call, may_be_here: bool) -> Result<Bytes, CallError> {
        let mut choice = Choice::of(&call.target, may_be_here);
        let key = Arc::clone(&call.target.public_key);
        loop {
            let peer = self.choose(&choice);
            let mut attempt = self.send(&call, &choice, peer);
            let result = tokio::select! {
                biased;
                result = &mut attempt.answer => result,
                () = sleep(DOUBT) => return self.pursue(call, choice, attempt).await,
            };
            match (result, attempt.peer) {
                (Err(error), Some(peer)) if was_not_taken(&error, &key) => choice.pass_over(peer, &error),
                (Err(CallError::NoResponders { .. }), None) if self.may_come_back(&choice, &call) => {
                    sleep(GRACE_PAUSE).await;
                    choice.tried.clear();
                }
                (result, peer) => {
                    if let Some(peer) = peer {
                        peer.learn(attempt.began.elapsed());
                    }
                    return result;
                }
            }
        }
    }

    /// Where a call would be sent first: to a host that is chosen, or to the queue group.
    pub fn first(&self, target: &Entity, may_be_here: bool) -> Result<(Option<Arc<Peer>>, String), CallError> {
        let peer = self.choose(&Choice::of(target, may_be_here));
        let subject = self.0.client.subject(target, peer.as_ref().map(|peer| &*peer.id))?;
        Ok((peer, subject))
    }

    /// The other hosts that run a target.
    pub fn runners(&self, target: &Entity) -> Vec<Arc<Peer>> {
        self.0.peers.runners(&target_of(target))
    }

    /// Whether another host runs an actor.
    pub fn presence(&self, actor_id: &str) -> Presence {
        self.0.peers.presence(actor_id)
    }

    /// Whether calls of an operation of `target` are made again when a host vanishes with them.
    pub fn repeat(&self, operation: &str, target: &str) -> Repeat {
        Repeat::of(operation, &self.0.marked, self.0.links.table().tags(target))
    }

    fn choose(&self, choice: &Choice) -> Option<Arc<Peer>> {
        self.0.peers.choose(&choice.target, &choice.tried, choice.may_be_here)
    }

    /// Tells whether a host that runs the target was there a moment ago. A host that stops taking
    /// calls says so before, so if nobody listens nevertheless, the way there is cut, or not yet
    /// known again to every server on it.
    fn may_come_back(&self, choice: &Choice, call: &Call) -> bool {
        Instant::now() + GRACE_PAUSE < call.deadline
            && self.0.peers.runners(&choice.target).iter().any(|peer| peer.silence() < GRACE)
    }

    fn send(&self, call: &Call, choice: &Choice, peer: Option<Arc<Peer>>) -> Attempt {
        let may_have = match &peer {
            Some(peer) => vec![(Arc::clone(peer), peer.losses())],
            None => {
                let runners = self.0.peers.runners(&choice.target).into_iter().filter(|peer| !peer.is_lost());
                runners.map(|peer| (Arc::clone(&peer), peer.losses())).collect()
            }
        };
        let (inner, call, id) = (Arc::clone(&self.0), call.clone(), new_id());
        let (sent_id, sent_to, sent) = (id.clone(), peer.clone(), Arc::new(AtomicBool::new(false)));
        let is_sent = Arc::clone(&sent);
        let answer = async move {
            let _taken = sent_to.as_ref().map(Peer::take);
            inner.client.invoke(call, sent_to.as_ref().map(|peer| &*peer.id), sent_id, &is_sent).await
        };
        Attempt { peer, may_have, id, began: Instant::now(), sent, answer: answer.boxed() }
    }

    /// Sees a call through whose answer takes long.
    async fn pursue(&self, call: Call, mut choice: Choice, first: Attempt) -> Result<Bytes, CallError> {
        let mut answers = FuturesUnordered::new();
        let mut questions = FuturesUnordered::<Question>::new();
        let mut pending: Vec<Pending> = Vec::new();
        let begin = |attempt: Attempt, pending: &mut Vec<Pending>| {
            let number = pending.len();
            let Attempt { peer, may_have, id, began, sent, answer } = attempt;
            let (asked, out_since, in_work_at, doubt, is_over, lost_since) = (0, None, None, None, false, None);
            pending.push(Pending {
                peer,
                may_have,
                id,
                began,
                sent,
                asked,
                out_since,
                in_work_at,
                doubt,
                is_over,
                lost_since,
            });
            async move { (number, answer.await) }.boxed()
        };
        answers.push(begin(first, &mut pending));
        let mut is_repeatable = None;
        // Attempts that may have been carried out, and when to make the next one.
        let (mut made, mut again_at) = (1, None);
        let mut look = interval(LOOK);
        let (mut ask_at, mut pause) = (Instant::now(), DOUBT);
        loop {
            let doubtful = tokio::select! {
                biased;
                Some((number, result)) = answers.next() => {
                    match result {
                        Err(error) if was_not_taken(&error, &call.target.public_key) => {
                            made -= 1;
                            match pending[number].peer.clone() {
                                Some(peer) => {
                                    choice.pass_over(peer, &error);
                                    again_at = Some(Instant::now());
                                }
                                None if self.may_come_back(&choice, &call) => again_at = Some(Instant::now() + GRACE_PAUSE),
                                None if answers.is_empty() => return Err(self.outcome(&call, &pending).unwrap_or(error)),
                                None => {}
                            }
                            pending[number].is_over = true;
                        }
                        result => {
                            let attempt = &pending[number];
                            if let Some(peer) = &attempt.peer {
                                peer.learn(attempt.began.elapsed());
                            }
                            return match result {
                                Err(error @ CallError::TimedOut { .. }) => {
                                    Err(self.outcome(&call, &pending).unwrap_or(error))
                                }
                                result => result,
                            };
                        }
                    }
                    false
                }
                Some((number, who, answer)) = questions.next() => {
                    let attempt: &mut Pending = &mut pending[number];
                    attempt.asked -= 1;
                    // Its answer may have crossed the question.
                    attempt.is_out() && judge(attempt, &who, answer)
                }
                () = sleep_until(again_at.unwrap_or_else(Instant::now)), if again_at.is_some() => {
                    again_at = None;
                    if made < ATTEMPTS_MAX {
                        made += 1;
                        let peer = self.choose(&choice);
                        debug!(target = %choice.target, host_id = peer.as_ref().map(|peer| &*peer.id), "a call is made again");
                        answers.push(begin(self.send(&call, &choice, peer), &mut pending));
                    }
                    false
                }
                _ = look.tick() => {
                    if self.is_late(&call, &mut pending) {
                        return Err(self.outcome(&call, &pending).unwrap_or_else(|| self.late(&call, &pending)));
                    }
                    let is_time = Instant::now() >= ask_at;
                    if is_time {
                        ask_at += pause;
                        pause = (pause * 2).min(DOUBT_MAX);
                    }
                    let mut is_doubtful = false;
                    for (number, attempt) in pending.iter_mut().enumerate().filter(|(_, attempt)| attempt.is_out()) {
                        if attempt.doubt.is_none() && let Some(host) = attempt.lost_host() {
                            // Somebody else found out.
                            attempt.doubt = Some(format!("host {} fell silent", host.id));
                            is_doubtful = true;
                        } else if is_time && attempt.asked == 0 {
                            let asked = self.ask(&call, number, attempt);
                            attempt.asked = asked.len();
                            questions.extend(asked);
                        }
                    }
                    let is_lost = |attempt: &Pending| attempt.lost_since.is_some_and(|since| since.elapsed() >= LOOK);
                    if pending.iter().any(is_lost)
                        && !*is_repeatable.get_or_insert_with(|| self.is_repeatable(&call))
                        && let Some(error) = self.outcome(&call, &pending)
                    {
                        return Err(error);
                    }
                    is_doubtful
                }
            };
            if doubtful && *is_repeatable.get_or_insert_with(|| self.is_repeatable(&call)) {
                again_at = Some(Instant::now());
            }
            if answers.is_empty() && again_at.is_none() {
                let nobody = || CallError::Transport("no host takes the call".into());
                return Err(self.outcome(&call, &pending).unwrap_or_else(nobody));
            }
        }
    }

    /// Tells whether the time of a call with a large payload is over, and no host says that it is
    /// still at work with it. Fetching the payload may take a host longer than storing it took this
    /// one; a host that answers nothing at all gets no more than a moment.
    fn is_late(&self, call: &Call, pending: &mut [Pending]) -> bool {
        if !self.0.client.travels_apart(call.payload.len()) {
            // The exchange keeps its deadline.
            return false;
        }
        let now = Instant::now();
        let mut is_late = false;
        for attempt in pending.iter_mut().filter(|attempt| attempt.is_out()) {
            let stored_in = attempt.out_since.get_or_insert(now).saturating_duration_since(attempt.began);
            let is_heard = attempt.in_work_at.is_some_and(|at| at.elapsed() < HEARD);
            if is_heard || now < call.ends_at() + stored_in + stored_in.max(FETCH_MIN) {
                return false;
            }
            is_late = true;
        }
        is_late
    }

    fn late(&self, call: &Call, pending: &[Pending]) -> CallError {
        let waited = pending.first().map_or(Duration::ZERO, |attempt| attempt.began.elapsed());
        let to = pending.first().and_then(|attempt| attempt.peer.as_ref()).map(|peer| &*peer.id);
        match self.0.client.subject(&call.target, to) {
            Ok(subject) => self.0.client.timed_out(&subject, waited),
            Err(error) => error,
        }
    }

    /// Asks for an attempt: the host that has it, or all that may have it.
    fn ask(&self, call: &Call, number: usize, attempt: &Pending) -> Vec<Question> {
        let id = attempt.peer.as_ref().map(|_| attempt.id.clone());
        let question = |(peer, _): &(Arc<Peer>, u64)| {
            let (client, call, peer, id) = (self.0.client.clone(), call.clone(), Arc::clone(peer), id.clone());
            async move {
                let Some(id) = id else {
                    let answer = client.look_for(&peer.id, ASK).await;
                    return (number, peer, answer);
                };
                let answer = match client.ask(&call, &peer.id, &id, ASK).await {
                    // Is it the host that is gone, or has it only ended the target?
                    Answer::Gone => match client.look_for(&peer.id, ASK).await {
                        Answer::InWork => Answer::Unknown,
                        answer => answer,
                    },
                    // A host that has much to do takes its time for questions about one target.
                    Answer::Silence => client.look_for(&peer.id, ASK).await,
                    answer => answer,
                };
                (number, peer, answer)
            }
            .boxed()
        };
        attempt.may_have.iter().map(question).collect()
    }

    /// The error of a call of which nobody knows what became of it; none if every attempt is accounted for.
    fn outcome(&self, call: &Call, pending: &[Pending]) -> Option<CallError> {
        let cause = pending.iter().filter(|attempt| !attempt.is_over).find_map(|attempt| attempt.doubt.clone())?;
        let (operation, target) = (call.operation.clone(), call.target.public_key.to_string());
        Some(CallError::OutcomeUnknown { operation, target, cause })
    }

    fn is_repeatable(&self, call: &Call) -> bool {
        repeat::is_repeatable(call, &self.0.marked, self.0.links.table().tags(&call.target.public_key))
    }
}

type Question = BoxFuture<'static, (usize, Arc<Peer>, Answer)>;

impl Choice {
    fn of(target: &Entity, may_be_here: bool) -> Self {
        Self { target: target_of(target), may_be_here, tried: Vec::new() }
    }

    /// A host did not take the call.
    fn pass_over(&mut self, peer: Arc<Peer>, error: &CallError) {
        if matches!(error, CallError::NoResponders { .. }) {
            peer.strike(&self.target);
        }
        self.tried.push(peer);
    }
}

/// Whether a call of `target` was certainly not carried out, and another host may take it.
fn was_not_taken(error: &CallError, target: &str) -> bool {
    matches!(error, CallError::NoResponders { .. }) || error.is_busy(target)
}

/// Draws the conclusion from an answer; says whether the attempt is in doubt now and was not before.
fn judge(attempt: &mut Pending, who: &Arc<Peer>, answer: Answer) -> bool {
    let why = match answer {
        Answer::InWork => {
            attempt.in_work_at = Some(Instant::now());
            return false;
        }
        Answer::CutOff => return false,
        Answer::Unknown => "lost the call or its answer",
        Answer::Gone => "vanished",
        Answer::Silence => "fell silent",
    };
    if answer != Answer::Unknown && who.lose() {
        info!(host_id = %who.id, why, "a host with calls of this one is lost; calls go to others until it is heard again");
    }
    if answer == Answer::Unknown {
        attempt.lost_since = Some(Instant::now());
    }
    let is_news = attempt.doubt.is_none();
    attempt.doubt = Some(format!("host {} {why}", who.id));
    is_news
}

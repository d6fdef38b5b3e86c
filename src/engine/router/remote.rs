//! Calls that leave the process: to which host, and what happens when that host vanishes.
//!
//! If [`peers`](crate::peers) know who runs the target, one of them is chosen and gets the call on
//! a subject of its own; so it is known who has it. Otherwise the queue group decides, as for
//! callers of all years. A host that turns out not to listen, or to be too busy, has done nothing,
//! so the call goes to the next one at once.
//!
//! An answer that takes long is asked for, at the host that has the call; where the queue group
//! decided, all hosts that may have it are looked for ([`looks`](super::looks)). If that host is
//! gone, silent, or has never seen the call, the call is made again elsewhere, provided that it may
//! be made twice ([`repeat`]); the first answer wins. A call that may not be made twice waits for
//! its answer as long as there is hope, and then its error says that the outcome is unknown.
//! [`pursuit`](super::pursuit) decides all that, [`Drive`] sends and listens.
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

use super::{
    looks::Looks,
    pursuit::{CHECK_INTERVAL, Check, Conclusion, PROBE_AFTER, Pursuit, Sight},
};
use crate::{
    links::Live,
    peers::{Candidates, Peer, Peers, Presence},
    rpc::{
        call::{Call, CallError},
        client::{Answer, Client, new_id},
        repeat::{self, Repeat},
    },
};
use lattice_protocol::rpc::invocation::Entity;

/// How long a host may take to answer a question. Twice the way around the world.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long after a host was last heard of its calls wait for it to come back: a NATS server that
/// is started again takes its clients and leaf nodes back within this time.
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
    looks: Looks,
}

/// A call as it was sent once.
struct Sent {
    /// The host that has it; unknown when the queue group decided.
    peer: Option<Arc<Peer>>,
    /// Those who may have it, and how often each had been lost.
    may_have: Vec<(Arc<Peer>, u64)>,
    id: String,
    began: Instant,
    /// See [`Sight::is_sent`].
    is_sent: Arc<AtomicBool>,
}

type Exchange = BoxFuture<'static, Result<Bytes, CallError>>;

impl Sent {
    fn is_sent(&self) -> bool {
        self.is_sent.load(Ordering::Acquire)
    }

    fn sight(&self) -> Sight<'_> {
        let lost = self.may_have.iter().find(|(peer, losses)| peer.losses() > *losses);
        Sight { is_sent: self.is_sent(), lost_host: lost.map(|(peer, _)| &*peer.id) }
    }
}

/// The hosts a call may still go to: those of the target that were not tried.
struct Choice {
    target: Arc<str>,
    candidates: Candidates,
    tried: Vec<Arc<Peer>>,
}

impl Remote {
    /// `marked` are operations that may be repeated, besides those [`repeat`] knows.
    pub fn new(client: Client, peers: Peers, links: Live, marked: Vec<String>) -> Self {
        Self(Arc::new(Inner { client, peers, links, marked, looks: Looks::default() }))
    }

    /// Performs a call on one of the candidates.
    pub async fn call(&self, call: Call, candidates: Candidates) -> Result<Bytes, CallError> {
        let mut choice = Choice::of(&call.target, candidates);
        let key = Arc::clone(&call.target.public_key);
        self.check_provable(&choice)?;
        loop {
            let (sent, mut answer) = self.send(&call, &choice);
            let result = tokio::select! {
                biased;
                result = &mut answer => result,
                () = sleep(PROBE_AFTER) => {
                    let drive = Drive::new(self, call, choice, sent, answer);
                    return Box::pin(drive.drive()).await;
                }
            };
            match (result, &sent.peer) {
                (Err(error), Some(peer)) if was_not_taken(&error, &key) => {
                    choice.pass_over(Arc::clone(peer), &error)
                }
                (Err(CallError::NoResponders { .. }), None)
                    if self.may_come_back(&choice, &call) =>
                {
                    sleep(GRACE_PAUSE).await;
                    choice.tried.clear();
                }
                (result, _) => {
                    self.record((&call, &choice.target), &sent, &result);
                    return result;
                }
            }
        }
    }

    /// Where a call would be sent first: to a host that is chosen, or to the queue group.
    pub fn first(
        &self,
        target: &Entity,
        candidates: Candidates,
    ) -> Result<(Option<Arc<Peer>>, String), CallError> {
        let peer = self.choose(&Choice::of(target, candidates));
        let subject = self.0.client.subject(target, peer.as_ref().map(|peer| &*peer.id))?;
        Ok((peer, subject))
    }

    /// The other hosts that run a target.
    pub fn runners(&self, target: &Entity) -> Vec<Arc<Peer>> {
        self.0.peers.runners(&target.target_name())
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
        self.0.peers.choose(&choice.target, &choice.tried, choice.candidates)
    }

    /// Refuses a call whose answer could only be refused after it was carried out.
    fn check_provable(&self, choice: &Choice) -> Result<(), CallError> {
        let is_provable = !self.0.client.requires_signed()
            || !self.0.peers.is_indirect(&choice.target)
            || self.choose(choice).is_some();
        if is_provable {
            return Ok(());
        }
        Err(CallError::Transport(format!(
            "{} is a program of its own, whose answers nothing proves, and this host takes no such answer \
             (require_signed_answers)",
            choice.target
        )))
    }

    /// Tells whether a host that runs the target was there a moment ago. A host that stops taking
    /// calls says so before, so if nobody listens nevertheless, the way there is cut, or not yet
    /// known again to every server on it.
    fn may_come_back(&self, choice: &Choice, call: &Call) -> bool {
        Instant::now() + GRACE_PAUSE < call.ends_at()
            && self.0.peers.runners(&choice.target).iter().any(|peer| peer.silence() < GRACE)
    }

    /// Notes how a call ended, if that tells something of the host it was sent to.
    fn record(
        &self,
        (call, target): (&Call, &Arc<str>),
        sent: &Sent,
        result: &Result<Bytes, CallError>,
    ) {
        let Some(peer) = &sent.peer else { return };
        let took = sent.began.elapsed();
        match result {
            Ok(_) => peer.record_latency(target, took),
            Err(error) if is_of_host(error, self.0.client.travels_apart(call.payload.len())) => {
                let is_answer = matches!(error, CallError::Callee(_));
                peer.record_failure(target, (!is_answer).then_some(took));
            }
            Err(_) => {}
        }
    }

    /// Sends a call to the host that is the best choice now, or to the queue group.
    fn send(&self, call: &Call, choice: &Choice) -> (Sent, Exchange) {
        let peer = self.choose(choice);
        let may_have = match &peer {
            Some(peer) => vec![(Arc::clone(peer), peer.losses())],
            None => {
                let runners =
                    self.0.peers.runners(&choice.target).into_iter().filter(|peer| !peer.is_lost());
                runners.map(|peer| (Arc::clone(&peer), peer.losses())).collect()
            }
        };
        let (inner, call, id) = (Arc::clone(&self.0), call.clone(), new_id());
        let (sent_id, sent_to, is_sent) =
            (id.clone(), peer.clone(), Arc::new(AtomicBool::new(false)));
        let sent =
            Sent { peer, may_have, id, began: Instant::now(), is_sent: Arc::clone(&is_sent) };
        let exchange = async move {
            let _taken = sent_to.as_ref().map(Peer::take);
            inner
                .client
                .invoke(call, sent_to.as_ref().map(|peer| &*peer.id), sent_id, &is_sent)
                .await
        };
        (sent, exchange.boxed())
    }
}

impl Inner {
    /// Asks a host for a call that was sent to it under `id`, or only whether it is there.
    async fn probe(&self, call: &Call, host: &Arc<str>, id: Option<&str>) -> Answer {
        let Some(id) = id else { return self.look_for(host).await };
        match self.client.ask(call, host, id, PROBE_TIMEOUT).await {
            // Is it the host that is gone, or has it only ended the target?
            Answer::Gone => match self.look_for(host).await {
                Answer::InWork => Answer::Unknown,
                answer => answer,
            },
            // A host that has much to do takes its time for questions about one target.
            Answer::Silence => self.look_for(host).await,
            answer => answer,
        }
    }

    /// Asks a host whether it is there, together with the other calls that want to know it.
    async fn look_for(&self, host: &Arc<str>) -> Answer {
        let (client, looked_for) = (self.client.clone(), Arc::clone(host));
        let look = async move { client.look_for(&looked_for, PROBE_TIMEOUT).await };
        self.looks.share(host, look).await
    }
}

/// The answer of a host to a question about the attempt with this number.
type Probe = BoxFuture<'static, (usize, Arc<Peer>, Answer)>;

/// Sees a call through whose answer takes long.
struct Drive<'a> {
    remote: &'a Remote,
    call: Call,
    choice: Choice,
    /// The attempts, by their numbers in `pursuit`.
    sent: Vec<Sent>,
    pursuit: Pursuit,
    /// The answers that are still to come, each with the number of its attempt.
    answers: FuturesUnordered<BoxFuture<'static, (usize, Result<Bytes, CallError>)>>,
    probes: FuturesUnordered<Probe>,
    /// Found out when it first matters.
    is_repeatable: Option<bool>,
}

impl<'a> Drive<'a> {
    fn new(remote: &'a Remote, call: Call, choice: Choice, first: Sent, answer: Exchange) -> Self {
        let pursuit = Pursuit::new(first.began, Instant::now());
        let (answers, probes) = (FuturesUnordered::new(), FuturesUnordered::new());
        let mut drive = Self {
            remote,
            call,
            choice,
            sent: Vec::new(),
            pursuit,
            answers,
            probes,
            is_repeatable: None,
        };
        drive.expect(first, answer);
        drive
    }

    /// Waits for the answer to an attempt that `pursuit` knows already.
    fn expect(&mut self, sent: Sent, answer: Exchange) {
        let number = self.sent.len();
        self.sent.push(sent);
        self.answers.push(async move { (number, answer.await) }.boxed());
    }

    async fn drive(mut self) -> Result<Bytes, CallError> {
        let mut check = interval(CHECK_INTERVAL);
        loop {
            let again_at = self.pursuit.again_at();
            let is_newly_doubtful = tokio::select! {
                biased;
                Some((number, result)) = self.answers.next() => match self.take_answer(number, result) {
                    Some(result) => return result,
                    None => false,
                },
                Some((number, host, answer)) = self.probes.next() => self.record_probe(number, &host, answer),
                () = sleep_until(again_at.unwrap_or_else(Instant::now)), if again_at.is_some() => {
                    self.try_again();
                    false
                }
                _ = check.tick() => self.check()?,
            };
            if is_newly_doubtful && self.is_repeatable() {
                self.pursuit.plan_again(Instant::now());
            }
            if self.answers.is_empty() && self.pursuit.again_at().is_none() {
                let error = self.outcome();
                return Err(
                    error.unwrap_or_else(|| CallError::Transport("no host takes the call".into()))
                );
            }
        }
    }

    /// Takes the end of an attempt; returns that of the call, if it is one.
    fn take_answer(
        &mut self,
        number: usize,
        result: Result<Bytes, CallError>,
    ) -> Option<Result<Bytes, CallError>> {
        let sent = &self.sent[number];
        let error = match result {
            Err(error) if was_not_taken(&error, &self.call.target.public_key) => error,
            result => {
                self.remote.record((&self.call, &self.choice.target), sent, &result);
                return Some(match result {
                    Err(error @ CallError::TimedOut { .. }) => Err(self.outcome().unwrap_or(error)),
                    result => result,
                });
            }
        };
        let peer = sent.peer.clone();
        // Nobody has done anything of this attempt, so a doubt about it is over.
        self.pursuit.not_taken(number);
        match peer {
            Some(peer) => {
                self.choice.pass_over(peer, &error);
                self.pursuit.plan_again(Instant::now());
            }
            None if self.remote.may_come_back(&self.choice, &self.call) => {
                self.pursuit.plan_again(Instant::now() + GRACE_PAUSE);
            }
            // All others ended before as this one: what did not end the call was not taken.
            None if self.answers.is_empty() => return Some(Err(error)),
            None => {}
        }
        None
    }

    /// Takes the answer to a question; says whether an attempt is in doubt now and was not before.
    fn record_probe(&mut self, number: usize, host: &Peer, answer: Answer) -> bool {
        let is_sent = self.sent[number].is_sent();
        let Conclusion { host_is_lost, is_newly_doubtful } =
            self.pursuit.record_probe(number, is_sent, (&host.id, answer), Instant::now());
        if let Some(why) = host_is_lost
            && host.lose()
        {
            info!(host_id = %host.id, why, "a host with calls of this one is lost; calls go to others until it is heard again");
        }
        is_newly_doubtful
    }

    fn try_again(&mut self) {
        if self.pursuit.try_again(Instant::now()) {
            let (sent, answer) = self.remote.send(&self.call, &self.choice);
            let host_id = sent.peer.as_ref().map(|peer| &*peer.id);
            debug!(target = %self.choice.target, host_id, "a call is made again");
            self.expect(sent, answer);
        }
    }

    /// Looks at all attempts and asks for those whose time it is. Fails when nothing is to be hoped
    /// for any more; says whether an attempt is in doubt now and was not before.
    fn check(&mut self) -> Result<bool, CallError> {
        let (now, sent) = (Instant::now(), &self.sent);
        // An exchange with a payload inside keeps its deadline itself.
        let travels_apart = self.remote.0.client.travels_apart(self.call.payload.len());
        if travels_apart
            && self.pursuit.is_late(now, self.call.ends_at(), |number| sent[number].is_sent())
        {
            return Err(self.outcome().unwrap_or_else(|| self.late()));
        }
        let Check { to_probe, is_newly_doubtful } =
            self.pursuit.check(now, |number| sent[number].sight());
        for number in to_probe {
            self.ask(number);
        }
        if self.pursuit.is_lost(now)
            && !self.is_repeatable()
            && let Some(error) = self.outcome()
        {
            return Err(error);
        }
        Ok(is_newly_doubtful)
    }

    /// Asks for an attempt: the host that has it, or all that may have it.
    fn ask(&mut self, number: usize) {
        let Sent { peer, may_have, id, .. } = &self.sent[number];
        self.pursuit.asked(number, may_have.len());
        for (host, _) in may_have {
            let (inner, call, host) =
                (Arc::clone(&self.remote.0), self.call.clone(), Arc::clone(host));
            // Of those in a queue group nobody knows which one it went to.
            let id = peer.as_ref().map(|_| id.clone());
            let probe = async move {
                let answer = inner.probe(&call, &host.id, id.as_deref()).await;
                (number, host, answer)
            };
            self.probes.push(probe.boxed());
        }
    }

    /// The error of a call of which nobody knows what became of it; none if every attempt is
    /// accounted for.
    fn outcome(&self) -> Option<CallError> {
        let Call { operation, target, .. } = &self.call;
        let (operation, target) = (operation.clone(), target.public_key.to_string());
        self.pursuit.cause().map(|cause| CallError::OutcomeUnknown {
            operation,
            target,
            cause: cause.to_owned(),
        })
    }

    fn late(&self) -> CallError {
        let client = &self.remote.0.client;
        let first = self.sent.first();
        let waited = first.map_or(Duration::ZERO, |sent| sent.began.elapsed());
        let host = first.and_then(|sent| sent.peer.as_ref()).map(|peer| &*peer.id);
        match client.subject(&self.call.target, host) {
            Ok(subject) => client.timed_out(&subject, waited),
            Err(error) => error,
        }
    }

    fn is_repeatable(&mut self) -> bool {
        let (Inner { marked, links, .. }, call) = (&*self.remote.0, &self.call);
        *self.is_repeatable.get_or_insert_with(|| {
            repeat::is_repeatable(call, marked, links.table().tags(&call.target.public_key))
        })
    }
}

impl Choice {
    fn of(target: &Entity, candidates: Candidates) -> Self {
        Self { target: target.target_name(), candidates, tried: Vec::new() }
    }

    /// A host did not take the call.
    fn pass_over(&mut self, peer: Arc<Peer>, error: &CallError) {
        if matches!(error, CallError::NoResponders { .. }) {
            peer.mark_unavailable(&self.target);
        }
        self.tried.push(peer);
    }
}

/// Whether a call failed at the host that it was sent to, rather than on its way there. A payload
/// that travels apart may be late before the call is sent.
fn is_of_host(error: &CallError, travels_apart: bool) -> bool {
    match error {
        CallError::Callee(_) | CallError::OutcomeUnknown { .. } => true,
        CallError::TimedOut { .. } => !travels_apart,
        _ => false,
    }
}

/// Whether a call of `target` was certainly not carried out, and another host may take it.
fn was_not_taken(error: &CallError, target: &str) -> bool {
    matches!(error, CallError::NoResponders { .. }) || error.is_busy(target)
}

/// Returns a client whose connection never comes about.
#[cfg(test)]
pub(crate) async fn offline_client() -> async_nats::Client {
    let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
    options.connect("127.0.0.1:1").await.unwrap()
}

#[cfg(test)]
impl Remote {
    /// Returns one whose connection never comes about.
    pub(crate) async fn offline(peers: Peers, links: Live) -> Self {
        use lattice_base::budget::Budget;
        use lattice_protocol::{
            identity::{
                keys::{HostId, LatticeName},
                samples,
            },
            lattice::subject::Subjects,
            rpc::antiforgery::Signer,
        };
        let nats = offline_client().await;
        let settings = crate::rpc::chunking::Settings {
            budget: Budget::default(),
            actor_bytes_max: 1 << 20,
            bound: None,
        };
        let chunks = crate::rpc::chunking::Chunks::new(&nats, None, "default", settings);
        let subjects = Subjects::new(LatticeName::parse("default").unwrap(), "wasmbus.ctl");
        let signer = Signer::new(samples::CLUSTER.seed).unwrap();
        let host_id = HostId::parse(samples::HOST.public).unwrap();
        Self::new(Client::new(nats, subjects, signer, chunks, host_id), peers, links, Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::{sync::CancellationToken, task::TaskTracker};

    use super::*;
    use lattice_base::store::{Store, memory::Memory};
    use lattice_protocol::identity::{keys::HostId, samples};

    fn nobody() -> CallError {
        let [subject, lattice, target] = ["s", "default", "M"].map(str::to_owned);
        CallError::NoResponders { subject, lattice, target }
    }

    fn call() -> Call {
        let actor = Entity::new(samples::ACTOR.public, "", "");
        let deadline = Instant::now() + Duration::from_secs(2);
        Call::new((actor.clone(), actor), "Service.Method", Bytes::new(), deadline)
    }

    #[test]
    fn errors_made_on_this_host_tell_nothing_of_the_one_that_was_called() {
        let text = || "x".to_owned();
        let late = || CallError::TimedOut { subject: text(), lattice: text(), waited_ms: 1 };
        let unknown =
            CallError::OutcomeUnknown { operation: text(), target: text(), cause: text() };
        for (error, travels_apart, expected) in [
            (CallError::Callee(text()), false, true),
            (CallError::Callee(text()), true, true),
            (unknown, false, true),
            (late(), false, true),
            (late(), true, false),
            (CallError::Transport(text()), false, false),
            (CallError::TooLarge { cause: text(), bytes_max: 1 }, true, false),
            (nobody(), false, false),
        ] {
            assert_eq!(is_of_host(&error, travels_apart), expected, "{error}");
        }
    }

    #[tokio::test]
    async fn a_call_that_nobody_listened_for_has_a_known_outcome_whatever_was_in_doubt_before() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let store = Store::new(Arc::new(Memory::default()));
        let (links, _notices) = Live::start(store, &tasks, stop.clone()).await;
        let peers = Peers::new(&HostId::parse(samples::HOST.public).unwrap());
        let remote = Remote::offline(peers, links).await;
        let late = remote.0.client.timed_out("s", Duration::from_secs(2));
        for (answer, is_known) in [(Err(nobody()), true), (Err(late), false)] {
            let call = call();
            let choice = Choice::of(&call.target, Candidates::Others);
            let sent = Sent {
                peer: None,
                may_have: Vec::new(),
                id: new_id(),
                began: Instant::now(),
                is_sent: Arc::new(AtomicBool::new(true)),
            };
            let answer = futures::future::ready(answer).boxed();
            let mut drive = Drive::new(&remote, call, choice, sent, answer);
            drive.pursuit.asked(0, 1);
            let doubt = ("N", Answer::Gone);
            assert!(drive.pursuit.record_probe(0, true, doubt, Instant::now()).is_newly_doubtful);
            let error = drive.drive().await.unwrap_err();
            let is_unknown = matches!(error, CallError::OutcomeUnknown { .. });
            assert_eq!(is_unknown, !is_known, "{error}");
        }
        stop.cancel();
    }
}

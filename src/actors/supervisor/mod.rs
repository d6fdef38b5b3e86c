//! Owns the set of actors that run on this host, and is the only part that changes it.
//!
//! Commands arrive in order through one inbox. Slow work (reading, verifying, compiling,
//! subscribing, draining) runs as a child task that reports back; meanwhile commands for the same
//! reference or the same actor wait in line, so that two of them are carried out in the order they
//! were given. Every change follows the same steps: state first, then the snapshot for readers,
//! then events.
//!
//! An actor has one subscription and one number of permits: the sum over its *groups*. A group is what was started with
//! one set of annotations; clients that manage actors by annotations (a deployment manager) scale and stop only theirs
//! (lattice protocol, section 9.1).
//!
//! `command` has what can be asked, `load` gets modules ready, `running` is one actor, `announce` words the events; this file
//! is the loop, its state and every change of it.

mod announce;
mod command;
mod load;
mod running;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span, warn};
use uuid::Uuid;

use super::{
    actor::{Actor, Shared},
    artifact::Artifact,
};
use command::{Command, has_all, reuse_of};
use load::{LoadError, Loads, load, permitted, record};
use running::{Group, Running};

pub use command::{
    ActorError, ActorView, Amount, GroupView, Handle, REUSE_ANNOTATION, Replace, Start, Stop, UNBOUNDED,
};

use crate::{
    budget::machine_memory,
    control::state::bytes_of_actors,
    events::{
        Event, Publisher, Stage,
        event::{ActorContext, Annotations},
    },
    identity::{
        claims::{ActorClaims, now},
        keys::{ActorId, HostId},
    },
    issuers::Issuers,
    journal::Level,
    lattice::subject::Subjects,
    links::Live,
    policy::Policy,
    registry::Registry,
    router::{Local, in_force},
    rpc::server::{Inlets, Receiver},
    shutdown::essential,
};

/// Commands waiting for the supervisor.
const INBOX: usize = 256;
/// Commands that may wait for loading and starting, all together.
const JOBS_MAX: usize = 1024;
/// The actors of a host may fill one of so many equal parts of the NATS message with its inventory:
/// the host's answer has to fit into one message.
const INVENTORY_PART: usize = 2;
/// How often claims of running actors are looked for in the bucket, and written again if it lost them; and whether they count.
const CLAIMS_CHECK: Duration = Duration::from_secs(5);

/// Why nothing further is started.
const FULL: &str = "the host runs as many actors and sets of annotations as its inventory can tell in one message; start it on \
                    another host, or raise max_payload in the NATS server's configuration";

/// Everything the supervisor works with.
pub struct Parts {
    pub host: HostId,
    pub shared: Shared,
    pub registry: Registry,
    pub receiver: Receiver,
    pub rpc: async_nats::Client,
    pub subjects: Subjects,
    pub links: Live,
    pub policy: Policy,
    pub issuers: Issuers,
    pub events: Publisher,
    /// Calls one instance may serve unless an annotation says otherwise.
    pub reuse_default: u32,
}

impl Parts {
    /// Says something about an actor where its own lines are.
    fn remark(&self, id: &ActorId, text: &str) {
        self.shared.journal.writer(id.as_str(), "").write(Level::Info, text);
    }
}

/// Starts the supervisor; it ends after [`Handle::stop_all`].
///
/// The tokens are: this host is closing, and this host cannot go on.
pub fn spawn(
    parts: Parts,
    tasks: &tokio_util::task::TaskTracker,
    (closing, failed): (CancellationToken, CancellationToken),
) -> Handle {
    let (commands, inbox) = mpsc::channel(INBOX);
    let (published, view) = watch::channel(Arc::default());
    let supervisor = Supervisor {
        parts: Arc::new(parts),
        loads: Arc::new(Loads::new(machine_memory())),
        running: BTreeMap::new(),
        loading: HashMap::new(),
        starting: HashMap::new(),
        children: JoinSet::new(),
        published,
    };
    let running = supervisor.run(inbox).instrument(info_span!("actors"));
    tasks.spawn(essential("actor supervisor", running, closing, failed));
    Handle { commands, view }
}

struct Supervisor {
    parts: Arc<Parts>,
    /// Bounds how many modules are fetched and compiled at a time.
    loads: Arc<Loads>,
    running: BTreeMap<ActorId, Running>,
    /// Jobs that wait for a module, by its reference, in the order they came.
    loading: HashMap<String, VecDeque<Job>>,
    /// Jobs that wait for an actor's subscription.
    starting: HashMap<ActorId, VecDeque<ReadyJob>>,
    children: JoinSet<Done>,
    published: watch::Sender<Arc<Vec<ActorView>>>,
}

/// A command that needs a module.
enum Job {
    Start(Start),
    Replace(Replace, oneshot::Sender<Result<(), ActorError>>),
    /// Needs none, but must not overtake the start it is meant for.
    Stop(Stop, oneshot::Sender<Result<(), ActorError>>),
}

/// A job with its module; a stop needs none.
type ReadyJob = (Job, Option<Arc<Artifact>>);

/// The report of a child task.
enum Done {
    Loaded {
        reference: String,
        result: Result<Arc<Artifact>, LoadError>,
    },
    Subscribed {
        start: Start,
        artifact: Arc<Artifact>,
        result: Result<Inlets, String>,
    },
    /// An actor left its queue group; the events of its stop are due.
    Left {
        events: Vec<Event>,
        reply: Option<oneshot::Sender<Result<(), ActorError>>>,
    },
    /// An actor has left its queue group and finished the calls that came through it.
    Served(Arc<Actor>),
    Nothing,
}

impl Supervisor {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let mut claims_check = tokio::time::interval(CLAIMS_CHECK);
        claims_check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(done) = self.children.join_next(), if !self.children.is_empty() => self.reap(done),
                command = inbox.recv() => match command {
                    Some(Command::StopAll { deadline, done }) => {
                        inbox.close();
                        self.stop_all(deadline).await;
                        let _ = done.send(());
                        return;
                    }
                    Some(command) => self.handle(command),
                    None => return,
                },
                _ = claims_check.tick() => {
                    self.restore_claims();
                    self.look_at_terms();
                }
            }
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Start(start) => self.begin(Job::Start(start)),
            Command::Replace(replace, reply) => self.begin(Job::Replace(replace, reply)),
            Command::Stop(stop, reply) => self.begin_stop(stop, reply),
            Command::StopAll { .. } => unreachable!("handled by the loop, which ends with it"),
        }
    }

    fn reap(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Loaded { reference, result }) => self.loaded(&reference, result),
            Ok(Done::Subscribed { start, artifact, result }) => self.subscribed(start, artifact, result),
            Ok(Done::Left { events, reply }) => {
                self.parts.events.publish_all(events);
                if let Some(reply) = reply {
                    let _ = reply.send(Ok(()));
                }
            }
            Ok(Done::Served(actor)) => {
                self.still_running(&actor);
                // Calls within this process may still be in work.
                self.children.spawn(async move {
                    actor.drain().await;
                    Done::Nothing
                });
            }
            Ok(Done::Nothing) => {}
            // A panic below is a bug: the call or command it served is lost, the host goes on and says so.
            Err(failure) => error!(error = %failure, "a task of the actor supervisor panicked"),
        }
    }

    /// Stops at once, or after the starts of this actor that were asked for before.
    fn begin_stop(&mut self, stop: Stop, reply: oneshot::Sender<Result<(), ActorError>>) {
        let table = self.parts.links.table();
        let is_meant = |reference: &str| {
            reference == stop.actor || table.public_key_of(reference).is_some_and(|key| **key == *stop.actor)
        };
        if let Some(waiting) = self.loading.iter_mut().find_map(|(reference, jobs)| is_meant(reference).then_some(jobs))
        {
            return waiting.push_back(Job::Stop(stop, reply));
        }
        if let Some(waiting) =
            self.starting.iter_mut().find_map(|(id, jobs)| (id.as_str() == stop.actor).then_some(jobs))
        {
            return waiting.push_back((Job::Stop(stop, reply), None));
        }
        self.stop(&stop, reply);
    }

    /// Takes a job on: at once if its module runs here, else after loading it.
    fn begin(&mut self, job: Job) {
        let (reference, change) = match &job {
            Job::Start(start) => (start.reference.clone(), start.issuer_change),
            Job::Replace(replace, _) => (replace.reference.clone(), replace.issuer_change),
            Job::Stop(..) => unreachable!("a stop begins with begin_stop"),
        };
        let waiting: usize = self.loading.values().map(VecDeque::len).sum();
        if waiting + self.starting.values().map(VecDeque::len).sum::<usize>() >= JOBS_MAX {
            let text = format!("{JOBS_MAX} commands wait for modules already; try again later");
            return match job {
                Job::Start(start) => self.start_failed(&start, None, &text),
                Job::Replace(replace, reply) => self.replace_failed(&replace, reply, ActorError::Load(text)),
                Job::Stop(..) => {}
            };
        }
        if let Some(waiting) = self.loading.get_mut(&reference) {
            waiting.push_back(job);
            return;
        }
        let runs_here = self.running.values().find(|running| running.reference == reference);
        if let (Job::Start(start), Some(running)) = (&job, runs_here) {
            let artifact = running.actor.artifact();
            let needs_leave = !self.parts.policy.is_off() || artifact.claims.is_expired(now());
            if !needs_leave || !running.grows_with(start) {
                return self.perform(job, Some(artifact));
            }
            // More of it may not be wanted by now; less of it is always fine.
            let parts = Arc::clone(&self.parts);
            self.loading.insert(reference.clone(), VecDeque::from([job]));
            self.children.spawn(async move {
                let result = permitted(&parts, artifact, &reference, change).await;
                Done::Loaded { reference, result }
            });
            return;
        }
        self.loading.insert(reference.clone(), VecDeque::from([job]));
        let twins: Vec<Arc<Artifact>> = self.running.values().map(|running| running.actor.artifact()).collect();
        let span = info_span!("load", %reference);
        let (parts, loads) = (Arc::clone(&self.parts), Arc::clone(&self.loads));
        self.children.spawn(load(parts, loads, reference, twins, change).instrument(span));
    }

    fn loaded(&mut self, reference: &str, result: Result<Arc<Artifact>, LoadError>) {
        let jobs = self.loading.remove(reference).unwrap_or_default();
        match result {
            Ok(artifact) => {
                for job in jobs {
                    self.perform(job, Some(Arc::clone(&artifact)));
                }
            }
            Err(failure) => {
                warn!(%reference, error = %failure.text, "actor not loaded");
                for job in jobs {
                    match job {
                        Job::Start(start) => self.start_failed(&start, failure.actor_id.as_ref(), &failure.text),
                        Job::Replace(replace, reply) => {
                            self.replace_failed(&replace, reply, ActorError::Load(failure.text.clone()))
                        }
                        Job::Stop(stop, reply) => self.stop(&stop, reply),
                    }
                }
            }
        }
    }

    /// Carries a job out; all but a stop come with their module.
    fn perform(&mut self, job: Job, artifact: Option<Arc<Artifact>>) {
        let Some(artifact) = artifact else {
            if let Job::Stop(stop, reply) = job {
                self.stop(&stop, reply);
            }
            return;
        };
        if let Some(waiting) = self.starting.get_mut(&artifact.claims.subject) {
            waiting.push_back((job, Some(artifact)));
            return;
        }
        match job {
            Job::Start(start) => self.perform_start(start, artifact),
            Job::Stop(stop, reply) => self.stop(&stop, reply),
            Job::Replace(replace, reply) => match self.perform_replace(&replace, &artifact) {
                Ok(()) => {
                    let _ = reply.send(Ok(()));
                }
                Err(error) => self.replace_failed(&replace, reply, error),
            },
        }
    }

    fn perform_start(&mut self, start: Start, artifact: Arc<Artifact>) {
        let id = artifact.claims.subject.clone();
        if let Err(text) = reuse_of(&start.annotations) {
            return self.start_failed(&start, Some(&id), &text);
        }
        let has_group = |running: &Running| running.groups.iter().any(|group| group.annotations == start.annotations);
        let is_full = self.running.get(&id).is_some_and(|running| !has_group(running)) && !self.has_room();
        let Some(running) = self.running.get_mut(&id) else {
            return self.subscribe(start, artifact);
        };
        if running.reference != start.reference {
            let text = format!(
                "actor is already running with a different image reference {}; update it, or stop it first",
                running.reference
            );
            return self.start_failed(&start, Some(&id), &text);
        }
        let group = running.groups.iter_mut().find(|group| group.annotations == start.annotations);
        let before = group.as_ref().map_or(0, |group| group.max);
        let after = match start.amount {
            Amount::Add(more) => before.saturating_add(more),
            Amount::Exactly(count) => count,
            Amount::AtLeast(count) => before.max(count),
        };
        if after > 0 && is_full {
            return self.start_failed(&start, Some(&id), FULL);
        }
        match group {
            Some(group) => group.max = after,
            None if after > 0 => running.groups.push(Group {
                annotations: start.annotations.clone(),
                instance_id: Uuid::new_v4().to_string(),
                max: after,
            }),
            None => {}
        }
        running.groups.retain(|group| group.max > 0);
        let events = self.scale_events(&start.reference, &start.annotations, &artifact.claims, before, after);
        self.settle(&id, events, None);
    }

    /// Whether the inventory has room for one more actor, or set of annotations.
    fn has_room(&self) -> bool {
        let used = bytes_of_actors(&self.published.borrow());
        used < self.parts.rpc.server_info().max_payload / INVENTORY_PART
    }

    /// Subscribes for an actor that does not run yet; commands for it wait meanwhile.
    fn subscribe(&mut self, start: Start, artifact: Arc<Artifact>) {
        if matches!(start.amount, Amount::Exactly(0) | Amount::Add(0) | Amount::AtLeast(0)) {
            let context = self.context(&start.reference, &start.annotations, &artifact.claims);
            return self.parts.events.publish(Event::ActorScaled { actor: context, max: 0 });
        }
        self.starting.insert(artifact.claims.subject.clone(), VecDeque::new());
        let parts = Arc::clone(&self.parts);
        self.children.spawn(async move {
            parts.events.steps(&start.reference).stage(Stage::Start);
            // Older hosts refuse calls of actors whose claims they have not seen, so these come before the first call.
            record(&parts, &artifact.claims, Some(&start.reference)).await;
            let subject = parts.subjects.actor(artifact.claims.subject.as_str());
            let result = parts.receiver.subscribe(&subject, &subject).await;
            Done::Subscribed { start, artifact, result }
        });
    }

    fn subscribed(&mut self, start: Start, artifact: Arc<Artifact>, result: Result<Inlets, String>) {
        let id = artifact.claims.subject.clone();
        let waiting = self.starting.remove(&id).unwrap_or_default();
        match result {
            Ok(_) if !self.has_room() => self.start_failed(&start, Some(&id), FULL),
            Ok(inlets) => self.run_actor(start, artifact, inlets),
            Err(text) => self.start_failed(&start, Some(&id), &format!("subscribe for the actor: {text}")),
        }
        for (job, artifact) in waiting {
            self.perform(job, artifact);
        }
    }

    fn run_actor(&mut self, start: Start, artifact: Arc<Artifact>, inlets: Inlets) {
        let max = match start.amount {
            Amount::Add(count) | Amount::Exactly(count) | Amount::AtLeast(count) => count,
        };
        let claims = Arc::clone(&artifact.claims);
        let id = claims.subject.clone();
        let actor = Actor::new(artifact, max, self.parts.reuse_default, self.parts.shared.clone());
        let leave = CancellationToken::new();
        let (left_sender, left) = oneshot::channel();
        let span = info_span!("actor", actor_id = %id);
        let serving = self.parts.receiver.clone().serve(
            inlets,
            (Arc::clone(id.as_arc()), Arc::clone(id.as_arc())),
            actor.clone(),
            leave.clone(),
            left_sender,
        );
        let served = Arc::clone(&actor);
        self.children.spawn(
            async move {
                serving.await;
                Done::Served(served)
            }
            .instrument(span),
        );
        let group = Group { annotations: start.annotations.clone(), instance_id: Uuid::new_v4().to_string(), max };
        let running = Running {
            actor,
            reference: start.reference.clone(),
            groups: vec![group],
            leave,
            left: Some(left),
            stopping: Vec::new(),
            is_out_of_term: false,
        };
        self.running.insert(id.clone(), running);
        info!(actor_id = %id, reference = %start.reference, max, "actor started");
        self.parts.remark(&id, &format!("the actor started, from {}", start.reference));
        self.claim_alias(&claims);
        let events = self.scale_events(&start.reference, &start.annotations, &claims, 0, max);
        self.settle(&id, events, None);
    }

    /// Takes on the call alias of an actor, and says so if others claim it.
    fn claim_alias(&self, claims: &ActorClaims) {
        if let Some(contest) = self.parts.shared.router.claim_alias(claims) {
            warn!(actor_id = %claims.subject, alias = contest.alias, "{contest}");
            self.parts.remark(&claims.subject, &contest.to_string());
        }
    }

    fn perform_replace(&mut self, replace: &Replace, artifact: &Arc<Artifact>) -> Result<(), ActorError> {
        let id = artifact.claims.subject.clone();
        let expected = replace.actor_id.clone().unwrap_or_else(|| id.to_string());
        if id.as_str() != expected {
            return Err(ActorError::OtherActor {
                reference: replace.reference.clone(),
                found: id.to_string(),
                expected,
            });
        }
        let parts = Arc::clone(&self.parts);
        let running = self.running.get_mut(&id).ok_or_else(|| ActorError::NotRunning(id.to_string()))?;
        let selected = running.groups.iter().filter(|group| has_all(&group.annotations, &replace.annotations)).count();
        if selected == 0 {
            return Err(ActorError::NoSuchAnnotations {
                actor: id.to_string(),
                annotations: replace.annotations.clone(),
            });
        }
        if selected < running.groups.len() {
            return Err(ActorError::PartOfActor(id.to_string()));
        }
        let (old, new) = (running.actor.claims(), &artifact.claims);
        if new.effective_revision() <= old.effective_revision() {
            return Err(ActorError::NotNewer {
                reference: replace.reference.clone(),
                actor: id.to_string(),
                offered: new.effective_revision(),
                running: old.effective_revision(),
            });
        }
        let old_reference = std::mem::replace(&mut running.reference, replace.reference.clone());
        running.actor.update(Arc::clone(artifact));
        info!(actor_id = %id, reference = %replace.reference, revision = new.effective_revision(), "actor updated");
        let (revision, reference) = (new.effective_revision(), &replace.reference);
        parts.remark(&id, &format!("the actor runs revision {revision} from now on, from {reference}"));
        let mut events = Vec::new();
        for group in &running.groups {
            let context = |reference: &str, claims: &ActorClaims| ActorContext {
                host_id: parts.host.to_string(),
                public_key: id.to_string(),
                image_ref: reference.to_owned(),
                annotations: group.annotations.clone(),
                claims: claims.clone(),
            };
            let revision = new.effective_revision();
            let (before, after) = (context(&old_reference, &old), context(&replace.reference, new));
            events.extend([
                Event::ActorUpdated { public_key: id.to_string(), revision, instance_id: group.instance_id.clone() },
                Event::ActorsStarted { actor: after.clone(), count: group.max },
                Event::ActorsStopped { actor: before, count: group.max, remaining: group.max },
                Event::ActorScaled { actor: after, max: group.max },
            ]);
        }
        let (claims, reference) = (Arc::clone(new), replace.reference.clone());
        if claims.call_alias != old.call_alias {
            self.claim_alias(&claims);
        }
        self.children.spawn(async move {
            record(&parts, &claims, Some(&reference)).await;
            Done::Nothing
        });
        self.settle(&id, events, None);
        Ok(())
    }

    fn stop(&mut self, stop: &Stop, reply: oneshot::Sender<Result<(), ActorError>>) {
        let found =
            self.running.iter_mut().find(|(id, running)| id.as_str() == stop.actor || running.reference == stop.actor);
        let Some((id, running)) = found else {
            let _ = reply.send(Err(ActorError::NotRunning(stop.actor.clone())));
            return;
        };
        let id = id.clone();
        let mut left_to_stop = stop.count.unwrap_or(u32::MAX);
        let mut changes = Vec::new();
        for group in running.groups.iter_mut().filter(|group| has_all(&group.annotations, &stop.annotations)) {
            let fewer = if stop.count.is_none() { group.max } else { group.max.min(left_to_stop) };
            left_to_stop -= fewer.min(left_to_stop);
            changes.push((group.annotations.clone(), group.max, group.max - fewer));
            group.max -= fewer;
        }
        if changes.is_empty() {
            let annotations = stop.annotations.clone();
            let _ = reply.send(Err(ActorError::NoSuchAnnotations { actor: stop.actor.clone(), annotations }));
            return;
        }
        running.groups.retain(|group| group.max > 0);
        let (claims, reference) = (running.actor.claims(), running.reference.clone());
        let events = changes
            .iter()
            .filter(|(_, before, after)| before != after)
            .flat_map(|(annotations, before, after)| {
                self.scale_events(&reference, annotations, &claims, *before, *after)
            })
            .collect();
        self.settle(&id, events, Some(reply));
    }

    /// Makes a changed actor true: permits, routing, the readers' snapshot, and then the events. An actor without groups
    /// leaves its queue group first, and its events follow.
    fn settle(&mut self, id: &ActorId, events: Vec<Event>, reply: Option<oneshot::Sender<Result<(), ActorError>>>) {
        let gone = match self.running.get(id) {
            Some(running) if running.groups.is_empty() => self.running.remove(id),
            Some(running) => {
                running.apply_limits(self.parts.reuse_default);
                None
            }
            None => None,
        };
        self.publish_state();
        match gone {
            Some(mut running) => {
                info!(actor_id = %id, "actor stopped");
                self.parts.remark(id, "the actor stopped");
                running.leave.cancel();
                let left = running.left.take();
                self.children.spawn(async move {
                    if let Some(left) = left {
                        // An error means that the subscription ended by itself before.
                        let _ = left.await;
                    }
                    Done::Left { events, reply }
                });
            }
            None => {
                self.parts.events.publish_all(events);
                if let Some(reply) = reply {
                    let _ = reply.send(Ok(()));
                }
            }
        }
    }

    fn publish_state(&self) {
        let locals = self.running.iter().map(|(id, running)| {
            let local: Arc<dyn Local> = running.actor.clone();
            (Arc::from(id.as_str()), local)
        });
        self.parts.shared.router.set_actors(locals.collect());
        let view = self.running.values().map(Running::view);
        self.published.send_replace(Arc::new(view.collect()));
    }

    /// A subscription that ended by itself leaves an actor nobody can call: it does not stay in the inventory.
    fn still_running(&mut self, actor: &Arc<Actor>) {
        let is_it = self.running.get(&actor.id).is_some_and(|running| Arc::ptr_eq(&running.actor, actor));
        if is_it {
            error!(actor_id = %actor.id, "the subscription of an actor ended by itself, the actor is stopped; start it again");
            let (reply, _) = oneshot::channel();
            self.stop(&Stop { actor: actor.id.to_string(), annotations: Annotations::new(), count: None }, reply);
        }
    }

    /// Writes the claims of running actors again when the bucket does not have them (it was away, or is a new one).
    fn restore_claims(&mut self) {
        let table = self.parts.links.table();
        for (id, running) in &self.running {
            if table.claims(id.as_str()).is_none() {
                let (parts, claims) = (Arc::clone(&self.parts), running.actor.claims());
                self.children.spawn(async move {
                    record(&parts, &claims, None).await;
                    Done::Nothing
                });
            }
        }
    }

    /// Tells once of an actor whose claims do not count any more: its calls are refused from then on.
    fn look_at_terms(&mut self) {
        for (id, running) in &mut self.running {
            let claims = running.actor.claims();
            let refused = in_force(&claims, now()).err();
            let is_news = refused.is_some() && !running.is_out_of_term;
            running.is_out_of_term = refused.is_some();
            if let Some(error) = refused.filter(|_| is_news) {
                warn!(actor_id = %id, expires = %claims.expires_human(), %error, "calls of and to an actor are refused");
                self.parts.remark(id, &format!("calls of and to the actor are refused: {error}"));
                self.parts.events.publish(Event::ClaimsNotInForce {
                    public_key: id.to_string(),
                    image_ref: running.reference.clone(),
                    host_id: self.parts.host.to_string(),
                    not_before_human: claims.not_before_human(),
                    expires_human: claims.expires_human(),
                    error: error.to_string(),
                });
            }
        }
    }

    /// Stops everything. All actors leave their queue groups first and finish their calls while they can still call each
    /// other; only then is the way between them closed.
    async fn stop_all(&mut self, deadline: Instant) {
        for (id, running) in &mut self.running {
            running.leave.cancel();
            let groups = std::mem::take(&mut running.groups);
            info!(actor_id = %id, "actor stopping");
            self.parts.remark(id, "the actor stops with its host");
            running.stopping = groups;
        }
        let mut served = Vec::new();
        let finished = async {
            while let Some(done) = self.children.join_next().await {
                match done {
                    Ok(Done::Served(actor)) => served.push(actor),
                    Ok(Done::Left { events, .. }) => self.parts.events.publish_all(events),
                    // Started too late to be of use: it leaves with its subscription, and its client is told.
                    Ok(Done::Subscribed { start, .. }) => self.start_failed(&start, None, "the host is stopping"),
                    Ok(Done::Loaded { reference, .. }) => {
                        for job in self.loading.remove(&reference).unwrap_or_default() {
                            if let Job::Start(start) = job {
                                self.start_failed(&start, None, "the host is stopping");
                            }
                        }
                    }
                    Ok(Done::Nothing) => {}
                    Err(failure) => error!(error = %failure, "a task of the actor supervisor panicked"),
                }
            }
        };
        if tokio::time::timeout_at(deadline, finished).await.is_err() {
            warn!("calls or commands were still in work at the deadline and are cut off");
        }
        self.children.abort_all();
        let stopped = std::mem::take(&mut self.running);
        self.publish_state();
        for actor in served {
            // Nothing new can begin, so this ends at once unless a call is cut off.
            let _ = tokio::time::timeout_at(deadline, actor.drain()).await;
        }
        for running in stopped.values() {
            let claims = running.actor.claims();
            for group in &running.stopping {
                let events = self.scale_events(&running.reference, &group.annotations, &claims, group.max, 0);
                self.parts.events.publish_all(events);
            }
        }
    }
}

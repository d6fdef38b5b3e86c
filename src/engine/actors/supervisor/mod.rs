//! Owns the set of actors that run on this host, and is the only part that changes it.
//!
//! Commands arrive in order through one inbox. Slow work (reading, verifying, compiling,
//! subscribing, draining) runs as a child task that reports back; meanwhile commands for the same
//! reference or the same actor wait in line. Every change follows the same steps: state first, then
//! the snapshot for readers, then events.
//!
//! An actor has one subscription and one number of permits: the sum over its *groups*. A group is
//! what was started with one set of annotations; clients that manage actors by annotations (a
//! deployment manager) scale and stop only theirs (lattice protocol, section 9.1).
//!
//! [`plan`](super::plan) decides what a command changes; this file is the loop that carries it out.
//! `command` has what can be asked, `load` gets modules ready, `announce` words the events.

mod announce;
mod command;
mod load;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span, warn};

use super::{
    actor::{Actor, Shared},
    artifact::Artifact,
    plan::{Change, Effect, Growth, Job, Limits, Plan, StartError, TrialChange, Update},
    trial::Trial,
};
use command::Command;
use load::{Loaded, Loads, both_permitted, load, record};

pub use command::{
    ActorError, ActorView, Amount, Changed, GroupView, Handle, IMPORTS_ANNOTATION, IMPORTS_TRAP,
    Outcome, REUSE_ANNOTATION, Replace, Revisions, Start, Stop, UNBOUNDED,
};

use crate::{
    events::Stage,
    host_context::HostContext,
    issuers::IssuerChange,
    router::{Local, in_force},
    rpc::server::{Receiver, Subscriptions},
};
use lattice_base::{budget::machine_memory, registry::Registry};
use lattice_protocol::{
    events::{Event, event::Annotations},
    identity::{
        claims::{ActorClaims, now},
        keys::ActorId,
    },
    journal::Level,
};

/// Commands waiting for the supervisor.
const INBOX: usize = 256;
/// The actors of a host may fill one of so many equal parts of the NATS message with its inventory:
/// the host's answer has to fit into one message.
const INVENTORY_PART: usize = 2;
/// How often claims of running actors are looked for in the bucket, and written again if it lost
/// them; and whether they count.
const CLAIMS_CHECK: Duration = Duration::from_secs(5);

/// Everything the supervisor works with.
pub struct Parts {
    pub context: Arc<HostContext>,
    pub shared: Shared,
    pub registry: Registry,
    pub receiver: Receiver,
    /// Calls one instance may serve unless an annotation says otherwise.
    pub reuse_default: u32,
}

impl Parts {
    /// Says something about an actor where its own lines are.
    fn log(&self, id: &ActorId, text: &str) {
        self.shared.journal.writer(id.as_str(), "").write(Level::Info, text);
    }
}

/// Starts the supervisor; it ends after [`Handle::stop_all`].
pub fn spawn(parts: Parts) -> Handle {
    let (commands, inbox) = mpsc::channel(INBOX);
    let (published, view) = watch::channel(Arc::default());
    let context = Arc::clone(&parts.context);
    let supervisor = Supervisor {
        loads: Arc::new(Loads::new(machine_memory())),
        plan: Plan::new(if context.policy.is_off() { Growth::Free } else { Growth::AsksPolicy }),
        parts: Arc::new(parts),
        serving: BTreeMap::new(),
        loading: JoinSet::new(),
        children: JoinSet::new(),
        published,
    };
    let running = supervisor.run(inbox).instrument(info_span!("actors"));
    context.tasks.spawn(context.lifeline.essential("actor supervisor", running));
    Handle { commands, view }
}

struct Supervisor {
    parts: Arc<Parts>,
    /// Bounds how many modules are fetched and compiled at a time.
    loads: Arc<Loads>,
    plan: Plan<Arc<Artifact>, Reply>,
    /// The actors that the plan has running.
    serving: BTreeMap<ActorId, Serving>,
    /// Loads apart from other work: a host that stops does not wait for them.
    loading: JoinSet<Loaded>,
    children: JoinSet<Done>,
    published: watch::Sender<Arc<Vec<ActorView>>>,
}

/// Where the outcome of a command goes.
type Reply = oneshot::Sender<Outcome>;
/// An outcome on its way: the events about it come first.
type Answer = (Reply, Changed);

/// A running actor with its way out of the lattice.
struct Serving {
    actor: Arc<Actor>,
    leave: CancellationToken,
    left: oneshot::Receiver<()>,
    /// Those of its claims that do not count now, which was told.
    out_of_term: Vec<Arc<ActorClaims>>,
    /// Ends when its claims were recorded last.
    recorded: Option<oneshot::Receiver<()>>,
}

/// The report of a child task.
enum Done {
    Subscribed {
        start: Start,
        reply: Reply,
        artifact: Arc<Artifact>,
        result: Result<Subscriptions, StartError>,
    },
    /// An actor left its queue group; the events of its stop are due.
    Left {
        events: Vec<Event>,
        answer: Option<Answer>,
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
                Some(loaded) = self.loading.join_next(), if !self.loading.is_empty() => match loaded {
                    Ok(loaded) => self.loaded(loaded),
                    Err(failure) => tell_panic(&failure),
                },
                command = inbox.recv() => match command {
                    Some(Command::StopAll { deadline, done }) => {
                        inbox.close();
                        self.stop_all(deadline).await;
                        let _ = done.send(());
                        return;
                    }
                    Some(Command::Start(start, reply)) => self.begin(Job::Start(start, reply)),
                    Some(Command::Replace(replace, reply)) => self.begin(Job::Replace(replace, reply)),
                    Some(Command::Stop(stop, reply)) => self.stop(stop, reply),
                    Some(Command::TakeBack(actor_id, reply)) => {
                        let effects = self.plan.take_back(&actor_id, reply);
                        self.carry_out(effects);
                    }
                    None => return,
                },
                _ = claims_check.tick() => {
                    self.restore_claims();
                    self.check_terms();
                }
            }
        }
    }

    fn begin(&mut self, job: Job<Reply>) {
        let effects = self.plan.begin(job, now(), self.room());
        self.carry_out(effects);
    }

    fn stop(&mut self, stop: Stop, reply: Reply) {
        let (table, actor) = (self.parts.context.links.table(), stop.actor.clone());
        let effects = self.plan.stop(stop, reply, |reference| {
            table.public_key_of(reference).is_some_and(|key| **key == *actor)
        });
        self.carry_out(effects);
    }

    fn reap(&mut self, done: Result<Done, JoinError>) {
        match done {
            Ok(Done::Subscribed { start, reply, artifact, result }) => {
                self.subscribed((start, reply), artifact, result)
            }
            Ok(Done::Left { events, answer }) => self.announce(events, answer),
            Ok(Done::Served(actor)) => {
                self.still_running(&actor);
                // Calls within this process may still be in work.
                self.children.spawn(async move {
                    actor.drain().await;
                    Done::Nothing
                });
            }
            Ok(Done::Nothing) => {}
            Err(failure) => tell_panic(&failure),
        }
    }

    fn loaded(&mut self, Loaded { reference, result }: Loaded) {
        if let Err(failure) = &result {
            warn!(%reference, error = %failure.text, "actor not loaded");
        }
        let effects = self.plan.loaded(&reference, result, self.room());
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect<Arc<Artifact>, Reply>>) {
        for effect in effects {
            match effect {
                Effect::Load { reference, issuer_change } => self.load(reference, issuer_change),
                Effect::AskPermission { reference, own, newer, issuer_change } => {
                    let parts = Arc::clone(&self.parts);
                    self.loading.spawn(async move {
                        let result = both_permitted(&parts, own, newer, issuer_change).await;
                        Loaded { reference, result }
                    });
                }
                Effect::Subscribe { start, reply, module } => self.subscribe(start, reply, module),
                Effect::Announce(change, reply) => {
                    let id = change.module.claims.subject.clone();
                    self.announce(self.scale_events(&change), Some((reply, changed(id, &[change]))))
                }
                Effect::Scale { id, limits, changes, reply } => {
                    self.set_limits(&id, limits);
                    self.publish_state();
                    let answer = reply.map(|reply| (reply, changed(id, &changes)));
                    self.announce(self.events_of(&changes), answer);
                }
                Effect::Leave { id, changes, reply } => self.leave(&id, &changes, reply),
                Effect::Update(update, reply) => self.update(update, reply),
                Effect::Trial(change, reply) => self.change_trial(change, reply),
                Effect::StartFailed { start, reply, actor_id, error } => {
                    self.start_failed(&start, actor_id.as_ref(), &error);
                    let cause = error.to_string();
                    let _ = reply.send(Err(ActorError::NotStarted { id: actor_id, cause }));
                }
                Effect::ReplaceFailed { replace, reply, error, running } => {
                    self.replace_failed(&replace, running, &error);
                    let _ = reply.send(Err(error));
                }
                Effect::Answer { reply, result } => {
                    let _ = reply.send(result.map(|id| changed(id, &[])));
                }
            }
        }
    }

    /// The last step of a change: tells everybody, then the client that asked for it.
    fn announce(&self, events: Vec<Event>, answer: Option<Answer>) {
        self.parts.context.events.publish_all(events);
        if let Some((reply, changed)) = answer {
            let _ = reply.send(Ok(changed));
        }
    }

    fn load(&mut self, reference: String, issuer_change: IssuerChange) {
        let twins = self.serving.values().flat_map(|serving| serving.actor.artifacts()).collect();
        let span = info_span!("load", %reference);
        let (parts, loads) = (Arc::clone(&self.parts), Arc::clone(&self.loads));
        self.loading.spawn(load(parts, loads, reference, twins, issuer_change).instrument(span));
    }

    /// Returns the bytes that an inventory has for actors.
    fn room(&self) -> usize {
        self.parts.context.rpc.client.server_info().max_payload / INVENTORY_PART
    }

    /// Subscribes for an actor that does not run yet.
    fn subscribe(&mut self, start: Start, reply: Reply, artifact: Arc<Artifact>) {
        let parts = Arc::clone(&self.parts);
        self.children.spawn(async move {
            parts.context.events.steps(&start.reference).stage(Stage::Start);
            // Older hosts refuse calls of actors whose claims they have not seen, so these come
            // before the first call.
            record(&parts, &artifact.claims, Some(&start.reference)).await;
            let subject = parts.context.subjects.actor(artifact.claims.subject.as_str());
            let result = parts.receiver.subscribe(&subject, &subject).await;
            let result = result.map_err(|error| StartError::Subscribe(error.to_string()));
            Done::Subscribed { start, reply, artifact, result }
        });
    }

    fn subscribed(
        &mut self,
        (start, reply): (Start, Reply),
        artifact: Arc<Artifact>,
        result: Result<Subscriptions, StartError>,
    ) {
        let (id, room) = (artifact.claims.subject.clone(), self.room());
        let mut reply = Some(reply);
        let started = result.and_then(|subscriptions| {
            Ok((subscriptions, self.plan.started((&start, &mut reply), &artifact, room)?))
        });
        match (started, reply) {
            (Ok((subscriptions, effects)), _) => {
                self.serve(&start, artifact, subscriptions);
                self.carry_out(effects);
            }
            (Err(error), Some(reply)) => {
                let actor_id = Some(id.clone());
                self.carry_out(vec![Effect::StartFailed { start, reply, actor_id, error }]);
            }
            (Err(error), None) => self.start_failed(&start, Some(&id), &error),
        }
        let effects = self.plan.release(&id, room);
        self.carry_out(effects);
    }

    /// Answers the calls of an actor from now on.
    fn serve(&mut self, start: &Start, artifact: Arc<Artifact>, subscriptions: Subscriptions) {
        let max = start.amount.applied_to(0);
        let claims = Arc::clone(&artifact.claims);
        let id = claims.subject.clone();
        let actor = Actor::new(artifact, max, self.parts.reuse_default, self.parts.shared.clone());
        let leave = CancellationToken::new();
        let (left_sender, left) = oneshot::channel();
        let span = info_span!("actor", actor_id = %id);
        let serving = self.parts.receiver.clone().serve(
            subscriptions,
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
        let (out_of_term, recorded) = (Vec::new(), None);
        self.serving.insert(id.clone(), Serving { actor, leave, left, out_of_term, recorded });
        info!(actor_id = %id, reference = %start.reference, max, "actor started");
        self.parts.log(&id, &format!("the actor started, from {}", start.reference));
        self.claim_alias(&claims);
    }

    /// Takes on the call alias of an actor, and says so if others claim it.
    fn claim_alias(&self, claims: &ActorClaims) {
        if let Some(contest) = self.parts.shared.router.claim_alias(claims) {
            warn!(actor_id = %claims.subject, alias = contest.alias, "{contest}");
            self.parts.log(&claims.subject, &contest.to_string());
        }
    }

    fn update(&mut self, update: Update<Arc<Artifact>>, reply: Reply) {
        let (id, reference) = (&update.id, &update.reference);
        if let Some(serving) = self.serving.get(id) {
            serving.actor.update(Arc::clone(&update.module));
        }
        let (old, new) = (&update.old_module.claims, &update.module.claims);
        let revision = new.effective_revision();
        info!(actor_id = %id, %reference, revision, "actor updated");
        self.parts
            .log(id, &format!("the actor runs revision {revision} from now on, from {reference}"));
        if new.call_alias != old.call_alias {
            self.claim_alias(new);
        }
        self.record(new, Some(reference.clone()));
        self.set_limits(id, update.limits);
        self.publish_state();
        let changed = Changed {
            id: id.clone(),
            reference: reference.clone(),
            groups: amounts(&update.groups),
        };
        self.announce(self.update_events(&update), Some((reply, changed)));
    }

    /// Lets a newer revision of an actor take a share of its calls, or ends that.
    fn change_trial(&mut self, change: TrialChange<Arc<Artifact>>, reply: Reply) {
        let id = &change.id;
        let Some(serving) = self.serving.get(id) else {
            let _ = reply.send(Err(ActorError::NotRunning(id.to_string())));
            return;
        };
        let (reference, revision) = (&change.reference, change.module.claims.effective_revision());
        let newer = change.view.as_ref().map(|view| {
            Trial::new(Arc::clone(&change.module), view.share, Arc::clone(&view.counts))
        });
        let share = change.view.as_ref().map_or(100, |view| view.share);
        info!(actor_id = %id, %reference, revision, share, "a revision takes a share of the calls");
        self.parts.log(
            id,
            &format!("revision {revision} takes {share} % of the calls, from {reference}"),
        );
        let own = serving.actor.claims();
        serving.actor.set_trial(newer);
        if change.module.claims.call_alias != own.call_alias {
            self.claim_alias(&change.module.claims);
        }
        // Others see the claims of the newest that runs, and of the actor's own again at the end.
        self.record(&change.module.claims, Some(reference.clone()));
        self.publish_state();
        let (id, groups) = (id.clone(), amounts(&change.groups));
        let reference = self.plan.reference_of(&id, &own).to_owned();
        let changed = Changed { id, reference, groups };
        self.announce(self.trial_events(&change), Some((reply, changed)));
    }

    /// Makes claims of a running actor known to the lattice, after those that it had before.
    fn record(&mut self, claims: &Arc<ActorClaims>, reference: Option<String>) {
        let Some(serving) = self.serving.get_mut(&claims.subject) else { return };
        let (done, recorded) = oneshot::channel::<()>();
        let before = serving.recorded.replace(recorded);
        let (parts, claims) = (Arc::clone(&self.parts), Arc::clone(claims));
        self.children.spawn(async move {
            if let Some(before) = before {
                // Ends with an error, since nothing is ever sent.
                let _ = before.await;
            }
            record(&parts, &claims, reference.as_deref()).await;
            drop(done);
            Done::Nothing
        });
    }

    /// Makes an actor keep the limits that follow from its groups.
    fn set_limits(&self, id: &ActorId, limits: Limits) {
        if let Some(Serving { actor, .. }) = self.serving.get(id) {
            actor.set_limit(limits.calls);
            actor.set_reuse(limits.reuse);
        }
    }

    /// Makes an actor leave its queue group; the events of its stop follow that.
    fn leave(&mut self, id: &ActorId, changes: &[Change<Arc<Artifact>>], reply: Option<Reply>) {
        let gone = self.serving.remove(id);
        self.publish_state();
        info!(actor_id = %id, "actor stopped");
        self.parts.log(id, "the actor stopped");
        let left = gone.map(|gone| {
            gone.leave.cancel();
            gone.left
        });
        let events = self.events_of(changes);
        let answer = reply.map(|reply| (reply, changed(id.clone(), changes)));
        self.children.spawn(async move {
            if let Some(left) = left {
                // An error means that the subscription ended by itself before.
                let _ = left.await;
            }
            Done::Left { events, answer }
        });
    }

    fn publish_state(&self) {
        let locals = self.serving.iter().map(|(id, serving)| {
            let local: Arc<dyn Local> = serving.actor.clone();
            (Arc::from(id.as_str()), local)
        });
        self.parts.shared.router.set_actors(locals.collect());
        self.published.send_replace(self.plan.view());
    }

    /// A subscription that ended by itself leaves an actor nobody can call: it does not stay in the
    /// inventory.
    fn still_running(&mut self, actor: &Arc<Actor>) {
        if self.serving.get(&actor.id).is_some_and(|serving| Arc::ptr_eq(&serving.actor, actor)) {
            error!(actor_id = %actor.id, "the subscription of an actor ended by itself, the actor is stopped; start it again");
            let effects = self.plan.lost(&actor.id);
            self.carry_out(effects);
        }
    }

    /// Writes the claims of running actors again when the bucket does not have them (it was away,
    /// or is a new one).
    fn restore_claims(&mut self) {
        let table = self.parts.context.links.table();
        let missing = self.serving.iter().filter(|(id, _)| table.claims(id.as_str()).is_none());
        let missing: Vec<_> = missing.map(|(_, serving)| serving.actor.newest_claims()).collect();
        for claims in missing {
            self.record(&claims, None);
        }
    }

    /// Tells once of an actor whose claims do not count any more: its calls are refused from then
    /// on.
    fn check_terms(&mut self) {
        for (id, serving) in &mut self.serving {
            let all = serving.actor.artifacts().into_iter().map(|artifact| artifact.claims.clone());
            let refused: Vec<_> = all
                .filter_map(|claims| in_force(&claims, now()).err().map(|error| (claims, error)))
                .collect();
            let told = std::mem::take(&mut serving.out_of_term);
            serving.out_of_term = refused.iter().map(|(claims, _)| Arc::clone(claims)).collect();
            for (claims, error) in refused.iter().filter(|(claims, _)| !told.contains(claims)) {
                let revision = claims.effective_revision();
                warn!(actor_id = %id, revision, expires = %claims.expires_human(), %error, "calls of and to an actor are refused");
                self.parts.log(
                    id,
                    &format!(
                        "calls of and to revision {revision} of the actor are refused: {error}"
                    ),
                );
                self.parts.context.events.publish(Event::ClaimsNotInForce {
                    public_key: id.to_string(),
                    image_ref: self.plan.reference_of(id, claims).to_owned(),
                    host_id: self.parts.context.host_id.to_string(),
                    not_before_human: claims.not_before_human(),
                    expires_human: claims.expires_human(),
                    error: error.to_string(),
                });
            }
        }
    }

    /// Stops everything. All actors leave their queue groups first and finish their calls while
    /// they can still call each other; only then is the way between them closed.
    async fn stop_all(&mut self, deadline: Instant) {
        self.give_up();
        for (id, serving) in &self.serving {
            serving.leave.cancel();
            info!(actor_id = %id, "actor stopping");
            self.parts.log(id, "the actor stops with its host");
        }
        // The events tell what ran until now; readers see it until the calls are done.
        let stopped = self.plan.stop_all();
        let mut served = Vec::new();
        if tokio::time::timeout_at(deadline, self.finish_children(&mut served)).await.is_err() {
            warn!("calls or commands were still in work at the deadline and are cut off");
        }
        self.children.abort_all();
        self.serving.clear();
        self.publish_state();
        for actor in served {
            // Nothing new can begin, so this ends at once unless a call is cut off.
            let _ = tokio::time::timeout_at(deadline, actor.drain()).await;
        }
        self.announce(self.events_of(&stopped), None);
    }

    /// Ends what would lead to actors that this host does not run any more, and tells so. The
    /// answers stay out: it is not the starts that failed.
    fn give_up(&mut self) {
        self.loading.abort_all();
        for job in self.plan.give_up() {
            match job {
                Job::Start(start, _) => self.start_failed(&start, None, &StartError::Stopping),
                Job::Replace(replace, _) => {
                    let running = self.plan.version_for(&replace);
                    self.replace_failed(&replace, running, &ActorError::Unavailable);
                }
            }
        }
    }

    /// Waits for the children of a host that stops. Adds the actors that left to `served`.
    async fn finish_children(&mut self, served: &mut Vec<Arc<Actor>>) {
        while let Some(done) = self.children.join_next().await {
            match done {
                Ok(Done::Served(actor)) => served.push(actor),
                Ok(Done::Left { events, .. }) => self.announce(events, None),
                // Started too late to be of use: it leaves with its subscription, and its client is
                // told by events. The answer stays out: it is not the start that failed.
                Ok(Done::Subscribed { start, .. }) => {
                    self.start_failed(&start, None, &StartError::Stopping)
                }
                Ok(Done::Nothing) => {}
                Err(failure) => tell_panic(&failure),
            }
        }
    }
}

/// Tells of a panic in a child task, which is a bug: the call or command it served is lost, the
/// host goes on.
fn tell_panic(failure: &JoinError) {
    error!(error = %failure, "a task of the actor supervisor panicked");
}

/// Returns what a command changed.
fn changed(id: ActorId, changes: &[Change<Arc<Artifact>>]) -> Changed {
    let reference = changes.first().map(|change| change.reference.clone()).unwrap_or_default();
    let groups = changes.iter().map(|change| (change.annotations.clone(), change.after));
    Changed { id, reference, groups: groups.collect() }
}

fn amounts(groups: &[GroupView]) -> Vec<(Annotations, u32)> {
    groups.iter().map(|group| (group.annotations.clone(), group.max)).collect()
}

//! Decides what a command changes about the actors of this host: a command goes in, effects come
//! out.
//!
//! [`Plan`] knows no network, no clock and no task. The [supervisor](super::supervisor) hands it
//! commands and the ends of loads and subscriptions. It changes its state at once and returns the
//! [`Effect`]s of that, which the supervisor carries out in their order.
//!
//! Commands wait in line in two cases: for a module that is being loaded, by its reference, and for
//! an actor that is being subscribed for. So two commands about the same thing are carried out in
//! the order they were given.
//!
//! `groups` counts how many of an actor run. Invariant: a running actor has groups.

mod effect;
mod groups;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use super::{
    artifact::Artifact,
    supervisor::{ActorError, ActorView, Replace, Revisions, Start, Stop},
    trial::TrialView,
};
use crate::control::state::bytes_of_actors;
use lattice_protocol::{
    control::types::CodeInfo,
    events::event::Annotations,
    identity::{claims::ActorClaims, keys::ActorId},
};

pub use effect::{Change, Effect, TrialChange, Update, Version};
pub use groups::{BadImports, BadReuse, Limits};
use groups::{Groups, NoRoom, Scaled, check_imports, reuse_of};

/// Commands that may wait for loading and starting, all together.
const JOBS_MAX: usize = 1024;

/// Why an actor does not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Load(String),
    #[error(transparent)]
    Reuse(#[from] BadReuse),
    #[error(transparent)]
    Imports(#[from] BadImports),
    #[error(
        "actor is already running with a different image reference {0}; update it, or stop it first"
    )]
    OtherReference(String),
    #[error(
        "the host runs as many actors and sets of annotations as its inventory can tell in one message; start it on \
         another host, or raise max_payload in the NATS server's configuration"
    )]
    Full,
    #[error("subscribe for the actor: {0}")]
    Subscribe(String),
    #[error("the host is stopping")]
    Stopping,
}

impl From<NoRoom> for StartError {
    fn from(NoRoom: NoRoom) -> Self {
        Self::Full
    }
}

/// Why a module did not load, and whose it is as far as that is known.
#[derive(Debug)]
pub struct LoadError {
    pub actor_id: Option<ActorId>,
    pub text: String,
}

impl LoadError {
    /// The failure of a module whose actor is not known yet.
    pub fn of_unknown(error: impl ToString) -> Self {
        Self { actor_id: None, text: error.to_string() }
    }

    pub fn of_actor(actor_id: &ActorId, error: impl ToString) -> Self {
        Self { actor_id: Some(actor_id.clone()), text: error.to_string() }
    }
}

/// A module that can run: the plan reads nothing but this.
pub trait Module: Clone {
    fn claims(&self) -> &ActorClaims;
    /// Returns the imports that nothing in a lattice answers.
    fn unserved(&self) -> &[String];
    /// Returns how its code looks from outside.
    fn info(&self) -> &CodeInfo;
}

impl Module for Arc<Artifact> {
    fn claims(&self) -> &ActorClaims {
        &self.claims
    }

    fn unserved(&self) -> &[String] {
        Artifact::unserved(self)
    }

    fn info(&self) -> &CodeInfo {
        &self.info
    }
}

/// A command that needs a module. `R` is where its answer goes.
pub enum Job<R> {
    Start(Start, R),
    Replace(Replace, R),
}

/// A command in a line.
enum Waiting<J, R> {
    Job(J),
    /// Needs no module, but must not overtake the start it is meant for.
    Stop(Stop, R),
}

type Line<J, R> = VecDeque<Waiting<J, R>>;

/// An actor of this host.
struct Running<M> {
    module: M,
    reference: String,
    groups: Groups,
    /// A newer revision that takes a share of the calls.
    trial: Option<Newer<M>>,
}

/// The change that a replacement made.
enum Changed<M> {
    Update(Update<M>),
    Trial(TrialChange<M>),
}

/// A newer revision of a running actor.
struct Newer<M> {
    module: M,
    reference: String,
    view: TrialView,
}

/// Says what more of an actor that runs already needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// Claims that have not expired.
    Free,
    /// The permission of the policy service as well, each time.
    AsksPolicy,
}

/// The actors of this host and the commands that wait. `M` is a module, `R` is where an answer
/// goes.
pub struct Plan<M, R> {
    growth: Growth,
    running: BTreeMap<ActorId, Running<M>>,
    /// Commands that wait for a module, by its reference, in the order they came.
    loading: HashMap<String, Line<Job<R>, R>>,
    /// Commands that wait for an actor's subscription, with their modules.
    starting: HashMap<ActorId, Line<(Job<R>, M), R>>,
    /// The running actors as readers see them.
    view: Arc<Vec<ActorView>>,
    /// Gathers the effects of the input that is being handled.
    effects: Vec<Effect<M, R>>,
}

impl<M: Module, R> Plan<M, R> {
    pub fn new(growth: Growth) -> Self {
        Self {
            growth,
            running: BTreeMap::new(),
            loading: HashMap::new(),
            starting: HashMap::new(),
            view: Arc::default(),
            effects: Vec::new(),
        }
    }

    /// Returns the reference that a running actor was started or updated from; empty for others.
    pub fn reference_of(&self, id: &ActorId) -> &str {
        self.running.get(id).map_or("", |running| &running.reference)
    }

    /// Returns what runs, as readers see it.
    pub fn view(&self) -> Arc<Vec<ActorView>> {
        Arc::clone(&self.view)
    }

    /// Takes a command on: at once if its module runs here, else after loading it. `now` is in
    /// seconds since 1970, `room` is the number of bytes that an inventory has for actors.
    pub fn begin(&mut self, job: Job<R>, now: u64, room: usize) -> Vec<Effect<M, R>> {
        let (reference, issuer_change) = match &job {
            Job::Start(start, _) => (start.reference.clone(), start.issuer_change),
            Job::Replace(replace, _) => (replace.reference.clone(), replace.issuer_change),
        };
        let waiting = self.loading.values().map(VecDeque::len).sum::<usize>()
            + self.starting.values().map(VecDeque::len).sum::<usize>();
        if waiting >= JOBS_MAX {
            self.fail(
                job,
                None,
                format!("{JOBS_MAX} commands wait for modules already; try again later"),
            );
        } else if let Some(line) = self.loading.get_mut(&reference) {
            line.push_back(Waiting::Job(job));
        } else {
            let effect = match self.grows(&job, &reference) {
                // More of it may not be wanted by now; less of it is always fine.
                Some((module, true))
                    if self.growth == Growth::AsksPolicy || module.claims().is_expired(now) =>
                {
                    Effect::AskPermission { reference: reference.clone(), module, issuer_change }
                }
                Some((module, _)) => {
                    self.perform(job, module, room);
                    return self.take_effects();
                }
                None => Effect::Load { reference: reference.clone(), issuer_change },
            };
            self.loading.insert(reference, VecDeque::from([Waiting::Job(job)]));
            self.effects.push(effect);
        }
        self.take_effects()
    }

    /// Returns the module of a start that runs here, and whether the start asks for more than there
    /// is.
    fn grows(&self, job: &Job<R>, reference: &str) -> Option<(M, bool)> {
        // An update loads even a reference that runs here: there may be something newer behind it.
        let Job::Start(start, _) = job else { return None };
        let running = self.running.values().find(|running| running.reference == reference)?;
        let now = running.groups.max_of(&start.annotations);
        Some((running.module.clone(), start.amount.applied_to(now) > now))
    }

    /// Stops at once, or after the starts of this actor that were asked for before. `leads_to` says
    /// whether a reference is known to lead to the actor that is named.
    pub fn stop(
        &mut self,
        stop: Stop,
        reply: R,
        leads_to: impl Fn(&str) -> bool,
    ) -> Vec<Effect<M, R>> {
        let mut loading = self.loading.iter_mut();
        if let Some((_, line)) =
            loading.find(|(reference, _)| **reference == stop.actor || leads_to(reference))
        {
            line.push_back(Waiting::Stop(stop, reply));
        } else if let Some((_, line)) =
            self.starting.iter_mut().find(|(id, _)| id.as_str() == stop.actor)
        {
            line.push_back(Waiting::Stop(stop, reply));
        } else {
            self.stop_now(&stop, reply);
        }
        self.take_effects()
    }

    /// Goes on with the commands that waited for a module.
    pub fn loaded(
        &mut self,
        reference: &str,
        result: Result<M, LoadError>,
        room: usize,
    ) -> Vec<Effect<M, R>> {
        for waiting in self.loading.remove(reference).unwrap_or_default() {
            match (&result, waiting) {
                (Ok(module), Waiting::Job(job)) => self.perform(job, module.clone(), room),
                (Ok(module), Waiting::Stop(stop, reply)) => {
                    self.stop_in_turn(&module.claims().subject, stop, reply)
                }
                (Err(failure), Waiting::Job(job)) => {
                    self.fail(job, failure.actor_id.clone(), failure.text.clone())
                }
                (Err(_), Waiting::Stop(stop, reply)) => self.stop_now(&stop, reply),
            }
        }
        self.take_effects()
    }

    /// Gives up on a module because the host stops; returns the starts that waited for it.
    pub fn give_up(&mut self, reference: &str) -> Vec<Start> {
        let line = self.loading.remove(reference).unwrap_or_default();
        line.into_iter()
            .filter_map(|waiting| match waiting {
                Waiting::Job(Job::Start(start, _)) => Some(start),
                Waiting::Job(Job::Replace(..)) | Waiting::Stop(..) => None,
            })
            .collect()
    }

    /// Takes in an actor that is subscribed for. The answer is left where it is if it cannot run.
    pub fn started(
        &mut self,
        (start, reply): (&Start, &mut Option<R>),
        module: &M,
        room: usize,
    ) -> Result<Vec<Effect<M, R>>, StartError> {
        let mut groups = Groups::default();
        // Others may have taken the room while this one was subscribed for.
        let scaled =
            groups.scale(&start.annotations, start.amount, || has_room(&self.view, room))?;
        let running = Running {
            module: module.clone(),
            reference: start.reference.clone(),
            groups,
            trial: None,
        };
        let changes = vec![running.change(scaled)];
        let id = module.claims().subject.clone();
        self.running.insert(id.clone(), running);
        self.settle(id, changes, reply.take());
        Ok(self.take_effects())
    }

    /// Goes on with the commands that waited for an actor's subscription, whether it worked or not.
    pub fn release(&mut self, id: &ActorId, room: usize) -> Vec<Effect<M, R>> {
        for waiting in self.starting.remove(id).unwrap_or_default() {
            match waiting {
                Waiting::Job((job, module)) => self.perform(job, module, room),
                Waiting::Stop(stop, reply) => self.stop_in_turn(id, stop, reply),
            }
        }
        self.take_effects()
    }

    /// Takes away an actor whose subscription ended by itself.
    pub fn lost(&mut self, id: &ActorId) -> Vec<Effect<M, R>> {
        if let Some(running) = self.running.get_mut(id) {
            let changes = running.end();
            self.settle(id.clone(), changes, None);
        }
        self.take_effects()
    }

    /// Takes everything away because the host stops; returns what changes by that.
    pub fn stop_all(&mut self) -> Vec<Change<M>> {
        let changes = std::mem::take(&mut self.running)
            .into_values()
            .flat_map(|mut running| running.end())
            .collect();
        self.refresh_view();
        changes
    }

    /// Carries a command out, or lets it wait for the subscription of its actor.
    fn perform(&mut self, job: Job<R>, module: M, room: usize) {
        if let Some(line) = self.starting.get_mut(&module.claims().subject) {
            return line.push_back(Waiting::Job((job, module)));
        }
        match job {
            Job::Start(start, reply) => self.start(start, reply, module, room),
            Job::Replace(replace, reply) => self.replace(replace, module, reply),
        }
    }

    fn start(&mut self, start: Start, reply: R, module: M, room: usize) {
        let id = module.claims().subject.clone();
        match self.set_group(&module, &start, room) {
            Err(error) => {
                self.effects.push(Effect::StartFailed { start, reply, actor_id: Some(id), error })
            }
            Ok(Some(change)) => self.settle(id, vec![change], Some(reply)),
            Ok(None) if start.amount.applied_to(0) == 0 => {
                let Start { reference, annotations, .. } = start;
                let none = Change { module, reference, annotations, before: 0, after: 0 };
                self.effects.push(Effect::Announce(none, reply));
            }
            Ok(None) => {
                self.starting.insert(id, VecDeque::new());
                self.effects.push(Effect::Subscribe { start, reply, module });
            }
        }
    }

    /// Changes the group that a start is about; returns the change, or nothing if the actor does not
    /// run.
    fn set_group(
        &mut self,
        module: &M,
        start: &Start,
        room: usize,
    ) -> Result<Option<Change<M>>, StartError> {
        reuse_of(&start.annotations)?;
        if start.amount.applied_to(0) > 0 {
            check_imports(module.unserved(), &start.annotations)?;
        }
        let running = self.running.get_mut(&module.claims().subject);
        let Some(running) = running else { return Ok(None) };
        if running.reference != start.reference {
            return Err(StartError::OtherReference(running.reference.clone()));
        }
        let scaled = running
            .groups
            .scale(&start.annotations, start.amount, || has_room(&self.view, room))?;
        Ok(Some(running.change(scaled)))
    }

    fn replace(&mut self, replace: Replace, module: M, reply: R) {
        let effect = match replace.share {
            None => self.exchange(&replace, module).map(Changed::Update),
            Some(share) => self.try_beside(&replace, module, share).map(Changed::Trial),
        };
        let effect = match effect {
            Ok(Changed::Update(update)) => Effect::Update(update, reply),
            Ok(Changed::Trial(change)) => Effect::Trial(change, reply),
            Err(error) => return self.replace_failed(replace, reply, error),
        };
        self.refresh_view();
        self.effects.push(effect);
    }

    /// Ends a trial: the revision before takes all calls again.
    pub fn take_back(&mut self, actor_id: &str, reply: R) -> Vec<Effect<M, R>> {
        match self.running.iter_mut().find(|(id, _)| id.as_str() == actor_id) {
            Some((id, running)) => {
                running.trial = None;
                let change = running.trial_change(id);
                self.refresh_view();
                self.effects.push(Effect::Trial(change, reply));
            }
            None => {
                let error = ActorError::NotRunning(actor_id.to_owned());
                self.effects.push(Effect::StopFailed { reply, error });
            }
        }
        self.take_effects()
    }

    /// Runs a module beside the one that runs.
    fn try_beside(
        &mut self,
        replace: &Replace,
        module: M,
        share: u8,
    ) -> Result<TrialChange<M>, ActorError> {
        let running = self.may_change(replace, &module)?;
        running.trial = Some(Newer {
            reference: replace.reference.clone(),
            view: TrialView {
                stable_reference: running.reference.clone(),
                stable_revision: running.module.claims().revision.unwrap_or(0),
                share,
                counts: Arc::default(),
            },
            module: module.clone(),
        });
        Ok(running.trial_change(&module.claims().subject))
    }

    /// Gives a running actor another module, if it may have that.
    fn exchange(&mut self, replace: &Replace, module: M) -> Result<Update<M>, ActorError> {
        let running = self.may_change(replace, &module)?;
        running.trial = None;
        Ok(Update {
            id: module.claims().subject.clone(),
            old_module: std::mem::replace(&mut running.module, module.clone()),
            old_reference: std::mem::replace(&mut running.reference, replace.reference.clone()),
            module,
            reference: replace.reference.clone(),
            groups: running.groups.views().to_vec(),
            limits: running.groups.limits(),
        })
    }

    /// Returns the actor that a replacement is about, if the module may run in its place.
    fn may_change(&mut self, replace: &Replace, module: &M) -> Result<&mut Running<M>, ActorError> {
        let id = module.claims().subject.clone();
        if let Some(expected) =
            replace.actor_id.as_ref().filter(|expected| id.as_str() != expected.as_str())
        {
            return Err(ActorError::OtherActor {
                reference: replace.reference.clone(),
                found: id.to_string(),
                expected: expected.clone(),
            });
        }
        let running =
            self.running.get_mut(&id).ok_or_else(|| ActorError::NotRunning(id.to_string()))?;
        let selected = running.groups.selected(&replace.annotations);
        // All groups share one subscription and one module, so an update is about all or none of
        // them.
        if selected == 0 {
            return Err(ActorError::NoSuchAnnotations {
                actor: id.to_string(),
                annotations: replace.annotations.clone(),
            });
        }
        if selected < running.groups.len() {
            return Err(ActorError::PartOfActor(id.to_string()));
        }
        for group in running.groups.views() {
            check_imports(module.unserved(), &group.annotations)
                .map_err(|error| ActorError::Load(error.to_string()))?;
        }
        let (offered, current) =
            (module.claims().effective_revision(), running.module.claims().effective_revision());
        if replace.revisions == Revisions::Newer && offered <= current {
            return Err(ActorError::NotNewer {
                reference: replace.reference.clone(),
                actor: id.to_string(),
                offered,
                running: current,
            });
        }
        Ok(running)
    }

    /// Stops, unless the actor is being subscribed for: then the stop waits for that.
    fn stop_in_turn(&mut self, id: &ActorId, stop: Stop, reply: R) {
        match self.starting.get_mut(id) {
            Some(line) => line.push_back(Waiting::Stop(stop, reply)),
            None => self.stop_now(&stop, reply),
        }
    }

    fn stop_now(&mut self, stop: &Stop, reply: R) {
        match self.reduce(stop) {
            Ok((id, changes)) => self.settle(id, changes, Some(reply)),
            Err(error) => self.effects.push(Effect::StopFailed { reply, error }),
        }
    }

    /// Takes as many as a stop asks for, group by group; returns the groups that changed.
    fn reduce(&mut self, stop: &Stop) -> Result<(ActorId, Vec<Change<M>>), ActorError> {
        let (id, running) = self
            .running
            .iter_mut()
            .find(|(id, running)| id.as_str() == stop.actor || running.reference == stop.actor)
            .ok_or_else(|| ActorError::NotRunning(stop.actor.clone()))?;
        if running.groups.selected(&stop.annotations) == 0 {
            let annotations = stop.annotations.clone();
            return Err(ActorError::NoSuchAnnotations { actor: stop.actor.clone(), annotations });
        }
        let taken = running.groups.take(&stop.annotations, stop.count);
        Ok((id.clone(), running.changes(taken)))
    }

    /// Ends the change of an actor's groups. An actor without groups goes.
    fn settle(&mut self, id: ActorId, changes: Vec<Change<M>>, reply: Option<R>) {
        let effect = match self.running.get(&id).filter(|running| !running.groups.is_empty()) {
            Some(running) => Effect::Scale { id, limits: running.groups.limits(), changes, reply },
            None => {
                self.running.remove(&id);
                Effect::Leave { id, changes, reply }
            }
        };
        self.refresh_view();
        self.effects.push(effect);
    }

    fn refresh_view(&mut self) {
        self.view = Arc::new(self.running.iter().map(|(id, running)| running.view(id)).collect());
    }

    /// Ends a command that gets no module.
    fn fail(&mut self, job: Job<R>, actor_id: Option<ActorId>, text: String) {
        match job {
            Job::Start(start, reply) => {
                self.effects.push(Effect::StartFailed {
                    start,
                    reply,
                    actor_id,
                    error: StartError::Load(text),
                });
            }
            Job::Replace(replace, reply) => {
                self.replace_failed(replace, reply, ActorError::Load(text))
            }
        }
    }

    fn replace_failed(&mut self, replace: Replace, reply: R, error: ActorError) {
        let running =
            replace.actor_id.as_deref().and_then(|id| self.running.get(id)).map(|running| {
                Version {
                    revision: running.module.claims().effective_revision(),
                    instance_id: running
                        .groups
                        .views()
                        .first()
                        .map(|group| group.instance_id.clone()),
                }
            });
        self.effects.push(Effect::ReplaceFailed { replace, reply, error, running });
    }

    fn take_effects(&mut self) -> Vec<Effect<M, R>> {
        std::mem::take(&mut self.effects)
    }
}

impl<M: Module> Running<M> {
    /// Takes all groups away.
    fn end(&mut self) -> Vec<Change<M>> {
        let taken = self.groups.take(&Annotations::new(), None);
        self.changes(taken)
    }

    fn changes(&self, scaled: Vec<Scaled>) -> Vec<Change<M>> {
        scaled.into_iter().map(|scaled| self.change(scaled)).collect()
    }

    fn change(&self, Scaled { annotations, before, after }: Scaled) -> Change<M> {
        let (module, reference) = (self.module.clone(), self.reference.clone());
        Change { module, reference, annotations, before, after }
    }

    fn trial_change(&self, id: &ActorId) -> TrialChange<M> {
        let newest = self.trial.as_ref().map_or(&self.module, |newer| &newer.module);
        TrialChange {
            id: id.clone(),
            newer: self
                .trial
                .as_ref()
                .map(|newer| (newer.module.clone(), newer.reference.clone(), newer.view.share)),
            view: self.trial.as_ref().map(|newer| newer.view.clone()),
            revision: newest.claims().effective_revision(),
            groups: self.groups.views().to_vec(),
        }
    }

    /// Returns how it looks from outside. Of two revisions side by side readers see the newer one.
    fn view(&self, id: &ActorId) -> ActorView {
        let (module, reference) = match &self.trial {
            Some(newer) => (&newer.module, &newer.reference),
            None => (&self.module, &self.reference),
        };
        let claims = module.claims();
        ActorView {
            id: id.clone(),
            name: claims.name.clone(),
            reference: reference.clone(),
            revision: claims.revision.unwrap_or(0),
            code: module.info().clone(),
            groups: self.groups.views().to_vec(),
            trial: self.trial.as_ref().map(|newer| newer.view.clone()),
        }
    }
}

/// Says whether an inventory of so many bytes has room for one more actor, or set of annotations.
fn has_room(actors: &[ActorView], bytes_max: usize) -> bool {
    bytes_of_actors(actors) < bytes_max
}

#[cfg(test)]
mod tests;

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
//! `running` is one actor that runs, `groups` counts how many of it do. Invariant: a running actor
//! has groups.

mod effect;
mod groups;
mod running;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use super::{
    artifact::Artifact,
    supervisor::{ActorError, ActorView, Replace, Revisions, Start, Stop},
};
use crate::{control::state::bytes_of_actors, issuers::IssuerChange};
use lattice_protocol::{
    control::types::CodeInfo,
    events::event::Annotations,
    identity::{claims::ActorClaims, keys::ActorId},
};

pub use effect::{Change, Effect, TrialChange, Update, Version};
pub use groups::{BadImports, BadReuse, Limits};
use groups::{Groups, NoRoom, check_imports, reuse_of};
use running::Running;

/// Commands that may wait for loading and starting, all together. One that moves from one line to
/// another is counted already.
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

impl<J, R> Waiting<J, R> {
    fn into_job(self) -> Option<J> {
        match self {
            Self::Job(job) => Some(job),
            Self::Stop(..) => None,
        }
    }
}

type Line<J, R> = VecDeque<Waiting<J, R>>;

/// The work before a start.
enum Needed<M, R> {
    Effect(Effect<M, R>),
    /// This module of it runs here.
    Nothing(M),
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

    /// Returns the reference of a running actor, or of the newer revision beside it if these are
    /// the claims of that; empty for others.
    pub fn reference_of(&self, id: &ActorId, claims: &ActorClaims) -> &str {
        let Some(running) = self.running.get(id) else { return "" };
        match &running.trial {
            Some(newer) if newer.module.claims() == claims => &newer.view.reference,
            _ => &running.reference,
        }
    }

    /// Returns the calls at a time of an actor's groups with other annotations than these.
    pub fn others(&self, id: &ActorId, annotations: &Annotations) -> u32 {
        let groups = self.running.get(id).map_or(&[][..], |running| running.groups.views());
        let others = groups.iter().filter(|group| group.annotations != *annotations);
        others.fold(0, |sum, group| sum.saturating_add(group.max))
    }

    /// Returns what runs, as readers see it.
    pub fn view(&self) -> Arc<Vec<ActorView>> {
        Arc::clone(&self.view)
    }

    /// Takes a command on: at once if its module runs here, else after loading it. `now` is in
    /// seconds since 1970, `room` is the number of bytes that an inventory has for actors.
    pub fn begin(&mut self, job: Job<R>, now: u64, room: usize) -> Vec<Effect<M, R>> {
        let reference = match &job {
            Job::Start(start, _) => start.reference.clone(),
            Job::Replace(replace, _) => replace.reference.clone(),
        };
        if self.is_full() {
            self.fail(
                job,
                None,
                format!("{JOBS_MAX} commands wait for modules already; try again later"),
            );
            return self.take_effects();
        }
        if let Job::Replace(Replace { actor_id: Some(id), .. }, _) = &job {
            self.withdraw_trials(id, Some(&reference));
        }
        if let Some(line) = self.loading.get_mut(&reference) {
            line.push_back(Waiting::Job(job));
            return self.take_effects();
        }
        let needed = match &job {
            Job::Start(start, _) => self.needed(start, now),
            // Even for a reference that runs here: there may be something newer behind it.
            Job::Replace(replace, _) => Needed::Effect(load(&reference, replace.issuer_change)),
        };
        match needed {
            Needed::Effect(effect) => {
                self.loading.insert(reference, VecDeque::from([Waiting::Job(job)]));
                self.effects.push(effect);
            }
            Needed::Nothing(module) => self.perform(job, module, room),
        }
        self.take_effects()
    }

    /// Says whether no further command may wait.
    fn is_full(&self) -> bool {
        let waiting = self.loading.values().map(VecDeque::len).sum::<usize>()
            + self.starting.values().map(VecDeque::len).sum::<usize>();
        waiting >= JOBS_MAX
    }

    /// Returns what has to be done before a start.
    fn needed(&self, start: &Start, now: u64) -> Needed<M, R> {
        let Start { reference, issuer_change, .. } = start;
        let mut all = self.running.values();
        let Some(running) = all.find(|running| running.is_from(reference)) else {
            return Needed::Effect(load(reference, *issuer_change));
        };
        let before = running.groups.max_of(&start.annotations);
        let is_more = start.amount.applied_to(before) > before;
        let is_expired = running.modules().any(|module| module.claims().is_expired(now));
        // More of it may not be wanted by now; less of it is always fine.
        if !is_more || self.growth == Growth::Free && !is_expired {
            return Needed::Nothing(running.module.clone());
        }
        let newer = running.trial.as_ref();
        Needed::Effect(Effect::AskPermission {
            reference: reference.clone(),
            own: (running.module.clone(), running.reference.clone()),
            newer: newer.map(|newer| (newer.module.clone(), newer.view.reference.clone())),
            issuer_change: *issuer_change,
        })
    }

    /// Stops at once, or after the starts of this actor that were asked for before, if there is
    /// room to wait for them. `leads_to` says whether a reference is known to lead to the actor
    /// that is named.
    pub fn stop(
        &mut self,
        stop: Stop,
        reply: R,
        leads_to: impl Fn(&str) -> bool,
    ) -> Vec<Effect<M, R>> {
        let is_full = self.is_full();
        let mut loading = self.loading.iter_mut();
        let loading =
            loading.find(|(reference, _)| **reference == stop.actor || leads_to(reference));
        let starting = self.starting.iter_mut().find(|(id, _)| id.as_str() == stop.actor);
        match (loading, starting) {
            (None, None) => self.stop_now(&stop, reply),
            _ if is_full => {
                let result = Err(ActorError::Unavailable);
                self.effects.push(Effect::Answer { reply, result });
            }
            (Some((_, line)), _) => line.push_back(Waiting::Stop(stop, reply)),
            (None, Some((_, line))) => line.push_back(Waiting::Stop(stop, reply)),
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

    /// Gives up on what waits for a module or a subscription, because the host stops; returns the
    /// commands that will not be carried out.
    pub fn give_up(&mut self) -> Vec<Job<R>> {
        let loading = std::mem::take(&mut self.loading).into_values().flatten();
        let starting = std::mem::take(&mut self.starting).into_values().flatten();
        let starting = starting.filter_map(Waiting::into_job).map(|(job, _)| job);
        loading.filter_map(Waiting::into_job).chain(starting).collect()
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

    /// Changes the group that a start is about; returns the change, or nothing if the actor does
    /// not run.
    fn set_group(
        &mut self,
        module: &M,
        start: &Start,
        room: usize,
    ) -> Result<Option<Change<M>>, StartError> {
        reuse_of(&start.annotations)?;
        let running = self.running.get_mut(&module.claims().subject);
        if start.amount.applied_to(0) > 0 {
            check_imports(module.unserved(), &start.annotations)?;
            for module in running.iter().flat_map(|running| running.modules()) {
                check_imports(module.unserved(), &start.annotations)?;
            }
        }
        let Some(running) = running else { return Ok(None) };
        if !running.is_from(&start.reference) {
            return Err(StartError::OtherReference(running.reference.clone()));
        }
        let scaled = running
            .groups
            .scale(&start.annotations, start.amount, || has_room(&self.view, room))?;
        Ok(Some(running.change(scaled)))
    }

    fn replace(&mut self, replace: Replace, module: M, reply: R) {
        let running = match self.may_change(&replace, &module) {
            Ok(running) => running,
            Err(error) => return self.replace_failed(replace, reply, error),
        };
        let effect = match replace.share {
            None => Effect::Update(running.exchange(replace.reference, module), reply),
            Some(share) => {
                let change = running.try_beside(replace.reference, module, share);
                Effect::Trial(change, reply)
            }
        };
        self.refresh_view();
        self.effects.push(effect);
    }

    /// Ends a trial: the revision before takes all calls again.
    pub fn take_back(&mut self, actor_id: &str, reply: R) -> Vec<Effect<M, R>> {
        let has_withdrawn = self.withdraw_trials(actor_id, None);
        let not_running = || ActorError::NotRunning(actor_id.to_owned());
        let id = ActorId::parse(actor_id).map_err(|_| not_running());
        let running = id.as_ref().ok().and_then(|id| self.running.get_mut(id));
        let is_running = running.is_some();
        if let Some(change) = running.and_then(Running::end_trial) {
            self.refresh_view();
            self.effects.push(Effect::Trial(change, reply));
            return self.take_effects();
        }
        let result = match (has_withdrawn, is_running) {
            (true, _) => id,
            (false, true) => Err(ActorError::NoTrial(actor_id.to_owned())),
            (false, false) => Err(not_running()),
        };
        self.effects.push(Effect::Answer { reply, result });
        self.take_effects()
    }

    /// Ends the trials of an actor that have not begun, except those of one reference: a later
    /// command decides what runs. Says whether there were some.
    fn withdraw_trials(&mut self, actor_id: &str, except: Option<&str>) -> bool {
        let is_meant = |job: &Job<R>| {
            matches!(job, Job::Replace(replace, _) if replace.share.is_some()
                && replace.actor_id.as_deref() == Some(actor_id)
                && Some(&*replace.reference) != except)
        };
        let mut withdrawn = Vec::new();
        for line in self.loading.values_mut() {
            withdrawn.extend(take_out(line, is_meant));
        }
        for line in self.starting.values_mut() {
            let taken = take_out(line, |(job, _)| is_meant(job));
            withdrawn.extend(taken.into_iter().map(|(job, _)| job));
        }
        let before = self.effects.len();
        for job in withdrawn {
            if let Job::Replace(_, reply) = job {
                let result = Err(ActorError::Overtaken(actor_id.to_owned()));
                self.effects.push(Effect::Answer { reply, result });
            }
        }
        self.effects.len() > before
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
            Err(error) => self.effects.push(Effect::Answer { reply, result: Err(error) }),
        }
    }

    /// Takes as many as a stop asks for, group by group; returns the groups that changed.
    fn reduce(&mut self, stop: &Stop) -> Result<(ActorId, Vec<Change<M>>), ActorError> {
        let (id, running) = self
            .running
            .iter_mut()
            .find(|(id, running)| id.as_str() == stop.actor || running.is_from(&stop.actor))
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
        let running = self.version_for(&replace);
        self.effects.push(Effect::ReplaceFailed { replace, reply, error, running });
    }

    /// Returns what runs of the actor that a replacement names.
    pub fn version_for(&self, replace: &Replace) -> Option<Version> {
        let running = self.running.get(replace.actor_id.as_deref()?)?;
        let group = running.groups.views().first();
        Some(Version {
            revision: running.module.claims().effective_revision(),
            instance_id: group.map(|group| group.instance_id.clone()),
        })
    }

    fn take_effects(&mut self) -> Vec<Effect<M, R>> {
        std::mem::take(&mut self.effects)
    }
}

fn load<M, R>(reference: &str, issuer_change: IssuerChange) -> Effect<M, R> {
    Effect::Load { reference: reference.to_owned(), issuer_change }
}

/// Takes the jobs out of a line that are so.
fn take_out<J, R>(line: &mut Line<J, R>, is_so: impl Fn(&J) -> bool) -> Vec<J> {
    let (mut taken, mut left) = (Vec::new(), VecDeque::new());
    for waiting in std::mem::take(line) {
        match waiting {
            Waiting::Job(job) if is_so(&job) => taken.push(job),
            other => left.push_back(other),
        }
    }
    *line = left;
    taken
}

/// Says whether an inventory of so many bytes has room for one more actor, or set of annotations.
fn has_room(actors: &[ActorView], bytes_max: usize) -> bool {
    bytes_of_actors(actors) < bytes_max
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub use tests::claims_of;

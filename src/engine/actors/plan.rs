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
//! Invariant: a running actor has groups, and each of them has a maximum above zero.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use uuid::Uuid;

use super::{
    artifact::Artifact,
    supervisor::{
        ActorError, ActorView, Amount, GroupView, REUSE_ANNOTATION, Replace, Start, Stop,
    },
};
use crate::{control::state::bytes_of_actors, issuers::IssuerChange};
use lattice_protocol::{
    events::event::Annotations,
    identity::{claims::ActorClaims, keys::ActorId},
};

/// Commands that may wait for loading and starting, all together.
const JOBS_MAX: usize = 1024;

/// Why an actor does not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Load(String),
    #[error(transparent)]
    Reuse(#[from] BadReuse),
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

/// Why the reuse annotation counts for nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {REUSE_ANNOTATION} is {0:?}, expected a number of calls from 1")]
pub struct BadReuse(String);

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

/// A module that can run: the plan reads nothing but its claims.
pub trait Module: Clone {
    fn claims(&self) -> &ActorClaims;
}

impl Module for Arc<Artifact> {
    fn claims(&self) -> &ActorClaims {
        &self.claims
    }
}

/// A command that needs a module. `R` is where its answer goes.
pub enum Job<R> {
    Start(Start),
    Replace(Replace, R),
}

/// A command in a line.
enum Waiting<J, R> {
    Job(J),
    /// Needs no module, but must not overtake the start it is meant for.
    Stop(Stop, R),
}

type Line<J, R> = VecDeque<Waiting<J, R>>;

/// The supervisor's part of a decision, in the order of the list that it is in.
pub enum Effect<M, R> {
    /// Load a module, then report with [`Plan::loaded`].
    Load {
        reference: String,
        issuer_change: IssuerChange,
    },
    /// Ask whether more of a module that runs here may start, then report with [`Plan::loaded`].
    AskPermission {
        reference: String,
        module: M,
        issuer_change: IssuerChange,
    },
    /// Subscribe for an actor, then report with [`Plan::started`] if it worked, and with
    /// [`Plan::release`] in any case.
    Subscribe {
        start: Start,
        module: M,
    },
    /// Publish the events of something that changes nothing else.
    Announce(Change<M>),
    /// Set the limits of an actor whose groups changed, publish the snapshot, then the events, then
    /// answer.
    Scale {
        id: ActorId,
        limits: Limits,
        changes: Vec<Change<M>>,
        reply: Option<R>,
    },
    /// Stop an actor, publish the snapshot; the events and the answer follow when it has left its
    /// queue group.
    Leave {
        id: ActorId,
        changes: Vec<Change<M>>,
        reply: Option<R>,
    },
    /// Run another module, publish the snapshot, then the events, then answer.
    Update(Update<M>, R),
    StartFailed {
        start: Start,
        actor_id: Option<ActorId>,
        error: StartError,
    },
    ReplaceFailed {
        replace: Replace,
        reply: R,
        error: ActorError,
        running: Option<Version>,
    },
    StopFailed {
        reply: R,
        error: ActorError,
    },
}

/// How many of one group there were and are, for the events about it.
#[derive(Clone, Debug)]
pub struct Change<M> {
    pub module: M,
    pub reference: String,
    pub annotations: Annotations,
    pub before: u32,
    pub after: u32,
}

/// The limits that follow from all groups of an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls that may run at a time: the sum over the groups.
    pub calls: u32,
    /// Calls one instance may serve: the most that a group asks for.
    pub reuse: Option<u32>,
}

/// The change of the module that an actor runs.
#[derive(Clone, Debug)]
pub struct Update<M> {
    pub id: ActorId,
    pub old_module: M,
    pub old_reference: String,
    pub module: M,
    pub reference: String,
    pub groups: Vec<GroupView>,
    pub limits: Limits,
}

/// A running actor as the failure of its update names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub revision: u64,
    pub instance_id: Option<String>,
}

/// An actor of this host.
struct Running<M> {
    module: M,
    reference: String,
    /// The parts of it, each started with one set of annotations.
    groups: Vec<GroupView>,
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

impl Amount {
    /// Returns the number that is asked for, where there are `before` now.
    pub fn applied_to(self, before: u32) -> u32 {
        match self {
            Self::Add(more) => before.saturating_add(more),
            Self::Exactly(count) => count,
            Self::AtLeast(count) => before.max(count),
        }
    }

    fn is_more_than(self, now: u32) -> bool {
        match self {
            Self::Add(more) => more > 0,
            Self::Exactly(count) | Self::AtLeast(count) => count > now,
        }
    }
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
            Job::Start(start) => (start.reference.clone(), start.issuer_change),
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
        let Job::Start(start) = job else { return None };
        let running = self.running.values().find(|running| running.reference == reference)?;
        let now = running.group(&start.annotations).map_or(0, |group| group.max);
        Some((running.module.clone(), start.amount.is_more_than(now)))
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
                Waiting::Job(Job::Start(start)) => Some(start),
                Waiting::Job(Job::Replace(..)) | Waiting::Stop(..) => None,
            })
            .collect()
    }

    /// Takes in an actor that is subscribed for.
    pub fn started(
        &mut self,
        start: &Start,
        module: &M,
        room: usize,
    ) -> Result<Vec<Effect<M, R>>, StartError> {
        // Others may have taken the room while this one was subscribed for.
        if !has_room(&self.view, room) {
            return Err(StartError::Full);
        }
        let (id, max) = (module.claims().subject.clone(), start.amount.applied_to(0));
        let groups = vec![group(&start.annotations, max)];
        self.running.insert(
            id.clone(),
            Running { module: module.clone(), reference: start.reference.clone(), groups },
        );
        self.settle(id, vec![Change::of(start, module, 0, max)], None);
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
            Job::Start(start) => self.start(start, module, room),
            Job::Replace(replace, reply) => self.replace(replace, module, reply),
        }
    }

    fn start(&mut self, start: Start, module: M, room: usize) {
        let id = module.claims().subject.clone();
        match self.set_group(&id, &start, room) {
            Err(error) => {
                self.effects.push(Effect::StartFailed { start, actor_id: Some(id), error })
            }
            Ok(Some((before, after))) => {
                self.settle(id, vec![Change::of(&start, &module, before, after)], None)
            }
            Ok(None) if start.amount.applied_to(0) == 0 => {
                self.effects.push(Effect::Announce(Change::of(&start, &module, 0, 0)));
            }
            Ok(None) => {
                self.starting.insert(id, VecDeque::new());
                self.effects.push(Effect::Subscribe { start, module });
            }
        }
    }

    /// Changes the group that a start is about; returns its maximum before and after, or nothing if
    /// the actor does not run.
    fn set_group(
        &mut self,
        id: &ActorId,
        start: &Start,
        room: usize,
    ) -> Result<Option<(u32, u32)>, StartError> {
        reuse_of(&start.annotations)?;
        let Some(running) = self.running.get_mut(id) else { return Ok(None) };
        if running.reference != start.reference {
            return Err(StartError::OtherReference(running.reference.clone()));
        }
        let found = running.groups.iter_mut().find(|group| group.annotations == start.annotations);
        let before = found.as_ref().map_or(0, |group| group.max);
        let after = start.amount.applied_to(before);
        match found {
            Some(group) => group.max = after,
            None if after == 0 => {}
            None if !has_room(&self.view, room) => return Err(StartError::Full),
            None => running.groups.push(group(&start.annotations, after)),
        }
        running.groups.retain(|group| group.max > 0);
        Ok(Some((before, after)))
    }

    fn replace(&mut self, replace: Replace, module: M, reply: R) {
        match self.exchange(&replace, module) {
            Ok(update) => {
                self.refresh_view();
                self.effects.push(Effect::Update(update, reply));
            }
            Err(error) => self.replace_failed(replace, reply, error),
        }
    }

    /// Gives a running actor another module, if it may have that.
    fn exchange(&mut self, replace: &Replace, module: M) -> Result<Update<M>, ActorError> {
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
        let selected = running
            .groups
            .iter()
            .filter(|group| has_all(&group.annotations, &replace.annotations))
            .count();
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
        let (offered, current) =
            (module.claims().effective_revision(), running.module.claims().effective_revision());
        if offered <= current {
            return Err(ActorError::NotNewer {
                reference: replace.reference.clone(),
                actor: id.to_string(),
                offered,
                running: current,
            });
        }
        Ok(Update {
            id,
            old_module: std::mem::replace(&mut running.module, module.clone()),
            old_reference: std::mem::replace(&mut running.reference, replace.reference.clone()),
            module,
            reference: replace.reference.clone(),
            groups: running.groups.clone(),
            limits: running.limits(),
        })
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
        let mut left_to_stop = stop.count.unwrap_or(u32::MAX);
        let (mut is_found, mut changes) = (false, Vec::new());
        for group in
            running.groups.iter_mut().filter(|group| has_all(&group.annotations, &stop.annotations))
        {
            is_found = true;
            // Without a count a group goes as a whole: two unbounded ones are more than any number.
            let fewer = if stop.count.is_none() { group.max } else { group.max.min(left_to_stop) };
            left_to_stop -= fewer.min(left_to_stop);
            if fewer > 0 {
                changes.push(Change {
                    module: running.module.clone(),
                    reference: running.reference.clone(),
                    annotations: group.annotations.clone(),
                    before: group.max,
                    after: group.max - fewer,
                });
            }
            group.max -= fewer;
        }
        if !is_found {
            let annotations = stop.annotations.clone();
            return Err(ActorError::NoSuchAnnotations { actor: stop.actor.clone(), annotations });
        }
        running.groups.retain(|group| group.max > 0);
        Ok((id.clone(), changes))
    }

    /// Ends the change of an actor's groups. An actor without groups goes.
    fn settle(&mut self, id: ActorId, changes: Vec<Change<M>>, reply: Option<R>) {
        let effect = match self.running.get(&id).filter(|running| !running.groups.is_empty()) {
            Some(running) => Effect::Scale { id, limits: running.limits(), changes, reply },
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
            Job::Start(start) => {
                self.effects.push(Effect::StartFailed {
                    start,
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
                    instance_id: running.groups.first().map(|group| group.instance_id.clone()),
                }
            });
        self.effects.push(Effect::ReplaceFailed { replace, reply, error, running });
    }

    fn take_effects(&mut self) -> Vec<Effect<M, R>> {
        std::mem::take(&mut self.effects)
    }
}

impl<M: Module> Running<M> {
    fn group(&self, annotations: &Annotations) -> Option<&GroupView> {
        self.groups.iter().find(|group| group.annotations == *annotations)
    }

    fn limits(&self) -> Limits {
        Limits {
            calls: self.groups.iter().fold(0, |sum: u32, group| sum.saturating_add(group.max)),
            reuse: self
                .groups
                .iter()
                .filter_map(|group| reuse_of(&group.annotations).ok().flatten())
                .max(),
        }
    }

    /// Takes all groups away.
    fn end(&mut self) -> Vec<Change<M>> {
        let groups = std::mem::take(&mut self.groups).into_iter();
        groups
            .map(|group| Change {
                module: self.module.clone(),
                reference: self.reference.clone(),
                annotations: group.annotations,
                before: group.max,
                after: 0,
            })
            .collect()
    }

    fn view(&self, id: &ActorId) -> ActorView {
        let claims = self.module.claims();
        ActorView {
            id: id.clone(),
            name: claims.name.clone(),
            reference: self.reference.clone(),
            revision: claims.revision.unwrap_or(0),
            groups: self.groups.clone(),
        }
    }
}

impl<M: Module> Change<M> {
    fn of(start: &Start, module: &M, before: u32, after: u32) -> Self {
        Self {
            module: module.clone(),
            reference: start.reference.clone(),
            annotations: start.annotations.clone(),
            before,
            after,
        }
    }
}

/// Makes a group of its own, with a new id.
fn group(annotations: &Annotations, max: u32) -> GroupView {
    GroupView { annotations: annotations.clone(), instance_id: Uuid::new_v4().to_string(), max }
}

/// Says whether an inventory of so many bytes has room for one more actor, or set of annotations.
fn has_room(actors: &[ActorView], bytes_max: usize) -> bool {
    bytes_of_actors(actors) < bytes_max
}

/// Reads the reuse annotation.
fn reuse_of(annotations: &Annotations) -> Result<Option<u32>, BadReuse> {
    let Some(text) = annotations.get(REUSE_ANNOTATION) else { return Ok(None) };
    match text.trim().parse() {
        Ok(reuse) if reuse > 0 => Ok(Some(reuse)),
        _ => Err(BadReuse(text.clone())),
    }
}

/// Says whether `annotations` contain every pair of `wanted`.
fn has_all(annotations: &Annotations, wanted: &Annotations) -> bool {
    wanted.iter().all(|(key, value)| annotations.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::identity::keys::{Kind, encode_public};

    #[derive(Clone)]
    struct TestModule(Arc<ActorClaims>);

    impl Module for TestModule {
        fn claims(&self) -> &ActorClaims {
            &self.0
        }
    }

    /// Carries out a script of steps, and puts the effects of each into words.
    struct Scene {
        plan: Plan<TestModule, u32>,
        /// The actors that are being subscribed for.
        subscribing: HashMap<ActorId, (Start, TestModule)>,
        /// The references that the lattice knows, and the actors behind them.
        known: HashMap<String, ActorId>,
        replies: u32,
        now: u64,
        room: usize,
    }

    /// Returns the id of the actor that scripts call by one letter.
    fn id(letter: &str) -> ActorId {
        ActorId::parse(&encode_public(Kind::Module, &[letter.as_bytes()[0]; 32])).unwrap()
    }

    fn letter(id: &ActorId) -> &'static str {
        ["A", "B"].into_iter().find(|letter| *id == self::id(letter)).unwrap()
    }

    /// Reads `A@2`, revision 2 of A, or `A@2x50`, which expires at 50.
    fn module(text: &str) -> TestModule {
        let (actor, revision) = text.split_once('@').unwrap();
        let (revision, expires) =
            revision.split_once('x').map_or((revision, None), |(r, e)| (r, Some(e)));
        TestModule(Arc::new(ActorClaims {
            subject: id(actor),
            issuer: "AISSUER".into(),
            name: None,
            caps: vec![],
            tags: vec![],
            revision: Some(revision.parse().unwrap()),
            version: None,
            call_alias: None,
            issued_at: 1,
            expires: expires.map(|expires| expires.parse().unwrap()),
            not_before: None,
            hash: String::new(),
        }))
    }

    fn amount(text: &str) -> Amount {
        if let Some(count) = text.strip_prefix(">=") {
            Amount::AtLeast(count.parse().unwrap())
        } else if let Some(count) = text.strip_prefix('+') {
            Amount::Add(count.parse().unwrap())
        } else {
            Amount::Exactly(text.trim_start_matches('=').parse().unwrap())
        }
    }

    /// Reads the words of the form `key=value`.
    fn annotations(words: &[&str]) -> Annotations {
        let pairs = words
            .iter()
            .filter_map(|word| word.split_once('='))
            .filter(|(key, _)| !key.is_empty() && *key != ">");
        pairs
            .map(|(key, value)| (key.replace("reuse", REUSE_ANNOTATION), value.to_owned()))
            .collect()
    }

    impl Scene {
        fn new(growth: Growth) -> Self {
            Self {
                plan: Plan::new(growth),
                subscribing: HashMap::new(),
                known: HashMap::new(),
                replies: 0,
                now: 0,
                room: 10_000,
            }
        }

        fn play(&mut self, script: &str) -> String {
            let last = script.split(';').map(|step| self.step(step)).last().unwrap();
            last.join("; ")
        }

        fn step(&mut self, step: &str) -> Vec<String> {
            let words: Vec<&str> = step.split_whitespace().collect();
            let (verb, object) = (words[0], words.get(1).copied().unwrap_or_default());
            let rest = words.get(2..).unwrap_or_default();
            let effects = match verb {
                "start" => {
                    let start = Start {
                        reference: object.into(),
                        annotations: annotations(rest),
                        amount: rest
                            .first()
                            .filter(|text| text.starts_with(['=', '+', '>']))
                            .map_or(Amount::Exactly(1), |text| amount(text)),
                        issuer_change: IssuerChange::Refused,
                    };
                    self.plan.begin(Job::Start(start), self.now, self.room)
                }
                "replace" => {
                    let actor_id = (rest.first() == Some(&"of")).then(|| id(rest[1]).to_string());
                    let replace = Replace {
                        actor_id,
                        reference: object.into(),
                        annotations: annotations(rest),
                        issuer_change: IssuerChange::Refused,
                    };
                    let reply = self.reply();
                    self.plan.begin(Job::Replace(replace, reply), self.now, self.room)
                }
                "stop" => {
                    let actor =
                        if object.contains(':') { object.into() } else { id(object).to_string() };
                    let count = rest.first().and_then(|count| count.parse().ok());
                    let reply = self.reply();
                    let stop = Stop { actor, annotations: annotations(rest), count };
                    let key = stop.actor.clone();
                    self.plan.stop(stop, reply, |reference| {
                        self.known.get(reference).is_some_and(|id| id.as_str() == key)
                    })
                }
                "loaded" if rest[0] == "failed" => {
                    self.plan.loaded(object, Err(LoadError::of_unknown("gone")), self.room)
                }
                "loaded" => self.plan.loaded(object, Ok(module(rest[0])), self.room),
                "subscribed" | "unsubscribed" => {
                    let id = id(object);
                    let (start, module) = self.subscribing.remove(&id).unwrap();
                    let started = match verb {
                        "subscribed" => self.plan.started(&start, &module, self.room),
                        _ => Err(StartError::Subscribe("no answer".into())),
                    };
                    let mut effects = started.unwrap_or_else(|error| {
                        vec![Effect::StartFailed { start, actor_id: Some(id.clone()), error }]
                    });
                    effects.extend(self.plan.release(&id, self.room));
                    effects
                }
                "lost" => self.plan.lost(&id(object)),
                "known" => {
                    self.known.insert(object.into(), id(rest[0]));
                    Vec::new()
                }
                "room" => {
                    self.room = object.parse().unwrap();
                    Vec::new()
                }
                "now" => {
                    self.now = object.parse().unwrap();
                    Vec::new()
                }
                _ => panic!("no step: {step}"),
            };
            let sound = |running: &Running<_>| {
                !running.groups.is_empty() && running.groups.iter().all(|g| g.max > 0)
            };
            assert!(self.plan.running.values().all(sound), "{step}");
            effects.into_iter().map(|effect| self.words(effect)).collect()
        }

        fn reply(&mut self) -> u32 {
            self.replies += 1;
            self.replies
        }

        fn words(&mut self, effect: Effect<TestModule, u32>) -> String {
            match effect {
                Effect::Load { reference, .. } => format!("load {reference}"),
                Effect::AskPermission { reference, module, .. } => {
                    format!("ask {reference} {}", version(&module))
                }
                Effect::Subscribe { start, module } => {
                    let words = format!("subscribe {}", version(&module));
                    assert!(
                        self.subscribing
                            .insert(module.0.subject.clone(), (start, module))
                            .is_none()
                    );
                    words
                }
                Effect::Announce(change) => format!("announce {}", changes(&[change])),
                Effect::Scale { id, limits, changes: list, reply } => {
                    format!(
                        "scale {} {} [{}]{}",
                        letter(&id),
                        words_of(limits),
                        changes(&list),
                        ok(reply)
                    )
                }
                Effect::Leave { id, changes: list, reply } => {
                    format!("leave {} [{}]{}", letter(&id), changes(&list), ok(reply))
                }
                Effect::Update(update, reply) => format!(
                    "update {} {} > {} {} {}{}",
                    update.old_reference,
                    version(&update.old_module),
                    update.reference,
                    version(&update.module),
                    words_of(update.limits),
                    ok(Some(reply))
                ),
                Effect::StartFailed { start, actor_id, error } => {
                    format!(
                        "no start {} {}: {}",
                        start.reference,
                        actor_id.as_ref().map_or("-", letter),
                        kind(&error)
                    )
                }
                Effect::ReplaceFailed { reply, error, running, .. } => {
                    let runs = running
                        .map_or(String::new(), |version| format!(" (runs {})", version.revision));
                    format!("no update #{reply}: {}{runs}", kind(&error))
                }
                Effect::StopFailed { reply, error } => {
                    format!("no stop #{reply}: {}", kind(&error))
                }
            }
        }
    }

    fn version(module: &TestModule) -> String {
        format!("{}@{}", letter(&module.0.subject), module.0.effective_revision())
    }

    fn changes(changes: &[Change<TestModule>]) -> String {
        let words = changes.iter().map(|change| {
            let pairs: Vec<_> =
                change.annotations.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let pairs = pairs.join(",").replace(REUSE_ANNOTATION, "reuse");
            format!("{}{{{pairs}}} {}>{}", change.reference, change.before, change.after)
        });
        words.collect::<Vec<_>>().join(", ")
    }

    fn words_of(limits: Limits) -> String {
        let reuse = limits.reuse.map(|reuse| format!(" reuse={reuse}")).unwrap_or_default();
        format!("calls={}{reuse}", limits.calls)
    }

    fn ok(reply: Option<u32>) -> String {
        reply.map(|reply| format!(" ok#{reply}")).unwrap_or_default()
    }

    /// Returns the name of an error's variant.
    fn kind(error: &impl std::fmt::Debug) -> String {
        format!("{error:?}").chars().take_while(char::is_ascii_alphanumeric).collect()
    }

    /// Plays scripts, `RUN` in them standing for two calls of A at a time; compares the effects of
    /// the last step of each.
    fn check(growth: Growth, cases: &[(&str, &str, &str)]) {
        for (promise, script, expected) in cases {
            let script = script.replace("RUN", "start a:1 =2; loaded a:1 A@1x50; subscribed A");
            assert_eq!(Scene::new(growth).play(&script), *expected, "{promise}: {script}");
        }
    }

    #[test]
    fn starts_become_groups_in_the_order_they_were_given() {
        check(
            Growth::Free,
            &[
                ("an unknown module is loaded", "start a:1", "load a:1"),
                ("it is loaded once", "start a:1; start a:1 +1", ""),
                ("two modules are loaded at a time", "start a:1; start b:1", "load b:1"),
                ("a loaded module is subscribed for", "start a:1; loaded a:1 A@1", "subscribe A@1"),
                ("a subscribed actor runs", "RUN", "scale A calls=2 [a:1{} 0>2]"),
                (
                    "starts wait for the load and the subscription",
                    "start a:1 =2; start a:1 +1; loaded a:1 A@1; start a:1 +4; loaded a:1 A@1; subscribed A",
                    "scale A calls=2 [a:1{} 0>2]; scale A calls=3 [a:1{} 2>3]; scale A calls=7 [a:1{} 3>7]",
                ),
                (
                    "none of what does not run is only told",
                    "start a:1 =0; loaded a:1 A@1",
                    "announce a:1{} 0>0",
                ),
                ("none more is as well", "start a:1 +0; loaded a:1 A@1", "announce a:1{} 0>0"),
                ("at least none is as well", "start a:1 >=0; loaded a:1 A@1", "announce a:1{} 0>0"),
                (
                    "a running module is not loaded",
                    "RUN; start a:1 =5",
                    "scale A calls=5 [a:1{} 2>5]",
                ),
                ("fewer are fewer", "RUN; start a:1 =1", "scale A calls=1 [a:1{} 2>1]"),
                (
                    "none of the only group ends the actor",
                    "RUN; start a:1 =0",
                    "leave A [a:1{} 2>0]",
                ),
                ("more are added", "RUN; start a:1 +3", "scale A calls=5 [a:1{} 2>5]"),
                (
                    "at least fewer changes nothing, and is told",
                    "RUN; start a:1 >=1",
                    "scale A calls=2 [a:1{} 2>2]",
                ),
                ("at least more is more", "RUN; start a:1 >=4", "scale A calls=4 [a:1{} 2>4]"),
                (
                    "unbounded is not exceeded",
                    "RUN; start a:1 =4294967295; start a:1 +1",
                    "scale A calls=4294967295 [a:1{} 4294967295>4294967295]",
                ),
                (
                    "other annotations are another group",
                    "RUN; start a:1 =3 t=x",
                    "scale A calls=5 [a:1{t=x} 0>3]",
                ),
                (
                    "each group is scaled by itself",
                    "RUN; start a:1 =3 t=x; start a:1 +1 t=x",
                    "scale A calls=6 [a:1{t=x} 3>4]",
                ),
                (
                    "an unbounded group makes the actor so",
                    "RUN; start a:1 =4294967295 t=x",
                    "scale A calls=4294967295 [a:1{t=x} 0>4294967295]",
                ),
                (
                    "none of an unknown group is no group",
                    "RUN; start a:1 =0 t=x",
                    "scale A calls=2 [a:1{t=x} 0>0]",
                ),
                (
                    "none of one group leaves the other",
                    "RUN; start a:1 =3 t=x; start a:1 =0",
                    "scale A calls=3 [a:1{} 2>0]",
                ),
                (
                    "reuse is read",
                    "RUN; start a:1 =1 reuse=7",
                    "scale A calls=3 reuse=7 [a:1{reuse=7} 0>1]",
                ),
                (
                    "the most of all groups counts",
                    "RUN; start a:1 =1 reuse=7; start a:1 =1 reuse=5",
                    "scale A calls=4 reuse=7 [a:1{reuse=5} 0>1]",
                ),
                (
                    "a started actor can be stopped and started again",
                    "RUN; start a:1 =0; start a:1",
                    "load a:1",
                ),
            ],
        );
    }

    #[test]
    fn a_start_that_cannot_be_is_refused_and_the_others_go_on() {
        check(
            Growth::Free,
            &[
                ("reuse is a number", "RUN; start a:1 =1 reuse=many", "no start a:1 A: Reuse"),
                (
                    "reuse is above zero",
                    "start a:1 =1 reuse=0; loaded a:1 A@1",
                    "no start a:1 A: Reuse",
                ),
                (
                    "an actor has one module",
                    "RUN; start a:2; loaded a:2 A@2",
                    "no start a:2 A: OtherReference",
                ),
                (
                    "a full host takes no actor",
                    "start a:1; loaded a:1 A@1; room 0; subscribed A",
                    "no start a:1 A: Full",
                ),
                (
                    "a full host takes no group",
                    "RUN; room 0; start a:1 =1 t=x",
                    "no start a:1 A: Full",
                ),
                (
                    "a group grows on a full host",
                    "RUN; room 0; start a:1 =9",
                    "scale A calls=9 [a:1{} 2>9]",
                ),
                (
                    "none fit everywhere",
                    "RUN; room 0; start a:1 =0 t=x",
                    "scale A calls=2 [a:1{t=x} 0>0]",
                ),
                (
                    "a module that does not load fails every start",
                    "start a:1; start a:1 +1; loaded a:1 failed",
                    "no start a:1 -: Load; no start a:1 -: Load",
                ),
                (
                    "after that it is loaded again",
                    "start a:1; loaded a:1 failed; start a:1",
                    "load a:1",
                ),
                (
                    "a failed subscription fails one start, and the next subscribes again",
                    "start a:1; start a:1 +2; loaded a:1 A@1; unsubscribed A",
                    "no start a:1 A: Subscribe; subscribe A@1",
                ),
                (
                    "the next start is not lost",
                    "start a:1; start a:1 +2; loaded a:1 A@1; unsubscribed A; subscribed A",
                    "scale A calls=2 [a:1{} 0>2]",
                ),
                (
                    "expired claims are looked at before more of it starts",
                    "RUN; now 51; start a:1 =3",
                    "ask a:1 A@1",
                ),
                ("less of it is fine", "RUN; now 51; start a:1 =1", "scale A calls=1 [a:1{} 2>1]"),
                (
                    "starts wait for the permission",
                    "RUN; now 51; start a:1 =3; start a:1 =1; loaded a:1 A@1",
                    "scale A calls=3 [a:1{} 2>3]; scale A calls=1 [a:1{} 3>1]",
                ),
            ],
        );
        check(
            Growth::AsksPolicy,
            &[
                ("a policy is asked about more", "RUN; start a:1 =3", "ask a:1 A@1"),
                ("about one more", "RUN; start a:1 +1", "ask a:1 A@1"),
                ("about another group", "RUN; start a:1 =1 t=x", "ask a:1 A@1"),
                ("not about less", "RUN; start a:1 =1", "scale A calls=1 [a:1{} 2>1]"),
                ("not about as many", "RUN; start a:1 >=2", "scale A calls=2 [a:1{} 2>2]"),
                (
                    "more starts when it agrees",
                    "RUN; start a:1 =3; loaded a:1 A@1",
                    "scale A calls=3 [a:1{} 2>3]",
                ),
                (
                    "nothing changes when it does not",
                    "RUN; start a:1 =3; loaded a:1 failed",
                    "no start a:1 -: Load",
                ),
            ],
        );
    }

    #[test]
    fn stops_take_what_they_select_and_overtake_no_start() {
        check(
            Growth::Free,
            &[
                ("an actor stops by its key", "RUN; stop A", "leave A [a:1{} 2>0] ok#1"),
                ("or by its reference", "RUN; stop a:1", "leave A [a:1{} 2>0] ok#1"),
                ("a part of it stops", "RUN; stop A 1", "scale A calls=1 [a:1{} 2>1] ok#1"),
                ("no more stop than run", "RUN; stop A 9", "leave A [a:1{} 2>0] ok#1"),
                ("none stop", "RUN; stop A 0", "scale A calls=2 [] ok#1"),
                (
                    "a count goes through the groups",
                    "RUN; start a:1 =3 t=x; stop A 4",
                    "scale A calls=1 [a:1{} 2>0, a:1{t=x} 3>1] ok#1",
                ),
                (
                    "annotations select",
                    "RUN; start a:1 =3 t=x; stop A all t=x",
                    "scale A calls=2 [a:1{t=x} 3>0] ok#1",
                ),
                (
                    "they select by what is there",
                    "RUN; start a:1 =3 t=x u=y; stop A 1 t=x",
                    "scale A calls=4 [a:1{t=x,u=y} 3>2] ok#1",
                ),
                ("some select nothing", "RUN; stop A all t=x", "no stop #1: NoSuchAnnotations"),
                ("what does not run does not stop", "RUN; stop B", "no stop #1: NotRunning"),
                (
                    "what stopped does not stop again",
                    "RUN; stop A; stop A",
                    "no stop #2: NotRunning",
                ),
                ("a stop waits for the load", "start a:1 =2; stop a:1", ""),
                (
                    "and for the subscription",
                    "start a:1 =2; stop a:1; loaded a:1 A@1; subscribed A",
                    "scale A calls=2 [a:1{} 0>2]; leave A [a:1{} 2>0] ok#1",
                ),
                (
                    "a stop by key waits for a reference that is known",
                    "known a:1 A; start a:1; stop A",
                    "",
                ),
                ("and for no other", "known a:1 B; start a:1; stop A", "no stop #1: NotRunning"),
                (
                    "a stop by key waits for the subscription",
                    "start a:1 =2; loaded a:1 A@1; stop A; subscribed A",
                    "scale A calls=2 [a:1{} 0>2]; leave A [a:1{} 2>0] ok#1",
                ),
                (
                    "a module that does not load cannot be stopped",
                    "start a:1; stop a:1; loaded a:1 failed",
                    "no start a:1 -: Load; no stop #1: NotRunning",
                ),
                (
                    "a stop does not overtake the start that subscribes again",
                    "start a:1; start a:1 +2; loaded a:1 A@1; stop A; unsubscribed A; subscribed A",
                    "scale A calls=2 [a:1{} 0>2]; leave A [a:1{} 2>0] ok#1",
                ),
                (
                    "a lost subscription ends the actor",
                    "RUN; start a:1 =3 t=x; lost A",
                    "leave A [a:1{} 2>0, a:1{t=x} 3>0]",
                ),
                ("an actor that is gone is not lost", "RUN; stop A; lost A", ""),
            ],
        );
    }

    #[test]
    fn updates_exchange_the_module_of_a_whole_actor() {
        check(
            Growth::Free,
            &[
                ("an update loads its module", "RUN; replace a:2", "load a:2"),
                (
                    "a newer module runs",
                    "RUN; replace a:2; loaded a:2 A@2",
                    "update a:1 A@1 > a:2 A@2 calls=2 ok#1",
                ),
                ("the same is loaded as well", "RUN; replace a:1", "load a:1"),
                (
                    "the same revision is refused",
                    "RUN; replace a:2; loaded a:2 A@1",
                    "no update #1: NotNewer",
                ),
                (
                    "the running revision is named",
                    "RUN; replace a:2 of A; loaded a:2 A@1",
                    "no update #1: NotNewer (runs 1)",
                ),
                (
                    "another actor is refused",
                    "RUN; replace a:2 of B; loaded a:2 A@2",
                    "no update #1: OtherActor",
                ),
                (
                    "only what runs is updated",
                    "replace a:2; loaded a:2 A@2",
                    "no update #1: NotRunning",
                ),
                (
                    "a part is not updated",
                    "RUN; start a:1 =1 t=x; replace a:2 t=x; loaded a:2 A@2",
                    "no update #1: PartOfActor",
                ),
                (
                    "unknown annotations select nothing",
                    "RUN; replace a:2 t=x; loaded a:2 A@2",
                    "no update #1: NoSuchAnnotations",
                ),
                (
                    "annotations may select all",
                    "start a:1 =2 t=x; loaded a:1 A@1; subscribed A; replace a:2 t=x; loaded a:2 A@2",
                    "update a:1 A@1 > a:2 A@2 calls=2 ok#1",
                ),
                (
                    "a module that does not load updates nothing",
                    "RUN; replace a:2; loaded a:2 failed",
                    "no update #1: Load",
                ),
                (
                    "the new reference runs here",
                    "RUN; replace a:2; loaded a:2 A@2; start a:2 =3",
                    "scale A calls=3 [a:2{} 2>3]",
                ),
                (
                    "the old reference does not",
                    "RUN; replace a:2; loaded a:2 A@2; start a:1 =3; loaded a:1 A@1",
                    "no start a:1 A: OtherReference",
                ),
                (
                    "an update waits for the subscription",
                    "start a:1; loaded a:1 A@1; replace a:2; loaded a:2 A@2; subscribed A",
                    "scale A calls=1 [a:1{} 0>1]; update a:1 A@1 > a:2 A@2 calls=1 ok#1",
                ),
            ],
        );
    }

    #[test]
    fn only_so_many_commands_wait() {
        let mut scene = Scene::new(Growth::Free);
        for number in 0..JOBS_MAX {
            assert_eq!(scene.play(&format!("start a:{number}")), format!("load a:{number}"));
        }
        assert_eq!(scene.play("start b:1"), "no start b:1 -: Load");
        assert_eq!(scene.play("replace b:1"), "no update #1: Load");
        assert_eq!(scene.play("loaded a:0 failed; start b:1"), "load b:1");
    }

    #[test]
    fn a_host_that_stops_ends_every_group_and_gives_up_what_waits() {
        let mut scene = Scene::new(Growth::Free);
        scene.play("start a:1 =2; loaded a:1 A@1; subscribed A; start a:1 =3 t=x; start b:1; replace b:1; stop b:1");
        assert_eq!(scene.plan.give_up("b:1").len(), 1);
        assert_eq!(changes(&scene.plan.stop_all()), "a:1{} 2>0, a:1{t=x} 3>0");
        assert!(scene.plan.view().is_empty());
    }

    #[test]
    fn readers_see_groups_with_their_ids() {
        let mut scene = Scene::new(Growth::Free);
        scene.play("start a:1 =2; loaded a:1 A@3; subscribed A; start a:1 =1 t=x");
        let view = scene.plan.view();
        let [actor] = &view[..] else { panic!("{view:?}") };
        assert_eq!((&actor.id, &*actor.reference, actor.revision), (&id("A"), "a:1", 3));
        assert_eq!(actor.groups.iter().map(|group| group.max).collect::<Vec<_>>(), [2, 1]);
        assert_ne!(actor.groups[0].instance_id, actor.groups[1].instance_id);
    }

    #[test]
    fn the_reuse_annotation_is_read_or_refused() {
        let with = |text: &str| {
            reuse_of(&Annotations::from([(REUSE_ANNOTATION.to_owned(), text.to_owned())]))
        };
        assert_eq!(reuse_of(&Annotations::new()), Ok(None));
        assert_eq!(with(" 1000 "), Ok(Some(1000)));
        for bad in ["0", "many", "-1", ""] {
            assert_eq!(with(bad), Err(BadReuse(bad.to_owned())));
        }
    }
}

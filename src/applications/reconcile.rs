//! Keeps applications as they are wanted.
//!
//! One task per host, which renews its leases beside all else. Flow: targets, leases, events,
//! neighbours → which applications this host acts for → what runs → [`plan`](crate::plan) →
//! commands to hosts, each as a child task with a deadline, whose outcome comes back → how it
//! stands, published.
//!
//! A host that acts for no application observes nothing. What runs as it should costs no command.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::FutureExt as _;
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{
    attempts::Attempts,
    commands,
    leases::Leases,
    linger::Lingering,
    manager,
    observe::{Observer, Trouble},
    own_links::OwnLinks,
    plan::{self, Command, Input, Observed, Plan},
    report,
    rollouts::{self, Rollouts},
    status::Statuses,
    surroundings::Surroundings,
    taken::Takings,
    targets::{Snapshot, Target, Targets},
    wishes::Wishes,
};
use lattice_base::store::desired::Desired;
use lattice_client::{
    lattice::{Lattice, RequestError},
    origin,
};
use lattice_protocol::{
    applications::{
        api::{Status, StatusType},
        resolved::Application,
    },
    desired::Authority,
    events::{Event, Received},
    history::Origin,
    links::LinkDefinition,
};

/// How often the neighbours are looked at, while there is something to keep.
const TICK: Duration = Duration::from_millis(250);
/// How long events are gathered before it is planned anew.
const GATHER: Duration = Duration::from_millis(10);
/// How long hosts that do not say what they run are waited for before the first plan.
const FIRST_LOOK: Duration = Duration::from_secs(3);
/// How often the calls of a rollout are looked at.
const ROLLOUT_LOOK: Duration = Duration::from_secs(1);
/// How often it is planned without a reason.
const PLAN_AGAIN: Duration = Duration::from_secs(5);
/// How often it is looked whether what is published is still what this host said.
const PUBLISH_AGAIN: Duration = Duration::from_secs(30);
/// Commands that are on their way at a time.
const IN_FLIGHT_MAX: usize = 256;

/// The parts that the reconciler works with.
pub struct Parts {
    pub surroundings: Arc<dyn Surroundings>,
    pub lattice: Lattice,
    pub targets: Targets,
    pub statuses: Statuses,
    pub leases: Leases,
    pub desired: Desired,
    pub authority: Arc<Authority>,
    /// Whether hosts keep applications, or somebody else does.
    pub standing: watch::Receiver<manager::Standing>,
    pub rollouts: Rollouts,
}

/// An application that this host acts for.
struct Kept {
    /// The revision of its lease. With another one, others acted for it in between.
    lease: u64,
    /// When the target was asked for that the attempts belong to.
    at: u64,
    attempts: Attempts,
    own_links: OwnLinks,
    /// How it stands, and when that was published or found to be.
    published: Option<(Status, Instant)>,
    rollout: rollouts::Stored,
    /// When the rollout was looked at, by its calls and by what somebody wants of it.
    looked: Option<Instant>,
    /// Every host gives the new images the share that they are to have, or cannot.
    is_settled: bool,
}

impl Kept {
    fn new(lease: u64, at: u64, own_links: OwnLinks) -> Self {
        Self {
            lease,
            at,
            attempts: Attempts::default(),
            own_links,
            published: None,
            rollout: rollouts::Stored::default(),
            looked: None,
            is_settled: false,
        }
    }

    /// Whether it was published lately that it stands like this. Another host that acted before may
    /// have published something after that.
    fn is_published(&self, status: &Status) -> bool {
        let published = self.published.as_ref();
        published.is_some_and(|(last, at)| last == status && at.elapsed() < PUBLISH_AGAIN)
    }

    /// Whether a new version takes over step by step, and its calls are to be looked at.
    fn is_to_be_judged(&self) -> bool {
        let is_rolling = self.rollout.rollout.as_ref().is_some_and(|rollout| !rollout.is_over());
        is_rolling && self.looked.is_none_or(|looked| looked.elapsed() >= ROLLOUT_LOOK)
    }
}

/// The outcome of a command.
struct Outcome {
    application: String,
    command: Command,
    result: Result<(), String>,
    /// The host has said something to it.
    is_answered: bool,
}

/// The observer of a host that acts.
struct Watching {
    observer: Observer,
    since: Instant,
}

/// Keeps applications, see the module's text.
pub struct Reconciler {
    parts: Arc<Parts>,
    watching: Option<Watching>,
    kept: BTreeMap<String, Kept>,
    in_flight: JoinSet<Outcome>,
    takings: Takings,
    lingering: Lingering,
    /// Something changed since the last plan, which was made at `planned`.
    is_changed: bool,
    planned: Option<Instant>,
    /// Of the snapshot beside it.
    wishes: (Snapshot, Arc<Wishes>),
}

impl Reconciler {
    pub fn new(parts: Parts) -> Self {
        let takings = Takings::new(parts.lattice.clone());
        Self {
            parts: Arc::new(parts),
            takings,
            lingering: Lingering::default(),
            watching: None,
            kept: BTreeMap::new(),
            in_flight: JoinSet::new(),
            is_changed: true,
            planned: None,
            wishes: Default::default(),
        }
    }

    /// Runs until `stop`; then it gives its leases back. The leases are renewed meanwhile, whatever
    /// a step waits for.
    pub async fn run(mut self, stop: CancellationToken) {
        let leases = self.parts.leases.clone();
        tokio::select! {
            () = self.keep(&stop) => {}
            () = leases.run(&stop) => {}
        }
        leases.give_back().await;
    }

    async fn keep(&mut self, stop: &CancellationToken) {
        let mut targets = self.parts.targets.watch();
        let mut standing = self.parts.standing.clone();
        let mut tables = self.parts.surroundings.table_changes();
        let mut reconnects = self.parts.desired.reconnects();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let has_work = !targets.borrow().is_empty();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(ended) = self.in_flight.join_next() => self.on_ended(ended),
                is_new = self.takings.next() => self.is_changed |= is_new,
                received = next_event(&mut self.watching), if self.watching.is_some() => {
                    self.on_event(received);
                    tokio::time::sleep(GATHER).await;
                }
                Ok(()) = targets.changed() => self.is_changed = true,
                Ok(()) = standing.changed() => self.is_changed = true,
                Ok(()) = tables.changed() => self.is_changed = true,
                Ok(()) = reconnects.changed() => self.on_reconnect(),
                () = self.parts.leases.changed() => self.is_changed = true,
                _ = tick.tick(), if has_work => {}
            }
            self.drain();
            let snapshot = targets.borrow_and_update().clone();
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.step(&snapshot) => {}
            }
        }
    }

    /// Takes in what has come already.
    fn drain(&mut self) {
        while let Some(ended) = self.in_flight.try_join_next() {
            self.on_ended(ended);
        }
        while let Some(is_new) = self.takings.next().now_or_never() {
            self.is_changed |= is_new;
        }
        while self.watching.is_some() {
            let Some(received) = next_event(&mut self.watching).now_or_never() else { return };
            self.on_event(received);
        }
    }

    fn on_ended(&mut self, ended: Result<Outcome, JoinError>) {
        match ended {
            Ok(outcome) => self.on_outcome(outcome),
            // Its outcome shows, or is given up in time.
            Err(error) => error!(%error, "the sending of a command panicked; this is a bug"),
        }
    }

    /// Events that tell how commands ended may have been missed.
    fn on_reconnect(&mut self) {
        self.is_changed = true;
        if let Some(watching) = &mut self.watching {
            watching.observer.look_at_all();
        }
    }

    fn on_event(&mut self, received: Option<Received>) {
        self.is_changed = true;
        let now = Instant::now();
        if let Some(Received { source, event: Event::HostStarted { .. }, .. }) = &received {
            self.kept.values_mut().for_each(|kept| kept.attempts.forget_host(source));
        }
        if let Some(Event::LinkdefSetFailed { link, .. }) = received.as_ref().map(|it| &it.event) {
            self.takings.ask_again(link, now);
        }
        let trouble = match (&mut self.watching, received) {
            (Some(watching), Some(received)) => watching.observer.on_event(&received, now),
            // The connection is gone for good; the host is about to end.
            _ => {
                self.watching = None;
                None
            }
        };
        for kept in self.kept.values_mut() {
            match &trouble {
                Some(Trouble::Start { host, image, error }) => {
                    kept.attempts.start_failed(host, image, error, now);
                }
                Some(Trouble::Update { host, key, error }) => {
                    kept.attempts.update_failed(host, key, error, now);
                }
                None => {}
            }
        }
    }

    fn on_outcome(&mut self, outcome: Outcome) {
        let Outcome { application, command, result, is_answered } = outcome;
        self.is_changed = true;
        if let (Some(host), Some(watching)) = (command.host(), &mut self.watching) {
            watching.observer.look_again(host);
        }
        let Some(kept) = self.kept.get_mut(&application) else { return };
        let now = Instant::now();
        match result {
            Ok(()) => kept.attempts.taken_on(&command, now),
            // It is at it, as far as anybody knows, and is told again.
            Err(_) if !is_answered && kept.attempts.is_taken_on(&command) => {}
            Err(error) => {
                debug!(application, error, ?command, "a command failed");
                kept.attempts.failed(&command, &error, now);
            }
        }
    }

    /// Does what is to be done now.
    async fn step(&mut self, snapshot: &Snapshot) {
        let standing = *self.parts.standing.borrow();
        if standing != manager::Standing::Keeping {
            (self.watching, self.kept) = (None, BTreeMap::new());
            if standing != manager::Standing::Unknown {
                self.parts.leases.give_back().await;
            }
            return;
        }
        let Parts { surroundings, leases, .. } = &*self.parts;
        let (now, others) = (Instant::now(), || surroundings.neighbours().live);
        let live = others();
        self.lingering.look(snapshot, &live, now);
        let wanted = self.wanted(snapshot, now);
        let names = wanted.iter().map(|target| target.name.as_str());
        let mine = leases.mine(names, live, others).await;
        self.kept.retain(|name, kept| mine.get(name) == Some(&kept.lease));
        self.is_changed |= mine.keys().any(|name| !self.kept.contains_key(name));
        if mine.is_empty() {
            self.watching = None;
            return;
        }
        if !self.look().await || !self.has_reason() {
            return;
        }
        // First what is known of each from before: it says what is to be looked at.
        let mut ready = Vec::new();
        for target in wanted {
            let Some(lease) = mine.get(&target.name) else { continue };
            match self.prepare(target, *lease).await {
                Ok(()) => ready.push(target),
                Err(error) => {
                    debug!(application = target.name, "it cannot be acted for yet: {error:#}");
                    self.is_changed = true;
                }
            }
        }
        let wishes = self.wishes(snapshot);
        let own_links = self.kept.values().flat_map(|kept| kept.own_links.links());
        let actors = own_links.map(|link| link.actor_id.clone()).collect();
        let Some(Watching { observer, .. }) = &self.watching else { return };
        let Some(mut observed) = observer.observed(&wishes.images, &actors) else { return };
        let ready = self.applications(ready, &wishes);
        let links = stored_links(&ready, &observed);
        self.takings.overlay(links, &mut observed, Instant::now());
        for (target, application) in ready {
            self.act(target, &application, &wishes, &observed).await;
        }
    }

    /// Returns the targets that somebody has to act for, first what is to run.
    fn wanted<'t>(&self, snapshot: &'t Snapshot, now: Instant) -> Vec<&'t Target> {
        let owners = match &self.watching {
            Some(watching) if self.lingering.has_arrival(now) => watching.observer.owners(),
            _ => BTreeSet::new(),
        };
        let is_wanted = |target: &&Target| self.lingering.is_looked_after(target, &owners, now);
        let mut wanted: Vec<&Target> = snapshot.values().filter(is_wanted).collect();
        wanted.sort_by_key(|target| !target.is_deployed());
        wanted
    }

    /// Returns targets with what is to run of each now.
    fn applications<'t>(
        &self,
        targets: Vec<&'t Target>,
        wishes: &Wishes,
    ) -> Vec<(&'t Target, Application)> {
        let applications = targets.into_iter().map(|target| {
            let kept = self.kept.get(&target.name);
            let rollout = kept.and_then(|kept| kept.rollout.rollout.as_ref());
            (target, wishes.application(target, rollout))
        });
        applications.collect()
    }

    /// Returns what the applications of a snapshot ask for.
    fn wishes(&mut self, snapshot: &Snapshot) -> Arc<Wishes> {
        if !Arc::ptr_eq(&self.wishes.0, snapshot) {
            self.wishes = (Arc::clone(snapshot), Arc::new(Wishes::of(snapshot)));
        }
        Arc::clone(&self.wishes.1)
    }

    /// Whether there is a reason to plan: something changed, time made it one, or it was not done
    /// for a while.
    fn has_reason(&mut self) -> bool {
        let now = Instant::now();
        let is_due = self.planned.is_none_or(|planned| {
            let mut kept = self.kept.values();
            now - planned >= PLAN_AGAIN
                || self.takings.is_due(now)
                || kept.any(|kept| kept.is_to_be_judged() || kept.attempts.is_due(planned, now))
        });
        if !(self.is_changed || is_due) {
            return false;
        }
        (self.is_changed, self.planned) = (false, Some(now));
        true
    }

    /// Looks at what runs; whether enough of it is known to plan.
    async fn look(&mut self) -> bool {
        if self.watching.is_none() {
            let Parts { lattice, surroundings, .. } = &*self.parts;
            match Observer::start(lattice.clone(), Arc::clone(surroundings)).await {
                Ok(observer) => {
                    self.watching = Some(Watching { observer, since: Instant::now() });
                }
                Err(error) => debug!("what runs cannot be observed yet: {error:#}"),
            }
        }
        let Some(Watching { observer, since }) = &mut self.watching else { return false };
        self.is_changed |= observer.refresh().await;
        if observer.is_arriving() {
            // One of earlier years is not among the neighbours.
            self.lingering.note_arrival(Instant::now());
            return false;
        }
        // A host that misses others may be the one that is cut off. It is not if the bucket takes
        // its renewal.
        if let Some(missed) = observer.missed()
            && !self.parts.leases.are_confirmed_since(missed).await
        {
            return false;
        }
        observer.is_complete() || since.elapsed() >= FIRST_LOOK
    }

    /// Plans for one application, sends what is missing, and says how it stands.
    async fn act(
        &mut self,
        target: &Target,
        application: &Application,
        wishes: &Wishes,
        observed: &Observed,
    ) {
        let Some(kept) = self.kept.get_mut(&target.name) else { return };
        let now = Instant::now();
        let rollout = kept.rollout.rollout.as_ref();
        kept.attempts.look(observed, now);
        let expected = kept.attempts.expected(observed);
        let plan = plan::plan(Input {
            application,
            others: &wishes.others(&target.name),
            observed,
            expected: &expected,
            own_links: kept.own_links.links(),
            trials: &rollout.map(|one| rollouts::trials(target, one)).unwrap_or_default(),
            refused: &kept.attempts.refused(now),
        });
        let mut trials = plan.commands.iter().filter(|command| command.is_trial());
        kept.is_settled = trials.all(|command| kept.attempts.has_failed(command));
        let links = links_after(kept.own_links.links(), &plan, &expected);
        let Parts { desired, authority, leases, .. } = &*self.parts;
        // The bucket may have given it to another host meanwhile, whose record counts then.
        if !leases.holds(&target.name) {
            return;
        }
        // Written before a link is put, so that none is ever left behind.
        if let Err(error) = kept.own_links.save(desired, authority, &target.name, links).await {
            warn!(application = target.name, "its links are not put: {error:#}");
            return;
        }
        // That may have taken a while.
        if !leases.holds(&target.name) {
            return;
        }
        // Others follow when these are done.
        let room = IN_FLIGHT_MAX.saturating_sub(self.in_flight.len());
        let new = plan.commands.iter().filter(|command| kept.attempts.may_send(command, now));
        let mut commands: Vec<Command> = new.take(room).cloned().collect();
        for command in &commands {
            kept.attempts.sent(command, observed, now);
        }
        // After these, which may take the place of one that its host would be told again; and of
        // what was undeployed nothing is to come about any more.
        if target.is_deployed() {
            commands.extend(kept.attempts.again(room - commands.len(), now));
        }
        for command in commands {
            info!(application = target.name, %command, "to keep what was asked for");
            let parts = Arc::clone(&self.parts);
            self.in_flight.spawn(carry_out(parts, target.name.clone(), command));
        }
        self.publish(target, &plan).await;
    }

    /// Reads what is known of an application from before, and goes on with its rollout.
    async fn prepare(&mut self, target: &Target, lease: u64) -> anyhow::Result<()> {
        let Parts { desired, authority, .. } = &*self.parts;
        match self.kept.get_mut(&target.name) {
            None => {
                let own_links = OwnLinks::load(desired, authority, &target.name).await?;
                self.kept.insert(target.name.clone(), Kept::new(lease, target.at, own_links));
            }
            Some(kept) if kept.at != target.at => {
                // Somebody asked anew, so everything may be tried at once.
                let (mut attempts, own_links) =
                    (std::mem::take(&mut kept.attempts), std::mem::take(&mut kept.own_links));
                attempts.begin_anew();
                *kept = Kept { attempts, ..Kept::new(lease, target.at, own_links) };
            }
            Some(_) => {}
        }
        self.roll_on(target).await
    }

    /// Goes on with the rollout of a target, if it has one: reads what somebody wants of it, and
    /// judges the calls since the last step.
    async fn roll_on(&mut self, target: &Target) -> anyhow::Result<()> {
        let Some(first) = rollouts::begin(target) else { return Ok(()) };
        let (Some(kept), Some(watching)) = (self.kept.get_mut(&target.name), &mut self.watching)
        else {
            return Ok(());
        };
        let is_begun = kept.rollout.rollout.is_some();
        if is_begun && !kept.is_to_be_judged() {
            return Ok(());
        }
        let Parts { rollouts, surroundings, .. } = &*self.parts;
        kept.rollout = rollouts.of(target).await?;
        kept.looked = Some(Instant::now());
        let Some(rollout) = kept.rollout.rollout.clone() else {
            info!(application = target.name, from = first.from, to = first.to, "a rollout begins");
            surroundings.tell(rollouts.save(target, &mut kept.rollout, first).await?);
            return Ok(());
        };
        watching.observer.look_at_trials();
        if !kept.is_settled {
            // The calls are of the step before.
            return Ok(());
        }
        let trials = rollouts::trials(target, &rollout);
        let compared = watching.observer.compared(&trials);
        let mut unseen = trials.iter().filter(|trial| !compared.contains_key(&trial.image));
        let verdict = match unseen.find_map(|trial| kept.attempts.trial_error(&trial.image)) {
            Some(error) => rollouts::nobody_runs_it(error),
            None => rollouts::verdict(target, &compared),
        };
        if let Some(mut next) = rollouts::advanced(target, &rollout, verdict) {
            next.judged = Some(rollouts::judged_by(target, &compared));
            info!(application = target.name, step = next.step, state = ?next.state, "the rollout goes on");
            surroundings.tell(rollouts.save(target, &mut kept.rollout, next).await?);
            kept.is_settled = false;
        }
        Ok(())
    }

    async fn publish(&mut self, target: &Target, plan: &Plan) {
        let (Some(kept), Some(watching)) = (self.kept.get_mut(&target.name), &self.watching) else {
            return;
        };
        let rollout = kept.rollout.rollout.as_ref().map(|rollout| {
            let compared = watching.observer.compared(&rollouts::trials(target, rollout));
            rollouts::status(target, rollout, &compared)
        });
        let mut status = report::status_of(target, plan, rollout);
        for scaler in status.scalers.iter_mut().filter(|one| one.status.kind == StatusType::Failed)
        {
            scaler.next_at = kept.attempts.next_attempt(&scaler.id);
        }
        if kept.is_published(&status) {
            return;
        }
        match self.parts.statuses.publish(&target.name, status.clone()).await {
            Ok(_) => kept.published = Some((status, Instant::now())),
            Err(error) => debug!(application = target.name, %error, "the status is not published"),
        }
    }
}

/// Returns the links of applications that are stored as they are to be now.
fn stored_links(
    applications: &[(&Target, Application)],
    observed: &Observed,
) -> Vec<LinkDefinition> {
    let there: HashSet<&LinkDefinition> = observed.links.iter().collect();
    let links = applications
        .iter()
        .flat_map(|(_, application)| plan::stored_links(application, observed, &there));
    links.collect()
}

/// Returns the record of an application's links after a plan: what is about to be put is in it
/// before it is, and what is gone and asked for no more is not.
fn links_after(own: &[LinkDefinition], plan: &Plan, expected: &Observed) -> Vec<LinkDefinition> {
    let there: HashSet<String> = expected.links.iter().map(LinkDefinition::id).collect();
    let new: BTreeMap<String, LinkDefinition> = plan
        .commands
        .iter()
        .filter_map(|command| match command {
            Command::PutLink(link) => Some(LinkDefinition::from(link.clone())),
            _ => None,
        })
        .map(|link| (link.id(), link))
        .collect();
    let stays = own.iter().filter(|link| {
        let id = link.id();
        there.contains(&id) && !new.contains_key(&id)
    });
    stays.cloned().chain(new.values().cloned()).collect()
}

async fn next_event(watching: &mut Option<Watching>) -> Option<Received> {
    match watching {
        Some(watching) => watching.observer.next_event().await,
        None => std::future::pending().await,
    }
}

/// Gives a command to its host. Ends within the time of a request.
async fn carry_out(parts: Arc<Parts>, application: String, command: Command) -> Outcome {
    let origin = Origin {
        kind: "application".to_owned(),
        who: application.clone(),
        from: parts.surroundings.host_id().to_owned(),
        ..Origin::default()
    };
    let sent = origin::scope(origin, commands::send(&parts.lattice, command.clone())).await;
    let is_answered = sent.as_ref().err().is_none_or(|error| {
        let request = error.downcast_ref::<RequestError>();
        request.is_none_or(|error| matches!(error, RequestError::Refused { .. }))
    });
    let result = sent.map_err(|error| format!("{error:#}"));
    Outcome { application, command, result, is_answered }
}

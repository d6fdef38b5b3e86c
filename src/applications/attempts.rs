//! The commands that were sent and have not shown yet, and those that failed lately.
//!
//! A command is sent once: until its outcome is seen, the planner plans as if it had happened. A
//! failure keeps the same thing from being tried again for a while, and each next one for longer.
//!
//! A command that no host has taken on is soon given up and sent again. One that was taken on may
//! take as long as its image needs to come; that it failed is told by an event. Its host may have
//! lost it, and the event may have been missed, so the same host is told the same again now and
//! then: one that is at it goes on with it.

#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::plan::{ActorGroup, Command, HostView, Observed, ProviderRun, Refused, TrialSeen};
use lattice_base::backoff;
use lattice_protocol::{clock, links::LinkDefinition};

/// How long an actor may take to stop, and a command about one to be taken on.
const ACTOR_PATIENCE: Duration = Duration::from_secs(30);
/// The same of a provider.
const PROVIDER_PATIENCE: Duration = Duration::from_secs(60);
/// How long a start or a live update may take that a host has taken on, with the loading of the
/// image: as long as a host waits for a start that it keeps itself.
const LOAD_PATIENCE: Duration = Duration::from_secs(600);
/// How long a link may take to show up in the table.
const LINK_PATIENCE: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long a failure is known after its pause: nobody asks for it any more then.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(120);

/// The attempts of one application.
#[derive(Debug, Default)]
pub struct Attempts {
    pending: Vec<Pending>,
    failures: BTreeMap<About, Failure>,
}

#[derive(Debug)]
struct Pending {
    command: Command,
    /// When it counts as failed.
    until: Instant,
    /// When its host is told again, if it has taken it on.
    again: Instant,
    /// Its host may have to load an image for it.
    may_load: bool,
    is_taken_on: bool,
}

#[derive(Debug)]
struct Failure {
    count: u32,
    not_before: Instant,
    /// The same for people, in Unix milliseconds.
    next_at: u64,
    error: String,
}

/// The thing that an attempt is about; a failure keeps the next attempt at the same thing back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    /// A start of something of a scaler on a host, whatever the number.
    Start { scaler: String, host: String },
    /// A live update of an actor of a scaler on a host.
    Update { scaler: String, host: String },
    /// Just this.
    Same(Command),
}

impl About {
    fn of(command: &Command) -> Self {
        match command {
            Command::Scale { scaler, host, count, .. } if *count > 0 => {
                Self::Start { scaler: scaler.clone(), host: host.clone() }
            }
            Command::StartProvider { scaler, host, .. } => {
                Self::Start { scaler: scaler.clone(), host: host.clone() }
            }
            Command::Update { scaler, host, share: None, .. } => {
                Self::Update { scaler: scaler.clone(), host: host.clone() }
            }
            other => Self::Same(other.clone()),
        }
    }

    /// Whether it has happened since, or cannot happen any more.
    fn is_over(&self, seen: &Observed) -> bool {
        match self {
            Self::Start { scaler, host } | Self::Update { scaler, host } => {
                runs(scaler, host, seen)
            }
            Self::Same(command) => shows(command, seen),
        }
    }
}

impl Attempts {
    /// Notes that a command was sent, while this was seen. Of what was sent about the same thing
    /// before nothing more is awaited: a host carries out in order.
    pub fn sent(&mut self, command: &Command, seen: &Observed, now: Instant) {
        self.pending.retain(|pending| !overrules(command, &pending.command));
        let until = now + patience(command);
        self.pending.push(Pending {
            command: command.clone(),
            until,
            again: until,
            may_load: may_load(command, seen),
            is_taken_on: false,
        });
    }

    /// Notes that its host has taken a command on, or is at it already.
    pub fn taken_on(&mut self, command: &Command, now: Instant) {
        let first = |pending: &&mut Pending| {
            pending.command == *command && pending.may_load && !pending.is_taken_on
        };
        for pending in self.pending.iter_mut().filter(first) {
            (pending.until, pending.is_taken_on) = (now + LOAD_PATIENCE, true);
        }
    }

    /// Whether the host of a command has taken it on.
    pub fn is_taken_on(&self, command: &Command) -> bool {
        self.pending.iter().any(|pending| pending.command == *command && pending.is_taken_on)
    }

    /// Returns up to so many commands that their hosts are to be told again. Nothing comes of it
    /// twice: an actor is scaled to a number, in the order of commands, and a provider that is
    /// being started is not started again.
    pub fn again(&mut self, at_most: usize, now: Instant) -> Vec<Command> {
        let due = self.pending.iter_mut().filter(|one| one.is_taken_on && one.again <= now);
        let again = due.take(at_most).map(|pending| {
            pending.again = now + patience(&pending.command);
            pending.command.clone()
        });
        again.collect()
    }

    /// Forgets what a host was to do: it began anew, and knows nothing of it.
    pub fn forget_host(&mut self, host: &str) {
        self.pending.retain(|pending| pending.command.host() != Some(host));
    }

    /// Forgets what failed, so that everything may be tried at once. What is on its way stays: a
    /// host refuses to do it twice.
    pub fn begin_anew(&mut self) {
        self.failures.clear();
    }

    /// Notes that a command was refused, or what it started failed.
    pub fn failed(&mut self, command: &Command, error: &str, now: Instant) {
        if is_begun(command, error, self.is_taken_on(command)) {
            return self.taken_on(command, now);
        }
        self.pending.retain(|pending| pending.command != *command);
        let failure = self.failures.entry(About::of(command)).or_insert(Failure {
            count: 0,
            not_before: now,
            next_at: 0,
            error: String::new(),
        });
        failure.count = failure.count.saturating_add(1);
        let pause = backoff::after(failure.count, PAUSE_MIN, PAUSE_MAX);
        failure.not_before = now + pause;
        failure.next_at = clock::now_ms() + clock::millis(pause);
        failure.error = error.to_owned();
    }

    /// Notes a start that failed on a host, by what it was to start.
    pub fn start_failed(&mut self, host: &str, image: &str, error: &str, now: Instant) {
        self.all_failed(|command| is_start_of(command, host, image), error, now);
    }

    /// Notes a live update that failed on a host, by the actor.
    pub fn update_failed(&mut self, host: &str, key: &str, error: &str, now: Instant) {
        self.all_failed(|command| is_update_of(command, host, key), error, now);
    }

    fn all_failed(&mut self, which: impl Fn(&Command) -> bool, error: &str, now: Instant) {
        let pending = self.pending.iter().map(|pending| &pending.command);
        let failed: Vec<Command> = pending.filter(|command| which(command)).cloned().collect();
        for command in failed {
            self.failed(&command, error, now);
        }
    }

    /// Returns what is not to be tried at this moment, and why.
    pub fn refused(&self, now: Instant) -> Refused {
        let mut refused = Refused::default();
        for (about, failure) in &self.failures {
            let (at, waiting) = match about {
                About::Start { scaler, host } => ((scaler, host), &mut refused.starts),
                About::Update { scaler, host } => ((scaler, host), &mut refused.updates),
                About::Same(Command::PutLink(link)) => {
                    refused.links.insert(link.clone(), failure.error.clone());
                    continue;
                }
                About::Same(_) => continue,
            };
            let at = (at.0.clone(), at.1.clone());
            if failure.not_before > now {
                waiting.insert(at.clone());
            }
            refused.errors.insert(at, failure.error.clone());
        }
        refused
    }

    /// Returns when a scaler that failed on a host is tried again, at the earliest, in Unix
    /// milliseconds.
    pub fn next_attempt(&self, scaler: &str) -> Option<u64> {
        let of_scaler = self.failures.iter().filter(|(about, _)| match about {
            About::Start { scaler: of, .. } | About::Update { scaler: of, .. } => of == scaler,
            About::Same(_) => false,
        });
        of_scaler.map(|(_, failure)| failure.next_at).min()
    }

    /// Returns the last error of a host that was to run this newer image beside the one before.
    pub fn trial_error(&self, image: &str) -> Option<&str> {
        let mut trials = self.failures.iter().filter(|(about, _)| match about {
            About::Same(Command::Update { share, image: of, .. }) => {
                share.is_some_and(|share| share > 0) && of == image
            }
            _ => false,
        });
        trials.next().map(|(_, failure)| failure.error.as_str())
    }

    /// Whether a command of a plan is to be sent now: it is neither under way nor failed just now.
    pub fn may_send(&self, command: &Command, now: Instant) -> bool {
        let is_pending = self.pending.iter().any(|pending| pending.command == *command);
        let failure = self.failures.get(&About::of(command));
        !is_pending && failure.is_none_or(|failure| failure.not_before <= now)
    }

    /// Whether the last attempt at the same thing failed.
    pub fn has_failed(&self, command: &Command) -> bool {
        self.failures.contains_key(&About::of(command))
    }

    /// Whether time alone is a reason to plan: a patience, or since the last plan a pause, ended.
    pub fn is_due(&self, planned: Instant, now: Instant) -> bool {
        let mut pauses = self.failures.values().map(|failure| failure.not_before);
        self.pending.iter().any(|one| one.until <= now || (one.is_taken_on && one.again <= now))
            || pauses.any(|end| planned < end && end <= now)
    }

    /// Compares with what is seen: forgets what shows, and gives up what took too long.
    pub fn look(&mut self, seen: &Observed, now: Instant) {
        self.pending.retain(|pending| !shows(&pending.command, seen));
        let late: Vec<Pending> =
            self.pending.extract_if(.., |pending| pending.until <= now).collect();
        for Pending { command, .. } in late {
            // There is nowhere else to make an update.
            if !matches!(command, Command::Update { .. }) {
                self.failed(&command, "it was not seen to happen in time", now);
            }
        }
        self.failures.retain(|about, failure| {
            failure.not_before > now
                || (now < failure.not_before + FORGOTTEN_AFTER && !about.is_over(seen))
        });
    }

    /// Lays starts that were sent and do not show yet over what is seen. An ending run is there
    /// until it is seen to be gone: nothing takes its place before.
    pub fn expected<'a>(&self, seen: &'a Observed) -> Cow<'a, Observed> {
        let mut expected = Cow::Borrowed(seen);
        for pending in self.pending.iter().filter(|pending| is_placing(&pending.command)) {
            apply(&pending.command, expected.to_mut());
        }
        expected
    }
}

/// Whether the outcome of a command takes the place of that of an earlier one.
fn overrules(later: &Command, earlier: &Command) -> bool {
    match (later, earlier) {
        (
            Command::Scale { host, annotations, .. },
            Command::Scale { host: at, annotations: of, .. },
        ) => host == at && annotations == of,
        (Command::Update { host, key, .. }, Command::Update { host: at, key: of, .. }) => {
            host == at && key == of
        }
        (Command::PutLink(link), Command::PutLink(other)) => {
            let link = LinkDefinition::from(link.clone());
            link.is_of(&other.actor_id, &other.contract_id, &other.link_name)
        }
        (Command::PutLink(link), Command::DeleteLink { actor_id, contract_id, link_name })
        | (Command::DeleteLink { actor_id, contract_id, link_name }, Command::PutLink(link)) => {
            LinkDefinition::from(link.clone()).is_of(actor_id, contract_id, link_name)
        }
        _ => false,
    }
}

/// Returns how long a command may take that loads nothing, or to be taken on.
fn patience(command: &Command) -> Duration {
    match command {
        Command::Scale { .. } | Command::Update { .. } => ACTOR_PATIENCE,
        Command::StartProvider { .. } | Command::StopProvider { .. } => PROVIDER_PATIENCE,
        Command::PutLink(_) | Command::DeleteLink { .. } => LINK_PATIENCE,
    }
}

/// Whether the host may have to load an image for a command: fewer of an actor need none.
fn may_load(command: &Command, seen: &Observed) -> bool {
    match command {
        Command::Scale { host, annotations, count, .. } => {
            let there = seen.hosts.get(host).map_or(0, |view| count_of(annotations, view));
            u64::from(*count) > there
        }
        Command::Update { .. } | Command::StartProvider { .. } => true,
        _ => false,
    }
}

/// Whether a host refuses a start because it is at it already. To one that is told again, another
/// release says that the image runs; a provider that is in the way is named by its key there.
fn is_begun(command: &Command, error: &str, is_told_again: bool) -> bool {
    let Command::StartProvider { image, .. } = command else { return false };
    error.contains("is being started already")
        || is_told_again && error.contains("already running") && error.contains(image.as_str())
}

/// Returns how many run on a host with these annotations.
fn count_of(annotations: &BTreeMap<String, String>, view: &HostView) -> u64 {
    let groups = view.actors.iter().filter(|group| group.annotations == *annotations);
    groups.map(|group| u64::from(group.count)).sum()
}

fn is_placing(command: &Command) -> bool {
    matches!(command, Command::Scale { .. } | Command::StartProvider { .. } | Command::PutLink(_))
}

fn is_start_of(command: &Command, at: &str, what: &str) -> bool {
    match command {
        Command::Scale { host, image, count, .. } => host == at && image == what && *count > 0,
        Command::Update { host, image, .. } | Command::StartProvider { host, image, .. } => {
            host == at && image == what
        }
        _ => false,
    }
}

fn is_update_of(command: &Command, at: &str, of: &str) -> bool {
    matches!(command, Command::Update { host, key, .. } if host == at && key == of)
}

/// Whether something of a scaler runs on a host, or the host is gone.
fn runs(scaler: &str, host: &str, seen: &Observed) -> bool {
    let Some(view) = seen.hosts.get(host) else { return true };
    let of_scaler =
        |annotations: &BTreeMap<String, String>| annotations.values().any(|value| value == scaler);
    view.actors.iter().any(|group| of_scaler(&group.annotations))
        || view.providers.iter().any(|run| of_scaler(&run.annotations))
}

/// Whether the outcome of a command is seen. Of a host that is gone nothing more is awaited.
fn shows(command: &Command, seen: &Observed) -> bool {
    match command {
        Command::PutLink(link) => seen.links.contains(&LinkDefinition::from(link.clone())),
        Command::DeleteLink { actor_id, contract_id, link_name } => {
            !seen.links.iter().any(|link| link.is_of(actor_id, contract_id, link_name))
        }
        _ => {
            let view = command.host().and_then(|host| seen.hosts.get(host));
            view.is_none_or(|view| shows_on(command, view))
        }
    }
}

fn shows_on(command: &Command, view: &HostView) -> bool {
    match command {
        Command::Scale { annotations, count, .. } => {
            count_of(annotations, view) == u64::from(*count)
        }
        Command::Update { key, image, share: None, .. } => {
            let mut groups = view.actors.iter().filter(|group| group.key == *key);
            groups.all(|group| group.image == *image) && !view.trials.contains_key(key)
        }
        Command::Update { key, image, share: Some(share), .. } => match view.trials.get(key) {
            Some(trial) => trial.image == *image && trial.share == *share,
            None => *share == 0,
        },
        Command::StartProvider { image, link_name, .. } => {
            view.providers.iter().any(|run| run.image == *image && run.link_name == *link_name)
        }
        Command::StopProvider { key, link_name, .. } => {
            !view.providers.iter().any(|run| run.key == *key && run.link_name == *link_name)
        }
        Command::PutLink(_) | Command::DeleteLink { .. } => true,
    }
}

/// Changes what is seen as a command will.
pub fn apply(command: &Command, observed: &mut Observed) {
    match command {
        Command::Scale { host, image, annotations, count, .. } => {
            let key = observed.keys.get(image).cloned();
            let Some(view) = observed.hosts.get_mut(host) else { return };
            let known = view.actors.iter_mut().find(|group| group.annotations == *annotations);
            match known {
                Some(group) => group.count = *count,
                None if *count > 0 => view.actors.push(ActorGroup {
                    key: key.unwrap_or_default(),
                    image: image.clone(),
                    annotations: annotations.clone(),
                    count: *count,
                }),
                None => {}
            }
            view.actors.retain(|group| group.count > 0);
        }
        Command::Update { host, key, image, share, .. } => {
            let Some(view) = observed.hosts.get_mut(host) else { return };
            match *share {
                Some(share) if share > 0 => {
                    let seen = TrialSeen { image: image.clone(), share };
                    view.trials.insert(key.clone(), seen);
                }
                Some(_) => _ = view.trials.remove(key),
                None => {
                    view.trials.remove(key);
                    for group in view.actors.iter_mut().filter(|group| group.key == *key) {
                        group.image.clone_from(image);
                    }
                }
            }
        }
        Command::StopProvider { host, key, link_name, .. } => {
            let Some(view) = observed.hosts.get_mut(host) else { return };
            view.providers.retain(|run| run.key != *key || run.link_name != *link_name);
        }
        Command::StartProvider { host, image, link_name, annotations, .. } => {
            let key = observed.keys.get(image).cloned().unwrap_or_default();
            let Some(view) = observed.hosts.get_mut(host) else { return };
            let is_there =
                view.providers.iter().any(|run| run.image == *image && run.link_name == *link_name);
            if !is_there {
                view.providers.push(ProviderRun {
                    key,
                    image: image.clone(),
                    contract: String::new(),
                    link_name: link_name.clone(),
                    annotations: annotations.clone(),
                });
            }
        }
        Command::PutLink(link) => {
            let link = LinkDefinition::from(link.clone());
            if !observed.links.contains(&link) {
                observed.links.retain(|other| {
                    !other.is_of(&link.actor_id, &link.contract_id, &link.link_name)
                });
                observed.links.push(link);
            }
        }
        Command::DeleteLink { actor_id, contract_id, link_name } => {
            observed.links.retain(|link| !link.is_of(actor_id, contract_id, link_name));
        }
    }
}

//! The commands that were sent and have not shown yet, and those that failed lately.
//!
//! A command is sent once: until its outcome is seen, the planner plans as if it had happened. A
//! failure keeps the same thing from being tried again on the same host for a while, and each next
//! one for longer.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::plan::{ActorGroup, Command, Observed, ProviderRun, Refused, TrialSeen};
use lattice_base::backoff;
use lattice_protocol::links::LinkDefinition;

/// How long an actor may take to start, or to stop.
const ACTOR_PATIENCE: Duration = Duration::from_secs(30);
/// How long a provider may take.
const PROVIDER_PATIENCE: Duration = Duration::from_secs(60);
/// How long a link may take to show up in the table.
const LINK_PATIENCE: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The attempts of one application.
#[derive(Debug, Default)]
pub struct Attempts {
    pending: Vec<Pending>,
    /// By scaler id and host.
    failures: BTreeMap<(String, String), Failure>,
    refused_updates: BTreeMap<(String, String), Instant>,
}

#[derive(Debug)]
struct Pending {
    command: Command,
    until: Instant,
    /// It was refused, and is only not sent again for a moment.
    is_refused: bool,
}

#[derive(Debug)]
struct Failure {
    count: u32,
    not_before: Instant,
    error: String,
}

impl Attempts {
    /// Notes that a command was sent.
    pub fn sent(&mut self, command: &Command, now: Instant) {
        let patience = match command {
            Command::Scale { .. } | Command::Update { .. } => ACTOR_PATIENCE,
            Command::StartProvider { .. } | Command::StopProvider { .. } => PROVIDER_PATIENCE,
            Command::PutLink(_) | Command::DeleteLink { .. } => LINK_PATIENCE,
        };
        let until = now + patience;
        self.pending.push(Pending { command: command.clone(), until, is_refused: false });
    }

    /// Notes that a command was refused, or what it started failed. Nothing of the kind is tried on
    /// that host for a while.
    pub fn failed(&mut self, command: &Command, error: &str, now: Instant) {
        let (scaler, host) = match command {
            Command::Update { scaler, host, .. } => {
                self.pending.retain(|pending| pending.command != *command);
                let until = now + PAUSE_MAX;
                self.refused_updates.insert((scaler.clone(), host.clone()), until);
                return;
            }
            Command::Scale { scaler, host, count, .. } if *count > 0 => (scaler, host),
            Command::StartProvider { scaler, host, .. } => (scaler, host),
            // Stops and links are tried again after a moment.
            _ => {
                let same = self.pending.iter_mut().filter(|pending| pending.command == *command);
                for pending in same {
                    (pending.until, pending.is_refused) = (now + PAUSE_MIN, true);
                }
                return;
            }
        };
        self.pending.retain(|pending| pending.command != *command);
        let failure = self.failures.entry((scaler.clone(), host.clone())).or_insert(Failure {
            count: 0,
            not_before: now,
            error: String::new(),
        });
        failure.count = failure.count.saturating_add(1);
        failure.not_before = now + backoff::after(failure.count, PAUSE_MIN, PAUSE_MAX);
        failure.error = error.to_owned();
    }

    /// Notes a start that failed on a host, by what it was to start.
    pub fn start_failed(&mut self, host: &str, image: &str, error: &str, now: Instant) {
        let failed: Vec<Command> = self
            .pending
            .iter()
            .filter(|pending| is_start_of(&pending.command, host, image))
            .map(|pending| pending.command.clone())
            .collect();
        for command in failed {
            self.failed(&command, error, now);
        }
    }

    /// Notes a live update that failed on a host, by the actor.
    pub fn update_failed(&mut self, host: &str, key: &str, error: &str, now: Instant) {
        let failed: Vec<Command> = self
            .pending
            .iter()
            .map(|pending| &pending.command)
            .filter(|command| {
                matches!(command, Command::Update { host: at, key: of, .. } if at == host && of == key)
            })
            .cloned()
            .collect();
        for command in failed {
            self.failed(&command, error, now);
        }
    }

    /// Returns what is not to be tried at this moment.
    pub fn refused(&self, now: Instant) -> Refused {
        let waiting = self.failures.iter().filter(|(_, failure)| failure.not_before > now);
        let errors = self.failures.iter();
        Refused {
            starts: waiting.map(|(at, _)| at.clone()).collect(),
            errors: errors.map(|(at, failure)| (at.clone(), failure.error.clone())).collect(),
            updates: self
                .refused_updates
                .iter()
                .filter(|(_, until)| **until > now)
                .map(|(at, _)| at.clone())
                .collect(),
        }
    }

    /// Whether something was sent and has not shown yet, or is to be tried again.
    pub fn is_busy(&self) -> bool {
        !self.pending.is_empty() || !self.failures.is_empty() || !self.refused_updates.is_empty()
    }

    /// Whether just this was sent and has not shown yet.
    pub fn is_pending(&self, command: &Command) -> bool {
        self.pending.iter().any(|pending| pending.command == *command)
    }

    /// Lays starts that were sent and do not show yet over what is seen, and forgets what shows.
    /// An ending run is there until it is seen to be gone: nothing takes its place before.
    pub fn expected(&mut self, seen: &Observed, now: Instant) -> Observed {
        let late =
            self.pending.iter().filter(|pending| pending.until <= now && !pending.is_refused);
        let late: Vec<Command> = late.map(|pending| pending.command.clone()).collect();
        for command in late {
            self.failed(&command, "it was not seen to happen in time", now);
        }
        self.pending.retain(|pending| pending.until > now && !shows(&pending.command, seen));
        self.refused_updates.retain(|_, until| *until > now);
        self.failures.retain(|(scaler, host), failure| {
            failure.not_before > now || !runs(scaler, host, seen)
        });
        let mut expected = seen.clone();
        let placing = |pending: &&Pending| !pending.is_refused && is_placing(&pending.command);
        for pending in self.pending.iter().filter(placing) {
            apply(&pending.command, &mut expected);
        }
        expected
    }
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

/// Whether something of a scaler runs on a host.
fn runs(scaler: &str, host: &str, seen: &Observed) -> bool {
    let Some(view) = seen.hosts.get(host) else { return true };
    let of_scaler =
        |annotations: &BTreeMap<String, String>| annotations.values().any(|value| value == scaler);
    view.actors.iter().any(|group| of_scaler(&group.annotations))
        || view.providers.iter().any(|run| of_scaler(&run.annotations))
}

/// Whether the outcome of a command is seen. Of a host that is gone nothing more is awaited.
fn shows(command: &Command, seen: &Observed) -> bool {
    let mut after = seen.clone();
    apply(command, &mut after);
    after == *seen
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

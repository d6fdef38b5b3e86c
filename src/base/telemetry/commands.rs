//! Which command a start that failed came from.
//!
//! An event says what failed and not whose command that was; a command is told when it was
//! answered, which may be before the event or shortly after it. So the one that comes first waits
//! here for the other:
//!
//! ```text
//! command ─▶ waits for its end ──┐
//!                                ├─▶ the failure has a sender and an id
//! event ───▶ waits for a command ┘   for HOLD; after it, it has none
//! ```
//!
//! The end of a start that worked takes its command away as well, so that what fails later, as a
//! restart may, is not laid at its door. Nothing here is written or waits by itself.
//!
//! Always true: a failure is told once; a command is named for one end at most. Memory is bounded
//! by [`COMMANDS_MAX`] and [`ENDS_MAX`].

use std::collections::{BTreeMap, VecDeque};

use lattice_protocol::{
    events::{Event, event::NOT_AVAILABLE},
    history::{Audit, Origin, audit::Outcome, compact},
    identity::keys::LinkName,
};

/// How long an end waits for its command, in milliseconds. A host answers a command before that.
pub(super) const HOLD_MS: u64 = 2500;
/// The age from which a command is no longer named, in milliseconds: no start takes longer.
const COMMAND_MS_MAX: u64 = 3_600_000;
/// Commands that are remembered; those of a large application that is started at once.
const COMMANDS_MAX: usize = 512;
/// Ends that wait for their command.
const ENDS_MAX: usize = 256;

/// The thing that a command starts. A text is empty where nobody says it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Start {
    Actor { id: String, reference: String },
    Update { id: String },
    Provider { reference: String, link_name: String },
}

/// A command that was taken and has not ended yet.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Command {
    pub id: String,
    pub origin: Origin,
    at_ms: u64,
    start: Start,
}

/// A start that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub at_ms: u64,
    pub verb: &'static str,
    pub object: BTreeMap<String, String>,
    pub reason: String,
}

/// A failure that can be told, with its command if that is known.
pub(super) type Told = (Failure, Option<Command>);

/// The end of a start.
#[derive(Debug)]
struct End {
    start: Start,
    at_ms: u64,
    /// None if it worked.
    failure: Option<Failure>,
}

/// The commands that may still fail, and the ends whose commands were not told yet; the oldest
/// first.
#[derive(Debug, Default)]
pub(super) struct Commands {
    taken: VecDeque<Command>,
    ends: VecDeque<End>,
}

impl Commands {
    /// Takes in a command that was answered; returns its failure if that came before.
    pub fn on_command(&mut self, entry: &Audit) -> Option<Told> {
        let start = start_of(entry)?;
        let command = Command {
            id: entry.id.clone(),
            origin: entry.origin.clone(),
            at_ms: entry.at_ms,
            start,
        };
        let is_end_of_it =
            |end: &End| end.at_ms >= command.at_ms && is_meant(&command.start, &end.start);
        if let Some(at) = self.ends.iter().position(is_end_of_it) {
            let end = self.ends.remove(at);
            return end.and_then(|end| end.failure).map(|failure| (failure, Some(command)));
        }
        if entry.outcome != Outcome::Refused {
            if self.taken.len() >= COMMANDS_MAX {
                self.taken.pop_front();
            }
            self.taken.push_back(command);
        }
        None
    }

    /// Takes in an event; returns the failures that can be told now.
    pub fn on_event(&mut self, at_ms: u64, event: &Event) -> Vec<Told> {
        let Some(end) = end_of(at_ms, event) else { return Vec::new() };
        self.taken.retain(|command| at_ms.saturating_sub(command.at_ms) < COMMAND_MS_MAX);
        if let Some(at) = self.taken.iter().position(|taken| is_meant(&taken.start, &end.start)) {
            let command = self.taken.remove(at);
            return end.failure.map(|failure| (failure, command)).into_iter().collect();
        }
        let mut told = self.overdue(at_ms);
        if self.ends.len() >= ENDS_MAX {
            let oldest = self.ends.pop_front();
            told.extend(oldest.and_then(|end| end.failure).map(|failure| (failure, None)));
        }
        self.ends.push_back(end);
        told
    }

    /// Returns the failures that have waited for their command long enough.
    pub fn overdue(&mut self, now_ms: u64) -> Vec<Told> {
        let mut told = Vec::new();
        let is_overdue = |end: &End| now_ms.saturating_sub(end.at_ms) >= HOLD_MS;
        while self.ends.front().is_some_and(is_overdue) {
            let end = self.ends.pop_front();
            told.extend(end.and_then(|end| end.failure).map(|failure| (failure, None)));
        }
        told
    }

    /// Says whether a failure waits for its command.
    pub fn holds_failure(&self) -> bool {
        self.ends.iter().any(|end| end.failure.is_some())
    }
}

/// Says whether an end is that of a command about `start`.
fn is_meant(start: &Start, end: &Start) -> bool {
    match (start, end) {
        (Start::Actor { id, reference }, Start::Actor { id: end_id, reference: end_reference }) => {
            is_same(id, end_id) || is_same(reference, end_reference)
        }
        (Start::Update { id }, Start::Update { id: end_id }) => is_same(id, end_id),
        (Start::Provider { .. }, Start::Provider { .. }) => start == end,
        _ => false,
    }
}

fn is_same(one: &str, other: &str) -> bool {
    one == other && !one.is_empty()
}

/// Returns the thing that a command starts; none if it starts nothing.
fn start_of(entry: &Audit) -> Option<Start> {
    let of = |name: &str| entry.object.get(name).cloned().unwrap_or_default();
    Some(match entry.verb.as_str() {
        "start actor" | "scale actor" => {
            Start::Actor { id: of("actor_id"), reference: of("actor_ref") }
        }
        "update actor" => Start::Update { id: of("actor_id") },
        "start provider" => {
            let link_name = Some(of("link_name")).filter(|name| !name.is_empty());
            let link_name = link_name.unwrap_or_else(|| LinkName::DEFAULT.to_owned());
            Start::Provider { reference: of("provider_ref"), link_name }
        }
        _ => return None,
    })
}

/// Returns the end that an event tells. Of the three events of a start that failed, one is enough.
fn end_of(at_ms: u64, event: &Event) -> Option<End> {
    let (start, failed) = match event {
        Event::ActorScaleFailed { public_key, image_ref, error, .. } => {
            (actor(public_key, image_ref), Some(("scale actor", error)))
        }
        Event::ActorUpdateFailed { public_key, reason, .. } => {
            (Start::Update { id: known(public_key) }, Some(("update actor", reason)))
        }
        Event::ProviderStartFailed { provider_ref, link_name, error } => {
            (provider(provider_ref, link_name), Some(("start provider", error)))
        }
        Event::ActorScaled { actor: of, .. } => (actor(&of.public_key, &of.image_ref), None),
        Event::ActorUpdated { public_key, .. } => (Start::Update { id: known(public_key) }, None),
        Event::ProviderStarted { provider: of, .. } => {
            (provider(&of.image_ref, &of.link_name), None)
        }
        _ => return None,
    };
    let failure = failed.map(|(verb, error)| Failure {
        at_ms,
        verb,
        object: object(&start),
        reason: compact::text(error),
    });
    Some(End { start, at_ms, failure })
}

fn actor(id: &str, reference: &str) -> Start {
    Start::Actor { id: known(id), reference: known(reference) }
}

fn provider(reference: &str, link_name: &str) -> Start {
    Start::Provider { reference: known(reference), link_name: known(link_name) }
}

/// Returns a text of an event as a command has it; empty if it says nothing.
fn known(text: &str) -> String {
    if text == NOT_AVAILABLE { String::new() } else { compact::text(text) }
}

/// Returns what a start is about, under the names that commands have for it.
fn object(start: &Start) -> BTreeMap<String, String> {
    let named = match start {
        Start::Actor { id, reference } => vec![("actor_id", id), ("actor_ref", reference)],
        Start::Update { id } => vec![("actor_id", id)],
        Start::Provider { reference, link_name } => {
            vec![("provider_ref", reference), ("link_name", link_name)]
        }
    };
    let said = named.into_iter().filter(|(_, text)| !text.is_empty());
    said.map(|(name, text)| (name.to_owned(), text.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(id: &str, verb: &str, object: &[(&str, &str)]) -> Audit {
        let object =
            object.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        Audit {
            id: id.into(),
            at_ms: 1000,
            verb: verb.into(),
            object,
            outcome: Outcome::Accepted,
            ..Audit::default()
        }
    }

    fn start_provider(id: &str) -> Audit {
        command(id, "start provider", &[("provider_ref", "r/kv:1")])
    }

    fn provider_failed(link_name: &str) -> Event {
        Event::ProviderStartFailed {
            provider_ref: "r/kv:1".into(),
            link_name: link_name.into(),
            error: "no such image".into(),
        }
    }

    fn scale_failed(public_key: &str, image_ref: &str) -> Event {
        Event::ActorScaleFailed {
            host_id: "N1".into(),
            public_key: public_key.into(),
            image_ref: image_ref.into(),
            annotations: Default::default(),
            max: 1,
            error: "no such file".into(),
        }
    }

    fn update_failed(public_key: &str) -> Event {
        Event::ActorUpdateFailed {
            public_key: public_key.into(),
            revision: 1,
            instance_id: NOT_AVAILABLE.into(),
            reason: "older".into(),
        }
    }

    fn updated(public_key: &str) -> Event {
        Event::ActorUpdated {
            public_key: public_key.into(),
            revision: 1,
            instance_id: "i".into(),
            share: None,
        }
    }

    /// Returns the ids of the commands that failures came from.
    fn ids(told: impl IntoIterator<Item = Told>) -> Vec<Option<String>> {
        told.into_iter().map(|(_, command)| command.map(|command| command.id)).collect()
    }

    #[test]
    fn a_failure_has_the_command_that_means_the_same_thing() {
        let by_ref = [("actor_ref", "a:1")];
        let by_id = [("actor_id", "MA")];
        for (taken, event, is_meant) in [
            (start_provider("1"), provider_failed("default"), true),
            (start_provider("1"), provider_failed("other"), false),
            (command("1", "scale actor", &by_ref), scale_failed(NOT_AVAILABLE, "a:1"), true),
            (command("1", "start actor", &by_ref), scale_failed("MA", "a:1"), true),
            (command("1", "scale actor", &by_id), scale_failed("MA", "a:2"), true),
            (command("1", "scale actor", &by_id), scale_failed(NOT_AVAILABLE, "a:2"), false),
            (command("1", "scale actor", &by_ref), scale_failed("MA", "a:2"), false),
            (command("1", "stop actor", &by_ref), scale_failed("MA", "a:1"), false),
            (command("1", "update actor", &by_id), update_failed("MA"), true),
            (command("1", "update actor", &[]), update_failed(NOT_AVAILABLE), false),
            (command("1", "scale actor", &by_id), update_failed("MA"), false),
        ] {
            let case = format!("{taken:?} {event:?}");
            let named = [Some("1".to_owned())];
            let mut before = Commands::default();
            assert_eq!(before.on_command(&taken), None, "{case}");
            let mut told = ids(before.on_event(1001, &event));
            told.extend(ids(before.overdue(1001 + HOLD_MS)));
            assert_eq!(told, if is_meant { named.clone() } else { [None] }, "{case}");
            // The event may come first: the command is told when it was answered.
            let mut after = Commands::default();
            assert!(after.on_event(1001, &event).is_empty(), "{case}");
            let mut told = ids(after.on_command(&taken));
            told.extend(ids(after.overdue(1001 + HOLD_MS)));
            assert_eq!(told, if is_meant { named } else { [None] }, "{case}");
            assert!(after.on_event(1002, &event).is_empty(), "it is named once: {case}");
        }
    }

    #[test]
    fn a_failure_says_what_and_why() {
        let mut commands = Commands::default();
        commands.on_event(7, &scale_failed(NOT_AVAILABLE, "a:1"));
        let expected = Failure {
            at_ms: 7,
            verb: "scale actor",
            object: BTreeMap::from([("actor_ref".to_owned(), "a:1".to_owned())]),
            reason: "no such file".to_owned(),
        };
        assert_eq!(commands.overdue(7 + HOLD_MS), [(expected, None)]);
    }

    #[test]
    fn what_fails_after_a_start_that_worked_is_nobodys() {
        let mut commands = Commands::default();
        let update = command("1", "update actor", &[("actor_id", "MA")]);
        commands.on_command(&update);
        assert!(commands.on_event(1001, &updated("MA")).is_empty());
        commands.on_event(1002, &update_failed("MA"));
        assert_eq!(ids(commands.overdue(1002 + HOLD_MS)), [None]);
        // The same where the end came before the command was told.
        commands.on_event(2001, &updated("MA"));
        assert_eq!(commands.on_command(&update), None);
        commands.on_event(2002, &update_failed("MA"));
        assert_eq!(ids(commands.overdue(2002 + HOLD_MS)), [None]);
    }

    #[test]
    fn an_end_from_before_a_command_and_a_command_of_long_ago_are_not_laid_together() {
        let mut commands = Commands::default();
        commands.on_event(999, &provider_failed("default"));
        assert_eq!(commands.on_command(&start_provider("1")), None);
        assert_eq!(ids(commands.overdue(999 + HOLD_MS)), [None]);
        let late = 1000 + COMMAND_MS_MAX;
        assert!(commands.on_event(late, &provider_failed("default")).is_empty());
        assert_eq!(ids(commands.overdue(late + HOLD_MS)), [None]);
    }

    #[test]
    fn commands_about_one_thing_end_in_their_order_and_a_refused_one_not_at_all() {
        let mut commands = Commands::default();
        commands.on_command(&start_provider("1"));
        commands.on_command(&Audit { outcome: Outcome::Refused, ..start_provider("2") });
        commands.on_command(&Audit { outcome: Outcome::Unknown, ..start_provider("3") });
        for id in ["1", "3"] {
            let told = ids(commands.on_event(1001, &provider_failed("default")));
            assert_eq!(told, [Some(id.to_owned())]);
        }
    }

    #[test]
    fn memory_has_a_bound_and_no_failure_is_lost() {
        let mut commands = Commands::default();
        for id in 0..=COMMANDS_MAX {
            commands.on_command(&start_provider(&id.to_string()));
        }
        let first = ids(commands.on_event(1001, &provider_failed("default")));
        assert_eq!((first, commands.taken.len()), (vec![Some("1".into())], COMMANDS_MAX - 1));
        let mut told = Vec::new();
        for number in 0..2 * ENDS_MAX {
            told.extend(commands.on_event(1001, &scale_failed("MA", &format!("a:{number}"))));
        }
        assert_eq!((told.len(), commands.ends.len()), (ENDS_MAX, ENDS_MAX));
        told.extend(commands.overdue(u64::MAX));
        assert_eq!((told.len(), commands.holds_failure()), (2 * ENDS_MAX, false));
    }
}

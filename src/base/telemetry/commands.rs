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
//! restart may, is not laid at its door. A trial that is withdrawn before it begins has no end, so
//! the command that withdraws it takes it away. Nothing here is written or waits by itself.
//!
//! Always true: a failure is told once; a command is named for one end at most. Memory is bounded
//! by [`COMMANDS_MAX`] and [`ENDS_MAX`].

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use lattice_protocol::{
    clock,
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

/// The member of an update that makes it a trial, in percent.
const SHARE: &str = "share";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Actor,
    Update,
    Provider,
}

/// The thing that a command starts. A text that nobody says is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Start {
    kind: Kind,
    object: BTreeMap<String, String>,
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
#[derive(Clone, Debug)]
pub(super) struct End {
    start: Start,
    at_ms: u64,
    /// When it came, by a clock that nobody sets.
    since: Instant,
    /// Of an update that worked: the group that it is told of.
    group: Option<String>,
    /// None if it worked.
    failure: Option<Failure>,
}

/// The commands that may still fail, and the ends whose commands were not told yet; the oldest
/// first.
#[derive(Debug, Default)]
pub(super) struct Commands {
    taken: VecDeque<Command>,
    ends: VecDeque<End>,
    /// The last update that worked, of the first group: it is told of each group of its actor, and
    /// is one command.
    last_update: Option<End>,
}

impl Commands {
    /// Takes in a command that was answered; returns its failure if that came before.
    pub fn on_command(&mut self, entry: &Audit) -> Option<Told> {
        let start = start_of(entry)?;
        if entry.outcome == Outcome::Accepted {
            self.taken.retain(|taken| !is_withdrawn(&taken.start, &start));
        }
        // No event tells that there was nothing to take back, or that it has not begun.
        if start.takes_back() {
            return None;
        }
        let command = Command {
            id: entry.id.clone(),
            origin: entry.origin.clone(),
            at_ms: entry.at_ms,
            start,
        };
        let is_end_of_it = |end: &End| end.at_ms >= command.at_ms && is_meant(&command.start, end);
        if let Some(at) = self.ends.iter().position(is_end_of_it) {
            let end = self.ends.remove(at);
            return end.and_then(|end| told(end, Some(command)));
        }
        if entry.outcome != Outcome::Refused {
            if self.taken.len() >= COMMANDS_MAX {
                self.taken.pop_front();
            }
            self.taken.push_back(command);
        }
        None
    }

    /// Takes in an end; returns the failures that can be told now.
    pub fn on_end(&mut self, end: End) -> Vec<Told> {
        if end.group.is_some() {
            if self.last_update.as_ref().is_some_and(|last| end.is_further(last)) {
                return Vec::new();
            }
            self.last_update = Some(end.clone());
        }
        self.taken.retain(|command| end.at_ms.saturating_sub(command.at_ms) < COMMAND_MS_MAX);
        if let Some(at) = self.taken.iter().position(|taken| is_meant(&taken.start, &end)) {
            let command = self.taken.remove(at);
            return told(end, command).into_iter().collect();
        }
        let mut overdue = self.overdue(end.at_ms);
        if self.ends.len() >= ENDS_MAX {
            overdue.extend(self.ends.pop_front().and_then(|oldest| told(oldest, None)));
        }
        self.ends.push_back(end);
        overdue
    }

    /// Returns the failures that have waited for their command long enough.
    pub fn overdue(&mut self, now_ms: u64) -> Vec<Told> {
        let mut overdue = Vec::new();
        while self.ends.front().is_some_and(|end| end.is_overdue(now_ms)) {
            overdue.extend(self.ends.pop_front().and_then(|end| told(end, None)));
        }
        overdue
    }

    /// Says whether a failure waits for its command.
    pub fn holds_failure(&self) -> bool {
        self.ends.iter().any(|end| end.failure.is_some())
    }

    /// Returns how long the oldest end still waits, in milliseconds; none if no failure waits.
    pub fn wait_ms(&self, now_ms: u64) -> Option<u64> {
        let oldest = self.ends.front().filter(|_| self.holds_failure())?;
        Some(HOLD_MS.saturating_sub(oldest.waited_ms(now_ms)))
    }
}

fn told(end: End, command: Option<Command>) -> Option<Told> {
    end.failure.map(|failure| (failure, command))
}

impl Start {
    fn get(&self, name: &str) -> Option<&str> {
        self.object.get(name).map(String::as_str)
    }

    /// Says whether both say the same under this name.
    fn has_same(&self, other: &Self, name: &str) -> bool {
        self.get(name).is_some() && self.get(name) == other.get(name)
    }

    /// Says whether it ends the trials of an actor, and starts nothing.
    fn takes_back(&self) -> bool {
        self.kind == Kind::Update && self.get(SHARE) == Some("0")
    }
}

/// Says whether a trial, unless it has begun, is no more after a later command.
fn is_withdrawn(trial: &Start, later: &Start) -> bool {
    trial.kind == Kind::Update
        && later.kind == Kind::Update
        && trial.get(SHARE).is_some()
        && trial.has_same(later, "actor_id")
        && (later.takes_back() || !trial.has_same(later, "new_actor_ref"))
}

/// Says whether an end is that of a command about `start`.
fn is_meant(start: &Start, end: &End) -> bool {
    let has_same = |name: &&str| start.has_same(&end.start, name);
    start.kind == end.start.kind
        && match start.kind {
            Kind::Provider => ["provider_ref", "link_name"].iter().all(has_same),
            Kind::Actor | Kind::Update => ["actor_id", "actor_ref"].iter().any(has_same),
        }
        // One that failed does not say whether it was a trial.
        && (end.failure.is_some() || start.get(SHARE) == end.start.get(SHARE))
}

/// Returns the thing that a command starts; none if it starts nothing.
fn start_of(entry: &Audit) -> Option<Start> {
    let kind = match entry.verb.as_str() {
        "start actor" | "scale actor" => Kind::Actor,
        "update actor" => Kind::Update,
        "start provider" => Kind::Provider,
        _ => return None,
    };
    let mut object = entry.object.clone();
    if kind == Kind::Provider {
        object.entry("link_name".to_owned()).or_insert_with(|| LinkName::DEFAULT.to_owned());
    }
    Some(Start { kind, object })
}

impl End {
    /// Returns the end that an event tells. Of the three events of a start that failed, one is
    /// enough; that a trial was taken back ends no command.
    pub fn of(at_ms: u64, event: &Event) -> Option<Self> {
        let (kind, named, error) = match event {
            Event::ActorScaleFailed { public_key, image_ref, error, .. } => {
                (Kind::Actor, vec![("actor_id", public_key), ("actor_ref", image_ref)], Some(error))
            }
            Event::ActorScaled { actor, .. } => {
                let named = vec![("actor_id", &actor.public_key), ("actor_ref", &actor.image_ref)];
                (Kind::Actor, named, None)
            }
            Event::ActorUpdateFailed { public_key, reason, .. } => {
                (Kind::Update, vec![("actor_id", public_key)], Some(reason))
            }
            Event::ActorUpdated { public_key, share, .. } if *share != Some(0) => {
                (Kind::Update, vec![("actor_id", public_key)], None)
            }
            Event::ProviderStartFailed { provider_ref, link_name, error } => {
                let named = vec![("provider_ref", provider_ref), ("link_name", link_name)];
                (Kind::Provider, named, Some(error))
            }
            Event::ProviderStarted { provider, .. } => {
                let (reference, link_name) = (&provider.image_ref, &provider.link_name);
                let named = vec![("provider_ref", reference), ("link_name", link_name)];
                (Kind::Provider, named, None)
            }
            _ => return None,
        };
        let said = named.into_iter().filter(|(_, text)| !text.is_empty() && *text != NOT_AVAILABLE);
        let mut object: BTreeMap<String, String> =
            said.map(|(name, text)| (name.to_owned(), compact::text(text))).collect();
        let mut group = None;
        if let Event::ActorUpdated { revision, instance_id, share, .. } = event {
            object.insert("revision".to_owned(), revision.to_string());
            object.extend(share.map(|share| (SHARE.to_owned(), share.to_string())));
            group = Some(instance_id.clone());
        }
        let failure = error.map(|error| Failure {
            at_ms,
            verb: kind.verb(),
            object: object.clone(),
            reason: compact::text(error),
        });
        Some(Self { start: Start { kind, object }, at_ms, since: Instant::now(), group, failure })
    }

    /// Says whether it is of the same update as this end, and of another group.
    fn is_further(&self, first: &Self) -> bool {
        self.start == first.start
            && self.group != first.group
            && self.at_ms.saturating_sub(first.at_ms) < HOLD_MS
    }

    /// Says whether it has waited for its command long enough.
    fn is_overdue(&self, now_ms: u64) -> bool {
        self.waited_ms(now_ms) >= HOLD_MS
    }

    fn waited_ms(&self, now_ms: u64) -> u64 {
        // A clock that is set back would hold it for as long.
        now_ms.saturating_sub(self.at_ms).max(clock::millis(self.since.elapsed()))
    }
}

impl Kind {
    /// Returns the verb of a failure.
    fn verb(self) -> &'static str {
        match self {
            Self::Actor => "scale actor",
            Self::Update => "update actor",
            Self::Provider => "start provider",
        }
    }
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

    fn update(id: &str, reference: &str, share: Option<u8>) -> Audit {
        let named = [("actor_id", "MA"), ("new_actor_ref", reference)];
        let mut update = command(id, "update actor", &named);
        update.object.extend(share.map(|share| (SHARE.to_owned(), share.to_string())));
        update
    }

    impl Commands {
        fn on_event(&mut self, at_ms: u64, event: &Event) -> Vec<Told> {
            End::of(at_ms, event).map(|end| self.on_end(end)).unwrap_or_default()
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
    fn a_trial_that_was_withdrawn_is_named_for_nothing() {
        let refused = Audit { outcome: Outcome::Refused, ..update("2", "", Some(0)) };
        for (first, second, expected) in [
            (update("1", "a:2", Some(10)), update("2", "", Some(0)), "3"),
            (update("1", "a:2", Some(10)), update("2", "a:3", Some(10)), "3"),
            (update("1", "a:2", Some(10)), update("2", "a:3", None), "2"),
            (update("1", "a:2", Some(10)), refused, "1"),
            // Only trials are taken back.
            (update("1", "a:2", None), update("2", "", Some(0)), "1"),
        ] {
            let mut commands = Commands::default();
            for command in [&first, &second, &update("3", "a:2", None)] {
                assert_eq!(commands.on_command(command), None);
            }
            let told = ids(commands.on_event(2000, &update_failed("MA")));
            assert_eq!(told, [Some(expected.to_owned())], "{first:?} {second:?}");
        }
    }

    #[test]
    fn an_update_of_several_groups_ends_one_command_and_one_with_another_share_none() {
        let updated = |group: &str, share| Event::ActorUpdated {
            public_key: "MA".into(),
            revision: 2,
            instance_id: group.into(),
            share,
        };
        let mut commands = Commands::default();
        commands.on_command(&update("1", "a:2", None));
        commands.on_command(&update("2", "a:2", None));
        for group in ["i", "j", "k"] {
            assert!(commands.on_event(1001, &updated(group, None)).is_empty());
        }
        assert_eq!(ids(commands.on_event(1002, &update_failed("MA"))), [Some("2".to_owned())]);
        commands.on_command(&update("3", "a:2", None));
        commands.on_command(&update("4", "a:2", Some(10)));
        for share in [None, Some(0), Some(20)] {
            assert!(commands.on_event(1003, &updated("i", share)).is_empty());
        }
        assert_eq!(ids(commands.on_event(1004, &update_failed("MA"))), [Some("4".to_owned())]);
    }

    #[test]
    fn the_next_failure_waits_as_long_as_the_oldest_end_still_does() {
        let failed = || provider_failed("default");
        let worked = || updated("MA");
        for (events, now_ms, expected) in [
            (vec![], 2000, None),
            (vec![(1000, worked())], 2000, None),
            (vec![(1000, failed())], 2000, Some(HOLD_MS - 1000)),
            // The one that came while another waited is told in its own time.
            (vec![(1000, failed()), (1900, failed())], 1000 + HOLD_MS, Some(0)),
            (vec![(1000, failed()), (1900, failed())], 1900 + HOLD_MS, Some(0)),
            (vec![(1000, worked()), (1900, failed())], 2000, Some(HOLD_MS - 1000)),
        ] {
            let mut commands = Commands::default();
            for (at_ms, event) in &events {
                commands.on_event(*at_ms, event);
            }
            assert_eq!(commands.wait_ms(now_ms), expected, "{events:?} {now_ms}");
        }
        let mut commands = Commands::default();
        for at_ms in [1000, 1000 + HOLD_MS - 100] {
            commands.on_event(at_ms, &failed());
        }
        assert_eq!(commands.overdue(1000 + HOLD_MS).len(), 1);
        assert_eq!(commands.wait_ms(1000 + HOLD_MS + 900), Some(HOLD_MS - 1000));
    }

    #[test]
    fn a_clock_that_is_set_back_holds_no_failure() {
        let mut commands = Commands::default();
        commands.on_event(3_600_000, &provider_failed("default"));
        assert!(commands.overdue(0).is_empty());
        commands.ends[0].since -= std::time::Duration::from_millis(HOLD_MS);
        assert_eq!(ids(commands.overdue(0)), [None]);
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

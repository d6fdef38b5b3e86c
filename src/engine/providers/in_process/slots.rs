//! Decides which links of a built-in provider are taken on, tried again and ended. Pure: no task,
//! no clock, no server.
//!
//! Each actor with a link has a slot. [`Slots::compare`] takes in the link definitions of the
//! lattice, [`Slots::tried`] the result of an attempt, [`Slots::retry`] that time has passed; each
//! returns [`Effect`]s for the loop that owns the links. A slot has one attempt on its way at most,
//! and looks at the definitions again when that ends, so it never misses a change.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::providers::builtin::LinkError;
use lattice_base::backoff;
use lattice_protocol::links::LinkDefinition;

/// Links that a provider takes on; each may hold connections and certificates.
pub(super) const LINKS_MAX: usize = 4096;
/// Pauses between attempts for a link grow from the first to the last of these.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(10);

/// The links of a provider, by actor; `L` is a link that was taken on.
pub(super) struct Slots<L> {
    by_actor: HashMap<Arc<str>, Slot<L>>,
    /// Links there is no room for.
    beyond: usize,
}

/// The state of one actor's link.
struct Slot<L> {
    /// The link definition in the lattice now; `None` when the link is gone.
    wanted: Option<Arc<LinkDefinition>>,
    /// The link definition of the last attempt.
    tried: Option<Arc<LinkDefinition>>,
    link: Option<L>,
    refused: Option<LinkError>,
    is_busy: bool,
    failures: u32,
    retry_at: Option<Instant>,
}

/// The state of a link, for calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LinkState<L> {
    Up(L),
    Refused(LinkError),
}

/// The last attempt with a link, for those who ask how links are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LastAttempt {
    pub definition: Arc<LinkDefinition>,
    pub is_in_work: bool,
    /// Why it is not taken on. One with other values may be up meanwhile.
    pub refusal: Option<LinkError>,
}

/// One thing the loop does for the slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect<L> {
    /// Takes a definition on; the result goes to [`Slots::tried`].
    Attempt {
        actor: Arc<str>,
        definition: Arc<LinkDefinition>,
    },
    /// Ends a link as soon as nobody is led to it any more.
    Retire(L),
    TellLinked(Arc<str>),
    TellRefused {
        actor: Arc<str>,
        definition: Arc<LinkDefinition>,
        error: LinkError,
    },
    TellEnded(Arc<str>),
    /// Tells that there is no room for so many links, which are more than before.
    TellBeyond(usize),
}

impl<L: Clone> Slots<L> {
    pub fn new() -> Self {
        Self { by_actor: HashMap::new(), beyond: 0 }
    }

    /// Takes in the definitions of the lattice, by actor.
    pub fn compare(
        &mut self,
        wanted: HashMap<Arc<str>, Arc<LinkDefinition>>,
        now: Instant,
    ) -> Vec<Effect<L>> {
        let mut effects = Vec::new();
        let gone = self.actors(|actor, _| !wanted.contains_key(actor));
        for actor in gone {
            if let Some(slot) = self.by_actor.get_mut(&actor) {
                slot.wanted = None;
            }
            self.settle(&actor, now, &mut effects);
        }
        let mut beyond = 0;
        for (actor, definition) in wanted {
            if self.by_actor.len() >= LINKS_MAX && !self.by_actor.contains_key(&actor) {
                beyond += 1;
                continue;
            }
            self.by_actor.entry(Arc::clone(&actor)).or_insert_with(Slot::new).wanted =
                Some(definition);
            self.settle(&actor, now, &mut effects);
        }
        if beyond > self.beyond {
            effects.push(Effect::TellBeyond(beyond));
        }
        self.beyond = beyond;
        effects
    }

    /// Takes in the result of an attempt.
    pub fn tried(
        &mut self,
        actor: &Arc<str>,
        result: Result<L, LinkError>,
        now: Instant,
    ) -> Vec<Effect<L>> {
        let mut effects = Vec::new();
        let Some(slot) = self.by_actor.get_mut(actor) else { return effects };
        slot.is_busy = false;
        match result {
            Ok(link) => {
                effects.push(Effect::TellLinked(Arc::clone(actor)));
                slot.refused = None;
                slot.failures = 0;
                effects.extend(slot.link.replace(link).map(Effect::Retire));
            }
            Err(error) => {
                slot.failures += 1;
                if let LinkError::Unavailable(_) = error {
                    slot.retry_at =
                        Some(now + backoff::after(slot.failures, RETRY_FIRST, RETRY_LAST));
                }
                // Once per cause: a retry that fails the same way says nothing new.
                if (slot.refused.as_ref() != Some(&error) || slot.failures == 1)
                    && let Some(definition) = slot.tried.clone()
                {
                    let (actor, error) = (Arc::clone(actor), error.clone());
                    effects.push(Effect::TellRefused { actor, definition, error });
                }
                // An obstacle may go away, and values that make no sense are replaced by others:
                // until then the old link is better than none.
                slot.refused = Some(error);
            }
        }
        self.settle(actor, now, &mut effects);
        effects
    }

    /// Returns when [`Slots::retry`] has something to do.
    pub fn next_retry(&self) -> Option<Instant> {
        self.by_actor.values().filter_map(|slot| slot.retry_at).min()
    }

    /// Begins the attempts that are due.
    pub fn retry(&mut self, now: Instant) -> Vec<Effect<L>> {
        let mut effects = Vec::new();
        for actor in self.actors(|_, slot| slot.retry_at.is_some_and(|at| at <= now)) {
            self.settle(&actor, now, &mut effects);
        }
        effects
    }

    /// Whether no attempt is on its way.
    pub fn is_settled(&self) -> bool {
        self.by_actor.values().all(|slot| !slot.is_busy)
    }

    /// Returns how links stand, without those of which nothing is known yet.
    pub fn states(&self) -> HashMap<Arc<str>, LinkState<L>> {
        let states = self.by_actor.iter().filter_map(|(actor, slot)| {
            let state = match (&slot.link, &slot.refused) {
                (Some(link), _) => LinkState::Up(link.clone()),
                (None, Some(error)) => LinkState::Refused(error.clone()),
                (None, None) => return None,
            };
            Some((Arc::clone(actor), state))
        });
        states.collect()
    }

    /// Returns the last attempt for each link.
    pub fn attempts(&self) -> HashMap<Arc<str>, LastAttempt> {
        let attempts = self.by_actor.iter().filter_map(|(actor, slot)| {
            let definition = Arc::clone(slot.tried.as_ref()?);
            let attempt =
                LastAttempt { definition, is_in_work: slot.is_busy, refusal: slot.refused.clone() };
            Some((Arc::clone(actor), attempt))
        });
        attempts.collect()
    }

    /// Takes all links out, to be ended.
    pub fn take_links(&mut self) -> Vec<L> {
        self.by_actor.values_mut().filter_map(|slot| slot.link.take()).collect()
    }

    fn actors(&self, is_meant: impl Fn(&Arc<str>, &Slot<L>) -> bool) -> Vec<Arc<str>> {
        let meant = self.by_actor.iter().filter(|(actor, slot)| is_meant(actor, slot));
        meant.map(|(actor, _)| Arc::clone(actor)).collect()
    }

    /// Brings one link closer to what is wanted, unless an attempt is on its way: its end comes
    /// back here.
    fn settle(&mut self, actor: &Arc<str>, now: Instant, effects: &mut Vec<Effect<L>>) {
        let Some(slot) = self.by_actor.get_mut(actor) else { return };
        if slot.is_busy {
            return;
        }
        let Some(wanted) = slot.wanted.clone() else {
            if let Some(link) = slot.link.take() {
                effects.extend([Effect::TellEnded(Arc::clone(actor)), Effect::Retire(link)]);
            }
            self.by_actor.remove(actor);
            return;
        };
        if slot.tried.as_ref() == Some(&wanted) {
            if slot.retry_at.is_none_or(|at| at > now) {
                return;
            }
        } else {
            slot.failures = 0;
        }
        slot.tried = Some(Arc::clone(&wanted));
        slot.retry_at = None;
        slot.is_busy = true;
        effects.push(Effect::Attempt { actor: Arc::clone(actor), definition: wanted });
    }
}

impl<L> Slot<L> {
    fn new() -> Self {
        Self {
            wanted: None,
            tried: None,
            link: None,
            refused: None,
            is_busy: false,
            failures: 0,
            retry_at: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Effect::*, *};

    const ACTOR: &str = "M";

    /// One thing that happens to the link of one actor.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// The lattice has a definition with this value.
        Want(&'static str),
        /// The lattice has none.
        Drop,
        /// The attempt led to this link.
        Linked(u32),
        /// The values make no sense.
        Refused(&'static str),
        /// Something else is in the way.
        Blocked(&'static str),
        /// Milliseconds pass.
        Wait(u64),
    }
    use Step::*;

    struct Walk {
        slots: Slots<u32>,
        now: Instant,
    }

    impl Walk {
        fn new() -> Self {
            Self { slots: Slots::new(), now: Instant::now() }
        }

        fn take(&mut self, step: Step) -> Vec<Effect<u32>> {
            let tried =
                |slots: &mut Slots<u32>, result| slots.tried(&ACTOR.into(), result, self.now);
            match step {
                Want(value) => {
                    let wanted = HashMap::from([(ACTOR.into(), definition(ACTOR, value))]);
                    self.slots.compare(wanted, self.now)
                }
                Drop => self.slots.compare(HashMap::new(), self.now),
                Linked(link) => tried(&mut self.slots, Ok(link)),
                Refused(why) => tried(&mut self.slots, Err(LinkError::Values(why.into()))),
                Blocked(why) => tried(&mut self.slots, Err(LinkError::Unavailable(why.into()))),
                Wait(milliseconds) => {
                    self.now += Duration::from_millis(milliseconds);
                    self.slots.retry(self.now)
                }
            }
        }

        /// Takes the steps and returns the effects of the last.
        fn take_all(&mut self, steps: &[Step]) -> Vec<Effect<u32>> {
            steps.iter().map(|step| self.take(*step)).last().unwrap_or_default()
        }
    }

    fn definition(actor: &str, value: &str) -> Arc<LinkDefinition> {
        Arc::new(LinkDefinition {
            actor_id: actor.into(),
            provider_id: "V".into(),
            link_name: "default".into(),
            contract_id: "wasmcloud:keyvalue".into(),
            values: BTreeMap::from([("value".into(), value.into())]),
        })
    }

    fn attempt(value: &str) -> Effect<u32> {
        Attempt { actor: ACTOR.into(), definition: definition(ACTOR, value) }
    }

    fn linked() -> Effect<u32> {
        TellLinked(ACTOR.into())
    }

    fn ended() -> Effect<u32> {
        TellEnded(ACTOR.into())
    }

    fn told(value: &str, error: LinkError) -> Effect<u32> {
        TellRefused { actor: ACTOR.into(), definition: definition(ACTOR, value), error }
    }

    fn bad(why: &str) -> LinkError {
        LinkError::Values(why.into())
    }

    fn away(why: &str) -> LinkError {
        LinkError::Unavailable(why.into())
    }

    fn up(link: u32) -> Option<LinkState<u32>> {
        Some(LinkState::Up(link))
    }

    fn down(error: LinkError) -> Option<LinkState<u32>> {
        Some(LinkState::Refused(error))
    }

    /// One row: the steps, the effects of the last of them, and how calls find the link after it.
    type Case<'a> = (&'a [Step], Vec<Effect<u32>>, Option<LinkState<u32>>);

    fn run((steps, effects, state): Case<'_>) {
        let mut walk = Walk::new();
        assert_eq!(walk.take_all(steps), effects, "{steps:?}");
        assert_eq!(walk.slots.states().remove(ACTOR), state, "{steps:?}");
    }

    #[test]
    fn a_link_follows_its_definition_with_one_attempt_at_a_time() {
        let cases: [Case<'_>; 16] = [
            (&[Drop], vec![], None),
            (&[Want("a")], vec![attempt("a")], None),
            (&[Want("a"), Want("a")], vec![], None),
            (&[Want("a"), Want("b")], vec![], None),
            (&[Want("a"), Drop], vec![], None),
            (&[Want("a"), Linked(1)], vec![linked()], up(1)),
            (&[Want("a"), Linked(1), Want("a")], vec![], up(1)),
            (&[Want("a"), Linked(1), Drop], vec![ended(), Retire(1)], None),
            // The old link serves until the new one stands.
            (&[Want("a"), Linked(1), Want("b")], vec![attempt("b")], up(1)),
            (&[Want("a"), Linked(1), Want("b"), Linked(2)], vec![linked(), Retire(1)], up(2)),
            (
                &[Want("a"), Linked(1), Want("b"), Drop, Linked(2)],
                vec![linked(), Retire(1), ended(), Retire(2)],
                None,
            ),
            // Changes during an attempt count when it ends.
            (&[Want("a"), Want("b"), Linked(1)], vec![linked(), attempt("b")], up(1)),
            (&[Want("a"), Want("b"), Linked(1), Linked(2)], vec![linked(), Retire(1)], up(2)),
            (&[Want("a"), Drop, Linked(1)], vec![linked(), ended(), Retire(1)], None),
            (&[Want("a"), Drop, Want("a"), Linked(1)], vec![linked()], up(1)),
            (&[Want("a"), Drop, Want("b"), Linked(1)], vec![linked(), attempt("b")], up(1)),
        ];
        cases.into_iter().for_each(run);
    }

    #[test]
    fn values_that_make_no_sense_wait_for_others() {
        let x = || bad("x");
        let cases: [Case<'_>; 10] = [
            (&[Want("a"), Refused("x")], vec![told("a", x())], down(x())),
            (&[Want("a"), Refused("x"), Wait(60_000)], vec![], down(x())),
            (&[Want("a"), Refused("x"), Want("a")], vec![], down(x())),
            (&[Want("a"), Refused("x"), Drop], vec![], None),
            (&[Want("a"), Drop, Refused("x")], vec![told("a", x())], None),
            (&[Want("a"), Refused("x"), Want("b")], vec![attempt("b")], down(x())),
            (&[Want("a"), Refused("x"), Want("b"), Linked(1)], vec![linked()], up(1)),
            // The same refusal of other values is news.
            (&[Want("a"), Refused("x"), Want("b"), Refused("x")], vec![told("b", x())], down(x())),
            (&[Want("a"), Linked(1), Want("b"), Refused("x")], vec![told("b", x())], up(1)),
            (
                &[Want("a"), Linked(1), Want("b"), Refused("x"), Want("a")],
                vec![attempt("a")],
                up(1),
            ),
        ];
        cases.into_iter().for_each(run);
    }

    #[test]
    fn an_obstacle_is_tried_again_and_told_once_per_cause() {
        let x = || away("x");
        let cases: [Case<'_>; 14] = [
            (&[Want("a"), Blocked("x")], vec![told("a", x())], down(x())),
            (&[Want("a"), Blocked("x"), Want("a")], vec![], down(x())),
            (&[Want("a"), Blocked("x"), Want("b")], vec![attempt("b")], down(x())),
            (&[Want("a"), Blocked("x"), Drop], vec![], None),
            (&[Want("a"), Blocked("x"), Wait(499)], vec![], down(x())),
            (&[Want("a"), Blocked("x"), Wait(500)], vec![attempt("a")], down(x())),
            (&[Want("a"), Blocked("x"), Wait(500), Linked(1)], vec![linked()], up(1)),
            (&[Want("a"), Blocked("x"), Wait(500), Blocked("x")], vec![], down(x())),
            (
                &[Want("a"), Blocked("x"), Wait(500), Blocked("y")],
                vec![told("a", away("y"))],
                down(away("y")),
            ),
            // Values and an obstacle are two causes, whatever their texts.
            (
                &[Want("a"), Blocked("x"), Wait(500), Refused("x")],
                vec![told("a", bad("x"))],
                down(bad("x")),
            ),
            (&[Want("a"), Blocked("x"), Wait(500), Drop, Blocked("x")], vec![], None),
            (
                &[Want("a"), Blocked("x"), Wait(500), Want("b"), Blocked("x")],
                vec![attempt("b")],
                down(x()),
            ),
            (&[Want("a"), Linked(1), Want("b"), Blocked("x")], vec![told("b", x())], up(1)),
            (
                &[Want("a"), Linked(1), Want("b"), Blocked("x"), Drop],
                vec![ended(), Retire(1)],
                None,
            ),
        ];
        cases.into_iter().for_each(run);
    }

    #[test]
    fn pauses_between_attempts_grow_until_the_last_and_begin_anew_with_other_values() {
        let mut walk = Walk::new();
        walk.take(Want("a"));
        for pause in [500, 1000, 2000, 4000, 8000, 10_000, 10_000] {
            walk.take(Blocked("x"));
            assert_eq!(walk.slots.next_retry(), Some(walk.now + Duration::from_millis(pause)));
            assert_eq!(walk.take(Wait(pause)), [attempt("a")]);
            assert_eq!(walk.slots.next_retry(), None);
        }
        walk.take_all(&[Want("b"), Blocked("x"), Blocked("x")]);
        assert_eq!(walk.slots.next_retry(), Some(walk.now + Duration::from_millis(500)));
    }

    #[test]
    fn an_attempt_is_shown_with_the_definition_it_is_about() {
        let cases: [(&[Step], &str, bool, Option<LinkError>); 6] = [
            (&[Want("a")], "a", true, None),
            (&[Want("a"), Want("b")], "a", true, None),
            (&[Want("a"), Linked(1)], "a", false, None),
            (&[Want("a"), Linked(1), Want("b")], "b", true, None),
            (&[Want("a"), Linked(1), Want("b"), Refused("x")], "b", false, Some(bad("x"))),
            (&[Want("a"), Blocked("x"), Wait(500)], "a", true, Some(away("x"))),
        ];
        for (steps, value, is_in_work, refusal) in cases {
            let mut walk = Walk::new();
            walk.take_all(steps);
            let shown = LastAttempt { definition: definition(ACTOR, value), is_in_work, refusal };
            assert_eq!(walk.slots.attempts().remove(ACTOR), Some(shown), "{steps:?}");
            assert_eq!(walk.slots.is_settled(), !is_in_work, "{steps:?}");
        }
    }

    #[test]
    fn links_beyond_the_limit_are_counted_and_told_when_they_become_more() {
        let now = Instant::now();
        let mut slots: Slots<u32> = Slots::new();
        let mut compare = |count: usize| {
            let actors = (0..count).map(|number| format!("M{number}"));
            let wanted = actors.map(|actor| (Arc::from(actor.as_str()), definition(&actor, "a")));
            let effects = slots.compare(wanted.collect(), now);
            let attempts = effects.iter().filter(|effect| matches!(effect, Attempt { .. })).count();
            let beyond = effects.iter().find_map(|effect| match effect {
                TellBeyond(beyond) => Some(*beyond),
                _ => None,
            });
            (attempts, beyond)
        };
        assert_eq!(compare(LINKS_MAX + 2), (LINKS_MAX, Some(2)));
        assert_eq!(compare(LINKS_MAX + 2), (0, None));
        assert_eq!(compare(LINKS_MAX + 3), (0, Some(3)));
        // Those whose attempt is on its way keep their place until it ends.
        assert_eq!(compare(0), (0, None));
        assert_eq!(compare(LINKS_MAX + 2), (0, Some(2)));
    }

    #[test]
    fn all_links_are_taken_out_to_be_ended() {
        let mut walk = Walk::new();
        walk.take_all(&[Want("a"), Linked(1), Want("b")]);
        assert_eq!(walk.slots.take_links(), [1]);
        assert!(walk.slots.take_links().is_empty());
    }
}

//! One host as another one knows it: its [`State`], which every call reads without a lock, and its
//! [`Load`], which every call counts.
//!
//! A state is never changed in place: news puts another one there. Nearly all of it comes from the
//! service; calls add that a host is lost, or that nobody listened for a target.
//! The consequences are decided without a clock or a network.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use tokio::time::Instant;

use super::{
    load::Load,
    ring::{self, BEAT, BEAT_MAX},
    watch::{AT_CHARS, SILENT},
};

use lattice_protocol::peers::wire::{
    Announcement, Change, Known, Offers, TARGET_BYTES_MAX, TARGETS_MAX,
};

/// How long a host is not chosen for a target that nobody listened for there.
const UNAVAILABLE: Duration = Duration::from_secs(1);
/// A host whose calls got no answer may be there nevertheless; for others it has been silent for no
/// longer than this until that is found out.
const DOUBTED: Duration = Duration::from_millis(1500);

/// A host, as another one knows it.
#[derive(Debug)]
pub struct Peer {
    pub id: Arc<str>,
    /// Its place on the ring.
    pub(super) place: u64,
    /// It is the host that knows it.
    pub(super) is_own: bool,
    state: ArcSwap<State>,
    load: Load,
}

/// Everything known of a host, apart from its load.
#[derive(Clone, Debug)]
pub(super) struct State {
    heard_at: Instant,
    /// It was silent when last looked at.
    pub(super) is_lost: bool,
    /// It was lost because calls got no answer, and nobody has called it since.
    is_doubted: bool,
    /// The NATS server it is connected to; empty for hosts of before.
    pub(super) at: Arc<str>,
    /// Within this time it speaks to all again.
    pub(super) interval: Duration,
    /// It answered a question that this host put to it.
    is_proven: bool,
    /// How often it was lost.
    losses: u64,
    /// Which start of the host the roster belongs to.
    incarnation: u64,
    roster: u64,
    direct: Arc<HashSet<Arc<str>>>,
    group: Arc<HashSet<Arc<str>>>,
    /// Targets nobody listened for, and when.
    unavailable: Arc<HashMap<Arc<str>, Instant>>,
}

/// The effect of an announcement on the state of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct News {
    pub was_lost: bool,
    /// The host offers something that is not known here; it has to be asked.
    pub ask: bool,
}

/// A call on its way to a peer.
#[derive(Debug)]
pub struct Taken(Arc<Peer>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.load.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Peer {
    pub(super) fn new(id: Arc<str>, is_own: bool) -> Self {
        let now = Instant::now();
        let state = ArcSwap::from_pointee(State { is_proven: is_own, ..State::new(now) });
        Self { place: ring::place(&id), id, is_own, state, load: Load::new(now) }
    }

    /// Notes that it does not answer. Returns whether that is news. A host is never lost to itself.
    pub fn lose(&self) -> bool {
        let now = Instant::now();
        !self.is_own
            && self.change(|state| {
                let is_news = state.lose(now, DOUBTED);
                state.is_doubted |= is_news;
                is_news
            })
    }

    /// Notes that it is silent. Returns whether that is news.
    pub(super) fn lose_silent(&self, now: Instant) -> bool {
        !self.is_own && self.change(|state| state.lose(now, SILENT))
    }

    /// Returns whether it was lost because calls got no answer, for the first time since then.
    pub(super) fn take_doubt(&self) -> bool {
        self.state().is_doubted && self.change(|state| std::mem::take(&mut state.is_doubted))
    }

    /// Returns the start of it that is known, and its roster.
    pub(super) fn known(&self) -> Known {
        let state = self.state();
        Known(self.id.to_string(), state.incarnation, state.roster)
    }

    /// Returns everything known of it now.
    pub(super) fn state(&self) -> Guard<Arc<State>> {
        self.state.load()
    }

    /// Returns whether it was silent when last looked at.
    pub fn is_lost(&self) -> bool {
        self.state.load().is_lost
    }

    /// Returns how often it has been lost; a call that began before a loss may be lost with it.
    pub fn losses(&self) -> u64 {
        self.state.load().losses
    }

    /// Returns how long it has not been heard of. Of a host that speaks seldom nothing is heard
    /// while it is well; others would tell if it was not, so this is no more than the time that
    /// takes.
    pub fn silence(&self) -> Duration {
        self.state.load().silence(Instant::now())
    }

    /// Returns whether it takes calls of a target directly, rather than through the queue group.
    pub fn is_direct(&self, target: &str) -> bool {
        self.state.load().direct.contains(target)
    }

    /// Counts a call that is sent to it, until what is returned is dropped.
    pub fn take(self: &Arc<Self>) -> Taken {
        self.load.in_flight.fetch_add(1, Ordering::Relaxed);
        self.load.note(&self.load.called_ms);
        Taken(Arc::clone(self))
    }

    /// Notes that an answer of a target there took this long.
    pub fn record_latency(&self, target: &str, took: Duration) {
        self.load.record(target, took, Instant::now());
    }

    /// Notes that a call of a target there failed; for want of an answer in this time, if given.
    /// One error is an answer like others; several with no success between make the host dearer
    /// for this target.
    pub fn record_failure(&self, target: &Arc<str>, waited: Option<Duration>) {
        self.load.record_failure(target, waited, Instant::now());
    }

    /// Returns whether a call was sent to it within this time.
    pub(super) fn is_called_within(&self, time: Duration) -> bool {
        self.load.is_within(&self.load.called_ms, time)
    }

    /// Notes that a call of it came.
    pub(super) fn note_caller(&self) {
        self.load.note(&self.load.calls_ms);
    }

    /// Returns whether a call of it came within this time.
    pub(super) fn calls_within(&self, time: Duration) -> bool {
        self.load.is_within(&self.load.calls_ms, time)
    }

    /// Notes that nobody listened there for a target: it is not chosen for it for a while.
    pub fn mark_unavailable(&self, target: &Arc<str>) {
        let now = Instant::now();
        self.change(|state| state.mark_unavailable(target, now));
    }

    /// Returns whether it ever answered a question of this host.
    pub(super) fn is_proven(&self) -> bool {
        self.state.load().is_proven
    }

    /// Notes that it answered a question of this host.
    pub(super) fn prove(&self) {
        self.change(|state| state.is_proven = true);
    }

    /// Returns whether a call of a target may be sent to it now.
    pub(super) fn takes(&self, target: &str, now: Instant) -> bool {
        self.state.load().takes(target, now)
    }

    /// Returns the cost of one more call of a target there.
    pub(super) fn cost(&self, target: &str, now: Instant) -> u64 {
        self.load.cost(target, now)
    }

    /// Returns whether an announcement changes its targets by nothing but the change in it.
    pub(super) fn takes_change(&self, announcement: &Announcement) -> bool {
        let state = self.state.load();
        announcement.offers.is_none()
            && announcement.incarnation == state.incarnation
            && announcement.change.as_ref().is_some_and(|change| change.from == state.roster)
    }

    /// Takes in an announcement of it.
    pub(super) fn apply(&self, announcement: &Announcement) -> News {
        let now = Instant::now();
        self.change(|state| state.apply(announcement, now))
    }

    /// Changes the targets that it runs.
    pub(super) fn change_offers(&self, roster: u64, change: &Change) {
        self.change(|state| state.change_offers(roster, change));
    }

    /// Forgets what it runs.
    pub(super) fn clear_offers(&self) {
        self.change(|state| (state.direct, state.group) = Default::default());
    }

    /// Returns the targets that it runs: those that are called directly, and the others.
    pub(super) fn targets(&self) -> [Arc<HashSet<Arc<str>>>; 2] {
        let state = self.state.load();
        [Arc::clone(&state.direct), Arc::clone(&state.group)]
    }

    /// Gives it the time to be heard again, unless it is lost.
    pub(super) fn reset_timer(&self) {
        let now = Instant::now();
        self.change(|state| state.reset_timer(now));
    }

    /// Puts a changed state in the place of the one that is there; `change` may run more than once.
    fn change<R>(&self, change: impl Fn(&mut State) -> R) -> R {
        loop {
            let before = self.state.load();
            let mut after = State::clone(&before);
            let result = change(&mut after);
            let found = self.state.compare_and_swap(&*before, Arc::new(after));
            if Arc::ptr_eq(&found, &before) {
                return result;
            }
        }
    }
}

impl State {
    fn new(now: Instant) -> Self {
        Self {
            heard_at: now,
            is_lost: false,
            is_doubted: false,
            at: "".into(),
            interval: BEAT,
            is_proven: false,
            losses: 0,
            incarnation: 0,
            roster: 0,
            direct: Arc::default(),
            group: Arc::default(),
            unavailable: Arc::default(),
        }
    }

    /// How long nothing was heard of it.
    pub(super) fn unheard(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard_at)
    }

    fn silence(&self, now: Instant) -> Duration {
        let is_quiet = !self.is_lost && self.interval > BEAT;
        let unheard = self.unheard(now);
        if is_quiet { unheard.min(SILENT) } else { unheard }
    }

    fn takes(&self, target: &str, now: Instant) -> bool {
        let unavailable_at = self.unavailable.get(target);
        !self.is_lost
            && self.direct.contains(target)
            && unavailable_at.is_none_or(|at| now.saturating_duration_since(*at) >= UNAVAILABLE)
    }

    /// Returns whether the loss is news. A host that speaks seldom was there until others noticed,
    /// `silent` ago at most.
    fn lose(&mut self, now: Instant, silent: Duration) -> bool {
        let is_news = !self.is_lost;
        if is_news && self.interval > BEAT {
            self.heard_at = self.heard_at.max(now.checked_sub(silent).unwrap_or(now));
        }
        self.is_lost = true;
        self.losses += u64::from(is_news);
        is_news
    }

    fn reset_timer(&mut self, now: Instant) {
        if !self.is_lost {
            self.heard_at = now;
        }
    }

    fn mark_unavailable(&mut self, target: &Arc<str>, now: Instant) {
        let unavailable = Arc::make_mut(&mut self.unavailable);
        unavailable.retain(|_, at| now.saturating_duration_since(*at) < UNAVAILABLE);
        unavailable.insert(Arc::clone(target), now);
    }

    fn set_offers(&mut self, roster: u64, offers: &Offers) {
        self.direct = bounded_set(&offers.direct);
        self.group = bounded_set(&offers.group);
        self.roster = roster;
        self.unavailable = Arc::default();
    }

    fn change_offers(&mut self, roster: u64, change: &Change) {
        for (set, added, removed) in [
            (&mut self.direct, &change.added.direct, &change.removed.direct),
            (&mut self.group, &change.added.group, &change.removed.group),
        ] {
            if added.is_empty() && removed.is_empty() {
                continue;
            }
            let set = Arc::make_mut(set);
            for name in removed {
                set.remove(name.as_str());
            }
            let room = TARGETS_MAX.saturating_sub(set.len());
            set.extend(targets(added).take(room));
        }
        self.roster = roster;
        self.unavailable = Arc::default();
    }

    fn apply(&mut self, announcement: &Announcement, now: Instant) -> News {
        let Announcement { incarnation, roster, offers, change, .. } = announcement;
        if self.incarnation != *incarnation {
            // It was started again, and what it had in work is gone.
            self.incarnation = *incarnation;
            self.lose(now, Duration::ZERO);
            self.roster = 0;
            (self.direct, self.group) = Default::default();
        }
        let was_lost = std::mem::replace(&mut self.is_lost, false);
        self.is_doubted = false;
        self.heard_at = now;
        self.interval = Duration::from_millis(announcement.interval_ms).clamp(BEAT, BEAT_MAX);
        if *self.at != *announcement.at {
            self.at = announcement.at.chars().take(AT_CHARS).collect::<String>().into();
        }
        match (offers, change) {
            (Some(offers), _) if *roster >= self.roster => self.set_offers(*roster, offers),
            // Answers to different questions may overtake each other.
            (Some(_), _) => {}
            (None, Some(change)) if change.from > 0 && change.from == self.roster => {
                self.change_offers(*roster, change)
            }
            // Its announcements come in the order it makes them, so a higher number was said by
            // somebody else: its answer counts instead.
            (None, _) if *roster < self.roster => self.roster = 0,
            (None, _) => {}
        }
        News { was_lost, ask: offers.is_none() && self.roster != *roster }
    }
}

fn bounded_set(names: &[String]) -> Arc<HashSet<Arc<str>>> {
    Arc::new(targets(names).take(TARGETS_MAX).collect())
}

/// The names that may be those of targets: longer ones would only fill the memory.
fn targets(names: &[String]) -> impl Iterator<Item = Arc<str>> {
    let names = names.iter().filter(|name| name.len() <= TARGET_BYTES_MAX);
    names.map(|name| Arc::from(name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn offers(direct: &str) -> Offers {
        Offers { direct: vec![direct.to_owned()], group: Vec::new() }
    }

    #[test]
    fn announcements_bring_a_host_back_and_say_when_to_ask_it() {
        let began = Instant::now();
        let now = began + MS;
        // Of the host: its start, its roster, lost or not. Of the announcement: the same, and
        // whether it has offers. Then the news, the roster, the losses, and whether the offers
        // count.
        for (host, announcement, (was_lost, ask), (roster, losses, counts)) in [
            ((1, 5, false), (1, 5, false), (false, false), (5, 0, false)),
            ((1, 5, true), (1, 5, false), (true, false), (5, 0, false)),
            // It has more than is known here, or less than somebody else said.
            ((1, 5, false), (1, 6, false), (false, true), (5, 0, false)),
            ((1, 5, false), (1, 4, false), (false, true), (0, 0, false)),
            ((1, 5, true), (1, 6, false), (true, true), (5, 0, false)),
            // Offers that are known or newer count; those that were overtaken do not.
            ((1, 5, false), (1, 5, true), (false, false), (5, 0, true)),
            ((1, 5, false), (1, 6, true), (false, false), (6, 0, true)),
            ((1, 5, false), (1, 4, true), (false, false), (5, 0, false)),
            ((1, 5, true), (1, 4, true), (true, false), (5, 0, false)),
            // A host that was started again counts anew, and was lost meanwhile.
            ((1, 5, false), (2, 1, true), (true, false), (1, 1, true)),
            ((1, 5, false), (2, 5, false), (true, true), (0, 1, false)),
            ((1, 5, false), (2, 0, false), (true, false), (0, 1, false)),
            ((1, 5, true), (2, 1, true), (true, false), (1, 0, true)),
        ] {
            let case = format!("{host:?} says {announcement:?}");
            let mut state = State { is_lost: host.2, ..State::new(began) };
            (state.incarnation, state.roster) = (host.0, host.1);
            let (incarnation, said, has_offers) = announcement;
            let announcement = Announcement {
                incarnation,
                roster: said,
                offers: has_offers.then(|| offers("M")),
                ..Announcement::default()
            };
            assert_eq!(state.apply(&announcement, now), News { was_lost, ask }, "{case}");
            assert_eq!((state.roster, state.losses), (roster, losses), "{case}");
            assert_eq!(state.takes("M", now), counts, "{case}");
            assert_eq!((state.is_lost, state.silence(now)), (false, Duration::ZERO), "{case}");
        }
    }

    #[test]
    fn a_host_is_lost_once_until_it_is_heard_again() {
        let now = Instant::now();
        let mut state = State::new(now);
        let mut lose = || state.lose(now, SILENT);
        assert_eq!([lose(), lose()], [true, false]);
        assert_eq!(state.losses, 1);
        state.reset_timer(now + MS);
        assert_eq!(state.silence(now + MS), MS, "its silence goes on");
        state.apply(&Announcement::default(), now + MS);
        assert!(state.lose(now + MS, SILENT));
        assert_eq!(state.losses, 2);
    }

    #[test]
    fn a_target_nobody_listened_for_is_not_called_for_a_second_or_until_it_is_offered_anew() {
        let now = Instant::now();
        let mut state = State::new(now);
        state.set_offers(1, &offers("M"));
        state.mark_unavailable(&"M".into(), now);
        assert!(!state.takes("M", now + UNAVAILABLE - MS) && state.takes("M", now + UNAVAILABLE));
        state.mark_unavailable(&"N".into(), now + UNAVAILABLE);
        assert_eq!(state.unavailable.len(), 1, "what is over is forgotten");
        state.mark_unavailable(&"M".into(), now);
        state.set_offers(2, &offers("M"));
        assert!(state.takes("M", now));
    }

    #[test]
    fn names_that_are_too_long_for_targets_are_not_kept() {
        let (longest, too_long) = ("M".repeat(TARGET_BYTES_MAX), "N".repeat(TARGET_BYTES_MAX + 1));
        let named = || {
            let names = vec![too_long.clone(), longest.clone()];
            Offers { direct: names.clone(), group: names }
        };
        let (mut told, mut changed) = (State::new(Instant::now()), State::new(Instant::now()));
        told.set_offers(1, &named());
        changed.change_offers(1, &Change { added: named(), ..Change::default() });
        for state in [told, changed] {
            for set in [&state.direct, &state.group] {
                assert_eq!(set.iter().map(|name| &**name).collect::<Vec<_>>(), [&*longest]);
            }
            assert_eq!(state.roster, 1, "its host is not asked again");
        }
    }
}

//! When this host speaks to the others, whom it watches, and whom it takes for lost.
//!
//! Up to [`FEW`] hosts speak to all every second, and one that is silent for [`SILENT`] is lost. In
//! a larger lattice a host speaks to all seldom, so that all their words together stay the same,
//! and says every second that it is there to those that watch it ([`ring`](super::ring)). When
//! these hear nothing of it for [`SUSPECT`] they *call* it, in a word to all: it answers at once,
//! to all, or everybody takes it for lost. A host whose calls of actors got no answer is called as
//! well. Of a site that was cut off, the whole group is called at once; a host that loses many, or
//! hears again of some after it had lost many, calls all, and they answer spread over a while that
//! the call says.
//!
//! Everything here is decided from the table and the time; [`service`](super::service) sends and
//! listens.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    peer::Peer,
    ring::{BEAT, BEAT_MAX, Duty, FEW, Place, duty, interval, place, spread},
    table::{Heard, Table},
};
use lattice_protocol::{
    clock,
    peers::wire::{ALL, Announcement, CALLED_MAX},
};

/// Silent for this long, a host that speaks every second counts as lost: two beats and what the
/// network may add. With [`LOOK`] within three seconds.
pub const SILENT: Duration = Duration::from_millis(2500);
/// Where only words to all are heard, which come at any time, so many times as long.
const SELDOM: u32 = 4;
/// Silent for this long, a host that is watched is called. With [`LOOK`] and [`ANSWER`] within
/// three seconds as well.
const SUSPECT: Duration = Duration::from_millis(2100);
/// How long the answer to a call may take.
const ANSWER: Duration = Duration::from_millis(500);
/// How often the silent are looked for.
const LOOK: Duration = Duration::from_millis(250);
/// The answers of a group are spread over this.
const GROUP_SPREAD: Duration = Duration::from_millis(300);
/// A host that spoke to all within this time does not answer a call, so that nobody can make it
/// speak more often; and a host that was heard within this time and what the network may add is not
/// lost by the call.
const SPOKE: Duration = Duration::from_secs(1);
const HEARD: Duration = Duration::from_millis(1200);
/// A group, or all, are not called again for this long.
const AGAIN: Duration = Duration::from_secs(5);
/// A call of all waits up to this long, so that one host calls for many.
const ALL_WAIT: Duration = Duration::from_millis(500);
/// So many hosts lost within [`LATELY`], and this host itself may be cut off.
const MANY: usize = 5;
const LATELY: Duration = Duration::from_secs(10);
/// So many lost hosts are no longer single ones when one comes back.
const SEVERAL: usize = 3;
/// Calls that are remembered.
const CALLS_MAX: usize = 1024;

/// The words of this host and its watch over others.
pub struct Watch {
    own: Arc<str>,
    /// The NATS server that it is connected to.
    at: String,
    /// When it last spoke to all, and when it will.
    spoke_at: Option<Instant>,
    speak_at: Instant,
    /// How often it should speak, and how often it said last that it would.
    wanted: Duration,
    told: Duration,
    /// When those that watch it hear of it next.
    beat_at: Instant,
    looked: Instant,
    look_at: Instant,
    /// It does nothing before.
    rests_until: Instant,
    /// Calls of hosts and groups, its own among them.
    calls: Vec<Call>,
    to_call: Vec<String>,
    /// When it calls all.
    all_at: Option<Instant>,
    /// When hosts were lost lately.
    losses: VecDeque<Instant>,
    /// The hosts it listens for, and since when.
    listens: HashMap<String, Instant>,
    /// Other hosts that are known, those of them that are lost, and the groups of all.
    known: usize,
    lost: usize,
    groups: HashSet<Arc<str>>,
}

/// A call of a host, a group or all.
struct Call {
    name: String,
    at: Instant,
    /// When those that have not answered are lost.
    until: Instant,
    is_over: bool,
}

/// The consequence of a turn.
#[derive(Default)]
pub struct Turn {
    /// A word to all.
    pub word: Option<Announcement>,
    /// A word to those that watch this host.
    pub beat: Option<Announcement>,
    /// Hosts that are lost now.
    pub lost: Vec<Arc<Peer>>,
    /// The hosts whose beats it should hear, if it has looked.
    pub listen: Option<HashSet<String>>,
}

impl Watch {
    /// Has just said hello, or will now.
    pub fn new(own: &str, at: String, now: Instant) -> Self {
        Self {
            own: own.into(),
            at,
            spoke_at: None,
            speak_at: now + BEAT,
            wanted: BEAT,
            told: BEAT,
            beat_at: now,
            looked: now,
            look_at: now + LOOK,
            rests_until: now,
            calls: Vec::new(),
            to_call: Vec::new(),
            all_at: None,
            losses: VecDeque::new(),
            listens: HashMap::new(),
            known: 0,
            lost: 0,
            groups: HashSet::new(),
        }
    }

    /// Returns when the next turn is due.
    pub fn next(&self) -> Instant {
        self.due().max(self.rests_until)
    }

    fn due(&self) -> Instant {
        if !self.to_call.is_empty() {
            return self.looked;
        }
        let pending = self.calls.iter().filter(|call| !call.is_over).map(|call| call.until);
        let beat = (self.told > BEAT).then_some(self.beat_at);
        let first = pending.chain(beat).chain(self.all_at).chain([self.speak_at]).min();
        first.map_or(self.look_at, |first| first.min(self.look_at))
    }

    /// Whether all hosts know each other by what each says to all.
    pub fn is_small(&self) -> bool {
        self.known < FEW
    }

    /// Completes a word to all: it counts as one of those that are due.
    pub fn stamp(&mut self, word: Announcement, now: Instant) -> Announcement {
        self.told = self.wanted;
        self.spoke_at = Some(now);
        // Before the time that is told, and not all at the same time.
        let early = self.told.saturating_sub(BEAT).mul_f64(rand::random::<f64>() / 8.0);
        self.speak_at = now + self.told - early;
        self.sign(word)
    }

    /// Puts off all that is due for a moment, since this host cannot judge others now. If that
    /// takes long it gives them the time to be heard again.
    pub fn postpone(&mut self, now: Instant) {
        self.rests_until = now + LOOK;
    }

    /// Takes in a word of another host that the table has taken: one to all, or a beat to those
    /// that watch it.
    pub fn hear(
        &mut self,
        table: &Table,
        word: &Announcement,
        heard: &Heard,
        is_beat: bool,
        now: Instant,
    ) {
        if matches!(heard, Heard::Ignored | Heard::Twin { .. } | Heard::Left) {
            return;
        }
        if matches!(heard, Heard::Back { .. }) && !self.is_small() {
            if self.lost >= SEVERAL {
                self.plan_all(now);
            } else if is_beat {
                // Others took it for lost as well, and do not hear this.
                self.call(&word.host, now);
            }
        }
        let within = match word.within_ms {
            0 => self.spread(),
            within_ms => Duration::from_millis(within_ms).min(BEAT_MAX),
        };
        for name in word.call.iter().take(CALLED_MAX) {
            if self.is_known(table, name) {
                self.take_call(name, within, now);
            }
        }
    }

    /// Whether a name in a call is that of all, of a host or of a group.
    fn is_known(&self, table: &Table, name: &str) -> bool {
        self.is_for_this_one(name) || self.groups.contains(name) || table.find(name).is_some()
    }

    /// Whether this host is among those that a name in a call means.
    fn is_for_this_one(&self, name: &str) -> bool {
        name == ALL || name == &*self.own || name == self.at
    }

    /// Notes that this host is connected anew, perhaps elsewhere: it may have missed something.
    pub fn rejoin(&mut self, at: String, now: Instant) {
        self.at = at;
        self.speak_soon(now);
        if !self.is_small() {
            self.plan_all(now);
        }
    }

    /// Says to all that it is there, of many hosts not all at the same time.
    fn speak_soon(&mut self, now: Instant) {
        self.speak_at = match self.is_small() {
            true => now,
            false => self.speak_at.min(now + self.spread().mul_f64(rand::random())),
        };
    }

    /// The time over which the answers of all are spread, by the hosts that are known here.
    pub(super) fn spread(&self) -> Duration {
        spread(self.known + 1)
    }

    /// Does what is due.
    pub fn turn(&mut self, table: &Table, now: Instant) -> Turn {
        let mut turn = Turn::default();
        if now >= self.look_at {
            self.look(table, now, &mut turn);
        }
        self.end_calls(table, now, &mut turn);
        if self.all_at.is_some_and(|at| at <= now) {
            self.all_at = None;
            self.call(ALL, now);
        }
        let names = self.to_call.len().min(CALLED_MAX);
        let call: Vec<String> = self.to_call.drain(..names).collect();
        let within = self.spread();
        for name in &call {
            self.take_call(name, within, now);
        }
        if !call.is_empty() || now >= self.speak_at {
            let calls_all = call.iter().any(|name| name == ALL);
            let within_ms = if calls_all { clock::millis(within) } else { 0 };
            let word = Announcement { call, within_ms, ..table.own_beat() };
            turn.word = Some(self.stamp(word, now));
        }
        if self.told > BEAT && now >= self.beat_at {
            self.beat_at = now + BEAT;
            turn.beat = Some(self.sign(table.own_beat()));
        }
        turn
    }

    /// Completes a word: where this host is, and how often it speaks.
    pub fn sign(&self, word: Announcement) -> Announcement {
        let interval_ms = if self.told > BEAT { clock::millis(self.told) } else { 0 };
        Announcement { at: self.at.clone(), interval_ms, ..word }
    }

    /// Looks for the silent.
    fn look(&mut self, table: &Table, now: Instant, turn: &mut Turn) {
        let was_paused = now.saturating_duration_since(self.looked) > BEAT;
        (self.looked, self.look_at) = (now, now + LOOK);
        if was_paused {
            // It was this host that heard nothing.
            table.reset_timers();
            self.listens.values_mut().for_each(|since| *since = now);
            self.calls.clear();
            self.speak_soon(now);
            return;
        }
        let others = table.others();
        self.count(&others, now);
        let silent = silent(&others, &self.listens, now);
        turn.lost.extend(silent.into_iter().filter(|peer| peer.lose_silent(now)));
        let duty = self.duty(&others);
        self.listen(table, &duty, now, turn);
        for host in &duty.hosts {
            if table.find(host).is_some_and(|peer| self.is_suspect(&peer, now)) {
                self.call(host, now);
            }
        }
        for (at, voices) in &duty.groups {
            let voices: Vec<_> = voices.iter().filter_map(|host| table.find(host)).collect();
            if !voices.is_empty() && voices.iter().all(|peer| self.is_suspect(peer, now)) {
                self.call(at, now);
            }
        }
        if !self.is_small() {
            // Calls without an answer cannot tell a host that is gone from one that is slow.
            for peer in others.iter().filter(|peer| peer.take_doubt()) {
                self.call(&peer.id, now);
            }
        }
    }

    /// Counts the hosts, which says how often this one speaks.
    fn count(&mut self, others: &[Arc<Peer>], now: Instant) {
        self.known = others.len();
        self.lost = others.iter().filter(|peer| peer.is_lost()).count();
        self.groups = others.iter().map(|peer| Arc::clone(&peer.state().at)).collect();
        let is_any_old = others.iter().any(|peer| !peer.is_lost() && peer.state().at.is_empty());
        // Hosts of before expect all to speak every second.
        let there = self.known - self.lost + 1;
        self.wanted = if is_any_old { BEAT } else { interval(there) };
        let latest = self.spoke_at.map_or(now, |at| at + self.wanted);
        self.speak_at = self.speak_at.min(latest.max(now));
    }

    /// Returns the hosts and groups that this host watches.
    fn duty(&self, others: &[Arc<Peer>]) -> Duty {
        if others.iter().all(|peer| speaks_often(peer)) {
            return Duty::default();
        }
        let states: Vec<_> = others.iter().map(|peer| (peer, peer.state())).collect();
        let mut places: Vec<Place<'_>> = states
            .iter()
            .map(|(peer, state)| Place {
                id: &peer.id,
                place: peer.place,
                at: &state.at,
                is_there: !state.is_lost,
            })
            .collect();
        let own = Place { id: &self.own, place: place(&self.own), at: &self.at, is_there: true };
        places.push(own);
        duty(&self.own, places)
    }

    /// Finds out which beats it should hear.
    fn listen(&mut self, table: &Table, duty: &Duty, now: Instant, turn: &mut Turn) {
        let voices = duty.groups.iter().flat_map(|(_, voices)| voices);
        let speaks_seldom =
            |host: &&String| table.find(host).is_some_and(|peer| !speaks_often(&peer));
        let listen: HashSet<String> =
            duty.hosts.iter().chain(voices).filter(speaks_seldom).cloned().collect();
        self.listens.retain(|host, _| listen.contains(host));
        for host in &listen {
            self.listens.entry(host.clone()).or_insert(now);
        }
        turn.listen = Some(listen);
    }

    /// Whether a host should have been heard that was not.
    fn is_suspect(&self, peer: &Peer, now: Instant) -> bool {
        let state = peer.state();
        let Some(since) = self.listens.get(&*peer.id) else { return false };
        !state.is_lost
            && state.unheard(now) >= SUSPECT
            && now.saturating_duration_since(*since) >= SUSPECT
    }

    /// Calls a host or a group with the next word, unless it is being called.
    fn call(&mut self, name: &str, now: Instant) {
        let is_planned = self.to_call.iter().any(|other| other == name);
        if !is_planned && !self.is_called(name, now) && self.to_call.len() < CALLS_MAX {
            self.to_call.push(name.to_owned());
        }
    }

    fn plan_all(&mut self, now: Instant) {
        if self.all_at.is_none() && !self.is_called(ALL, now) {
            self.all_at = Some(now + ALL_WAIT.mul_f64(rand::random()));
        }
    }

    fn is_called(&self, name: &str, now: Instant) -> bool {
        self.calls.iter().any(|call| call.name == name && now < call.over_at())
    }

    /// Notes a call, and answers if it is for this host: within this time if it is for all.
    fn take_call(&mut self, name: &str, within: Duration, now: Instant) {
        if name.is_empty() || self.is_called(name, now) || self.calls.len() >= CALLS_MAX {
            return;
        }
        let within = match name {
            ALL => within,
            name if is_host(name) => Duration::ZERO,
            _ => GROUP_SPREAD,
        };
        let until = now + within + ANSWER;
        self.calls.push(Call { name: name.to_owned(), at: now, until, is_over: false });
        if name == ALL {
            self.all_at = None;
        }
        let spoke = self.spoke_at.is_some_and(|at| now.saturating_duration_since(at) < SPOKE);
        if self.is_for_this_one(name) && !spoke {
            self.speak_at = self.speak_at.min(now + within.mul_f64(rand::random()));
        }
    }

    /// Loses those that were called and have not answered in time.
    fn end_calls(&mut self, table: &Table, now: Instant, turn: &mut Turn) {
        let calls = self.calls.iter_mut().filter(|call| !call.is_over && call.until <= now);
        for call in calls {
            call.is_over = true;
            let enough = now.saturating_duration_since(call.at) + HEARD;
            let called = table.called(&call.name).into_iter();
            let silent = called.filter(|peer| peer.state().unheard(now) >= enough);
            let before = turn.lost.len();
            turn.lost.extend(silent.filter(|peer| peer.lose_silent(now)));
            if call.name != ALL {
                self.losses.extend((before..turn.lost.len()).map(|_| now));
            }
        }
        self.calls.retain(|call| !call.is_over || now < call.over_at());
        self.losses.retain(|at| now.saturating_duration_since(*at) < LATELY);
        if self.losses.len() >= MANY {
            self.losses.clear();
            self.plan_all(now);
        }
    }
}

impl Call {
    /// When the same may be called again.
    fn over_at(&self) -> Instant {
        let pause = if is_host(&self.name) { SPOKE } else { AGAIN };
        self.until.max(self.at + pause)
    }
}

/// Whether a name in a call is that of a host: a group has the beginning of a name.
fn is_host(name: &str) -> bool {
    name.len() > AT_CHARS
}

/// So many characters of the id of a NATS server name a group.
pub const AT_CHARS: usize = 10;

/// Returns those of which too long nothing was heard. If that is so of all, the cause is with this
/// host, and none is heard before the others. Where it should hear nobody every second, the words
/// to all may keep away for longer by chance.
fn silent(
    others: &[Arc<Peer>],
    listens: &HashMap<String, Instant>,
    now: Instant,
) -> Vec<Arc<Peer>> {
    let there: Vec<_> = others.iter().filter(|peer| !peer.is_lost()).collect();
    let is_steady = there.iter().any(|peer| speaks_often(peer) || listens.contains_key(&*peer.id));
    let patience = if is_steady { SILENT } else { SILENT * SELDOM };
    let is_cut_off = there.iter().all(|peer| peer.state().unheard(now) >= patience);
    let silent = there.into_iter().filter(|peer| is_cut_off || is_silent(peer, now));
    silent.cloned().collect()
}

/// Whether a host says to all every second that it is there.
fn speaks_often(peer: &Peer) -> bool {
    peer.state().interval <= BEAT
}

/// Whether too long nothing was heard of one host.
fn is_silent(peer: &Peer, now: Instant) -> bool {
    let state = peer.state();
    let patience = if state.interval > BEAT { state.interval * 5 / 2 } else { SILENT };
    state.unheard(now) >= patience
}

#[cfg(test)]
mod tests;

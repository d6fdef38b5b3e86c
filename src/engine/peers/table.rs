//! The hosts that are there and the calls they take: read by every call without a lock. Only the
//! service writes the list of peers and their offers; calls note what they meet.
//!
//! The state of each [peer](super::peer) is a snapshot, and so is the list of the peers that run a
//! target: a call costs a look at these, however large the lattice is.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    index::Index,
    peer::{News, Peer},
};
use lattice_protocol::{
    identity::keys::HostId,
    peers::wire::{ALL, Announcement, Change, Known, Offers, TARGETS_MAX},
};

/// Hosts that are kept in mind. Anybody who may speak to hosts can invent some, so those that are
/// lost, and those that have never answered a question, make room.
pub(crate) const PEERS_MAX: usize = 16_384;
/// Targets of all hosts together, some 100 bytes each, and four times as many where names are as
/// long as they may be. Half of them are for hosts that have answered a question; targets beyond
/// are reached through their queue groups.
const NAMED_MAX: usize = 1 << 20;

/// How a target is reached on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    Direct,
    Group,
}

/// The hosts that a call may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidates {
    /// All that run the target, this host among them.
    All,
    Others,
}

/// Whether hosts run a target, by what they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Runs,
    /// Only hosts that are silent do.
    Lost,
    /// None says so; hosts of earlier years say nothing.
    Unseen,
}

/// The effect of a message that was heard.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing to do.
    Known,
    /// Its host offers something we do not know; it has to be asked.
    Ask,
    /// It came, with all it offers or to be asked.
    New { ask: bool },
    /// It had been silent, and may have to be asked.
    Back { ask: bool },
    /// It said goodbye.
    Left,
    /// Another process has the key of this host.
    Twin { incarnation: u64 },
    /// The announcement is this host's own, or makes no sense.
    Ignored,
}

/// All peers, this host among them.
pub struct Table {
    own: Arc<Peer>,
    peers: ArcSwap<Vec<Arc<Peer>>>,
    peers_max: usize,
    named_max: usize,
    /// Peers that were taken out since the start.
    removed: AtomicU64,
    by_id: Index<Arc<Peer>>,
    /// The peers that run a target, however it is reached.
    by_target: Index<Arc<[Arc<Peer>]>>,
    /// Targets of all peers together.
    named: AtomicUsize,
    /// The offers of this host, and the number of its roster.
    offered: Mutex<Offered>,
    /// Where the next choice begins, so that equals take turns.
    turn: AtomicUsize,
}

struct Offered {
    /// Of this start of the host.
    incarnation: u64,
    roster: u64,
    /// The first roster without what was taken back last.
    retracted: u64,
    /// The roster that was told last, with these targets.
    told: (u64, Offers),
    offers: Offers,
}

impl Table {
    pub fn new(own: &str) -> Self {
        Self::with_max(own, PEERS_MAX)
    }

    fn with_max(own: &str, peers_max: usize) -> Self {
        let own = Arc::new(Peer::new(own.into(), true));
        // A host with a fixed key begins to count anew when it is started again. Numbers that every
        // JSON reader keeps whole.
        let incarnation = rand::random::<u64>() >> 11;
        let offered = Offered {
            incarnation,
            roster: 0,
            retracted: 0,
            told: Default::default(),
            offers: Offers::default(),
        };
        Self {
            peers: ArcSwap::from_pointee(vec![Arc::clone(&own)]),
            own,
            peers_max,
            named_max: NAMED_MAX,
            removed: AtomicU64::new(0),
            by_id: Index::default(),
            by_target: Index::default(),
            named: AtomicUsize::new(0),
            offered: Mutex::new(offered),
            turn: AtomicUsize::new(0),
        }
    }

    /// See [`Peers::choose`](super::Peers::choose).
    pub fn choose(
        &self,
        target: &str,
        not: &[Arc<Peer>],
        candidates: Candidates,
    ) -> Option<Arc<Peer>> {
        let peers = self.by_target.get(target)?;
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        (0..peers.len())
            .map(|step| &peers[start.wrapping_add(step) % peers.len()])
            .filter(|peer| candidates == Candidates::All || !peer.is_own)
            .filter(|peer| peer.takes(target, now))
            .filter(|peer| !not.iter().any(|tried| Arc::ptr_eq(tried, peer)))
            .min_by_key(|peer| peer.cost(target, now))
            .cloned()
    }

    /// The other hosts that run a target.
    pub fn runners(&self, target: &str) -> Vec<Arc<Peer>> {
        let peers = self.by_target.get(target).unwrap_or_default();
        peers.iter().filter(|peer| !peer.is_own).cloned().collect()
    }

    /// Whether a target runs, here or elsewhere, that is reached through its queue group only.
    pub fn is_indirect(&self, target: &str) -> bool {
        let peers = self.by_target.get(target).unwrap_or_default();
        peers.iter().any(|peer| !peer.is_direct(target))
    }

    /// Whether other hosts run a target.
    pub fn presence(&self, target: &str) -> Presence {
        let Some(peers) = self.by_target.get(target) else { return Presence::Unseen };
        let mut presence = Presence::Unseen;
        for peer in peers.iter().filter(|peer| !peer.is_own) {
            if !peer.is_lost() {
                return Presence::Runs;
            }
            presence = Presence::Lost;
        }
        presence
    }

    /// The id of this host.
    pub fn own_id(&self) -> &str {
        &self.own.id
    }

    /// Another host.
    pub fn find(&self, host: &str) -> Option<Arc<Peer>> {
        self.by_id.get(host)
    }

    /// Whether this start of a host is there, with the offers of this roster.
    pub fn knows(&self, host: &str, incarnation: u64, roster: u64) -> bool {
        host == &*self.own.id
            || self.find(host).is_some_and(|peer| {
                let Known(_, known, of) = peer.known();
                !peer.is_lost() && (known, of) == (incarnation, roster)
            })
    }

    /// The other hosts that a call names: one, those at a NATS server, or all.
    pub fn called(&self, name: &str) -> Vec<Arc<Peer>> {
        if let Some(peer) = self.find(name) {
            return vec![peer];
        }
        let is_called = |peer: &Arc<Peer>| name == ALL || *peer.state().at == *name;
        self.others().into_iter().filter(is_called).collect()
    }

    /// The number of the other hosts.
    pub fn count(&self) -> usize {
        self.peers.load().len() - 1
    }

    /// How many hosts were taken out since the start: what is kept of hosts beside this table is
    /// looked through when it grows.
    pub fn removed(&self) -> u64 {
        self.removed.load(Ordering::Relaxed)
    }

    /// All hosts but this one.
    pub fn others(&self) -> Vec<Arc<Peer>> {
        self.peers.load().iter().filter(|peer| !peer.is_own).cloned().collect()
    }

    /// Adds to what this host offers.
    pub fn advertise(&self, target: &str, reach: Reach) {
        let mut offered = self.offered.lock();
        list(&mut offered.offers, reach).push(target.to_owned());
        offered.roster += 1;
        let change = Change { added: one(target, reach), ..Change::default() };
        self.change_own(offered.roster, &change);
    }

    /// Takes back what was offered once; returns the number of the roster without it, if it was
    /// there.
    pub fn retract(&self, target: &str, reach: Reach) -> Option<u64> {
        let mut offered = self.offered.lock();
        let list = list(&mut offered.offers, reach);
        let place = list.iter().position(|name| name == target)?;
        list.swap_remove(place);
        let is_gone = !list.iter().any(|name| name == target);
        offered.roster += 1;
        offered.retracted = offered.roster;
        let removed = if is_gone { one(target, reach) } else { Offers::default() };
        self.change_own(offered.roster, &Change { removed, ..Change::default() });
        Some(offered.roster)
    }

    fn change_own(&self, roster: u64, change: &Change) {
        self.track(&self.own, Some(change), || self.own.change_offers(roster, change));
    }

    /// Changes what a peer runs, and the lists of those that run a target with it. Only the targets
    /// of `named` can be others afterwards, if it is given.
    fn track<R>(&self, peer: &Arc<Peer>, named: Option<&Change>, change: impl FnOnce() -> R) -> R {
        let before = peer.targets();
        let result = change();
        let after = peer.targets();
        if before.iter().zip(&after).all(|(before, after)| Arc::ptr_eq(before, after)) {
            return result;
        }
        let (added, removed) = match named {
            Some(named) => (among(named, &after, &before), among(named, &before, &after)),
            None => (only_in(&after, &before), only_in(&before, &after)),
        };
        for name in &added {
            self.by_target.change(name, |peers| {
                Some(
                    peers
                        .into_iter()
                        .flat_map(|peers| peers.iter())
                        .chain([peer])
                        .cloned()
                        .collect(),
                )
            });
        }
        self.named.fetch_add(added.len(), Ordering::Relaxed);
        for name in &removed {
            self.by_target.change(name, |peers| {
                let others = peers?.iter().filter(|other| !Arc::ptr_eq(other, peer));
                let others: Arc<[_]> = others.cloned().collect();
                (!others.is_empty()).then_some(others)
            });
        }
        self.named.fetch_sub(removed.len(), Ordering::Relaxed);
        result
    }

    /// Returns what this host offers since it told that last, or everything if that is shorter, and
    /// whether the others are to confirm that they know: something was taken back.
    pub fn tell(&self) -> (Announcement, bool) {
        let mut offered = self.offered.lock();
        let offers = offered.bounded();
        let telling = (offered.roster, offers.clone());
        let (from, told) = std::mem::replace(&mut offered.told, telling);
        let change =
            Change { from, added: missing_in(&offers, &told), removed: missing_in(&told, &offers) };
        let is_short = from > 0 && change.added.len() + change.removed.len() < offers.len();
        let beat = self.beat(&offered);
        let word = match is_short {
            true => Announcement { change: Some(change), ..beat },
            false => Announcement { offers: Some(offers), ..beat },
        };
        (word, offered.retracted > from)
    }

    /// Returns this host's announcement of everything it offers.
    pub fn own_announcement(&self) -> Announcement {
        let offered = self.offered.lock();
        Announcement { offers: Some(offered.bounded()), ..self.beat(&offered) }
    }

    /// Returns this host's announcement that it is there, without its offers.
    pub fn own_beat(&self) -> Announcement {
        self.beat(&self.offered.lock())
    }

    fn beat(&self, offered: &Offered) -> Announcement {
        let Offered { incarnation, roster, .. } = *offered;
        Announcement {
            host: self.own.id.to_string(),
            incarnation,
            roster,
            ..Announcement::default()
        }
    }

    /// Applies what a host answered to a question of this one.
    pub fn apply_answer(&self, announcement: &Announcement) -> Heard {
        let heard = self.apply(announcement);
        if let Some(peer) = self.find(&announcement.host) {
            peer.prove();
        }
        heard
    }

    /// Whether a host is to be asked so that it is known to be there: where there are so many that
    /// some may be invented.
    pub fn wants_proof(&self, host: &str) -> bool {
        self.peers.load().len() > self.peers_max / 2
            && self.find(host).is_some_and(|peer| !peer.is_proven())
    }

    /// Applies an announcement of another host.
    pub fn apply(&self, announcement: &Announcement) -> Heard {
        if announcement.host == *self.own.id {
            return self.apply_own(announcement.incarnation);
        }
        if HostId::parse(&announcement.host).is_err() {
            return Heard::Ignored;
        }
        match self.find(&announcement.host) {
            Some(peer) if announcement.goodbye => {
                peer.lose();
                self.remove(&peer);
                Heard::Left
            }
            None if announcement.goodbye => Heard::Ignored,
            Some(peer) => match self.take_in(&peer, announcement) {
                News { was_lost: true, ask } => Heard::Back { ask },
                News { ask: true, .. } => Heard::Ask,
                News { ask: false, .. } => Heard::Known,
            },
            None => {
                let peer = Arc::new(Peer::new(announcement.host.as_str().into(), false));
                if !self.add(&peer) {
                    return Heard::Ignored;
                }
                let News { ask, .. } = self.take_in(&peer, announcement);
                Heard::New { ask }
            }
        }
    }

    /// Applies an announcement to a peer, without further targets if there are too many: those that
    /// are known of it stay as long as it has them, and it is not asked for the others.
    fn take_in(&self, peer: &Arc<Peer>, announcement: &Announcement) -> News {
        let added = announcement.change.as_ref().map(|change| &change.added);
        let named = announcement.offers.as_ref().or(added).map_or(0, Offers::len);
        let room = if peer.is_proven() { self.named_max } else { self.named_max / 2 };
        if named > 0 && self.named.load(Ordering::Relaxed) + named > room {
            let without = without_news(announcement, &peer.targets());
            return self.track(peer, None, || peer.apply(&without));
        }
        let change = announcement.change.as_ref().filter(|_| peer.takes_change(announcement));
        self.track(peer, change, || peer.apply(announcement))
    }

    /// Tells an announcement of this host, which comes back to it, from that of a twin. A number of
    /// 0 is that of nobody.
    fn apply_own(&self, incarnation: u64) -> Heard {
        if incarnation == 0 || incarnation == self.offered.lock().incarnation {
            return Heard::Ignored;
        }
        Heard::Twin { incarnation }
    }

    /// Drops peers that were silent for very long.
    pub fn forget(&self, gone: Duration) {
        for peer in self.others().iter().filter(|peer| peer.is_lost() && peer.silence() >= gone) {
            self.remove(peer);
        }
    }

    /// Gives every peer that is not lost the time to be heard again.
    pub fn reset_timers(&self) {
        self.others().iter().for_each(|peer| peer.reset_timer());
    }

    /// Adds a peer, in the place of one that is worth less if there are too many.
    fn add(&self, peer: &Arc<Peer>) -> bool {
        let peers = self.peers.load();
        if peers.len() >= self.peers_max {
            let spare = |peer: &&Arc<Peer>| !peer.is_own && (peer.is_lost() || !peer.is_proven());
            // The lost first, and of these and the others those that were silent longest.
            let worst =
                peers.iter().filter(spare).max_by_key(|peer| (peer.is_lost(), peer.silence()));
            match worst {
                Some(worst) => self.remove(worst),
                None => return false,
            }
        }
        self.peers.rcu(|peers| {
            let mut more = Vec::clone(peers);
            more.push(Arc::clone(peer));
            more
        });
        self.by_id.change(&peer.id, |_| Some(Arc::clone(peer)));
        true
    }

    fn remove(&self, peer: &Arc<Peer>) {
        self.track(peer, None, || peer.clear_offers());
        self.by_id.change(&peer.id, |_| None);
        self.removed.fetch_add(1, Ordering::Relaxed);
        self.peers.rcu(|peers| {
            peers.iter().filter(|other| !Arc::ptr_eq(other, peer)).cloned().collect::<Vec<_>>()
        });
    }
}

impl Offered {
    /// The offers that are told.
    fn bounded(&self) -> Offers {
        let bounded = |names: &[String]| names.iter().take(TARGETS_MAX).cloned().collect();
        Offers { direct: bounded(&self.offers.direct), group: bounded(&self.offers.group) }
    }
}

/// The targets of a host: those that are called directly, and the others.
type Targets = [Arc<HashSet<Arc<str>>>; 2];

/// The name of a target, if it is there.
fn found<'a>(targets: &'a Targets, name: &str) -> Option<&'a Arc<str>> {
    targets.iter().find_map(|set| set.get(name))
}

/// The targets that are in these and not in those.
fn only_in(these: &Targets, those: &Targets) -> HashSet<Arc<str>> {
    let names = these.iter().flat_map(|set| set.iter());
    names.filter(|name| found(those, name).is_none()).cloned().collect()
}

/// The same of the targets that a change names.
fn among(change: &Change, these: &Targets, those: &Targets) -> HashSet<Arc<str>> {
    let names = [&change.added, &change.removed].into_iter();
    let names = names.flat_map(|offers| offers.direct.iter().chain(&offers.group));
    let names = names.filter(|name| found(those, name).is_none());
    names.filter_map(|name| found(these, name)).cloned().collect()
}

/// An announcement whose offers are only those that are known already.
fn without_news(announcement: &Announcement, known: &Targets) -> Announcement {
    let staying = |names: &[String]| {
        names.iter().filter(|name| found(known, name).is_some()).cloned().collect()
    };
    let only_known =
        |offers: &Offers| Offers { direct: staying(&offers.direct), group: staying(&offers.group) };
    let change = announcement
        .change
        .as_ref()
        .map(|change| Change { added: only_known(&change.added), ..change.clone() });
    let offers = announcement.offers.as_ref().map(only_known);
    Announcement { offers, change, ..announcement.clone() }
}

/// The targets that one roster has and the other one has not.
fn missing_in(these: &Offers, those: &Offers) -> Offers {
    let missing = |these: &[String], those: &[String]| {
        let those: HashSet<&String> = those.iter().collect();
        these.iter().filter(|name| !those.contains(name)).cloned().collect()
    };
    Offers {
        direct: missing(&these.direct, &those.direct),
        group: missing(&these.group, &those.group),
    }
}

fn one(target: &str, reach: Reach) -> Offers {
    let mut offers = Offers::default();
    list(&mut offers, reach).push(target.to_owned());
    offers
}

fn list(offers: &mut Offers, reach: Reach) -> &mut Vec<String> {
    match reach {
        Reach::Direct => &mut offers.direct,
        Reach::Group => &mut offers.group,
    }
}

#[cfg(test)]
mod tests;

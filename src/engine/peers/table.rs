//! The hosts that are there and the calls they take: read by every call without a lock. Only the
//! service writes the list of peers and their offers; calls note what they meet.
//!
//! The state of each [peer](super::peer) is a snapshot, so that a call costs a walk over the peers.
//! The list of peers changes when one comes or goes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::peer::{News, Peer};
use lattice_protocol::{
    identity::keys::HostId,
    peers::wire::{Announcement, Offers, TARGETS_MAX},
};

/// Hosts that are kept in mind. A lattice of that many machines would need another way to find each
/// other. Anybody who may speak to hosts can invent some, so those that are lost, and those that
/// have never answered a question, make room.
const PEERS_MAX: usize = 1024;

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
    /// The offers of this host, and the number of its roster.
    offered: Mutex<Offered>,
    /// Where the next choice begins, so that equals take turns.
    turn: AtomicUsize,
}

struct Offered {
    /// Of this start of the host.
    incarnation: u64,
    roster: u64,
    offers: Offers,
}

impl Table {
    pub fn new(own: &str) -> Self {
        let own = Arc::new(Peer::new(own.into(), true));
        // A host with a fixed key begins to count anew when it is started again. Numbers that every
        // JSON reader keeps whole.
        let incarnation = rand::random::<u64>() >> 11;
        Self {
            peers: ArcSwap::from_pointee(vec![Arc::clone(&own)]),
            own,
            offered: Mutex::new(Offered { incarnation, roster: 0, offers: Offers::default() }),
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
        let peers = self.peers.load();
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        (0..peers.len())
            .map(|step| &peers[start.wrapping_add(step) % peers.len()])
            .filter(|peer| candidates == Candidates::All || !peer.is_own)
            .filter(|peer| peer.takes(target, now))
            .filter(|peer| !not.iter().any(|tried| Arc::ptr_eq(tried, peer)))
            .min_by_key(|peer| peer.cost(now))
            .cloned()
    }

    /// The other hosts that run a target.
    pub fn runners(&self, target: &str) -> Vec<Arc<Peer>> {
        self.others().into_iter().filter(|peer| peer.runs(target)).collect()
    }

    /// Whether a target runs, here or elsewhere, that is reached through its queue group only.
    pub fn is_indirect(&self, target: &str) -> bool {
        self.peers.load().iter().any(|peer| peer.runs(target) && !peer.is_direct(target))
    }

    /// Whether other hosts run a target.
    pub fn presence(&self, target: &str) -> Presence {
        let mut presence = Presence::Unseen;
        let peers = self.peers.load();
        for peer in peers.iter().filter(|peer| !peer.is_own) {
            if peer.runs(target) {
                if !peer.is_lost() {
                    return Presence::Runs;
                }
                presence = Presence::Lost;
            }
        }
        presence
    }

    /// The id of this host.
    pub fn own_id(&self) -> &str {
        &self.own.id
    }

    /// All hosts but this one.
    pub fn others(&self) -> Vec<Arc<Peer>> {
        self.peers.load().iter().filter(|peer| !peer.is_own).cloned().collect()
    }

    /// Adds to what this host offers.
    pub fn advertise(&self, target: &str, reach: Reach) {
        self.change(|offers| {
            list(offers, reach).push(target.to_owned());
            true
        });
    }

    /// Takes back what was offered once; returns the number of the roster without it, if it was
    /// there.
    pub fn retract(&self, target: &str, reach: Reach) -> Option<u64> {
        self.change(|offers| {
            let list = list(offers, reach);
            let place = list.iter().position(|name| name == target);
            place.map(|place| list.swap_remove(place)).is_some()
        })
    }

    fn change(&self, change: impl FnOnce(&mut Offers) -> bool) -> Option<u64> {
        let mut offered = self.offered.lock();
        if !change(&mut offered.offers) {
            return None;
        }
        offered.roster += 1;
        self.own.set_offers(offered.roster, &offered.offers);
        Some(offered.roster)
    }

    /// Returns this host's announcement of everything it offers.
    pub fn own_announcement(&self) -> Announcement {
        let offered = self.offered.lock();
        let offers = Offers {
            direct: bounded(&offered.offers.direct),
            group: bounded(&offered.offers.group),
        };
        Announcement { offers: Some(offers), ..self.beat(&offered) }
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
        if let Some(peer) = self.peers.load().iter().find(|peer| *peer.id == *announcement.host) {
            peer.prove();
        }
        self.apply(announcement)
    }

    /// Whether a host is to be asked so that it is known to be there: where there are so many that
    /// some may be invented.
    pub fn wants_proof(&self, host: &str) -> bool {
        let peers = self.peers.load();
        peers.len() > PEERS_MAX / 2
            && peers.iter().any(|peer| *peer.id == *host && !peer.is_proven())
    }

    /// Applies an announcement of another host.
    pub fn apply(&self, announcement: &Announcement) -> Heard {
        if announcement.host == *self.own.id {
            return self.apply_own(announcement.incarnation);
        }
        if HostId::parse(&announcement.host).is_err() {
            return Heard::Ignored;
        }
        let known = self.peers.load().iter().find(|peer| *peer.id == *announcement.host).cloned();
        match known {
            Some(peer) if announcement.goodbye => {
                peer.lose();
                self.remove(&peer);
                Heard::Left
            }
            None if announcement.goodbye => Heard::Ignored,
            Some(peer) => match peer.apply(announcement) {
                News { was_lost: true, ask } => Heard::Back { ask },
                News { ask: true, .. } => Heard::Ask,
                News { ask: false, .. } => Heard::Known,
            },
            None => {
                let peer = Arc::new(Peer::new(announcement.host.as_str().into(), false));
                let News { ask, .. } = peer.apply(announcement);
                if self.add(peer) { Heard::New { ask } } else { Heard::Ignored }
            }
        }
    }

    /// Tells an announcement of this host, which comes back to it, from that of a twin. A number of
    /// 0 is that of nobody.
    fn apply_own(&self, incarnation: u64) -> Heard {
        if incarnation == 0 || incarnation == self.offered.lock().incarnation {
            return Heard::Ignored;
        }
        Heard::Twin { incarnation }
    }

    /// Loses peers that were silent for long and drops those silent for very long; returns the
    /// newly lost.
    pub fn look(&self, silent: Duration, gone: Duration) -> Vec<Arc<Peer>> {
        let others = self.others();
        for peer in others.iter().filter(|peer| peer.silence() >= gone) {
            self.remove(peer);
        }
        others.into_iter().filter(|peer| peer.silence() >= silent && peer.lose()).collect()
    }

    /// Gives every peer that is not lost the time to be heard again.
    pub fn reset_timers(&self) {
        self.others().iter().for_each(|peer| peer.reset_timer());
    }

    /// Adds a peer, in the place of one that is worth less if there are too many.
    fn add(&self, peer: Arc<Peer>) -> bool {
        let peers = self.peers.load();
        if peers.len() >= PEERS_MAX {
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
            more.push(Arc::clone(&peer));
            more
        });
        true
    }

    fn remove(&self, peer: &Arc<Peer>) {
        self.peers.rcu(|peers| {
            peers.iter().filter(|other| !Arc::ptr_eq(other, peer)).cloned().collect::<Vec<_>>()
        });
    }
}

fn bounded(names: &[String]) -> Vec<String> {
    names.iter().take(TARGETS_MAX).cloned().collect()
}

fn list(offers: &mut Offers, reach: Reach) -> &mut Vec<String> {
    match reach {
        Reach::Direct => &mut offers.direct,
        Reach::Group => &mut offers.group,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF";

    fn host() -> String {
        nkeys::KeyPair::new_server().public_key()
    }

    fn announcement(host: &str, roster: u64, direct: &[&str]) -> Announcement {
        let direct = direct.iter().map(|name| (*name).to_owned()).collect();
        Announcement {
            host: host.into(),
            roster,
            offers: Some(Offers { direct, group: vec!["V.p".into()] }),
            ..Announcement::default()
        }
    }

    fn chosen(table: &Table, target: &str) -> Option<String> {
        table.choose(target, &[], Candidates::All).map(|peer| peer.id.to_string())
    }

    #[test]
    fn calls_go_to_the_host_that_costs_least() {
        let (table, a, b) = (Table::new(OWN), host(), host());
        assert_eq!(table.apply(&announcement(&a, 1, &["M"])), Heard::New { ask: false });
        assert_eq!(table.apply(&announcement(&b, 1, &["M"])), Heard::New { ask: false });
        let first = table.choose("M", &[], Candidates::All).unwrap();
        let taken = first.take();
        let second = table.choose("M", &[], Candidates::All).unwrap();
        assert_ne!(first.id, second.id);
        let _also = second.take();
        drop(taken);
        assert_eq!(table.choose("M", &[], Candidates::All).unwrap().id, first.id);
        assert_eq!(
            table.choose("M", &[first, second], Candidates::All).map(|peer| peer.id.clone()),
            None
        );
        assert_eq!(
            chosen(&table, "V.p"),
            None,
            "what is reached through its group only is not chosen"
        );
        assert_eq!(table.runners("V.p").len(), 2);
        assert!(table.is_indirect("V.p") && !table.is_indirect("M"));
    }

    #[test]
    fn a_silent_host_gets_no_calls_until_it_is_heard_again() {
        let (table, a) = (Table::new(OWN), host());
        table.apply(&announcement(&a, 1, &["M"]));
        assert_eq!(table.look(Duration::ZERO, Duration::from_secs(9)).len(), 1);
        assert!(table.look(Duration::ZERO, Duration::from_secs(9)).is_empty(), "lost once");
        assert_eq!(chosen(&table, "M"), None);
        let beat = Announcement { host: a.clone(), roster: 1, ..Announcement::default() };
        assert_eq!(table.apply(&beat), Heard::Back { ask: false });
        assert_eq!(chosen(&table, "M"), Some(a.clone()));
        table.look(Duration::from_secs(9), Duration::ZERO);
        assert!(table.others().is_empty(), "silent for very long");
        assert_eq!(
            table.apply(&beat),
            Heard::New { ask: true },
            "it came back and what it offers is not known"
        );
    }

    #[test]
    fn what_a_host_offers_changes_and_old_answers_do_not_count() {
        let (table, a) = (Table::new(OWN), host());
        table.apply(&announcement(&a, 5, &["M"]));
        assert_eq!(table.apply(&announcement(&a, 4, &["OLD"])), Heard::Known);
        assert_eq!(chosen(&table, "OLD"), None);
        assert_eq!(
            table.apply(&Announcement { host: a.clone(), roster: 6, ..Announcement::default() }),
            Heard::Ask
        );
        table.apply(&announcement(&a, 6, &[]));
        assert_eq!(chosen(&table, "M"), None);
        table.apply(&announcement(&a, 7, &["M"]));
        assert_eq!(
            table.apply(&Announcement {
                host: a.clone(),
                goodbye: true,
                ..Announcement::default()
            }),
            Heard::Left
        );
        assert!(table.others().is_empty());
    }

    #[test]
    fn this_host_offers_and_takes_back() {
        let table = Table::new(OWN);
        table.advertise("M", Reach::Direct);
        table.advertise("M", Reach::Direct);
        assert_eq!(chosen(&table, "M").as_deref(), Some(OWN));
        assert_eq!(
            table.choose("M", &[], Candidates::Others).map(|peer| peer.id.clone()),
            None,
            "elsewhere nobody has it"
        );
        let before = table.own_announcement().roster;
        assert_eq!(table.retract("M", Reach::Direct), Some(before + 1));
        assert!(chosen(&table, "M").is_some(), "it was offered twice");
        table.retract("M", Reach::Direct);
        assert_eq!(chosen(&table, "M"), None);
        assert_eq!(table.retract("M", Reach::Direct), None);
    }

    #[test]
    fn near_hosts_are_preferred_until_they_have_more_to_do() {
        let (table, near, far) = (Table::new(OWN), host(), host());
        for host in [&near, &far] {
            table.apply(&announcement(host, 1, &["M"]));
        }
        for peer in table.others() {
            peer.record_latency(Duration::from_millis(if *peer.id == *near { 1 } else { 10 }));
        }
        let mut taken = Vec::new();
        for _ in 0..9 {
            let peer = table.choose("M", &[], Candidates::All).unwrap();
            assert_eq!(*peer.id, *near);
            taken.push(peer.take());
        }
        assert_eq!(chosen(&table, "M"), Some(far), "ten times as far, and nothing to do");
    }

    #[test]
    fn a_target_nobody_listened_for_is_tried_elsewhere_for_a_while() {
        let (table, a) = (Table::new(OWN), host());
        table.apply(&announcement(&a, 1, &["M", "N"]));
        table.choose("M", &[], Candidates::All).unwrap().mark_unavailable(&Arc::from("M"));
        assert_eq!(chosen(&table, "M"), None);
        assert_eq!(chosen(&table, "N"), Some(a.clone()));
        assert_eq!(table.runners("M").len(), 1, "it is still known to run it");
        table.apply(&announcement(&a, 2, &["M"]));
        assert_eq!(chosen(&table, "M"), Some(a), "it told anew");
    }

    #[test]
    fn a_host_that_was_started_again_counts_anew() {
        let (table, a) = (Table::new(OWN), host());
        table.apply(&Announcement { incarnation: 1, ..announcement(&a, 9, &["OLD"]) });
        let losses = table.others()[0].losses();
        assert_eq!(
            table.apply(&Announcement { incarnation: 2, ..announcement(&a, 1, &["NEW"]) }),
            Heard::Back { ask: false }
        );
        assert_eq!((chosen(&table, "OLD"), chosen(&table, "NEW")), (None, Some(a)));
        assert_eq!(table.others()[0].losses(), losses + 1, "its calls are lost");
    }

    #[test]
    fn a_host_is_never_lost_to_itself() {
        let table = Table::new(OWN);
        table.advertise("M", Reach::Direct);
        assert!(!table.choose("M", &[], Candidates::All).unwrap().lose());
        assert_eq!(chosen(&table, "M").as_deref(), Some(OWN));
    }

    #[test]
    fn a_word_under_the_own_key_that_is_not_the_own_tells_of_a_twin() {
        let table = Table::new(OWN);
        let own = table.own_announcement();
        assert_eq!(table.apply(&own), Heard::Ignored);
        assert_eq!(
            table.apply(&Announcement { incarnation: own.incarnation + 1, ..own.clone() }),
            Heard::Twin { incarnation: own.incarnation + 1 }
        );
        assert_eq!(
            table.apply(&Announcement { incarnation: own.incarnation + 1, goodbye: true, ..own }),
            Heard::Twin { incarnation: own.incarnation + 1 }
        );
        assert!(table.others().is_empty());
    }

    #[test]
    fn invented_hosts_make_room_for_those_that_answer() {
        let (table, first, late) = (Table::new(OWN), host(), host());
        table.apply(&announcement(&first, 1, &["M"]));
        assert!(!table.wants_proof(&first), "nobody is asked in a small lattice");
        table.apply_answer(&announcement(&first, 1, &["M"]));
        for _ in 0..PEERS_MAX + 100 {
            table.apply(&announcement(&host(), 1, &["M"]));
        }
        assert_eq!(table.others().len(), PEERS_MAX - 1);
        assert_eq!(table.apply(&announcement(&late, 1, &["LATE"])), Heard::New { ask: false });
        assert!(table.wants_proof(&late) && !table.wants_proof(&first));
        table.apply_answer(&announcement(&late, 1, &["LATE"]));
        for _ in 0..PEERS_MAX {
            table.apply(&announcement(&host(), 1, &["M"]));
        }
        for (id, target) in [(&first, "M"), (&late, "LATE")] {
            assert!(table.runners(target).iter().any(|peer| *peer.id == **id), "{target}");
        }
        // One that proved itself and is lost goes before those that are new.
        let lost = table.runners("LATE").remove(0);
        lost.lose();
        table.apply(&announcement(&host(), 1, &["M"]));
        assert!(table.runners("LATE").is_empty());
    }

    #[test]
    fn an_answer_puts_right_what_somebody_else_said_of_a_host() {
        let (table, real) = (Table::new(OWN), host());
        table.apply(&announcement(&real, 5, &["M"]));
        table.apply(&announcement(&real, u64::MAX, &[]));
        assert_eq!(chosen(&table, "M"), None);
        assert_eq!(
            table.apply(&Announcement { host: real.clone(), roster: 5, ..Announcement::default() }),
            Heard::Ask
        );
        table.apply_answer(&announcement(&real, 5, &["M"]));
        assert_eq!(chosen(&table, "M"), Some(real));
    }

    #[test]
    fn it_is_known_whether_a_target_runs_and_whether_its_hosts_are_silent() {
        let (table, a) = (Table::new(OWN), host());
        table.advertise("OWN", Reach::Direct);
        table.apply(&announcement(&a, 1, &["M"]));
        assert_eq!((table.presence("M"), table.presence("V.p")), (Presence::Runs, Presence::Runs));
        assert_eq!(
            (table.presence("OWN"), table.presence("X")),
            (Presence::Unseen, Presence::Unseen)
        );
        table.others()[0].lose();
        assert_eq!(table.presence("M"), Presence::Lost);
    }

    #[test]
    fn words_of_nobody_are_ignored() {
        let table = Table::new(OWN);
        for host in ["", OWN, "NABC", "MDWUSKGGFDI4FRXK5EBTRECZSVQSSWJHHJOGH6JWG3AUMFFMQ435C2JZ"] {
            assert_eq!(table.apply(&announcement(host, 1, &["M"])), Heard::Ignored, "{host}");
        }
    }
}

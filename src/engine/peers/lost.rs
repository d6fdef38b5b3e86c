//! Remembers what other hosts run, and the hosts that vanished without a goodbye.
//!
//! A host that is lost cannot be asked any more, so some of the others ask each host for its
//! inventory whenever that has changed: the [`KEEPERS`] whom [`is_chosen`] chooses, the same on
//! every host, so that a large lattice does not ask everybody for everything. These change with the
//! hosts that are there; one that is none of them any more keeps what it knows, as the next one may
//! not have learnt it yet. Clients put together what several tell by when they learnt it.
//! When the host falls silent, it is remembered with what it ran last, and when it told
//! that, for a day at most ([`KEPT_MS`]); it is forgotten when it is heard again, when it says
//! goodbye after all, or when somebody asks for that.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::Hasher,
    sync::Arc,
};

use parking_lot::Mutex;

use super::ring::Fnv;
use lattice_protocol::control::{
    probe::lost::{KEPT_MS, LostHost},
    types::Inventory,
};

/// Hosts that know what another one runs; so many may vanish together with it.
pub const KEEPERS: usize = 4;
/// Lost hosts that are remembered; the oldest make room.
const LOST_MAX: usize = 256;
/// Hosts whose inventory is remembered; the one learnt first makes room, unless it is lost.
const KNOWN_MAX: usize = 1024;
/// Bytes that a remembered inventory may have, as it came.
pub const INVENTORY_BYTES_MAX: usize = 256 << 10;

/// The memory of other hosts.
#[derive(Default)]
pub struct Memory {
    // Held for lines, never across an await.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    known: HashMap<String, Told>,
    lost: BTreeMap<String, Lost>,
}

/// The inventory of a host, and when it told that.
#[derive(Clone)]
struct Told {
    at_ms: u64,
    inventory: Arc<Inventory>,
}

struct Lost {
    at_ms: u64,
    told: Told,
}

impl Memory {
    /// Notes what a host runs, as it told at this time.
    pub fn learn(&self, host: &str, inventory: Inventory, at_ms: u64) {
        let mut inner = self.inner.lock();
        let Inner { known, lost } = &mut *inner;
        if known.len() >= KNOWN_MAX && !known.contains_key(host) {
            let there = known.iter().filter(|(host, _)| !lost.contains_key(*host));
            let oldest = there.min_by_key(|(_, told)| told.at_ms);
            let Some(oldest) = oldest.map(|(host, _)| host.clone()) else { return };
            known.remove(&oldest);
        }
        known.insert(host.to_owned(), Told { at_ms, inventory: Arc::new(inventory) });
    }

    /// Forgets what hosts ran that are neither there nor lost.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        let mut inner = self.inner.lock();
        let Inner { known, lost } = &mut *inner;
        known.retain(|host, _| lost.contains_key(host) || is_there(host));
    }

    /// Returns what a host ran when it was last asked.
    pub fn known(&self, host: &str) -> Option<Arc<Inventory>> {
        self.inner.lock().known.get(host).map(|told| Arc::clone(&told.inventory))
    }

    /// Notes that a host fell silent. Only those that answered once are remembered: anybody who
    /// may speak to hosts can invent others.
    pub fn lose(&self, host: &str, at_ms: u64) {
        let mut inner = self.inner.lock();
        let Some(told) = inner.known.get(host).cloned() else { return };
        inner.lost.entry(host.to_owned()).or_insert(Lost { at_ms, told });
        if inner.lost.len() > LOST_MAX {
            let oldest = inner.lost.iter().min_by_key(|(_, lost)| lost.at_ms);
            if let Some(oldest) = oldest.map(|(host, _)| host.clone()) {
                inner.lost.remove(&oldest);
                inner.known.remove(&oldest);
            }
        }
    }

    /// Notes that a host is there.
    pub fn find(&self, host: &str) {
        self.inner.lock().lost.remove(host);
    }

    /// Forgets all of a host: it said goodbye, or nobody wants to know of it any more.
    pub fn forget(&self, host: &str) {
        let mut inner = self.inner.lock();
        inner.lost.remove(host);
        inner.known.remove(host);
    }

    /// Returns the ids of the lost hosts.
    pub fn lost_ids(&self, now_ms: u64) -> HashSet<String> {
        let mut inner = self.inner.lock();
        inner.forget_old(now_ms);
        inner.lost.keys().cloned().collect()
    }

    /// Returns the lost hosts, those lost last first.
    pub fn lost(&self, now_ms: u64) -> Vec<LostHost> {
        let mut inner = self.inner.lock();
        inner.forget_old(now_ms);
        let told = inner.lost.iter().map(|(host, lost)| LostHost {
            id: host.clone(),
            lost_ms: lost.at_ms,
            told_ms: lost.told.at_ms,
            inventory: Inventory::clone(&lost.told.inventory),
        });
        let mut told: Vec<LostHost> = told.collect();
        told.sort_by(|a, b| (b.lost_ms, &a.id).cmp(&(a.lost_ms, &b.id)));
        told
    }
}

impl Inner {
    /// Forgets what is too long ago.
    fn forget_old(&mut self, now_ms: u64) {
        let Self { known, lost } = self;
        lost.retain(|host, lost| {
            let is_kept = now_ms.saturating_sub(lost.at_ms) < KEPT_MS;
            if !is_kept {
                known.remove(host);
            }
            is_kept
        });
    }
}

/// Whether `own` is one of the `count` hosts that are chosen for `host`, where `others` are there
/// as well. Every host comes to the same answer.
pub fn is_chosen<'a>(
    own: &str,
    host: &str,
    others: impl Iterator<Item = &'a str>,
    count: usize,
) -> bool {
    let rank = weight(own, host);
    let before = others
        .filter(|other| *other != host && *other != own)
        .filter(|other| (weight(other, host), *other) < (rank, own));
    before.take(count).count() < count
}

/// A number that two hosts have together, spread evenly (FNV-1a).
fn weight(keeper: &str, host: &str) -> u64 {
    let mut hasher = Fnv::default();
    hasher.write(keeper.as_bytes());
    hasher.write(host.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Inventory {
        Inventory { friendly_name: name.into(), ..Inventory::default() }
    }

    fn lost(memory: &Memory, now_ms: u64) -> Vec<(String, u64, String)> {
        let told = memory.lost(now_ms).into_iter();
        told.map(|host| (host.id, host.lost_ms, host.inventory.friendly_name)).collect()
    }

    #[test]
    fn a_lost_host_is_told_with_what_it_ran_last_until_it_is_back_forgotten_or_too_old() {
        let memory = Memory::default();
        memory.learn("NA", named("first"), 700);
        memory.learn("NA", named("a"), 800);
        memory.learn("NB", named("b"), 800);
        memory.lose("NX", 900);
        memory.lose("NA", 1000);
        memory.lose("NA", 2000);
        memory.lose("NB", 3000);
        let (a, b) =
            (("NA".to_owned(), 1000, "a".to_owned()), ("NB".to_owned(), 3000, "b".to_owned()));
        assert_eq!(lost(&memory, 4000), [b.clone(), a]);
        assert_eq!(memory.lost(4000)[1].told_ms, 800);
        assert_eq!(lost(&memory, 1000 + KEPT_MS), [b]);
        memory.find("NB");
        assert!(lost(&memory, 4000).is_empty());
        memory.lose("NA", 5000);
        memory.forget("NA");
        assert!(lost(&memory, 6000).is_empty());
        memory.lose("NA", 7000);
        assert!(lost(&memory, 7000).is_empty(), "what it ran is forgotten as well");
    }

    #[test]
    fn what_hosts_ran_that_are_neither_there_nor_lost_is_forgotten() {
        let memory = Memory::default();
        let known = || ["NA", "NB", "NC"].map(|host| memory.known(host).is_some());
        ["NA", "NB", "NC"].iter().for_each(|host| memory.learn(host, named("x"), 1));
        memory.lose("NA", 2);
        memory.retain(|host| host == "NC");
        assert_eq!(known(), [true, false, true]);
        memory.lose("NB", 3);
        assert_eq!(memory.lost_ids(4), HashSet::from(["NA".to_owned()]));
    }

    #[test]
    fn what_was_learnt_first_makes_room_unless_its_host_is_lost() {
        let memory = Memory::default();
        let host = |number: usize| format!("N{number}");
        for number in 0..KNOWN_MAX {
            memory.learn(&host(number), named("x"), number as u64);
        }
        memory.lose(&host(0), 5000);
        memory.learn(&host(KNOWN_MAX), named("x"), 5000);
        let known = [0, 1, 2, KNOWN_MAX].map(|number| memory.known(&host(number)).is_some());
        assert_eq!(known, [true, false, true, true]);
    }

    #[test]
    fn the_oldest_losses_make_room() {
        let memory = Memory::default();
        for number in 0..LOST_MAX as u64 + 3 {
            memory.learn(&format!("N{number}"), Inventory::default(), 0);
            memory.lose(&format!("N{number}"), number);
        }
        let told = memory.lost(1000);
        assert_eq!((told.len(), told.last().unwrap().lost_ms), (LOST_MAX, 3));
    }

    #[test]
    fn a_few_hosts_keep_what_another_one_runs_and_all_agree_on_them() {
        for count in [1, 3, 50] {
            let hosts: Vec<String> = (0..count).map(|number| format!("N{number}")).collect();
            for host in &hosts {
                let others = || hosts.iter().map(String::as_str);
                let keepers = hosts.iter().filter(|own| *own != host);
                let keepers = keepers.filter(|own| is_chosen(own, host, others(), KEEPERS)).count();
                assert_eq!(keepers, KEEPERS.min(count - 1), "of {count}");
            }
        }
    }
}

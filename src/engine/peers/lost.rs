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
//!
//! Anybody who may speak to hosts can invent some, and tell anything of them. So inventories are
//! kept as text, in a budget, and what hosts of no trusted cluster tell cannot displace the others.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::Hasher,
    sync::Arc,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::{RawValue, to_raw_value};

use super::ring::Fnv;
use lattice_base::config::labels;
use lattice_protocol::{
    control::{answer, bounds::NAME_BYTES_MAX, probe::lost::KEPT_MS, types::Inventory},
    serde_null::is_zero,
};

/// Hosts that know what another one runs; so many may vanish together with it.
pub const KEEPERS: usize = 4;
/// Lost hosts that are remembered; the oldest make room.
const LOST_MAX: usize = 256;
/// Hosts of each kind whose inventory is remembered; the one learnt first makes room, and of the
/// lost ones the one that was lost first.
const KNOWN_MAX: usize = 1024;
/// Bytes that a remembered inventory may have as text, and one of a host that no trusted cluster
/// certified: of a larger one only the head is remembered.
pub const INVENTORY_BYTES_MAX: usize = 1 << 20;
const OTHERS_INVENTORY_BYTES_MAX: usize = 256 << 10;
/// Bytes of all remembered inventories of hosts that a trusted cluster certified, and of all
/// others: 64 MB at the worst, however many hosts are invented. Without common clusters all are
/// others, and there is room for 400 hosts with a hundred actors each; a host remembers about
/// [`KEEPERS`].
const MEMBERS_BYTES_MAX: usize = 48 << 20;
const OTHERS_BYTES_MAX: usize = 16 << 20;

/// The memory of other hosts.
#[derive(Default)]
pub struct Memory {
    // Held for lines, never across an await.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    known: HashMap<String, Told>,
    /// When a host was missed; each of these is known.
    lost: BTreeMap<String, u64>,
}

/// The inventory of a host, and when it told that.
struct Told {
    at_ms: u64,
    /// A trusted cluster certified the host.
    is_member: bool,
    text: Text,
}

/// An inventory as JSON: in memory it may be many times as large.
#[derive(Clone, Debug)]
pub struct Text {
    whole: Arc<RawValue>,
    /// Without what the host runs.
    head: Arc<RawValue>,
    /// The host told what it runs.
    tells_runs: bool,
}

/// A host that does not know the question, or runs too much for an answer, tells no actors, not
/// even none.
#[derive(Deserialize)]
struct Runs {
    #[serde(default)]
    actors: Option<IgnoredAny>,
}

impl Text {
    /// Takes what a host answered: the id that it gives, and its inventory; nothing if it is none,
    /// or a larger one than hosts tell.
    pub fn read(answered: &[u8]) -> Option<(String, Self)> {
        if answered.len() > INVENTORY_BYTES_MAX || answer::check(answered).is_err() {
            return None;
        }
        let mut inventory: Inventory = serde_json::from_slice(answered).ok()?;
        let host = inventory.host_id.clone();
        cut_head(&mut inventory);
        let tells_runs =
            serde_json::from_slice(answered).is_ok_and(|Runs { actors }| actors.is_some());
        let text = Self { tells_runs, ..Self::of(inventory)? };
        (text.whole.get().len() <= INVENTORY_BYTES_MAX).then_some((host, text))
    }

    pub(super) fn of(inventory: Inventory) -> Option<Self> {
        let whole = to_raw_value(&inventory).ok()?;
        let head = Inventory { actors: Vec::new(), providers: Vec::new(), ..inventory };
        Some(Self { whole: whole.into(), head: to_raw_value(&head).ok()?.into(), tells_runs: true })
    }

    fn without_runs(self) -> Self {
        Self { whole: Arc::clone(&self.head), tells_runs: false, ..self }
    }

    fn bytes(&self) -> usize {
        self.whole.get().len() + self.head.get().len()
    }
}

/// Cuts what a host says of itself to what one of this make may have: it goes into events, and
/// takes its room in answers.
fn cut_head(inventory: &mut Inventory) {
    let Inventory { host_id, issuer, friendly_name, version, uptime_human, .. } = inventory;
    for text in [host_id, issuer, friendly_name, version, uptime_human] {
        text.truncate(text.floor_char_boundary(NAME_BYTES_MAX));
    }
    let all = inventory.labels.iter().map(|(key, value)| (&**key, &**value));
    inventory.labels = labels::kept(all);
}

/// A lost host as [`Lost`](lattice_protocol::control::probe::lost::Lost) tells it.
#[derive(Debug, Serialize)]
pub struct LostHost {
    pub id: String,
    pub lost_ms: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub told_ms: u64,
    pub inventory: Arc<RawValue>,
    /// The inventory without what the host ran.
    #[serde(skip)]
    pub head: Arc<RawValue>,
}

impl Memory {
    /// Notes what a host runs, as it told at this time; `is_member` if a trusted cluster certified
    /// it. Returns the hosts that made room, of which nothing is known any more.
    pub fn learn(&self, host: &str, text: Text, is_member: bool, at_ms: u64) -> Vec<String> {
        let is_large = !is_member && text.whole.get().len() > OTHERS_INVENTORY_BYTES_MAX;
        let text = if is_large { text.without_runs() } else { text };
        // The memory of others counts where this one does not know what it ran.
        let at_ms = if text.tells_runs { at_ms } else { 0 };
        let mut inner = self.inner.lock();
        inner.known.remove(host);
        let forgotten = inner.make_room(is_member, text.bytes());
        inner.known.insert(host.to_owned(), Told { at_ms, is_member, text });
        forgotten
    }

    /// Forgets what hosts ran that are neither there nor lost.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        let mut inner = self.inner.lock();
        let Inner { known, lost } = &mut *inner;
        known.retain(|host, _| lost.contains_key(host) || is_there(host));
    }

    /// Returns what a host ran when it was last asked, if it told that.
    pub fn known(&self, host: &str) -> Option<Inventory> {
        let inner = self.inner.lock();
        let text = inner.known.get(host).map(|told| told.text.clone());
        drop(inner);
        let Text { whole, .. } = text.filter(|text| text.tells_runs)?;
        serde_json::from_str(whole.get()).ok()
    }

    /// Notes that a host fell silent. Only those that answered once are remembered: anybody who
    /// may speak to hosts can invent others.
    pub fn lose(&self, host: &str, at_ms: u64) {
        let mut inner = self.inner.lock();
        let Inner { known, lost } = &mut *inner;
        if !known.contains_key(host) {
            return;
        }
        lost.entry(host.to_owned()).or_insert(at_ms);
        if lost.len() > LOST_MAX {
            let is_member = |host: &String| known.get(host).is_some_and(|told| told.is_member);
            let oldest = lost.iter().min_by_key(|(host, at_ms)| (is_member(host), **at_ms));
            if let Some(oldest) = oldest.map(|(host, _)| host.clone()) {
                inner.forget(&oldest);
            }
        }
    }

    /// Notes that a host is there.
    pub fn find(&self, host: &str) {
        self.inner.lock().lost.remove(host);
    }

    /// Forgets all of a host: it said goodbye, or nobody wants to know of it any more.
    pub fn forget(&self, host: &str) {
        self.inner.lock().forget(host);
    }

    /// Returns the ids of the lost hosts.
    pub fn lost_ids(&self, now_ms: u64) -> HashSet<String> {
        let mut inner = self.inner.lock();
        inner.forget_old(now_ms);
        inner.lost.keys().cloned().collect()
    }

    /// Returns the lost hosts: those that a trusted cluster certified first, and of each kind those
    /// lost last, so that invented ones take no room from them in an answer.
    pub fn lost(&self, now_ms: u64) -> Vec<LostHost> {
        let mut inner = self.inner.lock();
        inner.forget_old(now_ms);
        let told = inner.lost.iter().filter_map(|(host, lost_ms)| {
            let Told { at_ms, is_member, text: Text { whole, head, .. } } =
                inner.known.get(host)?;
            let (inventory, head) = (Arc::clone(whole), Arc::clone(head));
            let (id, lost_ms, told_ms) = (host.clone(), *lost_ms, *at_ms);
            Some((*is_member, LostHost { id, lost_ms, told_ms, inventory, head }))
        });
        let mut told: Vec<(bool, LostHost)> = told.collect();
        told.sort_by(|(is_a, a), (is_b, b)| {
            (is_b, b.lost_ms, &a.id).cmp(&(is_a, a.lost_ms, &b.id))
        });
        told.into_iter().map(|(_, host)| host).collect()
    }
}

impl Inner {
    fn forget(&mut self, host: &str) {
        self.lost.remove(host);
        self.known.remove(host);
    }

    /// Forgets what is too long ago.
    fn forget_old(&mut self, now_ms: u64) {
        let Self { known, lost } = self;
        lost.retain(|host, at_ms| {
            let is_kept = now_ms.saturating_sub(*at_ms) < KEPT_MS;
            if !is_kept {
                known.remove(host);
            }
            is_kept
        });
    }

    /// Makes room for one more inventory of a kind, of so many bytes; returns the hosts that are
    /// forgotten for it.
    fn make_room(&mut self, is_member: bool, bytes: usize) -> Vec<String> {
        let bytes_max = if is_member { MEMBERS_BYTES_MAX } else { OTHERS_BYTES_MAX };
        let kind = self.known.iter().filter(|(_, told)| told.is_member == is_member);
        let mut kind: Vec<_> = kind
            .map(|(host, told)| (self.lost.get(host), told.at_ms, host, told.text.bytes()))
            .collect();
        let (mut count, mut sum) = (kind.len(), kind.iter().map(|one| one.3).sum::<usize>());
        // Those that are not lost first.
        kind.sort();
        let mut spare = Vec::new();
        for (_, _, host, freed) in kind {
            if count < KNOWN_MAX && sum + bytes <= bytes_max {
                break;
            }
            (count, sum) = (count - 1, sum - freed);
            spare.push(host.clone());
        }
        for host in &spare {
            self.forget(host);
        }
        spare
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
    use lattice_protocol::control::types::InventoryActor;

    fn named(name: &str) -> Text {
        Text::of(Inventory { friendly_name: name.into(), ..Inventory::default() }).unwrap()
    }

    fn lost(memory: &Memory, now_ms: u64) -> Vec<(String, u64, String)> {
        let told = memory.lost(now_ms).into_iter();
        told.map(|host| {
            let inventory: Inventory = serde_json::from_str(host.inventory.get()).unwrap();
            (host.id, host.lost_ms, inventory.friendly_name)
        })
        .collect()
    }

    #[test]
    fn a_lost_host_is_told_with_what_it_ran_last_until_it_is_back_forgotten_or_too_old() {
        let memory = Memory::default();
        memory.learn("NA", named("first"), false, 700);
        memory.learn("NA", named("a"), false, 800);
        memory.learn("NB", named("b"), true, 800);
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
        ["NA", "NB", "NC"].iter().for_each(|host| _ = memory.learn(host, named("x"), false, 1));
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
            memory.learn(&host(number), named("x"), false, number as u64);
        }
        memory.lose(&host(0), 5000);
        let forgotten = memory.learn(&host(KNOWN_MAX), named("x"), false, 5000);
        assert_eq!(forgotten, [host(1)]);
        let known = [0, 1, 2, KNOWN_MAX].map(|number| memory.known(&host(number)).is_some());
        assert_eq!(known, [true, false, true, true]);
    }

    #[test]
    fn the_oldest_losses_make_room() {
        let memory = Memory::default();
        memory.learn("NM", named("m"), true, 0);
        memory.lose("NM", 0);
        for number in 0..LOST_MAX as u64 + 3 {
            memory.learn(&format!("N{number}"), named("x"), false, 0);
            memory.lose(&format!("N{number}"), number);
        }
        let told = memory.lost(1000);
        assert_eq!((told.len(), told[LOST_MAX - 1].lost_ms), (LOST_MAX, 4));
        assert_eq!(told[0].id, "NM", "hosts that anybody can invent make room first");
    }

    #[test]
    fn invented_hosts_fill_a_small_part_of_the_memory_and_displace_no_certified_one() {
        let memory = Memory::default();
        memory.learn("NM", named("m"), true, 0);
        let actor = InventoryActor { id: "M".repeat(56), ..InventoryActor::default() };
        let large = Inventory { actors: vec![actor; 2000], ..Inventory::default() };
        let answered = serde_json::to_vec(&large).unwrap();
        for number in 0..200 {
            let (_, text) = Text::read(&answered).unwrap();
            memory.learn(&format!("N{number}"), text, false, number);
            memory.lose(&format!("N{number}"), 1000 + number);
        }
        let bytes: usize = memory.inner.lock().known.values().map(|told| told.text.bytes()).sum();
        assert!(bytes <= OTHERS_BYTES_MAX + 1000, "{bytes}");
        let known = ["NM", "N0", "N199"].map(|host| memory.known(host).is_some());
        assert_eq!(known, [true, false, true]);
        assert!(memory.lost(2000).iter().all(|host| memory.known(&host.id).is_some()));
    }

    #[test]
    fn an_answer_that_takes_far_more_memory_than_text_is_not_remembered() {
        let tiny = format!(r#"{{"host_id":"N1","actors":[{{}}{}]}}"#, ",{}".repeat(50_000));
        let long = format!(r#"{{"version":"{}"}}"#, "v".repeat(INVENTORY_BYTES_MAX));
        for (answered, host) in [
            (r#"{"host_id":"N1"}"#, Some("N1")),
            ("{}", Some("")),
            ("7", None),
            (&*tiny, None),
            (&*long, None),
        ] {
            let read = Text::read(answered.as_bytes()).map(|(host, _)| host);
            assert_eq!(read.as_deref(), host, "{answered:.60}");
        }
    }

    #[test]
    fn what_a_host_does_not_tell_or_is_too_large_of_others_is_not_remembered_as_nothing() {
        let actor = InventoryActor { id: "M".repeat(56), ..InventoryActor::default() };
        let of = |actors: usize| {
            let actors = vec![actor.clone(); actors];
            serde_json::to_vec(&Inventory { actors, ..Inventory::default() }).unwrap()
        };
        for (answered, is_member, is_known) in [
            (b"{}".to_vec(), true, false),
            (of(0), false, true),
            (of(4000), true, true),
            (of(4000), false, false),
        ] {
            let memory = Memory::default();
            memory.learn("NA", Text::read(&answered).unwrap().1, is_member, 7);
            memory.lose("NA", 8);
            let told_ms = memory.lost(9)[0].told_ms;
            assert_eq!((memory.known("NA").is_some(), told_ms > 0), (is_known, is_known));
        }
    }

    #[test]
    fn what_a_host_says_of_itself_is_cut() {
        let long = "x".repeat(100_000);
        let mut inventory = Inventory { version: long.clone(), ..Inventory::default() };
        inventory.labels = (0..500).map(|key| (key.to_string(), "v".into())).collect();
        inventory.labels.insert("long".into(), long);
        let (_, text) = Text::read(&serde_json::to_vec(&inventory).unwrap()).unwrap();
        assert!(text.head.get().len() < 2000, "{}", text.head);
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

//! Which hosts watch which, and how often each speaks to all: decided from the hosts that are
//! there, so that all come to the same answer without a word.
//!
//! All hosts stand on a ring, in an order that is as good as chance. Hosts at the same NATS server
//! are a *group*: the words between them cross no line to another site. Each host is watched by the
//! next [`WATCHERS`] of its group. A small group has too few of them, so hosts of other groups
//! help. A large group can vanish as a whole, behind a line that is cut: two of its hosts, its
//! *voices*, are heard by two hosts elsewhere, its *guards*. So the line to a site carries a few
//! words a second, however many hosts are there.

use std::{collections::HashMap, hash::Hasher, time::Duration};

/// Up to so many hosts all speak to all every second, and watch each other by that.
pub const FEW: usize = 16;
/// Hosts that watch one host.
const WATCHERS: usize = 3;
/// Hosts of a large group that are heard elsewhere, and hosts that hear them.
const VOICES: usize = 2;
const GUARDS: usize = 2;
/// Bytes per second of all that hosts say to all, by these bytes of one word on a line.
const BUDGET: u64 = 1000;
const WORD_BYTES: u64 = 320;
/// The shortest time between two words of a host to all, and the longest: after that a word that
/// was missed is made up for.
pub const BEAT: Duration = Duration::from_secs(1);
pub const BEAT_MAX: Duration = Duration::from_secs(300);
/// When all hosts speak because they are called, they keep this distance on the average.
const APART: Duration = Duration::from_millis(10);

/// Returns how often each of `hosts` speaks to all.
pub fn interval(hosts: usize) -> Duration {
    if hosts <= FEW {
        return BEAT;
    }
    Duration::from_millis(1000 * hosts as u64 * WORD_BYTES / BUDGET).clamp(BEAT, BEAT_MAX)
}

/// Returns the time over which the answers of `hosts` are spread that are called together.
pub fn spread(hosts: usize) -> Duration {
    APART.saturating_mul(u32::try_from(hosts).unwrap_or(u32::MAX)).min(BEAT_MAX)
}

/// A host on the ring.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub id: &'a str,
    /// See [`place`].
    pub place: u64,
    /// Its group; hosts of before name none, and watch nobody.
    pub at: &'a str,
    /// It is not lost. Those that are lost are listened for, so that they can come back.
    pub is_there: bool,
}

/// The duty of a host to watch others.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Duty {
    pub hosts: Vec<String>,
    /// Groups, each with its voices.
    pub groups: Vec<(String, Vec<String>)>,
}

/// Returns the place of a host or a group on the ring (FNV-1a, and a last mix so that similar names
/// lie apart). It is the same on every host.
pub fn place(name: &str) -> u64 {
    let mut hasher = Fnv::default();
    hasher.write(name.as_bytes());
    let hash = hasher.finish();
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// FNV-1a.
pub(super) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes
            .iter()
            .fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Returns the duty of `own`, which is one of `hosts`.
pub fn duty(own: &str, mut hosts: Vec<Place<'_>>) -> Duty {
    hosts.sort_unstable_by(|a, b| (a.place, a.id).cmp(&(b.place, b.id)));
    let there = hosts.iter().enumerate().filter(|(_, host)| host.is_there && !host.at.is_empty());
    let ring = Ring { own, hosts: &hosts, there: there.map(|(index, _)| index).collect() };
    let mut groups: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, host) in hosts.iter().enumerate().filter(|(_, host)| !host.at.is_empty()) {
        groups.entry(host.at).or_default().push(index);
    }
    let own_at = hosts.iter().find(|host| host.id == own).map_or("", |host| host.at);
    let mut duty = Duty::default();
    for (at, members) in &groups {
        ring.add_duty(at, members, *at == own_at, &mut duty);
    }
    duty
}

struct Ring<'a> {
    own: &'a str,
    /// In their order.
    hosts: &'a [Place<'a>],
    /// The indices of those that are there and in a group: where most are lost, a walk over all of
    /// them for each would cost their number squared.
    there: Vec<usize>,
}

/// Returns indices, which are in order, from one on and all the way round.
fn round(indices: &[usize], first: usize) -> impl Iterator<Item = usize> {
    let (before, from) = indices.split_at(indices.partition_point(|index| *index < first));
    from.iter().chain(before).copied()
}

impl Ring<'_> {
    /// Adds the duty that the own host has for one group, given by the indices of its members.
    fn add_duty(&self, at: &str, members: &[usize], is_own: bool, duty: &mut Duty) {
        let there: Vec<usize> =
            members.iter().copied().filter(|index| self.hosts[*index].is_there).collect();
        // Of a group that is lost as a whole, those that were there are listened for.
        let heard = if there.is_empty() { members } else { &there };
        let is_large = heard.len() > WATCHERS;
        if is_own {
            for index in members {
                let next = round(&there, *index).filter(|next| next != index);
                if self.is_mine(next, WATCHERS) {
                    self.watch(*index, duty);
                }
            }
        } else if is_large {
            let first = self.hosts.partition_point(|host| host.place < place(at));
            if self.is_mine(self.elsewhere(first, at), GUARDS) {
                let voices = heard.iter().take(VOICES);
                let voices = voices.map(|index| self.hosts[*index].id.to_owned());
                duty.groups.push((at.to_owned(), voices.collect()));
            }
        } else {
            for index in members {
                let near = there.len() - usize::from(self.hosts[*index].is_there);
                if self.is_mine(self.elsewhere(*index, at), WATCHERS.saturating_sub(near)) {
                    self.watch(*index, duty);
                }
            }
        }
    }

    /// The hosts of other groups that are there, from a place on.
    fn elsewhere(&self, first: usize, at: &str) -> impl Iterator<Item = usize> {
        round(&self.there, first).filter(move |index| self.hosts[*index].at != at)
    }

    fn is_mine(&self, watchers: impl Iterator<Item = usize>, count: usize) -> bool {
        let mut watchers = watchers.take(count);
        watchers.any(|index| self.hosts[index].id == self.own)
    }

    fn watch(&self, index: usize, duty: &mut Duty) {
        let host = &self.hosts[index];
        if host.id != self.own {
            duty.hosts.push(host.id.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn hosts(groups: &[usize]) -> Vec<(String, String)> {
        let of_group = |(number, count): (usize, &usize)| {
            (0..*count).map(move |host| (format!("N{number}-{host}"), format!("S{number}")))
        };
        groups.iter().enumerate().flat_map(of_group).collect()
    }

    fn places<'a>(hosts: &'a [(String, String)], lost: &[&str]) -> Vec<Place<'a>> {
        let host = |(id, at): &'a (String, String)| Place {
            id,
            place: place(id),
            at,
            is_there: !lost.contains(&&**at) && !lost.contains(&&**id),
        };
        hosts.iter().map(host).collect()
    }

    #[test]
    fn few_speak_every_second_and_many_share_a_budget() {
        for (hosts, ms) in
            [(1, 1000), (16, 1000), (17, 5440), (200, 64_000), (1000, 300_000), (10_000, 300_000)]
        {
            assert_eq!(interval(hosts), Duration::from_millis(ms), "{hosts}");
        }
        assert_eq!(spread(200), Duration::from_secs(2));
    }

    #[test]
    fn each_host_is_watched_by_three_and_nobody_watches_many() {
        for groups in [&[40][..], &[1; 40], &[20, 20], &[30, 5, 1, 1], &[2, 3, 4], &[2, 1]] {
            let hosts = hosts(groups);
            let duties: Vec<Duty> =
                hosts.iter().map(|(own, _)| duty(own, places(&hosts, &[]))).collect();
            for (id, at) in &hosts {
                let watchers = duties.iter().filter(|duty| duty.hosts.contains(id)).count();
                assert_eq!(watchers, WATCHERS.min(hosts.len() - 1), "{id} of {groups:?}");
                let size = hosts.iter().filter(|(_, other)| other == at).count();
                let guards: Vec<_> = duties
                    .iter()
                    .filter_map(|duty| duty.groups.iter().find(|(of, _)| of == at))
                    .collect();
                let elsewhere = hosts.len() - size;
                let expected = if size > WATCHERS { GUARDS.min(elsewhere) } else { 0 };
                assert_eq!(guards.len(), expected, "{at} of {groups:?}");
                assert!(guards.iter().all(|(_, voices)| voices.len() == VOICES));
                assert!(guards.windows(2).all(|two| two[0] == two[1]));
            }
            let most = duties.iter().map(|duty| duty.hosts.len() + duty.groups.len()).max();
            assert!(most <= Some(16), "{most:?} of {groups:?}");
        }
    }

    #[test]
    fn a_lost_host_is_listened_for_and_watches_nobody() {
        let hosts = hosts(&[20, 20]);
        let is_watched = |id: &str, lost: &[&str]| {
            let there = hosts
                .iter()
                .filter(|(host, at)| !lost.contains(&&**host) && !lost.contains(&&**at));
            there
                .filter(|(own, _)| {
                    let duty = duty(own, places(&hosts, lost));
                    duty.hosts.iter().any(|host| host == id)
                })
                .count()
        };
        assert_eq!(is_watched("N0-3", &["N0-3"]), WATCHERS);
        assert_eq!(is_watched("N0-4", &["N0-3", "N0-5"]), WATCHERS);
        // Of a group that is lost as a whole, two are listened for, by two.
        let guards = hosts
            .iter()
            .filter(|(_, at)| at == "S0")
            .filter_map(|(own, _)| duty(own, places(&hosts, &["S1"])).groups.pop());
        let guards: Vec<_> = guards.collect();
        assert_eq!((guards.len(), guards[0].1.len()), (GUARDS, VOICES));
    }

    /// The names of the hosts and the groups that `own` watches, as a walk around the ring from
    /// each of them finds it.
    fn walked(own: &str, mut hosts: Vec<Place<'_>>) -> BTreeSet<String> {
        hosts.sort_unstable_by(|a, b| (a.place, a.id).cmp(&(b.place, b.id)));
        let own_at = hosts.iter().find(|host| host.id == own).unwrap().at;
        let is_mine = |first: usize, count: usize, is_one: &dyn Fn(&Place<'_>) -> bool| {
            let walk = (0..hosts.len()).map(|step| &hosts[(first + step) % hosts.len()]);
            let mut watchers = walk.filter(|host| host.is_there && is_one(host)).take(count);
            watchers.any(|host| host.id == own)
        };
        let mut watched = BTreeSet::new();
        for (index, Place { id, at, is_there, .. }) in hosts.iter().enumerate() {
            let members = hosts.iter().filter(|host| host.at == *at);
            let (there, lost): (Vec<&Place<'_>>, Vec<&Place<'_>>) =
                members.partition(|host| host.is_there);
            let heard = if there.is_empty() { &lost } else { &there };
            let is_large = heard.len() > WATCHERS;
            let near = there.len() - usize::from(*is_there);
            let others = |host: &Place<'_>| host.at != *at;
            let first = hosts.partition_point(|host| host.place < place(at));
            if *at == own_at {
                let next = |host: &Place<'_>| host.at == *at && host.id != *id;
                if *id != own && is_mine(index, WATCHERS, &next) {
                    watched.insert((*id).to_owned());
                }
            } else if is_large && is_mine(first, GUARDS, &others) {
                watched.insert((*at).to_owned());
            } else if !is_large && is_mine(index, WATCHERS.saturating_sub(near), &others) {
                watched.insert((*id).to_owned());
            }
        }
        watched
    }

    #[test]
    fn each_watches_those_that_a_walk_around_the_ring_finds_however_many_are_lost() {
        for groups in [&[40][..], &[1; 40], &[20, 20], &[30, 5, 1, 1], &[2, 3, 4]] {
            let hosts = hosts(groups);
            // Those that are there: all, half, a few, one, none.
            for every in [1, 2, 7, hosts.len(), usize::MAX] {
                let lost = hosts
                    .iter()
                    .enumerate()
                    .filter(|(number, _)| !(number + 1).is_multiple_of(every));
                let lost: Vec<&str> = lost.map(|(_, (id, _))| &**id).collect();
                for (own, _) in &hosts {
                    let duty = duty(own, places(&hosts, &lost));
                    let groups_watched = duty.groups.into_iter().map(|(at, _)| at);
                    let watched: BTreeSet<String> =
                        duty.hosts.into_iter().chain(groups_watched).collect();
                    let expected = walked(own, places(&hosts, &lost));
                    assert_eq!(watched, expected, "{own} of {groups:?} without {lost:?}");
                }
            }
        }
    }

    #[test]
    fn hosts_of_before_watch_nobody() {
        let mut hosts = hosts(&[4, 1]);
        hosts[0].1.clear();
        for (own, _) in &hosts[1..] {
            assert!(!duty(own, places(&hosts, &[])).hosts.contains(&hosts[0].0));
        }
        assert_eq!(duty(&hosts[0].0, places(&hosts, &[])), Duty::default());
    }
}

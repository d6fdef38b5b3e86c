//! Which host acts for an application.
//!
//! Every application has a lease in the bucket of desired state: the id of the host that acts for
//! it, written by compare-and-set. A lease counts as long as its host is there: it is heard of by
//! the other hosts, and it renews a key of its own every [`RENEWAL`]. So what is written in steady
//! state grows with the hosts that act, not with the applications.
//!
//! A lease that was written a moment ago counts even if its host is not heard of yet: after a cut,
//! hosts find each other at different times, and would take it from each other.
//!
//! A lease whose host is gone is taken by the host that a rendezvous hash puts first of those that
//! are there; the next one takes it when that does not, see [`turn`]. Where it is, it stays: a host
//! that comes back takes nothing away from others: as long as it may not have heard of them yet, it
//! leaves every lease that names a host.
//!
//! A host that does not reach the bucket cannot renew, and stops acting before others take its
//! leases ([`ACTS_FOR`] is less than [`STALE_AFTER`]). So of a lattice that is cut in two only the
//! side with the bucket acts.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use tokio::time::Instant;

/// How often a host that acts says so in the bucket.
pub const RENEWAL: Duration = Duration::from_secs(2);
/// How long a host acts after the last renewal that the bucket confirmed.
pub const ACTS_FOR: Duration = Duration::from_secs(5);
/// How long the others wait for a renewal, unless they know sooner that the host is gone.
pub const STALE_AFTER: Duration = Duration::from_secs(8);
/// How long the others wait to hear of a host that took a lease, and a host that was cut off, or
/// did not run, to hear of the others.
pub const HEARD_AFTER: Duration = Duration::from_secs(4);
/// When the key of a host that is gone and does not renew is deleted.
pub const GONE_AFTER: Duration = Duration::from_secs(3600);
/// How long each next host waits for the one before it to take a free lease.
pub const TURN: Duration = Duration::from_millis(1500);
/// All hosts after the first few try at the same time: the bucket decides between them, and a free
/// lease is not free for longer where the lattice is large.
const TURNS_MAX: u32 = 4;

/// A lease as this host last saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub owner: String,
    pub revision: u64,
    /// When it was written, if this host saw that.
    pub written: Option<Instant>,
}

/// The knowledge that a decision needs.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub me: &'a str,
    /// The other hosts that are there.
    pub live: &'a BTreeSet<String>,
    /// When each host was last seen to renew.
    pub renewed: &'a BTreeMap<String, Instant>,
    /// When this host last could not know how the others stand.
    pub doubted: Option<Instant>,
    pub now: Instant,
}

/// The step to take with a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is this host's, by this revision.
    Act(u64),
    /// Take it, if its revision is still this one; 0 if there is none.
    Take(u64),
    /// It is another host's, or another one's turn.
    Leave,
}

/// Decides about a lease. `free_since` is when this host first saw that nobody has it.
pub fn decide(
    application: &str,
    seen: Option<&Seen>,
    free_since: Option<Instant>,
    view: View<'_>,
) -> Step {
    match seen {
        Some(seen) if seen.owner == view.me => Step::Act(seen.revision),
        Some(seen) if is_held(seen, view) => Step::Leave,
        other => {
            let waited = free_since.map_or(Duration::ZERO, |since| view.now - since);
            let place = turn(application, view.me, view.live);
            if waited >= TURN.saturating_mul(place) {
                Step::Take(other.map_or(0, |seen| seen.revision))
            } else {
                Step::Leave
            }
        }
    }
}

/// Whether the host that has a lease is there, or may be.
pub fn is_held(seen: &Seen, view: View<'_>) -> bool {
    let was_within = |moment: Option<&Instant>, time| {
        moment.is_some_and(|moment| view.now.saturating_duration_since(*moment) < time)
    };
    if !seen.owner.is_empty() && was_within(view.doubted.as_ref(), HEARD_AFTER) {
        return true;
    }
    let is_there =
        view.live.contains(&seen.owner) || was_within(seen.written.as_ref(), HEARD_AFTER);
    is_there && was_within(view.renewed.get(&seen.owner), STALE_AFTER)
}

/// Returns a host whose key nobody needs any more.
pub fn gone(view: View<'_>) -> Option<&str> {
    let mut old = view.renewed.iter().filter(|(host, renewed)| {
        let is_there = view.live.contains(*host) || *host == view.me;
        !is_there && view.now.saturating_duration_since(**renewed) >= GONE_AFTER
    });
    old.next().map(|(host, _)| host.as_str())
}

/// Returns the place of this host among those that may take the lease; 0 is the first.
fn turn(application: &str, me: &str, live: &BTreeSet<String>) -> u32 {
    let mine = weight(application, me);
    let before = live.iter().filter(|host| (weight(application, host), host.as_str()) > (mine, me));
    u32::try_from(before.count()).map_or(TURNS_MAX, |place| place.min(TURNS_MAX))
}

/// Returns the weight of a host for an application; the same on every host of the same build.
/// Another build may have another order, and then the turns are longer or two hosts try: the bucket
/// decides.
fn weight(application: &str, host: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (application, host).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(hosts: &[&str]) -> BTreeSet<String> {
        hosts.iter().map(|host| (*host).to_owned()).collect()
    }

    fn seen(owner: &str) -> Seen {
        Seen { owner: owner.into(), revision: 7, written: None }
    }

    #[test]
    fn a_lease_that_was_written_a_moment_ago_is_left_to_a_host_that_is_not_heard_of_yet() {
        let (now, nobody) = (Instant::now(), BTreeSet::new());
        let renewed = BTreeMap::from([("A".to_owned(), now)]);
        let second = Duration::from_secs(1);
        for (owner, written, after, step) in [
            ("A", Some(now), Duration::ZERO, Step::Leave),
            ("A", Some(now), HEARD_AFTER - second, Step::Leave),
            ("A", Some(now), HEARD_AFTER, Step::Take(7)),
            // Nobody knows when: it was read with all others.
            ("A", None, Duration::ZERO, Step::Take(7)),
            // It never renewed.
            ("B", Some(now), Duration::ZERO, Step::Take(7)),
            // It was given back.
            ("", Some(now), Duration::ZERO, Step::Take(7)),
        ] {
            let view =
                View { me: "C", live: &nobody, renewed: &renewed, doubted: None, now: now + after };
            let seen = Seen { written, ..seen(owner) };
            assert_eq!(decide("shop", Some(&seen), Some(now), view), step, "{seen:?} {after:?}");
        }
    }

    #[test]
    fn a_host_that_may_not_have_heard_of_the_others_takes_nothing_from_them() {
        let (now, nobody, renewed) = (Instant::now(), BTreeSet::new(), BTreeMap::new());
        let second = Duration::from_secs(1);
        for (owner, doubted, after, step) in [
            ("A", Some(now), Duration::ZERO, Step::Leave),
            ("A", Some(now), HEARD_AFTER - second, Step::Leave),
            ("A", Some(now), HEARD_AFTER, Step::Take(7)),
            ("A", None, Duration::ZERO, Step::Take(7)),
            // Nobody loses anything by these.
            ("", Some(now), Duration::ZERO, Step::Take(7)),
            ("C", Some(now), Duration::ZERO, Step::Act(7)),
        ] {
            let now = now + after;
            let view = View { me: "C", live: &nobody, renewed: &renewed, doubted, now };
            assert_eq!(decide("shop", Some(&seen(owner)), Some(now), view), step, "{owner}");
        }
    }

    #[test]
    fn a_lease_stays_where_it_is_as_long_as_its_host_renews_and_is_heard() {
        let now = Instant::now();
        let (others, renewed) = (live(&["A", "B"]), BTreeMap::from([("A".to_owned(), now)]));
        let view = |me, after| View {
            me,
            live: &others,
            renewed: &renewed,
            doubted: None,
            now: now + after,
        };
        let decide = |seen: &Seen, view| decide("shop", Some(seen), Some(now), view);
        assert_eq!(decide(&seen("A"), view("C", Duration::ZERO)), Step::Leave);
        assert_eq!(decide(&seen("C"), view("C", Duration::ZERO)), Step::Act(7));
        // It was not heard of for too long.
        let late = view("C", STALE_AFTER + TURN * 3);
        assert_eq!(decide(&seen("A"), late), Step::Take(7));
        // Never seen to renew, or gone: free after the turns of those before.
        let later = view("C", TURN * 3);
        assert_eq!(decide(&seen("B"), later), Step::Take(7));
        assert_eq!(decide(&seen("X"), later), Step::Take(7));
    }

    #[test]
    fn a_free_lease_is_taken_by_one_host_first_and_by_the_others_in_turn() {
        let (now, renewed) = (Instant::now(), BTreeMap::new());
        let hosts = ["A", "B", "C", "D"];
        let takers_after = |after: Duration| {
            let takes = |me: &&str| {
                let mut others = live(&hosts);
                others.remove(*me);
                let view =
                    View { me, live: &others, renewed: &renewed, doubted: None, now: now + after };
                decide("shop", None, Some(now), view) == Step::Take(0)
            };
            hosts.iter().filter(|me| takes(me)).count()
        };
        assert_eq!(takers_after(Duration::ZERO), 1);
        assert_eq!(takers_after(TURN), 2);
        assert_eq!(takers_after(TURN * 3), 4);
        let many: Vec<String> = (0..50).map(|number| format!("N{number:02}")).collect();
        let others: BTreeSet<String> = many[1..].iter().cloned().collect();
        assert!((0..100).all(|number| turn(&format!("a{number}"), &many[0], &others) <= TURNS_MAX));
    }

    #[test]
    fn the_key_of_a_host_that_is_gone_for_long_is_not_needed() {
        let (now, others) = (Instant::now(), live(&["A"]));
        let renewed: BTreeMap<_, _> =
            ["A", "B", "C"].map(|host| (host.to_owned(), now)).into_iter().collect();
        let gone_after = |me, after| {
            let view =
                View { me, live: &others, renewed: &renewed, doubted: None, now: now + after };
            gone(view).map(str::to_owned)
        };
        assert_eq!(gone_after("B", GONE_AFTER - RENEWAL), None);
        assert_eq!(gone_after("B", GONE_AFTER).as_deref(), Some("C"));
        assert_eq!(gone_after("C", GONE_AFTER).as_deref(), Some("B"));
    }

    #[test]
    fn applications_are_shared_out_among_hosts() {
        let mut firsts = BTreeMap::new();
        for number in 0..300 {
            let application = format!("shop-{number}");
            let first = ["A", "B", "C"].iter().max_by_key(|host| weight(&application, host));
            *firsts.entry(*first.unwrap()).or_insert(0) += 1;
        }
        assert!(firsts.values().all(|count| *count > 60), "{firsts:?}");
    }

    #[test]
    fn a_host_stops_acting_before_others_may_take_over() {
        assert!(ACTS_FOR + Duration::from_secs(1) < STALE_AFTER && RENEWAL * 2 < ACTS_FOR);
    }
}

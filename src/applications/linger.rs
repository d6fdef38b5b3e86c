//! How long an application that was taken down is looked after.
//!
//! Hosts that were away may come back with something of it. So it is looked after for [`LINGER`]
//! from the moment at which this host saw that it is to go. When a host comes, it is again for as
//! long if it was taken down within [`AWAY`], or something of it is seen to run: of what was taken
//! down long ago there is nothing else to do, and there may be much of it.
//!
//! The clock of the host that took the command may be wrong. So it counts only for what was taken
//! down before this host read the bucket.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::targets::{Snapshot, State, Target};
use lattice_protocol::clock;

const LINGER: Duration = Duration::from_secs(600);
/// How long a host may have been away that is relieved of what it runs, whoever else sees it.
const AWAY: Duration = Duration::from_secs(24 * 3600);

/// The knowledge of a host about what was taken down, and about who came since.
#[derive(Debug, Default)]
pub struct Lingering {
    /// When this host first saw that each application is to go, without those of long ago; before
    /// it, the time that was written with that, which tells one command from another.
    since: BTreeMap<String, (u64, Option<Instant>)>,
    /// The bucket was read.
    is_read: bool,
    /// The other hosts that were there at the last look; `None` before the first one.
    live: Option<BTreeSet<String>>,
    /// When a host last came.
    came: Option<Instant>,
}

impl Lingering {
    /// Takes in what is to run, and which other hosts are there.
    pub fn look(&mut self, targets: &Snapshot, live: &BTreeSet<String>, now: Instant) {
        self.since.retain(|name, (at, _)| {
            targets.get(name).is_some_and(|target| is_down(target) && target.at == *at)
        });
        let now_ms = clock::now_ms();
        for target in targets.values().filter(|target| is_down(target)) {
            if !self.since.contains_key(&target.name) {
                let age_ms = now_ms.saturating_sub(target.at);
                let is_old = !self.is_read && age_ms >= clock::millis(AWAY);
                let since = (target.at, (!is_old).then_some(now));
                self.since.insert(target.name.clone(), since);
            }
        }
        self.is_read |= !targets.is_empty();
        if self.live.as_ref() == Some(live) {
            return;
        }
        // Those of the first look were there before.
        if self.live.as_ref().is_some_and(|before| !live.is_subset(before)) {
            self.came = Some(now);
        }
        self.live = Some(live.clone());
    }

    /// Notes that a host came which is not among those of this make.
    pub fn note_arrival(&mut self, now: Instant) {
        self.came = Some(now);
    }

    /// Whether a host came lately.
    pub fn has_arrival(&self, now: Instant) -> bool {
        self.came.is_some_and(|came| is_within(came, LINGER, now))
    }

    /// Whether somebody has to act for a target. `owners` are the applications of which something
    /// is seen to run.
    pub fn is_looked_after(&self, target: &Target, owners: &BTreeSet<&str>, now: Instant) -> bool {
        match target.state {
            State::Deployed => true,
            State::Undeployed => {
                let since = self.since.get(&target.name).and_then(|(_, since)| *since);
                let is_down_for = |time| since.is_some_and(|since| is_within(since, time, now));
                is_down_for(LINGER)
                    || self.has_arrival(now)
                        && (is_down_for(AWAY) || owners.contains(target.name.as_str()))
            }
            State::Released => false,
        }
    }
}

fn is_within(moment: Instant, time: Duration, now: Instant) -> bool {
    now.saturating_duration_since(moment) < time
}

fn is_down(target: &Target) -> bool {
    target.state == State::Undeployed
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn target(state: State, at: u64) -> Target {
        let text =
            r#"{"apiVersion":"a","kind":"k","metadata":{"name":"shop"},"spec":{"components":[]}}"#;
        Target { at, ..Target::of(serde_json::from_str(text).unwrap(), state) }
    }

    fn live(hosts: &[&str]) -> BTreeSet<String> {
        hosts.iter().map(|host| (*host).to_owned()).collect()
    }

    fn snapshot(target: &Target) -> Snapshot {
        Arc::new(BTreeMap::from([("shop".to_owned(), target.clone())]))
    }

    /// A host that has read the bucket, and saw `A`.
    fn begun() -> Lingering {
        Lingering { is_read: true, live: Some(live(&["A"])), ..Lingering::default() }
    }

    #[test]
    fn what_was_taken_down_is_looked_after_for_a_while_whatever_the_clock_of_its_command_says() {
        let (now, nothing) = (Instant::now(), BTreeSet::new());
        for at in [0, u64::MAX] {
            for (state, at_first, later) in [
                (State::Deployed, true, true),
                (State::Undeployed, true, false),
                (State::Released, false, false),
            ] {
                let (target, mut lingering) = (target(state, at), begun());
                for (after, expected) in
                    [(Duration::ZERO, at_first), (LINGER / 2, at_first), (LINGER, later)]
                {
                    let now = now + after;
                    lingering.look(&snapshot(&target), &live(&["A"]), now);
                    let is_looked_after = lingering.is_looked_after(&target, &nothing, now);
                    assert_eq!(is_looked_after, expected, "{state:?}");
                }
            }
        }
    }

    #[test]
    fn what_was_taken_down_long_before_a_host_began_is_none_of_its_business_unless_it_runs() {
        let now = Instant::now();
        let (nothing, shop) = (BTreeSet::new(), BTreeSet::from(["shop"]));
        let yesterday = clock::now_ms() - clock::millis(AWAY);
        for (at, hosts, runs, is_looked_after) in [
            (clock::now_ms(), &["A"][..], &nothing, true),
            (yesterday, &["A"], &nothing, false),
            (yesterday, &["A"], &shop, false),
            (yesterday, &["A", "B"], &nothing, false),
            (yesterday, &["A", "B"], &shop, true),
        ] {
            let (target, mut lingering) = (target(State::Undeployed, at), Lingering::default());
            // The bucket is read after the first look, which is no arrival.
            lingering.look(&Snapshot::default(), &live(&["A"]), now);
            lingering.look(&snapshot(&target), &live(hosts), now);
            let found = lingering.is_looked_after(&target, runs, now);
            assert_eq!(found, is_looked_after, "{at} {hosts:?} {runs:?}");
        }
    }

    #[test]
    fn it_is_looked_after_again_when_a_host_comes_or_it_is_taken_down_again() {
        let (now, nothing) = (Instant::now(), BTreeSet::new());
        let first = target(State::Undeployed, 1);
        let again = target(State::Undeployed, 2);
        for (at_last, hosts, late, is_looked_after) in [
            (&first, &["A"][..], LINGER * 2, false),
            (&first, &[], LINGER * 2, false),
            (&first, &["A", "B"], LINGER * 2, true),
            (&first, &["B"], LINGER * 2, true),
            (&first, &["B"], AWAY, false),
            (&again, &["A"], LINGER * 2, true),
        ] {
            let (mut lingering, late) = (begun(), now + late);
            for (target, hosts, now) in [(&first, &["A"][..], now), (at_last, hosts, late)] {
                lingering.look(&snapshot(target), &live(hosts), now);
            }
            let found = lingering.is_looked_after(at_last, &nothing, late);
            assert_eq!(found, is_looked_after, "{hosts:?}");
        }
    }
}

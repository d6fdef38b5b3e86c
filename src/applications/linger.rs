//! How long an application that was taken down is looked after.
//!
//! Hosts that were away may come back with something of it. So it is looked after for [`LINGER`]
//! from the moment at which this host saw that it is to go, and as long again whenever a host
//! comes. The clock of the host that took the command counts for nothing: it may be wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::targets::{Snapshot, State, Target};

const LINGER: Duration = Duration::from_secs(600);

/// The knowledge of a host about what was taken down, and about who came since.
#[derive(Debug, Default)]
pub struct Lingering {
    /// When this host first saw that each application is to go; before it, the time that was
    /// written with that, which tells one command from another.
    since: BTreeMap<String, (u64, Instant)>,
    /// The other hosts that were there at the last look.
    live: BTreeSet<String>,
    /// When a host last came.
    came: Option<Instant>,
}

impl Lingering {
    /// Takes in what is to run, and which other hosts are there.
    pub fn look(&mut self, targets: &Snapshot, live: BTreeSet<String>, now: Instant) {
        self.since.retain(|name, (at, _)| {
            targets.get(name).is_some_and(|target| is_down(target) && target.at == *at)
        });
        for target in targets.values().filter(|target| is_down(target)) {
            self.since.entry(target.name.clone()).or_insert((target.at, now));
        }
        if !live.is_subset(&self.live) {
            self.came = Some(now);
        }
        self.live = live;
    }

    /// Notes that a host came which is not among those of this make.
    pub fn note_arrival(&mut self, now: Instant) {
        self.came = Some(now);
    }

    /// Whether somebody has to act for a target.
    pub fn is_looked_after(&self, target: &Target, now: Instant) -> bool {
        let is_recent = |moment: Instant| now.saturating_duration_since(moment) < LINGER;
        match target.state {
            State::Deployed => true,
            State::Undeployed => {
                let since = self.since.get(&target.name);
                self.came.is_some_and(is_recent) || since.is_none_or(|(_, since)| is_recent(*since))
            }
            State::Released => false,
        }
    }
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

    #[test]
    fn what_was_taken_down_is_looked_after_for_a_while_whatever_the_clock_of_its_command_says() {
        let (now, all) = (Instant::now(), live(&["A"]));
        for at in [0, u64::MAX] {
            for (state, at_first, later) in [
                (State::Deployed, true, true),
                (State::Undeployed, true, false),
                (State::Released, false, false),
            ] {
                let target = target(state, at);
                let targets = Arc::new(BTreeMap::from([("shop".to_owned(), target.clone())]));
                // Nobody came: the others were there before.
                let mut lingering = Lingering { live: all.clone(), ..Lingering::default() };
                for (after, expected) in
                    [(Duration::ZERO, at_first), (LINGER / 2, at_first), (LINGER, later)]
                {
                    let now = now + after;
                    lingering.look(&targets, all.clone(), now);
                    assert_eq!(lingering.is_looked_after(&target, now), expected, "{state:?}");
                }
            }
        }
    }

    #[test]
    fn it_is_looked_after_again_when_a_host_comes_or_it_is_taken_down_again() {
        let now = Instant::now();
        let late = now + LINGER * 2;
        let first = target(State::Undeployed, 1);
        let again = target(State::Undeployed, 2);
        for (at_last, hosts, is_looked_after) in [
            (&first, &["A"][..], false),
            (&first, &[], false),
            (&first, &["A", "B"], true),
            (&first, &["B"], true),
            (&again, &["A"], true),
        ] {
            let mut lingering = Lingering { live: live(&["A"]), ..Lingering::default() };
            for (target, hosts, now) in [(&first, &["A"][..], now), (at_last, hosts, late)] {
                let targets = Arc::new(BTreeMap::from([("shop".to_owned(), target.clone())]));
                lingering.look(&targets, live(hosts), now);
            }
            assert_eq!(lingering.is_looked_after(at_last, late), is_looked_after, "{hosts:?}");
        }
    }
}

//! How a new version of an actor takes over: the trait `rollout`, an extension of ours.
//!
//! The new version runs beside the old one on each host, on the same links, and takes a share of
//! the calls. When enough of them are done, it is compared with the old one: it goes on to the next
//! share, or the old one takes everything back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    api::VersionFigures,
    manifest::{Manifest, Properties, Trait},
};
use crate::control::types::VersionCounts;

/// The rules of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// In their order; after the last one the new version takes everything.
    #[serde(default = "default_steps")]
    pub steps: Vec<Step>,
    /// Calls of the new version, over all hosts, that each step waits for.
    #[serde(default = "default_calls")]
    pub calls: u64,
    /// How many more of 100 calls may fail than with the old version.
    #[serde(default = "default_errors")]
    pub max_errors_percent: u64,
    /// How long the slowest of 100 calls may take, in percent of what it takes with the old
    /// version.
    #[serde(default = "default_p99")]
    pub max_p99_percent: u64,
}

/// Most calls that a step may wait for.
const CALLS_MAX: u64 = 1_000_000;
/// Most percent that the slowest calls may take of what they took before.
const P99_MAX: u64 = 1_000_000;

/// A share of the calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// 1 to 100.
    pub percent: u8,
    /// Labels of the hosts that take part; all do if there are none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requirements: BTreeMap<String, String>,
}

fn default_steps() -> Vec<Step> {
    [10, 50].map(|percent| Step { percent, requirements: BTreeMap::new() }).into()
}

fn default_calls() -> u64 {
    100
}

fn default_errors() -> u64 {
    1
}

fn default_p99() -> u64 {
    200
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            steps: default_steps(),
            calls: default_calls(),
            max_errors_percent: default_errors(),
            max_p99_percent: default_p99(),
        }
    }
}

impl Policy {
    /// Returns why it cannot be meant, if so.
    pub fn mistake(&self) -> Option<String> {
        let Self { steps, calls, max_errors_percent, max_p99_percent } = self;
        if steps.is_empty() {
            return Some("`steps` is empty; without the trait a version takes over at once".into());
        }
        if !(1..=CALLS_MAX).contains(calls) {
            return Some(format!("`calls` is {calls}; a step compares 1 to {CALLS_MAX} calls"));
        }
        if *max_errors_percent > 100 {
            return Some(format!(
                "`max_errors_percent` is {max_errors_percent}; it is at most 100"
            ));
        }
        if !(1..=P99_MAX).contains(max_p99_percent) {
            return Some(format!("`max_p99_percent` is {max_p99_percent}; it is 1 to {P99_MAX}"));
        }
        if let Some(step) = steps.iter().find(|step| !(1..=100).contains(&step.percent)) {
            return Some(format!("a step has {} percent; it is from 1 to 100", step.percent));
        }
        // Of other hosts it may be less: of all after a few that went first.
        let is_less = |two: &&[Step]| {
            two[0].requirements == two[1].requirements && two[1].percent <= two[0].percent
        };
        let two = steps.windows(2).find(is_less)?;
        Some(format!(
            "a step of {} percent is followed by one of {} percent of the same hosts; each takes more than the one before",
            two[0].percent, two[1].percent
        ))
    }
}

/// A rollout, as it lies in the bucket of desired state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// When the deployment was asked for that it belongs to, in Unix milliseconds.
    pub at: u64,
    pub from: String,
    pub to: String,
    /// The step it is at, from 0.
    pub step: usize,
    pub state: State,
    /// The calls of the step that was judged last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged: Option<Judged>,
}

/// The calls of both versions that a rollout was judged by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    pub stable: VersionFigures,
    pub newer: VersionFigures,
}

/// The state of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Running,
    /// Somebody stopped it where it is.
    Paused,
    /// The old version takes everything again.
    TakenBack {
        why: String,
    },
    /// The new version takes everything.
    Done,
}

/// The calls of both versions in a step, over all hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    pub stable: VersionCounts,
    pub newer: VersionCounts,
}

impl Compared {
    /// Adds the calls of another host.
    pub fn add(&mut self, stable: &VersionCounts, newer: &VersionCounts) {
        for (sum, more) in [(&mut self.stable, stable), (&mut self.newer, newer)] {
            sum.failed = sum.failed.saturating_add(more.failed);
            sum.latency.add(&more.latency);
        }
    }
}

/// The consequence of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Too few calls to tell.
    Wait,
    GoOn,
    TakeBack(String),
}

/// Differences of times below this are noise, in nanoseconds.
const NOISE_NS: f64 = 5e6;

/// Judges a step.
pub fn judge(policy: &Policy, compared: &Compared) -> Verdict {
    let Compared { stable, newer } = compared;
    let (calls, before) = (newer.latency.count(), stable.latency.count());
    // So many of the calls that the step waits for may fail; a new version that is beyond that is
    // not waited for.
    let of_before = stable.failed.saturating_mul(100).checked_div(before).unwrap_or(0);
    let percent = of_before.saturating_add(policy.max_errors_percent);
    let allowed = policy.calls.max(calls).saturating_mul(percent) / 100;
    if newer.failed > allowed {
        return Verdict::TakeBack(format!(
            "{} of {calls} calls failed, with the version before {} of {before}",
            newer.failed, stable.failed
        ));
    }
    if calls < policy.calls {
        return Verdict::Wait;
    }
    let p99 = |counts: &VersionCounts| counts.latency.percentile(0.99);
    if let (Some(now), Some(then)) = (p99(newer), p99(stable)) {
        let longest = then * policy.max_p99_percent as f64 / 100.0;
        if now > longest && now - then > NOISE_NS {
            return Verdict::TakeBack(format!(
                "the slowest of 100 calls takes {:.1} ms, with the version before {:.1} ms",
                now / 1e6,
                then / 1e6
            ));
        }
    }
    Verdict::GoOn
}

impl Rollout {
    /// Returns the rollout of a deployment, if one is to be made: a component with a policy has
    /// another image than before.
    pub fn of(before: &Manifest, after: &Manifest, at: u64) -> Option<Self> {
        let is_any = changes(before, after).next().is_some();
        is_any.then(|| Self {
            at,
            from: before.version().to_owned(),
            to: after.version().to_owned(),
            step: 0,
            state: State::Running,
            judged: None,
        })
    }

    /// Goes on after a verdict; whether something changed.
    pub fn advance(&mut self, policy: &Policy, verdict: Verdict) -> bool {
        if self.state != State::Running {
            return false;
        }
        match verdict {
            Verdict::Wait => return false,
            Verdict::TakeBack(why) => self.state = State::TakenBack { why },
            Verdict::GoOn if self.step + 1 < policy.steps.len() => self.step += 1,
            Verdict::GoOn => self.state = State::Done,
        }
        true
    }

    /// Whether it has come to its end, one or the other.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Done | State::TakenBack { .. })
    }

    /// Whether the old images are still those to run.
    pub fn holds_back(&self) -> bool {
        self.state != State::Done
    }
}

/// A component whose new image takes over step by step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changing<'a> {
    pub component: &'a str,
    pub old_image: &'a str,
    pub new_image: &'a str,
    pub policy: &'a Policy,
}

/// Returns the components that a rollout is about.
pub fn changes<'a>(
    before: &'a Manifest,
    after: &'a Manifest,
) -> impl Iterator<Item = Changing<'a>> {
    after.spec.components.iter().filter_map(|component| {
        let Properties::Actor(new) = &component.properties else { return None };
        let policy = component.traits.iter().flatten().find_map(|one| match one {
            Trait::Rollout(policy) => Some(policy),
            _ => None,
        })?;
        let (_, old) = before.actors().find(|(name, _)| *name == component.name)?;
        (old.image != new.image).then_some(Changing {
            component: &component.name,
            old_image: &old.image,
            new_image: &new.image,
            policy,
        })
    })
}

/// Returns the manifest of what is to run beside the trials: the new one with the old images.
pub fn held_back(before: &Manifest, after: &Manifest) -> Manifest {
    let old: BTreeMap<String, String> = changes(before, after)
        .map(|change| (change.component.to_owned(), change.old_image.to_owned()))
        .collect();
    let mut held = after.clone();
    for component in &mut held.spec.components {
        if let (Properties::Actor(actor), Some(image)) =
            (&mut component.properties, old.get(&component.name))
        {
            actor.image.clone_from(image);
        }
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::histogram::Buckets;

    fn counts(calls: u64, failed: u64, ms: u64) -> VersionCounts {
        let buckets = Buckets::default();
        (0..calls).for_each(|_| buckets.count(ms * 1_000_000));
        VersionCounts { failed, latency: buckets.read() }
    }

    fn verdict(stable: (u64, u64, u64), newer: (u64, u64, u64)) -> Verdict {
        let of = |(calls, failed, ms)| counts(calls, failed, ms);
        judge(&Policy::default(), &Compared { stable: of(stable), newer: of(newer) })
    }

    #[test]
    fn a_version_goes_on_when_it_is_as_good_as_the_one_before() {
        assert_eq!(verdict((900, 0, 10), (99, 0, 10)), Verdict::Wait);
        assert_eq!(verdict((900, 0, 10), (100, 0, 10)), Verdict::GoOn);
        assert_eq!(verdict((900, 0, 10), (100, 1, 10)), Verdict::GoOn);
        // Nobody calls the old one: nothing to compare the times with.
        assert_eq!(verdict((0, 0, 0), (100, 0, 500)), Verdict::GoOn);
        // An old one that fails often is no reason to take back one that does so as well.
        assert_eq!(verdict((900, 90, 10), (100, 10, 10)), Verdict::GoOn);
        assert_eq!(verdict((900, 0, 1), (100, 0, 4)), Verdict::GoOn);
    }

    #[test]
    fn a_version_that_fails_or_is_slow_is_taken_back_as_soon_as_that_is_sure() {
        let back = |verdict| matches!(verdict, Verdict::TakeBack(_));
        assert!(back(verdict((90, 0, 10), (10, 2, 10))));
        assert!(back(verdict((900, 0, 10), (100, 20, 10))));
        assert!(back(verdict((900, 90, 10), (100, 12, 10))));
        assert!(back(verdict((900, 0, 10), (100, 0, 40))));
    }

    #[test]
    fn a_rollout_ends_after_its_last_step_and_not_before() {
        let policy = Policy::default();
        let (from, to, state) = ("v1".into(), "v2".into(), State::Running);
        let mut rollout = Rollout { at: 1, from, to, step: 0, state, judged: None };
        assert!(!rollout.advance(&policy, Verdict::Wait));
        assert!(rollout.advance(&policy, Verdict::GoOn) && rollout.step == 1);
        assert!(rollout.advance(&policy, Verdict::GoOn) && !rollout.holds_back());
        assert!(!rollout.advance(&policy, Verdict::TakeBack("late".into())));
    }

    #[test]
    fn steps_and_numbers_that_cannot_be_meant_are_mistakes() {
        let step = |percent| Step { percent, requirements: BTreeMap::new() };
        assert_eq!(Policy::default().mistake(), None);
        for wrong in [
            Policy { steps: Vec::new(), ..Policy::default() },
            Policy { steps: vec![step(0)], ..Policy::default() },
            Policy { steps: vec![step(101)], ..Policy::default() },
            Policy { steps: vec![step(10), step(10)], ..Policy::default() },
            Policy { steps: vec![step(20), step(10)], ..Policy::default() },
            Policy { calls: 0, ..Policy::default() },
            Policy { calls: u64::MAX, ..Policy::default() },
            Policy { max_errors_percent: 101, ..Policy::default() },
            Policy { max_p99_percent: 0, ..Policy::default() },
            Policy { max_p99_percent: u64::MAX, ..Policy::default() },
        ] {
            assert!(wrong.mistake().is_some(), "{wrong:?}");
        }
    }
}

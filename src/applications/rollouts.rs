//! Rollouts of applications, kept in the bucket of desired state, signed.

use std::{collections::BTreeMap, sync::Arc};

use tracing::warn;

use crate::{plan::Trial, targets::Target};
use lattice_base::store::desired::{Desired, DesiredError, Record};
use lattice_protocol::{
    applications::{
        api::{RolloutStatus, VersionFigures},
        manifest::Manifest,
        rollout::{
            Changing, Compared, Judged, Rollout, State, Step, Verdict, changes, held_back, judge,
        },
    },
    control::types::VersionCounts,
    desired::{self, Authority},
    events::Event,
};

/// Where rollouts are. Cheap to clone.
#[derive(Clone)]
pub struct Rollouts {
    desired: Desired,
    authority: Arc<Authority>,
}

/// A rollout as it was read.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// `None` if there is none, or one that does not count.
    pub rollout: Option<Rollout>,
    record: Record<Rollout>,
}

impl Rollouts {
    pub fn new(desired: Desired, authority: Arc<Authority>) -> Self {
        Self { desired, authority }
    }

    /// Reads the rollout of an application.
    pub async fn load(&self, application: &str) -> Result<Stored, DesiredError> {
        let key = desired::rollout(application);
        let mut record = self.desired.read_signed(&self.authority, &key).await?;
        if let Some(error) = &record.rejected {
            warn!(application, %error, "the record of a rollout does not count");
        }
        Ok(Stored { rollout: record.value.take(), record })
    }

    /// Reads the rollout of a target; `None` if it has none, or that is of an earlier deployment.
    pub async fn of(&self, target: &Target) -> Result<Stored, DesiredError> {
        let stored = self.load(&target.name).await?;
        let rollout = stored.rollout.filter(|rollout| rollout.at == target.at);
        Ok(Stored { rollout, ..stored })
    }

    /// Writes the rollout of a target, unless somebody else did since it was read. Returns the
    /// event that the lattice is to be told.
    pub async fn save(
        &self,
        target: &Target,
        stored: &mut Stored,
        rollout: Rollout,
    ) -> Result<Event, DesiredError> {
        let told = changed(target, &rollout);
        let (key, expect) = (desired::rollout(&target.name), stored.record.unchanged());
        let record = &mut stored.record;
        self.desired.put_signed(&self.authority, &key, record, rollout, expect).await?;
        stored.rollout = record.value.take();
        Ok(told)
    }
}

/// Returns the rollout that a target begins with, if its deployment asks for one.
pub fn begin(target: &Target) -> Option<Rollout> {
    let before = target.before.as_ref().filter(|_| target.is_deployed())?;
    Rollout::of(before, &target.manifest, target.at)
}

/// Returns the manifest of what is to run, beside the trials of a rollout.
pub fn to_run(target: &Target, rollout: Option<&Rollout>) -> Manifest {
    match (&target.before, rollout) {
        (Some(before), Some(rollout)) if rollout.holds_back() => {
            held_back(before, &target.manifest)
        }
        _ => target.manifest.clone(),
    }
}

fn changing<'a>(target: &'a Target) -> impl Iterator<Item = Changing<'a>> {
    target.before.iter().flat_map(|before| changes(before, &target.manifest))
}

/// Returns the step that a component is at; the last one when it has fewer than others.
fn step_of<'a>(change: &Changing<'a>, rollout: &Rollout) -> Option<&'a Step> {
    let last = change.policy.steps.len().checked_sub(1)?;
    change.policy.steps.get(rollout.step.min(last))
}

/// Returns the trials of a rollout at its step.
pub fn trials(target: &Target, rollout: &Rollout) -> Vec<Trial> {
    let is_trying = matches!(rollout.state, State::Running | State::Paused);
    let trials = changing(target).filter_map(|change| {
        let step = step_of(&change, rollout)?;
        Some(Trial {
            component: change.component.to_owned(),
            image: change.new_image.to_owned(),
            percent: if is_trying { step.percent } else { 0 },
            requirements: step.requirements.clone(),
        })
    });
    trials.collect()
}

/// Judges the step of a rollout, by the calls of each new image over all hosts: it goes on when
/// every component may.
pub fn verdict(target: &Target, by_image: &BTreeMap<String, Compared>) -> Verdict {
    let nothing = Compared::default();
    let mut whole = Verdict::GoOn;
    for change in changing(target) {
        let compared = by_image.get(change.new_image).unwrap_or(&nothing);
        match judge(change.policy, compared) {
            Verdict::TakeBack(why) => {
                return Verdict::TakeBack(format!("{}: {why}", change.component));
            }
            Verdict::Wait => whole = Verdict::Wait,
            Verdict::GoOn => {}
        }
    }
    whole
}

/// Returns the verdict on a rollout that no host can begin with.
pub fn nobody_runs_it(error: &str) -> Verdict {
    Verdict::TakeBack(format!("no host runs it: {error}"))
}

/// Goes on with a rollout after a verdict; returns what it is then, if that is something else.
pub fn advanced(target: &Target, rollout: &Rollout, verdict: Verdict) -> Option<Rollout> {
    // Of components with different numbers of steps the one with the most decides.
    let policy = changing(target).map(|change| change.policy).max_by_key(|one| one.steps.len())?;
    let mut next = rollout.clone();
    next.advance(policy, verdict).then_some(next)
}

/// Returns a rollout at its next step, as if its calls had been judged well.
pub fn continued(target: &Target, rollout: &Rollout) -> Option<Rollout> {
    let running = Rollout { state: State::Running, ..rollout.clone() };
    advanced(target, &running, Verdict::GoOn)
}

/// Returns a rollout as it is told.
pub fn status(
    target: &Target,
    rollout: &Rollout,
    by_image: &BTreeMap<String, Compared>,
) -> RolloutStatus {
    let policy = changing(target).map(|change| change.policy).max_by_key(|one| one.steps.len());
    // When it is over nobody counts any more.
    let judged = rollout.judged.clone().filter(|_| rollout.is_over());
    let Judged { stable, newer } = judged.unwrap_or_else(|| judged_by(target, by_image));
    RolloutStatus {
        rollout: rollout.clone(),
        steps: policy.map(|policy| policy.steps.clone()).unwrap_or_default(),
        calls_wanted: policy.map_or(0, |policy| policy.calls),
        stable,
        newer,
    }
}

/// Returns the calls that a step is judged by, over all components.
pub fn judged_by(target: &Target, by_image: &BTreeMap<String, Compared>) -> Judged {
    let mut sum = Compared::default();
    for compared in changing(target).filter_map(|change| by_image.get(change.new_image)) {
        sum.add(&compared.stable, &compared.newer);
    }
    Judged { stable: figures(&sum.stable), newer: figures(&sum.newer) }
}

/// Returns the event that tells what a rollout is now.
fn changed(target: &Target, rollout: &Rollout) -> Event {
    let percent = status(target, rollout, &BTreeMap::new()).share();
    Event::RolloutChanged { application: target.name.clone(), rollout: rollout.clone(), percent }
}

fn figures(counts: &VersionCounts) -> VersionFigures {
    let p99_ns = counts.latency.percentile(0.99).unwrap_or(0.0);
    VersionFigures {
        calls: counts.latency.count(),
        failed: counts.failed,
        p99_us: (p99_ns / 1e3) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_the_verdict_stay_when_nobody_counts_any_more() {
        let manifest =
            r#"{"apiVersion":"a","kind":"k","metadata":{"name":"shop"},"spec":{"components":[]}}"#;
        let manifest = serde_json::from_str(manifest).unwrap();
        let target = Target::of(manifest, crate::targets::State::Deployed);
        let newer = VersionFigures { calls: 7, failed: 7, ..VersionFigures::default() };
        let judged = Some(Judged { newer, ..Judged::default() });
        for (state, calls) in [
            (State::TakenBack { why: "7 of 7 calls failed".into() }, 7),
            (State::Done, 7),
            // Those of the step before.
            (State::Running, 0),
        ] {
            let (from, to, judged) = ("v1".into(), "v2".into(), judged.clone());
            let rollout = Rollout { at: 1, from, to, step: 0, state, judged };
            assert_eq!(status(&target, &rollout, &BTreeMap::new()).newer.calls, calls);
        }
    }
}

//! The rollout of an application: looked at, stopped where it is, gone on with, or ended. An
//! extension of this project's hosts.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    Server,
    answer::Refusal,
    read::{not_found, parse},
};
use crate::{rollouts, targets::Target};
use lattice_protocol::applications::{
    api::{RolloutAction, RolloutReply, RolloutRequest, RolloutStatus, StatusResult},
    manifest::ROLLOUT,
    rollout::{Judged, Rollout, State},
};

impl Server {
    pub(super) async fn rollout(&self, name: &str, body: &Bytes) -> Result<RolloutReply, Refusal> {
        let action = parse::<RolloutRequest>("rollout", body)?.action;
        let Some(target) = self.targets.get(name).await?.filter(Target::is_deployed) else {
            return Ok(reply(StatusResult::NotFound, not_found(name), None));
        };
        // The numbers are those of the host that acts; it may have told them a while ago. The state
        // is read after them, and is the one of now.
        let last = self.statuses.last(name).await.ok().flatten();
        let mut stored = self.rollouts.of(&target).await?;
        let Some(mut rollout) = stored.rollout.clone().or_else(|| rollouts::begin(&target)) else {
            let message = format!(
                "{name} {} is not rolled out step by step: no actor with the trait `{ROLLOUT}` has another image than before",
                target.version
            );
            return Ok(reply(StatusResult::NotFound, message, None));
        };
        let last = last.and_then(|record| record.status.rollout);
        let last = last.filter(|last| is_of_step(last, &rollout));
        let next = rollouts::continued(&target, &rollout);
        if let Some(next) = decide(&rollout, action, next)? {
            rollout = next;
            if rollout.is_over() {
                rollout.judged = last
                    .as_ref()
                    .map(|told| Judged { stable: told.stable.clone(), newer: told.newer.clone() });
            }
            let saved = self.rollouts.save(&target, &mut stored, rollout.clone()).await;
            self.surroundings.tell(saved.map_err(Refusal::NotSaved)?);
            // The host that acts for it looks at this bucket.
            self.targets.look();
        }
        let told = told(&target, &rollout, last);
        Ok(reply(StatusResult::Ok, described(&rollout), Some(told)))
    }
}

fn reply(result: StatusResult, message: String, rollout: Option<RolloutStatus>) -> RolloutReply {
    RolloutReply { result, message, rollout }
}

/// Returns a rollout with the numbers that were told last, if those are of the step it is at.
fn told(target: &Target, rollout: &Rollout, last: Option<RolloutStatus>) -> RolloutStatus {
    let none = rollouts::status(target, rollout, &BTreeMap::new());
    match last.filter(|last| is_of_step(last, rollout)) {
        Some(RolloutStatus { stable, newer, .. }) => RolloutStatus { stable, newer, ..none },
        None => none,
    }
}

/// Whether numbers that were told are of the step that a rollout is at.
fn is_of_step(told: &RolloutStatus, rollout: &Rollout) -> bool {
    (told.rollout.at, told.rollout.step) == (rollout.at, rollout.step)
}

/// Decides what an action makes of a rollout, which is `continued` at its next step; `None` if
/// nothing changes.
fn decide(
    rollout: &Rollout,
    action: RolloutAction,
    continued: Option<Rollout>,
) -> Result<Option<Rollout>, Refusal> {
    let to = |state| Some(Rollout { state, ..rollout.clone() });
    match (action, &rollout.state) {
        (RolloutAction::Status, _)
        | (RolloutAction::Pause, State::Paused)
        | (RolloutAction::Resume, State::Running)
        | (RolloutAction::Abort, State::TakenBack { .. }) => Ok(None),
        (RolloutAction::Pause, State::Running) => Ok(to(State::Paused)),
        (RolloutAction::Resume, State::Paused) => Ok(to(State::Running)),
        (RolloutAction::Continue, State::Running | State::Paused) => Ok(continued),
        (RolloutAction::Abort, State::Running | State::Paused) => {
            Ok(to(State::TakenBack { why: "an operator ended it".into() }))
        }
        (_, State::Done) => Err(Refusal::Rollout(format!(
            "the rollout of {} is over, it runs everywhere; deploy {} to go back",
            rollout.to, rollout.from
        ))),
        (_, State::TakenBack { .. }) => Err(Refusal::Rollout(format!(
            "{} was taken back; deploy it again to try once more",
            rollout.to
        ))),
    }
}

fn described(rollout: &Rollout) -> String {
    let Rollout { from, to, step, state, .. } = rollout;
    match state {
        State::Running => format!("{to} takes over from {from}, at step {}", step + 1),
        State::Paused => format!("{to} stays at step {}, beside {from}", step + 1),
        State::TakenBack { why } => format!("{to} was taken back, {from} runs: {why}"),
        State::Done => format!("{to} has taken over from {from}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::applications::api::VersionFigures;

    #[test]
    fn an_action_fits_the_state_or_is_refused_with_what_to_do() {
        let of = |step, state| Rollout {
            at: 1,
            from: "v1".into(),
            to: "v2".into(),
            step,
            state,
            judged: None,
        };
        let back = || State::TakenBack { why: "slow".into() };
        let decided = |state, action| decide(&of(0, state), action, Some(of(1, State::Running)));
        use RolloutAction::{Abort, Continue, Pause, Resume, Status};
        for (state, action, expected) in [
            (State::Running, Status, None),
            (State::Running, Pause, Some(of(0, State::Paused))),
            (State::Paused, Resume, Some(of(0, State::Running))),
            (State::Running, Continue, Some(of(1, State::Running))),
            (State::Paused, Continue, Some(of(1, State::Running))),
            (State::Running, Resume, None),
            (back(), Abort, None),
        ] {
            assert_eq!(decided(state, action).unwrap(), expected);
        }
        for action in [Pause, Resume, Continue, Abort] {
            assert!(decided(State::Done, action).is_err());
        }
        for action in [Resume, Continue] {
            assert!(decided(back(), action).is_err());
        }
        let ended = decided(State::Paused, Abort).unwrap().map(|rollout| rollout.state);
        assert!(matches!(ended, Some(State::TakenBack { .. })));
    }

    #[test]
    fn the_numbers_are_the_last_ones_of_the_step_and_the_state_is_that_of_now() {
        let manifest =
            r#"{"apiVersion":"a","kind":"k","metadata":{"name":"shop"},"spec":{"components":[]}}"#;
        let target =
            Target::of(serde_json::from_str(manifest).unwrap(), crate::targets::State::Deployed);
        let of = |at, step, state| Rollout {
            at,
            from: "v1".into(),
            to: "v2".into(),
            step,
            state,
            judged: None,
        };
        let last = |at, step| RolloutStatus {
            rollout: of(at, step, State::Running),
            steps: Vec::new(),
            calls_wanted: 100,
            stable: VersionFigures { calls: 9, ..VersionFigures::default() },
            newer: VersionFigures { calls: 3, ..VersionFigures::default() },
        };
        for (last, calls) in [
            (None, (0, 0)),
            (Some(last(1, 1)), (9, 3)),
            (Some(last(1, 0)), (0, 0)),
            (Some(last(0, 1)), (0, 0)),
        ] {
            let told = told(&target, &of(1, 1, State::Paused), last);
            assert_eq!((told.stable.calls, told.newer.calls), calls);
            assert_eq!(told.rollout.state, State::Paused);
        }
    }
}

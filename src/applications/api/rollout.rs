//! The rollout of an application: looked at, stopped where it is, gone on with, or ended. An
//! extension of this project's hosts.

use bytes::Bytes;

use super::{
    Server,
    answer::Refusal,
    read::{not_found, parse},
};
use crate::rollouts;
use lattice_protocol::applications::{
    api::{RolloutAction, RolloutReply, RolloutRequest, RolloutStatus, StatusResult},
    rollout::{Rollout, State},
};

impl Server {
    pub(super) async fn rollout(&self, name: &str, body: &Bytes) -> Result<RolloutReply, Refusal> {
        let action = match body.is_empty() {
            true => RolloutAction::Status,
            false => parse::<RolloutRequest>("rollout", body)?.action,
        };
        let Some(target) = self.targets.get(name).await?.filter(|target| target.is_deployed())
        else {
            return Ok(reply(StatusResult::NotFound, not_found(name), None));
        };
        let mut stored = self.rollouts.of(&target).await?;
        let begun = stored.rollout.clone().or_else(|| rollouts::begin(&target));
        let Some(rollout) = begun else {
            let message = format!(
                "{name} {} is not rolled out step by step: no actor with the trait `rollout` has another image than before",
                target.version
            );
            return Ok(reply(StatusResult::NotFound, message, None));
        };
        let message = match changed(&rollout, action) {
            Change::Nothing => described(&rollout),
            Change::Refused(why) => return Err(Refusal::Rollout(why)),
            Change::To(state) => {
                let next = Rollout { state, ..rollout.clone() };
                self.rollouts.save(name, &mut stored, next.clone()).await.map_err(|error| {
                    Refusal::Rollout(format!(
                        "it is not written: {error:#}; look at it, and try again"
                    ))
                })?;
                // The host that acts for it looks at this bucket.
                self.targets.look();
                let told = rollouts::status(&target, &next, &Default::default());
                return Ok(reply(StatusResult::Ok, described(&next), Some(told)));
            }
        };
        // The numbers are those of the host that acts.
        let last = self.statuses.last(name).await.ok().flatten();
        let told = last
            .and_then(|record| record.status.rollout)
            .filter(|told| told.rollout.at == rollout.at)
            .unwrap_or_else(|| rollouts::status(&target, &rollout, &Default::default()));
        Ok(reply(StatusResult::Ok, message, Some(told)))
    }
}

fn reply(result: StatusResult, message: String, rollout: Option<RolloutStatus>) -> RolloutReply {
    RolloutReply { result, message, rollout }
}

/// The effect of an action.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Nothing,
    To(State),
    Refused(String),
}

fn changed(rollout: &Rollout, action: RolloutAction) -> Change {
    match (action, &rollout.state) {
        (RolloutAction::Status, _)
        | (RolloutAction::Pause, State::Paused)
        | (RolloutAction::Resume, State::Running)
        | (RolloutAction::Abort, State::TakenBack { .. }) => Change::Nothing,
        (RolloutAction::Pause, State::Running) => Change::To(State::Paused),
        (RolloutAction::Resume, State::Paused) => Change::To(State::Running),
        (RolloutAction::Abort, State::Running | State::Paused) => {
            Change::To(State::TakenBack { why: "an operator ended it".into() })
        }
        (_, State::Done) => Change::Refused(format!(
            "the rollout of {} is over, it runs everywhere; deploy {} to go back",
            rollout.to, rollout.from
        )),
        (_, State::TakenBack { .. }) => Change::Refused(format!(
            "{} was taken back; deploy it again to try once more",
            rollout.to
        )),
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

    #[test]
    fn an_action_fits_the_state_or_is_refused_with_what_to_do() {
        let of = |state| Rollout { at: 1, from: "v1".into(), to: "v2".into(), step: 0, state };
        let back = || State::TakenBack { why: "slow".into() };
        use RolloutAction::{Abort, Pause, Resume, Status};
        for (state, action, expected) in [
            (State::Running, Status, Change::Nothing),
            (State::Running, Pause, Change::To(State::Paused)),
            (State::Paused, Resume, Change::To(State::Running)),
            (State::Running, Resume, Change::Nothing),
            (back(), Abort, Change::Nothing),
        ] {
            assert_eq!(changed(&of(state), action), expected);
        }
        for action in [Pause, Resume, Abort] {
            assert!(matches!(changed(&of(State::Done), action), Change::Refused(_)));
        }
        assert!(matches!(changed(&of(back()), Resume), Change::Refused(_)));
        assert!(matches!(changed(&of(State::Paused), Abort), Change::To(State::TakenBack { .. })));
    }
}

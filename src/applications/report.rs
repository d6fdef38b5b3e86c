//! Words how an application stands (wadm, section 4.9).

use std::collections::BTreeSet;

use crate::{
    plan::{PartStatus, Plan, Standing},
    targets::Target,
};
use lattice_protocol::applications::{
    api::{ComponentStatus, Info, RolloutStatus, ScalerStatus, Status, StatusType, TraitStatus},
    rollout::{self, Rollout},
};

/// Returns how an application stands after a plan.
pub fn status_of(target: &Target, plan: &Plan, rollout: Option<RolloutStatus>) -> Status {
    if !target.is_deployed() {
        let kind = match plan.commands.is_empty() {
            true => StatusType::Undeployed,
            false => StatusType::Reconciling,
        };
        let status = Info { kind, message: String::new() };
        return Status { version: target.version.clone(), status, ..Status::default() };
    }
    let scalers = plan.parts.iter().map(|part| ScalerStatus {
        id: part.id.clone(),
        kind: part.kind.to_owned(),
        name: part.name.clone(),
        status: info_of(&part.standing),
        next_at: None,
    });
    let parts = worst(plan.parts.iter().map(|part| &part.standing));
    let status = match (parts.kind, rollout.as_ref().and_then(of_rollout)) {
        (StatusType::Failed, _) | (_, None) => parts,
        (_, Some(of_rollout)) => of_rollout,
    };
    Status {
        version: target.version.clone(),
        status,
        rollout,
        components: components(target, &plan.parts),
        scalers: scalers.collect(),
    }
}

/// Returns what the rollout of a version means for the whole, until it is over.
fn of_rollout(told: &RolloutStatus) -> Option<Info> {
    let Rollout { from, to, step, state, .. } = &told.rollout;
    let percent = told.steps.get(*step).map_or(100, |step| step.percent);
    let (kind, message) = match state {
        rollout::State::Done => return None,
        rollout::State::TakenBack { why } => {
            (StatusType::Failed, format!("{to} was taken back, {from} runs: {why}"))
        }
        rollout::State::Paused => {
            (StatusType::Reconciling, format!("{to} stays at {percent} % of the calls"))
        }
        rollout::State::Running => {
            (StatusType::Reconciling, format!("{to} takes {percent} % of the calls"))
        }
    };
    Some(Info { kind, message })
}

fn components(target: &Target, parts: &[PartStatus]) -> Vec<ComponentStatus> {
    let components = target.manifest.spec.components.iter().map(|component| {
        let own = || parts.iter().filter(|part| part.component == component.name);
        let traits = own().map(|part| TraitStatus {
            kind: part.kind.to_lowercase(),
            status: info_of(&part.standing),
        });
        ComponentStatus {
            name: component.name.clone(),
            kind: component.properties.kind().to_owned(),
            status: worst(own().map(|part| &part.standing)),
            traits: traits.collect(),
        }
    });
    components.collect()
}

fn info_of(standing: &Standing) -> Info {
    match standing {
        Standing::Deployed => Info { kind: StatusType::Deployed, message: String::new() },
        Standing::Reconciling(text) => {
            Info { kind: StatusType::Reconciling, message: text.clone() }
        }
        Standing::Failed(text) => Info { kind: StatusType::Failed, message: text.clone() },
    }
}

/// Returns the status of a whole: of its parts the worst counts, with what those say.
fn worst<'a>(standings: impl Iterator<Item = &'a Standing>) -> Info {
    let infos: Vec<Info> = standings.map(info_of).collect();
    let rank = |kind: StatusType| match kind {
        StatusType::Failed => 2,
        StatusType::Reconciling => 1,
        _ => 0,
    };
    let kind = infos.iter().map(|info| info.kind).max_by_key(|kind| rank(*kind));
    let kind = kind.unwrap_or(StatusType::Deployed);
    let texts = infos.iter().filter(|info| info.kind == kind && !info.message.is_empty());
    let mut texts: Vec<&str> = texts.map(|info| info.message.as_str()).collect();
    // Several parts may fail for one cause.
    let mut told = BTreeSet::new();
    texts.retain(|text| told.insert(*text));
    Info { kind, message: texts.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_part_says_how_the_whole_is() {
        let failed = Standing::Failed("no host".into());
        let waiting = Standing::Reconciling("Scaling a".into());
        for (standings, kind, message) in [
            (vec![], StatusType::Deployed, ""),
            (vec![Standing::Deployed], StatusType::Deployed, ""),
            (vec![Standing::Deployed, waiting.clone()], StatusType::Reconciling, "Scaling a"),
            (vec![failed.clone(), waiting, failed], StatusType::Failed, "no host"),
        ] {
            let info = worst(standings.iter());
            assert_eq!((info.kind, info.message.as_str()), (kind, message));
        }
    }
}

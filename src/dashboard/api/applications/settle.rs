//! Waits until applications that were deployed are as they are to be.

use anyhow::{Result, bail};
use tokio::time::{Instant, timeout_at};

use crate::{
    Dashboard,
    model::applications::Applications as Known,
    operations::{End, OperationHandle},
};
use lattice_client::{
    applications::{Awaited, FAILURE_STANDS},
    commands::START_WAIT,
};
use lattice_protocol::{
    applications::{api::StatusType, rollout::State as RolloutState},
    errors::OutcomeUnknown,
};

/// How an application is that is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// With the last that was said of it.
    Pending(String),
    Failed(String),
    Done(String),
}

/// Says how an application is, of what is known of all.
fn outcome(known: &Known, awaited: &Awaited) -> Outcome {
    let Awaited { name, version, .. } = awaited;
    let Some(summary) = known.all.get(name) else { return Outcome::Pending(String::new()) };
    let status = &summary.detailed_status;
    if summary.deployed_version.as_ref() != Some(version) || status.version != *version {
        return Outcome::Pending(String::new());
    }
    let message = status.status.message.clone();
    let rollout = status.rollout.as_ref().map(|told| &told.rollout.state);
    match (status.status.kind, rollout) {
        (StatusType::Failed, _) => Outcome::Failed(message),
        (StatusType::Deployed, _) => Outcome::Done(format!("{name} {version} is deployed")),
        // That may take for as long as there are no calls.
        (_, Some(RolloutState::Running | RolloutState::Paused)) => {
            Outcome::Done(format!("{name}: {message}, and takes over step by step"))
        }
        _ => Outcome::Pending(message),
    }
}

/// Waits until applications are as they are to be, or failed for a while.
pub async fn settled(
    dashboard: &Dashboard,
    handle: &OperationHandle,
    awaited: Vec<Awaited>,
    notes: Vec<String>,
) -> Result<End> {
    let model = dashboard.model();
    model.shelf().want();
    let mut known = model.shelf().watch();
    let until = Instant::now() + START_WAIT;
    let mut failed_since = None;
    loop {
        // Somebody looks for as long as this lasts: the list is read only then.
        model.mark_viewed().await;
        let now = known.borrow_and_update().clone().unwrap_or_default();
        let outcomes: Vec<Outcome> = awaited.iter().map(|one| outcome(&now, one)).collect();
        let said = awaited.iter().zip(&outcomes).find_map(|(one, outcome)| match outcome {
            Outcome::Pending(text) | Outcome::Failed(text) => Some(format!("{}: {text}", one.name)),
            Outcome::Done(_) => None,
        });
        handle.stage("settle", said.unwrap_or_default());
        let is_pending = outcomes.iter().any(|one| matches!(one, Outcome::Pending(_)));
        let is_failed = outcomes.iter().any(|one| matches!(one, Outcome::Failed(_)));
        failed_since = if is_failed { failed_since.or(Some(Instant::now())) } else { None };
        let stands = failed_since.map(|since| since + FAILURE_STANDS);
        let is_over = stands.is_some_and(|at| Instant::now() >= at);
        if (!is_pending && (!is_failed || is_over)) || Instant::now() >= until {
            return ended(&awaited, outcomes, &notes);
        }
        let wake = stands.filter(|_| !is_over).map_or(until, |at| at.min(until));
        if let Ok(Err(_)) = timeout_at(wake, known.changed()).await {
            bail!(OutcomeUnknown("the dashboard ended before the end was known".into()));
        }
    }
}

fn ended(awaited: &[Awaited], outcomes: Vec<Outcome>, notes: &[String]) -> Result<End> {
    let (mut done, mut failed, mut pending) = (Vec::new(), Vec::new(), Vec::new());
    for (one, outcome) in awaited.iter().zip(outcomes) {
        match outcome {
            Outcome::Done(text) => done.push(text),
            Outcome::Failed(text) => {
                failed.push(format!("{} {} failed: {text}", one.name, one.version))
            }
            Outcome::Pending(text) => pending.push(format!("{}: {text}", one.name)),
        }
    }
    if !failed.is_empty() {
        bail!("{}; hosts try again", failed.join(", "));
    }
    if !pending.is_empty() {
        bail!(OutcomeUnknown(format!(
            "the time is over, and hosts go on with it: {}",
            pending.join(", ")
        )));
    }
    done.extend(notes.iter().cloned());
    Ok(End { text: done.join("; "), ..End::default() })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use lattice_protocol::applications::{
        api::{Info, RolloutStatus, Status, Summary, VersionFigures},
        rollout::Rollout,
    };

    fn summary(deployed: &str, kind: StatusType, state: Option<RolloutState>) -> Known {
        let rollout = state.map(|state| RolloutStatus {
            rollout: Rollout {
                at: 1,
                from: "v1".into(),
                to: "v2".into(),
                step: 0,
                state,
                judged: None,
            },
            steps: Vec::new(),
            calls_wanted: 10,
            stable: VersionFigures::default(),
            newer: VersionFigures::default(),
        });
        let status = Info { kind, message: "as said".into() };
        let detailed_status =
            Status { version: deployed.into(), status, rollout, ..Status::default() };
        let summary = Summary {
            name: "shop".into(),
            version: "v2".into(),
            description: None,
            deployed_version: Some(deployed.into()),
            status: kind,
            status_message: None,
            detailed_status,
        };
        Known { all: [("shop".to_owned(), Arc::new(summary))].into(), ..Known::default() }
    }

    #[test]
    fn an_application_is_waited_for_until_it_runs_failed_or_takes_over_step_by_step() {
        use StatusType::{Deployed, Failed, Reconciling};
        let awaited = Awaited { name: "shop".into(), version: "v2".into(), ..Awaited::default() };
        let pending = |text: &str| Outcome::Pending(text.to_owned());
        for (known, expected) in [
            (Known::default(), pending("")),
            (summary("v1", Deployed, None), pending("")),
            (summary("v2", Reconciling, None), pending("as said")),
            (summary("v2", Reconciling, Some(RolloutState::Done)), pending("as said")),
            (summary("v2", Failed, None), Outcome::Failed("as said".into())),
            (summary("v2", Deployed, None), Outcome::Done("shop v2 is deployed".into())),
        ] {
            assert_eq!(outcome(&known, &awaited), expected);
        }
        let rolling = outcome(&summary("v2", Reconciling, Some(RolloutState::Running)), &awaited);
        assert!(matches!(rolling, Outcome::Done(text) if text.contains("step by step")));
    }
}

//! Plans the trials of a rollout: newer images that take a share of the calls.

use std::collections::BTreeMap;

use super::{Command, Input, Plan, is_of_rule};
use lattice_protocol::applications::resolved::{Scaler, ScalerKind};

/// A newer image of a component, and the share of the calls that it is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The component's name in the manifest.
    pub component: String,
    pub image: String,
    /// Percent; 0 where the old image takes all of them.
    pub percent: u8,
    /// Labels of the hosts that take part.
    pub requirements: BTreeMap<String, String>,
}

/// Begins, changes and ends trials where the actors of the application run.
pub(super) fn plan_trials(input: Input<'_>, plan: &mut Plan) {
    let scalers = input.application.scalers.iter();
    for scaler in scalers.filter(|scaler| scaler.kind == ScalerKind::Actor) {
        let trial = input.trials.iter().find(|trial| trial.component == scaler.component);
        for (host, view) in &input.observed.hosts {
            let Some(group) = view.actors.iter().find(|group| {
                scaler
                    .rules
                    .iter()
                    .any(|rule| is_of_rule(input.application, scaler, rule, &group.annotations))
            }) else {
                continue;
            };
            let wanted = trial.and_then(|trial| {
                let takes_part = trial
                    .requirements
                    .iter()
                    .all(|(key, value)| view.labels.get(key) == Some(value));
                (takes_part && trial.percent > 0).then_some((trial.image.as_str(), trial.percent))
            });
            let seen = view.trials.get(&group.key);
            let seen = seen.map(|seen| (seen.image.as_str(), seen.share));
            if wanted == seen || is_refused(input, scaler, host) {
                continue;
            }
            let (image, share) = wanted.unwrap_or((group.image.as_str(), 0));
            plan.commands.push(Command::Update {
                scaler: scaler.id.clone(),
                host: host.clone(),
                key: group.key.clone(),
                image: image.to_owned(),
                share: Some(share),
            });
        }
    }
}

fn is_refused(input: Input<'_>, scaler: &Scaler, host: &str) -> bool {
    input.refused.updates.contains(&(scaler.id.clone(), host.to_owned()))
}

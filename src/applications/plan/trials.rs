//! Plans the trials of a rollout: newer images that take a share of the calls.

use std::collections::BTreeMap;

use super::{Command, Input, Plan, is_of_rule};
use lattice_protocol::{applications::resolved::ScalerKind, events::event::has_all};

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

impl Trial {
    /// Whether a host with these labels takes part.
    pub fn is_for(&self, labels: &BTreeMap<String, String>) -> bool {
        has_all(labels, &self.requirements)
    }
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
            let wanted = trial.filter(|trial| trial.percent > 0 && trial.is_for(&view.labels));
            let wanted = wanted.map(|trial| (trial.image.as_str(), trial.percent));
            let seen = view.trials.get(&group.key);
            let seen = seen.map(|seen| (seen.image.as_str(), seen.share));
            if wanted == seen || seen.is_some_and(|(image, _)| is_foreign(input, trial, image)) {
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

/// Whether a newer image that runs beside that of the scaler is one of another application: a host
/// has one trial of an actor, and the first to begin has it.
fn is_foreign(input: Input<'_>, own: Option<&Trial>, image: &str) -> bool {
    let mut theirs = input.others.iter().flat_map(|other| &other.scalers);
    own.is_none_or(|own| own.image != image) && theirs.any(|scaler| scaler.image == image)
}

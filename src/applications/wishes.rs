//! What the applications of a lattice ask for.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    rollouts,
    targets::{Snapshot, Target},
};
use lattice_protocol::applications::{manifest::Manifest, resolved::Application, rollout::Rollout};

/// The applications of a lattice, resolved.
#[derive(Default)]
pub struct Wishes {
    deployed: BTreeMap<String, Application>,
    /// The images that they name.
    pub images: BTreeSet<String>,
}

impl Wishes {
    pub fn of(snapshot: &Snapshot) -> Self {
        let targets = snapshot.values().filter(|target| target.is_deployed());
        let deployed: BTreeMap<String, Application> = targets
            .map(|target| (target.name.clone(), Application::of(&target.manifest)))
            .collect();
        let of_scalers = deployed.values().flat_map(|one| &one.scalers);
        let mut images: BTreeSet<String> = of_scalers.map(|scaler| scaler.image.clone()).collect();
        // The images that a rollout holds back to.
        let before = snapshot.values().filter_map(|target| target.before.as_ref());
        images.extend(before.flat_map(Manifest::actors).map(|(_, actor)| actor.image.clone()));
        for link in deployed.values().flat_map(|one| &one.links) {
            images.extend([link.actor_image.clone(), link.provider_image.clone()]);
        }
        Self { deployed, images }
    }

    /// Returns what is to run of an application: nothing if it is not deployed.
    pub fn application(&self, target: &Target, rollout: Option<&Rollout>) -> Application {
        if rollout.is_some() {
            return Application::of(&rollouts::to_run(target, rollout));
        }
        self.deployed.get(&target.name).cloned().unwrap_or_else(|| Application {
            name: target.name.clone(),
            version: target.version.clone(),
            ..Application::default()
        })
    }

    /// Returns what is deployed beside an application.
    pub fn others(&self, name: &str) -> Vec<&Application> {
        self.deployed.values().filter(|other| other.name != name).collect()
    }
}

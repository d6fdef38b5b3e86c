//! Recent failures on this host that were not mended since: starts of actors and providers.
//!
//! Events tell a failure once, to those who listen at that moment. A client that asks later gets it
//! from here. A start of the same reference that works clears its failure.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use super::Event;

/// Failures that are kept; the oldest go first.
const TROUBLES_MAX: usize = 32;
/// Older failures are not reported any more.
const KEPT: Duration = Duration::from_secs(3600);

/// A start that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Of a provider rather than an actor.
    pub is_provider: bool,
    /// As it was asked for.
    pub reference: String,
    /// Of a provider; empty for actors.
    pub link_name: String,
    pub error: String,
    pub at: SystemTime,
}

/// The failures of one host. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Troubles(Arc<Mutex<VecDeque<Trouble>>>);

impl Troubles {
    /// Returns the failures that were not mended, the latest last.
    pub fn lately(&self) -> Vec<Trouble> {
        let is_recent = |trouble: &Trouble| trouble.at.elapsed().is_ok_and(|ago| ago < KEPT);
        self.locked().iter().filter(|trouble| is_recent(trouble)).cloned().collect()
    }

    /// Takes an event into account.
    pub(super) fn heed(&self, event: &Event) {
        match event {
            Event::ActorStartFailed { actor_ref, error } => self.failed(false, actor_ref, "", error),
            Event::ActorsStartFailed { image_ref, error, .. } => self.failed(false, image_ref, "", error),
            Event::ProviderStartFailed { provider_ref, link_name, error } => {
                self.failed(true, provider_ref, link_name, error);
            }
            Event::ActorScaled { actor, .. } | Event::ActorsStarted { actor, .. } => {
                self.clear(false, &actor.image_ref, "");
            }
            Event::ProviderStarted { provider, .. } => self.clear(true, &provider.image_ref, &provider.link_name),
            _ => {}
        }
    }

    fn failed(&self, is_provider: bool, reference: &str, link_name: &str, error: &str) {
        self.clear(is_provider, reference, link_name);
        let mut troubles = self.locked();
        if troubles.len() >= TROUBLES_MAX {
            troubles.pop_front();
        }
        troubles.push_back(Trouble {
            is_provider,
            reference: reference.to_owned(),
            link_name: link_name.to_owned(),
            error: error.to_owned(),
            at: SystemTime::now(),
        });
    }

    fn clear(&self, is_provider: bool, reference: &str, link_name: &str) {
        let is_it = |trouble: &Trouble| {
            trouble.is_provider == is_provider && trouble.reference == reference && trouble.link_name == link_name
        };
        self.locked().retain(|trouble| !is_it(trouble));
    }

    fn locked(&self) -> MutexGuard<'_, VecDeque<Trouble>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(reference: &str, error: &str) -> Event {
        Event::ProviderStartFailed { provider_ref: reference.into(), link_name: "default".into(), error: error.into() }
    }

    #[test]
    fn each_reference_has_its_latest_failure_and_there_is_a_bound() {
        let troubles = Troubles::default();
        troubles.heed(&failure("a", "first"));
        troubles.heed(&failure("a", "second"));
        troubles.heed(&Event::ActorStartFailed { actor_ref: "a".into(), error: "other".into() });
        let errors: Vec<String> = troubles.lately().into_iter().map(|trouble| trouble.error).collect();
        assert_eq!(errors, ["second", "other"]);
        for number in 0..100 {
            troubles.heed(&failure(&number.to_string(), "x"));
        }
        assert_eq!(troubles.lately().len(), TROUBLES_MAX);
    }
}

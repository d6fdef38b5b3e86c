//! Recent failures on this host that were not mended since: starts of actors and providers.
//!
//! Events tell a failure once, to those who listen at that moment. A client that asks later gets it
//! from here. A start of the same reference that works clears its failure.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;

use lattice_protocol::events::Event;

/// Failures that are kept; the oldest go first.
const TROUBLES_MAX: usize = 32;
/// Older failures are not reported any more.
const KEPT: Duration = Duration::from_secs(3600);

/// The thing that was to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Actor,
    Provider,
}

/// A start that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub kind: Kind,
    /// As it was asked for.
    pub reference: String,
    /// Of a provider; empty for actors.
    pub link_name: String,
    pub error: String,
    pub at: SystemTime,
    /// It is a provider that ran and was given up.
    pub given_up: Option<GivenUp>,
}

/// A provider that ran, and is not started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    pub id: String,
    /// The name in its claims.
    pub name: String,
}

/// The failures of one host. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Troubles(Arc<Mutex<VecDeque<Trouble>>>);

impl Troubles {
    /// Returns the failures that were not mended, the latest last.
    pub fn lately(&self) -> Vec<Trouble> {
        let troubles = self.0.lock();
        let recent =
            troubles.iter().filter(|trouble| trouble.at.elapsed().is_ok_and(|ago| ago < KEPT));
        recent.cloned().collect()
    }

    /// Takes an event into account.
    pub(super) fn on_event(&self, event: &Event) {
        match event {
            Event::ActorStartFailed { actor_ref, error } => {
                self.failed(Kind::Actor, actor_ref, "", error)
            }
            Event::ActorsStartFailed { image_ref, error, .. } => {
                self.failed(Kind::Actor, image_ref, "", error)
            }
            Event::ProviderStartFailed { provider_ref, link_name, error } => {
                self.failed(Kind::Provider, provider_ref, link_name, error);
            }
            Event::ActorScaled { actor, .. } | Event::ActorsStarted { actor, .. } => {
                self.clear(Kind::Actor, &actor.image_ref, "");
            }
            Event::ProviderStarted { provider, .. } => {
                self.clear(Kind::Provider, &provider.image_ref, &provider.link_name);
            }
            _ => {}
        }
    }

    /// Adds to the failure of a provider that it was given up.
    pub fn give_up(&self, reference: &str, link_name: &str, given_up: GivenUp) {
        let mut troubles = self.0.lock();
        let of_it = |one: &&mut Trouble| {
            (one.kind, &*one.reference, &*one.link_name) == (Kind::Provider, reference, link_name)
        };
        if let Some(trouble) = troubles.iter_mut().find(of_it) {
            trouble.given_up = Some(given_up);
        }
    }

    /// Drops the failures of a provider, by its reference or public key, that nobody wants to run.
    pub fn forget_provider(&self, provider: &str, link_name: &str) {
        self.0.lock().retain(|one| {
            let is_it = one.reference == provider
                || one.given_up.as_ref().is_some_and(|given_up| given_up.id == provider);
            one.kind != Kind::Provider || one.link_name != link_name || !is_it
        });
    }

    fn failed(&self, kind: Kind, reference: &str, link_name: &str, error: &str) {
        self.clear(kind, reference, link_name);
        let mut troubles = self.0.lock();
        if troubles.len() >= TROUBLES_MAX {
            troubles.pop_front();
        }
        troubles.push_back(Trouble {
            kind,
            reference: reference.to_owned(),
            link_name: link_name.to_owned(),
            error: error.to_owned(),
            at: SystemTime::now(),
            given_up: None,
        });
    }

    fn clear(&self, kind: Kind, reference: &str, link_name: &str) {
        let mut troubles = self.0.lock();
        troubles.retain(|old| {
            (old.kind, &*old.reference, &*old.link_name) != (kind, reference, link_name)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(reference: &str, error: &str) -> Event {
        Event::ProviderStartFailed {
            provider_ref: reference.into(),
            link_name: "default".into(),
            error: error.into(),
        }
    }

    #[test]
    fn each_reference_has_its_latest_failure_and_there_is_a_bound() {
        let troubles = Troubles::default();
        troubles.on_event(&failure("a", "first"));
        troubles.on_event(&failure("a", "second"));
        troubles
            .on_event(&Event::ActorStartFailed { actor_ref: "a".into(), error: "other".into() });
        let errors: Vec<String> =
            troubles.lately().into_iter().map(|trouble| trouble.error).collect();
        assert_eq!(errors, ["second", "other"]);
        let given_up = GivenUp { id: "V".into(), name: "Looper".into() };
        troubles.give_up("a", "default", given_up.clone());
        assert_eq!(troubles.lately()[0].given_up, Some(given_up));
        troubles.forget_provider("V", "other");
        assert_eq!(troubles.lately().len(), 2);
        troubles.forget_provider("V", "default");
        assert_eq!(troubles.lately().len(), 1, "that of the actor stays");
        for number in 0..100 {
            troubles.on_event(&failure(&number.to_string(), "x"));
        }
        assert_eq!(troubles.lately().len(), TROUBLES_MAX);
    }
}

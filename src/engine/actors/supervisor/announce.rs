//! The events of changes, in the form and the order clients of all eras wait for (lattice protocol,
//! section 7.7).

use std::sync::Arc;

use tracing::warn;
use uuid::Uuid;

use super::{
    ActorError, Supervisor,
    command::{Replace, Start},
};
use crate::actors::{
    artifact::Artifact,
    plan::{Change, StartError, TrialChange, Update, Version},
};
use lattice_protocol::{
    events::{
        Event,
        event::{ActorContext, Annotations},
    },
    identity::{claims::ActorClaims, keys::ActorId},
};

/// One-instance events per change; the counts are in the events about all of them.
const SINGLE_EVENTS_MAX: u32 = 32;

impl Supervisor {
    fn context(
        &self,
        reference: &str,
        annotations: &Annotations,
        claims: &ActorClaims,
    ) -> ActorContext {
        ActorContext {
            host_id: self.parts.context.host_id.to_string(),
            public_key: claims.subject.to_string(),
            image_ref: reference.to_owned(),
            annotations: annotations.clone(),
            claims: claims.into(),
        }
    }

    pub(super) fn events_of(&self, changes: &[Change<Arc<Artifact>>]) -> Vec<Event> {
        changes.iter().flat_map(|change| self.scale_events(change)).collect()
    }

    /// Returns the events of the change of one group (lattice protocol, section 7.7).
    pub(super) fn scale_events(&self, change: &Change<Arc<Artifact>>) -> Vec<Event> {
        let Change { before, after, .. } = *change;
        let actor = self.context(&change.reference, &change.annotations, &change.module.claims);
        let others = self.plan.others(&change.module.claims.subject, &change.annotations);
        let mut events = Vec::new();
        if after > before {
            let count = after - before;
            for _ in 0..count.min(SINGLE_EVENTS_MAX) {
                events.push(Event::ActorStarted { actor: actor.clone(), instance_id: new_id() });
            }
            events.push(Event::ActorsStarted { actor: actor.clone(), count });
        } else if before > after {
            let count = before - after;
            for _ in 0..count.min(SINGLE_EVENTS_MAX) {
                events.push(Event::ActorStopped { actor: actor.clone(), instance_id: new_id() });
            }
            let remaining = after;
            events.push(Event::ActorsStopped { actor: actor.clone(), count, remaining, others });
        } else if after > 0 {
            // Nothing changed, but the client that asked waits for an event.
            events.push(Event::ActorStarted { actor: actor.clone(), instance_id: new_id() });
        }
        events.push(Event::ActorScaled { actor, max: after, others });
        events
    }

    /// Returns the events of an update: each group stops with the old module and starts with the
    /// new one.
    pub(super) fn update_events(&self, update: &Update<Arc<Artifact>>) -> Vec<Event> {
        let (old, new) = (&update.old_module.claims, &update.module.claims);
        let mut events = Vec::new();
        for group in &update.groups {
            let before = self.context(&update.old_reference, &group.annotations, old);
            let after = self.context(&update.reference, &group.annotations, new);
            events.extend([
                Event::ActorUpdated {
                    public_key: update.id.to_string(),
                    revision: new.effective_revision(),
                    instance_id: group.instance_id.clone(),
                    share: None,
                },
                Event::ActorsStarted { actor: after.clone(), count: group.max },
                Event::ActorsStopped {
                    actor: before,
                    count: group.max,
                    remaining: group.max,
                    others: 0,
                },
                Event::ActorScaled { actor: after, max: group.max, others: 0 },
            ]);
        }
        events
    }

    /// Returns the events of a trial: another revision takes a share of the calls, or all of them.
    pub(super) fn trial_events(&self, change: &TrialChange<Arc<Artifact>>) -> Vec<Event> {
        let updated = change.groups.iter().map(|group| Event::ActorUpdated {
            public_key: change.id.to_string(),
            revision: change.module.claims.effective_revision(),
            instance_id: group.instance_id.clone(),
            share: Some(change.view.as_ref().map_or(0, |view| view.share)),
        });
        updated.collect()
    }

    pub(super) fn start_failed(
        &self,
        start: &Start,
        actor_id: Option<&ActorId>,
        error: &StartError,
    ) {
        let text = error.to_string();
        warn!(reference = %start.reference, error = text, "actor not started");
        let error = format!("start {}: {text}", start.reference);
        let public_key = actor_id.map_or_else(|| "N/A".to_owned(), ToString::to_string);
        let (host_id, annotations) =
            (self.parts.context.host_id.to_string(), start.annotations.clone());
        self.parts.context.events.publish_all([
            Event::ActorStartFailed { actor_ref: start.reference.clone(), error: error.clone() },
            Event::ActorsStartFailed {
                host_id: host_id.clone(),
                public_key: public_key.clone(),
                image_ref: start.reference.clone(),
                annotations: annotations.clone(),
                error: error.clone(),
            },
            Event::ActorScaleFailed {
                host_id,
                public_key,
                image_ref: start.reference.clone(),
                annotations,
                max: start.amount.applied_to(0),
                error,
            },
        ]);
    }

    pub(super) fn replace_failed(
        &self,
        replace: &Replace,
        running: Option<Version>,
        error: &ActorError,
    ) {
        warn!(reference = %replace.reference, %error, "actor not updated");
        self.parts.context.events.publish(Event::ActorUpdateFailed {
            public_key: replace.actor_id.clone().unwrap_or_else(|| "N/A".into()),
            revision: running.as_ref().map_or(0, |running| running.revision),
            instance_id: running
                .and_then(|running| running.instance_id)
                .unwrap_or_else(|| "N/A".into()),
            reason: error.to_string(),
        });
    }
}

fn new_id() -> String {
    Uuid::new_v4().to_string()
}

//! The events of changes, in the form and the order clients of all eras wait for (lattice protocol, section 7.7).

use tokio::sync::oneshot;
use tracing::warn;
use uuid::Uuid;

use super::{
    Supervisor,
    command::{ActorError, Amount, Replace, Start},
};
use crate::{
    events::{
        Event,
        event::{ActorContext, Annotations},
    },
    identity::{claims::ActorClaims, keys::ActorId},
};

/// One-instance events per change; the counts are in the events about all of them.
const SINGLE_EVENTS_MAX: u32 = 32;

impl Supervisor {
    pub(super) fn context(&self, reference: &str, annotations: &Annotations, claims: &ActorClaims) -> ActorContext {
        ActorContext {
            host_id: self.parts.host.to_string(),
            public_key: claims.subject.to_string(),
            image_ref: reference.to_owned(),
            annotations: annotations.clone(),
            claims: claims.clone(),
        }
    }

    /// The events of a change from `before` to `after` (lattice protocol, section 7.7).
    pub(super) fn scale_events(
        &self,
        reference: &str,
        annotations: &Annotations,
        claims: &ActorClaims,
        before: u32,
        after: u32,
    ) -> Vec<Event> {
        let actor = self.context(reference, annotations, claims);
        let id = || Uuid::new_v4().to_string();
        let mut events = Vec::new();
        if after > before {
            let count = after - before;
            for _ in 0..count.min(SINGLE_EVENTS_MAX) {
                events.push(Event::ActorStarted { actor: actor.clone(), instance_id: id() });
            }
            events.push(Event::ActorsStarted { actor: actor.clone(), count });
        } else if before > after {
            let count = before - after;
            for _ in 0..count.min(SINGLE_EVENTS_MAX) {
                events.push(Event::ActorStopped { actor: actor.clone(), instance_id: id() });
            }
            events.push(Event::ActorsStopped { actor: actor.clone(), count, remaining: after });
        } else if after > 0 {
            // Nothing changed, but the client that asked waits for an event.
            events.push(Event::ActorStarted { actor: actor.clone(), instance_id: id() });
        }
        events.push(Event::ActorScaled { actor, max: after });
        events
    }

    pub(super) fn start_failed(&self, start: &Start, actor_id: Option<&ActorId>, text: &str) {
        warn!(reference = %start.reference, error = text, "actor not started");
        let error = format!("start {}: {text}", start.reference);
        let public_key = actor_id.map_or_else(|| "N/A".to_owned(), ToString::to_string);
        let max = match start.amount {
            Amount::Add(count) | Amount::Exactly(count) | Amount::AtLeast(count) => count,
        };
        let (host_id, annotations) = (self.parts.host.to_string(), start.annotations.clone());
        self.parts.events.publish_all([
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
                max,
                error,
            },
        ]);
    }

    pub(super) fn replace_failed(
        &self,
        replace: &Replace,
        reply: oneshot::Sender<Result<(), ActorError>>,
        error: ActorError,
    ) {
        warn!(reference = %replace.reference, %error, "actor not updated");
        let running =
            replace.actor_id.as_ref().and_then(|id| self.running.values().find(|r| r.actor.id.as_str() == id));
        self.parts.events.publish(Event::ActorUpdateFailed {
            public_key: replace.actor_id.clone().unwrap_or_else(|| "N/A".into()),
            revision: running.map_or(0, |running| running.actor.claims().effective_revision()),
            instance_id: running
                .and_then(|running| running.groups.first())
                .map_or_else(|| "N/A".into(), |group| group.instance_id.clone()),
            reason: error.to_string(),
        });
        let _ = reply.send(Err(error));
    }
}

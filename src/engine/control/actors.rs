//! Commands about actors: auction, launch, scale, stop, update (lattice protocol, sections 3.7
//! to 3.11).

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use tracing::info;

use super::server::{Answer, Server, StopRequest, json, now, with_kept};
use crate::actors::supervisor::{
    ActorError, Amount, Handle, Replace, Revisions, Start, Stop, UNBOUNDED,
};
use lattice_protocol::{
    control::{
        bounds,
        request::{AuctionActor, LaunchActor, ScaleActor, StopActor, StopHost, UpdateActor},
        types::{Ack, ActorBid},
    },
    desired::kept::Command,
};

/// An update that takes longer is acknowledged and goes on: its client gives up after two seconds.
const UPDATE_ANSWER: Duration = Duration::from_millis(1500);

impl Server {
    pub(super) fn bid_for_actor(
        &self,
        AuctionActor { actor_ref, constraints }: AuctionActor,
    ) -> Option<ActorBid> {
        let could_start = bounds::reference(&actor_ref).is_ok()
            && bounds::constraints(&constraints).is_ok()
            && self.parts.context.state.matches(&constraints)
            && self.parts.registry.could_fetch(&actor_ref);
        let host_id = self.parts.context.state.facts().id.to_string();
        could_start.then_some(ActorBid { actor_ref, constraints, host_id })
    }

    pub(super) fn launch_actor(&self, mut request: LaunchActor) -> Answer {
        if let Err(error) = bounds::start(&request.actor_ref, &request.annotations) {
            return now(&Ack::rejected(error));
        }
        // Zero meant one to the clients that sent it.
        let more = request.count.unwrap_or(1).max(1);
        match self.parts.context.issuers.permission(&mut request.annotations, &request.actor_ref) {
            Ok(change) => self.start_actor(Start {
                reference: request.actor_ref,
                annotations: request.annotations,
                amount: Amount::Add(more),
                issuer_change: change,
            }),
            Err(error) => now(&Ack::rejected(error)),
        }
    }

    pub(super) fn scale_actor(&self, mut request: ScaleActor) -> Answer {
        if let Err(error) = bounds::start(&request.actor_ref, &request.annotations) {
            return now(&Ack::rejected(error));
        }
        let Some(count) = request.count else {
            return now(&Ack::rejected(
                "scale actor request without a count; send a number, or null for no bound",
            ));
        };
        let reference = if request.actor_ref.is_empty() {
            let running = self.parts.actors.running();
            let actor_id = request.actor_id.unwrap_or_default();
            let Some(actor) = running.iter().find(|actor| actor.id.as_str() == actor_id) else {
                let wanted = if actor_id.is_empty() {
                    "an actor without reference and key".into()
                } else {
                    actor_id
                };
                return now(&Ack::from(Err::<(), _>(ActorError::NotRunning(wanted))));
            };
            actor.reference.clone()
        } else {
            request.actor_ref
        };
        let amount = Amount::Exactly(count.unwrap_or(UNBOUNDED));
        match self.parts.context.issuers.permission(&mut request.annotations, &reference) {
            Ok(issuer_change) => {
                let annotations = request.annotations;
                self.start_actor(Start { reference, annotations, amount, issuer_change })
            }
            Err(error) => now(&Ack::rejected(error)),
        }
    }

    fn start_actor(&self, start: Start) -> Answer {
        // Before it starts: an event may tell at once that it failed.
        let noted = self.parts.kept.note(Command::from(&start));
        with_kept(Ack::from(self.parts.actors.start(start)), noted).boxed()
    }

    pub(super) fn stop_actor(&self, request: StopActor) -> Answer {
        if let Err(error) = bounds::start(&request.actor_ref, &request.annotations) {
            return now(&Ack::rejected(error));
        }
        let stop = Stop {
            actor: request.actor_ref,
            annotations: request.annotations,
            count: request.count.filter(|count| *count > 0),
        };
        let noted = self.parts.kept.note(Command::StopActor {
            actor: stop.actor.clone(),
            annotations: stop.annotations.clone(),
            count: stop.count,
        });
        let stopped = self.parts.actors.stop(stop);
        async move {
            match stopped.await.unwrap_or(Err(ActorError::Unavailable)) {
                // It was about to be started again, and is not any more.
                Err(ActorError::NotRunning(_) | ActorError::NoSuchAnnotations { .. })
                    if noted.has_removed() =>
                {
                    with_kept(Ack::accepted(), noted).await
                }
                outcome => with_kept(Ack::from(outcome), noted).await,
            }
        }
        .boxed()
    }

    pub(super) fn update_actor(&self, request: UpdateActor) -> Answer {
        match request.share {
            None | Some(1..=99) => {}
            Some(0) => {
                let ended = self.parts.actors.take_back(request.actor_id);
                return async move {
                    json(&Ack::from(ended.await.unwrap_or(Err(ActorError::Unavailable))))
                }
                .boxed();
            }
            Some(share) => {
                return now(&Ack::rejected(format!(
                    "a share of {share} %; 1 to 99 is a share, without one the new module takes all calls, and 0 takes it back"
                )));
            }
        }
        let mut annotations = request.annotations.unwrap_or_default();
        if let Err(error) = bounds::start(&request.new_actor_ref, &annotations) {
            return now(&Ack::rejected(error));
        }
        let change =
            self.parts.context.issuers.permission(&mut annotations, &request.new_actor_ref);
        let issuer_change = match change {
            Ok(change) => change,
            Err(error) => return now(&Ack::rejected(error)),
        };
        let updated = self.parts.actors.replace(Replace {
            actor_id: Some(request.actor_id.clone()).filter(|id| !id.is_empty()),
            reference: request.new_actor_ref.clone(),
            annotations,
            revisions: match request.any_revision {
                true => Revisions::Any,
                false => Revisions::Newer,
            },
            share: request.share,
            issuer_change,
        });
        // Kept when it worked, however long that takes.
        let (kept, actors) = (self.parts.kept.clone(), self.parts.actors.clone());
        let updating = self.parts.context.tasks.spawn(async move {
            if let Err(error) = updated.await.unwrap_or(Err(ActorError::Unavailable)) {
                return json(&Ack::from(Err::<(), _>(error)));
            }
            if request.share.is_some() {
                // Not before it has taken over.
                return json(&Ack::accepted());
            }
            let reference = request.new_actor_ref;
            let actor = actor_of(&actors, request.actor_id, &reference);
            let noted = kept.note(Command::UpdateActor { actor, reference });
            with_kept(Ack::accepted(), noted).await
        });
        async move {
            match tokio::time::timeout(UPDATE_ANSWER, updating).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => json(&Ack::rejected(ActorError::Unavailable)),
                // Events tell how it ended.
                Err(_) => json(&Ack::accepted()),
            }
        }
        .boxed()
    }

    pub(super) fn stop_host(self: &Arc<Self>, request: StopHost) -> Answer {
        info!(timeout_ms = request.timeout, "stop requested over the control interface");
        let server = Arc::clone(self);
        async move {
            server.parts.stop_requests.send_replace(Some(StopRequest {
                timeout: request.timeout.map(Duration::from_millis),
            }));
            json(&Ack::accepted())
        }
        .boxed()
    }
}

/// The public key of what was updated: that of the request, or of what runs with its reference.
fn actor_of(actors: &Handle, id: String, reference: &str) -> String {
    if !id.is_empty() {
        return id;
    }
    let running = actors.running();
    let actor = running.iter().find(|actor| actor.reference == reference);
    actor.map(|actor| actor.id.to_string()).unwrap_or_default()
}

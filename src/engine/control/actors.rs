//! Commands about actors: auction, launch, scale, stop, update (lattice protocol, sections 3.7
//! to 3.11).

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use tracing::info;

use super::server::{Answer, Server, StopRequest, json, now};
use crate::{
    actors::supervisor::{ActorError, Amount, Replace, Start, Stop, UNBOUNDED},
    issuers::IssuerChange,
};
use lattice_protocol::{
    control::{
        bounds,
        request::{AuctionActor, LaunchActor, ScaleActor, StopActor, StopHost, UpdateActor},
        types::{Ack, ActorBid},
    },
    events::event::Annotations,
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
        let count = request.count.unwrap_or(1).max(1);
        let amount = Amount::Add(count);
        match self.parts.context.issuers.permission(&mut request.annotations, &request.actor_ref) {
            Ok(change) => self.start_actor(request.actor_ref, request.annotations, amount, change),
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
            Ok(change) => self.start_actor(reference, request.annotations, amount, change),
            Err(error) => now(&Ack::rejected(error)),
        }
    }

    fn start_actor(
        &self,
        reference: String,
        annotations: Annotations,
        amount: Amount,
        issuer_change: IssuerChange,
    ) -> Answer {
        now(&Ack::from(self.parts.actors.start(Start {
            reference,
            annotations,
            amount,
            issuer_change,
        })))
    }

    pub(super) fn stop_actor(&self, request: StopActor) -> Answer {
        if let Err(error) = bounds::start(&request.actor_ref, &request.annotations) {
            return now(&Ack::rejected(error));
        }
        let stopped = self.parts.actors.stop(Stop {
            actor: request.actor_ref,
            annotations: request.annotations,
            count: request.count.filter(|count| *count > 0),
        });
        async move { json(&Ack::from(stopped.await.unwrap_or(Err(ActorError::Unavailable)))) }
            .boxed()
    }

    pub(super) fn update_actor(&self, request: UpdateActor) -> Answer {
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
            actor_id: Some(request.actor_id).filter(|id| !id.is_empty()),
            reference: request.new_actor_ref,
            annotations,
            issuer_change,
        });
        async move {
            match tokio::time::timeout(UPDATE_ANSWER, updated).await {
                Ok(updated) => json(&Ack::from(updated.unwrap_or(Err(ActorError::Unavailable)))),
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

//! Commands about actors: auction, launch, scale, stop, update (lattice protocol, sections 3.7
//! to 3.11).

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use tracing::info;

use super::server::{Answer, Server, StopRequest, json, now, with_kept};
use crate::actors::supervisor::{ActorError, Amount, Replace, Revisions, Start, Stop, UNBOUNDED};
use lattice_protocol::control::{
    bounds,
    request::{AuctionActor, LaunchActor, ScaleActor, StopActor, StopHost, UpdateActor},
    types::{Ack, ActorBid, Pairs},
};

/// An update that takes longer is acknowledged and goes on: its client gives up after two seconds.
const UPDATE_ANSWER: Duration = Duration::from_millis(1500);

impl Server {
    pub(super) fn bid_for_actor(
        &self,
        AuctionActor { actor_ref, constraints }: AuctionActor,
    ) -> Option<ActorBid> {
        let could_start = self.refusal().is_none()
            && bounds::reference(&actor_ref).is_ok()
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
        if let Some(refusal) = self.refusal() {
            return now(&refusal);
        }
        // Zero meant one to the clients that sent it.
        let more = request.count.unwrap_or(1).max(1);
        match self.parts.context.issuers.permission(&mut request.annotations, &request.actor_ref) {
            Ok(change) => self.start_actor(Start {
                reference: self.own_reference(request.actor_ref),
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
        let count = count.unwrap_or(UNBOUNDED);
        if let Some(refusal) = self.refusal()
            && count > self.calls_at_a_time(&reference, &request.annotations)
        {
            return now(&refusal);
        }
        let amount = Amount::Exactly(count);
        match self.parts.context.issuers.permission(&mut request.annotations, &reference) {
            Ok(issuer_change) => {
                let annotations = request.annotations;
                let reference = self.own_reference(reference);
                self.start_actor(Start { reference, annotations, amount, issuer_change })
            }
            Err(error) => now(&Ack::rejected(error)),
        }
    }

    /// Returns the reference of the actor that one names. Two do while a newer revision runs
    /// beside; what is kept, and what events tell, goes by the actor's own.
    fn own_reference(&self, named: String) -> String {
        let running = self.parts.actors.running();
        let actor = running.iter().find(|actor| actor.is_from(&named));
        actor.map(|actor| actor.reference.clone()).unwrap_or(named)
    }

    /// Returns how many calls an actor takes at a time under these annotations; 0 if it does not
    /// run here.
    fn calls_at_a_time(&self, named: &str, annotations: &Pairs) -> u32 {
        let running = self.parts.actors.running();
        let groups = running.iter().filter(|actor| actor.is_from(named)).flat_map(|of| &of.groups);
        let of_them = groups.filter(|group| group.annotations == *annotations);
        of_them.fold(0, |sum: u32, group| sum.saturating_add(group.max))
    }

    fn start_actor(&self, start: Start) -> Answer {
        with_kept(self.parts.kept.start_actor(start)).boxed()
    }

    pub(super) fn stop_actor(&self, request: StopActor) -> Answer {
        if let Err(error) = bounds::start(&request.actor_ref, &request.annotations) {
            return now(&Ack::rejected(error));
        }
        let stop = Stop {
            actor: self.own_reference(request.actor_ref),
            annotations: request.annotations,
            count: request.count.filter(|count| *count > 0),
        };
        let stopped = self.parts.kept.stop_actor(stop);
        async move { with_kept(stopped.await).await }.boxed()
    }

    pub(super) fn update_actor(&self, request: UpdateActor) -> Answer {
        match request.share {
            Some(_) if request.actor_id.is_empty() => {
                return now(&Ack::rejected(
                    "a share without actor_id; send the actor's public key",
                ));
            }
            None | Some(1..=100) => {}
            Some(0) => {
                let ended = self.parts.actors.take_back(request.actor_id);
                return async move {
                    let ended = ended.await.unwrap_or(Err(ActorError::Unavailable));
                    json(&Ack::from(ended.map(drop)))
                }
                .boxed();
            }
            Some(share) => {
                return now(&Ack::rejected(format!(
                    "a share of {share} %; 1 to 100 is a share, without one the new module takes \
                     the place of the old one, and 0 takes it back"
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
        let kept = self.parts.kept.clone();
        let updating = self.parts.context.tasks.spawn(async move {
            match updated.await.unwrap_or(Err(ActorError::Unavailable)) {
                // Not before it has taken over.
                Ok(_) if request.share.is_some() => json(&Ack::accepted()),
                outcome => with_kept(outcome.map(|changed| kept.updated(changed))).await,
            }
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

//! Commands about actors: auction, launch, scale, stop, update (lattice protocol, sections 3.7 to 3.11).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, future::ready};
use tracing::{info, warn};

use super::{
    bounds,
    server::{Answer, Server, StopRequest, json, now, parse, read},
    types::{Ack, AuctionActor, LaunchActor, ScaleActor, StopActor, StopHost, UpdateActor},
};
use crate::{
    actors::supervisor::{ActorError, Amount, Replace, Start, Stop, UNBOUNDED},
    events::event::Annotations,
    issuers::IssuerChange,
};

/// An update that takes longer is acknowledged and goes on: its client gives up after two seconds.
const UPDATE_ANSWER: Duration = Duration::from_millis(1500);

impl Server {
    pub(super) fn auction_actor(&self, payload: &Bytes) -> Answer {
        match read::<AuctionActor>(payload) {
            // A bid is a promise: clients take the first one.
            Ok(mut request)
                if bounds::reference(&request.actor_ref).is_ok()
                    && bounds::constraints(&request.constraints).is_ok()
                    && self.parts.state.matches(&request.constraints)
                    && self.parts.registry.could_fetch(&request.actor_ref) =>
            {
                request.host_id = self.parts.state.facts().id.to_string();
                now(&request)
            }
            Ok(_) => ready(None).boxed(),
            Err(error) => {
                warn!(%error, "auction request is malformed");
                ready(None).boxed()
            }
        }
    }

    pub(super) fn launch_actor(&self, payload: &Bytes) -> Answer {
        let mut request: LaunchActor = match parse("launch actor", payload) {
            Ok(request) => request,
            Err(answer) => return answer,
        };
        if let Err(error) = bounds::start(&request.actor_ref, &request.annotations) {
            return now(&Ack::rejected(error));
        }
        // Zero meant one to the clients that sent it.
        let count = request.count.unwrap_or(1).max(1);
        let amount = Amount::Add(count);
        match self.parts.issuers.permission(&mut request.annotations, &request.actor_ref) {
            Ok(change) => self.start_actor(request.actor_ref, request.annotations, amount, change),
            Err(error) => now(&Ack::rejected(error)),
        }
    }

    pub(super) fn scale_actor(&self, payload: &Bytes) -> Answer {
        let mut request: ScaleActor = match parse("scale actor", payload) {
            Ok(request) => request,
            Err(answer) => return answer,
        };
        if let Err(error) = bounds::start(&request.actor_ref, &request.annotations) {
            return now(&Ack::rejected(error));
        }
        let Some(count) = request.count else {
            return now(&Ack::rejected("scale actor request without a count; send a number, or null for no bound"));
        };
        let reference = if request.actor_ref.is_empty() {
            let running = self.parts.actors.running();
            let Some(actor) = running.iter().find(|actor| actor.id.as_str() == request.actor_id) else {
                let wanted = if request.actor_id.is_empty() {
                    "an actor without reference and key".into()
                } else {
                    request.actor_id
                };
                return now(&Ack::from(Err::<(), _>(ActorError::NotRunning(wanted))));
            };
            actor.reference.clone()
        } else {
            request.actor_ref
        };
        let amount = Amount::Exactly(count.unwrap_or(UNBOUNDED));
        match self.parts.issuers.permission(&mut request.annotations, &reference) {
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
        now(&Ack::from(self.parts.actors.start(Start { reference, annotations, amount, issuer_change })))
    }

    pub(super) fn stop_actor(&self, payload: &Bytes) -> Answer {
        let request: StopActor = match parse("stop actor", payload) {
            Ok(request) => request,
            Err(answer) => return answer,
        };
        if let Err(error) = bounds::start(&request.actor_ref, &request.annotations) {
            return now(&Ack::rejected(error));
        }
        let stopped = self.parts.actors.stop(Stop {
            actor: request.actor_ref,
            annotations: request.annotations,
            count: request.count.filter(|count| *count > 0),
        });
        async move { json(&Ack::from(stopped.await.unwrap_or(Err(ActorError::Unavailable)))) }.boxed()
    }

    pub(super) fn update_actor(&self, payload: &Bytes) -> Answer {
        let mut request: UpdateActor = match parse("update actor", payload) {
            Ok(request) => request,
            Err(answer) => return answer,
        };
        if let Err(error) = bounds::start(&request.new_actor_ref, &request.annotations) {
            return now(&Ack::rejected(error));
        }
        let change = self.parts.issuers.permission(&mut request.annotations, &request.new_actor_ref);
        let issuer_change = match change {
            Ok(change) => change,
            Err(error) => return now(&Ack::rejected(error)),
        };
        let updated = self.parts.actors.replace(Replace {
            actor_id: Some(request.actor_id).filter(|id| !id.is_empty()),
            reference: request.new_actor_ref,
            annotations: request.annotations,
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

    pub(super) fn stop_host(self: &Arc<Self>, payload: &Bytes) -> Answer {
        let request = if payload.is_empty() {
            StopHost::default()
        } else {
            match parse("stop host", payload) {
                Ok(request) => request,
                Err(answer) => return answer,
            }
        };
        info!(timeout_ms = request.timeout, "stop requested over the control interface");
        let server = Arc::clone(self);
        async move {
            server
                .parts
                .stop_requests
                .send_replace(Some(StopRequest { timeout: request.timeout.map(Duration::from_millis) }));
            json(&Ack::accepted())
        }
        .boxed()
    }
}

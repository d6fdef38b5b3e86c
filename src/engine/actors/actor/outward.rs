//! The way out of a guest of an actor: its calls, its links and its configuration.

use std::{pin::pin, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::{
    runtime::Handle,
    time::{Instant, timeout_at},
};

use super::{
    super::{
        background, capabilities,
        component::config::{Unreadable, Values},
        inbound::{HostCall, Outward},
    },
    Actor,
};
use crate::{
    meter,
    router::{LinkEnd, Route},
    rpc::call::{Call, CallError, Chain},
    spans,
};
use lattice_protocol::{
    identity::claims::ActorClaims,
    rpc::invocation::{self, Entity, TraceContext},
};

/// Where the outward calls of one inbound call go.
#[derive(Clone)]
pub(super) struct OutwardOf {
    pub actor: Arc<Actor>,
    /// Those of the code that runs, which an update may have replaced.
    pub claims: Arc<ActorClaims>,
    pub trace: TraceContext,
    pub deadline: Instant,
    pub depth: u8,
    pub chain: Chain,
}

impl OutwardOf {
    /// Counts a call that was refused before it went anywhere.
    fn refused(
        &self,
        (binding, namespace): (&str, &str),
        operation: &str,
        error: CallError,
    ) -> CallError {
        let router = &self.actor.shared.router;
        let target = router.meant(self.actor.id.as_str(), binding, namespace);
        let edge = self.actor.made.to(&target);
        let counted = edge.begin(operation);
        let ends = (&Entity::actor(&self.claims.subject), &target);
        let name = || counted.operation().to_owned();
        spans::refused(ends, operation, (&self.trace, name), &error);
        counted.end(meter::Outcome::Refused);
        router.record_failure(&edge, operation, &error, None);
        error
    }
}

impl Outward for OutwardOf {
    fn ends_at(&self) -> std::time::Instant {
        self.chain.ends_at(self.deadline).into_std()
    }

    fn host_call(&self, request: HostCall) -> BoxFuture<'_, Result<Bytes, CallError>> {
        Box::pin(async move {
            background::leave().await;
            let router = &self.actor.shared.router;
            // The text before a slash is an addressing form of later hosts; peers send the part
            // after it.
            let operation = invocation::dispatch_operation(&request.operation);
            let HostCall { binding, namespace, .. } = &request;
            let target = match router.decide(&self.claims, binding, namespace) {
                Ok(Route::Builtin(builtin)) => {
                    return capabilities::call(
                        builtin,
                        &self.actor.sink,
                        operation,
                        &request.payload,
                    );
                }
                Ok(Route::Entity(target)) => target,
                Err(error) => return Err(self.refused((binding, namespace), operation, error)),
            };
            let edge = self.actor.made.to(&target);
            let (deadline, chain) = match &request.exchange {
                Some(_) => (self.deadline, self.chain.next_with_pieces()),
                None => (self.deadline + self.chain.prolonged(), self.chain.next()),
            };
            let call = Call {
                origin: Entity::actor(&self.claims.subject),
                target,
                operation: operation.to_owned(),
                payload: request.payload,
                exchange: request.exchange,
                trace: self.trace.clone(),
                deadline,
                depth: self.depth.saturating_add(1),
                chain,
            };
            let made = pin!(router.call_resolved(call, &request.namespace));
            router.accounted(&edge, operation, made).await
        })
    }

    fn call_afterwards(&self, request: HostCall) {
        // Without a runtime the host is at its end.
        let Ok(runtime) = Handle::try_current() else { return };
        let deadline = self.actor.shared.router.deadline();
        let chain = Chain::of_waiting(self.chain.waiting());
        // Nobody waits for it, so nobody is held back by too many of them.
        let Ok(place) = Arc::clone(&self.actor.afterwards).try_acquire_owned() else { return };
        let outward = Self { deadline, chain, ..self.clone() };
        let made = async move {
            let _place = place;
            // Its error is nobody's any more; the call is counted as others are.
            let _ = timeout_at(deadline, outward.host_call(request)).await;
        };
        // An actor that stops waits for it, as for the call that it belongs to.
        self.actor.in_work.spawn_on(made, &runtime);
    }

    fn link_end(&self, contract: &str, link_name: &str) -> LinkEnd {
        self.actor.shared.router.link_end(self.claims.subject.as_str(), contract, link_name)
    }

    fn configuration(&self) -> BoxFuture<'_, Result<Arc<Values>, Unreadable>> {
        Box::pin(async move {
            background::leave().await;
            self.actor.config.read().await
        })
    }
}

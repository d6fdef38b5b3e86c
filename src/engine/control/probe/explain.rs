//! How this host would decide a call: the question of `host explain`, its answer as data, and the
//! handler.
//!
//! [`router::explain`](crate::router::explain) decides; [`words`] says it in sentences, with the
//! command that mends what fails. A client that talks to hosts of earlier years words what it
//! foresees itself with the same functions.

pub mod words;

use std::sync::Arc;

use futures::FutureExt;

use crate::{
    control::server::{Answer, Server, json, now},
    router::explain::Question,
};
use lattice_protocol::{
    control::{
        probe::explain::{Explained, Outcome, Request},
        types::Ack,
    },
    links::{LinkDefinition, other_values},
};

impl From<&Request> for Question {
    fn from(request: &Request) -> Self {
        Self {
            origin: request.origin.clone(),
            namespace: request.namespace.clone(),
            link_name: request.link_name.clone(),
            operation: request.operation.clone(),
        }
    }
}

/// Takes into account that the origin does not take the link on by which it would call.
fn refuse_link(explained: &mut Explained, link: &LinkDefinition, error: &str) {
    let Some(step) = explained.steps.iter_mut().find(|step| step.step == "link") else { return };
    step.outcome = Outcome::Fails;
    step.why = format!(
        "the provider does not take the link of {} on, so it does not call it: {error}",
        link.actor_id
    );
    step.fix = Some(format!(
        "mend the cause, or: {}",
        other_values(&link.actor_id, &link.provider_id, &link.contract_id, &link.link_name)
    ));
    explained.conclude();
}

impl Server {
    pub(in crate::control) fn probe_explain(self: &Arc<Self>, request: Request) -> Answer {
        if request.origin.public_key.is_empty()
            || (request.namespace.is_empty() && request.arrived_at.is_none())
        {
            return now(&Ack::rejected("explain request without origin or namespace"));
        }
        let server = Arc::clone(self);
        async move { json(&server.explained(&request).await) }.boxed()
    }

    /// The link that a provider of this host does not take on, although it is to call its actor by
    /// it.
    fn refused_link_to(
        &self,
        Request { origin, namespace, arrived_at, .. }: &Request,
    ) -> Option<(Arc<LinkDefinition>, String)> {
        if origin.is_actor() || arrived_at.is_some() {
            return None;
        }
        self.parts.router.refused_links().into_iter().find(|(link, _)| {
            link.actor_id == *namespace
                && link.provider_id == *origin.public_key
                && link.link_name == *origin.link_name
        })
    }

    async fn explained(&self, request: &Request) -> Explained {
        let router = &self.parts.router;
        let explanation = match &request.arrived_at {
            Some(target) => {
                router.explain_arrival(&request.origin, target, &request.operation).await
            }
            None => router.explain(Question::from(request)).await,
        };
        let facts = self.parts.context.state.facts();
        let table = self.parts.context.links.table();
        let scene = words::Scene { table: &table, host: Some(facts.id.as_str()), request };
        let mut explained = scene.explained(&explanation);
        if let Some((link, error)) = self.refused_link_to(request) {
            refuse_link(&mut explained, &link, &error);
        }
        let key = &*request.origin.public_key;
        explained.origin_runs_here = self
            .parts
            .actors
            .running()
            .iter()
            .any(|actor| actor.id.as_str() == key)
            || self.parts.providers.running().iter().any(|provider| provider.id.as_str() == key);
        explained
    }
}

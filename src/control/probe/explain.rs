//! How this host would decide a call: the question of `host explain`, its answer as data, and the handler.
//!
//! [`router::explain`](crate::router::explain) decides; [`words`] says it in sentences, with the command that mends what
//! fails. A client that talks to hosts of earlier years words what it foresees itself with the same functions.

pub mod words;

use std::sync::Arc;

use futures::FutureExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    control::{
        request::HostRequest,
        server::{Answer, Server, json, now},
        types::Ack,
    },
    lattice::subject::{Control, Probe},
    links::{LinkDefinition, link_option},
    providers::builtin,
    router::explain::Question,
    rpc::invocation::Entity,
    serde_null::null_as_default,
};

/// `probe.{host}.explain`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    pub origin: Entity,
    /// As the origin writes it: a contract id, an actor's public key, or a call alias.
    #[serde(deserialize_with = "null_as_default")]
    pub namespace: String,
    #[serde(deserialize_with = "null_as_default")]
    pub link_name: String,
    #[serde(deserialize_with = "null_as_default")]
    pub operation: String,
    /// The provider that is meant to take the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The call has left its host and arrives at this target here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arrived_at: Option<Entity>,
}

impl HostRequest for Request {
    type Reply = Explained;

    fn subject(host: String) -> Control {
        Control::Probe { host, probe: Probe::Explain }
    }
}

impl Request {
    pub fn question(&self) -> Question {
        Question {
            origin: self.origin.clone(),
            namespace: self.namespace.clone(),
            link_name: self.link_name.clone(),
            operation: self.operation.clone(),
        }
    }
}

/// How a step ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Ok,
    Fails,
    #[default]
    Unknown,
}

/// One step of the decision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Step {
    /// `known`, `link`, `claim`, `check`, `policy`, `replica`, `path`, `deadline` or `repeat`.
    pub step: String,
    pub outcome: Outcome,
    /// The finding, as text.
    pub why: String,
    /// The command, or what else to do, when it fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// The finding, as data.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub data: Value,
    /// The host that says so; nobody's if a client concludes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_id: Option<String>,
}

/// The whole decision.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Explained {
    pub accepted: bool,
    /// Why a host does not explain it.
    pub error: String,
    pub origin: Entity,
    pub target: Option<Entity>,
    pub steps: Vec<Step>,
    pub verdict: Outcome,
    /// The verdict in a sentence.
    pub conclusion: String,
    /// The error the caller would get, if the call fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_error: Option<String>,
    /// The host the call would go to, if one was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_host: Option<String>,
    /// Whether the origin runs on the host that was asked.
    pub origin_runs_here: bool,
}

impl Explained {
    /// Takes into account that the origin does not take the link on by which it would call.
    fn refuse_link(&mut self, link: &LinkDefinition, error: &str) {
        let Some(step) = self.steps.iter_mut().find(|step| step.step == "link") else { return };
        step.outcome = Outcome::Fails;
        step.why =
            format!("the provider does not take the link of {} on, so it does not call it: {error}", link.actor_id);
        step.fix = Some(format!(
            "mend the cause, or give it other values: host link put {} {} {}{} KEY=VALUE",
            link.actor_id,
            builtin::name_of(&link.provider_id),
            link.contract_id,
            link_option(&link.link_name)
        ));
        self.conclude();
    }
}

impl Server {
    pub(in crate::control) fn probe_explain(self: &Arc<Self>, request: Request) -> Answer {
        if request.origin.public_key.is_empty() || (request.namespace.is_empty() && request.arrived_at.is_none()) {
            return now(&Ack::rejected("explain request without origin or namespace"));
        }
        let server = Arc::clone(self);
        async move { json(&server.explained(&request).await) }.boxed()
    }

    /// The link that a provider of this host does not take on, although it is to call its actor by it.
    fn refused_link_to(
        &self,
        Request { origin, namespace, arrived_at, .. }: &Request,
    ) -> Option<(Arc<LinkDefinition>, String)> {
        if origin.is_actor() || arrived_at.is_some() {
            return None;
        }
        self.parts.router.refused_links().into_iter().find(|(link, _)| {
            link.actor_id == *namespace && link.provider_id == *origin.public_key && link.link_name == *origin.link_name
        })
    }

    async fn explained(&self, request: &Request) -> Explained {
        let router = &self.parts.router;
        let explanation = match &request.arrived_at {
            Some(target) => router.explain_arrival(&request.origin, target, &request.operation).await,
            None => router.explain(request.question()).await,
        };
        let facts = self.parts.context.state.facts();
        let table = self.parts.context.links.table();
        let scene = words::Scene { table: &table, host: Some(facts.id.as_str()), request };
        let mut explained = scene.explained(&explanation);
        if let Some((link, error)) = self.refused_link_to(request) {
            explained.refuse_link(&link, &error);
        }
        let key = &*request.origin.public_key;
        explained.origin_runs_here = self.parts.actors.running().iter().any(|actor| actor.id.as_str() == key)
            || self.parts.providers.running().iter().any(|provider| provider.id.as_str() == key);
        explained
    }
}

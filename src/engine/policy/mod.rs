//! Asks the policy service of the lattice whether something may start or be called (lattice
//! protocol, section 8.2).
//!
//! Without a policy topic everything is permitted and nothing is asked. With one, an answer is kept
//! for good, under who asks for what. No answer, or one that makes no sense, is a denial that is
//! not kept: the next call asks again.
//!
//! The service changes its mind with a message on the changes topic. Such messages are not signed,
//! so anybody who may publish there can send them, and request ids are no secret: one that takes a
//! permission away counts as it is, one that gives a permission only makes the host forget its
//! decision and ask the service again.
//!
//! A service is told the claims of those that run on the asking host, which has verified them. The
//! metadata of the lattice proves nothing: of others the issuer is [`UNVERIFIED`] and there are no
//! capabilities.
//!
//! Requests carry the labels the host has at that moment, and a service may decide by them: when
//! they change, nothing that was decided before counts any longer. Calls that need the same
//! decision at the same time ask for it once. Requests to start something also carry its image
//! reference, beyond what hosts of other makes send, in `target.imageReference`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use async_nats::Subscriber;
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Shared, WeakShared},
};
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use lattice_base::lattice::{
    answers::{Answers, Unsent},
    made,
};
use lattice_protocol::{
    identity::{
        claims::{ActorClaims, now},
        provider::ProviderClaims,
    },
    rpc::invocation::Entity,
};

/// Decisions kept; beyond it the cache begins anew.
const CACHE_MAX: usize = 100_000;
/// Questions under way that others can share; beyond it calls ask for themselves.
const PENDING_MAX: usize = 10_000;
/// How long handing an answer to the connection may take; it only waits when the server is away.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The issuer of claims that the asking host has not verified.
pub const UNVERIFIED: &str = "unverified";
/// How long the claims of a start request are valid, in seconds.
const REQUEST_VALID_SECS: u64 = 60;

/// The action to decide on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    StartActor,
    StartProvider,
    PerformInvocation,
}

/// The source or the target of an action.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Party {
    pub public_key: String,
    pub contract_id: String,
    pub link_name: String,
    pub issuer: String,
    pub capabilities: Vec<String>,
    /// When its claims cease to count, in seconds since 1970.
    pub expires: Option<u64>,
    /// Of what is about to start; empty otherwise.
    pub image_reference: String,
}

/// The part of claims that matters here, of claims whose signature this host has verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    pub issuer: String,
    pub capabilities: Vec<String>,
    /// In seconds since 1970.
    pub expires: Option<u64>,
}

impl Verified {
    /// Returns the claims that an actor was started with.
    pub fn of_actor(claims: &ActorClaims) -> Self {
        Self {
            issuer: claims.issuer.clone(),
            capabilities: claims.caps.clone(),
            expires: claims.expires,
        }
    }

    /// Returns the claims that a provider was started with.
    pub fn of_provider(claims: &ProviderClaims) -> Self {
        Self { issuer: claims.issuer.clone(), capabilities: Vec::new(), expires: claims.expires }
    }
}

impl Party {
    /// An entity with its claims, if this host has verified them.
    pub fn of(entity: &Entity, verified: Option<Verified>) -> Self {
        let Verified { issuer, capabilities, expires } = verified
            .unwrap_or_else(|| Verified { issuer: UNVERIFIED.to_owned(), ..Verified::default() });
        Self {
            public_key: entity.public_key.to_string(),
            contract_id: entity.contract_id.to_string(),
            link_name: entity.link_name.to_string(),
            issuer,
            capabilities,
            expires,
            image_reference: String::new(),
        }
    }

    /// An actor that is about to start.
    pub fn of_actor(claims: &ActorClaims, reference: &str) -> Self {
        Self {
            public_key: claims.subject.to_string(),
            issuer: claims.issuer.clone(),
            capabilities: claims.caps.clone(),
            expires: claims.expires,
            image_reference: reference.to_owned(),
            ..Self::default()
        }
    }
}

/// The decision of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub request_id: String,
    pub permitted: bool,
    pub message: Option<String>,
}

/// Why the service gave no decision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    #[error("no answer within {limit_ms} ms")]
    TimedOut { limit_ms: u128 },
    #[error("{0}")]
    Request(String),
    /// The answer makes no sense.
    #[error("{0}")]
    Reply(String),
}

/// Labels of a host, as they are now.
pub type Labels = Arc<ArcSwap<BTreeMap<String, String>>>;

/// The host as policy requests describe it.
#[derive(Clone, Debug)]
pub struct HostInfo {
    pub public_key: String,
    pub lattice_id: String,
    pub labels: Labels,
    pub cluster_issuers: Vec<String>,
    pub issuer: String,
}

/// Asks and remembers. Cheap to clone.
#[derive(Clone)]
pub struct Policy(Option<Arc<Service>>);

struct Service {
    client: async_nats::Client,
    topic: String,
    timeout: Duration,
    host: HostInfo,
    // Held for a few lines, never across an await.
    cache: Mutex<Cache>,
    /// Whether the last question was answered, or why not.
    last: ArcSwapOption<Result<(), AskError>>,
}

type Question = (Action, Party, Party);
type AllLabels = Arc<BTreeMap<String, String>>;
type Asking = BoxFuture<'static, Decision>;

#[derive(Default)]
struct Cache {
    /// The host's labels when these decisions were made.
    labels: AllLabels,
    decisions: HashMap<Question, Decision>,
    /// Asked with these labels and not answered yet. Weak, because a question ends when nobody
    /// waits for it any more.
    pending: HashMap<Question, WeakShared<Asking>>,
    /// Which question a request id belongs to, for overrides.
    requests: HashMap<String, Question>,
}

#[derive(Deserialize)]
struct Reply {
    #[serde(alias = "request_id", alias = "requestId")]
    request_id: Option<String>,
    permitted: bool,
    #[serde(default)]
    message: Option<String>,
}

impl Policy {
    /// Permits everything.
    pub fn off() -> Self {
        Self(None)
    }

    pub fn new(
        client: async_nats::Client,
        topic: String,
        timeout: Duration,
        host: HostInfo,
    ) -> Self {
        let (cache, last) = (Mutex::default(), ArcSwapOption::empty());
        Self(Some(Arc::new(Service { client, topic, timeout, host, cache, last })))
    }

    /// Whether nothing is ever asked.
    pub fn is_off(&self) -> bool {
        self.0.is_none()
    }

    /// Where the service is asked, if there is one.
    pub fn topic(&self) -> Option<&str> {
        self.0.as_ref().map(|service| service.topic.as_str())
    }

    /// Whether the last question was answered, or why not; `None` before the first one, and where
    /// nobody is asked.
    pub fn last_outcome(&self) -> Option<Result<(), AskError>> {
        self.0.as_ref()?.last.load().as_deref().cloned()
    }

    /// Finds out whether the service answers: asks whether this host may call itself. The decision
    /// is not kept.
    pub async fn check(&self) -> Option<Result<(), AskError>> {
        let service = self.0.as_ref()?;
        let host = Party { public_key: service.host.public_key.clone(), ..Party::default() };
        let labels = service.host.labels.load_full();
        let outcome = service
            .ask(&new_id(), &(Action::PerformInvocation, host.clone(), host), &labels)
            .await
            .map(drop);
        service.last.store(Some(Arc::new(outcome.clone())));
        Some(outcome)
    }

    /// Decides, from memory or by asking. Ends within the configured timeout.
    pub async fn decide(&self, action: Action, source: Party, target: Party) -> Decision {
        let Some(service) = &self.0 else {
            return Decision { request_id: String::new(), permitted: true, message: None };
        };
        let question = (action, source, target);
        let asked = {
            let mut cache = service.current();
            if let Some(known) = cache.decisions.get(&question) {
                return known.clone();
            }
            match cache.pending.get(&question).and_then(WeakShared::upgrade) {
                Some(asked) => asked,
                None => {
                    let asked = Arc::clone(service)
                        .settle(question.clone(), Arc::clone(&cache.labels))
                        .boxed()
                        .shared();
                    cache.add_pending(question, &asked);
                    asked
                }
            }
        };
        asked.await
    }

    /// Takes overrides from the changes topic until stopped, and answers those who want an answer.
    pub async fn follow_changes(
        &self,
        (client, answers): (async_nats::Client, Answers),
        mut changes: Subscriber,
        stop: CancellationToken,
    ) {
        loop {
            let message = tokio::select! {
                () = stop.cancelled() => return,
                message = changes.next() => message,
            };
            let Some(message) = message else { return };
            if made::by_jetstream(&message) {
                continue;
            }
            let success = self.override_decision(&message.payload);
            let Some(reply) = message.reply else { continue };
            let answer = serde_json::json!({"success": success}).to_string().into();
            match answers.send(&client, &reply, answer, ANSWER_TIMEOUT).await {
                Ok(()) | Err(Unsent::Refused) => {}
                Err(error) => warn!(%error, "answer to a policy change lost"),
            }
        }
    }

    /// Takes an override from the changes topic; tells whether it concerned a decision made here.
    /// Nothing is permitted because of it: that says the service itself.
    fn override_decision(&self, message: &[u8]) -> bool {
        let Some(service) = &self.0 else { return false };
        let Ok(Reply { request_id: Some(request_id), permitted, message }) =
            serde_json::from_slice(message)
        else {
            warn!("message on the policy changes topic is no decision");
            return false;
        };
        let mut cache = service.cache.lock();
        let Some(question) = cache.requests.get(&request_id).cloned() else { return false };
        let known = cache.decisions.get(&question).is_some_and(|decision| decision.permitted);
        if !permitted {
            info!(%request_id, "policy decision overridden: denied from now on");
            cache.decisions.insert(question, Decision { request_id, permitted, message });
        } else if !known {
            info!(%request_id, "the policy service is asked again: a message says that it permits what it denied");
            cache.decisions.remove(&question);
        }
        true
    }
}

impl Cache {
    fn remember(&mut self, question: Question, decision: Decision) {
        if self.decisions.len() >= CACHE_MAX {
            self.decisions.clear();
            self.requests.clear();
        }
        self.requests.insert(decision.request_id.clone(), question.clone());
        self.decisions.insert(question, decision);
    }

    fn add_pending(&mut self, question: Question, asked: &Shared<Asking>) {
        if self.pending.len() >= PENDING_MAX {
            self.pending.retain(|_, pending| pending.upgrade().is_some());
        }
        if self.pending.len() < PENDING_MAX
            && let Some(weak) = asked.downgrade()
        {
            self.pending.insert(question, weak);
        }
    }
}

impl Service {
    /// The decisions that hold for the labels of now. Others are forgotten.
    fn current(&self) -> MutexGuard<'_, Cache> {
        let mut cache = self.cache.lock();
        let labels = self.host.labels.load_full();
        if !Arc::ptr_eq(&cache.labels, &labels) {
            if cache.labels != labels {
                *cache = Cache::default();
            }
            cache.labels = labels;
        }
        cache
    }

    /// Asks, and remembers the decision.
    async fn settle(self: Arc<Self>, question: Question, labels: AllLabels) -> Decision {
        let request_id = new_id();
        let answer = self.ask(&request_id, &question, &labels).await;
        self.last.store(Some(Arc::new(answer.as_ref().map(drop).map_err(AskError::clone))));
        let mut cache = self.current();
        // A decision that was asked for with labels of before is as old as they are.
        let counts = cache.labels == labels;
        if counts {
            cache.pending.remove(&question);
        }
        match answer {
            Ok(decision) => {
                if counts {
                    cache.remember(question, decision.clone());
                }
                decision
            }
            Err(cause) => {
                drop(cache);
                warn!(topic = %self.topic, %request_id, error = %cause, "policy service gave no decision, denied");
                Decision {
                    request_id,
                    permitted: false,
                    message: Some(format!("no decision of the policy service: {cause}")),
                }
            }
        }
    }

    async fn ask(
        &self,
        request_id: &str,
        (action, source, target): &Question,
        labels: &BTreeMap<String, String>,
    ) -> Result<Decision, AskError> {
        let mut body = serde_json::json!({
            "requestId": request_id,
            "action": action,
            "source": {
                "publicKey": source.public_key, "contractId": source.contract_id, "linkName": source.link_name,
                "capabilities": source.capabilities, "issuer": source.issuer, "issuedOn": "",
                "expiresAt": source.expires.unwrap_or(now() + REQUEST_VALID_SECS),
                "expired": source.expires.is_some_and(|expires| expires <= now()),
            },
            "target": {
                "publicKey": target.public_key, "issuer": target.issuer, "contractId": target.contract_id,
                "linkName": target.link_name,
            },
            "host": {
                "publicKey": self.host.public_key, "latticeId": self.host.lattice_id, "labels": labels,
                "clusterIssuers": self.host.cluster_issuers, "issuer": self.host.issuer,
            },
        });
        if !target.image_reference.is_empty() {
            body["target"]["imageReference"] = target.image_reference.clone().into();
        }
        let request =
            async_nats::Request::new().payload(body.to_string().into()).timeout(Some(self.timeout));
        // The request's own timeout begins when the connection has taken it, so there is one around
        // it.
        let reply = tokio::time::timeout(
            self.timeout,
            self.client.send_request(self.topic.clone(), request),
        )
        .await
        .map_err(|_| AskError::TimedOut { limit_ms: self.timeout.as_millis() })?
        .map_err(|e| AskError::Request(e.to_string()))?;
        let reply: Reply =
            serde_json::from_slice(&reply.payload).map_err(|e| AskError::Reply(e.to_string()))?;
        let request_id = reply.request_id.unwrap_or_else(|| request_id.to_owned());
        Ok(Decision { request_id, permitted: reply.permitted, message: reply.message })
    }
}

fn new_id() -> String {
    Uuid::new_v4().to_string()
}

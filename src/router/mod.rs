//! The router: one place decides what becomes of a call, whoever makes it and wherever it goes.
//!
//! Every call passes the same checks in the same order, and only then the path is chosen:
//!
//! 1. [`Router::decide`] (calls of actors): built-in capability, link definition, actor key or call alias; the link first,
//!    then the capability in the caller's claims (wasmbus protocol, sections 4.7 and 6.1).
//! 2. The target's own check (calls to actors): a provider may call on a contract the actor was signed for (6.2).
//! 3. The policy service, if there is one: asked by the host of the target actor, or by the host of the caller when the
//!    target is a provider.
//! 4. Local, if the target runs in this process and has a free permit; otherwise over NATS, signed, to a host that [`remote`]
//!    chooses. If no other host takes it, a target in this process is waited for.
//!
//! A call that arrives over NATS enters at step 2, in [`Router::receive`]; a built-in provider, whose caller's host has asked
//! the policy service, only makes its own check. With the local path switched off all calls go over NATS; what is allowed
//! and what is refused does not change.
//!
//! A provider that does not know of a link yet refuses a call without having done anything, so such a call is made again
//! while the link is young, to wherever the link leads by then: links can be put and moved while actors work.

pub mod remote;

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::{
    identity::{
        claims::ActorClaims,
        keys::{ActorId, LatticeName, LinkName},
    },
    links::Live,
    policy::{self, Policy},
    rpc::{
        call::{Call, CallError, DEPTH_MAX},
        invocation::Entity,
    },
};
use remote::Remote;

/// How long a provider may take to learn of a link that this host knows.
const SETTLE: Duration = Duration::from_secs(2);
/// The first pause before a call is made again that came before its link; each further one is twice as long.
const SETTLE_PAUSE: Duration = Duration::from_millis(5);

/// A capability every host offers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builtin {
    Logging,
    Numbergen,
}

impl Builtin {
    /// The built-in capability of a contract id.
    pub fn of(contract: &str) -> Option<Self> {
        match contract {
            "wasmcloud:builtin:logging" => Some(Self::Logging),
            "wasmcloud:builtin:numbergen" => Some(Self::Numbergen),
            _ => None,
        }
    }
}

/// Where an actor's call goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    Builtin(Builtin),
    Entity(Entity),
}

/// The right to make one call of a local target; using it makes the call.
pub type Admitted = Box<dyn FnOnce(Call) -> BoxFuture<'static, Result<Bytes, CallError>> + Send>;

/// Something in this process that takes calls.
pub trait Local: Send + Sync + 'static {
    /// Refuses what the target's own claims do not allow.
    fn check(&self, call: &Call) -> Result<(), CallError>;
    /// Admits one call if a permit is free now.
    fn try_admit(self: Arc<Self>) -> Option<Admitted>;
    /// Takes the call, waiting for a permit until the deadline.
    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>>;
}

/// What runs in this process, by public key or by link name.
pub type Locals = HashMap<Arc<str>, Arc<dyn Local>>;

/// Decides and performs calls. Cheap to clone.
#[derive(Clone)]
pub struct Router(Arc<Inner>);

struct Inner {
    lattice: LatticeName,
    links: Live,
    policy: Policy,
    remote: Remote,
    actors: ArcSwap<Locals>,
    /// By public key, then by link name.
    providers: ArcSwap<HashMap<Arc<str>, Locals>>,
    local_calls: bool,
    rpc_timeout: Duration,
}

impl Router {
    pub fn new(
        lattice: LatticeName,
        links: Live,
        policy: Policy,
        remote: Remote,
        local_calls: bool,
        rpc_timeout: Duration,
    ) -> Self {
        let actors = ArcSwap::from_pointee(HashMap::new());
        let providers = ArcSwap::from_pointee(HashMap::new());
        Self(Arc::new(Inner { lattice, links, policy, remote, actors, providers, local_calls, rpc_timeout }))
    }

    /// Publishes the actors that run in this process, by public key.
    pub fn set_actors(&self, actors: Locals) {
        self.0.actors.store(Arc::new(actors));
    }

    /// Publishes the built-in providers that run in this process, by public key and link name.
    pub fn set_providers(&self, providers: HashMap<Arc<str>, Locals>) {
        self.0.providers.store(Arc::new(providers));
    }

    /// When a call that begins now must have ended.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.0.rpc_timeout
    }

    /// The time a call has, for messages.
    pub fn rpc_timeout(&self) -> Duration {
        self.0.rpc_timeout
    }

    /// Decides where an actor's call goes: `namespace` is a contract id, an actor's public key or a call alias.
    pub fn decide(&self, caller: &ActorClaims, binding: &str, namespace: &str) -> Result<Route, CallError> {
        let needs_claim = |contract: &str| {
            if caller.has_capability(contract) {
                return Ok(());
            }
            Err(CallError::NoCapability { contract: contract.to_owned(), actor_id: caller.subject.to_string() })
        };
        if let Some(builtin) = Builtin::of(namespace) {
            needs_claim(namespace)?;
            return Ok(Route::Builtin(builtin));
        }
        let link_name = if binding.is_empty() { LinkName::DEFAULT } else { binding };
        let table = self.0.links.table();
        if let Some(link) = table.link(caller.subject.as_str(), namespace, link_name) {
            needs_claim(namespace)?;
            return Ok(Route::Entity(Entity::new(&link.provider_id, link_name, namespace)));
        }
        if ActorId::parse(namespace).is_ok() {
            return Ok(Route::Entity(Entity::new(namespace, "", "")));
        }
        if let Some(owner) = table.alias(namespace) {
            return Ok(Route::Entity(Entity::new(owner, "", "")));
        }
        Err(CallError::NoLink {
            namespace: namespace.to_owned(),
            lattice: self.0.lattice.to_string(),
            actor_id: caller.subject.to_string(),
            link_name: link_name.to_owned(),
        })
    }

    /// Performs a call that begins in this process.
    pub async fn call(&self, call: Call) -> Result<Bytes, CallError> {
        if call.depth > DEPTH_MAX {
            return Err(CallError::TooDeep);
        }
        if call.target.is_actor() || !call.origin.is_actor() {
            return self.attempt(call).await;
        }
        self.call_provider(call).await
    }

    /// Calls a provider for an actor. The news of a link and a call that relies on it travel apart: a provider may know
    /// less than this host, or the link may have moved on while the call was on its way. A refusal for that reason means
    /// that nothing was done, so the call is made again, as long as the link is young.
    async fn call_provider(&self, mut call: Call) -> Result<Bytes, CallError> {
        let mut pause = SETTLE_PAUSE;
        loop {
            let error = match self.attempt(call.clone()).await {
                Err(error) if error.is_unlinked() => error,
                result => return result,
            };
            let table = self.0.links.table();
            let link = table.link(&call.origin.public_key, &call.target.contract_id, &call.target.link_name);
            let Some(link) = link else { return Err(error) };
            if *link.provider_id != *call.target.public_key {
                call.target = Entity::new(&link.provider_id, &link.link_name, &link.contract_id);
                continue;
            }
            let young = table.stored_link(&link.id()).is_some_and(|stored| stored.since.elapsed() < SETTLE);
            if !young || Instant::now() + pause >= call.deadline {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// Takes a call one way, once.
    async fn attempt(&self, call: Call) -> Result<Bytes, CallError> {
        let inner = &*self.0;
        let local = self.local(&call.target);
        if let Some(local) = &local {
            local.check(&call)?;
        }
        if local.is_some() || !call.target.is_actor() {
            // The host of a remote actor asks for it.
            self.permitted(&call).await?;
        }
        if let Some(local) = local {
            if let Some(admitted) = Arc::clone(&local).try_admit() {
                return admitted(call).await;
            }
            // All permits are out: another host may have one. If none takes the call, it waits for a permit here.
            let key = Arc::clone(&call.target.public_key);
            return match inner.remote.call(call.clone(), false).await {
                Err(error) if error.is_busy(&key) || matches!(error, CallError::NoResponders { .. }) => {
                    local.call(call).await
                }
                result => result,
            };
        }
        inner.remote.call(call, true).await
    }

    /// Performs a verified call that arrived over NATS for the actor `target`.
    pub async fn receive(&self, target: Arc<dyn Local>, call: Call) -> Result<Bytes, CallError> {
        target.check(&call)?;
        self.permitted(&call).await?;
        target.call(call).await
    }

    fn local(&self, target: &Entity) -> Option<Arc<dyn Local>> {
        if !self.0.local_calls {
            return None;
        }
        if target.is_actor() {
            return self.0.actors.load().get(&*target.public_key).cloned();
        }
        self.0.providers.load().get(&*target.public_key)?.get(&*target.link_name).cloned()
    }

    async fn permitted(&self, call: &Call) -> Result<(), CallError> {
        if self.0.policy.is_off() {
            return Ok(());
        }
        let table = self.0.links.table();
        let source = policy::Party::of(&call.origin, table.claims(&call.origin.public_key).map(AsRef::as_ref));
        let target = policy::Party::of(&call.target, table.claims(&call.target.public_key).map(AsRef::as_ref));
        let decision = self.0.policy.decide(policy::Action::PerformInvocation, source, target).await;
        if decision.permitted {
            return Ok(());
        }
        Err(CallError::Denied { request_id: decision.request_id, message: decision.message })
    }
}

//! The router: one place decides what becomes of a call, whoever makes it and wherever it goes.
//!
//! Every call passes the same checks in the same order, and only then the path is chosen:
//!
//! 1. [`Router::decide`] (calls of actors): built-in capability, link definition, actor key or call
//!    alias; the link first, then the capability in the caller's claims (wasmbus protocol,
//!    sections 4.7 and 6.1). [`aliases`] has the aliases.
//! 2. The target's own check (calls to actors): a provider may call on a contract the actor was
//!    signed for (6.2), and only over a link of the actor to it ([`rules::admits`]).
//! 3. The policy service, if there is one: asked by the host of the target actor, or by the host of
//!    the caller when the target is a provider. It is told the claims of those that run on the
//!    asking host, which has verified them; of others it is told that nobody has.
//! 4. Local, if the target runs in this process and has a free permit; otherwise over NATS, signed,
//!    to a host that [`remote`] chooses. If no other host takes it, a target in this process is
//!    waited for.
//!
//! A call that arrives over NATS enters at step 2, in [`Router::receive`]; a built-in provider,
//! whose caller's host has asked the policy service, only makes its own check. With the local path
//! switched off all calls go over NATS; what is allowed and what is refused does not change.
//!
//! [`rules`] has the checks themselves, without I/O; `local` has what is known of a target in this
//! process.
//!
//! The functions that decide a call also tell how one would be decided ([`explain`]). Calls are
//! counted where they are served ([`Local::served`]), refused ones included, and those that leave
//! the process as called. A call that one caller makes again is counted each time. Whoever makes a
//! call for somebody also counts it at its caller, once and however it ends, and records its
//! failure: [`Router::accounted`] does both.
//!
//! A provider that does not know of a link yet refuses a call without having done anything, so such
//! a call is made again while the link is young, to wherever the link leads by then: links can be
//! put and moved while actors work.

pub mod aliases;
pub mod explain;
mod local;
mod looks;
mod pursuit;
pub mod remote;
pub mod rules;

use std::{
    collections::HashMap,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    events::Publisher,
    failures::{Failed, Failures},
    journal::Journal,
    links::Live,
    meter::{
        InWork, Meter, OTHER, Outcome,
        edges::{Caller, Edge},
    },
    peers::{Candidates, Presence},
    policy::{self, Policy, Verified},
    rpc::call::{Call, CallError, DEPTH_MAX},
    spans,
};
use aliases::Aliases;
use lattice_base::backoff::Backoff;
use lattice_protocol::{
    builtin,
    control::probe::calls::TOOLS,
    identity::{
        claims::{ActorClaims, now},
        keys::{ActorId, LatticeName, LinkName},
    },
    links::{Claimant, Contest},
    meter::Path,
    rpc::invocation::Entity,
};
pub use local::{Admitted, LinkStatus, Local, Locals, Room, TargetStatus};
use remote::Remote;
pub use rules::{
    Builtin, Resolution, Route, in_force, in_term, linked, may_be_contract, not_linked,
};
use rules::{Place, asks_policy, permitted};

/// How long a provider may take to learn of a link that this host knows.
const SETTLE: Duration = Duration::from_secs(2);
/// The first pause before a call is made again that came before its link; each further one is twice
/// as long.
const SETTLE_PAUSE: Duration = Duration::from_millis(5);

/// The parts of an HTTP exchange that a target takes piece by piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Nothing: it is given whole requests, and gives whole answers.
    Wholes,
    /// Its answer may come in pieces, for another host may give it so.
    WholeRequests,
    Pieces,
}

/// Where a link leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEnd {
    /// There is no such link.
    None,
    /// To a built-in provider, of this host or another one.
    Builtin,
    /// To a provider that knows the published operations of its contract only.
    Other,
}

/// Decides and performs calls. Cheap to clone.
#[derive(Clone)]
pub struct Router(Arc<Inner>);

struct Inner {
    lattice: LatticeName,
    links: Live,
    policy: Policy,
    remote: Remote,
    meter: Meter,
    failures: Failures,
    actors: ArcSwap<Locals>,
    /// By public key, then by link name.
    providers: ArcSwap<HashMap<Arc<str>, Locals>>,
    /// Providers of this host whose claims do not count, and the error of calls of and to them.
    out_of_term: ArcSwap<HashMap<Arc<str>, CallError>>,
    /// The claims of all providers that this host has started, by public key.
    provider_claims: ArcSwap<HashMap<Arc<str>, Verified>>,
    aliases: Aliases,
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
        journal: Journal,
    ) -> Self {
        let actors = ArcSwap::from_pointee(HashMap::new());
        let providers = ArcSwap::from_pointee(HashMap::new());
        let out_of_term = ArcSwap::from_pointee(HashMap::new());
        Self(Arc::new(Inner {
            lattice,
            links,
            policy,
            remote,
            meter: Meter::default(),
            failures: Failures::new(journal),
            actors,
            providers,
            out_of_term,
            provider_claims: ArcSwap::default(),
            aliases: Aliases::default(),
            local_calls,
            rpc_timeout,
        }))
    }

    /// Tells call aliases that move, and those that are contested, as events.
    pub fn tell_aliases(&self, events: Publisher) {
        self.0.aliases.tell(events);
    }

    /// Whether another host says that it runs an actor or, with its link name, a provider.
    pub fn runs_elsewhere(&self, target: &str) -> bool {
        self.0.remote.presence(target) == Presence::Runs
    }

    /// Takes the alias of an actor on that starts here; says whether others claim it.
    pub fn claim_alias(&self, claims: &ActorClaims) -> Option<Contest> {
        let alias = claims.call_alias.as_deref().filter(|alias| alias.len() > 1)?;
        let claimant = Claimant {
            actor_id: Arc::clone(claims.subject.as_arc()),
            issuer: claims.issuer.clone(),
        };
        self.0.aliases.claim(&self.0.links.table(), alias, claimant, |id| self.0.presence(id))
    }

    /// Counts the calls of this host.
    pub fn meter(&self) -> &Meter {
        &self.0.meter
    }

    /// The last calls of this host that failed.
    pub fn failures(&self) -> &Failures {
        &self.0.failures
    }

    /// Counts a call at its caller, however it ends. Its future is large, and pinned where it was
    /// made so that it is not moved.
    pub async fn counted<F>(
        &self,
        edge: &Edge,
        operation: &str,
        call: Pin<&mut F>,
    ) -> Result<Bytes, CallError>
    where
        F: Future<Output = Result<Bytes, CallError>>,
    {
        let counted = edge.begin(operation);
        ended(Some(counted), call.await, edge.target_id())
    }

    /// Counts a call at its caller, however it ends, and keeps its failure.
    pub async fn accounted<F>(
        &self,
        edge: &Edge,
        operation: &str,
        call: Pin<&mut F>,
    ) -> Result<Bytes, CallError>
    where
        F: Future<Output = Result<Bytes, CallError>>,
    {
        let result = self.counted(edge, operation, call).await;
        result.inspect_err(|error| self.record_failure(edge, operation, error, None))
    }

    /// Keeps the failure of a call for those who look for its reason. `id` is the one that somebody
    /// was told already.
    pub fn record_failure(
        &self,
        edge: &Edge,
        operation: &str,
        error: &CallError,
        id: Option<&str>,
    ) {
        let failed = Failed { edge, operation, error, id };
        self.0.failures.record(&failed, &self.0.links.table());
    }

    /// The target that an actor means with a namespace, for the counts of a call that is refused
    /// before it goes anywhere.
    pub fn meant(&self, actor_id: &str, binding: &str, namespace: &str) -> Entity {
        let link_name = if binding.is_empty() { LinkName::DEFAULT } else { binding };
        if let Some(link) = self.0.links.table().link(actor_id, namespace, link_name) {
            return Entity::new(&link.provider_id, &link.link_name, &link.contract_id);
        }
        match ActorId::parse(namespace) {
            Ok(id) => Entity::of_actor(Arc::clone(id.as_arc())),
            Err(_) if may_be_contract(namespace) => Entity::new("", link_name, namespace),
            Err(_) => Entity::new("", "", namespace),
        }
    }

    /// Publishes the actors that run in this process, by public key.
    pub fn set_actors(&self, actors: Locals) {
        self.0.actors.store(Arc::new(actors));
    }

    /// Publishes the built-in providers that run in this process, by public key and link name.
    pub fn set_providers(&self, providers: HashMap<Arc<str>, Locals>) {
        self.0.providers.store(Arc::new(providers));
    }

    /// Publishes the providers of this host whose claims do not count, by public key, with the
    /// error of their calls.
    pub fn set_out_of_term(&self, out_of_term: HashMap<Arc<str>, CallError>) {
        self.0.out_of_term.store(Arc::new(out_of_term));
    }

    /// Refuses calls of and to providers of this host whose claims do not count. Actors look for
    /// themselves.
    fn providers_in_term(&self, origin: &Entity, target: &Entity) -> Result<(), CallError> {
        let out_of_term = self.0.out_of_term.load();
        if out_of_term.is_empty() {
            return Ok(());
        }
        let found =
            out_of_term.get(&origin.public_key).or_else(|| out_of_term.get(&target.public_key));
        found.map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Publishes the claims of the providers that this host has started, by public key.
    pub fn set_provider_claims(&self, claims: HashMap<Arc<str>, Verified>) {
        self.0.provider_claims.store(Arc::new(claims));
    }

    /// When a call that begins now must have ended.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.0.rpc_timeout
    }

    /// The time a call has, for messages.
    pub fn rpc_timeout(&self) -> Duration {
        self.0.rpc_timeout
    }

    /// Says where the link of an actor that has this name for a contract leads.
    pub fn link_end(&self, actor_id: &str, contract: &str, link_name: &str) -> LinkEnd {
        match self.0.links.table().link(actor_id, contract, link_name) {
            None => LinkEnd::None,
            Some(link) if builtin::by_key(&link.provider_id).is_some() => LinkEnd::Builtin,
            Some(_) => LinkEnd::Other,
        }
    }

    /// Decides where an actor's call goes: `namespace` is a contract id, an actor's public key or a
    /// call alias.
    pub fn decide(
        &self,
        caller: &ActorClaims,
        binding: &str,
        namespace: &str,
    ) -> Result<Route, CallError> {
        let (inner, table) = (&*self.0, self.0.links.table());
        let owner_of = |alias: &str| inner.aliases.owner(&table, alias, |id| inner.presence(id));
        rules::decide(&table, &inner.lattice, (caller, now()), (binding, namespace), owner_of)
    }

    /// Performs a call of what [`decide`](Self::decide) made of `namespace`. If that is the alias
    /// of an actor that nobody listens for, the actor that inherits it gets the call.
    pub async fn call_resolved(&self, mut call: Call, namespace: &str) -> Result<Bytes, CallError> {
        let is_alias = call.target.is_actor() && *call.target.public_key != *namespace;
        if !is_alias {
            return self.call(call).await;
        }
        let gone = match self.call(call.clone()).await {
            Err(error @ CallError::NoResponders { .. }) => error,
            result => return result,
        };
        let (inner, table) = (&*self.0, self.0.links.table());
        let claimants = table.claimants(namespace);
        let heir = aliases::heir(&call.target.public_key, &claimants, |id| inner.presence(id));
        let Some(heir) = heir else { return Err(gone) };
        call.target = Entity::of_actor(Arc::clone(&heir));
        match self.call(call).await {
            Err(CallError::NoResponders { .. }) => Err(gone),
            result => {
                if aliases::is_proven(&result, inner.presence(&heir)) {
                    inner.aliases.record(&table, namespace, &heir, |id| inner.presence(id));
                }
                result
            }
        }
    }

    /// Performs a call that begins in this process.
    pub async fn call(&self, call: Call) -> Result<Bytes, CallError> {
        if let Err(error) = self.may_begin(&call) {
            let name = || self.0.meter.name_of(&call.target, &call.operation);
            return Err(refused(&call, name, error));
        }
        if call.target.is_actor() || !call.origin.is_actor() {
            return self.attempt(call).await;
        }
        Box::pin(self.call_provider(call)).await
    }

    /// Refuses a call that no way is looked for.
    fn may_begin(&self, call: &Call) -> Result<(), CallError> {
        if call.chain.waiting() > DEPTH_MAX {
            return Err(CallError::TooDeep);
        }
        self.providers_in_term(&call.origin, &call.target)
    }

    /// Calls a provider for an actor. The news of a link and a call that relies on it travel apart:
    /// a provider may know less than this host, or the link may have moved on while the call was on
    /// its way. A refusal for that reason means that nothing was done, so the call is made again,
    /// as long as the link is young.
    async fn call_provider(&self, mut call: Call) -> Result<Bytes, CallError> {
        let mut backoff = Backoff::new(SETTLE_PAUSE, Duration::MAX);
        loop {
            let error = match self.attempt(call.clone()).await {
                Err(error) if error.is_unlinked() => error,
                result => return result,
            };
            let table = self.0.links.table();
            let link = table.link(
                &call.origin.public_key,
                &call.target.contract_id,
                &call.target.link_name,
            );
            let Some(link) = link else { return Err(error) };
            if *link.provider_id != *call.target.public_key {
                call.target = Entity::new(&link.provider_id, &link.link_name, &link.contract_id);
                continue;
            }
            let young =
                table.stored_link(&link.id()).is_some_and(|stored| stored.since.elapsed() < SETTLE);
            let pause = backoff.next_pause();
            if !young || Instant::now() + pause >= call.ends_at() {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Says what a target takes in pieces.
    pub fn takes(&self, target: &Entity) -> Takes {
        match self.local(target) {
            Some(local) if local.takes_pieces() => Takes::Pieces,
            Some(_) => Takes::Wholes,
            None => Takes::WholeRequests,
        }
    }

    /// Takes a call one way, once. What few calls need is in boxes: the future of a call is moved
    /// several times before it is polled first.
    async fn attempt(&self, call: Call) -> Result<Bytes, CallError> {
        let inner = &*self.0;
        let key = Arc::clone(&call.target.public_key);
        let Some(local) = self.local(&call.target) else {
            let mut counted = inner.meter.called(&call.target, &call.operation);
            let is_asked = asks_policy(&call.target, Place::Elsewhere);
            let permitted = if is_asked { self.permitted(&call).await } else { Ok(()) };
            let result = match permitted {
                Ok(()) => Box::pin(self.call_remote(call, Candidates::All, &mut counted)).await,
                Err(error) => Err(refused(&call, || counted.operation().to_owned(), error)),
            };
            return ended(Some(counted), result, &key);
        };
        let call = match &call.exchange {
            Some(_) if !local.takes_pieces() => Box::pin(call.whole()).await?,
            _ => call,
        };
        let begin = || local.served().map(|served| served.begin(&call.operation, Path::Local));
        let counted = begin();
        if let Err(error) = self.allowed(&*local, &call).await {
            let name = || counted.as_ref().map_or(OTHER, InWork::operation).to_owned();
            let error = refused(&call, name, error);
            return ended(counted, Err(error), &key);
        }
        if let Some(admitted) = Arc::clone(&local).try_admit() {
            return performed(counted, call, admitted, &key).await;
        }
        let is_unread = call.exchange.as_ref().is_some_and(|exchange| exchange.is_unread());
        if is_unread && inner.remote.runners(&call.target).is_empty() {
            // Nobody else would take it, and only here its body need not be read first.
            return performed(counted, call, |call| local.call(call), &key).await;
        }
        // All permits are out: another host may have one. If none takes the call, it waits for a
        // permit here.
        counted.into_iter().for_each(InWork::withdraw);
        let mut elsewhere = inner.meter.called(&call.target, &call.operation);
        let others = self.call_remote(call.clone(), Candidates::Others, &mut elsewhere);
        match Box::pin(others).await {
            Err(error)
                if error.is_busy(&key) || matches!(error, CallError::NoResponders { .. }) =>
            {
                elsewhere.withdraw();
                let counted = begin();
                performed(counted, call, |call| local.call(call), &key).await
            }
            result => ended(Some(elsewhere), result, &key),
        }
    }

    /// Sends a call to another host, as a whole.
    async fn call_remote(
        &self,
        mut call: Call,
        candidates: Candidates,
        counted: &mut InWork,
    ) -> Result<Bytes, CallError> {
        let span = spans::made(&mut call, Path::Nats, Some(&*counted));
        counted.traced(&span);
        let sent = pin!(async { self.0.remote.call(call.whole().await?, candidates).await });
        spans::around(span, sent).await
    }

    /// Performs a verified call that arrived over NATS for the actor `target`.
    pub async fn receive(
        &self,
        target: Arc<dyn Local>,
        mut call: Call,
    ) -> Result<Bytes, CallError> {
        let key = Arc::clone(&call.target.public_key);
        let mut counted = target.served().map(|served| served.begin(&call.operation, Path::Nats));
        let span = spans::received(&mut call, counted.as_ref());
        counted.iter_mut().for_each(|counted| counted.traced(&span));
        let begun_elsewhere = self.stranger(&call.origin).map(|caller| {
            let (edge, operation) = (caller.to(&call.target), call.operation.clone());
            (edge.begin(&operation), edge, operation)
        });
        let result = match self.arrived(&*target, &call).await {
            Ok(()) => span.within(Pin::new(&mut target.call(call))).await,
            Err(error) => Err(error),
        };
        spans::end(span, &result);
        if let Some((counted, edge, operation)) = begun_elsewhere {
            if let Err(error) = &result {
                self.record_failure(&edge, &operation, error, None);
            }
            counted.end(Outcome::of(&result, &key));
        }
        ended(counted, result, &key)
    }

    /// Where a call is counted that arrived from somebody who does not count it: a provider that is
    /// a process, or a tool. Actors and built-in providers are counted by their own host.
    fn stranger(&self, origin: &Entity) -> Option<Arc<Caller>> {
        let key = &*origin.public_key;
        if origin.is_actor() || builtin::by_key(key).is_some() {
            return None;
        }
        Some(match rules::is_actor_or_tool(origin) {
            true => self.0.meter.stranger(TOOLS, ""),
            false => self.0.meter.stranger(key, &origin.link_name),
        })
    }

    /// Checks a call that came over NATS at its target and the policy service. The news of a link
    /// and a call that relies on it travel apart, so a provider that seems not to be linked is
    /// given the time in which this host learns of a link.
    async fn arrived(&self, target: &dyn Local, call: &Call) -> Result<(), CallError> {
        let mut news = self.0.links.changes();
        let until = call.ends_at().min(Instant::now() + SETTLE);
        loop {
            news.mark_unchanged();
            match target.check(call) {
                Err(error @ CallError::NotLetIn { .. }) => {
                    if !matches!(tokio::time::timeout_at(until, news.changed()).await, Ok(Ok(()))) {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
                Ok(()) => return self.permitted(call).await,
            }
        }
    }

    /// Refuses a call to an actor of this host by a provider that has no business with it: see
    /// [`rules::admits`].
    pub fn admits(
        &self,
        origin: &Entity,
        actor_id: &str,
        capabilities: &[String],
    ) -> Result<(), CallError> {
        let links = self.0.links.has_those_of_the_lattice().then(|| self.0.links.table());
        rules::admits(links.as_deref(), origin, actor_id, capabilities)
    }

    /// Checks a call: the terms of its providers, a target in this process, the policy service.
    async fn allowed(&self, local: &dyn Local, call: &Call) -> Result<(), CallError> {
        self.providers_in_term(&call.origin, &call.target)?;
        local.check(call)?;
        self.permitted(call).await
    }

    /// Returns the target if it runs in this process and takes calls within it.
    fn local(&self, target: &Entity) -> Option<Arc<dyn Local>> {
        if self.0.local_calls { self.0.here(target) } else { None }
    }

    async fn permitted(&self, call: &Call) -> Result<(), CallError> {
        match self.ask_policy(&call.origin, &call.target).await {
            Some(decision) => permitted(&decision),
            None => Ok(()),
        }
    }

    /// Returns the decision of the policy service on a call; `None` if there is no service.
    async fn ask_policy(&self, origin: &Entity, target: &Entity) -> Option<policy::Decision> {
        if self.0.policy.is_off() {
            return None;
        }
        let source = policy::Party::of(origin, self.0.verified(origin));
        let target = policy::Party::of(target, self.0.verified(target));
        let asked = self.0.policy.decide(policy::Action::PerformInvocation, source, target);
        Some(Box::pin(asked).await)
    }
}

impl Inner {
    /// Returns the target if it runs in this process, however it is called.
    fn here(&self, target: &Entity) -> Option<Arc<dyn Local>> {
        if target.is_actor() {
            return self.actors.load().get(&*target.public_key).cloned();
        }
        self.providers.load().get(&*target.public_key)?.get(&*target.link_name).cloned()
    }

    /// The claims of an actor or a provider that runs on this host, which has verified them.
    fn verified(&self, party: &Entity) -> Option<Verified> {
        match party.is_actor() {
            true => self.actors.load().get(&*party.public_key)?.verified(),
            false => self.provider_claims.load().get(&*party.public_key).cloned(),
        }
    }

    /// Whether an actor runs, here or elsewhere.
    fn presence(&self, actor_id: &str) -> Presence {
        if self.actors.load().contains_key(actor_id) {
            Presence::Runs
        } else {
            self.remote.presence(actor_id)
        }
    }
}

/// Performs a call in this process within its span, and counts how it ended.
async fn performed<F>(
    mut counted: Option<InWork>,
    mut call: Call,
    perform: impl FnOnce(Call) -> F,
    target: &str,
) -> Result<Bytes, CallError>
where
    F: Future<Output = Result<Bytes, CallError>>,
{
    let span = spans::made(&mut call, Path::Local, counted.as_ref());
    counted.iter_mut().for_each(|counted| counted.traced(&span));
    ended(counted, spans::around(span, pin!(perform(call))).await, target)
}

/// Tells the trace of a call that it was refused, and returns the error. `name` is that under which
/// its operation is counted.
fn refused(call: &Call, name: impl FnOnce() -> String, error: CallError) -> CallError {
    let ends = (&call.origin, &call.target);
    spans::refused(ends, &call.operation, (&call.trace, name), &error);
    error
}

/// Counts how a call ended.
pub fn ended(
    counted: Option<InWork>,
    result: Result<Bytes, CallError>,
    target: &str,
) -> Result<Bytes, CallError> {
    if let Some(counted) = counted {
        counted.end(Outcome::of(&result, target));
    }
    result
}

//! How a call would be decided, without making it.
//!
//! The answers are those of the functions that decide real calls: [`rules`](super::rules), the
//! policy service, and the choice of the way. So an explanation cannot say anything else than what
//! a call would meet, except that it may be out of date a moment later. Nothing is sent but the
//! question to the policy service, whose answer is remembered as that of a call is.
//!
//! A call is decided on up to two hosts: where it begins ([`Router::explain`]), and where it
//! arrives ([`Router::explain_arrival`]). [`foresee`] is for those who are no host: it knows the
//! lattice's metadata and no more.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    Inner, LinkStatus, Room, Router, TargetStatus,
    rules::{
        Builtin, Place, Resolution, Route, admits, asks_policy, claimed, leads_nowhere, linked,
        may_be_contract, permitted,
    },
};
use crate::{
    peers::{Candidates, Peer},
    policy::Decision,
    rpc::{
        call::{Call, CallError},
        repeat::Repeat,
    },
};
use lattice_protocol::{
    identity::keys::LatticeName,
    links::{LinkDefinition, Table},
    rpc::invocation::Entity,
};

/// The call that is asked about, as its caller would make it.
#[derive(Clone, Debug)]
pub struct Question {
    /// An actor, or a provider under a link name.
    pub origin: Entity,
    /// Of an actor: a contract id, an actor's public key or a call alias. Of a provider: an actor's
    /// public key.
    pub namespace: String,
    pub link_name: String,
    pub operation: String,
}

/// The findings at each step. Steps that a call would not reach, because a step before them fails,
/// are looked at all the same where that does no harm, so that one explanation names all that is in
/// the way.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The target the origin means; `None` for the calls of a provider, which name their actor.
    pub resolution: Option<Result<Resolution, CallError>>,
    /// Whether the origin may use the contract; `None` where none is needed.
    pub claim: Option<Result<(), CallError>>,
    pub target: Option<Entity>,
    pub check: Check,
    pub policy: Asked,
    /// The target in this process.
    pub here: Option<TargetStatus>,
    /// Other hosts that run it.
    pub runners: Vec<Runner>,
    pub way: Way,
    pub repeat: Option<Repeat>,
    /// How long the call may take; unknown to those who are no host.
    pub deadline: Option<Duration>,
}

/// The target's own check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// Nobody is there who could check.
    Nothing,
    /// By the target, here.
    Here(Result<(), CallError>),
    /// By the target on another host; this is what its claims in the lattice let expect.
    Elsewhere(Result<(), CallError>),
    /// By the target on another host, and nothing is known of its claims.
    Unknown,
}

/// The policy service's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// There is none, as far as this host is told.
    Off,
    /// The host of the target asks it.
    Elsewhere,
    /// A step before fails, so it would not be asked.
    NotReached,
    /// Only a host can ask.
    Unknown,
    Decided(Decision),
}

/// Another host that runs the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runner {
    pub host_id: String,
    pub silence: Duration,
    pub is_silent: bool,
    /// Takes calls on a subject of its own, rather than through the queue group.
    pub is_direct: bool,
}

impl Runner {
    fn of(peer: &Peer, target: &str) -> Self {
        Self {
            host_id: peer.id.to_string(),
            silence: peer.silence(),
            is_silent: peer.is_lost(),
            is_direct: peer.is_direct(target),
        }
    }
}

/// The way the call would take first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// None, as there is no target.
    Nowhere,
    /// The host itself is the target.
    Within(Builtin),
    /// To the target in this process.
    Here,
    /// Over NATS.
    Nats {
        subject: String,
        /// The host that was chosen; without one the queue group of the subject decides.
        host_id: Option<String>,
        /// The target is in this process, but all its permits are out; if no other host takes the
        /// call, it waits here.
        may_wait_here: bool,
    },
    Impossible(CallError),
}

impl Explanation {
    /// Returns the error the call would fail with, if it would.
    pub fn error(&self) -> Option<CallError> {
        let claim = self.claim.clone().unwrap_or(Ok(()));
        if let Some(Err(error)) = &self.resolution {
            return Some(leads_nowhere(error.clone(), claim));
        }
        match (claim, &self.check) {
            (Err(error), _) => Some(error),
            (Ok(()), Check::Here(Err(error)) | Check::Elsewhere(Err(error))) => Some(error.clone()),
            _ => None,
        }
    }

    /// Whether the policy service refuses the call.
    pub fn denial(&self) -> Option<CallError> {
        match &self.policy {
            Asked::Decided(decision) => permitted(decision).err(),
            _ => None,
        }
    }

    fn new(
        origin: &Entity,
        namespace: &str,
        found: Option<Result<Resolution, CallError>>,
        capabilities: &[String],
    ) -> Self {
        let contract = match &found {
            Some(Ok(meant)) => meant.contract(namespace),
            // Once the link is there, this is next; call aliases have no colon.
            Some(Err(_)) => Some(namespace).filter(|namespace| may_be_contract(namespace)),
            None => None,
        };
        let claim = contract.map(|contract| claimed(&origin.public_key, contract, capabilities));
        let (target, way) = match &found {
            None => (Some(Entity::new(namespace, "", "")), Way::Nowhere),
            Some(Err(_)) => (None, Way::Nowhere),
            Some(Ok(meant)) => match meant.route() {
                Route::Builtin(builtin) => (None, Way::Within(builtin)),
                Route::Entity(target) => (Some(target), Way::Nowhere),
            },
        };
        Self {
            resolution: found,
            claim,
            target,
            check: Check::Nothing,
            policy: Asked::NotReached,
            here: None,
            runners: Vec::new(),
            way,
            repeat: None,
            deadline: None,
        }
    }
}

/// The check of a target that is not in this process, by what the lattice knows of it.
fn expected_check(table: &Table, origin: &Entity, target: &Entity) -> Check {
    if !target.is_actor() {
        return Check::Elsewhere(linked(table, &origin.public_key, target));
    }
    match table.claims(&target.public_key) {
        Some(claims) => {
            Check::Elsewhere(admits(Some(table), origin, &target.public_key, &claims.capabilities))
        }
        None => Check::Unknown,
    }
}

/// Contracts an origin is signed for, by what the lattice knows of it.
fn capabilities_of<'a>(origin: &Entity, table: &'a Table) -> &'a [String] {
    table
        .claims(&origin.public_key)
        .map(|claims| claims.capabilities.as_slice())
        .unwrap_or_default()
}

fn resolve(
    question: &Question,
    table: &Table,
    lattice: &LatticeName,
    owner_of: impl FnOnce(&str) -> Option<Arc<str>>,
) -> Option<Result<Resolution, CallError>> {
    let Question { origin, namespace, link_name, .. } = question;
    origin.is_actor().then(|| {
        Resolution::find(table, lattice, &origin.public_key, (link_name, namespace), owner_of)
    })
}

/// Explains a call by the lattice's metadata and `runs`, which tells what runs: for lattices whose
/// hosts cannot be asked.
pub fn foresee(
    table: &Table,
    lattice: &LatticeName,
    question: &Question,
    runs: impl Fn(&str) -> bool,
) -> Explanation {
    let owner_of = |alias: &str| {
        let claimants = table.claimants(alias);
        claimants.iter().find(|id| runs(id)).or(claimants.first()).cloned()
    };
    let resolution = resolve(question, table, lattice, owner_of);
    let capabilities = capabilities_of(&question.origin, table);
    let mut explanation =
        Explanation::new(&question.origin, &question.namespace, resolution, capabilities);
    if let Some(target) = &explanation.target {
        explanation.check = expected_check(table, &question.origin, target);
        explanation.policy = Asked::Unknown;
        explanation.repeat =
            Some(Repeat::of(&question.operation, &[], table.tags(&target.public_key)));
    }
    explanation
}

impl Router {
    /// How a call that begins in this process would be decided.
    pub async fn explain(&self, question: Question) -> Explanation {
        let inner = &*self.0;
        let own =
            inner.actors.load().get(&*question.origin.public_key).map(|origin| origin.status());
        let table = inner.links.table();
        let owner_of =
            |alias: &str| inner.aliases.expected_owner(&table, alias, |id| inner.presence(id));
        let resolution = resolve(&question, &table, &inner.lattice, owner_of);
        // The state of the origin, if it runs here.
        let own = own.unwrap_or_default();
        let capabilities = own
            .capabilities
            .as_deref()
            .unwrap_or_else(|| capabilities_of(&question.origin, &table));
        let mut explanation =
            Explanation::new(&question.origin, &question.namespace, resolution, capabilities);
        explanation.deadline = Some(inner.rpc_timeout);
        if let Some(error) = own.out_of_term {
            explanation.claim = Some(Err(error));
        }
        let target = explanation.target.clone();
        let target_id = target.as_ref().map_or("", |target| &target.public_key);
        explanation.repeat = Some(inner.remote.repeat(&question.operation, target_id));
        let Some(target) = target else { return explanation };
        let here = inner.here(&target);
        explanation.here = here.as_ref().map(|target| target.status());
        explanation.runners = inner.runners(&target);
        let local = self.local(&target);
        explanation.check = match &local {
            Some(local) => {
                Check::Here(local.check(&imagined(&question.origin, &target, &question.operation)))
            }
            None => expected_check(&table, &question.origin, &target),
        };
        if let Err(error) = self.providers_in_term(&question.origin, &target) {
            explanation.check = Check::Here(Err(error));
        }
        explanation.way = inner.way(&target, local.as_ref().map(|local| local.status().room));
        let place = if local.is_some() { Place::Here } else { Place::Elsewhere };
        explanation.policy = match asks_policy(&target, place) {
            true => self.asked(&explanation, &question.origin, &target).await,
            false => Asked::Elsewhere,
        };
        explanation
    }

    /// How a call that came over NATS for a target in this process would be decided.
    pub async fn explain_arrival(
        &self,
        origin: &Entity,
        target: &Entity,
        operation: &str,
    ) -> Explanation {
        let mut explanation = Explanation::new(origin, &target.public_key, None, &[]);
        explanation.target = Some(target.clone());
        explanation.deadline = Some(self.0.rpc_timeout);
        let Some(here) = self.0.here(target) else { return explanation };
        explanation.here = Some(here.status());
        explanation.check = Check::Here(here.check(&imagined(origin, target, operation)));
        explanation.way = Way::Here;
        // The caller's host has asked for a call of a provider.
        explanation.policy = match target.is_actor() {
            true => self.asked(&explanation, origin, target).await,
            false => Asked::Elsewhere,
        };
        explanation
    }

    async fn asked(&self, explanation: &Explanation, origin: &Entity, target: &Entity) -> Asked {
        if explanation.error().is_some() {
            return if self.0.policy.is_off() { Asked::Off } else { Asked::NotReached };
        }
        self.ask_policy(origin, target).await.map_or(Asked::Off, Asked::Decided)
    }

    /// Every link that a provider of this process does not take on, with the reason.
    pub fn refused_links(&self) -> Vec<(Arc<LinkDefinition>, String)> {
        let providers = self.0.providers.load();
        providers
            .values()
            .flat_map(|by_link| by_link.values())
            .flat_map(|local| local.status().refused)
            .collect()
    }

    /// Returns the state of a link at its provider, if that is built in and runs in this process.
    pub fn link_status(&self, link: &LinkDefinition) -> Option<LinkStatus> {
        let providers = self.0.providers.load();
        providers.get(&*link.provider_id)?.get(&*link.link_name)?.link_status(link)
    }

    /// Returns the ids of the other hosts that run the provider of a link.
    pub fn runners_of(&self, link: &LinkDefinition) -> Vec<Arc<str>> {
        let target = Entity::new(&link.provider_id, &link.link_name, &link.contract_id);
        self.0.remote.runners(&target).iter().map(|peer| Arc::clone(&peer.id)).collect()
    }

    /// The actors of this process as they are now, by public key.
    pub fn statuses(&self) -> Vec<(Arc<str>, TargetStatus)> {
        let actors = self.0.actors.load();
        actors.iter().map(|(id, local)| (Arc::clone(id), local.status())).collect()
    }
}

impl Inner {
    fn runners(&self, target: &Entity) -> Vec<Runner> {
        let name = target.target_name();
        self.remote.runners(target).iter().map(|peer| Runner::of(peer, &name)).collect()
    }

    /// The first way of a call; `local` is the room of a target that takes calls within this
    /// process.
    fn way(&self, target: &Entity, local: Option<Option<Room>>) -> Way {
        let is_full = matches!(local, Some(Some(Room { free: 0, .. })));
        if local.is_some() && !is_full {
            return Way::Here;
        }
        let candidates = if local.is_some() { Candidates::Others } else { Candidates::All };
        match self.remote.first(target, candidates) {
            Ok((peer, subject)) => Way::Nats {
                subject,
                host_id: peer.map(|peer| peer.id.to_string()),
                may_wait_here: is_full,
            },
            Err(error) => Way::Impossible(error),
        }
    }
}

/// A call of which only its ends are looked at.
fn imagined(origin: &Entity, target: &Entity, operation: &str) -> Call {
    Call::new((origin.clone(), target.clone()), operation, Bytes::new(), Instant::now())
}

//! The work of the supervisor after a decision, and what the events of that tell.

use super::{Limits, StartError};
use crate::{
    actors::{
        supervisor::{ActorError, GroupView, Replace, Start},
        trial::TrialView,
    },
    issuers::IssuerChange,
};
use lattice_protocol::{events::event::Annotations, identity::keys::ActorId};

/// The supervisor's part of a decision, in the order of the list that it is in.
pub enum Effect<M, R> {
    /// Load a module, then report with [`Plan::loaded`](super::Plan::loaded).
    Load {
        reference: String,
        issuer_change: IssuerChange,
    },
    /// Ask whether more of a module that runs here may start, then report with
    /// [`Plan::loaded`](super::Plan::loaded).
    AskPermission {
        /// The reference that the start names.
        reference: String,
        /// The module that runs, with its reference.
        own: (M, String),
        /// A newer revision that runs beside, with its reference.
        newer: Option<(M, String)>,
        issuer_change: IssuerChange,
    },
    /// Subscribe for an actor, then report with [`Plan::started`](super::Plan::started) if it
    /// worked, and with [`Plan::release`](super::Plan::release) in any case.
    Subscribe {
        start: Start,
        reply: R,
        module: M,
    },
    /// Publish the events of something that changes nothing else, then answer.
    Announce(Change<M>, R),
    /// Set the limits of an actor whose groups changed, publish the snapshot, then the events, then
    /// answer.
    Scale {
        id: ActorId,
        limits: Limits,
        changes: Vec<Change<M>>,
        reply: Option<R>,
    },
    /// Stop an actor, publish the snapshot; the events and the answer follow when it has left its
    /// queue group.
    Leave {
        id: ActorId,
        changes: Vec<Change<M>>,
        reply: Option<R>,
    },
    /// Run another module, publish the snapshot, then the events, then answer.
    Update(Update<M>, R),
    /// Run a module beside the one that runs, or end that; publish the snapshot, then the events,
    /// then answer.
    Trial(TrialChange<M>, R),
    StartFailed {
        start: Start,
        reply: R,
        actor_id: Option<ActorId>,
        error: StartError,
    },
    ReplaceFailed {
        replace: Replace,
        reply: R,
        error: ActorError,
        running: Option<Version>,
    },
    /// Only answer: with the actor if nothing has to be changed.
    Answer {
        reply: R,
        result: Result<ActorId, ActorError>,
    },
}

/// How many of one group there were and are, for the events about it.
#[derive(Clone, Debug)]
pub struct Change<M> {
    pub module: M,
    pub reference: String,
    pub annotations: Annotations,
    pub before: u32,
    pub after: u32,
}

/// The change of the module that an actor runs.
#[derive(Clone, Debug)]
pub struct Update<M> {
    pub id: ActorId,
    pub old_module: M,
    pub old_reference: String,
    pub module: M,
    pub reference: String,
    pub groups: Vec<GroupView>,
    pub limits: Limits,
}

/// The beginning of a trial, its change, or its end.
#[derive(Clone, Debug)]
pub struct TrialChange<M> {
    pub id: ActorId,
    /// The newer module and its reference; at the end those of the actor.
    pub module: M,
    pub reference: String,
    /// `None` at the end.
    pub view: Option<TrialView>,
    pub groups: Vec<GroupView>,
}

/// A running actor as the failure of its update names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub revision: u64,
    pub instance_id: Option<String>,
}

//! A target in this process, as the router knows it: [`Local`] takes its calls and tells its state.
//!
//! Actors and built-in providers implement it, so the router knows neither of them.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::{
    meter::Target,
    policy::Verified,
    rpc::call::{Call, CallError},
};
use lattice_protocol::links::LinkDefinition;

/// The right to make one call of a local target; using it makes the call.
pub type Admitted = Box<dyn FnOnce(Call) -> BoxFuture<'static, Result<Bytes, CallError>> + Send>;

/// The targets that run in this process, by public key or by link name.
pub type Locals = HashMap<Arc<str>, Arc<dyn Local>>;

/// Something in this process that takes calls.
pub trait Local: Send + Sync + 'static {
    /// Where its calls are counted.
    fn served(&self) -> Option<&Target> {
        None
    }
    /// Says whether it takes the bodies of requests, and answers, piece by piece.
    fn takes_pieces(&self) -> bool {
        false
    }
    /// Refuses what the target's own claims do not allow.
    fn check(&self, call: &Call) -> Result<(), CallError>;
    /// Admits one call if a permit is free now.
    fn try_admit(self: Arc<Self>) -> Option<Admitted>;
    /// Takes the call, waiting for a permit until the deadline.
    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>>;
    /// Its claims, which this host has verified; nothing of those that have none.
    fn verified(&self) -> Option<Verified> {
        None
    }
    /// Returns its state, for those who ask how a call would go.
    fn status(&self) -> TargetStatus {
        TargetStatus::default()
    }
    /// Returns the state of a link definition, and `None` of one that it does not have; of
    /// providers.
    fn link_status(&self, _link: &LinkDefinition) -> Option<LinkStatus> {
        None
    }
}

/// The state of a link definition at its provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkStatus {
    /// Calls go by it.
    Up,
    /// It is not taken on, and why.
    Refused {
        error: String,
        /// The definition of before is up meanwhile.
        is_former_up: bool,
    },
    /// It is being taken on, or another definition is in its place.
    Pending,
}

/// A target as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetStatus {
    /// Contracts it was signed for; of actors.
    pub capabilities: Option<Vec<String>>,
    /// When its claims cease to count, in seconds since 1970.
    pub expires: Option<u64>,
    /// Why all its calls are refused now.
    pub out_of_term: Option<CallError>,
    /// How much room it has for calls; unbounded if it does not say.
    pub room: Option<Room>,
    /// Links it does not take on, and why; of providers.
    pub refused: Vec<(Arc<LinkDefinition>, String)>,
}

/// The room of an actor for calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Calls that may run at a time, and how many more may begin now.
    pub limit: u32,
    pub free: u32,
    /// Calls that wait, and how many may.
    pub waiting: usize,
    pub queue_max: usize,
}

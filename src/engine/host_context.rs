//! The values that the parts of a host share.
//!
//! The host makes one [`HostContext`] before any part of it runs, and hands it to all of them. It
//! holds no part that works on commands or calls, so nothing in it holds the context in turn.

use std::{sync::Arc, time::Duration};

use tokio_util::task::TaskTracker;

use crate::{
    attention::Slot,
    control::state::HostState,
    events::Publisher,
    history::History,
    issuers::Issuers,
    journal::Journal,
    links::Live,
    peers::{Peers, sessions::Sessions},
    policy::Policy,
    rpc::tokens::Tokens,
};
use lattice_base::{
    budget::Budget,
    lattice::{answers::Answers, connection::Nats},
    shutdown::Lifeline,
    store::{Store, desired::Desired},
    suspend::SuspendDetector,
};
use lattice_protocol::{desired::Authority, identity::keys::HostId, lattice::subject::Subjects};

/// The values that the parts of a host share.
pub struct HostContext {
    pub host_id: HostId,
    /// The host as clients see it.
    pub state: HostState,
    pub subjects: Subjects,
    pub ctl: Nats,
    pub rpc: Nats,
    pub js_domain: Option<String>,
    pub rpc_timeout: Duration,
    pub answers: Answers,
    pub store: Store,
    /// The things that the lattice was asked to run, and the key that signs them.
    pub desired: Desired,
    pub authority: Arc<Authority>,
    pub links: Live,
    pub policy: Policy,
    pub issuers: Issuers,
    /// The tokens of calls that came to this host.
    pub tokens: Tokens,
    pub events: Publisher,
    /// Keeps what happens for those who come later.
    pub history: History,
    /// Where a dashboard of this host says what needs attention.
    pub attention: Slot,
    pub journal: Journal,
    pub peers: Peers,
    /// The keys that this host shares with others.
    pub sessions: Sessions,
    /// The memory for payloads.
    pub budget: Budget,
    pub suspend: SuspendDetector,
    /// Owns the tasks that live as long as the host.
    pub tasks: TaskTracker,
    pub lifeline: Lifeline,
}

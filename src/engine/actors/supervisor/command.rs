//! The interface of the supervisor: requests, their refusals, and the [`Handle`] that takes them.
//!
//! Asking never waits: a request goes into a bounded inbox, in order, or is refused because that is
//! full.

use std::sync::Arc;

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::{actors::trial::TrialView, issuers::IssuerChange};
pub use lattice_protocol::control::types::Amount;
use lattice_protocol::{
    control::types::CodeInfo, events::event::Annotations, identity::keys::ActorId,
};

/// Calls without an upper bound on this actor's concurrency: what a `scale` without a count asks
/// for.
pub const UNBOUNDED: u32 = u32::MAX;
/// The annotation that sets how many calls one instance of an actor may serve.
pub const REUSE_ANNOTATION: &str = "lattice.host/instance-reuse";
/// The annotation that says what becomes of imports that nothing in a lattice answers.
pub const IMPORTS_ANNOTATION: &str = "lattice.host/unknown-imports";
/// Its value: the actor starts, and a call that uses one of them fails.
pub const IMPORTS_TRAP: &str = "trap";

/// A request to run an actor under one set of annotations.
#[derive(Clone, Debug)]
pub struct Start {
    /// The reference as the client wrote it.
    pub reference: String,
    pub annotations: Annotations,
    pub amount: Amount,
    /// Whether another account than before may have signed it.
    pub issuer_change: IssuerChange,
}

/// A request to stop all or some of an actor.
#[derive(Clone, Debug)]
pub struct Stop {
    /// A public key, or an image reference.
    pub actor: String,
    /// Only groups that have all of these.
    pub annotations: Annotations,
    /// How many; `None` means all.
    pub count: Option<u32>,
}

/// A request to run another module under the same key.
#[derive(Clone, Debug)]
pub struct Replace {
    pub actor_id: Option<String>,
    pub reference: String,
    pub annotations: Annotations,
    pub revisions: Revisions,
    /// Percent of the calls that it takes beside what runs, 1 to 100; `None` to take its place.
    pub share: Option<u8>,
    /// Whether another account than before may have signed it.
    pub issuer_change: IssuerChange,
}

/// Which revisions an update may bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revisions {
    /// Higher ones than that which runs.
    Newer,
    Any,
}

/// The groups of an actor that a command was about, as they are after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    pub id: ActorId,
    /// The reference that it runs from; empty if no group is named.
    pub reference: String,
    /// How many calls each takes at a time; none if it is gone.
    pub groups: Vec<(Annotations, u32)>,
}

/// The answer to a command, given when it has ended.
pub type Outcome = Result<Changed, ActorError>;

/// Why a start failed, or a stop or an update was refused.
#[derive(Debug, thiserror::Error)]
pub enum ActorError {
    #[error("{cause}")]
    NotStarted {
        /// The actor, as far as it is known.
        id: Option<ActorId>,
        cause: String,
    },
    #[error("{0} does not run on this host")]
    NotRunning(String),
    #[error("{actor} runs on this host, but not with the annotations {annotations:?}")]
    NoSuchAnnotations { actor: String, annotations: Annotations },
    #[error(
        "the annotations select only a part of {0}; all of an actor on one host runs the same module, so leave the annotations out"
    )]
    PartOfActor(String),
    #[error("{reference} holds {found}, not {expected}; start it as an actor of its own")]
    OtherActor { reference: String, found: String, expected: String },
    #[error(
        "{reference} has revision {offered}, {actor} runs revision {running} already; sign the new module with a higher revision"
    )]
    NotNewer { reference: String, actor: String, offered: u64, running: u64 },
    #[error("no newer revision of {0} runs beside it on this host, so there is none to take back")]
    NoTrial(String),
    #[error("a later command about {0} came before the newer revision was ready")]
    Overtaken(String),
    #[error("{0}")]
    Load(String),
    #[error("the host is stopping or too busy to take the command")]
    Unavailable,
}

/// A running actor as readers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActorView {
    pub id: ActorId,
    pub name: Option<String>,
    pub reference: String,
    pub revision: i32,
    pub code: CodeInfo,
    pub groups: Vec<GroupView>,
    /// A newer revision that takes a share of the calls; the other members are about the one before
    /// it.
    pub trial: Option<TrialView>,
}

impl ActorView {
    /// Says whether a reference names this actor: its own does, and that of a newer revision
    /// beside it.
    pub fn is_from(&self, reference: &str) -> bool {
        self.reference == reference
            || self.trial.as_ref().is_some_and(|newer| newer.reference == reference)
    }
}

/// One group of a running actor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    pub annotations: Annotations,
    pub instance_id: String,
    pub max: u32,
}

pub(super) enum Command {
    Start(Start, oneshot::Sender<Outcome>),
    Stop(Stop, oneshot::Sender<Outcome>),
    Replace(Replace, oneshot::Sender<Outcome>),
    TakeBack(String, oneshot::Sender<Outcome>),
    StopAll { deadline: Instant, done: oneshot::Sender<()> },
}

/// Gives commands to the supervisor and reads what runs. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) view: watch::Receiver<Arc<Vec<ActorView>>>,
}

impl Handle {
    /// Asks for an actor; the outcome is told by events as well, and by nothing if the host stops
    /// before. Fails only when the inbox is full or the host is stopping.
    pub fn start(&self, start: Start) -> Result<oneshot::Receiver<Outcome>, ActorError> {
        let (reply, outcome) = oneshot::channel();
        let sent = self.commands.try_send(Command::Start(start, reply));
        sent.map_err(|_| ActorError::Unavailable)?;
        Ok(outcome)
    }

    /// Asks for a stop; the answer comes when the actor takes no further calls.
    pub fn stop(&self, stop: Stop) -> oneshot::Receiver<Outcome> {
        self.ask(|reply| Command::Stop(stop, reply))
    }

    /// Asks for a live update; the answer comes when new calls run the new module.
    pub fn replace(&self, replace: Replace) -> oneshot::Receiver<Outcome> {
        self.ask(|reply| Command::Replace(replace, reply))
    }

    /// Ends the trial of a newer revision of an actor, by its public key: the one before it takes
    /// all calls again. A trial that is still being loaded does not begin. Refused without a trial.
    pub fn take_back(&self, actor_id: String) -> oneshot::Receiver<Outcome> {
        self.ask(|reply| Command::TakeBack(actor_id, reply))
    }

    /// Stops everything; returns when all calls are done, or at the deadline.
    pub async fn stop_all(&self, deadline: Instant) {
        let (done, stopped) = oneshot::channel();
        if self.commands.send(Command::StopAll { deadline, done }).await.is_ok() {
            let _ = stopped.await;
        }
    }

    /// Returns the actors that run now.
    pub fn running(&self) -> Arc<Vec<ActorView>> {
        Arc::clone(&self.view.borrow())
    }

    fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Outcome>) -> Command,
    ) -> oneshot::Receiver<Outcome> {
        let (reply, answer) = oneshot::channel();
        if let Err(
            mpsc::error::TrySendError::Full(command) | mpsc::error::TrySendError::Closed(command),
        ) = self.commands.try_send(command(reply))
            && let Command::Stop(_, reply)
            | Command::Replace(_, reply)
            | Command::TakeBack(_, reply) = command
        {
            let _ = reply.send(Err(ActorError::Unavailable));
        }
        answer
    }
}

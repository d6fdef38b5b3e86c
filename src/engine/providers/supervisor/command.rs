//! The interface of the provider supervisor: requests, refusals, and the [`Handle`] that takes
//! them.
//!
//! Asking never waits: a request goes into a bounded inbox, in order, or is refused because that is
//! full.

use std::sync::Arc;

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::CUT_OFF;
use crate::{
    issuers::IssuerChange,
    providers::{
        external::health::Health,
        plan::{Phase, STABLE_AFTER},
    },
};
use lattice_protocol::{
    events::event::{Annotations, has_all},
    identity::keys::{LinkName, ProviderId},
};

/// A request to run a provider under a link name.
#[derive(Clone, Debug)]
pub struct Start {
    /// The reference as the client wrote it.
    pub reference: String,
    pub link_name: LinkName,
    /// Handed to the provider as it is.
    pub configuration: Option<String>,
    pub annotations: Annotations,
    /// Whether another account than before may have signed it.
    pub issuer_change: IssuerChange,
}

/// A request to stop a provider.
#[derive(Clone, Debug)]
pub struct Stop {
    /// A public key, or the reference it was started with.
    pub provider: String,
    pub link_name: LinkName,
    /// Only if it has all of these.
    pub annotations: Annotations,
}

impl Stop {
    /// Whether what was started so has all the annotations asked for.
    pub(super) fn selects(&self, start: &Start) -> bool {
        has_all(&start.annotations, &self.annotations)
    }
}

/// Why a start or a stop was refused at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    #[error(
        "provider {provider} is already running on this host under link name {link_name}; stop it first, or use another link name"
    )]
    AlreadyRunning { provider: String, link_name: String },
    #[error(
        "provider {provider} is being started already on this host under link name {link_name}; wait for it"
    )]
    BeingStarted { provider: String, link_name: String },
    #[error("provider {provider} does not run on this host under link name {link_name}{}", runs_as(.others))]
    NotRunning { provider: String, link_name: String, others: Vec<String> },
    #[error("provider {provider} runs on this host, but not with the annotations {annotations:?}")]
    NoSuchAnnotations { provider: String, annotations: Annotations },
    #[error(
        "{provider} is a program of its own, and this host starts only providers that are part of it \
         (allow_external_providers); start it on another host, or one of builtin://"
    )]
    External { provider: String },
    #[error("{0}")]
    Builtin(#[from] crate::providers::builtin::UnknownBuiltin),
    #[error("the host is stopping or too busy to take the command")]
    Unavailable,
}

fn runs_as(others: &[String]) -> String {
    if others.is_empty() {
        String::new()
    } else {
        format!(" (it does under {})", others.join(", "))
    }
}

/// Why a provider that was to start does not run, and which one it was, as far as that is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct NotStarted {
    pub id: Option<ProviderId>,
    pub cause: String,
}

/// The end of a start that was taken: the provider runs, or not. Nothing if the host stops before.
pub type Ended = oneshot::Receiver<Result<ProviderId, NotStarted>>;

/// A running provider as readers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderView {
    pub id: ProviderId,
    pub link_name: LinkName,
    pub contract_id: String,
    pub reference: String,
    pub name: String,
    pub revision: i32,
    pub annotations: Annotations,
    pub instance_id: String,
    /// It was started with a configuration, which nobody is told.
    pub is_configured: bool,
}

/// The condition of a provider, beyond that it runs.
#[derive(Clone, Debug)]
pub struct Condition {
    pub id: ProviderId,
    pub link_name: LinkName,
    pub reference: String,
    pub name: String,
    pub phase: Phase,
    pub(super) crashes: u32,
    /// How often it was started again after it ended by itself.
    pub restarts: u64,
    /// How it ended the last time.
    pub last_end: Option<String>,
    /// When its claims cease to count, in seconds since 1970.
    pub expires: Option<u64>,
    /// When its run began.
    pub(super) since: Instant,
    /// How it answers health checks, at any time.
    pub health: watch::Receiver<Health>,
}

impl Condition {
    /// How often in a row it has ended by itself; a long run ends the row.
    pub fn crashes_in_a_row(&self) -> u32 {
        if self.phase == Phase::Running && self.since.elapsed() >= STABLE_AFTER {
            0
        } else {
            self.crashes
        }
    }
}

/// Which providers a stop of the host is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those that bring work in from outside the lattice.
    Ingress,
    All,
}

/// Where the end of a start goes.
pub(super) type EndSender = oneshot::Sender<Result<ProviderId, NotStarted>>;

pub(super) enum Command {
    Start(Start, oneshot::Sender<Result<(), ProviderError>>, EndSender),
    Stop(Stop, oneshot::Sender<Result<(), ProviderError>>),
    StopAll { which: Which, deadline: Instant, done: oneshot::Sender<()> },
}

/// Gives commands to the supervisor and reads what runs. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) view: watch::Receiver<Arc<Vec<ProviderView>>>,
    pub(super) conditions: watch::Receiver<Arc<Vec<Condition>>>,
}

impl Handle {
    /// Asks for a provider. The answer says whether the command was taken; the outcome is told by
    /// events.
    pub fn start(&self, start: Start) -> oneshot::Receiver<Result<(), ProviderError>> {
        self.start_and_follow(start).0
    }

    /// Asks for a provider; tells as well how this start ends, once it was taken.
    pub fn start_and_follow(
        &self,
        start: Start,
    ) -> (oneshot::Receiver<Result<(), ProviderError>>, Ended) {
        let (end, ended) = oneshot::channel();
        (self.ask(|reply| Command::Start(start, reply, end)), ended)
    }

    /// Asks for a stop. The answer says whether there is something to stop; `provider_stopped`
    /// tells when it has.
    pub fn stop(&self, stop: Stop) -> oneshot::Receiver<Result<(), ProviderError>> {
        self.ask(|reply| Command::Stop(stop, reply))
    }

    /// Starts nothing any more and stops what is meant; returns when it has stopped, or at the
    /// deadline.
    pub async fn stop_all(&self, which: Which, deadline: Instant) {
        let (done, stopped) = oneshot::channel();
        if self.commands.send(Command::StopAll { which, deadline, done }).await.is_ok() {
            // The supervisor's own cut-off comes first; this is for one that is gone.
            let _ = tokio::time::timeout_at(deadline + CUT_OFF * 2, stopped).await;
        }
    }

    /// Returns the providers that run now.
    pub fn running(&self) -> Arc<Vec<ProviderView>> {
        Arc::clone(&self.view.borrow())
    }

    /// How every provider is that was asked for and not stopped.
    pub fn conditions(&self) -> Arc<Vec<Condition>> {
        Arc::clone(&self.conditions.borrow())
    }

    fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), ProviderError>>) -> Command,
    ) -> oneshot::Receiver<Result<(), ProviderError>> {
        let (reply, answer) = oneshot::channel();
        if let Err(
            mpsc::error::TrySendError::Full(command) | mpsc::error::TrySendError::Closed(command),
        ) = self.commands.try_send(command(reply))
            && let Command::Start(_, reply, _) | Command::Stop(_, reply) = command
        {
            let _ = reply.send(Err(ProviderError::Unavailable));
        }
        answer
    }
}

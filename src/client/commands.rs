//! Changes on one host, each seen through to its end: asked for, then watched until events or the
//! inventory tell.
//!
//! A caller that asks for what is there already changes nothing and learns so
//! ([`Outcome::Unchanged`]). Errors of hosts come in their own words; what is unknown when the time
//! is over is an [`OutcomeUnknown`].

use std::{fmt, sync::Arc, time::Duration};

use anyhow::{Context as _, Error, Result, anyhow, bail};
use tokio::time::{Instant, timeout_at};

use super::{
    lattice::{Lattice, RequestError},
    watch::{Observed, WaitError, Watch, instances},
};
use lattice_protocol::{
    clock,
    control::{
        request::{
            HostRequest, LaunchActor, LaunchProvider, ScaleActor, StopActor, StopHost,
            StopProvider, UpdateActor,
        },
        types::{Ack, Inventory, Pairs},
    },
    errors::OutcomeUnknown,
    events::{
        Event, Received, Step,
        event::{ProviderContext, has_all},
    },
    issuers,
};

/// How long a start may take unless told otherwise, downloads included.
pub const START_WAIT: Duration = Duration::from_secs(60);
/// How long a stop may take: calls are finished first.
pub const STOP_WAIT: Duration = Duration::from_secs(15);
/// Why a provider with a configuration cannot be started elsewhere like the others.
pub(super) const CONFIGURED: &str = "it was started with a configuration, which no host tells; start it elsewhere with \
    --config-json";

/// How a change ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It was so before; nothing was asked of the host.
    Unchanged(T),
    /// The host took it on, and nobody waited.
    Accepted(Keeping),
    Done(T, Keeping),
}

/// The host's words on starting it again when it comes back; nothing, if it is one of earlier
/// years, or something else manages what was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keeping {
    /// Where it is kept.
    pub kept: Option<String>,
    /// Why it is not kept.
    pub not_kept: Option<String>,
}

impl From<Ack> for Keeping {
    fn from(Ack { kept, not_kept, .. }: Ack) -> Self {
        Self { kept, not_kept }
    }
}

impl<T> Outcome<T> {
    /// The host's words on starting it again.
    pub fn keeping(&self) -> Keeping {
        match self {
            Self::Unchanged(_) => Keeping::default(),
            Self::Accepted(keeping) | Self::Done(_, keeping) => keeping.clone(),
        }
    }
}

impl Keeping {
    /// Returns why it is not kept, as the end of a sentence; nothing if there is nothing to say.
    pub fn complaint(&self) -> String {
        let cause = self.not_kept.as_ref();
        cause
            .map(|cause| format!("; not kept for the next start of the host: {cause}"))
            .unwrap_or_default()
    }
}

/// Receives each step that a host makes on the way.
pub type OnProgress<'a> = &'a mut (dyn FnMut(&Step) + Send);

/// A provider that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    pub id: String,
    pub contract_id: String,
}

/// How long is waited, and when that is over.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    wait: Duration,
    until: Instant,
}

impl Patience {
    /// Waits for so long from now.
    pub fn new(wait: Duration) -> Self {
        Self { wait, until: Instant::now() + wait }
    }
}

/// Shows how long was waited.
impl fmt::Display for Patience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.wait.as_secs_f64())
    }
}

/// A host on which something is to change.
#[derive(Clone, Copy)]
pub struct HostCommands<'a> {
    pub lattice: &'a Lattice,
    pub host: &'a str,
    /// How long to wait for the end; not at all without.
    pub patience: Option<Patience>,
    /// The permission to run what another account has signed, see `issuers`.
    pub issuer_change: Option<&'a str>,
}

impl<'a> HostCommands<'a> {
    /// Waits for so long from now.
    pub fn new(lattice: &'a Lattice, host: &'a str, wait: Option<Duration>) -> Self {
        Self { lattice, host, patience: wait.map(Patience::new), issuer_change: None }
    }

    /// Annotations as they are sent, with the permission.
    fn sent(&self, annotations: &Pairs) -> Pairs {
        let permission = self
            .issuer_change
            .map(|permission| (issuers::ANNOTATION.to_owned(), permission.to_owned()));
        annotations.clone().into_iter().chain(permission).collect()
    }

    async fn inventory(&self) -> Result<Inventory> {
        let asked = self.lattice.inventory(self.host).await;
        asked.with_context(|| format!("ask host {} what it runs", self.host))
    }

    /// Starts an actor that takes `max` calls at a time; without it as many as it takes already, or
    /// one. Returns its id.
    pub async fn start_actor(
        &self,
        reference: &str,
        max: Option<u32>,
        annotations: &Pairs,
        on_progress: OnProgress<'_>,
    ) -> Result<Outcome<Started>> {
        let host = self.host;
        let inventory = self.inventory().await?;
        let before = running(&inventory, reference, annotations);
        let now = before.as_ref().map(|(_, now)| u32::try_from(*now).unwrap_or(u32::MAX));
        let max = max.or(now).unwrap_or(1);
        if let Some((id, now)) = &before
            && *now == u64::from(max)
        {
            return Ok(Outcome::Unchanged(Started { id: id.clone(), max, alias_note: None }));
        }
        let watch = Watch::open(self.lattice, host).await?;
        // Comes before the event that the actor has started.
        let mut alias_note = None;
        // Hosts of 2022 start actors with another command; they are the ones that do not tell their
        // version here.
        let is_of_2022 = inventory.version.is_empty();
        let request = ScaleActor {
            actor_id: before.map(|(id, _)| id),
            actor_ref: reference.to_owned(),
            annotations: self.sent(annotations),
            count: Some(Some(max)),
            host_id: host.to_owned(),
        };
        let asked = if is_of_2022 {
            self.lattice.command(host, &LaunchActor::from(request)).await
        } else {
            self.lattice.command(host, &request).await
        };
        let keeping = Keeping::from(asked.context("start the actor")?);
        let Some(patience) = self.patience else { return Ok(Outcome::Accepted(keeping)) };
        let outcome = watch
            .wait(
                patience.until,
                |event| {
                    if let Event::CallAliasContested { contest, message } = event {
                        alias_note =
                            Some((Arc::clone(&contest.claimant.actor_id), message.clone()));
                    }
                    actor_event(event, reference)
                },
                |inventory| match running(inventory, reference, annotations) {
                    Some((id, now)) if now >= u64::from(max) || is_of_2022 => Observed::Done(id),
                    _ => Observed::Nothing,
                },
                |step| of_reference(step, reference, on_progress),
            )
            .await;
        let id = outcome.map_err(|error| {
            failure(error, reference, host, &format!("actor {reference} does not start"))
        })?;
        let alias_note = alias_note.filter(|(key, _)| **key == *id).map(|(_, note)| note);
        Ok(Outcome::Done(Started { id, max, alias_note }, keeping))
    }

    /// Starts a provider under a link name.
    pub async fn start_provider(
        &self,
        reference: &str,
        link_name: &str,
        annotations: &Pairs,
        configuration: Option<&str>,
        on_progress: OnProgress<'_>,
    ) -> Result<Outcome<Serving>> {
        let host = self.host;
        if let Some(serving) = serving(&self.inventory().await?, reference, link_name) {
            return Ok(Outcome::Unchanged(serving));
        }
        let watch = Watch::open(self.lattice, host).await?;
        let request = LaunchProvider {
            annotations: self.sent(annotations),
            configuration: configuration.map(str::to_owned),
            host_id: host.to_owned(),
            link_name: link_name.to_owned(),
            provider_ref: reference.to_owned(),
        };
        let asked = self.lattice.command(host, &request).await;
        let keeping = Keeping::from(asked.context("start the provider")?);
        let Some(patience) = self.patience else { return Ok(Outcome::Accepted(keeping)) };
        let outcome = watch
            .wait(
                patience.until,
                |event| match event {
                    Event::ProviderStarted { provider, .. }
                        if provider.image_ref == reference && provider.link_name == link_name =>
                    {
                        let ProviderContext { public_key, contract_id, .. } = provider;
                        Observed::Done(Serving {
                            id: public_key.clone(),
                            contract_id: contract_id.clone(),
                        })
                    }
                    Event::ProviderStartFailed { provider_ref, error, .. }
                        if provider_ref == reference =>
                    {
                        Observed::Failed(error.clone())
                    }
                    _ => Observed::Nothing,
                },
                |inventory| {
                    serving(inventory, reference, link_name)
                        .map_or(Observed::Nothing, Observed::Done)
                },
                |step| of_reference(step, reference, on_progress),
            )
            .await;
        outcome.map(|serving| Outcome::Done(serving, keeping)).map_err(|error| {
            failure(error, reference, host, &format!("provider {reference} does not start"))
        })
    }

    /// Changes how many calls an actor takes at a time under these annotations; `None` is no bound,
    /// 0 stops it. Hosts of 2022 know an actor by its id here, later ones by its reference.
    pub async fn scale_actor(
        &self,
        id: Option<&str>,
        reference: &str,
        max: Option<u32>,
        annotations: &Pairs,
        on_progress: OnProgress<'_>,
    ) -> Result<Outcome<Option<String>>> {
        let host = self.host;
        let before = running(&self.inventory().await?, reference, annotations);
        let wanted = max.map_or(u64::from(u32::MAX), u64::from);
        let runs = before.as_ref().map(|(id, _)| id.clone());
        if before.as_ref().map_or(0, |(_, now)| *now) == wanted {
            return Ok(Outcome::Unchanged(runs));
        }
        let watch = Watch::open(self.lattice, host).await?;
        let request = ScaleActor {
            actor_id: id.map(str::to_owned).or_else(|| runs.clone()),
            actor_ref: reference.to_owned(),
            annotations: annotations.clone(),
            // Those of 2022 and 2023 refuse null, which later ones read as no bound.
            count: Some(Some(max.unwrap_or(u32::MAX))),
            host_id: host.to_owned(),
        };
        let asked = self.lattice.command(host, &request).await;
        let keeping = Keeping::from(asked.context("scale the actor")?);
        let Some(patience) = self.patience else { return Ok(Outcome::Accepted(keeping)) };
        let outcome = watch
            .wait(
                patience.until,
                |event| match actor_event(event, reference) {
                    Observed::Done(id) if matches!(event, Event::ActorScaled { .. }) => {
                        Observed::Done(Some(id))
                    }
                    Observed::Failed(why) => Observed::Failed(why),
                    Observed::Done(_) | Observed::Nothing => Observed::Nothing,
                },
                |inventory| match running(inventory, reference, annotations) {
                    Some((id, now)) if now == wanted => Observed::Done(Some(id)),
                    None if wanted == 0 => Observed::Done(None),
                    _ => Observed::Nothing,
                },
                |step| of_reference(step, reference, on_progress),
            )
            .await;
        outcome.map(|id| Outcome::Done(id.or(runs), keeping)).map_err(|error| {
            failure(error, reference, host, &format!("actor {reference} is not scaled"))
        })
    }

    /// Exchanges the module of a running actor; returns when new calls run the new one.
    pub async fn update_actor(
        &self,
        id: &str,
        reference: &str,
        on_progress: OnProgress<'_>,
    ) -> Result<()> {
        let host = self.host;
        let watch = Watch::open(self.lattice, host).await?;
        let request = UpdateActor {
            actor_id: id.to_owned(),
            annotations: Some(self.sent(&Pairs::new())),
            any_revision: false,
            host_id: host.to_owned(),
            new_actor_ref: reference.to_owned(),
            share: None,
        };
        self.told(&request, &format!("update {id}")).await.context("update the actor")?;
        let Some(patience) = self.patience else { return Ok(()) };
        let outcome = watch
            .wait(
                patience.until,
                |event| match event {
                    Event::ActorUpdateFailed { public_key, reason, .. } if public_key == id => {
                        Observed::Failed(reason.clone())
                    }
                    _ => Observed::Nothing,
                },
                |inventory| {
                    let mut actors = inventory.actors.iter();
                    Observed::done_if(
                        actors.any(|actor| actor.id == id && actor.image_ref == reference),
                    )
                },
                |step| of_reference(step, reference, on_progress),
            )
            .await;
        outcome.map_err(|error| failure(error, reference, host, &format!("{id} is not updated")))
    }

    /// Stops `count` of an actor, or all of what has these annotations.
    pub async fn stop_actor(
        &self,
        id: &str,
        count: Option<u32>,
        annotations: &Pairs,
    ) -> Result<Keeping> {
        let host = self.host;
        let before = annotated(&self.inventory().await?, id, annotations);
        // Zero and nothing both mean all of them.
        let fewer = count.filter(|count| *count > 0).map_or(before, u64::from).min(before);
        let watch = Watch::open(self.lattice, host).await?;
        let request = StopActor {
            actor_ref: id.to_owned(),
            annotations: annotations.clone(),
            count: Some(count.unwrap_or(0)),
            host_id: host.to_owned(),
        };
        // Hosts answer when the actor has left; one that takes longer than a request may is watched
        // all the same.
        let answer = self.told(&request, &format!("stop {id}")).await.context("stop the actor")?;
        let took_on = answer.is_some();
        let keeping = answer.map(Keeping::from).unwrap_or_default();
        let Some(patience) = self.patience else { return Ok(keeping) };
        let outcome = watch
            .wait(
                patience.until,
                |_| Observed::Nothing,
                |inventory| {
                    Observed::done_if(annotated(inventory, id, annotations) + fewer <= before)
                },
                |_| {},
            )
            .await;
        match outcome {
            Ok(()) => Ok(keeping),
            Err(WaitError::Failed(why)) => bail!(why),
            Err(WaitError::TimedOut) => bail!(OutcomeUnknown(format!(
                "host {host} {} the stop of {id}, but still runs it after {patience}; calls in work are finished first. \
                 `host get inventory {host}` tells when it is gone",
                if took_on { "took on" } else { "did not answer" }
            ))),
        }
    }

    /// Stops a provider under a link name.
    pub async fn stop_provider(
        &self,
        id: &str,
        link_name: &str,
        contract: &str,
    ) -> Result<Keeping> {
        let host = self.host;
        let watch = Watch::open(self.lattice, host).await?;
        let request = StopProvider {
            annotations: Pairs::new(),
            contract_id: contract.to_owned(),
            host_id: host.to_owned(),
            link_name: link_name.to_owned(),
            provider_ref: id.to_owned(),
        };
        let answer = self.lattice.command(host, &request).await.context("stop the provider")?;
        let keeping = Keeping::from(answer);
        let Some(patience) = self.patience else { return Ok(keeping) };
        let outcome = watch
            .wait(
                patience.until,
                |event| match event {
                    Event::ProviderStopped { provider, .. }
                        if provider.public_key == id && provider.link_name == link_name =>
                    {
                        Observed::Done(())
                    }
                    _ => Observed::Nothing,
                },
                |inventory| {
                    let mut providers = inventory.providers.iter();
                    Observed::done_if(
                        !providers.any(|run| run.id == id && run.link_name == link_name),
                    )
                },
                |_| {},
            )
            .await;
        match outcome {
            Ok(()) => Ok(keeping),
            Err(WaitError::Failed(why)) => bail!(why),
            Err(WaitError::TimedOut) => bail!(OutcomeUnknown(format!(
                "host {host} took the stop of {id} on, but still runs it after {patience}; `host get inventory {host}` tells when \
                 it is gone"
            ))),
        }
    }

    /// Stops the host; `timeout` is how long its calls in work may take.
    pub async fn stop_host(&self, timeout: Duration) -> Result<()> {
        let host = self.host;
        let mut events = self.lattice.events().await?;
        let request = StopHost { host_id: host.to_owned(), timeout: Some(clock::millis(timeout)) };
        self.lattice.command(host, &request).await.with_context(|| format!("stop host {host}"))?;
        let Some(patience) = self.patience else { return Ok(()) };
        // It finishes its calls, then says goodbye.
        loop {
            let look_at = patience.until.min(Instant::now() + Duration::from_millis(500));
            let told = match timeout_at(look_at, events.next()).await {
                Ok(Some(Received { source, event, .. })) => {
                    matches!(event, Event::HostStopped { .. }) && source == host
                }
                // A host that is gone cannot say so any more.
                _ => matches!(
                    self.lattice.inventory(host).await,
                    Err(RequestError::NoResponders { .. })
                ),
            };
            if told {
                return Ok(());
            }
            if Instant::now() >= patience.until {
                bail!(OutcomeUnknown(format!(
                    "host {host} took the stop on, but is still there after {patience}; `host get hosts` tells when it is gone"
                )));
            }
        }
    }

    /// Gives a command that may take longer than an answer. Returns the answer if it came in time;
    /// a refusal is an error in its words.
    async fn told<R: HostRequest<Reply = Ack>>(
        &self,
        command: &R,
        what: &str,
    ) -> Result<Option<Ack>> {
        match self.lattice.request_of(self.host, command).await {
            Ok(answer) => Ok(Some(answer)),
            Err(RequestError::Refused { error, .. }) => {
                bail!("host {} refuses to {what}: {error}", self.host)
            }
            Err(RequestError::TimedOut { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// An actor that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    pub id: String,
    /// Calls it takes at a time.
    pub max: u32,
    /// The note of its host if its call alias is claimed by another actor, too.
    pub alias_note: Option<String>,
}

fn of_reference(step: &Step, reference: &str, on_progress: &mut (dyn FnMut(&Step) + Send)) {
    if step.reference == reference {
        on_progress(step);
    }
}

/// Reads from an event how the start of an actor with this reference went.
fn actor_event(event: &Event, reference: &str) -> Observed<String> {
    match event {
        Event::ActorScaled { actor, .. }
        | Event::ActorsStarted { actor, .. }
        | Event::ActorStarted { actor, .. }
            if actor.image_ref == reference =>
        {
            Observed::Done(actor.public_key.clone())
        }
        Event::ActorScaleFailed { image_ref: failed, error, .. }
        | Event::ActorsStartFailed { image_ref: failed, error, .. }
        | Event::ActorStartFailed { actor_ref: failed, error }
            if failed == reference =>
        {
            Observed::Failed(error.clone())
        }
        _ => Observed::Nothing,
    }
}

/// The error of a change that has to do with a reference: what is not as it should be and why, or
/// that its outcome is not known.
fn failure(error: WaitError, reference: &str, host: &str, what: &str) -> Error {
    match error {
        WaitError::Failed(why) => anyhow!("{what} on host {host}: {why}"),
        WaitError::TimedOut => OutcomeUnknown(format!(
            "host {host} took the start of {reference} on, but nothing was heard of it within the time; it may still start. \
             `host get inventory {host}` tells whether it runs; --wait-ms gives it more time"
        ))
        .into(),
    }
}

/// The id of an actor that runs with this reference, and how many calls it takes at a time under
/// these annotations.
fn running(inventory: &Inventory, reference: &str, annotations: &Pairs) -> Option<(String, u64)> {
    let actor = inventory.actors.iter().find(|actor| actor.image_ref == reference)?;
    let now = instances(actor, |theirs| theirs == annotations);
    (now > 0).then(|| (actor.id.clone(), now))
}

/// How many calls an actor takes at a time, over the instances that have all these annotations.
fn annotated(inventory: &Inventory, id: &str, annotations: &Pairs) -> u64 {
    let of_it = inventory.actors.iter().filter(|actor| actor.id == id);
    of_it.map(|actor| instances(actor, |theirs| has_all(theirs, annotations))).sum()
}

/// The provider that runs with this reference under a link name.
pub fn serving(inventory: &Inventory, reference: &str, link_name: &str) -> Option<Serving> {
    let mut providers = inventory.providers.iter();
    let provider =
        providers.find(|run| run.image_ref == reference && run.link_name == link_name)?;
    Some(Serving { id: provider.id.clone(), contract_id: provider.contract_id.clone() })
}

//! Changes on one host, each seen through to its end: asked for, then watched until events or the inventory tell.
//!
//! A caller that asks for what is there already changes nothing and learns so ([`End::Before`]).
//! Errors of hosts come in their own words; what is unknown when the time is over is an
//! [`OutcomeUnknown`].

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::{
    OutcomeUnknown,
    lattice::{Event, Lattice, RequestError},
    outcome::{Outcome, Told, Watch, instances},
};
use crate::{
    control::types::{Ack, Inventory, InventoryActor, InventoryProvider, Pairs, Step},
    issuers,
    lattice::subject::{Command, Control},
};

/// How long a start may take unless told otherwise, downloads included.
pub const START_WAIT: Duration = Duration::from_secs(60);
/// How long a stop may take: calls are finished first.
pub const STOP_WAIT: Duration = Duration::from_secs(15);

/// How a change ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End<T> {
    /// It was so before; nothing was asked of the host.
    Before(T),
    /// The host was asked, and nobody waited.
    Asked,
    Done(T),
}

/// Told of each step that a host makes on the way.
pub type OnStep<'a> = &'a mut (dyn FnMut(&Step) + Send);

/// A provider that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    pub id: String,
    pub contract_id: String,
}

/// A host on which something is to change.
#[derive(Clone, Copy)]
pub struct Act<'a> {
    pub lattice: &'a Lattice,
    pub host: &'a str,
    /// How long to wait for the end; not at all without.
    pub until: Option<Instant>,
    /// The permission to run what another account has signed, see [`crate::issuers`].
    pub issuer_change: Option<&'a str>,
}

impl<'a> Act<'a> {
    /// Waits for so long from now.
    pub fn new(lattice: &'a Lattice, host: &'a str, wait: Option<Duration>) -> Self {
        Self { lattice, host, until: wait.map(|wait| Instant::now() + wait), issuer_change: None }
    }

    /// Annotations as they are sent, with the permission.
    fn sent(&self, annotations: &Pairs) -> Pairs {
        let permission = self.issuer_change.map(|permission| (issuers::ANNOTATION.to_owned(), permission.to_owned()));
        annotations.clone().into_iter().chain(permission).collect()
    }

    async fn inventory(&self) -> Result<Inventory> {
        let asked = self.lattice.inventory(self.host).await;
        asked.with_context(|| format!("ask host {} what it runs", self.host))
    }

    /// Starts an actor that takes `max` calls at a time; without it as many as it takes already, or one. Returns its id.
    pub async fn start_actor(
        &self,
        reference: &str,
        max: Option<u32>,
        annotations: &Pairs,
        on_step: OnStep<'_>,
    ) -> Result<End<Started>> {
        let host = self.host;
        let inventory = self.inventory().await?;
        let before = running(&inventory, reference, annotations);
        let max = match (max, &before) {
            (Some(max), _) => max,
            (None, Some((_, now))) => u32::try_from(*now).unwrap_or(u32::MAX),
            (None, None) => 1,
        };
        if let Some((id, now)) = &before
            && *now == u64::from(max)
        {
            return Ok(End::Before(Started { id: id.clone(), max, alias_note: None }));
        }
        let watch = Watch::open(self.lattice, host).await?;
        let mut alias_note = None;
        let body = json!({
            "actor_ref": reference, "host_id": host, "count": max, "annotations": self.sent(annotations),
            "actor_id": before.as_ref().map(|(id, _)| id),
        });
        // Hosts of 2022 start actors with another command; they are the ones that do not tell their version here.
        let is_of_2022 = inventory.version.is_empty();
        let command = if is_of_2022 { Command::LaunchActor } else { Command::ScaleActor };
        self.lattice.command(host, command, &without_nulls(body)).await.context("start the actor")?;
        let Some(until) = self.until else { return Ok(End::Asked) };
        let outcome = watch
            .wait(
                until,
                |event| {
                    if event.name() == "call_alias_contested" && event.source == host {
                        alias_note = Some((event.text("public_key").to_owned(), event.text("message").to_owned()));
                    }
                    actor_event(event, reference)
                },
                |inventory| match running(inventory, reference, annotations) {
                    Some((id, now)) if now >= u64::from(max) || is_of_2022 => Told::Done(id),
                    _ => Told::Nothing,
                },
                |step| of_reference(step, reference, on_step),
            )
            .await;
        match outcome {
            Outcome::Done(id) => {
                let alias_note = alias_note.filter(|(key, _)| *key == id).map(|(_, note)| note);
                Ok(End::Done(Started { id, max, alias_note }))
            }
            Outcome::Failed(why) => bail!("actor {reference} does not start on host {host}: {why}"),
            Outcome::Unknown => Err(unknown(reference, host).into()),
        }
    }

    /// Starts a provider under a link name.
    pub async fn start_provider(
        &self,
        reference: &str,
        link_name: &str,
        annotations: &Pairs,
        configuration: Option<&str>,
        on_step: OnStep<'_>,
    ) -> Result<End<Serving>> {
        let host = self.host;
        if let Some(serving) = serving(&self.inventory().await?, reference, link_name) {
            return Ok(End::Before(serving));
        }
        let watch = Watch::open(self.lattice, host).await?;
        let body = json!({
            "provider_ref": reference, "link_name": link_name, "host_id": host, "annotations": self.sent(annotations),
            "configuration": configuration,
        });
        let asked = self.lattice.command(host, Command::LaunchProvider, &without_nulls(body)).await;
        asked.context("start the provider")?;
        let Some(until) = self.until else { return Ok(End::Asked) };
        let outcome = watch
            .wait(
                until,
                |event| match event.name() {
                    "provider_started"
                        if event.text("image_ref") == reference && event.text("link_name") == link_name =>
                    {
                        let text = |member| event.text(member).to_owned();
                        Told::Done(Serving { id: text("public_key"), contract_id: text("contract_id") })
                    }
                    "provider_start_failed" if event.text("provider_ref") == reference => {
                        Told::Failed(event.text("error").to_owned())
                    }
                    _ => Told::Nothing,
                },
                |inventory| serving(inventory, reference, link_name).map_or(Told::Nothing, Told::Done),
                |step| of_reference(step, reference, on_step),
            )
            .await;
        match outcome {
            Outcome::Done(serving) => Ok(End::Done(serving)),
            Outcome::Failed(why) => bail!("provider {reference} does not start on host {host}: {why}"),
            Outcome::Unknown => Err(unknown(reference, host).into()),
        }
    }

    /// Changes how many calls an actor takes at a time under these annotations; `None` is no bound, 0 stops it. Hosts of 2022
    /// know an actor by its id here, later ones by its reference.
    pub async fn scale_actor(
        &self,
        id: Option<&str>,
        reference: &str,
        max: Option<u32>,
        annotations: &Pairs,
        on_step: OnStep<'_>,
    ) -> Result<End<Option<String>>> {
        let host = self.host;
        let before = running(&self.inventory().await?, reference, annotations);
        let wanted = max.map_or(u64::from(u32::MAX), u64::from);
        let runs = before.as_ref().map(|(id, _)| id.clone());
        if before.as_ref().map_or(0, |(_, now)| *now) == wanted {
            return Ok(End::Before(runs));
        }
        let watch = Watch::open(self.lattice, host).await?;
        let body = json!({
            "actor_ref": reference, "actor_id": id.or(runs.as_deref()), "host_id": host, "annotations": annotations,
            // Those of 2022 and 2023 refuse null, which later ones read as no bound.
            "count": max.unwrap_or(u32::MAX),
        });
        let asked = self.lattice.command(host, Command::ScaleActor, &without_nulls(body)).await;
        asked.context("scale the actor")?;
        let Some(until) = self.until else { return Ok(End::Asked) };
        let outcome = watch
            .wait(
                until,
                |event| match actor_event(event, reference) {
                    Told::Done(_) if event.name() != "actor_scaled" => Told::Nothing,
                    Told::Done(id) => Told::Done(Some(id)),
                    Told::Failed(why) => Told::Failed(why),
                    Told::Nothing => Told::Nothing,
                },
                |inventory| match running(inventory, reference, annotations) {
                    Some((id, now)) if now == wanted => Told::Done(Some(id)),
                    None if wanted == 0 => Told::Done(None),
                    _ => Told::Nothing,
                },
                |step| of_reference(step, reference, on_step),
            )
            .await;
        match outcome {
            Outcome::Done(id) => Ok(End::Done(id.or(runs))),
            Outcome::Failed(why) => bail!("actor {reference} is not scaled on host {host}: {why}"),
            Outcome::Unknown => Err(unknown(reference, host).into()),
        }
    }

    /// Exchanges the module of a running actor; returns when new calls run the new one.
    pub async fn update_actor(&self, id: &str, reference: &str, on_step: OnStep<'_>) -> Result<()> {
        let host = self.host;
        let watch = Watch::open(self.lattice, host).await?;
        let annotations = self.sent(&Pairs::new());
        let body = json!({ "actor_id": id, "new_actor_ref": reference, "host_id": host, "annotations": annotations });
        self.told(Command::UpdateActor, &body, &format!("update {id}")).await.context("update the actor")?;
        let Some(until) = self.until else { return Ok(()) };
        let outcome = watch
            .wait(
                until,
                |event| match event.name() {
                    "actor_update_failed" if event.text("public_key") == id => {
                        Told::Failed(event.text("reason").to_owned())
                    }
                    _ => Told::Nothing,
                },
                |inventory| {
                    let is_new = |actor: &InventoryActor| actor.id == id && actor.image_ref == reference;
                    if inventory.actors.iter().any(is_new) { Told::Done(()) } else { Told::Nothing }
                },
                |step| of_reference(step, reference, on_step),
            )
            .await;
        match outcome {
            Outcome::Done(()) => Ok(()),
            Outcome::Failed(why) => bail!("host {host} does not update {id}: {why}"),
            Outcome::Unknown => Err(unknown(reference, host).into()),
        }
    }

    /// Stops `count` of an actor, or all of what has these annotations.
    pub async fn stop_actor(&self, id: &str, count: Option<u32>, annotations: &Pairs) -> Result<()> {
        let host = self.host;
        let left = |inventory: &Inventory| {
            let counts = |theirs: &Pairs| annotations.iter().all(|(key, value)| theirs.get(key) == Some(value));
            let of_it = inventory.actors.iter().filter(|actor| actor.id == id);
            of_it.map(|actor| instances(actor, counts)).sum::<u64>()
        };
        let before = left(&self.inventory().await?);
        let fewer = count.filter(|count| *count > 0).map_or(before, u64::from).min(before);
        let watch = Watch::open(self.lattice, host).await?;
        let body = json!({
            "actor_ref": id, "host_id": host, "count": count.unwrap_or(0), "annotations": annotations,
        });
        // Hosts answer when the actor has left; one that takes longer than a request may is watched all the same.
        let took_on = self.told(Command::StopActor, &body, &format!("stop {id}")).await.context("stop the actor")?;
        let Some(until) = self.until else { return Ok(()) };
        let of_inventory = |inventory: &Inventory| match left(inventory) + fewer <= before {
            true => Told::Done(()),
            false => Told::Nothing,
        };
        match watch.wait(until, |_| Told::Nothing, of_inventory, |_| {}).await {
            Outcome::Done(()) => Ok(()),
            Outcome::Failed(why) => bail!(why),
            Outcome::Unknown => bail!(OutcomeUnknown(format!(
                "host {host} {} the stop of {id}, but still runs it after {} s; calls in work are finished first. \
                 `host get inventory {host}` tells when it is gone",
                if took_on { "took on" } else { "did not answer" },
                STOP_WAIT.as_secs()
            ))),
        }
    }

    /// Stops a provider under a link name.
    pub async fn stop_provider(&self, id: &str, link_name: &str, contract: &str) -> Result<()> {
        let host = self.host;
        let watch = Watch::open(self.lattice, host).await?;
        let body = json!({
            "provider_ref": id, "link_name": link_name, "contract_id": contract, "host_id": host, "annotations": {},
        });
        self.lattice.command(host, Command::StopProvider, &body).await.context("stop the provider")?;
        let Some(until) = self.until else { return Ok(()) };
        let is_it = |provider: &InventoryProvider| provider.id == id && provider.link_name == link_name;
        let outcome = watch
            .wait(
                until,
                |event| match event.name() {
                    "provider_stopped" if event.text("public_key") == id && event.text("link_name") == link_name => {
                        Told::Done(())
                    }
                    _ => Told::Nothing,
                },
                |inventory| if inventory.providers.iter().any(is_it) { Told::Nothing } else { Told::Done(()) },
                |_| {},
            )
            .await;
        match outcome {
            Outcome::Done(()) => Ok(()),
            Outcome::Failed(why) => bail!(why),
            Outcome::Unknown => bail!(OutcomeUnknown(format!(
                "host {host} took the stop of {id} on, but still runs it after {} s; `host get inventory {host}` tells when \
                 it is gone",
                STOP_WAIT.as_secs()
            ))),
        }
    }

    /// Stops the host; `timeout` is how long its calls in work may take.
    pub async fn stop_host(&self, timeout: Duration) -> Result<()> {
        let host = self.host;
        let mut events = self.lattice.events().await?;
        let body = json!({ "host_id": host, "timeout": u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX) });
        let asked = self.lattice.command(host, Command::StopHost, &body).await;
        asked.with_context(|| format!("stop host {host}"))?;
        let Some(until) = self.until else { return Ok(()) };
        // It finishes its calls, then says goodbye.
        loop {
            let look_at = until.min(Instant::now() + Duration::from_millis(500));
            let told = match timeout_at(look_at, events.next()).await {
                Ok(Some(event)) => event.name() == "host_stopped" && event.source == host,
                // A host that is gone cannot say so any more.
                _ => matches!(self.lattice.inventory(host).await, Err(RequestError::NoResponders { .. })),
            };
            if told {
                return Ok(());
            }
            if Instant::now() >= until {
                bail!(OutcomeUnknown(format!(
                    "host {host} took the stop on, but is still there; `host get hosts` tells when it is gone"
                )));
            }
        }
    }

    /// Gives a command that may take longer than an answer. Returns whether the host took it on in time; a refusal is an error
    /// in its words.
    async fn told(&self, command: Command, body: &Value, what: &str) -> Result<bool> {
        let request = Control::Command { host: self.host.to_owned(), command };
        match self.lattice.request::<Ack>(&request, body).await {
            Ok(_) => Ok(true),
            Err(RequestError::Refused { error, .. }) => bail!("host {} refuses to {what}: {error}", self.host),
            Err(RequestError::TimedOut { .. }) => Ok(false),
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

fn of_reference(step: &Step, reference: &str, on_step: &mut (dyn FnMut(&Step) + Send)) {
    if step.reference == reference {
        on_step(step);
    }
}

/// Reads from an event how the start of an actor with this reference went.
fn actor_event(event: &Event, reference: &str) -> Told<String> {
    let is_meant = |member| event.text(member) == reference;
    match event.name() {
        "actor_scaled" | "actors_started" | "actor_started" if is_meant("image_ref") => {
            Told::Done(event.text("public_key").to_owned())
        }
        "actor_scale_failed" | "actors_start_failed" if is_meant("image_ref") => {
            Told::Failed(event.text("error").to_owned())
        }
        "actor_start_failed" if is_meant("actor_ref") => Told::Failed(event.text("error").to_owned()),
        _ => Told::Nothing,
    }
}

/// The error of a start whose outcome is not known.
fn unknown(reference: &str, host: &str) -> OutcomeUnknown {
    OutcomeUnknown(format!(
        "host {host} took the start of {reference} on, but nothing was heard of it within the time; it may still start. \
         `host get inventory {host}` tells whether it runs; --wait-ms gives it more time"
    ))
}

/// The id of an actor that runs with this reference, and how many calls it takes at a time under these annotations.
fn running(inventory: &Inventory, reference: &str, annotations: &Pairs) -> Option<(String, u64)> {
    let actor = inventory.actors.iter().find(|actor| actor.image_ref == reference)?;
    let now = instances(actor, |theirs| theirs == annotations);
    (now > 0).then(|| (actor.id.clone(), now))
}

/// The provider that runs with this reference under a link name.
pub fn serving(inventory: &Inventory, reference: &str, link_name: &str) -> Option<Serving> {
    let serves = |provider: &&InventoryProvider| provider.image_ref == reference && provider.link_name == link_name;
    let provider = inventory.providers.iter().find(serves)?;
    Some(Serving { id: provider.id.clone(), contract_id: provider.contract_id.clone() })
}

/// Older hosts refuse null where they expect a text.
fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(members) = &mut value {
        members.retain(|_, member| !member.is_null());
    }
    value
}

//! Waits for the outcome of a command.
//!
//! An event may be lost, come late, or never be sent because nothing changed; an inventory may show
//! an end but not a failure. So both are watched: events as they come, the inventory at growing
//! intervals, and the first that tells counts. Progress that hosts report on the way (stages,
//! bytes) is passed on meanwhile.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use async_nats::Subscriber;
use futures::StreamExt as _;
use tokio::time::{Instant, sleep_until};

use super::lattice::{Events, Lattice};
use lattice_base::backoff::Backoff;
use lattice_protocol::{
    control::types::{Inventory, InventoryActor, InventoryInstance, Pairs},
    events::{Event, Step},
};

/// Pauses between two looks at the inventory grow from the first to the last.
const LOOK_FIRST: Duration = Duration::from_millis(20);
const LOOK_LAST: Duration = Duration::from_secs(2);

/// The result of one look, or of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed<T> {
    /// It is done.
    Done(T),
    /// It failed, and why.
    Failed(String),
    /// Nothing yet.
    Nothing,
}

impl Observed<()> {
    pub fn done_if(is_done: bool) -> Self {
        if is_done { Self::Done(()) } else { Self::Nothing }
    }
}

/// Why an outcome is not the wanted one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// In the words of the host.
    #[error("{0}")]
    Failed(String),
    #[error("the time is over")]
    TimedOut,
}

/// Ears for one host, opened before something is asked of it.
pub struct Watch {
    lattice: Lattice,
    host: String,
    events: Events,
    steps: Subscriber,
}

impl Watch {
    /// Listens from now on, see [`Lattice::events`].
    pub async fn open(lattice: &Lattice, host: &str) -> Result<Self> {
        let steps = lattice.client.subscribe(lattice.subjects.progress()).await?;
        let events = lattice.events().await?;
        Ok(Self { lattice: lattice.clone(), host: host.to_owned(), events, steps })
    }

    /// Waits until an event or the inventory of the host tells the outcome, or the time is over.
    pub async fn wait<T>(
        mut self,
        until: Instant,
        of_event: impl FnMut(&Event) -> Observed<T>,
        of_inventory: impl FnMut(&Inventory) -> Observed<T>,
        on_step: impl FnMut(&Step),
    ) -> Result<T, WaitError> {
        self.listen(until, of_event, of_inventory, on_step).await
    }

    /// The same for a caller that may listen on when the time is over: nothing that comes in
    /// between is lost. Cancel safe.
    pub async fn listen<T>(
        &mut self,
        until: Instant,
        mut of_event: impl FnMut(&Event) -> Observed<T>,
        mut of_inventory: impl FnMut(&Inventory) -> Observed<T>,
        mut on_step: impl FnMut(&Step),
    ) -> Result<T, WaitError> {
        let mut backoff = Backoff::new(LOOK_FIRST, LOOK_LAST);
        let mut look_at = Instant::now() + backoff.next_pause();
        loop {
            let observed = tokio::select! {
                Some(received) = self.events.next() => match received.source == self.host {
                    true => of_event(&received.event),
                    false => Observed::Nothing,
                },
                Some(message) = self.steps.next() => {
                    if let Ok(step) = serde_json::from_slice::<Step>(&message.payload) && step.host_id == self.host {
                        on_step(&step);
                    }
                    Observed::Nothing
                }
                () = sleep_until(look_at.min(until)) => {
                    let observed = match self.lattice.inventory(&self.host).await {
                        Ok(inventory) => of_inventory(&inventory),
                        // Asked again: the host may be busy, or the way there cut for a moment.
                        Err(_) => Observed::Nothing,
                    };
                    look_at = Instant::now() + backoff.next_pause();
                    observed
                }
            };
            match observed {
                Observed::Done(done) => return Ok(done),
                Observed::Failed(why) => return Err(WaitError::Failed(why)),
                Observed::Nothing if Instant::now() >= until => return Err(WaitError::TimedOut),
                Observed::Nothing => {}
            }
        }
    }
}

/// How many calls an actor takes at a time on a host, over the sets of annotations that `counts`.
pub fn instances(actor: &InventoryActor, counts: impl Fn(&Pairs) -> bool) -> u64 {
    actor.instances.iter().filter(|instance| counts(&instance.annotations)).map(count).sum()
}

/// The sets of annotations of an actor on a host, each with the calls it takes at a time.
pub fn groups(actor: &InventoryActor) -> Vec<(Pairs, u32)> {
    let mut groups: BTreeMap<&Pairs, u64> = BTreeMap::new();
    for instance in &actor.instances {
        *groups.entry(&instance.annotations).or_default() += count(instance);
    }
    let bounded = |calls: u64| u32::try_from(calls).unwrap_or(u32::MAX);
    groups.into_iter().map(|(pairs, calls)| (pairs.clone(), bounded(calls))).collect()
}

/// A host of 2022 has one entry per instance and no count.
pub fn count(instance: &InventoryInstance) -> u64 {
    u64::from(instance.max_instances.max(u32::from(instance.max_concurrent)).max(1))
}

//! Waits for the outcome of a command.
//!
//! An event may be lost, come late, or never be sent because nothing changed; an inventory may show
//! an end but not a failure. So both are watched: events as they come, the inventory at growing
//! intervals, and the first that tells counts. Progress that hosts report on the way (stages,
//! bytes) is passed on meanwhile.

use std::time::Duration;

use anyhow::Result;
use async_nats::Subscriber;
use futures::StreamExt as _;
use tokio::time::{Instant, sleep_until};

use super::lattice::{Event, Events, Lattice};
use crate::{
    control::types::{Inventory, InventoryActor, InventoryInstance, Pairs, Step},
    lattice::connection::confirm,
};

/// Pauses between two looks at the inventory grow from the first to the last.
const LOOK_FIRST: Duration = Duration::from_millis(20);
const LOOK_LAST: Duration = Duration::from_secs(2);

/// The result of one look, or of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told<T> {
    /// It is done.
    Done(T),
    /// It failed, and why.
    Failed(String),
    /// Nothing yet.
    Nothing,
}

/// How waiting ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    Done(T),
    Failed(String),
    /// The time is over.
    Unknown,
}

/// Ears for one host, opened before something is asked of it.
pub struct Watch {
    lattice: Lattice,
    host: String,
    events: Events,
    steps: Subscriber,
}

impl Watch {
    /// Listens from now on.
    pub async fn open(lattice: &Lattice, host: &str) -> Result<Self> {
        let steps = lattice.client.subscribe(lattice.subjects.progress()).await?;
        let events = lattice.events().await?;
        confirm(&lattice.client).await?;
        Ok(Self { lattice: lattice.clone(), host: host.to_owned(), events, steps })
    }

    /// Waits until an event or the inventory of the host tells the outcome, or the time is over.
    pub async fn wait<T>(
        mut self,
        until: Instant,
        mut of_event: impl FnMut(&Event) -> Told<T>,
        mut of_inventory: impl FnMut(&Inventory) -> Told<T>,
        mut on_step: impl FnMut(&Step),
    ) -> Outcome<T> {
        let mut pause = LOOK_FIRST;
        let mut look_at = Instant::now() + pause;
        loop {
            let told = tokio::select! {
                Some(event) = self.events.next() => match event.source == self.host {
                    true => of_event(&event),
                    false => Told::Nothing,
                },
                Some(message) = self.steps.next() => {
                    if let Ok(step) = serde_json::from_slice::<Step>(&message.payload) && step.host_id == self.host {
                        on_step(&step);
                    }
                    Told::Nothing
                }
                () = sleep_until(look_at.min(until)) => {
                    pause = (pause * 2).min(LOOK_LAST);
                    let told = match self.lattice.inventory(&self.host).await {
                        Ok(inventory) => of_inventory(&inventory),
                        // Asked again: the host may be busy, or the way there cut for a moment.
                        Err(_) => Told::Nothing,
                    };
                    look_at = Instant::now() + pause;
                    told
                }
            };
            match told {
                Told::Done(done) => return Outcome::Done(done),
                Told::Failed(why) => return Outcome::Failed(why),
                Told::Nothing if Instant::now() >= until => return Outcome::Unknown,
                Told::Nothing => {}
            }
        }
    }
}

/// How many calls an actor takes at a time on a host, over the sets of annotations that `counts`.
pub fn instances(actor: &InventoryActor, counts: impl Fn(&Pairs) -> bool) -> u64 {
    actor.instances.iter().filter(|instance| counts(&instance.annotations)).map(count).sum()
}

/// A host of 2022 has one entry per instance and no count.
pub fn count(instance: &InventoryInstance) -> u64 {
    u64::from(instance.max_instances.max(u32::from(instance.max_concurrent)).max(1))
}

//! Asks a provider process how it is, tells the lattice, and sees that the process has every link (wasmbus protocol,
//! sections 9.5 and 9.6).
//!
//! A provider counts as unhealthy until its first answer. Until then it is asked often, because that answer also says that
//! it has subscribed: what changed among its links since its launch is sent right after. The same happens whenever it
//! comes back from being unhealthy, since it may have missed messages.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde::Deserialize;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::{
    delivery::{LinkSender, REPEATS},
    events::{Event, Publisher, event::ProviderContext},
    links::{LinkDefinition, Live},
};

/// How often a provider is asked once it has answered.
const INTERVAL: Duration = Duration::from_secs(30);
/// Pauses between questions to one that has not answered yet grow from the first to the last of these.
const BOOT_FIRST: Duration = Duration::from_millis(20);
const BOOT_LAST: Duration = Duration::from_secs(1);
/// After this time without an answer the log says so.
const BOOT_SLOW: Duration = Duration::from_secs(10);
/// An empty map, which every SDK takes for a health request.
const REQUEST: &[u8] = &[0x80];

/// The health checks of one run.
pub(super) struct Health {
    pub subject: String,
    pub about: ProviderContext,
    pub rpc: async_nats::Client,
    pub sender: LinkSender,
    pub links: Live,
    pub events: Publisher,
    pub timeout: Duration,
    pub given: Vec<Arc<LinkDefinition>>,
}

/// What a provider answers. Anything that is no such answer counts as well: old ones answer otherwise.
#[derive(Deserialize)]
struct Reply {
    healthy: bool,
    #[serde(default)]
    message: Option<String>,
}

impl Health {
    /// Asks until it is dropped.
    pub async fn run(mut self) {
        self.boot().await;
        self.events.publish(Event::HealthCheckPassed(self.about.clone()));
        let given = std::mem::take(&mut self.given);
        self.send_links(&given).await;
        let mut known: Vec<Arc<LinkDefinition>> = self.current();
        let mut healthy = true;
        let mut turn = tokio::time::interval_at(Instant::now() + INTERVAL, INTERVAL);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            turn.tick().await;
            let now = self.ask().await;
            let event = match (healthy, now) {
                (false, true) => Event::HealthCheckPassed,
                (true, false) => Event::HealthCheckFailed,
                _ => Event::HealthCheckStatus,
            };
            self.events.publish(event(self.about.clone()));
            if now {
                if !healthy {
                    info!("provider is healthy again");
                    self.send_links(&known).await;
                }
                known = self.current();
            }
            healthy = now;
        }
    }

    async fn boot(&self) {
        let began = Instant::now();
        let mut pause = BOOT_FIRST;
        let mut told = false;
        while !self.ask().await {
            if !told && began.elapsed() > BOOT_SLOW {
                told = true;
                warn!(subject = self.subject, "provider runs but does not answer health checks yet");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BOOT_LAST);
        }
        debug!(took_ms = began.elapsed().as_millis() as u64, "provider answers");
    }

    async fn ask(&self) -> bool {
        let request = async_nats::Request::new().payload(REQUEST.into()).timeout(Some(self.timeout));
        let reply = tokio::time::timeout(self.timeout * 2, self.rpc.send_request(self.subject.clone(), request)).await;
        match reply {
            Ok(Ok(message)) => match rmp_serde::from_slice::<Reply>(&message.payload) {
                Ok(Reply { healthy: false, message }) => {
                    warn!(message, "provider says that it is not healthy");
                    false
                }
                Ok(_) | Err(_) => true,
            },
            Ok(Err(error)) => {
                debug!(subject = self.subject, %error, "no answer to a health check");
                false
            }
            Err(_) => false,
        }
    }

    fn current(&self) -> Vec<Arc<LinkDefinition>> {
        let table = self.links.table();
        table.links_of(&self.about.public_key, &self.about.link_name).cloned().collect()
    }

    /// Brings a provider that knows `known` to what the lattice says now. Links it has are repeated, which it ignores.
    async fn send_links(&self, known: &[Arc<LinkDefinition>]) {
        let current = self.current();
        let by_actor: HashMap<&str, &Arc<LinkDefinition>> =
            current.iter().map(|link| (link.actor_id.as_str(), link)).collect();
        let outdated = known.iter().filter(|old| by_actor.get(old.actor_id.as_str()) != Some(old));
        let outdated: Vec<&Arc<LinkDefinition>> = outdated.collect();
        for old in &outdated {
            self.sender.delete(old).await;
        }
        for link in &current {
            self.sender.put(link).await;
        }
        if outdated.is_empty() {
            return;
        }
        // A put may overtake the delete it follows, and is then ignored: see `delivery`.
        for pause in REPEATS {
            tokio::time::sleep(pause).await;
            for link in self.current() {
                if outdated.iter().any(|old| old.actor_id == link.actor_id) {
                    self.sender.put(&link).await;
                }
            }
        }
    }
}

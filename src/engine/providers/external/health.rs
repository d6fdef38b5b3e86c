//! Asks a provider process how it is, tells the lattice, and sees that the process has every link
//! (wasmbus protocol, sections 9.5 and 9.6).
//!
//! A provider counts as unhealthy until its first answer. Until then it is asked often, because
//! that answer also says that it subscribes: what changed among its links since its launch is sent
//! soon after. The same happens at the first check after an outage, its own or that of the NATS
//! connection, since it may have missed messages.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tracing::{debug, info, warn};

use crate::{
    delivery::{LinkSender, RESEND_AFTER},
    events::Publisher,
    links::Live,
};
use lattice_base::backoff::Backoff;
use lattice_protocol::{
    clock,
    contracts::health::HealthResponse,
    events::{Event, event::ProviderContext},
    links::LinkDefinition,
};

/// How often a provider is asked once it has answered.
const INTERVAL: Duration = Duration::from_secs(30);
/// Pauses between questions to one that has not answered yet grow from the first to the last of
/// these.
const BOOT_FIRST: Duration = Duration::from_millis(20);
const BOOT_LAST: Duration = Duration::from_secs(1);
/// How long a provider that answers health checks may still take to subscribe to its links: SDKs
/// subscribe to each subject in a task of its own.
const SUBSCRIBES: Duration = Duration::from_millis(50);
/// After this time without an answer the log says so.
const BOOT_SLOW: Duration = Duration::from_secs(10);
/// An empty map, which every SDK takes for a health request.
const REQUEST: &[u8] = &[0x80];

/// How a provider answers health checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It has not answered yet.
    #[default]
    Unknown,
    Healthy,
    /// It says that it is not well, or nothing.
    Unhealthy(String),
}

/// The health checks of one run.
pub(super) struct HealthChecks {
    pub subject: String,
    pub about: ProviderContext,
    pub rpc: async_nats::Client,
    pub reconnects: watch::Receiver<u64>,
    pub sender: LinkSender,
    pub links: Live,
    pub events: Publisher,
    pub timeout: Duration,
    pub given: Vec<Arc<LinkDefinition>>,
    pub reported: watch::Sender<Health>,
}

/// The links that a provider is sent again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Resend {
    /// After an outage: all of them. It ignores what it has.
    All,
    /// New and deleted ones, once more, in case the provider alone was cut off.
    Changes,
}

impl HealthChecks {
    /// Asks until it is dropped.
    pub async fn run(mut self) {
        self.boot().await;
        self.events.publish(Event::HealthCheckPassed(self.about.clone()));
        let mut known = std::mem::take(&mut self.given);
        tokio::time::sleep(SUBSCRIBES).await;
        self.bring_up_to_date(&mut known, Resend::All).await;
        let mut healthy = true;
        let mut turn = tokio::time::interval_at(Instant::now() + INTERVAL, INTERVAL);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            turn.tick().await;
            let health = self.ask().await;
            let now = health == Health::Healthy;
            self.reported.send_replace(health);
            let event = match (healthy, now) {
                (false, true) => Event::HealthCheckPassed,
                (true, false) => Event::HealthCheckFailed,
                _ => Event::HealthCheckStatus,
            };
            self.events.publish(event(self.about.clone()));
            if now {
                // An error means that the connection is closed for good; then there is nobody to
                // send to.
                let came_back = self.reconnects.has_changed().unwrap_or(false);
                self.reconnects.mark_unchanged();
                if !healthy {
                    info!("provider is healthy again");
                }
                let resend = if !healthy || came_back { Resend::All } else { Resend::Changes };
                self.bring_up_to_date(&mut known, resend).await;
            }
            healthy = now;
        }
    }

    async fn boot(&self) {
        let began = Instant::now();
        let mut backoff = Backoff::new(BOOT_FIRST, BOOT_LAST);
        let mut told = false;
        loop {
            let health = self.ask().await;
            if health == Health::Healthy {
                self.reported.send_replace(health);
                break;
            }
            if began.elapsed() > BOOT_SLOW {
                if !told {
                    warn!(
                        subject = self.subject,
                        "provider runs but does not answer health checks yet"
                    );
                }
                told = true;
                self.reported.send_replace(health);
            }
            tokio::time::sleep(backoff.next_pause()).await;
        }
        debug!(took_ms = clock::millis(began.elapsed()), "provider answers");
    }

    /// Asks once; never returns [`Health::Unknown`].
    async fn ask(&self) -> Health {
        let request =
            async_nats::Request::new().payload(REQUEST.into()).timeout(Some(self.timeout));
        let reply = tokio::time::timeout(
            self.timeout * 2,
            self.rpc.send_request(self.subject.clone(), request),
        )
        .await;
        match reply {
            // Anything that is no such answer counts as healthy: old providers answer otherwise.
            Ok(Ok(message)) => match rmp_serde::from_slice::<HealthResponse>(&message.payload) {
                Ok(HealthResponse { healthy: false, message }) => {
                    warn!(message, "provider says that it is not healthy");
                    let why = message.as_deref().unwrap_or("without a reason");
                    Health::Unhealthy(format!("it says that it is not well: {why}"))
                }
                Ok(_) | Err(_) => Health::Healthy,
            },
            Ok(Err(error)) => {
                debug!(subject = self.subject, %error, "no answer to a health check");
                Health::Unhealthy(format!("it does not answer health checks: {error}"))
            }
            Err(_) => Health::Unhealthy("it does not answer health checks in time".into()),
        }
    }

    fn current(&self) -> Vec<Arc<LinkDefinition>> {
        let table = self.links.table();
        table.links_of(&self.about.public_key, &self.about.link_name).cloned().collect()
    }

    /// Brings a provider that was sent `known` to what the lattice says now.
    async fn bring_up_to_date(&self, known: &mut Vec<Arc<LinkDefinition>>, resend: Resend) {
        let current = self.current();
        let now: HashMap<&str, &Arc<LinkDefinition>> =
            current.iter().map(|link| (link.actor_id.as_str(), link)).collect();
        let before: HashMap<&str, &Arc<LinkDefinition>> =
            known.iter().map(|link| (link.actor_id.as_str(), link)).collect();
        let mut replaced = Vec::new();
        for old in known.iter() {
            match now.get(old.actor_id.as_str()) {
                Some(link) if *link == old => {}
                Some(_) if resend == Resend::Changes => {}
                Some(link) => {
                    self.sender.delete(old).await;
                    replaced.push(Arc::clone(link));
                }
                None => self.sender.delete(old).await,
            }
        }
        if !replaced.is_empty() {
            // Its answer says that the deletes have come off its connection: a put that it sees
            // while it handles one of them is lost on it, see `delivery`.
            self.ask().await;
        }
        for link in &current {
            if resend == Resend::All || !before.contains_key(link.actor_id.as_str()) {
                self.put(link).await;
            }
        }
        if resend == Resend::All {
            // A put may overtake the delete it follows, and is then ignored: see `delivery`. One
            // may also come before the provider listens, so in the end all are sent once more.
            for pause in RESEND_AFTER {
                tokio::time::sleep(pause).await;
                for link in &replaced {
                    self.put(link).await;
                }
            }
            for link in &current {
                self.put(link).await;
            }
        }
        *known = current;
    }

    /// Sends a link, unless it changed or went since it was looked up: then its successor is on its
    /// way already.
    async fn put(&self, link: &Arc<LinkDefinition>) {
        if self.links.table().stored_link(&link.id()).is_some_and(|stored| stored.link == *link) {
            self.sender.put(link).await;
        }
    }
}

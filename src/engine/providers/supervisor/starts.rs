//! Starts whose provider is not known yet: taken on or refused, prepared, or called off.
//!
//! Until its reference is fetched a start has a number of its own. When it is prepared it becomes
//! an entry, unless such a provider runs by then.

use std::sync::Arc;

use tokio::{sync::watch, task::AbortHandle, time::Instant};
use tracing::{Instrument, info_span};
use uuid::Uuid;

use super::{
    Done, STOPPED_EARLY, Supervisor, caught,
    command::{EndSender, NotStarted, ProviderError, ProviderView, Start, Stop},
    entry::{Entry, Key},
    prepare::{PreparedProvider, prepare},
};
use crate::{
    control::state::bytes_of_providers,
    providers::{
        builtin,
        external::health::Health,
        plan::{Input, Lifecycle, Phase},
    },
};
use lattice_protocol::{errors::chain, events::Event, identity::keys::ProviderId};

/// Starts that may be under way.
const STARTS_MAX: usize = 256;
/// The providers of a host may fill one of so many equal parts of the NATS message with its
/// inventory: the host's answer has to fit into one message.
const INVENTORY_PART: usize = 4;
/// Why nothing further is started.
const FULL: &str = "the host runs as many providers as its inventory can tell in one message; start it on another host, or \
                    raise max_payload in the NATS server's configuration";
/// Why a start ends with the host.
const HOST_STOPS: &str = "the host is stopping";

/// A start whose provider is not known yet.
pub(super) struct Preparing {
    start: Start,
    end: EndSender,
    work: AbortHandle,
}

impl Supervisor {
    /// Takes a start on, or refuses it at once with the reason.
    pub(super) fn begin(&mut self, start: Start, end: EndSender) -> Result<(), ProviderError> {
        let refused = self.refuse(&start);
        if let Err(error) = &refused {
            // The end of a start that is under way is told when it comes.
            if !matches!(error, ProviderError::BeingStarted { .. }) {
                self.start_failed(&start.reference, &start.link_name, &error.to_string());
            }
            return refused;
        }
        if let Some(key) = self.known_key(&start) {
            self.advance(&key, Input::Start);
        }
        let number = Uuid::new_v4();
        let (parts, prepares) = (Arc::clone(&self.parts), Arc::clone(&self.prepares));
        let span =
            info_span!("provider", reference = %start.reference, link_name = %start.link_name);
        let wanted = start.clone();
        let work = self.children.spawn(
            async move {
                // Never closed, so there is always a permit to wait for.
                let _permit = prepares.acquire_owned().await;
                Done::Prepared { number, result: caught(prepare(&parts, &start)).await }
            }
            .instrument(span),
        );
        self.preparing.insert(number, Preparing { start: wanted, end, work });
        Ok(())
    }

    fn refuse(&self, start: &Start) -> Result<(), ProviderError> {
        if self.closing || self.preparing.len() >= STARTS_MAX {
            return Err(ProviderError::Unavailable);
        }
        match builtin::find(&start.reference) {
            Some(Ok(_)) => {}
            Some(Err(unknown)) => return Err(unknown.into()),
            None if self.parts.allow_external => {}
            None => return Err(ProviderError::External { provider: start.reference.clone() }),
        }
        let key = self.known_key(start);
        let entry = key.and_then(|key| self.entries.get(&key));
        let is_preparing = self.preparing.values().any(|Preparing { start: other, .. }| {
            other.reference == start.reference && other.link_name == start.link_name
        });
        let is_launching = entry.is_some_and(|entry| {
            entry.life.phase == Phase::Launching && entry.start.reference == start.reference
        });
        // Hosts that keep applications know by this text that it is under way.
        if is_preparing || is_launching {
            return Err(ProviderError::BeingStarted {
                provider: start.reference.clone(),
                link_name: start.link_name.to_string(),
            });
        }
        if entry.is_some_and(|entry| entry.life.phase != Phase::Pausing) {
            return Err(ProviderError::AlreadyRunning {
                provider: start.reference.clone(),
                link_name: start.link_name.to_string(),
            });
        }
        Ok(())
    }

    /// Which provider a reference names, as far as that is known without fetching it.
    fn known_key(&self, start: &Start) -> Option<Key> {
        let link_name = start.link_name.clone();
        let here = self.entries.iter().find(|(key, entry)| {
            entry.start.reference == start.reference && key.link_name == link_name
        });
        if let Some((key, _)) = here {
            return Some(key.clone());
        }
        let text: Arc<str> = match builtin::find(&start.reference) {
            Some(Ok(spec)) => spec.known.public_key.into(),
            _ => Arc::clone(self.parts.context.links.table().public_key_of(&start.reference)?),
        };
        Some(Key { id: ProviderId::parse(&text).ok()?, link_name })
    }

    pub(super) fn prepared(&mut self, number: Uuid, result: anyhow::Result<Arc<PreparedProvider>>) {
        // It is gone if it was stopped meanwhile.
        let Some(Preparing { start, end, .. }) = self.preparing.remove(&number) else { return };
        if self.closing {
            // The end stays out: it is not the start that failed.
            return self.start_failed(&start.reference, &start.link_name, HOST_STOPS);
        }
        let prepared = match result {
            Ok(prepared) => prepared,
            Err(error) => return self.not_started(&start, end, None, chain(&*error)),
        };
        let key = Key { id: prepared.id().clone(), link_name: start.link_name.clone() };
        self.advance(&key, Input::Start);
        if self.entries.contains_key(&key) {
            let error = ProviderError::AlreadyRunning {
                provider: key.id.to_string(),
                link_name: key.link_name.to_string(),
            };
            return self.not_started(&start, end, Some(key.id), error.to_string());
        }
        if !self.has_room() {
            return self.not_started(&start, end, Some(key.id), FULL.to_owned());
        }
        let entry = Entry {
            start,
            end: Some(end),
            prepared,
            life: Lifecycle::new(Instant::now()),
            instance: Uuid::nil(),
            stop: watch::Sender::new(None),
            health: watch::Sender::new(Health::Unknown),
            local: None,
            is_out_of_term: false,
        };
        self.entries.insert(key.clone(), entry);
        self.launch(&key);
    }

    /// Tells that a start has failed.
    fn not_started(&self, start: &Start, end: EndSender, id: Option<ProviderId>, cause: String) {
        self.start_failed(&start.reference, &start.link_name, &cause);
        let _ = end.send(Err(NotStarted { id, cause }));
    }

    /// Whether the inventory has room for one more provider, those that are about to run included.
    fn has_room(&self) -> bool {
        let views: Vec<ProviderView> =
            self.entries.iter().map(|(key, entry)| entry.view(key)).collect();
        let used = bytes_of_providers(&views);
        used < self.parts.context.rpc.client.server_info().max_payload / INVENTORY_PART
    }

    /// Calls off the starts that a stop is about; returns whether there were any.
    pub(super) fn call_off(&mut self, stop: &Stop) -> bool {
        let preparing = self.preparing.iter();
        let meant: Vec<Uuid> = preparing
            .filter(|(_, preparing)| self.is_meant(&preparing.start, stop))
            .map(|(number, _)| *number)
            .collect();
        for number in &meant {
            let Some(Preparing { start, end, work }) = self.preparing.remove(number) else {
                continue;
            };
            work.abort();
            self.parts.context.events.publish(Event::ProviderStartFailed {
                provider_ref: start.reference,
                link_name: start.link_name.to_string(),
                error: STOPPED_EARLY.into(),
            });
            let _ = end.send(Err(NotStarted { id: None, cause: STOPPED_EARLY.into() }));
        }
        !meant.is_empty()
    }

    /// Whether a stop is about a start, by the reference or by the key that this is known to lead
    /// to.
    fn is_meant(&self, start: &Start, stop: &Stop) -> bool {
        start.link_name == stop.link_name
            && stop.selects(start)
            && (start.reference == stop.provider
                || self.known_key(start).is_some_and(|key| key.id.as_str() == stop.provider))
    }

    /// Calls off all starts, because the host stops.
    pub(super) fn call_off_all(&mut self) {
        for Preparing { start, work, .. } in std::mem::take(&mut self.preparing).into_values() {
            work.abort();
            self.start_failed(&start.reference, &start.link_name, HOST_STOPS);
        }
    }
}

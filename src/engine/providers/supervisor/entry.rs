//! One provider of this host as the supervisor keeps it, and how it looks in the inventory, in its
//! condition and in events.

use std::sync::Arc;

use tokio::{sync::watch, time::Instant};
use uuid::Uuid;

use super::{
    command::{Condition, EndSender, ProviderView, Start},
    prepare::PreparedProvider,
};
use crate::{
    providers::{external::health::Health, plan::Lifecycle},
    router::Local,
};
use lattice_protocol::{
    events::event::ProviderContext,
    identity::keys::{HostId, LinkName, ProviderId},
};

/// The key of a provider on one host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub id: ProviderId,
    pub link_name: LinkName,
}

/// A provider that was asked for and not stopped: it is launched, runs, stops, or pauses.
pub(super) struct Entry {
    pub start: Start,
    /// Where the end of its first start goes; none from then on.
    pub end: Option<EndSender>,
    pub prepared: Arc<PreparedProvider>,
    pub life: Lifecycle,
    /// The run; a restart has another.
    pub instance: Uuid,
    /// Tells the run to end, and by when.
    pub stop: watch::Sender<Option<Instant>>,
    pub health: watch::Sender<Health>,
    /// The in-process form, while it runs.
    pub local: Option<Arc<dyn Local>>,
    /// Its claims do not count now, and that was told.
    pub is_out_of_term: bool,
}

impl Entry {
    /// Whether this is a provider by its public key or by the reference it was started with.
    pub fn is_of(&self, key: &Key, provider: &str) -> bool {
        key.id.as_str() == provider || self.start.reference == provider
    }

    pub fn condition(&self, key: &Key) -> Condition {
        Condition {
            id: key.id.clone(),
            link_name: key.link_name.clone(),
            reference: self.start.reference.clone(),
            name: self.prepared.claims.name.clone().unwrap_or_default(),
            phase: self.life.phase,
            crashes: self.life.crashes,
            restarts: self.life.restarts,
            last_end: self.life.last_end.clone(),
            expires: self.prepared.claims.expires,
            since: self.life.since,
            health: self.health.subscribe(),
        }
    }

    /// Returns the provider as readers see it.
    pub fn view(&self, key: &Key) -> ProviderView {
        let claims = &self.prepared.claims;
        ProviderView {
            id: key.id.clone(),
            link_name: key.link_name.clone(),
            contract_id: claims.contract_id.clone(),
            reference: self.start.reference.clone(),
            name: claims.name.clone().unwrap_or_default(),
            revision: i32::try_from(claims.effective_revision()).unwrap_or(i32::MAX),
            annotations: self.start.annotations.clone(),
            instance_id: self.instance.to_string(),
            is_configured: self.start.configuration.is_some(),
        }
    }

    /// Returns the provider as events tell of it.
    pub fn about(&self, key: &Key, host_id: &HostId) -> ProviderContext {
        ProviderContext {
            host_id: host_id.to_string(),
            public_key: key.id.to_string(),
            link_name: key.link_name.to_string(),
            contract_id: self.prepared.claims.contract_id.clone(),
            image_ref: self.start.reference.clone(),
            annotations: self.start.annotations.clone(),
            instance_id: self.instance.to_string(),
        }
    }
}

//! The hosts of one moment, and what was counted from them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, OnceLock},
};

use serde::Serialize;
use utoipa::ToSchema;

use lattice_client::{
    lost::{Missing, missing},
    watch::instances,
};
use lattice_protocol::control::{
    probe::{health::Health, lost::LostHost},
    types::{CodeInfo, Inventory, Pairs},
};

/// How a host is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    #[default]
    Ok,
    /// A host of earlier years whose heartbeats are missing.
    Silent,
    /// It has said that it stops, and finishes its calls.
    Stopping,
    /// It vanished without a goodbye.
    Lost,
}

/// A host, and all that is known of it.
#[derive(Clone, Debug, Default)]
pub struct HostView {
    pub id: Arc<str>,
    pub name: String,
    pub state: State,
    pub labels: Pairs,
    pub version: String,
    /// When it started, in milliseconds since 1970.
    pub started_ms: Option<u64>,
    pub heard_ms: u64,
    pub lost_ms: Option<u64>,
    /// It is like this one, and answers what hosts of earlier years do not know.
    pub is_ours: bool,
    pub inventory: Arc<Inventory>,
    /// Its last report about itself, if it is of this make.
    pub health: Option<Arc<Health>>,
    /// Results of the health checks of its providers, by public key and link name.
    pub checks: BTreeMap<(String, String), bool>,
}

impl HostView {
    /// The host as one that was lost.
    fn remembered(&self) -> LostHost {
        let mut inventory = Inventory::clone(&self.inventory);
        if inventory.friendly_name.is_empty() {
            inventory.friendly_name.clone_from(&self.name);
        }
        let lost_ms = self.lost_ms.unwrap_or(self.heard_ms);
        LostHost { id: self.id.to_string(), lost_ms, inventory, ..LostHost::default() }
    }

    /// Calls its actors take at a time, all together.
    pub fn replicas(&self) -> u64 {
        self.inventory.actors.iter().map(|actor| instances(actor, |_| true)).sum()
    }

    /// How a provider of it answers health checks.
    pub fn provider_health(&self, id: &str, link_name: &str) -> ProviderState {
        let told = self.checks.get(&(id.to_owned(), link_name.to_owned())).copied();
        match told.or_else(|| self.health.as_ref()?.provider(id, link_name)?.is_healthy) {
            Some(true) => ProviderState::Healthy,
            Some(false) => ProviderState::Unhealthy,
            None => ProviderState::Unknown,
        }
    }
}

/// How a provider answers health checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProviderState {
    Healthy,
    Unhealthy,
    /// It has not been asked yet, or nobody told.
    #[default]
    Unknown,
}

/// The hosts of one moment.
#[derive(Default)]
pub struct Snapshot {
    /// By id.
    pub hosts: BTreeMap<Arc<str>, Arc<HostView>>,
    /// Counted when it is first wanted.
    index: OnceLock<Index>,
}

/// The actors and providers that run in the lattice, on any host.
#[derive(Default)]
pub struct Index {
    pub actors: BTreeMap<String, ActorSum>,
    /// By public key and link name.
    pub providers: BTreeMap<(String, String), ProviderSum>,
    /// All that ran on lost hosts only.
    pub missing: Vec<Missing>,
    /// The link names of the providers, by public key.
    link_names: HashMap<String, Vec<String>>,
}

/// An actor on all hosts.
#[derive(Default)]
pub struct ActorSum {
    pub name: String,
    pub references: BTreeSet<String>,
    pub replicas: u64,
    /// As the first host says that tells it.
    pub code: Option<CodeInfo>,
    pub hosts: Vec<Arc<HostView>>,
}

/// A provider under a link name, on all hosts.
#[derive(Default)]
pub struct ProviderSum {
    pub name: String,
    pub contract_id: String,
    pub references: BTreeSet<String>,
    pub hosts: Vec<Arc<HostView>>,
}

impl Snapshot {
    pub fn new(hosts: BTreeMap<Arc<str>, Arc<HostView>>) -> Self {
        Self { hosts, index: OnceLock::new() }
    }

    pub fn host(&self, id: &str) -> Option<&Arc<HostView>> {
        self.hosts.get(id)
    }

    /// The name of a host, or what is left of its id.
    pub fn host_name(&self, id: &str) -> String {
        self.host(id).map_or_else(|| id.chars().take(8).collect(), |host| host.name.clone())
    }

    /// Hosts that are not lost.
    pub fn present(&self) -> impl Iterator<Item = &Arc<HostView>> {
        self.hosts.values().filter(|host| host.state != State::Lost)
    }

    pub fn index(&self) -> &Index {
        self.index.get_or_init(|| Index::of(self))
    }
}

impl Index {
    /// Leaves out the actors and providers of lost hosts: they do not run.
    fn of(snapshot: &Snapshot) -> Self {
        let mut index = Self::default();
        for host in snapshot.present() {
            for actor in &host.inventory.actors {
                let sum = index.actors.entry(actor.id.clone()).or_default();
                if sum.name.is_empty() {
                    sum.name.clone_from(&actor.name);
                }
                if sum.code.is_none() {
                    sum.code.clone_from(&actor.code);
                }
                sum.references.insert(actor.image_ref.clone());
                sum.replicas += instances(actor, |_| true);
                sum.hosts.push(Arc::clone(host));
            }
            for provider in &host.inventory.providers {
                let key = (provider.id.clone(), provider.link_name.clone());
                let sum = index.providers.entry(key).or_default();
                if sum.name.is_empty() {
                    sum.name.clone_from(&provider.name);
                }
                if sum.contract_id.is_empty() {
                    sum.contract_id.clone_from(&provider.contract_id);
                }
                sum.references.insert(provider.image_ref.clone());
                sum.hosts.push(Arc::clone(host));
            }
        }
        for (id, link_name) in index.providers.keys() {
            index.link_names.entry(id.clone()).or_default().push(link_name.clone());
        }
        let lost = snapshot.hosts.values().filter(|host| host.state == State::Lost);
        let lost: Vec<LostHost> = lost.map(|host| host.remembered()).collect();
        if !lost.is_empty() {
            index.missing = missing(&lost, snapshot.present().map(|host| &*host.inventory));
        }
        index
    }

    /// Whether a provider runs under a link name.
    pub fn runs(&self, id: &str, link_name: &str) -> bool {
        self.link_names.get(id).is_some_and(|names| names.iter().any(|name| name == link_name))
    }

    /// Whether a provider runs under any link name.
    pub fn runs_provider(&self, id: &str) -> bool {
        self.link_names.contains_key(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::control::types::{InventoryActor, InventoryInstance, InventoryProvider};

    fn host(id: &str, state: State, actors: &[(&str, u32)]) -> Arc<HostView> {
        let actor = |(id, max): &(&str, u32)| InventoryActor {
            id: (*id).into(),
            name: format!("name of {id}"),
            image_ref: format!("{id}:1"),
            instances: vec![InventoryInstance {
                max_instances: *max,
                ..InventoryInstance::default()
            }],
            ..InventoryActor::default()
        };
        let provider = InventoryProvider {
            id: "VA".into(),
            link_name: "default".into(),
            ..InventoryProvider::default()
        };
        let inventory = Inventory {
            actors: actors.iter().map(actor).collect(),
            providers: vec![provider],
            ..Inventory::default()
        };
        Arc::new(HostView {
            id: id.into(),
            state,
            inventory: Arc::new(inventory),
            ..HostView::default()
        })
    }

    #[test]
    fn the_replicas_of_a_host_are_those_of_its_inventory() {
        let mut view = HostView::clone(&host("N1", State::Ok, &[("MA", 2), ("MB", 1)]));
        assert_eq!(view.replicas(), 3);
        // As what others remember of it replaces it.
        view.state = State::Lost;
        view.inventory = Arc::clone(&host("N1", State::Lost, &[("MA", 7)]).inventory);
        assert_eq!(view.replicas(), 7);
        assert_eq!(HostView::default().replicas(), 0);
    }

    #[test]
    fn what_runs_is_added_up_over_the_hosts_that_are_there() {
        let hosts = [
            host("N1", State::Ok, &[("MA", 2), ("MB", 1)]),
            host("N2", State::Silent, &[("MA", 3)]),
            host("N3", State::Lost, &[("MA", 50), ("MC", 1)]),
        ];
        let snapshot =
            Snapshot::new(hosts.into_iter().map(|host| (Arc::clone(&host.id), host)).collect());
        let index = snapshot.index();
        let actors: Vec<_> =
            index.actors.iter().map(|(id, sum)| (&**id, sum.replicas, sum.hosts.len())).collect();
        assert_eq!(actors, [("MA", 5, 2), ("MB", 1, 1)]);
        assert_eq!(index.providers[&("VA".to_owned(), "default".to_owned())].hosts.len(), 2);
        assert!(
            index.runs_provider("VA") && !index.runs_provider("V") && !index.runs_provider("VB")
        );
        assert!(
            index.runs("VA", "default") && !index.runs("VA", "b") && !index.runs("V", "default")
        );
    }
}

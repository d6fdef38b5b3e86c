//! Sees what runs in the lattice, as long as somebody wants to know.
//!
//! Events say which host changed, and the host is asked for its inventory: that is the truth, an
//! event only the reason to look. Hosts of this make that fall silent are taken out at once, by
//! what the own host hears of them; those of earlier years when no heartbeat came for
//! [`SILENT_AFTER`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream};
use tokio::time::Instant;
use tracing::debug;

use crate::{
    plan::{ActorGroup, HostView, Observed, ProviderRun, Trial, TrialSeen},
    surroundings::{Neighbours, Surroundings},
};
use lattice_client::lattice::{Events, Lattice};
use lattice_protocol::{
    applications::{ownership, rollout::Compared},
    control::types::Inventory,
    events::{Event, Received},
    links::LinkDefinition,
};

/// Two heartbeats of hosts of earlier years, and a little more.
const SILENT_AFTER: Duration = Duration::from_secs(75);
/// How often every host is looked at anew, for what no event told.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How soon a host that did not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long hosts that come are waited for after the first: a beat of theirs, and a little more.
const ARRIVAL: Duration = Duration::from_millis(1500);
/// Hosts that are asked at a time.
const ASKED_MAX: usize = 64;
/// Hosts that are kept; more of them say the same id again and again, or are none.
const HOSTS_MAX: usize = 16 * 1024;

/// A failure that an event told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A start of an image on a host.
    Start { host: String, image: String, error: String },
    /// A live update of an actor on a host, by its public key.
    Update { host: String, key: String, error: String },
}

/// Follows the lattice.
pub struct Observer {
    lattice: Lattice,
    surroundings: Arc<dyn Surroundings>,
    events: Events,
    hosts: BTreeMap<String, Host>,
    /// When a host was last missed that had not said that it stops.
    missed: Option<Instant>,
    /// When the first of the hosts came that are not waited for yet.
    arrived: Option<Instant>,
}

#[derive(Debug)]
struct Host {
    view: Option<HostView>,
    /// The calls of both revisions of actors that have two.
    compared: Vec<OfTrial>,
    /// When it is to be asked next.
    ask_at: Instant,
    heard: Instant,
}

/// The calls of both revisions of an actor on one host.
#[derive(Debug)]
struct OfTrial {
    /// The newer image, and its share of the calls in percent.
    image: String,
    share: u8,
    compared: Compared,
}

impl Host {
    fn new(now: Instant) -> Self {
        Self { view: None, compared: Vec::new(), ask_at: now, heard: now }
    }
}

impl Observer {
    /// Begins to follow: hears events, and finds the hosts that are there.
    pub async fn start(
        lattice: Lattice,
        surroundings: Arc<dyn Surroundings>,
    ) -> anyhow::Result<Self> {
        let events = lattice.events().await?;
        let (hosts, missed, arrived) = (BTreeMap::new(), None, None);
        let mut observer = Self { lattice, surroundings, events, hosts, missed, arrived };
        let now = Instant::now();
        let answered = observer.lattice.hosts().await?.into_iter().map(|host| host.id);
        let live = observer.surroundings.neighbours().live;
        let me = observer.surroundings.host_id().to_owned();
        observer.hosts = answered.chain(live).chain([me]).map(|id| (id, Host::new(now))).collect();
        Ok(observer)
    }

    /// Returns the next event; `None` when the connection is gone for good. Cancel safe.
    pub async fn next_event(&mut self) -> Option<Received> {
        self.events.next().await
    }

    /// Takes an event into account; a failure in it is returned.
    pub fn on_event(&mut self, received: &Received, now: Instant) -> Option<Trouble> {
        let (host, event) = (&received.source, &received.event);
        if let Event::HostStopped { .. } = event {
            self.hosts.remove(host);
            return None;
        }
        if host.starts_with('N') && self.hosts.len() < HOSTS_MAX {
            let known = self.welcome(host, now);
            known.heard = now;
            if changes_inventory(event) {
                known.ask_at = now;
            }
        }
        trouble(host, event)
    }

    /// Asks the hosts whose turn it is; returns whether something changed.
    pub async fn refresh(&mut self) -> bool {
        let now = Instant::now();
        let mut is_changed = self.keep_those_there(now);
        let due: Vec<String> = self
            .hosts
            .iter()
            .filter(|(_, host)| host.ask_at <= now)
            .map(|(id, _)| id.clone())
            .collect();
        let lattice = &self.lattice;
        let asked = stream::iter(due).map(|id| async move {
            let inventory = lattice.inventory(&id).await;
            (id, inventory)
        });
        let answers: Vec<_> = asked.buffer_unordered(ASKED_MAX).collect().await;
        for (id, answer) in answers {
            let Some(host) = self.hosts.get_mut(&id) else { continue };
            match answer {
                Ok(inventory) => {
                    let view = Some(view_of(&inventory));
                    is_changed |= host.view != view;
                    host.view = view;
                    host.compared = compared_of(&inventory);
                    host.ask_at = now + LOOK_AGAIN;
                }
                // Its last inventory stands until it answers, or is given up.
                Err(error) => {
                    debug!(host = id, %error, "a host does not tell what it runs");
                    host.ask_at = Instant::now() + ASK_AGAIN;
                }
            }
        }
        is_changed
    }

    /// Drops hosts that are gone, and takes in those that came; whether something changed.
    fn keep_those_there(&mut self, now: Instant) -> bool {
        let Neighbours { live, lost } = self.surroundings.neighbours();
        let me = self.surroundings.host_id().to_owned();
        let before = self.hosts.len();
        self.hosts.retain(|id, host| {
            *id == me
                || live.contains(id)
                || (!lost.contains(id) && now - host.heard < SILENT_AFTER)
        });
        let is_missing = self.hosts.len() < before;
        if is_missing {
            self.missed = Some(now);
        }
        for id in live.iter().chain([&me]) {
            self.welcome(id, now);
        }
        is_missing
    }

    /// Returns a host, which may be a new one: its inventory is asked for then.
    fn welcome(&mut self, id: &str, now: Instant) -> &mut Host {
        if !self.hosts.contains_key(id) {
            self.arrived.get_or_insert(now);
        }
        self.hosts.entry(id.to_owned()).or_insert_with(|| Host::new(now))
    }

    /// Whether hosts came a moment ago, so that others may be about to: after a cut those of the
    /// other side come one by one, and what runs on the last of them must not be started on the
    /// first.
    pub fn is_arriving(&mut self) -> bool {
        let is_arriving = self.arrived.is_some_and(|arrived| arrived.elapsed() < ARRIVAL);
        if !is_arriving {
            self.arrived = None;
        }
        is_arriving
    }

    /// Returns when a host was last missed that had not said that it stops.
    pub fn missed(&self) -> Option<Instant> {
        self.missed
    }

    /// Asks a host again at the next refresh.
    pub fn look_again(&mut self, host: &str) {
        if let Some(host) = self.hosts.get_mut(host) {
            host.ask_at = Instant::now();
        }
    }

    /// Asks all hosts again at the next refresh.
    pub fn look_at_all(&mut self) {
        let now = Instant::now();
        self.hosts.values_mut().for_each(|host| host.ask_at = now);
    }

    /// Asks the hosts that run two revisions of an actor again at the next refresh.
    pub fn look_at_trials(&mut self) {
        let now = Instant::now();
        let trying = self.hosts.values_mut().filter(|host| !host.compared.is_empty());
        trying.for_each(|host| host.ask_at = now);
    }

    /// Returns the calls of both revisions in these trials, by the newer image, over all hosts that
    /// give it just this share. An image that no host runs so has none.
    pub fn compared(&self, trials: &[Trial]) -> BTreeMap<String, Compared> {
        let mut sums: BTreeMap<String, Compared> = BTreeMap::new();
        for OfTrial { image, share, compared } in
            self.hosts.values().flat_map(|host| &host.compared)
        {
            if trials.iter().any(|trial| trial.image == *image && trial.percent == *share) {
                sums.entry(image.clone()).or_default().add(&compared.stable, &compared.newer);
            }
        }
        sums
    }

    /// Returns the applications of which something is seen to run.
    pub fn owners(&self) -> BTreeSet<&str> {
        let views = || self.hosts.values().filter_map(|host| host.view.as_ref());
        let actors = views().flat_map(|view| &view.actors).map(|group| &group.annotations);
        let providers = views().flat_map(|view| &view.providers).map(|run| &run.annotations);
        actors.chain(providers).filter_map(ownership::owner).collect()
    }

    /// Whether every host that is there was asked and has answered once.
    pub fn is_complete(&self) -> bool {
        self.hosts.values().all(|host| host.view.is_some())
    }

    /// Returns the lattice as it was last seen, as far as it is of use for these images: what they
    /// led to is known from the own host's table when they do not run. Of the links those are told
    /// of what the images led to, and of `actors`. `None` as long as there is no table.
    pub fn observed(
        &self,
        images: &BTreeSet<String>,
        actors: &BTreeSet<String>,
    ) -> Option<Observed> {
        let table = self.surroundings.table()?;
        let mut observed = Observed::default();
        for image in images {
            if let Some(key) = table.public_key_of(image) {
                observed.keys.insert(image.clone(), key.to_string());
            }
        }
        for (id, host) in &self.hosts {
            let Some(view) = host.view.clone() else { continue };
            let actors = view.actors.iter().map(|group| (&group.image, &group.key));
            let providers = view.providers.iter().map(|run| (&run.image, &run.key));
            for (image, key) in actors.chain(providers) {
                observed.keys.insert(image.clone(), key.clone());
            }
            let contracts = view.providers.iter().map(|run| (&run.key, &run.contract));
            observed.contracts.extend(contracts.map(|(key, of)| (key.clone(), of.clone())));
            observed.hosts.insert(id.clone(), view);
        }
        for key in observed.keys.values() {
            if let Some(claims) = table.claims(key).filter(|claims| claims.is_provider()) {
                observed.contracts.insert(key.clone(), claims.contract_id.clone());
            }
        }
        let known: BTreeSet<&String> = observed.keys.values().chain(actors).collect();
        let links = table.links().filter(|link| known.contains(&link.actor_id));
        observed.links = links.map(|link| LinkDefinition::clone(link)).collect();
        Some(observed)
    }
}

/// Whether the inventory of the host is another one after the event.
fn changes_inventory(event: &Event) -> bool {
    matches!(
        event,
        Event::HostStarted { .. }
            | Event::HostHeartbeat(_)
            | Event::ActorsStarted { .. }
            | Event::ActorsStopped { .. }
            | Event::ActorScaled { .. }
            | Event::ActorStarted { .. }
            | Event::ActorStopped { .. }
            | Event::ActorUpdated { .. }
            | Event::ProviderStarted { .. }
            | Event::ProviderStopped { .. }
    )
}

fn trouble(host: &str, event: &Event) -> Option<Trouble> {
    let start = |image: &String, error: &String| Trouble::Start {
        host: host.to_owned(),
        image: image.clone(),
        error: error.clone(),
    };
    match event {
        Event::ActorsStartFailed { image_ref, error, .. }
        | Event::ActorScaleFailed { image_ref, error, .. } => Some(start(image_ref, error)),
        Event::ActorStartFailed { actor_ref, error } => Some(start(actor_ref, error)),
        Event::ProviderStartFailed { provider_ref, error, .. } => Some(start(provider_ref, error)),
        Event::ActorUpdateFailed { public_key, reason, .. } => Some(Trouble::Update {
            host: host.to_owned(),
            key: public_key.clone(),
            error: reason.clone(),
        }),
        _ => None,
    }
}

/// Returns what a host runs, of its inventory. Hosts of earlier years have one entry per instance,
/// and a count in one of two members.
fn view_of(inventory: &Inventory) -> HostView {
    let mut actors: Vec<ActorGroup> = Vec::new();
    for actor in &inventory.actors {
        for instance in &actor.instances {
            let count = instance.max_instances.max(u32::from(instance.max_concurrent)).max(1);
            let known = actors
                .iter_mut()
                .find(|group| group.key == actor.id && group.annotations == instance.annotations);
            match known {
                Some(group) => group.count = group.count.saturating_add(count),
                None => actors.push(ActorGroup {
                    key: actor.id.clone(),
                    // Of two revisions the groups are those of the one before.
                    image: match &actor.trial {
                        Some(trial) => trial.stable_ref.clone(),
                        None => actor.image_ref.clone(),
                    },
                    annotations: instance.annotations.clone(),
                    count,
                }),
            }
        }
    }
    let providers = inventory.providers.iter().map(|provider| ProviderRun {
        key: provider.id.clone(),
        image: provider.image_ref.clone(),
        contract: provider.contract_id.clone(),
        link_name: provider.link_name.clone(),
        annotations: provider.annotations.clone(),
    });
    let trials = inventory.actors.iter().filter_map(|actor| {
        let share = actor.trial.as_ref()?.share;
        Some((actor.id.clone(), TrialSeen { image: actor.image_ref.clone(), share }))
    });
    HostView {
        name: inventory.friendly_name.clone(),
        labels: inventory.labels.clone(),
        trials: trials.collect(),
        actors,
        providers: providers.collect(),
    }
}

fn compared_of(inventory: &Inventory) -> Vec<OfTrial> {
    let trials = inventory.actors.iter().filter_map(|actor| {
        let trial = actor.trial.as_ref()?;
        let compared = Compared { stable: trial.stable.clone(), newer: trial.newer.clone() };
        Some(OfTrial { image: actor.image_ref.clone(), share: trial.share, compared })
    });
    trials.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::control::types::{InventoryActor, InventoryInstance, InventoryProvider};

    #[test]
    fn an_inventory_of_any_year_is_counted_by_sets_of_annotations() {
        let ours = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let instance = |max_instances, annotations: &BTreeMap<String, String>| InventoryInstance {
            max_instances,
            annotations: annotations.clone(),
            ..InventoryInstance::default()
        };
        let inventory = Inventory {
            labels: ours.clone(),
            actors: vec![InventoryActor {
                id: "M".into(),
                image_ref: "echo:1".into(),
                // The hosts of 2022 have an entry for each instance, without a number.
                instances: vec![
                    instance(3, &ours),
                    instance(0, &BTreeMap::new()),
                    instance(0, &BTreeMap::new()),
                ],
                ..InventoryActor::default()
            }],
            providers: vec![InventoryProvider { id: "V".into(), ..InventoryProvider::default() }],
            ..Inventory::default()
        };
        let view = view_of(&inventory);
        let counts: Vec<u32> = view.actors.iter().map(|group| group.count).collect();
        assert_eq!((counts, view.providers.len()), (vec![3, 2], 1));
        assert_eq!(view.labels, ours);
    }
}

//! One picture of the lattice in memory, for everybody who looks at the dashboard.
//!
//! ```text
//! events, progress, peers, metadata watch ─▶ Keeper (the only writer) ─▶ Picture, a snapshot ─▶ pages of the API
//!                                               └▶ News ─▶ streams
//! ```
//!
//! * Links and claims are not copied: the host has them ([`crate::links::Live`]).
//! * Other hosts are asked for what they run when an event says that it changed, and only while
//!   somebody looks ([`Model::look`]); a host nobody looks at only listens.
//! * A snapshot is immutable, and so is what was counted from it; readers hold no lock. The log of events and the history of
//!   rates are behind locks that are held for lines.
//! * Everything has a bound: events, points of a history, targets with a history, pulls.

pub mod attention;
pub mod events;
pub mod keeper;
pub mod rates;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::sync::{Notify, broadcast, watch};
use utoipa::ToSchema;

use super::{
    door::Access,
    mask::{self, Mask},
};
use crate::control::{
    probe::health::Health,
    types::{Inventory, Pairs},
};
use events::Log;
use rates::{History, Rates};

/// News that a slow stream may be behind; then it is told to fetch everything.
const NEWS: usize = 1024;
/// How long somebody who made a request counts as looking.
const LOOKING: Duration = Duration::from_secs(30);
/// Hosts whose last word is remembered, and for how long at least.
const HEARD_MAX: usize = 8192;
const HEARD_KEPT_MS: u64 = 600_000;
/// Shorter silences are those between two looks.
const STORE_SILENT_MS: u64 = 1000;
/// How long a first look waits for what hosts answer.
const FRESH: Duration = Duration::from_millis(1500);

/// The picture. Cheap to clone.
#[derive(Clone)]
pub struct Model(Arc<Inner>);

struct Inner {
    own_id: Arc<str>,
    picture: ArcSwap<Picture>,
    rates: ArcSwap<Rates>,
    // Held for lines without an await, like the four below.
    log: Mutex<Log>,
    history: Mutex<History>,
    pulls: Mutex<Vec<Pull>>,
    /// Hosts that were changed from here and are to be asked again.
    touched: Mutex<BTreeSet<String>>,
    /// When hosts of other makes were last heard.
    heard: Mutex<HashMap<Arc<str>, u64>>,
    revisions: [AtomicU64; Collection::ALL.len()],
    news: broadcast::Sender<News>,
    viewers: AtomicUsize,
    /// When the last request was made, in ms since `began`.
    looked_ms: AtomicU64,
    /// When somebody began to look, likewise.
    began_to_look_ms: AtomicU64,
    /// When the bucket of the metadata was last heard, in ms since `began`.
    store_heard_ms: AtomicU64,
    began: Instant,
    /// Somebody began to look.
    wanted: Notify,
    /// Ticks when all hosts have been asked that had to be.
    fresh: watch::Sender<bool>,
}

/// A list that pages show, and fetch again when its revision changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Collection {
    Hosts,
    Actors,
    Providers,
    Links,
    Claims,
    Events,
    Pulls,
    Rates,
}

impl Collection {
    pub const ALL: [Self; 8] =
        [Self::Hosts, Self::Actors, Self::Providers, Self::Links, Self::Claims, Self::Events, Self::Pulls, Self::Rates];

    pub fn name(self) -> &'static str {
        match self {
            Self::Hosts => "hosts",
            Self::Actors => "actors",
            Self::Providers => "providers",
            Self::Links => "links",
            Self::Claims => "claims",
            Self::Events => "events",
            Self::Pulls => "pulls",
            Self::Rates => "rates",
        }
    }
}

/// Something that streams pass on.
#[derive(Clone, Debug)]
pub struct News {
    /// The name of the server-sent event.
    pub name: &'static str,
    /// JSON, encoded once for all who may read everything.
    data: Arc<str>,
    /// The same for those who may not, if it differs.
    masked: Option<Arc<str>>,
}

impl News {
    /// Returns the JSON that may be read with this access.
    pub fn data(&self, access: Access) -> &str {
        match (access, &self.masked) {
            (Access::Reader, Some(masked)) => masked,
            _ => &self.data,
        }
    }
}

/// How a host is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    #[default]
    Ok,
    /// A host of earlier years whose heartbeats are missing.
    Silent,
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
    /// Calls its actors take at a time, all together.
    pub replicas: u64,
    /// Its last report about itself, if it is of this make.
    pub health: Option<Arc<Health>>,
    /// Results of the health checks of its providers, by public key and link name.
    pub checks: BTreeMap<(String, String), bool>,
}

impl HostView {
    /// How a provider of it answers health checks.
    pub fn provider_health(&self, id: &str, link_name: &str) -> ProviderState {
        let told = self.checks.get(&(id.to_owned(), link_name.to_owned())).copied();
        let by_probe = || self.health.as_ref()?.provider(id, link_name)?.is_healthy;
        match told.or_else(by_probe) {
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
pub struct Picture {
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
}

/// An actor on all hosts.
#[derive(Default)]
pub struct ActorSum {
    pub name: String,
    pub references: BTreeSet<String>,
    pub replicas: u64,
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

impl Picture {
    fn new(hosts: BTreeMap<Arc<str>, Arc<HostView>>) -> Self {
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
    fn of(picture: &Picture) -> Self {
        let mut index = Self::default();
        for host in picture.present() {
            for actor in &host.inventory.actors {
                let sum = index.actors.entry(actor.id.clone()).or_default();
                if sum.name.is_empty() {
                    sum.name.clone_from(&actor.name);
                }
                sum.references.insert(actor.image_ref.clone());
                sum.replicas += crate::client::outcome::instances(actor, |_| true);
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
        index
    }

    /// Whether a provider runs under any link name.
    pub fn runs_provider(&self, id: &str) -> bool {
        self.providers.range((id.to_owned(), String::new())..).next().is_some_and(|((found, _), _)| found == id)
    }
}

/// An image that a host fetches, or what comes after that.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Pull {
    pub host_id: String,
    pub host_name: String,
    /// As it was asked for.
    pub reference: String,
    /// `pull`, `verify`, `compile`, `unpack` or `start`.
    pub stage: String,
    /// How much of how much; 0 of 0 if that is not counted.
    pub bytes: u64,
    pub of: u64,
    pub began_ms: u64,
    pub heard_ms: u64,
}

impl Model {
    pub fn new(own_id: &str) -> Self {
        Self(Arc::new(Inner {
            own_id: own_id.into(),
            picture: ArcSwap::default(),
            rates: ArcSwap::default(),
            log: Mutex::default(),
            history: Mutex::default(),
            pulls: Mutex::default(),
            touched: Mutex::default(),
            heard: Mutex::default(),
            revisions: std::array::from_fn(|_| AtomicU64::new(1)),
            news: broadcast::Sender::new(NEWS),
            viewers: AtomicUsize::new(0),
            looked_ms: AtomicU64::new(0),
            began_to_look_ms: AtomicU64::new(0),
            store_heard_ms: AtomicU64::new(0),
            began: Instant::now(),
            wanted: Notify::new(),
            fresh: watch::Sender::new(false),
        }))
    }

    /// The host the dashboard belongs to.
    pub fn own_id(&self) -> &str {
        &self.0.own_id
    }

    /// The hosts as they are now.
    pub fn picture(&self) -> Arc<Picture> {
        self.0.picture.load_full()
    }

    /// Returns the rates of calls now.
    pub fn rates(&self) -> Arc<Rates> {
        self.0.rates.load_full()
    }

    /// The history of rates.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.0.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last events.
    pub fn log(&self) -> MutexGuard<'_, Log> {
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the images that hosts fetch or start at the moment.
    pub fn pulls(&self) -> Vec<Pull> {
        self.locked_pulls().clone()
    }

    fn locked_pulls(&self) -> MutexGuard<'_, Vec<Pull>> {
        self.0.pulls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host was changed: it is asked again, whether or not it tells events.
    pub fn touch(&self, host_id: &str) {
        self.0.touched.lock().unwrap_or_else(PoisonError::into_inner).insert(host_id.to_owned());
        self.0.wanted.notify_one();
    }

    /// A host was heard now.
    fn heard(&self, id: &Arc<str>) {
        let mut heard = self.0.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.len() >= HEARD_MAX {
            let oldest = now_ms().saturating_sub(HEARD_KEPT_MS);
            heard.retain(|_, at| *at > oldest);
        }
        if heard.len() < HEARD_MAX {
            heard.insert(Arc::clone(id), now_ms());
        }
    }

    /// When a host was last heard by an event, in milliseconds since 1970.
    pub fn heard_ms(&self, id: &str) -> Option<u64> {
        self.0.heard.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied()
    }

    fn take_touched(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.0.touched.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How often a list has changed.
    pub fn revision(&self, collection: Collection) -> u64 {
        self.0.revisions[collection as usize].load(Ordering::Acquire)
    }

    fn changed(&self, collection: Collection) {
        self.0.revisions[collection as usize].fetch_add(1, Ordering::AcqRel);
    }

    /// Tells streams something.
    pub fn tell(&self, name: &'static str, data: &impl Serialize) {
        if self.0.news.receiver_count() > 0
            && let Ok(data) = serde_json::to_string(data)
        {
            let _ = self.0.news.send(News { name, data: data.into(), masked: None });
        }
    }

    /// Tells streams something of which not everybody may read everything.
    pub fn tell_masked(&self, name: &'static str, data: &(impl Mask + Clone + Serialize)) {
        if self.0.news.receiver_count() > 0
            && let Ok((data, masked)) = mask::both(data)
        {
            let _ = self.0.news.send(News { name, data: data.into(), masked: Some(masked.into()) });
        }
    }

    /// Nobody keeps the picture any more: nobody is to wait for it either.
    fn abandon(&self) {
        self.0.fresh.send_replace(true);
    }

    /// Hears news until what is returned is dropped; for so long somebody looks.
    pub fn view(&self) -> View {
        let news = self.0.news.subscribe();
        if !self.is_looked_at() {
            self.0.began_to_look_ms.store(self.age_ms(), Ordering::Release);
        }
        self.0.viewers.fetch_add(1, Ordering::AcqRel);
        self.0.wanted.notify_one();
        View { news, model: self.clone() }
    }

    /// Somebody looks now. If nobody did before, it returns when the picture is as fresh as hosts can make it, or after a
    /// moment; else the picture is kept fresh anyway.
    pub async fn look(&self) {
        let was_looked_at = self.is_looked_at();
        self.0.looked_ms.store(self.age_ms().max(1), Ordering::Release);
        if !was_looked_at {
            self.0.fresh.send_replace(false);
            self.0.began_to_look_ms.store(self.age_ms(), Ordering::Release);
            self.0.wanted.notify_one();
        }
        let began = self.0.began_to_look_ms.load(Ordering::Acquire);
        if self.age_ms().saturating_sub(began) > FRESH.as_millis() as u64 {
            return;
        }
        let mut fresh = self.0.fresh.subscribe();
        let _ = tokio::time::timeout(FRESH, fresh.wait_for(|fresh| *fresh)).await;
    }

    /// Whether it is worth to ask other hosts.
    fn is_looked_at(&self) -> bool {
        let looked = self.0.looked_ms.load(Ordering::Acquire);
        self.has_viewers() || (looked > 0 && self.age_ms().saturating_sub(looked) < LOOKING.as_millis() as u64)
    }

    fn has_viewers(&self) -> bool {
        self.viewers() > 0
    }

    /// How many hear news.
    pub fn viewers(&self) -> usize {
        self.0.viewers.load(Ordering::Acquire)
    }

    fn store_is_heard(&self) {
        self.0.store_heard_ms.store(self.age_ms(), Ordering::Release);
    }

    /// How long the bucket of the lattice's metadata was not heard; nothing while it is.
    pub fn store_lag(&self) -> Duration {
        let silent = self.age_ms().saturating_sub(self.0.store_heard_ms.load(Ordering::Acquire));
        if silent < STORE_SILENT_MS { Duration::ZERO } else { Duration::from_millis(silent) }
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Somebody who hears news.
pub struct View {
    pub news: broadcast::Receiver<News>,
    model: Model,
}

impl Drop for View {
    fn drop(&mut self) {
        self.model.0.viewers.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The time of now, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::types::{InventoryActor, InventoryInstance, InventoryProvider};

    pub(super) fn host(id: &str, state: State, actors: &[(&str, u32)]) -> Arc<HostView> {
        let actor = |(id, max): &(&str, u32)| InventoryActor {
            id: (*id).into(),
            name: format!("name of {id}"),
            image_ref: format!("{id}:1"),
            instances: vec![InventoryInstance { max_instances: *max, ..InventoryInstance::default() }],
        };
        let provider =
            InventoryProvider { id: "VA".into(), link_name: "default".into(), ..InventoryProvider::default() };
        let inventory =
            Inventory { actors: actors.iter().map(actor).collect(), providers: vec![provider], ..Inventory::default() };
        Arc::new(HostView { id: id.into(), state, inventory: Arc::new(inventory), ..HostView::default() })
    }

    #[test]
    fn what_runs_is_added_up_over_the_hosts_that_are_there() {
        let hosts = [
            host("N1", State::Ok, &[("MA", 2), ("MB", 1)]),
            host("N2", State::Silent, &[("MA", 3)]),
            host("N3", State::Lost, &[("MA", 50), ("MC", 1)]),
        ];
        let picture = Picture::new(hosts.into_iter().map(|host| (Arc::clone(&host.id), host)).collect());
        let index = picture.index();
        let actors: Vec<_> = index.actors.iter().map(|(id, sum)| (&**id, sum.replicas, sum.hosts.len())).collect();
        assert_eq!(actors, [("MA", 5, 2), ("MB", 1, 1)]);
        assert_eq!(index.providers[&("VA".to_owned(), "default".to_owned())].hosts.len(), 2);
        assert!(index.runs_provider("VA") && !index.runs_provider("V") && !index.runs_provider("VB"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_ends_even_if_nobody_answers() {
        let model = Model::new("N1");
        assert!(!model.is_looked_at());
        model.look().await;
        assert!(model.is_looked_at());
        model.0.fresh.send_replace(true);
        let began = tokio::time::Instant::now();
        model.look().await;
        assert!(began.elapsed() < FRESH);
    }
}

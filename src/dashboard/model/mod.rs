//! The lattice in memory, for everybody who looks at the dashboard.
//!
//! ```text
//! events, progress, peers, metadata ─▶ Collector ─▶ Snapshot, Rates, Records ─▶ pages of the API
//! requests, streams, operations ─▶ Demand ─▲  └▶ News ─▶ streams
//! ```
//!
//! * The collector is the only writer of what pages show, [`applications`] of those; others only
//!   write what they demand.
//! * Links and claims are not copied: the host has them ([`lattice_engine::links::Live`]).
//! * Other hosts are asked for what they run when an event says that it changed, and only while
//!   somebody looks ([`Model::mark_viewed`]); a host nobody looks at only listens.
//! * A [`Snapshot`] is immutable, and so is what was counted from it. [`Records`] grow: they are
//!   behind a lock that is held for lines, and readers take copies out of it.
//! * [`past`] is the history of the lattice, the same on every host.
//! * Everything has a bound: events, points of a history, targets with a history, pulls.

pub mod applications;
pub mod attention;
pub mod collector;
pub mod events;
mod fix;
pub mod names;
pub mod past;
pub mod rates;
mod snapshot;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use serde::Serialize;
use tokio::sync::{Notify, broadcast, watch};
use utoipa::ToSchema;

use super::{
    auth::Access,
    mask::{self, Mask},
};
use events::Log;
use lattice_protocol::clock;
use rates::{History, Of, Point, Rates, Series};

pub use snapshot::{ActorSum, HostView, Index, ProviderState, ProviderSum, Snapshot, State};

/// News that a slow stream may be behind; then it is told to fetch everything.
const NEWS: usize = 1024;
/// How long somebody who made a request counts as looking.
const LOOKING: Duration = Duration::from_secs(30);
/// Hosts whose last word is remembered, and for how long at least.
const HEARD_MAX: usize = 8192;
const HEARD_KEPT_MS: u64 = 600_000;
/// Shorter silences are those between two looks.
const STORE_SILENT: Duration = Duration::from_secs(1);
/// How long a first look waits for what hosts answer.
const FRESH: Duration = Duration::from_millis(1500);

/// The lattice in memory. Cheap to clone.
#[derive(Clone)]
pub struct Model(Arc<Inner>);

struct Inner {
    own_id: Arc<str>,
    // The collector alone writes these three.
    snapshot: ArcSwap<Snapshot>,
    rates: ArcSwap<Rates>,
    records: RwLock<Records>,
    demand: Mutex<Demand>,
    /// Somebody began to look, or a host was changed from here.
    wanted: Notify,
    /// Ticks when all hosts have been asked that had to be.
    fresh: watch::Sender<bool>,
    news: broadcast::Sender<News>,
    shelf: applications::Shelf,
}

/// Everything that grows event by event, so that a copy for each change would cost too much.
struct Records {
    log: Log,
    history: History,
    pulls: Vec<Pull>,
    /// When hosts of other makes were last heard, in milliseconds since 1970.
    heard: HashMap<Arc<str>, u64>,
    /// How often each list has changed.
    revisions: [u64; Collection::ALL.len()],
    /// When the bucket of the metadata was last heard.
    store_heard: Instant,
}

impl Records {
    fn changed(&mut self, collection: Collection) {
        self.revisions[collection as usize] += 1;
    }

    /// A host was heard now.
    fn hear(&mut self, id: &Arc<str>) {
        let now = clock::now_ms();
        if self.heard.len() >= HEARD_MAX {
            self.heard.retain(|_, at| *at > now.saturating_sub(HEARD_KEPT_MS));
        }
        if self.heard.len() < HEARD_MAX {
            self.heard.insert(Arc::clone(id), now);
        }
    }

    /// Keeps the pulls of which this is true.
    fn retain_pulls(&mut self, is_kept: impl Fn(&Pull) -> bool) {
        let before = self.pulls.len();
        self.pulls.retain(is_kept);
        if self.pulls.len() < before {
            self.changed(Collection::Pulls);
        }
    }
}

/// The wishes of others for the collector, which reads them at its next tick.
struct Demand {
    /// Streams that hear news.
    viewers: usize,
    /// When the last request was made.
    viewed: Option<Instant>,
    /// This host tells what needs attention, so it asks other hosts though nobody looks.
    watched: bool,
    /// When somebody began to look.
    began: Instant,
    /// Hosts that were changed from here and are to be asked again.
    invalidated: BTreeSet<String>,
    /// Lost hosts that nobody wants to see any more.
    forgotten: BTreeSet<String>,
}

impl Demand {
    /// Whether it is worth to ask other hosts.
    fn is_viewed(&self) -> bool {
        self.viewers > 0 || self.viewed.is_some_and(|at| at.elapsed() < LOOKING)
    }

    /// Somebody looks now. Says whether nobody did before.
    fn begin(&mut self) -> bool {
        let begins = !self.is_viewed();
        if begins {
            self.began = Instant::now();
        }
        begins
    }
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
    Applications,
    /// Commands that hosts took or refused.
    Audit,
}

impl Collection {
    pub const ALL: [Self; 10] = [
        Self::Hosts,
        Self::Actors,
        Self::Providers,
        Self::Links,
        Self::Claims,
        Self::Events,
        Self::Pulls,
        Self::Rates,
        Self::Applications,
        Self::Audit,
    ];

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
            Self::Applications => "applications",
            Self::Audit => "audit",
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
        let now = Instant::now();
        Self(Arc::new(Inner {
            own_id: own_id.into(),
            snapshot: ArcSwap::default(),
            rates: ArcSwap::default(),
            records: RwLock::new(Records {
                log: Log::default(),
                history: History::default(),
                pulls: Vec::new(),
                heard: HashMap::new(),
                revisions: [1; Collection::ALL.len()],
                store_heard: now,
            }),
            demand: Mutex::new(Demand {
                viewers: 0,
                viewed: None,
                watched: false,
                began: now,
                invalidated: BTreeSet::new(),
                forgotten: BTreeSet::new(),
            }),
            wanted: Notify::new(),
            fresh: watch::Sender::new(false),
            news: broadcast::Sender::new(NEWS),
            shelf: applications::Shelf::default(),
        }))
    }

    /// The host the dashboard belongs to.
    pub fn own_id(&self) -> &str {
        &self.0.own_id
    }

    /// The hosts as they are now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.snapshot.load_full()
    }

    /// Returns the rates of calls now.
    pub fn rates(&self) -> Arc<Rates> {
        self.0.rates.load_full()
    }

    /// The history of rates of one thing.
    pub fn series(&self, of: &Of) -> Series {
        self.0.records.read().history.series(of)
    }

    fn last_point(&self, of: &Of) -> Option<Point> {
        self.0.records.read().history.last(of)
    }

    /// Returns the applications of the lattice.
    pub fn shelf(&self) -> &applications::Shelf {
        &self.0.shelf
    }

    /// The last events, as they are now.
    pub fn log(&self) -> Log {
        self.0.records.read().log.clone()
    }

    /// Returns the images that hosts fetch or start at the moment.
    pub fn pulls(&self) -> Vec<Pull> {
        self.0.records.read().pulls.clone()
    }

    /// When a host was last heard by an event, in milliseconds since 1970.
    pub fn heard_ms(&self, id: &str) -> Option<u64> {
        self.0.records.read().heard.get(id).copied()
    }

    /// How often a list has changed.
    pub fn revision(&self, collection: Collection) -> u64 {
        self.revisions()[collection as usize]
    }

    fn revisions(&self) -> [u64; Collection::ALL.len()] {
        self.0.records.read().revisions
    }

    /// How long the bucket of the lattice's metadata was not heard; nothing while it is.
    pub fn store_lag(&self) -> Duration {
        let silent = self.0.records.read().store_heard.elapsed();
        if silent < STORE_SILENT { Duration::ZERO } else { silent }
    }

    /// Lets the collector write; it is the only one.
    fn records(&self) -> RwLockWriteGuard<'_, Records> {
        self.0.records.write()
    }

    /// A host was changed: it is asked again, whether or not it tells events.
    pub fn invalidate(&self, host_id: &str) {
        self.0.demand.lock().invalidated.insert(host_id.to_owned());
        self.0.wanted.notify_one();
    }

    fn take_invalidated(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.0.demand.lock().invalidated)
    }

    /// A lost host was taken off the lists of all hosts.
    pub fn forget_lost(&self, host_id: &str) {
        self.0.demand.lock().forgotten.insert(host_id.to_owned());
        self.0.wanted.notify_one();
    }

    fn take_forgotten(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.0.demand.lock().forgotten)
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

    /// Nobody collects any more: nobody is to wait for it either.
    fn abandon(&self) {
        self.0.fresh.send_replace(true);
    }

    /// Hears news until what is returned is dropped; for so long somebody looks.
    pub fn view(&self) -> View {
        let news = self.0.news.subscribe();
        {
            let mut demand = self.0.demand.lock();
            demand.begin();
            demand.viewers += 1;
        }
        self.0.wanted.notify_one();
        self.0.shelf.want();
        View { news, model: self.clone() }
    }

    /// Somebody looks now. If nobody did before, it returns when the snapshot is as fresh as hosts
    /// can make it, or after a moment; else the snapshot is kept fresh anyway.
    pub async fn mark_viewed(&self) {
        let began = {
            let mut demand = self.0.demand.lock();
            if demand.begin() {
                self.0.fresh.send_replace(false);
                self.0.wanted.notify_one();
                self.0.shelf.want();
            }
            demand.viewed = Some(Instant::now());
            demand.began
        };
        if began.elapsed() > FRESH {
            return;
        }
        let mut fresh = self.0.fresh.subscribe();
        let _ = tokio::time::timeout(FRESH, fresh.wait_for(|fresh| *fresh)).await;
    }

    /// Whether it is worth to ask other hosts.
    fn is_viewed(&self) -> bool {
        self.0.demand.lock().is_viewed()
    }

    /// Says whether other hosts are asked for what they run, also if nobody looks.
    pub fn watch(&self, watched: bool) {
        self.0.demand.lock().watched = watched;
    }

    /// Whether other hosts are asked for what they run, also if nobody looks: on the one host of
    /// the lattice that tells what needs attention.
    pub fn is_watched(&self) -> bool {
        self.0.demand.lock().watched
    }

    /// How many hear news.
    pub fn viewers(&self) -> usize {
        self.0.demand.lock().viewers
    }
}

/// Somebody who hears news.
pub struct View {
    pub news: broadcast::Receiver<News>,
    model: Model,
}

impl Drop for View {
    fn drop(&mut self) {
        self.model.0.demand.lock().viewers -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_look_ends_even_if_nobody_answers() {
        let model = Model::new("N1");
        assert!(!model.is_viewed());
        model.mark_viewed().await;
        assert!(model.is_viewed());
        model.0.fresh.send_replace(true);
        let began = tokio::time::Instant::now();
        model.mark_viewed().await;
        assert!(began.elapsed() < FRESH);
    }
}

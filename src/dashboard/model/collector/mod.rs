//! Keeps the [`Snapshot`] and all else that pages show; nothing else writes it.
//!
//! A loop hears events and progress. Every [`TICK`] it looks at the peers, drops what is gone,
//! starts what is due and publishes what changed. It waits for nothing else: questions to hosts run
//! in children, which report back.
//!
//! * [`presence`] knows who is there and who is lost; [`events`] takes events in; [`ask`] puts
//!   questions.
//! * An event about what a host runs makes it *stale*; a stale host is asked for its inventory as
//!   soon as somebody looks. So no count is ever guessed from events, whose forms differ by the
//!   year.
//! * While somebody looks, every host is asked for its counts every two seconds, more rarely in
//!   large lattices.

mod ask;
mod bounds;
mod events;
mod presence;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use self::ask::{ask, listen};
use super::{
    Collection, HostView, Model, Snapshot, State, attention,
    rates::{Of, Rates, STEP_MS, Sum},
};
use crate::Dashboard;
pub use ask::health;
use lattice_client::{calls, failing::failing, rates};
use lattice_protocol::{
    clock,
    control::{
        probe::{calls::Look, health::Health, lost::LostHost},
        types::{HostReply, Inventory},
    },
};

/// How often what changed is published.
const TICK: Duration = Duration::from_millis(200);
/// How often streams hear the numbers.
const NUMBERS: Duration = Duration::from_millis(STEP_MS);
/// How often streams hear that the dashboard is there.
const BEAT: Duration = Duration::from_secs(3);
/// Hosts that are asked at a time.
const ASKED_MAX: usize = 16;
/// The least time between two looks, for each host: a large lattice is looked at more rarely.
const LOOK_COST: Duration = Duration::from_millis(20);
/// How often the counts of a small lattice are read while nobody looks at them, and the most hosts
/// of a small lattice.
const IDLE_LOOK: Duration = Duration::from_secs(10);
const SMALL: usize = 16;
/// How often a host that did not answer is asked again.
const AGAIN: Duration = Duration::from_secs(2);
/// A tick that comes so late means that this process did not run.
const PAUSE: Duration = Duration::from_secs(2);
/// Hosts that are kept.
const HOSTS_MAX: usize = 4096;
/// How long a pull is kept that nobody speaks of any more, in milliseconds.
const PULL_KEPT_MS: u64 = 15_000;

/// The task that keeps the snapshot.
struct Collector {
    dashboard: Dashboard,
    model: Model,
    hosts: BTreeMap<Arc<str>, Known>,
    children: JoinSet<Report>,
    asked: usize,
    /// A ping is on its way.
    is_searching: bool,
    was_viewed: bool,
    /// Since when both connections are up.
    connected: Option<Instant>,
    /// The last tick.
    ticked: Instant,
    /// Names of hosts that are gone, for their last words.
    names: HashMap<Arc<str>, String>,
    /// Looks at counts.
    earlier: HashMap<String, Look>,
    is_looking: bool,
    look_at: Instant,
    /// Hosts of this make that others remember as lost.
    remembered: HashSet<Arc<str>>,
    /// When others are asked for them.
    remember_at: Instant,
    /// It was logged that there is no room for all that hosts tell.
    was_full: bool,
    numbers_at: Instant,
    beat_at: Instant,
    /// The revisions that streams received last, by collection.
    told: [u64; Collection::ALL.len()],
}

/// Keeps the snapshot of a dashboard until told to stop; begins anew if it fails, which is a bug.
pub async fn run(dashboard: Dashboard, stop: CancellationToken) {
    loop {
        let collector = Collector::new(dashboard.clone());
        let ended = AssertUnwindSafe(collector.run(stop.clone())).catch_unwind().await;
        if stop.is_cancelled() {
            return;
        }
        match ended {
            Ok(()) => error!("the dashboard hears no events any more, and begins anew"),
            Err(_) => error!(
                "what keeps the dashboard's picture panicked, and begins anew; this is a bug"
            ),
        }
        dashboard.model().abandon();
        sleep(AGAIN).await;
    }
}

/// A host, as the collector works on it.
struct Known {
    view: HostView,
    /// It has to be asked.
    is_stale: bool,
    is_asked: bool,
    ask_at: Instant,
    /// It did not answer the last time, so nobody waits for it.
    is_mute: bool,
    /// It was among the peers, so it has left when it is not.
    was_peer: bool,
    /// It differs from what is published.
    is_changed: bool,
    /// About how many bytes its inventory takes, and its health.
    weight: usize,
}

impl Known {
    /// Asks it again after a while, for which nobody waits.
    fn ask_again(&mut self) {
        (self.is_stale, self.is_mute, self.ask_at) = (true, true, Instant::now() + AGAIN);
    }

    /// Takes in who a host is, which there is always room for.
    fn introduce(&mut self, inventory: &Inventory) {
        let view = &mut self.view;
        bounds::name(&inventory.friendly_name).clone_into(&mut view.name);
        view.labels = bounds::labels_of(&inventory.labels);
        if !inventory.version.is_empty() {
            bounds::name(&inventory.version).clone_into(&mut view.version);
        }
        if inventory.uptime_seconds > 0 || view.is_ours {
            let started =
                clock::now_ms().saturating_sub(inventory.uptime_seconds.saturating_mul(1000));
            // Seconds are rounded; a start does not wander.
            if view.started_ms.is_none_or(|known| known.abs_diff(started) > 1500) {
                view.started_ms = Some(started);
            }
        }
        view.heard_ms = clock::now_ms();
    }

    /// Takes in its health, and drops the checks of providers that it does not run any more.
    fn take_health(&mut self, health: Option<Box<Health>>) {
        let view = &mut self.view;
        // This health is newer than what events said.
        for provider in health.iter().flat_map(|health| &health.providers) {
            if provider.is_healthy.is_some() {
                view.checks.remove(&(provider.id.clone(), provider.link_name.clone()));
            }
        }
        view.health = health.map(Arc::from);
        if !self.is_stale {
            let runs: BTreeSet<(String, String)> = view
                .inventory
                .providers
                .iter()
                .map(|p| (p.id.clone(), p.link_name.clone()))
                .collect();
            view.checks.retain(|key, _| runs.contains(key));
        }
    }

    /// Whether a first look waits for it.
    fn is_awaited(&self) -> bool {
        self.view.state != State::Lost && (self.is_stale || self.is_asked) && !self.is_mute
    }

    /// Whether it has told what it runs now.
    fn has_told(&self) -> bool {
        !self.is_stale && !self.is_asked && !self.view.inventory.host_id.is_empty()
    }
}

/// The report of a child.
enum Report {
    Found(Vec<HostReply>),
    Host { id: Arc<str>, inventory: Option<Inventory>, health: Option<Box<Health>> },
    Counts(HashMap<String, Look>),
    Lost(Vec<LostHost>),
}

impl Collector {
    fn new(dashboard: Dashboard) -> Self {
        let (model, now) = (dashboard.model().clone(), Instant::now());
        Self {
            model,
            dashboard,
            hosts: BTreeMap::new(),
            children: JoinSet::new(),
            asked: 0,
            is_searching: false,
            was_viewed: false,
            connected: None,
            ticked: now,
            names: HashMap::new(),
            earlier: HashMap::new(),
            is_looking: false,
            look_at: now,
            remembered: HashSet::new(),
            remember_at: now,
            was_full: false,
            numbers_at: now,
            beat_at: now,
            told: [0; Collection::ALL.len()],
        }
    }

    /// Keeps the snapshot until told to stop.
    async fn run(mut self, stop: CancellationToken) {
        let lattice = self.dashboard.lattice().clone();
        let listened = tokio::select! {
            () = stop.cancelled() => return,
            listened = listen(&lattice) => listened,
        };
        let (mut events, mut steps) = listened;
        let mut links = self.dashboard.parts().context.links.changes();
        let model = self.model.clone();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let own: Arc<str> = self.model.own_id().into();
        self.known(&own).view.is_ours = true;
        loop {
            tokio::select! {
                // Answers before events, so that a flood of these holds no place of a question.
                biased;
                () = stop.cancelled() => return,
                Some(done) = self.children.join_next(), if !self.children.is_empty() => match done {
                    Ok(report) => self.take_in(report),
                    Err(failure) => error!(error = %failure, "a question of the dashboard panicked"),
                },
                event = events.next() => match event {
                    Some(event) => self.on_event(&event),
                    None => return,
                },
                Some(message) = steps.next() => {
                    if let Ok(step) = serde_json::from_slice(&message.payload) {
                        self.progress(step);
                    }
                }
                Ok(()) = links.changed() => {
                    let mut records = self.model.records();
                    records.changed(Collection::Links);
                    records.changed(Collection::Claims);
                }
                () = model.0.wanted.notified() => self.tick(),
                _ = tick.tick() => self.tick(),
            }
        }
    }

    fn tick(&mut self) {
        let is_viewed = self.model.is_viewed();
        if is_viewed && !self.was_viewed {
            self.search();
            // The last one may be long ago.
            self.look_at = Instant::now();
        }
        self.was_viewed = is_viewed;
        let parts = self.dashboard.parts();
        if parts.context.store.backend().is_reachable() && *parts.context.links.synced().borrow() {
            self.model.records().store_heard = std::time::Instant::now();
        }
        for id in self.model.take_invalidated() {
            if let Some(known) = self.hosts.get_mut(&*id) {
                known.is_stale = true;
            }
        }
        let is_up = self.dashboard.is_connected();
        // After a pause of this process what lies in its queues is old, and the silence of others
        // is its own.
        let has_paused = parts.context.suspend.is_stale() || self.ticked.elapsed() > PAUSE;
        self.ticked = Instant::now();
        let before = if has_paused { None } else { self.connected };
        self.connected = if is_up { before.or(Some(Instant::now())) } else { None };
        if self.connected.is_some() && before.is_none() {
            self.search();
        }
        self.follow_peers();
        self.follow_lost();
        if self.hears() {
            self.drop_gone();
        }
        self.drop_pulls();
        self.ask_stale();
        self.count();
        self.publish();
        self.tell();
    }

    fn known(&mut self, id: &Arc<str>) -> &mut Known {
        self.hosts.entry(Arc::clone(id)).or_insert_with(|| Known {
            view: HostView { id: Arc::clone(id), heard_ms: clock::now_ms(), ..HostView::default() },
            is_stale: true,
            is_asked: false,
            ask_at: Instant::now(),
            is_mute: false,
            was_peer: false,
            is_changed: true,
            weight: 0,
        })
    }

    fn drop_pulls(&self) {
        let now = clock::now_ms();
        self.model.records().retain_pulls(|pull| now.saturating_sub(pull.heard_ms) < PULL_KEPT_MS);
    }

    fn ask_stale(&mut self) {
        let own: Arc<str> = self.model.own_id().into();
        let now = Instant::now();
        let is_wanted = self.was_viewed || self.model.is_watched();
        let due: Vec<Arc<str>> = self
            .hosts
            .values()
            .filter(|known| known.is_stale && !known.is_asked && known.ask_at <= now)
            .filter(|known| known.view.state != State::Lost && (is_wanted || known.view.id == own))
            .map(|known| Arc::clone(&known.view.id))
            .collect();
        for id in due {
            if self.asked >= ASKED_MAX {
                break;
            }
            self.asked += 1;
            let known = self.known(&id);
            (known.is_stale, known.is_asked) = (false, true);
            let (is_ours, dashboard) = (known.view.is_ours, self.dashboard.clone());
            self.children.spawn(async move {
                let (inventory, health) = ask(&dashboard, &id, is_ours).await;
                Report::Host { id, inventory, health: health.map(Box::new) }
            });
        }
        let is_fresh = !self.is_searching && !self.hosts.values().any(Known::is_awaited);
        self.model
            .0
            .fresh
            .send_if_modified(|fresh| std::mem::replace(fresh, is_fresh) != is_fresh && is_fresh);
    }

    /// Looks at what hosts count, if it is time.
    fn count(&mut self) {
        if self.is_looking || Instant::now() < self.look_at {
            return;
        }
        let ours =
            self.hosts.values().filter(|known| known.view.is_ours && known.view.state == State::Ok);
        let ids: Vec<String> = ours.map(|known| known.view.id.to_string()).collect();
        let pause = match self.was_viewed {
            true => NUMBERS.max(LOOK_COST * u32::try_from(ids.len()).unwrap_or(u32::MAX)),
            false if ids.len() <= SMALL => IDLE_LOOK,
            false => return,
        };
        self.look_at = Instant::now() + pause;
        self.is_looking = true;
        let lattice = self.dashboard.lattice().clone();
        self.children.spawn(async move {
            let looks = stream::iter(ids).map(|id| {
                let lattice = &lattice;
                async move { calls::look(lattice, &id, false).await.ok() }
            });
            let looks: Vec<Look> =
                looks.buffer_unordered(ASKED_MAX).filter_map(async |look| look).collect().await;
            Report::Counts(looks.into_iter().map(|look| (look.host_id.clone(), look)).collect())
        });
    }

    fn take_in(&mut self, report: Report) {
        match report {
            Report::Found(hosts) => {
                self.is_searching = false;
                for host in hosts {
                    self.found(host);
                }
            }
            Report::Host { id, inventory, health } => {
                self.asked = self.asked.saturating_sub(1);
                self.answered(&id, inventory, health);
            }
            Report::Counts(looks) => {
                self.is_looking = false;
                self.take_counts(looks);
            }
            Report::Lost(hosts) => self.take_lost(hosts),
        }
        self.ask_stale();
        self.publish();
    }

    /// Whether what a host tells is kept beside what the others told; this one knows its own.
    fn has_room(&self, id: &str, weight: usize) -> bool {
        let before = self.hosts.get(id).map_or(0, |known| known.weight);
        let others = self.hosts.values().filter(|known| &*known.view.id != id);
        let others: usize = others.map(|known| known.weight).sum();
        id == self.model.own_id() || bounds::has_room(weight, before, others)
    }

    /// Logs once that there is no room for what a host tells.
    fn tell_full(&mut self, id: &str) {
        if !std::mem::replace(&mut self.was_full, true) {
            warn!(
                host = id,
                "what this host tells is too large to be kept for the dashboard, or all hosts together are: pages show its name, \
                 and not all that it runs. This is told once"
            );
        }
    }

    fn answered(
        &mut self,
        id: &Arc<str>,
        inventory: Option<Inventory>,
        health: Option<Box<Health>>,
    ) {
        let Some(known) = self.hosts.get_mut(id) else { return };
        known.is_asked = false;
        let Some(inventory) = inventory else {
            // Busy, or just gone: events or peers tell which.
            return known.ask_again();
        };
        known.introduce(&inventory);
        let before = Arc::clone(&known.view.inventory);
        let told = bounds::weight(&inventory);
        let has_room = self.has_room(id, told);
        let weight = if has_room { told } else { bounds::weight(&before) };
        let of_health = health.as_deref().map_or(0, bounds::weight_of_health);
        let with_health = weight.saturating_add(of_health);
        // Without room for both, what the host runs is shown at least.
        let health = health.filter(|_| self.has_room(id, with_health));
        if !has_room {
            self.tell_full(id);
        }
        let Some(known) = self.hosts.get_mut(id) else { return };
        known.weight = if health.is_some() { with_health } else { weight };
        if has_room {
            known.is_mute = false;
            known.view.inventory = Arc::new(inventory);
        } else {
            known.ask_again();
        }
        known.take_health(health);
        known.is_changed = true;
    }

    fn take_counts(&mut self, looks: HashMap<String, Look>) {
        let now: Vec<Look> = looks.values().cloned().collect();
        if !self.earlier.is_empty() {
            // Of a host that was not looked at before nothing is known but its total.
            let both: Vec<Look> = now
                .iter()
                .filter(|look| self.earlier.contains_key(&look.host_id))
                .cloned()
                .collect();
            let edges = rates::edges(&self.earlier, &both);
            let rows = rates::between(&self.earlier, &both, &edges);
            let mut sums = HashMap::from([(Of::Lattice, Sum::of_all(&rows, &edges))]);
            for row in &rows {
                let target = Of::Target(row.id.clone(), row.link_name.clone());
                sums.entry(target).or_default().add(row);
            }
            let served: HashSet<(&str, &str)> = both
                .iter()
                .flat_map(|look| &look.served)
                .map(|row| (&*row.id, &*row.link_name))
                .collect();
            // Each host with what is counted there: without what it called elsewhere, unless nobody
            // else counts that. So the numbers of all hosts are together those of the lattice.
            for look in &both {
                let alone = std::slice::from_ref(look);
                let edges = rates::edges(&self.earlier, alone);
                let mut rows = rates::between(&self.earlier, alone, &edges);
                rows.retain(|row| {
                    !row.by_callers || !served.contains(&(&*row.id, &*row.link_name))
                });
                sums.insert(Of::Host(look.host_id.clone()), Sum::of_all(&rows, &edges));
            }
            let snapshot = self.model.snapshot();
            let index = snapshot.index();
            // It is known that nobody runs a target when every host has told what it runs now.
            let mut present = self.hosts.values().filter(|known| known.view.state != State::Lost);
            let is_whole = present.all(Known::has_told);
            let runs = |id: &str| {
                let runs = index.actors.contains_key(id) || index.runs_provider(id);
                (runs || is_whole).then_some(runs)
            };
            let rates = Rates {
                failing: failing(&now, runs),
                edges,
                of: sums.into_iter().map(|(of, sum)| (of, sum.rate())).collect(),
                memory_bytes: now
                    .iter()
                    .filter_map(|look| Some((look.host_id.clone(), look.memory_bytes?)))
                    .collect(),
            };
            let mut records = self.model.records();
            records.history.push(&rates, clock::now_ms());
            records.changed(Collection::Rates);
            self.model.0.rates.store(Arc::new(rates));
        }
        self.earlier = looks;
    }

    /// Publishes the hosts that changed.
    fn publish(&mut self) {
        if self.hosts.values().any(|known| known.is_changed) {
            self.publish_all();
        }
    }

    fn publish_all(&mut self) {
        let before = self.model.snapshot();
        let hosts = self.hosts.iter_mut().map(|(id, known)| {
            let published = match before.host(id) {
                Some(published) if !known.is_changed => Arc::clone(published),
                _ => Arc::new(known.view.clone()),
            };
            known.is_changed = false;
            (Arc::clone(id), published)
        });
        let snapshot = Snapshot::new(hosts.collect());
        self.model.0.snapshot.store(Arc::new(snapshot));
        let mut records = self.model.records();
        for collection in [Collection::Hosts, Collection::Actors, Collection::Providers] {
            records.changed(collection);
        }
    }

    /// Tells streams what changed, and from time to time the numbers.
    fn tell(&mut self) {
        let mut changed = serde_json::Map::new();
        let revisions = self.model.revisions();
        for collection in Collection::ALL {
            let revision = revisions[collection as usize];
            if std::mem::replace(&mut self.told[collection as usize], revision) != revision {
                changed.insert(collection.name().to_owned(), json!(revision));
            }
        }
        if !changed.is_empty() {
            self.model.tell("change", &Value::Object(changed));
        }
        let now = Instant::now();
        if self.model.viewers() > 0 && now >= self.numbers_at {
            self.numbers_at = now + NUMBERS;
            let overview = attention::Summary::of(&self.dashboard);
            let point = self.model.last_point(&Of::Lattice);
            let attention::Summary { counts, rates, attention, .. } = overview;
            let hosts = self.model.rates().hosts();
            self.model.tell_masked(
                "overview",
                &attention::Numbers { counts, rates, attention, point, hosts },
            );
        }
        if now >= self.beat_at {
            self.beat_at = now + BEAT;
            let is_connected = self.connected.is_some();
            self.model
                .tell("tick", &json!({ "now_ms": clock::now_ms(), "is_connected": is_connected }));
        }
    }
}

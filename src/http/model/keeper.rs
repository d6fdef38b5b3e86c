//! Keeps the [`Picture`]: the only one who writes it.
//!
//! A loop hears events and progress, and every [`TICK`] looks at the peers, drops what is gone, starts what is due and publishes
//! what changed. It waits for nothing else: what hosts are asked runs in children, which report back.
//!
//! * A host of this make that vanished is known from [`Peers`](crate::peers) within three seconds. Others only beat every 30
//!   seconds; they are silent after two missed beats, and lost after four.
//! * An event about what a host runs makes it *stale*; a stale host is asked for its inventory as soon as somebody looks. So no
//!   count is ever guessed from events, whose forms differ by the year.
//! * While somebody looks, every host is asked for its counts every two seconds, more rarely in large lattices.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_nats::{Subscriber, connection::State::Connected};
use futures::{FutureExt as _, StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::{
    Collection, HostView, Model, Picture, Pull, State, attention,
    events::{Entry, Severity},
    now_ms,
    rates::{Of, Rates, STEP_MS, Sum},
};
use crate::{
    client::{
        calls,
        lattice::{Event, Events, Lattice},
        outcome, rates,
    },
    control::{
        probe::{
            calls::Look,
            health::{Health, Request as HealthRequest},
        },
        types::{HostReply, Inventory, Pairs, Step},
    },
    http::Dashboard,
    identity::keys::HostId,
    lattice::subject::{Control, Probe},
};

/// How often what changed is published.
const TICK: Duration = Duration::from_millis(200);
/// How often streams hear the numbers.
const NUMBERS: Duration = Duration::from_millis(STEP_MS);
/// How often streams hear that the dashboard is there.
const BEAT: Duration = Duration::from_secs(3);
/// Hosts that are asked at a time.
const ASKED_MAX: usize = 16;
/// What the counts of one host cost; a large lattice is looked at more rarely.
const LOOK_COST: Duration = Duration::from_millis(20);
/// How often the counts of a small lattice are looked at while nobody looks at them, and what is small.
const IDLE_LOOK: Duration = Duration::from_secs(10);
const SMALL: usize = 16;
/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Who was cut off itself hears all others again within this time.
const HEARING: Duration = Duration::from_secs(3);
/// How often a host that did not answer is asked again.
const AGAIN: Duration = Duration::from_secs(2);
/// Hosts of other makes beat every 30 seconds.
const SILENT_MS: u64 = 75_000;
const FOREIGN_LOST_MS: u64 = 120_000;
/// How long a lost host stays in the picture.
const LOST_KEPT_MS: u64 = 120_000;
/// A tick that comes so late means that this process did not run.
const PAUSE: Duration = Duration::from_secs(2);
/// Names of hosts that are gone.
const NAMES_MAX: usize = 1024;
/// Hosts that are kept.
const HOSTS_MAX: usize = 4096;
/// Longer references are told by nobody.
const STEP_BYTES_MAX: usize = 4096;
/// Pulls that are kept, and how long one is that nobody speaks of any more.
const PULLS_MAX: usize = 256;
const PULL_KEPT_MS: u64 = 15_000;

/// The task that keeps the picture.
struct Keeper {
    dashboard: Dashboard,
    model: Model,
    hosts: BTreeMap<Arc<str>, Known>,
    children: JoinSet<Told>,
    asked: usize,
    /// A ping is on its way.
    is_searching: bool,
    was_looked_at: bool,
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
    numbers_at: Instant,
    beat_at: Instant,
    /// What streams were told last.
    told: [u64; Collection::ALL.len()],
}

/// Keeps the picture of a dashboard until told to stop; begins anew if it fails, which is a bug.
pub async fn keep(dashboard: Dashboard, stop: CancellationToken) {
    loop {
        let keeper = Keeper::new(dashboard.clone());
        let ended = AssertUnwindSafe(keeper.run(stop.clone())).catch_unwind().await;
        if stop.is_cancelled() {
            return;
        }
        match ended {
            Ok(()) => error!("the dashboard hears no events any more, and begins anew"),
            Err(_) => error!("what keeps the dashboard's picture panicked, and begins anew; this is a bug"),
        }
        dashboard.model().abandon();
        sleep(AGAIN).await;
    }
}

/// A host, as the keeper works on it.
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
}

/// What a child reports.
enum Told {
    Found(Vec<HostReply>),
    Host { id: Arc<str>, inventory: Option<Inventory>, health: Option<Box<Health>> },
    Counts(HashMap<String, Look>),
}

impl Keeper {
    fn new(dashboard: Dashboard) -> Self {
        let (model, now) = (dashboard.model().clone(), Instant::now());
        Self {
            model,
            dashboard,
            hosts: BTreeMap::new(),
            children: JoinSet::new(),
            asked: 0,
            is_searching: false,
            was_looked_at: false,
            connected: None,
            ticked: now,
            names: HashMap::new(),
            earlier: HashMap::new(),
            is_looking: false,
            look_at: now,
            numbers_at: now,
            beat_at: now,
            told: [0; Collection::ALL.len()],
        }
    }

    /// Keeps the picture until told to stop.
    async fn run(mut self, stop: CancellationToken) {
        let lattice = self.dashboard.lattice().clone();
        let listened = tokio::select! {
            () = stop.cancelled() => return,
            listened = listen(&lattice) => listened,
        };
        let (mut events, mut steps) = listened;
        let mut links = self.dashboard.parts().links.changes();
        let model = self.model.clone();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let own: Arc<str> = self.model.own_id().into();
        self.known(&own).is_stale = true;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(done) = self.children.join_next(), if !self.children.is_empty() => match done {
                    Ok(told) => self.take_in(told),
                    Err(failure) => error!(error = %failure, "a question of the dashboard panicked"),
                },
                event = events.next() => match event {
                    Some(event) => self.heed(&event),
                    None => return,
                },
                Some(message) = steps.next() => {
                    if let Ok(step) = serde_json::from_slice(&message.payload) {
                        self.progress(step);
                    }
                }
                Ok(()) = links.changed() => {
                    self.model.changed(Collection::Links);
                    self.model.changed(Collection::Claims);
                }
                () = model.0.wanted.notified() => self.tick(),
                _ = tick.tick() => self.tick(),
            }
        }
    }

    fn tick(&mut self) {
        let is_looked_at = self.model.is_looked_at();
        if is_looked_at && !self.was_looked_at {
            self.search();
            // The last one may be long ago.
            self.look_at = Instant::now();
        }
        self.was_looked_at = is_looked_at;
        let parts = self.dashboard.parts();
        if parts.store.backend().is_reachable() && *parts.links.knowledge().borrow() {
            self.model.store_is_heard();
        }
        for id in self.model.take_touched() {
            if let Some(known) = self.hosts.get_mut(&*id) {
                known.is_stale = true;
            }
        }
        let is_up = [&parts.ctl, &parts.rpc].iter().all(|nats| nats.client.connection_state() == Connected);
        // After a pause of this process what lies in its queues is old, and the silence of others is its own.
        let has_paused = parts.vigil.may_be_old() || self.ticked.elapsed() > PAUSE;
        self.ticked = Instant::now();
        let before = if has_paused { None } else { self.connected };
        self.connected = if is_up { before.or(Some(Instant::now())) } else { None };
        if self.connected.is_some() && before.is_none() {
            self.search();
        }
        self.follow_peers();
        if self.hears() {
            self.drop_gone();
        }
        self.drop_pulls();
        self.ask_stale(is_looked_at);
        self.count(is_looked_at);
        self.publish();
        self.tell();
    }

    fn known(&mut self, id: &Arc<str>) -> &mut Known {
        self.hosts.entry(Arc::clone(id)).or_insert_with(|| Known {
            view: HostView { id: Arc::clone(id), heard_ms: now_ms(), ..HostView::default() },
            is_stale: true,
            is_asked: false,
            ask_at: Instant::now(),
            is_mute: false,
            was_peer: false,
            is_changed: true,
        })
    }

    /// Asks who is there: hosts of earlier years are not among the peers.
    fn search(&mut self) {
        if !std::mem::replace(&mut self.is_searching, true) {
            let lattice = self.dashboard.lattice().clone();
            self.children.spawn(async move { Told::Found(lattice.hosts().await.unwrap_or_default()) });
        }
        // What was missed meanwhile is asked for again.
        for known in self.hosts.values_mut().filter(|known| known.view.state != State::Lost) {
            known.is_stale = true;
        }
    }

    fn follow_peers(&mut self) {
        let own: Arc<str> = self.model.own_id().into();
        let peers = self.dashboard.parts().peers.known();
        // Who is cut off itself forgets its peers after a while, and must not take that for a goodbye.
        let has_left = |known: &Known| {
            known.was_peer && known.view.state == State::Ok && !peers.iter().any(|peer| peer.id == known.view.id)
        };
        let hears = self.hears();
        let left: Vec<Arc<str>> = self
            .hosts
            .values()
            .filter(|known| hears && has_left(known))
            .map(|known| Arc::clone(&known.view.id))
            .collect();
        for id in &left {
            self.forget(id);
        }
        if !left.is_empty() {
            self.publish_all();
        }
        for peer in peers {
            if !self.hosts.contains_key(&peer.id) && (peer.is_lost() || self.hosts.len() >= HOSTS_MAX) {
                continue;
            }
            let silence = u64::try_from(peer.silence().as_millis()).unwrap_or(u64::MAX);
            let known = self.known(&peer.id);
            // It was asked as if it were of another make.
            known.is_stale |= !known.view.is_ours;
            (known.view.is_ours, known.was_peer) = (true, true);
            known.view.heard_ms = now_ms().saturating_sub(silence);
            match (peer.is_lost(), known.view.state) {
                (true, State::Ok | State::Silent) if self.hears() => self.lose(&peer.id),
                (false, State::Lost | State::Silent) => self.come_back(&peer.id),
                _ => {}
            }
        }
        let known = self.known(&own);
        known.view.is_ours = true;
        known.view.heard_ms = now_ms();
    }

    /// Whether this host could hear the others for long enough to say that one is silent.
    fn hears(&self) -> bool {
        self.connected.is_some_and(|since| since.elapsed() >= HEARING)
    }

    fn lose(&mut self, id: &Arc<str>) {
        let known = self.known(id);
        known.view.state = State::Lost;
        known.view.lost_ms = Some(now_ms());
        known.view.health = None;
        known.is_changed = true;
        let (name, heard) = (known.view.name.clone(), now_ms().saturating_sub(known.view.heard_ms));
        let text = format!("Host {name} is lost: not heard for {:.1} s", heard as f64 / 1000.0);
        self.log(Entry::concluded("host_lost", Severity::Error, id, &name, text));
    }

    /// It was heard over the control connection, which says nothing of a peer: peers decide for themselves.
    fn comes_back(&mut self, id: &Arc<str>) {
        let is_lost_peer = self.dashboard.parts().peers.known().iter().any(|peer| peer.id == *id && peer.is_lost());
        if self.known(id).view.state != State::Ok && !is_lost_peer {
            self.come_back(id);
        }
    }

    /// Takes a host out of the picture; its name is kept for what it still says.
    fn forget(&mut self, id: &Arc<str>) {
        let Some(known) = self.hosts.remove(id) else { return };
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
        }
        self.names.insert(Arc::clone(id), known.view.name);
    }

    fn come_back(&mut self, id: &Arc<str>) {
        let known = self.known(id);
        let was_lost = known.view.state == State::Lost;
        known.view.state = State::Ok;
        known.view.lost_ms = None;
        (known.is_stale, known.is_changed) = (true, true);
        let name = known.view.name.clone();
        if was_lost {
            self.log(Entry::concluded("host_back", Severity::Good, id, &name, format!("Host {name} is back")));
        }
    }

    fn drop_gone(&mut self) {
        let now = now_ms();
        let heard_for =
            self.connected.map_or(0, |since| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX));
        let foreign: Vec<(Arc<str>, u64)> = self
            .hosts
            .values()
            .filter(|known| !known.view.is_ours && known.view.state != State::Lost)
            .map(|known| (Arc::clone(&known.view.id), now.saturating_sub(known.view.heard_ms).min(heard_for)))
            .collect();
        for (id, silence) in foreign {
            if silence >= FOREIGN_LOST_MS {
                self.lose(&id);
            } else if silence >= SILENT_MS {
                let known = self.known(&id);
                known.is_changed |= known.view.state != State::Silent;
                known.view.state = State::Silent;
            }
        }
        let before = self.hosts.len();
        self.hosts.retain(|_, known| known.view.lost_ms.is_none_or(|lost| now.saturating_sub(lost) < LOST_KEPT_MS));
        if self.hosts.len() < before {
            self.publish_all();
        }
    }

    fn drop_pulls(&self) {
        let now = now_ms();
        let mut pulls = self.model.locked_pulls();
        let all = pulls.len();
        pulls.retain(|pull| now.saturating_sub(pull.heard_ms) < PULL_KEPT_MS);
        if pulls.len() < all {
            self.model.changed(Collection::Pulls);
        }
    }

    fn ask_stale(&mut self, is_looked_at: bool) {
        let own: Arc<str> = self.model.own_id().into();
        let now = Instant::now();
        let due: Vec<Arc<str>> = self
            .hosts
            .values()
            .filter(|known| known.is_stale && !known.is_asked && known.ask_at <= now)
            .filter(|known| known.view.state != State::Lost && (is_looked_at || known.view.id == own))
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
                Told::Host { id, inventory, health: health.map(Box::new) }
            });
        }
        let is_awaited = |known: &Known| (known.is_stale || known.is_asked) && !known.is_mute;
        let is_fresh = !self.is_searching
            && !self.hosts.values().any(|known| known.view.state != State::Lost && is_awaited(known));
        self.model.0.fresh.send_if_modified(|fresh| std::mem::replace(fresh, is_fresh) != is_fresh && is_fresh);
    }

    /// Looks at what hosts count, if it is time.
    fn count(&mut self, is_looked_at: bool) {
        if self.is_looking || Instant::now() < self.look_at {
            return;
        }
        let ours = self.hosts.values().filter(|known| known.view.is_ours && known.view.state == State::Ok);
        let ids: Vec<String> = ours.map(|known| known.view.id.to_string()).collect();
        let (ids, pause) = match is_looked_at {
            true => (ids.clone(), NUMBERS.max(LOOK_COST * u32::try_from(ids.len()).unwrap_or(u32::MAX))),
            false if ids.len() <= SMALL => (ids, IDLE_LOOK),
            false => return,
        };
        // A little before the step it is for, so that no step is missed.
        self.look_at = Instant::now() + pause;
        self.is_looking = true;
        let lattice = self.dashboard.lattice().clone();
        self.children.spawn(async move {
            let looks = stream::iter(ids).map(|id| {
                let lattice = &lattice;
                async move { calls::look(lattice, &id, false).await.ok() }
            });
            let looks: Vec<Look> = looks.buffer_unordered(ASKED_MAX).filter_map(async |look| look).collect().await;
            Told::Counts(looks.into_iter().map(|look| (look.host_id.clone(), look)).collect())
        });
    }

    fn take_in(&mut self, told: Told) {
        match told {
            Told::Found(hosts) => {
                self.is_searching = false;
                for host in hosts {
                    self.found(host);
                }
            }
            Told::Host { id, inventory, health } => {
                self.asked = self.asked.saturating_sub(1);
                self.answered(&id, inventory, health);
            }
            Told::Counts(looks) => {
                self.is_looking = false;
                self.take_counts(looks);
            }
        }
        self.ask_stale(self.was_looked_at);
        self.publish();
    }

    fn found(&mut self, reply: HostReply) {
        let id: Arc<str> = reply.id.as_str().into();
        if !self.hosts.contains_key(&id) && self.hosts.len() >= HOSTS_MAX {
            return;
        }
        self.model.heard(&id);
        let known = self.known(&id);
        let view = &mut known.view;
        view.is_ours |= reply.peers.is_some();
        view.heard_ms = now_ms();
        view.started_ms = Some(now_ms().saturating_sub(reply.uptime_seconds.saturating_mul(1000)));
        (view.name, view.labels, view.version) = (reply.friendly_name, reply.labels, reply.version);
        known.is_changed = true;
        self.comes_back(&id);
    }

    fn answered(&mut self, id: &Arc<str>, inventory: Option<Inventory>, health: Option<Box<Health>>) {
        let Some(known) = self.hosts.get_mut(id) else { return };
        known.is_asked = false;
        let Some(inventory) = inventory else {
            // Busy, or just gone: events or peers tell which.
            (known.is_stale, known.is_mute, known.ask_at) = (true, true, Instant::now() + AGAIN);
            return;
        };
        known.is_mute = false;
        let view = &mut known.view;
        view.name.clone_from(&inventory.friendly_name);
        view.labels.clone_from(&inventory.labels);
        if !inventory.version.is_empty() {
            view.version.clone_from(&inventory.version);
        }
        if inventory.uptime_seconds > 0 || view.is_ours {
            let started = now_ms().saturating_sub(inventory.uptime_seconds.saturating_mul(1000));
            // Seconds are rounded; a start does not wander.
            if view.started_ms.is_none_or(|known| known.abs_diff(started) > 1500) {
                view.started_ms = Some(started);
            }
        }
        view.heard_ms = now_ms();
        view.inventory = Arc::new(inventory);
        if let Some(health) = health {
            // What it says now is newer than what events said.
            for provider in health.providers.iter().filter(|provider| provider.is_healthy.is_some()) {
                view.checks.remove(&(provider.id.clone(), provider.link_name.clone()));
            }
            view.health = Some(Arc::from(health));
        } else {
            view.health = None;
        }
        let runs: BTreeSet<(String, String)> =
            view.inventory.providers.iter().map(|p| (p.id.clone(), p.link_name.clone())).collect();
        view.checks.retain(|key, _| runs.contains(key));
        known.is_changed = true;
    }

    fn take_counts(&mut self, looks: HashMap<String, Look>) {
        let now: Vec<Look> = looks.values().cloned().collect();
        if !self.earlier.is_empty() {
            // Of a host that was not looked at before nothing is known but its total.
            let both: Vec<Look> = now.iter().filter(|look| self.earlier.contains_key(&look.host_id)).cloned().collect();
            let mut sums: HashMap<Of, Sum> = HashMap::from([(Of::Lattice, Sum::default())]);
            for row in rates::between(&self.earlier, &both) {
                sums.entry(Of::Lattice).or_default().add(&row);
                sums.entry(Of::Target(row.id.clone(), row.link_name.clone())).or_default().add(&row);
            }
            for look in &both {
                let of_host = sums.entry(Of::Host(look.host_id.clone())).or_default();
                let rows = rates::between(&self.earlier, std::slice::from_ref(look));
                rows.iter().filter(|row| !row.by_callers).for_each(|row| of_host.add(row));
            }
            let rates = Rates {
                of: sums.into_iter().map(|(of, sum)| (of, sum.rate())).collect(),
                memory_bytes: now.iter().filter_map(|look| Some((look.host_id.clone(), look.memory_bytes?))).collect(),
            };
            self.model.history().push(&rates, now_ms());
            self.model.0.rates.store(Arc::new(rates));
            self.model.changed(Collection::Rates);
        }
        self.earlier = looks;
    }

    fn heed(&mut self, event: &Event) {
        if HostId::parse(&event.source).is_err()
            || (!self.hosts.contains_key(&*event.source) && self.hosts.len() >= HOSTS_MAX)
        {
            return;
        }
        let id: Arc<str> = event.source.as_str().into();
        self.model.heard(&id);
        match event.name() {
            "host_stopped" => {
                self.write(event);
                self.forget(&id);
                self.publish_all();
                return;
            }
            "host_started" | "host_heartbeat" => self.heartbeat(&id, event),
            "health_check_passed" | "health_check_failed" => {
                let key = (event.text("public_key").to_owned(), event.text("link_name").to_owned());
                if let Some(known) = self.hosts.get_mut(&id) {
                    known.view.checks.insert(key, event.name() == "health_check_passed");
                    known.is_changed = true;
                }
            }
            // It concerns the lattice, not what the host runs.
            "linkdef_set" | "linkdef_deleted" | "refmap_set" | "config_set" | "config_deleted" => {}
            "health_check_status" => {}
            // What a host says that is gone does not bring it back.
            _ => {
                if let Some(known) = self.hosts.get_mut(&id) {
                    known.is_stale = true;
                }
            }
        }
        self.write(event);
        self.arrived(event);
        if matches!(event.name(), "linkdef_set_failed" | "linkdef_set" | "linkdef_deleted") {
            // What a provider says of its links is part of what its host tells of itself.
            let provider = event.text("provider_id");
            let runs = |known: &Known| known.view.inventory.providers.iter().any(|running| running.id == provider);
            for known in self.hosts.values_mut().filter(|known| known.view.is_ours && runs(known)) {
                known.is_stale = true;
            }
        }
        let is_looked_at = self.was_looked_at;
        self.ask_stale(is_looked_at);
    }

    fn heartbeat(&mut self, id: &Arc<str>, event: &Event) {
        let is_start = event.name() == "host_started";
        let known = self.known(id);
        let view = &mut known.view;
        view.heard_ms = now_ms();
        if let Some(labels) = event.data["labels"].as_object() {
            let pairs = labels.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
            let labels: Pairs = pairs.collect();
            known.is_changed |= view.labels != labels;
            view.labels = labels;
        }
        for (member, field) in [("friendly_name", &mut view.name), ("version", &mut view.version)] {
            if let Some(text) = event.data[member].as_str().filter(|text| !text.is_empty())
                && *field != text
            {
                text.clone_into(field);
                known.is_changed = true;
            }
        }
        if let Some(seconds) = event.data["uptime_seconds"].as_u64() {
            let started = now_ms().saturating_sub(seconds.saturating_mul(1000));
            if view.started_ms.is_none_or(|known| is_start || known.abs_diff(started) > 1500) {
                view.started_ms = Some(started);
                known.is_changed = true;
            }
        }
        known.is_stale |= is_start || !says_the_same(&event.data, &known.view.inventory);
        if is_start {
            (known.is_mute, known.ask_at) = (false, Instant::now());
        }
        self.comes_back(id);
    }

    /// What has started, or has failed to, is not on its way any more.
    fn arrived(&mut self, event: &Event) {
        let member = match event.name() {
            "actor_scaled" | "actors_started" | "actors_start_failed" | "actor_scale_failed" | "provider_started" => {
                "image_ref"
            }
            "actor_start_failed" => "actor_ref",
            "provider_start_failed" => "provider_ref",
            _ => return,
        };
        let reference = event.text(member);
        let mut pulls = self.model.locked_pulls();
        let all = pulls.len();
        pulls.retain(|pull| pull.host_id != event.source || pull.reference != reference);
        if pulls.len() < all {
            self.model.changed(Collection::Pulls);
        }
    }

    /// Puts an event into the log.
    fn write(&mut self, event: &Event) {
        let name = match self.hosts.get(&*event.source) {
            Some(known) if !known.view.name.is_empty() => known.view.name.clone(),
            _ => match self.names.get(&*event.source) {
                Some(name) => name.clone(),
                None => match event.data["friendly_name"].as_str() {
                    Some(name) => name.to_owned(),
                    None => super::events::short(&event.source),
                },
            },
        };
        let table = self.dashboard.parts().links.table();
        let name_of = |key: &str| table.claims(key).map(|claims| claims.name.clone());
        let is_ours = self.hosts.get(&*event.source).is_some_and(|known| known.view.is_ours);
        if let Some(entry) = Entry::of(event, &name, is_ours, name_of) {
            self.log(entry);
        }
    }

    fn log(&mut self, entry: Entry) {
        let entry = self.model.log().push(entry);
        self.model.tell("event", &entry);
        self.model.changed(Collection::Events);
    }

    fn progress(&mut self, step: Step) {
        if HostId::parse(&step.host_id).is_err() || step.reference.len() + step.stage.len() > STEP_BYTES_MAX {
            return;
        }
        let host_name = self.hosts.get(&*step.host_id).map(|known| known.view.name.clone()).unwrap_or_default();
        let mut pulls = self.model.locked_pulls();
        let at = pulls.iter().position(|pull| pull.host_id == step.host_id && pull.reference == step.reference);
        let began_ms = at.map_or_else(now_ms, |at| pulls.remove(at).began_ms);
        if pulls.len() < PULLS_MAX {
            let Step { host_id, reference, stage, bytes, of } = step;
            pulls.push(Pull { host_id, host_name, reference, stage, bytes, of, began_ms, heard_ms: now_ms() });
        }
        drop(pulls);
        self.model.changed(Collection::Pulls);
    }

    /// Publishes the hosts that changed.
    fn publish(&mut self) {
        if self.hosts.values().any(|known| known.is_changed) {
            self.publish_all();
        }
    }

    fn publish_all(&mut self) {
        let before = self.model.picture();
        let hosts = self.hosts.iter_mut().map(|(id, known)| {
            let published = match before.host(id) {
                Some(published) if !known.is_changed => Arc::clone(published),
                _ => Arc::new(known.view.clone()),
            };
            known.is_changed = false;
            (Arc::clone(id), published)
        });
        let picture = Picture::new(hosts.collect());
        self.model.0.picture.store(Arc::new(picture));
        for collection in [Collection::Hosts, Collection::Actors, Collection::Providers] {
            self.model.changed(collection);
        }
    }

    /// Tells streams what changed, and from time to time the numbers.
    fn tell(&mut self) {
        let mut changed = serde_json::Map::new();
        for collection in Collection::ALL {
            let revision = self.model.0.revisions[collection as usize].load(Ordering::Acquire);
            if std::mem::replace(&mut self.told[collection as usize], revision) != revision {
                changed.insert(collection.name().to_owned(), json!(revision));
            }
        }
        if !changed.is_empty() {
            self.model.tell("change", &Value::Object(changed));
        }
        let now = Instant::now();
        if self.model.has_viewers() && now >= self.numbers_at {
            self.numbers_at = now + NUMBERS;
            let overview = attention::Summary::of(&self.dashboard);
            let point = self.model.history().last(&Of::Lattice);
            let numbers = json!({
                "counts": overview.counts, "rates": overview.rates, "attention": overview.attention, "point": point,
            });
            self.model.tell("overview", &numbers);
        }
        if now >= self.beat_at {
            self.beat_at = now + BEAT;
            let is_connected = self.connected.is_some();
            self.model.tell("tick", &json!({ "now_ms": now_ms(), "is_connected": is_connected }));
        }
    }
}

/// Hears events and progress; tries until the connection takes it.
async fn listen(lattice: &Lattice) -> (Events, Subscriber) {
    loop {
        let heard = async {
            let steps = lattice.client.subscribe(lattice.subjects.progress()).await?;
            anyhow::Ok((lattice.events().await?, steps))
        };
        match heard.await {
            Ok(heard) => return heard,
            Err(error) => warn!(error = %format!("{error:#}"), "the dashboard hears no events yet, trying on"),
        }
        sleep(AGAIN).await;
    }
}

/// Whether a heartbeat tells of the same actors and providers as an inventory.
fn says_the_same(heartbeat: &Value, inventory: &Inventory) -> bool {
    let Some(actors) = heartbeat["actors"].as_object() else { return false };
    let same_actors = actors.len() == inventory.actors.len()
        && inventory
            .actors
            .iter()
            .all(|actor| actors.get(&actor.id).and_then(Value::as_u64) == Some(outcome::instances(actor, |_| true)));
    let providers = heartbeat["providers"].as_array().map_or(0, Vec::len);
    same_actors && providers == inventory.providers.len()
}

/// Asks a host what it runs, and one of this make how it is.
async fn ask(dashboard: &Dashboard, id: &str, is_ours: bool) -> (Option<Inventory>, Option<Health>) {
    let lattice = dashboard.lattice();
    let parts = dashboard.parts();
    let inventory = async {
        // This host needs nobody for that, and NATS may be away.
        if id == dashboard.model().own_id() {
            return Some(parts.host.inventory(&parts.actors.running(), &parts.providers.running()));
        }
        lattice.inventory(id).await.inspect_err(|error| debug!(host = id, %error, "no inventory")).ok()
    };
    let health = async { if is_ours { health(lattice, id).await } else { None } };
    tokio::join!(inventory, health)
}

/// What a host of this make tells of itself.
pub async fn health(lattice: &Lattice, id: &str) -> Option<Health> {
    let probe = Control::Probe { host: id.to_owned(), probe: Probe::Health };
    match timeout(PROBE_TIMEOUT, lattice.request::<Health>(&probe, &HealthRequest { ask: false })).await {
        Ok(Ok(health)) => Some(health),
        Ok(Err(error)) => {
            debug!(host = id, %error, "no word of its health");
            None
        }
        Err(_) => {
            warn!(host = id, "the host does not tell how it is");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::types::{InventoryActor, InventoryInstance};

    #[test]
    fn a_heartbeat_that_tells_something_else_makes_a_host_stale() {
        let instance = InventoryInstance { max_instances: 3, ..InventoryInstance::default() };
        let actor = InventoryActor { id: "MA".into(), instances: vec![instance], ..InventoryActor::default() };
        let inventory = Inventory { actors: vec![actor], ..Inventory::default() };
        assert!(says_the_same(&json!({ "actors": { "MA": 3 }, "providers": [] }), &inventory));
        for other in [
            json!({ "actors": { "MA": 2 }, "providers": [] }),
            json!({ "actors": { "MB": 3 }, "providers": [] }),
            json!({ "actors": { "MA": 3 }, "providers": [{}] }),
            json!({ "actors": [{ "public_key": "MA" }], "providers": [] }),
        ] {
            assert!(!says_the_same(&other, &inventory), "{other}");
        }
    }
}

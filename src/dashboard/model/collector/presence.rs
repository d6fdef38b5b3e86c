//! The presence of hosts: they come, fall silent, are lost, come back and leave.
//!
//! Peers tell of hosts of this make, within three seconds. Others only beat every 30 seconds; they
//! are silent after two missed beats, and lost after four. A host that is cut off itself, or did
//! not run for a while, says nothing about the others until it has heard for [`HEARING`].

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Collector, HOSTS_MAX, Report, bounds};
use crate::model::{
    State,
    events::{Entry, Severity},
};
use lattice_client::lost;
use lattice_protocol::{
    clock,
    control::{
        probe::lost::{KEPT_MS, LostHost},
        types::HostReply,
    },
};

/// A host that was cut off hears all others again within this time.
const HEARING: Duration = Duration::from_secs(3);
/// Hosts of other makes beat every 30 seconds.
const SILENT_MS: u64 = 75_000;
const FOREIGN_LOST_MS: u64 = 120_000;
/// How long a lost host of another make stays in the snapshot.
const LOST_KEPT_MS: u64 = 120_000;
/// How long a lost host of this make stays that no host remembers: those that do need a moment.
const UNREMEMBERED_MS: u64 = 15_000;
/// How often other hosts are asked whom they lost.
const REMEMBER: Duration = Duration::from_secs(4);
/// Names of hosts that are gone.
const NAMES_MAX: usize = 1024;

impl Collector {
    /// Asks who is there: hosts of earlier years are not among the peers.
    pub(super) fn search(&mut self) {
        if !std::mem::replace(&mut self.is_searching, true) {
            let lattice = self.dashboard.lattice().clone();
            self.children
                .spawn(async move { Report::Found(lattice.hosts().await.unwrap_or_default()) });
        }
        // Everything that was missed meanwhile is asked for again.
        for known in self.hosts.values_mut().filter(|known| known.view.state != State::Lost) {
            known.is_stale = true;
        }
    }

    pub(super) fn follow_peers(&mut self) {
        let peers = self.dashboard.parts().context.peers.known();
        // A host that is cut off forgets its peers after a while; this must not count as their
        // goodbye.
        let hears = self.hears();
        let left: Vec<Arc<str>> = self
            .hosts
            .values()
            .filter(|known| {
                hears && known.was_peer && matches!(known.view.state, State::Ok | State::Stopping)
            })
            .filter(|known| !peers.iter().any(|peer| peer.id == known.view.id))
            .map(|known| Arc::clone(&known.view.id))
            .collect();
        for id in &left {
            self.forget(id);
        }
        if !left.is_empty() {
            self.publish_all();
        }
        for peer in peers {
            if !self.hosts.contains_key(&peer.id)
                && (peer.is_lost() || self.hosts.len() >= HOSTS_MAX)
            {
                continue;
            }
            let silence = clock::millis(peer.silence());
            let known = self.known(&peer.id);
            // It was asked as if it were of another make.
            known.is_stale |= !known.view.is_ours;
            (known.view.is_ours, known.was_peer) = (true, true);
            known.view.heard_ms = clock::now_ms().saturating_sub(silence);
            match (peer.is_lost(), known.view.state) {
                (true, State::Ok | State::Silent | State::Stopping) if self.hears() => {
                    self.mark_lost(&peer.id)
                }
                (false, State::Lost | State::Silent) => self.mark_present(&peer.id),
                _ => {}
            }
        }
    }

    /// Learns which hosts the others have lost, and what those ran: this one may have come later.
    pub(super) fn follow_lost(&mut self) {
        for id in self.model.take_forgotten() {
            self.remembered.remove(&*id);
            if self.hosts.get(&*id).is_some_and(|known| known.view.state == State::Lost) {
                self.forget(&id.into());
                self.publish_all();
            }
        }
        if !self.was_viewed || Instant::now() < self.remember_at {
            return;
        }
        self.remember_at = Instant::now() + REMEMBER;
        let lattice = self.dashboard.lattice().clone();
        let ours = self.hosts.values().map(|known| &known.view);
        let ids: Vec<String> = ours
            .filter(|view| view.is_ours && view.state == State::Ok)
            .map(|view| view.id.to_string())
            .collect();
        self.children.spawn(async move {
            let present = ids.iter().map(String::as_str).collect();
            Report::Lost(lost::of_hosts(&lattice, ids.clone(), &present).await)
        });
    }

    /// Takes in what hosts remember of those that were lost.
    pub(super) fn take_lost(&mut self, hosts: Vec<LostHost>) {
        self.remembered = hosts.iter().map(|host| Arc::from(host.id.as_str())).collect();
        for host in hosts {
            let id: Arc<str> = host.id.as_str().into();
            let is_new = !self.hosts.contains_key(&id);
            if is_new && self.hosts.len() >= HOSTS_MAX {
                continue;
            }
            let known = self.known(&id);
            if !is_new && known.view.state != State::Lost {
                // It came back meanwhile, or this host has not missed it yet.
                continue;
            }
            known.is_stale = false;
            let is_untold = known.view.inventory.host_id.is_empty();
            if !is_new && (!is_untold || host.inventory.host_id.is_empty()) {
                continue;
            }
            let weight = bounds::weight(&host.inventory);
            let has_room = self.has_room(&id, weight);
            let known = self.known(&id);
            let view = &mut known.view;
            // Without room it is shown as lost, and not what it ran.
            if is_new || has_room {
                (view.is_ours, view.state, view.lost_ms) = (true, State::Lost, Some(host.lost_ms));
                view.heard_ms = view.heard_ms.min(host.lost_ms);
                view.name = bounds::name(host.called()).to_owned();
                view.labels = bounds::labels_of(&host.inventory.labels);
                view.version = bounds::name(&host.inventory.version).to_owned();
                known.is_changed = true;
            }
            match has_room {
                true => (view.inventory, known.weight) = (Arc::new(host.inventory), weight),
                false => self.tell_full(&id),
            }
        }
    }

    /// Whether this host could hear the others for long enough to say that one is silent.
    pub(super) fn hears(&self) -> bool {
        self.connected.is_some_and(|since| since.elapsed() >= HEARING)
    }

    pub(super) fn mark_lost(&mut self, id: &Arc<str>) {
        let remembered = self.dashboard.parts().context.peers.remembered(id);
        let known = self.known(id);
        // It may have vanished before it told this page what it had just started.
        if let Some(inventory) = remembered
            && inventory.uptime_seconds >= known.view.inventory.uptime_seconds
        {
            known.weight = bounds::weight(&inventory);
            known.view.inventory = inventory;
        }
        known.view.state = State::Lost;
        known.view.lost_ms = Some(clock::now_ms());
        known.view.health = None;
        known.is_changed = true;
        let (name, heard) =
            (known.view.name.clone(), clock::now_ms().saturating_sub(known.view.heard_ms));
        let text = format!("Host {name} is lost: not heard for {:.1} s", heard as f64 / 1000.0);
        self.log(Entry::concluded("host_lost", Severity::Error, id, &name, text));
    }

    /// It was heard over the control connection, which says nothing of a peer: peers decide for
    /// themselves.
    pub(super) fn mark_heard(&mut self, id: &Arc<str>) {
        let is_lost_peer = self
            .dashboard
            .parts()
            .context
            .peers
            .known()
            .iter()
            .any(|peer| peer.id == *id && peer.is_lost());
        // One that stops may still be heard; only its next start ends that.
        let is_away = matches!(self.known(id).view.state, State::Silent | State::Lost);
        if is_away && !is_lost_peer {
            self.mark_present(id);
        }
    }

    /// It has said that it stops.
    pub(super) fn mark_stopping(&mut self, id: &Arc<str>) {
        let known = self.known(id);
        known.is_changed |= known.view.state != State::Stopping;
        known.view.state = State::Stopping;
    }

    /// Takes a host out of the snapshot; its name is kept for what it still says.
    pub(super) fn forget(&mut self, id: &Arc<str>) {
        let Some(known) = self.hosts.remove(id) else { return };
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
        }
        self.names.insert(Arc::clone(id), known.view.name);
    }

    pub(super) fn mark_present(&mut self, id: &Arc<str>) {
        let known = self.known(id);
        let was_lost = known.view.state == State::Lost;
        known.view.state = State::Ok;
        known.view.lost_ms = None;
        (known.is_stale, known.is_changed) = (true, true);
        let name = known.view.name.clone();
        if was_lost {
            self.log(Entry::concluded(
                "host_back",
                Severity::Good,
                id,
                &name,
                format!("Host {name} is back"),
            ));
        }
    }

    pub(super) fn drop_gone(&mut self) {
        let now = clock::now_ms();
        let heard_for = self.connected.map_or(0, |since| clock::millis(since.elapsed()));
        let foreign: Vec<(Arc<str>, u64)> = self
            .hosts
            .values()
            .filter(|known| !known.view.is_ours && known.view.state != State::Lost)
            .map(|known| {
                (Arc::clone(&known.view.id), now.saturating_sub(known.view.heard_ms).min(heard_for))
            })
            .collect();
        for (id, silence) in foreign {
            if silence >= FOREIGN_LOST_MS {
                self.mark_lost(&id);
            } else if silence >= SILENT_MS {
                let known = self.known(&id);
                known.is_changed |= known.view.state != State::Silent;
                known.view.state = State::Silent;
            }
        }
        let before = self.hosts.len();
        let is_any_lost = self.hosts.values().any(|known| known.view.lost_ms.is_some());
        let own: HashSet<String> = match is_any_lost {
            true => self.dashboard.parts().context.peers.lost_ids(),
            false => HashSet::new(),
        };
        let remembered = &self.remembered;
        self.hosts.retain(|id, known| {
            let kept_ms = match known.view.is_ours {
                true if own.contains(&**id) || remembered.contains(id) => KEPT_MS,
                true => UNREMEMBERED_MS,
                false => LOST_KEPT_MS,
            };
            known.view.lost_ms.is_none_or(|lost| now.saturating_sub(lost) < kept_ms)
        });
        if self.hosts.len() < before {
            self.publish_all();
        }
    }

    pub(super) fn found(&mut self, reply: HostReply) {
        let id: Arc<str> = reply.id.as_str().into();
        if !self.hosts.contains_key(&id) && self.hosts.len() >= HOSTS_MAX {
            return;
        }
        self.model.records().hear(&id);
        let known = self.known(&id);
        let view = &mut known.view;
        view.is_ours |= reply.is_ours();
        view.heard_ms = clock::now_ms();
        view.started_ms =
            Some(clock::now_ms().saturating_sub(reply.uptime_seconds.saturating_mul(1000)));
        view.name = bounds::name(&reply.friendly_name).to_owned();
        view.labels = bounds::labels_of(&reply.labels);
        view.version = bounds::name(&reply.version).to_owned();
        known.is_changed = true;
        self.mark_heard(&id);
    }
}

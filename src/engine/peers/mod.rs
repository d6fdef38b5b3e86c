//! The other hosts of the lattice as this host knows them: which are there, what runs where, and
//! which have fallen silent.
//!
//! Every host says that it is there, to a few that watch it every second, to all the less often the
//! more hosts there are, and at once when what it runs has changed. So a host that vanished is
//! noticed within three seconds, a call that waits for it much sooner (see
//! [`router`](crate::router)), and the words on a line stay few however large the lattice is. With
//! that a caller picks the host of a call itself and asks it for the call later, which the queue
//! group of a subject does not allow. The messages go over the RPC connection below
//! `wasmbus.rpc.{lattice}`, where hosts of 2022 to 2024 do not listen: they take part as before,
//! through the queue groups, to which every call falls back that finds no peer.
//!
//! * [`wire`](lattice_protocol::peers::wire) has the messages and their form; [`peer`] has what is
//!   known of one host, [`table`] has all hosts, and chooses one for a call;
//! * [`ring`] says who watches whom and how often each speaks, [`watch`] who is lost;
//! * [`lost`] remembers hosts that vanished, and what they ran;
//! * [`sessions`] has the keys shared with the hosts that proved to belong to the lattice, and
//!   `members` what those told; [`refusals`] counts what nothing proved;
//! * [`words`] seals and opens the messages;
//! * `questions` asks others what they offer, `inventories` what they run;
//! * [`service`] speaks and listens, and keeps the table.
//!
//! Hosts of this make sign their messages and prove calls and answers; of one that did so, nothing
//! else is believed. A host of an earlier release signs nothing, so anybody who may publish on
//! these subjects can invent one, and calls may go there. A statement about such a host holds until
//! that host's own next message, or its answer to a question.
//!
//! A message under the own key that this host has not sent means that another process has the key
//! as well: see [`Peers::twins`].

pub mod index;
mod inventories;
mod load;
pub mod lost;
mod members;
pub mod peer;
mod questions;
pub mod refusals;
pub mod ring;
pub mod service;
pub mod sessions;
pub mod table;
pub mod watch;
pub mod words;

use std::{
    collections::HashSet,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch::Sender},
    time::Instant,
};
use tracing::error;

use lattice_protocol::{clock, control::types::Inventory, identity::keys::HostId};
pub use lost::LostHost;
use lost::Memory;
pub use peer::{Peer, Taken};
pub use table::{Candidates, Presence};
use table::{Reach, Table};

/// How long a host that stops serving a target waits until the others have heard of it.
const HEARD_TIMEOUT: Duration = Duration::from_millis(500);

/// A twin of which nothing was heard for this long is told again when it is heard.
const TWIN_AGAIN: Duration = Duration::from_secs(60);

/// The peers of a host, and what it offers to them. Cheap to clone.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    table: Table,
    /// Notified when the offers of this host change.
    changed: Notify,
    /// The number of the last own roster that every peer has heard.
    heard: Sender<u64>,
    twins: Twins,
    memory: Memory,
    /// Tells what this host runs; nothing until it runs something.
    inventory: OnceLock<Box<dyn Fn() -> Inventory + Send + Sync>>,
}

/// Other processes with the key of this host.
#[derive(Default)]
struct Twins {
    // Held for a few lines, never across an await.
    seen: Mutex<Option<Instant>>,
}

impl Peers {
    /// Knows nobody yet; [`service::spawn`] brings it to life.
    pub fn new(own: &HostId) -> Self {
        let (table, changed, heard) = (Table::new(own.as_str()), Notify::new(), Sender::new(0));
        Self(Arc::new(Inner {
            table,
            changed,
            heard,
            twins: Twins::default(),
            memory: Memory::default(),
            inventory: OnceLock::new(),
        }))
    }

    /// Lets the others learn what this host runs, so that they know it if this host is lost.
    pub fn set_inventory(&self, inventory: impl Fn() -> Inventory + Send + Sync + 'static) {
        // Set once, when the host is wired.
        let _ = self.0.inventory.set(Box::new(inventory));
    }

    /// The hosts that vanished without a goodbye: those that a trusted cluster certified first, and
    /// of each kind those lost last.
    pub fn lost(&self) -> Vec<LostHost> {
        self.0.memory.lost(clock::now_ms())
    }

    /// The ids of the hosts that vanished.
    pub fn lost_ids(&self) -> HashSet<String> {
        self.0.memory.lost_ids(clock::now_ms())
    }

    /// The inventory of another host when this one last asked for it, if this host is or was one of
    /// those that do.
    pub fn remembered(&self, host: &str) -> Option<Arc<Inventory>> {
        self.0.memory.known(host).map(Arc::new)
    }

    /// Forgets a host that vanished.
    pub fn forget_lost(&self, host: &str) {
        self.0.memory.forget(host);
    }

    /// The host to send a call to: one that takes calls for the target directly and was heard of
    /// lately, and of these the one that answers soonest, by its answers so far and the calls of
    /// this host that are on their way. `not` are those that have been tried.
    pub fn choose(
        &self,
        target: &str,
        not: &[Arc<Peer>],
        candidates: Candidates,
    ) -> Option<Arc<Peer>> {
        self.0.table.choose(target, not, candidates)
    }

    /// The other hosts that run a target, however it is reached.
    pub fn runners(&self, target: &str) -> Vec<Arc<Peer>> {
        self.0.table.runners(target)
    }

    /// Whether a target runs, here or elsewhere, that is reached through its queue group only: a
    /// provider that is a program of its own.
    pub fn is_indirect(&self, target: &str) -> bool {
        self.0.table.is_indirect(target)
    }

    /// Whether other hosts run a target.
    pub fn presence(&self, target: &str) -> Presence {
        self.0.table.presence(target)
    }

    /// How long ago another process used the key of this host, if one ever did.
    pub fn twins(&self) -> Option<Duration> {
        let seen = self.0.twins.seen.lock();
        seen.map(|seen| seen.elapsed())
    }

    /// Notes that another process uses the key of this host, and says so in the log, once in a
    /// while.
    pub fn tell_twin(&self, host_id: &str) {
        let is_news = {
            let mut seen = self.0.twins.seen.lock();
            let is_news = seen.is_none_or(|seen| seen.elapsed() >= TWIN_AGAIN);
            *seen = Some(Instant::now());
            is_news
        };
        if is_news {
            error!(
                host_id,
                "another host with the key of this one is in the lattice (host_seed, WASMCLOUD_HOST_SEED): commands, calls and \
                 inventories reach now the one, now the other. Give each host a seed of its own, or none"
            );
        }
    }

    /// Offers a target directly until what is returned is dropped or withdrawn. Its subscriptions
    /// must be confirmed.
    pub fn advertise(&self, target: &str) -> Advertisement {
        self.advertise_as(target, Reach::Direct)
    }

    /// Tells that a target runs here that is reached through its queue group only.
    pub fn advertise_indirect(&self, target: &str) -> Advertisement {
        self.advertise_as(target, Reach::Group)
    }

    /// Notes that a call of another host came: it is told, and waited for, when this host takes
    /// back what it offers.
    pub fn note_caller(&self, host: &str) {
        if let Some(peer) = self.0.table.find(host) {
            peer.note_caller();
        }
    }

    /// The other hosts that were heard of, as `(host, is silent)`.
    pub fn others(&self) -> Vec<(String, bool)> {
        self.0.table.others().iter().map(|peer| (peer.id.to_string(), peer.is_lost())).collect()
    }

    /// The same as they are kept, with how long each was silent.
    pub fn known(&self) -> Vec<Arc<Peer>> {
        self.0.table.others()
    }

    fn advertise_as(&self, target: &str, reach: Reach) -> Advertisement {
        self.0.table.advertise(target, reach);
        self.0.changed.notify_one();
        Advertisement {
            peers: self.clone(),
            target: target.into(),
            reach,
            is_open: AtomicBool::new(true),
        }
    }
}

/// Something this host offers; dropped, it is taken back.
pub struct Advertisement {
    peers: Peers,
    target: Arc<str>,
    reach: Reach,
    /// It was not taken back yet. The same target may be offered again by then.
    is_open: AtomicBool,
}

impl Advertisement {
    /// Takes it back and waits until the others know: then none of them sends a call for it any
    /// more, and what they had sent has arrived.
    pub async fn retract(&self) {
        let Some(number) = self.retract_now() else { return };
        let mut heard = self.peers.0.heard.subscribe();
        // A peer that does not answer in time sends nothing either, or is answered that nobody
        // listens.
        let _ = tokio::time::timeout(HEARD_TIMEOUT, heard.wait_for(|heard| *heard >= number)).await;
    }

    fn retract_now(&self) -> Option<u64> {
        if !self.is_open.swap(false, Ordering::AcqRel) {
            return None;
        }
        let number = self.peers.0.table.retract(&self.target, self.reach)?;
        self.peers.0.changed.notify_one();
        Some(number)
    }
}

impl Drop for Advertisement {
    fn drop(&mut self) {
        self.retract_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::peers::wire::{Announcement, Offers};

    #[tokio::test(start_paused = true)]
    async fn an_offer_is_taken_back_once_however_it_ends() {
        let own =
            HostId::parse("NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF").unwrap();
        let peers = Peers::new(&own);
        let first = peers.advertise("M");
        let second = peers.advertise("M");
        first.retract().await;
        drop(first);
        assert!(peers.choose("M", &[], Candidates::All).is_some(), "the second offer stands");
        drop(second);
        assert!(peers.choose("M", &[], Candidates::All).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn invented_hosts_that_say_nothing_hold_a_planned_stop_up_for_half_a_second_at_most() {
        let own =
            HostId::parse("NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF").unwrap();
        let peers = Peers::new(&own);
        let offers =
            (0..10).map(|number| peers.advertise(&format!("M{number}"))).collect::<Vec<_>>();
        for _ in 0..100 {
            let host = nkeys::KeyPair::new_server().public_key();
            peers.0.table.apply(&Announcement {
                host,
                roster: 1,
                offers: Some(Offers::default()),
                ..Announcement::default()
            });
        }
        let began = Instant::now();
        futures::future::join_all(offers.iter().map(Advertisement::retract)).await;
        assert!(began.elapsed() <= HEARD_TIMEOUT, "{:?}", began.elapsed());
    }
}

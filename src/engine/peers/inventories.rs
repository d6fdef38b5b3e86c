//! Asks some of the other hosts what they run, to remember it if they are lost
//! ([`lost`](super::lost)), and tells what this host runs.

use std::{collections::HashMap, hash::Hasher, time::Duration};

use async_nats::Client;
use bytes::Bytes;
use tokio::{
    task::{JoinError, JoinSet},
    time::Instant,
};
use tracing::debug;

use super::{
    Peers,
    lost::{INVENTORY_BYTES_MAX, KEEPERS, Text, is_chosen},
    questions::{ASK, ASKING_MAX},
    ring::Fnv,
};
use lattice_protocol::{
    clock,
    control::types::Inventory,
    lattice::subject::Subjects,
    peers::wire::{Announcement, INVENTORY},
};

/// How long after a change a host is asked once more what it runs: it may still be at it.
const RUNS_SOON: Duration = Duration::from_millis(1500);
/// How often it is asked without a change: how many calls actors take is no change of its offers.
const RUNS_AGAIN: Duration = Duration::from_secs(30);

/// The inventories of hosts.
pub struct Inventories {
    peers: Peers,
    client: Client,
    subjects: Subjects,
    /// Questions for what others run, and whom they went to.
    learning: JoinSet<Answered>,
    /// Questions so far, for their numbers.
    asked: u64,
    /// The hosts that were asked what they run.
    learnt: HashMap<String, Learnt>,
}

/// The host that was asked, the number of the question, and the answer: the id of the host that it
/// is about, and its inventory.
type Answered = (String, u64, Option<(String, Text)>);

/// The end of a question.
pub type Done = Result<Answered, JoinError>;

/// When a host was asked what it runs.
struct Learnt {
    incarnation: u64,
    roster: u64,
    runs: Option<u32>,
    /// When it is asked again without a change.
    due: Instant,
    /// It is asked once more then in any case.
    is_again: bool,
    /// The last question to it that was answered. Answers to two that are under way may come to
    /// this host's tasks in any order.
    answered: u64,
}

impl Inventories {
    pub fn new(peers: Peers, client: Client, subjects: Subjects) -> Self {
        let (learning, learnt) = (JoinSet::new(), HashMap::new());
        Self { peers, client, subjects, learning, asked: 0, learnt }
    }

    /// Asks a host what it runs after a word of it to all, if this host is to remember that and it
    /// may have changed. Where others are to, what this host knows stays until they have learnt it:
    /// it is told together with its age.
    pub fn ask_what_runs(&mut self, word: &Announcement) {
        let Announcement { host, incarnation, roster, runs, .. } = word;
        let now = Instant::now();
        let asked = self.learnt.get(host);
        let is_same =
            asked.is_some_and(|asked| (asked.incarnation, asked.roster) == (*incarnation, *roster));
        // Of those that say when it is something else, words without a number tell nothing.
        let is_fresh = is_same
            && asked.is_some_and(|asked| match runs {
                Some(_) => asked.runs == *runs,
                None => word.interval_ms > 0 || now < asked.due,
            });
        if is_fresh || !self.keeps(host) || self.learning.len() >= ASKING_MAX {
            return;
        }
        let due = now + if is_same { RUNS_AGAIN } else { RUNS_SOON };
        let runs = runs.or_else(|| asked.and_then(|asked| asked.runs));
        let answered = asked.map_or(0, |asked| asked.answered);
        let (incarnation, roster, is_again) = (*incarnation, *roster, !is_same);
        let learnt = Learnt { incarnation, roster, runs, due, is_again, answered };
        self.learnt.insert(host.clone(), learnt);
        self.ask_inventory(host);
    }

    /// Asks once more what those run that changed a moment ago.
    pub fn ask_again(&mut self) {
        let now = Instant::now();
        let due = self.learnt.iter_mut().filter(|(_, learnt)| learnt.is_again && now >= learnt.due);
        let hosts: Vec<String> = due
            .take(ASKING_MAX.saturating_sub(self.learning.len()))
            .map(|(host, learnt)| {
                (learnt.is_again, learnt.due) = (false, now + RUNS_AGAIN);
                host.clone()
            })
            .collect();
        for host in hosts {
            match self.keeps(&host) {
                true => self.ask_inventory(&host),
                // Should it be chosen again, its next word makes it ask.
                false => _ = self.learnt.remove(&host),
            }
        }
    }

    fn ask_inventory(&mut self, host: &str) {
        let (client, subject, host) =
            (self.client.clone(), self.subjects.host(host), host.to_owned());
        self.asked += 1;
        let number = self.asked;
        self.learning.spawn(async move {
            let question = client.request(subject, Bytes::from_static(INVENTORY));
            let answer = tokio::time::timeout(ASK, question).await.ok().and_then(Result::ok);
            (host, number, answer.and_then(|answer| Text::read(&answer.payload)))
        });
    }

    /// Whether this host is one of those that remember what another one runs.
    fn keeps(&self, host: &str) -> bool {
        let (own, others) = (self.peers.0.table.own_id(), self.peers.0.table.others());
        let there = others.iter().filter(|peer| !peer.is_lost()).map(|peer| &*peer.id);
        is_chosen(own, host, there, KEEPERS)
    }

    /// Waits for the end of a question; nothing where nobody is asked. Safe to drop.
    pub async fn next(&mut self) -> Option<Done> {
        self.learning.join_next().await
    }

    /// Remembers what a host answered.
    pub fn learn(&mut self, done: Done, is_member: impl Fn(&str) -> bool) {
        let Ok((host, number, told)) = done else { return };
        // One that was taken off is asked anew by its next word.
        let Some(learnt) = self.learnt.get_mut(&host).filter(|one| one.answered < number) else {
            return;
        };
        match told {
            // A host that does not know the question answers with what it says of itself.
            Some((about, text)) if about.is_empty() || about == host => {
                learnt.answered = number;
                let memory = &self.peers.0.memory;
                let forgotten = memory.learn(&host, text, is_member(&host), clock::now_ms());
                self.ask_later(&forgotten);
            }
            Some(_) => debug!(host_id = %host, "the answer to a question is about another host"),
            // Its next word makes us ask again.
            None => _ = self.learnt.remove(&host),
        }
    }

    /// Lets hosts be asked again that made room in the memory: not at once, as there may be more of
    /// them than it has room for.
    fn ask_later(&mut self, hosts: &[String]) {
        for host in hosts {
            if let Some(learnt) = self.learnt.get_mut(host) {
                (learnt.is_again, learnt.due) = (true, Instant::now() + RUNS_AGAIN);
            }
        }
    }

    /// Forgets which hosts were asked that are not there any more, and what they ran that are not
    /// lost either.
    pub fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.learnt.retain(|host, _| is_there(host));
        self.peers.0.memory.retain(is_there);
    }

    /// A number that is another when this host runs something else.
    pub fn own_runs(&self) -> Option<u32> {
        let inventory = self.peers.0.inventory.get()?();
        let timeless = Inventory { uptime_human: String::new(), uptime_seconds: 0, ..inventory };
        let mut hasher = Fnv::default();
        hasher.write(&serde_json::to_vec(&timeless).ok()?);
        u32::try_from(hasher.finish() >> 32).ok()
    }

    /// The inventory of this host, if it fits into a message.
    pub fn own_inventory(&self) -> Option<Bytes> {
        let inventory = self.peers.0.inventory.get()?();
        let json = serde_json::to_vec(&inventory).ok()?;
        (json.len() <= INVENTORY_BYTES_MAX.min(self.client.max_payload())).then(|| json.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::remote::offline_client;
    use lattice_protocol::identity::{
        keys::{HostId, LatticeName},
        samples,
    };

    fn word(host: &str, roster: u64) -> Announcement {
        Announcement { host: host.to_owned(), roster, runs: Some(7), ..Announcement::default() }
    }

    #[tokio::test]
    async fn a_host_that_others_are_to_remember_is_asked_no_more_and_what_it_ran_stays() {
        let own = samples::HOST.public;
        let peers = Peers::new(&HostId::parse(own).unwrap());
        let subjects = Subjects::new(LatticeName::parse("default").unwrap(), "wasmbus.ctl");
        let mut inventories = Inventories::new(peers.clone(), offline_client().await, subjects);
        let new_host = || nkeys::KeyPair::new_server().public_key();
        let others: Vec<String> = std::iter::repeat_with(new_host).take(20).collect();
        let of_others =
            |host: &String| !is_chosen(own, host, others.iter().map(String::as_str), KEEPERS);
        let mut hosts = std::iter::repeat_with(new_host).filter(of_others);
        let hosts = [(); 2].map(|()| hosts.next().unwrap());
        let [there, lost] = &hosts;
        for host in &hosts {
            inventories.ask_what_runs(&word(host, 1));
            let text = Text::of(Inventory::default()).unwrap();
            peers.0.memory.learn(host, text, false, 1);
        }
        assert_eq!(inventories.asked, 2);
        inventories.learnt.values_mut().for_each(|learnt| learnt.is_again = false);
        inventories.ask_later(&hosts);
        assert!(inventories.learnt.values().all(|learnt| learnt.is_again), "they made room");
        peers.0.memory.lose(lost, 2);
        for other in &others {
            peers.0.table.apply(&word(other, 0));
        }
        for host in &hosts {
            inventories.ask_what_runs(&word(host, 2));
        }
        assert_eq!(inventories.asked, 2, "others ask them now");
        let known = |host: &String| peers.0.memory.known(host).is_some();
        assert_eq!(hosts.each_ref().map(known), [true, true]);
        inventories.retain(|host| host == there);
        assert_eq!(hosts.each_ref().map(known), [true, true]);
        inventories.retain(|_| false);
        assert_eq!(hosts.each_ref().map(known), [false, true]);
    }
}

//! Speaks for this host and listens to the others.
//!
//! One task does it all: beats, listens, answers, looks for who is silent, and asks those whose
//! offers it does not know. Some hosts it also asks what they run, to remember it if they are lost
//! ([`lost`](super::lost)). An own change is told to all, with the request to confirm it; changes
//! that come close together are told together.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use async_nats::{Client, HeaderMap, Message, Subject, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};

use super::{
    Peers,
    lost::{INVENTORY_BYTES_MAX, is_keeper},
    table::Heard,
    words::{self, Opened, Words},
};
use crate::host_context::HostContext;
use lattice_base::{
    lattice::{answers::Answers, connection::confirm},
    suspend::SuspendDetector,
};
use lattice_protocol::{
    clock,
    control::types::Inventory,
    lattice::subject::Subjects,
    peers::wire::{Announcement, INVENTORY, ROSTER},
};

/// How often a host says that it is there.
const BEAT: Duration = Duration::from_secs(1);
/// Silent for this long, a host counts as lost: two beats and what the network may add. With
/// [`LOOK`] within three seconds.
const SILENT: Duration = Duration::from_millis(2500);
/// Silent for this long, it is forgotten.
const GONE: Duration = Duration::from_secs(60);
/// How often the silent are looked for.
const LOOK: Duration = Duration::from_millis(250);
/// The shortest time between two changes that are told.
const TELL: Duration = Duration::from_millis(20);
/// How long a peer may take to tell what it offers.
const ASK: Duration = Duration::from_secs(2);
/// How long after a change a host is asked once more what it runs: it may still be at it.
const RUNS_SOON: Duration = Duration::from_millis(1500);
/// How often it is asked without a change: how many calls actors take is no change of its offers.
const RUNS_AGAIN: Duration = Duration::from_secs(30);
/// Questions that may be under way.
const ASKING_MAX: usize = 64;
/// How long handing a message to the connection may take.
const SEND: Duration = Duration::from_secs(1);

/// Subscribes and says hello; returns when this host hears and can be heard. Then it goes on until
/// `leave`, and ends with a goodbye.
pub async fn spawn(
    context: &HostContext,
    leave: CancellationToken,
) -> anyhow::Result<JoinHandle<()>> {
    let HostContext { peers, answers, subjects, suspend, lifeline, tasks, .. } = context;
    let client = &context.rpc.client;
    let own = peers.0.table.own_beat().host;
    let inbox = client.new_inbox();
    let service = Service {
        peers: peers.clone(),
        words: Words::new(context.sessions.clone()),
        suspend: suspend.clone(),
        client: client.clone(),
        to_askers: answers.clone(),
        hosts: subjects.hosts(),
        subjects: subjects.clone(),
        announcements: client.subscribe(subjects.hosts()).await?,
        questions: client.subscribe(subjects.host(&own)).await?,
        answers: client.subscribe(format!("{inbox}.>")).await?,
        inbox,
        asking: JoinSet::new(),
        asked: HashSet::new(),
        confirmed: HashMap::new(),
        learning: JoinSet::new(),
        learnt: HashMap::new(),
        is_changed: false,
        tell_at: Instant::now(),
        looked: Instant::now(),
    };
    confirm(client).await?;
    service.hello().await;
    let running = service.run(leave).instrument(info_span!("peers"));
    Ok(tasks.spawn(lifeline.essential("peer service", running)))
}

struct Service {
    peers: Peers,
    words: Words,
    suspend: SuspendDetector,
    client: Client,
    to_askers: Answers,
    subjects: Subjects,
    hosts: String,
    announcements: Subscriber,
    questions: Subscriber,
    /// Confirmations of own announcements, on subjects below `inbox`.
    answers: Subscriber,
    inbox: String,
    /// Questions for what others offer, and whom they went to.
    asking: JoinSet<(String, Option<Opened>)>,
    asked: HashSet<String>,
    /// The last own roster each peer has confirmed.
    confirmed: HashMap<String, u64>,
    /// Questions for what others run, and whom they went to.
    learning: JoinSet<(String, Option<Inventory>)>,
    /// The hosts that were asked what they run.
    learnt: HashMap<String, Learnt>,
    /// A change is to be told, and when the next one may be.
    is_changed: bool,
    tell_at: Instant,
    /// When it last looked for the silent.
    looked: Instant,
}

/// When a host was asked what it runs.
struct Learnt {
    incarnation: u64,
    roster: u64,
    /// When it is asked again without a change.
    due: Instant,
}

impl Service {
    /// Says that it is new; the others answer with what they offer.
    async fn hello(&self) {
        let announcement = Announcement { hello: true, ..self.peers.0.table.own_announcement() };
        let reply = Some(format!("{}.hello", self.inbox));
        self.say_with(self.words.hello(), &announcement, reply).await;
    }

    async fn run(mut self, leave: CancellationToken) {
        let mut beat = interval(BEAT);
        let mut look = interval(LOOK);
        for timer in [&mut beat, &mut look] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let peers = self.peers.clone();
        let sessions = self.words.sessions().clone();
        loop {
            tokio::select! {
                () = leave.cancelled() => break,
                Some(message) = self.announcements.next() => self.handle_announcement(message).await,
                Some(message) = self.questions.next() => self.answer(message).await,
                Some(message) = self.answers.next() => self.take_confirmation(&message),
                Some(done) = self.asking.join_next(), if !self.asking.is_empty() => self.told(done),
                Some(done) = self.learning.join_next(), if !self.learning.is_empty() => self.learn(done),
                () = peers.0.changed.notified() => self.is_changed = true,
                () = tokio::time::sleep_until(self.tell_at), if self.is_changed => self.tell().await,
                // While it catches up after a pause it would only refuse what others sent it.
                _ = beat.tick(), if !self.suspend.is_stale() => {
                    let announcement = self.peers.0.table.own_beat();
                    self.say(&announcement, None).await;
                }
                _ = look.tick() => self.look(),
                hosts = sessions.wanted() => hosts.iter().for_each(|host| self.ask(host)),
                () = sessions.key_due() => self.renew_key().await,
            }
        }
        let announcement = Announcement { goodbye: true, ..self.peers.0.table.own_beat() };
        self.say(&announcement, None).await;
    }

    /// Tells everybody what this host offers now.
    async fn tell(&mut self) {
        self.is_changed = false;
        self.tell_at = Instant::now() + TELL;
        let announcement = self.peers.0.table.own_announcement();
        let reply = format!("{}.{}", self.inbox, announcement.roster);
        self.say(&announcement, Some(reply)).await;
        self.settle();
    }

    /// Makes another key for sessions, and tells it to everybody.
    async fn renew_key(&self) {
        if let Err(error) = self.words.sessions().renew_key() {
            warn!(%error, "no new key for the sessions with other hosts was made");
            tokio::time::sleep(TELL).await;
        }
        let announcement = self.words.with_key(self.peers.0.table.own_beat());
        self.say(&announcement, None).await;
    }

    fn take_confirmation(&mut self, message: &Message) {
        let announcement = match self.words.open(&message.payload) {
            Opened::Believed(announcement) => announcement,
            Opened::ToConfirm(announcement) => return self.ask(&announcement.host),
            Opened::Ignored => return,
        };
        self.take(&announcement);
        let roster =
            message.subject.rsplit('.').next().and_then(|number| number.parse::<u64>().ok());
        if let Some(roster) = roster {
            let last = self.confirmed.entry(announcement.host).or_default();
            *last = roster.max(*last);
        }
        self.settle();
    }

    /// Finds out what every peer that is there has heard.
    fn settle(&mut self) {
        let others = self.peers.0.table.others();
        self.confirmed.retain(|host, _| others.iter().any(|peer| *peer.id == **host));
        self.learnt.retain(|host, _| others.iter().any(|peer| *peer.id == **host));
        self.words.retain(|host| others.iter().any(|peer| *peer.id == *host));
        let there = others.iter().filter(|peer| !peer.is_lost());
        let own = self.peers.0.table.own_beat().roster;
        let heard = there
            .map(|peer| self.confirmed.get(&*peer.id).copied().unwrap_or(0))
            .min()
            .unwrap_or(own);
        self.peers.0.heard.send_if_modified(|last| {
            let is_news = heard > *last;
            *last = heard.max(*last);
            is_news
        });
    }

    /// Applies an announcement that went to all, and confirms it if it asks for that.
    async fn handle_announcement(&mut self, message: Message) {
        let announcement = match self.words.open(&message.payload) {
            Opened::Believed(announcement) => {
                if !self.take(&announcement) {
                    return;
                }
                announcement
            }
            Opened::ToConfirm(announcement) => {
                self.ask(&announcement.host);
                if !announcement.hello {
                    return;
                }
                announcement
            }
            Opened::Ignored => return,
        };
        if let Some(reply) = &message.reply {
            let table = &self.peers.0.table;
            let own = if announcement.hello { table.own_announcement() } else { table.own_beat() };
            self.send(reply, &own, message.headers.as_ref()).await;
        }
    }

    async fn answer(&self, message: Message) {
        let Some(reply) = message.reply else { return };
        if &*message.payload == INVENTORY
            && let Some(inventory) = self.own_inventory()
        {
            return self.send_bytes(&reply, inventory).await;
        }
        let table = &self.peers.0.table;
        let announcement =
            if &*message.payload == ROSTER { table.own_announcement() } else { table.own_beat() };
        self.send(&reply, &announcement, message.headers.as_ref()).await;
    }

    /// Applies an announcement to the table; says whether it was one of another host.
    fn take(&mut self, announcement: &Announcement) -> bool {
        let heard = self.peers.0.table.apply(announcement);
        self.note(heard, announcement)
    }

    /// Draws the consequences of an announcement that was applied; says whether it was one of
    /// another host.
    fn note(&mut self, heard: Heard, announcement: &Announcement) -> bool {
        let host_id = &announcement.host;
        match heard {
            Heard::Ignored => return false,
            Heard::Known => {}
            Heard::New { .. } => {
                self.peers.0.memory.find(host_id);
                info!(%host_id, "another host is in the lattice");
            }
            Heard::Back { .. } => {
                self.peers.0.memory.find(host_id);
                info!(%host_id, "a silent host is back");
            }
            Heard::Left => {
                self.peers.0.memory.forget(host_id);
                info!(%host_id, "a host left the lattice");
                return true;
            }
            Heard::Ask => {}
            Heard::Twin { .. } => {
                self.peers.tell_twin(host_id);
                return false;
            }
        }
        let offers_unknown =
            matches!(heard, Heard::Ask | Heard::New { ask: true } | Heard::Back { ask: true });
        if offers_unknown || self.peers.0.table.wants_proof(host_id) {
            self.ask(host_id);
        }
        self.ask_what_runs(announcement);
        true
    }

    /// Asks a host what it runs, if this host is to remember that and it may have changed.
    fn ask_what_runs(&mut self, announcement: &Announcement) {
        let Announcement { host, incarnation, roster, .. } = announcement;
        let now = Instant::now();
        let asked = self.learnt.get(host);
        let is_same =
            asked.is_some_and(|asked| (asked.incarnation, asked.roster) == (*incarnation, *roster));
        let is_fresh = is_same && asked.is_some_and(|asked| now < asked.due);
        if is_fresh || self.learning.len() >= ASKING_MAX {
            return;
        }
        let due = now + if is_same { RUNS_AGAIN } else { RUNS_SOON };
        let learnt = Learnt { incarnation: *incarnation, roster: *roster, due };
        self.learnt.insert(host.clone(), learnt);
        if !self.keeps(host) {
            return;
        }
        let (client, subject, host) = (self.client.clone(), self.subjects.host(host), host.clone());
        self.learning.spawn(async move {
            let question = client.request(subject, Bytes::from_static(INVENTORY));
            let answer = tokio::time::timeout(ASK, question).await;
            let answer = answer
                .ok()
                .and_then(Result::ok)
                .filter(|answer| answer.payload.len() <= INVENTORY_BYTES_MAX);
            let inventory = answer.and_then(|answer| serde_json::from_slice(&answer.payload).ok());
            (host, inventory)
        });
    }

    /// Whether this host is one of those that remember what another one runs.
    fn keeps(&self, host: &str) -> bool {
        let (own, others) = (self.peers.0.table.own_id(), self.peers.0.table.others());
        let there = others.iter().filter(|peer| !peer.is_lost()).map(|peer| &*peer.id);
        is_keeper(own, host, there)
    }

    fn learn(&mut self, done: Result<(String, Option<Inventory>), tokio::task::JoinError>) {
        let Ok((host, inventory)) = done else { return };
        match inventory {
            // A host that does not know the question answers with what it says of itself.
            Some(inventory) if inventory.host_id.is_empty() || inventory.host_id == host => {
                self.peers.0.memory.learn(&host, inventory);
            }
            Some(_) => debug!(host_id = %host, "the answer to a question is about another host"),
            // Its next beat makes us ask again.
            None => _ = self.learnt.remove(&host),
        }
    }

    /// The inventory of this host, if it fits into a message.
    fn own_inventory(&self) -> Option<Bytes> {
        let inventory = self.peers.0.inventory.get()?();
        let json = serde_json::to_vec(&inventory).ok()?;
        (json.len() <= INVENTORY_BYTES_MAX.min(self.client.max_payload())).then(|| json.into())
    }

    /// Asks a host for what it offers, unless it is being asked.
    fn ask(&mut self, host: &str) {
        if self.asking.len() >= ASKING_MAX || !self.asked.insert(host.to_owned()) {
            return;
        }
        let (client, subject, host) =
            (self.client.clone(), self.subjects.host(host), host.to_owned());
        let words = self.words.clone();
        self.asking.spawn(async move {
            let nonce = words::nonce();
            let request = Bytes::from_static(ROSTER);
            let asked = client.request_with_headers(subject, words::question(&nonce), request);
            let answer = tokio::time::timeout(ASK, asked).await.ok().and_then(Result::ok);
            (host, answer.map(|answer| words.open_answer(&answer.payload, &nonce)))
        });
    }

    fn told(&mut self, done: Result<(String, Option<Opened>), tokio::task::JoinError>) {
        let Ok((host, opened)) = done else { return self.asked.clear() };
        self.asked.remove(&host);
        match opened {
            Some(Opened::Believed(announcement)) if announcement.host == host => {
                // Asked again at once, a host that does not tell would be asked without end.
                let heard = match self.peers.0.table.apply_answer(&announcement) {
                    Heard::New { .. } => Heard::New { ask: false },
                    Heard::Back { .. } => Heard::Back { ask: false },
                    Heard::Ask => Heard::Known,
                    heard => heard,
                };
                self.note(heard, &announcement);
            }
            // Its next beat makes us ask again.
            Some(_) => debug!(host_id = %host, "the answer to a question is not that of the host"),
            None => debug!(host_id = %host, "a host does not tell what it offers"),
        }
    }

    fn look(&mut self) {
        let paused = self.looked.elapsed() > BEAT;
        self.looked = Instant::now();
        if paused {
            // It was this host that heard nothing.
            return self.peers.0.table.reset_timers();
        }
        for peer in self.peers.0.table.look(SILENT, GONE) {
            let silent_ms = clock::millis(peer.silence());
            warn!(host_id = %peer.id, silent_ms, "a host is silent; calls go to others until it is heard again");
        }
        // Calls may have noticed a loss before.
        for peer in self.peers.0.table.others() {
            if peer.is_lost() && peer.silence() >= SILENT {
                self.peers.0.memory.lose(&peer.id, clock::now_ms());
            }
        }
        // A host that is lost or has left is waited for no longer.
        self.settle();
    }

    async fn say(&self, announcement: &Announcement, reply: Option<String>) {
        self.say_with(HeaderMap::new(), announcement, reply).await;
    }

    async fn say_with(
        &self,
        headers: HeaderMap,
        announcement: &Announcement,
        reply: Option<String>,
    ) {
        let payload = self.words.seal(announcement, self.client.max_payload());
        let (client, hosts) = (&self.client, self.hosts.clone());
        let sending = async {
            match reply {
                Some(reply) if headers.is_empty() => {
                    client.publish_with_reply(hosts, reply, payload).await
                }
                Some(reply) => {
                    client.publish_with_reply_and_headers(hosts, reply, headers, payload).await
                }
                None => client.publish(hosts, payload).await,
            }
        };
        if !matches!(tokio::time::timeout(SEND, sending).await, Ok(Ok(()))) {
            debug!("a word to the other hosts was not sent");
        }
    }

    async fn send(
        &self,
        reply: &Subject,
        announcement: &Announcement,
        question: Option<&HeaderMap>,
    ) {
        let max_payload = self.client.max_payload();
        let payload = self.words.seal_answer(announcement, question, max_payload);
        self.send_bytes(reply, payload).await;
    }

    async fn send_bytes(&self, reply: &Subject, payload: Bytes) {
        if let Err(error) = self.to_askers.send(&self.client, reply, payload, SEND).await {
            debug!(%error, "an answer to another host was not sent");
        }
    }
}

//! Speaks for this host and listens to the others.
//!
//! One task does it all: speaks and listens as [`watch`](super::watch) says, answers, and has those
//! asked whose offers it does not know ([`questions`](super::questions)). Some hosts are also asked
//! what they run, to remember it if they are lost ([`inventories`](super::inventories)). An own
//! change is told to all; if it takes something back, those that call this host confirm it. Changes
//! that come close together are told together.
//!
//! `beats` has the subscriptions to the hosts that this one watches.

mod beats;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_nats::{Client, HeaderMap, Message, Subject, Subscriber, connection::State};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tokio::{
    task::{JoinHandle, coop::unconstrained},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};

use super::{
    Peers,
    inventories::Inventories,
    lost::is_chosen,
    peer::Peer,
    questions::{End, Questions, Told},
    ring::{BEAT, FEW},
    sessions::Sessions,
    table::Heard,
    watch::{AT_CHARS, SILENT, Turn, Watch},
    words::{Opened, Words},
};
use crate::host_context::HostContext;
use beats::Beats;
use lattice_base::{
    lattice::{answers::Answers, connection::confirm, made},
    suspend::SuspendDetector,
};
use lattice_protocol::{
    clock,
    peers::wire::{Announcement, INVENTORY, Known, ROSTER},
};

/// Silent for this long, a host is forgotten.
const GONE: Duration = Duration::from_secs(60);
/// The shortest time between two changes that are told.
const TELL: Duration = Duration::from_millis(20);
/// Messages that are taken in, at the most, before it is judged which hosts are silent.
const CATCH_UP_MAX: usize = 1024;
/// How long after a new key could not be made it is tried again.
const KEY_AGAIN: Duration = Duration::from_secs(60);
/// Hosts of a large lattice that answer one that has just come, and hosts in one answer of theirs.
const WELCOMERS: usize = 3;
const KNOWN_MAX: usize = 1000;
/// Newcomers that get such an answer in a second: it is far larger than their question.
const WELCOMES_MAX: u32 = 32;
/// How long one that has just come waits for an answer before it says hello again, and how often.
const HELLO_AGAIN: Duration = Duration::from_millis(1500);
const HELLOS_MAX: usize = 3;
/// A host that called another one within the first time confirms what that takes back, which waits
/// for those whose calls came within the second time: a call may be long on its way.
const CALLED: Duration = Duration::from_secs(60);
const CALLS: Duration = Duration::from_secs(10);
/// In a lattice of so many others all confirm; so many more than wait for all, since hosts do not
/// come to the same number at the same time.
const CONFIRM_ALL: usize = FEW + FEW / 2;
/// Lost hosts that the log names one by one.
const NAMED_MAX: usize = 8;
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
    let connection = Connection::of(client);
    let mut service = Service {
        peers: peers.clone(),
        words: Words::new(context.sessions.clone()),
        suspend: suspend.clone(),
        client: client.clone(),
        to_askers: answers.clone(),
        hosts: subjects.hosts(),
        own_beats: subjects.beat(&own),
        watch: Watch::new(&own, connection.at(), Instant::now()),
        connection,
        beats: Beats::new(client.clone(), subjects.clone()),
        hellos: 0,
        is_welcome: false,
        hello_at: Instant::now(),
        announcements: client.subscribe(subjects.hosts()).await?,
        questions: client.subscribe(subjects.host(&own)).await?,
        answers: client.subscribe(format!("{inbox}.>")).await?,
        inbox,
        asked: Questions::new(client.clone(), subjects.clone()),
        inventories: Inventories::new(peers.clone(), client.clone(), subjects.clone()),
        confirmed: HashMap::new(),
        removed: 0,
        welcomes: (Instant::now(), 0),
        key_at: Instant::now(),
        is_changed: false,
        tell_at: Instant::now(),
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
    hosts: String,
    own_beats: String,
    watch: Watch,
    connection: Connection,
    beats: Beats,
    /// How often it has said hello, whether anybody answered, and when it says it again.
    hellos: usize,
    is_welcome: bool,
    hello_at: Instant,
    announcements: Subscriber,
    questions: Subscriber,
    /// Confirmations of own announcements, on subjects below `inbox`.
    answers: Subscriber,
    inbox: String,
    asked: Questions,
    inventories: Inventories,
    /// The last own roster each peer has confirmed.
    confirmed: HashMap<String, u64>,
    /// How many hosts had been taken out when those that are gone were forgotten here.
    removed: u64,
    /// The second in which the last newcomer got a list of hosts, and how many did in it.
    welcomes: (Instant, u32),
    /// No new key is made before.
    key_at: Instant,
    /// A change is to be told, and when the next one may be.
    is_changed: bool,
    tell_at: Instant,
}

/// A connection to a NATS server: another one after each loss.
#[derive(Clone, PartialEq, Eq)]
struct Connection {
    server_id: String,
    client_id: u64,
}

impl Connection {
    fn of(client: &Client) -> Self {
        let info = client.server_info();
        Self { server_id: info.server_id, client_id: info.client_id }
    }

    /// The name of the group of hosts at this server.
    fn at(&self) -> String {
        self.server_id.chars().take(AT_CHARS).collect()
    }
}

impl Service {
    /// Says that it is new. In a small lattice all others answer with what they offer, in a large
    /// one a few with the hosts they know, which are asked then.
    async fn hello(&mut self) {
        let now = Instant::now();
        (self.hellos, self.hello_at) = (self.hellos + 1, now + HELLO_AGAIN);
        let word = self.watch.stamp(self.peers.0.table.own_announcement(), now);
        let announcement = Announcement { hello: true, ..word };
        let reply = Some(format!("{}.hello", self.inbox));
        self.publish(self.hosts.clone(), self.words.hello(), &announcement, reply).await;
    }

    async fn run(mut self, leave: CancellationToken) {
        let peers = self.peers.clone();
        let sessions = self.words.sessions().clone();
        loop {
            tokio::select! {
                // The things that are due come first, or others could keep this host from them.
                // Words to all before beats: a host counts its words, and older ones are not
                // taken.
                biased;
                () = leave.cancelled() => break,
                () = tokio::time::sleep_until(self.watch.next()) => self.turn().await,
                () = key_due(&sessions, self.key_at) => self.renew_key().await,
                hosts = sessions.wanted() => hosts.iter().for_each(|host| self.asked.ask(host)),
                Some(message) = self.announcements.next() => self.handle_announcement(message).await,
                Some(message) = self.questions.next() => self.answer(message).await,
                Some(message) = self.answers.next() => self.take_answer(&message),
                message = self.beats.next() => self.take_beat(&message),
                Some(told) = self.asked.next() => self.told(told),
                Some(done) = self.inventories.next() =>
                    self.inventories.learn(done, |host| sessions.is_member(host)),
                () = peers.0.changed.notified() => self.is_changed = true,
                () = tokio::time::sleep_until(self.tell_at), if self.is_changed => self.tell().await,
                () = tokio::time::sleep_until(self.hello_at), if self.may_greet() => self.hello().await,
            }
        }
        let announcement = Announcement { goodbye: true, ..self.peers.0.table.own_beat() };
        self.say(&announcement, None).await;
    }

    fn may_greet(&self) -> bool {
        !self.is_welcome && self.hellos < HELLOS_MAX
    }

    /// Tells everybody what has changed in what this host offers.
    async fn tell(&mut self) {
        self.is_changed = false;
        let now = Instant::now();
        self.tell_at = now + TELL;
        let (word, is_confirmed) = self.peers.0.table.tell();
        let reply = is_confirmed.then(|| format!("{}.{}", self.inbox, word.roster));
        let word = self.watch.stamp(word, now);
        self.say(&word, reply).await;
        self.settle();
    }

    /// Makes another key for sessions, and tells it to everybody.
    async fn renew_key(&mut self) {
        if let Err(error) = self.words.sessions().renew_key() {
            warn!(%error, "no new key for the sessions with other hosts was made");
            self.key_at = Instant::now() + KEY_AGAIN;
            return;
        }
        let word = self.watch.stamp(self.peers.0.table.own_beat(), Instant::now());
        let payload = self.words.seal_with_key(&word, self.client.max_payload());
        self.publish_sealed(self.hosts.clone(), HeaderMap::new(), payload, None).await;
    }

    /// Does what is due by the time.
    async fn turn(&mut self) {
        let now = Instant::now();
        let connection = Connection::of(&self.client);
        if connection != self.connection && self.client.connection_state() == State::Connected {
            self.watch.rejoin(connection.at(), now);
            self.connection = connection;
        }
        // While it catches up after a pause it would only refuse what others sent it.
        if self.suspend.is_stale() {
            return self.watch.postpone(now);
        }
        self.catch_up().await;
        let Turn { word, beat, lost, listen } = self.watch.turn(&self.peers.0.table, now);
        if let Some(mut word) = word {
            word.runs = (word.interval_ms > 0).then(|| self.inventories.own_runs()).flatten();
            self.say(&word, None).await;
        }
        if let Some(beat) = beat {
            self.publish(self.own_beats.clone(), HeaderMap::new(), &beat, None).await;
        }
        warn_of(&lost);
        for peer in lost.iter().filter(|_| !self.watch.is_small()) {
            // Perhaps only this host did not hear it, whose next word is far.
            self.asked.ask_after(&peer.id, self.by_chance());
        }
        if let Some(listen) = listen {
            self.beats.listen(listen).await;
            self.look();
        }
    }

    /// Takes in what has come already: what lies here was not silent.
    async fn catch_up(&mut self) {
        for _ in 0..CATCH_UP_MAX {
            if let Some(Some(message)) = unconstrained(self.announcements.next()).now_or_never() {
                self.handle_announcement(message).await;
            } else if let Some(message) = unconstrained(self.beats.next()).now_or_never() {
                self.take_beat(&message);
            } else {
                return;
            }
        }
    }

    /// A part of the time in which all hosts of this lattice may do something, one after the other.
    fn by_chance(&self) -> Duration {
        self.watch.spread().mul_f64(rand::random())
    }

    /// Opens a message that came by itself. Many hosts sign nothing, so it is to be from a client.
    fn open(&self, message: &Message) -> Opened {
        match made::by_jetstream(message) {
            true => Opened::Ignored,
            false => self.words.open(&message.payload),
        }
    }

    /// Takes the answer to a hello or to a change.
    fn take_answer(&mut self, message: &Message) {
        let announcement = match self.open(message) {
            Opened::Believed(announcement) => announcement,
            Opened::ToConfirm(announcement) => return self.ask_to_confirm(&announcement),
            Opened::Ignored => return,
        };
        if !self.take(&announcement, false) {
            return;
        }
        // In a large lattice only a list of hosts is an answer to the hello.
        let is_small = clock::millis(BEAT) >= announcement.interval_ms;
        self.is_welcome |= is_small || !announcement.known.is_empty();
        for Known(host, incarnation, roster) in &announcement.known {
            if !self.peers.0.table.knows(host, *incarnation, *roster) {
                self.asked.ask(host);
            }
        }
        let roster =
            message.subject.rsplit('.').next().and_then(|number| number.parse::<u64>().ok());
        // Only of hosts that are known: anybody can make up others.
        if let Some(roster) = roster
            && self.peers.0.table.find(&announcement.host).is_some()
        {
            let last = self.confirmed.entry(announcement.host).or_default();
            *last = roster.max(*last);
            self.settle();
        }
    }

    /// Finds out what every peer has heard that may call this host.
    fn settle(&mut self) {
        let table = &self.peers.0.table;
        if table.removed() != self.removed {
            self.removed = table.removed();
            self.confirmed.retain(|host, _| table.find(host).is_some());
            self.inventories.retain(|host| table.find(host).is_some());
            self.words.retain(|host| table.find(host).is_some());
        }
        let others = table.others();
        let may_call = others.iter().filter(|peer| may_call(peer, others.len()));
        let confirmed = may_call.map(|peer| self.confirmed.get(&*peer.id).copied().unwrap_or(0));
        let heard = confirmed.min();
        let heard = heard.unwrap_or_else(|| table.own_beat().roster);
        self.peers.0.heard.send_if_modified(|last| {
            let is_news = heard > *last;
            *last = heard.max(*last);
            is_news
        });
    }

    /// Applies an announcement that went to all, and confirms it if it asks for that.
    async fn handle_announcement(&mut self, message: Message) {
        let announcement = match self.open(&message) {
            Opened::Believed(announcement) => {
                if !self.take(&announcement, false) {
                    return;
                }
                announcement
            }
            Opened::ToConfirm(announcement) => {
                self.ask_to_confirm(&announcement);
                if !announcement.hello {
                    return;
                }
                announcement
            }
            Opened::Ignored => return,
        };
        let Some(reply) = &message.reply else { return };
        let question = message.headers.as_ref();
        if announcement.hello {
            return self.welcome(&announcement, reply, question).await;
        }
        let table = &self.peers.0.table;
        let is_old = announcement.at.is_empty();
        if is_old || table.count() <= CONFIRM_ALL || self.calls(&announcement.host) {
            self.send(reply, &self.watch.sign(table.own_beat()), question).await;
        }
    }

    /// Whether this host called another one lately.
    fn calls(&self, host: &str) -> bool {
        self.peers.0.table.find(host).is_some_and(|peer| peer.is_called_within(CALLED))
    }

    /// Answers a host that has just come. Hosts of before know nobody but those that answer.
    async fn welcome(
        &mut self,
        newcomer: &Announcement,
        reply: &Subject,
        question: Option<&HeaderMap>,
    ) {
        let table = &self.peers.0.table;
        let own = self.watch.sign(table.own_announcement());
        let others = table.others();
        if self.watch.is_small() || newcomer.at.is_empty() {
            return self.send(reply, &own, question).await;
        }
        let there: Vec<_> = others.iter().filter(|peer| !peer.is_lost()).collect();
        let ids = there.iter().map(|peer| &*peer.id);
        let is_chosen = is_chosen(table.own_id(), &newcomer.host, ids, WELCOMERS);
        if !is_chosen || !takes_one_more(&mut self.welcomes, Instant::now()) {
            return;
        }
        let known: Vec<Known> = there.iter().map(|peer| peer.known()).collect();
        self.send(reply, &own, question).await;
        for known in known.chunks(KNOWN_MAX) {
            let part = Announcement { known: known.to_vec(), ..self.watch.sign(table.own_beat()) };
            self.send(reply, &part, question).await;
        }
    }

    fn take_beat(&mut self, message: &Message) {
        match self.open(message) {
            Opened::Believed(announcement) => _ = self.take(&announcement, true),
            Opened::ToConfirm(announcement) => self.ask_to_confirm(&announcement),
            Opened::Ignored => {}
        }
    }

    async fn answer(&self, message: Message) {
        let Some(reply) = message.reply else { return };
        if &*message.payload == INVENTORY
            && let Some(inventory) = self.inventories.own_inventory()
        {
            return self.send_bytes(&reply, inventory).await;
        }
        let table = &self.peers.0.table;
        let announcement =
            if &*message.payload == ROSTER { table.own_announcement() } else { table.own_beat() };
        self.send(&reply, &self.watch.sign(announcement), message.headers.as_ref()).await;
    }

    /// Applies an announcement to the table; says whether it was one of another host. `is_beat`
    /// says that only those that watch it heard it.
    fn take(&mut self, announcement: &Announcement, is_beat: bool) -> bool {
        let table = &self.peers.0.table;
        let heard = table.apply(announcement);
        self.watch.hear(table, announcement, &heard, is_beat, Instant::now());
        self.follow(announcement, heard, is_beat)
    }

    /// Does what follows from an announcement that was applied.
    fn follow(&mut self, announcement: &Announcement, heard: Heard, is_beat: bool) -> bool {
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
                // A word of it that comes late would bring it back.
                self.settle();
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
            self.asked.ask(host_id);
        }
        if !is_beat {
            self.inventories.ask_what_runs(announcement);
        }
        true
    }

    /// Asks a host whether it said what was heard of it. In a large lattice all others ask it too.
    fn ask_to_confirm(&mut self, said: &Announcement) {
        let pause = if self.watch.is_small() { Duration::ZERO } else { self.by_chance() };
        self.asked.ask_to_confirm(&said.host, said.count, pause);
    }

    /// Takes what a host answered that was asked for what it offers.
    fn told(&mut self, (host, answer): Told) {
        let Some((payload, nonce)) = answer else {
            debug!(host_id = %host, "a host does not tell what it offers");
            return self.asked.end(&host, End::Silence);
        };
        match self.words.open_answer(&payload, &nonce) {
            Opened::Believed(announcement) if announcement.host == host => {
                // Asked again at once, a host that does not tell would be asked without end.
                let table = &self.peers.0.table;
                let heard = table.apply_answer(&announcement);
                self.watch.hear(table, &announcement, &heard, false, Instant::now());
                let heard = match heard {
                    Heard::New { .. } => Heard::New { ask: false },
                    Heard::Back { .. } => Heard::Back { ask: false },
                    Heard::Ask => Heard::Known,
                    heard => heard,
                };
                self.follow(&announcement, heard, false);
                self.asked.end(&host, End::Answered(announcement.count));
            }
            _ => {
                debug!(host_id = %host, "the answer to a question is not that of the host");
                self.asked.end(&host, End::GivenUp);
            }
        }
    }

    fn look(&mut self) {
        self.peers.0.table.forget(GONE);
        // Calls may have noticed a loss before.
        for peer in self.peers.0.table.others() {
            if peer.is_lost() && peer.silence() >= SILENT {
                self.peers.0.memory.lose(&peer.id, clock::now_ms());
            }
        }
        // A host that is lost or has left is waited for no longer.
        self.settle();
        self.words.sessions().forget_former();
        self.asked.ask_due();
        self.inventories.ask_again();
    }

    async fn say(&self, announcement: &Announcement, reply: Option<String>) {
        self.publish(self.hosts.clone(), HeaderMap::new(), announcement, reply).await;
    }

    async fn publish(
        &self,
        subject: String,
        headers: HeaderMap,
        announcement: &Announcement,
        reply: Option<String>,
    ) {
        let payload = self.words.seal(announcement, self.client.max_payload());
        self.publish_sealed(subject, headers, payload, reply).await;
    }

    async fn publish_sealed(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
        reply: Option<String>,
    ) {
        let client = &self.client;
        let sending = async {
            match reply {
                Some(reply) if headers.is_empty() => {
                    client.publish_with_reply(subject, reply, payload).await
                }
                Some(reply) => {
                    client.publish_with_reply_and_headers(subject, reply, headers, payload).await
                }
                None => client.publish(subject, payload).await,
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

/// Whether what this host takes back waits for a peer, one of so many.
fn may_call(peer: &Peer, others: usize) -> bool {
    !peer.is_lost() && (others <= FEW || peer.calls_within(CALLS))
}

/// Counts one more in this second, if that many may be.
fn takes_one_more((second, count): &mut (Instant, u32), now: Instant) -> bool {
    if now.saturating_duration_since(*second) >= Duration::from_secs(1) {
        (*second, *count) = (now, 0);
    }
    *count += 1;
    *count <= WELCOMES_MAX
}

/// Waits until another key is due, and at least until then. Safe to drop.
async fn key_due(sessions: &Sessions, at: Instant) {
    tokio::time::sleep_until(at).await;
    sessions.key_due().await;
}

/// Says in the log which hosts are lost, or how many.
fn warn_of(lost: &[Arc<Peer>]) {
    if lost.len() > NAMED_MAX {
        let hosts = lost.len();
        return warn!(
            hosts,
            "many hosts are silent; calls go to others until they are heard again"
        );
    }
    for peer in lost {
        let silent_ms = clock::millis(peer.silence());
        warn!(host_id = %peer.id, silent_ms, "a host is silent; calls go to others until it is heard again");
    }
}

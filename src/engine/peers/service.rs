//! Speaks for this host and listens to the others.
//!
//! One task does it all: speaks and listens as [`watch`](super::watch) says, answers, and asks
//! those whose offers it does not know. Some hosts it also asks what they run, to remember it if
//! they are lost ([`lost`](super::lost)). An own change is told to all; if it takes something back,
//! those that call this host confirm it. Changes that come close together are told together.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::poll_fn,
    hash::Hasher,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use async_nats::{Client, HeaderMap, Message, Subject, Subscriber, connection::State};
use bytes::Bytes;
use futures::StreamExt;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};

use super::{
    Peers,
    lost::{INVENTORY_BYTES_MAX, KEEPERS, is_chosen},
    peer::Peer,
    ring::{FEW, Fnv, spread},
    table::{Heard, PEERS_MAX},
    watch::{AT_CHARS, SILENT, Turn, Watch},
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
    peers::wire::{Announcement, INVENTORY, Known, ROSTER},
};

/// Silent for this long, a host is forgotten.
const GONE: Duration = Duration::from_secs(60);
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
/// Hosts of a large lattice that answer one that has just come, and hosts in one answer of theirs.
const WELCOMERS: usize = 3;
const KNOWN_MAX: usize = 1000;
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
        beats: HashMap::new(),
        hellos: 0,
        is_welcome: false,
        hello_at: Instant::now(),
        subjects: subjects.clone(),
        announcements: client.subscribe(subjects.hosts()).await?,
        questions: client.subscribe(subjects.host(&own)).await?,
        answers: client.subscribe(format!("{inbox}.>")).await?,
        inbox,
        asking: JoinSet::new(),
        asked: HashSet::new(),
        again: HashSet::new(),
        to_ask: VecDeque::new(),
        confirmed: HashMap::new(),
        learning: JoinSet::new(),
        learnt: HashMap::new(),
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
    subjects: Subjects,
    hosts: String,
    own_beats: String,
    watch: Watch,
    connection: Connection,
    /// The beats of the hosts that this one watches, by their ids.
    beats: HashMap<String, Subscriber>,
    /// How often it has said hello, whether anybody answered, and when it says it again.
    hellos: usize,
    is_welcome: bool,
    hello_at: Instant,
    announcements: Subscriber,
    questions: Subscriber,
    /// Confirmations of own announcements, on subjects below `inbox`.
    answers: Subscriber,
    inbox: String,
    /// Questions for what others offer, and whom they went to.
    asking: JoinSet<(String, Option<Opened>)>,
    asked: HashSet<String>,
    /// Those of them that said something meanwhile, which their answers may not know yet.
    again: HashSet<String>,
    /// Hosts to be asked when there is room.
    to_ask: VecDeque<String>,
    /// The last own roster each peer has confirmed.
    confirmed: HashMap<String, u64>,
    /// Questions for what others run, and whom they went to.
    learning: JoinSet<(String, Option<Inventory>)>,
    /// The hosts that were asked what they run.
    learnt: HashMap<String, Learnt>,
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

/// When a host was asked what it runs.
struct Learnt {
    incarnation: u64,
    roster: u64,
    runs: Option<u32>,
    /// When it is asked again without a change.
    due: Instant,
    /// It is asked once more then in any case.
    is_again: bool,
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
                Some(message) = self.announcements.next() => self.handle_announcement(message).await,
                Some(message) = self.questions.next() => self.answer(message).await,
                Some(message) = self.answers.next() => self.take_answer(&message),
                message = next_of(&mut self.beats) => self.take_beat(&message),
                Some(done) = self.asking.join_next(), if !self.asking.is_empty() => self.told(done),
                Some(done) = self.learning.join_next(), if !self.learning.is_empty() => self.learn(done),
                () = peers.0.changed.notified() => self.is_changed = true,
                () = tokio::time::sleep_until(self.tell_at), if self.is_changed => self.tell().await,
                () = tokio::time::sleep_until(self.hello_at), if self.may_greet() => self.hello().await,
                hosts = sessions.wanted() => hosts.iter().for_each(|host| self.ask(host)),
                () = sessions.key_due() => self.renew_key().await,
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
            tokio::time::sleep(TELL).await;
        }
        let word = self.watch.stamp(self.peers.0.table.own_beat(), Instant::now());
        self.say(&self.words.with_key(word), None).await;
    }

    /// Does what is due by the time.
    async fn turn(&mut self) {
        let now = Instant::now();
        let connection = Connection::of(&self.client);
        if connection != self.connection && self.client.connection_state() == State::Connected {
            self.watch.rejoin(connection.at(), now);
            self.connection = connection;
        }
        let Turn { word, beat, lost, listen } = self.watch.turn(&self.peers.0.table, now);
        // While it catches up after a pause it would only refuse what others sent it.
        let is_stale = self.suspend.is_stale();
        if is_stale && word.is_some() {
            self.watch.postpone(now);
        }
        if let Some(mut word) = word.filter(|_| !is_stale) {
            word.runs = (word.interval_ms > 0).then(|| self.own_runs()).flatten();
            self.say(&word, None).await;
        }
        if let Some(beat) = beat.filter(|_| !is_stale) {
            self.publish(self.own_beats.clone(), HeaderMap::new(), &beat, None).await;
        }
        warn_of(&lost);
        if let Some(listen) = listen {
            self.listen(listen).await;
            self.look();
        }
    }

    /// Listens to the beats of these hosts, and of no others.
    async fn listen(&mut self, hosts: HashSet<String>) {
        self.beats.retain(|host, _| hosts.contains(host));
        for host in hosts {
            if self.beats.contains_key(&host) {
                continue;
            }
            let subscribing = self.client.subscribe(self.subjects.beat(&host));
            match tokio::time::timeout(SEND, subscribing).await {
                Ok(Ok(beats)) => _ = self.beats.insert(host, beats),
                _ => return debug!(host_id = %host, "the beats of a host cannot be heard"),
            }
        }
    }

    /// Takes the answer to a hello or to a change.
    fn take_answer(&mut self, message: &Message) {
        let announcement = match self.words.open(&message.payload) {
            Opened::Believed(announcement) => announcement,
            Opened::ToConfirm(announcement) => return self.ask_to_confirm(&announcement.host),
            Opened::Ignored => return,
        };
        self.take(&announcement, false);
        self.is_welcome = true;
        for Known(host, incarnation, roster) in &announcement.known {
            if !self.peers.0.table.knows(host, *incarnation, *roster) {
                self.ask(host);
            }
        }
        let roster =
            message.subject.rsplit('.').next().and_then(|number| number.parse::<u64>().ok());
        if let Some(roster) = roster {
            let last = self.confirmed.entry(announcement.host).or_default();
            *last = roster.max(*last);
        }
        self.settle();
    }

    /// Finds out what every peer has heard that may call this host.
    fn settle(&mut self) {
        let table = &self.peers.0.table;
        let others = table.others();
        self.confirmed.retain(|host, _| table.find(host).is_some());
        self.learnt.retain(|host, _| table.find(host).is_some());
        self.words.retain(|host| table.find(host).is_some());
        let may_call = |peer: &&Arc<Peer>| {
            !peer.is_lost() && (others.len() <= FEW || peer.calls_within(CALLS))
        };
        let confirmed = |peer: &Arc<Peer>| self.confirmed.get(&*peer.id).copied().unwrap_or(0);
        let heard = others.iter().filter(may_call).map(confirmed).min();
        let heard = heard.unwrap_or_else(|| table.own_beat().roster);
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
                if !self.take(&announcement, false) {
                    return;
                }
                announcement
            }
            Opened::ToConfirm(announcement) => {
                self.ask_to_confirm(&announcement.host);
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
        let is_caller =
            || table.find(&announcement.host).is_some_and(|peer| peer.is_called_within(CALLED));
        let is_old = announcement.at.is_empty();
        if is_old || table.others().len() <= CONFIRM_ALL || is_caller() {
            self.send(reply, &self.watch.sign(table.own_beat()), question).await;
        }
    }

    /// Answers a host that has just come. Hosts of before know nobody but those that answer.
    async fn welcome(
        &self,
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
        if !is_chosen(table.own_id(), &newcomer.host, ids, WELCOMERS) {
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
        match self.words.open(&message.payload) {
            Opened::Believed(announcement) => _ = self.take(&announcement, true),
            Opened::ToConfirm(announcement) => self.ask_to_confirm(&announcement.host),
            Opened::Ignored => {}
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
        self.send(&reply, &self.watch.sign(announcement), message.headers.as_ref()).await;
    }

    /// Applies an announcement to the table; says whether it was one of another host. `is_beat`
    /// says that only those that watch it heard it.
    fn take(&mut self, announcement: &Announcement, is_beat: bool) -> bool {
        let heard = self.peers.0.table.apply(announcement);
        self.watch.hear(announcement, &heard, is_beat, Instant::now());
        self.follow(announcement, heard)
    }

    /// Does what follows from an announcement that was applied.
    fn follow(&mut self, announcement: &Announcement, heard: Heard) -> bool {
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
        let Announcement { host, incarnation, roster, runs, .. } = announcement;
        let now = Instant::now();
        let asked = self.learnt.get(host);
        let is_same =
            asked.is_some_and(|asked| (asked.incarnation, asked.roster) == (*incarnation, *roster));
        // Of those that say when it is something else, words without a number tell nothing.
        let is_fresh = is_same
            && asked.is_some_and(|asked| match runs {
                Some(_) => asked.runs == *runs,
                None => announcement.interval_ms > 0 || now < asked.due,
            });
        if is_fresh || self.learning.len() >= ASKING_MAX {
            return;
        }
        let due = now + if is_same { RUNS_AGAIN } else { RUNS_SOON };
        let runs = runs.or_else(|| asked.and_then(|asked| asked.runs));
        let (incarnation, roster, is_again) = (*incarnation, *roster, !is_same);
        self.learnt.insert(host.clone(), Learnt { incarnation, roster, runs, due, is_again });
        self.ask_inventory(host);
    }

    /// Asks once more what those run that changed a moment ago.
    fn ask_again(&mut self) {
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
            self.ask_inventory(&host);
        }
    }

    fn ask_inventory(&mut self, host: &str) {
        if !self.keeps(host) {
            return;
        }
        let (client, subject, host) =
            (self.client.clone(), self.subjects.host(host), host.to_owned());
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
        is_chosen(own, host, there, KEEPERS)
    }

    /// A number that is another when this host runs something else.
    fn own_runs(&self) -> Option<u32> {
        let inventory = self.peers.0.inventory.get()?();
        let timeless = Inventory { uptime_human: String::new(), uptime_seconds: 0, ..inventory };
        let mut hasher = Fnv::default();
        hasher.write(&serde_json::to_vec(&timeless).ok()?);
        u32::try_from(hasher.finish() >> 32).ok()
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

    /// Asks a host whether it said what was heard of it. In a large lattice all others ask it too.
    fn ask_to_confirm(&mut self, host: &str) {
        if self.asked.contains(host) {
            self.again.insert(host.to_owned());
            return;
        }
        let others = self.peers.0.table.others().len();
        self.ask_after(
            host,
            match self.watch.is_small() {
                true => Duration::ZERO,
                false => spread(others).mul_f64(rand::random()),
            },
        );
    }

    /// Asks a host for what it offers, unless it is being asked; later if too many are.
    fn ask(&mut self, host: &str) {
        self.ask_after(host, Duration::ZERO);
    }

    fn ask_after(&mut self, host: &str, pause: Duration) {
        if self.asked.contains(host) {
            return;
        }
        if self.asking.len() >= ASKING_MAX {
            if self.to_ask.len() < PEERS_MAX && !self.to_ask.iter().any(|other| other == host) {
                self.to_ask.push_back(host.to_owned());
            }
            return;
        }
        self.asked.insert(host.to_owned());
        let (client, subject, host) =
            (self.client.clone(), self.subjects.host(host), host.to_owned());
        let words = self.words.clone();
        self.asking.spawn(async move {
            tokio::time::sleep(pause).await;
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
        if self.again.remove(&host) {
            self.ask(&host);
        }
        if let Some(next) = self.to_ask.pop_front() {
            self.ask(&next);
        }
        match opened {
            Some(Opened::Believed(announcement)) if announcement.host == host => {
                // Asked again at once, a host that does not tell would be asked without end.
                let heard = self.peers.0.table.apply_answer(&announcement);
                self.watch.hear(&announcement, &heard, false, Instant::now());
                let heard = match heard {
                    Heard::New { .. } => Heard::New { ask: false },
                    Heard::Back { .. } => Heard::Back { ask: false },
                    Heard::Ask => Heard::Known,
                    heard => heard,
                };
                self.follow(&announcement, heard);
            }
            Some(_) => debug!(host_id = %host, "the answer to a question is not that of the host"),
            // Its next beat makes us ask again.
            None => debug!(host_id = %host, "a host does not tell what it offers"),
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
        self.ask_again();
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

/// Waits for a message of one of these; for ever if there is none.
async fn next_of(subscribers: &mut HashMap<String, Subscriber>) -> Message {
    poll_fn(|context| {
        let mut ready = subscribers.values_mut().map(|beats| beats.poll_next_unpin(context));
        let message = ready.find_map(|polled| match polled {
            Poll::Ready(message) => message,
            Poll::Pending => None,
        });
        message.map_or(Poll::Pending, Poll::Ready)
    })
    .await
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

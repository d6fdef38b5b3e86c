//! Speaks for this host and listens to the others.
//!
//! One task does it all: beats, listens, answers, looks for who is silent, and asks those whose offers it does not know. An
//! own change is told to all at once, with the request to confirm it; changes that come while one is being confirmed are told
//! together after it.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, info, info_span, warn};

use super::{
    Peers,
    table::Heard,
    wire::{ROSTER, Word},
};
use crate::{
    lattice::{connection::confirm, subject::Subjects},
    shutdown::essential,
    vigil::Vigil,
};

/// How often a host says that it is there.
const BEAT: Duration = Duration::from_secs(1);
/// Silent for this long, a host counts as lost: two beats and what the network may add. With [`LOOK`] within three seconds.
const SILENT: Duration = Duration::from_millis(2500);
/// Silent for this long, it is forgotten.
const GONE: Duration = Duration::from_secs(60);
/// How often the silent are looked for.
const LOOK: Duration = Duration::from_millis(250);
/// How long peers have to confirm a change.
const CONFIRM: Duration = Duration::from_millis(400);
/// How long a peer may take to tell what it offers.
const ASK: Duration = Duration::from_secs(2);
/// How long handing a word to the connection may take.
const SEND: Duration = Duration::from_secs(1);

/// Subscribes and says hello; returns when this host hears and can be heard. Then it goes on until `leave`, and ends with a
/// goodbye. The other two tokens are: this host is closing, and this host cannot go on.
pub async fn spawn(
    peers: &Peers,
    client: &Client,
    subjects: &Subjects,
    vigil: Vigil,
    leave: CancellationToken,
    (closing, failed): (CancellationToken, CancellationToken),
    tasks: &TaskTracker,
) -> anyhow::Result<JoinHandle<()>> {
    let own = peers.0.table.own_word(false).host;
    let inbox = client.new_inbox();
    let service = Service {
        peers: peers.clone(),
        vigil,
        client: client.clone(),
        hosts: subjects.hosts(),
        subjects: subjects.clone(),
        words: client.subscribe(subjects.hosts()).await?,
        questions: client.subscribe(subjects.host(&own)).await?,
        answers: client.subscribe(format!("{inbox}.>")).await?,
        inbox,
        asking: JoinSet::new(),
        asked: HashSet::new(),
        telling: None,
        looked: Instant::now(),
    };
    confirm(client).await?;
    service.hello().await;
    let running = service.run(leave).instrument(info_span!("peers"));
    Ok(tasks.spawn(essential("peer service", running, closing, failed)))
}

struct Service {
    peers: Peers,
    vigil: Vigil,
    client: Client,
    subjects: Subjects,
    hosts: String,
    words: Subscriber,
    questions: Subscriber,
    /// Confirmations of own words, on subjects below `inbox`.
    answers: Subscriber,
    inbox: String,
    /// Questions for what others offer, and whom they went to.
    asking: JoinSet<(String, Option<Word>)>,
    asked: HashSet<String>,
    telling: Option<Telling>,
    /// When it last looked for the silent.
    looked: Instant,
}

/// A change that is being confirmed.
struct Telling {
    roster: u64,
    missing: HashSet<Arc<str>>,
    until: Instant,
}

impl Service {
    /// Says that it is new; the others answer with what they offer.
    async fn hello(&self) {
        let word = Word { hello: true, ..self.peers.0.table.own_word(true) };
        self.say(&word, Some(format!("{}.hello", self.inbox))).await;
    }

    async fn run(mut self, leave: CancellationToken) {
        let mut beat = interval(BEAT);
        let mut look = interval(LOOK);
        for timer in [&mut beat, &mut look] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let peers = self.peers.clone();
        loop {
            let until = self.telling.as_ref().map(|telling| telling.until);
            tokio::select! {
                () = leave.cancelled() => break,
                Some(message) = self.words.next() => self.heed(message).await,
                Some(message) = self.questions.next() => self.answer(message).await,
                Some(message) = self.answers.next() => self.confirmed(&message),
                Some(done) = self.asking.join_next(), if !self.asking.is_empty() => self.told(done),
                () = peers.0.changed.notified(), if until.is_none() => self.tell().await,
                () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => self.all_heard(),
                // While it catches up after a pause it would only refuse what others sent it.
                _ = beat.tick(), if !self.vigil.may_be_old() => {
                    let word = self.peers.0.table.own_word(false);
                    self.say(&word, None).await;
                }
                _ = look.tick() => self.look(),
            }
        }
        let word = Word { goodbye: true, ..self.peers.0.table.own_word(false) };
        self.say(&word, None).await;
    }

    /// Tells everybody what this host offers now.
    async fn tell(&mut self) {
        let word = self.peers.0.table.own_word(true);
        let others = self.peers.0.table.others();
        let missing: HashSet<Arc<str>> =
            others.iter().filter(|peer| !peer.is_lost()).map(|peer| Arc::clone(&peer.id)).collect();
        let reply = format!("{}.{}", self.inbox, word.roster);
        self.say(&word, Some(reply)).await;
        self.telling = Some(Telling { roster: word.roster, missing, until: Instant::now() + CONFIRM });
        self.settle();
    }

    fn confirmed(&mut self, message: &Message) {
        let Some(word) = parse(message) else { return };
        self.take(&word);
        if let Some(telling) = &mut self.telling
            && message.subject.strip_prefix(&*self.inbox).and_then(|tail| tail.strip_prefix('.'))
                == Some(&*telling.roster.to_string())
        {
            telling.missing.remove(&*word.host);
        }
        self.settle();
    }

    fn settle(&mut self) {
        if self.telling.as_ref().is_some_and(|telling| telling.missing.is_empty()) {
            self.all_heard();
        }
    }

    /// Everybody has heard, or had the time to.
    fn all_heard(&mut self) {
        if let Some(telling) = self.telling.take() {
            self.peers.0.heard.send_replace(telling.roster);
        }
    }

    /// Heeds a word that went to all, and confirms it if it asks for that.
    async fn heed(&mut self, message: Message) {
        let Some(word) = parse(&message) else { return };
        if !self.take(&word) {
            return;
        }
        if let Some(reply) = message.reply {
            let own = self.peers.0.table.own_word(word.hello);
            self.send(reply.into_string(), &own).await;
        }
    }

    async fn answer(&self, message: Message) {
        let Some(reply) = message.reply else { return };
        let word = self.peers.0.table.own_word(&*message.payload == ROSTER);
        self.send(reply.into_string(), &word).await;
    }

    /// Takes a word into the table; says whether it was one of another host.
    fn take(&mut self, word: &Word) -> bool {
        let host_id = &word.host;
        let heard = self.peers.0.table.heed(word);
        match heard {
            Heard::Ignored => return false,
            Heard::Known => {}
            Heard::New { .. } => info!(%host_id, "another host is in the lattice"),
            Heard::Back { .. } => info!(%host_id, "a silent host is back"),
            Heard::Left => info!(%host_id, "a host left the lattice"),
            Heard::Ask => {}
        }
        if matches!(heard, Heard::Ask | Heard::New { ask: true } | Heard::Back { ask: true }) {
            self.ask(host_id);
        }
        true
    }

    /// Asks a host for what it offers, unless it is being asked.
    fn ask(&mut self, host: &str) {
        if !self.asked.insert(host.to_owned()) {
            return;
        }
        let (client, subject, host) = (self.client.clone(), self.subjects.host(host), host.to_owned());
        self.asking.spawn(async move {
            let answer = tokio::time::timeout(ASK, client.request(subject, Bytes::from_static(ROSTER))).await;
            (host, answer.ok().and_then(Result::ok).as_ref().and_then(parse))
        });
    }

    fn told(&mut self, done: Result<(String, Option<Word>), tokio::task::JoinError>) {
        let Ok((host, word)) = done else { return self.asked.clear() };
        self.asked.remove(&host);
        match word {
            Some(word) => {
                self.take(&word);
            }
            // Its next beat makes us ask again.
            None => debug!(host_id = %host, "a host does not tell what it offers"),
        }
    }

    fn look(&mut self) {
        let paused = self.looked.elapsed() > BEAT;
        self.looked = Instant::now();
        if paused {
            // It was this host that heard nothing.
            return self.peers.0.table.excuse();
        }
        for peer in self.peers.0.table.look(SILENT, GONE) {
            let silent_ms = peer.silence().as_millis() as u64;
            warn!(host_id = %peer.id, silent_ms, "a host is silent; calls go to others until it is heard again");
        }
    }

    async fn say(&self, word: &Word, reply: Option<String>) {
        let payload = encode(word);
        let sending = async {
            match reply {
                Some(reply) => self.client.publish_with_reply(self.hosts.clone(), reply, payload).await,
                None => self.client.publish(self.hosts.clone(), payload).await,
            }
        };
        if !matches!(tokio::time::timeout(SEND, sending).await, Ok(Ok(()))) {
            debug!("a word to the other hosts was not sent");
        }
    }

    async fn send(&self, subject: String, word: &Word) {
        let sending = self.client.publish(subject, encode(word));
        if !matches!(tokio::time::timeout(SEND, sending).await, Ok(Ok(()))) {
            debug!("an answer to another host was not sent");
        }
    }
}

fn parse(message: &Message) -> Option<Word> {
    serde_json::from_slice(&message.payload).ok()
}

fn encode(word: &Word) -> Bytes {
    // A structure of texts and numbers.
    serde_json::to_vec(word).expect("a word is always encodable").into()
}

//! The sessions of this host with others, and the hosts that proved to belong to the lattice.
//!
//! A host whose key a trusted cluster certified is a *member*: from then on only what it signed is
//! believed of it ([`words`](super::words) decides that), its calls and answers are proven by
//! codes, and nothing unproven is taken in its name. Members come and go with the table of peers.
//!
//! A session belongs to a key of this host and one of a member, and is made when it is first
//! needed. It lives as long as the key of this host: its window says which calls came before, so it
//! must not be forgotten while the keys still count. A key is used for an hour, and counts for two
//! minutes more.
//!
//! Calls read all this without a lock; the window of a session has one of its own.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tracing::warn;

use lattice_protocol::{
    clock,
    identity::{
        keys::{ClusterKey, HostId, KeyError, Kind},
        signature::{SigningKey, VerifyingKey},
    },
    peers::{
        sealed::{Signature, SignedAnswer},
        session::{End, KeyPair, OwnKey, PublicKey, Refused, SessionCall, Stale, Window},
        wire::{Announcement, Certificate, SessionKey},
    },
};

/// How long a key is used.
const KEY_LIFE: Duration = Duration::from_secs(60 * 60);
/// Calls of one session after which another key is made.
const CALLS_OF_A_KEY: u64 = 1 << 30;
/// How long a former key counts.
const FORMER: Duration = Duration::from_secs(120);
/// How long calls still go out under the former key: others have to hear of the new one.
const SETTLE: Duration = Duration::from_secs(3);
/// How long a certificate counts: hosts whose clocks differ by a day know each other.
const CERTIFIED: Duration = Duration::from_secs(2 * 24 * 60 * 60);
/// Calls of a peer that may overtake one of them: half a minute of all that a machine does. Calls
/// to a busy actor wait while those to others go on.
const CALLS_WINDOW: u64 = 1 << 20;
/// Messages of a host that may overtake one of them; it answers others in between.
const WORDS_WINDOW: u64 = 1 << 12;
/// Hosts whose keys are to be asked for.
const WANTED_MAX: usize = 256;
/// The log tells of refused messages of one kind at most this often.
const LOG_PAUSE: Duration = Duration::from_secs(60);

/// The sessions of a host. Cheap to clone.
#[derive(Clone)]
pub struct Sessions(Arc<Inner>);

/// The input of sessions.
pub struct Settings {
    pub lattice: String,
    /// The key of this host, whose public part is its id.
    pub host_key: SigningKey,
    /// The key of the cluster, which certifies this host.
    pub cluster: SigningKey,
    /// The clusters whose hosts are trusted.
    pub issuers: Vec<ClusterKey>,
    /// Nothing unsigned is taken from anybody (`require_signed_answers`).
    pub requires_signed: bool,
}

struct Inner {
    settings: Settings,
    issuers: HashMap<String, VerifyingKey>,
    own: ArcSwap<OwnKeys>,
    members: ArcSwap<HashMap<Arc<str>, Arc<Member>>>,
    /// By the ids of the own and the other key.
    sessions: ArcSwap<HashMap<(u64, u64), Arc<Session>>>,
    // These are held for lines, never across an await. The first one while sessions or members
    // change.
    changing: Mutex<()>,
    wanted: Mutex<HashSet<Arc<str>>>,
    want: Notify,
    /// A key has had its calls.
    used_up: Notify,
    /// The number of the last own message.
    count: AtomicU64,
    began: Instant,
    refusals: Refusals,
}

/// The own keys that count.
struct OwnKeys {
    current: Arc<OwnKey>,
    since: Instant,
    former: Option<Arc<OwnKey>>,
    certificate: Certificate,
}

/// A host that proved to belong to the lattice.
pub(super) struct Member {
    pub(super) id: Arc<str>,
    pub(super) key: VerifyingKey,
    // Held for lines, by the service alone.
    heard: Mutex<HeardOf>,
    keys: ArcSwap<PeerKeys>,
}

/// The messages of a member that were heard.
struct HeardOf {
    incarnation: u64,
    /// The number of the message that began what is known of this start.
    began: u64,
    counts: Window,
    /// The number of the message that told the current key.
    told_key: u64,
}

/// The session keys of a member.
#[derive(Clone)]
struct PeerKeys {
    current: PublicKey,
    /// The member did not know this session lately, so its key has to be asked for.
    is_doubtful: bool,
    former: Option<(PublicKey, Instant)>,
}

/// The keys that this host shares with another one, and the calls so far.
pub struct Session {
    /// The other host.
    pub host: Arc<str>,
    own_key: u64,
    peer_key: u64,
    pub keys: KeyPair,
    /// The counter of the last own call.
    last: AtomicU64,
    // Held for lines.
    seen: Mutex<Window>,
}

/// The knowledge about the answers of a host.
pub enum Standing {
    /// It never said that it signs anything.
    Unsigned,
    /// It proves its answers. The session is missing while its key has to be asked for.
    Member(Option<Arc<Session>>),
}

/// Messages that were refused because nothing proved them.
#[derive(Default)]
struct Refusals {
    words: Counted,
    calls: Counted,
    answers: Counted,
}

/// Refused messages of one kind.
#[derive(Default)]
struct Counted {
    count: AtomicU64,
    logged: Mutex<Option<Instant>>,
}

/// The kinds of messages that are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Word,
    Call,
    Answer,
}

impl Sessions {
    /// Makes the first key of this start.
    pub fn new(settings: Settings) -> Result<Self, SessionsError> {
        let issuers = settings.issuers.iter().map(|issuer| {
            let key = VerifyingKey::parse(issuer.as_str(), Kind::Cluster)?;
            Ok((issuer.to_string(), key))
        });
        let issuers = issuers.collect::<Result<_, KeyError>>()?;
        let own_id: Arc<str> = settings.host_key.public_key().into();
        let own = OwnKeys::new(&settings, None)?;
        let own_member = Member::new(&own_id, *own.current.public())?;
        let members = HashMap::from([(own_id, Arc::new(own_member))]);
        Ok(Self(Arc::new(Inner {
            settings,
            issuers,
            own: ArcSwap::from_pointee(own),
            members: ArcSwap::from_pointee(members),
            sessions: ArcSwap::default(),
            changing: Mutex::default(),
            wanted: Mutex::default(),
            want: Notify::new(),
            used_up: Notify::new(),
            count: AtomicU64::new(0),
            began: Instant::now(),
            refusals: Refusals::default(),
        })))
    }

    /// Returns the id of this host.
    pub fn own_id(&self) -> &str {
        self.0.settings.host_key.public_key()
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Says whether nothing unsigned is taken from anybody.
    pub fn requires_signed(&self) -> bool {
        self.0.settings.requires_signed
    }

    /// Returns how a host proves its answers, and the session for calls to it.
    pub fn standing(&self, host: &str) -> Standing {
        let Some(member) = self.0.members.load().get(host).cloned() else {
            return Standing::Unsigned;
        };
        let keys = member.keys.load();
        if keys.is_doubtful {
            return Standing::Member(None);
        }
        let own = self.0.own.load();
        Standing::Member(self.0.session(own.outgoing(), &member, &keys.current))
    }

    /// Says whether a host proved to belong to the lattice.
    pub fn is_member(&self, host: &str) -> bool {
        self.0.members.load().contains_key(host)
    }

    /// Returns the session that a call or a question names; nothing if one of its keys is unknown.
    pub fn find(&self, call: &SessionCall) -> Option<Arc<Session>> {
        let own = self.0.own.load().find(call.callee_key)?;
        let ids = (call.callee_key, call.caller_key);
        if let Some(session) = self.0.sessions.load().get(&ids) {
            return Some(Arc::clone(session));
        }
        let members = self.0.members.load();
        let found = members.values().find_map(|member| {
            member.keys.load().find(call.caller_key).map(|key| (Arc::clone(member), key))
        });
        let (member, key) = found?;
        self.0.session(&own, &member, &key)
    }

    /// Returns the number of the next own call in a session.
    pub fn next(&self, session: &Session) -> u64 {
        let counter = session.last.fetch_add(1, Ordering::Relaxed) + 1;
        if counter == CALLS_OF_A_KEY {
            self.0.used_up.notify_one();
        }
        counter
    }

    /// Notes that a member does not know a session: until its key is known, calls to it have
    /// tokens.
    pub fn doubt(&self, session: &Session) {
        if let Some(member) = self.0.members.load().get(&session.host) {
            member.keys.rcu(|keys| {
                let is_doubtful = keys.is_doubtful || keys.current.id == session.peer_key;
                PeerKeys { is_doubtful, ..PeerKeys::clone(keys) }
            });
        }
        self.want(&session.host);
    }

    /// Lets a host be asked for its key. The name may be anything that somebody sent.
    pub fn want(&self, host: &str) {
        if HostId::parse(host).is_err() {
            return;
        }
        let mut wanted = self.0.wanted.lock();
        if wanted.len() < WANTED_MAX {
            wanted.insert(host.into());
            self.0.want.notify_one();
        }
    }

    /// Waits for hosts that are to be asked for their keys. Safe to drop.
    pub(super) async fn wanted(&self) -> HashSet<Arc<str>> {
        self.0.want.notified().await;
        std::mem::take(&mut *self.0.wanted.lock())
    }

    /// Waits until another key is due. Safe to drop.
    pub(super) async fn key_due(&self) {
        let due = self.0.own.load().since + KEY_LIFE;
        tokio::select! {
            () = sleep_until(due) => {}
            () = self.0.used_up.notified() => {}
        }
    }

    /// Makes another key. The one before counts for a while.
    pub(super) fn renew_key(&self) -> Result<(), SessionsError> {
        let inner = &self.0;
        let _changing = inner.changing.lock();
        let before = inner.own.load_full();
        let own = OwnKeys::new(&inner.settings, Some(Arc::clone(&before.current)))?;
        if let Some(member) = inner.members.load().get(self.own_id()) {
            member.keys.store(Arc::new(member.keys.load().replaced(*own.current.public())));
        }
        let count = [own.current.public().id, before.current.public().id];
        inner.own.store(Arc::new(own));
        inner.sessions.rcu(|sessions| {
            let live = sessions.iter().filter(|((own, _), _)| count.contains(own));
            live.map(|(ids, session)| (*ids, Arc::clone(session))).collect::<HashMap<_, _>>()
        });
        Ok(())
    }

    /// Signs an answer.
    pub fn sign(&self, answer: &SignedAnswer<'_>) -> Signature {
        self.0.settings.host_key.sign(&answer.message())
    }

    /// Says whether a member signed an answer.
    pub fn is_signed(&self, host: &str, answer: &SignedAnswer<'_>, by: &Signature) -> bool {
        let member = self.0.members.load().get(host).cloned();
        member.is_some_and(|member| member.key.verify(&answer.message(), by))
    }

    /// Returns the lattice.
    pub fn lattice(&self) -> &str {
        &self.0.settings.lattice
    }

    /// Returns how long this host has been running, in milliseconds.
    pub fn runs_ms(&self) -> u64 {
        clock::millis(self.0.began.elapsed())
    }

    /// Counts a message that was refused because nothing proved it, and says so in the log once in
    /// a while.
    pub fn refuse(&self, kind: Refusal, host: &str, why: &str) {
        let refused = self.0.refusals.of(kind);
        let count = refused.count.fetch_add(1, Ordering::Relaxed) + 1;
        {
            let mut logged = refused.logged.lock();
            if logged.is_some_and(|at| at.elapsed() < LOG_PAUSE) {
                return;
            }
            *logged = Some(Instant::now());
        }
        // The name may be anything that somebody sent.
        let host: String = host.chars().take(64).collect();
        warn!(
            host_id = ?host,
            count,
            why,
            "{} refused; somebody may be pretending to be a host of this lattice",
            kind.name()
        );
    }

    /// Returns how many messages of a kind were refused since the start.
    pub fn refused(&self, kind: Refusal) -> u64 {
        self.0.refusals.of(kind).count.load(Ordering::Relaxed)
    }

    /// Gives an own message its number and the key of this host: the whole key and the certificate
    /// with what this host offers, to newcomers, and where they are there already.
    pub(super) fn complete(&self, announcement: &Announcement) -> Announcement {
        let tells_key =
            announcement.offers.is_some() || announcement.hello || announcement.session.is_some();
        let own = self.0.own.load();
        let mut key = own.current.public().tell();
        if !tells_key {
            key = SessionKey { key: None, ..key };
        }
        Announcement {
            count: self.0.count.fetch_add(1, Ordering::Relaxed) + 1,
            session: Some(key),
            cert: tells_key.then(|| own.certificate.clone()),
            ..announcement.clone()
        }
    }

    pub(super) fn member(&self, host: &str) -> Option<Arc<Member>> {
        self.0.members.load().get(host).cloned()
    }

    /// Returns the session key that a message tells, if a trusted cluster certified its host.
    pub(super) fn certified(&self, said: &Announcement) -> Option<PublicKey> {
        let certificate = said.cert.as_ref()?;
        let issuer = self.0.issuers.get(&certificate.issuer)?;
        let (lattice, now) = (&self.0.settings.lattice, clock::unix_time().as_secs());
        let key = PublicKey::read(said.session.as_ref()?)?;
        certificate.counts(issuer, lattice, &said.host, now).then_some(key)
    }

    /// Makes the host of a message a member, with this session key.
    pub(super) fn admit(&self, said: &Announcement, key: PublicKey) -> bool {
        let Ok(member) = Member::new(&said.host, key) else { return false };
        member.begin(said);
        let (member, _changing) = (Arc::new(member), self.0.changing.lock());
        self.0.members.rcu(|members| {
            let mut more = HashMap::clone(members);
            more.insert(Arc::clone(&member.id), Arc::clone(&member));
            more
        });
        true
    }

    /// Forgets the members that are not there any more.
    pub(super) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        let stays = |host: &str| host == self.own_id() || is_there(host);
        if self.0.members.load().keys().all(|host| stays(host)) {
            return;
        }
        let _changing = self.0.changing.lock();
        self.0.members.rcu(|members| {
            let there = members.iter().filter(|(host, _)| stays(host));
            there
                .map(|(host, member)| (Arc::clone(host), Arc::clone(member)))
                .collect::<HashMap<_, _>>()
        });
    }
}

/// Why a host has no sessions.
#[derive(Debug, thiserror::Error)]
pub enum SessionsError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Agreement(#[from] Refused),
}

impl Inner {
    /// Returns the session of two keys, which is made once.
    fn session(&self, own: &OwnKey, member: &Member, peer: &PublicKey) -> Option<Arc<Session>> {
        let ids = (own.public().id, peer.id);
        if let Some(session) = self.sessions.load().get(&ids) {
            return Some(Arc::clone(session));
        }
        let _changing = self.changing.lock();
        if let Some(session) = self.sessions.load().get(&ids) {
            return Some(Arc::clone(session));
        }
        let own_host = self.settings.host_key.public_key();
        let keys = own.agree(own_host, End { host: &member.id, key: peer }).ok()?;
        let session = Arc::new(Session {
            host: Arc::clone(&member.id),
            own_key: ids.0,
            peer_key: ids.1,
            keys,
            last: AtomicU64::new(0),
            seen: Mutex::new(Window::new(CALLS_WINDOW)),
        });
        self.sessions.rcu(|sessions| {
            let mut more = HashMap::clone(sessions);
            more.insert(ids, Arc::clone(&session));
            more
        });
        Some(session)
    }
}

impl OwnKeys {
    fn new(settings: &Settings, former: Option<Arc<OwnKey>>) -> Result<Self, SessionsError> {
        let until = (clock::unix_time() + CERTIFIED).as_secs();
        let (cluster, host) = (&settings.cluster, settings.host_key.public_key());
        Ok(Self {
            current: Arc::new(OwnKey::generate()?),
            since: Instant::now(),
            former,
            certificate: Certificate::issue(cluster, &settings.lattice, host, until),
        })
    }

    /// Returns the key for own calls.
    fn outgoing(&self) -> &OwnKey {
        match &self.former {
            Some(former) if self.since.elapsed() < SETTLE => former,
            _ => &self.current,
        }
    }

    /// Returns the key with this id, if it counts.
    fn find(&self, id: u64) -> Option<Arc<OwnKey>> {
        let former = self.former.iter().filter(|_| self.since.elapsed() < FORMER);
        former.chain([&self.current]).find(|key| key.public().id == id).cloned()
    }
}

impl PeerKeys {
    fn replaced(&self, current: PublicKey) -> Self {
        Self { current, is_doubtful: false, former: Some((self.current, Instant::now())) }
    }

    /// Returns the key with this id, if it counts.
    fn find(&self, id: u64) -> Option<PublicKey> {
        let former = self.former.iter().filter(|(_, since)| since.elapsed() < FORMER);
        former.map(|(key, _)| *key).chain([self.current]).find(|key| key.id == id)
    }
}

impl Member {
    fn new(host: &str, current: PublicKey) -> Result<Self, KeyError> {
        let heard =
            HeardOf { incarnation: 0, began: 0, counts: Window::new(WORDS_WINDOW), told_key: 0 };
        Ok(Self {
            id: host.into(),
            key: VerifyingKey::parse(host, Kind::Server)?,
            heard: Mutex::new(heard),
            keys: ArcSwap::from_pointee(PeerKeys { current, is_doubtful: false, former: None }),
        })
    }

    /// Says whether a message is of the start that is known of it.
    pub(super) fn is_of_this_start(&self, said: &Announcement) -> bool {
        self.heard.lock().incarnation == said.incarnation
    }

    /// Begins anew with the message of another start.
    pub(super) fn begin(&self, said: &Announcement) {
        {
            let mut heard = self.heard.lock();
            heard.incarnation = said.incarnation;
            heard.began = said.count;
            heard.counts = Window::after(WORDS_WINDOW, said.count);
            heard.told_key = 0;
        }
        self.learn(said);
    }

    /// Says whether a message was sent before the one that began what is known of this start: it
    /// was on its way meanwhile, and tells nothing new.
    pub(super) fn is_early(&self, said: &Announcement) -> bool {
        said.count < self.heard.lock().began
    }

    /// Takes a message of the known start, each once.
    pub(super) fn take(&self, said: &Announcement) -> Result<(), Stale> {
        self.heard.lock().counts.take(said.count)
    }

    /// Takes the session key out of a message; says whether the member has to be asked for it.
    pub(super) fn learn(&self, said: &Announcement) -> bool {
        let Some(told) = &said.session else { return false };
        let mut heard = self.heard.lock();
        let keys = self.keys.load();
        if said.count < heard.told_key || (keys.current.id == told.id && !keys.is_doubtful) {
            return false;
        }
        let Some(key) = PublicKey::read(told) else { return true };
        heard.told_key = said.count;
        let news = match keys.current == key {
            true => PeerKeys { is_doubtful: false, ..PeerKeys::clone(&keys) },
            false => keys.replaced(key),
        };
        self.keys.store(Arc::new(news));
        false
    }
}

impl Session {
    /// Returns the key ids of this host's end and of the other one.
    pub fn key_ids(&self) -> (u64, u64) {
        (self.own_key, self.peer_key)
    }

    /// Takes a call that the other host made, each once. Its code must be right.
    pub fn take(&self, counter: u64) -> Result<(), Stale> {
        self.seen.lock().take(counter)
    }
}

impl Refusals {
    fn of(&self, kind: Refusal) -> &Counted {
        match kind {
            Refusal::Word => &self.words,
            Refusal::Call => &self.calls,
            Refusal::Answer => &self.answers,
        }
    }
}

impl Refusal {
    fn name(self) -> &'static str {
        match self {
            Self::Word => "a message in the name of a host was",
            Self::Call => "a call in the name of a host was",
            Self::Answer => "an answer in the name of a host was",
        }
    }
}

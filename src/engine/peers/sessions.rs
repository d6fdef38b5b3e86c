//! The sessions of this host with others, and the hosts that proved to belong to the lattice.
//!
//! A host whose key a trusted cluster certified is a *member*: from then on only what it signed is
//! believed of it ([`words`](super::words) decides that), its calls and answers are proven by
//! codes, and nothing unproven is taken in its name. Members come and go with the table of peers.
//!
//! A session belongs to a key of this host and one of a member, and is made when it is first
//! needed. It lives until one of the keys counts no longer: its window says which calls came
//! before, so it must not be forgotten sooner. A key is used for an hour, and counts for two
//! minutes more. The key of a member that is not there any more may come back with it, so its
//! sessions stay.
//!
//! Calls read all this without a lock; the window of a session has one of its own. The members and
//! their messages are in `members`.

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

use super::{
    index::Index,
    members::Member,
    refusals::{Refusal, Refusals},
};
use lattice_protocol::{
    clock,
    identity::{
        keys::{ClusterKey, HostId, KeyError, Kind},
        signature::{SigningKey, VerifyingKey},
    },
    peers::{
        sealed::{Signature, SignedAnswer},
        session::{Bytes32, End, KeyPair, OwnKey, PublicKey, Refused, SessionCall, Stale, Window},
        wire::{Announcement, Certificate, SessionKey},
    },
};

/// How long a key is used.
const KEY_LIFE: Duration = Duration::from_secs(60 * 60);
/// Calls of one session after which another key is made.
const CALLS_OF_A_KEY: u64 = 1 << 30;
/// How long a former key counts.
pub(super) const FORMER: Duration = Duration::from_secs(120);
/// How long calls still go out under the former key: others have to hear of the new one.
const SETTLE: Duration = Duration::from_secs(3);
/// How long a certificate counts: hosts whose clocks differ by a day know each other.
const CERTIFIED: Duration = Duration::from_secs(2 * 24 * 60 * 60);
/// Calls of a peer that may overtake one of them: half a minute of all that a machine does. Calls
/// to a busy actor wait while those to others go on.
const CALLS_WINDOW: u64 = 1 << 20;
/// Hosts whose keys are to be asked for.
const WANTED_MAX: usize = 256;

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
    /// No word and no answer without a signature is taken from anybody
    /// (`require_signed_answers`).
    pub requires_signed: bool,
}

struct Inner {
    settings: Settings,
    issuers: HashMap<String, VerifyingKey>,
    own: ArcSwap<OwnKeys>,
    members: Index<Arc<Member>>,
    /// By the ids of the own and the other key.
    sessions: ArcSwap<SessionMap>,
    // These are held for lines, never across an await. The first one while own keys or sessions
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

type SessionMap = HashMap<(u64, u64), Arc<Session>>;

/// The own keys that count.
#[derive(Clone)]
struct OwnKeys {
    current: Arc<OwnKey>,
    since: Instant,
    former: Option<Arc<OwnKey>>,
    certificate: Certificate,
}

/// The keys that this host shares with another one, and the calls so far.
pub struct Session {
    /// The other host.
    pub host: Arc<str>,
    own_key: u64,
    peer_key: PublicKey,
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
        let own_member = Arc::new(Member::new(&own_id, *own.current.public())?);
        let members = Index::default();
        members.change(&own_id, |_| Some(Arc::clone(&own_member)));
        Ok(Self(Arc::new(Inner {
            settings,
            issuers,
            own: ArcSwap::from_pointee(own),
            members,
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

    /// Says whether no word and no answer without a signature is taken from anybody.
    pub fn requires_signed(&self) -> bool {
        self.0.settings.requires_signed
    }

    /// Returns how a host proves its answers, and the session for calls to it.
    pub fn standing(&self, host: &str) -> Standing {
        let Some(member) = self.0.members.get(host) else { return Standing::Unsigned };
        let own = self.0.own.load();
        let key = member.current_key();
        Standing::Member(key.and_then(|key| self.0.session(own.outgoing(), &member, &key)))
    }

    /// Says whether a host proved to belong to the lattice.
    pub fn is_member(&self, host: &str) -> bool {
        self.0.members.get(host).is_some()
    }

    /// Returns the session that a call or a question names; nothing if one of its keys is unknown.
    /// A call says which host makes it, and has to prove it then; a question does not.
    pub fn find(&self, call: &SessionCall, host: Option<&str>) -> Option<Arc<Session>> {
        let own = self.0.own.load().find(call.callee_key)?;
        let ids = (call.callee_key, call.caller_key);
        if let Some(session) = self.0.sessions.load().get(&ids) {
            return Some(Arc::clone(session));
        }
        let member = match host {
            Some(host) => self.0.members.get(host)?,
            None => self.0.members.find(|member| member.key_with(call.caller_key).is_some())?,
        };
        let key = member.key_with(call.caller_key)?;
        self.0.session(&own, &member, &key)
    }

    /// Returns the number of the next own call in a session.
    pub fn next_counter(&self, session: &Session) -> u64 {
        let counter = session.last.fetch_add(1, Ordering::Relaxed) + 1;
        if counter == CALLS_OF_A_KEY {
            self.0.used_up.notify_one();
        }
        counter
    }

    /// Notes that a member does not know a session: until its key is known, calls to it have
    /// tokens.
    pub fn doubt(&self, session: &Session) {
        if let Some(member) = self.0.members.get(&session.host) {
            member.doubt(&session.peer_key);
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
        let own = OwnKeys::new(&inner.settings, Some(Arc::clone(&before.current)))
            .inspect_err(|_| inner.used_up.notify_one())?;
        if let Some(member) = inner.members.get(self.own_id()) {
            member.replace_key(*own.current.public());
        }
        inner.forget_sessions(&own);
        inner.own.store(Arc::new(own));
        Ok(())
    }

    /// Forgets the former key when it counts no longer, and the sessions of keys that do not.
    pub(super) fn forget_former(&self) {
        let inner = &self.0;
        let _changing = inner.changing.lock();
        let own = inner.own.load_full();
        if own.former.is_some() && own.since.elapsed() >= FORMER {
            inner.own.store(Arc::new(OwnKeys { former: None, ..OwnKeys::clone(&own) }));
        }
        inner.forget_sessions(&own);
    }

    /// Signs the answer to the call with this hash; `fields` are those of its header.
    pub fn sign(&self, call: &Bytes32, fields: &str, body: &[u8]) -> Signature {
        self.0.settings.host_key.sign(&self.signed(call, fields, body))
    }

    /// Says whether a member signed this answer: the hash of its call, its fields and its body.
    pub fn is_signed(
        &self,
        host: &str,
        (call, fields, body): (&Bytes32, &str, &[u8]),
        by: &Signature,
    ) -> bool {
        let member = self.0.members.get(host);
        member.is_some_and(|member| member.key.verify(&self.signed(call, fields, body), by))
    }

    fn signed(&self, call: &Bytes32, header: &str, body: &[u8]) -> Vec<u8> {
        SignedAnswer { lattice: self.lattice(), call, header, body }.message()
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
        self.0.refusals.refuse(kind, host, why);
    }

    /// Returns how many messages of a kind were refused since the start.
    pub fn refused(&self, kind: Refusal) -> u64 {
        self.0.refusals.count(kind)
    }

    /// Gives an own message its number and the key of this host: the whole key and the certificate
    /// with what this host offers, to newcomers, and where it `tells_key` in any case.
    pub(super) fn complete(&self, announcement: &Announcement, tells_key: bool) -> Announcement {
        let tells_key = tells_key || announcement.offers.is_some() || announcement.hello;
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
        self.0.members.get(host)
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
        let member = Arc::new(member);
        self.0.members.change(&member.id, |_| Some(Arc::clone(&member)));
        true
    }

    /// Forgets the members that are not there any more.
    pub(super) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.0.members.retain(|host| host == self.own_id() || is_there(host));
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
    /// Returns the session of two keys, which is made once; nothing if another member has a key of
    /// the same id, which it chooses itself.
    fn session(&self, own: &OwnKey, member: &Member, peer: &PublicKey) -> Option<Arc<Session>> {
        let ids = (own.public().id, peer.id);
        if let Some(found) = self.sessions.load().get(&ids) {
            return found.is_with(member, peer).then(|| Arc::clone(found));
        }
        let _changing = self.changing.lock();
        let sessions = self.sessions.load_full();
        if let Some(found) = sessions.get(&ids) {
            return found.is_with(member, peer).then(|| Arc::clone(found));
        }
        // It may have been forgotten since the keys were read, and does not begin anew then.
        self.own.load().find(ids.0)?;
        self.members.get(&member.id).filter(|known| known.has_key(peer))?;
        let own_host = self.settings.host_key.public_key();
        let keys = own.agree(own_host, End { host: &member.id, key: peer }).ok()?;
        let session = Arc::new(Session {
            host: Arc::clone(&member.id),
            own_key: ids.0,
            peer_key: *peer,
            keys,
            last: AtomicU64::new(0),
            seen: Mutex::new(Window::new(CALLS_WINDOW)),
        });
        let mut more = SessionMap::clone(&sessions);
        more.insert(ids, Arc::clone(&session));
        self.sessions.store(Arc::new(more));
        Some(session)
    }

    /// Forgets the sessions of keys that count no longer. `changing` is held.
    fn forget_sessions(&self, own: &OwnKeys) {
        let sessions = self.sessions.load_full();
        if sessions.values().all(|session| self.counts(session, own)) {
            return;
        }
        let live = sessions.iter().filter(|(_, session)| self.counts(session, own));
        let live = live.map(|(ids, session)| (*ids, Arc::clone(session)));
        self.sessions.store(Arc::new(live.collect()));
    }

    /// Says whether both keys of a session count. One of a host that is not there may come back.
    fn counts(&self, session: &Session, own: &OwnKeys) -> bool {
        let member = self.members.get(&session.host);
        own.find(session.own_key).is_some()
            && member.is_none_or(|member| member.has_key(&session.peer_key))
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

impl Session {
    /// Returns the key ids of this host's end and of the other one.
    pub fn key_ids(&self) -> (u64, u64) {
        (self.own_key, self.peer_key.id)
    }

    fn is_with(&self, member: &Member, key: &PublicKey) -> bool {
        self.host == member.id && self.peer_key == *key
    }

    /// Accepts a call that the other host made, each once. Its code must be right.
    pub fn accept(&self, counter: u64) -> Result<(), Stale> {
        self.seen.lock().take(counter)
    }
}

//! The hosts that proved to belong to the lattice: their keys, and which of their messages came.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::sessions::FORMER;
use lattice_protocol::{
    identity::{
        keys::{KeyError, Kind},
        signature::VerifyingKey,
    },
    peers::{
        session::{PublicKey, Stale, Window},
        wire::Announcement,
    },
};

/// Messages of a host that may overtake one of them; it answers others in between.
const WORDS_WINDOW: u64 = 1 << 12;

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

impl PeerKeys {
    fn replaced(&self, current: PublicKey) -> Self {
        Self { current, is_doubtful: false, former: Some((self.current, Instant::now())) }
    }

    fn find(&self, id: u64) -> Option<PublicKey> {
        let former = self.former.iter().filter(|(_, since)| since.elapsed() < FORMER);
        former.map(|(key, _)| *key).chain([self.current]).find(|key| key.id == id)
    }
}

impl Member {
    pub(super) fn new(host: &str, current: PublicKey) -> Result<Self, KeyError> {
        let heard =
            HeardOf { incarnation: 0, began: 0, counts: Window::new(WORDS_WINDOW), told_key: 0 };
        Ok(Self {
            id: host.into(),
            key: VerifyingKey::parse(host, Kind::Server)?.without_table(),
            heard: Mutex::new(heard),
            keys: ArcSwap::from_pointee(PeerKeys { current, is_doubtful: false, former: None }),
        })
    }

    /// Returns the key for calls to it; nothing while it has to be asked for that.
    pub(super) fn current_key(&self) -> Option<PublicKey> {
        let keys = self.keys.load();
        (!keys.is_doubtful).then_some(keys.current)
    }

    /// Returns the key with this id, if it counts.
    pub(super) fn key_with(&self, id: u64) -> Option<PublicKey> {
        self.keys.load().find(id)
    }

    /// Says whether a key counts.
    pub(super) fn has_key(&self, key: &PublicKey) -> bool {
        self.key_with(key.id) == Some(*key)
    }

    /// Puts another key in the place of the current one, which counts for a while.
    pub(super) fn replace_key(&self, key: PublicKey) {
        self.keys.store(Arc::new(self.keys.load().replaced(key)));
    }

    /// Notes that the member did not know the session of a key.
    pub(super) fn doubt(&self, key: &PublicKey) {
        self.keys.rcu(|keys| {
            let is_doubtful = keys.is_doubtful || keys.current == *key;
            PeerKeys { is_doubtful, ..PeerKeys::clone(keys) }
        });
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

//! The form in which hosts tell each other something: every message between hosts is sealed when
//! it is sent, and opened when it comes.
//!
//! A message is believed by who it is from:
//!
//! * of a [member](super::sessions), only what it signed, each message once, and of its present
//!   start. Another start counts once the host has answered a question of this one, which a
//!   recorded message cannot: an earlier start does not come back;
//! * of a host that signs and is none yet, nothing until it has answered such a question with its
//!   certificate. One that no trusted cluster certified is believed like those that sign nothing;
//! * of a host of an earlier release, which signs nothing, everything as in all years, unless
//!   `require_signed_answers` is set.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::HeaderMap;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    refusals::Refusal,
    sessions::{Sessions, Settings},
    table::PEERS_MAX,
};
use lattice_protocol::{
    identity::{keys::Kind, signature::VerifyingKey},
    peers::{
        sealed::{self, SEAL_BYTES, Sealed},
        wire::{Announcement, NONCE},
    },
};

/// The longest nonce that is answered.
const NONCE_CHARS_MAX: usize = 64;
/// How long the answers to a hello may take.
const HELLO: Duration = Duration::from_secs(5);
/// The last hellos, whose answers count.
const HELLOS_KEPT: usize = 4;

/// Seals and opens the messages of hosts. Cheap to clone.
#[derive(Clone)]
pub struct Words(Arc<Inner>);

struct Inner {
    sessions: Sessions,
    /// The start of this host.
    incarnation: AtomicU64,
    // These are held for lines, by the service alone.
    hellos: Mutex<VecDeque<Hello>>,
    /// Hosts that sign without a certificate that counts here, and their starts.
    strangers: Mutex<HashMap<String, u64>>,
}

/// A question that went to all.
struct Hello {
    nonce: String,
    at: Instant,
}

/// A message that was opened.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    Believed(Announcement),
    /// Its host has to say so in the answer to a question first.
    ToConfirm(Announcement),
    /// It is nobody's, or this host's own.
    Ignored,
}

impl Words {
    pub fn new(sessions: Sessions) -> Self {
        let incarnation = AtomicU64::new(0);
        let (hellos, strangers) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { sessions, incarnation, hellos, strangers }))
    }

    pub fn sessions(&self) -> &Sessions {
        &self.0.sessions
    }

    /// Encodes an announcement of this host for a server with this `max_payload`, in bytes.
    pub fn seal(&self, announcement: &Announcement, max_payload: usize) -> Bytes {
        self.0.seal(announcement, false, max_payload)
    }

    /// The same for an answer to the question with these headers.
    pub fn seal_answer(
        &self,
        announcement: &Announcement,
        question: Option<&HeaderMap>,
        max_payload: usize,
    ) -> Bytes {
        let nonce = question.and_then(|headers| headers.get(NONCE)).map(|nonce| nonce.as_str());
        let to = nonce.filter(|nonce| nonce.len() <= NONCE_CHARS_MAX).map(str::to_owned);
        self.seal(&Announcement { to, ..announcement.clone() }, max_payload)
    }

    /// The same for one that tells the whole session key, which is new.
    pub fn seal_with_key(&self, announcement: &Announcement, max_payload: usize) -> Bytes {
        self.0.seal(announcement, true, max_payload)
    }

    /// Returns the headers of a hello that is sent now.
    pub fn hello(&self) -> HeaderMap {
        let nonce = nonce();
        let headers = question(&nonce);
        let mut hellos = self.0.hellos.lock();
        if hellos.len() == HELLOS_KEPT {
            hellos.pop_front();
        }
        hellos.push_back(Hello { nonce, at: Instant::now() });
        headers
    }

    /// Opens a message that its host sent by itself, or that answers the hello.
    pub fn open(&self, payload: &[u8]) -> Opened {
        self.0.open(payload, None)
    }

    /// Opens the answer to a question that had this nonce.
    pub fn open_answer(&self, payload: &[u8], nonce: &str) -> Opened {
        self.0.open(payload, Some(nonce))
    }

    /// Forgets the hosts that are not there any more.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.0.sessions.retain(&is_there);
        // Where they are refused they are never there, and would be asked without end.
        if !self.0.sessions.requires_signed() {
            self.0.strangers.lock().retain(|host, _| is_there(host));
        }
    }
}

/// Returns a text for a question that was never used before.
pub fn nonce() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// Returns the headers of a question with a nonce.
pub fn question(nonce: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(NONCE, nonce);
    headers
}

/// Says whether a message is the answer of this member to the question with this nonce.
pub fn is_answer_of(sessions: &Sessions, host: &str, payload: &[u8], nonce: &str) -> bool {
    let Some(member) = sessions.member(host) else { return false };
    let Sealed::Signed(signed, by) = sealed::split(payload) else { return false };
    sealed::is_genuine(signed, &by, sessions.lattice(), &member.key)
        && serde_json::from_slice::<Announcement>(payload)
            .is_ok_and(|said| said.host == host && said.to.as_deref() == Some(nonce))
}

impl Inner {
    fn seal(&self, announcement: &Announcement, tells_key: bool, max_payload: usize) -> Bytes {
        let Settings { lattice, host_key, .. } = self.sessions.settings();
        self.incarnation.store(announcement.incarnation, Ordering::Relaxed);
        let complete = self.sessions.complete(announcement, tells_key);
        let json = complete.encode(max_payload.saturating_sub(SEAL_BYTES));
        sealed::seal(&json, lattice, host_key)
    }

    fn open(&self, payload: &[u8], nonce: Option<&str>) -> Opened {
        let Ok(said) = serde_json::from_slice::<Announcement>(payload) else {
            return Opened::Ignored;
        };
        let is_own = said.host == self.sessions.own_id();
        if is_own && said.incarnation == self.incarnation.load(Ordering::Relaxed) {
            return Opened::Ignored;
        }
        let genuine = match sealed::split(payload) {
            Sealed::Unsigned => return self.unsigned(said),
            Sealed::Signed(signed, by) => match self.key_of(&said.host) {
                Some(key) => sealed::is_genuine(signed, &by, self.sessions.lattice(), &key),
                None => return Opened::Ignored,
            },
        };
        match genuine {
            false => self.refuse(&said, "its signature is wrong"),
            // Another process has the key of this host.
            true if is_own => Opened::Believed(said),
            true => self.signed(said, nonce),
        }
    }

    fn key_of(&self, host: &str) -> Option<VerifyingKey> {
        match self.sessions.member(host) {
            Some(member) => Some(member.key.clone()),
            None => VerifyingKey::parse(host, Kind::Server).ok(),
        }
    }

    fn unsigned(&self, said: Announcement) -> Opened {
        if self.sessions.is_member(&said.host) {
            return self.refuse(&said, "it has no signature, and that host signs");
        }
        if self.sessions.requires_signed() {
            return self.refuse(&said, "it has no signature (require_signed_answers)");
        }
        Opened::Believed(said)
    }

    fn signed(&self, said: Announcement, nonce: Option<&str>) -> Opened {
        let answers = nonce.is_some_and(|nonce| said.to.as_deref() == Some(nonce));
        let Some(member) = self.sessions.member(&said.host) else {
            return self.of_unknown(said, answers);
        };
        if !member.is_of_this_start(&said) {
            if !answers {
                return Opened::ToConfirm(said);
            }
            member.begin(&said);
        } else if member.is_early(&said) {
            return Opened::Ignored;
        } else if let Err(stale) = member.take(&said) {
            return self.refuse(&said, &stale.to_string());
        }
        if member.learn(&said) {
            self.sessions.want(&said.host);
        }
        Opened::Believed(said)
    }

    /// Opens a signed message of a host that is no member.
    fn of_unknown(&self, said: Announcement, answers: bool) -> Opened {
        let answers = answers || self.answers_hello(&said);
        let key = self.sessions.certified(&said);
        match (answers, key) {
            (true, Some(key)) if self.sessions.admit(&said, key) => return Opened::Believed(said),
            (true, _) => self.note_stranger(&said),
            // Its certificate may count now: its clock was put right.
            (false, Some(_)) => return Opened::ToConfirm(said),
            (false, None) => {
                if self.strangers.lock().get(&said.host) != Some(&said.incarnation) {
                    return Opened::ToConfirm(said);
                }
            }
        }
        if self.sessions.requires_signed() {
            return self.refuse(&said, "no trusted cluster certified that host");
        }
        Opened::Believed(said)
    }

    fn answers_hello(&self, said: &Announcement) -> bool {
        let hellos = self.hellos.lock();
        let fresh = hellos.iter().filter(|hello| hello.at.elapsed() < HELLO);
        fresh.map(|hello| &hello.nonce).any(|nonce| said.to.as_ref() == Some(nonce))
    }

    fn note_stranger(&self, said: &Announcement) {
        let mut strangers = self.strangers.lock();
        if strangers.len() >= PEERS_MAX && !strangers.contains_key(&said.host) {
            // They are asked once more.
            strangers.clear();
        }
        strangers.insert(said.host.clone(), said.incarnation);
    }

    fn refuse(&self, said: &Announcement, why: &str) -> Opened {
        self.sessions.refuse(Refusal::Word, &said.host, why);
        Opened::Ignored
    }
}

#[cfg(test)]
mod tests;

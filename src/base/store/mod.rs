//! Where the lattice keeps what all hosts share: link definitions, claims and image references,
//! under keys of [`keys`](lattice_protocol::store::keys), in the JetStream bucket
//! `LATTICEDATA_{lattice}` (lattice protocol, section 4).
//!
//! [`Backend`] has two implementations that behave alike and pass the same tests:
//! [`jetstream::Bucket`], and [`memory::Memory`] for a host whose server has no JetStream (yet). A
//! third, [`away::Away`], stands in for a bucket that others have and this host cannot reach: it
//! refuses everything. [`Store`] is the handle the rest of the host uses: it begins with what is
//! available, keeps trying to open the bucket, and moves over when it can. Readers never ask it;
//! they follow [`Backend::watch`], which begins with a snapshot and starts over with a new one
//! whenever it cannot prove that it missed nothing. So a cache built from it is never stale for
//! longer than an outage.
//!
//! The desired state of hosts is in a bucket of its own, [`desired`].
//!
//! Content too large for a bucket of keys lies in object stores: [`objects`] is their form,
//! [`artifacts`] the uploads of clients.
//!
//! A write is either stored, or refused before it was sent, or its outcome is unknown; [`Error`]
//! tells these apart.

pub mod artifacts;
pub mod away;
pub mod desired;
pub mod history;
pub mod jetstream;
pub mod legacy;
pub mod memory;
pub mod objects;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::BoxFuture;
use lattice_protocol::store::Entry;
use tokio::sync::{mpsc, watch};

/// How long one write may take before its outcome is reported as unknown.
pub const WRITE_TIMEOUT: Duration = Duration::from_millis(1500);

/// A change that a watch reports, in the order of revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// Everything there is. Keys known before and not in it are gone.
    Snapshot(Vec<Entry>),
    Put(Entry),
    Delete {
        key: String,
        revision: u64,
    },
    /// More happened than can be reported for now; [`Update::Current`] or a snapshot ends this.
    /// Never the first update.
    Behind,
    /// Everything that happened is reported.
    Current,
}

/// The condition of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Any entry is replaced.
    Anything,
    /// Nothing was ever written, or the last write had this revision. 0 means that the key is
    /// absent.
    Revision(u64),
}

/// Why a write or a watch did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else wrote first; read again and decide anew.
    #[error("the entry was changed by somebody else meanwhile")]
    Conflict,
    /// The bucket is not there for this host. Nothing was sent that could still be carried out.
    #[error("{0}; nothing was stored")]
    Unreachable(String),
    #[error(
        "no answer from {place} within {} ms, so the outcome is unknown: it may still be stored when the connection is \
         back; query the links to find out",
        WRITE_TIMEOUT.as_millis()
    )]
    TimedOut { place: String },
    #[error("the lattice metadata bucket refused the write: {0}")]
    Refused(String),
}

/// A bucket. Keys are those of [`keys`](lattice_protocol::store::keys).
pub trait Backend: Send + Sync + 'static {
    /// Writes a value; returns its revision.
    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        expect: Expect,
    ) -> BoxFuture<'a, Result<u64, Error>>;
    /// Marks a key as deleted (operation `DEL`: hosts of 2024 overlook `PURGE`).
    fn delete<'a>(&'a self, key: &'a str, expect: Expect) -> BoxFuture<'a, Result<(), Error>>;
    /// Follows all keys until the receiver is dropped. The first update is a snapshot.
    fn watch(&self) -> mpsc::Receiver<Update>;
    /// Where this is, in the middle of a sentence.
    fn place(&self) -> String;
    /// Whether what is written here outlives this process.
    fn is_shared(&self) -> bool;
    /// Whether this only stands in for a bucket that others have and this host cannot reach.
    fn is_away(&self) -> bool {
        false
    }
    /// Whether it can be reached, as far as this host has noticed.
    fn is_reachable(&self) -> bool {
        true
    }
    /// Why a host that was not told yet what is here writes nothing.
    fn absence(&self) -> Error {
        Error::Unreachable(format!(
            "{}, where the lattice keeps its metadata, has not told this host yet what it has; try again in a moment",
            self.place()
        ))
    }
}

/// Where the metadata of a lattice is, in the middle of a sentence.
pub fn domain_name(domain: Option<&str>) -> String {
    match domain {
        Some(domain) => format!("JetStream domain {domain:?}"),
        None => "the JetStream of this host's NATS server".to_owned(),
    }
}

/// Returns the message for a domain that does not answer.
pub fn unreachable(domain: Option<&str>, cause: &str) -> String {
    let place = domain_name(domain);
    let check = match domain {
        Some(_) => {
            "; check the leaf node connection of this host's NATS server and try again when it is back"
        }
        None => "; look at that server and try again",
    };
    format!("{place}, where the lattice keeps its metadata, cannot be reached: {cause}{check}")
}

/// The store a host works with: the bucket if there is one, else memory until there is.
#[derive(Clone)]
pub struct Store {
    backend: Arc<watch::Sender<Arc<dyn Backend>>>,
    story: Arc<ArcSwap<Story>>,
}

/// How it came to the backend in use.
#[derive(Clone, Debug)]
pub struct Story {
    pub since: SystemTime,
    /// Why it is not the bucket.
    pub trouble: Option<String>,
}

impl Story {
    fn begin() -> Self {
        Self { since: SystemTime::now(), trouble: None }
    }
}

impl Store {
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        let story = Arc::new(ArcSwap::from_pointee(Story::begin()));
        Self { backend: Arc::new(watch::Sender::new(backend)), story }
    }

    /// How it came to the backend in use.
    pub fn story(&self) -> Arc<Story> {
        self.story.load_full()
    }

    /// Notes why the bucket is not there.
    pub fn explain(&self, cause: &str) {
        let since = self.story().since;
        self.story.store(Arc::new(Story { since, trouble: Some(cause.to_owned()) }));
    }

    /// The backend in use now.
    pub fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.backend.borrow())
    }

    /// Tells when the backend is replaced.
    pub fn changes(&self) -> watch::Receiver<Arc<dyn Backend>> {
        self.backend.subscribe()
    }

    /// Moves to another backend.
    pub fn replace(&self, backend: Arc<dyn Backend>) {
        self.backend.send_replace(backend);
        self.story.store(Arc::new(Story::begin()));
    }

    /// Writes a value, see [`Backend::put`]. Ends within [`WRITE_TIMEOUT`].
    pub async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<u64, Error> {
        let backend = self.backend();
        let written = tokio::time::timeout(WRITE_TIMEOUT, backend.put(key, value, expect)).await;
        written.unwrap_or_else(|_| Err(Error::TimedOut { place: backend.place() }))
    }

    /// Deletes a key, see [`Backend::delete`]. Ends within [`WRITE_TIMEOUT`].
    pub async fn delete(&self, key: &str, expect: Expect) -> Result<(), Error> {
        let backend = self.backend();
        let deleted = tokio::time::timeout(WRITE_TIMEOUT, backend.delete(key, expect)).await;
        deleted.unwrap_or_else(|_| Err(Error::TimedOut { place: backend.place() }))
    }

    /// Whether what is written here is seen by other hosts.
    pub fn is_shared(&self) -> bool {
        self.backend.borrow().is_shared()
    }

    /// Whether others may know more than this host, see [`Backend::is_away`].
    pub fn is_away(&self) -> bool {
        self.backend.borrow().is_away()
    }
}

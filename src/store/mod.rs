//! Where the lattice keeps what all hosts share: link definitions, claims and image references, under keys of
//! [`keys`], in the JetStream bucket `LATTICEDATA_{lattice}` (lattice protocol, section 4).
//!
//! [`Backend`] has two implementations that behave alike and pass the same tests: [`jetstream::Bucket`], and
//! [`memory::Memory`] for a host whose server has no JetStream (yet). [`Store`] is the handle the rest of the host uses:
//! it begins with what is available, keeps trying to open the bucket, and moves over when it can. Readers never ask it;
//! they follow [`Backend::watch`], which begins with a snapshot and starts over with a new one whenever it cannot prove
//! that it missed nothing. So a cache built from it is never stale for longer than an outage.

pub mod jetstream;
pub mod keys;
pub mod legacy;
pub mod memory;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};

/// How long one write may take before its outcome is reported as unknown.
pub const WRITE_TIMEOUT: Duration = Duration::from_millis(1500);

/// One key with its value and the revision that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Bytes,
    pub revision: u64,
}

/// What a watch reports, in the order of revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// Everything there is. Keys known before and not in it are gone.
    Snapshot(Vec<Entry>),
    Put(Entry),
    Delete {
        key: String,
        revision: u64,
    },
}

/// What a write expects to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Whatever is there is replaced.
    Anything,
    /// Nothing was ever written, or the last write had this revision. 0 means that the key is absent.
    Revision(u64),
}

/// Why a write or a watch did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else wrote first; read again and decide anew.
    #[error("the entry was changed by somebody else meanwhile")]
    Conflict,
    #[error("the lattice metadata bucket cannot be reached, nothing was written: {0}")]
    Unreachable(String),
    #[error(
        "no answer from the lattice metadata bucket within {} ms, the outcome is unknown; query the links to find out",
        WRITE_TIMEOUT.as_millis()
    )]
    TimedOut,
    #[error("the lattice metadata bucket refused the write: {0}")]
    Refused(String),
}

/// A bucket. Keys are those of [`keys`].
pub trait Backend: Send + Sync + 'static {
    /// Writes a value; returns its revision.
    fn put<'a>(&'a self, key: &'a str, value: Bytes, expect: Expect) -> BoxFuture<'a, Result<u64, Error>>;
    /// Marks a key as deleted (operation `DEL`: hosts of 2024 overlook `PURGE`).
    fn delete<'a>(&'a self, key: &'a str, expect: Expect) -> BoxFuture<'a, Result<(), Error>>;
    /// Follows all keys until the receiver is dropped. The first update is a snapshot.
    fn watch(&self) -> mpsc::Receiver<Update>;
    /// Whether what is written here outlives this process.
    fn is_shared(&self) -> bool;
}

/// The store a host works with: the bucket if there is one, else memory until there is.
#[derive(Clone)]
pub struct Store {
    backend: Arc<watch::Sender<Arc<dyn Backend>>>,
}

impl Store {
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend: Arc::new(watch::Sender::new(backend)) }
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
    }

    /// Writes a value, see [`Backend::put`]. Ends within [`WRITE_TIMEOUT`].
    pub async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<u64, Error> {
        let backend = self.backend();
        tokio::time::timeout(WRITE_TIMEOUT, backend.put(key, value, expect)).await.unwrap_or(Err(Error::TimedOut))
    }

    /// Deletes a key, see [`Backend::delete`]. Ends within [`WRITE_TIMEOUT`].
    pub async fn delete(&self, key: &str, expect: Expect) -> Result<(), Error> {
        let backend = self.backend();
        tokio::time::timeout(WRITE_TIMEOUT, backend.delete(key, expect)).await.unwrap_or(Err(Error::TimedOut))
    }

    /// Whether what is written here is seen by other hosts.
    pub fn is_shared(&self) -> bool {
        self.backend.borrow().is_shared()
    }
}

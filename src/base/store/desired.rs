//! The bucket `DESIREDDATA_{lattice}`: what the lattice was asked to run, under the keys of
//! [`desired`](lattice_protocol::desired).
//!
//! It lies in the domain of the metadata. Nobody makes it but the first writer, so a lattice that
//! keeps nothing has none. A handle that nobody answers for any more is opened again.
//!
//! An entry that makes a host do something is signed: [`Desired::read_signed`] verifies it,
//! [`Desired::put_signed`] gives it a serial number above the last one. An entry that holds nothing
//! is deleted where its serial number is noted elsewhere or does not matter.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;

use super::{
    Backend as _, Error, Expect, Update, WRITE_TIMEOUT,
    jetstream::{Bucket, OpenError, making::Making, read::ReadError},
};
use crate::lattice::connection::Nats;
use lattice_protocol::{
    clock,
    desired::{self, Authority, Rejected},
    store::Entry,
};

/// How long it may take to read all entries.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The bucket, whether it is there or not. Cheap to clone.
#[derive(Clone)]
pub struct Desired {
    nats: Nats,
    domain: Option<String>,
    name: String,
    making: Making,
    opened: Arc<ArcSwapOption<Bucket>>,
}

/// A signed entry, as it was read or written last.
#[derive(Clone, Debug)]
pub struct Record<T> {
    /// `None` if there is none, or one that does not count.
    pub value: Option<T>,
    /// Why the entry that is there does not count.
    pub rejected: Option<Rejected>,
    /// The serial number of the entry; the next one gets a higher one.
    pub serial: u64,
    revision: u64,
}

impl<T> Default for Record<T> {
    fn default() -> Self {
        Self { value: None, rejected: None, serial: 0, revision: 0 }
    }
}

impl<T> Record<T> {
    /// Asks a write to fail if somebody else wrote since.
    pub fn unchanged(&self) -> Expect {
        Expect::Revision(self.revision)
    }

    /// Returns the serial number of the next entry. The time is in it, so it also grows where the
    /// last one is not known.
    fn next_serial(&self, now_ms: u64) -> u64 {
        now_ms.max(self.serial.saturating_add(1))
    }
}

/// Why the bucket was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum DesiredError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("read bucket {bucket}: {cause}")]
    Read { bucket: String, cause: ReadError },
    /// Somebody else wrote first; read again and decide anew.
    #[error("the entry was changed by somebody else meanwhile")]
    Conflict,
    #[error(
        "bucket {bucket} did not answer in {} ms, so it is unknown whether the entry was written",
        WRITE_TIMEOUT.as_millis()
    )]
    TimedOut { bucket: String },
    #[error("write to bucket {bucket}: {cause}")]
    Write { bucket: String, cause: String },
}

impl DesiredError {
    /// Whether the entry may have been written all the same.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::TimedOut { .. })
    }
}

impl Desired {
    /// Names the bucket of a lattice; `making` is how it is made with the first write.
    pub fn new(nats: Nats, domain: Option<&str>, lattice: &str, making: Making) -> Self {
        let (domain, name) = (domain.map(str::to_owned), desired::bucket(lattice));
        Self { nats, domain, name, making, opened: Arc::default() }
    }

    /// Names another bucket of the same domain that its first writer makes; `making` is how.
    pub fn other(nats: Nats, domain: Option<&str>, bucket: &str, making: Making) -> Self {
        let (domain, name) = (domain.map(str::to_owned), bucket.to_owned());
        Self { nats, domain, name, making, opened: Arc::default() }
    }

    /// Returns the name of the bucket.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Ticks when the connection came back: what failed may work now.
    pub fn reconnects(&self) -> watch::Receiver<u64> {
        self.nats.reconnects.clone()
    }

    /// Returns the bucket if it is there; its
    /// [`watch`](super::Backend::watch) follows all keys.
    pub async fn find(&self) -> Result<Option<Arc<Bucket>>, DesiredError> {
        if let Some(bucket) = self.opened.load_full() {
            return Ok(Some(bucket));
        }
        let found = Bucket::find(&self.nats, self.domain.as_deref(), &self.name, self.making);
        Ok(found.await?.map(|bucket| self.keep(bucket)))
    }

    /// Returns the bucket, making it if it is not there.
    pub async fn open(&self) -> Result<Arc<Bucket>, DesiredError> {
        if let Some(bucket) = self.opened.load_full() {
            return Ok(bucket);
        }
        let opened = Bucket::open(&self.nats, self.domain.as_deref(), &self.name, self.making);
        Ok(self.keep(opened.await?))
    }

    fn keep(&self, bucket: Bucket) -> Arc<Bucket> {
        let bucket = Arc::new(bucket);
        self.opened.store(Some(Arc::clone(&bucket)));
        bucket
    }

    /// Reads a key; `None` if it is not there, or the bucket is not.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, DesiredError> {
        let Some(bucket) = self.find().await? else { return Ok(None) };
        let cause = match bucket.get(key).await {
            Ok(entry) => return Ok(entry),
            Err(cause) => cause,
        };
        self.opened.store(None);
        if matches!(cause, ReadError::Gone) {
            let Some(bucket) = self.find().await? else { return Ok(None) };
            return bucket.get(key).await.map_err(|cause| self.not_read(cause));
        }
        Err(self.not_read(cause))
    }

    /// Reads all entries, in the order they were written; none if the bucket is not there.
    pub async fn entries(&self) -> Result<Vec<Entry>, DesiredError> {
        let Some(bucket) = self.find().await? else { return Ok(Vec::new()) };
        let mut updates = bucket.watch();
        match tokio::time::timeout(READ_TIMEOUT, updates.recv()).await {
            Ok(Some(Update::Snapshot(entries))) => Ok(entries),
            _ => Err(self.not_read(ReadError::Failed("it does not tell what it has".to_owned()))),
        }
    }

    fn not_read(&self, cause: ReadError) -> DesiredError {
        DesiredError::Read { bucket: self.name.clone(), cause }
    }

    /// Writes a key, and makes the bucket before if it is not there; returns the revision. Ends
    /// within a few [`WRITE_TIMEOUT`]s.
    pub async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<u64, DesiredError> {
        let was_open = self.opened.load().is_some();
        match self.try_put(key, value.clone(), expect).await {
            // The handle may be of a bucket that vanished.
            Err(DesiredError::Write { .. }) if was_open => {
                self.opened.store(None);
                self.try_put(key, value, expect).await
            }
            written => written,
        }
    }

    /// Reads a signed entry and verifies it.
    pub async fn read_signed<T: DeserializeOwned>(
        &self,
        authority: &Authority,
        key: &str,
    ) -> Result<Record<T>, DesiredError> {
        let Some(entry) = self.get(key).await? else { return Ok(Record::default()) };
        let revision = entry.revision;
        Ok(match authority.verify(key, &entry.value) {
            Ok((value, serial)) => Record { value: Some(value), rejected: None, serial, revision },
            Err(rejected) => Record { value: None, rejected: Some(rejected), serial: 0, revision },
        })
    }

    /// Signs a value and writes it in place of a record. A serial number is used once, whether the
    /// write worked or not.
    pub async fn put_signed<T: Serialize>(
        &self,
        authority: &Authority,
        key: &str,
        record: &mut Record<T>,
        value: T,
        expect: Expect,
    ) -> Result<(), DesiredError> {
        record.serial = record.next_serial(clock::now_ms());
        let signed = authority.sign(key, record.serial, &value);
        let bytes = signed.and_then(|signed| serde_json::to_vec(&signed)).map_err(|error| {
            DesiredError::Write { bucket: self.name.clone(), cause: error.to_string() }
        })?;
        record.revision = self.put(key, bytes.into(), expect).await?;
        (record.value, record.rejected) = (Some(value), None);
        Ok(())
    }

    /// Marks a key as deleted, if the bucket is there; ends within a few [`WRITE_TIMEOUT`]s.
    pub async fn delete(&self, key: &str, expect: Expect) -> Result<(), DesiredError> {
        let Some(bucket) = self.find().await? else { return Ok(()) };
        let deleted = tokio::time::timeout(WRITE_TIMEOUT, bucket.delete(key, expect)).await;
        self.written(deleted)
    }

    async fn try_put(&self, key: &str, value: Bytes, expect: Expect) -> Result<u64, DesiredError> {
        let bucket = self.open().await?;
        let written = tokio::time::timeout(WRITE_TIMEOUT, bucket.put(key, value, expect)).await;
        self.written(written)
    }

    fn written<T>(
        &self,
        outcome: Result<Result<T, Error>, tokio::time::error::Elapsed>,
    ) -> Result<T, DesiredError> {
        match outcome {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(Error::Conflict)) => Err(DesiredError::Conflict),
            Err(_) | Ok(Err(Error::TimedOut { .. })) => {
                Err(DesiredError::TimedOut { bucket: self.name.clone() })
            }
            Ok(Err(Error::Unreachable(cause) | Error::Refused(cause))) => {
                Err(DesiredError::Write { bucket: self.name.clone(), cause })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_grow_whatever_the_clock_says() {
        let record = |serial| Record::<()> { serial, ..Record::default() };
        for (serial, now_ms, next) in
            [(0, 1000, 1000), (1000, 1000, 1001), (2000, 1000, 2001), (u64::MAX, 1, u64::MAX)]
        {
            assert_eq!(record(serial).next_serial(now_ms), next, "{serial} at {now_ms}");
        }
    }
}

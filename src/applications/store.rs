//! The manifests of a lattice's applications: bucket `wadm_manifests`, with the keys and values of
//! the old manager (wadm, section 3.1), so that either finds what the other was given.
//!
//! The bucket is made by the first put. One record that cannot be read is an error of that
//! application only. What is written here starts nothing: hosts act on signed [targets].
//!
//! An application is two entries: its record, and its name on the list. The name is there before
//! the record and goes after it, so that what is broken off in between leaves a name without a
//! record, which the list leaves out, and never a record that no list has.
//!
//! [targets]: super::targets

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tracing::warn;

use lattice_base::{
    lattice::connection::Nats,
    store::{
        Expect,
        desired::{Desired, DesiredError},
        jetstream::making::Making,
    },
};
use lattice_protocol::applications::stored::{BUCKET, Stored, model_key, set_key};

/// Attempts to write what others write too. Of several writers one succeeds in each round.
const ATTEMPTS_MAX: usize = 16;
/// Bytes of a message that are not the value of an entry: subject and headers.
const ENVELOPE_BYTES: usize = 1024;

/// The manifests of a lattice. Cheap to clone.
#[derive(Clone)]
pub struct Models {
    bucket: Desired,
    lattice: String,
    client: async_nats::Client,
}

/// Why manifests were not read or written. The beginnings are those of the old manager.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("Internal storage error: {0}")]
    Bucket(#[from] DesiredError),
    #[error(
        "Internal storage error: entry {key} of bucket {BUCKET} cannot be read ({cause}); look at it with `nats kv get {BUCKET} {key}`, \
         and take it away with `nats kv del {BUCKET} {key}` if nobody needs it"
    )]
    Unreadable { key: String, cause: String },
    #[error("Internal storage error: write entry {key}: {cause}")]
    Unwritable { key: String, cause: String },
    #[error(
        "Internal storage error: all versions of the application together have {bytes} bytes, and the NATS server takes {max}; \
         delete versions that nobody needs"
    )]
    TooLarge { bytes: usize, max: usize },
}

/// The decision about an application that was read.
pub enum Change<T> {
    Write(Stored, T),
    Remove(T),
    Leave(T),
}

impl Models {
    /// The manifests of a lattice; `making` is for a bucket that has to be made.
    pub fn new(nats: Nats, domain: Option<&str>, lattice: &str, making: Making) -> Self {
        let client = nats.client.clone();
        let bucket = Desired::other(nats, domain, BUCKET, making);
        Self { bucket, lattice: lattice.to_owned(), client }
    }

    /// Returns an application; `None` if there is none of this name.
    pub async fn get(&self, name: &str) -> Result<Option<Stored>, StoreError> {
        let read = self.read(&model_key(&self.lattice, name)).await?;
        Ok(read.map(|(stored, _)| stored))
    }

    /// Reads an application, and does what `decide` says about it, again if somebody else wrote
    /// meanwhile. Its error is returned, and nothing is written then.
    pub async fn change<T, E: From<StoreError>>(
        &self,
        name: &str,
        mut decide: impl FnMut(Option<Stored>) -> Result<Change<T>, E>,
    ) -> Result<T, E> {
        let key = model_key(&self.lattice, name);
        let mut attempts = 1;
        loop {
            let read: Option<(Stored, u64)> = self.read(&key).await?;
            let (stored, revision) =
                read.map_or((None, 0), |(stored, revision)| (Some(stored), revision));
            let expect = Expect::Revision(revision);
            let (written, result) = match decide(stored)? {
                Change::Leave(result) => return Ok(result),
                Change::Write(stored, result) => {
                    (self.write_listed(name, &stored, expect).await, result)
                }
                Change::Remove(result) => (self.remove_listed(name, expect).await, result),
            };
            match written {
                Ok(()) => return Ok(result),
                Err(StoreError::Bucket(DesiredError::Conflict)) if attempts < ATTEMPTS_MAX => {
                    attempts += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn write_listed(
        &self,
        name: &str,
        stored: &Stored,
        expect: Expect,
    ) -> Result<(), StoreError> {
        self.enlist(name).await?;
        self.write(&model_key(&self.lattice, name), stored, expect).await?;
        // Somebody who removed it may have struck the name meanwhile.
        self.enlist(name).await
    }

    async fn remove_listed(&self, name: &str, expect: Expect) -> Result<(), StoreError> {
        let key = model_key(&self.lattice, name);
        if expect != Expect::Revision(0) {
            self.bucket.delete(&key, expect).await?;
        }
        self.strike(name).await?;
        // Somebody may have put it anew before its name was struck.
        match self.bucket.get(&key).await? {
            Some(_) => self.enlist(name).await,
            None => Ok(()),
        }
    }

    /// Puts a name on the list of applications.
    async fn enlist(&self, name: &str) -> Result<(), StoreError> {
        self.change_names(|names| names.insert(name.to_owned())).await
    }

    /// Takes a name from the list of applications.
    async fn strike(&self, name: &str) -> Result<(), StoreError> {
        self.change_names(|names| names.remove(name)).await
    }

    /// Returns the names on the list of applications.
    pub async fn names(&self) -> Result<BTreeSet<String>, StoreError> {
        Ok(self.read(&set_key(&self.lattice)).await?.map_or_else(BTreeSet::new, |(names, _)| names))
    }

    /// Writes the list if `change` says that it did.
    async fn change_names(
        &self,
        change: impl Fn(&mut BTreeSet<String>) -> bool,
    ) -> Result<(), StoreError> {
        let key = set_key(&self.lattice);
        let mut attempts = 1;
        loop {
            let (mut names, revision) =
                self.read::<BTreeSet<String>>(&key).await?.unwrap_or_default();
            if !change(&mut names) {
                return Ok(());
            }
            match self.write(&key, &names, Expect::Revision(revision)).await {
                Err(StoreError::Bucket(DesiredError::Conflict)) if attempts < ATTEMPTS_MAX => {
                    attempts += 1;
                }
                written => return written,
            }
        }
    }

    async fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<(T, u64)>, StoreError> {
        let Some(entry) = self.bucket.get(key).await? else { return Ok(None) };
        match serde_json::from_slice(&entry.value) {
            Ok(value) => Ok(Some((value, entry.revision))),
            Err(error) => {
                warn!(key, %error, bucket = BUCKET, "an entry cannot be read");
                Err(StoreError::Unreadable { key: key.to_owned(), cause: error.to_string() })
            }
        }
    }

    async fn write(
        &self,
        key: &str,
        value: &impl serde::Serialize,
        expect: Expect,
    ) -> Result<(), StoreError> {
        let value = serde_json::to_vec(value).map_err(|error| StoreError::Unwritable {
            key: key.to_owned(),
            cause: error.to_string(),
        })?;
        let max = self.client.server_info().max_payload.saturating_sub(ENVELOPE_BYTES);
        if value.len() > max {
            return Err(StoreError::TooLarge { bytes: value.len(), max });
        }
        self.bucket.put(key, Bytes::from(value), expect).await?;
        Ok(())
    }
}

//! The entries of the lattice's bucket, and their keys.

pub mod keys;

use bytes::Bytes;

/// One key with its value and the revision that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Bytes,
    pub revision: u64,
}

//! Signing for this machine's user: a user who runs a host here may have it sign a call, without
//! having the cluster seed at hand.
//!
//! A host listens on a Unix socket beside its presence lock, named after it and open to nobody
//! else: mode 0600, and the system is asked whose process connects. A connection is one question: a
//! line of JSON ([`Question`]), a line of JSON back ([`Reply`]). Nothing of this is reachable over
//! a network, and the seed never leaves the host.
//!
//! A process that may connect may also read the host's settings with the seed in them, so this
//! gives no right that was not there; it saves looking for the file. A host signs for its own
//! lattice only, and says so otherwise.
//!
//! [`sign`] is the client: it asks the hosts of this user one after the other. [`server`] is the
//! host's side. Where there are no Unix sockets there is neither, and [`sign`] says what to do
//! instead.

#[cfg(unix)]
mod client;
#[cfg(unix)]
mod place;
#[cfg(unix)]
pub mod server;

use std::path::Path;

use serde::{Deserialize, Serialize};

use lattice_protocol::rpc::invocation::Entity;

/// The largest payload that is signed here: it travels to the host for its hash.
pub const PAYLOAD_BYTES_MAX: usize = 8 << 20;

/// A call that needs a signature.
#[derive(Clone, Copy, Debug)]
pub struct Unsigned<'a> {
    /// The lattice it is meant for.
    pub lattice: &'a str,
    pub origin: &'a Entity,
    pub target: &'a Entity,
    /// As it will stand in the invocation.
    pub operation: &'a str,
    /// The whole of it, whether or not it will travel apart.
    pub payload: &'a [u8],
    /// That of the invocation.
    pub id: &'a str,
    /// Cluster keys that the receiver accepts, as hosts tell in their ping replies; any will do if
    /// there are none.
    pub issuers: &'a [String],
}

/// The signature of a call: two members of its invocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    pub encoded_claims: String,
    /// The host that signed.
    pub host_id: String,
}

/// Why no host of this machine has signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("no host of this user runs on this machine; `host up` starts one")]
    NoHost,
    #[error(
        "the payload has {0} bytes, and a host of this machine signs up to {PAYLOAD_BYTES_MAX}; sign with the cluster seed instead"
    )]
    TooLarge(usize),
    #[error("no host of this machine signs for lattice {lattice}: {}", .causes.join("; "))]
    Refused {
        lattice: String,
        /// The answer of each host, or the problem with it.
        causes: Vec<String>,
    },
    #[error(
        "hosts sign for the user of their machine over Unix sockets, which this system does not have"
    )]
    Unsupported,
}

/// Has a host of this machine sign a call; `dir` is
/// [`presence_dir`](lattice_base::presence::presence_dir). Every step has a deadline, so it returns
/// within seconds.
#[cfg(unix)]
pub async fn sign(dir: &Path, call: &Unsigned<'_>) -> Result<Signed, SignError> {
    client::sign(dir, call).await
}

/// Has a host of this machine sign a call.
#[cfg(not(unix))]
pub async fn sign(_: &Path, _: &Unsigned<'_>) -> Result<Signed, SignError> {
    Err(SignError::Unsupported)
}

/// The line that asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct Question {
    pub lattice: String,
    pub origin: Entity,
    pub target: Entity,
    pub operation: String,
    /// Base64.
    pub payload: String,
    pub id: String,
    #[serde(default)]
    pub issuers: Vec<String>,
}

/// The line that answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reply {
    Signed { encoded_claims: String, host_id: String },
    Refused { error: String },
}

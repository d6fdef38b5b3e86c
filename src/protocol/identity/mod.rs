//! The identities on a lattice, and how they are proved.
//!
//! The modules build on each other in this order:
//!
//! - [`keys`]: ids and names as types, parsed once at the edge; the nkey text form (base32 with a
//!   checksum).
//! - [`digest`]: SHA-256, as text in the upper-case hex all tokens use.
//! - [`signature`]: Ed25519; nothing else knows which libraries do it. `comb` multiplies fast for
//!   keys that verify much.
//! - [`token`]: the compact JWT that wascap invented (header alg `Ed25519`), for any kind of
//!   claims.
//! - [`claims`]: the claims of an actor; [`provider`]: those of a capability provider.
//! - [`bounds`]: how much claims may say.
//! - [`validity`]: when tokens count, and how that is told.
//! - [`module`]: takes a `.wasm` file and says whose it is, or why it must not run.
//! - [`wasm`]: what a file imports and exports, and the contracts these stand for.
//! - [`operator`]: logins of NATS servers.
//! - [`sign`]: makes what the others read: signed modules, and tokens of all kinds.
//!
//! Everything here is pure, no I/O; checks are told the time. Only [`claims::now`] and the texts
//! for people read the clock, and only keys and the ids of tokens are drawn at random.

pub mod bounds;
pub mod claims;
mod comb;
pub mod digest;
pub mod keys;
pub mod module;
pub mod operator;
pub mod provider;
#[doc(hidden)]
pub mod samples;
pub mod sign;
pub mod signature;
pub mod token;
pub mod validity;
pub mod wasm;

pub use claims::ActorClaims;
pub use keys::{
    ActorId, ClusterKey, ContractId, HostId, KeyError, Kind, LatticeName, LinkName, ProviderId,
};
pub use module::{ModuleError, ModuleKind, VerifiedModule, VerifyOptions, verify_module};
pub use provider::ProviderClaims;
pub use signature::{SigningKey, VerifyingKey};
pub use wasm::{NotSignedFor, WasmInfo};

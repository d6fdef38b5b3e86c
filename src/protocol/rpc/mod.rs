//! The invocation and its response: types, bytes, signatures.
//!
//! - [`invocation`]: what is called by whom with what, as types.
//! - [`antiforgery`]: the sender signs with the cluster's key, the receiver checks before it
//!   believes anything.
//! - [`codec`]: msgpack, as all peers write it.
//! - [`readable`]: payloads as people read and write them.
//! - [`window`]: the time in which a receiver takes a token, once.

pub mod antiforgery;
pub mod codec;
pub mod invocation;
pub mod readable;
pub mod window;

pub use antiforgery::{Checked, ForgeryError, Signer, Verifier};
pub use codec::DecodeError;
pub use invocation::{Entity, Invocation, InvocationResponse, TraceContext, dispatch_operation};

//! The remote call: one invocation, one response, over NATS request and reply.
//!
//! A call goes through these modules in order:
//!
//! - [`call`]: what somebody wants, before it is decided how it travels.
//! - [`invocation`]: what is called by whom with what, as types.
//! - [`antiforgery`]: the sender signs with the cluster's key, the receiver checks before it believes anything.
//! - [`chunking`]: payloads too large for a message.
//! - [`codec`]: msgpack, as all peers write it.
//! - [`limits`]: what a host tells another about a call, beside the invocation.
//! - [`client`] and [`server`]: the two ends.
//! - [`readable`]: payloads as people read and write them.
//! - [`repeat`]: what may be called again when nobody knows whether it was done.

pub mod antiforgery;
pub mod call;
pub mod chunking;
pub mod client;
pub mod codec;
pub mod invocation;
pub mod limits;
pub mod readable;
pub mod repeat;
pub mod server;

pub use antiforgery::{Checked, ForgeryError, Signer, Verifier};
pub use codec::DecodeError;
pub use invocation::{Entity, Invocation, InvocationResponse, TraceContext, dispatch_operation};

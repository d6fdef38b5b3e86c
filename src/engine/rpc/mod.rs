//! The remote call: one invocation, one response, over NATS request and reply.
//!
//! A call goes through these modules in order:
//!
//! - [`call`]: what somebody wants, before it is decided how it travels.
//! - [`invocation`](lattice_protocol::rpc::invocation): what is called by whom with what, as types.
//! - [`antiforgery`](lattice_protocol::rpc::antiforgery): the sender signs with the cluster's key,
//!   the receiver checks before it believes anything.
//! - [`chunking`]: payloads too large for a message.
//! - [`codec`](lattice_protocol::rpc::codec): msgpack, as all peers write it.
//! - [`exchange`]: bodies of HTTP requests that need not be whole.
//! - [`leave`]: the end of a subscription, without a lost message.
//! - [`limits`]: what a host tells another about a call, beside the invocation.
//! - [`client`] and [`server`]: the two ends.
//! - [`pieces`]: answers to other hosts that need not be whole.
//! - [`proof`]: what proves calls between hosts that know each other, and their answers.
//! - [`readable`](lattice_protocol::rpc::readable): payloads as people read and write them.
//! - [`repeat`]: what may be called again when nobody knows whether it was done.
//! - [`tokens`]: each token is taken once, and not for ever.

pub mod call;
pub mod chunking;
pub mod client;
pub mod exchange;
pub mod leave;
pub mod limits;
pub mod pieces;
pub mod proof;
pub mod repeat;
pub mod server;
pub mod tokens;

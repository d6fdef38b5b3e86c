//! The protocol: what goes over the wire and into the lattice's bucket, as plain types, and the
//! rules that need nothing else.
//!
//! May import keys, codecs and serde, and none of the other crates here: no tokio, no NATS client,
//! no files. So whatever is written here is true for hosts and clients alike, and is tested with
//! tables of cases.
//!
//! * [`identity`] knows keys, signatures and the claims inside modules; [`builtin`] the names of
//!   built-in providers.
//! * [`lattice`] has every subject. [`control`] has the requests of the control interface and their
//!   answers, [`events`] what hosts tell, [`journal`] and [`peers`] how logs are asked for and
//!   hosts hear of each other, [`meter`] what is counted.
//! * [`rpc`] is the invocation: its bytes, its signature. [`contracts`] are the payloads of those
//!   years.
//! * [`store`] has the keys of the metadata bucket, [`links`] the tables that are made of its
//!   entries. [`desired`] has the bucket of what hosts were asked to run, and its signatures.
//! * [`attention`] is what somebody should look at, and what was said about it.
//! * [`history`] is what hosts keep of what happened, for hosts and clients that come later.
//! * [`applications`] are manifests, and the API of the deployment manager.
//! * [`errors`], [`serde_null`] and [`clock`] are small helpers; [`escape`] makes strangers' text
//!   harmless where people read it.

#![deny(unsafe_code)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

// Its tests leave nothing behind.
#[cfg(test)]
use lattice_test_keeper as _;

pub mod applications;
pub mod attention;
pub mod builtin;
pub mod clock;
pub mod contracts;
pub mod control;
pub mod desired;
pub mod errors;
pub mod escape;
pub mod events;
pub mod history;
pub mod identity;
pub mod issuers;
pub mod journal;
pub mod lattice;
pub mod links;
pub mod meter;
pub mod peers;
pub mod rpc;
pub mod serde_null;
pub mod store;

//! The host: what joins a lattice and runs signed actors.
//!
//! May import protocol and base; knows no client, no dashboard, no command line. Only here is
//! wasmtime.
//!
//! * [`host`] puts the parts together around a [`host_context`], and takes them apart in order.
//! * [`router`] is the heart: it checks every call and chooses its way. [`peers`] tells it which
//!   hosts are there, [`links`] who may call whom; [`rpc`] is the way over NATS.
//! * [`actors`] runs modules; [`providers`] gives them a world. [`control`] answers clients.
//! * [`issuers`] knows which accounts may sign what runs here. [`policy`] asks whether something is allowed. [`events`] tells
//!   what happened, [`delivery`] tells providers and subscribers what changed.
//! * [`meter`] counts calls, [`journal`] keeps what actors and providers say; [`local`] signs for
//!   this machine's user.
//!
//! # What always holds
//!
//! * Every call passes the same checks, whether it stays in the process or crosses the lattice.
//! * Readers of shared state clone a snapshot; no lock is held across an await.
//! * Every queue is bounded and every wait has a deadline.
//! * State changes first, events follow.
//! * Seeds, passwords and payloads reach no log, and no core file.

// One block in `providers::external::process` is excepted, with its reason.
#![deny(unsafe_code)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod actors;
pub mod control;
pub mod delivery;
pub mod events;
pub mod host;
pub mod host_context;
pub mod issuers;
pub mod journal;
pub mod links;
pub mod local;
pub mod meter;
pub mod peers;
pub mod policy;
pub mod providers;
pub mod router;
pub mod rpc;

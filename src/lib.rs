//! A host: one process per machine that joins a lattice and runs signed actors; and the commands that operate the lattice.
//!
//! # Map of the code
//!
//! * [`config`] reads flags, environment and files into one validated value; [`cli`] is the command line.
//! * [`identity`] knows keys, signatures and the claims inside modules.
//! * [`lattice`] has the subjects and the NATS connections.
//! * [`rpc`] is the invocation: its bytes, its signature, its way over NATS.
//! * [`store`] is the metadata bucket all hosts share; [`links`] is what this host knows from it; [`delivery`] tells
//!   providers and subscribers what changed.
//! * [`budget`] is the memory that payloads may take. [`meter`] counts calls, [`journal`] keeps what actors and providers
//!   say; [`local`] signs for this machine's user.
//! * [`issuers`] knows which accounts may sign what runs here. [`policy`] asks whether something is allowed. [`events`] tells
//!   what happened. [`registry`] fetches modules and archives.
//! * [`router`] is the heart: it checks every call and chooses its way. [`peers`] tells it which hosts are there.
//! * [`actors`] runs modules; [`providers`] gives them a world, by [`contracts`]. [`control`] answers clients.
//! * [`doctor`] finds out what is wrong with a lattice. [`inspect`] tells what a reference names; [`keyring`] has the keys a
//!   developer signs with. [`errors`] and [`serde_null`] are two helpers everybody needs; [`escape`] makes
//!   strangers' text harmless where people read it; [`files`] reads files whose paths came from elsewhere;
//!   [`trusted`] reads and writes those that decide what a process does.
//! * [`command`] is what the commands of the binary do: they ask the lattice through [`client`], found by [`context`] or the
//!   settings of the directory, and print through [`terminal`].
//! * [`clock`] tells the time, [`backoff`] the pauses between attempts.
//! * [`suspend`] notices that this process was frozen.
//! * [`http`] is the dashboard: a page, its API, health checks and metrics.
//! * [`host`] puts the parts together around a [`host_context`], and takes them apart in order. [`up`] starts a NATS server beside it.
//!
//! # Always true
//!
//! * Every call passes the same checks, whether it stays in the process or crosses the lattice.
//! * Readers of shared state clone a snapshot; no lock is held across an await.
//! * Every queue is bounded and every wait has a deadline.
//! * State changes first, events follow.
//! * Seeds, passwords and payloads reach no log, and no core file ([`core_files`]).

// One block in `providers::external::process` is excepted, with its reason.
#![deny(unsafe_code)]
// The written settings are one `json!`, with a level of recursion for each member.
#![recursion_limit = "256"]
// Both panic where their reader is gone; `terminal` and `telemetry` print.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod actors;
pub mod backoff;
pub mod budget;
pub mod cli;
pub mod client;
pub mod clock;
pub mod command;
pub mod config;
pub mod context;
pub mod contracts;
pub mod control;
pub mod core_files;
pub mod delivery;
pub mod dirs;
pub mod doctor;
pub mod errors;
pub mod escape;
pub mod events;
pub mod files;
pub mod host;
pub mod host_context;
pub mod http;
pub mod identity;
pub mod inspect;
pub mod issuers;
pub mod journal;
pub mod keyring;
pub mod lattice;
pub mod links;
pub mod local;
pub mod meter;
pub mod peers;
pub mod policy;
pub mod providers;
pub mod registry;
pub mod router;
pub mod rpc;
pub mod serde_null;
pub mod shutdown;
pub mod store;
pub mod suspend;
pub mod telemetry;
pub mod terminal;
pub mod trusted;
pub mod up;

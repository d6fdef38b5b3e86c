//! The host: what joins a lattice and runs signed actors.
//!
//! May import protocol and base; knows no client, no dashboard, no command line. Only here is
//! wasmtime.
//!
//! * [`host`] puts the parts together around a [`host_context`], and takes them apart in order.
//! * [`router`] is the heart: it checks every call and chooses its way. [`peers`] tells it which
//!   hosts are there, [`links`] who may call whom; [`rpc`] is the way over NATS.
//! * [`actors`] runs modules; [`providers`] gives them a world. [`control`] answers clients.
//! * [`kept`] starts again what an operator started here before.
//! * [`issuers`] knows which accounts may sign what runs here. [`policy`] asks whether something is
//!   allowed. [`events`] tells what happened, [`delivery`] tells providers and subscribers what
//!   changed.
//! * [`attention`] is where a dashboard says what needs attention, for clients that ask the host.
//! * [`history`] keeps what happened for hosts and clients that come later.
//! * [`spans`] tells a collector how a call went from hop to hop.
//! * [`meter`] counts calls, [`failures`] keeps the last that failed, [`journal`] what actors and
//!   providers say; [`local`] signs for this machine's user.
//!
//! # Words
//!
//! The field's words are used as in the field: host, lattice, actor, provider, link definition,
//! contract, claims, invocation, constraint, annotation. These few are our own:
//!
//! * *budget*: the memory that all payloads of a process may take together.
//! * *chain*: a call and the calls it waits for; they share a deadline and a depth.
//! * *turn*: the right of a computing guest to a core; *background*: the threads where such a guest
//!   goes on.
//! * *slot*: the place of one instance in the pool; *permit*: the right of a call to run.
//! * *effect*: a step that a plan decided on and its supervisor carries out.
//! * *probe*: a question that hosts of this make answer beside the control interface.
//! * *journal*: the last lines that an actor or provider said; *meter*: the counts of its calls.
//! * *keeper*: the process that ends a provider's whole process tree.
//!
//! # Always true
//!
//! * Every call passes the same checks, whether it stays in the process or crosses the lattice.
//! * Readers of shared state clone a snapshot; no lock is held across an await.
//! * Every queue is bounded and every wait has a deadline.
//! * State changes first, events follow.
//! * Seeds, passwords and payloads reach no log, and no core file.

// One block in `providers::external::process` is excepted, with its reason.
#![deny(unsafe_code)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

// Its tests leave nothing behind.
#[cfg(test)]
use lattice_test_keeper as _;

pub mod actors;
pub mod attention;
pub mod control;
pub mod delivery;
pub mod events;
pub mod failures;
pub mod history;
pub mod host;
pub mod host_context;
pub mod issuers;
pub mod journal;
pub mod kept;
pub mod links;
pub mod local;
pub mod meter;
pub mod peers;
pub mod policy;
pub mod providers;
pub mod router;
pub mod rpc;
pub mod spans;

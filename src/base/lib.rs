//! The ground of hosts and clients: settings, connections, stores, registries, the log.
//!
//! May import the protocol; knows neither hosts nor clients, and no command line.
//!
//! * [`config`] reads flags, environment and files into one validated value; [`identity`] has the
//!   key that a host keeps; [`dirs`] says where files of our own are.
//! * [`lattice`] has the NATS connections and the one way to answer; [`store`] the bucket all hosts
//!   share, and uploads.
//! * [`registry`] fetches modules and archives; [`providers`] has the archives of providers.
//! * [`budget`] is the memory that payloads may take.
//! * [`files`] reads files whose paths came from elsewhere; [`trusted`] reads and writes those that
//!   decide what a process does; [`presence`] tells which hosts run on this machine.
//! * [`telemetry`] is the log, [`shutdown`] has the signals and the lifeline of tasks,
//!   [`service_manager`] tells systemd how a host is, [`suspend`] notices that this process was
//!   frozen, [`backoff`] has the pauses between attempts, [`core_files`] keeps seeds out of core
//!   files.

#![deny(unsafe_code)]
// The written settings are one `json!`, with a level of recursion for each member.
#![recursion_limit = "256"]
// Both panic where their reader is gone; `telemetry` prints.
#![warn(clippy::print_stdout, clippy::print_stderr)]

// Its tests leave nothing behind.
#[cfg(test)]
use lattice_test_keeper as _;

pub mod backoff;
pub mod budget;
pub mod cached;
pub mod config;
pub mod core_files;
pub mod dirs;
pub mod files;
pub mod identity;
pub mod lattice;
pub mod presence;
pub mod providers;
pub mod registry;
pub mod service_manager;
pub mod shutdown;
pub mod store;
pub mod suspend;
pub mod telemetry;
pub mod trusted;
pub mod webhook;

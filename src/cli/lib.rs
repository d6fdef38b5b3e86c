//! The command line: what the binary `host` understands and does.
//!
//! May import all the other crates. Only here is clap.
//!
//! * [`args`] is the grammar, [`command`] what each command does: it asks the lattice in a
//!   [`session`], found by [`context`] or the settings of the directory, and prints through
//!   [`terminal`].
//! * [`up`] starts a NATS server beside a host; [`service`] writes a host as a service of systemd,
//!   launchd or Windows. [`doctor`] finds out what is wrong with a lattice.
//!   [`bench`] measures this machine with hosts of its own; [`inspect`] tells what a reference
//!   names; [`keyring`] has the keys a developer signs with; [`manifests`] reads applications as
//!   people write them.

#![deny(unsafe_code)]
// Both panic where their reader is gone; `terminal` prints.
#![warn(clippy::print_stdout, clippy::print_stderr)]

// Its tests leave nothing behind.
#[cfg(test)]
use lattice_test_keeper as _;

pub mod args;
pub mod bench;
mod clock;
pub mod command;
pub mod context;
pub mod doctor;
pub mod inspect;
pub mod keyring;
pub mod manifests;
pub mod service;
pub mod session;
pub mod terminal;
pub mod up;

//! Applications: the lattice keeps what it was asked to run.
//!
//! A manifest says what is to run and how it is spread; the hosts keep it so, without a program of
//! its own beside them. They answer the API of the deployment manager of those years (`wadm` 0.10)
//! and stay out where a real one does.
//!
//! * [`manager`] is the entry: it finds out whether somebody else keeps applications ([`rival`]),
//!   and else serves the [`api`].
//! * [`store`] has the manifests, [`targets`] the version of each that is to run, [`status`] how
//!   each stands.
//! * [`leases`] says which host acts for an application, by the rules of [`lease`];
//!   [`surroundings`] is what it knows of the others from its own host, and [`linger`] how long it
//!   looks after what was taken down.
//! * [`reconcile`] acts: it sees what runs ([`observe`]), plans what the [`wishes`] lack ([`plan`],
//!   a pure function), sends [`commands`] and remembers them ([`attempts`], [`own_links`]), and
//!   says how it stands ([`report`]). Whether providers take its links on it asks them ([`taken`]).
//!   New versions take over step by step where that is asked for ([`rollouts`]).

#![deny(unsafe_code)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

// Its tests leave nothing behind.
#[cfg(test)]
use lattice_test_keeper as _;

pub mod api;
pub mod attempts;
pub mod commands;
pub mod export;
pub mod lease;
pub mod leases;
pub mod linger;
pub mod manager;
pub mod observe;
pub mod own_links;
pub mod plan;
pub mod reconcile;
pub mod report;
pub mod rival;
pub mod rollouts;
pub mod status;
pub mod store;
pub mod surroundings;
mod taken;
pub mod targets;
pub mod wishes;

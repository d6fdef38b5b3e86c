//! Applications: the lattice keeps what it was asked to run.
//!
//! A manifest says what is to run and how it is spread; the hosts keep it so, without a program of
//! its own beside them. They answer the API of the deployment manager of those years (`wadm` 0.10)
//! and stay out where a real one does.

#![deny(unsafe_code)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod api;
pub mod export;
pub mod manager;
pub mod rival;
pub mod status;
pub mod store;
pub mod targets;

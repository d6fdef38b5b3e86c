//! The lattice as NATS sees it: its subjects.
//!
//! [`subject`] builds and parses every subject of the protocol; nothing else formats one.

pub mod subject;

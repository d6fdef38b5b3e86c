//! The lattice as NATS sees it: its subjects, and the two connections every host keeps to it.
//!
//! * [`answers`] is the one way to answer, and [`reserved`] the subjects nobody else may make a host publish on.
//! * [`subject`] builds and parses every subject of the protocol; nothing else in the crate formats one.
//! * [`connection`] opens the control and the RPC connection, watches them and explains what is wrong with them.

pub mod answers;
pub mod connection;
pub mod reserved;
pub mod subject;

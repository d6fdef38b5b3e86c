//! The lattice as NATS sees it: its subjects.
//!
//! [`subject`] builds and parses every subject of the protocol; nothing else formats one.
//! [`control`] is the table of the control interface, [`permissions`] what NATS users need.

pub mod control;
pub mod permissions;
pub mod subject;

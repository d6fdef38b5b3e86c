//! The two connections every host keeps to NATS, and how it answers over them.
//!
//! * [`answers`] is the one way to answer, and [`reserved`] the subjects nobody else may make a
//!   host publish on.
//! * [`connection`] opens the control and the RPC connection, watches them and explains what is
//!   wrong with them.

pub mod answers;
pub mod connection;
pub mod reserved;

//! The two connections every host keeps to NATS, and how it answers over them.
//!
//! * [`answers`] is the one way to answer, and [`reserved`] the subjects nobody else may make a
//!   host publish on.
//! * [`connection`] opens the control and the RPC connection, watches them and explains what is
//!   wrong with them.
//! * [`made`] tells what JetStream sent on a subject of commands from what a client did.

pub mod answers;
pub mod connection;
pub mod made;
pub mod reserved;

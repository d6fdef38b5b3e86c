//! A client of the lattice: what the commands of this binary ask of hosts, whoever wrote them.
//!
//! * [`lattice`] is the requests of the control interface, with their answers read leniently.
//! * [`listing`] asks for links and claims, in pages where they are too many for one message.
//! * [`links`] puts and deletes links, and waits for what their providers say.
//! * [`names`] finds hosts, actors and providers by what people call them.
//! * [`upload`] sends files of this machine into the lattice, for hosts to start; [`dev`] does so
//!   at each save of one.
//! * [`calls`], [`failures`] and [`logs`] ask hosts for what they count and keep; [`rates`]
//!   compares two looks, [`failing`] says which calls fail now.
//! * [`expiry`] tells when claims are over.
//! * [`lost`] asks for hosts that vanished, and starts elsewhere what only they ran.
//! * [`history`] reads what hosts kept of what happened; [`origin`] says who sends a command.
//! * [`applications`] asks for applications, of hosts or of a deployment manager, and waits until
//!   they are as they are to be; [`apply`] makes them as manifests say.
//! * [`placement`] tells on which hosts something may run, and [`drain`] empties a host with it.
//!   [`commands`] changes what a host runs,
//!   and sees it through to its end with [`watch`]: by events and by looking, whichever tells
//!   first.
//!
//! Nothing here prints. Every wait has a deadline, and an error says which subject of which lattice
//! was asked, and what to do: nobody who listens is told from somebody who is silent.

#![deny(unsafe_code)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

// Its tests leave nothing behind.
#[cfg(test)]
use lattice_test_keeper as _;

pub mod applications;
pub mod apply;
pub mod calls;
pub mod commands;
pub mod dev;
pub mod drain;
pub mod expiry;
pub mod failing;
pub mod failures;
pub mod history;
pub mod lattice;
pub mod links;
mod listing;
pub mod logs;
pub mod lost;
pub mod names;
pub mod origin;
pub mod placement;
pub mod rates;
pub mod upload;
pub mod watch;

use std::time::Duration;

/// How long an answer may take unless told otherwise: what clients of all years wait.
pub const TIMEOUT: Duration = Duration::from_secs(2);

/// How commands are called on the server.
pub const CLIENT_NAME: &str = "host command";

//! The host as a service of its machine.
//!
//! * [`definition`] reads what was asked for into a [`Definition`]: all that a service file says;
//!   [`variables`] and [`paths`] are two parts of it.
//! * [`systemd`], [`launchd`] and [`task`] write it as a file of their manager. These are pure, and
//!   nothing that a user gives means more there than itself.
//! * [`account`] knows the users of services, and whose files root believes meanwhile.
//! * [`manager`] installs, removes and looks at the service with the programs of the manager, which
//!   [`program`] runs; [`disk`] has its files.
//!
//! Always true: no secret is in a service file, since every user of a machine can read it. What may
//! be one is in a file beside it, for its owner alone.

pub mod account;
pub mod definition;
pub mod disk;
pub mod launchd;
pub mod manager;
pub mod paths;
pub mod program;
pub mod status;
pub mod systemd;
pub mod task;
pub mod variables;

pub use definition::{Argument, Definition, Scope};

/// The first line of each file, behind the sign for a comment. A file without it is not ours.
pub const MARK: &str = "Written by `host service install`, which writes it anew.";
/// The name of the service, and of its directories.
pub const NAME: &str = "lattice-host";
/// The name of the service of launchd.
pub const LABEL: &str = "host.lattice";
/// One line for people.
pub const DESCRIPTION: &str = "Host of a lattice of WebAssembly actors";

/// The manager of services of a system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Systemd,
    Launchd,
    Task,
}

impl Kind {
    /// Returns the kind that this system has.
    pub fn here() -> Self {
        match std::env::consts::OS {
            "macos" => Self::Launchd,
            "windows" => Self::Task,
            _ => Self::Systemd,
        }
    }

    /// Returns the text of the file of a service.
    pub fn text(self, definition: &Definition) -> Result<String, TextError> {
        match self {
            Self::Systemd => systemd::unit(definition),
            Self::Launchd => launchd::property_list(definition),
            Self::Task => task::document(definition),
        }
    }
}

/// Why a service file cannot say something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    #[error("{what} {value:?} has a character that the service file cannot hold; use another name")]
    Character { what: &'static str, value: String },
    #[error("{what} {value:?} is no absolute path; give a whole one")]
    NotAbsolute { what: &'static str, value: String },
    #[error("{0}")]
    NotThere(&'static str),
}

impl TextError {
    fn character(what: &'static str, value: &str) -> Self {
        Self::Character { what, value: value.to_owned() }
    }
}

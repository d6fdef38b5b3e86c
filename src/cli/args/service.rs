//! The host as a service of its machine.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::flags::SettingArgs;
use crate::terminal::Form;

#[derive(Debug, Subcommand)]
pub enum Service {
    /// Write the service, enable it and start it
    #[command(
        long_about = "Writes the service for this program and these settings, lets the manager read it, enables and starts it: a \
            unit of systemd, or a property list of launchd on macOS. On Windows, for which the program is not built yet, \
            only the file for the Task Scheduler is written. Root gets a service of the system, everybody else one of their \
            own, which runs while they are logged in, or always \
            after `loginctl enable-linger`.\n\n\
            Settings are flags, as of `host foreground`, and --env. Everybody on the machine can read them, so secrets are named \
            as files (--cluster-seed-file FILE, --nats-creds FILE); a variable whose value may be a secret is kept in a file \
            of its own that only its owner may read. A service of the system is handed files with secrets by systemd, runs \
            as a user of its own that exists only meanwhile, and keeps its files in /var/lib/lattice-host and \
            /var/cache/lattice-host. What files of the current directory and variables of the shell set counts for a host \
            started here and not for the service; it is told.\n\n\
            The service is ready when the host is. SIGHUP (`systemctl reload`) reads the settings again; SIGUSR2 starts elsewhere \
            what runs here and stops the host.",
        after_help = "Examples:\n  \
            host service install --js-domain core                for this user\n  \
            sudo host service install --nats-host nats.example --js-domain core \\\n      \
                --cluster-seed-file /etc/lattice-host/cluster.seed --drain\n  \
            host service install --js-domain core --env RUST_LOG=info --no-start\n  \
            host service install --js-domain core --print        only look at the file\n\n\
            Exit codes: 0 done; 1 it failed, or the service does not run; 2 usage."
    )]
    Install(Box<Install>),
    /// Stop the service and remove it; what the host has stored stays
    Uninstall(Which),
    /// Tell whether the service runs, since when, and its last error
    #[command(
        after_help = "Exit codes: 0 the service runs; 1 it does not, or is not installed; 2 usage."
    )]
    Status(Which),
}

/// The service that is meant.
#[derive(Args, Clone, Debug, Default)]
pub struct Which {
    /// The service of the system; what root means anyway
    #[arg(long)]
    pub system: bool,
    #[command(flatten)]
    pub form: Form,
}

#[derive(Args, Debug)]
pub struct Install {
    #[command(flatten)]
    pub which: Which,
    /// Enable it, and leave the start to the next boot or login
    #[arg(long)]
    pub no_start: bool,
    /// Only print the file
    #[arg(long)]
    pub print: bool,
    /// Let a stop start elsewhere first what runs here, for up to a minute; a restart does not
    #[arg(long)]
    pub drain: bool,
    /// Variable of the host, NAME=VALUE, or NAME for the value it has here; may be repeated
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Directory the host runs in, with its host_config.json [default: one of its own]
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// User that a service of the system runs as, instead of one of its own
    #[arg(long, value_name = "USER")]
    pub run_as: Option<String>,
    #[command(flatten)]
    pub settings: SettingArgs,
}

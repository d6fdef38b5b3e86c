//! The command line: what can be asked of the binary, and how it says what went wrong.
//!
//! Settings are flags of every command that runs a host, and may stand before or after its name. This module only reads;
//! [`crate::config`] decides.

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::SettingArgs;

/// Exit code of wrong settings (`EX_USAGE` of sysexits).
pub const EXIT_CONFIG: u8 = 64;

/// Joins this machine to a lattice and runs signed WebAssembly actors and their capability providers.
#[derive(Debug, Parser)]
#[command(
    name = "host",
    version,
    about,
    long_about = "Joins this machine to a lattice over NATS and runs signed WebAssembly actors and their capability \
        providers.\n\n\
        Without a command it runs in the foreground, like `host foreground`.\n\
        Settings come from flags, then the environment, then .env files, then ./host_config.json, then defaults.",
    after_help = "Examples:\n  \
        host up                                        a NATS server and a host, nothing else needed\n  \
        WASMCLOUD_JS_DOMAIN=core host foreground       a host beside a NATS server with this JetStream domain\n  \
        HOST_machine=second host foreground            the same with a label to start things by\n  \
        host inspect builtin://httpserver              a built-in provider and its link values\n  \
        host config show --origin                      every setting, and where it comes from"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub settings: SettingArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a host until it is stopped (Ctrl-C, SIGTERM, or a client)
    Foreground(Foreground),
    /// Start a NATS server with JetStream, installing one if there is none, and a host beside it
    Up(Foreground),
    /// Tell whether a host runs on this machine: prints pong and exits with 0 if one does
    Ping,
    /// Tell what a reference names: an actor, a provider archive, or a built-in provider with its link values
    #[command(after_help = "Examples:\n  \
        host inspect builtin://httpserver        the built-in HTTP server and every link value it takes\n  \
        host inspect ./echo.wasm                 who an actor is and what it may use\n  \
        host inspect registry.example/kv:0.1.0   the same of an image, fetched like a host would")]
    Inspect {
        /// builtin://NAME, a path, file:///path, or an image reference
        reference: String,
        /// Form of the output
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
        #[command(flatten)]
        settings: SettingArgs,
    },
    /// Look at the settings
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Debug, Args)]
pub struct Foreground {
    #[command(flatten)]
    pub settings: SettingArgs,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print every setting with its value; secrets are masked
    Show {
        /// Also print where each value comes from
        #[arg(long)]
        origin: bool,
        /// Form of the output
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
        #[command(flatten)]
        settings: SettingArgs,
    },
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    #[default]
    Text,
    Json,
}

/// The settings given before and after the command's name; the latter win.
pub fn merged(before: SettingArgs, after: SettingArgs) -> SettingArgs {
    let mut all = before;
    all.values.extend(after.values);
    all.labels.extend(after.labels);
    all
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn settings_may_stand_before_and_after_the_command() {
        let cli =
            Cli::try_parse_from(["host", "--js-domain", "a", "foreground", "--js-domain", "b", "-l", "x=y"]).unwrap();
        let Some(Command::Foreground(foreground)) = cli.command else { panic!("foreground") };
        let all = merged(cli.settings, foreground.settings);
        assert_eq!(all.values, [("js_domain", "a".to_owned()), ("js_domain", "b".to_owned())]);
        assert_eq!(all.labels.len(), 1);
    }
}

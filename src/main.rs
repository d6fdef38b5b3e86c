//! The `host` binary: arguments, command, exit code.

use std::process::ExitCode;

use clap::FromArgMatches as _;
use lattice_base::telemetry;
use lattice_cli::{
    args::{self, Cli},
    command,
};
use lattice_engine::providers::external::keeper;

fn main() -> ExitCode {
    if let Some(code) = keeper::answer() {
        return code;
    }
    // A shell that asks for completions is answered here, and the process ends.
    command::completions::answer();
    let matches = args::command().get_matches_from(args::in_our_words(std::env::args_os()));
    let form = args::form_of(&matches);
    let told = args::exposed(&matches);
    match args::is_daemon(&matches) {
        true => telemetry::warn_later(told),
        false => command::warn_of(&told),
    }
    match Cli::from_arg_matches(&matches) {
        Ok(cli) => {
            let code = command::run(cli, form);
            telemetry::flush();
            code
        }
        Err(error) => error.exit(),
    }
}

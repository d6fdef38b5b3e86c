//! The `host` binary: arguments, command, exit code.

use std::process::ExitCode;

use clap::FromArgMatches as _;
use lattice_base::telemetry;
use lattice_cli::{
    args::{self, Cli, help},
    command,
};
use lattice_engine::providers::external::keeper;

/// A call makes dozens of small allocations in one thread and frees them in another, which the
/// allocator of the C library spends an eighth of its time on.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Some(code) = keeper::answer() {
        return code;
    }
    // A shell that asks for completions is answered here, and the process ends.
    command::completions::answer();
    let (words, script) = args::in_our_words(std::env::args_os());
    let matches = match args::command().try_get_matches_from(&words) {
        Ok(matches) => matches,
        Err(error) => help::with_commands(error, &args::command(), &words).exit(),
    };
    let form = args::form_of(&matches);
    let told = args::exposed(&matches);
    match args::is_daemon(&matches) {
        true => telemetry::warn_later(told),
        false => command::warn_of(&told),
    }
    match Cli::from_arg_matches(&matches) {
        Ok(cli) => {
            if let Some(code) = script.and_then(command::refused_on_terminal) {
                return code;
            }
            let code = command::run(cli, form);
            telemetry::flush();
            code
        }
        Err(error) => error.exit(),
    }
}

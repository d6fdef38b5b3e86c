//! The `host` binary: arguments, command, exit code.

use std::{ffi::OsString, process::ExitCode};

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
        Err(error) => {
            return not_read(&help::with_commands(error, &args::command(), &words), &words);
        }
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
        Err(error) => not_read(&error, &words),
    }
}

/// Prints what is wrong with the command line, or the help that it asks for.
fn not_read(error: &clap::Error, words: &[OsString]) -> ExitCode {
    // Where nobody reads it, the exit code tells as much.
    let _ = error.print();
    args::exit_code_of(error, words).into()
}

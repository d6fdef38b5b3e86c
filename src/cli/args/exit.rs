//! Exit codes of a command line that cannot be read.

use std::ffi::OsString;

use super::command;

/// Exit code of wrong use.
pub const EXIT_USAGE: u8 = 2;
/// Exit code of wrong settings and options (`EX_USAGE` of sysexits), of the commands that run a
/// host.
pub const EXIT_CONFIG: u8 = 64;

/// Whether the command of this name is one that runs a host.
pub(super) fn runs_host(command: &str) -> bool {
    matches!(command, "foreground" | "up" | "daemon" | "restart")
}

/// Returns the exit code of a command line that was not read: to a command that runs a host, a
/// mistake there is a wrong setting, with which a service manager does not start it again.
pub fn exit_code_of(error: &clap::Error, words: &[OsString]) -> u8 {
    if !error.use_stderr() {
        return 0;
    }
    // The mistake may stand before the name of the command.
    let root = command();
    let mut words = words.iter().skip(1).filter_map(|word| word.to_str());
    let named = words.find_map(|word| root.find_subcommand(word));
    let is_daemon = named.is_some_and(|command| runs_host(command.get_name()));
    if is_daemon { EXIT_CONFIG } else { EXIT_USAGE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_option_of_a_host_is_a_wrong_setting_and_one_of_another_command_wrong_use() {
        for (line, code) in [
            ("host foreground --nope", 64),
            ("host --js-domain core --nope foreground", 64),
            ("host up --label nope", 64),
            ("host restart surplus", 64),
            ("host up --help", 0),
            ("host --version", 0),
            ("host get hosts --nope", 2),
            ("host get nonsense", 2),
            ("host --nope", 2),
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let error = command().try_get_matches_from(&words).expect_err(line);
            assert_eq!(exit_code_of(&error, &words), code, "{line}");
        }
    }
}

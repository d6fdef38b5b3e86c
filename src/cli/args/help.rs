//! The help of the command line, in three lengths.
//!
//! * [`START`] alone is the answer to `host` without a command;
//! * `-h` is a screen: what to begin with and the names of all commands, or the options of one
//!   command that are its own;
//! * `--help` is everything, with the settings of a host and the flags of a connection.
//!
//! A word that is no command is answered with those that there are ([`with_commands`]).

use std::ffi::OsString;

use clap::{
    Command, Error,
    builder::StyledStr,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::connect::CONNECTION;
use lattice_base::config::settings;

/// The commands to begin with.
pub const START: &str = "Begin with:
  host up              a NATS server and a host; nothing else is needed
  host up --demo       the same with an application to look at
  host up -d           the same in the background, until `host down`
  host foreground      a host beside a NATS server that runs already
  host get inventory   what runs where
  host dashboard       the page, logged in
  host doctor          what is wrong, and how to mend it";

const EXAMPLES: &str = "Examples:
  host up                                        a NATS server and a host, nothing else needed
  host up --detached; host down                  the same in the background, until told to stop
  host up --demo                                 with an application to look at
  host up --hub tls://hub.example --creds FILE   joined with other machines
  WASMCLOUD_JS_DOMAIN=core host foreground       a host beside a NATS server with this JetStream domain
  HOST_machine=second host foreground            the same with a label to start things by
  host service install --js-domain core          the same as a service, also after the next boot
  host start actor ./echo_s.wasm                 run an actor somewhere in the lattice
  host get inventory                             what runs where
  host drain lucky-reef                          move what runs on a host to others
  host dashboard                                 open the page, logged in
  host doctor                                    what is wrong, and how to mend it";

/// Where the names of a group begin on the screen of `-h`, and how wide that is.
const NAMES_AT: usize = 20;
/// The longest name of a command, and a blank.
const NAME_WIDTH: usize = 14;
const SCREEN_WIDTH: usize = 80;
/// How to read on.
const READ_ON: &str =
    "`host COMMAND -h` tells the options of a command, `host COMMAND --help` all about it.";

/// The commands in groups.
pub const GROUPS: [(&str, &[&str]); 4] = [
    ("Run a host", &["up", "down", "foreground", "service", "dashboard", "ping", "config"]),
    (
        "Operate a lattice",
        &[
            "get", "start", "stop", "scale", "update", "link", "label", "drain", "call", "ctl",
            "apply", "export", "app", "rollout", "forget",
        ],
    ),
    (
        "Find out",
        &[
            "doctor",
            "upgrade-check",
            "attention",
            "explain",
            "logs",
            "events",
            "audit",
            "top",
            "spy",
            "bench",
        ],
    ),
    (
        "Make and keep",
        &[
            "dev",
            "inspect",
            "claims",
            "keys",
            "par",
            "reg",
            "push",
            "pull",
            "cache",
            "ctx",
            "completions",
            "man",
        ],
    ),
];

/// Returns the answer to a command line without a command.
pub fn without_command() -> String {
    format!(
        "{START}\n\n`host -h` lists all commands, `host --help` explains them and lists the settings of a host."
    )
}

/// Adds the help in both lengths to the whole command line.
pub fn with_help(command: Command) -> Command {
    let screen = format!("{START}\n\n{}", names());
    let whole = explained(&command);
    command
        // Flags of a host only fill the screen of those who did not ask for them.
        .mut_args(
            |arg| if arg.get_long() == Some("help") { arg } else { arg.hide_short_help(true) },
        )
        .mut_subcommands(shorter)
        .before_help(screen)
        .before_long_help(whole)
        .after_help(READ_ON)
        .after_long_help(EXAMPLES)
        .help_template(
            "{about-with-newline}\n{usage-heading} {usage}\n\n{before-help}{options}{after-help}",
        )
}

/// Leaves the settings of a host and the flags of a connection to the long help of a command.
fn shorter(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let is_shared = arg.get_help_heading().is_some_and(|heading| {
            heading == CONNECTION || settings::GROUPS.iter().any(|group| group.heading == heading)
        });
        if is_shared { arg.hide_short_help(true) } else { arg }
    });
    command.mut_subcommands(shorter)
}

/// The groups with the names of their commands, as far as a screen is wide.
fn names() -> String {
    let mut text = String::from("Commands:\n");
    for (heading, names) in GROUPS {
        let mut line = format!("  {heading:<width$}", width = NAMES_AT - 2);
        for name in names {
            if line.len() + 1 + name.len() > SCREEN_WIDTH {
                text.push_str(line.trim_end());
                text.push('\n');
                line = " ".repeat(NAMES_AT);
            }
            line.push_str(name);
            line.push(' ');
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.trim_end().to_owned()
}

/// The groups with a line for each of their commands.
fn explained(command: &Command) -> String {
    let mut text = String::new();
    for (heading, names) in GROUPS {
        text.push_str(&format!("{heading}:\n"));
        for name in names {
            let about = command.find_subcommand(name).and_then(|command| command.get_about());
            let about = about.map(ToString::to_string).unwrap_or_default();
            text.push_str(&format!("  {name:<NAME_WIDTH$} {about}\n"));
        }
        text.push('\n');
    }
    text + READ_ON + " The settings of a host are listed below."
}

/// Adds the commands that there are to an error about a word that is none.
pub fn with_commands(mut error: Error, root: &Command, words: &[OsString]) -> Error {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return error;
    }
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidSubcommand).cloned()
    else {
        return error;
    };
    let mut command = root;
    for word in words.iter().skip(1).take_while(|word| **word != *unknown) {
        command = word.to_str().and_then(|word| command.find_subcommand(word)).unwrap_or(command);
    }
    let there_are: Vec<&str> = command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set())
        .map(Command::get_name)
        .collect();
    let told = StyledStr::from(format!("the commands are: {}", there_are.join(", ")));
    let before = match error.get(ContextKind::Suggested) {
        Some(ContextValue::StyledStrs(suggested)) => suggested.clone(),
        _ => Vec::new(),
    };
    let all = before.into_iter().chain([told]).collect();
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(all));
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::command;

    fn told(words: &[&str]) -> String {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let error = command().try_get_matches_from(&words).unwrap_err();
        with_commands(error, &command(), &words).to_string()
    }

    #[test]
    fn every_command_is_in_a_group() {
        let grouped: Vec<&str> =
            GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        for command in command()
            .get_subcommands()
            .filter(|command| command.get_name() != "help" && !command.is_hide_set())
        {
            assert!(grouped.contains(&command.get_name()), "{}", command.get_name());
        }
    }

    #[test]
    fn the_short_help_is_a_screen_and_the_long_one_has_everything() {
        let short = told(&["host", "-h"]);
        assert!(short.lines().count() <= 30, "{short}");
        assert!(short.contains("host up ") && short.contains("completions"), "{short}");
        assert!(!short.contains("--js-domain") && !short.contains("Examples:"), "{short}");
        let long = told(&["host", "--help"]);
        assert!(long.contains("--js-domain") && long.contains("Examples:"), "{long}");
        assert!(without_command().starts_with("Begin with:\n  host up "));
    }

    #[test]
    fn the_short_help_of_a_command_has_its_own_options_only() {
        for (line, own, shared) in [
            ("host up", "--demo", "--js-domain"),
            ("host get hosts", "--output", "--ctl-host"),
            ("host start actor", "--max-instances", "--ctl-host"),
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            let short = told(&[&words[..], &["-h"]].concat());
            assert!(short.contains(own) && !short.contains(shared), "{short}");
            let long = told(&[&words[..], &["--help"]].concat());
            assert!(long.contains(own) && long.contains(shared), "{long}");
        }
    }

    #[test]
    fn a_word_that_is_no_command_is_answered_with_those_that_there_are() {
        let error = told(&["host", "get", "nosuch"]);
        assert!(error.contains("the commands are: hosts, inventory, claims, links"), "{error}");
        let error = told(&["host", "strat"]);
        assert!(
            error.contains("'start'") && error.contains("the commands are: foreground, up"),
            "{error}"
        );
    }
}

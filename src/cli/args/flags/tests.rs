//! The command line made from the table.

use clap::{CommandFactory, Parser};

use crate::args::flags::SettingArgs;
use lattice_base::config::{Config, Sources, settings};

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    settings: SettingArgs,
    verb: Option<String>,
}

fn parse(args: &[&str]) -> SettingArgs {
    let args = std::iter::once("host").chain(args.iter().copied());
    Cli::try_parse_from(args).unwrap_or_else(|error| panic!("{error}")).settings
}

#[test]
fn the_table_makes_a_sound_command() {
    Cli::command().debug_assert();
    assert_eq!(parse(&[]), SettingArgs::default());
}

#[test]
fn every_setting_has_a_flag_that_reaches_it() {
    for setting in settings::all() {
        for flag in [setting.flag].iter().chain(setting.aliases) {
            assert_eq!(
                parse(&[&format!("--{flag}=x")]).values,
                [(setting.key, "x".to_owned())],
                "--{flag}"
            );
        }
        // A user who knows the key can guess a flag.
        let guess = setting.key.replace('_', "-");
        assert!(setting.flag == guess || setting.aliases.contains(&guess.as_str()), "{guess}");
    }
}

#[test]
fn a_negative_number_is_the_value_of_a_flag() {
    let expected = [("token_window_secs", "-1".to_owned())];
    assert_eq!(parse(&["--token-window-secs", "-1"]).values, expected);
}

#[test]
fn flags_of_the_later_host_are_known() {
    let flags = "log-level structured-log-level nats-host nats-port nats-jwt nats-seed lattice lattice-prefix \
        host-seed cluster-seed cluster-issuers provider-shutdown-delay allow-latest allowed-insecure js-domain \
        wasmcloud-js-domain config-service-enabled allow-file-load enable-structured-logging ctl-host ctl-port \
        ctl-jwt ctl-seed ctl-tls ctl-topic-prefix rpc-host rpc-port rpc-jwt rpc-seed rpc-tls rpc-timeout-ms \
        policy-topic policy-changes-topic policy-timeout-ms oci-registry oci-user oci-password";
    for flag in flags.split_whitespace() {
        assert_eq!(parse(&[&format!("--{flag}=x")]).values.len(), 1, "--{flag}");
    }
    assert_eq!(parse(&["-x", "prod"]).values, [("lattice_prefix", "prod".to_owned())]);
}

#[test]
fn a_boolean_flag_needs_no_value_and_leaves_the_next_word_alone() {
    let cli = Cli::try_parse_from(["host", "--ctl-tls", "foreground"]).expect("well-formed");
    assert_eq!(cli.settings.values, [("ctl_tls", "true".to_owned())]);
    assert_eq!(cli.verb.as_deref(), Some("foreground"));
    assert_eq!(parse(&["--ctl-tls=0"]).values, [("ctl_tls", "0".to_owned())]);
}

#[test]
fn local_calls_are_turned_off_in_two_ways() {
    for flag in ["--local-calls=false", "--no-local-calls"] {
        let values = parse(&[flag]).values;
        assert_eq!(values, [("local_calls", "false".to_owned())]);
        let dir = tempfile::tempdir().expect("create a directory");
        let sources = Sources {
            flags: values,
            labels: Vec::new(),
            env: Box::new(Vec::<(String, String)>::new()),
            dir: dir.path().to_owned(),
            home: Some(dir.path().to_owned()),
            context: None,
        };
        let loaded =
            Config::load(&sources).unwrap_or_else(|mistakes| panic!("refused:\n{mistakes}"));
        assert!(!loaded.config.local_calls);
    }
    assert!(Cli::try_parse_from(["host", "--local-calls", "--no-local-calls"]).is_err());
}

#[test]
fn labels_and_lists_may_be_repeated() {
    let args = parse(&[
        "-l",
        "a=1",
        "--label",
        "b=x=y",
        "--allowed-insecure",
        "r1",
        "--allowed-insecure=r2,r3",
    ]);
    assert_eq!(args.labels, [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "x=y".to_owned())]);
    assert_eq!(args.values, [("allowed_insecure", "r1,r2,r3".to_owned())]);
    assert!(Cli::try_parse_from(["host", "--label", "novalue"]).is_err());
    assert!(Cli::try_parse_from(["host", "--label", "=x"]).is_err());
}

#[test]
fn the_help_names_variables_and_defaults() {
    let help = Cli::command().render_long_help().to_string();
    // The width of the terminal decides where lines break.
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for setting in settings::all() {
        assert!(help.contains(&format!("--{}", setting.flag)), "{}", setting.flag);
        assert!(setting.env.iter().all(|name| help.contains(name)), "{}", setting.key);
    }
    assert!(help.contains("[default: wasmbus.ctl]") && help.contains("NATS, control interface:"));
}

/// No two settings may share a key, a flag or a variable: the second would never be asked.
#[test]
fn names_are_unique() {
    let mut names: Vec<String> = Vec::new();
    for setting in settings::all() {
        names
            .extend([setting.key].iter().chain(setting.other_keys).map(|key| format!("key {key}")));
        names.extend(setting.env.iter().map(|name| format!("env {name}")));
        names.extend(
            [setting.flag].iter().chain(setting.aliases).map(|flag| format!("flag {flag}")),
        );
    }
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
}

//! The flags, made from the table of settings.
//!
//! `#[command(flatten)] settings: SettingArgs` in a clap struct adds a flag for every setting.
//! Nothing is decided or checked here apart from the form of `--label`: texts go to
//! [`Config::load`](lattice_base::config::Config::load) like those of any other source, so that all
//! mistakes are reported together and in the same words.

#[cfg(test)]
mod tests;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use lattice_base::config::settings::{self, FLAG_FILE, Kind, Setting};

const LABEL: &str = "label";

/// The settings given on the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SettingArgs {
    /// Key of the setting and its text.
    pub values: Vec<(&'static str, String)>,
    pub labels: Vec<(String, String)>,
}

impl Args for SettingArgs {
    fn augment_args(command: Command) -> Command {
        let mut command = command;
        for group in settings::GROUPS {
            for setting in group.settings {
                command = command.arg(flag(setting).help_heading(group.heading));
                if let Some(file) = file_flag(setting) {
                    command = command.arg(file.help_heading(group.heading));
                }
                if let Some(negative) = negative(setting) {
                    command = command.arg(negative.help_heading(group.heading));
                }
            }
        }
        command.arg(
            Arg::new(LABEL)
                .long("label")
                .short('l')
                .value_name("KEY=VALUE")
                .action(ArgAction::Append)
                .value_parser(parse_label)
                .help(
                    "Label of this host, may be repeated [env: WASMCLOUD_LABEL_<KEY>, HOST_<KEY>]",
                )
                .help_heading("Lattice"),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = SettingArgs::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for setting in settings::all() {
            if let Some(texts) = matches.get_many::<String>(setting.key) {
                let texts: Vec<&str> = texts.map(String::as_str).collect();
                // Only lists may be repeated, and a comma is their separator.
                self.values.push((setting.key, texts.join(",")));
            }
            let file = settings::file_key(setting);
            if let Some((key, path)) =
                file.and_then(|key| Some((key, matches.get_one::<String>(key)?)))
            {
                self.values.push((key, path.clone()));
            }
            if is_on_by_default(setting) && matches.get_flag(&negative_id(setting)) {
                self.values.push((setting.key, "false".to_owned()));
            }
        }
        let labels = matches.get_many::<(String, String)>(LABEL).unwrap_or_default();
        self.labels.extend(labels.cloned());
        Ok(())
    }
}

fn flag(setting: &'static Setting) -> Arg {
    let mut arg = Arg::new(setting.key)
        .long(setting.flag)
        .visible_aliases(setting.aliases.iter().copied())
        .value_name(value_name(&setting.kind))
        .help(help(setting))
        .action(match setting.kind {
            Kind::List
            | Kind::ClusterKeys
            | Kind::AccountKeys
            | Kind::Directories
            | Kind::InboxPrefixes => ArgAction::Append,
            _ => ArgAction::Set,
        });
    if let Some(short) = setting.short {
        arg = arg.short(short);
    }
    if matches!(setting.kind, Kind::Integer { .. }) {
        // It is refused with the range of the setting, and is no other flag.
        arg = arg.allow_negative_numbers(true);
    }
    if setting.kind == Kind::Bool {
        // Without `=`, `--ctl-tls run` would take the subcommand for the value.
        arg = arg.num_args(0..=1).default_missing_value("true").require_equals(true);
    }
    arg
}

/// `--…-file` for what is a secret. The flag it stands for tells of it.
fn file_flag(setting: &'static Setting) -> Option<Arg> {
    let long = format!("{}{FLAG_FILE}", setting.flag);
    settings::file_key(setting).map(|key| {
        Arg::new(key).long(long).value_name("FILE").hide(true).conflicts_with(setting.key)
    })
}

/// `--no-…` for what is on unless told otherwise.
fn negative(setting: &'static Setting) -> Option<Arg> {
    is_on_by_default(setting).then(|| {
        Arg::new(negative_id(setting))
            .long(format!("no-{}", setting.flag))
            .action(ArgAction::SetTrue)
            .conflicts_with(setting.key)
            .help(format!("The same as --{}=false", setting.flag))
    })
}

fn is_on_by_default(setting: &Setting) -> bool {
    setting.kind == Kind::Bool && setting.default == "true"
}

fn negative_id(setting: &Setting) -> String {
    format!("no_{}", setting.key)
}

fn help(setting: &Setting) -> String {
    let mut help = setting.help.to_owned();
    if setting.kind.is_secret() {
        help.push_str(&format!(
            "; other users of the machine can see it, --{}{FLAG_FILE} FILE is safer",
            setting.flag
        ));
    }
    help.push_str(&format!(" [env: {}]", setting.env.join(", ")));
    if !setting.default.is_empty() {
        help.push_str(&format!(" [default: {}]", setting.default));
    }
    help
}

fn value_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Text => "TEXT",
        Kind::LatticeName | Kind::Token => "NAME",
        Kind::Subject => "SUBJECT",
        Kind::Servers => "HOST",
        Kind::Secret => "SECRET",
        Kind::Jwt => "JWT",
        Kind::Seed(_) => "SEED",
        Kind::Integer { .. } => "NUMBER",
        Kind::Bytes { .. } | Kind::BytesOrZero { .. } => "BYTES",
        Kind::Bool => "BOOL",
        Kind::List => "LIST",
        Kind::ClusterKeys | Kind::AccountKeys => "KEYS",
        Kind::Directories => "PATHS",
        Kind::InboxPrefixes => "SUBJECTS",
        Kind::Address => "ADDRESS",
        Kind::Path | Kind::PathOrStderr | Kind::File => "PATH",
        Kind::Choice(_) => "WORD",
    }
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.to_owned()))
        }
        _ => Err("a label is written KEY=VALUE".to_owned()),
    }
}

//! Reads what was asked for into all that a service file says.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use lattice_base::config::settings::{self, FLAG_FILE, Kind};

use crate::args::flags::SettingArgs;

/// The owner of a service: a user, or the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    User,
    System,
}

impl Scope {
    /// Returns its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::System => "system",
        }
    }
}

/// A word of the command line of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    Text(String),
    /// A flag whose value is a file with a secret, which the manager hands to the service.
    Credential {
        flag: String,
        name: &'static str,
        file: String,
    },
}

/// All that a service file says.
#[derive(Clone, Debug)]
pub struct Definition {
    pub scope: Scope,
    /// The program, as an absolute path.
    pub program: String,
    pub arguments: Vec<Argument>,
    pub environment: Vec<(String, String)>,
    /// Where the host runs; none is the directory that the manager keeps for the service.
    pub directory: Option<String>,
    /// The user of a service of the system; none is one that exists only while it runs.
    pub run_as: Option<String>,
    /// Directories that links may name.
    pub link_paths: Vec<String>,
    /// A stop drains the host first.
    pub drains: bool,
    /// How long a stop of the host may take.
    pub shutdown_timeout: Duration,
    /// Where the log goes if the manager has none.
    pub log: String,
}

/// Returns settings that mean the same from wherever the service runs: paths begin in `dir` now.
/// Of two values of a setting only the last is left, since a flag may be given once.
pub fn from(given: SettingArgs, dir: &Path) -> SettingArgs {
    let mut values: Vec<(&'static str, String)> = Vec::new();
    for (key, value) in given.values {
        let is_path = is_path(key) && !value.is_empty();
        let value = if is_path { dir.join(value).display().to_string() } else { value };
        values.retain(|(known, _)| *known != key);
        values.push((key, value));
    }
    SettingArgs { values, labels: given.labels }
}

fn is_path(key: &str) -> bool {
    let names_secret = settings::of_file_key(key).is_some();
    let kind = settings::find(key).map(|setting| &setting.kind);
    names_secret || matches!(kind, Some(Kind::File | Kind::Path))
}

/// Returns the words that say the same as these settings; or what cannot be said in a file that
/// everybody may read.
pub fn arguments(given: &SettingArgs, scope: Scope) -> Result<Vec<Argument>, Vec<String>> {
    let mut words = vec![Argument::Text("foreground".to_owned())];
    let mut mistakes = Vec::new();
    for &(key, ref value) in &given.values {
        match argument(key, value, scope) {
            Ok(word) => words.push(word),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    for (key, value) in &given.labels {
        words.push(Argument::Text(format!("--label={key}={value}")));
    }
    if mistakes.is_empty() { Ok(words) } else { Err(mistakes) }
}

fn argument(key: &'static str, value: &str, scope: Scope) -> Result<Argument, String> {
    if let Some(setting) = settings::of_file_key(key) {
        let flag = format!("{}{FLAG_FILE}", setting.flag);
        return Ok(secret_file(flag, key, value, scope));
    }
    let Some(setting) = settings::find(key) else {
        return Err(format!("{key} is no setting"));
    };
    if setting.kind.is_secret() {
        return Err(format!(
            "--{0} would be in a file and a command line that every user of this machine can read; write the value to a file \
             that only its owner may read, and give --{0}{FLAG_FILE} FILE",
            setting.flag
        ));
    }
    if setting.kind == Kind::File && key.ends_with("_creds") && !value.is_empty() {
        return Ok(secret_file(setting.flag.to_owned(), key, value, scope));
    }
    Ok(Argument::Text(format!("--{}={value}", setting.flag)))
}

fn secret_file(flag: String, name: &'static str, file: &str, scope: Scope) -> Argument {
    match scope {
        Scope::System => Argument::Credential { flag, name, file: file.to_owned() },
        Scope::User => Argument::Text(format!("--{flag}={file}")),
    }
}

/// Reads the variables of a service; one without a value has that of `here`. Returns every mistake.
pub fn environment(
    given: &[String],
    here: &[(String, String)],
) -> Result<Vec<(String, String)>, Vec<String>> {
    let mut variables = Vec::new();
    let mut mistakes = Vec::new();
    for text in given {
        match variable(text, here) {
            Ok(pair) => variables.push(pair),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if mistakes.is_empty() { Ok(variables) } else { Err(mistakes) }
}

fn variable(text: &str, here: &[(String, String)]) -> Result<(String, String), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, here.iter().find(|(known, _)| known == text).map(|(_, v)| v.clone())),
    };
    if !is_name(name) {
        return Err(format!("--env {name:?} is no name of a variable: letters, digits and _"));
    }
    let Some(value) = value else {
        return Err(format!("--env {name}: it is not set here; give --env {name}=VALUE"));
    };
    if let Some(setting) =
        settings::all().find(|setting| setting.kind.is_secret() && setting.env.contains(&name))
    {
        return Err(format!(
            "--env {name} would be in a file that every user of this machine can read; write the value to a file that only its \
             owner may read, and give --{}{FLAG_FILE} FILE",
            setting.flag
        ));
    }
    Ok((name.to_owned(), value))
}

fn is_name(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(is_part)
}

/// Returns the names of variables that are settings of a host here and not of the service: somebody
/// may expect that they are taken along.
pub fn left_out(taken: &[(String, String)], here: &[(String, String)]) -> Vec<String> {
    let is_left = |name: &&String| {
        settings::all().any(|setting| setting.is_env(name))
            && !taken.iter().any(|(known, _)| known == *name)
    };
    here.iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, _)| name)
        .filter(is_left)
        .cloned()
        .collect()
}

/// Checks whether a service of the system reaches its program: it sees no home directories.
pub fn check_program(program: &Path, scope: Scope) -> Result<(), String> {
    let homes = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];
    let hidden = homes.iter().find(|home| program.starts_with(home));
    match (scope, hidden) {
        (Scope::System, Some(hidden)) => Err(format!(
            "a service of the system sees nothing below {hidden}, and this program is {}; copy it to /usr/local/bin/host and \
             give the command with that one",
            program.display()
        )),
        _ => Ok(()),
    }
}

/// Checks the name of a user for a service file.
pub fn check_user(user: &str) -> Result<(), String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let begins = user.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    match begins && user.len() <= 32 && user.chars().all(is_part) {
        true => Ok(()),
        false => Err(format!("--run-as {user:?} is no name of a user")),
    }
}

/// Returns where a user's service runs unless told otherwise.
pub fn own_directory(state: &Path) -> PathBuf {
    state.join("service")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(values: &[(&'static str, &str)]) -> SettingArgs {
        SettingArgs {
            values: values.iter().map(|(key, value)| (*key, (*value).to_owned())).collect(),
            labels: vec![("zone".to_owned(), "a b".to_owned())],
        }
    }

    fn text(text: &str) -> Argument {
        Argument::Text(text.to_owned())
    }

    #[test]
    fn flags_say_the_same_from_wherever_the_service_runs() {
        let settings = given(&[
            ("js_domain", "first"),
            ("js_domain", "core"),
            ("enable_start_from_fs", "true"),
            ("nats_tls_ca", "ca.pem"),
            ("cluster_seed_file", "seed"),
            ("nats_creds", "/etc/host.creds"),
        ]);
        let settings = from(settings, Path::new("/home/me/w"));
        let user = arguments(&settings, Scope::User).unwrap();
        let expected = [
            "foreground",
            "--js-domain=core",
            "--allow-file-load=true",
            "--nats-tls-ca=/home/me/w/ca.pem",
            "--cluster-seed-file=/home/me/w/seed",
            "--nats-creds=/etc/host.creds",
            "--label=zone=a b",
        ];
        assert_eq!(user, expected.map(text));
        let system = arguments(&settings, Scope::System).unwrap();
        let handed: Vec<(&str, &str)> = system
            .iter()
            .filter_map(|argument| match argument {
                Argument::Credential { name, file, .. } => Some((*name, file.as_str())),
                Argument::Text(_) => None,
            })
            .collect();
        let expected =
            [("cluster_seed_file", "/home/me/w/seed"), ("nats_creds", "/etc/host.creds")];
        assert_eq!(handed, expected);
    }

    #[test]
    fn a_secret_is_no_part_of_a_service_file() {
        let settings = given(&[("cluster_seed", "SCX"), ("nats_password", "pw")]);
        let mistakes = arguments(&settings, Scope::User).unwrap_err();
        assert_eq!(mistakes.len(), 2);
        assert!(mistakes[0].contains("--cluster-seed-file FILE"), "{mistakes:?}");
        assert!(!mistakes.concat().contains("SCX") && !mistakes.concat().contains("pw"));
        let env = ["WASMCLOUD_CLUSTER_SEED=SCX".to_owned()];
        let mistakes = environment(&env, &[]).unwrap_err();
        assert!(mistakes[0].contains("--cluster-seed-file FILE") && !mistakes[0].contains("SCX"));
    }

    #[test]
    fn variables_are_given_or_taken_from_here() {
        let here = [("A".to_owned(), "1".to_owned())];
        for (given, expected) in [
            ("A", Some(("A", "1"))),
            ("A=2=3", Some(("A", "2=3"))),
            ("A=", Some(("A", ""))),
            ("B", None),
            ("A B=1", None),
            ("=1", None),
            ("1A=1", None),
            ("A\nB=1", None),
        ] {
            let read = environment(&[given.to_owned()], &here).ok();
            let expected = expected.map(|(name, value)| vec![(name.to_owned(), value.to_owned())]);
            assert_eq!(read, expected, "{given}");
        }
        let here = ["WASMCLOUD_JS_DOMAIN", "NATS_HOST", "PATH"]
            .map(|name| (name.to_owned(), "x".to_owned()));
        let taken = [("NATS_HOST".to_owned(), "x".to_owned())];
        assert_eq!(left_out(&taken, &here), ["WASMCLOUD_JS_DOMAIN"]);
    }

    #[test]
    fn a_service_of_the_system_has_its_program_where_it_sees_it() {
        for (program, scope, is_good) in [
            ("/usr/local/bin/host", Scope::System, true),
            ("/home/me/host", Scope::System, false),
            ("/homes/host", Scope::System, true),
            ("/home/me/host", Scope::User, true),
        ] {
            assert_eq!(check_program(Path::new(program), scope).is_ok(), is_good, "{program}");
        }
        for (user, is_good) in [("host", true), ("_h-1.x", true), ("", false), ("a\nb", false)] {
            assert_eq!(check_user(user).is_ok(), is_good, "{user:?}");
        }
    }
}

//! Reads what was asked for into all that a service file says.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use lattice_base::{
    config::{
        AuditLog, Config, Loaded, Origin, Resolved,
        settings::{self, ENV_FILE, ENV_HOST_LABEL, ENV_LABEL, FLAG_FILE, Kind, Setting},
    },
    service_manager,
    telemetry::otel::settings::PREFIX as OTEL,
};
use lattice_client::names::listed;

use super::NAME;
use crate::args::flags::SettingArgs;

/// Directories that a service of the system does not see (`ProtectHome`), or of which it has some
/// of its own that are empty (`PrivateTmp`).
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];
/// Where systemd keeps the files of its services.
pub(super) const STATE: &str = "/var/lib";
/// Where systemd keeps the directories of its services: their files, and their caches.
const KEPT: [&str; 2] = [STATE, "/var/cache"];
/// Variables that systemd sets for each start of a service, beside those that a host reads itself.
/// Other values lead the host to what is not there.
const OF_MANAGER: [&str; 16] = [
    "CACHE_DIRECTORY",
    "CONFIGURATION_DIRECTORY",
    "CREDENTIALS_DIRECTORY",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LOGS_DIRECTORY",
    "MAINPID",
    "MANAGERPID",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
    "SYSTEMD_EXEC_PID",
];
/// Parts of names of variables whose values may be secrets. `headers` are those of OpenTelemetry,
/// which carry the login of a collector.
const SECRET_NAMES: [&str; 11] = [
    "auth",
    "credential",
    "dsn",
    "headers",
    "jwt",
    "key",
    "pass",
    "pwd",
    "secret",
    "seed",
    "token",
];
/// Settings that are named in a note.
const NAMED_MAX: usize = 8;
/// The settings that let a service of the system write somewhere.
const WRITTEN: [&str; 4] = ["link_paths", "log_file", "audit_log", "host_config"];

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

impl Argument {
    /// Returns the word for a manager that hands over no secrets: a flag names their file.
    pub fn word(&self) -> Cow<'_, str> {
        match self {
            Self::Text(word) => word.into(),
            Self::Credential { flag, file, .. } => format!("--{flag}={file}").into(),
        }
    }
}

/// All that a service file says.
#[derive(Clone, Debug)]
pub struct Definition {
    pub scope: Scope,
    /// The program, as an absolute path.
    pub program: String,
    pub arguments: Vec<Argument>,
    pub environment: Vec<(String, String)>,
    /// Variables that other users must not read.
    pub secret: Option<SecretVariables>,
    /// Where the host runs; none is the directory that the manager keeps for the service.
    pub directory: Option<String>,
    /// The user of a service of the system; none is one that exists only while it runs.
    pub run_as: Option<String>,
    /// Directories that a service of the system may write in, beside those that are its own.
    pub writable: Vec<String>,
    /// A stop drains the host first.
    pub drains: bool,
    /// How long a stop of the host may take.
    pub shutdown_timeout: Duration,
    /// Where the log goes if the manager has none.
    pub log: String,
}

/// Variables that other users must not read, and the file beside the service file that has them.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretVariables {
    pub file: String,
    pub variables: Vec<(String, String)>,
}

impl fmt::Debug for SecretVariables {
    /// Shows no value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretVariables({}: {})", self.file, self.names())
    }
}

impl SecretVariables {
    /// Returns the names of the variables, in a sentence.
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.variables.iter().map(|(name, _)| name.as_str()).collect();
        names.join(", ")
    }
}

/// Returns the directory that systemd keeps for the service of the system.
pub fn state_directory() -> PathBuf {
    Path::new(STATE).join(NAME)
}

/// Returns settings that mean the same from wherever the service runs: paths begin in `dir` now.
/// Of two values of a setting only the last is left, since a flag may be given once.
pub fn from(given: SettingArgs, dir: &Path) -> SettingArgs {
    let mut values: Vec<(&'static str, String)> = Vec::new();
    for (key, value) in given.values {
        let is_path = is_path(key, &value) && !value.is_empty();
        let value = if is_path { dir.join(value).display().to_string() } else { value };
        values.retain(|(known, _)| *known != key);
        values.push((key, value));
    }
    SettingArgs { values, labels: given.labels }
}

fn is_path(key: &str, text: &str) -> bool {
    settings::of_file_key(key).is_some()
        || settings::find(key).is_some_and(|setting| setting.kind.names_path(text))
}

/// Returns the words that say the same as these settings. What cannot be said in a file that
/// everybody may read is a mistake.
pub fn arguments(given: &SettingArgs, scope: Scope, mistakes: &mut Vec<String>) -> Vec<Argument> {
    let mut words = vec![Argument::Text("foreground".to_owned())];
    for &(key, ref value) in &given.values {
        match argument(key, value, scope) {
            Ok(word) => words.push(word),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    for (key, value) in &given.labels {
        words.push(Argument::Text(format!("--label={key}={value}")));
    }
    words
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
    if is_login(setting) && !value.is_empty() {
        return Ok(secret_file(setting.flag.to_owned(), key, value, scope));
    }
    Ok(Argument::Text(format!("--{}={value}", setting.flag)))
}

/// Whether a setting names a file with a login, which is as secret as a seed.
fn is_login(setting: &Setting) -> bool {
    setting.kind == Kind::File && setting.key.ends_with("_creds")
}

fn secret_file(flag: String, name: &'static str, file: &str, scope: Scope) -> Argument {
    match scope {
        Scope::System => Argument::Credential { flag, name, file: file.to_owned() },
        Scope::User => Argument::Text(format!("--{flag}={file}")),
    }
}

/// Reads the variables of a service; one without a value has that of `here`.
pub fn environment(
    given: &[String],
    here: &[(String, String)],
    mistakes: &mut Vec<String>,
) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for text in given {
        match variable(text, here) {
            Ok(pair) => variables.push(pair),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    variables
}

fn variable(text: &str, here: &[(String, String)]) -> Result<(String, String), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, here.iter().find(|(known, _)| known == text).map(|(_, v)| v.clone())),
    };
    if !is_name(name) {
        return Err(format!("--env {name:?} is no name of a variable: letters, digits and _"));
    }
    if is_of_manager(name) {
        return Err(format!(
            "--env {name}: the service manager sets it itself, for each start; leave it away"
        ));
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

fn is_of_manager(name: &str) -> bool {
    service_manager::VARIABLES.contains(&name) || OF_MANAGER.contains(&name)
}

/// Parts variables into those that everybody may read, and those whose values may be secrets.
pub fn parted(variables: Vec<(String, String)>) -> (Vec<(String, String)>, Vec<(String, String)>) {
    variables.into_iter().partition(|(name, value)| !may_be_secret(name, value))
}

/// Whether the value of a variable may be a secret. Nobody says it of variables that are no
/// settings, and one too many costs nothing.
fn may_be_secret(name: &str, value: &str) -> bool {
    let is_setting = settings::all().any(|setting| setting.is_env(name));
    let lower = name.to_ascii_lowercase();
    let is_named = SECRET_NAMES.iter().any(|part| lower.contains(part));
    (is_named && !is_setting && !name.ends_with(ENV_FILE)) || has_login(value)
}

/// Whether a text is a URL with a login in it.
fn has_login(text: &str) -> bool {
    let authority = text.split_once("://").and_then(|(_, rest)| rest.split(['/', '?', '#']).next());
    authority.is_some_and(|authority| authority.contains('@'))
}

/// Says of variables of a host here that the service does not get them, and what gives them to it.
pub fn notes_of_variables(taken: &[(String, String)], here: &[(String, String)]) -> Vec<String> {
    left_out(taken, here).iter().map(|name| note_of_variable(name)).collect()
}

fn note_of_variable(name: &str) -> String {
    let secret = settings::all().find(|setting| setting.kind.is_secret() && setting.is_env(name));
    match secret {
        Some(setting) => format!(
            "{name} is set here and not for the service; --{}{FLAG_FILE} FILE gives it the secret",
            setting.flag
        ),
        None => format!("{name} is set here and not for the service; --env {name} takes it along"),
    }
}

/// Returns the names of variables that are settings of a host here and not of the service: somebody
/// may expect that they are taken along.
pub fn left_out(taken: &[(String, String)], here: &[(String, String)]) -> Vec<String> {
    here.iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, _)| name)
        .filter(|name| is_left_out(name, taken))
        .cloned()
        .collect()
}

fn is_left_out(name: &str, taken: &[(String, String)]) -> bool {
    is_of_host(name) && !taken.iter().any(|(known, _)| known == name)
}

/// Whether a host reads a variable: it is a setting, a label, or one of OpenTelemetry.
fn is_of_host(name: &str) -> bool {
    let begins = [ENV_HOST_LABEL, ENV_LABEL, OTEL].iter().any(|prefix| name.starts_with(prefix));
    begins || settings::all().any(|setting| setting.is_env(name))
}

/// Says which settings of files in this directory the service does not have: those that it would
/// have with another value if it ran here.
pub fn note_of_files(here: &Resolved, service: &Resolved, runs_in: &Path) -> Option<String> {
    let origins: BTreeMap<String, Origin> =
        here.rows().into_iter().map(|row| (row.key, row.origin)).collect();
    let mut keys = here.differences(service);
    keys.retain(|key| origins.get(key).is_some_and(|origin| origin.file().is_some()));
    let file = origins.get(keys.first()?)?.file()?.display();
    let named = listed(keys.iter().map(String::as_str), NAMED_MAX, keys.len());
    Some(format!(
        "{file} is of this directory, and the service does not have its {named}: it runs in {} and reads the files there. Give \
         what it is to have as flags, and secrets as files",
        runs_in.display()
    ))
}

/// Takes from the settings of a service the paths that its own files name, and returns their keys:
/// a service does not say itself what more it may write. Files of root say it.
pub fn without_own_paths(loaded: &mut Loaded, is_of_root: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for row in loaded.table.rows() {
        let is_own = row.origin.file().is_some_and(|file| !is_of_root(file));
        if is_own && WRITTEN.contains(&row.key.as_str()) && take_path(&mut loaded.config, &row.key)
        {
            keys.push(row.key);
        }
    }
    keys
}

/// Takes one of the paths away; returns whether there was one.
fn take_path(config: &mut Config, key: &str) -> bool {
    match key {
        "link_paths" => !std::mem::take(&mut config.link_paths).is_empty(),
        "log_file" => config.log.file.take().is_some(),
        "audit_log" => config.audit_log.take().is_some(),
        "host_config" => config.host_config.take().is_some(),
        _ => false,
    }
}

/// Returns the directory that hides a path from a service of the system, if one does.
fn hidden(path: &Path) -> Option<&'static str> {
    HIDDEN.into_iter().find(|hidden| path.starts_with(hidden))
}

/// Checks whether a service of the system reaches its program: it sees no home directories.
pub fn check_program(program: &Path, scope: Scope) -> Result<(), String> {
    match (scope, hidden(program)) {
        (Scope::System, Some(hidden)) => Err(format!(
            "a service of the system sees nothing below {hidden}, and this program is {}; copy it to /usr/local/bin/host and \
             give the command with that one",
            program.display()
        )),
        _ => Ok(()),
    }
}

/// Checks whether a service of the system reaches a path, which is told with what names it.
pub fn check_path(what: &str, path: &Path) -> Result<(), String> {
    match hidden(path) {
        Some(hidden) => Err(format!(
            "{what} {}: a service of the system sees nothing below {hidden}; give a path elsewhere, such as one below /srv or \
             /etc/lattice-host",
            path.display()
        )),
        None => Ok(()),
    }
}

/// Checks whether a service of the system reaches what its flags name. Files with secrets are read
/// by systemd, which sees everything.
pub fn check_flags(given: &SettingArgs, mistakes: &mut Vec<String>) {
    for (key, value) in &given.values {
        let Some(setting) = settings::find(key).filter(|setting| !is_login(setting)) else {
            continue;
        };
        if setting.kind.names_path(value) {
            let flag = format!("--{}", setting.flag);
            mistakes.extend(check_path(&flag, Path::new(value.trim())).err());
        }
    }
}

/// Returns the directories that a host with these settings writes in, beside the one it runs in and
/// those that systemd keeps: what links may name, and where its logs and the further
/// `host_config.json` are.
pub fn writable(config: &Config, directory: Option<&str>) -> Vec<PathBuf> {
    let mut writable = config.link_paths.clone();
    let dirs = written(config).into_iter().filter(|(_, file)| !is_own(file));
    for dir in dirs.filter_map(|(_, file)| file.parent()) {
        let is_there = directory.is_some_and(|directory| dir.starts_with(directory))
            || writable.iter().any(|known| dir.starts_with(known));
        if !is_there {
            writable.push(dir.to_owned());
        }
    }
    writable
}

/// Checks whether a user who exists only while the service runs can write the files that the
/// settings name.
pub fn check_written(config: &Config, mistakes: &mut Vec<String>) {
    let [state, cache] = KEPT;
    for (key, file) in written(config).into_iter().filter(|(_, file)| !is_own(file)) {
        mistakes.push(format!(
            "{key} is {}, and the user of this service exists only while it runs, with rights in {state}/{NAME} and \
             {cache}/{NAME} alone; name a file there, or give --run-as USER and a directory that this user may write in",
            file.display()
        ));
    }
}

/// Returns the files that a host with these settings writes, each with its setting.
fn written(config: &Config) -> Vec<(&'static str, &Path)> {
    let log = config.log.file.as_ref().map(|file| ("log_file", file.path.as_path()));
    let audit = match &config.audit_log {
        Some(AuditLog::File(file)) => Some(("audit_log", file.path.as_path())),
        Some(AuditLog::Stderr) | None => None,
    };
    let copy = config.host_config.as_deref().map(|path| ("host_config", path));
    [log, audit, copy].into_iter().flatten().collect()
}

/// Whether a file is in a directory that systemd keeps for the service.
fn is_own(file: &Path) -> bool {
    KEPT.iter().any(|dir| file.starts_with(Path::new(dir).join(NAME)))
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
    use lattice_base::config::Sources;

    fn given(values: &[(&'static str, &str)]) -> SettingArgs {
        SettingArgs {
            values: values.iter().map(|(key, value)| (*key, (*value).to_owned())).collect(),
            labels: vec![("zone".to_owned(), "a b".to_owned())],
        }
    }

    fn text(text: &str) -> Argument {
        Argument::Text(text.to_owned())
    }

    /// Returns the words of settings that have no mistake.
    fn words(settings: &SettingArgs, scope: Scope) -> Vec<Argument> {
        let mut mistakes = Vec::new();
        let words = arguments(settings, scope, &mut mistakes);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        words
    }

    /// Returns the variables, if none of them is a mistake.
    fn variables(given: &str, here: &[(String, String)]) -> Option<Vec<(String, String)>> {
        let mut mistakes = Vec::new();
        let variables = environment(&[given.to_owned()], here, &mut mistakes);
        mistakes.is_empty().then_some(variables)
    }

    /// Returns the configuration of a service with these settings.
    fn config(values: &[(&'static str, &str)]) -> Config {
        loaded(values, tempfile::tempdir().unwrap().path()).config
    }

    /// Reads these settings, and the files of a directory.
    fn loaded(values: &[(&'static str, &str)], dir: &Path) -> Loaded {
        let sources = Sources {
            flags: given(values).values,
            labels: Vec::new(),
            env: Box::new(Vec::<(String, String)>::new()),
            dir: dir.to_owned(),
            home: None,
            context: None,
        };
        Config::load(&sources).unwrap()
    }

    /// Writes a file that only its owner may read.
    fn write(path: &Path, text: &str) {
        lattice_base::trusted::replace(path, text.as_bytes()).unwrap();
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
            ("log_file", "host.log"),
            ("audit_log", "audit.jsonl"),
        ]);
        let settings = from(settings, Path::new("/home/me/w"));
        let user = words(&settings, Scope::User);
        let expected = [
            "foreground",
            "--js-domain=core",
            "--allow-file-load=true",
            "--nats-tls-ca=/home/me/w/ca.pem",
            "--cluster-seed-file=/home/me/w/seed",
            "--nats-creds=/etc/host.creds",
            "--log-file=/home/me/w/host.log",
            "--audit-log=/home/me/w/audit.jsonl",
            "--label=zone=a b",
        ];
        assert_eq!(user, expected.map(text));
        let system = words(&settings, Scope::System);
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
    fn a_word_in_place_of_a_path_stays_a_word() {
        for (given_text, expected) in [
            ("stderr", "--audit-log=stderr"),
            (" Stderr ", "--audit-log= Stderr "),
            ("./stderr", "--audit-log=/w/./stderr"),
            ("", "--audit-log="),
        ] {
            let settings = from(given(&[("audit_log", given_text)]), Path::new("/w"));
            assert_eq!(words(&settings, Scope::User)[1], text(expected), "{given_text:?}");
        }
    }

    #[test]
    fn what_systemd_hides_from_a_service_of_the_system_is_refused_with_its_flag() {
        let mut mistakes = Vec::new();
        let settings = given(&[
            ("nats_tls_ca", "/home/me/ca.pem"),
            ("audit_log", "/tmp/audit.jsonl"),
            ("log_file", "/srv/lattice/host.log"),
            ("nats_creds", "/root/host.creds"),
            ("cluster_seed_file", "/root/seed"),
            ("js_domain", "/home"),
        ]);
        check_flags(&settings, &mut mistakes);
        assert_eq!(mistakes.len(), 2, "{mistakes:?}");
        assert!(mistakes[0].starts_with("--nats-tls-ca /home/me/ca.pem: "), "{mistakes:?}");
        assert!(mistakes[1].starts_with("--audit-log /tmp/audit.jsonl: "), "{mistakes:?}");
        for (path, is_good) in [("/srv/w", true), ("/homes/w", true), ("/root/w", false)] {
            assert_eq!(check_path("--directory", Path::new(path)).is_ok(), is_good, "{path}");
        }
    }

    #[test]
    fn a_service_may_write_where_its_logs_are() {
        let config = config(&[
            ("link_paths", "/srv/blobs"),
            ("log_file", "/srv/blobs/log/host.log"),
            ("audit_log", "/var/log/lattice/audit.jsonl"),
            ("host_config", "/var/lib/lattice-host/copy.json"),
        ]);
        let dirs = ["/srv/blobs", "/var/log/lattice"].map(PathBuf::from);
        assert_eq!(writable(&config, None), dirs);
        assert_eq!(writable(&config, Some("/var/log")), dirs[..1]);
    }

    #[test]
    fn a_user_that_exists_only_meanwhile_writes_only_in_its_own_directories() {
        let told = |values: &[(&'static str, &str)]| {
            let mut mistakes = Vec::new();
            check_written(&config(values), &mut mistakes);
            mistakes
        };
        let own = [
            ("log_file", "/var/lib/lattice-host/host.log"),
            ("audit_log", "/var/cache/lattice-host/a/audit.jsonl"),
        ];
        assert_eq!(told(&own), Vec::<String>::new());
        assert_eq!(told(&[("audit_log", "stderr")]), Vec::<String>::new());
        let mistakes = told(&[("audit_log", "/srv/audit.jsonl"), ("log_file", "/srv/host.log")]);
        let [log, audit] = mistakes.as_slice() else { panic!("{mistakes:?}") };
        assert!(log.starts_with("log_file is /srv/host.log, "), "{log}");
        assert!(audit.starts_with("audit_log is /srv/audit.jsonl, "), "{audit}");
        assert!(audit.contains("/var/lib/lattice-host and") && audit.contains("--run-as USER"));
    }

    #[test]
    fn a_secret_is_no_part_of_a_service_file() {
        let settings = given(&[("cluster_seed", "SCX"), ("nats_password", "pw")]);
        let mut mistakes = Vec::new();
        arguments(&settings, Scope::User, &mut mistakes);
        assert_eq!(mistakes.len(), 2);
        assert!(mistakes[0].contains("--cluster-seed-file FILE"), "{mistakes:?}");
        assert!(!mistakes.concat().contains("SCX") && !mistakes.concat().contains("pw"));
        let env = ["WASMCLOUD_CLUSTER_SEED=SCX".to_owned()];
        let mut mistakes = Vec::new();
        environment(&env, &[], &mut mistakes);
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
            let read = variables(given, &here);
            let expected = expected.map(|(name, value)| vec![(name.to_owned(), value.to_owned())]);
            assert_eq!(read, expected, "{given}");
        }
        let here = ["WASMCLOUD_JS_DOMAIN", "NATS_HOST", "PATH"]
            .map(|name| (name.to_owned(), "x".to_owned()));
        let taken = [("NATS_HOST".to_owned(), "x".to_owned())];
        assert_eq!(left_out(&taken, &here), ["WASMCLOUD_JS_DOMAIN"]);
    }

    #[test]
    fn variables_of_a_host_that_the_service_does_not_get_are_told_with_what_gives_them() {
        for (name, advice) in [
            ("WASMCLOUD_JS_DOMAIN", Some("--env WASMCLOUD_JS_DOMAIN")),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", Some("--env OTEL_EXPORTER_OTLP_ENDPOINT")),
            ("HOST_zone", Some("--env HOST_zone")),
            ("WASMCLOUD_LABEL_Zone", Some("--env WASMCLOUD_LABEL_Zone")),
            ("WASMCLOUD_CLUSTER_SEED", Some("--cluster-seed-file FILE")),
            ("WASMCLOUD_CLUSTER_SEED_FILE", Some("--cluster-seed-file FILE")),
            ("PATH", None),
            ("HOSTNAME", None),
        ] {
            let here = [(name.to_owned(), "x".to_owned())];
            let notes = notes_of_variables(&[], &here);
            assert_eq!(notes.len(), usize::from(advice.is_some()), "{notes:?}");
            let is_told = advice.is_none_or(|advice| notes[0].contains(advice));
            assert!(is_told && notes.iter().all(|note| note.starts_with(name)), "{notes:?}");
            assert_eq!(notes_of_variables(&here, &here), Vec::<String>::new());
        }
    }

    #[test]
    fn what_the_manager_sets_is_refused_by_name() {
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"].iter().chain(&OF_MANAGER) {
            let mut mistakes = Vec::new();
            environment(&[format!("{name}=x")], &[], &mut mistakes);
            let [told] = mistakes.as_slice() else { panic!("{name}: {mistakes:?}") };
            assert!(told.starts_with(&format!("--env {name}: ")), "{told}");
        }
    }

    #[test]
    fn values_that_may_be_secrets_are_parted_from_those_that_everybody_may_read() {
        for (name, value, is_secret) in [
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer x", true),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "api-key=x", true),
            ("AWS_SECRET_ACCESS_KEY", "x", true),
            ("DATABASE_DSN", "x", true),
            ("HTTPS_PROXY", "http://me:pw@proxy:3128", true),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://me:pw@collector/x", true),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4318/a@b", false),
            ("RUST_LOG", "info", false),
            // Where a secret is need not be one, and settings are known for what they are.
            ("WASMCLOUD_CLUSTER_SEED_FILE", "/etc/seed", false),
            ("WASMCLOUD_TOKEN_WINDOW_SECS", "60", false),
        ] {
            let (open, secret) = parted(vec![(name.to_owned(), value.to_owned())]);
            assert_eq!(
                (open.len(), secret.len()),
                (usize::from(!is_secret), usize::from(is_secret))
            );
        }
        let secret = SecretVariables {
            file: "/etc/f".to_owned(),
            variables: vec![("A".to_owned(), "x1".to_owned()), ("B".to_owned(), "x2".to_owned())],
        };
        assert_eq!(format!("{secret:?}"), "SecretVariables(/etc/f: A, B)");
    }

    #[test]
    fn settings_of_files_here_are_told_unless_the_service_has_them() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = here.path().join("host_config.json");
        let note = |flags: &[(&'static str, &str)]| {
            let (here, service) = (loaded(flags, here.path()), loaded(flags, there.path()));
            note_of_files(&here.table, &service.table, there.path())
        };
        assert_eq!(note(&[("js_domain", "core")]), None);
        write(&file, r#"{"js_domain":"core","lattice_prefix":"shop","rpc_timeout_ms":2000}"#);
        let told = note(&[]).expect("a note");
        assert!(told.starts_with(&file.display().to_string()), "{told}");
        assert!(told.contains("js_domain, lattice_prefix:"), "{told}");
        assert!(told.contains(&format!("runs in {}", there.path().display())), "{told}");
        let told = note(&[("js_domain", "core")]).expect("a note");
        assert!(told.contains("its lattice_prefix:"), "{told}");
        assert_eq!(note(&[("js_domain", "core"), ("lattice_prefix", "shop")]), None);
        // In one directory the service reads the same.
        write(
            &there.path().join("host_config.json"),
            r#"{"js_domain":"core","lattice_prefix":"shop"}"#,
        );
        assert_eq!(note(&[]), None);
    }

    #[test]
    fn a_service_does_not_say_itself_what_it_may_write() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"link_paths":["/etc"],"audit_log":"/etc/a.jsonl","rpc_timeout_ms":3000}"#;
        write(&dir.path().join("host_config.json"), text);
        for (flags, is_of_root, taken) in [
            (&[][..], false, &["link_paths", "audit_log"][..]),
            (&[("audit_log", "/srv/a.jsonl")], false, &["link_paths"]),
            (&[], true, &[]),
        ] {
            let mut loaded = loaded(flags, dir.path());
            let mut keys = without_own_paths(&mut loaded, |_| is_of_root);
            keys.sort_unstable_by_key(|key| WRITTEN.iter().position(|known| known == key));
            assert_eq!(keys, taken, "{flags:?}");
            let paths: Vec<PathBuf> = writable(&loaded.config, None);
            assert_eq!(paths.contains(&PathBuf::from("/etc")), is_of_root, "{paths:?}");
            let has_flag = paths.contains(&PathBuf::from("/srv"));
            assert_eq!(has_flag, !flags.is_empty(), "{paths:?}");
        }
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

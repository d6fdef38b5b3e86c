//! Reads what was asked for into all that a service file says.

use std::{
    borrow::Cow,
    fmt,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::Duration,
};

use lattice_base::config::settings::{self, FLAG_FILE, Kind, Setting};

use super::{
    NAME,
    paths::{STATE, is_kept},
    variables::Variables,
};
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
    /// A flag whose value is a file, which the manager hands to the service: one with a secret, or
    /// one that the service could not read.
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
    pub environment: Variables,
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
    pub variables: Variables,
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

/// The way in which systemd hands files to a service of the system: it reads them as root at each
/// start, and follows links.
pub struct Handing<'a> {
    /// Where the service runs, unless systemd keeps a directory for it.
    pub directory: Option<&'a Path>,
    /// Whether nobody but root decides what is in a file.
    pub is_of_root: &'a dyn Fn(&Path) -> io::Result<bool>,
    /// Whether every user can read a file.
    pub is_for_all: &'a dyn Fn(&Path) -> bool,
}

impl Handing<'_> {
    /// Whether the service reads a file itself, since it is in a directory of its own.
    fn is_own(&self, file: &Path) -> bool {
        is_kept(file) || self.directory.is_some_and(|directory| file.starts_with(directory))
    }
}

/// Returns the words that say the same as these settings. What cannot be said in a file that
/// everybody may read is a mistake. A service reads files with secrets itself, unless its manager
/// hands them to it.
pub fn arguments(
    given: &SettingArgs,
    handing: Option<&Handing<'_>>,
    mistakes: &mut Vec<String>,
) -> Vec<Argument> {
    let mut words = vec![Argument::Text("foreground".to_owned())];
    for &(key, ref value) in &given.values {
        match argument(key, value, handing) {
            Ok(word) => words.push(word),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    for (key, value) in &given.labels {
        words.push(Argument::Text(format!("--label={key}={value}")));
    }
    words
}

fn argument(
    key: &'static str,
    value: &str,
    handing: Option<&Handing<'_>>,
) -> Result<Argument, String> {
    if let Some(setting) = settings::of_file_key(key) {
        return secret_file(format!("{}{FLAG_FILE}", setting.flag), key, value, handing);
    }
    let Some(setting) = settings::find(key) else {
        return Err(format!("{key} is no setting"));
    };
    if setting.kind.is_secret() {
        return Err(would_be_read(&format!("--{}", setting.flag), setting));
    }
    let flag = setting.flag.to_owned();
    if is_secret_file(setting) && !value.is_empty() {
        return secret_file(flag, key, value, handing);
    }
    if setting.kind == Kind::File && !value.is_empty() {
        return open_file(flag, key, value, handing);
    }
    Ok(Argument::Text(format!("--{}={value}", setting.flag)))
}

/// Says of a secret that it cannot be given in this way, and how it can be.
pub(super) fn would_be_read(given: &str, setting: &Setting) -> String {
    format!(
        "{given} would be in a file that every user of this machine can read; write the value to a file that only its owner may \
         read, and give --{}{FLAG_FILE} FILE",
        setting.flag
    )
}

/// Whether a setting names a file with a login or the key of a certificate, which is as secret as a
/// seed.
pub(super) fn is_secret_file(setting: &Setting) -> bool {
    setting.kind == Kind::File && ["_creds", "_key"].iter().any(|end| setting.key.ends_with(end))
}

/// Returns the word for a file with a secret. systemd would show whoever can exchange such a file
/// what only root may read, so it hands over those of root alone.
fn secret_file(
    flag: String,
    name: &'static str,
    file: &str,
    handing: Option<&Handing<'_>>,
) -> Result<Argument, String> {
    let read_by_itself = |flag: &str| Argument::Text(format!("--{flag}={file}"));
    let Some(handing) = handing else { return Ok(read_by_itself(&flag)) };
    let path = Path::new(file);
    let why = match (handing.is_of_root)(path) {
        Ok(true) => return Ok(Argument::Credential { flag, name, file: file.to_owned() }),
        _ if handing.is_own(path) => return Ok(read_by_itself(&flag)),
        Ok(false) => format!(
            "systemd reads it as root at each start, and others than root could exchange it or a directory above it; copy it, as \
             with `sudo install -D -m 600 {file} /etc/lattice-host/{name}`, and name that file"
        ),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            format!(
                "there is no such file; write it, such as to /etc/lattice-host/{name}, and name that one"
            )
        }
        Err(error) => unseen(&error),
    };
    Err(format!("--{flag} {file}: {why}"))
}

/// Returns the word for a file without a secret. It is handed over where it is root's and others
/// cannot read it, so that the service has it all the same. A certificate always is: its key is
/// handed over, too, and one that is read at a reload would not belong to the key of the start.
fn open_file(
    flag: String,
    name: &'static str,
    file: &str,
    handing: Option<&Handing<'_>>,
) -> Result<Argument, String> {
    let read_by_itself = Argument::Text(format!("--{flag}={file}"));
    let Some(handing) = handing else { return Ok(read_by_itself) };
    let path = Path::new(file);
    match (handing.is_of_root)(path) {
        Ok(true) if name.ends_with("_cert") || !(handing.is_for_all)(path) => {
            Ok(Argument::Credential { flag, name, file: file.to_owned() })
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err(format!("--{flag} {file}: {}", unseen(&error)))
        }
        // One that is not there is told when the settings are read.
        Ok(_) | Err(_) => Ok(read_by_itself),
    }
}

fn unseen(error: &io::Error) -> String {
    format!(
        "whether others than root could exchange it cannot be seen: {error}; give the command as root"
    )
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

    /// Returns the words of settings that have no mistake.
    fn words(settings: &SettingArgs, handing: Option<&Handing<'_>>) -> Vec<Argument> {
        let mut mistakes = Vec::new();
        let words = arguments(settings, handing, &mut mistakes);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        words
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
        let user = words(&settings, None);
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
        let handing = Handing { directory: None, is_of_root: &|_| Ok(true), is_for_all: &|_| true };
        let system = words(&settings, Some(&handing));
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
            assert_eq!(words(&settings, None)[1], text(expected), "{given_text:?}");
        }
    }

    #[test]
    fn a_secret_is_no_part_of_a_service_file() {
        let settings = given(&[("cluster_seed", "SCX"), ("nats_password", "pw")]);
        let mut mistakes = Vec::new();
        arguments(&settings, None, &mut mistakes);
        assert_eq!(mistakes.len(), 2);
        assert!(mistakes[0].contains("--cluster-seed-file FILE"), "{mistakes:?}");
        assert!(!mistakes.concat().contains("SCX") && !mistakes.concat().contains("pw"));
    }

    #[test]
    fn only_a_file_of_root_is_handed_over_and_one_of_the_service_is_read_by_itself() {
        let is_of_root = |file: &Path| -> io::Result<bool> {
            match file.to_str() {
                Some("/etc/none.creds") => Err(ErrorKind::NotFound.into()),
                Some("/etc/secret/x.creds") => Err(ErrorKind::PermissionDenied.into()),
                _ => Ok(file.starts_with("/etc")),
            }
        };
        let own = Path::new("/srv/bob");
        for (directory, file, is_handed) in [
            (None, "/etc/x.creds", Some(true)),
            (Some(own), "/etc/x.creds", Some(true)),
            (Some(own), "/srv/bob/x.creds", Some(false)),
            (None, "/srv/bob/x.creds", None),
            (Some(own), "/srv/bobby/x.creds", None),
            (None, "/home/me/x.creds", None),
            (None, "/var/lib/lattice-host/x.creds", Some(false)),
            (Some(own), "/var/cache/lattice-host/x.creds", Some(false)),
            (None, "/etc/none.creds", None),
            (None, "/etc/secret/x.creds", None),
        ] {
            let handing = Handing { directory, is_of_root: &is_of_root, is_for_all: &|_| true };
            for (key, flag) in [
                ("nats_creds", "nats-creds"),
                ("cluster_seed_file", "cluster-seed-file"),
                ("nats_tls_key", "nats-tls-key"),
            ] {
                let mut mistakes = Vec::new();
                let settings =
                    SettingArgs { values: vec![(key, file.to_owned())], labels: Vec::new() };
                let words = arguments(&settings, Some(&handing), &mut mistakes);
                let expected = match is_handed {
                    Some(true) => Argument::Credential {
                        flag: flag.to_owned(),
                        name: key,
                        file: file.to_owned(),
                    },
                    Some(false) => text(&format!("--{flag}={file}")),
                    None => {
                        let [told] = mistakes.as_slice() else { panic!("{file}: {mistakes:?}") };
                        assert!(told.starts_with(&format!("--{flag} {file}: ")), "{told}");
                        let why = match file {
                            "/etc/none.creds" => "there is no such file",
                            "/etc/secret/x.creds" => "give the command as root",
                            _ => "others than root could exchange it or",
                        };
                        assert!(told.contains(why), "{told}");
                        continue;
                    }
                };
                assert_eq!(words[1..], [expected], "{mistakes:?}");
            }
        }
    }

    #[test]
    fn a_certificate_is_handed_over_with_its_key_and_an_authority_that_others_cannot_read() {
        let is_of_root = |file: &Path| -> io::Result<bool> {
            match file.to_str() {
                Some("/etc/none.pem") => Err(ErrorKind::NotFound.into()),
                Some("/etc/closed/x.pem") => Err(ErrorKind::PermissionDenied.into()),
                _ => Ok(file.starts_with("/etc")),
            }
        };
        let is_for_all = |file: &Path| !file.starts_with("/etc/secret");
        let handing = Handing { directory: None, is_of_root: &is_of_root, is_for_all: &is_for_all };
        for (key, file, is_handed) in [
            ("nats_tls_ca", "/etc/ssl/ca.pem", Some(false)),
            ("nats_tls_ca", "/etc/secret/ca.pem", Some(true)),
            ("oci_ca", "/etc/secret/ca.pem", Some(true)),
            ("nats_tls_cert", "/etc/ssl/cert.pem", Some(true)),
            ("nats_tls_cert", "/srv/bob/cert.pem", Some(false)),
            ("nats_tls_ca", "/var/lib/lattice-host/ca.pem", Some(false)),
            ("nats_tls_ca", "/etc/none.pem", Some(false)),
            ("nats_tls_ca", "/etc/closed/x.pem", None),
            ("nats_tls_ca", "", Some(false)),
        ] {
            let handed = match argument(key, file, Some(&handing)) {
                Ok(Argument::Credential { name, file: handed, .. }) => {
                    assert_eq!((name, handed.as_str()), (key, file));
                    Some(true)
                }
                Ok(Argument::Text(_)) => Some(false),
                Err(told) => {
                    assert!(told.contains("give the command as root"), "{told}");
                    None
                }
            };
            assert_eq!(handed, is_handed, "{key} {file}");
        }
    }

    #[test]
    fn a_name_of_a_user_is_one() {
        for (user, is_good) in [("host", true), ("_h-1.x", true), ("", false), ("a\nb", false)] {
            assert_eq!(check_user(user).is_ok(), is_good, "{user:?}");
        }
    }
}

//! The variables of a service: which it gets, which of them others must not read, and which of
//! those that are set here it does not get.

use lattice_base::{
    config::{
        is_ours,
        settings::{self, ENV_FILE, FLAG_FILE, Setting},
    },
    service_manager,
    telemetry::otel::settings::PREFIX as OTEL,
};

use super::definition::would_be_read;

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

/// Names with their values.
pub type Variables = Vec<(String, String)>;

/// Reads the variables of a service; one without a value has that of `here`.
pub fn environment(
    given: &[String],
    here: &[(String, String)],
    mistakes: &mut Vec<String>,
) -> Variables {
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
    match secret_of_env(name) {
        Some(setting) => Err(would_be_read(&format!("--env {name}"), setting)),
        None => Ok((name.to_owned(), value)),
    }
}

/// Returns the secret setting that a variable sets.
fn secret_of_env(name: &str) -> Option<&'static Setting> {
    settings::all().find(|setting| setting.kind.is_secret() && setting.env.contains(&name))
}

fn is_name(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(is_part)
}

fn is_of_manager(name: &str) -> bool {
    service_manager::VARIABLES.contains(&name) || OF_MANAGER.contains(&name)
}

/// Parts variables into those that everybody may read, and those whose values may be secrets.
pub fn parted(variables: Variables) -> (Variables, Variables) {
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

/// Whether a text is an address with a login in it, with or without a scheme. A password may have
/// any character: only behind a port, or a host alone, an `@` is of something else.
fn has_login(text: &str) -> bool {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let (authority, behind) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let is_port = |end: &str| end.bytes().all(|byte| byte.is_ascii_digit());
    let may_go_on = authority.rsplit_once(':').is_some_and(|(_, end)| !is_port(end));
    authority.contains('@') || (may_go_on && behind.contains('@'))
}

/// Says of variables of a host here that the service does not get them, and what gives them to it:
/// somebody may expect that they are taken along.
pub fn notes(taken: &[(String, String)], here: &[(String, String)]) -> Vec<String> {
    let is_taken = |name: &str| taken.iter().any(|(known, _)| known == name);
    here.iter()
        .filter(|(name, value)| !value.is_empty() && is_of_host(name) && !is_taken(name))
        .map(|(name, _)| match secret_of_env(name.strip_suffix(ENV_FILE).unwrap_or(name)) {
            Some(Setting { flag, .. }) => format!(
                "{name} is set here and not for the service; --{flag}{FLAG_FILE} FILE gives it the secret"
            ),
            None => {
                format!("{name} is set here and not for the service; --env {name} takes it along")
            }
        })
        .collect()
}

/// Whether a host reads a variable: it is a setting, a label, or one of OpenTelemetry.
fn is_of_host(name: &str) -> bool {
    name.starts_with(OTEL) || is_ours(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::definition::SecretVariables;

    /// Returns the variables, if none of them is a mistake.
    fn variables(given: &str, here: &[(String, String)]) -> Option<Variables> {
        let mut mistakes = Vec::new();
        let variables = environment(&[given.to_owned()], here, &mut mistakes);
        mistakes.is_empty().then_some(variables)
    }

    #[test]
    fn a_secret_is_no_variable_of_a_service() {
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
        let notes = notes(&taken, &here);
        assert!(notes.len() == 1 && notes[0].starts_with("WASMCLOUD_JS_DOMAIN "), "{notes:?}");
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
            let notes = super::notes(&[], &here);
            assert_eq!(notes.len(), usize::from(advice.is_some()), "{notes:?}");
            let is_told = advice.is_none_or(|advice| notes[0].contains(advice));
            assert!(is_told && notes.iter().all(|note| note.starts_with(name)), "{notes:?}");
            assert_eq!(super::notes(&here, &here), Vec::<String>::new());
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
            ("HTTPS_PROXY", "me:pw@proxy:3128", true),
            ("HTTPS_PROXY", "proxy:3128", false),
            ("DATABASE_URL", "postgres://u:a/b@h", true),
            ("DATABASE_URL", "postgres://u:a?b#c@h/db", true),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4318/a@b", false),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector/a@b", false),
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
}

//! The paths of a service of the system: which it sees, and where it writes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use lattice_base::{
    config::{AuditLog, Config, Origin, Resolved, Row, settings},
    trusted::directory_of,
};
use lattice_client::names::listed;

use super::{Argument, NAME, Scope, definition::is_secret_file};
use crate::args::flags::SettingArgs;

/// Directories that a service of the system does not see (`ProtectHome`), or of which it has some
/// of its own that are empty (`PrivateTmp`).
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];
/// Where systemd keeps the files of its services.
pub const STATE: &str = "/var/lib";
/// Where systemd keeps the directories of its services: their files, and their caches.
const KEPT: [&str; 2] = [STATE, "/var/cache"];
const LINK_PATHS: &str = "link_paths";
/// Settings that are named in a note.
const NAMED_MAX: usize = 8;

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

/// Checks whether a service of the system reaches what its flags name. Files that are handed over
/// are read by systemd, which sees everything; others with secrets are the service's own.
pub fn check_flags(given: &SettingArgs, arguments: &[Argument], mistakes: &mut Vec<String>) {
    let is_handed = |key: &str| {
        arguments
            .iter()
            .any(|argument| matches!(argument, Argument::Credential { name, .. } if *name == key))
    };
    for (key, value) in given.values.iter().filter(|(key, _)| !is_handed(key)) {
        let Some(setting) = settings::find(key).filter(|setting| !is_secret_file(setting)) else {
            continue;
        };
        if setting.kind.names_path(value) {
            let flag = format!("--{}", setting.flag);
            mistakes.extend(check_path(&flag, Path::new(value.trim())).err());
        }
    }
}

/// Returns the keys of settings that files of the service's own decide.
pub fn own_keys(settings: &Resolved, is_of_root: impl Fn(&Path) -> bool) -> Vec<String> {
    let is_own = |row: &Row| row.origin.file().is_some_and(|file| !is_of_root(file));
    settings.rows().into_iter().filter(is_own).map(|row| row.key).collect()
}

/// Returns those of these keys that would let a host with these settings write somewhere: a service
/// does not say itself where it may. Files of root say it.
pub fn without_effect(config: &Config, own_keys: &[String]) -> Vec<&'static str> {
    let mut keys: Vec<&str> = written(config).into_iter().map(|(key, _)| key).collect();
    keys.dedup();
    keys.retain(|key| own_keys.iter().any(|own| own == key));
    keys
}

/// Returns the directories that a host with these settings writes in, beside the one it runs in and
/// those that systemd keeps: what links may name, and where its logs and the further
/// `host_config.json` are. What the service's own files say does not count.
pub fn writable(config: &Config, directory: Option<&str>, own_keys: &[String]) -> Vec<PathBuf> {
    let mut writable: Vec<PathBuf> = Vec::new();
    let is_own = |key: &str| own_keys.iter().any(|own| own == key);
    let others = written(config).into_iter().filter(|(key, path)| !is_own(key) && !is_kept(path));
    for (key, path) in others {
        let dir = if key == LINK_PATHS { path } else { directory_of(path) };
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
    let is_file = |key: &str, path: &Path| key != LINK_PATHS && !is_kept(path);
    for (key, file) in written(config).into_iter().filter(|(key, path)| is_file(key, path)) {
        mistakes.push(format!(
            "{key} is {}, and the user of this service exists only while it runs, with rights in {state}/{NAME} and \
             {cache}/{NAME} alone; name a file there, or give --run-as USER and a directory that this user may write in",
            file.display()
        ));
    }
}

/// Returns the files that a host with these settings writes, and the directories that links may
/// name, each with its setting.
fn written(config: &Config) -> Vec<(&'static str, &Path)> {
    let links = config.link_paths.iter().map(|path| (LINK_PATHS, path.as_path()));
    let log = config.log.file.as_ref().map(|file| ("log_file", file.path.as_path()));
    let audit = match &config.audit_log {
        Some(AuditLog::File(file)) => Some(("audit_log", file.path.as_path())),
        Some(AuditLog::Stderr) | None => None,
    };
    let copy = config.host_config.as_deref().map(|path| ("host_config", path));
    links.chain([log, audit, copy].into_iter().flatten()).collect()
}

/// Whether a file is in a directory that systemd keeps for the service.
pub(super) fn is_kept(file: &Path) -> bool {
    KEPT.iter().any(|dir| file.starts_with(Path::new(dir).join(NAME)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_base::config::{Loaded, Sources};

    fn given(values: &[(&'static str, &str)]) -> SettingArgs {
        SettingArgs {
            values: values.iter().map(|(key, value)| (*key, (*value).to_owned())).collect(),
            labels: Vec::new(),
        }
    }

    /// Returns the configuration of a service with these settings.
    fn config(values: &[(&'static str, &str)]) -> Config {
        loaded(values, tempfile::tempdir().unwrap().path()).config
    }

    /// Reads these settings, and the files of a directory.
    fn loaded(values: &[(&'static str, &str)], dir: &Path) -> Loaded {
        let flags = given(values).values;
        Config::load(&Sources { flags, ..Sources::of_directory(dir) }).unwrap()
    }

    /// Writes a file that only its owner may read.
    fn write(path: &Path, text: &str) {
        lattice_base::trusted::replace(path, text.as_bytes()).unwrap();
    }

    #[test]
    fn what_systemd_hides_from_a_service_of_the_system_is_refused_with_its_flag() {
        let mut mistakes = Vec::new();
        let settings = given(&[
            ("nats_tls_ca", "/home/me/ca.pem"),
            ("audit_log", "/tmp/audit.jsonl"),
            ("log_file", "/srv/lattice/host.log"),
            ("nats_creds", "/root/host.creds"),
            ("nats_tls_key", "/root/key.pem"),
            ("nats_tls_cert", "/root/cert.pem"),
            ("cluster_seed_file", "/root/seed"),
            ("js_domain", "/home"),
        ]);
        let handed = Argument::Credential {
            flag: "nats-tls-cert".to_owned(),
            name: "nats_tls_cert",
            file: "/root/cert.pem".to_owned(),
        };
        check_flags(&settings, &[handed], &mut mistakes);
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
        assert_eq!(writable(&config, None, &[]), dirs);
        assert_eq!(writable(&config, Some("/var/log"), &[]), dirs[..1]);
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
            let loaded = loaded(flags, dir.path());
            let own_keys = own_keys(&loaded.table, |_| is_of_root);
            assert_eq!(without_effect(&loaded.config, &own_keys), taken, "{flags:?}");
            let paths: Vec<PathBuf> = writable(&loaded.config, None, &own_keys);
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
    }
}

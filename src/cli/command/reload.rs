//! Reads the settings of a running host again, and gives it those that it can take.
//!
//! All sources are read as at the start: the flags and the environment of this process stay as they
//! are, and files may have changed. A host takes the level of the log, labels, the login of a
//! registry, and the certificates and credentials in the files that its connections name. What else
//! has changed is named, and waits for the next start. With a mistake in the settings nothing
//! changes at all. Files that the service manager handed over are copies of the start, so what has
//! become of them since is not seen.

use std::path::Path;

use tracing::{debug, error, info, warn};

use lattice_base::{
    config::{Auth, Config, Connection, Loaded, Resolved, Sources},
    lattice::connection::Purpose,
    telemetry,
    trusted::{self, Holds},
};
use lattice_engine::host::Host;
use lattice_protocol::identity::digest::sha256;

use crate::service::status::{NOT_RELOADED, PARTLY_RELOADED, RELOADED, RELOADING};

/// The directory of the files that a service manager has handed to this process (systemd.exec(5)).
const ENV_HANDED: &str = "CREDENTIALS_DIRECTORY";
const LOG_LEVEL: &str = "log_level";
const LABEL: &str = "label.";
const LOGIN: [&str; 3] = ["oci_registry", "oci_user", "oci_password"];

/// Reads the settings of a running host again.
pub(super) struct Reloader<'a> {
    sources: &'a Sources,
    lines: [Line; 2],
    /// Missing if the settings could not be read when the host was ready.
    known: Option<Known>,
}

/// Settings that were read before.
struct Known {
    /// All of them when the host was ready.
    started: Resolved,
    /// Those that the host has: what it began with, or what it took last.
    latest: Loaded,
}

/// A connection of the host, and the digests of its files when they were looked at last.
struct Line {
    purpose: Purpose,
    connection: Connection,
    digests: Vec<Option<[u8; 32]>>,
}

/// Keys of settings that have changed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    /// A running host takes these.
    taken: Vec<String>,
    /// These wait for its next start.
    waiting: Vec<String>,
}

impl<'a> Reloader<'a> {
    /// Takes note of the settings as they are now: a start writes some of them to files. The host
    /// began with `latest`, and files may have changed since.
    pub(super) fn new(sources: &'a Sources, latest: &Loaded) -> Self {
        let started = Config::load(sources).ok();
        let known = started.map(|started| Known { started: started.table, latest: latest.clone() });
        let config = &latest.config;
        let lines = [(Purpose::Control, &config.ctl), (Purpose::Rpc, &config.rpc)];
        let lines = lines.map(|(purpose, connection)| Line {
            purpose,
            connection: connection.clone(),
            digests: digests(connection),
        });
        Self { sources, lines, known }
    }

    /// Reads the settings again, gives the host what it can take, and logs what that is and what
    /// waits for the next start.
    pub(super) async fn reload(&mut self, host: &Host) {
        info!("{RELOADING}");
        let loaded = match Config::load(self.sources) {
            Ok(loaded) => loaded,
            Err(mistakes) => {
                mistakes.0.iter().for_each(|mistake| error!("{mistake}"));
                error!("{NOT_RELOADED}; correct the settings and send SIGHUP again");
                return;
            }
        };
        let Some(known) = &mut self.known else {
            warn!(
                "the settings could not be read when this host was ready, so what has changed is not known; from now on it is"
            );
            self.known = Some(Known { started: loaded.table.clone(), latest: loaded });
            return;
        };
        let Changes { mut taken, waiting } = changes_between(known, &loaded);
        for warning in &loaded.config.warnings {
            if !known.latest.config.warnings.contains(warning) {
                warn!("{warning}");
            }
        }
        let mut refused = Vec::new();
        if take(host, &known.latest.config, &loaded.config, &mut taken) {
            known.latest = loaded;
        } else {
            refused.push("labels".to_owned());
        }
        for line in &mut self.lines {
            let of_line = format!("certificates or credentials of {}", line.purpose);
            match line.take(host).await {
                Exchange::Unchanged => {}
                Exchange::Taken => taken.push(of_line),
                Exchange::Refused => refused.push(of_line),
            }
        }
        tell(&taken, &refused, &waiting);
        if self.has_handed_files() {
            info!(
                "files that the service manager handed over are as they were at the start; changed ones count from the next start"
            );
        }
    }

    /// Whether the service manager handed files to this host that it would take if they changed.
    fn has_handed_files(&self) -> bool {
        let Some(dir) = self.sources.env.var(ENV_HANDED) else { return false };
        let of_flags = self.sources.flags.iter().map(|(_, value)| Path::new(value));
        let of_lines = self.lines.iter().flat_map(|line| files(&line.connection));
        of_flags.chain(of_lines).any(|file| file.starts_with(&dir))
    }
}

/// The end of reading the files of a connection again.
enum Exchange {
    Unchanged,
    Taken,
    Refused,
}

impl Line {
    /// Connects anew if files of the connection have changed.
    async fn take(&mut self, host: &Host) -> Exchange {
        let digests = digests(&self.connection);
        if digests == self.digests {
            return Exchange::Unchanged;
        }
        match host.reconnect(self.purpose, &self.connection).await {
            Ok(()) => {
                self.digests = digests;
                Exchange::Taken
            }
            Err(error) => {
                let (purpose, changed) = (self.purpose, self.changed(&digests));
                error!(
                    "the changed certificates or credentials of {purpose} are not used, and the connection stays: {changed}: {error}"
                );
                Exchange::Refused
            }
        }
    }

    /// Returns the files that have other digests now, in a sentence.
    fn changed(&self, now: &[Option<[u8; 32]>]) -> String {
        let both = self.digests.iter().zip(now);
        let files = files(&self.connection).zip(both).filter(|(_, (before, now))| before != now);
        let names: Vec<String> = files.map(|(file, _)| file.display().to_string()).collect();
        names.join(", ")
    }
}

/// Compares the settings with those that the host has, and with those of its start.
fn changes_between(known: &Known, now: &Loaded) -> Changes {
    let mut since_last = now.table.differences(&known.latest.table);
    if known.latest.config.oci == now.config.oci {
        // Parts that make no whole have no effect, and the log is not to say that they are taken.
        since_last.retain(|key| !LOGIN.contains(&key.as_str()));
    }
    changes(since_last, now.table.differences(&known.started))
}

/// Sorts what has changed since the last reading, and since the start.
fn changes(since_last: Vec<String>, since_start: Vec<String>) -> Changes {
    let taken = since_last.into_iter().filter(|key| is_taken(key)).collect();
    let waiting = since_start.into_iter().filter(|key| !is_taken(key)).collect();
    Changes { taken, waiting }
}

/// Returns whether a running host takes a setting.
fn is_taken(key: &str) -> bool {
    key == LOG_LEVEL || key.starts_with(LABEL) || LOGIN.contains(&key)
}

/// Gives a host the settings that it takes; what it refuses is logged, and taken off the list.
/// Returns whether it took all.
fn take(host: &Host, before: &Config, now: &Config, taken: &mut Vec<String>) -> bool {
    if taken.iter().any(|key| key == LOG_LEVEL) {
        telemetry::set_level(now.log.level);
        debug!("the level of the log is another one now");
    }
    if taken.iter().any(|key| LOGIN.contains(&key.as_str())) {
        host.set_registry_login(now.oci.clone());
    }
    if !taken.iter().any(|key| key.starts_with(LABEL)) {
        return true;
    }
    match host.replace_labels(&before.labels, &now.labels) {
        Ok(()) => true,
        Err(error) => {
            error!("the labels of the settings are not taken: {error}");
            taken.retain(|key| !key.starts_with(LABEL));
            false
        }
    }
}

/// Logs the outcome; values may be secrets. The causes of what was refused are in the log already.
fn tell(taken: &[String], refused: &[String], waiting: &[String]) {
    match (taken.is_empty(), refused.is_empty()) {
        (true, true) => info!("{RELOADED}; nothing changed that this host takes while it runs"),
        (false, true) => info!(taken = taken.join(", "), "{RELOADED}"),
        (_, false) => error!("{}", in_part(taken, refused)),
    }
    if !waiting.is_empty() {
        warn!(
            waiting = waiting.join(", "),
            "settings that have changed take effect with the next start of this host"
        );
    }
}

/// Says what a reload did not take, and what it took.
fn in_part(taken: &[String], refused: &[String]) -> String {
    let taken = match taken.is_empty() {
        true => String::new(),
        false => format!(", and taken are: {}", taken.join(", ")),
    };
    format!(
        "{PARTLY_RELOADED}: the {} stay as they were{taken}; mend what is told above, and send SIGHUP again",
        refused.join(", ")
    )
}

/// Returns the files with certificates and credentials that a connection names.
fn files(connection: &Connection) -> impl Iterator<Item = &Path> {
    let Connection { tls, auth, .. } = connection;
    let creds = match auth {
        Auth::Creds(path) => Some(path.as_path()),
        _ => None,
    };
    [tls.ca.as_deref(), tls.cert.as_deref(), tls.key.as_deref(), creds].into_iter().flatten()
}

/// Returns digests of these files; none of one that cannot be read.
fn digests(connection: &Connection) -> Vec<Option<[u8; 32]>> {
    // A pipe or a terminal has its content once, and it was for the connection.
    let read = |path: &Path| trusted::read_regular(path, Holds::Settings).ok();
    files(connection).map(|path| read(path).map(|file| sha256(&file.bytes))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(keys: &[&str]) -> Vec<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    /// Reads the settings of a directory with these variables.
    fn settings(variables: &[(&str, &str)]) -> Loaded {
        let pairs = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let dir = tempfile::tempdir().unwrap();
        let env = Box::new(pairs.collect::<Vec<_>>());
        Config::load(&Sources { env, ..Sources::of_directory(dir.path()) }).unwrap()
    }

    #[test]
    fn what_a_reload_did_not_take_is_told_with_what_it_took() {
        for (taken, expected) in [
            (&[][..], "not all was reloaded: the labels, x stay as they were; mend"),
            (&["log_level"], "stay as they were, and taken are: log_level; mend"),
        ] {
            let told = in_part(&keys(taken), &keys(&["labels", "x"]));
            assert!(told.contains(expected), "{told}");
        }
    }

    #[test]
    fn files_that_have_changed_are_named_and_those_of_the_manager_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, creds) = (dir.path().join("ca.pem"), dir.path().join("h.creds"));
        let write = |path: &Path, text: &str| trusted::replace(path, text.as_bytes()).unwrap();
        write(&ca, "a");
        write(&creds, "a");
        let mut latest = settings(&[]);
        latest.config.ctl.tls.ca = Some(ca);
        latest.config.ctl.auth = Auth::Creds(creds.clone());
        let (own, other) = (dir.path().display().to_string(), "/run/credentials/x".to_owned());
        for (handed, expected) in [(Some(own), true), (Some(other), false), (None, false)] {
            let variables: Vec<(String, String)> =
                handed.into_iter().map(|dir| (ENV_HANDED.to_owned(), dir)).collect();
            let env = Box::new(variables.clone());
            let sources = Sources { env, ..Sources::of_directory(dir.path()) };
            let reloader = Reloader::new(&sources, &latest);
            assert_eq!(reloader.has_handed_files(), expected, "{variables:?}");
            let [control, rpc] = &reloader.lines;
            write(&creds, &format!("changed, {variables:?}"));
            assert_eq!(control.changed(&digests(&control.connection)), creds.display().to_string());
            assert_eq!(rpc.changed(&digests(&rpc.connection)), "");
        }
    }

    #[test]
    fn what_a_host_takes_is_compared_with_what_it_has() {
        let zone = ("WASMCLOUD_LABEL_zone", "a");
        let login = [("OCI_REGISTRY", "r.example"), ("OCI_REGISTRY_USER", "me")];
        let password = |word| [login[0], login[1], ("OCI_REGISTRY_PASSWORD", word)];
        for (before, now, expected) in [
            (&[][..], &[][..], &[][..]),
            (&[], &[("WASMCLOUD_LOG_LEVEL", "debug")], &["log_level"]),
            (&[], &[zone], &["label.zone"]),
            (
                &[zone],
                &[("WASMCLOUD_LABEL_zone", "b"), ("WASMCLOUD_LABEL_rack", "7")],
                &["label.rack", "label.zone"],
            ),
            (&[zone], &[], &["label.zone"]),
            (&password("x"), &password("y"), &["oci_password"]),
            (&[], &password("x"), &["oci_password", "oci_registry", "oci_user"]),
            // A part of a login is none.
            (&[], &[login[1]], &[]),
            (&password("x"), &[login[1]], &["oci_password", "oci_registry"]),
            // The next start takes it.
            (&[], &[("WASMCLOUD_JS_DOMAIN", "core")], &[]),
        ] {
            let latest = settings(before);
            let known = Known { started: latest.table.clone(), latest };
            let found = changes_between(&known, &settings(now));
            assert_eq!(found.taken, keys(expected), "{now:?}");
        }
    }

    #[test]
    fn what_a_running_host_does_not_take_is_told_until_it_starts_again() {
        for (since_last, since_start, taken, waiting) in [
            (&[][..], &[][..], &[][..], &[][..]),
            (&["log_level"], &["log_level"], &["log_level"], &[]),
            (&[], &["log_level", "js_domain"], &[], &["js_domain"]),
            (
                &["label.zone", "oci_password", "nats_tls_ca"],
                &["label.zone", "oci_password", "nats_tls_ca"],
                &["label.zone", "oci_password"],
                &["nats_tls_ca"],
            ),
        ] {
            let expected = Changes { taken: keys(taken), waiting: keys(waiting) };
            assert_eq!(changes(keys(since_last), keys(since_start)), expected);
        }
    }
}

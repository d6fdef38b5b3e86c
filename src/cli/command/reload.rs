//! Reads the settings of a running host again, and gives it those that it can take.
//!
//! All sources are read as at the start: the flags and the environment of this process stay as they
//! are, and files may have changed. A host takes the level of the log, labels, the login of a
//! registry, and the certificates and credentials in the files that its connections name. What else
//! has changed is named, and waits for the next start. With a mistake in the settings nothing
//! changes at all.

use tracing::{debug, error, info, warn};

use lattice_base::{
    config::{Auth, Config, Connection, Loaded, Resolved, Sources},
    lattice::connection::Purpose,
    telemetry,
    trusted::{self, Holds},
};
use lattice_engine::host::Host;
use lattice_protocol::identity::digest::sha256;

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
        info!("reading the settings again");
        let loaded = match Config::load(self.sources) {
            Ok(loaded) => loaded,
            Err(mistakes) => {
                mistakes.0.iter().for_each(|mistake| error!("{mistake}"));
                error!("nothing was reloaded; correct the settings and send SIGHUP again");
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
        if take(host, &known.latest.config, &loaded.config, &mut taken) {
            known.latest = loaded;
        }
        for line in &mut self.lines {
            if line.take(host).await {
                taken.push(format!("certificates or credentials of {}", line.purpose));
            }
        }
        tell(&taken, &waiting);
    }
}

impl Line {
    /// Connects anew if files of the connection have changed. Returns whether it did.
    async fn take(&mut self, host: &Host) -> bool {
        let digests = digests(&self.connection);
        if digests == self.digests {
            return false;
        }
        match host.reconnect(self.purpose, &self.connection).await {
            Ok(()) => {
                self.digests = digests;
                true
            }
            Err(error) => {
                error!(
                    "the changed certificates or credentials are not used, and the connection stays: {error}"
                );
                false
            }
        }
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

/// Logs the outcome; values may be secrets.
fn tell(taken: &[String], waiting: &[String]) {
    match taken.is_empty() {
        true => info!("settings reloaded; nothing changed that this host takes while it runs"),
        false => info!(taken = taken.join(", "), "settings reloaded"),
    }
    if !waiting.is_empty() {
        warn!(
            waiting = waiting.join(", "),
            "settings that have changed take effect with the next start of this host"
        );
    }
}

/// Returns digests of the files with certificates and credentials that a connection names.
fn digests(connection: &Connection) -> Vec<Option<[u8; 32]>> {
    let Connection { tls, auth, .. } = connection;
    let creds = match auth {
        Auth::Creds(path) => Some(path),
        _ => None,
    };
    let named = [tls.ca.as_ref(), tls.cert.as_ref(), tls.key.as_ref(), creds].into_iter().flatten();
    // A pipe or a terminal has its content once, and it was for the connection.
    let read = |path| trusted::read_regular(path, Holds::Settings).ok();
    named.map(|path| read(path).map(|file| sha256(&file.bytes))).collect()
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

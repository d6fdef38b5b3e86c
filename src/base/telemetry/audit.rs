//! The audit log: a line of JSON for each command that this host took or refused, and for each
//! start that failed after it was taken.
//!
//! The lines are those of the history ([`Audit`]), with the host, in a file of this machine: they
//! stay when the lattice's stream is away, is full, or belongs to somebody else. As there, the
//! sender is known as far as it says who it is, and values of links, configurations and logins are
//! in no line.
//!
//! Always true: a command never waits for its line. A line that finds no room, or cannot be
//! written, is counted ([`AuditLog::lost`]), told in the log, and told in the file with the next
//! line that is written.

use std::{collections::BTreeMap, fmt, io, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::warn;

use super::{LOG, on_stderr, outlet::Outlet, rotating::Rotating};
use crate::config;
use lattice_protocol::{
    clock, escape,
    events::{Event, event::NOT_AVAILABLE},
    history::{Audit, Origin, compact},
};

/// The sender in a line whose command does not say who sent it.
const UNKNOWN: &str = "unknown";
/// The outcome of a command that was taken and then failed. Others are those of the history.
const FAILED: &str = "failed";

/// The outlets of this process, to be emptied at its end. Held for a copy.
static OPEN: Mutex<Vec<Outlet>> = Mutex::new(Vec::new());

/// Takes in the commands of a host. Cheap to clone.
#[derive(Clone)]
pub struct AuditLog {
    outlet: Outlet,
    host: Arc<Host>,
}

/// The host whose commands are noted.
#[derive(Debug, Serialize)]
struct Host {
    lattice: String,
    host_id: String,
}

/// A line as it is written.
#[derive(Debug, Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    host: &'a Host,
    /// The sender in a few words.
    who: String,
    verb: &'a str,
    object: &'a BTreeMap<String, String>,
    outcome: &'a str,
    /// Why it was refused, or failed.
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    /// The same as in the history.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    took_ms: Option<u64>,
    /// All that the sender says of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'a Origin>,
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").field("host", &self.host).finish_non_exhaustive()
    }
}

impl AuditLog {
    /// Opens the place that the settings name.
    ///
    /// # Errors
    ///
    /// Those of a file that cannot be opened or renamed.
    pub fn open(place: &config::AuditLog, host_id: &str, lattice: &str) -> io::Result<Self> {
        let outlet = match place {
            config::AuditLog::File(file) => Outlet::open("audit", Rotating::open(file)?, lost),
            config::AuditLog::Stderr => match LOG.get().filter(|log| log.is_on_stderr) {
                // Its lines and these do not mix.
                Some(log) => log.outlet.clone(),
                None => on_stderr("audit", lost),
            },
        };
        OPEN.lock().push(outlet.clone());
        let host = Host { lattice: lattice.to_owned(), host_id: host_id.to_owned() };
        Ok(Self { outlet, host: Arc::new(host) })
    }

    /// Notes a command that was taken or refused.
    pub fn note(&self, entry: &Audit) {
        self.push(&line(&self.host, entry));
    }

    /// Notes a start that failed; other events are no news here.
    pub fn on_event(&self, at_ms: u64, event: &Event) {
        if let Some((verb, object, reason)) = failure(event) {
            self.push(&Line {
                time: rfc3339(at_ms),
                host: &self.host,
                who: UNKNOWN.to_owned(),
                verb,
                object: &object,
                outcome: FAILED,
                reason: &reason,
                id: None,
                took_ms: None,
                origin: None,
            });
        }
    }

    /// Returns how many lines were lost since the start.
    pub fn lost(&self) -> u64 {
        self.outlet.lost_so_far()
    }

    fn push(&self, line: &Line<'_>) {
        // It is made of texts and numbers, so there is nothing in it that cannot be encoded.
        let json = serde_json::to_string(line).unwrap_or_default();
        self.outlet.push(format!("{}\n", escape::line(&json)).as_bytes());
    }
}

/// Lets out the lines that wait, as far as they are taken within a short time.
pub(super) fn flush(time: Duration) {
    let open = OPEN.lock().clone();
    open.iter().for_each(|outlet| outlet.flush(time));
}

fn line<'a>(host: &'a Host, entry: &'a Audit) -> Line<'a> {
    Line {
        time: rfc3339(entry.at_ms),
        host,
        who: who(&entry.origin),
        verb: &entry.verb,
        object: &entry.object,
        outcome: entry.outcome.word(),
        reason: &entry.reason,
        id: Some(&entry.id),
        took_ms: Some(entry.took_ms),
        origin: Some(&entry.origin),
    }
}

fn who(origin: &Origin) -> String {
    let words = origin.words();
    let is_unknown = *origin == Origin::default() || words.is_empty();
    if is_unknown { UNKNOWN.to_owned() } else { words }
}

/// Returns what failed and why, of an event that ends a command. Of the three events of a start
/// that failed, one is enough.
fn failure(event: &Event) -> Option<(&'static str, BTreeMap<String, String>, String)> {
    let (verb, object, error) = match event {
        Event::ActorScaleFailed { public_key, image_ref, error, .. } => {
            ("scale actor", vec![("actor_id", public_key), ("actor_ref", image_ref)], error)
        }
        Event::ActorUpdateFailed { public_key, reason, .. } => {
            ("update actor", vec![("actor_id", public_key)], reason)
        }
        Event::ProviderStartFailed { provider_ref, link_name, error } => (
            "start provider",
            vec![("provider_ref", provider_ref), ("link_name", link_name)],
            error,
        ),
        _ => return None,
    };
    let named =
        object.into_iter().filter(|(_, text)| !["", NOT_AVAILABLE].contains(&text.as_str()));
    let object = named.map(|(name, text)| (name.to_owned(), compact::text(text))).collect();
    Some((verb, object, compact::text(error)))
}

fn rfc3339(at_ms: u64) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000);
    at.ok().and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}

/// Makes the line that stands where others are missing, and says so in the log.
fn lost(lost: u64) -> String {
    warn!(lost, "lines of the audit log were lost: they could not be written in time");
    let time = rfc3339(clock::now_ms());
    format!("{}\n", json!({ "time": time, "lost": lost }))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tempfile::TempDir;

    use super::*;
    use lattice_protocol::history::audit::Outcome;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn open(dir: &TempDir) -> AuditLog {
        let path = dir.path().join("audit.jsonl");
        let file = config::LogFile { path, bytes_max: 1 << 20, files_max: 2 };
        AuditLog::open(&config::AuditLog::File(file), "N1", "shop").unwrap()
    }

    fn lines(dir: &TempDir) -> Vec<Value> {
        let text = std::fs::read_to_string(dir.path().join("audit.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn refused(who: &str) -> Audit {
        Audit {
            id: "1-2".into(),
            at_ms: 1_700_000_000_123,
            verb: "stop actor".into(),
            object: BTreeMap::from([("actor_ref".into(), "MA\u{202e}".into())]),
            outcome: Outcome::Refused,
            reason: "no such\nactor".into(),
            took_ms: 3,
            origin: Origin { who: who.into(), ..Origin::default() },
        }
    }

    #[test]
    fn a_command_is_one_line_that_says_who_what_and_the_outcome() {
        let dir = TempDir::new().unwrap();
        let log = open(&dir);
        log.note(&refused("ann@laptop"));
        log.note(&refused(""));
        log.outlet.flush(PATIENCE);
        let lines = lines(&dir);
        assert_eq!(
            lines[0],
            json!({
                "time": "2023-11-14T22:13:20.123Z", "lattice": "shop", "host_id": "N1", "who": "ann@laptop",
                "verb": "stop actor", "object": {"actor_ref": "MA\u{202e}"}, "outcome": "refused",
                "reason": "no such\nactor", "id": "1-2", "took_ms": 3, "origin": {"kind": "", "who": "ann@laptop"},
            })
        );
        assert_eq!((lines.len(), &lines[1]["who"]), (2, &json!("unknown")));
        let text = std::fs::read_to_string(dir.path().join("audit.jsonl")).unwrap();
        assert!(!text.contains('\u{202e}') && text.contains("\\u202e"), "{text}");
    }

    #[test]
    fn a_start_that_fails_later_is_noted_and_other_events_are_not() {
        let dir = TempDir::new().unwrap();
        let log = open(&dir);
        let failed = |error: &str| Event::ProviderStartFailed {
            provider_ref: "r.example/kv:1".into(),
            link_name: "default".into(),
            error: error.into(),
        };
        log.on_event(0, &failed("no such image"));
        log.on_event(0, &Event::HostCutOff);
        log.on_event(0, &Event::ActorStartFailed { actor_ref: "a".into(), error: "e".into() });
        log.outlet.flush(PATIENCE);
        let lines = lines(&dir);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(
            (&lines[0]["outcome"], &lines[0]["verb"]),
            (&json!("failed"), &json!("start provider"))
        );
        assert_eq!(lines[0]["object"]["provider_ref"], "r.example/kv:1");
        assert_eq!(
            (&lines[0]["reason"], &lines[0]["who"]),
            (&json!("no such image"), &json!("unknown"))
        );
    }

    #[test]
    fn what_cannot_be_opened_is_an_error() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("none/audit.jsonl");
        let file = config::LogFile { path, bytes_max: 1 << 20, files_max: 2 };
        assert!(AuditLog::open(&config::AuditLog::File(file), "N1", "shop").is_err());
    }

    #[test]
    fn lost_lines_are_told_in_the_file() {
        let told: Value = serde_json::from_str(&lost(7)).unwrap();
        assert_eq!(told["lost"], 7);
    }
}

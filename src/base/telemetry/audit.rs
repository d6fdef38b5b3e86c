//! The audit log: a line of JSON for each command that this host took or refused, and for each
//! start that failed after it was taken.
//!
//! The lines are those of the history ([`Audit`]), with the host, in a file of this machine: they
//! stay when the lattice's stream is away, is full, or belongs to somebody else. As there, the
//! sender is known as far as it says who it is, and values of links, configurations and logins are
//! in no line.
//!
//! A start that failed has the sender and the id of its command where [`commands`](super::commands)
//! knows it, and no sender where not. Its line comes after that of the command, so it waits up to
//! [`HOLD_MS`](super::commands::HOLD_MS) for it.
//!
//! Always true: a command never waits for its line. A line that finds no room, or cannot be
//! written, is counted ([`AuditLog::lost`]), told in the log, and told in the file with the next
//! line that is written.

use std::{collections::BTreeMap, fmt, sync::Arc, thread, time::Duration};

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::warn;

use super::{
    LOG, Log,
    commands::{Commands, End, Failure, Told},
    on_stderr,
    outlet::{Loss, Notice, Outlet},
    rotating::{self, Rotating},
};
use crate::config;
use lattice_protocol::{
    clock,
    errors::Usage,
    escape,
    events::Event,
    history::{Audit, Origin},
};

/// The sender in a line whose command does not say who sent it.
const UNKNOWN: &str = "unknown";
/// The outcome of a command that was taken and then failed. Others are those of the history.
const FAILED: &str = "failed";
/// The setting that names the place.
const SETTING: &str = "audit_log";

/// The logs that are opened here, to be emptied at the end of the process. Held for a copy.
static LOGS: Mutex<Vec<AuditLog>> = Mutex::new(Vec::new());

/// Takes in the commands of a host. Cheap to clone.
#[derive(Clone)]
pub struct AuditLog {
    outlet: Outlet,
    /// The lines go among those of the log, and are lost with them.
    is_shared: bool,
    host: Arc<Host>,
    // Held for a look, never while a line is written.
    waiting: Arc<Mutex<Waiting>>,
}

/// The things that wait for their other half.
#[derive(Default)]
struct Waiting {
    commands: Commands,
    /// A thread lets out the failures whose time is over.
    has_thread: bool,
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
    /// The sender in a few words; none of what no known command led to.
    #[serde(skip_serializing_if = "Option::is_none")]
    who: Option<String>,
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
    /// Those of a file that cannot be opened, with the next step: the setting is wrong.
    pub fn open(place: &config::AuditLog, host_id: &str, lattice: &str) -> Result<Self, Usage> {
        Self::open_beside(LOG.get(), place, host_id, lattice)
    }

    fn open_beside(
        log: Option<&Log>,
        place: &config::AuditLog,
        host_id: &str,
        lattice: &str,
    ) -> Result<Self, Usage> {
        let (outlet, is_shared) = match place {
            config::AuditLog::File(file) => {
                // The file tells itself of writes that fail.
                let notice = Notice { line: lost, alarm: warn_of_gap };
                let opened_file = Rotating::open(file).map_err(|error| {
                    Usage(rotating::with_next_step(&error, SETTING, &file.path))
                })?;
                if let Some(warning) = opened_file.warning() {
                    warn!("{warning}");
                }
                (Outlet::open("audit", opened_file, notice), false)
            }
            config::AuditLog::Stderr => match log.filter(|log| log.file.is_none()) {
                // Its lines and these do not mix.
                Some(log) => (log.outlet.clone(), true),
                None => (on_stderr("audit", Notice { line: lost, alarm: warn_of_loss }), false),
            },
        };
        let host = Host { lattice: lattice.to_owned(), host_id: host_id.to_owned() };
        let log = Self { outlet, is_shared, host: Arc::new(host), waiting: Arc::default() };
        LOGS.lock().push(log.clone());
        Ok(log)
    }

    /// Notes a command that was taken or refused, and its failure if that came first.
    pub fn note(&self, entry: &Audit) {
        self.push(&line(&self.host, entry));
        let told = self.waiting.lock().commands.on_command(entry);
        self.tell(told);
    }

    /// Notes a start that failed, as soon as its command is known or is not to be expected any
    /// more; other events are no news here.
    pub fn on_event(&self, at_ms: u64, event: &Event) {
        let Some(end) = End::of(at_ms, event) else { return };
        let (told, needs_thread) = self.waiting.lock().on_end(end);
        self.tell(told);
        if needs_thread {
            self.wait_on_thread();
        }
    }

    /// Lets out failures that wait no longer at this time.
    fn settle(&self, now_ms: u64) {
        let told = self.waiting.lock().commands.overdue(now_ms);
        self.tell(told);
    }

    /// Lets out failures when their time is over, until none waits.
    fn wait_on_thread(&self) {
        let log = self.clone();
        let started = thread::Builder::new().name("audit-wait".to_owned()).spawn(move || {
            log.wait_for_commands();
        });
        // Without a thread they wait for the next event, or for the end.
        if started.is_err() {
            self.waiting.lock().has_thread = false;
        }
    }

    fn wait_for_commands(&self) {
        while let Some(time) = self.next_wait() {
            thread::sleep(time);
            self.settle(clock::now_ms());
        }
    }

    /// Returns how long the thread waits until it looks again; none if it ends.
    fn next_wait(&self) -> Option<Duration> {
        let mut waiting = self.waiting.lock();
        let wait_ms = waiting.commands.wait_ms(clock::now_ms());
        waiting.has_thread = wait_ms.is_some();
        wait_ms.map(Duration::from_millis)
    }

    /// Writes failures, with what is known of their commands.
    fn tell(&self, told: impl IntoIterator<Item = Told>) {
        for (failure, command) in told {
            let Failure { at_ms, verb, object, reason } = &failure;
            self.push(&Line {
                time: rfc3339(*at_ms),
                host: &self.host,
                who: command.as_ref().map(|command| who(&command.origin)),
                verb,
                object,
                outcome: FAILED,
                reason,
                id: command.as_ref().map(|command| command.id.as_str()),
                took_ms: None,
                origin: command.as_ref().map(|command| &command.origin),
            });
        }
    }

    /// Returns how many lines were lost since the start; none where they are lost with those of the
    /// log, which counts them.
    pub fn lost(&self) -> Option<u64> {
        (!self.is_shared).then(|| self.outlet.lost_so_far())
    }

    fn push(&self, line: &Line<'_>) {
        // It is made of texts and numbers, so there is nothing in it that cannot be encoded.
        let json = serde_json::to_string(line).unwrap_or_default();
        self.outlet.push(format!("{}\n", escape::line(&json)).as_bytes());
    }
}

impl Waiting {
    /// Takes in an end; returns what can be told now, and whether what waits needs a thread.
    fn on_end(&mut self, end: End) -> (Vec<Told>, bool) {
        let told = self.commands.on_end(end);
        let needs_thread = self.commands.holds_failure() && !self.has_thread;
        self.has_thread |= needs_thread;
        (told, needs_thread)
    }
}

/// Lets out all failures: no command is answered any more.
pub(super) fn settle() {
    let logs = LOGS.lock().clone();
    logs.iter().for_each(|log| log.settle(u64::MAX));
}

/// Lets out the lines that wait to be written, as far as they are taken within a short time.
pub(super) fn empty(time: Duration) {
    let logs = LOGS.lock().clone();
    logs.iter().for_each(|log| log.outlet.flush(time));
}

fn line<'a>(host: &'a Host, entry: &'a Audit) -> Line<'a> {
    Line {
        time: rfc3339(entry.at_ms),
        host,
        who: Some(who(&entry.origin)),
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

fn rfc3339(at_ms: u64) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000);
    at.ok().and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}

/// Says in the log how many lines were lost.
fn warn_of_gap(loss: Loss) {
    if let Loss::NoRoom(lost) | Loss::WhileBroken(lost) = loss {
        warn!(lost, "lines of the audit log were lost: they could not be written in time");
    }
}

/// The same, and that they cannot be written.
fn warn_of_loss(loss: Loss) {
    warn_of_gap(loss);
    if loss == Loss::CannotWrite {
        warn!("lines of the audit log cannot be written, and are counted until they can");
    }
}

/// Makes the line that stands where others are missing.
fn lost(lost: u64) -> String {
    let time = rfc3339(clock::now_ms());
    format!("{}\n", json!({ "time": time, "lost": lost }))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tempfile::TempDir;

    use super::*;
    use crate::telemetry::{Form, commands::HOLD_MS};
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
        log.settle(HOLD_MS);
        log.outlet.flush(PATIENCE);
        let lines = lines(&dir);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(
            (&lines[0]["outcome"], &lines[0]["verb"]),
            (&json!("failed"), &json!("start provider"))
        );
        assert_eq!(lines[0]["object"]["provider_ref"], "r.example/kv:1");
        assert_eq!(lines[0]["reason"], "no such image");
        // Nobody is known to have asked for it.
        assert_eq!((lines[0].get("who"), lines[0].get("id")), (None, None));
    }

    #[test]
    fn a_failure_has_the_sender_and_the_id_of_its_command_and_stands_after_it() {
        let dir = TempDir::new().unwrap();
        let log = open(&dir);
        let failed = |reference: &str| Event::ProviderStartFailed {
            provider_ref: reference.into(),
            link_name: "default".into(),
            error: "no such image".into(),
        };
        let taken = |id: &str, reference: &str, who: &str| Audit {
            id: id.into(),
            verb: "start provider".into(),
            object: BTreeMap::from([("provider_ref".into(), reference.into())]),
            outcome: Outcome::Accepted,
            reason: String::new(),
            ..refused(who)
        };
        let at_ms = refused("").at_ms;
        // No thread lets it out: this is so long ago that none would wait for the command.
        log.waiting.lock().has_thread = true;
        log.note(&taken("1", "a:1", "ann@laptop"));
        log.on_event(at_ms + 1, &failed("a:1"));
        // The answer of this one took longer than the start.
        log.on_event(at_ms + 1, &failed("b:1"));
        log.note(&taken("2", "b:1", ""));
        log.settle(u64::MAX);
        log.outlet.flush(PATIENCE);
        let lines = lines(&dir);
        let told = lines.iter().map(|line| {
            let of = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            [of("id"), of("outcome"), of("who")]
        });
        let expected = [
            ["1", "accepted", "ann@laptop"],
            ["1", "failed", "ann@laptop"],
            ["2", "accepted", "unknown"],
            ["2", "failed", "unknown"],
        ];
        assert_eq!(told.collect::<Vec<_>>(), expected);
        assert_eq!(lines[1]["origin"]["who"], "ann@laptop");
    }

    fn failed_start() -> Event {
        Event::ProviderStartFailed {
            provider_ref: "a:1".into(),
            link_name: "default".into(),
            error: "no such image".into(),
        }
    }

    #[test]
    fn a_failure_without_a_command_does_not_wait_for_ever() {
        let dir = TempDir::new().unwrap();
        let log = open(&dir);
        log.on_event(clock::now_ms(), &failed_start());
        let began = std::time::Instant::now();
        while lines(&dir).is_empty() {
            assert!(began.elapsed() < PATIENCE, "it still waits");
            thread::sleep(Duration::from_millis(20));
        }
        assert!(began.elapsed() >= Duration::from_millis(HOLD_MS) / 2);
    }

    #[test]
    fn lines_are_let_out_while_failures_still_wait() {
        let dir = TempDir::new().unwrap();
        let log = open(&dir);
        // No thread lets it out.
        log.waiting.lock().has_thread = true;
        log.note(&refused("ann@laptop"));
        log.on_event(clock::now_ms(), &failed_start());
        empty(PATIENCE);
        assert_eq!(lines(&dir).len(), 1, "its command may come");
        log.settle(u64::MAX);
        empty(PATIENCE);
        assert_eq!(lines(&dir).len(), 2);
    }

    #[test]
    fn what_cannot_be_opened_is_an_error() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("none/audit.jsonl");
        let file = config::LogFile { path, bytes_max: 1 << 20, files_max: 2 };
        let Err(error) = AuditLog::open(&config::AuditLog::File(file), "N1", "shop") else {
            panic!("it is opened");
        };
        let step = format!("make the directory {}", dir.path().join("none").display());
        for part in [step.as_str(), "set audit_log to another file"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn lines_that_are_lost_with_those_of_the_log_are_counted_there_alone() {
        let outlet = Outlet::open("test", std::io::sink(), Notice::line(lost));
        let on_stderr = Log::new(Form::Text, outlet);
        let in_file = Log { file: Some("host.log".into()), ..on_stderr.clone() };
        for (log, lost) in [(None, Some(0)), (Some(&in_file), Some(0)), (Some(&on_stderr), None)] {
            let opened = AuditLog::open_beside(log, &config::AuditLog::Stderr, "N1", "shop");
            assert_eq!(opened.unwrap().lost(), lost);
        }
    }

    #[test]
    fn lost_lines_are_told_in_the_file() {
        let told: Value = serde_json::from_str(&lost(7)).unwrap();
        assert_eq!(told["lost"], 7);
    }
}

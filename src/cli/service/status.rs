//! The state of the service, read from what the programs of its manager print.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Scope;

/// The properties of a unit that are asked for.
pub const PROPERTIES: [&str; 12] = [
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "FragmentPath",
    "ActiveEnterTimestamp",
    "MainPID",
    "Result",
    "ExecMainStatus",
    "StatusText",
    "NRestarts",
    "InvocationID",
];
/// Lines of the log that are told of a run that failed without an error in its log: a host with
/// wrong settings names each mistake in one.
const LINES_MAX: usize = 3;
/// The priority of an error in the journal; a lower one is worse.
const PRIORITY_ERROR: u8 = 3;
/// The name in the journal of what systemd says itself.
const MANAGER: &str = "systemd";
/// The id of the message in the journal that a unit failed (`SD_MESSAGE_UNIT_FAILURE_RESULT`).
const FAILED_MESSAGE: &str = "d9b373ed55a64feb8242e02dbe79a49c";

/// The line of the log with which a reload begins.
pub const RELOADING: &str = "reading the settings again";
/// The beginning of the line with which one ends well.
pub const RELOADED: &str = "settings reloaded";
/// The beginnings of the lines with which one ends badly; the cause stands above them.
pub const NOT_RELOADED: &str = "nothing was reloaded";
pub const PARTLY_RELOADED: &str = "not all was reloaded";

/// The state of the service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    pub installed: bool,
    /// It starts with the machine, or with the login of its user.
    pub enabled: bool,
    pub running: bool,
    /// In the words of the manager.
    pub state: String,
    pub pid: Option<u32>,
    /// When it began to run, in UTC.
    pub since: Option<String>,
    pub unit_file: Option<String>,
    /// The line that the host tells its manager.
    pub status: Option<String>,
    /// Starts that followed a failure.
    pub restarts: Option<u64>,
    /// How the run before this one ended, where the manager started the host again after it.
    pub previous_end: Option<String>,
    pub last_error: Option<String>,
    /// The last run ended badly.
    #[serde(skip)]
    pub failed: bool,
    /// The last run, of which the manager gives each another name.
    #[serde(skip)]
    pub invocation: Option<String>,
}

impl Status {
    /// Whether a start has come to its end, and this is about it: the run before it was `before`.
    pub fn is_settled(&self, before: Option<&str>) -> bool {
        // Not every manager gives names to runs.
        let is_of_start = self.invocation.is_none() || self.invocation.as_deref() != before;
        is_of_start && (self.running || self.failed)
    }

    /// Whether a run is ending, which takes as long as its drain.
    pub fn is_stopping(&self) -> bool {
        self.state.starts_with("deactivating")
    }

    /// Adds what the log of the last run says of its end.
    pub fn with_log(mut self, told: Option<String>) -> Self {
        self.last_error = match (self.last_error, told) {
            (Some(end), told) => Some(with_log(end, told)),
            (None, told) => told,
        };
        self
    }
}

/// Returns how a run ended, with what its log says of that.
pub fn with_log(end: String, told: Option<String>) -> String {
    match told {
        Some(told) => format!("{end}; its log: {told}"),
        None => end,
    }
}

/// Reads what `systemctl show` prints: a property on each line.
pub fn of_systemd(text: &str) -> Status {
    let properties = properties(text);
    let active = property(&properties, "ActiveState");
    let state = match (active, property(&properties, "SubState")) {
        (Some(active), Some(sub)) => format!("{active} ({sub})"),
        (active, _) => active.unwrap_or("unknown").to_owned(),
    };
    // A reload is part of running.
    let running = matches!(active, Some("active" | "reloading"));
    let since = property(&properties, "ActiveEnterTimestamp").and_then(time);
    let pid = property(&properties, "MainPID").and_then(|pid| pid.parse::<u32>().ok());
    let failure = failure(&properties);
    Status {
        installed: !matches!(property(&properties, "LoadState"), None | Some("not-found")),
        enabled: matches!(property(&properties, "UnitFileState"), Some("enabled")),
        running,
        state,
        pid: pid.filter(|pid| *pid > 0),
        since: since.filter(|_| running),
        unit_file: property(&properties, "FragmentPath").map(str::to_owned),
        status: property(&properties, "StatusText").map(str::to_owned),
        restarts: property(&properties, "NRestarts").and_then(|count| count.parse().ok()),
        previous_end: None,
        // A reload that failed, say, is no end of what runs.
        failed: failure.is_some() && !running,
        last_error: failure,
        invocation: property(&properties, "InvocationID").map(str::to_owned),
    }
}

/// Returns the properties that `systemctl show` prints.
pub(super) fn properties(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once('=')).collect()
}

pub(super) fn property<'a>(properties: &BTreeMap<&str, &'a str>, name: &str) -> Option<&'a str> {
    properties.get(name).copied().filter(|value| !value.is_empty())
}

/// Returns how the last run ended, if not well.
fn failure(properties: &BTreeMap<&str, &str>) -> Option<String> {
    let result = property(properties, "Result").filter(|result| *result != "success")?;
    Some(end(result, property(properties, "ExecMainStatus")))
}

/// Returns in words the result of a run, and its exit code or signal where that is known.
fn end(result: &str, status: Option<&str>) -> String {
    let text = match (result, status) {
        ("exit-code", Some(status)) => {
            return match not_started(status) {
                Some(why) => format!("it was not started (exit code {status}): {why}"),
                None => format!("it ended with exit code {status}"),
            };
        }
        ("signal" | "core-dump", Some(status)) => {
            return format!("it was ended by signal {status}");
        }
        ("exit-code", None) => "it ended with an error",
        ("signal" | "core-dump", None) => "it was ended by a signal",
        ("watchdog", _) => "it did not say that it lives, and was ended",
        ("timeout", _) => "it was not ready, or had not stopped, in time, and was ended",
        ("oom-kill", _) => "the machine had no memory left for it",
        ("start-limit-hit", _) => "it failed too often in a short time",
        (other, _) => return format!("it ended badly ({other})"),
    };
    text.to_owned()
}

/// Returns why systemd could not start the program, in the words of systemd.exec(5) for its exit
/// codes.
fn not_started(status: &str) -> Option<&'static str> {
    Some(match status {
        "200" => "its directory cannot be entered",
        "203" => "its program cannot be run",
        "217" => "there is no such user",
        "226" => "what it may see of the machine could not be set up",
        "238" => "its directory of files could not be made",
        "239" => "its directory of caches could not be made",
        "243" => "a file with a secret could not be read",
        _ => return None,
    })
}

/// Returns the words that let journalctl print the lines of one run: those of the host, and those
/// of systemd about it.
pub fn journal_words(scope: Scope, invocation: &str) -> [String; 3] {
    let of_manager = match scope {
        Scope::System => "INVOCATION_ID",
        Scope::User => "USER_INVOCATION_ID",
    };
    [
        format!("_SYSTEMD_INVOCATION_ID={invocation}"),
        "+".to_owned(),
        format!("{of_manager}={invocation}"),
    ]
}

/// Returns the words that let journalctl print what systemd noted of failures of a unit.
pub fn failure_words(scope: Scope, unit: &str) -> [String; 2] {
    let of_unit = match scope {
        Scope::System => "UNIT",
        Scope::User => "USER_UNIT",
    };
    [format!("MESSAGE_ID={FAILED_MESSAGE}"), format!("{of_unit}={unit}")]
}

/// The message of systemd in the journal about a run that failed.
#[derive(Deserialize)]
struct Failure {
    #[serde(rename = "UNIT_RESULT")]
    result: String,
    #[serde(rename = "INVOCATION_ID", alias = "USER_INVOCATION_ID")]
    invocation: String,
}

/// Returns how the last run that failed ended, and the name of that run.
pub fn last_failure(journal: &str) -> Option<(String, String)> {
    let mut lines = journal.lines().rev();
    let Failure { result, invocation } = lines.find_map(|line| serde_json::from_str(line).ok())?;
    Some((end(&result, None), invocation))
}

/// A line of the journal, as journalctl prints it in JSON.
#[derive(Deserialize)]
struct Line {
    /// A text, if it is one.
    #[serde(rename = "MESSAGE", default)]
    message: serde_json::Value,
    #[serde(rename = "PRIORITY", default)]
    priority: Option<String>,
    #[serde(rename = "SYSLOG_IDENTIFIER", default)]
    identifier: Option<String>,
}

impl Line {
    fn text(&self) -> Option<&str> {
        self.message.as_str().map(str::trim).filter(|text| !text.is_empty())
    }

    fn is_error(&self) -> bool {
        let priority = self.priority.as_deref().and_then(|text| text.parse::<u8>().ok());
        priority.is_some_and(|priority| priority <= PRIORITY_ERROR)
    }

    fn is_of_manager(&self) -> bool {
        self.identifier.as_deref() == Some(MANAGER)
    }
}

/// Returns what a run said of its end: its last error. One that failed without any may have printed
/// why before it had a log, or systemd says it; else its last lines are told.
pub fn last_words(journal: &str, has_failed: bool) -> Option<String> {
    let lines = journal.lines().filter_map(|line| serde_json::from_str(line).ok());
    let lines: Vec<Line> = lines.collect();
    let texts: Vec<&str> = lines.iter().filter_map(Line::text).collect();
    if let Some(error) = last_error(&texts.join("\n")) {
        return Some(error);
    }
    let error_of = |is_of_manager: bool| {
        let of_one = lines.iter().rev().filter(|line| line.is_of_manager() == is_of_manager);
        of_one.filter(|line| line.is_error()).find_map(Line::text).map(str::to_owned)
    };
    let own = lines.iter().filter(|line| !line.is_of_manager()).filter_map(Line::text);
    let own: Vec<&str> = if has_failed { own.collect() } else { Vec::new() };
    let printed: Vec<&str> = own.iter().copied().filter(|line| !is_logged(line)).collect();
    error_of(false)
        .or_else(|| last_of(&printed))
        .or_else(|| error_of(true))
        .or_else(|| last_of(&own))
}

/// Returns the last of these lines, if there are any.
fn last_of(lines: &[&str]) -> Option<String> {
    let last = &lines[lines.len().saturating_sub(LINES_MAX)..];
    (!last.is_empty()).then(|| last.join("; "))
}

/// Whether a line is one of the log and no error. A host prints mistakes in its settings before it
/// has a log.
fn is_logged(line: &str) -> bool {
    let has_level = |level: &str| line.contains(&format!(" [{level}] "));
    let value = serde_json::from_str::<serde_json::Value>(line);
    ["trace", "debug", "info", "warning"].into_iter().any(has_level)
        || value.is_ok_and(|value| value.get("level").is_some())
}

/// Returns a time as systemd prints it in UTC, `Mon 2026-11-30 18:27:11 UTC`, in the usual form.
fn time(text: &str) -> Option<String> {
    let mut words = text.split_whitespace().skip(1);
    let (day, clock) = (words.next()?, words.next()?);
    let is_utc = words.next() == Some("UTC");
    is_utc.then(|| format!("{day}T{clock}Z"))
}

/// Returns the last error in lines of the log, in either form. Those of a reload count until a
/// later one goes well.
fn last_error(log: &str) -> Option<String> {
    let (mut of_reload, mut other, mut is_reading) = (None, None, false);
    for (place, line) in log.lines().enumerate() {
        match error_in(line) {
            None if line.contains(RELOADING) => (of_reload, is_reading) = (None, true),
            None if line.contains(RELOADED) => (of_reload, is_reading) = (None, false),
            None => {}
            Some(error) if ends_reload(&error) => {
                is_reading = false;
                of_reload.get_or_insert((place, error));
            }
            Some(error) if is_reading => of_reload = Some((place, error)),
            Some(error) => other = Some((place, error)),
        }
    }
    of_reload.max(other).map(|(_, error)| error)
}

/// Whether it is the last line of a reload that failed, which does not say why.
fn ends_reload(error: &str) -> bool {
    [NOT_RELOADED, PARTLY_RELOADED].iter().any(|beginning| error.starts_with(beginning))
}

fn error_in(line: &str) -> Option<String> {
    if let Some((_, told)) = line.split_once(" [error] ") {
        return Some(told.to_owned());
    }
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let is_error = value.get("level").and_then(|level| level.as_str()) == Some("ERROR");
    value.get("message")?.as_str().filter(|_| is_error).map(str::to_owned)
}

/// Reads what `launchctl print` prints: among much else, lines of `name = value`.
pub fn of_launchd(text: &str, file: &str) -> Status {
    let state = value_in(text, "state");
    let running = state == Some("running");
    let code = value_in(text, "last exit code");
    let code = code.filter(|code| !matches!(*code, "0" | "(never exited)"));
    Status {
        installed: true,
        enabled: true,
        running,
        state: state.unwrap_or("unknown").to_owned(),
        pid: value_in(text, "pid").and_then(|pid| pid.parse().ok()),
        unit_file: Some(file.to_owned()),
        last_error: code.map(|code| format!("it ended with exit code {code}")),
        ..Status::default()
    }
}

/// Returns the value in the first line of `name = value` with this name.
fn value_in<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines().filter_map(|line| line.trim().split_once(" = "));
    lines.find(|(known, _)| *known == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_runs_is_told_with_its_time_and_its_words() {
        let status = of_systemd(
            "LoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\n\
             FragmentPath=/etc/systemd/system/lattice-host.service\n\
             ActiveEnterTimestamp=Mon 2026-11-30 18:27:11 UTC\nMainPID=42\nResult=success\nExecMainStatus=0\n\
             StatusText=host a in lattice b=c\nNRestarts=1\n",
        );
        let expected = Status {
            installed: true,
            enabled: true,
            running: true,
            state: "active (running)".into(),
            pid: Some(42),
            since: Some("2026-11-30T18:27:11Z".into()),
            unit_file: Some("/etc/systemd/system/lattice-host.service".into()),
            status: Some("host a in lattice b=c".into()),
            restarts: Some(1),
            previous_end: None,
            last_error: None,
            failed: false,
            invocation: None,
        };
        assert_eq!(status, expected);
    }

    #[test]
    fn one_that_failed_or_is_not_there_says_so() {
        let failed = of_systemd(
            "LoadState=loaded\nActiveState=failed\nSubState=failed\nMainPID=0\nResult=exit-code\nExecMainStatus=64\n\
             ActiveEnterTimestamp=\n",
        );
        assert!(failed.installed && !failed.running && failed.pid.is_none());
        assert_eq!(failed.last_error.as_deref(), Some("it ended with exit code 64"));
        let missing = of_systemd("LoadState=not-found\nActiveState=inactive\nSubState=dead\n");
        assert!(!missing.installed && !missing.running);
        assert!(!of_systemd("").installed);
    }

    #[test]
    fn the_last_error_of_the_log_is_found_in_both_forms() {
        for (log, expected) in [
            ("10:00:00.000 [error] first\n10:00:01.000 [error] second a=1\nx", Some("second a=1")),
            (r#"{"level":"ERROR","message":"third"}"#, Some("third")),
            (r#"{"level":"INFO","message":"fine"}"#, None),
            ("10:00:00.000 [info] ready", None),
        ] {
            assert_eq!(last_error(log).as_deref(), expected, "{log}");
        }
    }

    #[test]
    fn errors_of_a_reload_count_until_one_goes_well_and_are_told_with_their_cause() {
        let reading = "1 [info] reading the settings again";
        let wrong = "2 [error] log_level: wrong";
        let ended = "3 [error] nothing was reloaded; correct the settings";
        let partly = "3 [error] not all was reloaded: ctl stays";
        let well = "4 [info] settings reloaded; nothing changed";
        let (older, newer) = ("0 [error] no room", "5 [error] no disk");
        let json = r#"{"level":"INFO","message":"settings reloaded"}"#;
        for (lines, expected) in [
            (&[reading, wrong, ended][..], Some("log_level: wrong")),
            (&[reading, wrong, partly], Some("log_level: wrong")),
            (&[reading, wrong, ended, reading, well], None),
            (&[reading, wrong, ended, json], None),
            (&[older, reading, wrong, ended], Some("log_level: wrong")),
            (&[older, reading, wrong, ended, reading, well], Some("no room")),
            (&[reading, wrong, ended, newer], Some("no disk")),
            (
                &[reading, wrong, ended, reading, newer, ended, reading, well, older],
                Some("no room"),
            ),
            // The cause is no longer among the lines.
            (&[ended], Some("nothing was reloaded; correct the settings")),
        ] {
            assert_eq!(last_error(&lines.join("\n")).as_deref(), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_failure_in_the_journal_is_told_in_words_with_its_run() {
        let of =
            |result: &str, name: &str| format!(r#"{{"UNIT_RESULT":"{result}","{name}":"b2"}}"#);
        for (journal, expected) in [
            (of("watchdog", "INVOCATION_ID"), Some("it did not say that it lives, and was ended")),
            (of("signal", "USER_INVOCATION_ID"), Some("it was ended by a signal")),
            (of("exit-code", "INVOCATION_ID"), Some("it ended with an error")),
            (of("protocol", "INVOCATION_ID"), Some("it ended badly (protocol)")),
            ("-- No entries --".to_owned(), None),
            (String::new(), None),
        ] {
            let expected = expected.map(|end| (end.to_owned(), "b2".to_owned()));
            assert_eq!(last_failure(&journal), expected, "{journal}");
        }
        for (scope, expected) in [
            (Scope::User, "MESSAGE_ID=d9b373ed55a64feb8242e02dbe79a49c USER_UNIT=a.service"),
            (Scope::System, "MESSAGE_ID=d9b373ed55a64feb8242e02dbe79a49c UNIT=a.service"),
        ] {
            assert_eq!(failure_words(scope, "a.service").join(" "), expected);
        }
    }

    #[test]
    fn a_start_is_over_when_this_run_runs_or_has_failed() {
        let of = |lines: &str| of_systemd(&format!("LoadState=loaded\n{lines}"));
        let old = "a1";
        for (lines, is_over) in [
            // The run before, which stopped or failed, says nothing of this one.
            ("ActiveState=active\nSubState=running\nInvocationID=a1", false),
            ("ActiveState=failed\nResult=exit-code\nInvocationID=a1", false),
            ("ActiveState=inactive\nSubState=dead\nResult=success\nInvocationID=", false),
            ("ActiveState=activating\nSubState=start\nResult=success\nInvocationID=b2", false),
            ("ActiveState=active\nSubState=running\nInvocationID=b2", true),
            ("ActiveState=failed\nResult=exit-code\nInvocationID=b2", true),
            (
                "ActiveState=activating\nSubState=auto-restart\nResult=exit-code\nInvocationID=b2",
                true,
            ),
            // An old systemd, which has no names for runs.
            ("ActiveState=active\nSubState=running", true),
        ] {
            assert_eq!(of(lines).is_settled(Some(old)), is_over, "{lines}");
        }
        let first = of("ActiveState=failed\nResult=exit-code\nInvocationID=b2");
        assert!(first.is_settled(None) && first.failed);
    }

    #[test]
    fn what_systemd_could_not_start_is_told_in_words() {
        for (status, expected) in [
            ("217", "it was not started (exit code 217): there is no such user"),
            ("203", "it was not started (exit code 203): its program cannot be run"),
            ("1", "it ended with exit code 1"),
        ] {
            let text = format!("ActiveState=failed\nResult=exit-code\nExecMainStatus={status}\n");
            assert_eq!(of_systemd(&text).last_error.as_deref(), Some(expected));
        }
    }

    /// Returns a line of the journal.
    fn line(identifier: &str, priority: &str, message: &str) -> String {
        serde_json::json!({
            "MESSAGE": message, "PRIORITY": priority, "SYSLOG_IDENTIFIER": identifier,
        })
        .to_string()
    }

    #[test]
    fn a_run_is_told_by_its_own_lines() {
        let host = |message: &str| line("host", "6", message);
        let starting = line(MANAGER, "6", "Starting lattice-host.service");
        let no_user = line(MANAGER, "3", "Failed to find the user");
        let ended = line(MANAGER, "4", "Main process exited");
        let json = host(r#"{"level":"ERROR","message":"third"}"#);
        let (error, info) = (host("10:00:00.000 [error] no room"), host("10:00:01.000 [info] x"));
        let not_started = line(MANAGER, "3", "Failed to start lattice-host.service");
        let silent = line(MANAGER, "3", "Watchdog timeout (limit 30s)!");
        let not_run = line("(host)", "3", "Failed to execute");
        // Mistakes in settings come before there is a log.
        let mistakes = [host("a: wrong"), host("b: wrong"), host("")];
        let odd = [r#"{"MESSAGE":[1,2]}"#, "{}", "-- no entries --"].map(str::to_owned);
        for (lines, has_failed, expected) in [
            (vec![error, info.clone()], true, Some("no room")),
            (vec![json], false, Some("third")),
            (vec![starting.clone(), no_user, ended], true, Some("Failed to find the user")),
            (
                [vec![starting.clone()], mistakes.to_vec()].concat(),
                true,
                Some("a: wrong; b: wrong"),
            ),
            // systemd says that it failed, and the host why.
            ([mistakes[..1].to_vec(), vec![not_started.clone()]].concat(), true, Some("a: wrong")),
            (vec![not_run, not_started], true, Some("Failed to execute")),
            // Lines that it logged meanwhile are no cause.
            (vec![info.clone(), silent], true, Some("Watchdog timeout (limit 30s)!")),
            (vec![info.clone()], true, Some("10:00:01.000 [info] x")),
            (vec![info], false, None),
            (vec![starting], true, None),
            (odd.to_vec(), true, None),
            (Vec::new(), true, None),
        ] {
            assert_eq!(last_words(&lines.join("\n"), has_failed).as_deref(), expected, "{lines:?}");
        }
    }

    #[test]
    fn the_lines_of_one_run_are_asked_for() {
        for (scope, expected) in [
            (Scope::User, "_SYSTEMD_INVOCATION_ID=b2 + USER_INVOCATION_ID=b2"),
            (Scope::System, "_SYSTEMD_INVOCATION_ID=b2 + INVOCATION_ID=b2"),
        ] {
            assert_eq!(journal_words(scope, "b2").join(" "), expected);
        }
    }

    #[test]
    fn the_log_is_told_with_how_the_run_ended() {
        let of = |end: Option<&str>, told: Option<&str>| {
            let status = Status { last_error: end.map(str::to_owned), ..Status::default() };
            status.with_log(told.map(str::to_owned)).last_error
        };
        for (end, told, expected) in [
            (Some("it ended"), Some("no room"), Some("it ended; its log: no room")),
            (Some("it ended"), None, Some("it ended")),
            (None, Some("no room"), Some("no room")),
            (None, None, None),
        ] {
            assert_eq!(of(end, told).as_deref(), expected);
        }
    }

    #[test]
    fn a_service_of_launchd_is_read() {
        let text =
            "gui/501/host.lattice = {\n\tstate = running\n\tpid = 7\n\tlast exit code = 1\n}";
        let status = of_launchd(text, "/f.plist");
        assert!(status.running && status.pid == Some(7));
        assert_eq!(status.last_error.as_deref(), Some("it ended with exit code 1"));
    }
}

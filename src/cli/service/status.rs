//! The state of the service, read from what the programs of its manager print.

use std::collections::BTreeMap;

use serde::Serialize;

/// The properties of a unit that are asked for.
pub const PROPERTIES: [&str; 11] = [
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
];

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
    pub last_error: Option<String>,
}

/// Reads what `systemctl show` prints: a property on each line.
pub fn of_systemd(text: &str) -> Status {
    let properties: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.split_once('=')).collect();
    let active = property(&properties, "ActiveState");
    let state = match (active, property(&properties, "SubState")) {
        (Some(active), Some(sub)) => format!("{active} ({sub})"),
        (active, _) => active.unwrap_or("unknown").to_owned(),
    };
    // A reload is part of running.
    let running = matches!(active, Some("active" | "reloading"));
    let since = property(&properties, "ActiveEnterTimestamp").and_then(time);
    let pid = property(&properties, "MainPID").and_then(|pid| pid.parse::<u32>().ok());
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
        last_error: failure(&properties),
    }
}

fn property<'a>(properties: &BTreeMap<&str, &'a str>, name: &str) -> Option<&'a str> {
    properties.get(name).copied().filter(|value| !value.is_empty())
}

/// Returns how the last run ended, if not well.
fn failure(properties: &BTreeMap<&str, &str>) -> Option<String> {
    let result = property(properties, "Result").filter(|result| *result != "success")?;
    let status = property(properties, "ExecMainStatus").unwrap_or("?");
    Some(match result {
        "exit-code" => format!("it ended with exit code {status}"),
        "signal" | "core-dump" => format!("it was ended by signal {status}"),
        "watchdog" => "it did not say that it lives, and was ended".to_owned(),
        "timeout" => "it was not ready, or had not stopped, in time, and was ended".to_owned(),
        "oom-kill" => "the machine had no memory left for it".to_owned(),
        other => format!("it ended badly ({other})"),
    })
}

/// Returns a time as systemd prints it in UTC, `Mon 2026-11-30 18:27:11 UTC`, in the usual form.
fn time(text: &str) -> Option<String> {
    let mut words = text.split_whitespace().skip(1);
    let (day, clock) = (words.next()?, words.next()?);
    let is_utc = words.next() == Some("UTC");
    is_utc.then(|| format!("{day}T{clock}Z"))
}

/// Returns the last error in lines of the log, in either form.
pub fn last_error(log: &str) -> Option<String> {
    log.lines().rev().find_map(error_in)
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
    let value = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.trim().split_once(" = "));
        lines.find(|(known, _)| *known == name).map(|(_, value)| value)
    };
    let running = value("state") == Some("running");
    let code = value("last exit code").filter(|code| !matches!(*code, "0" | "(never exited)"));
    Status {
        installed: true,
        enabled: true,
        running,
        state: value("state").unwrap_or("unknown").to_owned(),
        pid: value("pid").and_then(|pid| pid.parse().ok()),
        unit_file: Some(file.to_owned()),
        last_error: code.map(|code| format!("it ended with exit code {code}")),
        ..Status::default()
    }
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
            last_error: None,
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
    fn a_service_of_launchd_is_read() {
        let text =
            "gui/501/host.lattice = {\n\tstate = running\n\tpid = 7\n\tlast exit code = 1\n}";
        let status = of_launchd(text, "/f.plist");
        assert!(status.running && status.pid == Some(7));
        assert_eq!(status.last_error.as_deref(), Some("it ended with exit code 1"));
    }
}

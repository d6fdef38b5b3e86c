//! `host service`: a host as a service of this machine.

mod install;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::{
    args::{
        flags::SettingArgs,
        service::{Service, Which},
    },
    service::{
        Kind, NAME, Scope,
        manager::{LOOK, Place, is_root},
        status::Status,
    },
    terminal::{Message, Page, Terminal, View},
};
use lattice_base::dirs::Dirs;

pub async fn run(terminal: &Terminal, before: SettingArgs, command: Service) -> Result<()> {
    match command {
        Service::Install(args) => install::run(terminal, before, *args).await,
        Service::Uninstall(which) => uninstall(terminal, &which),
        Service::Status(which) => status(terminal, &which),
    }
}

/// Returns the service that is meant: root has none of its own.
fn place_of(which: &Which) -> Result<Place> {
    let scope = if which.system || is_root() { Scope::System } else { Scope::User };
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    Place::find(Kind::here(), scope, &Dirs::of_process(), home.as_deref())
}

fn log_of(place: &Place, file: &str) -> String {
    match (place.kind, place.scope) {
        (Kind::Systemd, Scope::User) => format!("`journalctl --user -u {NAME}`"),
        (Kind::Systemd, Scope::System) => format!("`journalctl -u {NAME}`"),
        _ => file.to_owned(),
    }
}

fn uninstall(terminal: &Terminal, which: &Which) -> Result<()> {
    let place = place_of(which)?;
    place.check("remove")?;
    let (name, scope) = (place.name(), place.scope.word());
    if !place.is_written()? {
        let text = format!("No service of this {scope} is installed; there is nothing to remove");
        let members = json!({ "unit": name, "scope": scope, "removed": false });
        return terminal.show(&Message::new(text, name, members));
    }
    place.remove()?;
    let advice = match place.kind {
        Kind::Task => format!("; `schtasks /Delete /TN {NAME}` removes the task"),
        Kind::Systemd | Kind::Launchd => String::new(),
    };
    let text =
        format!("Service {name} ({scope}) was removed; what its host has stored stays{advice}");
    let members = json!({ "unit": name, "scope": scope, "removed": true, "unit_file": place.file });
    terminal.show(&Message::new(text, name, members))
}

fn status(terminal: &Terminal, which: &Which) -> Result<()> {
    let place = place_of(which)?;
    place.check(LOOK)?;
    let status = place.status()?;
    let is_good = status.running;
    let told = Told { place, status, is_good };
    terminal.show(&told)?;
    match hint(&told.place, &told.status) {
        None => Ok(()),
        Some(hint) => bail!(hint),
    }
}

/// Says what to do about a service that does not run.
fn hint(place: &Place, status: &Status) -> Option<String> {
    let (name, scope) = (place.name(), place.scope.word());
    let systemctl = match place.scope {
        Scope::User => "systemctl --user",
        Scope::System => "systemctl",
    };
    Some(match (status.installed, place.kind) {
        _ if status.running => return None,
        (false, _) => format!(
            "no service of this {scope} is installed; `host service install` does that, with the flags of `host foreground`"
        ),
        (true, Kind::Systemd) if status.failed => format!(
            "service {name} does not run; mend its last error, then `{systemctl} restart {name}`"
        ),
        (true, Kind::Systemd) if status.is_stopping() => format!(
            "service {name} is stopping; a host that drains takes up to a minute for that. `{systemctl} start {name}` starts it \
             when it has ended"
        ),
        (true, Kind::Systemd) if status.state.starts_with("activating") => format!(
            "service {name} is not ready yet; a host waits for its NATS server, and tells for which in its log, {}",
            log_of(place, "")
        ),
        (true, Kind::Systemd) => {
            format!("service {name} does not run; `{systemctl} start {name}` starts it")
        }
        (true, Kind::Launchd) => {
            format!("service {name} does not run; `host service install` starts it again")
        }
        (true, Kind::Task) => {
            format!("only its file is known here; `schtasks /Query /TN {NAME} /V` tells how it is")
        }
    })
}

/// A service, as it is shown.
struct Told {
    place: Place,
    status: Status,
    /// It is as it was asked to be.
    is_good: bool,
}

impl View for Told {
    fn json(&self) -> Value {
        let mut told = json!(self.status);
        told["unit"] = self.place.name().into();
        told["scope"] = self.place.scope.word().into();
        told["success"] = self.is_good.into();
        told
    }

    fn text(&self, page: &mut Page) {
        let Status { enabled, state, pid, since, unit_file, status, last_error, .. } = &self.status;
        let restarts = restarts_of(&self.status);
        let starts = if *enabled { "starts by itself" } else { "does not start by itself" };
        let (name, scope) = (self.place.name(), self.place.scope.word());
        page.line(format!("service     {name} ({scope}), {starts}"));
        let mut line = format!("state       {state}");
        if let Some(pid) = pid {
            line.push_str(&format!(", pid {pid}"));
        }
        if let Some(since) = since {
            line.push_str(&format!(", since {since}"));
        }
        page.line(line);
        let others = [
            ("tells", status),
            ("unit file", unit_file),
            ("restarts", &restarts),
            ("last error", last_error),
        ];
        for (word, value) in others {
            if let Some(value) = value {
                page.line(format!("{word:<11} {value}"));
            }
        }
    }

    fn names(&self) -> Vec<String> {
        vec![self.place.name()]
    }
}

/// Returns how often the manager started the host again, and why it did so last.
fn restarts_of(status: &Status) -> Option<String> {
    let count = status.restarts.filter(|count| *count > 0)?;
    Some(match &status.previous_end {
        Some(end) => format!("{count}; before the last one: {end}"),
        None => count.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    pub(super) fn place(kind: Kind) -> Place {
        let file = PathBuf::from("/etc/systemd/system/lattice-host.service");
        Place { kind, scope: Scope::System, file, variables: None }
    }

    pub(super) fn status(state: &str, failed: bool, last_error: Option<&str>) -> Status {
        Status {
            installed: state != "inactive (none)",
            running: state.starts_with("active"),
            state: state.to_owned(),
            failed,
            last_error: last_error.map(str::to_owned),
            ..Status::default()
        }
    }

    #[test]
    fn restarts_are_told_with_the_end_of_the_run_before() {
        for (restarts, end, expected) in [
            (None, None, None),
            (Some(0), None, None),
            (Some(2), None, Some("2")),
            (Some(1), Some("no room"), Some("1; before the last one: no room")),
        ] {
            let previous_end = end.map(str::to_owned);
            let status = Status { restarts, previous_end, ..Status::default() };
            assert_eq!(restarts_of(&status).as_deref(), expected);
        }
    }

    #[test]
    fn a_hint_names_an_error_only_where_there_is_one() {
        for (kind, status, words) in [
            (Kind::Systemd, status("active (running)", false, None), None),
            (Kind::Systemd, status("inactive (none)", false, None), Some("host service install")),
            (
                Kind::Systemd,
                status("failed (failed)", true, Some("x")),
                Some("mend its last error"),
            ),
            (Kind::Systemd, status("inactive (dead)", false, None), Some("systemctl start")),
            // An error of a run that was stopped in order.
            (Kind::Systemd, status("inactive (dead)", false, Some("x")), Some("systemctl start")),
            (Kind::Systemd, status("activating (start)", false, None), Some("journalctl -u")),
            (
                Kind::Systemd,
                status("deactivating (stop-sigterm)", false, None),
                Some("is stopping"),
            ),
            (Kind::Launchd, status("waiting", false, None), Some("starts it again")),
            (Kind::Task, status("unknown", false, None), Some("schtasks")),
        ] {
            let told = hint(&place(kind), &status);
            assert_eq!(told.is_some(), words.is_some(), "{told:?}");
            assert!(words.is_none_or(|words| told.unwrap().contains(words)), "{status:?}");
        }
    }
}

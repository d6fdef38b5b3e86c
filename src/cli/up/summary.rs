//! The summary that `host up` prints when everything runs: where things are, and what to do next.
//!
//! It is kept in the record, so that every `up` of the directory can say it again, with what has
//! changed corrected. Rows appear in the order in which they were added; a part that has something
//! to show adds a row.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Session, hub::Link, nats_server};
use lattice_base::config::Config;
use lattice_engine::host::Host;

/// The row of the summary about the hub.
pub(super) const HUB: &str = "hub";
/// The row of the summary about the NATS server.
pub(super) const NATS: &str = "NATS";

/// Rows of label and text, then commands with what they do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    rows: Vec<(String, String)>,
    next: Vec<(String, String)>,
}

impl Summary {
    pub fn row(&mut self, label: &str, text: impl Into<String>) {
        self.rows.push((label.to_owned(), text.into()));
    }

    /// Replaces the text of the row with this label.
    pub fn correct(&mut self, label: &str, text: impl Into<String>) {
        if let Some((_, old)) = self.rows.iter_mut().find(|(name, _)| name == label) {
            *old = text.into();
        }
    }

    pub fn next(&mut self, command: impl Into<String>, does: &str) {
        self.next.push((command.into(), does.to_owned()));
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        write_columns(f, &self.rows)?;
        writeln!(f, "\nNext:")?;
        write_columns(f, &self.next)
    }
}

fn write_columns(f: &mut fmt::Formatter<'_>, rows: &[(String, String)]) -> fmt::Result {
    let width = rows.iter().map(|(left, _)| left.chars().count()).max().unwrap_or(0);
    rows.iter().try_for_each(|(left, right)| writeln!(f, "  {left:width$}  {right}"))
}

impl Session {
    /// Makes the summary of this session and its host.
    pub(super) fn summarize(&self, host: &Host, config: &Config) -> Summary {
        let facts = host.state().facts();
        let mut summary = Summary::default();
        summary.row(
            "host",
            format!("{} ({}), pid {}", facts.id, facts.friendly_name, self.record.up.pid),
        );
        summary.row("lattice", &facts.lattice);
        summary.row("cluster", &facts.issuer);
        summary.row("JetStream", self.jetstream(config));
        self.add_server(&mut summary);
        summary.row("settings", self.settings_file());
        if let Some(dashboard) = host.dashboard() {
            summary.row("dashboard", dashboard.url());
        }
        if let Some(of_terminal) = &self.record.background_log {
            let file = config.log.file.as_ref().map(|file| file.path.as_path());
            let log = log_of(of_terminal, file, &self.record.directory);
            summary.row("log", log.display().to_string());
        }
        if let Some(page) = &self.record.page {
            summary.row("page", page);
        }
        self.add_next(&mut summary, host);
        summary
    }

    fn jetstream(&self, config: &Config) -> String {
        match (config.js_domain.as_deref(), &self.server) {
            (Some(domain), Some(_)) if domain != self.domains.server => {
                format!(
                    "domain {domain}; the server of this machine is domain {}",
                    self.domains.server
                )
            }
            (Some(domain), _) => format!("domain {domain}"),
            (None, Some(_)) => format!("domain {}, the server's own", self.domains.server),
            (None, None) => "as the server has it: no domain is set".to_owned(),
        }
    }

    /// The rows about the NATS server, its hub and the contexts that lead to it.
    fn add_server(&self, summary: &mut Summary) {
        let place = self.record.address.as_deref().unwrap_or_default();
        match self.record.server.as_ref().and_then(|server| server.process.as_ref()) {
            Some(process) => {
                summary.row(NATS, self.server_row(process.pid));
                let log = nats_server::log_in(self.claim.instance().folder());
                summary.row("NATS log", log.display().to_string());
            }
            None => summary.row(NATS, format!("{place}, which ran before and stays")),
        }
        if let Some((watch, link)) = &self.link {
            summary.row(HUB, hub_row(*link == Link::Connected, &watch.hub.to_string()));
        }
        match &self.contexts {
            Some(Ok(name)) => {
                summary.row(
                    "clients",
                    format!("nats --context {name}, wash get hosts --context {name}; here `host` needs no flag"),
                );
            }
            Some(Err(cause)) => summary.row("clients", format!("have no contexts: {cause:#}")),
            None => {}
        }
    }

    /// The address of the server that was started, and its process.
    pub(super) fn server_row(&self, pid: u32) -> String {
        let place = self.record.address.as_deref().unwrap_or_default();
        let open = match &self.login {
            Some(_) => "",
            None => {
                "; without a login (--open): who reaches it may operate this lattice and its hosts"
            }
        };
        format!("{place}, pid {pid}{open}")
    }

    fn settings_file(&self) -> String {
        let file = self.record.directory.join(lattice_base::config::FILE_NAME);
        match &self.not_written {
            None => format!("{} (secret; for every machine of this lattice)", file.display()),
            Some(cause) => format!(
                "NOT written: {cause}. They, and the cluster seed, end with this run; let this user write there, then \
                 `host down` and start again"
            ),
        }
    }

    /// The commands to go on with. In this directory, where the settings are, they need no flag.
    fn add_next(&self, summary: &mut Summary, host: &Host) {
        if let Some(page) = &self.record.page {
            summary.next(format!("curl {page}"), "the page of the demonstration");
        }
        summary.next("host get inventory", "what runs on which host");
        summary
            .next("host inspect builtin://httpserver", "a built-in provider and its link values");
        if host.dashboard().is_some() {
            summary.next("host dashboard", "logs in to the dashboard, to change things there");
        }
        summary.next("host doctor", "what is wrong, if something is");
        let stop =
            if self.options.in_background { "stops it" } else { "stops it, like Ctrl-C here" };
        summary.next("host down", stop);
    }
}

/// Returns where the log of a host in the background is: the file of the settings, or what would be
/// its terminal, which has the log where that file cannot be used, and says why.
pub fn log_of(of_terminal: &Path, file: Option<&Path>, directory: &Path) -> PathBuf {
    // Without the dots of a path that begins in this directory.
    let file = file.map(|file| directory.join(file).components().collect::<PathBuf>());
    file.filter(|file| file.is_file()).unwrap_or_else(|| of_terminal.to_owned())
}

/// How the hub is, in words.
pub(super) fn hub_row(is_connected: bool, hub: &str) -> String {
    let state = if is_connected {
        "connected to"
    } else {
        "NOT connected (the log tells why), trying again:"
    };
    format!("{state} {hub}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_where_the_settings_say_if_it_can_be_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x.log"), "").unwrap();
        let (there, terminal) = (dir.path().join("x.log"), Path::new("/state/host.log"));
        for (file, expected) in [
            (None, terminal),
            (Some(Path::new("x.log")), there.as_path()),
            (Some(Path::new("./x.log")), there.as_path()),
            (Some(there.as_path()), there.as_path()),
            (Some(Path::new("none/x.log")), terminal),
        ] {
            assert_eq!(log_of(terminal, file, dir.path()), expected, "{file:?}");
        }
    }

    #[test]
    fn the_columns_stand_below_each_other() {
        let mut summary = Summary::default();
        summary.row("host", "NABC");
        summary.row("NATS log", "/a");
        summary.correct("NATS log", "/a/b");
        summary.next("host down", "stops it");
        assert_eq!(
            summary.to_string(),
            "\n  host      NABC\n  NATS log  /a/b\n\nNext:\n  host down  stops it\n"
        );
    }
}

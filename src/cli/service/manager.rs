//! The service at its manager: installed, removed and looked at with the programs that the manager
//! has for that.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::time::{Instant, sleep};

use super::{
    Kind, LABEL, MARK, NAME, Scope,
    status::{self, PROPERTIES, Status},
};
use lattice_base::dirs::Dirs;

/// The directory that systemd makes when it is the one that runs this machine (sd_booted(3)).
const SYSTEMD_RUNS: &str = "/run/systemd/system";
/// Where systemd notes users whose services run while they are not logged in.
const LINGER: &str = "/var/lib/systemd/linger";
/// How long a start is looked at.
const START_LOOK: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(250);
/// Lines of the log that the last error is looked for in.
const LOG_LINES: &str = "400";

/// The service of this user or of the system.
#[derive(Clone, Debug)]
pub struct Place {
    pub kind: Kind,
    pub scope: Scope,
    /// Where its file is, or would be.
    pub file: PathBuf,
}

impl Place {
    /// Returns where the file of a service is on this system.
    pub fn find(kind: Kind, scope: Scope, dirs: &Dirs, home: Option<&Path>) -> Result<Self> {
        let unit = format!("{NAME}.service");
        let list = format!("{LABEL}.plist");
        let no_home = || anyhow!("this user has no home directory to keep a service in; set HOME");
        let file = match (kind, scope) {
            (Kind::Systemd, Scope::System) => Path::new("/etc/systemd/system").join(unit),
            (Kind::Systemd, Scope::User) => {
                let config = dirs.config.as_deref().and_then(Path::parent);
                config.ok_or_else(no_home)?.join("systemd/user").join(unit)
            }
            (Kind::Launchd, Scope::System) => Path::new("/Library/LaunchDaemons").join(list),
            (Kind::Launchd, Scope::User) => {
                home.ok_or_else(no_home)?.join("Library/LaunchAgents").join(list)
            }
            (Kind::Task, _) => dirs.data.join(format!("{NAME}.xml")),
        };
        Ok(Self { kind, scope, file })
    }

    /// Returns the name that the manager knows the service by.
    pub fn name(&self) -> String {
        match self.kind {
            Kind::Systemd => format!("{NAME}.service"),
            Kind::Launchd => LABEL.to_owned(),
            Kind::Task => NAME.to_owned(),
        }
    }

    /// Checks whether the manager is there and this user may change the service.
    pub fn check(&self, does: &str) -> Result<()> {
        if self.kind == Kind::Systemd && !Path::new(SYSTEMD_RUNS).is_dir() {
            bail!(
                "systemd does not run this machine (there is no {SYSTEMD_RUNS}), so there is no service to {does}; let what \
                 starts programs here run `host foreground`, and see with `host service install --print` how it is started, \
                 watched and stopped"
            );
        }
        if self.kind != Kind::Task && self.scope == Scope::System && does != LOOK && !is_root() {
            bail!("a service of the system is for root to {does}; give the command with sudo");
        }
        Ok(())
    }

    /// Returns whether the file is there. One that somebody else wrote is an error.
    pub fn is_written(&self) -> Result<bool> {
        let text = match fs::read(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => {
                return Err(error).with_context(|| format!("read {}", self.file.display()));
            }
        };
        if !String::from_utf8_lossy(&text).contains(MARK) {
            bail!(
                "{} was not written by `host service install`, and stays as it is; move it away first",
                self.file.display()
            );
        }
        Ok(true)
    }

    /// Writes the file, as a whole or not at all; everybody may read it.
    pub fn write(&self, text: &str) -> Result<()> {
        let path = self.file.display();
        let dir = self.file.parent().with_context(|| format!("find the directory of {path}"))?;
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let written = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(dir)?;
            file.write_all(text.as_bytes())?;
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt as _;
                file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
            }
            file.as_file().sync_all()?;
            file.persist(&self.file).map(drop).map_err(|error| error.error)
        };
        written().with_context(|| format!("write {path}"))
    }

    /// Lets the manager read the file, and start the service from now on; `starts` at once, or
    /// again if it runs.
    pub fn enable(&self, starts: bool) -> Result<()> {
        match self.kind {
            Kind::Systemd => {
                self.systemctl(&["daemon-reload"])?;
                self.systemctl(&["enable", &self.name()])?;
                if starts {
                    // It may wait for its NATS server for long.
                    self.systemctl(&["restart", "--no-block", &self.name()])?;
                }
            }
            Kind::Launchd => {
                // An error means that it is not there yet.
                let _ = run("launchctl", &["bootout", &self.target()]);
                run("launchctl", &["enable", &self.target()])?;
                if starts {
                    let file = self.file.display().to_string();
                    run("launchctl", &["bootstrap", &self.domain(), &file])?;
                }
            }
            Kind::Task => {}
        }
        Ok(())
    }

    /// Stops the service, and lets the manager forget it. Waits until it has stopped.
    pub fn remove(&self) -> Result<()> {
        match self.kind {
            Kind::Systemd => _ = self.systemctl(&["disable", "--now", &self.name()])?,
            // An error means that it does not run.
            Kind::Launchd => _ = run("launchctl", &["bootout", &self.target()]),
            Kind::Task => {}
        }
        fs::remove_file(&self.file).with_context(|| format!("remove {}", self.file.display()))?;
        if self.kind == Kind::Systemd {
            self.systemctl(&["daemon-reload"])?;
            // An error means that it had not failed.
            let _ = self.systemctl(&["reset-failed", &self.name()]);
        }
        Ok(())
    }

    /// Asks the manager how the service is.
    pub fn status(&self) -> Result<Status> {
        match self.kind {
            Kind::Systemd => {
                let properties = format!("--property={}", PROPERTIES.join(","));
                let shown = self.systemctl(&["show", &properties, &self.name()])?;
                let mut status = status::of_systemd(&shown);
                let logged = self.logged_error().filter(|_| status.installed);
                status.last_error = match (status.last_error, logged) {
                    (Some(end), Some(logged)) => Some(format!("{end}; its log: {logged}")),
                    (end, logged) => end.or(logged),
                };
                Ok(status)
            }
            Kind::Launchd => {
                let file = self.file.display().to_string();
                match run("launchctl", &["print", &self.target()]) {
                    Ok(text) => Ok(status::of_launchd(&text, &file)),
                    Err(_) => Ok(self.not_running()),
                }
            }
            Kind::Task => Ok(self.not_running()),
        }
    }

    /// Looks at a service that was started until it runs or has failed, for a while.
    pub async fn settled(&self) -> Result<Status> {
        let until = Instant::now() + START_LOOK;
        loop {
            let status = self.status()?;
            if status.running || status.state.starts_with("failed") || Instant::now() >= until {
                return Ok(status);
            }
            sleep(POLL).await;
        }
    }

    /// Says what is worth to know of a service of this user: it may end with the login.
    pub fn linger_note(&self, user: &str) -> Option<String> {
        let is_of_user = self.kind == Kind::Systemd && self.scope == Scope::User;
        let ends_with_login =
            is_of_user && !user.is_empty() && !Path::new(LINGER).join(user).exists();
        ends_with_login.then(|| {
            format!(
                "the service runs while {user} is logged in; `loginctl enable-linger {user}` lets it run from boot on"
            )
        })
    }

    fn not_running(&self) -> Status {
        let installed = self.file.exists();
        Status {
            installed,
            state: "unknown".to_owned(),
            unit_file: installed.then(|| self.file.display().to_string()),
            ..Status::default()
        }
    }

    fn systemctl(&self, words: &[&str]) -> Result<String> {
        match self.scope {
            Scope::User => run("systemctl", &[&["--user"][..], words].concat()),
            Scope::System => run("systemctl", words),
        }
    }

    /// Returns the last error in the log of the service; none if this user may not read it.
    fn logged_error(&self) -> Option<String> {
        let of_unit = match self.scope {
            Scope::User => format!("--user-unit={}", self.name()),
            Scope::System => format!("--unit={}", self.name()),
        };
        let words = [&*of_unit, "--lines", LOG_LINES, "--output=cat", "--no-pager", "--quiet"];
        status::last_error(&run("journalctl", &words).ok()?)
    }

    /// Returns the domain of launchd that the service is in.
    fn domain(&self) -> String {
        match self.scope {
            Scope::System => "system".to_owned(),
            Scope::User => format!("gui/{}", user_id()),
        }
    }

    fn target(&self) -> String {
        format!("{}/{LABEL}", self.domain())
    }
}

/// The work that needs no rights.
pub const LOOK: &str = "look at";

/// Whether this user may do everything.
#[cfg(unix)]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Nobody is root here.
#[cfg(not(unix))]
pub fn is_root() -> bool {
    false
}

#[cfg(unix)]
fn user_id() -> u32 {
    rustix::process::getuid().as_raw()
}

#[cfg(not(unix))]
fn user_id() -> u32 {
    0
}

/// Runs a program of the manager to its end; returns what it prints.
fn run(program: &str, words: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    // Times and errors in words that are the same everywhere.
    command.args(words).env("LC_ALL", "C").env("TZ", "UTC").stdin(Stdio::null());
    let line = format!("{program} {}", words.join(" "));
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("`{line}` cannot run: there is no {program} on this machine; install it")
        }
        Err(error) => return Err(error).with_context(|| format!("run `{line}`")),
    };
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("`{line}` failed ({}): {told}{}", output.status, advice(&told));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns what to do about an error of a manager.
fn advice(told: &str) -> &'static str {
    if told.contains("connect to bus") {
        ". The service manager of this user does not run here: log in as this user itself rather than with su or sudo, or let \
         root give `loginctl enable-linger USER` first"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(dir: &Path) -> Place {
        let file = dir.join("systemd/user/lattice-host.service");
        Place { kind: Kind::Systemd, scope: Scope::User, file }
    }

    #[test]
    fn a_service_file_is_written_whole_and_one_of_somebody_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        assert!(!place.is_written().unwrap());
        place.write(&format!("# {MARK}\n")).unwrap();
        assert!(place.is_written().unwrap());
        fs::write(&place.file, "[Unit]\n").unwrap();
        let error = place.is_written().unwrap_err().to_string();
        assert!(error.contains("move it away"), "{error}");
    }

    #[test]
    fn an_error_of_the_bus_is_told_with_what_to_do() {
        assert!(advice("Failed to connect to bus: No medium found").contains("enable-linger"));
        assert_eq!(advice("Unit not found."), "");
    }
}

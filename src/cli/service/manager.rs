//! The service at its manager: installed, removed and looked at with the programs that the manager
//! has for that.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::time::{Instant, sleep};

use super::{
    Kind, LABEL, NAME, Scope,
    definition::state_directory,
    disk::{check_folder, keep, own, remove},
    program::{output, run},
    status::{self, PROPERTIES, Status},
};
use crate::command::files;
use lattice_base::{
    config::{Environment as _, ProcessEnvironment},
    dirs::Dirs,
};

/// The directory that systemd makes when it is the one that runs this machine (sd_booted(3)).
const SYSTEMD_RUNS: &str = "/run/systemd/system";
/// Where systemd notes users whose services run while they are not logged in.
const LINGER: &str = "/var/lib/systemd/linger";
/// Where the manager of each user has its sockets.
const RUNTIME: &str = "/run/user";
/// Where packages put their units; those of [`Place::find`] stand before them.
const OF_PACKAGES: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];
/// Where variables of a service of the system are that others must not read.
const VARIABLES: &str = "/etc/lattice-host";
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
    /// Where its variables are that others must not read; none if the manager reads no such file.
    pub variables: Option<PathBuf>,
}

/// The contents of the files of a service.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Files {
    pub service: Option<Vec<u8>>,
    pub variables: Option<Vec<u8>>,
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
        let variables = match (kind, scope) {
            (Kind::Systemd, Scope::System) => Some(PathBuf::from(VARIABLES)),
            (Kind::Systemd, Scope::User) => dirs.config.clone(),
            (Kind::Launchd | Kind::Task, _) => None,
        };
        let variables = variables.map(|dir| dir.join("service.env"));
        Ok(Self { kind, scope, file, variables })
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
        self.reach()
    }

    /// Checks whether the manager of this user runs here.
    fn reach(&self) -> Result<()> {
        if self.kind != Kind::Systemd || self.scope != Scope::User {
            return Ok(());
        }
        let asked = output("systemctl", &["--user", "show", "--property=Version"])?;
        if asked.status.success() {
            return Ok(());
        }
        let id = user_id();
        let user = ProcessEnvironment.var("USER").unwrap_or_else(|| id.to_string());
        let given = ProcessEnvironment.var("XDG_RUNTIME_DIR");
        let own = Path::new(RUNTIME).join(id.to_string());
        let runs = own.join("systemd").is_dir();
        let told = String::from_utf8_lossy(&asked.stderr);
        bail!(unreached(&user, &own, given.as_deref(), runs, told.trim()))
    }

    /// Returns whether the file is there. One that somebody else wrote is an error.
    pub fn is_written(&self) -> Result<bool> {
        Ok(self.found()?.service.is_some())
    }

    /// Returns the files that are there. One that somebody else wrote is an error.
    fn found(&self) -> Result<Files> {
        let variables = self.variables.as_deref().map(own).transpose()?.flatten();
        Ok(Files { service: own(&self.file)?, variables })
    }

    /// Writes the files, and lets the manager start the service from now on. If that fails, the
    /// files are again as they were.
    pub fn install(&self, files: &Files, starts: bool) -> Result<()> {
        self.check_folders(files)?;
        let before = self.found()?;
        let was_loaded = self.is_loaded();
        let Err(error) = self.put(files).and_then(|()| self.enable(starts)) else { return Ok(()) };
        let end = match self.put_back(&before, was_loaded) {
            Ok(()) if before.service.is_none() => "nothing is installed".to_owned(),
            Ok(()) => format!("{} is as it was before", self.file.display()),
            Err(left) => format!("nor could that be undone: {left:#}"),
        };
        bail!("{error:#}; {end}")
    }

    /// Checks whether these files can be written or removed, before anything is stopped for that.
    fn check_folders(&self, files: &Files) -> Result<()> {
        let variables = self.variables.as_deref().filter(|_| files.variables.is_some());
        [Some(self.file.as_path()), variables].into_iter().flatten().try_for_each(check_folder)
    }

    /// Makes the files what these are; one that is none of them is removed.
    fn put(&self, files: &Files) -> Result<()> {
        if let Some(path) = &self.variables {
            match &files.variables {
                Some(text) => keep(path, text)?,
                None => remove(path)?,
            }
        }
        match &files.service {
            Some(text) => self.write(text),
            None => remove(&self.file),
        }
    }

    /// Makes the files what they were, and lets the manager know; `was_loaded` tells that launchd
    /// had the service.
    fn put_back(&self, before: &Files, was_loaded: bool) -> Result<()> {
        let is_systemd = self.kind == Kind::Systemd;
        if is_systemd && before.service.is_none() {
            // An error means that it was not enabled, or that there is no manager.
            let _ = self.systemctl(&["disable", &self.name()]);
        }
        self.put(before)?;
        if is_systemd {
            let _ = self.systemctl(&["daemon-reload"]);
        }
        if was_loaded && !self.is_loaded() {
            self.bootstrap()?;
        }
        Ok(())
    }

    /// Whether launchd has the service.
    fn is_loaded(&self) -> bool {
        self.kind == Kind::Launchd && run("launchctl", &["print", &self.target()]).is_ok()
    }

    /// Lets launchd have the service, which starts it.
    fn bootstrap(&self) -> Result<String> {
        run("launchctl", &["bootstrap", &self.domain(), &self.file.display().to_string()])
    }

    /// Writes the file, as a whole or not at all; everybody may read it.
    fn write(&self, text: &[u8]) -> Result<()> {
        files::write(&self.file, text)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(&self.file, fs::Permissions::from_mode(0o644))
                .with_context(|| format!("let everybody read {}", self.file.display()))?;
        }
        Ok(())
    }

    /// Lets the manager read the file, and start the service from now on; `starts` at once, or
    /// again if it runs.
    fn enable(&self, starts: bool) -> Result<()> {
        match self.kind {
            Kind::Systemd => {
                self.systemctl(&["daemon-reload"])?;
                self.systemctl(&["enable", &self.name()])?;
                if starts {
                    // Starts that failed before do not count. An error means that there was none.
                    let _ = self.systemctl(&["reset-failed", &self.name()]);
                    // It may wait for its NATS server for long.
                    self.systemctl(&["restart", "--no-block", &self.name()])?;
                }
            }
            Kind::Launchd => {
                // An error means that it is not there yet.
                let _ = run("launchctl", &["bootout", &self.target()]);
                run("launchctl", &["enable", &self.target()])?;
                if starts {
                    self.bootstrap()?;
                }
            }
            Kind::Task => {}
        }
        Ok(())
    }

    /// Stops the service, and lets the manager forget it. Waits until it has stopped.
    pub fn remove(&self) -> Result<()> {
        self.check_folders(&self.found()?)?;
        match self.kind {
            Kind::Systemd => _ = self.systemctl(&["disable", "--now", &self.name()])?,
            // An error means that it does not run.
            Kind::Launchd => _ = run("launchctl", &["bootout", &self.target()]),
            Kind::Task => {}
        }
        self.put(&Files::default()).with_context(|| {
            format!("{} was stopped and does not start any longer, but is not removed", self.name())
        })?;
        if self.kind == Kind::Systemd {
            self.systemctl(&["daemon-reload"])?;
            // An error means that it had not failed.
            let _ = self.systemctl(&["reset-failed", &self.name()]);
        }
        Ok(())
    }

    /// Asks the manager how the service is, and its log how the last run ended.
    pub fn status(&self) -> Result<Status> {
        Ok(self.with_log(self.shown()?))
    }

    /// Asks the manager how the service is.
    fn shown(&self) -> Result<Status> {
        match self.kind {
            Kind::Systemd => {
                let properties = format!("--property={}", PROPERTIES.join(","));
                let shown = self.systemctl(&["show", &properties, &self.name()])?;
                Ok(status::of_systemd(&shown))
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

    /// Returns the name of the last run, if it had one.
    pub fn last_run(&self) -> Option<String> {
        self.shown().ok()?.invocation
    }

    /// Looks at a service that was started until it runs or has failed, for a while. The run before
    /// was `before`.
    pub async fn settled(&self, before: Option<&str>) -> Result<Status> {
        let until = Instant::now() + START_LOOK;
        loop {
            let status = self.shown()?;
            if status.is_settled(before) || Instant::now() >= until {
                return Ok(self.with_log(status));
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

    /// Says that a service of the system stands before that of a package, if so.
    pub fn shadow_note(&self) -> Option<String> {
        if self.kind != Kind::Systemd || self.scope != Scope::System {
            return None;
        }
        let mut units = OF_PACKAGES.iter().map(|dir| Path::new(dir).join(self.name()));
        Some(shadow(&self.file, &units.find(|unit| unit.exists())?))
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

    /// Adds what the log of the last run says of its end, and how the one before ended.
    fn with_log(&self, status: Status) -> Status {
        let run = status.invocation.as_deref().filter(|_| status.installed);
        let told = run.and_then(|run| self.last_words(run, status.failed));
        let previous_end = self.previous_end(&status);
        Status { previous_end, ..status.with_log(told) }
    }

    /// Returns how the run before ended, where the manager started the host again after it.
    fn previous_end(&self, status: &Status) -> Option<String> {
        status.restarts.filter(|count| *count > 0 && status.running)?;
        let of_failures = status::failure_words(self.scope, &self.name());
        let (end, run) = status::last_failure(&journal(&of_failures, "1")?)?;
        // It ran, so its last lines say nothing of its end unless they are errors.
        Some(status::with_log(end, self.last_words(&run, false)))
    }

    /// Returns what the log of a run says of its end; nothing if this user may not read it, or the
    /// run cannot be told from others.
    fn last_words(&self, run: &str, has_failed: bool) -> Option<String> {
        let of_run = status::journal_words(self.scope, run);
        status::last_words(&journal(&of_run, LOG_LINES)?, has_failed)
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

/// Whether the service of the system runs, and these directories are not its own: a host is known
/// to the commands of its own user alone.
pub fn other_runs(dirs: &Dirs) -> bool {
    let is_own = dirs.state == state_directory();
    if Kind::here() != Kind::Systemd || is_own || !Path::new(SYSTEMD_RUNS).is_dir() {
        return false;
    }
    // An error means that it does not run.
    run("systemctl", &["is-active", "--quiet", &format!("{NAME}.service")]).is_ok()
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

/// Returns the last lines of the journal that have these words, in JSON; nothing if this user may
/// not read them.
fn journal(words: &[String], lines: &str) -> Option<String> {
    let form = ["--lines", lines, "--output=json", "--no-pager", "--quiet"];
    let words: Vec<&str> = words.iter().map(String::as_str).chain(form).collect();
    run("journalctl", &words).ok()
}

/// Says that a service file stands before the unit of a package.
fn shadow(file: &Path, unit: &Path) -> String {
    format!(
        "{} is the unit of a package, and {} stands before it: what that one reads, such as /etc/lattice-host/host.env, is not \
         read any longer. `host service uninstall` takes the new one away again",
        unit.display(),
        file.display()
    )
}

/// Says why the manager of a user is not reached, and what lets it be. Its sockets are in `own`,
/// where they are looked for in `given`; `runs` tells that it is there.
fn unreached(user: &str, own: &Path, given: Option<&str>, runs: bool, told: &str) -> String {
    let is_own = given.is_some_and(|given| Path::new(given) == own);
    let own = own.display();
    let named = match given {
        None => "XDG_RUNTIME_DIR is not set, as after su or sudo".to_owned(),
        Some(given) => format!("XDG_RUNTIME_DIR is {given}, which is not that of {user}"),
    };
    match (runs, is_own) {
        (true, true) => format!("the service manager of user {user} does not answer: {told}"),
        (true, false) => format!(
            "the service manager of user {user} is not reached: {named}; give `export XDG_RUNTIME_DIR={own}`, and then the command \
             again"
        ),
        (false, _) => format!(
            "the service manager of user {user} does not run here, so there is nobody to start a service ({told}). \
             `sudo loginctl enable-linger {user}` starts it, now and at each boot; then give \
             `export XDG_RUNTIME_DIR={own}`, and the command again"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::MARK;

    fn place(dir: &Path) -> Place {
        let file = dir.join("systemd/user/lattice-host.service");
        let variables = Some(dir.join("lattice-host/service.env"));
        Place { kind: Kind::Systemd, scope: Scope::User, file, variables }
    }

    #[test]
    fn a_service_file_is_written_whole_and_one_of_somebody_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        assert!(!place.is_written().unwrap());
        place.write(format!("# {MARK}\n").as_bytes()).unwrap();
        assert!(place.is_written().unwrap());
        fs::write(&place.file, "[Unit]\n").unwrap();
        let error = place.is_written().unwrap_err().to_string();
        assert!(error.contains("move it away"), "{error}");
    }

    #[test]
    fn nothing_is_stopped_or_written_where_the_files_cannot_be() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("systemd");
        fs::create_dir(&folder).unwrap();
        check_folder(&folder.join("user/lattice-host.service")).unwrap();
        // Also root makes no files in a file.
        let closed = dir.path().join("closed");
        fs::write(&closed, "").unwrap();
        let file = folder.join("lattice-host.service");
        let place = Place { file, variables: Some(closed.join("service.env")), ..place(&folder) };
        let files = Files { service: None, variables: Some(Vec::new()) };
        let told = format!("{:#}", place.install(&files, true).unwrap_err());
        assert!(
            told.starts_with("the service stays as it is: ") && told.contains("/closed "),
            "{told}"
        );
        place.check_folders(&Files::default()).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_service_whose_file_cannot_be_removed_is_not_stopped() {
        use std::os::unix::fs::PermissionsExt as _;
        if is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        place.write(format!("# {MARK}\n").as_bytes()).unwrap();
        let folder = place.file.parent().unwrap();
        let mode = |mode| fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o500);
        let told = format!("{:#}", place.remove().unwrap_err());
        mode(0o700);
        assert!(
            told.starts_with("the service stays as it is: ") && !told.contains("systemctl"),
            "{told}"
        );
    }

    #[test]
    fn a_service_that_stands_before_that_of_a_package_is_told() {
        let told = shadow(Path::new("/etc/a.service"), Path::new("/usr/lib/a.service"));
        assert!(told.starts_with("/usr/lib/a.service is the unit of a package"), "{told}");
        assert!(told.contains("/etc/a.service stands before") && told.contains("is not read"));
    }

    #[test]
    fn files_are_put_and_put_back_and_those_that_are_none_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        let text = |word: &str| Some(format!("# {MARK}\n{word}\n").into_bytes());
        let both = Files { service: text("a"), variables: text("b") };
        let one = Files { service: text("c"), variables: None };
        for files in [&both, &one, &both, &Files::default(), &one] {
            place.put(files).unwrap();
            assert!(place.found().unwrap() == *files);
        }
        place.put(&both).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            let variables = place.variables.as_deref().unwrap();
            assert_eq!((mode(&place.file), mode(variables)), (0o644, 0o600));
        }
        // Somebody's own variables stay, whatever becomes of the service.
        fs::write(place.variables.as_deref().unwrap(), "A=1\n").unwrap();
        let error = place.install(&one, true).unwrap_err().to_string();
        assert!(error.contains("service.env") && error.contains("move it away"), "{error}");
    }

    #[test]
    fn a_manager_of_a_user_that_is_not_reached_is_told_with_the_cause() {
        let own = Path::new("/run/user/1000");
        for (given, runs, words) in [
            (
                None,
                true,
                &["XDG_RUNTIME_DIR is not set", "export XDG_RUNTIME_DIR=/run/user/1000"][..],
            ),
            (
                Some("/run/user/0"),
                true,
                &["is /run/user/0", "export XDG_RUNTIME_DIR=/run/user/1000"],
            ),
            (Some("/run/user/1000/"), true, &["does not answer: no bus"]),
            (None, false, &["does not run", "loginctl enable-linger me", "(no bus)"]),
            (Some("/run/user/1000"), false, &["does not run", "loginctl enable-linger me"]),
        ] {
            let told = unreached("me", own, given, runs, "no bus");
            assert!(words.iter().all(|word| told.contains(word)), "{given:?} {runs}: {told}");
        }
    }
}

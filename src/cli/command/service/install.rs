//! `host service install`: the settings a service will have, read and checked as it will read them,
//! its definition, and its start.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::{Told, log_of, place_of};
use crate::{
    args::{self, flags::SettingArgs, service::Install},
    service::{
        Argument, Definition, Kind, NAME, Scope,
        account::{self, User},
        definition::{self, Handing, SecretVariables, check_user, own_directory, state_directory},
        manager::{Files, Place, is_root},
        paths::{self, check_path, check_program},
        status::Status,
        systemd, variables,
    },
    terminal::{Message, Terminal},
};
use lattice_base::{
    config::{
        Config, Environment as _, FILE_NAME, Loaded, Mistakes, Problem, ProcessEnvironment,
        Resolved, Row, Sources, settings,
    },
    dirs::Dirs,
    trusted,
};
use lattice_protocol::errors::Usage;

pub(super) async fn run(terminal: &Terminal, before: SettingArgs, mut args: Install) -> Result<()> {
    let given = args::merged(before, std::mem::take(&mut args.settings));
    let place = place_of(&args.which)?;
    let here = ProcessEnvironment.vars();
    let asked = asked(&args, given, &here, &place)?;
    if !args.print {
        // Before files of the service are read, which only its user and root can.
        place.check("install")?;
    }
    let Plan { definition, notes } = plan(&args, asked, &here, &place)?;
    let text = place.kind.text(&definition)?;
    if args.print {
        return print(terminal, &place, &definition, &text);
    }
    place.is_written()?;
    notes.into_iter().chain(place.shadow_note()).for_each(|note| terminal.note(note));
    if let Some(directory) = &definition.directory {
        make_directory(directory, definition.run_as.as_deref())?;
    }
    let variables = definition.secret.as_ref().map(systemd::environment_file);
    let files =
        Files { service: Some(text.into_bytes()), variables: variables.map(String::into_bytes) };
    let before = place.last_run();
    place.install(&files, !args.no_start)?;
    if place.kind == Kind::Task {
        return tell_of_task(terminal, &place);
    }
    let status = match args.no_start {
        true => place.status()?,
        false => place.settled(before.as_deref()).await?,
    };
    let is_good = status.running || args.no_start;
    let told = Told { place, status, is_good };
    terminal.show(&told)?;
    let linger = told.place.linger_note(&here.var("USER").unwrap_or_default());
    let later = args.no_start.then(|| still_old(&told.status)).flatten();
    linger.into_iter().chain(later).for_each(|note| terminal.note(note));
    if !is_good {
        let log = log_of(&told.place, &definition.log);
        bail!(not_started(&told.place.name(), &told.status, &log));
    }
    Ok(())
}

/// Says of a service that was installed without a start that its host is still the one before.
fn still_old(status: &Status) -> Option<String> {
    status.running.then(|| {
        "the host that runs is as it was before; what was installed counts from its next start"
            .to_owned()
    })
}

/// Says of a service that was just installed why it does not run.
fn not_started(name: &str, status: &Status, log: &str) -> String {
    let cause = status.last_error.as_deref().unwrap_or(&status.state).trim_end_matches('.');
    match status.failed {
        true => format!(
            "service {name} is installed, and its host does not run: {cause}. Mend that and give the command again; its log is in \
             {log}"
        ),
        false => {
            let last = status.last_error.as_ref();
            let last = last.map(|error| format!("; its last error: {error}")).unwrap_or_default();
            let why = match status.is_stopping() {
                true => "its last run has not ended",
                false => "a host waits for its NATS server",
            };
            format!(
                "service {name} is installed and not running yet ({}{last}); {why}. \
                 `host service status` tells how it is, and its log is in {log}",
                status.state
            )
        }
    }
}

/// Makes the directory that a service runs in. Another user than that of this command could not
/// write in it, so one for such a user has to be there.
fn make_directory(directory: &str, run_as: Option<&str>) -> Result<()> {
    match run_as {
        Some(user) if !Path::new(directory).is_dir() => bail!(Usage(format!(
            "there is no directory {directory} for the service to run in, and user {user} could not write in one that root makes; \
             make it with `install -d -o {user} {directory}`, or name another with --directory"
        ))),
        Some(_) => Ok(()),
        None => fs::create_dir_all(directory).with_context(|| format!("create {directory}")),
    }
}

/// The words of the command, checked, as they count from wherever the service runs.
struct Asked {
    program: PathBuf,
    given: SettingArgs,
    arguments: Vec<Argument>,
    variables: Vec<(String, String)>,
    /// Missing where systemd keeps one for the service.
    directory: Option<PathBuf>,
    /// systemd shows the service less than the whole machine.
    is_bounded: bool,
}

/// Reads and checks what was asked for, without the settings in files.
fn asked(
    args: &Install,
    given: SettingArgs,
    here: &[(String, String)],
    place: &Place,
) -> Result<Asked> {
    let scope = place.scope;
    let cwd = std::env::current_dir().context("find the directory of this command")?;
    let program = std::env::current_exe().context("find this program")?;
    let given = definition::from(given, &cwd);
    let directory = args.directory.as_ref().map(|directory| cwd.join(directory));
    let mut mistakes = Vec::new();
    check_owner(args, scope, &mut mistakes);
    // Only systemd is told to show it less than the whole machine, and hands it files.
    let is_bounded = scope == Scope::System && place.kind == Kind::Systemd;
    let handing = Handing {
        directory: directory.as_deref(),
        is_of_root: &account::is_of_root,
        is_for_all: &account::is_for_all,
    };
    let handing = is_bounded.then_some(&handing);
    let arguments = definition::arguments(&given, handing, &mut mistakes);
    let variables = variables::environment(&args.env, here, &mut mistakes);
    mistakes.extend(check_program(&program, scope).err().filter(|_| !args.print));
    if is_bounded {
        mistakes.extend(directory.iter().filter_map(|dir| check_path("--directory", dir).err()));
        paths::check_flags(&given, &arguments, &mut mistakes);
    }
    if !args.print {
        mistakes.extend(args.run_as.as_deref().and_then(missing_user));
    }
    refuse(&mistakes)?;
    // systemd keeps one for the service.
    let own = || own_directory(&Dirs::of_process().state);
    let directory = directory.or_else(|| (!is_bounded).then(own));
    Ok(Asked { program, given, arguments, variables, directory, is_bounded })
}

impl Asked {
    /// Returns the directory that the service runs in.
    fn runs_in(&self) -> PathBuf {
        self.directory.clone().unwrap_or_else(state_directory)
    }

    /// Reads the settings as the service would in this directory; all mistakes are told together.
    fn read_in(&self, dir: &Path) -> Result<Loaded> {
        let sources = Sources {
            flags: self.given.values.clone(),
            labels: self.given.labels.clone(),
            env: Box::new(self.variables.clone()),
            ..Sources::of_directory(dir)
        };
        Ok(Config::load(&sources)?)
    }
}

/// A service, and what is worth to be told before it is installed.
struct Plan {
    definition: Definition,
    notes: Vec<String>,
}

/// Reads the settings that the service will have, and says all of it.
fn plan(args: &Install, asked: Asked, here: &[(String, String)], place: &Place) -> Result<Plan> {
    let runs_in = asked.runs_in();
    if is_root() {
        look_at_service(args, &runs_in);
    }
    let read = asked.read_in(&runs_in);
    if asked.is_bounded {
        refuse(&handed_before(&read).into_iter().collect::<Vec<String>>())?;
    }
    let Loaded { config, table } = &read?;
    let mut notes = variables::notes(&asked.variables, here);
    notes.extend(note_of_files(&asked, table, &runs_in));
    let mut own_keys = Vec::new();
    if asked.is_bounded {
        check_bounds(config, args.run_as.as_deref())?;
        // A thing that cannot be looked at counts as the service's own.
        own_keys = paths::own_keys(table, |file| account::is_of_root(file).unwrap_or(false));
        notes.extend(note_of_paths(&paths::without_effect(config, &own_keys), &runs_in));
    }
    let directory = asked.directory.map(text_of).transpose()?;
    let writable = paths::writable(config, directory.as_deref(), &own_keys);
    let (environment, secret) = variables::parted(asked.variables);
    let definition = Definition {
        scope: place.scope,
        program: text_of(asked.program)?,
        arguments: asked.arguments,
        environment,
        secret: secret_of(secret, place)?,
        directory,
        run_as: args.run_as.clone(),
        writable: writable.into_iter().map(text_of).collect::<Result<Vec<String>>>()?,
        drains: args.drain,
        shutdown_timeout: config.shutdown_timeout,
        log: match place.scope {
            Scope::System => format!("/var/log/{NAME}.log"),
            Scope::User => text_of(Dirs::of_process().state.join("service.log"))?,
        },
    };
    Ok(Plan { definition, notes })
}

/// Lets root look at the files of the service that was here before: its settings count for the next
/// one, too. A directory that is named belongs to the user of the service; that which systemd keeps
/// still belongs to the user before, until the next one starts.
fn look_at_service(args: &Install, runs_in: &Path) {
    let user = args.run_as.as_deref().filter(|_| args.directory.is_some());
    let user = match user.map(account::user) {
        Some(User::Known(id)) => Some(id),
        Some(User::Missing | User::Unknown) | None => None,
    };
    if let Some(service) = account::service_in(runs_in, user) {
        trusted::look_at(service);
    }
}

/// Says of settings of a service that name a file which systemd handed to it before, that it will
/// not be handed again: only flags are words of the unit.
fn handed_before(read: &Result<Loaded>) -> Option<String> {
    let handed = account::handed();
    let key = match read {
        Ok(loaded) => {
            let mut rows = loaded.table.rows().into_iter();
            let is_handed = |row: &Row| Path::new(&row.value).starts_with(&handed);
            rows.find(|row| row.origin.file().is_some() && is_handed(row))?.key
        }
        Err(error) => {
            let mut mistakes = error.downcast_ref::<Mistakes>()?.0.iter();
            mistakes.find(|mistake| names(&mistake.problem, &handed))?.key.clone()
        }
    };
    Some(format!(
        "{key} is a file below {} in the settings of the service, which systemd handed to it because a flag named it; give that \
         flag again, such as --nats-creds FILE",
        handed.display()
    ))
}

/// Whether it is a file below a directory that cannot be read.
fn names(problem: &Problem, dir: &Path) -> bool {
    matches!(problem, Problem::Unreadable { path, .. } if path.starts_with(dir))
}

/// Says which settings of the directory of this command the service does not have.
fn note_of_files(asked: &Asked, service: &Resolved, runs_in: &Path) -> Option<String> {
    let cwd = std::env::current_dir().ok()?;
    match asked.read_in(&cwd) {
        Ok(here) => paths::note_of_files(&here.table, service, runs_in),
        Err(_) => {
            let file = Some(cwd.join(FILE_NAME)).filter(|file| file.exists())?;
            Some(format!(
                "{} is of this directory and not for the service, which runs in {}",
                file.display(),
                runs_in.display()
            ))
        }
    }
}

/// Says of settings that have no effect in files of the service's own what decides them.
fn note_of_paths(keys: &[&str], runs_in: &Path) -> Option<String> {
    let settings = keys.iter().filter_map(|key| settings::find(key));
    let flags: Vec<String> = settings.map(|setting| format!("--{}", setting.flag)).collect();
    (!flags.is_empty()).then(|| {
        format!(
            "{} is in files of the service's user in {}, which give it no right to write elsewhere; {} does",
            keys.join(", "),
            runs_in.display(),
            flags.join(" ")
        )
    })
}

/// Returns the variables that go into a file of their own, if there are any.
fn secret_of(variables: Vec<(String, String)>, place: &Place) -> Result<Option<SecretVariables>> {
    if variables.is_empty() {
        return Ok(None);
    }
    // Without a place for them the service file is refused.
    let file = text_of(place.variables.clone().unwrap_or_default())?;
    Ok(Some(SecretVariables { file, variables }))
}

/// Says that there is no user of this name, if so.
fn missing_user(name: &str) -> Option<String> {
    let is_missing = check_user(name).is_ok() && account::user(name) == User::Missing;
    is_missing.then(|| no_user(name, Kind::here()))
}

fn no_user(name: &str, kind: Kind) -> String {
    let next = match kind {
        Kind::Systemd => format!("`sudo useradd --system {name}` makes one"),
        Kind::Launchd | Kind::Task => "make one first".to_owned(),
    };
    format!("--run-as {name}: there is no such user on this machine; {next}, or name another")
}

/// Checks whether a service can have the user and the directory that it is to have.
fn check_owner(args: &Install, scope: Scope, mistakes: &mut Vec<String>) {
    mistakes.extend(args.run_as.as_deref().and_then(|user| check_user(user).err()));
    if args.run_as.is_some() && scope == Scope::User {
        mistakes.push("--run-as is for a service of the system, --system".to_owned());
    }
    if args.directory.is_some() && scope == Scope::System && args.run_as.is_none() {
        mistakes.push(
            "--directory: a service of the system has a directory of its own, unless --run-as names the user whose files it works \
             with"
                .to_owned(),
        );
    }
}

/// Checks whether a service of the system reaches what links may name, and can write what it is to
/// write.
fn check_bounds(config: &Config, run_as: Option<&str>) -> Result<()> {
    let paths = config.link_paths.iter();
    let mut mistakes: Vec<String> =
        paths.filter_map(|path| check_path("link_paths", path).err()).collect();
    if run_as.is_none() {
        paths::check_written(config, &mut mistakes);
    }
    refuse(&mistakes)
}

/// Returns all mistakes as one error, if there are any.
fn refuse(mistakes: &[String]) -> Result<()> {
    if !mistakes.is_empty() {
        bail!(Usage(mistakes.join("; ")));
    }
    Ok(())
}

fn text_of(path: PathBuf) -> Result<String> {
    let shown = path.display().to_string();
    path.into_os_string().into_string().ok().with_context(|| {
        format!("{shown} is not UTF-8, which service files are; use a path that is")
    })
}

/// Prints the file of a service. The one with secrets is only named.
fn print(terminal: &Terminal, place: &Place, definition: &Definition, text: &str) -> Result<()> {
    let secret = definition.secret.as_ref();
    if terminal.is_data() {
        let file = secret.map(|secret| &secret.file);
        let told = json!({
            "success": true, "unit_file": place.file, "text": text, "variables_file": file,
        });
        return terminal.data(told);
    }
    if let Some(secret) = secret {
        terminal.note(format!(
            "{} would be in {}, which only its owner may read",
            secret.names(),
            secret.file
        ));
    }
    let mut page = terminal.page();
    page.block(text);
    terminal.print(page)
}

fn tell_of_task(terminal: &Terminal, place: &Place) -> Result<()> {
    let file = place.file.display();
    let text = format!(
        "Wrote {file}; `schtasks /Create /TN {NAME} /XML \"{file}\"` installs it, and `schtasks /Run /TN {NAME}` starts it"
    );
    terminal.show(&Message::new(text, place.name(), json!({ "unit_file": place.file })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::service::tests::{place, status};

    #[test]
    fn a_directory_is_made_unless_another_user_is_to_write_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let text = path.to_str().unwrap();
        let refused = make_directory(text, Some("lattice")).unwrap_err();
        assert!(refused.is::<Usage>() && !path.exists(), "{refused}");
        let told = refused.to_string();
        assert!(told.contains(&format!("install -d -o lattice {text}")), "{told}");
        make_directory(text, None).unwrap();
        make_directory(text, Some("lattice")).unwrap();
        assert!(path.is_dir());
    }

    #[test]
    fn a_file_that_was_handed_to_the_service_before_has_to_be_named_again() {
        let (dir, place) = (tempfile::tempdir().unwrap(), place(Kind::Systemd));
        let creds = account::handed().join("nats_creds");
        let text = json!({ "ctl_creds": creds }).to_string();
        trusted::replace(&dir.path().join(FILE_NAME), text.as_bytes()).unwrap();
        let file = dir.path().join("host.creds");
        trusted::replace(&file, b"x").unwrap();
        let asked = |values: Vec<(&'static str, String)>| Asked {
            program: place.file.clone(),
            given: SettingArgs { values, labels: Vec::new() },
            arguments: Vec::new(),
            variables: Vec::new(),
            directory: None,
            is_bounded: true,
        };
        let told = handed_before(&asked(Vec::new()).read_in(dir.path())).expect("it is refused");
        assert!(told.starts_with("ctl_creds is a file below /run/credentials/"), "{told}");
        let again = asked(vec![("nats_creds", file.display().to_string())]);
        assert_eq!(handed_before(&again.read_in(dir.path())), None);
        let wrong = asked(vec![("js_domain", "a b".to_owned())]);
        assert!(wrong.read_in(file.parent().unwrap()).is_err());
        assert_eq!(handed_before(&wrong.read_in(Path::new("/nowhere"))), None);
    }

    #[test]
    fn a_start_that_failed_is_told_with_its_cause_and_not_with_nats() {
        for (status, has, has_not) in [
            (status("failed (failed)", true, Some("no such user")), "no such user", "NATS"),
            (status("failed (failed)", true, None), "run: failed (failed)", "NATS"),
            (status("failed (failed)", true, Some("for actors.")), "for actors. Mend", "actors.."),
            (status("activating (auto-restart)", true, Some("no room")), "no room", "NATS"),
            (status("activating (start)", false, None), "waits for its NATS server", "error"),
            (status("deactivating (stop-sigterm)", false, None), "has not ended", "NATS"),
            (
                status("activating (start)", false, Some("refused")),
                "error: refused",
                "does not run",
            ),
        ] {
            let told = not_started("s", &status, "`journalctl`");
            assert!(told.contains(has) && !told.contains(has_not), "{told}");
            assert!(told.ends_with("log is in `journalctl`"), "{told}");
        }
    }

    #[test]
    fn a_host_that_runs_on_after_an_install_is_told_to_be_the_old_one() {
        let told = still_old(&status("active (running)", false, None));
        assert!(told.is_some_and(|told| told.contains("from its next start")));
        assert_eq!(still_old(&status("inactive (dead)", false, None)), None);
    }

    #[test]
    fn a_user_that_is_not_there_is_told_by_name_with_the_next_step() {
        for (kind, next) in
            [(Kind::Systemd, "useradd --system nobodyatall"), (Kind::Launchd, "make one")]
        {
            let told = no_user("nobodyatall", kind);
            assert!(told.starts_with("--run-as nobodyatall: there is no") && told.contains(next));
        }
        // A name that cannot be one is another mistake.
        assert_eq!(missing_user("a b"), None);
    }
}

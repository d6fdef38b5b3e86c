//! `host service`: a host as a service of this machine.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::{
    args::{
        self,
        flags::SettingArgs,
        service::{Install, Service, Which},
    },
    service::{
        Definition, Kind, NAME, Scope,
        definition::{self, check_program, check_user, own_directory},
        manager::{LOOK, Place, is_root},
        status::Status,
    },
    terminal::{Message, Page, Terminal, View},
};
use lattice_base::{
    config::{Config, Environment as _, ProcessEnvironment, Sources},
    dirs::Dirs,
};
use lattice_protocol::errors::Usage;

pub async fn run(terminal: &Terminal, before: SettingArgs, command: Service) -> Result<()> {
    match command {
        Service::Install(args) => install(terminal, before, *args).await,
        Service::Uninstall(which) => uninstall(terminal, &which),
        Service::Status(which) => status(terminal, &which),
    }
}

async fn install(terminal: &Terminal, before: SettingArgs, mut args: Install) -> Result<()> {
    let given = args::merged(before, std::mem::take(&mut args.settings));
    let place = place_of(&args.which)?;
    let here = ProcessEnvironment.vars();
    let definition = define(&args, given, &here, place.scope)?;
    let text = place.kind.text(&definition)?;
    if args.print {
        return print(terminal, &place, &text);
    }
    place.check("install")?;
    place.is_written()?;
    for name in definition::left_out(&definition.environment, &here) {
        terminal.note(format!(
            "{name} is set here and not for the service; --env {name} takes it along"
        ));
    }
    if let Some(directory) = &definition.directory {
        fs::create_dir_all(directory).with_context(|| format!("create {directory}"))?;
    }
    place.write(&text)?;
    place.enable(!args.no_start)?;
    if place.kind == Kind::Task {
        return tell_of_task(terminal, &place);
    }
    let status = match args.no_start {
        true => place.status()?,
        false => place.settled().await?,
    };
    let (running, state) = (status.running, status.state.clone());
    let user = here.iter().find(|(name, _)| name == "USER").map(|(_, user)| user.as_str());
    let is_good = running || args.no_start;
    terminal.show(&Told { place: place.clone(), status, is_good })?;
    if let Some(note) = place.linger_note(user.unwrap_or_default()) {
        terminal.note(note);
    }
    if !is_good {
        bail!(
            "service {} is installed and not running yet ({state}); a host waits for its NATS server. `host service status` \
             tells how it is, and its log is in {}",
            place.name(),
            log_of(&place, &definition)
        );
    }
    Ok(())
}

/// Returns the service that is meant: root has none of its own.
fn place_of(which: &Which) -> Result<Place> {
    let scope = if which.system || is_root() { Scope::System } else { Scope::User };
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    Place::find(Kind::here(), scope, &Dirs::of_process(), home.as_deref())
}

/// Reads and checks what was asked for, the settings included.
fn define(
    args: &Install,
    given: SettingArgs,
    here: &[(String, String)],
    scope: Scope,
) -> Result<Definition> {
    let dirs = Dirs::of_process();
    let cwd = std::env::current_dir().context("find the directory of this command")?;
    let mut mistakes = Vec::new();
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
    let given = definition::from(given, &cwd);
    let arguments = definition::arguments(&given, scope).unwrap_or_else(|wrong| {
        mistakes.extend(wrong);
        Vec::new()
    });
    let environment = definition::environment(&args.env, here).unwrap_or_else(|wrong| {
        mistakes.extend(wrong);
        Vec::new()
    });
    let program = std::env::current_exe().context("find this program")?;
    mistakes.extend(check_program(&program, scope).err().filter(|_| !args.print));
    if !mistakes.is_empty() {
        bail!(Usage(mistakes.join("; ")));
    }
    let directory = match (&args.directory, scope) {
        (Some(directory), _) => Some(text_of(cwd.join(directory))?),
        // systemd keeps one for the service.
        (None, Scope::System) if Kind::here() == Kind::Systemd => None,
        (None, _) => Some(text_of(own_directory(&dirs.state))?),
    };
    let config = checked(given, &environment, directory.as_deref())?;
    let link_paths = config.link_paths.into_iter().map(text_of).collect::<Result<Vec<String>>>()?;
    Ok(Definition {
        scope,
        program: text_of(program)?,
        arguments,
        environment,
        directory,
        run_as: args.run_as.clone(),
        link_paths,
        drains: args.drain,
        shutdown_timeout: config.shutdown_timeout,
        log: match scope {
            Scope::System => format!("/var/log/{NAME}.log"),
            Scope::User => text_of(dirs.state.join("service.log"))?,
        },
    })
}

/// Reads the settings as the service will; all mistakes are told together.
fn checked(
    given: SettingArgs,
    environment: &[(String, String)],
    directory: Option<&str>,
) -> Result<Config> {
    let sources = Sources {
        flags: given.values,
        labels: given.labels,
        env: Box::new(environment.to_vec()),
        dir: PathBuf::from(directory.map_or_else(|| format!("/var/lib/{NAME}"), str::to_owned)),
        home: None,
        context: None,
    };
    Ok(Config::load(&sources)?.config)
}

fn text_of(path: PathBuf) -> Result<String> {
    let shown = path.display().to_string();
    path.into_os_string().into_string().ok().with_context(|| {
        format!("{shown} is not UTF-8, which service files are; use a path that is")
    })
}

/// Prints the file of a service.
fn print(terminal: &Terminal, place: &Place, text: &str) -> Result<()> {
    if terminal.is_data() {
        return terminal.data(json!({ "success": true, "unit_file": place.file, "text": text }));
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

fn log_of(place: &Place, definition: &Definition) -> String {
    match (place.kind, place.scope) {
        (Kind::Systemd, Scope::User) => format!("`journalctl --user -u {NAME}`"),
        (Kind::Systemd, Scope::System) => format!("`journalctl -u {NAME}`"),
        _ => definition.log.clone(),
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
    let (name, scope) = (place.name(), place.scope.word());
    let (installed, running) = (status.installed, status.running);
    terminal.show(&Told { place: place.clone(), status, is_good: running })?;
    let restart = match place.scope {
        Scope::User => format!("systemctl --user restart {name}"),
        Scope::System => format!("systemctl restart {name}"),
    };
    match (installed, running, place.kind) {
        (_, true, _) => Ok(()),
        (false, ..) => bail!(
            "no service of this {scope} is installed; `host service install` does that, with the flags of `host foreground`"
        ),
        (true, false, Kind::Systemd) => {
            bail!("service {name} does not run; mend its last error, then `{restart}`")
        }
        (true, false, Kind::Launchd) => {
            bail!("service {name} does not run; `host service install` starts it again")
        }
        (true, false, Kind::Task) => {
            bail!("only its file is known here; `schtasks /Query /TN {NAME} /V` tells how it is")
        }
    }
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
        let others = [("tells", status), ("unit file", unit_file), ("last error", last_error)];
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

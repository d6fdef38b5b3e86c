//! The commands that run hosts: `foreground`, `up` and `down`.

use std::{io::IsTerminal as _, path::Path, process::ExitCode, time::Duration};

use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{error, info, warn};

use super::{
    EXIT_FAILED, print,
    serve::{Around, serve},
};
use crate::{
    args::{self, Down, Up, flags::SettingArgs},
    terminal::{Terminal, complain},
    up::{
        self, Session, detached, down,
        instance::{ClaimError, Instance, Record},
        nats_server, process, summary,
    },
};
use lattice_base::{
    config::{self, Config, Loaded, ProcessEnvironment, Sources},
    core_files,
    dirs::Dirs,
    identity::{self, Identity},
    service_manager::{Message, ServiceManager},
    shutdown::{self, Wish},
    telemetry,
};
use lattice_dashboard::{entry, token};
use lattice_protocol::errors::Usage;

/// As shells report an interrupt.
const EXIT_INTERRUPTED: u8 = 130;
/// Wishes of signals that may wait until the host is ready.
const WISHES_MAX: usize = 4;

/// Loads the settings; all mistakes go to standard error together.
pub(super) fn load(sources: &Sources) -> Result<Loaded, ExitCode> {
    Config::load(sources).map_err(|mistakes| {
        mistakes.to_string().lines().for_each(complain);
        ExitCode::from(args::EXIT_CONFIG)
    })
}

pub fn foreground(args: SettingArgs) -> ExitCode {
    let sources = Sources::from_process(args.values, args.labels);
    let loaded = match load(&sources) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    telemetry::init(&loaded.config.log);
    telemetry::log_panics();
    forbid_core_files(&loaded.config);
    let dirs = Dirs::find(&ProcessEnvironment, sources.home.as_deref());
    block_on(live(loaded, &sources, &dirs, None))
}

fn forbid_core_files(config: &Config) {
    if !config.core_dumps
        && let Err(error) = core_files::forbid()
    {
        warn!(%error, "a crash of this process could leave a core file with its seeds");
    }
}

pub fn up(before: SettingArgs, mut args: Up) -> ExitCode {
    let given = args::merged(before, std::mem::take(&mut args.settings));
    let sources = Sources::from_process(given.values, given.labels);
    let loaded = match load(&sources) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let options = match options_of(&args, &sources.dir) {
        Ok(options) => options,
        Err(mistakes) => return wrong(&mistakes),
    };
    if args.in_background
        && let Err(error) = process::leave_terminal()
    {
        complain(format!("leave the terminal: {error}"));
        return ExitCode::FAILURE;
    }
    let is_background = args.detached && !args.in_background;
    telemetry::init(&match is_background {
        // The process in the background writes the file.
        true => config::Log { file: None, ..loaded.config.log.clone() },
        false => loaded.config.log.clone(),
    });
    telemetry::log_panics();
    forbid_core_files(&loaded.config);
    let dirs = Dirs::find(&ProcessEnvironment, sources.home.as_deref());
    let directory = match up::directory() {
        Ok(directory) => directory,
        Err(error) => return failed(&error),
    };
    let instance = Instance::of(&dirs, &directory);
    if args.detached && !args.in_background {
        if instance.is_running() {
            return block_on_code(runs_already(&instance, &options, &loaded));
        }
        return block_on_code(in_background(&instance, &dirs, &options, &loaded));
    }
    match Session::enter(&dirs, &directory, options.clone()) {
        Ok(session) => up_here(session, sources, &loaded, &dirs),
        Err(ClaimError::Taken) => block_on_code(runs_already(&instance, &options, &loaded)),
        Err(error) => failed(&error.into()),
    }
}

/// Returns the options of `host up`, checked; relative paths are of `dir`.
fn options_of(args: &Up, dir: &Path) -> Result<up::Options, Vec<String>> {
    let options = up::Options {
        hub: None,
        domain: args.domain.clone(),
        free_ports: args.free_ports,
        open: args.open,
        demo: args.demo,
        in_background: args.in_background,
    };
    options.check(args.hub.as_deref(), args.creds.as_deref(), args.hub_ca.as_deref(), dir)
}

/// Runs server and host in this process.
fn up_here(mut session: Session, mut sources: Sources, loaded: &Loaded, dirs: &Dirs) -> ExitCode {
    let settled = match session.settle(&mut sources, loaded) {
        Ok(()) => load(&sources),
        Err(mistakes) => Err(wrong(&mistakes)),
    };
    match settled {
        Ok(settled) => block_on(live(settled, &sources, dirs, Some(session))),
        Err(code) => block_on_code(async move {
            session.finish().await;
            code
        }),
    }
}

/// Starts the same command in the background and tells what became of it.
async fn in_background(
    instance: &Instance,
    dirs: &Dirs,
    options: &up::Options,
    loaded: &Loaded,
) -> ExitCode {
    let outcome = started(instance, dirs, options, loaded).await;
    let file = loaded.config.log.file.as_ref().map(|file| file.path.as_path());
    let log = summary::log_of(&detached::log_of(instance), file, Path::new(""));
    match outcome {
        Ok(detached::Outcome::Ready(record)) => {
            let code = print(told(instance, &record).await);
            print_link(dirs, record.host_id.as_deref().unwrap_or_default());
            code
        }
        Ok(detached::Outcome::RunsAlready) => runs_already(instance, options, loaded).await,
        // The same, in a terminal.
        Ok(detached::Outcome::Ended(status)) if status.success() && instance.is_running() => {
            runs_already(instance, options, loaded).await
        }
        Ok(detached::Outcome::Ended(status)) => {
            complain(format!(
                "the host in the background ended before it was ready ({status}); its log: {}",
                log.display()
            ));
            status
                .code()
                .and_then(|code| u8::try_from(code).ok())
                .filter(|code| *code != 0)
                .unwrap_or(1)
                .into()
        }
        Ok(detached::Outcome::Late { killed }) => {
            let end = if killed { "did not stop either, and was killed" } else { "was stopped" };
            complain(format!(
                "the host in the background was not ready in time and {end}; its log: {}",
                log.display()
            ));
            ExitCode::FAILURE
        }
        Ok(detached::Outcome::Interrupted { killed }) => {
            // A killed host may not have come to ending its providers.
            let end = if killed {
                "the host in the background did not stop and was killed; its NATS server does not run any longer"
            } else {
                "nothing was left running"
            };
            complain(format!("interrupted; {end}"));
            ExitCode::from(EXIT_INTERRUPTED)
        }
        Ok(detached::Outcome::Busy) => {
            complain(
                "another `host up --detached` of this directory is starting and does not come to an end, so none was started \
                 here; stop what it started with `host down`, or interrupt it, and try again",
            );
            ExitCode::FAILURE
        }
        Err(error) => failed(&error),
    }
}

/// Starts the command in the background, and waits until it is ready or a signal comes.
async fn started(
    instance: &Instance,
    dirs: &Dirs,
    options: &up::Options,
    loaded: &Loaded,
) -> anyhow::Result<detached::Outcome> {
    let interrupted = CancellationToken::new();
    let signalled = tokio::spawn(listen(interrupted.clone()));
    // Here, where nobody counts the seconds: an installation may take minutes.
    let outcome = tokio::select! {
        found = find_server(dirs, options, loaded) => match found {
            Ok(()) => detached::start(instance, &interrupted).await,
            Err(error) => Err(error),
        },
        () = interrupted.cancelled() => Ok(detached::Outcome::Interrupted { killed: false }),
    };
    signalled.abort();
    // The log of the other process was repeated; what this one says comes after it.
    telemetry::flush();
    outcome
}

/// Finds or installs the program of the server, unless a server is at the place already.
async fn find_server(dirs: &Dirs, options: &up::Options, loaded: &Loaded) -> anyhow::Result<()> {
    let place = up::place(&loaded.config);
    if options.free_ports || nats_server::probe(&place).await == nats_server::Probe::Nothing {
        nats_server::find_or_install(&ProcessEnvironment, dirs).await?;
    }
    Ok(())
}

/// Tells what runs in this directory. That is what was asked for, unless something else was.
async fn runs_already(instance: &Instance, options: &up::Options, loaded: &Loaded) -> ExitCode {
    let Some(record) = detached::wait_for(instance).await else {
        complain(
            "another `host up` of this directory is starting or stopping; try again when it is done, or use `host down`",
        );
        return ExitCode::FAILURE;
    };
    let process = record.up.pid;
    if let Some(difference) = up::differs(&record, options, loaded) {
        complain(format!(
            "a host runs already in {} (pid {process}), and {difference}. Stop it with `host down` and start it again, or \
             start this one in another directory",
            record.directory.display()
        ));
        return ExitCode::FAILURE;
    }
    let host_id = record.host_id.as_deref().unwrap_or_default();
    print(format_args!(
        "a host runs already in {}: {host_id}, pid {process}, since {}; it keeps the settings it was started with\n{}",
        record.directory.display(),
        record.since,
        told(instance, &record).await
    ))
}

async fn told(instance: &Instance, record: &Record) -> String {
    up::told(instance, record).await.map(|summary| summary.to_string()).unwrap_or_default()
}

/// Prints a link that logs in to the dashboard, if somebody looks: it is a secret for a minute.
pub(super) fn print_link(dirs: &Dirs, host_id: &str) {
    if !std::io::stdout().is_terminal() {
        return;
    }
    let dashboards = entry::running(dirs);
    let record = dashboards.iter().find(|record| record.host_id == host_id);
    if let Some(Ok(link)) = record.map(|record| record.link(dirs)) {
        let seconds = token::CODE.as_secs();
        telemetry::say(&format!(
            "\nOpen the dashboard, logged in (once, within {seconds} s):\n  {link}\n"
        ));
    }
}

pub fn down(terminal: &Terminal, args: &Down) -> ExitCode {
    telemetry::init(&config::Log { level: tracing::Level::INFO, json: false, file: None });
    let dirs = Dirs::of_process();
    let instances = match (args.all, up::directory()) {
        (true, _) => Instance::all(&dirs),
        (false, Ok(directory)) => vec![Instance::of(&dirs, &directory)],
        (false, Err(error)) => return failed(&error),
    };
    block_on_code(async {
        let (mut stopped, mut code) = (Vec::new(), ExitCode::SUCCESS);
        for instance in &instances {
            match down::down(instance).await {
                Ok(done) => stopped.extend(done),
                Err(error) => code = failed(&error),
            }
        }
        if terminal.is_data() {
            return match terminal.data(json!(stopped)) {
                Ok(()) => code,
                Err(error) => failed(&error),
            };
        }
        let text: String = match args.all {
            true if stopped.is_empty() => "nothing to stop: no `host up` of this user runs\n".into(),
            false if stopped.is_empty() => {
                "nothing to stop: no `host up` of this directory runs (--all looks at every directory)\n".into()
            }
            _ => stopped.iter().map(|stopped| format!("{stopped}\n")).collect(),
        };
        let printed = print(text);
        if code == ExitCode::SUCCESS { printed } else { code }
    })
}

/// Stops what runs in this directory and starts it again in the background.
pub fn restart(terminal: &Terminal, before: SettingArgs, args: Up) -> ExitCode {
    // The second process of `--detached` has the words of the first.
    if args.in_background {
        return up(before, args);
    }
    let stopped = down(terminal, &Down { all: false, form: Default::default() });
    if stopped != ExitCode::SUCCESS {
        return stopped;
    }
    up(before, Up { detached: true, ..args })
}

fn wrong(mistakes: &[String]) -> ExitCode {
    mistakes.iter().for_each(complain);
    ExitCode::from(args::EXIT_CONFIG)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    complain(format!("{error:#}"));
    ExitCode::FAILURE
}

fn block_on(life: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    block_on_code(async {
        match life.await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let text = format!("{error:#}");
                error!("{text}");
                telemetry::repeat_on_stderr(&text);
                ExitCode::from(code_of(&error))
            }
        }
    })
}

/// Returns the exit code of a host that failed: some settings turn out wrong only when they are
/// used.
fn code_of(error: &anyhow::Error) -> u8 {
    if error.is::<Usage>() { args::EXIT_CONFIG } else { EXIT_FAILED }
}

fn block_on_code(work: impl Future<Output = ExitCode>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format!("cannot start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        shutdown::survive_file_limit();
        work.await
    });
    // A compilation or a read that still runs must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

/// Cancels the token at the first signal; the second one ends the process.
async fn listen(stop: CancellationToken) {
    hears(shutdown::obey_signals(stop, || {}).await);
}

/// Does the same for a host, whose signals have wishes, too.
async fn listen_as_host(stop: CancellationToken, wishes: mpsc::Sender<Wish>) {
    hears(shutdown::obey_host_signals(stop, wishes, nats_server::kill_started).await);
}

fn hears(outcome: std::io::Result<()>) {
    if let Err(error) = outcome {
        warn!(%error, "no signal can be heard; stop this host over the control interface");
    }
}

/// A host's life from its first log line to its last; with a session, its server's too.
async fn live(
    mut settings: Loaded,
    sources: &Sources,
    dirs: &Dirs,
    session: Option<Session>,
) -> anyhow::Result<()> {
    let config = &mut settings.config;
    let stop = CancellationToken::new();
    let manager = ServiceManager::find(&ProcessEnvironment);
    let _alive = AbortOnDropHandle::new(tokio::spawn(manager.clone().keep_alive()));
    manager.tell(&Message::Status("starts"));
    let (sender, wishes) = mpsc::channel(WISHES_MAX);
    let signalled = tokio::spawn(listen_as_host(stop.clone(), sender));
    let around = Around { sources, dirs, manager, stop: stop.clone(), wishes };
    let outcome = match session {
        None => match take_identity(config, sources) {
            Ok(_identity) => {
                announce(config, sources);
                serve(settings, around, None).await
            }
            Err(error) => Err(error),
        },
        Some(mut session) => {
            let outcome = tokio::select! {
                ensured = session.ensure_server(config) => match ensured
                    .and_then(|()| take_identity(config, sources))
                {
                    Ok(_identity) => {
                        let not_written = announce(config, sources);
                        session.wrote(config, not_written);
                        serve(settings, around, Some(&mut session)).await
                    }
                    Err(error) => Err(error),
                },
                () = stop.cancelled() => Ok(()),
            };
            session.finish().await;
            outcome
        }
    };
    signalled.abort();
    outcome
}

/// Gives the host the identity that its directory keeps; it is this process's until it is dropped.
fn take_identity(config: &mut Config, sources: &Sources) -> anyhow::Result<Identity> {
    let identity = identity::take(config, &sources.dir)?;
    if let Some(path) = &identity.path {
        info!("Identity of this host: {path:?}");
    }
    identity.warnings.iter().for_each(|warning| warn!("{warning}"));
    Ok(identity)
}

/// Writes the settings and logs what is worth to know of them. Returns why this directory has no
/// file with them, if it has none.
fn announce(config: &mut Config, sources: &Sources) -> Option<String> {
    if let Some(domain) = &config.js_domain {
        info!("Using JetStream domain: {domain}");
    }
    let mut not_written = None;
    for (index, written) in
        config::write(config, &sources.dir, sources.home.as_deref()).into_iter().enumerate()
    {
        match written {
            Ok(path) => info!("Wrote {path:?}"),
            // The first one is that of this directory.
            Err(error) if index == 0 => {
                let cause = format!("{:#}", anyhow::Error::from(error));
                warn!(
                    %cause,
                    "the settings are not kept in this directory: a cluster seed that was made up for this start ends with it, \
                     and no other machine can join. Let this user write there and start again"
                );
                not_written = Some(cause);
            }
            Err(error) => warn!("{:#}", anyhow::Error::from(error)),
        }
    }
    for warning in &config.warnings {
        warn!("{warning}");
    }
    config.cluster.is_kept = not_written.is_none();
    not_written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_turns_out_wrong_later_has_the_code_of_settings() {
        let wrong = || anyhow::Error::from(Usage("no such directory".into()));
        for (error, code) in [
            (wrong(), 64),
            (wrong().context("open the audit log").context("start the host"), 64),
            (anyhow::anyhow!("no server answers").context("start the host"), 1),
        ] {
            assert_eq!(code_of(&error), code, "{error:#}");
        }
    }
}

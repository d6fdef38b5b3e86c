//! The commands of the binary: a file for each, or for a family of them.
//!
//! A command gets its arguments, the settings given before its name, and the [`Terminal`] to print
//! on. It returns an error or nothing; the type of the error decides the exit code ([`exit_code`]):
//! 1 failed, 2 wrong use (no command at all is that too), 3 the time was over and the outcome is
//! unknown. Errors go to standard error, as sentences or, where data was asked for, as JSON.

mod apply;
mod attention;
mod bench;
mod cache;
mod call;
pub mod completions;
mod config;
mod contexts;
mod daemon;
mod dashboard;
mod dev;
mod doctor;
mod drain;
mod explain;
mod export;
mod failed;
pub(crate) mod files;
mod forget;
mod get;
mod history;
mod inspect;
mod keys;
mod label;
mod link;
mod link_file;
mod logs;
mod lost;
mod man;
mod manager;
mod par;
mod permit;
mod registry;
mod reload;
mod rollout;
mod scale;
mod screen;
mod sending;
pub(crate) mod serve;
mod service;
mod sign;
mod spy;
mod start;
mod stop;
mod top;
mod update;
mod upgrade_check;
mod watch;

use std::{
    env,
    io::{ErrorKind, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};

use crate::{
    args::{
        self, Cli, Command, EXIT_USAGE, Up,
        flags::SettingArgs,
        help,
        lattice::Ctl,
        tools::{Claims, Par, Reg},
    },
    service::{NAME, manager::other_runs, paths::STATE},
    terminal::{self, Form, Message, Terminal, Text, complain},
};
use lattice_base::{config::Mistakes, dirs::Dirs, presence};
use lattice_protocol::{
    control::types::{Inventory, Pairs},
    errors::{Lines, OutcomeUnknown, Usage},
    escape,
};

const EXIT_FAILED: u8 = 1;
const EXIT_UNKNOWN: u8 = 3;

/// Runs a command to its end.
pub fn run(Cli { command, settings }: Cli, form: Form) -> ExitCode {
    let terminal = Terminal::new(form);
    match command {
        None => {
            terminal.note(Text::block(&help::without_command()));
            ExitCode::from(EXIT_USAGE)
        }
        Some(Command::Foreground(own)) => daemon::foreground(args::merged(settings, own.settings)),
        Some(Command::Up(own)) => daemon::up(settings, own),
        Some(Command::Down(own)) => daemon::down(&terminal, &own),
        Some(Command::Daemon(own)) => daemon::up(settings, Up { detached: true, ..own }),
        Some(Command::Restart(own)) => daemon::restart(&terminal, settings, own),
        Some(Command::Pid) => pid(),
        Some(Command::Version { .. }) => {
            let version = env!("CARGO_PKG_VERSION");
            word(&terminal, version, json!({ "version": version }))
        }
        Some(Command::Ping { .. }) => ping(&terminal),
        Some(Command::Config { command }) => config::run(&terminal, settings, command),
        Some(Command::Bench(args)) => finish(&terminal, bench::run(&terminal, *args)),
        Some(command) => finish(&terminal, operate(&terminal, settings, command)),
    }
}

/// Asks on a terminal whether a verb of the scripts of earlier hosts is meant as it was there: a
/// person may have left out the noun. Returns an exit code where it is not; scripts are not asked.
pub fn refused_on_terminal(script: &args::ScriptVerb) -> Option<ExitCode> {
    let args::ScriptVerb { verb, ours, does } = script;
    let question =
        format!("`host {verb}` without a noun {does}, as `host {ours}` does. Is that meant?");
    if terminal::confirm(&question) != Some(false) {
        return None;
    }
    complain(format!("nothing was done; `host {verb} --help` lists what it can {verb}"));
    Some(ExitCode::from(EXIT_USAGE))
}

/// Runs a command that ends by itself.
fn operate(terminal: &Terminal, settings: SettingArgs, command: Command) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(dispatch(terminal, settings, command));
    // A file that is still being read must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

async fn dispatch(terminal: &Terminal, settings: SettingArgs, command: Command) -> Result<()> {
    match command {
        Command::Get(get) | Command::Ctl(Ctl::Get(get)) => get::run(terminal, settings, get).await,
        Command::Start(start) | Command::Ctl(Ctl::Start(start)) => {
            start::run(terminal, settings, start).await
        }
        Command::Stop(stop) | Command::Ctl(Ctl::Stop(stop)) => {
            stop::run(terminal, settings, stop).await
        }
        Command::Scale(scale) | Command::Ctl(Ctl::Scale(scale)) => {
            scale::run(terminal, settings, scale).await
        }
        Command::Update(update) | Command::Ctl(Ctl::Update(update)) => {
            update::run(terminal, settings, update).await
        }
        Command::Link(link) | Command::Ctl(Ctl::Link(link)) => {
            link::run(terminal, settings, link).await
        }
        Command::Forget(args) => lost::forget(terminal, settings, &args).await,
        Command::Label(label) => label::run(terminal, settings, label).await,
        Command::Call(call) => call::run(terminal, settings, call).await,
        Command::Apply(args) => apply::run(terminal, settings, args).await,
        Command::Export(args) => export::run(terminal, settings, &args).await,
        Command::App(app) => manager::run(terminal, settings, app).await,
        Command::Rollout(args) => rollout::run(terminal, settings, args).await,
        Command::Doctor(doctor) => doctor::run(terminal, settings, doctor).await,
        Command::UpgradeCheck(args) => upgrade_check::run(terminal, settings, args).await,
        Command::Explain(explain) => explain::run(terminal, settings, explain).await,
        Command::Logs(logs) => logs::run(terminal, settings, logs).await,
        Command::Events(events) => history::events(terminal, settings, events).await,
        Command::Audit(audit) => history::audit(terminal, settings, audit).await,
        Command::Attention(args) => attention::run(terminal, settings, args).await,
        Command::Top(top) => top::run(terminal, settings, top).await,
        Command::Spy(spy) => spy::run(terminal, settings, spy).await,
        Command::Dev(dev) => dev::run(terminal, settings, dev).await,
        Command::Inspect(inspect)
        | Command::Claims(Claims::Inspect(inspect))
        | Command::Par(Par::Inspect(inspect)) => inspect::run(terminal, settings, inspect).await,
        Command::Claims(Claims::Sign(sign)) => sign::sign(terminal, &sign),
        Command::Claims(Claims::Token(token)) => sign::token(terminal, token),
        Command::Claims(Claims::Forget(args)) => forget::run(terminal, settings, &args).await,
        Command::Keys(keys) => keys::run(terminal, keys),
        Command::Par(Par::Create(create)) => par::create(terminal, &create),
        Command::Par(Par::Insert(insert)) => par::insert(terminal, &insert),
        Command::Reg(Reg::Push(push)) | Command::Push(push) => {
            registry::push(terminal, settings, push).await
        }
        Command::Reg(Reg::Pull(pull)) | Command::Pull(pull) => {
            registry::pull(terminal, settings, pull).await
        }
        Command::Reg(Reg::Ping(ping)) => registry::ping(terminal, settings, ping).await,
        Command::Drain(drain) => drain::run(terminal, settings, drain).await,
        Command::Cache(args) => cache::run(terminal, &args),
        Command::Dashboard(args) => dashboard::run(terminal, &args),
        Command::Service(args) => service::run(terminal, settings, args).await,
        Command::Ctx(ctx) => contexts::run(terminal, settings, ctx),
        Command::Completions(completions) => completions::run(terminal, &completions),
        Command::Man(man) => man::run(terminal, &man),
        Command::Foreground(_)
        | Command::Up(_)
        | Command::Down(_)
        | Command::Bench(_)
        | Command::Ping { .. }
        | Command::Config { .. } => {
            unreachable!("these run hosts or ask for settings, and are handled before")
        }
        Command::Daemon(_) | Command::Restart(_) | Command::Pid | Command::Version { .. } => {
            unreachable!("these are other words for those above")
        }
    }
}

/// Tells of a failure and says the exit code.
fn finish(terminal: &Terminal, result: Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if terminal.is_data() {
        let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
        let told =
            json!({ "success": false, "error": format!("{error:#}"), "error_chain": causes });
        terminal.data_note(&told);
    } else if let Some(mistakes) = error.downcast_ref::<Mistakes>() {
        mistakes.to_string().lines().for_each(|mistake| terminal.note(mistake));
    } else if let Some(Lines(lines)) = error.downcast_ref() {
        lines.iter().for_each(|line| terminal.note(line));
    } else {
        terminal.note(format!("{error:#}"));
    }
    ExitCode::from(exit_code(&error))
}

/// Returns the exit code of an error, for scripts.
fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<Usage>() || error.is::<Mistakes>() {
        EXIT_USAGE
    } else if error.is::<OutcomeUnknown>() {
        EXIT_UNKNOWN
    } else {
        EXIT_FAILED
    }
}

/// Prints `pong` if a host runs on this machine: a client of 2022 asks that before it starts one.
fn ping(terminal: &Terminal) -> ExitCode {
    let dirs = Dirs::of_process();
    let running = presence::running(&presence::presence_dir(&dirs));
    if running.is_empty() {
        return finish(terminal, Err(anyhow!(no_host("ping", other_runs(&dirs)))));
    }
    word(terminal, "pong", json!({ "result": "pong", "hosts": running }))
}

/// Prints a word, or the data it stands for.
fn word(terminal: &Terminal, word: &str, data: Value) -> ExitCode {
    finish(terminal, terminal.show(&Message { text: word.into(), json: data, name: word.into() }))
}

/// Says that no host of this user runs here, and how the one of the service of the system is found,
/// or one is started.
fn no_host(command: &str, system_runs: bool) -> String {
    let next = match system_runs {
        true => format!(
            "the service {NAME} of the system runs one, which `sudo env XDG_STATE_HOME={STATE} {} {command}` finds",
            env::current_exe().unwrap_or_else(|_| "host".into()).display()
        ),
        false => "start one with `host up` or `host foreground`".to_owned(),
    };
    format!("no host of this user runs on this machine; {next}")
}

/// Prints the process numbers of this user's hosts on this machine, a line each.
fn pid() -> ExitCode {
    let dirs = Dirs::of_process();
    let pids = presence::pids(&presence::presence_dir(&dirs));
    if pids.is_empty() {
        complain(no_host("pid", other_runs(&dirs)));
        return ExitCode::FAILURE;
    }
    print(pids.iter().map(|pid| format!("{pid}\n")).collect::<String>())
}

/// Tells what is unwise about the command line, before anything is done. A shell that completes is
/// not disturbed.
pub fn warn_of(told: &[String]) {
    let terminal = Terminal::new(Form::default());
    told.iter().for_each(|sentence| terminal.note(sentence.as_str()));
}

/// Writes data to standard output. A reader that has seen enough (`| head`) is no error.
fn print(data: impl std::fmt::Display) -> ExitCode {
    // Some of it comes from files of the directory, which may be somebody else's.
    match write!(std::io::stdout().lock(), "{}", escape::block(&data.to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain(format!("write to standard output: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn runs_actor(inventory: &Inventory, id: &str) -> bool {
    inventory.actors.iter().any(|actor| actor.id == id)
}

/// Reads pairs of the command line; the same key twice is a mistake.
fn pairs_of(what: &str, given: Vec<(String, String)>) -> Result<Pairs> {
    let mut pairs = Pairs::new();
    for (key, value) in given {
        if pairs.insert(key.clone(), value).is_some() {
            bail!(Usage(format!("{what} {key} is given twice")));
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_of_the_system_is_named_where_this_user_has_none() {
        for (system_runs, words) in [
            (false, &["no host of this user runs", "`host up`"][..]),
            (
                true,
                &["no host of this user runs", "lattice-host", "XDG_STATE_HOME=/var/lib", " ping`"],
            ),
        ] {
            let told = no_host("ping", system_runs);
            assert!(words.iter().all(|word| told.contains(word)), "{told}");
        }
    }
}

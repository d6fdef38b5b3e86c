//! The `host` binary: arguments, settings, log, host, signals, exit code.

use std::{
    io::{ErrorKind, Write as _},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use lattice_host::{
    cli::{self, Cli, Command, ConfigCommand, Output},
    config::{self, Config, Loaded, ProcessEnvironment, Resolved, SettingArgs, Sources},
    dirs::Dirs,
    host::{self, Host},
    inspect,
    registry::credentials::Registries,
    shutdown, telemetry,
    up::{
        self,
        nats_server::{self, NatsServer},
    },
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

fn main() -> ExitCode {
    let Cli { command, settings } = Cli::parse();
    match command {
        None => run(settings, false),
        Some(Command::Foreground(own)) => run(cli::merged(settings, own.settings), false),
        Some(Command::Up(own)) => run(cli::merged(settings, own.settings), true),
        Some(Command::Ping) => ping(),
        Some(Command::Config { command: ConfigCommand::Show { origin, output, settings: own } }) => {
            show(cli::merged(settings, own), origin, output)
        }
        Some(Command::Inspect { reference, output, settings: own }) => {
            inspect(cli::merged(settings, own), &reference, output)
        }
    }
}

/// Loads the settings; all mistakes go to standard error together.
fn load(sources: &Sources) -> Result<Loaded, ExitCode> {
    Config::load(sources).map_err(|mistakes| {
        eprintln!("{mistakes}");
        ExitCode::from(cli::EXIT_CONFIG)
    })
}

fn run(args: SettingArgs, with_server: bool) -> ExitCode {
    let mut sources = Sources::from_process(args);
    let mut loaded = match load(&sources) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    if with_server {
        sources = up::with_defaults(sources, &loaded.table);
        loaded = match load(&sources) {
            Ok(loaded) => loaded,
            Err(code) => return code,
        };
    }
    let config = loaded.config;
    telemetry::init(&config.log);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "cannot start the runtime");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(live(config, &sources, with_server));
    // A compilation or a read that still runs must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A host's life from its first log line to its last.
async fn live(config: Config, sources: &Sources, with_server: bool) -> anyhow::Result<()> {
    if let Some(domain) = &config.js_domain {
        info!("Using JetStream domain: {domain}");
    }
    for written in config::write(&config, &sources.dir, sources.home.as_deref()) {
        match written {
            Ok(path) => info!("Wrote {path:?}"),
            Err(error) => warn!("{error}"),
        }
    }
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let dirs = Dirs::find(&ProcessEnvironment, sources.home.as_deref());
    let stop = CancellationToken::new();
    let signalled = tokio::spawn({
        let stop = stop.clone();
        async move {
            match shutdown::first_signal(nats_server::kill_started).await {
                Ok(()) => stop.cancel(),
                Err(error) => warn!(%error, "no signal can be heard; stop this host over the control interface"),
            }
        }
    });
    let mut server = None;
    if with_server {
        server = tokio::select! {
            server = up::ensure_server(&config, &dirs) => server?,
            () = stop.cancelled() => return Ok(()),
        };
    }
    let outcome = serve(config, &dirs, &stop, server.as_mut()).await;
    if let Some(server) = server {
        server.stop().await;
    }
    signalled.abort();
    outcome
}

async fn serve(
    config: Config,
    dirs: &Dirs,
    stop: &CancellationToken,
    server: Option<&mut NatsServer>,
) -> anyhow::Result<()> {
    let started = tokio::select! {
        started = Host::start(config, dirs, stop) => started,
        // Told to stop while it waited for a server: that is an end in good order.
        () = stop.cancelled() => return Ok(()),
    };
    let mut host = started?;
    info!("ready");
    let failed = host.failed();
    let server_ended = async {
        match server {
            Some(server) => server.ended().await,
            None => std::future::pending().await,
        }
    };
    let timeout = tokio::select! {
        () = stop.cancelled() => None,
        request = host.stop_requested() => request.timeout,
        () = failed.cancelled() => {
            host.stop(None).await;
            anyhow::bail!("the host failed, see above");
        }
        ended = server_ended => {
            host.stop(None).await;
            anyhow::bail!("the NATS server ended ({}), so the host did too", ended.map_or_else(|e| e.to_string(), |s| s.to_string()));
        }
    };
    host.stop(timeout).await;
    Ok(())
}

fn ping() -> ExitCode {
    let home = std::env::home_dir();
    let running = host::presence::running(&host::presence_dir(&Dirs::find(&ProcessEnvironment, home.as_deref())));
    if running.is_empty() {
        eprintln!("no host runs on this machine; start one with `host up` or `host foreground`");
        return ExitCode::FAILURE;
    }
    println!("pong");
    ExitCode::SUCCESS
}

/// Prints what a reference names. A relative path is one of this directory; whoever asks may read their own files.
fn inspect(args: SettingArgs, reference: &str, output: Output) -> ExitCode {
    let sources = Sources::from_process(args);
    let mut config = match load(&sources) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    config.allow_file_load = true;
    let path = sources.dir.join(reference);
    // Hosts take absolute paths only, and so does what fetches for them.
    let path = std::path::absolute(&path).unwrap_or(path);
    // No image has a name that begins with a dot, so that is a path even if nothing is there.
    let is_path = path.is_file() || reference.starts_with('.');
    let reference = if is_path { path.display().to_string() } else { reference.to_owned() };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let dirs = Dirs::find(&ProcessEnvironment, sources.home.as_deref());
    let registry = host::registry(&config, &dirs, Registries::default());
    match runtime.block_on(inspect::inspect(&registry, &reference)) {
        Ok(inspected) if output == Output::Json => print(format_args!("{:#}\n", inspected.to_json())),
        Ok(inspected) => print(format_args!("{inspected}")),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes data to standard output. A reader that has seen enough (`| head`) is no error.
fn print(data: impl std::fmt::Display) -> ExitCode {
    match write!(std::io::stdout().lock(), "{data}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("write to standard output: {error}");
            ExitCode::FAILURE
        }
    }
}

fn show(args: SettingArgs, origin: bool, output: Output) -> ExitCode {
    let sources = Sources::from_process(args);
    let table = match load(&sources) {
        Ok(loaded) => loaded.table,
        Err(code) => return code,
    };
    print(settings(&table, origin, output))
}

/// The settings as text, a line each, or as JSON.
fn settings(table: &Resolved, origin: bool, output: Output) -> String {
    if output == Output::Json {
        return format!("{:#}\n", table.to_json());
    }
    let rows = table.rows();
    let width =
        |column: fn(&config::Row) -> &str| rows.iter().map(|row| column(row).chars().count()).max().unwrap_or(0);
    let (keys, values) = (width(|row| &row.key), width(|row| &row.value));
    let line = |row: &config::Row| {
        let (key, value) = (&row.key, &row.value);
        match origin {
            true => format!("{key:keys$}  {value:values$}  {}\n", row.origin),
            false => format!("{}\n", format!("{key:keys$}  {value}").trim_end()),
        }
    };
    rows.iter().map(line).collect()
}

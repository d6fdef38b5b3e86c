//! Two machines, one application: the whole walk on one computer, with a hub, two NATS servers, two
//! hosts, and requests that never stop.
//!
//!     cargo build && cargo run --example two-machines               # the walk
//!     cargo run --example two-machines -- --load                    # what 500 requests a second notice of trouble
//!     sudo target/debug/examples/two-machines --netns --load        # the same over a line with latency and loss
//!     cargo run --example two-machines -- --type target/debug/host --type $(which wash)    # as commands, typed twice
//!
//! Hosts and servers are real processes with directories of their own; all of them end with this
//! program. The page is asked for over HTTP, commands go through the client crate of early 2024.

#[allow(dead_code, reason = "shared with another example and the tests, which use the rest")]
#[path = "../hub/setup/mod.rs"]
mod hub_setup;
mod table;
#[allow(dead_code, reason = "shared with the tests, which use the rest")]
mod walk;

use std::{
    collections::BTreeSet,
    net::TcpListener,
    path::PathBuf,
    process::ExitCode,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use lattice_base::{config::ProcessEnvironment, dirs::Dirs};
use lattice_cli::up::nats_server;
use walk::{
    app::App,
    article,
    disturbance::{Disturbance, Pace},
    ground::Ground,
    lattice::{Lattice, Plan, Programs},
    netns::{Network, Weather},
    story,
};

/// Makes a hub and two machines on this computer, runs an application on both, and takes one away.
#[derive(Debug, Parser)]
#[command(name = "two-machines")]
struct Arguments {
    /// Where hub and machines have their directories, with all logs; a temporary place without it
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Measure what a load notices of disturbances, and print a table
    #[arg(long)]
    load: bool,
    /// Requests a second, with --load to each page
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: Option<u32>,
    /// How long each load lasts
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Send every call over NATS, also to an actor beside the web server
    #[arg(long)]
    no_local_calls: bool,
    /// With --load: a third machine has the page and no actor, so that every request crosses the
    /// hub, half of them to the machine that is disturbed
    #[arg(long, requires = "load")]
    third: bool,
    /// Give each machine a network namespace, with latency and loss between them (Linux, root)
    #[arg(long)]
    netns: bool,
    /// Latency of each machine's line
    #[arg(long, value_name = "MS", default_value_t = 40, requires = "netns")]
    delay_ms: u32,
    /// Packets of each machine that get lost, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0, requires = "netns", value_parser = percent)]
    loss: f32,
    /// The actor that runs: dogs-and-cats asks the web for each page; echo, a module, and hello, a
    /// component, ask nobody
    #[arg(long, value_enum, default_value_t = Actor::DogsAndCats)]
    actor: Actor,
    /// Type the walk's commands with this program, `host` or `wash`, and print what each brought
    /// about; with two, also what differs
    #[arg(long = "type", value_name = "PROGRAM", conflicts_with_all = ["load", "netns", "stay"])]
    programs: Vec<PathBuf>,
    /// With --type, also print what the program says
    #[arg(long, requires = "programs")]
    words: bool,
    /// Leave hub, servers and the second host running after the walk, until Ctrl-C
    #[arg(long, conflicts_with = "load")]
    stay: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Actor {
    DogsAndCats,
    Echo,
    Hello,
}

const STORY: story::Pace = story::Pace { rate: 50, requests: 100 };
const LOAD_RATE: u32 = 500;
const FROZEN: Duration = Duration::from_secs(20);

fn percent(text: &str) -> Result<f32, String> {
    let number = text.parse().ok().filter(|number| (0.0..=100.0).contains(number));
    number.ok_or_else(|| "use a number from 0 to 100".to_owned())
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let work = async {
        match arguments.load {
            true => measure(&arguments).await,
            false if !arguments.programs.is_empty() => type_commands(&arguments).await,
            false => tell(&arguments).await,
        }
    };
    // Everything is dropped with the future: processes are killed, namespaces and temporary
    // directories removed.
    let done = tokio::select! {
        done = work => done,
        told = interrupted() => told.context("listen to signals").and_then(|()| bail!("interrupted; all is stopped")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Waits for Ctrl-C or a request to end.
async fn interrupted() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            interrupt = tokio::signal::ctrl_c() => interrupt,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

async fn tell(arguments: &Arguments) -> Result<()> {
    let dir = Directory::of(arguments)?;
    let ground = ground(arguments)?;
    let plan = plan(arguments, dir.path(), programs().await?, &ground).await?;
    let mut step = 0;
    let say = |line: String| {
        if line.starts_with(' ') {
            println!("   {line}");
        } else {
            step += 1;
            println!("{step:2}. {line}");
        }
    };
    let pace = story::Pace { rate: arguments.rate.unwrap_or(STORY.rate), ..STORY };
    let (lattice, outcome) = story::walk(plan, ground, pace, say).await?;
    println!("\nfirst page:  {}\nsecond page: {}", outcome.first_page, outcome.second_page);
    for (reason, count) in outcome.first_page.reasons.iter().chain(&outcome.second_page.reasons) {
        println!("    {count} × {reason}");
    }
    if arguments.stay {
        println!(
            "\nThe second page stays until Ctrl-C: {}   (wash --ctl-port {})",
            lattice.second.page(),
            lattice.second.place.nats_port
        );
        interrupted().await.context("listen to signals")?;
    }
    lattice.stop().await
}

/// Types the commands of the walk with each program, on a lattice of its own, and compares what
/// they brought about.
async fn type_commands(arguments: &Arguments) -> Result<()> {
    // Compiled once for all: `wash` waits five seconds for a start.
    let cache = tempfile::tempdir().context("make a temporary directory")?;
    let mut runs = Vec::new();
    for (number, program) in arguments.programs.iter().enumerate() {
        let dir = Directory::of(arguments)?.below(number + 1);
        let ground = ground(arguments)?;
        let plan = plan(arguments, dir.path(), programs().await?, &ground).await?;
        let plan = Plan { cache: Some(cache.path().to_path_buf()), ..plan };
        let program = std::path::absolute(program).context("find the program to type with")?;
        println!("== {}", program.display());
        let (effects, said) = article::type_all(program, plan, ground).await?;
        for (effect, said) in effects.iter().zip(said) {
            match arguments.words {
                true => println!("{said}"),
                false => println!("   {}", effect.command),
            }
        }
        println!("{} commands, each of which ended with 0", effects.len());
        runs.push(effects);
    }
    let [first, second, ..] = runs.as_slice() else { return Ok(()) };
    let differing: Vec<_> =
        first.iter().zip(second).filter(|(first, second)| first != second).collect();
    for (first, second) in &differing {
        println!("differs after {}:\n  {}\n  {}", first.command, first.lattice, second.lattice);
    }
    if !differing.is_empty() || first.len() != second.len() {
        bail!("the programs do not bring about the same");
    }
    println!("both brought about the same with every command");
    Ok(())
}

/// Measures each disturbance on a lattice of its own.
async fn measure(arguments: &Arguments) -> Result<()> {
    let programs = programs().await?;
    let pace = Pace {
        rate: arguments.rate.unwrap_or(LOAD_RATE),
        time: Duration::from_secs(arguments.seconds),
        frozen: FROZEN,
    };
    let cache = tempfile::tempdir().context("make a temporary directory")?;
    let mut rows = Vec::new();
    for (number, disturbance) in Disturbance::ALL.into_iter().enumerate() {
        eprintln!("{} …", disturbance.words());
        let dir = Directory::of(arguments)?.below(number + 1);
        let ground = ground(arguments)?;
        let plan = plan(arguments, dir.path(), programs.clone(), &ground).await?;
        let plan = Plan { cache: Some(cache.path().to_path_buf()), ..plan };
        let mut lattice = Lattice::ready(plan, ground).await?;
        rows.extend(disturbance.measure(&mut lattice, pace).await?);
        lattice.stop().await?;
    }
    print!("{}", table::markdown(&rows, pace.frozen));
    Ok(())
}

async fn plan(
    arguments: &Arguments,
    dir: PathBuf,
    programs: Programs,
    ground: &Ground,
) -> Result<Plan> {
    let flags =
        if arguments.no_local_calls { vec!["--no-local-calls".to_owned()] } else { Vec::new() };
    let app = match arguments.actor {
        Actor::DogsAndCats => App::dogs_and_cats(ground.web()).await?,
        Actor::Echo => App::echo(),
        Actor::Hello => App::hello(&dir)?,
    };
    Ok(Plan { dir, programs, app, flags, cache: None, third: arguments.third })
}

fn ground(arguments: &Arguments) -> Result<Ground> {
    if !arguments.netns {
        return Ok(Ground::OneComputer { free_port });
    }
    let weather = Weather { delay_ms: arguments.delay_ms, loss_percent: arguments.loss };
    let machines = if arguments.third { 3 } else { 2 };
    Ok(Ground::Namespaces(Network::build(machines, weather)?))
}

/// The host beside this example, and a NATS server, installed if there is none.
async fn programs() -> Result<Programs> {
    let example = std::env::current_exe().context("find this program")?;
    // target/PROFILE/examples/two-machines
    let profile = example
        .parent()
        .and_then(std::path::Path::parent)
        .context("find the directory of this program")?;
    let host = profile.join(format!("host{}", std::env::consts::EXE_SUFFIX));
    if !host.is_file() {
        let release = if profile.ends_with("release") { " --release" } else { "" };
        bail!("{} is not there; build it: cargo build{release} --bin host", host.display());
    }
    let dirs = Dirs::find(&ProcessEnvironment, std::env::home_dir().as_deref());
    let nats_server = nats_server::find_or_install(&ProcessEnvironment, &dirs).await?;
    // Processes run in directories of their own.
    let nats_server = std::path::absolute(nats_server).context("find the NATS server")?;
    Ok(Programs { host, nats_server })
}

/// A directory the user named, which stays, or a temporary one.
enum Directory {
    Named(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Directory {
    fn of(arguments: &Arguments) -> Result<Self> {
        match &arguments.dir {
            // Programs that run there are told absolute paths.
            Some(dir) => Ok(Self::Named(std::path::absolute(dir).context("read --dir")?)),
            None => Ok(Self::Temporary(tempfile::tempdir().context("make a temporary directory")?)),
        }
    }

    /// A part of a directory that stays, so that no run finds what another has left.
    fn below(self, number: usize) -> Self {
        match self {
            Self::Named(dir) => Self::Named(dir.join(number.to_string())),
            temporary => temporary,
        }
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::Named(dir) => dir.clone(),
            Self::Temporary(dir) => dir.path().to_path_buf(),
        }
    }
}

/// The first port from `wished` on that nobody listens on, and that was not given out before: its
/// user may be away for a while and come back to it.
fn free_port(wished: u16) -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut free = (wished..u16::MAX)
        .filter(|port| !given.contains(port) && TcpListener::bind(("127.0.0.1", *port)).is_ok());
    // Without a free port the user of this one says what is wrong.
    let port = free.next().unwrap_or(wished);
    given.insert(port);
    port
}

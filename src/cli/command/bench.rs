//! `host bench`: measures this machine with hosts of its own.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio_util::sync::CancellationToken;

use crate::{
    args::bench::Bench as Args,
    bench::{self, Options, Settings, bare, document, idle::Amounts},
    terminal::Terminal,
    up::nats_server,
};
use lattice_base::shutdown;

/// How long work that nobody waits for any more may hold the process.
const END_TIMEOUT: Duration = Duration::from_millis(500);

/// Runs on threads of its own: the load is to use all cores.
pub fn run(terminal: &Terminal, args: Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(measure(terminal, args));
    runtime.shutdown_timeout(END_TIMEOUT);
    result
}

async fn measure(terminal: &Terminal, args: Args) -> Result<()> {
    if let Some([address, creds]) = args.bare_nats.as_deref() {
        return bare::answer_plain(address, creds.into()).await;
    }
    if let Some(address) = args.bare_http {
        return bare::serve_constant(address).await;
    }
    let stop = CancellationToken::new();
    let signals = tokio::spawn(shutdown::obey_signals(stop.clone(), nats_server::kill_started));
    let options = options(&args)?;
    // Nothing that takes minutes is begun where it cannot be written.
    args.write.as_deref().map_or(Ok(()), document::prepare)?;
    let mut progress = terminal.progress();
    let report = bench::run(&options, &mut progress, &stop).await;
    signals.abort();
    drop(progress);
    let report = report?;
    // Shown first: what took minutes is not lost when it cannot be written.
    terminal.show(&report)?;
    match &args.write {
        Some(dir) => document::write(&report, dir),
        None => Ok(()),
    }
}

fn options(args: &Args) -> Result<Options> {
    let mut concurrency: Vec<usize> = args.concurrency.iter().map(|n| usize::from(*n)).collect();
    concurrency.sort_unstable();
    concurrency.dedup();
    Ok(Options {
        groups: args.wanted(),
        settings: Settings {
            rounds: usize::from(args.rounds),
            seconds: args.seconds,
            rate: args.rate,
        },
        concurrency,
        actor: args.actor.clone(),
        soak: args.soak,
        idle: args.idle.map(|(of_one_module, different)| Amounts { of_one_module, different }),
        program: std::env::current_exe().context("find this program, which the hosts are")?,
    })
}

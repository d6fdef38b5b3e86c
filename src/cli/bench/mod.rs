//! `host bench`: how fast this machine is with a host, and what of that is the host's part.
//!
//! ```text
//! this process: load, a host that calls ──▶ nats-server ──▶ a host that serves (a process of its own)
//!                                    └────▶ its HTTP server, bare hyper, `wasmtime serve`
//! ```
//!
//! * A [`stage`] is a NATS server and two hosts with actors of their own, in a temporary directory;
//!   [`bare`] are the processes that they are measured beside. All of it is gone at the end.
//! * A [`row`] is something that can be called, and what it is compared with: [`parts`] of a call,
//!   the [`guest`], [`calls`] over NATS, [`http`].
//! * [`load`] calls it, as fast as answers come or at a constant rate; the rounds of all rows take
//!   turns, so that all see the same machine.
//! * A [`report`] has the medians, what was found over [time](soak) and [idle], and the
//!   [`machine`]. [`document`] makes a page of it, with [plots](plot).
//!
//! The benches of `tests/bench` use the same stage and the same loads.

pub mod bare;
pub mod calls;
pub mod document;
mod guest;
pub mod guests;
pub mod http;
pub mod idle;
pub mod load;
pub mod machine;
mod parts;
pub mod plot;
pub mod report;
pub mod row;
pub mod soak;
pub mod stage;

use std::{collections::HashSet, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::terminal::Progress;
use guests::Guests;
use load::{Pace, Plan};
use report::{Measured, Report};
use row::{Group, Row};
use stage::Stage;

/// The things to measure, and how.
#[derive(Clone, Debug)]
pub struct Options {
    pub groups: Vec<Group>,
    pub settings: Settings,
    /// Calls in work at a time, ascending; the last one counts where only one is measured.
    pub concurrency: Vec<usize>,
    /// The actor to call instead of the built-in one.
    pub actor: Option<PathBuf>,
    pub soak: Option<Duration>,
    pub idle: Option<idle::Amounts>,
    /// The binary of hosts and bare servers.
    pub program: PathBuf,
}

impl Options {
    /// Calls in work at a time where only one number is measured.
    pub fn callers_max(&self) -> usize {
        self.concurrency.iter().copied().max().unwrap_or(1)
    }
}

/// How each row is measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Settings {
    pub rounds: usize,
    /// Length of a round, in seconds.
    pub seconds: f64,
    /// Calls per second of the rows with a constant rate.
    pub rate: f64,
}

impl Settings {
    fn plan(&self, pace: Pace) -> Plan {
        Plan { pace, duration: Duration::from_secs_f64(self.seconds) }
    }
}

/// Measures, and leaves nothing behind. Ends early when `stop` is cancelled.
pub async fn run(
    options: &Options,
    progress: &mut Progress,
    stop: &CancellationToken,
) -> Result<Report> {
    let guests = Guests::load(options.actor.as_deref())?;
    progress.stage("starting a NATS server and two hosts", "");
    let stage = tokio::select! {
        stage = Stage::start(&options.program, guests) => stage?,
        () = stop.cancelled() => bail!(INTERRUPTED),
    };
    let measured = tokio::select! {
        measured = measure(options, &stage, progress) => measured,
        () = stop.cancelled() => Err(anyhow::anyhow!(INTERRUPTED)),
    };
    progress.stage("stopping what was started", "");
    stage.close().await;
    measured
}

const INTERRUPTED: &str = "stopped before everything was measured; nothing of it runs any more";

async fn measure(options: &Options, stage: &Stage, progress: &mut Progress) -> Result<Report> {
    let mut report = Report::new(options, stage);
    let rows = rows(options, stage, &mut report.notes).await?;
    report.rows = rounds(&options.settings, rows, progress).await?;
    if let Some(duration) = options.soak {
        let callers = options.callers_max();
        report.soak = Some(soak::run(callers, duration, stage, progress).await?);
    }
    if let Some(amounts) = options.idle {
        report.idle = Some(idle::run(amounts, stage, progress).await?);
    }
    Ok(report)
}

/// The rows of the groups that are wanted; rows that cannot be there are told in `notes`.
async fn rows(options: &Options, stage: &Stage, notes: &mut Vec<String>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for group in &options.groups {
        match group {
            Group::Parts => rows.extend(parts::rows()?),
            Group::Guest => rows.extend(guest::rows(options, stage, notes)?),
            Group::Calls => rows.extend(calls::of_clients(options, stage).await?),
            Group::Hosts => rows.extend(calls::of_hosts(options, stage).await?),
            Group::Http => rows.extend(http::rows(options, stage, notes).await?),
            Group::Open => rows.extend(http::at_a_rate(options, stage, notes).await?),
        }
    }
    // Plain NATS is the measure of two groups, and is measured once.
    let mut seen = HashSet::new();
    rows.retain(|row| seen.insert(row.title()));
    Ok(rows)
}

/// Measures rows in rounds that take turns.
pub async fn rounds(
    settings: &Settings,
    mut rows: Vec<Row>,
    progress: &mut Progress,
) -> Result<Vec<Measured>> {
    for row in &rows {
        progress.stage("warming up", row.title());
        let plan = settings.plan(row.pace).short();
        let first =
            row.load.round(&plan).await.with_context(|| format!("measure {}", row.title()))?;
        if first.latency.is_empty() {
            let why = first.first_error.unwrap_or_else(|| "it answers nothing".to_owned());
            bail!("{} cannot be measured: {why}", row.title());
        }
    }
    for round in 0..settings.rounds {
        for row in &mut rows {
            let stage = format!("round {} of {}", round + 1, settings.rounds);
            progress.stage(&stage, row.title());
            let done = row.load.round(&settings.plan(row.pace)).await;
            row.rounds.push(done.with_context(|| format!("measure {}", row.title()))?);
        }
    }
    Ok(report::measured(rows))
}

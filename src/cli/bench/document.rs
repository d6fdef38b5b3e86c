//! The page that a report becomes: `BENCHMARKS.md`, with plots beside it. All of it is written
//! here, so that another run replaces all of it.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::{
    idle::Idle,
    plot,
    report::{Measured, Report, StartsMs, rate_text, ratio_text, time_text, title},
    row::Group,
    soak::megabytes,
};

const PAGE: &str = "BENCHMARKS.md";
/// The directory of the plots, beside the page.
const PLOTS: &str = "benchmarks";

/// Makes the directories of the page and its plots, and makes sure that files can be written there.
pub fn prepare(dir: &Path) -> Result<()> {
    let plots_dir = dir.join(PLOTS);
    fs::create_dir_all(&plots_dir).with_context(|| format!("create {}", plots_dir.display()))?;
    for dir in [dir, &plots_dir] {
        tempfile::tempfile_in(dir).with_context(|| format!("write into {}", dir.display()))?;
    }
    Ok(())
}

/// Writes the page and its plots into a directory that was [prepared](prepare).
pub fn write(report: &Report, dir: &Path) -> Result<()> {
    let plots_dir = dir.join(PLOTS);
    let plots = plot::all(report)?;
    for (name, svg) in &plots {
        let file = plots_dir.join(name);
        fs::write(&file, svg).with_context(|| format!("write {}", file.display()))?;
    }
    let page = dir.join(PAGE);
    let names: Vec<&str> = plots.iter().map(|(name, _)| *name).collect();
    fs::write(&page, text(report, &names)).with_context(|| format!("write {}", page.display()))
}

/// The page; `plots` are those that there are.
fn text(report: &Report, plots: &[&str]) -> String {
    let mut page = head(report);
    for group in Group::ALL {
        let rows: Vec<&Measured> = report.of(group).collect();
        if rows.is_empty() {
            continue;
        }
        page.push_str(&format!("\n## {}\n\n{}\n\n", title(group), explanation(group)));
        page.push_str(&table(&rows));
        let plot = match group {
            Group::Hosts => Some(("rates.svg", "Calls per second by callers")),
            Group::Open => Some(("latency.svg", "Time by percentile")),
            _ => None,
        };
        page.push_str(&plot.map(|plot| image(plot, plots)).unwrap_or_default());
    }
    if let Some(soak) = &report.soak {
        page.push_str(&format!("\n## Over time\n\n{SOAK}\n\n{}\n", soak.sentence()));
        page.push_str(&image(("soak.svg", "Memory and times over time"), plots));
    }
    if let Some(idle) = &report.idle {
        page.push_str(&format!("\n## Memory of actors that nobody calls\n\n{IDLE}\n\n"));
        page.push_str(&idle_table(idle));
    }
    if !report.notes.is_empty() {
        page.push_str("\n## What is missing\n\n");
        report.notes.iter().for_each(|note| page.push_str(&format!("- {note}\n")));
    }
    page
}

fn head(report: &Report) -> String {
    let StartsMs { host, actor, actor_again } = report.starts_ms;
    format!(
        "# Benchmarks\n\n\
         Written by `host bench --write`, with all numbers of one run; do not edit it, run it again. Absolute numbers are the \
         machine's. The ratios are the host's: the bare thing is measured in the same run, its rounds in turn with all others.\n\n\
         Machine: {}.\n\n{}. The load, the NATS server and all hosts share the machine.\n\n\
         A host starts in {host:.0} ms (from the start of its process to its first answer), an actor in {actor:.0} ms, and one \
         whose code runs already in {actor_again:.0} ms.\n",
        report.machine.line(),
        report.method()
    )
}

/// Returns what the rows of a group are.
fn explanation(group: Group) -> &'static str {
    match group {
        Group::Parts => {
            "What a call needs besides its guest and the network, measured by one caller that waits for nothing. The token proves \
             who sent a call and what is in it; its verification is the signature, its text, and a hash of the payload. Times are \
             means of 16."
        }
        Group::Guest => {
            "The same call of the same module. wasmtime alone has the pool of a host and memories with room, and bounds nothing; \
             with limits the guest has its memory, its time and its turn bounded, as an actor has; the router adds claims, permits, \
             counts and the way in and out. A fresh instance serves one call and is thrown away; an instance that is reused serves \
             1 000."
        }
        Group::Calls => {
            "A client that is no host signs each call; the host verifies it, runs the actor and answers. Plain request and reply \
             carries the same bytes to a process that sends them back."
        }
        Group::Hosts => {
            "One host calls an actor of another over NATS, as actors and providers do that are not on the same machine. Its ratio \
             is to plain request and reply above."
        }
        Group::Http => {
            "Requests over keep-alive connections. Bare hyper answers a constant, which no server built on it can pass. \
             `wasmtime serve` runs the component that the host runs; the actor reads each request and writes it out as JSON."
        }
        Group::Open => {
            "Calls are due at this rate whatever becomes of those before, and are timed from when they were due: a pause of a \
             server delays all calls of that time, and is seen. The rate is that of the calls that were answered."
        }
    }
}

const SOAK: &str = "Calls from host to host, a fresh instance for each, without a pause. Flat is: from the first windows (after the \
    first quarter) to the last ones, memory of the serving host grows by less than 4 MiB and the p99 by less than a quarter, \
    and no call fails.";

const IDLE: &str = "Actors that were started once and are never called. Those of one module are signed each for itself and share \
    their code; the others have code of their own.";

/// A table with the numbers at the right.
fn table(rows: &[&Measured]) -> String {
    let mut text = String::from(
        "| what | pace | per second | ratio | p50 | p90 | p99 | p99.9 | max | errors |\n\
         |---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for row in rows {
        let times = &row.latency_us;
        let times = [times.p50, times.p90, times.p99, times.p999, times.max].map(time_text);
        text.push_str(&format!(
            "| {} | {} | {} | {} | {} | {} |\n",
            row.name,
            row.pace(),
            rate_text(row.rate),
            ratio_text(row.ratio),
            times.join(" | "),
            row.errors
        ));
    }
    text
}

fn idle_table(idle: &Idle) -> String {
    let mut text = String::from("| actors | memory | each more |\n|---|--:|--:|\n");
    for (name, steps) in idle.kinds() {
        for (at, step) in steps.iter().enumerate() {
            let each = Idle::per_actor(&steps[..=at]);
            text.push_str(&format!(
                "| {} {name} | {} | {} |\n",
                step.actors,
                megabytes(step.resident_bytes),
                each.map(|bytes| format!("{:.1} kB", bytes / 1e3)).unwrap_or_default()
            ));
        }
    }
    text
}

fn image((name, alt): (&str, &str), plots: &[&str]) -> String {
    match plots.contains(&name) {
        true => format!("\n![{alt}]({PLOTS}/{name})\n"),
        false => String::new(),
    }
}

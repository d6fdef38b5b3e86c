//! `host bench` as users run it: every row is measured, and nothing of it is left.

use std::{
    path::Path,
    process::{Output, Stdio},
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{
    eventually,
    process::{Running, command, output, stderr},
};

/// Temporary files of the run lie in a directory of this test.
fn bench(dir: &Path, arguments: &[&str]) -> std::process::Command {
    let mut command = command(dir);
    let temporary = dir.join("tmp");
    std::fs::create_dir_all(&temporary).expect("a directory");
    command.env("TMPDIR", temporary).arg("bench").args(arguments);
    command
}

/// Runs whose command line or working directory has this path.
fn processes_of(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("a list").filter_map(Result::ok);
    let found = entries.filter_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let place = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let is_of_run = line.contains(&*dir.to_string_lossy()) || place.starts_with(dir);
        is_of_run.then_some(line)
    });
    found.collect()
}

fn files_in(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("tmp")).expect("a directory").count()
}

fn json(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn every_row_is_measured_and_no_process_and_no_file_is_left() {
    let dir = TempDir::new().expect("a directory");
    let page = dir.path().join("page");
    let arguments = ["all", "--rounds", "1", "--seconds", "0.2", "--concurrency", "1,4"];
    let more = ["--rate", "50", "--soak", "1s", "--idle", "4,4", "-o", "json", "--write"];
    let mut run = bench(dir.path(), &[&arguments[..], &more].concat());
    let report = json(&output(run.arg(&page)));
    let rows = report["rows"].as_array().expect("rows");
    for (name, pace, is_compared) in [
        ("signature verify", 1, true),
        ("token verify", 1, true),
        ("message decode", 1, true),
        ("with limits, fresh instance", 1, true),
        ("with limits, instances reused", 4, true),
        ("router, fresh instance", 4, true),
        ("plain NATS request and reply", 4, false),
        ("client to host, fresh instance", 1, true),
        ("client to host, instances reused", 4, true),
        ("host to host, fresh instance", 4, true),
        ("host to host, instances reused", 1, true),
        ("bare hyper, a constant", 4, false),
        ("HTTP to the actor, fresh instance", 4, true),
        ("HTTP to a component, instances reused", 4, true),
    ] {
        let row = rows.iter().find(|row| row["name"] == name && row["concurrency"] == pace);
        let row = row.unwrap_or_else(|| panic!("{name} is missing in {report:#}"));
        assert!(row["rate"].as_f64() > Some(0.0) && row["errors"] == 0, "{row:#}");
        assert_eq!(row["ratio"].as_f64().is_some(), is_compared, "{row:#}");
        assert!(row["latency_us"]["p999"].as_f64() >= row["latency_us"]["p50"].as_f64());
    }
    let open = rows.iter().filter(|row| row["group"] == "open" && row["due_per_second"] == 50.0);
    assert_eq!(open.count(), 5);
    assert!(report["machine"]["cores"].as_u64() > Some(0));
    assert_eq!(report["soak"]["errors"], 0, "{report:#}");
    let different = report["idle"]["different"].as_array().expect("steps");
    assert_eq!(different.last().expect("a step")["actors"], 4);

    let text = std::fs::read_to_string(page.join("BENCHMARKS.md")).expect("a page");
    for plot in ["rates.svg", "latency.svg", "soak.svg"] {
        assert!(text.contains(&format!("](benchmarks/{plot})")), "{plot}");
        let svg = std::fs::read_to_string(page.join("benchmarks").join(plot)).expect("a plot");
        assert!(svg.starts_with("<svg") && svg.contains("</svg>"));
    }
    assert!(text.contains("| host to host, fresh instance | 4 at a time |"), "{text}");
    assert_eq!((files_in(dir.path()), processes_of(dir.path())), (0, Vec::new()));
}

#[tokio::test]
async fn a_run_that_is_ended_or_killed_leaves_no_process() {
    for signal in [Signal::TERM, Signal::KILL] {
        let dir = TempDir::new().expect("a directory");
        let mut run = bench(dir.path(), &["http", "--seconds", "60"]);
        let mut child = Running::start(run.stdout(Stdio::null()).stderr(Stdio::null()));
        let temporary = dir.path().join("tmp");
        eventually("a server and a host run", async || {
            (processes_of(&temporary).len() >= 2).then_some(())
        })
        .await;
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).expect("it is there");
        let status = child.wait().expect("it ends");
        assert!(!status.success());
        eventually("nothing of it runs", async || {
            processes_of(dir.path()).is_empty().then_some(())
        })
        .await;
        if signal == Signal::TERM {
            assert_eq!((status.code(), files_in(dir.path())), (Some(1), 0));
        }
    }
}

#[test]
fn what_cannot_be_called_is_told() {
    let dir = TempDir::new().expect("a directory");
    let absent = output(&mut bench(dir.path(), &["--actor", "nosuch.wasm"]));
    assert_eq!(absent.status.code(), Some(1));
    assert!(stderr(&absent).contains("nosuch.wasm"), "{}", stderr(&absent));
    let text = dir.path().join("text.wasm");
    std::fs::write(&text, "no module").expect("written");
    let other = output(bench(dir.path(), &["--actor"]).arg(&text));
    assert!(stderr(&other).contains("no WebAssembly file"), "{}", stderr(&other));
}

//! Runs every attack of the catalogue against the host, and prints what became of it.
//!
//!     cargo run --example attacks                # all of them
//!     cargo run --example attacks -- C5 G22      # some, by id
//!
//! Each row names the tests that prove it; they run as `cargo test` runs them, with real servers.
//! The exit code is 0 when every attack is refused and every case of the field works, except those
//! that the protocol of 2022 to 2024 allows: SECURITY.md has a sentence about each of these.

mod catalogue;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use catalogue::{Row, Test, Verdict};
use clap::Parser;

/// Runs the attacks of the catalogue and prints what became of each.
#[derive(Debug, Parser)]
#[command(name = "attacks")]
struct Arguments {
    /// Ids of rows, such as C5; all without any
    ids: Vec<String>,
}

/// The outcome of each test by its name.
type Outcomes = BTreeMap<Test, bool>;

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut rows = catalogue::read(&root.join("tests/attacks"))?;
    if !arguments.ids.is_empty() {
        for id in &arguments.ids {
            ensure!(rows.iter().any(|row| row.id == *id), "the catalogue has no row {id}");
        }
        rows.retain(|row| arguments.ids.contains(&row.id));
    }
    let tests: BTreeSet<&Test> = rows.iter().flat_map(|row| &row.tests).collect();
    let mut outcomes = run(root, &["--lib"], &tests, unit)?;
    outcomes.extend(run(root, &["--test", "it"], &tests, integration)?);
    let mut failed = 0;
    println!("{:6} {:28} {:72} became", "id", "by", "attack");
    for row in &rows {
        let (word, holds) = became(row, &outcomes);
        failed += usize::from(!holds);
        println!("{:6} {:28} {:72} {word}", row.id, row.by, row.attack);
    }
    println!("\n{} rows, {} tests, {failed} not as promised", rows.len(), tests.len());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The name of a unit test within its crate.
fn unit(test: &Test) -> Option<&str> {
    match test {
        Test::Unit(name) => Some(name.split_once("::")?.1),
        Test::Integration(_) => None,
    }
}

fn integration(test: &Test) -> Option<&str> {
    match test {
        Test::Integration(name) => Some(name),
        Test::Unit(_) => None,
    }
}

/// Runs those tests that `name` has a name for, and returns how each ended. A test that does not
/// exist is missing in the result.
fn run(
    root: &Path,
    target: &[&str],
    tests: &BTreeSet<&Test>,
    name: fn(&Test) -> Option<&str>,
) -> Result<Outcomes> {
    let wanted: BTreeMap<&str, &Test> =
        tests.iter().filter_map(|test| Some((name(test)?, *test))).collect();
    if wanted.is_empty() {
        return Ok(Outcomes::new());
    }
    eprintln!("{} tests of {}", wanted.len(), target.join(" "));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_this_package(name)) {
        command.env_remove(name);
    }
    let output = command
        .current_dir(root)
        // Of the whole workspace: for one crate the dependencies would be built again.
        .args(["test", "--locked", "--no-fail-fast", "--workspace"])
        .args(target)
        .args(["--", "--exact"])
        .args(wanted.keys())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("run cargo test")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let outcomes: Outcomes = text
        .lines()
        .filter_map(outcome)
        .filter_map(|(name, passed)| Some(((*wanted.get(name)?).clone(), passed)))
        .collect();
    // The reasons stand below the list of outcomes.
    if let Some(failures) = text.split_once("\nfailures:\n") {
        eprintln!("{}", failures.1);
    }
    Ok(outcomes)
}

/// Whether cargo told this program the variable about its package. Build scripts of dependencies
/// look at some of these, and would run again.
fn is_of_this_package(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_PRIMARY_", "CARGO_BIN_", "CARGO_CRATE_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Reads `test NAME ... ok`.
fn outcome(line: &str) -> Option<(&str, bool)> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    Some((name, outcome == "ok"))
}

/// The word for a row's outcome, and whether it is the promised one.
fn became(row: &Row, outcomes: &Outcomes) -> (String, bool) {
    if let Some(test) = row.tests.iter().find(|test| !outcomes.contains_key(test)) {
        return (format!("NOT RUN: {test:?}"), false);
    }
    let holds = row.tests.iter().all(|test| outcomes.get(test) == Some(&true));
    match &row.verdict {
        _ if !holds => ("GOT THROUGH".to_owned(), false),
        Verdict::Refused => ("refused".to_owned(), true),
        Verdict::Works => ("works".to_owned(), true),
        Verdict::Inherent(heading) => (format!("inherent: SECURITY.md, {heading}"), true),
    }
}
